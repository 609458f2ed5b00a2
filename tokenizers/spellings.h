// spellings.h: tokens by a text that stands for them.
#ifndef TOKENIZERS_SPELLINGS_H
#define TOKENIZERS_SPELLINGS_H

#include "util/array.h"
#include "util/hash.h"

// Ids have 21 bits, so that a pair of ids and the priority of its merge fill one word of the pair
// table (bpe.h).
enum { TOKENIZER_MAX_VOCAB = (1 << 21) - 1 };

// Bytes that something else owns, such as a file that is being loaded.
typedef struct {
    const char *text;
    size_t length;
} FileText;

static inline FileText file_text(const char *text) {
    return (FileText){text, strlen(text)};
}

typedef struct {
    FileText *tokens; // by id; text is NULL where none is known yet
    HashTable table;
} Spellings;

static inline void spellings_free(Spellings *s) {
    free(s->tokens);
    free(s->table.slots);
    *s = (Spellings){0};
}

// Makes room for tokens with ids below count + more.
static inline bool spellings_reserve(Spellings *s, size_t count, size_t more, const FileErrors *f) {
    if (count > TOKENIZER_MAX_VOCAB || more > TOKENIZER_MAX_VOCAB - count) {
        return reject(f, "%zu tokens: at most %d are supported", count + more, TOKENIZER_MAX_VOCAB);
    }
    s->tokens = calloc(count + more + 1, sizeof *s->tokens);
    return s->tokens || reject(f, "out of memory for %zu tokens", count + more);
}

// A text in two halves.
typedef struct {
    FileText a, b;
} SpellingKey_;

static inline bool spelling_same_(const void *spellings, uint32_t id, const void *key) {
    const FileText *token = &((const Spellings *)spellings)->tokens[id];
    const SpellingKey_ *k = key;
    return token->length == k->a.length + k->b.length &&
           !memcmp(token->text, k->a.text, k->a.length) &&
           (!k->b.length || !memcmp(token->text + k->a.length, k->b.text, k->b.length));
}

static inline uint64_t spelling_hash_(const void *spellings, uint32_t id) {
    const FileText *token = &((const Spellings *)spellings)->tokens[id];
    return hash_mix(hash_bytes(HASH_START, token->text, token->length));
}

// Id of the token that is spelled as `a` followed by `b`, -1 if there is none.
static inline int32_t spellings_find_joined(const Spellings *s, FileText a, FileText b) {
    if (s->table.count == 0) {
        return -1;
    }
    uint64_t hash = hash_bytes(hash_bytes(HASH_START, a.text, a.length), b.text, b.length);
    SpellingKey_ key = {a, b};
    return (int32_t)*hash_table_slot(&s->table, hash_mix(hash), spelling_same_, s, &key) - 1;
}

// Id of the token with this spelling, -1 if there is none.
static inline int32_t spellings_find(const Spellings *s, FileText text) {
    return spellings_find_joined(s, text, (FileText){"", 0});
}

// Adds the spelling of a token; of equal ones the last counts. The text must outlive *s.
static inline bool spellings_add(Spellings *s, FileText text, size_t id, Error *e) {
    if (!hash_table_reserve(&s->table, spelling_hash_, s, e)) {
        return false;
    }
    s->tokens[id] = text;
    SpellingKey_ key = {text, {"", 0}};
    uint32_t *slot =
        hash_table_slot(&s->table, spelling_hash_(s, (uint32_t)id), spelling_same_, s, &key);
    s->table.count += *slot == 0;
    *slot = (uint32_t)id + 1;
    return true;
}

#endif
