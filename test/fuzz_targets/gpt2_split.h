// gpt2_split.h: GPT-2's split expression matched by hand, which the automaton must agree with.
#ifndef TEST_FUZZ_TARGETS_GPT2_SPLIT_H
#define TEST_FUZZ_TARGETS_GPT2_SPLIT_H

#include "tokenizers/unicode.h"

static inline size_t contraction_(const char *text, size_t length) {
    static const char *const endings[] = {"s", "t", "m", "d", "re", "ve", "ll"};
    for (size_t i = 0; *text == '\'' && i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i]);
        if (length > n && !memcmp(text + 1, endings[i], n)) {
            return 1 + n;
        }
    }
    return 0;
}

// Bytes of the white space at the start of the text, which has some, that is one pre-token: all but
// the last character if something follows, since that character may be the space of the next match.
static inline size_t space_length_(const uint8_t *classes, const char *text, size_t length) {
    const char *end = text + length, *at = text, *last = text;
    for (size_t n; at < end && class_at(classes, at, end, &n) == CLASS_SPACE; at += n) {
        last = at;
    }
    return (size_t)(at == end || last == text ? at - text : last - text);
}

// Bytes of the pre-token at the start of the text (length > 0), as GPT2_EXPRESSION matches
// there. So: a contraction; else a run of one class, with a space before it; else white space.
static inline size_t pretoken_length(const uint8_t *classes, const char *text, size_t length) {
    const char *end = text + length, *at = text;
    size_t n = contraction_(text, length);
    if (n) {
        return n;
    }

    at += *text == ' ' && length > 1;
    int class = class_at(classes, at, end, &n);
    if (class == CLASS_SPACE) {
        return space_length_(classes, text, length);
    }
    do {
        at += n;
    } while (at < end && class_at(classes, at, end, &n) == class);
    return (size_t)(at - text);
}

#endif
