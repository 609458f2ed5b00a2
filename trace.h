// trace.h: from a step of a run to the documents that it read, from a document to the steps that read it, from a text
// to the places of the training data that hold it word for word. Nothing is stored while training: the order of the
// samples is computed again, and hashes prove that run and data belong together.
//
// Proof:      sums_build, proof_*     chunk hashes, so that an answer is proved without hashing all of the data
// Index:      index_build             suffix array over the tokens of a split, sorted by the text that follows
// Documents:  trace_data_*            which document holds a token, and what is known of it
// Run:        trace_run_*             steps, rows and ranks out of log.jsonl and restarts.jsonl
// Search:     text_search             the longest spans of a text that stand in the data
#ifndef TRACE_H
#define TRACE_H

#include <omp.h>
#include <signal.h>
#include <sys/mman.h>

#include "dataloader.h" // defines: Dataset, Mixture, mixture_*, DocumentRecord, docs_load, Sha256, OutputFile, read_at
#include "json.h"       // defines: Error, fail, Json, json_*
#include "tokenizer.h"  // defines: Tokenizer, tokenizer_text

// ---------------------------------------------------------------------------------------------------------------------
// Proof: SPLIT.sums holds the SHA-256 of each 16 KiB of a split's files, and its own hash is in manifest.json, whose
// hash is in the run's log. So what an answer rests on is proved by hashing the chunks it was read from.
//
//   0   "TGPTSUMS", u32 version = 1, u32 bytes of a chunk, u32 files, 12 zero bytes
//   32  per file: name (56 bytes, padded with NUL), u64 bytes
//       per file, per chunk: SHA-256 (32 bytes); the last chunk of a file may be short

enum { SUMS_VERSION = 1, SUMS_CHUNK = 1 << 14, SUMS_HEADER = 32, SUMS_NAME = 56, SUMS_ENTRY = 64, SUMS_FILES = 5 };

static const char *const sums_endings_[SUMS_FILES] = {"bin", "idx", "docs", "meta", "index"};

// Adds the hashes of a file's chunks to an open .sums.
static inline bool sums_add_file_(OutputFile *out, const char *path, uint64_t bytes, Error *e) {
    unsigned char chunk[SUMS_CHUNK], digest[32];
    uint64_t size;
    int file = open_regular_(path, &size, e);
    bool ok = file >= 0;
    for (uint64_t offset = 0; ok && offset < bytes; offset += SUMS_CHUNK) {
        size_t n = min_u64_(bytes - offset, SUMS_CHUNK);
        Sha256 hash;
        sha256_begin(&hash);
        ok = read_at(file, path, chunk, n, offset, e);
        if (ok) {
            sha256_add(&hash, chunk, n);
            sha256_digest(&hash, digest);
            ok = output_write(out, digest, sizeof digest, e);
        }
    }
    if (file >= 0) {
        close(file);
    }
    return ok;
}

// Writes FOLDER/SPLIT.sums over those of SPLIT.bin, .idx, .docs, .meta and .index that are there; they must not change
// any more. `hex` gets its SHA-256.
static inline bool sums_build(const char *folder, const char *split, char hex[65], Error *e) {
    char path[SUMS_FILES][PATH_LIMIT], out_path[PATH_LIMIT];
    unsigned char header[SUMS_HEADER] = "TGPTSUMS", entry[SUMS_FILES][SUMS_ENTRY] = {{0}};
    uint64_t bytes[SUMS_FILES];
    uint32_t files = 0;
    OutputFile out;
    for (size_t i = 0; i < SUMS_FILES; i++) {
        struct stat status;
        if (!path_format(path[files], e, "%s/%s.%s", folder, split, sums_endings_[i])) {
            return false;
        }
        if (stat(path[files], &status) == 0) {
            bytes[files] = (uint64_t)status.st_size;
            if (snprintf((char *)entry[files], SUMS_NAME, "%s.%s", split, sums_endings_[i]) >= SUMS_NAME) {
                return fail(e, "%s: the name of this split is too long", split);
            }
            store_le(entry[files] + SUMS_NAME, bytes[files], 8);
            files++;
        }
    }
    store_le(header + 8, SUMS_VERSION, 4);
    store_le(header + 12, SUMS_CHUNK, 4);
    store_le(header + 16, files, 4);
    if (!path_format(out_path, e, "%s/%s.sums", folder, split) || !output_open(&out, out_path, e)) {
        return false;
    }
    bool ok = output_write(&out, header, sizeof header, e) && output_write(&out, entry, (size_t)files * SUMS_ENTRY, e);
    for (uint32_t i = 0; ok && i < files; i++) {
        ok = sums_add_file_(&out, path[i], bytes[i], e);
    }
    return output_close(&out, hex, ok ? e : &(Error){0}) && ok;
}

