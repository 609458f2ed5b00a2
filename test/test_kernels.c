// test_kernels.c: checks every kernel of kernels_ref.h against central differences, in double
// precision.
//
// For a pair of forward and backward kernels, let f(x) = sum(projection * forward(x)) with a fixed
// random projection; backward(projection) must equal df/dx. The error of central differences with
// step h is O(h^2) + O(epsilon / h), about 1e-10 for h = 1e-5. A bound of 1e-7, relative to the
// largest gradient of the array, therefore detects any wrong term without false alarms.
#define KERNELS_REF_DOUBLE
#include "kernels_ref.h"
#include <stdio.h>
#include <stdlib.h>

static const Kernels *kernels = &kernels_ref;
static int passed, failed;
static uint64_t random_state = 1;

static double random_value(void) { // in [-1, 1)
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) / (double)(1ull << 52) - 1;
}

static double *random_array(size_t n) {
    double *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = random_value();
    }
    return x;
}

// The larger error; NaN stays NaN.
static double worse(double worst, double error) {
    return error <= worst ? worst : error;
}

static void report(const char *name, const char *what, double error, double bound) {
    bool ok = error <= bound; // false for NaN
    printf("%-6s %-22s %-34s error %.2e bound %.0e\n", ok ? "ok" : "FAILED", name, what, error,
           bound);
    ok ? passed++ : failed++;
}

// A scalar function of the arrays in its context.
typedef double (*Function)(void *context);

// Compares the gradient from the backward kernel for array x (n) with central differences of f.
static void check_gradient(const char *name, const char *array_name, Function f, void *context,
                           double *x, const double *gradient, size_t n) {
    const double h = 1e-5;
    double worst = 0, largest = 0;

    for (size_t i = 0; i < n; i++) {
        double kept = x[i], plus, minus;
        x[i] = kept + h;
        plus = f(context);
        x[i] = kept - h;
        minus = f(context);
        x[i] = kept;

        double difference = fabs((plus - minus) / (2 * h) - gradient[i]);
        worst = worse(worst, difference);
        largest = fabs(gradient[i]) > largest ? fabs(gradient[i]) : largest;
    }
    report(name, array_name, worst / fmax(largest, 1e-3), 1e-7);
}

static double project(const double *out, const double *projection, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += out[i] * projection[i];
    }
    return sum;
}

// The context of all kernels; each uses only some of the arrays.
typedef struct {
    size_t B, T, C, H, V, OC;
    double *x, *weight, *bias, *bias2, *residual, *out, *projection, *mean, *rstd;
    int32_t *tokens;
} Case;

static double embedding(void *context) {
    Case *c = context;
    kernels->embedding_forward(c->out, c->tokens, c->weight, c->bias, (VocabShard){0, c->V}, 0,
                               c->B, c->T, c->C);
    return project(c->out, c->projection, c->B * c->T * c->C);
}

static void check_embedding(Case c) {
    size_t n = c.B * c.T * c.C;
    c.weight = random_array(c.V * c.C), c.bias = random_array(c.T * c.C);
    double *dwte = calloc(c.V * c.C, sizeof *dwte), *dwpe = calloc(c.T * c.C, sizeof *dwpe);
    c.out = random_array(n), c.projection = random_array(n);
    kernels->embedding_backward(dwte, dwpe, c.projection, c.tokens, (VocabShard){0, c.V}, c.B, c.T,
                                c.C);
    check_gradient("embedding", "dwte", embedding, &c, c.weight, dwte, c.V * c.C);
    check_gradient("embedding", "dwpe", embedding, &c, c.bias, dwpe, c.T * c.C);

    // a window that starts at position 1 equals the sequence from position 1 on
    double *window = random_array(c.C);
    kernels->embedding_forward(window, c.tokens + 1, c.weight, c.bias, (VocabShard){0, c.V}, 1, 1,
                               1, c.C);
    embedding(&c);
    report("embedding", "first_position", memcmp(window, c.out + c.C, c.C * sizeof *window) ? 1 : 0,
           0);

    // two TP ranks, positions only on the first: the sum of both is the embedding
    const VocabShard low = {0, c.V / 2}, high = {c.V / 2, c.V - c.V / 2};
    double *sum = random_array(n), *other = random_array(n);
    kernels->embedding_forward(sum, c.tokens, c.weight, c.bias, low, 0, c.B, c.T, c.C);
    kernels->embedding_forward(other, c.tokens, c.weight + high.first * c.C, NULL, high, 0, c.B,
                               c.T, c.C);
    for (size_t i = 0; i < n; i++) {
        sum[i] += other[i];
    }
    report("embedding", "two shards", memcmp(sum, c.out, n * sizeof *sum) ? 1 : 0, 0);

    free(sum), free(other);
    free(c.weight), free(c.bias), free(dwte), free(dwpe), free(c.out), free(c.projection),
        free(window);
}

