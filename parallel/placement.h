// placement.h: which cores and NUMA domains (on A64FX: CMGs) the ranks and their threads
// run on. CPU numbers are never assumed: on Fugaku compute cores begin at 12 and NUMA domains at 4,
// so everything comes from affinity masks and from sysfs.
#ifndef PARALLEL_PLACEMENT_H
#define PARALLEL_PLACEMENT_H

#include <dirent.h>
#include <mpi.h>
#include <omp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mpi_utils.h"
#include "util/array.h" // defines: min_u64

// Where a rank runs.
typedef struct {
    char host[64], cores[64], domains[32]; // lists as "0-3,8"
    char binding[32];                      // who chose the cores
    int threads;
    int pinned;         // threads that have a core of their own
    int excess_threads; // threads of all ranks that may run on these cores, beyond the number of
                        // cores; 0: not oversubscribed
    int domain_count;
    cpu_set_t domain_set;
    int remote_percent; // of the model's memory, outside these domains
} Placement;

// ------------------------------------------------------------------------------------------------
// Cores and NUMA domains

// Writes the set bits as "0-3,8", truncated with "..." if they do not fit.
static inline void cpu_list_format_(const cpu_set_t *set, char *text, size_t size) {
    size_t used = 0;

    text[0] = 0;
    for (size_t i = 0, end; i < CPU_SETSIZE; i = end + 1) {
        end = i;
        if (!CPU_ISSET(i, set)) {
            continue;
        }
        while (end + 1 < CPU_SETSIZE && CPU_ISSET(end + 1, set)) {
            end++;
        }

        char range[48];
        snprintf(range, sizeof range, end > i ? "%s%zu-%zu" : "%s%zu", used ? "," : "", i, end);
        if (used + strlen(range) + sizeof "..." > size) {
            strcpy(text + used, "...");
            return;
        }
        strcpy(text + used, range);
        used += strlen(range);
    }
}

// The cores of a NUMA domain, from /sys/devices/system/node/nodeN/cpuM; none if there is no such
// domain.
static inline cpu_set_t domain_cores_(size_t domain) {
    cpu_set_t cores;
    char path[64];

    CPU_ZERO(&cores);
    snprintf(path, sizeof path, "/sys/devices/system/node/node%zu", domain);
    DIR *directory = opendir(path);
    if (!directory) {
        return cores;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        size_t cpu;
        char rest;
        if (sscanf(entry->d_name, "cpu%zu%c", &cpu, &rest) == 1 && cpu < CPU_SETSIZE) {
            CPU_SET(cpu, &cores);
        }
    }
    closedir(directory);
    return cores;
}

// The NUMA domains that hold at least one of the cores. A system that does not say (a container
// without sysfs) counts as one domain, number 0.
static inline cpu_set_t domains_of_cores_(const cpu_set_t *cores) {
    cpu_set_t domains;

    CPU_ZERO(&domains);
    for (size_t domain = 0; domain < CPU_SETSIZE; domain++) {
        cpu_set_t both = domain_cores_(domain);
        CPU_AND(&both, &both, cores);
        if (CPU_COUNT(&both)) {
            CPU_SET(domain, &domains);
        }
    }
    if (CPU_COUNT(&domains) == 0) {
        CPU_SET(0, &domains);
    }
    return domains;
}

// Lists the cores of a set ordered by NUMA domain. cores: room for CPU_SETSIZE. Returns how many.
static inline int cores_by_domain_(const cpu_set_t *set, size_t *cores) {
    cpu_set_t left = *set;
    int count = 0;

    for (size_t domain = 0; domain <= CPU_SETSIZE && CPU_COUNT(&left); domain++) {
        cpu_set_t here = left; // after the last domain: cores that belong to none
        if (domain < CPU_SETSIZE) {
            here = domain_cores_(domain);
            CPU_AND(&here, &here, &left);
        }
        CPU_XOR(&left, &left, &here);

        for (size_t i = 0; i < CPU_SETSIZE; i++) {
            if (CPU_ISSET(i, &here)) {
                cores[count++] = i;
            }
        }
    }
    return count;
}

// The cores this thread may run on. If the system does not say: all that are online, from 0.
static inline cpu_set_t allowed_cores_(void) {
    cpu_set_t cores;

    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof cores, &cores) || CPU_COUNT(&cores) == 0) {
        size_t online = (size_t)sysconf(_SC_NPROCESSORS_ONLN);
        for (size_t i = 0; i < online && i < CPU_SETSIZE; i++) {
            CPU_SET(i, &cores);
        }
    }
    return cores;
}

// The union of the cores that the threads may run on; *pinned: threads that are bound to one core.
static inline cpu_set_t cores_of_threads_(int *pinned) {
    cpu_set_t all;
    int single = 0;

    CPU_ZERO(&all);
#pragma omp parallel
    {
        cpu_set_t mine = allowed_cores_();
#pragma omp critical
        {
            CPU_OR(&all, &all, &mine);
            single += CPU_COUNT(&mine) == 1;
        }
    }
    *pinned = single;
    return all;
}

