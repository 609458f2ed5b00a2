// run_log.h: a run's folder, log.jsonl and restarts.jsonl, read once from beginning to end into
// curves and totals. Memory does not depend on the length of the log.
#ifndef REPORT_RUN_LOG_H
#define REPORT_RUN_LOG_H

#include "report/curves.h"
#include "run/log_reader.h"

enum { RUN_LOG_DATASETS_MAX = 4096 }; // with curves of their own

typedef struct {
    char *name;  // of a dataset
    Curve curve; // validation loss
} DatasetCurve;

// x of all curves is the step, or the tokens seen so far.
typedef struct {
    const char *directory;
    JsonDocument head; // the log's first line
    bool by_tokens;    // the x axis
    Curve loss, grad_norm, lr, tokens_per_s, mfu, comm, val_loss;
    DatasetCurve *val; // validation loss by dataset, where there are several
    size_t val_count, val_capacity;
    Curve *samples; // samples read so far from each training dataset, where there are several
    size_t samples_count;
    Marks skipped, restarts;
    size_t steps, last_step, tokens; // step lines, number of the last, tokens seen by then
    size_t planned_steps;            // --steps, of the last restart if there is one; 0: not known
    double seconds;                  // of all steps in the log
    double best_val;
    size_t best_val_step;
    size_t broken;    // lines that are no JSON object
    size_t misplaced; // lines out of order or of an unknown kind
    bool cut;         // the last line is incomplete
} RunLog;

static inline void run_log_free(RunLog *r) {
    Curve *curves[] = {&r->loss, &r->grad_norm, &r->lr,      &r->tokens_per_s,
                       &r->mfu,  &r->comm,      &r->val_loss};
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++) {
        free(curves[i]->buckets);
    }
    for (size_t i = 0; i < r->val_count; i++) {
        free(r->val[i].name);
        free(r->val[i].curve.buckets);
    }
    for (size_t i = 0; i < r->samples_count; i++) {
        free(r->samples[i].buckets);
    }
    free(r->val);
    free(r->samples);
    json_free(&r->head);
    *r = (RunLog){0};
}

// "source_samples" of a step line. All curves get a point or none: an array that does not consist
// of numbers, or is not as long as the first one, is skipped.
static inline bool run_log_add_samples_(RunLog *r, double x, const Json *samples) {
    size_t i = 0;
    for (const Json *s = samples->child; s; s = s->next) {
        if (!curve_takes(json_double_or(s, NAN))) {
            return true;
        }
    }
    if (!r->samples && samples->length <= RUN_LOG_DATASETS_MAX) {
        r->samples = calloc(samples->length + 1, sizeof *r->samples);
        r->samples_count = r->samples ? samples->length : 0;
        if (!r->samples) {
            return false;
        }
    }
    for (const Json *s = samples->child; s && samples->length == r->samples_count; s = s->next) {
        if (!curve_add(&r->samples[i++], x, json_double_or(s, 0))) {
            return false;
        }
    }
    return true;
}

static inline double run_log_x_(const RunLog *r, uint64_t step) {
    return r->by_tokens ? (double)r->tokens : (double)step;
}

// False if there is no memory.
static inline bool run_log_add_step_(RunLog *r, const Json *line, uint64_t step) {
    const Json *skipped = json_get(line, "skipped"), *samples = json_get(line, "source_samples");
    double step_ms = json_double_or(json_get(line, "step_ms"), NAN);
    r->tokens = json_uint_or(json_get(line, "tokens"), r->tokens);
    r->last_step = step;
    r->steps++;
    r->seconds += isfinite(step_ms) ? step_ms / 1e3 : 0;

    double x = run_log_x_(r, step);
    if (skipped && skipped->kind == JSON_BOOL && skipped->boolean) {
        marks_add(&r->skipped, x, step);
    }
    const struct {
        Curve *curve;
        const char *key;
        double factor, divisor;
    } points[] = {{&r->loss, "loss", 1, 1}, {&r->grad_norm, "grad_norm", 1, 1},
                  {&r->lr, "lr", 1, 1},     {&r->tokens_per_s, "tokens_per_s", 1, 1},
                  {&r->mfu, "mfu", 100, 1}, {&r->comm, "comm_ms", 100, step_ms}};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        double value = json_double_or(json_get(line, points[i].key), NAN);
        if (!curve_add(points[i].curve, x, points[i].factor * value / points[i].divisor)) {
            return false;
        }
    }
    return !samples || samples->kind != JSON_ARRAY || run_log_add_samples_(r, x, samples);
}

