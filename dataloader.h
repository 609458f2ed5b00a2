// dataloader.h: samples from token shards. Their order is a pure function of the seed and the
// position, so that a run can be resumed and each token traced to its source. corpus/prepare.h
// writes the shards; their formats are in shards/.
//
//   datasets   dataset_open, dataset_read, dataset_order    samples of one dataset
//   mixtures   mixture_open, mixture_order                  weighted mixture of several datasets
//   batches    batch_hash                                   hash of the tokens of a batch
//
// A prepared dataset is a folder (SPLIT is train or val; all numbers are little-endian):
//
//   SPLIT.bin, SPLIT.idx   tokens: a Megatron pair, readable by Megatron as its pairs are by us
//   SPLIT.docs             one record per document: source file, byte range in it, number of tokens
//   manifest.json          sources, counts, hashes, the command that prepared it
//   tokenizer/             Hugging Face tokenizer files
#ifndef DATALOADER_H
#define DATALOADER_H

#include <assert.h>

#include "shards/idx.h"
#include "shards/llmc.h"
#include "shards/manifest.h"
#include "shards/numbers.h"
#include "tokenizers/folder.h"
#include "util/array.h"
#include "util/bytes.h"
#include "util/files.h"
#include "util/random.h"
#include "util/sha256.h"

// ------------------------------------------------------------------------------------------------
// Datasets

// Tokens of one split, open for reading.
typedef struct {
    int file;                   // descriptor of the file with the tokens; -1 when closed
    char path[PATH_LIMIT];      // its path
    char idx_path[PATH_LIMIT];  // of the .idx; empty for an llm.c shard
    int token_bytes;            // size of an id in the file
    bool token_signed;          // ids are signed
    uint64_t first_byte;        // offset of the first id
    uint64_t tokens, documents; // documents is 0 for an llm.c shard, which does not list them
    size_t seq_len;
    uint64_t samples; // (tokens - 1) / seq_len, at least 1

    // From manifest.json; empty or 0 for other data. dataset_verify fills in missing hashes.
    char bin_hash[SHA256_HEX], idx_hash[SHA256_HEX], tokenizer_hash[SHA256_HEX],
        manifest_hash[SHA256_HEX];
    char tokenizer[PATH_LIMIT]; // the tokenizer's folder
    size_t vocab_size;
} Dataset;

// Reads the entries for this split from FOLDER/manifest.json; its counts must match the files.
static inline bool dataset_read_manifest_(Dataset *d, const char *folder, const char *split_name,
                                          Error *e) {
    Manifest m;
    ManifestSplit split;
    if (!manifest_read(&m, folder, e)) {
        return false;
    }

    const ManifestFile *bin = &split.files[MANIFEST_BIN], *idx = &split.files[MANIFEST_IDX];
    bool ok = manifest_split(&m, split_name, &split) ||
              fail(e, "%s: no \"%s\" split in this data", m.path, split_name);
    ok = ok && ((m.vocab_size && m.tokenizer_hash[0] && bin->hash[0] && idx->hash[0]) ||
                fail(e,
                     "%s: the tokenizer's vocab_size or hash, or a hash of the %s split, is "
                     "missing",
                     m.path, split_name));
    ok = ok &&
         ((split.tokens == d->tokens && split.documents == d->documents) ||
          fail(e, "%s: does not agree with %s, which has %llu documents and %llu tokens", m.path,
               d->idx_path, (unsigned long long)d->documents, (unsigned long long)d->tokens));
    if (ok) {
        memcpy(d->manifest_hash, m.hash, sizeof m.hash);
        memcpy(d->tokenizer_hash, m.tokenizer_hash, sizeof m.tokenizer_hash);
        memcpy(d->bin_hash, bin->hash, sizeof bin->hash);
        memcpy(d->idx_hash, idx->hash, sizeof idx->hash);
        d->vocab_size = m.vocab_size;
        ok = path_format(d->tokenizer, e, "%s/tokenizer", folder);
    }
    manifest_close(&m);
    return ok;
}

