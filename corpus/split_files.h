// split_files.h: the files of a split, joined from those of the units, and what is made from them.
#ifndef CORPUS_SPLIT_FILES_H
#define CORPUS_SPLIT_FILES_H

#include "corpus/encode_pass.h"
#include "corpus/join.h"
#include "shards/index.h"
#include "shards/manifest.h"
#include "shards/sums.h"

// SPLIT.idx has one sequence per document; only a document of more tokens than this has several,
// since a sequence's length is an int32.
enum { SEQUENCE_LIMIT = 1 << 30 };

// A stretch of documents that a unit gives to a split.
typedef struct {
    size_t unit;
    int from; // the split whose unit files hold it
    uint64_t documents, first_document, tokens, first_token, meta_bytes, first_meta;
} Segment;

typedef struct {
    const char *name;
    const char *work;
    int token_bytes;
    char paths[UNIT_KINDS][PATH_LIMIT];
    uint64_t documents, tokens, meta_bytes;
    Segment *segments;
    size_t segment_count;
} SplitFiles;

static inline void splits_free(SplitFiles splits[SPLITS]) {
    for (int s = 0; s < SPLITS; s++) {
        free(splits[s].segments);
        splits[s] = (SplitFiles){0};
    }
}

// ------------------------------------------------------------------------------------------------
// What goes into which split

static inline void split_sum_up_(SplitFiles *s) {
    s->documents = s->tokens = s->meta_bytes = 0;
    for (size_t i = 0; i < s->segment_count; i++) {
        s->documents += s->segments[i].documents;
        s->tokens += s->segments[i].tokens;
        s->meta_bytes += s->segments[i].meta_bytes;
    }
}

static inline bool segment_path_(char *path, const SplitFiles *s, const Segment *g, int kind,
                                 Error *e) {
    char name[UNIT_NAME];
    unit_split_name(name, g->from, kind);
    return unit_path(path, s->work, g->unit, name, e);
}

// Reads the record of the last document of a segment.
static inline bool segment_last_record_(const SplitFiles *s, const Segment *g, DocumentRecord *d,
                                        Error *e) {
    unsigned char record[DOCS_RECORD];
    char path[PATH_LIMIT];
    uint64_t bytes;
    if (!segment_path_(path, s, g, UNIT_DOCS, e)) {
        return false;
    }
    int docs = open_regular(path, &bytes, e);
    bool ok =
        docs >= 0 && read_at(docs, path, record, DOCS_RECORD, (g->documents - 1) * DOCS_RECORD, e);
    if (docs >= 0) {
        close(docs);
    }
    if (ok) {
        *d = docs_load(record);
    }
    return ok;
}

// The last document of `from` goes to `to`, which has none.
static inline bool split_move_last_(SplitFiles *to, SplitFiles *from, Error *e) {
    DocumentRecord d;
    size_t last = from->segment_count;
    while (last > 0 && from->segments[last - 1].documents == 0) {
        last--;
    }
    Segment *g = &from->segments[last - 1];
    if (!segment_last_record_(from, g, &d, e)) {
        return false;
    }
    uint64_t meta_bytes = g->meta_bytes - d.metadata;
    g->documents--;
    g->tokens -= d.tokens;
    g->meta_bytes = d.metadata;
    to->segments[to->segment_count++] = (Segment){.unit = g->unit,
                                                  .from = g->from,
                                                  .documents = 1,
                                                  .first_document = g->documents,
                                                  .tokens = d.tokens,
                                                  .first_token = g->tokens,
                                                  .meta_bytes = meta_bytes,
                                                  .first_meta = d.metadata};
    split_sum_up_(from);
    split_sum_up_(to);
    return true;
}

static inline bool split_plan_(SplitFiles *s, int split, const Counts *counts, size_t units,
                               Error *e) {
    s->segments = calloc(units + 1, sizeof *s->segments);
    if (!s->segments) {
        return fail(e, "prepare: no memory for %zu units", units);
    }
    for (size_t u = 0; u < units; u++) {
        Counts c = counts[u];
        const uint64_t *of_split = counts_split(&c, split);
        s->segments[u] = (Segment){.unit = u,
                                   .from = split,
                                   .documents = of_split[SPLIT_DOCUMENTS],
                                   .tokens = of_split[SPLIT_TOKENS],
                                   .meta_bytes = of_split[SPLIT_META_BYTES]};
    }
    s->segment_count = units;
    split_sum_up_(s);
    for (int k = 0; k < UNIT_KINDS; k++) {
        if (!path_format(s->paths[k], e, "%s/data/%s.%s", s->work, s->name, UNIT_ENDINGS[k])) {
            return false;
        }
    }
    return true;
}

