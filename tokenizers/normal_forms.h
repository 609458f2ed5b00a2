// normal_forms.h: Unicode normalization (UAX 15): NFC, NFD, NFKC and NFKD, by the tables of the
// library that Hugging Face `tokenizers` uses. Text that is in the form already is only looked at.
#ifndef TOKENIZERS_NORMAL_FORMS_H
#define TOKENIZERS_NORMAL_FORMS_H

#include "tokenizers/normal_tables.h"
#include "util/array.h"
#include "util/hash.h"
#include "util/text.h"
#include "util/utf8.h"

typedef enum { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD, FORMS } NormalForm;

// From here on no character decomposes, and none has a combining class.
enum { FORM_CODE_POINTS_ = 0x30000 };

// Hangul syllables are computed.
enum {
    HANGUL_ = 0xAC00,
    HANGUL_END_ = 0xD7A4,
    HANGUL_L_ = 0x1100,
    HANGUL_V_ = 0x1161,
    HANGUL_T_ = 0x11A7, // none
    HANGUL_L_COUNT_ = 19,
    HANGUL_V_COUNT_ = 21,
    HANGUL_T_COUNT_ = 28
};

// Properties of a character that decide what may be left as it is.
enum {
    FORM_CHANGES_C_ = 1, // NFC may change it, or what is before it
    FORM_CHANGES_D_ = 2, // it decomposes
    FORM_CHANGES_K_ = 4, // it decomposes for compatibility
    FORM_CLASS_ = 8,     // its combining class is not 0
    FORM_JOINS_ = 16,  // it, or the first of its decomposition, may join or pass what is before it
    FORM_JOINS_K_ = 32 // the same for compatibility
};

// A pair that composes: UINT64_MAX if the place is free.
typedef struct {
    uint64_t pair; // first << 32 | second
    uint32_t composed;
} Composition_;

typedef struct {
    uint8_t *properties, *classes; // (FORM_CODE_POINTS_)
    uint32_t *entries[2];          // (FORM_CODE_POINTS_) canonical, compatible: place in
                                   // UNICODE_DECOMPOSITIONS of the code points, 0 if there are none
    Composition_ *compositions;
    size_t composition_mask;
    uint32_t
        *lower; // (FORM_CODE_POINTS_): place in UNICODE_LOWER of the lower case, 0 for the same
} NormalForms;

static inline void normal_forms_free(NormalForms *n) {
    free(n->properties);
    free(n->classes);
    free(n->entries[0]);
    free(n->entries[1]);
    free(n->compositions);
    free(n->lower);
    *n = (NormalForms){0};
}

static inline uint8_t form_property_(const NormalForms *n, uint32_t c) {
    return c < FORM_CODE_POINTS_ ? n->properties[c] : 0;
}

static inline uint8_t form_class_(const NormalForms *n, uint32_t c) {
    return c < FORM_CODE_POINTS_ ? n->classes[c] : 0;
}

static inline Composition_ *form_composition_(const NormalForms *n, uint32_t first,
                                              uint32_t second) {
    const uint64_t pair = (uint64_t)first << 32 | second;
    size_t i = (size_t)hash_mix(pair) & n->composition_mask;
    while (n->compositions[i].pair != pair && n->compositions[i].pair != UINT64_MAX) {
        i = (i + 1) & n->composition_mask;
    }
    return &n->compositions[i];
}

// The code points of an entry, *length of them.
static inline const uint32_t *form_entry_(uint32_t place, size_t *length) {
    *length = UNICODE_DECOMPOSITIONS[place - 1] >> 2 & 31;
    return &UNICODE_DECOMPOSITIONS[place];
}

