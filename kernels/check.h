// kernels_check.h: the two tables of kernels side by side: every kernel is one line of `probes`.
// check_kernels compares them on many shapes and kinds of values, bench_kernels times them.
#ifndef KERNELS_CHECK_H
#define KERNELS_CHECK_H

#include <float.h>
#include <omp.h>

#include "kernels_ref.h" // defines: Kernels, kernels_ref
#include "kernels_sve.h" // defines: kernels_sve, allocate_floats
#include "util/error.h"
#include "util/random.h" // defines: random_bits

typedef struct {
    size_t B, T, C, H, V, O; // O: output channels of a matrix product
} Shape;

enum { PROBE_ARRAYS = 9 };

typedef void (*KernelRun)(const Kernels *k, float **x, const int32_t *tokens, const Shape *s);

typedef struct {
    const char *name;
    int outputs;                      // how many of the arrays below it writes: the first ones
    const char *arrays[PROBE_ARRAYS]; // sizes: products of B T C H V O, R = B T, K =
                                      // CLASSIFIER_ROWS, and digits
    const char *sum;                  // length of its longest sum, likewise
    const char *work;  // what it does, likewise: operations, or floats moved to and from memory
    bool bytes;        // work counts floats moved
    KernelRun prepare; // makes random arrays consistent, with the reference; may be NULL
    KernelRun run;
} KernelProbe;

static inline size_t product_of(const char *letters, const Shape *s) {
    size_t product = 1;
    for (; *letters; letters++) {
        const struct {
            char letter;
            size_t value;
        } sizes[] = {{'B', s->B}, {'T', s->T}, {'C', s->C},        {'H', s->H},
                     {'V', s->V}, {'O', s->O}, {'R', s->B * s->T}, {'K', CLASSIFIER_ROWS}};
        size_t factor = (size_t)(*letters - '0');
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            factor = *letters == sizes[i].letter ? sizes[i].value : factor;
        }
        product *= factor;
    }
    return product;
}

#define RUN(name)                                                                                  \
    static inline void name(const Kernels *k, float **x, const int32_t *tokens, const Shape *s)
#define UNUSED_TOKENS (void)tokens

RUN(run_embedding_forward) {
    k->embedding_forward(x[0], tokens, x[1], x[2], (VocabShard){0, s->V}, 0, s->B, s->T, s->C);
}
RUN(run_embedding_backward) {
    k->embedding_backward(x[0], x[1], x[2], tokens, (VocabShard){0, s->V}, s->B, s->T, s->C);
}
RUN(run_layernorm_forward) {
    UNUSED_TOKENS;
    k->layernorm_forward(x[0], x[1], x[2], x[3], x[4], x[5], s->B * s->T, s->C);
}
RUN(run_layernorm_backward) {
    UNUSED_TOKENS;
    k->layernorm_backward(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], s->B * s->T, s->C);
}
RUN(prepare_layernorm_backward) { // out, weight and bias into arrays that are not read
    UNUSED_TOKENS;
    k->layernorm_forward(x[8], x[6], x[7], x[4], x[5], x[5], s->B * s->T, s->C);
}
RUN(run_matmul_forward) {
    UNUSED_TOKENS;
    k->matmul_forward(x[0], x[1], x[2], x[3], x[4], s->B * s->T, s->C, s->O);
}
RUN(run_matmul_gelu_forward) {
    UNUSED_TOKENS;
    k->matmul_gelu_forward(x[0], x[1], x[2], x[3], x[4], s->B * s->T, s->C, s->O);
}
RUN(run_matmul_backward_input) {
    UNUSED_TOKENS;
    k->matmul_backward_input(x[0], x[1], x[2], NULL, s->B * s->T, s->C, s->O);
}
RUN(run_matmul_gelu_backward_input) {
    UNUSED_TOKENS;
    k->matmul_backward_input(x[0], x[1], x[2], x[3], s->B * s->T, s->C, s->O);
}
RUN(run_matmul_backward_weight) {
    UNUSED_TOKENS;
    k->matmul_backward_weight(x[0], x[1], x[2], x[3], s->B * s->T, s->C, s->O);
}
RUN(run_attention_forward) {
    UNUSED_TOKENS;
    k->attention_forward(x[0], x[1], x[2], 0, s->B, s->T, s->C, s->H);
}
RUN(run_attention_backward) {
    UNUSED_TOKENS;
    k->attention_backward(x[0], x[1], x[2], x[3], x[4], s->B, s->T, s->C, s->H);
}
RUN(prepare_attention_backward) {
    UNUSED_TOKENS;
    k->attention_forward(x[2], x[4], x[3], 0, s->B, s->T, s->C, s->H);
}
RUN(run_logits_forward) {
    UNUSED_TOKENS;
    k->logits_forward(x[0], x[1], x[2], s->B * s->T, s->C, s->V);
}
// The three steps of the classifier over two slices of the vocabulary.
RUN(run_classifier) {
    float dloss = 1 / (float)(s->B * s->T), scale[CLASSIFIER_ROWS], *branch = x[6];
    ShardSoftmax softmax[2 * CLASSIFIER_ROWS];
    const VocabShard vocab[2] = {{0, (s->V + 1) / 2}, {(s->V + 1) / 2, s->V / 2}};
    const size_t slices = s->V > 1 ? 2 : 1;
    for (size_t r = 0; r < s->B * s->T; r += CLASSIFIER_ROWS) {
        size_t R = s->B * s->T - r < CLASSIFIER_ROWS ? s->B * s->T - r : CLASSIFIER_ROWS,
               n = R * s->C;
        float *logits[2] = {x[3], x[3] + R * vocab[0].count}, *dinp = x[1] + r * s->C;
        const float *inp = x[4] + r * s->C;
        for (size_t i = 0; i < slices; i++) {
            k->classifier_forward(logits[i], softmax + i * R, inp, x[5] + vocab[i].first * s->C,
                                  tokens + r, vocab[i], R, s->C);
        }
        for (size_t i = 0; i < slices; i++) {
            k->cross_entropy(x[0] + r, scale, softmax, slices, i, dloss, R);
            k->classifier_backward(i ? branch : dinp, x[2] + vocab[i].first * s->C, logits[i],
                                   scale, inp, x[5] + vocab[i].first * s->C, tokens + r, dloss,
                                   vocab[i], R, s->C);
        }
        for (size_t i = 0; i < n && slices > 1; i++) {
            dinp[i] += branch[i];
        }
    }
}
RUN(run_sum_of_squares) {
    UNUSED_TOKENS;
    x[0][0] = (float)k->sum_of_squares(x[1], s->C * s->O);
}
RUN(run_adamw) {
    UNUSED_TOKENS;
    k->adamw(x[0], x[1], x[2], x[3], s->C * s->O, 0.5f, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 3);
}
RUN(prepare_adamw) { // v is a mean of squares
    (void)k;
    UNUSED_TOKENS;
    for (size_t i = 0; i < s->C * s->O; i++) {
        x[2][i] = fminf(x[2][i] * x[2][i], FLT_MAX);
    }
}

