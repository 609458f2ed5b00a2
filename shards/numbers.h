// numbers.h: little-endian integers of a file, read in order.
#ifndef SHARDS_NUMBERS_H
#define SHARDS_NUMBERS_H

#include "util/array.h"
#include "util/bytes.h"
#include "util/files.h"

// The caller sets the first five, all else is zero.
typedef struct {
    int file;
    const char *path;
    uint64_t offset;   // of the next byte that is not in `block` yet
    uint64_t left;     // numbers that are not in `block` yet
    int bytes;         // of a number
    size_t used, held; // bytes of `block`
    unsigned char block[1 << 15];
} NumberReader;

// Reads the next number, of which there must be one.
static inline bool number_next(NumberReader *r, uint64_t *number, Error *e) {
    const size_t bytes = (size_t)r->bytes;
    if (r->used == r->held) {
        size_t n = min_u64(r->left, sizeof r->block / bytes);
        if (!read_at(r->file, r->path, r->block, n * bytes, r->offset, e)) {
            return false;
        }
        r->held = n * bytes;
        r->used = 0;
        r->offset += r->held;
        r->left -= n;
    }
    *number = load_le(r->block + r->used, r->bytes);
    r->used += bytes;
    return true;
}

#endif
