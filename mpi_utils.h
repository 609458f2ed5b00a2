// mpi_utils.h: the ranks of a run: start, collective error checks, reductions, and where ranks and
// threads lie.
//
// A failure on any rank ends all ranks: every rank reports its own state to world_check, so that
// all of them learn of the failure at the same place and leave through MPI_Finalize. Nobody waits
// for a rank that is gone.
#ifndef MPI_UTILS_H
#define MPI_UTILS_H

#include <dirent.h>
#include <limits.h>
#include <mpi.h>
#include <omp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/json.h"

// ------------------------------------------------------------------------------------------------
// The grid: every rank is a slice (tensor parallel) of a stage (pipeline parallel) of a replica
// (data parallel). Slices talk most, so they are neighbours; stages next; replicas are farthest
// apart: rank = (replica * stages + stage) * slices + slice.

typedef struct {
    int tp, pp, dp;              // slices, stages, replicas
    int tp_rank, stage, dp_rank; // of this rank
    MPI_Comm tp_comm;            // the ranks that differ in the slice only; the next ones likewise
    MPI_Comm pp_comm, dp_comm;
    MPI_Comm tied_comm; // first and last stage, which both hold the embedding; null on the others
} Grid;

typedef struct World {
    int rank, size;           // in MPI_COMM_WORLD
    int node_rank, node_size; // among the ranks that share this host's memory
    MPI_Comm node;
    Grid grid;
    struct Buckets
        *active_buckets; // buckets to move on while this rank waits or computes; may be NULL
    double comm_seconds; // spent waiting for messages since it was last set to zero
} World;

static inline void grid_free_(Grid *g) {
    MPI_Comm *comms[] = {&g->tp_comm, &g->pp_comm, &g->dp_comm, &g->tied_comm};
    for (size_t i = 0; i < sizeof comms / sizeof *comms; i++) {
        if (*comms[i] != MPI_COMM_NULL) {
            MPI_Comm_free(comms[i]);
        }
    }
}

// A grid of one rank, without communicators.
static inline Grid grid_alone(void) {
    return (Grid){1, 1, 1, 0, 0, 0, MPI_COMM_NULL, MPI_COMM_NULL, MPI_COMM_NULL, MPI_COMM_NULL};
}

// Collective: arranges the ranks as tp slices x pp stages x as many replicas as that makes. An
// error if tp * pp does not divide the number of ranks.
static inline bool world_make_grid(World *w, uint64_t tp, uint64_t pp, Error *e) {
    if (tp > (uint64_t)w->size || pp > (uint64_t)w->size || (uint64_t)w->size % (tp * pp)) {
        return fail(e,
                    "--tp %llu x --pp %llu does not divide the %d rank%s: start a multiple of %llu",
                    (unsigned long long)tp, (unsigned long long)pp, w->size,
                    w->size == 1 ? "" : "s", (unsigned long long)(tp * pp));
    }
    Grid g = grid_alone();
    g.tp = (int)tp, g.pp = (int)pp, g.dp = w->size / g.tp / g.pp;
    g.tp_rank = w->rank % g.tp, g.stage = w->rank / g.tp % g.pp, g.dp_rank = w->rank / g.tp / g.pp;
    bool ends = g.pp > 1 && (g.stage == 0 || g.stage + 1 == g.pp);
    MPI_Comm_split(MPI_COMM_WORLD, w->rank / g.tp, w->rank, &g.tp_comm);
    MPI_Comm_split(MPI_COMM_WORLD, g.dp_rank * g.tp + g.tp_rank, w->rank, &g.pp_comm);
    MPI_Comm_split(MPI_COMM_WORLD, w->rank % (g.tp * g.pp), w->rank, &g.dp_comm);
    MPI_Comm_split(MPI_COMM_WORLD, ends ? g.dp_rank * g.tp + g.tp_rank : MPI_UNDEFINED, w->rank,
                   &g.tied_comm);
    grid_free_(&w->grid);
    w->grid = g;
    return true;
}

// Starts MPI; only the main thread will call it (MPI_THREAD_FUNNELED). MPI's own errors end the
// program with its message.
static inline void world_init(World *w, int *argc, char ***argv) {
    int provided;
    *w = (World){.grid = grid_alone()};
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &w->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w->size);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, w->rank, MPI_INFO_NULL, &w->node);
    MPI_Comm_rank(w->node, &w->node_rank);
    MPI_Comm_size(w->node, &w->node_size);
}

static inline void world_finalize(World *w) {
    grid_free_(&w->grid);
    MPI_Comm_free(&w->node);
    MPI_Finalize();
}

static inline void buckets_progress(struct World *w);

// Waits for a message. A rank that waits gives its core away: where ranks outnumber cores (a test,
// a laptop), MPI's own waiting would keep the rank that is waited for from running.
static inline void message_wait(World *w, MPI_Request *request) {
    double start = MPI_Wtime();
    int done = 0;
    for (int polls = 0; MPI_Test(request, &done, MPI_STATUS_IGNORE), !done; polls++) {
        buckets_progress(w);
        if (polls > 100) {
            sched_yield();
        }
    }
    w->comm_seconds += MPI_Wtime() - start;
}

// Collective: every rank says whether its part went well. If one failed, the lowest such rank
// prints its line and false comes back on all ranks.
static inline bool world_check(World *w, bool ok, const Error *e) {
    int first = ok ? w->size : w->rank;
    MPI_Request request;
    MPI_Iallreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD, &request);
    message_wait(w, &request);
    if (first == w->rank) {
        fprintf(stderr, "train_gpt: %s\n", e->text);
    }
    return first == w->size;
}

// Collective: world_check of what rank 0 alone did.
static inline bool world_check_root(World *w, bool ok, const Error *e) {
    return world_check(w, ok || w->rank != 0, e);
}

