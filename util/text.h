// text.h: a growing buffer of bytes. text_append reports a failure immediately; text_put and
// text_format record it, so that a long text can be composed first and checked once, at the end.
#ifndef UTIL_TEXT_H
#define UTIL_TEXT_H

#include "util/array.h"

typedef struct {
    char *data;
    size_t length, capacity; // zero-initialize; the caller frees data
    bool failed;             // text_put ran out of memory: what followed is lost
} TextBuffer;

// Appends `length` bytes.
static inline bool text_append(TextBuffer *b, const char *text, size_t length, Error *e) {
    if (!array_reserve(&b->data, &b->capacity, b->length, length, 1, e)) {
        return false;
    }
    if (length) {
        memcpy(b->data + b->length, text, length);
    }
    b->length += length;
    return true;
}

// Appends `length` bytes and a NUL that `length` does not count.
static inline void text_put(TextBuffer *b, const char *text, size_t length) {
    Error reason;
    if (b->failed || !array_reserve(&b->data, &b->capacity, b->length, length + 1, 1, &reason)) {
        b->failed = true;
        return;
    }
    if (length > 0) { // else `text` may be NULL
        memcpy(b->data + b->length, text, length);
    }
    b->length += length;
    b->data[b->length] = 0;
}

// Appends formatted text of any length.
__attribute__((format(printf, 2, 3))) static inline void text_format(TextBuffer *b,
                                                                     const char *format, ...) {
    Error reason;
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);

    int length = vsnprintf(NULL, 0, format, args);
    b->failed |= length < 0 ||
                 !array_reserve(&b->data, &b->capacity, b->length, (size_t)length + 1, 1, &reason);
    if (!b->failed) {
        vsnprintf(b->data + b->length, (size_t)length + 1, format, again);
        b->length += (size_t)length;
    }
    va_end(again);
    va_end(args);
}

// Whether a text is one of a list, which ends with NULL.
static inline bool is_one_of(const char *text, const char *const *list) {
    while (*list && strcmp(*list, text)) {
        list++;
    }
    return *list != NULL;
}

#endif
