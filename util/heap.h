// heap.h: a binary min-heap with priorities (major, minor).
#ifndef UTIL_HEAP_H
#define UTIL_HEAP_H

#include "util/array.h"

// Smallest `major` first, then smallest `minor`.
typedef struct {
    uint64_t major, minor;
    uint32_t item;
} HeapEntry;

// Zero-initialize; the caller frees entries.
typedef struct {
    HeapEntry *entries;
    size_t count, capacity;
} Heap;

static inline bool heap_before_(const HeapEntry *a, const HeapEntry *b) {
    return a->major != b->major ? a->major < b->major : a->minor < b->minor;
}

// Adds an entry.
static inline bool heap_push(Heap *h, HeapEntry entry, Error *e) {
    if (!array_reserve(&h->entries, &h->capacity, h->count, 1, sizeof entry, e)) {
        return false;
    }

    // Sift up.
    size_t i = h->count++;
    for (; i > 0 && heap_before_(&entry, &h->entries[(i - 1) / 2]); i = (i - 1) / 2) {
        h->entries[i] = h->entries[(i - 1) / 2];
    }
    h->entries[i] = entry;
    return true;
}

// Removes and returns the first entry of a heap that is not empty.
static inline HeapEntry heap_pop(Heap *h) {
    HeapEntry top = h->entries[0], last = h->entries[--h->count];

    // Sift down.
    size_t i = 0;
    for (size_t child = 1; child < h->count; child = 2 * i + 1) {
        child += child + 1 < h->count && heap_before_(&h->entries[child + 1], &h->entries[child]);
        if (!heap_before_(&h->entries[child], &last)) {
            break;
        }
        h->entries[i] = h->entries[child];
        i = child;
    }
    h->entries[i] = last;
    return top;
}

#endif
