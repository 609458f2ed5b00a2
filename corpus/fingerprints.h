// fingerprints.h: the file of fingerprints from which duplicates are found: one record per
// document, dropped ones included, in corpus order. No header, all numbers little-endian:
//
//   0   exact[16]        first bytes of the SHA-256 of the text
//   16  u64 bytes        of the text
//   24  double value     of the filter verdict
//   32  u64 reason       of the filter verdict (DropReason)
//   40  u16 signature[]  MinHash; only with --near-duplicates
#ifndef CORPUS_FINGERPRINTS_H
#define CORPUS_FINGERPRINTS_H

#include "corpus/filters.h"

enum { FINGERPRINT_SHORT = 40, FINGERPRINT_LIMIT = FINGERPRINT_SHORT + 2 * MINHASH_VALUES };

// A record without its hashes.
typedef struct {
    DropReason reason;
    double value;
    uint64_t bytes;
} FingerprintRecord;

// Bytes of a record under these options.
static inline size_t fingerprint_size(const FilterOptions *o) {
    return o->near_duplicates > 0 ? FINGERPRINT_LIMIT : FINGERPRINT_SHORT;
}

// Writes the first fingerprint_size(o) bytes of `record`, for a text of `bytes` bytes.
static inline void fingerprint_store(unsigned char record[FINGERPRINT_LIMIT],
                                     const FilterOptions *o, const FilterVerdict *verdict,
                                     const Fingerprint *fingerprint, uint64_t bytes) {
    uint64_t value;
    memcpy(&value, &verdict->value, sizeof value);
    memcpy(record, fingerprint->exact, 16);
    store_le(record + 16, bytes, 8);
    store_le(record + 24, value, 8);
    store_le(record + 32, verdict->reason, 8);
    for (int i = 0; o->near_duplicates > 0 && i < MINHASH_VALUES; i++) {
        store_le(record + FINGERPRINT_SHORT + 2 * i, fingerprint->signature[i], 2);
    }
}

// Reads a record; `path` is its file. A reason other than that of a filter is an error.
static inline bool fingerprint_load(FingerprintRecord *out, const unsigned char *record,
                                    const char *path, Error *e) {
    uint64_t value = load_le(record + 24, 8), reason = load_le(record + 32, 8);
    *out = (FingerprintRecord){0};
    if (reason >= DROP_EXACT_DUPLICATE) {
        return fail(
            e,
            "%s: has a record with reason %llu, which is not a filter: not a file of fingerprints",
            path, (unsigned long long)reason);
    }
    *out = (FingerprintRecord){.reason = (DropReason)reason, .bytes = load_le(record + 16, 8)};
    memcpy(&out->value, &value, sizeof value);
    return true;
}

#endif