// A file mapped into memory. Its bytes may be read anywhere, and count as proved where proof_check said so.
typedef struct {
    char path[PATH_LIMIT]; // empty: there is no such file
    const unsigned char *data;
    uint64_t bytes;
    const unsigned char *sums; // 32 bytes a chunk; NULL: proved as a whole, or nothing is there to prove it by
    unsigned char *checked;    // one byte a chunk
} ProofFile;

static inline void proof_bus_error_(int signal) {
    static const char line[] = "train_gpt: a file was cut short while it was read\n";
    (void)signal;
    _exit(write(STDERR_FILENO, line, sizeof line - 1) < 0 ? EXIT_FAILURE : EXIT_FAILURE);
}

static inline void proof_close(ProofFile *f) {
    if (f->data) {
        munmap((void *)(uintptr_t)f->data, f->bytes);
    }
    free(f->checked);
    *f = (ProofFile){0};
}

// Maps a file. If it is cut short by somebody while it is mapped, the process ends with one line.
static inline bool proof_open(ProofFile *f, const char *path, Error *e) {
    *f = (ProofFile){0};
    if (!path_format(f->path, e, "%s", path)) {
        return false;
    }
    int file = open_regular_(path, &f->bytes, e);
    if (file < 0) {
        return false;
    }
    signal(SIGBUS, proof_bus_error_);
    void *data = f->bytes ? mmap(NULL, f->bytes, PROT_READ, MAP_SHARED, file, 0) : NULL;
    int reason = errno;
    close(file);
    if (data == MAP_FAILED) {
        return fail(e, "%s: cannot be mapped into memory: %s", path, strerror(reason));
    }
    f->data = data;
    return true;
}

// Proves the bytes from `offset` on, which must lie in the file: each chunk is hashed the first time.
static inline bool proof_check(ProofFile *f, uint64_t offset, uint64_t bytes, Error *e) {
    if (offset > f->bytes || bytes > f->bytes - offset) {
        return fail(e, "%s: has %llu bytes, but byte %llu of it is referred to", f->path, (unsigned long long)f->bytes,
                    (unsigned long long)min_u64_(offset, UINT64_MAX - bytes) + bytes);
    }
    for (uint64_t chunk = offset / SUMS_CHUNK; f->sums && bytes && chunk <= (offset + bytes - 1) / SUMS_CHUNK;
         chunk++) {
        unsigned char digest[32];
        uint64_t first = chunk * SUMS_CHUNK;
        if (f->checked[chunk]) {
            continue;
        }
        Sha256 hash;
        sha256_begin(&hash);
        sha256_add(&hash, f->data + first, min_u64_(f->bytes - first, SUMS_CHUNK));
        sha256_digest(&hash, digest);
        if (memcmp(digest, f->sums + 32 * chunk, 32)) {
            return fail(e, "%s: was altered: bytes %llu to %llu are not those that prepare wrote", f->path,
                        (unsigned long long)first, (unsigned long long)min_u64_(f->bytes, first + SUMS_CHUNK) - 1);
        }
        f->checked[chunk] = 1;
    }
    return true;
}

