// tokens.h: a growing buffer of ids, chunks of a text, and a cache from short texts to their ids.
#ifndef TOKENIZERS_TOKENS_H
#define TOKENIZERS_TOKENS_H

#include "util/array.h"
#include "util/hash.h"

typedef struct {
    int32_t *ids;
    size_t count, capacity; // zero-initialize; the caller frees ids
    size_t start;           // where the ids of the text that is being encoded begin
} TokenBuffer;

// A text may be encoded in chunks (tokenizer_safe_cut): whether a chunk is the complete text, or
// lacks its beginning, or its end, or both (or'ed); within it, whether an added token comes before.
enum { TEXT_COMPLETE = 0, TEXT_NOT_FIRST = 1, TEXT_NOT_LAST = 2, TEXT_AFTER_TOKEN = 4 };

// Makes room for `more` ids.
static inline bool token_buffer_reserve(TokenBuffer *b, size_t more, Error *e) {
    return array_reserve(&b->ids, &b->capacity, b->count, more, sizeof *b->ids, e);
}

static inline bool token_buffer_append(TokenBuffer *b, int32_t id, Error *e) {
    if (!token_buffer_reserve(b, 1, e)) {
        return false;
    }
    b->ids[b->count++] = id;
    return true;
}

// ------------------------------------------------------------------------------------------------
// Cache

// The ids of a short text, in one cache line.
enum { CACHE_KEY = 23, CACHE_IDS_ = 9, CACHE_BITS_ = 15 };

typedef struct {
    uint64_t key[3]; // its bytes, then zeros, its length in the last byte; all zeros: empty
    int32_t count;
    int32_t ids[CACHE_IDS_];
} CacheEntry;

// A cache of texts met recently; the caller frees it. NULL if there is no memory. A text has one
// place and displaces what is there.
static inline CacheEntry *token_cache_create(void) {
    return calloc((size_t)1 << CACHE_BITS_, sizeof(CacheEntry));
}

// The place of a text of at most CACHE_KEY bytes, and its key; `readable` >= n bytes may be read at
// `text`. It may hold another text (token_cache_hit).
static inline CacheEntry *token_cache_entry(CacheEntry *cache, const char *text, size_t n,
                                            size_t readable, uint64_t key[3]) {
    static const unsigned char masks[48] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
                                            0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
                                            0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    if (readable >= 24) {
        uint64_t mask[3]; // n bytes of ones
        memcpy(key, text, 24);
        memcpy(mask, masks + 24 - n, 24);
        for (int i = 0; i < 3; i++) {
            key[i] &= mask[i];
        }
    } else {
        memset(key, 0, 24);
        memcpy(key, text, n);
    }
    unsigned char length[8] = {[7] = (unsigned char)n};
    uint64_t last;
    memcpy(&last, length, sizeof last);
    key[2] |= last;
    uint64_t hash = hash_mix(key[0] + key[1] * 0x9E3779B97F4A7C15u + key[2] * 0xC2B2AE3D27D4EB4Fu);
    return &cache[hash >> 8 & (((size_t)1 << CACHE_BITS_) - 1)];
}

static inline bool token_cache_hit(const CacheEntry *entry, const uint64_t key[3]) {
    return entry->key[0] == key[0] && entry->key[1] == key[1] && entry->key[2] == key[2];
}

// Leaves the entry as it is if the ids are too many.
static inline void token_cache_store(CacheEntry *entry, const uint64_t key[3], const int32_t *ids,
                                     size_t count) {
    if (count <= CACHE_IDS_) {
        memcpy(entry->key, key, sizeof entry->key);
        memcpy(entry->ids, ids, count * sizeof *ids);
        entry->count = (int32_t)count;
    }
}

#endif
