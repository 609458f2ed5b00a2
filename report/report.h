// report.h: what a run tells the world: TensorBoard event files while it goes on, a page of charts
// afterwards, and the model card of its checkpoints. Everything here is made from what lies in the
// run's folder: log.jsonl (one object a line, the first one describes the run), restarts.jsonl, and
// the manifests of the data that the log names.
//
// Events:      events_open, events_add, events_close   OUT/events.out.tfevents.*, always equal to
// log.jsonl Report:      report_page                             one HTML page of one or more runs
// Model card:  model_card                              README.md of a checkpoint
#ifndef REPORT_H
#define REPORT_H

#include <stddef.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "dataloader.h" // defines: PATH_LIMIT, path_format, OutputFile, output_*, store_le, load_le, list_folder
#include "model/checkpoint.h" // defines: checkpoint_list
#include "util/json.h"
#include "util/protobuf.h" // event files

// ------------------------------------------------------------------------------------------------
// Text that grows, and lines of a log of any length

__attribute__((format(printf, 2, 3))) static inline void text_format_(JsonWriter *w,
                                                                      const char *format, ...) {
    char small[512];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(small, sizeof small, format, args);
    char *large = length < (int)sizeof small ? NULL : malloc((size_t)length + 1);
    if (large) {
        vsnprintf(large, (size_t)length + 1, format, again);
    }
    w->failed |= length < 0 || (length >= (int)sizeof small && !large);
    json_append(w, large ? large : small, length < 0 ? 0 : (size_t)length);
    free(large);
    va_end(again);
    va_end(args);
}

// Escapes for HTML and XML, text and attributes alike. Bytes that are no UTF-8 and characters that
// XML forbids become U+FFFD.
static inline void text_html_(JsonWriter *w, const char *text) {
    for (size_t left = strlen(text), n; left > 0; text += n, left -= n) {
        uint32_t c = 0;
        n = utf8_decode(text, left, &c);
        const char *entity =
            c == '<'    ? "&lt;"
            : c == '>'  ? "&gt;"
            : c == '&'  ? "&amp;"
            : c == '"'  ? "&quot;"
            : c == '\'' ? "&#39;"
            : n == 0 || (c < 0x20 && c != '\t' && c != '\n') || c == 0xFFFE || c == 0xFFFF
                ? "\uFFFD"
                : NULL;
        n = n ? n : 1;
        entity ? json_append(w, entity, strlen(entity)) : json_append(w, text, n);
    }
}

// Reads a file line by line. A line of more than LOG_LINE_LIMIT bytes counts as broken.
typedef struct {
    FILE *file;
    char *line; // without its newline, NUL-terminated
    size_t length, capacity;
    bool broken; // the line has no newline (the end of a file that is being written, or was cut) or
                 // is too long
    bool failed; // out of memory
} LineReader_;

enum { LOG_LINE_LIMIT = 64 << 20 };

static inline bool lines_open_(LineReader_ *r, const char *path, Error *e) {
    struct stat status;
    *r = (LineReader_){.file = fopen(path, "rb")};
    if (!r->file) {
        return fail(e, "%s: cannot be read: %s", path, strerror(errno));
    }
    if (fstat(fileno(r->file), &status) || !S_ISREG(status.st_mode)) {
        fclose(r->file);
        return fail(e, "%s: is not a regular file", path);
    }
    return true;
}

static inline void lines_close_(LineReader_ *r) {
    fclose(r->file);
    free(r->line);
}

static inline bool lines_next_(LineReader_ *r) {
    int c;
    r->length = 0;
    r->broken = false;
    while ((c = getc_unlocked(r->file)) != EOF && c != '\n') {
        if (r->length == LOG_LINE_LIMIT) {
            r->broken = true;
            continue;
        }
        if (r->length + 1 >= r->capacity) {
            size_t capacity = 2 * r->capacity + 1024;
            char *line = realloc(r->line, capacity);
            if (!line) {
                r->failed = true;
                return false;
            }
            r->line = line;
            r->capacity = capacity;
        }
        r->line[r->length++] = (char)c;
    }
    if (c == EOF && r->length == 0) {
        return false;
    }
    r->broken |= c == EOF;
    if (r->line) {
        r->line[r->length] = 0;
    }
    return true;
}

// One object of JSON Lines; false if the line holds none.
static inline bool parse_line_(const LineReader_ *r, JsonDocument *document) {
    Error ignored;
    if (r->broken || r->length == 0 || !json_parse(document, r->line, r->length, "", &ignored)) {
        return false;
    }
    if (document->root->kind != JSON_OBJECT) {
        json_free(document);
        return false;
    }
    return true;
}

// The i-th training set that the log's first line names; "data" is one object, or an array of them.
// NULL at the end.
static inline const Json *data_entry_(const Json *head, const char *key, size_t i) {
    const Json *entry = json_get(head, key);
    if (entry && entry->kind == JSON_ARRAY) {
        entry = entry->child;
        for (; entry && i > 0; i--) {
            entry = entry->next;
        }
        return entry;
    }
    return i == 0 ? entry : NULL;
}

static inline const char *data_path_(const Json *head, size_t i) {
    const char *path = json_string(json_get(data_entry_(head, "data", i), "path"));
    return path ? path : "?";
}

// ------------------------------------------------------------------------------------------------
// TensorBoard event files
//
// A file is a sequence of records {u64 length, u32 crc(length), data, u32 crc(data)}; data is an
// Event message of Protocol Buffers {1: double wall_time, 2: int64 step, 3: string file_version |
// 5: Summary | 7: SessionLog}, Summary is {1: repeated {1: string tag, 2: float simple_value}}. The
// crc is CRC-32C, rotated and shifted ("masked").
//
// A run has one file that equals its log. When a run is taken up again its log is cut back to the
// checkpoint; then a new file is made from the log, under a newer name, and takes the place of the
// old one. Times of day, which the log does not have, come from the old file. The file begins with
// a session start at step 0: a TensorBoard that is watching drops what it has and reads the run
// anew.

typedef struct {
    FILE *file; // NULL while closed
    char path[PATH_LIMIT];
    uint32_t crc[256]; // CRC-32C of each byte
    JsonDocument head; // the log's first line
} EventWriter;

static inline void crc32c_table_(uint32_t table[256]) {
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) {
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0x82F63B78 : 0);
        }
    }
}

static inline uint32_t crc32c_masked_(const uint32_t table[256], const void *data, size_t bytes) {
    const unsigned char *p = data;
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < bytes; i++) {
        crc = crc >> 8 ^ table[(crc ^ p[i]) & 255];
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xA282EAD8;
}

// Adds a value to a Summary. What JSON cannot hold (NaN, infinity) is null in the log and NaN here.
static inline void summary_scalar_(JsonWriter *summary, const char *group, const char *name,
                                   const Json *value) {
    JsonWriter scalar = {0}, tag = {0};
    float number = value->kind == JSON_NUMBER ? strtof(value->text, NULL)
                   : value->kind == JSON_BOOL ? (float)value->boolean
                                              : NAN;
    text_format_(&tag, "%s/%s", group, name);
    protobuf_put_bytes(&scalar, 1, tag.data ? tag.data : "", tag.length);
    protobuf_put_float(&scalar, 2, number);
    protobuf_put_bytes(summary, 1, scalar.data ? scalar.data : "", scalar.length);
    summary->failed |= scalar.failed | tag.failed;
    free(scalar.data);
    free(tag.data);
}

// All numbers of a line of the log: train/KEY of a step, eval/KEY of an eval, eval/val_loss/DATA,
// data/samples/DATA.
static inline void summary_of_line_(JsonWriter *summary, const Json *head, const Json *line) {
    const char *group = json_get(line, "val_loss") ? "eval" : "train";
    for (const Json *m = line->child; m; m = m->next) {
        if (!strcmp(m->key, "step")) {
            continue;
        }
        if (m->kind == JSON_NUMBER || m->kind == JSON_BOOL || m->kind == JSON_NULL) {
            summary_scalar_(summary, group, m->key, m);
        } else if (m->kind == JSON_OBJECT && !strcmp(m->key, "val_losses")) {
            for (const Json *loss = m->child; loss; loss = loss->next) {
                summary_scalar_(summary, "eval/val_loss", loss->key, loss);
            }
        } else if (m->kind == JSON_ARRAY && !strcmp(m->key, "source_samples")) {
            size_t i = 0;
            for (const Json *samples = m->child; samples; samples = samples->next) {
                summary_scalar_(summary, "data/samples", data_path_(head, i++), samples);
            }
        }
    }
}

// Writes one record with a single call, so that a reader never sees half of it unless the process
// dies in the middle.
static inline bool events_record_(EventWriter *w, JsonWriter *event, Error *e) {
    JsonWriter record = {0};
    unsigned char prefix[12], suffix[4];
    store_le(prefix, event->length, 8);
    store_le(prefix + 8, crc32c_masked_(w->crc, prefix, 8), 4);
    store_le(suffix, crc32c_masked_(w->crc, event->data ? event->data : "", event->length), 4);
    json_append(&record, (char *)prefix, sizeof prefix);
    json_append(&record, event->data ? event->data : "", event->length);
    json_append(&record, (char *)suffix, sizeof suffix);
    bool ok = (!event->failed && !record.failed) || fail(e, "%s: no memory to write it", w->path);
    ok = ok && write_bytes(w->file, w->path, record.data, record.length, e);
    free(record.data);
    free(event->data);
    *event = (JsonWriter){0};
    return ok;
}

static inline bool events_line_(EventWriter *w, const Json *line, uint64_t step, double wall_time,
                                Error *e) {
    JsonWriter event = {0}, summary = {0};
    summary_of_line_(&summary, w->head.root, line);
    protobuf_put_double(&event, 1, wall_time);
    protobuf_put_number(&event, 2, (int64_t)step);
    protobuf_put_bytes(&event, 5, summary.data ? summary.data : "", summary.length);
    event.failed |= summary.failed;
    free(summary.data);
    return events_record_(w, &event, e);
}

// The next record of an old file that is a step's: false at its end, or where it is broken.
static inline bool events_read_(const EventWriter *w, FILE *old, double *wall_time,
                                uint64_t *step) {
    unsigned char prefix[12], *data = NULL;
    bool found = false, whole = true;
    while (whole && !found) {
        uint64_t length = 0, bits;
        whole = fread(prefix, 1, 12, old) == 12 &&
                load_le(prefix + 8, 4) == crc32c_masked_(w->crc, prefix, 8);
        length = whole ? load_le(prefix, 8) : 0;
        whole = whole && length < LOG_LINE_LIMIT && (data = malloc(length + 4)) &&
                fread(data, 1, length + 4, old) == length + 4 &&
                load_le(data + length, 4) == crc32c_masked_(w->crc, data, length);
        if (whole && length > 10 && data[0] == 0x09 && data[9] == 0x10) {
            size_t at = 10;
            *step = 0;
            for (int shift = 0; at < length && shift < 63; shift += 7) {
                *step |= (uint64_t)(data[at] & 127) << shift;
                if (!(data[at++] & 128)) {
                    break;
                }
            }
            found = at < length && data[at] == 0x2A;
            bits = load_le(data + 1, 8);
            memcpy(wall_time, &bits, 8);
            found = found && isfinite(*wall_time);
        }
        free(data);
        data = NULL;
    }
    return found;
}

static inline bool is_own_events_(const char *name) {
    const char *begin = "events.out.tfevents.", *end = ".train_gpt";
    size_t length = strlen(name);
    return !strncmp(name, begin, strlen(begin)) && length > strlen(begin) + strlen(end) &&
           !strcmp(name + length - strlen(end), end);
}

