// encode.h: from text to ids: added tokens, normalizer, pre-tokenizer and model, one after the
// other.
#ifndef TOKENIZERS_ENCODE_H
#define TOKENIZERS_ENCODE_H

#include "tokenizers/merge_bpe.h"
#include "tokenizers/model.h"
#include "tokenizers/piece_bpe.h"
#include "tokenizers/unigram.h"

// What one thread needs to encode: scratch memory, and the ids of pre-tokens met recently.
typedef struct {
    const Tokenizer *tokenizer;
    CacheEntry *cache;
    BpeScratch bpe;
    UnigramScratch unigram;
    PieceBpeScratch piece_bpe;
    TextBuffer normalized, other;
    TokenBuffer word; // ids of a word on its way into the cache
} Encoder;

static inline void encoder_free(Encoder *encoder) {
    free(encoder->cache);
    bpe_scratch_free(&encoder->bpe);
    free(encoder->unigram.places);
    piece_bpe_scratch_free(&encoder->piece_bpe);
    free(encoder->normalized.data);
    free(encoder->other.data);
    free(encoder->word.ids);
    *encoder = (Encoder){0};
}

// The tokenizer must outlive the encoder.
static inline bool encoder_init(Encoder *encoder, const Tokenizer *t, Error *e) {
    *encoder = (Encoder){.tokenizer = t, .cache = token_cache_create()};
    bool ok =
        encoder->cache && (t->model != MODEL_PIECE_BPE ||
                           piece_bpe_scratch_init(&encoder->piece_bpe, t->vocabulary.model_count));
    return ok || fail(e, "tokenizer: out of memory for an encoder");
}

// ------------------------------------------------------------------------------------------------
// The model

// Byte-level BPE: splits the text by the steps from `step` on and encodes each pre-token.
static inline bool encode_split_(Encoder *encoder, size_t step, const char *text, size_t length,
                                 TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    const Splitter *splitter = &t->pre_tokenizer.splitter;
    if (step == splitter->count) {
        return bpe_encode(&t->vocabulary, &t->merges, &encoder->bpe, encoder->cache, text, length,
                          length, out, e);
    }

    const SplitStep *s = &splitter->steps[step];
    const bool last = step + 1 == splitter->count, simple = s->behavior == SPLIT_ISOLATED;
    while (length) {
        bool kept = true;
        size_t n = simple ? automaton_match(&s->automaton, text, length) : 0;
        if (n == 0) {
            n = split_piece(s, text, length, &kept);
        }
        if (kept && !(last ? bpe_encode(&t->vocabulary, &t->merges, &encoder->bpe, encoder->cache,
                                        text, n, length, out, e)
                           : encode_split_(encoder, step + 1, text, n, out, e))) {
            return false;
        }
        text += n;
        length -= n;
    }
    return true;
}

// Appends the ids of a word; an unknown piece that follows one is joined to it.
static inline bool append_word_(const PieceModel *m, const int32_t *ids, size_t count,
                                TokenBuffer *out, Error *e) {
    bool joins = count && (m->sentencepiece || m->fuse_unknown) && !m->byte_fallback &&
                 ids[0] == m->unknown && out->count > out->start &&
                 out->ids[out->count - 1] == m->unknown;
    if (!token_buffer_reserve(out, count, e)) {
        return false;
    }
    memcpy(out->ids + out->count, ids + joins, (count - joins) * sizeof *ids);
    out->count += count - joins;
    return true;
}

// Encodes normalized text as a whole. `continues`: sums of scores continue those of the previous
// chunk.
static inline bool encode_whole_(Encoder *encoder, const char *text, size_t n, bool continues,
                                 TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    const Vocabulary *v = &t->vocabulary;
    const PieceModel *m = &t->pieces;
    if (t->model == MODEL_UNIGRAM) {
        return unigram_encode(v, m, &encoder->unigram, text, n, continues, out, e);
    }
    return t->model == MODEL_MERGE_BPE
               ? merge_bpe_encode(v, m, &t->merges, &encoder->bpe, text, n, out, e)
               : piece_bpe_encode(v, m, &encoder->piece_bpe, text, n, out, e);
}

