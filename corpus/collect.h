// collect.h: which documents of a corpus go into the training data: filters, exact duplicates,
// near-duplicates. Each document that stays out gets one reason and the value that decided.
//
// One document:  collect_begin, collect_add, collect_end   its filters and fingerprint, from text
// in pieces On disk:       collect_store, collect_load               a record per document, in the
// order of the corpus All of them:   collect_duplicates                        which ones repeat an
// earlier one, from the record files
//
// Everything is a function of the documents in their order: neither the pieces nor threads change a
// result. Sizes of text are in characters (Unicode code points) unless bytes are named.
#ifndef COLLECT_H
#define COLLECT_H

#include "dataloader.h" // defines: Error, fail, reserve_, hash_*, utf8_decode, sha256_*, load_le, store_le, read_at

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

// ------------------------------------------------------------------------------------------------
// Record files: one record a document, filtered ones included, in the order of the corpus; no
// header. Little-endian.
//   0   u8[16]   exact       cut SHA-256 of the text, 0 if options.exact is off
//   16  u64      bytes       of the text
//   24  f64      value       what the filter measured
//   32  u32      reason      of the filters, or COLLECT_KEPT
//   36  u32      0
//   40  u16[256] signature   only if options.near_duplicates is on

enum {
    COLLECT_RECORD_SHORT_ = 40,
    COLLECT_RECORD_LIMIT = COLLECT_RECORD_SHORT_ + 2 * COLLECT_SIGNATURE
};

typedef struct {
    CollectReason reason;
    double value;
    uint64_t bytes;
} CollectRecord;

// Bytes of a record under these options.
static inline size_t collect_record_size(const CollectOptions *o) {
    return o->near_duplicates > 0 ? COLLECT_RECORD_LIMIT : COLLECT_RECORD_SHORT_;
}

// Writes the first collect_record_size(o) bytes of `record`, for a text of `bytes` bytes.
static inline void collect_store(unsigned char record[COLLECT_RECORD_LIMIT],
                                 const CollectOptions *o, const CollectVerdict *verdict,
                                 const CollectFingerprint *fingerprint, uint64_t bytes) {
    uint64_t value;
    memcpy(&value, &verdict->value, sizeof value);
    memcpy(record, fingerprint->exact, 16);
    store_le(record + 16, bytes, 8);
    store_le(record + 24, value, 8);
    store_le(record + 32, verdict->reason, 8);
    for (int i = 0; o->near_duplicates > 0 && i < COLLECT_SIGNATURE; i++) {
        store_le(record + COLLECT_RECORD_SHORT_ + 2 * i, fingerprint->signature[i], 2);
    }
}

static inline bool collect_load(CollectRecord *out, const unsigned char *record, const char *path,
                                Error *e) {
    uint64_t value = load_le(record + 24, 8), reason = load_le(record + 32, 8);
    *out = (CollectRecord){0};
    if (reason >= COLLECT_EXACT) {
        return fail(
            e,
            "%s: holds the reason %llu, which is no filter's: it is no file of collection records",
            path, (unsigned long long)reason);
    }
    *out = (CollectRecord){.reason = (CollectReason)reason, .bytes = load_le(record + 16, 8)};
    memcpy(&out->value, &value, sizeof value);
    return true;
}

// ------------------------------------------------------------------------------------------------
// Duplicates
//
// Locality-sensitive hashing: a signature is cut into bands of `rows` values. Two documents of
// similarity J agree in all of a band with probability J^rows, and in at least one of the bands
// with 1 - (1 - J^rows)^bands. Those that do are compared by their whole signatures.
//
// A table of keys, one column for the texts' exact hash and one for each band, goes to a scratch
// file. Column by column, documents with the same key form a bucket; in it each one is compared
// with the earlier ones that were kept so far, the first COLLECT_BUCKET of them at most, and goes
// with the first that matches. So a bucket of n documents costs at most COLLECT_BUCKET * n
// comparisons. A document that gave way in one column is absent from the next.
//
// A near-duplicate whose match gave way to a third in a later column is compared with that one, and
// comes back if the two are not similar. Then the columns are gone through again, but only the
// buckets of those that came back, until none does. (Each round makes at least the first document
// final that was not, so this ends.) In the end each near-duplicate is similar to an earlier
// document that is kept, and no two that are kept share a band and are similar, as if the documents
// had come one by one. Only in buckets of more than COLLECT_BUCKET kept documents may a pair be
// missed. An exact duplicate names the first document with its text, whatever became of that one.
//
// N documents take 17 N bytes of memory (21 N if most come back), and 4 N (bands + 1) of the
// scratch file.

