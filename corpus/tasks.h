// tasks.h: work shared among the ranks by its size; hashing many files that way.
#ifndef CORPUS_TASKS_H
#define CORPUS_TASKS_H

#include "corpus/sources.h"
#include "mpi_utils.h"
#include "util/files.h"
#include "util/heap.h"

typedef struct {
    uint64_t bytes;
    size_t index;
} Task_;

static inline int task_compare_(const void *a, const void *b) {
    const Task_ *x = a, *y = b;
    if (x->bytes != y->bytes) {
        return x->bytes > y->bytes ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

// Shares tasks among the ranks: the largest first, each to the rank with the least to do (Graham
// 1969). Every rank computes the same. mine[i] says whether task i, of bytes[i], is this rank's.
static inline bool tasks_share(const World *w, const uint64_t *bytes, size_t count, bool *mine,
                               Error *e) {
    Task_ *tasks = malloc((count + 1) * sizeof *tasks);
    Heap ranks = {0}; // by bytes so far
    bool ok = tasks || fail(e, "prepare: no memory for %zu tasks", count);
    for (size_t i = 0; ok && i < count; i++) {
        tasks[i] = (Task_){bytes[i], i};
        mine[i] = false;
    }
    for (int r = 0; ok && r < w->size; r++) {
        ok = heap_push(&ranks, (HeapEntry){0, (uint64_t)r, (uint32_t)r}, e);
    }
    if (ok) {
        qsort(tasks, count, sizeof *tasks, task_compare_);
    }
    for (size_t i = 0; ok && i < count; i++) {
        HeapEntry rank = heap_pop(&ranks);
        mine[tasks[i].index] = (int)rank.item == w->rank;
        rank.major += tasks[i].bytes + 1;
        ok = heap_push(&ranks, rank, e);
    }
    free(ranks.entries);
    free(tasks);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Hashes, by all threads of all ranks

// Collective: hashes[i] gets the SHA-256 of paths[i], of about bytes[i], on all ranks. On failure
// the line is printed.
static inline bool hash_files(World *world, const char *const *paths, const uint64_t *bytes,
                              size_t count, char (*hashes)[SHA256_HEX]) {
    Error e = {{0}};
    bool *mine = calloc(count + 1, sizeof *mine),
         ok = mine || fail(&e, "prepare: no memory to hash %zu files", count);
    ok = ok && tasks_share(world, bytes, count, mine, &e);
    memset(hashes, 0, count * sizeof *hashes);
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < count; i++) {
        Error mine_e;
        if (ok && mine[i] && !sha256_file(paths[i], hashes[i], &mine_e)) {
#pragma omp critical
            {
                e = mine_e;
                ok = false;
            }
        }
    }
    free(mine);
    for (size_t i = 0; i < count; i += MESSAGE_ELEMENTS / SHA256_HEX) {
        size_t n = min_u64(count - i, MESSAGE_ELEMENTS / SHA256_HEX);
        MPI_Allreduce(MPI_IN_PLACE, hashes[i], (int)(n * SHA256_HEX), MPI_BYTE, MPI_BOR,
                      MPI_COMM_WORLD);
    }
    return world_check(world, ok, &e);
}

// Collective: the sources' hashes; each must still be what it was when the run began.
static inline bool hash_sources(SourceList *sources, World *world) {
    const size_t count = sources->count;
    Error e = {{0}};
    const char **paths = malloc((count + 1) * sizeof *paths);
    uint64_t *bytes = malloc((count + 1) * sizeof *bytes);
    char(*hashes)[SHA256_HEX] = malloc((count + 1) * sizeof *hashes);
    bool ok = (paths && bytes && hashes) || fail(&e, "prepare: no memory to hash %zu files", count);
    ok = world_check(world, ok, &e);
    for (size_t i = 0; ok && i < count; i++) {
        paths[i] = sources->items[i].path;
        bytes[i] = sources->items[i].bytes;
    }
    ok = ok && hash_files(world, paths, bytes, count, hashes);

    if (ok) { // on all ranks
        for (size_t i = 0; ok && i < count && world->rank == 0; i++) {
            memcpy(sources->items[i].hash, hashes[i], SHA256_HEX);
            ok = source_unchanged(&sources->items[i], &e);
        }
        ok = world_check(world, ok, &e);
    }
    free(paths);
    free(bytes);
    free(hashes);
    return ok;
}

#endif
