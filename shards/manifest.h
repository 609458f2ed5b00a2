// manifest.h: manifest.json of a prepared folder: the command that made it, the tokenizer, sizes
// and hashes of every file, and for each source file what it held. Writer and reader.
#ifndef SHARDS_MANIFEST_H
#define SHARDS_MANIFEST_H

#include "shards/origins.h"
#include "util/files.h"
#include "util/json.h"

enum { MANIFEST_VERSION = 1 };

// The files of a split, in the order of the manifest.
enum {
    MANIFEST_BIN,
    MANIFEST_IDX,
    MANIFEST_DOCS,
    MANIFEST_META,
    MANIFEST_INDEX, // with prepare --index 1 only
    MANIFEST_SUMS,  // missing in data of early versions
    MANIFEST_FILES
};

static const char *const manifest_endings_[MANIFEST_FILES] = {"bin",  "idx",   "docs",
                                                              "meta", "index", "sums"};

// "bin", "idx", ...
static inline const char *manifest_ending(int file) {
    return manifest_endings_[file];
}

// One file, as the manifest lists it.
typedef struct {
    bool listed;
    uint64_t bytes;        // when read: UINT64_MAX if it is not stated
    char hash[SHA256_HEX]; // when read: empty if it is not stated
} ManifestFile;

// One split; when read, a count that is not stated is UINT64_MAX.
typedef struct {
    const char *name; // "train" or "val"
    uint64_t documents, tokens;
    int token_bytes; // size of an id in the .bin: 2 or 4. Written only; the .idx says it to readers
    ManifestFile files[MANIFEST_FILES];
} ManifestSplit;

// ------------------------------------------------------------------------------------------------
// Writer

typedef struct {
    const char *path; // as it was given
    uint64_t bytes;
    const char *hash;
    const uint64_t *counts;    // [ManifestContent.count_count]
    const OriginFacet *origin; // [ORIGIN_FACETS]
} ManifestSourceContent;

typedef struct {
    const char *const *command;
    size_t command_count;
    uint64_t seed;
    double val_fraction;
    const char *text_key;

    const char *tokenizer_path;
    bool tokenizer_trained;
    const char *tokenizer_hash;
    size_t vocab_size;
    int32_t end_of_document;

    ManifestSplit splits[2]; // [split_count]
    size_t split_count;
    ManifestFile dropped; // dropped.jsonl

    const char *const *count_names; // [count_count] of the counts of the corpus and of each source
    size_t count_count;
    const uint64_t *counts; // [count_count] of the corpus
    uint64_t skipped_files;
    const char *const *rejected_examples;
    size_t rejected_example_count;
    const ManifestSourceContent *sources;
    size_t source_count;
} ManifestContent;

static inline void manifest_put_file_(JsonWriter *w, const char *key, const char *name,
                                      const ManifestFile *file) {
    json_open(w, key, '{');
    json_put_string(w, "file", name);
    json_put_uint(w, "bytes", file->bytes);
    json_put_string(w, "sha256", file->hash);
    json_close(w, '}');
}

static inline void manifest_put_split_(JsonWriter *w, const ManifestSplit *split) {
    json_open(w, split->name, '{');
    json_put_uint(w, "documents", split->documents);
    json_put_uint(w, "tokens", split->tokens);
    json_put_string(w, "dtype", split->token_bytes == 2 ? "uint16" : "int32");
    for (int i = 0; i < MANIFEST_FILES; i++) {
        if (split->files[i].listed) {
            char name[64];
            snprintf(name, sizeof name, "%s.%s", split->name, manifest_endings_[i]);
            manifest_put_file_(w, manifest_endings_[i], name, &split->files[i]);
        }
    }
    json_close(w, '}');
}

static inline void manifest_put_counts_(JsonWriter *w, const ManifestContent *m,
                                        const uint64_t *counts) {
    for (size_t i = 0; i < m->count_count; i++) {
        json_put_uint(w, m->count_names[i], counts[i]);
    }
}

static inline void manifest_put_source_(JsonWriter *w, const ManifestContent *m,
                                        const ManifestSourceContent *source) {
    json_open(w, NULL, '{');
    json_put_string(w, "path", source->path);
    json_put_uint(w, "bytes", source->bytes);
    json_put_string(w, "sha256", source->hash);
    manifest_put_counts_(w, m, source->counts);
    origins_put(w, source->origin);
    json_close(w, '}');
}

static inline void manifest_put_(JsonWriter *w, const ManifestContent *m) {
    json_open(w, NULL, '{');
    json_put_string(w, "format", "train_gpt prepared data");
    json_put_uint(w, "version", MANIFEST_VERSION);
    json_put_strings(w, "command", m->command, m->command_count);
    json_put_uint(w, "seed", m->seed);
    json_put_double(w, "val_fraction", m->val_fraction);
    json_put_string(w, "text_key", m->text_key);

    json_open(w, "tokenizer", '{');
    json_put_string(w, "path", m->tokenizer_path);
    json_put_bool(w, "trained", m->tokenizer_trained);
    json_put_string(w, "sha256", m->tokenizer_hash);
    json_put_uint(w, "vocab_size", m->vocab_size);
    json_put_uint(w, "end_of_document", (uint64_t)m->end_of_document);
    json_close(w, '}');

    json_open(w, "splits", '{');
    for (size_t i = 0; i < m->split_count; i++) {
        manifest_put_split_(w, &m->splits[i]);
    }
    json_close(w, '}');
    manifest_put_file_(w, "dropped", "dropped.jsonl", &m->dropped);

    json_open(w, "counts", '{');
    manifest_put_counts_(w, m, m->counts);
    json_put_uint(w, "skipped_files", m->skipped_files);
    json_close(w, '}');
    json_put_strings(w, "rejected_examples", m->rejected_examples, m->rejected_example_count);

    json_open(w, "sources", '[');
    for (size_t i = 0; i < m->source_count; i++) {
        manifest_put_source_(w, m, &m->sources[i]);
    }
    json_close(w, ']');
    json_close(w, '}');
    json_append(w, "\n", 1);
}

