// random.h: counter-based random numbers: pure functions without state, so that any rank, thread or
// resumed run computes the same values.
#ifndef UTIL_RANDOM_H
#define UTIL_RANDOM_H

#include <stdint.h>

// Independent streams of one seed. Streams from RANDOM_FREE on are free for other uses.
enum { RANDOM_ORDER, RANDOM_SPLIT, RANDOM_SAMPLE, RANDOM_SOURCE, RANDOM_FREE = 16 };

// 64 random bits for (seed, stream, counter): the finalizer of SplitMix64 (Steele, Lea, Flood
// 2014), applied once per word.
static inline uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
    const uint64_t words[3] = {seed, stream, counter};
    uint64_t h = 0;
    for (int i = 0; i < 3; i++) {
        h = (h ^ words[i]) + 0x9E3779B97F4A7C15;
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9;
        h = (h ^ h >> 27) * 0x94D049BB133111EB;
        h ^= h >> 31;
    }
    return h;
}

// Uniform in [0, 1), a multiple of 2^-53.
static inline double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (double)(random_bits(seed, stream, counter) >> 11) * 0x1p-53;
}

// The Feistel network of a permutation of 0..n-1. `half`: the smallest number of bits such that all
// numbers below n have at most 2 * half bits.
typedef struct {
    int half;
    uint64_t mask, key;
} Feistel_;

static inline Feistel_ feistel_(uint64_t seed, uint64_t epoch, uint64_t n) {
    int half = 1;
    while (half < 32 && (n - 1) >> (2 * half)) {
        half++;
    }
    return (Feistel_){half, ((uint64_t)1 << half) - 1, random_bits(seed, RANDOM_ORDER, epoch)};
}

enum { FEISTEL_ROUNDS = 6 };

// The image of `position` (< n) under the permutation of 0..n-1 given by (seed, epoch). A six-round
// Feistel network permutes the 2*half-bit numbers, fewer than 4n; it is applied again until the
// result is below n (cycle walking: Black and Rogaway 2002). Needs no memory, however large n is.
static inline uint64_t random_permutation(uint64_t seed, uint64_t epoch, uint64_t position,
                                          uint64_t n) {
    Feistel_ f = feistel_(seed, epoch, n);
    uint64_t x = position;
    do {
        uint64_t left = x >> f.half, right = x & f.mask;
        for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
            uint64_t next = left ^ (random_bits(f.key, round, right) & f.mask);
            left = right;
            right = next;
        }
        x = left << f.half | right;
    } while (x >= n);
    return x;
}

// The inverse of random_permutation: the position (< n) whose image is `value` (< n). The same
// rounds in reverse.
static inline uint64_t random_permutation_inverse(uint64_t seed, uint64_t epoch, uint64_t value,
                                                  uint64_t n) {
    Feistel_ f = feistel_(seed, epoch, n);
    uint64_t x = value;
    do {
        uint64_t left = x >> f.half, right = x & f.mask;
        for (uint64_t round = FEISTEL_ROUNDS; round-- > 0;) {
            uint64_t previous = right ^ (random_bits(f.key, round, left) & f.mask);
            right = left;
            left = previous;
        }
        x = left << f.half | right;
    } while (x >= n);
    return x;
}

#endif
