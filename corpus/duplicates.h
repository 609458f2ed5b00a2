// duplicates.h: exact duplicates and near-duplicates among all documents of a corpus.
//
// Locality-sensitive hashing: a signature is cut into bands of `rows` values. Two documents of
// similarity J agree in all of a band with probability J^rows, and in at least one of the bands
// with 1 - (1 - J^rows)^bands. Those that do are compared by their whole signatures.
//
// A table of keys, one column for the texts' exact hash and one for each band, goes to a scratch
// file. Column by column, documents with the same key form a bucket; in it each one is compared
// with the earlier ones that were kept so far, the first COLLECT_BUCKET of them at most, and goes
// with the first that matches. So a bucket of n documents costs at most COLLECT_BUCKET * n
// comparisons. A document that gave way in one column is absent from the next.
//
// A near-duplicate whose match gave way to a third in a later column is compared with that one, and
// comes back if the two are not similar. Then the columns are gone through again, but only the
// buckets of those that came back, until none does. (Each round makes at least the first document
// final that was not, so this ends.) In the end each near-duplicate is similar to an earlier
// document that is kept, and no two that are kept share a band and are similar, as if the documents
// had come one by one. Only in buckets of more than COLLECT_BUCKET kept documents may a pair be
// missed. An exact duplicate names the first document with its text, whatever became of that one.
//
// N documents take 17 N bytes of memory (21 N if most come back), and 4 N (bands + 1) of the
// scratch file.
#ifndef CORPUS_DUPLICATES_H
#define CORPUS_DUPLICATES_H

#include "corpus/fingerprints.h"

enum {
    COLLECT_BUCKET = 64,
    COLLECT_PARTS_ = 256,
    COLLECT_BLOCK_ = 4096,
    COLLECT_WANTED_ = 1 << 20
};

static const uint32_t COLLECT_NONE = UINT32_MAX;

typedef struct {
    int rows, bands; // rows * bands <= COLLECT_SIGNATURE
} CollectBands;

// The most rows, and so the fewest comparisons in vain, with which a pair at the threshold meets
// with probability 0.98.
static inline CollectBands collect_bands(double threshold) {
    CollectBands best = {1, COLLECT_SIGNATURE};
    double agree = 1;
    for (int rows = 1; rows <= COLLECT_SIGNATURE; rows++) {
        int bands = COLLECT_SIGNATURE / rows;
        double miss = 1;
        agree *= threshold;
        for (int i = 0; i < bands; i++) {
            miss *= 1 - agree;
        }
        if (miss <= 0.02) {
            best = (CollectBands){rows, bands};
        }
    }
    return best;
}

typedef struct {
    size_t documents;
    uint8_t *reason; // [documents] CollectReason: of the filters as recorded, or what came out here
    uint32_t *of;    // [documents] the earlier document that a duplicate repeats, else COLLECT_NONE
    float *similarity; // [documents] to that one, else 0
} CollectResult;

static inline void collect_result_free(CollectResult *r) {
    free(r->reason);
    free(r->of);
    free(r->similarity);
    *r = (CollectResult){0};
}

typedef struct {
    const char *path;
    int file;
    size_t first, count; // its documents
} CollectFile_;

typedef struct {
    const CollectOptions *options;
    CollectBands bands;
    size_t record;       // bytes
    CollectFile_ *files; // [file_count]
    size_t file_count;
    const char *scratch_path;
    int scratch;
    CollectResult *result;
    uint64_t
        *keys; // [documents] of a column: key << 32 | document, by parts of the key's upper 8 bits
    uint32_t *back; // [back_count] documents that came back in the last round
    size_t back_count, back_capacity;
    uint64_t *wanted; // [COLLECT_WANTED_ / 64] bit key >> 12: whether this round looks at such keys
} CollectDuplicates_;

// Column 0 is the exact hash, column 1 + i is band i.
static inline uint64_t column_offset_(const CollectDuplicates_ *d, int column) {
    return (uint64_t)column * d->result->documents * 4;
}

static inline uint32_t column_key_(const CollectDuplicates_ *d, const unsigned char *record,
                                   int column) {
    size_t bytes = 2 * (size_t)d->bands.rows;
    const unsigned char *band = record + COLLECT_RECORD_SHORT + (size_t)(column - 1) * bytes;
    return column == 0
               ? (uint32_t)load_le(record, 4)
               : (uint32_t)(hash_mix(hash_bytes(HASH_START, (const char *)band, bytes)) >> 32);
}

