// page.h: the report page, `train_gpt report`: one HTML file about one or more runs, with charts
// and tables. It needs no network, no server and no script, and is well-formed XML.
#ifndef REPORT_PAGE_H
#define REPORT_PAGE_H

#include <stddef.h>

#include "report/page_style.h"
#include "report/page_tables.h"

// ------------------------------------------------------------------------------------------------
// Names of runs and datasets

// Last component of a path; for a shard in a prepared folder, the folder's name. The caller frees
// it; NULL if there is no memory.
static inline char *short_name_(const char *path) {
    char *name = strdup(path), *slash;
    if (!name) {
        return NULL;
    }
    cut_ending(name, "/train.bin");
    cut_ending(name, "/val.bin");
    for (size_t length = strlen(name); length > 1 && name[length - 1] == '/'; length--) {
        name[length - 1] = 0;
    }
    slash = strrchr(name, '/');
    if (slash && slash[1]) {
        memmove(name, slash + 1, strlen(slash));
    }
    return name;
}

static inline void free_strings(char **strings, size_t count) {
    for (size_t i = 0; strings && i < count; i++) {
        free(strings[i]);
    }
    free(strings);
}

// Short names of `count` paths; in full where the short name would be ambiguous. free_strings
// releases them; NULL if there is no memory.
static inline char **short_names(const char *const *paths, size_t count) {
    char **names = calloc(count + 1, sizeof *names);
    bool *twice = calloc(count + 1, sizeof *twice);
    bool ok = names && twice;
    for (size_t i = 0; i < count && ok; i++) {
        ok = (names[i] = short_name_(paths[i])) != NULL;
    }
    for (size_t i = 0; i < count && ok; i++) {
        for (size_t j = 0; j < count && !twice[i]; j++) {
            twice[i] = i != j && !strcmp(names[i], names[j]);
        }
    }
    for (size_t i = 0; i < count && ok; i++) {
        if (twice[i]) {
            free(names[i]);
            ok = (names[i] = strdup(paths[i])) != NULL;
        }
    }
    free(twice);
    if (!ok) {
        free_strings(names, count);
        return NULL;
    }
    return names;
}

// ------------------------------------------------------------------------------------------------
// Charts

// A chart with one curve per run. `which` is the curve's offset in RunLog; `marks` adds restarts
// and skipped steps.
typedef struct {
    Chart chart;
    size_t which;
    bool smooth, marks;
} RunChart_;

// clang-format off
static const RunChart_ TRAINING_CHARTS_[] = {
    {{.id = "loss", .title = "Training loss", .unit = "nats per token", .log_y = true},
     offsetof(RunLog, loss), true, true},
    {{.id = "val-loss", .title = "Validation loss", .unit = "nats per token", .log_y = true},
     offsetof(RunLog, val_loss), false, false},
};
static const RunChart_ OTHER_CHARTS_[] = {
    {{.id = "lr", .title = "Learning rate", .unit = "", .from_zero = true},
     offsetof(RunLog, lr), false, false},
    {{.id = "grad-norm", .title = "Gradient norm", .unit = "before clipping", .log_y = true},
     offsetof(RunLog, grad_norm), true, true},
    {{.id = "tokens-per-s", .title = "Throughput", .unit = "tokens per second", .from_zero = true},
     offsetof(RunLog, tokens_per_s), true, false},
    {{.id = "mfu", .title = "MFU", .unit = "% of the measured peak FLOP/s", .from_zero = true},
     offsetof(RunLog, mfu), true, false},
    {{.id = "comm", .title = "Exposed communication", .unit = "% of step time", .from_zero = true},
     offsetof(RunLog, comm), true, false},
};
// clang-format on

// False if there is no memory.
static inline bool page_run_chart_(TextBuffer *w, const Page *p, const RunChart_ *c) {
    Chart chart = c->chart;
    Series *series = calloc(p->count, sizeof *series);
    if (!series) {
        return false;
    }
    for (size_t i = 0; i < p->count; i++) {
        const RunLog *r = &p->runs[i];
        series[i] = (Series){.name = p->labels[i],
                             .curve = (const Curve *)(const void *)((const char *)r + c->which),
                             .run = i,
                             .color = i,
                             .smooth = c->smooth,
                             .restarts = c->marks ? &r->restarts : NULL,
                             .skipped = c->marks ? &r->skipped : NULL};
    }
    chart.x_label = p->x_label;
    chart.series = series;
    chart.count = p->count;
    chart_write(w, &chart, false);
    free(series);
    return true;
}

