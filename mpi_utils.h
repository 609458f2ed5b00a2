// mpi_utils.h: the ranks of a run: start and end of MPI, the process grid, error checks across
// ranks, collectives and point-to-point messages.
//
// A failure on any rank ends all ranks: every rank reports its own state to world_check, so all of
// them learn of the failure at the same point and leave through MPI_Finalize. No rank waits for one
// that has exited.
#ifndef MPI_UTILS_H
#define MPI_UTILS_H

#include <mpi.h>
#include <sched.h>

#include "util/error.h"
#include "util/memory.h" // defines: add_floats

// ------------------------------------------------------------------------------------------------
// The process grid: every rank is a tensor-parallel (TP) rank of a pipeline stage (PP) of a
// data-parallel (DP) rank. TP ranks communicate most, so they are adjacent; stages come next; DP
// ranks are farthest apart: rank = (dp_rank * pp + stage) * tp + tp_rank.

typedef struct {
    int tp, pp, dp;              // sizes of the grid
    int tp_rank, stage, dp_rank; // coordinates of this rank
    MPI_Comm tp_comm;            // the ranks that differ from this one in tp_rank only
    MPI_Comm pp_comm;            // ... in stage only
    MPI_Comm dp_comm;            // ... in dp_rank only
    MPI_Comm tied_comm; // first and last stage, which both hold the embedding; null on the others
    MPI_Comm kv_comm;   // the ranks of tp_comm that hold the same KV head; null if none do
} Grid;

typedef struct World {
    int rank, size;           // in MPI_COMM_WORLD
    int node_rank, node_size; // among the ranks that share this node's memory
    MPI_Comm node_comm;
    Grid grid;
    double comm_seconds; // time spent waiting for other ranks since it was last set to zero
    // Advances communication that is under way while this rank waits or computes; null if there is
    // none. It must not wait itself.
    void (*progress)(void *context);
    void *progress_context;
} World;

static inline void grid_free_(Grid *g) {
    MPI_Comm *comms[] = {&g->tp_comm, &g->pp_comm, &g->dp_comm, &g->tied_comm, &g->kv_comm};

    for (size_t i = 0; i < sizeof comms / sizeof *comms; i++) {
        if (*comms[i] != MPI_COMM_NULL) {
            MPI_Comm_free(comms[i]);
        }
    }
}

// A grid of a single rank, without communicators.
static inline Grid grid_alone(void) {
    return (Grid){.tp = 1,
                  .pp = 1,
                  .dp = 1,
                  .tp_comm = MPI_COMM_NULL,
                  .pp_comm = MPI_COMM_NULL,
                  .dp_comm = MPI_COMM_NULL,
                  .tied_comm = MPI_COMM_NULL,
                  .kv_comm = MPI_COMM_NULL};
}

// Collective over all ranks: arranges them as tp x pp x dp, where dp is what remains. Replaces an
// earlier grid. An error, the same on all ranks, if tp * pp does not divide the number of ranks.
static inline bool world_make_grid(World *w, size_t tp, size_t pp, Error *e) {
    if (tp > (size_t)w->size || pp > (size_t)w->size || (size_t)w->size % (tp * pp)) {
        return fail(
            e, "--tp %zu x --pp %zu does not divide the %d rank%s: start a multiple of %zu ranks",
            tp, pp, w->size, w->size == 1 ? "" : "s", (tp * pp));
    }

    Grid g = grid_alone();
    g.tp = (int)tp, g.pp = (int)pp, g.dp = w->size / g.tp / g.pp;
    g.tp_rank = w->rank % g.tp, g.stage = w->rank / g.tp % g.pp, g.dp_rank = w->rank / g.tp / g.pp;

    // one communicator along each axis of the grid
    int model_column = g.dp_rank * g.tp + g.tp_rank; // the same on all stages of a pipeline
    bool first_or_last = g.pp > 1 && (g.stage == 0 || g.stage + 1 == g.pp);
    MPI_Comm_split(MPI_COMM_WORLD, w->rank / g.tp, w->rank, &g.tp_comm);
    MPI_Comm_split(MPI_COMM_WORLD, model_column, w->rank, &g.pp_comm);
    MPI_Comm_split(MPI_COMM_WORLD, w->rank % (g.tp * g.pp), w->rank, &g.dp_comm);
    MPI_Comm_split(MPI_COMM_WORLD, first_or_last ? model_column : MPI_UNDEFINED, w->rank,
                   &g.tied_comm);

    grid_free_(&w->grid);
    w->grid = g;
    return true;
}

