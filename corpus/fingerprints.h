// fingerprints.h: the file of fingerprints from which duplicates are found: one record per
// document, dropped ones included, in corpus order. No header, all numbers little-endian:
//
//   0   exact[16]        first bytes of the SHA-256 of the text
//   16  double value     that the filter measured
//   24  u64 reason       of the filter (DropReason)
//   32  u16 signature[]  MinHash; only with --near-duplicates
#ifndef CORPUS_FINGERPRINTS_H
#define CORPUS_FINGERPRINTS_H

#include "corpus/filters.h"

enum { FINGERPRINT_SHORT = 32, FINGERPRINT_LIMIT = FINGERPRINT_SHORT + 2 * MINHASH_VALUES };

// Bytes of a record under these options.
static inline size_t fingerprint_size(const FilterOptions *o) {
    return o->near_duplicates > 0 ? FINGERPRINT_LIMIT : FINGERPRINT_SHORT;
}

// Writes all of a record, of which the first fingerprint_size bytes are needed.
static inline void fingerprint_store(unsigned char record[FINGERPRINT_LIMIT],
                                     const Fingerprint *fingerprint) {
    uint64_t value;
    memcpy(&value, &fingerprint->value, sizeof value);
    memcpy(record, fingerprint->exact, 16);
    store_le(record + 16, value, 8);
    store_le(record + 24, fingerprint->reason, 8);
    for (int i = 0; i < MINHASH_VALUES; i++) {
        store_le(record + FINGERPRINT_SHORT + 2 * i, fingerprint->signature[i], 2);
    }
}

// Reads reason and value of a record; `path` is its file. A reason other than that of a filter is
// an error.
static inline bool fingerprint_load(DropReason *reason, double *value, const unsigned char *record,
                                    const char *path, Error *e) {
    uint64_t bits = load_le(record + 16, 8), number = load_le(record + 24, 8);
    if (number >= DROP_EXACT_DUPLICATE) {
        return fail(
            e,
            "%s: has a record with reason %llu, which is not a filter: not a file of fingerprints",
            path, (unsigned long long)number);
    }
    *reason = (DropReason)number;
    memcpy(value, &bits, sizeof bits);
    return true;
}

#endif
