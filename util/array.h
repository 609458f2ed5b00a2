// array.h: growing arrays, bisection, arithmetic of counts.
#ifndef UTIL_ARRAY_H
#define UTIL_ARRAY_H

#include "util/error.h"

// The smaller of two counts.
static inline uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

// For qsort: below 0, 0 or above 0 as a is below, equal to or above b.
static inline int order_u64(uint64_t a, uint64_t b) {
    return (a > b) - (a < b);
}

// a / b, rounded up.
static inline uint64_t divide_up(uint64_t a, uint64_t b) {
    return a / b + (a % b != 0);
}

// The smallest multiple of `unit` that is at least n.
static inline uint64_t round_up(uint64_t n, uint64_t unit) {
    return divide_up(n, unit) * unit;
}

// Makes room for `more` elements of `size` bytes behind the first `count` of *array (a pointer to
// the array's pointer). Allocates twice what is needed, so that appending takes amortized constant
// time.
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

// Appends a copy of an element of `size` bytes to the *count of *array, as array_reserve has it.
static inline bool array_append(void *array, size_t *capacity, size_t *count, const void *element,
                                size_t size, Error *e) {
    char *memory;
    if (!array_reserve(array, capacity, *count, 1, size, e)) {
        return false;
    }
    memcpy(&memory, array, sizeof memory);
    memcpy(memory + *count * size, element, size);
    ++*count;
    return true;
}

// Binary search: the first i in [low, high) for which before(context, i) is false, or `high`. The
// values of `before` must be true up to some i and false from there on.
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
