// train_words.h: collects the distinct words of a training text with their frequencies: the input
// of BPE and Unigram training. A word is a pre-token; no token crosses its ends.
#ifndef TOKENIZERS_TRAIN_WORDS_H
#define TOKENIZERS_TRAIN_WORDS_H

#include "tokenizers/pre_tokenizer.h"
#include "tokenizers/unicode.h"
#include "util/array.h"
#include "util/hash.h"
#include "util/text.h"

typedef struct {
    uint64_t hash, count; // count: occurrences in the training text
    size_t start, length; // in TokenizerTrainer.text
} Word;

// Distinct words and their frequencies. Memory grows with the distinct words only: for unbounded
// text, train on a sample.
typedef struct {
    bool unigram;
    uint8_t *classes;  // character_classes
    Splitter splitter; // GPT-2's
    Word *words;
    size_t word_count, word_capacity;
    TextBuffer text; // the words, concatenated
    HashTable table; // indices into words
} TokenizerTrainer;

// Length of the Unigram word at `text`. As in the pre-tokenizer of GPT-2, but digits and
// punctuation form one word, and there are no contractions.
static inline size_t unigram_word_length_(const TokenizerTrainer *trainer, const char *text,
                                          size_t length) {
    const uint8_t *classes = trainer->classes;
    const char *end = text + length, *at = text + (*text == ' ' && length > 1);
    size_t n;
    int class = class_at(classes, at, end, &n);
    const bool letters = class == CLASS_LETTER;
    if (class == CLASS_SPACE) {
        return automaton_match(&trainer->splitter.steps[0].automaton, text, length);
    }

    while (class != CLASS_SPACE && letters == (class == CLASS_LETTER)) {
        at += n;
        class = at < end ? class_at(classes, at, end, &n) : CLASS_SPACE;
    }
    return (size_t)(at - text);
}

// Starts training of a byte-level BPE tokenizer (trainer_finish). The caller frees the trainer with
// trainer_free, on failure too.
static inline bool trainer_init(TokenizerTrainer *trainer, Error *e) {
    *trainer = (TokenizerTrainer){0};
    trainer->classes = character_classes(e);
    return trainer->classes && splitter_add_gpt2(&trainer->splitter, &(FileErrors){"training", e});
}

// Starts training of a Unigram tokenizer (trainer_finish_unigram); otherwise as trainer_init.
static inline bool trainer_init_unigram(TokenizerTrainer *trainer, Error *e) {
    bool ok = trainer_init(trainer, e);
    trainer->unigram = true;
    return ok;
}

// Frees everything the trainer owns.
static inline void trainer_free(TokenizerTrainer *trainer) {
    free(trainer->classes);
    splitter_free(&trainer->splitter);
    free(trainer->words);
    free(trainer->text.data);
    free(trainer->table.slots);
    *trainer = (TokenizerTrainer){0};
}

// A word that is looked up.
typedef struct {
    uint64_t hash;
    const char *text;
    size_t length;
} WordKey_;

static inline bool word_equals_(const void *context, uint32_t item, const void *key) {
    const TokenizerTrainer *trainer = context;
    const Word *word = &trainer->words[item];
    const WordKey_ *k = key;
    return word->hash == k->hash && word->length == k->length &&
           !memcmp(trainer->text.data + word->start, k->text, k->length);
}

static inline uint64_t word_hash_(const void *context, uint32_t item) {
    return ((const TokenizerTrainer *)context)->words[item].hash;
}

// Counts one occurrence of a word.
static inline bool trainer_count_(TokenizerTrainer *trainer, const char *text, size_t length,
                                  Error *e) {
    const WordKey_ key = {hash_mix(hash_bytes(HASH_START, text, length)), text, length};
    if (trainer->word_count >= UINT32_MAX - 1) {
        return fail(e, "tokenizer: more than %zu distinct words: train on a smaller sample",
                    trainer->word_count);
    }
    if (!hash_table_reserve(&trainer->table, word_hash_, trainer, e)) {
        return false;
    }

    uint32_t *slot = hash_table_slot(&trainer->table, key.hash, word_equals_, trainer, &key);
    if (*slot) {
        trainer->words[*slot - 1].count++;
        return true;
    }

    // A new word.
    size_t start = trainer->text.length;
    if (!array_reserve(&trainer->words, &trainer->word_capacity, trainer->word_count, 1,
                       sizeof(Word), e) ||
        !text_append(&trainer->text, text, length, e)) {
        return false;
    }
    trainer->words[trainer->word_count] = (Word){key.hash, 1, start, length};
    *slot = (uint32_t)++trainer->word_count;
    trainer->table.count++;
    return true;
}

// Counts the words of one text: a document, or a chunk that ends where tokenizer_safe_cut would cut
// it.
static inline bool trainer_add(TokenizerTrainer *trainer, const char *text, size_t length,
                               Error *e) {
    while (length) {
        size_t n = trainer->unigram
                       ? unigram_word_length_(trainer, text, length)
                       : automaton_match(&trainer->splitter.steps[0].automaton, text, length);
        if (!trainer_count_(trainer, text, n, e)) {
            return false;
        }
        text += n;
        length -= n;
    }
    return true;
}

#endif
