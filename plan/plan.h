// plan.h: what a run takes before it runs. Memory: the ledger through which training gets all
// arrays of size, which can also count without giving any. Machine: the figures of a cluster, each
// with where it comes from. Time: the messages of a step in an alpha-beta model, and the step
// itself from the loads of its stages.
//
// The model's shapes are not known here: train_gpt.c fills in what a stage computes and sends.
#ifndef PLAN_H
#define PLAN_H

#include "kernels_sve.h" // defines: allocate_floats, allocated_bytes
#include "mpi_utils.h"
#include "parallel/shared_array.h"
#include "util/json.h"

// ------------------------------------------------------------------------------------------------
// Memory

typedef struct {
    const char *name; // of its kind; several may have the same
    size_t bytes;
    void *data; // NULL: counted here, held elsewhere
} MemoryItem;

// Owner of arrays. A planned one hands out addresses that nobody may touch: the code that allocates
// a run then counts what it would take, and takes nothing.
typedef struct {
    MemoryItem *items;
    size_t count, room;
    bool planned;
} Memory;

// Counts memory that something else holds. False without memory for the note.
static inline bool memory_note(Memory *m, const char *name, size_t bytes, void *data) {
    if (m->count == m->room) {
        size_t room = 2 * m->room + 16;
        MemoryItem *items = realloc(m->items, room * sizeof *items);
        if (!items) {
            return false;
        }
        m->items = items;
        m->room = room;
    }
    m->items[m->count++] = (MemoryItem){name, bytes, data};
    return true;
}

// An array of n floats, zero, that lives until memory_free; NULL if there is not enough.
static inline float *memory_floats(Memory *m, const char *name, size_t n) {
    size_t bytes = n < SIZE_MAX / 8 ? allocated_bytes(n > 0 ? n : 1) : 0;
    if (bytes == 0) {
        return NULL;
    }
    void *data = m->planned ? addresses_reserve(bytes) : (void *)allocate_floats(n > 0 ? n : 1);
    if (data && !memory_note(m, name, bytes, data)) {
        m->planned ? (void)munmap(data, bytes) : free(data);
        return NULL;
    }
    return data;
}

// The same in bytes.
static inline void *memory_take(Memory *m, const char *name, size_t bytes) {
    return memory_floats(m, name, bytes / sizeof(float) + 1);
}

static inline void memory_free(Memory *m) {
    for (size_t i = 0; i < m->count; i++) {
        if (m->items[i].data) {
            m->planned ? (void)munmap(m->items[i].data, m->items[i].bytes) : free(m->items[i].data);
        }
    }
    free(m->items);
    *m = (Memory){.planned = m->planned};
}

static inline size_t memory_total(const Memory *m) {
    size_t bytes = 0;
    for (size_t i = 0; i < m->count; i++) {
        bytes += m->items[i].bytes;
    }
    return bytes;
}

// Joins the items of one name, in the order of their first ones.
static inline void memory_join(const Memory *m, Memory *joined) {
    *joined = (Memory){0};
    for (size_t i = 0; i < m->count; i++) {
        size_t j = 0;
        for (; j < joined->count && strcmp(joined->items[j].name, m->items[i].name); j++) {
        }
        if (j < joined->count) {
            joined->items[j].bytes += m->items[i].bytes;
        } else if (!memory_note(joined, m->items[i].name, m->items[i].bytes, NULL)) {
            return;
        }
    }
}

// Bytes of a line "Name:   123 kB" of /proc/self/status: "VmHWM" is the most memory that this
// process has had, "VmRSS" what it has now. 0 if the system does not say.
static inline size_t process_memory(const char *name) {
    char line[256];
    size_t length = strlen(name);
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (!strncmp(line, name, length) && line[length] == ':') {
            sscanf(line + length + 1, "%llu", &kib);
        }
    }
    if (file) {
        fclose(file);
    }
    return (size_t)kib << 10;
}

// ------------------------------------------------------------------------------------------------
// Machine

typedef struct {
    double value;
    char from[192]; // "measured ...", or the source of a figure that was not
} Figure;

