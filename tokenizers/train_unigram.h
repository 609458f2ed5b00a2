// train_unigram.h: trains a Unigram model: expectation maximisation, pruning, and the tokenizer
// that results.
#ifndef TOKENIZERS_TRAIN_UNIGRAM_H
#define TOKENIZERS_TRAIN_UNIGRAM_H

#include "tokenizers/unigram_lattice.h"
#include "tokenizers/unigram_seeds.h"

// ------------------------------------------------------------------------------------------------
// Expectation maximisation and pruning

// counts[0 .. piece_count): the expected count of each piece, or that in the likeliest
// segmentations. Threads count in arrays of their own; as counts are integers, the sum does not
// depend on who counted what.
static inline void unigram_count_(UnigramTrainer *u, bool likeliest) {
    memset(u->counts, 0, (size_t)u->threads * u->piece_count * sizeof *u->counts);
#pragma omp parallel num_threads(u->threads)
    {
        uint64_t *counts = u->counts + (size_t)omp_get_thread_num() * u->piece_count;
        Lattice lattice;
#pragma omp for schedule(dynamic, 1024)
        for (size_t w = 0; w < u->word_count; w++) {
            const UnigramWord *word = &u->words[w];
            uint32_t best[UNIGRAM_WORD_LENGTH];
            double score;
            lattice_score(&lattice, u, u->text + word->start, word->length);
            if (!likeliest) {
                lattice_expect(&lattice, u->pieces, word, counts);
                continue;
            }
            size_t n = lattice_best(&lattice, u->pieces, word->length, NO_PIECE, best, &score);
            for (size_t k = 0; k < n; k++) {
                counts[best[k]] += word->count;
            }
        }
#pragma omp for schedule(static)
        for (size_t p = 0; p < u->piece_count; p++) {
            for (int t = 1; t < u->threads; t++) {
                u->counts[p] += u->counts[(size_t)t * u->piece_count + p];
            }
        }
    }
}

// Derivative of the logarithm of the gamma function, x > 0: psi(x) = psi(x + 1) - 1 / x, and its
// asymptotic series.
static inline double digamma_(double x) {
    double sum = 0;
    for (; x < 7; x++) {
        sum -= 1 / x;
    }
    double r = 1 / (x * x);
    return sum + log(x) - 0.5 / x -
           r * (1.0 / 12 - r * (1.0 / 120 - r * (1.0 / 252 - r * (1.0 / 240 - r / 132))));
}

static inline void unigram_set_scaled_(UnigramPiece *piece) {
    piece->score = piece->score < UNIGRAM_MIN_SCORE ? UNIGRAM_MIN_SCORE : piece->score;
    piece->scaled = exp(piece->score + UNIGRAM_SCALE * piece->length);
}

// Probabilities from the expected counts, with the digamma function in place of the logarithm: a
// sparse prior (Liang, Petrov, Jordan, Klein 2007). What is expected less than half a time is left
// out, but for single characters and, if `all`, for the rest.
static inline void unigram_maximise_(UnigramTrainer *u, bool all) {
    const double unit = ldexp(1, -UNIGRAM_COUNT_BITS);
    double total = 0;
    for (size_t p = 0; p < u->piece_count; p++) {
        double count = (double)u->counts[p] * unit;
        total += count < 0.5 && (all || p < u->characters) ? 0.5 : count < 0.5 ? 0 : count;
    }
    double logarithm = digamma_(total);
    for (size_t p = 0; p < u->piece_count; p++) {
        double count = (double)u->counts[p] * unit;
        u->pieces[p].scaled = 0;
        if (count >= 0.5 || all || p < u->characters) {
            u->pieces[p].score = digamma_(count < 0.5 ? 0.5 : count) - logarithm;
            unigram_set_scaled_(&u->pieces[p]);
        }
    }
}

static inline bool unigram_learn_(UnigramTrainer *u, bool last, Error *e) {
    free(u->counts);
    u->counts = malloc((size_t)u->threads * u->piece_count * sizeof *u->counts);
    if (!u->counts || !unigram_trie(u, e)) {
        return unigram_no_memory(e);
    }
    for (int i = 0; i < UNIGRAM_ITERATIONS; i++) {
        unigram_count_(u, false);
        unigram_maximise_(u, last && i == UNIGRAM_ITERATIONS - 1);
    }
    return true;
}

typedef struct {
    int rank; // 2: a single character; 1: used, by its value to the likelihood; 0: of no use now
    double value;
    uint32_t piece;
} Worth_;

static inline int worth_order_(const void *a, const void *b) {
    const Worth_ *x = a, *y = b;
    return x->rank != y->rank     ? y->rank - x->rank
           : x->value != y->value ? (x->value < y->value ? 1 : -1)
                                  : (x->piece > y->piece) - (x->piece < y->piece);
}

