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

// The lanes of a from `first` on, then those of b.
SHIM svfloat32_t svext_f32(svfloat32_t a, svfloat32_t b, int first) {
    return shim_shuffle(a, b, shim_lanes() + first);
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

#endif
