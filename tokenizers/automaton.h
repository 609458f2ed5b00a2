// automaton.h: a regular expression (expression.h) as a deterministic automaton over classes of
// characters. It finds what a backtracking engine finds: of all matches at a place, the one by the
// first alternatives. The expression is compiled to the program of a non-deterministic automaton
// (Thompson 1968; Cox 2009); a state of the deterministic one is the list of its threads in the
// order of their priority, cut off where one has matched.
//
// A match is noticed on the step after it, when the next character is known, so that look-ahead
// costs nothing.
#ifndef TOKENIZERS_AUTOMATON_H
#define TOKENIZERS_AUTOMATON_H

#include "tokenizers/expression.h"
#include "util/array.h"
#include "util/hash.h"

enum { AUTOMATON_CLASSES = 250, AUTOMATON_ENTRIES_ = 1 << 16, PROGRAM_LENGTH_ = 2048 };

// Never changes once it is built; automaton_free releases it.
typedef struct {
    uint8_t *classes; // (CODE_POINTS) of characters
    // (states * stride) by state and class, the last class being the end of the text: where the row
    // of the next state begins << 1 | whether a match ends before this character. Row 0 is that of
    // no match any more.
    uint32_t *next;
    uint32_t stride, start, end_class;
    bool *neutral; // (stride * stride) see automaton_is_neutral
    bool *covers;  // (stride) see automaton_covers
    bool total;    // every text matches everywhere
} Automaton;

static inline void automaton_free(Automaton *a) {
    free(a->classes);
    free(a->next);
    free(a->neutral);
    free(a->covers);
    *a = (Automaton){0};
}

// ------------------------------------------------------------------------------------------------
// The program

typedef enum { STEP_SET, STEP_LOOK, STEP_FORK, STEP_JUMP, STEP_MATCH } ProgramOperation;

typedef struct {
    ProgramOperation operation;
    int set;
    bool at_end;
    uint16_t to, or_to; // FORK: `to` comes first; JUMP
} ProgramStep;

typedef struct {
    const Expression *x;
    ProgramStep steps[PROGRAM_LENGTH_];
    int count;
    bool full;
} Program_;

// Adds a step; returns its place.
static inline int program_add_(Program_ *p, ProgramStep step) {
    if (p->count == PROGRAM_LENGTH_) {
        p->full = true;
        return 0;
    }
    p->steps[p->count] = step;
    return p->count++;
}

// Lets a fork try the step behind it first, then what comes at the present end of the program; with
// `lazy` the other way round.
static inline void program_join_(Program_ *p, int fork, bool lazy) {
    const uint16_t body = (uint16_t)(fork + 1), end = (uint16_t)p->count;
    p->steps[fork].to = lazy ? end : body;
    p->steps[fork].or_to = lazy ? body : end;
}

static inline void program_compile_(Program_ *p, int node);

// Not one more of what a possessive repetition repeats.
static inline ProgramStep program_no_more_(const Program_ *p, const ExpressionNode *n) {
    // A set that is not this one: marked by a negative number.
    return (ProgramStep){STEP_LOOK, .set = -1 - p->x->nodes[n->a].set, .at_end = true};
}

// Any number of times.
static inline void program_loop_(Program_ *p, const ExpressionNode *n) {
    const int fork = program_add_(p, (ProgramStep){.operation = STEP_FORK});
    program_compile_(p, n->a);
    program_add_(p, (ProgramStep){.operation = STEP_JUMP, .to = (uint16_t)fork});
    program_join_(p, fork, n->mode == REPEAT_LAZY);
    if (n->mode == REPEAT_POSSESSIVE) {
        program_add_(p, program_no_more_(p, n));
    }
}

// None or one, the rest of `more` within it.
static inline void program_optional_(Program_ *p, const ExpressionNode *n, int more) {
    if (more == 0 || p->full) {
        return;
    }
    const int fork = program_add_(p, (ProgramStep){.operation = STEP_FORK});
    program_compile_(p, n->a);
    program_optional_(p, n, more - 1);
    if (n->mode != REPEAT_POSSESSIVE) {
        program_join_(p, fork, n->mode == REPEAT_LAZY);
        return;
    }
    const int jump = program_add_(p, (ProgramStep){.operation = STEP_JUMP});
    program_join_(p, fork, false);
    program_add_(p, program_no_more_(p, n));
    p->steps[jump].to = (uint16_t)p->count;
}

