// vocab_merges.h: vocabulary and merges of a byte-level BPE as GPT-2's files have them: vocab.json,
// an object {token: id}, and merges.txt, a line "a b" for each merge. A tokenizer.json holds the
// same within its model.
#ifndef TOKENIZERS_VOCAB_MERGES_H
#define TOKENIZERS_VOCAB_MERGES_H

#include "tokenizers/byte_alphabet.h"
#include "tokenizers/model.h"
#include "tokenizers/spellings.h"
#include "util/json.h"

// ------------------------------------------------------------------------------------------------
// Readers

// The text of a string node.
static inline FileText json_file_text(const Json *node) {
    return (FileText){node->text, node->length};
}

// Adds the token that a file writes as `text`: mapped back through the byte alphabet, or as it is
// if a character of it stands for no byte.
static inline bool byte_token_read(Tokenizer *t, FileText text, Error *e) {
    char *bytes = malloc(text.length);
    size_t count = 0;
    bool verbatim = false;
    if (!bytes) {
        return fail(e, "tokenizer: out of memory for a token of %zu bytes", text.length);
    }
    for (size_t i = 0, n; i < text.length && !verbatim; i += n) {
        uint32_t c = 0;
        n = utf8_decode(text.text + i, text.length - i, &c);
        verbatim = n == 0 || byte_of_symbol(c) < 0;
        bytes[count++] = (char)byte_of_symbol(c);
    }
    bool ok = verbatim ? vocabulary_add(&t->vocabulary, text.text, text.length, true, e)
                       : vocabulary_add(&t->vocabulary, bytes, count, false, e);
    free(bytes);
    return ok;
}

// Checks that the ids of {token: id} are 0 .. count - 1, each once, and files the spellings; leaves
// room for `more` tokens.
static inline bool vocab_read_spellings(Spellings *s, const Json *vocab, size_t more,
                                        const FileErrors *f) {
    if (!vocab || vocab->kind != JSON_OBJECT || vocab->length == 0) {
        return reject(f, "the vocabulary must be an object {token: id}");
    }
    size_t count = vocab->length, entry = 0;
    if (!spellings_reserve(s, count, more, f)) {
        return false;
    }
    for (const Json *token = vocab->child; token; token = token->next, entry++) {
        FileText text = {token->key, token->key_length};
        uint64_t id;
        if (text.length == 0 || memchr(text.text, 0, text.length)) {
            return reject(f, "vocabulary entry %zu is empty or holds a NUL character", entry);
        }
        if (!json_uint(token, &id) || id >= count) {
            return reject(f,
                          "vocabulary entry %zu: the ids of %zu tokens must be 0 to %zu without "
                          "holes, not %.20s",
                          entry, count, count - 1,
                          token->kind == JSON_NUMBER ? token->text : "another value");
        }
        if (s->tokens[id].text || spellings_find(s, text) >= 0) {
            return reject(f, "vocabulary entry %zu repeats %s", entry,
                          s->tokens[id].text ? "an id" : "a token");
        }
        if (!spellings_add(s, text, id, f->error)) {
            return false;
        }
    }
    return true;
}

// Reads {token: id} into the vocabulary and *s; leaves room for `more` added tokens.
static inline bool vocab_read(Tokenizer *t, Spellings *s, const Json *vocab, size_t more,
                              const FileErrors *f) {
    if (!vocab_read_spellings(s, vocab, more, f)) {
        return false;
    }
    for (size_t id = 0; id < vocab->length; id++) {
        if (!byte_token_read(t, s->tokens[id], f->error)) {
            return false;
        }
    }
    t->vocabulary.model_count = t->vocabulary.count;
    return true;
}

// Adds the merge of the tokens `a` and `b`, checked. `index` is its position, for error messages.
static inline bool merge_read_(Tokenizer *t, const Spellings *s, FileText a, FileText b,
                               size_t index, const FileErrors *f) {
    Merge merge = {spellings_find(s, a), spellings_find(s, b), spellings_find_joined(s, a, b)};
    if (merge.left < 0 || merge.right < 0 || merge.result < 0) {
        return reject(f, "merge %zu: its %s is not in the vocabulary", index,
                      merge.left < 0    ? "first part"
                      : merge.right < 0 ? "second part"
                                        : "result");
    }
    if (t->vocabulary.tokens[merge.result].verbatim) {
        return reject(f, "merge %zu has a character outside the byte alphabet", index);
    }
    if (t->merges.count == TOKENIZER_MAX_MERGES) {
        return reject(f, "more than %d merges", TOKENIZER_MAX_MERGES);
    }
    return merges_add(&t->merges, merge, f->error);
}

// Adds a merge written "a b", or skips the version line.
static inline bool merge_read_line_(Tokenizer *t, const Spellings *s, FileText line, size_t index,
                                    const FileErrors *f) {
    const char *space = memchr(line.text, ' ', line.length);
    if (line.length >= 8 && !memcmp(line.text, "#version", 8)) {
        return true;
    }
    size_t left = space ? (size_t)(space - line.text) : 0, right = line.length - left - 1;
    if (!space || memchr(space + 1, ' ', right)) {
        return reject(f, "merge %zu must be two tokens separated by one space", index);
    }
    return merge_read_(t, s, (FileText){line.text, left}, (FileText){space + 1, right}, index, f);
}

