// code_set.h: sets of code points, and the named ones of regular expressions: general categories,
// scripts, white space.
#ifndef TOKENIZERS_CODE_SET_H
#define TOKENIZERS_CODE_SET_H

#include <ctype.h>

#include "tokenizers/unicode_tables.h"
#include "util/error.h"

enum { CODE_POINTS = 0x110000 };

typedef struct {
    uint64_t words[CODE_POINTS / 64]; // a bit for each code point
} CodeSet;

static inline bool code_set_has(const CodeSet *s, uint32_t c) {
    return s->words[c / 64] >> (c % 64) & 1;
}

// Takes the lowest member out of a word of a set (not 0); returns its place in the word.
static inline uint32_t code_set_take(uint64_t *word) {
    const uint32_t place = (uint32_t)__builtin_ctzll(*word);
    *word &= *word - 1;
    return place;
}

// Adds low .. high.
static inline void code_set_add(CodeSet *s, uint32_t low, uint32_t high) {
    for (uint32_t c = low; c <= high && c < CODE_POINTS; c++) {
        if (c % 64 == 0 && high - c >= 63) {
            s->words[c / 64] = UINT64_MAX;
            c += 63;
        } else {
            s->words[c / 64] |= (uint64_t)1 << (c % 64);
        }
    }
}

static inline void code_set_unite(CodeSet *s, const CodeSet *other) {
    for (size_t i = 0; i < CODE_POINTS / 64; i++) {
        s->words[i] |= other->words[i];
    }
}

static inline void code_set_invert(CodeSet *s) {
    for (size_t i = 0; i < CODE_POINTS / 64; i++) {
        s->words[i] = ~s->words[i];
    }
}

// Adds the 25 characters that are white space.
static inline void code_set_add_spaces(CodeSet *s) {
    static const uint16_t ranges[][2] = {
        {0x9, 0xD},       {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
        {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        code_set_add(s, ranges[i][0], ranges[i][1]);
    }
}

// Adds all characters of some general categories; bit k of `categories` stands for category k.
static inline void code_set_add_categories(CodeSet *s, uint32_t categories) {
    uint32_t c = 0;
    for (size_t i = 0; i < sizeof UNICODE_CATEGORIES / sizeof *UNICODE_CATEGORIES; i++) {
        const uint32_t length = UNICODE_CATEGORIES[i] >> 5, category = UNICODE_CATEGORIES[i] & 31;
        if (categories >> category & 1) {
            code_set_add(s, c, c + length - 1);
        }
        c += length;
    }
}

// The general categories whose abbreviations begin with this one or two letters, as bits; 0 if
// there are none.
static inline uint32_t code_categories(const char *name, size_t length) {
    uint32_t found = 0;
    for (uint32_t k = 0; k < CATEGORIES && (length == 1 || length == 2); k++) {
        const char *category = &UNICODE_CATEGORY_NAMES[2 * k];
        bool same = tolower((unsigned char)name[0]) == tolower((unsigned char)category[0]) &&
                    (length == 1 || tolower((unsigned char)name[1]) == category[1]);
        found |= (uint32_t)same << k;
    }
    return found;
}

// The same for their long names, where files use them.
static inline uint32_t code_categories_long(const char *name, size_t length) {
    static const char *const names[][2] = {
        {"letter", "L"},
        {"number", "N"},
        {"mark", "M"},
        {"punctuation", "P"},
        {"symbol", "S"},
        {"separator", "Z"},
        {"other", "C"},
        {"uppercase_letter", "Lu"},
        {"lowercase_letter", "Ll"},
        {"decimal_number", "Nd"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i][0]) == length && !strncasecmp(names[i][0], name, length)) {
            return code_categories(names[i][1], strlen(names[i][1]));
        }
    }
    return 0;
}

static inline bool code_set_add_script_(CodeSet *s, const char *name, size_t length) {
    for (size_t i = 0; i < sizeof UNICODE_SCRIPTS / sizeof *UNICODE_SCRIPTS; i++) {
        if (strlen(UNICODE_SCRIPTS[i].name) != length ||
            strncasecmp(UNICODE_SCRIPTS[i].name, name, length) != 0) {
            continue;
        }
        uint32_t c = 0;
        for (uint32_t k = 0; k + 1 < UNICODE_SCRIPTS[i].count; k += 2) {
            c += UNICODE_SCRIPTS[i].lengths[k];
            code_set_add(s, c, c + UNICODE_SCRIPTS[i].lengths[k + 1] - 1);
            c += UNICODE_SCRIPTS[i].lengths[k + 1];
        }
        return true;
    }
    return false;
}

// Adds the characters with a property: a general category (L, Lu, Letter) or a script (Han). False
// if the name is not known.
static inline bool code_set_add_property(CodeSet *s, const char *name, size_t length) {
    uint32_t categories = code_categories(name, length);
    categories = categories ? categories : code_categories_long(name, length);
    if (categories) {
        code_set_add_categories(s, categories);
        return true;
    }
    return code_set_add_script_(s, name, length);
}

#endif
