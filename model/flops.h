// flops.h: floating-point operations that a model takes.
#ifndef MODEL_FLOPS_H
#define MODEL_FLOPS_H

#include "model/config.h"

// Operations of training on one token: 6 per weight of a matrix product (forward 2, backward 4; the
// output head is one), and 6 T C per layer for attention's two products over the T / 2 tokens
// before it on average.
static inline double flops_per_token(const ModelConfig *c, size_t T) {
    double C = (double)c->channels, L = (double)c->layers, V = (double)c->vocab_size;
    return 6 * (12 * L * C * C + V * C) + 6 * L * (double)T * C;
}

#endif