// name, unit, smallest, largest, what it is. Per node, if nothing else is said.
#define MACHINE_FIGURES(X)                                                                         \
    X(cores, "", 1, 1e6, "cores")                                                                  \
    X(ranks_per_node, "", 1, 1e6, "ranks, where --ranks-per-node is not given")                    \
    X(peak_flops, "FLOP/s", 1, 1e18, "single-precision peak")                                      \
    X(efficiency, "of peak", 1e-6, 1, "share of it that forward and backward reach")               \
    X(memory, "B", 1, 1e18, "memory that the ranks can have")                                      \
    X(base_memory, "B a rank", 0, 1e18, "program and MPI before the first array")                  \
    X(memory_bandwidth, "B/s", 1, 1e18, "memory bandwidth")                                        \
    X(latency, "s", 0, 10, "of a message between nodes")                                           \
    X(bandwidth, "B/s", 1, 1e18, "of one link between nodes")                                      \
    X(links, "", 1, 1000, "links that a collective keeps busy at once")                            \
    X(injection, "B/s", 1, 1e18, "all that leaves a node at once")                                 \
    X(node_latency, "s", 0, 10, "of a message inside a node")                                      \
    X(node_bandwidth, "B/s a rank", 1, 1e18, "inside a node, all ranks at once")                   \
    X(overlap, "of it", 0, 1, "share of a transfer that moves on while kernels compute")

#define FIELD_FIGURE(name, ...) Figure name;
typedef struct {
    char name[64];
    MACHINE_FIGURES(FIELD_FIGURE)
} Machine;
#undef FIELD_FIGURE

typedef struct {
    const char *name, *unit;
    double smallest, largest;
    const char *what;
    size_t offset;
} FigureSpec;

#define SPEC_FIGURE(n, u, lo, hi, w) {#n, u, lo, hi, w, offsetof(Machine, n)},
static const FigureSpec machine_figures[] = {MACHINE_FIGURES(SPEC_FIGURE)};
#undef SPEC_FIGURE
enum { MACHINE_FIGURE_COUNT = sizeof machine_figures / sizeof *machine_figures };

static inline Figure *machine_figure(Machine *m, size_t i) {
    return (Figure *)(void *)((char *)m + machine_figures[i].offset);
}

// Fugaku. Sources: A64FX product catalogue (peak), Fugaku Users Guide 1.52 (memory), Programming
// Guide, Processors (STREAM, TofuD), RIKEN's notes on MPI (IMB).
static const char machine_fugaku[] =
    "{\"name\": \"fugaku\","
    "\"cores\": {\"value\": 48, \"from\": \"A64FX: 4 CMGs of 12\"},"
    "\"ranks_per_node\": {\"value\": 4, \"from\": \"one a CMG\"},"
    "\"peak_flops\": {\"value\": 6.7584e12, \"from\": \"A64FX: 64 FLOP a cycle and core, 2.2 GHz, "
    "eco_state=0\"},"
    "\"efficiency\": {\"value\": 0.6, \"from\": \"assumed: own GEMM, not measured on A64FX\"},"
    "\"memory\": {\"value\": 30739333120, \"from\": \"Users Guide: what one job can use\"},"
    "\"base_memory\": {\"value\": 300e6, \"from\": \"assumed: up to 256 peers of 1 MiB in Fujitsu "
    "MPI, and the code\"},"
    "\"memory_bandwidth\": {\"value\": 804e9, \"from\": \"Programming Guide: STREAM triad, 48 "
    "threads, demand "
    "paging\"},"
    "\"latency\": {\"value\": 2e-6, \"from\": \"IMB on Fugaku: a step of a collective; a message "
    "alone takes 1.05 "
    "us\"},"
    "\"bandwidth\": {\"value\": 6.3e9, \"from\": \"IMB on Fugaku: PingPong of 4 MiB on one TofuD "
    "link\"},"
    "\"links\": {\"value\": 1, \"from\": \"assumed: a ring; Fujitsu MPI's trix3 and trix6 use 3 or "
    "6\"},"
    "\"injection\": {\"value\": 38.1e9, \"from\": \"Programming Guide: 6 TNIs, Put measured at "
    "6.35 GB/s each\"},"
    "\"node_latency\": {\"value\": 1e-6, \"from\": \"assumed\"},"
    "\"node_bandwidth\": {\"value\": 20e9, \"from\": \"assumed: copies in HBM2, a sixth of 128 "
    "GB/s between CMGs\"},"
    "\"overlap\": {\"value\": 0.6, \"from\": \"assumed: messages move only when the program calls "
    "MPI\"}}";

