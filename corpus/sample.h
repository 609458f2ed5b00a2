// sample.h: the sample of the corpus that a tokenizer is trained on.
//
// Every chunk of text has a random priority, and the sample is the chunks of lowest priority, as
// many as the limit holds. So each chunk has the same chance, the size of the corpus need not be
// known, and it does not matter which rank meets which chunk.
#ifndef CORPUS_SAMPLE_H
#define CORPUS_SAMPLE_H

#include "mpi_utils.h"
#include "util/array.h"
#include "util/text.h"

typedef struct {
    uint64_t priority;
    char *text;
    size_t length;
} SampleChunk;

typedef struct {
    SampleChunk *chunks;
    size_t count, capacity;
    uint64_t bytes;     // that the chunks take
    uint64_t limit;     // of bytes
    uint64_t threshold; // chunks of this priority or above do not fit
} Sample;

static inline Sample sample_make(uint64_t limit) {
    // At most a terabyte, so that the sums over ranks cannot overflow.
    return (Sample){.limit = min_u64(limit, (uint64_t)1 << 40), .threshold = UINT64_MAX};
}

static inline void sample_free(Sample *s) {
    for (size_t i = 0; i < s->count; i++) {
        free(s->chunks[i].text);
    }
    free(s->chunks);
    *s = (Sample){0};
}

static inline int sample_compare_(const void *a, const void *b) {
    const SampleChunk *x = a, *y = b;
    if (x->priority != y->priority) {
        return x->priority < y->priority ? -1 : 1;
    }
    return (x->length > y->length) - (x->length < y->length);
}

static inline void sample_sort_(Sample *s) {
    if (s->count > 1) {
        qsort(s->chunks, s->count, sizeof *s->chunks, sample_compare_);
    }
}

static inline uint64_t sample_cost_(const SampleChunk *chunk) {
    return chunk->length + sizeof *chunk;
}

// Sorts the chunks by priority and drops those above what the limit holds.
static inline void sample_trim_(Sample *s) {
    size_t kept = 0;
    uint64_t bytes = 0;
    sample_sort_(s);
    while (kept < s->count && bytes + sample_cost_(&s->chunks[kept]) <= s->limit) {
        bytes += sample_cost_(&s->chunks[kept++]);
    }
    if (kept < s->count) {
        s->threshold = s->chunks[kept].priority;
    }
    for (size_t i = kept; i < s->count; i++) {
        free(s->chunks[i].text);
    }
    s->count = kept;
    s->bytes = bytes;
}

static inline bool sample_append_(Sample *s, uint64_t priority, const char *text, size_t length,
                                  Error *e) {
    if (!array_reserve(&s->chunks, &s->capacity, s->count, 1, sizeof *s->chunks, e)) {
        return false;
    }
    SampleChunk chunk = {priority, malloc(length + 1), length};
    if (!chunk.text) {
        return fail(e, "prepare: no memory for the sample for the tokenizer");
    }
    memcpy(chunk.text, text, length);
    s->chunks[s->count++] = chunk;
    s->bytes += sample_cost_(&chunk);
    return true;
}

// Offers a chunk of text to the sample.
static inline bool sample_add(Sample *s, uint64_t priority, const char *text, size_t length,
                              Error *e) {
    if (priority >= s->threshold) {
        return true;
    }
    if (length > s->limit / 16) { // so that no chunk fills the sample
        length = s->limit / 16;
        while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) {
            length--;
        }
    }
    if (!sample_append_(s, priority, text, length, e)) {
        return false;
    }
    if (s->bytes > s->limit + s->limit / 4) {
        sample_trim_(s);
    }
    return true;
}

// Collective: the chunks of lowest priority over all ranks that fit into the limit stay. The first
// priority beyond them is found bit by bit.
static inline void sample_agree(Sample *s) {
    uint64_t beyond = 0; // all chunks of a priority below this fit
    sample_trim_(s);
    for (int bit = 63; bit >= 0; bit--) {
        uint64_t candidate = beyond | (uint64_t)1 << bit;
        uint64_t bytes = candidate > s->threshold ? s->limit + 1 : 0;
        for (size_t i = 0; i < s->count && s->chunks[i].priority < candidate; i++) {
            bytes += sample_cost_(&s->chunks[i]);
        }
        MPI_Allreduce(MPI_IN_PLACE, &bytes, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
        beyond = bytes <= s->limit ? candidate : beyond;
    }
    while (s->count > 0 && s->chunks[s->count - 1].priority >= beyond) {
        free(s->chunks[--s->count].text);
    }
}

// ------------------------------------------------------------------------------------------------
// Gathering: per chunk its priority and length, then its text

static inline bool sample_pack_(TextBuffer *packed, const Sample *s, Error *e) {
    for (size_t i = 0; i < s->count; i++) {
        const SampleChunk *c = &s->chunks[i];
        if (!text_append(packed, (const char *)&c->priority, sizeof c->priority, e) ||
            !text_append(packed, (const char *)&c->length, sizeof c->length, e) ||
            !text_append(packed, c->text, c->length, e)) {
            return false;
        }
    }
    return true;
}

static inline bool sample_unpack_(Sample *s, const char *data, size_t bytes, Error *e) {
    for (size_t at = 0; at < bytes;) {
        uint64_t priority;
        size_t length;
        memcpy(&priority, data + at, sizeof priority);
        memcpy(&length, data + at + sizeof priority, sizeof length);
        at += sizeof priority + sizeof length;
        if (!sample_append_(s, priority, data + at, length, e)) {
            return false;
        }
        at += length;
    }
    return true;
}

// Collective: all chunks come to rank 0, in the order of their priorities.
static inline bool sample_gather(Sample *s, const World *world, Error *e) {
    TextBuffer packed = {0};
    bool ok = true;
    if (world->rank > 0) {
        ok = sample_pack_(&packed, s, e);
        send_bytes(0, packed.data, ok ? packed.length : 0);
        free(packed.data);
    }
    for (int rank = 1; rank < world->size && world->rank == 0; rank++) {
        size_t bytes;
        char *data = receive_bytes(rank, &bytes);
        ok = ok && sample_unpack_(s, data, bytes, e);
        free(data);
    }
    sample_sort_(s);
    return ok;
}

#endif