// How much the log likelihood of the likeliest segmentations would fall if a piece were cut into
// the next best ones (Kudo 2018, section 3.2), and what the tokens would cost that come to it.
// counts are those in the likeliest segmentations, `total` their sum.
static inline Worth_ piece_worth_(const UnigramTrainer *u, Lattice *lattice, uint32_t p,
                                  double total) {
    const UnigramPiece *piece = &u->pieces[p];
    double count = (double)u->counts[p], without, value = 0;
    uint32_t parts[UNIGRAM_WORD_LENGTH];
    if (p < u->characters) {
        return (Worth_){2, 0, p};
    }
    if (!(piece->scaled > 0)) {
        return (Worth_){0, -INFINITY, p};
    }
    if (!u->counts[p]) {
        return (Worth_){0, piece->score, p};
    }
    lattice_score(lattice, u, u->text + piece->start, piece->length);
    size_t n = lattice_best(lattice, u->pieces, piece->length, p, parts, &without);
    value = log(count / total) + (double)n * log(total + count * (double)(n - 1));
    for (size_t k = 0; k < n; k++) {
        value -= log((double)u->counts[parts[k]] + count);
    }
    return (Worth_){1, count * (value + UNIGRAM_TOKEN_COST * (double)(n - 1)), p};
}

// Keeps the `kept` pieces of most worth, the single characters first.
static inline bool unigram_keep_(UnigramTrainer *u, Worth_ *worth, size_t kept, Error *e) {
    UnigramPiece *pieces = malloc(kept * sizeof *pieces);
    if (!pieces) {
        return unigram_no_memory(e);
    }
    qsort(worth, u->piece_count, sizeof *worth, worth_order_);
    for (size_t k = 0; k < kept; k++) {
        pieces[k] = u->pieces[worth[k].piece];
    }
    free(u->pieces);
    u->pieces = pieces;
    u->piece_count = u->piece_capacity = kept;
    return true;
}

// Drops the pieces of least worth, down to the share UNIGRAM_SHRINK of those in use, but not below
// `least`.
static inline bool unigram_prune_(UnigramTrainer *u, size_t least, Error *e) {
    Worth_ *worth = malloc(u->piece_count * sizeof *worth);
    size_t used = 0;
    double total = 0;
    if (!worth) {
        return unigram_no_memory(e);
    }
    unigram_count_(u, true);
    for (size_t p = 0; p < u->piece_count; p++) {
        total += (double)u->counts[p];
    }
#pragma omp parallel for num_threads(u->threads) schedule(dynamic, 1024) reduction(+ : used)
    for (size_t p = 0; p < u->piece_count; p++) {
        Lattice lattice;
        worth[p] = piece_worth_(u, &lattice, (uint32_t)p, total);
        used += worth[p].rank > 0;
    }
    size_t kept = (size_t)(UNIGRAM_SHRINK * (double)used);
    bool ok = unigram_keep_(u, worth, kept < least ? least : kept, e);
    free(worth);
    return ok;
}

// Keeps the likeliest pieces, as pruning alone leaves long ones that are rare and come to nothing
// in other texts.
static inline bool unigram_choose_(UnigramTrainer *u, size_t wanted, Error *e) {
    Worth_ *worth = malloc(u->piece_count * sizeof *worth);
    if (!worth) {
        return unigram_no_memory(e);
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        const UnigramPiece *piece = &u->pieces[p];
        worth[p] = (Worth_){p < u->characters ? 2 : piece->scaled > 0, piece->score, (uint32_t)p};
    }
    bool ok = unigram_keep_(u, worth, wanted, e);
    free(worth);
    return ok;
}

