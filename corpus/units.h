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
        return fail(e, "prepare: the input yields more than the %u units supported", UINT32_MAX);
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

// Those of the scan pass, then those of the encode pass, by split in the order of SPLIT_DOCS.
enum {
    UNIT_RECORDS,
    UNIT_PLACES,
    UNIT_TRAIN_DOCS,
    UNIT_TRAIN_BIN,
    UNIT_TRAIN_META,
    UNIT_VAL_DOCS,
    UNIT_VAL_BIN,
    UNIT_VAL_META,
    UNIT_DROPPED,
    UNIT_FILES
};

// Each holds as many items of one size as one of the unit's counts says.
static const struct {
    const char *name;
    int count;
} UNIT_FILE[UNIT_FILES] = {
    {"records", COUNT_documents},           {"places", COUNT_documents},
    {"train.docs", COUNT_train_documents},  {"train.bin", COUNT_train_tokens},
    {"train.meta", COUNT_train_meta_bytes}, {"val.docs", COUNT_val_documents},
    {"val.bin", COUNT_val_tokens},          {"val.meta", COUNT_val_meta_bytes},
    {"dropped", COUNT_dropped_bytes}};

static inline int unit_file_of_split(int split, int kind) {
    return UNIT_TRAIN_DOCS + SPLIT_KINDS * split + kind;
}

#endif
