// expression.h: regular expressions as the Split pre-tokenizers of tokenizer.json files use them,
// parsed into a tree. Syntax and meaning are those of Oniguruma (the engine of `tokenizers`):
//
//   a|b  ab  (a)  (?:a)  (?i:a)        alternatives are tried in order
//   a?  a*  a+  a{m}  a{m,}  a{,n}  a{m,n}   as many as possible; with ? behind, as few
//   a?+  a*+  a++                      for one character: never fewer than possible
//   (?=a)  (?!a)                       of one character: what follows; $ and \z
//   .  [a-z\s]  [^a]  [a[b]]           \s \S \d \D \w \W \h \H \p{L} \P{L} \p{^L}
//   \r \n \t \f \v \a \e  \x41  \x{3040}  \u3040
//
// Everything else is an error that names the place.
#ifndef TOKENIZERS_EXPRESSION_H
#define TOKENIZERS_EXPRESSION_H

#include "tokenizers/code_set.h"
#include "util/utf8.h"

enum { EXPRESSION_NODES = 2048, EXPRESSION_SETS = 64, EXPRESSION_DEPTH_ = 64, REPEAT_MOST_ = 1000 };

typedef enum {
    NODE_EMPTY,
    NODE_SET,       // one character of a set
    NODE_LOOK,      // one character of a set follows, or with at_end nothing
    NODE_CONCAT,    // a, then b
    NODE_ALTERNATE, // a, else b
    NODE_REPEAT     // a, least to most times
} NodeKind;

typedef enum { REPEAT_GREEDY, REPEAT_LAZY, REPEAT_POSSESSIVE } RepeatMode;

typedef struct {
    NodeKind kind;
    int a, b; // nodes
    int set;
    bool at_end;
    int least, most; // most -1: any number
    RepeatMode mode;
} ExpressionNode;

// A parsed expression; expression_free releases it.
typedef struct {
    ExpressionNode nodes[EXPRESSION_NODES];
    int count, root;
    CodeSet *sets[EXPRESSION_SETS];
    int set_count;
} Expression;

typedef struct {
    Expression *x;
    const char *text, *at, *end;
    bool fold; // within (?i:
    int depth;
    const FileErrors *f;
} ExpressionParser_;

static inline void expression_free(Expression *x) {
    for (int i = 0; x && i < x->set_count; i++) {
        free(x->sets[i]);
    }
    free(x);
}

// Reports what is wrong at this place of the expression. Returns -1, which stands for no node.
static inline int expression_fault_(const ExpressionParser_ *p, const char *at, const char *what) {
    reject(p->f, "pattern %.200s: byte %zu, \"%.12s\": %s", p->text, (size_t)(at - p->text), at,
           what);
    return -1;
}

static inline int expression_node_(ExpressionParser_ *p, ExpressionNode node) {
    if (p->x->count == EXPRESSION_NODES) {
        return expression_fault_(p, p->at, "the pattern is too long");
    }
    p->x->nodes[p->x->count] = node;
    return p->x->count++;
}

static inline bool expression_next_(const ExpressionParser_ *p, const char *text) {
    size_t n = strlen(text);
    return (size_t)(p->end - p->at) >= n && !memcmp(p->at, text, n);
}

static inline bool expression_accept_(ExpressionParser_ *p, const char *text) {
    bool found = expression_next_(p, text);
    p->at += found ? strlen(text) : 0;
    return found;
}

// ------------------------------------------------------------------------------------------------
// Sets

// The number of a set that equals *set, which is freed if there is one already; -1 on error.
static inline int expression_set_(ExpressionParser_ *p, CodeSet *set) {
    Expression *x = p->x;
    for (int i = 0; i < x->set_count; i++) {
        if (!memcmp(x->sets[i], set, sizeof *set)) {
            free(set);
            return i;
        }
    }
    if (x->set_count == EXPRESSION_SETS) {
        free(set);
        return expression_fault_(p, p->at, "more than 64 different sets of characters");
    }
    x->sets[x->set_count] = set;
    return x->set_count++;
}

static inline CodeSet *expression_new_set_(ExpressionParser_ *p) {
    CodeSet *set = calloc(1, sizeof *set);
    if (!set) {
        expression_fault_(p, p->at, "no memory");
    }
    return set;
}

