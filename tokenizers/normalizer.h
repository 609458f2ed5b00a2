// normalizer.h: normalization as the "normalizer" of a tokenizer.json asks for it, a sequence of
// steps. A new kind of step (a Unicode normalization form, for example) is an operation here, a
// case of normalize_step_, and a type in json_components.h. If it changes characters other than
// those of its pattern and content, cut.h must know it.
#ifndef TOKENIZERS_NORMALIZER_H
#define TOKENIZERS_NORMALIZER_H

#include "tokenizers/tokens.h"
#include "tokenizers/unicode.h"
#include "util/text.h"

enum { STEP_TEXT = 32, MAX_STEPS = 8 };

typedef enum {
    NORMALIZE_UNSUPPORTED,
    NORMALIZE_PREPEND, // content
    NORMALIZE_REPLACE, // pattern by content
    NORMALIZE_SPACES,  // runs of two and more spaces by content
    NORMALIZE_STRIP    // white space at the ends
} NormalizeOperation;

typedef struct {
    NormalizeOperation operation;
    char pattern[STEP_TEXT], content[STEP_TEXT];
    size_t pattern_length, content_length;
    bool left, right; // STRIP
} NormalizeStep;

typedef struct {
    NormalizeStep steps[MAX_STEPS];
    size_t count;
} Normalizer;

// Appends text, each occurrence of the pattern (m > 0 bytes) replaced by the content.
static inline bool text_append_replaced(TextBuffer *out, const char *text, size_t n,
                                        const char *pattern, size_t m, const char *content,
                                        size_t content_length, Error *e) {
    for (size_t start = 0; start < n;) {
        const char *found = memmem(text + start, n - start, pattern, m);
        size_t end = found ? (size_t)(found - text) : n;
        if (!text_append(out, text + start, end - start, e) ||
            (found && !text_append(out, content, content_length, e))) {
            return false;
        }
        start = found ? end + m : n;
    }
    return true;
}

// Appends text, runs of two spaces and more replaced by the content.
static inline bool append_collapsed_(TextBuffer *out, const char *text, size_t n,
                                     const char *content, size_t content_length, Error *e) {
    for (size_t at = 0; at < n;) {
        const char *run = memmem(text + at, n - at, "  ", 2);
        size_t end = run ? (size_t)(run - text) : n;
        if (!text_append(out, text + at, end - at, e) ||
            (run && !text_append(out, content, content_length, e))) {
            return false;
        }
        for (at = end; at < n && text[at] == ' '; at++) {
        }
    }
    return true;
}

// Applies one step; *out is overwritten.
static inline bool normalize_step_(const NormalizeStep *step, const uint8_t *classes,
                                   const char *text, size_t n, int chunk, TextBuffer *out,
                                   Error *e) {
    size_t left = 0, right = 0;
    out->length = 0;
    switch (step->operation) {
    case NORMALIZE_UNSUPPORTED: // none is kept
        break;
    case NORMALIZE_PREPEND:
        return (n == 0 || chunk & TEXT_NOT_FIRST ||
                text_append(out, step->content, step->content_length, e)) &&
               text_append(out, text, n, e);
    case NORMALIZE_REPLACE:
        return text_append_replaced(out, text, n, step->pattern, step->pattern_length,
                                    step->content, step->content_length, e);
    case NORMALIZE_SPACES:
        return append_collapsed_(out, text, n, step->content, step->content_length, e);
    case NORMALIZE_STRIP:
        if (step->left && !(chunk & TEXT_NOT_FIRST)) {
            left = leading_space_length(classes, text, n);
        }
        if (step->right && !(chunk & TEXT_NOT_LAST)) {
            right = trailing_space_length(classes, text + left, n - left);
        }
        return text_append(out, text + left, n - left - right, e);
    }
    return true;
}

// Normalizes text into *out by way of *other; both are overwritten.
static inline bool normalizer_apply(const Normalizer *normalizer, const uint8_t *classes,
                                    const char *text, size_t n, int chunk, TextBuffer *out,
                                    TextBuffer *other, Error *e) {
    out->length = 0;
    if (!text_append(out, text, n, e)) {
        return false;
    }
    for (size_t i = 0; i < normalizer->count; i++) {
        TextBuffer from = *out;
        if (!normalize_step_(&normalizer->steps[i], classes, from.data, from.length, chunk, other,
                             e)) {
            return false;
        }
        *out = *other;
        *other = from;
    }
    return true;
}

#endif
