// config_json.h: config.json and generation_config.json of a Hugging Face model folder, in the
// spelling of transformers 4 (rope_theta, rope_scaling, torch_dtype) and of transformers 5
// (rope_parameters, dtype).
//
// An absent field has the default of the model's class. Fields that would change what the model
// computes, and are not implemented, are errors; other unknown fields are ignored.
#ifndef MODEL_CONFIG_JSON_H
#define MODEL_CONFIG_JSON_H

#include "model/config.h"
#include "util/dtype.h"
#include "util/files.h"
#include "util/json.h"

// ------------------------------------------------------------------------------------------------
// Tables

// Sizes: the key in files of each block, and what a class has where the file does not say. 0: it
// follows from other sizes (config_derive_sizes), and null in the file says the same.
// clang-format off
static const struct {
    size_t field;
    const char *keys[2]; // of BLOCK_GPT2, BLOCK_LLAMA; NULL: files have none
    size_t most;
    bool may_be_null[2];
    size_t preset[FAMILIES];
} config_sizes_[] = {
    {offsetof(ModelConfig, vocab_size), {"vocab_size", "vocab_size"}, VOCAB_MOST, {0, 0},
     {50257, 32000, 32000, 151936, 151936}},
    {offsetof(ModelConfig, seq_len), {"n_positions", "max_position_embeddings"}, POSITIONS_MOST,
     {0, 0}, {1024, 2048, 131072, 32768, 32768}},
    {offsetof(ModelConfig, channels), {"n_embd", "hidden_size"}, CHANNELS_MOST, {0, 0},
     {768, 4096, 4096, 4096, 4096}},
    {offsetof(ModelConfig, layers), {"n_layer", "num_hidden_layers"}, LAYERS_MOST, {0, 0},
     {12, 32, 32, 32, 32}},
    {offsetof(ModelConfig, heads), {"n_head", "num_attention_heads"}, HEADS_MOST, {0, 0},
     {12, 32, 32, 32, 32}},
    {offsetof(ModelConfig, kv_heads), {NULL, "num_key_value_heads"}, HEADS_MOST, {1, 1},
     {0, 0, 8, 32, 32}},
    {offsetof(ModelConfig, head_dim), {NULL, "head_dim"}, WIDTH_MOST, {1, 1},
     {0, 0, 0, 0, 128}},
    {offsetof(ModelConfig, mlp_channels), {"n_inner", "intermediate_size"}, WIDTH_MOST, {1, 0},
     {0, 11008, 14336, 22016, 22016}},
};

