// kernels_sve.h: the kernels of kernels_ref.h, fast, in Arm SVE intrinsics. Correct for every
// vector length from 128 to 2048 bits, tuned for the 512 of A64FX; on machines without SVE the same
// source is compiled over sve_shim.h.
//
// Bits: the results are the same for any number of threads, any vector length and either
// instruction set. Matrix products add over k one after another with fused multiply-adds, whatever
// the tiles. Sums along a row go over 64 virtual lanes that are added in a fixed tree. exp,
// reciprocal and square root are sequences of exactly rounded operations. So this file is compiled
// with -ffp-contract=off: every fused multiply-add is written out.
//
// SVE code stays in plain functions over one row or tile, called from parallel regions: gcc 12 for
// AArch64 crashes on vectors that cross the edge of a region, and on loops of full vectors with a
// tail; each pass here is one predicated loop.
#ifndef KERNELS_SVE_H
#define KERNELS_SVE_H

#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kernels_ref.h"
#include "sve_shim.h"

// ------------------------------------------------------------------------------------------------
// Sizes: all that is tuned stands here
//
// A tile of the matrix product is TILE_ROWS_SVE rows x 2 vectors of sums in registers. A64FX: 20
// sums, 2 vectors of b and up to 10 broadcasts fill the 32 registers, and 20 chains cover two pipes
// of 9 cycles. AVX-512 needs fewer chains, and batches divide by 8. AVX2 has 16 registers: 12 sums.
//
// A strip of a, TILE_ROWS_SVE x GEMM_DEPTH (12 or 15 KiB), stays in L1, while the panels of b pass
// by from L2: 2 vectors for 20 multiply-adds, a third of what A64FX's L2 gives each core. The
// panels of a thread, GEMM_DEPTH x GEMM_COLUMNS, stay in L2: 0.6 MiB where a core has its own, 0.2
// MiB on A64FX, whose 12 cores share 7 MiB.

#if defined __AVX512F__
#define TILE_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
enum { TILE_ROWS_SVE = 8 };
#elif defined __ARM_FEATURE_SVE || defined __ARM_NEON
#define TILE_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9)
enum { TILE_ROWS_SVE = 10 };
#else
#define TILE_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
enum { TILE_ROWS_SVE = 6 };
#endif
#ifdef __ARM_FEATURE_SVE
enum { GEMM_COLUMNS = 128 }; // a multiple of 2 vectors of any length
#else
enum { GEMM_COLUMNS = 384 };
#endif
enum {
    GEMM_DEPTH = 384,            // a multiple of K_GROUP
    K_GROUP = 4,                 // steps of k that are packed together: 16 bytes of a row
    GEMM_ROWS = 1080,            // rows of a that are packed at a time, a multiple of 6, 8 and 10,
    GEMM_STEPS = 8 * GEMM_DEPTH, // and steps of k
    PACK_AHEAD = 8, // rows of b that are asked for ahead of packing: each is a new line, and often
                    // a new page
    MAX_LANES = 64, // floats in the longest vector, 2048 bits
    QUERY_BLOCK = 80, // rows of attention computed at a time, a multiple of 8 and 10
    KEY_BLOCK =
        160, // keys they meet at a time: the order of the streaming softmax, so the same everywhere
    ROW_LANES = 64, // virtual lanes of a sum along a row
    ROW_GROUP = 16  // of which a vector holds at most this many
};

static const float
    zeros_sve[(size_t)GEMM_COLUMNS + KEY_BLOCK]; // what a product may start from, and more

static inline size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

static inline size_t at_most(size_t n, size_t most) {
    return n < most ? n : most;
}

// Zeros by all threads in equal parts: the first time, each part's memory comes to lie near the
// cores that will work on it.
static inline void zero_floats(float *x, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        x[i] = 0;
    }
}

enum { HUGE_PAGE = 2 << 20 };

// Bytes that n floats take up in memory: large arrays lie on huge pages of their own.
static inline size_t allocated_bytes(size_t n) {
    return round_up(n * sizeof(float), n * sizeof(float) < HUGE_PAGE ? 256 : HUGE_PAGE);
}

// Memory for n floats, zero, on huge pages where the system offers them; NULL if there is not
// enough.
static inline float *allocate_floats(size_t n) {
    const size_t align = n * sizeof(float) < HUGE_PAGE ? 256 : HUGE_PAGE;
    float *data =
        n < SIZE_MAX / sizeof(float) - HUGE_PAGE ? aligned_alloc(align, allocated_bytes(n)) : NULL;
    if (!data) {
        return NULL;
    }
    if (align == HUGE_PAGE) {
        madvise(data, allocated_bytes(n), MADV_HUGEPAGE); // a wish: nothing depends on it
    }
    zero_floats(data, n);
    return data;
}

#define SVE_INLINE static inline __attribute__((always_inline))

// ------------------------------------------------------------------------------------------------
// Elementary functions

// A64FX takes 9 cycles for an operation and looks 128 instructions ahead, less than one of these
// chains is long: loops over them take several vectors at a time, piece by piece.
#define FOUR(DO) DO(0) DO(1) DO(2) DO(3)

