// tokenizer.h: byte-level BPE of GPT-2's kind: load, save, encode, decode; tokenizer_train.h makes new ones.
//
// Text is cut into pre-tokens by GPT-2's split expression; inside a pre-token, bytes are merged by rank (Sennrich et
// al. 2016, over bytes as in Radford et al. 2019). The ids are those that Hugging Face `tokenizers` gives with the
// tokenizer.json that tokenizer_save writes. No normalizer, no other split expression, no Unigram: tokenizer_load says
// so in one line.
//
//     Tokenizer t;                  Encoder encoder;   // one per thread
//     tokenizer_load(&t, dir, &e);  encoder_init(&encoder, &t, &e);
//     tokenizer_save(&t, dir, &e);  encoder_encode(&encoder, text, n, &ids, &e);
//     tokenizer_free(&t);           encoder_free(&encoder);
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access, fsync

#include "json.h" // Error, fail, utf8_*, the JSON reader and writer

// Ids have 21 bits and ranks 22, so that a pair of ids and its rank fill one word of the pair table.
enum { TOKENIZER_MAX_VOCAB = (1 << 21) - 1, TOKENIZER_MAX_MERGES = (1 << 22) - 1 };

static const size_t TOKENIZER_MAX_FILE_ = (size_t)1 << 28; // bytes of a tokenizer.json
static const char END_OF_DOCUMENT_TEXT[] = "<|endoftext|>";

// ---------------------------------------------------------------------------------------------------------------------
// Growing arrays, hashes, and the heap that encoder and trainer take their next merge from

// Makes room for `more` elements of `size` bytes after the `count` first ones of *array, with space to grow.
static inline bool reserve_(void *array, size_t *capacity, size_t count, size_t more, size_t size, Error *e) {
    size_t wanted, bytes;
    void *memory;
    if (*capacity - count >= more) {
        return true;
    }
    memcpy(&memory, array, sizeof memory);
    if (__builtin_add_overflow(count, more, &wanted) || __builtin_mul_overflow(wanted, 2 * size, &bytes) ||
        !(memory = realloc(memory, bytes))) {
        return fail(e, "tokenizer: no memory for %zu more elements of %zu bytes", more, size);
    }
    memcpy(array, &memory, sizeof memory);
    *capacity = 2 * wanted;
    return true;
}

// FNV-1a; starts at HASH_START_ and may go on over several strings.
static const uint64_t HASH_START_ = 0xCBF29CE484222325u;

static inline uint64_t hash_bytes_(uint64_t hash, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    }
    return hash;
}

