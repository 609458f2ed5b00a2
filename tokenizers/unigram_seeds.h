// unigram_seeds.h: the seed vocabulary of Unigram training (Kudo 2018, section 3.2): all characters
// and the most frequent substrings, found with a suffix array.
#ifndef TOKENIZERS_UNIGRAM_SEEDS_H
#define TOKENIZERS_UNIGRAM_SEEDS_H

#include "tokenizers/unigram_text.h"
#include "util/suffix_array.h"

typedef struct {
    uint64_t score; // occurrences * length in characters
    uint32_t start, length;
} Seed_;

typedef struct {
    Seed_ *seeds;
    size_t count, capacity;
    uint64_t least; // UNIGRAM_SEEDS seeds have at least this score
} Seeds_;

// By descending score, then by length, then by position.
static inline int seed_order_(const void *a, const void *b) {
    const Seed_ *x = a, *y = b;
    return x->score != y->score     ? order_u64(y->score, x->score)
           : x->length != y->length ? order_u64(x->length, y->length)
                                    : order_u64(x->start, y->start);
}

// Sorts the seeds and keeps the best UNIGRAM_SEEDS.
static inline void seeds_trim_(Seeds_ *s) {
    if (s->count) {
        qsort(s->seeds, s->count, sizeof *s->seeds, seed_order_);
    }
    if (s->count >= UNIGRAM_SEEDS) {
        s->count = UNIGRAM_SEEDS;
        s->least = s->seeds[s->count - 1].score;
    }
}

// Adds a substring that occurs `count` times, unless it is too rare, too short or too bad.
static inline bool seeds_add_(Seeds_ *s, uint64_t count, uint32_t start, uint32_t length,
                              Error *e) {
    if (count < UNIGRAM_SEED_COUNT || length < 2 || count * length < s->least) {
        return true;
    }
    if (s->count == 4 * (size_t)UNIGRAM_SEEDS) {
        seeds_trim_(s);
    }
    return array_append(&s->seeds, &s->capacity, &s->count, &(Seed_){count * length, start, length},
                        sizeof *s->seeds, e);
}

// The suffix array of the text and, by position in the text: the length of the common prefix with
// the preceding suffix in the array, and the symbols left in the word, both at most
// UNIGRAM_PIECE_LENGTH.
typedef struct {
    int32_t *order;  // the suffix array
    uint8_t *shared; // length of the common prefix
    uint8_t *left;   // symbols left in the word
    uint32_t *word;  // index of the word
} Suffixes_;

static inline void suffixes_free_(Suffixes_ *s) {
    free(s->order);
    free(s->shared);
    free(s->left);
    free(s->word);
}

// Finds common prefixes by the method of Kasai et al. 2001: from one position to the next, they get
// shorter by at most one. This also holds if they are cut at the end of the word.
static inline bool suffixes_init_(Suffixes_ *s, const UnigramTrainer *u, Error *e) {
    const size_t n = u->text_length;
    int32_t *before = malloc(n * sizeof *before); // (n) the preceding suffix in the array
    *s = (Suffixes_){malloc(n * sizeof *s->order), malloc(n), calloc(n, 1),
                     calloc(n, sizeof *s->word)};
    if (!before || !s->order || !s->shared || !s->left || !s->word ||
        !suffix_sort_symbols(u->text, (int32_t)n, u->alphabet, s->order, e)) {
        free(before);
        return unigram_no_memory(e);
    }

    // Common prefixes.
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
    free(before);

    // Words.
    for (size_t w = 0; w < u->word_count; w++) {
        const UnigramWord *word = &u->words[w];
        for (uint32_t i = 0; i < word->length; i++) {
            uint32_t left = word->length - i;
            s->left[word->start + i] =
                (uint8_t)(left < UNIGRAM_PIECE_LENGTH ? left : UNIGRAM_PIECE_LENGTH);
            s->word[word->start + i] = (uint32_t)w;
        }
    }
    return true;
}

// Adds the inner nodes of the suffix tree, i.e. the intervals of the suffix array with a common
// prefix: of all substrings with the same occurrences, the longest. A substring of only one word is
// added too if the word is frequent.
static inline bool seeds_collect_(Seeds_ *seeds, const Suffixes_ *s, const UnigramTrainer *u,
                                  Error *e) {
    struct {
        uint64_t before;       // occurrences of the suffixes before the interval
        uint32_t depth, start; // length and position of the common prefix
    } open[UNIGRAM_PIECE_LENGTH + 2] = {{0, 0, 0}}; // stack of the intervals around a suffix
    size_t top = 0;
    uint64_t sum = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < u->text_length; i++) {
        uint32_t at = (uint32_t)s->order[i], start = at, left = s->left[at];
        uint32_t here = s->shared[at],
                 next = i + 1 < u->text_length ? s->shared[s->order[i + 1]] : 0;
        uint64_t before = sum, count = left ? u->words[s->word[at]].count : 0;
        sum += count;

        // The rest of the word, if neither neighbour shares all of it.
        ok = left <= here || left <= next || seeds_add_(seeds, count, at, left, e);

        // Close the intervals that end here, open the one that begins.
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

// Appends a piece of log probability `score`.
static inline bool unigram_add_piece_(UnigramTrainer *u, uint32_t start, uint32_t length,
                                      double score, Error *e) {
    return array_append(&u->pieces, &u->piece_capacity, &u->piece_count,
                        &(UnigramPiece){start, length, score, 0}, sizeof *u->pieces, e);
}

// Sets the pieces to the seed vocabulary: all characters, then the best substrings. The initial
// probability of each is proportional to its occurrences times its length.
static inline bool unigram_seed(UnigramTrainer *u, Error *e) {
    Suffixes_ suffixes;
    Seeds_ seeds = {0};
    double *weights = calloc((size_t)u->alphabet, sizeof *weights), total = 0;
    bool ok = weights || unigram_no_memory(e);
    ok = suffixes_init_(&suffixes, u, e) && ok && seeds_collect_(&seeds, &suffixes, u, e);
    suffixes_free_(&suffixes);

    // The sum of all weights.
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

    // The pieces.
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
