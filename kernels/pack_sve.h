// pack_sve.h: packing of FP32 matrices into strips of a and panels of b. Depths are padded with
// zeros to multiples of K_GROUP.
#ifndef KERNELS_PACK_SVE_H
#define KERNELS_PACK_SVE_H

#include "kernels/vector_math_sve.h" // defines: SVE_INLINE and the sizes

// Stores element k of four vectors as four neighbors at to + k * to_row, for k < count.
SVE_INLINE void store_quads_sve(float *to, size_t to_row, size_t count, svfloat32_t r0,
                                svfloat32_t r1, svfloat32_t r2, svfloat32_t r3) {
    const svbool_t quad = svwhilelt_b32_u64(0, 4);
    const size_t per_vector = svcntw() / 4;
    svfloat32_t low02 = svzip1_f32(r0, r2), low13 = svzip1_f32(r1, r3);
    svfloat32_t high02 = svzip2_f32(r0, r2), high13 = svzip2_f32(r1, r3);
    svfloat32_t v0 = svzip1_f32(low02, low13), v1 = svzip2_f32(low02, low13);
    svfloat32_t v2 = svzip1_f32(high02, high13), v3 = svzip2_f32(high02, high13);

// v holds the elements k of part number `from` of the vectors, each as four neighbors
#define STORE_QUADS(from, v)                                                                       \
    for (size_t k = from * per_vector; k < (from + 1) * per_vector && k < count; k += 4) {         \
        const size_t left = min_u64(count - k, per_vector);                                        \
        svst1_f32(quad, to + k * to_row, v);                                                       \
        if (left > 1) {                                                                            \
            svst1_f32(quad, to + (k + 1) * to_row, svext_f32(v, v, 4));                            \
        }                                                                                          \
        if (left > 2) {                                                                            \
            svst1_f32(quad, to + (k + 2) * to_row, svext_f32(v, v, 8));                            \
        }                                                                                          \
        if (left > 3) {                                                                            \
            svst1_f32(quad, to + (k + 3) * to_row, svext_f32(v, v, 12));                           \
        }                                                                                          \
        if (per_vector > 4) {                                                                      \
            v = svext_f32(v, v, 16);                                                               \
        }                                                                                          \
    }

    STORE_QUADS(0, v0)
    STORE_QUADS(1, v1)
    STORE_QUADS(2, v2)
    STORE_QUADS(3, v3)
#undef STORE_QUADS
}

// Packs a strip of groups (row, step) from `rows` rows in memory, `row` apart; rows and steps
// beyond are zero.
static inline void pack_rows_sve(float *strip, const float *from, size_t row, size_t rows,
                                 size_t depth) {
    const size_t group = K_GROUP * TILE_ROWS_SVE, complete = depth / K_GROUP * K_GROUP;

    if (rows < TILE_ROWS_SVE || complete < depth) {
        memset(strip, 0, round_up(depth, K_GROUP) * TILE_ROWS_SVE * sizeof *strip);
    }

    // all rows in turn: as many cache misses in flight
    for (size_t k = 0; k < complete; k += K_GROUP, strip += group) {
        for (size_t i = 0; i < rows; i++) {
            memcpy(strip + i * K_GROUP, from + i * row + k, K_GROUP * sizeof *strip);
        }
    }
    for (size_t i = 0; i < rows; i++) {
        memcpy(strip + i * K_GROUP, from + i * row + complete, (depth - complete) * sizeof *strip);
    }
}

// Packs strips of groups (step, row), `next` apart, from `rows` contiguous columns in memory, whose
// elements are `column` apart.
static inline void pack_columns_sve(float *strips, size_t next, const float *from, size_t column,
                                    size_t rows, size_t depth) {
    const size_t complete = rows / TILE_ROWS_SVE, left = rows % TILE_ROWS_SVE;

    if (left) {
        memset(strips + complete * next, 0, depth * TILE_ROWS_SVE * sizeof *strips);
    }

    // all strips in turn: memory is read sequentially
    for (size_t k = 0; k < depth; k++, from += column) {
        float *to = strips + k * TILE_ROWS_SVE;
        for (size_t i = 0; i < complete; i++) {
            memcpy(to + i * next, from + i * TILE_ROWS_SVE, TILE_ROWS_SVE * sizeof *to);
        }
        memcpy(to + complete * next, from + complete * TILE_ROWS_SVE, left * sizeof *to);
    }

    for (size_t i = 0; i < complete + (left > 0); i++) {
        memset(strips + i * next + depth * TILE_ROWS_SVE, 0,
               (round_up(depth, K_GROUP) - depth) * TILE_ROWS_SVE * sizeof *strips);
    }
}

