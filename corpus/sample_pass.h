// sample_pass.h: the pass that draws the sample of the corpus on which the tokenizer is trained.
#ifndef CORPUS_SAMPLE_PASS_H
#define CORPUS_SAMPLE_PASS_H

#include "corpus/pass.h"
#include "corpus/sample.h"
#include "util/random.h"

typedef struct {
    Sample *sample;
    uint64_t chunks; // of the document at hand, so far
} SamplePass;

static inline bool sampling_process_(UnitRun *u, Error *e) {
    return unit_cut(u, NULL, e);
}

// The priority of a chunk depends on the seed and its place in the corpus alone.
static inline bool sampling_take_(void *state, UnitRun *u, const BatchDocument *d, Error *e) {
    SamplePass *s = state;
    const uint64_t document = random_bits(u->corpus->options->seed, unit_source(u), d->offset);
    s->chunks = d->begins ? 0 : s->chunks;
    for (size_t i = 0; i < d->chunk_count; i++) {
        const TextChunk *chunk = &u->batch.chunks[d->first_chunk + i];
        uint64_t priority = random_bits(document, RANDOM_SAMPLE, s->chunks++);
        if (!sample_add(s->sample, priority, chunk->text, chunk->length, e)) {
            return false;
        }
    }
    return true;
}

// Collective: draws the sample; rank 0 has it. sample_free releases it, after a failure too. On
// failure the line is printed.
static inline bool sample_pass_run(Corpus *c, Sample *sample) {
    Error e = {{0}};
    SamplePass state = {.sample = sample};
    const Pass pass = {.result = "sample.json",
                       .title = "sampling for the tokenizer",
                       .state = &state,
                       .process = sampling_process_,
                       .take = sampling_take_};
    *sample = sample_make(c->options->tokenizer_sample);
    if (!pass_run(c, &pass)) {
        return false;
    }
    sample_agree(sample);
    return world_check(c->world, sample_gather(sample, c->world, &e), &e);
}

#endif
