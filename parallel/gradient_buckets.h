// gradient_buckets.h: gradients are reduced over the DP ranks in buckets, overlapped with
// backward.
//
// A bucket is a range of the gradient array. Backward completes the array from its end, and each
// bucket is reduced as soon as it is complete, while backward continues; the progress callback of
// World advances it between kernels. Every bucket is cut into one shard for each DP rank of a node:
// a rank first sums its shard over the arrays of its node, then all-reduces it with the ranks that
// hold the same shard on other nodes, then copies the other shards from its peers.
//
// ZeRO-1 (Rajbhandari et al. 2020): a shard is further cut into one chunk for each node, and the
// all-reduce becomes a reduce-scatter: each DP rank gets the sum of its own chunk only and updates
// these parameters. They are all-gathered the same way back, while the next forward runs.
//
// Messages between nodes in BF16 take half the bytes. Ranks exchange the chunks of a shard, and
// each sums its own in FP32, in the order of the nodes, what it computed itself without rounding.
// Without ZeRO they all-gather the sums. With ZeRO they all-gather updated parameters in BF16,
// which forward uses on all ranks, and each keeps those that it updates in FP32, as master weights
// (Micikevicius et al. 2018).
#ifndef PARALLEL_GRADIENT_BUCKETS_H
#define PARALLEL_GRADIENT_BUCKETS_H

#include <limits.h>
#include <stddef.h>

#include "mpi_utils.h"
#include "parallel/shared_array.h"
#include "util/array.h" // defines: min_u64, round_up
#include "util/dtype.h" // defines: float_to_bfloat, bfloat_to_float

typedef enum {
    BUCKET_IDLE,
    BUCKET_COMPLETE,  // backward is done with it on this rank
    BUCKET_REDUCING,  // summed over this node, being reduced across nodes
    BUCKET_SHARING,   // this rank's chunk of the shard is reduced, the others are on their way
    BUCKET_REDUCED,   // this rank's shard is done; those of its peers may not be
    BUCKET_GATHERING, // of updated parameters, across nodes
    BUCKET_GATHERED   // this rank's shard is done; those of its peers may not be
} BucketState;

// Ranges are in elements of the gradient array.
typedef struct {
    size_t begin, end;
    size_t shard_size;               // of each peer; the last ones may be shorter
    size_t shard_begin, shard_end;   // the shard that this rank reduces
    size_t owned_begin, owned_end;   // what this rank updates: with ZeRO its chunk, else all
    size_t owned_offset;             // of owned_begin, in arrays of only what this rank owns
    int *counts, *offsets;           // (nodes): the chunks of the shard
    int *copy_counts, *copy_offsets; // (nodes): what the nodes send of this rank's chunk, in BF16
    size_t message;                  // offset of the bucket in arrays of messages
    BucketState state;
    int copied; // peers whose shards have been copied
    MPI_Request request;
} Bucket;

// How far a rank is with a bucket, for its peers to see: the sequence number of the reduction, or
// of the all-gather, in which it last got there.
typedef struct {
    uint64_t complete, reduced, gathered;
} BucketFlags;

typedef struct Buckets {
    Bucket *items; // in the order in which backward completes them
    size_t count;
    size_t owned;                    // elements that this rank updates, over all buckets
    size_t messages;                 // elements of this rank's shards, over all buckets
    size_t complete;                 // buckets that are complete on this rank in this step;
    size_t begun, shared;            // of these, whose reduction, and all-gather of sums, has begun
    uint64_t reduce_seq, gather_seq; // sequence numbers of the latest reduction and all-gather
    bool zero;
    bool bf16; // messages between nodes
    const NodePeers *group;
    float *gradients;                // of this rank
    float *owned_gradients;          // with ZeRO (owned): the sums
    float *parameters;               // with ZeRO
    float *masters;                  // with ZeRO and BF16 (owned): parameters that were not rounded
    uint16_t *outgoing, *incoming;   // (messages), with BF16
    MPI_Comm sharing_comm;           // a copy of across_comm for the sums in BF16
    void *const *gradients_of_peer;  // (peers): all peers' arrays
    void *const *parameters_of_peer; // (peers), with ZeRO
    SharedArray flags;               // BucketFlags (count), then the rank's read flag
} Buckets;

// Smallest bucket: 4 MiB, where the bandwidth of a network matters and not its latency.
enum { BUCKET_ELEMENTS = 1 << 20 };

// ------------------------------------------------------------------------------------------------
// Layout

