// kernels_ref.h: what every kernel computes, in plain scalar C. This is the specification: the fast
// kernels of kernels_sve.h have the same signatures and are diffed against these. Kernels know
// nothing of MPI, files or the model.
//
// Letters: B sequences of T tokens, R = B * T rows, C channels, H heads of D = C / H channels, V
// tokens of the vocabulary, OC output channels of a matrix product. All arrays are dense and
// row-major. A gradient has the name of its array with a d in front. Every gradient of a weight is
// added to what is there (dweight, dbias, dwte, dwpe); other outputs are overwritten unless stated.
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

// Rows of logits that exist at one time: B x T x V of them are never stored.
enum { CLASSIFIER_ROWS = 256 };

// The function between the two products of an MLP.
typedef enum { ACTIVATION_GELU_TANH, ACTIVATION_GELU, ACTIVATION_RELU } Activation;

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
                              const real *weight, const real *bias, size_t R, size_t C);
    void (*layernorm_backward)(real *dinp, real *dweight, real *dbias, const real *dout,
                               const real *inp, const real *weight, const real *mean,
                               const real *rstd, size_t R, size_t C);
    void (*matmul_forward)(real *out, const real *inp, const real *weight, const real *bias,
                           const real *residual, size_t R, size_t C, size_t OC);
    void (*matmul_gelu_forward)(real *out, real *gelu, const real *inp, const real *weight,
                                const real *bias, size_t R, size_t C, size_t OC);
    void (*matmul_backward_input)(real *dinp, const real *dout, const real *weight,
                                  const real *gelu_inp, size_t R, size_t C, size_t OC);
    void (*matmul_backward_weight)(real *dweight, real *dbias, const real *inp, const real *dout,
                                   size_t R, size_t C, size_t OC);
    void (*attention_forward)(real *out, real *lse, const real *qkv, size_t first_row, size_t B,
                              size_t T, size_t C, size_t H);
    void (*attention_backward)(real *dqkv, const real *dout, const real *out, const real *qkv,
                               const real *lse, size_t B, size_t T, size_t C, size_t H);
    void (*logits_forward)(real *logits, const real *inp, const real *wte, size_t R, size_t C,
                           size_t V);
    void (*classifier_forward)(real *logits, ShardSoftmax *softmax, const real *inp,
                               const real *wte, const int32_t *targets, VocabShard vocab, size_t R,
                               size_t C);
    void (*cross_entropy)(real *losses, real *scale, const ShardSoftmax *shards, size_t S,
                          size_t mine, real dloss, size_t R);
    void (*classifier_backward)(real *dinp, real *dwte, real *logits, const real *scale,
                                const real *inp, const real *wte, const int32_t *targets,
                                real dloss, VocabShard vocab, size_t R, size_t C);
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
// GELU, tanh approximation (Hendrycks, Gimpel 2016):
// x/2 (1 + tanh(s)) with s = sqrt(2/pi) (x + 0.044715 x^3)

#define GELU_SCALE ((real)0.79788456080286535588) // sqrt(2 / pi)
#define GELU_CUBE ((real)0.044715)

static inline void gelu_forward_ref(real *out, const real *inp, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        real x = inp[i];
        out[i] = x / 2 * (1 + tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x)));
    }
}

// dout *= 1/2 (1 + tanh(s)) + x/2 (1 - tanh(s)^2) ds/dx
static inline void gelu_backward_ref(real *dout, const real *inp, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        real x = inp[i], y = tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x));
        real slope = GELU_SCALE * (1 + 3 * GELU_CUBE * x * x);
        dout[i] *= (1 + y) / 2 + x / 2 * (1 - y * y) * slope;
    }
}

// ------------------------------------------------------------------------------------------------
// Matrix products: each element is a chain of fused multiply-adds in ascending order.

// y (n) += factor * x (n): one step of the chains of a row
static inline void add_scaled_ref(real *y, real factor, const real *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        y[i] = fma(factor, x[i], y[i]);
    }
}

// y (n) = b (n, K) x (K): a row of a product with a transpose, 4 chains at a time
static inline void row_times_transpose_ref(real *y, const real *x, const real *b, size_t n,
                                           size_t K) {
    enum { CHAINS = 4 };
    for (size_t i = 0; i < n; i += CHAINS, b += CHAINS * K) {
        size_t chains = n - i < CHAINS ? n - i : CHAINS;
        const real *row[CHAINS];
        real sum[CHAINS] = {0};

        // chains beyond the last one repeat it
        for (size_t j = 0; j < CHAINS; j++) {
            row[j] = b + (j < chains ? j : chains - 1) * K;
        }
        for (size_t k = 0; k < K; k++) {
            for (size_t j = 0; j < CHAINS; j++) {
                sum[j] = fma(x[k], row[j][k], sum[j]);
            }
        }
        memcpy(y + i, sum, chains * sizeof(real));
    }
}