static inline bool page_run_charts_(TextBuffer *w, const Page *p, const RunChart_ *charts,
                                    size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (!page_run_chart_(w, p, &charts[i])) {
            return false;
        }
    }
    return true;
}

// Curves of all runs of the dataset that is called `path`, as series[*count], ...
static inline void val_series_(const Page *p, const char *path, const char *name, size_t color,
                               Series *series, size_t *count) {
    for (size_t i = 0; i < p->count; i++) {
        for (size_t s = 0; s < p->runs[i].val_count; s++) {
            if (!strcmp(p->runs[i].val[s].name, path)) {
                series[(*count)++] = (Series){.name = p->count > 1 ? p->labels[i] : name,
                                              .curve = &p->runs[i].val[s].curve,
                                              .run = i,
                                              .color = p->count > 1 ? i : color};
            }
        }
    }
}

// Paths of all datasets with validation losses of their own, each once; the caller frees the array.
// NULL if there is no memory.
static inline const char **val_paths_(const Page *p, size_t *count) {
    size_t most = 0;
    for (size_t i = 0; i < p->count; i++) {
        most += p->runs[i].val_count;
    }
    const char **paths = calloc(most + 1, sizeof *paths);
    *count = 0;
    for (size_t i = 0; i < p->count && paths; i++) {
        for (size_t s = 0; s < p->runs[i].val_count; s++) {
            size_t at = 0;
            while (at < *count && strcmp(paths[at], p->runs[i].val[s].name)) {
                at++;
            }
            paths[at] = p->runs[i].val[s].name;
            *count += at == *count;
        }
    }
    return paths;
}

// Validation loss by dataset. Of one run: one chart with a line per dataset. Of several: a chart
// per dataset with a line per run. False if there is no memory.
static inline bool page_val_charts_(TextBuffer *w, const Page *p) {
    enum { MOST = 4 * COLORS };
    Chart chart = {.unit = "nats per token", .log_y = true, .x_label = p->x_label};
    size_t count = 0;
    const char **paths = val_paths_(p, &count);
    char **names = paths ? short_names(paths, count) : NULL;
    Series *series = calloc((p->count > 1 ? p->count : count) + 1, sizeof *series);
    bool ok = names && series;
    size_t shown = count < MOST ? count : MOST;
    chart.series = series;

    for (size_t n = 0; n < shown && ok; n++) {
        val_series_(p, paths[n], names[n], n, series, &chart.count);
        if (p->count > 1) {
            char id[32], title[256];
            snprintf(id, sizeof id, "val-source%zu", n);
            snprintf(title, sizeof title, "Validation loss: %.200s", names[n]);
            chart.id = id, chart.title = title;
            chart_write(w, &chart, false);
            chart.count = 0;
        }
    }
    if (ok && p->count == 1 && shown > 0) {
        chart.id = "val-sources", chart.title = "Validation loss by dataset";
        chart_write(w, &chart, true);
    }
    if (ok && shown < count) {
        text_format(w, "<p>%zu more datasets have validation losses; they are not drawn.</p>",
                    count - shown);
    }

    free_strings(names, count);
    free(paths);
    free(series);
    return ok;
}

// The data of a run that reads several datasets. False if there is no memory.
static inline bool page_shares_(TextBuffer *w, const Page *p, size_t run) {
    const RunLog *r = &p->runs[run];
    size_t count = r->samples_count;
    if (count < 2) {
        return true;
    }
    const char **paths = calloc(count, sizeof *paths);
    double *weights = calloc(count, sizeof *weights);
    for (size_t s = 0; s < count && paths && weights; s++) {
        const Json *weight = json_get(log_dataset(r->head.root, s), "weight");
        paths[s] = log_dataset_path(r->head.root, s);
        weights[s] = fmax(0, json_double_or(weight, 0));
    }
    char **names = paths && weights ? short_names(paths, count) : NULL;
    bool ok = names != NULL;
    if (ok) {
        char id[32], title[256];
        snprintf(id, sizeof id, "shares%zu", run);
        snprintf(title, sizeof title, "Data mixture: %.200s", p->labels[run]);
        chart_shares(w, &(Shares){.id = id,
                                  .title = title,
                                  .x_label = p->x_label,
                                  .curves = r->samples,
                                  .names = names,
                                  .weights = weights,
                                  .count = count,
                                  .run = run});
    }
    free_strings(names, count);
    free(weights);
    free(paths);
    return ok;
}