// Reads "merges" of a tokenizer.json: strings "a b" or pairs ["a", "b"].
static inline bool merges_read_json(Tokenizer *t, const Spellings *s, const Json *merges,
                                    const FileErrors *f) {
    size_t index = 0;
    if (!merges || merges->kind != JSON_ARRAY) {
        return reject(f, "model.merges must be an array");
    }
    for (const Json *m = merges->child; m; m = m->next, index++) {
        const Json *a = m->kind == JSON_ARRAY && m->length == 2 ? m->child : NULL;
        const Json *b = a ? a->next : NULL;
        bool ok;
        if (m->kind == JSON_STRING) {
            ok = merge_read_line_(t, s, json_file_text(m), index, f);
        } else if (a && a->kind == JSON_STRING && b->kind == JSON_STRING) {
            ok = merge_read_(t, s, json_file_text(a), json_file_text(b), index, f);
        } else {
            ok = reject(f, "merge %zu must be \"a b\" or [\"a\", \"b\"]", index);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

// Reads the text of a merges.txt.
static inline bool merges_read_lines_(Tokenizer *t, const Spellings *s, FileText merges,
                                      const FileErrors *f) {
    size_t index = 0;
    for (const char *line = merges.text, *end = line + merges.length; line < end; index++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((newline ? newline : end) - line);
        size_t kept = n && line[n - 1] == '\r' ? n - 1 : n;
        if (kept && !merge_read_line_(t, s, (FileText){line, kept}, index, f)) {
            return false;
        }
        line += n + (newline != NULL);
    }
    return true;
}

// Reads a parsed vocab.json and the text of a merges.txt. `end` becomes an added token, as
// transformers makes it one.
static inline bool vocab_merges_read(Tokenizer *t, Spellings *s, const Json *vocab, FileText merges,
                                     FileText end, const FileErrors *vocab_file,
                                     const FileErrors *merges_file) {
    if (!vocab_read(t, s, vocab, 0, vocab_file) || !merges_read_lines_(t, s, merges, merges_file)) {
        return false;
    }
    AddedToken added = {(char *)end.text, end.length, spellings_find(s, end), .special = true};
    return (added.id < 0 || tokenizer_add_added(t, added, vocab_file->error)) &&
           tokenizer_index(t, vocab_file);
}

// ------------------------------------------------------------------------------------------------
// Writers

// Appends the token as files write it.
static inline void token_write(JsonWriter *w, const Tokenizer *t, int32_t id) {
    size_t length;
    const char *bytes = tokenizer_text(t, id, &length);
    if (t->vocabulary.tokens[id].verbatim || t->model != MODEL_BYTE_BPE) {
        json_append(w, bytes, length);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        char character[4];
        json_append(w, character, utf8_encode(byte_to_symbol((unsigned char)bytes[i]), character));
    }
}

// Puts a string that was composed in `text`, and frees it.
static inline void json_put_composed(JsonWriter *w, const char *key, JsonWriter *text) {
    json_put_text(w, key, text->data ? text->data : "", text->length);
    w->failed |= text->failed;
    free(text->data);
}

// {token: id}
static inline void vocab_write_object(JsonWriter *w, const char *key, const Tokenizer *t) {
    JsonWriter text = {0};
    json_open(w, key, '{');
    for (size_t id = 0; id < t->vocabulary.model_count; id++) {
        text.length = 0;
        token_write(&text, t, (int32_t)id);
        if (!text.failed) {
            json_put_uint(w, text.data, id);
        }
    }
    json_close(w, '}');
    w->failed |= text.failed;
    free(text.data);
}

// Appends a merge as "a b": every version of `tokenizers` reads that form, and no token of a merge
// has a space.
static inline void merge_write_(JsonWriter *w, const Tokenizer *t, const Merge *merge) {
    token_write(w, t, merge->left);
    json_append(w, " ", 1);
    token_write(w, t, merge->right);
}

// "merges" of a tokenizer.json.
static inline void merges_write_array(JsonWriter *w, const Tokenizer *t) {
    json_open(w, "merges", '[');
    for (size_t i = 0; i < t->merges.count; i++) {
        JsonWriter text = {0};
        merge_write_(&text, t, &t->merges.items[i]);
        json_put_composed(w, NULL, &text);
    }
    json_close(w, ']');
}

static inline void vocab_json_write(JsonWriter *w, const Tokenizer *t) {
    vocab_write_object(w, NULL, t);
    json_append(w, "\n", 1);
}

static inline void merges_txt_write(JsonWriter *w, const Tokenizer *t) {
    json_append(w, "#version: 0.2\n", 14);
    for (size_t i = 0; i < t->merges.count; i++) {
        merge_write_(w, t, &t->merges.items[i]);
        json_append(w, "\n", 1);
    }
}

#endif
