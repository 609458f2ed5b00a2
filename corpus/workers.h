// workers.h: what each thread of a rank needs to work on documents.
#ifndef CORPUS_WORKERS_H
#define CORPUS_WORKERS_H

#include <omp.h>

#include "corpus/duplicates.h"
#include "tokenizer.h"
#include "util/json.h"

typedef struct {
    Encoder encoder;
    FilterState filter;
    TokenBuffer tokens; // of the batch
    TextBuffer store;   // texts and metadata of the batch
    char *line;         // the current line with ill-formed UTF-8 replaced
    size_t line_capacity;
    JsonWriter writer;
    bool ok;
    Error error;
} Worker;

typedef struct {
    Worker *items;
    int count;
} Workers;

// A stretch of a worker's store.
typedef struct {
    size_t at, length;
} Span;

static inline bool workers_make(Workers *w, const FilterOptions *filter, Error *e) {
    const int count = omp_get_max_threads();
    w->items = calloc((size_t)count, sizeof *w->items);
    if (!w->items) {
        return fail(e, "prepare: no memory for %d threads", count);
    }
    for (; w->count < count; w->count++) {
        w->items[w->count].filter.options = *filter;
    }
    return true;
}

static inline bool workers_init_encoders(Workers *w, const Tokenizer *tokenizer, Error *e) {
    for (int i = 0; i < w->count; i++) {
        if (!encoder_init(&w->items[i].encoder, tokenizer, e)) {
            return false;
        }
    }
    return true;
}

static inline void workers_free(Workers *w) {
    for (int i = 0; i < w->count; i++) {
        Worker *worker = &w->items[i];
        encoder_free(&worker->encoder);
        filter_free(&worker->filter);
        free(worker->tokens.ids);
        free(worker->store.data);
        free(worker->line);
        free(worker->writer.data);
    }
    free(w->items);
    *w = (Workers){0};
}

// Empties the stores for the next batch.
static inline void workers_reset(const Workers *w) {
    for (int i = 0; i < w->count; i++) {
        w->items[i].tokens.count = w->items[i].store.length = 0;
        w->items[i].ok = true;
    }
}

// Whether all threads succeeded; if not, *e is the error of the first that failed.
static inline bool workers_check(const Workers *w, Error *e) {
    for (int i = 0; i < w->count; i++) {
        if (!w->items[i].ok) {
            *e = w->items[i].error;
            return false;
        }
    }
    return true;
}

// Stores a copy of these bytes; *span says where.
static inline bool worker_store(Worker *w, Span *span, const char *data, size_t length, Error *e) {
    *span = (Span){w->store.length, length};
    return text_append(&w->store, data, length, e);
}

static inline const char *worker_stored(const Worker *w, Span span) {
    return w->store.data ? w->store.data + span.at : ""; // nothing stored yet: an empty text
}

#endif
