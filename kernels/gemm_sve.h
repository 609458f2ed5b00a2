// gemm_sve.h: the matrix product behind all others, out (M, N) = or += a (M, K) b (K, N), packed
// and blocked as in BLIS (Van Zee, van de Geijn 2015), then an epilogue while the rows are in
// cache. a and b are packed so that the tile reads both sequentially: a in strips of TILE_ROWS_SVE
// rows, b in panels of 2 vectors of columns. Depths are padded with zeros to multiples of K_GROUP.
//
// Bits: each element is a chain of fused multiply-adds with k ascending, whatever the tiles.
#ifndef KERNELS_GEMM_SVE_H
#define KERNELS_GEMM_SVE_H

#include <assert.h>
#include <omp.h>

#include "kernels/activation_sve.h" // defines: activation_row_sve, Activation
#include "util/memory.h"            // defines: allocate_floats

// Zeros to start a product from, as many as any caller reads.
static const float zeros_sve[(size_t)GEMM_COLUMNS + KEY_BLOCK];

// A matrix with strides: element (i, j) is data[i * row + j * column]. So a transpose is a view
// too.
typedef struct {
    const float *data;
    size_t row, column;
} MatrixView;

// ------------------------------------------------------------------------------------------------
// The tile

// out (TILE_ROWS_SVE, 2 vectors) = start + strip a times panel b. A row of `start` may be that of
// `out`, or the same for all rows (start_row 0). The layout of the strip depends on the kind of
// tile.
typedef void Tile(float *out, size_t out_row, const float *start, size_t start_row, const float *a,
                  const float *b, size_t depth);

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
#define PREFETCH_ROW(i)                                                                            \
    __builtin_prefetch(out + i * out_row + 2 * vl, 1);                                             \
    __builtin_prefetch(out + i * out_row + 3 * vl, 1);
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
    TILE_EACH_ROW(PREFETCH_ROW) // the next tile is to the right
    for (size_t k = 0, advance = 2 * k_step; k < round_up(depth, K_GROUP); k += 2) {
        STEP(0)
        STEP(1)
        a += advance;
        b += 4 * vl;
        advance = group_step - advance; // to the other half of the group, or to the next group
    }
    TILE_EACH_ROW(STORE_ROW)

#undef START_ROW
#undef PREFETCH_ROW
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

// Steps for which a packed strip or panel has room: complete groups, and one more group that is
// never read. Without it neighbors would be a multiple of 4 KiB apart, and writing one step of all
// of them would hit a single set of L1.
static inline size_t packed_depth(size_t depth) {
    return round_up(depth, K_GROUP) + K_GROUP;
}

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

// ------------------------------------------------------------------------------------------------
// Packing

