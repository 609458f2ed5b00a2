// tensor_view.h: a tensor of a model, or the shard of it that a rank holds, over an array in memory.
#ifndef MODEL_TENSOR_VIEW_H
#define MODEL_TENSOR_VIEW_H

#include <stdbool.h>
#include <stddef.h>

// A named array in memory: a tensor of a model, 1- or 2-dimensional, float, or the part of it that
// a rank holds. Of dimension d the part has the shape[d] indices from first[d] on; in the last
// dimension, where the whole is `groups` ranges of the same length, it has that in each: whole /
// groups * g + first + (0 .. shape / groups - 1).
typedef struct {
    char name[80];
    float *data;
    size_t shape[2]; // of the part
    int dims;
    size_t whole[2], first[2], groups;
    bool embedding; // the tied embedding and output head, which two pipeline stages hold
} TensorView;

static inline size_t tensor_elements(const TensorView *t) {
    return t->shape[0] * (t->dims == 2 ? t->shape[1] : 1);
}

static inline size_t tensor_whole_elements(const TensorView *t) {
    return t->whole[0] * (t->dims == 2 ? t->whole[1] : 1);
}

// How many elements of the part, from number `i` on, lie side by side in the whole tensor too; *at
// is where there.
static inline size_t tensor_run(const TensorView *t, size_t i, size_t *at) {
    int d = t->dims - 1;
    size_t columns = t->shape[d], row = i / columns, column = i % columns,
           width = columns / t->groups;
    *at = ((d ? t->first[0] : 0) + row) * t->whole[d] + column / width * (t->whole[d] / t->groups) +
          t->first[d] + column % width;
    return columns == t->whole[d] ? tensor_elements(t) - i : width - column % width;
}

#endif
