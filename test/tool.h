// tool.h: what the small programs that drive the tokenizers for the tests have in common.
#ifndef TOOL_H
#define TOOL_H

#include <time.h>

#include "util/json.h"

static inline int stop(const Error *e) {
    fprintf(stderr, "%s\n", e->text);
    return 1;
}

static inline double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline char *read_stdin(size_t *length) {
    size_t capacity = 1 << 16, n;
    char *data = malloc(capacity);
    *length = 0;
    while (data && (n = fread(data + *length, 1, capacity - *length, stdin)) > 0) {
        *length += n;
        if (*length == capacity) {
            data = realloc(data, capacity *= 2);
        }
    }
    if (!data) {
        abort();
    }
    return data;
}

#endif
