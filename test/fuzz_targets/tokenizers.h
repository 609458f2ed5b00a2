// tokenizers.h: Tokenizers: ids are in the vocabulary, decode to the text, equal those of a plain
// implementation, and stay the same where a text may be cut and after saving and loading
#ifndef TEST_FUZZ_TARGETS_TOKENIZERS_H
#define TEST_FUZZ_TARGETS_TOKENIZERS_H

#include "test/fuzz_targets/gpt2_split.h"
#include "test/fuzz_targets/json.h"
#include "test/fuzz_targets/promises.h"

static void append_token_text(JsonWriter *w, const Tokenizer *t, const TokenBuffer *ids) {
    for (size_t i = 0; i < ids->count; i++) {
        size_t length;
        const char *bytes = tokenizer_text(t, ids->ids[i], &length);
        promise(ids->ids[i] >= 0 && (size_t)ids->ids[i] < t->vocabulary.count, "id %d of %zu",
                ids->ids[i], t->vocabulary.count);
        json_append(w, bytes, length);
    }
}

// The definition of BPE: as long as there is one, the merge that stands first in the list, the
// leftmost of those.
static size_t merge_plainly(const Tokenizer *t, const char *text, size_t n, int32_t *ids) {
    for (size_t i = 0; i < n; i++) {
        ids[i] = t->vocabulary.byte_id[(unsigned char)text[i]];
    }
    for (;;) {
        size_t best = n, first = t->merges.count;
        for (size_t i = 0; i + 1 < n; i++) {
            for (size_t priority = t->merges.count;
                 priority-- > 0;) { // of a repeated pair the last one counts
                if (t->merges.items[priority].left == ids[i] &&
                    t->merges.items[priority].right == ids[i + 1]) {
                    if (priority < first) {
                        best = i, first = priority;
                    }
                    break;
                }
            }
        }
        if (best == n) {
            return n;
        }
        ids[best] = t->merges.items[first].result;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

static bool same_ids(const TokenBuffer *a, const TokenBuffer *b) {
    return a->count == b->count &&
           (a->count == 0 || !memcmp(a->ids, b->ids, a->count * sizeof *a->ids));
}

// Ids one by one give whole characters.
static void check_decoding(const Tokenizer *t, const TokenBuffer *ids) {
    Decoder decoder;
    Error e = {0};
    decoder_init(&decoder, t, true);
    for (size_t i = 0; i <= ids->count; i++) {
        promise(i < ids->count ? decoder_add(&decoder, ids->ids[i], &e) : decoder_end(&decoder, &e),
                "%s", e.text);
        promise(is_utf8(decoder.text.data, decoder.text.length), "decoded text is no UTF-8");
        decoder.text.length = 0;
    }
    decoder_free(&decoder);
}

static void check_encoding(const Tokenizer *t, const char *text, size_t length) {
    Error e = {0};
    TokenBuffer ids = {0}, other = {0};
    JsonWriter decoded = {0};
    Encoder encoder;
    // Added tokens whose text is not their bytes ("Ġ" for a space), or that take the space beside
    // them, do not decode to the text.
    bool exact = t->model == MODEL_BYTE_BPE && !t->pre_tokenizer.prefix_space &&
                 t->normalizer.count == 0 && !t->pre_tokenizer.splitter.removes;
    bool plain = exact;
    for (size_t i = 0; i < t->added.count; i++) {
        size_t n;
        const char *bytes = tokenizer_text(t, t->added.items[i].id, &n);
        exact = exact && !t->added.items[i].left_strip && !t->added.items[i].right_strip &&
                same_text(bytes, n, t->added.items[i].text, t->added.items[i].length);
        plain = plain && !memmem(text, length, t->added.items[i].text, t->added.items[i].length);
    }
    promise(encoder_init(&encoder, t, &e) && encoder_encode(&encoder, text, length, &ids, &e), "%s",
            e.text);
    append_token_text(&decoded, t, &ids);
    promise(!exact || same_text(decoded.data, decoded.length, text, length),
            "the ids decode to another text");

    // Pre-tokens one by one, without cache and heap.
    if (plain && t->pre_tokenizer.is_gpt2 && !t->merges.ignore_merges && t->merges.count < 400) {
        for (size_t i = 0, n; i < length; i += n) {
            n = pretoken_length(t->classes, text + i, length - i);
            promise(n > 0 && n <= length - i, "a pre-token of %zu bytes", n);
            promise(array_reserve(&other.ids, &other.capacity, other.count, n, sizeof(int32_t), &e),
                    "%s", e.text);
            other.count += merge_plainly(t, text + i, n, other.ids + other.count);
        }
        promise(same_ids(&ids, &other), "ids differ from those of a plain implementation");
    }
    if (utf8_is_valid(text, length)) {
        size_t cut = tokenizer_safe_cut(t, text, length);
        other.count = 0;
        promise(cut <= length, "a cut behind the text");
        promise(
            (cut == 0 || encoder_encode_chunk(&encoder, text, cut, TEXT_NOT_LAST, &other, &e)) &&
                encoder_encode_chunk(&encoder, text + cut, length - cut,
                                     cut ? TEXT_NOT_FIRST : TEXT_COMPLETE, &other, &e),
            "%s", e.text);
        promise(same_ids(&ids, &other), "a cut at byte %zu changes the ids", cut);
    }
    check_decoding(t, &ids);
    encoder_free(&encoder);
    free(decoded.data);
    free(ids.ids);
    free(other.ids);
}

static void check_saved(const Tokenizer *t, const char *text, size_t length) {
    Tokenizer again;
    TokenBuffer ids = {0}, other = {0};
    Error e = {0};
    char saved[PATH_LIMIT];
    snprintf(saved, sizeof saved, "%s", path_of("saved"));
    mkdir(saved, 0777);
    promise(tokenizer_save(t, saved, &e) && tokenizer_load(&again, saved, &e),
            "saved, then loaded: %s", e.text);
    promise(t->vocabulary.count == again.vocabulary.count &&
                t->merges.count == again.merges.count &&
                t->end_of_document == again.end_of_document && t->added.count == again.added.count,
            "a tokenizer saved and loaded differs");
    promise(tokenizer_encode(t, text, length, &ids, &e) &&
                tokenizer_encode(&again, text, length, &other, &e) && same_ids(&ids, &other),
            "a tokenizer saved and loaded gives other ids");
    tokenizer_free(&again);
    free(ids.ids);
    free(other.ids);
}

static bool check_tokenizer(InputPart text) {
    Tokenizer t;
    Error e = {0};
    if (!answer(tokenizer_load(&t, folder, &e), &e)) {
        return false;
    }
    promise(t.end_of_document >= 0 && (size_t)t.end_of_document < t.vocabulary.count,
            "no end-of-document token");
    check_encoding(&t, (char *)text.data, text.size);
    if (text.size % 4 == 0) { // saving takes longer than all the rest
        check_saved(&t, (char *)text.data, text.size);
    }
    tokenizer_free(&t);
    return true;
}

static bool run_tokenizer_json(InputPart *parts) {
    put_part("tokenizer.json", parts[0]);
    put_part_if_any("tokenizer_config.json", parts[1]);
    return check_tokenizer(parts[2]);
}

static bool run_model(InputPart *parts) {
    put_part("tokenizer.model", parts[0]);
    put_part_if_any("tokenizer_config.json", parts[1]);
    return check_tokenizer(parts[2]);
}

static bool run_vocab_merges(InputPart *parts) {
    put_part("vocab.json", parts[0]);
    put_part("merges.txt", parts[1]);
    put_part_if_any("tokenizer_config.json", parts[2]);
    return check_tokenizer(parts[3]);
}

#endif
