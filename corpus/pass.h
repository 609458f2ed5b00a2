// pass.h: a pass takes every unit of the corpus, each by one rank, through the same steps and adds
// up what it found.
#ifndef CORPUS_PASS_H
#define CORPUS_PASS_H

#include "corpus/batch_encode.h"
#include "corpus/batch_parse.h"
#include "corpus/corpus.h"
#include "corpus/progress.h"
#include "corpus/tasks.h"
#include "corpus/unit_result.h"

// A unit at work.
typedef struct {
    Corpus *corpus;
    size_t number;
    const Source *source;
    Batch batch;
    UnitResult result;
    struct {
        FILE *file; // NULL until something is written
        char path[PATH_LIMIT];
    } files[UNIT_FILES];
} UnitRun;

// The steps of a pass; `state` is its own.
typedef struct {
    const char *result; // what it finds in a unit is WORK/parts/NUMBER.RESULT
    const char *title;  // for people
    // What it writes for a unit: first_file .. end_file - 1 of UNIT_FILE. Units of an interrupted
    // run can be used only if there are such files.
    int first_file, end_file;
    void *state;

    // Works on the documents that batch_read took, all threads together.
    bool (*process)(UnitRun *u, Error *e);

    // Writes or keeps what comes of one of them; called in their order.
    bool (*take)(void *state, UnitRun *u, const BatchDocument *d, Error *e);
} Pass;

// ------------------------------------------------------------------------------------------------
// For the steps of a pass

// Writes to a file of the unit.
static inline bool unit_write(UnitRun *u, int file, const void *data, size_t bytes, Error *e) {
    FILE **out = &u->files[file].file;
    char *path = u->files[file].path;
    if (!bytes) {
        return true;
    }
    if (!*out) {
        if (!unit_path(path, u->corpus, u->number, UNIT_FILE[file].name, e)) {
            return false;
        }
        *out = fopen(path, "wb");
        if (!*out) {
            return fail(e, "%s: cannot be created: %s", path, strerror(errno));
        }
    }
    return write_bytes(*out, path, data, bytes, e);
}

// The number of the unit's source.
static inline uint32_t unit_source(const UnitRun *u) {
    return u->corpus->units.items[u->number].source;
}

// What parsing stored of a document.
static inline const char *unit_stored(const UnitRun *u, const BatchDocument *d, Span span) {
    return worker_stored(&u->corpus->workers.items[d->worker], span);
}

static inline bool unit_parse(UnitRun *u, bool scan, Error *e) {
    const Corpus *c = u->corpus;
    return batch_parse(&u->batch, u->source->kind, c->options->text_key, scan, &c->workers, e);
}

// Parses the documents and cuts the texts of those that are not dropped into chunks (batch_cut).
static inline bool unit_cut(UnitRun *u, const Tokenizer *tokenizer, Error *e) {
    return unit_parse(u, false, e) && batch_apply_verdicts(&u->batch, &u->corpus->verdicts, e) &&
           batch_cut(&u->batch, tokenizer, u->source->path, e);
}

// ------------------------------------------------------------------------------------------------
// One unit

// Counts a document, which may turn out to be empty at its end.
static inline void unit_count_(UnitRun *u, BatchDocument *d) {
    Counts *counts = &u->result.counts;
    Batch *b = &u->batch;
    b->text_bytes = (d->begins ? 0 : b->text_bytes) + d->used;
    if (d->state == DOCUMENT_KEPT && d->ends && b->text_bytes == 0) {
        d->state = DOCUMENT_EMPTY;
    }

    switch (d->state) {
    case DOCUMENT_KEPT:
        counts->replaced += d->replaced;
        counts->documents += d->ends;
        counts->text_bytes += d->ends ? b->text_bytes : 0;
        break;
    case DOCUMENT_EMPTY:
        counts->replaced += d->replaced;
        counts->empty++;
        break;
    case DOCUMENT_BLANK_LINE:
        counts->blank_lines++;
        break;
    case DOCUMENT_REJECTED:
        counts->rejected_lines++;
        unit_result_note(&u->result, d->line, unit_stored(u, d, d->why), d->why.length);
        break;
    case DOCUMENT_DROPPED:
        counts->all[count_of_dropped(d->verdict.reason)] += d->ends;
    }
}

// Takes the documents that batch_read took through the pass.
static inline bool unit_take_(UnitRun *u, const Pass *pass, Error *e) {
    bool ok = pass->process(u, e);
    for (size_t i = 0; ok && i < u->batch.document_count; i++) {
        BatchDocument *d = &u->batch.documents[i];
        unit_count_(u, d);
        ok = pass->take(pass->state, u, d, e);
    }
    return ok;
}

// Closes the files, on disk when this returns true; `ok` says whether all went well so far.
static inline bool unit_close_files_(UnitRun *u, bool ok, Error *e) {
    for (int i = 0; i < UNIT_FILES; i++) {
        if (u->files[i].file) {
            ok = close_written(u->files[i].file, u->files[i].path, ok, e);
            u->files[i].file = NULL;
        }
    }
    return ok;
}

