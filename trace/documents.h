// documents.h: the files of a split as trace reads them, and which document holds a token.
#ifndef TRACE_DOCUMENTS_H
#define TRACE_DOCUMENTS_H

#include "dataloader.h"
#include "shards/index.h"
#include "shards/manifest.h"
#include "shards/sums.h"

typedef struct {
    const Dataset *data;
    const char *path; // as --data had it
    ProofFile bin, idx, docs, meta, index, sums;
    // Hashes lead from the run's log to every file, to the index only with index_verified.
    bool verified;
    bool index_verified; // the index is in the manifest too
    Manifest manifest;
    uint64_t sequences; // of the .idx
    IndexTable table;   // of the index
} TraceData;

// What is known of a document.
typedef struct {
    size_t number;        // in its split
    size_t first, tokens; // its first token there; its tokens, with the end of document
    bool known;           // there is a record of it
    DocumentRecord record;
    const char *source;    // path of its source file
    JsonDocument metadata; // root is NULL if there is none
} TraceDocument;

static inline void trace_data_close(TraceData *t) {
    ProofFile *files[] = {&t->bin, &t->idx, &t->docs, &t->meta, &t->index, &t->sums};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        proof_close(files[i]);
    }
    manifest_close(&t->manifest);
    index_table_free(&t->table);
    *t = (TraceData){0};
}

// ------------------------------------------------------------------------------------------------
// Opening

// Compares a file's SHA-256 with the one that `by` states.
static inline bool hash_matches_(const char *path, const char *hex, const char *expected,
                                 const char *by, Error *e) {
    return !strcmp(hex, expected) ||
           fail(e, "%s: was altered: its SHA-256 is %s, %s has %s", path, hex, by, expected);
}

// Verifies the complete file.
static inline bool proof_complete_(const ProofFile *f, const char *expected, const char *by,
                                   Error *e) {
    char hex[SHA256_HEX];
    Sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, f->data, f->bytes);
    sha256_end(&hash, hex);
    return hash_matches_(f->path, hex, expected, by, e);
}

// Verifies files by the .sums with this hash. Data of an early version has none: then each complete
// file, by its hash in the manifest.
static inline bool trace_verify_files_(TraceData *t, const char *sums_hash, ProofFile *const *files,
                                       const char *const *hashes, size_t count, Error *e) {
    char path[PATH_LIMIT];
    if (sums_hash[0]) {
        return path_format(path, e, "%s/train.sums", t->path) && proof_open(&t->sums, path, e) &&
               proof_complete_(&t->sums, sums_hash, "the manifest", e) &&
               sums_attach(path, t->sums.data, t->sums.bytes, files, count, e);
    }
    for (size_t i = 0; i < count; i++) {
        if (!hashes[i][0]) {
            return fail(e, "%s: has no hash in the manifest", files[i]->path);
        }
        if (!proof_complete_(files[i], hashes[i], "the manifest", e)) {
            return false;
        }
    }
    return true;
}

// Opens the files of a prepared split and verifies them by the manifest, whose hash the caller has
// checked.
static inline bool trace_open_split_(TraceData *t, Error *e) {
    char path[PATH_LIMIT];
    ProofFile *files[] = {[MANIFEST_BIN] = &t->bin,
                          [MANIFEST_IDX] = &t->idx,
                          [MANIFEST_DOCS] = &t->docs,
                          [MANIFEST_META] = &t->meta,
                          [MANIFEST_INDEX] = &t->index};
    enum { FILES = sizeof files / sizeof *files };
    ProofFile *listed[FILES];
    const char *hashes[FILES];
    ManifestSplit split;
    size_t count = 0;
    if (!manifest_read(&t->manifest, t->path, e)) {
        return false;
    }
    manifest_split(&t->manifest, "train", &split);

    for (int i = 0; i < FILES; i++) {
        const ManifestFile *file = &split.files[i];
        bool index = i == MANIFEST_INDEX;
        if (!path_format(path, e, "%s/train.%s", t->path, manifest_ending(i))) {
            return false;
        }
        if (index ? access(path, F_OK) : !file->listed) {
            continue;
        }
        if (!proof_open(files[i], path, e)) {
            return false;
        }
        if (!file->listed) {
            continue;
        }
        if (file->bytes != files[i]->bytes) {
            return fail(e, "%s: has %zu bytes, which is not what the manifest says", path,
                        (size_t)files[i]->bytes);
        }
        hashes[count] = file->hash;
        listed[count++] = files[i];
        t->index_verified |= index;
    }
    return trace_verify_files_(t, split.files[MANIFEST_SUMS].hash, listed, hashes, count, e);
}

