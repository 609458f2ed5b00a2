// train_words.h: counts the different words of a text, which no token crosses: what both kinds of
// training start from.
#ifndef TOKENIZERS_TRAIN_WORDS_H
#define TOKENIZERS_TRAIN_WORDS_H

#include "tokenizers/pre_tokenizer.h"
#include "tokenizers/unicode.h"
#include "util/array.h"
#include "util/hash.h"

typedef struct {
    uint64_t hash, count;
    size_t start, length; // in TokenizerTrainer.text
} Word;

// Different words, which no token crosses, and how often each came. Memory grows with the different
// ones only: for text without end, train on a sample.
typedef struct {
    size_t (*word_length)(const uint8_t *classes, const char *text,
                          size_t length); // of the word at the start
    uint8_t *classes;
    Word *words;
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
        Word *word = &trainer->words[trainer->slots[i] - 1];
        if (word->hash == hash && word->length == length &&
            !memcmp(trainer->text + word->start, text, length)) {
            word->count++;
            return true;
        }
    }
    if (!array_reserve(&trainer->words, &trainer->word_capacity, trainer->word_count, 1,
                       sizeof(Word), e) ||
        !array_reserve(&trainer->text, &trainer->text_capacity, trainer->text_length, length, 1,
                       e)) {
        return false;
    }
    memcpy(trainer->text + trainer->text_length, text, length);
    trainer->words[trainer->word_count] = (Word){hash, 1, trainer->text_length, length};
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

#endif
