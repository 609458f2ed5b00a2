// test_kernels.c: checks every kernel of kernels_ref.h against central differences, in double
// precision.
//
// For a pair of forward and backward kernels, let f(x) = sum(projection * forward(x)) with a fixed
// random projection; backward(projection) must equal df/dx. The error of central differences with
// step h is O(h^2) + O(epsilon / h), about 1e-10 for h = 1e-5. A bound of 1e-7, relative to the
// largest gradient of the array, therefore detects any wrong term without false alarms.
#define KERNELS_REF_DOUBLE
#include "kernels/rope_table.h"
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
    printf("%-6s %-26s %-34s error %.2e bound %.0e\n", ok ? "ok" : "FAILED", name, what, error,
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
    size_t KV, D, row; // KV heads, channels of a head, doubles from a row of heads to the next
    MatrixLayout layout;
    Activation activation;
    double z_loss;
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

    // without positions
    double *dwte_only = calloc(c.V * c.C, sizeof *dwte_only);
    kernels->embedding_backward(dwte_only, NULL, c.projection, c.tokens, (VocabShard){0, c.V}, c.B,
                                c.T, c.C);
    report("embedding", "no dwpe", memcmp(dwte_only, dwte, c.V * c.C * sizeof *dwte) ? 1 : 0, 0);

    free(sum), free(other), free(dwte_only);
    free(c.weight), free(c.bias), free(dwte), free(dwpe), free(c.out), free(c.projection),
        free(window);
}

