// duplicates.h: marks exact duplicates and near-duplicates among all documents of a corpus. The
// scan pass (scan_pass.h) stores the marks as verdicts; the encode pass (batch_encode.h) drops the
// documents.
//
// Locality-sensitive hashing (LSH): a MinHash signature is divided into bands of `rows` values. Two
// documents of Jaccard similarity J agree in a band with probability J^rows, and in at least one
// band with probability 1 - (1 - J^rows)^bands. Such candidate pairs are compared by their complete
// signatures.
//
// A table of keys, one column for the exact hash of the text and one for each band, is written to a
// scratch file. In each column, documents with the same key form a bucket, in which each document
// is compared with the earlier ones that are still kept, at most the first LSH_BUCKET of them, and
// is dropped as a duplicate of the first one that matches. So a bucket of n documents takes at most
// LSH_BUCKET * n comparisons. A document that is dropped in one column is absent from the next
// ones.
//
// If a near-duplicate's match is itself dropped in a later column, as a duplicate of a third
// document, it is compared with that one, and restored if the two are not similar. Then all columns
// are searched again, but only the buckets of restored documents, until none is restored. (Each
// round settles at least the first unsettled document, so this terminates.) In the end, each
// near-duplicate is similar to an earlier document that is kept, and no two kept documents share a
// band and are similar, as if the documents had been processed one by one. Only in buckets of more
// than LSH_BUCKET kept documents may a pair be missed. An exact duplicate refers to the first
// document with the same text, whether or not that one is kept.
//
// N documents take 17 N bytes of memory (21 N if most are restored) and 4 N (bands + 1) bytes of
// the scratch file.
#ifndef CORPUS_DUPLICATES_H
#define CORPUS_DUPLICATES_H

#include "corpus/fingerprints.h"
#include "shards/numbers.h"

enum {
    LSH_BUCKET = 64,
    KEY_RANGES_ = 256,     // the keys of a column are partitioned by their upper 8 bits
    RECORD_BLOCK_ = 4096,  // records read at a time
    WANTED_BITS_ = 1 << 20 // of DuplicateSearch_.wanted
};

static const uint32_t NO_DOCUMENT = UINT32_MAX;

typedef struct {
    int rows, bands; // rows * bands <= MINHASH_VALUES
} LshBands;

// The most rows per band, hence the fewest false candidates, such that a pair at the similarity
// threshold becomes a candidate with probability 0.98.
static inline LshBands lsh_bands(double threshold) {
    LshBands best = {1, MINHASH_VALUES};
    double agree = 1;
    for (int rows = 1; rows <= MINHASH_VALUES; rows++) {
        int bands = MINHASH_VALUES / rows;
        double miss = 1;
        agree *= threshold;
        for (int i = 0; i < bands; i++) {
            miss *= 1 - agree;
        }
        if (miss <= 0.02) {
            best = (LshBands){rows, bands};
        }
    }
    return best;
}

typedef struct {
    size_t documents;
    uint8_t *reason;   // (documents) DropReason: that of the filters, or of this search
    uint32_t *of;      // (documents) the earlier document that it duplicates, or NO_DOCUMENT
    float *similarity; // (documents) estimated, to that document; 0 if there is none
} Duplicates;

// Frees a result.
static inline void duplicates_free(Duplicates *r) {
    free(r->reason);
    free(r->of);
    free(r->similarity);
    *r = (Duplicates){0};
}

typedef struct {
    const FilterOptions *options;
    LshBands bands;
    size_t record; // bytes of a record
    const char *path, *scratch_path;
    int file, scratch; // the records, and the table of keys
    Duplicates *result;
    uint64_t *keys;     // (documents) of a column: key << 32 | document, partitioned by KEY_RANGES_
    uint32_t *restored; // (restored_count) documents restored in the last round
    size_t restored_count, restored_capacity;
    uint64_t *wanted; // (WANTED_BITS_ / 64) bit key >> 12: whether this round searches such keys
} DuplicateSearch_;

// Where a column begins in the scratch file. Column 0 is the exact hash, column 1 + i is band i.
static inline uint64_t column_offset_(const DuplicateSearch_ *d, int column) {
    return (uint64_t)column * d->result->documents * 4;
}

// The key of a record in a column.
static inline uint32_t column_key_(const DuplicateSearch_ *d, const unsigned char *record,
                                   int column) {
    size_t bytes = 2 * (size_t)d->bands.rows;
    const unsigned char *band = record + FINGERPRINT_SHORT + (size_t)(column - 1) * bytes;
    if (column == 0) {
        return (uint32_t)load_le(record, 4);
    }
    return (uint32_t)(hash_mix(hash_bytes(HASH_START, (const char *)band, bytes)) >> 32);
}

