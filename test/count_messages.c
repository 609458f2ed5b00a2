// count_messages.c: a preloaded library (LD_PRELOAD) for test_plan.py that counts the messages of
// floats, BF16 numbers and bytes that a program sends through MPI. Each rank writes a file to the
// folder COUNT_MESSAGES, with a line "FUNCTION CALLS BYTES" for each MPI function.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { ALLREDUCE, ALLGATHER, ALLGATHERV, ALLTOALLV, REDUCE_SCATTER, SEND, CALLS };
static const char *const names[CALLS] = {"MPI_Iallreduce", "MPI_Iallgather",      "MPI_Iallgatherv",
                                         "MPI_Ialltoallv", "MPI_Ireduce_scatter", "MPI_Isend"};
static long calls[CALLS], bytes[CALLS];

static void count(int call, long elements, MPI_Datatype type, MPI_Comm comm) {
    int size, ranks;
    PMPI_Type_size(type, &size);
    PMPI_Comm_size(comm, &ranks);
    if (ranks > 1 && (type == MPI_FLOAT || type == MPI_BYTE || type == MPI_UINT16_T)) {
        calls[call]++;
        bytes[call] += elements * size;
    }
}

static long sum(const int counts[], MPI_Comm comm) {
    int ranks;
    long total = 0;
    PMPI_Comm_size(comm, &ranks);
    for (int i = 0; i < ranks; i++) {
        total += counts[i];
    }
    return total;
}

int MPI_Iallreduce(const void *from, void *to, int n, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                   MPI_Request *r) {
    count(ALLREDUCE, n, type, comm);
    return PMPI_Iallreduce(from, to, n, type, op, comm, r);
}

int MPI_Iallgather(const void *from, int m, MPI_Datatype from_type, void *to, int n,
                   MPI_Datatype type, MPI_Comm comm, MPI_Request *r) {
    int ranks;
    PMPI_Comm_size(comm, &ranks);
    count(ALLGATHER, (long)n * ranks, type, comm);
    return PMPI_Iallgather(from, m, from_type, to, n, type, comm, r);
}

int MPI_Iallgatherv(const void *from, int m, MPI_Datatype from_type, void *to, const int counts[],
                    const int offsets[], MPI_Datatype type, MPI_Comm comm, MPI_Request *r) {
    count(ALLGATHERV, sum(counts, comm), type, comm);
    return PMPI_Iallgatherv(from, m, from_type, to, counts, offsets, type, comm, r);
}

int MPI_Ialltoallv(const void *from, const int sent[], const int sent_offsets[],
                   MPI_Datatype sent_type, void *to, const int counts[], const int offsets[],
                   MPI_Datatype type, MPI_Comm comm, MPI_Request *r) {
    count(ALLTOALLV, sum(sent, comm), sent_type, comm);
    return PMPI_Ialltoallv(from, sent, sent_offsets, sent_type, to, counts, offsets, type, comm, r);
}

int MPI_Ireduce_scatter(const void *from, void *to, const int counts[], MPI_Datatype type,
                        MPI_Op op, MPI_Comm comm, MPI_Request *r) {
    count(REDUCE_SCATTER, sum(counts, comm), type, comm);
    return PMPI_Ireduce_scatter(from, to, counts, type, op, comm, r);
}

int MPI_Isend(const void *from, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request *r) {
    count(SEND, n, type, comm);
    return PMPI_Isend(from, n, type, to, tag, comm, r);
}

int MPI_Finalize(void) {
    char path[4096];
    int rank;
    PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    snprintf(path, sizeof path, "%s/%d", getenv("COUNT_MESSAGES"), rank);
    FILE *file = fopen(path, "w");
    for (int i = 0; file && i < CALLS; i++) {
        fprintf(file, "%s %ld %ld\n", names[i], calls[i], bytes[i]);
    }
    if (file) {
        fclose(file);
    }
    return PMPI_Finalize();
}
