// data_origin.h: where the training data of a run comes from, as a section of its model card:
// source files, licenses and languages by the manifests of the datasets.
#ifndef REPORT_DATA_ORIGIN_H
#define REPORT_DATA_ORIGIN_H

#include "report/format.h"
#include "shards/manifest.h"
#include "util/array.h"
#include "util/files.h"

// ------------------------------------------------------------------------------------------------
// Facets: the documents of one or more sources by a property of their origin

enum { FACET_SOURCE, FACET_LICENSE, FACET_LANGUAGE, FACETS, FACET_VALUES_MAX = 1000 };

static const char *const FACET_KEYS[FACETS] = {"source", "license", "language"};

typedef struct {
    const char *value; // points into a manifest
    uint64_t documents;
} FacetItem;

typedef struct {
    FacetItem *items; // one per value, until facet_sort in the order they were met; free(items)
    size_t count, capacity;
    uint64_t other;  // documents with further values
    uint64_t stated; // documents with any value
} Facet;

// Adds what a source's "origin" says. False if there is no memory.
static inline bool facet_add(Facet *f, const Json *origin, const char *key) {
    const Json *list = json_get(origin, key);
    Error reason;
    for (const Json *m = list && list->kind == JSON_ARRAY ? list->child : NULL; m; m = m->next) {
        const char *value = json_string(json_get(m, "value"));
        uint64_t documents = json_uint_or(json_get(m, "documents"), 0);
        size_t at = 0;
        f->stated += documents;
        while (value && at < f->count && strcmp(f->items[at].value, value)) {
            at++;
        }
        if (!value || at == FACET_VALUES_MAX) {
            f->other += documents;
            continue;
        }
        if (at == f->count &&
            !array_append(&f->items, &f->capacity, &f->count, &(FacetItem){.value = value},
                          sizeof *f->items, &reason)) {
            return false;
        }
        f->items[at].documents += documents;
    }
    return true;
}

static inline int facet_compare_(const void *first, const void *second) {
    const FacetItem *a = first, *b = second;
    return a->documents != b->documents ? order_u64(b->documents, a->documents)
                                        : strcmp(a->value, b->value);
}

// The most frequent values first, equal ones by name.
static inline void facet_sort(Facet *f) {
    if (f->count > 1) {
        qsort(f->items, f->count, sizeof *f->items, facet_compare_);
    }
}

// A sorted facet in one table cell: the value if all `documents` have it, else the most frequent
// ones with their counts.
static inline void facet_put_cell_(TextBuffer *w, const Facet *f, uint64_t documents) {
    enum { SHOWN = 4 };
    uint64_t counted = 0;
    const char *separator = "";
    for (size_t i = 0; i < f->count && i < SHOWN; i++) {
        markdown_between(w, separator, f->items[i].value, "");
        if (f->items[i].documents != documents) {
            text_format(w, ": %s", number_grouped(f->items[i].documents).text);
        }
        counted += f->items[i].documents;
        separator = ", ";
    }
    if (f->stated > counted) {
        text_format(w, "%sothers: %s", separator, number_grouped(f->stated - counted).text);
    }
    if (f->stated == 0) {
        text_format(w, "not stated");
    } else if (f->stated < documents) {
        text_format(w, ", not stated: %s", number_grouped(documents - f->stated).text);
    }
}

static inline void facet_put_row_(TextBuffer *w, uint64_t documents, uint64_t all) {
    text_format(w, " | %s | %.2f%% |\n", number_grouped(documents).text,
                100 * (double)documents / (double)all);
}

// A sorted facet as a table of its own.
static inline void facet_put_table_(TextBuffer *w, const Facet *f, const char *title,
                                    uint64_t documents) {
    enum { SHOWN = 20 };
    uint64_t counted = 0;
    size_t shown = f->count < SHOWN ? f->count : SHOWN;
    text_format(w, "| %s | documents | share |\n| --- | ---: | ---: |\n", title);
    for (size_t i = 0; i < shown; i++) {
        markdown_between(w, "| ", f->items[i].value, "");
        facet_put_row_(w, f->items[i].documents, documents);
        counted += f->items[i].documents;
    }
    if (f->stated > counted) {
        text_format(w, "| %zu others", f->count - shown + (f->other > 0));
        facet_put_row_(w, f->stated - counted, documents);
    }
    if (f->stated < documents) {
        text_format(w, "| not stated");
        facet_put_row_(w, documents - f->stated, documents);
    }
    text_format(w, "\n");
}

