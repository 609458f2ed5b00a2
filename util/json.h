// json.h: a small strict JSON reader and writer.
//
// Reader: RFC 8259 without extensions. Input is untrusted: UTF-8 and nesting depth are checked, and
// errors name the byte. The nodes of a document are allocated in one arena, which json_free
// releases.
//
// Writer: appends to a growing buffer; the caller writes it to a file.
#ifndef UTIL_JSON_H
#define UTIL_JSON_H

#include <math.h>

#include "util/error.h"
#include "util/files.h"
#include "util/text.h"
#include "util/utf8.h"

// ------------------------------------------------------------------------------------------------
// Reader

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

typedef struct Json {
    JsonKind kind;
    bool boolean;
    const char *text;   // string: decoded, NUL-terminated, may contain NULs; number: as written
    size_t length;      // of text in bytes; of an array or object: the number of members
    const char *key;    // of a member of an object, decoded; else NULL
    size_t key_length;  // in bytes
    struct Json *child; // first member of an array or object
    struct Json *next;  // next member of the same array or object
} Json;

// Memory of the nodes and texts.
typedef struct JsonBlock {
    struct JsonBlock *previous;
    size_t used, size;
    _Alignas(16) char bytes[];
} JsonBlock;

// A parsed document; json_free releases it.
typedef struct {
    Json *root;
    JsonBlock *arena;
    size_t replaced; // lone surrogate escapes that were replaced by U+FFFD
} JsonDocument;

enum { JSON_MAX_DEPTH = 128 };

typedef struct {
    const char *name, *start, *at, *end;
    JsonDocument *document;
    Error *error;
} JsonParser_;

// Frees a document and all its nodes.
static inline void json_free(JsonDocument *document) {
    for (JsonBlock *block = document->arena; block;) {
        JsonBlock *previous = block->previous;
        free(block);
        block = previous;
    }
    *document = (JsonDocument){0};
}

static inline bool json_error_(JsonParser_ *p, const char *what) {
    return fail(p->error, "%s: not valid JSON at byte %zu: %s", p->name, (size_t)(p->at - p->start),
                what);
}

static inline void *json_allocate_(JsonParser_ *p, size_t bytes) {
    JsonBlock *block = p->document->arena;
    bytes = (bytes + 15) & ~(size_t)15;
    if (!block || block->size - block->used < bytes) {
        size_t size = bytes > 65536 ? bytes : 65536;
        block = malloc(sizeof *block + size);
        if (!block) {
            json_error_(p, "no memory");
            return NULL;
        }
        *block = (JsonBlock){.previous = p->document->arena, .size = size};
        p->document->arena = block;
    }
    void *result = block->bytes + block->used;
    block->used += bytes;
    return result;
}

static inline void json_skip_space_(JsonParser_ *p) {
    while (p->at < p->end &&
           (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')) {
        p->at++;
    }
}

// Whether `c` comes next, after white space; if so, it is taken.
static inline bool json_accept_(JsonParser_ *p, char c) {
    json_skip_space_(p);
    bool found = p->at < p->end && *p->at == c;
    p->at += found;
    return found;
}

static inline bool json_hex4_(JsonParser_ *p, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        char c = p->at < p->end ? *p->at : 0;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            return json_error_(p, "\\u needs four hexadecimal digits");
        }
        *value = *value << 4 | (uint32_t)digit;
    }
    return true;
}

// After "\u": one code point, from one escape or from a surrogate pair.
static inline bool json_unicode_escape_(JsonParser_ *p, uint32_t *code_point) {
    uint32_t high, low;
    if (!json_hex4_(p, &high)) {
        return false;
    }
    *code_point = high;
    if (high < 0xD800 || high >= 0xE000) {
        return true;
    }
    if (high < 0xDC00 && p->end - p->at >= 6 && p->at[0] == '\\' && p->at[1] == 'u') {
        const char *second = p->at;
        p->at += 2;
        if (!json_hex4_(p, &low)) {
            return false;
        }
        if (low >= 0xDC00 && low < 0xE000) {
            *code_point = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            return true;
        }
        p->at = second;
    }
    *code_point = 0xFFFD;
    p->document->replaced++;
    return true;
}

