// page_tables.h: the tables of the report page: results, data and configuration of each run.
#ifndef REPORT_PAGE_TABLES_H
#define REPORT_PAGE_TABLES_H

#include "report/charts.h"
#include "report/run_log.h"

// The runs of a page.
typedef struct {
    const RunLog *runs;
    char *const *labels; // what the page calls them
    size_t count;
    const char *x_label; // of all charts: "step" or "tokens"
} Page;

// Opens a table; its head lacks the headings.
static inline void table_open_(TextBuffer *w, const char *title, const char *id) {
    text_format(w, "<h2>%s</h2><div class=\"scroll\"><table id=\"%s\"><thead><tr>", title, id);
}

// Puts the headings, up to NULL, and ends the head. A column of numbers begins with #.
static inline void table_heads_(TextBuffer *w, const char *const *heads) {
    for (; *heads; heads++) {
        bool number = **heads == '#';
        text_format(w, "<th scope=\"col\"%s>%s</th>", number ? " class=\"n\"" : "",
                    *heads + number);
    }
    text_format(w, "</tr></thead><tbody>\n");
}

static inline void table_close_(TextBuffer *w) {
    text_format(w, "</tbody></table></div>\n");
}

// A cell with a number, or with a dash if that is not known.
__attribute__((format(printf, 3, 4))) static inline void table_number_(TextBuffer *w, bool known,
                                                                       const char *format, ...) {
    char text[96] = "&#8211;";
    va_list args;
    va_start(args, format);
    if (known) {
        vsnprintf(text, sizeof text, format, args);
    }
    va_end(args);
    text_format(w, "<td class=\"n\">%s</td>", text);
}

// ------------------------------------------------------------------------------------------------
// Results

// What the reader of the numbers should know of the log, separated by semicolons.
static inline void table_notes_(TextBuffer *w, const RunLog *r) {
    const char *separator = "";
    text_format(w, "<td>");
    if (r->cut) {
        text_format(w, "the last line of the log is incomplete");
        separator = "; ";
    }
    if (r->broken) {
        text_format(w, "%s%zu broken line%s ignored", separator, r->broken,
                    r->broken == 1 ? "" : "s");
        separator = "; ";
    }
    if (r->misplaced) {
        text_format(w, "%s%zu line%s out of order or of unknown kind ignored", separator,
                    r->misplaced, r->misplaced == 1 ? "" : "s");
        separator = "; ";
    }
    if (r->skipped.count > MARKS_KEPT || r->restarts.count > MARKS_KEPT) {
        text_format(w, "%sonly the first %d skipped steps and restarts are marked", separator,
                    MARKS_KEPT);
    }
    text_format(w, "</td>");
}

static inline void page_results(TextBuffer *w, const Page *p) {
    static const char *const heads[] = {
        "Run",       "#Steps", "#Tokens",        "#Loss",    "#Val. loss", "#Best val. (step)",
        "#Tokens/s", "#MFU",   "#Training time", "#Skipped", "#Restarts",  "Notes",
        NULL};
    table_open_(w, "Results", "results");
    table_heads_(w, heads);

    for (size_t i = 0; i < p->count; i++) {
        const RunLog *r = &p->runs[i];
        double rate = run_log_throughput(r);
        text_format(w, "<tr><th scope=\"row\"><i class=\"swatch b%zu\"></i>", i % COLORS);
        html_between(w, "", p->labels[i], "</th>");
        text_format(w, "<td class=\"n\">%zu", r->last_step);
        if (r->planned_steps) {
            text_format(w, " of %zu", r->planned_steps);
        }
        text_format(w, "</td>");
        table_number_(w, r->tokens > 0, "%s", number_short((double)r->tokens).text);
        table_number_(w, r->loss.points > 0, "%.4f", r->loss.last.y);
        table_number_(w, r->val_loss.points > 0, "%.4f", r->val_loss.last.y);
        table_number_(w, r->val_loss.points > 0, "%.4f (%zu)", r->best_val, r->best_val_step);
        table_number_(w, rate > 0, "%s", number_short(rate).text);
        table_number_(w, r->mfu.points > 0, "%.1f%%", curve_mean(&r->mfu, 0, r->mfu.count));
        table_number_(w, r->seconds > 0, "%s", duration_text(r->seconds).text);
        table_number_(w, true, "%zu", r->skipped.count);
        table_number_(w, true, "%zu", r->restarts.count);
        table_notes_(w, r);
        text_format(w, "</tr>\n");
    }
    table_close_(w);
}

// ------------------------------------------------------------------------------------------------
// Data: of each dataset what is in it, what the run was to read, and what it has read