// Closes a dataset; it may be closed already.
static inline void dataset_close(Dataset *d) {
    close_if_open(d->file);
    d->file = -1;
}

// Whether dataset_open(path, split) can find data: a prepared folder may have no "val"; a Megatron
// pair or an llm.c shard has only "train".
static inline bool dataset_has_split(const char *path, const char *split) {
    char idx[PATH_LIMIT];
    Error ignored;
    if (!is_folder(path)) {
        return strcmp(split, "train") == 0;
    }
    return path_format(idx, &ignored, "%s/%s.idx", path, split) && access(idx, F_OK) == 0;
}

// Opens an llm.c shard.
static inline bool dataset_open_llmc_(Dataset *d, const char *path, Error *e) {
    uint64_t bytes;
    if (access(path, F_OK)) {
        return fail(e,
                    "%s: not a prepared folder, a Megatron prefix (%s with .idx) or an llm.c shard",
                    path, d->path);
    }
    d->idx_path[0] = 0;
    d->first_byte = LLMC_HEADER;
    return path_format(d->path, e, "%s", path) && (d->file = open_regular(path, &bytes, e)) >= 0 &&
           llmc_read(d->file, path, bytes, &d->token_bytes, &d->tokens, e);
}

static inline bool dataset_open_files_(Dataset *d, const char *path, const char *split, Error *e) {
    const bool folder = is_folder(path);
    uint64_t bytes, idx_bytes;

    // Which kind of data?
    bool ok = folder ? path_format(d->path, e, "%s/%s.bin", path, split) &&
                           path_format(d->idx_path, e, "%s/%s.idx", path, split)
                     : path_format(d->path, e, "%s.bin", path) &&
                           path_format(d->idx_path, e, "%s.idx", path);
    if (!ok) {
        return false;
    }
    if (access(d->idx_path, F_OK)) {
        return folder ? fail(e, "%s: no %s.idx: %s", path, split,
                             strcmp(split, "val") ? "not a folder that prepare wrote"
                                                  : "it was prepared without a validation split")
                      : dataset_open_llmc_(d, path, e);
    }

    // A Megatron pair.
    d->file = open_regular(d->path, &bytes, e);
    if (d->file < 0) {
        return false;
    }
    int idx = open_regular(d->idx_path, &idx_bytes, e);
    IdxContent content = {0};
    ok = idx >= 0 && idx_read(&content, idx, d->idx_path, d->path, idx_bytes, bytes, e);
    close_if_open(idx);
    if (ok) {
        d->token_bytes = content.token_bytes;
        d->token_signed = content.token_signed;
        d->tokens = content.tokens;
        d->documents = content.documents;
    }
    return ok && (!folder || dataset_read_manifest_(d, path, split, e));
}

// Opens a dataset for samples of seq_len + 1 tokens. `path` is a folder that prepare wrote, the
// prefix of a Megatron pair, or an llm.c shard; `split` ("train" or "val") applies only to a
// folder. The structure of the files is checked here, each id when it is read; dataset_verify
// checks the contents. A dataset without a single sample is an error.
static inline bool dataset_open(Dataset *d, const char *path, const char *split, size_t seq_len,
                                Error *e) {
    assert(seq_len > 0);
    *d = (Dataset){.file = -1, .seq_len = seq_len};
    bool ok = dataset_open_files_(d, path, split, e);
    if (ok && d->tokens <= seq_len) {
        ok = fail(e,
                  "%s: has %llu tokens, but one sample needs %zu: use a shorter --seq-len than %zu "
                  "or more text",
                  d->path, (unsigned long long)d->tokens, seq_len + 1, seq_len);
    }
    if (!ok) {
        dataset_close(d);
        return false;
    }
    d->samples = (d->tokens - 1) / seq_len;
    return true;
}

// A reader of `count` ids from token number `first` on.
static inline NumberReader dataset_ids(const Dataset *d, uint64_t first, uint64_t count) {
    return (NumberReader){.file = d->file,
                          .path = d->path,
                          .offset = d->first_byte + first * (uint64_t)d->token_bytes,
                          .left = count,
                          .bytes = d->token_bytes};
}

