// config.h: the configuration of a model: its family and its sizes, what a family implies, and what
// no model can be. model/config_json.h reads and writes it as config.json.
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "kernels_ref.h" // defines: Activation
#include "model/family.h"
#include "util/error.h"

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

// Largest sizes that are accepted. A matrix has at most 4e12 elements and a model 16 bytes per
// parameter of at most 3e17, so that no count of bytes overflows.
enum {
    VOCAB_MOST = 100000000,
    POSITIONS_MOST = 10000000,
    CHANNELS_MOST = 1000000,
    LAYERS_MOST = 10000,
    HEADS_MOST = 10000,
    WIDTH_MOST = 4000000 // heads x head dim, and hidden channels of the MLP
};
#define ROPE_THETA_MOST 1e15

// ------------------------------------------------------------------------------------------------
// Families

// The family of this name; NULL if there is none.
static inline const Family *family_find(const char *name) {
    for (size_t i = 0; i < FAMILIES; i++) {
        if (!strcmp(families[i].name, name)) {
            return &families[i];
        }
    }
    return NULL;
}

static inline bool is_family(const ModelConfig *c, int family) {
    return c->family == &families[family];
}

// A model of the family without sizes: everything else is as its class has it by default.
static inline ModelConfig config_of_family(int family) {
    bool gpt2 = family == FAMILY_GPT2;
    return (ModelConfig){.family = &families[family],
                         .tied = gpt2,
                         .qkv_bias = gpt2 || family == FAMILY_QWEN2,
                         .out_bias = gpt2,
                         .mlp_bias = gpt2,
                         .qk_norm = family == FAMILY_QWEN3,
                         .activation = ACTIVATION_GELU_TANH,
                         .norm_eps = gpt2 ? 1e-5 : 1e-6,
                         .scale_attention = true,
                         .rope = {.theta = gpt2 ? 0 : 10000, .factor = 1},
                         .begin_of_document = -1,
                         .end_of_document = -1};
}

// Fills in sizes that are 0: as many KV heads as heads, C / H channels per head, and 4 C hidden
// channels or, for the three matrices of SwiGLU, 8 C / 3 rounded up to a multiple of 64 (Touvron et
// al. 2023). C and H are set.
static inline void config_derive_sizes(ModelConfig *c) {
    enum { MULTIPLE = 64 };
    size_t C = c->channels, swiglu = (8 * C + 3 * MULTIPLE - 1) / (3 * MULTIPLE) * MULTIPLE;
    size_t mlp_channels = c->family->block == BLOCK_LLAMA ? swiglu : 4 * C;
    c->kv_heads = c->kv_heads ? c->kv_heads : c->heads;
    c->head_dim = c->head_dim ? c->head_dim : C / c->heads;
    c->mlp_channels = c->mlp_channels ? c->mlp_channels : mlp_channels;
}

// ------------------------------------------------------------------------------------------------
// Checks

static inline bool rope_check_(const Rope *r, const char *where, Error *e) {
    if (!(r->theta >= 1 && r->theta <= ROPE_THETA_MOST)) {
        return fail(e, "%s: rope theta %g must be from 1 to %g", where, r->theta, ROPE_THETA_MOST);
    }
    if (r->factor == 1) {
        return true;
    }
    return (r->factor > 1 && r->factor < 1e6 && r->low_freq_factor > 0 &&
            r->high_freq_factor > r->low_freq_factor && r->high_freq_factor < 1e6 &&
            r->original_positions > 0) ||
           fail(e,
                "%s: rope scaling by factor %g, low_freq_factor %g, high_freq_factor %g over %zu "
                "positions: must have factor >= 1 and 0 < low_freq_factor < high_freq_factor",
                where, r->factor, r->low_freq_factor, r->high_freq_factor, r->original_positions);
}

