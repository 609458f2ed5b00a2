// train_gpt.c: pre-trains GPT language models on CPU clusters. Reads top to bottom: the model,
// forward, backward, update, the training loop, the commands.
//
// Shapes in comments: B sequences of T tokens in a micro-batch, R = B * T rows, C channels, H
// heads of D channels and KV heads of keys and values, F hidden channels of the MLP, V tokens in
// the vocabulary, tp tensor-parallel ranks. Arrays are row-major float. What each kernel computes
// is specified in kernels_ref.h; everything that is not the model, its training or a command has a
// folder of its own.

#include "corpus/command.h"
#include "dataloader.h"
#include "kernels/bench.h"
#include "kernels/check.h"
#include "kernels/rope_table.h"
#include "kernels_ref.h"
#include "kernels_sve.h"
#include "model/activations.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/flops.h"
#include "model/golden.h"
#include "model/kernel_scratch.h"
#include "model/loss_sum.h"
#include "model/memory_ledger.h"
#include "model/tensors.h"
#include "mpi_utils.h"
#include "parallel/placement.h"
#include "plan/command.h"
#include "plan/result.h"
#include "report/command.h"
#include "report/model_card.h"
#include "report/run_output.h"
#include "run/batch.h"
#include "run/command_line.h"
#include "run/console.h"
#include "run/export.h"
#include "run/generation.h"
#include "run/gradient_reducer.h"
#include "run/log_writer.h"
#include "run/mpi_buffers.h"
#include "run/options.h"
#include "run/peak_flops.h"
#include "run/resume.h"
#include "run/sampling.h"
#include "run/schedule.h"
#include "run/stop.h"
#include "run/train_setup.h"
#include "run/training_state.h"
#include "tokenizer.h"
#include "trace/command.h"
#include "util/clock.h"

// =================================================================================================
// The model: GPT-2 (Radford et al. 2019), or Llama (Touvron et al. 2023) and its relatives. Its
// tensors are a table, model/family.h; where the blocks differ, the functions below branch on the
// family.

typedef struct {
    ModelConfig config;
    ModelShard shard; // the part of it that this rank holds
    const Kernels *kernels;
    Precision precision;             // of matrix products
    size_t tensors, parameter_count; // of the shard
    size_t all_parameters;           // of the whole model
    float *parameters;               // (parameter_count): all tensors in the order of the table
    TensorView *views;               // (tensors): of parameters
    Weights weights;                 // pointers into parameters, by field
    float *rope;        // (T, D): cosines and sines of each position; NULL without RoPE
    Buckets *gathering; // ZeRO: parameters that other ranks update; NULL without
} Model;

static bool is_llama(const Model *m) {
    return m->config.family->block == BLOCK_LLAMA;
}

// Cosines and sines of rotary position embedding for T positions.
static bool rope_create(Model *m, MemoryLedger *memory, size_t T, Error *e) {
    const size_t D = m->config.head_dim;
    const Rope *r = &m->config.rope;
    m->rope = ledger_floats(memory, "rotary embedding", T * D, e);
    if (m->rope && !memory->planned) {
        rope_table(m->rope, T, D, r->theta, r->factor, r->low_freq_factor, r->high_freq_factor,
                   r->original_positions);
    }
    return m->rope != NULL;
}

// For sequences of up to T tokens. parameters: (parameter_count), zero, owned by the caller; NULL:
// the ledger allocates them.
static bool model_create(Model *m, MemoryLedger *memory, const ModelConfig *config,
                         const ModelShard *shard, const Kernels *kernels, Precision precision,
                         size_t T, float *parameters, Error *e) {
    double estimate = (double)config->layers * (double)block_weights(config) +
                      (double)config->vocab_size * (double)config->channels;
    const ModelShard whole = shard_whole(config);

    *m = (Model){.config = *config, .shard = *shard, .kernels = kernels, .precision = precision};
    if (estimate > 0x1p50) { // far below where sizes in bytes overflow
        return fail(e, "a model of %.3g parameters is beyond what any machine holds", estimate);
    }

    m->all_parameters = shard_parameters(config, &whole);
    m->parameter_count = shard_parameters(config, shard);
    m->parameters =
        parameters ? parameters : ledger_floats(memory, "parameters", m->parameter_count, e);
    if (!m->parameters) {
        return false;
    }
    m->views = tensor_views(config, shard, m->parameters, &m->tensors);
    if (!m->views ||
        !weights_point_into(config, shard, m->views, m->tensors, m->parameters, &m->weights)) {
        return fail(e, "no memory for the views of %zu tensors", m->tensors);
    }
    return !is_llama(m) || rope_create(m, memory, T, e);
}

static void model_free(Model *m) {
    free(m->views);
    free(m->weights.layers);
}

// Waits until the parameters before `end` are those of this step (ZeRO gathers them while forward
// runs).
static void parameters_wait(const Model *m, World *world, const float *end) {
    if (m->gathering) {
        buckets_wait_gathered(world, m->gathering, (size_t)(end - m->parameters));
    }
    mpi_progress(world);
}

static void parameters_wait_all(const Model *m, World *world) {
    parameters_wait(m, world, m->parameters + m->parameter_count);
}

// The residual stream that leaves this pipeline stage. (R, C)
static float *stage_output(const Model *m, const Activations *a) {
    return a->layers[m->shard.layers - 1].residual3;
}

// =================================================================================================
// Forward

// The first R rows from row `first` on: n = LayerNorm(x), or RMSNorm(x). x: (R, C)
static void norm_forward(const Model *m, const Norm *n, const float *x, const float *weight,
                         const float *bias, size_t first, size_t R) {
    const size_t C = m->config.channels, at = first * C;
    const float eps = (float)m->config.norm_eps;
    if (is_llama(m)) {
        m->kernels->rmsnorm_forward(n->out + at, n->rstd + first, x + at, weight, eps, R, C);
    } else {
        m->kernels->layernorm_forward(n->out + at, n->mean + first, n->rstd + first, x + at, weight,
                                      bias, eps, R, C);
    }
}

// The layout of all weights of matrix products in a block.
static MatrixLayout layout_of(const Model *m) {
    return is_llama(m) ? OUT_IN : IN_OUT;
}

// The heads of attention on this rank. q, k and v stand side by side in rows of y->qkv; for
// inference k and v are in the cache.
static AttentionShape attention_heads(const Model *m, const LayerActivations *y, size_t layer) {
    const ModelConfig *c = &m->config;
    const size_t D = c->head_dim, width = shard_qkv_width(c, &m->shard);
    float scale = c->scale_attention ? 1 / sqrtf((float)D) : 1;
    if (c->scale_by_layer) {
        scale /= (float)(m->shard.first_layer + layer + 1);
    }
    return (AttentionShape){.heads = m->shard.heads,
                            .kv_heads = m->shard.kv_heads,
                            .head_dim = D,
                            .q_row = width,
                            .kv_row = y->cache ? 2 * m->shard.kv_heads * D : width,
                            .scale = scale};
}

// y->qkv (R, W): q, k and v of rows first .. T - 1, with QK-norm and RoPE where the model has them.
static void qkv_forward(const Model *m, const LayerWeights *w, LayerActivations *y, size_t first,
                        size_t B, size_t T) {
    const Kernels *k = m->kernels;
    const size_t C = m->config.channels, D = m->config.head_dim, R = B * (T - first);
    const size_t H = m->shard.heads, KV = m->shard.kv_heads;
    const size_t W = shard_qkv_width(&m->config, &m->shard);
    const float eps = (float)m->config.norm_eps;
    float *qkv = y->qkv + first * W;

    k->matmul_forward(qkv, y->norm1.out + first * C, w->qkv_w, w->qkv_b, NULL, layout_of(m),
                      m->precision, R, C, W);
    if (m->config.qk_norm) {
        k->head_norm_forward(qkv, y->q_raw + first * H * D, y->q_rstd + first * H, w->q_norm, eps,
                             W, R, H, D);
        k->head_norm_forward(qkv + H * D, y->k_raw + first * KV * D, y->k_rstd + first * KV,
                             w->k_norm, eps, W, R, KV, D);
    }
    if (m->rope) {
        k->rope(qkv, m->rope, W, first, B, T - first, H + KV, D, false);
    }
    for (size_t r = 0; r < R && y->cache; r++) {
        memcpy(y->cache + (first + r) * 2 * KV * D, qkv + r * W + H * D,
               2 * KV * D * sizeof(float));
    }
}

