// command.h: the trace command, the public face of this folder.
#ifndef TRACE_COMMAND_H
#define TRACE_COMMAND_H

#include <signal.h>
#include <unistd.h>

#include "mpi_utils.h"
#include "run/command_line.h"
#include "trace/answers.h"

static inline bool check_trace_options_(const Options *o, Error *e) {
    int questions = (o->step > 0) + (o->doc != NULL) + (o->text != NULL);
    if (questions != 1) {
        return fail(e, "trace needs one of --step N, --doc ID and --text TEXT");
    }
    if (o->run.count > 1 || (o->run.count == 0 && (!o->text || o->data.count == 0))) {
        return fail(e, "trace needs --run DIR%s",
                    o->text ? ", or --data DIR to search data without a run" : "");
    }
    return o->row == UINT64_MAX || o->step || fail(e, "--row needs --step");
}

// A file that trace has mapped may be truncated while it is read: then the process ends with one
// line.
static inline void trace_on_bus_error_(int signal) {
    static const char line[] = "train_gpt: a file was truncated while it was read\n";
    (void)signal;
    ssize_t written = write(STDERR_FILENO, line, sizeof line - 1);
    (void)written;
    _exit(EXIT_FAILURE);
}

// Collective: runs the command on rank 0, returns the exit status.
static inline int trace_command(World *w, const Options *o) {
    Error e = {0};
    if (!world_check(w, check_trace_options_(o, &e), &e)) {
        return EXIT_USAGE;
    }
    signal(SIGBUS, trace_on_bus_error_);
    bool ok = w->rank != 0 || trace_answer(o, &e);
    return world_check_root(w, ok, &e) ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
