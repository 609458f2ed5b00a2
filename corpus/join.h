// join.h: files of all units put together in the order of the units, by all ranks.
#ifndef CORPUS_JOIN_H
#define CORPUS_JOIN_H

#include "corpus/corpus.h"
#include "shards/docs.h"

// Changes a block of what is copied.
typedef void (*JoinEdit)(const void *context, unsigned char *block, size_t bytes);

enum { JOIN_BLOCK = DOCS_RECORD << 13 }; // a multiple of a record of .docs

// Copies `bytes` at `at` of the file `from_path` to `to_at` of an open file; `edit` is NULL, or
// changes each block, which begins at a multiple of JOIN_BLOCK from `at`.
static inline bool join_copy(const char *from_path, uint64_t at, uint64_t bytes, int to,
                             const char *to_path, uint64_t to_at, JoinEdit edit,
                             const void *context, Error *e) {
    if (!bytes) {
        return true;
    }
    unsigned char *block = malloc(JOIN_BLOCK);
    int from = open(from_path, O_RDONLY | O_CLOEXEC);
    bool ok = (block || fail(e, "%s: no memory", to_path)) &&
              (from >= 0 || fail(e, "%s: cannot be read: %s", from_path, strerror(errno)));
    for (uint64_t done = 0, n; ok && done < bytes; done += n) {
        n = min_u64(bytes - done, JOIN_BLOCK);
        ok = read_at(from, from_path, block, n, at + done, e);
        if (ok && edit) {
            edit(context, block, n);
        }
        ok = ok && write_at(to, to_path, block, n, to_at + done, e);
    }
    close_if_open(from);
    free(block);
    return ok;
}

static inline int join_open(const char *path, Error *e) {
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) {
        fail(e, "%s: cannot be written: %s", path, strerror(errno));
    }
    return file;
}

// Creates the file, or empties it, for all ranks to write to.
static inline bool join_create(const char *path, Error *e) {
    int file = open(path, O_WRONLY | O_CLOEXEC | O_CREAT | O_TRUNC, 0666);
    close_if_open(file);
    return file >= 0 || fail(e, "%s: cannot be created: %s", path, strerror(errno));
}

// Whether segment i of what is joined is this rank's: every size-th one.
static inline bool join_is_mine(const World *world, size_t i) {
    return i % (size_t)world->size == (size_t)world->rank;
}

// Writes this rank's share.
static inline bool join_write_units_(const Corpus *c, int kind, const char *path, Error *e) {
    uint64_t to_at = 0;
    int file = join_open(path, e);
    bool ok = file >= 0;
    for (size_t u = 0; ok && u < c->units.count; u++) {
        const uint64_t bytes = unit_file_bytes(c, &c->counts[u], kind);
        char from[PATH_LIMIT];
        if (join_is_mine(c->world, u)) {
            ok = unit_path(from, c, u, UNIT_FILE[kind].name, e) &&
                 join_copy(from, 0, bytes, file, path, to_at, NULL, NULL, e);
        }
        to_at += bytes;
    }
    return close_written_at(file, path, ok, e);
}

// Collective: joins the files of one kind of all units to `path`. On failure the line is printed.
static inline bool join_unit_files(const Corpus *c, int kind, const char *path) {
    Error e = {{0}};
    bool ok = c->world->rank != 0 || join_create(path, &e);
    return world_check(c->world, ok, &e) &&
           world_check(c->world, join_write_units_(c, kind, path, &e), &e);
}

#endif
