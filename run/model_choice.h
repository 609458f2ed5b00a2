// model_choice.h: the model that the options ask for, the shapes that --model knows, and whether a
// grid can hold a model.
#ifndef RUN_MODEL_CHOICE_H
#define RUN_MODEL_CHOICE_H

#include "model/config_json.h"
#include "model/tensors.h"
#include "run/options.h"

enum { GPT2_VOCAB_SIZE = 50257 };

// ------------------------------------------------------------------------------------------------
// Named shapes

typedef struct {
    const char *name;
    int family;
    size_t layers, channels, heads;
    size_t kv_heads, head_dim, mlp_channels; // 0: as config_derive_sizes has it
    size_t vocab_size, seq_len;
    bool tied;
    double theta, eps; // GPT-2: 0
    double factor;     // of Llama 3's rope scaling over 8192 positions; 1: none
} NamedModel;

// GPT-2 sizes (Radford et al. 2019), GPT-3's 1.3B (Brown et al. 2020), and those of Fugaku-LLM. The
// others are those of the published config.json; llm-jp pads its vocabulary.
// clang-format off
static const NamedModel named_models[] = {
    {"124m", FAMILY_GPT2, 12,  768, 12, 0, 0, 0, GPT2_VOCAB_SIZE, 1024, 1, 0, 0, 1},
    {"350m", FAMILY_GPT2, 24, 1024, 16, 0, 0, 0, GPT2_VOCAB_SIZE, 1024, 1, 0, 0, 1},
    {"774m", FAMILY_GPT2, 36, 1280, 20, 0, 0, 0, GPT2_VOCAB_SIZE, 1024, 1, 0, 0, 1},
    {"1.3b", FAMILY_GPT2, 24, 2048, 32, 0, 0, 0, GPT2_VOCAB_SIZE, 1024, 1, 0, 0, 1},
    {"1.5b", FAMILY_GPT2, 48, 1600, 25, 0, 0, 0, GPT2_VOCAB_SIZE, 1024, 1, 0, 0, 1},
    {"13b",  FAMILY_GPT2, 40, 5184, 36, 0, 0, 0, GPT2_VOCAB_SIZE, 2048, 1, 0, 0, 1},
    {"30b",  FAMILY_GPT2, 48, 7168, 56, 0, 0, 0, GPT2_VOCAB_SIZE, 2048, 1, 0, 0, 1},
    {"llm-jp-3-150m", FAMILY_LLAMA, 12,  512,  8,  8,  64,  2048,  99584,  4096, 0, 1e4, 1e-5, 1},
    {"llm-jp-3-440m", FAMILY_LLAMA, 16, 1024,  8,  8, 128,  3584,  99584,  4096, 0, 1e4, 1e-5, 1},
    {"llm-jp-3-980m", FAMILY_LLAMA, 20, 1536,  8,  8, 192,  5376,  99584,  4096, 0, 1e4, 1e-5, 1},
    {"llm-jp-3-1.8b", FAMILY_LLAMA, 24, 2048, 16, 16, 128,  7168,  99584,  4096, 0, 1e4, 1e-5, 1},
    {"llm-jp-3-3.7b", FAMILY_LLAMA, 28, 3072, 24, 24, 128,  8192,  99584,  4096, 0, 1e4, 1e-5, 1},
    {"llm-jp-3-7.2b", FAMILY_LLAMA, 32, 4096, 32, 32, 128, 11008,  99584,  4096, 0, 1e4, 1e-5, 1},
    {"llm-jp-3-13b",  FAMILY_LLAMA, 40, 5120, 40, 40, 128, 13824,  99584,  4096, 0, 1e4, 1e-5, 1},
    {"llm-jp-4-8b",   FAMILY_LLAMA, 32, 4096, 32,  8, 128, 14336, 196608, 65536, 0, 5e5, 1e-5, 1},
    {"llama-3.2-1b",  FAMILY_LLAMA, 16, 2048, 32,  8,  64,  8192, 128256, 131072, 1, 5e5, 1e-5, 32},
    {"llama-3.2-3b",  FAMILY_LLAMA, 28, 3072, 24,  8, 128,  8192, 128256, 131072, 1, 5e5, 1e-5, 32},
    {"llama-3.1-8b",  FAMILY_LLAMA, 32, 4096, 32,  8, 128, 14336, 128256, 131072, 0, 5e5, 1e-5, 8},
    {"qwen3-0.6b",    FAMILY_QWEN3, 28, 1024, 16,  8, 128,  3072, 151936, 40960, 1, 1e6, 1e-6, 1},
    {"qwen3-1.7b",    FAMILY_QWEN3, 28, 2048, 16,  8, 128,  6144, 151936, 40960, 1, 1e6, 1e-6, 1},
    {"qwen3-4b",      FAMILY_QWEN3, 36, 2560, 32,  8, 128,  9728, 151936, 40960, 1, 1e6, 1e-6, 1},
    {"qwen3-8b",      FAMILY_QWEN3, 36, 4096, 32,  8, 128, 12288, 151936, 40960, 0, 1e6, 1e-6, 1},
};
// clang-format on
enum { NAMED_MODELS = sizeof named_models / sizeof *named_models };

