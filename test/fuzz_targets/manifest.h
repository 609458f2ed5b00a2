// manifest.h: manifest.json of prepared data: what is read of it is written and read again, and is
// the same
#ifndef TEST_FUZZ_TARGETS_MANIFEST_H
#define TEST_FUZZ_TARGETS_MANIFEST_H

#include "test/fuzz_targets/json.h"
#include "test/fuzz_targets/promises.h"

enum { COPIED_ORIGINS = 8, COPIED_COUNTS = 2 };

// A manifest as the writer takes it.
typedef struct {
    ManifestContent content;
    ManifestSourceContent *sources;        // [content.source_count]
    uint64_t (*counts)[COPIED_COUNTS];     // of each source
    OriginFacet (*origins)[ORIGIN_FACETS]; // of each source
} ManifestCopy;

static void copy_manifest(ManifestCopy *copy, const Manifest *m) {
    static const char *const names[] = {"train", "val"};
    static const char *const count_names[COPIED_COUNTS] = {"documents", "tokens"};
    static const uint64_t no_counts[COPIED_COUNTS] = {0};
    Error e = {0};
    *copy = (ManifestCopy){.sources = calloc(m->source_count + 1, sizeof *copy->sources),
                           .counts = calloc(m->source_count + 1, sizeof *copy->counts),
                           .origins = calloc(m->source_count + 1, sizeof *copy->origins)};
    copy->content = (ManifestContent){.text_key = "text",
                                      .tokenizer_path = "",
                                      .tokenizer_hash = m->tokenizer_hash,
                                      .vocab_size = m->vocab_size,
                                      .count_names = count_names,
                                      .count_count = COPIED_COUNTS,
                                      .counts = no_counts,
                                      .sources = copy->sources,
                                      .source_count = m->source_count};
    size_t splits = 0;
    for (size_t i = 0; i < 2; i++) {
        ManifestSplit *split = &copy->content.splits[splits];
        splits += manifest_split(m, names[i], split);
        split->token_bytes = 2;
    }
    copy->content.split_count = splits;
    for (size_t i = 0; i < m->source_count; i++) {
        const ManifestSource *source = &m->sources[i];
        copy->counts[i][0] = source->documents;
        copy->counts[i][1] = source->tokens;
        promise(origins_read(copy->origins[i], COPIED_ORIGINS, source->origin, &e), "%s", e.text);
        copy->sources[i] = (ManifestSourceContent){.path = source->path,
                                                   .hash = source->hash ? source->hash : "",
                                                   .counts = copy->counts[i],
                                                   .origin = copy->origins[i]};
    }
}

static void copy_free(ManifestCopy *copy) {
    for (size_t i = 0; i < copy->content.source_count; i++) {
        origins_free(copy->origins[i]);
    }
    free(copy->sources);
    free(copy->counts);
    free(copy->origins);
}

// manifest.json is read and written twice. Both files that are written are the same, and state what
// the input does.
static bool run_manifest_copy(InputPart *parts) {
    char first[SHA256_HEX] = "", hash[SHA256_HEX];
    size_t vocab_size = 0, source_count = 0;
    Error e = {0};
    put_part("manifest.json", parts[0]);
    for (int i = 0; i < 3; i++) {
        Manifest m;
        ManifestCopy copy;
        if (!answer(manifest_read(&m, folder, &e), &e)) {
            promise(i == 0, "what was written is rejected: %s", e.text);
            return false;
        }
        const Json *sources = json_get(m.document.root, "sources");
        promise(sha256_file(path_of("manifest.json"), hash, &e) && !strcmp(hash, m.hash),
                "the hash is not that of the file");
        promise(m.vocab_size <= INT32_MAX &&
                    m.has_sources == (m.sources && sources && sources->kind == JSON_ARRAY) &&
                    m.source_count == (m.has_sources ? sources->length : 0),
                "%zu sources, vocabulary of %zu", m.source_count, m.vocab_size);
        promise(i == 0 || (m.vocab_size == vocab_size && m.source_count == source_count),
                "a manifest read back differs");
        promise(i < 2 || !strcmp(hash, first), "a manifest changes when it is read and written");
        vocab_size = m.vocab_size, source_count = m.source_count;
        snprintf(first, sizeof first, "%s", hash);

        copy_manifest(&copy, &m);
        promise(manifest_write(path_of("manifest.json"), &copy.content, &e), "%s", e.text);
        copy_free(&copy);
        manifest_close(&m);
    }
    return true;
}

#endif
