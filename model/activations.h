// activations.h: what forward leaves for backward, laid out in one array. R = B * T rows.
#ifndef MODEL_ACTIVATIONS_H
#define MODEL_ACTIVATIONS_H

#include "model/memory_ledger.h"
#include "model/shard.h"

// A norm's output and what its backward needs: (R, C), (R), (R). RMSNorm has no mean.
typedef struct {
    float *out, *mean, *rstd;
} Norm;

// Of one block; widths are those of this rank. W = (H + 2 KV) D: q, k and v side by side.
typedef struct {
    Norm norm1;
    float *qkv;            // (R, W), after QK-norm and RoPE
    float *q_raw, *q_rstd; // (R, H, D), (R, H): q before QK-norm
    float *k_raw, *k_rstd; // (R, KV, D), (R, KV)
    float *cache;          // (R, 2 KV D): k and v of all rows, for inference
    float *attn, *lse;     // (R, H D), (B, H, T)
    float *residual2;      // (R, C): residual stream after attention
    Norm norm2;
    float *fc;        // (R, F); SwiGLU: (R, 2F), gate and up
    float *act;       // (R, F): after the activation
    float *residual3; // (R, C): residual stream after the MLP
} LayerActivations;

typedef struct {
    float *stream; // (R, C): input of the first block: embedded tokens, or the last stage's output
    LayerActivations *layers; // (layers)
    Norm norm;                // on the last stage
    float *losses;            // (R)
} Activations;

// What each block keeps for itself; everything else is shared by all blocks.
typedef enum {
    KEEP_ALL, // for backward

    // Activation checkpointing (Chen et al. 2016): the input of each block. The rest is recomputed
    // in backward, and shared with other micro-batches too.
    KEEP_INPUTS,

    KEEP_CACHE // for inference: k and v, which later rows read
} Keep;

// An array that takes part of a larger one.
typedef struct {
    float **array;
    size_t floats;
} ArenaField_;

// Lays `count` fields out from base + *used on. While the size is being counted (base == NULL)
// there is nothing to point to.
static inline void arena_lay_out_(const ArenaField_ *fields, size_t count, float *base,
                                  size_t *used) {
    for (size_t i = 0; i < count; i++) {
        *fields[i].array = base && fields[i].floats ? base + *used : NULL;
        *used += round_up(fields[i].floats, 64); // to a boundary of A64FX's cache lines
    }
}

// Lays the activations of R rows out over `base`, returns how many floats they take. shared: a
// block of another micro-batch to share with, NULL for the first one.
static inline size_t activations_layout_(Activations *a, const ModelConfig *c, const ModelShard *s,
                                         size_t R, Keep keep, const LayerActivations *shared,
                                         float *base) {
    const size_t C = c->channels, H = s->heads, KV = s->kv_heads, D = c->head_dim;
    const size_t means = c->family->block == BLOCK_GPT2 ? R : 0, normed = c->qk_norm ? R : 0;
    size_t used = 0;
    const ArenaField_ stream = {&a->stream, R * C};
    arena_lay_out_(&stream, 1, base, &used);

    for (size_t l = 0; l < s->layers; l++) {
        LayerActivations *y = &a->layers[l];
        const ArenaField_ all[] = {
            {&y->norm1.out, R * C},
            {&y->norm1.mean, means},
            {&y->norm1.rstd, R},
            {&y->qkv, R * shard_qkv_width(c, s)},
            {&y->q_raw, normed * H * D},
            {&y->q_rstd, normed * H},
            {&y->k_raw, normed * KV * D},
            {&y->k_rstd, normed * KV},
            {&y->attn, R * H * D},
            {&y->lse, R * H},
            {&y->residual2, R * C},
            {&y->norm2.out, R * C},
            {&y->norm2.mean, means},
            {&y->norm2.rstd, R},
            {&y->fc, R * shard_mlp_width(c, s)},
            {&y->act, R * s->mlp_channels},
            {&y->residual3, R * C},
        };
        const ArenaField_ input = {&y->residual3, R * C}, cache = {&y->cache, 2 * R * KV * D};

        y->cache = NULL;
        if (keep == KEEP_ALL || (l == 0 && !shared)) {
            arena_lay_out_(all, sizeof all / sizeof *all, base, &used);
        } else {
            *y = l > 0 ? a->layers[0] : *shared;
        }
        if (keep == KEEP_CACHE) {
            arena_lay_out_(&cache, 1, base, &used);
        } else if (keep == KEEP_INPUTS && (l > 0 || shared)) {
            arena_lay_out_(&input, 1, base, &used);
        }
    }

    const ArenaField_ last[] = {
        {&a->norm.out, R * C}, {&a->norm.mean, means}, {&a->norm.rstd, R}, {&a->losses, R}};
    if (s->last_stage) {
        arena_lay_out_(last, sizeof last / sizeof *last, base, &used);
    }
    return used;
}

