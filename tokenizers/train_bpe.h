// train_bpe.h: byte-level BPE of GPT-2's kind (Sennrich et al. 2016, over bytes as in Radford et
// al. 2019): the most frequent pair of symbols is merged, again and again.
//
// All words lie one after the other in an array with a slot per byte and an empty slot around each.
// A symbol takes as many slots as it has bytes; its first and its last slot name it, so that both
// neighbours are found by the lengths. The first slot also stands in the list of all places where
// the symbol and its right neighbour form the same pair. So a merge visits just the places it
// changes and finds the pairs that these places leave and join without a hash table: all pairs with
// the new symbol arise during its merge, told apart by the other symbol. Later their counts only
// fall. Hence a pair that is left below two when the merge is over never comes back, and the heap
// may hold old counts: an entry whose count has fallen is put back when it reaches the top.
#ifndef TOKENIZERS_TRAIN_BPE_H
#define TOKENIZERS_TRAIN_BPE_H

#include "tokenizer.h"
#include "tokenizers/train_words.h"
#include "util/heap.h"

enum { NO_PAIR_ = UINT32_MAX, NO_PLACE_ = UINT32_MAX, NO_SYMBOL_ = -1 };

typedef struct {
    int32_t symbol; // NO_SYMBOL_ between words
    uint32_t word;
    uint32_t pair;           // whose left symbol starts here
    uint32_t previous, next; // place of the same pair
} Place_;

typedef struct {
    uint64_t count; // times that the words with its places came
    int32_t left, right;
    uint32_t first, last; // place; in order of place, as "aaa" must merge from the left
    uint32_t chain;       // next pair made by the same merge, or next unused one
} Pair_;

typedef struct {
    const Word *words;
    Place_ *places;
    Pair_ *pairs;
    size_t pair_count, pair_capacity;
    uint32_t created, unused; // pairs, chained
    uint32_t *with_left;      // (vocab_size) the pair (symbol, new symbol)
    uint32_t *with_right;     // (vocab_size) the pair (new symbol, symbol)
    uint32_t *lengths;        // (vocab_size) bytes of a symbol
    Heap heap;                // pairs: highest count, then smallest left id, then smallest right id
} Merger_;

static inline void merger_free_(Merger_ *m) {
    free(m->places);
    free(m->pairs);
    free(m->with_left);
    free(m->with_right);
    free(m->lengths);
    free(m->heap.entries);
}

// Takes a place out of its pair's list.
static inline void place_leave_(Merger_ *m, uint32_t at) {
    Place_ *place = &m->places[at];
    if (place->pair == NO_PAIR_) {
        return;
    }
    Pair_ *pair = &m->pairs[place->pair];
    pair->count -= m->words[place->word].count;
    *(place->previous == NO_PLACE_ ? &pair->first : &m->places[place->previous].next) = place->next;
    *(place->next == NO_PLACE_ ? &pair->last : &m->places[place->next].previous) = place->previous;
    place->pair = NO_PAIR_;
}

// Appends a place to the list of the pair in *slot, which is made if it is NO_PAIR_.
static inline bool place_join_(Merger_ *m, uint32_t at, uint32_t *slot, int32_t left, int32_t right,
                               Error *e) {
    if (*slot == NO_PAIR_) {
        if (m->unused != NO_PAIR_) {
            *slot = m->unused;
            m->unused = m->pairs[*slot].chain;
        } else {
            if (!array_reserve(&m->pairs, &m->pair_capacity, m->pair_count, 1, sizeof(Pair_), e)) {
                return false;
            }
            *slot = (uint32_t)m->pair_count++;
        }
        m->pairs[*slot] = (Pair_){0, left, right, NO_PLACE_, NO_PLACE_, m->created};
        m->created = *slot;
    }
    Pair_ *pair = &m->pairs[*slot];
    Place_ *place = &m->places[at];
    place->pair = *slot;
    place->previous = pair->last;
    place->next = NO_PLACE_;
    *(pair->last == NO_PLACE_ ? &pair->first : &m->places[pair->last].next) = at;
    pair->last = at;
    pair->count += m->words[place->word].count;
    return true;
}

static inline void pair_drop_(Merger_ *m, uint32_t index) {
    while (m->pairs[index].first != NO_PLACE_) {
        place_leave_(m, m->pairs[index].first);
    }
    m->pairs[index].chain = m->unused;
    m->unused = index;
}

