// kernels_ref.h: what every kernel computes, in plain scalar C. This is the specification: the fast
// kernels of kernels_sve.h have the same signatures and are diffed against these. Kernels know
// nothing of MPI, files or the model.
//
// Letters: B sequences of T tokens, R = B * T rows, C channels, H heads of D channels, F hidden
// channels of an MLP, V tokens of the vocabulary, OC output channels of a matrix product. Arrays
// are row-major, and dense unless the distance between rows is an argument. A gradient has the name
// of its array with a d in front. Every gradient of a weight is added to what is there (dweight,
// dbias, dwte, dwpe); other outputs are overwritten unless stated.
//
// Bits: each output element is computed by one thread, in one fixed order, so that results do not
// depend on the number of threads. Sums along a row use 16 virtual lanes that are added in a fixed
// tree: any vector unit of up to 16 lanes can reproduce it, and a compiler may vectorize it without
// reordering anything.
//
// `real` is float; the gradient tests define KERNELS_REF_DOUBLE and compile this file with double.
#ifndef KERNELS_REF_H
#define KERNELS_REF_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tgmath.h>

#ifdef KERNELS_REF_DOUBLE
typedef double real;
#else
typedef float real;
#endif

enum {
    // Rows of logits that exist at one time: B x T x V of them are never stored.
    CLASSIFIER_ROWS = 256,
    // Attention that works by blocks: query rows computed at a time, and the keys that they meet at
    // a time. They fix the order of the online softmax, and the chunks of FP16 products.
    QUERY_BLOCK = 80,
    KEY_BLOCK = 160,
    // Steps of k that an FP16 product adds up in FP16.
    FP16_CHUNK = 128,
};

// The function between the two products of an MLP. NONE: of a product that has none behind it.
typedef enum { ACTIVATION_GELU_TANH, ACTIVATION_GELU, ACTIVATION_RELU, ACTIVATION_NONE } Activation;

// How the weight of a product from C to OC channels is stored: (C, OC), or (OC, C) as in PyTorch's
// Linear.
typedef enum { IN_OUT, OUT_IN } MatrixLayout;

// How matrix products are computed, attention's among them: in FP32, or in FP16 with sums in FP32.
// Everything else is FP32, and so is all memory.
typedef enum { PRECISION_FP32, PRECISION_FP16 } Precision;

// The heads of attention, and where they are: head h of a row starts h * head_dim after the row.
// Query head h attends to KV head h / (heads / kv_heads): grouped-query attention (Ainslie et al.
// 2023); heads is a multiple of kv_heads.
typedef struct {
    size_t heads, kv_heads, head_dim;
    size_t q_row, kv_row; // reals from a row of q to the next, and from a row of k or v
    real scale;           // of the scores: 1 / sqrt(head_dim) unless the model says otherwise
} AttentionShape;

// A shard of the vocabulary, token ids first .. first + count - 1: the complete vocabulary, or the
// share of a tensor-parallel (TP) rank.
typedef struct {
    size_t first, count;
} VocabShard;

// The softmax of one row over one vocabulary shard: what TP ranks exchange.
typedef struct {
    real max;    // of the shard's logits
    real sum;    // of exp(logit - max)
    real target; // the target's logit; -inf if another shard has that token
} ShardSoftmax;

// One entry per kernel. `--kernels` selects a table; a diff, a benchmark or a test is a loop over
// the two.
typedef struct {
    const char *name;
    void (*embedding_forward)(real *out, const int32_t *tokens, const real *wte, const real *wpe,
                              VocabShard vocab, size_t first_position, size_t B, size_t T,
                              size_t C);
    void (*embedding_backward)(real *dwte, real *dwpe, const real *dout, const int32_t *tokens,
                               VocabShard vocab, size_t B, size_t T, size_t C);
    void (*layernorm_forward)(real *out, real *mean, real *rstd, const real *inp,
                              const real *weight, const real *bias, real eps, size_t R, size_t C);
    void (*layernorm_backward)(real *dinp, real *dweight, real *dbias, const real *dout,
                               const real *inp, const real *weight, const real *mean,
                               const real *rstd, size_t R, size_t C);
    void (*rmsnorm_forward)(real *out, real *rstd, const real *inp, const real *weight, real eps,
                            size_t R, size_t C);
    void (*rmsnorm_backward)(real *dinp, real *dweight, const real *dout, const real *inp,
                             const real *weight, const real *rstd, size_t R, size_t C);
    void (*head_norm_forward)(real *x, real *raw, real *rstd, const real *weight, real eps,
                              size_t row, size_t R, size_t H, size_t D);
    void (*head_norm_backward)(real *dx, real *dweight, const real *raw, const real *weight,
                               const real *rstd, size_t row, size_t R, size_t H, size_t D);
    void (*rope)(real *x, const real *table, size_t row, size_t first_position, size_t B, size_t T,
                 size_t H, size_t D, bool inverse);
    void (*swiglu_forward)(real *out, const real *gate_up, size_t R, size_t F);
    void (*swiglu_backward)(real *dgate_up, const real *dout, const real *gate_up, size_t R,
                            size_t F);
    void (*matmul_forward)(real *out, const real *inp, const real *weight, const real *bias,
                           const real *residual, MatrixLayout layout, Precision precision, size_t R,
                           size_t C, size_t OC);
    void (*matmul_activation_forward)(real *out, real *act, const real *inp, const real *weight,
                                      const real *bias, Activation activation, Precision precision,
                                      size_t R, size_t C, size_t OC);
    void (*matmul_backward_input)(real *dinp, const real *dout, const real *weight,
                                  const real *act_inp, Activation activation, MatrixLayout layout,
                                  Precision precision, size_t R, size_t C, size_t OC);
    void (*matmul_backward_weight)(real *dweight, real *dbias, const real *inp, const real *dout,
                                   MatrixLayout layout, Precision precision, size_t R, size_t C,
                                   size_t OC);
    void (*attention_forward)(real *out, real *lse, const real *q, const real *k, const real *v,
                              const AttentionShape *shape, Precision precision, size_t first_row,
                              size_t B, size_t T);
    void (*attention_backward)(real *dq, real *dk, real *dv, const real *dout, const real *out,
                               const real *q, const real *k, const real *v, const real *lse,
                               const AttentionShape *shape, Precision precision, size_t B,
                               size_t T);
    void (*logits_forward)(real *logits, const real *inp, const real *weight, Precision precision,
                           size_t R, size_t C, size_t V);
    void (*classifier_forward)(real *logits, ShardSoftmax *softmax, const real *inp,
                               const real *weight, const int32_t *targets, VocabShard vocab,
                               Precision precision, size_t R, size_t C);
    void (*cross_entropy)(real *losses, real *scale, const ShardSoftmax *shards, size_t S,
                          size_t mine, real dloss, real z_loss, size_t R);
    void (*classifier_backward)(real *dinp, real *dweight, real *logits, const real *scale,
                                const real *inp, const real *weight, const int32_t *targets,
                                real dloss, VocabShard vocab, Precision precision, size_t R,
                                size_t C);
    double (*sum_of_squares)(const real *x, size_t n);
    void (*adamw)(real *param, real *m, real *v, const real *grad, size_t n, real grad_scale,
                  real lr, real beta1, real beta2, real eps, real weight_decay, uint64_t step);
} Kernels;