// Collective: the largest x of all ranks.
static inline int world_max(World *w, int x) {
    MPI_Request request;
    MPI_Iallreduce(MPI_IN_PLACE, &x, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD, &request);
    message_wait(w, &request);
    return x;
}

// ------------------------------------------------------------------------------------------------
// Messages: MPI counts in int, so long arrays go in pieces of 2^28 elements

enum { MESSAGE_ELEMENTS = 1 << 28 };

// x (n) = sum over the ranks of a communicator, in place, the same bits on every rank.
static inline void all_reduce_floats_(World *w, MPI_Comm comm, float *x, size_t n) {
    for (size_t i = 0; i < n; i += MESSAGE_ELEMENTS) {
        int count = (int)(n - i < MESSAGE_ELEMENTS ? n - i : MESSAGE_ELEMENTS);
        MPI_Request request;
        MPI_Iallreduce(MPI_IN_PLACE, x + i, count, MPI_FLOAT, MPI_SUM, comm, &request);
        message_wait(w, &request);
    }
}

// x (n) = sum over the slices of a stage.
static inline void tp_all_reduce(World *w, float *x, size_t n) {
    if (w->grid.tp > 1) {
        all_reduce_floats_(w, w->grid.tp_comm, x, n);
    }
}

// data (slices, bytes): each slice filled in its own row; afterwards all have all.
static inline void tp_all_gather(World *w, void *data, size_t bytes) {
    if (w->grid.tp > 1) {
        MPI_Request request;
        MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, (int)bytes, MPI_BYTE,
                       w->grid.tp_comm, &request);
        message_wait(w, &request);
    }
}

// x (n) = sum over the first and the last stage, which call this.
static inline void tied_all_reduce(World *w, float *x, size_t n) {
    all_reduce_floats_(w, w->grid.tied_comm, x, n);
}

static inline double sum_double_(World *w, MPI_Comm comm, double x) {
    MPI_Request request;
    MPI_Iallreduce(MPI_IN_PLACE, &x, 1, MPI_DOUBLE, MPI_SUM, comm, &request);
    message_wait(w, &request);
    return x;
}

// Collective: x (n) = sum over all ranks; integers, so exact.
static inline void all_reduce_integers(World *w, int64_t *x, int n) {
    MPI_Request request;
    if (w->size > 1) {
        MPI_Iallreduce(MPI_IN_PLACE, x, n, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD, &request);
        message_wait(w, &request);
    }
}

// x (n) = sum over the replicas in a binary tree of their numbers: first 0 + 1 and 2 + 3, then
// these, and so on. The replicas must be a power of two. scratch: (n).
static inline void dp_tree_all_reduce(World *w, float *x, float *scratch, size_t n) {
    for (int distance = 1; distance < w->grid.dp; distance *= 2) {
        int partner = w->grid.dp_rank ^ distance;
        for (size_t i = 0; i < n; i += MESSAGE_ELEMENTS) {
            int count = (int)(n - i < MESSAGE_ELEMENTS ? n - i : MESSAGE_ELEMENTS);
            MPI_Request requests[2];
            MPI_Irecv(scratch + i, count, MPI_FLOAT, partner, 0, w->grid.dp_comm, &requests[0]);
            MPI_Isend(x + i, count, MPI_FLOAT, partner, 0, w->grid.dp_comm, &requests[1]);
            message_wait(w, &requests[0]);
            message_wait(w, &requests[1]);
        }
#pragma omp parallel for schedule(static)
        for (size_t i = 0; i < n; i++) {
            x[i] += scratch[i]; // a + b = b + a, so both partners have the same
        }
    }
}

static inline double dp_all_reduce_double(World *w, double x) {
    return w->grid.dp > 1 ? sum_double_(w, w->grid.dp_comm, x) : x;
}

// The sum over the slices and stages of this replica.
static inline double model_all_reduce(World *w, double x) {
    x = w->grid.tp > 1 ? sum_double_(w, w->grid.tp_comm, x) : x;
    return w->grid.pp > 1 ? sum_double_(w, w->grid.pp_comm, x) : x;
}

// ------------------------------------------------------------------------------------------------
// The residual stream from stage to stage: x (n), n below 2^31; `step` is 1 to the next stage, -1
// to the one before.

// Begins to send; x must stay as it is until message_wait(request).
static inline void stage_send(World *w, const float *x, size_t n, int step, MPI_Request *request) {
    MPI_Isend(x, (int)n, MPI_FLOAT, w->grid.stage + step, 0, w->grid.pp_comm, request);
}

// Waits for what that stage sends.
static inline void stage_receive(World *w, float *x, size_t n, int step) {
    MPI_Request request;
    MPI_Irecv(x, (int)n, MPI_FLOAT, w->grid.stage + step, 0, w->grid.pp_comm, &request);
    message_wait(w, &request);
}

// The last stage's bytes go to the other stages of its replica and slice.
static inline void last_stage_broadcast(World *w, void *data, size_t bytes) {
    if (w->grid.pp > 1) {
        MPI_Bcast(data, (int)bytes, MPI_BYTE, w->grid.pp - 1, w->grid.pp_comm);
    }
}

// ------------------------------------------------------------------------------------------------
// Replicas on one host: arrays in memory that they share (MPI-3 windows), so that a sum over the
// host is loads and adds

typedef struct {
    MPI_Comm local;  // the replicas on this host
    MPI_Comm across; // the replicas with this one's number on every host: they carry what the hosts
                     // tell each other
    int peers, peer; // on this host, and this one's number among them
    int hosts, host;
} Neighbours;