// Gives each of `files` the chunk hashes that `sums`, the content of a .sums, holds for it.
static inline bool sums_attach_(const char *path, const unsigned char *sums, size_t bytes, ProofFile *const *files,
                                size_t count, Error *e) {
    uint64_t listed = bytes < SUMS_HEADER ? 0 : load_le(sums + 16, 4);
    if (bytes < SUMS_HEADER || memcmp(sums, "TGPTSUMS", 8) || load_le(sums + 8, 4) != SUMS_VERSION ||
        load_le(sums + 12, 4) != SUMS_CHUNK || listed > SUMS_FILES || bytes < SUMS_HEADER + SUMS_ENTRY * listed) {
        return fail(e, "%s: is not a table of chunk hashes of version %d", path, SUMS_VERSION);
    }
    uint64_t at = SUMS_HEADER + SUMS_ENTRY * listed;
    size_t found = 0;
    for (uint64_t i = 0; i < listed; i++) {
        const unsigned char *entry = sums + SUMS_HEADER + SUMS_ENTRY * i;
        uint64_t size = load_le(entry + SUMS_NAME, 8), chunks = divide_up_(size, SUMS_CHUNK);
        if (entry[SUMS_NAME - 1] || chunks > (bytes - at) / 32) {
            return fail(e, "%s: is damaged: its table does not fit its %zu bytes", path, bytes);
        }
        for (size_t f = 0; f < count; f++) {
            const char *slash = strrchr(files[f]->path, '/');
            if (!files[f]->path[0] || strcmp(slash ? slash + 1 : files[f]->path, (const char *)entry)) {
                continue;
            }
            if (files[f]->bytes != size) {
                return fail(e, "%s: has %llu bytes, but prepare wrote %llu", files[f]->path,
                            (unsigned long long)files[f]->bytes, (unsigned long long)size);
            }
            files[f]->sums = sums + at;
            files[f]->checked = calloc(chunks + 1, 1);
            if (!files[f]->checked) {
                return fail(e, "%s: no memory to prove it", files[f]->path);
            }
            found++;
        }
        at += 32 * chunks;
    }
    for (size_t f = 0; f < count; f++) {
        if (files[f]->path[0] && !files[f]->sums) {
            return fail(e, "%s: has no hashes in %s", files[f]->path, path);
        }
    }
    return at == bytes || fail(e, "%s: is damaged: its table does not fit its %zu bytes", path, bytes);
}

// ---------------------------------------------------------------------------------------------------------------------
// Suffix sorting: SA-IS (Nong, Zhang, Chan: Linear suffix array construction by almost pure induced-sorting, 2009)
//
// A suffix is of type S if it is smaller than the one that begins one symbol later, else of type L; an S behind an L is
// a leftmost S (LMS). All suffixes can be induced from the sorted LMS ones: L-types from left to right, S-types from
// right to left, each into the bucket of its first symbol. The LMS suffixes are sorted by giving each LMS substring (up
// to the next LMS) a name in their order, and sorting the text of names, which is at most half as long. Behind the text
// stands a symbol smaller than all others, so the last suffix is of type L.

typedef struct {
    const void *text; // unsigned char (wide false) or int32_t
    int32_t length, symbols;
    int32_t *suffixes;  // (length)
    uint64_t *is_s;     // bit i: suffix i is of type S
    int32_t *counts;    // (symbols) how often each occurs
    int32_t *positions; // (symbols) where the next suffix of a bucket goes
} SuffixSort_;

__attribute__((always_inline)) static inline int32_t sais_symbol_(const SuffixSort_ *s, bool wide, int32_t i) {
    return wide ? ((const int32_t *)s->text)[i] : ((const unsigned char *)s->text)[i];
}

static inline bool sais_is_s_(const SuffixSort_ *s, int32_t i) {
    return s->is_s[i >> 6] >> (i & 63) & 1;
}

static inline bool sais_is_lms_(const SuffixSort_ *s, int32_t i) {
    return i > 0 && sais_is_s_(s, i) && !sais_is_s_(s, i - 1);
}

// positions: the first place of each bucket, or the one behind its last.
static inline void sais_buckets_(const SuffixSort_ *s, bool ends) {
    int32_t sum = 0;
    for (int32_t c = 0; c < s->symbols; c++) {
        s->positions[c] = ends ? sum + s->counts[c] : sum;
        sum += s->counts[c];
    }
}

// From LMS suffixes at the ends of their buckets, all others -1, to all suffixes.
__attribute__((always_inline)) static inline void sais_induce_(const SuffixSort_ *s, bool wide) {
    int32_t *out = s->suffixes, n = s->length;
    sais_buckets_(s, false);
    out[s->positions[sais_symbol_(s, wide, n - 1)]++] = n - 1; // what the symbol behind the text induces
    for (int32_t i = 0; i < n; i++) {
        int32_t j = out[i] - 1;
        if (j >= 0 && !sais_is_s_(s, j)) {
            out[s->positions[sais_symbol_(s, wide, j)]++] = j;
        }
    }
    sais_buckets_(s, true);
    for (int32_t i = n - 1; i >= 0; i--) {
        int32_t j = out[i] - 1;
        if (j >= 0 && sais_is_s_(s, j)) {
            out[--s->positions[sais_symbol_(s, wide, j)]] = j;
        }
    }
}

