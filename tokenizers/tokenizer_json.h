// tokenizer_json.h: the tokenizer.json of Hugging Face `tokenizers`: byte-level BPE and Unigram are
// read, byte-level BPE of GPT-2's kind is written.
#ifndef TOKENIZERS_TOKENIZER_JSON_H
#define TOKENIZERS_TOKENIZER_JSON_H

#include "tokenizers/json_components.h"
#include "tokenizers/vocab_merges.h"

// ------------------------------------------------------------------------------------------------
// Unigram

// Appends a decimal digit to *digits as long as 64 bits hold them; *full: they do not any more.
static inline void serde_digit_(uint64_t *digits, char digit, bool *full) {
    uint64_t more;
    *full |= __builtin_mul_overflow(*digits, 10, &more) ||
             __builtin_add_overflow(more, (uint64_t)(digit - '0'), &more);
    *digits = *full ? *digits : more;
}

// value times 10 to the power of exponent, as serde_json computes it; infinity if it overflows.
static inline double serde_scale_(double value, int exponent) {
    for (; value != 0.0 && (exponent > 308 || exponent < -308);
         exponent += exponent < 0 ? 308 : -308) {
        value = exponent < 0 ? value / 1e308 : value * 1e308;
        if (isinf(value)) {
            return value;
        }
    }
    if (value == 0.0) {
        return value;
    }
    char text[16];
    snprintf(text, sizeof text, "1e%d", abs(exponent));
    double power = strtod(text, NULL);
    return exponent < 0 ? value / power : value * power;
}

// The number as `tokenizers` reads it (serde_json without exact rounding): 64 bits of digits, then
// one division or product by a power of ten. It may differ from the nearest double in the last bit,
// which decides ties.
static inline double serde_double_(const char *text) {
    static const int limit = 100000; // beyond any exponent that matters
    const bool negative = *text == '-';
    uint64_t digits = 0;
    int exponent = 0, written = 0;
    bool full = false;
    for (text += negative; *text >= '0' && *text <= '9'; text++) {
        serde_digit_(&digits, *text, &full);
        exponent += full && exponent < limit;
    }
    full = false;
    for (text += *text == '.'; *text >= '0' && *text <= '9'; text++) {
        serde_digit_(&digits, *text, &full);
        exponent -= !full && exponent > -limit;
    }

    if (*text == 'e' || *text == 'E') {
        bool down = text[1] == '-';
        for (text += 1 + (text[1] == '-' || text[1] == '+'); *text >= '0' && *text <= '9'; text++) {
            written = written < limit ? 10 * written + (*text - '0') : written;
        }
        exponent += down ? -written : written;
    }
    double value = serde_scale_((double)digits, exponent);
    return negative ? -value : value;
}

// Reads one entry [piece, score]; its index is its id.
static inline bool unigram_read_entry_(Tokenizer *t, Spellings *s, const Json *entry,
                                       const FileErrors *f) {
    const Json *piece = entry->kind == JSON_ARRAY && entry->length == 2 ? entry->child : NULL;
    const Json *score = piece ? piece->next : NULL;
    size_t id = t->vocabulary.count;
    if (!json_string(piece) || piece->length == 0 || score->kind != JSON_NUMBER) {
        return reject(f,
                      "vocabulary entry %zu must be [piece, score], the piece not empty and "
                      "without NUL",
                      id);
    }
    double value = serde_double_(score->text);
    if (!isfinite(value)) {
        return reject(f, "vocabulary entry %zu: its score %.40s is out of range", id, score->text);
    }
    return tokenizer_add_piece(t, piece->text, piece->length, value, PIECE_NORMAL, f->error) &&
           spellings_add(s, json_file_text(piece), id, f->error);
}

// Reads a Unigram model: "vocab" is [[piece, score], ...]. Of a repeated piece the last one counts.
static inline bool unigram_read_(Tokenizer *t, Spellings *s, const Json *model, size_t more,
                                 const FileErrors *f) {
    const Json *vocab = json_get(model, "vocab"), *fallback = json_get(model, "byte_fallback");
    uint64_t unknown;
    if (!vocab || vocab->kind != JSON_ARRAY || vocab->length == 0) {
        return reject(f, "the vocabulary must be an array of [piece, score]");
    }
    if (!spellings_reserve(s, vocab->length, more, f)) {
        return false;
    }
    if (!json_uint(json_get(model, "unk_id"), &unknown) || unknown >= vocab->length) {
        return reject(
            f, "unk_id must be an id below %zu: without one, text of other characters has no ids",
            vocab->length);
    }

    double lowest = INFINITY;
    for (const Json *entry = vocab->child; entry; entry = entry->next) {
        if (!unigram_read_entry_(t, s, entry, f)) {
            return false;
        }
        lowest = fmin(lowest, t->pieces.scores[t->vocabulary.count - 1]);
    }
    t->model = MODEL_UNIGRAM;
    t->pieces.unknown = (int32_t)unknown;
    t->pieces.unknown_score = lowest - 10.0;
    t->pieces.byte_fallback = json_is_bool(fallback, true);
    t->vocabulary.model_count = t->vocabulary.count;
    return json_absent(fallback) || fallback->kind == JSON_BOOL ||
           reject(f, "model.byte_fallback must be true or false");
}

