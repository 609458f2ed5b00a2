// plan.h: the plan of a run. A callback counts the memory of each stage; what the stage computes
// and sends follows from that, and with a machine the time of a step.
#ifndef PLAN_PLAN_H
#define PLAN_PLAN_H

#include <omp.h>

#include "model/flops.h"
#include "plan/stage_load.h"
#include "run/model_choice.h"

enum { PLAN_RANKS_MAX = 10000000 };

typedef struct {
    PlannedRun run;
    const Machine *machine; // NULL: without times
    StageCount *counts;     // (pp)
    StageLoad *loads;       // (pp)
    StepTime time;          // with a machine
} Plan;

static inline void plan_free(Plan *p) {
    for (size_t s = 0; p->counts && s < p->run.pp; s++) {
        ledger_free(&p->counts[s].memory);
    }
    free(p->counts);
    free(p->loads);
}

// Whether the batch and the grid are possible: the same refusals as at the start of training.
static inline bool planned_run_check(const PlannedRun *run, Error *e) {
    if (run->global_batch % (run->B * run->dp)) {
        return fail(e,
                    "--global-batch %zu does not divide into micro-batches of %zu on %zu "
                    "data-parallel ranks",
                    run->global_batch, run->B, run->dp);
    }
    return grid_fits(&run->config, run->tp, run->pp, e);
}

// The shape, grid and batch that the options ask for. m: NULL without --machine.
static inline bool planned_run_from_options(PlannedRun *run, const Options *o, const Machine *m,
                                            Error *e) {
    *run = (PlannedRun){.options = *o};
    ModelConfig *c = &run->config;
    if (!(o->init ? config_load(o->init, c, e) : shape_from_options(o, "plan", c, e))) {
        return false;
    }
    if (!c->vocab_size) {
        return fail(e, "plan needs --vocab-size V for a shape without --model or --config");
    }

    run->per_node = o->ranks_per_node ? o->ranks_per_node : m ? (size_t)m->ranks_per_node.value : 1;
    run->threads =
        m ? (size_t)fmax(1, m->cores.value / (double)run->per_node) : (size_t)omp_get_max_threads();
    run->T = o->seq_len ? o->seq_len : c->seq_len;
    run->B = o->micro_batch;
    run->tp = o->tp, run->pp = o->pp;
    size_t ranks = o->nodes * run->per_node;
    if (ranks > PLAN_RANKS_MAX) {
        return fail(e, "--nodes %zu x %zu ranks: plan supports at most %d ranks", o->nodes,
                    run->per_node, PLAN_RANKS_MAX);
    }

    // a search chooses the grid and the micro-batch itself
    if (o->search) {
        run->global_batch = o->global_batch;
        return run->global_batch > 0 ||
               fail(e, "plan --search needs --global-batch N: it chooses the micro-batch");
    }
    if (ranks % (run->tp * run->pp)) {
        return fail(e, "--tp %zu x --pp %zu does not divide the %zu ranks of %zu nodes x %zu ranks",
                    run->tp, run->pp, ranks, o->nodes, run->per_node);
    }
    run->dp = ranks / run->tp / run->pp;
    run->global_batch = o->global_batch ? o->global_batch : run->B * run->dp;
    return planned_run_check(run, e);
}

// Plans a run. machine: NULL to count only; it must outlive the plan. plan_free releases the plan,
// after a failure too.
static inline bool plan_make(Plan *p, const PlannedRun *run, const Machine *machine,
                             CountStage count, Error *e) {
    *p = (Plan){.run = *run,
                .machine = machine,
                .counts = calloc(run->pp, sizeof *p->counts),
                .loads = calloc(run->pp, sizeof *p->loads)};
    bool ok = (p->counts && p->loads) || fail(e, "no memory to plan %zu stages", run->pp);

    for (size_t s = 0; ok && s < run->pp; s++) {
        ok = count(run, s, &p->counts[s], e);
        if (ok) {
            p->loads[s] = stage_load(run, &p->counts[s], machine);
        }
    }
    if (ok && machine) {
        bool overlaps = run->options.overlap && !run->options.reproducible;
        p->time = step_time(p->loads, run->pp, planned_micro_batches(run),
                            overlaps ? machine->overlap.value : 0);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// What a plan comes to

// The stage whose arrays take most.
static inline size_t plan_largest_stage(const Plan *p) {
    size_t largest = 0;
    for (size_t s = 1; s < p->run.pp; s++) {
        if (ledger_total(&p->counts[s].memory) > ledger_total(&p->counts[largest].memory)) {
            largest = s;
        }
    }
    return largest;
}

// Bytes of the largest rank. base: bytes of the program and MPI themselves.
static inline double plan_peak(const Plan *p, double base) {
    return base + (double)ledger_total(&p->counts[plan_largest_stage(p)].memory);
}

// Bytes that each rank of a node can have.
static inline double memory_per_rank(const PlannedRun *run, const Machine *m) {
    return m->memory.value / (double)run->per_node;
}

static inline double plan_tokens_per_second(const Plan *p) {
    return (double)(p->run.global_batch * p->run.T) / p->time.seconds;
}

// Model FLOP utilisation, as the log's "mfu".
static inline double plan_mfu(const Plan *p) {
    double ranks = (double)(p->run.tp * p->run.pp * p->run.dp);
    double node = machine_peak(p->machine, (Precision)p->run.options.precision);
    double peak = node / (double)p->run.per_node * ranks;
    return plan_tokens_per_second(p) * flops_per_token(&p->run.config, p->run.T) / peak;
}

#endif
