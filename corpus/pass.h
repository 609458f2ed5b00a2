// pass.h: a pass takes every unit of the corpus, each by one rank, through the same steps and adds
// up what it found.
#ifndef CORPUS_PASS_H
#define CORPUS_PASS_H

#include "corpus/batch_encode.h"
#include "corpus/batch_parse.h"
#include "corpus/options.h"
#include "corpus/progress.h"
#include "corpus/tasks.h"
#include "corpus/unit_result.h"
#include "corpus/units.h"

// The corpus and where prepare has got to with it; a pass's own steps do not see it.
typedef struct {
    World *world;
    const PrepareOptions *options;
    const char *work; // folder of the run
    bool resuming;    // rank 0: an interrupted run has left units of the same job
    SourceList sources;
    UnitList units;
    Workers workers;
    Counts *counts;        // [units.count] of the last pass
    PrepareReport *report; // rank 0: of the last pass
} Corpus;

// The steps of a pass; `state` is its own.
typedef struct {
    const char *name;  // the result of a unit is WORK/parts/NUMBER.NAME.json
    const char *title; // for people
    bool resumable;    // units of an interrupted run can be used
    void *state;

    // Starts a unit.
    bool (*begin)(void *state, size_t unit, Error *e);

    // Works on the documents that batch_read took and adds what it finds to the result.
    bool (*take)(void *state, const Source *source, Batch *batch, UnitResult *result, Error *e);

    // Ends a unit: its files are on disk when this returns true; `ok` says whether all went well so
    // far. NULL in a pass without files.
    bool (*end)(void *state, bool ok, Error *e);

    // Whether the files of a unit are as its counts say. NULL in a pass without files.
    bool (*check)(const void *state, size_t unit, const Counts *counts, Error *e);
} Pass;

static inline bool pass_result_path_(char *path, const Corpus *c, const Pass *pass, size_t unit,
                                     Error *e) {
    char name[32];
    snprintf(name, sizeof name, "%s.json", pass->name);
    return unit_path(path, c->work, unit, name, e);
}

// ------------------------------------------------------------------------------------------------
// Counting documents, in every pass alike

// Counts a document that is not kept, or what was replaced in one that is.
static inline bool pass_count_document(UnitResult *r, const BatchDocument *d,
                                       const Workers *workers, Error *e) {
    switch (d->state) {
    case DOCUMENT_BLANK_LINE:
        r->counts.blank_lines++;
        return true;
    case DOCUMENT_REJECTED:
        r->counts.rejected_lines++;
        return unit_result_note(r, d->line, worker_stored(&workers->items[d->worker], d->why),
                                d->why.length, e);
    case DOCUMENT_DROPPED:
        *counts_dropped(&r->counts, (DropReason)d->verdict.reason) += d->ends;
        return true;
    default:
        r->counts.replaced += d->replaced;
        return true;
    }
}

// Counts a document at its end. Returns whether it has any text.
static inline bool pass_end_document(UnitResult *r, uint64_t text_bytes) {
    if (text_bytes == 0) {
        r->counts.empty++;
        return false;
    }
    r->counts.documents++;
    r->counts.text_bytes += text_bytes;
    return true;
}

// ------------------------------------------------------------------------------------------------
// One unit

static inline bool unit_run_(const Corpus *c, const Pass *pass, size_t unit, Batch *b, Progress *p,
                             Error *e) {
    const Unit *u = &c->units.items[unit];
    const Source *source = &c->sources.items[u->source];
    const ProgressCounts before = p->mine;
    char path[PATH_LIMIT];
    UnitResult result = {0};
    Reader r = {.input = -1, .file = -1, .source = source};
    batch_begin_unit(b);

    bool ok = pass->begin(pass->state, unit, e) && reader_open(&r, source, u->begin, u->end, e);
    bool more = source->kind == SOURCE_TEXT || r.offset < u->end;
    while (ok && more && !p->over) {
        uint64_t at = r.offset;
        ok = batch_read(b, &r, u->end, &c->workers, e) &&
             pass->take(pass->state, source, b, &result, e);
        more = r.offset < u->end && !reader_at_end(&r);
        p->mine.text_bytes += r.offset - at;
        p->mine.source_bytes =
            before.source_bytes + min_u64(reader_source_bytes(&r, u->begin), u->bytes);
        p->mine.documents = before.documents + result.counts.documents;
        progress_poll(p);
    }

    const bool stopped = ok && more; // as another rank has failed
    Error ignored;
    ok = reader_close(&r, ok && !stopped, stopped ? &ignored : e);
    ok = pass->end ? pass->end(pass->state, ok, stopped ? &ignored : e) : ok;
    if (ok) {
        p->mine.source_bytes = before.source_bytes + u->bytes;
        result.counts.lines = source->kind == SOURCE_JSON_LINES ? b->lines : 0;
        ok = pass_result_path_(path, c, pass, unit, e) && unit_result_save(&result, path, e);
    }
    unit_result_free(&result);
    return ok || stopped;
}

