// shard.h: the part of the model that one rank holds.
//
// Pipeline parallel: a stage is a run of consecutive layers; the first stage also has the
// embedding, the last one the classifier. Tensor parallel (Megatron-LM; Shoeybi et al. 2019): each
// large matrix is split so that a block needs one all-reduce in attention and one in the MLP:
// attention by heads, the MLP by hidden channels, the vocabulary by tokens. Where there are fewer
// KV heads than ranks, consecutive ranks hold the same one.
#ifndef MODEL_SHARD_H
#define MODEL_SHARD_H

#include "kernels_ref.h" // defines: VocabShard
#include "model/config.h"

typedef struct {
    size_t tp, tp_rank;         // tensor-parallel ranks, and which of them this is
    size_t layers, first_layer; // held here
    bool first_stage, last_stage;
    size_t heads, kv_heads;         // of attention on this rank
    size_t kv_copies;               // tensor-parallel ranks that hold the same KV head
    size_t mlp_first, mlp_channels; // hidden channels of the MLP on this rank
    VocabShard vocab;               // rows of wte and of the head on this rank
} ModelShard;

// Weights of a block's matrix products.
static inline size_t block_weights(const ModelConfig *c) {
    size_t attention = 2 * (c->heads + c->kv_heads) * c->head_dim;
    size_t products = c->family->block == BLOCK_LLAMA ? 3 : 2; // of the MLP
    return c->channels * (attention + products * c->mlp_channels);
}

// Layers of the last of `stages` stages. The classifier costs as much as some layers (GPT-2: V /
// (12 C + T)), so the last stage gets fewer of them: the number that makes the slowest stage
// fastest.
static inline size_t last_stage_layers_(const ModelConfig *c, size_t stages) {
    double C = (double)c->channels, attention = (double)(c->seq_len * c->heads * c->head_dim);
    double classifier = (double)c->vocab_size / ((double)block_weights(c) / C + attention / C);
    double best = INFINITY;
    size_t last = c->layers;

    for (size_t n = 1; stages > 1 && n + stages - 1 <= c->layers; n++) {
        double others = (double)((c->layers - n + stages - 2) / (stages - 1));
        double slowest = fmax(others, (double)n + classifier);
        if (slowest < best) {
            best = slowest;
            last = n;
        }
    }
    return last;
}

// The shard of rank (tp_rank, stage) in a grid of tp x stages.
static inline ModelShard shard_of(const ModelConfig *c, size_t tp, size_t tp_rank, size_t stages,
                                  size_t stage) {
    size_t last = last_stage_layers_(c, stages);
    size_t others = c->layers - last, before = stages > 1 ? stages - 1 : 1;
    ModelShard s = {.tp = tp,
                    .tp_rank = tp_rank,
                    .first_stage = stage == 0,
                    .last_stage = stage + 1 == stages,
                    .heads = c->heads / tp,
                    .kv_heads = tp < c->kv_heads ? c->kv_heads / tp : 1,
                    .kv_copies = tp > c->kv_heads ? tp / c->kv_heads : 1,
                    .mlp_first = c->mlp_channels * tp_rank / tp,
                    .vocab.first = c->vocab_size * tp_rank / tp};

    s.mlp_channels = c->mlp_channels * (tp_rank + 1) / tp - s.mlp_first;
    s.vocab.count = c->vocab_size * (tp_rank + 1) / tp - s.vocab.first;
    s.first_layer = s.last_stage ? others : others * stage / before;
    s.layers = s.last_stage ? last : others * (stage + 1) / before - s.first_layer;
    return s;
}

// Floats of a row of q, k and v, of attention's output, and of the first product of the MLP.
static inline size_t shard_qkv_width(const ModelConfig *c, const ModelShard *s) {
    return (s->heads + 2 * s->kv_heads) * c->head_dim;
}

static inline size_t shard_attention_width(const ModelConfig *c, const ModelShard *s) {
    return s->heads * c->head_dim;
}

static inline size_t shard_mlp_width(const ModelConfig *c, const ModelShard *s) {
    return c->family->block == BLOCK_LLAMA ? 2 * s->mlp_channels : s->mlp_channels;
}

// The whole model, as one rank alone holds it.
static inline ModelShard shard_whole(const ModelConfig *c) {
    return shard_of(c, 1, 0, 1, 0);
}

#endif
