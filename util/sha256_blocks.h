// sha256_blocks.h: the compression function of SHA-256 (FIPS 180-4): in C, and with the
// instructions that x86 (SHA-NI) and Armv8 CPUs have for it, several times as fast.
#ifndef UTIL_SHA256_BLOCKS_H
#define UTIL_SHA256_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#elif defined __aarch64__
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

static const uint32_t sha256_constants_[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rotate_right_(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static inline void sha256_block_plain_(uint32_t state[8], const unsigned char *block) {
    uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];

    // Message schedule.
    for (int t = 0; t < 16; t++) {
        w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
               (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
    }
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate_right_(w[t - 15], 7) ^ rotate_right_(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate_right_(w[t - 2], 17) ^ rotate_right_(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }

    // Rounds.
    for (int t = 0; t < 64; t++) {
        uint32_t s1 = rotate_right_(e, 6) ^ rotate_right_(e, 11) ^ rotate_right_(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + sha256_constants_[t] + w[t];
        uint32_t s0 = rotate_right_(a, 2) ^ rotate_right_(a, 13) ^ rotate_right_(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }

    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static inline void sha256_blocks_plain(uint32_t state[8], const unsigned char *data,
                                       size_t blocks) {
    for (; blocks > 0; blocks--, data += 64) {
        sha256_block_plain_(state, data);
    }
}

#if defined __x86_64__
static inline bool sha256_has_instructions(void) {
    unsigned a, b, c, d;
    bool sse41 = __get_cpuid(1, &a, &b, &c, &d) && c & bit_SSE4_1;
    return sse41 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_SHA;
}

// Two registers hold the state as the instructions want it: (f, e, b, a) and (h, g, d, c), lowest
// lane first. An instruction does two rounds, which make the first of them the second.
__attribute__((target("sha,sse4.1"))) static inline void
sha256_blocks_cpu(uint32_t state[8], const unsigned char *data, size_t blocks) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);
    __m128i feba = _mm_alignr_epi8(badc, hgfe, 8), hgdc = _mm_blend_epi16(hgfe, badc, 0xF0);

    for (; blocks > 0; blocks--, data += 64) {
        const __m128i feba_before = feba, hgdc_before = hgdc;
        __m128i w[16];
#pragma GCC unroll 16
        for (int t = 0; t < 16; t++) { // four steps of the message schedule, four rounds
            if (t < 4) {
                w[t] = _mm_loadu_si128((const __m128i *)data + t);
                w[t] = _mm_shuffle_epi8(w[t], big_endian);
            } else {
                w[t] = _mm_sha256msg1_epu32(w[t - 4], w[t - 3]);
                w[t] = _mm_add_epi32(w[t], _mm_alignr_epi8(w[t - 1], w[t - 2], 4));
                w[t] = _mm_sha256msg2_epu32(w[t], w[t - 1]);
            }
            const __m128i *k = (const __m128i *)(sha256_constants_ + 4 * t);
            __m128i sum = _mm_add_epi32(w[t], _mm_loadu_si128(k));
            hgdc = _mm_sha256rnds2_epu32(hgdc, feba, sum);
            feba = _mm_sha256rnds2_epu32(feba, hgdc, _mm_shuffle_epi32(sum, 0x0E));
        }
        feba = _mm_add_epi32(feba, feba_before);
        hgdc = _mm_add_epi32(hgdc, hgdc_before);
    }

    __m128i abef = _mm_shuffle_epi32(feba, 0x1B), ghcd = _mm_shuffle_epi32(hgdc, 0xB1);
    __m128i abcd = _mm_unpacklo_epi64(abef, _mm_srli_si128(ghcd, 8));
    __m128i efgh = _mm_unpacklo_epi64(_mm_srli_si128(abef, 8), ghcd);
    _mm_storeu_si128((__m128i *)state, abcd);
    _mm_storeu_si128((__m128i *)(state + 4), efgh);
}

#elif defined __aarch64__
static inline bool sha256_has_instructions(void) {
    return getauxval(AT_HWCAP) & HWCAP_SHA2;
}

__attribute__((target("+crypto"))) static inline void
sha256_blocks_cpu(uint32_t state[8], const unsigned char *data, size_t blocks) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);

    for (; blocks > 0; blocks--, data += 64) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t w[16];
#pragma GCC unroll 16
        for (int t = 0; t < 16; t++) { // four steps of the message schedule, four rounds
            w[t] = t < 4 ? vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * t)))
                         : vsha256su1q_u32(vsha256su0q_u32(w[t - 4], w[t - 3]), w[t - 2], w[t - 1]);
            const uint32x4_t sum = vaddq_u32(w[t], vld1q_u32(sha256_constants_ + 4 * t));
            const uint32x4_t abcd_now = abcd;
            abcd = vsha256hq_u32(abcd, efgh, sum);
            efgh = vsha256h2q_u32(efgh, abcd_now, sum);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

#else
static inline bool sha256_has_instructions(void) {
    return false;
}

static inline void sha256_blocks_cpu(uint32_t state[8], const unsigned char *data, size_t blocks) {
    sha256_blocks_plain(state, data, blocks);
}
#endif

// state (8) after `blocks` more blocks of 64 bytes.
static inline void sha256_blocks(uint32_t state[8], const unsigned char *data, size_t blocks) {
    static int known; // 0: not yet, 1: no instructions, 2: instructions; threads agree on it
    int have = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!have) {
        have = sha256_has_instructions() ? 2 : 1;
        __atomic_store_n(&known, have, __ATOMIC_RELAXED);
    }
    (have == 2 ? sha256_blocks_cpu : sha256_blocks_plain)(state, data, blocks);
}

#endif
