// prepare_tokenizer.h: where the tokenizer comes from: trained on a sample of the corpus, or
// loaded. WORK/data/tokenizer/ gets it.
#ifndef CORPUS_PREPARE_TOKENIZER_H
#define CORPUS_PREPARE_TOKENIZER_H

#include "corpus/sample_pass.h"
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

// Makes `folder`, completely or not at all: trained on the sample, or a copy of `given` where that
// is not NULL.
static inline bool tokenizer_write_(const Tokenizer *given, Sample *sample, const PrepareOptions *o,
                                    const char *work, const char *folder, Error *e) {
    char made[PATH_LIMIT];
    if (!path_format(made, e, "%s/tokenizer", work)) {
        return false;
    }
    remove_directory(made); // of an interrupted run
    if (mkdir(made, 0777)) {
        return fail(e, "%s: cannot be created: %s", made, strerror(errno));
    }
    return (given ? tokenizer_save(given, made, e) : tokenizer_train_(sample, o, made, e)) &&
           sync_directory(made, e) &&
           (rename(made, folder) == 0 ||
            fail(e, "%s: cannot be created: %s", folder, strerror(errno)));
}

// Collective: samples the corpus and trains a tokenizer, which `folder` gets. On failure the line
// is printed.
static inline bool tokenizer_sample_and_train_(Corpus *c, VerdictReader *verdicts,
                                               const char *folder) {
    Error e = {{0}};
    Sample sample = {0};
    bool ok = sample_pass_run(c, verdicts, &sample) &&
              world_check_root(c->world,
                               c->world->rank != 0 ||
                                   tokenizer_write_(NULL, &sample, c->options, c->work, folder, &e),
                               &e);
    sample_free(&sample);
    return ok;
}

// Collective: every rank gets the tokenizer, and WORK/data/tokenizer has it; an interrupted run may
// have made that. tokenizer_free releases it, after a failure too. On failure the line is printed.
static inline bool prepare_tokenizer(Corpus *c, VerdictReader *verdicts, Tokenizer *tokenizer) {
    const PrepareOptions *o = c->options;
    const bool root = c->world->rank == 0;
    Error e = {{0}};
    char folder[PATH_LIMIT];
    bool ok = path_format(folder, &e, "%s/data/tokenizer", c->work);
    bool made = ok && root && access(folder, F_OK) == 0;
    if (!world_check(c->world, ok, &e)) {
        return false;
    }
    broadcast(&made, sizeof made);
    if (!made && !o->tokenizer && !tokenizer_sample_and_train_(c, verdicts, folder)) {
        return false;
    }
    bool copy = o->tokenizer && !made && root;
    ok = tokenizer_load(tokenizer, o->tokenizer ? o->tokenizer : folder, &e) &&
         (!copy || tokenizer_write_(tokenizer, NULL, o, c->work, folder, &e)) &&
         workers_init_encoders(&c->workers, tokenizer, &e);
    return world_check(c->world, ok, &e);
}

#endif
