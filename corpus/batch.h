// batch.h: some documents of a unit, which the threads of a rank read, parse, cut into chunks and
// tokenize together.
#ifndef CORPUS_BATCH_H
#define CORPUS_BATCH_H

#include "corpus/metadata.h"
#include "corpus/reader.h"
#include "corpus/verdicts.h"
#include "corpus/workers.h"

enum {
    // For each thread of a rank: bytes of its source that a batch takes about, and documents at
    // most.
    BATCH_BYTES = 1 << 20,
    BATCH_DOCUMENTS = 4096,

    LINE_LIMIT = 1 << 28,  // the longest line of JSON Lines, in bytes
    CHUNK_BYTES = 1 << 18, // of a chunk of text, about
    UNCUT_LIMIT = 1 << 24  // the longest stretch of text without a place to cut, of which the
                           // encoder needs some 40 times as much memory
};

typedef enum {
    DOCUMENT_KEPT,
    DOCUMENT_EMPTY,
    DOCUMENT_BLANK_LINE,
    DOCUMENT_REJECTED,
    DOCUMENT_DROPPED // by a filter or as a duplicate: the verdict says why
} DocumentState;

typedef struct {
    DocumentState state;
    bool begins, ends;       // a document of plain text may extend over several batches
    uint64_t offset, length; // of its bytes in the source
    uint64_t line;           // number within the unit, from 1
    const char *line_text;   // JSON Lines: the line, in the reader's buffer
    const char *text;        // well-formed UTF-8; not there after batch_scan
    size_t text_length;
    uint64_t replaced; // ill-formed UTF-8 sequences in it
    Verdict verdict;   // if it is DOCUMENT_DROPPED

    int worker;                          // in whose store the spans lie
    Span record;                         // after batch_scan: for collect_duplicates
    Span stored_text, metadata, id, why; // JSON Lines; metadata: an object, id: a value, as JSON
    Span facets[ORIGIN_FACETS];
    bool has_facet[ORIGIN_FACETS];

    size_t first_chunk, chunk_count;
} BatchDocument;

// A stretch of a document's text, cut where that changes no id.
typedef struct {
    const char *text;
    size_t length;
    bool first, last; // of its document
    int worker;       // in whose tokens its ids lie
    size_t first_token, token_count;
} TextChunk;

typedef struct {
    BatchDocument *documents;
    size_t document_count, document_capacity;
    TextChunk *chunks;
    size_t chunk_count, chunk_capacity;

    // Of the unit.
    uint64_t lines;  // read so far; plain text counts as one
    bool dropping;   // the document that the last batch ended in is dropped
    Verdict verdict; // why
    size_t
        next_cut; // bytes of the document that the last batch ended in in which to look for a cut
    uint64_t offset; // plain text: of the document in its source
    char *pending;   // plain text: read and not yet used
    size_t pending_length, pending_capacity, used;
} Batch;

// Starts a unit.
static inline void batch_begin_unit(Batch *b) {
    b->lines = 0;
    b->dropping = false;
    b->pending_length = b->used = 0;
}

static inline void batch_free(Batch *b) {
    free(b->documents);
    free(b->chunks);
    free(b->pending);
    *b = (Batch){0};
}

// ------------------------------------------------------------------------------------------------
// Reading

// Fills the reader so that it holds at least one complete line, and about `bytes` of text.
static inline bool batch_fill_lines_(Reader *r, uint64_t bytes, Error *e) {
    size_t searched = 0;
    if (!reader_fill(r, bytes, e)) {
        return false;
    }
    while (!r->ended && (r->start == r->end || !memchr(r->data + r->start + searched, '\n',
                                                       r->end - r->start - searched))) {
        searched = r->end - r->start;
        if (searched > LINE_LIMIT) {
            return fail(e, "%s: the line at byte %llu is longer than the %d MiB supported",
                        r->source->path, (unsigned long long)r->offset, LINE_LIMIT >> 20);
        }
        if (!reader_more(r, e)) {
            return false;
        }
    }
    return true;
}