// Collective over the TP ranks of a stage: groups of `copies` consecutive ones hold the same KV
// head.
static inline void grid_share_kv_heads(Grid *g, size_t copies) {
    if (copies > 1 && g->kv_comm == MPI_COMM_NULL) {
        MPI_Comm_split(g->tp_comm, g->tp_rank / (int)copies, g->tp_rank, &g->kv_comm);
    }
}

// Starts MPI. Only the main thread may call it later (MPI_THREAD_FUNNELED). MPI's own errors end
// the program with MPI's message.
static inline void world_init(World *w, int *argc, char ***argv) {
    int provided;

    *w = (World){.grid = grid_alone()};
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &w->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w->size);

    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, w->rank, MPI_INFO_NULL,
                        &w->node_comm);
    MPI_Comm_rank(w->node_comm, &w->node_rank);
    MPI_Comm_size(w->node_comm, &w->node_size);
}

// Collective over all ranks: ends MPI.
static inline void world_finalize(World *w) {
    grid_free_(&w->grid);
    MPI_Comm_free(&w->node_comm);
    MPI_Finalize();
}

// Ends all ranks at once, with a message: for failures of one rank where the others cannot ask
// about it.
static inline _Noreturn void world_abort(const Error *e) {
    fprintf(stderr, "train_gpt: %s\n", e->text);
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    exit(EXIT_FAILURE);
}

// ------------------------------------------------------------------------------------------------
// Waiting

static inline void world_progress_(World *w) {
    if (w->progress) {
        w->progress(w->progress_context);
    }
}

// Advances communication that is under way. To be called between kernels: MPI without a progress
// thread moves messages only inside its own calls.
static inline void mpi_progress(World *w) {
    int flag;

    if (w->size > 1) {
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
        world_progress_(w);
    }
}

// One round (0, 1, ...) of a loop that waits for another rank. A rank that has waited for long
// yields its core: where ranks outnumber cores (a test, a laptop), MPI's busy waiting would keep
// the awaited rank from running.
static inline void world_wait_round(World *w, int round) {
    enum { BUSY_ROUNDS = 100 };

    world_progress_(w);
    if (round > BUSY_ROUNDS) {
        sched_yield();
    }
}

// Waits until a message is complete; sets the request to MPI_REQUEST_NULL.
static inline void message_wait(World *w, MPI_Request *request) {
    double start = MPI_Wtime();
    int done = 0;

    for (int round = 0; MPI_Test(request, &done, MPI_STATUS_IGNORE), !done; round++) {
        world_wait_round(w, round);
    }
    w->comm_seconds += MPI_Wtime() - start;
}

// ------------------------------------------------------------------------------------------------
// Collectives. MPI counts in int, so long arrays are sent in messages of 2^28 elements.

enum { MESSAGE_ELEMENTS = 1 << 28 };

// The length of the message that begins at element i of n.
static inline int message_length_(size_t i, size_t n) {
    return (int)min_u64(n - i, MESSAGE_ELEMENTS);
}

static inline void reduce_in_place_(World *w, MPI_Comm comm, void *x, int n, MPI_Datatype type,
                                    MPI_Op op) {
    MPI_Request request;

    MPI_Iallreduce(MPI_IN_PLACE, x, n, type, op, comm, &request);
    message_wait(w, &request);
}

