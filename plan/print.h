// print.h: a plan as text, and as one JSON object. Both come from the same lists of fields.
#ifndef PLAN_PRINT_H
#define PLAN_PRINT_H

#include "model/tensors.h" // defines: shard_parameters
#include "plan/plan.h"

// ------------------------------------------------------------------------------------------------
// Fields. json: NULL prints them as text.

// What a search chooses. The text is "configuration: tp 2, pp 2, dp 1, ...", spelled like the
// options.
static inline void plan_settings(const PlannedRun *r, JsonWriter *json) {
    char recompute[32];
    const struct {
        const char *key, *text; // NULL: a number
        size_t number;
    } settings[] = {
        {"tp", NULL, r->tp},
        {"pp", NULL, r->pp},
        {"dp", NULL, r->dp},
        {"micro_batch", NULL, r->B},
        {"micro_batches", NULL, planned_micro_batches(r)},
        {"recompute", option_choice_name(&r->options, "recompute", recompute), 0},
        {"recompute_stages", NULL, r->options.recompute_stages},
        {"zero", NULL, r->options.zero},
    };
    const size_t count = sizeof settings / sizeof *settings;

    for (size_t i = 0; json && i < count; i++) {
        if (settings[i].text) {
            json_put_string(json, settings[i].key, settings[i].text);
        } else {
            json_put_uint(json, settings[i].key, settings[i].number);
        }
    }
    for (size_t i = 0; !json && i < count; i++) {
        printf(i > 0 ? ", " : "configuration: ");
        for (const char *c = settings[i].key; *c; c++) {
            putchar(*c == '_' ? '-' : *c);
        }
        if (settings[i].text) {
            printf(" %s", settings[i].text);
        } else {
            printf(" %zu", settings[i].number);
        }
    }
    if (!json) {
        printf("\n");
    }
}

// What a plan with a machine comes to.
static inline void plan_values_(const Plan *p, JsonWriter *json) {
    const StepTime *t = &p->time;
    double peak = plan_peak(p, p->machine->base_memory.value);
    double available = memory_per_rank(&p->run, p->machine);
    const struct {
        const char *key, *description;
        double value, scale; // the text shows value / scale in `unit`
        const char *unit;
    } values[] = {
        {"peak_bytes", "memory: peak of the largest rank", peak, 0x1p20, "MiB"},
        {"rank_bytes", "memory: available per rank", available, 0x1p20, "MiB"},
        {"step_s", "step", t->seconds, 1, "s"},
        {"compute_s", "- arithmetic: operations / (peak x efficiency)", t->compute, 1, "s"},
        {"tp_s", "- exposed TP communication", t->tp, 1, "s"},
        {"pp_s", "- waiting for other stages' messages", t->pp, 1, "s"},
        {"bubble_s", "- pipeline bubble", t->bubble, 1, "s"},
        {"gradients_s", "- exposed gradient reduction", t->gradients, 1, "s"},
        {"update_s", "- AdamW, norm, zeroing: bytes / memory bandwidth", t->update, 1, "s"},
        {"gather_s", "- exposed parameter all-gather", t->gather, 1, "s"},
        {"tokens_per_s", "throughput", plan_tokens_per_second(p), 1, "tokens/s"},
        {"mfu", "MFU", plan_mfu(p), 0.01, "%"},
    };

    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (json) {
            json_put_double(json, values[i].key, values[i].value);
            continue;
        }
        printf("  %-50s %14.4f %s", values[i].description, values[i].value / values[i].scale,
               values[i].unit);
        if (!strcmp(values[i].unit, "s")) {
            printf(" %8.2f %%", 100 * values[i].value / t->seconds);
        }
        printf("\n");
    }
    if (!json && peak > available) {
        printf("DOES NOT FIT: the peak is more than a rank has\n");
    }
}

// ------------------------------------------------------------------------------------------------
// Text

static inline void plan_print_memory_(const Plan *p) {
    enum { STAGES_SHOWN = 16 };
    const MemoryLedger *largest = &p->counts[plan_largest_stage(p)].memory;
    const Machine *m = p->machine;
    printf("\nmemory of the largest rank, stage %zu [counted by the allocation code]\n",
           plan_largest_stage(p));
    for (size_t i = 0; i < largest->count; i++) {
        printf("  %-26s %12.2f MiB\n", largest->items[i].name,
               (double)largest->items[i].bytes / 0x1p20);
    }
    if (m) {
        printf("  %-26s %12.2f MiB [%s]\n", "program and MPI", m->base_memory.value / 0x1p20,
               m->base_memory.from);
    }
    printf("  %-26s %12.2f MiB%s\n", "total", plan_peak(p, m ? m->base_memory.value : 0) / 0x1p20,
           m ? "" : ", without the program and MPI themselves");

    size_t pp = p->run.pp;
    for (size_t s = 0; s < pp && pp > 1; s++) {
        if (pp > STAGES_SHOWN && s == STAGES_SHOWN / 2) {
            printf("  ... (--json lists all)\n");
            s = pp - 2;
        }
        const StageCount *count = &p->counts[s];
        printf("  stage %-4zu %3zu layers %12zu parameters %10.2f MiB\n", s, count->shard.layers,
               count->parameters, (double)ledger_total(&count->memory) / 0x1p20);
    }
}

