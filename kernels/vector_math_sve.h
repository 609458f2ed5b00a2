// vector_math_sve.h: elementary functions of vectors, and loops over one row in memory: sums,
// exponentials. exp, reciprocal and square root are sequences of exactly rounded operations: the
// same bits on every machine.
#ifndef KERNELS_VECTOR_MATH_SVE_H
#define KERNELS_VECTOR_MATH_SVE_H

#include "kernels/sizes_sve.h"
#include "kernels/sve_shim.h"
#include "kernels_ref.h" // defines: add_lanes_ref
#include "util/array.h"  // defines: min_u64

#define SVE_INLINE static inline __attribute__((always_inline))

// An A64FX operation has a latency of 9 cycles, and the core looks 128 instructions ahead, which is
// less than one of these chains. So loops process four vectors at a time, phase by phase: a macro
// does one phase for vector j, and FOUR repeats it.
#define FOUR(DO) DO(0) DO(1) DO(2) DO(3)

// ------------------------------------------------------------------------------------------------
// Elementary functions

// exp(x) within 2 units in the last place. x is clamped to -87.33 .. 80: the result is at least
// 1.2e-38. Two phases: n = round(x / ln 2) and r = x - n ln 2, with ln 2 split in two constants
// (Cody, Waite 1980); then exp(x) = 2^n exp(r), a polynomial on |r| <= 0.347 (Estrin's scheme) to
// whose exponent bits n is added.
SVE_INLINE svfloat32_t exp_reduce_sve(svbool_t p, svfloat32_t x, svint32_t *power) {
    // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
    const svfloat32_t magic = svdup_n_f32(12582912.0f);

    x = svmin_f32_x(p, svdup_n_f32(80.0f), svmax_f32_x(p, svdup_n_f32(-87.33f), x));
    svfloat32_t shifted = svmla_f32_x(p, magic, x, svdup_n_f32(1.44269504f));
    svfloat32_t n = svsub_f32_x(p, shifted, magic);

    // n in the place of the exponent; the bits of 1.5 * 2^23 are shifted out
    *power = svlsl_n_s32_x(p, svreinterpret_s32_f32(shifted), 23);
    return svmla_f32_x(p, svmla_f32_x(p, x, n, svdup_n_f32(-0.693145752f)), n,
                       svdup_n_f32(-1.42860677e-6f));
}

SVE_INLINE svfloat32_t exp_finish_sve(svbool_t p, svfloat32_t r, svint32_t power) {
    svfloat32_t square = svmul_f32_x(p, r, r), one = svadd_f32_x(p, svdup_n_f32(1.0f), r);
    svfloat32_t low = svmla_f32_x(p, svdup_n_f32(4.99999851e-1f), r, svdup_n_f32(1.66664720e-1f));
    svfloat32_t high = svmla_f32_x(p, svdup_n_f32(4.16695364e-2f), r, svdup_n_f32(8.36871110e-3f));
    high = svmla_f32_x(p, high, square, svdup_n_f32(1.38139904e-3f));

    svfloat32_t y = svmla_f32_x(p, one, square, svmla_f32_x(p, low, square, high));
    return svreinterpret_f32_s32(svadd_s32_x(p, svreinterpret_s32_f32(y), power));
}

SVE_INLINE svfloat32_t exp_sve(svbool_t p, svfloat32_t x) {
    svint32_t power;
    svfloat32_t r = exp_reduce_sve(p, x, &power);
    return exp_finish_sve(p, r, power);
}

// 1 / x for x in 2^-100 .. 2^120, within 1 unit in the last place: a guess from the exponent bits,
// relative error below 0.06, squared by each of three Newton steps. The divide instruction of A64FX
// takes 98 cycles for 16 numbers and blocks the pipe.
SVE_INLINE svfloat32_t reciprocal_guess_sve(svbool_t p, svfloat32_t x) {
    return svreinterpret_f32_s32(svsub_s32_x(p, svdup_n_s32(0x7EF311C3), svreinterpret_s32_f32(x)));
}

SVE_INLINE svfloat32_t reciprocal_step_sve(svbool_t p, svfloat32_t y, svfloat32_t x) {
    return svmla_f32_x(p, y, y, svmls_f32_x(p, svdup_n_f32(1.0f), x, y));
}

SVE_INLINE svfloat32_t reciprocal_sve(svbool_t p, svfloat32_t x) {
    svfloat32_t y = reciprocal_guess_sve(p, x);
    y = reciprocal_step_sve(p, y, x);
    y = reciprocal_step_sve(p, y, x);
    return reciprocal_step_sve(p, y, x);
}

