// batch.h: some documents of a unit, which the threads of a rank work on together: read here,
// parsed in batch_parse.h, tokenized in batch_encode.h.
#ifndef CORPUS_BATCH_H
#define CORPUS_BATCH_H

#include "corpus/reader.h"
#include "corpus/verdicts.h"
#include "corpus/workers.h"
#include "shards/origins.h"

// For each thread of a rank: bytes of its source that a batch takes about, and documents at most.
enum { BATCH_BYTES = 1 << 20, BATCH_DOCUMENTS = 4096 };

enum { LINE_LIMIT = 1 << 28 }; // the longest line of JSON Lines, in bytes

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
    const char *text;        // well-formed UTF-8; once it is scanned, not of JSON Lines
    size_t text_length;
    size_t used;       // bytes of the text that are done with; plain text keeps the rest
    uint64_t replaced; // ill-formed UTF-8 sequences in it
    Verdict verdict;   // if it is DOCUMENT_DROPPED

    int worker;                          // in whose store the spans lie
    Span record;                         // once it is scanned: for duplicates_find
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

    // Of the unit. Its last document so far may continue in the next batch.
    uint64_t lines;      // read so far; plain text counts as one
    Verdict verdict;     // on the last document
    uint64_t text_bytes; // of the last document that are used
    size_t next_cut;     // bytes of the last document's text in which to look for a place to cut

    TextBuffer pending; // plain text: read and not yet used
} Batch;

// Starts a unit.
static inline void batch_begin_unit(Batch *b) {
    b->lines = 0;
    b->pending.length = 0;
}

static inline void batch_free(Batch *b) {
    free(b->documents);
    free(b->chunks);
    free(b->pending.data);
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
    const size_t most = BATCH_DOCUMENTS * (size_t)threads;
    const uint64_t stop = min_u64(end, r->offset + BATCH_BYTES * (uint64_t)threads);
    if (!batch_fill_lines_(r, stop - r->offset, e)) {
        return false;
    }
    while (r->start < r->end && r->offset < stop && b->document_count < most) {
        const char *text = r->data + r->start;
        const size_t left = r->end - r->start;
        const char *newline = memchr(text, '\n', left);
        if (!newline && !r->ended) {
            break;
        }
        if (!array_reserve(&b->documents, &b->document_capacity, b->document_count, 1,
                           sizeof *b->documents, e)) {
            return false;
        }
        size_t length = newline ? (size_t)(newline - text) : left;
        bool carriage_return =
            length > 0 && text[length - 1] == '\r'; // one is part of the line end
        b->documents[b->document_count++] = (BatchDocument){.begins = true,
                                                            .ends = true,
                                                            .offset = r->offset,
                                                            .line = ++b->lines,
                                                            .line_text = text,
                                                            .length = length - carriage_return};
        // The data stay where they are until the reader reads on.
        reader_consume(r, length + (newline != NULL));
    }
    return true;
}

// Takes more of a plain text file, which is one document, into the batch.
static inline bool batch_read_text_(Batch *b, Reader *r, int threads, Error *e) {
    TextBuffer *pending = &b->pending;
    BatchDocument d = {.begins = b->lines == 0, .offset = r->offset};
    size_t consumed;
    b->lines = 1;
    if (!d.begins) {
        const BatchDocument *before = b->documents;
        d.offset = before->offset;
        pending->length -= before->used;
        memmove(pending->data, pending->data + before->used, pending->length);
    }
    if (!reader_fill(r, BATCH_BYTES * (size_t)threads, e) ||
        !array_reserve(&b->documents, &b->document_capacity, 0, 1, sizeof d, e)) {
        return false;
    }
    do {
        size_t left = r->end - r->start, block = min_u64(left, READ_BLOCK);
        if (!array_reserve(&pending->data, &pending->capacity, pending->length, 3 * block + 1, 1,
                           e)) { // never NULL
            return false;
        }
        pending->length += utf8_sanitize(pending->data + pending->length, r->data + r->start, block,
                                         r->ended && block == left, &consumed, &d.replaced);
        reader_consume(r, consumed);
    } while (consumed > 0 && r->start < r->end);

    d.ends = reader_at_end(r);
    d.length = r->offset - d.offset;
    d.text = pending->data;
    d.text_length = pending->length;
    b->documents[b->document_count++] = d;
    return true;
}

// Reads the next documents, or more of the one that a plain text file is, up to byte `end`.
static inline bool batch_read(Batch *b, Reader *r, uint64_t end, const Workers *workers, Error *e) {
    b->document_count = b->chunk_count = 0;
    workers_reset(workers);
    return r->source->kind == SOURCE_JSON_LINES ? batch_read_lines_(b, r, end, workers->count, e)
                                                : batch_read_text_(b, r, workers->count, e);
}

#endif
