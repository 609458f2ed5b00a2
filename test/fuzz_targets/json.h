// json.h: json: what is read is written and read back, and is the same
#ifndef TEST_FUZZ_TARGETS_JSON_H
#define TEST_FUZZ_TARGETS_JSON_H

#include "test/fuzz_targets/promises.h"

static bool same_text(const char *a, size_t a_length, const char *b, size_t b_length) {
    return a_length == b_length && (a_length == 0 || !memcmp(a, b, a_length));
}

static bool same_json(const Json *a, const Json *b) {
    double x, y;
    uint64_t m, n;
    if (a->kind == JSON_NUMBER && !json_double(a, &x)) {
        return b->kind == JSON_NULL; // too large for a double: written as null
    }
    if (a->kind == JSON_NUMBER) {
        return json_uint(a, &m) ? json_uint(b, &n) && m == n
                                : json_double(b, &y) && x == y && signbit(x) == signbit(y);
    }
    if (a->kind != b->kind) {
        return false;
    }
    if (a->kind == JSON_BOOL) {
        return a->boolean == b->boolean;
    }
    if (a->kind == JSON_STRING) {
        return same_text(a->text, a->length, b->text, b->length);
    }
    if (a->kind == JSON_NULL) {
        return true;
    }
    const Json *p = a->child, *q = b->child;
    size_t members = 0;
    for (; p && q && same_json(p, q); p = p->next, q = q->next, members++) {
        if (!p->key != !q->key ||
            (p->key && !same_text(p->key, p->key_length, q->key, q->key_length))) {
            return false;
        }
    }
    return !p && !q && members == a->length && members == b->length;
}

// False if a key holds a NUL, which the writer's keys cannot.
static bool put_json(JsonWriter *w, const char *key, const Json *node) {
    uint64_t number;
    double real = NAN;
    bool ok = true;
    if (node->kind == JSON_OBJECT || node->kind == JSON_ARRAY) {
        json_open(w, key, node->kind == JSON_OBJECT ? '{' : '[');
        for (const Json *m = node->child; m && ok; m = m->next) {
            ok = (!m->key || strlen(m->key) == m->key_length) && put_json(w, m->key, m);
        }
        json_close(w, node->kind == JSON_OBJECT ? '}' : ']');
    } else if (node->kind == JSON_STRING) {
        json_put_text(w, key, node->text, node->length);
    } else if (json_uint(node, &number)) {
        json_put_uint(w, key, number);
    } else if (node->kind == JSON_NUMBER) {
        json_double(node, &real);
        json_put_double(w, key, real);
    } else if (node->kind == JSON_BOOL) {
        json_put_bool(w, key, node->boolean);
    } else {
        json_put_null(w, key);
    }
    return ok;
}

// By the definition: each character is what its code point is written as, in the only way.
static bool is_utf8(const char *text, size_t length) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t *s = (const uint8_t *)text;
    for (size_t i = 0, n; i < length; i += n) {
        n = s[i] < 0x80   ? 1
            : s[i] < 0xC0 ? 0
            : s[i] < 0xE0 ? 2
            : s[i] < 0xF0 ? 3
            : s[i] < 0xF8 ? 4
                          : 0;
        uint32_t c = n == 1 ? s[i] : s[i] & (0x7Fu >> n);
        if (n == 0 || n > length - i) {
            return false;
        }
        for (size_t k = 1; k < n; k++) {
            if (s[i + k] >> 6 != 2) {
                return false;
            }
            c = c << 6 | (s[i + k] & 0x3F);
        }
        if (c < least[n] || c > 0x10FFFF || c >> 11 == 0x1B) { // the last: surrogates
            return false;
        }
    }
    return true;
}

static void check_json(const Json *node) {
    if (node->key) {
        promise(is_utf8(node->key, node->key_length) && node->key[node->key_length] == 0,
                "a key is no UTF-8");
    }
    if (node->kind == JSON_STRING) {
        promise(is_utf8(node->text, node->length) && node->text[node->length] == 0,
                "a string is no UTF-8");
    }
    for (const Json *m = node->kind >= JSON_ARRAY ? node->child : NULL; m; m = m->next) {
        promise((node->kind == JSON_OBJECT) == (m->key != NULL), "keys belong in objects");
        check_json(m);
    }
}

static bool run_json(InputPart *parts) {
    JsonDocument document, again;
    Error e = {0};
    if (!answer(json_parse(&document, (char *)parts[0].data, parts[0].size, "name", &e), &e)) {
        return false;
    }
    check_json(document.root);
    for (int indent = 0; indent <= 2; indent += 2) {
        JsonWriter w = {.indent = indent};
        if (put_json(&w, NULL, document.root)) {
            promise(json_parse(&again, w.data, w.length, "what was written", &e), "%s", e.text);
            promise(same_json(document.root, again.root), "JSON read back differs: %s", w.data);
            json_free(&again);
        }
        free(w.data);
    }
    json_free(&document);
    return true;
}

#endif
