// log_writer.h: OUT/log.jsonl, one JSON object a line, each on disk before the next step begins,
// and OUT/restarts.jsonl, one line each time the run is resumed. docs/files.md lists the fields;
// log_reader.h reads them.
#ifndef RUN_LOG_WRITER_H
#define RUN_LOG_WRITER_H

#include <omp.h>

#include "dataloader.h" // defines: Mixture
#include "model/config_json.h"
#include "model/flops.h"
#include "mpi_utils.h"
#include "run/build_info.h"
#include "run/log_reader.h"
#include "run/options.h"
#include "util/files.h"

// What is running: the log's first line, and a line of restarts.jsonl for each resume.
typedef struct {
    const Options *options;
    const World *world;
    const ModelConfig *config;
    const char *kernels;
    const Mixture *data, *val;
    size_t parameters; // of the whole model
    size_t seq_len, global_batch;
    size_t from_step;
    double peak_flops; // of all ranks
} RunRecord;

// A step as logged.
typedef struct {
    size_t step, samples; // done, and read by all ranks so far
    double loss, grad_norm, lr, seconds, comm_seconds;
    char batch_hash[BATCH_HASH_DIGITS + 1]; // on rank 0
    bool skipped;
} StepResult;

// At the end: the plan of memory and time against what was measured.
typedef struct {
    int rank; // with the highest peak
    double base_bytes, planned_bytes, measured_bytes;
    double largest_difference; // of memory, on any rank, as a fraction
    double planned_seconds;    // of a step; 0: there is no machine to plan with
    double measured_seconds;   // of a step; 0: too few steps
} PlanResult;

// ------------------------------------------------------------------------------------------------
// Lines

static inline void write_hash_(JsonWriter *json, const char *key, const char *hash) {
    if (hash[0]) {
        json_put_string(json, key, hash);
    }
}

// The datasets of a mixture: where they are, their weights, what is in them and the hashes by which
// they are known again.
static inline void log_write_mixture(JsonWriter *json, const char *key, const Mixture *m) {
    json_open(json, key, '[');
    for (size_t i = 0; i < m->count; i++) {
        const Dataset *d = &m->items[i];
        char *absolute = realpath(d->path, NULL);
        json_open(json, NULL, '{');
        json_put_string(json, "path", m->paths[i]);
        json_put_string(json, "file", absolute ? absolute : d->path);
        json_put_uint(json, "weight", m->weights[i]);
        json_put_double(json, "share", mixture_share(m, i));
        json_put_uint(json, "tokens", d->tokens);
        json_put_uint(json, "samples", d->samples);
        if (d->idx_path[0]) {
            json_put_uint(json, "documents", d->documents);
        }
        write_hash_(json, "sha256", d->bin_hash);
        write_hash_(json, "idx_sha256", d->idx_hash);
        write_hash_(json, "tokenizer_sha256", d->tokenizer_hash);
        write_hash_(json, "manifest_sha256", d->manifest_hash);
        json_close(json, '}');
        free(absolute);
    }
    json_close(json, ']');
}

static inline void log_write_run(JsonWriter *json, const RunRecord *r) {
    const Grid *g = &r->world->grid;
    json_open(json, NULL, '{');
    json_put_string(json, "program", "train_gpt");
    json_put_string(json, "git_revision", GIT_REVISION);
    json_put_string(json, "compiler", COMPILER);
    json_put_string(json, "compiler_flags", COMPILER_FLAGS);
    json_put_string(json, "kernels", r->kernels);
    json_put_uint(json, "ranks", (uint64_t)r->world->size);
    json_put_uint(json, "tp", (uint64_t)g->tp);
    json_put_uint(json, "pp", (uint64_t)g->pp);
    json_put_uint(json, "dp", (uint64_t)g->dp);
    json_put_uint(json, "ranks_per_node", (uint64_t)r->world->node_size);
    json_put_uint(json, "threads", (uint64_t)omp_get_max_threads());
    json_put_uint(json, "from_step", r->from_step);
    json_put_uint(json, "parameters", r->parameters);
    json_put_uint(json, "vocab_size", r->config->vocab_size);
    json_put_uint(json, "layers", r->config->layers);
    json_put_uint(json, "heads", r->config->heads);
    json_put_uint(json, "channels", r->config->channels);
    json_put_uint(json, "seq_len", r->seq_len);
    json_put_uint(json, "positions", r->config->seq_len);
    json_put_uint(json, "global_batch", r->global_batch);
    config_put(json, "model", r->config, DTYPE_F32);
    json_put_double(json, "peak_flops", r->peak_flops);
    log_write_mixture(json, "data", r->data);
    log_write_mixture(json, "val_data", r->val);
    options_write(json, r->options, TRAIN);
    json_close(json, '}');
}

