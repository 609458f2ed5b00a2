// activations.h: what forward leaves for backward, laid out in one array. R = B * T rows.
#ifndef MODEL_ACTIVATIONS_H
#define MODEL_ACTIVATIONS_H

#include "model/memory_ledger.h"
#include "model/shard.h"

// Of one block. tp: tensor-parallel ranks.
typedef struct {
    float *ln1, *ln1_mean, *ln1_rstd; // (R, C), (R), (R)
    float *qkv;                       // (R, 3C/tp)
    float *attn, *lse;                // (R, C/tp), (B, H/tp, T)
    float *residual2;                 // (R, C): residual stream after attention
    float *ln2, *ln2_mean, *ln2_rstd; // (R, C), (R), (R)
    float *fc, *gelu;                 // (R, 4C/tp)
    float *residual3;                 // (R, C): residual stream after the MLP
} LayerActivations;

typedef struct {
    float *stream; // (R, C): input of the first block: embedded tokens, or the last stage's output
    LayerActivations *layers;         // (layers)
    float *lnf, *lnf_mean, *lnf_rstd; // (R, C), (R), (R): on the last stage
    float *losses;                    // (R)
} Activations;

// What each block keeps for itself; everything else is shared by all blocks.
typedef enum {
    KEEP_ALL, // for backward

    // Activation checkpointing (Chen et al. 2016): the input of each block. The rest is recomputed
    // in backward, and shared with other micro-batches too.
    KEEP_INPUTS,

    KEEP_CACHE // for inference: qkv, whose keys and values later rows read
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
        *fields[i].array = base ? base + *used : NULL;
        *used += round_up(fields[i].floats, 64); // to a boundary of A64FX's cache lines
    }
}

// Lays the activations of R rows out over `base`, returns how many floats they take. shared: a
// block of another micro-batch to share with, NULL for the first one.
static inline size_t activations_layout_(Activations *a, const ModelConfig *c, const ModelShard *s,
                                         size_t R, Keep keep, const LayerActivations *shared,
                                         float *base) {
    size_t C = c->channels, Ct = s->channels, used = 0;
    const ArenaField_ stream = {&a->stream, R * C};
    arena_lay_out_(&stream, 1, base, &used);

    for (size_t l = 0; l < s->layers; l++) {
        LayerActivations *y = &a->layers[l];
        const ArenaField_ all[] = {
            {&y->ln1, R * C},       {&y->ln1_mean, R},    {&y->ln1_rstd, R},
            {&y->qkv, R * 3 * Ct},  {&y->attn, R * Ct},   {&y->lse, R * s->heads},
            {&y->residual2, R * C}, {&y->ln2, R * C},     {&y->ln2_mean, R},
            {&y->ln2_rstd, R},      {&y->fc, R * 4 * Ct}, {&y->gelu, R * 4 * Ct},
            {&y->residual3, R * C},
        };
        const ArenaField_ own = keep == KEEP_CACHE ? (ArenaField_){&y->qkv, R * 3 * Ct}
                                                   : (ArenaField_){&y->residual3, R * C};
        if (keep == KEEP_ALL || (l == 0 && !shared)) {
            arena_lay_out_(all, sizeof all / sizeof *all, base, &used);
        } else {
            *y = l > 0 ? a->layers[0] : *shared;
            arena_lay_out_(&own, 1, base, &used);
        }
    }

    const ArenaField_ last[] = {
        {&a->lnf, R * C}, {&a->lnf_mean, R}, {&a->lnf_rstd, R}, {&a->losses, R}};
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
    double most = 20 * (double)(s->layers + 1) * (double)c->channels * (double)R;
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

// Gradients of activations while backward runs, reused by all blocks.
typedef struct {
    float *stream; // (R, C): of the residual stream, carried from the last block to the first
    float *branch; // (R, C)
    float *qkv;    // (R, 3C/tp)
    float *fc;     // (R, 4C/tp)
} BackwardScratch;

static inline bool backward_scratch_create(BackwardScratch *b, MemoryLedger *memory,
                                           const ModelConfig *c, const ModelShard *s, size_t R,
                                           Error *e) {
    const ArenaField_ fields[] = {{&b->stream, R * c->channels},
                                  {&b->branch, R * c->channels},
                                  {&b->qkv, R * 3 * s->channels},
                                  {&b->fc, R * 4 * s->channels}};
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