// Takes lines into the batch: those that begin before byte `end` of the source and that the reader
// holds completely.
static inline bool batch_read_lines_(Batch *b, Reader *r, uint64_t end, int threads, Error *e) {
    const size_t limit = BATCH_BYTES * (size_t)threads, most = BATCH_DOCUMENTS * (size_t)threads;
    size_t taken = 0;
    if (!batch_fill_lines_(r, min_u64(limit, end - r->offset), e)) {
        return false;
    }
    while (r->start + taken < r->end && r->offset + taken < end && taken < limit &&
           b->document_count < most) {
        const char *text = r->data + r->start + taken;
        const char *newline = memchr(text, '\n', r->end - r->start - taken);
        if (!newline && !r->ended) {
            break;
        }
        if (!array_reserve(&b->documents, &b->document_capacity, b->document_count, 1,
                           sizeof *b->documents, e)) {
            return false;
        }
        size_t length = newline ? (size_t)(newline - text) : r->end - r->start - taken;
        bool carriage_return =
            length > 0 && text[length - 1] == '\r'; // one is part of the line end
        b->documents[b->document_count++] = (BatchDocument){.begins = true,
                                                            .ends = true,
                                                            .offset = r->offset + taken,
                                                            .line = ++b->lines,
                                                            .line_text = text,
                                                            .length = length - carriage_return};
        taken += length + (newline != NULL);
    }
    reader_consume(r, taken); // the data stay where they are until the reader reads on
    return true;
}

// Takes more of a plain text file, which is one document, into the batch.
static inline bool batch_read_text_(Batch *b, Reader *r, int threads, Error *e) {
    BatchDocument d = {.begins = b->lines == 0};
    size_t consumed;
    if (d.begins) {
        b->offset = r->offset;
        b->lines = 1;
    }
    if (!reader_fill(r, BATCH_BYTES * (size_t)threads, e) ||
        !array_reserve(&b->documents, &b->document_capacity, 0, 1, sizeof d, e)) {
        return false;
    }
    do {
        size_t left = r->end - r->start, block = min_u64(left, READ_BLOCK);
        if (!array_reserve(&b->pending, &b->pending_capacity, b->pending_length, 3 * block + 1, 1,
                           e)) { // never NULL
            return false;
        }
        b->pending_length +=
            utf8_sanitize(b->pending + b->pending_length, r->data + r->start, block,
                          r->ended && block == left, &consumed, &d.replaced);
        reader_consume(r, consumed);
    } while (consumed > 0 && r->start < r->end);

    d.ends = reader_at_end(r);
    d.offset = b->offset;
    d.length = r->offset - d.offset;
    d.text = b->pending;
    d.text_length = b->pending_length;
    b->documents[b->document_count++] = d;
    return true;
}

// Reads the next documents, or more of the one that a plain text file is, up to byte `end`.
static inline bool batch_read(Batch *b, Reader *r, uint64_t end, const Workers *workers, Error *e) {
    if (b->used) {
        b->pending_length -= b->used;
        memmove(b->pending, b->pending + b->used, b->pending_length);
        b->used = 0;
    }
    b->document_count = b->chunk_count = 0;
    workers_reset(workers);
    return r->source->kind == SOURCE_JSON_LINES ? batch_read_lines_(b, r, end, workers->count, e)
                                                : batch_read_text_(b, r, workers->count, e);
}

// ------------------------------------------------------------------------------------------------
// Parsing

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
static inline bool document_scan_(const CollectOptions *options, Worker *w, BatchDocument *d,
                                  const char *text, size_t length, Error *e) {
    unsigned char record[COLLECT_RECORD_LIMIT];
    CollectVerdict verdict;
    CollectFingerprint fingerprint;
    if (d->begins) {
        collect_begin(w->collect);
    }
    if (!collect_add(w->collect, text, length, e)) {
        return false;
    }
    if (!d->ends) {
        return true;
    }
    if (!collect_end(w->collect, &verdict, &fingerprint, e)) {
        return false;
    }
    collect_store(record, options, &verdict, &fingerprint, d->length);
    return worker_store(w, &d->record, (const char *)record, collect_record_size(options), e);
}

// The options of a parse: with `scan` each text is scanned and let go, without it stored.
typedef struct {
    const char *text_key;
    const CollectOptions *scan;
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
                              const CollectOptions *scan, const Workers *workers, Error *e) {
    const ParseOptions o = {.text_key = text_key, .scan = scan};
    if (kind == SOURCE_JSON_LINES) {
        return batch_parse_lines_(b, &o, workers, e);
    }
    BatchDocument *d = b->documents;
    b->used = d->text_length;
    return document_scan_(scan, workers->items, d, d->text, d->text_length, e);
}