// Adds to a set what its letters of ASCII become in the other case.
static inline void code_set_fold_(CodeSet *s) {
    for (uint32_t c = 'a'; c <= 'z'; c++) {
        const uint32_t more = c == 's' ? 0x17F : c == 'k' ? 0x212A : c; // long s, kelvin sign
        if (code_set_has(s, c) || code_set_has(s, c - 32) || code_set_has(s, more)) {
            code_set_add(s, c, c);
            code_set_add(s, c - 32, c - 32);
            code_set_add(s, more, more);
        }
    }
}

// A literal character; false if it is not UTF-8.
static inline bool expression_literal_(ExpressionParser_ *p, uint32_t *c) {
    size_t n = utf8_decode(p->at, (size_t)(p->end - p->at), c);
    if (n == 0) {
        expression_fault_(p, p->at, "not UTF-8");
        return false;
    }
    if (p->fold && *c >= 0x80) {
        expression_fault_(p, p->at, "within (?i: only ASCII is supported");
        return false;
    }
    p->at += n;
    return true;
}

// The number behind \x or \u.
static inline bool expression_hex_(ExpressionParser_ *p, const char *start, uint32_t *c) {
    const bool braces = p->at[-1] == 'x' && expression_accept_(p, "{");
    const int most = braces ? 6 : p->at[-1] == 'u' ? 4 : 2;
    int digits = 0;
    *c = 0;
    for (; digits < most && p->at < p->end && isxdigit((unsigned char)*p->at); digits++, p->at++) {
        const int lower = tolower((unsigned char)*p->at);
        *c = *c << 4 | (uint32_t)(lower <= '9' ? lower - '0' : lower - 'a' + 10);
    }
    bool ok = digits && (braces ? expression_accept_(p, "}") : digits == most) &&
              *c < CODE_POINTS && (*c < 0x80 || (most != 2 && !p->fold));
    return ok || expression_fault_(p, start, "not a number of a character") >= 0;
}

static inline bool expression_property_(ExpressionParser_ *p, CodeSet *set, const char *start,
                                        bool negated) {
    const char *close = memchr(p->at, '}', (size_t)(p->end - p->at));
    CodeSet *found = expression_new_set_(p);
    bool ok = found && close && expression_accept_(p, "{");
    if (ok) {
        negated ^= expression_accept_(p, "^");
        const size_t length = (size_t)(close - p->at);
        // Letters of one case: what these become within (?i: is not supported.
        const bool cased =
            p->fold && length == 2 && strchr("lL", *p->at) && strchr("ultULT", p->at[1]);
        ok = !cased && code_set_add_property(found, p->at, length);
        p->at = close + 1;
    }
    if (ok && negated) {
        code_set_invert(found);
    }
    if (ok) {
        code_set_unite(set, found);
    }
    free(found);
    return ok || expression_fault_(p, start,
                                   "not a known property: general categories (\\p{L}, "
                                   "\\p{Lu}) and scripts (\\p{Han}) are") >= 0;
}

// Adds the class that an escape like \s stands for. False if it stands for none.
static inline bool code_set_add_escape_(CodeSet *s, char letter) {
    const uint32_t letters_marks = code_categories("L", 1) | code_categories("M", 1);
    switch (tolower((unsigned char)letter)) {
    case 's':
        code_set_add_spaces(s);
        break;
    case 'd':
        code_set_add_categories(s, 1u << CATEGORY_ND);
        break;
    case 'w':
        code_set_add_categories(s, letters_marks | 1u << CATEGORY_ND | 1u << CATEGORY_PC);
        break;
    case 'h':
        code_set_add(s, '0', '9');
        code_set_add(s, 'A', 'F');
        code_set_add(s, 'a', 'f');
        break;
    default:
        return false;
    }
    return true;
}

