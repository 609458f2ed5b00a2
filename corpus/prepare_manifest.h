// prepare_manifest.h: what prepare knows at the end becomes manifest.json.
#ifndef CORPUS_PREPARE_MANIFEST_H
#define CORPUS_PREPARE_MANIFEST_H

#include "corpus/pass.h"
#include "shards/manifest.h"
#include "tokenizer.h"

// The counts that the manifest has for each source and the corpus: those of Counts from `documents`
// to `replaced`, the reasons of collect.h by their own names.
enum { MANIFEST_COUNTS = 7 + DROP_REASONS - DROP_SHORT };

static inline const uint64_t *manifest_counts_(const Counts *c) {
    static_assert(offsetof(Counts, replaced) - offsetof(Counts, documents) ==
                      (MANIFEST_COUNTS - 1) * sizeof(uint64_t),
                  "the counts of the manifest stand together");
    return &c->documents;
}

static inline void manifest_count_names_(const char *names[MANIFEST_COUNTS]) {
    static const char *const first[] = {"documents", "tokens",      "text_bytes",
                                        "empty",     "blank_lines", "rejected_lines"};
    size_t n = sizeof first / sizeof *first;
    memcpy(names, first, sizeof first);
    for (int reason = DROP_SHORT; reason < DROP_REASONS; reason++) {
        names[n++] = drop_reason_name((DropReason)reason);
    }
    names[n] = "replaced";
}

static inline bool manifest_file_size_(ManifestFile *file, const char *work, const char *name,
                                       Error *e) {
    char path[PATH_LIMIT];
    struct stat status;
    if (!path_format(path, e, "%s/data/%s", work, name)) {
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
static inline bool manifest_split_sizes_(ManifestSplit *split, const char *work, Error *e) {
    for (int i = 0; i < MANIFEST_FILES; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", split->name, manifest_ending(i));
        if (split->files[i].hash[0] && !manifest_file_size_(&split->files[i], work, name, e)) {
            return false;
        }
    }
    return true;
}

static inline bool manifest_tokenizer_hash_(char hash[SHA256_HEX], const char *work, Error *e) {
    char folder[PATH_LIMIT], path[PATH_LIMIT];
    return path_format(folder, e, "%s/data/tokenizer", work) &&
           tokenizer_main_file(path, folder, e) && sha256_file(path, hash, e);
}

// Writes WORK/data/manifest.json. The splits and dropped.jsonl have their counts and hashes; their
// sizes are found here.
static inline bool prepare_write_manifest(const Corpus *c, const Tokenizer *tokenizer,
                                          ManifestSplit *splits, size_t split_count,
                                          ManifestFile *dropped, Error *e) {
    const PrepareOptions *o = c->options;
    const char *names[MANIFEST_COUNTS], *examples[REPORT_NOTES];
    char path[PATH_LIMIT], tokenizer_hash[SHA256_HEX];
    bool ok = path_format(path, e, "%s/data/manifest.json", c->work) &&
              manifest_tokenizer_hash_(tokenizer_hash, c->work, e) &&
              manifest_file_size_(dropped, c->work, "dropped.jsonl", e);
    for (size_t s = 0; ok && s < split_count; s++) {
        ok = manifest_split_sizes_(&splits[s], c->work, e);
    }

    manifest_count_names_(names);
    for (size_t i = 0; i < c->report->note_count; i++) {
        examples[i] = c->report->notes[i];
    }
    ManifestSourceContent *sources = calloc(c->sources.count + 1, sizeof *sources);
    ok = ok && (sources || fail(e, "prepare: no memory for %zu sources", c->sources.count));
    for (size_t i = 0; ok && i < c->sources.count; i++) {
        const Source *s = &c->sources.items[i];
        sources[i] = (ManifestSourceContent){.path = s->path,
                                             .bytes = s->bytes,
                                             .hash = s->hash,
                                             .counts = manifest_counts_(&s->counts),
                                             .origin = s->origin};
    }
    const ManifestContent content = {
        .command = o->command,
        .command_count = o->command_count,
        .seed = o->seed,
        .val_fraction = o->val_fraction,
        .text_key = o->text_key,
        .tokenizer_path = o->tokenizer ? o->tokenizer : "tokenizer",
        .tokenizer_trained = !o->tokenizer,
        .tokenizer_hash = tokenizer_hash,
        .vocab_size = tokenizer->vocabulary.count,
        .end_of_document = tokenizer->end_of_document,
        .splits = splits,
        .split_count = split_count,
        .dropped = *dropped,
        .count_names = names,
        .count_count = MANIFEST_COUNTS,
        .counts = manifest_counts_(&c->report->counts),
        .skipped_files = c->report->skipped_files,
        .rejected_examples = examples,
        .rejected_example_count = c->report->note_count,
        .sources = sources,
        .source_count = c->sources.count,
    };
    ok = ok && manifest_write(path, &content, e);
    free(sources);
    return ok;
}

#endif
