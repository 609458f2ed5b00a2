// tokenizer_config.h: tokenizer_config.json of Hugging Face transformers: the roles of special
// tokens, and which class opens the folder.
#ifndef TOKENIZERS_TOKENIZER_CONFIG_H
#define TOKENIZERS_TOKENIZER_CONFIG_H

#include "tokenizers/json_components.h"
#include "tokenizers/vocab_merges.h"

// The text of a role ("eos_token"), a string or {"content": string}; text->text is NULL if there is
// none. `config` may be NULL.
static inline bool tokenizer_config_token(const Json *config, const char *directory,
                                          const char *role, FileText *text, Error *e) {
    const Json *node = json_get(config, role);
    *text = (FileText){0};
    if (json_absent(node)) {
        return true;
    }
    node = node->kind == JSON_OBJECT ? json_get(node, "content") : node;
    if (!json_string(node) || node->length == 0) {
        return fail(e, "%s/tokenizer_config.json: %s must be a string", directory, role);
    }
    *text = json_file_text(node);
    return true;
}

static inline void put_model_max_length_(JsonWriter *w, const Tokenizer *t) {
    if (t->model_max_length) {
        json_put_uint(w, "model_max_length", t->model_max_length);
    }
}

static inline void put_role_(JsonWriter *w, const char *role, const Tokenizer *t, int32_t id) {
    JsonWriter text = {0};
    token_write(&text, t, id);
    json_put_composed(w, role, &text);
}

// Of GPT-2's kind. GPT2Tokenizer would take <|endoftext|> for bos, eos and unk where they are
// missing, with a new id if need be.
static inline void tokenizer_config_write_gpt2(JsonWriter *w, const Tokenizer *t) {
    static const char *const roles[] = {"bos_token", "eos_token", "unk_token"};
    json_open(w, NULL, '{');
    json_put_string(w, "tokenizer_class", "GPT2Tokenizer");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        put_role_(w, roles[i], t, t->end_of_document);
    }
    json_put_bool(w, "add_prefix_space", t->pre_tokenizer.prefix_space);
    json_put_bool(w, "clean_up_tokenization_spaces", false);
    put_model_max_length_(w, t);
    json_open(w, "added_tokens_decoder", '{');
    for (size_t i = 0; i < t->added.count; i++) {
        char id[24];
        snprintf(id, sizeof id, "%d", (int)t->added.items[i].id);
        json_open(w, id, '{');
        json_put_added_fields(w, &t->added.items[i]);
        json_close(w, '}');
    }
    json_close(w, '}');
    json_close(w, '}');
    json_append(w, "\n", 1);
}

// Of all other kinds. "ids_follow" is for people: transformers ignores it.
static inline void tokenizer_config_write_fast(JsonWriter *w, const Tokenizer *t) {
    const struct {
        const char *role;
        int32_t id;
    } roles[] = {{"bos_token", t->begin},
                 {"eos_token", t->end_of_document},
                 {"unk_token", t->pieces.unknown},
                 {"pad_token", t->pad}};
    json_open(w, NULL, '{');
    json_put_string(w, "tokenizer_class", "PreTrainedTokenizerFast");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (roles[i].id >= 0) {
            put_role_(w, roles[i].role, t, roles[i].id);
        }
    }
    json_put_bool(w, "clean_up_tokenization_spaces", false);
    put_model_max_length_(w, t);
    json_put_string(w, "ids_follow",
                    t->pieces.sentencepiece ? "tokenizer.model, read by sentencepiece"
                                            : "tokenizer.json, read by tokenizers");
    json_close(w, '}');
    json_append(w, "\n", 1);
}

#endif
