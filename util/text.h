// text.h: a growing buffer of bytes.
#ifndef UTIL_TEXT_H
#define UTIL_TEXT_H

#include "util/array.h"

typedef struct {
    char *data;
    size_t length, capacity; // zero-initialise; the caller frees data
} TextBuffer;

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

#endif
