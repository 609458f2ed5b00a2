// suffix_array.h: suffix array construction by SA-IS (Nong, Zhang, Chan: Linear suffix array
// construction by almost pure induced-sorting, 2009), for the search index over training data and
// the seed vocabulary of Unigram tokenizers.
//
// A suffix is of type S if it is smaller than the next one (which begins one symbol later), else of
// type L; an S-type suffix after an L-type one is leftmost S-type (LMS). The order of all suffixes
// can be induced from that of the LMS suffixes: L-types from left to right, S-types from right to
// left, each into the bucket of its first symbol. To sort the LMS suffixes, each LMS substring (up
// to the next LMS position) is named by its rank, and the string of names, at most half as long, is
// sorted recursively. The text is followed by a virtual sentinel smaller than all symbols, so the
// last suffix is of type L.
#ifndef UTIL_SUFFIX_ARRAY_H
#define UTIL_SUFFIX_ARRAY_H

#include "util/array.h"

typedef struct {
    const void *text; // unsigned char (wide false) or int32_t
    int32_t length, symbols;
    int32_t *suffixes;  // (length)
    uint64_t *is_s;     // bit i: suffix i is of type S
    int32_t *counts;    // (symbols) occurrences of each symbol
    int32_t *positions; // (symbols) where the next suffix of a bucket is stored
} SuffixSort_;

__attribute__((always_inline)) static inline int32_t sais_symbol_(const SuffixSort_ *s, bool wide,
                                                                  int32_t i) {
    return wide ? ((const int32_t *)s->text)[i] : ((const unsigned char *)s->text)[i];
}

static inline bool sais_is_s_(const SuffixSort_ *s, int32_t i) {
    return s->is_s[i >> 6] >> (i & 63) & 1;
}

static inline bool sais_is_lms_(const SuffixSort_ *s, int32_t i) {
    return i > 0 && sais_is_s_(s, i) && !sais_is_s_(s, i - 1);
}

// Sets positions to the start of each bucket, or to its end (exclusive).
static inline void sais_buckets_(const SuffixSort_ *s, bool ends) {
    int32_t sum = 0;
    for (int32_t c = 0; c < s->symbols; c++) {
        s->positions[c] = ends ? sum + s->counts[c] : sum;
        sum += s->counts[c];
    }
}

// Induced sorting: from the LMS suffixes at the ends of their buckets, all other entries -1, to all
// suffixes.
__attribute__((always_inline)) static inline void sais_induce_(const SuffixSort_ *s, bool wide) {
    int32_t *out = s->suffixes, n = s->length;
    sais_buckets_(s, false);
    out[s->positions[sais_symbol_(s, wide, n - 1)]++] = n - 1; // induced by the sentinel
    for (int32_t i = 0; i < n; i++) {
        int32_t j = out[i] - 1;
        if (j >= 0 && !sais_is_s_(s, j)) {
            out[s->positions[sais_symbol_(s, wide, j)]++] = j;
        }
    }
    sais_buckets_(s, true);
    for (int32_t i = n - 1; i >= 0; i--) {
        int32_t j = out[i] - 1;
        if (j >= 0 && sais_is_s_(s, j)) {
            out[--s->positions[sais_symbol_(s, wide, j)]] = j;
        }
    }
}

// Whether the LMS substrings at a and b are equal. One that reaches the end of the text equals no
// other.
__attribute__((always_inline)) static inline bool sais_equal_(const SuffixSort_ *s, bool wide,
                                                              int32_t a, int32_t b) {
    for (int32_t i = 0;; i++) {
        if (a + i >= s->length || b + i >= s->length ||
            sais_symbol_(s, wide, a + i) != sais_symbol_(s, wide, b + i) ||
            sais_is_s_(s, a + i) != sais_is_s_(s, b + i)) {
            return false;
        }
        if (i > 0 && sais_is_lms_(s, a + i)) {
            return sais_is_lms_(s, b + i);
        }
    }
}

static inline bool suffix_sort_symbols(const int32_t *text, int32_t length, int32_t symbols,
                                       int32_t *suffixes, Error *e);