// Reads sample number `sample`: tokens (seq_len + 1), from token sample * seq_len on. Documents are
// packed without padding, so a sample may span several. An id outside the vocabulary is an error.
static inline bool dataset_read(const Dataset *d, uint64_t sample, size_t vocab_size,
                                int32_t *tokens, Error *e) {
    const uint64_t first = sample * d->seq_len;
    const int unused = 64 - 8 * d->token_bytes;
    NumberReader ids = dataset_ids(d, first, d->seq_len + 1);
    assert(sample < d->samples);
    for (size_t i = 0; i <= d->seq_len; i++) {
        uint64_t id;
        if (!number_next(&ids, &id, e)) {
            return false;
        }
        if (d->token_signed) { // sign-extend: a negative id is larger than any vocabulary
            id = (uint64_t)((int64_t)(id << unused) >> unused);
        }
        if (id >= vocab_size) {
            return fail(e, "%s: token %llu has id %lld, outside the vocabulary of %zu", d->path,
                        (unsigned long long)(first + i), (long long)id, vocab_size);
        }
        tokens[i] = (int32_t)id;
    }
    return true;
}

// The sample at `position` of the endless sequence of epochs. An epoch is every sample once, in a
// new random permutation if `shuffle`, else in order. A pure function, so that resume and trace can
// recompute it.
static inline uint64_t dataset_order(const Dataset *d, uint64_t seed, bool shuffle,
                                     uint64_t position) {
    uint64_t epoch = position / d->samples, within = position % d->samples;
    return shuffle ? random_permutation(seed, epoch, within, d->samples) : within;
}