static inline bool scratch_write_(const CollectDuplicates_ *d, const void *data, size_t bytes,
                                  uint64_t offset, Error *e) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n =
            pwrite(d->scratch, (const char *)data + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR) {
            return fail(e, "%s: cannot be written: %s", d->scratch_path, strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// Reads the records of documents first .. first + count - 1 of a file; their reasons and keys go
// where they belong.
static inline bool columns_block_(CollectDuplicates_ *d, const CollectFile_ *file, size_t first,
                                  size_t count, Error *e) {
    unsigned char *records = malloc(count * d->record), *keys = malloc(4 * count);
    bool ok = (records && keys) || fail(e, "collect: no memory for a block of records");
    ok = ok && read_at(file->file, file->path, records, count * d->record, first * d->record, e);
    for (size_t i = 0; ok && i < count; i++) {
        CollectRecord record;
        ok = collect_load(&record, records + i * d->record, file->path, e);
        d->result->reason[file->first + first + i] = (uint8_t)record.reason;
    }
    for (int column = 0; ok && column <= d->bands.bands; column++) {
        for (size_t i = 0; i < count; i++) {
            store_le(keys + 4 * i, column_key_(d, records + i * d->record, column), 4);
        }
        ok = scratch_write_(d, keys, 4 * count,
                            column_offset_(d, column) + 4 * (file->first + first), e);
    }
    free(records);
    free(keys);
    return ok;
}

static inline bool columns_write_(CollectDuplicates_ *d, Error *e) {
    bool ok = true;
    for (size_t f = 0; f < d->file_count; f++) {
        const CollectFile_ *file = &d->files[f];
#pragma omp parallel for schedule(dynamic)
        for (size_t first = 0; first < file->count; first += COLLECT_BLOCK_) {
            Error why;
            if (!columns_block_(d, file, first, min_u64(COLLECT_BLOCK_, file->count - first),
                                &why)) {
#pragma omp critical(collect_error)
                *e = why, ok = false;
            }
        }
    }
    return ok;
}

// Sets the bits of the keys that documents have which came back.
static inline bool keys_want_(CollectDuplicates_ *d, int column, Error *e) {
    memset(d->wanted, 0, COLLECT_WANTED_ / 8);
    for (size_t i = 0; i < d->back_count; i++) {
        unsigned char bytes[4];
        if (!read_at(d->scratch, d->scratch_path, bytes, 4,
                     column_offset_(d, column) + 4 * (uint64_t)d->back[i], e)) {
            return false;
        }
        uint32_t bit = (uint32_t)load_le(bytes, 4) >> 12;
        d->wanted[bit / 64] |= UINT64_C(1) << bit % 64;
    }
    return true;
}

// Counts (`place` false) or places the wanted keys of the documents that are still kept. The
// documents of a part stay in order.
static inline bool collect_keys_pass_(CollectDuplicates_ *d, int column,
                                      size_t begin[COLLECT_PARTS_ + 1], bool place, Error *e) {
    unsigned char block[4 * COLLECT_BLOCK_];
    for (size_t first = 0; first < d->result->documents; first += COLLECT_BLOCK_) {
        size_t count = min_u64(COLLECT_BLOCK_, d->result->documents - first);
        if (!read_at(d->scratch, d->scratch_path, block, 4 * count,
                     column_offset_(d, column) + 4 * first, e)) {
            return false;
        }
        for (size_t i = 0; i < count; i++) {
            uint64_t key = load_le(block + 4 * i, 4);
            if (d->result->reason[first + i] != COLLECT_KEPT ||
                !(d->wanted[key >> 18] >> (key >> 12) % 64 & 1)) {
                continue;
            }
            if (place) {
                d->keys[begin[key >> 24]++] = key << 32 | (first + i);
            } else {
                begin[(key >> 24) + 1]++;
            }
        }
    }
    return true;
}

// Sorts by the middle bits (55 to 32), stable; `spare` has room for as many.
static inline void collect_keys_sort_(uint64_t *keys, uint64_t *spare, size_t count) {
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

// Reads what a column compares of a document's record: the exact hash or the signature.
static inline bool compared_read_(const CollectDuplicates_ *d, uint32_t document, bool exact,
                                  unsigned char *out, Error *e) {
    size_t low = 0, high = d->file_count; // the file is in [low, high)
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        *(d->files[middle].first <= document ? &low : &high) = middle;
    }
    const CollectFile_ *file = &d->files[low];
    return read_at(file->file, file->path, out, exact ? 16 : 2 * COLLECT_SIGNATURE,
                   (document - file->first) * d->record + (exact ? 0 : COLLECT_RECORD_SHORT), e);
}

static inline double compared_similarity_(const unsigned char *a, const unsigned char *b,
                                          bool exact) {
    int equal = 0;
    if (exact) {
        return memcmp(a, b, 16) == 0;
    }
    for (int i = 0; i < COLLECT_SIGNATURE; i++) {
        equal += a[2 * i] == b[2 * i] && a[2 * i + 1] == b[2 * i + 1];
    }
    return equal / (double)COLLECT_SIGNATURE;
}

// One bucket: documents with the same key, in order.
static inline bool bucket_compare_(CollectDuplicates_ *d, const uint64_t *keys, size_t count,
                                   bool exact, Error *e) {
    unsigned char compared[COLLECT_BUCKET + 1]
                          [2 * COLLECT_SIGNATURE]; // of the kept ones; the last is the one in hand
    uint32_t kept[COLLECT_BUCKET + 1];
    size_t kept_count = 0;
    const double threshold = exact ? 1 : d->options->near_duplicates;
    CollectResult *r = d->result;
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
            r->reason[document] = exact ? COLLECT_EXACT : COLLECT_NEAR;
            r->of[document] = kept[k];
            r->similarity[document] = (float)similarity;
        } else if (kept_count < COLLECT_BUCKET) {
            kept[kept_count++] = document;
        }
    }
    return true;
}

