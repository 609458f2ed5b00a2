// gemm_sve.h: the matrix product behind all others, out (M, N) = or += a (M, K) b (K, N), packed
// and blocked as in BLIS (Van Zee, van de Geijn 2015), then an epilogue while the rows are in
// cache. a and b are packed so that the tile reads both sequentially: a in strips of TILE_ROWS_SVE
// rows, b in panels of 2 vectors of columns. The precision decides only what is packed and which
// tile reads it: tile_sve.h and pack_sve.h for FP32, fp16_sve.h for FP16.
#ifndef KERNELS_GEMM_SVE_H
#define KERNELS_GEMM_SVE_H

#include <assert.h>
#include <omp.h>

#include "kernels/activation_sve.h" // defines: activation_row_sve, Activation
#include "kernels/fp16_sve.h"       // defines: pack_fp16_strip_sve, pack_fp16_panel_sve
#include "kernels/pack_sve.h"       // defines: pack_fp32_strips_sve, pack_fp32_panels_sve
#include "kernels/tile_sve.h"       // defines: gemm_strip_sve, Panels, Tile
#include "util/memory.h"            // defines: allocate_floats

// Zeros to start a product from, as many as any caller reads.
static const float zeros_sve[(size_t)GEMM_COLUMNS + KEY_BLOCK];

// ------------------------------------------------------------------------------------------------
// Packing in either precision

// Steps of k that a strip or a panel holds.
static inline size_t gemm_depth(Precision precision) {
    return precision == PRECISION_FP16 ? 2 * GEMM_DEPTH : GEMM_DEPTH;
}

// 32-bit elements per row or column for which a packed strip or panel of `depth` steps has room. In
// FP32: complete groups, and one more group that is never read. Without it neighbors would be a
// multiple of 4 KiB apart, and writing one step of all of them would hit a single set of L1. In
// FP16 the groups of factors do that.
static inline size_t packed_depth(Precision precision, size_t depth) {
    return precision == PRECISION_FP32
               ? round_up(depth, K_GROUP) + K_GROUP
               : depth / FP16_CHUNK * packed_chunk(FP16_CHUNK) + packed_chunk(depth % FP16_CHUNK);
}

// The tile that reads the strips packed from a.
static inline Tile *packed_tile_sve(Precision precision, MatrixView a) {
    if (precision == PRECISION_FP16) {
        return a.row == 1 ? fp16_tile_of_columns_sve : fp16_tile_of_rows_sve;
    }
    return a.row == 1 ? tile_of_columns_sve : tile_of_rows_sve;
}

// Packs the strips of a (rows, depth).
static inline Strips pack_strips_sve(Precision precision, float *to, MatrixView a, size_t rows,
                                     size_t depth) {
    const size_t next = TILE_ROWS_SVE * packed_depth(precision, depth);
    if (precision == PRECISION_FP32) {
        pack_fp32_strips_sve(to, next, a, rows, depth);
    }
    for (size_t i = 0; i < rows && precision == PRECISION_FP16; i += TILE_ROWS_SVE) {
        pack_fp16_strip_sve(to + i / TILE_ROWS_SVE * next,
                            (MatrixView){a.data + i * a.row, a.row, a.column},
                            min_u64(rows - i, TILE_ROWS_SVE), depth);
    }
    return (Strips){to, next, packed_tile_sve(precision, a)};
}

// Packs the panels of b (depth, columns).
static inline Panels pack_panels_sve(Precision precision, float *to, MatrixView b, size_t depth,
                                     size_t columns) {
    const size_t width = 2 * svcntw(), next = width * packed_depth(precision, depth);
    if (precision == PRECISION_FP32) {
        pack_fp32_panels_sve(to, next, b, depth, columns);
    }
    for (size_t j = 0; j < columns && precision == PRECISION_FP16; j += width) {
        pack_fp16_panel_sve(to + j / width * next,
                            (MatrixView){b.data + j * b.column, b.row, b.column}, depth,
                            min_u64(columns - j, width));
    }
    return (Panels){to, next};
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
    Precision precision;
    float *strips;
    Tile *tile;
    size_t m0, rows, k0, depth, K;
} PackedBlock;

// Offset of the strip of row i and step k of the block: ordered by gemm_depth, then by rows.
static inline size_t strip_offset(const PackedBlock *p, size_t i, size_t k) {
    const size_t depth = gemm_depth(p->precision);
    return k / depth * packed_depth(p->precision, depth) * round_up(p->rows, TILE_ROWS_SVE) +
           i * packed_depth(p->precision, min_u64(p->depth - k, depth));
}

// Packs the strips of rows first .. end - 1 of a block.
static inline void pack_block_sve(const PackedBlock *p, MatrixView a, size_t first, size_t end) {
    const size_t most = gemm_depth(p->precision);
    for (size_t k = 0; k < p->depth && first < end; k += most) {
        const float *from = a.data + (p->m0 + first) * a.row + (p->k0 + k) * a.column;
        pack_strips_sve(p->precision, p->strips + strip_offset(p, first, k),
                        (MatrixView){from, a.row, a.column}, end - first,
                        min_u64(p->depth - k, most));
    }
}