// Whether the LMS substrings at a and b are equal. One that runs into the end of the text equals none.
__attribute__((always_inline)) static inline bool sais_equal_(const SuffixSort_ *s, bool wide, int32_t a, int32_t b) {
    for (int32_t i = 0;; i++) {
        if (a + i >= s->length || b + i >= s->length || sais_symbol_(s, wide, a + i) != sais_symbol_(s, wide, b + i) ||
            sais_is_s_(s, a + i) != sais_is_s_(s, b + i)) {
            return false;
        }
        if (i > 0 && sais_is_lms_(s, a + i)) {
            return sais_is_lms_(s, b + i);
        }
    }
}

static inline bool suffix_sort_wide_(const int32_t *text, int32_t length, int32_t symbols, int32_t *suffixes, Error *e);

// The L-types left of the entry behind them may have been overwritten by S-types only: an L-type that is an LMS'
// neighbour never is LMS itself, so the first pass leaves the LMS substrings in order.
__attribute__((always_inline)) static inline bool sais_run_(SuffixSort_ *s, bool wide, Error *e) {
    int32_t *out = s->suffixes, n = s->length, count = 0, names = 0, previous = -1;
    for (int32_t i = 0; i < n; i++) {
        s->counts[sais_symbol_(s, wide, i)]++;
    }
    for (int32_t i = n - 2; i >= 0; i--) {
        int32_t a = sais_symbol_(s, wide, i), b = sais_symbol_(s, wide, i + 1);
        if (a < b || (a == b && sais_is_s_(s, i + 1))) {
            s->is_s[i >> 6] |= (uint64_t)1 << (i & 63);
        }
    }
    // LMS substrings into order.
    memset(out, 0xFF, (size_t)n * sizeof *out);
    sais_buckets_(s, true);
    for (int32_t i = 1; i < n; i++) {
        if (sais_is_lms_(s, i)) {
            out[--s->positions[sais_symbol_(s, wide, i)]] = i;
        }
    }
    sais_induce_(s, wide);
    for (int32_t i = 0; i < n; i++) {
        if (sais_is_lms_(s, out[i])) {
            out[count++] = out[i];
        }
    }
    // Their names, first at count + position / 2 (LMS are at least two apart), then together at the end.
    memset(out + count, 0xFF, (size_t)(n - count) * sizeof *out);
    for (int32_t i = 0; i < count; i++) {
        names += i == 0 || !sais_equal_(s, wide, previous, out[i]);
        previous = out[i];
        out[count + previous / 2] = names - 1;
    }
    int32_t *reduced = out + n;
    for (int32_t i = n - 1; i >= count; i--) {
        if (out[i] >= 0) {
            *--reduced = out[i];
        }
    }
    if (names < count) {
        if (!suffix_sort_wide_(reduced, count, names, out, e)) {
            return false;
        }
    } else {
        for (int32_t i = 0; i < count; i++) {
            out[reduced[i]] = i;
        }
    }
    // From the order of the names' text to that of the LMS suffixes, and from these to all.
    for (int32_t i = 1, k = 0; i < n; i++) {
        if (sais_is_lms_(s, i)) {
            reduced[k++] = i;
        }
    }
    for (int32_t i = 0; i < count; i++) {
        out[i] = reduced[out[i]];
    }
    memset(out + count, 0xFF, (size_t)(n - count) * sizeof *out);
    sais_buckets_(s, true);
    for (int32_t i = count - 1; i >= 0; i--) {
        int32_t j = out[i];
        out[i] = -1;
        out[--s->positions[sais_symbol_(s, wide, j)]] = j;
    }
    sais_induce_(s, wide);
    return true;
}

static inline bool sais_(SuffixSort_ *s, bool wide, Error *e) {
    s->is_s = calloc((size_t)s->length / 64 + 1, sizeof *s->is_s);
    s->counts = calloc((size_t)s->symbols, sizeof *s->counts);
    s->positions = malloc((size_t)s->symbols * sizeof *s->positions);
    bool ok = s->is_s && s->counts && s->positions;
    if (!ok) {
        fail(e, "no memory to sort %d suffixes", s->length);
    }
    ok = ok && (wide ? sais_run_(s, true, e) : sais_run_(s, false, e));
    free(s->is_s);
    free(s->counts);
    free(s->positions);
    return ok;
}

