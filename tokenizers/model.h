// model.h: what a tokenizer consists of, and how one is put together: by the readers of files
// (tokenizer_json.h, vocab_merges.h, sentencepiece_model.h) and by training. First tokens, merges
// or scores, and added tokens are added, then tokenizer_index derives the tables for encoding.
#ifndef TOKENIZERS_MODEL_H
#define TOKENIZERS_MODEL_H

#include "tokenizers/added.h"
#include "tokenizers/bpe.h"
#include "tokenizers/normalizer.h"
#include "tokenizers/pieces.h"
#include "tokenizers/pre_tokenizer.h"
#include "tokenizers/sentencepiece_normalizer.h"
#include "tokenizers/vocabulary.h"

static const char END_OF_DOCUMENT_TEXT[] = "<|endoftext|>";

typedef enum {
    MODEL_BYTE_BPE,
    MODEL_UNIGRAM,
    MODEL_PIECE_BPE,
    MODEL_MERGE_BPE,
    MODEL_CHARACTER
} TokenizerModel;

// One step of the decoder of a tokenizer.json.
typedef enum {
    DECODE_UNSUPPORTED,
    DECODE_REPLACE,   // pattern by content
    DECODE_BYTES,     // runs of byte pieces by their bytes
    DECODE_METASPACE, // pattern, the replacement, by a space
    DECODE_STRIP,     // pattern, a character, at the ends
    DECODE_FUSE       // all tokens are one from here on
} DecodeOperation;

typedef struct {
    DecodeOperation operation;
    char pattern[STEP_TEXT], content[STEP_TEXT];
    size_t pattern_length, content_length;
    size_t start, stop; // STRIP: as many characters at most
    bool fused;         // after FUSE
    bool keeps_first;   // METASPACE with prepend_scheme "never"
} DecodeStep;

typedef struct {
    DecodeStep steps[MAX_STEPS];
    size_t count;
    bool joins_with_spaces;   // tokenizer.json without a decoder
    char unknown_surface[64]; // SentencePiece: what an unknown piece decodes to
    size_t unknown_surface_length;
} DecodeRules;

// Never changes after loading or training: threads may share it.
typedef struct {
    TokenizerModel model;
    Vocabulary vocabulary;
    AddedTokens added;
    MergeTable merges; // byte-level BPE, and MODEL_MERGE_BPE
    PieceModel pieces; // all but byte-level BPE
    Normalizer normalizer;
    SentencePieceNormalizer sentencepiece_normalizer; // if pieces.sentencepiece
    PreTokenizer pre_tokenizer;
    DecodeRules decode;
    uint8_t *classes; // of characters
    int32_t end_of_document;
    int32_t begin, pad;        // for tokenizer_config.json, -1 if there is none
    uint64_t model_max_length; // for tokenizer_config.json, in tokens; 0 leaves it out
    // The file it was loaded from, kept to be saved unchanged; NULL: tokenizer_save generates it.
    char *source;
    size_t source_length;
} Tokenizer;

// Releases everything; also after a failure to load or train.
static inline void tokenizer_free(Tokenizer *t) {
    vocabulary_free(&t->vocabulary);
    added_tokens_free(&t->added);
    merges_free(&t->merges);
    pieces_free(&t->pieces);
    free(t->sentencepiece_normalizer.charsmap.units);
    splitter_free(&t->pre_tokenizer.splitter);
    free(t->pre_tokenizer.expression);
    normalizer_free(&t->normalizer);
    free(t->classes);
    free(t->source);
    *t = (Tokenizer){0};
}

// Bytes of a token as text has them or, for pieces, as the vocabulary spells it; no NUL at the
// end. An id outside the vocabulary has none.
static inline const char *tokenizer_text(const Tokenizer *t, int32_t id, size_t *length) {
    return vocabulary_text(&t->vocabulary, id, length);
}

// Whether both have the same tokens under the same ids.
static inline bool tokenizer_same_tokens(const Tokenizer *a, const Tokenizer *b) {
    size_t count = a->vocabulary.count;
    bool same = count == b->vocabulary.count;
    for (size_t id = 0; same && id < count; id++) {
        size_t n, m;
        const char *x = tokenizer_text(a, (int32_t)id, &n), *y = tokenizer_text(b, (int32_t)id, &m);
        same = n == m && !memcmp(x, y, n);
    }
    return same;
}

