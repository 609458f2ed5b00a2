// prepare.h: text files become token shards, tokenizer and manifest, in one folder, over all ranks
// and their threads.
//
// Writing:  prepare_corpus       sources -> SPLIT.bin, .idx, .docs, .meta, dropped.jsonl,
// tokenizer/, manifest.json
//
// The corpus is a list of units that depends on nothing but the input: a stretch of an uncompressed
// JSON Lines file, or a whole file. A rank takes a unit through a pass in batches of documents,
// which its threads parse and encode; what comes of it goes into the unit's own part files. Then
// the parts are put together in the order of the units. So the result is the same for any number of
// ranks and threads, and a run that was killed goes on behind its whole units.
#ifndef PREPARE_H
#define PREPARE_H

#include <spawn.h>    // posix_spawnp: gzip, zstd
#include <strings.h>  // strcasecmp
#include <sys/file.h> // flock
#include <sys/wait.h>

#include "corpus/collect.h"
#include "dataloader.h"
#include "mpi_utils.h"
#include "tokenizers/train.h"
#include "trace/trace.h" // index_build, sums_build

// ------------------------------------------------------------------------------------------------
// What prepare_corpus is asked to do, and what it tells

// Inputs are files or folders; from folders it takes the files that source_kind_ knows, in the
// order of their names' bytes.
typedef struct {
    const char *const *inputs;
    size_t input_count;
    const char *out;           // folder to make
    const char *tokenizer;     // folder of the tokenizer to use; NULL: train one
    size_t vocab_size;         // of the one to train
    bool unigram;              // which kind to train: Unigram with byte fallback, or byte-level BPE
    uint64_t tokenizer_sample; // bytes of text to train it on; a rank holds at most a quarter more
                               // in memory
    double val_fraction;       // share of the documents that make the validation split, 0 <= F < 1
    const char *text_key;      // of JSON Lines: the key that holds the text
    uint64_t seed;             // of the split and of the tokenizer's sample
    uint64_t unit_bytes;       // of a stretch of JSON Lines; 0: by the size of the corpus. Changes
                               // nothing in the result
    CollectOptions collect;    // which documents stay out
    bool index;                // make an index of the text, for trace
    const char *revision; // of the program: what another one left unfinished is not gone on with
    const char *const *command; // the command line, for the manifest
    size_t command_count;
    FILE *progress; // for people; NULL: silent
} PrepareOptions;

// Everything that is counted, for a unit, a source and the corpus alike.
//   lines                                of JSON Lines
//   documents, tokens, text_bytes        that are written; tokens with the ends of documents
//   empty, blank_lines, rejected_lines   left out: without text; without JSON; no JSON object with
//   a text dropped_*                            left out by the CollectReason of that name, in its
//   order replaced                             ill-formed UTF-8 sequences that became U+FFFD
//   train_*, val_*                       by split; the third is bytes of SPLIT.meta
//   dropped_bytes                        of dropped.jsonl
// clang-format off
#define COUNTS_LIST_(X)                                                                                                \
    X(lines) X(documents) X(tokens) X(text_bytes) X(empty) X(blank_lines) X(rejected_lines)                            \
    X(dropped_short) X(dropped_long) X(dropped_japanese) X(dropped_repeated_lines) X(dropped_exact_duplicate)          \
    X(dropped_near_duplicate) X(replaced) X(train_documents) X(train_tokens) X(train_meta_bytes) X(val_documents)      \
    X(val_tokens) X(val_meta_bytes) X(dropped_bytes)
// clang-format on

#define COUNT_FIELD_(name) uint64_t name;
#define COUNT_NAME_(name) #name,

typedef struct {
    COUNTS_LIST_(COUNT_FIELD_)
} Counts;

static const char *const count_names_[] = {COUNTS_LIST_(COUNT_NAME_)};

enum { COUNTS = sizeof count_names_ / sizeof *count_names_ };

static inline uint64_t *count_at_(Counts *c, size_t i) {
    return (uint64_t *)(void *)c + i;
}

// How many documents this reason left out.
static inline uint64_t *count_dropped(Counts *c, CollectReason reason) {
    return &c->dropped_short + (reason - COLLECT_SHORT);
}

static inline void counts_add_(Counts *sum, const Counts *more) {
    for (size_t i = 0; i < COUNTS; i++) {
        *count_at_(sum, i) += *((const uint64_t *)(const void *)more + i);
    }
}

enum { REPORT_NOTES = 5, NOTE_LIMIT = sizeof(Error) };

typedef struct {
    uint64_t sources,
        skipped_files; // files read; files in the input folders of kinds that are not read
    Counts counts;
    size_t vocab_size;
    size_t note_count;
    char notes[REPORT_NOTES][NOTE_LIMIT]; // "FILE:LINE: what is wrong" for the first rejected lines
} PrepareReport;

// ------------------------------------------------------------------------------------------------
// What JSON Lines say about where their documents come from

// Number of documents and tokens per distinct value of a facet. A table is bounded: documents with
// a value that is too long, or new when the table is full, are counted together.
typedef struct {
    struct {
        char *value;
        uint64_t documents, tokens;
    } * values;
    size_t count, capacity;
    uint64_t other_documents, other_tokens;
} OriginFacet;

enum { ORIGIN_SOURCE, ORIGIN_LICENSE, ORIGIN_LANGUAGE, ORIGIN_FACETS };
enum {
    ORIGIN_VALUES = 32,
    ORIGIN_UNIT_VALUES = 1024,
    ORIGIN_LENGTH = 200
}; // of a source, of a unit; bytes of a value

// The metadata that is kept of a document, with the keys under which corpora have it (Dolma,
// FineWeb, llm-jp-corpus, mC4, Wikipedia, the Pile, the Stack). They are looked for in the object,
// then in its "meta", then in its "metadata"; the first string wins, else the first number.
static const struct {
    const char *name, *keys[3];
    int facet; // that counts its strings, or -1
} metadata_fields_[] = {
    {"id", {"id", "hexsha"}, -1},
    {"source", {"source", "package", "pile_set_name"}, ORIGIN_SOURCE},
    {"url", {"url"}, -1},
    {"license", {"license", "licence"}, ORIGIN_LICENSE},
    {"created", {"created"}, -1},
    {"added", {"added"}, -1},
    {"date", {"date"}, -1},
    {"timestamp", {"timestamp"}, -1},
    {"language", {"language", "lang"}, ORIGIN_LANGUAGE},
    {"title", {"title"}, -1},
    {"dump", {"dump"}, -1},
    {"file_path", {"file_path"}, -1},
};

enum { METADATA_FIELDS = sizeof metadata_fields_ / sizeof *metadata_fields_, METADATA_ID = 0 };

static const char *const origin_names_[ORIGIN_FACETS] = {"source", "license", "language"};

static inline const Json *metadata_find_(const Json *object, int field) {
    const Json *places[3] = {object, json_get(object, "meta"), json_get(object, "metadata")},
               *number = NULL;
    for (int i = 0; i < 9; i++) {
        const char *key = metadata_fields_[field].keys[i % 3];
        const Json *found = key && places[i / 3] ? json_get(places[i / 3], key) : NULL;
        if (found && found->kind == JSON_STRING) {
            return found;
        }
        number = number ? number : found && found->kind == JSON_NUMBER ? found : NULL;
    }
    return number;
}

static inline bool origin_add_(OriginFacet *facet, size_t limit, const char *value, size_t length,
                               uint64_t documents, uint64_t tokens, Error *e) {
    size_t v = 0;
    while (v < facet->count &&
           (strncmp(facet->values[v].value, value, length) || facet->values[v].value[length])) {
        v++;
    }
    if (length > ORIGIN_LENGTH || v == limit || memchr(value, 0, length)) {
        facet->other_documents += documents;
        facet->other_tokens += tokens;
        return true;
    }
    if (v == facet->count) {
        if (!array_reserve(&facet->values, &facet->capacity, facet->count, 1, sizeof *facet->values,
                           e)) {
            return false;
        }
        facet->values[v].value = strndup(value, length);
        facet->values[v].documents = facet->values[v].tokens = 0;
        if (!facet->values[v].value) {
            return fail(e, "prepare: no memory for the origins of documents");
        }
        facet->count++;
    }
    facet->values[v].documents += documents;
    facet->values[v].tokens += tokens;
    return true;
}

static inline void origins_free_(OriginFacet origin[ORIGIN_FACETS]) {
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        for (size_t v = 0; v < origin[f].count; v++) {
            free(origin[f].values[v].value);
        }
        free(origin[f].values);
        origin[f] = (OriginFacet){0};
    }
}

// Adds the tables of a unit to those of its source.
static inline bool origins_add_(OriginFacet to[ORIGIN_FACETS],
                                const OriginFacet from[ORIGIN_FACETS], Error *e) {
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        for (size_t v = 0; v < from[f].count; v++) {
            const char *value = from[f].values[v].value;
            if (!origin_add_(&to[f], ORIGIN_VALUES, value, strlen(value),
                             from[f].values[v].documents, from[f].values[v].tokens, e)) {
                return false;
            }
        }
        to[f].other_documents += from[f].other_documents;
        to[f].other_tokens += from[f].other_tokens;
    }
    return true;
}

// "origin": {FACET: [{"value": ..., "documents": n, "tokens": n}]}, where null stands for all
// values beyond the table.
static inline void origins_put_(JsonWriter *w, const OriginFacet origin[ORIGIN_FACETS]) {
    json_open(w, "origin", '{');
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        const OriginFacet *facet = &origin[f];
        if (facet->count == 0 && facet->other_documents == 0) {
            continue;
        }
        json_open(w, origin_names_[f], '[');
        for (size_t v = 0; v <= facet->count; v++) {
            bool other = v == facet->count;
            if (!other || facet->other_documents) {
                json_open(w, NULL, '{');
                other ? json_put_null(w, "value")
                      : json_put_string(w, "value", facet->values[v].value);
                json_put_uint(w, "documents",
                              other ? facet->other_documents : facet->values[v].documents);
                json_put_uint(w, "tokens", other ? facet->other_tokens : facet->values[v].tokens);
                json_close(w, '}');
            }
        }
        json_close(w, ']');
    }
    json_close(w, '}');
}

// Adds what origins_put_ wrote to tables of at most `limit` values.
static inline bool origins_take_(OriginFacet origin[ORIGIN_FACETS], size_t limit, const Json *from,
                                 Error *e) {
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        const Json *list = json_get(from, origin_names_[f]);
        for (const Json *entry = list ? list->child : NULL; entry; entry = entry->next) {
            const char *value = json_string(json_get(entry, "value"));
            uint64_t documents = 0, tokens = 0;
            json_uint(json_get(entry, "documents"), &documents);
            json_uint(json_get(entry, "tokens"), &tokens);
            if (!value) {
                origin[f].other_documents += documents;
                origin[f].other_tokens += tokens;
            } else if (!origin_add_(&origin[f], limit, value, strlen(value), documents, tokens,
                                    e)) {
                return false;
            }
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Sources: the text files of a corpus, found, opened and read in blocks

typedef enum { SOURCE_UNKNOWN, SOURCE_TEXT, SOURCE_JSON_LINES } SourceKind;
typedef enum { COMPRESSED_NOT, COMPRESSED_GZIP, COMPRESSED_ZSTD } Compression;

// The programs that decompress from standard input to standard output.
static const char *const decompressors_[] = {NULL, "gzip", "zstd"};

typedef struct {
    char *path;
    SourceKind kind;
    Compression compression;
    uint64_t bytes, inode; // when it was found; a source that changes later is an error. (The
                           // device's number may
    struct timespec time;  // differ from host to host.)
    char hash[65];         // of the file as it lies on disk
    Counts counts;
    OriginFacet origin[ORIGIN_FACETS];
} Source;

typedef struct {
    Source *items;
    size_t count, capacity;
    uint64_t skipped;
} SourceList;

static const char SOURCE_KINDS[] =
    ".txt, .text, .md or .jsonl, also with .gz or .zst, or .json.gz or .json.zst";

// By the name's end. Compressed .json is JSON Lines in practice (Dolma, C4); uncompressed .json is
// mostly something else.
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
    *compression = length > 3 && !strcasecmp(path + length - 3, ".gz")    ? COMPRESSED_GZIP
                   : length > 4 && !strcasecmp(path + length - 4, ".zst") ? COMPRESSED_ZSTD
                                                                          : COMPRESSED_NOT;
    length -= *compression == COMPRESSED_GZIP ? 3 : *compression == COMPRESSED_ZSTD ? 4 : 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t n = strlen(kinds[i].ending);
        if (length > n && !strncasecmp(path + length - n, kinds[i].ending, n) &&
            (strcmp(kinds[i].ending, ".json") || *compression)) {
            return kinds[i].kind;
        }
    }
    return SOURCE_UNKNOWN;
}

static inline void sources_free_(SourceList *list) {
    for (size_t i = 0; i < list->count; i++) {
        origins_free_(list->items[i].origin);
        free(list->items[i].path);
    }
    free(list->items);
    *list = (SourceList){0};
}

static inline bool utf8_is_valid_(const char *text, size_t length) {
    for (size_t i = 0, n; i < length; i += n) {
        n = (unsigned char)text[i] < 0x80 ? 1 : utf8_decode(text + i, length - i, NULL);
        if (n == 0) {
            return false;
        }
    }
    return true;
}