enum {
    COLLECT_BUCKET = 64,
    COLLECT_PARTS_ = 256,
    COLLECT_BLOCK_ = 4096,
    COLLECT_WANTED_ = 1 << 20
};

static const uint32_t COLLECT_NONE = UINT32_MAX;

typedef struct {
    int rows, bands; // rows * bands <= COLLECT_SIGNATURE
} CollectBands;

// The most rows, and so the fewest comparisons in vain, with which a pair at the threshold meets
// with probability 0.98.
static inline CollectBands collect_bands(double threshold) {
    CollectBands best = {1, COLLECT_SIGNATURE};
    double agree = 1;
    for (int rows = 1; rows <= COLLECT_SIGNATURE; rows++) {
        int bands = COLLECT_SIGNATURE / rows;
        double miss = 1;
        agree *= threshold;
        for (int i = 0; i < bands; i++) {
            miss *= 1 - agree;
        }
        if (miss <= 0.02) {
            best = (CollectBands){rows, bands};
        }
    }
    return best;
}

typedef struct {
    size_t documents;
    uint8_t *reason; // [documents] CollectReason: of the filters as recorded, or what came out here
    uint32_t *of;    // [documents] the earlier document that a duplicate repeats, else COLLECT_NONE
    float *similarity; // [documents] to that one, else 0
} CollectResult;

static inline void collect_result_free(CollectResult *r) {
    free(r->reason);
    free(r->of);
    free(r->similarity);
    *r = (CollectResult){0};
}

typedef struct {
    const char *path;
    int file;
    size_t first, count; // its documents
} CollectFile_;

typedef struct {
    const CollectOptions *options;
    CollectBands bands;
    size_t record;       // bytes
    CollectFile_ *files; // [file_count]
    size_t file_count;
    const char *scratch_path;
    int scratch;
    CollectResult *result;
    uint64_t
        *keys; // [documents] of a column: key << 32 | document, by parts of the key's upper 8 bits
    uint32_t *back; // [back_count] documents that came back in the last round
    size_t back_count, back_capacity;
    uint64_t *wanted; // [COLLECT_WANTED_ / 64] bit key >> 12: whether this round looks at such keys
} CollectDuplicates_;

// Column 0 is the exact hash, column 1 + i is band i.
static inline uint64_t column_offset_(const CollectDuplicates_ *d, int column) {
    return (uint64_t)column * d->result->documents * 4;
}

static inline uint32_t column_key_(const CollectDuplicates_ *d, const unsigned char *record,
                                   int column) {
    size_t bytes = 2 * (size_t)d->bands.rows;
    const unsigned char *band = record + COLLECT_RECORD_SHORT_ + (size_t)(column - 1) * bytes;
    return column == 0
               ? (uint32_t)load_le(record, 4)
               : (uint32_t)(hash_mix(hash_bytes(HASH_START, (const char *)band, bytes)) >> 32);
}

