// log_reader.h: reads the log of a run line by line. OUT/log.jsonl begins with a line that
// describes the run; then comes a line for each step and each eval, and one with the outcome of the
// memory plan closes a run that reached its last step. OUT/restarts.jsonl has a line like the first
// for each resume.
//
// The reader accepts any file: it parses the lines that are complete JSON objects and reports what
// is wrong with the others. Whether that is an error is up to the caller; the last line may be
// incomplete because it is being written, or because the run was killed.
//
//     if (!log_reader_open(&log, out, "log.jsonl", e)) { return false; }
//     bool ok = true;
//     while (ok && log_reader_next(&log)) { ok = ... log.kind, log.step, log.line ...; }
//     return log_reader_close(&log, ok ? e : &(Error){0}) && ok;
//
// Memory is bounded by the longest line.
#ifndef RUN_LOG_READER_H
#define RUN_LOG_READER_H

#include "util/array.h"
#include "util/files.h"
#include "util/json.h"

typedef enum {
    LOG_OTHER, // not an object, or none of those below
    LOG_RUN,   // "program": describes the run
    LOG_STEP,  // "loss"
    LOG_EVAL,  // "val_loss"
    LOG_PLAN   // "plan": the closing line; its step is the last one's
} LogLineKind;

enum { LOG_LINE_LIMIT = 64 << 20 }; // bytes of the longest line that is kept

typedef struct {
    FILE *file;
    char path[PATH_LIMIT];
    uint64_t number; // of the current line, from 1
    char *text;      // of the current line without its newline
    size_t length, capacity;
    bool complete; // it ends in a newline; only the last line of a file may not

    JsonDocument document; // of the current line
    const Json *line;      // its object; NULL if the line holds none, for the reason in `problem`
    LogLineKind kind;
    bool has_step;
    uint64_t step; // "step", 0 if the line has none

    Error problem; // file, line and reason
    bool failed;   // reading stopped before the end, for the reason in `problem`
} LogReader;

// Opens FOLDER/NAME, "log.jsonl" or "restarts.jsonl". log_reader_close releases the reader, which
// after a failure is not needed.
static inline bool log_reader_open(LogReader *r, const char *folder, const char *name, Error *e) {
    uint64_t bytes;
    *r = (LogReader){0};
    if (!path_format(r->path, e, "%s/%s", folder, name)) {
        return false;
    }
    int file = open_regular(r->path, &bytes, e);
    if (file < 0) {
        return false;
    }
    r->file = fdopen(file, "rb");
    if (!r->file) {
        close(file);
        return fail(e, "%s: cannot be read: %s", r->path, strerror(errno));
    }
    return true;
}

// Reads up to the next newline or the end of the file. Of a line that is too long, the beginning is
// kept. False at the end of the file, and on failure.
static inline bool log_reader_text_(LogReader *r, bool *too_long) {
    int c;
    r->length = 0;
    *too_long = false;
    while ((c = getc_unlocked(r->file)) != EOF && c != '\n') {
        if (r->length == LOG_LINE_LIMIT) {
            *too_long = true;
            continue;
        }
        if (!array_reserve(&r->text, &r->capacity, r->length, 1, 1, &r->problem)) {
            r->failed = true;
            return false;
        }
        r->text[r->length++] = (char)c;
    }
    if (ferror(r->file)) {
        r->failed = true;
        return fail(&r->problem, "%s: cannot be read: %s", r->path, strerror(errno));
    }
    r->complete = c == '\n';
    return r->complete || r->length > 0;
}

static inline LogLineKind log_line_kind(const Json *line) {
    const char *program = json_string(json_get(line, "program"));
    if (json_get(line, "loss")) {
        return LOG_STEP;
    }
    if (json_get(line, "val_loss")) {
        return LOG_EVAL;
    }
    if (json_get(line, "plan")) {
        return LOG_PLAN;
    }
    return program && !strcmp(program, "train_gpt") ? LOG_RUN : LOG_OTHER;
}

// Goes to the next line. False at the end of the file, or if it cannot be read further, which
// log_reader_close reports.
static inline bool log_reader_next(LogReader *r) {
    char name[PATH_LIMIT + 32];
    bool too_long;
    json_free(&r->document);
    r->line = NULL;
    r->kind = LOG_OTHER;
    r->has_step = false;
    r->step = 0;
    if (!log_reader_text_(r, &too_long)) {
        return false;
    }

    r->number++;
    snprintf(name, sizeof name, "%s:%llu", r->path, (unsigned long long)r->number);
    if (r->length == 0 || too_long || !r->complete) {
        fail(&r->problem, "%s: the line is %s", name,
             r->length == 0 ? "empty"
             : too_long     ? "too long"
                            : "incomplete: it does not end in a newline");
        return true;
    }
    if (!json_parse(&r->document, r->text, r->length, name, &r->problem)) {
        return true;
    }
    if (r->document.root->kind != JSON_OBJECT) {
        fail(&r->problem, "%s: not a JSON object", name);
        return true;
    }
    r->line = r->document.root;
    r->kind = log_line_kind(r->line);
    r->has_step = json_uint(json_get(r->line, "step"), &r->step);
    return true;
}

// Hands over the current line's document, which the caller frees.
static inline JsonDocument log_reader_take(LogReader *r) {
    JsonDocument document = r->document;
    r->document = (JsonDocument){0};
    r->line = NULL;
    return document;
}

// Closes the reader. False if the file could not be read as far as the caller wanted.
static inline bool log_reader_close(LogReader *r, Error *e) {
    fclose(r->file);
    free(r->text);
    json_free(&r->document);
    return !r->failed || fail(e, "%s", r->problem.text);
}

// Opens FOLDER/log.jsonl and reads its first line into *head, which the caller frees. A folder
// without a log that begins with such a line is not a run's.
static inline bool log_reader_open_run(LogReader *r, JsonDocument *head, const char *folder,
                                       Error *e) {
    *head = (JsonDocument){0};
    if (!log_reader_open(r, folder, "log.jsonl", e)) {
        return is_folder(folder) && access(r->path, F_OK)
                   ? fail(e, "%s: not the folder of a run: it has no log.jsonl", folder)
                   : false;
    }
    if (log_reader_next(r) && r->kind == LOG_RUN) {
        *head = log_reader_take(r);
        return true;
    }
    if (log_reader_close(r, e)) {
        fail(e, "%s: not the log of a run: its first line does not describe one", r->path);
    }
    return false;
}

// ------------------------------------------------------------------------------------------------
// What the line that describes a run says

// The i-th training dataset: "data" is an array of objects, in old logs a single one. NULL behind
// the last.
static inline const Json *log_dataset(const Json *head, size_t i) {
    const Json *entry = json_get(head, "data");
    if (!entry || entry->kind != JSON_ARRAY) {
        return i == 0 ? entry : NULL;
    }
    entry = entry->child;
    for (; entry && i > 0; i--) {
        entry = entry->next;
    }
    return entry;
}

// Its path as --data had it.
static inline const char *log_dataset_path(const Json *head, size_t i) {
    const char *path = json_string(json_get(log_dataset(head, i), "path"));
    return path ? path : "?";
}

// Tokens per step; 0 if the line does not say.
static inline double log_tokens_per_step(const Json *head) {
    return json_double_or(json_get(head, "global_batch"), 0) *
           json_double_or(json_get(head, "seq_len"), 0);
}

#endif