// A member of "val_losses". Datasets beyond RUN_LOG_DATASETS_MAX are left out.
static inline bool run_log_add_val_(RunLog *r, double x, const Json *loss) {
    Error reason;
    size_t i = 0;
    while (i < r->val_count && strcmp(r->val[i].name, loss->key)) {
        i++;
    }
    if (i == RUN_LOG_DATASETS_MAX) {
        return true;
    }
    if (i == r->val_count) {
        DatasetCurve curve = {.name = strdup(loss->key)};
        if (!curve.name || !array_append(&r->val, &r->val_capacity, &r->val_count, &curve,
                                         sizeof curve, &reason)) {
            free(curve.name);
            return false;
        }
    }
    return curve_add(&r->val[i].curve, x, json_double_or(loss, NAN));
}

static inline bool run_log_add_eval_(RunLog *r, const Json *line, uint64_t step) {
    double x = run_log_x_(r, step), loss = json_double_or(json_get(line, "val_loss"), NAN);
    const Json *by_dataset = json_get(line, "val_losses");
    if (isfinite(loss) && (r->val_loss.points == 0 || loss < r->best_val)) {
        r->best_val = loss;
        r->best_val_step = step;
    }
    if (!curve_add(&r->val_loss, x, loss)) {
        return false;
    }
    if (!by_dataset || by_dataset->kind != JSON_OBJECT) {
        return true;
    }
    for (const Json *m = by_dataset->child; m; m = m->next) {
        if (!run_log_add_val_(r, x, m)) {
            return false;
        }
    }
    return true;
}

// Adds a line of the log. Step numbers increase; an eval and the closing line of the plan have the
// number of the step before. False if there is no memory.
static inline bool run_log_add(RunLog *r, const Json *line) {
    const LogLineKind kind = log_line_kind(line);
    uint64_t step = 0;
    const bool has_step = json_uint(json_get(line, "step"), &step);
    if (kind == LOG_STEP && has_step && step > r->last_step) {
        return run_log_add_step_(r, line, step);
    }
    if (kind == LOG_EVAL && has_step && step >= r->last_step) {
        return run_log_add_eval_(r, line, step);
    }
    r->misplaced += kind != LOG_PLAN || !has_step || step < r->last_step;
    return true;
}

// --steps by a line that describes the run; `otherwise` if it does not say.
static inline uint64_t run_log_planned_(const Json *run, uint64_t otherwise) {
    return json_uint_or(json_get(json_get(run, "options"), "steps"), otherwise);
}

// restarts.jsonl, if there is one. Steps that were done again are in the log once; so are their
// tokens.
static inline bool run_log_read_restarts_(RunLog *r, Error *e) {
    char path[PATH_LIMIT];
    LogReader log;
    uint64_t step;
    if (!path_format(path, e, "%s/restarts.jsonl", r->directory)) {
        return false;
    }
    if (access(path, F_OK)) {
        return true;
    }
    if (!log_reader_open(&log, r->directory, "restarts.jsonl", e)) {
        return false;
    }
    while (log_reader_next(&log)) {
        if (!log.line) {
            r->broken++;
        } else if (json_uint(json_get(log.line, "from_step"), &step)) {
            double scale = r->by_tokens ? log_tokens_per_step(r->head.root) : 1;
            marks_add(&r->restarts, (double)step * scale, step);
            r->planned_steps = run_log_planned_(log.line, r->planned_steps);
        }
    }
    return log_reader_close(&log, e);
}

// Reads a run. Broken lines are counted, never a reason to stop. run_log_free releases the result;
// after a failure there is nothing to release.
static inline bool run_log_read(RunLog *r, const char *directory, bool by_tokens, Error *e) {
    LogReader log;
    *r = (RunLog){.directory = directory, .by_tokens = by_tokens};
    if (!log_reader_open_run(&log, &r->head, directory, e)) {
        return false;
    }
    r->planned_steps = run_log_planned_(r->head.root, 0);
    bool ok = true;
    while (ok && log_reader_next(&log)) {
        r->cut |= !log.complete;
        r->broken += !log.line && log.complete && log.length > 0;
        ok = !log.line || run_log_add(r, log.line) || fail(e, "%s: no memory to read it", log.path);
    }
    ok = log_reader_close(&log, ok ? e : &(Error){0}) && ok;
    ok = ok && run_log_read_restarts_(r, e);
    if (!ok) {
        run_log_free(r);
    }
    return ok;
}

// Samples read so far, where they are counted by dataset.
static inline double run_log_samples(const RunLog *r) {
    double samples = 0;
    for (size_t s = 0; s < r->samples_count; s++) {
        samples += r->samples[s].last.y;
    }
    return samples;
}

// Mean throughput in tokens per second over all steps in the log; 0 if it is not known.
static inline double run_log_throughput(const RunLog *r) {
    double tokens = (double)r->steps * log_tokens_per_step(r->head.root);
    return r->seconds > 0 ? tokens / r->seconds : 0;
}

#endif