// Fields with which a model computes something else. Neutral are null, false, empty arrays and
// objects, and one number. families: bits of those whose class has it, or whose class ignores it
// although the model that it describes would be another one.
enum { EVERY_FAMILY_ = (1 << FAMILIES) - 1 };
static const struct {
    const char *key;
    double neutral;
    int families;
    const char *what;
} config_unsupported_[] = {
    {"num_experts", 0, EVERY_FAMILY_, "a mixture of experts"},
    {"num_local_experts", 0, EVERY_FAMILY_, "a mixture of experts"},
    {"n_routed_experts", 0, EVERY_FAMILY_, "a mixture of experts"},
    {"n_shared_experts", 0, EVERY_FAMILY_, "a mixture of experts"},
    {"num_experts_per_tok", 0, EVERY_FAMILY_, "a mixture of experts"},
    {"moe_intermediate_size", 0, EVERY_FAMILY_, "a mixture of experts"},
    {"shared_expert_intermediate_size", 0, EVERY_FAMILY_, "a mixture of experts"},
    {"num_nextn_predict_layers", 0, EVERY_FAMILY_, "multi-token prediction"},
    {"partial_rotary_factor", 1, EVERY_FAMILY_, "rotary embedding of a part of the channels"},
    {"rotary_pct", 1, EVERY_FAMILY_, "rotary embedding of a part of the channels"},
    {"original_max_position_embeddings", NAN, EVERY_FAMILY_, "rope scaling of its kind"},
    {"no_rope_layers", NAN, EVERY_FAMILY_, "layers without rotary embedding"},
    {"no_rope_layer_interval", 0, EVERY_FAMILY_, "layers without rotary embedding"},
    {"attention_chunk_size", NAN, EVERY_FAMILY_, "chunked attention"},
    {"kv_lora_rank", 0, EVERY_FAMILY_, "multi-head latent attention"},
    {"q_lora_rank", 0, EVERY_FAMILY_, "multi-head latent attention"},
    {"attention_multiplier", NAN, EVERY_FAMILY_, "a scale of attention scores"},
    {"embedding_multiplier", 1, EVERY_FAMILY_, "a scale of embeddings"},
    {"residual_multiplier", 1, EVERY_FAMILY_, "a scale of residual branches"},
    {"logits_scaling", 1, EVERY_FAMILY_, "a scale of logits"},
    {"logit_scale", 1, EVERY_FAMILY_, "a scale of logits"},
    {"attn_logit_softcapping", NAN, EVERY_FAMILY_, "a soft cap of attention scores"},
    {"final_logit_softcapping", NAN, EVERY_FAMILY_, "a soft cap of logits"},
    {"qk_norm", 0, EVERY_FAMILY_, "QK-norm outside of model_type \"qwen3\""},
    {"use_qk_norm", 0, EVERY_FAMILY_, "QK-norm outside of model_type \"qwen3\""},
    {"qk_layernorm", 0, EVERY_FAMILY_, "QK-norm outside of model_type \"qwen3\""},
    {"parallel_attn", 0, EVERY_FAMILY_, "attention and MLP side by side"},
    {"use_parallel_residual", 0, EVERY_FAMILY_, "attention and MLP side by side"},
    {"add_cross_attention", 0, EVERY_FAMILY_, "cross-attention"},
    {"is_encoder_decoder", 0, EVERY_FAMILY_, "an encoder"},
    {"pretraining_tp", 1, EVERY_FAMILY_, "its way to split matrices"},
    {"quantization_config", NAN, EVERY_FAMILY_, "a quantized model"},
    {"attention_bias", 0, 1 << FAMILY_MISTRAL, "a bias that MistralForCausalLM has not"},
    {"mlp_bias", 0, 1 << FAMILY_MISTRAL | 1 << FAMILY_QWEN2 | 1 << FAMILY_QWEN3,
     "a bias that only LlamaForCausalLM has"},
};

static const struct {
    const char *name;
    Activation activation;
} config_activations_[] = {
    {"gelu_new", ACTIVATION_GELU_TANH}, // the name that is written
    {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
    {"gelu", ACTIVATION_GELU},
    {"relu", ACTIVATION_RELU},
};
// clang-format on

// ------------------------------------------------------------------------------------------------
// Reading: fields

typedef struct {
    const Json *root;
    FileErrors file;
    ModelConfig *config;
    int family;
} ConfigReader_;

static inline bool is_absent_(const Json *node) {
    return !node || node->kind == JSON_NULL;
}

// A value as an error shows it.
static inline const char *config_value_text_(const Json *node, char text[48]) {
    static const char *const kinds[] = {"null", "", "", "", "an array", "an object"};
    if (node->kind == JSON_BOOL) {
        return node->boolean ? "true" : "false";
    }
    if (node->kind != JSON_NUMBER && node->kind != JSON_STRING) {
        return kinds[node->kind];
    }
    snprintf(text, 48, node->kind == JSON_STRING ? "\"%.40s\"" : "%.40s", node->text);
    return text;
}

static inline bool config_read_size_(const ConfigReader_ *r, size_t row) {
    const Block block = r->config->family->block;
    const char *key = config_sizes_[row].keys[block];
    const Json *node = key ? json_get(r->root, key) : NULL;
    size_t *size = (size_t *)((char *)r->config + config_sizes_[row].field);
    uint64_t number;

    *size = 0;
    if (!node) {
        *size = config_sizes_[row].preset[r->family];
    } else if (node->kind != JSON_NULL || !config_sizes_[row].may_be_null[block]) {
        if (!json_uint(node, &number) || number < 1 || number > config_sizes_[row].most) {
            char text[48];
            return reject(&r->file, "\"%s\" is %s; must be an integer from 1 to %zu", key,
                          config_value_text_(node, text), config_sizes_[row].most);
        }
        *size = number;
    }
    return true;
}

static inline bool config_read_sizes_(const ConfigReader_ *r) {
    ModelConfig *c = r->config;
    for (size_t i = 0; i < sizeof config_sizes_ / sizeof *config_sizes_; i++) {
        if (!config_read_size_(r, i)) {
            return false;
        }
    }
    if (!c->head_dim && c->channels % c->heads) {
        const bool gpt2 = c->family->block == BLOCK_GPT2;
        return reject(&r->file, "%s %zu is not a multiple of %s %zu",
                      gpt2 ? "n_embd" : "hidden_size", c->channels,
                      gpt2 ? "n_head" : "num_attention_heads", c->heads);
    }
    config_derive_sizes(c);
    return true;
}

// An absent boolean leaves *value as it is.
static inline bool config_read_bool_(const ConfigReader_ *r, const char *key, bool *value) {
    const Json *node = json_get(r->root, key);
    if (!node) {
        return true;
    }
    *value = node->boolean;
    return node->kind == JSON_BOOL || reject(&r->file, "\"%s\" must be true or false", key);
}

// A number of `object`, which the error calls `name`; absent, it leaves *value as it is.
static inline bool config_read_number_(const ConfigReader_ *r, const Json *object, const char *key,
                                       double *value) {
    const Json *node = json_get(object, key);
    return !node || json_double(node, value) || reject(&r->file, "\"%s\" must be a number", key);
}

static inline bool config_is_neutral_(const Json *node, double neutral) {
    double number;
    switch (node->kind) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return !node->boolean;
    case JSON_NUMBER:
        return json_double(node, &number) && number == neutral;
    case JSON_STRING:
        return false;
    default:
        return node->length == 0;
    }
}

