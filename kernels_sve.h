// kernels_sve.h: the kernels of kernels_ref.h, fast, in Arm SVE intrinsics. Correct for every
// vector length from 128 to 2048 bits, tuned for the 512 of A64FX. On machines without SVE the same
// source is compiled over kernels/sve_shim.h. The sizes that are tuned are in kernels/sizes_sve.h,
// the packed matrix product in kernels/gemm_sve.h, attention in kernels/attention_sve.h,
// activations in kernels/activation_sve.h, exp and sums along a row in kernels/vector_math_sve.h.
//
// Bits: the results are the same for any number of threads, any vector length and either
// instruction set. Matrix products add over k in ascending order with fused multiply-adds, whatever
// the tiles. Sums along a row use 64 virtual lanes that are added in a fixed tree. exp, reciprocal
// and square root are sequences of exactly rounded operations. So this file is compiled with
// -ffp-contract=off: every fused multiply-add is written out.
//
// SVE code stays in plain functions over one row or tile that are called from parallel regions: gcc
// 12 for AArch64 crashes on vectors that cross the edge of a region, and on loops of full vectors
// with a tail; each pass here is one predicated loop.
#ifndef KERNELS_SVE_H
#define KERNELS_SVE_H

#include <float.h>
#include <math.h>
#include <omp.h>

#include "kernels/activation_sve.h"  // defines: swiglu_row_sve
#include "kernels/attention_sve.h"   // defines: attention_forward_sve, attention_backward_sve
#include "kernels/gemm_sve.h"        // defines: gemm_sve, Epilogue, MatrixView
#include "kernels/vector_math_sve.h" // defines: sum_row_sve, exp_row_sve, add_row_sve
#include "kernels_ref.h"             // defines: Kernels, ShardSoftmax, VocabShard

// ------------------------------------------------------------------------------------------------
// Matrix products

// The weight of a product from C to OC channels, as (C, OC) and as its transpose.
static inline MatrixView weight_view(const float *weight, MatrixLayout layout, size_t C,
                                     size_t OC) {
    return layout == IN_OUT ? (MatrixView){weight, OC, 1} : (MatrixView){weight, 1, C};
}

static inline MatrixView transposed_weight_view(const float *weight, MatrixLayout layout, size_t C,
                                                size_t OC) {
    return layout == IN_OUT ? (MatrixView){weight, 1, OC} : (MatrixView){weight, C, 1};
}

static inline void matmul_forward_sve(float *out, const float *inp, const float *weight,
                                      const float *bias, const float *residual, MatrixLayout layout,
                                      Precision precision, size_t R, size_t C, size_t OC) {
    gemm_sve(out, (MatrixView){inp, C, 1}, weight_view(weight, layout, C, OC), precision, R, OC, C,
             &(Epilogue){.bias = bias, .residual = residual});
}

static inline void matmul_activation_forward_sve(float *out, float *act, const float *inp,
                                                 const float *weight, const float *bias,
                                                 Activation activation, Precision precision,
                                                 size_t R, size_t C, size_t OC) {
    gemm_sve(out, (MatrixView){inp, C, 1}, weight_view(weight, IN_OUT, C, OC), precision, R, OC, C,
             &(Epilogue){.bias = bias, .activation = activation, .act = act});
}

static inline void matmul_backward_input_sve(float *dinp, const float *dout, const float *weight,
                                             const float *act_inp, Activation activation,
                                             MatrixLayout layout, Precision precision, size_t R,
                                             size_t C, size_t OC) {
    gemm_sve(dinp, (MatrixView){dout, OC, 1}, transposed_weight_view(weight, layout, C, OC),
             precision, R, C, OC, &(Epilogue){.activation = activation, .act_inp = act_inp});
}

static inline void matmul_backward_weight_sve(float *dweight, float *dbias, const float *inp,
                                              const float *dout, MatrixLayout layout,
                                              Precision precision, size_t R, size_t C, size_t OC) {
    const MatrixView x = {inp, C, 1}, x_t = {inp, 1, C}, dy = {dout, OC, 1}, dy_t = {dout, 1, OC};
    const Epilogue add = {.accumulate = true};
    if (layout == IN_OUT) {
        gemm_sve(dweight, x_t, dy, precision, C, OC, R, &add);
    } else {
        gemm_sve(dweight, dy_t, x, precision, OC, C, R, &add);
    }

    if (!dbias) {
        return;
    }

    const size_t columns = 4 * svcntw(); // of one call
#pragma omp parallel for schedule(static)
    for (size_t o = 0; o < OC; o += columns) {
        add_rows_sve(dbias, dout, R, OC, o);
    }
}

