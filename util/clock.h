// clock.h: time for measurements.
#ifndef UTIL_CLOCK_H
#define UTIL_CLOCK_H

#include <time.h>

// Seconds on a monotonic clock.
static inline double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
