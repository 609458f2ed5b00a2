// unigram.h: the Unigram language model (Kudo 2018): of all ways to cut a text into pieces, the one
// whose scores add up highest (Viterbi).
#ifndef TOKENIZERS_UNIGRAM_H
#define TOKENIZERS_UNIGRAM_H

#include "tokenizers/pieces.h"

// The best way to reach a place in the text.
typedef struct {
    double score;
    // Where the last piece starts, UNREACHED_ if there is no way. When walked back: where the next
    // piece ends.
    uint32_t start;
    int32_t id; // of the last piece
} LatticePlace_;

static const uint32_t UNREACHED_ = UINT32_MAX;

// Scratch memory of one thread; zero-initialize.
typedef struct {
    LatticePlace_ *places;
    size_t capacity;
    double score; // of the best way to the end of the previous chunk of the text
} UnigramScratch;

// sentencepiece sums in single precision, and starts over from 0 at the first place below this.
static const double LOWEST_SUM_ = -100000.0;

// Subtracts the sum at `start` from all places that are reached from there on.
static inline void lattice_rebase_(size_t longest, LatticePlace_ *lattice, size_t start, size_t n) {
    size_t end = n - start < longest ? n : start + longest;
    double base = lattice[start].score;
    for (size_t i = start; i <= end; i++) {
        lattice[i].score = (double)(float)(lattice[i].score - base);
    }
}

// A way to a place that is better than the one so far replaces it.
static inline void lattice_relax_(LatticePlace_ *place, double score, bool single, size_t start,
                                  int32_t id) {
    score = single ? (double)(float)score : score;
    if (place->start == UNREACHED_ || score > place->score) {
        *place = (LatticePlace_){score, (uint32_t)start, id};
    }
}

// Fills the lattice for text of n bytes: the best way to each place by the sum of the scores, the
// earliest start on a tie. `tokenizers` sums in double precision; sentencepiece rounds each sum to
// single precision before it compares (since release 0.2.2 or 0.2.3; up to 0.2.1 it compared the
// unrounded sum, which settles other ties).
static inline void lattice_fill_(const PieceModel *m, size_t longest, LatticePlace_ *lattice,
                                 const char *text, size_t n, bool single) {
    const TrieNode *nodes = m->trie.nodes;
    for (size_t start = 0; start < n;) {
        if (single && lattice[start].score < LOWEST_SUM_) {
            lattice_rebase_(longest, lattice, start, n);
        }

        size_t step = lead_byte_length(text + start, n - start);
        double here = lattice[start].score;
        bool complete = false; // a piece is just this character
        uint32_t node = 0;
        for (size_t end = start; end < n;) {
            uint32_t child = nodes[node].base ^ (unsigned char)text[end++];
            if (nodes[child].parent != node) {
                break;
            }
            node = child;
            int32_t id = m->trie.values[node];
            if (id >= 0) {
                lattice_relax_(&lattice[end], m->scores[id] + here, single, start, id);
                complete |= end - start == step;
            }
        }
        if (!complete) {
            lattice_relax_(&lattice[start + step], m->unknown_score + here, single, start,
                           m->unknown);
        }
        start += step;
    }
}

// Reverses the links of the best way: lattice[end].start becomes the end of the piece that follows.
// Returns the end of the first piece.
static inline uint32_t lattice_reverse_(LatticePlace_ *lattice, size_t n) {
    uint32_t next = UNREACHED_;
    for (uint32_t end = (uint32_t)n; end > 0;) {
        uint32_t start = lattice[end].start;
        lattice[end].start = next;
        next = end;
        end = start;
    }
    return next;
}

// A run of unknown characters as `tokenizers` treats it: the piece that is spelled so, else bytes,
// else the unknown token.
static inline bool encode_unknown_run_(const Vocabulary *v, const PieceModel *m, const char *text,
                                       size_t n, TokenBuffer *out, Error *e) {
    int32_t id = vocabulary_find(v, text, n);
    bool bytes = m->byte_fallback;
    for (size_t i = 0; i < n && bytes; i++) {
        bytes = v->byte_id[(unsigned char)text[i]] >= 0;
    }
    return id < 0 && bytes ? pieces_encode_bytes(v, text, n, out, e)
                           : token_buffer_append(out, id >= 0 ? id : m->unknown, e);
}

// Appends the ids of the best way, whose first piece ends at `end`.
static inline bool lattice_encode_(const Vocabulary *v, const PieceModel *m,
                                   const LatticePlace_ *lattice, const char *text, size_t n,
                                   size_t end, TokenBuffer *out, Error *e) {
    for (size_t start = 0; start < n; start = end, end = lattice[end].start) {
        int32_t id = lattice[end].id;
        bool ok;
        if (id != m->unknown) {
            ok = token_buffer_append(out, id, e);
        } else if (m->sentencepiece) {
            ok = pieces_encode_unknown(v, m, text + start, end - start, out, e);
        } else {
            while (end < n && lattice[lattice[end].start].id == id) { // a run
                end = lattice[end].start;
            }
            ok = encode_unknown_run_(v, m, text + start, end - start, out, e);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

// Appends the ids of normalized text. `continues`: the sums continue those of the previous chunk.
static inline bool unigram_encode(const Vocabulary *v, const PieceModel *m, UnigramScratch *s,
                                  const char *text, size_t n, bool continues, TokenBuffer *out,
                                  Error *e) {
    if (n == 0) {
        return true;
    }
    if (n >= UNREACHED_) {
        return fail(
            e, "tokenizer: %zu bytes without a safe place to cut: at most 4 GiB are supported", n);
    }
    if (!array_reserve(&s->places, &s->capacity, 0, n + 1, sizeof *s->places, e)) {
        return false;
    }

    LatticePlace_ *lattice = s->places;
    for (size_t i = 0; i <= n; i++) {
        lattice[i] = (LatticePlace_){0, UNREACHED_, 0};
    }
    lattice[0].score = continues ? s->score : 0.0;
    if (m->sentencepiece) { // constants, so that the compiler makes two loops
        lattice_fill_(m, v->longest, lattice, text, n, true);
    } else {
        lattice_fill_(m, v->longest, lattice, text, n, false);
    }
    s->score = lattice[n].score;
    size_t end = lattice_reverse_(lattice, n);
    return lattice_encode_(v, m, lattice, text, n, end, out, e);
}

#endif