// Says what goes into which split. If the random split leaves one side without a document, it gets
// the last one of the other.
static inline bool splits_plan_(SplitFiles splits[SPLITS], const Corpus *c, int token_bytes,
                                Error *e) {
    for (int s = 0; s < SPLITS; s++) {
        splits[s] =
            (SplitFiles){.name = SPLIT_NAMES[s], .work = c->work, .token_bytes = token_bytes};
        if (!split_plan_(&splits[s], s, c->counts, c->units.count, e)) {
            return false;
        }
    }
    SplitFiles *train = &splits[SPLIT_TRAIN], *val = &splits[SPLIT_VAL];
    return c->options->val_fraction == 0 ||
           ((val->documents > 0 || split_move_last_(val, train, e)) &&
            (train->documents > 0 || split_move_last_(train, val, e)));
}

// ------------------------------------------------------------------------------------------------
// Joining

static inline uint64_t split_file_bytes_(const SplitFiles *s, int kind) {
    return kind == UNIT_BIN    ? s->tokens * (uint64_t)s->token_bytes
           : kind == UNIT_DOCS ? DOCS_HEADER + DOCS_RECORD * s->documents
                               : s->meta_bytes;
}

// Moves the metadata of the records in a block by *context bytes.
static inline void records_move_metadata_(const void *context, unsigned char *block, size_t bytes) {
    for (size_t i = 0; i < bytes; i += DOCS_RECORD) {
        DocumentRecord d = docs_load(block + i);
        d.metadata += *(const uint64_t *)context;
        docs_store(block + i, &d);
    }
}

// Writes this rank's share of one file of a split: every size-th segment to where those before it
// end.
static inline bool split_write_(const SplitFiles *s, int kind, const World *world, Error *e) {
    const char *path = s->paths[kind];
    uint64_t to_at = kind == UNIT_DOCS ? DOCS_HEADER : 0, meta = 0;
    int file = join_open(path, e);
    bool ok = file >= 0;
    if (ok && kind == UNIT_DOCS && world->rank == 0) {
        unsigned char header[DOCS_HEADER];
        docs_store_header(header, s->documents);
        ok = write_at(file, path, header, sizeof header, 0, e);
    }
    for (size_t i = 0; ok && i < s->segment_count; i++) {
        const Segment *g = &s->segments[i];
        const uint64_t begin[UNIT_KINDS] = {g->first_token * (uint64_t)s->token_bytes,
                                            g->first_document * DOCS_RECORD, g->first_meta};
        const uint64_t bytes[UNIT_KINDS] = {g->tokens * (uint64_t)s->token_bytes,
                                            g->documents * DOCS_RECORD, g->meta_bytes};
        const uint64_t move = meta - g->first_meta;
        char from[PATH_LIMIT];
        if (i % (size_t)world->size == (size_t)world->rank) {
            ok = segment_path_(from, s, g, kind, e) &&
                 join_copy(from, begin[kind], bytes[kind], file, path, to_at,
                           kind == UNIT_DOCS ? records_move_metadata_ : NULL, &move, e);
        }
        to_at += bytes[kind];
        meta += g->meta_bytes;
    }
    return join_close(file, path, ok, e);
}

// Rank 0: what is made from the joined files of a split: .idx, .index if it is asked for, .sums.
// The entry gets their hashes.
static inline bool split_finish_(const SplitFiles *s, const Tokenizer *tokenizer,
                                 const PrepareOptions *o, ManifestSplit *entry, Error *e) {
    char data[PATH_LIMIT], idx[PATH_LIMIT];
    return path_format(data, e, "%s/data", s->work) &&
           path_format(idx, e, "%s/%s.idx", data, s->name) &&
           idx_write(idx, s->paths[UNIT_DOCS], s->token_bytes, SEQUENCE_LIMIT,
                     entry->files[MANIFEST_IDX].hash, e) &&
           (!o->index || index_build(data, s->name, tokenizer, o->progress,
                                     entry->files[MANIFEST_INDEX].hash, e)) &&
           sums_build(data, s->name, entry->files[MANIFEST_SUMS].hash, e);
}

