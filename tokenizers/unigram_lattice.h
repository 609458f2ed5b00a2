// unigram_lattice.h: the lattice of all segmentations of a word into pieces: expected counts
// (forward-backward) and the best segmentation (Viterbi).
#ifndef TOKENIZERS_UNIGRAM_LATTICE_H
#define TOKENIZERS_UNIGRAM_LATTICE_H

#include "tokenizers/unigram_text.h"

// The edge of a node with a symbol, or the free slot for it.
static inline TrieSlot *trie_slot_(const UnigramTrie *t, uint64_t key) {
    size_t i = (size_t)hash_mix(key) & t->mask;
    while (t->slots[i].key && t->slots[i].key != key) {
        i = (i + 1) & t->mask;
    }
    return &t->slots[i];
}

static inline uint64_t trie_key_(uint32_t node, int32_t symbol) {
    return (uint64_t)node << 32 | (uint32_t)symbol;
}

// Inserts a piece; *nodes counts the nodes below the root.
static inline void unigram_trie_add_(const UnigramTrainer *u, uint32_t p, uint32_t *nodes) {
    const UnigramPiece *piece = &u->pieces[p];
    const int32_t *symbols = u->text + piece->start;
    TrieSlot *slot = &u->trie.roots[symbols[0]];
    for (uint32_t i = 1; i < piece->length; i++) {
        slot->child = slot->child ? slot->child : ++*nodes;
        uint64_t key = trie_key_(slot->child, symbols[i]);
        slot = trie_slot_(&u->trie, key);
        if (!slot->key) {
            *slot = (TrieSlot){key, 0, NO_PIECE};
        }
    }
    slot->piece = p;
}

// Builds the trie of all pieces in use.
static inline bool unigram_trie(UnigramTrainer *u, Error *e) {
    UnigramTrie *t = &u->trie;
    size_t inner = 1, size = 4;
    uint32_t nodes = 0;

    // Size of the table: at most two thirds full.
    for (size_t p = 0; p < u->piece_count; p++) {
        inner += u->pieces[p].scaled > 0 ? u->pieces[p].length - 1 : 0;
    }
    while (size < inner + inner / 2) {
        size *= 2;
    }
    free(t->slots);
    free(t->roots);
    t->mask = size - 1;
    t->slots = calloc(size, sizeof *t->slots);
    t->roots = malloc((size_t)u->alphabet * sizeof *t->roots);
    if (!t->slots || !t->roots) {
        return unigram_no_memory(e);
    }

    for (int32_t s = 0; s < u->alphabet; s++) {
        t->roots[s] = (TrieSlot){0, 0, NO_PIECE};
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        if (u->pieces[p].scaled > 0) {
            unigram_trie_add_(u, (uint32_t)p, &nodes);
        }
    }
    return true;
}

// A piece at a position of the word.
typedef struct {
    uint32_t piece;
    uint8_t start, end;
} Edge_;

typedef struct {
    Edge_ edges[UNIGRAM_WORD_LENGTH * UNIGRAM_PIECE_LENGTH]; // by start, then by end
    size_t count;
} Lattice;

// Builds the lattice of the `length` <= UNIGRAM_WORD_LENGTH symbols at `text`: all pieces that
// occur in it.
static inline void lattice_build(Lattice *lattice, const UnigramTrainer *u, const int32_t *text,
                                 uint32_t length) {
    lattice->count = 0;
    for (uint32_t start = 0; start < length; start++) {
        const TrieSlot *slot = &u->trie.roots[text[start]];
        for (uint32_t end = start + 1;; end++) {
            if (slot->piece != NO_PIECE && u->pieces[slot->piece].scaled > 0) {
                lattice->edges[lattice->count++] =
                    (Edge_){slot->piece, (uint8_t)start, (uint8_t)end};
            }
            if (!slot->child || end == length) {
                break;
            }
            slot = trie_slot_(&u->trie, trie_key_(slot->child, text[end]));
            if (!slot->key) {
                break;
            }
        }
    }
}

// Adds the expected count of each piece in all occurrences of a word to counts[piece], in units of
// 2^-UNIGRAM_COUNT_BITS: over all segmentations, weighted by their probability (forward-backward).
static inline void lattice_expect(const Lattice *lattice, const UnigramPiece *pieces,
                                  const UnigramWord *word, uint64_t *counts) {
    double forward[UNIGRAM_WORD_LENGTH + 1] = {1}, backward[UNIGRAM_WORD_LENGTH + 1] = {0};

    // Forward: scaled probability of each prefix.
    for (const Edge_ *edge = lattice->edges; edge < lattice->edges + lattice->count; edge++) {
        forward[edge->end] += forward[edge->start] * pieces[edge->piece].scaled;
    }

    // Backward: of each suffix, and the counts.
    backward[word->length] = 1;
    double share = ldexp((double)word->count, UNIGRAM_COUNT_BITS) / forward[word->length];
    for (size_t k = lattice->count; k-- > 0;) {
        const Edge_ *edge = &lattice->edges[k];
        double after = pieces[edge->piece].scaled * backward[edge->end];
        backward[edge->start] += after;
        counts[edge->piece] += (uint64_t)(forward[edge->start] * after * share + 0.5);
    }
}

// The most probable segmentation that does not use the piece `except` (Viterbi): its pieces in
// `best`, from the last to the first; returns their number. Ties go to the longest last piece, as
// in the encoders.
static inline size_t lattice_best(const Lattice *lattice, const UnigramPiece *pieces,
                                  uint32_t length, uint32_t except,
                                  uint32_t best[UNIGRAM_WORD_LENGTH]) {
    double scores[UNIGRAM_WORD_LENGTH + 1] = {0};
    const Edge_ *from[UNIGRAM_WORD_LENGTH + 1] = {0};
    size_t count = 0;

    // Best score of each prefix and its last piece.
    for (const Edge_ *edge = lattice->edges; edge < lattice->edges + lattice->count; edge++) {
        double sum = scores[edge->start] + pieces[edge->piece].score;
        if (edge->piece != except && (!from[edge->end] || sum > scores[edge->end])) {
            scores[edge->end] = sum;
            from[edge->end] = edge;
        }
    }

    // Trace back.
    for (uint32_t at = length; at > 0; at = from[at]->start) {
        best[count++] = from[at]->piece;
    }
    return count;
}

#endif
