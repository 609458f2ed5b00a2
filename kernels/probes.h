// probes.h: calls of every kernel on made-up arrays. A probe is one line of the table `probes`:
// what the check compares and the benchmark times.
#ifndef KERNELS_PROBES_H
#define KERNELS_PROBES_H

#include <float.h>

#include "kernels/rope_table.h" // defines: rope_table
#include "kernels_ref.h"        // defines: Kernels, kernels_ref
#include "util/error.h"
#include "util/memory.h" // defines: allocate_floats
#include "util/random.h" // defines: random_bits

typedef struct {
    size_t B, T, C, H, V, O; // O: output channels of a matrix product, hidden channels of SwiGLU
    size_t G, D;             // KV heads, channels of a head
    Precision precision;     // of matrix products
} Shape;

enum { PROBE_ARRAYS = 9 };

// Calls a kernel of table k on the arrays x of a probe. tokens: (R), R = B * T
typedef void (*KernelRun)(const Kernels *k, float **x, const int32_t *tokens, const Shape *s,
                          size_t R);

// Sizes are products of the letters B T C H V O G D, R = B T, W = (H + 2 G) D (a row of q, k and
// v), K = CLASSIFIER_ROWS, and digits.
typedef struct {
    const char *name;
    int outputs;                      // how many of the arrays it writes: the first ones
    int exact;                        // how many of those are equal bit for bit in FP16
    const char *arrays[PROBE_ARRAYS]; // their sizes
    const char *sum;                  // length of its longest sum
    const char *work;  // operations, or floats moved to and from memory; NULL: not timed
    bool bytes;        // work counts floats moved; otherwise it is a matrix product
    KernelRun prepare; // makes random arrays consistent, with the reference; may be NULL
    KernelRun run;
} KernelProbe;

static inline size_t product_of(const char *letters, const Shape *s) {
    size_t product = 1;
    for (; *letters; letters++) {
        const struct {
            char letter;
            size_t value;
        } sizes[] = {{'B', s->B},           {'T', s->T},
                     {'C', s->C},           {'H', s->H},
                     {'V', s->V},           {'O', s->O},
                     {'G', s->G},           {'D', s->D},
                     {'R', s->B * s->T},    {'W', (s->H + 2 * s->G) * s->D},
                     {'K', CLASSIFIER_ROWS}};
        size_t factor = (size_t)(*letters - '0');
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            factor = *letters == sizes[i].letter ? sizes[i].value : factor;
        }
        product *= factor;
    }
    return product;
}

#define UNUSED __attribute__((unused)) // by most of them
#define RUN(name)                                                                                  \
    static inline void name(UNUSED const Kernels *k, float **x, UNUSED const int32_t *tokens,      \
                            const Shape *s, UNUSED size_t R)

RUN(run_embedding_forward) {
    k->embedding_forward(x[0], tokens, x[1], x[2], (VocabShard){0, s->V}, 0, s->B, s->T, s->C);
}

RUN(run_embedding_backward) {
    k->embedding_backward(x[0], x[1], x[2], tokens, (VocabShard){0, s->V}, s->B, s->T, s->C);
}

// The second half of the vocabulary without positions: a TP rank above 0.
RUN(run_embedding_forward_shard) {
    const VocabShard vocab = {s->V / 2, s->V - s->V / 2};
    k->embedding_forward(x[0], tokens, x[1] + vocab.first * s->C, NULL, vocab, 0, s->B, s->T, s->C);
}

RUN(run_embedding_backward_shard) {
    const VocabShard vocab = {s->V / 2, s->V - s->V / 2};
    k->embedding_backward(x[0] + vocab.first * s->C, NULL, x[1], tokens, vocab, s->B, s->T, s->C);
}

static const float norm_eps = 1e-5f;

RUN(run_layernorm_forward) {
    k->layernorm_forward(x[0], x[1], x[2], x[3], x[4], x[5], norm_eps, R, s->C);
}

RUN(run_layernorm_backward) {
    k->layernorm_backward(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], R, s->C);
}

// mean and rstd of the input; out goes to x[8], which is not read.
RUN(prepare_layernorm_backward) {
    k->layernorm_forward(x[8], x[6], x[7], x[4], x[5], x[5], norm_eps, R, s->C);
}

RUN(run_rmsnorm_forward) {
    k->rmsnorm_forward(x[0], x[1], x[2], x[3], norm_eps, R, s->C);
}