// The neighbours of a replica in a run that is only planned: a world without communicators whose
// ranks fill nodes of node_size in their order.
static inline void neighbours_planned_(Neighbours *n, const World *w) {
    int parts = w->grid.tp * w->grid.pp, peers = w->node_size / parts;
    peers = peers < w->grid.dp ? peers : w->grid.dp;
    if (peers > 1 && w->node_size % parts == 0 && w->grid.dp % peers == 0) {
        n->peers = peers, n->peer = w->grid.dp_rank % peers;
        n->hosts = w->grid.dp / peers, n->host = w->grid.dp_rank / peers;
    }
}

// Collective: finds the neighbours of a replica. Without `share`, or where hosts have different
// numbers of replicas, or just one, each replica counts as a host of its own.
static inline void neighbours_find(Neighbours *n, const World *w, bool share) {
    int peers = 1, least, most;
    *n = (Neighbours){.local = MPI_COMM_NULL, .across = w->grid.dp_comm, .peers = 1};
    n->hosts = w->grid.dp, n->host = w->grid.dp_rank;
    if (w->grid.dp == 1 || !share) {
        return;
    }
    if (w->grid.dp_comm == MPI_COMM_NULL) {
        neighbours_planned_(n, w);
        return;
    }
    MPI_Comm_split_type(w->grid.dp_comm, MPI_COMM_TYPE_SHARED, w->grid.dp_rank, MPI_INFO_NULL,
                        &n->local);
    MPI_Comm_size(n->local, &peers);
    MPI_Allreduce(&peers, &least, 1, MPI_INT, MPI_MIN, w->grid.dp_comm);
    MPI_Allreduce(&peers, &most, 1, MPI_INT, MPI_MAX, w->grid.dp_comm);
    if (least == 1 || least < most) {
        MPI_Comm_free(&n->local);
        n->local = MPI_COMM_NULL;
        return;
    }
    n->peers = peers;
    MPI_Comm_rank(n->local, &n->peer);
    MPI_Comm_split(w->grid.dp_comm, n->peer, w->grid.dp_rank, &n->across);
    MPI_Comm_size(n->across, &n->hosts);
    MPI_Comm_rank(n->across, &n->host);
}

static inline void neighbours_free(Neighbours *n) {
    if (n->local != MPI_COMM_NULL && n->peers > 1) {
        MPI_Comm_free(&n->local);
        MPI_Comm_free(&n->across);
    }
    *n = (Neighbours){0};
}

// An array of each neighbour, which all of them can read.
typedef struct {
    void *mine;
    void **of; // (peers)
    size_t bytes;
    MPI_Win window;
} SharedArray;

// Addresses of memory that nobody may touch, for arrays that are only planned; NULL if there are
// none left.
static inline void *addresses_reserve(size_t bytes) {
    void *data = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return data == MAP_FAILED ? NULL : data;
}

// Collective over the neighbours, of which there are at least two: `bytes`, zero, on a page
// boundary.
static inline bool shared_array_create(SharedArray *a, const Neighbours *n, size_t bytes,
                                       Error *e) {
    MPI_Info info;
    *a = (SharedArray){
        .of = malloc((size_t)n->peers * sizeof *a->of), .bytes = bytes, .window = MPI_WIN_NULL};
    if (n->local == MPI_COMM_NULL) { // planned
        a->mine = addresses_reserve(bytes);
        return (a->of && a->mine) ||
               fail(e, "no addresses for the arrays of %d neighbours", n->peers);
    }
    MPI_Info_create(&info);
    MPI_Info_set(info, "alloc_shared_noncontig",
                 "true"); // each array where its owner's threads touch it first
    MPI_Win_allocate_shared((MPI_Aint)bytes, 1, info, n->local, &a->mine, &a->window);
    MPI_Info_free(&info);
    for (int i = 0; a->of && i < n->peers; i++) {
        MPI_Aint size;
        int unit;
        MPI_Win_shared_query(a->window, i, &size, &unit, &a->of[i]);
    }
    return a->of || fail(e, "no memory for the arrays of %d neighbours", n->peers);
}

// Collective over the neighbours.
static inline void shared_array_free(SharedArray *a) {
    if (a->mine && a->window != MPI_WIN_NULL) {
        MPI_Win_free(&a->window);
    } else if (a->mine) {
        munmap(a->mine, a->bytes);
    }
    free(a->of);
    *a = (SharedArray){0};
}

// ------------------------------------------------------------------------------------------------
// Gradients from replica to replica by buckets: ranges of the gradient array, in the order in which
// backward completes them, that is from its end. A bucket leaves as soon as it is complete, while
// backward goes on; world_poke between kernels moves it on. First each neighbour adds up its slice
// of the bucket over all arrays of the host, then the slices of equal number are summed across
// hosts, then the neighbours take each other's slices.
//
// ZeRO-1 (Rajbhandari et al. 2020): across hosts a slice is cut into pieces, and each replica gets
// the sum of its own piece only, updates these parameters, and all pieces are gathered, the same
// way back, while the next forward runs.

typedef enum {
    BUCKET_IDLE,
    BUCKET_COMPLETE,
    BUCKET_CROSSING,
    BUCKET_SUMMED,
    BUCKET_GATHERING,
    BUCKET_GATHERED
} BucketState;

typedef struct {
    size_t begin, end;             // of the array
    size_t slice_size;             // elements of a neighbour's slice; the last ones may be shorter
    size_t slice_begin, slice_end; // of this one
    size_t own_begin, own_end;     // what this replica updates of it: all, or with ZeRO its piece
    size_t own;            // where own_begin is in arrays that hold what the replica owns only
    int *counts, *offsets; // (hosts): the pieces of the slice
    BucketState state;
    int taken; // neighbours whose slices were taken
    MPI_Request request;
} Bucket;

// How far a neighbour is with a bucket: the number of the sum, or of the gathering, for which it
// last did this.
typedef struct {
    uint64_t complete, summed, gathered;
} BucketFlags;

