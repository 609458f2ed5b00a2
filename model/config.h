// config.h: the configuration of a model: config.json and generation_config.json of a Hugging Face
// model folder.
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "kernels_ref.h" // defines: Activation
#include "model/family.h"
#include "util/files.h"
#include "util/json.h"

// Rotary position embedding (Su et al. 2021): pair j of a head's D channels turns by position *
// theta^(-2j / D). Llama 3's scaling slows the long wavelengths by `factor`, and those between
// original_positions / high_freq_factor and original_positions / low_freq_factor in part.
typedef struct {
    double theta;
    double factor; // 1: no scaling
    double low_freq_factor, high_freq_factor;
    size_t original_positions;
} Rope;

enum { END_TOKENS = 8 };

// The configuration of a model.
typedef struct {
    const Family *family;
    size_t vocab_size;         // V
    size_t seq_len;            // maximum sequence length
    size_t channels;           // C
    size_t layers;             // L
    size_t heads, kv_heads;    // H, KV: H is a multiple of KV
    size_t head_dim;           // D
    size_t mlp_channels;       // F: hidden channels of the MLP
    bool tied;                 // the output head is the token embedding
    bool qkv_bias, out_bias;   // attention's projections
    bool mlp_bias;             //
    bool qk_norm;              // RMSNorm of each head's q and k
    Activation activation;     // of GPT-2's MLP; Llama's is SwiGLU
    double norm_eps;           //
    bool scale_attention;      // scores by 1 / sqrt(D),
    bool scale_by_layer;       // and by 1 / (number of the layer, from 1)
    Rope rope;                 // Llama
    int32_t begin_of_document; // token id; -1: none
    int32_t end_of_document;   // token id; -1: none
    int32_t ends[END_TOKENS];  // all ids that end a generated text,
    size_t end_count;          // end_of_document first
} ModelConfig;

// Reads an integer from 1 to `most`.
static inline bool config_number_(const Json *root, const char *path, const char *key,
                                  uint64_t most, size_t *value, Error *e) {
    uint64_t number;
    if (!json_uint(json_get(root, key), &number) || number < 1 || number > most) {
        return fail(e, "%s: \"%s\" must be an integer from 1 to %llu", path, key,
                    (unsigned long long)most);
    }
    *value = number;
    return true;
}

// Checks a string: it must have one of two values, or be absent, since the default is supported.
static inline bool config_check_string_(const Json *root, const char *path, const char *key,
                                        const char *want, const char * or, Error *e) {
    const Json *node = json_get(root, key);
    const char *text = json_string(node);
    if (node && (!text || (strcmp(text, want) && strcmp(text, or)))) {
        return fail(e, "%s: \"%s\" is \"%.60s\"; only \"%s\" is supported", path, key,
                    text ? text : "not a string", want);
    }
    return true;
}

// Checks a boolean: it must be `want`, or absent.
static inline bool config_check_bool_(const Json *root, const char *path, const char *key,
                                      bool want, Error *e) {
    const Json *node = json_get(root, key);
    if (node && (node->kind != JSON_BOOL || node->boolean != want)) {
        return fail(e, "%s: \"%s\" must be %s: nothing else is supported", path, key,
                    want ? "true" : "false");
    }
    return true;
}

