// sentencepiece_model.h: the .model file of SentencePiece, a bare protobuf ModelProto. It is read
// with every check that the sentencepiece library makes, and written for a Unigram that training
// made.
#ifndef TOKENIZERS_SENTENCEPIECE_MODEL_H
#define TOKENIZERS_SENTENCEPIECE_MODEL_H

#include "tokenizers/model.h"
#include "tokenizers/spellings.h"
#include "util/json.h"
#include "util/protobuf.h"
#include "util/utf8.h"

// Fields of the messages.
enum { MODEL_PIECES_ = 1, MODEL_TRAINER_, MODEL_NORMALIZER_, MODEL_DENORMALIZER_ = 5 };
enum { PIECE_TEXT_ = 1, PIECE_SCORE_, PIECE_TYPE_ };
enum {
    TRAINER_MODEL_TYPE_ = 3, // 1 Unigram, 2 BPE, 3 words, 4 characters
    TRAINER_VOCAB_SIZE_ = 4,
    TRAINER_SPACE_SUFFIX_ = 24,
    TRAINER_BYTE_FALLBACK_ = 35,
    TRAINER_UNK_ID_ = 40,
    TRAINER_BOS_ID_,
    TRAINER_EOS_ID_,
    TRAINER_PAD_ID_,
    TRAINER_UNK_SURFACE_,
    TRAINER_UNK_PIECE_,
    TRAINER_BOS_PIECE_,
    TRAINER_EOS_PIECE_,
    TRAINER_PAD_PIECE_
};
enum {
    NORMALIZER_NAME_ = 1,
    NORMALIZER_CHARSMAP_,
    NORMALIZER_DUMMY_PREFIX_,
    NORMALIZER_EXTRA_SPACES_,
    NORMALIZER_ESCAPE_SPACES_
};

// ------------------------------------------------------------------------------------------------
// Reader: the messages

// What a .model says besides its pieces.
typedef struct {
    uint64_t type;            // TRAINER_MODEL_TYPE_
    FileText begin, end, pad; // pieces
    FileText charsmap;
    bool denormalizes;
} ModelFile_;

// What is wrong with a piece, NULL if nothing is.
static inline const char *piece_fault_(FileText piece, float score, bool damaged, size_t id) {
    return damaged                                    ? "is damaged"
           : piece.length == 0                        ? "is empty"
           : memchr(piece.text, 0, piece.length)      ? "holds a NUL character"
           : !utf8_is_valid(piece.text, piece.length) ? "is not UTF-8"
           : !isfinite(score)                         ? "has a score that is not finite"
           : id == TOKENIZER_MAX_VOCAB ? "is one too many: at most 2097151 are supported"
                                       : NULL;
}

static inline bool piece_read_(Tokenizer *t, FileText message, const FileErrors *f) {
    ProtobufReader w = protobuf_reader(message.text, message.length);
    FileText piece = {"", 0};
    float score = 0;
    int kind = PIECE_NORMAL;
    while (protobuf_next(&w)) {
        if (w.field == PIECE_TEXT_ && w.wire == 2) {
            piece = (FileText){w.bytes, w.length};
        } else if (w.field == PIECE_SCORE_ && w.wire == 5) {
            uint32_t bits = (uint32_t)w.number;
            memcpy(&score, &bits, sizeof score);
        } else if (w.field == PIECE_TYPE_ && w.wire == 0 && w.number >= PIECE_NORMAL &&
                   w.number <= PIECE_BYTE) {
            kind = (int)w.number;
        }
    }

    size_t id = t->vocabulary.count;
    const char *fault = piece_fault_(piece, score, w.damaged, id);
    if (fault) {
        return reject(f, "piece %zu %s", id, fault);
    }
    return tokenizer_add_piece(t, piece.text, piece.length, (double)score, kind, f->error);
}

