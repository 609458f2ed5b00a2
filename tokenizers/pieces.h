// pieces.h: what the models over pieces have in common: Unigram (unigram.h), and BPE (piece_bpe.h)
// and characters of SentencePiece. A piece is a token spelled as normalized text has it.
#ifndef TOKENIZERS_PIECES_H
#define TOKENIZERS_PIECES_H

#include <float.h>

#include "tokenizers/pre_tokenizer.h"
#include "tokenizers/tokens.h"
#include "tokenizers/trie.h"
#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"

typedef struct {
    double *scores; // (model_count)
    size_t score_capacity;
    double unknown_score; // Unigram: of a character that is not a piece
    int32_t unknown;      // piece for text that is not one, -1 if there is none
    bool byte_fallback;   // text that is not a piece becomes the pieces of its bytes
    bool fuse_unknown;    // BPE with merges: unknown characters beside each other are one
    // Loaded from a .model: the ids are those of the sentencepiece library; else of `tokenizers`.
    bool sentencepiece;

    // Set by pieces_index:
    bool has_unused;   // pieces of kind PIECE_UNUSED
    bool word_by_word; // BPE: no piece has anything before a space symbol: words are independent
    Trie trie;         // pieces that text can match
    Trie user_symbols; // pieces of kind PIECE_USER
} PieceModel;

static inline void pieces_free(PieceModel *m) {
    free(m->scores);
    trie_free(&m->trie);
    trie_free(&m->user_symbols);
    *m = (PieceModel){0};
}

// Builds the trie of the tokens of one kind, or with kind 0 of all that text can match.
static inline bool piece_trie_(const Vocabulary *v, int kind, Trie *trie, Error *e) {
    TrieKey *keys = malloc((v->model_count + 1) * sizeof *keys);
    size_t count = 0;
    if (!keys) {
        return fail(e, "tokenizer: out of memory for %zu tokens", v->model_count);
    }
    for (size_t id = 0; id < v->model_count; id++) {
        const Token *token = &v->tokens[id];
        if (kind ? token->kind == kind : token->matches) {
            keys[count++] = (TrieKey){v->bytes + token->offset, token->length, (int32_t)id};
        }
    }
    bool ok = trie_build(trie, keys, count, e);
    free(keys);
    return ok;
}

// True if no piece has anything but space symbols before a space symbol.
static inline bool pieces_begin_words_(const Vocabulary *v) {
    for (size_t id = 0; id < v->model_count; id++) {
        const Token *token = &v->tokens[id];
        const char *text = v->bytes + token->offset;
        if (token->matches &&
            word_length(text, token->length, SPACE_SYMBOL, 3, true) < token->length) {
            return false;
        }
    }
    return true;
}

// sentencepiece: sets the score of an unknown character and, for Unigram, that of a user-defined
// piece, which is to win against others: 0.1 for each byte but the first (measured with release
// 0.2.3; up to 0.2.1 it was about -0.1 whatever the length).
static inline void pieces_set_scores(PieceModel *m, const Vocabulary *v, bool unigram) {
    float lowest = FLT_MAX;
    for (size_t id = 0; id < v->model_count; id++) {
        const Token *token = &v->tokens[id];
        float score = (float)m->scores[id];
        lowest = token->kind == PIECE_NORMAL && score < lowest ? score : lowest;
        if (token->kind == PIECE_USER && unigram) {
            m->scores[id] = (double)(float)((double)token->length * 0.1 - 0.1);
        }
    }
    m->unknown_score = (double)(lowest - 10.0f);
}

// Derives what the model looks up, and the bytes of the vocabulary. `bpe`: the model is one of BPE.
static inline bool pieces_index(PieceModel *m, Vocabulary *v, bool bpe, Error *e) {
    for (size_t i = 0; i < v->model_count; i++) {
        Token *token = &v->tokens[i];
        const char *text = v->bytes + token->offset;
        token->byte = piece_byte(text, token->length, !m->sentencepiece);
        m->has_unused |= token->kind == PIECE_UNUSED;
        int16_t byte = piece_byte(text, token->length, false);
        if (byte >= 0 && (!m->sentencepiece || token->kind == PIECE_BYTE)) {
            v->byte_id[byte] = (int32_t)i;
        }
    }
    m->word_by_word = bpe && !m->has_unused && pieces_begin_words_(v);
    return vocabulary_index_texts(v, e) && piece_trie_(v, 0, &m->trie, e) &&
           piece_trie_(v, PIECE_USER, &m->user_symbols, e);
}

// Appends the ids of the bytes of a text.
static inline bool pieces_encode_bytes(const Vocabulary *v, const char *text, size_t n,
                                       TokenBuffer *out, Error *e) {
    if (!token_buffer_reserve(out, n, e)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        out->ids[out->count++] = v->byte_id[(unsigned char)text[i]];
    }
    return true;
}

// Appends ids for text that is not a piece: one for each of its bytes, or the unknown piece, once
// for neighbours.
static inline bool pieces_encode_unknown(const Vocabulary *v, const PieceModel *m, const char *text,
                                         size_t n, TokenBuffer *out, Error *e) {
    if (m->byte_fallback) {
        return pieces_encode_bytes(v, text, n, out, e);
    }
    return (out->count > out->start && out->ids[out->count - 1] == m->unknown) ||
           token_buffer_append(out, m->unknown, e);
}

// Appends the ids of one symbol: its piece, or for a piece of kind PIECE_UNUSED those of the two
// symbols that were merged into it, cut at unused_cuts[id] (NULL: no merges). A symbol of this kind
// that no merge made is unknown.
static inline bool pieces_encode_symbol(const Vocabulary *v, const PieceModel *m,
                                        const uint32_t *unused_cuts, const char *text, size_t n,
                                        TokenBuffer *out, Error *e) {
    int32_t id = vocabulary_find(v, text, n);
    bool unused = id >= 0 && v->tokens[id].kind == PIECE_UNUSED;
    size_t cut = unused && unused_cuts ? unused_cuts[id] : 0;
    if (id < 0 || (unused && !cut)) {
        return pieces_encode_unknown(v, m, text, n, out, e);
    }
    if (cut) {
        return pieces_encode_symbol(v, m, unused_cuts, text, cut, out, e) &&
               pieces_encode_symbol(v, m, unused_cuts, text + cut, n - cut, out, e);
    }
    return token_buffer_append(out, id, e);
}

#endif