static inline bool part_compare_(CollectDuplicates_ *d, uint64_t *keys, size_t count, bool exact,
                                 Error *e) {
    if (count < 2) {
        return true;
    }
    uint64_t *spare = malloc(count * sizeof *spare);
    if (!spare) {
        return fail(e, "collect: no memory to sort %zu keys", count);
    }
    collect_keys_sort_(keys, spare, count);
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

// A document is in one part of a column only, so parts can go to threads, and ranks could share
// them.
static inline bool column_compare_(CollectDuplicates_ *d, int column, Error *e) {
    size_t begin[COLLECT_PARTS_ + 1] = {0}, end[COLLECT_PARTS_ + 1];
    bool ok = collect_keys_pass_(d, column, begin, false, e);
    for (int p = 0; p < COLLECT_PARTS_; p++) {
        begin[p + 1] += begin[p];
    }
    memcpy(end, begin, sizeof end);
    if (!ok || !collect_keys_pass_(d, column, end, true, e)) {
        return false;
    }
#pragma omp parallel for schedule(dynamic)
    for (int p = 0; p < COLLECT_PARTS_; p++) {
        Error why;
        if (!part_compare_(d, d->keys + begin[p], begin[p + 1] - begin[p], column == 0, &why)) {
#pragma omp critical(collect_error)
            *e = why, ok = false;
        }
    }
    return ok;
}

// Whether the near-duplicate of a document that gave way itself is one of the document that this
// gave way to.
static inline bool chain_shorten_(CollectDuplicates_ *d, uint32_t document, bool *similar,
                                  Error *e) {
    unsigned char compared[2][2 * COLLECT_SIGNATURE];
    CollectResult *r = d->result;
    uint32_t to = r->of[r->of[document]];
    if (!compared_read_(d, document, false, compared[0], e) ||
        !compared_read_(d, to, false, compared[1], e)) {
        return false;
    }
    double similarity = compared_similarity_(compared[0], compared[1], false);
    *similar = similarity >= d->options->near_duplicates;
    r->reason[document] = *similar ? COLLECT_NEAR : COLLECT_KEPT;
    r->of[document] = *similar ? to : COLLECT_NONE;
    r->similarity[document] = *similar ? (float)similarity : 0;
    return true;
}

// In order, so that what a document gave way to is settled before it.
static inline bool chains_settle_(CollectDuplicates_ *d, Error *e) {
    CollectResult *r = d->result;
    d->back_count = 0;
    for (size_t i = 0; i < r->documents; i++) {
        bool similar = true;
        if (r->reason[i] == COLLECT_NEAR && r->reason[r->of[i]] != COLLECT_KEPT &&
            (!chain_shorten_(d, (uint32_t)i, &similar, e) ||
             !array_reserve(&d->back, &d->back_capacity, d->back_count, 1, sizeof *d->back, e))) {
            return false;
        }
        if (!similar) {
            d->back[d->back_count++] = (uint32_t)i;
        }
    }
    return true;
}

static inline bool record_files_open_(CollectDuplicates_ *d, const char *const *paths, size_t count,
                                      Error *e) {
    size_t documents = 0;
    for (; d->file_count < count; d->file_count++) {
        CollectFile_ *file = &d->files[d->file_count];
        const char *path = paths[d->file_count];
        struct stat status;
        *file = (CollectFile_){
            .path = path, .file = open(path, O_RDONLY | O_CLOEXEC), .first = documents};
        if (file->file < 0 || fstat(file->file, &status)) {
            d->file_count += file->file >= 0;
            return fail(e, "%s: cannot be read: %s", path, strerror(errno));
        }
        file->count = (size_t)status.st_size / d->record;
        documents += file->count;
        if ((size_t)status.st_size % d->record || documents >= COLLECT_NONE) {
            d->file_count++;
            return fail(e, "%s: has %lld bytes, which is %s", path, (long long)status.st_size,
                        documents >= COLLECT_NONE ? "more than 4,294,967,294 documents"
                                                  : "no whole number of records");
        }
    }
    d->result->documents = documents;
    return true;
}

static inline bool result_allocate_(CollectResult *r, Error *e) {
    r->reason = calloc(r->documents + 1, sizeof *r->reason);
    r->of = malloc(r->documents * sizeof *r->of + 1);
    r->similarity = calloc(r->documents + 1, sizeof *r->similarity);
    if (!r->reason || !r->of || !r->similarity) {
        return fail(e, "collect: no memory for %zu documents", r->documents);
    }
    memset(r->of, 0xFF, r->documents * sizeof *r->of); // COLLECT_NONE
    return true;
}

static inline bool duplicates_run_(CollectDuplicates_ *d, const char *const *paths, size_t count,
                                   Error *e) {
    if (!(d->files = calloc(count + 1, sizeof *d->files))) {
        return fail(e, "collect: no memory for %zu record files", count);
    }
    if (!record_files_open_(d, paths, count, e) || !result_allocate_(d->result, e)) {
        return false;
    }
    d->scratch = open(d->scratch_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (d->scratch < 0) {
        return fail(e, "%s: cannot be created: %s", d->scratch_path, strerror(errno));
    }
    unlink(d->scratch_path); // gone as soon as it is closed, even by a kill
    if (!columns_write_(d, e)) {
        return false;
    }
    d->keys = malloc(d->result->documents * sizeof *d->keys + 1);
    d->wanted = malloc(COLLECT_WANTED_ / 8);
    if (!d->keys || !d->wanted) {
        return fail(e, "collect: no memory for the keys of %zu documents", d->result->documents);
    }
    memset(d->wanted, 0xFF, COLLECT_WANTED_ / 8);
    if (d->options->exact && !column_compare_(d, 0, e)) {
        return false;
    }
    do {
        for (int column = 1; column <= d->bands.bands; column++) {
            if ((d->back_count > 0 && !keys_want_(d, column, e)) ||
                !column_compare_(d, column, e)) {
                return false;
            }
        }
        if (!chains_settle_(d, e)) {
            return false;
        }
    } while (d->back_count > 0);
    return true;
}

// Finds the duplicates among the documents of the record files, which follow one another in the
// order of the corpus and were made under the same options. scratch_path names a file that does not
// exist yet. Parallel over OpenMP threads. On failure there is nothing to free.
static inline bool collect_duplicates(CollectResult *out, const char *const *paths, size_t count,
                                      const char *scratch_path, const CollectOptions *o, Error *e) {
    CollectDuplicates_ d = {.options = o,
                            .record = collect_record_size(o),
                            .scratch_path = scratch_path,
                            .scratch = -1,
                            .result = out};
    *out = (CollectResult){0};
    if (o->near_duplicates > 0) {
        d.bands = collect_bands(o->near_duplicates);
    }
    bool ok = duplicates_run_(&d, paths, count, e);
    for (size_t f = 0; f < d.file_count; f++) {
        close(d.files[f].file);
    }
    if (d.scratch >= 0) {
        close(d.scratch);
    }
    free(d.files);
    free(d.keys);
    free(d.back);
    free(d.wanted);
    if (!ok) {
        collect_result_free(out);
    }
    return ok;
}

#endif
