// search.h: the longest matches of a text in the data, byte for byte.
//
// A span begins in the data at a token, or r bytes before the end of one: then its bytes from r on
// begin at a token, so they are found in the index, and what goes before must be a token that ends
// with its first r bytes. Or it lies within a single token. Bisection reads unproved bytes; what it
// finds is proved afterwards: the entries on both sides of a bound, and the text they stand for,
// decide alone whether the bound is right.
#ifndef TRACE_SEARCH_H
#define TRACE_SEARCH_H

#include "trace/documents.h"

typedef struct {
    TraceData *data; // (count), all of one tokenizer
    size_t count;
    const TokenTexts *texts;
    int32_t *by_end;    // (tokens) ids in the order of their text read from its end
    int32_t *by_length; // (tokens) longest first
    size_t tokens;      // those with text
    bool proving;
    const char *text; // what is looked for
    size_t length;
    size_t *reach; // (length) bytes of the longest span from here on that begins at a token
} TextSearch;

// One place: the span begins at byte `offset` of token `token` of dataset `data`.
typedef struct {
    size_t data;
    uint64_t token;
    size_t offset;
} Occurrence;

typedef struct {
    Occurrence *items;
    size_t count, capacity; // zero-initialise; the caller frees items
} Occurrences;

// Id of a token, as the file has it.
static inline uint64_t trace_token(const TraceData *t, uint64_t token) {
    const unsigned char *at =
        t->bin.data + t->data->first_byte + token * (uint64_t)t->data->token_bytes;
    return t->data->token_bytes == 2 ? load_le(at, 2) : load_le(at, t->data->token_bytes);
}

// Proves the ids of `count` tokens from `first` on.
static inline bool trace_prove_tokens(TraceData *t, uint64_t first, uint64_t count, Error *e) {
    return proof_check(&t->bin, t->data->first_byte + first * (uint64_t)t->data->token_bytes,
                       count * (uint64_t)t->data->token_bytes, e);
}

// Compares the text from a token on with `span`: below 0 if it comes before, 0 if it begins with
// all of the span. *common: bytes that are equal; *walked: tokens that were looked at.
static inline int text_compare_(const TextSearch *s, const TraceData *t, uint64_t token,
                                const char *span, size_t length, size_t *common, uint64_t *walked) {
    *walked = 0;
    for (*common = 0; *common < length;) {
        size_t n = 0, i = 0;
        const char *text = "";
        if (token < t->data->tokens) {
            ++*walked;
            text = token_text(s->texts, trace_token(t, token++), &n);
        }
        for (; i < n && *common < length; i++, ++*common) {
            if (text[i] != span[*common]) {
                return (unsigned char)text[i] < (unsigned char)span[*common] ? -1 : 1;
            }
        }
        if (n == 0) {
            return -1; // the text ends here
        }
    }
    return 0;
}

// Token of an entry of the index, of all blocks counted; in its block, whatever the file says.
static inline uint64_t index_token_(const TraceData *t, uint64_t block, uint64_t entry) {
    uint64_t relative = load_le(t->index.data + INDEX_HEADER + 16 * t->table.blocks + 4 * entry, 4);
    uint64_t tokens = t->table.first_token[block + 1] - t->table.first_token[block];
    return t->table.first_token[block] + (relative < tokens ? relative : 0);
}

