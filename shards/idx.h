// idx.h: the index of a Megatron pair, SPLIT.idx: where each sequence and document of SPLIT.bin
// begins.
#ifndef SHARDS_IDX_H
#define SHARDS_IDX_H

#include "shards/docs.h"
#include "util/array.h"
#include "util/files.h"

enum { IDX_HEADER = 34 };

static const char IDX_MAGIC[9] = "MMIDIDX\0";

// Bytes of an id: uint16 if the vocabulary has fewer than 65500 tokens, else int32 (Megatron's
// rule).
static inline int idx_token_bytes(size_t vocab_size) {
    enum { SMALL_VOCABULARY = 65500 };
    return vocab_size < SMALL_VOCABULARY ? 2 : 4;
}

// One pass over the records of an open .docs, writing one array of the .idx. A document makes
// ceil(tokens / limit) sequences; *sequences and *documents count what was passed.
typedef enum { IDX_COUNT, IDX_LENGTHS, IDX_POINTERS, IDX_DOCUMENTS } IdxArray;

static inline bool idx_write_array_(OutputFile *idx, FILE *docs, const char *docs_path,
                                    IdxArray array, int token_bytes, uint64_t limit,
                                    uint64_t *sequences, uint64_t *documents, Error *e) {
    unsigned char record[DOCS_RECORD], number[8];
    uint64_t pointer = 0;
    bool ok = fseeko(docs, DOCS_HEADER, SEEK_SET) == 0;
    *sequences = *documents = 0;
    while (ok && fread(record, DOCS_RECORD, 1, docs) == 1) {
        if (array == IDX_DOCUMENTS) {
            store_le(number, *sequences, 8);
            if (!output_write(idx, number, 8, e)) {
                return false;
            }
        }
        *documents += 1;
        for (uint64_t left = docs_load(record).tokens; left > 0; *sequences += 1) {
            uint64_t length = min_u64(left, limit);
            store_le(number, array == IDX_LENGTHS ? length : pointer, 8);
            if ((array == IDX_LENGTHS || array == IDX_POINTERS) &&
                !output_write(idx, number, array == IDX_LENGTHS ? 4 : 8, e)) {
                return false;
            }
            pointer += length * (uint64_t)token_bytes;
            left -= length;
        }
    }
    return (ok && !ferror(docs)) || fail(e, "%s: cannot be read: %s", docs_path, strerror(errno));
}

// Writes the .idx that belongs to a complete .docs, sequences no longer than `limit` tokens; `hex`
// gets its SHA-256.
static inline bool idx_write(const char *idx_path, const char *docs_path, int token_bytes,
                             uint64_t limit, char hex[65], Error *e) {
    unsigned char header[IDX_HEADER] = {0}, last[8];
    uint64_t sequences, documents;
    OutputFile idx;
    FILE *docs = fopen(docs_path, "rb");
    if (!docs) {
        return fail(e, "%s: cannot be read: %s", docs_path, strerror(errno));
    }
    bool opened = output_open(&idx, idx_path, e), ok = opened;
    ok = ok && idx_write_array_(&idx, docs, docs_path, IDX_COUNT, token_bytes, limit, &sequences,
                                &documents, e);
    if (ok) {
        memcpy(header, IDX_MAGIC, sizeof IDX_MAGIC);
        store_le(header + 9, 1, 8);
        header[17] = token_bytes == 2 ? 8 : 4;
        store_le(header + 18, sequences, 8);
        store_le(header + 26, documents + 1, 8);
        store_le(last, sequences, 8);
        ok = output_write(&idx, header, sizeof header, e);
    }
    for (int array = IDX_LENGTHS; ok && array <= IDX_DOCUMENTS; array++) {
        ok = idx_write_array_(&idx, docs, docs_path, (IdxArray)array, token_bytes, limit,
                              &sequences, &documents, e);
    }
    ok = ok && output_write(&idx, last, sizeof last, e);
    fclose(docs);
    return opened && output_close(&idx, hex, ok ? e : &(Error){0}) && ok;
}

#endif