// ------------------------------------------------------------------------------------------------
// Embedding

static inline void embedding_forward_sve(float *out, const int32_t *tokens, const float *wte,
                                         const float *wpe, VocabShard vocab, size_t first_position,
                                         size_t B, size_t T, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < B * T; r++) {
        size_t token = (size_t)tokens[r] - vocab.first;
        const float *x = token < vocab.count ? wte + token * C : NULL;
        const float *position = wpe ? wpe + (first_position + r % T) * C : NULL;
        float *row = out + r * C;

        if (x && position) {
            add_row_sve(row, x, position, C);
        } else if (x || position) {
            memcpy(row, x ? x : position, C * sizeof *row);
        } else {
            memset(row, 0, C * sizeof *row);
        }
    }
}

static inline void embedding_backward_sve(float *dwte, float *dwpe, const float *dout,
                                          const int32_t *tokens, VocabShard vocab, size_t B,
                                          size_t T, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t c = 0; c < C; c += MAX_LANES) {
        size_t n = min_u64(C - c, MAX_LANES);
        for (size_t r = 0; r < B * T; r++) {
            size_t token = (size_t)tokens[r] - vocab.first;
            const float *dy = dout + r * C + c;
            if (token < vocab.count) {
                float *row = dwte + token * C + c;
                add_row_sve(row, row, dy, n);
            }
            if (dwpe) {
                float *position = dwpe + r % T * C + c;
                add_row_sve(position, position, dy, n);
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// LayerNorm

static inline void layernorm_row_sve(float *out, float *mean, float *rstd, const float *x,
                                     const float *weight, const float *bias, float eps, size_t C) {
    float m = sum_row_sve(C, add_a_sve, &(RowTerms){.a = x}) / (float)C;
    float variance = sum_row_sve(C, add_square_sve, &(RowTerms){.a = x, .s = m}) / (float)C;
    float s = 1 / sqrtf(variance + eps);

    for (size_t c = 0; c < C; c += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(c, C);
        svfloat32_t n =
            svmul_f32_x(p, svsub_f32_x(p, svld1_f32(p, x + c), svdup_n_f32(m)), svdup_n_f32(s));
        svst1_f32(p, out + c, svmla_f32_x(p, svld1_f32(p, bias + c), n, svld1_f32(p, weight + c)));
    }

    *mean = m;
    *rstd = s;
}

static inline void layernorm_forward_sve(float *out, float *mean, float *rstd, const float *inp,
                                         const float *weight, const float *bias, float eps,
                                         size_t R, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        layernorm_row_sve(out + r * C, mean + r, rstd + r, inp + r * C, weight, bias, eps, C);
    }
}

static inline void layernorm_backward_row_sve(float *dx, const float *dout, const float *x,
                                              const float *weight, float mean, float rstd,
                                              size_t C) {
    RowTerms row = {.a = x, .b = dout, .c = weight, .s = mean, .t = rstd};
    float gn_avg = sum_row_sve(C, add_normalized_sve, &row) / (float)C;
    float g_avg = sum_row_sve(C, add_a_b_sve, &(RowTerms){.a = dout, .b = weight}) / (float)C;

    for (size_t c = 0; c < C; c += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(c, C);
        svfloat32_t n = svmul_f32_x(p, svsub_f32_x(p, svld1_f32(p, x + c), svdup_n_f32(mean)),
                                    svdup_n_f32(rstd));
        svfloat32_t g = svmul_f32_x(p, svld1_f32(p, dout + c), svld1_f32(p, weight + c));
        g = svmla_f32_x(p, svsub_f32_x(p, g, svdup_n_f32(g_avg)), n, svdup_n_f32(-gn_avg));
        svst1_f32(p, dx + c, svmla_f32_x(p, svld1_f32(p, dx + c), g, svdup_n_f32(rstd)));
    }
}

static inline void layernorm_backward_sve(float *dinp, float *dweight, float *dbias,
                                          const float *dout, const float *inp, const float *weight,
                                          const float *mean, const float *rstd, size_t R,
                                          size_t C) {
    const size_t columns = 4 * svcntw(); // of one call
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        layernorm_backward_row_sve(dinp + r * C, dout + r * C, inp + r * C, weight, mean[r],
                                   rstd[r], C);
    }

#pragma omp parallel for schedule(static)
    for (size_t c = 0; c < C; c += columns) {
        add_layernorm_weights_sve(dweight, dbias, dout, inp, mean, rstd, R, C, c);
    }
}

// ------------------------------------------------------------------------------------------------
// RMSNorm, of rows and of heads

// out = x rstd weight; they may be the same array. Returns rstd.
static inline float rmsnorm_row_sve(float *out, const float *x, const float *weight, float eps,
                                    size_t C) {
    float square = sum_row_sve(C, add_a_b_sve, &(RowTerms){.a = x, .b = x}) / (float)C;
    float rstd = 1 / sqrtf(square + eps);

    for (size_t c = 0; c < C; c += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(c, C);
        svfloat32_t n = svmul_f32_x(p, svld1_f32(p, x + c), svdup_n_f32(rstd));
        svst1_f32(p, out + c, svmul_f32_x(p, n, svld1_f32(p, weight + c)));
    }
    return rstd;
}

static inline void rmsnorm_forward_sve(float *out, float *rstd, const float *inp,
                                       const float *weight, float eps, size_t R, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        rstd[r] = rmsnorm_row_sve(out + r * C, inp + r * C, weight, eps, C);
    }
}