static inline bool config_refuse_unsupported_(const ConfigReader_ *r) {
    for (size_t i = 0; i < sizeof config_unsupported_ / sizeof *config_unsupported_; i++) {
        const char *key = config_unsupported_[i].key;
        const Json *node = json_get(r->root, key);
        bool concerns = config_unsupported_[i].families >> r->family & 1;
        if (node && concerns && !config_is_neutral_(node, config_unsupported_[i].neutral)) {
            char text[48];
            return reject(&r->file, "\"%s\" is %s: %s is not supported", key,
                          config_value_text_(node, text), config_unsupported_[i].what);
        }
    }
    return true;
}

static inline bool config_read_activation_(const ConfigReader_ *r) {
    const bool gpt2 = r->config->family->block == BLOCK_GPT2;
    const char *key = gpt2 ? "activation_function" : "hidden_act";
    const Json *node = json_get(r->root, key);
    const char *name = json_string(node);
    char text[48];

    for (size_t i = 0; gpt2 && name && i < sizeof config_activations_ / sizeof *config_activations_;
         i++) {
        if (!strcmp(name, config_activations_[i].name)) {
            r->config->activation = config_activations_[i].activation;
            return true;
        }
    }
    return !node || (!gpt2 && name && !strcmp(name, "silu")) ||
           reject(&r->file, "\"%s\" is %s; must be %s", key, config_value_text_(node, text),
                  gpt2 ? "\"gelu_new\", \"gelu_pytorch_tanh\", \"gelu\" or \"relu\"" : "\"silu\"");
}

// ------------------------------------------------------------------------------------------------
// Reading: rotary embedding

// The type of an object rope_scaling or rope_parameters. "type" is the older key.
static inline bool rope_read_type_(const ConfigReader_ *r, const char *name, const Json *object,
                                   bool *llama3) {
    const Json *old = json_get(object, "type"), *node = json_get(object, "rope_type");
    const Json *given = node ? node : old;
    const char *type = given ? json_string(given) : "default";
    if (node && old && (!type || !json_string(old) || strcmp(type, json_string(old)))) {
        return reject(&r->file, "\"%s\" has both \"type\" and \"rope_type\", and they differ",
                      name);
    }
    *llama3 = type && !strcmp(type, "llama3");
    return *llama3 || (type && !strcmp(type, "default")) ||
           reject(&r->file, "\"%s\" is of rope_type \"%.40s\"; must be \"default\" or \"llama3\"",
                  name, type ? type : "(not a string)");
}

