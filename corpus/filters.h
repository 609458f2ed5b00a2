// filters.h: which documents of a corpus are dropped: the options, the reasons, and the statistics
// and the fingerprint of a document that decide it.
#ifndef CORPUS_FILTERS_H
#define CORPUS_FILTERS_H

#include "corpus/minhash.h"
#include "util/array.h"
#include "util/bytes.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/sha256.h"
#include "util/utf8.h"

// ------------------------------------------------------------------------------------------------
// Options and reasons

// Fractions are from 0 to 1.
typedef struct {
    uint64_t min_characters, max_characters; // including white space
    double min_japanese;                     // fraction of Japanese characters, see character_kind_
    double max_repeated_lines; // fraction of characters in repeated lines, see FilterState
    bool exact;                // drop exact duplicates: byte for byte equal to an earlier document
    double near_duplicates; // drop documents whose estimated Jaccard similarity to an earlier one
                            // is at least this; 0: off
} FilterOptions;

// Drops nothing.
static const FilterOptions FILTER_NOTHING = {.max_characters = UINT64_MAX, .max_repeated_lines = 1};

// Why a document is dropped. The filters come first, in the order in which they are applied; the
// first that rejects a document is the reason. A document that a filter drops is not compared with
// others. Each reason has a value that is reported with it.
typedef enum {
    DROP_NONE,
    DROP_SHORT,           // value: characters
    DROP_LONG,            // value: characters
    DROP_JAPANESE,        // value: fraction of Japanese characters
    DROP_REPEATED_LINES,  // value: fraction of characters in repeated lines
    DROP_EXACT_DUPLICATE, // value: 1
    DROP_NEAR_DUPLICATE,  // value: estimated Jaccard similarity
    DROP_REASONS
} DropReason;

// The names of the reasons in manifest.json and dropped.jsonl.
static const char *const DROP_REASON_NAMES[DROP_REASONS] = {
    "kept", "short", "long", "japanese", "repeated_lines", "exact_duplicate", "near_duplicate"};

// Checks the ranges of the options. A similarity of character n-grams below one half depends more
// on the language than on the document.
static inline bool filter_check(const FilterOptions *o, Error *e) {
    if (o->min_characters > o->max_characters) {
        return fail(e, "at least %llu and at most %llu characters: no document has both",
                    (unsigned long long)o->min_characters, (unsigned long long)o->max_characters);
    }
    return ((o->min_japanese >= 0 && o->min_japanese <= 1) ||
            fail(e, "share of Japanese %g: must be from 0 to 1", o->min_japanese)) &&
           ((o->max_repeated_lines >= 0 && o->max_repeated_lines <= 1) ||
            fail(e, "share of repeated lines %g: must be from 0 to 1", o->max_repeated_lines)) &&
           (o->near_duplicates == 0 || (o->near_duplicates >= 0.5 && o->near_duplicates <= 1) ||
            fail(e, "similarity of near-duplicates %g: must be from 0.5 to 1, or 0 for off",
                 o->near_duplicates));
}

// ------------------------------------------------------------------------------------------------
// Characters

typedef enum { KIND_OTHER_, KIND_SPACE_, KIND_JAPANESE_ } CharacterKind_;