// ------------------------------------------------------------------------------------------------
// Sums along a row

enum { LANES = 16 };

// Adds the lanes in a fixed tree: 8 + 8, 4 + 4, 2 + 2, 1 + 1. Overwrites them.
static inline real add_lanes_ref(real *lane) {
    for (size_t width = LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            lane[j] += lane[j + width];
        }
    }
    return lane[0];
}

// sum_i a[i] * b[i]
static inline real dot_ref(const real *a, const real *b, size_t n) {
    real lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            lane[j] = fma(a[i + j], b[i + j], lane[j]);
        }
    }
    for (size_t j = 0; i + j < n; j++) {
        lane[j] = fma(a[i + j], b[i + j], lane[j]);
    }
    return add_lanes_ref(lane);
}

// ------------------------------------------------------------------------------------------------
// Activations. GELU (Hendrycks, Gimpel 2016) is x/2 (1 + erf(x / sqrt(2))); its tanh approximation
// x/2 (1 + tanh(s)) with s = sqrt(2/pi) (x + 0.044715 x^3).

#define GELU_SCALE ((real)0.79788456080286535588) // sqrt(2 / pi)
#define GELU_CUBE ((real)0.044715)
#define SQRT_HALF ((real)0.70710678118654752440)
#define NORMAL_PEAK ((real)0.39894228040143267794) // 1 / sqrt(2 pi)

static inline real activation_ref(real x, Activation activation) {
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        return x / 2 * (1 + tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x)));
    case ACTIVATION_GELU:
        return x / 2 * (1 + erf(SQRT_HALF * x));
    case ACTIVATION_RELU:
        return x < 0 ? 0 : x;
    case ACTIVATION_NONE:
        break;
    }
    return x;
}

// GELU, tanh: 1/2 (1 + tanh(s)) + x/2 (1 - tanh(s)^2) ds/dx
// GELU, erf:  1/2 (1 + erf(x / sqrt(2))) + x exp(-x^2 / 2) / sqrt(2 pi)
static inline real activation_slope_ref(real x, Activation activation) {
    switch (activation) {
    case ACTIVATION_GELU_TANH: {
        real y = tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x));
        real slope = GELU_SCALE * (1 + 3 * GELU_CUBE * x * x);
        return (1 + y) / 2 + x / 2 * (1 - y * y) * slope;
    }
    case ACTIVATION_GELU:
        return (1 + erf(SQRT_HALF * x)) / 2 + x * NORMAL_PEAK * exp(-x * x / 2);
    case ACTIVATION_RELU:
        return x > 0 ? 1 : 0;
    case ACTIVATION_NONE:
        break;
    }
    return 1;
}

// SwiGLU (Shazeer 2020): out (R, F) = silu(gate) * up, silu(x) = x sigmoid(x). gate_up (R, 2F): in
// each row F gates, then F of up.
static inline void swiglu_forward_ref(real *out, const real *gate_up, size_t R, size_t F) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        const real *gate = gate_up + r * 2 * F, *up = gate + F;
        for (size_t f = 0; f < F; f++) {
            out[r * F + f] = gate[f] / (1 + exp(-gate[f])) * up[f];
        }
    }
}

