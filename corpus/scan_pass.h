// scan_pass.h: the pass that decides which documents are dropped: every text is scanned for filters
// and duplicates, all records together give WORK/verdicts.
#ifndef CORPUS_SCAN_PASS_H
#define CORPUS_SCAN_PASS_H

#include "corpus/join.h"
#include "corpus/pass.h"
#include "util/bytes.h"

// ------------------------------------------------------------------------------------------------
// The pass: for each document with text, its record for collect.h and its offset in the source

enum { PLACE_BYTES = 8 };

typedef struct {
    const char *work, *text_key;
    const FilterOptions *options;
    const Workers *workers;
    UnitFile records, places;
    uint64_t text_bytes; // of the document at hand
} ScanPass;

static inline bool scan_begin_(void *state, size_t unit, Error *e) {
    ScanPass *s = state;
    s->records.file = s->places.file = NULL;
    return unit_file_begin(&s->records, s->work, unit, "records", e) &&
           unit_file_begin(&s->places, s->work, unit, "places", e);
}

static inline bool scan_document_(ScanPass *s, const BatchDocument *d, UnitResult *r, Error *e) {
    unsigned char place[PLACE_BYTES];
    s->text_bytes = (d->begins ? 0 : s->text_bytes) + d->text_length;
    if (!d->ends || !pass_end_document(r, s->text_bytes)) {
        return true;
    }
    store_le(place, d->offset, PLACE_BYTES);
    return unit_file_write(&s->records, worker_stored(&s->workers->items[d->worker], d->record),
                           d->record.length, e) &&
           unit_file_write(&s->places, place, sizeof place, e);
}

static inline bool scan_take_(void *state, const Source *source, Batch *b, UnitResult *r,
                              Error *e) {
    ScanPass *s = state;
    bool ok = batch_scan(b, source->kind, s->text_key, s->options, s->workers, e);
    for (size_t i = 0; ok && i < b->document_count; i++) {
        const BatchDocument *d = &b->documents[i];
        ok = pass_count_document(r, d, s->workers, e) &&
             (d->state != DOCUMENT_KEPT || scan_document_(s, d, r, e));
    }
    return ok;
}

static inline bool scan_end_(void *state, bool ok, Error *e) {
    ScanPass *s = state;
    ok = unit_file_close(&s->records, ok, e);
    return unit_file_close(&s->places, ok, e);
}

static inline bool scan_check_(const void *state, size_t unit, const Counts *counts, Error *e) {
    const ScanPass *s = state;
    uint64_t records = counts->documents * fingerprint_size(s->options);
    return unit_file_check(s->work, unit, "records", records, e) &&
           unit_file_check(s->work, unit, "places", PLACE_BYTES * counts->documents, e);
}

// ------------------------------------------------------------------------------------------------
// The verdicts

typedef struct {
    const UnitList *units;
    const uint64_t *first_documents; // [units->count + 1]
    const FilterOptions *options;
    const Duplicates *result;
    int records, places; // the joined files
} VerdictMaker_;

typedef struct {
    const uint64_t *first_documents;
    uint64_t document;
} UnitSearch_;

static inline bool unit_before_(const void *context, size_t unit) {
    const UnitSearch_ *s = context;
    return s->first_documents[unit] <= s->document;
}

// The verdict on a document that is dropped.
static inline bool verdict_make_(const VerdictMaker_ *m, uint64_t document, Verdict *v, Error *e) {
    const Duplicates *r = m->result;
    const size_t size = fingerprint_size(m->options);
    unsigned char record[FINGERPRINT_LIMIT], place[PLACE_BYTES];
    FingerprintRecord measured;
    *v = (Verdict){.document = document,
                   .reason = r->reason[document],
                   .value = (double)r->similarity[document]};
    if (v->reason < DROP_EXACT_DUPLICATE) {
        if (!read_at(m->records, "records", record, size, document * size, e) ||
            !fingerprint_load(&measured, record, "records", e)) {
            return false;
        }
        v->value = measured.value;
        return true;
    }

    const UnitSearch_ search = {m->first_documents, r->of[document]};
    size_t unit = bisect(1, m->units->count, unit_before_, &search) - 1;
    v->of_source = m->units->items[unit].source;
    if (!read_at(m->places, "places", place, sizeof place, PLACE_BYTES * (uint64_t)r->of[document],
                 e)) {
        return false;
    }
    v->of_offset = load_le(place, PLACE_BYTES);
    return true;
}

static inline bool verdicts_put_(const VerdictMaker_ *m, const char *path, Error *e) {
    FILE *file = fopen(path, "wb");
    bool ok = file || fail(e, "%s: cannot be created: %s", path, strerror(errno));
    for (size_t d = 0; ok && d < m->result->documents; d++) {
        Verdict v;
        ok = m->result->reason[d] == DROP_NONE ||
             (verdict_make_(m, d, &v, e) && write_bytes(file, path, &v, sizeof v, e));
    }
    return (!file || close_written(file, path, ok ? e : &(Error){{0}})) && ok;
}

