// kernels_sve.h: the kernels of kernels_ref.h, fast, in Arm SVE intrinsics. Correct for every
// vector length from 128 to 2048 bits, tuned for the 512 of A64FX. On machines without SVE the same
// source is compiled over kernels/sve_shim.h. The sizes that are tuned are in kernels/sizes_sve.h,
// the packed matrix product in kernels/gemm_sve.h, exp, GELU and sums along a row in
// kernels/vector_math_sve.h.
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

#include "kernels/gemm_sve.h"        // defines: gemm_sve, Epilogue, MatrixView, pack_scratch
#include "kernels/vector_math_sve.h" // defines: sum_row_sve, exp_row_sve, add_row_sve
#include "kernels_ref.h"             // defines: Kernels, ShardSoftmax, VocabShard

// ------------------------------------------------------------------------------------------------
// Matrix products

static inline void matmul_forward_sve(float *out, const float *inp, const float *weight,
                                      const float *bias, const float *residual, size_t R, size_t C,
                                      size_t OC) {
    gemm_sve(out, (MatrixView){inp, C, 1}, (MatrixView){weight, OC, 1}, R, OC, C,
             &(Epilogue){.bias = bias, .residual = residual});
}

static inline void matmul_gelu_forward_sve(float *out, float *gelu, const float *inp,
                                           const float *weight, const float *bias, size_t R,
                                           size_t C, size_t OC) {
    gemm_sve(out, (MatrixView){inp, C, 1}, (MatrixView){weight, OC, 1}, R, OC, C,
             &(Epilogue){.bias = bias, .gelu = gelu});
}

static inline void matmul_backward_input_sve(float *dinp, const float *dout, const float *weight,
                                             const float *gelu_inp, size_t R, size_t C, size_t OC) {
    gemm_sve(dinp, (MatrixView){dout, OC, 1}, (MatrixView){weight, 1, OC}, R, C, OC,
             &(Epilogue){.gelu_inp = gelu_inp});
}

static inline void matmul_backward_weight_sve(float *dweight, float *dbias, const float *inp,
                                              const float *dout, size_t R, size_t C, size_t OC) {
    gemm_sve(dweight, (MatrixView){inp, 1, C}, (MatrixView){dout, OC, 1}, C, OC, R,
             &(Epilogue){.accumulate = true});
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
            float *position = dwpe + r % T * C + c;
            if (token < vocab.count) {
                float *row = dwte + token * C + c;
                add_row_sve(row, row, dy, n);
            }
            add_row_sve(position, position, dy, n);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// LayerNorm

static inline void layernorm_row_sve(float *out, float *mean, float *rstd, const float *x,
                                     const float *weight, const float *bias, size_t C) {
    float m = sum_row_sve(C, add_a_sve, &(RowTerms){.a = x}) / (float)C;
    float variance = sum_row_sve(C, add_square_sve, &(RowTerms){.a = x, .s = m}) / (float)C;
    float s = 1 / sqrtf(variance + 1e-5f);

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
                                         const float *weight, const float *bias, size_t R,
                                         size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        layernorm_row_sve(out + r * C, mean + r, rstd + r, inp + r * C, weight, bias, C);
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

// dweight and dbias of one vector of channels from c on, the rows in order
static inline void layernorm_backward_weight_sve(float *dweight, float *dbias, const float *dout,
                                                 const float *inp, const float *mean,
                                                 const float *rstd, size_t R, size_t C, size_t c) {
    svbool_t p = svwhilelt_b32_u64(c, C);
    svfloat32_t dw = svld1_f32(p, dweight + c), db = svld1_f32(p, dbias + c);

    for (size_t r = 0; r < R; r++) {
        svfloat32_t dy = svld1_f32(p, dout + r * C + c);
        svfloat32_t n = svsub_f32_x(p, svld1_f32(p, inp + r * C + c), svdup_n_f32(mean[r]));
        dw = svmla_f32_x(p, dw, dy, svmul_f32_x(p, n, svdup_n_f32(rstd[r])));
        db = svadd_f32_x(p, db, dy);
    }

    svst1_f32(p, dweight + c, dw);
    svst1_f32(p, dbias + c, db);
}

static inline void layernorm_backward_sve(float *dinp, float *dweight, float *dbias,
                                          const float *dout, const float *inp, const float *weight,
                                          const float *mean, const float *rstd, size_t R,
                                          size_t C) {
    size_t vl = svcntw();
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        layernorm_backward_row_sve(dinp + r * C, dout + r * C, inp + r * C, weight, mean[r],
                                   rstd[r], C);
    }

#pragma omp parallel for schedule(static)
    for (size_t c = 0; c < C; c += vl) {
        layernorm_backward_weight_sve(dweight, dbias, dout, inp, mean, rstd, R, C, c);
    }
}

// ------------------------------------------------------------------------------------------------
// Attention, block-wise (Dao et al. 2022): QUERY_BLOCK rows meet KEY_BLOCK keys at a time, all
// products through the tile of the matrix product. Keys and values of a head are packed once.
// Threads divide the heads.

// Packs rows of a head, (rows, D) with stride `row`, as strips.
static inline Strips pack_strips_sve(float *to, const float *from, size_t row, size_t rows,
                                     size_t D) {
    const size_t next = TILE_ROWS_SVE * packed_depth(D);
    for (size_t i = 0; i < rows; i += TILE_ROWS_SVE) {
        pack_rows_sve(to + i / TILE_ROWS_SVE * next, from + i * row, row,
                      min_u64(rows - i, TILE_ROWS_SVE), D);
    }
    return (Strips){to, next, tile_of_rows_sve};
}

// out (M, N) = start + strips (M, K) panels (K, N)
static inline void block_gemm_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                  Strips strips, Panels panels, size_t M, size_t N, size_t K) {
    for (size_t i = 0; i < M; i += TILE_ROWS_SVE) {
        gemm_strip_sve(out + i * out_row, out_row, start + i * start_row, start_row, strips.tile,
                       strips.data + i / TILE_ROWS_SVE * strips.next, panels, K,
                       min_u64(M - i, TILE_ROWS_SVE), N);
    }
}