RUN(run_rmsnorm_backward) {
    k->rmsnorm_backward(x[0], x[1], x[2], x[3], x[4], x[5], R, s->C);
}

// rstd of the input; out goes to x[6], which is not read.
RUN(prepare_rmsnorm_backward) {
    k->rmsnorm_forward(x[6], x[5], x[3], x[4], norm_eps, R, s->C);
}

static inline size_t qkv_row(const Shape *s) {
    return (s->H + 2 * s->G) * s->D;
}

RUN(run_head_norm_forward) {
    k->head_norm_forward(x[0], x[1], x[2], x[3], norm_eps, qkv_row(s), R, s->H, s->D);
}

RUN(run_head_norm_backward) {
    k->head_norm_backward(x[0], x[1], x[2], x[3], x[4], qkv_row(s), R, s->H, s->D);
}

// rstd of each head; out goes to x[5], which is not read.
RUN(prepare_head_norm_backward) {
    k->rmsnorm_forward(x[5], x[4], x[2], x[3], norm_eps, R * s->H, s->D);
}

enum { ROPE_FIRST = 3 }; // the position of row 0

RUN(run_rope) {
    k->rope(x[0], x[1], qkv_row(s), ROPE_FIRST, s->B, s->T, s->H, s->D, false);
}

RUN(run_rope_inverse) {
    k->rope(x[0], x[1], qkv_row(s), ROPE_FIRST, s->B, s->T, s->H, s->D, true);
}

// x[1] has room for 4 T positions.
RUN(prepare_rope) {
    rope_table(x[1], s->T + ROPE_FIRST, s->D, 10000, 1, 1, 1, 1);
}

RUN(run_swiglu_forward) {
    k->swiglu_forward(x[0], x[1], R, s->O);
}

RUN(run_swiglu_backward) {
    k->swiglu_backward(x[0], x[1], x[2], R, s->O);
}

RUN(run_matmul_forward) {
    k->matmul_forward(x[0], x[1], x[2], x[3], x[4], IN_OUT, s->precision, R, s->C, s->O);
}

RUN(run_matmul_forward_out_in) {
    k->matmul_forward(x[0], x[1], x[2], x[3], x[4], OUT_IN, s->precision, R, s->C, s->O);
}

// On TP ranks above 0 neither bias nor residual is added.
RUN(run_matmul_forward_no_bias) {
    k->matmul_forward(x[0], x[1], x[2], NULL, NULL, IN_OUT, s->precision, R, s->C, s->O);
}

#define RUN_ACTIVATION(name, activation)                                                           \
    RUN(run_matmul_##name##_forward) {                                                             \
        k->matmul_activation_forward(x[0], x[1], x[2], x[3], x[4], activation, s->precision, R,    \
                                     s->C, s->O);                                                  \
    }                                                                                              \
    RUN(run_matmul_##name##_backward_input) {                                                      \
        k->matmul_backward_input(x[0], x[1], x[2], x[3], activation, IN_OUT, s->precision, R,      \
                                 s->C, s->O);                                                      \
    }

RUN_ACTIVATION(gelu_tanh, ACTIVATION_GELU_TANH)
RUN_ACTIVATION(gelu, ACTIVATION_GELU)
RUN_ACTIVATION(relu, ACTIVATION_RELU)

RUN(run_matmul_backward_input) {
    k->matmul_backward_input(x[0], x[1], x[2], NULL, ACTIVATION_NONE, IN_OUT, s->precision, R, s->C,
                             s->O);
}

RUN(run_matmul_backward_input_out_in) {
    k->matmul_backward_input(x[0], x[1], x[2], NULL, ACTIVATION_NONE, OUT_IN, s->precision, R, s->C,
                             s->O);
}

RUN(run_matmul_backward_weight) {
    k->matmul_backward_weight(x[0], x[1], x[2], x[3], IN_OUT, s->precision, R, s->C, s->O);
}

RUN(run_matmul_backward_weight_out_in) {
    k->matmul_backward_weight(x[0], x[1], x[2], x[3], OUT_IN, s->precision, R, s->C, s->O);
}

RUN(run_matmul_backward_weight_no_bias) {
    k->matmul_backward_weight(x[0], NULL, x[1], x[2], IN_OUT, s->precision, R, s->C, s->O);
}

