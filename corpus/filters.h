// filters.h: which documents of a corpus are kept: the options, the reasons for dropping one, and
// the statistics and fingerprint of a document that decide it.
#ifndef CORPUS_FILTERS_H
#define CORPUS_FILTERS_H

#include "util/array.h"
#include "util/bytes.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/sha256.h"
#include "util/utf8.h"

// ------------------------------------------------------------------------------------------------
// Options and reasons

typedef struct {
    uint64_t min_characters, max_characters; // of the text with its white space
    double min_japanese; // share of its characters that are not white space, see collect_class_
    double max_repeated_lines; // share of its characters in lines that occurred before, see
                               // CollectState
    bool exact;                // a text that equals an earlier one byte for byte goes
    double near_duplicates; // one whose estimated similarity to an earlier one reaches this goes;
                            // 0: off
} CollectOptions;

// Drops nothing.
static const CollectOptions COLLECT_EVERYTHING = {.max_characters = UINT64_MAX,
                                                  .max_repeated_lines = 1};

// Why a document is left out. The filters come first, in the order in which they are asked: the
// first that objects is the reason. A filtered document is not compared with others.
typedef enum {
    COLLECT_KEPT,
    COLLECT_SHORT,          // value: characters
    COLLECT_LONG,           // value: characters
    COLLECT_JAPANESE,       // value: share of Japanese
    COLLECT_REPEATED_LINES, // value: share of characters in repeated lines
    COLLECT_EXACT,          // value: 1
    COLLECT_NEAR,           // value: estimated similarity
    COLLECT_REASONS
} CollectReason;

static inline const char *collect_reason_name(CollectReason reason) {
    static const char *const names[COLLECT_REASONS] = {
        "kept", "short", "long", "japanese", "repeated_lines", "exact_duplicate", "near_duplicate"};
    return names[reason];
}

