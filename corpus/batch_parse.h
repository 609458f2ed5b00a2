// batch_parse.h: from the lines of a batch to texts and metadata, or to what filters and duplicate
// detection need of each.
#ifndef CORPUS_BATCH_PARSE_H
#define CORPUS_BATCH_PARSE_H

#include "corpus/batch.h"
#include "corpus/metadata.h"

static inline bool line_reject_(Worker *w, BatchDocument *d, char *why, Error *e) {
    d->state = DOCUMENT_REJECTED;
    utf8_trim(why);
    return worker_store(w, &d->why, why, strlen(why), e);
}

// Stores what the writer has and empties it.
static inline bool worker_store_written_(Worker *w, Span *span, Error *e) {
    bool ok = (!w->writer.failed || fail(e, "prepare: no memory for the metadata of a document")) &&
              worker_store(w, span, w->writer.data, w->writer.length, e);
    w->writer.length = 0;
    w->writer.has_member = false;
    return ok;
}

// Stores what the object says of its document.
static inline bool line_store_metadata_(Worker *w, BatchDocument *d, const Json *object, Error *e) {
    const Json *id = metadata_find(object, METADATA_ID);
    if (id) {
        metadata_put(&w->writer, NULL, id);
        if (!worker_store_written_(w, &d->id, e)) {
            return false;
        }
    }

    bool any = false;
    for (int f = 0; f < METADATA_FIELDS; f++) {
        const Json *value = metadata_find(object, f);
        const int facet = METADATA[f].facet;
        if (!value) {
            continue;
        }
        if (!any) {
            json_open(&w->writer, NULL, '{');
        }
        any = true;
        metadata_put(&w->writer, METADATA[f].name, value);
        if (facet >= 0 && value->kind == JSON_STRING) {
            d->has_facet[facet] = true;
            if (!worker_store(w, &d->facets[facet], value->text, value->length, e)) {
                return false;
            }
        }
    }
    if (any) {
        json_close(&w->writer, '}');
    }
    return !any || worker_store_written_(w, &d->metadata, e);
}

// Adds the document's next text to what the filter knows of it; at its end, stores its record.
static inline bool document_scan_(Worker *w, BatchDocument *d, const char *text, size_t length,
                                  Error *e) {
    unsigned char record[FINGERPRINT_LIMIT];
    Fingerprint fingerprint;
    d->used = length;
    if (d->begins) {
        filter_begin(&w->filter);
    }
    if (!filter_add(&w->filter, text, length, e)) {
        return false;
    }
    if (!d->ends) {
        return true;
    }
    if (!filter_end(&w->filter, &fingerprint, e)) {
        return false;
    }
    fingerprint_store(record, &fingerprint);
    return worker_store(w, &d->record, (const char *)record, fingerprint_size(&w->filter.options),
                        e);
}

static inline bool line_is_blank_(const char *text, size_t length) {
    size_t blank = 0;
    while (blank < length && (text[blank] == ' ' || text[blank] == '\t' || text[blank] == '\r')) {
        blank++;
    }
    return blank == length;
}

// From a line to the document's text, stored or scanned, and metadata. False only if the run must
// stop.
static inline bool line_parse_(Worker *w, BatchDocument *d, const char *text_key, bool scan,
                               Error *e) {
    const char *text = d->line_text;
    size_t length = d->length, consumed;
    JsonDocument json;
    Error why;
    if (line_is_blank_(text, length)) {
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
        return line_reject_(w, d, why.text + strlen(": "), e); // after the empty name
    }

    const Json *value = json_get(json.root, text_key);
    bool ok = line_store_metadata_(w, d, json.root, e);
    if (ok && (!value || value->kind != JSON_STRING)) {
        fail(&why, "has no string under the key \"%s\" (see --text-key)", text_key);
        ok = line_reject_(w, d, why.text, e);
    } else if (ok) {
        d->replaced += json.replaced;
        d->text_length = value->length;
        ok = scan ? document_scan_(w, d, value->text, value->length, e)
                  : worker_store(w, &d->stored_text, value->text, value->length, e);
    }
    json_free(&json);
    return ok;
}

// Parses what batch_read took, so that each document has its text; with `scan` scans each text for
// filters and duplicates instead, so that each document has its record.
static inline bool batch_parse(Batch *b, SourceKind kind, const char *text_key, bool scan,
                               const Workers *workers, Error *e) {
    if (kind == SOURCE_TEXT) {
        BatchDocument *d = b->documents;
        return !scan || document_scan_(workers->items, d, d->text, d->text_length, e);
    }

#pragma omp parallel for schedule(dynamic, 4) num_threads(workers->count)
    for (size_t i = 0; i < b->document_count; i++) {
        Worker *w = &workers->items[omp_get_thread_num()];
        b->documents[i].worker = omp_get_thread_num();
        w->ok = w->ok && line_parse_(w, &b->documents[i], text_key, scan, &w->error);
    }
    for (size_t i = 0; i < b->document_count; i++) { // now that the stores do not move any more
        BatchDocument *d = &b->documents[i];
        d->text = worker_stored(&workers->items[d->worker], d->stored_text);
    }
    return workers_check(workers, e);
}

#endif