// At the opening quote. Decodes into the arena: a decoded string is never longer than its source.
static inline bool json_parse_string_(JsonParser_ *p, const char **text, size_t *length) {
    const char *close = ++p->at;
    while (close < p->end && *close != '"') {
        close += *close == '\\' ? 2 : 1;
    }
    if (close >= p->end) {
        return json_error_(p, "the string that starts here does not end");
    }
    char *out = json_allocate_(p, (size_t)(close - p->at) + 1);
    if (!out) {
        return false;
    }
    *text = out;
    while (p->at < close) {
        size_t n;
        if ((unsigned char)*p->at < 0x20) {
            return json_error_(p, "a control character in a string must be escaped");
        } else if (*p->at != '\\') {
            n = utf8_decode(p->at, (size_t)(close - p->at), NULL);
            if (n == 0) {
                return json_error_(p, "not valid UTF-8");
            }
            memcpy(out, p->at, n);
            out += n, p->at += n;
        } else if (p->at[1] == 'u') {
            uint32_t code_point;
            p->at += 2;
            if (!json_unicode_escape_(p, &code_point)) {
                return false;
            }
            out += utf8_encode(code_point, out);
        } else {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            const char *found = p->at[1] ? strchr(from, p->at[1]) : NULL;
            if (!found) {
                return json_error_(p, "unknown escape in a string");
            }
            *out++ = to[found - from];
            p->at += 2;
        }
    }
    *out = 0;
    *length = (size_t)(out - *text);
    p->at = close + 1;
    return true;
}

// Skips digits; whether there was one.
static inline bool json_digits_(const JsonParser_ *p, const char **s) {
    const char *start = *s;
    while (*s < p->end && **s >= '0' && **s <= '9') {
        ++*s;
    }
    return *s > start;
}

static inline bool json_parse_number_(JsonParser_ *p, Json *node) {
    const char *start = p->at, *s = start + (*start == '-'), *integer = s;

    // Integer, fraction, exponent.
    bool ok = json_digits_(p, &s) && (*integer != '0' || s == integer + 1);
    if (ok && s < p->end && *s == '.') {
        s++;
        ok = json_digits_(p, &s);
    }
    if (ok && s < p->end && (*s == 'e' || *s == 'E')) {
        s++;
        s += s < p->end && (*s == '+' || *s == '-');
        ok = json_digits_(p, &s);
    }
    if (!ok) {
        return json_error_(p, "malformed number");
    }

    const size_t length = (size_t)(s - start);
    char *text = json_allocate_(p, length + 1);
    if (!text) {
        return false;
    }
    memcpy(text, start, length);
    text[length] = 0;
    *node = (Json){.kind = JSON_NUMBER, .text = text, .length = length};
    p->at = s;
    return true;
}

static inline bool json_parse_value_(JsonParser_ *p, Json *node, int depth);

// At the opening bracket of an array or object.
static inline bool json_parse_members_(JsonParser_ *p, Json *node, int depth) {
    bool object = *p->at == '{';
    char close = object ? '}' : ']';
    Json **link = &node->child;
    *node = (Json){.kind = object ? JSON_OBJECT : JSON_ARRAY};
    if (depth == JSON_MAX_DEPTH) {
        return json_error_(p, "nested more than 128 deep");
    }

    p->at++;
    if (json_accept_(p, close)) {
        return true;
    }
    do {
        const char *key = NULL;
        size_t key_length = 0;
        if (object) {
            json_skip_space_(p);
            if (p->at == p->end || *p->at != '"') {
                return json_error_(p, "expected a key in quotes");
            }
            if (!json_parse_string_(p, &key, &key_length)) {
                return false;
            }
            if (!json_accept_(p, ':')) {
                return json_error_(p, "expected ':' after the key");
            }
        }

        Json *member = json_allocate_(p, sizeof *member);
        if (!member || !json_parse_value_(p, member, depth + 1)) {
            return false;
        }
        member->key = key;
        member->key_length = key_length;
        *link = member;
        link = &member->next;
        node->length++;
    } while (json_accept_(p, ','));
    return json_accept_(p, close) ||
           json_error_(p, object ? "expected ',' or '}'" : "expected ',' or ']'");
}

