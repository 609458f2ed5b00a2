// tile_sve.h: the FP32 tile of the matrix product, and how a strip of a meets the panels of b.
//
// Bits: each element is a chain of fused multiply-adds with k ascending, whatever the tiles.
#ifndef KERNELS_TILE_SVE_H
#define KERNELS_TILE_SVE_H

#include "kernels/vector_math_sve.h" // defines: SVE_INLINE, TILE_EACH_ROW and the sizes

// out (TILE_ROWS_SVE, 2 vectors) = start + strip a times panel b. A row of `start` may be that of
// `out`, or the same for all rows (start_row 0). The layout of the strip depends on the kind of
// tile.
typedef void Tile(float *out, size_t out_row, const float *start, size_t start_row, const float *a,
                  const float *b, size_t depth);

// Prefetches the tile to the right of `out`.
SVE_INLINE void prefetch_next_tile_sve(const float *out, size_t out_row) {
    const size_t vl = svcntw();
    for (size_t i = 0; i < TILE_ROWS_SVE; i++) {
        __builtin_prefetch(out + i * out_row + 2 * vl, 1);
        __builtin_prefetch(out + i * out_row + 3 * vl, 1);
    }
}

// Element (row i, step k) of a group is a[i * row_step + k * k_step]; the next group is group_step
// further. An iteration of the loop is half a group: enough to hide the counters and the branch
// behind the multiply-adds.
SVE_INLINE void gemm_tile_sve(float *out, size_t out_row, const float *start, size_t start_row,
                              const float *a, const size_t row_step, const size_t k_step,
                              const size_t group_step, const float *b, size_t depth) {
    const svbool_t all = svptrue_b32();
    const size_t vl = svcntw();

#define START_ROW(i)                                                                               \
    svfloat32_t low##i = svld1_f32(all, start + i * start_row),                                    \
                high##i = svld1_f32(all, start + i * start_row + vl);
#define MULTIPLY_ADD_ROW(i)                                                                        \
    x = svdup_n_f32(a[i * row_step + step * k_step]);                                              \
    IN_REGISTER(x);                                                                                \
    low##i = svmla_f32_m(all, low##i, b_low, x);                                                   \
    high##i = svmla_f32_m(all, high##i, b_high, x);
#define STEP(number)                                                                               \
    {                                                                                              \
        const size_t step = number;                                                                \
        svfloat32_t b_low = svld1_f32(all, b + 2 * step * vl),                                     \
                    b_high = svld1_f32(all, b + (2 * step + 1) * vl), x;                           \
        IN_REGISTER(b_low);                                                                        \
        IN_REGISTER(b_high);                                                                       \
        TILE_EACH_ROW(MULTIPLY_ADD_ROW)                                                            \
    }
#define STORE_ROW(i)                                                                               \
    svst1_f32(all, out + i * out_row, low##i);                                                     \
    svst1_f32(all, out + i * out_row + vl, high##i);

    TILE_EACH_ROW(START_ROW)
    prefetch_next_tile_sve(out, out_row);
    for (size_t k = 0, advance = 2 * k_step; k < round_up(depth, K_GROUP); k += 2) {
        STEP(0)
        STEP(1)
        a += advance;
        b += 4 * vl;
        advance = group_step - advance; // to the other half of the group, or to the next group
    }
    TILE_EACH_ROW(STORE_ROW)

#undef START_ROW
#undef MULTIPLY_ADD_ROW
#undef STEP
#undef STORE_ROW
}

// The tile for packed strips whose groups are (row, step), copied by 16 bytes from rows in memory;
// and for those whose groups are (step, row), copied from columns in memory.
static void tile_of_rows_sve(float *out, size_t out_row, const float *start, size_t start_row,
                             const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, K_GROUP, 1, K_GROUP * TILE_ROWS_SVE, b, depth);
}

static void tile_of_columns_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                const float *a, const float *b, size_t depth) {
    gemm_tile_sve(out, out_row, start, start_row, a, 1, TILE_ROWS_SVE, K_GROUP * TILE_ROWS_SVE, b,
                  depth);
}

// Strips of some rows of a, and the kind of tile that reads them.
typedef struct {
    const float *data;
    size_t next; // from a strip to the next
    Tile *tile;
} Strips;

// Packed panels of b, their columns one after another.
typedef struct {
    const float *data;
    size_t next; // from a panel to the next
} Panels;

// One strip, of at most TILE_ROWS_SVE rows, times the panels of `columns` columns. A tile at an
// edge goes through a complete one on the stack: the only place where edges are handled.
static inline void gemm_strip_sve(float *out, size_t out_row, const float *start, size_t start_row,
                                  Tile *tile, const float *strip, Panels panels, size_t depth,
                                  size_t rows, size_t columns) {
    const size_t width = 2 * svcntw();
    const float *panel = panels.data;
    float edge[TILE_ROWS_SVE * 2 * MAX_LANES];

    for (size_t j = 0; j < columns; j += width, panel += panels.next) {
        size_t n = min_u64(columns - j, width);
        if (rows == TILE_ROWS_SVE && n == width) {
            tile(out + j, out_row, start + j, start_row, strip, panel, depth);
            continue;
        }

        memset(edge, 0, sizeof edge);
        for (size_t i = 0; i < rows; i++) {
            memcpy(edge + i * width, start + i * start_row + j, n * sizeof *edge);
        }
        tile(edge, width, edge, width, strip, panel, depth);
        for (size_t i = 0; i < rows; i++) {
            memcpy(out + i * out_row + j, edge + i * width, n * sizeof *edge);
        }
    }
}

#endif
