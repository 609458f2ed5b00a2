// tokenizer_train.h: makes a tokenizer from text.
//
// Byte-level BPE of GPT-2's kind (Sennrich et al. 2016, over bytes as in Radford et al. 2019): the
// pre-tokens of the text are counted, then the commonest pair of symbols is merged, again and
// again. Or a Unigram language model with byte fallback (Kudo 2018), in the files of SentencePiece
// and of Hugging Face `tokenizers`.
//
//     TokenizerTrainer trainer;
//     trainer_init(&trainer, &e);                      // trainer_init_unigram
//     trainer_add(&trainer, text, n, &e);
//     trainer_finish(&trainer, 32000, &tokenizer, &e); // trainer_finish_unigram(&trainer, 32000,
//     0.9995, folder, &e) trainer_free(&trainer);
#ifndef TOKENIZER_TRAIN_H
#define TOKENIZER_TRAIN_H

#include <omp.h>

#include "tokenizer.h"         // defines: Tokenizer, pretoken_length, heap_*, hash_*, reserve_
#include "util/suffix_array.h" // defines: suffix_sort_symbols

// ------------------------------------------------------------------------------------------------
// Train: count the pre-tokens

typedef struct {
    uint64_t hash, count;
    size_t start, length; // in TokenizerTrainer.text
} Word_;

// Different words, which no token crosses, and how often each came. Memory grows with the different
// ones only: for text without end, train on a sample.
typedef struct {
    size_t (*word_length)(const uint8_t *classes, const char *text,
                          size_t length); // of the word at the start
    uint8_t *classes;
    Word_ *words;
    size_t word_count, word_capacity;
    char *text;
    size_t text_length, text_capacity;
    uint32_t *slots; // open addressing, word + 1, 0 if empty
    size_t mask;
} TokenizerTrainer;

// The words of Unigram: as GPT-2's pre-tokens, but digits and punctuation go together, and there
// are no contractions.
static inline size_t unigram_word_length_(const uint8_t *classes, const char *text, size_t length) {
    const char *end = text + length, *at = text + (*text == ' ' && length > 1);
    size_t n;
    int class = class_at(classes, at, end, &n);
    const bool letters = class == CLASS_LETTER;
    if (class == CLASS_SPACE) {
        return pretoken_length(classes, text, length);
    }
    while (class != CLASS_SPACE && letters == (class == CLASS_LETTER)) {
        at += n;
        class = at < end ? class_at(classes, at, end, &n) : CLASS_SPACE;
    }
    return (size_t)(at - text);
}

// For trainer_finish: byte-level BPE.
static inline bool trainer_init(TokenizerTrainer *trainer, Error *e) {
    *trainer = (TokenizerTrainer){pretoken_length, .mask = 65535, .classes = character_classes(e)};
    trainer->slots = calloc(trainer->mask + 1, sizeof *trainer->slots);
    return trainer->classes && (trainer->slots || fail(e, "tokenizer: no memory for a trainer"));
}

// For trainer_finish_unigram.
static inline bool trainer_init_unigram(TokenizerTrainer *trainer, Error *e) {
    bool ok = trainer_init(trainer, e);
    trainer->word_length = unigram_word_length_;
    return ok;
}

static inline void trainer_free(TokenizerTrainer *trainer) {
    free(trainer->classes);
    free(trainer->words);
    free(trainer->text);
    free(trainer->slots);
    *trainer = (TokenizerTrainer){0};
}

static inline bool trainer_grow_(TokenizerTrainer *trainer, Error *e) {
    size_t mask = 2 * trainer->mask + 1;
    uint32_t *slots = calloc(mask + 1, sizeof *slots);
    if (!slots || trainer->word_count >= UINT32_MAX - 1) {
        free(slots);
        return fail(e, "tokenizer: no room for %zu different words; train on a smaller sample",
                    trainer->word_count);
    }
    for (size_t w = 0; w < trainer->word_count; w++) {
        size_t i = (size_t)trainer->words[w].hash & mask;
        while (slots[i]) {
            i = (i + 1) & mask;
        }
        slots[i] = (uint32_t)w + 1;
    }
    free(trainer->slots);
    trainer->slots = slots;
    trainer->mask = mask;
    return true;
}

static inline bool trainer_count_(TokenizerTrainer *trainer, const char *text, size_t length,
                                  Error *e) {
    uint64_t hash = hash_mix(hash_bytes(HASH_START, text, length));
    size_t i = (size_t)hash & trainer->mask;
    for (; trainer->slots[i]; i = (i + 1) & trainer->mask) {
        Word_ *word = &trainer->words[trainer->slots[i] - 1];
        if (word->hash == hash && word->length == length &&
            !memcmp(trainer->text + word->start, text, length)) {
            word->count++;
            return true;
        }
    }
    if (!array_reserve(&trainer->words, &trainer->word_capacity, trainer->word_count, 1,
                       sizeof(Word_), e) ||
        !array_reserve(&trainer->text, &trainer->text_capacity, trainer->text_length, length, 1,
                       e)) {
        return false;
    }
    memcpy(trainer->text + trainer->text_length, text, length);
    trainer->words[trainer->word_count] = (Word_){hash, 1, trainer->text_length, length};
    trainer->text_length += length;
    trainer->slots[i] = (uint32_t)++trainer->word_count;
    return 2 * trainer->word_count <= trainer->mask || trainer_grow_(trainer, e);
}

