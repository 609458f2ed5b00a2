// batch.h: one data-parallel rank's rows of a step.
#ifndef RUN_BATCH_H
#define RUN_BATCH_H

#include "dataloader.h"
#include "model/memory_ledger.h"
#include "mpi_utils.h"

typedef struct {
    size_t rows, T;
    int32_t *inputs, *targets; // (rows, T)
    int32_t *sample;           // (T + 1): one sample as it is read
    unsigned char *digests;    // (digests, 32): SHA-256 of the samples
} SampleBatch;

// digests: rows, on rank 0 as many as the global batch has.
static inline bool batch_create(SampleBatch *b, MemoryLedger *memory, size_t rows, size_t digests,
                                size_t T, Error *e) {
    b->rows = rows;
    b->T = T;
    b->inputs = ledger_bytes(memory, "samples", rows * T * sizeof *b->inputs, e);
    b->targets = ledger_bytes(memory, "samples", rows * T * sizeof *b->targets, e);
    b->sample = ledger_bytes(memory, "samples", (T + 1) * sizeof *b->sample, e);
    b->digests = ledger_bytes(memory, "samples", DIGEST_BYTES * digests, e);
    return b->inputs && b->targets && b->sample && b->digests;
}

// Row `row` = sample `sample` of a dataset; its targets are one token further.
static inline bool batch_read_row(SampleBatch *b, size_t row, const Dataset *data, uint64_t sample,
                                  size_t vocab_size, Error *e) {
    if (!dataset_read(data, sample, vocab_size, b->sample, e)) {
        return false;
    }
    memcpy(b->inputs + row * b->T, b->sample, b->T * sizeof *b->inputs);
    memcpy(b->targets + row * b->T, b->sample + 1, b->T * sizeof *b->targets);
    return true;
}

// Collective: the hash of a step's samples, on rank 0 into hex, from the tokens that forward is
// about to see.
static inline void batch_hash_step(SampleBatch *b, World *w, size_t global_batch,
                                   char hex[BATCH_HASH_DIGITS + 1]) {
    for (size_t i = 0; i < b->rows; i++) {
        Sha256 hash;
        sha256_begin(&hash);
        sha256_add_tokens(&hash, b->inputs + i * b->T, b->T);
        sha256_add_tokens(&hash, b->targets + (i + 1) * b->T - 1, 1);
        sha256_digest(&hash, b->digests + DIGEST_BYTES * i);
    }
    dp_gather(w, b->digests, b->rows, DIGEST_BYTES);
    if (w->rank == 0) {
        batch_hash(b->digests, global_batch, hex);
    }
}

#endif