typedef struct Buckets {
    Bucket *items;
    size_t count;
    size_t owned;                       // elements that this replica updates, over all buckets
    size_t started;                     // buckets whose sums are on their way or done
    uint64_t sums_begun, gathers_begun; // what neighbours tell each other of
    bool zero;
    const Neighbours *n;
    float *gradients, *sums;    // of this replica; sums (owned) with ZeRO
    float *parameters;          // with ZeRO
    void *const *gradients_of;  // (peers): the neighbours' arrays
    void *const *parameters_of; // (peers), with ZeRO
    SharedArray flags; // (peers): BucketFlags (count), then the step for which all was taken
} Buckets;

enum {
    BUCKET_ELEMENTS = 1 << 20
}; // at least: 4 MiB, where a network's bandwidth counts and not its latency

// Collective over the neighbours.
static inline void buckets_free(Buckets *b) {
    for (size_t i = 0; i < b->count; i++) {
        free(b->items[i].counts);
        free(b->items[i].offsets);
    }
    free(b->items);
    shared_array_free(&b->flags);
    *b = (Buckets){0};
}

static inline size_t slice_at_(const Bucket *bucket, int peer) {
    size_t n = bucket->end - bucket->begin, at = (size_t)peer * bucket->slice_size;
    return bucket->begin + (at < n ? at : n);
}

// Slices begin at cache lines.
static inline bool bucket_cut_(Bucket *bucket, const Neighbours *n, bool zero) {
    size_t all = bucket->end - bucket->begin, pieces = (size_t)n->peers * (size_t)n->hosts;
    size_t piece = ((all + pieces - 1) / pieces + 15) / 16 * 16;
    bucket->counts = malloc((size_t)n->hosts * sizeof *bucket->counts);
    bucket->offsets = malloc((size_t)n->hosts * sizeof *bucket->offsets);
    if (!bucket->counts || !bucket->offsets) {
        return false;
    }
    bucket->slice_size = piece * (size_t)n->hosts;
    bucket->slice_begin = slice_at_(bucket, n->peer);
    bucket->slice_end = slice_at_(bucket, n->peer + 1);
    size_t slice = bucket->slice_end - bucket->slice_begin;
    for (size_t h = 0; h < (size_t)n->hosts; h++) {
        size_t at = h * piece < slice ? h * piece : slice;
        bucket->offsets[h] = (int)at;
        bucket->counts[h] = (int)(slice - at < piece ? slice - at : piece);
    }
    bucket->own_begin =
        zero ? bucket->slice_begin + (size_t)bucket->offsets[n->host] : bucket->begin;
    bucket->own_end = zero ? bucket->own_begin + (size_t)bucket->counts[n->host] : bucket->end;
    return true;
}

// Collective: buckets over an array of n elements; backward completes it from the end in steps that
// begin at cuts[count - 1], ..., cuts[0] = 0. The arrays are to be set by the caller.
static inline bool buckets_create(Buckets *b, const Neighbours *neighbours, const size_t *cuts,
                                  size_t count, size_t n, bool zero, Error *e) {
    *b = (Buckets){.items = calloc(count, sizeof *b->items), .zero = zero, .n = neighbours};
    if (!b->items) {
        return fail(e, "no memory for %zu buckets of gradients", count);
    }
    for (size_t end = n; count-- > 0;) {
        if (end - cuts[count] < BUCKET_ELEMENTS && count > 0) {
            continue;
        }
        Bucket *bucket = &b->items[b->count++];
        *bucket = (Bucket){.begin = cuts[count], .end = end, .request = MPI_REQUEST_NULL};
        if (end - cuts[count] > INT_MAX) {
            return fail(e, "a layer of %zu parameters is more than one message holds: use --tp",
                        end - cuts[count]);
        }
        if (!bucket_cut_(bucket, neighbours, zero)) {
            return fail(e, "no memory for the pieces of %d hosts", neighbours->hosts);
        }
        bucket->own = zero ? b->owned : bucket->begin;
        b->owned += bucket->own_end - bucket->own_begin;
        end = cuts[count];
    }
    return neighbours->peers == 1 ||
           shared_array_create(&b->flags, neighbours,
                               b->count * sizeof(BucketFlags) + sizeof(uint64_t), e);
}

static inline BucketFlags *flags_of_(const Buckets *b, int peer, size_t bucket) {
    return (BucketFlags *)b->flags.of[peer] + bucket;
}

static inline uint64_t *taken_of_(const Buckets *b, int peer) {
    return (uint64_t *)flags_of_(b, peer, b->count);
}

// Tells the neighbours; what was written before is seen by who sees this.
static inline void tell_(uint64_t *flag, uint64_t step) {
    __atomic_store_n(flag, step, __ATOMIC_RELEASE);
}

static inline bool was_told_(const uint64_t *flag, uint64_t step) {
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE) >= step;
}

// x (n) = sum of the same range of all neighbours' arrays, in their order.
static inline void sum_of_neighbours_(const Buckets *b, size_t begin, size_t end) {
    float *x = b->gradients;
#pragma omp parallel for schedule(static)
    for (size_t i = begin; i < end; i++) {
        float sum = ((const float *)b->gradients_of[0])[i];
        for (int peer = 1; peer < b->n->peers; peer++) {
            sum += ((const float *)b->gradients_of[peer])[i];
        }
        x[i] = sum;
    }
}

