// tensors.h: the tensors of a shard of the model, out of the family's tables: views with name,
// shape and place, pointers by field, initial values.
#ifndef MODEL_TENSORS_H
#define MODEL_TENSORS_H

#include "model/config.h"
#include "model/family.h"
#include "model/shard.h"
#include "model/tensor_view.h"
#include "util/random.h"

// A tensor of the whole model.
typedef struct {
    const TensorSpec *spec;
    size_t layer;           // SIZE_MAX: not of a block
    bool on_first, on_last; // outside the blocks: on which stages
    bool embedding;         // the tied embedding and output head
} ModelTensor;

static inline size_t tensors_in_model(const ModelConfig *c) {
    const Family *f = &family_gpt2;
    return f->embedding_count + f->layer_count * c->layers + f->head_count;
}

// The i-th tensor of the model, i < tensors_in_model.
static inline ModelTensor model_tensor(const ModelConfig *c, size_t i) {
    const Family *f = &family_gpt2;
    if (i < f->embedding_count) {
        return (ModelTensor){&f->embedding[i], SIZE_MAX, true, i == 0, i == 0};
    }
    i -= f->embedding_count;
    if (i < f->layer_count * c->layers) {
        return (ModelTensor){&f->layer[i % f->layer_count], i / f->layer_count, false, false,
                             false};
    }
    i -= f->layer_count * c->layers;
    return (ModelTensor){&f->head[i], SIZE_MAX, false, true, false};
}

static inline bool shard_has(const ModelShard *s, const ModelTensor *t) {
    if (t->layer != SIZE_MAX) {
        return t->layer >= s->first_layer && t->layer < s->first_layer + s->layers;
    }
    return (t->on_first && s->first_stage) || (t->on_last && s->last_stage);
}

// Dimension d of a tensor: what of the whole this shard has.
static inline void view_set_dimension_(TensorView *view, int d, const ModelConfig *c,
                                       const ModelShard *s, char letter) {
    size_t C = c->channels;
    switch (letter) {
    case 'v':
        view->whole[d] = c->vocab_size;
        view->shape[d] = s->vocab.count;
        view->first[d] = s->vocab.first;
        return;
    case 'P':
        view->whole[d] = view->shape[d] = c->seq_len;
        return;
    case 'C':
        view->whole[d] = view->shape[d] = C;
        return;
    }

    view->whole[d] = letter == 'f' ? 4 * C : C;
    view->shape[d] = view->whole[d] / s->tp;
    view->first[d] = s->tp_rank * view->shape[d];
    if (letter == 'q') {
        view->groups = 3;
        view->whole[d] *= 3;
        view->shape[d] *= 3;
    }
}

// Views of all tensors of a shard over an array laid out as the table says; `prefix` goes before
// each name. Returns how many elements they have in all, *count is how many views there are. With
// views == NULL only that is computed.
static inline size_t tensor_views(const ModelConfig *c, const ModelShard *s, float *data,
                                  const char *prefix, TensorView *views, size_t *count) {
    size_t total = 0;
    *count = 0;
    for (size_t i = 0; i < tensors_in_model(c); i++) {
        ModelTensor t = model_tensor(c, i);
        if (!shard_has(s, &t)) {
            continue;
        }

        TensorView view = {.data = data ? data + total : NULL,
                           .dims = (int)strlen(t.spec->shape),
                           .groups = 1,
                           .embedding = t.embedding};
        for (int d = 0; d < view.dims; d++) {
            view_set_dimension_(&view, d, c, s, t.spec->shape[d]);
        }
        if (t.layer == SIZE_MAX) {
            snprintf(view.name, sizeof view.name, "%s%s%s", prefix, family_gpt2.prefix,
                     t.spec->name);
        } else {
            snprintf(view.name, sizeof view.name, "%s%sh.%zu.%s", prefix, family_gpt2.prefix,
                     t.layer, t.spec->name);
        }

        total += tensor_elements(&view);
        if (views) {
            views[*count] = view;
        }
        *count += 1;
    }
    return total;
}

