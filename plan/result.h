// result.h: the plan that a training run makes of itself: the planned time of its step before it
// starts, and at its end the plan against what was measured.
#ifndef PLAN_RESULT_H
#define PLAN_RESULT_H

#include "plan/plan.h"
#include "run/log_writer.h" // defines: PlanResult

// Seconds of a step of this run on a machine, by its name or file.
static inline bool planned_step_seconds(const PlannedRun *run, const char *machine,
                                        CountStage count, double *seconds, Error *e) {
    Machine m;
    Plan p;
    if (!machine_load(&m, machine, e) ||
        !machine_knows(&m, machine, (Precision)run->options.precision, e)) {
        return false;
    }
    bool ok = plan_make(&p, run, &m, count, e);
    *seconds = p.time.seconds;
    plan_free(&p);
    return ok;
}

// Bytes of this process at its peak. Shared arrays count for their owner only: its own, own_shared
// bytes (0: there are none), in full, those of its peers not at all. base_shared: shared bytes of
// the process before it had any arrays.
static inline double measured_peak(size_t own_shared, size_t base_shared) {
    size_t peak = process_memory("VmHWM");
    if (own_shared == 0) {
        return (double)peak;
    }
    return (double)(peak + own_shared) - (double)(process_memory("RssShmem") - base_shared);
}

// Collective: memory planned and measured of the rank with the highest peak, and the largest
// relative difference on any rank. base: bytes of this process before it had arrays; arrays: what
// its ledger counts; peak: measured_peak. The times of a step are left to the caller.
static inline PlanResult plan_result(const World *w, size_t base, size_t arrays, double peak) {
    double planned = (double)(base + arrays);
    struct {
        double value;
        int rank;
    } most = {peak, w->rank}, difference = {peak > 0 ? fabs(planned / peak - 1) : 0, w->rank};
    MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_DOUBLE_INT, MPI_MAXLOC, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &difference, 1, MPI_DOUBLE_INT, MPI_MAXLOC, MPI_COMM_WORLD);

    double bytes[2] = {(double)base, planned};
    MPI_Bcast(bytes, 2, MPI_DOUBLE, most.rank, MPI_COMM_WORLD);
    return (PlanResult){.rank = most.rank,
                        .base_bytes = bytes[0],
                        .planned_bytes = bytes[1],
                        .measured_bytes = most.value,
                        .largest_difference = difference.value};
}

static inline void plan_result_print(const PlanResult *r) {
    printf("memory: planned %.1f MiB, measured %.1f MiB (peak, rank %d); largest difference on any "
           "rank %.1f %%\n",
           r->planned_bytes / 0x1p20, r->measured_bytes / 0x1p20, r->rank,
           100 * r->largest_difference);
    if (r->planned_seconds > 0 && r->measured_seconds > 0) {
        printf("step: planned %.1f ms, measured %.1f ms\n", 1e3 * r->planned_seconds,
               1e3 * r->measured_seconds);
    }
}

#endif