static inline uint64_t hash_mix_(uint64_t hash) {
    hash = (hash ^ hash >> 32) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

// Smallest `major` first, then smallest `minor`.
typedef struct {
    uint64_t major, minor;
    uint32_t item;
} HeapEntry_;

typedef struct {
    HeapEntry_ *entries;
    size_t count, capacity;
} Heap_;

static inline bool heap_before_(const HeapEntry_ *a, const HeapEntry_ *b) {
    return a->major != b->major ? a->major < b->major : a->minor < b->minor;
}

static inline bool heap_push_(Heap_ *h, HeapEntry_ entry, Error *e) {
    if (!reserve_(&h->entries, &h->capacity, h->count, 1, sizeof entry, e)) {
        return false;
    }
    size_t i = h->count++;
    for (; i > 0 && heap_before_(&entry, &h->entries[(i - 1) / 2]); i = (i - 1) / 2) {
        h->entries[i] = h->entries[(i - 1) / 2];
    }
    h->entries[i] = entry;
    return true;
}

static inline HeapEntry_ heap_pop_(Heap_ *h) {
    HeapEntry_ top = h->entries[0], last = h->entries[--h->count];
    size_t i = 0;
    for (size_t child = 1; child < h->count; child = 2 * i + 1) {
        child += child + 1 < h->count && heap_before_(&h->entries[child + 1], &h->entries[child]);
        if (!heap_before_(&h->entries[child], &last)) {
            break;
        }
        h->entries[i] = h->entries[child];
        i = child;
    }
    h->entries[i] = last;
    return top;
}

// ---------------------------------------------------------------------------------------------------------------------
// UTF-8 repair

// Bytes of the ill-formed sequence at s that one U+FFFD stands for: the longest start of a well-formed character, else
// one byte (Unicode 15, section 3.9, "substitution of maximal subparts"). No character may start at s.
static inline size_t utf8_maximal_subpart_(const char *s, size_t length) {
    const unsigned char *u = (const unsigned char *)s;
    size_t wanted = u[0] < 0xC2 || u[0] > 0xF4 ? 1 : u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : 4;
    // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
    unsigned low = u[0] == 0xE0 ? 0xA0 : u[0] == 0xF0 ? 0x90 : 0x80;
    unsigned high = u[0] == 0xED ? 0x9F : u[0] == 0xF4 ? 0x8F : 0xBF;
    size_t n = 1;
    for (; n < wanted && n < length && u[n] >= low && u[n] <= high; n++) {
        low = 0x80, high = 0xBF;
    }
    return n;
}

// Copies text, replacing each ill-formed sequence by U+FFFD just as Python's bytes.decode("utf-8", "replace") does.
// `out` has room for 3 * length bytes. Returns the bytes written and adds the replacements to *replaced. *consumed is
// `length` if this is the `final` block of a stream, else up to 3 bytes less: a character cut off by the end of the
// block, which the caller puts in front of the next block.
static inline size_t utf8_sanitize(char *out, const char *text, size_t length, bool final, size_t *consumed,
                                   uint64_t *replaced) {
    size_t written = 0, i = 0;
    while (i < length) {
        size_t n = utf8_decode(text + i, length - i, NULL);
        const char *from = text + i;
        size_t copied = n;
        if (n == 0) {
            unsigned char lead = (unsigned char)text[i];
            n = utf8_maximal_subpart_(text + i, length - i);
            if (!final && i + n == length && lead >= 0xC2 && lead <= 0xF4) {
                break;
            }
            from = "\xEF\xBF\xBD", copied = 3;
            ++*replaced;
        }
        for (size_t k = 0; k < copied; k++) {
            out[written++] = from[k];
        }
        i += n;
    }
    *consumed = i;
    return written;
}

// ---------------------------------------------------------------------------------------------------------------------
// Character classes, as in the regex engine of Hugging Face `tokenizers` (Unicode 14 and what came up to 16)

enum { CLASS_OTHER_, CLASS_LETTER_, CLASS_NUMBER_, CLASS_SPACE_ };
enum { CLASSES_END_ = 0x40000 }; // no letter, number or white space from here on

// \p{L} and \p{N}: alternately the length of a gap and of a run of members, from U+0000 up; by
// scripts/unicode_tables.py.
// clang-format off
static const uint16_t UNICODE_LETTERS_[] = {
    65, 26, 6, 26, 47, 1, 10, 1, 4, 1, 5, 23, 1, 31, 1, 458, 4, 12, 14, 5, 7, 1, 1, 1, 129, 5, 1, 2, 2, 4, 1,
    1, 6, 1, 1, 3, 1, 1, 1, 20, 1, 83, 1, 139, 8, 166, 1, 38, 2, 1, 6, 41, 71, 27, 4, 4, 45, 43, 35, 2, 1, 99,
    1, 1, 15, 2, 7, 2, 10, 3, 2, 1, 16, 1, 1, 30, 29, 89, 11, 1, 24, 33, 9, 2, 4, 1, 5, 22, 4, 1, 9, 1, 3, 1,
    23, 25, 7, 11, 5, 24, 1, 6, 17, 42, 58, 54, 3, 1, 18, 1, 7, 10, 15, 16, 4, 8, 2, 2, 2, 22, 1, 7, 1, 1, 3,
    4, 3, 1, 16, 1, 13, 2, 1, 3, 14, 2, 10, 1, 8, 6, 4, 2, 2, 22, 1, 7, 1, 2, 1, 2, 1, 2, 31, 4, 1, 1, 19, 3,
    16, 9, 1, 3, 1, 22, 1, 7, 1, 2, 1, 5, 3, 1, 18, 1, 15, 2, 23, 1, 11, 8, 2, 2, 2, 22, 1, 7, 1, 2, 1, 5, 3,
    1, 30, 2, 1, 3, 15, 1, 17, 1, 1, 6, 3, 3, 1, 4, 3, 2, 1, 1, 1, 2, 3, 2, 3, 3, 3, 12, 22, 1, 52, 8, 1, 3,
    1, 23, 1, 16, 3, 1, 26, 3, 2, 1, 2, 2, 30, 1, 4, 8, 1, 3, 1, 23, 1, 10, 1, 5, 3, 1, 31, 2, 1, 2, 15, 2,
    17, 9, 1, 3, 1, 41, 2, 1, 16, 1, 5, 3, 8, 3, 24, 6, 5, 18, 3, 24, 1, 9, 1, 1, 2, 7, 58, 48, 1, 2, 12, 7,
    58, 2, 1, 1, 1, 5, 1, 24, 1, 1, 1, 10, 1, 2, 9, 1, 2, 5, 1, 1, 21, 4, 32, 1, 63, 8, 1, 36, 27, 5, 115, 43,
    20, 1, 16, 6, 4, 4, 3, 1, 3, 2, 7, 3, 4, 13, 12, 1, 17, 38, 1, 1, 5, 1, 2, 43, 1, 333, 1, 4, 2, 7, 1, 1,
    1, 4, 2, 41, 1, 4, 2, 33, 1, 4, 2, 7, 1, 1, 1, 4, 2, 15, 1, 57, 1, 4, 2, 67, 37, 16, 16, 86, 2, 6, 3, 620,
    2, 17, 1, 26, 5, 75, 6, 8, 7, 18, 13, 19, 14, 18, 14, 13, 1, 3, 15, 52, 35, 1, 4, 1, 67, 89, 7, 5, 2, 34,
    1, 1, 5, 70, 10, 31, 49, 30, 2, 5, 11, 44, 4, 26, 54, 23, 9, 53, 82, 1, 93, 47, 17, 8, 54, 30, 13, 2, 10,
    44, 26, 36, 41, 3, 10, 36, 2, 11, 5, 43, 2, 3, 41, 4, 1, 6, 1, 2, 3, 1, 5, 192, 64, 278, 2, 6, 2, 38, 2,
    6, 2, 8, 1, 1, 1, 1, 1, 1, 1, 31, 2, 53, 1, 7, 1, 1, 3, 3, 1, 7, 3, 4, 2, 6, 4, 13, 5, 3, 1, 7, 116, 1,
    13, 1, 16, 13, 101, 1, 4, 1, 2, 10, 1, 1, 3, 5, 6, 1, 1, 1, 1, 1, 1, 4, 1, 11, 2, 4, 5, 5, 4, 1, 52, 2,
    2683, 229, 6, 4, 3, 2, 12, 38, 1, 1, 5, 1, 2, 56, 7, 1, 16, 23, 9, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7,
    1, 7, 80, 1, 469, 2, 42, 5, 5, 2, 4, 86, 6, 3, 1, 90, 1, 4, 5, 43, 1, 94, 17, 32, 48, 16, 512, 6592, 64,
    22157, 67, 46, 2, 269, 3, 16, 10, 2, 20, 47, 16, 31, 2, 70, 49, 9, 2, 103, 2, 67, 2, 2, 1, 1, 1, 8, 21,
    16, 1, 3, 1, 4, 1, 23, 29, 52, 14, 50, 62, 6, 3, 1, 1, 2, 11, 28, 10, 23, 25, 29, 7, 47, 28, 1, 16, 5, 1,
    10, 10, 5, 1, 41, 23, 3, 1, 8, 20, 23, 3, 1, 3, 50, 1, 1, 3, 2, 2, 5, 2, 1, 1, 1, 24, 3, 2, 11, 7, 3, 12,
    6, 2, 6, 2, 6, 9, 7, 1, 7, 1, 43, 1, 14, 6, 115, 29, 11172, 12, 23, 4, 49, 8452, 366, 2, 106, 38, 7, 12,
    5, 5, 1, 1, 10, 1, 13, 1, 5, 1, 1, 1, 2, 1, 2, 1, 108, 33, 363, 18, 64, 2, 54, 40, 12, 116, 5, 1, 135, 36,
    26, 6, 26, 11, 89, 3, 6, 2, 6, 2, 6, 2, 3, 35, 12, 1, 26, 1, 19, 1, 2, 1, 15, 2, 14, 34, 123, 389, 29, 3,
    49, 47, 32, 13, 20, 1, 8, 6, 38, 10, 30, 2, 36, 4, 8, 48, 158, 18, 36, 4, 36, 4, 40, 8, 52, 12, 11, 1, 15,
    1, 7, 1, 2, 1, 11, 1, 15, 1, 7, 1, 2, 3, 52, 12, 311, 9, 22, 10, 8, 24, 6, 1, 42, 1, 9, 69, 6, 2, 1, 1,
    44, 1, 2, 3, 1, 2, 23, 10, 23, 9, 31, 65, 19, 1, 2, 10, 22, 10, 26, 70, 56, 6, 2, 64, 1, 15, 4, 1, 3, 1,
    29, 42, 29, 3, 29, 35, 8, 1, 28, 27, 54, 10, 22, 10, 19, 13, 18, 110, 73, 55, 51, 13, 51, 13, 36, 38, 28,
    9, 23, 250, 42, 6, 2, 16, 3, 59, 29, 10, 1, 8, 22, 42, 18, 46, 21, 27, 23, 12, 53, 57, 2, 2, 1, 13, 45,
    32, 25, 26, 36, 29, 1, 2, 1, 8, 35, 3, 1, 12, 48, 14, 4, 21, 1, 1, 1, 35, 18, 1, 25, 19, 2, 63, 7, 1, 1,
    1, 4, 1, 15, 1, 10, 7, 47, 38, 8, 2, 2, 2, 22, 1, 7, 1, 2, 1, 5, 3, 1, 18, 1, 12, 5, 30, 10, 1, 1, 2, 1,
    1, 38, 1, 1, 25, 1, 1, 1, 44, 53, 18, 4, 20, 3, 30, 48, 20, 2, 1, 1, 184, 47, 41, 4, 36, 48, 20, 1, 59,
    43, 13, 1, 71, 27, 37, 7, 185, 44, 116, 64, 31, 8, 2, 1, 2, 8, 1, 2, 1, 24, 15, 1, 1, 1, 94, 8, 2, 39, 16,
    1, 1, 1, 28, 1, 10, 40, 7, 1, 21, 1, 11, 46, 19, 1, 18, 73, 199, 33, 31, 9, 1, 37, 17, 1, 49, 30, 112, 7,
    1, 2, 1, 38, 21, 1, 25, 6, 1, 2, 1, 32, 14, 1, 327, 19, 15, 1, 1, 13, 1, 34, 124, 1, 79, 922, 230, 196,
    2636, 97, 15, 1072, 17, 6, 25, 3995, 5, 583, 6841, 30, 1762, 569, 7, 31, 17, 79, 17, 30, 18, 48, 16, 4,
    31, 21, 5, 19, 432, 45, 211, 64, 128, 75, 5, 1, 66, 13, 64, 2, 1, 1, 28, 6136, 8, 1238, 41, 10, 8935, 4,
    1, 7, 1, 2, 1, 291, 15, 1, 29, 3, 2, 1, 14, 4, 8, 396, 2308, 107, 5, 13, 3, 9, 7, 10, 5990, 85, 1, 71, 1,
    2, 2, 1, 2, 2, 2, 4, 1, 12, 1, 1, 1, 7, 1, 65, 1, 4, 2, 8, 1, 7, 1, 28, 1, 4, 1, 5, 1, 1, 3, 7, 1, 340, 2,
    25, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 8, 1844, 31, 6, 6, 261, 62, 146, 45,
    10, 7, 16, 1, 321, 30, 18, 44, 484, 28, 228, 30, 2, 1, 495, 7, 1, 4, 1, 2, 1, 15, 1, 197, 59, 68, 7, 1,
    1204, 4, 1, 27, 1, 2, 1, 1, 2, 1, 1, 10, 1, 4, 1, 1, 1, 1, 6, 1, 4, 1, 1, 1, 1, 1, 1, 3, 1, 2, 1, 1, 2, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 2, 4, 1, 7, 1, 4, 1, 4, 1, 1, 1, 10, 1, 17, 5, 3, 1, 5, 1, 17, 4420,
    42720, 32, 4154, 6, 222, 2, 5762, 14, 7473, 15, 622, 2466, 542, 1506, 4939, 5, 4192,
};
static const uint16_t UNICODE_NUMBERS_[] = {
    48, 10, 120, 2, 5, 1, 2, 3, 1441, 10, 134, 10, 198, 10, 412, 10, 118, 10, 4, 6, 108, 10, 118, 10, 118, 10,
    2, 6, 110, 13, 115, 10, 8, 7, 103, 10, 104, 7, 7, 19, 109, 10, 96, 10, 118, 10, 70, 20, 268, 10, 70, 10,
    719, 20, 881, 3, 239, 10, 6, 10, 22, 10, 300, 10, 128, 11, 165, 10, 6, 10, 182, 10, 86, 10, 134, 10, 6,
    10, 1046, 1, 3, 6, 6, 10, 198, 51, 2, 5, 726, 60, 78, 22, 630, 30, 1385, 1, 777, 1, 25, 9, 14, 3, 343, 4,
    138, 10, 30, 8, 1, 15, 32, 10, 39, 15, 29536, 10, 188, 10, 320, 6, 154, 10, 38, 10, 198, 10, 22, 10, 86,
    10, 406, 10, 21270, 10, 493, 45, 12, 57, 17, 2, 341, 27, 36, 4, 29, 1, 8, 1, 134, 5, 202, 10, 942, 8, 25,
    7, 39, 9, 75, 5, 22, 6, 160, 2, 2, 16, 2, 46, 64, 9, 52, 2, 30, 3, 75, 5, 104, 8, 24, 8, 41, 7, 330, 6,
    48, 10, 6, 10, 278, 31, 158, 10, 42, 4, 112, 7, 134, 30, 128, 10, 60, 10, 144, 10, 7, 20, 251, 10, 342,
    10, 118, 10, 374, 10, 102, 10, 6, 20, 76, 12, 420, 19, 93, 10, 662, 10, 86, 29, 227, 10, 70, 10, 422, 10,
    102, 21, 1067, 111, 15553, 10, 2342, 10, 86, 10, 134, 10, 1, 7, 526, 10, 262, 23, 24153, 10, 1478, 20, 12,
    20, 108, 25, 1109, 50, 2368, 10, 422, 10, 502, 10, 247, 10, 716, 9, 128, 10, 791, 59, 1, 3, 1, 4, 76, 45,
    1, 15, 962, 13, 2787, 10,
};
// clang-format on

// The class of each code point below CLASSES_END_, one byte each; the caller frees.
static inline uint8_t *character_classes_(Error *e) {
    static const struct {
        const uint16_t *lengths;
        size_t count;
        uint8_t class;
    } tables[] = {{UNICODE_LETTERS_, sizeof UNICODE_LETTERS_ / sizeof(uint16_t), CLASS_LETTER_},
                  {UNICODE_NUMBERS_, sizeof UNICODE_NUMBERS_ / sizeof(uint16_t), CLASS_NUMBER_}};
    static const uint16_t spaces[] = {0x9,    0xA,    0xB,    0xC,    0xD,    0x20,   0x85,   0xA0,   0x1680,
                                      0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008,
                                      0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
    uint8_t *classes = calloc(CLASSES_END_, 1); // CLASS_OTHER_
    if (!classes) {
        fail(e, "tokenizer: no memory for the character classes");
        return NULL;
    }
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) {
        uint8_t *at = classes;
        for (size_t i = 0; i + 1 < tables[k].count; i += 2) {
            at += tables[k].lengths[i];
            memset(at, tables[k].class, tables[k].lengths[i + 1]);
            at += tables[k].lengths[i + 1];
        }
    }
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        classes[spaces[i]] = CLASS_SPACE_;
    }
    return classes;
}