// Reads the records of documents first .. first + count - 1; stores their reasons in the result and
// their keys in the scratch file.
static inline bool columns_block_(DuplicateSearch_ *d, size_t first, size_t count, Error *e) {
    unsigned char *records = malloc(count * d->record), *keys = malloc(4 * count);
    bool ok = (records && keys) || fail(e, "duplicates: no memory for a block of records");
    ok = ok && read_at(d->file, d->path, records, count * d->record, first * d->record, e);
    for (size_t i = 0; ok && i < count; i++) {
        DropReason reason = DROP_NONE;
        double value;
        ok = fingerprint_load(&reason, &value, records + i * d->record, d->path, e);
        d->result->reason[first + i] = (uint8_t)reason;
    }
    for (int column = 0; ok && column <= d->bands.bands; column++) {
        for (size_t i = 0; i < count; i++) {
            store_le(keys + 4 * i, column_key_(d, records + i * d->record, column), 4);
        }
        ok = write_at(d->scratch, d->scratch_path, keys, 4 * count,
                      column_offset_(d, column) + 4 * first, e);
    }
    free(records);
    free(keys);
    return ok;
}

// Fills the scratch file.
static inline bool columns_write_(DuplicateSearch_ *d, Error *e) {
    const size_t documents = d->result->documents;
    bool ok = true;
#pragma omp parallel for schedule(dynamic)
    for (size_t first = 0; first < documents; first += RECORD_BLOCK_) {
        Error why;
        if (!columns_block_(d, first, min_u64(RECORD_BLOCK_, documents - first), &why)) {
#pragma omp critical(duplicates_error)
            *e = why, ok = false;
        }
    }
    return ok;
}

// Sets the bits of `wanted` for the keys of the restored documents.
static inline bool keys_want_(DuplicateSearch_ *d, int column, Error *e) {
    memset(d->wanted, 0, WANTED_BITS_ / 8);
    for (size_t i = 0; i < d->restored_count; i++) {
        unsigned char bytes[4];
        if (!read_at(d->scratch, d->scratch_path, bytes, 4,
                     column_offset_(d, column) + 4 * (uint64_t)d->restored[i], e)) {
            return false;
        }
        uint32_t bit = (uint32_t)load_le(bytes, 4) >> 12;
        d->wanted[bit / 64] |= UINT64_C(1) << bit % 64;
    }
    return true;
}

// Counts (`place` false) or stores the wanted keys of the documents that are still kept, by range.
// Within a range, documents stay in order.
static inline bool keys_pass_(DuplicateSearch_ *d, int column, size_t begin[KEY_RANGES_ + 1],
                              bool place, Error *e) {
    const size_t documents = d->result->documents;
    NumberReader keys = {d->scratch, d->scratch_path, column_offset_(d, column), documents,
                         .bytes = 4};
    for (size_t i = 0; i < documents; i++) {
        uint64_t key;
        if (!number_next(&keys, &key, e)) {
            return false;
        }
        if (d->result->reason[i] != DROP_NONE || !(d->wanted[key >> 18] >> (key >> 12) % 64 & 1)) {
            continue;
        }
        if (place) {
            d->keys[begin[key >> 24]++] = key << 32 | i;
        } else {
            begin[(key >> 24) + 1]++;
        }
    }
    return true;
}

// Sorts by the lower 24 bits of the key (bits 55 to 32): radix sort, stable. `spare` has room for
// as many keys.
static inline void keys_sort_(uint64_t *keys, uint64_t *spare, size_t count) {
    for (int shift = 32; shift < 56; shift += 12) {
        size_t begin[4097] = {0};
        for (size_t i = 0; i < count; i++) {
            begin[(keys[i] >> shift) % 4096 + 1]++;
        }
        for (int i = 0; i < 4096; i++) {
            begin[i + 1] += begin[i];
        }
        for (size_t i = 0; i < count; i++) {
            spare[begin[(keys[i] >> shift) % 4096]++] = keys[i];
        }
        uint64_t *sorted = spare;
        spare = keys, keys = sorted;
    }
}

// Reads the value of a document that is compared: the exact hash or the signature.
static inline bool compared_read_(const DuplicateSearch_ *d, uint32_t document, bool exact,
                                  unsigned char *out, Error *e) {
    return read_at(d->file, d->path, out, exact ? 16 : 2 * MINHASH_VALUES,
                   document * d->record + (exact ? 0 : FINGERPRINT_SHORT), e);
}