// Fills a machine from the text of its file, an object with {"value": number, "from": text} for
// each figure.
static inline bool machine_parse(Machine *m, const char *text, size_t length, const char *path,
                                 Error *e) {
    JsonDocument document;
    if (!json_parse(&document, text, length, path, e)) {
        return false;
    }
    const char *name = json_string(json_get(document.root, "name"));
    bool ok = name || fail(e, "%s: has no text \"name\"", path);
    *m = (Machine){0};
    snprintf(m->name, sizeof m->name, "%s", name ? name : "");
    for (size_t i = 0; ok && i < MACHINE_FIGURE_COUNT; i++) {
        const FigureSpec *spec = &machine_figures[i];
        Figure *figure = machine_figure(m, i);
        const Json *node = json_get(document.root, spec->name);
        const char *from = json_string(json_get(node, "from"));
        ok = (from && json_double(json_get(node, "value"), &figure->value)) ||
             fail(e, "%s: \"%s\" must be {\"value\": number, \"from\": text}: %s", path, spec->name,
                  spec->what);
        ok = ok && ((figure->value >= spec->smallest && figure->value <= spec->largest) ||
                    fail(e, "%s: \"%s\" is %g: must be from %g to %g", path, spec->name,
                         figure->value, spec->smallest, spec->largest));
        snprintf(figure->from, sizeof figure->from, "%s", ok ? from : "");
    }
    json_free(&document);
    return ok;
}

// A machine by its name, "fugaku", or by the path of its file.
static inline bool machine_load(Machine *m, const char *name, Error *e) {
    if (!strcmp(name, "fugaku")) {
        return machine_parse(m, machine_fugaku, strlen(machine_fugaku), "fugaku", e);
    }
    size_t length;
    if (!strchr(name, '/') && !strchr(name, '.')) {
        return fail(e,
                    "--machine %s: is unknown; fugaku is known, others by their file: plan "
                    "--measure writes one",
                    name);
    }
    char *text = read_file(name, 1 << 20, &length, e);
    bool ok = text && machine_parse(m, text, length, name, e);
    free(text);
    return ok;
}

static inline void machine_write(JsonWriter *json, Machine *m) {
    json_put_string(json, "name", m->name);
    for (size_t i = 0; i < MACHINE_FIGURE_COUNT; i++) {
        json_open(json, machine_figures[i].name, '{');
        json_put_double(json, "value", machine_figure(m, i)->value);
        json_put_string(json, "from", machine_figure(m, i)->from);
        json_close(json, '}');
    }
}

// ------------------------------------------------------------------------------------------------
// Messages: alpha-beta model (Hockney 1994; collectives: Thakur, Rabenseifner, Gropp 2005)

// The way between the ranks of a group.
typedef struct {
    double latency, bandwidth; // s, B/s
} Link;

// `ranks` ranks whose numbers are `stride` apart, where consecutive numbers fill nodes of
// `per_node`. A group that leaves its node is as fast as its slowest hop; the groups of a node
// share what the node can send.
static inline Link link_of(const Machine *m, size_t per_node, size_t ranks, size_t stride,
                           double links) {
    size_t inside = stride < per_node ? per_node / stride : 1; // of the group on one node
    if (ranks <= inside && per_node % (ranks * stride) == 0) {
        return (Link){m->node_latency.value, m->node_bandwidth.value};
    }
    double groups = (double)per_node / (double)inside;
    return (Link){m->latency.value, fmin(links * m->bandwidth.value, m->injection.value / groups)};
}

static inline double collective_steps(size_t ranks) {
    return ceil(log2((double)ranks));
}

// Bytes that each of `ranks` sends so that all have all of an array of which each has a piece; a
// reduce-scatter sends as much.
static inline double gather_sent(size_t ranks, double bytes) {
    return bytes * (double)(ranks - 1) / (double)ranks;
}

static inline double gather_seconds(Link link, size_t ranks, double bytes) {
    return ranks < 2 ? 0
                     : collective_steps(ranks) * link.latency +
                           gather_sent(ranks, bytes) / link.bandwidth;
}

