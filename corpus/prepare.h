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
#include "corpus/work_folder.h"

// Collective: finds the sources, cuts them into units, opens the work folder. On failure the line
// is printed.
static inline bool prepare_begin_(Corpus *c, WorkFolder *work) {
    const PrepareOptions *o = c->options;
    const bool root = c->world->rank == 0;
    Error e = {{0}};
    bool ok = prepare_check_options(o, &e) && work_folder_name(work, o->out, &e) &&
              (!root || sources_find(&c->sources, o->inputs, o->input_count, &e));
    if (!world_check(c->world, ok, &e) ||
        !world_check(c->world, sources_share(&c->sources, c->world, &e), &e)) {
        return false;
    }
    ok = units_make(&c->units, &c->sources, o->unit_bytes, &e) && workers_make(&c->workers, &e);
    c->counts = ok ? calloc(c->units.count, sizeof *c->counts) : NULL;
    ok = ok && (c->counts || fail(&e, "prepare: no memory for %zu units", c->units.count));
    ok = ok && (!root || work_folder_open(work, o, &c->sources, &e));
    c->work = work->path;
    c->resuming = work->resuming;
    return world_check(c->world, ok, &e);
}

// Rank 0: completes the report, writes the manifest and publishes the folder.
static inline bool prepare_finish_(Corpus *c, const WorkFolder *work, const Tokenizer *tokenizer,
                                   const SplitFiles splits[SPLITS], ManifestSplit entries[SPLITS],
                                   ManifestFile *dropped, Error *e) {
    PrepareReport *r = c->report;
    r->sources = c->sources.count;
    r->skipped_files = c->sources.skipped;
    r->vocab_size = tokenizer->vocabulary.count;
    for (int s = 0; s < SPLITS; s++) {
        uint64_t *counts = counts_split(&r->counts, s);
        counts[SPLIT_DOCUMENTS] = splits[s].documents;
        counts[SPLIT_TOKENS] = splits[s].tokens;
        counts[SPLIT_META_BYTES] = splits[s].meta_bytes;
        entries[s].name = splits[s].name;
        entries[s].documents = splits[s].documents;
        entries[s].tokens = splits[s].tokens;
        entries[s].token_bytes = splits[s].token_bytes;
    }
    size_t split_count = c->options->val_fraction > 0 ? SPLITS : 1;
    return prepare_write_manifest(c, tokenizer, entries, split_count, dropped, e) &&
           work_folder_publish(work, c->options->out, e);
}

// Collective: from the units to the published folder. On failure the line is printed.
static inline bool prepare_run_(Corpus *c, const WorkFolder *work, VerdictReader *verdicts,
                                Tokenizer *tokenizer, SplitFiles splits[SPLITS]) {
    World *w = c->world;
    Error e = {{0}};
    ManifestSplit entries[SPLITS] = {{0}};
    ManifestFile dropped = {0};
    if (!prepare_tokenizer(c, verdicts, tokenizer)) {
        return false;
    }
    const int token_bytes = idx_token_bytes(tokenizer->vocabulary.count);
    return encode_pass_run(c, verdicts, tokenizer, token_bytes) && hash_sources(&c->sources, w) &&
           splits_make(splits, c, tokenizer, token_bytes, entries, &dropped) &&
           world_check_root(w,
                            w->rank != 0 ||
                                prepare_finish_(c, work, tokenizer, splits, entries, &dropped, &e),
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
    Corpus c = {.world = world, .options = o, .report = r};
    WorkFolder work = {.lock = -1};
    VerdictReader verdicts = {.file = NULL};
    uint64_t *first_documents = NULL;
    Tokenizer tokenizer = {0};
    SplitFiles splits[SPLITS] = {{0}};

    bool ok = prepare_begin_(&c, &work) && scan_pass_run(&c, &verdicts, &first_documents) &&
              prepare_run_(&c, &work, &verdicts, &tokenizer, splits);

    work_folder_close(&work);
    splits_free(splits);
    tokenizer_free(&tokenizer);
    verdicts_close(&verdicts);
    free(first_documents);
    workers_free(&c.workers);
    free(c.counts);
    free(c.units.items);
    sources_free(&c.sources);
    return ok;
}

#endif