// False if there is no memory.
static inline bool page_charts_(TextBuffer *w, const Page *p) {
    bool ok = page_run_charts_(w, p, TRAINING_CHARTS_,
                               sizeof TRAINING_CHARTS_ / sizeof *TRAINING_CHARTS_) &&
              page_val_charts_(w, p) &&
              page_run_charts_(w, p, OTHER_CHARTS_, sizeof OTHER_CHARTS_ / sizeof *OTHER_CHARTS_);
    for (size_t i = 0; i < p->count && ok; i++) {
        ok = page_shares_(w, p, i);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// The page

// The head: no resource may be loaded; unchecking a run's box hides it.
static inline void page_head_(TextBuffer *w, const Page *p) {
    text_format(w,
                "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\"><head>"
                "<meta charset=\"utf-8\"/>"
                "<meta http-equiv=\"Content-Security-Policy\" "
                "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"/>"
                "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>"
                "<link rel=\"icon\" href=\"data:,\"/><title>Training report: ");
    for (size_t i = 0; i < p->count; i++) {
        html_between(w, i ? ", " : "", p->labels[i], "");
    }
    text_format(w, "</title><style>\n");
    page_style(w);
    for (size_t i = 0; i < p->count; i++) {
        text_format(w, "#show%zu:not(:checked)~main .run%zu{display:none}\n", i, i);
    }
    text_format(w, "</style></head>");
}

// A check box and the colour of each run.
static inline void page_legend_(TextBuffer *w, const Page *p) {
    for (size_t i = 0; i < p->count; i++) {
        text_format(w,
                    "<input type=\"checkbox\" id=\"show%zu\" checked=\"checked\"/>"
                    "<label class=\"runs\" for=\"show%zu\"><i class=\"swatch b%zu\"></i>",
                    i, i, i % COLORS);
        html_between(w, "", p->labels[i], "</label>\n");
    }
}

// False if there is no memory.
static inline bool page_write_(TextBuffer *w, const Page *p) {
    page_head_(w, p);
    text_format(w,
                "<body>\n<h1>Training report</h1>\n<p>%sThin lines: logged values; thick lines: "
                "smoothed. Triangles: skipped steps; dotted vertical lines: restarts.</p>\n",
                p->count > 1 ? "Uncheck a run to hide it. " : "");
    page_legend_(w, p);
    text_format(w, "<main>\n<div class=\"charts\">\n");
    bool ok = page_charts_(w, p);
    text_format(w, "</div>\n");
    page_results(w, p);
    page_data(w, p);
    page_config(w, p);
    text_format(w, "</main></body></html>\n");
    return ok && !w->failed;
}

// True in *differ if the runs do not all read the same number of tokens per step: then tokens are
// what they are compared over.
static inline bool runs_differ_in_step_(const char *const *directories, size_t count, bool *differ,
                                        Error *e) {
    double first = 0;
    *differ = false;
    for (size_t i = 0; i < count; i++) {
        JsonDocument head;
        LogReader log;
        if (!log_reader_open_run(&log, &head, directories[i], e)) {
            return false;
        }
        double tokens = log_tokens_per_step(head.root);
        first = i ? first : tokens;
        *differ |= tokens != first;
        json_free(&head);
        if (!log_reader_close(&log, e)) {
            return false;
        }
    }
    return true;
}

// Writes a page about the runs in these folders to `out`, which appears only when it is complete. A
// folder that is not a run's is an error.
static inline bool report_page(const char *const *directories, size_t count, const char *out,
                               Error *e) {
    bool by_tokens;
    TextBuffer text = {0};
    if (!runs_differ_in_step_(directories, count, &by_tokens, e)) {
        return false;
    }
    RunLog *runs = calloc(count, sizeof *runs);
    char **labels = short_names(directories, count);
    bool ok = (runs && labels) || fail(e, "no memory for %zu runs", count);
    for (size_t i = 0; i < count && ok; i++) {
        ok = run_log_read(&runs[i], directories[i], by_tokens, e);
    }

    Page page = {runs, labels, count, by_tokens ? "tokens" : "step"};
    ok = ok && (page_write_(&text, &page) || fail(e, "%s: no memory to write it", out));
    ok = ok && replace_file(out, text.data, text.length, e);

    for (size_t i = 0; i < count && runs; i++) {
        run_log_free(&runs[i]);
    }
    free(runs);
    free_strings(labels, count);
    free(text.data);
    return ok;
}

#endif
