// shard.h: the part of the model that one rank holds.
//
// Pipeline parallel: a stage is a run of consecutive layers; the first stage also has the
// embedding, the last one the classifier. Tensor parallel (Megatron-LM; Shoeybi et al. 2019): each
// large matrix is split so that a block needs one all-reduce in attention and one in the MLP:
// attention by heads, the MLP by hidden channels, the vocabulary by tokens.
#ifndef MODEL_SHARD_H
#define MODEL_SHARD_H

#include "kernels_ref.h" // defines: VocabShard
#include "model/config.h"

typedef struct {
    size_t tp, tp_rank;         // tensor-parallel ranks, and which of them this is
    size_t layers, first_layer; // held here
    bool first_stage, last_stage;
    size_t channels, heads; // of attention on this rank: C / tp, H / tp
    VocabShard vocab;       // rows of wte on this rank
} ModelShard;

// Layers of the last of `stages` stages. The classifier costs as much as V / (12 C + T) layers, so
// the last stage gets fewer of them: the number that makes the slowest stage fastest.
static inline size_t last_stage_layers_(const ModelConfig *c, size_t stages) {
    double classifier = (double)c->vocab_size / (12 * (double)c->channels + (double)c->seq_len);
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
                    .channels = c->channels / tp,
                    .heads = c->heads / tp,
                    .vocab.first = c->vocab_size * tp_rank / tp};

    s.vocab.count = c->vocab_size * (tp_rank + 1) / tp - s.vocab.first;
    s.first_layer = s.last_stage ? others : others * stage / before;
    s.layers = s.last_stage ? last : others * (stage + 1) / before - s.first_layer;
    return s;
}

// The whole model, as one rank alone holds it.
static inline ModelShard shard_whole(const ModelConfig *c) {
    return shard_of(c, 1, 0, 1, 0);
}

#endif
