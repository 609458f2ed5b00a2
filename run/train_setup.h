// train_setup.h: what a training run is, from its options and its data: the model's shape, the
// vocabulary, the tokenizer that goes into checkpoints, the training and validation data. All
// checks that need no training come here, before anything large is allocated.
#ifndef RUN_TRAIN_SETUP_H
#define RUN_TRAIN_SETUP_H

#include "dataloader.h"
#include "model/config_json.h"
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

// The folder whose model training starts from; NULL: a new model.
static inline const char *train_starts_from(const Options *o) {
    return o->init ? o->init : o->resume_from;
}

static inline bool check_model_options_(const Options *o, Error *e) {
    ModelConfig c;
    const char *option = new_model_option(o);
    if (o->init && o->resume_from) {
        return fail(e, "--init %s and --resume-from %s: give one of them", o->init, o->resume_from);
    }
    if (train_starts_from(o)) {
        return !option || fail(e, "%s takes the model's shape from its config.json: omit %s",
                               o->init ? "--init" : "--resume-from", option);
    }
    return shape_from_options(o, "train", &c, e);
}

static inline bool check_schedule_options_(const Options *o, Error *e) {
    if (o->min_lr > o->lr) {
        return fail(e, "--min-lr %g is larger than --lr %g", o->min_lr, o->lr);
    }
    if (o->warmup_steps > o->steps) {
        return fail(e, "--warmup-steps %zu is more than --steps %zu", o->warmup_steps, o->steps);
    }
    if (o->decay_steps && o->schedule != SCHEDULE_WSD) {
        return fail(e, "--decay-steps %zu: only --schedule wsd has a decay of its own",
                    o->decay_steps);
    }
    return o->warmup_steps + o->decay_steps <= o->steps ||
           fail(e, "--warmup-steps %zu and --decay-steps %zu are together more than --steps %zu",
                o->warmup_steps, o->decay_steps, o->steps);
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
    if (o->reproducible && o->reduce_dtype == REDUCE_BF16) {
        return fail(e, "--reproducible sums gradients in FP32, not with --reduce-dtype bf16");
    }
    if (o->time_limit > 0 && o->save_every == 0) {
        return fail(e,
                    "--time-limit %g with --save-every 0: there would be no checkpoint to resume "
                    "from",
                    o->time_limit);
    }
    return check_schedule_options_(o, e);
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

// The vocabulary is the tokenizer's of the data, larger only if --vocab-size pads it; bare shards
// do not know theirs. A model from a folder or from --config brings its own, which may be larger.
static inline bool choose_vocab_size_(TrainSetup *s, const Options *o, Error *e) {
    ModelConfig *c = &s->config;
    const char *path = s->data.paths[0], *from = train_starts_from(o);
    const size_t size = s->data.items[0].vocab_size; // of every dataset
    if (o->vocab_size && o->vocab_size < size) {
        return fail(e,
                    "--vocab-size %zu: the tokenizer of %s has a vocabulary of %zu; omit the "
                    "option, or give a larger number to pad it",
                    o->vocab_size, path, size);
    }

    const size_t needed = o->vocab_size ? o->vocab_size : size;
    if (from || (o->config && !o->vocab_size)) {
        return needed <= c->vocab_size ||
               fail(e, "%s: its vocabulary size %zu is too small for the %zu tokens of %s",
                    from ? from : o->config, c->vocab_size, needed, path);
    }
    c->vocab_size = needed ? needed : c->vocab_size;
    return c->vocab_size > 0 ||
           fail(e, "%s: does not state its vocabulary size: give --vocab-size N", path);
}

// Checkpoints get the tokenizer files of the model that training starts from, unchanged, if they
// give the ids of the data.
static inline void keep_published_tokenizer_(TrainSetup *s, const char *from,
                                             const Tokenizer *of_data) {
    Tokenizer published;
    Error unused;
    if (tokenizer_load(&published, from, &unused)) {
        if (tokenizer_same_tokens(&published, of_data)) {
            s->tokenizer = from;
        }
        tokenizer_free(&published);
    }
}

// Takes over the token that ends a document and, for a new model, the one that begins it: GPT-2 has
// one for both.
static inline bool take_token_ids_(TrainSetup *s, const Options *o, Error *e) {
    ModelConfig *c = &s->config;
    const char *from = train_starts_from(o);
    Tokenizer tokenizer;
    if (!tokenizer_load(&tokenizer, s->tokenizer, e)) {
        return false;
    }

    if (from) {
        keep_published_tokenizer_(s, from, &tokenizer);
    } else {
        c->end_count = 0;
        c->begin_of_document =
            is_family(c, FAMILY_GPT2) ? tokenizer.end_of_document : tokenizer.begin;
    }
    config_set_end(c, tokenizer.end_of_document);
    tokenizer_free(&tokenizer);
    return true;
}

// The tokenizer that goes into checkpoints, and with it the tokens that begin and end a document.
static inline bool choose_tokenizer_(TrainSetup *s, const Options *o, Error *e) {
    char path[PATH_LIMIT];
    const char *from = train_starts_from(o);
    s->tokenizer = s->data.items[0].tokenizer;
    if (s->tokenizer[0]) {
        return take_token_ids_(s, o, e);
    }

    if (from) {
        if (!tokenizer_main_file(path, from, e)) {
            return false;
        }
        s->tokenizer = access(path, F_OK) ? "" : from;
    } else if (!o->config && s->config.vocab_size == GPT2_VOCAB_SIZE) {
        s->config.begin_of_document = GPT2_VOCAB_SIZE - 1;
        config_set_end(&s->config, GPT2_VOCAB_SIZE - 1);
    } else {
        config_drop_ids(&s->config);
    }
    return true;
}

// Settles the model's shape and opens the data, on every rank. The caller closes s->data and
// s->val.
static inline bool train_setup(TrainSetup *s, const Options *o, const Grid *g, Error *e) {
    const char *from = train_starts_from(o);
    *s = (TrainSetup){.tokenizer = ""};
    if (!(from ? config_load(from, &s->config, e)
               : shape_from_options(o, "train", &s->config, e))) {
        return false;
    }
    s->seq_len = o->seq_len ? o->seq_len : s->config.seq_len;
    s->micro_batch = o->micro_batch;
    s->global_batch = o->global_batch ? o->global_batch : o->micro_batch * (size_t)g->dp;
    if (s->seq_len > s->config.seq_len) {
        return fail(e, "--seq-len %zu is more than the %zu positions of %s", s->seq_len,
                    s->config.seq_len, from);
    }
    return open_data_(s, o, e) && choose_vocab_size_(s, o, e) && choose_tokenizer_(s, o, e) &&
           grid_fits(&s->config, (size_t)g->tp, (size_t)g->pp, e);
}

#endif