static inline void forms_read_decompositions_(NormalForms *n) {
    uint32_t c = 0;
    size_t length;
    const size_t end = sizeof UNICODE_DECOMPOSITIONS / sizeof *UNICODE_DECOMPOSITIONS;
    for (size_t i = 0; i < end; i += 1 + length) {
        const uint32_t entry = UNICODE_DECOMPOSITIONS[i], *to = &UNICODE_DECOMPOSITIONS[i + 1];
        length = entry >> 2 & 31;
        c += entry >> 7;
        n->entries[entry & 1][c] = (uint32_t)i + 1;
        n->properties[c] |= entry & 1 ? FORM_CHANGES_K_ : FORM_CHANGES_D_ | FORM_CHANGES_K_;
        if (entry & 2) {
            *form_composition_(n, to[0], to[1]) = (Composition_){(uint64_t)to[0] << 32 | to[1], c};
            n->properties[to[1]] |= FORM_CHANGES_C_ | FORM_JOINS_ | FORM_JOINS_K_;
        } else if (!(entry & 1)) {
            n->properties[c] |= FORM_CHANGES_C_;
        }
    }
}

static inline void forms_read_classes_(NormalForms *n) {
    uint32_t c = 0;
    for (size_t i = 0; i + 1 < sizeof UNICODE_COMBINING / sizeof *UNICODE_COMBINING; i += 2) {
        c += UNICODE_COMBINING[i];
        for (uint32_t end = c + (UNICODE_COMBINING[i + 1] >> 8); c < end; c++) {
            n->classes[c] = (uint8_t)UNICODE_COMBINING[i + 1];
            n->properties[c] |= FORM_CHANGES_C_ | FORM_CLASS_ | FORM_JOINS_ | FORM_JOINS_K_;
        }
    }
}

// What the first character of a decomposition does to what is before it, the character does.
static inline void forms_pass_on_joins_(NormalForms *n) {
    for (uint32_t c = HANGUL_V_; c < HANGUL_V_ + HANGUL_V_COUNT_; c++) {
        n->properties[c] |= FORM_CHANGES_C_ | FORM_JOINS_ | FORM_JOINS_K_;
    }
    for (uint32_t c = HANGUL_T_ + 1; c < HANGUL_T_ + HANGUL_T_COUNT_; c++) {
        n->properties[c] |= FORM_CHANGES_C_ | FORM_JOINS_ | FORM_JOINS_K_;
    }
    for (uint32_t c = HANGUL_; c < HANGUL_END_; c++) {
        n->properties[c] |= FORM_CHANGES_D_ | FORM_CHANGES_K_;
    }
    for (int round = 0; round < 4; round++) { // decompositions of decompositions
        for (uint32_t c = 0; c < FORM_CODE_POINTS_; c++) {
            size_t length;
            for (int k = 0; k < 2; k++) {
                if (n->entries[k][c]) {
                    const uint8_t first =
                        form_property_(n, *form_entry_(n->entries[k][c], &length));
                    n->properties[c] |= first & (k ? FORM_JOINS_K_ : FORM_JOINS_ | FORM_JOINS_K_);
                }
            }
        }
    }
}

static inline void forms_read_lower_(NormalForms *n) {
    uint32_t c = 0, length;
    for (uint32_t i = 0; i < sizeof UNICODE_LOWER / sizeof *UNICODE_LOWER; i += 1 + length) {
        length = UNICODE_LOWER[i] & 3;
        c += UNICODE_LOWER[i] >> 2;
        n->lower[c] = i + 1;
    }
}

