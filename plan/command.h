// command.h: the plan command, the public face of this folder.
#ifndef PLAN_COMMAND_H
#define PLAN_COMMAND_H

#include "plan/compare.h"
#include "plan/measure.h"
#include "plan/print.h"
#include "plan/search.h"
#include "run/command_line.h" // defines: EXIT_USAGE

static inline int plan_on_root_(const Options *o, CountStage count, Error *e) {
    Machine m;
    const Machine *machine = o->machine ? &m : NULL;
    PlannedRun run;
    if (machine && !machine_load(&m, o->machine, e)) {
        return EXIT_USAGE;
    }
    if (machine && o->efficiency > 0) {
        bool fp16 = o->precision == PRECISION_FP16;
        figure_set(fp16 ? &m.fp16_efficiency : &m.efficiency, o->efficiency,
                   "stated: --efficiency");
    }
    if (machine && !machine_knows(machine, o->machine, (Precision)o->precision, e)) {
        return EXIT_USAGE;
    }

    if (o->run.count > 0) {
        return plan_compare(o, machine, count, e) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    if (!planned_run_from_options(&run, o, machine, e)) {
        return EXIT_USAGE;
    }
    if (o->search) {
        return plan_search(&run, machine, count, e) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    Plan p;
    bool ok = plan_make(&p, &run, machine, count, e) && plan_print(&p, e);
    plan_free(&p);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

// Collective: runs the command; rank 0 plans, with --measure all ranks measure. Returns the exit
// status. count: counts a stage of a planned run. callbacks: what --measure times.
static inline int plan_command(World *w, const Options *o, CountStage count,
                               const MeasureCallbacks *callbacks) {
    Error e = {0};
    if (o->measure) {
        return plan_measure(w, o, callbacks) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    int status = w->rank == 0 ? plan_on_root_(o, count, &e) : EXIT_SUCCESS;
    return world_check(w, status == EXIT_SUCCESS, &e) ? EXIT_SUCCESS : world_max(w, status);
}

#endif
