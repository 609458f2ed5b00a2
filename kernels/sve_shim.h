// sve_shim.h: the few SVE types and intrinsics that the fast kernels use, for machines without SVE,
// so that the same source runs on x86 and NEON, and under debuggers and sanitizers.
//
// A vector is a GNU vector of SHIM_BYTES: 64 with AVX-512, 32 with AVX, otherwise 16. Any power of
// two up to 256 can be set, so that vector lengths can be tested without an emulator. A predicate
// is the number of its leading active lanes: svptrue and svwhilelt make no others. Inactive lanes
// of a load are zero; arithmetic (the _x forms) ignores predicates.
//
// Exactness: each function rounds once, as the SVE instruction does; svmla is a fused multiply-add
// on every machine. Files that use this are compiled with -ffp-contract=off, so that results are
// those of SVE bit for bit.
#ifndef KERNELS_SVE_SHIM_H
#define KERNELS_SVE_SHIM_H

#ifdef __ARM_FEATURE_SVE
#include <arm_sve.h>

// The odd halves as FP32: as SVE2 has it.
#ifndef __ARM_FEATURE_SVE2
static inline svfloat32_t svcvtlt_f32_f16_x(svbool_t p, svfloat16_t a) {
    svuint32_t upper = svlsr_n_u32_x(p, svreinterpret_u32_f16(a), 16);
    return svcvt_f32_f16_x(p, svreinterpret_f16_u32(upper));
}
#endif

// FP32 rounded to FP16, in the lower halves of lanes whose upper halves are zero.
static inline svint32_t fp16_bits_sve(svfloat32_t x) {
    return svreinterpret_s32_f16(svcvt_f16_f32_x(svptrue_b32(), x));
}

#define SHIM_FP16 1
#else

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined __x86_64__
#include <immintrin.h>
#elif defined __ARM_NEON
#include <arm_neon.h>
#endif

#ifndef SHIM_BYTES
#if defined __AVX512F__
#define SHIM_BYTES 64
#elif defined __AVX__
#define SHIM_BYTES 32
#else
#define SHIM_BYTES 16
#endif
#endif

enum { SHIM_LANES = SHIM_BYTES / 4 };
typedef float svfloat32_t __attribute__((vector_size(SHIM_BYTES)));
typedef int32_t svint32_t __attribute__((vector_size(SHIM_BYTES)));
typedef uint32_t svbool_t; // number of leading active lanes

#define SHIM static inline __attribute__((always_inline))

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter" // predicates

SHIM uint64_t svcntw(void) {
    return SHIM_LANES;
}

SHIM svbool_t svptrue_b32(void) {
    return SHIM_LANES;
}

SHIM svbool_t svwhilelt_b32_u64(uint64_t from, uint64_t end) {
    return from >= end ? 0 : end - from < SHIM_LANES ? (svbool_t)(end - from) : SHIM_LANES;
}

#if SHIM_BYTES == 64 && defined __AVX512F__
SHIM __mmask16 shim_mask(svbool_t p) {
    return (__mmask16)((1U << p) - 1);
}
#elif SHIM_BYTES == 32 && defined __AVX2__
SHIM __m256i shim_mask(svbool_t p) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)p), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

// Masked loads and stores in one instruction where the machine has it. Not under AddressSanitizer,
// which only sees plain accesses.
#if SHIM_BYTES == 64 && defined __AVX512F__ && !defined __SANITIZE_ADDRESS__
SHIM svfloat32_t svld1_f32(svbool_t p, const float *from) {
    return (svfloat32_t)_mm512_maskz_loadu_ps(shim_mask(p), from);
}

SHIM void svst1_f32(svbool_t p, float *to, svfloat32_t v) {
    _mm512_mask_storeu_ps(to, shim_mask(p), (__m512)v);
}
#elif SHIM_BYTES == 32 && defined __AVX2__ && !defined __SANITIZE_ADDRESS__
SHIM svfloat32_t svld1_f32(svbool_t p, const float *from) {
    if (__builtin_constant_p(p) && p == SHIM_LANES) {
        return (svfloat32_t)_mm256_loadu_ps(from);
    }
    return (svfloat32_t)_mm256_maskload_ps(from, shim_mask(p));
}

