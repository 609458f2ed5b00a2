// bench_gemm.c: compares the matrix products of GPT-2 124M with the sgemm of a BLAS library. Both
// run alternately in one process; the medians are compared.
//
//     bench_gemm LIBRARY [REPEATS]       LIBRARY: a BLAS to load, for example libopenblas.so.0
//     bench_gemm fp16 [REPEATS]          our FP16 products against our FP32 ones
//
// Prints the measured FMA peak and the library's rate at 2048^3, after checking its result; with
// REPEATS 0, that is all. Then prints one line per product, and the geometric mean and the minimum
// of the time ratios library / ours (above 1: ours is faster). Set the number of threads with
// OMP_NUM_THREADS for ours and with the library's own variable for the library.
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

#include "kernels_sve.h"
#include "util/clock.h" // defines: seconds_now

// cblas_sgemm with int, and with the 64-bit integers of ILP64 builds
typedef void (*Sgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                      const float *a, int lda, const float *b, int ldb, float beta, float *c,
                      int ldc);
typedef void (*Sgemm64)(int order, int transpose_a, int transpose_b, int64_t m, int64_t n,
                        int64_t k, float alpha, const float *a, int64_t lda, const float *b,
                        int64_t ldb, float beta, float *c, int64_t ldc);
enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112, MAX_REPEATS = 99 }; // as in cblas.h

typedef struct {
    bool own; // our FP32 products, as the peer of FP16; else one of these two is not NULL
    Sgemm sgemm;
    Sgemm64 sgemm64;
    const char *core; // the core type that OpenBLAS has selected; NULL for other libraries
} Library;

typedef struct {
    size_t R, C, OC;
    float *inp, *weight, *bias, *out; // (R, C), (C, OC), (OC), (R, OC)
} Product;

typedef enum { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, DIRECTIONS } Direction;
static const char *direction_names[DIRECTIONS] = {"forward", "backward input", "backward weight"};

// The first symbol of a NULL-terminated list that the library defines, or NULL.
static void *find_symbol(void *library, const char *const *names) {
    void *symbol = NULL;
    for (; *names && !symbol; names++) {
        symbol = dlsym(library, *names);
    }
    return symbol;
}

static bool library_open(Library *l, const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "bench_gemm: %s\n", dlerror());
        return false;
    }

    // OpenBLAS builds on PyPI have symbol prefixes, and suffixes if integers have 64 bits
    void *sgemm = find_symbol(library, (const char *[]){"cblas_sgemm", "scipy_cblas_sgemm", NULL});
    void *sgemm64 =
        find_symbol(library, (const char *[]){"cblas_sgemm64_", "scipy_cblas_sgemm64_", NULL});
    void *core = find_symbol(library, (const char *[]){"openblas_get_corename",
                                                       "scipy_openblas_get_corename",
                                                       "openblas_get_corename64_",
                                                       "scipy_openblas_get_corename64_", NULL});
    char *(*get_core)(void);
    memcpy(&l->sgemm, &sgemm, sizeof sgemm);
    memcpy(&l->sgemm64, &sgemm64, sizeof sgemm64);
    memcpy(&get_core, &core, sizeof core);
    l->own = false;
    l->core = core ? get_core() : NULL;
    if (!sgemm && !sgemm64) {
        fprintf(stderr, "bench_gemm: %s: no cblas_sgemm\n", path);
    }
    return sgemm || sgemm64;
}

// c (m, n) = op(a) op(b) + beta c
static void library_sgemm(const Library *l, int transpose_a, int transpose_b, size_t m, size_t n,
                          size_t k, const float *a, size_t lda, const float *b, size_t ldb,
                          float beta, float *c, size_t ldc) {
    if (l->sgemm) {
        l->sgemm(ROW_MAJOR, transpose_a, transpose_b, (int)m, (int)n, (int)k, 1, a, (int)lda, b,
                 (int)ldb, beta, c, (int)ldc);
    } else {
        l->sgemm64(ROW_MAJOR, transpose_a, transpose_b, (int64_t)m, (int64_t)n, (int64_t)k, 1, a,
                   (int64_t)lda, b, (int64_t)ldb, beta, c, (int64_t)ldc);
    }
}

