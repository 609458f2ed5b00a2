// dataloader.h: from token shards to samples, in an order that is computed again at will, so that
// each token can be traced to its source. prepare.h makes the shards.
//
// Samples:    dataset_open, dataset_read, dataset_order    training samples out of shards, in a
// reproducible order Mixtures:   mixture_open, mixture_order, batch_hash      several datasets in
// one order, each with its share Documents:  docs_load                                    where
// each document of a shard comes from Beneath:    sha256_*, random_* hashes of files, random
// numbers as pure functions
//
// What a prepared folder holds (SPLIT is train or val):
//   SPLIT.bin + SPLIT.idx   tokens, a Megatron pair: Megatron reads ours, we read Megatron's
//   SPLIT.docs              one record per document: source file, byte range in it, number of
//   tokens manifest.json           sources, counts, hashes, the command that made it tokenizer/
//   Hugging Face tokenizer files
// All numbers in the binary files are little-endian.
#ifndef DATALOADER_H
#define DATALOADER_H

#include <assert.h>
#include <dirent.h> // scandir
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "json.h"      // defines: Error, fail, read_file, utf8_*, json_*
#include "tokenizer.h" // defines: Tokenizer, Encoder, TokenBuffer, utf8_sanitize, tokenizer_*

// ------------------------------------------------------------------------------------------------
// Small helpers: paths, bytes, whole reads

enum { PATH_LIMIT = 4096 };

// Formats a path into a buffer of PATH_LIMIT bytes; one that does not fit is an error.
__attribute__((format(printf, 3, 4))) static inline bool path_format(char *out, Error *e,
                                                                     const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(out, PATH_LIMIT, format, args);
    va_end(args);
    return (length >= 0 && length < PATH_LIMIT) ||
           fail(e, "%.200s...: the path is longer than the %d bytes supported", out,
                PATH_LIMIT - 1);
}

static inline uint64_t load_le(const void *from, int bytes) {
    const unsigned char *p = from;
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) {
        value = value << 8 | p[i];
    }
    return value;
}

static inline void store_le(void *to, uint64_t value, int bytes) {
    unsigned char *p = to;
    for (int i = 0; i < bytes; i++, value >>= 8) {
        p[i] = (unsigned char)value;
    }
}