// The hidden channels of the MLP, rows first .. first + R - 1: y->act (R, F) = activation(norm2
// fc), or SwiGLU of the two halves of that product.
static void mlp_forward(const Model *m, const LayerWeights *w, LayerActivations *y, size_t first,
                        size_t R) {
    const Kernels *k = m->kernels;
    const size_t C = m->config.channels, F = m->shard.mlp_channels;
    const float *x = y->norm2.out + first * C;
    if (is_llama(m)) {
        k->matmul_forward(y->fc + first * 2 * F, x, w->fc_w, w->fc_b, NULL, OUT_IN, m->precision, R,
                          C, 2 * F);
        k->swiglu_forward(y->act + first * F, y->fc + first * 2 * F, R, F);
    } else {
        k->matmul_activation_forward(y->fc + first * F, y->act + first * F, x, w->fc_w, w->fc_b,
                                     m->config.activation, m->precision, R, C, F);
    }
}

// Block `layer` of this stage: x += attention(norm1(x)), then x += mlp(norm2(x)); x: (R, C) is the
// residual stream before it. Rows before `first` (of a single sequence) were computed by an earlier
// call and only serve as keys and values. The tensor-parallel ranks' products add up to the new
// stream: rank 0 starts from the old one and the bias, the others from zero. recompute: for
// backward, which does not need the output.
static void layer_forward(const Model *m, World *world, size_t layer, LayerActivations *y,
                          const float *x, size_t first, size_t B, size_t T, bool recompute) {
    const Kernels *k = m->kernels;
    const Precision p = m->precision;
    const LayerWeights *w = &m->weights.layers[layer];
    const bool root = m->shard.tp_rank == 0;
    const size_t C = m->config.channels, R = B * (T - first), at = first * C;
    const size_t attention = shard_attention_width(&m->config, &m->shard);
    const size_t F = m->shard.mlp_channels;

    // attention
    norm_forward(m, &y->norm1, x, w->norm1_w, w->norm1_b, first, R);
    qkv_forward(m, w, y, first, B, T);
    const AttentionShape shape = attention_heads(m, y, layer);
    const float *keys = y->cache ? y->cache : y->qkv + attention;
    k->attention_forward(y->attn, y->lse, y->qkv, keys, keys + shape.kv_heads * shape.head_dim,
                         &shape, p, first, B, T);
    k->matmul_forward(y->residual2 + at, y->attn + first * attention, w->proj_w,
                      root ? w->proj_b : NULL, root ? x + at : NULL, layout_of(m), p, R, attention,
                      C);
    tp_all_reduce(world, y->residual2 + at, R * C);

    // MLP
    norm_forward(m, &y->norm2, y->residual2, w->norm2_w, w->norm2_b, first, R);
    mlp_forward(m, w, y, first, R);
    if (recompute) {
        return;
    }
    k->matmul_forward(y->residual3 + at, y->act + first * F, w->fcproj_w, root ? w->fcproj_b : NULL,
                      root ? y->residual2 + at : NULL, layout_of(m), p, R, F, C);
    tp_all_reduce(world, y->residual3 + at, R * C);
}

// a->stream (B, T, C) = wte[token] + wpe[position], rows first .. T - 1 of each sequence. Each
// tensor-parallel rank looks up the tokens of its shard of the vocabulary.
static void embed(const Model *m, World *world, Activations *a, const int32_t *tokens, size_t first,
                  size_t B, size_t T) {
    const Weights *w = &m->weights;
    size_t C = m->config.channels, rows = T - first;
    m->kernels->embedding_forward(a->stream + first * C, tokens + first, w->wte,
                                  m->shard.tp_rank == 0 ? w->wpe : NULL, m->shard.vocab, first, B,
                                  rows, C);
    tp_all_reduce(world, a->stream + first * C, B * rows * C);
}

// Where the parameters after block `layer` begin.
static const float *layer_end(const Model *m, size_t layer) {
    if (layer + 1 < m->shard.layers) {
        return m->weights.layers[layer + 1].norm1_w;
    }
    return m->shard.last_stage ? m->weights.norm_w : m->parameters + m->parameter_count;
}

// Runs this stage up to the residual stream that leaves it, on the last stage up to the final norm;
// rows first .. T - 1, tokens: (B, T). With first > 0, B must be 1. Later stages find their input
// in a->stream.
static void forward(const Model *m, World *world, Activations *a, const int32_t *tokens,
                    size_t first, size_t B, size_t T) {
    const Weights *w = &m->weights;

    parameters_wait(m, world, w->layers[0].norm1_w);
    if (m->shard.first_stage) {
        embed(m, world, a, tokens, first, B, T);
    }

    const float *x = a->stream;
    for (size_t l = 0; l < m->shard.layers; l++) {
        parameters_wait(m, world, layer_end(m, l));
        layer_forward(m, world, l, &a->layers[l], x, first, B, T, false);
        x = a->layers[l].residual3;
    }

    parameters_wait_all(m, world);
    if (m->shard.last_stage) {
        norm_forward(m, &a->norm, x, w->norm_w, w->norm_b, first, B * (T - first));
    }
}

// What training minimises: scale * sum over tokens of (-log p(target) + z_loss * log(Z)^2), where Z
// is the sum that normalises the softmax (z-loss: Chowdhery et al. 2022).
typedef struct {
    float scale, z_loss;
} Objective;

// losses (R) of the rows a->norm against targets (R). Unless dinp is NULL also dinp (R, C) = and
// dhead (vocab, C) += the gradients of the objective.
static void classify(const Model *m, World *world, Activations *a, ClassifierScratch *s,
                     float *dinp, float *dhead, const int32_t *targets, Objective objective,
                     size_t R) {
    const Kernels *k = m->kernels;
    const float *head = m->weights.head;
    const size_t C = m->config.channels, tp = m->shard.tp, tp_rank = m->shard.tp_rank;

    for (size_t r = 0; r < R; r += CLASSIFIER_ROWS) {
        size_t rows = min_u64(R - r, CLASSIFIER_ROWS);
        const float *inp = a->norm.out + r * C;
        k->classifier_forward(s->logits, s->softmax + tp_rank * rows, inp, head, targets + r,
                              m->shard.vocab, m->precision, rows, C);
        tp_all_gather(world, s->softmax, rows * sizeof *s->softmax);
        k->cross_entropy(a->losses + r, s->scale, s->softmax, tp, tp_rank, objective.scale,
                         objective.z_loss, rows);
        if (dinp) {
            k->classifier_backward(dinp + r * C, dhead, s->logits, s->scale, inp, head, targets + r,
                                   objective.scale, m->shard.vocab, m->precision, rows, C);
        }
    }

    if (dinp) {
        tp_all_reduce(world, dinp, R * C);
    }
}

// =================================================================================================
// Backward: forward read from the end. Gradients of weights are added to, so that micro-batches
// accumulate.

// d->stream += the gradient of a norm's input x, out of that of its output, dout; all (R, C).
static void norm_backward(const Model *m, BackwardScratch *d, float *dweight, float *dbias,
                          const float *dout, const float *x, const float *weight, const Norm *n,
                          size_t R) {
    const size_t C = m->config.channels;
    if (is_llama(m)) {
        m->kernels->rmsnorm_backward(d->stream, dweight, dout, x, weight, n->rstd, R, C);
    } else {
        m->kernels->layernorm_backward(d->stream, dweight, dbias, dout, x, weight, n->mean, n->rstd,
                                       R, C);
    }
}

// d->fc: the gradient of the first product of the MLP, out of that of the block's output.
static void mlp_backward(const Model *m, const LayerWeights *w, const LayerActivations *y,
                         BackwardScratch *d, size_t R) {
    const Kernels *k = m->kernels;
    const size_t C = m->config.channels, F = m->shard.mlp_channels;
    if (is_llama(m)) {
        k->matmul_backward_input(d->act, d->stream, w->fcproj_w, NULL, ACTIVATION_NONE, OUT_IN,
                                 m->precision, R, F, C);
        k->swiglu_backward(d->fc, d->act, y->fc, R, F);
    } else {
        k->matmul_backward_input(d->fc, d->stream, w->fcproj_w, y->fc, m->config.activation, IN_OUT,
                                 m->precision, R, F, C);
    }
}

// d->qkv: from the gradient of what attention read to that of the product. Each rank has a part of
// the gradients of QK-norm's weights: that of its heads.
static void qkv_backward(const Model *m, World *world, const LayerWeights *w, LayerWeights *dw,
                         const LayerActivations *y, BackwardScratch *d, size_t B, size_t T) {
    const Kernels *k = m->kernels;
    const size_t D = m->config.head_dim, H = m->shard.heads, KV = m->shard.kv_heads;
    const size_t W = shard_qkv_width(&m->config, &m->shard), R = B * T;
    if (m->rope) {
        k->rope(d->qkv, m->rope, W, 0, B, T, H + KV, D, true);
    }
    if (!m->config.qk_norm) {
        return;
    }

    memset(d->qk_norm, 0, 2 * D * sizeof(float));
    k->head_norm_backward(d->qkv, d->qk_norm, y->q_raw, w->q_norm, y->q_rstd, W, R, H, D);
    k->head_norm_backward(d->qkv + H * D, d->qk_norm + D, y->k_raw, w->k_norm, y->k_rstd, W, R, KV,
                          D);
    tp_all_reduce(world, d->qk_norm, 2 * D);
    add_floats(dw->q_norm, d->qk_norm, D);
    add_floats(dw->k_norm, d->qk_norm + D, D);
}