static inline bool json_parse_value_(JsonParser_ *p, Json *node, int depth) {
    static const struct {
        const char *word;
        Json node;
    } words[] = {{"null", {.kind = JSON_NULL}},
                 {"true", {.kind = JSON_BOOL, .boolean = true}},
                 {"false", {.kind = JSON_BOOL}}};
    json_skip_space_(p);
    size_t left = (size_t)(p->end - p->at);
    if (left == 0) {
        return json_error_(p, "ends where a value should be");
    }
    if (*p->at == '{' || *p->at == '[') {
        return json_parse_members_(p, node, depth);
    }
    if (*p->at == '"') {
        *node = (Json){.kind = JSON_STRING};
        return json_parse_string_(p, &node->text, &node->length);
    }
    if (*p->at == '-' || (*p->at >= '0' && *p->at <= '9')) {
        return json_parse_number_(p, node);
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i].word);
        if (left >= n && !memcmp(p->at, words[i].word, n)) {
            *node = words[i].node;
            p->at += n;
            return true;
        }
    }
    return json_error_(p, "expected a value");
}

// Parses one JSON text of `length` bytes; anything but white space after it is an error. `name` is
// the file's path, for error messages. On failure there is nothing to free. The text may be freed
// after parsing.
static inline bool json_parse(JsonDocument *document, const char *text, size_t length,
                              const char *name, Error *e) {
    *document = (JsonDocument){0};
    JsonParser_ p = {name, text, text, text + length, document, e};
    Json *root = json_allocate_(&p, sizeof *root);
    bool ok = root && json_parse_value_(&p, root, 0);
    if (ok) {
        json_skip_space_(&p);
        ok = p.at == p.end || json_error_(&p, "more text after the end of the value");
    }
    if (!ok) {
        json_free(document);
        return false;
    }
    document->root = root;
    return true;
}

// Reads and parses a file of at most `limit` bytes.
static inline bool json_parse_file(JsonDocument *document, const char *path, size_t limit,
                                   Error *e) {
    size_t length;
    char *text = read_file(path, limit, &length, e);
    bool ok = text && json_parse(document, text, length, path, e);
    free(text);
    return ok;
}

// The member of an object with this key, the last one if it occurs several times (as in Python);
// NULL if `object` is NULL, not an object, or has no such key.
static inline const Json *json_get(const Json *object, const char *key) {
    const Json *found = NULL;
    size_t length = strlen(key);
    if (object && object->kind == JSON_OBJECT) {
        for (const Json *m = object->child; m; m = m->next) {
            if (m->key_length == length && !memcmp(m->key, key, length)) {
                found = m;
            }
        }
    }
    return found;
}

// The value of a string node without NUL bytes, else NULL. The node may be NULL.
static inline const char *json_string(const Json *node) {
    bool plain = node && node->kind == JSON_STRING && strlen(node->text) == node->length;
    return plain ? node->text : NULL;
}

// Whether the node is a non-negative integer, without fraction or exponent, that fits; *value is
// exact, and unchanged if it is none.
static inline bool json_uint(const Json *node, uint64_t *value) {
    if (!node || node->kind != JSON_NUMBER || strspn(node->text, "0123456789") != node->length) {
        return false;
    }
    errno = 0;
    unsigned long long number = strtoull(node->text, NULL, 10);
    if (errno) {
        return false;
    }
    *value = number;
    return true;
}

// Whether the node is a finite number; *value is rounded to nearest.
static inline bool json_double(const Json *node, double *value) {
    if (!node || node->kind != JSON_NUMBER) {
        return false;
    }
    *value = strtod(node->text, NULL);
    return isfinite(*value);
}

// The value of the node if it is a finite number, else `otherwise`.
static inline double json_double_or(const Json *node, double otherwise) {
    double value;
    return json_double(node, &value) ? value : otherwise;
}

// The value of the node if json_uint accepts it, else `otherwise`.
static inline uint64_t json_uint_or(const Json *node, uint64_t otherwise) {
    uint64_t value;
    return json_uint(node, &value) ? value : otherwise;
}

// ------------------------------------------------------------------------------------------------
// Writer. `key` is NULL for members of arrays and for the top value.

typedef struct {
    int indent; // spaces per level; 0 puts everything on one line, as JSON Lines needs
    int depth;
    bool has_member; // the open container has a member
    union {
        TextBuffer text; // the text so far; the caller frees its data
        struct {         // its members
            char *data;  // NUL-terminated once anything was written
            size_t length, capacity;
            bool failed; // out of memory: what followed is lost
        };
    };
} JsonWriter;

