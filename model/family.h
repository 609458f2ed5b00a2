// family.h: a model family as a row of data: its Hugging Face class, the kind of its block, and its
// tensors, with shape, initial value and the name that they have in Hugging Face files. Sizes,
// pointers, initial values, decay, shards and files are loops over these tables (model/tensors.h);
// the two kinds of block are in train_gpt.c.
#ifndef MODEL_FAMILY_H
#define MODEL_FAMILY_H

#include <stddef.h>
#include <stdint.h>

// The weights of one transformer block, and of everything around the blocks; gradients are laid out
// likewise. tp: tensor-parallel ranks, of which each has its own heads, KV heads and hidden
// channels. W = (H + 2 KV) D / tp: q, k and v of a rank. Fields that a model does not have are
// NULL.
//
// Matrices are stored as the family's files have them: GPT-2's (in, out), Hugging Face's Conv1D;
// Llama's (out, in), PyTorch's Linear.
typedef struct {
    float *norm1_w, *norm1_b;   // (C), (C)
    float *qkv_w, *qkv_b;       // (C, W) or (W, C), (W): q, k and v side by side
    float *q_norm, *k_norm;     // (D), (D)
    float *proj_w, *proj_b;     // (H D/tp, C) or (C, H D/tp), (C)
    float *norm2_w, *norm2_b;   // (C), (C)
    float *fc_w, *fc_b;         // (C, F/tp), (F/tp); Llama: (2F/tp, C), (2F/tp): gate, then up
    float *fcproj_w, *fcproj_b; // (F/tp, C) or (C, F/tp), (C)
} LayerWeights;

typedef struct {
    float *wte;             // (vocab, C): on the first stage; with a tied head on the last one too
    float *wpe;             // (positions, C): on the first stage
    LayerWeights *layers;   // (layers)
    float *norm_w, *norm_b; // (C), (C): on the last stage
    float *head;            // (vocab, C): on the last stage; tied: wte
} Weights;

// INIT_RESIDUAL: normal with std / sqrt(2 L), for matrices that end a residual branch.
typedef enum { INIT_ZEROS, INIT_ONES, INIT_NORMAL, INIT_RESIDUAL } Init;

// What a model must have for a tensor to exist.
typedef enum { ALWAYS, IF_QKV_BIAS, IF_OUT_BIAS, IF_MLP_BIAS, IF_QK_NORM, IF_UNTIED } Condition;

// A tensor without a field of its own: it continues the one before it.
#define FIELD_CONTINUED SIZE_MAX

typedef struct {
    const char *name; // in the safetensors file; of a block's tensor: after the block's prefix
    size_t field;     // in LayerWeights or Weights
    // One letter per dimension. Not split: P (positions), C (channels), D (channels of a head).
    // Split over tensor-parallel ranks: v (vocabulary), c (H D), k (KV D), f (hidden channels of
    // the MLP), q (3 H D: q, k and v are split each).
    const char *shape;
    Init init;
    Condition condition;
} TensorSpec;

typedef enum { BLOCK_GPT2, BLOCK_LLAMA } Block;

typedef struct {
    const char *name;       // of --family
    const char *class_name; // in transformers
    const char *title;      // for people
    const char *model_type; // in config.json
    Block block;
    const char *base_prefix;     // of names; files of the base model are without it
    const char *layer_prefix;    // of a block's tensors, before the number of the block
    const TensorSpec *embedding; // before the blocks: on the first stage; [0] is wte
    size_t embedding_count;
    const TensorSpec *layer; // of each block
    size_t layer_count;
    const TensorSpec *head; // after the blocks: on the last stage
    size_t head_count;
} Family;

#define FAMILY_TABLE_(table) table, sizeof(table) / sizeof *(table)

// GPT-2 (Radford et al. 2019).
static const TensorSpec gpt2_embedding_[] = {
    {"transformer.wte.weight", offsetof(Weights, wte), "vC", INIT_NORMAL, ALWAYS},
    {"transformer.wpe.weight", offsetof(Weights, wpe), "PC", INIT_NORMAL, ALWAYS},
};
static const TensorSpec gpt2_layer_[] = {
    {"ln_1.weight", offsetof(LayerWeights, norm1_w), "C", INIT_ONES, ALWAYS},
    {"ln_1.bias", offsetof(LayerWeights, norm1_b), "C", INIT_ZEROS, ALWAYS},
    {"attn.c_attn.weight", offsetof(LayerWeights, qkv_w), "Cq", INIT_NORMAL, ALWAYS},
    {"attn.c_attn.bias", offsetof(LayerWeights, qkv_b), "q", INIT_ZEROS, ALWAYS},
    {"attn.c_proj.weight", offsetof(LayerWeights, proj_w), "cC", INIT_RESIDUAL, ALWAYS},
    {"attn.c_proj.bias", offsetof(LayerWeights, proj_b), "C", INIT_ZEROS, ALWAYS},
    {"ln_2.weight", offsetof(LayerWeights, norm2_w), "C", INIT_ONES, ALWAYS},
    {"ln_2.bias", offsetof(LayerWeights, norm2_b), "C", INIT_ZEROS, ALWAYS},
    {"mlp.c_fc.weight", offsetof(LayerWeights, fc_w), "Cf", INIT_NORMAL, ALWAYS},
    {"mlp.c_fc.bias", offsetof(LayerWeights, fc_b), "f", INIT_ZEROS, ALWAYS},
    {"mlp.c_proj.weight", offsetof(LayerWeights, fcproj_w), "fC", INIT_RESIDUAL, ALWAYS},
    {"mlp.c_proj.bias", offsetof(LayerWeights, fcproj_b), "C", INIT_ZEROS, ALWAYS},
};
static const TensorSpec gpt2_head_[] = {
    {"transformer.ln_f.weight", offsetof(Weights, norm_w), "C", INIT_ONES, ALWAYS},
    {"transformer.ln_f.bias", offsetof(Weights, norm_b), "C", INIT_ZEROS, ALWAYS},
    {"lm_head.weight", offsetof(Weights, head), "vC", INIT_NORMAL, IF_UNTIED},
};