// Class and length in bytes of the character at s < end. A byte that starts no character counts as one of class other.
static inline int class_at_(const uint8_t *classes, const char *s, const char *end, size_t *length) {
    uint32_t c = (unsigned char)*s;
    *length = 1;
    if (c >= 0x80) {
        size_t n = utf8_decode(s, (size_t)(end - s), &c);
        if (n == 0) {
            return CLASS_OTHER_;
        }
        *length = n;
    }
    return c < CLASSES_END_ ? classes[c] : CLASS_OTHER_;
}

// ---------------------------------------------------------------------------------------------------------------------
// Split into pre-tokens

static inline size_t contraction_(const char *text, size_t length) {
    if (length >= 2 && text[0] == '\'') {
        if (text[1] == 's' || text[1] == 't' || text[1] == 'm' || text[1] == 'd') {
            return 2;
        }
        if (length >= 3 && ((text[1] == 'r' && text[2] == 'e') || (text[1] == 'v' && text[2] == 'e') ||
                            (text[1] == 'l' && text[2] == 'l'))) {
            return 3;
        }
    }
    return 0;
}

// Bytes of the pre-token at the start of the text (length > 0), as GPT-2's expression matches there:
//     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// So: a contraction; else a run of one class, with a space before it; else white space, without the last character if
// something follows, since that character may be the space of the next match.
static inline size_t pretoken_length_(const uint8_t *classes, const char *text, size_t length) {
    const char *end = text + length, *at = text, *last = text;
    size_t n = contraction_(text, length);
    if (n) {
        return n;
    }
    at += *text == ' ' && length > 1;
    int class = class_at_(classes, at, end, &n);
    if (class != CLASS_SPACE_) {
        do {
            at += n;
        } while (at < end && class_at_(classes, at, end, &n) == class);
        return (size_t)(at - text);
    }
    for (at = text; at < end && class_at_(classes, at, end, &n) == CLASS_SPACE_; at += n) {
        last = at;
    }
    return (size_t)(at == end || last == text ? at - text : last - text);
}

// ---------------------------------------------------------------------------------------------------------------------
// GPT-2's byte alphabet: in files each byte of a token stands as one printable character

typedef struct {
    uint16_t symbol[256]; // code point that stands for a byte
    uint8_t byte_of_id[256];
    int16_t byte[0x144]; // byte that a code point stands for, -1 if none
} ByteAlphabet_;

// Bytes 21-7E, A1-AC and AE-FF stand for themselves and have the first ids; the 68 others are U+0100 and up, in order.
static inline ByteAlphabet_ byte_alphabet_(void) {
    ByteAlphabet_ a;
    int printable = 0, other = 0;
    memset(a.byte, -1, sizeof a.byte);
    for (int b = 0; b < 256; b++) {
        bool self = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        a.symbol[b] = (uint16_t)(self ? b : 0x100 + other);
        a.byte_of_id[self ? printable++ : 188 + other++] = (uint8_t)b;
        a.byte[a.symbol[b]] = (int16_t)b;
    }
    return a;
}

// ---------------------------------------------------------------------------------------------------------------------
// The tokenizer

typedef struct {
    int32_t left, right, result;
} Merge;

typedef struct {
    char *text; // as it stands in the text, UTF-8
    size_t length;
    int32_t id;
    bool special;    // left out when decoding
    bool normalized; // looked for only after all those that are not
} AddedToken;

typedef struct {
    size_t offset, length; // in Tokenizer.bytes
    bool added, special;
    bool verbatim; // the file's text, not the byte alphabet: it has a character that stands for no byte
} Token;

// Never changes after loading or training: threads may share it.
typedef struct {
    size_t vocab_size; // ids are 0 .. vocab_size - 1
    size_t model_size; // ids from here on are added tokens outside the model's vocabulary
    int32_t end_of_document;
    uint64_t model_max_length; // for tokenizer_config.json, in tokens; 0 leaves it out
    Token *tokens;             // (vocab_size)
    size_t token_capacity;
    char *bytes; // of all tokens
    size_t byte_count, byte_capacity;
    Merge *merges; // (merge_count), index = rank
    size_t merge_count, merge_capacity;
    AddedToken *added; // (added_count), in order of id
    size_t added_count, added_capacity;
    // Derived by tokenizer_index_:
    int32_t byte_id[256]; // token of a single byte
    uint64_t *pairs;      // open addressing: left id (21 bits), right id (21), rank (22); all ones if empty
    size_t pair_mask;
    const AddedToken **added_order; // (added_count), by pass, first byte, then longest first
    uint32_t added_first[2][257];   // where a pass and a first byte begin in added_order; [256] is the end of the pass
    uint8_t *classes;               // (CLASSES_END_)
} Tokenizer;

typedef struct {
    int32_t *ids;
    size_t count, capacity; // zero-initialise; the caller frees ids
} TokenBuffer;

enum { NO_RANK_ = -1 };

static inline void tokenizer_free(Tokenizer *t) {
    for (size_t i = 0; i < t->added_count; i++) {
        free(t->added[i].text);
    }
    free(t->tokens);
    free(t->bytes);
    free(t->merges);
    free(t->added);
    free(t->pairs);
    free(t->added_order);
    free(t->classes);
    *t = (Tokenizer){0};
}

// Bytes of a token as they stand in text; no NUL at the end. An id outside the vocabulary has none.
static inline const char *tokenizer_text(const Tokenizer *t, int32_t id, size_t *length) {
    if (id < 0 || (size_t)id >= t->vocab_size) {
        *length = 0;
        return "";
    }
    *length = t->tokens[id].length;
    return t->bytes + t->tokens[id].offset;
}

// The same for decoding: special tokens have no bytes. Text is the bytes of its tokens one after the other; a token may
// hold a part of a UTF-8 character (utf8_sanitize over the stream holds it back until the rest arrives).
static inline const char *tokenizer_bytes(const Tokenizer *t, int32_t id, size_t *length) {
    const char *bytes = tokenizer_text(t, id, length);
    if (*length && t->tokens[id].special) {
        *length = 0;
    }
    return bytes;
}

