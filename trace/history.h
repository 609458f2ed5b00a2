// history.h: what log.jsonl and restarts.jsonl say of a run: its steps, who computed them, and with
// the order of the data, which step, row and rank read a token.
#ifndef TRACE_HISTORY_H
#define TRACE_HISTORY_H

#include "dataloader.h"
#include "run/log_reader.h"

// The steps of a run after from_step, up to the next resume.
typedef struct {
    size_t from_step, from_samples; // samples read by all ranks before
    size_t global_batch, ranks, dp;
} RunSegment;

typedef struct {
    char path[PATH_LIMIT]; // of the log
    JsonDocument head;     // its first line
    RunSegment *segments;
    size_t count, capacity;
    uint64_t seed;
    size_t seq_len, last_step, samples; // samples that the steps 1 .. last_step read
    bool shuffle;
    char batch_hash
        [SHA256_HEX]; // of the step that trace_run_open was asked for; empty: the log has none
} TraceRun;

// Where the run read a sample.
typedef struct {
    size_t step, row, rank;
} RunPlace;

static inline void trace_run_close(TraceRun *r) {
    json_free(&r->head);
    free(r->segments);
    *r = (TraceRun){0};
}

// Adds what a first line or a line of restarts.jsonl says. Steps after its from_step were done
// again.
static inline bool run_add_segment_(TraceRun *r, const LogReader *log, Error *e) {
    const Json *line = log->line;
    RunSegment segment = {0};
    if (!json_uint(json_get(line, "from_step"), &segment.from_step) ||
        !json_uint(json_get(line, "global_batch"), &segment.global_batch) ||
        !json_uint(json_get(line, "ranks"), &segment.ranks) ||
        !json_uint(json_get(line, "dp"), &segment.dp) || segment.dp == 0 || segment.ranks == 0 ||
        segment.ranks % segment.dp || segment.global_batch == 0 ||
        segment.global_batch % segment.dp || segment.global_batch >> 32 ||
        segment.from_step >> 31) {
        return fail(e, "%s:%zu: has no possible from_step, global_batch, ranks and dp", log->path,
                    (size_t)log->number);
    }
    while (r->count > 1 && r->segments[r->count - 1].from_step >= segment.from_step) {
        r->count--;
    }
    if (r->count > 0) {
        const RunSegment *before = &r->segments[r->count - 1];
        if (before->from_step > segment.from_step) {
            return fail(e, "%s:%zu: resumes from step %zu, which is before the log begins",
                        log->path, (size_t)log->number, segment.from_step);
        }
        segment.from_samples =
            before->from_samples + (segment.from_step - before->from_step) * before->global_batch;
        r->count -= before->from_step == segment.from_step;
    }
    return array_append(&r->segments, &r->capacity, &r->count, &segment, sizeof segment, e);
}

// The segment that step `step` belongs to.
static inline const RunSegment *trace_run_segment(const TraceRun *r, uint64_t step) {
    size_t i = r->count - 1;
    while (i > 0 && r->segments[i].from_step >= step) {
        i--;
    }
    return &r->segments[i];
}

// Samples read before step `step` (> from_step of the first segment).
static inline uint64_t trace_run_position(const TraceRun *r, uint64_t step) {
    const RunSegment *segment = trace_run_segment(r, step);
    return segment->from_samples + (step - 1 - segment->from_step) * segment->global_batch;
}

// Where the sample at `position` of the run was read; false if it was not, or before the log
// begins.
static inline bool trace_run_place(const TraceRun *r, uint64_t position, RunPlace *place) {
    size_t i = r->count - 1;
    while (i > 0 && r->segments[i].from_samples > position) {
        i--;
    }
    const RunSegment *segment = &r->segments[i];
    if (position < segment->from_samples || position >= r->samples) {
        return false;
    }
    uint64_t after = position - segment->from_samples;
    place->step = segment->from_step + 1 + after / segment->global_batch;
    place->row = after % segment->global_batch;
    place->rank =
        place->row / (segment->global_batch / segment->dp) * (segment->ranks / segment->dp);
    return true;
}

