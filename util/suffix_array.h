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

// Sets counts and is_s, which must be zero.
__attribute__((always_inline)) static inline void sais_classify_(SuffixSort_ *s, bool wide) {
    for (int32_t i = 0; i < s->length; i++) {
        s->counts[sais_symbol_(s, wide, i)]++;
    }
    for (int32_t i = s->length - 2; i >= 0; i--) {
        int32_t a = sais_symbol_(s, wide, i), b = sais_symbol_(s, wide, i + 1);
        if (a < b || (a == b && sais_is_s_(s, i + 1))) {
            s->is_s[i >> 6] |= (uint64_t)1 << (i & 63);
        }
    }
}

// Clears suffixes begin .. end - 1.
static inline void sais_clear_(int32_t *out, int32_t begin, int32_t end) {
    for (int32_t i = begin; i < end; i++) {
        out[i] = -1;
    }
}

// Sorts the LMS substrings into suffixes[0 .. count), returns count. Induction from LMS suffixes
// that stand in any order within their buckets puts these in the order of their substrings.
__attribute__((always_inline)) static inline int32_t sais_sort_substrings_(const SuffixSort_ *s,
                                                                           bool wide) {
    int32_t *out = s->suffixes, n = s->length, count = 0;
    sais_clear_(out, 0, n);
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
    return count;
}

// Names the sorted LMS substrings by rank, equal ones alike, and puts the names in the order of the
// text into suffixes[length - count .. length): the reduced text. Returns the number of names.
__attribute__((always_inline)) static inline int32_t sais_reduce_(const SuffixSort_ *s, bool wide,
                                                                  int32_t count) {
    int32_t *out = s->suffixes, *end = out + s->length, names = 0;

    // First at count + position / 2, which differ as LMS suffixes are at least two apart.
    sais_clear_(out, count, s->length);
    for (int32_t i = 0; i < count; i++) {
        names += i == 0 || !sais_equal_(s, wide, out[i - 1], out[i]);
        out[count + out[i] / 2] = names - 1;
    }

    // Then together at the end.
    for (int32_t i = s->length - 1; i >= count; i--) {
        if (out[i] >= 0) {
            *--end = out[i];
        }
    }
    return names;
}

// From the suffix array of the reduced text in suffixes[0 .. count) to the LMS suffixes at the ends
// of their buckets, all other entries -1. `reduced` (count) is overwritten.
__attribute__((always_inline)) static inline void sais_place_lms_(const SuffixSort_ *s, bool wide,
                                                                  int32_t *reduced, int32_t count) {
    int32_t *out = s->suffixes, n = s->length;
    for (int32_t i = 1, k = 0; i < n; i++) {
        if (sais_is_lms_(s, i)) {
            reduced[k++] = i;
        }
    }
    for (int32_t i = 0; i < count; i++) {
        out[i] = reduced[out[i]];
    }

    sais_clear_(out, count, n);
    sais_buckets_(s, true);
    for (int32_t i = count - 1; i >= 0; i--) {
        int32_t j = out[i];
        out[i] = -1;
        out[--s->positions[sais_symbol_(s, wide, j)]] = j;
    }
}

// Sorts the suffixes. counts and is_s must be zero.
__attribute__((always_inline)) static inline bool sais_run_(SuffixSort_ *s, bool wide, Error *e) {
    sais_classify_(s, wide);
    int32_t count = sais_sort_substrings_(s, wide);
    int32_t names = sais_reduce_(s, wide, count);

    // Sort the suffixes of the reduced text; if all names differ, the names are their order.
    int32_t *out = s->suffixes, *reduced = out + s->length - count;
    if (names < count) {
        if (!suffix_sort_symbols(reduced, count, names, out, e)) {
            return false;
        }
    } else {
        for (int32_t i = 0; i < count; i++) {
            out[reduced[i]] = i;
        }
    }

    sais_place_lms_(s, wide, reduced, count);
    sais_induce_(s, wide);
    return true;
}

// Allocates the working memory and sorts.
static inline bool sais_(const void *text, bool wide, int32_t length, int32_t symbols,
                         int32_t *suffixes, Error *e) {
    SuffixSort_ s = {.text = text, .length = length, .symbols = symbols, .suffixes = suffixes};
    if (length == 0) {
        return true;
    }
    s.is_s = calloc((size_t)length / 64 + 1, sizeof *s.is_s);
    s.counts = calloc((size_t)symbols, sizeof *s.counts);
    s.positions = calloc((size_t)symbols, sizeof *s.positions);
    bool ok =
        (s.is_s && s.counts && s.positions) || fail(e, "no memory to sort %d suffixes", length);
    ok = ok && (wide ? sais_run_(&s, true, e) : sais_run_(&s, false, e));
    free(s.is_s);
    free(s.counts);
    free(s.positions);
    return ok;
}

// The suffix array of a text of bytes: suffixes (length) are the positions of its suffixes in
// lexicographic order; a prefix comes before a longer suffix. Takes linear time and, besides text
// and suffixes, about length / 8 + 1.4 * length bytes.
static inline bool suffix_sort(const unsigned char *text, int32_t length, int32_t *suffixes,
                               Error *e) {
    return sais_(text, false, length, 256, suffixes, e);
}

// The same for a text of symbols 0 .. symbols - 1.
static inline bool suffix_sort_symbols(const int32_t *text, int32_t length, int32_t symbols,
                                       int32_t *suffixes, Error *e) {
    return sais_(text, true, length, symbols, suffixes, e);
}

#endif
