// prepare.h: text files become token shards, tokenizer and manifest, in one folder, over all ranks
// and their threads.
//
// The corpus is a list of units that depends on nothing but the input (units.h). A rank takes a
// unit through a pass in batches of documents, which its threads parse and tokenize (pass.h,
// batch.h); what comes of it goes to files of the unit. Then these are joined in the order of the
// units (join.h). So the result is the same for any number of ranks and threads, and an interrupted
// run resumes after the units it has completed.
#ifndef CORPUS_PREPARE_H
#define CORPUS_PREPARE_H

#include "corpus/encode_pass.h"
#include "corpus/prepare_manifest.h"
#include "corpus/prepare_tokenizer.h"
#include "corpus/scan_pass.h"
#include "corpus/split_files.h"

// Collective: finds the sources, cuts them into units, opens the work folder. On failure the line
// is printed.
static inline bool prepare_begin_(Corpus *c) {
    const PrepareOptions *o = c->options;
    const bool root = c->world->rank == 0;
    Error e = {{0}};
    bool ok = prepare_check_options(o, &e) && work_folder_name(&c->work, o->out, &e) &&
              (!root || sources_find(&c->sources, o->inputs, o->input_count, &e));
    if (!world_check(c->world, ok, &e) ||
        !world_check(c->world, sources_share(&c->sources, c->world, &e), &e)) {
        return false;
    }
    ok = units_make(&c->units, &c->sources, o->unit_bytes, &e) &&
         workers_make(&c->workers, &o->collect, &e);
    c->counts = ok ? calloc(c->units.count, sizeof *c->counts) : NULL;
    ok = ok && (c->counts || fail(&e, "prepare: no memory for %zu units", c->units.count));
    ok = ok && (!root || work_folder_open(&c->work, o, &c->sources, &e));
    return world_check(c->world, ok, &e);
}

// Collective: hashes the sources, joins the files of the units, writes the manifest, publishes the
// folder. On failure the line is printed.
static inline bool prepare_finish_(Corpus *c) {
    World *w = c->world;
    Error e = {{0}};
    ManifestContent manifest = {0};
    c->report->sources = c->sources.count;
    c->report->skipped_files = c->sources.skipped;
    c->report->vocab_size = c->tokenizer.vocabulary.count;
    return hash_sources(&c->sources, w) && splits_make(c, &manifest) &&
           world_check(w,
                       w->rank != 0 || (prepare_write_manifest(c, manifest, &e) &&
                                        work_folder_publish(&c->work, c->options->out, &e)),
                       &e);
}

// Collective. Makes the folder o->out from the texts o->inputs: tokenizer, shards, manifest. It
// appears only when it is complete and on disk; after a failure, whose line is printed, nothing is
// left of it. The same input, options and command give the same bytes on any number of ranks and
// threads; the same call resumes an interrupted one. All ranks must see the same file system; a
// rank holds a few megabytes per thread, the longest line of JSON Lines and its sample. No document
// vanishes silently: each one that is dropped is listed in dropped.jsonl and counted in the report
// and the manifest, and a file of JSON Lines of which half or more cannot be used is an error. The
// report is rank 0's.
static inline bool prepare_corpus(World *world, const PrepareOptions *o, PrepareReport *r) {
    *r = (PrepareReport){0};
    Corpus c = {.world = world,
                .options = o,
                .work = {.lock = -1},
                .verdicts = {.file = -1},
                .item_bytes = {[UNIT_RECORDS] = fingerprint_size(&o->collect),
                               [UNIT_PLACES] = PLACE_BYTES,
                               [UNIT_TRAIN_DOCS] = DOCS_RECORD,
                               [UNIT_VAL_DOCS] = DOCS_RECORD,
                               [UNIT_TRAIN_META] = 1,
                               [UNIT_VAL_META] = 1,
                               [UNIT_DROPPED] = 1},
                .report = r};
    bool ok = prepare_begin_(&c) && scan_pass_run(&c) && prepare_tokenizer(&c) &&
              encode_pass_run(&c) && prepare_finish_(&c);

    work_folder_close(&c.work);
    tokenizer_free(&c.tokenizer);
    verdicts_free(&c.verdicts);
    workers_free(&c.workers);
    free(c.counts);
    free(c.units.items);
    sources_free(&c.sources);
    return ok;
}

#endif