// Appends bytes as they are.
static inline void json_append(JsonWriter *w, const char *text, size_t length) {
    text_put(&w->text, text, length);
}

static inline void json_append_text(JsonWriter *w, const char *text) {
    json_append(w, text, strlen(text));
}

static inline void json_new_line_(JsonWriter *w) {
    if (w->indent) {
        json_append_text(w, "\n");
        for (int i = 0; i < w->indent * w->depth; i++) {
            json_append(w, " ", 1);
        }
    }
}

// Appends a string, with `"`, `\` and control characters escaped.
static inline void json_append_quoted(JsonWriter *w, const char *text, size_t length) {
    size_t start = 0; // of what is not appended yet
    json_append_text(w, "\"");
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\') {
            char escape[8];
            snprintf(escape, sizeof escape, c >= 0x20 ? "\\%c" : c == '\n' ? "\\n" : "\\u%04x", c);
            json_append(w, text + start, i - start);
            json_append_text(w, escape);
            start = i + 1;
        }
    }
    json_append(w, text + start, length - start);
    json_append_text(w, "\"");
}

// Appends comma, line feed, indentation and key before a member.
static inline void json_begin_member_(JsonWriter *w, const char *key) {
    if (w->has_member) {
        json_append_text(w, w->indent ? "," : ", ");
    }
    if (w->depth) {
        json_new_line_(w);
    }
    if (key) {
        json_append_quoted(w, key, strlen(key));
        json_append_text(w, ": ");
    }
    w->has_member = true;
}

// Begins an object ('{') or array ('['), which json_close with the matching bracket ends.
static inline void json_open(JsonWriter *w, const char *key, char bracket) {
    json_begin_member_(w, key);
    json_append(w, &bracket, 1);
    w->depth++;
    w->has_member = false;
}

// Ends an object ('}') or array (']').
static inline void json_close(JsonWriter *w, char bracket) {
    w->depth--;
    if (w->has_member) {
        json_new_line_(w);
    }
    json_append(w, &bracket, 1);
    w->has_member = true;
}

// Appends a string of `length` bytes of valid UTF-8.
static inline void json_put_text(JsonWriter *w, const char *key, const char *text, size_t length) {
    json_begin_member_(w, key);
    json_append_quoted(w, text, length);
}

// Appends a value that is already JSON, such as a number as it was read or the text of another
// writer.
static inline void json_put_raw(JsonWriter *w, const char *key, const char *json, size_t length) {
    json_begin_member_(w, key);
    json_append(w, json, length);
}

// Appends a string, NUL-terminated.
static inline void json_put_string(JsonWriter *w, const char *key, const char *text) {
    json_put_text(w, key, text, strlen(text));
}

// Appends an integer.
static inline void json_put_uint(JsonWriter *w, const char *key, uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    json_put_raw(w, key, text, strlen(text));
}

// Appends true or false.
static inline void json_put_bool(JsonWriter *w, const char *key, bool value) {
    json_put_raw(w, key, value ? "true" : "false", value ? 4 : 5);
}

// Appends null.
static inline void json_put_null(JsonWriter *w, const char *key) {
    json_put_raw(w, key, "null", 4);
}

// Appends the shortest decimal number that reads back as the same double, always with a point or an
// exponent, since some readers distinguish 0.0 from 0. NaN and infinity, which JSON lacks, become
// null.
static inline void json_put_double(JsonWriter *w, const char *key, double value) {
    char text[40];
    if (!isfinite(value)) {
        json_put_null(w, key);
        return;
    }

    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    json_put_raw(w, key, text, strlen(text));
    if (!strpbrk(text, ".e")) {
        json_append_text(w, ".0");
    }
}

// Appends an array of strings.
static inline void json_put_strings(JsonWriter *w, const char *key, const char *const *texts,
                                    size_t count) {
    json_open(w, key, '[');
    for (size_t i = 0; i < count; i++) {
        json_put_string(w, NULL, texts[i]);
    }
    json_close(w, ']');
}

// Frees what was written, once it is saved: replaces the file at `path`, which is on disk when this
// returns true.
static inline bool json_save(JsonWriter *w, const char *path, Error *e) {
    bool ok = (!w->failed || fail(e, "%s: no memory to write it", path)) &&
              replace_file(path, w->data, w->length, e);
    free(w->data);
    *w = (JsonWriter){0};
    return ok;
}

#endif
