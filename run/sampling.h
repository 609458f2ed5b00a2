// sampling.h: the next token from logits: temperature, top-k, nucleus sampling (Holtzman et al.
// 2020).
#ifndef RUN_SAMPLING_H
#define RUN_SAMPLING_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
    double temperature; // 0: greedy
    size_t top_k;       // 0: all
    double top_p;       // (0, 1]
} Sampling;

typedef struct {
    float logit;
    int32_t token;
} Candidate;

// Likeliest first; equal logits by token, so that there is one order.
static inline int candidate_compare_(const void *x, const void *y) {
    const Candidate *a = x, *b = y;
    if (a->logit != b->logit) {
        return a->logit < b->logit ? 1 : -1;
    }
    return (a->token > b->token) - (a->token < b->token);
}

// exp((logit - largest logit) / temperature) of a candidate.
static inline double candidate_weight_(const Candidate *candidates, size_t i, double temperature) {
    return exp((double)(candidates[i].logit - candidates[0].logit) / temperature);
}

// Draws a token from logits (V): softmax at a temperature over the top_k likeliest tokens, of these
// the fewest that make up top_p. `draw` is uniform in [0, 1). candidates: (V) scratch.
static inline int32_t sample_token(const float *logits, size_t V, Sampling s, double draw,
                                   Candidate *candidates) {
    for (size_t v = 0; v < V; v++) {
        candidates[v] = (Candidate){logits[v], (int32_t)v};
    }
    qsort(candidates, V, sizeof *candidates, candidate_compare_);
    if (s.temperature == 0) {
        return candidates[0].token;
    }

    size_t count = s.top_k > 0 && s.top_k < V ? s.top_k : V, nucleus = 0;
    double total = 0, kept = 0, sum = 0;
    for (size_t i = 0; i < count; i++) {
        total += candidate_weight_(candidates, i, s.temperature);
    }
    while (nucleus < count && kept < s.top_p * total) {
        kept += candidate_weight_(candidates, nucleus++, s.temperature);
    }
    for (size_t i = 0; i < nucleus; i++) {
        sum += candidate_weight_(candidates, i, s.temperature);
        if (draw * kept < sum) {
            return candidates[i].token;
        }
    }
    return candidates[nucleus - 1].token;
}

#endif