// dgate = dout up sigmoid(gate) (1 + gate (1 - sigmoid(gate)));  dup = dout silu(gate)
// dgate_up (R, 2F) is overwritten.
static inline void swiglu_backward_ref(real *dgate_up, const real *dout, const real *gate_up,
                                       size_t R, size_t F) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        const real *gate = gate_up + r * 2 * F, *up = gate + F;
        real *dgate = dgate_up + r * 2 * F, *dup = dgate + F;

        for (size_t f = 0; f < F; f++) {
            real dy = dout[r * F + f], sigmoid = 1 / (1 + exp(-gate[f]));
            dgate[f] = dy * up[f] * sigmoid * (1 + gate[f] * (1 - sigmoid));
            dup[f] = dy * gate[f] * sigmoid;
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Matrix products in FP16: out (M, N) += a (M, K) b (K, N). FP16 arithmetic is twice as fast as
// FP32 on CPUs that have it, but reaches only from 2^-14 to 65504, with 11 significant bits. So k
// is taken in chunks of FP16_CHUNK steps (Wang et al. 2018). For each chunk
// - each row of a and each column of b is scaled by a power of two of its own, then rounded to
//   multiples of 2^-7, then to FP16, both to nearest even;
// - an element has two FP16 sums that start from zero, one over the even steps of the chunk and one
//   over the odd ones: chains of fused multiply-adds in ascending order, each rounded to nearest
//   even. (Two steps fill a 32-bit lane.)
// - then out = fma((even + odd) unscale_a, unscale_b, out) in FP32.
//
// The scale makes the Euclidean norm of the chunk as large as it can be below 250. By the
// Cauchy-Schwarz inequality no partial sum is above 250^2, nor with all roundings above 250^2 (1 +
// 2^-11)^64 < 65504: nothing overflows. All entries are multiples of 2^-7 and so all sums of 2^-14:
// nothing is subnormal, whatever the CPU would do with that. A chunk with a number that is not
// finite gives NaN.

// x rounded to the 11 significant bits of FP16, to nearest even. Not for results that FP16 holds as
// subnormal numbers or not at all.
static inline double fp16_round_ref(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits += 0x1FFFFFFFFFF + (bits >> 42 & 1);
    bits &= ~(uint64_t)0x3FFFFFFFFFF;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// A chunk of a row of a or of a column of b.
typedef struct {
    float entry[FP16_CHUNK]; // numbers that FP16 holds
    float unscale;           // the number is entry * unscale; NaN if one is not finite
} Fp16Chunk;

// The bits of |x| order numbers by size, infinity and then NaN last.
static inline int32_t magnitude_bits_ref(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7FFFFFFF;
}

// 2^n for n in -126 .. 127
static inline float power_of_two_ref(int n) {
    int32_t bits = (n + 127) << 23;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// The chunk of n numbers, `stride` apart. With 2^e above the largest of them, q = round(2^(8 - e)
// |x|) <= 256 are integers whose squares have an exact sum below 2^24, in any order. They bound the
// norm of x: 2^(e - 8) (sqrt(sum) + sqrt(128) / 2). It fits below 250 with the scale 2^(8 - e) for
// sums up to 59698, with each power below for four times that. A largest number below 2^-102 counts
// as 2^-102, so that no scale overflows.
static inline void fp16_chunk_ref(Fp16Chunk *c, const real *x, size_t stride, size_t n) {
    int32_t largest = 0;
    float sum = 0;

    for (size_t k = 0; k < n; k++) {
        int32_t bits = magnitude_bits_ref((float)x[k * stride]);
        largest = bits > largest ? bits : largest;
    }
    const bool finite = largest < 0x7F800000;
    const int exponent = largest >> 23 < 24 ? -102 : (largest >> 23) - 126; // e

    for (size_t k = 0; k < n; k++) {
        float q = (float)rint((float)x[k * stride] * power_of_two_ref(8 - exponent));
        sum += q * q;
    }
    int scale = 8 - exponent;
    for (float limit = 59698; limit < sum && scale > 4 - exponent; limit *= 4) {
        scale--;
    }

    for (size_t k = 0; k < n; k++) {
        float scaled = (float)x[k * stride] * power_of_two_ref(scale);
        c->entry[k] = (float)fp16_round_ref(rint((double)scaled * 128) / 128);
    }
    c->unscale = finite ? power_of_two_ref(-scale) : NAN;
}

// The n steps of a chunk: (even + odd) unscale_a, an FP32 number, of which each operation is exact
// in double before it is rounded.
static inline float fp16_dot_ref(const Fp16Chunk *a, const Fp16Chunk *b, size_t n) {
    double sum[2] = {0, 0};
    for (size_t k = 0; k < n; k++) {
        sum[k % 2] = fp16_round_ref((double)a->entry[k] * (double)b->entry[k] + sum[k % 2]);
    }
    return (float)(sum[0] + sum[1]) * a->unscale;
}

// A matrix with strides: element (i, j) is data[i * row + j * column]. So a transpose is a view
// too.
typedef struct {
    const real *data;
    size_t row, column;
} MatrixView;

// Rows of out (M, N), `out_row` apart, += a (M, K) b (K, N), in blocks whose chunks are kept.
static inline void add_fp16_rows_ref(real *out, size_t out_row, MatrixView a, MatrixView b,
                                     size_t M, size_t N, size_t K) {
    enum { BLOCK = 16 };
    Fp16Chunk row[BLOCK], column;
    for (size_t k = 0; k < K; k += FP16_CHUNK) {
        const size_t depth = K - k < FP16_CHUNK ? K - k : FP16_CHUNK;
        for (size_t m = 0; m < M; m += BLOCK) {
            const size_t rows = M - m < BLOCK ? M - m : BLOCK;
            for (size_t i = 0; i < rows; i++) {
                const real *from = a.data + (m + i) * a.row + k * a.column;
                fp16_chunk_ref(&row[i], from, a.column, depth);
            }
            for (size_t j = 0; j < N; j++) {
                fp16_chunk_ref(&column, b.data + k * b.row + j * b.column, b.row, depth);
                for (size_t i = 0; i < rows; i++) {
                    real *y = &out[(m + i) * out_row + j];
                    float dot = fp16_dot_ref(&row[i], &column, depth);
                    *y = fmaf(dot, column.unscale, (float)*y);
                }
            }
        }
    }
}

// out (M, N) += a (M, K) b (K, N)
static inline void add_fp16_product_ref(real *out, MatrixView a, MatrixView b, size_t M, size_t N,
                                        size_t K) {
    enum { ROWS = 16 };
#pragma omp parallel for schedule(static)
    for (size_t m = 0; m < M; m += ROWS) {
        add_fp16_rows_ref(out + m * N, N, (MatrixView){a.data + m * a.row, a.row, a.column}, b,
                          M - m < ROWS ? M - m : ROWS, N, K);
    }
}

// ------------------------------------------------------------------------------------------------
// Matrix products. In FP32 each element is a chain of fused multiply-adds in ascending order.

// y (n) += factor * x (n): one step of the chains of a row
static inline void add_scaled_ref(real *y, real factor, const real *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        y[i] = fma(factor, x[i], y[i]);
    }
}

// y (n) += b (n, K) x (K): a row of a product with a transpose, 4 chains at a time
static inline void add_times_transpose_ref(real *y, const real *x, const real *b, size_t n,
                                           size_t K) {
    enum { CHAINS = 4 };
    for (size_t i = 0; i < n; i += CHAINS, b += CHAINS * K) {
        size_t chains = n - i < CHAINS ? n - i : CHAINS;
        const real *row[CHAINS];
        real sum[CHAINS];

        // chains beyond the last one repeat it
        for (size_t j = 0; j < CHAINS; j++) {
            size_t chain = j < chains ? j : chains - 1;
            row[j] = b + chain * K;
            sum[j] = y[i + chain];
        }
        for (size_t k = 0; k < K; k++) {
            for (size_t j = 0; j < CHAINS; j++) {
                sum[j] = fma(x[k], row[j][k], sum[j]);
            }
        }
        memcpy(y + i, sum, chains * sizeof(real));
    }
}

// y (n) += x (K) b, a row of a product; b is (K, n), or (n, K) if it is transposed.
static inline void add_row_product_ref(real *y, const real *x, const real *b, bool transposed,
                                       size_t n, size_t K) {
    if (transposed) {
        add_times_transpose_ref(y, x, b, n, K);
        return;
    }
    for (size_t k = 0; k < K; k++) {
        add_scaled_ref(y, x[k], b + k * n, n);
    }
}

// out (M, N) += a (M, K) b; b is (K, N), or (N, K) if it is transposed.
static inline void add_product_ref(real *out, const real *a, const real *b, bool transposed,
                                   Precision precision, size_t M, size_t N, size_t K) {
    if (precision == PRECISION_FP16) {
        const MatrixView view = {b, transposed ? 1 : N, transposed ? K : 1};
        add_fp16_product_ref(out, (MatrixView){a, K, 1}, view, M, N, K);
        return;
    }
#pragma omp parallel for schedule(static)
    for (size_t m = 0; m < M; m++) {
        add_row_product_ref(out + m * N, a + m * K, b, transposed, N, K);
    }
}

// out (R, OC) = inp (R, C) weight + bias (OC) + residual (R, OC). bias and residual may be NULL:
// they count as zero. weight: (C, OC), or (OC, C) with layout OUT_IN, which stands for its
// transpose in these formulas.
static inline void matmul_forward_ref(real *out, const real *inp, const real *weight,
                                      const real *bias, const real *residual, MatrixLayout layout,
                                      Precision precision, size_t R, size_t C, size_t OC) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < R * OC; i++) {
        out[i] = bias ? bias[i % OC] : 0;
    }
    add_product_ref(out, inp, weight, layout == OUT_IN, precision, R, OC, C);
    for (size_t i = 0; i < R * OC && residual; i++) {
        out[i] += residual[i];
    }
}

