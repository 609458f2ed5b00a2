// prepare_manifest.h: what prepare knows at the end becomes manifest.json.
#ifndef CORPUS_PREPARE_MANIFEST_H
#define CORPUS_PREPARE_MANIFEST_H

#include "corpus/pass.h"
#include "shards/manifest.h"
#include "tokenizer.h"

// The counts that the manifest has for each source and the corpus: those of Counts from `documents`
// to `replaced`; those of a DropReason
// by its name.
enum { MANIFEST_COUNTS = COUNT_replaced - COUNT_documents + 1 };

static inline void manifest_count_names_(const char *names[MANIFEST_COUNTS]) {
    for (int i = 0; i < MANIFEST_COUNTS; i++) {
        const char *name = COUNT_NAMES[COUNT_documents + i];
        names[i] = name + (strncmp(name, "dropped_", 8) ? 0 : 8);
    }
}

static inline bool manifest_file_size_(ManifestFile *file, const Corpus *c, const char *name,
                                       Error *e) {
    char path[PATH_LIMIT];
    struct stat status;
    if (!path_format(path, e, "%s/data/%s", c->work.path, name)) {
        return false;
    }
    if (stat(path, &status)) {
        return fail(e, "%s: cannot be read: %s", path, strerror(errno));
    }
    file->listed = true;
    file->bytes = (uint64_t)status.st_size;
    return true;
}

// Adds the sizes of the files that have a hash.
static inline bool manifest_sizes_(ManifestContent *m, const Corpus *c, Error *e) {
    for (size_t i = 0; i < m->split_count * MANIFEST_FILES; i++) {
        ManifestSplit *split = &m->splits[i / MANIFEST_FILES];
        ManifestFile *file = &split->files[i % MANIFEST_FILES];
        char name[64];
        snprintf(name, sizeof name, "%s.%s", split->name, manifest_ending(i % MANIFEST_FILES));
        if (file->hash[0] && !manifest_file_size_(file, c, name, e)) {
            return false;
        }
    }
    return manifest_file_size_(&m->dropped, c, "dropped.jsonl", e);
}

static inline bool manifest_tokenizer_hash_(char hash[SHA256_HEX], const char *work, Error *e) {
    char folder[PATH_LIMIT], path[PATH_LIMIT];
    return path_format(folder, e, "%s/data/tokenizer", work) &&
           tokenizer_main_file(path, folder, e) && sha256_file(path, hash, e);
}

static inline void manifest_list_sources_(ManifestSourceContent *to, const SourceList *sources) {
    for (size_t i = 0; i < sources->count; i++) {
        const Source *s = &sources->items[i];
        to[i] = (ManifestSourceContent){.path = s->path,
                                        .bytes = s->bytes,
                                        .hash = s->hash,
                                        .counts = s->counts.all + COUNT_documents,
                                        .origin = s->origin};
    }
}

// Writes WORK/data/manifest.json. Splits and dropped.jsonl have their counts and hashes; what else
// is known is added here.
static inline bool prepare_write_manifest(const Corpus *c, ManifestContent m, Error *e) {
    const PrepareOptions *o = c->options;
    const char *names[MANIFEST_COUNTS], *examples[REPORT_NOTES];
    char path[PATH_LIMIT], tokenizer_hash[SHA256_HEX];
    ManifestSourceContent *sources = calloc(c->sources.count + 1, sizeof *sources);
    if (!sources) {
        return fail(e, "prepare: no memory for %zu sources", c->sources.count);
    }

    m.command = o->command;
    m.command_count = o->command_count;
    m.seed = o->seed;
    m.val_fraction = o->val_fraction;
    m.text_key = o->text_key;
    m.tokenizer_path = o->tokenizer ? o->tokenizer : "tokenizer";
    m.tokenizer_trained = !o->tokenizer;
    m.tokenizer_hash = tokenizer_hash;
    m.vocab_size = c->tokenizer.vocabulary.count;
    m.end_of_document = c->tokenizer.end_of_document;

    manifest_count_names_(names);
    m.count_names = names;
    m.count_count = MANIFEST_COUNTS;
    m.counts = c->report->counts.all + COUNT_documents;
    m.skipped_files = c->sources.skipped;
    for (size_t i = 0; i < c->report->note_count; i++) {
        examples[i] = c->report->notes[i];
    }
    m.rejected_examples = examples;
    m.rejected_example_count = c->report->note_count;

    manifest_list_sources_(sources, &c->sources);
    m.sources = sources;
    m.source_count = c->sources.count;

    bool ok = path_format(path, e, "%s/data/manifest.json", c->work.path) &&
              manifest_tokenizer_hash_(tokenizer_hash, c->work.path, e) &&
              manifest_sizes_(&m, c, e) && manifest_write(path, &m, e);
    free(sources);
    return ok;
}

#endif