// First entry of the block whose text is not before the span; with `behind`, nor begins with it.
static inline uint64_t index_bound_(const TextSearch *s, const TraceData *t, uint64_t block,
                                    const char *span, size_t length, bool behind) {
    uint64_t low = t->table.first_entry[block], high = t->table.first_entry[block + 1], walked;
    size_t common;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        int order =
            text_compare_(s, t, index_token_(t, block, middle), span, length, &common, &walked);
        if (order < 0 || (order == 0 && behind)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Proves that entry `entry` of a block stands to the span as `order` says.
static inline bool index_prove_entry_(const TextSearch *s, TraceData *t, uint64_t block,
                                      uint64_t entry, const char *span, size_t length, int order,
                                      Error *e) {
    size_t common;
    uint64_t walked;
    if (entry < t->table.first_entry[block] || entry >= t->table.first_entry[block + 1]) {
        return true; // there is none: the block's edge is the bound
    }
    if (!proof_check(&t->index, INDEX_HEADER + 16 * t->table.blocks + 4 * entry, 4, e)) {
        return false;
    }
    uint64_t token = index_token_(t, block, entry);
    text_compare_(s, t, token, span, length, &common, &walked);
    if (!trace_prove_tokens(t, token, walked, e)) {
        return false;
    }
    int now = text_compare_(s, t, token, span, length, &common, &walked);
    return (now > 0) - (now < 0) == order ||
           fail(e, "%s: was altered: it is not in the order of the text of %s", t->index.path,
                t->bin.path);
}

// The entries of a block whose text begins with the span are *first .. *end - 1.
static inline bool index_range_(const TextSearch *s, TraceData *t, uint64_t block, const char *span,
                                size_t length, uint64_t *first, uint64_t *end, Error *e) {
    *first = index_bound_(s, t, block, span, length, false);
    *end = index_bound_(s, t, block, span, length, true);
    *end = *end < *first ? *first : *end; // only in a damaged index
    if (!s->proving) {
        return true;
    }
    return index_prove_entry_(s, t, block, *first - 1, span, length, -1, e) &&
           (*first == *end || (index_prove_entry_(s, t, block, *first, span, length, 0, e) &&
                               index_prove_entry_(s, t, block, *end - 1, span, length, 0, e))) &&
           index_prove_entry_(s, t, block, *end, span, length, 1, e);
}

// Bytes of the longest start of the span that begins at a token of the block.
static inline size_t index_reach_(const TextSearch *s, const TraceData *t, uint64_t block,
                                  const char *span, size_t length) {
    uint64_t bound = index_bound_(s, t, block, span, length, false), walked;
    size_t best = 0, common;
    for (uint64_t entry = bound > 0 ? bound - 1 : 0; entry <= bound; entry++) {
        if (entry >= t->table.first_entry[block] && entry < t->table.first_entry[block + 1]) {
            text_compare_(s, t, index_token_(t, block, entry), span, length, &common, &walked);
            best = common > best ? common : best;
        }
    }
    return best;
}

// Compares the last bytes of a token with `end`, read backwards; 0 if the token ends with it.
static inline int end_compare_(const TextSearch *s, int32_t id, const char *end, size_t length) {
    size_t n;
    const char *text = token_text(s->texts, (uint64_t)id, &n);
    for (size_t i = 1; i <= length; i++) {
        if (i > n) {
            return -1;
        }
        if (text[n - i] != end[length - i]) {
            return (unsigned char)text[n - i] < (unsigned char)end[length - i] ? -1 : 1;
        }
    }
    return 0;
}

static inline int by_end_compare_(const void *first, const void *second, void *search) {
    const TextSearch *s = search;
    const int32_t a = *(const int32_t *)first, b = *(const int32_t *)second;
    size_t n;
    const char *text = token_text(s->texts, (uint64_t)b, &n);
    int order = end_compare_(s, a, text, n);
    if (order == 0) { // a ends with b
        size_t longer;
        token_text(s->texts, (uint64_t)a, &longer);
        order = longer > n ? 1 : (a > b) - (a < b);
    }
    return order;
}

static inline int by_length_compare_(const void *first, const void *second, void *search) {
    const TextSearch *s = search;
    const int32_t a = *(const int32_t *)first, b = *(const int32_t *)second;
    size_t m, n;
    token_text(s->texts, (uint64_t)a, &m);
    token_text(s->texts, (uint64_t)b, &n);
    return m != n ? (m < n ? 1 : -1) : (a > b) - (a < b);
}

// The tokens by_end[*first .. *end) end with `end`.
static inline void tokens_ending_(const TextSearch *s, const char *end, size_t length,
                                  size_t *first, size_t *last) {
    for (int behind = 0; behind < 2; behind++) {
        size_t low = behind ? *first : 0, high = s->tokens;
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            int order = end_compare_(s, s->by_end[middle], end, length);
            if (order < 0 || (order == 0 && behind)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        *(behind ? last : first) = low;
    }
}

static inline bool occurrence_add_(Occurrences *found, size_t data, uint64_t token, size_t offset,
                                   Error *e) {
    if (!array_reserve(&found->items, &found->capacity, found->count, 1, sizeof *found->items, e)) {
        return false;
    }
    found->items[found->count++] = (Occurrence){data, token, offset};
    return true;
}

// Adds the places where `span` begins at a token with the id `only` (-1: any), as `offset` bytes
// into that token.
static inline bool search_aligned_(TextSearch *s, const char *span, size_t length, int32_t only,
                                   size_t offset, bool one, Occurrences *found, Error *e) {
    for (size_t i = 0; i < s->count; i++) {
        TraceData *t = &s->data[i];
        for (uint64_t b = 0; b < t->table.blocks; b++) {
            uint64_t first, end;
            if (!index_range_(s, t, b, span, length, &first, &end, e)) {
                return false;
            }
            for (uint64_t entry = first; entry < end; entry++) {
                uint64_t token = index_token_(t, b, entry);
                if (s->proving && !index_prove_entry_(s, t, b, entry, span, length, 0, e)) {
                    return false;
                }
                if (only >= 0 && trace_token(t, token) != (uint64_t)only) {
                    continue;
                }
                if (!occurrence_add_(found, i, token, offset, e)) {
                    return false;
                }
                if (one) {
                    return true;
                }
            }
        }
    }
    return true;
}

// Adds the places where a token ends with the first r bytes of the span, is longer than them, and
// the rest follows: by looking at the token before each place of the rest.
static inline bool search_before_rest_(TextSearch *s, const char *span, size_t length, size_t r,
                                       bool one, Occurrences *found, Error *e) {
    Occurrences rests = {0};
    bool ok = search_aligned_(s, span + r, length - r, -1, 0, false, &rests, e);
    for (size_t k = 0; ok && k < rests.count && !(one && found->count); k++) {
        TraceData *t = &s->data[rests.items[k].data];
        uint64_t token = rests.items[k].token;
        size_t n;
        if (token == 0) {
            continue;
        }
        ok = !s->proving || trace_prove_tokens(t, token - 1, 1, e);
        const char *text = token_text(s->texts, trace_token(t, token - 1), &n);
        if (ok && n > r && !memcmp(text + n - r, span, r)) {
            ok = occurrence_add_(found, rests.items[k].data, token - 1, n - r, e);
        }
    }
    free(rests.items);
    return ok;
}

// The same, by looking for each such token followed by the rest.
static inline bool search_tokens_before_(TextSearch *s, const char *span, size_t length, size_t r,
                                         size_t first, size_t last, bool one, Occurrences *found,
                                         Error *e) {
    char *joined = malloc(s->texts->longest + length);
    bool ok = joined || fail(e, "no memory for a text of %zu bytes", length);
    for (size_t k = first; ok && k < last && !(one && found->count); k++) {
        size_t n;
        const char *text = token_text(s->texts, (uint64_t)s->by_end[k], &n);
        if (n > r) {
            memcpy(joined, text, n);
            memcpy(joined + n, span + r, length - r);
            ok = search_aligned_(s, joined, n + length - r, s->by_end[k], n - r, one, found, e);
        }
    }
    free(joined);
    return ok;
}

// Entries that begin with the rest of a span, in all blocks.
static inline uint64_t search_count_(const TextSearch *s, const char *span, size_t length) {
    uint64_t count = 0;
    for (size_t i = 0; i < s->count; i++) {
        for (uint64_t b = 0; b < s->data[i].table.blocks; b++) {
            uint64_t first = index_bound_(s, &s->data[i], b, span, length, false);
            uint64_t end = index_bound_(s, &s->data[i], b, span, length, true);
            count += end > first ? end - first : 0;
        }
    }
    return count;
}

// Adds the places where the span lies in one token but not at its start.
static inline bool search_inside_(TextSearch *s, const char *span, size_t length, bool one,
                                  Occurrences *found, Error *e) {
    bool ok = true;
    for (size_t k = 0; ok && k < s->tokens && !(one && found->count); k++) {
        size_t n;
        const char *text = token_text(s->texts, (uint64_t)s->by_length[k], &n);
        if (n <= length) {
            break;
        }
        for (size_t offset = 1; ok && offset + length <= n; offset++) {
            if (!memcmp(text + offset, span, length)) {
                ok = search_aligned_(s, text, n, s->by_length[k], offset, one, found, e);
            }
        }
    }
    return ok;
}

// Adds the places of `length` > 0 bytes of the text from `at` on; with `one` it stops at the first.
// s->proving proves each of them, and that there are no others.
static inline bool search_span_(TextSearch *s, size_t at, size_t length, bool one,
                                Occurrences *found, Error *e) {
    const char *span = s->text + at;
    uint64_t blocks = 0;
    for (size_t i = 0; i < s->count; i++) {
        blocks += s->data[i].table.blocks;
    }
    for (size_t r = 0; r < length && r < s->texts->longest && !(one && found->count); r++) {
        size_t first = 0, last = 0;
        if (!s->proving && s->reach[at + r] < length - r) {
            continue;
        }
        if (r == 0) {
            if (!search_aligned_(s, span, length, -1, 0, one, found, e)) {
                return false;
            }
            continue;
        }
        tokens_ending_(s, span, r, &first, &last);
        if (first == last) {
            continue;
        }
        // Looking at the token before each of many rests costs more than finding a few tokens that
        // the rest follows.
        uint64_t rests = search_count_(s, span + r, length - r);
        if (!(rests <= 16 * blocks * (uint64_t)(last - first)
                  ? search_before_rest_(s, span, length, r, one, found, e)
                  : search_tokens_before_(s, span, length, r, first, last, one, found, e))) {
            return false;
        }
    }
    return (one && found->count) || search_inside_(s, span, length, one, found, e);
}

static inline void text_search_close(TextSearch *s) {
    free(s->by_end);
    free(s->by_length);
    free(s->reach);
    *s = (TextSearch){0};
}

// Gets ready to look for `length` bytes of UTF-8 in `count` datasets, all with an index and of one
// tokenizer, whose texts these are.
static inline bool text_search_open(TextSearch *s, TraceData *data, size_t count,
                                    const TokenTexts *texts, const char *text, size_t length,
                                    Error *e) {
    *s = (TextSearch){.data = data, .count = count, .texts = texts, .text = text, .length = length};
    s->by_end = malloc(texts->vocab_size * sizeof *s->by_end);
    s->by_length = malloc(texts->vocab_size * sizeof *s->by_length);
    s->reach = malloc((length + 1) * sizeof *s->reach);
    if (!s->by_end || !s->by_length || !s->reach) {
        return fail(e, "no memory to look for a text of %zu bytes", length);
    }
    for (size_t i = 0; i < count; i++) {
        if (!data[i].index.path[0]) {
            return fail(e, "%s: has no index to look text up in: make one with prepare --index 1",
                        data[i].path);
        }
    }
    for (size_t id = 0; id < texts->vocab_size; id++) {
        size_t n;
        token_text(texts, id, &n);
        if (n > 0) {
            s->by_end[s->tokens] = s->by_length[s->tokens] = (int32_t)id;
            s->tokens++;
        }
    }
    qsort_r(s->by_end, s->tokens, sizeof *s->by_end, by_end_compare_, s);
    qsort_r(s->by_length, s->tokens, sizeof *s->by_length, by_length_compare_, s);
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t at = 0; at < length; at++) {
        size_t best = 0, most = length - at < INDEX_OVERLAP ? length - at : INDEX_OVERLAP;
        for (size_t i = 0; i < count; i++) {
            for (uint64_t b = 0; b < data[i].table.blocks; b++) {
                size_t reach = index_reach_(s, &data[i], b, text + at, most);
                best = reach > best ? reach : best;
            }
        }
        s->reach[at] = best;
    }
    return true;
}

typedef struct {
    size_t first, length; // bytes of the text
} TextSpan;

typedef struct {
    TextSpan *items;
    size_t count, capacity; // zero-initialise; the caller frees items
} TextSpans;

// Bytes of the text from `at` on that stand in the data at `o`.
static inline size_t occurrence_reach_(const TextSearch *s, const Occurrence *o, size_t at) {
    const TraceData *t = &s->data[o->data];
    size_t n, common, most = s->length - at < INDEX_OVERLAP ? s->length - at : INDEX_OVERLAP;
    uint64_t walked;
    const char *text = token_text(s->texts, trace_token(t, o->token), &n);
    for (size_t i = o->offset; i < n; i++) {
        if (i - o->offset == most || text[i] != s->text[at + i - o->offset]) {
            return i - o->offset;
        }
    }
    n -= o->offset;
    text_compare_(s, t, o->token + 1, s->text + at + n, most - n, &common, &walked);
    return n + common;
}

// Where the character after the one at `at` begins.
static inline size_t next_character_(const TextSearch *s, size_t at) {
    at++;
    while (at < s->length && ((unsigned char)s->text[at] & 0xC0) == 0x80) {
        at++;
    }
    return at;
}

// The furthest character's edge up to `at`, but not before `least`.
static inline size_t character_edge_(const TextSearch *s, size_t at, size_t least) {
    while (at > least && at < s->length && ((unsigned char)s->text[at] & 0xC0) == 0x80) {
        at--;
    }
    return at;
}

static inline int span_compare_(const void *first, const void *second) {
    const TextSpan *a = first, *b = second;
    return a->length != b->length ? (a->length < b->length ? 1 : -1)
                                  : (a->first > b->first) - (a->first < b->first);
}

// All spans of complete characters, at least `least` bytes long, that stand in the data and in no
// longer one that does; longest first. None is longer than INDEX_OVERLAP bytes.
static inline bool text_search_spans(TextSearch *s, size_t least, TextSpans *spans, Error *e) {
    size_t end = 0;
    bool ok = true;
    least = least > s->length ? s->length : least > 0 ? least : 1;
    for (size_t at = 0; ok && at < s->length; at = next_character_(s, at)) {
        // The span before ends at `end`, so text[at .. end) stands in the data; this one must go
        // further.
        size_t reached = end > at ? end : at, next = next_character_(s, reached);
        while (next - at < least && next < s->length) {
            next = next_character_(s, next);
        }
        if (next - at < least || reached >= s->length) {
            break;
        }
        size_t start = reached;
        while (ok && next - at <= INDEX_OVERLAP) {
            Occurrences one = {0};
            ok = search_span_(s, at, next - at, true, &one, e);
            bool found = ok && one.count > 0;
            size_t reach = found ? occurrence_reach_(s, &one.items[0], at) : 0;
            free(one.items);
            if (!found) {
                break;
            }
            reach = reach > s->reach[at] ? reach : s->reach[at];
            reached = character_edge_(s, at + reach, next);
            reached = reached > next ? reached : next;
            if (reached >= s->length) {
                break;
            }
            next = next_character_(s, reached);
        }
        if (ok && reached > start) {
            ok = array_reserve(&spans->items, &spans->capacity, spans->count, 1,
                               sizeof *spans->items, e);
            if (ok) {
                spans->items[spans->count++] = (TextSpan){at, reached - at};
                end = reached;
            }
        }
    }
    if (ok && spans->count > 0) {
        qsort(spans->items, spans->count, sizeof *spans->items, span_compare_);
    }
    return ok;
}

static inline int occurrence_compare_(const void *first, const void *second) {
    const Occurrence *a = first, *b = second;
    return a->data != b->data     ? (a->data > b->data) - (a->data < b->data)
           : a->token != b->token ? (a->token > b->token) - (a->token < b->token)
                                  : (a->offset > b->offset) - (a->offset < b->offset);
}

// All places of a span in the order of the data, each proved, and that it cannot be longer on
// either side.
static inline bool text_search_places(TextSearch *s, TextSpan span, Occurrences *found, Error *e) {
    Occurrences longer = {0};
    size_t before = span.first, end = span.first + span.length;
    while (before > 0 && ((unsigned char)s->text[--before] & 0xC0) == 0x80) {
    }
    s->proving = true;
    bool ok = search_span_(s, span.first, span.length, false, found, e);
    if (ok && before < span.first && end - before <= INDEX_OVERLAP) {
        ok = search_span_(s, before, end - before, true, &longer, e);
    }
    if (ok && end < s->length && next_character_(s, end) - span.first <= INDEX_OVERLAP) {
        ok = search_span_(s, span.first, next_character_(s, end) - span.first, true, &longer, e);
    }
    s->proving = false;
    if (ok && (longer.count > 0 || found->count == 0)) {
        ok = fail(e, "%s: was altered: it did not lead to all places of a text",
                  s->data[0].index.path);
    }
    free(longer.items);
    if (ok) {
        qsort(found->items, found->count, sizeof *found->items, occurrence_compare_);
    }
    return ok;
}

// Tokens that a span of `length` bytes touches where it occurs.
static inline uint64_t occurrence_tokens(const TextSearch *s, const Occurrence *o, size_t length) {
    uint64_t tokens = 0;
    size_t covered = 0, n = 1;
    const TraceData *t = &s->data[o->data];
    for (; covered < o->offset + length && n > 0 && o->token + tokens < t->data->tokens;
         tokens++, covered += n) {
        token_text(s->texts, trace_token(t, o->token + tokens), &n);
    }
    return tokens;
}

#endif