// Activations of R rows; the ledger owns the array, the caller frees a->layers. shared: see above.
static inline bool activations_create(Activations *a, MemoryLedger *memory, const ModelConfig *c,
                                      const ModelShard *s, size_t R, Keep keep,
                                      const LayerActivations *shared, Error *e) {
    // An upper bound, to catch sizes that would overflow.
    double widest = (double)(c->channels + shard_qkv_width(c, s) + shard_mlp_width(c, s));
    double most = 20 * (double)(s->layers + 1) * widest * (double)R;
    *a = (Activations){.layers = malloc(s->layers * sizeof *a->layers)};
    if (!a->layers || most > 0x1p50) {
        return fail(
            e, "no memory for the activations of %zu tokens: choose a smaller --micro-batch", R);
    }

    size_t n = activations_layout_(a, c, s, R, keep, shared, NULL);
    float *data = ledger_floats(memory, "activations", n, e);
    activations_layout_(a, c, s, R, keep, shared, data);
    return data != NULL;
}

// Gradients of activations while backward runs, reused by all blocks. Widths as above.
typedef struct {
    float *stream;  // (R, C): of the residual stream, carried from the last block to the first
    float *branch;  // (R, C), and of attention's output (R, H D)
    float *qkv;     // (R, W)
    float *fc;      // (R, F) or (R, 2F)
    float *act;     // SwiGLU: (R, F)
    float *shared;  // (R, 2 KV D), where ranks share a KV head
    float *qk_norm; // (2, D): of the weights of QK-norm
} BackwardScratch;

static inline bool backward_scratch_create(BackwardScratch *b, MemoryLedger *memory,
                                           const ModelConfig *c, const ModelShard *s, size_t R,
                                           Error *e) {
    const size_t attention = s->heads * c->head_dim;
    const size_t branch = attention > c->channels ? attention : c->channels;
    const bool gated = c->family->block == BLOCK_LLAMA;
    const ArenaField_ fields[] = {
        {&b->stream, R * c->channels},
        {&b->branch, R * branch},
        {&b->qkv, R * shard_qkv_width(c, s)},
        {&b->fc, R * shard_mlp_width(c, s)},
        {&b->act, gated ? R * s->mlp_channels : 0},
        {&b->shared, s->kv_copies > 1 ? 2 * R * s->kv_heads * c->head_dim : 0},
        {&b->qk_norm, c->qk_norm ? 2 * c->head_dim : 0},
    };
    const size_t count = sizeof fields / sizeof *fields;
    size_t n = 0, used = 0;
    arena_lay_out_(fields, count, NULL, &n);
    float *data = ledger_floats(memory, "activations' gradients", n, e);
    arena_lay_out_(fields, count, data, &used);
    return data != NULL;
}

// What the classifier works on: CLASSIFIER_ROWS rows at a time, so that B x T x V logits never
// exist.
typedef struct {
    float *logits;         // (CLASSIFIER_ROWS, vocab)
    float *scale;          // (CLASSIFIER_ROWS)
    ShardSoftmax *softmax; // (tp, CLASSIFIER_ROWS)
} ClassifierScratch;

// Only the last stage has one.
static inline bool classifier_scratch_create(ClassifierScratch *c, MemoryLedger *memory,
                                             const ModelShard *s, Error *e) {
    *c = (ClassifierScratch){0};
    if (!s->last_stage) {
        return true;
    }
    c->logits = ledger_floats(memory, "logits", CLASSIFIER_ROWS * s->vocab.count, e);
    c->scale = ledger_floats(memory, "logits", CLASSIFIER_ROWS, e);
    c->softmax = ledger_bytes(memory, "logits", s->tp * CLASSIFIER_ROWS * sizeof *c->softmax, e);
    return c->logits && c->scale && c->softmax;
}

#endif