// out as above without residual, and act (R, OC) = activation(out). weight: (C, OC)
static inline void matmul_activation_forward_ref(real *out, real *act, const real *inp,
                                                 const real *weight, const real *bias,
                                                 Activation activation, Precision precision,
                                                 size_t R, size_t C, size_t OC) {
    matmul_forward_ref(out, inp, weight, bias, NULL, IN_OUT, precision, R, C, OC);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < R * OC; i++) {
        act[i] = activation_ref(out[i], activation);
    }
}

// dinp (R, C) = dout (R, OC) weight^T (OC, C); unless act_inp (R, C) is NULL, times the derivative
// of the activation at act_inp
static inline void matmul_backward_input_ref(real *dinp, const real *dout, const real *weight,
                                             const real *act_inp, Activation activation,
                                             MatrixLayout layout, Precision precision, size_t R,
                                             size_t C, size_t OC) {
    memset(dinp, 0, R * C * sizeof(real));
    add_product_ref(dinp, dout, weight, layout == IN_OUT, precision, R, C, OC);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < (act_inp ? R * C : 0); i++) {
        dinp[i] *= activation_slope_ref(act_inp[i], activation);
    }
}

// c (M, N) += a^T (M, R) b (R, N)
static inline void add_transpose_product_ref(real *c, const real *a, const real *b,
                                             Precision precision, size_t M, size_t N, size_t R) {
    if (precision == PRECISION_FP16) {
        add_fp16_product_ref(c, (MatrixView){a, 1, M}, (MatrixView){b, N, 1}, M, N, R);
        return;
    }
#pragma omp parallel for schedule(static)
    for (size_t m = 0; m < M; m++) {
        for (size_t r = 0; r < R; r++) {
            add_scaled_ref(c + m * N, a[r * M + m], b + r * N, N);
        }
    }
}

