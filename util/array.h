// array.h: growing arrays, bisection, arithmetic of counts.
#ifndef UTIL_ARRAY_H
#define UTIL_ARRAY_H

#include "util/error.h"

static inline uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static inline uint64_t divide_up(uint64_t a, uint64_t b) {
    return a / b + (a % b != 0);
}

// The smallest multiple of `unit` that is at least n.
static inline uint64_t round_up(uint64_t n, uint64_t unit) {
    return divide_up(n, unit) * unit;
}

// Makes room for `more` elements of `size` bytes after the `count` first ones of *array, with space
// to grow.
static inline bool array_reserve(void *array, size_t *capacity, size_t count, size_t more,
                                 size_t size, Error *e) {
    size_t wanted, bytes;
    void *memory;
    if (*capacity - count >= more) {
        return true;
    }
    memcpy(&memory, array, sizeof memory);
    if (__builtin_add_overflow(count, more, &wanted) ||
        __builtin_mul_overflow(wanted, 2 * size, &bytes) || !(memory = realloc(memory, bytes))) {
        return fail(e, "no memory for %zu more elements of %zu bytes", more, size);
    }
    memcpy(array, &memory, sizeof memory);
    *capacity = 2 * wanted;
    return true;
}

// The first i of [low, high) for which before(context, i) is false, `high` if there is none.
// `before` must be true up to some place and false from there on.
static inline size_t bisect(size_t low, size_t high, bool (*before)(const void *context, size_t i),
                            const void *context) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (before(context, middle)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

#endif
