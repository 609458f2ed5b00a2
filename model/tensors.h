// tensors.h: the tensors of a shard of the model, out of the family's tables: views with name,
// shape and place, pointers by field, initial values.
#ifndef MODEL_TENSORS_H
#define MODEL_TENSORS_H

#include "model/config.h"
#include "model/family.h"
#include "model/shard.h"
#include "model/tensor_view.h"
#include "util/random.h"

// Sets dimension d of a view: the size of the whole, and the range that the shard has of it.
static inline void view_set_dimension_(TensorView *view, int d, const ModelConfig *c,
                                       const ModelShard *s, char letter) {
    const size_t D = c->head_dim, kv_first = s->tp_rank / s->kv_copies * s->kv_heads;
    const struct {
        char letter;
        size_t whole, shape, first;
    } dimensions[] = {
        {'P', c->seq_len, c->seq_len, 0},
        {'C', c->channels, c->channels, 0},
        {'D', D, D, 0},
        {'v', c->vocab_size, s->vocab.count, s->vocab.first},
        {'f', c->mlp_channels, s->mlp_channels, s->mlp_first},
        {'c', c->heads * D, s->heads * D, s->tp_rank * s->heads * D},
        {'k', c->kv_heads * D, s->kv_heads * D, kv_first * D},
        {'q', 3 * c->heads * D, 3 * s->heads * D, s->tp_rank * s->heads * D},
    };

    for (size_t i = 0; i < sizeof dimensions / sizeof *dimensions; i++) {
        if (dimensions[i].letter == letter) {
            view->whole[d] = dimensions[i].whole;
            view->shape[d] = dimensions[i].shape;
            view->first[d] = dimensions[i].first;
        }
    }
    view->groups = letter == 'q' ? 3 : view->groups;
}

// How many ranks with a lower tp_rank hold what this one does of a tensor of a shape.
static inline size_t view_copy_(const ModelShard *s, const char *shape) {
    if (strchr(shape, 'k')) {
        return s->tp_rank % s->kv_copies;
    }
    return strpbrk(shape, "vfcq") ? 0 : s->tp_rank;
}

static inline bool condition_holds_(const ModelConfig *c, Condition condition) {
    switch (condition) {
    case IF_QKV_BIAS:
        return c->qkv_bias;
    case IF_OUT_BIAS:
        return c->out_bias;
    case IF_MLP_BIAS:
        return c->mlp_bias;
    case IF_QK_NORM:
        return c->qk_norm;
    case IF_UNTIED:
        return !c->tied;
    default:
        return true;
    }
}

// Rows of the family's tables for all blocks, those of tensors that this model does not have too.
static inline size_t tensors_in_family_(const ModelConfig *c) {
    const Family *f = c->family;
    return f->embedding_count + f->layer_count * c->layers + f->head_count;
}

// Tensor `number` of the family as the shard has it, without data; false if it has nothing of it.
static inline bool tensor_view_(const ModelConfig *c, const ModelShard *s, size_t number,
                                TensorView *view) {
    const Family *f = c->family;
    size_t i = number - f->embedding_count, in_blocks = f->layer_count * c->layers;
    char block[64] = "";
    bool here;

    *view = (TensorView){.groups = 1, .number = number, .block = SIZE_MAX};
    if (number < f->embedding_count) {
        view->spec = &f->embedding[number];
        view->embedding = number == 0;
        here = s->first_stage || (view->embedding && c->tied && s->last_stage);
    } else if (i < in_blocks) {
        size_t layer = i / f->layer_count;
        view->spec = &f->layer[i % f->layer_count];
        view->block = layer - s->first_layer;
        here = layer >= s->first_layer && view->block < s->layers;
    } else {
        view->spec = &f->head[i - in_blocks];
        here = s->last_stage;
    }
    if (!here || !condition_holds_(c, view->spec->condition)) {
        return false;
    }

    if (view->block != SIZE_MAX) {
        snprintf(block, sizeof block, "%s%zu.", f->layer_prefix, s->first_layer + view->block);
    }
    snprintf(view->name, sizeof view->name, "%s%s", block, view->spec->name);
    view->copy = view_copy_(s, view->spec->shape);
    view->dims = (int)strlen(view->spec->shape);
    for (int d = 0; d < view->dims; d++) {
        view_set_dimension_(view, d, c, s, view->spec->shape[d]);
    }
    return true;
}

