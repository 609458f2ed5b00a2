// train_unigram.h: trains a Unigram tokenizer (Kudo 2018): EM, pruning, and the resulting
// vocabulary.
#ifndef TOKENIZERS_TRAIN_UNIGRAM_H
#define TOKENIZERS_TRAIN_UNIGRAM_H

#include "tokenizers/unigram_lattice.h"
#include "tokenizers/unigram_seeds.h"

// ------------------------------------------------------------------------------------------------
// Expectation maximisation

// E step. counts[0 .. piece_count): the expected count of each piece, in units of
// 2^-UNIGRAM_COUNT_BITS; or, if `viterbi`, its occurrences in the most probable segmentations. Each
// thread has counts of its own; since they are integers, their sum does not depend on the schedule.
static inline void unigram_e_step_(UnigramTrainer *u, bool viterbi) {
    memset(u->counts, 0, (size_t)u->threads * u->piece_count * sizeof *u->counts);
#pragma omp parallel num_threads(u->threads)
    {
        uint64_t *counts = u->counts + (size_t)omp_get_thread_num() * u->piece_count;
        Lattice lattice;
#pragma omp for schedule(dynamic, 1024)
        for (size_t w = 0; w < u->word_count; w++) {
            const UnigramWord *word = &u->words[w];
            uint32_t best[UNIGRAM_WORD_LENGTH];
            lattice_build(&lattice, u, u->text + word->start, word->length);
            if (!viterbi) {
                lattice_expect(&lattice, u->pieces, word, counts);
                continue;
            }
            size_t n = lattice_best(&lattice, u->pieces, word->length, NO_PIECE, best);
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

// Digamma function, x > 0: by the recurrence psi(x) = psi(x + 1) - 1 / x and the asymptotic series.
static inline double digamma_(double x) {
    double sum = 0;
    for (; x < 7; x++) {
        sum -= 1 / x;
    }
    double r = 1 / (x * x);
    return sum + log(x) - 0.5 / x -
           r * (1.0 / 12 - r * (1.0 / 120 - r * (1.0 / 252 - r * (1.0 / 240 - r / 132))));
}

// Clamps a piece's score and sets its scaled probability: the piece is in use.
static inline void unigram_set_scaled_(UnigramPiece *piece) {
    piece->score = piece->score < UNIGRAM_MIN_SCORE ? UNIGRAM_MIN_SCORE : piece->score;
    piece->scaled = exp(piece->score + UNIGRAM_SCALE * piece->length);
}

// M step. Log probabilities from the expected counts, with the digamma function in place of the
// logarithm: a sparse prior (Liang, Petrov, Jordan, Klein 2007). A piece with an expected count
// below 0.5 is no longer in use, except for single characters, or for all pieces if `all`.
static inline void unigram_m_step_(UnigramTrainer *u, bool all) {
    const double unit = ldexp(1, -UNIGRAM_COUNT_BITS);
    double total = 0;
    for (size_t p = 0; p < u->piece_count; p++) {
        double count = (double)u->counts[p] * unit;
        if (count < 0.5) {
            count = all || p < u->characters ? 0.5 : 0;
        }
        total += count;
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

// UNIGRAM_ITERATIONS of EM. After the last ones of the training (`last`), all pieces are in use.
static inline bool unigram_em_(UnigramTrainer *u, bool last, Error *e) {
    if (!unigram_trie(u, e)) {
        return false;
    }
    for (int i = 0; i < UNIGRAM_ITERATIONS; i++) {
        unigram_e_step_(u, false);
        unigram_m_step_(u, last && i == UNIGRAM_ITERATIONS - 1);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Pruning

// A piece that may be kept.
typedef struct {
    int class;   // 2: single character, 1: occurs in a segmentation, 0: does not
    double loss; // by which pieces of a class are ranked: that of removing it, or its score
    uint32_t piece;
} Candidate_;

// By descending class, then by descending loss.
static inline int candidate_order_(const void *a, const void *b) {
    const Candidate_ *x = a, *y = b;
    if (x->class != y->class) {
        return y->class - x->class;
    }
    if (x->loss != y->loss) {
        return x->loss < y->loss ? 1 : -1;
    }
    return order_u64(x->piece, y->piece);
}

// Ranks a piece by its probability.
static inline Candidate_ piece_probability_(const UnigramTrainer *u, uint32_t p) {
    const UnigramPiece *piece = &u->pieces[p];
    return (Candidate_){p < u->characters ? 2 : piece->scaled > 0, piece->score, p};
}

// The pruning loss of a piece (Kudo 2018, section 3.2): how much the log likelihood of the most
// probable segmentations would decrease if the piece were replaced by its own next best
// segmentation, plus UNIGRAM_TOKEN_COST for each additional token. u->counts are the occurrences in
// the most probable segmentations, `total` is their sum.
static inline Candidate_ piece_loss_(const UnigramTrainer *u, uint32_t p, double total) {
    const UnigramPiece *piece = &u->pieces[p];
    const double count = (double)u->counts[p];
    if (p < u->characters) {
        return (Candidate_){2, 0, p};
    }
    if (!(piece->scaled > 0)) {
        return (Candidate_){0, -INFINITY, p};
    }
    if (!u->counts[p]) {
        return (Candidate_){0, piece->score, p};
    }

    // The n pieces that would replace it.
    Lattice lattice;
    uint32_t alternative[UNIGRAM_WORD_LENGTH];
    lattice_build(&lattice, u, u->text + piece->start, piece->length);
    size_t n = lattice_best(&lattice, u->pieces, piece->length, p, alternative);

    // The loss per occurrence. Without the piece, the total grows to total + count * (n - 1).
    double loss = log(count / total) + (double)n * log(total + count * (double)(n - 1));
    for (size_t k = 0; k < n; k++) {
        loss -= log((double)u->counts[alternative[k]] + count);
    }
    return (Candidate_){1, count * (loss + UNIGRAM_TOKEN_COST * (double)(n - 1)), p};
}

// Removes the pieces with the smallest pruning loss: keeps the fraction UNIGRAM_SHRINK of those
// that occur, but at least `least` pieces. Or, if `last`, keeps the `least` most probable pieces:
// pruning alone would leave long, rare ones that are not used in other texts.
static inline bool unigram_prune_(UnigramTrainer *u, size_t least, bool last, Error *e) {
    Candidate_ *candidates = malloc(u->piece_count * sizeof *candidates);
    UnigramPiece *pieces = malloc(u->piece_count * sizeof *pieces);
    size_t used = 0;
    double total = 0;
    if (!candidates || !pieces) {
        free(candidates);
        free(pieces);
        return unigram_no_memory(e);
    }

    // Losses under the most probable segmentations.
    if (!last) {
        unigram_e_step_(u, true);
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        total += (double)u->counts[p];
    }
#pragma omp parallel for num_threads(u->threads) schedule(dynamic, 1024) reduction(+ : used)
    for (size_t p = 0; p < u->piece_count; p++) {
        candidates[p] =
            last ? piece_probability_(u, (uint32_t)p) : piece_loss_(u, (uint32_t)p, total);
        used += candidates[p].class > 0;
    }

    // Keep the best.
    size_t kept = last ? 0 : (size_t)(UNIGRAM_SHRINK * (double)used);
    kept = kept < least ? least : kept;
    qsort(candidates, u->piece_count, sizeof *candidates, candidate_order_);
    for (size_t k = 0; k < kept; k++) {
        pieces[k] = u->pieces[candidates[k].piece];
    }
    free(candidates);
    free(u->pieces);
    u->pieces = pieces;
    u->piece_count = kept;
    return true;
}

// Trains the seed vocabulary down to `wanted` pieces; their final scores are rounded to multiples
// of 1 / UNIGRAM_SCORE_UNITS.
static inline bool unigram_train_(UnigramTrainer *u, size_t wanted, Error *e) {
    size_t used = 0;
    u->counts = malloc((size_t)u->threads * u->piece_count * sizeof *u->counts);
    if (!u->counts) {
        return unigram_no_memory(e);
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        unigram_set_scaled_(&u->pieces[p]);
    }

    // The first EM shows how many pieces the text can fill.
    if (!unigram_em_(u, false, e)) {
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

    // Prune to 1.1 * wanted pieces (Kudo 2018), then keep the most probable ones.
    while (u->piece_count > wanted + wanted / 10) {
        if (!unigram_prune_(u, wanted + wanted / 10, false, e) || !unigram_em_(u, false, e)) {
            return false;
        }
    }
    if (!unigram_prune_(u, wanted, true, e) || !unigram_em_(u, true, e)) {
        return false;
    }

    for (size_t p = 0; p < u->piece_count; p++) {
        u->pieces[p].score = round(u->pieces[p].score * UNIGRAM_SCORE_UNITS) / UNIGRAM_SCORE_UNITS;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// The tokenizer

// By descending score, then by text: symbols are in the order of the code points.
static inline int trained_order_(const void *a, const void *b, void *trainer) {
    const UnigramPiece *x = a, *y = b;
    const int32_t *text = ((const UnigramTrainer *)trainer)->text;
    if (x->score != y->score) {
        return x->score < y->score ? 1 : -1;
    }
    for (uint32_t i = 0; i < x->length && i < y->length; i++) {
        int32_t s = text[x->start + i], t = text[y->start + i];
        if (s != t) {
            return s < t ? -1 : 1;
        }
    }
    return order_u64(x->length, y->length);
}

// Adds the pieces in the order of the ids: unknown, end of document, bytes, then the trained pieces
// by descending probability. The names of the first ones are never matched in text, except by
// `tokenizers`: hence their score is below that of any six characters, so that the text "<0x41>" is
// segmented into its characters.
static inline bool unigram_vocabulary_(UnigramTrainer *u, Tokenizer *t, Error *e) {
    const double lowest = 8 * UNIGRAM_MIN_SCORE;
    char text[4 * UNIGRAM_PIECE_LENGTH];
    bool ok = tokenizer_add_piece(t, UNIGRAM_UNKNOWN_TEXT, strlen(UNIGRAM_UNKNOWN_TEXT), lowest,
                                  PIECE_UNKNOWN, e) &&
              tokenizer_add_piece(t, END_OF_DOCUMENT_TEXT, strlen(END_OF_DOCUMENT_TEXT), lowest,
                                  PIECE_CONTROL, e);
    for (int b = 0; ok && b < 256; b++) {
        size_t length = (size_t)snprintf(text, sizeof text, "<0x%02X>", b);
        ok = tokenizer_add_piece(t, text, length, lowest, PIECE_BYTE, e);
    }

    qsort_r(u->pieces, u->piece_count, sizeof *u->pieces, trained_order_, u);
    for (size_t p = 0; ok && p < u->piece_count; p++) {
        const UnigramPiece *piece = &u->pieces[p];
        size_t length = 0;
        for (uint32_t i = 0; i < piece->length; i++) {
            length += utf8_encode(u->code_points[u->text[piece->start + i]], text + length);
        }
        ok = tokenizer_add_piece(t, text, length, piece->score, PIECE_NORMAL, e);
    }
    return ok;
}

// Builds the tokenizer and saves it.
static inline bool unigram_save_(UnigramTrainer *u, const char *directory, Error *e) {
    Tokenizer t;
    tokenizer_init(&t);
    t.model = MODEL_UNIGRAM;
    t.pieces.sentencepiece = t.pieces.byte_fallback = true;
    t.pieces.unknown = 0;
    t.begin = t.end_of_document = 1;
    bool ok = unigram_vocabulary_(u, &t, e) &&
              tokenizer_index(&t, &(FileErrors){"trained tokenizer", e}) &&
              tokenizer_save(&t, directory, e);
    tokenizer_free(&t);
    return ok;
}

// Trains a Unigram tokenizer of exactly `vocab_size` tokens and writes tokenizer.model
// (SentencePiece), tokenizer.json (the same for Hugging Face `tokenizers`) and
// tokenizer_config.json to an existing directory. Ids: 0 <|unknown|>, which no text encodes to, 1
// <|endoftext|>, 2 .. 257 the bytes, then the pieces by descending probability. The alphabet is the
// most frequent characters that cover the fraction `coverage` (0 < coverage <= 1) of the text; all
// others are encoded as bytes. No normalization and no dummy prefix: decoding restores every text
// exactly. The files depend only on the text, not on the number of threads. The trainer is not
// changed.
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
                  "--vocab-size %zu: must be %zu (2 special tokens, 256 bytes, the %zu "
                  "characters that cover %g of the text) to %d",
                  vocab_size, least, least - UNIGRAM_SPECIALS - 256, coverage, TOKENIZER_MAX_VOCAB);
    }

    ok = ok && unigram_text(&u, trainer, e) && unigram_seed(&u, e) &&
         unigram_train_(&u, vocab_size - UNIGRAM_SPECIALS - 256, e) &&
         unigram_save_(&u, directory, e);
    unigram_free(&u);
    return ok;
}

#endif
