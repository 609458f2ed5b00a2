// hash.h: hash functions, and a hash table from keys of any kind to the indices of an array.
#ifndef UTIL_HASH_H
#define UTIL_HASH_H

#include "util/error.h"

// Initial value of hash_bytes.
static const uint64_t HASH_START = 0xCBF29CE484222325u;

// FNV-1a of `length` bytes. `hash` is HASH_START, or the hash of the text before these bytes.
static inline uint64_t hash_bytes(uint64_t hash, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    }
    return hash;
}

// Mixes the bits of a hash, so that its low bits depend on all of them.
static inline uint64_t hash_mix(uint64_t hash) {
    hash = (hash ^ hash >> 32) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

// A hash table of the indices of an array that the caller owns, with open addressing and linear
// probing. An item is found by its hash and a comparison function that the caller supplies.
// Zero-initialize; the caller frees slots.
typedef struct {
    uint32_t *slots; // (capacity): index + 1 of an item, 0: free
    size_t capacity; // a power of two
    size_t count;
} HashTable;

// The slot that holds the item for which same(context, item, key) is true, or the free slot where
// it would go. The table must not be full (hash_table_reserve).
static inline uint32_t *hash_table_slot(const HashTable *t, uint64_t hash,
                                        bool (*same)(const void *context, uint32_t item,
                                                     const void *key),
                                        const void *context, const void *key) {
    size_t mask = t->capacity - 1, i = (size_t)hash & mask;
    while (t->slots[i] && !same(context, t->slots[i] - 1, key)) {
        i = (i + 1) & mask;
    }
    return &t->slots[i];
}

// Makes room for one more item, so that at most half of the slots are taken. hash_of(context, item)
// is the hash of an item in the table. After inserting an item, the caller increments count.
static inline bool hash_table_reserve(HashTable *t,
                                      uint64_t (*hash_of)(const void *context, uint32_t item),
                                      const void *context, Error *e) {
    if (2 * (t->count + 1) <= t->capacity) {
        return true;
    }

    HashTable larger = {.capacity = t->capacity ? 2 * t->capacity : 64, .count = t->count};
    larger.slots = calloc(larger.capacity, sizeof *larger.slots);
    if (!larger.slots) {
        return fail(e, "no memory for a table of %zu entries", larger.capacity);
    }

    // Rehash.
    for (size_t i = 0; i < t->capacity; i++) {
        if (t->slots[i]) {
            size_t at = (size_t)hash_of(context, t->slots[i] - 1) & (larger.capacity - 1);
            while (larger.slots[at]) {
                at = (at + 1) & (larger.capacity - 1);
            }
            larger.slots[at] = t->slots[i];
        }
    }
    free(t->slots);
    *t = larger;
    return true;
}

// Removes all items. A large table is freed, so that many small ones can follow at little cost.
static inline void hash_table_clear(HashTable *t) {
    enum { LARGE = 1 << 12 };
    if (t->capacity > LARGE) {
        free(t->slots);
        *t = (HashTable){0};
    } else if (t->count) {
        memset(t->slots, 0, t->capacity * sizeof *t->slots);
        t->count = 0;
    }
}

#endif
