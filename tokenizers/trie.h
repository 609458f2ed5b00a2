// trie.h: a trie over bytes as a double array (Aoe 1989). The child of node p by byte c is at
// base(p) ^ c, and is there if that place names p as its parent.
#ifndef TOKENIZERS_TRIE_H
#define TOKENIZERS_TRIE_H

#include "util/array.h"

typedef struct {
    uint32_t base;   // of the children, within one block of 256 places
    uint32_t parent; // TRIE_FREE_ if the place is not used, TRIE_ROOT_ for the root
} TrieNode;

typedef struct {
    TrieNode *nodes; // (count), the root is 0
    int32_t *values; // (count), of the key that ends here, -1 if none does
    size_t count, capacity, value_capacity;
} Trie;

typedef struct {
    const char *text;
    size_t length;
    int32_t value;
} TrieKey;

static const uint32_t TRIE_FREE_ = UINT32_MAX, TRIE_ROOT_ = UINT32_MAX - 1;

// The last blocks are searched for room, older ones stay as they are.
enum { TRIE_OPEN_BLOCKS_ = 4 };

static inline void trie_free(Trie *t) {
    free(t->nodes);
    free(t->values);
    *t = (Trie){0};
}

// The child of *node by a byte; false if there is none.
static inline bool trie_step(const Trie *t, uint32_t *node, char byte) {
    uint32_t child = t->nodes[*node].base ^ (unsigned char)byte;
    if (t->nodes[child].parent != *node) {
        return false;
    }
    *node = child;
    return true;
}

static inline int trie_compare_(const void *first, const void *second) {
    const TrieKey *a = first, *b = second;
    int order = memcmp(a->text, b->text, min_u64(a->length, b->length));
    return order                    ? order
           : a->length != b->length ? order_u64(a->length, b->length)
                                    : order_u64((uint64_t)a->value, (uint64_t)b->value);
}

static inline bool trie_add_block_(Trie *t, Error *e) {
    if (t->count > UINT32_MAX / 2) {
        return fail(e, "tokenizer: a trie of more than %zu places", t->count);
    }
    if (!array_reserve(&t->nodes, &t->capacity, t->count, 256, sizeof *t->nodes, e) ||
        !array_reserve(&t->values, &t->value_capacity, t->count, 256, sizeof *t->values, e)) {
        return false;
    }
    memset(t->nodes + t->count, 0xFF, 256 * sizeof *t->nodes);
    memset(t->values + t->count, 0xFF, 256 * sizeof *t->values);
    t->count += 256;
    return true;
}

// A base at which all `labels` fall on free places.
static inline bool trie_find_base_(Trie *t, const unsigned char *labels, size_t n, uint32_t *base,
                                   Error *e) {
    for (;;) {
        size_t open = (size_t)TRIE_OPEN_BLOCKS_ * 256;
        for (size_t i = t->count > open ? t->count - open : 1; i < t->count; i++) {
            size_t k = 0;
            while (k < n && t->nodes[i ^ labels[k]].parent == TRIE_FREE_) {
                k++;
            }
            if (k == n) {
                *base = (uint32_t)i;
                return true;
            }
        }
        if (!trie_add_block_(t, e)) {
            return false;
        }
    }
}

typedef struct {
    uint32_t node;
    size_t first, last, depth; // keys [first, last) pass through the node, which is at this depth
} TrieTask_;

// The bytes that follow in the keys of a task, which are sorted, each with the first of its keys;
// starts[their number] is the last. A key that ends at the node gives it its value.
static inline size_t trie_labels_(Trie *t, const TrieKey *keys, const TrieTask_ *task,
                                  unsigned char labels[256], size_t starts[257]) {
    size_t n = 0;
    for (size_t i = task->first; i < task->last; i++) {
        if (keys[i].length == task->depth) {
            t->values[task->node] = keys[i].value;
            continue;
        }
        unsigned char label = (unsigned char)keys[i].text[task->depth];
        if (n == 0 || labels[n - 1] != label) {
            labels[n] = label, starts[n++] = i;
        }
    }
    starts[n] = task->last;
    return n;
}

// Builds the trie; sorts the keys. No key is empty; of equal keys the one with the greatest value
// counts.
static inline bool trie_build(Trie *t, TrieKey *keys, size_t count, Error *e) {
    TrieTask_ *tasks = NULL, task = {.last = count};
    size_t task_count = 0, task_capacity = 0;
    qsort(keys, count, sizeof *keys, trie_compare_);
    bool ok = trie_add_block_(t, e) &&
              array_append(&tasks, &task_capacity, &task_count, &task, sizeof task, e);
    if (ok) {
        t->nodes[0].parent = TRIE_ROOT_;
    }

    while (ok && task_count) {
        unsigned char labels[256];
        size_t starts[257];
        uint32_t base = 0;
        task = tasks[--task_count];
        size_t n = trie_labels_(t, keys, &task, labels, starts);

        // Places for the children, which are built later.
        ok = (n == 0 || trie_find_base_(t, labels, n, &base, e)) &&
             array_reserve(&tasks, &task_capacity, task_count, n, sizeof *tasks, e);
        t->nodes[task.node].base = base;
        for (size_t k = 0; ok && k < n; k++) {
            uint32_t child = base ^ labels[k];
            t->nodes[child].parent = task.node;
            tasks[task_count++] = (TrieTask_){child, starts[k], starts[k + 1], task.depth + 1};
        }
    }
    free(tasks);
    return ok;
}

// Bytes of the longest key that the text starts with, 0 if there is none. *open: the text ends
// where a longer key might continue.
static inline size_t trie_longest(const Trie *t, const char *s, size_t n, bool *open) {
    uint32_t node = 0;
    size_t longest = 0, i = 0;
    for (; i < n && trie_step(t, &node, s[i]); i++) {
        longest = t->values[node] >= 0 ? i + 1 : longest;
    }
    *open = i == n;
    return longest;
}

#endif
