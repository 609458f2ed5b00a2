// rope_table.h: cosines and sines of the rotary position embedding (Su et al. 2021), the same bits
// on every machine: C libraries differ in pow, sin and cos, so these are series in double that use
// only correctly rounded operations. Numbers are rounded to float where transformers rounds them,
// because models were trained with its tables.
#ifndef KERNELS_ROPE_TABLE_H
#define KERNELS_ROPE_TABLE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

// base^exponent for base > 0 and |exponent| <= 1, relative error below 1e-15.
static inline double portable_power(double base, float exponent) {
    // base = 2^n m with m in sqrt(1/2) .. sqrt(2); log m = 2 atanh((m - 1) / (m + 1))
    int n;
    double m = frexp(base, &n);
    if (m < 0.70710678118654752) {
        m *= 2;
        n--;
    }

    double z = (m - 1) / (m + 1), square = z * z, log_m = 0;
    for (int term = 23; term > 0; term -= 2) {
        log_m = log_m * square + 1.0 / term;
    }
    log_m *= 2 * z;

    // exponent * n is exact: 24 bits times at most 11; power + rest = log2(result)
    double whole = (double)exponent * n, rest = (double)exponent * log_m / 0.69314718055994531;
    int power = (int)(whole + rest + (whole + rest < 0 ? -0.5 : 0.5));
    double x = (whole - power) * 0.69314718055994531 + (double)exponent * log_m, sum = 1;
    for (int term = 16; term > 0; term--) {
        sum = 1 + sum * x / term; // exp(x), |x| <= 0.35
    }
    return ldexp(sum, power);
}

// The sine and the cosine of x >= 0, absolute error below 1e-15 for x up to 2^20.
static inline void portable_sine_cosine(double x, double *sine, double *cosine) {
    // pi / 2 in two parts (Cody, Waite 1980). The first has 33 bits: its products with integers up
    // to 2^20 are exact.
    const double high = 1.57079632673412561417e+00, low = 6.07710050650619224932e-11;
    uint64_t quarter_turns = (uint64_t)(x * 0.63661977236758134308 + 0.5);
    double n = (double)quarter_turns, r = x - n * high - n * low, square = r * r;

    double s = 1, c = 1;
    for (int term = 18; term > 0; term -= 2) {
        s = 1 - s * square / (term * (term + 1));
        c = 1 - c * square / (term * (term - 1));
    }
    s *= r;

    switch (quarter_turns % 4) {
    case 0:
        *sine = s, *cosine = c;
        break;
    case 1:
        *sine = c, *cosine = -s;
        break;
    case 2:
        *sine = -s, *cosine = -c;
        break;
    default:
        *sine = -c, *cosine = s;
    }
}

// The scaling of Llama 3.1 for contexts that are `factor` times as long as the original ones of
// `positions`: wavelengths above positions / low_freq_factor are multiplied by factor, those below
// positions / high_freq_factor are kept, and between the two it interpolates. The operations and
// their roundings are those of transformers.
static inline float llama3_frequency(float frequency, float factor, float low_freq_factor,
                                     float high_freq_factor, float positions) {
    float wavelength = 1 / frequency * 6.28318530717958647692f;
    if (wavelength > positions / low_freq_factor) {
        return frequency / factor;
    }
    if (wavelength < positions / high_freq_factor) {
        return frequency;
    }
    float smooth =
        (1 / wavelength * positions - low_freq_factor) / (high_freq_factor - low_freq_factor);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

// table (positions, D): of each position D/2 cosines, then D/2 sines, of the angles
// position * frequency; frequency j = theta^(-2j/D). D is even. If factor is not 1, the frequencies
// are scaled for Llama 3.1 (see above; otherwise the last three arguments are unused).
static inline void rope_table(float *table, size_t positions, size_t D, double theta, double factor,
                              double low_freq_factor, double high_freq_factor,
                              size_t original_positions) {
    const size_t half = D / 2;
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < half; j++) {
        float frequency = 1 / (float)portable_power((float)theta, 2 * (float)j / (float)D);
        if (factor != 1) {
            frequency = llama3_frequency(frequency, (float)factor, (float)low_freq_factor,
                                         (float)high_freq_factor, (float)original_positions);
        }
        for (size_t position = 0; position < positions; position++) {
            double sine, cosine;
            float angle = (float)position * frequency;
            portable_sine_cosine(angle, &sine, &cosine);
            table[position * D + j] = (float)cosine;
            table[position * D + half + j] = (float)sine;
        }
    }
}

#endif