SHIM void svst1_f32(svbool_t p, float *to, svfloat32_t v) {
    if (p == SHIM_LANES) { // masked stores are slow on some CPUs
        memcpy(to, &v, sizeof v);
    } else if (p == 4) { // the transposes of packing
        memcpy(to, &v, 16);
    } else {
        _mm256_maskstore_ps(to, shim_mask(p), (__m256)v);
    }
}
#else
SHIM svfloat32_t svld1_f32(svbool_t p, const float *from) {
    svfloat32_t v = {0};
    if (p == SHIM_LANES) {
        memcpy(&v, from, sizeof v);
    }
    for (svbool_t i = 0; i < p && p < SHIM_LANES; i++) {
        v[i] = from[i];
    }
    return v;
}

SHIM void svst1_f32(svbool_t p, float *to, svfloat32_t v) {
    if (p == SHIM_LANES) {
        memcpy(to, &v, sizeof v);
    } else if (p == 4) { // the transposes of packing
        memcpy(to, &v, 16);
    } else {
        for (svbool_t i = 0; i < p; i++) {
            to[i] = v[i];
        }
    }
}
#endif

SHIM svfloat32_t svdup_n_f32(float x) {
    return x - (svfloat32_t){0}; // compiles to one broadcast; x + 0 would not, because of -0
}

SHIM svint32_t svdup_n_s32(int32_t x) {
    return x - (svint32_t){0};
}

// a + b * c, rounded once
SHIM svfloat32_t svmla_f32_x(svbool_t p, svfloat32_t a, svfloat32_t b, svfloat32_t c) {
#if SHIM_BYTES == 64 && defined __AVX512F__
    return (svfloat32_t)_mm512_fmadd_ps((__m512)b, (__m512)c, (__m512)a);
#elif SHIM_BYTES == 32 && defined __FMA__
    return (svfloat32_t)_mm256_fmadd_ps((__m256)b, (__m256)c, (__m256)a);
#elif SHIM_BYTES == 16 && defined __FMA__
    return (svfloat32_t)_mm_fmadd_ps((__m128)b, (__m128)c, (__m128)a);
#elif SHIM_BYTES == 16 && defined __ARM_NEON
    return (svfloat32_t)vfmaq_f32((float32x4_t)a, (float32x4_t)b, (float32x4_t)c);
#else
    for (int i = 0; i < SHIM_LANES; i++) {
        a[i] = __builtin_fmaf(b[i], c[i], a[i]);
    }
    return a;
#endif
}

// a - b * c, rounded once
SHIM svfloat32_t svmls_f32_x(svbool_t p, svfloat32_t a, svfloat32_t b, svfloat32_t c) {
    return svmla_f32_x(p, a, -b, c);
}

SHIM svfloat32_t svadd_f32_x(svbool_t p, svfloat32_t a, svfloat32_t b) {
    return a + b;
}

SHIM svfloat32_t svsub_f32_x(svbool_t p, svfloat32_t a, svfloat32_t b) {
    return a - b;
}

SHIM svfloat32_t svmul_f32_x(svbool_t p, svfloat32_t a, svfloat32_t b) {
    return a * b;
}

SHIM svfloat32_t svabs_f32_x(svbool_t p, svfloat32_t a) {
    return (svfloat32_t)((svint32_t)a & 0x7FFFFFFF);
}

// The larger; b if one of them is NaN (SVE: NaN). Callers pass what may be NaN as b.
SHIM svfloat32_t svmax_f32_x(svbool_t p, svfloat32_t a, svfloat32_t b) {
#if SHIM_BYTES == 64 && defined __AVX512F__
    return (svfloat32_t)_mm512_max_ps((__m512)a, (__m512)b);
#elif SHIM_BYTES == 32 && defined __AVX__
    return (svfloat32_t)_mm256_max_ps((__m256)a, (__m256)b);
#else
    svint32_t first = a > b;
    return (svfloat32_t)(((svint32_t)a & first) | ((svint32_t)b & ~first));
#endif
}

SHIM svfloat32_t svmin_f32_x(svbool_t p, svfloat32_t a, svfloat32_t b) {
#if SHIM_BYTES == 64 && defined __AVX512F__
    return (svfloat32_t)_mm512_min_ps((__m512)a, (__m512)b);
#elif SHIM_BYTES == 32 && defined __AVX__
    return (svfloat32_t)_mm256_min_ps((__m256)a, (__m256)b);
#else
    svint32_t first = a < b;
    return (svfloat32_t)(((svint32_t)a & first) | ((svint32_t)b & ~first));
#endif
}

