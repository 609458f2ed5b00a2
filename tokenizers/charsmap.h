// charsmap.h: the character map of a SentencePiece model, its rules of normalization: u32 size, a
// Darts double array of that many bytes, NUL-terminated replacement texts.
#ifndef TOKENIZERS_CHARSMAP_H
#define TOKENIZERS_CHARSMAP_H

#include "util/bytes.h"
#include "util/error.h"
#include "util/utf8.h"

typedef struct {
    uint32_t *units; // (count); NULL: no rules
    size_t count;
    const char *texts; // in the file; ends in NUL
    size_t text_bytes;
    const char *blob; // all of it, in the file
    size_t blob_bytes;
} Charsmap;

static inline uint32_t charsmap_offset_(uint32_t unit) {
    return unit >> 10 << ((unit & 0x200) >> 6);
}

// Checks size, texts and each rule's place among the texts. The map points into `blob`; the caller
// frees m->units.
static inline bool charsmap_read(Charsmap *m, const char *blob, size_t length,
                                 const FileErrors *f) {
    size_t size = length < 4 ? 0 : (size_t)load_le(blob, 4);
    if (length <= 4 || size >= length - 4 || size < 4 || size % 4 || blob[length - 1]) {
        return reject(f, "its precompiled_charsmap of %zu bytes is truncated", length);
    }
    *m = (Charsmap){malloc(size), size / 4, blob + 4 + size, length - 4 - size, blob, length};
    if (!m->units) {
        return reject(f, "out of memory for its precompiled_charsmap");
    }
    for (size_t i = 0; i < m->count; i++) {
        m->units[i] = (uint32_t)load_le(blob + 4 + 4 * i, 4);
    }

    if (!utf8_is_valid(m->texts, m->text_bytes)) {
        return reject(f, "its precompiled_charsmap is corrupt: a replacement is not UTF-8");
    }
    for (size_t i = 0; i < m->count; i++) {
        size_t leaf = i ^ charsmap_offset_(m->units[i]);
        bool has_leaf =
            m->units[i] >> 31 == 0 && m->units[i] >> 8 & 1; // bit 31 marks the values themselves
        if (has_leaf && (leaf >= m->count || (m->units[leaf] & 0x7FFFFFFF) >= m->text_bytes)) {
            return reject(f, "its precompiled_charsmap is corrupt: a rule points outside it");
        }
    }
    return true;
}

// Bytes that the longest matching rule replaces, 0 if there is none, and its replacement. *open as
// in trie_longest.
static inline size_t charsmap_longest(const Charsmap *m, const char *s, size_t n, const char **text,
                                      bool *open) {
    size_t longest = 0, i = 0, at;
    *open = false;
    if (!m->units) {
        return 0;
    }

    at = charsmap_offset_(m->units[0]);
    for (; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        at ^= c;
        if (at >= m->count || (m->units[at] & 0x800000FF) != c) {
            return longest;
        }
        uint32_t unit = m->units[at];
        at ^= charsmap_offset_(unit);
        if (unit >> 8 & 1) {
            longest = i + 1;
            *text = m->texts + (m->units[at] & 0x7FFFFFFF);
        }
    }
    *open = true;
    return longest;
}

#endif