static inline bool tokenizer_add_token_(Tokenizer *t, const char *bytes, size_t length, bool verbatim, Error *e) {
    if (!reserve_(&t->tokens, &t->token_capacity, t->vocab_size, 1, sizeof *t->tokens, e) ||
        !reserve_(&t->bytes, &t->byte_capacity, t->byte_count, length, 1, e)) {
        return false;
    }
    memcpy(t->bytes + t->byte_count, bytes, length);
    t->tokens[t->vocab_size++] = (Token){.offset = t->byte_count, .length = length, .verbatim = verbatim};
    t->byte_count += length;
    return true;
}

static inline bool tokenizer_add_merge_(Tokenizer *t, Merge merge, Error *e) {
    if (!reserve_(&t->merges, &t->merge_capacity, t->merge_count, 1, sizeof merge, e)) {
        return false;
    }
    t->merges[t->merge_count++] = merge;
    return true;
}

// `added.text` is copied.
static inline bool tokenizer_add_added_(Tokenizer *t, AddedToken added, Error *e) {
    char *copy = malloc(added.length);
    if (!copy || !reserve_(&t->added, &t->added_capacity, t->added_count, 1, sizeof added, e)) {
        free(copy);
        return fail(e, "tokenizer: no memory for an added token of %zu bytes", added.length);
    }
    memcpy(copy, added.text, added.length);
    added.text = copy;
    t->tokens[added.id].added = true;
    t->tokens[added.id].special = added.special;
    t->added[t->added_count++] = added;
    return true;
}

static inline size_t pair_slot_(const Tokenizer *t, uint64_t pair) {
    return (size_t)hash_mix_(pair) & t->pair_mask;
}

// Rank of the merge of two tokens, NO_RANK_ if there is none.
static inline int32_t pair_rank_(const Tokenizer *t, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)left << 21 | (uint64_t)right;
    for (size_t i = pair_slot_(t, pair);; i = (i + 1) & t->pair_mask) {
        uint64_t entry = t->pairs[i];
        if (entry >> 22 == pair) {
            return (int32_t)(entry & TOKENIZER_MAX_MERGES);
        }
        if (entry == UINT64_MAX) {
            return NO_RANK_;
        }
    }
}

static inline bool tokenizer_index_pairs_(Tokenizer *t, Error *e) {
    size_t size = 16;
    while (size < 2 * t->merge_count) {
        size *= 2;
    }
    t->pairs = malloc(size * sizeof *t->pairs);
    if (!t->pairs) {
        return fail(e, "tokenizer: no memory for %zu merges", t->merge_count);
    }
    memset(t->pairs, 0xFF, size * sizeof *t->pairs);
    t->pair_mask = size - 1;
    for (size_t rank = 0; rank < t->merge_count; rank++) {
        uint64_t pair = (uint64_t)t->merges[rank].left << 21 | (uint64_t)t->merges[rank].right;
        size_t i = pair_slot_(t, pair);
        while (t->pairs[i] != UINT64_MAX && t->pairs[i] >> 22 != pair) {
            i = (i + 1) & t->pair_mask;
        }
        t->pairs[i] = pair << 22 | rank; // of a repeated pair the last rank counts
    }
    return true;
}

// For qsort: by pass, first byte, then longest first.
static inline int added_compare_(const void *first, const void *second) {
    const AddedToken *a = *(const AddedToken *const *)first, *b = *(const AddedToken *const *)second;
    if (a->normalized != b->normalized) {
        return a->normalized - b->normalized;
    }
    if (a->text[0] != b->text[0]) {
        return (unsigned char)a->text[0] - (unsigned char)b->text[0];
    }
    return a->length != b->length ? (a->length < b->length ? 1 : -1) : memcmp(a->text, b->text, a->length);
}

static inline bool tokenizer_index_added_(Tokenizer *t, Error *e) {
    size_t n = t->added_count, next = 0;
    t->added_order = malloc((n + 1) * sizeof *t->added_order);
    if (!t->added_order) {
        return fail(e, "tokenizer: no memory for %zu added tokens", n);
    }
    for (size_t i = 0; i < n; i++) {
        t->added_order[i] = &t->added[i];
    }
    qsort(t->added_order, n, sizeof *t->added_order, added_compare_);
    for (int pass = 0; pass < 2; pass++) {
        for (int byte = 0; byte < 256; byte++) {
            t->added_first[pass][byte] = (uint32_t)next;
            while (next < n && t->added_order[next]->normalized == pass &&
                   (unsigned char)t->added_order[next]->text[0] == byte) {
                next++;
            }
        }
        t->added_first[pass][256] = (uint32_t)next;
    }
    return true;
}

// Call when tokens, merges and added tokens are complete. `name` stands in error lines.
static inline bool tokenizer_index_(Tokenizer *t, const char *name, Error *e) {
    memset(t->byte_id, -1, sizeof t->byte_id);
    for (size_t i = 0; i < t->model_size; i++) {
        if (t->tokens[i].length == 1 && !t->tokens[i].verbatim) {
            t->byte_id[(unsigned char)t->bytes[t->tokens[i].offset]] = (int32_t)i;
        }
    }
    for (int b = 0; b < 256; b++) {
        if (t->byte_id[b] < 0) {
            return fail(e, "%s: the vocabulary has no token for byte 0x%02X: byte-level BPE needs all 256", name, b);
        }
    }
    t->classes = character_classes_(e);
    return t->classes && tokenizer_index_pairs_(t, e) && tokenizer_index_added_(t, e);
}

// ---------------------------------------------------------------------------------------------------------------------
// Encode

typedef struct {
    int32_t id;
    int32_t rank; // of the merge with the next symbol, NO_RANK_ if there is none or this symbol is gone
    uint32_t previous, next;
} Symbol_;

// Ids of a short pre-token, in one cache line.
enum { CACHE_KEY_ = 23, CACHE_IDS_ = 9, CACHE_BITS_ = 15, SHORT_PRETOKEN_ = 64 };

typedef struct {
    uint64_t key[3]; // its length in the first byte, then its bytes, then zeros; all zeros: empty
    int32_t count;
    int32_t ids[CACHE_IDS_];
} CacheEntry_;

// What one thread needs to encode: scratch memory and the ids of pre-tokens met lately.
typedef struct {
    const Tokenizer *tokenizer;
    CacheEntry_ *cache; // (1 << CACHE_BITS_); a pre-token has one place and displaces what is there
    Symbol_ *symbols;
    size_t symbol_capacity;
    Heap_ heap;
} Encoder;

static inline bool encoder_init(Encoder *encoder, const Tokenizer *t, Error *e) {
    *encoder = (Encoder){.tokenizer = t, .cache = calloc((size_t)1 << CACHE_BITS_, sizeof(CacheEntry_))};
    return encoder->cache || fail(e, "tokenizer: no memory for an encoder");
}

static inline void encoder_free(Encoder *encoder) {
    free(encoder->cache);
    free(encoder->symbols);
    free(encoder->heap.entries);
    *encoder = (Encoder){0};
}

// Merges a short pre-token: at each step a look at all ranks, which beats a heap for a few dozen symbols. The ids go to
// out; returns how many.
static inline size_t merge_short_(const Tokenizer *t, const char *text, size_t n, int32_t *out) {
    uint32_t ranks[SHORT_PRETOKEN_]; // of the merge with the next symbol; NO_RANK_ is the greatest
    for (size_t i = 0; i < n; i++) {
        out[i] = t->byte_id[(unsigned char)text[i]];
    }
    for (size_t i = 0; i + 1 < n; i++) {
        ranks[i] = (uint32_t)pair_rank_(t, out[i], out[i + 1]);
    }
    for (;;) {
        uint32_t rank = (uint32_t)NO_RANK_;
        size_t best = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            if (ranks[i] < rank) {
                rank = ranks[i], best = i;
            }
        }
        if (rank == (uint32_t)NO_RANK_) {
            return n;
        }
        out[best] = t->merges[rank].result;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            out[i] = out[i + 1];
            ranks[i - 1] = ranks[i];
        }
        if (best > 0) {
            ranks[best - 1] = (uint32_t)pair_rank_(t, out[best - 1], out[best]);
        }
        if (best + 1 < n) {
            ranks[best] = (uint32_t)pair_rank_(t, out[best], out[best + 1]);
        }
    }
}

