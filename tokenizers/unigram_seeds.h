// unigram_seeds.h: the pieces that Unigram training starts with: the most frequent substrings, out
// of a suffix array.
#ifndef TOKENIZERS_UNIGRAM_SEEDS_H
#define TOKENIZERS_UNIGRAM_SEEDS_H

#include "tokenizers/unigram_text.h"
#include "util/suffix_array.h"

typedef struct {
    uint64_t score; // times that it came, times its characters
    uint32_t start, length;
} Seed_;

typedef struct {
    Seed_ *seeds;
    size_t count, capacity;
    uint64_t least; // score below which UNIGRAM_SEEDS others are better
} Seeds_;

static inline int seed_order_(const void *a, const void *b) {
    const Seed_ *x = a, *y = b;
    return x->score != y->score     ? (x->score < y->score ? 1 : -1)
           : x->length != y->length ? (x->length > y->length ? 1 : -1)
                                    : (x->start > y->start) - (x->start < y->start);
}

// Keeps the best UNIGRAM_SEEDS.
static inline void seeds_trim_(Seeds_ *s) {
    if (s->count) {
        qsort(s->seeds, s->count, sizeof *s->seeds, seed_order_);
    }
    if (s->count >= UNIGRAM_SEEDS) {
        s->count = UNIGRAM_SEEDS;
        s->least = s->seeds[s->count - 1].score;
    }
}

static inline bool seeds_add_(Seeds_ *s, uint64_t count, uint32_t start, uint32_t length,
                              Error *e) {
    if (count < UNIGRAM_SEED_COUNT || length < 2 || count * length < s->least) {
        return true;
    }
    if (s->count == 4 * (size_t)UNIGRAM_SEEDS) {
        seeds_trim_(s);
    }
    if (!array_reserve(&s->seeds, &s->capacity, s->count, 1, sizeof *s->seeds, e)) {
        return false;
    }
    s->seeds[s->count++] = (Seed_){count * length, start, length};
    return true;
}

// The suffix array of the text and, by position, how many symbols the suffix there shares with the
// one before it in order and how many symbols its word still has; both at most
// UNIGRAM_PIECE_LENGTH.
typedef struct {
    int32_t *order;
    uint8_t *shared, *left;
    uint32_t *word; // by position
} Suffixes_;

static inline void suffixes_free_(Suffixes_ *s) {
    free(s->order);
    free(s->shared);
    free(s->left);
    free(s->word);
}

// Common prefixes as Kasai et al. 2001 find them: from one position to the next they get shorter by
// at most one, and so do they when they end with the word.
static inline bool suffixes_init_(Suffixes_ *s, const UnigramTrainer *u, Error *e) {
    const size_t n = u->text_length;
    int32_t *before = malloc(n * sizeof *before); // by position, the position before it in order
    *s = (Suffixes_){malloc(n * sizeof *s->order), malloc(n), calloc(n, 1),
                     calloc(n, sizeof *s->word)};
    if (!before || !s->order || !s->shared || !s->left || !s->word ||
        !suffix_sort_symbols(u->text, (int32_t)n, u->alphabet, s->order, e)) {
        free(before);
        return unigram_no_memory(e);
    }
    before[s->order[0]] = -1;
    for (size_t i = 1; i < n; i++) {
        before[s->order[i]] = s->order[i - 1];
    }
    for (size_t i = 0, h = 0; i < n; i++) {
        if (before[i] >= 0) {
            const int32_t *a = u->text + i, *b = u->text + before[i];
            while (a[h] >= SYMBOL_FIRST && a[h] == b[h]) {
                h++;
            }
        }
        s->shared[i] = (uint8_t)(h < UNIGRAM_PIECE_LENGTH ? h : UNIGRAM_PIECE_LENGTH);
        h -= h > 0;
    }
    for (size_t w = 0; w < u->word_count; w++) {
        const UnigramWord *word = &u->words[w];
        for (uint32_t i = 0; i < word->length; i++) {
            uint32_t left = word->length - i;
            s->left[word->start + i] =
                (uint8_t)(left < UNIGRAM_PIECE_LENGTH ? left : UNIGRAM_PIECE_LENGTH);
            s->word[word->start + i] = (uint32_t)w;
        }
    }
    free(before);
    return true;
}

