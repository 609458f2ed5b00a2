// unigram_text.h: the state of Unigram training and the training text as symbols.
//
// A unigram language model with byte fallback (Kudo 2018), as SentencePiece trains it: each piece
// has a probability, the probability of a word is the sum over all its segmentations, and text is
// encoded as the most probable segmentation (Viterbi).
//
// A piece never crosses white space (but may begin with a space) and never mixes letters with other
// characters; kanji, kana and Latin characters are all letters. Runs of white space are words too,
// so indentation and blank lines become pieces.
#ifndef TOKENIZERS_UNIGRAM_TEXT_H
#define TOKENIZERS_UNIGRAM_TEXT_H

#include <omp.h>

#include "tokenizer.h"
#include "tokenizers/train_words.h"

enum {
    UNIGRAM_SPECIALS = 2,      // ids: unknown, end of document; then 256 bytes, trained pieces
    UNIGRAM_PIECE_LENGTH = 16, // maximum, in characters
    UNIGRAM_WORD_LENGTH = 48,  // maximum; longer words are split: see UNIGRAM_SCALE
    UNIGRAM_SEEDS = 1000000,   // maximum size of the seed vocabulary
    UNIGRAM_SEED_COUNT = 3,    // minimum occurrences of a seed: rarer ones would overfit
    UNIGRAM_ITERATIONS = 2,    // of EM before each pruning
    UNIGRAM_COUNT_BITS = 24,   // expected counts are in units of 2^-24: see unigram_e_step_
    SYMBOL_END_ = 0,           // ends the text
    SYMBOL_CUT_ = 1,           // ends each word
    SYMBOL_FIRST = 2,          // of the characters
    CODE_POINTS_ = 0x110000,
};
static const char UNIGRAM_UNKNOWN_TEXT[] = "<|unknown|>";

// Fraction of the pieces in use that a pruning keeps.
static const double UNIGRAM_SHRINK = 0.75;

// An additional token in the encoded text counts as much as a loss of 8 in log likelihood, about
// that of one token: the cost of a language model depends on the number of tokens.
static const double UNIGRAM_TOKEN_COST = 8;

// Default character coverage.
static const double UNIGRAM_COVERAGE = 0.9995;

// Probabilities are multiplied by e^8 per character, so that those of complete words can be summed
// without logarithms: with log probabilities of at least -22 (3e-10) per character, 48 characters
// stay within e^-672 and e^384, and the range of double is e^-708 to e^709.
static const double UNIGRAM_SCALE = 8, UNIGRAM_MIN_SCORE = -22;

// Scores are multiples of 1/64. Then float32 sums are exact up to 2^18, about 100 KB of text, so
// that sentencepiece, which sums in float32, and `tokenizers`, which sums in double, find the same
// segmentation.
static const double UNIGRAM_SCORE_UNITS = 64;

typedef struct {
    uint32_t start, length; // in UnigramTrainer.text
    uint64_t count;
} UnigramWord;

typedef struct {
    uint32_t start, length; // in UnigramTrainer.text
    double score;           // log probability
    double scaled;          // e^(score + UNIGRAM_SCALE * length), 0 if the piece is not in use
} UnigramPiece;

// An edge of the trie: the piece that ends there and the node below it, with the longer pieces.
typedef struct {
    uint64_t key; // node << 32 | symbol, 0 if empty
    uint32_t child, piece;
} TrieSlot;

enum { NO_PIECE = UINT32_MAX };

typedef struct {
    TrieSlot *roots; // (alphabet) edges of the root, by symbol
    TrieSlot *slots; // all other edges: open addressing by (node, symbol)
    size_t mask;     // number of slots - 1
} UnigramTrie;

typedef struct {
    // The alphabet: characters that may occur in pieces.
    uint32_t *code_points; // (alphabet) code point of a symbol
    int32_t *symbols;      // (CODE_POINTS_) symbol of a code point, SYMBOL_CUT_ if it has none
    int32_t alphabet;      // symbols, including SYMBOL_END_ and SYMBOL_CUT_

    // The text: the alphabet as words of one character, then all words, each followed by
    // SYMBOL_CUT_; finally SYMBOL_END_.
    int32_t *text;
    size_t text_length, text_capacity;
    UnigramWord *words;
    size_t word_count, word_capacity;

    // The model.
    UnigramPiece *pieces; // the first `characters` are the single characters
    size_t piece_count, piece_capacity, characters;
    UnigramTrie trie;
    uint64_t *counts; // (threads, piece_count)
    int threads;
} UnigramTrainer;

// Frees everything the trainer owns.
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

