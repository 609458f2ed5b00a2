// bpe.h: byte-level BPE (Sennrich et al. 2016, over bytes as in Radford et al. 2019). Inside a
// pre-token, neighbouring symbols are merged, the pair that comes first in the list of merges
// first.
#ifndef TOKENIZERS_BPE_H
#define TOKENIZERS_BPE_H

#include "tokenizers/tokens.h"
#include "tokenizers/vocabulary.h"
#include "util/heap.h"

// Priorities have 22 bits, so that a pair of ids and its priority fill one word of the pair table.
enum { TOKENIZER_MAX_MERGES = (1 << 22) - 1, NO_MERGE_ = TOKENIZER_MAX_MERGES };

typedef struct {
    int32_t left, right, result;
} Merge;

typedef struct {
    Merge *items; // (count), index = priority: the smallest is applied first
    size_t count, capacity;
    bool ignore_merges; // a pre-token that is in the vocabulary becomes that token at once
    // Set by merges_index. Open addressing: left id (21 bits), right id (21), priority (22); all
    // ones if empty.
    uint64_t *pairs;
    size_t pair_mask;
} MergeTable;

static inline void merges_free(MergeTable *m) {
    free(m->items);
    free(m->pairs);
    *m = (MergeTable){0};
}

// Adds the merge with the next priority.
static inline bool merges_add(MergeTable *m, Merge merge, Error *e) {
    return array_append(&m->items, &m->capacity, &m->count, &merge, sizeof merge, e);
}

// The entry of a pair of tokens, or the empty one where it would go.
static inline uint64_t *pair_entry_(const MergeTable *m, uint64_t pair) {
    size_t i = (size_t)hash_mix(pair) & m->pair_mask;
    while (m->pairs[i] >> 22 != pair && m->pairs[i] != UINT64_MAX) {
        i = (i + 1) & m->pair_mask;
    }
    return &m->pairs[i];
}

// Priority of the merge of two tokens; NO_MERGE_, the greatest, if there is none.
static inline uint32_t merge_priority_(const MergeTable *m, int32_t left, int32_t right) {
    return (uint32_t)*pair_entry_(m, (uint64_t)left << 21 | (uint64_t)right) & NO_MERGE_;
}

// Builds the pair table.
static inline bool merges_index(MergeTable *m, Error *e) {
    size_t size = 16;
    while (size < 2 * m->count) {
        size *= 2;
    }
    m->pairs = malloc(size * sizeof *m->pairs);
    if (!m->pairs) {
        return fail(e, "tokenizer: out of memory for %zu merges", m->count);
    }
    memset(m->pairs, 0xFF, size * sizeof *m->pairs);
    m->pair_mask = size - 1;

    for (size_t priority = 0; priority < m->count; priority++) {
        const Merge *merge = &m->items[priority];
        uint64_t pair = (uint64_t)merge->left << 21 | (uint64_t)merge->right;
        *pair_entry_(m, pair) = pair << 22 | priority; // of a repeated pair the last one counts
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Encoding a pre-token

typedef struct {
    int32_t id;
    uint32_t priority; // of the merge with the next symbol; NO_MERGE_ if none or if merged away
    uint32_t previous, next;
} BpeSymbol_;

// Scratch memory of one thread; zero-initialize.
typedef struct {
    BpeSymbol_ *symbols;
    size_t capacity;
    Heap heap; // of (priority, position)
} BpeScratch;

static inline void bpe_scratch_free(BpeScratch *s) {
    free(s->symbols);
    free(s->heap.entries);
}

enum { SHORT_PRETOKEN_ = 64 };

// Merges a short pre-token: each step looks at all priorities, which beats a heap for a few dozen
// symbols. The ids go to out; returns how many.
static inline size_t merge_short_(const int32_t byte_id[256], const MergeTable *m, const char *text,
                                  size_t n, int32_t *out) {
    uint32_t priorities[SHORT_PRETOKEN_]; // of the merge with the next
    for (size_t i = 0; i < n; i++) {
        out[i] = byte_id[(unsigned char)text[i]];
    }
    for (size_t i = 0; i + 1 < n; i++) {
        priorities[i] = merge_priority_(m, out[i], out[i + 1]);
    }

    for (;;) {
        uint32_t first = NO_MERGE_;
        size_t best = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            if (priorities[i] < first) {
                first = priorities[i], best = i;
            }
        }
        if (first == NO_MERGE_) {
            return n;
        }

        out[best] = m->items[first].result;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            out[i] = out[i + 1];
            priorities[i - 1] = priorities[i];
        }
        if (best > 0) {
            priorities[best - 1] = merge_priority_(m, out[best - 1], out[best]);
        }
        if (best + 1 < n) {
            priorities[best] = merge_priority_(m, out[best], out[best + 1]);
        }
    }
}

