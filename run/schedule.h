// schedule.h: the learning rate of each step.
#ifndef RUN_SCHEDULE_H
#define RUN_SCHEDULE_H

#include <math.h>

#include "run/options.h"

// Learning rate of step 1 .. steps: linear warm-up to lr, then the schedule down to min_lr at the
// last step.
static inline double learning_rate(const Options *o, size_t step) {
    double lr = o->lr, min_lr = o->min_lr, at = (double)step;
    double warmup = (double)o->warmup_steps, steps = (double)o->steps;
    if (at <= warmup) {
        return lr * at / warmup;
    }

    switch (o->schedule) {
    case SCHEDULE_CONSTANT:
        return lr;
    case SCHEDULE_WSD: { // warm-up, stable, decay (Hu et al. 2024)
        double decay_steps = o->decay_steps ? (double)o->decay_steps : floor(steps / 5);
        double decay_from = fmax(warmup, steps - decay_steps);
        return at <= decay_from ? lr
                                : lr + (min_lr - lr) * (at - decay_from) / (steps - decay_from);
    }
    default: // cosine
        return min_lr + (lr - min_lr) * 0.5 *
                            (1 + cos(3.14159265358979323846 * (at - warmup) / (steps - warmup)));
    }
}

#endif