// Looks up which documents of the batch are dropped by a filter or as duplicates.
static inline bool batch_apply_verdicts(Batch *b, VerdictReader *verdicts, Error *e) {
    for (size_t i = 0; i < b->document_count; i++) {
        BatchDocument *d = &b->documents[i];
        if (d->begins) {
            b->dropping = false;
        }
        if (d->begins && d->state == DOCUMENT_KEPT && d->text_length > 0 &&
            !verdicts_take(verdicts, &b->dropping, &b->verdict, e)) {
            return false;
        }
        if (b->dropping) {
            d->state = DOCUMENT_DROPPED;
            d->verdict = b->verdict;
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Cutting

// A place to cut without a tokenizer: behind the last line end or space, else at the end.
static inline size_t line_safe_cut_(const char *text, size_t length) {
    for (size_t i = length; i > 0; i--) {
        if (text[i - 1] == '\n' || text[i - 1] == ' ') {
            return i;
        }
    }
    return length;
}

// Length of the chunk that `text` begins with, looked for in the first b->next_cut bytes of it, of
// which there are more; 0 if there is no place to cut in them.
static inline size_t chunk_length_(const Batch *b, const Tokenizer *tokenizer, const char *text) {
    size_t window = b->next_cut;
    while (((unsigned char)text[window] & 0xC0) == 0x80) {
        window--; // complete characters only
    }
    return tokenizer ? tokenizer_safe_cut(tokenizer, text, window) : line_safe_cut_(text, window);
}

// Cuts the document's text into chunks, up to its end or to where it continues in the next batch.
// Where the cuts are depends on the text alone. Returns the bytes that the chunks take in *used.
static inline bool document_cut_(Batch *b, BatchDocument *d, const Tokenizer *tokenizer,
                                 const char *path, size_t *used, Error *e) {
    if (d->begins) {
        b->next_cut = CHUNK_BYTES;
    }
    while (*used < d->text_length) {
        const char *text = d->text + *used;
        size_t left = d->text_length - *used, cut = left;
        if (left > b->next_cut) {
            cut = chunk_length_(b, tokenizer, text);
        } else if (!d->ends) {
            break;
        }
        if (cut == 0 && b->next_cut >= UNCUT_LIMIT) {
            return fail(e,
                        "%s: the document at byte %llu has %zu bytes without a place to cut; %d "
                        "MiB are supported",
                        path, (unsigned long long)d->offset, b->next_cut, UNCUT_LIMIT >> 20);
        }
        if (cut == 0) {
            b->next_cut *= 2;
            continue;
        }

        if (!array_reserve(&b->chunks, &b->chunk_capacity, b->chunk_count, 1, sizeof *b->chunks,
                           e)) {
            return false;
        }
        b->chunks[b->chunk_count++] =
            (TextChunk){.text = text, .length = cut, .first = d->begins && *used == 0};
        *used += cut;
        b->next_cut = CHUNK_BYTES;
    }
    return true;
}

// Cuts the texts of the documents that are kept into chunks of about CHUNK_BYTES, where the
// tokenizer can cut, or NULL: at spaces and line ends. `path` is the source, for an error.
static inline bool batch_cut(Batch *b, const Tokenizer *tokenizer, const char *path, Error *e) {
    for (size_t i = 0; i < b->document_count; i++) {
        BatchDocument *d = &b->documents[i];
        size_t used = d->state == DOCUMENT_DROPPED ? d->text_length : 0;
        d->first_chunk = b->chunk_count;
        if (!document_cut_(b, d, tokenizer, path, &used, e)) {
            return false;
        }
        d->chunk_count = b->chunk_count - d->first_chunk;
        if (d->ends && d->chunk_count) {
            b->chunks[b->chunk_count - 1].last = true;
        }
        b->used = d->text == b->pending ? used : 0;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Tokenizing

static inline void chunk_encode_(TextChunk *chunk, Worker *w, int worker) {
    int part = (chunk->first ? 0 : TEXT_NOT_FIRST) | (chunk->last ? 0 : TEXT_NOT_LAST);
    chunk->worker = worker;
    chunk->first_token = w->tokens.count;
    w->ok = w->ok && encoder_encode_chunk(&w->encoder, chunk->text, chunk->length, part, &w->tokens,
                                          &w->error);
    chunk->token_count = w->tokens.count - chunk->first_token;
}

// Encodes all chunks; the ids lie in the workers' token buffers.
static inline bool batch_encode(Batch *b, TokenizerModel model, const Workers *workers, Error *e) {
    if (model == MODEL_BYTE_BPE) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(workers->count)
        for (size_t i = 0; i < b->chunk_count; i++) {
            int worker = omp_get_thread_num();
            chunk_encode_(&b->chunks[i], &workers->items[worker], worker);
        }
        return workers_check(workers, e);
    }

    // With other models one encoder must get the chunks of a document in their order: the chunks of
    // a document that extends over several batches always go to worker 0.
#pragma omp parallel for schedule(dynamic, 1) num_threads(workers->count)
    for (size_t i = 0; i < b->document_count; i++) {
        const BatchDocument *d = &b->documents[i];
        int worker = b->document_count > 1 ? omp_get_thread_num() : 0;
        for (size_t k = 0; k < d->chunk_count; k++) {
            chunk_encode_(&b->chunks[d->first_chunk + k], &workers->items[worker], worker);
        }
    }
    return workers_check(workers, e);
}

#endif
