// sha256.h: SHA-256 (FIPS 180-4).
#ifndef UTIL_SHA256_H
#define UTIL_SHA256_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "util/sha256_blocks.h"

enum { SHA256_HEX = 65 }; // a hash in hexadecimal, with the NUL

typedef struct {
    uint32_t state[8];
    uint64_t length;         // bytes added so far
    unsigned char block[64]; // the last length % 64 of them
} Sha256;

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
        sha256_blocks(s->state, s->block, 1);
    }
    sha256_blocks(s->state, p, bytes / 64);
    p += bytes / 64 * 64, bytes %= 64;
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