// 1 / sqrt(x) for normal x, relative error below 1e-6 after two steps from the guess, each with the
// constant that centers its error (Moroz et al. 2018). Finite for x = 0, so that x times it is
// sqrt(x) there too.
SVE_INLINE svfloat32_t root_guess_sve(svbool_t p, svfloat32_t x) {
    return svreinterpret_f32_s32(
        svsub_s32_x(p, svdup_n_s32(0x5F371200), svasr_n_s32_x(p, svreinterpret_s32_f32(x), 1)));
}

SVE_INLINE svfloat32_t root_step_sve(svbool_t p, svfloat32_t y, svfloat32_t half_x,
                                     float three_halves) {
    return svmul_f32_x(p, y,
                       svmls_f32_x(p, svdup_n_f32(three_halves), svmul_f32_x(p, half_x, y), y));
}

// exp of one number, by the same operations.
static inline float exp_scalar_sve(float x) {
    float y[MAX_LANES];
    svst1_f32(svptrue_b32(), y, exp_sve(svptrue_b32(), svdup_n_f32(x)));
    return y[0];
}

// log(x) of one positive number, because the C library's log differs from machine to machine: x =
// 2^n m with m in sqrt(1/2) .. sqrt(2); log m = 2 atanh((m - 1) / (m + 1)) as a series in double
// whose last term is below 2^-50.
static inline float log_scalar_sve(float x) {
    int n;
    double m = frexp((double)x, &n);
    if (m < 0.70710678118654752) {
        m *= 2;
        n--;
    }

    double z = (m - 1) / (m + 1), square = z * z, sum = 0;
    for (int term = 21; term > 0; term -= 2) {
        sum = sum * square + 1.0 / term;
    }
    return (float)(n * 0.69314718055994531 + 2 * z * sum);
}

// ------------------------------------------------------------------------------------------------
// Sums along a row: 64 virtual lanes in four groups of 16. Lane j of group g sums elements 64 i +
// 16 g + j.

// The operands of a sum's terms: arrays and scalars, as the kind of term needs them.
typedef struct {
    const float *a, *b, *c;
    float s, t;
} RowTerms;

// Adds the terms of the elements from i on to the lanes of `sum`.
typedef svfloat32_t (*RowTerm)(svfloat32_t sum, svbool_t p, size_t i, const RowTerms *row);

// The predicate of group g in the last `left` elements of a row: at most `width` lanes.
SVE_INLINE svbool_t group_lanes_sve(size_t left, size_t g, size_t width) {
    size_t before = g * ROW_GROUP;
    return svwhilelt_b32_u64(0, left > before ? min_u64(left - before, width) : 0);
}

// The sum of the terms of elements 0 .. n - 1.
SVE_INLINE float sum_row_sve(size_t n, RowTerm term, const RowTerms *row) {
    float lane[ROW_GROUP];
    const size_t width = min_u64(svcntw(), ROW_GROUP);

    // with vectors shorter than a group, `width` lanes of each group in turn
    for (size_t j = 0; j < ROW_GROUP; j += width) {
        svfloat32_t s0 = svdup_n_f32(0), s1 = s0, s2 = s0, s3 = s0;
        for (size_t i = j; i < n; i += ROW_LANES) {
            const size_t left = n - i;
            if (left >= ROW_LANES) {
                const svbool_t p = svwhilelt_b32_u64(0, width);
                s0 = term(s0, p, i, row);
                s1 = term(s1, p, i + ROW_GROUP, row);
                s2 = term(s2, p, i + 2 * ROW_GROUP, row);
                s3 = term(s3, p, i + 3 * ROW_GROUP, row);
                continue;
            }
            s0 = term(s0, group_lanes_sve(left, 0, width), i, row);
            s1 = term(s1, group_lanes_sve(left, 1, width), i + ROW_GROUP, row);
            s2 = term(s2, group_lanes_sve(left, 2, width), i + 2 * ROW_GROUP, row);
            s3 = term(s3, group_lanes_sve(left, 3, width), i + 3 * ROW_GROUP, row);
        }

        svbool_t p = svwhilelt_b32_u64(0, width);
        svst1_f32(p, lane + j, svadd_f32_x(p, svadd_f32_x(p, s0, s1), svadd_f32_x(p, s2, s3)));
    }
    return add_lanes_ref(lane);
}

// a
SVE_INLINE svfloat32_t add_a_sve(svfloat32_t sum, svbool_t p, size_t i, const RowTerms *row) {
    return svadd_f32_m(p, sum, svld1_f32(p, row->a + i));
}

