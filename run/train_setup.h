// train_setup.h: what a training run is, from its options and its data: the model's shape, the
// vocabulary, the tokenizer that goes into checkpoints, the training and validation data. All
// checks that need no training come here, before anything large is allocated.
#ifndef RUN_TRAIN_SETUP_H
#define RUN_TRAIN_SETUP_H

#include "dataloader.h"
#include "model/config.h"
#include "mpi_utils.h"
#include "run/model_choice.h"
#include "run/options.h"
#include "tokenizer.h"

typedef struct {
    ModelConfig config;
    Mixture data, val;     // val.count is 0 without validation data
    const char *tokenizer; // folder whose tokenizer goes into checkpoints; "" if there is none
    size_t seq_len, micro_batch, global_batch;
} TrainSetup;

// ------------------------------------------------------------------------------------------------
// Options

static inline bool check_model_options_(const Options *o, Error *e) {
    ModelConfig c;
    if (!shape_from_options(o, &c, e)) {
        return false;
    }
    if (o->init) {
        return (!o->model && !o->layers && !o->heads && !o->channels) ||
               fail(e, "--init takes the model's shape from its config.json: omit --model, "
                       "--layers, --heads, --channels");
    }
    if (!c.layers || !c.channels || !c.heads || !c.seq_len) {
        return fail(e, "train needs --model NAME, or all of --layers, --heads, --channels, "
                       "--seq-len, or --init DIR");
    }
    return c.channels % c.heads == 0 ||
           fail(e, "--channels %zu is not a multiple of --heads %zu", c.channels, c.heads);
}

// Impossible combinations of options, found before anything is opened. ranks: of the whole run.
static inline bool train_check_options(const Options *o, int ranks, Error *e) {
    size_t dp = (size_t)ranks / (o->tp * o->pp), multiple = o->micro_batch * dp;
    if (!o->data.count || !o->out) {
        return fail(e, "train needs %s", o->data.count ? "--out DIR" : "--data PATH");
    }
    if (!check_model_options_(o, e)) {
        return false;
    }
    if (o->global_batch % multiple) {
        return fail(e,
                    "--global-batch %zu does not divide into micro-batches of %zu on %zu "
                    "data-parallel rank%s: it must be a multiple of %zu",
                    o->global_batch, o->micro_batch, dp, dp == 1 ? "" : "s", multiple);
    }
    if (o->time_limit > 0 && o->save_every == 0) {
        return fail(e,
                    "--time-limit %g with --save-every 0: there would be no checkpoint to resume "
                    "from",
                    o->time_limit);
    }
    if (o->min_lr > o->lr) {
        return fail(e, "--min-lr %g is larger than --lr %g", o->min_lr, o->lr);
    }
    if (o->warmup_steps > o->steps) {
        return fail(e, "--warmup-steps %zu is more than --steps %zu", o->warmup_steps, o->steps);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Data

// The validation splits of those training sources that have one, with the weights of training.
static inline bool open_own_validation_(TrainSetup *s, Error *e) {
    const char *paths[MIXTURE_DATASETS_MAX];
    uint64_t weights[MIXTURE_DATASETS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < s->data.count; i++) {
        if (dataset_has_split(s->data.paths[i], "val")) {
            paths[count] = s->data.paths[i];
            weights[count++] = s->data.weights[i];
        }
    }
    return count == 0 || mixture_open_paths(&s->val, paths, weights, count, "val", s->seq_len, e);
}

static inline bool open_data_(TrainSetup *s, const Options *o, Error *e) {
    const TextList *data = &o->data, *val = &o->val_data;
    bool ok = mixture_open(&s->data, data->items, data->count, "train", s->seq_len, e) &&
              (val->count > 0 ? mixture_open(&s->val, val->items, val->count, "val", s->seq_len, e)
                              : o->eval_every == 0 || open_own_validation_(s, e));
    if (!ok) {
        return false;
    }

    const char *hash = s->data.items[0].tokenizer_hash;
    const char *val_hash = s->val.count > 0 ? s->val.items[0].tokenizer_hash : "";
    return !*hash || !*val_hash || !strcmp(hash, val_hash) ||
           fail(e,
                "%s and %s: were made with different tokenizers: validation data must be prepared "
                "with the tokenizer of the training data",
                s->data.paths[0], s->val.paths[0]);
}

// The vocabulary size is the tokenizer's of the data; bare shards do not know theirs. A model from
// --init brings its own, which may be larger.
static inline bool choose_vocab_size_(TrainSetup *s, const Options *o, Error *e) {
    ModelConfig *c = &s->config;
    const char *path = s->data.paths[0];
    size_t size = s->data.items[0].vocab_size; // of every dataset
    if (size && o->vocab_size && o->vocab_size != size) {
        return fail(e,
                    "--vocab-size %zu: the tokenizer of %s has a vocabulary of %zu; omit the "
                    "option",
                    o->vocab_size, path, size);
    }

    size = size ? size : o->vocab_size;
    if (o->init) {
        return size <= c->vocab_size ||
               fail(e, "%s: its vocabulary size %zu is too small for the %zu tokens of %s", o->init,
                    c->vocab_size, size, path);
    }
    c->vocab_size = size ? size : o->model ? GPT2_VOCAB_SIZE : 0;
    return c->vocab_size > 0 ||
           fail(e, "%s: does not state its vocabulary size: give --vocab-size N", path);
}

// The tokenizer that goes into checkpoints, and with it the token that ends a document.
static inline bool choose_tokenizer_(TrainSetup *s, const Options *o, Error *e) {
    char path[PATH_LIMIT];
    s->tokenizer = s->data.items[0].tokenizer;
    if (s->tokenizer[0]) {
        Tokenizer tokenizer;
        if (!tokenizer_load(&tokenizer, s->tokenizer, e)) {
            return false;
        }
        s->config.end_of_document = tokenizer.end_of_document;
        tokenizer_free(&tokenizer);
        return true;
    }

    if (o->init) {
        if (!tokenizer_main_file(path, o->init, e)) {
            return false;
        }
        s->tokenizer = access(path, F_OK) ? "" : o->init;
    } else if (s->config.vocab_size == GPT2_VOCAB_SIZE) {
        s->config.end_of_document = GPT2_VOCAB_SIZE - 1;
    }
    return true;
}

// Settles the model's shape and opens the data, on every rank. The caller closes s->data and
// s->val.
static inline bool train_setup(TrainSetup *s, const Options *o, const Grid *g, Error *e) {
    *s = (TrainSetup){.tokenizer = ""};
    if (!(o->init ? config_load(o->init, &s->config, e) : shape_from_options(o, &s->config, e))) {
        return false;
    }
    s->seq_len = o->seq_len ? o->seq_len : s->config.seq_len;
    s->micro_batch = o->micro_batch;
    s->global_batch = o->global_batch ? o->global_batch : o->micro_batch * (size_t)g->dp;
    if (s->seq_len > s->config.seq_len) {
        return fail(e, "--seq-len %zu is more than the %zu positions of %s", s->seq_len,
                    s->config.seq_len, o->init);
    }
    return open_data_(s, o, e) && choose_vocab_size_(s, o, e) && choose_tokenizer_(s, o, e) &&
           grid_fits(&s->config, (size_t)g->tp, (size_t)g->pp, e);
}

#endif
