// progress.h: how far the ranks are in a pass. They add this up about once a second without waiting
// for each other, tell people, and so learn when all have finished or one has failed.
#ifndef CORPUS_PROGRESS_H
#define CORPUS_PROGRESS_H

#include <assert.h>

#include "mpi_utils.h"
#include "util/clock.h"
#include "util/status_line.h"

// Sums over the ranks.
typedef struct {
    uint64_t source_bytes, text_bytes, documents, finished, failed;
} ProgressCounts;

enum { PROGRESS_COUNTS = sizeof(ProgressCounts) / sizeof(uint64_t) };

typedef struct {
    const World *world;
    FILE *out; // for people, on rank 0: standard output; NULL: silent
    const char *title;
    uint64_t total_bytes;   // of all sources
    uint64_t resumed_bytes; // of the units that an interrupted run has completed

    ProgressCounts mine, all;
    bool over; // all ranks have finished, or one has failed

    MPI_Request request; // of the sum that is under way
    ProgressCounts sent;
    bool under_way;
    double began, summed, shown; // times in seconds
} Progress;

// Between two lines that stay.
enum { PROGRESS_SECONDS = 10 };

// Collective. The caller sets world, out, title and the two numbers of bytes; the rest is zero.
static inline void progress_begin(Progress *p) {
    p->began = p->summed = p->shown = seconds_now();
}

// Rank 0: says how far the pass is: in a line that stays when it is over and every few seconds, on
// a terminal in its status line too.
static inline void progress_show_(Progress *p, double now) {
    const double seconds = now - p->began + 1e-9, total = (double)p->total_bytes + 1e-9;
    const double done = (double)(p->resumed_bytes + p->all.source_bytes);
    const double text = (double)p->all.text_bytes / 1e6; // MB
    const double share = p->over || done >= total ? 1 : done / total;
    char line[256], left[64] = "";
    if (!p->over && p->all.source_bytes > 0) {
        double rest = (total - done) / ((double)p->all.source_bytes / seconds + 1e-9);
        snprintf(left, sizeof left, ", %.0f s left", rest < 0 ? 0 : rest);
    }
    snprintf(line, sizeof line,
             "%s: %.0f %% of %.1f MB, %.1f MB of text, %.1f MB/s, %llu documents%s", p->title,
             100 * share, total / 1e6, text, text / seconds, (unsigned long long)p->all.documents,
             left);

    status_line_clear();
    if (p->over || now - p->shown >= PROGRESS_SECONDS) {
        fprintf(p->out, "%s\n", line);
        fflush(p->out);
        p->shown = now;
    }
    if (!p->over) {
        status_line_show("%s", line);
    }
}

// Every rank calls this often. Nobody waits in here.
static inline void progress_poll(Progress *p) {
    double now = seconds_now();
    int arrived = 0;
    if (p->over) {
        return;
    }
    if (!p->under_way && (p->mine.finished || p->mine.failed || now - p->summed >= 1)) {
        static_assert(sizeof(ProgressCounts) == PROGRESS_COUNTS * sizeof(uint64_t),
                      "ProgressCounts holds numbers only");
        p->sent = p->mine;
        MPI_Iallreduce(&p->sent, &p->all, PROGRESS_COUNTS, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD,
                       &p->request);
        p->under_way = true;
    }
    if (p->under_way) {
        MPI_Test(&p->request, &arrived, MPI_STATUS_IGNORE);
    }
    if (!arrived) {
        return;
    }

    p->under_way = false;
    p->over = p->all.failed || p->all.finished == (uint64_t)p->world->size;
    p->summed = now;
    if (p->out && p->world->rank == 0) {
        p->all.failed ? status_line_clear() : progress_show_(p, now);
    }
}

// Says that this rank has nothing more to do and waits until the pass is over. `ok`: whether all
// went well here.
static inline void progress_finish(Progress *p, bool ok) {
    p->mine.finished = 1;
    p->mine.failed = !ok;
    while (!p->over) {
        progress_poll(p);
        if (!p->over) {
            usleep(200);
        }
    }
}

#endif
