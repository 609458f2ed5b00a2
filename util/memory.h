// memory.h: aligned memory for large arrays of floats, on huge pages where the system has them.
#ifndef UTIL_MEMORY_H
#define UTIL_MEMORY_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "util/array.h" // defines: round_up

enum { HUGE_PAGE = 2 << 20, VECTOR_ALIGNMENT = 256 };

// Zeros n floats, all threads equal shares: the first time, the pages of each share are placed near
// the cores that will work on it.
static inline void zero_floats(float *x, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        x[i] = 0;
    }
}

// Alignment of an array of n floats: large arrays have huge pages of their own.
static inline size_t floats_alignment(size_t n) {
    return n * sizeof(float) < HUGE_PAGE ? VECTOR_ALIGNMENT : HUGE_PAGE;
}

// Bytes that allocate_floats(n) takes.
static inline size_t allocated_bytes(size_t n) {
    return round_up(n * sizeof(float), floats_alignment(n));
}

// Memory for n floats, zero; NULL if there is not enough. free releases it.
static inline float *allocate_floats(size_t n) {
    if (n >= SIZE_MAX / sizeof(float) - HUGE_PAGE) {
        return NULL;
    }

    float *data = aligned_alloc(floats_alignment(n), allocated_bytes(n));
    if (!data) {
        return NULL;
    }
    if (floats_alignment(n) == HUGE_PAGE) {
        madvise(data, allocated_bytes(n), MADV_HUGEPAGE); // a hint: nothing depends on it
    }
    zero_floats(data, n);
    return data;
}

#endif