static inline bool scratch_write_(const CollectDuplicates_ *d, const void *data, size_t bytes,
                                  uint64_t offset, Error *e) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n =
            pwrite(d->scratch, (const char *)data + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR) {
            return fail(e, "%s: cannot be written: %s", d->scratch_path, strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// Reads the records of documents first .. first + count - 1 of a file; their reasons and keys go
// where they belong.
static inline bool columns_block_(CollectDuplicates_ *d, const CollectFile_ *file, size_t first,
                                  size_t count, Error *e) {
    unsigned char *records = malloc(count * d->record), *keys = malloc(4 * count);
    bool ok = (records && keys) || fail(e, "collect: no memory for a block of records");
    ok = ok && read_at(file->file, file->path, records, count * d->record, first * d->record, e);
    for (size_t i = 0; ok && i < count; i++) {
        CollectRecord record;
        ok = collect_load(&record, records + i * d->record, file->path, e);
        d->result->reason[file->first + first + i] = (uint8_t)record.reason;
    }
    for (int column = 0; ok && column <= d->bands.bands; column++) {
        for (size_t i = 0; i < count; i++) {
            store_le(keys + 4 * i, column_key_(d, records + i * d->record, column), 4);
        }
        ok = scratch_write_(d, keys, 4 * count,
                            column_offset_(d, column) + 4 * (file->first + first), e);
    }
    free(records);
    free(keys);
    return ok;
}

static inline bool columns_write_(CollectDuplicates_ *d, Error *e) {
    bool ok = true;
    for (size_t f = 0; f < d->file_count; f++) {
        const CollectFile_ *file = &d->files[f];
#pragma omp parallel for schedule(dynamic)
        for (size_t first = 0; first < file->count; first += COLLECT_BLOCK_) {
            Error why;
            if (!columns_block_(d, file, first, min_u64(COLLECT_BLOCK_, file->count - first),
                                &why)) {
#pragma omp critical(collect_error)
                *e = why, ok = false;
            }
        }
    }
    return ok;
}

// Sets the bits of the keys that documents have which came back.
static inline bool keys_want_(CollectDuplicates_ *d, int column, Error *e) {
    memset(d->wanted, 0, COLLECT_WANTED_ / 8);
    for (size_t i = 0; i < d->back_count; i++) {
        unsigned char bytes[4];
        if (!read_at(d->scratch, d->scratch_path, bytes, 4,
                     column_offset_(d, column) + 4 * (uint64_t)d->back[i], e)) {
            return false;
        }
        uint32_t bit = (uint32_t)load_le(bytes, 4) >> 12;
        d->wanted[bit / 64] |= UINT64_C(1) << bit % 64;
    }
    return true;
}

// Counts (`place` false) or places the wanted keys of the documents that are still kept. The
// documents of a part stay in order.
static inline bool collect_keys_pass_(CollectDuplicates_ *d, int column,
                                      size_t begin[COLLECT_PARTS_ + 1], bool place, Error *e) {
    unsigned char block[4 * COLLECT_BLOCK_];
    for (size_t first = 0; first < d->result->documents; first += COLLECT_BLOCK_) {
        size_t count = min_u64(COLLECT_BLOCK_, d->result->documents - first);
        if (!read_at(d->scratch, d->scratch_path, block, 4 * count,
                     column_offset_(d, column) + 4 * first, e)) {
            return false;
        }
        for (size_t i = 0; i < count; i++) {
            uint64_t key = load_le(block + 4 * i, 4);
            if (d->result->reason[first + i] != COLLECT_KEPT ||
                !(d->wanted[key >> 18] >> (key >> 12) % 64 & 1)) {
                continue;
            }
            if (place) {
                d->keys[begin[key >> 24]++] = key << 32 | (first + i);
            } else {
                begin[(key >> 24) + 1]++;
            }
        }
    }
    return true;
}

// Sorts by the middle bits (55 to 32), stable; `spare` has room for as many.
static inline void collect_keys_sort_(uint64_t *keys, uint64_t *spare, size_t count) {
    for (int shift = 32; shift < 56; shift += 12) {
        size_t begin[4097] = {0};
        for (size_t i = 0; i < count; i++) {
            begin[(keys[i] >> shift) % 4096 + 1]++;
        }
        for (int i = 0; i < 4096; i++) {
            begin[i + 1] += begin[i];
        }
        for (size_t i = 0; i < count; i++) {
            spare[begin[(keys[i] >> shift) % 4096]++] = keys[i];
        }
        uint64_t *sorted = spare;
        spare = keys, keys = sorted;
    }
}

// Reads what a column compares of a document's record: the exact hash or the signature.
static inline bool compared_read_(const CollectDuplicates_ *d, uint32_t document, bool exact,
                                  unsigned char *out, Error *e) {
    size_t low = 0, high = d->file_count; // the file is in [low, high)
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        *(d->files[middle].first <= document ? &low : &high) = middle;
    }
    const CollectFile_ *file = &d->files[low];
    return read_at(file->file, file->path, out, exact ? 16 : 2 * COLLECT_SIGNATURE,
                   (document - file->first) * d->record + (exact ? 0 : COLLECT_RECORD_SHORT_), e);
}

static inline double compared_similarity_(const unsigned char *a, const unsigned char *b,
                                          bool exact) {
    int equal = 0;
    if (exact) {
        return memcmp(a, b, 16) == 0;
    }
    for (int i = 0; i < COLLECT_SIGNATURE; i++) {
        equal += a[2 * i] == b[2 * i] && a[2 * i + 1] == b[2 * i + 1];
    }
    return equal / (double)COLLECT_SIGNATURE;
}

// One bucket: documents with the same key, in order.
static inline bool bucket_compare_(CollectDuplicates_ *d, const uint64_t *keys, size_t count,
                                   bool exact, Error *e) {
    unsigned char compared[COLLECT_BUCKET + 1]
                          [2 * COLLECT_SIGNATURE]; // of the kept ones; the last is the one in hand
    uint32_t kept[COLLECT_BUCKET + 1];
    size_t kept_count = 0;
    const double threshold = exact ? 1 : d->options->near_duplicates;
    CollectResult *r = d->result;
    for (size_t i = 0; i < count; i++) {
        uint32_t document = (uint32_t)keys[i];
        double similarity = 0;
        size_t k = 0;
        if (!compared_read_(d, document, exact, compared[kept_count], e)) {
            return false;
        }
        while (k < kept_count && (similarity = compared_similarity_(
                                      compared[k], compared[kept_count], exact)) < threshold) {
            k++;
        }
        if (k < kept_count) {
            r->reason[document] = exact ? COLLECT_EXACT : COLLECT_NEAR;
            r->of[document] = kept[k];
            r->similarity[document] = (float)similarity;
        } else if (kept_count < COLLECT_BUCKET) {
            kept[kept_count++] = document;
        }
    }
    return true;
}

static inline bool part_compare_(CollectDuplicates_ *d, uint64_t *keys, size_t count, bool exact,
                                 Error *e) {
    if (count < 2) {
        return true;
    }
    uint64_t *spare = malloc(count * sizeof *spare);
    if (!spare) {
        return fail(e, "collect: no memory to sort %zu keys", count);
    }
    collect_keys_sort_(keys, spare, count);
    free(spare);
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && keys[end] >> 32 == keys[i] >> 32;) {
            end++;
        }
        if (end - i > 1 && !bucket_compare_(d, keys + i, end - i, exact, e)) {
            return false;
        }
    }
    return true;
}