static double layernorm(void *context) {
    Case *c = context;
    kernels->layernorm_forward(c->out, c->mean, c->rstd, c->x, c->weight, c->bias, c->B * c->T,
                               c->C);
    return project(c->out, c->projection, c->B * c->T * c->C);
}

static void check_layernorm(Case c) {
    size_t R = c.B * c.T, n = R * c.C;
    c.x = random_array(n), c.weight = random_array(c.C), c.bias = random_array(c.C);
    c.out = random_array(n), c.projection = random_array(n), c.mean = random_array(R),
    c.rstd = random_array(R);
    double *dx = calloc(n, sizeof *dx), *dw = calloc(c.C, sizeof *dw),
           *db = calloc(c.C, sizeof *db);
    layernorm(&c);
    kernels->layernorm_backward(dx, dw, db, c.projection, c.x, c.weight, c.mean, c.rstd, R, c.C);
    check_gradient("layernorm", "dinp", layernorm, &c, c.x, dx, n);
    check_gradient("layernorm", "dweight", layernorm, &c, c.weight, dw, c.C);
    check_gradient("layernorm", "dbias", layernorm, &c, c.bias, db, c.C);
    free(c.x), free(c.weight), free(c.bias), free(c.out), free(c.projection), free(c.mean),
        free(c.rstd);
    free(dx), free(dw), free(db);
}

static double matmul(void *context) {
    Case *c = context;
    kernels->matmul_forward(c->out, c->x, c->weight, c->bias, c->residual, c->B * c->T, c->C,
                            c->OC);
    return project(c->out, c->projection, c->B * c->T * c->OC);
}

static void check_matmul(Case c) {
    size_t R = c.B * c.T;
    c.x = random_array(R * c.C), c.weight = random_array(c.C * c.OC), c.bias = random_array(c.OC);
    c.out = random_array(R * c.OC), c.projection = random_array(R * c.OC),
    c.residual = random_array(R * c.OC);
    double *dx = random_array(R * c.C); // overwritten
    double *dw = calloc(c.C * c.OC, sizeof *dw), *db = calloc(c.OC, sizeof *db);
    kernels->matmul_backward_input(dx, c.projection, c.weight, NULL, R, c.C, c.OC);
    kernels->matmul_backward_weight(dw, db, c.x, c.projection, R, c.C, c.OC);
    check_gradient("matmul", "dinp", matmul, &c, c.x, dx, R * c.C);
    check_gradient("matmul", "dweight", matmul, &c, c.weight, dw, c.C * c.OC);
    check_gradient("matmul", "dbias", matmul, &c, c.bias, db, c.OC);
    check_gradient("matmul", "dresidual", matmul, &c, c.residual, c.projection, R * c.OC);

    // without bias and residual, as on TP ranks above 0: same result as with zeros
    double *zeros = calloc(R * c.OC, sizeof *zeros), *out = random_array(R * c.OC);
    double *dw_only = calloc(c.C * c.OC, sizeof *dw_only);
    kernels->matmul_forward(c.out, c.x, c.weight, zeros, zeros, R, c.C, c.OC);
    kernels->matmul_forward(out, c.x, c.weight, NULL, NULL, R, c.C, c.OC);
    kernels->matmul_backward_weight(dw_only, NULL, c.x, c.projection, R, c.C, c.OC);
    report("matmul", "no bias", memcmp(out, c.out, R * c.OC * sizeof *out) ? 1 : 0, 0);
    report("matmul", "no dbias", memcmp(dw_only, dw, c.C * c.OC * sizeof *dw) ? 1 : 0, 0);

    free(zeros), free(out), free(dw_only);
    free(c.x), free(c.weight), free(c.bias), free(c.out), free(c.projection), free(c.residual);
    free(dx), free(dw), free(db);
}

// A product with GELU followed by another product, as in the MLP: checks the gradient of GELU's
// input.
static double matmul_gelu(void *context) {
    Case *c = context;
    kernels->matmul_gelu_forward(c->residual, c->mean, c->x, c->weight, c->bias, c->B * c->T, c->C,
                                 c->OC);
    kernels->matmul_forward(c->out, c->mean, c->rstd, c->bias2, NULL, c->B * c->T, c->OC, c->C);
    return project(c->out, c->projection, c->B * c->T * c->C);
}