static inline void plan_print_traffic_(const Plan *p) {
    printf("\nmessages of a step: the rank that sends most of each kind, and all ranks [calls and "
           "bytes counted%s]\n",
           p->machine ? "; seconds modelled, without overlap" : "");
    for (TrafficKind kind = 0; kind < TRAFFIC_KINDS; kind++) {
        const Traffic *most = &p->loads[0].traffic[kind];
        double total = 0;
        for (size_t s = 0; s < p->run.pp; s++) {
            const Traffic *t = &p->loads[s].traffic[kind];
            most = t->sent > most->sent ? t : most;
            total += t->sent * (double)(p->run.tp * p->run.dp);
        }
        if (most->calls == 0) {
            continue;
        }
        printf("  %-30s %8.0f calls of %10.3f MiB, sends %10.2f MiB, all ranks %10.2f GiB",
               traffic_kinds[kind].description, most->calls, most->bytes / most->calls / 0x1p20,
               most->sent / 0x1p20, total / 0x1p30);
        if (p->machine) {
            printf(", %9.4f s", most->seconds);
        }
        printf("\n");
    }
}

static inline void plan_print_values_(const Plan *p) {
    double budget = p->run.options.tokens_budget, per_day = 86400 * plan_tokens_per_second(p);
    printf("\nmemory and time of a step [time modelled; critical stage %zu]\n",
           p->time.critical_stage);
    plan_values_(p, NULL);
    printf("%.4g tokens per day\n", per_day);
    if (budget > 0) {
        printf("%.4g tokens take %.2f days\n", budget, budget / per_day);
    }
}

static inline void plan_print_machine_(const Machine *m) {
    printf("\nmachine %s: its figures and where they come from\n", m->name);
    for (size_t i = 0; i < MACHINE_FIGURE_COUNT; i++) {
        const Figure *figure = machine_figure(m, i);
        if (figure->from[0]) {
            printf("  %-16s %12.4g %-10s %s [%s]\n", machine_figures[i].name, figure->value,
                   machine_figures[i].unit, machine_figures[i].description, figure->from);
        }
    }
}

static inline void plan_print_text_(const Plan *p) {
    const PlannedRun *r = &p->run;
    const ModelConfig *c = &r->config;
    const ModelShard whole = shard_whole(c);
    printf("model: %zu layers, %zu channels, %zu heads, vocabulary size %zu, %zu parameters\n",
           c->layers, c->channels, c->heads, c->vocab_size, shard_parameters(c, &whole));
    printf("run: %zu ranks, %zu per node, %zu threads each; %zu sequences of %zu tokens per step\n",
           r->tp * r->pp * r->dp, r->per_node, r->threads, r->global_batch, r->T);
    plan_settings(r, NULL);
    plan_print_memory_(p);
    plan_print_traffic_(p);
    if (p->machine) {
        plan_print_values_(p);
        plan_print_machine_(p->machine);
    } else {
        printf("\nno times: give --machine\n");
    }
}

// ------------------------------------------------------------------------------------------------
// JSON

static inline void plan_write_stage_(JsonWriter *json, const StageCount *count,
                                     const StageLoad *load) {
    const MemoryLedger *memory = &count->memory;
    json_open(json, NULL, '{');
    json_put_uint(json, "layers", count->shard.layers);
    json_put_uint(json, "parameters", count->parameters);
    json_put_uint(json, "updated", count->owned);
    json_open(json, "memory", '{');
    for (size_t i = 0; i < memory->count; i++) {
        json_put_uint(json, memory->items[i].name, memory->items[i].bytes);
    }
    json_close(json, '}');
    json_put_uint(json, "bytes", ledger_total(memory));

    json_open(json, "messages", '{');
    for (TrafficKind kind = 0; kind < TRAFFIC_KINDS; kind++) {
        const Traffic *t = &load->traffic[kind];
        if (t->calls > 0) {
            json_open(json, traffic_kinds[kind].key, '{');
            json_put_double(json, "calls", t->calls);
            json_put_double(json, "bytes", t->bytes);
            json_put_double(json, "sent", t->sent);
            json_close(json, '}');
        }
    }
    json_close(json, '}');
    json_close(json, '}');
}

static inline void plan_write_(JsonWriter *json, const Plan *p) {
    json_open(json, NULL, '{');
    plan_settings(&p->run, json);
    json_open(json, "stages", '[');
    for (size_t s = 0; s < p->run.pp; s++) {
        plan_write_stage_(json, &p->counts[s], &p->loads[s]);
    }
    json_close(json, ']');

    if (p->machine) {
        plan_values_(p, json);
        json_open(json, "machine", '{');
        machine_write(json, p->machine);
        json_close(json, '}');
    }
    json_close(json, '}');
}

// Prints a plan, with --json as one line. False without memory for that.
static inline bool plan_print(const Plan *p, Error *e) {
    if (!p->run.options.json) {
        plan_print_text_(p);
        return true;
    }
    JsonWriter json = {0};
    plan_write_(&json, p);
    bool ok = !json.failed || fail(e, "no memory to print the plan");
    if (ok) {
        printf("%s\n", json.data);
    }
    free(json.data);
    return ok;
}

#endif