// Columns j .. j + columns - 1 of out, all rows of a block. A strip stays in L1 while the panels of
// its depth stream by. panels: scratch of this thread, a packed gemm_depth by GEMM_COLUMNS.
static inline void gemm_columns_sve(float *out, size_t N, MatrixView b, const Epilogue *e,
                                    const PackedBlock *p, float *panels, size_t j, size_t columns) {
    const size_t most = gemm_depth(p->precision);
    for (size_t k = 0; k < p->depth; k += most) {
        const size_t depth = min_u64(p->depth - k, most);
        const bool from_out = p->k0 + k > 0 || e->accumulate, last = p->k0 + k + depth == p->K;
        const float *from = b.data + (p->k0 + k) * b.row + j * b.column;
        const Panels packed = pack_panels_sve(p->precision, panels,
                                              (MatrixView){from, b.row, b.column}, depth, columns);

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

// Floats of the panels of one thread.
static inline size_t panels_size_sve(Precision precision) {
    return packed_depth(precision, gemm_depth(precision)) * GEMM_COLUMNS;
}

// What one thread does for a block: it packs its share of the strips for all threads, then computes
// its own columns of out.
static inline void gemm_block_sve(float *out, size_t N, MatrixView a, MatrixView b,
                                  const Epilogue *e, const PackedBlock *p, float *panels) {
    const size_t thread = (size_t)omp_get_thread_num(), threads = (size_t)omp_get_num_threads();
    const size_t width = 2 * svcntw(), first = share_begin(N, width, thread, threads);
    const size_t columns = share_begin(N, width, thread + 1, threads) - first;
    const size_t shares = divide_up(columns, GEMM_COLUMNS);

    pack_block_sve(p, a, share_begin(p->rows, TILE_ROWS_SVE, thread, threads),
                   share_begin(p->rows, TILE_ROWS_SVE, thread + 1, threads));
#pragma omp barrier

    panels += thread * panels_size_sve(p->precision);
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
static inline size_t strips_size_sve(Precision precision, size_t M, size_t K) {
    const size_t depth = gemm_depth(precision);
    const size_t depths = divide_up(min_u64(K, GEMM_DEPTHS * depth), depth);
    return round_up(packed_rows_sve(M) * depths * packed_depth(precision, min_u64(K, depth)),
                    MAX_LANES);
}

// Floats of scratch for a product whose first factor is (M, K).
static inline size_t gemm_scratch_sve(Precision precision, size_t M, size_t K, size_t threads) {
    return strips_size_sve(precision, M, K) + threads * panels_size_sve(precision);
}

// out (M, N) = a (M, K) b (K, N) with the start and the epilogue of e. Threads share the strips of
// a; each packs the panels of its own columns of b.
static inline void gemm_sve(float *out, MatrixView a, MatrixView b, Precision precision, size_t M,
                            size_t N, size_t K, const Epilogue *e) {
    const size_t rows = packed_rows_sve(M), steps = GEMM_DEPTHS * gemm_depth(precision);
    const size_t threads = (size_t)omp_get_max_threads();
    float *strips = pack_scratch(gemm_scratch_sve(precision, M, K, threads));
    float *panels = strips + strips_size_sve(precision, M, K);

#pragma omp parallel
    for (size_t m0 = 0; m0 < M; m0 += rows) {
        for (size_t k0 = 0; k0 < K; k0 += steps) {
            const PackedBlock p = {precision,
                                   strips,
                                   packed_tile_sve(precision, a),
                                   m0,
                                   min_u64(M - m0, rows),
                                   k0,
                                   min_u64(K - k0, steps),
                                   K};
            gemm_block_sve(out, N, a, b, e, &p, panels);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// The peak

// Runs the tile `rounds` times on data in L1; returns the number of floating-point operations.
static inline double tile_flops_sve(Precision precision, size_t rounds) {
    enum { ELEMENTS = 384 }; // at least as many as packed_depth
    _Alignas(256) static const float strip[TILE_ROWS_SVE * ELEMENTS];  // zeros
    _Alignas(256) static const float panel[2 * MAX_LANES * ELEMENTS];  // zeros
    _Alignas(256) float tile[2 * TILE_ROWS_SVE * 2 * MAX_LANES] = {0}; // and the one it prefetches
    const size_t depth = precision == PRECISION_FP16 ? 512 : 256;
    Tile *volatile tile_function = packed_tile_sve(precision, (MatrixView){strip, depth, 1});

    for (size_t i = 0; i < rounds; i++) {
        tile_function(tile, 2 * svcntw(), tile, 2 * svcntw(), strip, panel, depth);
        __asm__ volatile("" ::"r"(tile) : "memory"); // the result counts as read
    }
    return 2.0 * (double)rounds * TILE_ROWS_SVE * 2 * (double)svcntw() * (double)depth;
}

#undef TILE_EACH_ROW
#undef FOUR

#endif