// A block of scores (QUERY_BLOCK, KEY_BLOCK) is not packed: the tile reads its rows, or its
// columns, in place.
static void tile_of_scores_sve(float *out, size_t out_row, const float *start, size_t start_row,
                               const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, KEY_BLOCK, 1, K_GROUP, b, depth);
}

static void tile_of_scores_t_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                 const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, 1, KEY_BLOCK, K_GROUP * KEY_BLOCK, b, depth);
}

static inline Strips scores_as_rows_sve(const float *scores) {
    return (Strips){scores, TILE_ROWS_SVE * KEY_BLOCK, tile_of_scores_sve};
}

static inline Strips scores_as_columns_sve(const float *scores) {
    return (Strips){scores, TILE_ROWS_SVE, tile_of_scores_t_sve};
}

// What one thread needs for one head of T rows and D channels. Keys and values are packed by key
// blocks: k^T and v^T as (D, KEY_BLOCK), k and v as (KEY_BLOCK, D).
typedef struct {
    size_t D, key_blocks;
    size_t across, along;                 // floats of a packed block: (D, keys) and (keys, D)
    float *key_t, *value_t, *key, *value; // per key block; those not needed are NULL
    float *strips[2], *panels[2];         // of a block of queries
    float *score, *dscore;                // (QUERY_BLOCK, KEY_BLOCK)
    float *out;                           // (QUERY_BLOCK, D)
} AttentionScratch;

