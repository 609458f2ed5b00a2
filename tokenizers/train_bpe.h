// train_bpe.h: training of byte-level BPE as in GPT-2 (Sennrich et al. 2016, on bytes as in Radford
// et al. 2019): repeatedly merges the most frequent pair of adjacent symbols.
//
// All words are stored in one array with a position per byte and an empty position between words. A
// symbol occupies as many positions as it has bytes; its first and last positions hold its id, so
// that both neighbours are found from the lengths. Its first position is also linked into the list
// of all occurrences of the pair that it forms with its right neighbour. A merge therefore visits
// only the occurrences that it changes, and updates the neighbouring pairs without a hash table:
// all pairs with the new symbol are created during its merge and are indexed by their other symbol.
// From then on their counts only decrease. So a pair that occurs less than twice after the merge
// can be forgotten, and the heap may hold stale counts: an entry whose count has decreased is
// pushed again when it reaches the top.
#ifndef TOKENIZERS_TRAIN_BPE_H
#define TOKENIZERS_TRAIN_BPE_H

#include "tokenizer.h"
#include "tokenizers/train_words.h"
#include "util/heap.h"

enum { NO_PAIR_ = UINT32_MAX, NO_POSITION_ = UINT32_MAX, NO_SYMBOL_ = -1 };

typedef struct {
    int32_t symbol;          // NO_SYMBOL_ between words
    uint32_t word;           // index of the word
    uint32_t pair;           // the pair whose left symbol starts here
    uint32_t previous, next; // occurrences of the same pair
} Position_;

typedef struct {
    uint64_t count;       // occurrences in the text: each word weighted by its frequency
    int32_t left, right;  // symbols
    uint32_t first, last; // occurrences, in ascending order since "aaa" must merge from the left
    uint32_t next_pair;   // in the list of new or of free pairs
} Pair_;

typedef struct {
    const Word *words;
    Position_ *positions;
    Pair_ *pairs;
    size_t pair_count, pair_capacity;
    uint32_t new_pairs, free_pairs; // lists: pairs created by the current merge, reusable entries
    uint32_t *with_left;            // (vocab_size) the pair (symbol, new symbol)
    uint32_t *with_right;           // (vocab_size) the pair (new symbol, symbol)
    uint32_t *lengths;              // (vocab_size) bytes of a symbol
    Heap heap; // of pairs: highest count, then smallest left id, then smallest right id
} BpeTrainer_;

static inline void bpe_free_(BpeTrainer_ *bpe) {
    free(bpe->positions);
    free(bpe->pairs);
    free(bpe->with_left);
    free(bpe->with_right);
    free(bpe->lengths);
    free(bpe->heap.entries);
}

// Removes an occurrence from the list of its pair.
static inline void pair_unlink_(BpeTrainer_ *bpe, uint32_t at) {
    Position_ *position = &bpe->positions[at];
    if (position->pair == NO_PAIR_) {
        return;
    }
    Pair_ *pair = &bpe->pairs[position->pair];
    pair->count -= bpe->words[position->word].count;
    *(position->previous == NO_POSITION_ ? &pair->first
                                         : &bpe->positions[position->previous].next) =
        position->next;
    *(position->next == NO_POSITION_ ? &pair->last : &bpe->positions[position->next].previous) =
        position->previous;
    position->pair = NO_PAIR_;
}

// Appends an occurrence to the list of pair *slot, which is created if it is NO_PAIR_.
static inline bool pair_link_(BpeTrainer_ *bpe, uint32_t at, uint32_t *slot, int32_t left,
                              int32_t right, Error *e) {
    // A new pair, in a free entry if there is one.
    if (*slot == NO_PAIR_) {
        if (bpe->free_pairs != NO_PAIR_) {
            *slot = bpe->free_pairs;
            bpe->free_pairs = bpe->pairs[*slot].next_pair;
        } else {
            if (!array_reserve(&bpe->pairs, &bpe->pair_capacity, bpe->pair_count, 1, sizeof(Pair_),
                               e)) {
                return false;
            }
            *slot = (uint32_t)bpe->pair_count++;
        }
        bpe->pairs[*slot] = (Pair_){0, left, right, NO_POSITION_, NO_POSITION_, bpe->new_pairs};
        bpe->new_pairs = *slot;
    }

    Pair_ *pair = &bpe->pairs[*slot];
    Position_ *position = &bpe->positions[at];
    position->pair = *slot;
    position->previous = pair->last;
    position->next = NO_POSITION_;
    *(pair->last == NO_POSITION_ ? &pair->first : &bpe->positions[pair->last].next) = at;
    pair->last = at;
    pair->count += bpe->words[position->word].count;
    return true;
}

// Removes a pair and all its occurrences.
static inline void pair_release_(BpeTrainer_ *bpe, uint32_t index) {
    while (bpe->pairs[index].first != NO_POSITION_) {
        pair_unlink_(bpe, bpe->pairs[index].first);
    }
    bpe->pairs[index].next_pair = bpe->free_pairs;
    bpe->free_pairs = index;
}