// Elements of a shard's tensors.
static inline size_t shard_parameters(const ModelConfig *c, const ModelShard *s) {
    size_t count;
    return tensor_views(c, s, NULL, "", NULL, &count);
}

// Whether this rank's copy is the one that counts for a tensor which several ranks of the model
// hold: tensors that are not split are on all tensor-parallel ranks, the embedding is on two
// stages.
static inline bool counts_once(const ModelShard *s, const TensorView *view) {
    bool split = tensor_elements(view) < tensor_whole_elements(view);
    return (split || s->tp_rank == 0) && (!view->embedding || s->first_stage);
}

// Points the fields of `weights` into an array laid out as the table says; those of other stages
// stay NULL. False without memory; the caller frees weights->layers.
static inline bool weights_point_into(const ModelConfig *c, const ModelShard *s, float *data,
                                      Weights *weights) {
    size_t at = 0;
    *weights = (Weights){.layers = calloc(s->layers, sizeof *weights->layers)};
    if (!weights->layers) {
        return false;
    }

    for (size_t i = 0; i < tensors_in_model(c); i++) {
        ModelTensor t = model_tensor(c, i);
        if (!shard_has(s, &t)) {
            continue;
        }
        TensorView view = {.dims = (int)strlen(t.spec->shape), .groups = 1};
        for (int d = 0; d < view.dims; d++) {
            view_set_dimension_(&view, d, c, s, t.spec->shape[d]);
        }
        bool in_block = t.layer != SIZE_MAX;
        char *fields =
            in_block ? (char *)&weights->layers[t.layer - s->first_layer] : (char *)weights;
        float *tensor = data ? data + at : NULL;
        memcpy(fields + t.spec->field, &tensor, sizeof tensor);
        at += tensor_elements(&view);
    }
    return true;
}

// A normal variate for each (seed, tensor, element), whatever the number of ranks or threads: the
// sum of 12 uniform 16-bit numbers has mean 6 and variance 1 - 2^-32. Integers all the way, so that
// every machine draws the same bits.
static inline float normal_variate_(uint64_t seed, uint64_t tensor, uint64_t element) {
    int64_t sum = 0;
    for (uint64_t word = 0; word < 3; word++) {
        uint64_t bits = random_bits(seed, RANDOM_FREE + tensor, 3 * element + word);
        for (int i = 0; i < 4; i++, bits >>= 16) {
            sum += (int64_t)(bits & 0xFFFF);
        }
    }
    return (float)(2 * sum - 12 * 0xFFFF) * 0x1p-17f;
}

// GPT-2's initial values (Radford et al. 2019): normal with standard deviation `std`, matrices that
// end a residual branch scaled by 1 / sqrt(2 L), biases 0, LayerNorm weights 1. The value of an
// element does not depend on the shard it is in. views: of all tensors of the shard.
static inline void weights_initialize(const ModelConfig *c, const ModelShard *s, uint64_t seed,
                                      float std, const TensorView *views) {
    for (size_t i = 0; i < tensors_in_model(c); i++) {
        ModelTensor t = model_tensor(c, i);
        if (!shard_has(s, &t)) {
            continue;
        }

        const TensorView *view = views++;
        const Init init = t.spec->init;
        size_t n = tensor_elements(view);
        float scale = init == INIT_RESIDUAL ? std / sqrtf(2 * (float)c->layers) : std;
#pragma omp parallel for schedule(static)
        for (size_t j = 0; j < n; j++) {
            size_t at;
            tensor_run(view, j, &at);
            if (init == INIT_NORMAL || init == INIT_RESIDUAL) {
                view->data[j] = scale * normal_variate_(seed, i, at);
            } else {
                view->data[j] = init == INIT_ONES;
            }
        }
    }
}

#endif