// Reads what the pass found in a unit; its files must be as the counts say. unit_result_free
// releases the result, after a failure too.
static inline bool unit_load_(const Corpus *c, const Pass *pass, size_t unit, UnitResult *r,
                              Error *e) {
    char path[PATH_LIMIT];
    *r = (UnitResult){0};
    return pass_result_path_(path, c, pass, unit, e) && unit_result_load(r, path, e) &&
           (!pass->check || pass->check(pass->state, unit, &r->counts, e));
}

// Collective: finds the units that an interrupted run has completed. Returns their source bytes.
static inline uint64_t pass_resume_(const Corpus *c, const Pass *pass, bool *done) {
    size_t count = 0;
    uint64_t bytes = 0;
    for (size_t u = 0; u < c->units.count && c->resuming && pass->resumable; u++) {
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

// A note as a line: "FILE:LINE: what is wrong". `before` counts the lines of the source in front of
// the unit.
static inline void note_format_(char out[NOTE_LIMIT], const Source *source, uint64_t before,
                                const Note *note) {
    snprintf(out, NOTE_LIMIT, "%s:%llu%.500s", source->path,
             (unsigned long long)(before + note->line), note->why);
    utf8_trim(out);
}

// Adds the result of a unit to its source and to the report; `first` gets the note on the source's
// first rejected line.
static inline bool unit_add_up_(const UnitResult *r, Source *s, PrepareReport *report,
                                char first[NOTE_LIMIT], Error *e) {
    enum { ORIGIN_SOURCE_VALUES = 32 };
    for (size_t i = 0; i < r->note_count; i++) {
        char note[NOTE_LIMIT];
        note_format_(note, s, s->counts.lines, &r->notes[i]);
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
static inline bool report_check_(const PrepareReport *r, const PrepareOptions *o, Error *e) {
    Counts counts = r->counts;
    uint64_t dropped = 0;
    for (int reason = DROP_SHORT; reason < DROP_REASONS; reason++) {
        dropped += *counts_dropped(&counts, (DropReason)reason);
    }
    if (counts.documents == 0 && dropped) {
        return fail(e, "%s: the filters drop all of its %llu documents", o->inputs[0],
                    (unsigned long long)dropped);
    }
    if (counts.documents == 0) {
        return fail(e, "%s: there is no document with any text in the input", o->inputs[0]);
    }
    return counts.documents > 1 || o->val_fraction == 0 ||
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
    return ok && report_check_(c->report, c->options, e);
}

// ------------------------------------------------------------------------------------------------
// All units

// This rank's units that are not done. The bytes of those that are done do not count for a rank.
static inline bool pass_share_(const Corpus *c, const bool *done, bool *mine, Error *e) {
    uint64_t *bytes = calloc(c->units.count + 1, sizeof *bytes);
    bool ok = bytes || fail(e, "prepare: no memory for its tasks");
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
                         .total_bytes = sources_bytes(&c->sources)};
    progress.resumed_bytes = pass_resume_(c, pass, done);
    bool ok = pass_share_(c, done, mine, &e);
    if (!world_check(c->world, ok, &e)) {
        return false;
    }

    Batch batch = {0};
    progress_begin(&progress);
    for (size_t u = 0; ok && u < c->units.count && !progress.over; u++) {
        if (mine[u] && !done[u]) {
            ok = unit_run_(c, pass, u, &batch, &progress, &e);
        }
    }
    progress_finish(&progress, ok);
    batch_free(&batch);
    return world_check(c->world, ok, &e) &&
           world_check_root(c->world, c->world->rank != 0 || pass_add_up_(c, pass, &e), &e);
}

// Collective: takes all units through a pass. Afterwards every rank has their counts, and rank 0
// the sources' counts and the report. On failure the line is printed.
static inline bool pass_run(Corpus *c, const Pass *pass) {
    Error e = {{0}};
    bool *done = calloc(c->units.count + 1, sizeof *done);
    bool *mine = calloc(c->units.count + 1, sizeof *mine);
    bool ok = (done && mine) || fail(&e, "prepare: no memory for its tasks");
    ok = world_check(c->world, ok, &e) && pass_run_units_(c, pass, done, mine);
    if (ok) {
        broadcast(c->counts, c->units.count * sizeof *c->counts);
    }
    free(done);
    free(mine);
    return ok;
}

#endif