// Builds the tables. The caller frees them with normal_forms_free, on failure too.
static inline bool normal_forms_init(NormalForms *n, Error *e) {
    const size_t size = 1 << 12;
    *n = (NormalForms){.composition_mask = size - 1};
    n->properties = calloc(FORM_CODE_POINTS_, 1);
    n->classes = calloc(FORM_CODE_POINTS_, 1);
    n->entries[0] = calloc(FORM_CODE_POINTS_, sizeof(uint32_t));
    n->entries[1] = calloc(FORM_CODE_POINTS_, sizeof(uint32_t));
    n->compositions = malloc(size * sizeof *n->compositions);
    n->lower = calloc(FORM_CODE_POINTS_, sizeof *n->lower);
    if (!n->properties || !n->classes || !n->entries[0] || !n->entries[1] || !n->compositions ||
        !n->lower) {
        return fail(e, "tokenizer: out of memory for Unicode normalization");
    }
    memset(n->compositions, 0xFF, size * sizeof *n->compositions);
    forms_read_classes_(n);
    forms_read_decompositions_(n);
    forms_pass_on_joins_(n);
    forms_read_lower_(n);
    return true;
}

// ------------------------------------------------------------------------------------------------

typedef struct {
    uint32_t c;
    uint8_t class;
} FormCharacter_;

// Scratch memory; zero-initialize.
typedef struct {
    FormCharacter_ *items, *sorted;
    size_t count, capacity, sorted_capacity;
} FormScratch_;

static inline bool form_append_(const NormalForms *n, FormScratch_ *s, uint32_t c, Error *e) {
    const FormCharacter_ item = {c, form_class_(n, c)};
    return array_append(&s->items, &s->capacity, &s->count, &item, sizeof item, e);
}

// Appends the complete decomposition of a character.
static inline bool form_decompose_(const NormalForms *n, FormScratch_ *s, uint32_t c,
                                   bool compatible, Error *e) {
    if (c >= HANGUL_ && c < HANGUL_END_) {
        const uint32_t at = c - HANGUL_, t = at % HANGUL_T_COUNT_, lv = at / HANGUL_T_COUNT_;
        return form_append_(n, s, HANGUL_L_ + lv / HANGUL_V_COUNT_, e) &&
               form_append_(n, s, HANGUL_V_ + lv % HANGUL_V_COUNT_, e) &&
               (t == 0 || form_append_(n, s, HANGUL_T_ + t, e));
    }
    uint32_t place = 0;
    if (c < FORM_CODE_POINTS_) {
        place = compatible ? n->entries[1][c] : 0;
        place = place ? place : n->entries[0][c];
    }
    if (place == 0) {
        return form_append_(n, s, c, e);
    }
    size_t length;
    const uint32_t *to = form_entry_(place, &length);
    for (size_t i = 0; i < length; i++) {
        if (!form_decompose_(n, s, to[i], compatible, e)) {
            return false;
        }
    }
    return true;
}

// Sorts a run of characters with combining classes by these, keeping the order of equal ones: by
// counting, for a run may be long.
static inline bool form_sort_run_(FormScratch_ *s, size_t start, size_t end, Error *e) {
    size_t places[257] = {0};
    if (!array_reserve(&s->sorted, &s->sorted_capacity, 0, end - start, sizeof *s->sorted, e)) {
        return false;
    }
    for (size_t i = start; i < end; i++) {
        places[s->items[i].class + 1]++;
    }
    for (size_t k = 1; k < 257; k++) {
        places[k] += places[k - 1];
    }
    for (size_t i = start; i < end; i++) {
        s->sorted[places[s->items[i].class]++] = s->items[i];
    }
    memcpy(s->items + start, s->sorted, (end - start) * sizeof *s->items);
    return true;
}

static inline bool form_sort_(FormScratch_ *s, Error *e) {
    for (size_t i = 0; i < s->count;) {
        size_t end = i;
        bool sorted = true;
        for (; end < s->count && s->items[end].class; end++) {
            sorted = sorted && (end == i || s->items[end - 1].class <= s->items[end].class);
        }
        if (!sorted && !form_sort_run_(s, i, end, e)) {
            return false;
        }
        i = end > i ? end : i + 1;
    }
    return true;
}

