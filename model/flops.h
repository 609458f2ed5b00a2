// flops.h: floating-point operations that a model takes.
#ifndef MODEL_FLOPS_H
#define MODEL_FLOPS_H

#include "model/shard.h" // defines: block_weights

// Operations of training on one token: 6 per weight of a matrix product (forward 2, backward 4; the
// output head is one), and 6 T H D per layer for attention's two products over the T / 2 tokens
// before it on average.
static inline double flops_per_token(const ModelConfig *c, size_t T) {
    double L = (double)c->layers, head = (double)c->vocab_size * (double)c->channels;
    double attention = (double)T * (double)(c->heads * c->head_dim);
    return 6 * (L * (double)block_weights(c) + head) + 6 * L * attention;
}

#endif