static const KernelProbe probes[] = {
    {"embedding_forward", 1, {"RC", "VC", "TC"}, "1", "3RC", true, NULL, run_embedding_forward},
    {"embedding_backward", 2, {"VC", "TC", "RC"}, "R", "5RC", true, NULL, run_embedding_backward},
    {"layernorm_forward",
     3,
     {"RC", "R", "R", "RC", "C", "C"},
     "C",
     "2RC",
     true,
     NULL,
     run_layernorm_forward},
    {"layernorm_backward",
     3,
     {"RC", "C", "C", "RC", "RC", "C", "R", "R", "RC"},
     "R",
     "6RC",
     true,
     prepare_layernorm_backward,
     run_layernorm_backward},
    {"matmul_forward",
     1,
     {"RO", "RC", "CO", "O", "RO"},
     "C",
     "2RCO",
     false,
     NULL,
     run_matmul_forward},
    {"matmul_gelu_forward",
     2,
     {"RO", "RO", "RC", "CO", "O"},
     "C",
     "2RCO",
     false,
     NULL,
     run_matmul_gelu_forward},
    {"matmul_backward_input",
     1,
     {"RC", "RO", "CO"},
     "O",
     "2RCO",
     false,
     NULL,
     run_matmul_backward_input},
    {"matmul_gelu_backward_input",
     1,
     {"RC", "RO", "CO", "RC"},
     "O",
     "2RCO",
     false,
     NULL,
     run_matmul_gelu_backward_input},
    {"matmul_backward_weight",
     2,
     {"CO", "O", "RC", "RO"},
     "R",
     "2RCO",
     false,
     NULL,
     run_matmul_backward_weight},
    {"attention_forward", 2, {"RC", "RH", "3RC"}, "TC", "2RTC", false, NULL, run_attention_forward},
    {"attention_backward",
     1,
     {"3RC", "RC", "RC", "3RC", "RH"},
     "TC",
     "5RTC",
     false,
     prepare_attention_backward,
     run_attention_backward},
    {"logits_forward", 1, {"RV", "RC", "VC"}, "C", "2RCV", false, NULL, run_logits_forward},
    {"classifier",
     3,
     {"R", "RC", "VC", "KV", "RC", "VC", "KC"},
     "V",
     "6RCV",
     false,
     NULL,
     run_classifier},
    {"sum_of_squares", 1, {"1", "CO"}, "CO", "CO", true, NULL, run_sum_of_squares},
    {"adamw", 3, {"CO", "CO", "CO", "CO"}, "1", "7CO", true, prepare_adamw, run_adamw},
};
enum { PROBES = sizeof probes / sizeof *probes };

