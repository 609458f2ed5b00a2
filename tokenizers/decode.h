// decode.h: from ids to text, one id at a time.
#ifndef TOKENIZERS_DECODE_H
#define TOKENIZERS_DECODE_H

#include "tokenizers/model.h"

// Turns ids into text as the owning library turns all of them at once: what is certain so far
// is in `text`, always complete characters; the caller takes it from there and sets text.length
// to 0. To continue a text, give the ids before it first.
typedef struct {
    const Tokenizer *tokenizer;
    bool all; // special tokens too
    TextBuffer text;
    TextBuffer held; // bytes of a character, or of a run of byte pieces, that is not complete
    TextBuffer scratch[MAX_STEPS]; // of a decoder step
    size_t seen[MAX_STEPS + 1];    // by a decoder step: tokens, or characters it has stripped
    bool begun;                    // sentencepiece: no space is dropped any more
} Decoder;

// `all`: the text of special tokens too.
static inline void decoder_init(Decoder *d, const Tokenizer *t, bool all) {
    *d = (Decoder){.tokenizer = t, .all = all};
}

static inline void decoder_free(Decoder *d) {
    free(d->text.data);
    free(d->held.data);
    for (size_t i = 0; i < MAX_STEPS; i++) {
        free(d->scratch[i].data);
    }
    *d = (Decoder){0};
}