// Where the shard of a peer begins.
static inline size_t shard_begin_(const Bucket *bucket, int peer) {
    return min_u64(bucket->begin + (size_t)peer * bucket->shard_size, bucket->end);
}

// Cuts a bucket into shards and chunks; these begin at multiples of a cache line.
static inline bool bucket_cut_(Bucket *bucket, const NodePeers *n, bool zero) {
    enum { LINE_ELEMENTS = 16 };
    size_t elements = bucket->end - bucket->begin, ranks = (size_t)n->peers * (size_t)n->nodes;
    size_t chunk = round_up(divide_up(elements, ranks), LINE_ELEMENTS);

    bucket->counts = malloc((size_t)n->nodes * sizeof *bucket->counts);
    bucket->offsets = malloc((size_t)n->nodes * sizeof *bucket->offsets);
    bucket->copy_counts = malloc((size_t)n->nodes * sizeof *bucket->copy_counts);
    bucket->copy_offsets = malloc((size_t)n->nodes * sizeof *bucket->copy_offsets);
    if (!bucket->counts || !bucket->offsets || !bucket->copy_counts || !bucket->copy_offsets) {
        return false;
    }

    bucket->shard_size = chunk * (size_t)n->nodes;
    bucket->shard_begin = shard_begin_(bucket, n->peer);
    bucket->shard_end = shard_begin_(bucket, n->peer + 1);

    size_t shard = bucket->shard_end - bucket->shard_begin;
    for (size_t node = 0; node < (size_t)n->nodes; node++) {
        size_t at = min_u64(node * chunk, shard);
        bucket->offsets[node] = (int)at;
        bucket->counts[node] = (int)min_u64(shard - at, chunk);
    }
    for (int node = 0; node < n->nodes; node++) {
        bucket->copy_counts[node] = bucket->counts[n->node];
        bucket->copy_offsets[node] = node * bucket->counts[n->node];
    }

    if (zero) {
        bucket->owned_begin = bucket->shard_begin + (size_t)bucket->offsets[n->node];
        bucket->owned_end = bucket->owned_begin + (size_t)bucket->counts[n->node];
    } else {
        bucket->owned_begin = bucket->begin;
        bucket->owned_end = bucket->end;
    }
    return true;
}

// Collective over the peers: buckets over an array of n elements, which backward completes from the
// end in steps that begin at cuts[count - 1], ..., cuts[0] = 0. The caller sets the arrays
// afterwards; `group` must outlive the buckets. An error without memory, or if a step exceeds a
// message.
static inline bool buckets_create(Buckets *b, const NodePeers *group, const size_t *cuts,
                                  size_t count, size_t n, bool zero, Error *e) {
    *b = (Buckets){.items = calloc(count, sizeof *b->items),
                   .zero = zero,
                   .group = group,
                   .sharing_comm = MPI_COMM_NULL};
    if (!b->items) {
        return fail(e, "no memory for %zu gradient buckets", count);
    }

    for (size_t end = n; count-- > 0;) {
        if (end - cuts[count] < BUCKET_ELEMENTS && count > 0) {
            continue; // small layers share a bucket
        }
        if (end - cuts[count] > INT_MAX) {
            return fail(e,
                        "a layer of %zu parameters exceeds the %d elements of an MPI message: "
                        "use --tp to split it",
                        end - cuts[count], INT_MAX);
        }

        Bucket *bucket = &b->items[b->count++];
        *bucket = (Bucket){.begin = cuts[count], .end = end, .request = MPI_REQUEST_NULL};
        if (!bucket_cut_(bucket, group, zero)) {
            return fail(e, "no memory for the chunks of %d nodes", group->nodes);
        }
        bucket->message = b->messages;
        b->messages += bucket->shard_size;
        bucket->owned_offset = zero ? b->owned : bucket->begin;
        b->owned += bucket->owned_end - bucket->owned_begin;
        end = cuts[count];
    }

    size_t flag_bytes = b->count * sizeof(BucketFlags) + sizeof(uint64_t);
    return group->peers == 1 || shared_array_create(&b->flags, group, flag_bytes, e);
}

// ------------------------------------------------------------------------------------------------
// Flags: how peers synchronise. A flag is written by its owner only, and only grows.

static inline BucketFlags *flags_of_(const Buckets *b, int peer, size_t bucket) {
    return (BucketFlags *)b->flags.of_peer[peer] + bucket;
}

