// sentencepiece_json.h: a tokenizer.json made from a SentencePiece model, for libraries that read
// no .model. Its ids differ on some texts: see tokenizer_save.
#ifndef TOKENIZERS_SENTENCEPIECE_JSON_H
#define TOKENIZERS_SENTENCEPIECE_JSON_H

#include "tokenizers/json_components.h"
#include "tokenizers/vocab_merges.h"

static inline void json_put_base64_(JsonWriter *w, const char *key, const char *data,
                                    size_t length) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    JsonWriter text = {0};
    for (size_t i = 0; i < length; i += 3) {
        uint32_t bits = 0;
        char out[4];
        for (size_t k = 0; k < 3; k++) {
            bits = bits << 8 | (i + k < length ? (unsigned char)data[i + k] : 0);
        }
        for (size_t k = 0; k < 4; k++) {
            out[k] = i + k <= length ? digits[bits >> (18 - 6 * k) & 63] : '=';
        }
        json_append(&text, out, 4);
    }
    json_put_composed(w, key, &text);
}

// The normalizer in the components that `tokenizers` has.
static inline void put_normalizer_(JsonWriter *w, const SentencePieceNormalizer *s) {
    const char *space = s->escape_spaces ? SPACE_SYMBOL : " ";
    if (!s->charsmap.units && !s->collapse_spaces && !s->dummy_prefix && !s->escape_spaces) {
        json_put_null(w, "normalizer");
        return;
    }
    json_open_component(w, "normalizer", "Sequence");
    json_open(w, "normalizers", '[');
    if (s->charsmap.units) {
        json_open_component(w, NULL, "Precompiled");
        json_put_base64_(w, "precompiled_charsmap", s->charsmap.blob, s->charsmap.blob_bytes);
        json_close(w, '}');
    }
    if (s->collapse_spaces) {
        json_put_replace(w, "Regex", "\\A +| +\\z", "");
        json_put_replace(w, "Regex", " {2,}", " ");
    }
    if (s->dummy_prefix) {
        json_put_replace(w, "Regex", s->space_suffix ? "\\z" : "\\A", space);
    }
    if (s->escape_spaces) {
        json_put_replace(w, "String", " ", SPACE_SYMBOL);
    }
    json_close(w, ']');
    json_close(w, '}');
}

// Does any piece hold the space symbol?
static inline bool has_space_symbol_(const Vocabulary *v) {
    for (size_t id = 0; id < v->count; id++) {
        if (memmem(v->bytes + v->tokens[id].offset, v->tokens[id].length, SPACE_SYMBOL, 3)) {
            return true;
        }
    }
    return false;
}

static inline void put_decoder_(JsonWriter *w, const Vocabulary *v,
                                const SentencePieceNormalizer *s) {
    json_open_component(w, "decoder", "Sequence");
    json_open(w, "decoders", '[');
    json_put_component(w, "ByteFallback");
    if (has_space_symbol_(v)) { // otherwise one in the text comes as bytes, and stays
        json_put_replace(w, "String", SPACE_SYMBOL, " ");
    }
    json_put_component(w, "Fuse");
    if (s->dummy_prefix || s->collapse_spaces) {
        json_open_component(w, NULL, "Strip");
        json_put_string(w, "content", " ");
        json_put_uint(w, "start", 1);
        json_put_uint(w, "stop", 0);
        json_close(w, '}');
    }
    json_close(w, ']');
    json_close(w, '}');
}

// For qsort: pieces by score, highest first, then by id.
typedef struct {
    double score;
    int32_t id;
} ScoredPiece_;

static inline int scored_compare_(const void *first, const void *second) {
    const ScoredPiece_ *a = first, *b = second;
    return a->score != b->score ? (a->score > b->score ? -1 : 1)
                                : order_u64((uint64_t)a->id, (uint64_t)b->id);
}