// exp(x) within 2 units in the last place; it stays at exp(-87.33) = 1.2e-38 below that and at
// exp(80) above 80. In two pieces: n = round(x / ln 2), r = x - n ln 2 with ln 2 in two parts
// (Cody, Waite 1980); exp(x) = 2^n exp(r), a polynomial on |r| <= 0.347 (Estrin's order) whose
// exponent bits n is added to.
SVE_INLINE svfloat32_t exp_reduce_sve(svbool_t p, svfloat32_t x, svint32_t *power) {
    const svfloat32_t magic =
        svdup_n_f32(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
    x = svmin_f32_x(p, svdup_n_f32(80.0f), svmax_f32_x(p, svdup_n_f32(-87.33f), x));
    svfloat32_t shifted = svmla_f32_x(p, magic, x, svdup_n_f32(1.44269504f));
    svfloat32_t n = svsub_f32_x(p, shifted, magic);
    *power =
        svlsl_n_s32_x(p, svreinterpret_s32_f32(shifted), 23); // n; the bits of 1.5 * 2^23 fall out
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

// 1 / x for x in 2^-100 .. 2^120, within 1 unit in the last place: a guess from the exponent's
// bits, relative error below 0.06, squared by each of three Newton steps. A64FX divides 16 numbers
// in 98 cycles that nothing else may use.
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
// constant that centres its error (Moroz et al. 2018); finite for x = 0, so that x times it is
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

// GELU is x times the gate 1 / (1 + exp(-2 s)) with s = sqrt(2/pi) (x + 0.044715 x^3), since (1 +
// tanh(s)) / 2 is. This is -2 s.
SVE_INLINE svfloat32_t gelu_exponent_sve(svbool_t p, svfloat32_t x) {
    svfloat32_t square = svmul_f32_x(p, x, x);
    return svmul_f32_x(p, x,
                       svmla_f32_x(p, svdup_n_f32(-2 * GELU_SCALE), square,
                                   svdup_n_f32(-2 * GELU_SCALE * GELU_CUBE)));
}

// Of the vectors x0 .. x3: e0 .. e3 = exp(-2 s), and the gates gate0 .. gate3.
#define GELU_GATES                                                                                 \
    svint32_t power0, power1, power2, power3;                                                      \
    FOUR(GELU_REDUCE)                                                                              \
    FOUR(GELU_EXP)                                                                                 \
    FOUR(GELU_RECIPROCAL)
#define GELU_REDUCE(j)                                                                             \
    svfloat32_t e##j = exp_reduce_sve(p##j, gelu_exponent_sve(p##j, x##j), &power##j);
#define GELU_EXP(j) e##j = exp_finish_sve(p##j, e##j, power##j);
#define GELU_RECIPROCAL(j)                                                                         \
    svfloat32_t gate##j = reciprocal_sve(p##j, svadd_f32_x(p##j, svdup_n_f32(1.0f), e##j));

// exp of one number, by the same operations.
static inline float exp_scalar_sve(float x) {
    float y[MAX_LANES];
    svst1_f32(svptrue_b32(), y, exp_sve(svptrue_b32(), svdup_n_f32(x)));
    return y[0];
}

// log(x) of one positive number: x = 2^n m with m in sqrt(1/2) .. sqrt(2), log m = 2 atanh((m - 1)
// / (m + 1)) as a series in double, whose last term is below 2^-50. For the rows' sums: the
// library's log differs from machine to machine.
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
// Sums along a row: 64 virtual lanes in four groups of 16. Lane j of group g takes elements 64 i +
// 16 g + j.

typedef struct {
    const float *a, *b, *c;
    float s, t;
} RowTerms;

typedef svfloat32_t (*RowTerm)(svfloat32_t sum, svbool_t p, size_t i, const RowTerms *row);

// Sum over i < n of what `term` adds for the elements from i on.
SVE_INLINE float sum_row_sve(size_t n, RowTerm term, const RowTerms *row) {
    float lane[ROW_GROUP];
    size_t width = svcntw() < ROW_GROUP ? svcntw() : ROW_GROUP;
    for (size_t j = 0; j < ROW_GROUP; j += width) {
        svfloat32_t s0 = svdup_n_f32(0), s1 = s0, s2 = s0, s3 = s0;
        for (size_t i = j; i < n; i += ROW_LANES) {
            size_t left = n - i;
            if (left >= ROW_LANES) {
                const svbool_t p = svwhilelt_b32_u64(0, width);
                s0 = term(s0, p, i, row);
                s1 = term(s1, p, i + ROW_GROUP, row);
                s2 = term(s2, p, i + 2 * ROW_GROUP, row);
                s3 = term(s3, p, i + 3 * ROW_GROUP, row);
                continue;
            }
#define GROUP(g)                                                                                   \
    (left > g * ROW_GROUP ? (left - g * ROW_GROUP < width ? left - g * ROW_GROUP : width) : 0)
            s0 = term(s0, svwhilelt_b32_u64(0, GROUP(0)), i, row);
            s1 = term(s1, svwhilelt_b32_u64(0, GROUP(1)), i + ROW_GROUP, row);
            s2 = term(s2, svwhilelt_b32_u64(0, GROUP(2)), i + 2 * ROW_GROUP, row);
            s3 = term(s3, svwhilelt_b32_u64(0, GROUP(3)), i + 3 * ROW_GROUP, row);
#undef GROUP
        }
        svbool_t p = svwhilelt_b32_u64(0, width);
        svst1_f32(p, lane + j, svadd_f32_x(p, svadd_f32_x(p, s0, s1), svadd_f32_x(p, s2, s3)));
    }
    return add_lanes_ref(lane);
}

SVE_INLINE svfloat32_t add_a_sve(svfloat32_t sum, svbool_t p, size_t i, const RowTerms *row) {
    return svadd_f32_m(p, sum, svld1_f32(p, row->a + i));
}

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

// Largest of n values, -infinity if n is 0. A NaN need not be seen here: the sum of exponentials
// that follows is NaN.
static inline float max_row_sve(const float *x, size_t n) {
    svfloat32_t max = svdup_n_f32(-INFINITY);
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        max = svmax_f32_m(p, max, svld1_f32(p, x + i));
    }
    return svmaxv_f32(svptrue_b32(), max);
}

// The vector at element i + j vectors of a row of n, and its predicate.
#define LOAD_X(j)                                                                                  \
    const size_t at##j = i + j * vl;                                                               \
    const svbool_t p##j = svwhilelt_b32_u64(at##j, n);                                             \
    svfloat32_t x##j = svld1_f32(p##j, x + at##j);

// Turns the vectors x0 .. x3 into exp(x scale - less); the product is rounded first, as the
// maximum's was.
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

static inline void scale_row_sve(float *x, size_t n, float factor) {
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        svst1_f32(p, x + i, svmul_f32_x(p, svld1_f32(p, x + i), svdup_n_f32(factor)));
    }
}

// y += x
static inline void add_row_sve(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        svst1_f32(p, y + i, svadd_f32_x(p, svld1_f32(p, y + i), svld1_f32(p, x + i)));
    }
}

// ------------------------------------------------------------------------------------------------
// Matrix products: out (M, N) = or += a (M, K) b (K, N), then an epilogue while the rows are in
// cache. a and b are packed, so that the tile reads both front to back: a in strips of
// TILE_ROWS_SVE rows, b in panels of 2 vectors of columns. Depths are padded with zeros to whole
// groups of K_GROUP.

// What becomes of the product: it starts from the bias, from zero or from what is there, and ends
// with at most one of residual, gelu and gelu_inp.
typedef struct {
    bool accumulate;       // start from what is there
    const float *bias;     // (N), else zero
    const float *residual; // (M, N), added
    float *gelu;           // (M, N), gets gelu(out)
    const float *gelu_inp; // (M, N): out is multiplied by the derivative of GELU there
} Epilogue;

// out (TILE_ROWS_SVE, 2 vectors) = start + a strip times a panel. A row of `start` may be out's
// own, or the same for all (start_row 0). `a` points at the strip; where its elements lie, the kind
// of tile knows.
typedef void Tile(float *out, size_t out_row, const float *start, size_t start_row, const float *a,
                  const float *b, size_t depth);