static inline void log_write_step(JsonWriter *json, const RunRecord *r, const StepResult *s) {
    double tokens = (double)r->global_batch * (double)r->seq_len;
    json_open(json, NULL, '{');
    json_put_uint(json, "step", s->step);
    json_put_double(json, "loss", s->loss);
    json_put_double(json, "grad_norm", s->grad_norm);
    json_put_double(json, "lr", s->lr);
    json_put_uint(json, "tokens", s->samples * r->seq_len);
    json_put_double(json, "step_ms", 1e3 * s->seconds);
    json_put_double(json, "tokens_per_s", tokens / s->seconds);
    json_put_double(json, "mfu",
                    tokens * flops_per_token(r->config, r->seq_len) / s->seconds / r->peak_flops);
    json_put_bool(json, "skipped", s->skipped);
    json_put_string(json, "batch_sha256", s->batch_hash);
    if (r->data->count > 1) {
        json_open(json, "source_samples", '[');
        for (size_t i = 0; i < r->data->count; i++) {
            json_put_uint(json, NULL, mixture_count(r->data, i, s->samples));
        }
        json_close(json, ']');
    }
    if (r->world->size > 1) {
        json_put_double(json, "comm_ms", 1e3 * s->comm_seconds);
    }
    json_close(json, '}');
}

// losses: (val->count), by source; written where there are several.
static inline void log_write_eval(JsonWriter *json, size_t step, const Mixture *val,
                                  double val_loss, const double *losses) {
    json_open(json, NULL, '{');
    json_put_uint(json, "step", step);
    json_put_double(json, "val_loss", val_loss);
    if (val->count > 1) {
        json_open(json, "val_losses", '{');
        for (size_t i = 0; i < val->count; i++) {
            json_put_double(json, val->paths[i], losses[i]);
        }
        json_close(json, '}');
    }
    json_close(json, '}');
}

static inline void put_milliseconds_(JsonWriter *json, const char *key, double seconds) {
    if (seconds > 0) {
        json_put_double(json, key, 1e3 * seconds);
    } else {
        json_put_null(json, key);
    }
}

static inline void log_write_plan(JsonWriter *json, size_t step, const PlanResult *p) {
    json_open(json, NULL, '{');
    json_put_uint(json, "step", step);
    json_open(json, "plan", '{');
    json_put_uint(json, "rank", (uint64_t)p->rank);
    json_put_double(json, "base_bytes", p->base_bytes);
    json_put_double(json, "planned_bytes", p->planned_bytes);
    json_put_double(json, "measured_bytes", p->measured_bytes);
    json_put_double(json, "largest_difference", p->largest_difference);
    put_milliseconds_(json, "planned_step_ms", p->planned_seconds);
    put_milliseconds_(json, "measured_step_ms", p->measured_seconds);
    json_close(json, '}');
    json_close(json, '}');
}

// ------------------------------------------------------------------------------------------------
// The file

// What the log was when a checkpoint was saved, as the checkpoint has it.
typedef struct {
    uint64_t bytes; // 0: not known
    char sha256[SHA256_HEX];
} LogMark;

// Appends one line to OUT/NAME and hands it to the system. The line stays with the caller.
static inline bool log_append(FILE *log, const char *out, const char *name, const JsonWriter *line,
                              Error *e) {
    bool ok = !line->failed && fwrite(line->data, 1, line->length, log) == line->length &&
              fputc('\n', log) != EOF && fflush(log) == 0;
    return ok || fail(e, "%s/%s: cannot be written: %s", out, name,
                      line->failed ? "out of memory" : strerror(errno));
}

// Whether a line of the log belongs to the run up to `step`: a valid one, of no later step, and not
// the closing line of a run that now continues.
static inline bool log_line_is_kept_(const LogReader *log, uint64_t step, bool continues) {
    if (!log->complete || !log->line) {
        return false;
    }
    bool of_run = log->has_step ? log->step <= step : !json_get(log->line, "step");
    return of_run && !(continues && log->kind == LOG_PLAN);
}

// Whether log.jsonl begins with what it was.
static inline bool log_matches_(const char *path, const LogMark *mark) {
    Sha256 hash;
    Error ignored; // what cannot be read does not match
    uint64_t bytes;
    char hex[SHA256_HEX];
    int file = open_regular(path, &bytes, &ignored);
    sha256_begin(&hash);
    bool ok = file >= 0 && bytes >= mark->bytes &&
              sha256_add_file(&hash, file, path, mark->bytes, &ignored);
    close_if_open(file);
    sha256_end(&hash, hex);
    return ok && !strcmp(hex, mark->sha256);
}

// Moves the log out of the way, to OUT/STEM-1.jsonl or the next free number.
static inline bool log_set_aside_(const char *out, const char *path, const char *stem,
                                  char aside[PATH_LIMIT], Error *e) {
    int n = 1;
    do {
        if (!path_format(aside, e, "%s/%s-%d.jsonl", out, stem, n++)) {
            return false;
        }
    } while (!access(aside, F_OK));
    return !rename(path, aside) ||
           fail(e, "%s: cannot be renamed to %s: %s", path, aside, strerror(errno));
}