// out (R, OC) = inp (R, C) weight (C, OC) + bias (OC) + residual (R, OC). bias and residual may be
// NULL: they count as zero.
static inline void matmul_forward_ref(real *out, const real *inp, const real *weight,
                                      const real *bias, const real *residual, size_t R, size_t C,
                                      size_t OC) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        real *y = out + r * OC;

        for (size_t o = 0; o < OC; o++) {
            y[o] = bias ? bias[o] : 0;
        }
        for (size_t c = 0; c < C; c++) {
            add_scaled_ref(y, inp[r * C + c], weight + c * OC, OC);
        }
        for (size_t o = 0; o < OC && residual; o++) {
            y[o] += residual[r * OC + o];
        }
    }
}

// out as above without residual, and gelu (R, OC) = GELU(out)
static inline void matmul_gelu_forward_ref(real *out, real *gelu, const real *inp,
                                           const real *weight, const real *bias, size_t R, size_t C,
                                           size_t OC) {
    matmul_forward_ref(out, inp, weight, bias, NULL, R, C, OC);
    gelu_forward_ref(gelu, out, R * OC);
}

// dinp (R, C) = dout (R, OC) weight^T (OC, C); unless gelu_inp (R, C) is NULL, times the derivative
// of GELU at gelu_inp
static inline void matmul_backward_input_ref(real *dinp, const real *dout, const real *weight,
                                             const real *gelu_inp, size_t R, size_t C, size_t OC) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        row_times_transpose_ref(dinp + r * C, dout + r * OC, weight, C, OC);
    }
    if (gelu_inp) {
        gelu_backward_ref(dinp, gelu_inp, R * C);
    }
}

