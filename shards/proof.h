// proof.h: files mapped into memory whose chunks are verified against hashes when they are first
// read, so that an answer is proved without hashing all of the data.
#ifndef SHARDS_PROOF_H
#define SHARDS_PROOF_H

#include <sys/mman.h>

#include "util/array.h"
#include "util/files.h"

enum { PROOF_CHUNK = 1 << 14 }; // bytes that one hash covers

// A file mapped into memory. Its bytes may be read anywhere, and count as verified where
// proof_check said so.
typedef struct {
    char path[PATH_LIMIT]; // empty: there is no such file
    const unsigned char *data;
    uint64_t bytes;
    const unsigned char *sums; // 32 bytes a chunk; NULL: verified as a whole, or by nothing
    unsigned char *checked;    // one byte a chunk
} ProofFile;

static inline void proof_close(ProofFile *f) {
    if (f->data) {
        munmap((void *)(uintptr_t)f->data, f->bytes);
    }
    free(f->checked);
    *f = (ProofFile){0};
}

// Maps a file. Reading it raises SIGBUS if somebody truncates it meanwhile: see trace/command.h.
static inline bool proof_open(ProofFile *f, const char *path, Error *e) {
    *f = (ProofFile){0};
    if (!path_format(f->path, e, "%s", path)) {
        return false;
    }
    int file = open_regular(path, &f->bytes, e);
    if (file < 0) {
        return false;
    }
    void *data = f->bytes ? mmap(NULL, f->bytes, PROT_READ, MAP_SHARED, file, 0) : NULL;
    int reason = errno;
    close(file);
    if (data == MAP_FAILED) {
        return fail(e, "%s: cannot be mapped into memory: %s", path, strerror(reason));
    }
    f->data = data;
    return true;
}

// Verifies the bytes from `offset` on, which must lie in the file: each chunk is hashed the first
// time.
static inline bool proof_check(ProofFile *f, uint64_t offset, uint64_t bytes, Error *e) {
    if (offset > f->bytes || bytes > f->bytes - offset) {
        return fail(e, "%s: has %llu bytes, but byte %llu of it is referenced", f->path,
                    (unsigned long long)f->bytes,
                    (unsigned long long)min_u64(offset, UINT64_MAX - bytes) + bytes);
    }
    for (uint64_t chunk = offset / PROOF_CHUNK;
         f->sums && bytes && chunk <= (offset + bytes - 1) / PROOF_CHUNK; chunk++) {
        unsigned char digest[32];
        uint64_t first = chunk * PROOF_CHUNK;
        if (f->checked[chunk]) {
            continue;
        }
        sha256_of(f->data + first, min_u64(f->bytes - first, PROOF_CHUNK), digest);
        if (memcmp(digest, f->sums + 32 * chunk, 32)) {
            return fail(e, "%s: was altered: bytes %llu to %llu are not those that prepare wrote",
                        f->path, (unsigned long long)first,
                        (unsigned long long)min_u64(f->bytes, first + PROOF_CHUNK) - 1);
        }
        f->checked[chunk] = 1;
    }
    return true;
}

#endif