// Element (row i, step k) of a group is a[i * row_step + k * k_step]; the next group is group_step
// further. The loop takes half a group a turn: enough for the counters and the branch to hide
// behind the multiply-adds.
SVE_INLINE void gemm_tile_sve(float *out, size_t out_row, const float *start, size_t start_row,
                              const float *a, const size_t row_step, const size_t k_step,
                              const size_t group_step, const float *b, size_t depth) {
    const svbool_t all = svptrue_b32();
    const size_t vl = svcntw();
#define START_ROW(i)                                                                               \
    svfloat32_t low##i = svld1_f32(all, start + i * start_row),                                    \
                high##i = svld1_f32(all, start + i * start_row + vl);
#define PREFETCH_ROW(i)                                                                            \
    __builtin_prefetch(out + i * out_row + 2 * vl, 1);                                             \
    __builtin_prefetch(out + i * out_row + 3 * vl, 1);
#define MULTIPLY_ADD_ROW(i)                                                                        \
    x = svdup_n_f32(a[i * row_step + step * k_step]);                                              \
    low##i = svmla_f32_m(all, low##i, b_low, x);                                                   \
    high##i = svmla_f32_m(all, high##i, b_high, x);
#define STEP(number)                                                                               \
    {                                                                                              \
        const size_t step = number;                                                                \
        svfloat32_t b_low = svld1_f32(all, b + 2 * step * vl),                                     \
                    b_high = svld1_f32(all, b + (2 * step + 1) * vl), x;                           \
        TILE_EACH_ROW(MULTIPLY_ADD_ROW)                                                            \
    }
#define STORE_ROW(i)                                                                               \
    svst1_f32(all, out + i * out_row, low##i);                                                     \
    svst1_f32(all, out + i * out_row + vl, high##i);
    TILE_EACH_ROW(START_ROW)
    TILE_EACH_ROW(PREFETCH_ROW) // the next tile is to the right
    for (size_t k = 0, advance = 2 * k_step; k < round_up(depth, K_GROUP); k += 2) {
        STEP(0)
        STEP(1)
        a += advance;
        b += 4 * vl;
        advance = group_step - advance; // to the group's other half, or to the next group
    }
    TILE_EACH_ROW(STORE_ROW)
#undef START_ROW
#undef PREFETCH_ROW
#undef MULTIPLY_ADD_ROW
#undef STEP
#undef STORE_ROW
}

// A packed strip whose groups are (row, step), as rows of memory give them by 16 bytes; and one
// whose groups are (step, row), as columns of memory do.
static void tile_of_rows_sve(float *out, size_t out_row, const float *start, size_t start_row,
                             const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, K_GROUP, 1, K_GROUP * TILE_ROWS_SVE, b, depth);
}

static void tile_of_columns_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, 1, TILE_ROWS_SVE, K_GROUP * TILE_ROWS_SVE, b,
                  depth);
}

// A block of attention's scores as it lies, and its transpose.
static void tile_of_scores_sve(float *out, size_t out_row, const float *start, size_t start_row,
                               const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, KEY_BLOCK, 1, K_GROUP, b, depth);
}

static void tile_of_scores_t_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                 const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, 1, KEY_BLOCK, K_GROUP * KEY_BLOCK, b, depth);
}

// The strips of some rows of a, and the kind of tile that reads them.
typedef struct {
    const float *data;
    size_t next; // from a strip to the next
    Tile *tile;
} Strips;

// Steps that a packed strip or panel takes up: whole groups, and one more that nobody reads.
// Without it neighbours would lie a multiple of 4 KiB apart, and writing one step of all of them
// would hit one set of L1.
static inline size_t packed_depth(size_t depth) {
    return round_up(depth, K_GROUP) + K_GROUP;
}

// Packed panels of b, their columns one after another.
typedef struct {
    const float *data;
    size_t next; // from a panel to the next
} Panels;

// One strip against panels of at least `depth` that make `columns`; at most TILE_ROWS_SVE rows. A
// tile at an edge goes through a whole one on the stack: the only place where edges are handled.
static inline void gemm_strip_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                  Tile *tile, const float *strip, Panels panels, size_t depth,
                                  size_t rows, size_t columns) {
    const size_t width = 2 * svcntw();
    const float *panel = panels.data;
    float whole[TILE_ROWS_SVE * 2 * MAX_LANES];
    for (size_t j = 0; j < columns; j += width, panel += panels.next) {
        size_t n = at_most(columns - j, width);
        if (rows == TILE_ROWS_SVE && n == width) {
            tile(out + j, out_row, start + j, start_row, strip, panel, depth);
            continue;
        }
        memset(whole, 0, sizeof whole);
        for (size_t i = 0; i < rows; i++) {
            memcpy(whole + i * width, start + i * start_row + j, n * sizeof *whole);
        }
        tile(whole, width, whole, width, strip, panel, depth);
        for (size_t i = 0; i < rows; i++) {
            memcpy(out + i * out_row + j, whole + i * width, n * sizeof *whole);
        }
    }
}

// Stores element k of four vectors as four neighbours at to + k * to_row, for k < count.
static inline void store_quads_sve(float *to, size_t to_row, size_t count, svfloat32_t r0,
                                   svfloat32_t r1, svfloat32_t r2, svfloat32_t r3) {
    const svbool_t quad = svwhilelt_b32_u64(0, 4);
    const size_t per_vector = svcntw() / 4;
    svfloat32_t low02 = svzip1_f32(r0, r2), low13 = svzip1_f32(r1, r3);
    svfloat32_t high02 = svzip2_f32(r0, r2), high13 = svzip2_f32(r1, r3);
#define STORE_QUADS(from, v)                                                                       \
    for (size_t k = (from)*per_vector; k < ((from) + 1) * per_vector && k < count; k += 4) {       \
        const size_t left = count - k < per_vector ? count - k : per_vector;                       \
        svst1_f32(quad, to + k * to_row, v);                                                       \
        if (left > 1) {                                                                            \
            svst1_f32(quad, to + (k + 1) * to_row, svext_f32(v, v, 4));                            \
        }                                                                                          \
        if (left > 2) {                                                                            \
            svst1_f32(quad, to + (k + 2) * to_row, svext_f32(v, v, 8));                            \
        }                                                                                          \
        if (left > 3) {                                                                            \
            svst1_f32(quad, to + (k + 3) * to_row, svext_f32(v, v, 12));                           \
        }                                                                                          \
        if (per_vector > 4) {                                                                      \
            v = svext_f32(v, v, 16);                                                               \
        }                                                                                          \
    }
    svfloat32_t v0 = svzip1_f32(low02, low13), v1 = svzip2_f32(low02, low13);
    svfloat32_t v2 = svzip1_f32(high02, high13), v3 = svzip2_f32(high02, high13);
    STORE_QUADS(0, v0)
    STORE_QUADS(1, v1)
    STORE_QUADS(2, v2)
    STORE_QUADS(3, v3)
#undef STORE_QUADS
}