// The reduction in which a peer last had copied all shards, so that their owners may overwrite
// them.
static inline uint64_t *read_flag_of_(const Buckets *b, int peer) {
    return (uint64_t *)flags_of_(b, peer, b->count);
}

// A peer that sees the flag also sees all that this rank wrote before.
static inline void flag_store_(uint64_t *flag, uint64_t seq) {
    __atomic_store_n(flag, seq, __ATOMIC_RELEASE);
}

static inline bool flag_reached_(const uint64_t *flag, uint64_t seq) {
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE) >= seq;
}

// ------------------------------------------------------------------------------------------------
// Progress of a bucket

// gradients (begin .. end) = sum over the peers' arrays, in their order.
static inline void sum_over_peers_(const Buckets *b, size_t begin, size_t end) {
    float *x = b->gradients;

#pragma omp parallel for schedule(static)
    for (size_t i = begin; i < end; i++) {
        float sum = ((const float *)b->gradients_of_peer[0])[i];
        for (int peer = 1; peer < b->group->peers; peer++) {
            sum += ((const float *)b->gradients_of_peer[peer])[i];
        }
        x[i] = sum;
    }
}

static inline void floats_to_bfloats_(uint16_t *out, const float *x, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        out[i] = float_to_bfloat(x[i]);
    }
}

static inline void bfloats_to_floats_(float *out, const uint16_t *x, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        out[i] = bfloat_to_float(x[i]);
    }
}

static inline bool bucket_complete_on_peers_(const Buckets *b, size_t i) {
    for (int peer = 0; peer < b->group->peers && b->group->peers > 1; peer++) {
        if (!flag_reached_(&flags_of_(b, peer, i)->complete, b->reduce_seq)) {
            return false;
        }
    }
    return true;
}

// Begins to exchange the chunks of this rank's shard in BF16.
static inline void bucket_exchange_chunks_(Buckets *b, Bucket *bucket) {
    uint16_t *outgoing = b->outgoing + bucket->message, *incoming = b->incoming + bucket->message;
    floats_to_bfloats_(outgoing, b->gradients + bucket->shard_begin,
                       bucket->shard_end - bucket->shard_begin);
    MPI_Ialltoallv(outgoing, bucket->counts, bucket->offsets, MPI_UINT16_T, incoming,
                   bucket->copy_counts, bucket->copy_offsets, MPI_UINT16_T, b->group->across_comm,
                   &bucket->request);
}

// They are there: sums this rank's chunk over the nodes, to `sums`.
static inline void bucket_sum_chunk_(const Buckets *b, const Bucket *bucket, float *sums) {
    const int nodes = b->group->nodes, own = b->group->node;
    const float *mine = b->gradients + bucket->shard_begin + bucket->offsets[own];
    const uint16_t *incoming = b->incoming + bucket->message;
    const size_t count = (size_t)bucket->counts[own];

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < count; i++) {
        float sum = 0;
        for (int node = 0; node < nodes; node++) {
            sum += node == own ? mine[i] : bfloat_to_float(incoming[(size_t)node * count + i]);
        }
        sums[i] = sum;
    }
}

// Begins to all-gather a shard in BF16, of which this rank has a chunk.
static inline void bucket_gather_chunks_(Buckets *b, Bucket *bucket, const float *chunk,
                                         MPI_Comm comm) {
    const NodePeers *n = b->group;
    const int count = bucket->counts[n->node];
    uint16_t *outgoing = b->outgoing + bucket->message, *incoming = b->incoming + bucket->message;
    floats_to_bfloats_(outgoing, chunk, (size_t)count);
    MPI_Iallgatherv(outgoing, count, MPI_UINT16_T, incoming, bucket->counts, bucket->offsets,
                    MPI_UINT16_T, comm, &bucket->request);
}

// A message in BF16 has arrived. False if the shard needs another one: without ZeRO the sums, whose
// all-gathers begin in the order of the buckets.
static inline bool bucket_receive_(Buckets *b, Bucket *bucket) {
    const size_t shard = bucket->shard_begin;
    if (bucket->state != BUCKET_REDUCING) {
        float *to = bucket->state == BUCKET_GATHERING ? b->parameters : b->gradients;
        bfloats_to_floats_(to + shard, b->incoming + bucket->message, bucket->shard_end - shard);
        return true;
    }
    if (b->zero) {
        bucket_sum_chunk_(b, bucket, b->owned_gradients + bucket->owned_offset);
        return true;
    }
    if (bucket == &b->items[b->shared]) {
        float *chunk = b->gradients + shard + bucket->offsets[b->group->node];
        bucket_sum_chunk_(b, bucket, chunk);
        bucket_gather_chunks_(b, bucket, chunk, b->sharing_comm);
        bucket->state = BUCKET_SHARING;
        b->shared++;
    }
    return false;
}