static inline bool suffix_sort_wide_(const int32_t *text, int32_t length, int32_t symbols, int32_t *suffixes,
                                     Error *e) {
    return sais_(&(SuffixSort_){.text = text, .length = length, .symbols = symbols, .suffixes = suffixes}, true, e);
}

// suffixes[0 .. length): where the suffixes of a text of bytes begin, in the order of their bytes; of two of which one
// begins the other, the shorter comes first. Linear time; needs about length / 8 + 1.4 * length bytes beside both.
static inline bool suffix_sort(const unsigned char *text, int32_t length, int32_t *suffixes, Error *e) {
    return length == 0 ||
           sais_(&(SuffixSort_){.text = text, .length = length, .symbols = 256, .suffixes = suffixes}, false, e);
}

// ---------------------------------------------------------------------------------------------------------------------
// Index: SPLIT.index, the tokens of a split in the order of the text that begins with them
//
//   0   "TGPTINDX", u32 version = 1, u32 longest span, u64 tokens, u64 entries, u64 blocks, 24 zero bytes
//   64  per block: u64 first token, u64 first entry
//       u32 entries: tokens, counted from the first of their block
//
// A block is as many tokens as make 64 MiB of text. Its entries are sorted by the bytes of the text that follows, up to
// INDEX_OVERLAP bytes beyond the block; so each span of up to INDEX_OVERLAP bytes that begins in the block is found in
// it by bisection. Text ends at the end-of-document token (and at one without text), below every byte; such tokens have
// no entry. Sorting text, not ids, makes a span found however its edges were cut into tokens.

enum { INDEX_VERSION = 1, INDEX_HEADER = 64, INDEX_BLOCK = 1 << 26, INDEX_OVERLAP = 1 << 16 };

// The text that a token stands for in the data; *length is 0 for one that ends it.
static inline const char *token_text_(const Tokenizer *t, uint64_t id, size_t *length) {
    *length = 0;
    return id == (uint64_t)t->end_of_document || id >= t->vocab_size ? "" : tokenizer_text(t, (int32_t)id, length);
}

typedef struct {
    Dataset data;
    const Tokenizer *tokenizer;
    char path[PATH_LIMIT];
    int file;
    uint64_t *first_token, *first_entry; // (blocks + 1): the last is behind all
    size_t blocks, token_capacity, entry_capacity;
} IndexBuild_;

// Ids in order, read in pieces.
typedef struct {
    const Dataset *data;
    uint64_t at, end, held; // token numbers: raw holds those from at - at % held on
    unsigned char raw[1 << 16];
} TokenReader_;

static inline bool token_next_(TokenReader_ *r, size_t vocab_size, uint64_t *id, Error *e) {
    const size_t bytes = (size_t)r->data->token_bytes, block = sizeof r->raw / bytes;
    size_t j = r->held % block;
    if (j == 0 && !read_at(r->data->file, r->data->path, r->raw, min_u64_(r->end - r->at, block) * bytes,
                           r->data->first_byte + r->at * bytes, e)) {
        return false;
    }
    *id = load_le(r->raw + j * bytes, (int)bytes);
    r->held++;
    r->at++;
    return *id < vocab_size || fail(e, "%s: token %llu has id %llu, outside the vocabulary of %zu", r->data->path,
                                    (unsigned long long)r->at - 1, (unsigned long long)*id, vocab_size);
}

static inline bool index_add_block_(IndexBuild_ *b, uint64_t token, uint64_t entry, Error *e) {
    if (!reserve_(&b->first_token, &b->token_capacity, b->blocks, 1, sizeof token, e) ||
        !reserve_(&b->first_entry, &b->entry_capacity, b->blocks, 1, sizeof entry, e)) {
        return false;
    }
    b->first_token[b->blocks] = token;
    b->first_entry[b->blocks++] = entry;
    return true;
}