// Where tensor-parallel ranks share a KV head, each has the gradients of k and v that come from its
// own query heads: their sum is what the shared weights get.
static void sum_shared_heads(const Model *m, World *world, BackwardScratch *d, size_t R) {
    const size_t D = m->config.head_dim, H = m->shard.heads, KV = m->shard.kv_heads;
    const size_t W = shard_qkv_width(&m->config, &m->shard), n = 2 * KV * D;
    if (m->shard.kv_copies == 1) {
        return;
    }

    for (size_t r = 0; r < R; r++) {
        memcpy(d->shared + r * n, d->qkv + r * W + H * D, n * sizeof(float));
    }
    kv_all_reduce(world, d->shared, R * n);
    for (size_t r = 0; r < R; r++) {
        memcpy(d->qkv + r * W + H * D, d->shared + r * n, n * sizeof(float));
    }
}

// x: (R, C), the input of block `layer`; d->stream: (R, C), the gradient of its output on entry, of
// its input on return. mpi_progress between the kernels lets the gradients of later layers be
// reduced meanwhile.
static void layer_backward(const Model *m, World *world, size_t layer, LayerWeights *dw,
                           const LayerActivations *y, BackwardScratch *d, const float *x, size_t B,
                           size_t T) {
    const Kernels *k = m->kernels;
    const LayerWeights *w = &m->weights.layers[layer];
    const MatrixLayout layout = layout_of(m);
    const Precision p = m->precision;
    const size_t C = m->config.channels, R = B * T, F = m->shard.mlp_channels;
    const size_t W = shard_qkv_width(&m->config, &m->shard);
    const size_t attention = shard_attention_width(&m->config, &m->shard);
    const size_t hidden = shard_mlp_width(&m->config, &m->shard);

    // residual3 = residual2 + mlp(norm2)
    k->matmul_backward_weight(dw->fcproj_w, dw->fcproj_b, y->act, d->stream, layout, p, R, F, C);
    mpi_progress(world);
    mlp_backward(m, w, y, d, R);
    mpi_progress(world);
    k->matmul_backward_weight(dw->fc_w, dw->fc_b, y->norm2.out, d->fc, layout, p, R, C, hidden);
    mpi_progress(world);
    k->matmul_backward_input(d->branch, d->fc, w->fc_w, NULL, ACTIVATION_NONE, layout, p, R, C,
                             hidden);
    tp_all_reduce(world, d->branch, R * C);
    norm_backward(m, d, dw->norm2_w, dw->norm2_b, d->branch, y->residual2, w->norm2_w, &y->norm2,
                  R);
    mpi_progress(world);

    // residual2 = x + attention(norm1) proj
    const AttentionShape shape = attention_heads(m, y, layer);
    const size_t keys = attention, values = keys + shape.kv_heads * shape.head_dim; // in a row
    k->matmul_backward_weight(dw->proj_w, dw->proj_b, y->attn, d->stream, layout, p, R, attention,
                              C);
    k->matmul_backward_input(d->branch, d->stream, w->proj_w, NULL, ACTIVATION_NONE, layout, p, R,
                             attention, C);
    mpi_progress(world);
    k->attention_backward(d->qkv, d->qkv + keys, d->qkv + values, d->branch, y->attn, y->qkv,
                          y->qkv + keys, y->qkv + values, y->lse, &shape, p, B, T);
    qkv_backward(m, world, w, dw, y, d, B, T);
    mpi_progress(world);
    k->matmul_backward_input(d->branch, d->qkv, w->qkv_w, NULL, ACTIVATION_NONE, layout, p, R, C,
                             W);
    mpi_progress(world);
    sum_shared_heads(m, world, d, R);
    k->matmul_backward_weight(dw->qkv_w, dw->qkv_b, y->norm1.out, d->qkv, layout, p, R, C, W);
    tp_all_reduce(world, d->branch, R * C);
    norm_backward(m, d, dw->norm1_w, dw->norm1_b, d->branch, x, w->norm1_w, &y->norm1, R);
}

// -------------------------------------------------------------------------------------------------
// A step's micro-batches on their way through the pipeline stages. With one stage: forward,
// backward, forward, backward, ... With several: 1F1B (Narayanan et al. 2019). A stage runs ahead
// by as many forwards as there are stages after it, then does one backward for each forward; so it
// holds at most that many and one more micro-batches' activations.

typedef struct {
    size_t B, T;
    Keep keep;
    Activations *sets;    // (set_count): micro-batch i is in set i % set_count
    MPI_Request *sent;    // (set_count): of the output, to the next stage
    MPI_Request returned; // of the stream's gradient, to the previous stage
    size_t set_count;
    ClassifierScratch classifier;
    BackwardScratch backward;
} Workspace;

// Sets of activations that a stage needs for `count` micro-batches a step.
static size_t activation_sets_needed(const Grid *g, size_t count) {
    return min_u64((size_t)(g->pp - g->stage), count);
}

static bool workspace_create(Workspace *s, MemoryLedger *memory, const ModelConfig *c,
                             const ModelShard *shard, size_t sets, size_t B, size_t T, Keep keep,
                             Error *e) {
    *s = (Workspace){.B = B, .T = T, .keep = keep, .returned = MPI_REQUEST_NULL};
    s->sets = calloc(sets, sizeof *s->sets);
    s->sent = malloc(sets * sizeof *s->sent);
    if (!s->sets || !s->sent) {
        return fail(e, "no memory for %zu micro-batches", sets);
    }

    for (; s->set_count < sets; s->set_count++) {
        const LayerActivations *shared = s->set_count > 0 ? s->sets[0].layers : NULL;
        s->sent[s->set_count] = MPI_REQUEST_NULL;
        if (!activations_create(&s->sets[s->set_count], memory, c, shard, B * T, keep, shared, e)) {
            return false;
        }
    }
    return classifier_scratch_create(&s->classifier, memory, shard, e) &&
           (keep == KEEP_CACHE ||
            backward_scratch_create(&s->backward, memory, c, shard, B * T, e));
}

static void workspace_free(Workspace *s) {
    for (size_t i = 0; i < s->set_count; i++) {
        free(s->sets[i].layers);
    }
    free(s->sets);
    free(s->sent);
}

// Micro-batch `i` of B sequences forward through this stage, rows first .. T - 1; tokens: (B, T).
// With first > 0, B must be 1.
static Activations *micro_batch_forward(const Model *m, World *world, Workspace *s, size_t i,
                                        const int32_t *tokens, size_t first, size_t B, size_t T) {
    Activations *a = &s->sets[i % s->set_count];
    MPI_Request *sent = &s->sent[i % s->set_count];
    size_t C = m->config.channels, at = first * C, n = B * (T - first) * C;

    message_wait(world, sent);
    if (!m->shard.first_stage) {
        stage_receive(world, a->stream + at, n, -1);
    }
    forward(m, world, a, tokens, first, B, T);
    if (!m->shard.last_stage) {
        stage_send(world, stage_output(m, a) + at, n, 1, sent);
    }
    return a;
}

// Micro-batch `i` backward through this stage, after its forward: adds the gradients of the
// objective. `last`: it is the step's last. On the last stage adds to *loss. tokens, targets: (B,
// T).
static void micro_batch_backward(const Model *m, World *world, Workspace *s, GradientReducer *r,
                                 size_t i, bool last, const int32_t *tokens, const int32_t *targets,
                                 Objective objective, LossSum *loss) {
    Weights *dw = &r->weights;
    Activations *a = &s->sets[i % s->set_count];
    BackwardScratch *d = &s->backward;
    size_t C = m->config.channels, B = s->B, T = s->T, R = B * T;

    message_wait(world, &s->returned);
    if (m->shard.last_stage) {
        classify(m, world, a, &s->classifier, d->branch, dw->head, targets, objective, R);
        memset(d->stream, 0, R * C * sizeof(float));
        norm_backward(m, d, dw->norm_w, dw->norm_b, d->branch, stage_output(m, a),
                      m->weights.norm_w, &a->norm, R);
        loss_add(loss, a->losses, R);
    } else {
        stage_receive(world, d->stream, R * C, 1);
    }

    for (size_t l = m->shard.layers; l-- > 0;) {
        const float *x = l > 0 ? a->layers[l - 1].residual3 : a->stream;
        if (s->keep == KEEP_INPUTS) {
            layer_forward(m, world, l, &a->layers[l], x, 0, B, T, true);
        }
        layer_backward(m, world, l, &dw->layers[l], &a->layers[l], d, x, B, T);
        if (last) {
            reducer_layer_done(r, world, dw->layers[l].norm1_w);
        }
    }

    if (m->shard.first_stage) {
        m->kernels->embedding_backward(dw->wte, dw->wpe, d->stream, tokens, m->shard.vocab, B, T,
                                       C);
    } else {
        stage_send(world, d->stream, R * C, -1, &s->returned);
    }
}

