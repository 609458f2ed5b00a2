// gradient_reducer.h: sums the gradients of a step over its micro-batches and over the
// data-parallel ranks (parallel/gradient_buckets.h sends them), with or without ZeRO, in one fixed
// tree with --reproducible. Also lists which elements of which tensor this rank updates, saves and
// loads.
#ifndef RUN_GRADIENT_REDUCER_H
#define RUN_GRADIENT_REDUCER_H

#include "model/memory_ledger.h"
#include "model/tensor_view.h"
#include "mpi_utils.h"
#include "parallel/gradient_buckets.h"
#include "parallel/shared_array.h"
#include "run/options.h"
#include "util/memory.h" // defines: zero_floats

typedef struct {
    size_t elements;  // of the shard
    float *gradients; // (elements), laid out like the parameters
    Weights weights;  // pointers into gradients, by field
    // with ZeRO (buckets.owned): sums that this rank updates; else gradients
    float *owned_gradients;
    NodePeers peers; // the data-parallel ranks on this node
    // With peers: where the gradients, and with ZeRO the parameters, of all of them are.
    SharedArray shared_gradients, shared_parameters;
    Buckets buckets;
    bool overlap; // buckets are reduced while backward runs; not with --reproducible

    // --reproducible: blocks of micro-batches are the leaves of one binary tree over all
    // data-parallel ranks, summed like a binary counter: tree[l] holds the sum of 2^l blocks while
    // bit l of blocks_done is set.
    size_t block;  // micro-batches in a leaf; 0: not reproducible
    size_t blocks; // leaves of this rank
    size_t blocks_done;
    float *tree[64];
} GradientReducer;

// Collective over the data-parallel ranks: finds the peers on this node and, where there are some
// and `share` is true, allocates gradients, and with ZeRO parameters (elements each), in shared
// memory.
static inline bool reducer_share_memory(GradientReducer *r, MemoryLedger *memory, World *w,
                                        size_t elements, bool zero, bool share, Error *e) {
    size_t bytes = elements * sizeof(float);
    r->elements = elements;
    node_peers_find(&r->peers, w, share);
    if (r->peers.peers == 1) {
        return true;
    }
    return shared_array_create(&r->shared_gradients, &r->peers, bytes, e) &&
           ledger_note(memory, "gradients", bytes, NULL, e) &&
           (!zero || (shared_array_create(&r->shared_parameters, &r->peers, bytes, e) &&
                      ledger_note(memory, "parameters", bytes, NULL, e)));
}

// The leaves of the tree that --reproducible sums: the micro-batches of a step are divided into as
// many equal blocks as the largest power of two that divides their number; so one tree serves every
// power of two of data-parallel ranks up to that.
static inline bool reducer_divide_(GradientReducer *r, size_t micro_batches, Error *e) {
    size_t leaves = micro_batches & -micro_batches;
    size_t dp = (size_t)r->peers.peers * (size_t)r->peers.nodes;
    if (leaves % dp) {
        return fail(
            e,
            "--reproducible: %zu micro-batches a step can be distributed over 1, 2, 4 ... "
            "%zu data-parallel ranks, not over %zu: change --global-batch, --micro-batch or "
            "the number of ranks",
            micro_batches, leaves, dp);
    }
    r->block = micro_batches / leaves;
    r->blocks = leaves / dp;
    return true;
}

// Messages between nodes become BF16.
static inline bool reducer_use_bf16_(GradientReducer *r, MemoryLedger *memory, Error *e) {
    Buckets *b = &r->buckets;
    const size_t bytes = b->messages * sizeof *b->outgoing;
    b->bf16 = true;
    if (!b->zero && r->peers.across_comm != MPI_COMM_NULL) {
        MPI_Comm_dup(r->peers.across_comm, &b->sharing_comm);
    }
    b->outgoing = ledger_bytes(memory, "messages in BF16", bytes, e);
    b->incoming = ledger_bytes(memory, "messages in BF16", bytes, e);
    b->masters = b->zero ? ledger_floats(memory, "master weights", b->owned, e) : NULL;
    return b->outgoing && b->incoming && (b->masters || !b->zero);
}

// After reducer_share_memory. parameters: (elements), which the reduced gradients belong to. cuts
// (cut_count): where backward completes the array, from the end: the start of each layer, and 0 for
// what lies before the layers. micro_batches: of a step.
static inline bool reducer_create(GradientReducer *r, MemoryLedger *memory, float *parameters,
                                  const size_t *cuts, size_t cut_count, bool zero, const Options *o,
                                  size_t micro_batches, Error *e) {
    size_t n = r->elements;
    if (o->reproducible && !reducer_divide_(r, micro_batches, e)) {
        return false;
    }
    r->overlap = o->overlap && r->block == 0;
    r->gradients = r->shared_gradients.mine ? r->shared_gradients.mine
                                            : ledger_floats(memory, "gradients", n, e);
    if (!r->gradients || !buckets_create(&r->buckets, &r->peers, cuts, cut_count, n, zero, e)) {
        return false;
    }
    for (size_t level = 0; r->block > 0 && (level == 0 || (size_t)1 << level < r->blocks);
         level++) {
        r->tree[level] = ledger_floats(memory, "reduction tree", n, e);
        if (!r->tree[level]) {
            return false;
        }
    }

    // Give the buckets their arrays.
    Buckets *b = &r->buckets;
    r->owned_gradients =
        zero ? ledger_floats(memory, "gradients, owned shard", b->owned, e) : r->gradients;
    b->gradients = r->gradients;
    b->gradients_of_peer = r->shared_gradients.of_peer;
    b->owned_gradients = r->owned_gradients;
    b->parameters = parameters;
    b->parameters_of_peer = r->shared_parameters.of_peer;
    return r->owned_gradients && (o->reduce_dtype == REDUCE_FP32 || r->peers.nodes == 1 ||
                                  reducer_use_bf16_(r, memory, e));
}

