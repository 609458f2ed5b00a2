// random.h: random numbers as pure functions: no state, so any rank, thread or resumed run computes
// the same ones again.
#ifndef UTIL_RANDOM_H
#define UTIL_RANDOM_H

#include <stdint.h>

// Streams keep uses of one seed apart. Those below RANDOM_FREE belong to this file.
enum { RANDOM_ORDER, RANDOM_SPLIT, RANDOM_SAMPLE, RANDOM_SOURCE, RANDOM_FREE = 16 };

// 64 random bits for (seed, stream, counter): the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
// once per word.
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

// The network beneath a permutation of 0..n-1: `half` is the smallest number of bits so that 2 *
// half hold n - 1.
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

// Where `position` (< n) goes in the permutation of 0..n-1 that (seed, epoch) names. A six-round
// Feistel network permutes the 2*half-bit numbers, fewer than 4n; results of n or more are fed back
// in until one is below n (cycle walking: Black and Rogaway 2002). Nothing is stored, however large
// n is.
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

// The position (< n) that random_permutation sends to `value` (< n): the same rounds backwards.
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