// Looks up the rank of symbol i with its right neighbour and, if they merge, puts it on the heap.
static inline bool queue_pair_(Encoder *encoder, uint32_t i, size_t n, Error *e) {
    Symbol_ *s = &encoder->symbols[i];
    s->rank = s->next < n ? pair_rank_(encoder->tokenizer, s->id, encoder->symbols[s->next].id) : NO_RANK_;
    return s->rank == NO_RANK_ || heap_push_(&encoder->heap, (HeapEntry_){(uint64_t)s->rank, i, i}, e);
}

// Merges a pre-token of any length in O(n log n): a heap of (rank, position), where an entry counts only while the
// symbol at its position still has that rank.
static inline bool merge_long_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    if (n >= UINT32_MAX) {
        return fail(e, "tokenizer: a run of %zu bytes without a place to split is longer than 4 GiB", n);
    }
    if (!reserve_(&encoder->symbols, &encoder->symbol_capacity, 0, n, sizeof(Symbol_), e)) {
        return false;
    }
    Symbol_ *symbols = encoder->symbols;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i] = (Symbol_){t->byte_id[(unsigned char)text[i]], NO_RANK_, i - 1, i + 1};
    }
    encoder->heap.count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!queue_pair_(encoder, i, n, e)) {
            return false;
        }
    }
    while (encoder->heap.count) {
        HeapEntry_ top = heap_pop_(&encoder->heap);
        Symbol_ *left = &symbols[top.item];
        if ((uint64_t)left->rank != top.major) {
            continue;
        }
        Symbol_ *right = &symbols[left->next];
        left->id = t->merges[left->rank].result;
        left->next = right->next;
        right->rank = NO_RANK_;
        if (left->next < n) {
            symbols[left->next].previous = top.item;
        }
        if (!queue_pair_(encoder, top.item, n, e) || (top.item && !queue_pair_(encoder, left->previous, n, e))) {
            return false;
        }
    }
    for (size_t i = 0; i < n; i = symbols[i].next) {
        out->ids[out->count++] = symbols[i].id;
    }
    return true;
}

// Encodes one pre-token; out has room for an id per byte.
static inline bool encode_pretoken_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    int32_t *ids = out->ids + out->count;
    if (n == 1) {
        *ids = t->byte_id[(unsigned char)*text];
        out->count++;
        return true;
    }
    if (n > SHORT_PRETOKEN_) {
        return merge_long_(encoder, text, n, out, e);
    }
    if (n > CACHE_KEY_) {
        out->count += merge_short_(t, text, n, ids);
        return true;
    }
    char key_bytes[24] = {(char)n};
    uint64_t key[3];
    memcpy(key_bytes + 1, text, n);
    memcpy(key, key_bytes, sizeof key);
    uint64_t hash = hash_mix_(key[0] + key[1] * 0x9E3779B97F4A7C15u + key[2] * 0xC2B2AE3D27D4EB4Fu);
    CacheEntry_ *entry = &encoder->cache[hash >> 8 & (((size_t)1 << CACHE_BITS_) - 1)];
    if (entry->key[0] == key[0] && entry->key[1] == key[1] && entry->key[2] == key[2]) {
        memcpy(ids, entry->ids, (size_t)entry->count * sizeof *ids);
        out->count += (size_t)entry->count;
        return true;
    }
    size_t count = merge_short_(t, text, n, ids);
    out->count += count;
    if (count <= CACHE_IDS_) {
        memcpy(entry->key, key, sizeof key);
        memcpy(entry->ids, ids, count * sizeof *ids);
        entry->count = (int32_t)count;
    }
    return true;
}

static inline bool encode_split_(Encoder *encoder, const char *text, size_t length, TokenBuffer *out, Error *e) {
    while (length) {
        size_t n = pretoken_length_(encoder->tokenizer->classes, text, length);
        if (!reserve_(&out->ids, &out->capacity, out->count, n, sizeof *out->ids, e) ||
            !encode_pretoken_(encoder, text, n, out, e)) {
            return false;
        }
        text += n;
        length -= n;
    }
    return true;
}

// The longest added token of this pass that starts at text[0] (length > 0), NULL if there is none.
static inline const AddedToken *added_match_(const Tokenizer *t, int pass, const char *text, size_t length) {
    const uint32_t *range = &t->added_first[pass][(unsigned char)*text];
    for (uint32_t k = range[0]; k < range[1]; k++) {
        const AddedToken *a = t->added_order[k];
        if (a->length <= length && !memcmp(a->text, text, a->length)) {
            return a;
        }
    }
    return NULL;
}

// Cuts the added tokens out, leftmost first, the longest of those that start there: in pass 0 those with normalized =
// false, in pass 1 the others from what lies between. What lies between after both is split into pre-tokens.
static inline bool encode_pass_(Encoder *encoder, int pass, const char *text, size_t length, TokenBuffer *out,
                                Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    size_t start = 0, i = 0;
    if (pass == 2) {
        return encode_split_(encoder, text, length, out, e);
    }
    if (t->added_first[pass][0] == t->added_first[pass][256]) {
        return encode_pass_(encoder, pass + 1, text, length, out, e);
    }
    while (i < length) {
        const AddedToken *a = added_match_(t, pass, text + i, length - i);
        if (!a) {
            i++;
            continue;
        }
        if (!encode_pass_(encoder, pass + 1, text + start, i - start, out, e) ||
            !reserve_(&out->ids, &out->capacity, out->count, 1, sizeof *out->ids, e)) {
            return false;
        }
        out->ids[out->count++] = a->id;
        i += a->length;
        start = i;
    }
    return encode_pass_(encoder, pass + 1, text + start, length - start, out, e);
}

// Appends the ids of a text, which should be UTF-8 (see utf8_sanitize). Added tokens in the text become their ids.
static inline bool encoder_encode(Encoder *encoder, const char *text, size_t length, TokenBuffer *out, Error *e) {
    return encode_pass_(encoder, 0, text, length, out, e);
}

// The same with an encoder made for this one text.
static inline bool tokenizer_encode(const Tokenizer *t, const char *text, size_t length, TokenBuffer *out, Error *e) {
    Encoder encoder;
    bool ok = encoder_init(&encoder, t, e) && encoder_encode(&encoder, text, length, out, e);
    encoder_free(&encoder);
    return ok;
}

// True if an added token, whole or cut off by the end of the text, lies across position `cut`.
static inline bool added_token_across_(const Tokenizer *t, const char *text, size_t length, size_t cut) {
    for (size_t k = 0; k < t->added_count; k++) {
        const AddedToken *a = &t->added[k];
        size_t start = cut >= a->length ? cut - a->length + 1 : 0;
        for (; start < cut; start++) {
            size_t n = length - start < a->length ? length - start : a->length;
            if (text[start] == a->text[0] && !memcmp(text + start, a->text, n)) {
                return true;
            }
        }
    }
    return false;
}

