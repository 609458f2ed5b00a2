// status_line.h: one line at the bottom of a terminal that is kept up to date in place, under the
// lines that stay. Where stdout is not a terminal there is no such line.
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

// Columns of the terminal, 80 if it does not say.
static inline int terminal_columns_(void) {
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// Shows a line in place of the last one, cut to the width of the terminal: a line that wrapped
// could not be taken back.
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

// Takes the line away, before a line that stays is printed.
static inline void status_line_clear(void) {
    if (status_line_is_on()) {
        printf("\r\033[K");
        fflush(stdout);
    }
}

#endif
