// machine.h: the figures of a cluster that a plan rests on, each with its source: measured by
// `plan --measure`, published, or assumed. A machine file is one JSON object that holds them.
#ifndef PLAN_MACHINE_H
#define PLAN_MACHINE_H

#include <stddef.h>

#include "kernels_ref.h" // defines: Precision
#include "util/files.h"
#include "util/json.h"

enum { FIGURE_SOURCE_BYTES = 192 };

typedef struct {
    double value;
    char from
        [FIGURE_SOURCE_BYTES]; // "measured: ...", or the source of a figure that was not measured
} Figure;

// name, unit, smallest, largest, description. Per node unless it says otherwise. A figure that may
// be 0 may also be missing.
// clang-format off
#define MACHINE_FIGURES(X)                                                                        \
    X(cores, "", 1, 1e6, "cores")                                                                 \
    X(ranks_per_node, "", 1, 1e6, "ranks, where --ranks-per-node is not given")                   \
    X(peak_flops, "FLOP/s", 1, 1e18, "single-precision peak")                                     \
    X(efficiency, "of peak", 1e-6, 1, "share of peak that forward and backward reach")            \
    X(fp16_peak_flops, "FLOP/s", 0, 1e18, "half-precision peak; 0: not known")                    \
    X(fp16_efficiency, "of peak", 0, 1, "the same share with --precision fp16")                   \
    X(memory, "B", 1, 1e18, "memory available to the ranks")                                      \
    X(base_memory, "B/rank", 0, 1e18, "program and MPI, before the first array")                  \
    X(memory_bandwidth, "B/s", 1, 1e18, "memory bandwidth")                                       \
    X(latency, "s", 0, 10, "of a message between nodes")                                          \
    X(bandwidth, "B/s", 1, 1e18, "of one link between nodes")                                     \
    X(links, "", 1, 1000, "links that a collective keeps busy at once")                           \
    X(injection, "B/s", 1, 1e18, "injection bandwidth: all links together")                       \
    X(node_latency, "s", 0, 10, "of a message within a node")                                     \
    X(node_bandwidth, "B/s/rank", 1, 1e18, "within a node, all ranks at once")                    \
    X(overlap, "of it", 0, 1, "share of a transfer that progresses while kernels compute")
// clang-format on

#define FIGURE_FIELD_(name, ...) Figure name;
typedef struct {
    char name[64];
    MACHINE_FIGURES(FIGURE_FIELD_)
} Machine;
#undef FIGURE_FIELD_

typedef struct {
    const char *name, *unit;
    double smallest, largest;
    const char *description;
    size_t offset;
} FigureSpec;

#define FIGURE_SPEC_(n, u, lo, hi, d) {#n, u, lo, hi, d, offsetof(Machine, n)},
static const FigureSpec machine_figures[] = {MACHINE_FIGURES(FIGURE_SPEC_)};
#undef FIGURE_SPEC_
enum { MACHINE_FIGURE_COUNT = sizeof machine_figures / sizeof *machine_figures };

// Figure i, i < MACHINE_FIGURE_COUNT.
static inline const Figure *machine_figure(const Machine *m, size_t i) {
    return (const Figure *)(const void *)((const char *)m + machine_figures[i].offset);
}

static inline void figure_set(Figure *f, double value, const char *from) {
    f->value = value;
    snprintf(f->from, sizeof f->from, "%s", from);
}

// Fugaku. Sources: A64FX product catalogue (peak), Fugaku Users Guide 1.52 (memory), Programming
// Guide, Processors (STREAM, TofuD), RIKEN's notes on MPI (IMB).
// clang-format off
static const char machine_fugaku[] =
    "{\"name\": \"fugaku\","
    "\"cores\": {\"value\": 48, \"from\": \"A64FX: 4 CMGs of 12\"},"
    "\"ranks_per_node\": {\"value\": 4, \"from\": \"one per CMG\"},"
    "\"peak_flops\": {\"value\": 6.7584e12, \"from\": "
        "\"A64FX: 64 FLOP per cycle and core, 2.2 GHz, eco_state=0\"},"
    "\"efficiency\": {\"value\": 0.6, \"from\": "
        "\"assumed: our matrix product, not measured on A64FX\"},"
    "\"fp16_peak_flops\": {\"value\": 13.5168e12, \"from\": "
        "\"A64FX: 128 FLOP per cycle and core, 2.2 GHz, eco_state=0\"},"
    "\"fp16_efficiency\": {\"value\": 0.5, \"from\": "
        "\"assumed: less than in FP32, for conversion and promotion; not measured\"},"
    "\"memory\": {\"value\": 30739333120, \"from\": \"Users Guide: memory available to a job\"},"
    "\"base_memory\": {\"value\": 300e6, \"from\": "
        "\"assumed: up to 256 peers of 1 MiB in Fujitsu MPI, and the code\"},"
    "\"memory_bandwidth\": {\"value\": 804e9, \"from\": "
        "\"Programming Guide: STREAM triad, 48 threads, demand paging\"},"
    "\"latency\": {\"value\": 2e-6, \"from\": "
        "\"IMB on Fugaku: a step of a collective; a single message takes 1.05 us\"},"
    "\"bandwidth\": {\"value\": 6.3e9, \"from\": "
        "\"IMB on Fugaku: PingPong of 4 MiB on one TofuD link\"},"
    "\"links\": {\"value\": 1, \"from\": "
        "\"assumed: a ring; Fujitsu MPI's trix3 and trix6 use 3 or 6\"},"
    "\"injection\": {\"value\": 38.1e9, \"from\": "
        "\"Programming Guide: 6 TNIs, Put measured at 6.35 GB/s each\"},"
    "\"node_latency\": {\"value\": 1e-6, \"from\": \"assumed\"},"
    "\"node_bandwidth\": {\"value\": 20e9, \"from\": "
        "\"assumed: copies in HBM2, a sixth of 128 GB/s between CMGs\"},"
    "\"overlap\": {\"value\": 0.6, \"from\": "
        "\"assumed: messages progress only when the program calls MPI\"}}";