// Cuts the tokens into blocks and counts their entries.
static inline bool index_plan_(IndexBuild_ *b, Error *e) {
    TokenReader_ *r = calloc(1, sizeof *r);
    uint64_t id, entries = 0, bytes = INDEX_BLOCK;
    bool ok = r || fail(e, "%s: no memory to read it", b->data.path);
    if (ok) {
        *r = (TokenReader_){.data = &b->data, .end = b->data.tokens};
    }
    while (ok && r->at < r->end) {
        size_t length = 0;
        ok = token_next_(r, b->tokenizer->vocab_size, &id, e);
        if (ok) {
            token_text_(b->tokenizer, id, &length);
            bytes += length + (length == 0);
            if (bytes > INDEX_BLOCK) {
                ok = index_add_block_(b, r->at - 1, entries, e);
                bytes = length + (length == 0);
            }
            entries += length > 0;
        }
    }
    ok = ok && index_add_block_(b, b->data.tokens, entries, e);
    b->blocks--; // the last entry is the end
    free(r);
    return ok;
}

// The text of a block as symbols for the sort: 0 for its ends, byte + 1 below C0, which UTF-8 never uses, and the byte
// itself above.
typedef struct {
    unsigned char *symbols;
    int32_t *suffixes;
    uint64_t *starts; // bit i: a token begins at byte i
    uint32_t *ranks;  // tokens that begin before byte 64 * i
    size_t bytes, capacity;
    uint64_t tokens; // of the block itself, without what overlaps
} IndexBlock_;

static inline bool index_block_add_(IndexBlock_ *t, const char *text, size_t length, const char *path, Error *e) {
    if (t->capacity - t->bytes <= length) { // only a token of more than 1 MiB can get here
        return fail(e, "%s: a token of %zu bytes is too long to index", path, length);
    }
    t->starts[t->bytes >> 6] |= (uint64_t)1 << (t->bytes & 63);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == 0xC0) {
            return fail(e, "%s: holds a byte C0, which no UTF-8 text has: it cannot be indexed", path);
        }
        t->symbols[t->bytes++] = (unsigned char)(c + (c < 0xC0));
    }
    if (length == 0) {
        t->symbols[t->bytes++] = 0;
    }
    return true;
}

// Reads the text of block number `n` and what overlaps.
static inline bool index_block_read_(const IndexBuild_ *b, size_t n, IndexBlock_ *t, Error *e) {
    TokenReader_ *r = calloc(1, sizeof *r);
    uint64_t id, last = b->first_token[n + 1];
    size_t length = 1, end = 0;
    bool ok = r || fail(e, "%s: no memory to read it", b->data.path);
    if (ok) {
        *r = (TokenReader_){.data = &b->data, .at = b->first_token[n], .end = b->data.tokens};
    }
    while (ok && r->at < r->end && (r->at < last || (length > 0 && t->bytes - end < INDEX_OVERLAP))) {
        ok = token_next_(r, b->tokenizer->vocab_size, &id, e);
        if (ok) {
            const char *text = token_text_(b->tokenizer, id, &length);
            ok = index_block_add_(t, text, length, b->data.path, e);
            end = r->at <= last ? t->bytes : end;
        }
    }
    t->tokens = last - b->first_token[n];
    for (size_t i = 0, sum = 0; ok && i <= t->bytes / 64; i++) {
        t->ranks[i] = (uint32_t)sum;
        sum += (size_t)__builtin_popcountll(t->starts[i]);
    }
    free(r);
    return ok;
}