// What two characters compose to, 0 if they do not.
static inline uint32_t form_compose_pair_(const NormalForms *n, uint32_t a, uint32_t b) {
    if (a >= HANGUL_L_ && a < HANGUL_L_ + HANGUL_L_COUNT_ && b >= HANGUL_V_ &&
        b < HANGUL_V_ + HANGUL_V_COUNT_) {
        return HANGUL_ + ((a - HANGUL_L_) * HANGUL_V_COUNT_ + (b - HANGUL_V_)) * HANGUL_T_COUNT_;
    }
    if (a >= HANGUL_ && a < HANGUL_END_ && (a - HANGUL_) % HANGUL_T_COUNT_ == 0 && b > HANGUL_T_ &&
        b < HANGUL_T_ + HANGUL_T_COUNT_) {
        return a + (b - HANGUL_T_);
    }
    const Composition_ *found = form_composition_(n, a, b);
    return found->pair == UINT64_MAX ? 0 : found->composed;
}

// Composes what composes with the last starter and is not blocked from it.
static inline void form_compose_(const NormalForms *n, FormScratch_ *s) {
    size_t starter = SIZE_MAX, kept = 0;
    for (size_t i = 0; i < s->count; i++) {
        const FormCharacter_ here = s->items[i];
        const bool blocked =
            starter == SIZE_MAX || (kept - 1 > starter && s->items[kept - 1].class >= here.class);
        const uint32_t composed = blocked ? 0 : form_compose_pair_(n, s->items[starter].c, here.c);
        if (composed) {
            s->items[starter].c = composed;
            continue;
        }
        s->items[kept] = here;
        starter = here.class == 0 ? kept : starter;
        kept++;
    }
    s->count = kept;
}

// Appends a part of a text in this form; it begins with a character that joins nothing before it,
// and such a one follows it.
static inline bool form_append_part_(const NormalForms *n, NormalForm form, FormScratch_ *s,
                                     const char *text, size_t length, TextBuffer *out, Error *e) {
    s->count = 0;
    for (size_t at = 0, taken; at < length; at += taken) {
        uint32_t c = 0xFFFD;
        taken = utf8_decode(text + at, length - at, &c);
        taken = taken ? taken : 1;
        if (!form_decompose_(n, s, c, form >= FORM_NFKC, e)) {
            return false;
        }
    }
    if (!form_sort_(s, e)) {
        return false;
    }
    if (form == FORM_NFC || form == FORM_NFKC) {
        form_compose_(n, s);
    }
    for (size_t i = 0; i < s->count; i++) {
        char bytes[4];
        if (!text_append(out, bytes, utf8_encode(s->items[i].c, bytes), e)) {
            return false;
        }
    }
    return true;
}

// What changes a character in this form; and what ties it to the one before it.
static inline uint8_t form_changes_(NormalForm form) {
    static const uint8_t changes[FORMS] = {FORM_CHANGES_C_, FORM_CHANGES_D_ | FORM_CLASS_,
                                           FORM_CHANGES_C_ | FORM_CHANGES_K_,
                                           FORM_CHANGES_D_ | FORM_CHANGES_K_ | FORM_CLASS_};
    return changes[form];
}

static inline uint8_t form_joins_(NormalForm form) {
    return form >= FORM_NFKC ? FORM_JOINS_K_ : FORM_JOINS_;
}

// Properties of the character at text, and its length in bytes.
static inline uint8_t form_property_at_(const NormalForms *n, const char *text, size_t length,
                                        size_t *taken) {
    uint32_t c = 0xFFFD;
    *taken = 1;
    if ((unsigned char)*text < 0x80) {
        return 0;
    }
    *taken = utf8_decode(text, length, &c);
    // A byte that belongs to no character would become U+FFFD.
    const uint8_t property = *taken ? form_property_(n, c) : UINT8_MAX;
    *taken += *taken == 0;
    return property;
}

// True if the character at text (length > 0) is not changed and joins nothing before it.
static inline bool form_is_stable(const NormalForms *n, NormalForm form, const char *text,
                                  size_t length) {
    size_t taken;
    return !(form_property_at_(n, text, length, &taken) &
             (form_changes_(form) | form_joins_(form)));
}