// With n = x rstd: dx = or += rstd (dout weight - n avg(dout weight n)). dx may be dout.
SVE_INLINE void rmsnorm_backward_row_sve(float *dx, const bool accumulate, const float *dout,
                                         const float *x, const float *weight, float rstd,
                                         size_t C) {
    RowTerms row = {.a = x, .b = dout, .c = weight, .t = rstd};
    float gn_avg = sum_row_sve(C, add_normalized_sve, &row) / (float)C;

    for (size_t c = 0; c < C; c += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(c, C);
        svfloat32_t before = accumulate ? svld1_f32(p, dx + c) : svdup_n_f32(0);
        svfloat32_t n = svmul_f32_x(p, svld1_f32(p, x + c), svdup_n_f32(rstd));
        svfloat32_t g = svmul_f32_x(p, svld1_f32(p, dout + c), svld1_f32(p, weight + c));
        g = svmla_f32_x(p, g, n, svdup_n_f32(-gn_avg));
        svst1_f32(p, dx + c, svmla_f32_x(p, before, g, svdup_n_f32(rstd)));
    }
}

static inline void rmsnorm_backward_sve(float *dinp, float *dweight, const float *dout,
                                        const float *inp, const float *weight, const float *rstd,
                                        size_t R, size_t C) {
    const size_t columns = 4 * svcntw(); // of one call
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        rmsnorm_backward_row_sve(dinp + r * C, true, dout + r * C, inp + r * C, weight, rstd[r], C);
    }

#pragma omp parallel for schedule(static)
    for (size_t c = 0; c < C; c += columns) {
        add_rmsnorm_weights_sve(dweight, dout, inp, rstd, C, R, 1, C, c);
    }
}

static inline void head_norm_forward_sve(float *x, float *raw, float *rstd, const float *weight,
                                         float eps, size_t row, size_t R, size_t H, size_t D) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        memcpy(raw + r * H * D, x + r * row, H * D * sizeof *raw);
        for (size_t h = 0; h < H; h++) {
            float *head = x + r * row + h * D;
            rstd[r * H + h] = rmsnorm_row_sve(head, head, weight, eps, D);
        }
    }
}