// Behind a backslash: adds the class to *set, or with *single sets *c to the one character.
static inline bool expression_escape_(ExpressionParser_ *p, CodeSet *set, bool *single,
                                      uint32_t *c) {
    static const char letters[] = "rntfvae", codes[] = "\r\n\t\f\v\a\x1B";
    const char *start = p->at - 1;
    const char letter = p->at < p->end ? *p->at++ : 0;
    const char *known = letter ? strchr(letters, letter) : NULL;
    *single = false;
    if (letter == 'p' || letter == 'P') {
        return expression_property_(p, set, start, letter == 'P');
    }
    CodeSet *found = expression_new_set_(p);
    if (!found) {
        return false;
    }
    if (letter && code_set_add_escape_(found, letter)) {
        if (isupper((unsigned char)letter)) {
            code_set_invert(found);
        }
        code_set_unite(set, found);
        free(found);
        return true;
    }
    free(found);

    *single = true;
    if (letter == 'x' || letter == 'u') {
        return expression_hex_(p, start, c);
    }
    *c = known ? (uint32_t)codes[known - letters] : (unsigned char)letter;
    return known || ispunct((unsigned char)letter) || letter == ' ' || letter == '\n' ||
           letter == '\r' || expression_fault_(p, start, "this escape is not supported") >= 0;
}

static inline bool expression_class_(ExpressionParser_ *p, CodeSet *set);

// One member of a class: a character, a range, an escape, or a class. `first`: where the class
// begins, so that ] stands for itself.
static inline bool expression_member_(ExpressionParser_ *p, CodeSet *set) {
    const char *start = p->at;
    bool single = true;
    uint32_t low = 0, high = 0;
    if (expression_next_(p, "[:") || expression_next_(p, "&&")) {
        return expression_fault_(p, start, "[: and && are not supported within classes") >= 0;
    }
    if (expression_accept_(p, "[")) {
        CodeSet *inner = expression_new_set_(p);
        bool ok = inner && expression_class_(p, inner);
        if (ok) {
            code_set_unite(set, inner);
        }
        free(inner);
        return ok;
    }
    if (expression_accept_(p, "\\") ? !expression_escape_(p, set, &single, &low)
                                    : !expression_literal_(p, &low)) {
        return false;
    }
    high = low;
    if (single && expression_next_(p, "-") && p->end - p->at > 1 && p->at[1] != ']') {
        p->at++;
        if (expression_next_(p, "[") ||
            (expression_accept_(p, "\\") ? !expression_escape_(p, set, &single, &high)
                                         : !expression_literal_(p, &high)) ||
            !single || high < low) {
            return expression_fault_(p, start, "not a range of characters") >= 0;
        }
    }
    if (single) {
        code_set_add(set, low, high);
    }
    return true;
}

// Behind [: adds the members of the class up to its ].
static inline bool expression_class_(ExpressionParser_ *p, CodeSet *set) {
    const char *start = p->at - 1;
    const bool negated = expression_accept_(p, "^");
    if (++p->depth > EXPRESSION_DEPTH_ || expression_next_(p, "]")) {
        return expression_fault_(p, start, "this class is not supported") >= 0;
    }
    while (p->at < p->end && *p->at != ']') {
        if (!expression_member_(p, set)) {
            return false;
        }
    }
    if (!expression_accept_(p, "]")) {
        return expression_fault_(p, start, "this class has no end") >= 0;
    }
    p->depth--;
    if (p->fold) {
        code_set_fold_(set);
    }
    if (negated) {
        code_set_invert(set);
    }
    return true;
}

// A node for one character: a literal, an escape, a class or a dot.
static inline int expression_character_(ExpressionParser_ *p) {
    CodeSet *set = expression_new_set_(p);
    bool single = false, ok = set != NULL;
    uint32_t c = 0;
    if (!ok) {
        return -1;
    }
    if (expression_accept_(p, ".")) {
        code_set_add(set, '\n', '\n');
        code_set_invert(set);
    } else if (expression_accept_(p, "[")) {
        ok = expression_class_(p, set);
    } else if (expression_accept_(p, "\\")) {
        ok = expression_escape_(p, set, &single, &c);
    } else {
        single = true;
        ok = expression_literal_(p, &c);
    }
    if (!ok) {
        free(set);
        return -1;
    }
    if (single) {
        code_set_add(set, c, c);
        if (p->fold) {
            code_set_fold_(set);
        }
    }
    const int number = expression_set_(p, set);
    return number < 0 ? -1 : expression_node_(p, (ExpressionNode){NODE_SET, .set = number});
}

// ------------------------------------------------------------------------------------------------
// Groups, repetitions, alternatives

static inline int expression_alternatives_(ExpressionParser_ *p);