static inline void trainer_spec_read_(Tokenizer *t, ModelFile_ *m, ProtobufReader *w) {
    DecodeRules *decode = &t->decode;
    while (protobuf_next(w)) {
        FileText text = {w->bytes, w->length}; // of wire type 2
        FileText *piece = NULL;
        switch (w->field << 3 | (uint32_t)w->wire) {
        case TRAINER_MODEL_TYPE_ << 3:
            m->type = w->number >= 1 && w->number <= 4 ? w->number : m->type;
            break;
        case TRAINER_SPACE_SUFFIX_ << 3:
            t->sentencepiece_normalizer.space_suffix = w->number;
            break;
        case TRAINER_BYTE_FALLBACK_ << 3:
            t->pieces.byte_fallback = w->number;
            break;
        case TRAINER_UNK_SURFACE_ << 3 | 2: // one that is too long is rejected later
            decode->unknown_surface_length = text.length;
            memcpy(decode->unknown_surface, text.text,
                   min_u64(text.length, sizeof decode->unknown_surface));
            break;
        case TRAINER_BOS_PIECE_ << 3 | 2:
            piece = &m->begin;
            break;
        case TRAINER_EOS_PIECE_ << 3 | 2:
            piece = &m->end;
            break;
        case TRAINER_PAD_PIECE_ << 3 | 2:
            piece = &m->pad;
            break;
        }
        if (piece && text.length) {
            *piece = text;
        }
    }
}

static inline void normalizer_spec_read_(SentencePieceNormalizer *s, FileText *charsmap,
                                         ProtobufReader *w) {
    while (protobuf_next(w)) {
        switch (w->field << 3 | (uint32_t)w->wire) {
        case NORMALIZER_CHARSMAP_ << 3 | 2:
            *charsmap = (FileText){w->bytes, w->length};
            break;
        case NORMALIZER_DUMMY_PREFIX_ << 3:
            s->dummy_prefix = w->number;
            break;
        case NORMALIZER_EXTRA_SPACES_ << 3:
            s->collapse_spaces = w->number;
            break;
        case NORMALIZER_ESCAPE_SPACES_ << 3:
            s->escape_spaces = w->number;
            break;
        }
    }
}

static inline bool model_proto_read_(Tokenizer *t, ModelFile_ *m, FileText file,
                                     const FileErrors *f) {
    ProtobufReader w = protobuf_reader(file.text, file.length);
    bool damaged = false;
    while (protobuf_next(&w) && !damaged) {
        if (w.wire != 2) {
            continue;
        }
        ProtobufReader inner = protobuf_reader(w.bytes, w.length);
        if (w.field == MODEL_PIECES_ && !piece_read_(t, (FileText){w.bytes, w.length}, f)) {
            return false;
        }
        if (w.field == MODEL_TRAINER_) {
            trainer_spec_read_(t, m, &inner);
        } else if (w.field == MODEL_NORMALIZER_) {
            normalizer_spec_read_(&t->sentencepiece_normalizer, &m->charsmap, &inner);
        } else if (w.field == MODEL_DENORMALIZER_) {
            SentencePieceNormalizer ignored = {0};
            FileText charsmap = {0};
            normalizer_spec_read_(&ignored, &charsmap, &inner);
            m->denormalizes |= charsmap.length > 0;
        }
        damaged = inner.damaged;
    }
    return (!w.damaged && !damaged && t->vocabulary.count > 0) ||
           reject(f, "not a SentencePiece model, or damaged (byte %zu)",
                  (size_t)((const char *)w.at - file.text));
}

// ------------------------------------------------------------------------------------------------
// Reader: the checks

// Is this piece matched by text, so that it lives in the one name space of sentencepiece, or in
// that of the others?
static inline bool is_text_piece_(const Token *token) {
    return token->kind == PIECE_NORMAL || token->kind == PIECE_USER || token->kind == PIECE_UNUSED;
}