static inline uint64_t min_u64_(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

// Reads exactly `bytes` at `offset`. The file may have been truncated since it was opened: then
// this is an error line, where a memory map would be a SIGBUS.
static inline bool read_at(int file, const char *path, void *out, size_t bytes, uint64_t offset,
                           Error *e) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(file, (char *)out + done, bytes - done, (off_t)(offset + done));
        if (n == 0) {
            return fail(e, "%s: ends before byte %llu: it was truncated", path,
                        (unsigned long long)(offset + bytes));
        }
        if (n < 0 && errno != EINTR) {
            return fail(e, "%s: cannot be read at byte %llu: %s", path, (unsigned long long)offset,
                        strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// Writes `bytes` at `offset`.
static inline bool write_at(int file, const char *path, const void *data, size_t bytes,
                            uint64_t offset, Error *e) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(file, (const char *)data + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR) {
            return fail(e, "%s: cannot be written at byte %llu: %s", path,
                        (unsigned long long)offset, strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// SHA-256 (FIPS 180-4)

typedef struct {
    uint32_t state[8];
    uint64_t length;         // bytes added so far
    unsigned char block[64]; // the last length % 64 of them
} Sha256;

static inline uint32_t rotate_right_(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static inline void sha256_block_(uint32_t state[8], const unsigned char *block) {
    static const uint32_t K[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
        0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
        0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
        0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
        0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
        0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
        0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
    uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 16; t++) {
        w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
               (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
    }
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate_right_(w[t - 15], 7) ^ rotate_right_(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate_right_(w[t - 2], 17) ^ rotate_right_(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    for (int t = 0; t < 64; t++) {
        uint32_t s1 = rotate_right_(e, 6) ^ rotate_right_(e, 11) ^ rotate_right_(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + K[t] + w[t];
        uint32_t s0 = rotate_right_(a, 2) ^ rotate_right_(a, 13) ^ rotate_right_(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static inline void sha256_begin(Sha256 *s) {
    *s = (Sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
                            0x1f83d9ab, 0x5be0cd19}};
}

static inline void sha256_add(Sha256 *s, const void *data, size_t bytes) {
    const unsigned char *p = data;
    size_t held = s->length % 64;
    s->length += bytes;
    if (held) {
        size_t n = bytes < 64 - held ? bytes : 64 - held;
        memcpy(s->block + held, p, n);
        p += n, bytes -= n;
        if (held + n < 64) {
            return;
        }
        sha256_block_(s->state, s->block);
    }
    for (; bytes >= 64; p += 64, bytes -= 64) {
        sha256_block_(s->state, p);
    }
    if (bytes) {
        memcpy(s->block, p, bytes);
    }
}

static inline void sha256_digest(Sha256 *s, unsigned char digest[32]) {
    static const unsigned char padding[64] = {0x80};
    unsigned char bits[8];
    for (int i = 0; i < 8; i++) {
        bits[i] = (unsigned char)(s->length * 8 >>
                                  (56 - 8 * i)); // the message's length in bits, big-endian
    }
    sha256_add(s, padding, 64 - (s->length + 8) % 64);
    sha256_add(s, bits, 8);
    for (int i = 0; i < 32; i++) {
        digest[i] = (unsigned char)(s->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}

// Writes the digest as 64 lower-case hexadecimal digits and a NUL.
static inline void sha256_end(Sha256 *s, char hex[65]) {
    unsigned char digest[32];
    sha256_digest(s, digest);
    for (int i = 0; i < 32; i++) {
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }
}

static inline bool sha256_file(const char *path, char hex[65], Error *e) {
    Sha256 hash;
    unsigned char buffer[65536];
    FILE *file = fopen(path, "rb");
    if (!file) {
        return fail(e, "%s: cannot be read: %s", path, strerror(errno));
    }
    sha256_begin(&hash);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, file)) > 0;) {
        sha256_add(&hash, buffer, n);
    }
    bool ok = !ferror(file) || fail(e, "%s: cannot be read: %s", path, strerror(errno));
    fclose(file);
    sha256_end(&hash, hex);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Files and folders that are written: every failure (a full disk) is seen, at the latest when the
// file is closed

static inline bool write_(FILE *file, const char *path, const void *data, size_t bytes, Error *e) {
    return fwrite(data, 1, bytes, file) == bytes ||
           fail(e, "%s: cannot be written: %s", path, strerror(errno));
}

// Closes a file that was written, on disk when this returns true.
static inline bool close_written_(FILE *file, const char *path, Error *e) {
    bool ok = fflush(file) == 0 && fsync(fileno(file)) == 0;
    int reason = ok ? 0 : errno;
    ok = fclose(file) == 0 && ok;
    return ok || fail(e, "%s: cannot be written: %s", path, strerror(reason ? reason : errno));
}

// A file that is hashed while it is written.
typedef struct {
    FILE *file;
    char path[PATH_LIMIT];
    Sha256 hash;
} OutputFile;

static inline bool output_open(OutputFile *o, const char *path, Error *e) {
    o->file = NULL;
    if (!path_format(o->path, e, "%s", path)) {
        return false;
    }
    o->file = fopen(path, "wb");
    sha256_begin(&o->hash);
    return o->file || fail(e, "%s: cannot be created: %s", path, strerror(errno));
}

static inline bool output_write(OutputFile *o, const void *data, size_t bytes, Error *e) {
    sha256_add(&o->hash, data, bytes);
    return write_(o->file, o->path, data, bytes, e);
}

// Closes the file, on disk when this returns true; hex gets its SHA-256.
static inline bool output_close(OutputFile *o, char hex[65], Error *e) {
    sha256_end(&o->hash, hex);
    return close_written_(o->file, o->path, e);
}

static inline int by_bytes_(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static inline int not_dots_(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

// The names in a folder in the order of their bytes. Returns how many, or -1 with errno set; free
// each, then *names.
static inline int list_folder(const char *path, struct dirent ***names) {
    return scandir(path, names, not_dots_, by_bytes_);
}

static inline void free_names(struct dirent **names, int count) {
    for (int i = 0; i < count; i++) {
        free(names[i]);
    }
    free(names);
}

// Removes a folder with everything in it, as far as that is possible; links are removed, not
// followed.
static inline void remove_directory(const char *path) {
    struct dirent **names = NULL;
    int count = list_folder(path, &names);
    for (int i = 0; i < count; i++) {
        char child[PATH_LIMIT];
        Error ignored;
        if (path_format(child, &ignored, "%s/%s", path, names[i]->d_name) && unlink(child)) {
            remove_directory(child);
        }
    }
    free_names(names, count);
    rmdir(path);
}

// Makes the names in a folder durable: what was created, renamed or removed in it.
static inline bool sync_directory(const char *path, Error *e) {
    int folder = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = folder >= 0 && fsync(folder) == 0;
    ok = ok || fail(e, "%s: cannot be written to disk: %s", path, strerror(errno));
    if (folder >= 0) {
        close(folder);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Random numbers as pure functions: no state, so any rank, thread or resumed run computes the same
// ones again

// Streams keep uses of one seed apart. Those below RANDOM_FREE belong to this file.
enum { RANDOM_ORDER, RANDOM_SPLIT, RANDOM_SAMPLE, RANDOM_SOURCE, RANDOM_FREE = 16 };

// 64 random bits for (seed, stream, counter): the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
// once per word.
static inline uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
    const uint64_t words[3] = {seed, stream, counter};
    uint64_t h = 0;
    for (int i = 0; i < 3; i++) {
        h = (h ^ words[i]) + 0x9E3779B97F4A7C15;
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9;
        h = (h ^ h >> 27) * 0x94D049BB133111EB;
        h ^= h >> 31;
    }
    return h;
}

// Uniform in [0, 1), a multiple of 2^-53.
static inline double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (double)(random_bits(seed, stream, counter) >> 11) * 0x1p-53;
}

// The network beneath a permutation of 0..n-1: `half` is the smallest number of bits so that 2 *
// half hold n - 1.
typedef struct {
    int half;
    uint64_t mask, key;
} Feistel_;

static inline Feistel_ feistel_(uint64_t seed, uint64_t epoch, uint64_t n) {
    int half = 1;
    while (half < 32 && (n - 1) >> (2 * half)) {
        half++;
    }
    return (Feistel_){half, ((uint64_t)1 << half) - 1, random_bits(seed, RANDOM_ORDER, epoch)};
}

enum { FEISTEL_ROUNDS = 6 };

// Where `position` (< n) goes in the permutation of 0..n-1 that (seed, epoch) names. A six-round
// Feistel network permutes the 2*half-bit numbers, fewer than 4n; results of n or more are fed back
// in until one is below n (cycle walking: Black and Rogaway 2002). Nothing is stored, however large
// n is.
static inline uint64_t random_permutation(uint64_t seed, uint64_t epoch, uint64_t position,
                                          uint64_t n) {
    Feistel_ f = feistel_(seed, epoch, n);
    uint64_t x = position;
    do {
        uint64_t left = x >> f.half, right = x & f.mask;
        for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
            uint64_t next = left ^ (random_bits(f.key, round, right) & f.mask);
            left = right;
            right = next;
        }
        x = left << f.half | right;
    } while (x >= n);
    return x;
}

// The position (< n) that random_permutation sends to `value` (< n): the same rounds backwards.
static inline uint64_t random_permutation_inverse(uint64_t seed, uint64_t epoch, uint64_t value,
                                                  uint64_t n) {
    Feistel_ f = feistel_(seed, epoch, n);
    uint64_t x = value;
    do {
        uint64_t left = x >> f.half, right = x & f.mask;
        for (uint64_t round = FEISTEL_ROUNDS; round-- > 0;) {
            uint64_t previous = right ^ (random_bits(f.key, round, left) & f.mask);
            right = left;
            left = previous;
        }
        x = left << f.half | right;
    } while (x >= n);
    return x;
}

// ------------------------------------------------------------------------------------------------
// Reading token data
//
// Megatron pair, PREFIX.bin + PREFIX.idx: .bin holds the ids back to back and nothing else. .idx:
//   0   "MMIDIDX\0\0"            9 bytes
//   9   u64 version              1
//   17  u8 type                  1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16
//   18  u64 S, sequences         26  u64 D, entries of the document array: documents + 1
//   34  int32 length[S]          in tokens
//       int64 pointer[S]         bytes into .bin: pointer[0] = 0, pointer[i+1] = pointer[i] +
//       length[i] * size of type int64 document[D]        first sequence of each document;
//       document[0] = 0, document[D-1] = S
// llm.c shard: int32 header[256] = {magic, version, tokens, 0...}, then the ids; (20240520, 1)
// uint16, (20240801, 7) uint32.

typedef struct {
    int file;                  // descriptor of the file that holds the tokens; -1 when closed
    char path[PATH_LIMIT];     // its path
    char idx_path[PATH_LIMIT]; // of the .idx; empty for an llm.c shard
    int token_bytes;           // size of an id in the file
    bool token_signed;
    uint64_t first_byte;        // where the ids begin
    uint64_t tokens, documents; // documents is 0 where it is unknown: llm.c
    size_t seq_len;
    uint64_t samples; // (tokens - 1) / seq_len, at least 1

    // From manifest.json; empty or 0 for data that prepare did not make. dataset_verify fills in
    // the hashes.
    char bin_hash[65], idx_hash[65], tokenizer_hash[65], manifest_hash[65];
    char tokenizer[PATH_LIMIT]; // the tokenizer's folder
    size_t vocab_size;
} Dataset;

enum { IDX_HEADER = 34, LLMC_HEADER = 1024, IDX_BLOCK = 4096 };

static const char idx_magic_[9] = "MMIDIDX\0";

// Checks length[] and pointer[] of the .idx; every sequence must lie in the .bin, which must hold
// nothing else.
static inline bool idx_check_sequences_(Dataset *d, int idx, uint64_t sequences, uint64_t bin_bytes,
                                        Error *e) {
    unsigned char lengths[4 * IDX_BLOCK], pointers[8 * IDX_BLOCK];
    uint64_t end = 0; // bytes of .bin that the sequences so far take
    for (uint64_t i = 0; i < sequences; i++) {
        size_t j = i % IDX_BLOCK;
        if (j == 0) {
            size_t n = min_u64_(sequences - i, IDX_BLOCK);
            if (!read_at(idx, d->idx_path, lengths, 4 * n, IDX_HEADER + 4 * i, e) ||
                !read_at(idx, d->idx_path, pointers, 8 * n, IDX_HEADER + 4 * sequences + 8 * i,
                         e)) {
                return false;
            }
        }
        uint64_t length = load_le(lengths + 4 * j, 4), pointer = load_le(pointers + 8 * j, 8);
        if (length > INT32_MAX) {
            return fail(e, "%s: sequence %llu has the negative length %d", d->idx_path,
                        (unsigned long long)i, (int32_t)length);
        }
        if (pointer != end) {
            return fail(e,
                        "%s: sequence %llu begins at byte %lld of the .bin, but the one before "
                        "ends at %llu",
                        d->idx_path, (unsigned long long)i, (long long)pointer,
                        (unsigned long long)end);
        }
        end += length * (uint64_t)d->token_bytes;
        if (end > bin_bytes) {
            break;
        }
    }
    if (end != bin_bytes) {
        return fail(
            e, "%s: has %llu bytes, but %s describes %s%llu: one of the two was cut or replaced",
            d->path, (unsigned long long)bin_bytes, d->idx_path, end > bin_bytes ? "at least " : "",
            (unsigned long long)end);
    }
    return true;
}

// Checks document[]: from 0 to S, never decreasing.
static inline bool idx_check_documents_(Dataset *d, int idx, uint64_t sequences, uint64_t entries,
                                        Error *e) {
    unsigned char block[8 * IDX_BLOCK];
    uint64_t previous = 0;
    for (uint64_t i = 0; i < entries; i++) {
        size_t j = i % IDX_BLOCK;
        if (j == 0 && !read_at(idx, d->idx_path, block, 8 * min_u64_(entries - i, IDX_BLOCK),
                               IDX_HEADER + 12 * sequences + 8 * i, e)) {
            return false;
        }
        uint64_t first = load_le(block + 8 * j, 8);
        if (first > sequences || first < previous || (i == 0 && first != 0)) {
            return fail(
                e, "%s: document %llu begins at sequence %lld, which is not between %llu and %llu",
                d->idx_path, (unsigned long long)i, (long long)first, (unsigned long long)previous,
                (unsigned long long)(i ? sequences : 0));
        }
        previous = first;
    }
    return previous == sequences ||
           fail(e, "%s: its documents end at sequence %llu of %llu", d->idx_path,
                (unsigned long long)previous, (unsigned long long)sequences);
}

static inline bool idx_check_(Dataset *d, int idx, uint64_t idx_bytes, uint64_t bin_bytes,
                              Error *e) {
    static const struct {
        int bytes;
        bool is_signed;
    } types[9] = {[1] = {1, false}, [2] = {1, true}, [3] = {2, true},
                  [4] = {4, true},  [5] = {8, true}, [8] = {2, false}};
    unsigned char header[IDX_HEADER];
    if (idx_bytes < IDX_HEADER) {
        return fail(e, "%s: has %llu bytes, fewer than the header of a Megatron index (%d)",
                    d->idx_path, (unsigned long long)idx_bytes, IDX_HEADER);
    }
    if (!read_at(idx, d->idx_path, header, sizeof header, 0, e)) {
        return false;
    }
    uint64_t version = load_le(header + 9, 8), S = load_le(header + 18, 8),
             D = load_le(header + 26, 8);
    unsigned type = header[17];
    if (memcmp(header, idx_magic_, sizeof idx_magic_)) {
        return fail(e, "%s: does not begin with MMIDIDX: not a Megatron index%s", d->idx_path,
                    memcmp(header, "TNTIDX", 6)
                        ? ""
                        : ", but one of the older kind TNTIDX; preprocess the data anew");
    }
    if (version != 1) {
        return fail(e, "%s: has version %llu, only 1 exists", d->idx_path,
                    (unsigned long long)version);
    }
    if (type >= sizeof types / sizeof *types || types[type].bytes == 0) {
        return fail(e, "%s: has type code %u; ids can be of type 1, 2, 3, 4, 5 or 8", d->idx_path,
                    type);
    }
    d->token_bytes = types[type].bytes;
    d->token_signed = types[type].is_signed;
    bool plausible =
        S <= idx_bytes / 12 && D <= idx_bytes / 8; // so that the sums below cannot overflow
    if (plausible && S > 0 && idx_bytes == IDX_HEADER + 13 * S + 8 * D) {
        return fail(e, "%s: is the index of multimodal data (it has modes); only text can be read",
                    d->idx_path);
    }
    if (!plausible || idx_bytes != IDX_HEADER + 12 * S + 8 * D) {
        return fail(
            e,
            "%s: has %llu bytes, which does not fit its %llu sequences and %llu document entries",
            d->idx_path, (unsigned long long)idx_bytes, (unsigned long long)S,
            (unsigned long long)D);
    }
    if (D == 0) {
        return fail(e, "%s: has no document entries; even without documents there is one",
                    d->idx_path);
    }
    d->tokens = bin_bytes / (uint64_t)d->token_bytes;
    d->documents = D - 1;
    return idx_check_sequences_(d, idx, S, bin_bytes, e) && idx_check_documents_(d, idx, S, D, e);
}

static inline bool llmc_check_(Dataset *d, uint64_t bytes, Error *e) {
    unsigned char header[12];
    if (bytes < LLMC_HEADER) {
        return fail(e, "%s: has %llu bytes, fewer than the header of an llm.c shard (%d)", d->path,
                    (unsigned long long)bytes, LLMC_HEADER);
    }
    if (!read_at(d->file, d->path, header, sizeof header, 0, e)) {
        return false;
    }
    uint64_t magic = load_le(header, 4), version = load_le(header + 4, 4),
             count = load_le(header + 8, 4);
    if (magic != 20240520 && magic != 20240801) {
        return fail(e,
                    "%s: is not an llm.c shard: it begins with %llu (a Megatron pair is named "
                    "without its .bin)",
                    d->path, (unsigned long long)magic);
    }
    if (version != (magic == 20240520 ? 1 : 7)) {
        return fail(e, "%s: has version %llu; llm.c shards of magic %llu have %d", d->path,
                    (unsigned long long)version, (unsigned long long)magic,
                    magic == 20240520 ? 1 : 7);
    }
    d->token_bytes = magic == 20240520 ? 2 : 4;
    d->first_byte = LLMC_HEADER;
    d->tokens = count;
    uint64_t expected = LLMC_HEADER + count * (uint64_t)d->token_bytes;
    return bytes == expected ||
           fail(e, "%s: has %llu bytes, but its header's %llu tokens make %llu", d->path,
                (unsigned long long)bytes, (unsigned long long)count, (unsigned long long)expected);
}

// Opens a regular file for reading. Returns its descriptor, or -1 and the error.
static inline int open_regular_(const char *path, uint64_t *bytes, Error *e) {
    struct stat status;
    int file =
        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // O_NONBLOCK: do not wait on a named pipe
    if (file < 0 || fstat(file, &status)) {
        fail(e, "%s: cannot be read: %s", path, strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        fail(e, "%s: is not a regular file", path);
    } else {
        *bytes = (uint64_t)status.st_size;
        return file;
    }
    if (file >= 0) {
        close(file);
    }
    return -1;
}

// Copies a string of at most `limit` - 1 bytes; false if it is missing or too long.
static inline bool copy_string_(char *out, size_t limit, const Json *node) {
    const char *text = json_string(node);
    return text && snprintf(out, limit, "%s", text) < (int)limit;
}

// Takes from FOLDER/manifest.json what concerns this split; the counts in it must be those of the
// files.
static inline bool dataset_read_manifest_(Dataset *d, const char *folder, const char *split,
                                          Error *e) {
    char path[PATH_LIMIT];
    JsonDocument manifest;
    if (!path_format(path, e, "%s/manifest.json", folder) ||
        !sha256_file(path, d->manifest_hash, e) ||
        !json_parse_file(&manifest, path, (size_t)1 << 31, e)) {
        return false;
    }
    const Json *tokenizer = json_get(manifest.root, "tokenizer");
    const Json *entry = json_get(json_get(manifest.root, "splits"), split);
    uint64_t version, vocab_size, tokens, documents;
    bool ok = true;
    if (!json_uint(json_get(manifest.root, "version"), &version) || version != 1) {
        ok = fail(e, "%s: \"version\" is not 1: not made by this program's prepare", path);
    } else if (!entry) {
        ok = fail(e, "%s: there is no \"%s\" split in this data", path, split);
    } else if (!json_uint(json_get(tokenizer, "vocab_size"), &vocab_size) || vocab_size == 0 ||
               vocab_size > INT32_MAX ||
               !copy_string_(d->tokenizer_hash, sizeof d->tokenizer_hash,
                             json_get(tokenizer, "sha256")) ||
               !copy_string_(d->bin_hash, sizeof d->bin_hash,
                             json_get(json_get(entry, "bin"), "sha256")) ||
               !copy_string_(d->idx_hash, sizeof d->idx_hash,
                             json_get(json_get(entry, "idx"), "sha256"))) {
        ok =
            fail(e, "%s: the tokenizer's vocab_size or hash, or a hash of the %s split, is missing",
                 path, split);
    } else if (!json_uint(json_get(entry, "tokens"), &tokens) || tokens != d->tokens ||
               !json_uint(json_get(entry, "documents"), &documents) || documents != d->documents) {
        ok = fail(e, "%s: does not agree with %s, which has %llu documents and %llu tokens", path,
                  d->idx_path, (unsigned long long)d->documents, (unsigned long long)d->tokens);
    } else {
        d->vocab_size = (size_t)vocab_size;
        ok = path_format(d->tokenizer, e, "%s/tokenizer", folder);
    }
    json_free(&manifest);
    return ok;
}

static inline void dataset_close(Dataset *d) {
    if (d->file >= 0) {
        close(d->file);
    }
    d->file = -1;
}

static inline bool is_folder_(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

// Whether dataset_open(path, split) has something to open: a prepared folder may lack "val"; a bare
// file has no splits and counts as "train".
static inline bool dataset_has_split(const char *path, const char *split) {
    char idx[PATH_LIMIT];
    Error ignored;
    if (!is_folder_(path)) {
        return strcmp(split, "train") == 0;
    }
    return path_format(idx, &ignored, "%s/%s.idx", path, split) && access(idx, F_OK) == 0;
}

static inline bool dataset_open_files_(Dataset *d, const char *path, const char *split, Error *e) {
    bool folder = is_folder_(path);
    uint64_t bytes, idx_bytes;
    if (!(folder ? path_format(d->path, e, "%s/%s.bin", path, split) &&
                       path_format(d->idx_path, e, "%s/%s.idx", path, split)
                 : path_format(d->path, e, "%s.bin", path) &&
                       path_format(d->idx_path, e, "%s.idx", path))) {
        return false;
    }
    if (folder && !dataset_has_split(path, split)) {
        return fail(e, "%s: has no %s.idx: %s", path, split,
                    strcmp(split, "val") ? "this is not a folder that prepare made"
                                         : "it was prepared without a validation split");
    }
    if (!folder && access(d->idx_path, F_OK)) {
        d->idx_path[0] = 0; // so PATH must name an llm.c shard
        if (access(path, F_OK)) {
            return fail(
                e,
                "%s: is no prepared folder, no Megatron prefix (%s with .idx) and no llm.c shard",
                path, d->path);
        }
        return path_format(d->path, e, "%s", path) &&
               (d->file = open_regular_(path, &bytes, e)) >= 0 && llmc_check_(d, bytes, e);
    }
    d->file = open_regular_(d->path, &bytes, e);
    if (d->file < 0) {
        return false;
    }
    int idx = open_regular_(d->idx_path, &idx_bytes, e);
    bool ok = idx >= 0 && idx_check_(d, idx, idx_bytes, bytes, e);
    if (idx >= 0) {
        close(idx);
    }
    return ok && (!folder || dataset_read_manifest_(d, path, split, e));
}

// Opens token data for samples of seq_len + 1 tokens. `path` is a folder that prepare made, the
// prefix of a Megatron pair, or an llm.c shard; `split` ("train" or "val") matters for a folder
// only. The files' structure is checked here, each id when it is read; dataset_verify checks the
// content. An error if there is not a single sample.
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

// Reads sample number `sample`: tokens[0 .. seq_len], which are the seq_len + 1 tokens from token
// sample * seq_len on. Documents follow one another without gaps, so a sample may span several. An
// id outside the vocabulary is an error.
static inline bool dataset_read(const Dataset *d, uint64_t sample, size_t vocab_size,
                                int32_t *tokens, Error *e) {
    unsigned char raw[8192];
    const size_t bytes = (size_t)d->token_bytes, block = sizeof raw / bytes;
    const uint64_t first = sample * d->seq_len;
    const int unused = 64 - 8 * d->token_bytes;
    assert(sample < d->samples);
    for (size_t i = 0; i <= d->seq_len; i++) {
        size_t j = i % block;
        if (j == 0 && !read_at(d->file, d->path, raw, min_u64_(d->seq_len + 1 - i, block) * bytes,
                               d->first_byte + (first + i) * bytes, e)) {
            return false;
        }
        uint64_t id = load_le(raw + j * bytes, d->token_bytes);
        if (d->token_signed) { // a negative id becomes one beyond every vocabulary
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

// Sample number at `position` of the endless sequence of epochs: each epoch is every sample once,
// permuted anew if `shuffle`, else in order. A pure function, so resuming and tracing compute it
// again.
static inline uint64_t dataset_order(const Dataset *d, uint64_t seed, bool shuffle,
                                     uint64_t position) {
    uint64_t epoch = position / d->samples, within = position % d->samples;
    return shuffle ? random_permutation(seed, epoch, within, d->samples) : within;
}

// Hashes the shard's files and the tokenizer. Where the manifest has hashes, they must be equal;
// for data without a manifest this fills them in.
static inline bool dataset_verify(Dataset *d, Error *e) {
    char tokenizer_file[PATH_LIMIT] = "", hash[65];
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
// Mixtures: several datasets read in one order, each with its share
//
// The order has a period: W places, of which dataset i has w_i, its weight; the weights have no
// common factor and W is their sum. So any W samples in a row hold exactly w_i of dataset i. The
// places are dealt out so that every prefix of the run is within one sample of the shares too
// (mixture_schedule_). Within a dataset samples come in the order of dataset_order, each dataset
// with a seed of its own. One dataset alone is a mixture of period 1: its own order.

enum { MIXTURE_PERIOD_MAX = 1 << 20, MIXTURE_DATASETS_MAX = 1024 };

typedef struct {
    size_t count;
    Dataset *items;    // (count)
    char **paths;      // (count) as given, without the weight
    uint64_t *weights; // (count) samples of each in a period
    uint64_t period;   // sum of the weights
    uint32_t *source;  // (period) the dataset that has this place
    uint32_t *before;  // (period) how many places before this one it has
    uint32_t *places;  // (period) the places of dataset 0, then those of dataset 1, ...; each in
                       // ascending order
    uint64_t *first;   // (count) where those of a dataset begin in `places`
} Mixture;

// One sample: number `sample` of dataset `dataset`.
typedef struct {
    size_t dataset;
    uint64_t sample;
} SampleId;

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

static inline uint64_t divide_up_(uint64_t a, uint64_t b) {
    return a / b + (a % b != 0);
}

// Deals out the places of a period: Tijdeman's solution of the chairman assignment problem (R.
// Tijdeman, The chairman assignment problem, Discrete Mathematics 32, 1980). Let x places have gone
// to a dataset. At place k = 1, 2, ... W it may be served once its quota k w / W is at least x + d,
// where d = 1 / (2 n - 2) for n datasets; of those that may be served, the one is whose quota
// reaches x + 1 - d first. Then no count is ever further than 1 - d from its quota. Whole numbers:
// with D = 1 / d the conditions are k >= (x D + 1) W / (w D) and k >= (x D + D - 1) W / (w D),
// below 2^62 before the division.
static inline bool mixture_schedule_(Mixture *m, Error *e) {
    const uint64_t n = m->count, W = m->period, D = n > 1 ? 2 * n - 2 : 1;
    uint64_t *served = calloc(n, sizeof *served), *ready = calloc(n, sizeof *ready),
             *due = calloc(n, sizeof *due);
    m->source = malloc(W * sizeof *m->source);
    m->before = malloc(W * sizeof *m->before);
    m->places = malloc(W * sizeof *m->places);
    m->first = calloc(n, sizeof *m->first);
    bool ok = served && ready && due && m->source && m->before && m->places && m->first;
    ok = ok ||
         fail(e, "no memory for a mixture with a period of %llu samples", (unsigned long long)W);
    for (uint64_t i = 0; ok && i < n; i++) {
        m->first[i] = i ? m->first[i - 1] + m->weights[i - 1] : 0;
        ready[i] = divide_up_(W, m->weights[i] * D);
        due[i] = divide_up_((D - 1) * W, m->weights[i] * D);
    }
    for (uint64_t k = 1; ok && k <= W; k++) {
        uint64_t best = n;
        for (uint64_t i = 0; i < n; i++) {
            best = ready[i] <= k && (best == n || due[i] < due[best]) ? i : best;
        }
        assert(best < n); // k w - x W over all datasets sums to W, so one of them is at least W / n
        m->source[k - 1] = (uint32_t)best;
        m->before[k - 1] = (uint32_t)served[best];
        m->places[m->first[best] + served[best]] = (uint32_t)(k - 1);
        uint64_t x = ++served[best];
        ready[best] = divide_up_((x * D + 1) * W, m->weights[best] * D);
        due[best] = divide_up_((x * D + D - 1) * W, m->weights[best] * D);
    }
    free(served);
    free(ready);
    free(due);
    return ok;
}

// Divides the weights by their greatest common divisor; the period is their sum, UINT64_MAX if that
// is larger.
static inline void mixture_reduce_weights_(Mixture *m) {
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

// Weights in proportion to the samples of each dataset: exactly, if their period is short enough;
// else the shares are rounded to multiples of about 1 / MIXTURE_PERIOD_MAX, none of them to 0.
static inline void mixture_weigh_by_samples_(Mixture *m) {
    double total = 0;
    for (size_t i = 0; i < m->count; i++) {
        m->weights[i] = m->items[i].samples;
        total += (double)m->items[i].samples;
    }
    mixture_reduce_weights_(m);
    for (size_t i = 0; m->period > MIXTURE_PERIOD_MAX && i < m->count; i++) {
        double share = (double)m->items[i].samples / total;
        uint64_t rounded = (uint64_t)(share * (double)(MIXTURE_PERIOD_MAX - m->count) + 0.5);
        m->weights[i] = rounded ? rounded : 1;
    }
    mixture_reduce_weights_(m);
}

// All datasets must be of one tokenizer: an id must mean the same in each.
static inline bool mixture_check_tokenizers_(const Mixture *m, Error *e) {
    for (size_t i = 1; i < m->count; i++) {
        const Dataset *a = &m->items[0], *b = &m->items[i];
        if (strcmp(a->tokenizer_hash, b->tokenizer_hash) || a->vocab_size != b->vocab_size) {
            return fail(e, "%s and %s: %s: all data of a run must be prepared with one tokenizer",
                        m->paths[0], m->paths[i],
                        a->vocab_size && b->vocab_size ? "were made with different tokenizers"
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

// Opens `count` > 0 datasets (dataset_open) as one mixture. weights: positive whole numbers, whose
// sum without a common factor is at most MIXTURE_PERIOD_MAX; NULL: in proportion to the datasets'
// samples. All must have the same tokenizer, or none.
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
        weights ? mixture_reduce_weights_(m) : mixture_weigh_by_samples_(m);
    }
    if (ok && m->period > MIXTURE_PERIOD_MAX) {
        ok = fail(e,
                  "%s and the others: their shares repeat only after more than %d samples: give "
                  "weights with fewer digits",
                  paths[0], MIXTURE_PERIOD_MAX);
    }
    ok = ok && mixture_schedule_(m, e);
    if (!ok) {
        mixture_close(m);
    }
    return ok;
}

// A weight as written: digits * 10^-decimals.
typedef struct {
    uint64_t digits;
    int decimals;
} Weight_;

enum { WEIGHT_DIGITS = 18 };

// Reads "34", "0.3" or ".5": positive, at most WEIGHT_DIGITS digits.
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

static inline bool data_exists_(const char *path) {
    char idx[PATH_LIMIT];
    Error ignored;
    return access(path, F_OK) == 0 ||
           (path_format(idx, &ignored, "%s.idx", path) && access(idx, F_OK) == 0);
}

// Takes "PATH" or "PATH:WEIGHT" apart. A path may hold a ':' itself: what is there under the whole
// name is a path. weight->digits is 0 without a weight. *path is to be freed.
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
                    "%s: the weight after the last ':' must be a positive decimal number, as 34 or "
                    "0.3, of at most "
                    "%d digits",
                    spec, WEIGHT_DIGITS);
    }
    (*path)[colon - spec] = ':';
    return true;
}

// Turns the weights as written into whole numbers in the same proportions.
static inline bool weights_to_whole_(const Weight_ *weights, const char *const *specs, size_t count,
                                     uint64_t *whole, Error *e) {
    int decimals = 0;
    for (size_t i = 0; i < count; i++) {
        decimals = weights[i].decimals > decimals ? weights[i].decimals : decimals;
    }
    for (size_t i = 0; i < count; i++) {
        whole[i] = weights[i].digits;
        for (int d = weights[i].decimals; d < decimals; d++) {
            if (whole[i] > UINT64_MAX / 10) {
                return fail(e,
                            "%s: this weight and the smallest one are too far apart: give weights "
                            "with fewer digits",
                            specs[i]);
            }
            whole[i] *= 10;
        }
    }
    return true;
}

// mixture_open_paths of sources as the command line has them, each "PATH:WEIGHT" (a decimal number,
// taken exactly), or each "PATH": shares in proportion to the samples.
static inline bool mixture_open(Mixture *m, const char *const *specs, size_t count,
                                const char *split, size_t seq_len, Error *e) {
    char **paths = calloc(count, sizeof *paths);
    Weight_ *weights = calloc(count, sizeof *weights);
    uint64_t *whole = calloc(count, sizeof *whole);
    *m = (Mixture){0};
    bool ok = (paths && weights && whole) || fail(e, "no memory for %zu datasets", count);
    for (size_t i = 0; ok && i < count; i++) {
        ok = source_parse_(specs[i], &paths[i], &weights[i], e);
        if (ok && !weights[i].digits != !weights[0].digits) {
            ok = fail(e,
                      "%s and %s: one has a weight, the other has none; give PATH:WEIGHT for all "
                      "or for none",
                      specs[0], specs[i]);
        }
    }
    bool weighted = ok && weights[0].digits > 0;
    ok = ok && (!weighted || weights_to_whole_(weights, specs, count, whole, e)) &&
         mixture_open_paths(m, (const char *const *)paths, weighted ? whole : NULL, count, split,
                            seq_len, e);
    for (size_t i = 0; paths && i < count; i++) {
        free(paths[i]);
    }
    free(paths);
    free(weights);
    free(whole);
    return ok;
}

// Dataset 0 has the run's seed, so that a dataset alone keeps the order it has always had.
static inline uint64_t mixture_seed_(uint64_t seed, size_t dataset) {
    return dataset ? random_bits(seed, RANDOM_SOURCE, dataset) : seed;
}

// The sample at `position` of the endless run. A pure function, as dataset_order.
static inline SampleId mixture_order(const Mixture *m, uint64_t seed, bool shuffle,
                                     uint64_t position) {
    uint64_t place = position % m->period;
    size_t i = m->source[place];
    uint64_t number = position / m->period * m->weights[i] + m->before[place];
    return (SampleId){i, dataset_order(&m->items[i], mixture_seed_(seed, i), shuffle, number)};
}

// The inverse: the position at which a sample is read for the epoch-th time (from 0) by its
// dataset. Positions grow with the epoch; UINT64_MAX if this one would be larger.
static inline uint64_t mixture_position(const Mixture *m, uint64_t seed, bool shuffle, SampleId id,
                                        uint64_t epoch) {
    const uint64_t samples = m->items[id.dataset].samples, weight = m->weights[id.dataset];
    uint64_t number, position;
    uint64_t within = shuffle ? random_permutation_inverse(mixture_seed_(seed, id.dataset), epoch,
                                                           id.sample, samples)
                              : id.sample;
    if (__builtin_mul_overflow(epoch, samples, &number) ||
        __builtin_add_overflow(number, within, &number) ||
        __builtin_mul_overflow(number / weight, m->period, &position) ||
        __builtin_add_overflow(position, m->places[m->first[id.dataset] + number % weight],
                               &position)) {
        return UINT64_MAX;
    }
    return position;
}

// How many of the first `position` samples of the run are of this dataset: within 1 of its share of
// them.
static inline uint64_t mixture_count(const Mixture *m, size_t dataset, uint64_t position) {
    const uint32_t *places = m->places + m->first[dataset];
    uint64_t place = position % m->period, low = 0, high = m->weights[dataset];
    while (low < high) { // the number of its places before `place`, by bisection
        uint64_t middle = (low + high) / 2;
        if (places[middle] < place) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return position / m->period * m->weights[dataset] + low;
}

// Share of a dataset in the run, in (0, 1].
static inline double mixture_share(const Mixture *m, size_t dataset) {
    return (double)m->weights[dataset] / (double)m->period;
}

// What a step of training read, in a few digits: SHA-256 over the digests of its samples in the
// order of the rows, each the SHA-256 of the sample's seq_len + 1 ids as little-endian int32. A
// digest covers one sample, so that the ranks of a run can share the work; the log has the first 64
// bits of the whole as batch_sha256.
enum { DIGEST_BYTES = 32, BATCH_HASH_DIGITS = 16 };

// Adds ids to the hash of a sample; sha256_digest ends it.
static inline void sha256_add_tokens(Sha256 *s, const int32_t *tokens, size_t count) {
    unsigned char block[4 * 256];
    for (size_t i = 0; i < count; i++) {
        store_le(block + 4 * (i % 256), (uint32_t)tokens[i], 4);
        if (i % 256 == 255 || i + 1 == count) {
            sha256_add(s, block, 4 * (i % 256 + 1));
        }
    }
}

// digests: (samples, DIGEST_BYTES).
static inline void batch_hash(const unsigned char *digests, size_t samples,
                              char hex[BATCH_HASH_DIGITS + 1]) {
    char whole[65];
    Sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, digests, samples * DIGEST_BYTES);
    sha256_end(&hash, whole);
    memcpy(hex, whole, BATCH_HASH_DIGITS);
    hex[BATCH_HASH_DIGITS] = 0;
}

// dataset_verify of each.
static inline bool mixture_verify(Mixture *m, Error *e) {
    bool ok = true;
    for (size_t i = 0; ok && i < m->count; i++) {
        ok = dataset_verify(&m->items[i], e);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Documents: SPLIT.docs says where each document of a prepared shard comes from
//
// 32 bytes: "TGPTDOCS", u32 version = 2, u32 record size = 40, u64 records, u64 0; then one record
// per document in the order of the tokens, {u64 offset, u64 length, u64 tokens, u64 metadata, u32
// metadata_length, u32 source}:
//   offset, length   the document's bytes in its source. Plain text: all of the file but for a byte
//   order mark. JSON
//                    Lines: the line with the object, without its line end. A compressed source:
//                    bytes of what it decompresses to.
//   tokens           its tokens, the end-of-document token included; the sum over all records is
//   the .bin metadata         where in SPLIT.meta the JSON object of what is known of it begins
//   (its length may be 0) source           index into "sources" of manifest.json

typedef struct {
    uint64_t offset, length, tokens, metadata;
    uint32_t metadata_length, source;
} DocumentRecord;

enum { DOCS_VERSION = 2, DOCS_HEADER = 32, DOCS_RECORD = 40 };

static inline void docs_store(unsigned char record[DOCS_RECORD], const DocumentRecord *document) {
    store_le(record, document->offset, 8);
    store_le(record + 8, document->length, 8);
    store_le(record + 16, document->tokens, 8);
    store_le(record + 24, document->metadata, 8);
    store_le(record + 32, document->metadata_length, 4);
    store_le(record + 36, document->source, 4);
}

static inline DocumentRecord docs_load(const unsigned char record[DOCS_RECORD]) {
    return (DocumentRecord){load_le(record, 8),
                            load_le(record + 8, 8),
                            load_le(record + 16, 8),
                            load_le(record + 24, 8),
                            (uint32_t)load_le(record + 32, 4),
                            (uint32_t)load_le(record + 36, 4)};
}

#endif