// Sorts the suffixes. counts and is_s must be zero.
__attribute__((always_inline)) static inline bool sais_run_(SuffixSort_ *s, bool wide, Error *e) {
    int32_t *out = s->suffixes, n = s->length, count = 0, names = 0, previous = -1;

    // Symbol counts and suffix types.
    for (int32_t i = 0; i < n; i++) {
        s->counts[sais_symbol_(s, wide, i)]++;
    }
    for (int32_t i = n - 2; i >= 0; i--) {
        int32_t a = sais_symbol_(s, wide, i), b = sais_symbol_(s, wide, i + 1);
        if (a < b || (a == b && sais_is_s_(s, i + 1))) {
            s->is_s[i >> 6] |= (uint64_t)1 << (i & 63);
        }
    }

    // Sort the LMS substrings: one induction leaves them in order.
    for (int32_t i = 0; i < n; i++) {
        out[i] = -1;
    }
    sais_buckets_(s, true);
    for (int32_t i = 1; i < n; i++) {
        if (sais_is_lms_(s, i)) {
            out[--s->positions[sais_symbol_(s, wide, i)]] = i;
        }
    }
    sais_induce_(s, wide);
    for (int32_t i = 0; i < n; i++) {
        if (sais_is_lms_(s, out[i])) {
            out[count++] = out[i];
        }
    }

    // Name them: first at count + position / 2 (LMS positions are at least two apart), then moved
    // together to the end.
    for (int32_t i = count; i < n; i++) {
        out[i] = -1;
    }
    for (int32_t i = 0; i < count; i++) {
        names += i == 0 || !sais_equal_(s, wide, previous, out[i]);
        previous = out[i];
        out[count + previous / 2] = names - 1;
    }
    int32_t *reduced = out + n;
    for (int32_t i = n - 1; i >= count; i--) {
        if (out[i] >= 0) {
            *--reduced = out[i];
        }
    }

    // Sort the string of names; recursion is needed only if names repeat.
    if (names < count) {
        if (!suffix_sort_symbols(reduced, count, names, out, e)) {
            return false;
        }
    } else {
        for (int32_t i = 0; i < count; i++) {
            out[reduced[i]] = i;
        }
    }

    // From the suffixes of the string of names to the LMS suffixes, and from these to all.
    for (int32_t i = 1, k = 0; i < n; i++) {
        if (sais_is_lms_(s, i)) {
            reduced[k++] = i;
        }
    }
    for (int32_t i = 0; i < count; i++) {
        out[i] = reduced[out[i]];
    }
    for (int32_t i = count; i < n; i++) {
        out[i] = -1;
    }
    sais_buckets_(s, true);
    for (int32_t i = count - 1; i >= 0; i--) {
        int32_t j = out[i];
        out[i] = -1;
        out[--s->positions[sais_symbol_(s, wide, j)]] = j;
    }
    sais_induce_(s, wide);
    return true;
}

// Allocates the working memory and sorts.
static inline bool sais_(SuffixSort_ *s, bool wide, Error *e) {
    s->is_s = calloc((size_t)s->length / 64 + 1, sizeof *s->is_s);
    s->counts = calloc((size_t)s->symbols, sizeof *s->counts);
    s->positions = calloc((size_t)s->symbols, sizeof *s->positions);
    bool ok = s->is_s && s->counts && s->positions;
    if (!ok) {
        fail(e, "no memory to sort %d suffixes", s->length);
    }
    ok = ok && (wide ? sais_run_(s, true, e) : sais_run_(s, false, e));
    free(s->is_s);
    free(s->counts);
    free(s->positions);
    return ok;
}

// The suffix array of a text of bytes: suffixes (length) are the positions of its suffixes in
// lexicographic order; a prefix comes before a longer suffix. Takes linear time and, besides text
// and suffixes, about length / 8 + 1.4 * length bytes.
static inline bool suffix_sort(const unsigned char *text, int32_t length, int32_t *suffixes,
                               Error *e) {
    return length == 0 ||
           sais_(
               &(SuffixSort_){.text = text, .length = length, .symbols = 256, .suffixes = suffixes},
               false, e);
}

// The same for a text of symbols 0 .. symbols - 1.
static inline bool suffix_sort_symbols(const int32_t *text, int32_t length, int32_t symbols,
                                       int32_t *suffixes, Error *e) {
    return length == 0 || sais_(&(SuffixSort_){.text = text,
                                               .length = length,
                                               .symbols = symbols,
                                               .suffixes = suffixes},
                                true, e);
}

#endif