// What can be read of a log that may be damaged: the lines up to `step`.
typedef struct {
    TextBuffer kept;
    size_t damaged; // lines, the last one excepted, which may be incomplete
    Error first;    // of them
    bool headless;  // the first line does not describe a run
} ReadableLog;

static inline bool log_read_lines_(ReadableLog *r, const char *out, uint64_t step, bool continues,
                                   Error *e) {
    LogReader log;
    *r = (ReadableLog){.headless = true};
    if (!log_reader_open(&log, out, "log.jsonl", e)) {
        return false;
    }
    while (log_reader_next(&log)) {
        if (log.complete && !log.line && r->damaged++ == 0) {
            r->first = log.problem;
        }
        r->headless &= log.number > 1 || log.kind != LOG_RUN;
        if (log_line_is_kept_(&log, step, continues)) {
            text_put(&r->kept, log.text, log.length);
            text_put(&r->kept, "\n", 1);
        }
    }
    return log_reader_close(&log, e) &&
           (!r->kept.failed || fail(e, "%s: no memory to cut it back", log.path));
}

// Cuts the log back to a checkpoint at `step`, where `mark` says what it was: later steps are about
// to be done again. A log that has been changed or damaged since is kept aside, with a warning, and
// the run goes on with the lines of it that can be read; `head` replaces a first line that cannot.
// The new file replaces the old one only when it is complete.
static inline bool log_truncate(const char *out, uint64_t step, bool continues, const LogMark *mark,
                                const JsonWriter *head, Error *e) {
    char path[PATH_LIMIT], aside[PATH_LIMIT];
    ReadableLog log;
    if (!path_format(path, e, "%s/log.jsonl", out)) {
        return false;
    }
    const bool marked = mark->bytes > 0; // not by older programs
    const bool matches = marked && log_matches_(path, mark);
    if (matches && continues) {
        return truncate(path, (off_t)mark->bytes) == 0 ||
               fail(e, "%s: cannot be cut back: %s", path, strerror(errno));
    }

    bool ok = log_read_lines_(&log, out, step, continues, e);
    if (ok && ((marked && !matches) || log.damaged > 0 || log.headless)) {
        ok = log_set_aside_(out, path, "log-damaged", aside, e);
        printf("warning: %s was changed or damaged%s%s; it is kept as %s\n", path,
               log.damaged > 0 ? ": " : " since the checkpoint was saved",
               log.damaged > 0 ? log.first.text : "", aside);
    }
    if (ok && log.headless) {
        TextBuffer with_head = {0};
        text_put(&with_head, head->data, head->length);
        text_put(&with_head, "\n", 1);
        text_put(&with_head, log.kept.data, log.kept.length);
        free(log.kept.data);
        log.kept = with_head;
    }
    ok = ok && (!log.kept.failed || fail(e, "%s: no memory to cut it back", path)) &&
         replace_file(path, log.kept.data, log.kept.length, e);
    free(log.kept.data);
    return ok;
}

// Appends the line that describes the run to OUT/NAME.
static inline bool log_append_run_(const JsonWriter *line, const char *out, const char *name,
                                   Error *e) {
    char path[PATH_LIMIT];
    if (!path_format(path, e, "%s/%s", out, name)) {
        return false;
    }
    FILE *file = fopen(path, "a");
    if (!file) {
        return fail(e, "%s: cannot be written: %s", path, strerror(errno));
    }
    bool ok = log_append(file, out, name, line, e);
    fclose(file);
    return ok;
}

// Opens the log of a run that is about to train: a new one with its first line, or, when `resumed`,
// the old one cut back to r->from_step and `mark`, with a line in restarts.jsonl. A log that no
// checkpoint belongs to is moved out of the way. NULL on failure.
static inline FILE *log_open(const RunRecord *r, bool resumed, const LogMark *mark, Error *e) {
    const char *out = r->options->out;
    char path[PATH_LIMIT], aside[PATH_LIMIT];
    if (!path_format(path, e, "%s/log.jsonl", out)) {
        return NULL;
    }

    bool exists = access(path, F_OK) == 0, continues = r->from_step < r->options->steps;
    JsonWriter head = {0};
    log_write_run(&head, r);
    bool ok = !exists || (resumed ? log_truncate(out, r->from_step, continues, mark, &head, e)
                                  : log_set_aside_(out, path, "log", aside, e));
    ok = ok && log_append_run_(&head, out, exists && resumed ? "restarts.jsonl" : "log.jsonl", e);
    free(head.data);
    FILE *log = ok ? fopen(path, "a") : NULL;
    if (ok && !log) {
        fail(e, "%s: cannot be written: %s", path, strerror(errno));
    }
    return log;
}

#endif