static inline void program_compile_(Program_ *p, int node) {
    const ExpressionNode *n = &p->x->nodes[node];
    int fork, jump;
    if (p->full) {
        return;
    }
    switch (n->kind) {
    case NODE_EMPTY:
        break;
    case NODE_SET:
    case NODE_LOOK:
        program_add_(p, (ProgramStep){n->kind == NODE_SET ? STEP_SET : STEP_LOOK, .set = n->set,
                                      .at_end = n->at_end});
        break;
    case NODE_CONCAT:
        program_compile_(p, n->a);
        program_compile_(p, n->b);
        break;
    case NODE_ALTERNATE:
        fork = program_add_(p, (ProgramStep){.operation = STEP_FORK});
        program_compile_(p, n->a);
        jump = program_add_(p, (ProgramStep){.operation = STEP_JUMP});
        program_join_(p, fork, false);
        program_compile_(p, n->b);
        p->steps[jump].to = (uint16_t)p->count;
        break;
    case NODE_REPEAT:
        for (int i = 0; i < n->least && !p->full; i++) {
            program_compile_(p, n->a);
        }
        if (n->most < 0) {
            program_loop_(p, n);
        } else {
            program_optional_(p, n, n->most - n->least);
        }
        break;
    }
}

// ------------------------------------------------------------------------------------------------
// Classes of characters

typedef struct {
    Program_ program;
    uint32_t samples[256];            // a character of each class
    bool has[EXPRESSION_SETS][256];   // does a set hold a class
    uint16_t *lists;                  // the threads of all states, one after the other
    int16_t blocks[CODE_POINTS / 64]; // class of 64 characters; -1: they have several
    size_t list_count, list_capacity;
    size_t *starts; // of each state's in `lists`, and their end
    size_t state_count, state_capacity;
    HashTable table;                    // states by their threads
    uint16_t new_list[PROGRAM_LENGTH_]; // of the state that is being made
    size_t new_count;
    uint32_t seen[2][PROGRAM_LENGTH_], stamp;
} AutomatonBuilder_;

// How one set divides the classes of the sets before it.
typedef struct {
    bool others[256];   // of a class: the set lacks some of its members
    int16_t split[256]; // of a class: what becomes of those that it has; -1: none was met
} ClassSplit_;

static inline void automaton_find_others_(ClassSplit_ *d, const Automaton *a,
                                          const AutomatonBuilder_ *b, const CodeSet *set) {
    for (uint32_t w = 0; w < CODE_POINTS / 64; w++) {
        if (b->blocks[w] >= 0) {
            d->others[b->blocks[w]] |= set->words[w] != UINT64_MAX;
            continue;
        }
        for (uint64_t lacks = ~set->words[w]; lacks;) {
            d->others[a->classes[64 * w + code_set_take(&lacks)]] = true;
        }
    }
}

// The class of a member of the set that was in `class`; -1 if there are too many.
static inline int automaton_split_(ClassSplit_ *d, uint32_t *count, uint8_t class) {
    if (!d->others[class]) {
        return class;
    }
    if (d->split[class] < 0 && *count < AUTOMATON_CLASSES) {
        d->split[class] = (int16_t)(*count)++;
    }
    return d->split[class];
}

static inline bool automaton_divide_(ClassSplit_ *d, Automaton *a, AutomatonBuilder_ *b,
                                     const CodeSet *set, uint32_t *count) {
    for (uint32_t w = 0; w < CODE_POINTS / 64; w++) {
        uint8_t *classes = a->classes + 64 * w;
        if (b->blocks[w] >= 0 && set->words[w] == UINT64_MAX) {
            b->blocks[w] = (int16_t)automaton_split_(d, count, classes[0]);
            if (b->blocks[w] < 0) {
                return false;
            }
            memset(classes, b->blocks[w], 64);
            continue;
        }
        for (uint64_t members = set->words[w]; members;) {
            const uint32_t i = code_set_take(&members);
            int class = automaton_split_(d, count, classes[i]);
            if (class < 0) {
                return false;
            }
            b->blocks[w] = class == classes[i] ? b->blocks[w] : -1;
            classes[i] = (uint8_t) class;
        }
    }
    return true;
}