// Elements of a shard's tensors.
static inline size_t shard_parameters(const ModelConfig *c, const ModelShard *s) {
    size_t total = 0;
    for (size_t i = 0; i < tensors_in_family_(c); i++) {
        TensorView view;
        total += tensor_view_(c, s, i, &view) ? tensor_elements(&view) : 0;
    }
    return total;
}

// Views of all tensors of a shard, *count of them, over `data`, one after another in the order of
// the family's tables; data may be NULL. NULL without memory; the caller frees the views.
static inline TensorView *tensor_views(const ModelConfig *c, const ModelShard *s, float *data,
                                       size_t *count) {
    TensorView *views = malloc(tensors_in_family_(c) * sizeof *views);
    size_t at = 0;
    *count = 0;
    for (size_t i = 0; views && i < tensors_in_family_(c); i++) {
        TensorView *view = &views[*count];
        if (tensor_view_(c, s, i, view)) {
            view->data = data ? data + at : NULL;
            at += tensor_elements(view);
            *count += 1;
        }
    }
    return views;
}

// Whether this rank's copy is the one that counts for a tensor which several ranks of the model
// hold: tensors that are not split are on all tensor-parallel ranks, KV heads may be on several, a
// tied embedding is on two stages.
static inline bool counts_once(const ModelShard *s, const TensorView *view) {
    return view->copy == 0 && (!view->embedding || s->first_stage);
}

// Points the fields of `weights` into `data`, an array laid out like that of the views (count);
// those of other stages stay NULL. A tied head is the embedding. False without memory; the caller
// frees weights->layers.
static inline bool weights_point_into(const ModelConfig *c, const ModelShard *s,
                                      const TensorView *views, size_t count, float *data,
                                      Weights *weights) {
    *weights = (Weights){.layers = calloc(s->layers, sizeof *weights->layers)};
    for (size_t i = 0; weights->layers && i < count; i++) {
        const TensorView *view = &views[i];
        char *fields =
            view->block == SIZE_MAX ? (char *)weights : (char *)&weights->layers[view->block];
        float *tensor = data + (view->data - views[0].data);
        if (view->spec->field != FIELD_CONTINUED) {
            memcpy(fields + view->spec->field, &tensor, sizeof tensor);
        }
    }
    if (c->tied && s->last_stage) {
        weights->head = weights->wte;
    }
    return weights->layers != NULL;
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

// Standard deviation of initial weights, of GPT-2 and of Llama.
#define INIT_STD 0.02

// Initial values (Radford et al. 2019): normal with standard deviation `std`, GPT-2's matrices that
// end a residual branch scaled by 1 / sqrt(2 L), biases 0, norms' weights 1. The value of an
// element does not depend on the shard it is in. views: (count), of all tensors of the shard.
static inline void weights_initialize(const ModelConfig *c, uint64_t seed, float std,
                                      const TensorView *views, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const TensorView *view = &views[i];
        const Init init = view->spec->init;
        size_t n = tensor_elements(view);
        float scale = init == INIT_RESIDUAL ? std / sqrtf(2 * (float)c->layers) : std;
#pragma omp parallel for schedule(static)
        for (size_t j = 0; j < n; j++) {
            size_t at;
            tensor_run(view, j, n, &at);
            if (init == INIT_NORMAL || init == INIT_RESIDUAL) {
                view->data[j] = scale * normal_variate_(seed, view->number, at);
            } else {
                view->data[j] = init == INIT_ONES;
            }
        }
    }
}

#endif