// Prunes the seeds to `wanted` pieces and leaves their scores, rounded.
static inline bool unigram_train_(UnigramTrainer *u, size_t wanted, Error *e) {
    size_t used = 0;
    for (size_t p = 0; p < u->piece_count; p++) {
        unigram_set_scaled_(&u->pieces[p]);
    }
    if (!unigram_learn_(u, false, e)) {
        return false;
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        used += u->pieces[p].scaled > 0;
    }
    if (used < wanted) {
        size_t largest = UNIGRAM_SPECIALS + 256 + used;
        return fail(e, "the text yields only %zu tokens: --vocab-size must be at most %zu", largest,
                    largest);
    }
    while (u->piece_count > wanted + wanted / 10) {
        if (!unigram_prune_(u, wanted + wanted / 10, e) || !unigram_learn_(u, false, e)) {
            return false;
        }
    }
    if (!unigram_choose_(u, wanted, e) || !unigram_learn_(u, true, e)) {
        return false;
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        u->pieces[p].score = round(u->pieces[p].score * UNIGRAM_SCORE_UNITS) / UNIGRAM_SCORE_UNITS;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// The tokenizer

// Everything in the vocabulary in order of id. Types as SentencePiece numbers them.

typedef struct {
    char text[4 * UNIGRAM_PIECE_LENGTH + 1];
    size_t length;
    double score;
    int type;
} VocabularyPiece_;

static inline int vocabulary_piece_order_(const void *a, const void *b) {
    const VocabularyPiece_ *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : strcmp(x->text, y->text);
}

static inline void vocabulary_piece_set_(VocabularyPiece_ *piece, const char *text, double score,
                                         int type) {
    piece->length = (size_t)snprintf(piece->text, sizeof piece->text, "%s", text);
    piece->score = score;
    piece->type = type;
}

// The vocabulary: unknown, end of document, bytes, then the trained pieces from the likeliest down.
// The first ones never stand for text, but `tokenizers` looks for them there: their score is below
// that of any six characters, which is how "<0x41>" must be cut.
static inline VocabularyPiece_ *unigram_vocabulary_(const UnigramTrainer *u, size_t *count,
                                                    Error *e) {
    const size_t first = UNIGRAM_SPECIALS + 256;
    VocabularyPiece_ *vocabulary = malloc((first + u->piece_count) * sizeof *vocabulary);
    if (!vocabulary) {
        unigram_no_memory(e);
        return NULL;
    }
    vocabulary_piece_set_(&vocabulary[0], UNIGRAM_UNKNOWN_TEXT, 8 * UNIGRAM_MIN_SCORE,
                          PIECE_UNKNOWN);
    vocabulary_piece_set_(&vocabulary[1], END_OF_DOCUMENT_TEXT, 8 * UNIGRAM_MIN_SCORE,
                          PIECE_CONTROL);
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        vocabulary_piece_set_(&vocabulary[UNIGRAM_SPECIALS + b], text, 8 * UNIGRAM_MIN_SCORE,
                              PIECE_BYTE);
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        VocabularyPiece_ *piece = &vocabulary[first + p];
        *piece = (VocabularyPiece_){.score = u->pieces[p].score, .type = PIECE_NORMAL};
        for (uint32_t i = 0; i < u->pieces[p].length; i++) {
            uint32_t c = u->code_points[u->text[u->pieces[p].start + i]];
            piece->length += utf8_encode(c, piece->text + piece->length);
        }
    }
    qsort(vocabulary + first, u->piece_count, sizeof *vocabulary, vocabulary_piece_order_);
    *count = first + u->piece_count;
    return vocabulary;
}

// Makes a tokenizer of the pieces and saves it.
static inline bool unigram_save_(const UnigramTrainer *u, const char *directory, Error *e) {
    size_t count = 0;
    VocabularyPiece_ *vocabulary = unigram_vocabulary_(u, &count, e);
    Tokenizer t;
    tokenizer_init_unigram(&t);
    bool ok = vocabulary;
    for (size_t id = 0; ok && id < count; id++) {
        const VocabularyPiece_ *piece = &vocabulary[id];
        ok = tokenizer_add_piece(&t, piece->text, piece->length, piece->score, piece->type, e);
    }
    t.pieces.unknown = 0;
    t.begin = t.end_of_document = 1;
    ok = ok && tokenizer_index(&t, "trained tokenizer", e) && tokenizer_save(&t, directory, e);
    tokenizer_free(&t);
    free(vocabulary);
    return ok;
}

// Trains a Unigram tokenizer of exactly `vocab_size` tokens and writes tokenizer.model
// (SentencePiece), tokenizer.json (the same for Hugging Face `tokenizers`) and
// tokenizer_config.json into an existing directory. Ids: 0 <|unknown|>, which no text gives, 1
// <|endoftext|>, 2 .. 257 the bytes, then the pieces from the likeliest down. Characters beyond the
// commonest that make up `coverage` (0 < coverage <= 1) of the text are cut into bytes. No
// normalization and no prefix: every text comes back word for word. The files depend on the text
// alone, not on the number of threads. The trainer is left as it was.
static inline bool trainer_finish_unigram(const TokenizerTrainer *trainer, size_t vocab_size,
                                          double coverage, const char *directory, Error *e) {
    UnigramTrainer u = {.threads = omp_get_max_threads()};
    if (!(coverage > 0 && coverage <= 1)) {
        return fail(e, "character coverage %g: must be above 0 and at most 1", coverage);
    }
    bool ok = unigram_alphabet(&u, trainer, coverage, e);
    if (ok) {
        size_t least = UNIGRAM_SPECIALS + 256 + (size_t)(u.alphabet - SYMBOL_FIRST);
        ok = (vocab_size >= least && vocab_size <= TOKENIZER_MAX_VOCAB) ||
             fail(e,
                  "--vocab-size %zu: must be %zu (2 special tokens, 256 bytes, the %zu characters "
                  "that make up %g of "
                  "the text) to %d",
                  vocab_size, least, least - UNIGRAM_SPECIALS - 256, coverage, TOKENIZER_MAX_VOCAB);
    }
    ok = ok && unigram_text(&u, trainer, e) && unigram_seed(&u, e) &&
         unigram_train_(&u, vocab_size - UNIGRAM_SPECIALS - 256, e) &&
         unigram_save_(&u, directory, e);
    unigram_free(&u);
    return ok;
}

#endif
