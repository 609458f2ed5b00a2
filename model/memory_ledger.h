// memory_ledger.h: the owner of all large arrays of a run. A planned ledger hands out addresses
// that must not be accessed: the very code that allocates a run then counts what it would take and
// takes nothing, so that a memory plan cannot drift from the code.
#ifndef MODEL_MEMORY_LEDGER_H
#define MODEL_MEMORY_LEDGER_H

#include <sys/mman.h>

#include "parallel/shared_array.h" // defines: addresses_reserve
#include "util/array.h"
#include "util/memory.h"

typedef struct {
    const char *name; // its kind; several may have the same
    size_t bytes;
    void *data; // NULL: only counted, something else holds it
} LedgerItem;

typedef struct {
    LedgerItem *items;
    size_t count, capacity;
    bool planned;
} MemoryLedger;

// Counts memory that something else holds, or that `data` points to.
static inline bool ledger_note(MemoryLedger *m, const char *name, size_t bytes, void *data,
                               Error *e) {
    if (!array_reserve(&m->items, &m->capacity, m->count, 1, sizeof *m->items, e)) {
        return false;
    }
    m->items[m->count++] = (LedgerItem){name, bytes, data};
    return true;
}

// An array of n floats, zero, that lives until ledger_free; NULL if there is not enough memory.
static inline float *ledger_floats(MemoryLedger *m, const char *name, size_t n, Error *e) {
    void *data = NULL;
    n = n > 0 ? n : 1;
    if (n < SIZE_MAX / 8) {
        data = m->planned ? addresses_reserve(allocated_bytes(n)) : (void *)allocate_floats(n);
    }
    if (!data) {
        fail(e, "no memory for %.2f MiB of %s: choose a smaller model or a smaller --micro-batch",
             (double)n * sizeof(float) / 0x1p20, name);
    } else if (!ledger_note(m, name, allocated_bytes(n), data, e)) {
        m->planned ? (void)munmap(data, allocated_bytes(n)) : free(data);
        data = NULL;
    }
    return data;
}

// The same in bytes.
static inline void *ledger_bytes(MemoryLedger *m, const char *name, size_t bytes, Error *e) {
    return ledger_floats(m, name, bytes / sizeof(float) + 1, e);
}

static inline void ledger_free(MemoryLedger *m) {
    for (size_t i = 0; i < m->count; i++) {
        if (m->items[i].data) {
            m->planned ? (void)munmap(m->items[i].data, m->items[i].bytes) : free(m->items[i].data);
        }
    }
    free(m->items);
    *m = (MemoryLedger){.planned = m->planned};
}

static inline size_t ledger_total(const MemoryLedger *m) {
    size_t bytes = 0;
    for (size_t i = 0; i < m->count; i++) {
        bytes += m->items[i].bytes;
    }
    return bytes;
}

// Sums up the items of each name, in the order of their first ones. The arrays stay with `m`.
static inline bool ledger_by_kind(const MemoryLedger *m, MemoryLedger *kinds, Error *e) {
    *kinds = (MemoryLedger){0};
    for (size_t i = 0; i < m->count; i++) {
        size_t j = 0;
        while (j < kinds->count && strcmp(kinds->items[j].name, m->items[i].name)) {
            j++;
        }
        if (j < kinds->count) {
            kinds->items[j].bytes += m->items[i].bytes;
        } else if (!ledger_note(kinds, m->items[i].name, m->items[i].bytes, NULL, e)) {
            return false;
        }
    }
    return true;
}

// Bytes of a line "Name:   123 kB" of /proc/self/status: "VmHWM" is the peak of this process,
// "VmRSS" what it has now. 0 if the system does not say.
static inline size_t process_memory(const char *name) {
    char line[256];
    size_t length = strlen(name);
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");

    while (file && fgets(line, sizeof line, file)) {
        if (!strncmp(line, name, length) && line[length] == ':') {
            sscanf(line + length + 1, "%llu", &kib);
        }
    }
    if (file) {
        fclose(file);
    }
    return (size_t)kib << 10;
}

#endif