// Reads the components around a model over pieces.
static inline bool pieces_read_components_(Tokenizer *t, const Json *root, const FileErrors *f) {
    const Json *normalizer = json_get(root, "normalizer"), *decoder = json_get(root, "decoder");
    t->decode.joins_with_spaces = json_absent(decoder);
    return (json_absent(normalizer) || normalizer_read(&t->normalizer, normalizer, f)) &&
           metaspace_pre_tokenizer_read(&t->pre_tokenizer, json_get(root, "pre_tokenizer"), f) &&
           (json_absent(decoder) || decoder_read(&t->decode, decoder, f));
}

// ------------------------------------------------------------------------------------------------
// Byte-level BPE

// Rejects every setting of a BPE, over bytes or not, that would give other ids. unk_token, fuse_unk
// and byte_fallback have no effect where all 256 bytes are in the vocabulary.
static inline bool bpe_read_settings_(const Json *root, bool bytes, const FileErrors *f) {
    const Json *model = json_get(root, "model"), *dropout = json_get(model, "dropout");
    const Json *prefix = json_get(model, "continuing_subword_prefix");
    const Json *suffix = json_get(model, "end_of_word_suffix");
    const Json *ignore = json_get(model, "ignore_merges");
    double rate;
    const char *wrong = NULL;
    if (bytes && !json_has_type(json_get(root, "decoder"), "ByteLevel")) {
        wrong = "unsupported decoder: a byte-level BPE must have ByteLevel";
    } else if (!json_absent(dropout) && !(json_double(dropout, &rate) && rate == 0.0)) {
        wrong = "model.dropout must be null: ids would be random";
    } else if ((!json_absent(prefix) && (prefix->kind != JSON_STRING || prefix->length)) ||
               (!json_absent(suffix) && (suffix->kind != JSON_STRING || suffix->length))) {
        wrong = "model.continuing_subword_prefix and end_of_word_suffix must be empty";
    } else if (!json_absent(ignore) && ignore->kind != JSON_BOOL) {
        wrong = "model.ignore_merges must be true or false";
    }
    return !wrong || reject(f, "%s", wrong);
}

static inline bool byte_bpe_read_components_(Tokenizer *t, const Json *root, const FileErrors *f) {
    const Json *normalizer = json_get(root, "normalizer");
    const Json *ignore = json_get(json_get(root, "model"), "ignore_merges");
    t->merges.ignore_merges = json_is_bool(ignore, true);
    if (!byte_level_pre_tokenizer_read(&t->pre_tokenizer, json_get(root, "pre_tokenizer"), f) ||
        !(json_absent(normalizer) || normalizer_read(&t->normalizer, normalizer, f))) {
        return false;
    }
    t->pre_tokenizer.is_gpt2 &= t->normalizer.count == 0;
    return true;
}

static inline bool byte_bpe_read_(Tokenizer *t, Spellings *s, const Json *model, size_t more,
                                  const FileErrors *f) {
    return vocab_read(t, s, json_get(model, "vocab"), more, f) &&
           merges_read_json(t, s, json_get(model, "merges"), f);
}

// ------------------------------------------------------------------------------------------------
// BPE over characters

// Whether a BPE is over bytes: its pre-tokenizer or its decoder maps them.
static inline bool is_byte_bpe_(const Json *root) {
    StepList list = {0};
    const Json *pre = json_get(root, "pre_tokenizer");
    bool found = json_has_type(json_get(root, "decoder"), "ByteLevel") ||
                 (!json_absent(pre) && !json_steps(&list, pre, "pretokenizers", 0));
    for (size_t i = 0; i < list.count; i++) {
        found |= json_has_type(list.steps[i], "ByteLevel");
    }
    return found;
}