// a * b
SVE_INLINE svfloat32_t add_a_b_sve(svfloat32_t sum, svbool_t p, size_t i, const RowTerms *row) {
    return svmla_f32_m(p, sum, svld1_f32(p, row->a + i), svld1_f32(p, row->b + i));
}

// (a - s)^2
SVE_INLINE svfloat32_t add_square_sve(svfloat32_t sum, svbool_t p, size_t i, const RowTerms *row) {
    svfloat32_t x = svsub_f32_x(p, svld1_f32(p, row->a + i), svdup_n_f32(row->s));
    return svmla_f32_m(p, sum, x, x);
}

// (a - s) * t * b * c
SVE_INLINE svfloat32_t add_normalized_sve(svfloat32_t sum, svbool_t p, size_t i,
                                          const RowTerms *row) {
    svfloat32_t x = svsub_f32_x(p, svld1_f32(p, row->a + i), svdup_n_f32(row->s));
    svfloat32_t g = svmul_f32_x(p, svld1_f32(p, row->b + i), svld1_f32(p, row->c + i));
    return svmla_f32_m(p, sum, svmul_f32_x(p, x, svdup_n_f32(row->t)), g);
}

// The largest of n values, -infinity if n is 0. NaN may go unnoticed here: the sum of exponentials
// that follows is NaN.
static inline float max_row_sve(const float *x, size_t n) {
    svfloat32_t max = svdup_n_f32(-INFINITY);
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        max = svmax_f32_m(p, max, svld1_f32(p, x + i));
    }
    return svmaxv_f32(svptrue_b32(), max);
}

// ------------------------------------------------------------------------------------------------
// Loops over one row

// Vector x##j of a row of n, j vectors after element i; its place and predicate.
#define LOAD_X(j)                                                                                  \
    const size_t at##j = i + j * vl;                                                               \
    const svbool_t p##j = svwhilelt_b32_u64(at##j, n);                                             \
    svfloat32_t x##j = svld1_f32(p##j, x + at##j);

// Turns the vectors x0 .. x3 into exp(x scale - less). The product is rounded before the
// subtraction, as it was for the maximum.
#define EXP_SCALED                                                                                 \
    svint32_t power0, power1, power2, power3;                                                      \
    FOUR(EXP_REDUCE)                                                                               \
    FOUR(EXP_FINISH)
#define EXP_REDUCE(j)                                                                              \
    x##j = svsub_f32_x(p##j, svmul_f32_x(p##j, x##j, svdup_n_f32(scale)), svdup_n_f32(less));      \
    x##j = exp_reduce_sve(p##j, x##j, &power##j);
#define EXP_FINISH(j) x##j = exp_finish_sve(p##j, x##j, power##j);

// x[i] = exp(x[i] scale - less) for i < n; returns their sum.
static inline float exp_row_sve(float *x, size_t n, float scale, float less) {
    const size_t vl = svcntw();

#define STORE(j) svst1_f32(p##j, x + at##j, x##j);

    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        EXP_SCALED
        FOUR(STORE)
    }
#undef STORE
    return sum_row_sve(n, add_a_sve, &(RowTerms){.a = x});
}

// x *= factor
static inline void scale_row_sve(float *x, size_t n, float factor) {
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        svst1_f32(p, x + i, svmul_f32_x(p, svld1_f32(p, x + i), svdup_n_f32(factor)));
    }
}

// y += x factor
static inline void add_scaled_row_sve(float *y, const float *x, float factor, size_t n) {
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        svst1_f32(p, y + i,
                  svmla_f32_x(p, svld1_f32(p, y + i), svld1_f32(p, x + i), svdup_n_f32(factor)));
    }
}

// out = a + b; they may be the same array.
static inline void add_row_sve(float *out, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        svst1_f32(p, out + i, svadd_f32_x(p, svld1_f32(p, a + i), svld1_f32(p, b + i)));
    }
}