// Lays the scratch out from `base` on; if base is NULL it only counts. Returns the floats it takes.
static inline size_t attention_scratch_sve(AttentionScratch *s, size_t T, size_t D, bool backward,
                                           float *base) {
    const size_t width = 2 * svcntw(), depth = packed_depth(D);
    const size_t rows = round_up(QUERY_BLOCK, TILE_ROWS_SVE);
    const size_t strips = rows * depth, panels = packed_depth(QUERY_BLOCK) * round_up(D, width);
    const size_t scores = rows * KEY_BLOCK + TILE_ROWS_SVE; // the last strip may read beyond
    const size_t key_blocks = divide_up(T, KEY_BLOCK);
    const size_t across = depth * round_up(KEY_BLOCK, width);
    const size_t along = packed_depth(KEY_BLOCK) * round_up(D, width);

    *s = (AttentionScratch){.D = D, .key_blocks = key_blocks, .across = across, .along = along};
    const struct {
        float **field;
        size_t floats;
    } arrays[] = {
        {&s->key_t, key_blocks * across},
        {&s->value, backward ? 0 : key_blocks * along},
        {&s->value_t, backward ? key_blocks * across : 0},
        {&s->key, backward ? key_blocks * along : 0},
        {&s->strips[0], strips},
        {&s->strips[1], backward ? strips : 0},
        {&s->panels[0], backward ? panels : 0},
        {&s->panels[1], backward ? panels : 0},
        {&s->score, scores},
        {&s->dscore, backward ? scores : 0},
        {&s->out, QUERY_BLOCK * D},
    };

    size_t used = 0;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        *arrays[i].field = base && arrays[i].floats ? base + used : NULL;
        used += round_up(arrays[i].floats, MAX_LANES);
    }
    return used;
}

// Packs the keys and values of one head: k and v are (T, D) with stride `row`.
static inline void attention_pack_sve(const AttentionScratch *s, const float *k, const float *v,
                                      size_t row, size_t T) {
    for (size_t block = 0; block < s->key_blocks; block++) {
        size_t u = block * KEY_BLOCK, keys = min_u64(T - u, KEY_BLOCK);

        pack_panels_sve(s->key_t + block * s->across, (MatrixView){k, 1, row}, 0, s->D, u, keys);
        if (s->value) {
            pack_panels_sve(s->value + block * s->along, (MatrixView){v, row, 1}, u, keys, 0, s->D);
        }
        if (s->value_t) {
            pack_panels_sve(s->value_t + block * s->across, (MatrixView){v, 1, row}, 0, s->D, u,
                            keys);
            pack_panels_sve(s->key + block * s->along, (MatrixView){k, row, 1}, u, keys, 0, s->D);
        }
    }
}

// How many of the keys u .. u + keys - 1 row t attends to.
static inline size_t keys_seen_sve(size_t t, size_t u, size_t keys) {
    return t < u ? 0 : min_u64(t - u + 1, keys);
}

// Block number `block` of packed keys or values, blocks of `size` floats and `depth` steps.
static inline Panels key_panels_sve(const float *blocks, size_t block, size_t size, size_t depth) {
    return (Panels){blocks + block * size, 2 * svcntw() * packed_depth(depth)};
}

// Turns the scores of row i with its `seen` keys into exp(score - max), and rescales the sums so
// far to the new maximum.
static inline void softmax_row_sve(const AttentionScratch *s, size_t i, size_t seen, float scale,
                                   float *max, float *sum) {
    float *p = s->score + i * KEY_BLOCK, largest = scale * max_row_sve(p, seen);

    if (largest > *max) {
        float shrink = exp_scalar_sve(*max - largest);
        scale_row_sve(s->out + i * s->D, s->D, shrink);
        *sum *= shrink;
        *max = largest;
    }
    *sum += exp_row_sve(p, seen, scale, *max);
}

// Rows t0 .. t0 + rows - 1 of one head. out: (rows, D) with stride out_row; q likewise; lse: (rows)
static inline void attention_queries_sve(const AttentionScratch *s, float *out, size_t out_row,
                                         float *lse, const float *q, size_t q_row, size_t t0,
                                         size_t rows, size_t T) {
    float max[QUERY_BLOCK], sum[QUERY_BLOCK], scale = 1 / sqrtf((float)s->D);
    const Strips q_strips = pack_strips_sve(s->strips[0], q, q_row, rows, s->D);

    memset(s->out, 0, rows * s->D * sizeof(float));
    for (size_t i = 0; i < rows; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
    }

    for (size_t block = 0; block * KEY_BLOCK < t0 + rows; block++) {
        size_t u = block * KEY_BLOCK, keys = keys_seen_sve(t0 + rows - 1, u, KEY_BLOCK);
        const Panels key_t = key_panels_sve(s->key_t, block, s->across, s->D);
        const Panels value = key_panels_sve(s->value, block, s->along, min_u64(T - u, KEY_BLOCK));

        block_gemm_sve(s->score, KEY_BLOCK, zeros_sve, 0, q_strips, key_t, rows, keys, s->D);

        // softmax of what each row sees, zero weight for the keys ahead of it
        for (size_t i = 0; i < rows; i++) {
            size_t seen = keys_seen_sve(t0 + i, u, keys);
            memset(s->score + i * KEY_BLOCK + seen, 0, (KEY_BLOCK - seen) * sizeof(float));
            if (seen > 0) {
                softmax_row_sve(s, i, seen, scale, &max[i], &sum[i]);
            }
        }

        block_gemm_sve(s->out, s->D, s->out, s->D, scores_as_rows_sve(s->score), value, rows, s->D,
                       keys);
    }

    for (size_t i = 0; i < rows; i++) {
        scale_row_sve(s->out + i * s->D, s->D, 1 / sum[i]);
        memcpy(out + i * out_row, s->out + i * s->D, s->D * sizeof(float));
        lse[i] = max[i] + log_scalar_sve(sum[i]);
    }
}