// Encodes a word that does not depend on its surroundings, through the cache.
static inline bool encode_word_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out,
                                Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    TokenBuffer *word = &encoder->word;
    uint64_t key[3];
    CacheEntry *entry = n <= CACHE_KEY ? token_cache_entry(encoder->cache, text, n, n, key) : NULL;
    if (entry && token_cache_hit(entry, key)) {
        return append_word_(&t->pieces, entry->ids, (size_t)entry->count, out, e);
    }

    word->count = 0;
    bool ok = encode_whole_(encoder, text, n, false, word, e);
    if (ok && entry) {
        token_cache_store(entry, key, word->ids, word->count);
    }
    return ok && append_word_(&t->pieces, word->ids, word->count, out, e);
}

// Encodes text that is normalized. `continues`: sums of scores continue those of the previous
// chunk.
static inline bool encode_pieces_(Encoder *encoder, const char *text, size_t n, bool continues,
                                  TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    const Vocabulary *v = &t->vocabulary;
    const PieceModel *m = &t->pieces;
    if (t->model != MODEL_CHARACTER && !m->word_by_word) {
        return encode_whole_(encoder, text, n, continues, out, e);
    }

    if (!m->sentencepiece) {
        out->start = out->count; // unknown characters are not fused with what is before the text
    }
    for (size_t length; n; text += length, n -= length) {
        bool open, ok;
        if (t->model == MODEL_CHARACTER) {
            size_t user = trie_longest(&m->user_symbols, text, n, &open);
            length = user ? user : lead_byte_length(text, n);
            ok = pieces_encode_symbol(v, m, NULL, text, length, out, e);
        } else {
            length = word_length(text, n, SPACE_SYMBOL, 3, true);
            ok = encode_word_(encoder, text, length, out, e);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// The pre-tokenizer

// Byte-level BPE: a space goes before the text if it has none and the tokenizer wants one.
static inline bool encode_bytes_(Encoder *encoder, const char *text, size_t n, int chunk,
                                 TokenBuffer *out, Error *e) {
    if (!encoder->tokenizer->pre_tokenizer.prefix_space || chunk & TEXT_NOT_FIRST || *text == ' ') {
        return encode_split_(encoder, 0, text, n, out, e);
    }
    encoder->other.length = 0;
    return text_append(&encoder->other, " ", 1, e) && text_append(&encoder->other, text, n, e) &&
           encode_split_(encoder, 0, encoder->other.data, n + 1, out, e);
}

static inline bool encode_metaspace_(Encoder *encoder, const char *text, size_t n, int chunk,
                                     TokenBuffer *out, Error *e) {
    const Metaspace *m = &encoder->tokenizer->pre_tokenizer.metaspace;
    TextBuffer *spaced = &encoder->other;
    bool continues = chunk & TEXT_NOT_FIRST && !(m->split && metaspace_begins(m, text, n));
    if (!metaspace_prepend(m, text, n, chunk, spaced, e) ||
        !text_append_replaced(spaced, text, n, " ", 1, m->replacement, m->length, e)) {
        return false;
    }

    text = spaced->data, n = spaced->length;
    if (!m->split) {
        return encode_pieces_(encoder, text, n, continues, out, e);
    }
    while (n) {
        size_t length = word_length(text, n, m->replacement, m->length, false);
        // The last word may continue in the next chunk of the text, which needs its score.
        bool independent = !continues && (length < n || !(chunk & TEXT_NOT_LAST));
        out->start = out->count;
        if (!(independent ? encode_word_(encoder, text, length, out, e)
                          : encode_pieces_(encoder, text, length, continues, out, e))) {
            return false;
        }
        text += length;
        n -= length;
        continues = false;
    }
    return true;
}

// Encodes what lies between added tokens, normalized: pre-tokenizer and model.
static inline bool encode_between_(Encoder *encoder, const char *text, size_t n, int chunk,
                                   TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    if (n == 0) {
        return true;
    }
    if (t->model == MODEL_BYTE_BPE) {
        return encode_bytes_(encoder, text, n, chunk, out, e);
    }
    return t->pre_tokenizer.metaspace.length
               ? encode_metaspace_(encoder, text, n, chunk, out, e)
               : encode_pieces_(encoder, text, n, chunk & TEXT_NOT_FIRST, out, e);
}

// ------------------------------------------------------------------------------------------------
// Added tokens and the normalizer

static inline bool encode_pass_(Encoder *encoder, int pass, const char *text, size_t length,
                                int chunk, TokenBuffer *out, Error *e);

// Encodes what pass `pass` has left between two added tokens: text[start .. stop).
static inline bool encode_gap_(Encoder *encoder, int pass, const char *text, size_t length,
                               size_t start, size_t stop, int chunk, TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    int here = (start == 0 ? chunk & ~TEXT_NOT_LAST : TEXT_AFTER_TOKEN) |
               (stop == length ? chunk & TEXT_NOT_LAST : 0);
    if (start >= stop) {
        return true;
    }
    if (pass == 1) {
        return encode_between_(encoder, text + start, stop - start, here, out, e);
    }
    if (t->normalizer.count == 0) {
        return encode_pass_(encoder, 1, text + start, stop - start, here, out, e);
    }
    return normalizer_apply(&t->normalizer, t->classes, text + start, stop - start, here,
                            &encoder->normalized, &encoder->other, e) &&
           encode_pass_(encoder, 1, encoder->normalized.data, encoder->normalized.length, here, out,
                        e);
}

// Cuts the added tokens out, leftmost first, the longest of those that start there: in pass 0 those
// with normalized = false, in pass 1 the others from what lies between, normalized. What lies
// between after both is encoded.
static inline bool encode_pass_(Encoder *encoder, int pass, const char *text, size_t length,
                                int chunk, TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    size_t done = 0, i = 0;
    while (i < length && added_tokens_in_pass(&t->added, pass)) {
        const AddedToken *a = added_tokens_match(&t->added, pass, text + i, length - i);
        if (!a) {
            i++;
            continue;
        }
        size_t start = i, stop = i + a->length;
        i = stop;
        if (!added_token_stands(a, t->classes, text, length, start)) {
            continue;
        }

        if (a->left_strip) {
            start -= trailing_space_length(t->classes, text, start);
            start = start > done ? start : done;
        }
        if (a->right_strip) {
            stop += leading_space_length(t->classes, text + stop, length - stop);
        }
        if (!encode_gap_(encoder, pass, text, length, done, start, chunk, out, e) ||
            !token_buffer_append(out, a->id, e)) {
            return false;
        }
        done = stop;
    }
    return encode_gap_(encoder, pass, text, length, done, length, chunk, out, e);
}

// Appends the ids of a chunk of a text. `chunk` is TEXT_COMPLETE, or TEXT_NOT_FIRST and
// TEXT_NOT_LAST, or'ed, for a chunk that tokenizer_safe_cut has cut off: one encoder gets the
// chunks of a text in order. The text should be UTF-8 (see utf8_sanitize). Added tokens in it
// become their ids; none is added at the beginning or the end.
static inline bool encoder_encode_chunk(Encoder *encoder, const char *text, size_t length,
                                        int chunk, TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    out->start = out->count;
    if (!t->pieces.sentencepiece) {
        return encode_pass_(encoder, 0, text, length, chunk, out, e);
    }
    return normalize_sentencepiece(&t->sentencepiece_normalizer, &t->pieces.user_symbols, text,
                                   length, chunk, &encoder->normalized, NULL, 0, e) &&
           encode_pieces_(encoder, encoder->normalized.data, encoder->normalized.length,
                          chunk & TEXT_NOT_FIRST, out, e);
}

#endif
