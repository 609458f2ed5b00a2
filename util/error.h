// error.h: how every function of this program reports a failure. Library code never prints and
// never exits: it returns false and leaves one line in an Error.
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

// Writes the line and returns false, so that a failing function ends in `return fail(e, ...)`. A
// control character, from a name or a value in a file, would break the line or drive the terminal:
// it becomes a question mark.
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

#endif