static inline void attention_forward_sve(float *out, float *lse, const float *qkv, size_t first_row,
                                         size_t B, size_t T, size_t C, size_t H) {
    size_t D = C / H;
    AttentionScratch counted;
    size_t size = attention_scratch_sve(&counted, T, D, false, NULL);
    float *scratch = pack_scratch((size_t)omp_get_max_threads() * size);

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H;
        const float *q = qkv + b * T * 3 * C + h * D;
        AttentionScratch s;

        attention_scratch_sve(&s, T, D, false, scratch + (size_t)omp_get_thread_num() * size);
        attention_pack_sve(&s, q + C, q + 2 * C, 3 * C, T);
        for (size_t t = first_row; t < T; t += QUERY_BLOCK) {
            attention_queries_sve(&s, out + (b * T + t) * C + h * D, C, lse + i * T + t,
                                  q + t * 3 * C, 3 * C, t, min_u64(T - t, QUERY_BLOCK), T);
        }
    }
}

// Adds what rows t0 .. t0 + rows - 1 of one head contribute to dq, dk and dv (stride `row`, as q;
// zero before the first rows).
static inline void attention_backward_queries_sve(const AttentionScratch *s, float *dq, float *dk,
                                                  float *dv, const float *q, size_t row,
                                                  const float *dy, const float *y, size_t y_row,
                                                  const float *lse, size_t t0, size_t rows,
                                                  size_t T) {
    float dy_y[QUERY_BLOCK], scale = 1 / sqrtf((float)s->D);
    const size_t D = s->D, panel = 2 * svcntw() * packed_depth(rows);

    // pack the queries and their gradients, both as strips and as panels
    const Strips q_strips = pack_strips_sve(s->strips[0], q, row, rows, D);
    const Strips dy_strips = pack_strips_sve(s->strips[1], dy, y_row, rows, D);
    const Panels q_panels = {s->panels[0], panel}, dy_panels = {s->panels[1], panel};
    pack_panels_sve(s->panels[0], (MatrixView){q, row, 1}, 0, rows, 0, D);
    pack_panels_sve(s->panels[1], (MatrixView){dy, y_row, 1}, 0, rows, 0, D);

    // rows that pad the transposed scores to a multiple of K_GROUP
    const size_t padding = (round_up(rows, K_GROUP) - rows) * KEY_BLOCK * sizeof(float);
    memset(s->score + rows * KEY_BLOCK, 0, padding);
    memset(s->dscore + rows * KEY_BLOCK, 0, padding);

    for (size_t i = 0; i < rows; i++) {
        dy_y[i] = sum_row_sve(D, add_a_b_sve, &(RowTerms){.a = dy + i * y_row, .b = y + i * y_row});
    }

    const Strips ds = scores_as_rows_sve(s->dscore), p_t = scores_as_columns_sve(s->score);
    const Strips ds_t = scores_as_columns_sve(s->dscore);
    for (size_t block = 0; block * KEY_BLOCK < t0 + rows; block++) {
        size_t u = block * KEY_BLOCK, keys = keys_seen_sve(t0 + rows - 1, u, KEY_BLOCK);
        const Panels key_t = key_panels_sve(s->key_t, block, s->across, D);
        const Panels value_t = key_panels_sve(s->value_t, block, s->across, D);
        const Panels key = key_panels_sve(s->key, block, s->along, min_u64(T - u, KEY_BLOCK));

        // scores and dout . v, turned into p and dscore
        block_gemm_sve(s->score, KEY_BLOCK, zeros_sve, 0, q_strips, key_t, rows, keys, D);
        block_gemm_sve(s->dscore, KEY_BLOCK, zeros_sve, 0, dy_strips, value_t, rows, keys, D);
        for (size_t i = 0; i < rows; i++) {
            attention_dscore_row_sve(s->score + i * KEY_BLOCK, s->dscore + i * KEY_BLOCK,
                                     keys_seen_sve(t0 + i, u, keys), scale, lse[i], dy_y[i]);
        }

        block_gemm_sve(dv + u * row, row, dv + u * row, row, p_t, dy_panels, keys, D, rows);
        block_gemm_sve(dk + u * row, row, dk + u * row, row, ds_t, q_panels, keys, D, rows);
        block_gemm_sve(dq, row, dq, row, ds, key, rows, D, keys);
    }
}

