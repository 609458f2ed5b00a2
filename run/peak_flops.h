// peak_flops.h: the peak that MFU is a share of.
#ifndef RUN_PEAK_FLOPS_H
#define RUN_PEAK_FLOPS_H

#include <mpi.h>

#include "kernels_sve.h" // defines: tile_flops_sve
#include "util/clock.h"

// Collective over `comm`: FLOP/s of multiply-adds in a precision, all threads of its ranks at
// once, measured with the tile of the matrix product on data in L1; the best of five short runs.
static inline double measure_peak_flops(Precision precision, MPI_Comm comm) {
    enum { ROUNDS = 1000, RUNS = 5 };
    double best = 0, total;
    for (int run = 0; run < RUNS; run++) {
        double flops = 0;
        MPI_Barrier(comm);
        double start = seconds_now();
#pragma omp parallel reduction(+ : flops)
        flops += tile_flops_sve(precision, ROUNDS);
        double rate = flops / (seconds_now() - start);
        best = rate > best ? rate : best;
    }
    MPI_Allreduce(&best, &total, 1, MPI_DOUBLE, MPI_SUM, comm);
    return total;
}

#endif
