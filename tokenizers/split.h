// split.h: the split expressions of GPT-2, GPT-4 and Qwen 2, matched by hand. Each cuts a text into
// pre-tokens, which no token of a byte-level BPE crosses. An expression that a tokenizer.json names
// becomes a SplitRule here (split_rule_find).
#ifndef TOKENIZERS_SPLIT_H
#define TOKENIZERS_SPLIT_H

#include "tokenizers/unicode.h"

typedef enum {
    SPLIT_GPT2,        // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    SPLIT_GPT2_DIGITS, // the same, after a pre-tokenizer that isolates every digit
    SPLIT_GPT4,        // cl100k, Llama 3: the first of split_rule_find
    SPLIT_GPT4_ONE_DIGIT // Qwen 2: the same with single digits
} SplitRule;

#define SPLIT_GPT4_TEXT_(digits)                                                                   \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

// The rule for an expression as tokenizer.json files write it; false if it is unknown.
static inline bool split_rule_find(const char *expression, SplitRule *rule) {
    static const struct {
        const char *expression;
        SplitRule rule;
    } known[] = {
        {SPLIT_GPT4_TEXT_("\\p{N}{1,3}"), SPLIT_GPT4},
        {SPLIT_GPT4_TEXT_("\\p{N}"), SPLIT_GPT4_ONE_DIGIT},
        {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
         SPLIT_GPT2},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!strcmp(expression, known[i].expression)) {
            *rule = known[i].rule;
            return true;
        }
    }
    return false;
}

// ------------------------------------------------------------------------------------------------
// GPT-2

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

// Bytes of the pre-token at the start of the text (length > 0), as SPLIT_GPT2 matches there. So: a
// contraction; else a run of one class, with a space before it; else white space.
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

// ------------------------------------------------------------------------------------------------
// GPT-4

// A contraction in upper or lower case. The only other character that folds to one of its letters
// is U+017F, the long s.
static inline size_t contraction_any_case_(const char *text, size_t length) {
    char lower[3] = {0};
    if (length >= 3 && !memcmp(text, "'\xC5\xBF", 3)) {
        return 3;
    }
    for (size_t i = 0; i < 3 && i < length; i++) {
        lower[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]);
    }
    return contraction_(lower, length < 3 ? length : 3);
}

static inline size_t line_ends_(const char *text, size_t length) {
    size_t n = 0;
    while (n < length && (text[n] == '\r' || text[n] == '\n')) {
        n++;
    }
    return n;
}

// Bytes of the white space at the start of the text (length > 0) that is one pre-token: up to the
// last line end in it; else as in GPT-2's.
static inline size_t space_length_gpt4_(const uint8_t *classes, const char *text, size_t length) {
    size_t last = class_run_length(classes, text, length, CLASS_SPACE, SIZE_MAX);
    while (last > 0 && !line_ends_(text + last - 1, 1)) {
        last--;
    }
    return last ? last : space_length_(classes, text, length);
}

// As pretoken_length for SPLIT_GPT4, in whose runs of numbers there are at most `digits`
// characters.
static inline size_t pretoken_length_gpt4_(const uint8_t *classes, const char *text, size_t length,
                                           size_t digits) {
    size_t n, contraction = contraction_any_case_(text, length);
    if (contraction) {
        return contraction;
    }

    // Letters, with one other character before them that is neither a number nor a line end.
    int class = class_at(classes, text, text + length, &n);
    size_t first = class == CLASS_LETTER || class == CLASS_NUMBER || line_ends_(text, 1) ? 0 : n;
    size_t letters =
        class_run_length(classes, text + first, length - first, CLASS_LETTER, SIZE_MAX);
    if (letters) {
        return first + letters;
    }
    if (class == CLASS_NUMBER) {
        return class_run_length(classes, text, length, CLASS_NUMBER, digits);
    }

    // Other characters, with a space before them and line ends after them.
    size_t space = *text == ' ' && length > 1;
    size_t others = class_run_length(classes, text + space, length - space, CLASS_OTHER, SIZE_MAX);
    if (others) {
        return space + others + line_ends_(text + space + others, length - space - others);
    }
    return space_length_gpt4_(classes, text, length);
}

// ------------------------------------------------------------------------------------------------

// Bytes of the pre-token at the start of the text (length > 0) by this rule.
static inline size_t split_length(SplitRule rule, const uint8_t *classes, const char *text,
                                  size_t length) {
    if (rule == SPLIT_GPT2) {
        return pretoken_length(classes, text, length);
    }
    if (rule != SPLIT_GPT2_DIGITS) {
        return pretoken_length_gpt4_(classes, text, length, rule == SPLIT_GPT4 ? 3 : 1);
    }

    // Each digit is a text of its own, and so is what lies between two digits.
    size_t n = 0, at = 0;
    while (at < length && class_at(classes, text + at, text + length, &n) != CLASS_NUMBER) {
        at += n;
    }
    return at == 0 ? n : pretoken_length(classes, text, at);
}

#endif