// clang-format on

// Fills a machine from the text of its file, an object with {"value": number, "from": text} for
// each figure. path: for messages.
static inline bool machine_parse(Machine *m, const char *text, size_t length, const char *path,
                                 Error *e) {
    JsonDocument document;
    if (!json_parse(&document, text, length, path, e)) {
        return false;
    }

    *m = (Machine){0};
    const char *name = json_string(json_get(document.root, "name"));
    bool ok = name || fail(e, "%s: \"name\" must be a text", path);
    snprintf(m->name, sizeof m->name, "%s", name ? name : "");

    for (size_t i = 0; ok && i < MACHINE_FIGURE_COUNT; i++) {
        const FigureSpec *spec = &machine_figures[i];
        const Json *node = json_get(document.root, spec->name);
        const char *from = json_string(json_get(node, "from"));
        double value;
        if (!node && spec->smallest == 0) {
            continue;
        }
        if (!from || !json_double(json_get(node, "value"), &value)) {
            ok = fail(e, "%s: \"%s\" must be {\"value\": number, \"from\": text}: %s", path,
                      spec->name, spec->description);
        } else if (value < spec->smallest || value > spec->largest) {
            ok = fail(e, "%s: \"%s\" is %g: must be from %g to %g", path, spec->name, value,
                      spec->smallest, spec->largest);
        } else {
            figure_set((Figure *)(void *)((char *)m + spec->offset), value, from);
        }
    }
    json_free(&document);
    return ok;
}

// A machine by its name, "fugaku", or by the path of its file.
static inline bool machine_load(Machine *m, const char *name, Error *e) {
    if (!strcmp(name, "fugaku")) {
        return machine_parse(m, machine_fugaku, strlen(machine_fugaku), "fugaku", e);
    }
    if (!strchr(name, '/') && !strchr(name, '.')) {
        return fail(e,
                    "--machine %s: unknown machine; must be fugaku, or the path of a machine file "
                    "as plan --measure writes it",
                    name);
    }

    size_t length;
    char *text = read_file(name, 1 << 20, &length, e);
    bool ok = text && machine_parse(m, text, length, name, e);
    free(text);
    return ok;
}

// Operations per second of a node at its peak; 0: not known for that precision.
static inline double machine_peak(const Machine *m, Precision precision) {
    return precision == PRECISION_FP16 ? m->fp16_peak_flops.value : m->peak_flops.value;
}

// Operations per second that forward and backward reach on it.
static inline double machine_flops(const Machine *m, Precision precision) {
    bool fp16 = precision == PRECISION_FP16;
    return machine_peak(m, precision) * (fp16 ? m->fp16_efficiency.value : m->efficiency.value);
}

// False unless the machine, loaded as `name`, has the figures for a precision.
static inline bool machine_knows(const Machine *m, const char *name, Precision precision,
                                 Error *e) {
    return machine_flops(m, precision) > 0 ||
           fail(e,
                "--machine %s: has no \"fp16_peak_flops\" and \"fp16_efficiency\" to plan "
                "--precision fp16 with; run plan --measure on a machine with FP16 arithmetic",
                name);
}

// Writes the members of a machine file's object.
static inline void machine_write(JsonWriter *json, const Machine *m) {
    json_put_string(json, "name", m->name);
    for (size_t i = 0; i < MACHINE_FIGURE_COUNT; i++) {
        const Figure *figure = machine_figure(m, i);
        json_open(json, machine_figures[i].name, '{');
        json_put_double(json, "value", figure->value);
        json_put_string(json, "from", figure->from);
        json_close(json, '}');
    }
}

#endif
