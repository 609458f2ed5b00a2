// added.h: added tokens: texts that become one id wherever they occur, before anything is split or
// normalized (or, if `normalized`, in what the normalizer makes of the text).
#ifndef TOKENIZERS_ADDED_H
#define TOKENIZERS_ADDED_H

#include "tokenizers/unicode.h"
#include "util/array.h"

typedef struct {
    char *text; // as it occurs in text, UTF-8; if `normalized`, as the normalizer leaves it
    size_t length;
    int32_t id;
    bool special;                 // omitted when decoding
    bool normalized;              // looked for only after all those that are not
    bool left_strip, right_strip; // absorbs adjacent white space
    bool single_word;             // matches only where no word character is adjacent
} AddedToken;

// Text is searched in two passes: pass 0 for tokens with normalized = false, pass 1 for the others.
typedef struct {
    AddedToken *items; // (count), in the order of the file
    size_t count, capacity;

    // Set by added_tokens_index:
    const AddedToken **order; // (count), by pass, first byte, then longest first
    uint32_t first[2][257]; // where a pass and a first byte begin in order; [256]: end of the pass
    bool strips;            // some token absorbs white space
} AddedTokens;

static inline void added_tokens_free(AddedTokens *a) {
    for (size_t i = 0; i < a->count; i++) {
        free(a->items[i].text);
    }
    free(a->items);
    free(a->order);
    *a = (AddedTokens){0};
}

// `token.text` is copied.
static inline bool added_tokens_add(AddedTokens *a, AddedToken token, Error *e) {
    const char *text = token.text;
    token.text = malloc(token.length);
    if (!token.text) {
        return fail(e, "tokenizer: out of memory for an added token of %zu bytes", token.length);
    }
    memcpy(token.text, text, token.length);
    if (!array_append(&a->items, &a->capacity, &a->count, &token, sizeof token, e)) {
        free(token.text);
        return false;
    }
    return true;
}

// For qsort: by pass, first byte, then longest first.
static inline int added_compare_(const void *first, const void *second) {
    const AddedToken *a = *(const AddedToken *const *)first;
    const AddedToken *b = *(const AddedToken *const *)second;
    if (a->normalized != b->normalized) {
        return a->normalized - b->normalized;
    }
    if (a->text[0] != b->text[0]) {
        return (unsigned char)a->text[0] - (unsigned char)b->text[0];
    }
    return a->length != b->length ? order_u64(b->length, a->length)
                                  : memcmp(a->text, b->text, a->length);
}

// Call when all tokens are added.
static inline bool added_tokens_index(AddedTokens *a, Error *e) {
    size_t next = 0;
    a->order = malloc((a->count + 1) * sizeof *a->order);
    if (!a->order) {
        return fail(e, "tokenizer: out of memory for %zu added tokens", a->count);
    }
    for (size_t i = 0; i < a->count; i++) {
        a->order[i] = &a->items[i];
        a->strips |= a->items[i].left_strip || a->items[i].right_strip;
    }
    qsort(a->order, a->count, sizeof *a->order, added_compare_);

    for (int pass = 0; pass < 2; pass++) {
        for (int byte = 0; byte < 256; byte++) {
            a->first[pass][byte] = (uint32_t)next;
            while (next < a->count && a->order[next]->normalized == pass &&
                   (unsigned char)a->order[next]->text[0] == byte) {
                next++;
            }
        }
        a->first[pass][256] = (uint32_t)next;
    }
    return true;
}

static inline bool added_tokens_in_pass(const AddedTokens *a, int pass) {
    return a->first[pass][0] < a->first[pass][256];
}

// The longest token of this pass that starts at text[0] (length > 0), NULL if there is none.
static inline const AddedToken *added_tokens_match(const AddedTokens *a, int pass, const char *text,
                                                   size_t length) {
    const uint32_t *range = &a->first[pass][(unsigned char)*text];
    for (uint32_t k = range[0]; k < range[1]; k++) {
        const AddedToken *token = a->order[k];
        if (token->length <= length && !memcmp(token->text, text, token->length)) {
            return token;
        }
    }
    return NULL;
}

// False if the token found at text[start] is single_word and a word character is adjacent.
static inline bool added_token_stands(const AddedToken *a, const uint8_t *classes, const char *text,
                                      size_t length, size_t start) {
    size_t stop = start + a->length;
    if (!a->single_word) {
        return true;
    }
    return (start == 0 ||
            !is_word_at(classes, text + character_before(text, start), text + start)) &&
           (stop == length || !is_word_at(classes, text + stop, text + length));
}

// True if a token of this pass, complete or cut off by the end of the text, lies across position
// `cut` or touches it.
static inline bool added_tokens_touch(const AddedTokens *a, int pass, const char *text,
                                      size_t length, size_t cut) {
    for (size_t k = 0; k < a->count; k++) {
        const AddedToken *token = &a->items[k];
        size_t start = cut >= token->length ? cut - token->length : 0;
        for (; token->normalized == pass && start <= cut && start < length; start++) {
            size_t n = length - start < token->length ? length - start : token->length;
            if (text[start] == token->text[0] && !memcmp(text + start, token->text, n)) {
                return true;
            }
        }
    }
    return false;
}

#endif
