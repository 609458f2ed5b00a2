// format.h: how the page and the model card write text, numbers and durations.
#ifndef REPORT_FORMAT_H
#define REPORT_FORMAT_H

#include <math.h>

#include "util/json.h"
#include "util/text.h"

// ------------------------------------------------------------------------------------------------
// Escapes

static inline const char *html_entity_(uint32_t c) {
    switch (c) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    }
    return (c < 0x20 && c != '\t' && c != '\n') || c == 0xFFFE || c == 0xFFFF ? "\uFFFD" : NULL;
}

// Escapes for HTML and XML, text and attributes alike. Bytes that are not UTF-8 and characters that
// XML forbids become U+FFFD.
static inline void text_put_html(TextBuffer *w, const char *text) {
    for (size_t left = strlen(text), n; left > 0; text += n, left -= n) {
        uint32_t c = 0;
        n = utf8_decode(text, left, &c);
        const char *instead = n ? html_entity_(c) : "\uFFFD";
        n = n ? n : 1;
        instead ? text_put(w, instead, strlen(instead)) : text_put(w, text, n);
    }
}

// Escapes for the cell of a Markdown table.
static inline void text_put_markdown(TextBuffer *w, const char *text) {
    for (size_t left = strlen(text), n; left > 0; text += n, left -= n) {
        uint32_t c = 0;
        n = utf8_decode(text, left, &c);
        if (n == 0 || c < 0x20 || c == 0x7F) {
            text_put(w, n ? " " : "\uFFFD", n ? 1 : 3);
            n = 1;
        } else if (n == 1 && strchr("\\`*_{}[]<>()#!|&~", *text)) {
            text_format(w, "\\%c", *text);
        } else {
            text_put(w, text, n);
        }
    }
}

// Appends text, escaped, between two that are not.
static inline void html_between(TextBuffer *w, const char *before, const char *text,
                                const char *after) {
    text_put(w, before, strlen(before));
    text_put_html(w, text);
    text_put(w, after, strlen(after));
}

static inline void markdown_between(TextBuffer *w, const char *before, const char *text,
                                    const char *after) {
    text_put(w, before, strlen(before));
    text_put_markdown(w, text);
    text_put(w, after, strlen(after));
}

// Removes `ending` from the end of a text that has more than it.
static inline void cut_ending(char *text, const char *ending) {
    size_t length = strlen(text), end = strlen(ending);
    if (length > end && !strcmp(text + length - end, ending)) {
        text[length - end] = 0;
    }
}

// ------------------------------------------------------------------------------------------------
// Numbers

typedef struct {
    char text[128];
} ShortText;

// In few characters: 0.25, 3e-5, 12k, 1.5M, 2B, 1e20.
static inline ShortText number_short(double v) {
    static const struct {
        double from, unit;
        const char *letter;
    } units[] = {{1e12, 1e12, "T"}, {1e9, 1e9, "B"}, {1e6, 1e6, "M"}, {1e4, 1e3, "k"}};
    ShortText t;
    int exponent = v != 0 && isfinite(v) ? (int)floor(log10(fabs(v)) + 1e-9) : 0;
    if (exponent < -3 || exponent > 14) {
        snprintf(t.text, sizeof t.text, "%.3ge%d", v / pow(10, exponent), exponent);
        return t;
    }
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (fabs(v) >= units[i].from * 0.999999) {
            snprintf(t.text, sizeof t.text, "%.4g%s", v / units[i].unit, units[i].letter);
            return t;
        }
    }
    snprintf(t.text, sizeof t.text, "%.5g", v);
    return t;
}

// With a comma before each three digits.
static inline ShortText number_grouped(uint64_t value) {
    ShortText t = {""};
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value), at = 0;
    for (int i = 0; i < n; i++) {
        t.text[at++] = digits[i];
        if (i + 1 < n && (n - 1 - i) % 3 == 0) {
            t.text[at++] = ',';
        }
    }
    return t;
}

// A product of what files state, as an integer; 0 if it is out of range.
static inline uint64_t whole_number(double value) {
    return value >= 0 && value < 0x1p64 ? (uint64_t)value : 0;
}

// Hours:minutes:seconds.
static inline ShortText duration_text(double seconds) {
    ShortText t;
    unsigned long long s = seconds < 1e15 ? (unsigned long long)(seconds + 0.5) : 0;
    snprintf(t.text, sizeof t.text, "%llu:%02llu:%02llu", s / 3600, s / 60 % 60, s % 60);
    return t;
}

// ------------------------------------------------------------------------------------------------
// Values of a run's configuration

static inline bool is_scalar(const Json *node) {
    return node->kind != JSON_ARRAY && node->kind != JSON_OBJECT;
}

static inline const char *scalar_text(const Json *node) {
    if (!node || node->kind == JSON_NULL) {
        return "–";
    }
    if (!is_scalar(node)) {
        return "(several)";
    }
    return node->kind == JSON_BOOL ? (node->boolean ? "yes" : "no") : node->text;
}

// "compiler" of the line that describes a run, with the compiler's name. Old logs have __VERSION__
// alone, which only gcc begins with a digit.
static inline ShortText compiler_text(const Json *node) {
    ShortText t;
    const char *logged = scalar_text(node);
    snprintf(t.text, sizeof t.text, "%s%s", *logged >= '0' && *logged <= '9' ? "gcc " : "", logged);
    return t;
}

#endif