// q, k and v of a row side by side
static inline AttentionShape attention_shape(const Shape *s) {
    return (AttentionShape){.heads = s->H,
                            .kv_heads = s->G,
                            .head_dim = s->D,
                            .q_row = qkv_row(s),
                            .kv_row = qkv_row(s),
                            .scale = 1 / sqrtf((float)s->D)};
}

RUN(run_attention_forward) {
    const AttentionShape shape = attention_shape(s);
    const float *q = x[2], *key = q + s->H * s->D, *value = key + s->G * s->D;
    k->attention_forward(x[0], x[1], q, key, value, &shape, s->precision, 0, s->B, s->T);
}

RUN(run_attention_backward) {
    const AttentionShape shape = attention_shape(s);
    const float *q = x[3], *key = q + s->H * s->D, *value = key + s->G * s->D;
    float *dq = x[0], *dk = dq + s->H * s->D, *dv = dk + s->G * s->D;
    k->attention_backward(dq, dk, dv, x[1], x[2], q, key, value, x[4], &shape, s->precision, s->B,
                          s->T);
}

RUN(prepare_attention_backward) {
    float *forward[] = {x[2], x[4], x[3]};
    run_attention_forward(k, forward, tokens, s, R);
}

RUN(run_logits_forward) {
    k->logits_forward(x[0], x[1], x[2], s->precision, R, s->C, s->V);
}

// The three steps of the classifier over two vocabulary shards.
static inline void probe_classifier(const Kernels *k, float **x, const int32_t *tokens,
                                    const Shape *s, size_t R, float z_loss) {
    const VocabShard vocab[2] = {{0, (s->V + 1) / 2}, {(s->V + 1) / 2, s->V / 2}};
    const size_t shards = s->V > 1 ? 2 : 1;
    float dloss = 1 / (float)R, scale[CLASSIFIER_ROWS], *dinp_shard = x[6];
    ShardSoftmax softmax[2 * CLASSIFIER_ROWS];

    for (size_t r = 0; r < R; r += CLASSIFIER_ROWS) {
        size_t rows = min_u64(R - r, CLASSIFIER_ROWS);
        float *logits[2] = {x[3], x[3] + rows * vocab[0].count}, *dinp = x[1] + r * s->C;
        const float *inp = x[4] + r * s->C;

        for (size_t i = 0; i < shards; i++) {
            const float *wte = x[5] + vocab[i].first * s->C;
            k->classifier_forward(logits[i], softmax + i * rows, inp, wte, tokens + r, vocab[i],
                                  s->precision, rows, s->C);
        }
        for (size_t i = 0; i < shards; i++) {
            const float *wte = x[5] + vocab[i].first * s->C;
            float *dwte = x[2] + vocab[i].first * s->C;
            k->cross_entropy(x[0] + r, scale, softmax, shards, i, dloss, z_loss, rows);
            k->classifier_backward(i ? dinp_shard : dinp, dwte, logits[i], scale, inp, wte,
                                   tokens + r, dloss, vocab[i], s->precision, rows, s->C);
        }
        for (size_t i = 0; i < rows * s->C && shards > 1; i++) {
            dinp[i] += dinp_shard[i];
        }
    }
}

RUN(run_classifier) {
    probe_classifier(k, x, tokens, s, R, 0);
}

RUN(run_classifier_z_loss) {
    probe_classifier(k, x, tokens, s, R, 0.01f);
}

RUN(run_classifier_backward) {
    const size_t rows = min_u64(R, CLASSIFIER_ROWS);
    k->classifier_backward(x[0], x[1], x[2], x[3], x[4], x[5], tokens, 0.5f, (VocabShard){0, s->V},
                           s->precision, rows, s->C);
}

RUN(run_sum_of_squares) {
    x[0][0] = (float)k->sum_of_squares(x[1], s->C * s->O);
}

RUN(run_adamw) {
    k->adamw(x[0], x[1], x[2], x[3], s->C * s->O, 0.5f, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 3);
}

// v is a mean of squares.
RUN(prepare_adamw) {
    for (size_t i = 0; i < s->C * s->O; i++) {
        x[2][i] = fminf(x[2][i] * x[2][i], FLT_MAX);
    }
}

#undef RUN
#undef RUN_ACTIVATION
#undef UNUSED