// Looks up the priority of symbol i with its right neighbour and, if they merge, puts it on the
// heap.
static inline bool queue_pair_(BpeScratch *s, const MergeTable *m, uint32_t i, size_t n, Error *e) {
    BpeSymbol_ *symbol = &s->symbols[i];
    symbol->priority = NO_MERGE_;
    if (symbol->next < n) {
        symbol->priority = merge_priority_(m, symbol->id, s->symbols[symbol->next].id);
    }
    return symbol->priority == NO_MERGE_ ||
           heap_push(&s->heap, (HeapEntry){symbol->priority, i, i}, e);
}

// Makes room for as many symbols as text of n bytes may start as.
static inline bool bpe_reserve_symbols(BpeScratch *s, size_t n, Error *e) {
    if (n >= UINT32_MAX) {
        return fail(e, "tokenizer: %zu bytes without a place to cut: at most 4 GiB are supported",
                    n);
    }
    return array_reserve(&s->symbols, &s->capacity, 0, n, sizeof *s->symbols, e);
}

static inline void bpe_set_symbol(BpeScratch *s, uint32_t i, int32_t id) {
    s->symbols[i] = (BpeSymbol_){id, NO_MERGE_, i - 1, i + 1};
}

// Merges n symbols in O(n log n): an entry of the heap counts only while the symbol at its position
// still has that priority. Appends their ids to *out, which has room for them.
static inline bool bpe_merge_symbols(const MergeTable *m, BpeScratch *s, size_t n, TokenBuffer *out,
                                     Error *e) {
    BpeSymbol_ *symbols = s->symbols;
    s->heap.count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!queue_pair_(s, m, i, n, e)) {
            return false;
        }
    }

    while (s->heap.count) {
        HeapEntry top = heap_pop(&s->heap);
        BpeSymbol_ *left = &symbols[top.item];
        if (left->priority != top.major) {
            continue;
        }
        BpeSymbol_ *right = &symbols[left->next];
        left->id = m->items[left->priority].result;
        left->next = right->next;
        right->priority = NO_MERGE_;
        if (left->next < n) {
            symbols[left->next].previous = top.item;
        }
        if (!queue_pair_(s, m, top.item, n, e) ||
            (top.item && !queue_pair_(s, m, left->previous, n, e))) {
            return false;
        }
    }

    for (size_t i = 0; i < n; i = symbols[i].next) {
        out->ids[out->count++] = symbols[i].id;
    }
    return true;
}

// Merges a pre-token of any length.
static inline bool merge_long_(const int32_t byte_id[256], const MergeTable *m, BpeScratch *s,
                               const char *text, size_t n, TokenBuffer *out, Error *e) {
    if (!bpe_reserve_symbols(s, n, e)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        bpe_set_symbol(s, i, byte_id[(unsigned char)text[i]]);
    }
    return bpe_merge_symbols(m, s, n, out, e);
}

// Appends the ids of one pre-token of n > 0 bytes; `readable` >= n bytes may be read at `text`.
static inline bool bpe_encode(const Vocabulary *v, const MergeTable *m, BpeScratch *s,
                              CacheEntry *cache, const char *text, size_t n, size_t readable,
                              TokenBuffer *out, Error *e) {
    if (!token_buffer_reserve(out, n, e)) {
        return false;
    }
    int32_t *ids = out->ids + out->count;
    if (n == 1) {
        *ids = v->byte_id[(unsigned char)*text];
        out->count++;
        return true;
    }

    uint64_t key[3];
    CacheEntry *entry = n <= CACHE_KEY ? token_cache_entry(cache, text, n, readable, key) : NULL;
    if (entry && token_cache_hit(entry, key)) {
        memcpy(ids, entry->ids, (size_t)entry->count * sizeof *ids);
        out->count += (size_t)entry->count;
        return true;
    }

    size_t count = 1;
    int32_t complete = m->ignore_merges ? vocabulary_find(v, text, n) : -1;
    if (complete >= 0) {
        *ids = complete;
    } else if (n > SHORT_PRETOKEN_) {
        return merge_long_(v->byte_id, m, s, text, n, out, e);
    } else {
        count = merge_short_(v->byte_id, m, text, n, ids);
    }
    out->count += count;
    if (entry) {
        token_cache_store(entry, key, ids, count);
    }
    return true;
}

#endif
