// activation_sve.h: the functions between the two products of an MLP, over one row in memory. See
// kernels_ref.h for what they compute.
#ifndef KERNELS_ACTIVATION_SVE_H
#define KERNELS_ACTIVATION_SVE_H

#include "kernels/vector_math_sve.h" // defines: exp_reduce_sve, reciprocal_sve, FOUR, LOAD_X
#include "kernels_ref.h"             // defines: Activation, GELU_SCALE, GELU_CUBE

// ------------------------------------------------------------------------------------------------
// GELU, tanh approximation

// Tanh approximation: x times the gate (1 + tanh(s)) / 2 = 1 / (1 + exp(-2 s)) with
// s = sqrt(2/pi) (x + 0.044715 x^3). Returns -2 s.
SVE_INLINE svfloat32_t tanh_exponent_sve(svbool_t p, svfloat32_t x) {
    svfloat32_t square = svmul_f32_x(p, x, x);
    return svmul_f32_x(p, x,
                       svmla_f32_x(p, svdup_n_f32(-2 * GELU_SCALE), square,
                                   svdup_n_f32(-2 * GELU_SCALE * GELU_CUBE)));
}

// For the vectors x0 .. x3: e0 .. e3 = exp(-2 s), and their gates gate0 .. gate3.
#define TANH_GATES                                                                                 \
    svint32_t power0, power1, power2, power3;                                                      \
    FOUR(TANH_REDUCE)                                                                              \
    FOUR(TANH_EXP)                                                                                 \
    FOUR(TANH_RECIPROCAL)
#define TANH_REDUCE(j)                                                                             \
    svfloat32_t e##j = exp_reduce_sve(p##j, tanh_exponent_sve(p##j, x##j), &power##j);
#define TANH_EXP(j) e##j = exp_finish_sve(p##j, e##j, power##j);
#define TANH_RECIPROCAL(j)                                                                         \
    svfloat32_t gate##j = reciprocal_sve(p##j, svadd_f32_x(p##j, svdup_n_f32(1.0f), e##j));

// out = GELU(x), tanh approximation
static inline void gelu_tanh_row_sve(float *out, const float *x, size_t n) {
    const size_t vl = svcntw();

#define STORE(j) svst1_f32(p##j, out + at##j, svmul_f32_x(p##j, x##j, gate##j));

    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        TANH_GATES
        FOUR(STORE)
    }
#undef STORE
}

// dout *= GELU'(x). With the gate g = (1 + tanh(s)) / 2:
// GELU' = g + x * 2 g (1 - g) * ds/dx, and 1 - g = exp(-2 s) g.
static inline void gelu_tanh_backward_row_sve(float *dout, const float *x, size_t n) {
    const size_t vl = svcntw();

#define SLOPE(j)                                                                                   \
    svfloat32_t slope##j = svmul_f32_x(p##j, x##j, x##j);                                          \
    slope##j = svmla_f32_x(p##j, svdup_n_f32(2 * GELU_SCALE), slope##j,                            \
                           svdup_n_f32(6 * GELU_SCALE * GELU_CUBE));                               \
    slope##j = svmul_f32_x(p##j, slope##j, x##j);
#define STORE(j)                                                                                   \
    svfloat32_t change##j = svmul_f32_x(p##j, gate##j, svmul_f32_x(p##j, e##j, gate##j));          \
    change##j = svmla_f32_x(p##j, gate##j, slope##j, change##j);                                   \
    svst1_f32(p##j, dout + at##j, svmul_f32_x(p##j, svld1_f32(p##j, dout + at##j), change##j));

    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        TANH_GATES
        FOUR(SLOPE)
        FOUR(STORE)
    }
#undef SLOPE
#undef STORE
}

// ------------------------------------------------------------------------------------------------
// GELU: x times the normal distribution function Phi(x). Its tail Phi(-|x|) is exp(-x^2 / 2) times
// a polynomial of t = 1 / (1 + 0.33 |x|), as in Abramowitz, Stegun 7.1.26, with two more terms,
// fitted for the least maximal error: 3e-9, hence below the rounding errors of about 1e-7.

// 1 if x > 0, else 0; NaN if x is NaN. No comparison: predicates of the shim cannot hold one.
SVE_INLINE svfloat32_t step_sve(svbool_t p, svfloat32_t x) {
    const svfloat32_t large = svdup_n_f32(0x1p100f); // twice: the smallest number is 2^-149
    x = svmul_f32_x(p, svmul_f32_x(p, svmax_f32_x(p, svdup_n_f32(0), x), large), large);
    return svmin_f32_x(p, svdup_n_f32(1), x);
}