// A strip of groups (row, step): `rows` rows of memory, `row` apart; rows and steps beyond are
// zero.
static inline void pack_rows_sve(float *strip, const float *from, size_t row, size_t rows,
                                 size_t depth) {
    const size_t group = K_GROUP * TILE_ROWS_SVE, whole = depth / K_GROUP * K_GROUP;
    if (rows < TILE_ROWS_SVE || whole < depth) {
        memset(strip, 0, round_up(depth, K_GROUP) * TILE_ROWS_SVE * sizeof *strip);
    }
    for (size_t k = 0; k < whole;
         k += K_GROUP, strip += group) { // all rows at once: as many misses under way
        for (size_t i = 0; i < rows; i++) {
            memcpy(strip + i * K_GROUP, from + i * row + k, K_GROUP * sizeof *strip);
        }
    }
    for (size_t i = 0; i < rows; i++) {
        memcpy(strip + i * K_GROUP, from + i * row + whole, (depth - whole) * sizeof *strip);
    }
}

// Strips of groups (step, row), `next` apart: `rows` columns of memory, whose neighbours are
// `column` apart.
static inline void pack_columns_sve(float *strips, size_t next, const float *from, size_t column,
                                    size_t rows, size_t depth) {
    const size_t whole = rows / TILE_ROWS_SVE, left = rows % TILE_ROWS_SVE;
    if (left) {
        memset(strips + whole * next, 0, depth * TILE_ROWS_SVE * sizeof *strips);
    }
    for (size_t k = 0; k < depth;
         k++, from += column) { // all strips at once: memory is read front to back
        float *to = strips + k * TILE_ROWS_SVE;
        for (size_t i = 0; i < whole; i++) {
            memcpy(to + i * next, from + i * TILE_ROWS_SVE, TILE_ROWS_SVE * sizeof *to);
        }
        memcpy(to + whole * next, from + whole * TILE_ROWS_SVE, left * sizeof *to);
    }
    for (size_t i = 0; i < whole + (left > 0); i++) {
        memset(strips + i * next + depth * TILE_ROWS_SVE, 0,
               (round_up(depth, K_GROUP) - depth) * TILE_ROWS_SVE * sizeof *strips);
    }
}

// One row k of panels, `next` apart: `columns` of `from`, and zeros beyond.
static inline void pack_panels_row_sve(float *to, size_t next, const float *from, size_t columns,
                                       size_t ahead) {
    const size_t vl = svcntw();
    const svbool_t all = svptrue_b32();
    for (size_t j = 0; j < columns; j += 2 * vl, to += next) {
        __builtin_prefetch(from + ahead + j);
        __builtin_prefetch(from + ahead + j + vl);
        svst1_f32(all, to, svld1_f32(svwhilelt_b32_u64(j, columns), from + j));
        svst1_f32(all, to + vl, svld1_f32(svwhilelt_b32_u64(j + vl, columns), from + j + vl));
    }
}

// Columns of one panel, each `column` apart in memory: four at a time.
static inline void pack_panel_columns_sve(float *panel, const float *from, size_t column,
                                          size_t columns, size_t depth) {
    const size_t vl = svcntw(), width = 2 * vl;
    size_t j = 0;
    for (; j + 4 <= columns; j += 4, panel += 4, from += 4 * column) {
        for (size_t k = 0; k < depth; k += vl) {
            svbool_t p = svwhilelt_b32_u64(k, depth);
            store_quads_sve(panel + k * width, width, at_most(depth - k, vl),
                            svld1_f32(p, from + k), svld1_f32(p, from + column + k),
                            svld1_f32(p, from + 2 * column + k),
                            svld1_f32(p, from + 3 * column + k));
        }
    }
    for (; j < columns; j++, panel++, from += column) {
        for (size_t k = 0; k < depth; k++) {
            panel[k * width] = from[k];
        }
    }
}

// Packs rows k0 .. k0 + depth of b, columns j0 .. j0 + columns, as panels (depth, 2 vectors), one
// after another; rows and columns beyond are zero.
static inline void pack_panels_sve(float *panels, MatrixRef b, size_t k0, size_t depth, size_t j0,
                                   size_t columns) {
    const size_t width = 2 * svcntw(), padded = round_up(depth, K_GROUP),
                 next = width * packed_depth(depth);
    const float *from = b.data + k0 * b.row + j0 * b.column;
    if (b.column == 1) {
        for (size_t k = 0; k < depth; k++, from += b.row) {
            pack_panels_row_sve(panels + k * width, next, from, columns, PACK_AHEAD * b.row);
        }
    }
    for (size_t j = 0; j < columns; j += width, panels += next) {
        if (b.column != 1) {
            if (columns - j < width) {
                memset(panels, 0, next * sizeof *panels);
            }
            pack_panel_columns_sve(panels, from + j * b.column, b.column,
                                   at_most(columns - j, width), depth);
        }
        memset(panels + depth * width, 0, (padded - depth) * width * sizeof *panels);
    }
}

static inline void gelu_row_sve(float *gelu, const float *x, size_t n) {
    const size_t vl = svcntw();
#define STORE(j) svst1_f32(p##j, gelu + at##j, svmul_f32_x(p##j, x##j, gate##j));
    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        GELU_GATES
        FOUR(STORE)
    }
#undef STORE
}

// dout *= gelu'(x). With the gate g = (1 + tanh(s)) / 2: gelu' = g + x * 2 g (1 - g) * ds/dx, and 1
// - g = exp(-2 s) g.
static inline void gelu_backward_row_sve(float *dout, const float *x, size_t n) {
    const size_t vl = svcntw();
#define SLOPE(j)                                                                                   \
    svfloat32_t slope##j = svmul_f32_x(p##j, x##j, x##j);                                          \
    slope##j = svmla_f32_x(p##j, svdup_n_f32(2 * GELU_SCALE), slope##j,                            \
                           svdup_n_f32(6 * GELU_SCALE * GELU_CUBE));                               \
    slope##j = svmul_f32_x(p##j, slope##j, x##j);
#define STORE(j)                                                                                   \
    svfloat32_t change##j = svmul_f32_x(p##j, gate##j, svmul_f32_x(p##j, e##j, gate##j));          \
    change##j = svmla_f32_x(p##j, gate##j, slope##j, change##j);                                   \
    svst1_f32(p##j, dout + at##j, svmul_f32_x(p##j, svld1_f32(p##j, dout + at##j), change##j));
    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        GELU_GATES
        FOUR(SLOPE)
        FOUR(STORE)
    }
#undef SLOPE
#undef STORE
}

// Part of a row after its last product; `at` is its place in the (M, N) arrays of the epilogue.
static inline void end_row_sve(float *out, const Epilogue *e, size_t at, size_t columns) {
    if (e->residual) {
        add_row_sve(out, e->residual + at, columns);
    } else if (e->gelu) {
        gelu_row_sve(e->gelu + at, out, columns);
    } else if (e->gelu_inp) {
        gelu_backward_row_sve(out, e->gelu_inp + at, columns);
    }
}