static inline void head_norm_backward_sve(float *dx, float *dweight, const float *raw,
                                          const float *weight, const float *rstd, size_t row,
                                          size_t R, size_t H, size_t D) {
    const size_t columns = 4 * svcntw(); // of one call
#pragma omp parallel for schedule(static)
    for (size_t d = 0; d < D; d += columns) {
        add_rmsnorm_weights_sve(dweight, dx, raw, rstd, row, R, H, D, d);
    }

#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        for (size_t h = 0; h < H; h++) {
            size_t i = r * H + h;
            float *head = dx + r * row + h * D;
            rmsnorm_backward_row_sve(head, false, head, raw + i * D, weight, rstd[i], D);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Rotary position embedding

// Rotates the points (a[d], b[d]) by the angles of cosine and sine; direction -1: back.
static inline void rotate_sve(float *a, float *b, const float *cosine, const float *sine,
                              float direction, size_t n) {
    for (size_t d = 0; d < n; d += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(d, n);
        svfloat32_t x = svld1_f32(p, a + d), y = svld1_f32(p, b + d), c = svld1_f32(p, cosine + d);
        svfloat32_t s = svmul_f32_x(p, svld1_f32(p, sine + d), svdup_n_f32(direction));
        svst1_f32(p, a + d, svmls_f32_x(p, svmul_f32_x(p, x, c), y, s));
        svst1_f32(p, b + d, svmla_f32_x(p, svmul_f32_x(p, y, c), x, s));
    }
}

static inline void rope_sve(float *x, const float *table, size_t row, size_t first_position,
                            size_t B, size_t T, size_t H, size_t D, bool inverse) {
    const size_t half = D / 2;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < B * T; r++) {
        const float *cosine = table + (first_position + r % T) * D;
        for (size_t h = 0; h < H; h++) {
            float *head = x + r * row + h * D;
            rotate_sve(head, head + half, cosine, cosine + half, inverse ? -1 : 1, half);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// SwiGLU

static inline void swiglu_forward_sve(float *out, const float *gate_up, size_t R, size_t F) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        const float *gate = gate_up + r * 2 * F;
        swiglu_row_sve(out + r * F, gate, gate + F, F);
    }
}

static inline void swiglu_backward_sve(float *dgate_up, const float *dout, const float *gate_up,
                                       size_t R, size_t F) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        const float *gate = gate_up + r * 2 * F;
        float *dgate = dgate_up + r * 2 * F;
        swiglu_backward_row_sve(dgate, dgate + F, dout + r * F, gate, gate + F, F);
    }
}

// ------------------------------------------------------------------------------------------------
// Classifier

static inline void logits_forward_sve(float *logits, const float *inp, const float *weight,
                                      Precision precision, size_t R, size_t C, size_t V) {
    matmul_forward_sve(logits, inp, weight, NULL, NULL, OUT_IN, precision, R, C, V);
}

static inline void classifier_forward_sve(float *logits, ShardSoftmax *softmax, const float *inp,
                                          const float *weight, const int32_t *targets,
                                          VocabShard vocab, Precision precision, size_t R,
                                          size_t C) {
    logits_forward_sve(logits, inp, weight, precision, R, C, vocab.count);
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        size_t target = (size_t)targets[r] - vocab.first;
        float *x = logits + r * vocab.count, max = max_row_sve(x, vocab.count);

        softmax[r].target = target < vocab.count ? x[target] : -INFINITY;
        softmax[r].max = max;
        softmax[r].sum = exp_row_sve(x, vocab.count, 1, max);
    }
}

static inline void cross_entropy_sve(float *losses, float *scale, const ShardSoftmax *shards,
                                     size_t S, size_t mine, float dloss, float z_loss, size_t R) {
    cross_entropy_with(losses, scale, shards, S, mine, dloss, z_loss, R, exp_scalar_sve,
                       log_scalar_sve);
}

// classifier_targets_ref. Threads divide the channels, so that all rows of a token are added by one
// of them, in order.
static inline void classifier_targets_sve(float *dinp, float *dweight, const float *inp,
                                          const float *weight, const int32_t *targets, float dloss,
                                          VocabShard vocab, size_t R, size_t C) {
    const size_t columns = 4 * svcntw(); // of one call
#pragma omp parallel for schedule(static)
    for (size_t c = 0; c < C; c += columns) {
        const size_t n = min_u64(C - c, columns);
        for (size_t r = 0; r < R; r++) {
            size_t target = (size_t)targets[r] - vocab.first;
            if (target < vocab.count) {
                add_scaled_row_sve(dinp + r * C + c, weight + target * C + c, -dloss, n);
                add_scaled_row_sve(dweight + target * C + c, inp + r * C + c, -dloss, n);
            }
        }
    }
}