SVE_INLINE svfloat32_t tail_polynomial_sve(svbool_t p, svfloat32_t t) {
    svfloat32_t y = svdup_n_f32(4.46499847e-2f);
    y = svmla_f32_x(p, svdup_n_f32(-2.16332942e-1f), y, t);
    y = svmla_f32_x(p, svdup_n_f32(3.22902441e-1f), y, t);
    y = svmla_f32_x(p, svdup_n_f32(-8.06686580e-2f), y, t);
    y = svmla_f32_x(p, svdup_n_f32(1.76056847e-1f), y, t);
    y = svmla_f32_x(p, svdup_n_f32(1.20964088e-1f), y, t);
    y = svmla_f32_x(p, svdup_n_f32(1.32428229e-1f), y, t);
    return svmul_f32_x(p, y, t);
}

// For the vectors x0 .. x3: e0 .. e3 = exp(-x^2 / 2), and tail0 .. tail3 = Phi(-|x|).
#define NORMAL_TAILS                                                                               \
    svint32_t power0, power1, power2, power3;                                                      \
    FOUR(NORMAL_REDUCE)                                                                            \
    FOUR(NORMAL_EXP)                                                                               \
    FOUR(NORMAL_RECIPROCAL)                                                                        \
    FOUR(NORMAL_POLYNOMIAL)
#define NORMAL_REDUCE(j)                                                                           \
    svfloat32_t e##j = svmul_f32_x(p##j, svmul_f32_x(p##j, x##j, x##j), svdup_n_f32(-0.5f));       \
    e##j = exp_reduce_sve(p##j, e##j, &power##j);
#define NORMAL_EXP(j) e##j = exp_finish_sve(p##j, e##j, power##j);
#define NORMAL_RECIPROCAL(j)                                                                       \
    svfloat32_t tail##j =                                                                          \
        svmla_f32_x(p##j, svdup_n_f32(1), svabs_f32_x(p##j, x##j), svdup_n_f32(0.33f));            \
    tail##j = reciprocal_sve(p##j, tail##j);
#define NORMAL_POLYNOMIAL(j) tail##j = svmul_f32_x(p##j, e##j, tail_polynomial_sve(p##j, tail##j));

// out = GELU(x) = max(x, 0) - |x| Phi(-|x|)
static inline void gelu_row_sve(float *out, const float *x, size_t n) {
    const size_t vl = svcntw();

#define STORE(j)                                                                                   \
    svfloat32_t y##j = svmax_f32_x(p##j, x##j, svdup_n_f32(0)); /* of -0 too: 0 */                 \
    y##j = svmls_f32_x(p##j, y##j, svabs_f32_x(p##j, x##j), tail##j);                              \
    svst1_f32(p##j, out + at##j, y##j);

    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        NORMAL_TAILS
        FOUR(STORE)
    }
#undef STORE
}

// dout *= GELU'(x) = Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi). With the step s (1 for x > 0, else 0):
// Phi(x) = s + (1 - 2 s) Phi(-|x|).
static inline void gelu_backward_row_sve(float *dout, const float *x, size_t n) {
    const size_t vl = svcntw();

#define STORE(j)                                                                                   \
    svfloat32_t y##j = step_sve(p##j, x##j);                                                       \
    svfloat32_t sign##j = svmls_f32_x(p##j, svdup_n_f32(1), y##j, svdup_n_f32(2));                 \
    y##j = svmla_f32_x(p##j, y##j, sign##j, tail##j);                                              \
    y##j = svmla_f32_x(p##j, y##j, svmul_f32_x(p##j, x##j, svdup_n_f32(NORMAL_PEAK)), e##j);       \
    svst1_f32(p##j, dout + at##j, svmul_f32_x(p##j, svld1_f32(p##j, dout + at##j), y##j));

    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        NORMAL_TAILS
        FOUR(STORE)
    }
#undef STORE
}

// ------------------------------------------------------------------------------------------------
// ReLU

// out = max(x, 0). The sum turns -0 into 0, whichever of the two svmax has returned.
static inline void relu_row_sve(float *out, const float *x, size_t n) {
    const svfloat32_t zero = svdup_n_f32(0);
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        svfloat32_t y = svmax_f32_x(p, zero, svld1_f32(p, x + i));
        svst1_f32(p, out + i, svadd_f32_x(p, y, zero));
    }
}

static inline void relu_backward_row_sve(float *dout, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += svcntw()) {
        svbool_t p = svwhilelt_b32_u64(i, n);
        svfloat32_t slope = step_sve(p, svld1_f32(p, x + i));
        svst1_f32(p, dout + i, svmul_f32_x(p, svld1_f32(p, dout + i), slope));
    }
}

