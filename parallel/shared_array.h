// shared_array.h: the DP ranks of one node, and arrays in memory that they share (MPI-3
// shared windows), so that a reduction within the node is loads and adds instead of messages.
#ifndef PARALLEL_SHARED_ARRAY_H
#define PARALLEL_SHARED_ARRAY_H

#include <mpi.h>
#include <sys/mman.h>

#include "mpi_utils.h"

// A DP rank and its peers: the DP ranks on its node.
typedef struct {
    MPI_Comm local_comm;  // the peers, this rank included
    MPI_Comm across_comm; // the ranks with this one's peer number, one on each node
    int peers, peer;      // ranks in local_comm, and this one's number among them
    int nodes, node;      // ranks in across_comm, and this one's number among them
} NodePeers;

// The peers in a run that is only planned: a world without communicators, whose ranks fill nodes of
// node_size in their order.
static inline void node_peers_plan_(NodePeers *n, const World *w) {
    int model_ranks = w->grid.tp * w->grid.pp, peers = w->node_size / model_ranks;

    peers = peers < w->grid.dp ? peers : w->grid.dp;
    if (peers > 1 && w->node_size % model_ranks == 0 && w->grid.dp % peers == 0) {
        n->peers = peers, n->peer = w->grid.dp_rank % peers;
        n->nodes = w->grid.dp / peers, n->node = w->grid.dp_rank / peers;
    }
}

// Collective over the DP ranks: finds the peers of each. Without `share`, or where nodes hold
// different numbers of DP ranks or one each, every DP rank counts as a node of its own.
static inline void node_peers_find(NodePeers *n, const World *w, bool share) {
    *n = (NodePeers){.local_comm = MPI_COMM_NULL, .across_comm = w->grid.dp_comm, .peers = 1};
    n->nodes = w->grid.dp, n->node = w->grid.dp_rank;
    if (w->grid.dp == 1 || !share) {
        return;
    }
    if (w->grid.dp_comm == MPI_COMM_NULL) {
        node_peers_plan_(n, w);
        return;
    }

    int peers, least, most;
    MPI_Comm_split_type(w->grid.dp_comm, MPI_COMM_TYPE_SHARED, w->grid.dp_rank, MPI_INFO_NULL,
                        &n->local_comm);
    MPI_Comm_size(n->local_comm, &peers);
    MPI_Allreduce(&peers, &least, 1, MPI_INT, MPI_MIN, w->grid.dp_comm);
    MPI_Allreduce(&peers, &most, 1, MPI_INT, MPI_MAX, w->grid.dp_comm);
    if (least == 1 || least < most) {
        MPI_Comm_free(&n->local_comm);
        n->local_comm = MPI_COMM_NULL;
        return;
    }

    n->peers = peers;
    MPI_Comm_rank(n->local_comm, &n->peer);
    MPI_Comm_split(w->grid.dp_comm, n->peer, w->grid.dp_rank, &n->across_comm);
    MPI_Comm_size(n->across_comm, &n->nodes);
    MPI_Comm_rank(n->across_comm, &n->node);
}

// Collective over the peers. Does nothing to a NodePeers that is all zero.
static inline void node_peers_free(NodePeers *n) {
    if (n->local_comm != MPI_COMM_NULL && n->peers > 1) {
        MPI_Comm_free(&n->local_comm);
        MPI_Comm_free(&n->across_comm);
    }
    *n = (NodePeers){0};
}

// An array of every peer, readable by all of them.
typedef struct {
    void *mine;
    void **of_peer; // (peers)
    size_t bytes;   // of each array
    MPI_Win window;
} SharedArray;

// Reserves addresses without memory, for arrays that are only planned: they must not be accessed.
// NULL if there are none left.
static inline void *addresses_reserve(size_t bytes) {
    void *data = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return data == MAP_FAILED ? NULL : data;
}

// Collective over the peers, of which there are at least two: an array of `bytes` for each, zero,
// on a page boundary. An error if there is no memory for it.
static inline bool shared_array_create(SharedArray *a, const NodePeers *n, size_t bytes, Error *e) {
    *a = (SharedArray){.of_peer = malloc((size_t)n->peers * sizeof *a->of_peer),
                       .bytes = bytes,
                       .window = MPI_WIN_NULL};

    if (n->local_comm == MPI_COMM_NULL) { // planned
        a->mine = addresses_reserve(bytes);
        return (a->of_peer && a->mine) ||
               fail(e, "no addresses for the shared arrays of %d ranks", n->peers);
    }

    // separate segments, so that the pages of each are placed where its owner's threads touch them
    MPI_Info info;
    MPI_Info_create(&info);
    MPI_Info_set(info, "alloc_shared_noncontig", "true");
    MPI_Win_allocate_shared((MPI_Aint)bytes, 1, info, n->local_comm, &a->mine, &a->window);
    MPI_Info_free(&info);

    for (int i = 0; a->of_peer && i < n->peers; i++) {
        MPI_Aint size;
        int unit;
        MPI_Win_shared_query(a->window, i, &size, &unit, &a->of_peer[i]);
    }
    return a->of_peer || fail(e, "no memory for the shared arrays of %d ranks", n->peers);
}

// Collective over the peers. Does nothing to an array that is all zero.
static inline void shared_array_free(SharedArray *a) {
    if (a->mine && a->window != MPI_WIN_NULL) {
        MPI_Win_free(&a->window);
    } else if (a->mine) {
        munmap(a->mine, a->bytes);
    }
    free(a->of_peer);
    *a = (SharedArray){0};
}

#endif
