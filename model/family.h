// family.h: a model family as a row of data: its tensors, with shape, initial value and the name
// that they have in Hugging Face files. Sizes, pointers, initial values, decay, shards and files
// are loops over these tables (model/tensors.h).
#ifndef MODEL_FAMILY_H
#define MODEL_FAMILY_H

#include <stddef.h>

// The weights of one transformer block, and of everything around the blocks; gradients are laid out
// likewise. Matrices are (in, out), as Hugging Face's Conv1D has them. tp: tensor-parallel ranks.
typedef struct {
    float *ln1_w, *ln1_b;       // (C), (C)
    float *qkv_w, *qkv_b;       // (C, 3C/tp), (3C/tp): columns q, k, v, each with this rank's heads
    float *proj_w, *proj_b;     // (C/tp, C), (C)
    float *ln2_w, *ln2_b;       // (C), (C)
    float *fc_w, *fc_b;         // (C, 4C/tp), (4C/tp)
    float *fcproj_w, *fcproj_b; // (4C/tp, C), (C)
} LayerWeights;

typedef struct {
    float *wte;           // (vocab, C), also the output head: on the first and the last stage
    float *wpe;           // (positions, C): on the first stage
    LayerWeights *layers; // (layers)
    float *lnf_w, *lnf_b; // (C), (C): on the last stage
} Weights;

// INIT_RESIDUAL: normal with std / sqrt(2 L), for matrices that end a residual branch.
typedef enum { INIT_ZEROS, INIT_ONES, INIT_NORMAL, INIT_RESIDUAL } Init;

typedef struct {
    const char *name; // in the safetensors file, after the family's prefix
    size_t field;     // in LayerWeights or Weights
    // One letter per dimension. Not split: P (positions), C (channels). Split over tensor-parallel
    // ranks: v (vocabulary), c (C), f (4C), q (3C: q, k and v are split each).
    const char *shape;
    Init init;
} TensorSpec;

typedef struct {
    const char *prefix;          // of all tensor names
    const TensorSpec *embedding; // before the blocks: on the first stage; [0] is the tied head too
    size_t embedding_count;
    const TensorSpec *layer; // of each block
    size_t layer_count;
    const TensorSpec *head; // after the blocks: on the last stage
    size_t head_count;
} Family;

#define FAMILY_TABLE_(table) table, sizeof(table) / sizeof *(table)

// GPT-2 (Radford et al. 2019).
static const TensorSpec gpt2_embedding_[] = {
    {"wte.weight", offsetof(Weights, wte), "vC", INIT_NORMAL},
    {"wpe.weight", offsetof(Weights, wpe), "PC", INIT_NORMAL},
};
static const TensorSpec gpt2_layer_[] = {
    {"ln_1.weight", offsetof(LayerWeights, ln1_w), "C", INIT_ONES},
    {"ln_1.bias", offsetof(LayerWeights, ln1_b), "C", INIT_ZEROS},
    {"attn.c_attn.weight", offsetof(LayerWeights, qkv_w), "Cq", INIT_NORMAL},
    {"attn.c_attn.bias", offsetof(LayerWeights, qkv_b), "q", INIT_ZEROS},
    {"attn.c_proj.weight", offsetof(LayerWeights, proj_w), "cC", INIT_RESIDUAL},
    {"attn.c_proj.bias", offsetof(LayerWeights, proj_b), "C", INIT_ZEROS},
    {"ln_2.weight", offsetof(LayerWeights, ln2_w), "C", INIT_ONES},
    {"ln_2.bias", offsetof(LayerWeights, ln2_b), "C", INIT_ZEROS},
    {"mlp.c_fc.weight", offsetof(LayerWeights, fc_w), "Cf", INIT_NORMAL},
    {"mlp.c_fc.bias", offsetof(LayerWeights, fc_b), "f", INIT_ZEROS},
    {"mlp.c_proj.weight", offsetof(LayerWeights, fcproj_w), "fC", INIT_RESIDUAL},
    {"mlp.c_proj.bias", offsetof(LayerWeights, fcproj_b), "C", INIT_ZEROS},
};
static const TensorSpec gpt2_head_[] = {
    {"ln_f.weight", offsetof(Weights, lnf_w), "C", INIT_ONES},
    {"ln_f.bias", offsetof(Weights, lnf_b), "C", INIT_ZEROS},
};
static const Family family_gpt2 = {"transformer.", FAMILY_TABLE_(gpt2_embedding_),
                                   FAMILY_TABLE_(gpt2_layer_), FAMILY_TABLE_(gpt2_head_)};

#endif
