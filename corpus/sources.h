// sources.h: the text files of a corpus: which ones there are, and that they stay what they were.
#ifndef CORPUS_SOURCES_H
#define CORPUS_SOURCES_H

#include <strings.h> // strncasecmp

#include "corpus/counts.h"
#include "mpi_utils.h"
#include "shards/origins.h"
#include "util/utf8.h"

typedef enum { SOURCE_UNKNOWN, SOURCE_TEXT, SOURCE_JSON_LINES } SourceKind;
typedef enum { COMPRESSED_NOT, COMPRESSED_GZIP, COMPRESSED_ZSTD } Compression;

typedef struct {
    char *path;
    SourceKind kind;
    Compression compression;
    uint64_t bytes, inode; // when it was found; a source that changes later is an error. (The
    struct timespec time;  // device's number may differ from host to host.)
    char hash[SHA256_HEX]; // of the file on disk
    Counts counts;
    OriginFacet origin[ORIGIN_FACETS];
} Source;

typedef struct {
    Source *items;
    size_t count, capacity;
    uint64_t skipped; // files in the input folders of types that are not read
} SourceList;

static inline bool ends_with_(const char *path, size_t length, const char *ending) {
    size_t n = strlen(ending);
    return length > n && !strncasecmp(path + length - n, ending, n);
}

static const char SOURCE_KINDS[] =
    ".txt, .text, .md or .jsonl, also with .gz or .zst, or .json.gz or .json.zst";

// The kind of a file by the end of its name. Compressed .json is JSON Lines in practice (Dolma,
// C4); uncompressed .json is mostly something else.
static inline SourceKind source_kind_(const char *path, Compression *compression) {
    static const struct {
        const char *ending;
        SourceKind kind;
    } kinds[] = {{".txt", SOURCE_TEXT},
                 {".text", SOURCE_TEXT},
                 {".md", SOURCE_TEXT},
                 {".jsonl", SOURCE_JSON_LINES},
                 {".json", SOURCE_JSON_LINES}};
    size_t length = strlen(path);
    *compression = COMPRESSED_NOT;
    if (ends_with_(path, length, ".gz")) {
        *compression = COMPRESSED_GZIP;
        length -= 3;
    } else if (ends_with_(path, length, ".zst")) {
        *compression = COMPRESSED_ZSTD;
        length -= 4;
    }

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (ends_with_(path, length, kinds[i].ending) &&
            (strcmp(kinds[i].ending, ".json") || *compression)) {
            return kinds[i].kind;
        }
    }
    return SOURCE_UNKNOWN;
}

static inline void sources_free(SourceList *list) {
    for (size_t i = 0; i < list->count; i++) {
        origins_free(list->items[i].origin);
        free(list->items[i].path);
    }
    free(list->items);
    *list = (SourceList){0};
}

static inline bool sources_add_file_(SourceList *list, const Source *source, Error *e) {
    if (!utf8_is_valid(source->path, strlen(source->path))) {
        return fail(e, "%s: its name is not valid UTF-8, so the manifest cannot name it: rename it",
                    source->path);
    }
    if (list->count == UINT32_MAX) {
        return fail(e, "%s: is one file too many; .docs files can number at most %u", source->path,
                    UINT32_MAX);
    }
    if (!array_reserve(&list->items, &list->capacity, list->count, 1, sizeof *list->items, e)) {
        return false;
    }
    list->items[list->count] = *source;
    list->items[list->count].path = strdup(source->path);
    if (!list->items[list->count].path) {
        return fail(e, "%s: no memory", source->path);
    }
    list->count++;
    return true;
}

// Why a path that was named cannot be read as text.
static inline bool sources_reject_(const char *path, Error *e) {
    const size_t length = strlen(path);
    bool tokens = ends_with_(path, length, ".bin") || ends_with_(path, length, ".idx");
    return tokens ? fail(e,
                         "%s: already holds tokens: give Megatron pairs and llm.c shards to train "
                         "--data as they are",
                         path)
                  : fail(e, "%s: cannot be read as text: that is %s", path, SOURCE_KINDS);
}