// Reduce-scatter, then all-gather.
static inline double sum_seconds(Link link, size_t ranks, double bytes) {
    return 2 * gather_seconds(link, ranks, bytes);
}

static inline double message_seconds(Link link, double bytes) {
    return link.latency + bytes / link.bandwidth;
}

typedef enum {
    TP_SUM,
    TP_GATHER,
    PP_STREAM,
    DP_SHARED,
    DP_SUM,
    DP_SCATTER,
    DP_GATHER,
    TIED_SUM,
    TRAFFIC_KINDS
} TrafficKind;

static const char *const traffic_names[TRAFFIC_KINDS] = {
    "tp: sums of the stream", "tp: softmax sums",     "pp: stream, gradient",
    "dp: inside the node",    "dp: sum of gradients", "dp: gradients scattered",
    "dp: weights gathered",   "pp: tied embedding"};

// Messages of one kind that a rank takes part in, in a step.
typedef struct {
    double calls, bytes; // of MPI, and bytes of the arrays given to it
    double sent;         // bytes that leave the rank
    double seconds;      // as if nothing were hidden
} Traffic;

// ------------------------------------------------------------------------------------------------
// Time of a step

// What one rank of a stage does. Seconds of a micro-batch: arithmetic, sums over the slices,
// waiting for what other stages send.
typedef struct {
    double forward_flops, backward_flops; // of a micro-batch; backward with what it computes again
    double forward_compute, backward_compute; // s
    double forward_tp, backward_tp;           // s
    double forward_pp, backward_pp;           // s
    double update;                            // s: AdamW, norm, zeroing
    Traffic traffic[TRAFFIC_KINDS];           // of a step
} StageLoad;

typedef struct {
    double seconds;         // of a step: the sum of what follows
    double compute, tp, pp; // of the dearest stage
    double bubble;          // it waits for other stages
    double gradients;       // exchanged after backward, not hidden
    double update, gather;  // gather: of weights, not hidden behind the next forward
    size_t dearest;         // stage
    double flops;           // of all stages, one replica and slice
} StepTime;

static inline double slot_of_(const StageLoad *s) {
    return s->forward_compute + s->forward_tp + s->forward_pp + s->backward_compute +
           s->backward_tp + s->backward_pp;
}

// One step of `count` micro-batches over `stages`. 1F1B: the first micro-batch passes through all
// stages and back, and the dearest stage does the others one after another (Narayanan et al. 2019).
// Stage s ends before the first one by what the stages before it take to go back; in that time its
// gradients travel unhindered, before that only as far as `overlap` says, while the last
// micro-batch goes back.
static inline StepTime step_time(const StageLoad *stages, size_t n, size_t count, double overlap) {
    StepTime t = {0};
    double through = 0, end = 0, before = 0;
    for (size_t s = 0; s < n; s++) {
        through += slot_of_(&stages[s]);
        t.dearest = slot_of_(&stages[s]) > slot_of_(&stages[t.dearest]) ? s : t.dearest;
        t.flops += (double)count * (stages[s].forward_flops + stages[s].backward_flops);
    }
    const StageLoad *d = &stages[t.dearest];
    double micro_batches = (double)count, pipe = through + (micro_batches - 1) * slot_of_(d);
    t.compute = micro_batches * (d->forward_compute + d->backward_compute);
    t.tp = micro_batches * (d->forward_tp + d->backward_tp);
    t.pp = micro_batches * (d->forward_pp + d->backward_pp);
    t.bubble = pipe - micro_batches * slot_of_(d);
    for (size_t s = 0; s < n; s++) {
        const StageLoad *l = &stages[s];
        double backward = l->backward_compute + l->backward_tp + l->backward_pp;
        double sum = l->traffic[DP_SHARED].seconds + l->traffic[DP_SUM].seconds +
                     l->traffic[DP_SCATTER].seconds,
               gather = l->traffic[DP_GATHER].seconds;
        double gradients =
            pipe - before + l->traffic[TIED_SUM].seconds + sum - overlap * fmin(sum, backward);
        double weights = gather - overlap * fmin(gather, l->forward_compute);
        if (gradients + l->update + weights > end) {
            end = gradients + l->update + weights;
            t.gradients = gradients - pipe;
            t.update = l->update;
            t.gather = weights;
        }
        before += backward;
    }
    t.seconds = end;
    return t;
}

#endif