static inline bool sources_add_file_(SourceList *list, const Source *source, Error *e) {
    if (!utf8_is_valid_(source->path, strlen(source->path))) {
        return fail(e, "%s: its name is not valid UTF-8, so the manifest cannot name it: rename it",
                    source->path);
    }
    if (list->count == UINT32_MAX) {
        return fail(e, "%s: is one file too many; the .docs files number at most %u", source->path,
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
static inline bool sources_refuse_(const char *path, Error *e) {
    size_t length = strlen(path);
    bool tokens =
        length > 4 && (!strcmp(path + length - 4, ".bin") || !strcmp(path + length - 4, ".idx"));
    return tokens ? fail(e,
                         "%s: holds tokens already: give Megatron pairs and llm.c shards to train "
                         "--data as they are",
                         path)
                  : fail(e, "%s: cannot be read as text: that is %s", path, SOURCE_KINDS);
}

// Adds a file, or all files below a folder. What was `named` on the command line must be readable
// text; in folders other files, hidden ones, and links to folders (which may go in circles) are
// passed over and counted.
static inline bool sources_add_(SourceList *list, const char *path, bool named, Error *e) {
    Source source = {.path = (char *)path};
    struct stat status, link;
    struct dirent **names = NULL;
    source.kind = source_kind_(path, &source.compression);
    if (stat(path, &status) || lstat(path, &link)) {
        list->skipped += !named && source.kind == SOURCE_UNKNOWN;
        return (!named && source.kind == SOURCE_UNKNOWN) ||
               fail(e, "%s: cannot be read: %s", path, strerror(errno));
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
    return !named || sources_refuse_(path, e);
}

static inline bool source_unchanged_(const Source *source, Error *e) {
    struct stat now;
    if (stat(source->path, &now)) {
        return fail(e, "%s: cannot be read any more: %s", source->path, strerror(errno));
    }
    return (now.st_ino == source->inode && (uint64_t)now.st_size == source->bytes &&
            now.st_mtim.tv_sec == source->time.tv_sec &&
            now.st_mtim.tv_nsec == source->time.tv_nsec) ||
           fail(
               e,
               "%s: was changed while it was being prepared; run prepare again when it is complete",
               source->path);
}

// Bytes read at a time, and of the pieces that documents are encoded in; the longest line of JSON
// Lines; the longest stretch of text without a place to cut, of which the encoder needs some 40
// times as much memory.
enum { READ_BLOCK = 1 << 18, LINE_LIMIT = 1 << 28, UNCUT_LIMIT = 1 << 24 };

typedef struct {
    const Source *source;
    int input;          // the file
    int file;           // what is read: the file, or the pipe from what decompresses it
    pid_t decompressor; // its process, or 0
    char *data;
    size_t start, end, capacity; // data[start .. end) is read and not yet used
    uint64_t offset;             // of data[start] in the text as decompressed
    bool ended;                  // nothing follows data[end]
} Reader;

// Puts `gzip -dc` or `zstd -dc` between the reader and its file.
static inline bool reader_decompress_(Reader *r, Error *e) {
    extern char **environ;
    const char *program = decompressors_[r->source->compression];
    char *const arguments[] = {(char *)program, "-dc", NULL};
    posix_spawn_file_actions_t actions;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) {
        return fail(e, "%s: no pipe to %s: %s", r->source->path, program, strerror(errno));
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, r->input, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY,
                                     0); // the error line is ours
    int status = posix_spawnp(&r->decompressor, program, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    r->file = ends[0];
    (void)fcntl(r->file, F_SETPIPE_SZ,
                1 << 20); // let it work ahead; what it cannot have does no harm
    if (status) {
        r->decompressor = 0;
        return fail(e, "%s: %s, which reads it, cannot be started: %s", r->source->path, program,
                    strerror(status));
    }
    return true;
}

// Reads on: at least one more byte, or r->ended. Moves data, so keep no pointer into it.
static inline bool reader_more_(Reader *r, Error *e) {
    if (r->start > 0) {
        memmove(r->data, r->data + r->start, r->end - r->start);
        r->end -= r->start;
        r->start = 0;
    }
    if (r->capacity - r->end < READ_BLOCK &&
        !array_reserve(&r->data, &r->capacity, r->end, READ_BLOCK, 1, e)) {
        return false;
    }
    ssize_t n;
    while ((n = read(r->file, r->data + r->end, READ_BLOCK)) < 0 && errno == EINTR) {
    }
    if (n < 0) {
        return fail(e, "%s: cannot be read: %s", r->source->path, strerror(errno));
    }
    r->end += (size_t)n;
    r->ended = n == 0;
    return true;
}

static inline bool reader_fill_(Reader *r, size_t bytes, Error *e) {
    while (r->end - r->start < bytes && !r->ended) {
        if (!reader_more_(r, e)) {
            return false;
        }
    }
    return true;
}

static inline void reader_use_(Reader *r, size_t bytes) {
    r->start += bytes;
    r->offset += bytes;
}

// Moves to the first line that begins in [begin, end); to `end` or beyond if there is none.
static inline bool reader_skip_to_line_(Reader *r, uint64_t begin, uint64_t end, Error *e) {
    if (lseek(r->file, (off_t)begin - 1, SEEK_SET) < 0) {
        return fail(e, "%s: cannot be read at byte %llu: %s", r->source->path,
                    (unsigned long long)begin, strerror(errno));
    }
    r->offset = begin - 1;
    while (r->offset < end && !(r->ended && r->start == r->end)) {
        const char *newline =
            r->end > r->start ? memchr(r->data + r->start, '\n', r->end - r->start) : NULL;
        if (newline) {
            reader_use_(r, (size_t)(newline - (r->data + r->start)) + 1);
            return true;
        }
        reader_use_(r, r->end - r->start);
        if (!reader_more_(r, e)) {
            return false;
        }
    }
    r->offset = end;
    return true;
}

// Opens a source: from its beginning, behind the byte order mark if there is one, or at the first
// line that begins in [begin, end). reader_close_ releases the reader, also after a failure.
static inline bool reader_open_(Reader *r, const Source *source, uint64_t begin, uint64_t end,
                                Error *e) {
    uint64_t bytes;
    *r = (Reader){.source = source, .input = open_regular(source->path, &bytes, e), .file = -1};
    if (r->input < 0 || !source_unchanged_(source, e) ||
        (source->compression && !reader_decompress_(r, e))) {
        return false;
    }
    r->file = source->compression ? r->file : r->input;
    if (begin > 0) {
        return reader_skip_to_line_(r, begin, end, e);
    }
    if (!reader_fill_(r, 3, e)) {
        return false;
    }
    if (r->end >= 3 && !memcmp(r->data, "\xEF\xBB\xBF", 3)) {
        reader_use_(r, 3);
    }
    return true;
}

// `ok` says whether all went well so far; if so, the decompressor must have ended well, and the
// file must be what it was.
static inline bool reader_close_(Reader *r, bool ok, Error *e) {
    int status = 0;
    if (r->file >= 0 && r->file != r->input) {
        close(r->file);
    }
    if (r->input >= 0) {
        close(r->input);
    }
    if (r->decompressor) {
        while (waitpid(r->decompressor, &status, 0) < 0 && errno == EINTR) {
        }
    }
    free(r->data);
    if (!ok || !source_unchanged_(r->source, e)) {
        return false;
    }
    const char *program = decompressors_[r->source->compression];
    return status == 0 ||
           fail(e, "%s: %s -dc ended with status %d: the file is damaged or not compressed by %s",
                r->source->path, program,
                WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), program);
}

// ------------------------------------------------------------------------------------------------
// Units: what a rank takes at a time

typedef struct {
    uint32_t source;
    uint64_t begin,
        end;        // JSON Lines: the lines that begin in [begin, end). A whole file: 0, UINT64_MAX
    uint64_t bytes; // of the source that it reads, about
} Unit;

typedef struct {
    uint64_t line; // number within the unit, from 1
    char *why;     // ": what is wrong"
} Note;

// What a pass found in a unit: PARTS/NUMBER.PASS.json, whose presence says that the unit is whole.
typedef struct {
    Counts counts;
    size_t note_count;
    Note notes[REPORT_NOTES]; // the first rejected lines
    OriginFacet origin[ORIGIN_FACETS];
} UnitResult;

static inline void unit_result_free_(UnitResult *r) {
    for (size_t i = 0; i < r->note_count; i++) {
        free(r->notes[i].why);
    }
    origins_free_(r->origin);
    *r = (UnitResult){0};
}

static inline void unit_result_put_(JsonWriter *w, const UnitResult *r) {
    json_open(w, NULL, '{');
    json_open(w, "counts", '{');
    for (size_t i = 0; i < COUNTS; i++) {
        json_put_uint(w, count_names_[i], *count_at_((Counts *)&r->counts, i));
    }
    json_close(w, '}');
    json_open(w, "rejected", '[');
    for (size_t i = 0; i < r->note_count; i++) {
        json_open(w, NULL, '{');
        json_put_uint(w, "line", r->notes[i].line);
        json_put_string(w, "why", r->notes[i].why);
        json_close(w, '}');
    }
    json_close(w, ']');
    origins_put_(w, r->origin);
    json_close(w, '}');
    json_append(w, "\n", 1);
}

// Reads what unit_result_put_ wrote. unit_result_free_ releases it, also after a failure.
static inline bool unit_result_load_(UnitResult *r, const char *path, Error *e) {
    JsonDocument json;
    *r = (UnitResult){0};
    if (!json_parse_file(&json, path, LINE_LIMIT, e)) {
        return false;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < COUNTS; i++) {
        ok = json_uint(json_get(json_get(json.root, "counts"), count_names_[i]),
                       count_at_(&r->counts, i)) ||
             fail(e, "%s: has no count of %s", path, count_names_[i]);
    }
    const Json *rejected = json_get(json.root, "rejected");
    for (const Json *note = rejected ? rejected->child : NULL;
         ok && note && r->note_count < REPORT_NOTES; note = note->next) {
        const char *why = json_string(json_get(note, "why"));
        Note *to = &r->notes[r->note_count];
        ok = (json_uint(json_get(note, "line"), &to->line) && why && (to->why = strdup(why))) ||
             fail(e, "%s: its notes on rejected lines cannot be read", path);
        r->note_count += ok;
    }
    ok = ok && origins_take_(r->origin, ORIGIN_UNIT_VALUES, json_get(json.root, "origin"), e);
    json_free(&json);
    return ok;
}

// Writes a small file so that it is there whole or not at all.
static inline bool write_whole_(const char *path, const JsonWriter *w, Error *e) {
    char temporary[PATH_LIMIT], hash[65];
    OutputFile file;
    if (!path_format(temporary, e, "%s.tmp", path) ||
        (w->failed && !fail(e, "%s: no memory to write it", path)) ||
        !output_open(&file, temporary, e)) {
        return false;
    }
    bool ok = output_write(&file, w->data, w->length, e);
    ok = output_close(&file, hash, ok ? e : &(Error){0}) && ok;
    return ok && (rename(temporary, path) == 0 ||
                  fail(e, "%s: cannot be written: %s", path, strerror(errno)));
}

// The part files of a unit: for each split the pieces of SPLIT.bin, .docs and .meta, and the piece
// of dropped.jsonl.
enum { SPLIT_TRAIN, SPLIT_VAL, SPLITS };
enum { PART_BIN, PART_DOCS, PART_META, PART_KINDS };

static const char *const split_names_[SPLITS] = {"train", "val"};
static const char *const part_names_[PART_KINDS] = {"bin", "docs", "meta"};

typedef struct {
    FILE *file; // NULL until something is written
    char path[PATH_LIMIT];
} PartFile;

typedef struct {
    PartFile files[SPLITS][PART_KINDS], dropped;
    PartFile records,
        places; // PASS_SCAN: for each document with text, its record for collect.h and its offset
} Parts;

enum { PART_FILES = sizeof(Parts) / sizeof(PartFile) };

static inline bool part_write_(PartFile *f, const void *data, size_t bytes, Error *e) {
    if (!f->file && bytes) {
        f->file = fopen(f->path, "wb");
        if (!f->file) {
            return fail(e, "%s: cannot be created: %s", f->path, strerror(errno));
        }
    }
    return write_bytes(f->file, f->path, data, bytes, e);
}

// Closes all of them, on disk when this returns true; `ok` says whether all went well so far.
static inline bool parts_close_(Parts *parts, bool ok, Error *e) {
    for (int i = 0; i < PART_FILES; i++) {
        PartFile *f = (PartFile *)(void *)parts + i;
        if (f->file) {
            ok = close_written(f->file, f->path, ok ? e : &(Error){0}) && ok;
        }
        f->file = NULL;
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Batches: some documents of a unit, which the threads work on together

// Why a document is left out.
typedef enum {
    DOCUMENT_TAKEN,
    DOCUMENT_EMPTY,
    DOCUMENT_BLANK_LINE,
    DOCUMENT_REJECTED,
    DOCUMENT_COLLECTED // collect.h says why
} DocumentState;

static const char *const dropped_reasons_[] = {"kept", "empty", "blank_line", "rejected_line"};

// What was decided about a document that collect.h leaves out, as it lies in WORK/verdicts: one
// after the other in the order of the corpus. The file is read by the run that wrote it, or the one
// that goes on with its job.
typedef struct {
    uint64_t document;  // its number among the documents of the corpus that have text
    uint32_t reason;    // CollectReason
    uint32_t of_source; // of a duplicate: the document it repeats
    uint64_t of_offset;
    double value; // what was measured: characters, a share, or the similarity
} Verdict;

// A stretch of a worker's store.
typedef struct {
    size_t at, length;
} Span;

typedef struct {
    DocumentState state;
    bool begins, ends;       // a document of plain text may go on over batches
    int worker;              // in whose store the spans lie
    uint64_t offset, length; // of what it is in the source
    uint64_t line;           // number within the unit, from 1
    const char *line_text;   // JSON Lines: the line, in the reader's buffer
    const char *text;        // well-formed UTF-8
    size_t text_length;
    Verdict verdict;                     // if it is DOCUMENT_COLLECTED
    Span record;                         // PASS_SCAN: for collect_duplicates
    Span stored_text, metadata, id, why; // JSON Lines; metadata: an object, id: a value, as JSON
    Span facets[ORIGIN_FACETS];          // at 0, length 0: unknown
    bool has_facet[ORIGIN_FACETS];
    uint64_t replaced;
    size_t first_piece, piece_count;
} BatchDocument;

// A part of a document's text, cut where that changes no id.
typedef struct {
    const char *text;
    size_t length;
    bool continues, goes_on; // not the first, not the last of its document
    int worker;              // in whose tokens its ids lie
    size_t first_token, token_count;
} BatchPiece;

// What one thread needs.
typedef struct {
    Encoder encoder;
    CollectState *collect; // NULL: nothing is to be left out
    TokenBuffer tokens;    // of the batch
    char *store;           // texts and metadata of the batch
    size_t stored, store_capacity;
    char *line; // the line at hand with ill-formed UTF-8 replaced
    size_t line_capacity;
    JsonWriter writer;
    bool ok;
    Error error;
} Worker;

typedef struct {
    BatchDocument *documents;
    size_t document_count, document_capacity;
    BatchPiece *pieces;
    size_t piece_count, piece_capacity;
} Batch;

// For each thread of a rank: bytes that a batch takes of a source at least, and documents at most.
enum { BATCH_BYTES = 1 << 20, BATCH_DOCUMENTS = 4096 };

typedef struct {
    uint64_t rank; // the sample holds the pieces of lowest rank
    char *text;
    size_t length;
} SamplePiece;

typedef enum { PASS_SCAN, PASS_SAMPLE, PASS_ENCODE } PassKind;

static const char *const pass_names_[] = {"scan", "sample", "encode"};
static const char *const pass_titles_[] = {"looking at the documents", "sampling for the tokenizer",
                                           "tokenizing"};

// What the ranks tell each other about once a second: sums over them.
typedef struct {
    uint64_t source_bytes, text_bytes, documents, finished, failed;
} Pulse;

enum { PULSE_FIELDS = sizeof(Pulse) / sizeof(uint64_t) };

typedef struct {
    World *world;
    const PrepareOptions *options;
    PrepareReport *report;
    char work[PATH_LIMIT]; // the hidden sibling of options->out; in it job.json, parts/, and data/,
                           // which becomes `out`
    int lock;              // rank 0: descriptor of it, locked; -1 while it is not ours
    bool resuming;         // rank 0: an earlier run has left parts of the same job
    SourceList sources;
    Unit *units;
    size_t unit_count;
    Tokenizer tokenizer;
    Worker *workers;
    int worker_count;

    // The pass.
    PassKind pass;
    bool *whole;    // [unit_count] units that need not be done
    Counts *counts; // [unit_count] once it is over
    Pulse mine, all;
    MPI_Request request; // of the sums that are under way
    Pulse sent;
    bool pulse_under_way, pulse_over;
    struct timespec began, pulsed, shown;
    uint64_t resumed_bytes; // of sources, in units that were whole at the beginning

    // What collect.h leaves out.
    uint64_t *first_documents; // [unit_count + 1] number of the unit's first document with text
    FILE *verdicts; // WORK/verdicts, in front of the one after `verdict`; NULL: nothing is left out
    Verdict verdict;    // the next one
    uint64_t candidate; // number of the next document with text
    bool dropping;      // the document at hand is left out: plain text may go on over batches
    Verdict dropped;    // why

    // The unit.
    size_t unit;
    uint64_t lines;
    UnitResult result;
    Parts parts;
    Batch batch;

    // The document.
    DocumentRecord document;
    int split;
    uint64_t text_bytes, pieces;
    char *pending; // plain text: what is read and not yet cut
    size_t pending_length, pending_capacity;
    size_t next_cut; // bytes in which to look for a cut

    // The sample for the tokenizer.
    SamplePiece *sample;
    size_t sample_count, sample_capacity;
    uint64_t sample_bytes, sample_threshold;
} Preparation;

static inline const Source *prepare_source_(const Preparation *p) {
    return &p->sources.items[p->units[p->unit].source];
}

static inline bool part_path_(char *path, const Preparation *p, size_t unit, const char *name,
                              Error *e) {
    return path_format(path, e, "%s/parts/%08zu.%s", p->work, unit, name);
}

// Where in the worker's store a copy of these bytes lies.
static inline bool worker_store_(Worker *w, Span *span, const char *data, size_t length, Error *e) {
    *span = (Span){w->stored, length};
    if (!array_reserve(&w->store, &w->store_capacity, w->stored, length, 1, e)) {
        return false;
    }
    if (length) {
        memcpy(w->store + w->stored, data, length);
    }
    w->stored += length;
    return true;
}

static inline const char *stored_(const Preparation *p, const BatchDocument *d, Span span) {
    const char *store = p->workers[d->worker].store;
    return store ? store + span.at : ""; // nothing stored yet: an empty text
}

// Takes lines into the batch: those that begin before the end of the unit, as far as the reader
// holds them whole.
static inline bool batch_read_lines_(Preparation *p, Reader *r, Error *e) {
    const uint64_t end = p->units[p->unit].end;
    const size_t limit = BATCH_BYTES * (size_t)p->worker_count,
                 most = BATCH_DOCUMENTS * (size_t)p->worker_count;
    size_t searched = 0, taken = 0;
    if (!reader_fill_(r, min_u64(limit, end - r->offset), e)) {
        return false;
    }
    while (!r->ended && (r->start == r->end || !memchr(r->data + r->start + searched, '\n',
                                                       r->end - r->start - searched))) {
        searched = r->end - r->start;
        if (searched > LINE_LIMIT) {
            return fail(e, "%s: the line at byte %llu is longer than the %d MiB supported",
                        r->source->path, (unsigned long long)r->offset, LINE_LIMIT >> 20);
        }
        if (!reader_more_(r, e)) {
            return false;
        }
    }
    while (r->start + taken < r->end && r->offset + taken < end && taken < limit &&
           p->batch.document_count < most) {
        const char *text = r->data + r->start + taken,
                   *newline = memchr(text, '\n', r->end - r->start - taken);
        if (!newline && !r->ended) {
            break;
        }
        size_t length = newline ? (size_t)(newline - text) : r->end - r->start - taken;
        if (!array_reserve(&p->batch.documents, &p->batch.document_capacity,
                           p->batch.document_count, 1, sizeof(BatchDocument), e)) {
            return false;
        }
        BatchDocument d = {.begins = true,
                           .ends = true,
                           .offset = r->offset + taken,
                           .line = ++p->lines,
                           .line_text = text,
                           .length = length};
        taken += length + (newline != NULL);
        d.length -= length > 0 &&
                    text[length - 1] == '\r'; // one CR before the LF is part of the line's end
        p->batch.documents[p->batch.document_count++] = d;
    }
    reader_use_(r, taken); // the data stay where they are until the reader reads on
    p->mine.text_bytes += taken;
    return true;
}

// Takes more of a plain text file, which is one document, into the batch.
static inline bool batch_read_text_(Preparation *p, Reader *r, Error *e) {
    const size_t limit = BATCH_BYTES * (size_t)p->worker_count;
    BatchDocument d = {.begins = p->batch.document_count == 0 && p->lines == 0};
    uint64_t start = r->offset;
    size_t consumed;
    if (d.begins) {
        p->document.offset = start;
        p->lines = 1;
    }
    if (!reader_fill_(r, limit, e) ||
        !array_reserve(&p->batch.documents, &p->batch.document_capacity, 0, 1, sizeof d, e)) {
        return false;
    }
    do {
        size_t left = r->end - r->start, block = min_u64(left, READ_BLOCK);
        if (!array_reserve(&p->pending, &p->pending_capacity, p->pending_length, 3 * block + 1, 1,
                           e)) { // never NULL
            return false;
        }
        p->pending_length +=
            utf8_sanitize(p->pending + p->pending_length, r->data + r->start, block,
                          r->ended && block == left, &consumed, &d.replaced);
        reader_use_(r, consumed);
    } while (consumed > 0 && r->start < r->end);
    p->mine.text_bytes += r->offset - start;
    d.ends = r->ended && r->start == r->end;
    d.offset = p->document.offset;
    d.length = r->offset - d.offset;
    d.text = p->pending;
    d.text_length = p->pending_length;
    p->batch.documents[p->batch.document_count++] = d;
    return true;
}

static inline void utf8_trim_(char *text) {
    size_t length = strlen(text);
    while (!utf8_is_valid_(text, length)) {
        text[--length] = 0; // a character cut in two
    }
}

static inline bool line_reject_(Worker *w, BatchDocument *d, char *why, Error *e) {
    d->state = DOCUMENT_REJECTED;
    utf8_trim_(why);
    return worker_store_(w, &d->why, why, strlen(why), e);
}

// A metadata value as JSON: a string or a number. Returns where in the writer it begins.
static inline size_t metadata_put_(JsonWriter *w, const char *key, const Json *value) {
    json_begin_member_(w, key);
    size_t start = w->length;
    if (value->kind == JSON_STRING) {
        json_append_quoted_(w, value->text, value->length);
    } else {
        json_append(w, value->text, value->length);
    }
    return start;
}

// Stores what the object tells about its document.
static inline bool metadata_store_(Worker *w, BatchDocument *d, const Json *object, Error *e) {
    JsonWriter *writer = &w->writer;
    writer->length = 0;
    writer->has_member = false;
    json_open(writer, NULL, '{');
    for (int f = 0; f < METADATA_FIELDS; f++) {
        const Json *value = metadata_find_(object, f);
        int facet = metadata_fields_[f].facet;
        if (!value) {
            continue;
        }
        size_t start = metadata_put_(writer, metadata_fields_[f].name, value);
        if (f == METADATA_ID && !writer->failed &&
            !worker_store_(w, &d->id, writer->data + start, writer->length - start, e)) {
            return false;
        }
        if (facet >= 0 && value->kind == JSON_STRING) {
            d->has_facet[facet] = true;
            if (!worker_store_(w, &d->facets[facet], value->text, value->length, e)) {
                return false;
            }
        }
    }
    bool any = writer->has_member;
    json_close(writer, '}');
    if (writer->failed) {
        return fail(e, "prepare: no memory for the metadata of a document");
    }
    return !any || worker_store_(w, &d->metadata, writer->data, writer->length, e);
}

// Takes the document's next text into what collect.h knows of it; at its end, stores its record.
static inline bool document_scan_(const Preparation *p, Worker *w, BatchDocument *d,
                                  const char *text, size_t length, Error *e) {
    unsigned char record[COLLECT_RECORD_LIMIT];
    CollectVerdict verdict;
    CollectFingerprint fingerprint;
    if (d->begins) {
        collect_begin(w->collect);
    }
    if (!collect_add(w->collect, text, length, e)) {
        return false;
    }
    if (!d->ends) {
        return true;
    }
    if (!collect_end(w->collect, &verdict, &fingerprint, e)) {
        return false;
    }
    collect_store(record, &p->options->collect, &verdict, &fingerprint, d->length);
    return worker_store_(w, &d->record, (const char *)record,
                         collect_record_size(&p->options->collect), e);
}

// From a line to the document's text and metadata. False only if the whole run must stop.
static inline bool line_parse_(const Preparation *p, Worker *w, BatchDocument *d, Error *e) {
    const char *text = d->line_text;
    size_t length = d->length, blank = 0, consumed;
    JsonDocument json;
    Error why;
    while (blank < length && (text[blank] == ' ' || text[blank] == '\t' || text[blank] == '\r')) {
        blank++;
    }
    if (blank == length) {
        d->state = DOCUMENT_BLANK_LINE;
        return true;
    }
    if (!utf8_is_valid_(text, length)) {
        if (!array_reserve(&w->line, &w->line_capacity, 0, 3 * length, 1, e)) {
            return false;
        }
        length = utf8_sanitize(w->line, text, length, true, &consumed, &d->replaced);
        text = w->line;
    }
    if (!json_parse(&json, text, length, "", &why)) {
        return line_reject_(w, d, why.text, e);
    }
    const Json *value = json_get(json.root, p->options->text_key);
    bool ok = metadata_store_(w, d, json.root, e);
    if (ok && (!value || value->kind != JSON_STRING)) {
        fail(&why, ": has no string under the key \"%s\" (see --text-key)", p->options->text_key);
        ok = line_reject_(w, d, why.text, e);
    } else if (ok) {
        d->replaced += json.replaced;
        d->text_length = value->length;
        ok = p->pass == PASS_SCAN
                 ? document_scan_(p, w, d, value->text, value->length, e)
                 : worker_store_(w, &d->stored_text, value->text, value->length, e);
    }
    json_free(&json);
    return ok;
}

static inline void workers_reset_(Preparation *p) {
    for (int i = 0; i < p->worker_count; i++) {
        p->workers[i].tokens.count = p->workers[i].stored = 0;
        p->workers[i].ok = true;
    }
}

// Whether all threads did well; if not, *e says what the first of them met.
static inline bool workers_check_(const Preparation *p, Error *e) {
    for (int i = 0; i < p->worker_count; i++) {
        if (!p->workers[i].ok) {
            *e = p->workers[i].error;
            return false;
        }
    }
    return true;
}

static inline bool batch_parse_(Preparation *p, Error *e) {
    Batch *b = &p->batch;
#pragma omp parallel for schedule(dynamic, 4) num_threads(p->worker_count)
    for (size_t i = 0; i < b->document_count; i++) {
        Worker *w = &p->workers[omp_get_thread_num()];
        b->documents[i].worker = omp_get_thread_num();
        w->ok = w->ok && line_parse_(p, w, &b->documents[i], &w->error);
    }
    for (size_t i = 0; i < b->document_count; i++) { // now that the stores have their places
        b->documents[i].text = stored_(p, &b->documents[i], b->documents[i].stored_text);
    }
    return workers_check_(p, e);
}

// A place to cut without a tokenizer: behind the last line end or space, else at the end.
static inline size_t sample_safe_cut_(const char *text, size_t length) {
    for (size_t i = length; i > 0; i--) {
        if (text[i - 1] == '\n' || text[i - 1] == ' ') {
            return i;
        }
    }
    return length;
}

// Cuts the document's text into pieces of about READ_BLOCK bytes, up to its end or to where it goes
// on in the next batch; *used is what they take. Where the cuts are depends on the text alone.
static inline bool document_cut_(Preparation *p, BatchDocument *d, size_t *used, Error *e) {
    Batch *b = &p->batch;
    d->first_piece = b->piece_count;
    *used = p->pass == PASS_SCAN || d->state == DOCUMENT_COLLECTED ? d->text_length : 0;
    if (d->begins) {
        p->next_cut = READ_BLOCK;
    }
    while (*used < d->text_length) {
        const char *text = d->text + *used;
        size_t left = d->text_length - *used, cut = left;
        if (left > p->next_cut) {
            size_t window = p->next_cut;
            while (((unsigned char)text[window] & 0xC0) == 0x80) {
                window--; // whole characters only
            }
            cut = p->pass == PASS_SAMPLE ? sample_safe_cut_(text, window)
                                         : tokenizer_safe_cut(&p->tokenizer, text, window);
            if (cut == 0) {
                if (p->next_cut >= UNCUT_LIMIT) {
                    return fail(e,
                                "%s: the document at byte %llu has %zu bytes without a place to "
                                "cut; %d MiB are "
                                "supported",
                                prepare_source_(p)->path, (unsigned long long)d->offset, window,
                                UNCUT_LIMIT >> 20);
                }
                p->next_cut *= 2;
                continue;
            }
        } else if (!d->ends) {
            break;
        }
        if (!array_reserve(&b->pieces, &b->piece_capacity, b->piece_count, 1, sizeof *b->pieces,
                           e)) {
            return false;
        }
        b->pieces[b->piece_count++] =
            (BatchPiece){.text = text, .length = cut, .continues = *used > 0 || !d->begins};
        *used += cut;
        p->next_cut = READ_BLOCK;
    }
    d->piece_count = b->piece_count - d->first_piece;
    for (size_t i = 0; i < d->piece_count; i++) {
        b->pieces[d->first_piece + i].goes_on = !d->ends || i + 1 < d->piece_count;
    }
    return true;
}

// Reads the next verdict; behind the last one stands a document that does not exist.
static inline bool verdict_next_(Preparation *p, Error *e) {
    if (p->verdicts && fread(&p->verdict, sizeof p->verdict, 1, p->verdicts) == 1) {
        return true;
    }
    p->verdict = (Verdict){.document = UINT64_MAX};
    return !p->verdicts || !ferror(p->verdicts) ||
           fail(e, "%s/verdicts: cannot be read: %s", p->work, strerror(errno));
}

// Goes to the first verdict on this unit or a later one.
static inline bool verdict_seek_(Preparation *p, size_t unit, Error *e) {
    struct stat status;
    uint64_t low = 0, high = 0;
    p->dropping = false;
    if (p->verdicts) {
        p->candidate = p->first_documents[unit];
        if (fstat(fileno(p->verdicts), &status)) {
            return fail(e, "%s/verdicts: cannot be read: %s", p->work, strerror(errno));
        }
        high = (uint64_t)status.st_size / sizeof(Verdict);
    }
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (fseeko(p->verdicts, (off_t)(middle * sizeof(Verdict)), SEEK_SET) ||
            !verdict_next_(p, e)) {
            return fail(e, "%s/verdicts: cannot be read: %s", p->work, strerror(errno));
        }
        *(p->verdict.document < p->candidate ? &low : &high) =
            middle + (p->verdict.document < p->candidate);
    }
    return (!p->verdicts || fseeko(p->verdicts, (off_t)(low * sizeof(Verdict)), SEEK_SET) == 0 ||
            fail(e, "%s/verdicts: cannot be read: %s", p->work, strerror(errno))) &&
           verdict_next_(p, e);
}

// Looks up which documents of the batch are left out.
static inline bool batch_decide_(Preparation *p, Error *e) {
    for (size_t i = 0; i < p->batch.document_count; i++) {
        BatchDocument *d = &p->batch.documents[i];
        if (d->begins) {
            p->dropping = false;
        }
        if (d->begins && d->state == DOCUMENT_TAKEN && d->text_length > 0) {
            p->dropping = p->verdict.document == p->candidate++;
            p->dropped = p->verdict;
            if (p->dropping && !verdict_next_(p, e)) {
                return false;
            }
        }
        d->verdict = p->dropped;
        d->state = p->dropping ? DOCUMENT_COLLECTED : d->state;
    }
    return true;
}

static inline void piece_encode_(Preparation *p, BatchPiece *piece, int worker) {
    Worker *w = &p->workers[worker];
    piece->worker = worker;
    piece->first_token = w->tokens.count;
    int part = (piece->continues ? TEXT_NOT_FIRST : 0) | (piece->goes_on ? TEXT_NOT_LAST : 0);
    w->ok = w->ok && encoder_encode_chunk(&w->encoder, piece->text, piece->length, part, &w->tokens,
                                         &w->error);
    piece->token_count = w->tokens.count - piece->first_token;
}

static inline bool batch_encode_(Preparation *p, Error *e) {
    Batch *b = &p->batch;
    if (p->tokenizer.model == MODEL_BYTE_BPE) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->worker_count)
        for (size_t i = 0; i < b->piece_count; i++) {
            piece_encode_(p, &b->pieces[i], omp_get_thread_num());
        }
        return workers_check_(p, e);
    }
    // Of other kinds one encoder must get the pieces of a document in their order.
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->worker_count)
    for (size_t i = 0; i < b->document_count; i++) {
        const BatchDocument *d = &b->documents[i];
        int worker =
            b->document_count > 1 ? omp_get_thread_num() : 0; // a part of one: always the same
        for (size_t k = 0; k < d->piece_count; k++) {
            piece_encode_(p, &b->pieces[d->first_piece + k], worker);
        }
    }
    return workers_check_(p, e);
}

// ------------------------------------------------------------------------------------------------
// The sample for the tokenizer

static inline int sample_by_rank_(const void *a, const void *b) {
    const SamplePiece *x = a, *y = b;
    return x->rank != y->rank ? (x->rank < y->rank ? -1 : 1)
                              : (x->length > y->length) - (x->length < y->length);
}

static inline void sample_sort_(Preparation *p) {
    if (p->sample_count > 1) {
        qsort(p->sample, p->sample_count, sizeof *p->sample, sample_by_rank_);
    }
}

// At most a terabyte, so that the sums over ranks cannot overflow.
static inline uint64_t sample_limit_(const Preparation *p) {
    return min_u64(p->options->tokenizer_sample, (uint64_t)1 << 40);
}

static inline uint64_t sample_cost_(const SamplePiece *piece) {
    return piece->length + sizeof *piece;
}

// Sorts the pieces by rank and drops those above what `limit` bytes hold.
static inline void sample_trim_(Preparation *p, uint64_t limit) {
    size_t kept = 0;
    uint64_t bytes = 0;
    sample_sort_(p);
    while (kept < p->sample_count && bytes + sample_cost_(&p->sample[kept]) <= limit) {
        bytes += sample_cost_(&p->sample[kept++]);
    }
    if (kept < p->sample_count) {
        p->sample_threshold = p->sample[kept].rank;
    }
    for (size_t i = kept; i < p->sample_count; i++) {
        free(p->sample[i].text);
    }
    p->sample_count = kept;
    p->sample_bytes = bytes;
}

// Adds a piece to the sample. Every piece has a random rank, and the sample is the pieces of lowest
// rank, as many as the limit holds. So each piece has the same chance, the size of the corpus need
// not be known, and it does not matter which rank of the run meets which piece.
static inline bool sample_piece_(Preparation *p, const char *text, size_t length, Error *e) {
    const uint64_t limit = sample_limit_(p);
    uint64_t document = random_bits(p->options->seed, p->document.source, p->document.offset);
    uint64_t rank = random_bits(document, RANDOM_SAMPLE, p->pieces);
    if (rank >= p->sample_threshold) {
        return true;
    }
    if (length > limit / 16) { // so that no piece fills the sample
        length = limit / 16;
        while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) {
            length--;
        }
    }
    if (!array_reserve(&p->sample, &p->sample_capacity, p->sample_count, 1, sizeof *p->sample, e)) {
        return false;
    }
    SamplePiece piece = {rank, malloc(length + 1), length};
    if (!piece.text) {
        return fail(e, "%s: no memory for a sample of it", prepare_source_(p)->path);
    }
    memcpy(piece.text, text, length);
    p->sample[p->sample_count++] = piece;
    p->sample_bytes += sample_cost_(&piece);
    if (p->sample_bytes > limit + limit / 4) {
        sample_trim_(p, limit);
    }
    return true;
}

