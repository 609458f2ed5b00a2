// bench_gemm.c: the matrix products of GPT-2 124M against OpenBLAS, alternating in one run,
// medians.
//
//     bench_gemm LIBRARY [REPEATS]       LIBRARY: an OpenBLAS to load, for example libopenblas.so.0
//
// REPEATS 0 prints OpenBLAS's own rate at 2048^3 only. Threads: OMP_NUM_THREADS for ours,
// OPENBLAS_NUM_THREADS for theirs. One line a product, then the geometric mean of the ratios theirs
// / ours (above 1: ours is faster) and the smallest of them.
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

#include "kernels_sve.h"

typedef void (*Sgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                      const float *a, int lda, const float *b, int ldb, float beta, float *c,
                      int ldc);
enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112, MAX_REPEATS = 99 }; // of cblas.h

typedef struct {
    size_t R, C, OC;
    float *inp, *weight, *bias, *out; // (R, C), (C, OC), (OC), (R, OC)
} Product;

typedef enum { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, DIRECTIONS } Direction;
static const char *direction_names[DIRECTIONS] = {"forward", "backward input", "backward weight"};

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void ours(const Product *p, Direction direction) {
    if (direction == FORWARD) {
        matmul_forward_sve(p->out, p->inp, p->weight, p->bias, NULL, p->R, p->C, p->OC);
    } else if (direction == BACKWARD_INPUT) {
        matmul_backward_input_sve(p->inp, p->out, p->weight, NULL, p->R, p->C, p->OC);
    } else {
        matmul_backward_weight_sve(p->weight, p->bias, p->inp, p->out, p->R, p->C, p->OC);
    }
}

// Without bias: what it does besides the product is not counted in its favour.
static void theirs(Sgemm sgemm, const Product *p, Direction direction) {
    int R = (int)p->R, C = (int)p->C, OC = (int)p->OC;
    if (direction == FORWARD) {
        sgemm(ROW_MAJOR, PLAIN, PLAIN, R, OC, C, 1, p->inp, C, p->weight, OC, 0, p->out, OC);
    } else if (direction == BACKWARD_INPUT) {
        sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, R, C, OC, 1, p->out, OC, p->weight, OC, 0, p->inp, C);
    } else {
        sgemm(ROW_MAJOR, TRANSPOSED, PLAIN, C, OC, R, 1, p->inp, C, p->out, OC, 1, p->weight, OC);
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

// Threads that wait for work spin for a while, on the cores that the other library then needs.
static void let_threads_sleep(void) {
    if (omp_get_max_threads() > 1) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
}

// Ratio of the median times. Results grow from call to call, so inputs are made anew before each
// pair.
static double compare(Sgemm sgemm, size_t R, size_t C, size_t OC, Direction direction,
                      int repeats) {
    double times[2][MAX_REPEATS];
    for (int repeat = 0; repeat < repeats; repeat++) {
        Product p = {R, C, OC, filled(R * C), filled(C * OC), filled(OC), filled(R * OC)};
        for (int i = 0; i < 2; i++) {
            bool mine = (repeat + i) % 2 == 0; // take turns at going first
            let_threads_sleep();
            mine ? ours(&p, direction) : theirs(sgemm, &p, direction); // wakes its threads
            double start = seconds_now();
            mine ? ours(&p, direction) : theirs(sgemm, &p, direction);
            times[mine][repeat] = seconds_now() - start;
        }
        free(p.inp), free(p.weight), free(p.bias), free(p.out);
    }
    qsort(times[0], (size_t)repeats, sizeof(double), by_value);
    qsort(times[1], (size_t)repeats, sizeof(double), by_value);
    double flops = 2.0 * (double)(R * C) * (double)OC, peer = times[0][repeats / 2],
           own = times[1][repeats / 2];
    printf("rows %-4zu %4zu x %-5zu %-15s  ours %6.1f GFLOP/s  OpenBLAS %6.1f  ratio %.3f\n", R, C,
           OC, direction_names[direction], 1e-9 * flops / own, 1e-9 * flops / peer, peer / own);
    fflush(stdout);
    return peer / own;
}

// OpenBLAS's rate at 2048 x 2048 x 2048: what the training step is measured by.
static void print_square_rate(Sgemm sgemm) {
    enum { N = 2048, RUNS = 5 };
    float *a = filled(N * N), *b = filled(N * N), *c = filled(N * N);
    double times[RUNS];
    for (int run = 0; run < RUNS; run++) {
        double start = seconds_now();
        sgemm(ROW_MAJOR, PLAIN, PLAIN, N, N, N, 1, a, N, b, N, 0, c, N);
        times[run] = seconds_now() - start;
    }
    qsort(times, RUNS, sizeof(double), by_value);
    printf("OpenBLAS 2048^3: %.1f GFLOP/s\n", 2e-9 * N * N * (double)N / times[RUNS / 2]);
    free(a), free(b), free(c);
}

int main(int argc, char **argv) {
    static const size_t rows[] = {256, 1024};
    static const size_t shapes[][2] = {
        {768, 768}, {768, 2304}, {768, 3072}, {3072, 768}, {768, 50304}};
    int repeats = argc > 2 ? atoi(argv[2]) : 11, count = 0;
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    Sgemm sgemm = NULL;
    if (library) {
        void *symbol = dlsym(library, "cblas_sgemm");
        memcpy(&sgemm, &symbol, sizeof sgemm);
    }
    if (!sgemm || repeats < 0 || repeats > MAX_REPEATS) {
        fprintf(stderr, "usage: bench_gemm LIBRARY-WITH-cblas_sgemm [REPEATS from 0 to %d]\n",
                MAX_REPEATS);
        return 2;
    }
    double log_sum = 0, smallest = INFINITY;
    print_square_rate(sgemm);
    for (size_t r = 0; repeats > 0 && r < sizeof rows / sizeof *rows; r++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            for (Direction d = FORWARD; d < DIRECTIONS; d++) {
                double ratio = compare(sgemm, rows[r], shapes[s][0], shapes[s][1], d,
                                       shapes[s][1] > 10000 ? (repeats + 2) / 3 : repeats);
                smallest = ratio < smallest ? ratio : smallest;
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