// A block of the product: rows m0 .. m0 + rows and steps k0 .. k0 + depth of all K, whose strips
// are packed together.
typedef struct {
    const float *strips;
    Tile *tile;
    size_t m0, rows, k0, depth, K;
} PackedBlock;

// Where the strip of row i and step k of the block lies: by GEMM_DEPTH, then by rows.
static inline size_t strip_place(const PackedBlock *p, size_t i, size_t k) {
    return k / GEMM_DEPTH * packed_depth(GEMM_DEPTH) * round_up(p->rows, TILE_ROWS_SVE) +
           i * packed_depth(at_most(p->depth - k, GEMM_DEPTH));
}

// Packs the strips of rows first .. end of a block.
static inline void pack_block_sve(float *strips, const PackedBlock *p, MatrixRef a, size_t first,
                                  size_t end) {
    for (size_t k = 0; k < p->depth && first < end; k += GEMM_DEPTH) {
        const size_t depth = at_most(p->depth - k, GEMM_DEPTH);
        const float *from = a.data + p->m0 * a.row + (p->k0 + k) * a.column;
        if (a.row == 1) {
            pack_columns_sve(strips + strip_place(p, first, k), TILE_ROWS_SVE * packed_depth(depth),
                             from + first, a.column, end - first, depth);
            continue;
        }
        for (size_t i = first; i < end; i += TILE_ROWS_SVE) {
            pack_rows_sve(strips + strip_place(p, i, k), from + i * a.row, a.row,
                          at_most(end - i, TILE_ROWS_SVE), depth);
        }
    }
}

// Columns j .. j + columns of a block. A strip stays in L1 while the panels of its depth pass by.
// panels: scratch of this thread, (GEMM_DEPTH, GEMM_COLUMNS).
static inline void gemm_columns_sve(float *out, size_t N, MatrixRef b, const Epilogue *e,
                                    const PackedBlock *p, float *panels, size_t j, size_t columns) {
    for (size_t k = 0; k < p->depth; k += GEMM_DEPTH) {
        const size_t depth = at_most(p->depth - k, GEMM_DEPTH);
        const bool from_out = p->k0 + k > 0 || e->accumulate, last = p->k0 + k + depth == p->K;
        const Panels packed = {panels, 2 * svcntw() * packed_depth(depth)};
        pack_panels_sve(panels, b, p->k0 + k, depth, j, columns);
        for (size_t i = 0; i < p->rows; i += TILE_ROWS_SVE) {
            const size_t tile_rows = at_most(p->rows - i, TILE_ROWS_SVE), at = (p->m0 + i) * N + j;
            const float *start = from_out ? out + at : e->bias ? e->bias + j : zeros_sve;
            gemm_strip_sve(out + at, N, start, from_out ? N : 0, p->tile,
                           p->strips + strip_place(p, i, k), packed, depth, tile_rows, columns);
            for (size_t r = 0; r < tile_rows && last; r++) {
                end_row_sve(out + at + r * N, e, at + r * N, columns);
            }
        }
    }
}

// Scratch for packing, kept from call to call.
static inline float *pack_scratch_sve(size_t floats) {
    static float *scratch;
    static size_t size;
    if (floats > size) {
        free(scratch);
        size = floats;
        scratch = allocate_floats(floats);
        if (!scratch) {
            fprintf(stderr,
                    "train_gpt: no memory for %zu MiB of scratch: choose a smaller --micro-batch\n",
                    floats >> 18);
            exit(EXIT_FAILURE);
        }
    }
    return scratch;
}

// The part-th of `parts` nearly equal parts of n in whole units: where it starts; where the next
// one does, it ends.
static inline size_t part_start(size_t n, size_t unit, size_t part, size_t parts) {
    return at_most(n, (n + unit - 1) / unit * part / parts * unit);
}

// One thread's part of a block: the strips that it packs for all, then its own columns, first ..
// end, of the product.
static inline void gemm_block_sve(float *out, size_t N, MatrixRef a, MatrixRef b, const Epilogue *e,
                                  const PackedBlock *p, float *strips, float *panels) {
    const size_t thread = (size_t)omp_get_thread_num(), threads = (size_t)omp_get_num_threads();
    const size_t width = 2 * svcntw(), first = part_start(N, width, thread, threads);
    const size_t wanted = part_start(N, width, thread + 1, threads) - first;
    const size_t parts = (wanted + GEMM_COLUMNS - 1) / GEMM_COLUMNS;
    pack_block_sve(strips, p, a, part_start(p->rows, TILE_ROWS_SVE, thread, threads),
                   part_start(p->rows, TILE_ROWS_SVE, thread + 1, threads));
#pragma omp barrier
    for (size_t part = 0; part < parts; part++) {
        const size_t j = part_start(wanted, width, part, parts),
                     end = part_start(wanted, width, part + 1, parts);
        gemm_columns_sve(out, N, b, e, p, panels + thread * packed_depth(GEMM_DEPTH) * GEMM_COLUMNS,
                         first + j, end - j);
    }
#pragma omp barrier
}

// Rows of a, of M, that are packed at a time: as even blocks as GEMM_ROWS allows.
static inline size_t packed_rows_sve(size_t M) {
    const size_t blocks = (M + GEMM_ROWS - 1) / GEMM_ROWS;
    return round_up((M + blocks - 1) / blocks, TILE_ROWS_SVE);
}

// Floats of the strips of a, (M, K), that are packed at a time.
static inline size_t strips_size_sve(size_t M, size_t K) {
    const size_t depths = (at_most(K, GEMM_STEPS) + GEMM_DEPTH - 1) / GEMM_DEPTH;
    return round_up(packed_rows_sve(M) * depths * packed_depth(at_most(K, GEMM_DEPTH)), MAX_LANES);
}

// Floats of scratch for a product whose first factor is (M, K).
static inline size_t gemm_scratch_sve(size_t M, size_t K, size_t threads) {
    return strips_size_sve(M, K) + threads * packed_depth(GEMM_DEPTH) * GEMM_COLUMNS;
}

// Threads share the strips of a, and each packs the panels of its own columns of b.
static inline void gemm_sve(float *out, MatrixRef a, MatrixRef b, size_t M, size_t N, size_t K,
                            const Epilogue *e) {
    const size_t rows = packed_rows_sve(M), strips_size = strips_size_sve(M, K);
    float *strips = pack_scratch_sve(gemm_scratch_sve(M, K, (size_t)omp_get_max_threads()));
    Tile *tile = a.row == 1 ? tile_of_columns_sve : tile_of_rows_sve;
#pragma omp parallel
    for (size_t m0 = 0; m0 < M; m0 += rows) {
        for (size_t k0 = 0; k0 < K; k0 += GEMM_STEPS) {
            const PackedBlock p = {
                strips, tile, m0, at_most(M - m0, rows), k0, at_most(K - k0, GEMM_STEPS), K};
            gemm_block_sve(out, N, a, b, e, &p, strips, strips + strips_size);
        }
    }
}

