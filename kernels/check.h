// check.h: `kernels --check`: the fast kernels against the reference, within bounds that follow
// from the length of each sum.
#ifndef KERNELS_CHECK_H
#define KERNELS_CHECK_H

#include <stdio.h>

#include "kernels/probes.h"
#include "kernels_sve.h" // defines: kernels_sve

// The largest difference between two arrays, absolute and relative to the largest finite value of
// the reference. Where the reference is not finite the other must not be finite either; otherwise
// the difference is NaN or infinite. Differences below 1e-32 are none: there exp saturates.
static inline void compare_arrays(const float *want, const float *got, size_t n, double *absolute,
                                  double *relative) {
    double scale = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = fabs((double)want[i] - (double)got[i]);
        bool same =
            want[i] == got[i] || difference < 1e-32 || (!isfinite(want[i]) && !isfinite(got[i]));
        worst = same || difference <= worst ? worst : difference;
        scale = isfinite(want[i]) && fabs((double)want[i]) > scale ? fabs((double)want[i]) : scale;
    }
    *absolute = worst;
    *relative = worst == 0 ? 0 : worst / fmax(scale, FLT_MIN);
}

// Whether all numbers are equal bit for bit, or not finite in both arrays.
static inline bool arrays_equal(const float *want, const float *got, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bool both = !isfinite(want[i]) && !isfinite(got[i]);
        if (!both && memcmp(&want[i], &got[i], sizeof *want)) {
            return false;
        }
    }
    return true;
}

// The bound on the relative difference: both tables round each of the n terms of a sum, in
// different orders, a random walk of about sqrt(n) half units; 8 units allow for other roundings,
// exp and the reciprocal among them. Attention turns an error of a score, epsilon times its size,
// into a relative error of exp(score): q and k of size s give scores of size s^2 sqrt(D).
static inline double probe_bound(const KernelProbe *probe, const Shape *s, Fill fill) {
    double bound = FLT_EPSILON * (8 + 2 * sqrt((double)product_of(probe->sum, s)));
    if (fill == FILL_LARGE && strstr(probe->name, "attention")) {
        bound *= LARGE * LARGE * sqrt((double)s->D);
    }
    // a number half-way between two FP16 numbers may be rounded to either
    return s->precision == PRECISION_FP16 ? bound + 0x1p-10 : bound;
}

// Runs a probe with both tables and prints a line with the largest differences of its outputs.
static inline bool check_probe(const KernelProbe *probe, const Shape *s, Fill fill, bool *passed,
                               Error *e) {
    ProbeArrays ref, sve;
    double absolute = 0, relative = 0, bound = probe_bound(probe, s, fill);

    if (!probe_create(&ref, probe, s, fill, e)) {
        return false;
    }
    if (!probe_create(&sve, probe, s, fill, e)) {
        probe_free(&ref);
        return false;
    }

    probe->run(&kernels_ref, ref.x, ref.tokens, s, s->B * s->T);
    probe->run(&kernels_sve, sve.x, sve.tokens, s, s->B * s->T);
    for (int i = 0; i < probe->outputs; i++) {
        double a, r;
        compare_arrays(ref.x[i], sve.x[i], ref.n[i], &a, &r);
        absolute = a <= absolute ? absolute : a;
        relative = r <= relative ? relative : r;
    }

    *passed = relative <= bound; // false for NaN
    for (int i = 0; i < probe->exact && s->precision == PRECISION_FP16; i++) {
        *passed = *passed && arrays_equal(ref.x[i], sve.x[i], ref.n[i]);
    }
    printf(
        "%-31s B %zu T %-3zu C %-3zu H %zu KV %zu D %-3zu V %-3zu O %-3zu %-8s abs %.2e rel %.2e "
        "bound %.2e %s\n",
        probe->name, s->B, s->T, s->C, s->H, s->G, s->D, s->V, s->O, fill_names[fill], absolute,
        relative, bound, *passed ? "pass" : "FAIL");
    probe_free(&ref);
    probe_free(&sve);
    return true;
}

// Compares the tables on shapes around the vector length and the tile, with plain and extreme
// values. `only`: kernels whose names contain it, or NULL. Fails if a difference is out of bounds.
static inline bool check_kernels(const char *only, Precision p, Error *e) {
    const size_t vl = svcntw(), below = vl - 1, above = vl + 1;
    const Shape shapes[] = {
        // B, T, C, H, V, O, G, D, precision
        {1, 1, 1, 1, 1, 1, 1, 1, p},
        {1, below, vl, 1, above, below, 1, vl, p},
        {2, vl, above, 1, vl, vl, 1, above, p},
        {1, above, below, 1, below, above, 1, below, p},
        {3, 7, 2 * vl, 4, 37, 2 * vl + 1, 1, vl, p}, // one KV head under all query heads
        {1, 67, 39, 3, 131, 3 * vl - 1, 3, 13, p},
        {2, 83, 64, 6, 130, 61, 3, 24, p},                // heads wider than C
        {1, 331, 26, 2, 5, 5, 1, 10, p},                  // more than two blocks of keys
        {11, 100, 5, 1, 7, 3, 1, 5, p},                   // more rows than are packed at a time,
        {1, 9, 3100, 4, GEMM_COLUMNS + 5, 37, 2, 775, p}, // more steps, and more columns
    };

    size_t checked = 0, failed = 0;
    for (size_t i = 0; i < PROBES; i++) {
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++) {
            for (Fill fill = FILL_PLAIN; fill < FILLS; fill++) {
                bool passed;
                if ((only && !strstr(probes[i].name, only)) ||
                    (p == PRECISION_FP16 && probes[i].bytes)) {
                    continue;
                }
                if (!check_probe(&probes[i], &shapes[j], fill, &passed, e)) {
                    return false;
                }
                checked++;
                failed += !passed;
            }
        }
    }

    printf("%zu checked, %zu failed, vectors of %zu bits\n", checked, failed, 32 * vl);
    if (checked == 0) {
        return fail(e, "--only %s: no kernel has such a name", only);
    }
    return failed == 0 || fail(e, "%zu of %zu kernel checks failed", failed, checked);
}

#endif