// ------------------------------------------------------------------------------------------------
// Any of them

// out = activation(x)
static inline void activation_row_sve(float *out, const float *x, Activation activation, size_t n) {
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        gelu_tanh_row_sve(out, x, n);
        break;
    case ACTIVATION_GELU:
        gelu_row_sve(out, x, n);
        break;
    case ACTIVATION_RELU:
        relu_row_sve(out, x, n);
        break;
    case ACTIVATION_NONE:
        memcpy(out, x, n * sizeof *out);
        break;
    }
}

// dout *= activation'(x)
static inline void activation_backward_row_sve(float *dout, const float *x, Activation activation,
                                               size_t n) {
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        gelu_tanh_backward_row_sve(dout, x, n);
        break;
    case ACTIVATION_GELU:
        gelu_backward_row_sve(dout, x, n);
        break;
    case ACTIVATION_RELU:
        relu_backward_row_sve(dout, x, n);
        break;
    case ACTIVATION_NONE:
        break;
    }
}

// ------------------------------------------------------------------------------------------------
// SwiGLU

// For the gates x0 .. x3: e0 .. e3 = exp(-x), and sigmoid0 .. sigmoid3 = 1 / (1 + exp(-x)). Below
// -80, where exp saturates, the gate counts as -80: silu(-80) is -1.4e-33.
#define SIGMOIDS                                                                                   \
    svint32_t power0, power1, power2, power3;                                                      \
    FOUR(SIGMOID_REDUCE)                                                                           \
    FOUR(SIGMOID_EXP)                                                                              \
    FOUR(SIGMOID_RECIPROCAL)
#define SIGMOID_REDUCE(j)                                                                          \
    x##j = svmax_f32_x(p##j, svdup_n_f32(-80), x##j);                                              \
    svfloat32_t e##j = svmul_f32_x(p##j, x##j, svdup_n_f32(-1));                                   \
    e##j = exp_reduce_sve(p##j, e##j, &power##j);
#define SIGMOID_EXP(j) e##j = exp_finish_sve(p##j, e##j, power##j);
#define SIGMOID_RECIPROCAL(j)                                                                      \
    svfloat32_t sigmoid##j = reciprocal_sve(p##j, svadd_f32_x(p##j, svdup_n_f32(1), e##j));

// out = silu(x) up; x: the gates
static inline void swiglu_row_sve(float *out, const float *x, const float *up, size_t n) {
    const size_t vl = svcntw();

#define STORE(j)                                                                                   \
    svfloat32_t y##j = svmul_f32_x(p##j, x##j, sigmoid##j);                                        \
    svst1_f32(p##j, out + at##j, svmul_f32_x(p##j, y##j, svld1_f32(p##j, up + at##j)));

    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        SIGMOIDS
        FOUR(STORE)
    }
#undef STORE
}

// dgate = dout up sigmoid (1 + x (1 - sigmoid)), where 1 - sigmoid = exp(-x) sigmoid;
// dup = dout x sigmoid.
static inline void swiglu_backward_row_sve(float *dgate, float *dup, const float *dout,
                                           const float *x, const float *up, size_t n) {
    const size_t vl = svcntw();

#define STORE(j)                                                                                   \
    svfloat32_t dy##j = svmul_f32_x(p##j, svld1_f32(p##j, dout + at##j), sigmoid##j);              \
    svfloat32_t slope##j = svmul_f32_x(p##j, e##j, sigmoid##j);                                    \
    slope##j = svmla_f32_x(p##j, svdup_n_f32(1), x##j, slope##j);                                  \
    slope##j = svmul_f32_x(p##j, slope##j, svld1_f32(p##j, up + at##j));                           \
    svst1_f32(p##j, dgate + at##j, svmul_f32_x(p##j, dy##j, slope##j));                            \
    svst1_f32(p##j, dup + at##j, svmul_f32_x(p##j, dy##j, x##j));

    for (size_t i = 0; i < n; i += 4 * vl) {
        FOUR(LOAD_X)
        SIGMOIDS
        FOUR(STORE)
    }
#undef STORE
}

#undef LOAD_X
#undef TANH_GATES
#undef TANH_REDUCE
#undef TANH_EXP
#undef TANH_RECIPROCAL
#undef NORMAL_TAILS
#undef NORMAL_REDUCE
#undef NORMAL_EXP
#undef NORMAL_RECIPROCAL
#undef NORMAL_POLYNOMIAL
#undef SIGMOIDS
#undef SIGMOID_REDUCE
#undef SIGMOID_EXP
#undef SIGMOID_RECIPROCAL
#endif
