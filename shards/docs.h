// docs.h: SPLIT.docs, the origin of each document of a prepared shard.
//
// A header of 32 bytes: "TGPTDOCS", u32 version = 2, u32 record size = 40, u64 records, u64 0. Then
// one record per document, in the order of the tokens:
//
//   0   u64 offset            the document's bytes in its source. Plain text: the complete file
//   8   u64 length            without a byte order mark. JSON Lines: the line of the object,
//                             without its line end. A compressed source: decompressed bytes.
//   16  u64 tokens            of the document, including the end-of-document token; the sum over
//                             all records is the length of the .bin
//   24  u64 metadata          offset of the document's JSON object in SPLIT.meta
//   32  u32 metadata_length   its length; may be 0
//   36  u32 source            index into "sources" of manifest.json
#ifndef SHARDS_DOCS_H
#define SHARDS_DOCS_H

#include <string.h>

#include "util/bytes.h"

typedef struct {
    uint64_t offset, length, tokens, metadata;
    uint32_t metadata_length, source;
} DocumentRecord;

enum { DOCS_VERSION = 2, DOCS_HEADER = 32, DOCS_RECORD = 40 };

// Stores the header of a file of `documents` records.
static inline void docs_store_header(unsigned char header[DOCS_HEADER], uint64_t documents) {
    memset(header, 0, DOCS_HEADER);
    memcpy(header, "TGPTDOCS", 8);
    store_le(header + 8, DOCS_VERSION, 4);
    store_le(header + 12, DOCS_RECORD, 4);
    store_le(header + 16, documents, 8);
}

// Stores a record.
static inline void docs_store(unsigned char record[DOCS_RECORD], const DocumentRecord *document) {
    store_le(record, document->offset, 8);
    store_le(record + 8, document->length, 8);
    store_le(record + 16, document->tokens, 8);
    store_le(record + 24, document->metadata, 8);
    store_le(record + 32, document->metadata_length, 4);
    store_le(record + 36, document->source, 4);
}

// Loads a record.
static inline DocumentRecord docs_load(const unsigned char record[DOCS_RECORD]) {
    return (DocumentRecord){load_le(record, 8),
                            load_le(record + 8, 8),
                            load_le(record + 16, 8),
                            load_le(record + 24, 8),
                            (uint32_t)load_le(record + 32, 4),
                            (uint32_t)load_le(record + 36, 4)};
}

#endif