static inline double wall_time_now_(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Writes the events of all lines of the log. Times of day come from `old` (NULL if there is none)
// where it has the step, else they are those of the step before.
static inline bool events_from_log_(EventWriter *w, LineReader_ *log, FILE *old, double wall_time,
                                    Error *e) {
    JsonDocument line;
    JsonWriter event = {0};
    double old_time = 0;
    uint64_t step, old_step = 0;
    protobuf_put_double(&event, 1, wall_time);
    protobuf_put_bytes(&event, 3, "brain.Event:2", 13);
    bool ok = events_record_(w, &event, e);
    protobuf_put_double(&event, 1, wall_time);
    protobuf_put_bytes(&event, 7, "\x08\x01", 2); // SessionLog {1: status = START}
    ok = ok && events_record_(w, &event, e);
    bool has_old = old && events_read_(w, old, &old_time, &old_step);
    while (ok && lines_next_(log)) {
        if (!parse_line_(log, &line)) {
            continue;
        }
        if (!w->head.root) {
            w->head = line;
            continue;
        }
        if (json_uint(json_get(line.root, "step"), &step)) {
            while (has_old && old_step < step) {
                has_old = events_read_(w, old, &old_time, &old_step);
            }
            if (has_old && old_step == step) {
                wall_time = old_time;
                has_old = events_read_(w, old, &old_time, &old_step);
            }
            ok = events_line_(w, line.root, step, wall_time, e);
        }
        json_free(&line);
    }
    free(event.data);
    return ok && (!log->failed || fail(e, "%s: no memory to read the log", w->path));
}

static inline void events_close(EventWriter *w) {
    if (w->file) {
        fclose(w->file);
    }
    json_free(&w->head);
    w->file = NULL;
}

static inline bool same_content_(const char *path, const char *other) {
    FILE *files[2] = {fopen(path, "rb"), fopen(other, "rb")};
    bool same = files[0] && files[1];
    for (int a = 0, b = 0; same && a != EOF;) {
        a = getc_unlocked(files[0]), b = getc_unlocked(files[1]);
        same = a == b;
    }
    for (int i = 0; i < 2; i++) {
        if (files[i]) {
            fclose(files[i]);
        }
    }
    return same;
}

// Finds the event files of OUT that this program made. path: the newest by name, "" if there is
// none; *seconds becomes later than what is in the names. Returns how many there are. With `remove`
// they are removed but for `keep`.
static inline size_t events_find_(const char *out, char path[PATH_LIMIT], uint64_t *seconds,
                                  bool remove, const char *keep) {
    struct dirent **names = NULL;
    struct stat status;
    Error ignored;
    int count = list_folder(out, &names);
    size_t found = 0;
    path[0] = 0;
    for (int i = 0; i < count; i++) {
        char candidate[PATH_LIMIT];
        if (!is_own_events_(names[i]->d_name) ||
            !path_format(candidate, &ignored, "%s/%s", out, names[i]->d_name) ||
            lstat(candidate, &status) || !S_ISREG(status.st_mode)) {
            continue;
        }
        uint64_t named = strtoull(names[i]->d_name + strlen("events.out.tfevents."), NULL, 10);
        *seconds = named >= *seconds && named < 9999999999 ? named + 1 : *seconds;
        memcpy(path, candidate, PATH_LIMIT);
        found++;
        if (remove && strcmp(candidate, keep)) {
            unlink(candidate);
        }
    }
    free_names(names, count);
    return found;
}

// Begins the event file of the run in OUT, which must have its log.jsonl: makes it from the log, in
// the place of any that was there; one that is right as it is stays. The writer must be zero or
// closed. On failure it is closed.
static inline bool events_open(EventWriter *w, const char *out, Error *e) {
    char path[PATH_LIMIT], temporary[PATH_LIMIT], previous[PATH_LIMIT], host[256] = "localhost";
    unsigned char first[21];
    struct stat status;
    LineReader_ log;
    uint64_t seconds = (uint64_t)time(NULL), bits;
    *w = (EventWriter){0};
    crc32c_table_(w->crc);
    gethostname(host, sizeof host - 1);
    size_t found = events_find_(out, previous, &seconds, false, "");
    if (!path_format(path, e, "%s/log.jsonl", out) ||
        !path_format(temporary, e, "%s/.events.new", out) ||
        !path_format(w->path, e, "%s/events.out.tfevents.%010llu.%s.%ld.0.train_gpt", out,
                     (unsigned long long)seconds, host, (long)getpid()) ||
        !lines_open_(&log, path, e)) {
        return false;
    }
    double wall_time =
        fstat(fileno(log.file), &status) ? wall_time_now_() : (double)status.st_mtim.tv_sec;
    FILE *old = previous[0] ? fopen(previous, "rb") : NULL;
    if (old && fread(first, 1, sizeof first, old) == sizeof first &&
        first[12] == 0x09) { // its first event's time
        double old_time;
        bits = load_le(first + 13, 8);
        memcpy(&old_time, &bits, 8);
        wall_time = isfinite(old_time) ? old_time : wall_time;
        rewind(old);
    }
    w->file = fopen(temporary, "wb");
    bool ok = w->file || fail(e, "%s: cannot be created: %s", temporary, strerror(errno));
    ok = ok && events_from_log_(w, &log, old, wall_time, e);
    ok = ok &&
         (fflush(w->file) == 0 || fail(e, "%s: cannot be written: %s", w->path, strerror(errno)));
    if (ok && found == 1 && same_content_(temporary, previous)) {
        fclose(w->file);
        unlink(temporary);
        memcpy(w->path, previous, sizeof previous);
        w->file = fopen(previous, "ab");
        ok = w->file || fail(e, "%s: cannot be written: %s", previous, strerror(errno));
    } else if (ok) {
        ok = rename(temporary, w->path) == 0 ||
             fail(e, "%s: cannot be written: %s", w->path, strerror(errno));
        events_find_(out, path, &seconds, ok, w->path);
    }
    if (old) {
        fclose(old);
    }
    lines_close_(&log);
    if (!ok) {
        events_close(w);
    }
    return ok;
}

// Adds a line that has just been written to the log. Lines without a step are not events.
static inline bool events_add(EventWriter *w, const char *text, size_t length, Error *e) {
    JsonDocument line;
    uint64_t step;
    if (!json_parse(&line, text, length, "log.jsonl", e)) {
        return false;
    }
    bool ok =
        !json_uint(json_get(line.root, "step"), &step) ||
        (events_line_(w, line.root, step, wall_time_now_(), e) &&
         (fflush(w->file) == 0 || fail(e, "%s: cannot be written: %s", w->path, strerror(errno))));
    json_free(&line);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Curves: any number of points in a bounded number of buckets that keep the lowest and the highest
// of what fell in

typedef struct {
    double x_low, low, x_high, high; // the lowest and the highest point
    double x_from;                   // of the first of `count` points
    double x_sum, sum;               // of all of them
    uint64_t count;
} Bucket_;

enum { CURVE_BUCKETS = 1024 };

typedef struct {
    Bucket_ *buckets; // (CURVE_BUCKETS) once there is a point
    size_t count;
    uint64_t points,
        per_bucket; // a bucket is full with per_bucket points; this doubles whenever all are full
    double x_first, first, x_last, last;
} Curve;

// Values that are not finite, or so large that ranges would not be, are left out. False if there is
// no memory.
static inline bool curve_add_(Curve *c, double x, double y) {
    if (!(fabs(y) < 1e30) || !(fabs(x) < 1e30)) {
        return true;
    }
    if (!c->buckets && !(c->buckets = malloc(CURVE_BUCKETS * sizeof *c->buckets))) {
        return false;
    }
    Bucket_ *last = c->count ? &c->buckets[c->count - 1] : NULL;
    if (c->points == 0) {
        c->x_first = x, c->first = y, c->per_bucket = 1;
    }
    c->x_last = x, c->last = y, c->points++;
    if (last && last->count < c->per_bucket) {
        if (y < last->low) {
            last->low = y, last->x_low = x;
        }
        if (y > last->high) {
            last->high = y, last->x_high = x;
        }
        last->sum += y, last->x_sum += x, last->count++;
        return true;
    }
    if (c->count == CURVE_BUCKETS) {
        for (size_t i = 0; i < CURVE_BUCKETS; i += 2) {
            Bucket_ a = c->buckets[i], b = c->buckets[i + 1];
            c->buckets[i / 2] = (Bucket_){b.low < a.low ? b.x_low : a.x_low,
                                          b.low < a.low ? b.low : a.low,
                                          b.high > a.high ? b.x_high : a.x_high,
                                          b.high > a.high ? b.high : a.high,
                                          a.x_from,
                                          a.x_sum + b.x_sum,
                                          a.sum + b.sum,
                                          a.count + b.count};
        }
        c->count = CURVE_BUCKETS / 2;
        c->per_bucket *= 2;
    }
    c->buckets[c->count++] = (Bucket_){x, y, x, y, x, x, y, 1};
    return true;
}

// The curve as points of a line: at most two a bucket, and the ends as they are. x, y: (2 *
// CURVE_BUCKETS + 2).
static inline size_t curve_line_(const Curve *c, double *x, double *y) {
    size_t n = 0;
    for (size_t i = 0; i < c->count; i++) {
        const Bucket_ *b = &c->buckets[i];
        bool low_first = b->x_low <= b->x_high;
        if (i == 0 && (low_first ? b->x_low : b->x_high) > c->x_first) {
            x[n] = c->x_first, y[n++] = c->first;
        }
        x[n] = low_first ? b->x_low : b->x_high, y[n++] = low_first ? b->low : b->high;
        if (b->x_low != b->x_high) {
            x[n] = low_first ? b->x_high : b->x_low, y[n++] = low_first ? b->high : b->low;
        }
    }
    if (n > 0 && x[n - 1] < c->x_last) {
        x[n] = c->x_last, y[n++] = c->last;
    }
    return n;
}

// The curve smoothed: at each bucket a straight line fitted under a Gaussian window of 1/60 of the
// curve (local linear regression, Cleveland 1979), which unlike a moving mean is not bent at the
// ends. x, y: (CURVE_BUCKETS).
static inline size_t curve_smooth_(const Curve *c, double *x, double *y) {
    double width = fmax((double)c->count / 60, 1);
    size_t reach = (size_t)ceil(3 * width);
    for (size_t i = 0; i < c->count; i++) {
        size_t from = i > reach ? i - reach : 0,
               to = i + reach < c->count ? i + reach : c->count - 1;
        double w0 = 0, w1 = 0, w2 = 0, y0 = 0, y1 = 0;
        for (size_t j = from; j <= to; j++) {
            const Bucket_ *b = &c->buckets[j];
            double at = ((double)j - (double)i) / width, w = exp(-0.5 * at * at) * (double)b->count;
            w0 += w, w1 += w * at, w2 += w * at * at;
            y0 += w * b->sum / (double)b->count, y1 += w * at * b->sum / (double)b->count;
        }
        double det = w0 * w2 - w1 * w1;
        x[i] = c->buckets[i].x_sum / (double)c->buckets[i].count;
        y[i] = det > 1e-9 * w0 * w0 ? (w2 * y0 - w1 * y1) / det : y0 / w0;
    }
    return c->count;
}

// ------------------------------------------------------------------------------------------------
// A run's folder, read once from beginning to end

enum { MARKS_KEPT = 200, SOURCES_KEPT = 4096 };

typedef struct {
    double x[MARKS_KEPT];
    uint64_t steps[MARKS_KEPT];
    uint64_t count; // all of them, also those not kept
} Marks;

typedef struct {
    char *name;  // of a data set
    Curve curve; // validation loss
} SourceCurve;

// What a run measured. x of all curves is the step, or the tokens seen so far.
typedef struct {
    const char *directory;
    char *label; // how the page calls it
    JsonDocument head;
    Curve loss, grad_norm, lr, tokens_per_s, mfu, comm, val_loss;
    SourceCurve *val; // validation loss by data set, where there are several
    size_t val_count;
    Curve *samples; // samples read so far of each training set, where there are several
    size_t samples_count;
    Marks skipped, restarts;
    uint64_t steps, last_step, tokens; // lines of steps, number of the last, tokens seen by then
    double seconds;                    // of all steps in the log
    double best_val;
    uint64_t best_val_step;
    uint64_t broken,
        ignored; // lines that are no JSON object; lines out of order or of an unknown kind
    bool cut;    // the last line has no end
} RunLog;

static inline void run_free_(RunLog *r) {
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
    free(r->label);
    json_free(&r->head);
    *r = (RunLog){0};
}

static inline double number_or_(const Json *node, double otherwise) {
    double value;
    return json_double(node, &value) ? value : otherwise;
}

static inline uint64_t uint_or_(const Json *node, uint64_t otherwise) {
    uint64_t value;
    return json_uint(node, &value) ? value : otherwise;
}

// Tokens of a step by the run's first line; 0 if it does not say.
static inline double tokens_per_step_(const Json *head) {
    return number_or_(json_get(head, "global_batch"), 0) * number_or_(json_get(head, "seq_len"), 0);
}

static inline void marks_add_(Marks *m, double x, uint64_t step) {
    if (m->count < MARKS_KEPT) {
        m->x[m->count] = x;
        m->steps[m->count] = step;
    }
    m->count++;
}

static inline bool run_samples_(RunLog *r, double x, const Json *samples) {
    size_t i = 0;
    double value;
    for (const Json *s = samples->child; s; s = s->next) {
        if (!json_double(s, &value)) {
            return true;
        }
    }
    if (!r->samples && samples->length <= SOURCES_KEPT) {
        r->samples = calloc(samples->length + 1, sizeof *r->samples);
        r->samples_count = r->samples ? samples->length : 0;
        if (!r->samples) {
            return false;
        }
    }
    for (const Json *s = samples->child; s && samples->length == r->samples_count; s = s->next) {
        if (!curve_add_(&r->samples[i++], x, number_or_(s, 0))) {
            return false;
        }
    }
    return true;
}

// False if there is no memory.
static inline bool run_step_line_(RunLog *r, const Json *line, uint64_t step, bool by_tokens) {
    const Json *skipped = json_get(line, "skipped"), *samples = json_get(line, "source_samples");
    double step_ms = number_or_(json_get(line, "step_ms"), NAN);
    r->tokens = uint_or_(json_get(line, "tokens"), r->tokens);
    r->last_step = step;
    r->steps++;
    r->seconds += isfinite(step_ms) ? step_ms / 1e3 : 0;
    double x = by_tokens ? (double)r->tokens : (double)step;
    if (skipped && skipped->kind == JSON_BOOL && skipped->boolean) {
        marks_add_(&r->skipped, x, step);
    }
    return curve_add_(&r->loss, x, number_or_(json_get(line, "loss"), NAN)) &&
           curve_add_(&r->grad_norm, x, number_or_(json_get(line, "grad_norm"), NAN)) &&
           curve_add_(&r->lr, x, number_or_(json_get(line, "lr"), NAN)) &&
           curve_add_(&r->tokens_per_s, x, number_or_(json_get(line, "tokens_per_s"), NAN)) &&
           curve_add_(&r->mfu, x, 100 * number_or_(json_get(line, "mfu"), NAN)) &&
           curve_add_(&r->comm, x, 100 * number_or_(json_get(line, "comm_ms"), NAN) / step_ms) &&
           (!samples || samples->kind != JSON_ARRAY || run_samples_(r, x, samples));
}

static inline bool run_val_source_(RunLog *r, double x, const Json *loss) {
    size_t i = 0;
    while (i < r->val_count && strcmp(r->val[i].name, loss->key)) {
        i++;
    }
    if (i == r->val_count) {
        SourceCurve *val = i < SOURCES_KEPT ? realloc(r->val, (i + 1) * sizeof *val) : NULL;
        if (!val) {
            return i == SOURCES_KEPT;
        }
        r->val = val;
        val[i] = (SourceCurve){.name = strdup(loss->key)};
        if (!val[i].name) {
            return false;
        }
        r->val_count++;
    }
    return curve_add_(&r->val[i].curve, x, number_or_(loss, NAN));
}

static inline bool run_eval_line_(RunLog *r, const Json *line, uint64_t step, bool by_tokens) {
    double x = by_tokens ? (double)r->tokens : (double)step;
    const Json *by_source = json_get(line, "val_losses");
    double loss = number_or_(json_get(line, "val_loss"), NAN);
    if (isfinite(loss) && (r->val_loss.points == 0 || loss < r->best_val)) {
        r->best_val = loss;
        r->best_val_step = step;
    }
    bool ok = curve_add_(&r->val_loss, x, loss);
    for (const Json *m = by_source && by_source->kind == JSON_OBJECT ? by_source->child : NULL;
         m && ok; m = m->next) {
        ok = run_val_source_(r, x, m);
    }
    return ok;
}

// restarts.jsonl, if there is one. Steps that were done again are in the log once; so are their
// tokens.
static inline bool run_restarts_(RunLog *r, bool by_tokens, Error *e) {
    char path[PATH_LIMIT];
    LineReader_ lines;
    JsonDocument line;
    uint64_t step;
    if (!path_format(path, e, "%s/restarts.jsonl", r->directory)) {
        return false;
    }
    if (access(path, F_OK)) {
        return true;
    }
    if (!lines_open_(&lines, path, e)) {
        return false;
    }
    while (lines_next_(&lines)) {
        if (!parse_line_(&lines, &line)) {
            r->broken++;
            continue;
        }
        if (json_uint(json_get(line.root, "from_step"), &step)) {
            double per_step = tokens_per_step_(r->head.root);
            marks_add_(&r->restarts, by_tokens ? (double)step * per_step : (double)step, step);
        }
        json_free(&line);
    }
    bool ok = !lines.failed || fail(e, "%s: no memory to read it", path);
    lines_close_(&lines);
    return ok;
}

// Reads the first line of DIRECTORY/log.jsonl into *head. A folder without such a line is no run.
static inline bool run_head_(const char *directory, JsonDocument *head, LineReader_ *lines,
                             Error *e) {
    char path[PATH_LIMIT];
    if (!path_format(path, e, "%s/log.jsonl", directory)) {
        return false;
    }
    if (!lines_open_(lines, path, e)) {
        return access(directory, F_OK) || !access(path, F_OK)
                   ? false
                   : fail(e, "%s: is no run: it has no log.jsonl", directory);
    }
    bool ok = lines_next_(lines) && parse_line_(lines, head);
    const char *program = ok ? json_string(json_get(head->root, "program")) : NULL;
    if (!program || strcmp(program, "train_gpt")) {
        if (ok) {
            json_free(head);
        }
        lines_close_(lines);
        return fail(
            e, "%s: does not begin with the line that train_gpt writes first: not the log of a run",
            path);
    }
    return true;
}

// Reads a run up to `until`, the last step of interest. Broken lines are counted, never a reason to
// stop: the last one may be half written. `by_tokens` chooses the x axis.
static inline bool run_read_(RunLog *r, const char *directory, bool by_tokens, uint64_t until,
                             Error *e) {
    LineReader_ lines;
    JsonDocument line;
    *r = (RunLog){.directory = directory};
    if (!run_head_(directory, &r->head, &lines, e)) {
        return false;
    }
    bool ok = true;
    while (ok && lines_next_(&lines)) {
        uint64_t step = 0;
        if (!parse_line_(&lines, &line)) {
            r->cut |= lines.broken && feof(lines.file);
            r->broken += lines.length > 0 && !(lines.broken && feof(lines.file));
            continue;
        }
        bool numbered = json_uint(json_get(line.root, "step"), &step);
        if (numbered && step <= until && step > r->last_step && json_get(line.root, "loss")) {
            ok = run_step_line_(r, line.root, step, by_tokens);
        } else if (numbered && step <= until && step >= r->last_step &&
                   json_get(line.root, "val_loss")) {
            ok = run_eval_line_(r, line.root, step, by_tokens);
        } else if (!numbered || step <= until) {
            r->ignored++;
        }
        json_free(&line);
    }
    ok = (ok && !lines.failed) || fail(e, "%s/log.jsonl: no memory to read it", directory);
    lines_close_(&lines);
    ok = ok && run_restarts_(r, by_tokens, e);
    if (!ok) {
        run_free_(r);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Charts: inline SVG, 640 x 300 units

enum {
    CHART_WIDTH = 640,
    CHART_HEIGHT = 300,
    CHART_LEFT = 84,
    CHART_RIGHT = 30,
    CHART_TOP = 14,
    CHART_BOTTOM = 52
};
enum { COLORS = 8, TICKS = 12 };

typedef struct {
    double low, high; // values at the two ends
    double from, to;  // where these stand in the drawing
    bool log;
} Axis;

static inline double axis_at_(const Axis *a, double value) {
    double share = a->log ? log(value / a->low) / log(a->high / a->low)
                          : (value - a->low) / (a->high - a->low);
    return a->from + share * (a->to - a->from);
}

// Smallest of 1, 2, 5 times a power of ten that is at least `least`.
static inline double nice_step_(double least) {
    double power = pow(10, floor(log10(least)));
    return least <= power * 1.0001 ? power
           : least <= 2 * power    ? 2 * power
           : least <= 5 * power    ? 5 * power
                                   : 10 * power;
}

// Ticks at round values, at least `gap` apart in the drawing, at most TICKS; returns how many.
static inline size_t axis_ticks_(const Axis *a, double gap, double ticks[TICKS]) {
    double span = fabs(a->to - a->from), step = nice_step_((a->high - a->low) * gap / span);
    size_t n = 0;
    if (!a->log || a->high / a->low < 4) {
        for (double k = ceil(a->low / step - 1e-9); k * step <= a->high + 1e-9 * step && n < TICKS;
             k++) {
            double at = k == 0 ? 0 : k * step;
            bool apart = n == 0 || fabs(axis_at_(a, at) - axis_at_(a, ticks[n - 1])) >= gap;
            if (apart) {
                ticks[n++] = at;
            }
        }
        return n;
    }
    // Powers of ten first, then what fits between them.
    static const double digits[] = {1, 5, 2, 3, 7};
    double decades = log10(a->high / a->low);
    int every = (int)ceil(decades * gap / span);
    for (size_t d = 0; d < sizeof digits / sizeof *digits && (d == 0 || every == 1); d++) {
        for (double k = floor(log10(a->low)); k <= log10(a->high) && n < TICKS; k++) {
            double at = digits[d] * pow(10, k);
            bool fits = at >= a->low && at <= a->high && fmod(fabs(k), every) == 0;
            for (size_t i = 0; i < n && fits; i++) {
                fits = fabs(axis_at_(a, at) - axis_at_(a, ticks[i])) >= gap;
            }
            if (fits) {
                ticks[n++] = at;
            }
        }
    }
    return n;
}

// A number in few characters: 0.25, 3e-5, 12k, 1.5M, 2B, 1e20.
static inline const char *number_short_(double v, char text[32]) {
    static const struct {
        double unit;
        const char *letter;
    } units[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e4, "k"}};
    int exponent = v != 0 && isfinite(v) ? (int)floor(log10(fabs(v)) + 1e-9) : 0;
    if (exponent < -3 || exponent > 14) {
        snprintf(text, 32, "%.3ge%d", v / pow(10, exponent), exponent);
        return text;
    }
    for (size_t i = 0; i < 4; i++) {
        if (fabs(v) >= units[i].unit * 0.999999) {
            snprintf(text, 32, "%.4g%s", v / (units[i].unit == 1e4 ? 1e3 : units[i].unit),
                     units[i].letter);
            return text;
        }
    }
    snprintf(text, 32, "%.5g", v);
    return text;
}

typedef struct {
    const char *name;
    const Curve *curve;
    size_t run;   // which run's, for the switches of the legend
    size_t color; // beyond COLORS with dashes
    bool smooth;  // a thin line of the values under a line of their mean
} Series;

typedef struct {
    const char *id, *title, *unit, *x_label;
    bool log_y, from_zero;
    const Series *series;
    size_t count;
    const RunLog *runs; // whose restarts and skipped steps are marked; NULL for none
    size_t run_count;
} Chart;

// Ranges of all series; false if there is no point. Values that a logarithmic axis cannot show are
// left out.
static inline bool chart_ranges_(const Chart *c, Axis *x, Axis *y) {
    *x = (Axis){INFINITY, -INFINITY, CHART_LEFT, CHART_WIDTH - CHART_RIGHT, false};
    *y = (Axis){INFINITY, -INFINITY, CHART_HEIGHT - CHART_BOTTOM, CHART_TOP, c->log_y};
    for (size_t s = 0; s < c->count; s++) {
        const Curve *curve = c->series[s].curve;
        for (size_t i = 0; i < curve->count; i++) {
            const Bucket_ *b = &curve->buckets[i];
            y->low = c->log_y && b->low <= 0 ? y->low : fmin(y->low, b->low);
            y->high = fmax(y->high, b->high);
        }
        if (curve->points) {
            x->low = fmin(x->low, curve->x_first);
            x->high = fmax(x->high, curve->x_last);
        }
    }
    if (!(x->low <= x->high)) {
        return false;
    }
    y->log &= y->low > 0 && y->low < INFINITY; // all values 0: a linear axis
    y->low = y->low == INFINITY ? 0 : y->low;
    double pad = 0.04 * (y->high - y->low);
    pad = pad > 1e-4 * fabs(y->high) ? pad : 1e-4 * fabs(y->high) + 1e-12;
    if (y->log) {
        double ratio = fmax(pow(y->high / y->low, 0.04), 1.001);
        y->low /= ratio;
        y->high *= ratio;
    } else {
        y->low = c->from_zero && y->low >= 0 ? 0 : y->low - pad;
        y->high += pad;
    }
    x->high = x->high > x->low ? x->high : x->low + 1;
    return true;
}

static inline void chart_axes_(JsonWriter *w, const Chart *c, const Axis *x, const Axis *y) {
    double ticks[TICKS];
    char text[32];
    size_t n = axis_ticks_(y, 34, ticks);
    for (size_t i = 0; i < n; i++) {
        double at = axis_at_(y, ticks[i]);
        text_format_(w,
                     "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text "
                     "x=\"%d\" y=\"%.1f\" "
                     "text-anchor=\"end\">%s</text>\n",
                     CHART_LEFT, CHART_WIDTH - CHART_RIGHT, at, at, CHART_LEFT - 8, at + 5,
                     number_short_(ticks[i], text));
    }
    n = axis_ticks_(x, 96, ticks);
    for (size_t i = 0; i < n; i++) {
        double at = axis_at_(x, ticks[i]);
        text_format_(w,
                     "<line class=\"tick\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text "
                     "x=\"%.1f\" y=\"%d\" "
                     "text-anchor=\"middle\">%s</text>\n",
                     at, at, CHART_HEIGHT - CHART_BOTTOM, CHART_HEIGHT - CHART_BOTTOM + 5, at,
                     CHART_HEIGHT - CHART_BOTTOM + 22, number_short_(ticks[i], text));
    }
    text_format_(w,
                 "<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/><text "
                 "class=\"label\" x=\"%d\" y=\"%d\" "
                 "text-anchor=\"end\">%s</text>\n",
                 CHART_LEFT, CHART_WIDTH - CHART_RIGHT, CHART_HEIGHT - CHART_BOTTOM,
                 CHART_HEIGHT - CHART_BOTTOM, CHART_WIDTH - CHART_RIGHT, CHART_HEIGHT - 8,
                 c->x_label);
}

// The d of a path through n points; what a logarithmic axis cannot show breaks the line. A single
// point becomes a short stroke that can be seen.
static inline void chart_path_(JsonWriter *w, const Axis *ax, const Axis *ay, const double *x,
                               const double *y, size_t n) {
    bool pen = false;
    for (size_t i = 0; i < n; i++) {
        if (ay->log && y[i] <= 0) {
            pen = false;
            continue;
        }
        text_format_(w, "%c%.1f %.1f", pen ? 'L' : 'M', axis_at_(ax, x[i]), axis_at_(ay, y[i]));
        pen = true;
    }
    if (n == 1) {
        text_format_(w, "h4");
    }
}

static inline void chart_series_(JsonWriter *w, const Series *s, const Axis *ax, const Axis *ay) {
    static const char *dashes[] = {"", " dash1", " dash2", " dash3"};
    double x[2 * CURVE_BUCKETS + 2], y[2 * CURVE_BUCKETS + 2];
    size_t n = curve_line_(s->curve, x, y);
    bool smooth = s->smooth && s->curve->count > 20;
    text_format_(
        w, "<path class=\"run%zu c%zu%s%s\" data-points=\"%llu\" data-last=\"%.17g %.17g\" d=\"",
        s->run, s->color % COLORS, dashes[s->color / COLORS % 4], smooth ? " raw" : "",
        (unsigned long long)s->curve->points, s->curve->x_last, s->curve->last);
    chart_path_(w, ax, ay, x, y, n);
    text_format_(w, "\"/>\n");
    if (smooth) {
        n = curve_smooth_(s->curve, x, y);
        text_format_(w, "<path class=\"run%zu c%zu%s smooth\" d=\"", s->run, s->color % COLORS,
                     dashes[s->color / COLORS % 4]);
        chart_path_(w, ax, ay, x, y, n);
        text_format_(w, "\"/>\n");
    }
}

static inline void chart_marks_(JsonWriter *w, const Chart *c, const Axis *ax) {
    for (size_t r = 0; r < c->run_count; r++) {
        const RunLog *run = &c->runs[r];
        for (size_t i = 0; i < run->restarts.count && i < MARKS_KEPT; i++) {
            double at = axis_at_(ax, fmax(ax->low, fmin(ax->high, run->restarts.x[i])));
            text_format_(w,
                         "<line class=\"restart run%zu c%zu\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" "
                         "y2=\"%d\"><title>",
                         r, r % COLORS, at, at, CHART_TOP, CHART_HEIGHT - CHART_BOTTOM);
            text_html_(w, run->label);
            text_format_(w, ": restarted after step %llu</title></line>\n",
                         (unsigned long long)run->restarts.steps[i]);
        }
        for (size_t i = 0; i < run->skipped.count && i < MARKS_KEPT; i++) {
            double at = axis_at_(ax, fmax(ax->low, fmin(ax->high, run->skipped.x[i])));
            text_format_(w, "<path class=\"skipped run%zu f%zu\" d=\"M%.1f %dl5 -9h-10z\"><title>",
                         r, r % COLORS, at, CHART_TOP + 9);
            text_html_(w, run->label);
            text_format_(w, ": step %llu was skipped</title></path>\n",
                         (unsigned long long)run->skipped.steps[i]);
        }
    }
}

static inline void chart_begin_(JsonWriter *w, const char *id, const char *title,
                                const char *unit) {
    text_format_(w, "<figure id=\"%s\"><figcaption>", id);
    text_html_(w, title);
    text_format_(w, " <small>");
    text_html_(w, unit);
    text_format_(w, "</small></figcaption>\n");
}

static inline void chart_svg_(JsonWriter *w, const char *id, const char *title) {
    text_format_(w,
                 "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" "
                 "aria-labelledby=\"%s-t %s-d\"><title id=\"%s-t\">",
                 CHART_WIDTH, CHART_HEIGHT, id, id, id);
    text_html_(w, title);
    text_format_(w, "</title><desc id=\"%s-d\">", id);
}

// One line of keys under a chart's title: colour and name.
static inline void chart_keys_(JsonWriter *w, const Series *series, size_t count) {
    text_format_(w, "<ul class=\"keys\">");
    for (size_t s = 0; s < count; s++) {
        text_format_(w, "<li><i class=\"b%zu%s\"></i>", series[s].color % COLORS,
                     series[s].color >= COLORS ? " dashed" : "");
        text_html_(w, series[s].name);
        text_format_(w, "</li>");
    }
    text_format_(w, "</ul>\n");
}

// A chart of lines; nothing if there is no point to show. `keys` adds its own legend.
static inline void chart_write_(JsonWriter *w, const Chart *c, bool keys) {
    Axis x, y;
    char a[32], b[32], from[32], to[32];
    if (!chart_ranges_(c, &x, &y)) {
        return;
    }
    chart_begin_(w, c->id, c->title, c->unit);
    if (keys) {
        chart_keys_(w, c->series, c->count);
    }
    chart_svg_(w, c->id, c->title);
    for (size_t s = 0; s < c->count; s++) {
        const Curve *curve = c->series[s].curve;
        if (curve->points) {
            text_html_(w, c->series[s].name);
            text_format_(w, ": from %s at %s to %s at %s. ", number_short_(curve->first, a),
                         number_short_(curve->x_first, from), number_short_(curve->last, b),
                         number_short_(curve->x_last, to));
        }
    }
    text_format_(w, "</desc>\n");
    chart_axes_(w, c, &x, &y);
    for (size_t s = 0; s < c->count; s++) {
        if (c->series[s].curve->points) {
            chart_series_(w, &c->series[s], &x, &y);
        }
    }
    chart_marks_(w, c, &x);
    text_format_(w, "</svg></figure>\n");
}

// The run's data: share of each training set in the samples read so far, stacked, under dashed
// lines where the weights would have them. Sets beyond the largest COLORS - 1 are drawn as one.
static inline bool chart_shares_(JsonWriter *w, const RunLog *r, size_t run, const char *x_label,
                                 char **names) {
    size_t n = r->samples_count, points = n ? r->samples[0].count : 0,
           bands = n < COLORS ? n : COLORS;
    char id[32], title[256];
    double *x = malloc((points + 1) * sizeof *x), *low = calloc(points + 1, sizeof *low);
    double *high = calloc(points + 1, sizeof *high), *total = calloc(points + 1, sizeof *total);
    size_t *order = malloc((n + 1) * sizeof *order);
    bool ok = x && low && high && total && order;
    double weight_sum = 0, weights_below = 0;
    for (size_t s = 0; s < n && ok; s++) {
        size_t at = s; // insertion sort by samples, the largest first
        for (; at > 0 && r->samples[order[at - 1]].last < r->samples[s].last; at--) {
            order[at] = order[at - 1];
        }
        order[at] = s;
        weight_sum += number_or_(json_get(data_entry_(r->head.root, "data", s), "weight"), 0);
        for (size_t i = 0; i < points; i++) {
            total[i] += r->samples[s].buckets[i].high;
        }
    }
    if (ok && points) {
        Axis ax = {r->samples[0].buckets[0].x_high, r->samples[0].x_last, CHART_LEFT,
                   CHART_WIDTH - CHART_RIGHT, false};
        Axis ay = {0, 100, CHART_HEIGHT - CHART_BOTTOM, CHART_TOP, false};
        ax.high = ax.high > ax.low ? ax.high : ax.low + 1;
        snprintf(id, sizeof id, "shares%zu", run);
        snprintf(title, sizeof title, "Data read: %.200s", r->label);
        text_format_(w, "<div class=\"run%zu\">", run);
        chart_begin_(w, id, title, "% of the samples so far; dashed: by the weights");
        Series keys[COLORS];
        for (size_t b = 0; b < bands; b++) {
            keys[b] = (Series){.name = b + 1 < bands || n == bands ? names[order[b]] : "all others",
                               .color = b};
        }
        chart_keys_(w, keys, bands);
        chart_svg_(w, id, title);
        text_html_(w,
                   "Share of each data set in the samples read so far, the largest at the bottom.");
        text_format_(w, "</desc>\n");
        chart_axes_(w, &(Chart){.x_label = x_label}, &ax, &ay);
        for (size_t b = 0; b < bands; b++) {
            bool rest = b + 1 == bands;
            for (size_t i = 0; i < points; i++) {
                x[i] = axis_at_(&ax, r->samples[0].buckets[i].x_high);
                low[i] = high[i];
                double share =
                    total[i] > 0 ? 100 * r->samples[order[b]].buckets[i].high / total[i] : 0;
                high[i] = rest ? 100 : low[i] + share;
            }
            text_format_(w, "<path class=\"area f%zu\" data-last=\"%.17g\" d=\"", b,
                         r->samples[order[b]].last);
            for (size_t i = 0; i < points; i++) {
                text_format_(w, "%c%.1f %.1f", i ? 'L' : 'M', x[i], axis_at_(&ay, high[i]));
            }
            for (size_t i = points; i-- > 0;) {
                text_format_(w, "L%.1f %.1f", x[i], axis_at_(&ay, low[i]));
            }
            text_format_(w, "z\"/>\n");
            const Json *entry = data_entry_(r->head.root, "data", order[b]);
            weights_below +=
                weight_sum > 0 ? number_or_(json_get(entry, "weight"), 0) / weight_sum : 0;
            if (!rest && weight_sum > 0) {
                double at = axis_at_(&ay, 100 * fmin(1, weights_below));
                text_format_(
                    w, "<line class=\"weight\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                    CHART_LEFT, CHART_WIDTH - CHART_RIGHT, at, at);
            }
        }
        text_format_(w, "</svg></figure></div>\n");
    }
    free(x);
    free(low);
    free(high);
    free(total);
    free(order);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// The page: one file that needs no network, no server and no script

static const char page_style_[] =
    ":root{color-scheme:light "
    "dark;--bg:#f6f7f9;--card:#fff;--ink:#1c2128;--dim:#5c6670;--grid:#e3e7eb;--axis:#9aa4ae;"
    "--c0:#0b69c7;--c1:#d9480f;--c2:#2b8a3e;--c3:#9c36b5;--c4:#b08900;--c5:#0c8599;--c6:#c2255c;--"
    "c7:#5f3dc4}\n"
    "@media "
    "(prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1d2126;--ink:#e8ebee;--dim:#9aa4ae;--"
    "grid:#2e343b;"
    "--axis:#6b7680;--c0:#5aa9f2;--c1:#ff8a57;--c2:#69c77b;--c3:#d78ae8;--c4:#e3c04a;--c5:#4fc3d4;-"
    "-c6:#f2799f;"
    "--c7:#a592f5}}\n"
    "*{box-sizing:border-box}body{margin:0 "
    "auto;max-width:1360px;padding:16px;background:var(--bg);color:var(--ink);"
    "font:15px/1.45 system-ui,-apple-system,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif}\n"
    "h1{font-size:22px;margin:4px 0 2px}h2{font-size:17px;margin:26px 0 8px}p{margin:4px 0 "
    "10px;color:var(--dim)}\n"
    ".runs{display:inline-block;margin:4px 16px 4px "
    "0;font-weight:600;overflow-wrap:anywhere;cursor:pointer}"
    "input{margin:0 6px 0 0;vertical-align:middle}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr));gap:"
    "14px;margin-top:10px}"
    ".charts>div{min-width:0}\n"
    "figure{margin:0;background:var(--card);border:1px solid "
    "var(--grid);border-radius:8px;padding:10px "
    "12px;min-width:0}"
    "figcaption{font-weight:600;overflow-wrap:anywhere}small{font-weight:400;color:var(--dim);font-"
    "size:13px}\n"
    "svg{display:block;width:100%;height:auto}svg text{font-size:14px;fill:var(--dim);"
    "font-variant-numeric:tabular-nums}\n"
    "svg path,svg line{fill:none;stroke-linejoin:round;stroke-linecap:round;stroke-width:1.8}"
    "svg .grid{stroke:var(--grid);stroke-width:1}svg .axis,svg "
    ".tick{stroke:var(--axis);stroke-width:1}\n"
    "svg .raw{stroke-width:1;opacity:.35}svg .smooth{stroke-width:2.2}"
    "svg .restart{stroke-width:1.2;stroke-dasharray:2 5;opacity:.9}svg .skipped,svg "
    ".area{stroke:none}"
    "svg .area{opacity:.75}svg .weight{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:5 4}\n"
    ".dash1{stroke-dasharray:7 4}.dash2{stroke-dasharray:2 4}.dash3{stroke-dasharray:9 3 2 3}\n"
    ".keys{list-style:none;margin:4px 0 "
    "0;padding:0;font-size:13px;display:flex;flex-wrap:wrap;gap:2px 14px}"
    ".keys "
    "li{overflow-wrap:anywhere}i{display:inline-block;width:14px;height:4px;border-radius:2px;"
    "margin-right:6px;"
    "vertical-align:middle}i.dashed{opacity:.6}.swatch{height:11px;width:11px}\n"
    ".scroll{overflow-x:auto;background:var(--card);border:1px solid var(--grid);border-radius:8px}"
    "table{border-collapse:collapse;font-size:13px;width:100%}th,td{padding:4px "
    "10px;text-align:left;"
    "border-bottom:1px solid var(--grid);vertical-align:top}tr:last-child>*{border-bottom:0}"
    "th{font-weight:600;white-space:nowrap}td{font-variant-numeric:tabular-nums}.n{text-align:"
    "right;white-space:nowrap}"
    ".differs td{font-weight:600}.hash{font-family:ui-monospace,'DejaVu Sans "
    "Mono',monospace;font-size:12px}\n"
    "@media (max-width:620px){body{padding:10px}figure{padding:8px 6px}svg text{font-size:21px}}\n";

static inline void colors_style_(JsonWriter *w) {
    for (int c = 0; c < COLORS; c++) {
        text_format_(
            w, "svg .c%d{stroke:var(--c%d)}svg .f%d{fill:var(--c%d)}.b%d{background:var(--c%d)}\n",
            c, c, c, c, c, c);
    }
}

// Last part of a path; of the shards in a prepared folder, the folder's. To be freed; NULL if there
// is no memory.
static inline char *short_name_(const char *path) {
    static const char *endings[] = {"/train.bin", "/val.bin"};
    char *name = strdup(path), *slash;
    for (size_t i = 0; i < 2 && name; i++) {
        size_t length = strlen(name), end = strlen(endings[i]);
        if (length > end && !strcmp(name + length - end, endings[i])) {
            name[length - end] = 0;
        }
    }
    for (size_t length = name ? strlen(name) : 0; length > 1 && name[length - 1] == '/'; length--) {
        name[length - 1] = 0;
    }
    slash = name ? strrchr(name, '/') : NULL;
    if (slash && slash[1]) {
        memmove(name, slash + 1, strlen(slash));
    }
    return name;
}

static inline void free_strings_(char **strings, size_t count) {
    for (size_t i = 0; strings && i < count; i++) {
        free(strings[i]);
    }
    free(strings);
}

// Short names of `count` paths, in full where the short one would name two of them. NULL if there
// is no memory.
static inline char **short_names_(const char *const *paths, size_t count) {
    char **names = calloc(count + 1, sizeof *names);
    bool *twice = calloc(count + 1, sizeof *twice);
    bool ok = names && twice;
    for (size_t i = 0; i < count && ok; i++) {
        ok = (names[i] = short_name_(paths[i])) != NULL;
    }
    for (size_t i = 0; i < count && ok; i++) {
        for (size_t j = 0; j < count && !twice[i]; j++) {
            twice[i] = i != j && !strcmp(names[i], names[j]);
        }
    }
    for (size_t i = 0; i < count && ok; i++) {
        if (twice[i]) {
            free(names[i]);
            ok = (names[i] = strdup(paths[i])) != NULL;
        }
    }
    free(twice);
    if (!ok) {
        free_strings_(names, count);
        return NULL;
    }
    return names;
}

static inline void duration_text_(double seconds, char text[48]) {
    unsigned long long s = seconds < 1e15 ? (unsigned long long)(seconds + 0.5) : 0;
    snprintf(text, 48, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
}

static inline void table_number_(JsonWriter *w, bool known, const char *format_text) {
    text_format_(w, "<td class=\"n\">%s</td>", known ? format_text : "&#8211;");
}

static inline void page_results_(JsonWriter *w, const RunLog *runs, size_t count) {
    static const char *heads[] = {
        "Run",      "Steps", "Tokens",        "Loss",    "Val. loss", "Best val. (step)",
        "Tokens/s", "MFU",   "Time of steps", "Skipped", "Restarts",  "Notes"};
    text_format_(w, "<h2>Results</h2><div class=\"scroll\"><table id=\"results\"><thead><tr>");
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        text_format_(w, "<th scope=\"col\"%s>%s</th>", i > 0 && i < 11 ? " class=\"n\"" : "",
                     heads[i]);
    }
    text_format_(w, "</tr></thead><tbody>\n");
    for (size_t i = 0; i < count; i++) {
        const RunLog *r = &runs[i];
        char text[96], number[32], time_text[48];
        uint64_t planned = uint_or_(json_get(json_get(r->head.root, "options"), "steps"), 0);
        double read = r->steps * tokens_per_step_(r->head.root), mfu = 0, points = 0;
        for (size_t b = 0; b < r->mfu.count; b++) {
            mfu += r->mfu.buckets[b].sum;
            points += (double)r->mfu.buckets[b].count;
        }
        text_format_(w, "<tr><th scope=\"row\"><i class=\"swatch b%zu\"></i>", i % COLORS);
        text_html_(w, r->label);
        text_format_(w, "</th>");
        snprintf(text, sizeof text, planned ? "%llu of %llu" : "%llu",
                 (unsigned long long)r->last_step, (unsigned long long)planned);
        table_number_(w, true, text);
        table_number_(w, r->tokens > 0, number_short_((double)r->tokens, number));
        snprintf(text, sizeof text, "%.4f", r->loss.last);
        table_number_(w, r->loss.points > 0, text);
        snprintf(text, sizeof text, "%.4f", r->val_loss.last);
        table_number_(w, r->val_loss.points > 0, text);
        snprintf(text, sizeof text, "%.4f (%llu)", r->best_val,
                 (unsigned long long)r->best_val_step);
        table_number_(w, r->val_loss.points > 0, text);
        table_number_(w, r->seconds > 0 && read > 0, number_short_(read / r->seconds, number));
        snprintf(text, sizeof text, "%.1f %%", mfu / points);
        table_number_(w, points > 0, text);
        duration_text_(r->seconds, time_text);
        table_number_(w, r->seconds > 0, time_text);
        snprintf(text, sizeof text, "%llu", (unsigned long long)r->skipped.count);
        table_number_(w, true, text);
        snprintf(text, sizeof text, "%llu", (unsigned long long)r->restarts.count);
        table_number_(w, true, text);
        text_format_(w, "<td>%s", r->cut ? "the last line of the log is incomplete; " : "");
        if (r->broken) {
            text_format_(w, "%llu broken line%s left out; ", (unsigned long long)r->broken,
                         r->broken == 1 ? "" : "s");
        }
        if (r->ignored) {
            text_format_(w, "%llu line%s out of order left out; ", (unsigned long long)r->ignored,
                         r->ignored == 1 ? "" : "s");
        }
        if (r->skipped.count > MARKS_KEPT || r->restarts.count > MARKS_KEPT) {
            text_format_(w, "the first %d skipped steps and restarts are marked", MARKS_KEPT);
        }
        text_format_(w, "</td></tr>\n");
    }
    text_format_(w, "</tbody></table></div>\n");
}

// The data sets of each run: wanted and read.
static inline void page_data_(JsonWriter *w, const RunLog *runs, size_t count) {
    text_format_(
        w,
        "<h2>Data</h2><div class=\"scroll\"><table id=\"data\"><thead><tr><th "
        "scope=\"col\">Run</th>"
        "<th scope=\"col\">Data set</th><th scope=\"col\" class=\"n\">Tokens</th>"
        "<th scope=\"col\" class=\"n\">Weight</th><th scope=\"col\" class=\"n\">Share read</th>"
        "<th scope=\"col\" class=\"n\">Samples read</th><th scope=\"col\" class=\"n\">Epochs</th>"
        "<th scope=\"col\">SHA-256</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < count; i++) {
        const RunLog *r = &runs[i];
        double all = 0, last, per_sample = number_or_(json_get(r->head.root, "seq_len"), 0);
        const Json *entry;
        for (size_t s = 0; s < r->samples_count; s++) {
            all += r->samples[s].last;
        }
        for (size_t s = 0; (entry = data_entry_(r->head.root, "data", s)); s++) {
            char number[32], text[64];
            const char *hash = json_string(json_get(entry, "sha256"));
            double samples = number_or_(json_get(entry, "samples"), 0), weight = 0;
            bool several = s < r->samples_count,
                 has_weight = json_double(json_get(entry, "weight"), &weight);
            last = several          ? r->samples[s].last
                   : per_sample > 0 ? (double)r->tokens / per_sample
                                    : 0;
            text_format_(w, "<tr><td>");
            text_html_(w, r->label);
            text_format_(w, "</td><td>");
            text_html_(w, data_path_(r->head.root, s));
            text_format_(w, "</td>");
            table_number_(w, true, number_short_(number_or_(json_get(entry, "tokens"), 0), number));
            table_number_(w, has_weight, number_short_(weight, number));
            snprintf(text, sizeof text, "%.2f %%", several && all > 0 ? 100 * last / all : 100);
            table_number_(w, several || r->samples_count == 0, text);
            table_number_(w, true, number_short_(last, number));
            snprintf(text, sizeof text, "%.2f", last / samples);
            table_number_(w, samples > 0, text);
            text_format_(w, "<td class=\"hash\">");
            text_html_(w, hash ? hash : "not hashed");
            text_format_(w, "</td></tr>\n");
        }
    }
    text_format_(w, "</tbody></table></div>\n");
}

static inline bool is_scalar_(const Json *node) {
    return node->kind != JSON_ARRAY && node->kind != JSON_OBJECT;
}

static inline const char *scalar_text_(const Json *node) {
    return !node || node->kind == JSON_NULL ? "–"
           : !is_scalar_(node)              ? "(several)"
           : node->kind == JSON_BOOL        ? (node->boolean ? "yes" : "no")
                                            : node->text;
}

// How a value of the configuration is shown: fractions with six digits.
static inline void scalar_show_(JsonWriter *w, const Json *node) {
    double value;
    if (json_double(node, &value) && strpbrk(node->text, ".eE")) {
        text_format_(w, "%.6g", value);
    } else {
        text_html_(w, scalar_text_(node));
    }
}

// A row for each key of `group` of the runs' first lines (NULL: of the line itself). Rows in which
// runs differ stand out.
static inline void page_config_rows_(JsonWriter *w, const RunLog *runs, size_t count,
                                     const char *group) {
    for (size_t i = 0; i < count; i++) {
        const Json *own = group ? json_get(runs[i].head.root, group) : runs[i].head.root;
        for (const Json *m = own && own->kind == JSON_OBJECT ? own->child : NULL; m; m = m->next) {
            bool seen =
                !is_scalar_(m) || !strcmp(m->key, "program") || !strcmp(m->key, "from_step");
            bool differs = false;
            for (size_t j = 0; j < count; j++) {
                const Json *other = json_get(
                    group ? json_get(runs[j].head.root, group) : runs[j].head.root, m->key);
                seen |= j < i && other;
                differs |= strcmp(scalar_text_(other), scalar_text_(m)) != 0;
            }
            if (seen) {
                continue;
            }
            text_format_(w, "<tr%s><th scope=\"row\">", differs ? " class=\"differs\"" : "");
            text_html_(w, m->key);
            text_format_(w, "</th>");
            for (size_t j = 0; j < count; j++) {
                text_format_(w, "<td>");
                scalar_show_(
                    w, json_get(group ? json_get(runs[j].head.root, group) : runs[j].head.root,
                                m->key));
                text_format_(w, "</td>");
            }
            text_format_(w, "</tr>\n");
        }
    }
}

static inline void page_config_(JsonWriter *w, const RunLog *runs, size_t count) {
    text_format_(
        w, "<h2>Configuration</h2><div class=\"scroll\"><table id=\"config\"><thead><tr><th></th>");
    for (size_t i = 0; i < count; i++) {
        text_format_(w, "<th scope=\"col\"><i class=\"swatch b%zu\"></i>", i % COLORS);
        text_html_(w, runs[i].label);
        text_format_(w, "</th>");
    }
    text_format_(w, "</tr></thead><tbody>\n");
    page_config_rows_(w, runs, count, NULL);
    page_config_rows_(w, runs, count, "options");
    text_format_(w, "</tbody></table></div>\n");
}

// Charts that show one curve of every run. `which` is the curve's place in RunLog.
static inline bool page_curves_(JsonWriter *w, Chart chart, size_t which, bool smooth, bool marks) {
    Series *series = calloc(chart.run_count, sizeof *series);
    for (size_t i = 0; i < chart.run_count && series; i++) {
        series[i] =
            (Series){.name = chart.runs[i].label,
                     .curve = (const Curve *)(const void *)((const char *)&chart.runs[i] + which),
                     .run = i,
                     .color = i,
                     .smooth = smooth};
    }
    chart.series = series;
    chart.count = chart.run_count;
    chart.run_count = marks ? chart.run_count : 0;
    if (series) {
        chart_write_(w, &chart, false);
    }
    free(series);
    return series != NULL;
}

// Validation loss by data set. Of one run: one chart, a line per set. Of several: a chart per set
// with a line per run.
static inline bool page_val_sources_(JsonWriter *w, const RunLog *runs, size_t count,
                                     const char *x_label) {
    enum { MOST = 4 * COLORS };
    size_t names_count = 0, most = 0;
    for (size_t i = 0; i < count; i++) {
        most += runs[i].val_count;
    }
    const char **paths = calloc(most + 1, sizeof *paths);
    char **names = NULL;
    for (size_t i = 0; i < count && paths; i++) {
        for (size_t s = 0; s < runs[i].val_count; s++) {
            size_t at = 0;
            while (at < names_count && strcmp(paths[at], runs[i].val[s].name)) {
                at++;
            }
            paths[at] = runs[i].val[s].name;
            names_count += at == names_count;
        }
    }
    names = paths ? short_names_(paths, names_count) : NULL;
    Series *series = calloc((count > 1 ? count : names_count) + 1, sizeof *series);
    bool ok = names && series;
    Chart chart = {.unit = "nats per token", .log_y = true, .x_label = x_label, .series = series};
    size_t shown = names_count < MOST ? names_count : MOST;
    for (size_t n = 0; n < shown && ok; n++) {
        chart.count = count > 1 ? 0 : chart.count;
        for (size_t i = 0; i < count; i++) {
            for (size_t s = 0; s < runs[i].val_count; s++) {
                if (!strcmp(runs[i].val[s].name, paths[n])) {
                    series[chart.count++] = (Series){.name = count > 1 ? runs[i].label : names[n],
                                                     .curve = &runs[i].val[s].curve,
                                                     .run = i,
                                                     .color = count > 1 ? i : n};
                }
            }
        }
        if (count > 1) {
            char id[32], title[256];
            snprintf(id, sizeof id, "val-source%zu", n);
            snprintf(title, sizeof title, "Validation loss: %.200s", names[n]);
            chart.id = id, chart.title = title;
            chart_write_(w, &chart, false);
        }
    }
    if (ok && count == 1 && shown > 0) {
        chart.id = "val-sources", chart.title = "Validation loss by data set";
        chart_write_(w, &chart, true);
    }
    if (ok && shown < names_count) {
        text_format_(w, "<p>%zu more data sets have validation losses, which are not drawn.</p>",
                     names_count - shown);
    }
    free_strings_(names, names_count);
    free(paths);
    free(series);
    return ok;
}

static inline bool page_shares_(JsonWriter *w, const RunLog *r, size_t run, const char *x_label) {
    if (r->samples_count < 2) {
        return true;
    }
    const char **paths = calloc(r->samples_count, sizeof *paths);
    for (size_t s = 0; s < r->samples_count && paths; s++) {
        paths[s] = data_path_(r->head.root, s);
    }
    char **names = paths ? short_names_(paths, r->samples_count) : NULL;
    bool ok = names && chart_shares_(w, r, run, x_label, names);
    free_strings_(names, r->samples_count);
    free(paths);
    return ok;
}

static inline bool page_write_(JsonWriter *w, const RunLog *runs, size_t count, bool by_tokens) {
    const char *x_label = by_tokens ? "tokens" : "step";
    text_format_(w,
                 "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\"><head>"
                 "<meta charset=\"utf-8\"/><meta http-equiv=\"Content-Security-Policy\" "
                 "content=\"default-src 'none'; style-src "
                 "'unsafe-inline'; img-src data:\"/><meta name=\"viewport\" "
                 "content=\"width=device-width,initial-scale=1\"/>"
                 "<link rel=\"icon\" href=\"data:,\"/><title>Training report: ");
    for (size_t i = 0; i < count; i++) {
        text_html_(w, i ? ", " : "");
        text_html_(w, runs[i].label);
    }
    text_format_(w, "</title><style>\n");
    json_append(w, page_style_, sizeof page_style_ - 1);
    colors_style_(w);
    for (size_t i = 0; i < count; i++) {
        text_format_(w, "#show%zu:not(:checked)~main .run%zu{display:none}\n", i, i);
    }
    text_format_(w,
                 "</style></head><body>\n<h1>Training report</h1>\n<p>%s; thin lines are the "
                 "values of the log, thick "
                 "ones their mean over a sixtieth of the run. Triangles: skipped steps; dotted "
                 "verticals: restarts."
                 "</p>\n",
                 count > 1 ? "A box takes a run off the charts" : "One run");
    for (size_t i = 0; i < count; i++) {
        text_format_(
            w,
            "<input type=\"checkbox\" id=\"show%zu\" checked=\"checked\"/><label class=\"runs\" "
            "for=\"show%zu\"><i class=\"swatch b%zu\"></i>",
            i, i, i % COLORS);
        text_html_(w, runs[i].label);
        text_format_(w, "</label>\n");
    }
    text_format_(w, "<main>\n<div class=\"charts\">\n");
    const struct {
        Chart chart;
        size_t which;
        bool smooth, marks;
    } charts[] = {
        {{.id = "loss", .title = "Training loss", .unit = "nats per token", .log_y = true},
         offsetof(RunLog, loss),
         true,
         true},
        {{.id = "val-loss", .title = "Validation loss", .unit = "nats per token", .log_y = true},
         offsetof(RunLog, val_loss),
         false,
         false},
        {{.id = "lr", .title = "Learning rate", .unit = "", .from_zero = true},
         offsetof(RunLog, lr),
         false,
         false},
        {{.id = "grad-norm", .title = "Gradient norm", .unit = "before clipping", .log_y = true},
         offsetof(RunLog, grad_norm),
         true,
         true},
        {{.id = "tokens-per-s", .title = "Speed", .unit = "tokens per second", .from_zero = true},
         offsetof(RunLog, tokens_per_s),
         true,
         false},
        {{.id = "mfu", .title = "MFU", .unit = "% of the measured peak FLOP/s", .from_zero = true},
         offsetof(RunLog, mfu),
         true,
         false},
        {{.id = "comm",
          .title = "Communication",
          .unit = "% of the step that compute does not hide",
          .from_zero = true},
         offsetof(RunLog, comm),
         true,
         false},
    };
    bool ok = true;
    for (size_t i = 0; i < sizeof charts / sizeof *charts && ok; i++) {
        Chart chart = charts[i].chart;
        chart.x_label = x_label, chart.runs = runs, chart.run_count = count;
        ok = page_curves_(w, chart, charts[i].which, charts[i].smooth, charts[i].marks) &&
             (i != 1 || page_val_sources_(w, runs, count, x_label));
    }
    for (size_t i = 0; i < count && ok; i++) {
        ok = page_shares_(w, &runs[i], i, x_label);
    }
    text_format_(w, "</div>\n");
    page_results_(w, runs, count);
    page_data_(w, runs, count);
    page_config_(w, runs, count);
    text_format_(w, "</main></body></html>\n");
    return ok && !w->failed;
}

// Reads the first line of each run and finds whether their steps have equally many tokens; if not,
// tokens are what the runs are to be compared over.
static inline bool runs_differ_in_step_(const char *const *directories, size_t count, bool *differ,
                                        Error *e) {
    double first = 0;
    *differ = false;
    for (size_t i = 0; i < count; i++) {
        JsonDocument head;
        LineReader_ lines;
        if (!run_head_(directories[i], &head, &lines, e)) {
            return false;
        }
        double tokens = tokens_per_step_(head.root);
        first = i ? first : tokens;
        *differ |= tokens != first;
        json_free(&head);
        lines_close_(&lines);
    }
    return true;
}

// Writes a page about the runs in these folders to `out`; the file appears only when it is whole.
// The logs are read as streams: memory does not depend on their length. A folder that is no run is
// an error.
static inline bool report_page(const char *const *directories, size_t count, const char *out,
                               Error *e) {
    char temporary[PATH_LIMIT], hash[65];
    bool by_tokens;
    OutputFile file;
    JsonWriter page = {0};
    if (!runs_differ_in_step_(directories, count, &by_tokens, e)) {
        return false;
    }
    RunLog *runs = calloc(count, sizeof *runs);
    char **labels = short_names_(directories, count);
    bool ok = (runs && labels) || fail(e, "no memory for %zu runs", count);
    for (size_t i = 0; i < count && ok; i++) {
        ok = run_read_(&runs[i], directories[i], by_tokens, UINT64_MAX, e);
        if (ok) {
            runs[i].label = labels[i];
            labels[i] = NULL;
        }
    }
    ok = ok &&
         (page_write_(&page, runs, count, by_tokens) || fail(e, "%s: no memory to write it", out));
    if (ok && path_format(temporary, e, "%s.new", out) && output_open(&file, temporary, e)) {
        ok = output_write(&file, page.data, page.length, e);
        ok = output_close(&file, hash, ok ? e : &(Error){0}) && ok;
        ok = ok && (!rename(temporary, out) ||
                    fail(e, "%s: cannot be replaced: %s", out, strerror(errno)));
        if (!ok) {
            unlink(temporary);
        }
    } else {
        ok = false;
    }
    for (size_t i = 0; i < count && runs; i++) {
        run_free_(&runs[i]);
    }
    free(runs);
    free_strings_(labels, count);
    free(page.data);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Model card: README.md of a checkpoint, as the Hugging Face hub shows it: YAML between two ---,
// then Markdown. Only the part "Hardware and time" differs between two runs that compute the same.

// Escapes for the cell of a Markdown table.
static inline void text_markdown_(JsonWriter *w, const char *text) {
    for (size_t left = strlen(text), n; left > 0; text += n, left -= n) {
        uint32_t c = 0;
        n = utf8_decode(text, left, &c);
        if (n == 0 || c < 0x20 || c == 0x7F) {
            json_append(w, n ? " " : "\uFFFD", n ? 1 : 3);
            n = 1;
        } else if (n == 1 && strchr("\\`*_{}[]<>()#!|&~", *text)) {
            text_format_(w, "\\%c", *text);
        } else {
            json_append(w, text, n);
        }
    }
}

// A whole number with a comma before each three digits.
static inline const char *number_grouped_(uint64_t value, char text[32]) {
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value), at = 0;
    for (int i = 0; i < n; i++) {
        text[at++] = digits[i];
        if (i + 1 < n && (n - 1 - i) % 3 == 0) {
            text[at++] = ',';
        }
    }
    text[at] = 0;
    return text;
}

// A number that was computed from what files state as a whole number; 0 for what is none.
static inline uint64_t whole_number_(double value) {
    return value >= 0 && value < 0x1p64 ? (uint64_t)value : 0;
}

// Documents by the value of a facet of their origin (source, license, language), added up over
// sources and data sets.
typedef struct {
    struct {
        const char *value; // points into a manifest
        uint64_t documents;
    } * items;
    size_t count;
    uint64_t other, stated; // documents with other values than `items`; with any value
} Facet_;

enum { FACET_VALUES = 1000 };

static inline bool facet_add_(Facet_ *f, const Json *origin, const char *name) {
    const Json *list = json_get(origin, name);
    for (const Json *m = list && list->kind == JSON_ARRAY ? list->child : NULL; m; m = m->next) {
        const char *value = json_string(json_get(m, "value"));
        uint64_t documents = uint_or_(json_get(m, "documents"), 0);
        size_t at = 0;
        f->stated += documents;
        while (value && at < f->count && strcmp(f->items[at].value, value)) {
            at++;
        }
        if (!value || at == FACET_VALUES) {
            f->other += documents;
            continue;
        }
        if (at == f->count) {
            void *items = realloc(f->items, (f->count + 1) * sizeof *f->items);
            if (!items) {
                return false;
            }
            f->items = items;
            f->items[f->count].value = value;
            f->items[f->count++].documents = 0;
        }
        f->items[at].documents += documents;
    }
    return true;
}

// Index of the largest item smaller than the one before it in this order: documents down, then
// names up. Start with SIZE_MAX; SIZE_MAX at the end.
static inline size_t facet_next_(const Facet_ *f, size_t before) {
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < f->count; i++) {
        const size_t others[2] = {before, best};
        int order[2]; // > 0: item i comes after the other
        for (int k = 0; k < 2; k++) {
            size_t j = others[k];
            order[k] = j == SIZE_MAX ? 0
                       : f->items[i].documents != f->items[j].documents
                           ? (f->items[i].documents < f->items[j].documents ? 1 : -1)
                           : strcmp(f->items[i].value, f->items[j].value);
        }
        if ((before == SIZE_MAX || order[0] > 0) && (best == SIZE_MAX || order[1] < 0)) {
            best = i;
        }
    }
    return best;
}

// A facet in one cell: the value if all `documents` have it, else the commonest with their counts.
static inline void facet_cell_(JsonWriter *w, const Facet_ *f, uint64_t documents) {
    char number[32];
    size_t shown = 0;
    uint64_t counted = 0;
    for (size_t i = facet_next_(f, SIZE_MAX); i != SIZE_MAX && shown < 4;
         i = facet_next_(f, i), shown++) {
        text_format_(w, "%s", shown ? ", " : "");
        text_markdown_(w, f->items[i].value);
        counted += f->items[i].documents;
        if (f->items[i].documents != documents) {
            text_format_(w, ": %s", number_grouped_(f->items[i].documents, number));
        }
    }
    if (f->stated > counted) {
        text_format_(w, "%sothers: %s", shown ? ", " : "",
                     number_grouped_(f->stated - counted, number));
    }
    if (f->stated < documents) {
        text_format_(w, f->stated ? ", not stated: %s" : "not stated",
                     number_grouped_(documents - f->stated, number));
    }
}

// A facet as a table of its own.
static inline void facet_table_(JsonWriter *w, const Facet_ *f, const char *title,
                                uint64_t documents) {
    enum { ROWS = 20 };
    char number[32];
    size_t shown = 0;
    uint64_t counted = 0;
    text_format_(w, "| %s | documents | share |\n| --- | ---: | ---: |\n", title);
    for (size_t i = facet_next_(f, SIZE_MAX); i != SIZE_MAX && shown < ROWS;
         i = facet_next_(f, i), shown++) {
        text_format_(w, "| ");
        text_markdown_(w, f->items[i].value);
        text_format_(w, " | %s | %.2f %% |\n", number_grouped_(f->items[i].documents, number),
                     100 * (double)f->items[i].documents / (double)documents);
        counted += f->items[i].documents;
    }
    if (f->stated > counted) {
        text_format_(w, "| %zu others | %s | %.2f %% |\n", f->count - shown + (f->other > 0),
                     number_grouped_(f->stated - counted, number),
                     100 * (double)(f->stated - counted) / (double)documents);
    }
    if (f->stated < documents) {
        text_format_(w, "| not stated | %s | %.2f %% |\n",
                     number_grouped_(documents - f->stated, number),
                     100 * (double)(documents - f->stated) / (double)documents);
    }
    text_format_(w, "\n");
}

// The manifest of a training set: that of the folder, if `path` names a prepared folder or the
// shards in one.
typedef struct {
    JsonDocument document; // root is NULL if there is none
    char hash[65];
    Error reason; // why there is none, if there should be one
} Manifest_;

static inline void manifest_load_(Manifest_ *m, const Json *entry) {
    char path[PATH_LIMIT], folder[PATH_LIMIT];
    const char *name = json_string(json_get(entry, "path")), *ending = "/train.bin";
    const char *hash = json_string(json_get(entry, "sha256"));
    *m = (Manifest_){0};
    if (!name || !path_format(folder, &m->reason, "%s", name)) {
        return;
    }
    size_t length = strlen(folder), end = strlen(ending);
    if (length > end && !strcmp(folder + length - end, ending)) {
        folder[length - end] = 0;
    }
    if (!path_format(path, &m->reason, "%s/manifest.json", folder) || access(path, F_OK)) {
        return;
    }
    if (!sha256_file(path, m->hash, &m->reason) ||
        !json_parse_file(&m->document, path, (size_t)1 << 31, &m->reason)) {
        return;
    }
    const Json *split = json_get(json_get(m->document.root, "splits"), "train");
    const char *known = json_string(json_get(json_get(split, "bin"), "sha256"));
    if (hash && (!known || strcmp(hash, known))) {
        fail(&m->reason, "%s: belongs to other shards than those of this run", path);
        json_free(&m->document);
    }
}

static inline void card_source_row_(JsonWriter *w, const Json *source, double all_tokens) {
    static const char *names[] = {"source", "license", "language"};
    char number[32];
    const char *path = json_string(json_get(source, "path")),
               *hash = json_string(json_get(source, "sha256"));
    uint64_t documents = uint_or_(json_get(source, "documents"), 0),
             tokens = uint_or_(json_get(source, "tokens"), 0);
    text_format_(w, "| ");
    text_markdown_(w, path ? path : "?");
    text_format_(w, " | %s", number_grouped_(documents, number));
    text_format_(w, " | %s | %.2f %% |", number_grouped_(tokens, number),
                 all_tokens > 0 ? 100 * (double)tokens / all_tokens : 0);
    for (size_t f = 0; f < 3; f++) {
        Facet_ facet = {0};
        w->failed |= !facet_add_(&facet, json_get(source, "origin"), names[f]);
        text_format_(w, " ");
        facet_cell_(w, &facet, documents);
        text_format_(w, " |");
        free(facet.items);
    }
    text_format_(w, " `");
    text_markdown_(w, hash ? hash : "not stated");
    text_format_(w, "` |\n");
}

// The sources of one training set: a row each where they are few, else by what is known of them.
static inline void card_sources_(JsonWriter *w, const Manifest_ *m, const char *path) {
    enum { FEW = 20 };
    static const char *names[] = {"source", "license", "language"},
                      *titles[] = {"origin", "licence", "language"};
    const Json *sources = json_get(m->document.root, "sources");
    char number[32];
    uint64_t documents = 0, tokens = 0;
    text_format_(w, "### ");
    text_markdown_(w, path);
    text_format_(w, "\n\n");
    if (!m->document.root) {
        text_markdown_(w, m->reason.text[0] ? m->reason.text
                                            : "Nothing is known of where these tokens come from.");
        text_format_(w, "\n\n");
        return;
    }
    const Json *first = sources && sources->kind == JSON_ARRAY ? sources->child : NULL;
    Facet_ facets[3] = {0};
    for (const Json *s = first; s; s = s->next) {
        documents += uint_or_(json_get(s, "documents"), 0);
        tokens += uint_or_(json_get(s, "tokens"), 0);
        for (int f = 0; f < 3; f++) {
            w->failed |= !facet_add_(&facets[f], json_get(s, "origin"), names[f]);
        }
    }
    text_format_(w, "%zu source file%s, ", first ? sources->length : 0,
                 first && sources->length == 1 ? "" : "s");
    text_format_(w, "%s documents, ", number_grouped_(documents, number));
    text_format_(
        w, "%s tokens, those kept for validation included. SHA-256 of manifest.json: `%s`.\n\n",
        number_grouped_(tokens, number), m->hash);
    if (first && sources->length <= FEW) {
        text_format_(
            w,
            "| source file | documents | tokens | share | origin | licence | language | SHA-256 |\n"
            "| --- | ---: | ---: | ---: | --- | --- | --- | --- |\n");
        for (const Json *s = first; s; s = s->next) {
            card_source_row_(w, s, (double)tokens);
        }
        text_format_(w, "\n");
    } else if (first && documents > 0) {
        for (int f = 0; f < 3; f++) {
            facet_table_(w, &facets[f], titles[f], documents);
        }
    }
    for (int f = 0; f < 3; f++) {
        free(facets[f].items);
    }
}

static inline bool is_hub_license_(const char *name) {
    static const char *known[] = {"apache-2.0",      "mit",          "cc0-1.0",      "cc-by-3.0",
                                  "cc-by-4.0",       "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
                                  "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "odc-by",       "gpl-2.0",
                                  "gpl-3.0",         "lgpl-2.1",     "lgpl-3.0",     "bsd-2-clause",
                                  "bsd-3-clause",    "unlicense",    "pddl"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!strcmp(known[i], name)) {
            return true;
        }
    }
    return false;
}

// The head of the card. A licence stands there only if every document has one and the same, and the
// hub knows it; a language if its name is a code of two or three letters.
static inline void card_front_matter_(JsonWriter *w, const Manifest_ *manifests, size_t count) {
    Facet_ license = {0}, language = {0};
    uint64_t documents = 0;
    bool all_known = count > 0, any = false;
    for (size_t i = 0; i < count; i++) {
        const Json *sources = json_get(manifests[i].document.root, "sources");
        all_known &= sources && sources->kind == JSON_ARRAY;
        for (const Json *s = sources && sources->kind == JSON_ARRAY ? sources->child : NULL; s;
             s = s->next) {
            documents += uint_or_(json_get(s, "documents"), 0);
            w->failed |= !facet_add_(&license, json_get(s, "origin"), "license") ||
                         !facet_add_(&language, json_get(s, "origin"), "language");
        }
    }
    text_format_(w, "---\nlibrary_name: transformers\npipeline_tag: text-generation\n");
    for (size_t i = facet_next_(&language, SIZE_MAX), n = 0; i != SIZE_MAX && n < 100;
         i = facet_next_(&language, i), n++) {
        const char *code = language.items[i].value;
        size_t length = strlen(code);
        if ((length == 2 || length == 3) && strspn(code, "abcdefghijklmnopqrstuvwxyz") == length) {
            text_format_(w, "%s- %s\n", any ? "" : "language:\n", code);
            any = true;
        }
    }
    if (all_known && license.count == 1 && license.items[0].documents == documents) {
        char name[32];
        snprintf(name, sizeof name, "%s", license.items[0].value);
        for (char *c = name; *c; c++) {
            *c = *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c;
        }
        if (is_hub_license_(name)) {
            text_format_(w, "license: %s\n", name);
        }
    }
    text_format_(w, "tags:\n- gpt2\n- train_gpt\n---\n");
    free(license.items);
    free(language.items);
}

static inline void card_row_(JsonWriter *w, const char *name, const Json *value) {
    if (value && value->kind != JSON_NULL && is_scalar_(value)) {
        text_format_(w, "| ");
        text_markdown_(w, name);
        text_format_(w, " | ");
        text_markdown_(w, scalar_text_(value));
        text_format_(w, " |\n");
    }
}

// All options but those that say only where files are and when something is written.
static inline void card_training_(JsonWriter *w, const RunLog *r, const Json *run) {
    static const char *left_out[] = {
        "data",       "val_data", "out",         "resume",     "model",        "layers",
        "heads",      "channels", "seq_len",     "vocab_size", "global_batch", "eval_every",
        "save_every", "keep",     "verify_data", "kernels",    "steps",        "micro_batch"};
    const Json *options = json_get(run, "options");
    char number[32];
    text_format_(w, "## Training\n\n| | |\n| --- | --- |\n| steps done | %s",
                 number_grouped_(r->last_step, number));
    text_format_(w, " of %s |\n", number_grouped_(uint_or_(json_get(options, "steps"), 0), number));
    text_format_(w, "| tokens read | %s |\n", number_grouped_(r->tokens, number));
    text_format_(w, "| tokens read per parameter | %.2f |\n",
                 (double)r->tokens / number_or_(json_get(run, "parameters"), NAN));
    card_row_(w, "sequences in a step (global batch)", json_get(run, "global_batch"));
    card_row_(w, "tokens in a sequence", json_get(run, "seq_len"));
    text_format_(w, "| skipped steps (loss or gradient not finite) | %s |\n",
                 number_grouped_(r->skipped.count, number));
    text_format_(w, "| optimizer | AdamW; matrices decay, vectors do not |\n| precision | float32 "
                    "throughout |\n");
    for (const Json *m = options && options->kind == JSON_OBJECT ? options->child : NULL; m;
         m = m->next) {
        bool out = false;
        for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++) {
            out |= !strcmp(m->key, left_out[i]);
        }
        if (!out) {
            card_row_(w, m->key, m);
        }
    }
    text_format_(w, "\n");
}

// The training loss in characters, which shows wherever the text does: 60 columns of the mean over
// equally many steps each, on a logarithmic scale.
static inline void card_plot_(JsonWriter *w, const Curve *c) {
    enum { COLUMNS = 60, ROWS = 12 };
    double value[COLUMNS], low = INFINITY, high = 0;
    size_t columns = c->count < COLUMNS ? c->count : COLUMNS;
    for (size_t i = 0; i < columns; i++) {
        double sum = 0, count = 0;
        for (size_t b = c->count * i / columns; b < c->count * (i + 1) / columns; b++) {
            sum += c->buckets[b].sum;
            count += (double)c->buckets[b].count;
        }
        value[i] = sum / count;
        low = fmin(low, value[i]);
        high = fmax(high, value[i]);
    }
    if (columns < 2 || !(low > 0) || !isfinite(high)) {
        return;
    }
    high = high > low * 1.01 ? high : low * 1.01;
    text_format_(w, "```text\n  loss\n");
    for (int row = 0; row < ROWS; row++) {
        text_format_(w, "%6.3f |", high * pow(low / high, (double)row / (ROWS - 1)));
        for (size_t i = 0; i < columns; i++) {
            int at = (int)(log(high / value[i]) / log(high / low) * (ROWS - 1) + 0.5);
            text_format_(w, "%c", at == row ? '*' : ' ');
        }
        while (w->length > 0 && w->data && w->data[w->length - 1] == ' ') {
            w->data[--w->length] = 0;
        }
        text_format_(w, "\n");
    }
    text_format_(w, "       +");
    for (size_t i = 0; i < columns; i++) {
        text_format_(w, "-");
    }
    char from[32];
    int length = snprintf(from, sizeof from, "step %.0f", c->x_first);
    int gap = (int)columns - length > 1 ? (int)columns - length : 1;
    text_format_(w, "\n        %s%*.0f\n```\n\n", from, gap, c->x_last);
}

// Ten rows of training loss, and the last ten evals.
static inline void card_losses_(JsonWriter *w, const RunLog *r) {
    enum { ROWS = 10 };
    const Curve *c = &r->loss;
    size_t rows = c->count < ROWS ? c->count : ROWS, evals = r->val_loss.count,
           first = evals > ROWS ? evals - ROWS : 0;
    text_format_(w, "## Loss\n\nIn nats per token.\n\n");
    card_plot_(w, c);
    if (rows > 0) {
        text_format_(w, "| steps | mean training loss |\n| --- | ---: |\n");
    }
    for (size_t i = 0; i < rows; i++) {
        size_t from = c->count * i / rows, to = c->count * (i + 1) / rows;
        double sum = 0, count = 0;
        for (size_t b = from; b < to; b++) {
            sum += c->buckets[b].sum;
            count += (double)c->buckets[b].count;
        }
        text_format_(w, "| %.0f to %.0f | %.4f |\n", c->buckets[from].x_from,
                     to < c->count ? c->buckets[to].x_from - 1 : c->x_last, sum / count);
    }
    text_format_(w, "\n");
    if (evals == 0) {
        text_format_(w, "There was no validation.\n\n");
        return;
    }
    size_t sources = r->val_count <= 8 ? r->val_count : 0;
    text_format_(w, "| step | validation loss | perplexity |");
    for (size_t s = 0; s < sources; s++) {
        text_format_(w, " ");
        text_markdown_(w, r->val[s].name);
        text_format_(w, " |");
    }
    text_format_(w, "\n| ---: | ---: | ---: |");
    for (size_t s = 0; s < sources; s++) {
        text_format_(w, " ---: |");
    }
    text_format_(w, "\n");
    for (size_t i = first; i < evals; i++) {
        const Bucket_ *b = &r->val_loss.buckets[i];
        double mean = b->sum / (double)b->count;
        text_format_(w, "| %.0f | %.4f | %.2f |", b->x_sum / (double)b->count, mean, exp(mean));
        for (size_t s = 0; s < sources; s++) {
            const Curve *own = &r->val[s].curve;
            if (own->count == evals) {
                text_format_(w, " %.4f |", own->buckets[i].sum / (double)own->buckets[i].count);
            } else {
                text_format_(w, " |");
            }
        }
        text_format_(w, "\n");
    }
    text_format_(w, "\n");
    for (size_t s = 0; s < r->val_count && sources == 0; s++) {
        text_format_(w, s ? "| " : "| validation data | loss |\n| --- | ---: |\n| ");
        text_markdown_(w, r->val[s].name);
        text_format_(w, " | %.4f |\n%s", r->val[s].curve.last, s + 1 == r->val_count ? "\n" : "");
    }
}

static inline void card_data_(JsonWriter *w, const RunLog *r, const Json *run,
                              const Manifest_ *manifests, size_t count) {
    double all = 0, T = number_or_(json_get(run, "seq_len"), 0);
    char number[32];
    for (size_t s = 0; s < r->samples_count; s++) {
        all += r->samples[s].last;
    }
    text_format_(w, "## Training data\n\n| data set | weight | share read | tokens read | tokens "
                    "in it | SHA-256 of the "
                    "tokens |\n| --- | ---: | ---: | ---: | ---: | --- |\n");
    for (size_t s = 0; s < count; s++) {
        const Json *entry = data_entry_(run, "data", s);
        const char *hash = json_string(json_get(entry, "sha256"));
        double read = r->samples_count == count ? r->samples[s].last * T
                      : count == 1              ? (double)r->tokens
                                                : NAN;
        text_format_(w, "| ");
        text_markdown_(w, data_path_(run, s));
        text_format_(w, " | %g |", number_or_(json_get(entry, "weight"), 1));
        if (isfinite(read)) {
            text_format_(w, " %.2f %% |", all > 0 ? 100 * read / (all * T) : 100);
            text_format_(w, " %s |", number_grouped_(whole_number_(read), number));
        } else {
            text_format_(w, " | |");
        }
        text_format_(w, " %s |", number_grouped_(uint_or_(json_get(entry, "tokens"), 0), number));
        text_format_(w, " `%s` |\n", hash ? hash : "not hashed");
    }
    text_format_(w, "\n");
    for (size_t s = 0; s < count; s++) {
        card_sources_(w, &manifests[s], data_path_(run, s));
    }
}

static inline void card_hardware_(JsonWriter *w, const RunLog *r, const Json *run) {
    char number[32], duration[48];
    double mfu = 0, points = 0, read = (double)r->steps * tokens_per_step_(run);
    for (size_t b = 0; b < r->mfu.count; b++) {
        mfu += r->mfu.buckets[b].sum;
        points += (double)r->mfu.buckets[b].count;
    }
    duration_text_(r->seconds, duration);
    text_format_(
        w, "## Hardware and time\n\n| | |\n| --- | --- |\n| processes x threads | %llu x %llu |\n",
        (unsigned long long)uint_or_(json_get(run, "ranks"), 0),
        (unsigned long long)uint_or_(json_get(run, "threads"), 0));
    card_row_(w, "kernels", json_get(run, "kernels"));
    card_row_(w, "sequences in a micro-batch", json_get(json_get(run, "options"), "micro_batch"));
    card_row_(w, "train_gpt revision", json_get(run, "git_revision"));
    card_row_(w, "compiler", json_get(run, "compiler"));
    card_row_(w, "compiler flags", json_get(run, "compiler_flags"));
    if (r->seconds > 0) {
        text_format_(w, "| tokens per second | %s |\n",
                     number_grouped_(whole_number_(read / r->seconds), number));
    }
    if (points > 0) {
        text_format_(w, "| share of the measured peak FLOP/s (MFU) | %.1f %% |\n", mfu / points);
    }
    text_format_(w, "| time of all steps | %s |\n| restarts | %llu |", duration,
                 (unsigned long long)r->restarts.count);
}

// Appends the card of the checkpoint at `step` of the run in OUT. `run` (length bytes) is the
// object that describes the run as it goes on now, like the log's first line. Losses and times come
// from the log, sources from the manifests of the data; a manifest that cannot be read is said to
// be so in the card.
static inline bool model_card(JsonWriter *w, const char *out, const char *run, size_t length,
                              uint64_t step, Error *e) {
    JsonDocument document;
    RunLog r;
    char number[32];
    size_t count = 0;
    if (!json_parse(&document, run, length, "the description of the run", e)) {
        return false;
    }
    if (!run_read_(&r, out, false, step, e)) {
        json_free(&document);
        return false;
    }
    const Json *head = document.root;
    while (data_entry_(head, "data", count)) {
        count++;
    }
    Manifest_ *manifests = calloc(count + 1, sizeof *manifests);
    for (size_t i = 0; i < count && manifests; i++) {
        manifest_load_(&manifests[i], data_entry_(head, "data", i));
    }
    if (manifests) {
        const char *init = json_string(json_get(json_get(head, "options"), "init"));
        card_front_matter_(w, manifests, count);
        text_format_(w, "# GPT-2 language model, %s parameters\n\n",
                     number_grouped_(uint_or_(json_get(head, "parameters"), 0), number));
        text_format_(w, "Trained by train_gpt from ");
        text_markdown_(w, init ? init : "random weights");
        text_format_(w, ". It goes on from a text; it was not tuned to follow instructions.\n\n## "
                        "Architecture\n\n"
                        "Decoder-only transformer as GPT-2: learned positions, LayerNorm before "
                        "attention and MLP, GELU "
                        "(tanh form), output head tied to the embedding, no dropout.\n\n| | |\n| "
                        "--- | --- |\n");
        static const char *shape[][2] = {
            {"parameters", "parameters"}, {"layers", "layers"},
            {"channels", "channels"},     {"attention heads", "heads"},
            {"vocabulary", "vocab_size"}, {"tokens in a training sequence", "seq_len"}};
        for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
            text_format_(w, "| %s | %s |\n", shape[i][0],
                         number_grouped_(uint_or_(json_get(head, shape[i][1]), 0), number));
        }
        text_format_(w, "\n");
        card_training_(w, &r, head);
        card_losses_(w, &r);
        card_data_(w, &r, head, manifests, count);
        text_format_(w, "## Limits and risks\n\n- It writes what is likely after the text before, "
                        "true or not, and takes "
                        "over errors and bias of its training data.\n- It can repeat passages of "
                        "its training data word "
                        "for word, with whatever rights and personal data are in them.\n- It was "
                        "measured by the losses "
                        "above alone: no test of knowledge, safety or bias was made.\n\n");
        card_hardware_(w, &r, head);
    }
    bool ok = (manifests && !w->failed) || fail(e, "no memory for the model card");
    for (size_t i = 0; i < count && manifests; i++) {
        json_free(&manifests[i].document);
    }
    free(manifests);
    run_free_(&r);
    json_free(&document);
    return ok;
}

#endif