// Two characters have one class if no set tells them apart.
static inline bool automaton_make_classes_(Automaton *a, AutomatonBuilder_ *b,
                                           const Expression *x) {
    uint32_t count = 1;
    for (int s = 0; s < x->set_count; s++) {
        ClassSplit_ divided = {0};
        memset(divided.split, -1, sizeof divided.split);
        automaton_find_others_(&divided, a, b, x->sets[s]);
        if (!automaton_divide_(&divided, a, b, x->sets[s], &count)) {
            return false;
        }
    }

    for (uint32_t w = CODE_POINTS / 64; w-- > 0;) {
        for (uint32_t i = b->blocks[w] < 0 ? 64 : 1; i-- > 0;) {
            b->samples[a->classes[64 * w + i]] = 64 * w + i;
        }
    }
    for (int s = 0; s < x->set_count; s++) {
        for (uint32_t k = 0; k < count; k++) {
            b->has[s][k] = code_set_has(x->sets[s], b->samples[k]);
        }
    }
    a->end_class = count;
    a->stride = count + 1;
    return true;
}

// ------------------------------------------------------------------------------------------------
// States

static inline bool automaton_same_(const void *context, uint32_t state, const void *key) {
    const AutomatonBuilder_ *b = context;
    (void)key; // new_list
    const size_t n = b->starts[state + 1] - b->starts[state];
    return n == b->new_count &&
           !memcmp(b->lists + b->starts[state], b->new_list, n * sizeof *b->lists);
}

static inline uint64_t automaton_hash_(const void *context, uint32_t state) {
    const AutomatonBuilder_ *b = context;
    return hash_mix(hash_bytes(HASH_START, (const char *)(b->lists + b->starts[state]),
                               (b->starts[state + 1] - b->starts[state]) * sizeof *b->lists));
}

// The number of the state with the threads new_list, which is added if it is new.
static inline bool automaton_state_(AutomatonBuilder_ *b, uint32_t *state, Error *e) {
    const uint64_t hash = hash_mix(
        hash_bytes(HASH_START, (const char *)b->new_list, b->new_count * sizeof *b->new_list));
    if (!hash_table_reserve(&b->table, automaton_hash_, b, e)) {
        return false;
    }
    uint32_t *slot = hash_table_slot(&b->table, hash, automaton_same_, b, NULL);
    if (*slot) {
        *state = *slot - 1;
        return true;
    }
    if (!array_reserve(&b->lists, &b->list_capacity, b->list_count, b->new_count, sizeof *b->lists,
                       e) ||
        !array_reserve(&b->starts, &b->state_capacity, b->state_count, 2, sizeof *b->starts, e)) {
        return false;
    }
    if (b->new_count) {
        memcpy(b->lists + b->list_count, b->new_list, b->new_count * sizeof *b->lists);
    }
    b->starts[b->state_count] = b->list_count;
    b->list_count += b->new_count;
    *state = (uint32_t)b->state_count++;
    b->starts[b->state_count] = b->list_count;
    *slot = *state + 1;
    b->table.count++;
    return true;
}

static inline bool automaton_holds_(const AutomatonBuilder_ *b, int set, uint32_t class) {
    return set < 0 ? !b->has[-1 - set][class] : b->has[set][class];
}

