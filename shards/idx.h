// idx.h: the index of a Megatron pair, PREFIX.bin and PREFIX.idx. The .bin contains only the token
// ids, back to back; the .idx describes where its sequences and documents begin:
//
//   0   "MMIDIDX\0\0"       9 bytes
//   9   u64 version         1
//   17  u8 type             1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16
//   18  u64 S, sequences    26  u64 D, entries of the document array: documents + 1
//   34  int32 length[S]     of each sequence in tokens
//       int64 pointer[S]    its offset in the .bin: 0, then pointer[i] + length[i] * size of type
//       int64 document[D]   first sequence of each document; document[0] = 0, document[D-1] = S
#ifndef SHARDS_IDX_H
#define SHARDS_IDX_H

#include "shards/docs.h"
#include "shards/numbers.h"

enum { IDX_HEADER = 34 };

static const char IDX_MAGIC[9] = "MMIDIDX\0";

// Bytes per id: uint16 for a vocabulary of fewer than 65500 tokens, else int32, as in Megatron.
static inline int idx_token_bytes(size_t vocab_size) {
    enum { SMALL_VOCABULARY = 65500 };
    return vocab_size < SMALL_VOCABULARY ? 2 : 4;
}

// ------------------------------------------------------------------------------------------------
// Writer

// The arrays of an .idx; IDX_COUNT writes none.
typedef enum { IDX_COUNT, IDX_LENGTHS, IDX_POINTERS, IDX_DOCUMENTS } IdxArray;

// One pass over the records of an open .docs, which writes one array of the .idx. A document is
// split into ceil(tokens / limit) sequences. *sequences and *documents: their numbers.
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

// Writes the .idx for a complete .docs, with sequences of at most `limit` tokens. hex: its SHA-256.
static inline bool idx_write(const char *idx_path, const char *docs_path, int token_bytes,
                             uint64_t limit, char hex[SHA256_HEX], Error *e) {
    unsigned char header[IDX_HEADER] = {0}, last[8];
    uint64_t sequences, documents;
    OutputFile idx;
    FILE *docs = fopen(docs_path, "rb");
    if (!docs) {
        return fail(e, "%s: cannot be read: %s", docs_path, strerror(errno));
    }

    // Header.
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

    // Arrays.
    for (int array = IDX_LENGTHS; ok && array <= IDX_DOCUMENTS; array++) {
        ok = idx_write_array_(&idx, docs, docs_path, (IdxArray)array, token_bytes, limit,
                              &sequences, &documents, e);
    }
    ok = ok && output_write(&idx, last, sizeof last, e);
    fclose(docs);
    return opened && output_close(&idx, hex, ok, e);
}

// ------------------------------------------------------------------------------------------------
// Reader

// The contents of a .bin, as described by its index.
typedef struct {
    int token_bytes;   // size of an id
    bool token_signed; // ids are signed
    uint64_t tokens, documents;
} IdxContent;

// Checks length[] and pointer[] of the .idx: the sequences must cover the .bin without gaps.
static inline bool idx_check_sequences_(IdxContent *c, int idx, const char *idx_path,
                                        const char *bin_path, uint64_t sequences,
                                        uint64_t bin_bytes, Error *e) {
    NumberReader lengths = {idx, idx_path, IDX_HEADER, sequences, .bytes = 4};
    NumberReader pointers = {idx, idx_path, IDX_HEADER + 4 * sequences, sequences, .bytes = 8};
    uint64_t end = 0; // of the sequences so far, in bytes of the .bin
    for (uint64_t i = 0; i < sequences; i++) {
        uint64_t length, pointer;
        if (!number_next(&lengths, &length, e) || !number_next(&pointers, &pointer, e)) {
            return false;
        }
        if (length > INT32_MAX) {
            return fail(e, "%s: sequence %llu has the negative length %d", idx_path,
                        (unsigned long long)i, (int32_t)length);
        }
        if (pointer != end) {
            return fail(e,
                        "%s: sequence %llu begins at byte %lld of the .bin, but the one before "
                        "ends at %llu",
                        idx_path, (unsigned long long)i, (long long)pointer,
                        (unsigned long long)end);
        }
        end += length * (uint64_t)c->token_bytes;
        if (end > bin_bytes) {
            break;
        }
    }
    if (end != bin_bytes) {
        return fail(
            e, "%s: has %llu bytes, but %s describes %s%llu: one of the two was cut or replaced",
            bin_path, (unsigned long long)bin_bytes, idx_path, end > bin_bytes ? "at least " : "",
            (unsigned long long)end);
    }
    return true;
}