static inline void matmul_forward_sve(float *out, const float *inp, const float *weight,
                                      const float *bias, const float *residual, size_t R, size_t C,
                                      size_t OC) {
    gemm_sve(out, (MatrixRef){inp, C, 1}, (MatrixRef){weight, OC, 1}, R, OC, C,
             &(Epilogue){.bias = bias, .residual = residual});
}

static inline void matmul_gelu_forward_sve(float *out, float *gelu, const float *inp,
                                           const float *weight, const float *bias, size_t R,
                                           size_t C, size_t OC) {
    gemm_sve(out, (MatrixRef){inp, C, 1}, (MatrixRef){weight, OC, 1}, R, OC, C,
             &(Epilogue){.bias = bias, .gelu = gelu});
}

static inline void matmul_backward_input_sve(float *dinp, const float *dout, const float *weight,
                                             const float *gelu_inp, size_t R, size_t C, size_t OC) {
    gemm_sve(dinp, (MatrixRef){dout, OC, 1}, (MatrixRef){weight, 1, OC}, R, C, OC,
             &(Epilogue){.gelu_inp = gelu_inp});
}

// dbias (OC) += the rows of dout (R, OC), one after another: four vectors of columns from i on.
static inline void add_rows_sve(float *dbias, const float *dout, size_t R, size_t OC, size_t i) {
    const size_t vl = svcntw();
#define BEGIN(j)                                                                                   \
    const size_t at##j = i + j * vl;                                                               \
    const svbool_t p##j = svwhilelt_b32_u64(at##j, OC);                                            \
    svfloat32_t sum##j = svld1_f32(p##j, dbias + at##j);
#define ADD(j) sum##j = svadd_f32_x(p##j, sum##j, svld1_f32(p##j, dout + r * OC + at##j));
#define STORE(j) svst1_f32(p##j, dbias + at##j, sum##j);
    FOUR(BEGIN)
    for (size_t r = 0; r < R; r++) {
        FOUR(ADD)
    }
    FOUR(STORE)
#undef BEGIN
#undef ADD
#undef STORE
}

static inline void matmul_backward_weight_sve(float *dweight, float *dbias, const float *inp,
                                              const float *dout, size_t R, size_t C, size_t OC) {
    gemm_sve(dweight, (MatrixRef){inp, 1, C}, (MatrixRef){dout, OC, 1}, C, OC, R,
             &(Epilogue){.accumulate = true});
    const size_t columns = 4 * svcntw();
#pragma omp parallel for schedule(static)
    for (size_t o = 0; o < OC; o += columns) {
        add_rows_sve(dbias, dout, R, OC, o);
    }
}

// ------------------------------------------------------------------------------------------------
// Embedding

static inline void add_rows_into_sve(float *out, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        svst1_f32(p, out + i, svadd_f32_x(p, svld1_f32(p, a + i), svld1_f32(p, b + i)));
    }
}

