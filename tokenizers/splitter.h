// splitter.h: cuts a text into pre-tokens, which no token of a byte-level BPE crosses: the Split
// steps of a tokenizer.json, each by the matches of a regular expression, each within the pieces
// that the one before it has left.
#ifndef TOKENIZERS_SPLITTER_H
#define TOKENIZERS_SPLITTER_H

#include "tokenizers/automaton.h"
#include "util/utf8.h"

// What ByteLevel splits by with use_regex.
static const char GPT2_EXPRESSION[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

// What becomes of matches and of what lies between them. An inverted step takes one for the other.
typedef enum {
    SPLIT_ISOLATED,        // each is a piece
    SPLIT_REMOVED,         // matches are left out
    SPLIT_MERGED_PREVIOUS, // a match joins what lies before it
    SPLIT_MERGED_NEXT,     // and after it
    SPLIT_CONTIGUOUS,      // neighbouring matches are one piece
    SPLIT_BEHAVIORS
} SplitBehavior;

enum { SPLIT_STEPS = 8 };

typedef struct {
    Automaton automaton;
    SplitBehavior behavior;
    bool invert;
} SplitStep;

typedef struct {
    SplitStep steps[SPLIT_STEPS];
    size_t count;
    bool removes; // some step leaves out text
} Splitter;

static inline void splitter_free(Splitter *s) {
    for (size_t i = 0; i < s->count; i++) {
        automaton_free(&s->steps[i].automaton);
    }
    *s = (Splitter){0};
}

// Adds a step by an expression of `length` bytes and a NUL.
static inline bool splitter_add(Splitter *s, const char *expression, size_t length,
                                SplitBehavior behavior, bool invert, const FileErrors *f) {
    if (s->count == SPLIT_STEPS) {
        return reject(f, "its pre_tokenizer has more than %d steps", SPLIT_STEPS);
    }
    SplitStep step = {.behavior = behavior, .invert = invert};
    if (!automaton_build(&step.automaton, expression, length, f)) {
        return false;
    }
    // Where everything matches, nothing lies between: the ways are the same.
    const bool same = behavior == SPLIT_REMOVED ? invert : behavior != SPLIT_CONTIGUOUS;
    if (step.automaton.total && same) {
        step.behavior = SPLIT_ISOLATED;
    }
    s->removes |= step.behavior == SPLIT_REMOVED;
    s->steps[s->count++] = step;
    return true;
}

static inline bool splitter_add_gpt2(Splitter *s, const FileErrors *f) {
    return splitter_add(s, GPT2_EXPRESSION, strlen(GPT2_EXPRESSION), SPLIT_ISOLATED, false, f);
}

// ------------------------------------------------------------------------------------------------

// Bytes of the match or of the gap at the start of the text (length > 0), and which it is.
static inline size_t split_segment_(const SplitStep *s, const char *text, size_t length,
                                    bool *match) {
    const size_t n = automaton_match(&s->automaton, text, length);
    *match = (n > 0) != s->invert;
    return n ? n : automaton_gap(&s->automaton, text, length);
}

// Takes the segments behind `n` that join the piece which ends there with one that is a match or
// not.
static inline size_t split_join_(const SplitStep *s, const char *text, size_t length, size_t n,
                                 bool match) {
    while (n < length) {
        bool next_match;
        const size_t next = split_segment_(s, text + n, length - n, &next_match);
        const bool joins = s->behavior == SPLIT_CONTIGUOUS        ? next_match == match
                           : s->behavior == SPLIT_MERGED_PREVIOUS ? !match && next_match
                                                                  : match && !next_match;
        if (!joins) {
            break;
        }
        n += next;
        if (s->behavior != SPLIT_CONTIGUOUS) {
            break;
        }
    }
    return n;
}

// Bytes of the piece at the start of the text (length > 0) by one step; *kept is false if it is
// left out.
static inline size_t split_piece(const SplitStep *s, const char *text, size_t length, bool *kept) {
    bool match;
    const size_t n = split_segment_(s, text, length, &match);
    *kept = !match || s->behavior != SPLIT_REMOVED;
    return s->behavior <= SPLIT_REMOVED ? n : split_join_(s, text, length, n, match);
}

// ------------------------------------------------------------------------------------------------

// True if the text may be cut between these two characters, which follow each other in it: every
// step finds the same there as in the complete text, and for some step a piece ends there.
//
// No match of any step crosses the place, and those before it are found even if the text ends there
// (automaton_is_neutral). So the steps up to the one where a piece ends find the same in both
// halves; a gap that crosses the place is two gaps, which that step separates in any case. It does
// where a piece ends with each match, and the character before the place is sure to be in one.
static inline bool splitter_may_cut(const Splitter *s, const char *before, const char *after,
                                    const char *end) {
    bool ends = false;
    for (size_t i = 0; i < s->count; i++) {
        const Automaton *a = &s->steps[i].automaton;
        size_t n;
        const uint32_t class_before = automaton_class(a, before, after, &n);
        const uint32_t class_after = automaton_class(a, after, end, &n);
        if (!automaton_is_neutral(a, class_before, class_after)) {
            return false;
        }
        const SplitBehavior behavior = s->steps[i].behavior;
        const bool separates = behavior == SPLIT_ISOLATED || behavior == SPLIT_REMOVED ||
                               (behavior == SPLIT_MERGED_PREVIOUS && !s->steps[i].invert);
        ends |= separates && automaton_covers(a, class_before);
    }
    return ends;
}

#endif
