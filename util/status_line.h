// status_line.h: a status line at the bottom of the terminal, updated in place below permanent
// output. If stdout is not a terminal, there is none.
#ifndef UTIL_STATUS_LINE_H
#define UTIL_STATUS_LINE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// Whether stdout is a terminal that can rewrite a line.
static inline bool status_line_is_on(void) {
    const char *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && term && strcmp(term, "dumb");
}

// Columns of the terminal, 80 if unknown.
static inline int terminal_columns_(void) {
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// Replaces the status line, truncated to the width of the terminal: a wrapped line could not be
// erased.
__attribute__((format(printf, 1, 2))) static inline void status_line_show(const char *format, ...) {
    char text[512];
    va_list args;
    if (!status_line_is_on()) {
        return;
    }
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    printf("\r%.*s\033[K", terminal_columns_() - 1, text);
    fflush(stdout);
}

// Erases the status line, before permanent output.
static inline void status_line_clear(void) {
    if (status_line_is_on()) {
        printf("\r\033[K");
        fflush(stdout);
    }
}

#endif