static inline bool write_at_(int file, const char *path, const void *data, size_t bytes, uint64_t offset, Error *e) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(file, (const char *)data + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR) {
            return fail(e, "%s: cannot be written: %s", path, strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// Writes the entries of a sorted block: of its suffixes those that begin with a token of the block that has text.
static inline bool index_block_write_(const IndexBuild_ *b, size_t n, IndexBlock_ *t, Error *e) {
    unsigned char *out = (unsigned char *)t->suffixes; // entry k is written only after suffix k was read
    uint64_t entries = 0, expected = b->first_entry[n + 1] - b->first_entry[n];
    for (size_t i = 0; i < t->bytes; i++) {
        size_t at = (size_t)t->suffixes[i];
        uint64_t word = t->starts[at >> 6], bit = (uint64_t)1 << (at & 63);
        if ((word & bit) && t->symbols[at]) {
            uint64_t token = t->ranks[at >> 6] + (uint64_t)__builtin_popcountll(word & (bit - 1));
            if (token < t->tokens) {
                store_le(out + 4 * entries++, token, 4);
            }
        }
    }
    if (entries != expected) {
        return fail(e, "%s: changed while it was being indexed", b->data.path);
    }
    return write_at_(b->file, b->path, out, 4 * entries,
                     INDEX_HEADER + 16 * (uint64_t)b->blocks + 4 * b->first_entry[n], e);
}

static inline bool index_block_build_(const IndexBuild_ *b, size_t n, Error *e) {
    size_t capacity = INDEX_BLOCK + INDEX_OVERLAP + (1 << 20); // pages that are not used take no memory
    IndexBlock_ t = {.capacity = capacity};
    t.symbols = malloc(capacity);
    t.suffixes = malloc(capacity * sizeof *t.suffixes);
    t.starts = calloc(capacity / 64 + 1, sizeof *t.starts);
    t.ranks = malloc((capacity / 64 + 1) * sizeof *t.ranks);
    bool ok = (t.symbols && t.suffixes && t.starts && t.ranks) ||
              fail(e, "%s: no memory to index it: each thread needs about 350 MB", b->data.path);
    ok = ok && index_block_read_(b, n, &t, e) && suffix_sort(t.symbols, (int32_t)t.bytes, t.suffixes, e) &&
         index_block_write_(b, n, &t, e);
    free(t.symbols);
    free(t.suffixes);
    free(t.starts);
    free(t.ranks);
    return ok;
}

// Header and table of blocks.
static inline bool index_write_table_(const IndexBuild_ *b, Error *e) {
    unsigned char header[INDEX_HEADER] = "TGPTINDX", entry[16];
    store_le(header + 8, INDEX_VERSION, 4);
    store_le(header + 12, INDEX_OVERLAP, 4);
    store_le(header + 16, b->data.tokens, 8);
    store_le(header + 24, b->first_entry[b->blocks], 8);
    store_le(header + 32, b->blocks, 8);
    bool ok = write_at_(b->file, b->path, header, sizeof header, 0, e);
    for (size_t n = 0; ok && n < b->blocks; n++) {
        store_le(entry, b->first_token[n], 8);
        store_le(entry + 8, b->first_entry[n], 8);
        ok = write_at_(b->file, b->path, entry, sizeof entry, INDEX_HEADER + 16 * n, e);
    }
    return ok;
}

static inline bool index_write_(IndexBuild_ *b, FILE *progress, Error *e) {
    bool ok = index_plan_(b, e);
    b->file = ok ? open(b->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
    ok = ok && (b->file >= 0 || fail(e, "%s: cannot be created: %s", b->path, strerror(errno)));
    ok = ok && index_write_table_(b, e);
    size_t done = 0;
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t n = 0; n < b->blocks; n++) {
        Error mine;
        bool going;
#pragma omp atomic read
        going = ok;
        bool built = going && index_block_build_(b, n, &mine);
#pragma omp critical(index_progress)
        if (going && !built) {
            ok = false;
            *e = mine;
        } else if (going && progress) {
            fprintf(progress, "indexing %s: block %zu of %zu\n", b->data.path, ++done, b->blocks);
            fflush(progress);
        }
    }
    if (b->file >= 0) {
        bool written = fsync(b->file) == 0;
        written = close(b->file) == 0 && written;
        ok = ok && (written || fail(e, "%s: cannot be written: %s", b->path, strerror(errno)));
    }
    return ok;
}

// Writes FOLDER/SPLIT.index from FOLDER/SPLIT.bin and .idx, whose tokens `tokenizer` made; a manifest need not be there
// yet. Every thread of OpenMP takes a block at a time, with about 350 MB each; the file is the same for any number of
// them. `progress` gets a line a block, NULL: none. `hex` gets the file's SHA-256.
static inline bool index_build(const char *folder, const char *split, const Tokenizer *tokenizer, FILE *progress,
                               char hex[65], Error *e) {
    char prefix[PATH_LIMIT];
    IndexBuild_ *b = calloc(1, sizeof *b);
    bool ok = b || fail(e, "%s: no memory to index it", folder);
    if (ok) {
        b->data.file = b->file = -1;
        b->tokenizer = tokenizer;
    }
    ok = ok && path_format(prefix, e, "%s/%s", folder, split) && path_format(b->path, e, "%s.index", prefix) &&
         dataset_open(&b->data, prefix, split, 1, e) && index_write_(b, progress, e) && sha256_file(b->path, hex, e);
    if (b) {
        dataset_close(&b->data);
        free(b->first_token);
        free(b->first_entry);
    }
    free(b);
    return ok;
}
#endif