// dweight (C, OC) += inp^T (C, R) dout (R, OC);  unless it is NULL, dbias (OC) += sum_r dout (r, :)
static inline void matmul_backward_weight_ref(real *dweight, real *dbias, const real *inp,
                                              const real *dout, size_t R, size_t C, size_t OC) {
#pragma omp parallel for schedule(static)
    for (size_t c = 0; c < C; c++) {
        for (size_t r = 0; r < R; r++) {
            add_scaled_ref(dweight + c * OC, inp[r * C + c], dout + r * OC, OC);
        }
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
// counts as zeros, and so do all positions if wpe is NULL, as it is on TP ranks above 0: the
// all-reduce of the ranks' outputs is the embedding.

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

// dwte (vocab.count, C) += and dwpe (T, C) += the rows of dout (B, T, C) that read them. Threads
// divide the channels, so that all occurrences of a token are added by one thread, in the order of
// the rows.
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
                dwpe[r % T * C + c] += dout[r * C + c];
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// LayerNorm (Ba, Kiros, Hinton 2016), each row of C: out = (x - mean) * rstd * weight + bias, rstd
// = 1 / sqrt(var + 1e-5). mean and rstd: (R), kept for backward.

static inline void layernorm_forward_ref(real *out, real *mean, real *rstd, const real *inp,
                                         const real *weight, const real *bias, size_t R, size_t C) {
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
        real s = 1 / sqrt(dot_ref(y, y, C) / (real)C + (real)1e-5);

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
// Causal attention. qkv: (B, T, 3C): each row holds q, k, v of all heads. For head h and row t:
// score[u] = q_t . k_u / sqrt(D) for u <= t;  out_t = sum_u softmax(score)[u] * v_u.
// Nothing of size T x T is stored: the softmax is computed online (Milakov, Gimelshein 2018), and
// backward recomputes it from lse (B, H, T) = log sum_u exp(score[u]).

// Computes rows first_row .. T - 1 of each sequence, which read all rows up to their own: with
// first_row > 0 the k and v of earlier calls are the key-value cache of generation.
static inline void attention_forward_ref(real *out, real *lse, const real *qkv, size_t first_row,
                                         size_t B, size_t T, size_t C, size_t H) {
    size_t D = C / H, rows = T - first_row;
    real scale = 1 / sqrt((real)D);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * H * rows; i++) {
        size_t b = i / (H * rows), h = i / rows % H, t = first_row + i % rows;
        const real *q = qkv + (b * T + t) * 3 * C + h * D;
        real *y = out + (b * T + t) * C + h * D;
        real max = -INFINITY, sum = 0;
        memset(y, 0, D * sizeof(real));

        for (size_t u = 0; u <= t; u++) {
            const real *k = qkv + (b * T + u) * 3 * C + C + h * D, *v = k + C;
            real score = scale * dot_ref(q, k, D);

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
                y[d] += p * v[d];
            }
        }

        for (size_t d = 0; d < D; d++) {
            y[d] /= sum;
        }
        lse[(b * H + h) * T + t] = max + log(sum);
    }
}

// With p_u = exp(score[u] - lse_t):
// dv_u += p_u dout_t;  dscore_u = p_u (dout_t . v_u - dout_t . out_t);
// dq_t += dscore_u k_u / sqrt(D);  dk_u += dscore_u q_t / sqrt(D).
// dqkv is overwritten. Threads divide the heads.
static inline void attention_backward_ref(real *dqkv, const real *dout, const real *out,
                                          const real *qkv, const real *lse, size_t B, size_t T,
                                          size_t C, size_t H) {
    size_t D = C / H;
    real scale = 1 / sqrt((real)D);
    memset(dqkv, 0, B * T * 3 * C * sizeof(real));
#pragma omp parallel for schedule(static)
    for (size_t bh = 0; bh < B * H; bh++) {
        size_t b = bh / H, h = bh % H;
        for (size_t t = 0; t < T; t++) {
            const real *q = qkv + (b * T + t) * 3 * C + h * D;
            const real *y = out + (b * T + t) * C + h * D, *dy = dout + (b * T + t) * C + h * D;
            real *dq = dqkv + (b * T + t) * 3 * C + h * D;
            real dy_y = dot_ref(dy, y, D);

            for (size_t u = 0; u <= t; u++) {
                const real *k = qkv + (b * T + u) * 3 * C + C + h * D, *v = k + C;
                real *dk = dqkv + (b * T + u) * 3 * C + C + h * D, *dv = dk + C;
                real p = exp(scale * dot_ref(q, k, D) - lse[bh * T + t]);
                real ds = scale * p * (dot_ref(dy, v, D) - dy_y);

                for (size_t d = 0; d < D; d++) {
                    dv[d] += p * dy[d];
                    dq[d] += ds * k[d];
                    dk[d] += ds * q[d];
                }
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Classifier: logits = inp wte^T, softmax and cross-entropy

// logits (R, V) = inp (R, C) wte^T (C, V)
static inline void logits_forward_ref(real *logits, const real *inp, const real *wte, size_t R,
                                      size_t C, size_t V) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        row_times_transpose_ref(logits + r * V, inp + r * C, wte, V, C);
    }
}

// The classifier in three steps, so that TP ranks can shard the vocabulary (Shoeybi et al. 2019):
// each rank computes the logits of its shard and their softmax, the ranks all-gather the latter,
// and each rank turns its logits into gradients.

// logits (R, vocab.count) = exp(inp wte^T - max), softmax (R): of this shard; targets: (R)
static inline void classifier_forward_ref(real *logits, ShardSoftmax *softmax, const real *inp,
                                          const real *wte, const int32_t *targets, VocabShard vocab,
                                          size_t R, size_t C) {
    size_t V = vocab.count;
    logits_forward_ref(logits, inp, wte, R, C, V);
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

// From shards (S, R), the softmax of each row over all S shards: losses (R) = -log
// softmax(logits)[target], and scale (R), the factor that turns exp(logit - max) of shard `mine`
// into dloss softmax(logits). exp_of and log_of: the fast kernels have their own.
static inline void cross_entropy_with(real *losses, real *scale, const ShardSoftmax *shards,
                                      size_t S, size_t mine, real dloss, size_t R,
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

        losses[r] = log_of(sum) + max - target;
        scale[r] = dloss * exp_of(shards[mine * R + r].max - max) / sum;
    }
}

static inline real exp_ref(real x) {
    return exp(x);
}

static inline real log_ref(real x) {
    return log(x);
}

static inline void cross_entropy_ref(real *losses, real *scale, const ShardSoftmax *shards,
                                     size_t S, size_t mine, real dloss, size_t R) {
    cross_entropy_with(losses, scale, shards, S, mine, dloss, R, exp_ref, log_ref);
}

// dlogits (R, vocab.count) = dloss (softmax(logits) - onehot(target)), in place of the logits of
// classifier_forward; dinp (R, C) = dlogits wte;  dwte (vocab.count, C) += dlogits^T inp.
static inline void classifier_backward_ref(real *dinp, real *dwte, real *logits, const real *scale,
                                           const real *inp, const real *wte, const int32_t *targets,
                                           real dloss, VocabShard vocab, size_t R, size_t C) {
    size_t V = vocab.count;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        size_t target = (size_t)targets[r] - vocab.first;
        for (size_t v = 0; v < V; v++) {
            logits[r * V + v] *= scale[r];
        }
        if (target < V) {
            logits[r * V + target] -= dloss;
        }
    }

    matmul_forward_ref(dinp, logits, wte, NULL, NULL, R, V, C);
    matmul_backward_weight_ref(dwte, NULL, logits, inp, R, V, C);
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
    .matmul_forward = matmul_forward_ref,
    .matmul_gelu_forward = matmul_gelu_forward_ref,
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