// clang-format off
static const KernelProbe probes[] = {
    // name, outputs, exact, arrays, sum, work, bytes, prepare, run
    {"embedding_forward", 1, 0, {"RC", "VC", "TC"}, "1", "3RC", true, NULL, run_embedding_forward},
    {"embedding_forward_shard", 1, 0, {"RC", "VC"}, "1", NULL, true, NULL,
     run_embedding_forward_shard},
    {"embedding_backward", 2, 0, {"VC", "TC", "RC"}, "R", "5RC", true, NULL,
     run_embedding_backward},
    {"embedding_backward_shard", 1, 0, {"VC", "RC"}, "R", NULL, true, NULL,
     run_embedding_backward_shard},
    {"layernorm_forward", 3, 0, {"RC", "R", "R", "RC", "C", "C"}, "C", "2RC", true, NULL,
     run_layernorm_forward},
    {"layernorm_backward", 3, 0, {"RC", "C", "C", "RC", "RC", "C", "R", "R", "RC"}, "R", "6RC",
     true, prepare_layernorm_backward, run_layernorm_backward},
    {"rmsnorm_forward", 2, 0, {"RC", "R", "RC", "C"}, "C", "2RC", true, NULL, run_rmsnorm_forward},
    {"rmsnorm_backward", 2, 0, {"RC", "C", "RC", "RC", "C", "R", "RC"}, "R", "6RC", true,
     prepare_rmsnorm_backward, run_rmsnorm_backward},
    {"head_norm_forward", 3, 0, {"RW", "RHD", "RH", "D"}, "D", "3RHD", true, NULL,
     run_head_norm_forward},
    {"head_norm_backward", 2, 0, {"RW", "D", "RHD", "D", "RH", "RHD"}, "RH", "5RHD", true,
     prepare_head_norm_backward, run_head_norm_backward},
    {"rope", 1, 0, {"RW", "4TD"}, "1", "2RHD", true, prepare_rope, run_rope},
    {"rope_inverse", 1, 0, {"RW", "4TD"}, "1", NULL, true, prepare_rope, run_rope_inverse},
    {"swiglu_forward", 1, 0, {"RO", "2RO"}, "1", "3RO", true, NULL, run_swiglu_forward},
    {"swiglu_backward", 1, 0, {"2RO", "RO", "2RO"}, "1", "5RO", true, NULL, run_swiglu_backward},
    {"matmul_forward", 1, 1, {"RO", "RC", "CO", "O", "RO"}, "C", "2RCO", false, NULL,
     run_matmul_forward},
    {"matmul_forward_out_in", 1, 1, {"RO", "RC", "CO", "O", "RO"}, "C", "2RCO", false, NULL,
     run_matmul_forward_out_in},
    {"matmul_forward_no_bias", 1, 1, {"RO", "RC", "CO"}, "C", NULL, false, NULL,
     run_matmul_forward_no_bias},
    {"matmul_gelu_tanh_forward", 2, 1, {"RO", "RO", "RC", "CO", "O"}, "C", "2RCO", false, NULL,
     run_matmul_gelu_tanh_forward},
    {"matmul_gelu_forward", 2, 1, {"RO", "RO", "RC", "CO", "O"}, "C", "2RCO", false, NULL,
     run_matmul_gelu_forward},
    {"matmul_relu_forward", 2, 2, {"RO", "RO", "RC", "CO", "O"}, "C", "2RCO", false, NULL,
     run_matmul_relu_forward},
    {"matmul_backward_input", 1, 1, {"RC", "RO", "CO"}, "O", "2RCO", false, NULL,
     run_matmul_backward_input},
    {"matmul_backward_input_out_in", 1, 1, {"RC", "RO", "CO"}, "O", "2RCO", false, NULL,
     run_matmul_backward_input_out_in},
    {"matmul_gelu_tanh_backward_input", 1, 0, {"RC", "RO", "CO", "RC"}, "O", "2RCO", false, NULL,
     run_matmul_gelu_tanh_backward_input},
    {"matmul_gelu_backward_input", 1, 0, {"RC", "RO", "CO", "RC"}, "O", "2RCO", false, NULL,
     run_matmul_gelu_backward_input},
    {"matmul_relu_backward_input", 1, 0, {"RC", "RO", "CO", "RC"}, "O", "2RCO", false, NULL,
     run_matmul_relu_backward_input},
    {"matmul_backward_weight", 2, 1, {"CO", "O", "RC", "RO"}, "R", "2RCO", false, NULL,
     run_matmul_backward_weight},
    {"matmul_backward_weight_out_in", 2, 1, {"CO", "O", "RC", "RO"}, "R", "2RCO", false, NULL,
     run_matmul_backward_weight_out_in},
    {"matmul_backward_weight_no_bias", 1, 1, {"CO", "RC", "RO"}, "R", NULL, false, NULL,
     run_matmul_backward_weight_no_bias},
    {"attention_forward", 2, 0, {"RHD", "RH", "RW"}, "THD", "2RTHD", false, NULL,
     run_attention_forward},
    {"attention_backward", 1, 0, {"RW", "RHD", "RHD", "RW", "RH"}, "THD", "5RTHD", false,
     prepare_attention_backward, run_attention_backward},
    {"logits_forward", 1, 1, {"RV", "RC", "VC"}, "C", "2RCV", false, NULL, run_logits_forward},
    {"classifier", 3, 0, {"R", "RC", "VC", "KV", "RC", "VC", "KC"}, "V", "6RCV", false, NULL,
     run_classifier},
    {"classifier_z_loss", 3, 0, {"R", "RC", "VC", "KV", "RC", "VC", "KC"}, "V", NULL, false, NULL,
     run_classifier_z_loss},
    {"classifier_backward", 2, 2, {"KC", "VC", "KV", "K", "KC", "VC"}, "V", NULL, false, NULL,
     run_classifier_backward},
    {"sum_of_squares", 1, 0, {"1", "CO"}, "CO", "CO", true, NULL, run_sum_of_squares},
    {"adamw", 3, 0, {"CO", "CO", "CO", "CO"}, "1", "7CO", true, prepare_adamw, run_adamw},
};
// clang-format on
enum { PROBES = sizeof probes / sizeof *probes };