// A look-ahead for `set`, which is taken over; with `negated` for anything else or the end.
static inline int expression_look_(ExpressionParser_ *p, CodeSet *set, bool negated, bool at_end) {
    if (!set) {
        return -1;
    }
    if (negated) {
        code_set_invert(set);
    }
    const int number = expression_set_(p, set);
    return number < 0 ? -1
                      : expression_node_(p, (ExpressionNode){NODE_LOOK, .set = number,
                                                             .at_end = negated || at_end});
}

// Behind (?= or (?!.
static inline int expression_look_group_(ExpressionParser_ *p, bool negated) {
    const char *start = p->at - 3;
    const int inner = expression_alternatives_(p);
    if (inner < 0) {
        return -1;
    }
    if (p->x->nodes[inner].kind != NODE_SET || !expression_accept_(p, ")")) {
        return expression_fault_(p, start, "look-ahead is supported for one character only");
    }
    CodeSet *set = expression_new_set_(p);
    if (set) {
        *set = *p->x->sets[p->x->nodes[inner].set];
    }
    return expression_look_(p, set, negated, false);
}

// Behind (.
static inline int expression_group_(ExpressionParser_ *p) {
    const char *start = p->at - 1;
    const bool fold = p->fold;
    if (++p->depth > EXPRESSION_DEPTH_) {
        return expression_fault_(p, start, "groups are nested too deeply");
    }
    int node;
    if (expression_accept_(p, "?=") || expression_accept_(p, "?!")) {
        node = expression_look_group_(p, p->at[-1] == '!');
    } else {
        if (expression_accept_(p, "?i:")) {
            p->fold = true;
        } else if (expression_accept_(p, "?-i:")) {
            p->fold = false;
        } else if (!expression_accept_(p, "?:") && expression_next_(p, "?")) {
            return expression_fault_(p, start, "this kind of group is not supported");
        }
        node = expression_alternatives_(p);
        p->fold = fold;
        if (node >= 0 && !expression_accept_(p, ")")) {
            return expression_fault_(p, start, "this group has no end");
        }
    }
    p->depth--;
    return node;
}

static inline int expression_atom_(ExpressionParser_ *p) {
    const char *start = p->at;
    if (expression_accept_(p, "(")) {
        return expression_group_(p);
    }
    if (expression_accept_(p, "$") || expression_accept_(p, "\\z")) {
        CodeSet *set = expression_new_set_(p);
        if (set && *start == '$') {
            code_set_add(set, '\n', '\n');
        }
        return expression_look_(p, set, false, true);
    }
    if (strchr("?*+", *p->at)) {
        return expression_fault_(p, start, "nothing to repeat");
    }
    if (*p->at == '^') {
        return expression_fault_(p, start, "^ is not supported");
    }
    return expression_character_(p);
}

// Reads {m}, {m,}, {,n} or {m,n}; false if there is none of them.
static inline bool expression_braces_(ExpressionParser_ *p, ExpressionNode *repeat) {
    const char *at = p->at + 1;
    int numbers[2] = {0, -1}, digits = 0, which = 0;
    bool comma = false;
    for (; at < p->end && (isdigit((unsigned char)*at) || (*at == ',' && !comma)); at++) {
        if (*at == ',') {
            comma = true, which = 1;
            continue;
        }
        const int before = numbers[which] < 0 ? 0 : numbers[which];
        numbers[which] = before > REPEAT_MOST_ ? before : 10 * before + (*at - '0');
        digits++;
    }
    if (at == p->end || *at != '}' || digits == 0) {
        return false;
    }
    repeat->least = numbers[0];
    repeat->most = comma ? numbers[1] : numbers[0];
    p->at = at + 1;
    return true;
}

// True if the node matches an empty text.
static inline bool expression_is_nullable_(const Expression *x, int node) {
    const ExpressionNode *n = &x->nodes[node];
    switch (n->kind) {
    case NODE_SET:
        return false;
    case NODE_CONCAT:
        return expression_is_nullable_(x, n->a) && expression_is_nullable_(x, n->b);
    case NODE_ALTERNATE:
        return expression_is_nullable_(x, n->a) || expression_is_nullable_(x, n->b);
    case NODE_REPEAT:
        return n->least == 0 || expression_is_nullable_(x, n->a);
    default:
        return true;
    }
}

