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

typedef struct {
    const char *path;
    uint64_t bytes; // about
    char hash[SHA256_HEX];
} HashedFile;

// Collective: the files get their SHA-256 on all ranks. On failure the line is printed.
static inline bool hash_files(World *world, HashedFile *files, size_t count) {
    Error e = {{0}};
    uint64_t *bytes = malloc((count + 1) * sizeof *bytes);
    bool *mine = malloc((count + 1) * sizeof *mine);
    char(*hashes)[SHA256_HEX] = calloc(count + 1, sizeof *hashes);
    bool ok = (bytes && mine && hashes) || fail(&e, "prepare: no memory to hash %zu files", count);
    for (size_t i = 0; ok && i < count; i++) {
        bytes[i] = files[i].bytes;
    }
    ok = world_check(world, ok && tasks_share(world, bytes, count, mine, &e), &e);
    if (ok) { // on all ranks
#pragma omp parallel for schedule(dynamic, 1)
        for (size_t i = 0; i < count; i++) {
            Error why;
            if (mine[i] && !sha256_file(files[i].path, hashes[i], &why)) {
#pragma omp critical
                e = why, ok = false;
            }
        }
        for (size_t i = 0; i < count; i += MESSAGE_ELEMENTS / SHA256_HEX) {
            size_t n = min_u64(count - i, MESSAGE_ELEMENTS / SHA256_HEX);
            MPI_Allreduce(MPI_IN_PLACE, hashes[i], (int)(n * SHA256_HEX), MPI_BYTE, MPI_BOR,
                          MPI_COMM_WORLD);
        }
        for (size_t i = 0; i < count; i++) {
            memcpy(files[i].hash, hashes[i], SHA256_HEX);
        }
        ok = world_check(world, ok, &e);
    }
    free(bytes);
    free(mine);
    free(hashes);
    return ok;
}

// Collective: the sources' hashes; each must still be what it was when the run began.
static inline bool hash_sources(SourceList *sources, World *world) {
    Error e = {{0}};
    HashedFile *files = calloc(sources->count + 1, sizeof *files);
    bool ok = files || fail(&e, "prepare: no memory to hash %zu files", sources->count);
    for (size_t i = 0; ok && i < sources->count; i++) {
        files[i].path = sources->items[i].path;
        files[i].bytes = sources->items[i].bytes;
    }
    ok = world_check(world, ok, &e) && hash_files(world, files, sources->count);

    if (ok) { // on all ranks
        for (size_t i = 0; ok && i < sources->count && world->rank == 0; i++) {
            memcpy(sources->items[i].hash, files[i].hash, SHA256_HEX);
            ok = source_unchanged(&sources->items[i], &e);
        }
        ok = world_check(world, ok, &e);
    }
    free(files);
    return ok;
}

#endif
