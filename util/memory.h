// memory.h: aligned memory for large arrays of floats, on huge pages where the system has them.
#ifndef UTIL_MEMORY_H
#define UTIL_MEMORY_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "util/array.h"

enum { HUGE_PAGE = 2 << 20, VECTOR_ALIGNMENT = 256 };

// Sets n floats to zero, each thread an equal range. On the first touch, the pages of a range are
// placed on the NUMA node of the thread that will work on it.
static inline void zero_floats(float *x, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        x[i] = 0;
    }
}

// x (n) += y
static inline void add_floats(float *x, const float *y, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

// Alignment in bytes of an array of n floats: large arrays begin on a huge page.
static inline size_t floats_alignment(size_t n) {
    return n * sizeof(float) < HUGE_PAGE ? VECTOR_ALIGNMENT : HUGE_PAGE;
}

// Bytes that allocate_floats(n) allocates.
static inline size_t allocated_bytes(size_t n) {
    return round_up(n * sizeof(float), floats_alignment(n));
}

// Allocates n zeros; NULL if memory is insufficient. The caller frees the array.
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