// Packs one step of panels, `next` apart: `columns` of `from`, and zeros beyond. Prefetches the row
// that is `ahead` floats further.
static inline void pack_panels_row_sve(float *to, size_t next, const float *from, size_t columns,
                                       size_t ahead) {
    const size_t vl = svcntw();
    const svbool_t all = svptrue_b32();
    for (size_t j = 0; j < columns; j += 2 * vl, to += next) {
        __builtin_prefetch(from + ahead + j);
        __builtin_prefetch(from + ahead + j + vl);
        svst1_f32(all, to, svld1_f32(svwhilelt_b32_u64(j, columns), from + j));
        svst1_f32(all, to + vl, svld1_f32(svwhilelt_b32_u64(j + vl, columns), from + j + vl));
    }
}

// Packs at most a vector of steps of four columns, each contiguous and `column` apart in memory.
SVE_INLINE void pack_four_columns_sve(float *panel, const float *from, size_t column,
                                      size_t steps) {
    const svbool_t p = svwhilelt_b32_u64(0, steps);
    store_quads_sve(panel, 2 * svcntw(), steps, svld1_f32(p, from), svld1_f32(p, from + column),
                    svld1_f32(p, from + 2 * column), svld1_f32(p, from + 3 * column));
}

// Packs the columns of one panel: four at a time.
static inline void pack_panel_columns_sve(float *panel, const float *from, size_t column,
                                          size_t columns, size_t depth) {
    const size_t vl = svcntw(), width = 2 * vl;
    size_t j = 0;

    for (; j + 4 <= columns; j += 4, panel += 4, from += 4 * column) {
        size_t k = 0;
        for (; k + vl <= depth; k += vl) {
            pack_four_columns_sve(panel + k * width, from + k, column, vl);
        }
        if (k < depth) {
            pack_four_columns_sve(panel + k * width, from + k, column, depth - k);
        }
    }
    for (; j < columns; j++, panel++, from += column) {
        for (size_t k = 0; k < depth; k++) {
            panel[k * width] = from[k];
        }
    }
}

// Packs the strips of `rows` rows of a, which start at a.data, `next` apart.
static inline void pack_fp32_strips_sve(float *strips, size_t next, MatrixView a, size_t rows,
                                        size_t depth) {
    if (a.row == 1) {
        pack_columns_sve(strips, next, a.data, a.column, rows, depth);
        return;
    }
    for (size_t i = 0; i < rows; i += TILE_ROWS_SVE, strips += next) {
        pack_rows_sve(strips, a.data + i * a.row, a.row, min_u64(rows - i, TILE_ROWS_SVE), depth);
    }
}

// Packs the panels of `columns` columns of b, which start at b.data, `next` apart: each (depth, 2
// vectors).
static inline void pack_fp32_panels_sve(float *panels, size_t next, MatrixView b, size_t depth,
                                        size_t columns) {
    const size_t width = 2 * svcntw(), padded = round_up(depth, K_GROUP);

    if (b.column == 1) {
        const float *from = b.data;
        for (size_t k = 0; k < depth; k++, from += b.row) {
            pack_panels_row_sve(panels + k * width, next, from, columns, PACK_AHEAD * b.row);
        }
    }

    for (size_t j = 0; j < columns; j += width, panels += next) {
        if (b.column != 1) {
            if (columns - j < width) {
                memset(panels, 0, padded * width * sizeof *panels);
            }
            pack_panel_columns_sve(panels, b.data + j * b.column, b.column,
                                   min_u64(columns - j, width), depth);
        }
        memset(panels + depth * width, 0, (padded - depth) * width * sizeof *panels);
    }
}

#endif
