// llmc.h: token shards of llm.c: int32 header[256] = {magic, version, tokens, 0...}, then the ids:
// uint16 for magic 20240520 and version 1, uint32 for magic 20240801 and version 7.
#ifndef SHARDS_LLMC_H
#define SHARDS_LLMC_H

#include <string.h>

#include "util/bytes.h"
#include "util/files.h"

enum { LLMC_HEADER = 1024 }; // bytes

// Checks the header of an open shard of `bytes` bytes. *tokens ids of *token_bytes bytes follow at
// LLMC_HEADER.
static inline bool llmc_read(int file, const char *path, uint64_t bytes, int *token_bytes,
                             uint64_t *tokens, Error *e) {
    unsigned char header[12];
    if (bytes < LLMC_HEADER) {
        return fail(e, "%s: has %llu bytes, fewer than the header of an llm.c shard (%d)", path,
                    (unsigned long long)bytes, LLMC_HEADER);
    }
    if (!read_at(file, path, header, sizeof header, 0, e)) {
        return false;
    }

    const uint64_t magic = load_le(header, 4), version = load_le(header + 4, 4);
    const uint64_t count = load_le(header + 8, 4);
    if (magic != 20240520 && magic != 20240801) {
        return fail(e,
                    "%s: is not an llm.c shard: it begins with %llu (a Megatron pair is named "
                    "without its .bin)",
                    path, (unsigned long long)magic);
    }
    if (version != (magic == 20240520 ? 1 : 7)) {
        return fail(e, "%s: has version %llu; llm.c shards of magic %llu have %d", path,
                    (unsigned long long)version, (unsigned long long)magic,
                    magic == 20240520 ? 1 : 7);
    }

    *token_bytes = magic == 20240520 ? 2 : 4;
    *tokens = count;
    uint64_t expected = LLMC_HEADER + count * (uint64_t)*token_bytes;
    return bytes == expected ||
           fail(e, "%s: has %llu bytes, but its header's %llu tokens make %llu", path,
                (unsigned long long)bytes, (unsigned long long)count, (unsigned long long)expected);
}

#endif