static inline void classifier_backward_sve(float *dinp, float *dweight, float *logits,
                                           const float *scale, const float *inp,
                                           const float *weight, const int32_t *targets, float dloss,
                                           VocabShard vocab, Precision precision, size_t R,
                                           size_t C) {
    const bool apart = precision == PRECISION_FP16;
    size_t V = vocab.count;
    if (apart) {
        memset(dinp, 0, R * C * sizeof *dinp);
        classifier_targets_sve(dinp, dweight, inp, weight, targets, dloss, vocab, R, C);
    }
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        size_t target = (size_t)targets[r] - vocab.first;
        scale_row_sve(logits + r * V, V, scale[r]);
        if (target < V && !apart) {
            logits[r * V + target] -= dloss;
        }
    }

    gemm_sve(dinp, (MatrixView){logits, V, 1}, (MatrixView){weight, C, 1}, precision, R, C, V,
             &(Epilogue){.accumulate = apart});
    gemm_sve(dweight, (MatrixView){logits, 1, V}, (MatrixView){inp, C, 1}, precision, V, C, R,
             &(Epilogue){.accumulate = true});
}

// ------------------------------------------------------------------------------------------------
// Update

// The sum of squares of a block of 4096, in float lanes, is exact to 1e-6. Blocks are added in
// double, in order within each of 256 fixed segments.
static inline double sum_of_squares_sve(const float *x, size_t n) {
    enum { SEGMENTS = 256, BLOCK = 4096 };
    double segment[SEGMENTS], sum = 0;
    size_t segment_size = divide_up(divide_up(n, BLOCK), SEGMENTS) * BLOCK;

#pragma omp parallel for schedule(static)
    for (size_t s = 0; s < SEGMENTS; s++) {
        size_t end = min_u64((s + 1) * segment_size, n);

        segment[s] = 0;
        for (size_t i = s * segment_size; i < end; i += BLOCK) {
            RowTerms row = {.a = x + i, .b = x + i};
            segment[s] += (double)sum_row_sve(min_u64(n - i, BLOCK), add_a_b_sve, &row);
        }
    }

    for (size_t s = 0; s < SEGMENTS; s++) {
        sum += segment[s];
    }
    return sum;
}