// How the arrays are filled: values in [-1, 1), in [-40, 40), where exponentials saturate, or with
// extreme ones among them.
typedef enum { FILL_PLAIN, FILL_LARGE, FILL_DENORMAL, FILL_HUGE, FILLS } Fill;
static const char *fill_names[FILLS] = {"plain", "large", "denormal", "1e30"};

enum { LARGE = 40 };

static inline float fill_value(Fill fill, size_t array, size_t i) {
    uint64_t bits = random_bits(7, array, i);
    float value = (float)(int64_t)(bits >> 40) * 0x1p-23f - 1;
    if (fill == FILL_DENORMAL && bits % 3 == 0) {
        return value * 0x1p-130f;
    }
    if (fill == FILL_LARGE) {
        return LARGE * value;
    }
    return fill == FILL_HUGE && i == 0 ? (array % 2 ? -1e30f : 1e30f) : value;
}

typedef struct {
    float *x[PROBE_ARRAYS];
    size_t n[PROBE_ARRAYS];
    int32_t *tokens;
} ProbeArrays;

static inline void probe_free(ProbeArrays *p) {
    for (int i = 0; i < PROBE_ARRAYS; i++) {
        free(p->x[i]);
    }
    free(p->tokens);
}

// The arrays of a probe, filled: the same for both tables.
static inline bool probe_create(ProbeArrays *p, const KernelProbe *probe, const Shape *s, Fill fill,
                                Error *e) {
    *p = (ProbeArrays){.tokens = malloc(s->B * s->T * sizeof(int32_t))};
    bool ok = p->tokens != NULL;
    for (size_t r = 0; ok && r < s->B * s->T; r++) {
        p->tokens[r] = (int32_t)(random_bits(7, 99, r) % s->V);
    }
    for (int i = 0; i < PROBE_ARRAYS && probe->arrays[i] && ok; i++) {
        p->n[i] = product_of(probe->arrays[i], s);
        p->x[i] = allocate_floats(p->n[i]);
        ok = p->x[i] != NULL;
        for (size_t j = 0; ok && j < p->n[i]; j++) {
            p->x[i][j] = fill_value(fill, (size_t)i, j);
        }
    }
    if (!ok) {
        probe_free(p);
        return fail(e, "no memory for the arrays of %s", probe->name);
    }
    if (probe->prepare) {
        probe->prepare(&kernels_ref, p->x, p->tokens, s);
    }
    return true;
}

// Largest difference between two arrays, absolute and relative to the largest finite value of the
// reference. Where the reference is not finite the other must not be either; else the difference is
// NaN or infinite.
static inline void compare_arrays(const float *want, const float *got, size_t n, double *absolute,
                                  double *relative) {
    double scale = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = fabs((double)want[i] - (double)got[i]);
        bool same = want[i] == got[i] || (!isfinite(want[i]) && !isfinite(got[i]));
        worst = same || difference <= worst ? worst : difference;
        scale = isfinite(want[i]) && fabs((double)want[i]) > scale ? fabs((double)want[i]) : scale;
    }
    *absolute = worst;
    *relative = worst == 0 ? 0 : worst / fmax(scale, FLT_MIN);
}

// The bound on the relative difference: both tables round each of the n terms of a sum, in
// different orders, which walks about sqrt(n) half units at random; 8 units are for what else is
// rounded, exp and the reciprocal among it. Attention turns an error of a score, epsilon times its
// size, into a relative error of exp(score): q and k of size s make scores of size s^2 sqrt(D).
static inline double probe_bound(const KernelProbe *probe, const Shape *s, Fill fill) {
    double bound = FLT_EPSILON * (8 + 2 * sqrt((double)product_of(probe->sum, s)));
    bool attention = strstr(probe->name, "attention") != NULL;
    return attention && fill == FILL_LARGE ? bound * LARGE * LARGE * sqrt((double)(s->C / s->H))
                                           : bound;
}

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
    probe->run(&kernels_ref, ref.x, ref.tokens, s);
    probe->run(&kernels_sve, sve.x, sve.tokens, s);
    for (int i = 0; i < probe->outputs; i++) {
        double a, r;
        compare_arrays(ref.x[i], sve.x[i], ref.n[i], &a, &r);
        absolute = a <= absolute ? absolute : a;
        relative = r <= relative ? relative : r;
    }
    *passed = relative <= bound; // false for NaN
    printf(
        "%-27s B %zu T %-3zu C %-3zu H %zu V %-3zu O %-3zu %-8s abs %.2e rel %.2e bound %.2e %s\n",
        probe->name, s->B, s->T, s->C, s->H, s->V, s->O, fill_names[fill], absolute, relative,
        bound, *passed ? "pass" : "FAIL");
    probe_free(&ref);
    probe_free(&sve);
    return true;
}