// All neighbours have completed the bucket: sums this one's slice of it and sends that across
// hosts.
static inline void bucket_cross_(Buckets *b, Bucket *bucket) {
    float *slice = b->gradients + bucket->slice_begin;
    size_t length = bucket->slice_end - bucket->slice_begin;
    if (b->n->peers > 1) {
        sum_of_neighbours_(b, bucket->slice_begin, bucket->slice_end);
    }
    if (b->n->hosts == 1 && b->zero) {
        memcpy(b->sums + bucket->own, slice, length * sizeof *slice);
    } else if (b->n->hosts > 1 && b->zero) {
        MPI_Ireduce_scatter(slice, b->sums + bucket->own, bucket->counts, MPI_FLOAT, MPI_SUM,
                            b->n->across, &bucket->request);
    } else if (b->n->hosts > 1) {
        MPI_Iallreduce(MPI_IN_PLACE, slice, (int)length, MPI_FLOAT, MPI_SUM, b->n->across,
                       &bucket->request);
    }
    bucket->state = BUCKET_CROSSING;
}

// Takes the slices of neighbours that have told so, in their order. True when all are taken.
static inline bool bucket_take_(Buckets *b, size_t i, float *x, void *const *of, size_t flag,
                                uint64_t step) {
    Bucket *bucket = &b->items[i];
    for (; bucket->taken < b->n->peers; bucket->taken++) {
        size_t begin = slice_at_(bucket, bucket->taken), end = slice_at_(bucket, bucket->taken + 1);
        if (bucket->taken == b->n->peer) {
            continue;
        }
        if (!was_told_((uint64_t *)((char *)flags_of_(b, bucket->taken, i) + flag), step)) {
            return false;
        }
        memcpy(x + begin, (const float *)of[bucket->taken] + begin, (end - begin) * sizeof *x);
    }
    return true;
}

// Moves a bucket on as far as it gets without waiting.
static inline void bucket_progress_(Buckets *b, size_t i) {
    Bucket *bucket = &b->items[i];
    const int peers = b->n->peers;
    int done = 1;
    if (bucket->state == BUCKET_COMPLETE) {
        for (int peer = 0; peer < peers && peers > 1; peer++) {
            if (!was_told_(&flags_of_(b, peer, i)->complete, b->sums_begun)) {
                return;
            }
        }
        bucket_cross_(b, bucket);
    }
    if (bucket->state == BUCKET_CROSSING || bucket->state == BUCKET_GATHERING) {
        MPI_Test(&bucket->request, &done, MPI_STATUS_IGNORE);
        if (!done) {
            return;
        }
        bool summing = bucket->state == BUCKET_CROSSING;
        bucket->state = summing ? BUCKET_SUMMED : BUCKET_GATHERED;
        bucket->taken = 0;
        if (peers > 1) {
            BucketFlags *mine = flags_of_(b, b->n->peer, i);
            tell_(summing ? &mine->summed : &mine->gathered,
                  summing ? b->sums_begun : b->gathers_begun);
        }
    }
    if (bucket->state == BUCKET_SUMMED &&
        (peers == 1 || b->zero ||
         bucket_take_(b, i, b->gradients, b->gradients_of, offsetof(BucketFlags, summed),
                      b->sums_begun))) {
        bucket->state = BUCKET_IDLE;
    }
    if (bucket->state == BUCKET_GATHERED &&
        (peers == 1 || bucket_take_(b, i, b->parameters, b->parameters_of,
                                    offsetof(BucketFlags, gathered), b->gathers_begun))) {
        bucket->state = BUCKET_IDLE;
    }
}

static inline void buckets_progress(World *w) {
    Buckets *b = w->active_buckets;
    for (size_t i = 0; b && i < b->count; i++) {
        if (b->items[i].state != BUCKET_IDLE) {
            bucket_progress_(b, i);
        }
    }
}

// Lets messages and buckets move on: MPI without a thread of its own moves messages only inside its
// calls.
static inline void mpi_progress(World *w) {
    int flag;
    if (w->size > 1) {
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
        buckets_progress(w);
    }
}

// Waits until bucket i has got to where it was sent.
static inline void bucket_wait_(World *w, Buckets *b, size_t i) {
    double start = MPI_Wtime();
    for (int polls = 0; b->items[i].state != BUCKET_IDLE; polls++) {
        buckets_progress(w);
        if (polls > 100) {
            sched_yield();
        }
    }
    w->comm_seconds += MPI_Wtime() - start;
}

// Begins to sum what is complete: gradients[from ..]. With ZeRO the sums of this replica's pieces
// go to b->sums.
static inline void buckets_reduce_from(World *w, Buckets *b, size_t from) {
    if (w->grid.dp == 1) {
        return;
    }
    if (b->started == 0) {
        b->sums_begun++;
        w->active_buckets = b;
    }
    for (; b->started < b->count && b->items[b->started].begin >= from; b->started++) {
        b->items[b->started].state = BUCKET_COMPLETE;
        if (b->n->peers > 1) {
            tell_(&flags_of_(b, b->n->peer, b->started)->complete, b->sums_begun);
        }
    }
    buckets_progress(w);
}

// Waits for all sums, and until no neighbour reads this replica's gradients any more.
static inline void buckets_wait(World *w, Buckets *b) {
    for (size_t i = 0; w->grid.dp > 1 && i < b->count; i++) {
        bucket_wait_(w, b, i);
    }
    double start = MPI_Wtime();
    if (w->grid.dp > 1 && b->n->peers > 1) {
        tell_(taken_of_(b, b->n->peer), b->sums_begun);
        for (int peer = 0; peer < b->n->peers; peer++) {
            while (!was_told_(taken_of_(b, peer), b->sums_begun)) {
                sched_yield();
            }
        }
    }
    w->comm_seconds += MPI_Wtime() - start;
    b->started = 0;
}

// With ZeRO: begins to gather the pieces that the replicas have updated, in the order of forward.
static inline void buckets_gather(World *w, Buckets *b) {
    if (w->grid.dp == 1 || !b->zero) {
        return;
    }
    b->gathers_begun++;
    w->active_buckets = b;
    for (size_t i = b->count; i-- > 0;) {
        Bucket *bucket = &b->items[i];
        if (b->n->hosts > 1) {
            MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, b->parameters + bucket->slice_begin,
                            bucket->counts, bucket->offsets, MPI_FLOAT, b->n->across,
                            &bucket->request);
        }
        bucket->state = BUCKET_GATHERING;
    }
    buckets_progress(w);
}

