// unigram_text.h: training a Unigram model (Kudo 2018): its state, and the text as symbols.
//
// Unigram language model with byte fallback (Kudo 2018), as SentencePiece trains it: each piece has
// a probability, a word's is summed over all its segmentations, and the text is cut into the
// likeliest one.
//
// No piece crosses a white space (a space may begin one) or mixes letters with what are none;
// kanji, kana and Latin letters are all letters. Runs of white space are words too, so indentation
// and empty lines become pieces.
#ifndef TOKENIZERS_UNIGRAM_TEXT_H
#define TOKENIZERS_UNIGRAM_TEXT_H

#include <omp.h>

#include "tokenizer.h"
#include "tokenizers/train_words.h"

enum {
    UNIGRAM_SPECIALS = 2, // unknown and end of document, then the 256 bytes, then what was trained
    UNIGRAM_PIECE_LENGTH = 16, // characters at most
    UNIGRAM_WORD_LENGTH = 48,  // longer ones are cut: see UNIGRAM_SCALE
    UNIGRAM_SEEDS = 1000000,
    UNIGRAM_SEED_COUNT = 3, // times that a seed comes at least: rarer ones fit this text only
    UNIGRAM_ITERATIONS = 2, // of expectation maximisation before each pruning
    UNIGRAM_COUNT_BITS =
        24, // expected counts are integers, in units of 2^-24: their sum has no order
    SYMBOL_END_ = 0,
    SYMBOL_CUT_ = 1, // between words
    SYMBOL_FIRST = 2,
    CODE_POINTS_ = 0x110000,
};
static const char UNIGRAM_UNKNOWN_TEXT[] = "<|unknown|>";
static const double UNIGRAM_SHRINK = 0.75;
// A token more in the text counts as much as a loss of 8 in log likelihood, some token's worth: the
// vocabulary is for models whose cost is the number of tokens.
static const double UNIGRAM_TOKEN_COST = 8;
static const double UNIGRAM_COVERAGE = 0.9995;
// Probabilities are multiplied by e^8 for each character, so that those of whole words can be
// summed as they are: with logarithms of at least -22 (5e-10) for a character, 48 characters stay
// within e^-672 and e^384, and doubles within e^-708 and e^709.
static const double UNIGRAM_SCALE = 8, UNIGRAM_MIN_SCORE = -22;
// Scores are multiples of 1/64. Then float32 sums are exact up to 2^18, some 100 KB of text, so
// that sentencepiece, which sums in float32, and `tokenizers`, which sums in double, cut the text
// alike.
static const double UNIGRAM_SCORE_UNITS = 64;

typedef struct {
    uint32_t start, length; // in UnigramTrainer.text
    uint64_t count;
} UnigramWord;

typedef struct {
    uint32_t start, length; // in UnigramTrainer.text
    double score;           // log probability
    double scaled;          // e^(score + UNIGRAM_SCALE * length), 0 if the piece is left out
} UnigramPiece;

// What a piece gives when it is found: itself, and the node under which longer ones are.
typedef struct {
    uint64_t key; // node << 32 | symbol, 0 if empty
    uint32_t child, piece;
} TrieSlot;

enum { NO_PIECE = UINT32_MAX };

typedef struct {
    TrieSlot *roots; // (alphabet), first symbols
    TrieSlot *slots; // open addressing
    size_t mask;
} UnigramTrie;

typedef struct {
    uint32_t *code_points; // (alphabet), of a symbol
    int32_t *symbols;      // (CODE_POINTS_), of a code point, SYMBOL_CUT_ if none
    int32_t alphabet;
    int32_t *text; // the alphabet as words of one character, then all words, each followed by
                   // SYMBOL_CUT_; SYMBOL_END_
    size_t text_length, text_capacity;
    UnigramWord *words;
    size_t word_count, word_capacity;
    UnigramPiece *pieces; // the first ones are the single characters
    size_t piece_count, piece_capacity, characters;
    UnigramTrie trie;
    uint64_t *counts; // (threads, piece_count)
    int threads;
} UnigramTrainer;

static inline void unigram_free(UnigramTrainer *u) {
    free(u->code_points);
    free(u->symbols);
    free(u->text);
    free(u->words);
    free(u->pieces);
    free(u->trie.roots);
    free(u->trie.slots);
    free(u->counts);
}

static inline bool unigram_no_memory(Error *e) {
    return fail(e, "tokenizer: no memory to train; train on a smaller sample");
}

typedef struct {
    uint64_t count;
    uint32_t code_point;
} CharacterCount_;

static inline int character_order_(const void *a, const void *b) {
    const CharacterCount_ *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1)
                                : (x->code_point > y->code_point) - (x->code_point < y->code_point);
}