// Adds one text (a document, or a part cut where tokenizer_safe_cut would).
static inline bool trainer_add(TokenizerTrainer *trainer, const char *text, size_t length,
                               Error *e) {
    while (length) {
        size_t n = trainer->word_length(trainer->classes, text, length);
        if (!trainer_count_(trainer, text, n, e)) {
            return false;
        }
        text += n;
        length -= n;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Train: merge the commonest pair, again and again
//
// All words lie one after the other in an array with a slot per byte and an empty slot around each.
// A symbol takes as many slots as it has bytes; its first and its last slot name it, so that both
// neighbours are found by the lengths. The first slot also stands in the list of all places where
// the symbol and its right neighbour form the same pair. So a merge visits just the places it
// changes and finds the pairs that these places leave and join without a hash table: all pairs with
// the new symbol arise during its merge, told apart by the other symbol. Later their counts only
// fall. Hence a pair that is left below two when the merge is over never comes back, and the heap
// may hold old counts: an entry whose count has fallen is put back when it reaches the top.

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
    const Word_ *words;
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
        const Word_ *word = &trainer->words[w];
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

// ------------------------------------------------------------------------------------------------
// Unigram: the text as symbols
//
// Unigram language model with byte fallback (Kudo 2018), as SentencePiece trains it: each piece has
// a probability, a word's is summed over all its segmentations, and the text is cut into the
// likeliest one.
//
// No piece crosses a white space (a space may begin one) or mixes letters with what are none;
// kanji, kana and Latin letters are all letters. Runs of white space are words too, so indentation
// and empty lines become pieces.

enum {
    UNIGRAM_SPECIALS_ = 2, // unknown and end of document, then the 256 bytes, then what was trained
    UNIGRAM_PIECE_LENGTH_ = 16, // characters at most
    UNIGRAM_WORD_LENGTH_ = 48,  // longer ones are cut: see UNIGRAM_SCALE_
    UNIGRAM_SEEDS_ = 1000000,
    UNIGRAM_SEED_COUNT_ = 3, // times that a seed comes at least: rarer ones fit this text only
    UNIGRAM_ITERATIONS_ = 2, // of expectation maximisation before each pruning
    UNIGRAM_COUNT_BITS_ =
        24, // expected counts are integers, in units of 2^-24: their sum has no order
    SYMBOL_END_ = 0,
    SYMBOL_CUT_ = 1, // between words
    SYMBOL_FIRST_ = 2,
    CODE_POINTS_ = 0x110000,
};
static const char UNIGRAM_UNKNOWN_TEXT_[] = "<|unknown|>";
static const double UNIGRAM_SHRINK_ = 0.75;
// A token more in the text counts as much as a loss of 8 in log likelihood, some token's worth: the
// vocabulary is for models whose cost is the number of tokens.
static const double UNIGRAM_TOKEN_COST_ = 8;
static const double UNIGRAM_COVERAGE = 0.9995;
// Probabilities are multiplied by e^8 for each character, so that those of whole words can be
// summed as they are: with logarithms of at least -22 (5e-10) for a character, 48 characters stay
// within e^-672 and e^384, and doubles within e^-708 and e^709.
static const double UNIGRAM_SCALE_ = 8, UNIGRAM_MIN_SCORE_ = -22;
// Scores are multiples of 1/64. Then float32 sums are exact up to 2^18, some 100 KB of text, so
// that sentencepiece, which sums in float32, and `tokenizers`, which sums in double, cut the text
// alike.
static const double UNIGRAM_SCORE_UNITS_ = 64;

typedef struct {
    uint32_t start, length; // in UnigramTrainer_.text
    uint64_t count;
} UnigramWord_;

typedef struct {
    uint32_t start, length; // in UnigramTrainer_.text
    double score;           // log probability
    double scaled;          // e^(score + UNIGRAM_SCALE_ * length), 0 if the piece is left out
} UnigramPiece_;

// What a piece gives when it is found: itself, and the node under which longer ones are.
typedef struct {
    uint64_t key; // node << 32 | symbol, 0 if empty
    uint32_t child, piece;
} TrieSlot_;

enum { NO_PIECE_ = UINT32_MAX };

typedef struct {
    TrieSlot_ *roots; // (alphabet), first symbols
    TrieSlot_ *slots; // open addressing
    size_t mask;
} UnigramTrie_;

typedef struct {
    uint32_t *code_points; // (alphabet), of a symbol
    int32_t *symbols;      // (CODE_POINTS_), of a code point, SYMBOL_CUT_ if none
    int32_t alphabet;
    int32_t *text; // the alphabet as words of one character, then all words, each followed by
                   // SYMBOL_CUT_; SYMBOL_END_
    size_t text_length, text_capacity;
    UnigramWord_ *words;
    size_t word_count, word_capacity;
    UnigramPiece_ *pieces; // the first ones are the single characters
    size_t piece_count, piece_capacity, characters;
    UnigramTrie_ trie;
    uint64_t *counts; // (threads, piece_count)
    int threads;
} UnigramTrainer_;

static inline void unigram_free_(UnigramTrainer_ *u) {
    free(u->code_points);
    free(u->symbols);
    free(u->text);
    free(u->words);
    free(u->pieces);
    free(u->trie.roots);
    free(u->trie.slots);
    free(u->counts);
}

static inline bool unigram_no_memory_(Error *e) {
    return fail(e, "tokenizer: no memory to train; train on a smaller sample");
}

typedef struct {
    uint64_t count;
    uint32_t code_point;
} CharacterCount_;

static inline int character_order_(const void *a, const void *b) {
    const CharacterCount_ *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1)
                                : (x->code_point > y->code_point) - (x->code_point < y->code_point);
}

// Printable ASCII and the line end are always pieces. So the text "<0x41>" never needs an unknown
// character, which might make a reader that matches byte pieces in text (`tokenizers`) take it for
// the byte 0x41.
static inline bool always_piece_(uint32_t c) {
    return c == '\n' || (c >= 0x20 && c < 0x7F);
}

// NUL ends strings in some readers; U+2581 stands for a space in sentencepiece, whose decoder makes
// it one. Both are always written as bytes.
static inline bool never_piece_(uint32_t c) {
    return c == 0 || c == 0x2581;
}

// Gives symbols, in order of code point, to the commonest characters that make up `coverage` of the
// text.
static inline bool unigram_alphabet_(UnigramTrainer_ *u, const TokenizerTrainer *trainer,
                                     double coverage, Error *e) {
    CharacterCount_ *counts = calloc(CODE_POINTS_, sizeof *counts);
    uint64_t total = 0, covered = 0;
    u->symbols = malloc(CODE_POINTS_ * sizeof *u->symbols);
    u->code_points = malloc((CODE_POINTS_ + SYMBOL_FIRST_) * sizeof *u->code_points);
    if (!counts || !u->symbols || !u->code_points) {
        free(counts);
        return unigram_no_memory_(e);
    }
    for (uint32_t c = 0; c < CODE_POINTS_; c++) {
        counts[c].code_point = c;
        u->symbols[c] = SYMBOL_CUT_;
    }
    for (size_t w = 0; w < trainer->word_count; w++) {
        const Word_ *word = &trainer->words[w];
        for (size_t i = 0, n; i < word->length; i += n ? n : 1) {
            uint32_t c;
            n = utf8_decode(trainer->text + word->start + i, word->length - i, &c);
            if (n && !never_piece_(c)) {
                counts[c].count += word->count;
                total += word->count;
            }
        }
    }
    qsort(counts, CODE_POINTS_, sizeof *counts, character_order_);
    for (size_t k = 0; k < CODE_POINTS_; k++) {
        bool wanted = counts[k].count && (double)covered < coverage * (double)total;
        covered += counts[k].count;
        if (wanted || always_piece_(counts[k].code_point)) {
            u->symbols[counts[k].code_point] = SYMBOL_FIRST_;
        }
    }
    free(counts);
    u->alphabet = SYMBOL_FIRST_;
    for (uint32_t c = 0; c < CODE_POINTS_; c++) {
        if (u->symbols[c] == SYMBOL_FIRST_) {
            u->code_points[u->alphabet] = c;
            u->symbols[c] = u->alphabet++;
        }
    }
    return true;
}

static inline bool unigram_symbol_(UnigramTrainer_ *u, int32_t symbol, Error *e) {
    if (u->text_length >= INT32_MAX - 1) {
        return fail(
            e, "tokenizer: more than %d characters of different words; train on a smaller sample",
            INT32_MAX);
    }
    if (!array_reserve(&u->text, &u->text_capacity, u->text_length, 1, sizeof *u->text, e)) {
        return false;
    }
    u->text[u->text_length++] = symbol;
    return true;
}

// Ends the word that began at `start`, if it has a symbol.
static inline bool unigram_cut_(UnigramTrainer_ *u, size_t start, uint64_t count, Error *e) {
    if (u->text_length == start) {
        return true;
    }
    if (!array_reserve(&u->words, &u->word_capacity, u->word_count, 1, sizeof *u->words, e)) {
        return false;
    }
    u->words[u->word_count++] =
        (UnigramWord_){(uint32_t)start, (uint32_t)(u->text_length - start), count};
    return unigram_symbol_(u, SYMBOL_CUT_, e);
}

static inline bool unigram_text_(UnigramTrainer_ *u, const TokenizerTrainer *trainer, Error *e) {
    bool ok = true;
    for (int32_t s = SYMBOL_FIRST_; ok && s < u->alphabet; s++) {
        size_t start = u->text_length;
        ok = unigram_symbol_(u, s, e) && unigram_cut_(u, start, 0, e);
    }
    for (size_t w = 0; ok && w < trainer->word_count; w++) {
        const Word_ *word = &trainer->words[w];
        size_t start = u->text_length;
        for (size_t i = 0, n; ok && i < word->length; i += n ? n : 1) {
            uint32_t c;
            n = utf8_decode(trainer->text + word->start + i, word->length - i, &c);
            int32_t symbol = n ? u->symbols[c] : SYMBOL_CUT_;
            if (symbol == SYMBOL_CUT_ || u->text_length - start == UNIGRAM_WORD_LENGTH_) {
                ok = unigram_cut_(u, start, word->count, e);
                start = u->text_length;
            }
            ok = ok && (symbol == SYMBOL_CUT_ || unigram_symbol_(u, symbol, e));
        }
        ok = ok && unigram_cut_(u, start, word->count, e);
    }
    return ok && unigram_symbol_(u, SYMBOL_END_, e);
}

// ------------------------------------------------------------------------------------------------
// Unigram: the pieces to begin with

typedef struct {
    uint64_t score; // times that it came, times its characters
    uint32_t start, length;
} Seed_;

typedef struct {
    Seed_ *seeds;
    size_t count, capacity;
    uint64_t least; // score below which UNIGRAM_SEEDS_ others are better
} Seeds_;

static inline int seed_order_(const void *a, const void *b) {
    const Seed_ *x = a, *y = b;
    return x->score != y->score     ? (x->score < y->score ? 1 : -1)
           : x->length != y->length ? (x->length > y->length ? 1 : -1)
                                    : (x->start > y->start) - (x->start < y->start);
}

// Keeps the best UNIGRAM_SEEDS_.
static inline void seeds_trim_(Seeds_ *s) {
    if (s->count) {
        qsort(s->seeds, s->count, sizeof *s->seeds, seed_order_);
    }
    if (s->count >= UNIGRAM_SEEDS_) {
        s->count = UNIGRAM_SEEDS_;
        s->least = s->seeds[s->count - 1].score;
    }
}

static inline bool seeds_add_(Seeds_ *s, uint64_t count, uint32_t start, uint32_t length,
                              Error *e) {
    if (count < UNIGRAM_SEED_COUNT_ || length < 2 || count * length < s->least) {
        return true;
    }
    if (s->count == 4 * (size_t)UNIGRAM_SEEDS_) {
        seeds_trim_(s);
    }
    if (!array_reserve(&s->seeds, &s->capacity, s->count, 1, sizeof *s->seeds, e)) {
        return false;
    }
    s->seeds[s->count++] = (Seed_){count * length, start, length};
    return true;
}

// The suffix array of the text and, by position, how many symbols the suffix there shares with the
// one before it in order and how many symbols its word still has; both at most
// UNIGRAM_PIECE_LENGTH_.
typedef struct {
    int32_t *order;
    uint8_t *shared, *left;
    uint32_t *word; // by position
} Suffixes_;

static inline void suffixes_free_(Suffixes_ *s) {
    free(s->order);
    free(s->shared);
    free(s->left);
    free(s->word);
}

// Common prefixes as Kasai et al. 2001 find them: from one position to the next they get shorter by
// at most one, and so do they when they end with the word.
static inline bool suffixes_init_(Suffixes_ *s, const UnigramTrainer_ *u, Error *e) {
    const size_t n = u->text_length;
    int32_t *before = malloc(n * sizeof *before); // by position, the position before it in order
    *s = (Suffixes_){malloc(n * sizeof *s->order), malloc(n), calloc(n, 1),
                     calloc(n, sizeof *s->word)};
    if (!before || !s->order || !s->shared || !s->left || !s->word ||
        !suffix_sort_symbols(u->text, (int32_t)n, u->alphabet, s->order, e)) {
        free(before);
        return unigram_no_memory_(e);
    }
    before[s->order[0]] = -1;
    for (size_t i = 1; i < n; i++) {
        before[s->order[i]] = s->order[i - 1];
    }
    for (size_t i = 0, h = 0; i < n; i++) {
        if (before[i] >= 0) {
            const int32_t *a = u->text + i, *b = u->text + before[i];
            while (a[h] >= SYMBOL_FIRST_ && a[h] == b[h]) {
                h++;
            }
        }
        s->shared[i] = (uint8_t)(h < UNIGRAM_PIECE_LENGTH_ ? h : UNIGRAM_PIECE_LENGTH_);
        h -= h > 0;
    }
    for (size_t w = 0; w < u->word_count; w++) {
        const UnigramWord_ *word = &u->words[w];
        for (uint32_t i = 0; i < word->length; i++) {
            uint32_t left = word->length - i;
            s->left[word->start + i] =
                (uint8_t)(left < UNIGRAM_PIECE_LENGTH_ ? left : UNIGRAM_PIECE_LENGTH_);
            s->word[word->start + i] = (uint32_t)w;
        }
    }
    free(before);
    return true;
}

// Walks the inner nodes of the suffix tree, which are the runs of the suffix array that share a
// prefix: the longest strings among those that come at the same places. A string that comes in one
// word only is one if the word came often.
static inline bool seeds_collect_(Seeds_ *seeds, const Suffixes_ *s, const UnigramTrainer_ *u,
                                  Error *e) {
    struct {
        uint64_t before; // count of the suffixes before the run
        uint32_t depth, start;
    } open[UNIGRAM_PIECE_LENGTH_ + 2] = {{0, 0, 0}};
    size_t top = 0;
    uint64_t sum = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < u->text_length; i++) {
        uint32_t at = (uint32_t)s->order[i], start = at, left = s->left[at];
        uint32_t here = s->shared[at],
                 next = i + 1 < u->text_length ? s->shared[s->order[i + 1]] : 0;
        uint64_t before = sum, count = left ? u->words[s->word[at]].count : 0;
        sum += count;
        ok = left <= here || left <= next || seeds_add_(seeds, count, at, left, e);
        for (; ok && open[top].depth > next; top--) {
            ok = seeds_add_(seeds, sum - open[top].before, open[top].start, open[top].depth, e);
            before = open[top].before;
            start = open[top].start;
        }
        if (open[top].depth < next) {
            top++;
            open[top].before = before, open[top].depth = next, open[top].start = start;
        }
    }
    return ok;
}