// The object `name`, rope_scaling or rope_parameters, over what *rope has already.
static inline bool rope_read_object_(const ConfigReader_ *r, const char *name, const Json *object,
                                     Rope *rope) {
    double partial = 1;
    uint64_t positions = r->config->seq_len;
    const Json *original = json_get(object, "original_max_position_embeddings");
    bool llama3 = false;
    if (object->kind != JSON_OBJECT) {
        return reject(&r->file, "\"%s\" must be an object or null", name);
    }
    for (const Json *member = object->child; member; member = member->next) {
        if (member->kind == JSON_OBJECT) {
            return reject(&r->file,
                          "\"%s\" has an object of its own for \"%.40s\": one kind of "
                          "rotary embedding for all layers is supported",
                          name, member->key);
        }
    }
    if (!rope_read_type_(r, name, object, &llama3) ||
        !config_read_number_(r, object, "rope_theta", &rope->theta) ||
        !config_read_number_(r, object, "partial_rotary_factor", &partial)) {
        return false;
    }
    if (partial != 1) {
        return reject(&r->file, "\"partial_rotary_factor\" is %g; must be 1", partial);
    }
    if (!llama3) {
        return true;
    }

    static const char *const factors[] = {"factor", "low_freq_factor", "high_freq_factor"};
    double *values[] = {&rope->factor, &rope->low_freq_factor, &rope->high_freq_factor};
    for (size_t i = 0; i < 3; i++) {
        if (!json_double(json_get(object, factors[i]), values[i])) {
            return reject(&r->file, "\"%s\" of type \"llama3\" needs a number \"%s\"", name,
                          factors[i]);
        }
    }
    if (original &&
        (!json_uint(original, &positions) || positions < 1 || positions > POSITIONS_MOST)) {
        return reject(&r->file,
                      "\"original_max_position_embeddings\" must be an integer from 1 to %d",
                      POSITIONS_MOST);
    }
    rope->original_positions = positions;
    return true;
}

// rope_theta and rope_scaling, rope_parameters, or both spellings of the same.
static inline bool config_read_rope_(const ConfigReader_ *r) {
    Rope *rope = &r->config->rope;
    const Json *scaling = json_get(r->root, "rope_scaling");
    const Json *parameters = json_get(r->root, "rope_parameters");
    if (!config_read_number_(r, r->root, "rope_theta", &rope->theta)) {
        return false;
    }

    Rope first = *rope, second = *rope;
    if ((!is_absent_(scaling) && !rope_read_object_(r, "rope_scaling", scaling, &first)) ||
        (!is_absent_(parameters) &&
         !rope_read_object_(r, "rope_parameters", parameters, &second))) {
        return false;
    }
    bool both = !is_absent_(scaling) && !is_absent_(parameters);
    bool two_thetas = json_get(r->root, "rope_theta") && first.theta != second.theta;
    if ((both && !rope_equal(&first, &second)) || (!is_absent_(parameters) && two_thetas)) {
        return reject(&r->file, "\"rope_parameters\" differs from \"rope_theta\" and "
                                "\"rope_scaling\"; one of the spellings is enough");
    }
    *rope = is_absent_(parameters) ? first : second;
    return true;
}

// ------------------------------------------------------------------------------------------------
// Reading: attention windows

// Whether layer_types, if it is there, has layers with a window. *listed: it is there.
static inline bool config_read_layer_types_(const ConfigReader_ *r, bool *listed, bool *windows) {
    const Json *types = json_get(r->root, "layer_types");
    *listed = !is_absent_(types);
    *windows = false;
    if (!*listed) {
        return true;
    }
    if (types->kind != JSON_ARRAY || types->length != r->config->layers) {
        return reject(&r->file, "\"layer_types\" must be an array of %zu strings, one per layer",
                      r->config->layers);
    }
    for (const Json *node = types->child; node; node = node->next) {
        const char *type = json_string(node);
        bool window = type && !strcmp(type, "sliding_attention");
        *windows = *windows || window;
        if (!window && (!type || strcmp(type, "full_attention"))) {
            return reject(&r->file,
                          "\"layer_types\" has \"%.40s\"; only \"full_attention\" is "
                          "supported",
                          type ? type : "(not a string)");
        }
    }
    return true;
}

// Refuses windows shorter than the model's positions. Mistral has one on every layer, Qwen on those
// from max_window_layers on if use_sliding_window is true, or on those that layer_types names.
static inline bool config_refuse_windows_(const ConfigReader_ *r) {
    const bool qwen = r->family == FAMILY_QWEN2 || r->family == FAMILY_QWEN3;
    const bool has_preset = qwen || r->family == FAMILY_MISTRAL;
    const Json *node = json_get(r->root, "sliding_window"),
               *from = json_get(r->root, "max_window_layers");
    uint64_t window = has_preset && !node ? 4096 : UINT64_MAX, first = 28;
    bool used = !qwen, listed, windows;

    if (!is_absent_(node) && !json_uint(node, &window)) {
        return reject(&r->file, "\"sliding_window\" must be an integer or null");
    }
    if (!is_absent_(from) && !json_uint(from, &first)) {
        return reject(&r->file, "\"max_window_layers\" must be an integer");
    }
    if ((qwen && !config_read_bool_(r, "use_sliding_window", &used)) ||
        !config_read_layer_types_(r, &listed, &windows)) {
        return false;
    }

    if (!listed) {
        windows = used && (!qwen || first < r->config->layers);
    }
    return !windows || window >= r->config->seq_len ||
           reject(&r->file,
                  "\"sliding_window\" is %llu, and max_position_embeddings %zu: a window shorter "
                  "than the sequence is not supported (null: none)",
                  (unsigned long long)window, r->config->seq_len);
}

