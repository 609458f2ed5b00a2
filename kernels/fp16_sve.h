// fp16_sve.h: the tile and the packing of FP16 products, as kernels_ref.h specifies them. Packing
// converts: two steps of k, as FP16 numbers, fill a 32-bit element, so that strips, panels and
// tiles look like those of FP32 with half the depth. Before the elements of each chunk stands a
// group with the factors, one per row or column, that undo its scales.
#ifndef KERNELS_FP16_SVE_H
#define KERNELS_FP16_SVE_H

#include "kernels/pack_sve.h" // defines: pack_rows_sve, pack_panel_columns_sve
#include "kernels/tile_sve.h" // defines: Tile

enum { CHUNK_PAIRS = FP16_CHUNK / 2 };

// Elements of a packed chunk of a row or a column: the group of the factor, and the pairs.
static inline size_t packed_chunk(size_t steps) {
    return K_GROUP + round_up(divide_up(steps, 2), K_GROUP);
}

// ------------------------------------------------------------------------------------------------
// The tile

// As an integer: FP32 arithmetic might take a pair of halves for a subnormal number or a NaN.
SVE_INLINE svint32_t broadcast_pair_sve(const float *pair) {
    int32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return svdup_n_s32(bits);
}

// The tile as in gemm_tile_sve. The promotion of a chunk adds its FP16 sums to FP32 sums in L1: on
// A64FX 6 operations and a store for 64 multiply-adds.
SVE_INLINE void gemm_fp16_tile_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                   const float *a, const size_t row_step, const size_t k_step,
                                   const size_t group_step, const float *b, size_t depth) {
    const svbool_t all = svptrue_b32(), halves = svptrue_b16();
    const size_t vl = svcntw();
    float sums[TILE_ROWS_SVE * 2 * MAX_LANES];

#define ZERO_ROW(i) svfloat16_t low##i = svdup_n_f16(0), high##i = svdup_n_f16(0);
#define MULTIPLY_ADD_ROW(i)                                                                        \
    pair = broadcast_pair_sve(a + i * row_step + step * k_step);                                   \
    IN_REGISTER(pair);                                                                             \
    x = svreinterpret_f16_s32(pair);                                                               \
    low##i = svmla_f16_m(halves, low##i, b_low, x);                                                \
    high##i = svmla_f16_m(halves, high##i, b_high, x);
#define STEP(number)                                                                               \
    {                                                                                              \
        const size_t step = number;                                                                \
        svfloat32_t pair_low = svld1_f32(all, b + 2 * step * vl),                                  \
                    pair_high = svld1_f32(all, b + (2 * step + 1) * vl);                           \
        IN_REGISTER(pair_low);                                                                     \
        IN_REGISTER(pair_high);                                                                    \
        svfloat16_t b_low = svreinterpret_f16_s32(svreinterpret_s32_f32(pair_low)),                \
                    b_high = svreinterpret_f16_s32(svreinterpret_s32_f32(pair_high)), x;           \
        svint32_t pair;                                                                            \
        TILE_EACH_ROW(MULTIPLY_ADD_ROW)                                                            \
    }
#define PROMOTE(row, column, half_sums, unscale)                                                   \
    {                                                                                              \
        svfloat32_t sum =                                                                          \
            svadd_f32_x(all, svcvt_f32_f16_x(all, half_sums), svcvtlt_f32_f16_x(all, half_sums));  \
        sum = svmul_f32_x(all, sum, svdup_n_f32(unscale_a[row]));                                  \
        svst1_f32(all, to + row * to_row + column,                                                 \
                  svmla_f32_x(all, svld1_f32(all, from + row * from_row + column), sum, unscale)); \
    }
#define PROMOTE_ROW(i)                                                                             \
    PROMOTE(i, 0, low##i, unscale_low)                                                             \
    PROMOTE(i, vl, high##i, unscale_high)

    prefetch_next_tile_sve(out, out_row);
    for (size_t done = 0; done < depth; done += FP16_CHUNK) {
        const size_t pairs = round_up(divide_up(min_u64(depth - done, FP16_CHUNK), 2), K_GROUP);
        const float *unscale_a = a, *unscale_b = b;
        TILE_EACH_ROW(ZERO_ROW)

        a += K_GROUP * TILE_ROWS_SVE;
        b += K_GROUP * 2 * vl;
        for (size_t k = 0, advance = 2 * k_step; k < pairs; k += 2) {
            STEP(0)
            STEP(1)
            a += advance;
            b += 4 * vl;
            advance = group_step - advance;
        }

        // from `start` or the sums so far to those of the next chunk, or `out`
        const bool first = done == 0, last = done + FP16_CHUNK >= depth;
        const float *from = first ? start : sums;
        float *to = last ? out : sums;
        const size_t from_row = first ? start_row : 2 * vl, to_row = last ? out_row : 2 * vl;
        const svfloat32_t unscale_low = svld1_f32(all, unscale_b),
                          unscale_high = svld1_f32(all, unscale_b + vl);
        TILE_EACH_ROW(PROMOTE_ROW)
    }

#undef ZERO_ROW
#undef MULTIPLY_ADD_ROW
#undef STEP
#undef PROMOTE
#undef PROMOTE_ROW
}

static void fp16_tile_of_rows_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                  const float *a, const float *b, size_t depth) {
    gemm_fp16_tile_sve(out, out_row, start, start_row, a, K_GROUP, 1, K_GROUP * TILE_ROWS_SVE, b,
                       depth);
}

static void fp16_tile_of_columns_sve(float *out, size_t out_row, const float *start,
                                     size_t start_row, const float *a, const float *b,
                                     size_t depth) {
    gemm_fp16_tile_sve(out, out_row, start, start_row, a, 1, TILE_ROWS_SVE, K_GROUP * TILE_ROWS_SVE,
                       b, depth);
}

// ------------------------------------------------------------------------------------------------
// Scales, of as many chunks as a vector has lanes: fp16_chunk_ref, without branches

SVE_INLINE svint32_t magnitude_sve(svfloat32_t x) {
    return svand_s32_x(svptrue_b32(), svreinterpret_s32_f32(x), svdup_n_s32(0x7FFFFFFF));
}

// 2^(n - 127) for integers n in 1 .. 254
SVE_INLINE svfloat32_t power_of_two_sve(svint32_t n) {
    return svreinterpret_f32_s32(svlsl_n_s32_x(svptrue_b32(), n, 23));
}

// From the bits of the largest number: e + 126, where 2^e is above it.
SVE_INLINE svint32_t fp16_exponent_sve(svint32_t largest) {
    const svbool_t all = svptrue_b32();
    return svmax_s32_x(all, svasr_n_s32_x(all, largest, 23), svdup_n_s32(24));
}

// 2^(8 - e)
SVE_INLINE svfloat32_t fp16_norm_scale_sve(svint32_t exponent) {
    return power_of_two_sve(svsub_s32_x(svptrue_b32(), svdup_n_s32(261), exponent));
}

// sum + round(x scale)^2
SVE_INLINE svfloat32_t add_rounded_square_sve(svfloat32_t sum, svfloat32_t x, svfloat32_t scale) {
    const svbool_t all = svptrue_b32();
    const svfloat32_t magic = svdup_n_f32(0x1.8p23f); // adding it rounds to an integer
    svfloat32_t q = svsub_f32_x(all, svmla_f32_x(all, magic, x, scale), magic);
    return svmla_f32_x(all, sum, q, q);
}

// The scale's power below 8: how often `sum` is above 59698 times a power of four, as a number that
// is zero or negative. Positive floats are ordered as their bits are.
SVE_INLINE svint32_t fp16_less_sve(svfloat32_t sum) {
    static const float limits[4] = {59698, 4 * 59698, 16 * 59698, 64 * 59698};
    const svbool_t all = svptrue_b32();
    const svint32_t bits = svreinterpret_s32_f32(sum);
    svint32_t less = svdup_n_s32(0);
    for (int i = 0; i < 4; i++) {
        svint32_t limit = svreinterpret_s32_f32(svdup_n_f32(limits[i]));
        less = svadd_s32_x(all, less, svasr_n_s32_x(all, svsub_s32_x(all, limit, bits), 31));
    }
    return less;
}

// *scale = 2^(8 + less - e), returns its inverse, or NaN if a number is not finite.
SVE_INLINE svfloat32_t fp16_scale_sve(svint32_t exponent, svint32_t less, svfloat32_t *scale) {
    const svbool_t all = svptrue_b32();
    svint32_t power = svadd_s32_x(all, svdup_n_s32(8), less);
    svint32_t not_finite = svasr_n_s32_x(all, svsub_s32_x(all, svdup_n_s32(254), exponent), 31);
    svint32_t inverse = svsub_s32_x(all, svadd_s32_x(all, svdup_n_s32(1), exponent), power);

    *scale =
        power_of_two_sve(svsub_s32_x(all, svadd_s32_x(all, svdup_n_s32(253), power), exponent));
    inverse = svlsl_n_s32_x(all, inverse, 23);
    return svreinterpret_f32_s32(
        svorr_s32_x(all, inverse, svand_s32_x(all, not_finite, svdup_n_s32(0x7FC00000))));
}

// The bits of x scale, rounded to multiples of 2^-7 and to FP16, in the lower halves.
SVE_INLINE svint32_t fp16_entry_sve(svfloat32_t x, svfloat32_t scale) {
    const svbool_t all = svptrue_b32();
    const svfloat32_t magic = svdup_n_f32(0x1.8p16f); // adding it rounds to multiples of 2^-7
    return fp16_bits_sve(svsub_f32_x(all, svmla_f32_x(all, magic, x, scale), magic));
}

// Pairs of the numbers of two steps.
SVE_INLINE svfloat32_t fp16_pairs_sve(svfloat32_t even, svfloat32_t odd, svfloat32_t scale) {
    const svbool_t all = svptrue_b32();
    svint32_t upper = svlsl_n_s32_x(all, fp16_entry_sve(odd, scale), 16);
    return svreinterpret_f32_s32(svorr_s32_x(all, fp16_entry_sve(even, scale), upper));
}

// ------------------------------------------------------------------------------------------------
// Packing

// A chunk of `columns` contiguous columns, whose steps are `row` apart: pairs (steps / 2, columns),
// to_row apart, and unscale (columns). Four steps at a time, because a sum of one chain would wait
// for its latency.
static inline void fp16_columns_sve(float *pairs, size_t to_row, float *unscale, const float *from,
                                    size_t row, size_t columns, size_t steps) {
    const svbool_t all = svptrue_b32();
    const size_t vl = svcntw(), padded = round_up(steps, 4);
    float copy[FP16_CHUNK * MAX_LANES]; // (steps, vector): contiguous, so that L1 keeps it

    for (size_t j = 0; j < columns; j += vl) {
        const svbool_t p = svwhilelt_b32_u64(j, columns);
#define START(i) svint32_t largest##i = svdup_n_s32(0);
#define COPY(i)                                                                                    \
    {                                                                                              \
        const size_t step = min_u64(k + i, steps - 1);                                             \
        svfloat32_t x =                                                                            \
            svld1_f32(svwhilelt_b32_u64(j, k + i < steps ? columns : 0), from + step * row + j);   \
        __builtin_prefetch(from + (step + PACK_AHEAD) * row + j);                                  \
        svst1_f32(all, copy + (k + i) * vl, x);                                                    \
        largest##i = svmax_s32_x(all, largest##i, magnitude_sve(x));                               \
    }
#define SQUARE(i)                                                                                  \
    sum##i = add_rounded_square_sve(sum##i, svld1_f32(all, copy + (k + i) * vl), scale);

        FOUR(START)
        for (size_t k = 0; k < padded; k += 4) {
            FOUR(COPY)
        }
        svint32_t largest = svmax_s32_x(all, svmax_s32_x(all, largest0, largest1),
                                        svmax_s32_x(all, largest2, largest3));
        const svint32_t exponent = fp16_exponent_sve(largest);

        svfloat32_t scale = fp16_norm_scale_sve(exponent);
        svfloat32_t sum0 = svdup_n_f32(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
        for (size_t k = 0; k < padded; k += 4) {
            FOUR(SQUARE)
        }
        sum0 = svadd_f32_x(all, svadd_f32_x(all, sum0, sum1), svadd_f32_x(all, sum2, sum3));

        svst1_f32(p, unscale + j, fp16_scale_sve(exponent, fp16_less_sve(sum0), &scale));
        for (size_t k = 0; k < steps; k += 2) {
            const float *x = copy + k * vl;
            svst1_f32(p, pairs + k / 2 * to_row + j,
                      fp16_pairs_sve(svld1_f32(all, x), svld1_f32(all, x + vl), scale));
        }
#undef START
#undef COPY
#undef SQUARE
    }
}

// Reduces each of as many vectors in memory as a vector has lanes to one lane of the result: to its
// largest bits, or to its sum. Overwrites them.
SVE_INLINE svfloat32_t reduce_vectors_sve(float *vectors, const bool largest) {
    const svbool_t all = svptrue_b32();
    const size_t vl = svcntw();
    for (size_t n = vl / 2; n > 0; n /= 2) {
        for (size_t i = 0; i < n; i++) {
            svfloat32_t a = svld1_f32(all, vectors + 2 * i * vl);
            svfloat32_t b = svld1_f32(all, vectors + (2 * i + 1) * vl);
            svfloat32_t even = svuzp1_f32(a, b), odd = svuzp2_f32(a, b);
            svfloat32_t most = svreinterpret_f32_s32(
                svmax_s32_x(all, svreinterpret_s32_f32(even), svreinterpret_s32_f32(odd)));
            svst1_f32(all, vectors + i * vl, largest ? most : svadd_f32_x(all, even, odd));
        }
    }
    return svld1_f32(all, vectors);
}

// A chunk of rows, at most as many as a vector has lanes, each contiguous and `row` apart: pairs
// (rows, CHUNK_PAIRS) and unscale (rows).
static inline void fp16_some_rows_sve(float *pairs, float *unscale, const float *from, size_t row,
                                      size_t rows, size_t steps) {
    const svbool_t all = svptrue_b32();
    const size_t vl = svcntw();
    float vectors[MAX_LANES * MAX_LANES], scales[MAX_LANES];

    memset(vectors, 0, vl * vl * sizeof *vectors);
    for (size_t i = 0; i < rows; i++) {
        svint32_t largest = svdup_n_s32(0);
        for (size_t k = 0; k < steps; k += vl) {
            svfloat32_t x = svld1_f32(svwhilelt_b32_u64(k, steps), from + i * row + k);
            largest = svmax_s32_x(all, largest, magnitude_sve(x));
        }
        svst1_f32(all, vectors + i * vl, svreinterpret_f32_s32(largest));
    }
    const svint32_t exponent =
        fp16_exponent_sve(svreinterpret_s32_f32(reduce_vectors_sve(vectors, true)));

    svfloat32_t scale = fp16_norm_scale_sve(exponent);
    svst1_f32(all, scales, scale);
    memset(vectors, 0, vl * vl * sizeof *vectors);
    for (size_t i = 0; i < rows; i++) {
        svfloat32_t sum = svdup_n_f32(0);
        for (size_t k = 0; k < steps; k += vl) {
            svfloat32_t x = svld1_f32(svwhilelt_b32_u64(k, steps), from + i * row + k);
            sum = add_rounded_square_sve(sum, x, svdup_n_f32(scales[i]));
        }
        svst1_f32(all, vectors + i * vl, sum);
    }
    const svint32_t less = fp16_less_sve(reduce_vectors_sve(vectors, false));

    svst1_f32(svwhilelt_b32_u64(0, rows), unscale, fp16_scale_sve(exponent, less, &scale));
    svst1_f32(all, scales, scale);
    for (size_t i = 0; i < rows; i++) {
        const svfloat32_t factor = svdup_n_f32(scales[i]);
        const float *x = from + i * row;
        for (size_t k = 0; k < steps; k += 2 * vl) { // a last even step has a zero beside it
            svfloat32_t low = svld1_f32(svwhilelt_b32_u64(k, steps), x + k);
            svfloat32_t high = svld1_f32(svwhilelt_b32_u64(k + vl, steps), x + k + vl);
            svst1_f32(svwhilelt_b32_u64(k / 2, divide_up(steps, 2)),
                      pairs + i * CHUNK_PAIRS + k / 2,
                      fp16_pairs_sve(svuzp1_f32(low, high), svuzp2_f32(low, high), factor));
        }
    }
}

// The same for any number of rows.
static inline void fp16_rows_sve(float *pairs, float *unscale, const float *from, size_t row,
                                 size_t rows, size_t steps) {
    const size_t vl = svcntw();
    for (size_t i = 0; i < rows; i += vl) {
        fp16_some_rows_sve(pairs + i * CHUNK_PAIRS, unscale + i, from + i * row, row,
                           min_u64(rows - i, vl), steps);
    }
}

// Packs a strip of at most TILE_ROWS_SVE rows of a, which start at a.data.
static inline void pack_fp16_strip_sve(float *strip, MatrixView a, size_t rows, size_t depth) {
    float pairs[TILE_ROWS_SVE * CHUNK_PAIRS];
    for (size_t k = 0; k < depth; k += FP16_CHUNK) {
        const size_t steps = min_u64(depth - k, FP16_CHUNK), size = packed_chunk(steps);
        const float *from = a.data + k * a.column;
        float *elements = strip + K_GROUP * TILE_ROWS_SVE;

        if (a.row == 1) {
            memset(strip, 0, size * TILE_ROWS_SVE * sizeof *strip);
            fp16_columns_sve(elements, TILE_ROWS_SVE, strip, from, a.column, rows, steps);
        } else {
            memset(strip, 0, TILE_ROWS_SVE * sizeof *strip);
            fp16_rows_sve(pairs, strip, from, a.row, rows, steps);
            pack_rows_sve(elements, pairs, CHUNK_PAIRS, rows, divide_up(steps, 2));
        }
        strip += size * TILE_ROWS_SVE;
    }
}

// Packs a panel of at most 2 vectors of columns of b, which start at b.data.
static inline void pack_fp16_panel_sve(float *panel, MatrixView b, size_t depth, size_t columns) {
    const size_t width = 2 * svcntw();
    float pairs[2 * MAX_LANES * CHUNK_PAIRS];
    for (size_t k = 0; k < depth; k += FP16_CHUNK) {
        const size_t steps = min_u64(depth - k, FP16_CHUNK), size = packed_chunk(steps);
        const size_t count = divide_up(steps, 2);
        const float *from = b.data + k * b.row;
        float *elements = panel + K_GROUP * width;

        if (columns < width) {
            memset(panel, 0, size * width * sizeof *panel);
        }
        if (b.column == 1) {
            fp16_columns_sve(elements, width, panel, from, b.row, columns, steps);
        } else {
            fp16_rows_sve(pairs, panel, from, b.column, columns, steps);
            pack_panel_columns_sve(elements, pairs, CHUNK_PAIRS, columns, count);
        }
        memset(elements + count * width, 0, (size - K_GROUP - count) * width * sizeof *elements);
        panel += size * width;
    }
}

#endif
