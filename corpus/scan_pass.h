// scan_pass.h: the pass that decides which documents are dropped: every text is scanned for filters
// and duplicates, all records together give WORK/verdicts.
#ifndef CORPUS_SCAN_PASS_H
#define CORPUS_SCAN_PASS_H

#include "corpus/join.h"
#include "corpus/pass.h"
#include "util/bytes.h"

// ------------------------------------------------------------------------------------------------
// The pass: for each document with text, its record for duplicates.h and its place

enum { PLACE_BYTES = 12 }; // u64 offset in the source, u32 number of the source

static inline bool scan_process_(UnitRun *u, Error *e) {
    return unit_parse(u, true, e);
}

static inline bool scan_take_(void *state, UnitRun *u, const BatchDocument *d, Error *e) {
    unsigned char place[PLACE_BYTES];
    (void)state;
    if (d->state != DOCUMENT_KEPT || !d->ends) {
        return true;
    }
    store_le(place, d->offset, 8);
    store_le(place + 8, unit_source(u), 4);
    return unit_write(u, UNIT_RECORDS, unit_stored(u, d, d->record), d->record.length, e) &&
           unit_write(u, UNIT_PLACES, place, sizeof place, e);
}

// ------------------------------------------------------------------------------------------------
// The verdicts

typedef struct {
    Duplicates duplicates;
    size_t record_bytes;
    int records, places; // the joined files
} VerdictMaker_;

// The verdict on a document that is dropped.
static inline bool verdict_make_(const VerdictMaker_ *m, uint64_t document, Verdict *v, Error *e) {
    const Duplicates *r = &m->duplicates;
    const uint64_t of = r->of[document];
    unsigned char record[FINGERPRINT_LIMIT], place[PLACE_BYTES];
    DropReason reason;
    *v = (Verdict){.document = document,
                   .reason = r->reason[document],
                   .value = (double)r->similarity[document]};
    if (v->reason < DROP_EXACT_DUPLICATE) {
        return read_at(m->records, "records", record, m->record_bytes, document * m->record_bytes,
                       e) &&
               fingerprint_load(&reason, &v->value, record, "records", e);
    }
    if (!read_at(m->places, "places", place, sizeof place, PLACE_BYTES * of, e)) {
        return false;
    }
    v->of_offset = load_le(place, 8);
    v->of_source = (uint32_t)load_le(place + 8, 4);
    return true;
}

static inline bool verdicts_put_(const VerdictMaker_ *m, const char *path, Error *e) {
    FILE *file = fopen(path, "wb");
    bool ok = true;
    if (!file) {
        return fail(e, "%s: cannot be created: %s", path, strerror(errno));
    }
    for (size_t d = 0; ok && d < m->duplicates.documents; d++) {
        Verdict v;
        ok = m->duplicates.reason[d] == DROP_NONE ||
             (verdict_make_(m, d, &v, e) && write_bytes(file, path, &v, sizeof v, e));
    }
    return close_written(file, path, ok, e);
}

// Rank 0: decides about all documents and writes `path`, completely or not at all.
static inline bool verdicts_write_(const FilterOptions *options, const char *records,
                                   const char *places, const char *path, Error *e) {
    char temporary[PATH_LIMIT], scratch[PATH_LIMIT];
    uint64_t bytes;
    VerdictMaker_ m = {.record_bytes = fingerprint_size(options)};
    if (!path_format(temporary, e, "%s.tmp", path) ||
        !path_format(scratch, e, "%s.scratch", path) ||
        !duplicates_find(&m.duplicates, records, scratch, options, e)) {
        return false;
    }
    m.records = open_regular(records, &bytes, e);
    m.places = open_regular(places, &bytes, e);
    bool ok = m.records >= 0 && m.places >= 0 && verdicts_put_(&m, temporary, e) &&
              (rename(temporary, path) == 0 ||
               fail(e, "%s: cannot be written: %s", path, strerror(errno)));
    close_if_open(m.records);
    close_if_open(m.places);
    duplicates_free(&m.duplicates);
    return ok;
}

// Collective: the records and places of all units become one file each, from which rank 0 makes the
// verdicts. On failure the line is printed.
static inline bool verdicts_make_(const Corpus *c) {
    World *w = c->world;
    Error e = {{0}};
    char records[PATH_LIMIT], places[PATH_LIMIT];
    bool ok = path_format(records, &e, "%s/records", c->work.path) &&
              path_format(places, &e, "%s/places", c->work.path);
    if (!world_check(w, ok, &e)) {
        return false;
    }
    ok = join_unit_files(c, UNIT_RECORDS, records) && join_unit_files(c, UNIT_PLACES, places) &&
         world_check(w,
                     w->rank != 0 || verdicts_write_(&c->options->collect, records, places,
                                                     c->verdicts.path, &e),
                     &e);
    if (w->rank == 0) {
        unlink(records);
        unlink(places);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// All of it

static inline bool filter_is_on_(const FilterOptions *o) {
    return o->exact || o->near_duplicates > 0 || o->min_characters > 0 ||
           o->max_characters < UINT64_MAX || o->min_japanese > 0 || o->max_repeated_lines < 1;
}

// Collective: looks at all documents and decides which are dropped, if a filter or duplicate
// detection is on; the next passes get the verdicts. On failure the line is printed.
static inline bool scan_pass_run(Corpus *c) {
    World *w = c->world;
    VerdictReader *v = &c->verdicts;
    Error e = {{0}};
    if (!filter_is_on_(&c->options->collect)) {
        return true;
    }

    // Scan.
    const Pass pass = {.result = "scan.json",
                       .title = "scanning documents",
                       .first_file = UNIT_RECORDS,
                       .end_file = UNIT_PLACES + 1,
                       .process = scan_process_,
                       .take = scan_take_};
    uint64_t *first = v->first_documents = calloc(c->units.count + 1, sizeof *first);
    bool ok = path_format(v->path, &e, "%s/verdicts", c->work.path) &&
              (first || fail(&e, "prepare: no memory for %zu units", c->units.count));
    if (!world_check(w, ok, &e) || !pass_run(c, &pass)) {
        return false;
    }
    for (size_t u = 0; u < c->units.count; u++) {
        first[u + 1] = first[u] + c->counts[u].documents;
    }

    // Decide, unless an interrupted run has.
    bool decided = w->rank == 0 && access(v->path, F_OK) == 0;
    broadcast(&decided, sizeof decided);
    if (!decided && !verdicts_make_(c)) {
        return false;
    }
    return world_check(w, verdicts_open(v, &e), &e);
}

#endif
