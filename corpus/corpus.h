// corpus.h: the corpus, and where prepare has got to with it.
#ifndef CORPUS_CORPUS_H
#define CORPUS_CORPUS_H

#include "corpus/options.h"
#include "corpus/units.h"
#include "corpus/verdicts.h"
#include "corpus/work_folder.h"
#include "corpus/workers.h"

typedef struct {
    World *world;
    const PrepareOptions *options;
    WorkFolder work;
    SourceList sources;
    UnitList units;
    Workers workers;
    VerdictReader verdicts; // none before the scan pass
    Tokenizer tokenizer;    // empty before prepare_tokenizer
    size_t item_bytes[UNIT_FILES];
    Counts *counts;        // [units.count] of the last pass
    PrepareReport *report; // rank 0: of the last pass
} Corpus;

// WORK/parts/NUMBER.NAME
static inline bool unit_path(char *path, const Corpus *c, size_t unit, const char *name, Error *e) {
    return path_format(path, e, "%s/parts/%08zu.%s", c->work.path, unit, name);
}

// Bytes of a file of a unit with these counts.
static inline uint64_t unit_file_bytes(const Corpus *c, const Counts *counts, int file) {
    return counts->all[UNIT_FILE[file].count] * c->item_bytes[file];
}

#endif