static inline void page_dataset_(TextBuffer *w, const RunLog *r, const char *label, size_t dataset,
                                 double samples_of_all) {
    const Json *entry = log_dataset(r->head.root, dataset);
    const char *hash = json_string(json_get(entry, "sha256"));
    bool several = dataset < r->samples_count;
    double tokens_per_sample = json_double_or(json_get(r->head.root, "seq_len"), 0);
    double samples = json_double_or(json_get(entry, "samples"), 0), read = 0, weight;
    if (several) {
        read = r->samples[dataset].last.y;
    } else if (tokens_per_sample > 0) {
        read = (double)r->tokens / tokens_per_sample;
    }

    html_between(w, "<tr><td>", label, "</td>");
    html_between(w, "<td>", log_dataset_path(r->head.root, dataset), "</td>");
    table_number_(w, true, "%s", number_short(json_double_or(json_get(entry, "tokens"), 0)).text);
    bool has_weight = json_double(json_get(entry, "weight"), &weight);
    table_number_(w, has_weight, "%s", number_short(has_weight ? weight : 0).text);
    table_number_(w, several || r->samples_count == 0, "%.2f%%",
                  several && samples_of_all > 0 ? 100 * read / samples_of_all : 100);
    table_number_(w, true, "%s", number_short(read).text);
    table_number_(w, samples > 0, "%.2f", read / samples);
    html_between(w, "<td class=\"hash\">", hash ? hash : "not hashed", "</td></tr>\n");
}

static inline void page_data(TextBuffer *w, const Page *p) {
    static const char *const heads[] = {"Run",     "Dataset",     "#Tokens",
                                        "#Weight", "#Share read", "#Samples read",
                                        "#Epochs", "SHA-256",     NULL};
    table_open_(w, "Data", "data");
    table_heads_(w, heads);

    for (size_t i = 0; i < p->count; i++) {
        const RunLog *r = &p->runs[i];
        double samples = run_log_samples(r);
        for (size_t s = 0; log_dataset(r->head.root, s); s++) {
            page_dataset_(w, r, p->labels[i], s, samples);
        }
    }
    table_close_(w);
}

// ------------------------------------------------------------------------------------------------
// Configuration: a row per key, a column per run; rows in which runs differ stand out

// `group` of the line that describes a run; NULL: the line itself.
static inline const Json *config_group_(const RunLog *r, const char *group) {
    return group ? json_get(r->head.root, group) : r->head.root;
}

// A value of the configuration: fractions with six digits.
static inline void page_value_(TextBuffer *w, const char *key, const Json *node) {
    double value;
    if (json_double(node, &value) && strpbrk(node->text, ".eE")) {
        text_format(w, "%.6g", value);
    } else {
        text_put_html(w, strcmp(key, "compiler") ? scalar_text(node) : compiler_text(node).text);
    }
}

static inline void page_config_row_(TextBuffer *w, const Page *p, const char *group,
                                    const char *key, bool differs) {
    text_format(w, "<tr%s>", differs ? " class=\"differs\"" : "");
    html_between(w, "<th scope=\"row\">", key, "</th>");
    for (size_t i = 0; i < p->count; i++) {
        text_format(w, "<td>");
        page_value_(w, key, json_get(config_group_(&p->runs[i], group), key));
        text_format(w, "</td>");
    }
    text_format(w, "</tr>\n");
}

// A row for each key that any run has in `group`.
static inline void page_config_rows_(TextBuffer *w, const Page *p, const char *group) {
    for (size_t i = 0; i < p->count; i++) {
        const Json *own = config_group_(&p->runs[i], group);
        for (const Json *m = own && own->kind == JSON_OBJECT ? own->child : NULL; m; m = m->next) {
            bool left_out =
                !is_scalar(m) || !strcmp(m->key, "program") || !strcmp(m->key, "from_step");
            bool differs = false;
            for (size_t j = 0; j < p->count; j++) {
                const Json *other = json_get(config_group_(&p->runs[j], group), m->key);
                left_out |= j < i && other; // has its row
                differs |= strcmp(scalar_text(other), scalar_text(m)) != 0;
            }
            if (!left_out) {
                page_config_row_(w, p, group, m->key, differs);
            }
        }
    }
}

static inline void page_config(TextBuffer *w, const Page *p) {
    table_open_(w, "Configuration", "config");
    text_format(w, "<th></th>");
    for (size_t i = 0; i < p->count; i++) {
        text_format(w, "<th scope=\"col\"><i class=\"swatch b%zu\"></i>", i % COLORS);
        html_between(w, "", p->labels[i], "</th>");
    }
    text_format(w, "</tr></thead><tbody>\n");
    page_config_rows_(w, p, NULL);
    page_config_rows_(w, p, "options");
    table_close_(w);
}

#endif
