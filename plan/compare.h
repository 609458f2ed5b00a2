// compare.h: plan --run. A finished run is planned from the first line of its log, and set against
// what the last line says was measured.
#ifndef PLAN_COMPARE_H
#define PLAN_COMPARE_H

#include "plan/print.h"
#include "run/log_reader.h"

// Reads the log of a finished run: its first line, which describes the run, and its last, which
// closes it. The caller frees both documents, after a failure too. path: of the log.
static inline bool finished_run_read_(const char *directory, JsonDocument *run, JsonDocument *end,
                                      char path[PATH_LIMIT], Error *e) {
    LogReader reader;
    *end = (JsonDocument){0};
    if (!log_reader_open_run(&reader, run, directory, e)) {
        return false;
    }
    memcpy(path, reader.path, sizeof reader.path);
    while (log_reader_next(&reader)) {
        json_free(end);
        if (reader.kind == LOG_PLAN) {
            *end = log_reader_take(&reader);
        }
    }
    return log_reader_close(&reader, e) &&
           (end->root ||
            fail(e, "%s: its last line has no \"plan\": the run is not finished", path));
}

// The model of logs from before the families: GPT-2 by its sizes alone.
static inline bool gpt2_from_log_(ModelConfig *c, const Json *run, const char *path, Error *e) {
    *c = config_of_family(FAMILY_GPT2);
    const struct {
        const char *key;
        uint64_t most, *value;
    } sizes[] = {{"layers", LAYERS_MOST, &c->layers},
                 {"channels", CHANNELS_MOST, &c->channels},
                 {"heads", HEADS_MOST, &c->heads},
                 {"vocab_size", VOCAB_MOST, &c->vocab_size},
                 {"positions", POSITIONS_MOST, &c->seq_len}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (!json_uint(json_get(run, sizes[i].key), sizes[i].value) || *sizes[i].value < 1 ||
            *sizes[i].value > sizes[i].most) {
            return fail(e, "%s: its first line has no count \"%s\"", path, sizes[i].key);
        }
    }
    config_derive_sizes(c);
    return config_check(c, path, e);
}

// The shape, grid and options of a run from the first line of its log. o: the options of this
// command.
static inline bool planned_run_from_log(PlannedRun *r, const Json *run, const Options *o,
                                        const char *path, Error *e) {
    const Json *options = json_get(run, "options");
    ModelConfig *c = &r->config;
    uint64_t ranks, zero, overlap, share;
    *r = (PlannedRun){.options = *o};
    const Json *model = json_get(run, "model");
    if (!(model ? config_parse(model, path, c, e) : gpt2_from_log_(c, run, path, e))) {
        return false;
    }

    const struct {
        const Json *in;
        const char *key;
        uint64_t largest;
        uint64_t *value;
    } counts[] = {{run, "seq_len", 10000000, &r->T},
                  {run, "global_batch", 100000000, &r->global_batch},
                  {run, "ranks", PLAN_RANKS_MAX, &ranks},
                  {run, "ranks_per_node", PLAN_RANKS_MAX, &r->per_node},
                  {run, "threads", 1000000, &r->threads},
                  {run, "tp", 100000, &r->tp},
                  {run, "pp", 100000, &r->pp},
                  {run, "dp", PLAN_RANKS_MAX, &r->dp},
                  {options, "micro_batch", 1000000, &r->B},
                  {options, "zero", 1, &zero},
                  {options, "recompute_stages", 100000, &r->options.recompute_stages},
                  {options, "overlap", 1, &overlap},
                  {options, "share_memory", 1, &share}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        if (!json_uint(json_get(counts[i].in, counts[i].key), counts[i].value) ||
            *counts[i].value > counts[i].largest) {
            return fail(e, "%s: its first line has no count \"%s\"", path, counts[i].key);
        }
    }
    bool possible = r->T && r->T <= c->seq_len && r->B && r->tp && r->pp && r->dp && r->per_node &&
                    r->threads && ranks == r->tp * r->pp * r->dp;
    if (!possible) {
        return fail(e, "%s: its first line does not describe a possible run", path);
    }

    const char *recompute = json_string(json_get(options, "recompute"));
    const char *reduce_dtype = json_string(json_get(options, "reduce_dtype"));
    const Json *reproducible = json_get(options, "reproducible");
    Options *planned = &r->options;
    planned->recompute =
        recompute && !strcmp(recompute, "layer") ? RECOMPUTE_LAYER : RECOMPUTE_NONE;
    planned->reduce_dtype =
        reduce_dtype && !strcmp(reduce_dtype, "bf16") ? REDUCE_BF16 : REDUCE_FP32;
    planned->reproducible =
        reproducible && reproducible->kind == JSON_BOOL && reproducible->boolean;
    planned->zero = zero;
    planned->overlap = overlap;
    planned->share_memory = share;
    planned->micro_batch = r->B;
    planned->global_batch = r->global_batch;
    return planned_run_check(r, e);
}

static inline void plan_print_difference_(const char *what, double planned, const Json *measured,
                                          double scale, const char *unit) {
    double fact;
    printf("%-28s planned %12.2f %s, ", what, planned / scale, unit);
    if (json_double(measured, &fact) && fact > 0) {
        printf("measured %12.2f %s, %+.1f %%\n", fact / scale, unit, 100 * (planned / fact - 1));
    } else {
        printf("not measured\n");
    }
}

static inline bool compare_run_(const Options *o, const char *directory, const Machine *machine,
                                CountStage count, Error *e) {
    JsonDocument head, end;
    char path[PATH_LIMIT];
    PlannedRun run;
    Plan p = {0};
    bool ok = finished_run_read_(directory, &head, &end, path, e) &&
              planned_run_from_log(&run, head.root, o, path, e) &&
              plan_make(&p, &run, machine, count, e);
    if (ok) {
        const Json *fact = json_get(end.root, "plan");
        double base = 0;
        json_double(json_get(fact, "base_bytes"), &base);
        base = machine ? machine->base_memory.value : base;

        plan_settings(&run, NULL);
        plan_print_difference_("peak memory, largest rank", plan_peak(&p, base),
                               json_get(fact, "measured_bytes"), 0x1p20, "MiB");
        if (machine) {
            plan_print_difference_("step", 1e3 * p.time.seconds, json_get(fact, "measured_step_ms"),
                                   1, "ms ");
        } else {
            printf("no planned step time: give --machine\n");
        }
    }
    plan_free(&p);
    json_free(&head);
    json_free(&end);
    return ok;
}

// Compares each run of --run with its plan. machine: NULL without times.
static inline bool plan_compare(const Options *o, const Machine *machine, CountStage count,
                                Error *e) {
    bool ok = true;
    for (size_t i = 0; ok && i < o->run.count; i++) {
        if (o->run.count > 1) {
            printf("%s\n", o->run.items[i]);
        }
        ok = compare_run_(o, o->run.items[i], machine, count, e);
    }
    return ok;
}

#endif