static double layernorm(void *context) {
    Case *c = context;
    kernels->layernorm_forward(c->out, c->mean, c->rstd, c->x, c->weight, c->bias, 1e-5,
                               c->B * c->T, c->C);
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

static double rmsnorm(void *context) {
    Case *c = context;
    kernels->rmsnorm_forward(c->out, c->rstd, c->x, c->weight, 1e-3, c->B * c->T, c->C);
    return project(c->out, c->projection, c->B * c->T * c->C);
}

static void check_rmsnorm(Case c) {
    size_t R = c.B * c.T, n = R * c.C;
    c.x = random_array(n), c.weight = random_array(c.C), c.out = random_array(n),
    c.projection = random_array(n), c.rstd = random_array(R);
    double *dx = calloc(n, sizeof *dx), *dw = calloc(c.C, sizeof *dw);
    rmsnorm(&c);
    kernels->rmsnorm_backward(dx, dw, c.projection, c.x, c.weight, c.rstd, R, c.C);
    check_gradient("rmsnorm", "dinp", rmsnorm, &c, c.x, dx, n);
    check_gradient("rmsnorm", "dweight", rmsnorm, &c, c.weight, dw, c.C);

    // dinp is added to
    double *twice = random_array(n), worst = 0;
    memcpy(twice, dx, n * sizeof *twice);
    kernels->rmsnorm_backward(twice, dw, c.projection, c.x, c.weight, c.rstd, R, c.C);
    for (size_t i = 0; i < n; i++) {
        worst = worse(worst, fabs(twice[i] - 2 * dx[i]));
    }
    report("rmsnorm", "adds to dinp", worst, 1e-12);
    free(c.x), free(c.weight), free(c.out), free(c.projection), free(c.rstd), free(dx), free(dw),
        free(twice);
}

// Kernels that work in place on the heads of rows: x is copied to out. What is between the heads of
// a row and the next row must not change: its gradient is the projection.
static double head_norm(void *context) {
    Case *c = context;
    size_t R = c->B * c->T;
    memcpy(c->out, c->x, R * c->row * sizeof *c->out);
    kernels->head_norm_forward(c->out, c->mean, c->rstd, c->weight, 1e-3, c->row, R, c->H, c->D);
    return project(c->out, c->projection, R * c->row);
}

static void check_head_norm(Case c) {
    size_t R = c.B * c.T, n = R * c.row;
    c.x = random_array(n), c.weight = random_array(c.D), c.out = random_array(n),
    c.mean = random_array(R * c.H * c.D), c.rstd = random_array(R * c.H);
    c.projection = random_array(n);
    double *dx = random_array(n), *dw = calloc(c.D, sizeof *dw);
    memcpy(dx, c.projection, n * sizeof *dx);
    head_norm(&c);
    kernels->head_norm_backward(dx, dw, c.mean, c.weight, c.rstd, c.row, R, c.H, c.D);
    check_gradient("head_norm", "dx", head_norm, &c, c.x, dx, n);
    check_gradient("head_norm", "dweight", head_norm, &c, c.weight, dw, c.D);
    free(c.x), free(c.weight), free(c.out), free(c.mean), free(c.rstd), free(c.projection),
        free(dx), free(dw);
}

enum { ROPE_FIRST = 5 }; // the position of row 0

static double rope(void *context) {
    Case *c = context;
    size_t R = c->B * c->T;
    memcpy(c->out, c->x, R * c->row * sizeof *c->out);
    kernels->rope(c->out, c->weight, c->row, ROPE_FIRST, c->B, c->T, c->H, c->D, false);
    return project(c->out, c->projection, R * c->row);
}

static void check_rope(Case c) {
    size_t R = c.B * c.T, n = R * c.row, positions = c.T + ROPE_FIRST;
    float *table = malloc(positions * c.D * sizeof *table);
    c.x = random_array(n), c.out = random_array(n), c.projection = random_array(n),
    c.weight = random_array(positions * c.D);
    rope_table(table, positions, c.D, 10000, 1, 1, 1, 1);
    for (size_t i = 0; i < positions * c.D; i++) {
        c.weight[i] = (double)table[i];
    }

    double *dx = random_array(n), worst = 0;
    memcpy(dx, c.projection, n * sizeof *dx);
    kernels->rope(dx, c.weight, c.row, ROPE_FIRST, c.B, c.T, c.H, c.D, true);
    check_gradient("rope", "dx", rope, &c, c.x, dx, n);

    // rotated there and back; the table is float
    rope(&c);
    kernels->rope(c.out, c.weight, c.row, ROPE_FIRST, c.B, c.T, c.H, c.D, true);
    for (size_t i = 0; i < n; i++) {
        worst = worse(worst, fabs(c.out[i] - c.x[i]));
    }
    report("rope", "there and back", worst, 1e-6);

    // the last head of the last row against the formula of the paper
    worst = 0;
    rope(&c);
    for (size_t d = 0; d < c.D / 2; d++) {
        double *x = c.x + (R - 1) * c.row + (c.H - 1) * c.D + d, *y = c.out + (x - c.x);
        double angle = (double)(positions - 1) * pow(10000, -2 * (double)d / (double)c.D);
        worst = worse(worst, fabs(y[0] - (x[0] * cos(angle) - x[c.D / 2] * sin(angle))));
        worst = worse(worst, fabs(y[c.D / 2] - (x[c.D / 2] * cos(angle) + x[0] * sin(angle))));
    }
    report("rope", "formula", worst, 1e-5);
    free(c.x), free(c.out), free(c.projection), free(c.weight), free(dx), free(table);
}

static double swiglu(void *context) {
    Case *c = context;
    kernels->swiglu_forward(c->out, c->x, c->B * c->T, c->OC);
    return project(c->out, c->projection, c->B * c->T * c->OC);
}

static void check_swiglu(Case c) {
    size_t R = c.B * c.T, n = R * c.OC;
    c.x = random_array(2 * n), c.out = random_array(n), c.projection = random_array(n);
    for (size_t i = 0; i < 2 * n; i++) {
        c.x[i] *= 5;
    }
    double *dx = random_array(2 * n); // overwritten
    kernels->swiglu_backward(dx, c.projection, c.x, R, c.OC);
    check_gradient("swiglu", "dgate_up", swiglu, &c, c.x, dx, 2 * n);
    free(c.x), free(c.out), free(c.projection), free(dx);
}

static double matmul(void *context) {
    Case *c = context;
    kernels->matmul_forward(c->out, c->x, c->weight, c->bias, c->residual, c->layout,
                            PRECISION_FP32, c->B * c->T, c->C, c->OC);
    return project(c->out, c->projection, c->B * c->T * c->OC);
}

static void check_matmul(Case c) {
    const char *name = c.layout == IN_OUT ? "matmul" : "matmul, (OC, C)";
    size_t R = c.B * c.T;
    c.x = random_array(R * c.C), c.weight = random_array(c.C * c.OC), c.bias = random_array(c.OC);
    c.out = random_array(R * c.OC), c.projection = random_array(R * c.OC),
    c.residual = random_array(R * c.OC);
    double *dx = random_array(R * c.C); // overwritten
    double *dw = calloc(c.C * c.OC, sizeof *dw), *db = calloc(c.OC, sizeof *db);
    kernels->matmul_backward_input(dx, c.projection, c.weight, NULL, c.activation, c.layout,
                                   PRECISION_FP32, R, c.C, c.OC);
    kernels->matmul_backward_weight(dw, db, c.x, c.projection, c.layout, PRECISION_FP32, R, c.C,
                                    c.OC);
    check_gradient(name, "dinp", matmul, &c, c.x, dx, R * c.C);
    check_gradient(name, "dweight", matmul, &c, c.weight, dw, c.C * c.OC);
    check_gradient(name, "dbias", matmul, &c, c.bias, db, c.OC);
    check_gradient(name, "dresidual", matmul, &c, c.residual, c.projection, R * c.OC);

    // against the formula: the gradients do not show what layout the weight has
    double worst = 0;
    matmul(&c);
    for (size_t i = 0; i < R * c.OC; i++) {
        size_t r = i / c.OC, o = i % c.OC;
        double sum = c.bias[o] + c.residual[i];
        for (size_t k = 0; k < c.C; k++) {
            sum += c.x[r * c.C + k] * c.weight[c.layout == IN_OUT ? k * c.OC + o : o * c.C + k];
        }
        worst = worse(worst, fabs(sum - c.out[i]));
    }
    report(name, "formula", worst, 1e-13);

    // without bias and residual, as on TP ranks above 0: same result as with zeros
    double *zeros = calloc(R * c.OC, sizeof *zeros), *out = random_array(R * c.OC);
    double *dw_only = calloc(c.C * c.OC, sizeof *dw_only);
    kernels->matmul_forward(c.out, c.x, c.weight, zeros, zeros, c.layout, PRECISION_FP32, R, c.C,
                            c.OC);
    kernels->matmul_forward(out, c.x, c.weight, NULL, NULL, c.layout, PRECISION_FP32, R, c.C, c.OC);
    kernels->matmul_backward_weight(dw_only, NULL, c.x, c.projection, c.layout, PRECISION_FP32, R,
                                    c.C, c.OC);
    report(name, "no bias", memcmp(out, c.out, R * c.OC * sizeof *out) ? 1 : 0, 0);
    report(name, "no dbias", memcmp(dw_only, dw, c.C * c.OC * sizeof *dw) ? 1 : 0, 0);

    free(zeros), free(out), free(dw_only);
    free(c.x), free(c.weight), free(c.bias), free(c.out), free(c.projection), free(c.residual);
    free(dx), free(dw), free(db);
}

// The activation of a product followed by another product, as in the MLP: checks the gradient of
// the activation's input.
static double matmul_activation(void *context) {
    Case *c = context;
    size_t R = c->B * c->T;
    kernels->matmul_activation_forward(c->residual, c->mean, c->x, c->weight, c->bias,
                                       c->activation, PRECISION_FP32, R, c->C, c->OC);
    kernels->matmul_forward(c->out, c->mean, c->rstd, c->bias2, NULL, IN_OUT, PRECISION_FP32, R,
                            c->OC, c->C);
    return project(c->out, c->projection, R * c->C);
}

static void check_matmul_activation(Case c) {
    static const char *names[] = {"matmul, GELU tanh", "matmul, GELU", "matmul, ReLU"};
    size_t R = c.B * c.T;
    c.x = random_array(R * c.C), c.weight = random_array(c.C * c.OC), c.bias = random_array(c.OC);
    c.residual = random_array(R * c.OC), c.mean = random_array(R * c.OC),
    c.rstd = random_array(c.OC * c.C);
    c.out = random_array(R * c.C), c.projection = random_array(R * c.C),
    c.bias2 = random_array(c.C);
    double *dpre = random_array(R * c.OC), *dw = calloc(c.C * c.OC, sizeof *dw),
           *db = calloc(c.OC, sizeof *db);
    matmul_activation(&c);
    kernels->matmul_backward_input(dpre, c.projection, c.rstd, c.residual, c.activation, IN_OUT,
                                   PRECISION_FP32, R, c.OC, c.C);
    kernels->matmul_backward_weight(dw, db, c.x, dpre, IN_OUT, PRECISION_FP32, R, c.C, c.OC);
    check_gradient(names[c.activation], "dweight", matmul_activation, &c, c.weight, dw, c.C * c.OC);
    check_gradient(names[c.activation], "dbias", matmul_activation, &c, c.bias, db, c.OC);
    free(c.x), free(c.weight), free(c.bias), free(c.out), free(c.projection), free(c.residual),
        free(c.mean);
    free(c.rstd), free(c.bias2), free(dpre), free(dw), free(db);
}

// Heads of q in x, rows of c.row; of k and v in weight and bias, rows of kv_row.
static AttentionShape attention_shape(const Case *c) {
    return (AttentionShape){.heads = c->H,
                            .kv_heads = c->KV,
                            .head_dim = c->D,
                            .q_row = c->row,
                            .kv_row = c->KV * c->D + 2,
                            .scale = 0.7};
}

static double attention(void *context) {
    Case *c = context;
    const AttentionShape shape = attention_shape(c);
    kernels->attention_forward(c->out, c->mean, c->x, c->weight, c->bias, &shape, PRECISION_FP32, 0,
                               c->B, c->T);
    return project(c->out, c->projection, c->B * c->T * c->H * c->D);
}

// Zeros what is not part of a head in rows of `row`: its gradient is zero.
static void zero_between(double *x, size_t R, size_t row, size_t width) {
    for (size_t r = 0; r < R; r++) {
        memset(x + r * row + width, 0, (row - width) * sizeof *x);
    }
}

static void check_attention(Case c) {
    const AttentionShape shape = attention_shape(&c);
    size_t R = c.B * c.T, q_size = R * shape.q_row, kv_size = R * shape.kv_row, width = c.H * c.D;
    c.x = random_array(q_size), c.weight = random_array(kv_size), c.bias = random_array(kv_size);
    c.out = random_array(R * width), c.projection = random_array(R * width);
    c.mean = random_array(R * c.H);
    double *dq = random_array(q_size), *dk = random_array(kv_size), *dv = random_array(kv_size);
    zero_between(dq, R, shape.q_row, width);
    zero_between(dk, R, shape.kv_row, c.KV * c.D);
    zero_between(dv, R, shape.kv_row, c.KV * c.D);
    attention(&c);
    kernels->attention_backward(dq, dk, dv, c.projection, c.out, c.x, c.weight, c.bias, c.mean,
                                &shape, PRECISION_FP32, c.B, c.T);
    check_gradient("attention", "dq", attention, &c, c.x, dq, q_size);
    check_gradient("attention", "dk", attention, &c, c.weight, dk, kv_size);
    check_gradient("attention", "dv", attention, &c, c.bias, dv, kv_size);

    // computed row by row, as in generation, the last sequence has the same bits
    size_t last = (c.B - 1) * c.T;
    double *rows = random_array(c.T * width), *lse = random_array(c.H * c.T);
    attention(&c);
    for (size_t t = 0; t < c.T; t++) {
        // the sequence truncated after row t
        kernels->attention_forward(rows, lse, c.x + last * shape.q_row,
                                   c.weight + last * shape.kv_row, c.bias + last * shape.kv_row,
                                   &shape, PRECISION_FP32, t, 1, t + 1);
    }
    bool same = !memcmp(rows, c.out + last * width, c.T * width * sizeof *rows);
    report("attention", "first_row", same ? 0 : 1, 0);
    free(c.x), free(c.weight), free(c.bias), free(c.out), free(c.projection), free(c.mean),
        free(dq), free(dk), free(dv), free(rows), free(lse);
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
                                        c->tokens + r, vocab[i], PRECISION_FP32, R, c->C);
        }

        for (size_t n = 0; dinp && n < R * c->C; n++) {
            dinp[r * c->C + n] = 0;
        }
        for (size_t i = first; i < 2; i++) {
            const double *wte = c->weight + vocab[i].first * c->C;
            kernels->cross_entropy(losses + r, scale, softmax, 2 - first, i - first, dloss,
                                   c->z_loss, R);
            if (dinp) {
                kernels->classifier_backward(dinp_shard, dwte + vocab[i].first * c->C, logits[i],
                                             scale, inp, wte, c->tokens + r, dloss, vocab[i],
                                             PRECISION_FP32, R, c->C);
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
    const char *name = c.z_loss > 0 ? "classifier, z-loss" : "classifier";
    check_gradient(name, "dinp", classifier, &c, c.x, dx, R * c.C);
    check_gradient(name, "dweight", classifier, &c, c.weight, dwte, c.V * c.C);

    // the losses against the textbook formula
    double *logits = random_array(R * c.V), worst = 0;
    kernels->logits_forward(logits, c.x, c.weight, PRECISION_FP32, R, c.C, c.V);
    for (size_t r = 0; r < R; r++) {
        double sum = 0;
        for (size_t v = 0; v < c.V; v++) {
            sum += exp(logits[r * c.V + v]);
        }
        double loss = log(sum) - logits[r * c.V + (size_t)c.tokens[r]];
        worst = worse(worst, fabs(loss + c.z_loss * log(sum) * log(sum) - losses[r]));
    }
    report(name, "losses", worst, 1e-13);
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

// The library's long double functions are more precise, but differ from machine to machine.
static void check_portable_functions(void) {
    double trigonometric = 0, power = 0;
    for (int i = 0; i < 100000; i++) {
        double x = (double)(float)(fabs(random_value()) * (i % 2 ? 0x1p20 : 10)), sine, cosine;
        portable_sine_cosine(x, &sine, &cosine);
        trigonometric = worse(trigonometric, (double)fabsl((long double)sine - sinl(x)));
        trigonometric = worse(trigonometric, (double)fabsl((long double)cosine - cosl(x)));

        double base = exp(20 * random_value());
        float exponent = (float)random_value();
        long double want = powl(base, (long double)exponent);
        long double difference = (long double)portable_power(base, exponent) - want;
        power = worse(power, (double)fabsl(difference / want));
    }
    report("rope_table", "sine, cosine", trigonometric, 1e-15);
    report("rope_table", "power", power, 1e-15);
}

// Cosines and sines of the last position, as transformers 5 computes them.
static void check_rope_table(void) {
    static const struct {
        const char *what;
        size_t D, positions;
        double theta, factor, low, high;
        size_t original_positions;
        struct {
            size_t j;
            double cosine, sine;
        } want[4];
    } tables[] = {
        {"Llama 2",
         128,
         4096,
         10000,
         1,
         1,
         1,
         1,
         {{0, -0.0659759939, -0.997821212},
          {1, -0.742445707, 0.669906199},
          {30, -0.361771375, -0.932266831},
          {63, 0.890258849, 0.455454975}}},
        {"Qwen3",
         128,
         5001,
         1e+06,
         1,
         1,
         1,
         1,
         {{0, 0.154668406, -0.987966418},
          {7, -0.785110414, -0.619355798},
          {40, 0.630080283, 0.776529968},
          {63, 0.999980748, 0.00620464934}}},
        {"Llama 3.1",
         128,
         20000,
         500000,
         8,
         1,
         4,
         8192,
         {{0, 0.929096937, -0.369836241},
          {29, 0.794233918, -0.607612133},
          {35, -0.333817571, 0.942637682},
          {63, 0.999981165, 0.00613750611}}},
        {"Llama 3.2",
         64,
         20000,
         500000,
         32,
         1,
         4,
         8192,
         {{0, 0.929096937, -0.369836241},
          {14, 0.176019549, 0.984386683},
          {17, -0.362327456, 0.932050884},
          {31, 0.999998212, 0.00188356591}}},
    };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        size_t D = tables[i].D, positions = tables[i].positions;
        float *table = malloc(positions * D * sizeof *table), *last = table + (positions - 1) * D;
        double worst = 0;
        rope_table(table, positions, D, tables[i].theta, tables[i].factor, tables[i].low,
                   tables[i].high, tables[i].original_positions);
        for (size_t k = 0; k < sizeof tables->want / sizeof *tables->want; k++) {
            size_t j = tables[i].want[k].j;
            worst = worse(worst, fabs((double)last[j] - tables[i].want[k].cosine));
            worst = worse(worst, fabs((double)last[D / 2 + j] - tables[i].want[k].sine));
        }
        report("rope_table", tables[i].what, worst, 1.2e-7); // 1 unit in the last place of 1
        free(table);
    }
}

int main(void) {
    // sizes around vector lengths, 1 and primes; T > 1 so that positions differ
    static const Case cases[] = {
        {.B = 1, .T = 2, .C = 1, .H = 1, .V = 2, .OC = 1, .KV = 1, .D = 2},
        {.B = 2, .T = 3, .C = 15, .H = 3, .V = 11, .OC = 17, .KV = 3, .D = 4},
        {.B = 2, .T = 5, .C = 16, .H = 2, .V = 16, .OC = 16, .KV = 1, .D = 8},
        {.B = 1, .T = 7, .C = 34, .H = 6, .V = 37, .OC = 31, .KV = 3, .D = 10},
        {.B = 3, .T = 23, .C = 6, .H = 1, .V = 13, .OC = 5, .KV = 1, .D = 6},
        {.B = 1, .T = 2, .C = 260, .H = 4, .V = 5, .OC = 3, .KV = 2, .D = 34},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Case c = cases[i];
        c.tokens = malloc(c.B * c.T * sizeof *c.tokens);
        for (size_t r = 0; r < c.B * c.T; r++) {
            c.tokens[r] = (int32_t)(r * r % c.V); // tokens repeat
        }
        c.row = c.H * c.D + 3;
        printf("B %zu T %zu C %zu H %zu V %zu OC %zu KV %zu D %zu\n", c.B, c.T, c.C, c.H, c.V, c.OC,
               c.KV, c.D);
        check_embedding(c);
        check_layernorm(c);
        check_rmsnorm(c);
        check_head_norm(c);
        check_rope(c);
        check_swiglu(c);
        check_attention(c);
        for (c.layout = IN_OUT; c.layout <= OUT_IN; c.layout++) {
            check_matmul(c);
        }
        for (c.activation = 0; c.activation <= ACTIVATION_RELU; c.activation++) {
            check_matmul_activation(c);
        }
        check_classifier(c);
        c.z_loss = 0.1;
        check_classifier(c);
        free(c.tokens);
    }
    check_sum_of_squares(100);
    check_sum_of_squares(1000);
    check_adamw();
    check_portable_functions();
    check_rope_table();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
