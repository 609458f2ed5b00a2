// attention_sve.h: attention, block-wise (Dao et al. 2022): QUERY_BLOCK rows meet KEY_BLOCK keys at
// a time, all products through the tile of the matrix product. Keys and values of a head are packed
// once. Threads divide the query heads, in backward too, because a rank may have a single KV head.
#ifndef KERNELS_ATTENTION_SVE_H
#define KERNELS_ATTENTION_SVE_H

#include <math.h>
#include <omp.h>

#include "kernels/gemm_sve.h" // defines: gemm_strip_sve, pack_panels_sve, pack_scratch
#include "kernels_ref.h"      // defines: AttentionShape

// ------------------------------------------------------------------------------------------------
// Products of blocks

// out (M, N) = start + strips (M, K) panels (K, N)
static inline void block_gemm_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                  Strips strips, Panels panels, size_t M, size_t N, size_t K) {
    for (size_t i = 0; i < M; i += TILE_ROWS_SVE) {
        gemm_strip_sve(out + i * out_row, out_row, start + i * start_row, start_row, strips.tile,
                       strips.data + i / TILE_ROWS_SVE * strips.next, panels, K,
                       min_u64(M - i, TILE_ROWS_SVE), N);
    }
}

// ------------------------------------------------------------------------------------------------
// Scratch memory

// What one thread needs for one head of T rows and D channels. Keys and values are packed by key
// blocks: k^T and v^T as (D, KEY_BLOCK), k and v as (KEY_BLOCK, D).
typedef struct {
    Precision precision;
    size_t D, key_blocks;
    size_t across, along;                 // floats of a packed block: (D, keys) and (keys, D)
    float *key_t, *value_t, *key, *value; // per key block; those not needed are NULL
    float *strips[2], *panels[2];         // of a block of queries
    float *score, *dscore;                // (QUERY_BLOCK, KEY_BLOCK)
    float *packed;                        // FP16: strips of scores
    float *out;                           // (QUERY_BLOCK, D)
} AttentionScratch;

// Lays the scratch out from `base` on; if base is NULL it only counts. Returns the floats it takes.
static inline size_t attention_scratch_sve(AttentionScratch *s, Precision precision, size_t T,
                                           size_t D, bool backward, float *base) {
    const size_t width = 2 * svcntw(), depth = packed_depth(precision, D);
    const size_t rows = round_up(QUERY_BLOCK, TILE_ROWS_SVE);
    const size_t keys = round_up(KEY_BLOCK, TILE_ROWS_SVE);
    const size_t query_depth = packed_depth(precision, QUERY_BLOCK);
    const size_t key_depth = packed_depth(precision, KEY_BLOCK);
    const size_t strips = rows * depth, panels = query_depth * round_up(D, width);
    const size_t across_scores = rows * key_depth, along_scores = keys * query_depth;
    const size_t packed = across_scores > along_scores ? across_scores : along_scores;
    const size_t scores = rows * KEY_BLOCK + TILE_ROWS_SVE; // the last strip may read beyond
    const size_t key_blocks = divide_up(T, KEY_BLOCK);
    const size_t across = depth * round_up(KEY_BLOCK, width);
    const size_t along = key_depth * round_up(D, width);

    *s = (AttentionScratch){
        .precision = precision, .D = D, .key_blocks = key_blocks, .across = across, .along = along};
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
        {&s->packed, precision == PRECISION_FP16 ? packed : 0},
        {&s->out, QUERY_BLOCK * D},
    };

    size_t used = 0;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        *arrays[i].field = base && arrays[i].floats ? base + used : NULL;
        used += round_up(arrays[i].floats, MAX_LANES);
    }
    return used;
}

// Query heads of a sequence that cannot add to dk and dv themselves: all but the first one of each
// KV head. Each sums a (T, 2D) of its own, a row of dk and one of dv side by side.
static inline size_t attention_sums(const AttentionShape *shape) {
    return shape->heads - shape->kv_heads;
}

// Floats of scratch that attention_forward_sve or attention_backward_sve takes from pack_scratch,
// with `threads` threads for B sequences of T tokens.
static inline size_t attention_scratch_floats_sve(const AttentionShape *shape, Precision precision,
                                                  size_t B, size_t T, bool backward,
                                                  size_t threads) {
    AttentionScratch unused;
    size_t sums = backward ? B * attention_sums(shape) * T * 2 * shape->head_dim : 0;
    return threads * attention_scratch_sve(&unused, precision, T, shape->head_dim, backward, NULL) +
           sums;
}