// Puts all merges into one piece.
static inline void put_merges_of_(JsonWriter *w, const Vocabulary *v, int32_t id) {
    size_t length, step;
    const char *text = vocabulary_text(v, id, &length);
    for (size_t cut = 0; cut < length; cut += step) {
        step = lead_byte_length(text + cut, length - cut);
        if (cut && vocabulary_find(v, text, cut) >= 0 &&
            vocabulary_find(v, text + cut, length - cut) >= 0) {
            json_open(w, NULL, '[');
            json_put_text(w, NULL, text, cut);
            json_put_text(w, NULL, text + cut, length - cut);
            json_close(w, ']');
        }
    }
}

// A BPE model of SentencePiece has no list of merges: every two pieces that spell a third one
// merge, by its score.
static inline void put_merges_(JsonWriter *w, const Vocabulary *v, const double *scores) {
    ScoredPiece_ *order = malloc(v->model_count * sizeof *order);
    if (!order) {
        w->failed = true;
        return;
    }
    for (size_t id = 0; id < v->model_count; id++) {
        order[id] = (ScoredPiece_){scores[id], (int32_t)id};
    }
    qsort(order, v->model_count, sizeof *order, scored_compare_);

    json_open(w, "merges", '[');
    for (size_t i = 0; i < v->model_count; i++) {
        if (v->tokens[order[i].id].kind == PIECE_NORMAL) {
            put_merges_of_(w, v, order[i].id);
        }
    }
    json_close(w, ']');
    free(order);
}

// Puts [[piece, score], ...] for Unigram.
static inline void put_piece_scores_(JsonWriter *w, const Vocabulary *v, const double *scores) {
    json_open(w, "vocab", '[');
    for (size_t id = 0; id < v->model_count; id++) {
        json_open(w, NULL, '[');
        json_put_text(w, NULL, v->bytes + v->tokens[id].offset, v->tokens[id].length);
        json_put_double(w, NULL, scores[id]);
        json_close(w, ']');
    }
    json_close(w, ']');
}

// Control pieces and the unknown piece; with BPE, user-defined pieces too.
static inline void put_added_tokens_(JsonWriter *w, const Vocabulary *v, bool bpe) {
    for (size_t id = 0; id < v->model_count; id++) {
        int kind = v->tokens[id].kind;
        if (kind == PIECE_CONTROL || kind == PIECE_UNKNOWN || (bpe && kind == PIECE_USER)) {
            json_put_added(w, &(AddedToken){v->bytes + v->tokens[id].offset, v->tokens[id].length,
                                            (int32_t)id, .special = kind != PIECE_USER});
        }
    }
    json_close(w, ']');
}

static inline void sentencepiece_json_write(JsonWriter *w, const Tokenizer *t) {
    const Vocabulary *v = &t->vocabulary;
    bool bpe = t->model == MODEL_PIECE_BPE;
    json_open_tokenizer(w);
    put_added_tokens_(w, v, bpe);
    put_normalizer_(w, &t->sentencepiece_normalizer);
    json_put_null(w, "pre_tokenizer");
    json_put_null(w, "post_processor");
    put_decoder_(w, v, &t->sentencepiece_normalizer);

    json_open_component(w, "model", bpe ? "BPE" : "Unigram");
    if (bpe) {
        size_t length;
        const char *text = vocabulary_text(v, t->pieces.unknown, &length);
        json_put_text(w, "unk_token", text, length);
        json_put_bool(w, "fuse_unk", true);
    } else {
        json_put_uint(w, "unk_id", (uint64_t)t->pieces.unknown);
    }
    json_put_bool(w, "byte_fallback", t->pieces.byte_fallback);
    if (bpe) {
        vocab_write_object(w, "vocab", t);
        put_merges_(w, v, t->pieces.scores);
    } else {
        put_piece_scores_(w, v, t->pieces.scores);
    }
    json_close(w, '}');
    json_close(w, '}');
    json_append(w, "\n", 1);
}

#endif