// Reads what becomes of characters that are no tokens.
static inline bool merge_bpe_read_unknown_(Tokenizer *t, const Spellings *s, const Json *model,
                                           const FileErrors *f) {
    const Json *unknown = json_get(model, "unk_token");
    size_t bytes = 0;
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        bytes += spellings_find(s, file_text(name)) >= 0;
    }
    if (json_string(unknown)) {
        t->pieces.unknown = spellings_find(s, json_file_text(unknown));
    }
    t->pieces.byte_fallback = json_is_bool(json_get(model, "byte_fallback"), true) && bytes > 0;
    t->pieces.fuse_unknown = json_is_bool(json_get(model, "fuse_unk"), true);
    if (t->pieces.byte_fallback && bytes < 256) {
        return reject(f, "has byte_fallback, but only %zu of the 256 tokens <0xNN>", bytes);
    }
    return t->pieces.byte_fallback || t->pieces.unknown >= 0 ||
           reject(f, "model.unk_token must be a token: without one, and without byte_fallback, "
                     "text of other characters has no ids");
}

// Rejects merges of tokens that text does not spell.
static inline bool merge_bpe_check_merges_(const Tokenizer *t, const FileErrors *f) {
    const Vocabulary *v = &t->vocabulary;
    for (size_t i = 0; i < t->merges.count; i++) {
        const int32_t ids[2] = {t->merges.items[i].left, t->merges.items[i].right};
        for (int k = 0; k < 2; k++) {
            size_t length;
            const char *text = vocabulary_text(v, ids[k], &length);
            if (ids[k] == t->pieces.unknown || piece_byte(text, length, false) >= 0) {
                return reject(f, "unsupported merge %zu, of a byte or of the unknown token", i);
            }
        }
    }
    return true;
}

// Reads a BPE over characters, as Llama 2 has it.
static inline bool merge_bpe_read_(Tokenizer *t, Spellings *s, const Json *model, size_t more,
                                   const FileErrors *f) {
    const Json *vocab = json_get(model, "vocab");
    t->model = MODEL_MERGE_BPE;
    if (json_is_bool(json_get(model, "ignore_merges"), true)) {
        return reject(f, "unsupported model.ignore_merges of a BPE over characters");
    }
    if (!vocab_read_spellings(s, vocab, more, f)) {
        return false;
    }
    for (size_t id = 0; id < vocab->length; id++) {
        if (!tokenizer_add_piece(t, s->tokens[id].text, s->tokens[id].length, 0, PIECE_NORMAL,
                                 f->error)) {
            return false;
        }
    }
    t->vocabulary.model_count = t->vocabulary.count;
    return merge_bpe_read_unknown_(t, s, model, f) &&
           merges_read_json(t, s, json_get(model, "merges"), f) && merge_bpe_check_merges_(t, f);
}

// ------------------------------------------------------------------------------------------------
// Added tokens

// Makes the token `id` the added token, which is looked for, and decoded, as the normalizer leaves
// it.
static inline bool added_add_normalized_(Tokenizer *t, AddedToken added, size_t index,
                                         const FileErrors *f) {
    TextBuffer normalized = {0}, other = {0};
    bool ok = normalizer_apply(&t->normalizer, t->classes, added.text, added.length, TEXT_COMPLETE,
                               &normalized, &other, f->error) &&
              (normalized.length ||
               reject(f, "added token %zu: the normalizer leaves nothing of it", index)) &&
              vocabulary_set_decoded(&t->vocabulary, (size_t)added.id, normalized.data,
                                     normalized.length, f->error);
    added.text = normalized.data;
    added.length = normalized.length;
    ok = ok && tokenizer_add_added(t, added, f->error);
    free(normalized.data);
    free(other.data);
    return ok;
}