// Waits until parameters[.. end) are gathered.
static inline void buckets_await(World *w, Buckets *b, size_t end) {
    for (size_t i = b->count; i-- > 0 && b->items[i].begin < end;) {
        bucket_wait_(w, b, i);
    }
}

// Rank 0's bytes go to all ranks.
static inline void broadcast(void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i += MESSAGE_ELEMENTS) {
        int count = (int)(bytes - i < MESSAGE_ELEMENTS ? bytes - i : MESSAGE_ELEMENTS);
        MPI_Bcast((char *)data + i, count, MPI_BYTE, 0, MPI_COMM_WORLD);
    }
}

// Any number of bytes to another rank, which calls receive_bytes.
static inline void send_bytes(int to, const void *data, size_t bytes) {
    uint64_t size = bytes;
    MPI_Send(&size, 1, MPI_UINT64_T, to, 0, MPI_COMM_WORLD);
    for (size_t i = 0; i < bytes; i += MESSAGE_ELEMENTS) {
        int count = (int)(bytes - i < MESSAGE_ELEMENTS ? bytes - i : MESSAGE_ELEMENTS);
        MPI_Send((const char *)data + i, count, MPI_BYTE, to, 0, MPI_COMM_WORLD);
    }
}

// What the rank sent, in a buffer that the caller frees. Without memory for it the whole run ends.
static inline void *receive_bytes(int from, size_t *bytes) {
    uint64_t size;
    MPI_Recv(&size, 1, MPI_UINT64_T, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    char *data = malloc(size + 1);
    if (!data) {
        fprintf(stderr, "train_gpt: no memory for %llu bytes from rank %d\n",
                (unsigned long long)size, from);
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    for (size_t i = 0; i < size; i += MESSAGE_ELEMENTS) {
        int count = (int)(size - i < MESSAGE_ELEMENTS ? size - i : MESSAGE_ELEMENTS);
        MPI_Recv(data + i, count, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    *bytes = size;
    return data;
}

// Rank 0 gets the records of all replicas, of `bytes` each, `count` (< 2^31) from every one, in
// their order. On entry each replica's own stand at `records`, which on rank 0 has room for all.
// Slices and stages but the first keep silent: they have the same.
static inline void dp_gather(World *w, void *records, size_t count, int bytes) {
    if (w->grid.dp == 1 || w->grid.tp_rank > 0 || w->grid.stage > 0) {
        return;
    }
    MPI_Datatype record; // counted in records, as MPI counts in int
    MPI_Request request;
    MPI_Type_contiguous(bytes, MPI_BYTE, &record);
    MPI_Type_commit(&record);
    MPI_Igather(w->rank == 0 ? MPI_IN_PLACE : records, (int)count, record, records, (int)count,
                record, 0, w->grid.dp_comm, &request);
    message_wait(w, &request);
    MPI_Type_free(&record);
}

// ------------------------------------------------------------------------------------------------
// Placement: which cores and NUMA domains (on A64FX: CMGs) the ranks may run on. CPU numbers are
// never assumed: on Fugaku compute cores begin at 12 and NUMA nodes at 4, so everything comes from
// the affinity mask and from sysfs.

typedef struct {
    char host[64], cores[64], domains[32]; // lists as "0-3,8"
    char from[24]; // who chose the cores: launcher, OpenMP, train_gpt, or nobody
    int threads, domain_count;
    int pinned; // threads that have a core of their own
    int shared; // threads of all ranks that may run on these cores, beyond the number of cores; 0
                // is good
    int remote; // percent of the model's memory outside these domains
    cpu_set_t nodes; // the domains
} Placement;

// Writes the set bits as "0-3,8", cut short with "..." if it does not fit.
static inline void format_cpu_list(const cpu_set_t *set, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0, end; i < CPU_SETSIZE; i = end + 1) {
        end = i;
        if (!CPU_ISSET((size_t)i, set)) {
            continue;
        }
        while (end + 1 < CPU_SETSIZE && CPU_ISSET((size_t)end + 1, set)) {
            end++;
        }
        char range[32];
        int n = end > i ? snprintf(range, sizeof range, "%s%d-%d", used ? "," : "", i, end)
                        : snprintf(range, sizeof range, "%s%d", used ? "," : "", i);
        if (used + (size_t)n + 4 > size) {
            memcpy(text + used, "...", 4);
            return;
        }
        memcpy(text + used, range, (size_t)n + 1);
        used += (size_t)n;
    }
}

// The cores of a NUMA domain, from /sys/devices/system/node/nodeN/cpuM; none if there is no such
// domain.
static inline cpu_set_t cores_of_domain_(int domain) {
    cpu_set_t cores;
    char path[64];
    CPU_ZERO(&cores);
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d", domain);
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        int cpu;
        char rest;
        if (sscanf(entry->d_name, "cpu%d%c", &cpu, &rest) == 1 && cpu >= 0 && cpu < CPU_SETSIZE) {
            CPU_SET((size_t)cpu, &cores);
        }
    }
    if (directory) {
        closedir(directory);
    }
    return cores;
}

// The NUMA domains that hold at least one of the cores. A system that does not say (a container
// without sysfs) counts as one domain, number 0.
static inline cpu_set_t numa_domains_of(const cpu_set_t *cores) {
    cpu_set_t domains;
    CPU_ZERO(&domains);
    for (int domain = 0; domain < CPU_SETSIZE; domain++) {
        cpu_set_t both = cores_of_domain_(domain);
        CPU_AND(&both, &both, cores);
        if (CPU_COUNT(&both)) {
            CPU_SET((size_t)domain, &domains);
        }
    }
    if (CPU_COUNT(&domains) == 0) {
        CPU_SET(0, &domains);
    }
    return domains;
}

// The cores this rank may run on. If the system does not say: as many as are online, from 0.
static inline cpu_set_t allowed_cores(void) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof cores, &cores) || CPU_COUNT(&cores) == 0) {
        for (long i = 0; i < sysconf(_SC_NPROCESSORS_ONLN) && i < CPU_SETSIZE; i++) {
            CPU_SET((size_t)i, &cores);
        }
    }
    return cores;
}

