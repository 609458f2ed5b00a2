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
    ProofFile bin, idx, docs, meta, index;
    bool proved; // hashes lead from the run's log to every file, the index only with index_proved
    bool index_proved;   // the index is in the manifest too
    unsigned char *sums; // content of the .sums
    Manifest manifest;
    uint64_t sequences; // of the .idx
    IndexTable table;   // of the index
} TraceData;

// What is known of a document.
typedef struct {
    uint64_t number;        // in its split
    uint64_t first, tokens; // its first token there; its tokens, with the end of document
    bool known;             // there is a record of it
    DocumentRecord record;
    const char *source;    // path of its source file
    JsonDocument metadata; // root is NULL if there is none
} TraceDocument;

static inline void trace_data_close(TraceData *t) {
    proof_close(&t->bin);
    proof_close(&t->idx);
    proof_close(&t->docs);
    proof_close(&t->meta);
    proof_close(&t->index);
    manifest_close(&t->manifest);
    free(t->sums);
    index_table_free(&t->table);
    *t = (TraceData){0};
}

// Compares the SHA-256 of the complete file with the one that `by` states.
static inline bool proof_complete_(const ProofFile *f, const char *expected, const char *by,
                                   Error *e) {
    char hex[65];
    Sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, f->data, f->bytes);
    sha256_end(&hash, hex);
    return !strcmp(hex, expected) ||
           fail(e, "%s: was altered: its SHA-256 is %s, %s has %s", f->path, hex, by, expected);
}