static inline bool unit_run_(UnitRun *u, const Pass *pass, size_t number, Progress *p, Error *e) {
    Corpus *c = u->corpus;
    const Unit *unit = &c->units.items[number];
    const ProgressCounts before = p->mine;
    char path[PATH_LIMIT];
    u->number = number;
    u->source = &c->sources.items[unit->source];
    batch_begin_unit(&u->batch);

    Reader r = {.input = -1, .file = -1, .source = u->source};
    bool ok = verdicts_seek(&c->verdicts, number, e) &&
              reader_open(&r, u->source, unit->begin, unit->end, e);
    bool more = u->source->kind == SOURCE_TEXT || r.offset < unit->end;
    while (ok && more && !p->over) {
        uint64_t at = r.offset;
        ok = batch_read(&u->batch, &r, unit->end, &c->workers, e) && unit_take_(u, pass, e);
        more = r.offset < unit->end && !reader_at_end(&r);
        p->mine.text_bytes += r.offset - at;
        p->mine.source_bytes =
            before.source_bytes + min_u64(reader_source_bytes(&r, unit->begin), unit->bytes);
        p->mine.documents = before.documents + u->result.counts.documents;
        progress_poll(p);
    }

    const bool stopped = ok && more; // as another rank has failed
    ok = reader_close(&r, ok && !stopped, e);
    ok = unit_close_files_(u, ok, e);
    if (ok) {
        p->mine.source_bytes = before.source_bytes + unit->bytes;
        u->result.counts.lines = u->source->kind == SOURCE_JSON_LINES ? u->batch.lines : 0;
        ok = unit_path(path, c, number, pass->result, e) && unit_result_save(&u->result, path, e);
    }
    unit_result_free(&u->result);
    return ok || stopped;
}

// ------------------------------------------------------------------------------------------------
// Units of an interrupted run

// Whether a file of the unit has as many bytes as its counts say; one of none need not be there.
static inline bool unit_check_file_(const Corpus *c, size_t unit, const Counts *counts, int file,
                                    Error *e) {
    const uint64_t bytes = unit_file_bytes(c, counts, file);
    char path[PATH_LIMIT];
    struct stat status;
    return bytes == 0 || (unit_path(path, c, unit, UNIT_FILE[file].name, e) &&
                          ((stat(path, &status) == 0 && (uint64_t)status.st_size == bytes) ||
                           fail(e, "%s: should have %llu bytes", path, (unsigned long long)bytes)));
}

// Reads what the pass found in a unit and checks its files. unit_result_free releases the result,
// after a failure too.
static inline bool unit_load_(const Corpus *c, const Pass *pass, size_t unit, UnitResult *r,
                              Error *e) {
    char path[PATH_LIMIT];
    *r = (UnitResult){0};
    bool ok = unit_path(path, c, unit, pass->result, e) && unit_result_load(r, path, e);
    for (int file = pass->first_file; ok && file < pass->end_file; file++) {
        ok = unit_check_file_(c, unit, &r->counts, file, e);
    }
    return ok;
}

// Collective: finds the units that an interrupted run has completed. Returns their source bytes.
static inline uint64_t pass_resume_(const Corpus *c, const Pass *pass, bool *done) {
    const bool resuming = c->work.resuming && pass->first_file < pass->end_file;
    size_t count = 0;
    uint64_t bytes = 0;
    for (size_t u = 0; u < c->units.count && resuming; u++) {
        UnitResult r;
        Error why;
        done[u] = unit_load_(c, pass, u, &r, &why);
        count += done[u];
        bytes += done[u] ? c->units.items[u].bytes : 0;
        unit_result_free(&r);
    }
    if (count && c->options->progress) {
        fprintf(c->options->progress, "%s: resuming with %zu of %zu units done\n", pass->title,
                count, c->units.count);
    }
    broadcast(done, c->units.count * sizeof *done);
    return bytes;
}

// ------------------------------------------------------------------------------------------------
// Adding up, on rank 0

// Adds the result of a unit to its source and to the report. A note becomes "FILE:LINE: what is
// wrong"; `first` gets the one on the source's first rejected line.
static inline bool unit_add_up_(const UnitResult *r, Source *s, PrepareReport *report,
                                char first[NOTE_LIMIT], Error *e) {
    enum { ORIGIN_SOURCE_VALUES = 32 };
    for (size_t i = 0; i < r->note_count; i++) {
        char note[NOTE_LIMIT];
        snprintf(note, sizeof note, "%s:%llu: %.500s", s->path,
                 (unsigned long long)(s->counts.lines + r->notes[i].line), r->notes[i].why);
        utf8_trim(note);
        if (s->counts.rejected_lines == 0 && i == 0) {
            memcpy(first, note, sizeof note);
        }
        if (report->note_count < REPORT_NOTES) {
            memcpy(report->notes[report->note_count++], note, sizeof note);
        }
    }
    counts_add(&s->counts, &r->counts);
    counts_add(&report->counts, &r->counts);
    return origins_add(s->origin, ORIGIN_SOURCE_VALUES, r->origin, e);
}

