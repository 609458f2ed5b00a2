// mpi_utils.h: the ranks of a run: start, collective error checks, reductions, and where ranks and threads lie.
//
// A failure on any rank ends all ranks: every rank reports its own state to world_check, so that all of them learn of
// the failure at the same place and leave through MPI_Finalize. Nobody waits for a rank that is gone.
#ifndef MPI_UTILS_H
#define MPI_UTILS_H

#include <dirent.h>
#include <mpi.h>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include "json.h"

typedef struct {
    int rank, size;           // in MPI_COMM_WORLD
    int node_rank, node_size; // among the ranks that share this host's memory
    MPI_Comm node;
    double comm_seconds; // spent in all_reduce and gather_records since it was last set to zero
} World;

// Starts MPI; only the main thread will call it (MPI_THREAD_FUNNELED). MPI's own errors end the program with its
// message.
static inline void world_init(World *w, int *argc, char ***argv) {
    int provided;
    *w = (World){0};
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &w->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w->size);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, w->rank, MPI_INFO_NULL, &w->node);
    MPI_Comm_rank(w->node, &w->node_rank);
    MPI_Comm_size(w->node, &w->node_size);
}

static inline void world_finalize(World *w) {
    MPI_Comm_free(&w->node);
    MPI_Finalize();
}

// Collective: every rank says whether its part went well. If one failed, the lowest such rank prints its line and false
// comes back on all ranks.
static inline bool world_check(World *w, bool ok, const Error *e) {
    int mine = ok ? w->size : w->rank, first;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first == w->rank) {
        fprintf(stderr, "train_gpt: %s\n", e->text);
    }
    return first == w->size;
}

// Collective: world_check of what rank 0 alone did.
static inline bool world_check_root(World *w, bool ok, const Error *e) {
    return world_check(w, ok || w->rank != 0, e);
}

// ---------------------------------------------------------------------------------------------------------------------
// Messages: MPI counts in int, so long arrays go in pieces of 2^28 elements

enum { MESSAGE_ELEMENTS = 1 << 28 };

