// minhash.h: the MinHash signature of a document (Broder 1997), for near-duplicate detection.
//
// The document is a set of shingles: its character 5-grams after normalization, which converts
// ASCII letters to lower case and runs of white space to one space, and removes white space at both
// ends. 5-grams work for Japanese, which has no spaces, as well as for English (Okazaki et al. 2024
// use them for the Swallow corpus). A shorter text is one shingle; an empty text has the empty set,
// which is similar only to itself. The fraction of equal values in two signatures estimates the
// Jaccard similarity J = |A n B| / |A u B| of the sets, with standard deviation sqrt(J (1 - J) /
// MINHASH_VALUES).
//
// Signatures are computed by fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017): each
// shingle falls into one bin, and a bin keeps its smallest hash. Bins that are still empty are
// filled in further rounds with new hashes, so that the estimate is as good for small sets as for
// large ones. The rounds need the shingles themselves, which are kept while bins are empty, at most
// MINHASH_SHINGLES of them: the probability that these leave a bin empty is 256 exp(-16) = 3e-5
// (then only these fill it). A value keeps 16 bits of its hash (Li and Koenig 2010): two different
// shingles have equal values with probability 1 / 65,536.
#ifndef CORPUS_MINHASH_H
#define CORPUS_MINHASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SHINGLE_LENGTH = 5, MINHASH_VALUES = 256, MINHASH_SHINGLES = 4096 };

// The state for one document after another.
typedef struct {
    uint64_t characters; // of the normalized text so far
    uint64_t rolling;    // rolling hash of the last SHINGLE_LENGTH characters
    uint32_t recent[8];  // ring buffer of the last characters, each + 1
    bool space_due;      // white space that becomes a space if a character follows

    int empty_bins;
    uint64_t bins[MINHASH_VALUES];        // smallest hash, UINT64_MAX: empty
    uint64_t shingles[MINHASH_SHINGLES];  // (shingle_count) hashes of the distinct shingles
    uint16_t slots[2 * MINHASH_SHINGLES]; // open addressing: 1 + index into shingles, 0: free
    size_t shingle_count;
} MinHash;

// Starts a document. The MinHash must be zero before its first one.
static inline void minhash_begin(MinHash *m) {
    m->characters = m->rolling = 0;
    memset(m->recent, 0, sizeof m->recent);
    m->space_due = false;
    m->empty_bins = MINHASH_VALUES;
    memset(m->bins, 0xFF, sizeof m->bins);
    if (m->shingle_count) {
        memset(m->slots, 0, sizeof m->slots);
        m->shingle_count = 0;
    }
}

// Finalizer of SplitMix64 (Steele, Lea, Flood 2014), below UINT64_MAX, which is an empty bin.
static inline uint64_t shingle_hash_(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    x ^= x >> 31;
    return x - (x == UINT64_MAX);
}

// Keeps a shingle, by its hash, for the further rounds.
static inline void shingle_keep_(MinHash *m, uint64_t shingle) {
    size_t at = (shingle >> 32) % (2 * MINHASH_SHINGLES);
    while (m->slots[at] && m->shingles[m->slots[at] - 1] != shingle) {
        at = (at + 1) % (2 * MINHASH_SHINGLES);
    }
    if (!m->slots[at] && m->shingle_count < MINHASH_SHINGLES) {
        m->shingles[m->shingle_count++] = shingle;
        m->slots[at] = (uint16_t)m->shingle_count;
    }
}

// Adds the shingle of the last characters to its bin.
static inline void shingle_add_(MinHash *m) {
    uint64_t shingle = shingle_hash_(m->rolling), *bin = &m->bins[shingle % MINHASH_VALUES];
    if (m->empty_bins > 0) {
        shingle_keep_(m, shingle);
        m->empty_bins -= *bin == UINT64_MAX;
    }
    *bin = shingle < *bin ? shingle : *bin;
}

// Appends a character to the normalized text. The hash of a shingle is a polynomial modulo 2^64
// with the coefficients c + 1.
static inline void character_add_(MinHash *m, uint32_t c) {
    const uint64_t base = 0x9E3779B97F4A7C15u, last = base * base * base * base * base;
    m->rolling =
        m->rolling * base + (c + 1) - m->recent[(m->characters - SHINGLE_LENGTH) % 8] * last;
    m->recent[m->characters++ % 8] = c + 1;
    if (m->characters >= SHINGLE_LENGTH) {
        shingle_add_(m);
    }
}

// Adds white space of the document.
static inline void minhash_add_space(MinHash *m) {
    m->space_due = true;
}

// Adds a character of the document that is not white space.
static inline void minhash_add(MinHash *m, uint32_t c) {
    if (m->space_due && m->characters > 0) {
        character_add_(m, ' ');
    }
    m->space_due = false;
    character_add_(m, c >= 'A' && c <= 'Z' ? c + 32 : c);
}

// Fills the empty bins. Round i gives each shingle a new hash and, from round MINHASH_VALUES on,
// one bin for all, so that the rounds end. A bin that was filled in one round does not change in
// the next.
static inline void bins_fill_(MinHash *m) {
    uint16_t filled[MINHASH_VALUES]; // the round, UINT16_MAX: none yet
    for (int i = 0; i < MINHASH_VALUES; i++) {
        filled[i] = m->bins[i] == UINT64_MAX ? UINT16_MAX : 0;
    }

    for (uint16_t round = 1; m->empty_bins > 0; round++) {
        for (size_t i = 0; i < m->shingle_count; i++) {
            uint64_t hash = shingle_hash_(m->shingles[i] + round * 0x9E3779B97F4A7C15u);
            size_t bin =
                round < MINHASH_VALUES ? hash % MINHASH_VALUES : round - (size_t)MINHASH_VALUES;
            if (filled[bin] >= round) {
                m->empty_bins -= filled[bin] == UINT16_MAX;
                filled[bin] = round;
                m->bins[bin] = hash < m->bins[bin] ? hash : m->bins[bin];
            }
        }
    }
}

// Ends the document and computes its signature: zeros if nothing but white space was added.
static inline void minhash_end(MinHash *m, uint16_t signature[MINHASH_VALUES]) {
    memset(signature, 0, MINHASH_VALUES * sizeof *signature);
    if (m->characters > 0 && m->characters < SHINGLE_LENGTH) {
        shingle_add_(m);
    }
    if (m->shingle_count > 0) {
        bins_fill_(m);
        for (int i = 0; i < MINHASH_VALUES; i++) {
            signature[i] = (uint16_t)(m->bins[i] >> 8); // the low 8 bits chose the bin
        }
    }
}

#endif