// Printable ASCII and the line end are always pieces. So the text "<0x41>" never needs an unknown
// character, which might make a reader that matches byte pieces in text (`tokenizers`) take it for
// the byte 0x41.
static inline bool always_piece_(uint32_t c) {
    return c == '\n' || (c >= 0x20 && c < 0x7F);
}

// NUL ends strings in some readers; U+2581 stands for a space in sentencepiece, whose decoder makes
// it one. Both are always written as bytes.
static inline bool never_piece_(uint32_t c) {
    return c == 0 || c == 0x2581;
}

// Gives symbols, in order of code point, to the commonest characters that make up `coverage` of the
// text.
static inline bool unigram_alphabet(UnigramTrainer *u, const TokenizerTrainer *trainer,
                                    double coverage, Error *e) {
    CharacterCount_ *counts = calloc(CODE_POINTS_, sizeof *counts);
    uint64_t total = 0, covered = 0;
    u->symbols = malloc(CODE_POINTS_ * sizeof *u->symbols);
    u->code_points = malloc((CODE_POINTS_ + SYMBOL_FIRST) * sizeof *u->code_points);
    if (!counts || !u->symbols || !u->code_points) {
        free(counts);
        return unigram_no_memory(e);
    }
    for (uint32_t c = 0; c < CODE_POINTS_; c++) {
        counts[c].code_point = c;
        u->symbols[c] = SYMBOL_CUT_;
    }
    for (size_t w = 0; w < trainer->word_count; w++) {
        const Word *word = &trainer->words[w];
        for (size_t i = 0, n; i < word->length; i += n ? n : 1) {
            uint32_t c;
            n = utf8_decode(trainer->text + word->start + i, word->length - i, &c);
            if (n && !never_piece_(c)) {
                counts[c].count += word->count;
                total += word->count;
            }
        }
    }
    qsort(counts, CODE_POINTS_, sizeof *counts, character_order_);
    for (size_t k = 0; k < CODE_POINTS_; k++) {
        bool wanted = counts[k].count && (double)covered < coverage * (double)total;
        covered += counts[k].count;
        if (wanted || always_piece_(counts[k].code_point)) {
            u->symbols[counts[k].code_point] = SYMBOL_FIRST;
        }
    }
    free(counts);
    u->alphabet = SYMBOL_FIRST;
    for (uint32_t c = 0; c < CODE_POINTS_; c++) {
        if (u->symbols[c] == SYMBOL_FIRST) {
            u->code_points[u->alphabet] = c;
            u->symbols[c] = u->alphabet++;
        }
    }
    return true;
}

static inline bool unigram_symbol_(UnigramTrainer *u, int32_t symbol, Error *e) {
    if (u->text_length >= INT32_MAX - 1) {
        return fail(
            e, "tokenizer: more than %d characters of different words; train on a smaller sample",
            INT32_MAX);
    }
    if (!array_reserve(&u->text, &u->text_capacity, u->text_length, 1, sizeof *u->text, e)) {
        return false;
    }
    u->text[u->text_length++] = symbol;
    return true;
}

// Ends the word that began at `start`, if it has a symbol.
static inline bool unigram_cut_(UnigramTrainer *u, size_t start, uint64_t count, Error *e) {
    if (u->text_length == start) {
        return true;
    }
    if (!array_reserve(&u->words, &u->word_capacity, u->word_count, 1, sizeof *u->words, e)) {
        return false;
    }
    u->words[u->word_count++] =
        (UnigramWord){(uint32_t)start, (uint32_t)(u->text_length - start), count};
    return unigram_symbol_(u, SYMBOL_CUT_, e);
}

static inline bool unigram_text(UnigramTrainer *u, const TokenizerTrainer *trainer, Error *e) {
    bool ok = true;
    for (int32_t s = SYMBOL_FIRST; ok && s < u->alphabet; s++) {
        size_t start = u->text_length;
        ok = unigram_symbol_(u, s, e) && unigram_cut_(u, start, 0, e);
    }
    for (size_t w = 0; ok && w < trainer->word_count; w++) {
        const Word *word = &trainer->words[w];
        size_t start = u->text_length;
        for (size_t i = 0, n; ok && i < word->length; i += n ? n : 1) {
            uint32_t c;
            n = utf8_decode(trainer->text + word->start + i, word->length - i, &c);
            int32_t symbol = n ? u->symbols[c] : SYMBOL_CUT_;
            if (symbol == SYMBOL_CUT_ || u->text_length - start == UNIGRAM_WORD_LENGTH) {
                ok = unigram_cut_(u, start, word->count, e);
                start = u->text_length;
            }
            ok = ok && (symbol == SYMBOL_CUT_ || unigram_symbol_(u, symbol, e));
        }
        ok = ok && unigram_cut_(u, start, word->count, e);
    }
    return ok && unigram_symbol_(u, SYMBOL_END_, e);
}

#endif