// Reads one entry of "added_tokens". Its id must be the one that Hugging Face gives it whatever the
// file says: the vocabulary's if its text is there, else the next free one.
static inline bool added_read_(Tokenizer *t, Spellings *s, const Json *entry, size_t index,
                               const FileErrors *f) {
    const Json *content = json_get(entry, "content");
    uint64_t id;
    if (!json_string(content) || content->length == 0 || content->length > 1000) {
        return reject(f, "added token %zu: content must be 1 to 1000 bytes without NUL", index);
    }
    FileText text = json_file_text(content);
    int32_t known = spellings_find(s, text);
    size_t expected = known >= 0 ? (size_t)known : t->vocabulary.count;
    if (known >= 0 && t->vocabulary.tokens[known].added) {
        return reject(f, "added token %zu is listed twice", index);
    }
    if (!json_uint(json_get(entry, "id"), &id) || id != expected) {
        return reject(f, "added token %zu: its id must be %zu (%s)", index, expected,
                      known >= 0 ? "as in the vocabulary"
                                 : "the next after the vocabulary, without holes");
    }

    if (known < 0 &&
        !(spellings_add(s, text, expected, f->error) &&
          (t->model == MODEL_BYTE_BPE
               ? byte_token_read(t, text, f->error)
               : vocabulary_add(&t->vocabulary, text.text, text.length, false, f->error)))) {
        return false;
    }
    AddedToken added = {.text = (char *)text.text,
                        .length = text.length,
                        .id = (int32_t)expected,
                        .special = json_is_bool(json_get(entry, "special"), true),
                        .normalized = json_is_bool(json_get(entry, "normalized"), true),
                        .left_strip = json_is_bool(json_get(entry, "lstrip"), true),
                        .right_strip = json_is_bool(json_get(entry, "rstrip"), true),
                        .single_word = json_is_bool(json_get(entry, "single_word"), true)};
    return added.normalized && t->normalizer.count ? added_add_normalized_(t, added, index, f)
                                                   : tokenizer_add_added(t, added, f->error);
}

// ------------------------------------------------------------------------------------------------

// Reads a parsed tokenizer.json.
static inline bool tokenizer_json_read(Tokenizer *t, Spellings *s, const Json *root,
                                       const FileErrors *f) {
    const Json *model = json_get(root, "model"), *added = json_get(root, "added_tokens");
    size_t index = 0, more = added && added->kind == JSON_ARRAY ? added->length : 0;
    bool unigram = json_has_type(model, "Unigram");
    if (!model) {
        return reject(f, "not a tokenizer.json: must be an object with a \"model\"");
    }
    if (json_get(model, "type") && !unigram && !json_has_type(model, "BPE")) {
        return reject(f, "unsupported model.type: must be \"BPE\" or \"Unigram\"");
    }
    if (!json_absent(added) && added->kind != JSON_ARRAY) {
        return reject(f, "added_tokens must be an array");
    }
    if (!post_processor_is_known(json_get(root, "post_processor"))) {
        return reject(f, "post_processor is of an unknown type");
    }

    t->classes = character_classes(f->error);
    const bool bytes = !unigram && is_byte_bpe_(root);
    bool ok =
        t->classes && (unigram || bpe_read_settings_(root, bytes, f)) &&
        (bytes ? byte_bpe_read_components_(t, root, f) : pieces_read_components_(t, root, f)) &&
        (bytes     ? byte_bpe_read_(t, s, model, more, f)
         : unigram ? unigram_read_(t, s, model, more, f)
                   : merge_bpe_read_(t, s, model, more, f));
    for (const Json *entry = ok && added ? added->child : NULL; entry && ok;
         entry = entry->next, index++) {
        ok = added_read_(t, s, entry, index, f);
    }
    return ok && tokenizer_index(t, f);
}

// Writes a byte-level BPE that splits as GPT-2's, or by pre_tokenizer.expression.
static inline void tokenizer_json_write(JsonWriter *w, const Tokenizer *t) {
    json_open_tokenizer(w);
    for (size_t i = 0; i < t->added.count; i++) {
        json_put_added(w, &t->added.items[i]);
    }
    json_close(w, ']');
    if (t->normalizer.count) {
        json_open_component(w, "normalizer", "NFC"); // the only one that no source file has
        json_close(w, '}');
    } else {
        json_put_null(w, "normalizer");
    }
    if (t->pre_tokenizer.expression) {
        json_put_split(w, t->pre_tokenizer.expression);
    } else {
        json_put_byte_level(w, "pre_tokenizer", t->pre_tokenizer.prefix_space, true);
    }
    json_put_null(w, "post_processor");
    json_put_byte_level(w, "decoder", t->pre_tokenizer.prefix_space, true);

    json_open_component(w, "model", "BPE");
    json_put_null(w, "dropout");
    json_put_null(w, "unk_token");
    json_put_string(w, "continuing_subword_prefix", "");
    json_put_string(w, "end_of_word_suffix", "");
    json_put_bool(w, "fuse_unk", false);
    json_put_bool(w, "byte_fallback", false);
    json_put_bool(w, "ignore_merges", t->merges.ignore_merges);
    vocab_write_object(w, "vocab", t);
    merges_write_array(w, t);
    json_close(w, '}');
    json_close(w, '}');
    json_append(w, "\n", 1);
}

#endif