static void check_matmul_gelu(Case c) {
    size_t R = c.B * c.T;
    c.x = random_array(R * c.C), c.weight = random_array(c.C * c.OC), c.bias = random_array(c.OC);
    c.residual = random_array(R * c.OC), c.mean = random_array(R * c.OC),
    c.rstd = random_array(c.OC * c.C);
    c.out = random_array(R * c.C), c.projection = random_array(R * c.C),
    c.bias2 = random_array(c.C);
    double *dpre = random_array(R * c.OC), *dw = calloc(c.C * c.OC, sizeof *dw),
           *db = calloc(c.OC, sizeof *db);
    matmul_gelu(&c);
    kernels->matmul_backward_input(dpre, c.projection, c.rstd, c.residual, R, c.OC, c.C);
    kernels->matmul_backward_weight(dw, db, c.x, dpre, R, c.C, c.OC);
    check_gradient("matmul_gelu", "dweight", matmul_gelu, &c, c.weight, dw, c.C * c.OC);
    check_gradient("matmul_gelu", "dbias", matmul_gelu, &c, c.bias, db, c.OC);
    free(c.x), free(c.weight), free(c.bias), free(c.out), free(c.projection), free(c.residual),
        free(c.mean);
    free(c.rstd), free(c.bias2), free(dpre), free(dw), free(db);
}

static double attention(void *context) {
    Case *c = context;
    kernels->attention_forward(c->out, c->mean, c->x, 0, c->B, c->T, c->C, c->H);
    return project(c->out, c->projection, c->B * c->T * c->C);
}

static void check_attention(Case c) {
    size_t R = c.B * c.T;
    c.x = random_array(R * 3 * c.C), c.out = random_array(R * c.C),
    c.projection = random_array(R * c.C);
    c.mean = random_array(R * c.H);
    double *dx = random_array(R * 3 * c.C);
    attention(&c);
    kernels->attention_backward(dx, c.projection, c.out, c.x, c.mean, c.B, c.T, c.C, c.H);
    check_gradient("attention", "dqkv", attention, &c, c.x, dx, R * 3 * c.C);

    // computed row by row, as in generation, the last sequence has the same bits
    double *rows = random_array(c.T * c.C), *lse = random_array(c.H * c.T),
           *at_once = c.out + (c.B - 1) * c.T * c.C;
    attention(&c);
    for (size_t t = 0; t < c.T; t++) {
        // the sequence truncated after row t
        kernels->attention_forward(rows, lse, c.x + (c.B - 1) * c.T * 3 * c.C, t, 1, t + 1, c.C,
                                   c.H);
    }
    report("attention", "first_row", memcmp(rows, at_once, c.T * c.C * sizeof *rows) ? 1 : 0, 0);
    free(c.x), free(c.out), free(c.projection), free(c.mean), free(dx), free(rows), free(lse);
}

// The classifier over two vocabulary shards, as on two TP ranks; only losses if dinp is NULL.
static void classify(Case *c, double *losses, double *dinp, double *dwte, double dloss) {
    const VocabShard vocab[2] = {{0, c->V / 3}, {c->V / 3, c->V - c->V / 3}};
    const size_t first = vocab[0].count == 0; // a vocabulary of two tokens is not sharded
    ShardSoftmax softmax[2 * CLASSIFIER_ROWS];
    double scale[CLASSIFIER_ROWS], *dinp_shard = random_array(CLASSIFIER_ROWS * c->C);

    for (size_t r = 0, R; r < c->B * c->T; r += R) {
        R = c->B * c->T - r < CLASSIFIER_ROWS ? c->B * c->T - r : CLASSIFIER_ROWS;
        double *logits[2] = {c->out, c->out + R * vocab[0].count}, *inp = c->x + r * c->C;

        for (size_t i = first; i < 2; i++) {
            const double *wte = c->weight + vocab[i].first * c->C;
            kernels->classifier_forward(logits[i], softmax + (i - first) * R, inp, wte,
                                        c->tokens + r, vocab[i], R, c->C);
        }

        for (size_t n = 0; dinp && n < R * c->C; n++) {
            dinp[r * c->C + n] = 0;
        }
        for (size_t i = first; i < 2; i++) {
            const double *wte = c->weight + vocab[i].first * c->C;
            kernels->cross_entropy(losses + r, scale, softmax, 2 - first, i - first, dloss, R);
            if (dinp) {
                kernels->classifier_backward(dinp_shard, dwte + vocab[i].first * c->C, logits[i],
                                             scale, inp, wte, c->tokens + r, dloss, vocab[i], R,
                                             c->C);
            }
            for (size_t n = 0; dinp && n < R * c->C; n++) {
                dinp[r * c->C + n] += dinp_shard[n];
            }
        }
    }
    free(dinp_shard);
}

// The mean loss over all rows, as used in training.
static double classifier(void *context) {
    Case *c = context;
    size_t R = c->B * c->T;
    double sum = 0;
    classify(c, c->mean, NULL, NULL, 0);
    for (size_t r = 0; r < R; r++) {
        sum += c->mean[r];
    }
    return sum / (double)R;
}