// The merging forms: inactive lanes are those of a.
SHIM svfloat32_t shim_merge(svbool_t p, svfloat32_t a, svfloat32_t result) {
#if SHIM_BYTES == 64 && defined __AVX512F__
    return (svfloat32_t)_mm512_mask_mov_ps((__m512)a, shim_mask(p), (__m512)result);
#elif SHIM_BYTES == 32 && defined __AVX2__
    return (svfloat32_t)_mm256_blendv_ps((__m256)a, (__m256)result, (__m256)shim_mask(p));
#else
    if (p == SHIM_LANES) {
        return result;
    }
    for (svbool_t i = 0; i < p; i++) {
        a[i] = result[i];
    }
    return a;
#endif
}

SHIM svfloat32_t svadd_f32_m(svbool_t p, svfloat32_t a, svfloat32_t b) {
    return shim_merge(p, a, a + b);
}

SHIM svfloat32_t svmla_f32_m(svbool_t p, svfloat32_t a, svfloat32_t b, svfloat32_t c) {
    return shim_merge(p, a, svmla_f32_x(p, a, b, c));
}

SHIM svfloat32_t svmax_f32_m(svbool_t p, svfloat32_t a, svfloat32_t b) {
    return shim_merge(p, a, svmax_f32_x(p, a, b));
}

// The largest of all lanes.
SHIM float svmaxv_f32(svbool_t p, svfloat32_t a) {
#if SHIM_BYTES == 64 && defined __AVX512F__
    return _mm512_reduce_max_ps((__m512)a);
#else
    float max = a[0];
    for (int i = 1; i < SHIM_LANES; i++) {
        max = a[i] > max ? a[i] : max;
    }
    return max;
#endif
}

SHIM svint32_t svreinterpret_s32_f32(svfloat32_t a) {
    return (svint32_t)a;
}

SHIM svfloat32_t svreinterpret_f32_s32(svint32_t a) {
    return (svfloat32_t)a;
}

SHIM svint32_t svadd_s32_x(svbool_t p, svint32_t a, svint32_t b) {
    return a + b;
}

SHIM svint32_t svsub_s32_x(svbool_t p, svint32_t a, svint32_t b) {
    return a - b;
}

SHIM svint32_t svand_s32_x(svbool_t p, svint32_t a, svint32_t b) {
    return a & b;
}

SHIM svint32_t svorr_s32_x(svbool_t p, svint32_t a, svint32_t b) {
    return a | b;
}

SHIM svint32_t svmax_s32_x(svbool_t p, svint32_t a, svint32_t b) {
    svint32_t first = a > b;
    return (a & first) | (b & ~first);
}

SHIM svint32_t svlsl_n_s32_x(svbool_t p, svint32_t a, unsigned bits) {
    return a << bits;
}

SHIM svint32_t svasr_n_s32_x(svbool_t p, svint32_t a, unsigned bits) {
    return a >> bits;
}

// Lane i is lane map[i] of the concatenation of a and b. gcc has a builtin with a variable map;
// clang compiles the loop to a shuffle.
SHIM svfloat32_t shim_shuffle(svfloat32_t a, svfloat32_t b, svint32_t map) {
#ifdef __clang__
    svfloat32_t v;
    for (int i = 0; i < SHIM_LANES; i++) {
        int from = map[i] % (2 * SHIM_LANES);
        v[i] = from < SHIM_LANES ? a[from] : b[from - SHIM_LANES];
    }
    return v;
#else
    return __builtin_shuffle(a, b, map);
#endif
}

// Lane numbers 0, 1, 2, ... of a vector.
SHIM svint32_t shim_lanes(void) {
    svint32_t lane;
    for (int i = 0; i < SHIM_LANES; i++) {
        lane[i] = i;
    }
    return lane;
}

// Interleaves lanes of a and b, of their lower halves (zip1) and of their upper halves (zip2): the
// steps of a transpose.
SHIM svfloat32_t svzip1_f32(svfloat32_t a, svfloat32_t b) {
    svint32_t lane = shim_lanes();
    return shim_shuffle(a, b, lane / 2 + lane % 2 * SHIM_LANES);
}