// Behind a node: one repetition of it, if there is one; *found.
static inline int expression_repetition_(ExpressionParser_ *p, int node, bool *found) {
    const char *start = p->at;
    ExpressionNode repeat = {NODE_REPEAT, .a = node, .most = -1};
    bool braces = false;
    *found = true;
    if (expression_accept_(p, "?")) {
        repeat.most = 1;
    } else if (expression_accept_(p, "+")) {
        repeat.least = 1;
    } else if (expression_next_(p, "{")) {
        *found = braces = expression_braces_(p, &repeat);
    } else {
        *found = expression_accept_(p, "*");
    }
    if (!*found) {
        return node;
    }

    if (expression_accept_(p, "?")) {
        repeat.mode = REPEAT_LAZY;
    } else if (!braces && expression_accept_(p, "+")) {
        repeat.mode = REPEAT_POSSESSIVE;
    }
    const bool fixed = braces && repeat.least == repeat.most;
    if (repeat.least > REPEAT_MOST_ || repeat.most > REPEAT_MOST_ || repeat.most == 0 ||
        (repeat.most > 0 && repeat.most < repeat.least) || (fixed && repeat.mode == REPEAT_LAZY)) {
        return expression_fault_(p, start, "these numbers are not supported");
    }
    if (repeat.mode == REPEAT_POSSESSIVE && p->x->nodes[node].kind != NODE_SET) {
        return expression_fault_(p, start, "possessive repetition is for one character only");
    }
    if (repeat.most != 1 && expression_is_nullable_(p->x, node)) {
        return expression_fault_(p, start, "what is repeated must not match an empty text");
    }
    return expression_node_(p, repeat);
}

// True if two literals within (?i: are also written as one character, such as a ligature.
static inline bool expression_ligature_(const ExpressionParser_ *p, const char *second) {
    static const char *const ligatures[] = {"ss", "st", "ff", "fi", "fl"};
    for (size_t i = 0; p->fold && i < 5 && second > p->text && second < p->end; i++) {
        if (!strncasecmp(second - 1, ligatures[i], 2)) {
            return true;
        }
    }
    return false;
}

static inline int expression_sequence_(ExpressionParser_ *p) {
    int all = -1;
    while (p->at < p->end && *p->at != '|' && *p->at != ')') {
        bool found = true;
        const char *start = p->at;
        if (all >= 0 && expression_ligature_(p, start)) {
            return expression_fault_(p, start - 1, "within (?i: these letters are not supported");
        }
        int node = expression_atom_(p);
        while (node >= 0 && found) {
            node = expression_repetition_(p, node, &found);
        }
        if (node < 0) {
            return -1;
        }
        all = all < 0 ? node
                      : expression_node_(p, (ExpressionNode){NODE_CONCAT, .a = all, .b = node});
        if (all < 0) {
            return -1;
        }
    }
    return all < 0 ? expression_node_(p, (ExpressionNode){.kind = NODE_EMPTY}) : all;
}

static inline int expression_alternatives_(ExpressionParser_ *p) {
    int all = expression_sequence_(p);
    while (all >= 0 && expression_accept_(p, "|")) {
        const int next = expression_sequence_(p);
        all = next < 0 ? -1
                       : expression_node_(p, (ExpressionNode){NODE_ALTERNATE, .a = all, .b = next});
    }
    return all;
}

// Parses an expression (NUL-terminated, `length` bytes), which must not match an empty text; NULL
// on error. The caller frees it with expression_free.
static inline Expression *expression_parse(const char *text, size_t length, const FileErrors *f) {
    Expression *x = calloc(1, sizeof *x);
    ExpressionParser_ p = {.x = x, .text = text, .at = text, .end = text + length, .f = f};
    if (!x) {
        reject(f, "no memory for a pattern");
        return NULL;
    }
    x->root = expression_alternatives_(&p);
    if (x->root >= 0 && p.at < p.end) {
        x->root = expression_fault_(&p, p.at, "this ) closes no group");
    }
    if (x->root >= 0 && expression_is_nullable_(x, x->root)) {
        x->root = expression_fault_(&p, text, "it must not match an empty text");
    }
    if (x->root < 0) {
        expression_free(x);
        return NULL;
    }
    return x;
}

#endif