// True if the character at text (length > 0) may change what is before it.
static inline bool form_joins_before(const NormalForms *n, NormalForm form, const char *text,
                                     size_t length) {
    size_t taken;
    return form_property_at_(n, text, length, &taken) & form_joins_(form);
}

// The bytes at the start of the text that are in the form already, up to a character that joins
// nothing before it.
static inline size_t form_stable_length_(const NormalForms *n, NormalForm form, const char *text,
                                         size_t length) {
    const uint8_t changes = form_changes_(form), joins = form_joins_(form);
    size_t boundary = 0, taken;
    for (size_t at = 0; at < length; at += taken) {
        uint64_t eight = UINT64_MAX;
        memcpy(&eight, text + at, length - at < 8 ? 0 : 8);
        if (!(eight & 0x8080808080808080u)) { // ASCII is in every form
            taken = 8;
            boundary = at + 7;
            continue;
        }
        const uint8_t property = form_property_at_(n, text + at, length - at, &taken);
        boundary = property & joins ? boundary : at;
        if (property & changes) {
            return boundary;
        }
    }
    return length;
}

// True if the text is sure to be in this form already.
static inline bool form_holds(const NormalForms *n, NormalForm form, const char *text,
                              size_t length) {
    return form_stable_length_(n, form, text, length) == length;
}

// Bytes up to the next character that neither changes nor joins the one before it, from which the
// text is looked at again.
static inline size_t form_unstable_length_(const NormalForms *n, NormalForm form, const char *text,
                                           size_t length) {
    const uint8_t stops = form_changes_(form) | form_joins_(form);
    size_t at = 0, taken;
    form_property_at_(n, text, length, &taken);
    for (at = taken; at < length; at += taken) {
        if (!(form_property_at_(n, text + at, length - at, &taken) & stops)) {
            break;
        }
    }
    return at;
}

// Appends the text in this form.
static inline bool form_append(const NormalForms *n, NormalForm form, const char *text,
                               size_t length, TextBuffer *out, Error *e) {
    FormScratch_ scratch = {0};
    bool ok = true;
    for (size_t at = 0; ok && at < length;) {
        const size_t stable = form_stable_length_(n, form, text + at, length - at);
        ok = text_append(out, text + at, stable, e);
        at += stable;
        if (ok && at < length) {
            const size_t part = form_unstable_length_(n, form, text + at, length - at);
            ok = form_append_part_(n, form, &scratch, text + at, part, out, e);
            at += part;
        }
    }
    free(scratch.items);
    free(scratch.sorted);
    return ok;
}

// True if the character at text (length > 0) is its own lower case.
static inline bool lower_is_stable(const NormalForms *n, const char *text, size_t length) {
    uint32_t c = 0;
    return utf8_decode(text, length, &c) > 0 && (c >= FORM_CODE_POINTS_ || n->lower[c] == 0);
}

// Appends the lower case of each character, as far as it does not depend on its neighbours.
static inline bool lower_append(const NormalForms *n, const char *text, size_t length,
                                TextBuffer *out, Error *e) {
    for (size_t at = 0, taken; at < length; at += taken) {
        uint32_t c = FORM_CODE_POINTS_;
        char bytes[16];
        size_t count = 0;
        taken = utf8_decode(text + at, length - at, &c);
        taken = taken ? taken : 1;
        const uint32_t place = c < FORM_CODE_POINTS_ ? n->lower[c] : 0;
        for (uint32_t i = 0; place && i < (UNICODE_LOWER[place - 1] & 3); i++) {
            count += utf8_encode(UNICODE_LOWER[place + i], bytes + count);
        }
        if (!(place ? text_append(out, bytes, count, e) : text_append(out, text + at, taken, e))) {
            return false;
        }
    }
    return true;
}

#endif
