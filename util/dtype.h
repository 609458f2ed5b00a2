// dtype.h: the number formats of weights in files and of messages, converted to and from float.
#ifndef UTIL_DTYPE_H
#define UTIL_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// In the order of the values of --dtype.
typedef enum { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPES } Dtype;

static const struct {
    const char *name;  // in safetensors headers
    const char *torch; // in config.json
    size_t bytes;      // of an element
} dtypes[DTYPES] = {{"F32", "float32", 4}, {"BF16", "bfloat16", 2}, {"F16", "float16", 2}};

// The dtype of a name in a safetensors header; DTYPES: none of these.
static inline Dtype dtype_of(const char *name) {
    Dtype dtype = DTYPE_F32;
    while (dtype < DTYPES && strcmp(dtypes[dtype].name, name)) {
        dtype++;
    }
    return dtype;
}

// IEEE binary16 to float: exact.
static inline float half_to_float(uint16_t h) {
    uint32_t exponent = h >> 10 & 31, fraction = h & 1023, bits;
    float value;
    if (exponent == 0) {
        value = (float)fraction * 0x1p-24f;
        return h >> 15 ? -value : value;
    }
    bits =
        (uint32_t)(h >> 15) << 31 | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    memcpy(&value, &bits, 4);
    return value;
}

// `bits` without its lowest `n`, rounded to nearest, ties to even.
static inline uint32_t round_bits_(uint32_t bits, unsigned n) {
    uint32_t half = (uint32_t)1 << (n - 1), odd = bits >> n & 1;
    return (bits + half - 1 + odd) >> n;
}

// Float to IEEE binary16, rounded to nearest even; infinity above 65,519.
static inline uint16_t float_to_half(float value) {
    uint32_t bits, magnitude;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    magnitude = bits & 0x7FFFFFFF;

    if (magnitude > 0x7F800000) { // NaN
        return sign | 0x7E00;
    }
    if (magnitude >= 0x47800000) { // 65,536
        return sign | 0x7C00;
    }
    if (magnitude >= 0x38800000) { // 2^-14: a normal number; may round up to infinity
        return sign | (uint16_t)(round_bits_(magnitude, 13) - (112 << 10));
    }

    unsigned exponent = magnitude >> 23; // of a multiple of 2^-24
    if (exponent < 102) {
        return sign;
    }
    return sign | (uint16_t)round_bits_((magnitude & 0x7FFFFF) | 0x800000, 126 - exponent);
}

// Float to bfloat16, rounded to nearest even.
static inline uint16_t float_to_bfloat(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) { // NaN stays one
        return (uint16_t)(bits >> 16 | 0x40);
    }
    return (uint16_t)round_bits_(bits, 16);
}

// bfloat16 to float: exact.
static inline float bfloat_to_float(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Converts n little-endian elements to floats: exact.
static inline void floats_from_dtype(float *out, const unsigned char *bytes, size_t n,
                                     Dtype dtype) {
    if (dtype == DTYPE_F32) {
        memcpy(out, bytes, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * i, 2);
        out[i] = dtype == DTYPE_F16 ? half_to_float(h) : bfloat_to_float(h);
    }
}

// Converts n floats to little-endian elements, rounded to nearest even. False if a finite number
// would become infinite.
static inline bool floats_to_dtype(unsigned char *bytes, const float *x, size_t n, Dtype dtype) {
    bool fits = true;
    if (dtype == DTYPE_F32) {
        memcpy(bytes, x, n * sizeof *x);
        return true;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h = dtype == DTYPE_F16 ? float_to_half(x[i]) : float_to_bfloat(x[i]);
        uint16_t infinite = dtype == DTYPE_F16 ? 0x7C00 : 0x7F80;
        fits &= (h & 0x7FFF) != infinite || x[i] - x[i] != 0;
        memcpy(bytes + 2 * i, &h, 2);
    }
    return fits;
}

#endif