// Walks the inner nodes of the suffix tree, which are the runs of the suffix array that share a
// prefix: the longest strings among those that come at the same places. A string that comes in one
// word only is one if the word came often.
static inline bool seeds_collect_(Seeds_ *seeds, const Suffixes_ *s, const UnigramTrainer *u,
                                  Error *e) {
    struct {
        uint64_t before; // count of the suffixes before the run
        uint32_t depth, start;
    } open[UNIGRAM_PIECE_LENGTH + 2] = {{0, 0, 0}};
    size_t top = 0;
    uint64_t sum = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < u->text_length; i++) {
        uint32_t at = (uint32_t)s->order[i], start = at, left = s->left[at];
        uint32_t here = s->shared[at],
                 next = i + 1 < u->text_length ? s->shared[s->order[i + 1]] : 0;
        uint64_t before = sum, count = left ? u->words[s->word[at]].count : 0;
        sum += count;
        ok = left <= here || left <= next || seeds_add_(seeds, count, at, left, e);
        for (; ok && open[top].depth > next; top--) {
            ok = seeds_add_(seeds, sum - open[top].before, open[top].start, open[top].depth, e);
            before = open[top].before;
            start = open[top].start;
        }
        if (open[top].depth < next) {
            top++;
            open[top].before = before, open[top].depth = next, open[top].start = start;
        }
    }
    return ok;
}

static inline bool unigram_add_piece_(UnigramTrainer *u, uint32_t start, uint32_t length,
                                      double score, Error *e) {
    if (!array_reserve(&u->pieces, &u->piece_capacity, u->piece_count, 1, sizeof *u->pieces, e)) {
        return false;
    }
    u->pieces[u->piece_count++] = (UnigramPiece){start, length, score, 0};
    return true;
}

// Sets the pieces: all characters, then the seeds, each with a probability in proportion to its
// count times its length.
static inline bool unigram_seed(UnigramTrainer *u, Error *e) {
    Suffixes_ suffixes;
    Seeds_ seeds = {0};
    double *weights = calloc((size_t)u->alphabet, sizeof *weights), total = 0;
    bool ok = weights || unigram_no_memory(e);
    ok = suffixes_init_(&suffixes, u, e) && ok && seeds_collect_(&seeds, &suffixes, u, e);
    suffixes_free_(&suffixes);
    if (ok) {
        seeds_trim_(&seeds);
        for (size_t w = 0; w < u->word_count; w++) {
            for (uint32_t i = 0; i < u->words[w].length; i++) {
                weights[u->text[u->words[w].start + i]] += (double)u->words[w].count;
            }
        }
        for (int32_t s = SYMBOL_FIRST; s < u->alphabet; s++) {
            weights[s] = weights[s] < 0.5 ? 0.5 : weights[s];
            total += weights[s];
        }
        for (size_t k = 0; k < seeds.count; k++) {
            total += (double)seeds.seeds[k].score;
        }
    }
    u->characters = (size_t)(u->alphabet - SYMBOL_FIRST);
    for (size_t k = 0; ok && k < u->characters; k++) {
        ok = unigram_add_piece_(u, u->words[k].start, 1, log(weights[SYMBOL_FIRST + k] / total), e);
    }
    for (size_t k = 0; ok && k < seeds.count; k++) {
        const Seed_ *seed = &seeds.seeds[k];
        ok = unigram_add_piece_(u, seed->start, seed->length, log((double)seed->score / total), e);
    }
    free(weights);
    free(seeds.seeds);
    return ok;
}

#endif