// The bucket is complete on all peers: sums this rank's shard of it over the node and begins to
// reduce the shard across nodes.
static inline void bucket_begin_reduce_(Buckets *b, Bucket *bucket) {
    const NodePeers *n = b->group;
    float *shard = b->gradients + bucket->shard_begin;
    float *owned = b->owned_gradients + bucket->owned_offset;
    size_t length = bucket->shard_end - bucket->shard_begin;

    if (n->peers > 1) {
        sum_over_peers_(b, bucket->shard_begin, bucket->shard_end);
    }
    if (n->nodes == 1 && b->zero) {
        memcpy(owned, shard, length * sizeof *shard);
    } else if (b->bf16) {
        bucket_exchange_chunks_(b, bucket);
    } else if (n->nodes > 1 && b->zero) {
        MPI_Ireduce_scatter(shard, owned, bucket->counts, MPI_FLOAT, MPI_SUM, n->across_comm,
                            &bucket->request);
    } else if (n->nodes > 1) {
        MPI_Iallreduce(MPI_IN_PLACE, shard, (int)length, MPI_FLOAT, MPI_SUM, n->across_comm,
                       &bucket->request);
    }
    bucket->state = BUCKET_REDUCING;
}

// This rank's shard has been reduced or gathered across nodes: lets the peers know.
static inline void bucket_publish_shard_(Buckets *b, size_t i) {
    Bucket *bucket = &b->items[i];
    bool reducing = bucket->state != BUCKET_GATHERING;

    bucket->state = reducing ? BUCKET_REDUCED : BUCKET_GATHERED;
    bucket->copied = 0;
    if (b->group->peers > 1) {
        BucketFlags *mine = flags_of_(b, b->group->peer, i);
        if (reducing) {
            flag_store_(&mine->reduced, b->reduce_seq);
        } else {
            flag_store_(&mine->gathered, b->gather_seq);
        }
    }
}

// Copies the shards of bucket i that are ready from the peers' arrays to x. `flag`: offset of the
// flag in BucketFlags that says so. True once all are copied.
static inline bool bucket_copy_shards_(Buckets *b, size_t i, float *x, void *const *x_of_peer,
                                       size_t flag, uint64_t seq) {
    Bucket *bucket = &b->items[i];

    for (; bucket->copied < b->group->peers; bucket->copied++) {
        int peer = bucket->copied;
        size_t begin = shard_begin_(bucket, peer), end = shard_begin_(bucket, peer + 1);
        if (peer == b->group->peer) {
            continue;
        }
        if (!flag_reached_((uint64_t *)((char *)flags_of_(b, peer, i) + flag), seq)) {
            return false;
        }
        memcpy(x + begin, (const float *)x_of_peer[peer] + begin, (end - begin) * sizeof *x);
    }
    return true;
}

// Advances bucket i as far as possible without waiting.
static inline void bucket_progress_(Buckets *b, size_t i) {
    Bucket *bucket = &b->items[i];
    bool alone = b->group->peers == 1;

    if (bucket->state == BUCKET_REDUCING || bucket->state == BUCKET_SHARING ||
        bucket->state == BUCKET_GATHERING) {
        int done;
        MPI_Test(&bucket->request, &done, MPI_STATUS_IGNORE);
        if (!done || (b->bf16 && !bucket_receive_(b, bucket))) {
            return;
        }
        bucket_publish_shard_(b, i);
    }

    // with ZeRO no rank needs the sums of others
    if (bucket->state == BUCKET_REDUCED &&
        (alone || b->zero ||
         bucket_copy_shards_(b, i, b->gradients, b->gradients_of_peer,
                             offsetof(BucketFlags, reduced), b->reduce_seq))) {
        bucket->state = BUCKET_IDLE;
    }
    if (bucket->state == BUCKET_GATHERED &&
        (alone || bucket_copy_shards_(b, i, b->parameters, b->parameters_of_peer,
                                      offsetof(BucketFlags, gathered), b->gather_seq))) {
        bucket->state = BUCKET_IDLE;
    }
}