// Whether a model can be like this and its class in transformers can hold it; sizes are within the
// limits above. where: what the error blames, a file or the options.
static inline bool config_check(const ModelConfig *c, const char *where, Error *e) {
    const bool gpt2 = c->family->block == BLOCK_GPT2;
    if (c->heads % c->kv_heads) {
        return fail(e, "%s: %zu attention heads are not a multiple of %zu KV heads", where,
                    c->heads, c->kv_heads);
    }
    if (c->heads * c->head_dim > WIDTH_MOST) {
        return fail(e, "%s: %zu attention heads of %zu channels: together at most %d", where,
                    c->heads, c->head_dim, WIDTH_MOST);
    }
    if (gpt2 && (c->heads * c->head_dim != c->channels || c->kv_heads != c->heads)) {
        return fail(e,
                    "%s: GPT-2 has as many KV heads as heads, and heads x head dim = channels, not "
                    "%zu KV heads and %zu x %zu for %zu channels",
                    where, c->kv_heads, c->heads, c->head_dim, c->channels);
    }
    if (is_family(c, FAMILY_LLAMA) && c->channels % c->heads) {
        return fail(e, "%s: LlamaForCausalLM needs a multiple of the %zu heads, not %zu channels",
                    where, c->heads, c->channels);
    }
    if (!gpt2 && c->head_dim % 2) {
        return fail(e, "%s: head dim %zu is odd: rotary embedding turns pairs of channels", where,
                    c->head_dim);
    }
    if (!(c->norm_eps > 0 && c->norm_eps < 1)) {
        return fail(e, "%s: the norm's epsilon %g must be between 0 and 1", where, c->norm_eps);
    }
    return gpt2 || rope_check_(&c->rope, where, e);
}

static inline bool rope_equal(const Rope *a, const Rope *b) {
    return a->theta == b->theta && a->factor == b->factor &&
           (a->factor == 1 || (a->low_freq_factor == b->low_freq_factor &&
                               a->high_freq_factor == b->high_freq_factor &&
                               a->original_positions == b->original_positions));
}

// Whether two models have the same tensors and compute the same from them.
static inline bool config_same_shape(const ModelConfig *a, const ModelConfig *b) {
    return a->family == b->family && a->vocab_size == b->vocab_size && a->seq_len == b->seq_len &&
           a->channels == b->channels && a->layers == b->layers && a->heads == b->heads &&
           a->kv_heads == b->kv_heads && a->head_dim == b->head_dim &&
           a->mlp_channels == b->mlp_channels && a->tied == b->tied && a->qkv_bias == b->qkv_bias &&
           a->out_bias == b->out_bias && a->mlp_bias == b->mlp_bias && a->qk_norm == b->qk_norm &&
           a->activation == b->activation && a->norm_eps == b->norm_eps &&
           a->scale_attention == b->scale_attention && a->scale_by_layer == b->scale_by_layer &&
           rope_equal(&a->rope, &b->rope);
}

// ------------------------------------------------------------------------------------------------
// Token ids

// Adds a token that ends a generated text; the first one added also ends a document. False if there
// is no room. One that is there already changes nothing.
static inline bool config_add_end(ModelConfig *c, int32_t id) {
    for (size_t i = 0; i < c->end_count; i++) {
        if (c->ends[i] == id) {
            return true;
        }
    }
    if (c->end_count == END_TOKENS) {
        return false;
    }
    c->ends[c->end_count++] = id;
    c->end_of_document = c->ends[0];
    return true;
}

// Makes `id` the token that ends a document, first of those that end a text. The others stay, but
// for the last one if there is no room.
static inline void config_set_end(ModelConfig *c, int32_t id) {
    ModelConfig old = *c;
    c->end_count = 0;
    config_add_end(c, id);
    for (size_t i = 0; i < old.end_count; i++) {
        config_add_end(c, old.ends[i]);
    }
}

// Drops ids outside of the vocabulary, when it has become smaller.
static inline void config_drop_ids(ModelConfig *c) {
    ModelConfig old = *c;
    const size_t V = c->vocab_size;
    c->begin_of_document = (size_t)c->begin_of_document < V ? c->begin_of_document : -1;
    c->end_of_document = -1;
    c->end_count = 0;
    for (size_t i = 0; i < old.end_count; i++) {
        if ((size_t)old.ends[i] < V) {
            config_add_end(c, old.ends[i]);
        }
    }
}

#endif