// Collective over all ranks: each rank reports whether it succeeded. If one failed, the lowest such
// rank prints its error and all ranks return false.
static inline bool world_check(World *w, bool ok, const Error *e) {
    int first = ok ? w->size : w->rank;

    reduce_in_place_(w, MPI_COMM_WORLD, &first, 1, MPI_INT, MPI_MIN);
    if (first == w->rank) {
        fprintf(stderr, "train_gpt: %s\n", e->text);
    }
    return first == w->size;
}

// Collective over all ranks: world_check of what rank 0 alone did.
static inline bool world_check_root(World *w, bool ok, const Error *e) {
    return world_check(w, ok || w->rank != 0, e);
}

// Collective over all ranks: returns the largest x.
static inline int world_max(World *w, int x) {
    reduce_in_place_(w, MPI_COMM_WORLD, &x, 1, MPI_INT, MPI_MAX);
    return x;
}

// Collective over `comm`: x (n) = sum over its ranks, in place, the same bits on every rank.
static inline void all_reduce_floats(World *w, MPI_Comm comm, float *x, size_t n) {
    for (size_t i = 0; i < n; i += MESSAGE_ELEMENTS) {
        reduce_in_place_(w, comm, x + i, message_length_(i, n), MPI_FLOAT, MPI_SUM);
    }
}

// Collective over `comm`: returns the sum of x over its ranks.
static inline double all_reduce_double(World *w, MPI_Comm comm, double x) {
    reduce_in_place_(w, comm, &x, 1, MPI_DOUBLE, MPI_SUM);
    return x;
}

// Collective over all ranks: x (n) = sum over the ranks, exact as they are integers.
static inline void all_reduce_integers(World *w, int64_t *x, int n) {
    if (w->size > 1) {
        reduce_in_place_(w, MPI_COMM_WORLD, x, n, MPI_INT64_T, MPI_SUM);
    }
}

// Collective over the TP ranks of a stage: x (n) = sum over them.
static inline void tp_all_reduce(World *w, float *x, size_t n) {
    if (w->grid.tp > 1) {
        all_reduce_floats(w, w->grid.tp_comm, x, n);
    }
}

// Collective over the TP ranks that hold the same KV head: x (n) = sum over them.
static inline void kv_all_reduce(World *w, float *x, size_t n) {
    all_reduce_floats(w, w->grid.kv_comm, x, n);
}

// Collective over the TP ranks of a stage: data (tp, bytes), bytes < 2^31. On entry each rank's own
// row is filled, on return all rows are.
static inline void tp_all_gather(World *w, void *data, size_t bytes) {
    if (w->grid.tp > 1) {
        MPI_Request request;
        MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, (int)bytes, MPI_BYTE,
                       w->grid.tp_comm, &request);
        message_wait(w, &request);
    }
}

// Collective over the first and the last stage of a pipeline, called by these only: x (n) = sum
// over the two.
static inline void tied_all_reduce(World *w, float *x, size_t n) {
    all_reduce_floats(w, w->grid.tied_comm, x, n);
}

// Collective over the DP ranks: returns the sum of x over them.
static inline double dp_all_reduce_double(World *w, double x) {
    return w->grid.dp > 1 ? all_reduce_double(w, w->grid.dp_comm, x) : x;
}

// Collective over the TP ranks and stages of a DP rank: returns the sum of x over them.
static inline double model_all_reduce(World *w, double x) {
    x = w->grid.tp > 1 ? all_reduce_double(w, w->grid.tp_comm, x) : x;
    return w->grid.pp > 1 ? all_reduce_double(w, w->grid.pp_comm, x) : x;
}

// Collective over the DP ranks, a power of two: x (n) = their sum in a binary tree over dp_rank:
// first 0 + 1 and 2 + 3, then these two, and so on (recursive doubling). scratch: (n).
static inline void dp_tree_all_reduce(World *w, float *x, float *scratch, size_t n) {
    for (int distance = 1; distance < w->grid.dp; distance *= 2) {
        int partner = w->grid.dp_rank ^ distance;

        for (size_t i = 0; i < n; i += MESSAGE_ELEMENTS) {
            int length = message_length_(i, n);
            MPI_Request requests[2];
            MPI_Irecv(scratch + i, length, MPI_FLOAT, partner, 0, w->grid.dp_comm, &requests[0]);
            MPI_Isend(x + i, length, MPI_FLOAT, partner, 0, w->grid.dp_comm, &requests[1]);
            message_wait(w, &requests[0]);
            message_wait(w, &requests[1]);
        }

        add_floats(x, scratch, n); // a + b = b + a, so both partners have the same
    }
}