// Collective: the lines of all units become WORK/data/dropped.jsonl. On failure the error line is
// printed.
static inline bool dropped_join_(const Corpus *c, const char *path) {
    Error e = {{0}};
    uint64_t *bytes = calloc(c->units.count + 1, sizeof *bytes);
    bool ok = bytes || fail(&e, "prepare: no memory for %zu units", c->units.count);
    ok = world_check(c->world, ok, &e);
    for (size_t u = 0; ok && u < c->units.count; u++) {
        bytes[u] = c->counts[u].dropped_bytes;
    }
    ok = ok && join_unit_files(c->world, c->work, "dropped", bytes, c->units.count, path);
    free(bytes);
    return ok;
}

// Collective: the joined files are hashed by all ranks, dropped.jsonl first; the entries get the
// hashes. On failure the line is printed.
static inline bool splits_hash_(World *world, const SplitFiles *splits, int count,
                                const char *dropped_path, ManifestSplit *entries,
                                ManifestFile *dropped) {
    static const int listed_as[UNIT_KINDS] = {MANIFEST_BIN, MANIFEST_DOCS, MANIFEST_META};
    const char *paths[1 + SPLITS * UNIT_KINDS] = {dropped_path};
    uint64_t bytes[1 + SPLITS * UNIT_KINDS] = {0};
    char hashes[1 + SPLITS * UNIT_KINDS][SHA256_HEX];
    const int files = count * UNIT_KINDS;
    for (int i = 0; i < files; i++) {
        paths[1 + i] = splits[i / UNIT_KINDS].paths[i % UNIT_KINDS];
        bytes[1 + i] = split_file_bytes_(&splits[i / UNIT_KINDS], i % UNIT_KINDS);
    }
    if (!hash_files(world, paths, bytes, (size_t)files + 1, hashes)) {
        return false;
    }
    memcpy(dropped->hash, hashes[0], SHA256_HEX);
    for (int i = 0; i < files; i++) {
        ManifestFile *file = &entries[i / UNIT_KINDS].files[listed_as[i % UNIT_KINDS]];
        memcpy(file->hash, hashes[1 + i], SHA256_HEX);
    }
    return true;
}

// Collective: joins the files of the units to train.*, val.* and dropped.jsonl in WORK/data. The
// entries of the manifest get the hashes, on rank 0 all of them. splits_free releases the splits,
// after a failure too. On failure the line is printed.
static inline bool splits_make(SplitFiles splits[SPLITS], const Corpus *c,
                               const Tokenizer *tokenizer, int token_bytes,
                               ManifestSplit entries[SPLITS], ManifestFile *dropped) {
    World *w = c->world;
    Error e = {{0}};
    char dropped_path[PATH_LIMIT];
    const int count = c->options->val_fraction > 0 ? SPLITS : 1, files = count * UNIT_KINDS;
    bool ok = path_format(dropped_path, &e, "%s/data/dropped.jsonl", c->work) &&
              splits_plan_(splits, c, token_bytes, &e);
    for (int i = 0; ok && i < files && w->rank == 0; i++) {
        ok = join_create(splits[i / UNIT_KINDS].paths[i % UNIT_KINDS], &e);
    }
    if (!world_check(w, ok, &e) || !dropped_join_(c, dropped_path)) {
        return false;
    }

    for (int i = 0; ok && i < files; i++) {
        ok = split_write_(&splits[i / UNIT_KINDS], i % UNIT_KINDS, w, &e);
    }
    if (!world_check(w, ok, &e)) {
        return false;
    }

    for (int s = 0; ok && s < count && w->rank == 0; s++) {
        ok = split_finish_(&splits[s], tokenizer, c->options, &entries[s], &e);
    }
    return world_check(w, ok, &e) && splits_hash_(w, splits, count, dropped_path, entries, dropped);
}

#endif