// Adds a file, or all files below a folder. What was `named` on the command line must be readable
// text; in folders other files, hidden ones, and links to folders (which may go in circles) are
// skipped and counted.
static inline bool sources_add_(SourceList *list, const char *path, bool named, Error *e) {
    Source source = {.path = (char *)path};
    struct stat status, link;
    struct dirent **names = NULL;
    source.kind = source_kind_(path, &source.compression);
    if (stat(path, &status) || lstat(path, &link)) {
        bool skip = !named && source.kind == SOURCE_UNKNOWN;
        list->skipped += skip;
        return skip || fail(e, "%s: cannot be read: %s", path, strerror(errno));
    }
    bool folder = S_ISDIR(status.st_mode);
    if (folder && (named || !S_ISLNK(link.st_mode))) {
        int count = list_folder(path, &names);
        bool ok =
            count >= 0 || fail(e, "%s: this folder cannot be read: %s", path, strerror(errno));
        for (int i = 0; ok && i < count; i++) {
            char child[PATH_LIMIT];
            const char *slash = path[strlen(path) - 1] == '/' ? "" : "/";
            bool hidden = names[i]->d_name[0] == '.';
            list->skipped += hidden;
            ok = hidden || (path_format(child, e, "%s%s%s", path, slash, names[i]->d_name) &&
                            sources_add_(list, child, false, e));
        }
        free_names(names, count);
        return ok;
    }
    source.bytes = (uint64_t)status.st_size;
    source.inode = (uint64_t)status.st_ino;
    source.time = status.st_mtim;
    if (source.kind != SOURCE_UNKNOWN && S_ISREG(status.st_mode)) {
        return sources_add_file_(list, &source, e);
    }
    list->skipped++;
    return !named || sources_reject_(path, e);
}

static inline bool source_unchanged(const Source *source, Error *e) {
    struct stat now;
    if (stat(source->path, &now)) {
        return fail(e, "%s: can no longer be read: %s", source->path, strerror(errno));
    }
    return (now.st_ino == source->inode && (uint64_t)now.st_size == source->bytes &&
            now.st_mtim.tv_sec == source->time.tv_sec &&
            now.st_mtim.tv_nsec == source->time.tv_nsec) ||
           fail(
               e,
               "%s: was changed while it was being prepared; run prepare again when it is complete",
               source->path);
}

// Finds the sources below the inputs. sources_free releases the list, after a failure too.
static inline bool sources_find(SourceList *list, const char *const *inputs, size_t count,
                                Error *e) {
    for (size_t i = 0; i < count; i++) {
        if (!sources_add_(list, inputs[i], true, e)) {
            return false;
        }
    }
    return list->count > 0 || fail(e, "%s: holds no %s (other files skipped: %llu)", inputs[0],
                                   SOURCE_KINDS, (unsigned long long)list->skipped);
}

// Collective: rank 0's sources go to all ranks. Every rank takes part to the end, even without
// memory for its copy.
static inline bool sources_share(SourceList *list, const World *world, Error *e) {
    uint64_t count = list->count;
    bool ok = true;
    broadcast(&count, sizeof count);
    for (uint64_t i = 0; i < count; i++) {
        Source source = {0};
        char path[PATH_LIMIT] = "";
        if (world->rank == 0) {
            source = list->items[i];
            snprintf(path, sizeof path, "%s", source.path);
        }
        broadcast(&source, sizeof source);
        broadcast(path, sizeof path);
        source.path = path;
        if (world->rank > 0) {
            ok = ok && sources_add_file_(list, &source, e);
        }
    }
    return ok;
}

static inline uint64_t sources_bytes(const SourceList *list) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < list->count; i++) {
        bytes += list->items[i].bytes;
    }
    return bytes;
}

#endif
