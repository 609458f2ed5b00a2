// merge_bpe.h: BPE with a list of merges over characters, as the tokenizer.json of Llama 2 and
// Mistral has it. A character that is no token becomes the tokens of its bytes, or the unknown
// token.
#ifndef TOKENIZERS_MERGE_BPE_H
#define TOKENIZERS_MERGE_BPE_H

#include "tokenizers/bpe.h"
#include "tokenizers/pieces.h"

// The symbols that the character of n bytes at `text` starts as, from *count on. *unknown: the last
// one is of an unknown character, with which the next one is fused.
static inline void merge_bpe_character_(const Vocabulary *v, const PieceModel *m, BpeScratch *s,
                                        const char *text, size_t n, uint32_t *count,
                                        bool *unknown) {
    const int32_t id = vocabulary_find(v, text, n);
    if (id < 0 && m->byte_fallback) {
        for (size_t i = 0; i < n; i++) {
            bpe_set_symbol(s, (*count)++, v->byte_id[(unsigned char)text[i]]);
        }
        return;
    }
    if (id >= 0 || !(*unknown && m->fuse_unknown)) {
        bpe_set_symbol(s, (*count)++, id >= 0 ? id : m->unknown);
    }
    *unknown = id < 0;
}

// Appends the ids of normalized text.
static inline bool merge_bpe_encode(const Vocabulary *v, const PieceModel *m,
                                    const MergeTable *merges, BpeScratch *s, const char *text,
                                    size_t n, TokenBuffer *out, Error *e) {
    uint32_t count = 0;
    bool unknown = false;
    if (!bpe_reserve_symbols(s, n, e) || !token_buffer_reserve(out, n, e)) {
        return false;
    }
    for (size_t at = 0, length; at < n; at += length) {
        length = lead_byte_length(text + at, n - at);
        merge_bpe_character_(v, m, s, text + at, length, &count, &unknown);
    }
    return bpe_merge_symbols(merges, s, count, out, e);
}

#endif