// Character n-grams at similarities below one half say more of the language than of the document.
static inline bool collect_check(const CollectOptions *o, Error *e) {
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

typedef enum { COLLECT_OTHER_, COLLECT_SPACE_, COLLECT_JAPANESE_ } CollectClass_;

// White space is Unicode's White_Space. Japanese are Hiragana, Katakana of full and half width, Han
// (so that Chinese counts as well), and their punctuation: the blocks CJK Radicals, Kangxi
// Radicals, CJK Symbols and Punctuation, Hiragana, Katakana, Katakana Phonetic Extensions, CJK
// Unified Ideographs and extensions, CJK Compatibility Ideographs and Forms, the Kana extensions
// from U+1AFF0 to U+1B16F, all of planes 2 and 3, and of Halfwidth and Fullwidth Forms the Katakana
// and the punctuation. Full-width letters and digits are out: they spell other languages too.
static inline CollectClass_ collect_class_(uint32_t c) {
    if (c < 0x2000) {
        return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680
                   ? COLLECT_SPACE_
                   : COLLECT_OTHER_;
    }
    if (c < 0x3000) {
        bool space = c <= 0x200A || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F;
        return space                       ? COLLECT_SPACE_
               : c >= 0x2E80 && c < 0x2FE0 ? COLLECT_JAPANESE_
                                           : COLLECT_OTHER_; // radicals
    }
    if (c < 0xA000) {
        // U+3000 is the ideographic space. Out: Bopomofo, Hangul Jamo, enclosed and squared forms,
        // hexagrams.
        bool japanese =
            c < 0x3100 || c >= 0x4E00 || (c >= 0x31F0 && c < 0x3200) || (c >= 0x3400 && c < 0x4DC0);
        return c == 0x3000 ? COLLECT_SPACE_ : japanese ? COLLECT_JAPANESE_ : COLLECT_OTHER_;
    }
    bool han = (c >= 0xF900 && c < 0xFB00) || (c >= 0x20000 && c < 0x40000);
    bool kana = (c >= 0xFF66 && c < 0xFFA0) || (c >= 0x1AFF0 && c < 0x1B170);
    bool punctuation = (c >= 0xFE30 && c < 0xFE50) || (c >= 0xFF01 && c < 0xFF10) ||
                       (c >= 0xFF1A && c < 0xFF21) || (c >= 0xFF3B && c < 0xFF41) ||
                       (c >= 0xFF5B && c < 0xFF66);
    return han || kana || punctuation ? COLLECT_JAPANESE_ : COLLECT_OTHER_;
}

// ------------------------------------------------------------------------------------------------
// One document
//
// Repeated lines: lines end at LF and lose white space at both ends; blank ones do not count. A
// line that occurred before in the document is repeated. The share is the characters of repeated
// lines over those of all lines. This is the "duplicate line character fraction" of Gopher (Rae et
// al. 2021, table A1, which drops above 0.20) but for the white space around lines, which there
// counts in the text's length. Lines are known by 64-bit hashes, the first COLLECT_LINES different
// ones of a document; what first comes up later is never taken for repeated.
//
// Fingerprint: SHA-256 of the text as it is, cut to 128 bits; and a MinHash signature (Broder 1997)
// of the set of character n-grams after ASCII letters become lower case, runs of white space one
// space, and white space at both ends nothing. Five characters a gram work for Japanese, which has
// no spaces, as for English (Okazaki et al. 2024 take them for the Swallow corpus). A text of fewer
// characters is one gram; one without any has the empty set, which is similar to itself only. The
// share of equal values in two signatures estimates the Jaccard similarity |A n B| / |A u B| of the
// sets, with standard deviation sqrt(J (1 - J) / COLLECT_SIGNATURE).
//
// Signatures are made by fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017): each gram
// falls into one bin, and a bin keeps its smallest hash. Bins that no gram hit are filled in
// further rounds with new hashes, so that small sets are estimated as well as large ones. That
// takes the set itself, as long as bins are empty: at most COLLECT_GRAMS grams, of which the chance
// to leave a bin empty is 256 exp(-16) = 3e-5 (then the first COLLECT_GRAMS fill it). A value keeps
// 16 bits of its hash (Li and Koenig 2010): two different grams look equal once in 65,536.

enum { COLLECT_NGRAM = 5, COLLECT_SIGNATURE = 256, COLLECT_GRAMS = 4096, COLLECT_LINES = 1 << 20 };

typedef struct {
    unsigned char exact[16];
    uint16_t signature[COLLECT_SIGNATURE];
} CollectFingerprint;

typedef struct {
    CollectReason reason; // one of the filters, or COLLECT_KEPT
    double value;         // what the filter measured
    uint64_t characters;
    double japanese, repeated_lines; // shares; 0 in a text of white space
} CollectVerdict;

// Reused for any number of documents, one state per thread: about 50 KiB, and 32 MiB after a
// document of many lines.
typedef struct {
    CollectOptions options;
    uint64_t characters, spaces, japanese;

    // The line that is being read. `line` and `line_characters` go to its last character that is no
    // white space.
    uint64_t line, line_characters, line_so_far, line_characters_so_far;
    uint64_t all_characters, repeated_characters; // of the lines before
    uint64_t *lines;                              // [line_count] hashes of the different lines
    uint32_t *line_slots; // [line_slot_count, a power of two] 1 + index into lines, 0: free
    size_t line_count, line_capacity, line_slot_count, line_slot_capacity;

    Sha256 text;

    // The last grams. normal counts the characters of the normalised text.
    uint64_t normal, rolling;
    uint32_t recent[8]; // ring of its last characters
    bool space_due;
    int empty_bins;
    uint64_t bins[COLLECT_SIGNATURE]; // smallest hash, UINT64_MAX: none
    uint64_t
        grams[COLLECT_GRAMS]; // [gram_count] the different grams that came while bins were empty
    uint16_t gram_slots[2 * COLLECT_GRAMS]; // 1 + index into grams, 0: free
    size_t gram_count;
} CollectState;

// Finaliser of SplitMix64 (Steele, Lea, Flood 2014).
static inline uint64_t collect_mix_(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

static inline CollectState *collect_new(const CollectOptions *o, Error *e) {
    CollectState *s = calloc(1, sizeof *s);
    if (!s) {
        fail(e, "collect: no memory for a document's state");
        return NULL;
    }
    s->options = *o;
    return s;
}

static inline void collect_free(CollectState *s) {
    if (s) {
        free(s->lines);
        free(s->line_slots);
        free(s);
    }
}

// Starts a document.
static inline void collect_begin(CollectState *s) {
    s->characters = s->spaces = s->japanese = 0;
    s->line_characters = s->line_characters_so_far = s->all_characters = s->repeated_characters = 0;
    s->line_count = s->line_slot_count = 0;
    s->line_so_far = HASH_START;
    sha256_begin(&s->text);
    s->normal = s->rolling = 0;
    memset(s->recent, 0, sizeof s->recent);
    s->space_due = false;
    s->empty_bins = COLLECT_SIGNATURE;
    memset(s->bins, 0xFF, sizeof s->bins);
    if (s->gram_count) {
        memset(s->gram_slots, 0, sizeof s->gram_slots);
        s->gram_count = 0;
    }
}

static inline uint32_t *collect_line_slot_(CollectState *s, uint64_t line) {
    size_t at = (size_t)collect_mix_(line) & (s->line_slot_count - 1);
    while (s->line_slots[at] && s->lines[s->line_slots[at] - 1] != line) {
        at = (at + 1) & (s->line_slot_count - 1);
    }
    return &s->line_slots[at];
}

// Makes the table of lines larger, and finds every line its new place.
static inline bool collect_lines_grow_(CollectState *s, Error *e) {
    size_t slots = s->line_slot_count ? 2 * s->line_slot_count : 256;
    if (!array_reserve(&s->lines, &s->line_capacity, s->line_count, slots / 2 - s->line_count,
                       sizeof *s->lines, e) ||
        !array_reserve(&s->line_slots, &s->line_slot_capacity, 0, slots, sizeof *s->line_slots,
                       e)) {
        return false;
    }
    s->line_slot_count = slots;
    memset(s->line_slots, 0, slots * sizeof *s->line_slots);
    for (size_t i = 0; i < s->line_count; i++) {
        *collect_line_slot_(s, s->lines[i]) = (uint32_t)i + 1;
    }
    return true;
}

static inline bool collect_line_end_(CollectState *s, Error *e) {
    if (s->line_characters > 0) {
        if (2 * s->line_count >= s->line_slot_count && s->line_count < COLLECT_LINES &&
            !collect_lines_grow_(s, e)) {
            return false;
        }
        uint32_t *slot = collect_line_slot_(s, s->line);
        s->all_characters += s->line_characters;
        if (*slot) {
            s->repeated_characters += s->line_characters;
        } else if (s->line_count < COLLECT_LINES) {
            s->lines[s->line_count++] = s->line;
            *slot = (uint32_t)s->line_count;
        }
    }
    s->line_characters = s->line_characters_so_far = 0;
    s->line_so_far = HASH_START;
    return true;
}

// A hash in the bins, below the UINT64_MAX of an empty one.
static inline uint64_t gram_hash_(uint64_t x) {
    uint64_t hash = collect_mix_(x);
    return hash - (hash == UINT64_MAX);
}

// Puts a gram into the set that the further rounds take.
static inline void gram_remember_(CollectState *s, uint64_t gram) {
    size_t at = (gram >> 32) % (2 * COLLECT_GRAMS);
    while (s->gram_slots[at] && s->grams[s->gram_slots[at] - 1] != gram) {
        at = (at + 1) % (2 * COLLECT_GRAMS);
    }
    if (!s->gram_slots[at] && s->gram_count < COLLECT_GRAMS) {
        s->grams[s->gram_count++] = gram;
        s->gram_slots[at] = (uint16_t)s->gram_count;
    }
}

// From here on a gram is its hash.
static inline void gram_add_(CollectState *s) {
    uint64_t gram = gram_hash_(s->rolling), *bin = &s->bins[gram % COLLECT_SIGNATURE];
    if (s->empty_bins > 0) {
        gram_remember_(s, gram);
        s->empty_bins -= *bin == UINT64_MAX;
    }
    *bin = gram < *bin ? gram : *bin;
}

// Appends a character to the normalised text. The last COLLECT_NGRAM characters c are hashed as the
// polynomial with coefficients c + 1, modulo 2^64.
static inline void normal_add_(CollectState *s, uint32_t c) {
    const uint64_t base = 0x9E3779B97F4A7C15u, last = base * base * base * base * base;
    s->rolling = s->rolling * base + (c + 1) - s->recent[(s->normal - COLLECT_NGRAM) % 8] * last;
    s->recent[s->normal++ % 8] = c + 1;
    if (s->normal >= COLLECT_NGRAM) {
        gram_add_(s);
    }
}

// Adds the next piece of the document's text, which ends at a character boundary. Bytes that are
// not UTF-8 count as U+FFFD each. Fails only for lack of memory.
static inline bool collect_add(CollectState *s, const char *text, size_t length, Error *e) {
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
        CollectClass_ class = collect_class_(c);
        if (class == COLLECT_SPACE_) {
            s->spaces++;
            s->space_due = true;
            if (c == '\n') {
                if (!collect_line_end_(s, e)) {
                    return false;
                }
            } else if (s->line_characters > 0) {
                s->line_so_far = (s->line_so_far ^ c) * 0x100000001B3u;
                s->line_characters_so_far++;
            }
            continue;
        }
        s->japanese += class == COLLECT_JAPANESE_;
        s->line = s->line_so_far = (s->line_so_far ^ c) * 0x100000001B3u;
        s->line_characters = ++s->line_characters_so_far;
        if (s->options.near_duplicates > 0) {
            if (s->space_due && s->normal > 0) {
                normal_add_(s, ' ');
            }
            s->space_due = false;
            normal_add_(s, c >= 'A' && c <= 'Z' ? c + 32 : c);
        }
    }
    return true;
}

// Fills the empty bins. Round i gives each gram a new hash and, from round COLLECT_SIGNATURE on,
// one bin for all, so that the rounds end. A bin filled in one round is closed to the next.
static inline void bins_fill_(CollectState *s) {
    uint16_t filled[COLLECT_SIGNATURE]; // the round, UINT16_MAX: none yet
    for (int i = 0; i < COLLECT_SIGNATURE; i++) {
        filled[i] = s->bins[i] == UINT64_MAX ? UINT16_MAX : 0;
    }
    for (uint16_t round = 1; s->empty_bins > 0; round++) {
        for (size_t i = 0; i < s->gram_count; i++) {
            uint64_t hash = gram_hash_(s->grams[i] + round * 0x9E3779B97F4A7C15u);
            size_t bin = round < COLLECT_SIGNATURE ? hash % COLLECT_SIGNATURE
                                                   : round - (size_t)COLLECT_SIGNATURE;
            if (filled[bin] >= round) {
                s->empty_bins -= filled[bin] == UINT16_MAX;
                filled[bin] = round;
                s->bins[bin] = hash < s->bins[bin] ? hash : s->bins[bin];
            }
        }
    }
}

static inline CollectVerdict collect_verdict_(const CollectState *s) {
    const CollectOptions *o = &s->options;
    uint64_t visible = s->characters - s->spaces;
    CollectVerdict v = {.characters = s->characters};
    v.japanese = visible ? (double)s->japanese / (double)visible : 0;
    v.repeated_lines =
        s->all_characters ? (double)s->repeated_characters / (double)s->all_characters : 0;
    v.reason = v.characters < o->min_characters           ? COLLECT_SHORT
               : v.characters > o->max_characters         ? COLLECT_LONG
               : v.japanese < o->min_japanese             ? COLLECT_JAPANESE
               : v.repeated_lines > o->max_repeated_lines ? COLLECT_REPEATED_LINES
                                                          : COLLECT_KEPT;
    v.value = v.reason == COLLECT_JAPANESE         ? v.japanese
              : v.reason == COLLECT_REPEATED_LINES ? v.repeated_lines
              : v.reason == COLLECT_KEPT           ? 0
                                                   : (double)v.characters;
    return v;
}

// Ends the document: its verdict, and its fingerprint as far as the options ask for one (zeros
// where they do not).
static inline bool collect_end(CollectState *s, CollectVerdict *verdict,
                               CollectFingerprint *fingerprint, Error *e) {
    *fingerprint = (CollectFingerprint){0};
    *verdict = (CollectVerdict){0};
    if (!collect_line_end_(s, e)) {
        return false;
    }
    *verdict = collect_verdict_(s);
    if (s->options.exact) {
        char hex[65];
        sha256_end(&s->text, hex);
        for (int i = 0; i < 16; i++) {
            fingerprint->exact[i] = (unsigned char)(s->text.state[i / 4] >> (24 - i % 4 * 8));
        }
    }
    if (s->normal > 0 && s->normal < COLLECT_NGRAM) {
        gram_add_(s);
    }
    if (s->gram_count > 0) {
        bins_fill_(s);
        for (int i = 0; i < COLLECT_SIGNATURE; i++) {
            fingerprint->signature[i] = (uint16_t)(s->bins[i] >> 8); // the low 8 bits chose the bin
        }
    }
    return true;
}

#endif