// A new model of the family without sizes. RMSNorm's epsilon is that of the published models, which
// Llama's and Mistral's classes do not have by default.
static inline ModelConfig new_model_of_family_(int family) {
    ModelConfig c = config_of_family(family);
    c.norm_eps = family == FAMILY_QWEN2 || family == FAMILY_QWEN3 ? 1e-6 : 1e-5;
    return c;
}

static inline ModelConfig named_model_config(const NamedModel *m) {
    ModelConfig c = new_model_of_family_(m->family);
    c.layers = m->layers;
    c.channels = m->channels;
    c.heads = m->heads;
    c.kv_heads = m->kv_heads;
    c.head_dim = m->head_dim;
    c.mlp_channels = m->mlp_channels;
    c.vocab_size = m->vocab_size;
    c.seq_len = m->seq_len;
    c.tied = m->tied;
    if (m->family != FAMILY_GPT2) {
        c.norm_eps = m->eps;
        c.rope.theta = m->theta;
    }
    if (m->factor != 1) {
        c.rope = (Rope){m->theta, m->factor, 1, 4, 8192};
    }
    config_derive_sizes(&c);
    return c;
}

// The model that --model names. An error for an unknown name.
static inline bool named_model_(const char *name, ModelConfig *c, Error *e) {
    char names[512] = "";
    for (size_t i = 0; i < NAMED_MODELS; i++) {
        if (!strcmp(name, named_models[i].name)) {
            *c = named_model_config(&named_models[i]);
            return true;
        }
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, " %s", named_models[i].name);
    }
    return fail(e, "--model %s: unknown model; must be one of%s", name, names);
}

// What `train_gpt help models` prints.
static inline void named_models_print(void) {
    printf("Shapes that --model knows. Memory: weights, gradients and AdamW's state of one rank "
           "without\nZeRO, 16 bytes per parameter; activations come on top (train_gpt plan).\n\n"
           "%-14s %-6s %6s %8s %8s %8s %6s %7s %9s %10s %9s\n",
           "name", "family", "layers", "channels", "heads/KV", "head dim", "MLP", "vocab",
           "positions", "parameters", "memory");
    for (size_t i = 0; i < NAMED_MODELS; i++) {
        ModelConfig c = named_model_config(&named_models[i]);
        ModelShard whole = shard_whole(&c);
        double parameters = (double)shard_parameters(&c, &whole);
        char heads[48];
        snprintf(heads, sizeof heads, "%zu/%zu", c.heads, c.kv_heads);
        printf("%-14s %-6s %6zu %8zu %8s %8zu %6zu %7zu %9zu %8.1f M %5.1f GiB\n",
               named_models[i].name, c.family->name, c.layers, c.channels, heads, c.head_dim,
               c.mlp_channels, c.vocab_size, c.seq_len, 1e-6 * parameters,
               16 * parameters / 0x1p30);
    }
    printf("\nThe vocabulary is the tokenizer's of the data, where it has one; --vocab-size pads "
           "it. --seq-len\nsets the positions. --config FILE takes any other shape.\n");
}

// ------------------------------------------------------------------------------------------------
// Options

// The first option given that describes a new model, as the command line spells it; NULL: none.
static inline const char *new_model_option(const Options *o) {
    const struct {
        bool given;
        const char *name;
    } options[] = {{o->model, "--model"},
                   {o->config, "--config"},
                   {o->family, "--family"},
                   {o->layers, "--layers"},
                   {o->channels, "--channels"},
                   {o->heads, "--heads"},
                   {o->kv_heads, "--kv-heads"},
                   {o->head_dim, "--head-dim"},
                   {o->mlp_channels, "--mlp-channels"},
                   {o->rope_theta > 0, "--rope-theta"},
                   {o->norm_eps > 0, "--norm-eps"},
                   {o->tied != NOT_GIVEN, "--tied"},
                   {o->qk_norm != NOT_GIVEN, "--qk-norm"}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (options[i].given) {
            return options[i].name;
        }
    }
    return NULL;
}

