// batch_parse.h: from the lines of a batch to texts and metadata, or to what filters and duplicate
// detection need of each.
#ifndef CORPUS_BATCH_PARSE_H
#define CORPUS_BATCH_PARSE_H

#include "corpus/batch.h"
#include "corpus/metadata.h"

static inline bool line_reject_(Worker *w, BatchDocument *d, Error *why, Error *e) {
    d->state = DOCUMENT_REJECTED;
    utf8_trim(why->text);
    return worker_store(w, &d->why, why->text, strlen(why->text), e);
}

// The writer, emptied for a new value.
static inline JsonWriter *worker_writer_(Worker *w) {
    w->writer.length = 0;
    w->writer.has_member = false;
    return &w->writer;
}

static inline bool worker_store_written_(Worker *w, Span *span, Error *e) {
    if (w->writer.failed) {
        return fail(e, "prepare: no memory for the metadata of a document");
    }
    return worker_store(w, span, w->writer.data, w->writer.length, e);
}

// Stores what the object says of its document.
static inline bool line_store_metadata_(Worker *w, BatchDocument *d, const Json *object, Error *e) {
    const Metadata metadata = metadata_find(object);
    if (metadata.fields[METADATA_ID]) {
        metadata_put_value(worker_writer_(w), NULL, metadata.fields[METADATA_ID]);
        if (!worker_store_written_(w, &d->id, e)) {
            return false;
        }
    }
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        const Json *value = metadata.facets[f];
        d->has_facet[f] = value != NULL;
        if (value && !worker_store(w, &d->facets[f], value->text, value->length, e)) {
            return false;
        }
    }
    metadata_put(worker_writer_(w), &metadata);
    bool none = w->writer.length == 0 && !w->writer.failed;
    return none || worker_store_written_(w, &d->metadata, e);
}

// Adds the document's next text to what collect.h knows of it; at its end, stores its record.
static inline bool document_scan_(const FilterOptions *options, Worker *w, BatchDocument *d,
                                  const char *text, size_t length, Error *e) {
    unsigned char record[FINGERPRINT_LIMIT];
    FilterVerdict verdict;
    Fingerprint fingerprint;
    if (d->begins) {
        filter_begin(w->filter);
    }
    if (!filter_add(w->filter, text, length, e)) {
        return false;
    }
    if (!d->ends) {
        return true;
    }
    if (!filter_end(w->filter, &verdict, &fingerprint, e)) {
        return false;
    }
    fingerprint_store(record, options, &verdict, &fingerprint, d->length);
    return worker_store(w, &d->record, (const char *)record, fingerprint_size(options), e);
}

// The options of a parse: with `scan` each text is scanned and let go, without it stored.
typedef struct {
    const char *text_key;
    const FilterOptions *scan;
} ParseOptions;

// From a line to the document's text and metadata. False only if the run must stop.
static inline bool line_parse_(const ParseOptions *o, Worker *w, BatchDocument *d, Error *e) {
    const char *text = d->line_text;
    size_t length = d->length, blank = 0, consumed;
    JsonDocument json;
    Error why;
    while (blank < length && (text[blank] == ' ' || text[blank] == '\t' || text[blank] == '\r')) {
        blank++;
    }
    if (blank == length) {
        d->state = DOCUMENT_BLANK_LINE;
        return true;
    }

    if (!utf8_is_valid(text, length)) {
        if (!array_reserve(&w->line, &w->line_capacity, 0, 3 * length, 1, e)) {
            return false;
        }
        length = utf8_sanitize(w->line, text, length, true, &consumed, &d->replaced);
        text = w->line;
    }
    if (!json_parse(&json, text, length, "", &why)) {
        return line_reject_(w, d, &why, e);
    }

    const Json *value = json_get(json.root, o->text_key);
    bool ok = line_store_metadata_(w, d, json.root, e);
    if (ok && (!value || value->kind != JSON_STRING)) {
        fail(&why, ": has no string under the key \"%s\" (see --text-key)", o->text_key);
        ok = line_reject_(w, d, &why, e);
    } else if (ok) {
        d->replaced += json.replaced;
        d->text_length = value->length;
        ok = o->scan ? document_scan_(o->scan, w, d, value->text, value->length, e)
                     : worker_store(w, &d->stored_text, value->text, value->length, e);
    }
    json_free(&json);
    return ok;
}

static inline bool batch_parse_lines_(Batch *b, const ParseOptions *o, const Workers *workers,
                                      Error *e) {
#pragma omp parallel for schedule(dynamic, 4) num_threads(workers->count)
    for (size_t i = 0; i < b->document_count; i++) {
        Worker *w = &workers->items[omp_get_thread_num()];
        b->documents[i].worker = omp_get_thread_num();
        w->ok = w->ok && line_parse_(o, w, &b->documents[i], &w->error);
    }
    for (size_t i = 0; i < b->document_count; i++) { // now that the stores do not move any more
        BatchDocument *d = &b->documents[i];
        d->text = worker_stored(&workers->items[d->worker], d->stored_text);
    }
    return workers_check(workers, e);
}

// Parses what batch_read took, so that each document has its text.
static inline bool batch_parse(Batch *b, SourceKind kind, const char *text_key,
                               const Workers *workers, Error *e) {
    const ParseOptions o = {.text_key = text_key};
    return kind != SOURCE_JSON_LINES || batch_parse_lines_(b, &o, workers, e);
}

// Parses what batch_read took and scans each text for filters and duplicates: so that each document
// has its record.
static inline bool batch_scan(Batch *b, SourceKind kind, const char *text_key,
                              const FilterOptions *scan, const Workers *workers, Error *e) {
    const ParseOptions o = {.text_key = text_key, .scan = scan};
    if (kind == SOURCE_JSON_LINES) {
        return batch_parse_lines_(b, &o, workers, e);
    }
    BatchDocument *d = b->documents;
    b->used = d->text_length;
    return document_scan_(scan, workers->items, d, d->text, d->text_length, e);
}

#endif