// Eight vectors at a time, in phases that keep few values in registers: moments, 1 / sqrt(v),
// update.
static inline void adamw_block_sve(float *param, float *m, float *v, const float *grad, size_t n,
                                   AdamwTerms a) {
    const size_t vl = svcntw();

#define EIGHT(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define MOMENTS(j)                                                                                 \
    const size_t at##j = i + j * vl;                                                               \
    const svbool_t p##j = svwhilelt_b32_u64(at##j, n);                                             \
    svfloat32_t g##j =                                                                             \
        svmul_f32_x(p##j, svld1_f32(p##j, grad + at##j), svdup_n_f32(a.grad_scale));               \
    svfloat32_t m##j = svmul_f32_x(p##j, g##j, svdup_n_f32(1 - a.beta1));                          \
    m##j = svmla_f32_x(p##j, m##j, svld1_f32(p##j, m + at##j), svdup_n_f32(a.beta1));              \
    svst1_f32(p##j, m + at##j, m##j);                                                              \
    svfloat32_t v##j = svmul_f32_x(p##j, svld1_f32(p##j, v + at##j), svdup_n_f32(a.beta2));        \
    v##j = svmla_f32_x(p##j, v##j, svmul_f32_x(p##j, g##j, g##j), svdup_n_f32(1 - a.beta2));       \
    v##j = svmin_f32_x(p##j, svdup_n_f32(FLT_MAX), v##j);                                          \
    svst1_f32(p##j, v + at##j, v##j);
#define ROOT_GUESS(j)                                                                              \
    svfloat32_t half##j = svmul_f32_x(p##j, svdup_n_f32(0.5f), v##j),                              \
                y##j = root_guess_sve(p##j, v##j);
#define ROOT_FIRST(j) y##j = root_step_sve(p##j, y##j, half##j, 1.50090015f);
#define ROOT_SECOND(j) y##j = root_step_sve(p##j, y##j, half##j, 1.50000072f);
#define DIVISOR(j)                                                                                 \
    half##j = svmla_f32_x(p##j, svdup_n_f32(a.eps), svmul_f32_x(p##j, half##j, y##j),              \
                          svdup_n_f32(2 * a.v_scale));                                             \
    y##j = reciprocal_guess_sve(p##j, half##j);
#define RECIPROCAL_STEP(j) y##j = reciprocal_step_sve(p##j, y##j, half##j);
#define UPDATE(j)                                                                                  \
    svfloat32_t kept##j = svmul_f32_x(p##j, svld1_f32(p##j, param + at##j), svdup_n_f32(a.keep));  \
    y##j = svmul_f32_x(p##j, y##j, svdup_n_f32(-a.step_size));                                     \
    svst1_f32(p##j, param + at##j, svmla_f32_x(p##j, kept##j, svld1_f32(p##j, m + at##j), y##j));

    for (size_t i = 0; i < n; i += 8 * vl) {
        // clang-format off
        EIGHT(MOMENTS)
        EIGHT(ROOT_GUESS) EIGHT(ROOT_FIRST) EIGHT(ROOT_SECOND)
        EIGHT(DIVISOR) EIGHT(RECIPROCAL_STEP) EIGHT(RECIPROCAL_STEP) EIGHT(RECIPROCAL_STEP)
        EIGHT(UPDATE)
        // clang-format on
    }

#undef EIGHT
#undef MOMENTS
#undef ROOT_GUESS
#undef ROOT_FIRST
#undef ROOT_SECOND
#undef DIVISOR
#undef RECIPROCAL_STEP
#undef UPDATE
}

static inline void adamw_sve(float *param, float *m, float *v, const float *grad, size_t n,
                             float grad_scale, float lr, float beta1, float beta2, float eps,
                             float weight_decay, uint64_t step) {
    enum { BLOCK = 16384 };
    AdamwTerms a = adamw_terms_ref(grad_scale, lr, beta1, beta2, eps, weight_decay, step);

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i += BLOCK) {
        adamw_block_sve(param + i, m + i, v + i, grad + i, min_u64(n - i, BLOCK), a);
    }
}

// ------------------------------------------------------------------------------------------------
// The floating-point environment

// From now on this thread treats denormal numbers as zero: they can take a hundred times as long,
// and mean nothing in training. Threads that it starts later inherit this.
static inline void flush_denormals(void) {
#if defined __x86_64__
    _mm_setcsr(_mm_getcsr() | 0x8040); // flush to zero, denormals are zero
#elif defined __aarch64__
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    __asm__ volatile("msr fpcr, %0" ::"r"(control | (1 << 24)));
#endif
}

static const Kernels kernels_sve = {
    .name = "sve",
    .embedding_forward = embedding_forward_sve,
    .embedding_backward = embedding_backward_sve,
    .layernorm_forward = layernorm_forward_sve,
    .layernorm_backward = layernorm_backward_sve,
    .rmsnorm_forward = rmsnorm_forward_sve,
    .rmsnorm_backward = rmsnorm_backward_sve,
    .head_norm_forward = head_norm_forward_sve,
    .head_norm_backward = head_norm_backward_sve,
    .rope = rope_sve,
    .swiglu_forward = swiglu_forward_sve,
    .swiglu_backward = swiglu_backward_sve,
    .matmul_forward = matmul_forward_sve,
    .matmul_activation_forward = matmul_activation_forward_sve,
    .matmul_backward_input = matmul_backward_input_sve,
    .matmul_backward_weight = matmul_backward_weight_sve,
    .attention_forward = attention_forward_sve,
    .attention_backward = attention_backward_sve,
    .logits_forward = logits_forward_sve,
    .classifier_forward = classifier_forward_sve,
    .cross_entropy = cross_entropy_sve,
    .classifier_backward = classifier_backward_sve,
    .sum_of_squares = sum_of_squares_sve,
    .adamw = adamw_sve,
};

#undef SVE_INLINE

#endif
