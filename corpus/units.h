// units.h: the corpus cut into units, what a rank works on at a time, and the files of a unit.
//
// The units depend on nothing but the input: a stretch of an uncompressed JSON Lines file, or a
// complete file. What a pass makes of a unit goes to files of its own, WORK/parts/NUMBER.NAME.
#ifndef CORPUS_UNITS_H
#define CORPUS_UNITS_H

#include "corpus/sources.h"
#include "util/files.h"

typedef struct {
    uint32_t source;
    uint64_t begin, end; // JSON Lines: the lines that begin in [begin, end); else 0, UINT64_MAX
    uint64_t bytes;      // of the source that it reads, about
} Unit;

typedef struct {
    Unit *items;
    size_t count, capacity;
} UnitList;

static inline bool units_add_(UnitList *units, Unit unit, Error *e) {
    if (units->count == UINT32_MAX) {
        return fail(e, "prepare: the input makes more than the %u units supported", UINT32_MAX);
    }
    if (!array_reserve(&units->items, &units->capacity, units->count, 1, sizeof unit, e)) {
        return false;
    }
    units->items[units->count++] = unit;
    return true;
}

// Cuts the sources into units: JSON Lines of more than `unit_bytes` into several; 0: by the size of
// the corpus. The caller frees units->items, after a failure too.
static inline bool units_make(UnitList *units, const SourceList *sources, uint64_t unit_bytes,
                              Error *e) {
    enum { UNIT_BYTES = 8 << 20, UNIT_LEAST = 16, UNITS_ABOUT = 8192 };
    uint64_t share = sources_bytes(sources) / UNITS_ABOUT, bytes = unit_bytes;
    if (bytes == 0) {
        bytes = share > UNIT_BYTES ? share : UNIT_BYTES;
    }
    bytes = bytes > UNIT_LEAST ? bytes : UNIT_LEAST; // more than a byte order mark

    for (size_t i = 0; i < sources->count; i++) {
        const Source *s = &sources->items[i];
        bool complete = s->compression || s->kind == SOURCE_TEXT;
        uint64_t begin = 0;
        for (; !complete && s->bytes - begin > bytes; begin += bytes) {
            if (!units_add_(units, (Unit){(uint32_t)i, begin, begin + bytes, bytes}, e)) {
                return false;
            }
        }
        if (!units_add_(units, (Unit){(uint32_t)i, begin, UINT64_MAX, s->bytes - begin}, e)) {
            return false;
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Files of a unit

// WORK/parts/NUMBER.NAME
static inline bool unit_path(char *path, const char *work, size_t unit, const char *name,
                             Error *e) {
    return path_format(path, e, "%s/parts/%08zu.%s", work, unit, name);
}

typedef struct {
    FILE *file; // NULL until something is written
    char path[PATH_LIMIT];
} UnitFile;

static inline bool unit_file_begin(UnitFile *f, const char *work, size_t unit, const char *name,
                                   Error *e) {
    f->file = NULL;
    return unit_path(f->path, work, unit, name, e);
}

static inline bool unit_file_write(UnitFile *f, const void *data, size_t bytes, Error *e) {
    if (!bytes) {
        return true;
    }
    if (!f->file) {
        f->file = fopen(f->path, "wb");
        if (!f->file) {
            return fail(e, "%s: cannot be created: %s", f->path, strerror(errno));
        }
    }
    return write_bytes(f->file, f->path, data, bytes, e);
}

// Closes the file, on disk when this returns true; `ok` says whether all went well so far.
static inline bool unit_file_close(UnitFile *f, bool ok, Error *e) {
    if (f->file) {
        ok = close_written(f->file, f->path, ok ? e : &(Error){0}) && ok;
        f->file = NULL;
    }
    return ok;
}

// Whether a file of the unit has as many bytes as it should have; one of none need not be there.
static inline bool unit_file_check(const char *work, size_t unit, const char *name, uint64_t bytes,
                                   Error *e) {
    char path[PATH_LIMIT];
    struct stat status;
    if (bytes == 0) {
        return true;
    }
    return unit_path(path, work, unit, name, e) &&
           ((stat(path, &status) == 0 && (uint64_t)status.st_size == bytes) ||
            fail(e, "%s: should have %llu bytes", path, (unsigned long long)bytes));
}

#endif