SHIM svfloat32_t svzip2_f32(svfloat32_t a, svfloat32_t b) {
    svint32_t lane = shim_lanes();
    return shim_shuffle(a, b, lane / 2 + SHIM_LANES / 2 + lane % 2 * SHIM_LANES);
}

// The even lanes of a and then of b (uzp1), and the odd ones (uzp2).
SHIM svfloat32_t svuzp1_f32(svfloat32_t a, svfloat32_t b) {
    return shim_shuffle(a, b, 2 * shim_lanes());
}

SHIM svfloat32_t svuzp2_f32(svfloat32_t a, svfloat32_t b) {
    return shim_shuffle(a, b, 2 * shim_lanes() + 1);
}

// The lanes of a from `first` on, then those of b.
SHIM svfloat32_t svext_f32(svfloat32_t a, svfloat32_t b, int first) {
    return shim_shuffle(a, b, shim_lanes() + first);
}

// ------------------------------------------------------------------------------------------------
// FP16. Here numbers are zero or normal, not infinite nor NaN, as kernels_ref.h has it.

SHIM svbool_t svptrue_b16(void) {
    return 2 * SHIM_LANES;
}

#if defined __AVX512FP16__ && SHIM_BYTES == 64
#define SHIM_FP16 1
#elif defined __ARM_FEATURE_FP16_VECTOR_ARITHMETIC && SHIM_BYTES == 16
#define SHIM_FP16 1
#else
#define SHIM_FP16 0
#endif

// The FP16 numbers in the lower halves of the lanes as FP32 numbers 2^-112 times as large: the bits
// are moved to where FP32 has them, with the exponent of FP16. The shifts keep the sign.
SHIM svfloat32_t shim_widen(svint32_t lower_halves) {
    return (svfloat32_t)(lower_halves << 16 >> 3 & (int32_t)0x8FFFE000);
}

#if SHIM_FP16
typedef _Float16 svfloat16_t __attribute__((vector_size(SHIM_BYTES)));

SHIM svfloat16_t svdup_n_f16(_Float16 x) {
    return x - (svfloat16_t){0};
}

SHIM svfloat16_t svreinterpret_f16_s32(svint32_t pairs) {
    return (svfloat16_t)pairs;
}

// a + b * c, rounded once
SHIM svfloat16_t svmla_f16_m(svbool_t p, svfloat16_t a, svfloat16_t b, svfloat16_t c) {
#ifdef __AVX512FP16__
    return (svfloat16_t)_mm512_fmadd_ph((__m512h)b, (__m512h)c, (__m512h)a);
#else
    return (svfloat16_t)vfmaq_f16((float16x8_t)a, (float16x8_t)b, (float16x8_t)c);
#endif
}

// The even halves as FP32, and the odd ones.
SHIM svfloat32_t svcvt_f32_f16_x(svbool_t p, svfloat16_t a) {
    return shim_widen((svint32_t)a) * svdup_n_f32(0x1p112f);
}

SHIM svfloat32_t svcvtlt_f32_f16_x(svbool_t p, svfloat16_t a) {
    return shim_widen((svint32_t)a >> 16) * svdup_n_f32(0x1p112f);
}

#else
// Emulation: pairs of halves as two vectors of FP32 numbers, all 2^-112 times as large.
typedef struct {
    svfloat32_t even, odd;
} svfloat16_t;

SHIM svfloat16_t svdup_n_f16(float x) {
    return (svfloat16_t){svdup_n_f32(x * 0x1p-112f), svdup_n_f32(x * 0x1p-112f)};
}

SHIM svfloat16_t svreinterpret_f16_s32(svint32_t pairs) {
    return (svfloat16_t){shim_widen(pairs), shim_widen(pairs >> 16)};
}

SHIM int shim_any(svint32_t mask) {
#if SHIM_BYTES == 32 && defined __AVX__
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#elif SHIM_BYTES == 64 && defined __AVX512F__
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
    int32_t any = 0;
    for (int i = 0; i < SHIM_LANES; i++) {
        any |= mask[i];
    }
    return any != 0;
#endif
}

