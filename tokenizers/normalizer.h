// normalizer.h: normalization as the "normalizer" of a tokenizer.json asks for it, a sequence of
// steps. A new kind of step (a Unicode normalization form, for example) is an operation here, a
// case of normalize_step_, and a type in json_components.h. If it changes characters other than
// those of its pattern and content, cut.h must know it.
#ifndef TOKENIZERS_NORMALIZER_H
#define TOKENIZERS_NORMALIZER_H

#include "tokenizers/normal_forms.h"
#include "tokenizers/tokens.h"
#include "tokenizers/unicode.h"
#include "util/text.h"

enum { STEP_TEXT = 32, MAX_STEPS = 8 };

typedef enum {
    NORMALIZE_UNSUPPORTED,
    NORMALIZE_PREPEND, // content
    NORMALIZE_REPLACE, // pattern by content
    NORMALIZE_SPACES,  // runs of two and more spaces by content
    NORMALIZE_STRIP,   // white space at the ends
    NORMALIZE_FORM,    // Unicode normalization form
    NORMALIZE_LOWERCASE
} NormalizeOperation;

typedef struct {
    NormalizeOperation operation;
    char pattern[STEP_TEXT], content[STEP_TEXT];
    size_t pattern_length, content_length;
    bool left, right; // STRIP
    NormalForm form;  // FORM
} NormalizeStep;

typedef struct {
    NormalizeStep steps[MAX_STEPS];
    size_t count;
    NormalForms forms; // for FORM and LOWERCASE
    bool has_forms;
} Normalizer;

static inline void normalizer_free(Normalizer *n) {
    normal_forms_free(&n->forms);
    *n = (Normalizer){0};
}

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
static inline bool normalize_step_(const NormalizeStep *step, const NormalForms *forms,
                                   const uint8_t *classes, const char *text, size_t n, int chunk,
                                   TextBuffer *out, Error *e) {
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
    case NORMALIZE_FORM:
        return form_append(forms, step->form, text, n, out, e);
    case NORMALIZE_LOWERCASE:
        return lower_append(forms, text, n, out, e);
    }
    return true;
}

// True if a text may be normalized in two halves, cut between these two characters that follow each
// other in it, and they stay as they are.
static inline bool normalizer_may_cut(const Normalizer *normalizer, const uint8_t *classes,
                                      const char *before, const char *after, const char *end) {
    const size_t length = (size_t)(after - before), rest = (size_t)(end - after);
    size_t n;
    if (normalizer->count == 0) {
        return true;
    }
    const int class = class_at(classes, before, after, &n);
    const int class_after = class_at(classes, after, end, &n);
    bool ok = class != CLASS_SPACE && class_after != CLASS_SPACE && n < rest;
    for (size_t i = 0; i < normalizer->count && ok; i++) {
        const NormalizeStep *s = &normalizer->steps[i];
        ok = !memmem(s->pattern, s->pattern_length, before, length) &&
             !memmem(s->pattern, s->pattern_length, after, n);
        if (s->operation == NORMALIZE_FORM) {
            const char *next = after + n;
            ok = form_is_stable(&normalizer->forms, s->form, before, length) &&
                 form_is_stable(&normalizer->forms, s->form, after, rest) &&
                 !form_joins_before(&normalizer->forms, s->form, next, (size_t)(end - next));
        } else if (s->operation == NORMALIZE_LOWERCASE) {
            ok = lower_is_stable(&normalizer->forms, before, length) &&
                 lower_is_stable(&normalizer->forms, after, rest);
        }
    }
    return ok;
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
        const NormalizeStep *step = &normalizer->steps[i];
        TextBuffer from = *out;
        if (step->operation == NORMALIZE_FORM &&
            form_holds(&normalizer->forms, step->form, from.data, from.length)) {
            continue;
        }
        if (!normalize_step_(step, &normalizer->forms, classes, from.data, from.length, chunk,
                             other, e)) {
            return false;
        }
        *out = *other;
        *other = from;
    }
    return true;
}

#endif
