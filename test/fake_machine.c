// fake_machine.c: a preloaded library (LD_PRELOAD) that simulates a machine for test_placement.py.
// It answers the program's own system calls about cores and NUMA domains; libraries (MPI, hwloc)
// see the real machine. Affinity masks are per thread, as on Linux.
//
//   FAKE_CORES=12-59      the cores that a rank may run on
//   FAKE_CORES_RANK1=...  the same for rank 1 only
//   FAKE_SYSFS=DIR        replaces /sys/devices/system/node
//   FAKE_MEMORY=4         the NUMA domain of all memory; if not set, the domain is unknown
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static cpu_set_t process_mask; // of the main thread; new threads inherit it
static int have_process_mask;
static _Thread_local cpu_set_t mask;
static _Thread_local int have_mask;

#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

// Whether the return address is in the program itself, not in a library.
static int called_by_program(void *address) {
    Dl_info info;
    return dladdr(address, &info) && info.dli_fname && strstr(info.dli_fname, "train_gpt") &&
           !strstr(info.dli_fname, ".so");
}

static void read_mask(void) {
    char name[64];
    const char *rank = getenv("PMI_RANK"), *text;
    int first, last;
    snprintf(name, sizeof name, "FAKE_CORES_RANK%s", rank ? rank : "0");
    text = getenv(name) ? getenv(name) : getenv("FAKE_CORES");
    CPU_ZERO(&process_mask);
    if (text && sscanf(text, "%d-%d", &first, &last) == 2) {
        for (int i = first; i <= last; i++) {
            CPU_SET((size_t)i, &process_mask);
        }
    }
    have_process_mask = 1;
}

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    if (!called_by_program(__builtin_return_address(0))) {
        return REAL(sched_getaffinity)(pid, size, set);
    }
    if (!have_process_mask) {
        read_mask();
    }
    memcpy(set, have_mask ? &mask : &process_mask, size < sizeof mask ? size : sizeof mask);
    return 0;
}

int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *set) {
    if (!called_by_program(__builtin_return_address(0))) {
        return REAL(sched_setaffinity)(pid, size, set);
    }
    memcpy(&mask, set, size < sizeof mask ? size : sizeof mask);
    have_mask = 1;
    if (gettid() == getpid()) {
        process_mask = mask;
        have_process_mask = 1;
    }
    return 0;
}

DIR *opendir(const char *path) {
    const char *nodes = "/sys/devices/system/node/", *folder = getenv("FAKE_SYSFS");
    char other[512];
    if (folder && called_by_program(__builtin_return_address(0)) &&
        !strncmp(path, nodes, strlen(nodes))) {
        snprintf(other, sizeof other, "%s/%s", folder, path + strlen(nodes));
        path = other;
    }
    return REAL(opendir)(path);
}

long syscall(long number, ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) {
        a[i] = va_arg(list, long);
    }
    va_end(list);
    if (number == SYS_move_pages) {
        for (long i = 0; i < a[1]; i++) {
            ((int *)a[4])[i] = getenv("FAKE_MEMORY") ? atoi(getenv("FAKE_MEMORY")) : -ENOENT;
        }
        return 0;
    }
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
