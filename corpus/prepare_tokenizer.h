// prepare_tokenizer.h: where the tokenizer comes from: trained on a sample of the corpus, or
// loaded. WORK/data/tokenizer/ gets it.
#ifndef CORPUS_PREPARE_TOKENIZER_H
#define CORPUS_PREPARE_TOKENIZER_H

#include "corpus/sample_pass.h"
#include "shards/idx.h"
#include "tokenizers/train.h"

// Trains a tokenizer on the sample, which it frees, and writes it to `folder`.
static inline bool tokenizer_train_(Sample *sample, const PrepareOptions *o, const char *folder,
                                    Error *e) {
    TokenizerTrainer trainer;
    Tokenizer trained = {0};
    uint64_t bytes = 0;
    bool ok = o->unigram ? trainer_init_unigram(&trainer, e) : trainer_init(&trainer, e);
    for (size_t i = 0; ok && i < sample->count; i++) {
        ok = trainer_add(&trainer, sample->chunks[i].text, sample->chunks[i].length, e);
        bytes += sample->chunks[i].length;
    }
    sample_free(sample);
    if (ok && o->progress) {
        fprintf(o->progress, "training a tokenizer of %zu tokens on %.1f MB\n", o->vocab_size,
                (double)bytes / 1e6);
        fflush(o->progress);
    }
    if (o->unigram) {
        ok = ok && trainer_finish_unigram(&trainer, o->vocab_size, UNIGRAM_COVERAGE, folder, e);
    } else {
        ok = ok && trainer_finish(&trainer, o->vocab_size, &trained, e) &&
             tokenizer_save(&trained, folder, e);
        tokenizer_free(&trained);
    }
    trainer_free(&trainer);
    return ok;
}

// Makes `folder`, completely or not at all: trained on the sample, or a copy of the corpus's
// tokenizer where `sample` is NULL.
static inline bool tokenizer_write_(const Corpus *c, Sample *sample, const char *folder, Error *e) {
    char made[PATH_LIMIT];
    if (!path_format(made, e, "%s/tokenizer", c->work.path)) {
        return false;
    }
    remove_directory(made); // of an interrupted run
    if (mkdir(made, 0777)) {
        return fail(e, "%s: cannot be created: %s", made, strerror(errno));
    }
    return (sample ? tokenizer_train_(sample, c->options, made, e)
                   : tokenizer_save(&c->tokenizer, made, e)) &&
           sync_directory(made, e) &&
           (rename(made, folder) == 0 ||
            fail(e, "%s: cannot be created: %s", folder, strerror(errno)));
}

// Collective: samples the corpus and trains a tokenizer, which `folder` gets. On failure the line
// is printed.
static inline bool tokenizer_sample_and_train_(Corpus *c, const char *folder) {
    World *w = c->world;
    Error e = {{0}};
    Sample sample = {0};
    bool ok = sample_pass_run(c, &sample) &&
              world_check(w, w->rank != 0 || tokenizer_write_(c, &sample, folder, &e), &e);
    sample_free(&sample);
    return ok;
}

// Collective: every rank gets the tokenizer, and WORK/data/tokenizer has it; an interrupted run may
// have made that. On failure the line is printed.
static inline bool prepare_tokenizer(Corpus *c) {
    const char *given = c->options->tokenizer;
    const bool root = c->world->rank == 0;
    Error e = {{0}};
    char folder[PATH_LIMIT];
    bool ok = path_format(folder, &e, "%s/data/tokenizer", c->work.path);
    bool made = ok && root && access(folder, F_OK) == 0;
    if (!world_check(c->world, ok, &e)) {
        return false;
    }
    broadcast(&made, sizeof made);
    if (!made && !given && !tokenizer_sample_and_train_(c, folder)) {
        return false;
    }

    ok = tokenizer_load(&c->tokenizer, given ? given : folder, &e) &&
         (!given || made || !root || tokenizer_write_(c, NULL, folder, &e)) &&
         workers_init_encoders(&c->workers, &c->tokenizer, &e);
    c->item_bytes[UNIT_TRAIN_BIN] = c->item_bytes[UNIT_VAL_BIN] =
        (size_t)idx_token_bytes(c->tokenizer.vocabulary.count);
    return world_check(c->world, ok, &e);
}

#endif