// White space is Unicode's White_Space. Japanese characters are Hiragana, full-width and half-width
// Katakana, Han (so Chinese counts as well), and their punctuation: the blocks CJK Radicals
// Supplement, Kangxi Radicals, CJK Symbols and Punctuation, Hiragana, Katakana, Katakana Phonetic
// Extensions, CJK Unified Ideographs and extensions, CJK Compatibility Ideographs and Forms, the
// Kana extensions from U+1AFF0 to U+1B16F, all of planes 2 and 3, and of Halfwidth and Fullwidth
// Forms the Katakana and the punctuation. Full-width letters and digits do not count, since they
// occur in other languages too.
static inline CharacterKind_ character_kind_(uint32_t c) {
    if (c < 0x2000) {
        bool space = c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680;
        return space ? KIND_SPACE_ : KIND_OTHER_;
    }
    if (c < 0x3000) {
        bool radical = c >= 0x2E80 && c < 0x2FE0;
        bool space = c <= 0x200A || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F;
        return space ? KIND_SPACE_ : radical ? KIND_JAPANESE_ : KIND_OTHER_;
    }
    if (c < 0xA000) {
        // U+3000 is the ideographic space. Excluded: Bopomofo, Hangul Jamo, enclosed and squared
        // forms, hexagrams.
        bool japanese =
            c < 0x3100 || c >= 0x4E00 || (c >= 0x31F0 && c < 0x3200) || (c >= 0x3400 && c < 0x4DC0);
        return c == 0x3000 ? KIND_SPACE_ : japanese ? KIND_JAPANESE_ : KIND_OTHER_;
    }
    bool han = (c >= 0xF900 && c < 0xFB00) || (c >= 0x20000 && c < 0x40000);
    bool kana = (c >= 0xFF66 && c < 0xFFA0) || (c >= 0x1AFF0 && c < 0x1B170);
    bool punctuation = (c >= 0xFE30 && c < 0xFE50) || (c >= 0xFF01 && c < 0xFF10) ||
                       (c >= 0xFF1A && c < 0xFF21) || (c >= 0xFF3B && c < 0xFF41) ||
                       (c >= 0xFF5B && c < 0xFF66);
    return han || kana || punctuation ? KIND_JAPANESE_ : KIND_OTHER_;
}

// ------------------------------------------------------------------------------------------------
// One document
//
// Repeated lines: lines end at LF; white space at both ends is ignored, and so are blank lines. A
// line that occurred earlier in the document is repeated. The fraction is the characters of
// repeated lines over those of all lines: the "duplicate line character fraction" of Gopher (Rae et
// al. 2021, table A1, which drops above 0.20), except that there the text's length includes the
// white space around lines. Lines are identified by 64-bit hashes, the first FILTER_LINES distinct
// ones of a document; a line that first occurs after these never counts as repeated.

enum { FILTER_LINES = 1 << 20 };

// What is known of a document at its end.
typedef struct {
    DropReason reason;               // one of the filters, or DROP_NONE
    double value;                    // that the filter measured
    uint64_t characters;             // including white space
    double japanese, repeated_lines; // fractions; 0 in a text of white space

    // What documents are compared by; zeros where the options do not need it.
    unsigned char exact[16];            // first 128 bits of the SHA-256 of the text
    uint16_t signature[MINHASH_VALUES]; // see minhash.h
} Fingerprint;

// Reused for one document after another, one state per thread: about 50 KiB, and up to 32 MiB after
// a document with many lines. Zero but for the options before the first one.
typedef struct {
    FilterOptions options;
    uint64_t characters, spaces, japanese;

    // The current line: hash and characters up to its last character that is not white space, and
    // up to the last character read.
    uint64_t line, line_characters, line_so_far, line_characters_so_far;

    // The lines before it.
    uint64_t all_characters, repeated_characters;
    uint64_t *lines; // (line_count) hashes of the distinct lines
    size_t line_count, line_capacity;
    HashTable line_table; // indices into lines

    Sha256 text;
    MinHash minhash;
} FilterState;

// Frees what a state holds.
static inline void filter_free(FilterState *s) {
    free(s->lines);
    free(s->line_table.slots);
}

// Starts a document.
static inline void filter_begin(FilterState *s) {
    s->characters = s->spaces = s->japanese = 0;
    s->line_characters = s->line_characters_so_far = s->all_characters = s->repeated_characters = 0;
    s->line_so_far = HASH_START;
    s->line_count = 0;
    hash_table_clear(&s->line_table);
    sha256_begin(&s->text);
    minhash_begin(&s->minhash);
}

static inline bool line_equals_(const void *lines, uint32_t item, const void *line) {
    return ((const uint64_t *)lines)[item] == *(const uint64_t *)line;
}

static inline uint64_t line_hash_(const void *lines, uint32_t item) {
    return hash_mix(((const uint64_t *)lines)[item]);
}