// dweight (C, OC) += inp^T (C, R) dout (R, OC), or with layout OUT_IN
// dweight (OC, C) += dout^T (OC, R) inp (R, C);  unless it is NULL, dbias (OC) += sum_r dout (r, :)
static inline void matmul_backward_weight_ref(real *dweight, real *dbias, const real *inp,
                                              const real *dout, MatrixLayout layout,
                                              Precision precision, size_t R, size_t C, size_t OC) {
    if (layout == IN_OUT) {
        add_transpose_product_ref(dweight, inp, dout, precision, C, OC, R);
    } else {
        add_transpose_product_ref(dweight, dout, inp, precision, OC, C, R);
    }

    for (size_t r = 0; r < R && dbias; r++) {
        for (size_t o = 0; o < OC; o++) {
            dbias[o] += dout[r * OC + o];
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Embedding: out (B, T, C) = wte[token] + wpe[position]
// wte: (vocab.count, C), wpe: (positions, C), tokens: (B, T)
// Positions are first_position .. first_position + T - 1. A token outside the vocabulary shard
// counts as zeros, and so do all positions if wpe is NULL: in a model that has none, and on TP
// ranks above 0, because the all-reduce of the ranks' outputs is the embedding.

static inline void embedding_forward_ref(real *out, const int32_t *tokens, const real *wte,
                                         const real *wpe, VocabShard vocab, size_t first_position,
                                         size_t B, size_t T, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < B * T; r++) {
        size_t token = (size_t)tokens[r] - vocab.first; // of another shard: may wrap around
        for (size_t c = 0; c < C; c++) {
            real x = token < vocab.count ? wte[token * C + c] : 0;
            out[r * C + c] = wpe ? x + wpe[(first_position + r % T) * C + c] : x;
        }
    }
}

// dwte (vocab.count, C) += and, unless it is NULL, dwpe (T, C) += the rows of dout (B, T, C) that
// read them. Threads divide the channels, so that all occurrences of a token are added by one
// thread, in the order of the rows.
static inline void embedding_backward_ref(real *dwte, real *dwpe, const real *dout,
                                          const int32_t *tokens, VocabShard vocab, size_t B,
                                          size_t T, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t c0 = 0; c0 < C; c0 += LANES) {
        size_t c1 = c0 + LANES < C ? c0 + LANES : C;
        for (size_t r = 0; r < B * T; r++) {
            size_t token = (size_t)tokens[r] - vocab.first;
            for (size_t c = c0; c < c1; c++) {
                if (token < vocab.count) {
                    dwte[token * C + c] += dout[r * C + c];
                }
                if (dwpe) {
                    dwpe[r % T * C + c] += dout[r * C + c];
                }
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// LayerNorm (Ba, Kiros, Hinton 2016), each row of C: out = (x - mean) * rstd * weight + bias, rstd
// = 1 / sqrt(var + eps). mean and rstd: (R), kept for backward.

static inline void layernorm_forward_ref(real *out, real *mean, real *rstd, const real *inp,
                                         const real *weight, const real *bias, real eps, size_t R,
                                         size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        const real *x = inp + r * C;
        real *y = out + r * C, sum[LANES] = {0};

        for (size_t c = 0; c < C; c++) {
            sum[c % LANES] += x[c];
        }
        real m = add_lanes_ref(sum) / (real)C;

        for (size_t c = 0; c < C; c++) {
            y[c] = x[c] - m;
        }
        real s = 1 / sqrt(dot_ref(y, y, C) / (real)C + eps);

        for (size_t c = 0; c < C; c++) {
            y[c] = y[c] * s * weight[c] + bias[c];
        }

        mean[r] = m;
        rstd[r] = s;
    }
}

// With n = (x - mean) * rstd and g = dout * weight:
// dinp += rstd * (g - avg(g) - n * avg(g * n));  dweight += sum_r dout * n;  dbias += sum_r dout.
// dinp is added to, because x also bypasses the block through the residual connection.
static inline void layernorm_backward_ref(real *dinp, real *dweight, real *dbias, const real *dout,
                                          const real *inp, const real *weight, const real *mean,
                                          const real *rstd, size_t R, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        const real *x = inp + r * C, *dy = dout + r * C;
        real g_sum[LANES] = {0}, gn_sum[LANES] = {0};

        for (size_t c = 0; c < C; c++) {
            real g = dy[c] * weight[c];
            g_sum[c % LANES] += g;
            gn_sum[c % LANES] += g * ((x[c] - mean[r]) * rstd[r]);
        }
        real g_avg = add_lanes_ref(g_sum) / (real)C, gn_avg = add_lanes_ref(gn_sum) / (real)C;

        for (size_t c = 0; c < C; c++) {
            real n = (x[c] - mean[r]) * rstd[r];
            dinp[r * C + c] += rstd[r] * (dy[c] * weight[c] - g_avg - n * gn_avg);
        }
    }

#pragma omp parallel for schedule(static)
    for (size_t c0 = 0; c0 < C; c0 += LANES) {
        size_t c1 = c0 + LANES < C ? c0 + LANES : C;
        for (size_t r = 0; r < R; r++) {
            for (size_t c = c0; c < c1; c++) {
                dweight[c] += dout[r * C + c] * ((inp[r * C + c] - mean[r]) * rstd[r]);
                dbias[c] += dout[r * C + c];
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// RMSNorm (Zhang, Sennrich 2019), each row of C: out = x * rstd * weight, rstd = 1 / sqrt(avg(x^2)
// + eps). rstd: (R), kept for backward.

static inline real rstd_ref(const real *x, real eps, size_t C) {
    return 1 / sqrt(dot_ref(x, x, C) / (real)C + eps);
}

static inline void rmsnorm_forward_ref(real *out, real *rstd, const real *inp, const real *weight,
                                       real eps, size_t R, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        const real *x = inp + r * C;
        rstd[r] = rstd_ref(x, eps, C);
        for (size_t c = 0; c < C; c++) {
            out[r * C + c] = x[c] * rstd[r] * weight[c];
        }
    }
}

// With n = x * rstd: avg(dout * weight * n) over a row.
static inline real norm_gradient_average_ref(const real *dout, const real *x, const real *weight,
                                             real rstd, size_t C) {
    real lane[LANES] = {0};
    for (size_t c = 0; c < C; c++) {
        lane[c % LANES] += dout[c] * weight[c] * (x[c] * rstd);
    }
    return add_lanes_ref(lane) / (real)C;
}

// With n = x * rstd and g = dout * weight: dinp += rstd * (g - n * avg(g * n));
// dweight += sum_r dout * n. dinp is added to, because x also bypasses the block.
static inline void rmsnorm_backward_ref(real *dinp, real *dweight, const real *dout,
                                        const real *inp, const real *weight, const real *rstd,
                                        size_t R, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        const real *x = inp + r * C, *dy = dout + r * C;
        real gn_avg = norm_gradient_average_ref(dy, x, weight, rstd[r], C);
        for (size_t c = 0; c < C; c++) {
            dinp[r * C + c] += rstd[r] * (dy[c] * weight[c] - x[c] * rstd[r] * gn_avg);
        }
    }

#pragma omp parallel for schedule(static)
    for (size_t c = 0; c < C; c++) {
        for (size_t r = 0; r < R; r++) {
            dweight[c] += dout[r * C + c] * (inp[r * C + c] * rstd[r]);
        }
    }
}

// QK-norm (Dehghani et al. 2023), as in Qwen3: RMSNorm of each head, with one weight (D) for all of
// them. x: R rows, `row` reals apart, that begin with H heads of D; normalized in place. raw (R, H,
// D): gets the heads as they were; rstd (R, H): as in RMSNorm. Both are kept for backward.
static inline void head_norm_forward_ref(real *x, real *raw, real *rstd, const real *weight,
                                         real eps, size_t row, size_t R, size_t H, size_t D) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < R * H; i++) {
        real *y = x + i / H * row + i % H * D;

        memcpy(raw + i * D, y, D * sizeof(real));
        rstd[i] = rstd_ref(y, eps, D);
        for (size_t d = 0; d < D; d++) {
            y[d] *= rstd[i] * weight[d];
        }
    }
}

// dx, laid out as x: on entry the gradient of the normalized heads, on return that of raw.
// dweight (D) += sum over rows, then heads, of dx * raw * rstd.
static inline void head_norm_backward_ref(real *dx, real *dweight, const real *raw,
                                          const real *weight, const real *rstd, size_t row,
                                          size_t R, size_t H, size_t D) {
#pragma omp parallel for schedule(static)
    for (size_t d = 0; d < D; d++) {
        for (size_t i = 0; i < R * H; i++) {
            dweight[d] += dx[i / H * row + i % H * D + d] * (raw[i * D + d] * rstd[i]);
        }
    }

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < R * H; i++) {
        real *dy = dx + i / H * row + i % H * D, s = rstd[i];
        real gn_avg = norm_gradient_average_ref(dy, raw + i * D, weight, s, D);
        for (size_t d = 0; d < D; d++) {
            dy[d] = s * (dy[d] * weight[d] - raw[i * D + d] * s * gn_avg);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Rotary position embedding (Su et al. 2021), in place: channels d and d + D/2 of a head are the
// coordinates of a point that is rotated by an angle proportional to its position. x: B * T rows,
// `row` reals apart, that begin with H heads of D; row b * T + t has position first_position + t.
// table (positions, D): D/2 cosines, then D/2 sines (kernels/rope_table.h). D is even. `inverse`
// rotates back, which turns the gradient of the output into that of the input.
static inline void rope_ref(real *x, const real *table, size_t row, size_t first_position, size_t B,
                            size_t T, size_t H, size_t D, bool inverse) {
    size_t half = D / 2;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < B * T; r++) {
        const real *cosine = table + (first_position + r % T) * D, *sine = cosine + half;
        for (size_t h = 0; h < H; h++) {
            real *a = x + r * row + h * D, *b = a + half;
            for (size_t d = 0; d < half; d++) {
                real s = inverse ? -sine[d] : sine[d], first = a[d], second = b[d];
                a[d] = first * cosine[d] - second * s;
                b[d] = second * cosine[d] + first * s;
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Causal attention. q, k and v point to head 0 of row 0; B * T rows, as AttentionShape says. For
// head h and row t: score[u] = scale q_t . k_u for u <= t;  out_t = sum_u softmax(score)[u] * v_u.
// out: (B, T, H, D). Nothing of size T x T is stored: the softmax is computed online (Milakov,
// Gimelshein 2018), and backward recomputes it from lse (B, H, T) = log sum_u exp(score[u]).

// In FP16 queries and keys meet by blocks, and each product of blocks is one of the FP16 products
// above: scores; scores times values, whose chunks are of the keys of a block; and those of
// backward, with chunks of the queries of a block for dk and dv.

// The block of scores, (rows, keys) with rows KEY_BLOCK apart, = q (rows, D) k^T; likewise for dout
// and v.
static inline void fp16_scores_ref(real *score, const real *q, size_t q_row, const real *k,
                                   size_t k_row, size_t rows, size_t keys, size_t D) {
    memset(score, 0, rows * KEY_BLOCK * sizeof(real));
    add_fp16_rows_ref(score, KEY_BLOCK, (MatrixView){q, q_row, 1}, (MatrixView){k, 1, k_row}, rows,
                      keys, D);
}

// Rows t0 .. t0 + rows - 1 of query head h of sequence b.
static inline void attention_forward_fp16_ref(real *out, real *lse, const real *q, const real *k,
                                              const real *v, const AttentionShape *shape, size_t b,
                                              size_t h, size_t t0, size_t rows, size_t T) {
    size_t H = shape->heads, D = shape->head_dim, group = H / shape->kv_heads;
    real score[QUERY_BLOCK * KEY_BLOCK], max[QUERY_BLOCK], sum[QUERY_BLOCK];
    const real *queries = q + (b * T + t0) * shape->q_row + h * D;
    real *y = out + ((b * T + t0) * H + h) * D;

    for (size_t i = 0; i < rows; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
        memset(y + i * H * D, 0, D * sizeof(real));
    }

    for (size_t u = 0; u < t0 + rows; u += KEY_BLOCK) {
        size_t keys = T - u < KEY_BLOCK ? T - u : KEY_BLOCK;
        size_t key = (b * T + u) * shape->kv_row + h / group * D;
        fp16_scores_ref(score, queries, shape->q_row, k + key, shape->kv_row, rows, keys, D);

        for (size_t i = 0; i < rows; i++) {
            real *p = score + i * KEY_BLOCK, before = max[i];
            for (size_t j = 0; j < keys && u + j <= t0 + i; j++) {
                max[i] = shape->scale * p[j] > max[i] ? shape->scale * p[j] : max[i];
            }
            real shrink = max[i] > before ? exp(before - max[i]) : 1;
            sum[i] *= shrink;
            for (size_t d = 0; d < D; d++) {
                y[i * H * D + d] *= shrink;
            }
            for (size_t j = 0; j < keys; j++) {
                p[j] = u + j <= t0 + i ? exp(shape->scale * p[j] - max[i]) : 0;
                sum[i] += p[j];
            }
        }
        add_fp16_rows_ref(y, H * D, (MatrixView){score, KEY_BLOCK, 1},
                          (MatrixView){v + key, shape->kv_row, 1}, rows, D, keys);
    }

    for (size_t i = 0; i < rows; i++) {
        for (size_t d = 0; d < D; d++) {
            y[i * H * D + d] /= sum[i];
        }
        lse[(b * H + h) * T + t0 + i] = max[i] + log(sum[i]);
    }
}

// Computes rows first_row .. T - 1 of each sequence, which read all rows up to their own: with
// first_row > 0 the k and v of earlier calls are the key-value cache of generation.
static inline void attention_forward_ref(real *out, real *lse, const real *q, const real *k,
                                         const real *v, const AttentionShape *shape,
                                         Precision precision, size_t first_row, size_t B,
                                         size_t T) {
    size_t H = shape->heads, D = shape->head_dim, group = H / shape->kv_heads;
    size_t rows = T - first_row;
    if (precision == PRECISION_FP16) {
#pragma omp parallel for schedule(static)
        for (size_t i = 0; i < B * H; i++) {
            for (size_t t = first_row; t < T; t += QUERY_BLOCK) {
                attention_forward_fp16_ref(out, lse, q, k, v, shape, i / H, i % H, t,
                                           T - t < QUERY_BLOCK ? T - t : QUERY_BLOCK, T);
            }
        }
        return;
    }
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * H * rows; i++) {
        size_t b = i / (H * rows), h = i / rows % H, t = first_row + i % rows;
        const real *qt = q + (b * T + t) * shape->q_row + h * D;
        real *y = out + ((b * T + t) * H + h) * D;
        real max = -INFINITY, sum = 0;
        memset(y, 0, D * sizeof(real));

        for (size_t u = 0; u <= t; u++) {
            size_t key = (b * T + u) * shape->kv_row + h / group * D;
            real score = shape->scale * dot_ref(qt, k + key, D);

            // the sums so far are relative to the old maximum
            if (score > max) {
                real shrink = exp(max - score);
                sum *= shrink;
                for (size_t d = 0; d < D; d++) {
                    y[d] *= shrink;
                }
                max = score;
            }

            real p = exp(score - max);
            sum += p;
            for (size_t d = 0; d < D; d++) {
                y[d] += p * v[key + d];
            }
        }

        for (size_t d = 0; d < D; d++) {
            y[d] /= sum;
        }
        lse[(b * H + h) * T + t] = max + log(sum);
    }
}

// What row t of query head h of sequence b adds to dq, dk and dv.
static inline void attention_backward_row_ref(real *dq, real *dk, real *dv, const real *dout,
                                              const real *out, const real *q, const real *k,
                                              const real *v, const real *lse,
                                              const AttentionShape *shape, size_t b, size_t h,
                                              size_t t, size_t T) {
    size_t H = shape->heads, D = shape->head_dim, group = H / shape->kv_heads;
    size_t query = (b * T + t) * shape->q_row + h * D, at = ((b * T + t) * H + h) * D;
    real dy_y = dot_ref(dout + at, out + at, D);

    for (size_t u = 0; u <= t; u++) {
        size_t key = (b * T + u) * shape->kv_row + h / group * D;
        real score = shape->scale * dot_ref(q + query, k + key, D);
        real p = exp(score - lse[(b * H + h) * T + t]);
        real ds = shape->scale * p * (dot_ref(dout + at, v + key, D) - dy_y);

        for (size_t d = 0; d < D; d++) {
            dv[key + d] += p * dout[at + d];
            dq[query + d] += ds * k[key + d];
            dk[key + d] += ds * q[query + d];
        }
    }
}

// What rows t0 .. t0 + rows - 1 of query head h of sequence b add to dq, dk and dv.
static inline void attention_backward_fp16_ref(real *dq, real *dk, real *dv, const real *dout,
                                               const real *out, const real *q, const real *k,
                                               const real *v, const real *lse,
                                               const AttentionShape *shape, size_t b, size_t h,
                                               size_t t0, size_t rows, size_t T) {
    size_t H = shape->heads, D = shape->head_dim, group = H / shape->kv_heads;
    size_t query = (b * T + t0) * shape->q_row + h * D, at = ((b * T + t0) * H + h) * D;
    real p[QUERY_BLOCK * KEY_BLOCK], ds[QUERY_BLOCK * KEY_BLOCK];

    for (size_t u = 0; u < t0 + rows; u += KEY_BLOCK) {
        size_t keys = T - u < KEY_BLOCK ? T - u : KEY_BLOCK;
        size_t key = (b * T + u) * shape->kv_row + h / group * D;
        fp16_scores_ref(p, q + query, shape->q_row, k + key, shape->kv_row, rows, keys, D);
        fp16_scores_ref(ds, dout + at, H * D, v + key, shape->kv_row, rows, keys, D);

        for (size_t i = 0; i < rows; i++) {
            real dy_y = dot_ref(dout + at + i * H * D, out + at + i * H * D, D);
            for (size_t j = 0; j < keys; j++) {
                real *x = p + i * KEY_BLOCK + j, *dx = ds + i * KEY_BLOCK + j;
                *x = u + j <= t0 + i ? exp(shape->scale * *x - lse[(b * H + h) * T + t0 + i]) : 0;
                *dx = shape->scale * *x * (*dx - dy_y);
            }
        }

        const MatrixView p_t = {p, 1, KEY_BLOCK}, ds_t = {ds, 1, KEY_BLOCK};
        add_fp16_rows_ref(dv + key, shape->kv_row, p_t, (MatrixView){dout + at, H * D, 1}, keys, D,
                          rows);
        add_fp16_rows_ref(dk + key, shape->kv_row, ds_t, (MatrixView){q + query, shape->q_row, 1},
                          keys, D, rows);
        add_fp16_rows_ref(dq + query, shape->q_row, (MatrixView){ds, KEY_BLOCK, 1},
                          (MatrixView){k + key, shape->kv_row, 1}, rows, D, keys);
    }
}

// With p_u = exp(score[u] - lse_t):
// dv_u += p_u dout_t;  dscore_u = p_u (dout_t . v_u - dout_t . out_t);
// dq_t += scale dscore_u k_u;  dk_u += scale dscore_u q_t.
// dq is laid out as q, dk and dv as k and v; of their rows the channels of the heads are
// overwritten. Threads divide the KV heads, whose query heads add in order.
static inline void attention_backward_ref(real *dq, real *dk, real *dv, const real *dout,
                                          const real *out, const real *q, const real *k,
                                          const real *v, const real *lse,
                                          const AttentionShape *shape, Precision precision,
                                          size_t B, size_t T) {
    size_t KV = shape->kv_heads, D = shape->head_dim, group = shape->heads / KV;
    for (size_t r = 0; r < B * T; r++) {
        memset(dq + r * shape->q_row, 0, shape->heads * D * sizeof(real));
        memset(dk + r * shape->kv_row, 0, KV * D * sizeof(real));
        memset(dv + r * shape->kv_row, 0, KV * D * sizeof(real));
    }
    const size_t block = precision == PRECISION_FP16 ? QUERY_BLOCK : 1;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * KV; i++) {
        for (size_t h = i % KV * group; h < (i % KV + 1) * group; h++) {
            for (size_t t = 0; t < T; t += block) {
                if (precision == PRECISION_FP32) {
                    attention_backward_row_ref(dq, dk, dv, dout, out, q, k, v, lse, shape, i / KV,
                                               h, t, T);
                } else {
                    attention_backward_fp16_ref(dq, dk, dv, dout, out, q, k, v, lse, shape, i / KV,
                                                h, t, T - t < block ? T - t : block, T);
                }
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Classifier: logits = inp weight^T, softmax and cross-entropy. weight (V, C): the embedding of the
// tokens, or with an untied head a matrix of its own.

// logits (R, V) = inp (R, C) weight^T (C, V)
static inline void logits_forward_ref(real *logits, const real *inp, const real *weight,
                                      Precision precision, size_t R, size_t C, size_t V) {
    matmul_forward_ref(logits, inp, weight, NULL, NULL, OUT_IN, precision, R, C, V);
}

// The classifier in three steps, so that TP ranks can shard the vocabulary (Shoeybi et al. 2019):
// each rank computes the logits of its shard and their softmax, the ranks all-gather the latter,
// and each rank turns its logits into gradients.

// logits (R, vocab.count) = exp(inp weight^T - max), softmax (R): of this shard; targets: (R)
static inline void classifier_forward_ref(real *logits, ShardSoftmax *softmax, const real *inp,
                                          const real *weight, const int32_t *targets,
                                          VocabShard vocab, Precision precision, size_t R,
                                          size_t C) {
    size_t V = vocab.count;
    logits_forward_ref(logits, inp, weight, precision, R, C, V);
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        size_t target = (size_t)targets[r] - vocab.first;
        real *x = logits + r * V, max = -INFINITY, lane[LANES] = {0};
        real target_logit = target < V ? x[target] : -INFINITY;

        for (size_t v = 0; v < V; v++) {
            max = x[v] > max ? x[v] : max;
        }
        for (size_t v = 0; v < V; v++) {
            x[v] = exp(x[v] - max);
            lane[v % LANES] += x[v];
        }
        softmax[r] = (ShardSoftmax){max, add_lanes_ref(lane), target_logit};
    }
}

// From shards (S, R), the softmax of each row over all S shards. With Z = sum_v exp(logits[v]):
// losses (R) = -log softmax(logits)[target] + z_loss log(Z)^2 (the z-loss of PaLM, Chowdhery et al.
// 2022), and scale (R), the factor that turns exp(logit - max) of shard `mine` into
// dloss (1 + 2 z_loss log Z) softmax(logits). exp_of and log_of: the fast kernels have their own.
static inline void cross_entropy_with(real *losses, real *scale, const ShardSoftmax *shards,
                                      size_t S, size_t mine, real dloss, real z_loss, size_t R,
                                      real (*exp_of)(real), real (*log_of)(real)) {
    for (size_t r = 0; r < R; r++) {
        real max = -INFINITY, target = -INFINITY, sum = 0;

        for (size_t s = 0; s < S; s++) {
            max = shards[s * R + r].max > max ? shards[s * R + r].max : max;
            target = shards[s * R + r].target > target ? shards[s * R + r].target : target;
        }
        for (size_t s = 0; s < S; s++) {
            sum += shards[s * R + r].sum * exp_of(shards[s * R + r].max - max);
        }

        real log_z = log_of(sum) + max, gradient = dloss * (1 + 2 * z_loss * log_z);
        losses[r] = log_z - target + z_loss * (log_z * log_z);
        scale[r] = gradient * exp_of(shards[mine * R + r].max - max) / sum;
    }
}

static inline real exp_ref(real x) {
    return exp(x);
}

static inline real log_ref(real x) {
    return log(x);
}

static inline void cross_entropy_ref(real *losses, real *scale, const ShardSoftmax *shards,
                                     size_t S, size_t mine, real dloss, real z_loss, size_t R) {
    cross_entropy_with(losses, scale, shards, S, mine, dloss, z_loss, R, exp_ref, log_ref);
}

// The part of dlogits = scale exp(logit - max) - dloss onehot(target) that comes from the targets:
// dinp (R, C) and dweight (vocab.count, C) are added to.
static inline void classifier_targets_ref(real *dinp, real *dweight, const real *inp,
                                          const real *weight, const int32_t *targets, real dloss,
                                          VocabShard vocab, size_t R, size_t C) {
    for (size_t r = 0; r < R; r++) {
        size_t target = (size_t)targets[r] - vocab.first;
        for (size_t c = 0; c < C && target < vocab.count; c++) {
            dinp[r * C + c] = fma(-dloss, weight[target * C + c], dinp[r * C + c]);
            dweight[target * C + c] = fma(-dloss, inp[r * C + c], dweight[target * C + c]);
        }
    }
}

// dlogits (R, vocab.count) = scale exp(logit - max) - dloss onehot(target), in place of the logits
// of classifier_forward; dinp (R, C) = dlogits weight;  dweight (vocab.count, C) += dlogits^T inp.
// In FP16 the targets' part is FP32 and comes first: beside it the small probabilities of its chunk
// would be lost.
static inline void classifier_backward_ref(real *dinp, real *dweight, real *logits,
                                           const real *scale, const real *inp, const real *weight,
                                           const int32_t *targets, real dloss, VocabShard vocab,
                                           Precision precision, size_t R, size_t C) {
    const bool apart = precision == PRECISION_FP16;
    size_t V = vocab.count;
    memset(dinp, 0, R * C * sizeof(real));
    if (apart) {
        classifier_targets_ref(dinp, dweight, inp, weight, targets, dloss, vocab, R, C);
    }
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        size_t target = (size_t)targets[r] - vocab.first;
        for (size_t v = 0; v < V; v++) {
            logits[r * V + v] *= scale[r];
        }
        if (target < V && !apart) {
            logits[r * V + target] -= dloss;
        }
    }

    add_product_ref(dinp, logits, weight, false, precision, R, C, V);
    add_transpose_product_ref(dweight, logits, inp, precision, V, C, R);
}

// ------------------------------------------------------------------------------------------------
// Update

// sum_i x[i]^2 in double, over 256 fixed segments: the order does not depend on the threads.
static inline double sum_of_squares_ref(const real *x, size_t n) {
    enum { SEGMENTS = 256 };
    double segment[SEGMENTS], sum = 0;
#pragma omp parallel for schedule(static)
    for (size_t s = 0; s < SEGMENTS; s++) {
        double lane[LANES] = {0};
        size_t end = s + 1 < SEGMENTS ? n / SEGMENTS * (s + 1) : n;

        for (size_t i = n / SEGMENTS * s; i < end; i++) {
            lane[i % LANES] += (double)x[i] * (double)x[i];
        }

        segment[s] = 0;
        for (size_t j = 0; j < LANES; j++) {
            segment[s] += lane[j];
        }
    }

    for (size_t s = 0; s < SEGMENTS; s++) {
        sum += segment[s];
    }
    return sum;
}

// AdamW (Loshchilov, Hutter 2019), step counted from 1, g = grad_scale * grad (gradient clipping):
// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
// param = param (1 - lr weight_decay)
//         - lr m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps)

// What all elements have in common.
typedef struct {
    real grad_scale, beta1, beta2, eps;
    real step_size; // lr / (1 - beta1^step)
    real v_scale;   // 1 / sqrt(1 - beta2^step)
    real keep;      // 1 - lr weight_decay
} AdamwTerms;

// base^n by squaring: products of doubles are the same on every machine, the library's pow is not.
static inline double power_ref(double base, uint64_t n) {
    double result = 1;
    for (; n > 0; n >>= 1, base *= base) {
        result *= n & 1 ? base : 1;
    }
    return result;
}

static inline AdamwTerms adamw_terms_ref(real grad_scale, real lr, real beta1, real beta2, real eps,
                                         real weight_decay, uint64_t step) {
    return (AdamwTerms){.grad_scale = grad_scale,
                        .beta1 = beta1,
                        .beta2 = beta2,
                        .eps = eps,
                        .step_size = (real)((double)lr / (1 - power_ref((double)beta1, step))),
                        .v_scale = (real)(1 / sqrt(1 - power_ref((double)beta2, step))),
                        .keep = 1 - lr * weight_decay};
}

static inline void adamw_ref(real *param, real *m, real *v, const real *grad, size_t n,
                             real grad_scale, real lr, real beta1, real beta2, real eps,
                             real weight_decay, uint64_t step) {
    AdamwTerms a = adamw_terms_ref(grad_scale, lr, beta1, beta2, eps, weight_decay, step);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        real g = a.grad_scale * grad[i];
        m[i] = a.beta1 * m[i] + (1 - a.beta1) * g;
        v[i] = a.beta2 * v[i] + (1 - a.beta2) * (g * g);
        v[i] = v[i] > FLT_MAX ? FLT_MAX : v[i]; // infinity would freeze the weight forever
        param[i] = a.keep * param[i] - a.step_size * m[i] / (sqrt(v[i]) * a.v_scale + a.eps);
    }
}

static const Kernels kernels_ref = {
    .name = "ref",
    .embedding_forward = embedding_forward_ref,
    .embedding_backward = embedding_backward_ref,
    .layernorm_forward = layernorm_forward_ref,
    .layernorm_backward = layernorm_backward_ref,
    .rmsnorm_forward = rmsnorm_forward_ref,
    .rmsnorm_backward = rmsnorm_backward_ref,
    .head_norm_forward = head_norm_forward_ref,
    .head_norm_backward = head_norm_backward_ref,
    .rope = rope_ref,
    .swiglu_forward = swiglu_forward_ref,
    .swiglu_backward = swiglu_backward_ref,
    .matmul_forward = matmul_forward_ref,
    .matmul_activation_forward = matmul_activation_forward_ref,
    .matmul_backward_input = matmul_backward_input_ref,
    .matmul_backward_weight = matmul_backward_weight_ref,
    .attention_forward = attention_forward_ref,
    .attention_backward = attention_backward_ref,
    .logits_forward = logits_forward_ref,
    .classifier_forward = classifier_forward_ref,
    .cross_entropy = cross_entropy_ref,
    .classifier_backward = classifier_backward_ref,
    .sum_of_squares = sum_of_squares_ref,
    .adamw = adamw_ref,
};

#endif