// Opens a bare Megatron pair or llm.c shard, which only the log itself can verify.
static inline bool trace_open_bare_(TraceData *t, const Json *logged, Error *e) {
    const char *bin = json_string(json_get(logged, "sha256")),
               *idx = json_string(json_get(logged, "idx_sha256"));
    bool pair = t->data->idx_path[0];
    if (!proof_open(&t->bin, t->data->path, e) ||
        (pair && !proof_open(&t->idx, t->data->idx_path, e))) {
        return false;
    }
    t->verified = bin && (idx || !pair);
    return !t->verified || (proof_complete_(&t->bin, bin, "the run's log", e) &&
                            (!pair || proof_complete_(&t->idx, idx, "the run's log", e)));
}

// Opens prepared data, with its tokenizer's main file as the manifest has it.
static inline bool trace_open_prepared_(TraceData *t, Error *e) {
    char tokenizer[PATH_LIMIT], hex[SHA256_HEX];
    return trace_open_split_(t, e) && tokenizer_main_file(tokenizer, t->data->tokenizer, e) &&
           sha256_file(tokenizer, hex, e) &&
           hash_matches_(tokenizer, hex, t->data->tokenizer_hash, "the manifest", e);
}

// Checks that the .idx is the one that dataset_open read.
static inline bool trace_check_idx_(TraceData *t, Error *e) {
    if (!proof_check(&t->idx, 0, IDX_HEADER, e)) {
        return false;
    }
    t->sequences = load_le(t->idx.data + 18, 8);
    return t->idx.bytes == IDX_HEADER + 12 * t->sequences + 8 * (t->data->documents + 1) ||
           fail(e, "%s: changed while it was being read", t->idx.path);
}

static inline bool trace_check_docs_(const TraceData *t, Error *e) {
    const unsigned char *header = t->docs.data;
    size_t documents = t->data->documents;
    bool ok = t->docs.bytes >= DOCS_HEADER && !memcmp(header, "TGPTDOCS", 8) &&
              load_le(header + 8, 4) == DOCS_VERSION && load_le(header + 12, 4) == DOCS_RECORD &&
              load_le(header + 16, 8) == documents &&
              (t->docs.bytes - DOCS_HEADER) / DOCS_RECORD == documents &&
              (t->docs.bytes - DOCS_HEADER) % DOCS_RECORD == 0;
    return ok || fail(e, "%s: is not the list of the %zu documents of %s", t->docs.path, documents,
                      t->data->path);
}

// Opens the files behind `data`, the training split that dataset_open opened at `path`, and
// verifies that they are what a run read: `logged` is their entry in the log's first line; NULL:
// without a run, only the manifest verifies them. trace_data_close releases `t`, after a failure
// too.
static inline bool trace_data_open(TraceData *t, const Dataset *data, const char *path,
                                   const Json *logged, Error *e) {
    const char *manifest = json_string(json_get(logged, "manifest_sha256"));
    bool prepared = data->manifest_hash[0];
    *t = (TraceData){.data = data, .path = path, .verified = !logged || manifest};
    if (manifest && strcmp(manifest, data->manifest_hash)) {
        return fail(
            e, "%s: is not the data of this run: the SHA-256 of its manifest is %s, the log has %s",
            path, prepared ? data->manifest_hash : "none", manifest);
    }
    return (prepared ? trace_open_prepared_(t, e) : trace_open_bare_(t, logged, e)) &&
           (!t->idx.path[0] || trace_check_idx_(t, e)) &&
           (!t->docs.path[0] || trace_check_docs_(t, e)) &&
           (!t->index.path[0] ||
            index_table_read(&t->table, &t->index, data->tokens, data->path, e));
}

// ------------------------------------------------------------------------------------------------
// Documents

// First token of document `d`, verified if `verify`; of number `documents`, the end of the tokens.
static inline bool document_start_(TraceData *t, uint64_t d, bool verify, uint64_t *token,
                                   Error *e) {
    uint64_t entry = IDX_HEADER + 12 * t->sequences + 8 * d;
    if (verify && !proof_check(&t->idx, entry, 8, e)) {
        return false;
    }
    uint64_t sequence = load_le(t->idx.data + entry, 8),
             pointer = IDX_HEADER + 4 * t->sequences + 8 * sequence;
    *token = t->data->tokens;
    if (sequence > t->sequences) {
        return fail(e, "%s: changed while it was being read", t->idx.path);
    }
    if (sequence < t->sequences) {
        if (verify && !proof_check(&t->idx, pointer, 8, e)) {
            return false;
        }
        *token = load_le(t->idx.data + pointer, 8) / (uint64_t)t->data->token_bytes;
    }
    return true;
}

