// loss_sum.h: a sum of token losses that does not depend on the order of its terms, nor on how
// samples are distributed over ranks.
#ifndef MODEL_LOSS_SUM_H
#define MODEL_LOSS_SUM_H

#include <math.h>

#include "mpi_utils.h"

// In whole 2^-24 nats: integers add up to the same in any order. Losses that are not finite are
// counted.
typedef struct {
    int64_t ticks, not_finite;
} LossSum;

// Adds losses (R).
static inline void loss_add(LossSum *sum, const float *losses, size_t R) {
    for (size_t r = 0; r < R; r++) {
        if (isfinite(losses[r])) {
            sum->ticks += llrint((double)fminf(losses[r], 0x1p15f) * 0x1p24);
        } else {
            sum->not_finite++;
        }
    }
}

// Collective: mean over `tokens`, from what the last stage of each data-parallel rank has; NaN if
// any loss is not finite.
static inline double loss_mean(World *w, LossSum sum, double tokens) {
    bool counts = w->grid.tp_rank == 0; // all tensor-parallel ranks have the same
    int64_t sums[2] = {counts ? sum.ticks : 0, counts ? sum.not_finite : 0};
    all_reduce_integers(w, sums, 2);
    return sums[1] ? NAN : (double)sums[0] * 0x1p-24 / tokens;
}

#endif