// Llama (Touvron et al. 2023) and its relatives.
static const TensorSpec llama_embedding_[] = {
    {"model.embed_tokens.weight", offsetof(Weights, wte), "vC", INIT_NORMAL, ALWAYS},
};
static const TensorSpec llama_layer_[] = {
    {"input_layernorm.weight", offsetof(LayerWeights, norm1_w), "C", INIT_ONES, ALWAYS},
    {"self_attn.q_proj.weight", offsetof(LayerWeights, qkv_w), "cC", INIT_NORMAL, ALWAYS},
    {"self_attn.k_proj.weight", FIELD_CONTINUED, "kC", INIT_NORMAL, ALWAYS},
    {"self_attn.v_proj.weight", FIELD_CONTINUED, "kC", INIT_NORMAL, ALWAYS},
    {"self_attn.q_proj.bias", offsetof(LayerWeights, qkv_b), "c", INIT_ZEROS, IF_QKV_BIAS},
    {"self_attn.k_proj.bias", FIELD_CONTINUED, "k", INIT_ZEROS, IF_QKV_BIAS},
    {"self_attn.v_proj.bias", FIELD_CONTINUED, "k", INIT_ZEROS, IF_QKV_BIAS},
    {"self_attn.q_norm.weight", offsetof(LayerWeights, q_norm), "D", INIT_ONES, IF_QK_NORM},
    {"self_attn.k_norm.weight", offsetof(LayerWeights, k_norm), "D", INIT_ONES, IF_QK_NORM},
    {"self_attn.o_proj.weight", offsetof(LayerWeights, proj_w), "Cc", INIT_NORMAL, ALWAYS},
    {"self_attn.o_proj.bias", offsetof(LayerWeights, proj_b), "C", INIT_ZEROS, IF_OUT_BIAS},
    {"post_attention_layernorm.weight", offsetof(LayerWeights, norm2_w), "C", INIT_ONES, ALWAYS},
    {"mlp.gate_proj.weight", offsetof(LayerWeights, fc_w), "fC", INIT_NORMAL, ALWAYS},
    {"mlp.up_proj.weight", FIELD_CONTINUED, "fC", INIT_NORMAL, ALWAYS},
    {"mlp.gate_proj.bias", offsetof(LayerWeights, fc_b), "f", INIT_ZEROS, IF_MLP_BIAS},
    {"mlp.up_proj.bias", FIELD_CONTINUED, "f", INIT_ZEROS, IF_MLP_BIAS},
    {"mlp.down_proj.weight", offsetof(LayerWeights, fcproj_w), "Cf", INIT_NORMAL, ALWAYS},
    {"mlp.down_proj.bias", offsetof(LayerWeights, fcproj_b), "C", INIT_ZEROS, IF_MLP_BIAS},
};
static const TensorSpec llama_head_[] = {
    {"model.norm.weight", offsetof(Weights, norm_w), "C", INIT_ONES, ALWAYS},
    {"lm_head.weight", offsetof(Weights, head), "vC", INIT_NORMAL, IF_UNTIED},
};

#define GPT2_TABLES_                                                                               \
    BLOCK_GPT2, "transformer.", "transformer.h.", FAMILY_TABLE_(gpt2_embedding_),                  \
        FAMILY_TABLE_(gpt2_layer_), FAMILY_TABLE_(gpt2_head_)
#define LLAMA_TABLES_                                                                              \
    BLOCK_LLAMA, "model.", "model.layers.", FAMILY_TABLE_(llama_embedding_),                       \
        FAMILY_TABLE_(llama_layer_), FAMILY_TABLE_(llama_head_)

// In the order of the values of --family.
enum { FAMILY_GPT2, FAMILY_LLAMA, FAMILY_MISTRAL, FAMILY_QWEN2, FAMILY_QWEN3, FAMILIES };
static const Family families[FAMILIES] = {
    {"gpt2", "GPT2LMHeadModel", "GPT-2", "gpt2", GPT2_TABLES_},
    {"llama", "LlamaForCausalLM", "Llama", "llama", LLAMA_TABLES_},
    {"mistral", "MistralForCausalLM", "Mistral", "mistral", LLAMA_TABLES_},
    {"qwen2", "Qwen2ForCausalLM", "Qwen2", "qwen2", LLAMA_TABLES_},
    {"qwen3", "Qwen3ForCausalLM", "Qwen3", "qwen3", LLAMA_TABLES_},
};

#endif