static inline void embedding_forward_sve(float *out, const int32_t *tokens, const float *wte,
                                         const float *wpe, VocabShard vocab, size_t first_position,
                                         size_t B, size_t T, size_t C) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < B * T; r++) {
        size_t word = (size_t)tokens[r] - vocab.first;
        float *row = out + r * C;
        if (word < vocab.count && wpe) {
            add_rows_into_sve(row, wte + word * C, wpe + (first_position + r % T) * C, C);
        } else if (word < vocab.count || wpe) {
            memcpy(row, word < vocab.count ? wte + word * C : wpe + (first_position + r % T) * C,
                   C * sizeof *row);
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
        size_t n = C - c < MAX_LANES ? C - c : MAX_LANES;
        for (size_t r = 0; r < B * T; r++) {
            size_t word = (size_t)tokens[r] - vocab.first;
            if (word < vocab.count) {
                add_row_sve(dwte + word * C + c, dout + r * C + c, n);
            }
            add_row_sve(dwpe + r % T * C + c, dout + r * C + c, n);
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

// dweight and dbias of one vector of channels, the rows one after another
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
// products through the tile of the matrix product. Keys and values of a head are packed once. A
// thread computes whole heads.

// Packs rows of a head, (rows, D) with a row stride, as strips.
static inline Strips pack_strips_sve(float *to, const float *from, size_t row, size_t rows,
                                     size_t D) {
    const size_t next = TILE_ROWS_SVE * packed_depth(D);
    for (size_t i = 0; i < rows; i += TILE_ROWS_SVE) {
        pack_rows_sve(to + i / TILE_ROWS_SVE * next, from + i * row, row,
                      at_most(rows - i, TILE_ROWS_SVE), D);
    }
    return (Strips){to, next, tile_of_rows_sve};
}

// out (M, N) = start + strips (M, K) panels (K, N)
static inline void block_gemm_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                  Strips strips, Panels panels, size_t M, size_t N, size_t K) {
    for (size_t i = 0; i < M; i += TILE_ROWS_SVE) {
        gemm_strip_sve(out + i * out_row, out_row, start + i * start_row, start_row, strips.tile,
                       strips.data + i / TILE_ROWS_SVE * strips.next, panels, K,
                       at_most(M - i, TILE_ROWS_SVE), N);
    }
}

// A block of scores (QUERY_BLOCK, KEY_BLOCK) is not packed: the tile reads its rows, or its
// columns, as they lie.
static inline Strips scores_as_rows_sve(const float *scores) {
    return (Strips){scores, TILE_ROWS_SVE * KEY_BLOCK, tile_of_scores_sve};
}

static inline Strips scores_as_columns_sve(const float *scores) {
    return (Strips){scores, TILE_ROWS_SVE, tile_of_scores_t_sve};
}

// Sizes in floats of what one thread needs for one head of T rows and D channels. Keys and values
// are packed by key blocks: k^T and v^T as (D, KEY_BLOCK), k and v as (KEY_BLOCK, D).
typedef struct {
    size_t D, key_blocks, across,
        along; // floats of a packed block: across for (D, keys), along for (keys, D)
    float *key_t, *value_t, *key, *value; // per key block; those not needed are NULL
    float *strips[2], *panels[2];         // of a block of queries
    float *score, *dscore;                // (QUERY_BLOCK, KEY_BLOCK)
    float *out;                           // (QUERY_BLOCK, D)
} AttentionScratch;

// Lays the scratch out over `base`; with base NULL only counts. Returns the floats that it takes.
static inline size_t attention_scratch_sve(AttentionScratch *s, size_t T, size_t D, bool backward,
                                           float *base) {
    const size_t width = 2 * svcntw(), depth = packed_depth(D),
                 rows = round_up(QUERY_BLOCK, TILE_ROWS_SVE);
    const size_t block = rows * KEY_BLOCK + TILE_ROWS_SVE; // the last strip may read beyond
    size_t used = 0;
    *s = (AttentionScratch){.D = D, .key_blocks = (T + KEY_BLOCK - 1) / KEY_BLOCK};
    s->across = depth * round_up(KEY_BLOCK, width);
    s->along = packed_depth(KEY_BLOCK) * round_up(D, width);
    struct {
        float **field;
        size_t floats;
    } parts[] = {
        {&s->key_t, s->key_blocks * s->across},
        {&s->value, backward ? 0 : s->key_blocks * s->along},
        {&s->value_t, backward ? s->key_blocks * s->across : 0},
        {&s->key, backward ? s->key_blocks * s->along : 0},
        {&s->strips[0], rows * depth},
        {&s->strips[1], backward ? rows * depth : 0},
        {&s->panels[0], backward ? packed_depth(QUERY_BLOCK) * round_up(D, width) : 0},
        {&s->panels[1], backward ? packed_depth(QUERY_BLOCK) * round_up(D, width) : 0},
        {&s->score, block},
        {&s->dscore, backward ? block : 0},
        {&s->out, QUERY_BLOCK * D},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].field = base && parts[i].floats ? base + used : NULL;
        used += round_up(parts[i].floats, MAX_LANES);
    }
    return used;
}

// Packs the keys and values of one head, rows 0 .. T - 1 of k and v (row stride 3C).
static inline void attention_pack_sve(const AttentionScratch *s, const float *k, const float *v,
                                      size_t row, size_t T) {
    for (size_t block = 0; block < s->key_blocks; block++) {
        size_t u = block * KEY_BLOCK, keys = T - u < KEY_BLOCK ? T - u : KEY_BLOCK;
        pack_panels_sve(s->key_t + block * s->across, (MatrixRef){k, 1, row}, 0, s->D, u, keys);
        if (s->value) {
            pack_panels_sve(s->value + block * s->along, (MatrixRef){v, row, 1}, u, keys, 0, s->D);
        }
        if (s->value_t) {
            pack_panels_sve(s->value_t + block * s->across, (MatrixRef){v, 1, row}, 0, s->D, u,
                            keys);
            pack_panels_sve(s->key + block * s->along, (MatrixRef){k, row, 1}, u, keys, 0, s->D);
        }
    }
}

// Keys of a block that row t may see.
static inline size_t keys_seen_(size_t t, size_t u, size_t keys) {
    return t < u ? 0 : t - u + 1 < keys ? t - u + 1 : keys;
}

// Block `block` of packed keys or values: `size` floats each, `depth` deep.
static inline Panels key_panels_sve(const float *blocks, size_t block, size_t size, size_t depth) {
    return (Panels){blocks + block * size, 2 * svcntw() * packed_depth(depth)};
}

// Turns the scores of row i with `seen` keys into exp(score - max), and takes what was summed so
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

// Rows t0 .. t0 + rows - 1 of one head. out: (rows, D) with row stride C; lse: (rows).
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
        size_t u = block * KEY_BLOCK, keys = keys_seen_(t0 + rows - 1, u, KEY_BLOCK);
        size_t packed_keys = T - u < KEY_BLOCK ? T - u : KEY_BLOCK;
        block_gemm_sve(s->score, KEY_BLOCK, zeros_sve, 0, q_strips,
                       key_panels_sve(s->key_t, block, s->across, s->D), rows, keys, s->D);
        for (size_t i = 0; i < rows; i++) {
            size_t seen = keys_seen_(t0 + i, u, keys);
            memset(s->score + i * KEY_BLOCK + seen, 0,
                   (KEY_BLOCK - seen) * sizeof(float)); // no weight on what is ahead
            if (seen > 0) {
                softmax_row_sve(s, i, seen, scale, &max[i], &sum[i]);
            }
        }
        block_gemm_sve(s->out, s->D, s->out, s->D, scores_as_rows_sve(s->score),
                       key_panels_sve(s->value, block, s->along, packed_keys), rows, s->D, keys);
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
    float *scratch = pack_scratch_sve((size_t)omp_get_max_threads() * size);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < B * H; i++) {
        size_t b = i / H, h = i % H;
        const float *q = qkv + b * T * 3 * C + h * D;
        AttentionScratch s;
        attention_scratch_sve(&s, T, D, false, scratch + (size_t)omp_get_thread_num() * size);
        attention_pack_sve(&s, q + C, q + 2 * C, 3 * C, T);
        for (size_t t = first_row; t < T; t += QUERY_BLOCK) {
            attention_queries_sve(&s, out + (b * T + t) * C + h * D, C, lse + i * T + t,
                                  q + t * 3 * C, 3 * C, t,
                                  T - t < QUERY_BLOCK ? T - t : QUERY_BLOCK, T);
        }
    }
}

// Turns scores x into p = exp(scale x - lse) and dscore into scale p (dscore - dout . out), row by
// row.
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

// What rows t0 .. t0 + rows - 1 of one head add to dq, dk and dv (row stride 3C, zero or begun).
static inline void attention_backward_queries_sve(const AttentionScratch *s, float *dq, float *dk,
                                                  float *dv, const float *q, size_t row,
                                                  const float *dy, const float *y, size_t y_row,
                                                  const float *lse, size_t t0, size_t rows,
                                                  size_t T) {
    float dy_y[QUERY_BLOCK], scale = 1 / sqrtf((float)s->D);
    const size_t D = s->D, padded_rows = round_up(rows, K_GROUP),
                 panel = 2 * svcntw() * packed_depth(rows);
    const Strips q_strips = pack_strips_sve(s->strips[0], q, row, rows, D);
    const Strips dy_strips = pack_strips_sve(s->strips[1], dy, y_row, rows, D);
    const Strips ds = scores_as_rows_sve(s->dscore), p_t = scores_as_columns_sve(s->score);
    const Strips ds_t = scores_as_columns_sve(s->dscore);
    const Panels q_panels = {s->panels[0], panel}, dy_panels = {s->panels[1], panel};
    pack_panels_sve(s->panels[0], (MatrixRef){q, row, 1}, 0, rows, 0, D);
    pack_panels_sve(s->panels[1], (MatrixRef){dy, y_row, 1}, 0, rows, 0, D);
    memset(s->score + rows * KEY_BLOCK, 0, (padded_rows - rows) * KEY_BLOCK * sizeof(float));
    memset(s->dscore + rows * KEY_BLOCK, 0, (padded_rows - rows) * KEY_BLOCK * sizeof(float));
    for (size_t i = 0; i < rows; i++) {
        dy_y[i] = sum_row_sve(D, add_a_b_sve, &(RowTerms){.a = dy + i * y_row, .b = y + i * y_row});
    }
    for (size_t block = 0; block * KEY_BLOCK < t0 + rows; block++) {
        size_t u = block * KEY_BLOCK, keys = keys_seen_(t0 + rows - 1, u, KEY_BLOCK);
        size_t packed_keys = T - u < KEY_BLOCK ? T - u : KEY_BLOCK;
        block_gemm_sve(s->score, KEY_BLOCK, zeros_sve, 0, q_strips,
                       key_panels_sve(s->key_t, block, s->across, D), rows, keys, D);
        block_gemm_sve(s->dscore, KEY_BLOCK, zeros_sve, 0, dy_strips,
                       key_panels_sve(s->value_t, block, s->across, D), rows, keys, D);
        for (size_t i = 0; i < rows; i++) {
            attention_dscore_row_sve(s->score + i * KEY_BLOCK, s->dscore + i * KEY_BLOCK,
                                     keys_seen_(t0 + i, u, keys), scale, lse[i], dy_y[i]);
        }
        block_gemm_sve(dv + u * row, row, dv + u * row, row, p_t, dy_panels, keys, D, rows);
        block_gemm_sve(dk + u * row, row, dk + u * row, row, ds_t, q_panels, keys, D, rows);
        block_gemm_sve(dq, row, dq, row, ds, key_panels_sve(s->key, block, s->along, packed_keys),
                       rows, D, keys);
    }
}