// ------------------------------------------------------------------------------------------------
// Binding

// The launcher, recognised by a variable that it sets in each process; NULL if none is known.
static inline const char *launcher_name_(void) {
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

// Binds each thread to one of cores[0 .. threads). Later parallel regions must use these threads.
static inline void pin_threads_(const size_t *cores) {
#pragma omp parallel
    {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cores[omp_get_thread_num()], &one);
        sched_setaffinity(0, sizeof one, &one); // if refused, Placement.pinned shows it
    }
}

// Chooses cores for this rank where nobody has. `sharing` ranks of this node, of which this is
// number `index`, have the same affinity mask, `mine`. If their threads fill the cores, each thread
// is bound to one, in the order of ranks and domains. If there are fewer threads, others may be
// using the machine too: then each rank is only kept to its share of the domains, where there are
// several. Memory follows, as it is first touched later. False if nothing was bound.
static inline bool choose_cores_(const cpu_set_t *mine, int sharing, int index, int threads) {
    size_t cores[CPU_SETSIZE];
    int count = cores_by_domain_(mine, cores);

    if (threads * sharing == count) {
        pin_threads_(cores + index * threads);
        return true;
    }

    cpu_set_t domains = domains_of_cores_(mine), share;
    if (threads * sharing > count || sharing == 1 || CPU_COUNT(&domains) == 1) {
        return false;
    }
    CPU_ZERO(&share);
    for (int i = index * count / sharing; i < (index + 1) * count / sharing; i++) {
        CPU_SET(cores[i], &share);
    }
    return !sched_setaffinity(0, sizeof share, &share); // threads start later and inherit it
}

// Threads of all ranks of this node that may run on the cores of this rank, beyond their number; 0
// if there are enough cores. masks, threads: (node_size).
static inline int excess_threads_(const World *w, const cpu_set_t *masks, const int *threads) {
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

static inline void *placement_allocate_(int count, size_t size) {
    void *data = malloc((size_t)count * size);

    if (!data) {
        Error e;
        fail(&e, "no memory for the placement of %d ranks", count);
        world_abort(&e);
    }
    return data;
}

// Collective over all ranks, before the first parallel region and before large memory is touched:
// settles which cores this rank and its threads use, and returns it. A binding by the launcher or
// by OpenMP (OMP_PROC_BIND, OMP_PLACES) stays; without one, and if `bind`, choose_cores_ makes one.
// Without OMP_NUM_THREADS the ranks of a node divide the cores that they share: OpenMP's own
// default would start as many threads as there are cores in each rank.
static inline Placement placement_bind(World *w, bool bind) {
    Placement p = {0};
    cpu_set_t mine = allowed_cores_();
    cpu_set_t *masks = placement_allocate_(w->node_size, sizeof *masks);
    int *threads = placement_allocate_(w->node_size, sizeof *threads);

    // the ranks of this node with the same affinity mask
    int sharing = 0, index = 0;
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, masks, sizeof mine, MPI_BYTE, w->node_comm);
    for (int i = 0; i < w->node_size; i++) {
        index = i == w->node_rank ? sharing : index;
        sharing += CPU_EQUAL(&masks[i], &mine) != 0;
    }

    // with a binding by OpenMP, `mine` is the place of the main thread only
    bool openmp_binds = omp_get_proc_bind() != omp_proc_bind_false;
    if (!getenv("OMP_NUM_THREADS") && !openmp_binds) {
        omp_set_num_threads(CPU_COUNT(&mine) > sharing ? CPU_COUNT(&mine) / sharing : 1);
    }
    p.threads = omp_get_max_threads();
    MPI_Allgather(&p.threads, 1, MPI_INT, threads, 1, MPI_INT, w->node_comm);

    int alike = 0; // of the ranks with the same mask: those with as many threads
    for (int i = 0; i < w->node_size; i++) {
        alike += CPU_EQUAL(&masks[i], &mine) && threads[i] == p.threads;
    }
    bool restricted = sharing < w->node_size || CPU_COUNT(&mine) < sysconf(_SC_NPROCESSORS_ONLN);
    bool chosen = bind && !openmp_binds && alike == sharing &&
                  choose_cores_(&mine, sharing, index, p.threads);

    const char *binder = NULL;
    if (openmp_binds) {
        binder = "OpenMP";
    } else if (chosen && (sharing > 1 || !restricted)) {
        binder = "train_gpt";
    } else if (restricted) {
        binder = launcher_name_() ? launcher_name_() : "the environment";
    }
    snprintf(p.binding, sizeof p.binding, "%s%s", binder ? "bound by " : "not bound",
             binder ? binder : "");

    // what came of it
    mine = cores_of_threads_(&p.pinned);
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, masks, sizeof mine, MPI_BYTE, w->node_comm);
    p.excess_threads = excess_threads_(w, masks, threads);
    p.domain_set = domains_of_cores_(&mine);
    p.domain_count = CPU_COUNT(&p.domain_set);
    gethostname(p.host, sizeof p.host - 1);
    cpu_list_format_(&mine, p.cores, sizeof p.cores);
    cpu_list_format_(&p.domain_set, p.domains, sizeof p.domains);
    free(masks);
    free(threads);
    return p;
}