// A document is in one part of a column only, so parts can go to threads, and ranks could share
// them.
static inline bool column_compare_(CollectDuplicates_ *d, int column, Error *e) {
    size_t begin[COLLECT_PARTS_ + 1] = {0}, end[COLLECT_PARTS_ + 1];
    bool ok = collect_keys_pass_(d, column, begin, false, e);
    for (int p = 0; p < COLLECT_PARTS_; p++) {
        begin[p + 1] += begin[p];
    }
    memcpy(end, begin, sizeof end);
    if (!ok || !collect_keys_pass_(d, column, end, true, e)) {
        return false;
    }
#pragma omp parallel for schedule(dynamic)
    for (int p = 0; p < COLLECT_PARTS_; p++) {
        Error why;
        if (!part_compare_(d, d->keys + begin[p], begin[p + 1] - begin[p], column == 0, &why)) {
#pragma omp critical(collect_error)
            *e = why, ok = false;
        }
    }
    return ok;
}

// Whether the near-duplicate of a document that gave way itself is one of the document that this
// gave way to.
static inline bool chain_shorten_(CollectDuplicates_ *d, uint32_t document, bool *similar,
                                  Error *e) {
    unsigned char compared[2][2 * COLLECT_SIGNATURE];
    CollectResult *r = d->result;
    uint32_t to = r->of[r->of[document]];
    if (!compared_read_(d, document, false, compared[0], e) ||
        !compared_read_(d, to, false, compared[1], e)) {
        return false;
    }
    double similarity = compared_similarity_(compared[0], compared[1], false);
    *similar = similarity >= d->options->near_duplicates;
    r->reason[document] = *similar ? COLLECT_NEAR : COLLECT_KEPT;
    r->of[document] = *similar ? to : COLLECT_NONE;
    r->similarity[document] = *similar ? (float)similarity : 0;
    return true;
}

// In order, so that what a document gave way to is settled before it.
static inline bool chains_settle_(CollectDuplicates_ *d, Error *e) {
    CollectResult *r = d->result;
    d->back_count = 0;
    for (size_t i = 0; i < r->documents; i++) {
        bool similar = true;
        if (r->reason[i] == COLLECT_NEAR && r->reason[r->of[i]] != COLLECT_KEPT &&
            (!chain_shorten_(d, (uint32_t)i, &similar, e) ||
             !array_reserve(&d->back, &d->back_capacity, d->back_count, 1, sizeof *d->back, e))) {
            return false;
        }
        if (!similar) {
            d->back[d->back_count++] = (uint32_t)i;
        }
    }
    return true;
}