// Passes on the held bytes as far as they are complete characters, at the end all of them.
// Ill-formed ones become U+FFFD: one for each maximal part of a character, or with `each` one for
// each byte.
static inline bool decoder_flush_(Decoder *d, bool final, bool each, Error *e) {
    const char *bytes = d->held.data;
    size_t n = d->held.length, at = 0;
    while (at < n) {
        size_t taken = utf8_decode(bytes + at, n - at, NULL);
        const char *text = bytes + at;
        size_t length = taken;
        if (taken == 0) {
            taken = utf8_maximal_subpart(bytes + at, n - at);
            if (!final && at + taken == n && (unsigned char)bytes[at] >= 0xC2 &&
                (unsigned char)bytes[at] <= 0xF4) {
                break;
            }
            text = "\xEF\xBF\xBD", length = 3;
            taken = each ? 1 : taken;
        }
        if (!text_append(&d->text, text, length, e)) {
            return false;
        }
        at += taken;
    }
    if (at) {
        memmove(d->held.data, d->held.data + at, n - at);
        d->held.length = n - at;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// The decoder of a tokenizer.json

static inline bool decoder_step_(Decoder *d, size_t i, const char *text, size_t length, Error *e);

// A run of byte pieces ends at step i: its text if that is UTF-8, else one U+FFFD for each piece.
static inline bool decoder_end_run_(Decoder *d, size_t i, Error *e) {
    size_t n = d->held.length;
    d->held.length = 0;
    if (n && utf8_is_valid(d->held.data, n)) {
        return decoder_step_(d, i + 1, d->held.data, n, e);
    }
    for (size_t k = 0; k < n; k++) {
        if (!decoder_step_(d, i + 1, "\xEF\xBF\xBD", 3, e)) {
            return false;
        }
    }
    return true;
}

// Bytes that are left out at the beginning of `text`: up to `most` of the step's characters.
static inline size_t stripped_start_(const DecodeStep *s, const char *text, size_t length,
                                     size_t most) {
    size_t n = s->pattern_length, at = 0;
    for (; most && length - at >= n && !memcmp(text + at, s->pattern, n); most--) {
        at += n;
    }
    return at;
}

// The same at its end.
static inline size_t stripped_stop_(const DecodeStep *s, const char *text, size_t length,
                                    size_t most) {
    size_t n = s->pattern_length, end = length;
    for (; most && end >= n && !memcmp(text + end - n, s->pattern, n); most--) {
        end -= n;
    }
    return length - end;
}

static inline bool decoder_strip_(Decoder *d, size_t i, const char *text, size_t length, Error *e) {
    const DecodeStep *s = &d->tokenizer->decode.steps[i];
    if (s->fused) { // all tokens are one: only its beginning is stripped
        size_t left = s->start - d->seen[i];
        size_t start = stripped_start_(s, text, length, left);
        d->seen[i] = start < length ? s->start : d->seen[i] + start / s->pattern_length;
        return decoder_step_(d, i + 1, text + start, length - start, e);
    }
    size_t start = stripped_start_(s, text, length, s->start);
    size_t stop = stripped_stop_(s, text, length, s->stop);
    return decoder_step_(d, i + 1, text + start, start + stop < length ? length - start - stop : 0,
                         e);
}

// Gives a token to step i of the decoder, which gives what it makes of it to the next one.
static inline bool decoder_step_(Decoder *d, size_t i, const char *text, size_t length, Error *e) {
    const DecodeRules *rules = &d->tokenizer->decode;
    if (i == rules->count) {
        bool space = rules->joins_with_spaces && d->seen[i]++;
        return (!space || text_append(&d->text, " ", 1, e)) &&
               text_append(&d->text, text, length, e);
    }

    const DecodeStep *s = &rules->steps[i];
    TextBuffer *scratch = &d->scratch[i];
    int16_t byte;
    bool keeps;
    scratch->length = 0;
    switch (s->operation) {
    case DECODE_UNSUPPORTED: // none is kept
        break;
    case DECODE_FUSE:
        return decoder_step_(d, i + 1, text, length, e);
    case DECODE_REPLACE:
        return text_append_replaced(scratch, text, length, s->pattern, s->pattern_length,
                                    s->content, s->content_length, e) &&
               decoder_step_(d, i + 1, scratch->data, scratch->length, e);
    case DECODE_METASPACE:
        keeps = d->seen[i]++ || s->keeps_first;
        return text_append_replaced(scratch, text, length, s->pattern, s->pattern_length, " ",
                                    keeps ? 1 : 0, e) &&
               decoder_step_(d, i + 1, scratch->data, scratch->length, e);
    case DECODE_BYTES:
        byte = piece_byte(text, length, true);
        if (byte >= 0) {
            return text_append(&d->held, &(char){(char)byte}, 1, e);
        }
        return decoder_end_run_(d, i, e) && decoder_step_(d, i + 1, text, length, e);
    case DECODE_STRIP:
        return decoder_strip_(d, i, text, length, e);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// sentencepiece

// Adds a piece as sentencepiece decodes it.
static inline bool decoder_add_piece_(Decoder *d, const Token *token, const char *text, Error *e) {
    const DecodeRules *rules = &d->tokenizer->decode;
    const SentencePieceNormalizer *s = &d->tokenizer->sentencepiece_normalizer;
    size_t length = token->length;
    if (token->kind == PIECE_BYTE) {
        return text_append(&d->held, &(char){(char)token->byte}, 1, e) &&
               decoder_flush_(d, false, true, e);
    }
    if (!decoder_flush_(d, true, true, e)) {
        return false;
    }

    d->begun |= d->seen[0] > 0 || d->text.length > 0;
    d->seen[0] = 0;
    if (token->kind == PIECE_CONTROL) {
        return true;
    }
    if (token->kind == PIECE_UNKNOWN) {
        return text_append(&d->text, rules->unknown_surface, rules->unknown_surface_length, e);
    }
    if (!d->begun && (s->dummy_prefix || s->collapse_spaces) && length >= 3 &&
        !memcmp(text, SPACE_SYMBOL, 3)) {
        text += 3, length -= 3;
        d->seen[0] = !s->collapse_spaces; // one space only, even if no text has come yet
    }
    return text_append_replaced(&d->text, text, length, SPACE_SYMBOL, 3, " ", 1, e);
}

// ------------------------------------------------------------------------------------------------

// Adds an id; one outside the vocabulary has no text.
static inline bool decoder_add(Decoder *d, int32_t id, Error *e) {
    const Tokenizer *t = d->tokenizer;
    const Vocabulary *v = &t->vocabulary;
    if (id < 0 || (size_t)id >= v->count || (v->tokens[id].special && !d->all)) {
        return true;
    }
    const char *text = v->bytes + v->tokens[id].decoded;
    size_t length = v->tokens[id].decoded_length;
    if (t->pieces.sentencepiece) {
        bool ok = decoder_add_piece_(d, &v->tokens[id], text, e);
        d->begun |= d->text.length > 0;
        return ok;
    }
    if (t->model != MODEL_BYTE_BPE) {
        return decoder_step_(d, 0, text, length, e);
    }
    return text_append(&d->held, text, length, e) && decoder_flush_(d, false, false, e);
}

// No more ids come: the rest of the text.
static inline bool decoder_end(Decoder *d, Error *e) {
    const DecodeRules *rules = &d->tokenizer->decode;
    for (size_t i = 0; i < rules->count; i++) {
        if (rules->steps[i].operation == DECODE_BYTES && !decoder_end_run_(d, i, e)) {
            return false;
        }
    }
    return decoder_flush_(d, true, d->tokenizer->pieces.sentencepiece, e);
}

#endif
