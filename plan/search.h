// search.h: plan --search. Every possible grid, micro-batch, recompute and zero is planned; of
// those that fit into memory the fastest are shown.
#ifndef PLAN_SEARCH_H
#define PLAN_SEARCH_H

#include "plan/print.h"

enum { PROPOSALS = 10 };

typedef struct {
    PlannedRun run;
    double seconds; // of a step
} Proposal;

typedef struct {
    const Machine *machine;
    CountStage count;
    Proposal best[PROPOSALS + 1]; // fastest first, and room for the one that is dropped
    size_t found, tried, fitting;
} Search;

// Keeps a candidate if it is among the fastest.
static inline void search_keep_(Search *s, const PlannedRun *run, double seconds) {
    size_t at = s->found;
    for (; at > 0 && s->best[at - 1].seconds > seconds; at--) {
        s->best[at] = s->best[at - 1];
    }
    s->best[at] = (Proposal){*run, seconds};
    s->found = min_u64(s->found + 1, PROPOSALS);
}

static inline bool search_try_(Search *s, const PlannedRun *run, Error *e) {
    Plan p;
    bool ok = plan_make(&p, run, s->machine, s->count, e);
    s->tried++;
    if (ok && plan_peak(&p, s->machine->base_memory.value) <= memory_per_rank(run, s->machine)) {
        s->fitting++;
        search_keep_(s, run, p.time.seconds);
    }
    plan_free(&p);
    return ok;
}

// All settings of a grid and micro-batch: recompute on no stage, on the first half of them, which
// hold most micro-batches, or on all; zero off and on.
static inline bool search_settings_(Search *s, PlannedRun *run, Error *e) {
    const struct {
        int recompute;
        size_t stages;
    } ways[] = {{RECOMPUTE_NONE, 0}, {RECOMPUTE_LAYER, run->pp / 2}, {RECOMPUTE_LAYER, 0}};
    Options *o = &run->options;
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof ways / sizeof *ways; i++) {
        if (i == 1 && run->pp == 1) {
            continue;
        }
        o->recompute = ways[i].recompute;
        o->recompute_stages = ways[i].stages;
        for (int zero = 0; ok && zero <= (run->dp > 1); zero++) {
            o->zero = zero;
            ok = search_try_(s, run, e);
        }
    }
    return ok;
}

static inline bool search_micro_batches_(Search *s, PlannedRun *run, Error *e) {
    enum { LARGEST = 64 };
    bool ok = true;
    for (run->B = 1; ok && run->B <= LARGEST && run->B * run->dp <= run->global_batch;
         run->B *= 2) {
        run->options.micro_batch = run->B;
        if (run->global_batch % (run->B * run->dp) == 0) {
            ok = search_settings_(s, run, e);
        }
    }
    return ok;
}

static inline bool search_grids_(Search *s, PlannedRun *run, Error *e) {
    size_t ranks = run->options.nodes * run->per_node;
    for (run->tp = 1; run->tp <= run->config.heads && run->tp <= ranks; run->tp++) {
        for (run->pp = 1; run->pp <= run->config.layers && run->tp * run->pp <= ranks; run->pp++) {
            run->dp = ranks / run->tp / run->pp;
            run->B = 1;
            if (ranks % (run->tp * run->pp) == 0 && planned_run_check(run, &(Error){0}) &&
                !search_micro_batches_(s, run, e)) {
                return false;
            }
        }
    }
    return true;
}

static inline void print_proposal_(const Plan *p) {
    const PlannedRun *r = &p->run;
    char recompute[32], text[64];
    option_choice_name(&r->options, "recompute", recompute);
    snprintf(text, sizeof text, "%s", recompute);
    if (r->options.recompute_stages) {
        snprintf(text, sizeof text, "%s, 0-%zu", recompute, r->options.recompute_stages - 1);
    }
    printf("%4zu%4zu%6zu%13zu  %12s%6d%11.4f%11.2f%7.2f%12.0f%8.2f\n", r->tp, r->pp, r->dp, r->B,
           text, r->options.zero, p->time.seconds, 100 * p->time.bubble / p->time.seconds,
           plan_peak(p, p->machine->base_memory.value) / 0x1p30, plan_tokens_per_second(p),
           100 * plan_mfu(p));
}

// run: the model, the ranks and the global batch; the grid and the settings are searched.
static inline bool plan_search(PlannedRun *run, const Machine *machine, CountStage count,
                               Error *e) {
    Search s = {.machine = machine, .count = count};
    if (!machine) {
        return fail(e, "plan --search needs --machine NAME, to know memory and speed");
    }
    if (!search_grids_(&s, run, e)) {
        return false;
    }
    double available = memory_per_rank(run, machine) / 0x1p30;
    if (s.found == 0) {
        return fail(e,
                    "none of %zu configurations fits into %.2f GiB per rank with a global batch "
                    "of %zu: use more nodes, or fewer ranks per node",
                    s.tried, available, run->global_batch);
    }

    bool text = !run->options.json, ok = true;
    if (text) {
        printf("%zu configurations, %zu fit into %.2f GiB per rank; the fastest, times modelled "
               "on %s:\n",
               s.tried, s.fitting, available, machine->name);
        printf("  tp  pp    dp  micro-batch     recompute  zero     step s   bubble %%    GiB    "
               "tokens/s   MFU %%\n");
    }
    for (size_t i = 0; ok && i < s.found; i++) {
        Plan p;
        ok = plan_make(&p, &s.best[i].run, machine, count, e) && (text || plan_print(&p, e));
        if (ok && text) {
            print_proposal_(&p);
        }
        plan_free(&p);
    }
    return ok;
}

#endif