// Hashes the files of the shard and the tokenizer. The hashes must equal those in the manifest; for
// data without a manifest they are filled in.
static inline bool dataset_verify(Dataset *d, Error *e) {
    char tokenizer_file[PATH_LIMIT] = "", hash[SHA256_HEX];
    const char *paths[3] = {d->path, d->idx_path, tokenizer_file};
    char *known[3] = {d->bin_hash, d->idx_hash, d->tokenizer_hash};
    if (d->tokenizer[0] && !tokenizer_main_file(tokenizer_file, d->tokenizer, e)) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (!paths[i][0]) {
            continue;
        }
        if (!sha256_file(paths[i], hash, e)) {
            return false;
        }
        if (known[i][0] && strcmp(known[i], hash)) {
            return fail(e, "%s: was altered: its SHA-256 is %s, the manifest has %s", paths[i],
                        hash, known[i]);
        }
        memcpy(known[i], hash, sizeof hash);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Mixtures: several datasets, sampled in fixed proportions
//
// The schedule is periodic: of the W slots of a period, dataset i has w_i, its weight; the weights
// have no common factor and their sum is W. So any W consecutive samples contain exactly w_i
// samples of dataset i. The slots are assigned such that every prefix of the run is within one
// sample of the exact proportions too (mixture_schedule). The samples of a dataset come in the
// order of dataset_order, with a seed of its own for each dataset. A single dataset is a mixture of
// period 1: its own order.

enum { MIXTURE_PERIOD_MAX = 1 << 20, MIXTURE_DATASETS_MAX = 1024 };

typedef struct {
    size_t count;
    Dataset *items;    // (count)
    char **paths;      // (count) as given, without the weight
    uint64_t *weights; // (count) samples of each dataset in a period
    uint64_t period;   // sum of the weights

    // The schedule.
    uint32_t *source; // (period) the dataset of a slot
    uint32_t *before; // (period) number of earlier slots of that dataset
    uint32_t *places; // (period) the slots of dataset 0, then of dataset 1, ...; each ascending
    uint64_t *first;  // (count) where the slots of a dataset begin in `places`
} Mixture;

// One sample: number `sample` of dataset `dataset`.
typedef struct {
    size_t dataset;
    uint64_t sample;
} SampleId;

// Closes a mixture and all its datasets.
static inline void mixture_close(Mixture *m) {
    for (size_t i = 0; i < m->count; i++) {
        if (m->items) {
            dataset_close(&m->items[i]);
        }
        if (m->paths) {
            free(m->paths[i]);
        }
    }
    free(m->items);
    free(m->paths);
    free(m->weights);
    free(m->source);
    free(m->before);
    free(m->places);
    free(m->first);
    *m = (Mixture){0};
}

// A dataset while the slots are assigned: how many it has, x below, the slot from which it is
// eligible for the next one, and by which it must get it.
typedef struct {
    uint64_t served, ready, due;
} SlotTurn_;

static inline void slot_turn_(SlotTurn_ *t, const Mixture *m, uint64_t i) {
    const uint64_t D = m->count > 1 ? 2 * m->count - 2 : 1;
    t->ready = divide_up((t->served * D + 1) * m->period, m->weights[i] * D);
    t->due = divide_up((t->served * D + D - 1) * m->period, m->weights[i] * D);
}

// Assigns the slots of a period to the datasets: Tijdeman's solution of the chairman assignment
// problem (R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32, 1980). Let a
// dataset have x slots so far. It is eligible for slot k = 1, 2, ... W once its quota k w / W is at
// least x + d, where d = 1 / (2 n - 2) for n datasets; of the eligible datasets, the one whose
// quota reaches x + 1 - d first gets the slot. Then the number of slots of a dataset never differs
// from its quota by more than 1 - d. In integers, with D = 1 / d: k >= (x D + 1) W / (w D) and k >=
// (x D + D - 1) W / (w D), where the products stay below 2^62.
static inline bool mixture_schedule(Mixture *m, Error *e) {
    const uint64_t n = m->count, W = m->period;
    SlotTurn_ *turns = calloc(n, sizeof *turns);
    m->source = malloc(W * sizeof *m->source);
    m->before = malloc(W * sizeof *m->before);
    m->places = malloc(W * sizeof *m->places);
    m->first = calloc(n, sizeof *m->first);
    bool ok =
        (turns && m->source && m->before && m->places && m->first) ||
        fail(e, "no memory for a mixture with a period of %llu samples", (unsigned long long)W);
    for (uint64_t i = 0; ok && i < n; i++) {
        m->first[i] = i ? m->first[i - 1] + m->weights[i - 1] : 0;
        slot_turn_(&turns[i], m, i);
    }

    // Of the eligible datasets, the one that is due first.
    for (uint64_t k = 1; ok && k <= W; k++) {
        uint64_t best = n;
        for (uint64_t i = 0; i < n; i++) {
            best = turns[i].ready <= k && (best == n || turns[i].due < turns[best].due) ? i : best;
        }
        assert(best < n); // k w - x W over all datasets sums to W, so one of them is at least W / n

        m->source[k - 1] = (uint32_t)best;
        m->before[k - 1] = (uint32_t)turns[best].served;
        m->places[m->first[best] + turns[best].served++] = (uint32_t)(k - 1);
        slot_turn_(&turns[best], m, best);
    }
    free(turns);
    return ok;
}

// Divides the weights by their greatest common divisor. The period is their sum, or UINT64_MAX if
// that overflows.
static inline void mixture_reduce_weights(Mixture *m) {
    uint64_t divisor = 0;
    for (size_t i = 0; i < m->count; i++) {
        for (uint64_t rest = m->weights[i]; rest;) { // Euclid
            uint64_t next = divisor % rest;
            divisor = rest;
            rest = next;
        }
    }
    m->period = 0;
    for (size_t i = 0; i < m->count; i++) {
        m->weights[i] /= divisor;
        if (__builtin_add_overflow(m->period, m->weights[i], &m->period)) {
            m->period = UINT64_MAX;
            return;
        }
    }
}

// Sets weights proportional to the number of samples of each dataset: exact if the period is short
// enough, else rounded to multiples of about 1 / MIXTURE_PERIOD_MAX, none of them to 0.
static inline void mixture_weigh_by_samples_(Mixture *m) {
    double total = 0;
    for (size_t i = 0; i < m->count; i++) {
        m->weights[i] = m->items[i].samples;
        total += (double)m->items[i].samples;
    }
    mixture_reduce_weights(m);
    for (size_t i = 0; m->period > MIXTURE_PERIOD_MAX && i < m->count; i++) {
        double share = (double)m->items[i].samples / total;
        uint64_t rounded = (uint64_t)(share * (double)(MIXTURE_PERIOD_MAX - m->count) + 0.5);
        m->weights[i] = rounded ? rounded : 1;
    }
    mixture_reduce_weights(m);
}

// All datasets must have the same tokenizer, and no dataset may be given twice.
static inline bool mixture_check_tokenizers_(const Mixture *m, Error *e) {
    for (size_t i = 1; i < m->count; i++) {
        const Dataset *a = &m->items[0], *b = &m->items[i];
        if (strcmp(a->tokenizer_hash, b->tokenizer_hash) || a->vocab_size != b->vocab_size) {
            return fail(e, "%s and %s: %s: all data of a run must use the same tokenizer",
                        m->paths[0], m->paths[i],
                        a->vocab_size && b->vocab_size ? "prepared with different tokenizers"
                                                       : "one has a tokenizer, the other has none");
        }
        for (size_t j = 0; j < i; j++) {
            if (!strcmp(m->paths[i], m->paths[j])) {
                return fail(e, "%s: is given twice; give it once, with a larger weight",
                            m->paths[i]);
            }
        }
    }
    return true;
}

// Opens `count` > 0 datasets (dataset_open) as one mixture. The weights are positive integers,
// whose sum, reduced by their greatest common divisor, is at most MIXTURE_PERIOD_MAX; NULL:
// proportional to the numbers of samples. All datasets must have the same tokenizer, or none of
// them one.
static inline bool mixture_open_paths(Mixture *m, const char *const *paths, const uint64_t *weights,
                                      size_t count, const char *split, size_t seq_len, Error *e) {
    assert(count > 0);
    *m = (Mixture){0};
    if (count > MIXTURE_DATASETS_MAX) {
        return fail(e, "%s and %zu others: at most %d datasets can be mixed", paths[0], count - 1,
                    MIXTURE_DATASETS_MAX);
    }
    m->items = calloc(count, sizeof *m->items);
    m->paths = calloc(count, sizeof *m->paths);
    m->weights = calloc(count, sizeof *m->weights);
    bool ok = (m->items && m->paths && m->weights) || fail(e, "no memory for %zu datasets", count);
    for (size_t i = 0; ok && i < count; i++) {
        m->items[i].file = -1;
        m->count++;
        m->paths[i] = strdup(paths[i]);
        m->weights[i] = weights ? weights[i] : 0;
        ok = (m->paths[i] || fail(e, "no memory for %zu datasets", count)) &&
             (!weights || weights[i] > 0 ||
              fail(e, "%s: its weight is 0: weights must be positive", paths[i])) &&
             dataset_open(&m->items[i], paths[i], split, seq_len, e);
    }
    ok = ok && mixture_check_tokenizers_(m, e);
    if (ok) {
        weights ? mixture_reduce_weights(m) : mixture_weigh_by_samples_(m);
    }
    if (ok && m->period > MIXTURE_PERIOD_MAX) {
        ok = fail(e,
                  "%s and others: these weights have a period of more than %d samples: give "
                  "weights with fewer digits",
                  paths[0], MIXTURE_PERIOD_MAX);
    }
    ok = ok && mixture_schedule(m, e);
    if (!ok) {
        mixture_close(m);
    }
    return ok;
}

// A decimal weight: digits * 10^-decimals.
typedef struct {
    uint64_t digits;
    int decimals;
} Weight_;

enum { WEIGHT_DIGITS = 18 };

// Parses "34", "0.3" or ".5": positive, at most WEIGHT_DIGITS digits.
static inline bool weight_parse_(const char *text, Weight_ *weight) {
    int count = 0;
    bool point = false;
    *weight = (Weight_){0};
    for (; *text; text++) {
        if (*text == '.' && !point) {
            point = true;
        } else if (*text < '0' || *text > '9' || ++count > WEIGHT_DIGITS) {
            return false;
        } else {
            weight->digits = 10 * weight->digits + (uint64_t)(*text - '0');
            weight->decimals += point;
        }
    }
    return weight->digits > 0;
}

// Whether there is a folder, a file or a Megatron pair at `path`.
static inline bool data_exists_(const char *path) {
    char idx[PATH_LIMIT];
    Error ignored;
    return access(path, F_OK) == 0 ||
           (path_format(idx, &ignored, "%s.idx", path) && access(idx, F_OK) == 0);
}

// Parses "PATH" or "PATH:WEIGHT". A path may contain ':' itself: if there is data at the complete
// string, it is a path. Without a weight, weight->digits is 0. The caller frees *path.
static inline bool source_parse_(const char *spec, char **path, Weight_ *weight, Error *e) {
    const char *colon = strrchr(spec, ':');
    *weight = (Weight_){0};
    *path = strdup(spec);
    if (!*path) {
        return fail(e, "no memory for %s", spec);
    }
    if (!colon || data_exists_(spec)) {
        return true;
    }
    (*path)[colon - spec] = 0;
    if (weight_parse_(colon + 1, weight)) {
        return true;
    }
    if (data_exists_(*path) || strspn(colon + 1, "0123456789.") == strlen(colon + 1)) {
        return fail(e,
                    "%s: the weight after the last ':' must be a positive decimal number, such as "
                    "34 or 0.3, of at most %d digits",
                    spec, WEIGHT_DIGITS);
    }
    (*path)[colon - spec] = ':';
    return true;
}

// Scales decimal weights to integers in the same proportions.
static inline bool weights_to_integers_(const Weight_ *weights, const char *const *specs,
                                        size_t count, uint64_t *integers, Error *e) {
    int decimals = 0;
    for (size_t i = 0; i < count; i++) {
        decimals = weights[i].decimals > decimals ? weights[i].decimals : decimals;
    }
    for (size_t i = 0; i < count; i++) {
        integers[i] = weights[i].digits;
        for (int d = weights[i].decimals; d < decimals; d++) {
            if (integers[i] > UINT64_MAX / 10) {
                return fail(e,
                            "%s: weight too large relative to the smallest one: give weights with "
                            "fewer digits",
                            specs[i]);
            }
            integers[i] *= 10;
        }
    }
    return true;
}

// mixture_open_paths for datasets as given on the command line: all as "PATH:WEIGHT" (a decimal
// number, exact), or all as "PATH", with weights proportional to the numbers of samples.
static inline bool mixture_open(Mixture *m, const char *const *specs, size_t count,
                                const char *split, size_t seq_len, Error *e) {
    char **paths = calloc(count, sizeof *paths);
    Weight_ *weights = calloc(count, sizeof *weights);
    uint64_t *integers = calloc(count, sizeof *integers);
    *m = (Mixture){0};
    bool ok = (paths && weights && integers) || fail(e, "no memory for %zu datasets", count);

    // All with a weight, or none.
    for (size_t i = 0; ok && i < count; i++) {
        ok = source_parse_(specs[i], &paths[i], &weights[i], e);
        if (ok && !weights[i].digits != !weights[0].digits) {
            ok = fail(e,
                      "%s and %s: one has a weight, the other has none; give PATH:WEIGHT for all "
                      "or for none",
                      specs[0], specs[i]);
        }
    }

    const bool weighted = ok && weights[0].digits > 0;
    ok = ok && (!weighted || weights_to_integers_(weights, specs, count, integers, e)) &&
         mixture_open_paths(m, (const char *const *)paths, weighted ? integers : NULL, count, split,
                            seq_len, e);
    for (size_t i = 0; paths && i < count; i++) {
        free(paths[i]);
    }
    free(paths);
    free(weights);
    free(integers);
    return ok;
}

// The seed of a dataset. Dataset 0 has that of the run, so that a single dataset has the same order
// inside and outside a mixture.
static inline uint64_t mixture_seed_(uint64_t seed, size_t dataset) {
    return dataset ? random_bits(seed, RANDOM_SOURCE, dataset) : seed;
}

// The sample at `position` of the endless sequence. A pure function, as dataset_order.
static inline SampleId mixture_order(const Mixture *m, uint64_t seed, bool shuffle,
                                     uint64_t position) {
    uint64_t place = position % m->period;
    size_t i = m->source[place];
    uint64_t number = position / m->period * m->weights[i] + m->before[place];
    return (SampleId){i, dataset_order(&m->items[i], mixture_seed_(seed, i), shuffle, number)};
}

// The inverse of mixture_order: the position at which a sample is read in an epoch of its dataset
// (from 0). Positions increase with the epoch; UINT64_MAX if this one overflows.
static inline uint64_t mixture_position(const Mixture *m, uint64_t seed, bool shuffle, SampleId id,
                                        uint64_t epoch) {
    const uint64_t samples = m->items[id.dataset].samples, weight = m->weights[id.dataset];
    uint64_t number, position, within = id.sample;
    if (shuffle) {
        within =
            random_permutation_inverse(mixture_seed_(seed, id.dataset), epoch, id.sample, samples);
    }
    if (__builtin_mul_overflow(epoch, samples, &number) ||
        __builtin_add_overflow(number, within, &number) ||
        __builtin_mul_overflow(number / weight, m->period, &position) ||
        __builtin_add_overflow(position, m->places[m->first[id.dataset] + number % weight],
                               &position)) {
        return UINT64_MAX;
    }
    return position;
}

typedef struct {
    const uint32_t *places;
    uint64_t slot;
} SlotKey_;

static inline bool slot_before_(const void *context, size_t i) {
    const SlotKey_ *key = context;
    return key->places[i] < key->slot;
}

// The number of samples of a dataset among the first `position` of the run: within 1 of its exact
// proportion.
static inline uint64_t mixture_count(const Mixture *m, size_t dataset, uint64_t position) {
    const SlotKey_ key = {m->places + m->first[dataset], position % m->period};
    return position / m->period * m->weights[dataset] +
           bisect(0, m->weights[dataset], slot_before_, &key);
}

// The proportion of a dataset in the run, in (0, 1].
static inline double mixture_share(const Mixture *m, size_t dataset) {
    return (double)m->weights[dataset] / (double)m->period;
}

// dataset_verify for all datasets.
static inline bool mixture_verify(Mixture *m, Error *e) {
    bool ok = true;
    for (size_t i = 0; ok && i < m->count; i++) {
        ok = dataset_verify(&m->items[i], e);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// The batch hash: SHA-256 over the digests of the samples of a step in row order, each the SHA-256
// of the sample's seq_len + 1 ids as little-endian int32. A digest covers one sample, so that each
// DP rank can hash its own; the log has the first 64 bits of the hash as batch_sha256.

enum { DIGEST_BYTES = 32, BATCH_HASH_DIGITS = 16 };

// Adds ids to the hash of a sample, which sha256_digest ends.
static inline void sha256_add_tokens(Sha256 *s, const int32_t *tokens, size_t count) {
    unsigned char block[4 * 256];
    for (size_t i = 0; i < count; i++) {
        store_le(block + 4 * (i % 256), (uint32_t)tokens[i], 4);
        if (i % 256 == 255 || i + 1 == count) {
            sha256_add(s, block, 4 * (i % 256 + 1));
        }
    }
}

// The batch hash in hexadecimal, from digests (samples, DIGEST_BYTES).
static inline void batch_hash(const unsigned char *digests, size_t samples,
                              char hex[BATCH_HASH_DIGITS + 1]) {
    char full[SHA256_HEX];
    Sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, digests, samples * DIGEST_BYTES);
    sha256_end(&hash, full);
    memcpy(hex, full, BATCH_HASH_DIGITS);
    hex[BATCH_HASH_DIGITS] = 0;
}

#endif