static inline void attention_backward_sve(float *dqkv, const float *dout, const float *out,
                                          const float *qkv, const float *lse, size_t B, size_t T,
                                          size_t C, size_t H) {
    size_t D = C / H;
    AttentionScratch counted;
    size_t size = attention_scratch_sve(&counted, T, D, true, NULL);
    float *scratch = pack_scratch_sve((size_t)omp_get_max_threads() * size);
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
                                           T - t < QUERY_BLOCK ? T - t : QUERY_BLOCK, T);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Classifier

static inline void logits_forward_sve(float *logits, const float *inp, const float *wte, size_t R,
                                      size_t C, size_t V) {
    gemm_sve(logits, (MatrixRef){inp, C, 1}, (MatrixRef){wte, 1, C}, R, V, C, &(Epilogue){0});
}

static inline void classifier_forward_sve(float *logits, SliceSoftmax *softmax, const float *inp,
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

static inline void cross_entropy_sve(float *losses, float *scale, const SliceSoftmax *slices,
                                     size_t S, size_t mine, float dloss, size_t R) {
    for (size_t r = 0; r < R; r++) {
        float max = -INFINITY, target = -INFINITY, sum = 0;
        for (size_t s = 0; s < S; s++) {
            max = slices[s * R + r].max > max ? slices[s * R + r].max : max;
            target = slices[s * R + r].target > target ? slices[s * R + r].target : target;
        }
        for (size_t s = 0; s < S; s++) {
            sum += slices[s * R + r].sum * exp_scalar_sve(slices[s * R + r].max - max);
        }
        losses[r] = log_scalar_sve(sum) + max - target;
        scale[r] = dloss * exp_scalar_sve(slices[mine * R + r].max - max) / sum;
    }
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
    gemm_sve(dinp, (MatrixRef){logits, V, 1}, (MatrixRef){wte, C, 1}, R, C, V, &(Epilogue){0});
    gemm_sve(dwte, (MatrixRef){logits, 1, V}, (MatrixRef){inp, C, 1}, V, C, R,
             &(Epilogue){.accumulate = true});
}

// ------------------------------------------------------------------------------------------------
// Update

// The sum of squares of a block of 4096, in float lanes, is exact to 1e-6; blocks are added in
// double, one after another in each of 256 fixed segments.
static inline double sum_of_squares_sve(const float *x, size_t n) {
    enum { SEGMENTS = 256, BLOCK = 4096 };
    double segment[SEGMENTS], sum = 0;
    size_t blocks = (n + BLOCK - 1) / BLOCK, per_segment = (blocks + SEGMENTS - 1) / SEGMENTS;
#pragma omp parallel for schedule(static)
    for (size_t s = 0; s < SEGMENTS; s++) {
        segment[s] = 0;
        for (size_t i = s * per_segment * BLOCK; i < (s + 1) * per_segment * BLOCK && i < n;
             i += BLOCK) {
            RowTerms row = {.a = x + i, .b = x + i};
            segment[s] += (double)sum_row_sve(n - i < BLOCK ? n - i : BLOCK, add_a_b_sve, &row);
        }
    }
    for (size_t s = 0; s < SEGMENTS; s++) {
        sum += segment[s];
    }
    return sum;
}

// Eight vectors at a time, in three pieces that leave little in registers: moments, 1 / sqrt(v),
// the update.
static inline void adamw_block_sve(float *param, float *m, float *v, const float *grad, size_t n,
                                   AdamwTerms a) {
    const size_t vl = svcntw();
#define EIGHT(DO) FOUR(DO) DO(4) DO(5) DO(6) DO(7)
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
        adamw_block_sve(param + i, m + i, v + i, grad + i, n - i < BLOCK ? n - i : BLOCK, a);
    }
}

// ------------------------------------------------------------------------------------------------
// The machine

// Runs the tile `rounds` times on data in L1; returns the floating-point operations that were done.
static inline double tile_flops_sve(size_t rounds) {
    enum { FLOPS_DEPTH = 256 };
    Tile *volatile tile_function = tile_of_rows_sve; // not a copy that knows that all is zero
    _Alignas(256) static const float strip[TILE_ROWS_SVE * FLOPS_DEPTH],
        panel[2 * MAX_LANES * FLOPS_DEPTH]; // zeros
    _Alignas(256) float tile[2 * TILE_ROWS_SVE * 2 * MAX_LANES] = {
        0}; // twice: the tile prefetches the next one
    for (size_t i = 0; i < rounds; i++) {
        tile_function(tile, 2 * svcntw(), tile, 2 * svcntw(), strip, panel, FLOPS_DEPTH);
        __asm__ volatile("" ::"r"(tile)
                         : "memory"); // the compiler must not see that nobody reads it
    }
    return 2.0 * (double)rounds * TILE_ROWS_SVE * 2 * (double)svcntw() * FLOPS_DEPTH;
}

// From now on this thread treats denormal numbers as zero: they cost up to a hundred times the
// time, and mean nothing in training. Threads that are started later inherit it.
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

#undef FOUR
#undef LOAD_X
#undef EXP_SCALED
#undef EXP_REDUCE
#undef EXP_FINISH
#undef GELU_GATES
#undef GELU_REDUCE
#undef GELU_EXP
#undef GELU_RECIPROCAL
#undef SVE_INLINE
#undef TILE_EACH_ROW

#endif