// The launcher, from what it sets in each process; NULL if none is known.
static inline const char *launcher_name(void) {
    static const struct {
        const char *variable, *name;
    } launchers[] = {{"PLE_RANK_ON_NODE", "PJM"},
                     {"SLURM_STEP_ID", "Slurm"},
                     {"MPI_LOCALRANKID", "Hydra"},
                     {"OMPI_COMM_WORLD_LOCAL_RANK", "Open MPI"}};
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        if (getenv(launchers[i].variable)) {
            return launchers[i].name;
        }
    }
    return NULL;
}

// The cores of a set, those of one NUMA domain together. cores: room for CPU_SETSIZE. Returns how
// many.
static inline int cores_by_domain(const cpu_set_t *set, int *cores) {
    cpu_set_t left = *set;
    int count = 0;
    for (int domain = 0; domain <= CPU_SETSIZE && CPU_COUNT(&left); domain++) {
        cpu_set_t here =
            domain < CPU_SETSIZE ? cores_of_domain_(domain) : left; // at last those of no domain
        CPU_AND(&here, &here, &left);
        CPU_XOR(&left, &left, &here);
        for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&here); i++) {
            if (CPU_ISSET((size_t)i, &here)) {
                CPU_CLR((size_t)i, &here);
                cores[count++] = i;
            }
        }
    }
    return count;
}

// Gives each thread one of cores[0 .. threads). The threads must be those of all later parallel
// regions.
static inline void pin_threads_(const int *cores) {
#pragma omp parallel
    {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET((size_t)cores[omp_get_thread_num()], &one);
        sched_setaffinity(0, sizeof one,
                          &one); // of this thread; if the system refuses, the check below says so
    }
}

// The cores on which the threads may run, all together; *pinned: how many may run on one core only.
static inline cpu_set_t cores_of_threads_(int *pinned) {
    cpu_set_t all;
    int single = 0;
    CPU_ZERO(&all);
#pragma omp parallel
    {
        cpu_set_t mine = allowed_cores();
#pragma omp critical
        {
            CPU_OR(&all, &all, &mine);
            single += CPU_COUNT(&mine) == 1;
        }
    }
    *pinned = single;
    return all;
}

// Chooses cores for this rank where nobody has: `sharing` ranks of this host, of which this is the
// `index`-th, may run on the same cores, `mine`. If their threads are as many as the cores, each
// thread gets one of its own, rank after rank, domain after domain. If they are fewer, others may
// use the machine too: then only each rank is kept to its share of the domains, where there are
// several. Memory follows, as it is first touched later. False if there was nothing to do.
static inline bool choose_cores_(const cpu_set_t *mine, int sharing, int index, int threads) {
    int cores[CPU_SETSIZE], count = cores_by_domain(mine, cores);
    if (threads * sharing == count) {
        pin_threads_(cores + index * threads);
        return true;
    }
    cpu_set_t domains = numa_domains_of(mine), share;
    if (threads * sharing > count || sharing == 1 || CPU_COUNT(&domains) == 1) {
        return false;
    }
    CPU_ZERO(&share);
    for (int i = index * count / sharing; i < (index + 1) * count / sharing; i++) {
        CPU_SET((size_t)cores[i], &share);
    }
    return !sched_setaffinity(0, sizeof share, &share); // threads start later and inherit it
}

// Threads of all ranks of this host that may run on the cores of this one, beyond their number.
// masks, threads: (node_size).
static inline int threads_too_many_(const World *w, const cpu_set_t *masks, const int *threads) {
    const cpu_set_t *mine = &masks[w->node_rank];
    cpu_set_t reach = *mine, both;
    int wanted = 0;
    for (int i = 0; i < w->node_size; i++) {
        CPU_AND(&both, mine, &masks[i]);
        if (CPU_COUNT(&both)) {
            CPU_OR(&reach, &reach, &masks[i]);
            wanted += threads[i];
        }
    }
    return wanted > CPU_COUNT(&reach) ? wanted - CPU_COUNT(&reach) : 0;
}