// Rank 0: decides about all documents and writes `path`, completely or not at all.
static inline bool verdicts_write_(const UnitList *units, const uint64_t *first_documents,
                                   const FilterOptions *options, const char *records_path,
                                   const char *places_path, const char *path, Error *e) {
    char temporary[PATH_LIMIT], scratch[PATH_LIMIT];
    Duplicates result = {0};
    if (!path_format(temporary, e, "%s.tmp", path) ||
        !path_format(scratch, e, "%s.scratch", path) ||
        !duplicates_find(&result, &records_path, 1, scratch, options, e)) {
        return false;
    }
    VerdictMaker_ m = {.units = units,
                       .first_documents = first_documents,
                       .options = options,
                       .result = &result,
                       .records = open(records_path, O_RDONLY | O_CLOEXEC),
                       .places = open(places_path, O_RDONLY | O_CLOEXEC)};
    bool ok = (m.records >= 0 && m.places >= 0) ||
              fail(e, "%s: cannot be written: %s", path, strerror(errno));
    ok = ok && verdicts_put_(&m, temporary, e) &&
         (rename(temporary, path) == 0 ||
          fail(e, "%s: cannot be written: %s", path, strerror(errno)));
    if (m.records >= 0) {
        close(m.records);
    }
    if (m.places >= 0) {
        close(m.places);
    }
    duplicates_free(&result);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// All of it

static inline bool filter_is_on_(const FilterOptions *o) {
    return o->exact || o->near_duplicates > 0 || o->min_characters > 0 ||
           o->max_characters < UINT64_MAX || o->min_japanese > 0 || o->max_repeated_lines < 1;
}

// Collective: the records and places of all units become one file each, from which rank 0 makes the
// verdicts. On failure the line is printed.
static inline bool verdicts_make_(const Corpus *c, const uint64_t *first_documents,
                                  const char *verdicts) {
    World *w = c->world;
    const FilterOptions *options = &c->options->collect;
    Error e = {{0}};
    char records[PATH_LIMIT], places[PATH_LIMIT];
    uint64_t *bytes = calloc(c->units.count + 1, sizeof *bytes);
    bool ok = path_format(records, &e, "%s/records", c->work) &&
              path_format(places, &e, "%s/places", c->work) &&
              (bytes || fail(&e, "prepare: no memory for %zu units", c->units.count));
    ok = world_check(w, ok, &e);
    for (size_t u = 0; ok && u < c->units.count; u++) {
        bytes[u] = c->counts[u].documents * fingerprint_size(options);
    }
    ok = ok && join_unit_files(w, c->work, "records", bytes, c->units.count, records);
    for (size_t u = 0; ok && u < c->units.count; u++) {
        bytes[u] = c->counts[u].documents * PLACE_BYTES;
    }
    ok = ok && join_unit_files(w, c->work, "places", bytes, c->units.count, places);
    ok = ok && world_check_root(w,
                                w->rank != 0 || verdicts_write_(&c->units, first_documents, options,
                                                                records, places, verdicts, &e),
                                &e);
    if (w->rank == 0) {
        unlink(records);
        unlink(places);
    }
    free(bytes);
    return ok;
}

// Collective: looks at all documents and decides which are dropped, if a filter or duplicate
// detection is on. verdicts_close and free(*first_documents) release what this makes, after a
// failure too. On failure the line is printed.
static inline bool scan_pass_run(Corpus *c, VerdictReader *reader, uint64_t **first_documents) {
    const FilterOptions *options = &c->options->collect;
    World *w = c->world;
    Error e = {{0}};
    char verdicts[PATH_LIMIT];
    verdicts_none(reader);
    if (!filter_is_on_(options)) {
        return true;
    }

    // Scan.
    uint64_t *first = *first_documents = calloc(c->units.count + 1, sizeof *first);
    bool ok = path_format(verdicts, &e, "%s/verdicts", c->work) &&
              (first || fail(&e, "prepare: no memory for %zu units", c->units.count)) &&
              workers_init_filters(&c->workers, options, &e);
    ScanPass state = {.work = c->work,
                      .text_key = c->options->text_key,
                      .options = options,
                      .workers = &c->workers};
    const Pass pass = {.name = "scan",
                       .title = "scanning documents",
                       .resumable = true,
                       .state = &state,
                       .begin = scan_begin_,
                       .take = scan_take_,
                       .end = scan_end_,
                       .check = scan_check_};
    if (!world_check(w, ok, &e) || !pass_run(c, &pass)) {
        return false;
    }
    for (size_t u = 0; u < c->units.count; u++) {
        first[u + 1] = first[u] + c->counts[u].documents;
    }

    // Decide, unless an interrupted run has.
    bool decided = w->rank == 0 && access(verdicts, F_OK) == 0;
    broadcast(&decided, sizeof decided);
    if (!decided && !verdicts_make_(c, first, verdicts)) {
        return false;
    }
    return world_check(w, verdicts_open(reader, verdicts, first, &e), &e);
}

#endif