// After the parameters (r->elements) were set: those that this rank updates become its master
// weights, and all are rounded to BF16, as if they had been gathered. Without masters it does
// nothing.
static inline void reducer_set_masters(GradientReducer *r, float *parameters) {
    Buckets *b = &r->buckets;
    for (size_t i = 0; b->masters && i < b->count; i++) {
        const Bucket *bucket = &b->items[i];
        memcpy(b->masters + bucket->owned_offset, parameters + bucket->owned_begin,
               (bucket->owned_end - bucket->owned_begin) * sizeof *parameters);
    }
    for (size_t i = 0; b->masters && i < r->elements; i++) {
        parameters[i] = bfloat_to_float(float_to_bfloat(parameters[i]));
    }
}

// Collective over the data-parallel ranks.
static inline void reducer_free(GradientReducer *r, World *w) {
    free(r->weights.layers);
    buckets_free(w, &r->buckets);
    shared_array_free(&r->shared_gradients);
    shared_array_free(&r->shared_parameters);
    node_peers_free(&r->peers);
}

// ------------------------------------------------------------------------------------------------
// A step

// Before the first backward pass of a step.
static inline void reducer_begin_step(GradientReducer *r) {
    zero_floats(r->gradients, r->elements);
    r->blocks_done = 0;
}

// In the last backward pass of a step: the gradients from `from` on are complete.
static inline void reducer_layer_done(GradientReducer *r, World *w, const float *from) {
    if (r->overlap) {
        buckets_begin_reduce(w, &r->buckets, (size_t)(from - r->gradients));
    }
}

// After backward of micro-batch `i` of `count`: with --reproducible, the gradients of a complete
// block join the tree, where sums of equal size are added to each other. The last block makes the
// whole sum of this rank, which stays in r->gradients.
static inline void reducer_micro_batch_done(GradientReducer *r, size_t i, size_t count) {
    if (r->block == 0 || (i + 1) % r->block) {
        return;
    }

    size_t level = 0;
    for (; r->blocks_done >> level & 1; level++) {
        add_floats(r->gradients, r->tree[level], r->elements);
    }
    r->blocks_done++;
    if (i + 1 < count) {
        memcpy(r->tree[level], r->gradients, r->elements * sizeof *r->gradients);
        zero_floats(r->gradients, r->elements);
    }
}

// With ZeRO, from gradients that are summed already: what this rank owns.
static inline void owned_gradients_copy_(GradientReducer *r) {
    for (size_t i = 0; r->buckets.zero && i < r->buckets.count; i++) {
        const Bucket *b = &r->buckets.items[i];
        memcpy(r->owned_gradients + b->owned_offset, r->gradients + b->owned_begin,
               (b->owned_end - b->owned_begin) * sizeof *r->owned_gradients);
    }
}

// Collective, after backward: reduces whatever has not been reduced yet over the data-parallel
// ranks, and the gradient of the tied embedding (tied_elements) over the two stages that hold it;
// tied: NULL on other stages and without pipeline. With --reproducible the data-parallel ranks come
// first, so that the order of the sum is theirs.
static inline void reducer_finish_step(GradientReducer *r, World *w, float *tied,
                                       size_t tied_elements) {
    if (r->block > 0) {
        dp_tree_all_reduce(w, r->gradients, r->tree[0], r->elements);
    }
    if (tied) {
        tied_all_reduce(w, tied, tied_elements);
    }
    if (r->block > 0) {
        owned_gradients_copy_(r);
    } else {
        buckets_begin_reduce(w, &r->buckets, 0);
        buckets_finish_reduce(w, &r->buckets);
    }
}

// ------------------------------------------------------------------------------------------------
// Ownership

// A range of a tensor's elements that this rank updates, and whose optimizer state it holds.
typedef struct {
    size_t tensor;     // index among the shard's views
    size_t begin, end; // elements of the tensor
    size_t offset;     // of `begin` in the optimizer's arrays and in owned_gradients
} OwnedRange;

// All of them, tensor by tensor: update, norm, save and load are loops over this list.
typedef struct {
    OwnedRange *items;
    size_t count, capacity;
} OwnedRanges;

// views (count): of the shard's parameters. *o is zero before; the caller frees items.
static inline bool owned_ranges_create(OwnedRanges *o, const Buckets *buckets,
                                       const TensorView *views, size_t count, Error *e) {
    for (size_t i = 0; i < count; i++) {
        size_t at = (size_t)(views[i].data - buckets->parameters), n = tensor_elements(&views[i]);
        for (size_t j = 0; j < buckets->count; j++) {
            const Bucket *b = &buckets->items[j];
            size_t begin = b->owned_begin > at ? b->owned_begin : at;
            size_t end = b->owned_end < at + n ? b->owned_end : at + n;
            if (begin >= end) {
                continue;
            }
            if (!array_reserve(&o->items, &o->capacity, o->count, 1, sizeof *o->items, e)) {
                return false;
            }
            o->items[o->count++] =
                (OwnedRange){i, begin - at, end - at, b->owned_offset + begin - b->owned_begin};
        }
    }
    return true;
}

// The parameters of a range of a tensor that AdamW updates: master weights, where there are some.
static inline float *owned_parameters(const Buckets *buckets, const OwnedRange *range,
                                      const TensorView *view) {
    return buckets->masters ? buckets->masters + range->offset : view->data + range->begin;
}

#endif