// Runs one thread up to the character of `class`: adds what it becomes behind it to new_list.
// Returns true if it matches before the character: threads of lower priority count no more.
static inline bool automaton_run_(AutomatonBuilder_ *b, uint16_t thread, uint32_t class,
                                  uint32_t end_class) {
    uint16_t stack[2 * PROGRAM_LENGTH_];
    size_t depth = 0;
    stack[depth++] = thread;
    while (depth) {
        const uint16_t at = stack[--depth];
        const ProgramStep *step = &b->program.steps[at];
        if (b->seen[0][at] == b->stamp) {
            continue;
        }
        b->seen[0][at] = b->stamp;
        switch (step->operation) {
        case STEP_SET:
            if (class != end_class && automaton_holds_(b, step->set, class) &&
                b->seen[1][at + 1] != b->stamp) {
                b->seen[1][at + 1] = b->stamp;
                b->new_list[b->new_count++] = (uint16_t)(at + 1);
            }
            break;
        case STEP_LOOK:
            if (class == end_class ? step->at_end : automaton_holds_(b, step->set, class)) {
                stack[depth++] = (uint16_t)(at + 1);
            }
            break;
        case STEP_FORK:
            stack[depth++] = step->or_to;
            stack[depth++] = step->to;
            break;
        case STEP_JUMP:
            stack[depth++] = step->to;
            break;
        case STEP_MATCH:
            return true;
        }
    }
    return false;
}

// The entry of the table for a state and a class.
static inline bool automaton_entry_(const Automaton *a, AutomatonBuilder_ *b, size_t state,
                                    uint32_t class, uint32_t *entry, Error *e) {
    bool matches = false;
    uint32_t next;
    b->new_count = 0;
    b->stamp++;
    for (size_t i = b->starts[state]; i < b->starts[state + 1] && !matches; i++) {
        matches = automaton_run_(b, b->lists[i], class, a->end_class);
    }
    if (!automaton_state_(b, &next, e)) {
        return false;
    }
    *entry = next * a->stride << 1 | matches;
    return true;
}