// `count` micro-batches forward and backward; inputs, targets: (count, B, T). On return the reducer
// holds the gradients of the step, summed over the data-parallel ranks. Returns the sum of this
// rank's token losses on the last stage, zero elsewhere.
static LossSum forward_backward(const Model *m, World *world, Workspace *s, GradientReducer *r,
                                const int32_t *inputs, const int32_t *targets, Objective objective,
                                size_t count) {
    size_t ahead = min_u64((size_t)(world->grid.pp - 1 - world->grid.stage), count);
    size_t R = s->B * s->T;
    LossSum loss = {0, 0};

    reducer_begin_step(r);
    for (size_t i = 0; i < count + ahead; i++) {
        if (i < count) {
            micro_batch_forward(m, world, s, i, inputs + i * R, 0, s->B, s->T);
        }
        if (i >= ahead) {
            size_t j = i - ahead;
            micro_batch_backward(m, world, s, r, j, j + 1 == count, inputs + j * R, targets + j * R,
                                 objective, &loss);
            reducer_micro_batch_done(r, j, count);
        }
    }

    message_wait(world, &s->returned);
    for (size_t i = 0; i < s->set_count; i++) {
        message_wait(world, &s->sent[i]);
    }
    // a tied head: the other stage holds wte too
    bool shared = m->config.tied && m->shard.first_stage != m->shard.last_stage;
    reducer_finish_step(r, world, shared ? r->weights.wte : NULL,
                        m->shard.vocab.count * m->config.channels);
    return loss;
}

// =================================================================================================
// Update

// What training keeps of the model: views of its tensors, and AdamW's moments, which are zero.
static bool training_state_create(TrainingState *s, MemoryLedger *memory, const Model *m,
                                  const Buckets *buckets, Error *e) {
    *s = (TrainingState){.config = &m->config,
                         .shard = &m->shard,
                         .views = m->views,
                         .tensors = m->tensors,
                         .buckets = buckets};
    s->exp_avg = ledger_floats(memory, "AdamW's state", buckets->owned, e);
    s->exp_avg_sq = ledger_floats(memory, "AdamW's state", buckets->owned, e);
    return s->exp_avg && s->exp_avg_sq &&
           owned_ranges_create(&s->owned, buckets, s->views, s->tensors, e);
}

// Collective: the norm of the whole model's gradient: of each tensor the sum of squares over what
// this rank owns, then over data-parallel ranks (ZeRO), tensor-parallel ranks and stages.
static double gradient_norm(const Model *m, World *w, const TrainingState *s,
                            const GradientReducer *r) {
    // A reproducible order of the sum must not depend on how ZeRO shards it.
    bool sharded = r->buckets.zero && r->block == 0;
    double sum = 0;

    for (size_t i = 0; !sharded && i < m->tensors; i++) {
        const TensorView *view = &m->views[i];
        if (counts_once(&m->shard, view)) {
            sum += m->kernels->sum_of_squares(r->gradients + (view->data - m->parameters),
                                              tensor_elements(view));
        }
    }
    for (size_t i = 0; sharded && i < s->owned.count; i++) {
        const OwnedRange *range = &s->owned.items[i];
        if (counts_once(&m->shard, &m->views[range->tensor])) {
            sum += m->kernels->sum_of_squares(r->owned_gradients + range->offset,
                                              range->end - range->begin);
        }
    }
    return sqrt(model_all_reduce(w, sharded ? dp_all_reduce_double(w, sum) : sum));
}

// AdamW (Loshchilov and Hutter 2019) on all that this rank owns; matrices decay, vectors do not.
// grad_scale clips.
static void update(const Model *m, const TrainingState *s, const GradientReducer *r,
                   const Options *o, double lr, double grad_scale, uint64_t step) {
    for (size_t i = 0; i < s->owned.count; i++) {
        const OwnedRange *range = &s->owned.items[i];
        const TensorView *view = &m->views[range->tensor];
        float decay = view->dims == 2 ? (float)o->weight_decay : 0;
        m->kernels->adamw(owned_parameters(&r->buckets, range, view), s->exp_avg + range->offset,
                          s->exp_avg_sq + range->offset, r->owned_gradients + range->offset,
                          range->end - range->begin, (float)grad_scale, (float)lr, (float)o->beta1,
                          (float)o->beta2, (float)o->eps, decay, step);
    }
}

// =================================================================================================
// The training loop

typedef struct {
    const Options *options;
    World *world;
    TrainSetup setup;    // model, data, batch
    MemoryLedger memory; // all large arrays of what follows
    Model model;
    GradientReducer reducer;
    TrainingState state;
    Workspace workspace;
    SampleBatch batch;
    RunPosition position;
    RunRecord record; // what the log says of this run
    RunOutput output; // rank 0

    double start;                      // seconds_now() when the command began
    double longest_step, longest_save; // seconds, so far
    double step_seconds;               // of all steps since the start but the first one
    size_t steps_timed;
    bool stopped; // ahead of the step count, with a checkpoint

    // What the process had before the arrays, and what the plan said of its step.
    size_t base_memory, base_shared; // in all, and shared with other processes
    double planned_seconds;          // 0: there is no --machine to plan with
} Trainer;

// Sequences of a step that this data-parallel rank computes.
static size_t local_batch(const Trainer *t) {
    return t->setup.global_batch / (size_t)t->world->grid.dp;
}

// Reads this rank's rows of the next step: a contiguous block of the step's samples.
static bool read_batch(Trainer *t, size_t rows, Error *e) {
    const Options *o = t->options;
    const TrainSetup *s = &t->setup;
    uint64_t first = t->position.samples + (uint64_t)t->world->grid.dp_rank * rows;
    bool ok = true;
    for (size_t i = 0; i < rows && ok; i++) {
        SampleId id = mixture_order(&s->data, o->seed, o->shuffle, first + i);
        ok = batch_read_row(&t->batch, i, &s->data.items[id.dataset], id.sample,
                            s->config.vocab_size, e);
    }
    return ok;
}

// Collective: one step: gradients of the global batch, clipped, applied. A step whose loss or
// gradients are not finite changes nothing. False on all ranks, with the reason printed, if the
// data could not be read.
static bool train_step(Trainer *t, StepResult *s) {
    const Options *o = t->options;
    World *w = t->world;
    Error e;
    size_t rows = local_batch(t);
    double tokens = (double)t->setup.global_batch * (double)t->setup.seq_len;
    double start = seconds_now();

    w->comm_seconds = 0;
    if (!world_check(w, read_batch(t, rows, &e), &e)) {
        return false;
    }
    batch_hash_step(&t->batch, w, t->setup.global_batch, s->batch_hash);

    const Objective objective = {1 / (float)(t->setup.global_batch * t->setup.seq_len),
                                 (float)o->z_loss};
    LossSum loss = forward_backward(&t->model, w, &t->workspace, &t->reducer, t->batch.inputs,
                                    t->batch.targets, objective, rows / t->setup.micro_batch);
    s->loss = loss_mean(w, loss, tokens);
    s->grad_norm = gradient_norm(&t->model, w, &t->state, &t->reducer);
    s->lr = learning_rate(o, t->position.step + 1);
    s->skipped = !isfinite(s->loss) || !isfinite(s->grad_norm);

    if (!s->skipped) {
        bool clips = o->clip > 0 && s->grad_norm > o->clip;
        update(&t->model, &t->state, &t->reducer, o, s->lr, clips ? o->clip / s->grad_norm : 1,
               t->position.step + 1);
        buckets_begin_gather(w, &t->reducer.buckets);
        if (!o->overlap) {
            parameters_wait_all(&t->model, w);
        }
    }

    s->step = ++t->position.step;
    s->samples = t->position.samples += t->setup.global_batch;
    s->seconds = seconds_now() - start;
    s->comm_seconds = w->comm_seconds;
    return true;
}

