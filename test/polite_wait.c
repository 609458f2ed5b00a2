// polite_wait.c: a preloaded library (LD_PRELOAD) for tests with more ranks than cores. MPICH waits
// by calling ucp_worker_progress of UCX without end, so that ranks with nothing to do take most of
// the time from the one they wait for: 8 ranks on 2 cores need three times the CPU seconds. Here a
// rank sleeps once it has called in vain for long. MPI libraries without UCX are not affected.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

enum { CALLS_IN_VAIN = 200, SLEEP_MICROSECONDS = 20 };

unsigned ucp_worker_progress(void *worker) {
    static unsigned (*progress)(void *worker);
    static unsigned in_vain;

    if (!progress) {
        progress = (unsigned (*)(void *))dlsym(RTLD_NEXT, "ucp_worker_progress");
    }

    unsigned events = progress(worker);
    in_vain = events ? 0 : in_vain + 1;
    if (in_vain > CALLS_IN_VAIN) {
        usleep(SLEEP_MICROSECONDS);
    }
    return events;
}