static inline void sample_free_(Preparation *p) {
    for (size_t i = 0; i < p->sample_count; i++) {
        free(p->sample[i].text);
    }
    free(p->sample);
    p->sample = NULL;
    p->sample_count = p->sample_capacity = 0;
}

// Collective: the pieces of lowest rank over all ranks of the run that fit into the limit stay.
// What the first rank beyond them is, is found bit by bit.
static inline void sample_agree_(Preparation *p) {
    const uint64_t limit = sample_limit_(p);
    uint64_t beyond = 0; // all pieces of a rank below this fit
    sample_trim_(p, limit);
    for (int bit = 63; bit >= 0; bit--) {
        uint64_t candidate = beyond | (uint64_t)1 << bit,
                 bytes = candidate > p->sample_threshold ? limit + 1 : 0;
        for (size_t i = 0; i < p->sample_count && p->sample[i].rank < candidate; i++) {
            bytes += sample_cost_(&p->sample[i]);
        }
        MPI_Allreduce(MPI_IN_PLACE, &bytes, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
        beyond = bytes <= limit ? candidate : beyond;
    }
    while (p->sample_count > 0 && p->sample[p->sample_count - 1].rank >= beyond) {
        free(p->sample[--p->sample_count].text);
    }
}

// Takes the pieces that another rank sent.
static inline bool sample_unpack_(Preparation *p, const char *data, size_t bytes, Error *e) {
    for (size_t at = 0; at < bytes;) {
        SamplePiece piece;
        if (!array_reserve(&p->sample, &p->sample_capacity, p->sample_count, 1, sizeof piece, e)) {
            return false;
        }
        memcpy(&piece.rank, data + at, sizeof piece.rank);
        memcpy(&piece.length, data + at + sizeof piece.rank, sizeof piece.length);
        at += sizeof piece.rank + sizeof piece.length;
        piece.text = malloc(piece.length + 1);
        if (!piece.text) {
            return fail(e, "prepare: no memory for the sample for the tokenizer");
        }
        memcpy(piece.text, data + at, piece.length);
        at += piece.length;
        p->sample[p->sample_count++] = piece;
    }
    return true;
}

// Collective: all pieces come to rank 0, in the order of their ranks.
static inline bool sample_gather_(Preparation *p, Error *e) {
    JsonWriter packed = {0}; // as a buffer that grows
    bool ok = true;
    for (size_t i = 0; i < p->sample_count && p->world->rank > 0; i++) {
        json_append(&packed, (const char *)&p->sample[i].rank, sizeof p->sample[i].rank);
        json_append(&packed, (const char *)&p->sample[i].length, sizeof p->sample[i].length);
        json_append(&packed, p->sample[i].text, p->sample[i].length);
    }
    if (p->world->rank > 0) {
        ok = !packed.failed || fail(e, "prepare: no memory to send the sample for the tokenizer");
        send_bytes(0, packed.data, ok ? packed.length : 0);
    }
    for (int rank = 1; rank < p->world->size && p->world->rank == 0; rank++) {
        size_t bytes;
        char *data = receive_bytes(rank, &bytes);
        ok = ok && sample_unpack_(p, data, bytes, e);
        free(data);
    }
    free(packed.data);
    sample_sort_(p);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// A batch goes into the part files

static inline bool part_tokens_(PartFile *f, int token_bytes, const int32_t *ids, size_t count,
                                Error *e) {
    unsigned char raw[8192];
    size_t block = sizeof raw / (size_t)token_bytes;
    for (size_t done = 0; done < count;) {
        size_t n = min_u64(count - done, block);
        for (size_t i = 0; i < n; i++) {
            store_le(raw + i * (size_t)token_bytes, (uint64_t)ids[done + i], token_bytes);
        }
        if (!part_write_(f, raw, n * (size_t)token_bytes, e)) {
            return false;
        }
        done += n;
    }
    return true;
}

// uint16 ids if the vocabulary has fewer than 65500, else int32 (Megatron's rule).
enum { SMALL_VOCABULARY = 65500 };

static inline int token_bytes_(const Preparation *p) {
    return p->tokenizer.vocabulary.count < SMALL_VOCABULARY ? 2 : 4;
}

// The counts of documents, tokens and bytes of metadata of a split stand together.
static inline uint64_t *split_counts_(Counts *c, int split) {
    return split == SPLIT_TRAIN ? &c->train_documents : &c->val_documents;
}

// One line of dropped.jsonl: where the document is, and why it is not in the data. The passes
// before leave none.
static inline bool document_drop_(Preparation *p, const BatchDocument *d, DocumentState state,
                                  Error *e) {
    JsonWriter w = {0};
    if (p->pass != PASS_ENCODE) {
        return true;
    }
    json_open(&w, NULL, '{');
    json_put_string(&w, "source", prepare_source_(p)->path);
    json_put_uint(&w, "offset", d->offset);
    json_put_uint(&w, "bytes", d->length);
    if (d->id.length) {
        json_begin_member_(&w, "id");
        json_append(&w, stored_(p, d, d->id), d->id.length);
    }
    json_put_string(&w, "reason",
                    state == DOCUMENT_COLLECTED
                        ? collect_reason_name((CollectReason)d->verdict.reason)
                        : dropped_reasons_[state]);
    if (state == DOCUMENT_REJECTED) {
        size_t colon = d->why.length > 2 ? 2 : 0; // the text begins with ": "
        json_put_text(&w, "detail", stored_(p, d, d->why) + colon, d->why.length - colon);
    } else if (state == DOCUMENT_COLLECTED) {
        bool whole = d->verdict.reason == COLLECT_SHORT || d->verdict.reason == COLLECT_LONG;
        whole ? json_put_uint(&w, "value", (uint64_t)d->verdict.value)
              : json_put_double(&w, "value", d->verdict.value);
    }
    if (state == DOCUMENT_COLLECTED && d->verdict.reason >= COLLECT_EXACT) {
        json_open(&w, "duplicate_of", '{');
        json_put_string(&w, "source", p->sources.items[d->verdict.of_source].path);
        json_put_uint(&w, "offset", d->verdict.of_offset);
        json_close(&w, '}');
    }
    json_close(&w, '}');
    json_append(&w, "\n", 1);
    p->result.counts.dropped_bytes += w.length;
    bool ok = (!w.failed ||
               fail(e, "%s: no memory for a line of dropped.jsonl", prepare_source_(p)->path)) &&
              part_write_(&p->parts.dropped, w.data, w.length, e);
    free(w.data);
    return ok;
}

static inline bool document_reject_(Preparation *p, const BatchDocument *d, Error *e) {
    UnitResult *r = &p->result;
    if (r->note_count < REPORT_NOTES) {
        char *why = strndup(stored_(p, d, d->why), d->why.length);
        if (!why) {
            return fail(e, "%s: no memory for a note", prepare_source_(p)->path);
        }
        r->notes[r->note_count++] = (Note){d->line, why};
    }
    r->counts.rejected_lines++;
    return document_drop_(p, d, DOCUMENT_REJECTED, e);
}

// Which split a document goes to depends on the seed, its source and its offset alone.
static inline void document_begin_(Preparation *p, const BatchDocument *d) {
    uint32_t source = p->units[p->unit].source;
    uint64_t place = random_bits(source, RANDOM_SPLIT, d->offset);
    p->document = (DocumentRecord){.offset = d->offset, .source = source};
    p->split = random_uniform(p->options->seed, RANDOM_SPLIT, place) < p->options->val_fraction;
    p->text_bytes = p->pieces = 0;
}

static inline bool document_piece_(Preparation *p, const BatchPiece *piece, Error *e) {
    p->text_bytes += piece->length;
    if (p->pass == PASS_SAMPLE) {
        bool ok = sample_piece_(p, piece->text, piece->length, e);
        p->pieces++;
        return ok;
    }
    p->document.tokens += piece->token_count;
    return part_tokens_(&p->parts.files[p->split][PART_BIN], token_bytes_(p),
                        p->workers[piece->worker].tokens.ids + piece->first_token,
                        piece->token_count, e);
}

static inline bool document_end_(Preparation *p, const BatchDocument *d, Error *e) {
    PartFile *files = p->parts.files[p->split];
    Counts *c = &p->result.counts;
    uint64_t *split = split_counts_(c, p->split);
    unsigned char record[DOCS_RECORD];
    if (p->text_bytes == 0) {
        c->empty++;
        return document_drop_(p, d, DOCUMENT_EMPTY, e);
    }
    c->documents++;
    c->text_bytes += p->text_bytes;
    p->mine.documents++;
    if (p->pass == PASS_SCAN) {
        unsigned char place[8];
        store_le(place, d->offset, 8);
        return part_write_(&p->parts.records, stored_(p, d, d->record), d->record.length, e) &&
               part_write_(&p->parts.places, place, sizeof place, e);
    }
    if (p->pass == PASS_SAMPLE) {
        return true;
    }
    p->document.length = d->length;
    p->document.tokens++;
    p->document.metadata = split[2];
    p->document.metadata_length = (uint32_t)d->metadata.length;
    docs_store(record, &p->document);
    c->tokens += p->document.tokens;
    split[0] += 1;
    split[1] += p->document.tokens;
    split[2] += d->metadata.length + (d->metadata.length > 0);
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        if (d->has_facet[f] &&
            !origin_add_(&p->result.origin[f], ORIGIN_UNIT_VALUES, stored_(p, d, d->facets[f]),
                         d->facets[f].length, 1, p->document.tokens, e)) {
            return false;
        }
    }
    return part_tokens_(&files[PART_BIN], token_bytes_(p), &p->tokenizer.end_of_document, 1, e) &&
           part_write_(&files[PART_DOCS], record, sizeof record, e) &&
           (d->metadata.length == 0 ||
            (part_write_(&files[PART_META], stored_(p, d, d->metadata), d->metadata.length, e) &&
             part_write_(&files[PART_META], "\n", 1, e)));
}

static inline bool document_write_(Preparation *p, const BatchDocument *d, Error *e) {
    if (d->state == DOCUMENT_BLANK_LINE) {
        p->result.counts.blank_lines++;
        return document_drop_(p, d, DOCUMENT_BLANK_LINE, e);
    }
    if (d->state == DOCUMENT_REJECTED) {
        return document_reject_(p, d, e);
    }
    if (d->state == DOCUMENT_COLLECTED) {
        *count_dropped(&p->result.counts, (CollectReason)d->verdict.reason) += d->ends;
        return !d->ends || document_drop_(p, d, DOCUMENT_COLLECTED, e);
    }
    p->result.counts.replaced += d->replaced;
    if (d->begins) {
        document_begin_(p, d);
    }
    p->text_bytes += p->pass == PASS_SCAN ? d->text_length : 0;
    for (size_t i = 0; i < d->piece_count; i++) {
        if (!document_piece_(p, &p->batch.pieces[d->first_piece + i], e)) {
            return false;
        }
    }
    return !d->ends || document_end_(p, d, e);
}

// Reads, works on and writes the next documents of the unit.
static inline bool batch_run_(Preparation *p, Reader *r, Error *e) {
    Batch *b = &p->batch;
    const bool lines = r->source->kind == SOURCE_JSON_LINES;
    size_t used = 0;
    b->document_count = b->piece_count = 0;
    workers_reset_(p);
    if (!(lines ? batch_read_lines_(p, r, e) && batch_parse_(p, e) : batch_read_text_(p, r, e)) ||
        (p->pass != PASS_SCAN && !batch_decide_(p, e))) {
        return false;
    }
    if (!lines && p->pass == PASS_SCAN &&
        !document_scan_(p, p->workers, b->documents, b->documents->text, b->documents->text_length,
                        e)) {
        return false;
    }
    for (size_t i = 0; i < b->document_count; i++) {
        if (!document_cut_(p, &b->documents[i], &used, e)) {
            return false;
        }
    }
    if (p->pass == PASS_ENCODE && !batch_encode_(p, e)) {
        return false;
    }
    for (size_t i = 0; i < b->document_count; i++) {
        if (!document_write_(p, &b->documents[i], e)) {
            return false;
        }
    }
    if (!lines && used) {
        p->pending_length -= used;
        memmove(p->pending, p->pending + used, p->pending_length);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// The ranks keep together

static inline double seconds_between_(struct timespec a, struct timespec b) {
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

static inline uint64_t sources_bytes_(const Preparation *p) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < p->sources.count; i++) {
        bytes += p->sources.items[i].bytes;
    }
    return bytes;
}

// One line for people: how far the pass is.
static inline void pulse_show_(const Preparation *p, struct timespec now) {
    const double seconds = seconds_between_(p->began, now) + 1e-9,
                 total = (double)sources_bytes_(p) + 1e-9;
    const double done = (double)(p->resumed_bytes + p->all.source_bytes);
    const double share = p->pulse_over ? 1 : done < total ? done / total : 1;
    const double left = (total - done) / ((double)p->all.source_bytes / seconds + 1e-9);
    FILE *out = p->options->progress;
    if (!out || p->world->rank != 0) {
        return;
    }
    fprintf(out, "%s: %.0f %% of %.1f MB, %.1f MB of text, %.1f MB/s, %llu documents",
            pass_titles_[p->pass], 100 * share, total / 1e6, (double)p->all.text_bytes / 1e6,
            (double)p->all.text_bytes / 1e6 / seconds, (unsigned long long)p->all.documents);
    p->pulse_over || p->all.source_bytes == 0
        ? fprintf(out, "\n")
        : fprintf(out, ", %.0f s left\n", left < 0 ? 0 : left);
    fflush(out);
}

// Every rank calls this often. About once a second the ranks add up how far they are; when all have
// finished or one has failed, the pass is over on all of them. Nobody waits in here.
static inline void pulse_(Preparation *p) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (p->pulse_over) {
        return;
    }
    if (!p->pulse_under_way &&
        (p->mine.finished || p->mine.failed || seconds_between_(p->pulsed, now) >= 1)) {
        static_assert(sizeof(Pulse) == PULSE_FIELDS * sizeof(uint64_t), "a Pulse is numbers only");
        p->sent = p->mine;
        MPI_Iallreduce(&p->sent, &p->all, PULSE_FIELDS, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD,
                       &p->request);
        p->pulse_under_way = true;
    }
    int arrived = 0;
    if (p->pulse_under_way) {
        MPI_Test(&p->request, &arrived, MPI_STATUS_IGNORE);
    }
    if (arrived) {
        p->pulse_under_way = false;
        p->pulse_over = p->all.failed || p->all.finished == (uint64_t)p->world->size;
        if (!p->all.failed && (p->pulse_over || seconds_between_(p->shown, now) >= 1)) {
            pulse_show_(p, now);
            p->shown = now;
        }
        p->pulsed = now;
    }
}

// Says that this rank has nothing more to do and waits until the pass is over. `ok`: whether all
// went well here.
static inline void pulse_finish_(Preparation *p, bool ok) {
    p->mine.finished = 1;
    p->mine.failed = !ok;
    while (!p->pulse_over) {
        pulse_(p);
        if (!p->pulse_over) {
            usleep(200);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// A pass: every unit that is not whole yet, by one rank each

static inline bool unit_begin_(Preparation *p, size_t unit, Error *e) {
    p->unit = unit;
    p->lines = 0;
    p->pending_length = 0;
    unit_result_free_(&p->result);
    char name[32];
    bool ok = true;
    for (int s = 0; s < SPLITS; s++) {
        for (int k = 0; k < PART_KINDS; k++) {
            snprintf(name, sizeof name, "%s.%s", split_names_[s], part_names_[k]);
            p->parts.files[s][k].file = NULL;
            ok = ok && part_path_(p->parts.files[s][k].path, p, unit, name, e);
        }
    }
    p->parts.dropped.file = p->parts.records.file = p->parts.places.file = NULL;
    return ok && part_path_(p->parts.dropped.path, p, unit, "dropped", e) &&
           part_path_(p->parts.records.path, p, unit, "records", e) &&
           part_path_(p->parts.places.path, p, unit, "places", e) &&
           (p->pass == PASS_SCAN || verdict_seek_(p, unit, e));
}

// Bytes of the unit's source that the reader has taken.
static inline uint64_t unit_bytes_read_(const Preparation *p, const Reader *r) {
    off_t at = r->source->compression ? lseek(r->input, 0, SEEK_CUR)
                                      : 0; // what the decompressor has taken
    uint64_t bytes =
        r->source->compression ? (at > 0 ? (uint64_t)at : 0) : r->offset - p->units[p->unit].begin;
    return min_u64(bytes, p->units[p->unit].bytes);
}

static inline bool unit_run_(Preparation *p, size_t unit, Error *e) {
    const Unit *u = &p->units[unit];
    const uint64_t before = p->mine.source_bytes;
    char path[PATH_LIMIT], name[32];
    Reader r = {.input = -1, .file = -1, .source = &p->sources.items[u->source]};
    JsonWriter w = {0};
    bool ok = unit_begin_(p, unit, e) && reader_open_(&r, r.source, u->begin, u->end, e);
    bool more = r.source->kind == SOURCE_TEXT || r.offset < u->end;
    while (ok && more && !p->pulse_over) {
        ok = batch_run_(p, &r, e);
        more = r.offset < u->end && !(r.ended && r.start == r.end);
        p->mine.source_bytes = before + unit_bytes_read_(p, &r);
        pulse_(p);
    }
    const bool stopped = ok && more; // as another rank has failed
    ok = reader_close_(&r, ok && !stopped, stopped ? &(Error){{0}} : e);
    ok = parts_close_(&p->parts, ok, stopped ? &(Error){{0}} : e);
    if (!ok) {
        return stopped;
    }
    p->mine.source_bytes = before + u->bytes;
    p->result.counts.lines = r.source->kind == SOURCE_JSON_LINES ? p->lines : 0;
    unit_result_put_(&w, &p->result);
    snprintf(name, sizeof name, "%s.json", pass_names_[p->pass]);
    ok = part_path_(path, p, unit, name, e) && write_whole_(path, &w, e);
    free(w.data);
    return ok;
}

typedef struct {
    uint64_t bytes;
    size_t index;
} Share_;

static inline int share_by_size_(const void *a, const void *b) {
    const Share_ *x = a, *y = b;
    return x->bytes != y->bytes ? (x->bytes > y->bytes ? -1 : 1)
                                : (x->index > y->index) - (x->index < y->index);
}

// Which rank does what: the largest first, each to the rank with the least to do (Graham 1969).
// Every rank computes the same. mine[i] says whether task i, of bytes[i], is this rank's.
static inline bool share_out_(const World *w, const uint64_t *bytes, size_t count, bool *mine,
                              Error *e) {
    Share_ *shares = malloc((count + 1) * sizeof *shares);
    Heap ranks = {0}; // by bytes so far
    bool ok = shares || fail(e, "prepare: no memory to share %zu tasks out", count);
    for (size_t i = 0; ok && i < count; i++) {
        shares[i] = (Share_){bytes[i], i};
        mine[i] = false;
    }
    for (int r = 0; ok && r < w->size; r++) {
        ok = heap_push(&ranks, (HeapEntry){0, (uint64_t)r, (uint32_t)r}, e);
    }
    if (ok) {
        qsort(shares, count, sizeof *shares, share_by_size_);
    }
    for (size_t i = 0; ok && i < count; i++) {
        HeapEntry rank = heap_pop(&ranks);
        mine[shares[i].index] = (int)rank.item == w->rank;
        rank.major += shares[i].bytes + 1;
        ok = heap_push(&ranks, rank, e);
    }
    free(ranks.entries);
    free(shares);
    return ok;
}

static inline bool part_check_(const Preparation *p, size_t unit, const char *name, uint64_t bytes,
                               Error *e) {
    char path[PATH_LIMIT];
    struct stat status;
    return bytes == 0 || (part_path_(path, p, unit, name, e) &&
                          ((stat(path, &status) == 0 && (uint64_t)status.st_size == bytes) ||
                           fail(e, "%s: should have %llu bytes", path, (unsigned long long)bytes)));
}

// Rank 0: reads what the pass found in a unit; its part files must be as long as they should be.
static inline bool unit_load_(const Preparation *p, size_t unit, UnitResult *r, Error *e) {
    char path[PATH_LIMIT], name[32];
    snprintf(name, sizeof name, "%s.json", pass_names_[p->pass]);
    *r = (UnitResult){0};
    if (!part_path_(path, p, unit, name, e) || !unit_result_load_(r, path, e)) {
        return false;
    }
    if (p->pass == PASS_SCAN) {
        return part_check_(p, unit, "records",
                           r->counts.documents * collect_record_size(&p->options->collect), e) &&
               part_check_(p, unit, "places", 8 * r->counts.documents, e);
    }
    for (int s = 0; s < SPLITS && p->pass == PASS_ENCODE; s++) {
        const uint64_t *split = split_counts_(&r->counts, s);
        const uint64_t bytes[PART_KINDS] = {split[1] * (uint64_t)token_bytes_(p),
                                            split[0] * DOCS_RECORD, split[2]};
        for (int k = 0; k < PART_KINDS; k++) {
            snprintf(name, sizeof name, "%s.%s", split_names_[s], part_names_[k]);
            if (!part_check_(p, unit, name, bytes[k], e)) {
                return false;
            }
        }
    }
    return part_check_(p, unit, "dropped", r->counts.dropped_bytes, e);
}

// Collective: finds the units that an earlier run has left whole. A sampling pass leaves no parts
// to go on with.
static inline void pass_resume_(Preparation *p) {
    size_t whole = 0;
    p->resumed_bytes = 0;
    memset(p->whole, 0, p->unit_count * sizeof *p->whole);
    for (size_t u = 0; u < p->unit_count && p->resuming && p->pass != PASS_SAMPLE; u++) {
        UnitResult r;
        Error why;
        p->whole[u] = unit_load_(p, u, &r, &why);
        whole += p->whole[u];
        p->resumed_bytes += p->whole[u] ? p->units[u].bytes : 0;
        unit_result_free_(&r);
    }
    if (whole && p->options->progress) {
        fprintf(p->options->progress, "%s: going on with %zu of %zu parts done\n",
                pass_titles_[p->pass], whole, p->unit_count);
    }
    broadcast(p->whole, p->unit_count * sizeof *p->whole);
}

// A note as a line: "FILE:LINE: what is wrong". `before` counts the lines of the source in front of
// the unit.
static inline void note_format_(char *out, const Source *source, uint64_t before,
                                const Note *note) {
    snprintf(out, NOTE_LIMIT, "%s:%llu%.500s", source->path,
             (unsigned long long)(before + note->line), note->why);
    utf8_trim_(out);
}

// Adds what the pass found in a unit to its source and to the report; `first` gets the note on the
// source's first rejected line.
static inline bool unit_collect_(Preparation *p, const UnitResult *r, Source *s,
                                 char first[NOTE_LIMIT], Error *e) {
    for (size_t i = 0; i < r->note_count; i++) {
        char note[NOTE_LIMIT];
        note_format_(note, s, s->counts.lines, &r->notes[i]);
        if (s->counts.rejected_lines == 0 && i == 0) {
            memcpy(first, note, sizeof note);
        }
        if (p->report->note_count < REPORT_NOTES) {
            memcpy(p->report->notes[p->report->note_count++], note, sizeof note);
        }
    }
    counts_add_(&s->counts, &r->counts);
    counts_add_(&p->report->counts, &r->counts);
    return origins_add_(s->origin, r->origin, e);
}

// Whether there is enough to go on with.
static inline bool report_check_(const Preparation *p, Error *e) {
    const Counts *c = &p->report->counts;
    const char *input = p->options->inputs[0];
    uint64_t dropped = 0;
    for (int reason = COLLECT_SHORT; reason < COLLECT_REASONS; reason++) {
        dropped += *count_dropped((Counts *)c, (CollectReason)reason);
    }
    if (c->documents == 0) {
        return dropped ? fail(e, "%s: the filters leave none of its %llu documents", input,
                              (unsigned long long)dropped)
                       : fail(e, "%s: there is no document with any text in the input", input);
    }
    return c->documents > 1 || p->options->val_fraction == 0 ||
           fail(e,
                "%s: holds a single document, which cannot be split: use --val-fraction 0 or more "
                "documents",
                input);
}

// Rank 0: adds up what the pass found, per source and in all.
static inline bool pass_collect_(Preparation *p, Error *e) {
    char first[NOTE_LIMIT] = "";
    bool ok = true;
    p->report->counts = (Counts){0};
    p->report->note_count = 0;
    for (size_t i = 0; i < p->sources.count; i++) {
        p->sources.items[i].counts = (Counts){0};
        origins_free_(p->sources.items[i].origin);
    }
    for (size_t u = 0; ok && u < p->unit_count; u++) {
        Source *s = &p->sources.items[p->units[u].source];
        bool last = u + 1 == p->unit_count || p->units[u + 1].source != p->units[u].source;
        UnitResult r;
        ok = unit_load_(p, u, &r, e) && unit_collect_(p, &r, s, first, e);
        p->counts[u] = r.counts;
        unit_result_free_(&r);
        uint64_t filled = s->counts.lines - s->counts.blank_lines,
                 rejected = s->counts.rejected_lines;
        if (ok && last && rejected > 0 && rejected >= filled - rejected) {
            ok = fail(e, "%s: %llu of %llu lines hold no document, so something is wrong: %.500s",
                      s->path, (unsigned long long)rejected, (unsigned long long)filled, first);
        }
    }
    return ok && report_check_(p, e);
}

// Collective: takes all units through a pass. Afterwards every rank has their counts. On failure
// the line is printed.
static inline bool pass_run_(Preparation *p, PassKind pass) {
    Error e = {{0}};
    uint64_t *bytes = calloc(p->unit_count + 1, sizeof *bytes);
    bool *mine = calloc(p->unit_count + 1, sizeof *mine);
    p->pass = pass;
    p->mine = p->all = (Pulse){0};
    p->pulse_over = p->pulse_under_way = false;
    bool ok =
        world_check(p->world, (bytes && mine) || fail(&e, "prepare: no memory for its tasks"), &e);
    if (ok) {
        pass_resume_(p);
        for (size_t u = 0; u < p->unit_count; u++) {
            bytes[u] = p->whole[u] ? 0 : p->units[u].bytes;
        }
        ok = world_check(p->world, share_out_(p->world, bytes, p->unit_count, mine, &e), &e);
    }
    if (!ok) {
        free(bytes);
        free(mine);
        return false;
    }
    clock_gettime(CLOCK_MONOTONIC, &p->began);
    p->pulsed = p->shown = p->began;
    for (size_t u = 0; ok && u < p->unit_count && !p->pulse_over; u++) {
        ok = p->whole[u] || !mine[u] || unit_run_(p, u, &e);
    }
    free(bytes);
    free(mine);
    pulse_finish_(p, ok);
    ok = world_check(p->world, ok, &e);
    ok = ok && world_check_root(p->world, p->world->rank != 0 || pass_collect_(p, &e), &e);
    if (ok) {
        broadcast(p->counts, p->unit_count * sizeof *p->counts);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Hashes of many files, by all threads of all ranks

enum { HEX_HASH = 65 };

// Collective: hashes[i] gets the SHA-256 of paths[i], of about bytes[i], on all ranks. On failure
// the line is printed.
static inline bool hash_files_(World *world, const char *const *paths, const uint64_t *bytes,
                               size_t count, char (*hashes)[HEX_HASH]) {
    Error e = {{0}};
    bool *mine = calloc(count + 1, sizeof *mine),
         ok = mine || fail(&e, "prepare: no memory to hash %zu files", count);
    ok = ok && share_out_(world, bytes, count, mine, &e);
    memset(hashes, 0, count * sizeof *hashes);
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < count; i++) {
        Error mine_e;
        if (ok && mine[i] && !sha256_file(paths[i], hashes[i], &mine_e)) {
#pragma omp critical
            {
                e = mine_e;
                ok = false;
            }
        }
    }
    free(mine);
    for (size_t i = 0; i < count; i += MESSAGE_ELEMENTS / HEX_HASH) {
        size_t n = min_u64(count - i, MESSAGE_ELEMENTS / HEX_HASH);
        MPI_Allreduce(MPI_IN_PLACE, hashes[i], (int)(n * HEX_HASH), MPI_BYTE, MPI_BOR,
                      MPI_COMM_WORLD);
    }
    return world_check(world, ok, &e);
}

// Collective: the sources' hashes; each must still be what it was when the run began.
static inline bool hash_sources_(Preparation *p) {
    const size_t count = p->sources.count;
    Error e = {{0}};
    const char **paths = malloc((count + 1) * sizeof *paths);
    uint64_t *bytes = malloc((count + 1) * sizeof *bytes);
    char(*hashes)[HEX_HASH] = malloc((count + 1) * sizeof *hashes);
    bool ok = (paths && bytes && hashes) || fail(&e, "prepare: no memory to hash %zu files", count);
    ok = world_check(p->world, ok, &e);
    for (size_t i = 0; ok && i < count; i++) {
        paths[i] = p->sources.items[i].path;
        bytes[i] = p->sources.items[i].bytes;
    }
    if (ok && hash_files_(p->world, paths, bytes, count, hashes)) {
        for (size_t i = 0; ok && i < count && p->world->rank == 0; i++) {
            memcpy(p->sources.items[i].hash, hashes[i], HEX_HASH);
            ok = source_unchanged_(&p->sources.items[i], &e);
        }
        ok = world_check(p->world, ok, &e);
    } else {
        ok = false;
    }
    free(paths);
    free(bytes);
    free(hashes);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// The parts become the files of a split
//
// SPLIT.idx   one sequence a document; only a document of more than SEQUENCE_LIMIT tokens has
// several, since a
//             sequence's length is an int32. Made from SPLIT.docs, so memory does not grow with the
//             corpus.

enum { SEQUENCE_LIMIT = 1 << 30 };

// A stretch of documents that a unit gives to a split.
typedef struct {
    size_t unit;
    int from; // the split whose part files hold it
    uint64_t documents, first_document, tokens, first_token, meta_bytes, first_meta;
} Segment;

typedef struct {
    const char *name;
    char paths[PART_KINDS][PATH_LIMIT], idx_path[PATH_LIMIT];
    char hashes[PART_KINDS][HEX_HASH], idx_hash[HEX_HASH], index_hash[HEX_HASH],
        sums_hash[HEX_HASH];
    uint64_t documents, tokens, meta_bytes;
    Segment *segments;
    size_t segment_count;
} Shard;

static inline uint64_t shard_bytes_(const Preparation *p, const Shard *s, int kind) {
    return kind == PART_BIN    ? s->tokens * (uint64_t)token_bytes_(p)
           : kind == PART_DOCS ? DOCS_HEADER + DOCS_RECORD * s->documents
                               : s->meta_bytes;
}

static inline bool shard_part_path_(char *path, const Preparation *p, const Segment *g, int kind,
                                    Error *e) {
    char name[32];
    snprintf(name, sizeof name, "%s.%s", split_names_[g->from], part_names_[kind]);
    return part_path_(path, p, g->unit, name, e);
}

static inline void shard_sum_up_(Shard *s) {
    s->documents = s->tokens = s->meta_bytes = 0;
    for (size_t i = 0; i < s->segment_count; i++) {
        s->documents += s->segments[i].documents;
        s->tokens += s->segments[i].tokens;
        s->meta_bytes += s->segments[i].meta_bytes;
    }
}

// The last document of `from` goes to `to`, which has none.
static inline bool shard_move_last_(const Preparation *p, Shard *to, Shard *from, Error *e) {
    unsigned char record[DOCS_RECORD];
    char path[PATH_LIMIT];
    size_t last = from->segment_count;
    while (last > 0 && from->segments[last - 1].documents == 0) {
        last--;
    }
    Segment *g = &from->segments[last - 1];
    if (!shard_part_path_(path, p, g, PART_DOCS, e)) {
        return false;
    }
    int docs = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = (docs >= 0 || fail(e, "%s: cannot be read: %s", path, strerror(errno))) &&
              read_at(docs, path, record, DOCS_RECORD, (g->documents - 1) * DOCS_RECORD, e);
    if (docs >= 0) {
        close(docs);
    }
    if (ok) {
        DocumentRecord d = docs_load(record);
        uint64_t meta = g->meta_bytes - d.metadata;
        g->documents--;
        g->tokens -= d.tokens;
        g->meta_bytes = d.metadata;
        to->segments[to->segment_count++] =
            (Segment){g->unit, g->from, 1, g->documents, d.tokens, g->tokens, meta, d.metadata};
    }
    shard_sum_up_(from);
    shard_sum_up_(to);
    return ok;
}

// Says what goes into which split. If the random split leaves one side without a document, it gets
// the last one.
static inline bool shards_plan_(const Preparation *p, Shard shards[SPLITS], Error *e) {
    const bool split = p->options->val_fraction > 0;
    for (int s = 0; s < SPLITS; s++) {
        Shard *shard = &shards[s];
        shard->name = split_names_[s];
        shard->segments = calloc(p->unit_count + 1, sizeof *shard->segments);
        if (!shard->segments) {
            return fail(e, "prepare: no memory for %zu units", p->unit_count);
        }
        for (size_t u = 0; u < p->unit_count; u++) {
            const uint64_t *counts = split_counts_(&p->counts[u], s);
            shard->segments[u] = (Segment){u, s, counts[0], 0, counts[1], 0, counts[2], 0};
        }
        shard->segment_count = p->unit_count;
        shard_sum_up_(shard);
        for (int k = 0; k < PART_KINDS; k++) {
            if (!path_format(shard->paths[k], e, "%s/data/%s.%s", p->work, shard->name,
                             part_names_[k])) {
                return false;
            }
        }
        if (!path_format(shard->idx_path, e, "%s/data/%s.idx", p->work, shard->name)) {
            return false;
        }
    }
    Shard *train = &shards[SPLIT_TRAIN], *val = &shards[SPLIT_VAL];
    return !split || ((val->documents > 0 || shard_move_last_(p, val, train, e)) &&
                      (train->documents > 0 || shard_move_last_(p, train, val, e)));
}

// Copies `bytes` at `at` of the file `from_path` to `to_at` of an open file. In records of .docs,
// `add` is added to where the metadata is.
static inline bool copy_range_(const char *from_path, uint64_t at, uint64_t bytes, int to,
                               const char *to_path, uint64_t to_at, bool records, uint64_t add,
                               Error *e) {
    enum { BLOCK = DOCS_RECORD << 13 };
    unsigned char *block = malloc(BLOCK);
    int from = bytes ? open(from_path, O_RDONLY | O_CLOEXEC) : -1;
    bool ok =
        (block || fail(e, "%s: no memory", to_path)) &&
        (!bytes || from >= 0 || fail(e, "%s: cannot be read: %s", from_path, strerror(errno)));
    for (uint64_t done = 0, n; ok && done < bytes; done += n) {
        n = min_u64(bytes - done, BLOCK);
        ok = read_at(from, from_path, block, n, at + done, e);
        for (uint64_t i = 0; ok && records && i < n; i += DOCS_RECORD) {
            DocumentRecord d = docs_load(block + i);
            d.metadata += add;
            docs_store(block + i, &d);
        }
        ok = ok && write_at_(to, to_path, block, n, to_at + done, e);
    }
    if (from >= 0) {
        close(from);
    }
    free(block);
    return ok;
}

// Closes a file that was written by descriptor, on disk when this returns true.
static inline bool close_synced_(int file, const char *path, bool ok, Error *e) {
    if (file < 0) {
        return false;
    }
    ok = ok && (fsync(file) == 0 || fail(e, "%s: cannot be written: %s", path, strerror(errno)));
    return (close(file) == 0 || !ok ||
            fail(e, "%s: cannot be written: %s", path, strerror(errno))) &&
           ok;
}

// Writes this rank's part of one file of a split: every size-th segment to where those before it
// end.
static inline bool shard_write_(const Preparation *p, const Shard *s, int kind, Error *e) {
    uint64_t unit = kind == PART_BIN    ? (uint64_t)token_bytes_(p)
                    : kind == PART_DOCS ? DOCS_RECORD
                                        : 1;
    uint64_t to_at = kind == PART_DOCS ? DOCS_HEADER : 0, meta = 0;
    unsigned char header[DOCS_HEADER] = "TGPTDOCS";
    int file = open(s->paths[kind], O_WRONLY | O_CLOEXEC);
    bool ok = file >= 0 || fail(e, "%s: cannot be written: %s", s->paths[kind], strerror(errno));
    if (ok && kind == PART_DOCS && p->world->rank == 0) {
        store_le(header + 8, DOCS_VERSION, 4);
        store_le(header + 12, DOCS_RECORD, 4);
        store_le(header + 16, s->documents, 8);
        ok = write_at_(file, s->paths[kind], header, sizeof header, 0, e);
    }
    for (size_t i = 0; ok && i < s->segment_count; i++) {
        const Segment *g = &s->segments[i];
        uint64_t first = kind == PART_BIN    ? g->first_token
                         : kind == PART_DOCS ? g->first_document
                                             : g->first_meta;
        uint64_t count = kind == PART_BIN    ? g->tokens
                         : kind == PART_DOCS ? g->documents
                                             : g->meta_bytes;
        char from[PATH_LIMIT];
        if (i % (size_t)p->world->size == (size_t)p->world->rank) {
            ok = shard_part_path_(from, p, g, kind, e) &&
                 copy_range_(from, first * unit, count * unit, file, s->paths[kind], to_at,
                             kind == PART_DOCS, meta - g->first_meta, e);
        }
        to_at += count * unit;
        meta += g->meta_bytes;
    }
    return close_synced_(file, s->paths[kind], ok, e);
}

// Bytes of a unit's part file, from its counts.
typedef uint64_t (*PartBytes)(const Preparation *p, const Counts *counts);

// Writes this rank's share of a file that joins a part of each unit.
static inline bool parts_join_(const Preparation *p, const char *name, PartBytes bytes_of,
                               const char *path, Error *e) {
    uint64_t to_at = 0;
    int file = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = file >= 0 || fail(e, "%s: cannot be written: %s", path, strerror(errno));
    for (size_t u = 0; ok && u < p->unit_count; u++) {
        char from[PATH_LIMIT];
        uint64_t bytes = bytes_of(p, &p->counts[u]);
        if (u % (size_t)p->world->size == (size_t)p->world->rank) {
            ok = part_path_(from, p, u, name, e) &&
                 copy_range_(from, 0, bytes, file, path, to_at, false, 0, e);
        }
        to_at += bytes;
    }
    return close_synced_(file, path, ok, e);
}

static inline bool create_empty_(const char *path, Error *e) {
    int file = open(path, O_WRONLY | O_CLOEXEC | O_CREAT | O_TRUNC, 0666);
    if (file >= 0) {
        close(file);
    }
    return file >= 0 || fail(e, "%s: cannot be created: %s", path, strerror(errno));
}

// Collective: joins one part of each unit, to a file. On failure the line is printed.
static inline bool parts_join_all_(const Preparation *p, const char *name, PartBytes bytes_of,
                                   const char *path) {
    Error e = {{0}};
    bool ok = p->world->rank != 0 || create_empty_(path, &e);
    return world_check(p->world, ok, &e) &&
           world_check(p->world, parts_join_(p, name, bytes_of, path, &e), &e);
}

static inline uint64_t dropped_bytes_of_(const Preparation *p, const Counts *c) {
    (void)p;
    return c->dropped_bytes;
}

// Rank 0: what is made from the joined files of a split: .idx; for trace .index, if it is asked
// for, and .sums.
static inline bool shard_finish_(const Preparation *p, Shard *s, Error *e) {
    char data[PATH_LIMIT];
    return path_format(data, e, "%s/data", p->work) &&
           idx_write(s->idx_path, s->paths[PART_DOCS], token_bytes_(p), SEQUENCE_LIMIT, s->idx_hash,
                     e) &&
           (!p->options->index ||
            index_build(data, s->name, &p->tokenizer, p->options->progress, s->index_hash, e)) &&
           sums_build(data, s->name, s->sums_hash, e);
}

// Collective: joins the parts to train.*, val.* and dropped.jsonl. On failure the line is printed.
static inline bool prepare_join_(Preparation *p, Shard shards[SPLITS], const char *dropped,
                                 char dropped_hash[HEX_HASH]) {
    enum { SHARD_FILES = SPLITS * PART_KINDS };
    Error e = {{0}};
    const int splits = p->options->val_fraction > 0 ? SPLITS : 1, files = splits * PART_KINDS;
    const char *paths[SHARD_FILES + 1] = {dropped};
    uint64_t bytes[SHARD_FILES + 1] = {0};
    char hashes[SHARD_FILES + 1][HEX_HASH];
    bool ok = shards_plan_(p, shards, &e);
    for (int i = 0; ok && i < files; i++) {
        paths[i + 1] = shards[i / PART_KINDS].paths[i % PART_KINDS];
        bytes[i + 1] = shard_bytes_(p, &shards[i / PART_KINDS], i % PART_KINDS);
        ok = p->world->rank != 0 || create_empty_(paths[i + 1], &e);
    }
    if (!world_check(p->world, ok, &e) ||
        !parts_join_all_(p, "dropped", dropped_bytes_of_, dropped)) {
        return false;
    }
    for (int i = 0; ok && i < files; i++) {
        ok = shard_write_(p, &shards[i / PART_KINDS], i % PART_KINDS, &e);
    }
    if (!world_check(p->world, ok, &e)) {
        return false;
    }
    for (int s = 0; ok && s < splits && p->world->rank == 0; s++) {
        ok = shard_finish_(p, &shards[s], &e);
    }
    if (!world_check(p->world, ok, &e) ||
        !hash_files_(p->world, paths, bytes, (size_t)files + 1, hashes)) {
        return false;
    }
    memcpy(dropped_hash, hashes[0], HEX_HASH);
    for (int i = 0; i < files; i++) {
        memcpy(shards[i / PART_KINDS].hashes[i % PART_KINDS], hashes[i + 1], HEX_HASH);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Collection: what collect.h makes of all documents becomes WORK/verdicts

static inline bool collect_is_on_(const CollectOptions *o) {
    return o->exact || o->near_duplicates > 0 || o->min_characters > 0 ||
           o->max_characters < UINT64_MAX || o->min_japanese > 0 || o->max_repeated_lines < 1;
}

static inline uint64_t records_bytes_of_(const Preparation *p, const Counts *c) {
    return c->documents * collect_record_size(&p->options->collect);
}

static inline uint64_t places_bytes_of_(const Preparation *p, const Counts *c) {
    (void)p;
    return 8 * c->documents;
}

// The unit of a document with text.
static inline size_t unit_of_document_(const Preparation *p, uint64_t document) {
    size_t low = 0, high = p->unit_count; // it is in [low, high)
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        *(p->first_documents[middle] <= document ? &low : &high) = middle;
    }
    return low;
}

// The verdict on a document that is left out; `records` and `places` are the joined files.
static inline bool verdict_make_(const Preparation *p, const CollectResult *r, uint64_t document,
                                 int records, int places, Verdict *v, Error *e) {
    const size_t size = collect_record_size(&p->options->collect);
    unsigned char record[COLLECT_RECORD_LIMIT], place[8];
    CollectRecord measured;
    *v = (Verdict){.document = document,
                   .reason = r->reason[document],
                   .value = (double)r->similarity[document]};
    if (v->reason < COLLECT_EXACT) {
        if (!read_at(records, "records", record, size, document * size, e) ||
            !collect_load(&measured, record, "records", e)) {
            return false;
        }
        v->value = measured.value;
        return true;
    }
    v->of_source = p->units[unit_of_document_(p, r->of[document])].source;
    if (!read_at(places, "places", place, sizeof place, 8 * (uint64_t)r->of[document], e)) {
        return false;
    }
    v->of_offset = load_le(place, 8);
    return true;
}

// Rank 0: decides about all documents and writes `path`, whole or not at all.
static inline bool verdicts_write_(const Preparation *p, const char *records_path,
                                   const char *places_path, const char *path, Error *e) {
    char temporary[PATH_LIMIT], scratch[PATH_LIMIT];
    CollectResult r = {0};
    if (!path_format(temporary, e, "%s.tmp", path) ||
        !path_format(scratch, e, "%s.scratch", path) ||
        !collect_duplicates(&r, &records_path, 1, scratch, &p->options->collect, e)) {
        return false;
    }
    int records = open(records_path, O_RDONLY | O_CLOEXEC),
        places = open(places_path, O_RDONLY | O_CLOEXEC);
    FILE *file = fopen(temporary, "wb");
    bool ok = (records >= 0 && places >= 0 && file) ||
              fail(e, "%s: cannot be made: %s", path, strerror(errno));
    for (size_t d = 0; ok && d < r.documents; d++) {
        Verdict v;
        ok = r.reason[d] == COLLECT_KEPT || (verdict_make_(p, &r, d, records, places, &v, e) &&
                                             write_bytes(file, temporary, &v, sizeof v, e));
    }
    ok = (!file || close_written(file, temporary, ok ? e : &(Error){{0}})) && ok;
    ok = ok &&
         (rename(temporary, path) == 0 || fail(e, "%s: cannot be made: %s", path, strerror(errno)));
    if (records >= 0) {
        close(records);
    }
    if (places >= 0) {
        close(places);
    }
    collect_result_free(&r);
    return ok;
}

// Collective: looks at all documents and decides which stay out. On failure the line is printed.
static inline bool prepare_collect_(Preparation *p) {
    Error e = {{0}};
    World *w = p->world;
    char records[PATH_LIMIT], places[PATH_LIMIT], verdicts[PATH_LIMIT];
    p->verdict.document = UINT64_MAX;
    if (!collect_is_on_(&p->options->collect)) {
        return true;
    }
    bool there = false, ok = path_format(records, &e, "%s/records", p->work) &&
                             path_format(places, &e, "%s/places", p->work) &&
                             path_format(verdicts, &e, "%s/verdicts", p->work);
    p->first_documents = calloc(p->unit_count + 1, sizeof *p->first_documents);
    ok = ok && (p->first_documents || fail(&e, "prepare: no memory for %zu units", p->unit_count));
    for (int i = 0; ok && i < p->worker_count; i++) {
        ok = (p->workers[i].collect = collect_new(&p->options->collect, &e)) != NULL;
    }
    if (!world_check(w, ok, &e) || !pass_run_(p, PASS_SCAN)) {
        return false;
    }
    for (size_t u = 0; u < p->unit_count; u++) {
        p->first_documents[u + 1] = p->first_documents[u] + p->counts[u].documents;
    }
    there = w->rank == 0 && access(verdicts, F_OK) == 0;
    broadcast(&there, sizeof there);
    if (!there) {
        ok = parts_join_all_(p, "records", records_bytes_of_, records) &&
             parts_join_all_(p, "places", places_bytes_of_, places) &&
             world_check_root(w, w->rank != 0 || verdicts_write_(p, records, places, verdicts, &e),
                              &e);
        if (w->rank == 0) {
            unlink(records);
            unlink(places);
        }
    }
    if (!ok) {
        return false;
    }
    p->verdicts = fopen(verdicts, "rb");
    ok = p->verdicts || fail(&e, "%s: cannot be read: %s", verdicts, strerror(errno));
    return world_check(w, ok, &e);
}

// ------------------------------------------------------------------------------------------------
// Manifest

static inline void manifest_file_(JsonWriter *w, const char *key, const char *path, uint64_t bytes,
                                  const char *hash) {
    json_open(w, key, '{');
    json_put_string(w, "file", strrchr(path, '/') + 1);
    json_put_uint(w, "bytes", bytes);
    json_put_string(w, "sha256", hash);
    json_close(w, '}');
}

// An entry for a file of a split that lies in the folder.
static inline bool manifest_split_file_(const Preparation *p, JsonWriter *w, const Shard *s,
                                        const char *kind, const char *hash, Error *e) {
    char path[PATH_LIMIT];
    struct stat status;
    if (!path_format(path, e, "%s/data/%s.%s", p->work, s->name, kind)) {
        return false;
    }
    if (stat(path, &status)) {
        return fail(e, "%s: cannot be read: %s", path, strerror(errno));
    }
    manifest_file_(w, kind, path, (uint64_t)status.st_size, hash);
    return true;
}

static inline bool manifest_split_(const Preparation *p, JsonWriter *w, const Shard *s, Error *e) {
    json_open(w, s->name, '{');
    json_put_uint(w, "documents", s->documents);
    json_put_uint(w, "tokens", s->tokens);
    json_put_string(w, "dtype", token_bytes_(p) == 2 ? "uint16" : "int32");
    bool ok = manifest_split_file_(p, w, s, "bin", s->hashes[PART_BIN], e) &&
              manifest_split_file_(p, w, s, "idx", s->idx_hash, e) &&
              manifest_split_file_(p, w, s, "docs", s->hashes[PART_DOCS], e) &&
              manifest_split_file_(p, w, s, "meta", s->hashes[PART_META], e) &&
              (!p->options->index || manifest_split_file_(p, w, s, "index", s->index_hash, e)) &&
              manifest_split_file_(p, w, s, "sums", s->sums_hash, e);
    json_close(w, '}');
    return ok;
}

// The counts that people look for, of a source or of the corpus.
static inline void manifest_counts_(JsonWriter *w, const Counts *c) {
    json_put_uint(w, "documents", c->documents);
    json_put_uint(w, "tokens", c->tokens);
    json_put_uint(w, "text_bytes", c->text_bytes);
    json_put_uint(w, "empty", c->empty);
    json_put_uint(w, "blank_lines", c->blank_lines);
    json_put_uint(w, "rejected_lines", c->rejected_lines);
    for (int reason = COLLECT_SHORT; reason < COLLECT_REASONS; reason++) {
        json_put_uint(w, collect_reason_name((CollectReason)reason),
                      *count_dropped((Counts *)c, (CollectReason)reason));
    }
    json_put_uint(w, "replaced", c->replaced);
}

static inline void manifest_source_(JsonWriter *w, const Source *s) {
    json_open(w, NULL, '{');
    json_put_string(w, "path", s->path);
    json_put_uint(w, "bytes", s->bytes);
    json_put_string(w, "sha256", s->hash);
    manifest_counts_(w, &s->counts);
    origins_put_(w, s->origin);
    json_close(w, '}');
}

static inline bool manifest_text_(const Preparation *p, const Shard shards[SPLITS],
                                  const char *dropped_path, const char *dropped_hash,
                                  const char *tokenizer_hash, JsonWriter *w, Error *e) {
    const PrepareReport *r = p->report;
    json_open(w, NULL, '{');
    json_put_string(w, "format", "train_gpt prepared data");
    json_put_uint(w, "version", 1);
    json_open(w, "command", '[');
    for (size_t i = 0; i < p->options->command_count; i++) {
        json_put_string(w, NULL, p->options->command[i]);
    }
    json_close(w, ']');
    json_put_uint(w, "seed", p->options->seed);
    json_put_double(w, "val_fraction", p->options->val_fraction);
    json_put_string(w, "text_key", p->options->text_key);
    json_open(w, "tokenizer", '{');
    json_put_string(w, "path", p->options->tokenizer ? p->options->tokenizer : "tokenizer");
    json_put_bool(w, "trained", !p->options->tokenizer);
    json_put_string(w, "sha256", tokenizer_hash);
    json_put_uint(w, "vocab_size", p->tokenizer.vocabulary.count);
    json_put_uint(w, "end_of_document", (uint64_t)p->tokenizer.end_of_document);
    json_close(w, '}');
    json_open(w, "splits", '{');
    if (!manifest_split_(p, w, &shards[SPLIT_TRAIN], e) ||
        (p->options->val_fraction > 0 && !manifest_split_(p, w, &shards[SPLIT_VAL], e))) {
        return false;
    }
    json_close(w, '}');
    manifest_file_(w, "dropped", dropped_path, r->counts.dropped_bytes, dropped_hash);
    json_open(w, "counts", '{');
    manifest_counts_(w, &r->counts);
    json_put_uint(w, "skipped_files", r->skipped_files);
    json_close(w, '}');
    json_open(w, "rejected_examples", '[');
    for (size_t i = 0; i < r->note_count; i++) {
        json_put_string(w, NULL, r->notes[i]);
    }
    json_close(w, ']');
    json_open(w, "sources", '[');
    for (size_t i = 0; i < p->sources.count; i++) {
        manifest_source_(w, &p->sources.items[i]);
    }
    json_close(w, ']');
    json_close(w, '}');
    json_append(w, "\n", 1);
    return true;
}

static inline bool prepare_write_manifest_(const Preparation *p, const Shard shards[SPLITS],
                                           const char *dropped_path, const char *dropped_hash,
                                           Error *e) {
    char folder[PATH_LIMIT], path[PATH_LIMIT], tokenizer_hash[HEX_HASH];
    JsonWriter w = {.indent = 2};
    bool ok = path_format(folder, e, "%s/data/tokenizer", p->work) &&
              tokenizer_main_file(path, folder, e) && sha256_file(path, tokenizer_hash, e) &&
              path_format(path, e, "%s/data/manifest.json", p->work) &&
              manifest_text_(p, shards, dropped_path, dropped_hash, tokenizer_hash, &w, e) &&
              write_whole_(path, &w, e);
    free(w.data);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// The folder: made in a hidden sibling, which a run that is killed leaves to the next one with the
// same job

static inline void job_file_(JsonWriter *w, const char *path, uint64_t bytes, uint64_t inode,
                             struct timespec time) {
    json_open(w, NULL, '{');
    json_put_string(w, "path", path);
    json_put_uint(w, "bytes", bytes);
    json_put_uint(w, "inode", inode);
    json_put_uint(w, "seconds", (uint64_t)time.tv_sec);
    json_put_uint(w, "nanoseconds", (uint64_t)time.tv_nsec);
    json_close(w, '}');
}

// The files of a tokenizer's folder, or its one file.
static inline bool job_tokenizer_(JsonWriter *w, const char *path, Error *e) {
    struct dirent **names = NULL;
    int count = list_folder(path, &names);
    bool ok = true;
    for (int i = -1; ok && i < count; i++) {
        char file[PATH_LIMIT];
        struct stat status;
        ok = i < 0 ? path_format(file, e, "%s", path)
                   : path_format(file, e, "%s/%s", path, names[i]->d_name);
        if (ok && stat(file, &status) == 0 && S_ISREG(status.st_mode)) {
            job_file_(w, file, (uint64_t)status.st_size, (uint64_t)status.st_ino, status.st_mtim);
        }
    }
    free_names(names, count);
    return ok;
}

// Everything that decides what comes out, but for the tokenizer that is trained.
static inline bool job_text_(const Preparation *p, JsonWriter *w, Error *e) {
    const PrepareOptions *o = p->options;
    json_open(w, NULL, '{');
    json_put_string(w, "revision", o->revision ? o->revision : "");
    json_open(w, "command", '[');
    for (size_t i = 0; i < o->command_count; i++) {
        json_put_string(w, NULL, o->command[i]);
    }
    json_close(w, ']');
    json_put_string(w, "tokenizer", o->tokenizer ? o->tokenizer : "");
    json_put_bool(w, "unigram", o->unigram);
    json_put_bool(w, "index", o->index);
    json_put_uint(w, "vocab_size", o->vocab_size);
    json_put_uint(w, "tokenizer_sample", o->tokenizer_sample);
    json_put_double(w, "val_fraction", o->val_fraction);
    json_put_string(w, "text_key", o->text_key);
    json_put_uint(w, "seed", o->seed);
    json_put_uint(w, "unit_bytes", o->unit_bytes);
    json_put_uint(w, "min_characters", o->collect.min_characters);
    json_put_uint(w, "max_characters", o->collect.max_characters);
    json_put_double(w, "min_japanese", o->collect.min_japanese);
    json_put_double(w, "max_repeated_lines", o->collect.max_repeated_lines);
    json_put_bool(w, "exact", o->collect.exact);
    json_put_double(w, "near_duplicates", o->collect.near_duplicates);
    json_open(w, "files", '[');
    for (size_t i = 0; i < p->sources.count; i++) {
        const Source *s = &p->sources.items[i];
        job_file_(w, s->path, s->bytes, s->inode, s->time);
    }
    bool ok = !o->tokenizer || job_tokenizer_(w, o->tokenizer, e);
    json_close(w, ']');
    json_close(w, '}');
    json_append(w, "\n", 1);
    return ok && (!w->failed || fail(e, "prepare: no memory to describe the job"));
}

static inline void remove_contents_(const char *folder) {
    struct dirent **names = NULL;
    int count = list_folder(folder, &names);
    for (int i = 0; i < count; i++) {
        char child[PATH_LIMIT];
        Error ignored;
        if (path_format(child, &ignored, "%s/%s", folder, names[i]->d_name) && unlink(child)) {
            remove_directory(child);
        }
    }
    free_names(names, count);
}

static inline bool make_folder_(const char *work, const char *name, Error *e) {
    char path[PATH_LIMIT];
    return path_format(path, e, "%s/%s", work, name) &&
           (mkdir(path, 0777) == 0 || errno == EEXIST ||
            fail(e, "%s: cannot be made: %s", path, strerror(errno)));
}

// Names p->work, the hidden sibling of `out`.
static inline bool prepare_name_folder_(Preparation *p, Error *e) {
    const char *out = p->options->out;
    size_t length = strlen(out);
    while (length > 1 && out[length - 1] == '/') {
        length--;
    }
    size_t name = length;
    while (name > 0 && out[name - 1] != '/') {
        name--;
    }
    if (length == 0 || name == length) {
        return fail(e, "\"%s\": is not a name for the output folder", out);
    }
    return path_format(p->work, e, "%.*s.%.*s.preparing", (int)name, out, (int)(length - name),
                       out + name);
}

// Rank 0: makes p->work and locks it against a second prepare. What a killed run left in it is kept
// if it was the same job, else removed.
static inline bool prepare_begin_folder_(Preparation *p, Error *e) {
    const char *out = p->options->out;
    struct dirent **names = NULL;
    char path[PATH_LIMIT];
    JsonWriter job = {0};
    if (!path_format(path, e, "%s/manifest.json", out)) {
        return false;
    }
    int count = list_folder(out, &names);
    free_names(names, count);
    if (count < 0 && errno != ENOENT) {
        return fail(e, "%s: cannot become the output folder: %s", out, strerror(errno));
    }
    if (count > 0) {
        return fail(e, "%s: already holds %s; choose another --out or remove it", out,
                    access(path, F_OK) ? "other files" : "prepared data");
    }
    if (mkdir(p->work, 0777) && errno != EEXIST) {
        return fail(e, "%s: cannot be made: %s", out, strerror(errno));
    }
    p->lock = open(p->work, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (p->lock < 0) {
        return fail(e, "%s: cannot be opened: %s", p->work, strerror(errno));
    }
    if (flock(p->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        close(p->lock);
        p->lock = -1;
        return fail(e, "%s: another prepare is making this folder right now", out);
    }
    bool ok = path_format(path, e, "%s/job.json", p->work) && job_text_(p, &job, e);
    if (ok) {
        size_t length;
        char *left = read_file(path, LINE_LIMIT, &length, &(Error){0});
        p->resuming = left && length == job.length && !memcmp(left, job.data, length);
        if (left && !p->resuming && p->options->progress) {
            fprintf(p->options->progress,
                    "%s: an earlier prepare with other input or options was not finished; starting "
                    "over\n",
                    out);
        }
        free(left);
        if (!p->resuming) {
            remove_contents_(p->work);
        }
        ok = make_folder_(p->work, "parts", e) && make_folder_(p->work, "data", e) &&
             (p->resuming || write_whole_(path, &job, e)) && sync_directory(p->work, e);
    }
    free(job.data);
    return ok;
}

// Rank 0: gives the finished folder its name. From here on it is whole, whatever happens.
static inline bool prepare_publish_(Preparation *p, Error *e) {
    const char *out = p->options->out, *slash = strrchr(p->work, '/');
    char parent[PATH_LIMIT], data[PATH_LIMIT];
    if (!path_format(parent, e, "%.*s", slash ? (int)(slash - p->work) + 1 : 1,
                     slash ? p->work : ".") ||
        !path_format(data, e, "%s/data", p->work) || !sync_directory(data, e)) {
        return false;
    }
    if (rename(data, out)) { // over an empty folder too
        return fail(e, "%s: cannot be renamed to %s: %s", data, out, strerror(errno));
    }
    return sync_directory(parent, e);
}

// ------------------------------------------------------------------------------------------------
// prepare

static inline bool prepare_check_options_(const PrepareOptions *o, Error *e) {
    const char *texts[] = {o->text_key, o->tokenizer ? o->tokenizer : ""};
    bool valid = true;
    for (size_t i = 0; i < o->command_count + 2; i++) {
        const char *text = i < 2 ? texts[i] : o->command[i - 2];
        valid = valid && utf8_is_valid_(text, strlen(text));
    }
    return (valid ||
            fail(e, "the command line is not valid UTF-8, so the manifest cannot hold it")) &&
           (o->input_count > 0 || fail(e, "--input: name at least one file or folder")) &&
           ((o->val_fraction >= 0 && o->val_fraction < 1) ||
            fail(e, "--val-fraction %g: must be at least 0 and less than 1", o->val_fraction)) &&
           collect_check(&o->collect, e) &&
           (o->tokenizer || o->tokenizer_sample >= 1024 ||
            fail(e, "--tokenizer-sample %llu: must be at least 1024 bytes",
                 (unsigned long long)o->tokenizer_sample));
}

// Rank 0: finds the sources.
static inline bool sources_find_(Preparation *p, Error *e) {
    const PrepareOptions *o = p->options;
    for (size_t i = 0; i < o->input_count; i++) {
        if (!sources_add_(&p->sources, o->inputs[i], true, e)) {
            return false;
        }
    }
    return p->sources.count > 0 ||
           fail(e, "%s: holds no %s; %llu others were passed over", o->inputs[0], SOURCE_KINDS,
                (unsigned long long)p->sources.skipped);
}

// Collective: rank 0's sources go to all ranks.
static inline bool sources_share_(Preparation *p, Error *e) {
    uint64_t count = p->sources.count;
    bool ok = true;
    broadcast(&count, sizeof count);
    for (uint64_t i = 0; i < count; i++) {
        Source source = {0};
        char path[PATH_LIMIT] = "";
        if (p->world->rank == 0) {
            source = p->sources.items[i];
            snprintf(path, sizeof path, "%s", source.path);
        }
        uint64_t length = strlen(path);
        broadcast(&source, sizeof source);
        broadcast(&length, sizeof length);
        broadcast(path, length + 1);
        source.path = path;
        ok = (p->world->rank == 0 || !ok || sources_add_file_(&p->sources, &source, e)) && ok;
    }
    return ok;
}

// Cuts the sources into units: JSON Lines of more than this many bytes into several.
static inline bool units_make_(Preparation *p, Error *e) {
    enum { UNIT_BYTES = 8 << 20, UNIT_LEAST = 16, UNITS_ABOUT = 8192 };
    uint64_t total = sources_bytes_(p) / UNITS_ABOUT, bytes = p->options->unit_bytes;
    size_t capacity = 0;
    bytes = bytes ? bytes : total > UNIT_BYTES ? total : UNIT_BYTES;
    bytes = bytes > UNIT_LEAST ? bytes : UNIT_LEAST; // more than a byte order mark
    for (size_t i = 0; i < p->sources.count; i++) {
        const Source *s = &p->sources.items[i];
        bool whole = s->compression || s->kind == SOURCE_TEXT || s->bytes <= bytes;
        uint64_t begin = 0;
        do {
            bool last = whole || s->bytes - begin <= bytes;
            if (p->unit_count == UINT32_MAX ||
                !array_reserve(&p->units, &capacity, p->unit_count, 1, sizeof(Unit), e)) {
                return p->unit_count < UINT32_MAX ? false
                                                  : fail(e, "%s: is one file too many", s->path);
            }
            p->units[p->unit_count++] =
                (Unit){(uint32_t)i, begin, last ? UINT64_MAX : begin + bytes,
                       last ? s->bytes - begin : bytes};
            begin = last ? s->bytes : begin + bytes;
        } while (begin < s->bytes);
    }
    p->whole = calloc(p->unit_count, sizeof *p->whole);
    p->counts = calloc(p->unit_count, sizeof *p->counts);
    return (p->whole && p->counts) || fail(e, "prepare: no memory for %zu units", p->unit_count);
}

static inline bool workers_make_(Preparation *p, Error *e) {
    int count = omp_get_max_threads();
    p->workers = calloc((size_t)count, sizeof *p->workers);
    p->worker_count = p->workers ? count : 0;
    return p->workers || fail(e, "prepare: no memory for %d threads", count);
}

static inline bool workers_load_tokenizer_(Preparation *p, Error *e) {
    for (int i = 0; i < p->worker_count; i++) {
        if (!encoder_init(&p->workers[i].encoder, &p->tokenizer, e)) {
            return false;
        }
    }
    return true;
}

static inline void workers_free_(Preparation *p) {
    for (int i = 0; i < p->worker_count; i++) {
        Worker *w = &p->workers[i];
        encoder_free(&w->encoder);
        collect_free(w->collect);
        free(w->tokens.ids);
        free(w->store);
        free(w->line);
        free(w->writer.data);
    }
    free(p->workers);
}

// Rank 0: trains the tokenizer on the sample and writes it to `made`.
static inline bool tokenizer_train_(Preparation *p, const char *made, Error *e) {
    const PrepareOptions *o = p->options;
    TokenizerTrainer trainer;
    uint64_t bytes = 0;
    bool ok = o->unigram ? trainer_init_unigram(&trainer, e) : trainer_init(&trainer, e);
    for (size_t i = 0; ok && i < p->sample_count; i++) {
        ok = trainer_add(&trainer, p->sample[i].text, p->sample[i].length, e);
        bytes += p->sample[i].length;
    }
    sample_free_(p);
    if (ok && o->progress) {
        fprintf(o->progress, "training a tokenizer of %zu tokens on %.1f MB\n", o->vocab_size,
                (double)bytes / 1e6);
        fflush(o->progress);
    }
    if (o->unigram) {
        ok = ok && trainer_finish_unigram(&trainer, o->vocab_size, UNIGRAM_COVERAGE, made, e);
    } else {
        ok = ok && trainer_finish(&trainer, o->vocab_size, &p->tokenizer, e) &&
             tokenizer_save(&p->tokenizer, made, e);
    }
    trainer_free(&trainer);
    tokenizer_free(&p->tokenizer);
    return ok;
}

// Rank 0: makes `folder`, whole or not at all: a trained tokenizer, or a copy of the one that was
// given.
static inline bool tokenizer_write_(Preparation *p, const char *folder, Error *e) {
    char made[PATH_LIMIT];
    if (!path_format(made, e, "%s/tokenizer", p->work)) {
        return false;
    }
    remove_directory(made); // what a killed run began
    return make_folder_(p->work, "tokenizer", e) &&
           (p->options->tokenizer ? tokenizer_save(&p->tokenizer, made, e)
                                  : tokenizer_train_(p, made, e)) &&
           sync_directory(made, e) &&
           (rename(made, folder) == 0 ||
            fail(e, "%s: cannot be made: %s", folder, strerror(errno)));
}

// Collective: every rank gets the tokenizer, and the folder has it. On failure the line is printed.
static inline bool prepare_tokenizer_(Preparation *p) {
    const PrepareOptions *o = p->options;
    Error e = {{0}};
    char folder[PATH_LIMIT];
    bool there = false, ok = path_format(folder, &e, "%s/data/tokenizer", p->work);
    there = ok && p->world->rank == 0 && access(folder, F_OK) == 0;
    if (!world_check(p->world, ok, &e)) {
        return false;
    }
    broadcast(&there, sizeof there);
    if (!there && !o->tokenizer) {
        p->sample_threshold = UINT64_MAX;
        if (!pass_run_(p, PASS_SAMPLE)) {
            return false;
        }
        sample_agree_(p);
        ok = sample_gather_(p, &e);
        ok = world_check(p->world, ok, &e) &&
             world_check_root(p->world, p->world->rank != 0 || tokenizer_write_(p, folder, &e), &e);
        sample_free_(p);
        if (!ok) {
            return false;
        }
    }
    ok = tokenizer_load(&p->tokenizer, o->tokenizer ? o->tokenizer : folder, &e) &&
         (!o->tokenizer || there || p->world->rank != 0 || tokenizer_write_(p, folder, &e)) &&
         workers_load_tokenizer_(p, &e);
    return world_check(p->world, ok, &e);
}

static inline bool prepare_finish_(Preparation *p, const Shard shards[SPLITS], const char *dropped,
                                   const char *dropped_hash, Error *e) {
    PrepareReport *r = p->report;
    r->sources = p->sources.count;
    r->skipped_files = p->sources.skipped;
    r->vocab_size = p->tokenizer.vocabulary.count;
    for (int s = 0; s < SPLITS; s++) {
        uint64_t *counts = split_counts_(&r->counts, s);
        counts[0] = shards[s].documents;
        counts[1] = shards[s].tokens;
        counts[2] = shards[s].meta_bytes;
    }
    return prepare_write_manifest_(p, shards, dropped, dropped_hash, e) && prepare_publish_(p, e);
}

// Collective. On failure the line is printed.
static inline bool prepare_run_(Preparation *p, Shard shards[SPLITS]) {
    World *w = p->world;
    Error e = {{0}};
    char dropped[PATH_LIMIT], dropped_hash[HEX_HASH];
    bool root = w->rank == 0;
    bool ok = prepare_check_options_(p->options, &e) && prepare_name_folder_(p, &e) &&
              path_format(dropped, &e, "%s/data/dropped.jsonl", p->work) &&
              (!root || sources_find_(p, &e));
    if (!world_check(w, ok, &e) || !world_check(w, sources_share_(p, &e), &e)) {
        return false;
    }
    ok = units_make_(p, &e) && workers_make_(p, &e) && (!root || prepare_begin_folder_(p, &e));
    return world_check(w, ok, &e) && prepare_collect_(p) && prepare_tokenizer_(p) &&
           pass_run_(p, PASS_ENCODE) && hash_sources_(p) &&
           prepare_join_(p, shards, dropped, dropped_hash) &&
           world_check_root(w, !root || prepare_finish_(p, shards, dropped, dropped_hash, &e), &e);
}

// Collective. Makes the folder o->out from the texts o->inputs: tokenizer, shards, manifest. It
// appears only when it is complete and on disk; after a failure, whose line is printed, nothing is
// left of it. The same input, options and command give the same bytes on any number of ranks and
// threads; the same call after a kill goes on where that one was. All ranks must see the same file
// system; a rank holds a few megabytes per thread, the longest line of JSON Lines and its sample.
// No document vanishes silently: what is left out stands in dropped.jsonl, its number in the report
// and in the manifest, and a file of JSON Lines of which half or more cannot be used is an error.
// The report is rank 0's.
static inline bool prepare_corpus(World *world, const PrepareOptions *o, PrepareReport *r) {
    *r = (PrepareReport){0};
    Error e = {{0}};
    Shard *shards = calloc(SPLITS, sizeof *shards);
    Preparation *p = calloc(1, sizeof *p);
    bool ok = world_check(world, (p && shards) || fail(&e, "prepare: no memory"), &e);
    if (ok) {
        p->world = world;
        p->options = o;
        p->report = r;
        p->lock = -1;
        ok = prepare_run_(p, shards);
        if (p->lock >= 0) {
            remove_directory(p->work);
            close(p->lock);
        }
        sample_free_(p);
        workers_free_(p);
        unit_result_free_(&p->result);
        tokenizer_free(&p->tokenizer);
        sources_free_(&p->sources);
        free(p->batch.documents);
        free(p->batch.pieces);
        free(p->pending);
        if (p->verdicts) {
            fclose(p->verdicts);
        }
        free(p->first_documents);
        free(p->units);
        free(p->whole);
        free(p->counts);
        for (int s = 0; s < SPLITS; s++) {
            free(shards[s].segments);
        }
    }
    free(p);
    free(shards);
    return ok;
}

#endif
