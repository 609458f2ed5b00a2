// piece_bpe.h: BPE of SentencePiece. It has no list of merges: two neighbours that spell a piece
// merge, the piece with the highest score first, then the leftmost.
#ifndef TOKENIZERS_PIECE_BPE_H
#define TOKENIZERS_PIECE_BPE_H

#include "tokenizers/pieces.h"
#include "util/heap.h"

typedef struct {
    uint32_t start, length; // length 0: merged away
    uint32_t previous, next;
    bool frozen; // a user-defined symbol, which never merges
} PieceSymbol_;

// Scratch memory of one thread; zero-initialize.
typedef struct {
    PieceSymbol_ *symbols;
    size_t capacity;
    Heap heap;             // of (score_order_, position), with the length of the merged symbol
    uint32_t *unused_cuts; // (model_count) where a piece of kind PIECE_UNUSED is cut in two
} PieceBpeScratch;

static inline bool piece_bpe_scratch_init(PieceBpeScratch *s, size_t model_count) {
    *s = (PieceBpeScratch){.unused_cuts = calloc(model_count + 1, sizeof *s->unused_cuts)};
    return s->unused_cuts;
}

static inline void piece_bpe_scratch_free(PieceBpeScratch *s) {
    free(s->symbols);
    free(s->heap.entries);
    free(s->unused_cuts);
}

// A number that is smaller for a greater score.
static inline uint64_t score_order_(double score) {
    float f = (float)score + 0.0f; // -0 becomes 0
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return UINT32_MAX - (bits >> 31 ? ~bits : bits | 0x80000000u);
}

// Queues the merge of symbol i and its right neighbour if they spell a piece.
static inline bool queue_piece_(const Vocabulary *v, const PieceModel *m, PieceBpeScratch *s,
                                const char *text, uint32_t i, uint32_t count, Error *e) {
    const PieceSymbol_ *left = &s->symbols[i];
    if (left->next >= count || left->frozen || s->symbols[left->next].frozen) {
        return true;
    }
    uint32_t length = left->length + s->symbols[left->next].length;
    int32_t id = vocabulary_find(v, text + left->start, length);
    if (id < 0) {
        return true;
    }
    if (v->tokens[id].kind == PIECE_UNUSED) {
        s->unused_cuts[id] = left->length;
    }
    return heap_push(&s->heap, (HeapEntry){score_order_(m->scores[id]), i, length}, e);
}

// The symbols that text of n bytes starts as, *count of them: user-defined symbols and characters.
static inline bool piece_symbols_(const PieceModel *m, PieceBpeScratch *s, const char *text,
                                  size_t n, uint32_t *count, Error *e) {
    *count = 0;
    if (n >= UINT32_MAX) {
        return fail(
            e, "tokenizer: %zu bytes without a safe place to cut: at most 4 GiB are supported", n);
    }
    if (!array_reserve(&s->symbols, &s->capacity, 0, n, sizeof *s->symbols, e)) {
        return false;
    }
    for (size_t start = 0; start < n; ++*count) {
        bool open;
        size_t user = trie_longest(&m->user_symbols, text + start, n - start, &open);
        size_t length = user ? user : lead_byte_length(text + start, n - start);
        s->symbols[*count] =
            (PieceSymbol_){(uint32_t)start, (uint32_t)length, *count - 1, *count + 1, user > 0};
        start += length;
    }
    return true;
}

// Appends the ids of normalized text.
static inline bool piece_bpe_encode(const Vocabulary *v, const PieceModel *m, PieceBpeScratch *s,
                                    const char *text, size_t n, TokenBuffer *out, Error *e) {
    uint32_t count;
    if (!piece_symbols_(m, s, text, n, &count, e)) {
        return false;
    }
    s->heap.count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!queue_piece_(v, m, s, text, i, count, e)) {
            return false;
        }
    }

    PieceSymbol_ *symbols = s->symbols;
    while (s->heap.count) {
        HeapEntry top = heap_pop(&s->heap);
        uint32_t at = (uint32_t)top.minor;
        PieceSymbol_ *left = &symbols[at];
        PieceSymbol_ *right = left->next < count ? &symbols[left->next] : NULL;
        if (left->length == 0 || !right || left->length + right->length != top.item) {
            continue; // one of the two has merged with another
        }
        left->length = top.item;
        left->next = right->next;
        right->length = 0;
        if (left->next < count) {
            symbols[left->next].previous = at;
        }
        if ((at && !queue_piece_(v, m, s, text, left->previous, count, e)) ||
            !queue_piece_(v, m, s, text, at, count, e)) {
            return false;
        }
    }

    for (uint32_t i = 0; i < count; i = symbols[i].next) {
        if (!pieces_encode_symbol(v, m, s->unused_cuts, text + symbols[i].start, symbols[i].length,
                                  out, e)) {
            return false;
        }
    }
    return true;
}

#endif
