// bytes.h: little-endian integers of 1 to 8 bytes in files.
#ifndef UTIL_BYTES_H
#define UTIL_BYTES_H

#include <stdint.h>

// The unsigned little-endian integer of `bytes` bytes at `from`.
static inline uint64_t load_le(const void *from, int bytes) {
    const unsigned char *p = from;
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) {
        value = value << 8 | p[i];
    }
    return value;
}

// Stores the low `bytes` bytes of `value` at `to`, little-endian.
static inline void store_le(void *to, uint64_t value, int bytes) {
    unsigned char *p = to;
    for (int i = 0; i < bytes; i++, value >>= 8) {
        p[i] = (unsigned char)value;
    }
}

#endif
