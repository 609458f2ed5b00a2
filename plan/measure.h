// measure.h: plan --measure. The figures of the machine that the ranks were started on, measured by
// all of them at once as in a run, go into a machine file, with the tables behind them.
#ifndef PLAN_MEASURE_H
#define PLAN_MEASURE_H

#include "kernels/bench.h" // defines: probes, probe_*
#include "kernels_sve.h"
#include "parallel/placement.h"
#include "plan/plan.h"
#include "run/peak_flops.h"

// One layer of the model and its classifier on this rank: what is timed. open makes the layer of a
// run and counts it, collective over the tensor-parallel ranks; NULL on failure, which leaves
// nothing. The world and the run must outlive it. close releases it, but not count->memory.
typedef struct {
    void *(*open)(World *w, const PlannedRun *run, StageCount *count, Error *e);
    void (*block)(void *layer);    // forward and backward
    void (*backward)(void *layer); // backward alone, after `block`
    void (*classifier)(void *layer);
    void (*close)(void *layer);
} MeasureCallbacks;

enum { MEASURE_RUNS = 3 };

// Collective: the largest of all ranks' values.
static inline double largest_of_all_(double x) {
    MPI_Allreduce(MPI_IN_PLACE, &x, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return x;
}

// ------------------------------------------------------------------------------------------------
// Arithmetic and memory

// Collective: seconds of a block and of the classifier, forward and backward, without waiting for
// other tensor-parallel ranks: the best of some runs of the slowest rank. w: the layer's.
static inline void measure_block_(const MeasureCallbacks *callbacks, void *layer, const World *w,
                                  double *block, double *classifier) {
    *block = *classifier = INFINITY;
    for (int run = 0; run < MEASURE_RUNS; run++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = seconds_now() - w->comm_seconds;
        callbacks->block(layer);
        double middle = seconds_now() - w->comm_seconds;
        callbacks->classifier(layer);
        double end = seconds_now() - w->comm_seconds;
        *block = fmin(*block, largest_of_all_(middle - start));
        *classifier = fmin(*classifier, largest_of_all_(end - middle));
    }
}

// Collective: of what could be overlapped of an all-reduce over all ranks and the backward pass of
// a block, the share that is.
static inline double measure_overlap_(const MeasureCallbacks *callbacks, void *layer, World *w) {
    enum { ELEMENTS = 1 << 21, MESSAGES = 4 };
    enum { ALL_REDUCE, BACKWARD, BOTH, CASES };
    double seconds[CASES] = {INFINITY, INFINITY, INFINITY};
    float *x = allocate_floats((size_t)MESSAGES * ELEMENTS);

    for (int run = 0; x && run < CASES * MEASURE_RUNS; run++) {
        MPI_Request requests[MESSAGES];
        int what = run % CASES;
        MPI_Barrier(MPI_COMM_WORLD);
        double start = seconds_now();
        for (int i = 0; what != BACKWARD && i < MESSAGES; i++) {
            MPI_Iallreduce(MPI_IN_PLACE, x + (size_t)i * ELEMENTS, ELEMENTS, MPI_FLOAT, MPI_SUM,
                           MPI_COMM_WORLD, &requests[i]);
        }
        if (what != ALL_REDUCE) {
            callbacks->backward(layer);
        }
        for (int i = 0; what != BACKWARD && i < MESSAGES; i++) {
            message_wait(w, &requests[i]);
        }
        seconds[what] = fmin(seconds[what], largest_of_all_(seconds_now() - start));
    }

    free(x);
    double possible = fmin(seconds[ALL_REDUCE], seconds[BACKWARD]);
    double share = (seconds[ALL_REDUCE] + seconds[BACKWARD] - seconds[BOTH]) / possible;
    return x && share > 0 ? fmin(share, 1) : 0;
}

// Collective: bytes of the process before it has arrays, when its threads and MPI's connections to
// all ranks are there.
static inline double measure_base_(World *w) {
    enum { ELEMENTS = 1 << 14 };
    float x[ELEMENTS] = {0};
    all_reduce_floats(w, MPI_COMM_WORLD, x, ELEMENTS);
    return largest_of_all_((double)process_memory("VmRSS"));
}

// Collective: bytes per second of AdamW on arrays that no cache holds, of all ranks together.
static inline double measure_adamw_(void) {
    enum { ELEMENTS = 1 << 24 };
    double best = INFINITY, rate;
    float *x = allocate_floats((size_t)4 * ELEMENTS);
    for (int run = 0; x && run < MEASURE_RUNS; run++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = seconds_now();
        kernels_sve.adamw(x, x + ELEMENTS, x + (size_t)2 * ELEMENTS, x + (size_t)3 * ELEMENTS,
                          ELEMENTS, 1, 1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 1);
        best = fmin(best, seconds_now() - start);
    }
    free(x);
    rate = 28.0 * ELEMENTS / best;
    MPI_Allreduce(MPI_IN_PLACE, &rate, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return rate;
}

// Collective: peak and efficiency with one precision, on one layer of the model; `overlap` unless
// it is NULL.
static inline bool measure_arithmetic_(World *w, const PlannedRun *run,
                                       const MeasureCallbacks *callbacks, Precision precision,
                                       size_t nodes, Figure *peak_flops, Figure *efficiency,
                                       double *overlap, Error *e) {
    static const char *const names[] = {"FP32", "FP16"};
    double peak = measure_peak_flops(precision, MPI_COMM_WORLD);

    // one layer and the classifier; its data-parallel ranks exchange nothing
    PlannedRun one = *run;
    World alone = *w;
    StageCount count = {0};
    one.config.layers = 1;
    one.dp = 1;
    one.global_batch = run->B;
    one.options.precision = precision;
    one.options.zero = one.options.reproducible = false;
    one.options.recompute = RECOMPUTE_NONE;
    alone.grid.dp = 1, alone.grid.dp_rank = 0;

    void *layer = callbacks->open(&alone, &one, &count, e);
    double block = 0, classifier = 0;
    bool ok = world_check(w, layer != NULL, e);
    if (ok) {
        measure_block_(callbacks, layer, &alone, &block, &classifier);
    }
    if (ok && overlap) {
        *overlap = w->size > 1 ? measure_overlap_(callbacks, layer, w) : 0;
    }
    if (layer) {
        callbacks->close(layer);
    }
    ledger_free(&count.memory);
    if (!ok) {
        return false;
    }

    // the share of peak of the whole model: all its layers and one classifier
    StageLoad load = stage_load(&one, &count, NULL);
    double layers = (double)run->config.layers;
    double rows = (double)(run->B * run->T), vocab = (double)count.shard.vocab.count;
    double head = 6 * rows * (double)run->config.channels * vocab;
    double body = load.forward_flops + load.backward_flops - head;
    double rate = (layers * body + head) / (layers * block + classifier);
    double share = rate / (peak / (double)w->size);

    char text[FIGURE_SOURCE_BYTES];
    snprintf(text, sizeof text,
             "measured: block and classifier, forward and backward, %zu channels, micro-batch %zu "
             "x %zu, tp %zu",
             run->config.channels, run->B, run->T, run->tp);
    figure_set(peak_flops, peak / (double)nodes,
               "measured: the tile of the matrix product on data in L1");
    figure_set(efficiency, fmax(fmin(share, 1), 1e-6), text);
    if (w->rank == 0) {
        printf("block in %s: forward and backward %.3f ms, classifier %.3f ms: %.1f %% of the peak "
               "of %.1f GFLOP/s per rank\n",
               names[precision], 1e3 * block, 1e3 * classifier, 100 * share, 1e-9 * peak / w->size);
    }
    return true;
}

// Collective: arithmetic, memory and overlap. FP16 only where the CPU has it: nobody plans a run
// that is emulated.
static inline bool measure_node_(World *w, const PlannedRun *run, const MeasureCallbacks *callbacks,
                                 Machine *m, size_t nodes, Error *e) {
    double base = measure_base_(w), bandwidth = measure_adamw_(), overlap = 0;
    if (!measure_arithmetic_(w, run, callbacks, PRECISION_FP32, nodes, &m->peak_flops,
                             &m->efficiency, &overlap, e)) {
        return false;
    }
    if (!FP16_NATIVE) {
        figure_set(&m->fp16_peak_flops, 0, "not measured: this CPU has no FP16 arithmetic");
        m->fp16_efficiency = m->fp16_peak_flops;
    } else if (!measure_arithmetic_(w, run, callbacks, PRECISION_FP16, nodes, &m->fp16_peak_flops,
                                    &m->fp16_efficiency, NULL, e)) {
        return false;
    }

    figure_set(&m->memory_bandwidth, bandwidth / (double)nodes,
               "measured: AdamW on arrays of 64 MiB");
    figure_set(&m->base_memory, base,
               "measured: the process before its arrays, with threads and after an all-reduce over "
               "all ranks");
    figure_set(&m->overlap, overlap,
               w->size > 1 ? "measured: all-reduces of 8 MiB during the backward pass of a block"
                           : "not measured: one rank has no messages");
    return true;
}

// ------------------------------------------------------------------------------------------------
// Network

typedef struct {
    size_t bytes;
    double seconds;
} AllReduceTiming;

enum { ALL_REDUCE_SIZES = 8, SMALLEST_ALL_REDUCE = 1 << 10 }; // 1 KiB, 4 KiB, ... 16 MiB

// Collective: seconds of all-reduces over a communicator by their size, of the slowest rank.
static inline bool measure_all_reduce_(World *w, MPI_Comm comm,
                                       AllReduceTiming timings[ALL_REDUCE_SIZES]) {
    size_t largest = (size_t)SMALLEST_ALL_REDUCE << 2 * (ALL_REDUCE_SIZES - 1);
    float *x = allocate_floats(largest / sizeof *x);
    for (size_t i = 0; x && i < ALL_REDUCE_SIZES; i++) {
        AllReduceTiming *t = &timings[i];
        *t = (AllReduceTiming){(size_t)SMALLEST_ALL_REDUCE << 2 * i, INFINITY};
        for (int run = 0; run < 4 * MEASURE_RUNS; run++) {
            MPI_Barrier(MPI_COMM_WORLD);
            double start = seconds_now();
            all_reduce_floats(w, comm, x, t->bytes / sizeof *x);
            t->seconds = fmin(t->seconds, largest_of_all_(seconds_now() - start));
        }
    }
    free(x);
    return x != NULL;
}

// The latency and bandwidth that fit the timings over `ranks` ranks best: least squares of relative
// differences. Returns the largest of these.
static inline double fit_link_(const AllReduceTiming timings[ALL_REDUCE_SIZES], size_t ranks,
                               Link *link) {
    double aa = 0, ab = 0, bb = 0, a1 = 0, b1 = 0, worst = 0;
    for (size_t i = 0; i < ALL_REDUCE_SIZES; i++) {
        double a = 2 * collective_steps(ranks) / timings[i].seconds;
        double b = 2 * gather_sent(ranks, (double)timings[i].bytes) / timings[i].seconds;
        aa += a * a, ab += a * b, bb += b * b, a1 += a, b1 += b;
    }
    double determinant = aa * bb - ab * ab, latency = (a1 * bb - b1 * ab) / determinant;
    latency = latency > 0 ? latency : 0;
    *link = (Link){latency, bb / fmax(b1 - ab * latency, 1e-30 * bb)};

    for (size_t i = 0; i < ALL_REDUCE_SIZES; i++) {
        double model = all_reduce_seconds(*link, ranks, (double)timings[i].bytes);
        worst = fmax(worst, fabs(model / timings[i].seconds - 1));
    }
    return worst;
}

static inline void write_all_reduce_(JsonWriter *json, const char *key,
                                     const AllReduceTiming timings[ALL_REDUCE_SIZES], size_t ranks,
                                     Link link) {
    json_open(json, key, '[');
    for (size_t i = 0; i < ALL_REDUCE_SIZES; i++) {
        double bytes = (double)timings[i].bytes;
        json_open(json, NULL, '{');
        json_put_uint(json, "ranks", ranks);
        json_put_uint(json, "bytes", timings[i].bytes);
        json_put_double(json, "seconds", timings[i].seconds);
        json_put_double(json, "model_seconds", all_reduce_seconds(link, ranks, bytes));
        json_close(json, '}');
    }
    json_close(json, ']');
}

// Collective: times all-reduces over a communicator of `ranks` ranks and fits a link to them. over:
// who they are. tables: gets the timings under `key`. text: the source of the figures.
static inline bool measure_link_(World *w, MPI_Comm comm, size_t ranks, const char *over,
                                 JsonWriter *tables, const char *key, Link *link,
                                 char text[FIGURE_SOURCE_BYTES]) {
    AllReduceTiming timings[ALL_REDUCE_SIZES];
    if (!measure_all_reduce_(w, comm, timings)) {
        return false;
    }
    double worst = fit_link_(timings, ranks, link);
    write_all_reduce_(tables, key, timings, ranks, *link);
    snprintf(text, FIGURE_SOURCE_BYTES,
             "measured: all-reduces of 1 KiB to 16 MiB over %s, fitted within %.0f %%", over,
             100 * worst);
    return true;
}

// Collective: all-reduces within a node, then over the ranks of equal number on all nodes, all of
// these groups at once. tables: gets the timings.
static inline bool measure_network_(World *w, Machine *m, JsonWriter *tables, size_t nodes,
                                    Error *e) {
    Link inside = {0, 1e18};
    size_t node_size = (size_t)w->node_size;
    char over[64], text[FIGURE_SOURCE_BYTES] = "not measured: one rank per node";

    snprintf(over, sizeof over, "%zu ranks of a node", node_size);
    bool ok = node_size == 1 ||
              measure_link_(w, w->node_comm, node_size, over, tables, "sums_inside", &inside, text);
    figure_set(&m->node_latency, inside.latency, text);
    figure_set(&m->node_bandwidth, inside.bandwidth, text);

    MPI_Comm across;
    Link between = inside;
    MPI_Comm_split(MPI_COMM_WORLD, w->node_rank, w->rank, &across);
    snprintf(text, sizeof text, "not measured: only one node; taken from within it");
    snprintf(over, sizeof over, "%zu nodes, %zu at once", nodes, node_size);
    ok = ok && (nodes == 1 ||
                measure_link_(w, across, nodes, over, tables, "sums_between", &between, text));
    MPI_Comm_free(&across);
    figure_set(&m->latency, between.latency, text);
    figure_set(&m->bandwidth, fmin(between.bandwidth, 1e18), text);
    figure_set(&m->injection, fmin(between.bandwidth * w->node_size, 1e18), text);
    figure_set(&m->links, 1, "the bandwidth is that of all links together");

    if (w->rank == 0) {
        printf("all-reduce within a node: %.3g us per step, %.3g GB/s; between nodes: %.3g us, "
               "%.3g GB/s\n",
               1e6 * inside.latency, 1e-9 * inside.bandwidth, 1e6 * between.latency,
               1e-9 * between.bandwidth);
    }
    return world_check(w, ok || fail(e, "no memory to measure all-reduces"), e);
}

// ------------------------------------------------------------------------------------------------
// Matrix products

// Times a probe at a product's shape, prints a line and adds an object.
static inline bool measure_product_(JsonWriter *tables, const KernelProbe *probe,
                                    const char *product, const Shape *s, double peak_of_rank,
                                    Error *e) {
    ProbeArrays arrays;
    if (!probe_create(&arrays, probe, s, FILL_PLAIN, e)) {
        return false;
    }
    double seconds = probe_seconds(probe, &kernels_sve, &arrays, s);
    double rate = 2.0 * (double)(s->B * s->T) * (double)s->C * (double)s->O / seconds;
    probe_free(&arrays);

    printf("  %-24s %-20s %5zu x %5zu x %5zu %9.3f ms %8.1f GFLOP/s %5.1f %% of peak\n",
           probe->name, product, s->B * s->T, s->C, s->O, 1e3 * seconds, 1e-9 * rate,
           100 * rate / peak_of_rank);
    json_open(tables, NULL, '{');
    json_put_string(tables, "kernel", probe->name);
    json_put_string(tables, "product", product);
    json_put_uint(tables, "rows", s->B * s->T);
    json_put_uint(tables, "from", s->C);
    json_put_uint(tables, "to", s->O);
    json_put_double(tables, "flops", rate);
    json_close(tables, '}');
    return true;
}

// On rank 0, while the others wait: forward and backward of the products of a block at the model's
// shapes.
static inline bool measure_products_(JsonWriter *tables, const PlannedRun *run, double peak_of_rank,
                                     Error *e) {
    const ModelConfig *c = &run->config;
    const ModelShard shard = shard_of(c, run->tp, 0, 1, 0);
    const size_t C = c->channels, attention = shard_attention_width(c, &shard);
    const struct {
        const char *name;
        size_t from, to;
    } products[] = {{"qkv", C, shard_qkv_width(c, &shard)},
                    {"attention's output", attention, C},
                    {"mlp, first", C, shard_mlp_width(c, &shard)},
                    {"mlp, second", shard.mlp_channels, C}};
    bool ok = true;
    json_open(tables, "gemm", '[');
    for (size_t i = 0; i < PROBES; i++) {
        const char *name = probes[i].name;
        if (strcmp(name, "matmul_forward") && strcmp(name, "matmul_backward_input") &&
            strcmp(name, "matmul_backward_weight")) {
            continue;
        }
        for (size_t j = 0; ok && j < sizeof products / sizeof *products; j++) {
            const Shape s = {.B = run->B,
                             .T = run->T,
                             .C = products[j].from,
                             .H = 1,
                             .V = 1,
                             .O = products[j].to};
            ok = measure_product_(tables, &probes[i], products[j].name, &s, peak_of_rank, e);
        }
    }
    json_close(tables, ']');
    return ok;
}

// ------------------------------------------------------------------------------------------------
// The machine file

// The figures, then the tables.
static inline bool machine_file_write_(const Machine *m, const JsonWriter *tables, const char *path,
                                       Error *e) {
    JsonWriter json = {.indent = 2};
    json_open(&json, NULL, '{');
    machine_write(&json, m);
    json_append(&json, tables->data, tables->length);
    json_close(&json, '}');
    json_append_text(&json, "\n");
    bool ok = ((!json.failed && !tables->failed) || fail(e, "no memory for %s", path)) &&
              write_file(path, json.data, json.length, e);
    free(json.data);
    return ok;
}

// The run whose shapes are measured: the ranks as they were started, without pipeline.
static inline bool measured_run_(World *w, const Options *o, size_t nodes, PlannedRun *run,
                                 Error *e) {
    Options asked = *o;
    asked.nodes = nodes;
    asked.ranks_per_node = (size_t)w->size / nodes;
    asked.pp = 1;
    asked.global_batch = 0;
    return (o->out || fail(e, "plan --measure needs --out FILE")) &&
           world_make_grid(w, o->tp, 1, e) && planned_run_from_options(run, &asked, NULL, e);
}

// Collective: measures, prints, and on rank 0 writes the machine file --out.
static inline bool plan_measure(World *w, const Options *o, const MeasureCallbacks *callbacks) {
    Error e = {0};
    PlannedRun run;
    Machine m = {0};
    int first_of_node = w->node_rank == 0, nodes;
    MPI_Allreduce(&first_of_node, &nodes, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (!world_check(w, measured_run_(w, o, (size_t)nodes, &run, &e), &e)) {
        return false;
    }

    Placement placement = placement_bind(w, o->bind);
    gethostname(m.name, sizeof m.name - 1);
    figure_set(&m.cores, fmax(1, (double)placement.threads * w->node_size),
               "threads of all ranks on a node");
    figure_set(&m.ranks_per_node, w->node_size, "as started");
    figure_set(&m.memory, (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE),
               "all memory of the node");

    JsonWriter tables = {.indent = 2, .depth = 1, .has_member = true}; // behind the figures
    bool ok = measure_node_(w, &run, callbacks, &m, (size_t)nodes, &e) &&
              measure_network_(w, &m, &tables, (size_t)nodes, &e);
    if (ok) {
        double peak_of_rank = m.peak_flops.value / w->node_size;
        bool done = w->rank != 0 || (measure_products_(&tables, &run, peak_of_rank, &e) &&
                                     machine_file_write_(&m, &tables, o->out, &e));
        ok = world_check(w, done, &e);
    }
    if (ok && w->rank == 0) {
        printf("wrote %s: use it with plan and train as --machine %s\n", o->out, o->out);
    }
    free(tables.data);
    return ok;
}

#endif
