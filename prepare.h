// prepare.h: text files become token shards, tokenizer and manifest, in one folder.
//
// Writing:  prepare_corpus       sources -> SPLIT.bin, .idx, .docs, tokenizer/, manifest.json
#ifndef PREPARE_H
#define PREPARE_H

#include <spawn.h>    // posix_spawnp: gzip
#include <strings.h>  // strcasecmp
#include <sys/file.h> // flock
#include <sys/wait.h>

#include "dataloader.h"
#include "tokenizer_train.h"

// ---------------------------------------------------------------------------------------------------------------------
// Writing shards
//
// SPLIT.bin   uint16 ids if the vocabulary has fewer than 65500, else int32 (Megatron's rule).
// SPLIT.idx   one sequence a document; only a document of more than SEQUENCE_LIMIT tokens has several, since a
//             sequence's length is an int32. Made from SPLIT.docs, so memory does not grow with the corpus.

typedef struct {
    const char *split;
    char bin_path[PATH_LIMIT], idx_path[PATH_LIMIT], docs_path[PATH_LIMIT];
    FILE *bin, *docs; // open from shard_begin to shard_end
    int token_bytes;  // 2 or 4
    uint64_t tokens, documents;
    char bin_hash[65], idx_hash[65], docs_hash[65]; // after shard_end_
} ShardWriter;

enum { SEQUENCE_LIMIT = 1 << 30, SMALL_VOCABULARY = 65500 };

// One pass over the records of an open .docs, writing one array of the .idx. A document makes ceil(tokens / limit)
// sequences; *sequences and *documents count what was passed.
typedef enum { IDX_COUNT, IDX_LENGTHS, IDX_POINTERS, IDX_DOCUMENTS } IdxArray;