typedef struct {
    TraceData *data;
    uint64_t token;
} DocumentKey_;

static inline bool document_begins_(const void *context, size_t d) {
    const DocumentKey_ *key = context;
    uint64_t start;
    Error ignored;
    return document_start_(key->data, d, false, &start, &ignored) && start <= key->token;
}

// Number of the document that holds a token, by bisection; the two starts around the token verify
// it.
static inline bool trace_document_of(TraceData *t, size_t token, size_t *number, Error *e) {
    uint64_t start, end;
    *number = bisect(1, t->data->documents, document_begins_, &(DocumentKey_){t, token}) - 1;
    return document_start_(t, *number, true, &start, e) &&
           document_start_(t, *number + 1, true, &end, e) &&
           ((*number < t->data->documents && start <= token && token < end) ||
            fail(e, "%s: no document holds token %zu", t->idx.path, token));
}

// All that is known of document `number` (< documents of the data). json_free(&out->metadata)
// releases it.
static inline bool trace_document(TraceData *t, size_t number, TraceDocument *out, Error *e) {
    uint64_t end;
    *out = (TraceDocument){.number = number};
    if (!document_start_(t, number, true, &out->first, e) ||
        !document_start_(t, number + 1, true, &end, e)) {
        return false;
    }
    out->tokens = end - out->first;
    if (!t->docs.path[0]) {
        return true;
    }
    uint64_t at = DOCS_HEADER + DOCS_RECORD * number;
    if (!proof_check(&t->docs, at, DOCS_RECORD, e)) {
        return false;
    }
    out->known = true;
    out->record = docs_load(t->docs.data + at);
    bool has_source = out->record.source < t->manifest.source_count;
    if (out->record.tokens != out->tokens || !has_source) {
        return fail(e, "%s: record %zu does not fit %s: it says %zu tokens, source %lu",
                    t->docs.path, number, has_source ? t->idx.path : "the manifest",
                    (size_t)out->record.tokens, (unsigned long)out->record.source);
    }
    out->source = t->manifest.sources[out->record.source].path;
    if (out->record.metadata_length == 0) {
        return true;
    }
    if (!t->meta.path[0]) {
        return fail(e, "%s: record %zu has metadata, but there is no .meta", t->docs.path, number);
    }
    return proof_check(&t->meta, out->record.metadata, out->record.metadata_length, e) &&
           json_parse(&out->metadata, (const char *)t->meta.data + out->record.metadata,
                      out->record.metadata_length, t->meta.path, e);
}

// Whether metadata says that a document has this id, as a string or a number.
static inline bool has_id_(const Json *metadata, const char *id) {
    const Json *node = json_get(metadata, "id");
    return node && (node->kind == JSON_STRING || node->kind == JSON_NUMBER) &&
           node->length == strlen(id) && !memcmp(node->text, id, node->length);
}

// The next document from *number on whose metadata has the id; *number is the number of documents
// if there is none. A pass over SPLIT.meta: about a second per gigabyte.
static inline bool trace_find_id(TraceData *t, const char *id, size_t *number, Error *e) {
    bool plain = !strpbrk(id, "\"\\"); // so the JSON has it unescaped
    for (const char *c = id; *c; c++) {
        plain = plain && (unsigned char)*c >= 0x20 && (unsigned char)*c < 0x80;
    }
    for (; *number < t->data->documents && t->docs.path[0] && t->meta.path[0]; ++*number) {
        TraceDocument document;
        DocumentRecord r = docs_load(t->docs.data + DOCS_HEADER + DOCS_RECORD * *number);
        if (r.metadata > t->meta.bytes || r.metadata_length > t->meta.bytes - r.metadata) {
            return fail(e, "%s: record %zu points outside %s", t->docs.path, *number, t->meta.path);
        }
        if (r.metadata_length == 0 ||
            (plain && !memmem(t->meta.data + r.metadata, r.metadata_length, id, strlen(id)))) {
            continue;
        }
        bool ok = trace_document(t, *number, &document, e),
             found = ok && has_id_(document.metadata.root, id);
        json_free(&document.metadata);
        if (!ok || found) {
            return ok;
        }
    }
    *number = t->data->documents;
    return true;
}

#endif
