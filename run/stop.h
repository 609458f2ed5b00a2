// stop.h: the signals with which schedulers announce the end of a job: SIGTERM and SIGUSR1 (Slurm),
// SIGXCPU (PJM: 10 s before SIGKILL). train finishes the step it is in, saves and stops.
#ifndef RUN_STOP_H
#define RUN_STOP_H

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t stop_signal_; // the last one that came, 0 if none has

static inline void stop_on_signal_(int number) {
    stop_signal_ = number;
}

// From now on these signals ask for a stop. A run that saves nothing (--save-every 0) does not call
// this: there the signals end the process.
static inline void stop_catch_signals(void) {
    const int signals[] = {SIGTERM, SIGUSR1, SIGXCPU};
    struct sigaction action = {.sa_handler = stop_on_signal_, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        sigaction(signals[i], &action, NULL);
    }
}

// Whether this rank was asked to stop.
static inline int stop_was_requested(void) {
    return stop_signal_ != 0;
}

#endif