// Reports that memory ran out; returns false.
static inline bool unigram_no_memory(Error *e) {
    return fail(e, "tokenizer: no memory to train: train on a smaller sample");
}

typedef struct {
    uint64_t count;
    uint32_t code_point;
} CharacterCount_;

// By descending count, then by code point.
static inline int character_order_(const void *a, const void *b) {
    const CharacterCount_ *x = a, *y = b;
    return x->count != y->count ? order_u64(y->count, x->count)
                                : order_u64(x->code_point, y->code_point);
}

// Printable ASCII and the line feed are always pieces. So the text "<0x41>" is always encoded by
// its characters; otherwise `tokenizers`, which finds byte pieces in text too, might read it as the
// byte 0x41.
static inline bool always_piece_(uint32_t c) {
    return c == '\n' || (c >= 0x20 && c < 0x7F);
}

// NUL ends strings in some readers; U+2581 represents a space in sentencepiece, whose decoder turns
// it into one. Both are always encoded as bytes.
static inline bool never_piece_(uint32_t c) {
    return c == 0 || c == 0x2581;
}

// Counts the characters that may be pieces; returns the sum.
static inline uint64_t count_characters_(CharacterCount_ *counts, const TokenizerTrainer *trainer) {
    uint64_t total = 0;
    for (uint32_t c = 0; c < CODE_POINTS_; c++) {
        counts[c].code_point = c;
    }
    for (size_t w = 0; w < trainer->word_count; w++) {
        const Word *word = &trainer->words[w];
        for (size_t i = 0, n; i < word->length; i += n ? n : 1) {
            uint32_t c;
            n = utf8_decode(trainer->text.data + word->start + i, word->length - i, &c);
            if (n && !never_piece_(c)) {
                counts[c].count += word->count;
                total += word->count;
            }
        }
    }
    return total;
}

// Sets the alphabet: the most frequent characters that cover the fraction `coverage` of the text.
// Symbols are numbered in the order of the code points.
static inline bool unigram_alphabet(UnigramTrainer *u, const TokenizerTrainer *trainer,
                                    double coverage, Error *e) {
    CharacterCount_ *counts = calloc(CODE_POINTS_, sizeof *counts);
    u->symbols = malloc(CODE_POINTS_ * sizeof *u->symbols);
    u->code_points = malloc((CODE_POINTS_ + SYMBOL_FIRST) * sizeof *u->code_points);
    if (!counts || !u->symbols || !u->code_points) {
        free(counts);
        return unigram_no_memory(e);
    }

    // Choose the most frequent ones.
    uint64_t total = count_characters_(counts, trainer), covered = 0;
    qsort(counts, CODE_POINTS_, sizeof *counts, character_order_);
    for (size_t k = 0; k < CODE_POINTS_; k++) {
        bool wanted = counts[k].count && (double)covered < coverage * (double)total;
        uint32_t c = counts[k].code_point;
        covered += counts[k].count;
        u->symbols[c] = wanted || always_piece_(c) ? SYMBOL_FIRST : SYMBOL_CUT_;
    }
    free(counts);

    // Number them.
    u->alphabet = SYMBOL_FIRST;
    for (uint32_t c = 0; c < CODE_POINTS_; c++) {
        if (u->symbols[c] == SYMBOL_FIRST) {
            u->code_points[u->alphabet] = c;
            u->symbols[c] = u->alphabet++;
        }
    }
    return true;
}

// Appends a symbol to the text.
static inline bool unigram_symbol_(UnigramTrainer *u, int32_t symbol, Error *e) {
    if (u->text_length >= INT32_MAX - 1) {
        return fail(
            e, "tokenizer: more than %d characters of distinct words: train on a smaller sample",
            INT32_MAX);
    }
    return array_append(&u->text, &u->text_capacity, &u->text_length, &symbol, sizeof symbol, e);
}

// Ends the word of frequency `count` that began at `start`, unless it is empty.
static inline bool unigram_cut_(UnigramTrainer *u, size_t start, uint64_t count, Error *e) {
    UnigramWord word = {(uint32_t)start, (uint32_t)(u->text_length - start), count};
    return word.length == 0 ||
           (array_append(&u->words, &u->word_capacity, &u->word_count, &word, sizeof word, e) &&
            unigram_symbol_(u, SYMBOL_CUT_, e));
}

// Stores the words as symbols. Words are split at characters outside the alphabet and after
// UNIGRAM_WORD_LENGTH characters.
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
            n = utf8_decode(trainer->text.data + word->start + i, word->length - i, &c);
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