static inline bool run_add_head_(TraceRun *r, LogReader *log, Error *e) {
    const Json *options = json_get(log->line, "options");
    uint64_t shuffle;
    if (!json_uint(json_get(log->line, "seq_len"), &r->seq_len) || r->seq_len == 0 ||
        r->seq_len >> 32 || !json_uint(json_get(options, "seed"), &r->seed) ||
        !json_uint(json_get(options, "shuffle"), &shuffle)) {
        return fail(e,
                    "%s:1: is not the first line of a run's log: it has no seq_len, seed and "
                    "shuffle",
                    log->path);
    }
    r->shuffle = shuffle;
    if (!run_add_segment_(r, log, e)) {
        return false;
    }
    r->head = log_reader_take(log);
    return true;
}

// A step says how far the run came. wanted: the step whose batch hash is asked for.
static inline bool run_add_step_(TraceRun *r, const LogReader *log, uint64_t wanted, Error *e) {
    size_t step = log->step, tokens;
    const char *hash = json_string(json_get(log->line, "batch_sha256"));
    if (!log->has_step || !json_uint(json_get(log->line, "tokens"), &tokens) ||
        step <= r->last_step || step >> 31 || tokens % r->seq_len) {
        return fail(e, "%s:%zu: has no \"step\" after %zu, or no possible \"tokens\"", log->path,
                    (size_t)log->number, r->last_step);
    }

    // A log that was lost and restarted in the middle of the run shows its position here.
    RunSegment *segment = &r->segments[0];
    if (r->last_step == 0) {
        segment->from_samples = tokens / r->seq_len - segment->global_batch;
        if (step != segment->from_step + 1 || tokens / r->seq_len < segment->global_batch) {
            return fail(e, "%s:%zu: step %zu cannot be the first after step %zu", log->path,
                        (size_t)log->number, step, segment->from_step);
        }
    }

    r->last_step = step;
    r->samples = tokens / r->seq_len;
    if (step == wanted && hash) {
        snprintf(r->batch_hash, sizeof r->batch_hash, "%s", hash);
    }
    return true;
}

// Reads log.jsonl or restarts.jsonl. A last line without its end was being written when the run was
// killed, and is skipped; any other line that is not a JSON object is an error.
static inline bool run_read_lines_(TraceRun *r, const char *folder, const char *name,
                                   uint64_t wanted, Error *e) {
    LogReader log;
    bool ok = true, restarts = !strcmp(name, "restarts.jsonl");
    if (!log_reader_open(&log, folder, name, e)) {
        return false;
    }
    while (ok && log_reader_next(&log) && log.complete) {
        if (!log.line) {
            ok = fail(e, "%s", log.problem.text);
        } else if (restarts) {
            ok = run_add_segment_(r, &log, e);
        } else if (log.number == 1) {
            ok = run_add_head_(r, &log, e);
        } else if (json_get(log.line, "loss")) {
            ok = run_add_step_(r, &log, wanted, e);
        }
    }
    return log_reader_close(&log, ok ? e : &(Error){0}) && ok;
}

// Reads a run's folder. `step` is the one whose batch_hash is wanted, 0: none. trace_run_close
// releases `r`, after a failure too.
static inline bool trace_run_open(TraceRun *r, const char *folder, uint64_t step, Error *e) {
    char restarts[PATH_LIMIT];
    *r = (TraceRun){0};
    if (!path_format(r->path, e, "%s/log.jsonl", folder) ||
        !path_format(restarts, e, "%s/restarts.jsonl", folder) ||
        !run_read_lines_(r, folder, "log.jsonl", step, e)) {
        return false;
    }
    if (r->count == 0 || r->last_step == 0) {
        return fail(e, "%s: holds no step yet", r->path);
    }
    if (!access(restarts, F_OK) && !run_read_lines_(r, folder, "restarts.jsonl", 0, e)) {
        return false;
    }

    // What was read up to the last step follows from the batches; the log counted it too.
    size_t expected =
        trace_run_position(r, r->last_step) + trace_run_segment(r, r->last_step)->global_batch;
    return expected == r->samples ||
           fail(e, "%s: counts %zu samples up to step %zu, but its batches make %zu", r->path,
                r->samples, r->last_step, expected);
}

