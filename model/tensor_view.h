// tensor_view.h: a tensor of a model, or the shard of it that a rank holds, over an array in
// memory.
#ifndef MODEL_TENSOR_VIEW_H
#define MODEL_TENSOR_VIEW_H

#include <stdbool.h>
#include <stddef.h>

#include "model/family.h"
#include "util/array.h" // defines: min_u64

// A tensor of 1 or 2 dimensions, or a rank's shard of it. Of dimension d the shard has the shape[d]
// indices from first[d] on. The last dimension of the whole may consist of `groups` equal ranges
// (q, k, v); the shard has the same indices of each: whole / groups * g + first + (0 .. shape /
// groups - 1).
typedef struct {
    char name[80];
    float *data;
    size_t shape[2]; // of the shard
    int dims;
    size_t whole[2], first[2], groups;
    size_t copy;    // ranks with a lower tp_rank on this stage that hold the same
    bool embedding; // the token embedding; a tied one is on the last pipeline stage too
    const TensorSpec *spec;
    size_t number; // among all tensors of the model
    size_t block;  // in the shard; SIZE_MAX: not of a block
} TensorView;

// Elements of the shard.
static inline size_t tensor_elements(const TensorView *t) {
    return t->shape[0] * (t->dims == 2 ? t->shape[1] : 1);
}

// Elements of the whole tensor.
static inline size_t tensor_whole_elements(const TensorView *t) {
    return t->whole[0] * (t->dims == 2 ? t->whole[1] : 1);
}

// How many of the elements i .. end - 1 of the shard, from the first on, are contiguous in the
// whole tensor too; *at is where they begin there.
static inline size_t tensor_run(const TensorView *t, size_t i, size_t end, size_t *at) {
    int d = t->dims - 1;
    size_t columns = t->shape[d], row = i / columns, column = i % columns;
    size_t width = columns / t->groups;
    *at = ((d ? t->first[0] : 0) + row) * t->whole[d] + column / width * (t->whole[d] / t->groups) +
          t->first[d] + column % width;
    return columns == t->whole[d] ? end - i : min_u64(end - i, width - column % width);
}

#endif