// Collective over the DP ranks with tp_rank 0 on stage 0, no-op on all others, which have the same
// records: rank 0 gathers `count` (< 2^31) records of `bytes` each from every DP rank, in the order
// of dp_rank. On entry each rank's own records are at `records`, which on rank 0 has room for all.
static inline void dp_gather(World *w, void *records, size_t count, int bytes) {
    if (w->grid.dp == 1 || w->grid.tp_rank > 0 || w->grid.stage > 0) {
        return;
    }

    MPI_Datatype record; // so that MPI's int counts records, not bytes
    MPI_Type_contiguous(bytes, MPI_BYTE, &record);
    MPI_Type_commit(&record);

    MPI_Request request;
    MPI_Igather(w->rank == 0 ? MPI_IN_PLACE : records, (int)count, record, records, (int)count,
                record, 0, w->grid.dp_comm, &request);
    message_wait(w, &request);
    MPI_Type_free(&record);
}

// Collective over the stages of a pipeline: bytes (< 2^31) of the last stage are copied to the
// others.
static inline void last_stage_broadcast(World *w, void *data, size_t bytes) {
    if (w->grid.pp > 1) {
        MPI_Bcast(data, (int)bytes, MPI_BYTE, w->grid.pp - 1, w->grid.pp_comm);
    }
}

// Collective over all ranks: rank 0's bytes are copied to all others.
static inline void broadcast(void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i += MESSAGE_ELEMENTS) {
        MPI_Bcast((char *)data + i, message_length_(i, bytes), MPI_BYTE, 0, MPI_COMM_WORLD);
    }
}

// ------------------------------------------------------------------------------------------------
// Point-to-point messages

// Begins to send the residual stream x (n), n < 2^31, to the next stage (step = 1) or the previous
// one (step = -1); x must not change until message_wait(request).
static inline void stage_send(World *w, const float *x, size_t n, int step, MPI_Request *request) {
    MPI_Isend(x, (int)n, MPI_FLOAT, w->grid.stage + step, 0, w->grid.pp_comm, request);
}

// Waits for x (n) from the next stage (step = 1) or the previous one (step = -1).
static inline void stage_receive(World *w, float *x, size_t n, int step) {
    MPI_Request request;

    MPI_Irecv(x, (int)n, MPI_FLOAT, w->grid.stage + step, 0, w->grid.pp_comm, &request);
    message_wait(w, &request);
}

// Sends any number of bytes to a rank, which calls receive_bytes.
static inline void send_bytes(int to, const void *data, size_t bytes) {
    uint64_t size = bytes;

    MPI_Send(&size, 1, MPI_UINT64_T, to, 0, MPI_COMM_WORLD);
    for (size_t i = 0; i < bytes; i += MESSAGE_ELEMENTS) {
        MPI_Send((const char *)data + i, message_length_(i, bytes), MPI_BYTE, to, 0,
                 MPI_COMM_WORLD);
    }
}

// Receives what a rank sent by send_bytes, in a buffer that the caller frees; *bytes: its size.
// Ends all ranks if there is no memory for it.
static inline void *receive_bytes(int from, size_t *bytes) {
    uint64_t size;
    MPI_Recv(&size, 1, MPI_UINT64_T, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);

    char *data = malloc(size + 1);
    if (!data) {
        Error e;
        fail(&e, "no memory for %llu bytes from rank %d", (unsigned long long)size, from);
        world_abort(&e);
    }

    for (size_t i = 0; i < size; i += MESSAGE_ELEMENTS) {
        MPI_Recv(data + i, message_length_(i, size), MPI_BYTE, from, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    }
    *bytes = size;
    return data;
}

#endif
