// error.h: error reporting. Library code never prints and never exits: a function that fails
// returns false and writes a one-line message to an Error.
#ifndef UTIL_ERROR_H
#define UTIL_ERROR_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char text[1024]; // what failed, where, and what would be right; empty if nothing failed
} Error;

// Formats the message and returns false, for `return fail(e, ...)`. Control characters, which may
// come from names or values in files, are replaced by question marks: they could break the line or
// control the terminal.
__attribute__((format(printf, 2, 3))) static inline bool fail(Error *e, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);

    for (char *c = e->text; *c; c++) {
        *c = (unsigned char)*c < 0x20 || *c == 0x7F ? '?' : *c;
    }
    return false;
}

// Where errors in a file go.
typedef struct {
    const char *path;
    Error *error;
} FileErrors;

// Reports what is wrong with the file; returns false.
__attribute__((format(printf, 2, 3))) static inline bool reject(const FileErrors *f,
                                                                const char *format, ...) {
    char what[sizeof f->error->text];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return fail(f->error, "%s: %s", f->path, what);
}

#endif
