// events.h: the TensorBoard event file of a run, OUT/events.out.tfevents.*, which holds what
// OUT/log.jsonl holds: events_open makes it from the log, events_add follows the log line by line.
//
// A file is a sequence of records:
//
//     u64 length, u32 masked CRC-32C of the length, data, u32 masked CRC-32C of the data
//
// (github.com/tensorflow/tensorflow, core/lib/io/record_writer.h). The data is a protocol buffer:
//
//     Event    {1: double wall_time, 2: int64 step,
//               3: string file_version | 5: Summary | 7: SessionLog}
//     Summary  {1: repeated {1: string tag, 2: float simple_value}}
//
// On resume the log is cut back to the checkpoint. Then a new file is made from the log, under a
// newer name, and replaces the old one. It begins with a session start at step 0, at which a
// running TensorBoard discards what it has read of the run and starts over. The times of day,
// which the log does not have, are taken from the old file as far as that agrees with the log.
#ifndef REPORT_EVENTS_H
#define REPORT_EVENTS_H

#include <time.h>

#include "run/log_reader.h"
#include "util/bytes.h"
#include "util/protobuf.h"

typedef struct {
    FILE *file; // NULL while closed
    char path[PATH_LIMIT];
    uint32_t crc[256]; // CRC-32C of each byte
    JsonDocument head; // the log's first line
} EventWriter;

// ------------------------------------------------------------------------------------------------
// Records

enum { RECORD_HEAD = 12, RECORD_TAIL = 4 }; // bytes around the data

static inline void crc32c_table_(uint32_t table[256]) {
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) {
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0x82F63B78 : 0);
        }
    }
}

// The CRC rotated and offset, as the format wants it.
static inline uint32_t crc32c_masked_(const uint32_t table[256], const void *data, size_t bytes) {
    const unsigned char *p = data;
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < bytes; i++) {
        crc = crc >> 8 ^ table[(crc ^ p[i]) & 255];
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xA282EAD8;
}

// The record of an event: its wall time and the fields that follow.
static inline TextBuffer event_record_(const EventWriter *w, double wall_time,
                                       const TextBuffer *fields) {
    TextBuffer record = {0};
    char head[RECORD_HEAD] = {0}, tail[RECORD_TAIL];
    text_put(&record, head, sizeof head);
    protobuf_put_double(&record, 1, wall_time);
    text_put(&record, fields->data ? fields->data : "", fields->length);
    record.failed |= fields->failed;

    if (!record.failed) {
        size_t bytes = record.length - sizeof head;
        store_le(record.data, bytes, 8);
        store_le(record.data + 8, crc32c_masked_(w->crc, record.data, 8), 4);
        store_le(tail, crc32c_masked_(w->crc, record.data + sizeof head, bytes), 4);
        text_put(&record, tail, sizeof tail);
    }
    return record;
}