static inline bool idx_write_array_(OutputFile *idx, FILE *docs, const char *docs_path, IdxArray array, int token_bytes,
                                    uint64_t limit, uint64_t *sequences, uint64_t *documents, Error *e) {
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
            uint64_t length = min_u64_(left, limit);
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

// Writes the .idx that belongs to a complete .docs, sequences no longer than `limit` tokens; `hex` gets its SHA-256.
static inline bool idx_write_(const char *idx_path, const char *docs_path, int token_bytes, uint64_t limit,
                              char hex[65], Error *e) {
    unsigned char header[IDX_HEADER] = {0}, last[8];
    uint64_t sequences, documents;
    OutputFile idx;
    FILE *docs = fopen(docs_path, "rb");
    if (!docs) {
        return fail(e, "%s: cannot be read: %s", docs_path, strerror(errno));
    }
    bool opened = output_open(&idx, idx_path, e), ok = opened;
    ok = ok && idx_write_array_(&idx, docs, docs_path, IDX_COUNT, token_bytes, limit, &sequences, &documents, e);
    if (ok) {
        memcpy(header, idx_magic_, sizeof idx_magic_);
        store_le(header + 9, 1, 8);
        header[17] = token_bytes == 2 ? 8 : 4;
        store_le(header + 18, sequences, 8);
        store_le(header + 26, documents + 1, 8);
        store_le(last, sequences, 8);
        ok = output_write(&idx, header, sizeof header, e);
    }
    for (int array = IDX_LENGTHS; ok && array <= IDX_DOCUMENTS; array++) {
        ok = idx_write_array_(&idx, docs, docs_path, (IdxArray)array, token_bytes, limit, &sequences, &documents, e);
    }
    ok = ok && output_write(&idx, last, sizeof last, e);
    fclose(docs);
    return opened && output_close(&idx, hex, ok ? e : &(Error){0}) && ok;
}

// Opens FOLDER/SPLIT.bin and .docs for writing. Whatever happens after, shard_abandon_ or shard_end releases it.
static inline bool shard_begin_(ShardWriter *w, const char *folder, const char *split, int token_bytes, Error *e) {
    unsigned char header[DOCS_HEADER] = {0}; // filled in by shard_end_
    *w = (ShardWriter){.split = split, .token_bytes = token_bytes};
    if (!path_format(w->bin_path, e, "%s/%s.bin", folder, split) ||
        !path_format(w->idx_path, e, "%s/%s.idx", folder, split) ||
        !path_format(w->docs_path, e, "%s/%s.docs", folder, split)) {
        return false;
    }
    w->bin = fopen(w->bin_path, "w+b");
    w->docs = w->bin ? fopen(w->docs_path, "w+b") : NULL;
    if (!w->docs) {
        return fail(e, "%s: cannot be created: %s", w->bin ? w->docs_path : w->bin_path, strerror(errno));
    }
    return write_(w->docs, w->docs_path, header, sizeof header, e);
}

static inline bool shard_tokens_(ShardWriter *w, const int32_t *ids, size_t count, Error *e) {
    unsigned char raw[8192];
    size_t block = sizeof raw / (size_t)w->token_bytes;
    for (size_t done = 0; done < count;) {
        size_t n = min_u64_(count - done, block);
        for (size_t i = 0; i < n; i++) {
            store_le(raw + i * (size_t)w->token_bytes, (uint64_t)ids[done + i], w->token_bytes);
        }
        if (!write_(w->bin, w->bin_path, raw, n * (size_t)w->token_bytes, e)) {
            return false;
        }
        done += n;
    }
    return true;
}

// Adds the record of the document whose tokens were written last.
static inline bool shard_document_(ShardWriter *w, const DocumentRecord *document, Error *e) {
    unsigned char record[DOCS_RECORD];
    docs_store(record, document);
    w->documents++;
    w->tokens += document->tokens;
    return write_(w->docs, w->docs_path, record, sizeof record, e);
}

// Cuts the last `bytes` off a file that is open for writing.
static inline bool cut_tail_(FILE *file, const char *path, uint64_t bytes, Error *e) {
    off_t end;
    if (fseeko(file, -(off_t)bytes, SEEK_END) || (end = ftello(file)) < 0 || fflush(file) ||
        ftruncate(fileno(file), end)) {
        return fail(e, "%s: cannot be shortened: %s", path, strerror(errno));
    }
    return true;
}

// Moves the last document of `from` to the end of `to`.
static inline bool shard_move_last_(ShardWriter *to, ShardWriter *from, Error *e) {
    unsigned char record[DOCS_RECORD], raw[8192];
    if (fseeko(from->docs, -DOCS_RECORD, SEEK_END) || fread(record, sizeof record, 1, from->docs) != 1) {
        return fail(e, "%s: cannot be read: %s", from->docs_path, strerror(errno));
    }
    DocumentRecord document = docs_load(record);
    uint64_t bytes = document.tokens * (uint64_t)from->token_bytes;
    if (fseeko(from->bin, -(off_t)bytes, SEEK_END)) {
        return fail(e, "%s: cannot be read: %s", from->bin_path, strerror(errno));
    }
    for (uint64_t left = bytes; left > 0;) {
        size_t n = min_u64_(left, sizeof raw);
        if (fread(raw, 1, n, from->bin) != n) {
            return fail(e, "%s: cannot be read: %s", from->bin_path, strerror(errno));
        }
        if (!write_(to->bin, to->bin_path, raw, n, e)) {
            return false;
        }
        left -= n;
    }
    from->documents--;
    from->tokens -= document.tokens;
    return shard_document_(to, &document, e) && cut_tail_(from->bin, from->bin_path, bytes, e) &&
           cut_tail_(from->docs, from->docs_path, DOCS_RECORD, e);
}

// Completes the three files, on disk when this returns true.
static inline bool shard_end_(ShardWriter *w, Error *e) {
    unsigned char header[DOCS_HEADER] = "TGPTDOCS";
    store_le(header + 8, DOCS_VERSION, 4);
    store_le(header + 12, DOCS_RECORD, 4);
    store_le(header + 16, w->documents, 8);
    bool ok = (fseeko(w->docs, 0, SEEK_SET) == 0 || fail(e, "%s: %s", w->docs_path, strerror(errno))) &&
              write_(w->docs, w->docs_path, header, sizeof header, e);
    FILE *bin = w->bin, *docs = w->docs;
    w->bin = w->docs = NULL;
    ok = close_written_(bin, w->bin_path, ok ? e : &(Error){0}) && ok;
    ok = close_written_(docs, w->docs_path, ok ? e : &(Error){0}) && ok;
    return ok && idx_write_(w->idx_path, w->docs_path, w->token_bytes, SEQUENCE_LIMIT, w->idx_hash, e) &&
           sha256_file(w->bin_path, w->bin_hash, e) && sha256_file(w->docs_path, w->docs_hash, e);
}

// After a failure: closes what is open. Does nothing after shard_end_.
static inline void shard_abandon_(ShardWriter *w) {
    if (w->bin) {
        fclose(w->bin);
    }
    if (w->docs) {
        fclose(w->docs);
    }
    w->bin = w->docs = NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// Sources: the text files of a corpus, found, opened and read in blocks

// What prepare_corpus is asked to do. Inputs are files or folders; from folders it takes the files that source_kind_
// knows, in the order of their names' bytes.
typedef struct {
    const char *const *inputs;
    size_t input_count;
    const char *out;            // folder to make
    const char *tokenizer;      // folder of the tokenizer to use; NULL: train one
    size_t vocab_size;          // of the one to train
    uint64_t tokenizer_sample;  // bytes of text to train it on; at most this much text is held in memory
    double val_fraction;        // share of the documents that make the validation split, 0 <= F < 1
    const char *text_key;       // of JSON Lines: the key that holds the text
    uint64_t seed;              // of the split and of the tokenizer's sample
    const char *const *command; // the command line, for the manifest
    size_t command_count;
    FILE *progress; // for people; NULL: silent
} PrepareOptions;

enum { REPORT_NOTES = 5, NOTE_LIMIT = sizeof(Error) };

typedef struct {
    uint64_t sources, skipped_files;        // files read; files in the input folders of kinds that are not read
    uint64_t documents, tokens, text_bytes; // written; tokens with the ends of documents
    uint64_t train_documents, train_tokens, val_documents, val_tokens;
    uint64_t empty, blank_lines; // documents without text, lines without JSON: left out
    uint64_t rejected_lines;     // lines that are no JSON object with a text: left out
    uint64_t replaced;           // ill-formed UTF-8 sequences that became U+FFFD
    size_t vocab_size;
    size_t note_count;
    char notes[REPORT_NOTES][NOTE_LIMIT]; // "FILE:LINE: what is wrong" for the first rejected lines
} PrepareReport;

// What JSON Lines say about where their documents come from: number of documents per distinct value.
enum { ORIGIN_SOURCE, ORIGIN_LICENSE, ORIGIN_LANGUAGE, ORIGIN_FACETS, ORIGIN_VALUES = 32, ORIGIN_LENGTH = 200 };

static const struct {
    const char *name, *keys[2]; // keys looked for in the object, then in its "meta", then in its "metadata"
} origin_facets_[ORIGIN_FACETS] = {
    {"source", {"source", "package"}}, {"license", {"license", "licence"}}, {"language", {"language", "lang"}}};

typedef struct {
    struct {
        char *value;
        uint64_t documents;
    } values[ORIGIN_VALUES];
    size_t count;
    uint64_t other; // documents with a value that is too long, or new when the table is full
} OriginFacet;

typedef enum { SOURCE_UNKNOWN, SOURCE_TEXT, SOURCE_JSON_LINES } SourceKind;

typedef struct {
    char *path;
    SourceKind kind;
    bool gzip;
    struct stat status; // when it was found; a source that changes later is an error
    char hash[65];      // of the file as it lies on disk
    uint64_t documents, tokens, text_bytes, empty, blank_lines, rejected_lines, replaced;
    OriginFacet *origin; // [ORIGIN_FACETS], NULL until a document has something to say
} Source;

typedef struct {
    Source *items;
    size_t count, capacity;
    uint64_t skipped;
} SourceList;

static inline SourceKind source_kind_(const char *path, bool *gzip) {
    static const struct {
        const char *ending;
        SourceKind kind;
    } kinds[] = {{".txt", SOURCE_TEXT}, {".text", SOURCE_TEXT}, {".md", SOURCE_TEXT}, {".jsonl", SOURCE_JSON_LINES}};
    size_t length = strlen(path);
    *gzip = length > 3 && !strcasecmp(path + length - 3, ".gz");
    length -= *gzip ? 3 : 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t n = strlen(kinds[i].ending);
        if (length > n && !strncasecmp(path + length - n, kinds[i].ending, n)) {
            return kinds[i].kind;
        }
    }
    return SOURCE_UNKNOWN;
}

static inline void sources_free_(SourceList *list) {
    for (size_t i = 0; i < list->count; i++) {
        for (int f = 0; list->items[i].origin && f < ORIGIN_FACETS; f++) {
            for (size_t v = 0; v < list->items[i].origin[f].count; v++) {
                free(list->items[i].origin[f].values[v].value);
            }
        }
        free(list->items[i].origin);
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
        return fail(e, "%s: its name is not valid UTF-8, so the manifest cannot name it: rename it", source->path);
    }
    if (list->count == UINT32_MAX) {
        return fail(e, "%s: is one file too many; the .docs files number at most %u", source->path, UINT32_MAX);
    }
    if (!reserve_(&list->items, &list->capacity, list->count, 1, sizeof *list->items, e)) {
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

// Adds a file, or all files below a folder. What was `named` on the command line must be readable text; in folders
// other files, hidden ones, and links to folders (which may go in circles) are passed over and counted.
static inline bool sources_add_(SourceList *list, const char *path, bool named, Error *e) {
    Source source = {.path = (char *)path};
    struct stat link;
    struct dirent **names = NULL;
    source.kind = source_kind_(path, &source.gzip);
    if (stat(path, &source.status) || lstat(path, &link)) {
        list->skipped += !named && source.kind == SOURCE_UNKNOWN;
        return (!named && source.kind == SOURCE_UNKNOWN) || fail(e, "%s: cannot be read: %s", path, strerror(errno));
    }
    bool folder = S_ISDIR(source.status.st_mode);
    if (folder && (named || !S_ISLNK(link.st_mode))) {
        int count = list_folder(path, &names);
        bool ok = count >= 0 || fail(e, "%s: this folder cannot be read: %s", path, strerror(errno));
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
    if (source.kind != SOURCE_UNKNOWN && S_ISREG(source.status.st_mode)) {
        return sources_add_file_(list, &source, e);
    }
    list->skipped++;
    return !named || fail(e, "%s: cannot be read as text: that is .txt, .text, .md or .jsonl, also with .gz", path);
}

static inline bool source_unchanged_(const Source *source, Error *e) {
    struct stat now;
    const struct stat *then = &source->status;
    if (stat(source->path, &now)) {
        return fail(e, "%s: cannot be read any more: %s", source->path, strerror(errno));
    }
    return (now.st_dev == then->st_dev && now.st_ino == then->st_ino && now.st_size == then->st_size &&
            now.st_mtim.tv_sec == then->st_mtim.tv_sec && now.st_mtim.tv_nsec == then->st_mtim.tv_nsec) ||
           fail(e, "%s: was changed while it was being prepared; run prepare again when it is complete", source->path);
}

// Bytes read at a time; the longest line of JSON Lines; the longest stretch of text without a place to cut, of which
// the encoder needs some 40 times as much memory.
enum { READ_BLOCK = 1 << 18, LINE_LIMIT = 1 << 28, UNCUT_LIMIT = 1 << 24 };

typedef struct {
    const Source *source;
    int file;
    pid_t gzip; // the gzip that decompresses, or 0
    char *data;
    size_t start, end, capacity; // data[start .. end) is read and not yet used
    uint64_t offset;             // of data[start] in the text as decompressed
    bool ended;                  // nothing follows data[end]
} Reader;

// Puts `gzip -dc` between the reader and its file.
static inline bool reader_start_gzip_(Reader *r, Error *e) {
    extern char **environ;
    char *const arguments[] = {"gzip", "-dc", NULL};
    posix_spawn_file_actions_t actions;
    int ends[2];
    if (pipe(ends)) {
        return fail(e, "%s: no pipe to gzip: %s", r->source->path, strerror(errno));
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, r->file, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0); // the error line is ours
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    int status = posix_spawnp(&r->gzip, "gzip", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    close(r->file);
    r->file = ends[0];
    if (status) {
        r->gzip = 0;
        return fail(e, "%s: gzip, which reads it, cannot be started: %s", r->source->path, strerror(status));
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
    if (r->capacity - r->end < READ_BLOCK) {
        size_t capacity = 2 * r->capacity + READ_BLOCK;
        char *data = realloc(r->data, capacity);
        if (!data) {
            return fail(e, "%s: no memory for %zu bytes of it", r->source->path, capacity);
        }
        r->data = data;
        r->capacity = capacity;
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

static inline void reader_use_(Reader *r, size_t bytes) {
    r->start += bytes;
    r->offset += bytes;
}

// Opens a source behind its byte order mark, if it has one. reader_close_ releases the reader, also after a failure.
static inline bool reader_open_(Reader *r, const Source *source, Error *e) {
    uint64_t bytes;
    *r = (Reader){.source = source, .file = open_regular_(source->path, &bytes, e)};
    if (r->file < 0 || !source_unchanged_(source, e) || (source->gzip && !reader_start_gzip_(r, e))) {
        return false;
    }
    while (r->end < 3 && !r->ended) {
        if (!reader_more_(r, e)) {
            return false;
        }
    }
    if (r->end >= 3 && !memcmp(r->data, "\xEF\xBB\xBF", 3)) {
        reader_use_(r, 3);
    }
    return true;
}

// `ok` says whether all went well so far; if so, gzip must have ended well, and the file must be what it was.
static inline bool reader_close_(Reader *r, bool ok, Error *e) {
    int status = 0;
    if (r->file >= 0) {
        close(r->file);
    }
    if (r->gzip) {
        while (waitpid(r->gzip, &status, 0) < 0 && errno == EINTR) {
        }
    }
    free(r->data);
    if (!ok || !source_unchanged_(r->source, e)) {
        return false;
    }
    return status == 0 || fail(e, "%s: gzip -dc ended with status %d: the file is damaged or not compressed by gzip",
                               r->source->path, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// ---------------------------------------------------------------------------------------------------------------------
// prepare: two passes over the sources, the first samples text to train the tokenizer, the second writes the shards
//
// Both see each document as pieces of some 256 KiB, cut where the tokenizer may cut, so memory is bounded by the
// longest line of JSON Lines and the sample. What happens to a document depends on the seed, its source and its offset
// alone.

typedef struct {
    uint64_t rank; // the sample holds the pieces of lowest rank
    char *text;
    size_t length;
} SamplePiece;

typedef struct {
    const PrepareOptions *options;
    PrepareReport *report;
    SourceList sources;
    char folder[PATH_LIMIT]; // the temporary one, a hidden sibling of options->out
    int lock;                // descriptor of it, locked; -1 while it is not ours
    Tokenizer tokenizer;
    Encoder encoder;
    TokenBuffer tokens;     // of the piece at hand
    ShardWriter train, val; // val only if val_fraction > 0

    // The pass.
    const char *pass;          // its name
    bool writing;              // false: sampling
    size_t source;             // index
    char rejected[NOTE_LIMIT]; // about its first rejected line
    char *line;                // the line at hand with ill-formed UTF-8 replaced
    size_t line_capacity;

    // The document.
    DocumentRecord document;
    ShardWriter *shard; // where it goes
    uint64_t text_bytes, pieces;
    char *pending; // text read but not yet sampled or encoded
    size_t pending_length, pending_capacity;
    size_t next_cut; // length of pending at which to look for a cut again

    // The sample for the tokenizer.
    SamplePiece *sample;
    size_t sample_count, sample_capacity;
    uint64_t sample_bytes, sample_threshold;

    struct timespec began, printed;
    uint64_t bytes_read, documents_read;
} Preparation;

static inline double seconds_between_(struct timespec a, struct timespec b) {
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

// One line for people: how far the pass is.
static inline void prepare_show_(Preparation *p, size_t files, struct timespec now) {
    double seconds = seconds_between_(p->began, now), megabytes = (double)p->bytes_read / 1e6;
    p->printed = now;
    fprintf(p->options->progress, "%s: file %zu of %zu, %.1f MB of text, %.1f MB/s, %llu documents\n", p->pass, files,
            p->sources.count, megabytes, megabytes / (seconds + 1e-9), (unsigned long long)p->documents_read);
    fflush(p->options->progress);
}

// Counts `bytes` more as read, and says so once a second.
static inline void prepare_progress_(Preparation *p, size_t bytes) {
    struct timespec now;
    p->bytes_read += bytes;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (p->options->progress && seconds_between_(p->printed, now) >= 1) {
        prepare_show_(p, p->source + 1, now);
    }
}

static inline Source *prepare_source_(Preparation *p) {
    return &p->sources.items[p->source];
}

static inline bool no_memory_(Preparation *p, Error *e) {
    return fail(e, "%s: no memory", prepare_source_(p)->path);
}

// Adds a piece to the sample. Every piece has a random rank; those below a threshold are held, and the threshold sinks
// whenever they grow beyond the limit. So each piece has the same chance, and the size of the corpus need not be known.
static inline bool sample_piece_(Preparation *p, const char *text, size_t length, Error *e) {
    const uint64_t limit = p->options->tokenizer_sample;
    uint64_t document = random_bits(p->options->seed, p->document.source, p->document.offset);
    uint64_t rank = random_bits(document, RANDOM_SAMPLE, p->pieces);
    if (rank > p->sample_threshold) {
        return true;
    }
    if (length > limit / 16) { // so that no piece fills the sample
        length = limit / 16;
        while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) {
            length--;
        }
    }
    if (!reserve_(&p->sample, &p->sample_capacity, p->sample_count, 1, sizeof *p->sample, e)) {
        return false;
    }
    SamplePiece piece = {rank, malloc(length + 1), length};
    if (!piece.text) {
        return no_memory_(p, e);
    }
    memcpy(piece.text, text, length);
    p->sample[p->sample_count++] = piece;
    p->sample_bytes += length + sizeof piece;
    while (p->sample_bytes > limit && p->sample_count > 0) {
        size_t kept = 0;
        p->sample_threshold -= p->sample_threshold / 8 + 1;
        for (size_t i = 0; i < p->sample_count; i++) {
            if (p->sample[i].rank <= p->sample_threshold) {
                p->sample[kept++] = p->sample[i];
            } else {
                p->sample_bytes -= p->sample[i].length + sizeof piece;
                free(p->sample[i].text);
            }
        }
        p->sample_count = kept;
    }
    return true;
}

static inline void sample_free_(Preparation *p) {
    for (size_t i = 0; i < p->sample_count; i++) {
        free(p->sample[i].text);
    }
    free(p->sample);
    p->sample = NULL;
    p->sample_count = 0;
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

// Adds the tokens of a piece to the shard of the document; `last`: no other follows.
static inline bool encode_piece_(Preparation *p, const char *text, size_t length, bool last, Error *e) {
    int part = (p->pieces > 0 ? TEXT_CONTINUES : 0) | (last ? 0 : TEXT_GOES_ON);
    p->tokens.count = 0;
    if (!encoder_encode_part(&p->encoder, text, length, part, &p->tokens, e)) {
        return false;
    }
    p->document.tokens += p->tokens.count;
    return shard_tokens_(p->shard, p->tokens.ids, p->tokens.count, e);
}

// Passes on what is pending: up to a place where cutting leaves the ids as they are, all of it if `all`.
static inline bool document_flush_(Preparation *p, bool all, Error *e) {
    size_t length = p->pending_length, cut = length;
    if (!all) {
        cut = p->writing ? tokenizer_safe_cut(&p->tokenizer, p->pending, length) : sample_safe_cut_(p->pending, length);
    }
    if (cut == 0) {
        p->next_cut = min_u64_(2 * length, UNCUT_LIMIT + 1);
        return length <= UNCUT_LIMIT ||
               fail(e, "%s: the document at byte %llu has %zu bytes without a place to cut; %d MiB are supported",
                    prepare_source_(p)->path, (unsigned long long)p->document.offset, length, UNCUT_LIMIT >> 20);
    }
    p->next_cut = READ_BLOCK;
    p->text_bytes += cut;
    if (!(p->writing ? encode_piece_(p, p->pending, cut, all, e) : sample_piece_(p, p->pending, cut, e))) {
        return false;
    }
    p->pieces++;
    p->pending_length -= cut;
    memmove(p->pending, p->pending + cut, p->pending_length);
    return true;
}

static inline void document_begin_(Preparation *p, uint64_t offset) {
    uint64_t place = random_bits(p->source, RANDOM_SPLIT, offset);
    p->document = (DocumentRecord){.offset = offset, .source = (uint32_t)p->source};
    p->shard = random_uniform(p->options->seed, RANDOM_SPLIT, place) < p->options->val_fraction ? &p->val : &p->train;
    p->text_bytes = p->pieces = p->pending_length = 0;
    p->next_cut = READ_BLOCK;
}

// Makes room for `length` more bytes of text.
static inline bool document_reserve_(Preparation *p, size_t length, Error *e) {
    return reserve_(&p->pending, &p->pending_capacity, p->pending_length, length, 1, e);
}

// Adds well-formed UTF-8 to the document.
static inline bool document_text_(Preparation *p, const char *text, size_t length, Error *e) {
    for (size_t done = 0, n; done < length; done += n) {
        n = min_u64_(length - done, READ_BLOCK);
        while (done + n < length && ((unsigned char)text[done + n] & 0xC0) == 0x80) {
            n--; // whole characters only
        }
        if (!document_reserve_(p, n, e)) {
            return false;
        }
        memcpy(p->pending + p->pending_length, text + done, n);
        p->pending_length += n;
        if (p->pending_length >= p->next_cut && !document_flush_(p, false, e)) {
            return false;
        }
    }
    return true;
}

// Ends the document, whose range in the source is `length` bytes.
static inline bool document_end_(Preparation *p, uint64_t length, Error *e) {
    Source *source = prepare_source_(p);
    if (p->pending_length > 0 && !document_flush_(p, true, e)) {
        return false;
    }
    p->document.length = length;
    if (p->text_bytes == 0) {
        source->empty++;
        return true;
    }
    source->documents++;
    source->text_bytes += p->text_bytes;
    p->documents_read++;
    if (!p->writing) {
        return true;
    }
    p->document.tokens++;
    source->tokens += p->document.tokens;
    return shard_tokens_(p->shard, &p->tokenizer.end_of_document, 1, e) && shard_document_(p->shard, &p->document, e);
}

// A plain text file is one document.
static inline bool prepare_text_(Preparation *p, Reader *r, Error *e) {
    Source *source = prepare_source_(p);
    uint64_t start = r->offset;
    document_begin_(p, start);
    while (r->start < r->end || !r->ended) {
        size_t consumed;
        if (!document_reserve_(p, 3 * (r->end - r->start), e)) {
            return false;
        }
        p->pending_length += utf8_sanitize(p->pending + p->pending_length, r->data + r->start, r->end - r->start,
                                           r->ended, &consumed, &source->replaced);
        reader_use_(r, consumed);
        prepare_progress_(p, consumed);
        if ((p->pending_length >= p->next_cut && !document_flush_(p, false, e)) || (!r->ended && !reader_more_(r, e))) {
            return false;
        }
    }
    return document_end_(p, r->offset - start, e);
}

// Adds one to the count of the document's value for each facet of its origin that it tells.
static inline bool origin_count_(Source *source, const Json *object, Error *e) {
    const Json *places[3] = {object, json_get(object, "meta"), json_get(object, "metadata")};
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        const Json *found = NULL;
        for (int i = 0; i < 6 && !found; i++) {
            found = json_get(places[i / 2], origin_facets_[f].keys[i % 2]);
            found = json_string(found) ? found : NULL;
        }
        if (!found) {
            continue;
        }
        if (!source->origin && !(source->origin = calloc(ORIGIN_FACETS, sizeof *source->origin))) {
            return fail(e, "%s: no memory for its origins", source->path);
        }
        OriginFacet *facet = &source->origin[f];
        size_t v = 0;
        while (v < facet->count && strcmp(facet->values[v].value, found->text)) {
            v++;
        }
        if (v == ORIGIN_VALUES || found->length > ORIGIN_LENGTH) {
            facet->other++;
            continue;
        }
        if (v == facet->count) {
            facet->values[v].value = strdup(found->text);
            if (!facet->values[v].value) {
                return fail(e, "%s: no memory for its origins", source->path);
            }
            facet->count++;
        }
        facet->values[v].documents++;
    }
    return true;
}

static inline void line_reject_(Preparation *p, const char *why) {
    Source *source = prepare_source_(p);
    if (source->rejected_lines++ == 0) {
        snprintf(p->rejected, sizeof p->rejected, "%s", why);
    }
    if (p->writing && p->report->note_count < REPORT_NOTES) {
        char *note = p->report->notes[p->report->note_count++];
        int length = snprintf(note, NOTE_LIMIT, "%s", why);
        length = length < NOTE_LIMIT ? length : NOTE_LIMIT - 1;
        while (!utf8_is_valid_(note, (size_t)length)) {
            note[--length] = 0; // a character cut in two
        }
    }
}

// One line of JSON Lines that is not blank. False only if the whole run must stop.
static inline bool prepare_line_(Preparation *p, const char *text, size_t length, uint64_t offset, uint64_t line,
                                 Error *e) {
    Source *source = prepare_source_(p);
    char name[PATH_LIMIT + 32];
    size_t source_length = length, consumed;
    uint64_t replaced = 0;
    JsonDocument json;
    Error why;
    snprintf(name, sizeof name, "%s:%llu", source->path, (unsigned long long)line);
    if (!utf8_is_valid_(text, length)) {
        if (!reserve_(&p->line, &p->line_capacity, 0, 3 * length, 1, e)) {
            return false;
        }
        length = utf8_sanitize(p->line, text, length, true, &consumed, &replaced);
        text = p->line;
    }
    if (!json_parse(&json, text, length, name, &why)) {
        line_reject_(p, why.text);
        return true;
    }
    const Json *value = json_get(json.root, p->options->text_key);
    bool ok = true;
    if (!value || value->kind != JSON_STRING) {
        fail(&why, "%s: has no string under the key \"%s\" (see --text-key)", name, p->options->text_key);
        line_reject_(p, why.text);
    } else {
        source->replaced += replaced + json.replaced;
        document_begin_(p, offset);
        ok = document_text_(p, value->text, value->length, e) && document_end_(p, source_length, e);
        if (ok && p->writing && p->text_bytes > 0) {
            ok = origin_count_(source, json.root, e);
        }
    }
    json_free(&json);
    return ok;
}

// JSON Lines: each line is an object with one document. Lines end at LF; one CR before it is dropped.
static inline bool prepare_json_lines_(Preparation *p, Reader *r, Error *e) {
    Source *source = prepare_source_(p);
    uint64_t filled = 0; // lines that are not blank
    for (uint64_t line = 1;; line++) {
        char *newline = NULL;
        size_t searched = 0;
        while (!(newline = memchr(r->data + r->start + searched, '\n', r->end - r->start - searched)) && !r->ended) {
            searched = r->end - r->start;
            if (searched > LINE_LIMIT) {
                return fail(e, "%s:%llu: this line is longer than the %d MiB supported", source->path,
                            (unsigned long long)line, LINE_LIMIT >> 20);
            }
            if (!reader_more_(r, e)) {
                return false;
            }
        }
        if (r->start == r->end) {
            break;
        }
        const char *text = r->data + r->start;
        size_t taken = newline ? (size_t)(newline - text) + 1 : r->end - r->start, length = taken - (newline != NULL);
        length -= length > 0 && text[length - 1] == '\r';
        size_t blank = 0;
        while (blank < length && (text[blank] == ' ' || text[blank] == '\t' || text[blank] == '\r')) {
            blank++;
        }
        if (blank == length) {
            source->blank_lines++;
        } else {
            filled++;
            if (!prepare_line_(p, text, length, r->offset, line, e)) {
                return false;
            }
        }
        reader_use_(r, taken);
        prepare_progress_(p, taken);
    }
    return source->rejected_lines == 0 || source->rejected_lines < filled - source->rejected_lines ||
           fail(e, "%s: %llu of %llu lines hold no document, so something is wrong: %.500s", source->path,
                (unsigned long long)source->rejected_lines, (unsigned long long)filled, p->rejected);
}

// Takes the documents of all sources through the pass that is set up in p. There must be enough of them to go on.
static inline bool prepare_pass_(Preparation *p, const char *name, Error *e) {
    bool ok = true;
    p->pass = name;
    p->bytes_read = p->documents_read = 0;
    clock_gettime(CLOCK_MONOTONIC, &p->began);
    p->printed = p->began;
    for (p->source = 0; ok && p->source < p->sources.count; p->source++) {
        Reader reader;
        Source *source = prepare_source_(p);
        source->documents = source->tokens = source->text_bytes = source->empty = source->blank_lines = 0;
        source->rejected_lines = source->replaced = 0;
        ok = reader_open_(&reader, source, e) &&
             (source->kind == SOURCE_TEXT ? prepare_text_(p, &reader, e) : prepare_json_lines_(p, &reader, e));
        if (ok && p->writing) {
            ok = sha256_file(source->path, source->hash, e); // before reader_close_ sees whether the file changed
        }
        ok = reader_close_(&reader, ok, e);
    }
    if (ok && p->options->progress) {
        clock_gettime(CLOCK_MONOTONIC, &p->printed);
        prepare_show_(p, p->source, p->printed);
    }
    if (ok && p->documents_read == 0) {
        ok = fail(e, "%s: there is no document with any text in the input", p->options->inputs[0]);
    } else if (ok && p->documents_read == 1 && p->options->val_fraction > 0) {
        ok = fail(e, "%s: holds a single document, which cannot be split: use --val-fraction 0 or more documents",
                  p->options->inputs[0]);
    }
    return ok;
}

// First pass: samples the text and trains the tokenizer.
static inline bool prepare_train_tokenizer_(Preparation *p, Error *e) {
    TokenizerTrainer trainer;
    p->writing = false;
    p->sample_threshold = UINT64_MAX;
    if (!prepare_pass_(p, "sampling for the tokenizer", e)) {
        return false;
    }
    bool ok = trainer_init(&trainer, e);
    for (size_t i = 0; ok && i < p->sample_count; i++) {
        ok = trainer_add(&trainer, p->sample[i].text, p->sample[i].length, e);
    }
    sample_free_(p);
    if (ok && p->options->progress) {
        fprintf(p->options->progress, "training a tokenizer of %zu tokens on %.1f MB\n", p->options->vocab_size,
                (double)p->sample_bytes / 1e6);
        fflush(p->options->progress);
    }
    ok = ok && trainer_finish(&trainer, p->options->vocab_size, &p->tokenizer, e);
    trainer_free(&trainer);
    return ok;
}

// Second pass: tokens into shards. If the random split leaves one side without a document, it gets the last one.
static inline bool prepare_write_shards_(Preparation *p, Error *e) {
    const bool split = p->options->val_fraction > 0;
    const int token_bytes = p->tokenizer.vocab_size < SMALL_VOCABULARY ? 2 : 4;
    p->writing = true;
    if (!shard_begin_(&p->train, p->folder, "train", token_bytes, e) ||
        (split && !shard_begin_(&p->val, p->folder, "val", token_bytes, e)) || !prepare_pass_(p, "tokenizing", e)) {
        return false;
    }
    if (split && p->val.documents == 0 && !shard_move_last_(&p->val, &p->train, e)) {
        return false;
    }
    if (split && p->train.documents == 0 && !shard_move_last_(&p->train, &p->val, e)) {
        return false;
    }
    return shard_end_(&p->train, e) && (!split || shard_end_(&p->val, e));
}

// ---------------------------------------------------------------------------------------------------------------------
// prepare: manifest, and the folder that appears under its name only when all is in it

static inline void manifest_file_(JsonWriter *w, const char *key, const char *path, uint64_t bytes, const char *hash) {
    json_open(w, key, '{');
    json_put_string(w, "file", strrchr(path, '/') + 1);
    json_put_uint(w, "bytes", bytes);
    json_put_string(w, "sha256", hash);
    json_close(w, '}');
}

static inline bool manifest_split_(JsonWriter *w, const ShardWriter *s, Error *e) {
    struct stat idx;
    if (stat(s->idx_path, &idx)) {
        return fail(e, "%s: cannot be read: %s", s->idx_path, strerror(errno));
    }
    json_open(w, s->split, '{');
    json_put_uint(w, "documents", s->documents);
    json_put_uint(w, "tokens", s->tokens);
    json_put_string(w, "dtype", s->token_bytes == 2 ? "uint16" : "int32");
    manifest_file_(w, "bin", s->bin_path, s->tokens * (uint64_t)s->token_bytes, s->bin_hash);
    manifest_file_(w, "idx", s->idx_path, (uint64_t)idx.st_size, s->idx_hash);
    manifest_file_(w, "docs", s->docs_path, DOCS_HEADER + DOCS_RECORD * s->documents, s->docs_hash);
    json_close(w, '}');
    return true;
}

static inline void manifest_source_(JsonWriter *w, const Source *s) {
    json_open(w, NULL, '{');
    json_put_string(w, "path", s->path);
    json_put_uint(w, "bytes", (uint64_t)s->status.st_size);
    json_put_string(w, "sha256", s->hash);
    json_put_uint(w, "documents", s->documents);
    json_put_uint(w, "tokens", s->tokens);
    json_put_uint(w, "text_bytes", s->text_bytes);
    json_put_uint(w, "empty", s->empty);
    json_put_uint(w, "blank_lines", s->blank_lines);
    json_put_uint(w, "rejected_lines", s->rejected_lines);
    json_put_uint(w, "replaced", s->replaced);
    json_open(w, "origin", '{');
    for (int f = 0; s->origin && f < ORIGIN_FACETS; f++) {
        const OriginFacet *facet = &s->origin[f];
        if (facet->count == 0 && facet->other == 0) {
            continue;
        }
        json_open(w, origin_facets_[f].name, '[');
        for (size_t v = 0; v <= facet->count; v++) {
            bool other = v == facet->count; // {"value": null} stands for all values beyond the table
            if (!other || facet->other) {
                json_open(w, NULL, '{');
                other ? json_put_null(w, "value") : json_put_string(w, "value", facet->values[v].value);
                json_put_uint(w, "documents", other ? facet->other : facet->values[v].documents);
                json_close(w, '}');
            }
        }
        json_close(w, ']');
    }
    json_close(w, '}');
    json_close(w, '}');
}

static inline bool manifest_text_(const Preparation *p, JsonWriter *w, const char *tokenizer_hash, Error *e) {
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
    json_put_uint(w, "vocab_size", p->tokenizer.vocab_size);
    json_put_uint(w, "end_of_document", (uint64_t)p->tokenizer.end_of_document);
    json_close(w, '}');
    json_open(w, "splits", '{');
    if (!manifest_split_(w, &p->train, e) || (p->options->val_fraction > 0 && !manifest_split_(w, &p->val, e))) {
        return false;
    }
    json_close(w, '}');
    json_open(w, "counts", '{');
    json_put_uint(w, "documents", r->documents);
    json_put_uint(w, "tokens", r->tokens);
    json_put_uint(w, "text_bytes", r->text_bytes);
    json_put_uint(w, "empty", r->empty);
    json_put_uint(w, "blank_lines", r->blank_lines);
    json_put_uint(w, "rejected_lines", r->rejected_lines);
    json_put_uint(w, "replaced", r->replaced);
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

static inline bool prepare_write_manifest_(const Preparation *p, Error *e) {
    char path[PATH_LIMIT], tokenizer_hash[65], hash[65];
    JsonWriter w = {.indent = 2};
    OutputFile file;
    bool ok = path_format(path, e, "%s/tokenizer/tokenizer.json", p->folder) && sha256_file(path, tokenizer_hash, e) &&
              path_format(path, e, "%s/manifest.json", p->folder) && manifest_text_(p, &w, tokenizer_hash, e) &&
              (!w.failed || fail(e, "%s: no memory to write it", path)) && output_open(&file, path, e);
    if (ok) {
        ok = output_write(&file, w.data, w.length, e);
        ok = output_close(&file, hash, ok ? e : &(Error){0}) && ok;
    }
    free(w.data);
    return ok;
}

// Fills p->folder with the hidden sibling of `out` that the data is made in, and locks it against a second prepare.
// What a killed run left in it is removed.
static inline bool prepare_begin_folder_(Preparation *p, Error *e) {
    const char *out = p->options->out;
    struct dirent **names = NULL;
    char manifest[PATH_LIMIT];
    size_t length = strlen(out);
    while (length > 1 && out[length - 1] == '/') {
        length--;
    }
    size_t name = length;
    while (name > 0 && out[name - 1] != '/') {
        name--;
    }
    if (length == 0 || name == length || !path_format(manifest, e, "%s/manifest.json", out) ||
        !path_format(p->folder, e, "%.*s.%.*s.preparing", (int)name, out, (int)(length - name), out + name)) {
        return length && name < length ? false : fail(e, "\"%s\": is not a name for the output folder", out);
    }
    int count = list_folder(out, &names);
    free_names(names, count);
    if (count < 0 && errno != ENOENT) {
        return fail(e, "%s: cannot become the output folder: %s", out, strerror(errno));
    }
    if (count > 0) {
        return fail(e, "%s: already holds %s; choose another --out or remove it", out,
                    access(manifest, F_OK) ? "other files" : "prepared data");
    }
    if (mkdir(p->folder, 0777) && errno != EEXIST) {
        return fail(e, "%s: cannot be made: %s", out, strerror(errno));
    }
    p->lock = open(p->folder, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (p->lock < 0) {
        return fail(e, "%s: cannot be opened: %s", p->folder, strerror(errno));
    }
    if (flock(p->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        close(p->lock);
        p->lock = -1;
        return fail(e, "%s: another prepare is making this folder right now", out);
    }
    count = list_folder(p->folder, &names);
    for (int i = 0; i < count; i++) {
        char child[PATH_LIMIT];
        if (path_format(child, e, "%s/%s", p->folder, names[i]->d_name) && unlink(child)) {
            remove_directory(child);
        }
    }
    free_names(names, count);
    return true;
}

// Gives the finished folder its name. From here on it is whole, whatever happens.
static inline bool prepare_publish_(Preparation *p, Error *e) {
    const char *out = p->options->out;
    char parent[PATH_LIMIT];
    const char *slash = strrchr(p->folder, '/');
    if (!path_format(parent, e, "%.*s", slash ? (int)(slash - p->folder) + 1 : 1, slash ? p->folder : ".") ||
        !sync_directory(p->folder, e)) {
        return false;
    }
    if (rename(p->folder, out)) { // over an empty folder too
        return fail(e, "%s: cannot be renamed to %s: %s", p->folder, out, strerror(errno));
    }
    return sync_directory(parent, e);
}

static inline bool prepare_check_options_(const PrepareOptions *o, Error *e) {
    const char *texts[] = {o->text_key, o->tokenizer ? o->tokenizer : ""};
    bool valid = true;
    for (size_t i = 0; i < o->command_count + 2; i++) {
        const char *text = i < 2 ? texts[i] : o->command[i - 2];
        valid = valid && utf8_is_valid_(text, strlen(text));
    }
    return (valid || fail(e, "the command line is not valid UTF-8, so the manifest cannot hold it")) &&
           (o->input_count > 0 || fail(e, "--input: name at least one file or folder")) &&
           ((o->val_fraction >= 0 && o->val_fraction < 1) ||
            fail(e, "--val-fraction %g: must be at least 0 and less than 1", o->val_fraction)) &&
           (o->tokenizer || o->tokenizer_sample >= 1024 ||
            fail(e, "--tokenizer-sample %llu: must be at least 1024 bytes", (unsigned long long)o->tokenizer_sample));
}

static inline void prepare_sum_up_(Preparation *p) {
    PrepareReport *r = p->report;
    r->sources = p->sources.count;
    r->skipped_files = p->sources.skipped;
    r->vocab_size = p->tokenizer.vocab_size;
    r->train_documents = p->train.documents, r->train_tokens = p->train.tokens;
    r->val_documents = p->val.documents, r->val_tokens = p->val.tokens;
    for (size_t i = 0; i < p->sources.count; i++) {
        const Source *s = &p->sources.items[i];
        r->documents += s->documents, r->tokens += s->tokens, r->text_bytes += s->text_bytes;
        r->empty += s->empty, r->blank_lines += s->blank_lines;
        r->rejected_lines += s->rejected_lines, r->replaced += s->replaced;
    }
}

static inline bool prepare_run_(Preparation *p, Error *e) {
    const PrepareOptions *o = p->options;
    char path[PATH_LIMIT];
    if (!prepare_check_options_(o, e)) {
        return false;
    }
    for (size_t i = 0; i < o->input_count; i++) {
        if (!sources_add_(&p->sources, o->inputs[i], true, e)) {
            return false;
        }
    }
    if (p->sources.count == 0) {
        return fail(e, "%s: holds no .txt, .text, .md or .jsonl (also with .gz); %llu others were passed over",
                    o->inputs[0], (unsigned long long)p->sources.skipped);
    }
    if (!prepare_begin_folder_(p, e)) {
        return false;
    }
    if (!(o->tokenizer ? tokenizer_load(&p->tokenizer, o->tokenizer, e) : prepare_train_tokenizer_(p, e)) ||
        !encoder_init(&p->encoder, &p->tokenizer, e) || !path_format(path, e, "%s/tokenizer", p->folder)) {
        return false;
    }
    if (mkdir(path, 0777)) {
        return fail(e, "%s: cannot be made: %s", path, strerror(errno));
    }
    if (!tokenizer_save(&p->tokenizer, path, e) || !sync_directory(path, e) || !prepare_write_shards_(p, e)) {
        return false;
    }
    prepare_sum_up_(p);
    return prepare_write_manifest_(p, e) && prepare_publish_(p, e);
}

// Makes the folder o->out from the texts o->inputs: tokenizer, shards, manifest. It appears only when it is complete
// and on disk; after a failure nothing is left of it. The same input, options and command give the same bytes. No
// document vanishes silently: what is left out is counted in the report and in the manifest, and a file of JSON Lines
// of which half or more cannot be used is an error.
static inline bool prepare_corpus(const PrepareOptions *o, PrepareReport *r, Error *e) {
    *r = (PrepareReport){0};
    Preparation *p = calloc(1, sizeof *p);
    if (!p) {
        return fail(e, "prepare: no memory");
    }
    p->options = o;
    p->report = r;
    p->lock = -1;
    bool ok = prepare_run_(p, e);
    shard_abandon_(&p->train);
    shard_abandon_(&p->val);
    if (!ok && p->lock >= 0) {
        remove_directory(p->folder);
    }
    if (p->lock >= 0) {
        close(p->lock);
    }
    sample_free_(p);
    encoder_free(&p->encoder);
    tokenizer_free(&p->tokenizer);
    sources_free_(&p->sources);
    free(p->tokens.ids);
    free(p->pending);
    free(p->line);
    free(p);
    return ok;
}

#endif