// Turns the model into one of another family. Kept is what both have: all sizes between families of
// one block, else those of which the others follow.
static inline bool choose_family_(const char *name, ModelConfig *c, Error *e) {
    const Family *family = family_find(name);
    if (!family) {
        return fail(e, "--family %s: must be one of gpt2, llama, mistral, qwen2, qwen3", name);
    }
    if (family == c->family) {
        return true;
    }

    ModelConfig chosen = new_model_of_family_((int)(family - families));
    chosen.vocab_size = c->vocab_size;
    chosen.seq_len = c->seq_len;
    chosen.channels = c->channels;
    chosen.layers = c->layers;
    chosen.heads = c->heads;
    if (family->block == c->family->block) {
        chosen.kv_heads = c->kv_heads;
        chosen.head_dim = c->head_dim;
        chosen.mlp_channels = c->mlp_channels;
        chosen.tied = c->tied;
        chosen.norm_eps = c->norm_eps;
        chosen.rope = c->rope;
    }
    *c = chosen;
    return true;
}

static inline void override_size_(size_t *size, size_t option) {
    *size = option ? option : *size;
}

static inline void override_number_(double *number, double option) {
    *number = option > 0 ? option : *number;
}

// GPT-2's head dim and KV heads follow from its channels and heads, and so does its MLP unless the
// model says otherwise.
static inline void override_sizes_(const Options *o, ModelConfig *c) {
    if (c->family->block == BLOCK_GPT2) {
        c->kv_heads = c->head_dim = 0;
        c->mlp_channels = c->mlp_channels == 4 * c->channels ? 0 : c->mlp_channels;
    }
    override_size_(&c->layers, o->layers);
    override_size_(&c->channels, o->channels);
    override_size_(&c->heads, o->heads);
    override_size_(&c->kv_heads, o->kv_heads);
    override_size_(&c->head_dim, o->head_dim);
    override_size_(&c->mlp_channels, o->mlp_channels);
    override_size_(&c->vocab_size, o->vocab_size);
    override_size_(&c->seq_len, o->seq_len);
}

static inline bool override_settings_(const Options *o, ModelConfig *c, Error *e) {
    if (o->rope_theta > 0 && c->family->block == BLOCK_GPT2) {
        return fail(e, "--rope-theta %g: GPT-2 has no rotary embedding; give --family llama",
                    o->rope_theta);
    }
    if (o->qk_norm != NOT_GIVEN && (o->qk_norm == GIVEN_ON) != c->qk_norm) {
        return fail(e, "--qk-norm %d: %s %s; give --family %s", o->qk_norm == GIVEN_ON,
                    c->family->class_name, c->qk_norm ? "always has QK-norm" : "has no QK-norm",
                    c->qk_norm ? "llama" : "qwen3");
    }
    override_number_(&c->rope.theta, o->rope_theta);
    override_number_(&c->norm_eps, o->norm_eps);
    c->tied = o->tied == NOT_GIVEN ? c->tied : o->tied == GIVEN_ON;
    return true;
}

// The new model that --model or --config and the options over them describe; vocab_size is 0 where
// nothing says it. command: for the error if there is too little.
static inline bool shape_from_options(const Options *o, const char *command, ModelConfig *c,
                                      Error *e) {
    *c = new_model_of_family_(FAMILY_GPT2);
    if (o->model && o->config) {
        return fail(e, "--model %s and --config %s: give one of them", o->model, o->config);
    }
    if ((o->model && !named_model_(o->model, c, e)) ||
        (o->config && !config_load_file(o->config, c, e)) ||
        (o->family && !choose_family_(o->family, c, e))) {
        return false;
    }

    override_sizes_(o, c);
    if (!c->layers || !c->channels || !c->heads || !c->seq_len) {
        return fail(e,
                    "%s needs --model NAME, --config FILE or --init DIR, or all of --layers, "
                    "--heads, --channels, --seq-len",
                    command);
    }
    if (!c->head_dim && c->channels % c->heads) {
        return fail(e, "--channels %zu is not a multiple of --heads %zu", c->channels, c->heads);
    }
    config_derive_sizes(c);
    return override_settings_(o, c, e) && config_check(c, "options of the model", e);
}

// ------------------------------------------------------------------------------------------------
// Grids

// Whether tp tensor-parallel ranks and pp pipeline stages can hold the model. tp, pp >= 1.
static inline bool grid_fits(const ModelConfig *c, size_t tp, size_t pp, Error *e) {
    if (c->heads % tp) {
        return fail(e, "--tp %zu does not divide the model's %zu heads", tp, c->heads);
    }
    if (c->kv_heads % tp && tp % c->kv_heads) {
        return fail(e, "--tp %zu and the model's %zu KV heads: one must be a multiple of the other",
                    tp, c->kv_heads);
    }
    if (c->mlp_channels < tp) {
        return fail(e, "--tp %zu is more than the model's %zu hidden channels of the MLP", tp,
                    c->mlp_channels);
    }
    if (c->vocab_size < tp) {
        return fail(e, "--tp %zu is more than the vocabulary size %zu", tp, c->vocab_size);
    }
    return pp <= c->layers ||
           fail(e, "--pp %zu is more than the model's %zu layers", pp, c->layers);
}

#endif
