// mpi_buffers.h: memory that MPI itself takes in a training step, as measured with MPICH. It is not
// small: without it, the plan of a data-parallel run across nodes would be 9 % too low.
#ifndef RUN_MPI_BUFFERS_H
#define RUN_MPI_BUFFERS_H

#include "model/shard.h"
#include "run/gradient_reducer.h"

// Floats that an all-reduce of n floats receives into besides the array: half of it in the first
// step of the reduce-scatter. Where the ranks are no power of two, some hand all they have to a
// neighbour beforehand: this is what that one takes.
static inline size_t all_reduce_buffer_(size_t ranks, size_t n) {
    if (ranks == 1) {
        return 0;
    }
    return (ranks & (ranks - 1)) == 0 ? n / 2 : n;
}

// Floats at most: the reductions of all gradient buckets may be under way at once. stream: (R, C),
// floats of the residual stream of a micro-batch; embedding: floats of this rank's shard of it if
// two stages share it, else 0.
static inline size_t mpi_buffer_floats(const Grid *g, const ModelShard *s, const GradientReducer *r,
                                       size_t stream, size_t embedding) {
    size_t nodes = (size_t)r->peers.nodes;
    size_t n = all_reduce_buffer_((size_t)g->tp, stream);
    if (s->first_stage != s->last_stage && embedding > 0) {
        n += all_reduce_buffer_(2, embedding);
    }
    if (r->block == 0 && nodes > 1 && !r->buckets.bf16) { // BF16 is received into our own arrays
        size_t shards = r->elements / (size_t)r->peers.peers;
        n += r->buckets.zero ? r->buckets.owned : all_reduce_buffer_(nodes, shards);
    }
    return n;
}

#endif