static inline bool config_parse_(const Json *root, const char *path, ModelConfig *config,
                                 Error *e) {
    if (!config_number_(root, path, "vocab_size", 100000000, &config->vocab_size, e) ||
        !config_number_(root, path, "n_positions", 10000000, &config->seq_len, e) ||
        !config_number_(root, path, "n_embd", 1000000, &config->channels, e) ||
        !config_number_(root, path, "n_layer", 10000, &config->layers, e) ||
        !config_number_(root, path, "n_head", 10000, &config->heads, e) ||
        !config_check_string_(root, path, "model_type", "gpt2", "gpt2", e) ||
        !config_check_string_(root, path, "activation_function", "gelu_new", "gelu_pytorch_tanh",
                              e) ||
        !config_check_bool_(root, path, "scale_attn_weights", true, e) ||
        !config_check_bool_(root, path, "scale_attn_by_inverse_layer_idx", false, e) ||
        !config_check_bool_(root, path, "tie_word_embeddings", true, e) ||
        !config_check_bool_(root, path, "add_cross_attention", false, e)) {
        return false;
    }

    // The dimensions of a block.
    uint64_t inner;
    const Json *n_inner = json_get(root, "n_inner");
    if (config->channels % config->heads) {
        return fail(e, "%s: n_embd %zu is not a multiple of n_head %zu", path, config->channels,
                    config->heads);
    }
    if (n_inner && n_inner->kind != JSON_NULL &&
        (!json_uint(n_inner, &inner) || inner != 4 * config->channels)) {
        return fail(e, "%s: \"n_inner\" must be null or 4 * n_embd = %zu", path,
                    4 * config->channels);
    }

    double epsilon;
    const Json *norm = json_get(root, "layer_norm_epsilon");
    if (norm && (!json_double(norm, &epsilon) || epsilon != 1e-5)) {
        return fail(e, "%s: \"layer_norm_epsilon\" must be 1e-05", path);
    }

    uint64_t eos;
    bool has_eos = json_uint(json_get(root, "eos_token_id"), &eos) && eos < config->vocab_size;
    config->end_of_document = has_eos ? (int32_t)eos : -1;
    return true;
}

// Reads DIRECTORY/config.json of a GPT-2 model. Unsupported settings are errors, never ignored.
static inline bool config_load(const char *directory, ModelConfig *config, Error *e) {
    char path[PATH_LIMIT];
    JsonDocument document;
    *config = (ModelConfig){0};
    if (!path_format(path, e, "%s/config.json", directory) ||
        !json_parse_file(&document, path, 1 << 20, e)) {
        return false;
    }
    bool ok = config_parse_(document.root, path, config, e);
    json_free(&document);
    return ok;
}

static inline void config_write_ends_(JsonWriter *w, const ModelConfig *c) {
    if (c->end_of_document >= 0) {
        json_put_uint(w, "bos_token_id", (uint64_t)c->end_of_document);
        json_put_uint(w, "eos_token_id", (uint64_t)c->end_of_document);
    }
}

// Writes config.json.
static inline void config_write(JsonWriter *w, const ModelConfig *c) {
    json_open(w, NULL, '{');
    json_open(w, "architectures", '[');
    json_put_string(w, NULL, "GPT2LMHeadModel");
    json_close(w, ']');
    json_put_string(w, "model_type", "gpt2");
    json_put_uint(w, "vocab_size", c->vocab_size);
    json_put_uint(w, "n_positions", c->seq_len);
    json_put_uint(w, "n_ctx", c->seq_len);
    json_put_uint(w, "n_embd", c->channels);
    json_put_uint(w, "n_layer", c->layers);
    json_put_uint(w, "n_head", c->heads);
    json_put_null(w, "n_inner");
    json_put_string(w, "activation_function", "gelu_new");
    json_put_double(w, "resid_pdrop", 0);
    json_put_double(w, "embd_pdrop", 0);
    json_put_double(w, "attn_pdrop", 0);
    json_put_double(w, "layer_norm_epsilon", 1e-5);
    json_put_double(w, "initializer_range", 0.02);
    json_put_bool(w, "scale_attn_weights", true);
    json_put_bool(w, "scale_attn_by_inverse_layer_idx", false);
    json_put_bool(w, "reorder_and_upcast_attn", false);
    json_put_bool(w, "tie_word_embeddings", true);
    json_put_bool(w, "use_cache", true);
    config_write_ends_(w, c);
    if (c->end_of_document < 0) {
        json_put_null(w, "bos_token_id");
        json_put_null(w, "eos_token_id");
    }
    json_put_string(w, "torch_dtype", "float32");
    json_close(w, '}');
}

// Writes generation_config.json.
static inline void generation_config_write(JsonWriter *w, const ModelConfig *c) {
    json_open(w, NULL, '{');
    json_put_bool(w, "_from_model_config", true);
    config_write_ends_(w, c);
    json_close(w, '}');
}

// Whether two models have tensors of the same shapes.
static inline bool config_same_shape(const ModelConfig *a, const ModelConfig *b) {
    return a->vocab_size == b->vocab_size && a->seq_len == b->seq_len &&
           a->channels == b->channels && a->layers == b->layers && a->heads == b->heads;
}

#endif