// -------------------------------------------------------------------------------------------------
// Evaluation

// Collective: mean token loss of the first `count` samples of a dataset, distributed over the
// data-parallel ranks. False on all ranks, with the reason printed, on failure. batch: s->B rows.
static bool evaluate(World *w, const Model *m, Workspace *s, const Dataset *data, uint64_t count,
                     SampleBatch *batch, double *loss) {
    Error e;
    bool ok = true;
    LossSum sum = {0, 0};
    uint64_t rank = (uint64_t)w->grid.dp_rank, ranks = (uint64_t)w->grid.dp;
    uint64_t i = count * rank / ranks, end = count * (rank + 1) / ranks;

    while (i < end) {
        size_t rows = min_u64(end - i, s->B);
        // A rank that cannot read continues with what it has, so that no other rank waits for it.
        for (size_t row = 0; row < rows && ok; row++) {
            ok = batch_read_row(batch, row, data, i + row, m->config.vocab_size, &e);
        }
        Activations *a = micro_batch_forward(m, w, s, 0, batch->inputs, 0, rows, s->T);
        if (m->shard.last_stage) {
            classify(m, w, a, &s->classifier, NULL, NULL, batch->targets, (Objective){0},
                     rows * s->T);
            loss_add(&sum, a->losses, rows * s->T);
        }
        i += rows;
    }

    message_wait(w, &s->sent[0]);
    *loss = loss_mean(w, sum, (double)count * (double)s->T);
    return world_check(w, ok, &e);
}

// How many samples an eval of at most `most` takes; 0 means all there are.
static uint64_t eval_samples(const Dataset *data, uint64_t most) {
    return most == 0 ? data->samples : min_u64(most, data->samples);
}

// Collective: evaluate on each dataset by itself, on at most `most` samples; *mean is the mean of
// their losses by weight. losses: (data->count).
static bool evaluate_mixture(World *w, const Model *m, Workspace *s, const Mixture *data,
                             uint64_t most, SampleBatch *batch, double *losses, double *mean) {
    double sum = 0;
    for (size_t i = 0; i < data->count; i++) {
        const Dataset *d = &data->items[i];
        if (!evaluate(w, m, s, d, eval_samples(d, most), batch, &losses[i])) {
            return false;
        }
        sum += (double)data->weights[i] * losses[i];
    }
    *mean = sum / (double)data->period;
    return true;
}

// -------------------------------------------------------------------------------------------------
// Log, evals and checkpoints of a run

// Collective: validation loss at this step, printed and logged.
static bool run_eval(Trainer *t) {
    Error e = {0};
    const Mixture *val = &t->setup.val;
    double loss, losses[MIXTURE_DATASETS_MAX];
    uint64_t most = t->options->eval_batches * t->setup.global_batch;
    if (!evaluate_mixture(t->world, &t->model, &t->workspace, val, most, &t->batch, losses,
                          &loss)) {
        return false;
    }

    bool ok = true;
    if (t->world->rank == 0) {
        JsonWriter line = {0};
        log_write_eval(&line, t->position.step, val, loss, losses);
        ok = run_output_line(&t->output, &line, &e);
        console_print_eval(t->position.step, val, loss, losses);
    }
    return world_check(t->world, ok, &e);
}

// README.md of a checkpoint.
static bool write_model_card(TextBuffer *card, const Trainer *t, Error *e) {
    JsonWriter run = {0};
    log_write_run(&run, &t->record);
    bool ok = run.failed
                  ? fail(e, "no memory for the model card")
                  : model_card(card, &t->model.config, &t->output.history, run.data, run.length, e);
    free(run.data);
    return ok;
}

// Collective: OUT/step-NNNNNN. Rank 0 has the small files ready, with the log on disk. A checkpoint
// goes without a model card rather than not be saved.
static bool write_checkpoint(Trainer *t) {
    enum { CONFIG, GENERATION_CONFIG, STATE, CARD, FILES };
    Error e = {0};
    SmallFile files[FILES] = {{"config.json", {.indent = 2}},
                              {"generation_config.json", {.indent = 2}},
                              {"trainer_state.json", {.indent = 2}},
                              {"README.md", {0}}};
    size_t count = FILES;

    if (t->world->rank == 0) {
        t->position.log = run_output_mark(&t->output);
        config_write(&files[CONFIG].content, &t->model.config, DTYPE_F32);
        generation_config_write(&files[GENERATION_CONFIG].content, &t->model.config);
        trainer_state_write(&files[STATE].content, &t->record, t->position);
        for (size_t i = 0; i < CARD; i++) {
            json_append_text(&files[i].content, "\n");
        }
        if (!write_model_card(&files[CARD].content.text, t, &e)) {
            printf("warning: a checkpoint has no model card: %s\n", e.text);
            count = CARD;
        }
    }

    bool ok = state_save(&t->state, t->world, t->options->out, t->position.step, files, count,
                         t->setup.tokenizer);
    for (size_t i = 0; i < FILES; i++) {
        free(files[i].content.data);
    }
    return ok;
}

// Collective: saves a checkpoint. All data-parallel ranks must hold the same weights, or something
// is broken (a kernel, a network, a memory): then nothing is saved.
static bool save_checkpoint(Trainer *t) {
    Error e = {0};
    const Model *m = &t->model;
    double start = seconds_now();

    parameters_wait_all(m, t->world);
    double sum = m->kernels->sum_of_squares(m->parameters, m->parameter_count), low, high;
    MPI_Allreduce(&sum, &low, 1, MPI_DOUBLE, MPI_MIN, t->world->grid.dp_comm);
    MPI_Allreduce(&sum, &high, 1, MPI_DOUBLE, MPI_MAX, t->world->grid.dp_comm);
    bool ok = low == high ||
              fail(&e,
                   "weights differ between data-parallel ranks at step %zu: this state is not "
                   "saved, trust the last checkpoint",
                   t->position.step);
    if (!world_check(t->world, ok, &e) || !write_checkpoint(t)) {
        return false;
    }

    t->longest_save = fmax(t->longest_save, seconds_now() - start);
    if (t->world->rank == 0) {
        remove_old_checkpoints(t->options->out, t->options->keep, t->position.step);
        status_line_clear();
        printf("saved %s/step-%06zu\n", t->options->out, t->position.step);
    }
    return true;
}

// Collective: weights, optimizer state and position from the latest checkpoint, or from
// --resume-from; or weights from --init, or new.
static bool initialize_state(Trainer *t) {
    Error e = {0};
    World *w = t->world;
    const Options *o = t->options;
    const Model *m = &t->model;
    bool resumed = false;

    if (!world_check(w, w->rank != 0 || run_folder_claim(o->out, &e), &e) ||
        !run_resume(&t->state, w, &t->record, &t->position, &resumed)) {
        return false;
    }
    if (!resumed && o->resume_from) {
        if (!run_resume_from(&t->state, w, &t->record, &t->position)) {
            return false;
        }
    } else if (!resumed && o->init) {
        bool ok = checkpoint_verify_together(w, o->init, false, &e) &&
                  weights_load(o->init, &m->config, m->views, m->tensors, &e);
        if (!world_check(w, ok, &e)) {
            return false;
        }
    } else if (!resumed) {
        float std = (float)(o->init_std > 0 ? o->init_std : INIT_STD);
        weights_initialize(&m->config, o->seed, std, m->views, m->tensors);
    }
    reducer_set_masters(&t->reducer, m->parameters);

    t->record.from_step = t->position.step;
    bool ok = true;
    if (w->rank == 0) {
        ok = run_output_open(&t->output, &t->record, resumed, &t->position.log, &e);
    }
    if (!world_check(w, ok, &e)) {
        return false;
    }
    if (w->rank == 0 && resumed) {
        printf("resumed from %s/step-%06zu\n", o->out, t->position.step);
    }
    return true;
}

// -------------------------------------------------------------------------------------------------
// The loop itself

static bool eval_is_due(const Trainer *t, size_t step) {
    const Options *o = t->options;
    return t->setup.val.count > 0 && o->eval_every > 0 &&
           (step % o->eval_every == 0 || step == o->steps);
}

// Whether --time-limit leaves no room for one more step, its eval and a save after it. A batch of
// an eval takes less than a step. A save takes as long as the longest so far; before the first one,
// 100 MB/s for the model and AdamW's state. Twice that, as one may be due right now.
static bool time_is_up(const Trainer *t) {
    const Options *o = t->options;
    double left = o->time_limit - (seconds_now() - t->start), steps = 1;
    double save = t->longest_save > 0 ? t->longest_save
                                      : 3 * sizeof(float) * (double)t->model.all_parameters / 100e6;
    for (size_t i = 0; eval_is_due(t, t->position.step + 1) && i < t->setup.val.count; i++) {
        uint64_t samples =
            eval_samples(&t->setup.val.items[i], o->eval_batches * t->setup.global_batch);
        steps += ceil((double)samples / (double)t->setup.global_batch);
    }
    return o->time_limit > 0 && left < steps * t->longest_step + 2 * save;
}

