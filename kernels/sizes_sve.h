// sizes_sve.h: every size of the fast kernels that is tuned.
//
// A tile of the matrix product is TILE_ROWS_SVE rows x 2 vectors of sums in registers. A64FX: 20
// sums, 2 vectors of b and up to 10 broadcasts fill the 32 registers, and 20 chains of fused
// multiply-adds cover two pipes of 9 cycles latency. AVX-512 needs fewer chains, and batches are
// multiples of 8. AVX2 has 16 registers: 12 sums.
//
// A strip of a, TILE_ROWS_SVE x GEMM_DEPTH (12 or 15 KiB), stays in L1 while the panels of b stream
// from L2: 2 vectors for 20 multiply-adds, a third of the L2 bandwidth of an A64FX core. The panels
// of a thread, GEMM_DEPTH x GEMM_COLUMNS, take about half of the L2 of a core: 0.6 MiB of 1 MiB or
// more with AVX-512, 0.3 MiB of 0.5 MiB on Zen 2 and 3, 0.2 MiB on A64FX, whose 12 cores share 7
// MiB.
#ifndef KERNELS_SIZES_SVE_H
#define KERNELS_SIZES_SVE_H

#if defined __AVX512F__
#define TILE_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
enum { TILE_ROWS_SVE = 8 };
#elif defined __ARM_FEATURE_SVE || defined __ARM_NEON
#define TILE_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9)
enum { TILE_ROWS_SVE = 10 };
#else
#define TILE_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
enum { TILE_ROWS_SVE = 6 };
#endif

#if defined __ARM_FEATURE_SVE
enum { GEMM_COLUMNS = 128 }; // a multiple of 2 vectors of any length
#elif defined __AVX512F__
enum { GEMM_COLUMNS = 384 };
#else
enum { GEMM_COLUMNS = 192 };
#endif

enum {
    K_GROUP = 4,      // steps of k that are packed together: 16 bytes of a row
    GEMM_DEPTH = 384, // elements of k that a strip or panel holds, whole chunks in FP16,
    GEMM_ROWS = 1080, // rows of a that are packed at a time, a multiple of 6, 8 and 10,
    GEMM_DEPTHS = 8,  // and times GEMM_DEPTH

    // Rows of b to prefetch ahead of packing: each is a new cache line, and often a new page.
    PACK_AHEAD = 8,

    MAX_LANES = 64, // floats in the longest vector, 2048 bits

    ROW_LANES = 64, // virtual lanes of a sum along a row,
    ROW_GROUP = 16  // of which a vector holds at most this many
};

#endif
