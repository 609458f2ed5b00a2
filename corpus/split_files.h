// split_files.h: the files of a split, joined from those of the units, and what is made from them.
#ifndef CORPUS_SPLIT_FILES_H
#define CORPUS_SPLIT_FILES_H

#include "corpus/join.h"
#include "corpus/tasks.h"
#include "shards/index.h"
#include "shards/manifest.h"
#include "shards/sums.h"

// SPLIT.idx has one sequence per document; only a document of more tokens than this has several,
// since a sequence's length is an int32.
enum { SEQUENCE_LIMIT = 1 << 30 };

// A stretch of documents that a unit gives to a split.
typedef struct {
    size_t unit;
    int from;                                         // the split whose unit files hold it
    uint64_t first[SPLIT_KINDS], counts[SPLIT_KINDS]; // documents, tokens, bytes of metadata
} Segment;

typedef struct {
    char paths[SPLIT_KINDS][PATH_LIMIT];
    uint64_t counts[SPLIT_KINDS]; // sums over the segments
    Segment *segments;
    size_t segment_count;
} SplitFiles;

// ------------------------------------------------------------------------------------------------
// What goes into which split

static inline bool segment_path_(char *path, const Corpus *c, const Segment *g, int kind,
                                 Error *e) {
    const char *name = UNIT_FILE[unit_file_of_split(g->from, kind)].name;
    return unit_path(path, c, g->unit, name, e);
}

// Reads the record of the last document of a segment.
static inline bool segment_last_record_(const Corpus *c, const Segment *g, DocumentRecord *d,
                                        Error *e) {
    unsigned char record[DOCS_RECORD];
    char path[PATH_LIMIT];
    uint64_t bytes;
    if (!segment_path_(path, c, g, SPLIT_DOCS, e)) {
        return false;
    }
    int docs = open_regular(path, &bytes, e);
    bool ok = docs >= 0 && read_at(docs, path, record, DOCS_RECORD,
                                   (g->counts[SPLIT_DOCS] - 1) * DOCS_RECORD, e);
    close_if_open(docs);
    if (ok) {
        *d = docs_load(record);
    }
    return ok;
}

// The last document of `from` goes to `to`, which has none.
static inline bool split_move_last_(const Corpus *c, SplitFiles *to, SplitFiles *from, Error *e) {
    DocumentRecord d;
    Segment *g = &from->segments[from->segment_count - 1];
    while (g->counts[SPLIT_DOCS] == 0) {
        g--;
    }
    if (!segment_last_record_(c, g, &d, e)) {
        return false;
    }

    const uint64_t moved[SPLIT_KINDS] = {1, d.tokens, g->counts[SPLIT_META] - d.metadata};
    Segment *last = &to->segments[to->segment_count++];
    *last = (Segment){.unit = g->unit, .from = g->from};
    for (int k = 0; k < SPLIT_KINDS; k++) {
        from->counts[k] -= moved[k];
        g->counts[k] -= moved[k];
        to->counts[k] += moved[k];
        last->counts[k] = moved[k];
        last->first[k] = g->counts[k];
    }
    return true;
}

static inline bool split_plan_(SplitFiles *s, int split, const Corpus *c, Error *e) {
    *s = (SplitFiles){.segment_count = c->units.count};
    s->segments = calloc(c->units.count + 1, sizeof *s->segments);
    if (!s->segments) {
        return fail(e, "prepare: no memory for %zu units", c->units.count);
    }
    for (int k = 0; k < SPLIT_KINDS; k++) {
        const char *name = UNIT_FILE[unit_file_of_split(split, k)].name;
        if (!path_format(s->paths[k], e, "%s/data/%s", c->work.path, name)) {
            return false;
        }
        for (size_t u = 0; u < c->units.count; u++) {
            const uint64_t count = c->counts[u].all[count_of_split(split, k)];
            s->segments[u].unit = u;
            s->segments[u].from = split;
            s->segments[u].counts[k] = count;
            s->counts[k] += count;
        }
    }
    return true;
}

// Says what goes into which split. If the random split leaves one side without a document, it gets
// the last one of the other.
static inline bool splits_plan_(SplitFiles splits[SPLITS], const Corpus *c, Error *e) {
    SplitFiles *train = &splits[SPLIT_TRAIN], *val = &splits[SPLIT_VAL];
    return split_plan_(train, SPLIT_TRAIN, c, e) && split_plan_(val, SPLIT_VAL, c, e) &&
           (c->options->val_fraction == 0 ||
            ((val->counts[SPLIT_DOCS] > 0 || split_move_last_(c, val, train, e)) &&
             (train->counts[SPLIT_DOCS] > 0 || split_move_last_(c, train, val, e))));
}

// ------------------------------------------------------------------------------------------------
// Joining

// Moves the metadata of the records in a block by *context bytes.
static inline void records_move_metadata_(const void *context, unsigned char *block, size_t bytes) {
    for (size_t i = 0; i < bytes; i += DOCS_RECORD) {
        DocumentRecord d = docs_load(block + i);
        d.metadata += *(const uint64_t *)context;
        docs_store(block + i, &d);
    }
}