static inline bool pair_queue_(Merger_ *m, uint32_t index, Error *e) {
    const Pair_ *pair = &m->pairs[index];
    HeapEntry entry = {UINT64_MAX - pair->count, (uint64_t)pair->left << 32 | (uint64_t)pair->right,
                       index};
    return heap_push(&m->heap, entry, e);
}

// After a merge: queues the pairs it made that may merge one day, drops the others.
static inline bool created_queue_(Merger_ *m, Error *e) {
    while (m->created != NO_PAIR_) {
        uint32_t index = m->created;
        Pair_ *pair = &m->pairs[index];
        m->created = pair->chain;
        m->with_left[pair->left] = m->with_right[pair->right] = NO_PAIR_;
        if (pair->count < 2) {
            pair_drop_(m, index);
        } else if (!pair_queue_(m, index, e)) {
            return false;
        }
    }
    return true;
}

// Lays the words out and lists the places of all pairs of bytes.
static inline bool merger_start_(Merger_ *m, const TokenizerTrainer *trainer,
                                 const int32_t *byte_id, size_t vocab_size, Error *e) {
    size_t count = trainer->text_length + trainer->word_count + 1;
    uint32_t *byte_pairs = malloc(65536 * sizeof *byte_pairs), at = 0;
    *m = (Merger_){.words = trainer->words, .created = NO_PAIR_, .unused = NO_PAIR_};
    m->places = count < UINT32_MAX ? malloc(count * sizeof *m->places) : NULL;
    m->with_left = malloc(vocab_size * sizeof *m->with_left);
    m->with_right = malloc(vocab_size * sizeof *m->with_right);
    m->lengths = malloc(vocab_size * sizeof *m->lengths);
    bool ok = byte_pairs && m->places && m->with_left && m->with_right && m->lengths;
    if (!ok) {
        fail(e,
             "tokenizer: no memory to train on %zu bytes of different words; train on a smaller "
             "sample",
             trainer->text_length);
    } else {
        memset(byte_pairs, 0xFF, 65536 * sizeof *byte_pairs);
        memset(m->with_left, 0xFF, vocab_size * sizeof *m->with_left);
        memset(m->with_right, 0xFF, vocab_size * sizeof *m->with_right);
        for (int i = 0; i < 256; i++) {
            m->lengths[i] = 1;
        }
        m->places[at++] = (Place_){NO_SYMBOL_, 0, NO_PAIR_, 0, 0};
    }
    for (size_t w = 0; ok && w < trainer->word_count; w++) {
        const Word *word = &trainer->words[w];
        for (size_t i = 0; ok && i <= word->length; i++, at++) {
            bool inside = i < word->length;
            int32_t id =
                inside ? byte_id[(unsigned char)trainer->text[word->start + i]] : NO_SYMBOL_;
            m->places[at] = (Place_){id, (uint32_t)w, NO_PAIR_, 0, 0};
            if (inside && i > 0) {
                int32_t left = m->places[at - 1].symbol;
                ok = place_join_(m, at - 1, &byte_pairs[left << 8 | id], left, id, e);
            }
        }
    }
    free(byte_pairs);
    return ok && created_queue_(m, e);
}

// Index of the pair to merge next, NO_PAIR_ if none occurs twice.
static inline bool merger_best_(Merger_ *m, uint32_t *best, Error *e) {
    *best = NO_PAIR_;
    while (m->heap.count && *best == NO_PAIR_) {
        HeapEntry top = heap_pop(&m->heap);
        uint64_t count = m->pairs[top.item].count;
        if (count == UINT64_MAX - top.major) {
            *best = top.item;
        } else if (count < 2) {
            pair_drop_(m, top.item);
        } else if (!pair_queue_(m, top.item, e)) {
            return false;
        }
    }
    return true;
}

