// command.h: the report command.
#ifndef REPORT_COMMAND_H
#define REPORT_COMMAND_H

#include "mpi_utils.h"
#include "report/page.h"
#include "run/command_line.h"

// Collective: runs the command on rank 0, returns the exit status.
static inline int report_command(World *w, const Options *o) {
    Error e = {0};
    const char *out = o->out ? o->out : "report.html";
    if (!world_check(w, o->run.count > 0 || fail(&e, "report needs --run DIR..."), &e)) {
        return EXIT_USAGE;
    }
    bool ok = w->rank != 0 || report_page(o->run.items, o->run.count, out, &e);
    if (!world_check_root(w, ok, &e)) {
        return EXIT_FAILURE;
    }
    if (w->rank == 0) {
        printf("wrote %s\n", out);
    }
    return EXIT_SUCCESS;
}

#endif