// The progress callback of World; context: the Buckets.
static inline void buckets_progress_(void *context) {
    Buckets *b = context;

    // One after another: all ranks must call the collectives of a communicator in the same order.
    while (b->begun < b->complete && bucket_complete_on_peers_(b, b->begun)) {
        bucket_begin_reduce_(b, &b->items[b->begun++]);
    }
    for (size_t i = 0; i < b->count; i++) {
        if (b->items[i].state != BUCKET_IDLE) {
            bucket_progress_(b, i);
        }
    }
}

static inline void buckets_activate_(World *w, Buckets *b) {
    w->progress = buckets_progress_;
    w->progress_context = b;
}

// Waits until bucket i is idle.
static inline void bucket_wait_(World *w, Buckets *b, size_t i) {
    double start = MPI_Wtime();

    for (int round = 0; b->items[i].state != BUCKET_IDLE; round++) {
        world_wait_round(w, round);
    }
    w->comm_seconds += MPI_Wtime() - start;
}

// ------------------------------------------------------------------------------------------------
// Reduction and all-gather. Every function is called by all DP ranks, in the same order; with one
// DP rank they do nothing.

// Begins to reduce the buckets in gradients[from ..], which are complete on this rank. With ZeRO
// the sums of what this rank owns go to b->owned_gradients, else all sums replace the gradients.
static inline void buckets_begin_reduce(World *w, Buckets *b, size_t from) {
    if (w->grid.dp == 1) {
        return;
    }

    if (b->complete == 0) {
        b->reduce_seq++;
        buckets_activate_(w, b);
    }
    for (; b->complete < b->count && b->items[b->complete].begin >= from; b->complete++) {
        b->items[b->complete].state = BUCKET_COMPLETE;
        if (b->group->peers > 1) {
            flag_store_(&flags_of_(b, b->group->peer, b->complete)->complete, b->reduce_seq);
        }
    }
    buckets_progress_(b);
}

// Waits until all buckets are reduced and no peer reads this rank's gradients any more. Before it,
// buckets_begin_reduce(w, b, 0).
static inline void buckets_finish_reduce(World *w, Buckets *b) {
    if (w->grid.dp == 1) {
        return;
    }
    for (size_t i = 0; i < b->count; i++) {
        bucket_wait_(w, b, i);
    }

    double start = MPI_Wtime();
    if (b->group->peers > 1) {
        flag_store_(read_flag_of_(b, b->group->peer), b->reduce_seq);
        for (int peer = 0; peer < b->group->peers; peer++) {
            while (!flag_reached_(read_flag_of_(b, peer), b->reduce_seq)) {
                sched_yield();
            }
        }
    }
    w->comm_seconds += MPI_Wtime() - start;
    b->complete = b->begun = b->shared = 0;
}

// With ZeRO: begins to all-gather the parameters that the ranks have updated, in the order in which
// forward needs them. Without ZeRO it does nothing.
static inline void buckets_begin_gather(World *w, Buckets *b) {
    if (w->grid.dp == 1 || !b->zero) {
        return;
    }

    b->gather_seq++;
    buckets_activate_(w, b);
    for (size_t i = b->count; i-- > 0;) {
        Bucket *bucket = &b->items[i];
        if (b->bf16) {
            bucket_gather_chunks_(b, bucket, b->masters + bucket->owned_offset,
                                  b->group->across_comm);
        } else if (b->group->nodes > 1) {
            MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, b->parameters + bucket->shard_begin,
                            bucket->counts, bucket->offsets, MPI_FLOAT, b->group->across_comm,
                            &bucket->request);
        }
        bucket->state = BUCKET_GATHERING;
    }
    buckets_progress_(b);
}

// Waits until parameters[.. end) are gathered.
static inline void buckets_wait_gathered(World *w, Buckets *b, size_t end) {
    for (size_t i = b->count; i-- > 0 && b->items[i].begin < end;) {
        bucket_wait_(w, b, i);
    }
}

// Collective over the peers. Does nothing to buckets that are all zero.
static inline void buckets_free(World *w, Buckets *b) {
    if (w->progress_context == b) {
        w->progress = NULL;
        w->progress_context = NULL;
    }
    for (size_t i = 0; i < b->count; i++) {
        free(b->items[i].counts);
        free(b->items[i].offsets);
        free(b->items[i].copy_counts);
        free(b->items[i].copy_offsets);
    }
    free(b->items);
    if (b->sharing_comm != MPI_COMM_NULL && b->count > 0) {
        MPI_Comm_free(&b->sharing_comm);
    }
    shared_array_free(&b->flags);
    *b = (Buckets){0};
}

#endif