// x (n) = sum over ranks, in place, the same bits on every rank.
static inline void all_reduce_floats(World *w, float *x, size_t n) {
    double start = MPI_Wtime();
    for (size_t i = 0; i < n && w->size > 1; i += MESSAGE_ELEMENTS) {
        int count = (int)(n - i < MESSAGE_ELEMENTS ? n - i : MESSAGE_ELEMENTS);
        MPI_Allreduce(MPI_IN_PLACE, x + i, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
    w->comm_seconds += MPI_Wtime() - start;
}

static inline double all_reduce_double(World *w, double x) {
    double start = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, &x, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    w->comm_seconds += MPI_Wtime() - start;
    return x;
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
        fprintf(stderr, "train_gpt: no memory for %llu bytes from rank %d\n", (unsigned long long)size, from);
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    for (size_t i = 0; i < size; i += MESSAGE_ELEMENTS) {
        int count = (int)(size - i < MESSAGE_ELEMENTS ? size - i : MESSAGE_ELEMENTS);
        MPI_Recv(data + i, count, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    *bytes = size;
    return data;
}

// Rank 0 gets all ranks' records of `bytes` each, `count` (< 2^31) from every rank, in the order of the ranks. On entry
// each rank's own stand at `records`, which on rank 0 has room for all.
static inline void gather_records(World *w, void *records, size_t count, int bytes) {
    double start = MPI_Wtime();
    MPI_Datatype record; // counted in records, as MPI counts in int
    MPI_Type_contiguous(bytes, MPI_BYTE, &record);
    MPI_Type_commit(&record);
    MPI_Gather(w->rank == 0 ? MPI_IN_PLACE : records, (int)count, record, records, (int)count, record, 0,
               MPI_COMM_WORLD);
    MPI_Type_free(&record);
    w->comm_seconds += MPI_Wtime() - start;
}

// ---------------------------------------------------------------------------------------------------------------------
// Placement: which cores and NUMA domains (on A64FX: CMGs) the ranks may run on. CPU numbers are never assumed: on
// Fugaku compute cores begin at 12 and NUMA nodes at 4, so everything comes from the affinity mask and from sysfs.

typedef struct {
    char host[64], cores[64], domains[32]; // lists as "0-3,8"
    int threads, domain_count;
    int shared; // threads of all ranks that may run on these cores, beyond the number of cores; 0 is good
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

// The NUMA domains that hold at least one of the cores, from /sys/devices/system/node/nodeN/cpuM. A system that does
// not say (a container without sysfs) counts as one domain, number 0.
static inline cpu_set_t numa_domains_of(const cpu_set_t *cores) {
    cpu_set_t domains;
    CPU_ZERO(&domains);
    for (int node = 0; node < CPU_SETSIZE; node++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d", node);
        DIR *directory = opendir(path);
        for (struct dirent *entry; directory && (entry = readdir(directory));) {
            int cpu;
            char rest;
            if (sscanf(entry->d_name, "cpu%d%c", &cpu, &rest) == 1 && cpu >= 0 && cpu < CPU_SETSIZE &&
                CPU_ISSET((size_t)cpu, cores)) {
                CPU_SET((size_t)node, &domains);
            }
        }
        if (directory) {
            closedir(directory);
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

// Collective. Without OMP_NUM_THREADS the ranks of a host divide the cores they share: OpenMP's own default would start
// as many threads as cores in each of them. Returns where this rank lies.
static inline Placement world_place(World *w) {
    Placement p = {0};
    cpu_set_t mine = allowed_cores(), domains = numa_domains_of(&mine);
    cpu_set_t *all = malloc((size_t)w->node_size * sizeof *all);
    int *threads = malloc((size_t)w->node_size * sizeof *threads);
    if (!all || !threads) {
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, w->node);
    if (!getenv("OMP_NUM_THREADS")) {
        int sharing = 0;
        for (int i = 0; i < w->node_size; i++) {
            sharing += CPU_EQUAL(&all[i], &mine) != 0;
        }
        omp_set_num_threads(CPU_COUNT(&mine) > sharing ? CPU_COUNT(&mine) / sharing : 1);
    }
    p.threads = omp_get_max_threads();
    MPI_Allgather(&p.threads, 1, MPI_INT, threads, 1, MPI_INT, w->node);
    cpu_set_t reach = mine;
    int wanted = 0;
    for (int i = 0; i < w->node_size; i++) {
        cpu_set_t both;
        CPU_AND(&both, &mine, &all[i]);
        if (CPU_COUNT(&both)) {
            CPU_OR(&reach, &reach, &all[i]);
            wanted += threads[i];
        }
    }
    p.shared = wanted > CPU_COUNT(&reach) ? wanted - CPU_COUNT(&reach) : 0;
    p.domain_count = CPU_COUNT(&domains);
    gethostname(p.host, sizeof p.host - 1);
    format_cpu_list(&mine, p.cores, sizeof p.cores);
    format_cpu_list(&domains, p.domains, sizeof p.domains);
    free(all);
    free(threads);
    return p;
}

// Collective: rank 0 prints where every rank lies (the first 16 of many) and warns of ranks that span two domains,
// whose memory is then partly remote, and of cores that more threads than one want.
static inline void world_print_placement(World *w, Placement mine, FILE *out) {
    Placement *all = w->rank == 0 ? malloc((size_t)w->size * sizeof *all) : NULL;
    if (w->rank == 0 && !all) {
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Gather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, 0, MPI_COMM_WORLD);
    if (w->rank != 0) {
        return;
    }
    int spanning = 0, first_spanning = 0, sharing = 0, first_sharing = 0;
    for (int r = w->size - 1; r >= 0; r--) {
        if (all[r].domain_count > 1) {
            spanning++, first_spanning = r;
        }
        if (all[r].shared > 0) {
            sharing++, first_sharing = r;
        }
    }
    for (int r = 0; r < w->size && r < 16; r++) {
        fprintf(out, "rank %d: host %s, NUMA domain %s, cores %s, %d thread%s\n", r, all[r].host, all[r].domains,
                all[r].cores, all[r].threads, all[r].threads == 1 ? "" : "s");
    }
    if (w->size > 16) {
        fprintf(out, "... and %d more ranks\n", w->size - 16);
    }
    if (spanning) {
        fprintf(out,
                "warning: %d rank%s, first rank %d, may run on more than one NUMA domain (%s): start one rank per "
                "domain and bind it (mpirun -bind-to numa)\n",
                spanning, spanning == 1 ? "" : "s", first_spanning, all[first_spanning].domains);
    }
    if (sharing) {
        fprintf(out,
                "warning: cores are shared: %d rank%s, first rank %d on cores %s, lie%s where threads outnumber "
                "cores by %d: use fewer ranks or a smaller OMP_NUM_THREADS\n",
                sharing, sharing == 1 ? "" : "s", first_sharing, all[first_sharing].cores, sharing == 1 ? "s" : "",
                all[first_sharing].shared);
    }
    free(all);
}

#endif
