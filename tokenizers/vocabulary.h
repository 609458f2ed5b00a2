// vocabulary.h: the tokens of a tokenizer by id and by text.
#ifndef TOKENIZERS_VOCABULARY_H
#define TOKENIZERS_VOCABULARY_H

#include "tokenizers/spellings.h"

static const char SPACE_SYMBOL[] = "\xE2\x96\x81"; // U+2581, a space in pieces

// Kinds of pieces of a SentencePiece model, as its files number them.
enum { PIECE_NORMAL = 1, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER, PIECE_UNUSED, PIECE_BYTE };

typedef struct {
    size_t offset, length; // in Vocabulary.bytes
    // The text that the decoder sees, where it differs (added tokens that are normalized).
    size_t decoded, decoded_length;
    bool added, special;
    // Byte-level BPE: the text as the file has it, with a character outside the byte alphabet.
    bool verbatim;
    bool matches; // text can become this token; set by tokenizer_index
    uint8_t kind; // PIECE_NORMAL and so on
    int16_t byte; // that a piece written <0xNN> stands for, -1 for others
} Token;

typedef struct {
    Token *tokens; // (count), ids are 0 .. count - 1
    size_t count, capacity;
    // Ids from here on are added tokens outside the model's vocabulary. tokenizer_index takes 0 for
    // `count`.
    size_t model_count;
    char *bytes; // of all tokens
    size_t byte_count, byte_capacity;
    int32_t byte_id[256]; // token of a single byte, -1 if there is none; set by tokenizer_index
    Spellings by_text;    // tokens of the model that text can become
    size_t longest;       // of them, in bytes
} Vocabulary;

static inline void vocabulary_free(Vocabulary *v) {
    free(v->tokens);
    free(v->bytes);
    spellings_free(&v->by_text);
    *v = (Vocabulary){0};
}

// Appends bytes to those of all tokens. *offset is where they went.
static inline bool vocabulary_add_bytes_(Vocabulary *v, const char *bytes, size_t length,
                                         size_t *offset, Error *e) {
    if (!array_reserve(&v->bytes, &v->byte_capacity, v->byte_count, length, 1, e)) {
        return false;
    }
    memcpy(v->bytes + v->byte_count, bytes, length);
    *offset = v->byte_count;
    v->byte_count += length;
    return true;
}

// Adds a token with the next id: its bytes, or with `verbatim` a text that has a character outside
// the byte alphabet.
static inline bool vocabulary_add(Vocabulary *v, const char *bytes, size_t length, bool verbatim,
                                  Error *e) {
    size_t offset;
    if (!array_reserve(&v->tokens, &v->capacity, v->count, 1, sizeof *v->tokens, e) ||
        !vocabulary_add_bytes_(v, bytes, length, &offset, e)) {
        return false;
    }
    v->tokens[v->count++] = (Token){.offset = offset,
                                    .length = length,
                                    .decoded = offset,
                                    .decoded_length = length,
                                    .verbatim = verbatim,
                                    .kind = PIECE_NORMAL,
                                    .byte = -1};
    return true;
}

// Gives a token another text for the decoder.
static inline bool vocabulary_set_decoded(Vocabulary *v, size_t id, const char *bytes,
                                          size_t length, Error *e) {
    v->tokens[id].decoded_length = length;
    return vocabulary_add_bytes_(v, bytes, length, &v->tokens[id].decoded, e);
}

// Bytes of a token as text has them or, for pieces, as the vocabulary spells it; no NUL at the
// end. An id outside the vocabulary has none.
static inline const char *vocabulary_text(const Vocabulary *v, int32_t id, size_t *length) {
    if (id < 0 || (size_t)id >= v->count) {
        *length = 0;
        return "";
    }
    *length = v->tokens[id].length;
    return v->bytes + v->tokens[id].offset;
}

// Id of the token that text of this spelling becomes, -1 if there is none.
static inline int32_t vocabulary_find(const Vocabulary *v, const char *text, size_t length) {
    return length > v->longest ? -1 : spellings_find(&v->by_text, (FileText){text, length});
}

// Makes vocabulary_find work, for all tokens of the model that match text. Call when the tokens are
// complete.
static inline bool vocabulary_index_texts(Vocabulary *v, Error *e) {
    if (!spellings_reserve(&v->by_text, v->model_count, 0, &(FileErrors){"tokenizer", e})) {
        return false;
    }
    for (size_t id = 0; id < v->model_count; id++) {
        const Token *token = &v->tokens[id];
        if (!token->matches) {
            continue;
        }
        if (!spellings_add(&v->by_text, (FileText){v->bytes + token->offset, token->length}, id,
                           e)) {
            return false;
        }
        v->longest = token->length > v->longest ? token->length : v->longest;
    }
    return true;
}

// The byte that a piece written <0xNN> stands for, -1 if it is not written so.
static inline int16_t piece_byte(const char *text, size_t length, bool lower_case_too) {
    static const char digits[] = "0123456789ABCDEFabcdef";
    int value = 0;
    if (length != 6 || memcmp(text, "<0x", 3) || text[5] != '>') {
        return -1;
    }
    for (int i = 3; i < 5; i++) {
        const char *found = memchr(digits, text[i], lower_case_too ? 22 : 16);
        if (!found) {
            return -1;
        }
        value = 16 * value + (int)(found - digits) - (found - digits < 16 ? 0 : 6);
    }
    return (int16_t)value;
}

#endif