// 1 or 0 for exact hashes, estimated Jaccard similarity for signatures.
static inline double compared_similarity_(const unsigned char *a, const unsigned char *b,
                                          bool exact) {
    int equal = 0;
    if (exact) {
        return memcmp(a, b, 16) == 0;
    }
    for (int i = 0; i < MINHASH_VALUES; i++) {
        equal += a[2 * i] == b[2 * i] && a[2 * i + 1] == b[2 * i + 1];
    }
    return equal / (double)MINHASH_VALUES;
}

// Finds duplicates in a bucket: documents with the same key, in order.
static inline bool bucket_compare_(DuplicateSearch_ *d, const uint64_t *keys, size_t count,
                                   bool exact, Error *e) {
    // Values of the kept documents, then that of the current one.
    unsigned char compared[LSH_BUCKET + 1][2 * MINHASH_VALUES];
    uint32_t kept[LSH_BUCKET + 1];
    size_t kept_count = 0;
    const double threshold = exact ? 1 : d->options->near_duplicates;
    Duplicates *r = d->result;
    for (size_t i = 0; i < count; i++) {
        uint32_t document = (uint32_t)keys[i];
        double similarity = 0;
        size_t k = 0;
        if (!compared_read_(d, document, exact, compared[kept_count], e)) {
            return false;
        }
        while (k < kept_count && (similarity = compared_similarity_(
                                      compared[k], compared[kept_count], exact)) < threshold) {
            k++;
        }
        if (k < kept_count) {
            r->reason[document] = exact ? DROP_EXACT_DUPLICATE : DROP_NEAR_DUPLICATE;
            r->of[document] = kept[k];
            r->similarity[document] = (float)similarity;
        } else if (kept_count < LSH_BUCKET) {
            kept[kept_count++] = document;
        }
    }
    return true;
}

// Finds duplicates among the keys of a range.
static inline bool range_compare_(DuplicateSearch_ *d, uint64_t *keys, size_t count, bool exact,
                                  Error *e) {
    if (count < 2) {
        return true;
    }
    uint64_t *spare = malloc(count * sizeof *spare);
    if (!spare) {
        return fail(e, "duplicates: no memory to sort %zu keys", count);
    }
    keys_sort_(keys, spare, count);
    free(spare);
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && keys[end] >> 32 == keys[i] >> 32;) {
            end++;
        }
        if (end - i > 1 && !bucket_compare_(d, keys + i, end - i, exact, e)) {
            return false;
        }
    }
    return true;
}

// Finds duplicates in a column. In a column each document is in one range only, so ranges are
// searched in parallel.
static inline bool column_compare_(DuplicateSearch_ *d, int column, Error *e) {
    size_t begin[KEY_RANGES_ + 1] = {0}, end[KEY_RANGES_ + 1];
    bool ok = keys_pass_(d, column, begin, false, e);
    for (int p = 0; p < KEY_RANGES_; p++) {
        begin[p + 1] += begin[p];
    }
    memcpy(end, begin, sizeof end);
    if (!ok || !keys_pass_(d, column, end, true, e)) {
        return false;
    }
#pragma omp parallel for schedule(dynamic)
    for (int p = 0; p < KEY_RANGES_; p++) {
        Error why;
        if (!range_compare_(d, d->keys + begin[p], begin[p + 1] - begin[p], column == 0, &why)) {
#pragma omp critical(duplicates_error)
            *e = why, ok = false;
        }
    }
    return ok;
}

// Compares a near-duplicate, whose match was dropped, with the match of that one: it becomes a
// duplicate of that document if they are similar, else it is restored.
static inline bool chain_shorten_(DuplicateSearch_ *d, uint32_t document, bool *similar, Error *e) {
    unsigned char compared[2][2 * MINHASH_VALUES];
    Duplicates *r = d->result;
    uint32_t to = r->of[r->of[document]];
    if (!compared_read_(d, document, false, compared[0], e) ||
        !compared_read_(d, to, false, compared[1], e)) {
        return false;
    }
    double similarity = compared_similarity_(compared[0], compared[1], false);
    *similar = similarity >= d->options->near_duplicates;
    r->reason[document] = *similar ? DROP_NEAR_DUPLICATE : DROP_NONE;
    r->of[document] = *similar ? to : NO_DOCUMENT;
    r->similarity[document] = *similar ? (float)similarity : 0;
    return true;
}