// The largest position such that text[0 .. cut) and text[cut ..), the latter with anything appended, give the same ids
// encoded apart as together; 0 if there is none. `text` ends with a whole character.
//
// It is a place between a character a that is not white space and a character b of another class, except an apostrophe
// and a letter, and except inside an added token. There no pre-token spans the cut: a run has one class; a space may
// precede a run, but a is none; a contraction is an apostrophe and letters; \s+ takes white space only. Nor does what
// follows the cut change a match before it: a run ends at the cut either way; a contraction before the cut has all its
// letters there, for b continues none; and white space before a is followed by the same character as before, so
// (?!\S) sees the same. Matches behind the cut never look back. Added tokens are found from left to right, so where
// none lies across the cut, the same ones are found on both sides.
static inline size_t tokenizer_safe_cut(const Tokenizer *t, const char *text, size_t length) {
    int class_after = -1; // of the character that starts at `end`
    for (size_t end = length; end > 0;) {
        size_t start = end - 1, n;
        while (start > 0 && end - start < 4 && ((unsigned char)text[start] & 0xC0) == 0x80) {
            start--;
        }
        int class = class_at_(t->classes, text + start, text + end, &n);
        if (start + n != end) { // not UTF-8: no cut here
            class = class_after;
        }
        bool quoted = text[start] == '\'' && class_after == CLASS_LETTER_;
        if (end < length && class != CLASS_SPACE_ && class != class_after && !quoted &&
            !added_token_across_(t, text, length, end)) {
            return end;
        }
        class_after = class;
        end = start;
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Load

typedef struct {
    const char *text;
    size_t length;
} FileText_;

// Tokens by the text that stands for them in the file, while loading.
typedef struct {
    FileText_ *tokens; // by id; text is NULL where none is known yet
    uint32_t *slots;   // open addressing, id + 1, 0 if empty
    size_t mask;
} Vocabulary_;

// Slot of the token whose text is `a` followed by `b`, or the empty slot where it would be.
static inline uint32_t *vocabulary_slot_(const Vocabulary_ *v, FileText_ a, FileText_ b) {
    uint64_t hash = hash_mix_(hash_bytes_(hash_bytes_(HASH_START_, a.text, a.length), b.text, b.length));
    for (size_t i = (size_t)hash & v->mask;; i = (i + 1) & v->mask) {
        const FileText_ *token = v->slots[i] ? &v->tokens[v->slots[i] - 1] : NULL;
        if (!token || (token->length == a.length + b.length && !memcmp(token->text, a.text, a.length) &&
                       !memcmp(token->text + a.length, b.text, b.length))) {
            return &v->slots[i];
        }
    }
}

// Id of a token, -1 if there is none.
static inline int32_t vocabulary_find_(const Vocabulary_ *v, FileText_ text) {
    return (int32_t)*vocabulary_slot_(v, text, (FileText_){"", 0}) - 1;
}

static inline void vocabulary_add_(Vocabulary_ *v, FileText_ text, size_t id) {
    v->tokens[id] = text;
    *vocabulary_slot_(v, text, (FileText_){"", 0}) = (uint32_t)id + 1;
}

static inline void vocabulary_free_(Vocabulary_ *v) {
    free(v->tokens);
    free(v->slots);
}

// Checks that the ids of {token: id} are 0 .. count - 1, each once, and files the tokens by id and by text; leaves room
// for `more` tokens.
static inline bool vocabulary_read_(Vocabulary_ *v, const Json *vocab, size_t more, const char *path, Error *e) {
    if (!vocab || vocab->kind != JSON_OBJECT || vocab->length == 0) {
        return fail(e, "%s: the vocabulary must be an object {token: id}", path);
    }
    size_t count = vocab->length, entry = 0;
    if (count > TOKENIZER_MAX_VOCAB || more > TOKENIZER_MAX_VOCAB - count) {
        return fail(e, "%s: %zu tokens; at most %d are supported", path, count + more, TOKENIZER_MAX_VOCAB);
    }
    for (v->mask = 15; v->mask < 2 * (count + more);) {
        v->mask = 2 * v->mask + 1;
    }
    v->tokens = calloc(count + more, sizeof *v->tokens);
    v->slots = calloc(v->mask + 1, sizeof *v->slots);
    if (!v->tokens || !v->slots) {
        return fail(e, "%s: no memory for %zu tokens", path, count + more);
    }
    for (const Json *token = vocab->child; token; token = token->next, entry++) {
        FileText_ text = {token->key, token->key_length};
        uint64_t id;
        if (text.length == 0 || memchr(text.text, 0, text.length)) {
            return fail(e, "%s: vocabulary entry %zu is empty or holds a NUL character", path, entry);
        }
        if (!json_uint(token, &id) || id >= count) {
            return fail(e, "%s: vocabulary entry %zu: the ids of %zu tokens must be 0 to %zu without holes, not %.20s",
                        path, entry, count, count - 1, token->kind == JSON_NUMBER ? token->text : "another value");
        }
        if (v->tokens[id].text || vocabulary_find_(v, text) >= 0) {
            return fail(e, "%s: vocabulary entry %zu repeats %s", path, entry,
                        v->tokens[id].text ? "an id" : "a token");
        }
        vocabulary_add_(v, text, id);
    }
    return true;
}

// Adds the token that a file writes as `text`: mapped back through the byte alphabet, or as it is if a character of it
// stands for no byte.
static inline bool tokenizer_add_text_(Tokenizer *t, const ByteAlphabet_ *alphabet, FileText_ text, Error *e) {
    char *bytes = malloc(text.length);
    size_t count = 0;
    bool verbatim = false;
    if (!bytes) {
        return fail(e, "tokenizer: no memory for a token of %zu bytes", text.length);
    }
    for (size_t i = 0, n; i < text.length && !verbatim; i += n) {
        uint32_t c = 0;
        n = utf8_decode(text.text + i, text.length - i, &c);
        verbatim = n == 0 || c >= sizeof alphabet->byte / sizeof *alphabet->byte || alphabet->byte[c] < 0;
        if (!verbatim) {
            bytes[count++] = (char)alphabet->byte[c];
        }
    }
    bool ok = tokenizer_add_token_(t, verbatim ? text.text : bytes, verbatim ? text.length : count, verbatim, e);
    free(bytes);
    return ok;
}

static inline bool tokenizer_set_vocabulary_(Tokenizer *t, const ByteAlphabet_ *alphabet, const Vocabulary_ *v,
                                             size_t count, Error *e) {
    for (size_t id = 0; id < count; id++) {
        if (!tokenizer_add_text_(t, alphabet, v->tokens[id], e)) {
            return false;
        }
    }
    t->model_size = t->vocab_size;
    return true;
}

// Adds the merge of the tokens `a` and `b`, checked. `index` is where it stands, for error lines.
static inline bool merge_read_(Tokenizer *t, const Vocabulary_ *v, FileText_ a, FileText_ b, const char *path,
                               size_t index, Error *e) {
    Merge merge = {vocabulary_find_(v, a), vocabulary_find_(v, b), (int32_t)*vocabulary_slot_(v, a, b) - 1};
    if (merge.left < 0 || merge.right < 0 || merge.result < 0) {
        return fail(e, "%s: merge %zu: its %s is not in the vocabulary", path, index,
                    merge.left < 0    ? "first part"
                    : merge.right < 0 ? "second part"
                                      : "result");
    }
    if (t->tokens[merge.result].verbatim) {
        return fail(e, "%s: merge %zu has a character outside the byte alphabet", path, index);
    }
    if (t->merge_count == TOKENIZER_MAX_MERGES) {
        return fail(e, "%s: more than %d merges", path, TOKENIZER_MAX_MERGES);
    }
    return tokenizer_add_merge_(t, merge, e);
}

// A merge written "a b", or the version line, which has no rank.
static inline bool merge_read_line_(Tokenizer *t, const Vocabulary_ *v, FileText_ line, const char *path, size_t index,
                                    Error *e) {
    const char *space = memchr(line.text, ' ', line.length);
    if (line.length >= 8 && !memcmp(line.text, "#version", 8)) {
        return true;
    }
    size_t left = space ? (size_t)(space - line.text) : 0, right = line.length - left - 1;
    if (!space || memchr(space + 1, ' ', right)) {
        return fail(e, "%s: merge %zu must be two tokens with one space between", path, index);
    }
    return merge_read_(t, v, (FileText_){line.text, left}, (FileText_){space + 1, right}, path, index, e);
}

// "merges" of a tokenizer.json: strings "a b" or pairs ["a", "b"].
static inline bool merges_read_json_(Tokenizer *t, const Vocabulary_ *v, const Json *merges, const char *path,
                                     Error *e) {
    size_t index = 0;
    if (!merges || merges->kind != JSON_ARRAY) {
        return fail(e, "%s: model.merges must be an array", path);
    }
    for (const Json *m = merges->child; m; m = m->next, index++) {
        const Json *a = m->kind == JSON_ARRAY && m->length == 2 ? m->child : NULL, *b = a ? a->next : NULL;
        bool ok;
        if (m->kind == JSON_STRING) {
            ok = merge_read_line_(t, v, (FileText_){m->text, m->length}, path, index, e);
        } else if (a && a->kind == JSON_STRING && b->kind == JSON_STRING) {
            ok = merge_read_(t, v, (FileText_){a->text, a->length}, (FileText_){b->text, b->length}, path, index, e);
        } else {
            ok = fail(e, "%s: merge %zu must be \"a b\" or [\"a\", \"b\"]", path, index);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

static inline bool json_absent_(const Json *node) {
    return !node || node->kind == JSON_NULL;
}

static inline bool json_has_type_(const Json *node, const char *type) {
    const char *found = json_string(json_get(node, "type"));
    return found && !strcmp(found, type);
}

static inline bool json_is_bool_(const Json *node, bool value) {
    return node && node->kind == JSON_BOOL && node->boolean == value;
}

// True if a post-processor adds no tokens to a single text: none, ByteLevel, or a template of the text alone.
static inline bool post_processor_is_idle_(const Json *post) {
    const Json *single = json_get(post, "single");
    if (json_absent_(post) || json_has_type_(post, "ByteLevel")) {
        return true;
    }
    return json_has_type_(post, "TemplateProcessing") && single && single->kind == JSON_ARRAY && single->length == 1 &&
           json_get(single->child, "Sequence");
}

// Refuses every setting that would give other ids than the code above. Truncation and padding are the caller's affair
// and ignored; unk_token, fuse_unk and byte_fallback have no effect where all 256 bytes are in the vocabulary.
static inline bool tokenizer_json_check_(const Json *root, const char *path, Error *e) {
    const Json *model = json_get(root, "model"), *pre = json_get(root, "pre_tokenizer");
    const Json *dropout = json_get(model, "dropout");
    const Json *prefix = json_get(model, "continuing_subword_prefix");
    const Json *suffix = json_get(model, "end_of_word_suffix");
    const Json *added = json_get(root, "added_tokens");
    double rate;
    const char *wrong = NULL;
    if (!model) {
        wrong = "a tokenizer.json is an object with a \"model\"";
    } else if (json_get(model, "type") && !json_has_type_(model, "BPE")) {
        wrong = "model.type must be \"BPE\"";
    } else if (!json_absent_(json_get(root, "normalizer"))) {
        wrong = "normalizer must be null";
    } else if (!json_has_type_(pre, "ByteLevel") || !json_is_bool_(json_get(pre, "add_prefix_space"), false) ||
               (json_get(pre, "use_regex") && !json_is_bool_(json_get(pre, "use_regex"), true))) {
        wrong = "pre_tokenizer must be ByteLevel with add_prefix_space false and use_regex true";
    } else if (!post_processor_is_idle_(json_get(root, "post_processor"))) {
        wrong = "post_processor must be null, ByteLevel or a template that adds no tokens";
    } else if (!json_has_type_(json_get(root, "decoder"), "ByteLevel")) {
        wrong = "decoder must be ByteLevel";
    } else if (!json_absent_(dropout) && !(json_double(dropout, &rate) && rate == 0.0)) {
        wrong = "model.dropout must be null";
    } else if ((!json_absent_(prefix) && (prefix->kind != JSON_STRING || prefix->length)) ||
               (!json_absent_(suffix) && (suffix->kind != JSON_STRING || suffix->length))) {
        wrong = "model.continuing_subword_prefix and end_of_word_suffix must be empty";
    } else if (json_get(model, "ignore_merges") && !json_is_bool_(json_get(model, "ignore_merges"), false)) {
        wrong = "model.ignore_merges must be false";
    } else if (!json_absent_(added) && added->kind != JSON_ARRAY) {
        wrong = "added_tokens must be an array";
    }
    return !wrong || fail(e, "%s: %s (only GPT-2's byte-level BPE is supported)", path, wrong);
}

// One entry of "added_tokens". Its id must be the one that Hugging Face gives it whatever the file says: the
// vocabulary's if its text is there, else the next free one.
static inline bool added_read_(Tokenizer *t, const ByteAlphabet_ *alphabet, Vocabulary_ *v, const Json *entry,
                               size_t index, const char *path, Error *e) {
    static const char *const refused[] = {"lstrip", "rstrip", "single_word"};
    const Json *content = json_get(entry, "content");
    uint64_t id;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (json_get(entry, refused[i]) && !json_is_bool_(json_get(entry, refused[i]), false)) {
            return fail(e, "%s: added token %zu: %s must be false", path, index, refused[i]);
        }
    }
    if (!json_string(content) || content->length == 0 || content->length > 1000) {
        return fail(e, "%s: added token %zu: content must be 1 to 1000 bytes without NUL", path, index);
    }
    FileText_ text = {content->text, content->length};
    int32_t known = vocabulary_find_(v, text);
    size_t expected = known >= 0 ? (size_t)known : t->vocab_size;
    if (known >= 0 && t->tokens[known].added) {
        return fail(e, "%s: added token %zu is there twice", path, index);
    }
    if (!json_uint(json_get(entry, "id"), &id) || id != expected) {
        return fail(e, "%s: added token %zu: its id must be %zu (%s)", path, index, expected,
                    known >= 0 ? "as in the vocabulary" : "the next after the vocabulary, without holes");
    }
    if (known < 0) {
        vocabulary_add_(v, text, expected);
        if (!tokenizer_add_text_(t, alphabet, text, e)) {
            return false;
        }
    }
    return tokenizer_add_added_(t,
                                (AddedToken){.text = (char *)text.text,
                                             .length = text.length,
                                             .id = (int32_t)expected,
                                             .special = json_is_bool_(json_get(entry, "special"), true),
                                             .normalized = json_is_bool_(json_get(entry, "normalized"), true)},
                                e);
}

static inline bool tokenizer_load_json_(Tokenizer *t, Vocabulary_ *v, const Json *root, const char *path, Error *e) {
    const Json *vocab = json_get(json_get(root, "model"), "vocab"),
               *merges = json_get(json_get(root, "model"), "merges");
    const Json *added = json_get(root, "added_tokens");
    ByteAlphabet_ alphabet = byte_alphabet_();
    size_t index = 0;
    if (!tokenizer_json_check_(root, path, e) || !vocabulary_read_(v, vocab, added ? added->length : 0, path, e) ||
        !tokenizer_set_vocabulary_(t, &alphabet, v, vocab->length, e) || !merges_read_json_(t, v, merges, path, e)) {
        return false;
    }
    for (const Json *entry = added ? added->child : NULL; entry; entry = entry->next, index++) {
        if (!added_read_(t, &alphabet, v, entry, index, path, e)) {
            return false;
        }
    }
    return tokenizer_index_(t, path, e);
}

// vocab.json, parsed, and the text of merges.txt. `end_text` becomes an added token, as transformers makes it one.
static inline bool tokenizer_load_pair_(Tokenizer *t, Vocabulary_ *v, const Json *vocab, const char *vocab_path,
                                        FileText_ merges, const char *merges_path, const char *end_text, Error *e) {
    ByteAlphabet_ alphabet = byte_alphabet_();
    size_t index = 0;
    if (!vocabulary_read_(v, vocab, 0, vocab_path, e) ||
        !tokenizer_set_vocabulary_(t, &alphabet, v, vocab->length, e)) {
        return false;
    }
    for (const char *line = merges.text, *end = line + merges.length; line < end; index++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((newline ? newline : end) - line);
        size_t kept = n && line[n - 1] == '\r' ? n - 1 : n;
        if (kept && !merge_read_line_(t, v, (FileText_){line, kept}, merges_path, index, e)) {
            return false;
        }
        line += n + (newline != NULL);
    }
    int32_t id = vocabulary_find_(v, (FileText_){end_text, strlen(end_text)});
    AddedToken added = {(char *)end_text, strlen(end_text), id, .special = true};
    return (id < 0 || tokenizer_add_added_(t, added, e)) && tokenizer_index_(t, vocab_path, e);
}

static inline bool path_join_(char path[4096], const char *directory, const char *name, Error *e) {
    int n = snprintf(path, 4096, "%s/%s", directory, name);
    return (n > 0 && n < 4096) || fail(e, "%.200s...: the path is longer than 4095 bytes", directory);
}

// The end-of-document token's text: eos_token of tokenizer_config.json, a string or {"content": string}, which lives in
// *config; else END_OF_DOCUMENT_TEXT.
static inline bool end_of_document_text_(const char *directory, JsonDocument *config, const char **text, Error *e) {
    char path[4096];
    *text = END_OF_DOCUMENT_TEXT;
    if (!path_join_(path, directory, "tokenizer_config.json", e)) {
        return false;
    }
    if (access(path, F_OK)) {
        return true;
    }
    if (!json_parse_file(config, path, TOKENIZER_MAX_FILE_, e)) {
        return false;
    }
    const Json *eos = json_get(config->root, "eos_token");
    if (!json_absent_(eos)) {
        *text = json_string(eos->kind == JSON_OBJECT ? json_get(eos, "content") : eos);
        if (!*text || !**text) {
            return fail(e, "%s: eos_token must be a string", path);
        }
    }
    return true;
}

static inline bool tokenizer_load_files_(Tokenizer *t, Vocabulary_ *v, JsonDocument *document, char **merges,
                                         const char *directory, const char *end_text, Error *e) {
    char path[4096], merges_path[4096];
    size_t length;
    if (!path_join_(path, directory, "tokenizer.json", e)) {
        return false;
    }
    if (!access(path, F_OK)) {
        return json_parse_file(document, path, TOKENIZER_MAX_FILE_, e) &&
               tokenizer_load_json_(t, v, document->root, path, e);
    }
    if (!path_join_(path, directory, "vocab.json", e) || !path_join_(merges_path, directory, "merges.txt", e)) {
        return false;
    }
    if (access(path, F_OK)) {
        return fail(e, "%s: has neither tokenizer.json nor vocab.json with merges.txt", directory);
    }
    return json_parse_file(document, path, TOKENIZER_MAX_FILE_, e) &&
           (*merges = read_file(merges_path, TOKENIZER_MAX_FILE_, &length, e)) &&
           tokenizer_load_pair_(t, v, document->root, path, (FileText_){*merges, length}, merges_path, end_text, e);
}

// Reads DIRECTORY/tokenizer.json, or vocab.json with merges.txt where that is missing, and the end-of-document token
// from tokenizer_config.json. The files are not trusted: what cannot be used, or would give other ids than Hugging Face
// `tokenizers`, is refused with one line.
static inline bool tokenizer_load(Tokenizer *t, const char *directory, Error *e) {
    JsonDocument document = {0}, config = {0};
    Vocabulary_ vocabulary = {0};
    char *merges = NULL;
    const char *end_text;
    *t = (Tokenizer){0};
    bool ok = end_of_document_text_(directory, &config, &end_text, e) &&
              tokenizer_load_files_(t, &vocabulary, &document, &merges, directory, end_text, e);
    if (ok) {
        t->end_of_document = vocabulary_find_(&vocabulary, (FileText_){end_text, strlen(end_text)});
        ok =
            t->end_of_document >= 0 ||
            fail(e,
                 "%s: the end-of-document token (eos_token of tokenizer_config.json, else %s) is not in the vocabulary",
                 directory, END_OF_DOCUMENT_TEXT);
    }
    json_free(&document);
    json_free(&config);
    vocabulary_free_(&vocabulary);
    free(merges);
    if (!ok) {
        tokenizer_free(t);
    }
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// Save

// Appends the token as files write it.
static inline void token_file_text_(JsonWriter *w, const Tokenizer *t, const ByteAlphabet_ *alphabet, int32_t id) {
    size_t length;
    const char *bytes = tokenizer_text(t, id, &length);
    if (t->tokens[id].verbatim) {
        json_append(w, bytes, length);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        char character[4];
        json_append(w, character, utf8_encode(alphabet->symbol[(unsigned char)bytes[i]], character));
    }
}

static inline void put_vocabulary_(JsonWriter *w, const char *key, const Tokenizer *t, const ByteAlphabet_ *alphabet) {
    JsonWriter text = {0};
    json_open(w, key, '{');
    for (size_t id = 0; id < t->model_size; id++) {
        text.length = 0;
        token_file_text_(&text, t, alphabet, (int32_t)id);
        if (!text.failed) {
            json_put_uint(w, text.data, id);
        }
    }
    json_close(w, '}');
    w->failed |= text.failed;
    free(text.data);
}

// Merges as "a b": every version of `tokenizers` reads that form, and no token of a merge has a space.
static inline void merge_file_text_(JsonWriter *w, const Tokenizer *t, const ByteAlphabet_ *alphabet, size_t rank) {
    token_file_text_(w, t, alphabet, t->merges[rank].left);
    json_append(w, " ", 1);
    token_file_text_(w, t, alphabet, t->merges[rank].right);
}

static inline void put_merges_(JsonWriter *w, const Tokenizer *t, const ByteAlphabet_ *alphabet) {
    JsonWriter text = {0};
    json_open(w, "merges", '[');
    for (size_t rank = 0; rank < t->merge_count; rank++) {
        text.length = 0;
        merge_file_text_(&text, t, alphabet, rank);
        if (!text.failed) {
            json_put_text(w, NULL, text.data, text.length);
        }
    }
    json_close(w, ']');
    w->failed |= text.failed;
    free(text.data);
}

static inline void put_added_fields_(JsonWriter *w, const AddedToken *a) {
    json_put_text(w, "content", a->text, a->length);
    json_put_bool(w, "single_word", false);
    json_put_bool(w, "lstrip", false);
    json_put_bool(w, "rstrip", false);
    json_put_bool(w, "normalized", a->normalized);
    json_put_bool(w, "special", a->special);
}

static inline void put_byte_level_(JsonWriter *w, const char *key) {
    json_open(w, key, '{');
    json_put_string(w, "type", "ByteLevel");
    json_put_bool(w, "add_prefix_space", false);
    json_put_bool(w, "trim_offsets", true);
    json_put_bool(w, "use_regex", true);
    json_close(w, '}');
}

static inline void put_tokenizer_json_(JsonWriter *w, const Tokenizer *t, const ByteAlphabet_ *alphabet) {
    json_open(w, NULL, '{');
    json_put_string(w, "version", "1.0");
    json_put_null(w, "truncation");
    json_put_null(w, "padding");
    json_open(w, "added_tokens", '[');
    for (size_t i = 0; i < t->added_count; i++) {
        json_open(w, NULL, '{');
        json_put_uint(w, "id", (uint64_t)t->added[i].id);
        put_added_fields_(w, &t->added[i]);
        json_close(w, '}');
    }
    json_close(w, ']');
    json_put_null(w, "normalizer");
    put_byte_level_(w, "pre_tokenizer");
    json_put_null(w, "post_processor");
    put_byte_level_(w, "decoder");
    json_open(w, "model", '{');
    json_put_string(w, "type", "BPE");
    json_put_null(w, "dropout");
    json_put_null(w, "unk_token");
    json_put_string(w, "continuing_subword_prefix", "");
    json_put_string(w, "end_of_word_suffix", "");
    json_put_bool(w, "fuse_unk", false);
    json_put_bool(w, "byte_fallback", false);
    json_put_bool(w, "ignore_merges", false);
    put_vocabulary_(w, "vocab", t, alphabet);
    put_merges_(w, t, alphabet);
    json_close(w, '}');
    json_close(w, '}');
}

// GPT2Tokenizer would take <|endoftext|> for bos, eos and unk where they are missing, with a new id if need be.
static inline void put_tokenizer_config_(JsonWriter *w, const Tokenizer *t, const ByteAlphabet_ *alphabet) {
    static const char *const roles[] = {"bos_token", "eos_token", "unk_token"};
    JsonWriter end = {0};
    token_file_text_(&end, t, alphabet, t->end_of_document);
    json_open(w, NULL, '{');
    json_put_string(w, "tokenizer_class", "GPT2Tokenizer");
    for (size_t i = 0; i < sizeof roles / sizeof *roles && !end.failed; i++) {
        json_put_text(w, roles[i], end.data, end.length);
    }
    json_put_bool(w, "add_prefix_space", false);
    json_put_bool(w, "clean_up_tokenization_spaces", false);
    if (t->model_max_length) {
        json_put_uint(w, "model_max_length", t->model_max_length);
    }
    json_open(w, "added_tokens_decoder", '{');
    for (size_t i = 0; i < t->added_count; i++) {
        char id[24];
        snprintf(id, sizeof id, "%d", (int)t->added[i].id);
        json_open(w, id, '{');
        put_added_fields_(w, &t->added[i]);
        json_close(w, '}');
    }
    json_close(w, '}');
    json_close(w, '}');
    w->failed |= end.failed;
    free(end.data);
}

static inline void put_merges_txt_(JsonWriter *w, const Tokenizer *t, const ByteAlphabet_ *alphabet) {
    json_append(w, "#version: 0.2", 13);
    for (size_t rank = 0; rank < t->merge_count; rank++) {
        json_append(w, "\n", 1);
        merge_file_text_(w, t, alphabet, rank);
    }
}

static inline void put_vocab_json_(JsonWriter *w, const Tokenizer *t, const ByteAlphabet_ *alphabet) {
    put_vocabulary_(w, NULL, t, alphabet);
}

// Writes what is in w and a final newline, down to the disk.
static inline bool write_text_file_(const char *path, JsonWriter *w, Error *e) {
    json_append(w, "\n", 1);
    if (w->failed) {
        return fail(e, "%s: no memory to write it", path);
    }
    FILE *file = fopen(path, "wb");
    bool ok = file && fwrite(w->data, 1, w->length, file) == w->length && !fflush(file) && !fsync(fileno(file));
    int cause = errno;
    if (file && fclose(file) && ok) {
        ok = false, cause = errno;
    }
    return ok || fail(e, "%s: cannot be written: %s", path, strerror(cause));
}

// Writes tokenizer.json, tokenizer_config.json, vocab.json and merges.txt into an existing directory:
// AutoTokenizer.from_pretrained opens it as it is.
static inline bool tokenizer_save(const Tokenizer *t, const char *directory, Error *e) {
    static const struct {
        const char *name;
        void (*put)(JsonWriter *, const Tokenizer *, const ByteAlphabet_ *);
    } files[] = {{"tokenizer.json", put_tokenizer_json_},
                 {"tokenizer_config.json", put_tokenizer_config_},
                 {"vocab.json", put_vocab_json_},
                 {"merges.txt", put_merges_txt_}};
    ByteAlphabet_ alphabet = byte_alphabet_();
    bool ok = true;
    for (size_t i = 0; i < sizeof files / sizeof *files && ok; i++) {
        char path[4096];
        JsonWriter w = {.indent = 2};
        ok = path_join_(path, directory, files[i].name, e);
        if (ok) {
            files[i].put(&w, t, &alphabet);
            ok = write_text_file_(path, &w, e);
        }
        free(w.data);
    }
    return ok;
}

#endif