// The bits of sum, which is a + b * c rounded to 24 bits, rounded to 11. A number half-way between
// two FP16 numbers is rounded towards zero if the exact sum is below it (TwoSum of a and the exact
// product: Knuth 1969), or if that gives an even number. A call, because it is seldom needed.
static __attribute__((noinline, cold, unused)) svint32_t
shim_round_exactly(svfloat32_t sum, svfloat32_t a, svfloat32_t b, svfloat32_t c) {
    svfloat32_t product = b * c, rest = sum - a;
    svfloat32_t error = (a - (sum - rest)) + (product - rest); // of the first rounding
    svint32_t bits = (svint32_t)sum, even = (bits & 0x2000) == 0;
    svint32_t exact = error == svdup_n_f32(0), beyond = ((svint32_t)error ^ bits) >= 0;
    svint32_t half_way = (bits & 0x1FFF) == 0x1000;
    svint32_t less = half_way & ((exact & even) | ~(exact | beyond)); // 0 or -1
    return (bits + less + 0x1000) & ~0x1FFF;
}

// a + b * c, rounded once: in FP32, then to the 11 bits of FP16, half-way away from zero. Where the
// first rounding ended half-way, the second must know more.
SHIM svfloat16_t svmla_f16_m(svbool_t p, svfloat16_t a, svfloat16_t b, svfloat16_t c) {
    svfloat16_t large = {b.even * svdup_n_f32(0x1p112f), b.odd * svdup_n_f32(0x1p112f)};
    svfloat32_t even = svmla_f32_x(p, a.even, large.even, c.even);
    svfloat32_t odd = svmla_f32_x(p, a.odd, large.odd, c.odd);
    svint32_t even_up = (svint32_t)even + 0x1000, even_bits = even_up & ~0x1FFF;
    svint32_t odd_up = (svint32_t)odd + 0x1000, odd_bits = odd_up & ~0x1FFF;
    if (__builtin_expect(shim_any((even_up == even_bits) | (odd_up == odd_bits)), 0)) {
        even_bits = shim_round_exactly(even, a.even, large.even, c.even);
        odd_bits = shim_round_exactly(odd, a.odd, large.odd, c.odd);
    }
    return (svfloat16_t){(svfloat32_t)even_bits, (svfloat32_t)odd_bits};
}

SHIM svfloat32_t svcvt_f32_f16_x(svbool_t p, svfloat16_t a) {
    return a.even * svdup_n_f32(0x1p112f);
}

SHIM svfloat32_t svcvtlt_f32_f16_x(svbool_t p, svfloat16_t a) {
    return a.odd * svdup_n_f32(0x1p112f);
}
#endif

// FP32 rounded to FP16, in the lower halves of lanes whose upper halves are zero.
SHIM svint32_t fp16_bits_sve(svfloat32_t x) {
#if defined __AVX512F__ && SHIM_BYTES == 64
    return (svint32_t)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)x, 8)); // to nearest even
#elif SHIM_FP16
    return (svint32_t)vmovl_u16((uint16x4_t)vcvt_f16_f32((float32x4_t)x));
#else
    // the exponent as FP16 has it, then the bits that it has not rounded away
    svint32_t bits = (svint32_t)(x * svdup_n_f32(0x1p-112f));
    bits += 0xFFF + ((bits >> 13) & 1);
    return ((bits >> 13) & 0x7FFF) | ((bits >> 16) & 0x8000);
#endif
}

#pragma GCC diagnostic pop
#undef SHIM
#endif

// Keeps a vector that was loaded in a register, and loads in this order. Without it gcc for x86
// makes the vector a memory operand of each instruction that uses it, and the loads of a matrix
// product take longer than its multiply-adds: 0.68 of OpenBLAS's rate with AVX2 on Zen 3 instead of
// 0.96.
#if defined __x86_64__ && !defined __clang__ && SHIM_BYTES <= 64 &&                                \
    (defined __AVX512F__ || (defined __AVX__ && SHIM_BYTES <= 32))
#define IN_REGISTER(vector) __asm__ volatile("" : "+v"(vector))
#else
#define IN_REGISTER(vector) (void)0
#endif

// FP16 arithmetic in hardware; otherwise the same bits by emulation, some ten times slower.
enum { FP16_NATIVE = SHIM_FP16 };

#endif
