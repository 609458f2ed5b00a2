// token_texts.h: the text that each token of a vocabulary stands for in the data.
#ifndef SHARDS_TOKEN_TEXTS_H
#define SHARDS_TOKEN_TEXTS_H

#include "tokenizer.h"

// The text that each token stands for in the data. One that ends it, as the end-of-document token
// does, has none.
typedef struct {
    char *bytes;
    size_t *starts; // (vocab_size + 1) where a token's text begins in `bytes`
    size_t vocab_size, longest;
} TokenTexts;

static inline void token_texts_free(TokenTexts *t) {
    free(t->bytes);
    free(t->starts);
    *t = (TokenTexts){0};
}

// Writes the text of a token to `out`, which has room for what tokenizer_text gives. A piece is
// spelled with U+2581 for a space, and as <0xNN> for a byte. What a tokenizer normalizes is found
// as it left it.
static inline size_t token_text_of_(const Tokenizer *t, int32_t id, char *out) {
    size_t length, written = 0;
    const char *text = tokenizer_text(t, id, &length);
    if (id == t->end_of_document) {
        return 0;
    }
    if (t->model == MODEL_BYTE_BPE || t->vocabulary.tokens[id].added ||
        (size_t)id >= t->vocabulary.model_count) {
        memcpy(out, text, length);
        return length;
    }
    int16_t byte = piece_byte(text, length, true);
    if (byte >= 0 && t->vocabulary.byte_id[byte] == id) {
        *out = (char)byte;
        return 1;
    }
    for (size_t i = 0; i < length;) {
        bool space = length - i >= 3 && !memcmp(text + i, SPACE_SYMBOL, 3);
        out[written++] = space ? ' ' : text[i];
        i += space ? 3 : 1;
    }
    return written;
}

static inline bool token_texts_init(TokenTexts *t, const Tokenizer *tokenizer, Error *e) {
    size_t capacity = 0, count = 0;
    *t = (TokenTexts){.vocab_size = tokenizer->vocabulary.count};
    t->starts = calloc(t->vocab_size + 1, sizeof *t->starts);
    if (!t->starts) {
        return fail(e, "no memory for the text of %zu tokens", t->vocab_size);
    }
    for (size_t id = 0; id < t->vocab_size; id++) {
        size_t length = 0;
        tokenizer_text(tokenizer, (int32_t)id, &length);
        if (!array_reserve(&t->bytes, &capacity, count, length + 1, 1, e)) {
            token_texts_free(t);
            return false;
        }
        length = token_text_of_(tokenizer, (int32_t)id, t->bytes + count);
        count += length;
        t->starts[id + 1] = count;
        t->longest = length > t->longest ? length : t->longest;
    }
    return true;
}

static inline const char *token_text(const TokenTexts *t, uint64_t id, size_t *length) {
    if (id >= t->vocab_size) {
        *length = 0;
        return "";
    }
    *length = t->starts[id + 1] - t->starts[id];
    return t->bytes + t->starts[id];
}

#endif
