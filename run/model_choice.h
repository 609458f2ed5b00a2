// model_choice.h: the shape of the model that the options ask for, and whether a grid can hold it.
#ifndef RUN_MODEL_CHOICE_H
#define RUN_MODEL_CHOICE_H

#include "model/config.h"
#include "run/options.h"

enum { GPT2_VOCAB_SIZE = 50257 };

// GPT-2 sizes (Radford et al. 2019), GPT-3's 1.3B (Brown et al. 2020), and those of Fugaku-LLM.
// clang-format off
static const struct {
    const char *name;
    size_t layers, channels, heads, seq_len;
} named_models[] = {
    {"124m", 12,  768, 12, 1024},
    {"350m", 24, 1024, 16, 1024},
    {"774m", 36, 1280, 20, 1024},
    {"1.3b", 24, 2048, 32, 1024},
    {"1.5b", 48, 1600, 25, 1024},
    {"13b",  40, 5184, 36, 2048},
    {"30b",  48, 7168, 56, 2048},
};
// clang-format on
enum { NAMED_MODELS = sizeof named_models / sizeof *named_models };

// Starts from the shape that --model names, 0 everywhere without it. An error for an unknown name.
static inline bool named_model_(const char *name, ModelConfig *c, Error *e) {
    char names[128] = "";
    *c = (ModelConfig){.end_of_document = -1};
    for (size_t i = 0; name && i < NAMED_MODELS; i++) {
        if (!strcmp(name, named_models[i].name)) {
            c->layers = named_models[i].layers;
            c->channels = named_models[i].channels;
            c->heads = named_models[i].heads;
            c->seq_len = named_models[i].seq_len;
            return true;
        }
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, " %s", named_models[i].name);
    }
    return !name || fail(e, "--model %s: unknown model; must be one of%s", name, names);
}

// The model's shape from --model and the options that override it; 0 where neither says, and for
// the vocabulary size.
static inline bool shape_from_options(const Options *o, ModelConfig *c, Error *e) {
    if (!named_model_(o->model, c, e)) {
        return false;
    }
    c->layers = o->layers ? o->layers : c->layers;
    c->channels = o->channels ? o->channels : c->channels;
    c->heads = o->heads ? o->heads : c->heads;
    c->seq_len = o->seq_len ? o->seq_len : c->seq_len;
    return true;
}

// Whether tp tensor-parallel ranks and pp pipeline stages can hold the model. tp, pp >= 1.
static inline bool grid_fits(const ModelConfig *c, size_t tp, size_t pp, Error *e) {
    if (c->heads % tp) {
        return fail(e, "--tp %zu does not divide the model's %zu heads", tp, c->heads);
    }
    if (c->vocab_size < tp) {
        return fail(e, "--tp %zu is more than the vocabulary size %zu", tp, c->vocab_size);
    }
    return pp <= c->layers ||
           fail(e, "--pp %zu is more than the model's %zu layers", pp, c->layers);
}

#endif