// Data of an early version, without .sums: verifies each complete file.
static inline bool prove_without_sums_(ProofFile *const *files, const char *const *hashes,
                                       size_t count, Error *e) {
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
static inline bool trace_open_split_(TraceData *t, const char *split_name, Error *e) {
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
    size_t count = 0, length;
    if (!manifest_read(&t->manifest, t->path, e)) {
        return false;
    }
    manifest_split(&t->manifest, split_name, &split);

    for (int i = 0; i < FILES; i++) {
        const ManifestFile *file = &split.files[i];
        bool index = i == MANIFEST_INDEX;
        if (!path_format(path, e, "%s/%s.%s", t->path, split_name, manifest_ending(i))) {
            return false;
        }
        if ((!file->listed && !index) || (index && access(path, F_OK))) {
            continue;
        }
        if (!proof_open(files[i], path, e)) {
            return false;
        }
        if (!file->listed) {
            continue;
        }
        if (file->bytes != files[i]->bytes) {
            return fail(e, "%s: has %llu bytes, which is not what the manifest says", path,
                        (unsigned long long)files[i]->bytes);
        }
        hashes[count] = file->hash;
        listed[count++] = files[i];
        t->index_proved |= index;
    }

    const char *sums_hash = split.files[MANIFEST_SUMS].hash;
    if (!sums_hash[0]) {
        return prove_without_sums_(listed, hashes, count, e);
    }
    ProofFile sums = {.bytes = 0};
    if (!path_format(sums.path, e, "%s/%s.sums", t->path, split_name) ||
        !(t->sums = (unsigned char *)read_file(sums.path, (size_t)1 << 36, &length, e))) {
        return false;
    }
    sums.data = t->sums, sums.bytes = length;
    return proof_complete_(&sums, sums_hash, "the manifest", e) &&
           sums_attach(sums.path, t->sums, length, listed, count, e);
}

// Opens a bare Megatron pair or llm.c shard, which only the log itself can prove.
static inline bool trace_open_bare_(TraceData *t, const Json *logged, Error *e) {
    const char *bin = json_string(json_get(logged, "sha256")),
               *idx = json_string(json_get(logged, "idx_sha256"));
    bool pair = t->data->idx_path[0];
    if (!proof_open(&t->bin, t->data->path, e) ||
        (pair && !proof_open(&t->idx, t->data->idx_path, e))) {
        return false;
    }
    t->proved = bin && (idx || !pair);
    return !t->proved || (proof_complete_(&t->bin, bin, "the run's log", e) &&
                          (!pair || proof_complete_(&t->idx, idx, "the run's log", e)));
}

// Opens the files behind `data`, which dataset_open opened at `path`, and proves that they are what
// a run read: `logged` is their entry in the log's first line; NULL: without a run, only the
// manifest proves them. trace_data_close releases `t`, after a failure too.
static inline bool trace_data_open(TraceData *t, const Dataset *data, const char *path,
                                   const char *split, const Json *logged, Error *e) {
    char tokenizer[PATH_LIMIT], hex[65];
    *t = (TraceData){.data = data, .path = path};
    const char *manifest = json_string(json_get(logged, "manifest_sha256"));
    if (manifest && strcmp(manifest, data->manifest_hash)) {
        return fail(
            e, "%s: is not the data of this run: the SHA-256 of its manifest is %s, the log has %s",
            path, data->manifest_hash[0] ? data->manifest_hash : "none", manifest);
    }
    if (data->manifest_hash[0]) {
        t->proved = !logged || manifest;
        if (!trace_open_split_(t, split, e) ||
            !tokenizer_main_file(tokenizer, data->tokenizer, e) ||
            !sha256_file(tokenizer, hex, e)) {
            return false;
        }
        if (strcmp(hex, data->tokenizer_hash)) {
            return fail(e, "%s: was altered: its SHA-256 is %s, the manifest has %s", tokenizer,
                        hex, data->tokenizer_hash);
        }
    } else if (!trace_open_bare_(t, logged, e)) {
        return false;
    }
    if (t->idx.path[0]) {
        if (!proof_check(&t->idx, 0, IDX_HEADER, e)) {
            return false;
        }
        t->sequences = load_le(t->idx.data + 18, 8);
        if (t->idx.bytes != IDX_HEADER + 12 * t->sequences + 8 * (data->documents + 1)) {
            return fail(e, "%s: changed while it was being read", t->idx.path);
        }
    }
    if (t->docs.path[0]) {
        const unsigned char *header = t->docs.data;
        if (t->docs.bytes < DOCS_HEADER || memcmp(header, "TGPTDOCS", 8) ||
            load_le(header + 8, 4) != DOCS_VERSION || load_le(header + 12, 4) != DOCS_RECORD ||
            load_le(header + 16, 8) != data->documents ||
            (t->docs.bytes - DOCS_HEADER) / DOCS_RECORD != data->documents ||
            (t->docs.bytes - DOCS_HEADER) % DOCS_RECORD) {
            return fail(e, "%s: is not the list of the %llu documents of %s", t->docs.path,
                        (unsigned long long)data->documents, data->path);
        }
    }
    return !t->index.path[0] || index_table_read(&t->table, &t->index, data->tokens, data->path, e);
}

// First token of document `d`, proved; of number `documents`, the end of the tokens.
static inline bool document_start_(TraceData *t, uint64_t d, bool prove, uint64_t *token,
                                   Error *e) {
    uint64_t entry = IDX_HEADER + 12 * t->sequences + 8 * d;
    if (prove && !proof_check(&t->idx, entry, 8, e)) {
        return false;
    }
    uint64_t sequence = load_le(t->idx.data + entry, 8),
             pointer = IDX_HEADER + 4 * t->sequences + 8 * sequence;
    *token = t->data->tokens;
    if (sequence > t->sequences) {
        return fail(e, "%s: changed while it was being read", t->idx.path);
    }
    if (sequence < t->sequences) {
        if (prove && !proof_check(&t->idx, pointer, 8, e)) {
            return false;
        }
        *token = load_le(t->idx.data + pointer, 8) / (uint64_t)t->data->token_bytes;
    }
    return true;
}

// Number of the document that holds a token, by bisection; the two starts around the token prove
// it.
static inline bool trace_document_of(TraceData *t, uint64_t token, uint64_t *number, Error *e) {
    uint64_t low = 0, high = t->data->documents, start, end; // start(low) <= token < start(high)
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (!document_start_(t, middle, false, &start, e)) {
            return false;
        }
        if (start <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    *number = low;
    return document_start_(t, low, true, &start, e) && document_start_(t, low + 1, true, &end, e) &&
           ((low < t->data->documents && start <= token && token < end) ||
            fail(e, "%s: no document holds token %llu", t->idx.path, (unsigned long long)token));
}

// All that is known of document `number` (< documents of the data). json_free(&out->metadata)
// releases it.
static inline bool trace_document(TraceData *t, uint64_t number, TraceDocument *out, Error *e) {
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
    if (out->record.tokens != out->tokens || out->record.source >= t->manifest.source_count) {
        return fail(e, "%s: record %llu does not fit %s: it says %llu tokens, source %lu",
                    t->docs.path, (unsigned long long)number,
                    out->record.source >= t->manifest.source_count ? "the manifest" : t->idx.path,
                    (unsigned long long)out->record.tokens, (unsigned long)out->record.source);
    }
    out->source = t->manifest.sources[out->record.source].path;
    if (out->record.metadata_length == 0) {
        return true;
    }
    if (!t->meta.path[0]) {
        return fail(e, "%s: record %llu has metadata, but there is no .meta", t->docs.path,
                    (unsigned long long)number);
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
// if there is none. A pass over SPLIT.meta: about a second a gigabyte.
static inline bool trace_find_id(TraceData *t, const char *id, uint64_t *number, Error *e) {
    bool plain = !strpbrk(id, "\"\\"); // so it stands in the JSON as it is
    for (const char *c = id; *c; c++) {
        plain = plain && (unsigned char)*c >= 0x20 && (unsigned char)*c < 0x80;
    }
    for (; *number < t->data->documents && t->docs.path[0] && t->meta.path[0]; ++*number) {
        TraceDocument document;
        DocumentRecord r = docs_load(t->docs.data + DOCS_HEADER + DOCS_RECORD * *number);
        if (r.metadata > t->meta.bytes || r.metadata_length > t->meta.bytes - r.metadata) {
            return fail(e, "%s: record %llu points outside %s", t->docs.path,
                        (unsigned long long)*number, t->meta.path);
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
