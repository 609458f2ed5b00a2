// fingerprints.h: a file with one record per document, dropped ones included, in the order of the
// corpus; no header, little-endian.
#ifndef CORPUS_FINGERPRINTS_H
#define CORPUS_FINGERPRINTS_H

#include "corpus/filters.h"

enum {
    COLLECT_RECORD_SHORT = 40,
    COLLECT_RECORD_LIMIT = COLLECT_RECORD_SHORT + 2 * COLLECT_SIGNATURE
};

typedef struct {
    CollectReason reason;
    double value;
    uint64_t bytes;
} CollectRecord;

// Bytes of a record under these options.
static inline size_t collect_record_size(const CollectOptions *o) {
    return o->near_duplicates > 0 ? COLLECT_RECORD_LIMIT : COLLECT_RECORD_SHORT;
}

// Writes the first collect_record_size(o) bytes of `record`, for a text of `bytes` bytes.
static inline void collect_store(unsigned char record[COLLECT_RECORD_LIMIT],
                                 const CollectOptions *o, const CollectVerdict *verdict,
                                 const CollectFingerprint *fingerprint, uint64_t bytes) {
    uint64_t value;
    memcpy(&value, &verdict->value, sizeof value);
    memcpy(record, fingerprint->exact, 16);
    store_le(record + 16, bytes, 8);
    store_le(record + 24, value, 8);
    store_le(record + 32, verdict->reason, 8);
    for (int i = 0; o->near_duplicates > 0 && i < COLLECT_SIGNATURE; i++) {
        store_le(record + COLLECT_RECORD_SHORT + 2 * i, fingerprint->signature[i], 2);
    }
}

static inline bool collect_load(CollectRecord *out, const unsigned char *record, const char *path,
                                Error *e) {
    uint64_t value = load_le(record + 24, 8), reason = load_le(record + 32, 8);
    *out = (CollectRecord){0};
    if (reason >= COLLECT_EXACT) {
        return fail(
            e,
            "%s: holds the reason %llu, which is no filter's: it is no file of collection records",
            path, (unsigned long long)reason);
    }
    *out = (CollectRecord){.reason = (CollectReason)reason, .bytes = load_le(record + 16, 8)};
    memcpy(&out->value, &value, sizeof value);
    return true;
}

#endif