// Packs the keys and values of one head: k and v are (T, D) with stride `row`.
static inline void attention_pack_sve(const AttentionScratch *s, const float *k, const float *v,
                                      size_t row, size_t T) {
    for (size_t block = 0; block < s->key_blocks; block++) {
        size_t u = block * KEY_BLOCK, keys = min_u64(T - u, KEY_BLOCK);

        const float *k_block = k + u * row, *v_block = v + u * row;

        pack_panels_sve(s->precision, s->key_t + block * s->across, (MatrixView){k_block, 1, row},
                        s->D, keys);
        if (s->value) {
            pack_panels_sve(s->precision, s->value + block * s->along,
                            (MatrixView){v_block, row, 1}, keys, s->D);
        }
        if (s->value_t) {
            pack_panels_sve(s->precision, s->value_t + block * s->across,
                            (MatrixView){v_block, 1, row}, s->D, keys);
            pack_panels_sve(s->precision, s->key + block * s->along, (MatrixView){k_block, row, 1},
                            keys, s->D);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Scores as the first factor of a product

// In FP32 a block of scores (QUERY_BLOCK, KEY_BLOCK) is not packed: the tile reads its rows, or its
// columns, in place.
static void tile_of_scores_sve(float *out, size_t out_row, const float *start, size_t start_row,
                               const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, KEY_BLOCK, 1, K_GROUP, b, depth);
}

static void tile_of_scores_t_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                 const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, 1, KEY_BLOCK, K_GROUP * KEY_BLOCK, b, depth);
}

// Strips of the scores (rows, keys). In FP16 they are packed, until the next call.
static inline Strips scores_as_rows_sve(const AttentionScratch *s, const float *scores, size_t rows,
                                        size_t keys) {
    return s->precision == PRECISION_FP32
               ? (Strips){scores, TILE_ROWS_SVE * KEY_BLOCK, tile_of_scores_sve}
               : pack_strips_sve(s->precision, s->packed, (MatrixView){scores, KEY_BLOCK, 1}, rows,
                                 keys);
}

// Strips of their transpose (keys, rows).
static inline Strips scores_as_columns_sve(const AttentionScratch *s, const float *scores,
                                           size_t rows, size_t keys) {
    return s->precision == PRECISION_FP32
               ? (Strips){scores, TILE_ROWS_SVE, tile_of_scores_t_sve}
               : pack_strips_sve(s->precision, s->packed, (MatrixView){scores, 1, KEY_BLOCK}, keys,
                                 rows);
}

// ------------------------------------------------------------------------------------------------
// Forward

// How many of the keys u .. u + keys - 1 row t attends to.
static inline size_t keys_seen_sve(size_t t, size_t u, size_t keys) {
    return t < u ? 0 : min_u64(t - u + 1, keys);
}

// Block number `block` of packed keys or values, blocks of `size` floats and `depth` steps.
static inline Panels key_panels_sve(const AttentionScratch *s, const float *blocks, size_t block,
                                    size_t size, size_t depth) {
    return (Panels){blocks + block * size, 2 * svcntw() * packed_depth(s->precision, depth)};
}