static void ours(const Product *p, Precision precision, Direction direction) {
    if (direction == FORWARD) {
        matmul_forward_sve(p->out, p->inp, p->weight, p->bias, NULL, IN_OUT, precision, p->R, p->C,
                           p->OC);
    } else if (direction == BACKWARD_INPUT) {
        matmul_backward_input_sve(p->inp, p->out, p->weight, NULL, ACTIVATION_NONE, IN_OUT,
                                  precision, p->R, p->C, p->OC);
    } else {
        matmul_backward_weight_sve(p->weight, p->bias, p->inp, p->out, IN_OUT, precision, p->R,
                                   p->C, p->OC);
    }
}

// Without bias: ours gets no credit for work beyond the product itself.
static void theirs(const Library *l, const Product *p, Direction direction) {
    size_t R = p->R, C = p->C, OC = p->OC;
    if (l->own) {
        ours(p, PRECISION_FP32, direction);
    } else if (direction == FORWARD) {
        library_sgemm(l, PLAIN, PLAIN, R, OC, C, p->inp, C, p->weight, OC, 0, p->out, OC);
    } else if (direction == BACKWARD_INPUT) {
        library_sgemm(l, PLAIN, TRANSPOSED, R, C, OC, p->out, OC, p->weight, OC, 0, p->inp, C);
    } else {
        library_sgemm(l, TRANSPOSED, PLAIN, C, OC, R, p->inp, C, p->out, OC, 1, p->weight, OC);
    }
}

