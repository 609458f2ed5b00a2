// sha256.h: SHA-256 (FIPS 180-4).
#ifndef UTIL_SHA256_H
#define UTIL_SHA256_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { SHA256_HEX = 65 }; // a hash in hexadecimal, with the NUL

typedef struct {
    uint32_t state[8];
    uint64_t length;         // bytes added so far
    unsigned char block[64]; // the last length % 64 of them
} Sha256;

static inline uint32_t rotate_right_(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static inline void sha256_block_(uint32_t state[8], const unsigned char *block) {
    static const uint32_t K[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
        0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
        0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
        0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
        0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
        0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
        0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
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
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + K[t] + w[t];
        uint32_t s0 = rotate_right_(a, 2) ^ rotate_right_(a, 13) ^ rotate_right_(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }

    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

// Starts a hash.
static inline void sha256_begin(Sha256 *s) {
    *s = (Sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
                            0x1f83d9ab, 0x5be0cd19}};
}

// Adds `bytes` bytes to the message.
static inline void sha256_add(Sha256 *s, const void *data, size_t bytes) {
    const unsigned char *p = data;
    size_t held = s->length % 64;
    s->length += bytes;
    if (held) {
        size_t n = bytes < 64 - held ? bytes : 64 - held;
        memcpy(s->block + held, p, n);
        p += n, bytes -= n;
        if (held + n < 64) {
            return;
        }
        sha256_block_(s->state, s->block);
    }
    for (; bytes >= 64; p += 64, bytes -= 64) {
        sha256_block_(s->state, p);
    }
    if (bytes) {
        memcpy(s->block, p, bytes);
    }
}

// Ends the message and computes its hash.
static inline void sha256_digest(Sha256 *s, unsigned char digest[32]) {
    static const unsigned char padding[64] = {0x80};
    unsigned char bits[8];
    for (int i = 0; i < 8; i++) {
        bits[i] = (unsigned char)(s->length * 8 >> (56 - 8 * i)); // message length, big-endian
    }
    sha256_add(s, padding, 64 - (s->length + 8) % 64);
    sha256_add(s, bits, 8);
    for (int i = 0; i < 32; i++) {
        digest[i] = (unsigned char)(s->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}

// sha256_digest as 64 lower-case hexadecimal digits and a NUL.
static inline void sha256_end(Sha256 *s, char hex[SHA256_HEX]) {
    unsigned char digest[32];
    sha256_digest(s, digest);
    for (int i = 0; i < 32; i++) {
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }
}

// The hash of a message that is in memory.
static inline void sha256_of(const void *data, size_t bytes, unsigned char digest[32]) {
    Sha256 s;
    sha256_begin(&s);
    sha256_add(&s, data, bytes);
    sha256_digest(&s, digest);
}

#endif