// Collective: whether any rank must stop here; rank 0 says why.
static bool should_stop(const Trainer *t) {
    enum { NO, TIME, SIGNAL }; // the largest of all ranks' counts
    int stop = world_max(t->world, stop_was_requested() ? SIGNAL : time_is_up(t) ? TIME : NO);
    if (t->world->rank == 0 && stop != NO) {
        status_line_clear();
        printf("stops at step %zu/%zu: %s; the same command resumes from here\n", t->position.step,
               t->options->steps,
               stop == SIGNAL ? "a signal was received" : "the time limit is near");
    }
    return stop != NO;
}

// After a step, on rank 0: times it, logs it, prints it.
static bool record_step(Trainer *t, const StepResult *s, double loop_start, Error *e) {
    size_t done = t->position.step - t->record.from_step;
    t->longest_step = fmax(t->longest_step, s->seconds);
    if (done > 1) { // the first step also touches memory for the first time
        t->step_seconds += s->seconds;
        t->steps_timed++;
    }
    if (t->world->rank != 0) {
        return true;
    }

    JsonWriter line = {0};
    log_write_step(&line, &t->record, s);
    bool ok = run_output_line(&t->output, &line, e);

    double per_step = (seconds_now() - loop_start) / (double)done;
    double left = per_step * (double)(t->options->steps - t->position.step);
    console_print_step(&t->record, s, left);
    return ok;
}

// Collective: at least one step, then on to the step count, or to an early stop with a checkpoint.
static bool train_loop(Trainer *t) {
    const Options *o = t->options;
    Error e = {0};
    double start = seconds_now();
    if (t->position.step == 0 && eval_is_due(t, 0) && !run_eval(t)) {
        return false;
    }

    while (t->position.step < o->steps && !t->stopped) {
        StepResult s;
        if (!train_step(t, &s) || !world_check(t->world, record_step(t, &s, start, &e), &e)) {
            return false;
        }
        if (eval_is_due(t, t->position.step) && !run_eval(t)) {
            return false;
        }

        bool last = t->position.step == o->steps;
        t->stopped = o->save_every > 0 && !last && should_stop(t);
        bool save_is_due = t->position.step % (o->save_every ? o->save_every : 1) == 0;
        if (o->save_every > 0 && (save_is_due || last || t->stopped) && !save_checkpoint(t)) {
            return false;
        }
    }
    // A rank must not leave while others still gather its parameters.
    parameters_wait_all(&t->model, t->world);
    return true;
}

// =================================================================================================
// Command: train

static const Kernels *kernels_of(const Options *o) {
    return o->kernels == KERNELS_REF ? &kernels_ref : &kernels_sve;
}

// The shard of the model that this rank holds.
static ModelShard shard_of_rank(const ModelConfig *c, const Grid *g) {
    return shard_of(c, (size_t)g->tp, (size_t)g->tp_rank, (size_t)g->pp, (size_t)g->stage);
}

static Keep keep_on_stage(const Options *o, const Grid *g) {
    bool recompute = o->recompute == RECOMPUTE_LAYER &&
                     (o->recompute_stages == 0 || (uint64_t)g->stage < o->recompute_stages);
    return recompute ? KEEP_INPUTS : KEEP_ALL;
}

// The reducer of the gradients, in buckets that end where backward completes a layer.
static bool create_reducer(Trainer *t, bool zero, Error *e) {
    Model *m = &t->model;
    GradientReducer *r = &t->reducer;
    size_t layers = m->shard.layers, count = 0, previous = SIZE_MAX;
    size_t *cuts = malloc((1 + layers) * sizeof *cuts);
    if (!cuts) {
        return fail(e, "no memory for the cuts between %zu layers", layers);
    }
    for (size_t i = 0; i < m->tensors; i++) { // before the blocks and after them: SIZE_MAX
        size_t block = m->views[i].block;
        if (i == 0 || (block != previous && block != SIZE_MAX)) {
            cuts[count++] = (size_t)(m->views[i].data - m->parameters);
        }
        previous = block;
    }

    bool ok = reducer_create(r, &t->memory, m->parameters, cuts, count, zero, t->options,
                             t->setup.global_batch / t->setup.micro_batch, e);
    free(cuts);
    m->gathering = zero ? &r->buckets : NULL;
    return ok && (weights_point_into(&m->config, &m->shard, m->views, m->tensors, r->gradients,
                                     &r->weights) ||
                  fail(e, "no memory for the gradients of %zu layers", layers));
}

// MPI's own buffers, which are only counted.
static bool note_mpi_buffers(Trainer *t, Error *e) {
    const ModelShard *shard = &t->model.shard;
    size_t C = t->model.config.channels, R = t->setup.micro_batch * t->setup.seq_len;
    size_t embedding = t->model.config.tied ? shard->vocab.count * C : 0;
    size_t n = mpi_buffer_floats(&t->world->grid, shard, &t->reducer, R * C, embedding);
    return ledger_note(&t->memory, "MPI buffers", n * sizeof(float), NULL, e);
}

// Collective: model, gradients, optimizer and activations, all zero. With t->memory.planned they
// are only counted. threads: of this rank.
static bool training_allocate(Trainer *t, size_t threads, Error *e) {
    const ModelConfig *c = &t->setup.config;
    const Grid *g = &t->world->grid;
    const Options *o = t->options;
    size_t B = t->setup.micro_batch, T = t->setup.seq_len, rows = local_batch(t);
    ModelShard shard = shard_of_rank(c, g);
    bool zero = o->zero && g->dp > 1;

    if (!t->memory.planned) {
        grid_share_kv_heads(&t->world->grid, shard.kv_copies);
    }

    return reducer_share_memory(&t->reducer, &t->memory, t->world, shard_parameters(c, &shard),
                                zero, o->share_memory, e) &&
           model_create(&t->model, &t->memory, c, &shard, kernels_of(o), o->precision, T,
                        t->reducer.shared_parameters.mine, e) &&
           workspace_create(&t->workspace, &t->memory, c, &shard,
                            activation_sets_needed(g, rows / B), B, T, keep_on_stage(o, g), e) &&
           batch_create(&t->batch, &t->memory, rows,
                        t->world->rank == 0 ? t->setup.global_batch : rows, T, e) &&
           create_reducer(t, zero, e) &&
           training_state_create(&t->state, &t->memory, &t->model, &t->reducer.buckets, e) &&
           packing_reserve(&t->memory, t->model.kernels, c, &shard, o->precision, B, T, threads,
                           e) &&
           note_mpi_buffers(t, e);
}

static void training_free(Trainer *t) {
    run_output_close(&t->output);
    mixture_close(&t->setup.data);
    mixture_close(&t->setup.val);
    model_free(&t->model);
    workspace_free(&t->workspace);
    reducer_free(&t->reducer, t->world);
    free(t->state.owned.items);
    ledger_free(&t->memory);
}

// Collective, at the end: the plan of memory and time against what was measured, printed and
// logged.
static bool log_plan(Trainer *t) {
    Error e = {0};
    const GradientReducer *r = &t->reducer;
    bool ok = true;
    if (t->position.step == t->record.from_step) {
        return true; // a run that was complete
    }

    double peak =
        measured_peak(r->shared_gradients.bytes + r->shared_parameters.bytes, t->base_shared);
    PlanResult result = plan_result(t->world, t->base_memory, ledger_total(&t->memory), peak);
    result.planned_seconds = t->planned_seconds;
    result.measured_seconds = t->steps_timed ? t->step_seconds / (double)t->steps_timed : 0;
    if (t->world->rank == 0) {
        JsonWriter line = {0};
        log_write_plan(&line, t->position.step, &result);
        ok = run_output_line(&t->output, &line, &e);
        plan_result_print(&result);
    }
    return world_check(t->world, ok, &e);
}

static RunRecord run_record(const Trainer *t, double peak_flops) {
    return (RunRecord){.options = t->options,
                       .world = t->world,
                       .config = &t->setup.config,
                       .kernels = t->model.kernels->name,
                       .data = &t->setup.data,
                       .val = &t->setup.val,
                       .parameters = t->model.all_parameters,
                       .seq_len = t->setup.seq_len,
                       .global_batch = t->setup.global_batch,
                       .peak_flops = peak_flops};
}