// Files the pieces by spelling and rejects repeated ones. With BPE and characters, also a piece
// that is spelled like a control piece: there sentencepiece gives the control piece's id to text,
// or no ids at all.
static inline bool pieces_check_spellings_(const Vocabulary *v, bool unigram, Spellings *s,
                                           const FileErrors *f) {
    if (!spellings_reserve(s, v->count, 0, f)) {
        return false;
    }
    for (int text_pieces = 0; text_pieces < 2; text_pieces++) {
        for (size_t id = 0; id < v->count; id++) {
            const Token *token = &v->tokens[id];
            FileText name = {v->bytes + token->offset, token->length};
            if (is_text_piece_(token) != text_pieces) {
                continue;
            }
            int32_t known = spellings_find(s, name);
            bool reserved = known >= 0 && !is_text_piece_(&v->tokens[known]);
            if (known >= 0 && (reserved == !text_pieces || !unigram)) {
                return reject(f, "piece %zu is spelled like piece %d", id, (int)known);
            }
            if (known < 0 && !spellings_add(s, name, id, f->error)) {
                return false;
            }
        }
    }
    return true;
}

// Rejects bytes that are wrong or missing.
static inline bool pieces_check_bytes_(const Vocabulary *v, bool byte_fallback,
                                       const FileErrors *f) {
    bool found[256] = {false};
    for (size_t id = 0; id < v->count; id++) {
        const Token *token = &v->tokens[id];
        if (token->kind != PIECE_BYTE) {
            continue;
        }
        int16_t byte = piece_byte(v->bytes + token->offset, token->length, false);
        if (byte < 0 || !byte_fallback) {
            return reject(
                f, "piece %zu of type BYTE must be written <0xNN>, in a model with byte_fallback",
                id);
        }
        found[byte] = true;
    }
    for (int b = 0; b < 256 && byte_fallback; b++) {
        if (!found[b]) {
            return reject(f, "has byte_fallback, but no piece <0x%02X>", b);
        }
    }
    return true;
}

// Finds the one unknown piece, and rejects control pieces for which sentencepiece gives no ids.
static inline bool pieces_check_specials_(const Vocabulary *v, bool unigram, int32_t *unknown,
                                          const FileErrors *f) {
    for (size_t id = 0; id < v->count; id++) {
        const Token *token = &v->tokens[id];
        if (token->kind == PIECE_UNKNOWN && *unknown >= 0) {
            return reject(f, "pieces %d and %zu are both of type UNKNOWN", (int)*unknown, id);
        }
        *unknown = token->kind == PIECE_UNKNOWN ? (int32_t)id : *unknown;
        if (token->kind == PIECE_CONTROL && !unigram &&
            lead_byte_length(v->bytes + token->offset, token->length) == token->length) {
            return reject(f,
                          "control piece %zu is one character: sentencepiece gives no ids for "
                          "text with it",
                          id);
        }
    }
    return *unknown >= 0 || reject(f, "has no piece of type UNKNOWN");
}

static inline int32_t control_piece_(const Vocabulary *v, const Spellings *s, FileText name) {
    int32_t id = spellings_find(s, name);
    return id >= 0 && v->tokens[id].kind == PIECE_CONTROL ? id : -1;
}