// A source of which half of the lines or more hold no document is an error.
static inline bool source_check_(const Source *s, const char *first_note, Error *e) {
    uint64_t filled = s->counts.lines - s->counts.blank_lines, rejected = s->counts.rejected_lines;
    return rejected == 0 || rejected < filled - rejected ||
           fail(e, "%s: %llu of %llu lines hold no document, so something is wrong: %.500s",
                s->path, (unsigned long long)rejected, (unsigned long long)filled, first_note);
}

// Whether there are enough documents.
static inline bool report_check_(const Counts *counts, const PrepareOptions *o, Error *e) {
    uint64_t dropped = 0;
    for (uint32_t reason = DROP_SHORT; reason < DROP_REASONS; reason++) {
        dropped += counts->all[count_of_dropped(reason)];
    }
    if (counts->documents == 0 && dropped) {
        return fail(e, "%s: the filters drop all of its %llu documents", o->inputs[0],
                    (unsigned long long)dropped);
    }
    if (counts->documents == 0) {
        return fail(e, "%s: there is no document with any text in the input", o->inputs[0]);
    }
    return counts->documents > 1 || o->val_fraction == 0 ||
           fail(e,
                "%s: holds a single document, which cannot be split: use --val-fraction 0 or more "
                "documents",
                o->inputs[0]);
}

// Rank 0: adds up what the pass found, per source and in all.
static inline bool pass_add_up_(Corpus *c, const Pass *pass, Error *e) {
    const UnitList *units = &c->units;
    char first[NOTE_LIMIT] = "";
    bool ok = true;
    c->report->counts = (Counts){0};
    c->report->note_count = 0;
    for (size_t i = 0; i < c->sources.count; i++) {
        c->sources.items[i].counts = (Counts){0};
        origins_free(c->sources.items[i].origin);
    }
    for (size_t u = 0; ok && u < units->count; u++) {
        uint32_t source = units->items[u].source;
        bool last = u + 1 == units->count || units->items[u + 1].source != source;
        Source *s = &c->sources.items[source];
        UnitResult r;
        ok = unit_load_(c, pass, u, &r, e) && unit_add_up_(&r, s, c->report, first, e);
        c->counts[u] = r.counts;
        unit_result_free(&r);
        ok = ok && (!last || source_check_(s, first, e));
    }
    return ok && report_check_(&c->report->counts, c->options, e);
}

// ------------------------------------------------------------------------------------------------
// All units

// Which units are this rank's. The bytes of those that are done do not count for a rank.
static inline bool pass_share_(const Corpus *c, const bool *done, bool *mine, Error *e) {
    uint64_t *bytes = calloc(c->units.count + 1, sizeof *bytes);
    bool ok = bytes || fail(e, "prepare: no memory for its lists of units");
    for (size_t u = 0; ok && u < c->units.count; u++) {
        bytes[u] = done[u] ? 0 : c->units.items[u].bytes;
    }
    ok = ok && tasks_share(c->world, bytes, c->units.count, mine, e);
    free(bytes);
    return ok;
}

// Collective. done and mine: [units.count], all false.
static inline bool pass_run_units_(Corpus *c, const Pass *pass, bool *done, bool *mine) {
    Error e = {{0}};
    Progress progress = {.world = c->world,
                         .out = c->options->progress,
                         .title = pass->title,
                         .total_bytes = sources_bytes(&c->sources),
                         .resumed_bytes = pass_resume_(c, pass, done)};
    bool ok = pass_share_(c, done, mine, &e);
    if (!world_check(c->world, ok, &e)) {
        return false;
    }

    UnitRun unit = {.corpus = c};
    progress_begin(&progress);
    for (size_t u = 0; ok && u < c->units.count && !progress.over; u++) {
        ok = !mine[u] || done[u] || unit_run_(&unit, pass, u, &progress, &e);
    }
    progress_finish(&progress, ok);
    batch_free(&unit.batch);
    return world_check(c->world, ok, &e) &&
           world_check(c->world, c->world->rank != 0 || pass_add_up_(c, pass, &e), &e);
}

// Collective: takes all units through a pass. Afterwards every rank has their counts, and rank 0
// the sources' counts and the report. On failure the line is printed.
static inline bool pass_run(Corpus *c, const Pass *pass) {
    Error e = {{0}};
    bool *done = calloc(c->units.count + 1, sizeof *done);
    bool *mine = calloc(c->units.count + 1, sizeof *mine);
    bool ok = (done && mine) || fail(&e, "prepare: no memory for its lists of units");
    ok = world_check(c->world, ok, &e) && pass_run_units_(c, pass, done, mine);
    if (ok) {
        broadcast(c->counts, c->units.count * sizeof *c->counts);
    }
    free(done);
    free(mine);
    return ok;
}

#endif