// Stores element k of four vectors as four neighbors at to + k * to_row, for k < count.
static inline void store_quads_sve(float *to, size_t to_row, size_t count, svfloat32_t r0,
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

// Packs the columns of one panel, each contiguous and `column` apart in memory: four at a time.
static inline void pack_panel_columns_sve(float *panel, const float *from, size_t column,
                                          size_t columns, size_t depth) {
    const size_t vl = svcntw(), width = 2 * vl;
    size_t j = 0;

    for (; j + 4 <= columns; j += 4, panel += 4, from += 4 * column) {
        for (size_t k = 0; k < depth; k += vl) {
            svbool_t p = svwhilelt_b32_u64(k, depth);
            store_quads_sve(panel + k * width, width, min_u64(depth - k, vl),
                            svld1_f32(p, from + k), svld1_f32(p, from + column + k),
                            svld1_f32(p, from + 2 * column + k),
                            svld1_f32(p, from + 3 * column + k));
        }
    }
    for (; j < columns; j++, panel++, from += column) {
        for (size_t k = 0; k < depth; k++) {
            panel[k * width] = from[k];
        }
    }
}

// Packs rows k0 .. k0 + depth - 1 of b, columns j0 .. j0 + columns - 1, as consecutive panels
// (depth, 2 vectors); rows and columns beyond are zero.
static inline void pack_panels_sve(float *panels, MatrixView b, size_t k0, size_t depth, size_t j0,
                                   size_t columns) {
    const size_t width = 2 * svcntw(), padded = round_up(depth, K_GROUP),
                 next = width * packed_depth(depth);
    const float *from = b.data + k0 * b.row + j0 * b.column;

    if (b.column == 1) {
        for (size_t k = 0; k < depth; k++, from += b.row) {
            pack_panels_row_sve(panels + k * width, next, from, columns, PACK_AHEAD * b.row);
        }
    }

    for (size_t j = 0; j < columns; j += width, panels += next) {
        if (b.column != 1) {
            if (columns - j < width) {
                memset(panels, 0, next * sizeof *panels);
            }
            pack_panel_columns_sve(panels, from + j * b.column, b.column,
                                   min_u64(columns - j, width), depth);
        }
        memset(panels + depth * width, 0, (padded - depth) * width * sizeof *panels);
    }
}

// ------------------------------------------------------------------------------------------------
// The product

// What the product starts from, and what is done to its rows at the end: at most one of residual,
// act and act_inp.
typedef struct {
    bool accumulate;       // start from out; else
    const float *bias;     // (N), start from it, or from zero if it is NULL
    const float *residual; // (M, N), added
    Activation activation; // of act and act_inp
    float *act;            // (M, N), gets activation(out)
    const float *act_inp;  // (M, N), out is multiplied by the derivative of the activation there
} Epilogue;

// Columns of a row after its last multiply-add; `at` is their place in the (M, N) arrays.
static inline void end_row_sve(float *out, const Epilogue *e, size_t at, size_t columns) {
    if (e->residual) {
        add_row_sve(out, out, e->residual + at, columns);
    } else if (e->act) {
        activation_row_sve(e->act + at, out, e->activation, columns);
    } else if (e->act_inp) {
        activation_backward_row_sve(out, e->act_inp + at, e->activation, columns);
    }
}

// A block of a: rows m0 .. m0 + rows - 1 and steps k0 .. k0 + depth - 1 of K, whose strips are
// packed at one time.
typedef struct {
    const float *strips;
    Tile *tile;
    size_t m0, rows, k0, depth, K;
} PackedBlock;

// Offset of the strip of row i and step k of the block: ordered by GEMM_DEPTH, then by rows.
static inline size_t strip_offset(const PackedBlock *p, size_t i, size_t k) {
    return k / GEMM_DEPTH * packed_depth(GEMM_DEPTH) * round_up(p->rows, TILE_ROWS_SVE) +
           i * packed_depth(min_u64(p->depth - k, GEMM_DEPTH));
}

// Packs the strips of rows first .. end - 1 of a block.
static inline void pack_block_sve(float *strips, const PackedBlock *p, MatrixView a, size_t first,
                                  size_t end) {
    for (size_t k = 0; k < p->depth && first < end; k += GEMM_DEPTH) {
        const size_t depth = min_u64(p->depth - k, GEMM_DEPTH);
        const float *from = a.data + p->m0 * a.row + (p->k0 + k) * a.column;
        if (a.row == 1) {
            pack_columns_sve(strips + strip_offset(p, first, k),
                             TILE_ROWS_SVE * packed_depth(depth), from + first, a.column,
                             end - first, depth);
            continue;
        }
        for (size_t i = first; i < end; i += TILE_ROWS_SVE) {
            pack_rows_sve(strips + strip_offset(p, i, k), from + i * a.row, a.row,
                          min_u64(end - i, TILE_ROWS_SVE), depth);
        }
    }
}

// Columns j .. j + columns - 1 of out, all rows of a block. A strip stays in L1 while the panels of
// its depth stream by. panels: scratch of this thread, (GEMM_DEPTH, GEMM_COLUMNS).
static inline void gemm_columns_sve(float *out, size_t N, MatrixView b, const Epilogue *e,
                                    const PackedBlock *p, float *panels, size_t j, size_t columns) {
    for (size_t k = 0; k < p->depth; k += GEMM_DEPTH) {
        const size_t depth = min_u64(p->depth - k, GEMM_DEPTH);
        const bool from_out = p->k0 + k > 0 || e->accumulate, last = p->k0 + k + depth == p->K;
        const Panels packed = {panels, 2 * svcntw() * packed_depth(depth)};

        pack_panels_sve(panels, b, p->k0 + k, depth, j, columns);
        for (size_t i = 0; i < p->rows; i += TILE_ROWS_SVE) {
            const size_t tile_rows = min_u64(p->rows - i, TILE_ROWS_SVE), at = (p->m0 + i) * N + j;
            const float *bias = e->bias ? e->bias + j : zeros_sve;
            const float *start = from_out ? out + at : bias;

            gemm_strip_sve(out + at, N, start, from_out ? N : 0, p->tile,
                           p->strips + strip_offset(p, i, k), packed, depth, tile_rows, columns);
            for (size_t r = 0; r < tile_rows && last; r++) {
                end_row_sve(out + at + r * N, e, at + r * N, columns);
            }
        }
    }
}

// Scratch memory for packing, kept from call to call.
typedef struct {
    float *data;
    size_t floats;
} PackScratch;

static inline PackScratch *pack_scratch_instance(void) {
    static PackScratch scratch;
    return &scratch;
}

// Makes room for `floats` floats of scratch. False if there is not enough memory; the next call may
// ask for less.
static inline bool pack_scratch_reserve(size_t floats) {
    PackScratch *scratch = pack_scratch_instance();
    if (floats > scratch->floats) {
        free(scratch->data);
        scratch->data = allocate_floats(floats);
        scratch->floats = scratch->data ? floats : 0;
    }
    return floats <= scratch->floats;
}

// The scratch of a kernel that needs `floats`. A kernel cannot fail, so a caller that must not run
// out of memory reserves it before. Tests and benchmarks need not.
static inline float *pack_scratch(size_t floats) {
    bool reserved = pack_scratch_reserve(floats);
    assert(reserved && "pack_scratch_reserve has not been called");
    (void)reserved;
    return pack_scratch_instance()->data;
}

// The start of share number `share` when n is divided into `shares` nearly equal ones of complete
// units; it ends where the next one begins.
static inline size_t share_begin(size_t n, size_t unit, size_t share, size_t shares) {
    return min_u64(n, divide_up(n, unit) * share / shares * unit);
}

// What one thread does for a block: it packs its share of the strips for all threads, then computes
// its own columns of out.
static inline void gemm_block_sve(float *out, size_t N, MatrixView a, MatrixView b,
                                  const Epilogue *e, const PackedBlock *p, float *strips,
                                  float *panels) {
    const size_t thread = (size_t)omp_get_thread_num(), threads = (size_t)omp_get_num_threads();
    const size_t width = 2 * svcntw(), first = share_begin(N, width, thread, threads);
    const size_t columns = share_begin(N, width, thread + 1, threads) - first;
    const size_t shares = divide_up(columns, GEMM_COLUMNS);

    pack_block_sve(strips, p, a, share_begin(p->rows, TILE_ROWS_SVE, thread, threads),
                   share_begin(p->rows, TILE_ROWS_SVE, thread + 1, threads));
#pragma omp barrier

    panels += thread * packed_depth(GEMM_DEPTH) * GEMM_COLUMNS;
    for (size_t share = 0; share < shares; share++) {
        const size_t begin = share_begin(columns, width, share, shares),
                     end = share_begin(columns, width, share + 1, shares);
        gemm_columns_sve(out, N, b, e, p, panels, first + begin, end - begin);
    }
#pragma omp barrier
}

// Rows of a that are packed at a time: blocks of M as even as GEMM_ROWS allows.
static inline size_t packed_rows_sve(size_t M) {
    const size_t blocks = divide_up(M, GEMM_ROWS);
    return round_up(divide_up(M, blocks), TILE_ROWS_SVE);
}

// Floats of the strips of a, (M, K), that are packed at a time.
static inline size_t strips_size_sve(size_t M, size_t K) {
    const size_t depths = divide_up(min_u64(K, GEMM_STEPS), GEMM_DEPTH);
    return round_up(packed_rows_sve(M) * depths * packed_depth(min_u64(K, GEMM_DEPTH)), MAX_LANES);
}

// Floats of scratch for a product whose first factor is (M, K).
static inline size_t gemm_scratch_sve(size_t M, size_t K, size_t threads) {
    return strips_size_sve(M, K) + threads * packed_depth(GEMM_DEPTH) * GEMM_COLUMNS;
}

// out (M, N) = a (M, K) b (K, N) with the start and the epilogue of e. Threads share the strips of
// a; each packs the panels of its own columns of b.
static inline void gemm_sve(float *out, MatrixView a, MatrixView b, size_t M, size_t N, size_t K,
                            const Epilogue *e) {
    const size_t rows = packed_rows_sve(M), strips_size = strips_size_sve(M, K);
    float *strips = pack_scratch(gemm_scratch_sve(M, K, (size_t)omp_get_max_threads()));
    Tile *tile = a.row == 1 ? tile_of_columns_sve : tile_of_rows_sve;

#pragma omp parallel
    for (size_t m0 = 0; m0 < M; m0 += rows) {
        for (size_t k0 = 0; k0 < K; k0 += GEMM_STEPS) {
            const PackedBlock p = {
                strips, tile, m0, min_u64(M - m0, rows), k0, min_u64(K - k0, GEMM_STEPS), K};
            gemm_block_sve(out, N, a, b, e, &p, strips, strips + strips_size);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// The peak

// Runs the tile `rounds` times on data in L1; returns the number of floating-point operations.
static inline double tile_flops_sve(size_t rounds) {
    enum { FLOPS_DEPTH = 256 };
    _Alignas(256) static const float strip[TILE_ROWS_SVE * FLOPS_DEPTH]; // zeros
    _Alignas(256) static const float panel[2 * MAX_LANES * FLOPS_DEPTH]; // zeros
    _Alignas(256) float tile[2 * TILE_ROWS_SVE * 2 * MAX_LANES] = {0}; // and the one it prefetches
    Tile *volatile tile_function = tile_of_rows_sve; // no copy specialized for zeros

    for (size_t i = 0; i < rounds; i++) {
        tile_function(tile, 2 * svcntw(), tile, 2 * svcntw(), strip, panel, FLOPS_DEPTH);
        __asm__ volatile("" ::"r"(tile) : "memory"); // the result counts as read
    }
    return 2.0 * (double)rounds * TILE_ROWS_SVE * 2 * (double)svcntw() * FLOPS_DEPTH;
}

#undef TILE_EACH_ROW

#endif