// ------------------------------------------------------------------------------------------------
// Reading: token ids

static inline bool config_read_id_(const ConfigReader_ *r, const char *key, const Json *node,
                                   int32_t *id) {
    uint64_t number;
    if (!json_uint(node, &number)) {
        char text[48];
        return reject(&r->file, "\"%s\" is %s; must be a token id%s or null", key,
                      config_value_text_(node, text),
                      strcmp(key, "eos_token_id") ? "" : ", an array of token ids");
    }
    *id = number < r->config->vocab_size ? (int32_t)number : -1;
    return true;
}

// bos_token_id and eos_token_id. Ids outside of the vocabulary, which transformers writes into
// configurations of small models, never occur: the model has none.
static inline bool config_read_ids_(const ConfigReader_ *r) {
    static const uint64_t presets[FAMILIES][2] = {
        {50256, 50256}, {1, 2}, {1, 2}, {UINT64_MAX, UINT64_MAX}, {UINT64_MAX, UINT64_MAX}};
    ModelConfig *c = r->config;
    const Json *begin = json_get(r->root, "bos_token_id"), *end = json_get(r->root, "eos_token_id");
    const uint64_t *preset = presets[r->family];

    if (!begin && preset[0] < c->vocab_size) {
        c->begin_of_document = (int32_t)preset[0];
    }
    if (!is_absent_(begin) && !config_read_id_(r, "bos_token_id", begin, &c->begin_of_document)) {
        return false;
    }

    if (!end && preset[1] < c->vocab_size) {
        config_add_end(c, (int32_t)preset[1]);
    }
    const bool many = end && end->kind == JSON_ARRAY;
    for (const Json *node = many ? end->child : end; !is_absent_(node);
         node = many ? node->next : NULL) {
        int32_t id = -1;
        if (!config_read_id_(r, "eos_token_id", node, &id)) {
            return false;
        }
        if (id >= 0 && !config_add_end(c, id)) {
            return reject(&r->file, "\"eos_token_id\" has more than %d token ids", END_TOKENS);
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Reading: the model

// Whether `name` is the family's class, or its model without a head.
static inline bool is_class_of_(const Family *f, const char *name) {
    const char *head = strstr(f->class_name, f->block == BLOCK_GPT2 ? "LMHead" : "For");
    size_t base = (size_t)(head - f->class_name);
    return !strcmp(name, f->class_name) ||
           (!strncmp(name, f->class_name, base) && !strcmp(name + base, "Model"));
}

// The family by model_type; every class in architectures, if there is any, must be of it. A file
// without model_type has only architectures.
static inline bool config_read_family_(ConfigReader_ *r) {
    const Json *type = json_get(r->root, "model_type");
    const Json *classes = json_get(r->root, "architectures");
    const Json *first = !is_absent_(classes) ? classes->child : NULL;
    char text[48];
    if (!is_absent_(classes) && classes->kind != JSON_ARRAY) {
        return reject(&r->file, "\"architectures\" must be an array of class names");
    }

    for (r->family = 0; r->family < FAMILIES; r->family++) {
        const Family *f = &families[r->family];
        const char *name = json_string(type ? type : first);
        if (name && (type ? !strcmp(name, f->model_type) : is_class_of_(f, name))) {
            break;
        }
    }
    if (r->family == FAMILIES) {
        const Json *named = type ? type : first;
        return reject(&r->file,
                      "\"%s\" is %s; must be of gpt2, llama, mistral, qwen2 or qwen3 models",
                      type || !first ? "model_type" : "architectures",
                      named ? config_value_text_(named, text) : "missing");
    }

    const Family *f = &families[r->family];
    for (const Json *node = first; node; node = node->next) {
        const char *name = json_string(node);
        if (!name || !is_class_of_(f, name)) {
            return reject(&r->file,
                          "\"architectures\" has %s; must be \"%s\" for model_type \"%s\"",
                          config_value_text_(node, text), f->class_name, f->model_type);
        }
    }
    return true;
}

static inline bool config_read_fields_(const ConfigReader_ *r) {
    ModelConfig *c = r->config;
    const bool gpt2 = c->family->block == BLOCK_GPT2;
    const bool biased = r->family == FAMILY_LLAMA || r->family == FAMILY_QWEN3;
    bool attention_bias = false;

    bool ok = config_refuse_unsupported_(r) && config_read_sizes_(r) &&
              config_read_bool_(r, "tie_word_embeddings", &c->tied) && config_read_activation_(r) &&
              config_read_number_(r, r->root, gpt2 ? "layer_norm_epsilon" : "rms_norm_eps",
                                  &c->norm_eps) &&
              config_read_ids_(r);
    if (ok && gpt2) {
        ok = config_read_bool_(r, "scale_attn_weights", &c->scale_attention) &&
             config_read_bool_(r, "scale_attn_by_inverse_layer_idx", &c->scale_by_layer);
    }
    if (ok && !gpt2) {
        ok = config_read_rope_(r) && config_refuse_windows_(r);
    }
    if (ok && biased) {
        ok = config_read_bool_(r, "attention_bias", &attention_bias);
        c->qkv_bias = c->out_bias = attention_bias;
    }
    if (ok && r->family == FAMILY_LLAMA) {
        ok = config_read_bool_(r, "mlp_bias", &c->mlp_bias);
    }
    return ok && config_check(c, r->file.path, r->file.error);
}

// Reads a configuration that is the object `root`; `path` is for errors, which name the field and
// what it must be.
static inline bool config_parse(const Json *root, const char *path, ModelConfig *config, Error *e) {
    ConfigReader_ r = {.root = root, .file = {path, e}, .config = config};
    *config = (ModelConfig){0};
    if (!root || root->kind != JSON_OBJECT) {
        return reject(&r.file, "must be a JSON object");
    }
    if (!config_read_family_(&r)) {
        return false;
    }
    *config = config_of_family(r.family);
    return config_read_fields_(&r);
}

// Reads a config.json of any name.
static inline bool config_load_file(const char *path, ModelConfig *config, Error *e) {
    JsonDocument document;
    *config = (ModelConfig){0};
    if (!json_parse_file(&document, path, 1 << 20, e)) {
        return false;
    }
    bool ok = config_parse(document.root, path, config, e);
    json_free(&document);
    return ok;
}

// Reads DIRECTORY/config.json.
static inline bool config_load(const char *directory, ModelConfig *config, Error *e) {
    char path[PATH_LIMIT];
    *config = (ModelConfig){0};
    return path_format(path, e, "%s/config.json", directory) && config_load_file(path, config, e);
}

// ------------------------------------------------------------------------------------------------
// Writing

// The tokens that end a text: a number, an array of several, null.
static inline void config_put_ends_(JsonWriter *w, const ModelConfig *c) {
    if (c->end_count < 2) {
        c->end_count ? json_put_uint(w, "eos_token_id", (uint64_t)c->ends[0])
                     : json_put_null(w, "eos_token_id");
        return;
    }
    json_open(w, "eos_token_id", '[');
    for (size_t i = 0; i < c->end_count; i++) {
        json_put_uint(w, NULL, (uint64_t)c->ends[i]);
    }
    json_close(w, ']');
}

static inline void config_put_ids_(JsonWriter *w, const ModelConfig *c) {
    c->begin_of_document < 0 ? json_put_null(w, "bos_token_id")
                             : json_put_uint(w, "bos_token_id", (uint64_t)c->begin_of_document);
    config_put_ends_(w, c);
}

static inline void rope_put_scaling_(JsonWriter *w, const Rope *r) {
    json_put_string(w, "rope_type", r->factor == 1 ? "default" : "llama3");
    if (r->factor != 1) {
        json_put_double(w, "factor", r->factor);
        json_put_double(w, "low_freq_factor", r->low_freq_factor);
        json_put_double(w, "high_freq_factor", r->high_freq_factor);
        json_put_uint(w, "original_max_position_embeddings", r->original_positions);
    }
}

// In both spellings: transformers 4 does not know the second, and 5 takes either.
static inline void config_put_rope_(JsonWriter *w, const Rope *r) {
    json_put_double(w, "rope_theta", r->theta);
    if (r->factor == 1) {
        json_put_null(w, "rope_scaling");
    } else {
        json_open(w, "rope_scaling", '{');
        rope_put_scaling_(w, r);
        json_close(w, '}');
    }

    json_open(w, "rope_parameters", '{');
    json_put_double(w, "rope_theta", r->theta);
    rope_put_scaling_(w, r);
    json_close(w, '}');
}

static inline const char *config_activation_name_(Activation activation) {
    size_t i = 0;
    while (config_activations_[i].activation != activation) {
        i++;
    }
    return config_activations_[i].name;
}

// Fields that only files of GPT-2 have.
static inline void config_put_gpt2_(JsonWriter *w, const ModelConfig *c) {
    json_put_uint(w, "n_ctx", c->seq_len);
    json_put_string(w, "activation_function", config_activation_name_(c->activation));
    json_put_double(w, "resid_pdrop", 0);
    json_put_double(w, "embd_pdrop", 0);
    json_put_double(w, "attn_pdrop", 0);
    json_put_double(w, "layer_norm_epsilon", c->norm_eps);
    json_put_bool(w, "scale_attn_weights", c->scale_attention);
    json_put_bool(w, "scale_attn_by_inverse_layer_idx", c->scale_by_layer);
    json_put_bool(w, "reorder_and_upcast_attn", false);
}

// Fields that the classes with Llama's block have, and those of one class alone.
static inline void config_put_llama_(JsonWriter *w, const ModelConfig *c) {
    const bool qwen = is_family(c, FAMILY_QWEN2) || is_family(c, FAMILY_QWEN3);
    json_put_string(w, "hidden_act", "silu");
    json_put_double(w, "rms_norm_eps", c->norm_eps);
    json_put_double(w, "attention_dropout", 0);
    if (is_family(c, FAMILY_LLAMA) || is_family(c, FAMILY_QWEN3)) {
        json_put_bool(w, "attention_bias", c->qkv_bias);
    }
    if (is_family(c, FAMILY_LLAMA)) {
        json_put_bool(w, "mlp_bias", c->mlp_bias);
    }
    if (qwen) {
        json_put_bool(w, "use_sliding_window", false);
        json_put_uint(w, "max_window_layers", c->layers);
    }
    if (qwen || is_family(c, FAMILY_MISTRAL)) {
        json_put_null(w, "sliding_window");
    }
    config_put_rope_(w, &c->rope);
}

// Appends a config.json as the member `key`; NULL: of an array, or as the top value. dtype: of the
// weights beside it.
static inline void config_put(JsonWriter *w, const char *key, const ModelConfig *c, Dtype dtype) {
    const Block block = c->family->block;
    json_open(w, key, '{');
    json_put_strings(w, "architectures", &c->family->class_name, 1);
    json_put_string(w, "model_type", c->family->model_type);
    for (size_t i = 0; i < sizeof config_sizes_ / sizeof *config_sizes_; i++) {
        const char *name = config_sizes_[i].keys[block];
        size_t size = *(const size_t *)((const char *)c + config_sizes_[i].field);
        if (name) {
            json_put_uint(w, name, size);
        }
    }

    block == BLOCK_GPT2 ? config_put_gpt2_(w, c) : config_put_llama_(w, c);
    json_put_double(w, "initializer_range", 0.02);
    json_put_bool(w, "tie_word_embeddings", c->tied);
    json_put_bool(w, "use_cache", true);
    config_put_ids_(w, c);
    json_put_string(w, "torch_dtype", dtypes[dtype].torch);
    json_put_string(w, "dtype", dtypes[dtype].torch);
    json_close(w, '}');
}

// Writes config.json: transformers 4 and 5 read the same from it.
static inline void config_write(JsonWriter *w, const ModelConfig *c, Dtype dtype) {
    config_put(w, NULL, c, dtype);
}

// Writes generation_config.json.
static inline void generation_config_write(JsonWriter *w, const ModelConfig *c) {
    json_open(w, NULL, '{');
    json_put_bool(w, "_from_model_config", true);
    if (c->begin_of_document >= 0) {
        json_put_uint(w, "bos_token_id", (uint64_t)c->begin_of_document);
    }
    if (c->end_count) {
        config_put_ends_(w, c);
    }
    json_close(w, '}');
}

#endif