// Whether the current line occurred earlier; it is added if not.
static inline bool line_repeats_(FilterState *s, bool *repeats, Error *e) {
    const bool full = s->line_count == FILTER_LINES;
    if (!full &&
        (!hash_table_reserve(&s->line_table, line_hash_, s->lines, e) ||
         !array_reserve(&s->lines, &s->line_capacity, s->line_count, 1, sizeof *s->lines, e))) {
        return false;
    }

    uint32_t *slot =
        hash_table_slot(&s->line_table, hash_mix(s->line), line_equals_, s->lines, &s->line);
    *repeats = *slot != 0;
    if (!*slot && !full) {
        s->lines[s->line_count++] = s->line;
        *slot = (uint32_t)s->line_count;
        s->line_table.count++;
    }
    return true;
}

// Ends the current line.
static inline bool line_end_(FilterState *s, Error *e) {
    if (s->line_characters > 0) {
        bool repeats = false;
        if (!line_repeats_(s, &repeats, e)) {
            return false;
        }
        s->all_characters += s->line_characters;
        s->repeated_characters += repeats ? s->line_characters : 0;
    }
    s->line_characters = s->line_characters_so_far = 0;
    s->line_so_far = HASH_START;
    return true;
}

// Adds a character of the current line; FNV-1a over the code points.
static inline void line_add_(FilterState *s, uint32_t c) {
    s->line_so_far = (s->line_so_far ^ c) * 0x100000001B3u;
    s->line_characters_so_far++;
}

// Adds white space.
static inline bool space_add_(FilterState *s, uint32_t c, Error *e) {
    s->spaces++;
    minhash_add_space(&s->minhash);
    if (c == '\n') {
        return line_end_(s, e);
    }
    if (s->line_characters > 0) {
        line_add_(s, c);
    }
    return true;
}

// Adds the next chunk of the document, which ends at a character boundary. Each byte that is not
// UTF-8 counts as U+FFFD. Fails only if memory runs out.
static inline bool filter_add(FilterState *s, const char *text, size_t length, Error *e) {
    if (s->options.exact) {
        sha256_add(&s->text, text, length);
    }

    for (size_t i = 0; i < length;) {
        uint32_t c = (unsigned char)text[i];
        size_t n = c < 0x80 ? 1 : utf8_decode(text + i, length - i, &c);
        if (n == 0) {
            c = 0xFFFD, n = 1;
        }
        i += n;
        s->characters++;

        CharacterKind_ kind = character_kind_(c);
        if (kind == KIND_SPACE_) {
            if (!space_add_(s, c, e)) {
                return false;
            }
            continue;
        }

        s->japanese += kind == KIND_JAPANESE_;
        line_add_(s, c);
        s->line = s->line_so_far;
        s->line_characters = s->line_characters_so_far;
        if (s->options.near_duplicates > 0) {
            minhash_add(&s->minhash, c);
        }
    }
    return true;
}

// Applies the filters to the statistics of a document.
static inline void filter_apply_(const FilterOptions *o, Fingerprint *f) {
    if (f->characters < o->min_characters) {
        f->reason = DROP_SHORT;
        f->value = (double)f->characters;
    } else if (f->characters > o->max_characters) {
        f->reason = DROP_LONG;
        f->value = (double)f->characters;
    } else if (f->japanese < o->min_japanese) {
        f->reason = DROP_JAPANESE;
        f->value = f->japanese;
    } else if (f->repeated_lines > o->max_repeated_lines) {
        f->reason = DROP_REPEATED_LINES;
        f->value = f->repeated_lines;
    }
}

// Ends the document.
static inline bool filter_end(FilterState *s, Fingerprint *f, Error *e) {
    const uint64_t visible = s->characters - s->spaces;
    *f = (Fingerprint){.characters = s->characters};
    if (!line_end_(s, e)) {
        return false;
    }

    if (visible) {
        f->japanese = (double)s->japanese / (double)visible;
    }
    if (s->all_characters) {
        f->repeated_lines = (double)s->repeated_characters / (double)s->all_characters;
    }
    filter_apply_(&s->options, f);

    if (s->options.exact) {
        unsigned char digest[32];
        sha256_digest(&s->text, digest);
        memcpy(f->exact, digest, sizeof f->exact);
    }
    minhash_end(&s->minhash, f->signature);
    return true;
}

#endif