static inline bool record_files_open_(CollectDuplicates_ *d, const char *const *paths, size_t count,
                                      Error *e) {
    size_t documents = 0;
    for (; d->file_count < count; d->file_count++) {
        CollectFile_ *file = &d->files[d->file_count];
        const char *path = paths[d->file_count];
        struct stat status;
        *file = (CollectFile_){
            .path = path, .file = open(path, O_RDONLY | O_CLOEXEC), .first = documents};
        if (file->file < 0 || fstat(file->file, &status)) {
            d->file_count += file->file >= 0;
            return fail(e, "%s: cannot be read: %s", path, strerror(errno));
        }
        file->count = (size_t)status.st_size / d->record;
        documents += file->count;
        if ((size_t)status.st_size % d->record || documents >= COLLECT_NONE) {
            d->file_count++;
            return fail(e, "%s: has %lld bytes, which is %s", path, (long long)status.st_size,
                        documents >= COLLECT_NONE ? "more than 4,294,967,294 documents"
                                                  : "no whole number of records");
        }
    }
    d->result->documents = documents;
    return true;
}

static inline bool result_allocate_(CollectResult *r, Error *e) {
    r->reason = calloc(r->documents + 1, sizeof *r->reason);
    r->of = malloc(r->documents * sizeof *r->of + 1);
    r->similarity = calloc(r->documents + 1, sizeof *r->similarity);
    if (!r->reason || !r->of || !r->similarity) {
        return fail(e, "collect: no memory for %zu documents", r->documents);
    }
    memset(r->of, 0xFF, r->documents * sizeof *r->of); // COLLECT_NONE
    return true;
}

static inline bool duplicates_run_(CollectDuplicates_ *d, const char *const *paths, size_t count,
                                   Error *e) {
    if (!(d->files = calloc(count + 1, sizeof *d->files))) {
        return fail(e, "collect: no memory for %zu record files", count);
    }
    if (!record_files_open_(d, paths, count, e) || !result_allocate_(d->result, e)) {
        return false;
    }
    d->scratch = open(d->scratch_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (d->scratch < 0) {
        return fail(e, "%s: cannot be created: %s", d->scratch_path, strerror(errno));
    }
    unlink(d->scratch_path); // gone as soon as it is closed, even by a kill
    if (!columns_write_(d, e)) {
        return false;
    }
    d->keys = malloc(d->result->documents * sizeof *d->keys + 1);
    d->wanted = malloc(COLLECT_WANTED_ / 8);
    if (!d->keys || !d->wanted) {
        return fail(e, "collect: no memory for the keys of %zu documents", d->result->documents);
    }
    memset(d->wanted, 0xFF, COLLECT_WANTED_ / 8);
    if (d->options->exact && !column_compare_(d, 0, e)) {
        return false;
    }
    do {
        for (int column = 1; column <= d->bands.bands; column++) {
            if ((d->back_count > 0 && !keys_want_(d, column, e)) ||
                !column_compare_(d, column, e)) {
                return false;
            }
        }
        if (!chains_settle_(d, e)) {
            return false;
        }
    } while (d->back_count > 0);
    return true;
}

// Finds the duplicates among the documents of the record files, which follow one another in the
// order of the corpus and were made under the same options. scratch_path names a file that does not
// exist yet. Parallel over OpenMP threads. On failure there is nothing to free.
static inline bool collect_duplicates(CollectResult *out, const char *const *paths, size_t count,
                                      const char *scratch_path, const CollectOptions *o, Error *e) {
    CollectDuplicates_ d = {.options = o,
                            .record = collect_record_size(o),
                            .scratch_path = scratch_path,
                            .scratch = -1,
                            .result = out};
    *out = (CollectResult){0};
    if (o->near_duplicates > 0) {
        d.bands = collect_bands(o->near_duplicates);
    }
    bool ok = duplicates_run_(&d, paths, count, e);
    for (size_t f = 0; f < d.file_count; f++) {
        close(d.files[f].file);
    }
    if (d.scratch >= 0) {
        close(d.scratch);
    }
    free(d.files);
    free(d.keys);
    free(d.back);
    free(d.wanted);
    if (!ok) {
        collect_result_free(out);
    }
    return ok;
}

#endif
