// kernel_scratch.h: memory that the fast kernels pack matrices into.
#ifndef MODEL_KERNEL_SCRATCH_H
#define MODEL_KERNEL_SCRATCH_H

#include "kernels_sve.h" // defines: gemm_scratch_sve, attention_scratch_sve
#include "model/memory_ledger.h"
#include "model/shard.h"

// Floats that `threads` threads pack into: as many as the largest product of a training step takes,
// of a micro-batch of B sequences of T tokens.
static inline size_t packing_floats(const ModelConfig *c, const ModelShard *s, Precision precision,
                                    size_t B, size_t T, size_t threads) {
    size_t C = c->channels, R = B * T, V = s->vocab.count, F = s->mlp_channels;
    size_t W = shard_qkv_width(c, s), attention = shard_attention_width(c, s);
    size_t hidden = shard_mlp_width(c, s), rows = min_u64(R, CLASSIFIER_ROWS);
    const size_t products[][2] = {
        // (rows, depth) of forward and of the inputs' gradients
        {R, C},
        {R, attention},
        {R, W},
        {R, hidden},
        {R, F},
        // of the weights' gradients
        {C, R},
        {attention, R},
        {W, R},
        {hidden, R},
        {F, R},
        // of the classifier, on the last stage
        {rows, C},
        {rows, V},
        {V, rows},
    };
    size_t count = sizeof products / sizeof *products - (s->last_stage ? 0 : 3);

    const AttentionShape shape = {
        .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = c->head_dim};
    size_t most = attention_scratch_floats_sve(&shape, precision, B, T, true, threads);
    for (size_t i = 0; i < count; i++) {
        size_t n = gemm_scratch_sve(precision, products[i][0], products[i][1], threads);
        most = n > most ? n : most;
    }
    return most;
}

// What kernels pack into, for micro-batches of B sequences of T tokens. They get it now, so that
// what does not fit fails before it begins; with a planned ledger it is only counted.
static inline bool packing_reserve(MemoryLedger *memory, const Kernels *kernels,
                                   const ModelConfig *c, const ModelShard *s, Precision precision,
                                   size_t B, size_t T, size_t threads, Error *e) {
    if (kernels != &kernels_sve) {
        return true;
    }
    size_t n = packing_floats(c, s, precision, B, T, threads);
    return ledger_note(memory, "packed matrices", allocated_bytes(n), NULL, e) &&
           (memory->planned || pack_scratch_reserve(n) ||
            fail(e, "no memory for %zu MiB of packed matrices: choose a smaller --micro-batch",
                 allocated_bytes(n) >> 20));
}

#endif