// Replaces the pair by the new symbol `id` wherever it occurs.
static inline bool merger_apply_(Merger_ *m, uint32_t index, int32_t id, Error *e) {
    int32_t left = m->pairs[index].left, right = m->pairs[index].right;
    Place_ *places = m->places;
    m->lengths[id] = m->lengths[left] + m->lengths[right];
    while (m->pairs[index].first != NO_PLACE_) {
        uint32_t at = m->pairs[index].first, end = at + m->lengths[id];
        int32_t before = places[at - 1].symbol, after = places[end].symbol;
        place_leave_(m, at);
        place_leave_(m, at + m->lengths[left]);
        places[at].symbol = places[end - 1].symbol = id;
        if (before != NO_SYMBOL_) {
            uint32_t start = at - m->lengths[before];
            place_leave_(m, start);
            if (!place_join_(m, start, &m->with_left[before], before, id, e)) {
                return false;
            }
        }
        // A pair of two new symbols is told by its left one; it comes up here only from its right
        // one, above.
        if (after != NO_SYMBOL_ && !place_join_(m, at, &m->with_right[after], id, after, e)) {
            return false;
        }
    }
    pair_drop_(m, index);
    return created_queue_(m, e);
}

static inline bool trainer_merge_(Merger_ *m, size_t vocab_size, Tokenizer *out, Error *e) {
    while (out->vocabulary.count + 1 < vocab_size) {
        uint32_t best;
        if (!merger_best_(m, &best, e)) {
            return false;
        }
        if (best == NO_PAIR_) {
            return fail(e, "the text fills only %zu tokens: --vocab-size must be at most %zu",
                        out->vocabulary.count + 1, out->vocabulary.count + 1);
        }
        Merge merge = {m->pairs[best].left, m->pairs[best].right, (int32_t)out->vocabulary.count};
        Token left = out->vocabulary.tokens[merge.left],
              right = out->vocabulary.tokens[merge.right];
        if (!array_reserve(&out->vocabulary.bytes, &out->vocabulary.byte_capacity,
                           out->vocabulary.byte_count, 2 * (left.length + right.length), 1, e)) {
            return false;
        }
        char *joined = out->vocabulary.bytes + out->vocabulary.byte_count + left.length +
                       right.length; // beyond the token's own place
        memcpy(joined, out->vocabulary.bytes + left.offset, left.length);
        memcpy(joined + left.length, out->vocabulary.bytes + right.offset, right.length);
        if (!tokenizer_add_token(out, joined, left.length + right.length, false, e) ||
            !tokenizer_add_merge(out, merge, e) || !merger_apply_(m, best, merge.result, e)) {
            return false;
        }
    }
    return true;
}

// Makes the tokenizer: ids as GPT-2 gives them, 0 .. 255 the bytes in the order of their alphabet,
// 256 + r the merge of rank r, the last one <|endoftext|>. Each merge is that of the commonest
// pair; among equals that with the smallest left id, then with the smallest right id. Only pairs
// that occur at least twice are merged; if the text has too few of them, that is an error whose
// line names the largest vocabulary it can fill. The trainer is left as it was.
static inline bool trainer_finish(const TokenizerTrainer *trainer, size_t vocab_size,
                                  Tokenizer *out, Error *e) {
    ByteAlphabet alphabet = byte_alphabet();
    Merger_ merger = {0};
    int32_t byte_id[256];
    tokenizer_init(out);
    if (vocab_size < 257 || vocab_size > TOKENIZER_MAX_VOCAB) {
        return fail(e, "--vocab-size %zu: must be 257 (the 256 bytes and %s) to %d", vocab_size,
                    END_OF_DOCUMENT_TEXT, TOKENIZER_MAX_VOCAB);
    }
    bool ok = true;
    for (int id = 0; ok && id < 256; id++) {
        byte_id[alphabet.byte_of_id[id]] = id;
        ok = tokenizer_add_token(out, (const char *)&alphabet.byte_of_id[id], 1, false, e);
    }
    AddedToken end = {(char *)END_OF_DOCUMENT_TEXT, strlen(END_OF_DOCUMENT_TEXT),
                      (int32_t)vocab_size - 1, .special = true};
    ok = ok && merger_start_(&merger, trainer, byte_id, vocab_size, e) &&
         trainer_merge_(&merger, vocab_size, out, e) &&
         tokenizer_add_token(out, end.text, end.length, false, e) &&
         tokenizer_add_added(out, end, e);
    out->end_of_document = end.id;
    ok = ok && tokenizer_index(out, "trained tokenizer", e);
    merger_free_(&merger);
    if (!ok) {
        tokenizer_free(out);
    }
    return ok;
}

#endif
