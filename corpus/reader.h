// reader.h: a source read from its beginning or from some line on, in blocks, decompressed by gzip
// or zstd where it is compressed.
#ifndef CORPUS_READER_H
#define CORPUS_READER_H

#include <spawn.h> // posix_spawnp
#include <sys/wait.h>

#include "corpus/sources.h"

enum { READ_BLOCK = 1 << 18 }; // bytes read at a time

// The programs that decompress from standard input to standard output.
static const char *const decompressors_[] = {NULL, "gzip", "zstd"};

typedef struct {
    const Source *source;
    int input;          // the file
    int file;           // what is read: the file, or the pipe from what decompresses it
    pid_t decompressor; // its process, or 0
    char *data;
    size_t start, end, capacity; // data[start .. end) is read and not yet used
    uint64_t offset;             // of data[start] in the text as decompressed
    bool ended;                  // nothing follows data[end - 1]
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
    // Its standard error is discarded: this program prints the error line.
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int status = posix_spawnp(&r->decompressor, program, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    r->file = ends[0];
    (void)fcntl(r->file, F_SETPIPE_SZ, 1 << 20); // lets it work ahead; it may be refused
    if (status) {
        r->decompressor = 0;
        return fail(e, "%s: %s, which is needed to read it, cannot be started: %s", r->source->path,
                    program, strerror(status));
    }
    return true;
}

// Reads at least one more byte, or sets r->ended. Moves data, so keep no pointer into it.
static inline bool reader_more(Reader *r, Error *e) {
    if (r->start > 0) {
        memmove(r->data, r->data + r->start, r->end - r->start);
        r->end -= r->start;
        r->start = 0;
    }
    if (!array_reserve(&r->data, &r->capacity, r->end, READ_BLOCK, 1, e)) {
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

// Reads until `bytes` are there or nothing follows.
static inline bool reader_fill(Reader *r, size_t bytes, Error *e) {
    while (r->end - r->start < bytes && !r->ended) {
        if (!reader_more(r, e)) {
            return false;
        }
    }
    return true;
}

// Takes the next bytes as used.
static inline void reader_consume(Reader *r, size_t bytes) {
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
            reader_consume(r, (size_t)(newline - (r->data + r->start)) + 1);
            return true;
        }
        reader_consume(r, r->end - r->start);
        if (!reader_more(r, e)) {
            return false;
        }
    }
    r->offset = end;
    return true;
}

// Opens a source: from its beginning, behind the byte order mark if there is one, or at the first
// line that begins in [begin, end). reader_close releases the reader, also after a failure.
static inline bool reader_open(Reader *r, const Source *source, uint64_t begin, uint64_t end,
                               Error *e) {
    uint64_t bytes;
    *r = (Reader){.source = source, .input = open_regular(source->path, &bytes, e), .file = -1};
    if (r->input < 0 || !source_unchanged(source, e) ||
        (source->compression && !reader_decompress_(r, e))) {
        return false;
    }
    r->file = source->compression ? r->file : r->input;
    if (begin > 0) {
        return reader_skip_to_line_(r, begin, end, e);
    }
    if (!reader_fill(r, 3, e)) {
        return false;
    }
    if (r->end >= 3 && !memcmp(r->data, "\xEF\xBB\xBF", 3)) {
        reader_consume(r, 3);
    }
    return true;
}

// `ok` says whether all went well so far; if so, the decompressor must have ended well, and the
// file must be what it was.
static inline bool reader_close(Reader *r, bool ok, Error *e) {
    int status = 0;
    if (r->file >= 0 && r->file != r->input) {
        close(r->file);
    }
    close_if_open(r->input);
    if (r->decompressor) {
        while (waitpid(r->decompressor, &status, 0) < 0 && errno == EINTR) {
        }
    }
    free(r->data);
    if (!ok || !source_unchanged(r->source, e)) {
        return false;
    }
    const char *program = decompressors_[r->source->compression];
    return status == 0 ||
           fail(e, "%s: %s -dc ended with status %d: the file is damaged or not compressed by %s",
                r->source->path, program,
                WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), program);
}

static inline bool reader_at_end(const Reader *r) {
    return r->ended && r->start == r->end;
}

// Bytes of the source's file that were taken so far, from `begin` on, where the reader began.
static inline uint64_t reader_source_bytes(const Reader *r, uint64_t begin) {
    if (!r->source->compression) {
        return r->offset - begin;
    }
    off_t at = lseek(r->input, 0, SEEK_CUR); // what the decompressor has taken
    return at > 0 ? (uint64_t)at : 0;
}

#endif
