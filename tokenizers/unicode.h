// unicode.h: classes of characters (letter, number, white space, part of a word), as in the regex
// engine of Hugging Face `tokenizers`.
#ifndef TOKENIZERS_UNICODE_H
#define TOKENIZERS_UNICODE_H

#include "tokenizers/code_set.h"
#include "util/utf8.h"

enum { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE, CLASS_MASK_ = 3 };
enum { CLASS_WORD_ = 4 }; // a flag beside the class: may be part of a word (\w of Rust's regex)

// From here on there is no letter, number or white space; of parts of words only these marks:
enum { CLASSES_END_ = 0x40000 };
enum { VARIATION_SELECTORS_ = 0xE0100, VARIATION_SELECTORS_END_ = 0xE01F0 };

// Sets these bits for all members of a set.
static inline void set_class_bits_(uint8_t *classes, const CodeSet *set, uint8_t bits) {
    for (uint32_t w = 0; w < CLASSES_END_ / 64; w++) {
        for (uint64_t members = set->words[w]; members;) {
            classes[64 * w + code_set_take(&members)] |= bits;
        }
    }
}

// Class and flag of each code point below CLASSES_END_, one byte each. The caller frees the table;
// NULL and the error if there is no memory.
static inline uint8_t *character_classes(Error *e) {
    uint8_t *classes = calloc(CLASSES_END_, 1); // CLASS_OTHER
    CodeSet *sets = calloc(3, sizeof *sets);
    if (!classes || !sets) {
        fail(e, "tokenizer: out of memory for the character classes");
        free(classes);
        free(sets);
        return NULL;
    }

    code_set_add_categories(&sets[0], code_categories("L", 1));
    code_set_add_categories(&sets[1], code_categories("N", 1));
    code_set_add_spaces(&sets[2]);
    set_class_bits_(classes, &sets[0], CLASS_LETTER | CLASS_WORD_);
    set_class_bits_(classes, &sets[1], CLASS_NUMBER);
    set_class_bits_(classes, &sets[2], CLASS_SPACE);
    free(sets);

    uint8_t *at = classes;
    for (size_t i = 0; i + 1 < sizeof UNICODE_WORDS / sizeof *UNICODE_WORDS; i += 2) {
        at += UNICODE_WORDS[i];
        for (const uint8_t *end = at + UNICODE_WORDS[i + 1]; at < end; at++) {
            *at |= CLASS_WORD_;
        }
    }
    return classes;
}

// Class and length in bytes of the character at s < end. A byte that starts no character counts as
// one of class CLASS_OTHER.
static inline int class_at(const uint8_t *classes, const char *s, const char *end, size_t *length) {
    uint32_t c = (unsigned char)*s;
    *length = 1;
    if (c >= 0x80) {
        size_t n = utf8_decode(s, (size_t)(end - s), &c);
        if (n == 0) {
            return CLASS_OTHER;
        }
        *length = n;
    }
    return c < CLASSES_END_ ? classes[c] & CLASS_MASK_ : CLASS_OTHER;
}

// True if the character at text < end may be part of a word.
static inline bool is_word_at(const uint8_t *classes, const char *text, const char *end) {
    uint32_t c;
    if (!utf8_decode(text, (size_t)(end - text), &c)) {
        return false;
    }
    return c < CLASSES_END_ ? classes[c] & CLASS_WORD_
                            : c >= VARIATION_SELECTORS_ && c < VARIATION_SELECTORS_END_;
}

// Bytes of the run of one class at `text`, of at most `most` characters.
static inline size_t class_run_length(const uint8_t *classes, const char *text, size_t length,
                                      int class, size_t most) {
    size_t at = 0, n;
    for (; at < length && most > 0 && class_at(classes, text + at, text + length, &n) == class;
         most--) {
        at += n;
    }
    return at;
}

// Where the character that ends at `end` > 0 starts.
static inline size_t character_before(const char *text, size_t end) {
    size_t start = end - 1;
    while (start > 0 && end - start < 4 && ((unsigned char)text[start] & 0xC0) == 0x80) {
        start--;
    }
    return start;
}

// Bytes of the character that the lead byte announces, at most n: how both `tokenizers` and
// sentencepiece step through text, well-formed or not.
static inline size_t lead_byte_length(const char *s, size_t n) {
    unsigned char lead = (unsigned char)*s;
    size_t length = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    return length < n ? length : n;
}

// Bytes of white space at the beginning of the text.
static inline size_t leading_space_length(const uint8_t *classes, const char *text, size_t n) {
    return class_run_length(classes, text, n, CLASS_SPACE, SIZE_MAX);
}

// Bytes of white space at the end of the text.
static inline size_t trailing_space_length(const uint8_t *classes, const char *text, size_t n) {
    size_t end = n, length;
    while (end > 0) {
        size_t start = character_before(text, end);
        if (class_at(classes, text + start, text + end, &length) != CLASS_SPACE ||
            start + length != end) {
            break;
        }
        end = start;
    }
    return n - end;
}

#endif