// ------------------------------------------------------------------------------------------------
// Putting one together

// Starts a tokenizer: a byte-level BPE that splits as GPT-2's.
static inline void tokenizer_init(Tokenizer *t) {
    *t = (Tokenizer){.begin = -1, .pad = -1, .pieces.unknown = -1, .pre_tokenizer.is_gpt2 = true};
}

// Adds a piece of this kind with the next id.
static inline bool tokenizer_add_piece(Tokenizer *t, const char *text, size_t length, double score,
                                       int kind, Error *e) {
    size_t id = t->vocabulary.count;
    if (!array_reserve(&t->pieces.scores, &t->pieces.score_capacity, id, 1,
                       sizeof *t->pieces.scores, e) ||
        !vocabulary_add(&t->vocabulary, text, length, false, e)) {
        return false;
    }
    t->pieces.scores[id] = score;
    t->vocabulary.tokens[id].kind = (uint8_t)kind;
    return true;
}

// Makes the token added.id an added token; added.text is copied.
static inline bool tokenizer_add_added(Tokenizer *t, AddedToken added, Error *e) {
    if (!added_tokens_add(&t->added, added, e)) {
        return false;
    }
    t->vocabulary.tokens[added.id].added = true;
    t->vocabulary.tokens[added.id].special = added.special;
    return true;
}

// Can text become this token? (In byte-level BPE the bytes of the token are the text.)
static inline bool token_matches_(const Tokenizer *t, const Token *token) {
    if (token->verbatim) {
        return false;
    }
    return !t->pieces.sentencepiece || token->kind == PIECE_NORMAL || token->kind == PIECE_USER ||
           (token->kind == PIECE_UNUSED && t->model != MODEL_UNIGRAM);
}

// Finds the tokens of single bytes, of which byte-level BPE needs all.
static inline bool byte_tokens_index_(Vocabulary *v, const FileErrors *f) {
    for (size_t i = 0; i < v->model_count; i++) {
        if (v->tokens[i].length == 1 && !v->tokens[i].verbatim) {
            v->byte_id[(unsigned char)v->bytes[v->tokens[i].offset]] = (int32_t)i;
        }
    }
    for (int b = 0; b < 256; b++) {
        if (v->byte_id[b] < 0) {
            return reject(
                f, "the vocabulary has no token for byte 0x%02X: byte-level BPE needs all 256", b);
        }
    }
    return true;
}

// Call when tokens, merges or scores, and added tokens are complete.
static inline bool tokenizer_index(Tokenizer *t, const FileErrors *f) {
    Vocabulary *v = &t->vocabulary;
    v->model_count = v->model_count ? v->model_count : v->count;
    memset(v->byte_id, -1, sizeof v->byte_id);
    for (size_t id = 0; id < v->count; id++) {
        v->tokens[id].matches = token_matches_(t, &v->tokens[id]);
    }
    t->classes = t->classes ? t->classes : character_classes(f->error);
    if (!t->classes || !added_tokens_index(&t->added, f->error)) {
        return false;
    }
    if (t->pieces.sentencepiece) {
        pieces_set_scores(&t->pieces, v, t->model == MODEL_UNIGRAM);
    }
    if (t->model != MODEL_BYTE_BPE) {
        const bool merges = t->model == MODEL_MERGE_BPE;
        return pieces_index(&t->pieces, v, merges || t->model == MODEL_PIECE_BPE, f->error) &&
               (!merges || merges_index(&t->merges, f->error));
    }
    Splitter *splitter = &t->pre_tokenizer.splitter;
    return (!t->pre_tokenizer.is_gpt2 || splitter->count || splitter_add_gpt2(splitter, f)) &&
           byte_tokens_index_(v, f) && merges_index(&t->merges, f->error) &&
           (!t->merges.ignore_merges || vocabulary_index_texts(v, f->error));
}

#endif