static inline void attention_backward_sve(float *dqkv, const float *dout, const float *out,
                                          const float *qkv, const float *lse, size_t B, size_t T,
                                          size_t C, size_t H) {
    size_t D = C / H;
    AttentionScratch counted;
    size_t size = attention_scratch_sve(&counted, T, D, true, NULL);
    float *scratch = pack_scratch((size_t)omp_get_max_threads() * size);

#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < B * T; r++) {
        memset(dqkv + r * 3 * C, 0, 3 * C * sizeof(float));
    }
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H;
        const float *q = qkv + b * T * 3 * C + h * D;
        float *dq = dqkv + b * T * 3 * C + h * D;
        AttentionScratch s;

        attention_scratch_sve(&s, T, D, true, scratch + (size_t)omp_get_thread_num() * size);
        attention_pack_sve(&s, q + C, q + 2 * C, 3 * C, T);
        for (size_t t = 0; t < T; t += QUERY_BLOCK) {
            size_t at = (b * T + t) * C + h * D;
            attention_backward_queries_sve(&s, dq + t * 3 * C, dq + C, dq + 2 * C, q + t * 3 * C,
                                           3 * C, dout + at, out + at, C, lse + i * T + t, t,
                                           min_u64(T - t, QUERY_BLOCK), T);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Classifier

static inline void logits_forward_sve(float *logits, const float *inp, const float *wte, size_t R,
                                      size_t C, size_t V) {
    gemm_sve(logits, (MatrixView){inp, C, 1}, (MatrixView){wte, 1, C}, R, V, C, &(Epilogue){0});
}

static inline void classifier_forward_sve(float *logits, ShardSoftmax *softmax, const float *inp,
                                          const float *wte, const int32_t *targets,
                                          VocabShard vocab, size_t R, size_t C) {
    logits_forward_sve(logits, inp, wte, R, C, vocab.count);
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
                                     size_t S, size_t mine, float dloss, size_t R) {
    cross_entropy_with(losses, scale, shards, S, mine, dloss, R, exp_scalar_sve, log_scalar_sve);
}

static inline void classifier_backward_sve(float *dinp, float *dwte, float *logits,
                                           const float *scale, const float *inp, const float *wte,
                                           const int32_t *targets, float dloss, VocabShard vocab,
                                           size_t R, size_t C) {
    size_t V = vocab.count;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        size_t target = (size_t)targets[r] - vocab.first;
        scale_row_sve(logits + r * V, V, scale[r]);
        if (target < V) {
            logits[r * V + target] -= dloss;
        }
    }

    gemm_sve(dinp, (MatrixView){logits, V, 1}, (MatrixView){wte, C, 1}, R, C, V, &(Epilogue){0});
    gemm_sve(dwte, (MatrixView){logits, 1, V}, (MatrixView){inp, C, 1}, V, C, R,
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
    .matmul_forward = matmul_forward_sve,
    .matmul_gelu_forward = matmul_gelu_forward_sve,
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

#endif