// Pushes a pair with its current count onto the heap.
static inline bool pair_push_(BpeTrainer_ *bpe, uint32_t index, Error *e) {
    const Pair_ *pair = &bpe->pairs[index];
    HeapEntry entry = {UINT64_MAX - pair->count, (uint64_t)pair->left << 32 | (uint64_t)pair->right,
                       index};
    return heap_push(&bpe->heap, entry, e);
}

// After a merge: pushes the pairs it created that may be merged later, releases the others.
static inline bool new_pairs_push_(BpeTrainer_ *bpe, Error *e) {
    while (bpe->new_pairs != NO_PAIR_) {
        uint32_t index = bpe->new_pairs;
        Pair_ *pair = &bpe->pairs[index];
        bpe->new_pairs = pair->next_pair;
        bpe->with_left[pair->left] = bpe->with_right[pair->right] = NO_PAIR_;
        if (pair->count < 2) {
            pair_release_(bpe, index);
        } else if (!pair_push_(bpe, index, e)) {
            return false;
        }
    }
    return true;
}

// Stores the words as symbols and lists the occurrences of all pairs of bytes.
static inline bool bpe_init_(BpeTrainer_ *bpe, const TokenizerTrainer *trainer,
                             const int32_t *byte_id, size_t vocab_size, Error *e) {
    size_t count = trainer->text.length + trainer->word_count + 1;
    uint32_t *byte_pairs = malloc(65536 * sizeof *byte_pairs), at = 0;
    *bpe = (BpeTrainer_){.words = trainer->words, .new_pairs = NO_PAIR_, .free_pairs = NO_PAIR_};
    bpe->positions = count < UINT32_MAX ? malloc(count * sizeof *bpe->positions) : NULL;
    bpe->with_left = malloc(vocab_size * sizeof *bpe->with_left);
    bpe->with_right = malloc(vocab_size * sizeof *bpe->with_right);
    bpe->lengths = malloc(vocab_size * sizeof *bpe->lengths);
    bool ok = byte_pairs && bpe->positions && bpe->with_left && bpe->with_right && bpe->lengths;
    if (!ok) {
        fail(e,
             "tokenizer: no memory to train on %zu bytes of distinct words: train on a smaller "
             "sample",
             trainer->text.length);
    } else {
        memset(byte_pairs, 0xFF, 65536 * sizeof *byte_pairs);
        memset(bpe->with_left, 0xFF, vocab_size * sizeof *bpe->with_left);
        memset(bpe->with_right, 0xFF, vocab_size * sizeof *bpe->with_right);
        for (int i = 0; i < 256; i++) {
            bpe->lengths[i] = 1;
        }
        bpe->positions[at++] = (Position_){NO_SYMBOL_, 0, NO_PAIR_, 0, 0};
    }
    for (size_t w = 0; ok && w < trainer->word_count; w++) {
        const Word *word = &trainer->words[w];
        for (size_t i = 0; ok && i <= word->length; i++, at++) {
            bool inside = i < word->length;
            int32_t id =
                inside ? byte_id[(unsigned char)trainer->text.data[word->start + i]] : NO_SYMBOL_;
            bpe->positions[at] = (Position_){id, (uint32_t)w, NO_PAIR_, 0, 0};
            if (inside && i > 0) {
                int32_t left = bpe->positions[at - 1].symbol;
                ok = pair_link_(bpe, at - 1, &byte_pairs[left << 8 | id], left, id, e);
            }
        }
    }
    free(byte_pairs);
    return ok && new_pairs_push_(bpe, e);
}

// *best: index of the pair to merge next, NO_PAIR_ if none occurs twice.
static inline bool bpe_best_pair_(BpeTrainer_ *bpe, uint32_t *best, Error *e) {
    *best = NO_PAIR_;
    while (bpe->heap.count && *best == NO_PAIR_) {
        HeapEntry top = heap_pop(&bpe->heap);
        uint64_t count = bpe->pairs[top.item].count;
        if (count == UINT64_MAX - top.major) {
            *best = top.item;
        } else if (count < 2) {
            pair_release_(bpe, top.item);
        } else if (!pair_push_(bpe, top.item, e)) {
            return false;
        }
    }
    return true;
}