// How many keys the products over the keys of a block add up. FP16: all of it, because its chunks
// are scaled as they are packed; those that no query sees have zero weight.
static inline size_t keys_added_sve(const AttentionScratch *s, size_t seen, size_t in_block) {
    return s->precision == PRECISION_FP16 ? in_block : seen;
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

// Rows t0 .. t0 + rows - 1 of query head h of sequence b. out: (B, T, H, D); lse: (B, H, T)
static inline void attention_queries_sve(const AttentionScratch *s, float *out, float *lse,
                                         const float *q, const AttentionShape *shape, size_t b,
                                         size_t h, size_t t0, size_t rows, size_t T) {
    float max[QUERY_BLOCK], sum[QUERY_BLOCK];
    const size_t H = shape->heads, D = shape->head_dim, first = b * T + t0;
    const MatrixView queries = {q + first * shape->q_row + h * D, shape->q_row, 1};
    const Strips q_strips = pack_strips_sve(s->precision, s->strips[0], queries, rows, D);

    memset(s->out, 0, rows * D * sizeof(float));
    for (size_t i = 0; i < rows; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
    }

    for (size_t block = 0; block * KEY_BLOCK < t0 + rows; block++) {
        size_t u = block * KEY_BLOCK, keys = keys_seen_sve(t0 + rows - 1, u, KEY_BLOCK);
        const Panels key_t = key_panels_sve(s, s->key_t, block, s->across, D);
        const size_t in_block = min_u64(T - u, KEY_BLOCK),
                     added = keys_added_sve(s, keys, in_block);
        const Panels value = key_panels_sve(s, s->value, block, s->along, in_block);

        block_gemm_sve(s->score, KEY_BLOCK, zeros_sve, 0, q_strips, key_t, rows, keys, D);

        // softmax of what each row sees, zero weight for the keys ahead of it
        for (size_t i = 0; i < rows; i++) {
            size_t seen = keys_seen_sve(t0 + i, u, keys);
            memset(s->score + i * KEY_BLOCK + seen, 0, (KEY_BLOCK - seen) * sizeof(float));
            if (seen > 0) {
                softmax_row_sve(s, i, seen, shape->scale, &max[i], &sum[i]);
            }
        }

        block_gemm_sve(s->out, D, s->out, D, scores_as_rows_sve(s, s->score, rows, added), value,
                       rows, D, added);
    }

    for (size_t i = 0; i < rows; i++) {
        scale_row_sve(s->out + i * D, D, 1 / sum[i]);
        memcpy(out + ((first + i) * H + h) * D, s->out + i * D, D * sizeof(float));
        lse[(b * H + h) * T + t0 + i] = max[i] + log_scalar_sve(sum[i]);
    }
}

static inline void attention_forward_sve(float *out, float *lse, const float *q, const float *k,
                                         const float *v, const AttentionShape *shape,
                                         Precision precision, size_t first_row, size_t B,
                                         size_t T) {
    const size_t H = shape->heads, D = shape->head_dim, group = H / shape->kv_heads;
    const size_t threads = (size_t)omp_get_max_threads();
    float *scratch =
        pack_scratch(attention_scratch_floats_sve(shape, precision, B, T, false, threads));
    AttentionScratch counted;
    const size_t size = attention_scratch_sve(&counted, precision, T, D, false, NULL);

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H, kv = b * T * shape->kv_row + h / group * D;
        AttentionScratch s;

        attention_scratch_sve(&s, precision, T, D, false,
                              scratch + (size_t)omp_get_thread_num() * size);
        attention_pack_sve(&s, k + kv, v + kv, shape->kv_row, T);
        for (size_t t = first_row; t < T; t += QUERY_BLOCK) {
            attention_queries_sve(&s, out, lse, q, shape, b, h, t, min_u64(T - t, QUERY_BLOCK), T);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Backward

// The gradients and arrays of one query head, from row 0 of its sequence on.
typedef struct {
    float *dq, *dk, *dv;
    const float *q, *dout, *out; // dq has the stride of q, dout that of out
    const float *lse;            // (T)
    size_t q_row, out_row, kv_row;
    float scale;
} AttentionHead;

// Adds what rows t0 .. t0 + rows - 1 of one head contribute to dq, dk and dv, which are zero before
// the first rows.
static inline void attention_backward_queries_sve(const AttentionScratch *s, const AttentionHead *a,
                                                  size_t t0, size_t rows, size_t T) {
    float dy_y[QUERY_BLOCK];
    const size_t D = s->D;
    const MatrixView q = {a->q + t0 * a->q_row, a->q_row, 1};
    const MatrixView dy = {a->dout + t0 * a->out_row, a->out_row, 1};
    const float *y = a->out + t0 * a->out_row;
    float *dq = a->dq + t0 * a->q_row;

    // pack the queries and their gradients, both as strips and as panels
    const Strips q_strips = pack_strips_sve(s->precision, s->strips[0], q, rows, D);
    const Strips dy_strips = pack_strips_sve(s->precision, s->strips[1], dy, rows, D);
    const Panels q_panels = pack_panels_sve(s->precision, s->panels[0], q, rows, D);
    const Panels dy_panels = pack_panels_sve(s->precision, s->panels[1], dy, rows, D);

    // rows that pad the transposed scores to a multiple of K_GROUP
    const size_t padding = (round_up(rows, K_GROUP) - rows) * KEY_BLOCK * sizeof(float);
    memset(s->score + rows * KEY_BLOCK, 0, padding);
    memset(s->dscore + rows * KEY_BLOCK, 0, padding);

    for (size_t i = 0; i < rows; i++) {
        RowTerms row = {.a = dy.data + i * dy.row, .b = y + i * dy.row};
        dy_y[i] = sum_row_sve(D, add_a_b_sve, &row);
    }

    for (size_t block = 0; block * KEY_BLOCK < t0 + rows; block++) {
        size_t u = block * KEY_BLOCK, keys = keys_seen_sve(t0 + rows - 1, u, KEY_BLOCK);
        float *dk = a->dk + u * a->kv_row, *dv = a->dv + u * a->kv_row;
        const Panels key_t = key_panels_sve(s, s->key_t, block, s->across, D);
        const Panels value_t = key_panels_sve(s, s->value_t, block, s->across, D);
        const size_t in_block = min_u64(T - u, KEY_BLOCK),
                     added = keys_added_sve(s, keys, in_block);
        const Panels key = key_panels_sve(s, s->key, block, s->along, in_block);

        // scores and dout . v, turned into p and dscore
        block_gemm_sve(s->score, KEY_BLOCK, zeros_sve, 0, q_strips, key_t, rows, keys, D);
        block_gemm_sve(s->dscore, KEY_BLOCK, zeros_sve, 0, dy_strips, value_t, rows, keys, D);
        for (size_t i = 0; i < rows; i++) {
            attention_dscore_row_sve(s->score + i * KEY_BLOCK, s->dscore + i * KEY_BLOCK,
                                     keys_seen_sve(t0 + i, u, keys), a->scale, a->lse[t0 + i],
                                     dy_y[i]);
        }

        block_gemm_sve(dv, a->kv_row, dv, a->kv_row, scores_as_columns_sve(s, s->score, rows, keys),
                       dy_panels, keys, D, rows);
        block_gemm_sve(dk, a->kv_row, dk, a->kv_row,
                       scores_as_columns_sve(s, s->dscore, rows, keys), q_panels, keys, D, rows);
        block_gemm_sve(dq, a->q_row, dq, a->q_row, scores_as_rows_sve(s, s->dscore, rows, added),
                       key, rows, D, added);
    }
}

// Zeros the channels of the heads of dq, dk and dv.
static inline void attention_zero_sve(float *dq, float *dk, float *dv, const AttentionShape *shape,
                                      size_t R) {
    const size_t q_bytes = shape->heads * shape->head_dim * sizeof(float);
    const size_t kv_bytes = shape->kv_heads * shape->head_dim * sizeof(float);
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < R; r++) {
        memset(dq + r * shape->q_row, 0, q_bytes);
        memset(dk + r * shape->kv_row, 0, kv_bytes);
        memset(dv + r * shape->kv_row, 0, kv_bytes);
    }
}

// Adds the sums (B, KV heads, group - 1, T, 2D) of the query heads to dk and dv, in the order of
// the heads.
static inline void attention_add_sums_sve(float *dk, float *dv, const float *sums,
                                          const AttentionShape *shape, size_t B, size_t T) {
    const size_t KV = shape->kv_heads, D = shape->head_dim, others = shape->heads / KV - 1;
    if (others == 0) {
        return;
    }
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < B * T; r++) {
        for (size_t kv = 0; kv < KV; kv++) {
            const float *sum = sums + ((r / T * KV + kv) * others * T + r % T) * 2 * D;
            const size_t at = r * shape->kv_row + kv * D;
            for (size_t j = 0; j < others; j++, sum += T * 2 * D) {
                add_row_sve(dk + at, dk + at, sum, D);
                add_row_sve(dv + at, dv + at, sum + D, D);
            }
        }
    }
}

static inline void attention_backward_sve(float *dq, float *dk, float *dv, const float *dout,
                                          const float *out, const float *q, const float *k,
                                          const float *v, const float *lse,
                                          const AttentionShape *shape, Precision precision,
                                          size_t B, size_t T) {
    const size_t H = shape->heads, D = shape->head_dim, group = H / shape->kv_heads;
    const size_t threads = (size_t)omp_get_max_threads(), sum_size = T * 2 * D;
    float *scratch =
        pack_scratch(attention_scratch_floats_sve(shape, precision, B, T, true, threads));
    AttentionScratch counted;
    const size_t size = attention_scratch_sve(&counted, precision, T, D, true, NULL);
    float *sums = scratch + threads * size;

    attention_zero_sve(dq, dk, dv, shape, B * T);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H, kv = b * T * shape->kv_row + h / group * D;
        size_t query = b * T * shape->q_row + h * D, at = (b * T * H + h) * D;
        AttentionHead a = {.dq = dq + query,
                           .dk = dk + kv,
                           .dv = dv + kv,
                           .q = q + query,
                           .dout = dout + at,
                           .out = out + at,
                           .lse = lse + i * T,
                           .q_row = shape->q_row,
                           .out_row = H * D,
                           .kv_row = shape->kv_row,
                           .scale = shape->scale};
        AttentionScratch s;

        if (h % group > 0) {
            a.dk = sums + (i - i / group - 1) * sum_size;
            a.dv = a.dk + D;
            a.kv_row = 2 * D;
            memset(a.dk, 0, sum_size * sizeof(float));
        }

        attention_scratch_sve(&s, precision, T, D, true,
                              scratch + (size_t)omp_get_thread_num() * size);
        attention_pack_sve(&s, k + kv, v + kv, shape->kv_row, T);
        for (size_t t = 0; t < T; t += QUERY_BLOCK) {
            attention_backward_queries_sve(&s, &a, t, min_u64(T - t, QUERY_BLOCK), T);
        }
    }
    attention_add_sums_sve(dk, dv, sums, shape, B, T);
}

#endif