static inline bool automaton_make_states_(Automaton *a, AutomatonBuilder_ *b, const char *pattern,
                                          const FileErrors *f) {
    uint32_t state;
    b->new_count = 0;
    if (!automaton_state_(b, &state, f->error)) { // no threads: no match
        return false;
    }
    b->new_list[0] = 0, b->new_count = 1;
    if (!automaton_state_(b, &state, f->error)) {
        return false;
    }
    a->start = state * a->stride;
    for (size_t s = 0; s < b->state_count; s++) {
        if ((s + 1) * a->stride > AUTOMATON_ENTRIES_) {
            return reject(f, "pattern %.200s: it needs too many states", pattern);
        }
        for (uint32_t k = 0; k < a->stride; k++) {
            if (!automaton_entry_(a, b, s, k, &a->next[s * a->stride + k], f->error)) {
                return false;
            }
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Where matches end

// Fills neutral, covers and total.
static inline void automaton_find_ends_(Automaton *a, size_t states) {
    const uint32_t n = a->stride, end = a->end_class;
    a->total = true;
    memset(a->neutral, true, (size_t)n * n * sizeof *a->neutral);
    for (uint32_t class = 0; class < end; class ++) {
        for (size_t s = 1; s < states; s++) {
            const uint32_t row = a->next[s * n + class] >> 1;
            for (uint32_t after = 0; row && after < end; after++) {
                const uint32_t entry = a->next[row + after];
                a->neutral[class * n + after] &=
                    entry >> 1 == 0 && (entry & 1) == (a->next[row + end] & 1);
            }
        }

        const uint32_t row = a->next[a->start + class] >> 1;
        bool covers = row > 0;
        for (uint32_t after = 0; after <= end; after++) {
            covers = covers && a->next[row + after] & 1;
        }
        a->covers[class] = covers;
        a->total &= covers;
    }
}

static inline bool automaton_build_(Automaton *a, AutomatonBuilder_ *b, const Expression *x,
                                    const char *pattern, const FileErrors *f) {
    b->program.x = x;
    program_compile_(&b->program, x->root);
    program_add_(&b->program, (ProgramStep){.operation = STEP_MATCH});
    a->classes = calloc(CODE_POINTS, sizeof *a->classes);
    a->next = malloc(AUTOMATON_ENTRIES_ * sizeof *a->next);
    if (!a->classes || !a->next) {
        return reject(f, "no memory for a pattern");
    }
    if (b->program.full) {
        return reject(f, "pattern %.200s: it is too long", pattern);
    }
    if (!automaton_make_classes_(a, b, x)) {
        return reject(f, "pattern %.200s: its sets of characters overlap in too many ways",
                      pattern);
    }
    if (!automaton_make_states_(a, b, pattern, f)) {
        return false;
    }
    a->neutral = malloc((size_t)a->stride * a->stride * sizeof *a->neutral);
    a->covers = malloc(a->stride * sizeof *a->covers);
    if (!a->neutral || !a->covers) {
        return reject(f, "no memory for a pattern");
    }
    automaton_find_ends_(a, b->state_count);
    return true;
}

// Builds the automaton of an expression (`length` bytes and a NUL). What is not supported, or needs
// too much memory, is an error of the file.
static inline bool automaton_build(Automaton *a, const char *pattern, size_t length,
                                   const FileErrors *f) {
    Expression *x = expression_parse(pattern, length, f);
    AutomatonBuilder_ *b = x ? calloc(1, sizeof *b) : NULL;
    *a = (Automaton){0};
    bool ok =
        x && (b || reject(f, "no memory for a pattern")) && automaton_build_(a, b, x, pattern, f);
    if (b) {
        free(b->lists);
        free(b->starts);
        free(b->table.slots);
    }
    free(b);
    expression_free(x);
    if (!ok) {
        automaton_free(a);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Use

// Class of the character at text < end, and its length in bytes. A byte that starts no character
// counts as one of the class of U+FFFD.
static inline uint32_t automaton_class(const Automaton *a, const char *text, const char *end,
                                       size_t *length) {
    uint32_t c = (unsigned char)*text;
    *length = 1;
    if (c >= 0x80) {
        // Three bytes are the most frequent: well-formed but for what utf8_decode finds.
        const unsigned char *u = (const unsigned char *)text;
        if (c >= 0xE1 && c < 0xED && end - text >= 3 && (u[1] & 0xC0) == 0x80 &&
            (u[2] & 0xC0) == 0x80) {
            *length = 3;
            return a->classes[(c & 15) << 12 | (u[1] & 63u) << 6 | (u[2] & 63u)];
        }
        const size_t n = utf8_decode(text, (size_t)(end - text), &c);
        if (n == 0) {
            return a->classes[0xFFFD];
        }
        *length = n;
    }
    return a->classes[c];
}

// Bytes of the match at the start of the text (length > 0), 0 if there is none.
static inline size_t automaton_match(const Automaton *a, const char *text, size_t length) {
    const char *at = text, *const end = text + length, *matched = text;
    const uint32_t *next = a->next;
    const uint8_t *classes = a->classes;
    uint32_t row = a->start;
    while (at < end) {
        size_t n = 1;
        const unsigned char byte = (unsigned char)*at;
        const uint32_t class = byte < 0x80 ? classes[byte] : automaton_class(a, at, end, &n);
        const uint32_t entry = next[row + class];
        matched = entry & 1 ? at : matched;
        at += n;
        if (entry >> 1 == row) { // in a run nothing waits for the entry
            continue;
        }
        row = entry >> 1;
        if (row == 0) {
            return (size_t)(matched - text);
        }
    }
    return next[row + a->end_class] & 1 ? length : (size_t)(matched - text);
}

// Bytes before the first match in the text, all if there is none.
static inline size_t automaton_gap(const Automaton *a, const char *text, size_t length) {
    size_t at = 0, n;
    for (; at < length; at += n) {
        const uint32_t class = automaton_class(a, text + at, text + length, &n);
        if (a->next[a->start + class] >> 1 && automaton_match(a, text + at, length - at)) {
            break;
        }
    }
    return at;
}

// True if no match goes on from a character of class `before` to one of class `after`, whatever the
// text is, and all that come up to there would be found as well if the text ended there.
static inline bool automaton_is_neutral(const Automaton *a, uint32_t before, uint32_t after) {
    return a->neutral[before * a->stride + after];
}

// True if a match begins at every character of this class where none has gone beyond it.
static inline bool automaton_covers(const Automaton *a, uint32_t class) {
    return a->covers[class];
}

#endif
