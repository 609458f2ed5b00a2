// sample_pass.h: the pass that draws the sample of the corpus on which the tokenizer is trained.
#ifndef CORPUS_SAMPLE_PASS_H
#define CORPUS_SAMPLE_PASS_H

#include "corpus/pass.h"
#include "corpus/sample.h"
#include "util/random.h"

typedef struct {
    const UnitList *units;
    const char *text_key;
    uint64_t seed;
    const Workers *workers;
    VerdictReader *verdicts;
    Sample *sample;
    uint32_t source;             // number of the unit's source
    uint64_t text_bytes, chunks; // of the document at hand, so far
} SamplePass;

static inline bool sampling_begin_(void *state, size_t unit, Error *e) {
    SamplePass *s = state;
    s->source = s->units->items[unit].source;
    return verdicts_seek(s->verdicts, unit, e);
}

// The priority of a chunk depends on the seed and its place in the corpus alone.
static inline bool sampling_document_(SamplePass *s, const Batch *b, const BatchDocument *d,
                                      UnitResult *r, Error *e) {
    const uint64_t document = random_bits(s->seed, s->source, d->offset);
    if (d->begins) {
        s->text_bytes = s->chunks = 0;
    }
    for (size_t i = 0; i < d->chunk_count; i++) {
        const TextChunk *chunk = &b->chunks[d->first_chunk + i];
        uint64_t priority = random_bits(document, RANDOM_SAMPLE, s->chunks++);
        if (!sample_add(s->sample, priority, chunk->text, chunk->length, e)) {
            return false;
        }
        s->text_bytes += chunk->length;
    }
    if (d->ends) {
        pass_end_document(r, s->text_bytes);
    }
    return true;
}

static inline bool sampling_take_(void *state, const Source *source, Batch *b, UnitResult *r,
                                  Error *e) {
    SamplePass *s = state;
    bool ok = batch_parse(b, source->kind, s->text_key, s->workers, e) &&
              batch_apply_verdicts(b, s->verdicts, e) && batch_cut(b, NULL, source->path, e);
    for (size_t i = 0; ok && i < b->document_count; i++) {
        const BatchDocument *d = &b->documents[i];
        ok = pass_count_document(r, d, s->workers, e) &&
             (d->state != DOCUMENT_KEPT || sampling_document_(s, b, d, r, e));
    }
    return ok;
}

// Collective: draws the sample; rank 0 has it. sample_free releases it, after a failure too. On
// failure the line is printed.
static inline bool sample_pass_run(Corpus *c, VerdictReader *verdicts, Sample *sample) {
    Error e = {{0}};
    SamplePass state = {.units = &c->units,
                        .text_key = c->options->text_key,
                        .seed = c->options->seed,
                        .workers = &c->workers,
                        .verdicts = verdicts,
                        .sample = sample};
    const Pass pass = {.name = "sample",
                       .title = "sampling for the tokenizer",
                       .state = &state,
                       .begin = sampling_begin_,
                       .take = sampling_take_};
    *sample = sample_make(c->options->tokenizer_sample);
    if (!pass_run(c, &pass)) {
        return false;
    }
    sample_agree(sample);
    return world_check(c->world, sample_gather(sample, c->world, &e), &e);
}

#endif
