// pre_tokenizer.h: the pre-tokenizers of a tokenizer.json: Split steps (splitter.h), ByteLevel and
// Metaspace.
#ifndef TOKENIZERS_PRE_TOKENIZER_H
#define TOKENIZERS_PRE_TOKENIZER_H

#include "tokenizers/splitter.h"
#include "tokenizers/tokens.h"
#include "util/text.h"

typedef enum { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS, PREPEND_SCHEMES } PrependScheme;

// A space becomes another character, which also goes before a text.
typedef struct {
    char replacement[5];
    size_t length; // of the replacement in bytes; 0: there is no Metaspace
    PrependScheme prepend;
    bool split; // into words, before each replacement
} Metaspace;

typedef struct {
    Splitter splitter; // of byte-level BPE
    bool is_gpt2;      // it is just GPT-2's
    char *expression;  // of the only step, for a tokenizer.json that is generated; may be NULL
    bool prefix_space; // byte-level BPE: a space goes before a text that begins with none
    Metaspace metaspace;
} PreTokenizer;

// Bytes up to the next space symbol (`symbol`, of m bytes) that begins a word. `runs`: only a
// symbol after another character begins one; otherwise every symbol does.
static inline size_t word_length(const char *text, size_t n, const char *symbol, size_t m,
                                 bool runs) {
    size_t at = 0;
    if (runs) {
        while (n - at >= m && !memcmp(text + at, symbol, m)) {
            at += m;
        }
    } else if (n > 0) {
        at = 1;
    }

    while (at < n) {
        const char *found = memchr(text + at, symbol[0], n - at);
        if (!found || (size_t)(text + n - found) < m) {
            return n;
        }
        at = (size_t)(found - text);
        if (!memcmp(found, symbol, m)) {
            return at;
        }
        at++;
    }
    return at;
}

static inline bool metaspace_begins(const Metaspace *m, const char *text, size_t n) {
    return *text == ' ' || (n >= m->length && !memcmp(text, m->replacement, m->length));
}

// Writes the replacement that goes before text of n > 0 bytes, if any.
static inline bool metaspace_prepend(const Metaspace *m, const char *text, size_t n, int chunk,
                                     TextBuffer *out, Error *e) {
    bool prepend = m->prepend == PREPEND_ALWAYS ||
                   (m->prepend == PREPEND_FIRST && !(chunk & TEXT_AFTER_TOKEN));
    out->length = 0;
    return !prepend || chunk & TEXT_NOT_FIRST || metaspace_begins(m, text, n) ||
           text_append(out, m->replacement, m->length, e);
}

#endif
