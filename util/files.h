// files.h: paths, reading and writing files, folders. Every failure is reported (a full disk at the
// latest when the file is closed), with the name of the file.
#ifndef UTIL_FILES_H
#define UTIL_FILES_H

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"
#include "util/sha256.h"

// ------------------------------------------------------------------------------------------------
// Paths

enum { PATH_LIMIT = 4096 };

// Formats a path into a buffer of PATH_LIMIT bytes. A longer path is an error.
__attribute__((format(printf, 3, 4))) static inline bool path_format(char *out, Error *e,
                                                                     const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(out, PATH_LIMIT, format, args);
    va_end(args);
    return (length >= 0 && length < PATH_LIMIT) ||
           fail(e, "%.200s...: the path is longer than the %d bytes supported", out,
                PATH_LIMIT - 1);
}

// The folder that holds `path`.
static inline bool path_parent(char *parent, const char *path, Error *e) {
    const char *slash = strrchr(path, '/');
    return slash ? path_format(parent, e, "%.*s", (int)(slash - path) + (slash == path), path)
                 : path_format(parent, e, ".");
}

// Whether `path` is an existing folder.
static inline bool is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

// ------------------------------------------------------------------------------------------------
// Reading

// Reads exactly `bytes` bytes at `offset`. If the file was truncated after it was opened, this is
// an error (a memory map would raise SIGBUS).
static inline bool read_at(int file, const char *path, void *out, size_t bytes, uint64_t offset,
                           Error *e) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(file, (char *)out + done, bytes - done, (off_t)(offset + done));
        if (n == 0) {
            return fail(e, "%s: ends before byte %llu: it was truncated", path,
                        (unsigned long long)(offset + bytes));
        }
        if (n < 0 && errno != EINTR) {
            return fail(e, "%s: cannot be read at byte %llu: %s", path, (unsigned long long)offset,
                        strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// Closes a descriptor; -1: there is none.
static inline void close_if_open(int file) {
    if (file >= 0) {
        close(file);
    }
}

// Opens a regular file of *bytes bytes for reading. Returns its descriptor, -1 on failure.
static inline int open_regular(const char *path, uint64_t *bytes, Error *e) {
    struct stat status;

    // O_NONBLOCK: do not wait for the writer of a named pipe.
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 || fstat(file, &status)) {
        fail(e, "%s: cannot be read: %s", path, strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        fail(e, "%s: is not a regular file", path);
    } else {
        *bytes = (uint64_t)status.st_size;
        return file;
    }
    close_if_open(file);
    return -1;
}

// Reads a complete file into a new buffer, followed by a NUL byte that *length does not count. A
// file of more than `limit` bytes is an error. Returns NULL on failure; the caller frees the
// buffer.
static inline char *read_file(const char *path, size_t limit, size_t *length, Error *e) {
    uint64_t bytes;
    char *data = NULL;
    int file = open_regular(path, &bytes, e);
    if (file < 0) {
        return NULL;
    }
    if (bytes > limit) {
        fail(e, "%s: has %llu bytes; at most %zu are supported", path, (unsigned long long)bytes,
             limit);
    } else if (!(data = malloc(bytes + 1))) {
        fail(e, "%s: no memory for its %llu bytes", path, (unsigned long long)bytes);
    } else if (!read_at(file, path, data, bytes, 0, e)) {
        free(data);
        data = NULL;
    } else {
        data[bytes] = 0;
        *length = bytes;
    }
    close(file);
    return data;
}

// Adds the first `bytes` bytes of an open file to a hash.
static inline bool sha256_add_file(Sha256 *hash, int file, const char *path, uint64_t bytes,
                                   Error *e) {
    unsigned char buffer[65536];
    bool ok = true;
    for (uint64_t at = 0; ok && at < bytes; at += sizeof buffer) {
        size_t n = bytes - at < sizeof buffer ? bytes - at : sizeof buffer;
        ok = read_at(file, path, buffer, n, at, e);
        sha256_add(hash, buffer, ok ? n : 0);
    }
    return ok;
}

// The SHA-256 of a regular file in hexadecimal.
static inline bool sha256_file(const char *path, char hex[SHA256_HEX], Error *e) {
    Sha256 hash;
    uint64_t bytes;
    int file = open_regular(path, &bytes, e);
    sha256_begin(&hash);
    bool ok = file >= 0 && sha256_add_file(&hash, file, path, bytes, e);
    close_if_open(file);
    sha256_end(&hash, hex);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Writing

// Writes `bytes` bytes at `offset`.
static inline bool write_at(int file, const char *path, const void *data, size_t bytes,
                            uint64_t offset, Error *e) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(file, (const char *)data + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR) {
            return fail(e, "%s: cannot be written at byte %llu: %s", path,
                        (unsigned long long)offset, strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// Writes `bytes` bytes to an open file.
static inline bool write_bytes(FILE *file, const char *path, const void *data, size_t bytes,
                               Error *e) {
    return fwrite(data, 1, bytes, file) == bytes ||
           fail(e, "%s: cannot be written: %s", path, strerror(errno));
}

// Syncs and closes a file that was written; its data is on disk when this returns true. `ok` says
// whether all went well so far; if not, *e keeps its message.
static inline bool close_written(FILE *file, const char *path, bool ok, Error *e) {
    bool written = fflush(file) == 0 && fsync(fileno(file)) == 0;
    written = fclose(file) == 0 && written;
    return ok && (written || fail(e, "%s: cannot be written: %s", path, strerror(errno)));
}

// The same for a descriptor; -1: the file could not be opened.
static inline bool close_written_at(int file, const char *path, bool ok, Error *e) {
    bool written = file >= 0 && fsync(file) == 0;
    written = file >= 0 && close(file) == 0 && written;
    return ok && (written || fail(e, "%s: cannot be written: %s", path, strerror(errno)));
}

// A file that is hashed while it is written.
typedef struct {
    FILE *file;
    char path[PATH_LIMIT];
    Sha256 hash;
} OutputFile;

// Creates a file.
static inline bool output_open(OutputFile *o, const char *path, Error *e) {
    o->file = NULL;
    if (!path_format(o->path, e, "%s", path)) {
        return false;
    }
    o->file = fopen(path, "wb");
    sha256_begin(&o->hash);
    return o->file || fail(e, "%s: cannot be created: %s", path, strerror(errno));
}

// Writes and hashes `bytes` bytes.
static inline bool output_write(OutputFile *o, const void *data, size_t bytes, Error *e) {
    sha256_add(&o->hash, data, bytes);
    return write_bytes(o->file, o->path, data, bytes, e);
}

// close_written; hex: the file's SHA-256.
static inline bool output_close(OutputFile *o, char hex[SHA256_HEX], bool ok, Error *e) {
    sha256_end(&o->hash, hex);
    return close_written(o->file, o->path, ok, e);
}

// ------------------------------------------------------------------------------------------------
// Folders

static inline int by_bytes_(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static inline int not_dots_(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

// Lists the names in a folder in byte order. Returns their number, or -1 with errno set. The caller
// frees *names with free_names.
static inline int list_folder(const char *path, struct dirent ***names) {
    return scandir(path, names, not_dots_, by_bytes_);
}

// Frees the names of list_folder; count may be -1.
static inline void free_names(struct dirent **names, int count) {
    for (int i = 0; i < count; i++) {
        free(names[i]);
    }
    free(names);
}

static inline void remove_directory(const char *path);

// Removes everything in a folder, as far as possible. Symbolic links are removed, not followed.
static inline void remove_contents(const char *path) {
    struct dirent **names = NULL;
    int count = list_folder(path, &names);
    for (int i = 0; i < count; i++) {
        char child[PATH_LIMIT];
        Error ignored;
        if (path_format(child, &ignored, "%s/%s", path, names[i]->d_name)) {
            remove_directory(child);
        }
    }
    free_names(names, count);
}

// Removes a folder and everything in it, as far as possible; of a link only the link.
static inline void remove_directory(const char *path) {
    if (unlink(path)) {
        remove_contents(path);
        rmdir(path);
    }
}

// Makes the files that were created, renamed or removed in a folder durable.
static inline bool sync_directory(const char *path, Error *e) {
    int folder = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = folder >= 0 && fsync(folder) == 0;
    ok = ok || fail(e, "%s: cannot be written to disk: %s", path, strerror(errno));
    close_if_open(folder);
    return ok;
}

// Writes a complete file; it is on disk when this returns true.
static inline bool write_file(const char *path, const void *data, size_t length, Error *e) {
    FILE *file = fopen(path, "wb");
    if (!file) {
        return fail(e, "%s: cannot be created: %s", path, strerror(errno));
    }
    return close_written(file, path, write_bytes(file, path, data, length, e), e);
}

// Creates or atomically replaces a file: after a crash or power failure it has either the old or
// the new content, complete.
static inline bool replace_file(const char *path, const void *data, size_t length, Error *e) {
    char temporary[PATH_LIMIT], folder[PATH_LIMIT];
    if (!path_format(temporary, e, "%s.new", path) || !path_parent(folder, path, e)) {
        return false;
    }
    if (!write_file(temporary, data, length, e)) {
        unlink(temporary);
        return false;
    }
    return (!rename(temporary, path) ||
            fail(e, "%s: cannot be replaced: %s", path, strerror(errno))) &&
           sync_directory(folder, e);
}

#endif
