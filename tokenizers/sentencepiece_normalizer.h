// sentencepiece_normalizer.h: normalization as sentencepiece does it: character map, white space,
// a space before the text, the space symbol.
#ifndef TOKENIZERS_SENTENCEPIECE_NORMALIZER_H
#define TOKENIZERS_SENTENCEPIECE_NORMALIZER_H

#include "tokenizers/charsmap.h"
#include "tokenizers/tokens.h"
#include "tokenizers/trie.h"
#include "tokenizers/vocabulary.h"
#include "util/text.h"

typedef struct {
    Charsmap charsmap;
    bool dummy_prefix;    // a space goes before the text
    bool space_suffix;    // that space goes after it instead
    bool collapse_spaces; // no spaces at the ends, and one where there are more
    bool escape_spaces;   // a space becomes SPACE_SYMBOL
} SentencePieceNormalizer;

// A place where text and normalized text may both be cut, as far as normalization is concerned.
typedef struct {
    size_t raw, normalized;
    bool restart; // pieces from before this place are not seen
} CutPlace;

typedef struct {
    CutPlace *places;
    size_t count, capacity;
} CutPlaces;

static inline bool cut_places_add(CutPlaces *cuts, CutPlace place, Error *e) {
    return array_append(&cuts->places, &cuts->capacity, &cuts->count, &place, sizeof place, e);
}

// One step at s: the bytes it takes; what they become is *out. A user-defined symbol stays as it
// is; else the longest rule of the character map applies; else a character stays, and a byte that
// belongs to none becomes U+FFFD. *open: the text ends where a longer symbol or rule might
// continue.
static inline size_t sentencepiece_step_(const Charsmap *charsmap, const Trie *user_symbols,
                                         const char *s, size_t n, const char **out, size_t *length,
                                         bool *open) {
    bool open_rule;
    size_t taken = trie_longest(user_symbols, s, n, open);
    *out = s, *length = taken;
    if (taken) {
        return taken;
    }

    taken = charsmap_longest(charsmap, s, n, out, &open_rule);
    *open |= open_rule;
    if (taken) {
        *length = strlen(*out);
        return taken;
    }

    taken = utf8_decode(s, n, NULL);
    *out = taken ? s : "\xEF\xBF\xBD", *length = taken ? taken : 3;
    return taken ? taken : 1;
}

// Appends text, each U+0020 as the space symbol of `size` <= 3 bytes.
static inline bool append_escaped_(TextBuffer *out, const char *text, size_t length,
                                   const char *symbol, size_t size, Error *e) {
    if (!array_reserve(&out->data, &out->capacity, out->length, 3 * length, 1, e)) {
        return false;
    }
    char *to = out->data + out->length;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == ' ') {
            memcpy(to, symbol, size);
            to += size;
        } else {
            *to++ = text[i];
        }
    }
    out->length = (size_t)(to - out->data);
    return true;
}

// Bytes of the text that normalization drops at its beginning: what becomes spaces.
static inline size_t dropped_start_(const SentencePieceNormalizer *s, const Trie *user_symbols,
                                    const char *text, size_t n) {
    const char *becomes;
    size_t at = 0, length;
    bool open;
    while (at < n) {
        size_t taken = sentencepiece_step_(&s->charsmap, user_symbols, text + at, n - at, &becomes,
                                           &length, &open);
        if (length != 1 || *becomes != ' ') {
            break;
        }
        at += taken;
    }
    return at;
}

// The end of a text: drops spaces and adds a suffix, as the model wants it.
static inline bool end_text_(const SentencePieceNormalizer *s, TextBuffer *out, const char *symbol,
                             size_t size, Error *e) {
    while (s->collapse_spaces && out->length >= size &&
           !memcmp(out->data + out->length - size, symbol, size)) {
        out->length -= size;
    }
    return !s->dummy_prefix || !s->space_suffix || text_append(out, symbol, size, e);
}

// Normalizes; *out is overwritten. `chunk` leaves out what is done at the beginning and the end of
// a text. With `cuts`, lists the places from raw position `from` on.
static inline bool normalize_sentencepiece(const SentencePieceNormalizer *s,
                                           const Trie *user_symbols, const char *text, size_t n,
                                           int chunk, TextBuffer *out, CutPlaces *cuts, size_t from,
                                           Error *e) {
    const char *symbol = s->escape_spaces ? SPACE_SYMBOL : " ", *becomes;
    const size_t size = s->escape_spaces ? 3 : 1;
    const bool begins = !(chunk & TEXT_NOT_FIRST);
    size_t length, taken;
    out->length = 0;

    // The beginning of the text.
    size_t at = s->collapse_spaces && begins ? dropped_start_(s, user_symbols, text, n) : 0;
    if (at == n) {
        return true;
    }
    if (s->dummy_prefix && !s->space_suffix && begins && !text_append(out, symbol, size, e)) {
        return false;
    }

    // Step by step. A place is safe while no step before it might have been longer.
    bool after_space = s->collapse_spaces && begins, open, before_open = true;
    for (; at < n; at += taken) {
        taken = sentencepiece_step_(&s->charsmap, user_symbols, text + at, n - at, &becomes,
                                    &length, &open);
        before_open &= !open;
        for (; after_space && length && *becomes == ' '; becomes++, length--) {
        }
        if (!append_escaped_(out, becomes, length, symbol, size, e)) {
            return false;
        }
        after_space = s->collapse_spaces && (length ? becomes[length - 1] == ' ' : after_space);

        bool safe = before_open && length && becomes[length - 1] != ' ';
        if (cuts && safe && at + taken >= from && at + taken < n &&
            !cut_places_add(cuts, (CutPlace){at + taken, out->length, false}, e)) {
            return false;
        }
    }

    return chunk & TEXT_NOT_LAST || end_text_(s, out, symbol, size, e);
}

#endif