// Path of a run's data by an entry of its log: that of the file then read, whatever the working
// folder is now, else what --data had. The caller frees it; NULL if there is no memory.
static inline char *logged_path_(const Json *entry) {
    const char *file = json_string(json_get(entry, "file"));
    bool prepared = json_get(entry, "manifest_sha256"), pair = json_get(entry, "documents");
    if (!file || access(file, F_OK)) {
        return strdup(json_string(json_get(entry, "path")));
    }
    char *path = strdup(file), *end = path ? strrchr(path, prepared ? '/' : '.') : NULL;
    if (end && (prepared || pair)) {
        *end = 0;
    }
    return path;
}

// Opens the data of a run: paths[0 .. count), or as the log has it if count is 0. The log's weights
// and seq_len hold.
static inline bool trace_run_mixture(const TraceRun *r, Mixture *m, const char *const *paths,
                                     size_t count, Error *e) {
    const Json *data = json_get(r->head.root, "data");
    size_t n = data && data->kind == JSON_ARRAY ? data->length : 0;
    if (n == 0 || n > MIXTURE_DATASETS_MAX) {
        return fail(e, "%s: its first line has no list \"data\"", r->path);
    }
    if (count > 0 && count != n) {
        return fail(
            e, "--data: the run read %zu datasets, so give %zu in the order of its --data, not %zu",
            n, n, count);
    }

    char *logged[MIXTURE_DATASETS_MAX] = {0};
    uint64_t weights[MIXTURE_DATASETS_MAX];
    const Json *entry = data->child;
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++, entry = entry->next) {
        ok = (json_string(json_get(entry, "path")) &&
              json_uint(json_get(entry, "weight"), &weights[i]) && weights[i] > 0) ||
             fail(e, "%s: its first line has no path and weight of data %zu", r->path, i);
        ok = ok &&
             ((logged[i] = logged_path_(entry)) || fail(e, "%s: no memory for its paths", r->path));
    }
    ok = ok && mixture_open_paths(m, count > 0 ? paths : (const char *const *)logged, weights, n,
                                  "train", r->seq_len, e);
    for (size_t i = 0; i < n; i++) {
        free(logged[i]);
    }
    return ok;
}

// One reading of a range of tokens: row `place.row` of step `place.step` holds these tokens.
typedef struct {
    RunPlace place;
    size_t first, tokens; // token numbers in the split
} TraceRead;

typedef struct {
    TraceRead *items;
    size_t count, capacity; // zero-initialize; the caller frees items
} TraceReads;

static inline int read_compare_(const void *first, const void *second) {
    const TraceRead *a = first, *b = second;
    const RunPlace *p = &a->place, *q = &b->place;
    return p->step != q->step ? order_u64(p->step, q->step)
           : p->row != q->row ? order_u64(p->row, q->row)
                              : order_u64(a->first, b->first);
}

// Adds every reading of the tokens first .. end - 1 of a dataset by the run, in the order of the
// steps: all samples that hold one of them, in every epoch.
static inline bool trace_reads(const TraceRun *r, const Mixture *m, size_t dataset, uint64_t first,
                               uint64_t end, TraceReads *reads, Error *e) {
    const Dataset *d = &m->items[dataset];
    const uint64_t T = d->seq_len;
    // Sample s holds the tokens s T .. s T + T, the last of which is also the first of sample s
    // + 1.
    uint64_t sample = first < T ? 0 : divide_up(first - T, T);
    for (; first < end && sample < d->samples && sample * T < end; sample++) {
        uint64_t from = sample * T > first ? sample * T : first;
        for (uint64_t epoch = 0;; epoch++) {
            TraceRead read = {.first = from, .tokens = min_u64(end, sample * T + T + 1) - from};
            uint64_t position =
                mixture_position(m, r->seed, r->shuffle, (SampleId){dataset, sample}, epoch);
            if (position >= r->samples) { // positions grow with the epoch
                break;
            }
            if (!trace_run_place(r, position, &read.place)) {
                continue;
            }
            if (!array_append(&reads->items, &reads->capacity, &reads->count, &read, sizeof read,
                              e)) {
                return false;
            }
        }
    }
    if (reads->count > 0) {
        qsort(reads->items, reads->count, sizeof *reads->items, read_compare_);
    }
    return true;
}

#endif