// ------------------------------------------------------------------------------------------------
// The manifest of a training dataset: that of the folder, if the dataset's path names a prepared
// folder or the shards in one

typedef struct {
    bool found;
    Manifest manifest;
    Error reason; // why there is none, if there should be one
} DataManifest;

// entry: of the dataset, in the line that describes the run.
static inline void data_manifest_load(DataManifest *m, const Json *entry) {
    char path[PATH_LIMIT], folder[PATH_LIMIT];
    ManifestSplit split;
    const char *name = json_string(json_get(entry, "path"));
    const char *hash = json_string(json_get(entry, "sha256"));
    *m = (DataManifest){0};
    if (!name || !path_format(folder, &m->reason, "%s", name)) {
        return;
    }
    cut_ending(folder, "/train.bin");
    if (!path_format(path, &m->reason, "%s/manifest.json", folder) || access(path, F_OK)) {
        return;
    }
    if (!manifest_read(&m->manifest, folder, &m->reason)) {
        return;
    }

    // It must be the manifest of the shards that the run reads.
    manifest_split(&m->manifest, "train", &split);
    m->found = !hash || !strcmp(hash, split.files[MANIFEST_BIN].hash);
    if (!m->found) {
        fail(&m->reason, "%s: describes other shards than those of this run", path);
        manifest_close(&m->manifest);
    }
}

// ------------------------------------------------------------------------------------------------
// The section of a dataset

static inline void source_put_row_(TextBuffer *w, const ManifestSource *source, double all_tokens) {
    markdown_between(w, "| ", source->path[0] ? source->path : "?", "");
    text_format(w, " | %s | %s | %.2f%% |", number_grouped(source->documents).text,
                number_grouped(source->tokens).text,
                all_tokens > 0 ? 100 * (double)source->tokens / all_tokens : 0);
    for (int f = 0; f < FACETS; f++) {
        Facet facet = {0};
        w->failed |= !facet_add(&facet, source->origin, FACET_KEYS[f]);
        facet_sort(&facet);
        text_format(w, " ");
        facet_put_cell_(w, &facet, source->documents);
        text_format(w, " |");
        free(facet.items);
    }
    markdown_between(w, " `", source->hash ? source->hash : "not stated", "` |\n");
}

// The sources of a dataset: a row each where they are few, else a table per facet.
static inline void sources_put_(TextBuffer *w, const Manifest *m) {
    enum { FEW = 20 };
    static const char *titles[FACETS] = {"origin", "license", "language"};
    const size_t count = m->source_count;
    uint64_t documents = 0, tokens = 0;
    Facet facets[FACETS] = {0};
    for (size_t i = 0; i < count; i++) {
        documents += m->sources[i].documents;
        tokens += m->sources[i].tokens;
        for (int f = 0; f < FACETS; f++) {
            w->failed |= !facet_add(&facets[f], m->sources[i].origin, FACET_KEYS[f]);
        }
    }

    text_format(w,
                "%zu source file%s, %s documents, %s tokens, including the validation split. "
                "SHA-256 of manifest.json: `%s`.\n\n",
                count, count == 1 ? "" : "s", number_grouped(documents).text,
                number_grouped(tokens).text, m->hash);
    if (count > 0 && count <= FEW) {
        text_format(w, "| source file | documents | tokens | share | origin | license | language | "
                       "SHA-256 |\n| --- | ---: | ---: | ---: | --- | --- | --- | --- |\n");
        for (size_t i = 0; i < count; i++) {
            source_put_row_(w, &m->sources[i], (double)tokens);
        }
        text_format(w, "\n");
    }
    for (int f = 0; f < FACETS; f++) {
        if (count > FEW && documents > 0) {
            facet_sort(&facets[f]);
            facet_put_table_(w, &facets[f], titles[f], documents);
        }
        free(facets[f].items);
    }
}

// The section about the dataset at `path`; says so if there is no manifest.
static inline void data_origin_put(TextBuffer *w, const DataManifest *m, const char *path) {
    markdown_between(w, "### ", path, "\n\n");
    if (m->found) {
        sources_put_(w, &m->manifest);
        return;
    }
    markdown_between(
        w, "", m->reason.text[0] ? m->reason.text : "The origin of these tokens is not recorded.",
        "\n\n");
}

#endif