// What the allocation came to, for the planner.
static bool count_allocation(const Trainer *t, StageCount *count, Error *e) {
    *count = (StageCount){.shard = t->model.shard,
                          .parameters = t->model.parameter_count,
                          .owned = t->reducer.buckets.owned,
                          .bucket_count = t->reducer.buckets.count,
                          .zero = t->reducer.buckets.zero,
                          .recompute = t->workspace.keep == KEEP_INPUTS,
                          .peers = (size_t)t->reducer.peers.peers,
                          .nodes = (size_t)t->reducer.peers.nodes,
                          .tree_block = t->reducer.block};
    return ledger_by_kind(&t->memory, &count->memory, e);
}

// What trains a planned run, or counts it.
static Trainer planned_trainer(const PlannedRun *run, World *world) {
    return (Trainer){.options = &run->options,
                     .world = world,
                     .setup = {.config = run->config,
                               .seq_len = run->T,
                               .micro_batch = run->B,
                               .global_batch = run->global_batch}};
}

// A stage of a planned run, counted by the code that allocates it.
static bool count_stage(const PlannedRun *run, size_t stage, StageCount *count, Error *e) {
    World world = planned_world(run, stage);
    Trainer t = planned_trainer(run, &world);
    t.memory.planned = true;
    bool ok = training_allocate(&t, run->threads, e) && count_allocation(&t, count, e);
    training_free(&t);
    return ok;
}

// Collective: the planned time of this run's step, if there is a --machine to plan with.
static bool plan_own_step(Trainer *t) {
    Error e = {0};
    const TrainSetup *s = &t->setup;
    const Grid *g = &t->world->grid;
    PlannedRun run = {.config = s->config,
                      .options = *t->options,
                      .tp = (size_t)g->tp,
                      .pp = (size_t)g->pp,
                      .dp = (size_t)g->dp,
                      .per_node = (size_t)t->world->node_size,
                      .threads = (size_t)omp_get_max_threads(),
                      .B = s->micro_batch,
                      .T = s->seq_len,
                      .global_batch = s->global_batch};
    bool ok = t->world->rank != 0 || !t->options->machine ||
              planned_step_seconds(&run, t->options->machine, count_stage, &t->planned_seconds, &e);
    return world_check(t->world, ok, &e);
}

static int command_train(World *w, const Options *o) {
    Error e = {0};
    Trainer t = {.options = o, .world = w, .start = seconds_now()};

    bool ok = world_make_grid(w, o->tp, o->pp, &e) && train_check_options(o, w->size, &e);
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    if (o->save_every > 0) {
        stop_catch_signals();
    }
    Placement placement = placement_bind(w, o->bind);

    ok = world_check(w, train_setup(&t.setup, o, &w->grid, &e), &e);
    bool verify = w->rank == 0 && o->verify_data;
    ok = ok &&
         world_check(
             w, !verify || (mixture_verify(&t.setup.data, &e) && mixture_verify(&t.setup.val, &e)),
             &e);

    t.base_memory = process_memory("VmRSS");
    t.base_shared = process_memory("RssShmem");
    size_t threads = (size_t)omp_get_max_threads();
    ok = ok && world_check(w, training_allocate(&t, threads, &e), &e) && plan_own_step(&t);
    if (ok) {
        placement_sample_memory(&placement, t.model.parameters,
                                t.model.parameter_count * sizeof(float));
        placement_print(w, placement, stdout);
        t.record = run_record(&t, measure_peak_flops(o->precision, MPI_COMM_WORLD));
        ok = initialize_state(&t);
    }
    if (ok && w->rank == 0) {
        console_print_configuration(&t.record);
    }

    ok = ok && train_loop(&t) && log_plan(&t);
    training_free(&t);
    return !ok ? EXIT_FAILURE : t.stopped ? EXIT_STOPPED : EXIT_SUCCESS;
}

// =================================================================================================
// Command: eval

// Collective: verifies a model, each rank some of its files, and loads each rank's shard, for
// sequences of *T tokens: as --seq-len says, else as many as the model has positions.
static bool load_model(World *w, const Options *o, Model *m, MemoryLedger *memory, size_t *T) {
    Error e = {0};
    ModelConfig config;
    const char *directory = o->checkpoint;
    bool ok = model_config_load(directory, &config, &e) &&
              grid_fits(&config, (size_t)w->grid.tp, (size_t)w->grid.pp, &e);
    ModelShard shard = ok ? shard_of_rank(&config, &w->grid) : (ModelShard){0};
    *T = ok && !o->seq_len ? config.seq_len : o->seq_len;
    ok = ok &&
         (*T <= config.seq_len || fail(&e, "--seq-len %zu is more than the %zu positions of %s", *T,
                                       config.seq_len, directory)) &&
         model_create(m, memory, &config, &shard, kernels_of(o), o->precision, *T, NULL, &e);
    if (!world_check(w, ok, &e)) {
        return false;
    }

    ok = checkpoint_verify_together(w, directory, false, &e) &&
         weights_load(directory, &m->config, m->views, m->tensors, &e);
    return world_check(w, ok, &e);
}

// A model that is only run forward.
typedef struct {
    MemoryLedger memory;
    Model model;
    Workspace workspace; // for micro-batches of B sequences of T tokens
} Inference;

// Collective: loads the model of --checkpoint, to be run on B sequences at a time.
static bool inference_open(Inference *i, World *w, const Options *o, size_t B) {
    Error e = {0};
    const Model *m = &i->model;
    size_t T;
    if (!load_model(w, o, &i->model, &i->memory, &T)) {
        return false;
    }
    bool ok = workspace_create(&i->workspace, &i->memory, &m->config, &m->shard, 1, B, T,
                               KEEP_CACHE, &e) &&
              packing_reserve(&i->memory, m->kernels, &m->config, &m->shard, m->precision, B, T,
                              (size_t)omp_get_max_threads(), &e);
    return world_check(w, ok, &e);
}

static void inference_close(Inference *i) {
    workspace_free(&i->workspace);
    model_free(&i->model);
    ledger_free(&i->memory);
}