// Collective, before the first parallel region and before large memory is touched. A binding that
// is there, by the launcher or by OpenMP (OMP_PROC_BIND, OMP_PLACES), stays; where there is none,
// choose_cores_ makes one if `bind`. Without OMP_NUM_THREADS the ranks of a host divide the cores
// they share: OpenMP's own default would start as many threads as cores in each of them. Returns
// where this rank lies.
static inline Placement world_place(World *w, bool bind) {
    Placement p = {0};
    cpu_set_t mine = allowed_cores();
    cpu_set_t *all = malloc((size_t)w->node_size * sizeof *all);
    int *threads = malloc((size_t)w->node_size * sizeof *threads);
    if (!all || !threads) {
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, w->node);
    int sharing = 0, index = 0, alike = 0;
    for (int i = 0; i < w->node_size; i++) {
        index = i == w->node_rank ? sharing : index;
        sharing += CPU_EQUAL(&all[i], &mine) != 0;
    }
    bool openmp_binds =
        omp_get_proc_bind() != omp_proc_bind_false; // then `mine` is the place of the main thread
    if (!getenv("OMP_NUM_THREADS") && !openmp_binds) {
        omp_set_num_threads(CPU_COUNT(&mine) > sharing ? CPU_COUNT(&mine) / sharing : 1);
    }
    p.threads = omp_get_max_threads();
    MPI_Allgather(&p.threads, 1, MPI_INT, threads, 1, MPI_INT, w->node);
    for (int i = 0; i < w->node_size; i++) {
        alike += CPU_EQUAL(&all[i], &mine) && threads[i] == p.threads;
    }
    bool given = sharing < w->node_size ||
                 CPU_COUNT(&mine) < sysconf(_SC_NPROCESSORS_ONLN); // by somebody outside
    bool chosen = bind && !openmp_binds && alike == sharing &&
                  choose_cores_(&mine, sharing, index, p.threads);
    const char *launcher = launcher_name();
    const char *from = openmp_binds                        ? "OpenMP"
                       : chosen && (sharing > 1 || !given) ? "train_gpt"
                       : given                             ? (launcher ? launcher : "outside")
                                                           : NULL;
    snprintf(p.from, sizeof p.from, from ? "from %s" : "not bound", from);
    mine = cores_of_threads_(&p.pinned);
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, w->node);
    p.shared = threads_too_many_(w, all, threads);
    p.nodes = numa_domains_of(&mine);
    p.domain_count = CPU_COUNT(&p.nodes);
    gethostname(p.host, sizeof p.host - 1);
    format_cpu_list(&mine, p.cores, sizeof p.cores);
    format_cpu_list(&p.nodes, p.domains, sizeof p.domains);
    free(all);
    free(threads);
    return p;
}

// Percent of an array's pages that lie outside the domains, from a sample of up to 256 of them that
// have been touched; 0 if the system does not say (move_pages without a target only asks).
static inline int percent_elsewhere(const void *data, size_t bytes, const cpu_set_t *domains) {
    enum { SAMPLE = 256 };
    void *pages[SAMPLE];
    int where[SAMPLE], seen = 0, elsewhere = 0;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), all = bytes / page,
           count = all < SAMPLE ? all : SAMPLE;
    for (size_t i = 0; i < count; i++) {
        pages[i] = (void *)(((uintptr_t)data + i * (all / count) * page) / page * page);
    }
    if (count == 0 || syscall(SYS_move_pages, 0, count, pages, NULL, where, 0)) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        seen += where[i] >= 0;
        elsewhere +=
            where[i] >= 0 && where[i] < CPU_SETSIZE && !CPU_ISSET((size_t)where[i], domains);
    }
    return seen ? 100 * elsewhere / seen : 0;
}

// Collective: rank 0 prints where every rank lies (the first 16 of many) and warns of ranks that
// span two domains, whose memory is then partly remote, of memory that is remote, of cores that
// more threads than one want, and of slices of one stage on different hosts though they would fit
// on one.
static inline void world_print_placement(World *w, Placement mine, FILE *out) {
    Placement *all = w->rank == 0 ? malloc((size_t)w->size * sizeof *all) : NULL;
    if (w->rank == 0 && !all) {
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Gather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, 0, MPI_COMM_WORLD);
    if (w->rank != 0) {
        return;
    }
    int spanning = 0, first_spanning = 0, sharing = 0, first_sharing = 0, remote = 0,
        first_remote = 0, torn = 0;
    for (int r = w->size - 1; r >= 0; r--) {
        if (all[r].domain_count > 1) {
            spanning++, first_spanning = r;
        }
        if (all[r].shared > 0) {
            sharing++, first_sharing = r;
        }
        if (all[r].remote > 0) {
            remote++, first_remote = r;
        }
        torn += r % w->grid.tp > 0 && strcmp(all[r].host, all[r - 1].host);
    }
    for (int r = 0; r < w->size && r < 16; r++) {
        fprintf(out, "rank %d: host %s, NUMA domain %s, cores %s (%s), %d thread%s%s\n", r,
                all[r].host, all[r].domains, all[r].cores, all[r].from, all[r].threads,
                all[r].threads == 1 ? "" : "s",
                all[r].threads > 1 && all[r].pinned == all[r].threads ? ", a core each" : "");
    }
    if (w->size > 16) {
        fprintf(out, "... and %d more ranks\n", w->size - 16);
    }
    if (spanning) {
        fprintf(out,
                "warning: %d rank%s, first rank %d, may run on more than one NUMA domain (%s): "
                "start one rank per "
                "domain and bind it (mpirun -bind-to numa)\n",
                spanning, spanning == 1 ? "" : "s", first_spanning, all[first_spanning].domains);
    }
    if (sharing) {
        fprintf(out,
                "warning: cores are shared: %d rank%s, first rank %d on cores %s, lie%s where "
                "threads outnumber "
                "cores by %d: use fewer ranks or a smaller OMP_NUM_THREADS, or bind ranks apart "
                "(mpirun -bind-to numa)\n",
                sharing, sharing == 1 ? "" : "s", first_sharing, all[first_sharing].cores,
                sharing == 1 ? "s" : "", all[first_sharing].shared);
    }
    if (remote) {
        fprintf(out,
                "warning: memory is far from its cores: of %d rank%s, first rank %d with %d %%, "
                "outside NUMA domain %s: "
                "a memory policy of the launcher, or too little memory there\n",
                remote, remote == 1 ? "" : "s", first_remote, all[first_remote].remote,
                all[first_remote].domains);
    }
    if (torn && w->grid.tp <= w->node_size) {
        fprintf(out,
                "warning: slices of one stage (--tp %d) lie on different hosts though %d ranks of "
                "a host could hold "
                "them: start ranks by blocks of consecutive numbers, or with scripts/rank_map.py\n",
                w->grid.tp, w->node_size);
    }
    free(all);
}

#endif