// Writes this rank's share of one file of a split: its segments to where those before them end.
static inline bool split_write_(const SplitFiles *s, int kind, const Corpus *c, Error *e) {
    const char *path = s->paths[kind];
    const uint64_t item = c->item_bytes[unit_file_of_split(SPLIT_TRAIN, kind)];
    uint64_t to_at = kind == SPLIT_DOCS ? DOCS_HEADER : 0, meta = 0;
    int file = join_open(path, e);
    bool ok = file >= 0;
    if (ok && kind == SPLIT_DOCS && c->world->rank == 0) {
        unsigned char header[DOCS_HEADER];
        docs_store_header(header, s->counts[SPLIT_DOCS]);
        ok = write_at(file, path, header, sizeof header, 0, e);
    }
    for (size_t i = 0; ok && i < s->segment_count; i++) {
        const Segment *g = &s->segments[i];
        const uint64_t bytes = g->counts[kind] * item, move = meta - g->first[SPLIT_META];
        char from[PATH_LIMIT];
        if (join_is_mine(c->world, i)) {
            ok = segment_path_(from, c, g, kind, e) &&
                 join_copy(from, g->first[kind] * item, bytes, file, path, to_at,
                           kind == SPLIT_DOCS ? records_move_metadata_ : NULL, &move, e);
        }
        to_at += bytes;
        meta += g->counts[SPLIT_META];
    }
    return close_written_at(file, path, ok, e);
}

// Rank 0: what is made from the joined files of a split: .idx, .index if it is asked for, .sums.
// The entry gets their hashes.
static inline bool split_finish_(const SplitFiles *s, const Corpus *c, ManifestSplit *entry,
                                 Error *e) {
    const PrepareOptions *o = c->options;
    char data[PATH_LIMIT], idx[PATH_LIMIT];
    return path_format(data, e, "%s/data", c->work.path) &&
           path_format(idx, e, "%s/%s.idx", data, entry->name) &&
           idx_write(idx, s->paths[SPLIT_DOCS], entry->token_bytes, SEQUENCE_LIMIT,
                     entry->files[MANIFEST_IDX].hash, e) &&
           (!o->index || index_build(data, entry->name, &c->tokenizer, o->progress,
                                     entry->files[MANIFEST_INDEX].hash, e)) &&
           sums_build(data, entry->name, entry->files[MANIFEST_SUMS].hash, e);
}

// Collective: the joined files are hashed by all ranks; the manifest gets the hashes. On failure
// the line is printed.
static inline bool splits_hash_(const SplitFiles splits[SPLITS], const Corpus *c,
                                const char *dropped_path, ManifestContent *m) {
    static const int listed_as[SPLIT_KINDS] = {MANIFEST_DOCS, MANIFEST_BIN, MANIFEST_META};
    const size_t count = m->split_count * SPLIT_KINDS;
    HashedFile files[SPLITS * SPLIT_KINDS + 1] = {{.path = NULL}};
    for (size_t i = 0; i < count; i++) {
        const SplitFiles *s = &splits[i / SPLIT_KINDS];
        const size_t kind = i % SPLIT_KINDS;
        files[i].path = s->paths[kind];
        files[i].bytes = s->counts[kind] * c->item_bytes[UNIT_TRAIN_DOCS + kind];
    }
    files[count].path = dropped_path;
    if (!hash_files(c->world, files, count + 1)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        ManifestFile *file = &m->splits[i / SPLIT_KINDS].files[listed_as[i % SPLIT_KINDS]];
        memcpy(file->hash, files[i].hash, SHA256_HEX);
    }
    memcpy(m->dropped.hash, files[count].hash, SHA256_HEX);
    return true;
}

// Collective: joins the files of the units to those of the splits and to dropped.jsonl.
static inline bool splits_join_(const SplitFiles splits[SPLITS], const Corpus *c,
                                const char *dropped_path, int count) {
    World *w = c->world;
    Error e = {{0}};
    bool ok = true;
    for (int i = 0; ok && i < count * SPLIT_KINDS && w->rank == 0; i++) {
        ok = join_create(splits[i / SPLIT_KINDS].paths[i % SPLIT_KINDS], &e);
    }
    if (!world_check(w, ok, &e) || !join_unit_files(c, UNIT_DROPPED, dropped_path)) {
        return false;
    }
    for (int i = 0; ok && i < count * SPLIT_KINDS; i++) {
        ok = split_write_(&splits[i / SPLIT_KINDS], i % SPLIT_KINDS, c, &e);
    }
    return world_check(w, ok, &e);
}

static inline bool splits_run_(SplitFiles splits[SPLITS], const Corpus *c, ManifestContent *m) {
    World *w = c->world;
    Error e = {{0}};
    char dropped_path[PATH_LIMIT];
    bool ok = path_format(dropped_path, &e, "%s/data/dropped.jsonl", c->work.path) &&
              splits_plan_(splits, c, &e);
    m->split_count = c->options->val_fraction > 0 ? SPLITS : 1;
    if (!world_check(w, ok, &e) || !splits_join_(splits, c, dropped_path, (int)m->split_count)) {
        return false;
    }

    for (int s = 0; s < SPLITS; s++) {
        m->splits[s] = (ManifestSplit){.name = SPLIT_NAMES[s],
                                       .documents = splits[s].counts[SPLIT_DOCS],
                                       .tokens = splits[s].counts[SPLIT_BIN],
                                       .token_bytes = (int)c->item_bytes[UNIT_TRAIN_BIN]};
        memcpy(c->report->counts.all + count_of_split(s, 0), splits[s].counts,
               sizeof splits[s].counts);
    }
    for (size_t s = 0; ok && s < m->split_count && w->rank == 0; s++) {
        ok = split_finish_(&splits[s], c, &m->splits[s], &e);
    }
    return world_check(w, ok, &e) && splits_hash_(splits, c, dropped_path, m);
}

// Collective: joins the files of the units to train.*, val.* and dropped.jsonl in WORK/data. The
// manifest gets the splits and, on rank 0, all hashes. On failure the line is printed.
static inline bool splits_make(const Corpus *c, ManifestContent *m) {
    SplitFiles splits[SPLITS] = {{.segments = NULL}};
    bool ok = splits_run_(splits, c, m);
    for (int s = 0; s < SPLITS; s++) {
        free(splits[s].segments);
    }
    return ok;
}

#endif