static inline bool unigram_add_piece_(UnigramTrainer_ *u, uint32_t start, uint32_t length,
                                      double score, Error *e) {
    if (!array_reserve(&u->pieces, &u->piece_capacity, u->piece_count, 1, sizeof *u->pieces, e)) {
        return false;
    }
    u->pieces[u->piece_count++] = (UnigramPiece_){start, length, score, 0};
    return true;
}

// Sets the pieces: all characters, then the seeds, each with a probability in proportion to its
// count times its length.
static inline bool unigram_seed_(UnigramTrainer_ *u, Error *e) {
    Suffixes_ suffixes;
    Seeds_ seeds = {0};
    double *weights = calloc((size_t)u->alphabet, sizeof *weights), total = 0;
    bool ok = weights || unigram_no_memory_(e);
    ok = suffixes_init_(&suffixes, u, e) && ok && seeds_collect_(&seeds, &suffixes, u, e);
    suffixes_free_(&suffixes);
    if (ok) {
        seeds_trim_(&seeds);
        for (size_t w = 0; w < u->word_count; w++) {
            for (uint32_t i = 0; i < u->words[w].length; i++) {
                weights[u->text[u->words[w].start + i]] += (double)u->words[w].count;
            }
        }
        for (int32_t s = SYMBOL_FIRST_; s < u->alphabet; s++) {
            weights[s] = weights[s] < 0.5 ? 0.5 : weights[s];
            total += weights[s];
        }
        for (size_t k = 0; k < seeds.count; k++) {
            total += (double)seeds.seeds[k].score;
        }
    }
    u->characters = (size_t)(u->alphabet - SYMBOL_FIRST_);
    for (size_t k = 0; ok && k < u->characters; k++) {
        ok =
            unigram_add_piece_(u, u->words[k].start, 1, log(weights[SYMBOL_FIRST_ + k] / total), e);
    }
    for (size_t k = 0; ok && k < seeds.count; k++) {
        const Seed_ *seed = &seeds.seeds[k];
        ok = unigram_add_piece_(u, seed->start, seed->length, log((double)seed->score / total), e);
    }
    free(weights);
    free(seeds.seeds);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Unigram: the lattice of a word

static inline TrieSlot_ *trie_slot_(const UnigramTrie_ *t, uint32_t node, int32_t symbol) {
    uint64_t key = (uint64_t)node << 32 | (uint32_t)symbol;
    size_t i = (size_t)hash_mix(key) & t->mask;
    while (t->slots[i].key && t->slots[i].key != key) {
        i = (i + 1) & t->mask;
    }
    return &t->slots[i];
}

// A trie of all pieces with a probability.
static inline bool unigram_trie_(UnigramTrainer_ *u, Error *e) {
    UnigramTrie_ *t = &u->trie;
    size_t inner = 1, size = 4;
    uint32_t nodes = 0;
    for (size_t p = 0; p < u->piece_count; p++) {
        inner += u->pieces[p].scaled > 0 ? u->pieces[p].length - 1 : 0;
    }
    while (size < inner + inner / 2) {
        size *= 2;
    }
    free(t->slots);
    free(t->roots);
    t->mask = size - 1;
    t->slots = calloc(size, sizeof *t->slots);
    t->roots = malloc((size_t)u->alphabet * sizeof *t->roots);
    if (!t->slots || !t->roots) {
        return unigram_no_memory_(e);
    }
    for (int32_t s = 0; s < u->alphabet; s++) {
        t->roots[s] = (TrieSlot_){0, 0, NO_PIECE_};
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        const UnigramPiece_ *piece = &u->pieces[p];
        if (piece->scaled > 0) {
            TrieSlot_ *slot = &t->roots[u->text[piece->start]];
            for (uint32_t i = 1; i < piece->length; i++) {
                int32_t symbol = u->text[piece->start + i];
                if (!slot->child) {
                    slot->child = ++nodes;
                }
                uint32_t node = slot->child;
                slot = trie_slot_(t, node, symbol);
                if (!slot->key) {
                    *slot = (TrieSlot_){(uint64_t)node << 32 | (uint32_t)symbol, 0, NO_PIECE_};
                }
            }
            slot->piece = (uint32_t)p;
        }
    }
    return true;
}

typedef struct {
    uint32_t piece;
    uint8_t start, end;
} Edge_;

typedef struct {
    Edge_ edges[UNIGRAM_WORD_LENGTH_ * UNIGRAM_PIECE_LENGTH_]; // by start, then by end
    size_t count;
} Lattice_;

// All pieces in a word.
static inline void lattice_score_(Lattice_ *lattice, const UnigramTrainer_ *u, const int32_t *text,
                                  uint32_t length) {
    lattice->count = 0;
    for (uint32_t start = 0; start < length; start++) {
        const TrieSlot_ *slot = &u->trie.roots[text[start]];
        for (uint32_t end = start + 1;; end++) {
            if (slot->piece != NO_PIECE_ && u->pieces[slot->piece].scaled > 0) {
                lattice->edges[lattice->count++] =
                    (Edge_){slot->piece, (uint8_t)start, (uint8_t)end};
            }
            if (!slot->child || end == length) {
                break;
            }
            slot = trie_slot_(&u->trie, slot->child, text[end]);
            if (!slot->key) {
                break;
            }
        }
    }
}

// Adds to counts[piece] how often the piece is expected in a word that came `count` times: over all
// segmentations, by their probability (forward-backward).
static inline void lattice_expect_(const Lattice_ *lattice, const UnigramPiece_ *pieces,
                                   const UnigramWord_ *word, uint64_t *counts) {
    double forward[UNIGRAM_WORD_LENGTH_ + 1] = {1}, backward[UNIGRAM_WORD_LENGTH_ + 1] = {0};
    for (const Edge_ *edge = lattice->edges; edge < lattice->edges + lattice->count; edge++) {
        forward[edge->end] += forward[edge->start] * pieces[edge->piece].scaled;
    }
    backward[word->length] = 1;
    double share = ldexp((double)word->count, UNIGRAM_COUNT_BITS_) / forward[word->length];
    for (size_t k = lattice->count; k-- > 0;) {
        const Edge_ *edge = &lattice->edges[k];
        double after = pieces[edge->piece].scaled * backward[edge->end];
        backward[edge->start] += after;
        counts[edge->piece] += (uint64_t)(forward[edge->start] * after * share + 0.5);
    }
}

// The likeliest segmentation, without the piece `except`: its pieces from the last to the first.
// Among equals the one whose last piece is the longest, as encoders choose. Returns their number;
// *score is the sum of their scores.
static inline size_t lattice_best_(const Lattice_ *lattice, const UnigramPiece_ *pieces,
                                   uint32_t length, uint32_t except,
                                   uint32_t best[UNIGRAM_WORD_LENGTH_], double *score) {
    double scores[UNIGRAM_WORD_LENGTH_ + 1] = {0};
    const Edge_ *from[UNIGRAM_WORD_LENGTH_ + 1] = {0};
    size_t count = 0;
    for (const Edge_ *edge = lattice->edges; edge < lattice->edges + lattice->count; edge++) {
        double sum = scores[edge->start] + pieces[edge->piece].score;
        if (edge->piece != except && (!from[edge->end] || sum > scores[edge->end])) {
            scores[edge->end] = sum;
            from[edge->end] = edge;
        }
    }
    for (uint32_t at = length; at > 0; at = from[at]->start) {
        best[count++] = from[at]->piece;
    }
    *score = scores[length];
    return count;
}

// ------------------------------------------------------------------------------------------------
// Unigram: expectation maximisation and pruning

// counts[0 .. piece_count): the expected count of each piece, or that in the likeliest
// segmentations. Threads count in arrays of their own; as counts are integers, the sum does not
// depend on who counted what.
static inline void unigram_count_(UnigramTrainer_ *u, bool likeliest) {
    memset(u->counts, 0, (size_t)u->threads * u->piece_count * sizeof *u->counts);
#pragma omp parallel num_threads(u->threads)
    {
        uint64_t *counts = u->counts + (size_t)omp_get_thread_num() * u->piece_count;
        Lattice_ lattice;
#pragma omp for schedule(dynamic, 1024)
        for (size_t w = 0; w < u->word_count; w++) {
            const UnigramWord_ *word = &u->words[w];
            uint32_t best[UNIGRAM_WORD_LENGTH_];
            double score;
            lattice_score_(&lattice, u, u->text + word->start, word->length);
            if (!likeliest) {
                lattice_expect_(&lattice, u->pieces, word, counts);
                continue;
            }
            size_t n = lattice_best_(&lattice, u->pieces, word->length, NO_PIECE_, best, &score);
            for (size_t k = 0; k < n; k++) {
                counts[best[k]] += word->count;
            }
        }
#pragma omp for schedule(static)
        for (size_t p = 0; p < u->piece_count; p++) {
            for (int t = 1; t < u->threads; t++) {
                u->counts[p] += u->counts[(size_t)t * u->piece_count + p];
            }
        }
    }
}

// Derivative of the logarithm of the gamma function, x > 0: psi(x) = psi(x + 1) - 1 / x, and its
// asymptotic series.
static inline double digamma_(double x) {
    double sum = 0;
    for (; x < 7; x++) {
        sum -= 1 / x;
    }
    double r = 1 / (x * x);
    return sum + log(x) - 0.5 / x -
           r * (1.0 / 12 - r * (1.0 / 120 - r * (1.0 / 252 - r * (1.0 / 240 - r / 132))));
}

static inline void unigram_set_scaled_(UnigramPiece_ *piece) {
    piece->score = piece->score < UNIGRAM_MIN_SCORE_ ? UNIGRAM_MIN_SCORE_ : piece->score;
    piece->scaled = exp(piece->score + UNIGRAM_SCALE_ * piece->length);
}

// Probabilities from the expected counts, with the digamma function in place of the logarithm: a
// sparse prior (Liang, Petrov, Jordan, Klein 2007). What is expected less than half a time is left
// out, but for single characters and, if `all`, for the rest.
static inline void unigram_maximise_(UnigramTrainer_ *u, bool all) {
    const double unit = ldexp(1, -UNIGRAM_COUNT_BITS_);
    double total = 0;
    for (size_t p = 0; p < u->piece_count; p++) {
        double count = (double)u->counts[p] * unit;
        total += count < 0.5 && (all || p < u->characters) ? 0.5 : count < 0.5 ? 0 : count;
    }
    double logarithm = digamma_(total);
    for (size_t p = 0; p < u->piece_count; p++) {
        double count = (double)u->counts[p] * unit;
        u->pieces[p].scaled = 0;
        if (count >= 0.5 || all || p < u->characters) {
            u->pieces[p].score = digamma_(count < 0.5 ? 0.5 : count) - logarithm;
            unigram_set_scaled_(&u->pieces[p]);
        }
    }
}

static inline bool unigram_learn_(UnigramTrainer_ *u, bool last, Error *e) {
    free(u->counts);
    u->counts = malloc((size_t)u->threads * u->piece_count * sizeof *u->counts);
    if (!u->counts || !unigram_trie_(u, e)) {
        return unigram_no_memory_(e);
    }
    for (int i = 0; i < UNIGRAM_ITERATIONS_; i++) {
        unigram_count_(u, false);
        unigram_maximise_(u, last && i == UNIGRAM_ITERATIONS_ - 1);
    }
    return true;
}

typedef struct {
    int rank; // 2: a single character; 1: used, by its value to the likelihood; 0: of no use now
    double value;
    uint32_t piece;
} Worth_;

static inline int worth_order_(const void *a, const void *b) {
    const Worth_ *x = a, *y = b;
    return x->rank != y->rank     ? y->rank - x->rank
           : x->value != y->value ? (x->value < y->value ? 1 : -1)
                                  : (x->piece > y->piece) - (x->piece < y->piece);
}

// How much the log likelihood of the likeliest segmentations would fall if a piece were cut into
// the next best ones (Kudo 2018, section 3.2), and what the tokens would cost that come to it.
// counts are those in the likeliest segmentations, `total` their sum.
static inline Worth_ piece_worth_(const UnigramTrainer_ *u, Lattice_ *lattice, uint32_t p,
                                  double total) {
    const UnigramPiece_ *piece = &u->pieces[p];
    double count = (double)u->counts[p], without, value = 0;
    uint32_t parts[UNIGRAM_WORD_LENGTH_];
    if (p < u->characters) {
        return (Worth_){2, 0, p};
    }
    if (!(piece->scaled > 0)) {
        return (Worth_){0, -INFINITY, p};
    }
    if (!u->counts[p]) {
        return (Worth_){0, piece->score, p};
    }
    lattice_score_(lattice, u, u->text + piece->start, piece->length);
    size_t n = lattice_best_(lattice, u->pieces, piece->length, p, parts, &without);
    value = log(count / total) + (double)n * log(total + count * (double)(n - 1));
    for (size_t k = 0; k < n; k++) {
        value -= log((double)u->counts[parts[k]] + count);
    }
    return (Worth_){1, count * (value + UNIGRAM_TOKEN_COST_ * (double)(n - 1)), p};
}

// Keeps the `kept` pieces of most worth, the single characters first.
static inline bool unigram_keep_(UnigramTrainer_ *u, Worth_ *worth, size_t kept, Error *e) {
    UnigramPiece_ *pieces = malloc(kept * sizeof *pieces);
    if (!pieces) {
        return unigram_no_memory_(e);
    }
    qsort(worth, u->piece_count, sizeof *worth, worth_order_);
    for (size_t k = 0; k < kept; k++) {
        pieces[k] = u->pieces[worth[k].piece];
    }
    free(u->pieces);
    u->pieces = pieces;
    u->piece_count = u->piece_capacity = kept;
    return true;
}

// Drops the pieces of least worth, down to the share UNIGRAM_SHRINK_ of those in use, but not below
// `least`.
static inline bool unigram_prune_(UnigramTrainer_ *u, size_t least, Error *e) {
    Worth_ *worth = malloc(u->piece_count * sizeof *worth);
    size_t used = 0;
    double total = 0;
    if (!worth) {
        return unigram_no_memory_(e);
    }
    unigram_count_(u, true);
    for (size_t p = 0; p < u->piece_count; p++) {
        total += (double)u->counts[p];
    }
#pragma omp parallel for num_threads(u->threads) schedule(dynamic, 1024) reduction(+ : used)
    for (size_t p = 0; p < u->piece_count; p++) {
        Lattice_ lattice;
        worth[p] = piece_worth_(u, &lattice, (uint32_t)p, total);
        used += worth[p].rank > 0;
    }
    size_t kept = (size_t)(UNIGRAM_SHRINK_ * (double)used);
    bool ok = unigram_keep_(u, worth, kept < least ? least : kept, e);
    free(worth);
    return ok;
}

// Keeps the likeliest pieces, as pruning alone leaves long ones that are rare and come to nothing
// in other texts.
static inline bool unigram_choose_(UnigramTrainer_ *u, size_t wanted, Error *e) {
    Worth_ *worth = malloc(u->piece_count * sizeof *worth);
    if (!worth) {
        return unigram_no_memory_(e);
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        const UnigramPiece_ *piece = &u->pieces[p];
        worth[p] = (Worth_){p < u->characters ? 2 : piece->scaled > 0, piece->score, (uint32_t)p};
    }
    bool ok = unigram_keep_(u, worth, wanted, e);
    free(worth);
    return ok;
}

// Prunes the seeds to `wanted` pieces and leaves their scores, rounded.
static inline bool unigram_train_(UnigramTrainer_ *u, size_t wanted, Error *e) {
    size_t used = 0;
    for (size_t p = 0; p < u->piece_count; p++) {
        unigram_set_scaled_(&u->pieces[p]);
    }
    if (!unigram_learn_(u, false, e)) {
        return false;
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        used += u->pieces[p].scaled > 0;
    }
    if (used < wanted) {
        size_t largest = UNIGRAM_SPECIALS_ + 256 + used;
        return fail(e, "the text fills only %zu tokens: --vocab-size must be at most %zu", largest,
                    largest);
    }
    while (u->piece_count > wanted + wanted / 10) {
        if (!unigram_prune_(u, wanted + wanted / 10, e) || !unigram_learn_(u, false, e)) {
            return false;
        }
    }
    if (!unigram_choose_(u, wanted, e) || !unigram_learn_(u, true, e)) {
        return false;
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        u->pieces[p].score =
            round(u->pieces[p].score * UNIGRAM_SCORE_UNITS_) / UNIGRAM_SCORE_UNITS_;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Unigram: the files

// Everything in the vocabulary in order of id. Types as SentencePiece numbers them.

typedef struct {
    char text[4 * UNIGRAM_PIECE_LENGTH_ + 1];
    size_t length;
    double score;
    int type;
} VocabularyPiece_;

static inline int vocabulary_piece_order_(const void *a, const void *b) {
    const VocabularyPiece_ *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : strcmp(x->text, y->text);
}

static inline void vocabulary_piece_set_(VocabularyPiece_ *piece, const char *text, double score,
                                         int type) {
    piece->length = (size_t)snprintf(piece->text, sizeof piece->text, "%s", text);
    piece->score = score;
    piece->type = type;
}

// The vocabulary: unknown, end of document, bytes, then the trained pieces from the likeliest down.
// The first ones never stand for text, but `tokenizers` looks for them there: their score is below
// that of any six characters, which is how "<0x41>" must be cut.
static inline VocabularyPiece_ *unigram_vocabulary_(const UnigramTrainer_ *u, size_t *count,
                                                    Error *e) {
    const size_t first = UNIGRAM_SPECIALS_ + 256;
    VocabularyPiece_ *vocabulary = malloc((first + u->piece_count) * sizeof *vocabulary);
    if (!vocabulary) {
        unigram_no_memory_(e);
        return NULL;
    }
    vocabulary_piece_set_(&vocabulary[0], UNIGRAM_UNKNOWN_TEXT_, 8 * UNIGRAM_MIN_SCORE_,
                          PIECE_UNKNOWN);
    vocabulary_piece_set_(&vocabulary[1], END_OF_DOCUMENT_TEXT, 8 * UNIGRAM_MIN_SCORE_,
                          PIECE_CONTROL);
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        vocabulary_piece_set_(&vocabulary[UNIGRAM_SPECIALS_ + b], text, 8 * UNIGRAM_MIN_SCORE_,
                              PIECE_BYTE);
    }
    for (size_t p = 0; p < u->piece_count; p++) {
        VocabularyPiece_ *piece = &vocabulary[first + p];
        *piece = (VocabularyPiece_){.score = u->pieces[p].score, .type = PIECE_NORMAL};
        for (uint32_t i = 0; i < u->pieces[p].length; i++) {
            uint32_t c = u->code_points[u->text[u->pieces[p].start + i]];
            piece->length += utf8_encode(c, piece->text + piece->length);
        }
    }
    qsort(vocabulary + first, u->piece_count, sizeof *vocabulary, vocabulary_piece_order_);
    *count = first + u->piece_count;
    return vocabulary;
}

// Makes a tokenizer of the pieces and saves it.
static inline bool unigram_save_(const UnigramTrainer_ *u, const char *directory, Error *e) {
    size_t count = 0;
    VocabularyPiece_ *vocabulary = unigram_vocabulary_(u, &count, e);
    Tokenizer t;
    tokenizer_init_unigram(&t);
    bool ok = vocabulary;
    for (size_t id = 0; ok && id < count; id++) {
        const VocabularyPiece_ *piece = &vocabulary[id];
        ok = tokenizer_add_piece(&t, piece->text, piece->length, piece->score, piece->type, e);
    }
    t.pieces.unknown = 0;
    t.begin = t.end_of_document = 1;
    ok = ok && tokenizer_index(&t, "trained tokenizer", e) && tokenizer_save(&t, directory, e);
    tokenizer_free(&t);
    free(vocabulary);
    return ok;
}

// Trains a Unigram tokenizer of exactly `vocab_size` tokens and writes tokenizer.model
// (SentencePiece), tokenizer.json (the same for Hugging Face `tokenizers`) and
// tokenizer_config.json into an existing directory. Ids: 0 <|unknown|>, which no text gives, 1
// <|endoftext|>, 2 .. 257 the bytes, then the pieces from the likeliest down. Characters beyond the
// commonest that make up `coverage` (0 < coverage <= 1) of the text are cut into bytes. No
// normalization and no prefix: every text comes back word for word. The files depend on the text
// alone, not on the number of threads. The trainer is left as it was.
static inline bool trainer_finish_unigram(const TokenizerTrainer *trainer, size_t vocab_size,
                                          double coverage, const char *directory, Error *e) {
    UnigramTrainer_ u = {.threads = omp_get_max_threads()};
    if (!(coverage > 0 && coverage <= 1)) {
        return fail(e, "character coverage %g: must be above 0 and at most 1", coverage);
    }
    bool ok = unigram_alphabet_(&u, trainer, coverage, e);
    if (ok) {
        size_t least = UNIGRAM_SPECIALS_ + 256 + (size_t)(u.alphabet - SYMBOL_FIRST_);
        ok =
            (vocab_size >= least && vocab_size <= TOKENIZER_MAX_VOCAB) ||
            fail(e,
                 "--vocab-size %zu: must be %zu (2 special tokens, 256 bytes, the %zu characters "
                 "that make up %g of "
                 "the text) to %d",
                 vocab_size, least, least - UNIGRAM_SPECIALS_ - 256, coverage, TOKENIZER_MAX_VOCAB);
    }
    ok = ok && unigram_text_(&u, trainer, e) && unigram_seed_(&u, e) &&
         unigram_train_(&u, vocab_size - UNIGRAM_SPECIALS_ - 256, e) &&
         unigram_save_(&u, directory, e);
    unigram_free_(&u);
    return ok;
}

#endif