// Every kernel on shapes around the vector length and the tile, with plain and extreme values.
static inline bool check_kernels(const char *only, Error *e) {
    const size_t vl = svcntw(), below = vl - 1, above = vl + 1;
    const Shape shapes[] = {
        {1, 1, 1, 1, 1, 1},
        {1, below, vl, 1, above, below},
        {2, vl, above, 1, vl, vl},
        {1, above, below, 1, below, above},
        {3, 7, 2 * vl, 2, 37, 2 * vl + 1},
        {1, 67, 39, 3, 131, 3 * vl - 1},
        {2, 131, 64, 2, 300, 61},
        {1, 331, 26, 2, 5, 5},    // more than two blocks of keys
        {11, 100, 5, 1, 7, 3},    // more rows than are packed at a time,
        {1, 9, 3100, 4, 451, 37}, // more steps, and more columns
    };
    size_t checked = 0, failed = 0;
    for (size_t i = 0; i < PROBES; i++) {
        for (size_t j = 0;
             j < sizeof shapes / sizeof *shapes && (!only || strstr(probes[i].name, only)); j++) {
            for (Fill fill = FILL_PLAIN; fill < FILLS; fill++) {
                bool passed;
                if (!check_probe(&probes[i], &shapes[j], fill, &passed, e)) {
                    return false;
                }
                checked++;
                failed += !passed;
            }
        }
    }
    printf("%zu checked, %zu failed, vectors of %zu bits\n", checked, failed, 32 * vl);
    return checked > 0 ? failed == 0 || fail(e, "%zu of %zu kernel checks failed", failed, checked)
                       : fail(e, "--only %s: no kernel has such a name", only);
}

// Best time of a probe with one table, over at least three runs and a tenth of a second.
static inline double probe_seconds(const KernelProbe *probe, const Kernels *k, ProbeArrays *p,
                                   const Shape *s) {
    double best = INFINITY, begin = omp_get_wtime();
    for (int run = 0; run < 3 || omp_get_wtime() - begin < 0.1; run++) {
        double start = omp_get_wtime(), seconds;
        probe->run(k, p->x, p->tokens, s);
        seconds = omp_get_wtime() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

// Bytes a second of sums of two arrays that no cache holds.
static inline double measure_bandwidth(void) {
    enum { ROWS = 4096, CHANNELS = 8192 };
    const KernelProbe probe = {"bandwidth", 1,    {"RC", "RC", "TC"},   "1", "3RC",
                               true,        NULL, run_embedding_forward};
    const Shape s = {1, ROWS, CHANNELS, 1, ROWS, 1};
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

static inline bool bench_kernels(const char *only, double flops, Error *e) {
    static const Shape shapes[] = {
        {1, 1024, 768, 12, 50257, 768},  {1, 1024, 768, 12, 50257, 2304},
        {1, 1024, 768, 12, 50257, 3072}, {1, 1024, 3072, 12, 50257, 768},
        {4, 64, 768, 12, 50257, 2304},
    };
    double bandwidth = measure_bandwidth();
    printf("measured peak: %.1f GFLOP/s, %.1f GB/s, %d threads\n", 1e-9 * flops, 1e-9 * bandwidth,
           omp_get_max_threads());
    for (size_t i = 0; i < PROBES; i++) {
        const KernelProbe *probe = &probes[i];
        // only matrix products depend on all of the shapes; the others are timed at the first and
        // the last
        size_t stride =
            strchr(probe->work, 'O') && !probe->bytes ? 1 : sizeof shapes / sizeof *shapes - 1;
        for (size_t j = 0;
             j < sizeof shapes / sizeof *shapes && (!only || strstr(probe->name, only));
             j += stride) {
            const Shape *s = &shapes[j];
            ProbeArrays p;
            if (!probe_create(&p, probe, s, FILL_PLAIN, e)) {
                return false;
            }
            double sve = probe_seconds(probe, &kernels_sve, &p, s),
                   ref = probe_seconds(probe, &kernels_ref, &p, s);
            double work = (double)product_of(probe->work, s) * (probe->bytes ? sizeof(float) : 1);
            printf("%-27s B %zu T %-4zu C %-4zu O %-5zu %9.3f ms %8.1f %s %5.1f %% of peak, %5.1f "
                   "x ref\n",
                   probe->name, s->B, s->T, s->C, s->O, 1e3 * sve, 1e-9 * work / sve,
                   probe->bytes ? "GB/s   " : "GFLOP/s",
                   100 * work / sve / (probe->bytes ? bandwidth : flops), ref / sve);
            probe_free(&p);
        }
    }
    return true;
}

#endif