// Reads the .model in t->source. *end is its end-of-document piece; unchanged if it has none.
static inline bool sentencepiece_read(Tokenizer *t, Spellings *s, FileText *end,
                                      const FileErrors *f) {
    static const char surface[] = " \xE2\x81\x87 ";
    ModelFile_ m = {.type = 1, .begin = {"<s>", 3}, .end = {"</s>", 4}, .pad = {"<pad>", 5}};
    SentencePieceNormalizer *normalizer = &t->sentencepiece_normalizer;
    Vocabulary *v = &t->vocabulary;
    t->pieces.sentencepiece = true;
    normalizer->dummy_prefix = normalizer->collapse_spaces = normalizer->escape_spaces = true;
    memcpy(t->decode.unknown_surface, surface, sizeof surface);
    t->decode.unknown_surface_length = sizeof surface - 1;
    if (!model_proto_read_(t, &m, (FileText){t->source, t->source_length}, f)) {
        return false;
    }

    t->model = m.type == 1 ? MODEL_UNIGRAM : m.type == 2 ? MODEL_PIECE_BPE : MODEL_CHARACTER;
    if (m.type == 3) {
        return reject(f, "unsupported model_type WORD: UNIGRAM, BPE and CHAR are supported");
    }
    if (m.denormalizes) {
        return reject(f, "unsupported rules in denormalizer_spec: text would decode differently");
    }
    if (t->decode.unknown_surface_length > sizeof t->decode.unknown_surface) {
        return reject(f, "unk_surface is longer than %zu bytes", sizeof t->decode.unknown_surface);
    }
    bool unigram = t->model == MODEL_UNIGRAM;
    if (!pieces_check_spellings_(v, unigram, s, f) ||
        !pieces_check_bytes_(v, t->pieces.byte_fallback, f) ||
        !pieces_check_specials_(v, unigram, &t->pieces.unknown, f) ||
        (m.charsmap.length &&
         !charsmap_read(&normalizer->charsmap, m.charsmap.text, m.charsmap.length, f))) {
        return false;
    }

    t->begin = control_piece_(v, s, m.begin);
    t->pad = control_piece_(v, s, m.pad);
    if (control_piece_(v, s, m.end) >= 0) {
        *end = m.end;
    }
    return tokenizer_index(t, f);
}

// ------------------------------------------------------------------------------------------------
// Writer

static inline void special_write_(TextBuffer *message, unsigned field, const Tokenizer *t,
                                  int32_t id) {
    size_t length;
    const char *text = tokenizer_text(t, id, &length);
    if (length) {
        protobuf_put_bytes(message, field, text, length);
    }
}

// Writes a Unigram without character map.
static inline void sentencepiece_write(JsonWriter *w, const Tokenizer *t) {
    const Vocabulary *v = &t->vocabulary;
    const SentencePieceNormalizer *s = &t->sentencepiece_normalizer;
    TextBuffer message = {0};
    for (size_t id = 0; id < v->count; id++) {
        const Token *token = &v->tokens[id];
        protobuf_put_bytes(&message, PIECE_TEXT_, v->bytes + token->offset, token->length);
        protobuf_put_float(&message, PIECE_SCORE_, (float)t->pieces.scores[id]);
        protobuf_put_number(&message, PIECE_TYPE_, token->kind);
        protobuf_put_message(&w->text, MODEL_PIECES_, &message);
    }

    protobuf_put_number(&message, TRAINER_MODEL_TYPE_, 1);
    protobuf_put_number(&message, TRAINER_VOCAB_SIZE_, (int64_t)v->count);
    protobuf_put_number(&message, TRAINER_BYTE_FALLBACK_, t->pieces.byte_fallback);
    protobuf_put_number(&message, TRAINER_UNK_ID_, t->pieces.unknown);
    protobuf_put_number(&message, TRAINER_BOS_ID_, t->begin);
    protobuf_put_number(&message, TRAINER_EOS_ID_, t->end_of_document);
    protobuf_put_number(&message, TRAINER_PAD_ID_, t->pad);
    special_write_(&message, TRAINER_UNK_PIECE_, t, t->pieces.unknown);
    special_write_(&message, TRAINER_BOS_PIECE_, t, t->begin);
    special_write_(&message, TRAINER_EOS_PIECE_, t, t->end_of_document);
    special_write_(&message, TRAINER_PAD_PIECE_, t, t->pad);
    protobuf_put_message(&w->text, MODEL_TRAINER_, &message);

    protobuf_put_bytes(&message, NORMALIZER_NAME_, "identity", 8);
    protobuf_put_number(&message, NORMALIZER_DUMMY_PREFIX_, s->dummy_prefix);
    protobuf_put_number(&message, NORMALIZER_EXTRA_SPACES_, s->collapse_spaces);
    protobuf_put_number(&message, NORMALIZER_ESCAPE_SPACES_, s->escape_spaces);
    protobuf_put_message(&w->text, MODEL_NORMALIZER_, &message);
    free(message.data);
}

#endif
