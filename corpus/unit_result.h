// unit_result.h: what a pass found in a unit. Saved as WORK/parts/NUMBER.PASS.json, whose presence
// says that the unit is complete.
#ifndef CORPUS_UNIT_RESULT_H
#define CORPUS_UNIT_RESULT_H

#include "corpus/counts.h"
#include "shards/origins.h"
#include "util/files.h"
#include "util/json.h"

enum { ORIGIN_UNIT_VALUES = 1024 }; // distinct values that are counted in a unit

typedef struct {
    uint64_t line;        // number within the unit, from 1
    char why[NOTE_LIMIT]; // what is wrong
} Note;

typedef struct {
    Counts counts;
    size_t note_count;
    Note notes[REPORT_NOTES]; // the first rejected lines
    OriginFacet origin[ORIGIN_FACETS];
} UnitResult;

static inline void unit_result_free(UnitResult *r) {
    origins_free(r->origin);
    *r = (UnitResult){0};
}

// Adds a note on a rejected line, as long as there is room for one.
static inline void unit_result_note(UnitResult *r, uint64_t line, const char *why, size_t length) {
    if (r->note_count < REPORT_NOTES) {
        Note *note = &r->notes[r->note_count++];
        note->line = line;
        snprintf(note->why, sizeof note->why, "%.*s", (int)length, why);
    }
}

static inline void unit_result_put(JsonWriter *w, const UnitResult *r) {
    json_open(w, NULL, '{');
    counts_put(w, &r->counts);
    json_open(w, "rejected", '[');
    for (size_t i = 0; i < r->note_count; i++) {
        json_open(w, NULL, '{');
        json_put_uint(w, "line", r->notes[i].line);
        json_put_string(w, "why", r->notes[i].why);
        json_close(w, '}');
    }
    json_close(w, ']');
    origins_put(w, r->origin);
    json_close(w, '}');
    json_append(w, "\n", 1);
}

static inline bool unit_result_save(const UnitResult *r, const char *path, Error *e) {
    JsonWriter w = {0};
    unit_result_put(&w, r);
    return json_save(&w, path, e);
}

// Reads what unit_result_save wrote. unit_result_free releases it, after a failure too.
static inline bool unit_result_load(UnitResult *r, const char *path, Error *e) {
    enum { LIMIT = 1 << 28 };
    JsonDocument json;
    *r = (UnitResult){0};
    if (!json_parse_file(&json, path, LIMIT, e)) {
        return false;
    }

    bool ok = counts_read(&r->counts, json_get(json.root, "counts"), path, e);
    const Json *rejected = json_get(json.root, "rejected");
    for (const Json *note = rejected ? rejected->child : NULL;
         ok && note && r->note_count < REPORT_NOTES; note = note->next) {
        const char *why = json_string(json_get(note, "why"));
        Note *to = &r->notes[r->note_count];
        ok = (json_uint(json_get(note, "line"), &to->line) && why && strlen(why) < NOTE_LIMIT) ||
             fail(e, "%s: its notes on rejected lines cannot be read", path);
        if (ok) {
            strcpy(to->why, why);
            r->note_count++;
        }
    }
    ok = ok && origins_read(r->origin, ORIGIN_UNIT_VALUES, json_get(json.root, "origin"), e);
    json_free(&json);
    return ok;
}

#endif