static float *filled(size_t n) {
    float *x = allocate_floats(n); // on huge pages, as in training, for both
    if (!x) {
        fprintf(stderr, "bench_gemm: no memory for %zu floats\n", n);
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = 1e-3f * (float)((i * 7919) % 2001) - 1;
    }
    return x;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Lets spinning idle threads go to sleep, so that they do not occupy cores that the other library
// needs next.
static void let_threads_sleep(void) {
    if (omp_get_max_threads() > 1) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
}

// Ratio of the median times. The operands are new for each pair of measurements, because results
// accumulate from call to call.
static double compare(const Library *l, size_t R, size_t C, size_t OC, Direction direction,
                      int repeats) {
    const Precision precision = l->own ? PRECISION_FP16 : PRECISION_FP32;
    double times[2][MAX_REPEATS];
    for (int repeat = 0; repeat < repeats; repeat++) {
        Product p = {R, C, OC, filled(R * C), filled(C * OC), filled(OC), filled(R * OC)};
        for (int i = 0; i < 2; i++) {
            bool mine = (repeat + i) % 2 == 0; // alternate which one runs first
            let_threads_sleep();
            mine ? ours(&p, precision, direction) : theirs(l, &p, direction); // wakes the threads
            double start = seconds_now();
            mine ? ours(&p, precision, direction) : theirs(l, &p, direction);
            times[mine][repeat] = seconds_now() - start;
        }
        free(p.inp), free(p.weight), free(p.bias), free(p.out);
    }
    qsort(times[0], (size_t)repeats, sizeof(double), by_value);
    qsort(times[1], (size_t)repeats, sizeof(double), by_value);

    double flops = 2.0 * (double)(R * C) * (double)OC, peer = times[0][repeats / 2],
           own = times[1][repeats / 2];
    printf("rows %-4zu %4zu x %-5zu %-15s  ours %6.1f GFLOP/s  library %6.1f  ratio %.3f\n", R, C,
           OC, direction_names[direction], 1e-9 * flops / own, 1e-9 * flops / peer, peer / own);
    fflush(stdout);
    return peer / own;
}

// FLOP/s of fused multiply-adds on all threads: the best of five short runs, as in `kernels
// --bench`.
static double measure_peak(Precision precision) {
    enum { ROUNDS = 1000, RUNS = 5 };
    double best = 0;
    for (int run = 0; run < RUNS; run++) {
        double flops = 0, start = seconds_now();
#pragma omp parallel reduction(+ : flops)
        flops += tile_flops_sve(precision, ROUNDS);
        best = fmax(best, flops / (seconds_now() - start));
    }
    return best;
}

// Prints the library's rate at 2048^3, the reference for training steps. Returns false if its
// result is wrong, as with old builds of OpenBLAS on some CPUs.
static bool print_square_rate(const Library *l) {
    enum { N = 2048, RUNS = 5 };
    float *a = filled(N * N), *b = filled(N * N), *c = filled(N * N), *want = filled(N * N);
    double times[RUNS], peak = measure_peak(PRECISION_FP32), largest = 0;

    let_threads_sleep();
    for (int run = 0; run < RUNS; run++) {
        double start = seconds_now();
        library_sgemm(l, PLAIN, PLAIN, N, N, N, a, N, b, N, 0, c, N);
        times[run] = seconds_now() - start;
    }
    qsort(times, RUNS, sizeof(double), by_value);

    matmul_forward_sve(want, a, b, NULL, NULL, IN_OUT, PRECISION_FP32, N, N, N);
    for (size_t i = 0; i < (size_t)N * N; i++) {
        largest = fmax(largest, fabs((double)want[i]));
    }
    size_t wrong = 0;
    for (size_t i = 0; i < (size_t)N * N; i++) {
        wrong += !(fabs((double)c[i] - (double)want[i]) <= 1e-4 * largest); // NaN counts
    }
    free(a), free(b), free(c), free(want);
    if (wrong > 0) {
        fprintf(stderr, "bench_gemm: wrong results: %zu of %d elements\n", wrong, N * N);
        return false;
    }

    double rate = 2.0 * N * N * (double)N / times[RUNS / 2];
    printf("2048^3: %.1f GFLOP/s, %.1f %% of the measured FMA peak, %.1f GFLOP/s%s%s\n",
           1e-9 * rate, 100 * rate / peak, 1e-9 * peak, l->core ? ", core type " : "",
           l->core ? l->core : "");
    fflush(stdout);
    return true;
}

int main(int argc, char **argv) {
    static const size_t rows[] = {256, 1024};
    static const size_t shapes[][2] = {
        {768, 768}, {768, 2304}, {768, 3072}, {3072, 768}, {768, 50304}};
    int repeats = argc > 2 ? atoi(argv[2]) : 11, count = 0;
    double log_sum = 0, smallest = INFINITY;
    Library library;

    if (argc < 2 || repeats < 0 || repeats > MAX_REPEATS) {
        fprintf(stderr, "usage: bench_gemm LIBRARY-WITH-cblas_sgemm|fp16 [REPEATS from 0 to %d]\n",
                MAX_REPEATS);
        return 2;
    }
    if (!strcmp(argv[1], "fp16")) {
        library = (Library){.own = true};
        printf("measured peak: %.1f GFLOP/s in FP16%s, %.1f in FP32; the library is FP32\n",
               1e-9 * measure_peak(PRECISION_FP16), FP16_NATIVE ? "" : " (emulated)",
               1e-9 * measure_peak(PRECISION_FP32));
    } else if (!library_open(&library, argv[1]) || !print_square_rate(&library)) {
        return 1;
    }

    for (size_t r = 0; repeats > 0 && r < sizeof rows / sizeof *rows; r++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            // fewer repeats for the classifier, which takes as long as all others together
            int times = shapes[s][1] > 10000 ? (repeats + 2) / 3 : repeats;
            for (Direction d = FORWARD; d < DIRECTIONS; d++) {
                double ratio = compare(&library, rows[r], shapes[s][0], shapes[s][1], d, times);
                smallest = fmin(smallest, ratio);
                log_sum += log(ratio);
                count++;
            }
        }
    }
    if (count > 0) {
        printf("geometric mean %.3f, smallest %.3f\n", exp(log_sum / count), smallest);
    }
    return 0;
}