static int command_eval(World *w, const Options *o) {
    Error e = {0};
    Inference run = {0};
    Mixture data = {0};
    SampleBatch batch;
    double loss, losses[MIXTURE_DATASETS_MAX];
    const TextList *paths = o->val_data.count > 0 ? &o->val_data : &o->data;

    bool ok = ((o->checkpoint && paths->count) ||
               fail(&e, "eval needs %s", paths->count ? "--checkpoint DIR" : "--data PATH")) &&
              world_make_grid(w, o->tp, o->pp, &e);
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    placement_bind(w, o->bind);

    ok = inference_open(&run, w, o, o->micro_batch);
    if (ok) {
        size_t T = run.workspace.T;
        ok = batch_create(&batch, &run.memory, o->micro_batch, 0, T, &e) &&
             mixture_open(&data, paths->items, paths->count, "val", T, &e) &&
             (w->rank != 0 || !o->verify_data || mixture_verify(&data, &e));
        ok = world_check(w, ok, &e) &&
             evaluate_mixture(w, &run.model, &run.workspace, &data, 0, &batch, losses, &loss);
        if (ok && w->rank == 0) {
            console_print_eval_result(&data, T, losses, loss);
        }
    }

    mixture_close(&data);
    inference_close(&run);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

// =================================================================================================
// Command: generate

typedef struct {
    const Options *options;
    World *world;
    Inference run;         // of one sequence; it has the key-value cache
    float *logits;         // (V)
    Candidate *candidates; // (V)
    Generation text;
} Generator;

// Collective over the ranks of a model: g->logits (V) of the token after ids (count) on the last
// stage. The first `cached` rows are in the cache.
static void next_logits(Generator *g, const int32_t *ids, size_t cached, size_t count) {
    const Model *m = &g->run.model;
    const VocabShard vocab = m->shard.vocab;
    size_t C = m->config.channels, V = m->config.vocab_size;

    Activations *a = micro_batch_forward(m, g->world, &g->run.workspace, 0, ids, cached, 1, count);
    if (!m->shard.last_stage) {
        return;
    }

    memset(g->logits, 0, V * sizeof *g->logits);
    m->kernels->logits_forward(g->logits + vocab.first, a->norm.out + (count - 1) * C,
                               m->weights.head, m->precision, 1, C, vocab.count);
    tp_all_reduce(g->world, g->logits, V);
}

// Draws the token after ids on the last stage, and tells the other stages.
static int32_t next_token(void *context, const int32_t *ids, size_t cached, size_t count,
                          uint64_t i) {
    Generator *g = context;
    const Options *o = g->options;
    int32_t token = -1;

    next_logits(g, ids, cached, count);
    if (g->run.model.shard.last_stage) {
        Sampling sampling = {o->temperature, o->top_k, o->top_p};
        double draw = random_uniform(o->seed, RANDOM_FREE, i);
        token =
            sample_token(g->logits, g->run.model.config.vocab_size, sampling, draw, g->candidates);
        token = isfinite(g->logits[token]) ? token : -1;
    }
    last_stage_broadcast(g->world, &token, sizeof token);
    return token;
}

static bool generator_create(Generator *g, Error *e) {
    const ModelConfig *c = &g->run.model.config;
    g->logits = ledger_floats(&g->run.memory, "logits", c->vocab_size, e);
    g->candidates =
        ledger_bytes(&g->run.memory, "logits", c->vocab_size * sizeof *g->candidates, e);
    return g->logits && g->candidates &&
           generation_create(&g->text, g->options, c, g->world->rank == 0, e);
}

static int command_generate(World *w, const Options *o) {
    Error e = {0};
    Generator g = {.options = o, .world = w};
    bool ok = (o->checkpoint || fail(&e, "generate needs --checkpoint DIR")) &&
              world_make_grid(w, o->tp, o->pp, &e);
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    placement_bind(w, o->bind);

    ok = inference_open(&g.run, w, o, 1) && world_check(w, generator_create(&g, &e), &e);
    if (ok) {
        if (w->rank == 0) {
            printf("%s", o->prompt);
        }
        // One sequence is the work of one data-parallel rank.
        bool generated =
            w->grid.dp_rank != 0 || generation_run(&g.text, g.run.workspace.T, next_token, &g, &e);
        message_wait(w, &g.run.workspace.sent[0]);
        ok = world_check(w, generated, &e);
    }
    generation_free(&g.text);
    inference_close(&g.run);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

// =================================================================================================
// Commands: kernels, plan

// Hashes `steps` training steps of a small model; the hash of all 20 must be `golden`.
static bool golden_run(const GoldenModel *golden, Precision precision, uint64_t steps, Error *e) {
    enum { VOCAB = GOLDEN_VOCAB, T = GOLDEN_T };
    const Options o = {
        .precision = precision, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    World alone = {.size = 1, .grid = grid_alone()};
    Trainer t = {
        .options = &o,
        .world = &alone,
        .setup = {.config = golden->config, .seq_len = T, .micro_batch = 1, .global_batch = 1}};
    int32_t tokens[T], targets[T];
    char hex[SHA256_HEX];
    Sha256 hash;

    if (!training_allocate(&t, (size_t)omp_get_max_threads(), e)) {
        training_free(&t);
        return false;
    }
    weights_initialize(&t.model.config, 1, 0.05f, t.model.views, t.model.tensors);

    sha256_begin(&hash);
    for (uint64_t step = 1; step <= steps; step++) {
        for (size_t r = 0; r < T; r++) {
            tokens[r] = (int32_t)(random_bits(1, step, r) % VOCAB);
            targets[r] = (tokens[r] * 7 + 3) % VOCAB; // a rule that can be learned
        }
        forward_backward(&t.model, &alone, &t.workspace, &t.reducer, tokens, targets,
                         (Objective){1 / (float)T, 0}, 1);
        double norm = gradient_norm(&t.model, &alone, &t.state, &t.reducer);
        update(&t.model, &t.state, &t.reducer, &o, 3e-3, norm > 1 ? 1 / norm : 1, step);
        sha256_add(&hash, t.workspace.sets[0].losses, T * sizeof(float));
    }
    sha256_add(&hash, t.model.parameters, t.model.parameter_count * sizeof(float));
    sha256_end(&hash, hex);
    training_free(&t);

    printf("golden run of %s: %s, %llu steps, vectors of %zu bits, %d threads\n",
           golden->config.family->name, hex, (unsigned long long)steps, 32 * (size_t)svcntw(),
           omp_get_max_threads());
    return steps < GOLDEN_STEPS || !strcmp(hex, golden->hash[precision]) ||
           fail(e,
                "golden hash mismatch: not bit-identical to %s; this machine or compiler does "
                "not compute as others do",
                golden->hash[precision]);
}

static int command_kernels(World *w, const Options *o) {
    Error e = {0};
    const Precision p = (Precision)o->precision;
    bool ok =
        o->check || o->bench || o->golden || fail(&e, "kernels needs --check, --bench or --golden");
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    placement_bind(w, o->bind);
    if (w->rank == 0) {
        ok = (!o->check || check_kernels(o->only, p, &e)) &&
             (!o->bench || bench_kernels(o->only, p, measure_peak_flops(p, MPI_COMM_SELF), &e)) &&
             (!o->golden || golden_known(o->only, &e));
        for (size_t i = 0; ok && o->golden && i < GOLDEN_MODELS; i++) {
            ok = !golden_named(i, o->only) || golden_run(&golden_models[i], p, o->golden_steps, &e);
        }
    }
    return world_check_root(w, ok, &e) ? EXIT_SUCCESS : EXIT_FAILURE;
}

// What plan --measure times: a model of one layer, alone with its tensor-parallel ranks.

static void measured_backward(void *layer) {
    Trainer *t = layer;
    Activations *a = &t->workspace.sets[0];
    layer_backward(&t->model, t->world, 0, &t->reducer.weights.layers[0], &a->layers[0],
                   &t->workspace.backward, a->stream, t->setup.micro_batch, t->setup.seq_len);
}

static void measured_block(void *layer) {
    Trainer *t = layer;
    Activations *a = &t->workspace.sets[0];
    layer_forward(&t->model, t->world, 0, &a->layers[0], a->stream, 0, t->setup.micro_batch,
                  t->setup.seq_len, false);
    measured_backward(layer);
}

static void measured_classifier(void *layer) {
    Trainer *t = layer;
    classify(&t->model, t->world, &t->workspace.sets[0], &t->workspace.classifier,
             t->workspace.backward.branch, t->reducer.weights.head, t->batch.targets,
             (Objective){1, 0}, t->setup.micro_batch * t->setup.seq_len);
}

static void measured_layer_close(void *layer) {
    training_free(layer);
    free(layer);
}

static void *measured_layer_open(World *w, const PlannedRun *run, StageCount *count, Error *e) {
    Trainer *t = malloc(sizeof *t);
    if (!t) {
        fail(e, "no memory to measure a layer");
        return NULL;
    }
    *t = planned_trainer(run, w);
    if (!training_allocate(t, (size_t)omp_get_max_threads(), e) || !count_allocation(t, count, e)) {
        measured_layer_close(t);
        return NULL;
    }
    weights_initialize(&t->model.config, 1, 0.02f, t->model.views, t->model.tensors);
    return t;
}

static int command_plan(World *w, const Options *o) {
    static const MeasureCallbacks measure = {measured_layer_open, measured_block, measured_backward,
                                             measured_classifier, measured_layer_close};
    return plan_command(w, o, count_stage, &measure);
}

// =================================================================================================
// The command line

static const Command commands[] = {
    {"prepare", "turns text into token shards with provenance; trains or loads a tokenizer",
     "train_gpt prepare --input books/ --out data --vocab-size 32000", PREPARE, prepare_command},
    {"train", "trains a model, or resumes a run",
     "mpirun -n 4 train_gpt train --data data --out run --model 124m", TRAIN, command_train},
    {"eval", "loss and perplexity of a checkpoint on validation data",
     "train_gpt eval --checkpoint run/step-001000 --data data", EVAL, command_eval},
    {"generate", "continues a prompt",
     "train_gpt generate --checkpoint run/step-001000 --prompt \"Once upon a time\"", GENERATE,
     command_generate},
    {"export", "writes a model for the Hugging Face hub",
     "train_gpt export --checkpoint run/step-001000 --out model --dtype bf16", EXPORT,
     export_command},
    {"trace", "from a step to its documents, from a document to its steps, from a text to the data",
     "train_gpt trace --run run --step 1000 --row 0", TRACE, trace_command},
    {"kernels", "compares the fast kernels with the reference, times them, certifies a machine",
     "train_gpt kernels --check", KERNELS, command_kernels},
    {"plan", "memory, traffic and time of a run before it is submitted; measures a machine",
     "train_gpt plan --search --model 13b --nodes 288 --machine fugaku --global-batch 1152",
     PLAN | TRAIN, command_plan},
    {"report", "one HTML page with the charts of one or more runs",
     "train_gpt report --run run --out run.html", REPORT, report_command},
};

int main(int argc, char **argv) {
    World world;
    flush_denormals(); // before any thread is started
    world_init(&world, &argc, &argv);
    setvbuf(stdout, NULL, _IOLBF, 0); // a line at a time, also into a pipe
    int status = command_line_run(&world, commands, sizeof commands / sizeof *commands, argc, argv);
    world_finalize(&world);
    return status;
}