// Settles the near-duplicates whose match was dropped; in order, so that the match of a document is
// settled before it.
static inline bool chains_settle_(DuplicateSearch_ *d, Error *e) {
    Duplicates *r = d->result;
    d->restored_count = 0;
    for (size_t i = 0; i < r->documents; i++) {
        bool similar = true;
        if (r->reason[i] == DROP_NEAR_DUPLICATE && r->reason[r->of[i]] != DROP_NONE &&
            (!chain_shorten_(d, (uint32_t)i, &similar, e) ||
             !array_reserve(&d->restored, &d->restored_capacity, d->restored_count, 1,
                            sizeof *d->restored, e))) {
            return false;
        }
        if (!similar) {
            d->restored[d->restored_count++] = (uint32_t)i;
        }
    }
    return true;
}

// Opens the records and counts their documents.
static inline bool records_open_(DuplicateSearch_ *d, Error *e) {
    uint64_t bytes;
    d->file = open_regular(d->path, &bytes, e);
    if (d->file < 0) {
        return false;
    }
    d->result->documents = bytes / d->record;
    return (bytes % d->record == 0 && d->result->documents < NO_DOCUMENT) ||
           fail(e, "%s: has %llu bytes, which is %s", d->path, (unsigned long long)bytes,
                bytes % d->record ? "not a multiple of the record size"
                                  : "more than 4,294,967,294 documents");
}

// Allocates the arrays of the result.
static inline bool result_allocate_(Duplicates *r, Error *e) {
    r->reason = calloc(r->documents + 1, sizeof *r->reason);
    r->of = malloc(r->documents * sizeof *r->of + 1);
    r->similarity = calloc(r->documents + 1, sizeof *r->similarity);
    if (!r->reason || !r->of || !r->similarity) {
        return fail(e, "duplicates: no memory for %zu documents", r->documents);
    }
    memset(r->of, 0xFF, r->documents * sizeof *r->of); // NO_DOCUMENT
    return true;
}

// The search; duplicates_find frees the state.
static inline bool duplicates_run_(DuplicateSearch_ *d, Error *e) {
    if (!records_open_(d, e) || !result_allocate_(d->result, e)) {
        return false;
    }

    // The scratch file.
    d->scratch = open(d->scratch_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (d->scratch < 0) {
        return fail(e, "%s: cannot be created: %s", d->scratch_path, strerror(errno));
    }
    unlink(d->scratch_path); // so that it disappears when it is closed, even by a kill
    if (!columns_write_(d, e)) {
        return false;
    }

    // Exact duplicates, from all keys.
    d->keys = malloc(d->result->documents * sizeof *d->keys + 1);
    d->wanted = malloc(WANTED_BITS_ / 8);
    if (!d->keys || !d->wanted) {
        return fail(e, "duplicates: no memory for the keys of %zu documents", d->result->documents);
    }
    memset(d->wanted, 0xFF, WANTED_BITS_ / 8);
    if (d->options->exact && !column_compare_(d, 0, e)) {
        return false;
    }

    // Near-duplicates, in rounds.
    do {
        for (int column = 1; column <= d->bands.bands; column++) {
            if ((d->restored_count > 0 && !keys_want_(d, column, e)) ||
                !column_compare_(d, column, e)) {
                return false;
            }
        }
        if (!chains_settle_(d, e)) {
            return false;
        }
    } while (d->restored_count > 0);
    return true;
}

// Finds the duplicates among all documents of the file of fingerprints at `path`, which was written
// with the same options. scratch_path names a file that does not exist yet. Parallel over OpenMP
// threads. The caller frees *out with duplicates_free; on failure there is nothing to free.
static inline bool duplicates_find(Duplicates *out, const char *path, const char *scratch_path,
                                   const FilterOptions *o, Error *e) {
    DuplicateSearch_ d = {.options = o,
                          .record = fingerprint_size(o),
                          .path = path,
                          .scratch_path = scratch_path,
                          .file = -1,
                          .scratch = -1,
                          .result = out};
    *out = (Duplicates){0};
    if (o->near_duplicates > 0) {
        d.bands = lsh_bands(o->near_duplicates);
    }
    bool ok = duplicates_run_(&d, e);
    close_if_open(d.file);
    close_if_open(d.scratch);
    free(d.keys);
    free(d.restored);
    free(d.wanted);
    if (!ok) {
        duplicates_free(out);
    }
    return ok;
}

#endif
