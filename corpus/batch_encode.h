// batch_encode.h: which documents of a batch are dropped; the texts of the others cut into chunks
// and tokenized.
#ifndef CORPUS_BATCH_ENCODE_H
#define CORPUS_BATCH_ENCODE_H

#include "corpus/batch.h"

enum {
    CHUNK_BYTES = 1 << 18, // of a chunk of text, about
    UNCUT_LIMIT = 1 << 24  // the longest stretch of text without a place to cut, of which the
                           // encoder needs some 40 times as much memory
};

// Looks up which documents of the batch are dropped by a filter or as duplicates.
static inline bool batch_apply_verdicts(Batch *b, VerdictReader *verdicts, Error *e) {
    for (size_t i = 0; i < b->document_count; i++) {
        BatchDocument *d = &b->documents[i];
        if (d->begins) {
            b->verdict = (Verdict){0};
        }
        if (d->begins && d->state == DOCUMENT_KEPT && d->text_length > 0 &&
            !verdicts_take(verdicts, &b->verdict, e)) {
            return false;
        }
        if (b->verdict.reason) {
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
// Where the cuts are depends on the text alone.
static inline bool document_cut_(Batch *b, BatchDocument *d, const Tokenizer *tokenizer,
                                 const char *path, Error *e) {
    const bool begins = d->begins || b->text_bytes == 0; // also if no batch could cut it so far
    if (d->begins) {
        b->next_cut = CHUNK_BYTES;
    }
    while (d->used < d->text_length) {
        const char *text = d->text + d->used;
        size_t left = d->text_length - d->used, cut = left;
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
            (TextChunk){.text = text, .length = cut, .first = begins && d->used == 0};
        d->used += cut;
        b->next_cut = CHUNK_BYTES;
    }
    return true;
}

// Cuts the texts of the documents that are kept into chunks of about CHUNK_BYTES, where the
// tokenizer can cut, or NULL: at spaces and line ends. `path` is the source, for an error.
static inline bool batch_cut(Batch *b, const Tokenizer *tokenizer, const char *path, Error *e) {
    for (size_t i = 0; i < b->document_count; i++) {
        BatchDocument *d = &b->documents[i];
        d->used = d->state == DOCUMENT_DROPPED ? d->text_length : 0;
        d->first_chunk = b->chunk_count;
        if (!document_cut_(b, d, tokenizer, path, e)) {
            return false;
        }
        d->chunk_count = b->chunk_count - d->first_chunk;
        if (d->ends && d->chunk_count) {
            b->chunks[b->chunk_count - 1].last = true;
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Tokenizing

static inline void chunk_encode_(TextChunk *chunk, Worker *w, int worker) {
    int flags = (chunk->first ? 0 : TEXT_NOT_FIRST) | (chunk->last ? 0 : TEXT_NOT_LAST);
    chunk->worker = worker;
    chunk->first_token = w->tokens.count;
    w->ok = w->ok && encoder_encode_chunk(&w->encoder, chunk->text, chunk->length, flags,
                                          &w->tokens, &w->error);
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