// Checks document[]: non-decreasing from 0 to S.
static inline bool idx_check_documents_(int idx, const char *idx_path, uint64_t sequences,
                                        uint64_t entries, Error *e) {
    NumberReader firsts = {idx, idx_path, IDX_HEADER + 12 * sequences, entries, .bytes = 8};
    uint64_t first, previous = 0;
    for (uint64_t i = 0; i < entries; i++) {
        if (!number_next(&firsts, &first, e)) {
            return false;
        }
        if (first > sequences || first < previous || (i == 0 && first != 0)) {
            return fail(
                e, "%s: document %llu begins at sequence %lld, which is not between %llu and %llu",
                idx_path, (unsigned long long)i, (long long)first, (unsigned long long)previous,
                (unsigned long long)(i ? sequences : 0));
        }
        previous = first;
    }
    return previous == sequences ||
           fail(e, "%s: its documents end at sequence %llu of %llu", idx_path,
                (unsigned long long)previous, (unsigned long long)sequences);
}

// Reads and checks the header: magic, version and type of id. *sequences is S, *entries is D.
static inline bool idx_read_header_(IdxContent *c, int idx, const char *idx_path,
                                    uint64_t idx_bytes, uint64_t *sequences, uint64_t *entries,
                                    Error *e) {
    static const struct {
        int bytes;
        bool is_signed;
    } types[9] = {[1] = {1, false}, [2] = {1, true}, [3] = {2, true},
                  [4] = {4, true},  [5] = {8, true}, [8] = {2, false}};
    unsigned char header[IDX_HEADER];
    if (idx_bytes < IDX_HEADER) {
        return fail(e, "%s: has %llu bytes, fewer than the header of a Megatron index (%d)",
                    idx_path, (unsigned long long)idx_bytes, IDX_HEADER);
    }
    if (!read_at(idx, idx_path, header, sizeof header, 0, e)) {
        return false;
    }

    const uint64_t version = load_le(header + 9, 8);
    const unsigned type = header[17];
    if (memcmp(header, IDX_MAGIC, sizeof IDX_MAGIC)) {
        return fail(e, "%s: does not begin with MMIDIDX: not a Megatron index%s", idx_path,
                    memcmp(header, "TNTIDX", 6)
                        ? ""
                        : ", but the older TNTIDX format: preprocess the data again");
    }
    if (version != 1) {
        return fail(e, "%s: version %llu is not supported, only 1", idx_path,
                    (unsigned long long)version);
    }
    if (type >= sizeof types / sizeof *types || types[type].bytes == 0) {
        return fail(e, "%s: has type code %u; ids can be of type 1, 2, 3, 4, 5 or 8", idx_path,
                    type);
    }
    c->token_bytes = types[type].bytes;
    c->token_signed = types[type].is_signed;
    *sequences = load_le(header + 18, 8);
    *entries = load_le(header + 26, 8);
    return true;
}

// Reads an .idx of idx_bytes bytes and checks every length, pointer and document: it must describe
// the complete .bin of bin_bytes bytes.
static inline bool idx_read(IdxContent *c, int idx, const char *idx_path, const char *bin_path,
                            uint64_t idx_bytes, uint64_t bin_bytes, Error *e) {
    uint64_t S = 0, D = 0;
    if (!idx_read_header_(c, idx, idx_path, idx_bytes, &S, &D, e)) {
        return false;
    }

    // The size of the file. The first condition prevents overflow.
    bool plausible = S <= idx_bytes / 12 && D <= idx_bytes / 8;
    if (plausible && S > 0 && idx_bytes == IDX_HEADER + 13 * S + 8 * D) {
        return fail(e, "%s: index of multimodal data (it has modes); only text is supported",
                    idx_path);
    }
    if (!plausible || idx_bytes != IDX_HEADER + 12 * S + 8 * D) {
        return fail(
            e,
            "%s: has %llu bytes, which does not match its %llu sequences and %llu document entries",
            idx_path, (unsigned long long)idx_bytes, (unsigned long long)S, (unsigned long long)D);
    }
    if (D == 0) {
        return fail(e, "%s: has no document entries; an index without documents has one", idx_path);
    }

    c->tokens = bin_bytes / (uint64_t)c->token_bytes;
    c->documents = D - 1;
    return idx_check_sequences_(c, idx, idx_path, bin_path, S, bin_bytes, e) &&
           idx_check_documents_(idx, idx_path, S, D, e);
}

#endif