static void check_classifier(Case c) {
    size_t R = c.B * c.T;
    c.x = random_array(R * c.C), c.weight = random_array(c.V * c.C), c.mean = random_array(R);
    c.out = random_array(CLASSIFIER_ROWS * c.V);
    double *dx = random_array(R * c.C), *dwte = calloc(c.V * c.C, sizeof *dwte),
           *losses = random_array(R);
    classify(&c, losses, dx, dwte, 1 / (double)R);
    check_gradient("classifier", "dinp", classifier, &c, c.x, dx, R * c.C);
    check_gradient("classifier", "dwte", classifier, &c, c.weight, dwte, c.V * c.C);

    // the losses against the textbook formula
    double *logits = random_array(R * c.V), worst = 0;
    kernels->logits_forward(logits, c.x, c.weight, R, c.C, c.V);
    for (size_t r = 0; r < R; r++) {
        double sum = 0;
        for (size_t v = 0; v < c.V; v++) {
            sum += exp(logits[r * c.V + v]);
        }
        worst = worse(worst, fabs(log(sum) - logits[r * c.V + (size_t)c.tokens[r]] - losses[r]));
    }
    report("classifier", "losses", worst, 1e-13);
    free(c.x), free(c.weight), free(c.mean), free(c.out), free(dx), free(dwte), free(losses),
        free(logits);
}

// f(x) = sum x^2 has the gradient 2x. n is below or above the 256 segments of the sum.
static size_t squares_n;

static double squares(void *context) {
    return kernels->sum_of_squares(context, squares_n);
}

static void check_sum_of_squares(size_t n) {
    double *x = random_array(n), *twice = random_array(n);
    squares_n = n;
    for (size_t i = 0; i < n; i++) {
        twice[i] = 2 * x[i];
    }
    check_gradient("sum_of_squares", n < 256 ? "fewer than segments" : "more than segments",
                   squares, x, x, twice, n);
    free(x), free(twice);
}

// Ten steps of AdamW against the formula of the paper in scalar code.
static void check_adamw(void) {
    enum { N = 37 };
    double *x = random_array(N), *m = calloc(N, 8), *v = calloc(N, 8), worst = 0;
    double y[N], n[N] = {0}, w[N] = {0};
    const double lr = 0.01, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1, clip = 0.5;
    memcpy(y, x, sizeof y);
    for (unsigned step = 1; step <= 10; step++) {
        double *g = random_array(N);
        kernels->adamw(x, m, v, g, N, clip, lr, beta1, beta2, eps, decay, step);
        for (size_t i = 0; i < N; i++) {
            y[i] -= lr * decay * y[i];
            n[i] = beta1 * n[i] + (1 - beta1) * clip * g[i];
            w[i] = beta2 * w[i] + (1 - beta2) * clip * g[i] * clip * g[i];
            y[i] -=
                lr * (n[i] / (1 - pow(beta1, step))) / (sqrt(w[i] / (1 - pow(beta2, step))) + eps);
            worst = worse(worst, fabs(x[i] - y[i]));
        }
        free(g);
    }
    report("adamw", "10 steps", worst, 1e-14);
    free(x), free(m), free(v);
}

int main(void) {
    // sizes around vector lengths, 1 and primes; T > 1 so that positions differ
    static const Case cases[] = {
        {.B = 1, .T = 2, .C = 1, .H = 1, .V = 2, .OC = 1},
        {.B = 2, .T = 3, .C = 15, .H = 3, .V = 11, .OC = 17},
        {.B = 2, .T = 5, .C = 16, .H = 2, .V = 16, .OC = 16},
        {.B = 1, .T = 7, .C = 34, .H = 2, .V = 37, .OC = 31},
        {.B = 3, .T = 23, .C = 6, .H = 1, .V = 13, .OC = 5},
        {.B = 1, .T = 2, .C = 260, .H = 4, .V = 5, .OC = 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Case c = cases[i];
        c.tokens = malloc(c.B * c.T * sizeof *c.tokens);
        for (size_t r = 0; r < c.B * c.T; r++) {
            c.tokens[r] = (int32_t)(r * r % c.V); // tokens repeat
        }
        printf("B %zu T %zu C %zu H %zu V %zu OC %zu\n", c.B, c.T, c.C, c.H, c.V, c.OC);
        check_embedding(c);
        check_layernorm(c);
        check_matmul(c);
        check_attention(c);
        check_matmul_gelu(c);
        check_classifier(c);
        free(c.tokens);
    }
    check_sum_of_squares(100);
    check_sum_of_squares(1000);
    check_adamw();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