static inline double wall_time_now_(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// True if the old file's next record is this event, at whatever time; that becomes *wall_time.
static inline bool event_matches_old_(const EventWriter *w, FILE *old, const TextBuffer *fields,
                                      double *wall_time) {
    TextBuffer record = event_record_(w, 0, fields);
    char *found = record.failed ? NULL : malloc(record.length);
    bool matches = found && fread(found, 1, record.length, old) == record.length;
    free(record.data);
    if (matches) {
        uint64_t bits = load_le(found + RECORD_HEAD + 1, 8); // after the field's tag
        memcpy(wall_time, &bits, sizeof bits);
        record = event_record_(w, *wall_time, fields);
        matches =
            !record.failed && isfinite(*wall_time) && !memcmp(found, record.data, record.length);
        free(record.data);
    }
    free(found);
    return matches;
}

// Writes an event with a single call, so that a reader never sees a partial one unless the process
// dies during the call; frees the fields. While *old agrees, its times are kept; at the first
// difference it is closed and becomes NULL, and from there on the time is now.
static inline bool event_write_(EventWriter *w, FILE **old, TextBuffer *fields, Error *e) {
    double wall_time;
    if (*old && !event_matches_old_(w, *old, fields, &wall_time)) {
        fclose(*old);
        *old = NULL;
    }
    if (!*old) {
        wall_time = wall_time_now_();
    }
    TextBuffer record = event_record_(w, wall_time, fields);
    bool ok = !record.failed || fail(e, "%s: no memory to write it", w->path);
    ok = ok && write_bytes(w->file, w->path, record.data, record.length, e);
    free(record.data);
    free(fields->data);
    *fields = (TextBuffer){0};
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Lines of the log as events

// Adds a value to a Summary. What JSON cannot hold (NaN, infinity) is null in the log and NaN here.
static inline void summary_put_scalar_(TextBuffer *summary, const char *group, const char *name,
                                       const Json *value) {
    TextBuffer scalar = {0}, tag = {0};
    float number = NAN;
    if (value->kind == JSON_NUMBER) {
        number = (float)strtod(value->text, NULL); // as whoever reads the log as doubles gets it
    } else if (value->kind == JSON_BOOL) {
        number = value->boolean;
    }
    text_format(&tag, "%s/%s", group, name);
    protobuf_put_message(&scalar, 1, &tag);
    protobuf_put_float(&scalar, 2, number);
    protobuf_put_message(summary, 1, &scalar);
    free(scalar.data);
    free(tag.data);
}

// All numbers of a line: train/KEY of a step, eval/KEY of an eval, eval/val_loss/DATASET,
// data/samples/DATASET.
static inline void summary_put_line_(TextBuffer *summary, const Json *head, const Json *line) {
    const char *group = json_get(line, "val_loss") ? "eval" : "train";
    for (const Json *m = line->child; m; m = m->next) {
        if (!strcmp(m->key, "step")) {
            continue;
        }
        if (m->kind == JSON_NUMBER || m->kind == JSON_BOOL || m->kind == JSON_NULL) {
            summary_put_scalar_(summary, group, m->key, m);
        } else if (m->kind == JSON_OBJECT && !strcmp(m->key, "val_losses")) {
            for (const Json *loss = m->child; loss; loss = loss->next) {
                summary_put_scalar_(summary, "eval/val_loss", loss->key, loss);
            }
        } else if (m->kind == JSON_ARRAY && !strcmp(m->key, "source_samples")) {
            size_t i = 0;
            for (const Json *samples = m->child; samples; samples = samples->next) {
                summary_put_scalar_(summary, "data/samples", log_dataset_path(head, i++), samples);
            }
        }
    }
}

static inline bool events_put_line_(EventWriter *w, FILE **old, const Json *line, uint64_t step,
                                    Error *e) {
    TextBuffer fields = {0}, summary = {0};
    summary_put_line_(&summary, w->head.root, line);
    protobuf_put_number(&fields, 2, (int64_t)step);
    protobuf_put_message(&fields, 5, &summary);
    free(summary.data);
    return event_write_(w, old, &fields, e);
}

// Writes the events of the log: the first object is the head, lines without a step are not events.
static inline bool events_put_log_(EventWriter *w, LogReader *log, FILE **old, Error *e) {
    TextBuffer fields = {0};
    protobuf_put_bytes(&fields, 3, "brain.Event:2", 13);
    bool ok = event_write_(w, old, &fields, e);
    protobuf_put_bytes(&fields, 7, "\x08\x01", 2); // SessionLog {1: status = START}
    ok = ok && event_write_(w, old, &fields, e);
    while (ok && log_reader_next(log)) {
        if (log->line && !w->head.root) {
            w->head = log_reader_take(log);
        } else if (log->line && log->has_step) {
            ok = events_put_line_(w, old, log->line, log->step, e);
        }
    }
    free(fields.data);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// The file

static inline bool events_flush_(EventWriter *w, Error *e) {
    return fflush(w->file) == 0 || fail(e, "%s: cannot be written: %s", w->path, strerror(errno));
}

static inline void events_close(EventWriter *w) {
    if (w->file) {
        fclose(w->file);
    }
    json_free(&w->head);
    w->file = NULL;
}

// The path of the file NAME in OUT if it is an event file that this program made.
static inline bool own_event_path_(const char *out, const char *name, char path[PATH_LIMIT]) {
    const char *begin = "events.out.tfevents.", *end = ".train_gpt";
    size_t length = strlen(name);
    struct stat status;
    Error ignored;
    return !strncmp(name, begin, strlen(begin)) && length > strlen(begin) + strlen(end) &&
           !strcmp(name + length - strlen(end), end) &&
           path_format(path, &ignored, "%s/%s", out, name) && !lstat(path, &status) &&
           S_ISREG(status.st_mode);
}

// Counts the event files in OUT that this program made. newest: the last by name, "" if there is
// none; *seconds becomes later than the times in their names.
static inline size_t events_find_(const char *out, char newest[PATH_LIMIT], uint64_t *seconds) {
    struct dirent **names = NULL;
    char path[PATH_LIMIT];
    int count = list_folder(out, &names);
    size_t found = 0;
    newest[0] = 0;
    for (int i = 0; i < count; i++) {
        if (own_event_path_(out, names[i]->d_name, path)) {
            uint64_t named = strtoull(names[i]->d_name + strlen("events.out.tfevents."), NULL, 10);
            *seconds = named >= *seconds && named < 9999999999 ? named + 1 : *seconds;
            memcpy(newest, path, PATH_LIMIT);
            found++;
        }
    }
    free_names(names, count);
    return found;
}

// Gives the new file its name and removes all others of this program.
static inline bool events_replace_(const EventWriter *w, const char *out, const char *temporary,
                                   Error *e) {
    struct dirent **names = NULL;
    char path[PATH_LIMIT];
    if (rename(temporary, w->path)) {
        return fail(e, "%s: cannot be written: %s", w->path, strerror(errno));
    }
    int count = list_folder(out, &names);
    for (int i = 0; i < count; i++) {
        if (own_event_path_(out, names[i]->d_name, path) && strcmp(path, w->path)) {
            unlink(path);
        }
    }
    free_names(names, count);
    return true;
}

// Opens the event file of the run in OUT, which must have its log.jsonl: makes it from the log and
// replaces any that was there, unless that already matches. The writer must be zero or closed. On
// failure it is closed.
static inline bool events_open(EventWriter *w, const char *out, Error *e) {
    char temporary[PATH_LIMIT], previous[PATH_LIMIT], host[256] = "localhost";
    uint64_t seconds = (uint64_t)time(NULL);
    LogReader log;
    *w = (EventWriter){0};
    crc32c_table_(w->crc);
    gethostname(host, sizeof host - 1);
    size_t found = events_find_(out, previous, &seconds);
    if (!path_format(temporary, e, "%s/.events.new", out) ||
        !path_format(w->path, e, "%s/events.out.tfevents.%010llu.%s.%ld.0.train_gpt", out,
                     (unsigned long long)seconds, host, (long)getpid()) ||
        !log_reader_open(&log, out, "log.jsonl", e)) {
        return false;
    }

    FILE *old = found ? fopen(previous, "rb") : NULL;
    w->file = fopen(temporary, "wb");
    bool ok = w->file || fail(e, "%s: cannot be created: %s", temporary, strerror(errno));
    ok = ok && events_put_log_(w, &log, &old, e) && events_flush_(w, e);
    ok = log_reader_close(&log, ok ? e : &(Error){0}) && ok;

    bool unchanged = found == 1 && old && fgetc(old) == EOF;
    if (old) {
        fclose(old);
    }
    if (ok && unchanged) {
        fclose(w->file);
        unlink(temporary);
        memcpy(w->path, previous, sizeof previous);
        w->file = fopen(previous, "ab");
        ok = w->file || fail(e, "%s: cannot be written: %s", previous, strerror(errno));
    } else if (ok) {
        ok = events_replace_(w, out, temporary, e);
    }
    if (!ok) {
        events_close(w);
    }
    return ok;
}

// Adds a line that has just been written to the log. Lines without a step are not events.
static inline bool events_add(EventWriter *w, const char *text, size_t length, Error *e) {
    JsonDocument line;
    FILE *no_old = NULL;
    uint64_t step;
    if (!json_parse(&line, text, length, "log.jsonl", e)) {
        return false;
    }
    bool ok = !json_uint(json_get(line.root, "step"), &step) ||
              (events_put_line_(w, &no_old, line.root, step, e) && events_flush_(w, e));
    json_free(&line);
    return ok;
}

#endif