// Samples up to 256 pages of an array that have been touched: sets p->remote_percent to the
// percentage of them outside the rank's NUMA domains, 0 if the system does not say (move_pages
// without a target only asks).
static inline void placement_sample_memory(Placement *p, const void *data, size_t bytes) {
    enum { SAMPLE = 256 };
    void *pages[SAMPLE];
    int domain[SAMPLE];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), all = bytes / page;
    size_t count = min_u64(all, SAMPLE);

    p->remote_percent = 0;
    for (size_t i = 0; i < count; i++) {
        pages[i] = (void *)(((uintptr_t)data + i * (all / count) * page) / page * page);
    }
    if (count == 0 || syscall(SYS_move_pages, 0, count, pages, NULL, domain, 0)) {
        return;
    }

    int touched = 0, remote = 0;
    for (size_t i = 0; i < count; i++) {
        bool known = domain[i] >= 0;
        touched += known;
        remote += known && domain[i] < CPU_SETSIZE && !CPU_ISSET((size_t)domain[i], &p->domain_set);
    }
    p->remote_percent = touched ? 100 * remote / touched : 0;
}

// ------------------------------------------------------------------------------------------------
// Printing

static inline void placement_print_rank_(const Placement *p, int rank, FILE *out) {
    fprintf(out, "rank %d: host %s, NUMA domain %s, cores %s (%s), %d thread%s%s\n", rank, p->host,
            p->domains, p->cores, p->binding, p->threads, p->threads == 1 ? "" : "s",
            p->threads > 1 && p->pinned == p->threads ? ", one per core" : "");
}

// Ranks with a problem: how many, and the lowest.
typedef struct {
    int count, first;
} AffectedRanks_;

static inline void affected_add_(AffectedRanks_ *a, int rank) {
    a->first = a->count++ ? a->first : rank;
}

// all: (w->size), the placement of each rank.
static inline void placement_print_warnings_(const World *w, const Placement *all, FILE *out) {
    AffectedRanks_ spanning = {0}, excess = {0}, remote = {0};
    bool tp_spans_nodes = false;

    for (int r = 0; r < w->size; r++) {
        if (all[r].domain_count > 1) {
            affected_add_(&spanning, r);
        }
        if (all[r].excess_threads > 0) {
            affected_add_(&excess, r);
        }
        if (all[r].remote_percent > 0) {
            affected_add_(&remote, r);
        }
        tp_spans_nodes |= r % w->grid.tp > 0 && strcmp(all[r].host, all[r - 1].host);
    }

    if (spanning.count) {
        fprintf(out,
                "warning: %d rank%s, first rank %d, may run on more than one NUMA domain (%s): "
                "start one rank per domain and bind it (mpirun -bind-to numa)\n",
                spanning.count, spanning.count == 1 ? "" : "s", spanning.first,
                all[spanning.first].domains);
    }
    if (excess.count) {
        fprintf(out,
                "warning: cores are oversubscribed: %d rank%s, first rank %d on cores %s with %d "
                "more threads than cores: use fewer ranks or a smaller OMP_NUM_THREADS, or bind "
                "ranks to separate cores (mpirun -bind-to numa)\n",
                excess.count, excess.count == 1 ? "" : "s", excess.first, all[excess.first].cores,
                all[excess.first].excess_threads);
    }
    if (remote.count) {
        fprintf(out,
                "warning: memory is on remote NUMA domains: %d rank%s, first rank %d with %d %% of "
                "sampled pages outside NUMA domain %s: check the launcher's memory policy and the "
                "free memory of that domain\n",
                remote.count, remote.count == 1 ? "" : "s", remote.first,
                all[remote.first].remote_percent, all[remote.first].domains);
    }
    if (tp_spans_nodes && w->grid.tp <= w->node_size) {
        fprintf(out,
                "warning: tensor-parallel groups (--tp %d) span nodes although a node holds %d "
                "ranks: place consecutive ranks on the same node, or use scripts/rank_map.py\n",
                w->grid.tp, w->node_size);
    }
}

// Collective over all ranks: rank 0 prints where every rank runs (the first 16 of many) and warns
// of ranks that span NUMA domains, of oversubscribed cores, of remote memory, and of
// tensor-parallel groups that span nodes although they would fit on one.
static inline void placement_print(World *w, Placement mine, FILE *out) {
    enum { PRINTED_RANKS = 16 };
    Placement *all = w->rank == 0 ? placement_allocate_(w->size, sizeof *all) : NULL;

    MPI_Gather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, 0, MPI_COMM_WORLD);
    if (w->rank != 0) {
        return;
    }

    for (int r = 0; r < w->size && r < PRINTED_RANKS; r++) {
        placement_print_rank_(&all[r], r, out);
    }
    if (w->size > PRINTED_RANKS) {
        fprintf(out, "... and %d more ranks\n", w->size - PRINTED_RANKS);
    }
    placement_print_warnings_(w, all, out);
    free(all);
}

#endif
