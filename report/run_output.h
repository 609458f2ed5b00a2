// run_output.h: what a run writes to OUT besides its checkpoints: log.jsonl, the TensorBoard
// events, and, in memory, the history that a model card tells. On rank 0 only.
#ifndef REPORT_RUN_OUTPUT_H
#define REPORT_RUN_OUTPUT_H

#include "report/events.h"
#include "report/run_log.h"
#include "run/log_writer.h"

typedef struct {
    const char *out;
    FILE *log;   // NULL while closed
    Sha256 hash; // of the log so far
    EventWriter events;
    RunLog history;
} RunOutput;

// Closes what is open.
static inline void run_output_close(RunOutput *o) {
    if (o->log) {
        fclose(o->log);
        run_log_free(&o->history);
    }
    events_close(&o->events);
    *o = (RunOutput){0};
}

// Opens the outputs of a run that is about to train (log_open says what becomes of those that are
// there). run_output_close is needed after a failure too.
static inline bool run_output_open(RunOutput *o, const RunRecord *r, bool resumed,
                                   const LogMark *mark, Error *e) {
    char path[PATH_LIMIT];
    uint64_t bytes;
    *o = (RunOutput){.out = r->options->out};
    sha256_begin(&o->hash);
    FILE *log = path_format(path, e, "%s/log.jsonl", o->out) ? log_open(r, resumed, mark, e) : NULL;
    if (!log) {
        return false;
    }
    int file = open_regular(path, &bytes, e);
    bool ok = file >= 0 && sha256_add_file(&o->hash, file, path, bytes, e) &&
              run_log_read(&o->history, o->out, false, e);
    close_if_open(file);
    if (!ok) {
        fclose(log);
        return false;
    }
    o->log = log;
    return events_open(&o->events, o->out, e);
}

// Adds a line everywhere. Frees it.
static inline bool run_output_line(RunOutput *o, JsonWriter *line, Error *e) {
    JsonDocument document;
    bool ok = log_append(o->log, o->out, "log.jsonl", line, e) &&
              events_add(&o->events, line->data, line->length, e);
    if (ok) {
        sha256_add(&o->hash, line->data, line->length);
        sha256_add(&o->hash, "\n", 1);
        ok = json_parse(&document, line->data, line->length, "log.jsonl", e);
    }
    if (ok) {
        ok = run_log_add(&o->history, document.root) || fail(e, "no memory for the run's history");
        json_free(&document);
    }
    free(line->data);
    return ok;
}

// What the log is now. It is on disk, unless that fails: then the next resume finds the difference.
static inline LogMark run_output_mark(const RunOutput *o) {
    Sha256 hash = o->hash;
    LogMark mark = {.bytes = hash.length};
    sha256_end(&hash, mark.sha256);
    if (fsync(fileno(o->log))) {
        printf("warning: %s/log.jsonl: cannot be written to disk: %s\n", o->out, strerror(errno));
    }
    return mark;
}

#endif
