// sums.h: SPLIT.sums, the hashes of every 16 KiB of a split's files. Writer, and reader for the
// mapped files of shards/proof.h.
#ifndef SHARDS_SUMS_H
#define SHARDS_SUMS_H

#include "shards/manifest.h"
#include "shards/proof.h"
#include "util/array.h"
#include "util/bytes.h"
#include "util/files.h"

// SPLIT.sums holds the SHA-256 of each 16 KiB of a split's files, and its own hash is in
// manifest.json, whose hash is in the run's log. So what an answer rests on is proved by hashing
// the chunks it was read from.
//
//   0   "TGPTSUMS", u32 version = 1, u32 bytes of a chunk, u32 files, 12 zero bytes
//   32  per file: name (56 bytes, padded with NUL), u64 bytes
//       per file, per chunk: SHA-256 (32 bytes); the last chunk of a file may be short

enum {
    SUMS_VERSION = 1,
    SUMS_HEADER = 32,
    SUMS_NAME = 56,
    SUMS_ENTRY = 64,
    SUMS_FILES = MANIFEST_SUMS // the files that the manifest lists before it
};

// Adds the hashes of a file's chunks to an open .sums.
static inline bool sums_add_file_(OutputFile *out, const char *path, uint64_t bytes, Error *e) {
    unsigned char chunk[PROOF_CHUNK], digest[32];
    uint64_t size;
    int file = open_regular(path, &size, e);
    bool ok = file >= 0;
    for (uint64_t offset = 0; ok && offset < bytes; offset += PROOF_CHUNK) {
        size_t n = min_u64(bytes - offset, PROOF_CHUNK);
        ok = read_at(file, path, chunk, n, offset, e);
        if (ok) {
            sha256_of(chunk, n, digest);
            ok = output_write(out, digest, sizeof digest, e);
        }
    }
    close_if_open(file);
    return ok;
}

// Writes FOLDER/SPLIT.sums over those of SPLIT.bin, .idx, .docs, .meta and .index that are there;
// they must not change any more. `hex` gets its SHA-256.
static inline bool sums_build(const char *folder, const char *split, char hex[SHA256_HEX],
                              Error *e) {
    char path[SUMS_FILES][PATH_LIMIT], out_path[PATH_LIMIT];
    unsigned char header[SUMS_HEADER] = "TGPTSUMS", entries[SUMS_FILES][SUMS_ENTRY] = {{0}};
    uint64_t bytes[SUMS_FILES];
    uint32_t files = 0;
    OutputFile out;
    for (int i = 0; i < SUMS_FILES; i++) {
        char name[SUMS_NAME] = "";
        struct stat status;
        if (snprintf(name, SUMS_NAME, "%s.%s", split, manifest_ending(i)) >= SUMS_NAME) {
            return fail(e, "%s: the name of this split is too long", split);
        }
        if (!path_format(path[files], e, "%s/%s", folder, name)) {
            return false;
        }
        if (stat(path[files], &status) == 0) {
            bytes[files] = (uint64_t)status.st_size;
            memcpy(entries[files], name, SUMS_NAME);
            store_le(entries[files] + SUMS_NAME, bytes[files], 8);
            files++;
        }
    }

    store_le(header + 8, SUMS_VERSION, 4);
    store_le(header + 12, PROOF_CHUNK, 4);
    store_le(header + 16, files, 4);
    if (!path_format(out_path, e, "%s/%s.sums", folder, split) || !output_open(&out, out_path, e)) {
        return false;
    }
    bool ok = output_write(&out, header, sizeof header, e) &&
              output_write(&out, entries, (size_t)files * SUMS_ENTRY, e);
    for (uint32_t i = 0; ok && i < files; i++) {
        ok = sums_add_file_(&out, path[i], bytes[i], e);
    }
    return output_close(&out, hex, ok, e);
}

// Gives a file of `bytes` bytes its chunk hashes; `path` is the .sums.
static inline bool sums_attach_file_(ProofFile *f, const unsigned char *sums, uint64_t bytes,
                                     const char *path, Error *e) {
    if (f->bytes != bytes) {
        return fail(e, "%s: has %llu bytes, but prepare wrote %llu", f->path,
                    (unsigned long long)f->bytes, (unsigned long long)bytes);
    }
    if (f->sums) {
        return fail(e, "%s: is damaged: it lists %s twice", path, f->path);
    }
    f->sums = sums;
    f->checked = calloc(divide_up(bytes, PROOF_CHUNK) + 1, 1);
    return f->checked || fail(e, "%s: no memory to verify it", f->path);
}

static inline bool sums_misfit_(const char *path, size_t bytes, Error *e) {
    return fail(e, "%s: is damaged: its table does not fit its %zu bytes", path, bytes);
}

// Gives each of `files` the chunk hashes that `sums`, the content of a .sums, holds for it.
static inline bool sums_attach(const char *path, const unsigned char *sums, size_t bytes,
                               ProofFile *const *files, size_t count, Error *e) {
    uint64_t listed = bytes < SUMS_HEADER ? 0 : load_le(sums + 16, 4);
    if (bytes < SUMS_HEADER || memcmp(sums, "TGPTSUMS", 8) ||
        load_le(sums + 8, 4) != SUMS_VERSION || load_le(sums + 12, 4) != PROOF_CHUNK ||
        listed > SUMS_FILES || bytes < SUMS_HEADER + SUMS_ENTRY * listed) {
        return fail(e, "%s: is not a table of chunk hashes of version %d", path, SUMS_VERSION);
    }

    uint64_t at = SUMS_HEADER + SUMS_ENTRY * listed;
    for (uint64_t i = 0; i < listed; i++) {
        const unsigned char *entry = sums + SUMS_HEADER + SUMS_ENTRY * i;
        uint64_t size = load_le(entry + SUMS_NAME, 8), chunks = divide_up(size, PROOF_CHUNK);
        if (entry[SUMS_NAME - 1] || chunks > (bytes - at) / 32) {
            return sums_misfit_(path, bytes, e);
        }
        for (size_t f = 0; f < count; f++) {
            const char *slash = strrchr(files[f]->path, '/');
            if (!strcmp(slash ? slash + 1 : files[f]->path, (const char *)entry) &&
                !sums_attach_file_(files[f], sums + at, size, path, e)) {
                return false;
            }
        }
        at += 32 * chunks;
    }
    for (size_t f = 0; f < count; f++) {
        if (!files[f]->sums) {
            return fail(e, "%s: has no hashes in %s", files[f]->path, path);
        }
    }
    return at == bytes || sums_misfit_(path, bytes, e);
}

#endif