// How arrays are filled: values in [-1, 1), in [-40, 40), where exponentials saturate, or with
// extreme values among them.
typedef enum { FILL_PLAIN, FILL_LARGE, FILL_DENORMAL, FILL_HUGE, FILLS } Fill;
static const char *fill_names[FILLS] = {"plain", "large", "denormal", "1e30"};

enum { LARGE = 40 };

static inline float fill_value(Fill fill, size_t array, size_t i) {
    uint64_t bits = random_bits(7, array, i);
    float value = (float)(int64_t)(bits >> 40) * 0x1p-23f - 1;
    if (fill == FILL_DENORMAL && bits % 3 == 0) {
        return value * 0x1p-130f;
    }
    if (fill == FILL_LARGE) {
        return LARGE * value;
    }
    return fill == FILL_HUGE && i == 0 ? (array % 2 ? -1e30f : 1e30f) : value;
}

typedef struct {
    float *x[PROBE_ARRAYS];
    size_t n[PROBE_ARRAYS];
    int32_t *tokens;
} ProbeArrays;

static inline void probe_free(ProbeArrays *p) {
    for (int i = 0; i < PROBE_ARRAYS; i++) {
        free(p->x[i]);
    }
    free(p->tokens);
}

// Creates and fills the arrays of a probe: the same for both tables.
static inline bool probe_create(ProbeArrays *p, const KernelProbe *probe, const Shape *s, Fill fill,
                                Error *e) {
    *p = (ProbeArrays){.tokens = malloc(s->B * s->T * sizeof(int32_t))};
    bool ok = p->tokens != NULL;
    for (size_t r = 0; ok && r < s->B * s->T; r++) {
        p->tokens[r] = (int32_t)(random_bits(7, 99, r) % s->V);
    }
    for (int i = 0; i < PROBE_ARRAYS && probe->arrays[i] && ok; i++) {
        p->n[i] = product_of(probe->arrays[i], s);
        p->x[i] = allocate_floats(p->n[i]);
        ok = p->x[i] != NULL;
        for (size_t j = 0; ok && j < p->n[i]; j++) {
            p->x[i][j] = fill_value(fill, (size_t)i, j);
        }
    }
    if (!ok) {
        probe_free(p);
        return fail(e, "no memory for the arrays of %s", probe->name);
    }
    if (probe->prepare) {
        probe->prepare(&kernels_ref, p->x, p->tokens, s, s->B * s->T);
    }
    return true;
}

#endif
