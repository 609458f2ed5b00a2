// bench.h: `kernels --bench`: the time of each kernel, its rate as a share of the measured peak,
// and its speed over the reference.
#ifndef KERNELS_BENCH_H
#define KERNELS_BENCH_H

#include <omp.h>
#include <stdio.h>

#include "kernels/probes.h"
#include "kernels_sve.h" // defines: kernels_sve

// The best time of a probe with one table in seconds, over at least three runs and a tenth of a
// second.
static inline double probe_seconds(const KernelProbe *probe, const Kernels *k, ProbeArrays *p,
                                   const Shape *s) {
    double best = INFINITY, begin = omp_get_wtime();
    for (int run = 0; run < 3 || omp_get_wtime() - begin < 0.1; run++) {
        double start = omp_get_wtime(), seconds;
        probe->run(k, p->x, p->tokens, s, s->B * s->T);
        seconds = omp_get_wtime() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

// Memory bandwidth in bytes per second: the sum of two arrays that no cache holds. NaN without
// memory for them.
static inline double measure_bandwidth(void) {
    enum { ROWS = 4096, CHANNELS = 8192 };
    const KernelProbe probe = {.name = "bandwidth",
                               .outputs = 1,
                               .arrays = {"RC", "RC", "TC"},
                               .run = run_embedding_forward};
    const Shape s = {1, ROWS, CHANNELS, 1, ROWS, 1, 1, 1, PRECISION_FP32};
    ProbeArrays p;
    if (!probe_create(&p, &probe, &s, FILL_PLAIN, &(Error){0})) {
        return NAN;
    }
    for (int32_t r = 0; r < ROWS; r++) {
        p.tokens[r] = r; // every row is read once
    }
    double seconds = probe_seconds(&probe, &kernels_sve, &p, &s);
    probe_free(&p);
    return 3.0 * sizeof(float) * ROWS * CHANNELS / seconds;
}

// Times a probe with both tables at one shape and prints a line. peak: what its rate is compared
// with, operations or bytes per second.
static inline bool bench_probe(const KernelProbe *probe, const Shape *s, double peak, Error *e) {
    ProbeArrays p;
    if (!probe_create(&p, probe, s, FILL_PLAIN, e)) {
        return false;
    }
    double sve = probe_seconds(probe, &kernels_sve, &p, s);
    double ref = probe_seconds(probe, &kernels_ref, &p, s);
    probe_free(&p);

    double work = (double)product_of(probe->work, s) * (probe->bytes ? sizeof(float) : 1);
    printf("%-31s B %zu T %-4zu C %-4zu O %-5zu %9.3f ms %8.1f %s %5.1f %% of peak, %5.1f x ref\n",
           probe->name, s->B, s->T, s->C, s->O, 1e3 * sve, 1e-9 * work / sve,
           probe->bytes ? "GB/s   " : "GFLOP/s", 100 * work / sve / peak, ref / sve);
    return true;
}

// Times the kernels at the shapes of GPT-2 124M and of llm-jp-3-150m. `only`: kernels whose names
// contain it, or NULL. flops: the measured peak of all threads, operations per second.
static inline bool bench_kernels(const char *only, Precision p, double flops, Error *e) {
    // only matrix products depend on all of the shapes
    const struct {
        Shape shape; // B, T, C, H, V, O, G, D, precision
        bool products_only;
    } cases[] = {
        {{1, 1024, 768, 12, 50257, 768, 12, 64, p}, false},
        {{1, 1024, 768, 12, 50257, 2304, 12, 64, p}, true},
        {{1, 1024, 768, 12, 50257, 3072, 12, 64, p}, true},
        {{1, 1024, 3072, 12, 50257, 768, 12, 64, p}, true},
        {{4, 64, 768, 12, 50257, 2304, 12, 64, p}, false},
        {{1, 1024, 512, 8, 99584, 2048, 8, 64, p}, false},
        {{1, 1024, 512, 8, 99584, 512, 8, 64, p}, true},
        {{1, 1024, 512, 8, 99584, 1536, 8, 64, p}, true},
        {{1, 1024, 512, 8, 99584, 4096, 8, 64, p}, true},
        {{1, 1024, 2048, 8, 99584, 512, 8, 64, p}, true},
    };
    double bandwidth = measure_bandwidth();

    printf("measured peak: %.1f GFLOP/s, %.1f GB/s, %d threads\n", 1e-9 * flops, 1e-9 * bandwidth,
           omp_get_max_threads());
    for (size_t i = 0; i < PROBES; i++) {
        const KernelProbe *probe = &probes[i];
        if (!probe->work || (only && !strstr(probe->name, only))) {
            continue;
        }

        bool product = strchr(probe->work, 'O') && !probe->bytes;
        for (size_t j = 0; j < sizeof cases / sizeof *cases; j++) {
            if (cases[j].products_only && !product) {
                continue;
            }
            if (!bench_probe(probe, &cases[j].shape, probe->bytes ? bandwidth : flops, e)) {
                return false;
            }
        }
    }
    return true;
}

#endif