// Writes `path` from what the caller knows; it is on disk when this returns true.
static inline bool manifest_write(const char *path, const ManifestContent *m, Error *e) {
    JsonWriter w = {.indent = 2};
    manifest_put_(&w, m);
    return json_save(&w, path, e);
}

// ------------------------------------------------------------------------------------------------
// Reader. The file is untrusted; its texts live in the parsed document.

typedef struct {
    const char *path;           // "" if it is not stated
    const char *hash;           // NULL if it is not stated
    uint64_t documents, tokens; // 0 if they are not stated
    const Json *origin;         // the tables that origins_put writes; NULL if there are none
} ManifestSource;

typedef struct {
    char path[PATH_LIMIT];           // of the manifest itself
    char hash[SHA256_HEX];           // of the manifest itself
    size_t vocab_size;               // 0 if it is missing or impossible
    char tokenizer_hash[SHA256_HEX]; // empty if it is missing
    bool has_sources;                // it holds a list of sources
    ManifestSource *sources;         // [source_count] in the order that .docs numbers them
    size_t source_count;
    JsonDocument document;
} Manifest;

static inline void manifest_close(Manifest *m) {
    free(m->sources);
    json_free(&m->document);
    *m = (Manifest){0};
}

static inline void manifest_read_hash_(char hash[SHA256_HEX], const Json *node) {
    const char *text = json_string(node);
    bool fits = text && strlen(text) < SHA256_HEX;
    snprintf(hash, SHA256_HEX, "%s", fits ? text : "");
}

static inline bool manifest_read_sources_(Manifest *m, Error *e) {
    const Json *list = json_get(m->document.root, "sources");
    m->has_sources = list && list->kind == JSON_ARRAY;
    m->sources = calloc(m->has_sources ? list->length + 1 : 1, sizeof *m->sources);
    if (!m->sources) {
        return fail(e, "%s: no memory for its sources", m->path);
    }
    for (const Json *node = m->has_sources ? list->child : NULL; node; node = node->next) {
        ManifestSource *source = &m->sources[m->source_count++];
        const char *path = json_string(json_get(node, "path"));
        source->path = path ? path : "";
        source->hash = json_string(json_get(node, "sha256"));
        source->documents = json_uint_or(json_get(node, "documents"), 0);
        source->tokens = json_uint_or(json_get(node, "tokens"), 0);
        source->origin = json_get(node, "origin");
    }
    return true;
}

// Reads FOLDER/manifest.json and hashes it. What it does not state is left empty as the fields say;
// only a file that is not a manifest of this version is an error. After a failure there is nothing
// to close.
static inline bool manifest_read(Manifest *m, const char *folder, Error *e) {
    *m = (Manifest){0};
    if (!path_format(m->path, e, "%s/manifest.json", folder) || !sha256_file(m->path, m->hash, e) ||
        !json_parse_file(&m->document, m->path, (size_t)1 << 31, e)) {
        return false;
    }

    const Json *root = m->document.root, *tokenizer = json_get(root, "tokenizer");
    uint64_t vocab_size = json_uint_or(json_get(tokenizer, "vocab_size"), 0);
    bool ok = json_uint_or(json_get(root, "version"), 0) == MANIFEST_VERSION ||
              fail(e, "%s: \"version\" is not %d: not made by this program's prepare", m->path,
                   MANIFEST_VERSION);
    m->vocab_size = vocab_size <= INT32_MAX ? (size_t)vocab_size : 0;
    manifest_read_hash_(m->tokenizer_hash, json_get(tokenizer, "sha256"));
    if (!ok || !manifest_read_sources_(m, e)) {
        manifest_close(m);
        return false;
    }
    return true;
}

// Gives what the manifest states of a split; false if it has none of this name. `name` must outlive
// the split.
static inline bool manifest_split(const Manifest *m, const char *name, ManifestSplit *split) {
    const Json *entry = json_get(json_get(m->document.root, "splits"), name);
    *split = (ManifestSplit){.name = name};
    split->documents = json_uint_or(json_get(entry, "documents"), UINT64_MAX);
    split->tokens = json_uint_or(json_get(entry, "tokens"), UINT64_MAX);
    for (int i = 0; i < MANIFEST_FILES; i++) {
        const Json *node = json_get(entry, manifest_endings_[i]);
        ManifestFile *file = &split->files[i];
        file->listed = node != NULL;
        file->bytes = json_uint_or(json_get(node, "bytes"), UINT64_MAX);
        manifest_read_hash_(file->hash, json_get(node, "sha256"));
    }
    return entry != NULL;
}

#endif
