// promises.h: Promises, and the folder that the files are in
#ifndef TEST_FUZZ_TARGETS_PROMISES_H
#define TEST_FUZZ_TARGETS_PROMISES_H

#include "test/fuzz_mutate.h"

__attribute__((format(printf, 2, 3))) static void promise(bool holds, const char *format, ...) {
    if (!holds) {
        va_list args;
        va_start(args, format);
        fputs("promise broken: ", stderr);
        vfprintf(stderr, format, args);
        fputc('\n', stderr);
        va_end(args);
        abort();
    }
}

static char folder[1024];           // in $FUZZ_FILES, else in memory
static pid_t owner;                 // the process that made it
static uint64_t accepted, rejected; // inputs
static const char *error_names;     // what error lines must name: the folder, or NULL

// Returns `ok`, the result of a reader. An error is one line that is not empty and names the file.
static bool answer(bool ok, const Error *e) {
    if (!ok) {
        size_t length = strlen(e->text);
        promise(length > 0, "a rejection without a message");
        for (size_t i = 0; i < length; i++) {
            promise((unsigned char)e->text[i] >= 0x20 && e->text[i] != 0x7F,
                    "a control character in an error line: %s", e->text);
        }
        promise(!error_names || strstr(e->text, error_names),
                "an error line that does not name the file: %s", e->text);
    }
    return ok;
}

static const char *path_of(const char *name) {
    static char paths[4][PATH_LIMIT]; // the last four stay valid
    static int next;
    Error e;
    char *path = paths[next = (next + 1) % 4];
    promise(path_format(path, &e, "%s/%s", folder, name), "%s", e.text);
    return path;
}

static void put_file(const char *name, const void *data, size_t size) {
    int file = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    promise(file >= 0 && write(file, data, size) == (ssize_t)size && close(file) == 0,
            "%s: cannot be written: %s", name, strerror(errno));
}

static void put_part(const char *name, InputPart part) {
    put_file(name, part.data, part.size);
}

// An empty part stands for a missing file.
static void put_part_if_any(const char *name, InputPart part) {
    if (part.size) {
        put_part(name, part);
    } else {
        unlink(path_of(name));
    }
}

#endif