// Replaces all occurrences of a pair by the new symbol `id`.
static inline bool bpe_apply_merge_(BpeTrainer_ *bpe, uint32_t index, int32_t id, Error *e) {
    int32_t left = bpe->pairs[index].left, right = bpe->pairs[index].right;
    Position_ *positions = bpe->positions;
    bpe->lengths[id] = bpe->lengths[left] + bpe->lengths[right];
    while (bpe->pairs[index].first != NO_POSITION_) {
        uint32_t at = bpe->pairs[index].first, end = at + bpe->lengths[id];
        int32_t before = positions[at - 1].symbol, after = positions[end].symbol;
        pair_unlink_(bpe, at);
        pair_unlink_(bpe, at + bpe->lengths[left]);
        positions[at].symbol = positions[end - 1].symbol = id;
        if (before != NO_SYMBOL_) {
            uint32_t start = at - bpe->lengths[before];
            pair_unlink_(bpe, start);
            if (!pair_link_(bpe, start, &bpe->with_left[before], before, id, e)) {
                return false;
            }
        }
        // A pair of two new symbols is indexed by the left one (above), when its right one is
        // merged.
        if (after != NO_SYMBOL_ && !pair_link_(bpe, at, &bpe->with_right[after], id, after, e)) {
            return false;
        }
    }
    pair_release_(bpe, index);
    return new_pairs_push_(bpe, e);
}

// Bytes of the token that a merge makes, from the end of the vocabulary's byte array on, beyond the
// space that the token itself will take.
static inline char *merged_bytes_(Vocabulary *v, Token left, Token right, Error *e) {
    const size_t length = left.length + right.length;
    if (!array_reserve(&v->bytes, &v->byte_capacity, v->byte_count, 2 * length, 1, e)) {
        return NULL;
    }
    char *joined = v->bytes + v->byte_count + length;
    memcpy(joined, v->bytes + left.offset, left.length);
    memcpy(joined + left.length, v->bytes + right.offset, right.length);
    return joined;
}

// Merges pairs until the vocabulary is full but for the end-of-document token.
static inline bool bpe_learn_merges_(BpeTrainer_ *bpe, size_t vocab_size, Tokenizer *out,
                                     Error *e) {
    while (out->vocabulary.count + 1 < vocab_size) {
        uint32_t best;
        if (!bpe_best_pair_(bpe, &best, e)) {
            return false;
        }
        if (best == NO_PAIR_) {
            return fail(e, "the text yields only %zu tokens: --vocab-size must be at most %zu",
                        out->vocabulary.count + 1, out->vocabulary.count + 1);
        }

        Merge merge = {bpe->pairs[best].left, bpe->pairs[best].right,
                       (int32_t)out->vocabulary.count};
        Token left = out->vocabulary.tokens[merge.left];
        Token right = out->vocabulary.tokens[merge.right];
        const char *bytes = merged_bytes_(&out->vocabulary, left, right, e);
        if (!bytes ||
            !vocabulary_add(&out->vocabulary, bytes, left.length + right.length, false, e) ||
            !merges_add(&out->merges, merge, e) || !bpe_apply_merge_(bpe, best, merge.result, e)) {
            return false;
        }
    }
    return true;
}

// Trains a byte-level BPE tokenizer of exactly `vocab_size` tokens. Ids as in GPT-2: 0 .. 255 are
// the bytes in the order of the byte alphabet, 256 + r is the token of the merge with rank r, the
// last one is <|endoftext|>. Each merge takes the most frequent pair; ties go to the smallest left
// id, then to the smallest right id. Only pairs that occur at least twice are merged; if the text
// has too few of them, the error names the largest possible vocabulary size. The trainer is not
// changed.
static inline bool trainer_finish(const TokenizerTrainer *trainer, size_t vocab_size,
                                  Tokenizer *out, Error *e) {
    BpeTrainer_ state = {0};
    int32_t byte_id[256];
    tokenizer_init(out);
    if (vocab_size < 257 || vocab_size > TOKENIZER_MAX_VOCAB) {
        return fail(e, "--vocab-size %zu: must be 257 (the 256 bytes and %s) to %d", vocab_size,
                    END_OF_DOCUMENT_TEXT, TOKENIZER_MAX_VOCAB);
    }
    bool ok = true;
    for (int k = 0; ok && k < 512; k++) { // printable bytes first
        int byte = k % 256;
        if (byte_is_printable(byte) == (k < 256)) {
            byte_id[byte] = (int32_t)out->vocabulary.count;
            ok = vocabulary_add(&out->vocabulary, &(char){(char)byte}, 1, false, e);
        }
    }
    AddedToken end = {(char *)END_OF_DOCUMENT_TEXT, strlen(END_OF_DOCUMENT_TEXT),
                      (int32_t)vocab_size - 1, .special = true};
    ok = ok && bpe_init_(&state, trainer, byte_id, vocab_size, e) &&
         bpe_learn_merges_(&state, vocab_size, out, e) &&
         vocabulary_add(&out->vocabulary, end.text, end.length, false, e) &&
         tokenizer_add_added(out, end, e);
    out->end_of_document = end.id;
    ok = ok && tokenizer_index(out, &(FileErrors){"trained tokenizer", e});
    bpe_free_(&state);
    if (!ok) {
        tokenizer_free(out);
    }
    return ok;
}

#endif