// One row of attention backward: turns the scores x into p = exp(scale x - lse), and ds, which
// holds dout . v, into scale p (dout . v - dout . out). Zeros the rest of both blocks.
static inline void attention_dscore_row_sve(float *x, float *ds, size_t n, float scale, float less,
                                            float dy_y) {
    const size_t vl = svcntw();

#define STORE(j)                                                                                   \
    svst1_f32(p##j, x + at##j, x##j);                                                              \
    svfloat32_t d##j = svsub_f32_x(p##j, svld1_f32(p##j, ds + at##j), svdup_n_f32(dy_y));          \
    svst1_f32(p##j, ds + at##j,                                                                    \
              svmul_f32_x(p##j, svmul_f32_x(p##j, x##j, svdup_n_f32(scale)), d##j));

    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        EXP_SCALED
        FOUR(STORE)
    }
#undef STORE
    memset(x + n, 0, (KEY_BLOCK - n) * sizeof(float));
    memset(ds + n, 0, (KEY_BLOCK - n) * sizeof(float));
}

// y (n) += the rows of x (R, n), in order: four vectors of columns from i on.
static inline void add_rows_sve(float *y, const float *x, size_t R, size_t n, size_t i) {
    const size_t vl = svcntw();

#define BEGIN(j)                                                                                   \
    const size_t at##j = i + j * vl;                                                               \
    const svbool_t p##j = svwhilelt_b32_u64(at##j, n);                                             \
    svfloat32_t sum##j = svld1_f32(p##j, y + at##j);
#define ADD(j) sum##j = svadd_f32_x(p##j, sum##j, svld1_f32(p##j, x + r * n + at##j));
#define STORE(j) svst1_f32(p##j, y + at##j, sum##j);

    FOUR(BEGIN)
    for (size_t r = 0; r < R; r++) {
        FOUR(ADD)
    }
    FOUR(STORE)
#undef BEGIN
#undef ADD
#undef STORE
}

// The gradients of LayerNorm's weight and bias (C), of four vectors of channels from i on: a cache
// line of A64FX. dweight += dout (x - mean) rstd, dbias += dout, the rows in order.
static inline void add_layernorm_weights_sve(float *dweight, float *dbias, const float *dout,
                                             const float *x, const float *mean, const float *rstd,
                                             size_t R, size_t C, size_t i) {
    const size_t vl = svcntw();

#define BEGIN(j)                                                                                   \
    const size_t at##j = i + j * vl;                                                               \
    const svbool_t p##j = svwhilelt_b32_u64(at##j, C);                                             \
    svfloat32_t dw##j = svld1_f32(p##j, dweight + at##j), db##j = svld1_f32(p##j, dbias + at##j);
#define ADD(j)                                                                                     \
    svfloat32_t dy##j = svld1_f32(p##j, dout + r * C + at##j);                                     \
    svfloat32_t n##j =                                                                             \
        svsub_f32_x(p##j, svld1_f32(p##j, x + r * C + at##j), svdup_n_f32(mean[r]));               \
    n##j = svmul_f32_x(p##j, n##j, svdup_n_f32(rstd[r]));                                          \
    dw##j = svmla_f32_x(p##j, dw##j, dy##j, n##j);                                                 \
    db##j = svadd_f32_x(p##j, db##j, dy##j);
#define STORE(j)                                                                                   \
    svst1_f32(p##j, dweight + at##j, dw##j);                                                       \
    svst1_f32(p##j, dbias + at##j, db##j);

    FOUR(BEGIN)
    for (size_t r = 0; r < R; r++) {
        FOUR(ADD)
    }
    FOUR(STORE)
#undef BEGIN
#undef ADD
#undef STORE
}

// The gradient of RMSNorm's weight (D), of four vectors of channels from i on: dweight += dout x
// rstd of R rows of H heads, in order. Head h of row r starts at dout + r * row + h * D, in x at x
// + (r * H + h) * D.
static inline void add_rmsnorm_weights_sve(float *dweight, const float *dout, const float *x,
                                           const float *rstd, size_t row, size_t R, size_t H,
                                           size_t D, size_t i) {
    const size_t vl = svcntw();

#define BEGIN(j)                                                                                   \
    const size_t at##j = i + j * vl;                                                               \
    const svbool_t p##j = svwhilelt_b32_u64(at##j, D);                                             \
    svfloat32_t dw##j = svld1_f32(p##j, dweight + at##j);
#define ADD(j)                                                                                     \
    svfloat32_t n##j = svmul_f32_x(p##j, svld1_f32(p##j, x + at##j), svdup_n_f32(s));              \
    dw##j = svmla_f32_x(p##j, dw##j, svld1_f32(p##j, dy + at##j), n##j);
#define STORE(j) svst1_f32(p##j, dweight + at##j, dw##j);

    FOUR(BEGIN)
    for (size_t r = 0; r < R; r++) {
        for (size_t h = 0; h < H; h++, x += D) {
            const float *dy = dout + r * row + h * D;
            const float s = rstd[r * H + h];
            FOUR(ADD)
        }
    }
    FOUR(STORE)
#undef BEGIN
#undef ADD
#undef STORE
}

#undef EXP_SCALED
#undef EXP_REDUCE
#undef EXP_FINISH

#endif
