// search.h: the longest matches of a text in the data, byte for byte.
//
// A span begins in the data at a token, or r bytes before the end of one: then its bytes from r on
// begin at a token, so they are found in the index, and what goes before must be a token that ends
// with its first r bytes. Or it lies within a single token. Bisection reads unverified bytes; what
// it finds is verified afterwards: the entries on both sides of a bound, and the text they refer
// to, alone decide whether the bound is right.
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
    bool verifying;
    const char *text; // what is looked for
    size_t length;
    size_t *reach; // (length) bytes of the longest span from here on that begins at a token
} TextSearch;

// The span begins at byte `offset` of token `token` of dataset `data`.
typedef struct {
    size_t data;
    uint64_t token;
    size_t offset;
} Occurrence;

typedef struct {
    Occurrence *items;
    size_t count, capacity; // zero-initialize; the caller frees items
    bool first_only;        // the search stops at the first
} Occurrences;

// Id of a token, as the file has it.
static inline uint64_t trace_token(const TraceData *t, uint64_t token) {
    const unsigned char *at =
        t->bin.data + t->data->first_byte + token * (uint64_t)t->data->token_bytes;
    return t->data->token_bytes == 2 ? load_le(at, 2) : load_le(at, t->data->token_bytes);
}

// Verifies the ids of `count` tokens from `first` on.
static inline bool trace_verify_tokens(TraceData *t, uint64_t first, uint64_t count, Error *e) {
    return proof_check(&t->bin, t->data->first_byte + first * (uint64_t)t->data->token_bytes,
                       count * (uint64_t)t->data->token_bytes, e);
}

// The text of a token of the data.
static inline const char *token_text_at_(const TextSearch *s, const TraceData *t, uint64_t token,
                                         size_t *length) {
    return token_text(s->texts, trace_token(t, token), length);
}

// ------------------------------------------------------------------------------------------------
// The index

typedef struct {
    int order;       // below 0: the text comes before the span; 0: it begins with all of the span
    size_t common;   // bytes that are equal
    uint64_t tokens; // that were looked at
} Comparison_;

// Compares the text from a token on with `span`.
static inline Comparison_ text_compare_(const TextSearch *s, const TraceData *t, uint64_t token,
                                        const char *span, size_t length) {
    Comparison_ c = {0};
    while (c.common < length) {
        size_t n = 0;
        const char *text = "";
        if (token < t->data->tokens) {
            c.tokens++;
            text = token_text_at_(s, t, token++, &n);
        }
        if (n == 0) { // the text ends here
            c.order = -1;
            return c;
        }
        for (size_t i = 0; i < n && c.common < length; i++, c.common++) {
            if (text[i] != span[c.common]) {
                c.order = (unsigned char)text[i] < (unsigned char)span[c.common] ? -1 : 1;
                return c;
            }
        }
    }
    return c;
}

// A span that is looked up in a block of an index.
typedef struct {
    const TextSearch *search;
    TraceData *data;
    uint64_t block;
    const char *span;
    size_t length;
} IndexQuery_;

// Token of an entry of the index, of all blocks counted; in its block, whatever the file says.
static inline uint64_t entry_token_(const IndexQuery_ *q, uint64_t entry) {
    const IndexTable *table = &q->data->table;
    const uint64_t *edges = table->first_token + q->block;
    uint64_t relative =
        load_le(q->data->index.data + INDEX_HEADER + 16 * table->blocks + 4 * entry, 4);
    return edges[0] + (relative < edges[1] - edges[0] ? relative : 0);
}

static inline Comparison_ entry_compare_(const IndexQuery_ *q, uint64_t entry) {
    return text_compare_(q->search, q->data, entry_token_(q, entry), q->span, q->length);
}

static inline bool entry_before_(const void *query, size_t entry) {
    return entry_compare_(query, entry).order < 0;
}

static inline bool entry_not_behind_(const void *query, size_t entry) {
    return entry_compare_(query, entry).order <= 0;
}

// First entry of the block whose text is not before the span, if the index is in order.
static inline uint64_t index_first_(const IndexQuery_ *q) {
    const uint64_t *edges = q->data->table.first_entry + q->block;
    return bisect(edges[0], edges[1], entry_before_, q);
}

// The entries of the block whose text begins with the span are *first .. *end - 1, if the index is
// in order.
static inline void index_bounds_(const IndexQuery_ *q, uint64_t *first, uint64_t *end) {
    *first = index_first_(q);
    *end = bisect(*first, q->data->table.first_entry[q->block + 1], entry_not_behind_, q);
}

// Whether the block has this entry.
static inline bool index_has_(const IndexQuery_ *q, uint64_t entry) {
    const uint64_t *edges = q->data->table.first_entry + q->block;
    return entry >= edges[0] && entry < edges[1];
}

// Verifies that the text of an entry comes before, begins with, or comes after the span (order -1,
// 0, 1).
static inline bool entry_verify_(const IndexQuery_ *q, uint64_t entry, int order, Error *e) {
    TraceData *t = q->data;
    if (!index_has_(q, entry)) {
        return true; // there is none: the block's edge is the bound
    }
    return proof_check(&t->index, INDEX_HEADER + 16 * t->table.blocks + 4 * entry, 4, e) &&
           trace_verify_tokens(t, entry_token_(q, entry), entry_compare_(q, entry).tokens, e) &&
           (entry_compare_(q, entry).order == order ||
            fail(e, "%s: was altered: it is not in the order of the text of %s", t->index.path,
                 t->bin.path));
}

// Verifies that the bounds are right.
static inline bool index_verify_(const IndexQuery_ *q, uint64_t first, uint64_t end, Error *e) {
    return entry_verify_(q, first - 1, -1, e) &&
           (first == end || (entry_verify_(q, first, 0, e) && entry_verify_(q, end - 1, 0, e))) &&
           entry_verify_(q, end, 1, e);
}

// Bytes of the longest start of the span that begins at a token of the block.
static inline size_t index_reach_(const IndexQuery_ *q) {
    uint64_t first = index_first_(q);
    size_t best = 0;
    for (uint64_t entry = first > 0 ? first - 1 : 0; entry <= first; entry++) {
        if (index_has_(q, entry)) {
            size_t common = entry_compare_(q, entry).common;
            best = common > best ? common : best;
        }
    }
    return best;
}

// ------------------------------------------------------------------------------------------------
// Tokens by their text

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
        order = longer > n ? 1 : order_u64((uint64_t)a, (uint64_t)b);
    }
    return order;
}

static inline int by_length_compare_(const void *first, const void *second, void *search) {
    const TextSearch *s = search;
    const int32_t a = *(const int32_t *)first, b = *(const int32_t *)second;
    size_t m, n;
    token_text(s->texts, (uint64_t)a, &m);
    token_text(s->texts, (uint64_t)b, &n);
    return m != n ? order_u64(n, m) : order_u64((uint64_t)a, (uint64_t)b);
}

typedef struct {
    const TextSearch *search;
    const char *end;
    size_t length;
} EndQuery_;

static inline int end_order_(const EndQuery_ *q, size_t i) {
    return end_compare_(q->search, q->search->by_end[i], q->end, q->length);
}

static inline bool end_before_(const void *query, size_t i) {
    return end_order_(query, i) < 0;
}

static inline bool end_not_behind_(const void *query, size_t i) {
    return end_order_(query, i) <= 0;
}

// The tokens by_end[*first .. *last) end with `end`.
static inline void tokens_ending_(const TextSearch *s, const char *end, size_t length,
                                  size_t *first, size_t *last) {
    const EndQuery_ query = {s, end, length};
    *first = bisect(0, s->tokens, end_before_, &query);
    *last = bisect(*first, s->tokens, end_not_behind_, &query);
}

// ------------------------------------------------------------------------------------------------
// Occurrences of a span

static inline bool occurrence_add_(Occurrences *found, Occurrence o, Error *e) {
    return array_append(&found->items, &found->capacity, &found->count, &o, sizeof o, e);
}

// Whether the search has found all that it should.
static inline bool found_enough_(const Occurrences *found) {
    return found->first_only && found->count > 0;
}

// Adds the occurrences of `span` that begin at a token with the id `only` (-1: any), as `offset`
// bytes into that token.
static inline bool search_aligned_(TextSearch *s, const char *span, size_t length, int32_t only,
                                   size_t offset, Occurrences *found, Error *e) {
    for (size_t i = 0; i < s->count; i++) {
        for (uint64_t b = 0; b < s->data[i].table.blocks; b++) {
            const IndexQuery_ query = {s, &s->data[i], b, span, length};
            uint64_t first, end;
            index_bounds_(&query, &first, &end);
            if (s->verifying && !index_verify_(&query, first, end, e)) {
                return false;
            }
            for (uint64_t entry = first; entry < end; entry++) {
                uint64_t token = entry_token_(&query, entry);
                if (s->verifying && !entry_verify_(&query, entry, 0, e)) {
                    return false;
                }
                if (only >= 0 && trace_token(&s->data[i], token) != (uint64_t)only) {
                    continue;
                }
                if (!occurrence_add_(found, (Occurrence){i, token, offset}, e)) {
                    return false;
                }
                if (found->first_only) {
                    return true;
                }
            }
        }
    }
    return true;
}

// Adds the occurrences where a token ends with the first r bytes of the span, is longer than them,
// and the rest follows: by looking at the token before each occurrence of the rest.
static inline bool search_before_rest_(TextSearch *s, const char *span, size_t length, size_t r,
                                       Occurrences *found, Error *e) {
    Occurrences rests = {0};
    bool ok = search_aligned_(s, span + r, length - r, -1, 0, &rests, e);
    for (size_t k = 0; ok && k < rests.count && !found_enough_(found); k++) {
        Occurrence rest = rests.items[k];
        TraceData *t = &s->data[rest.data];
        size_t n;
        if (rest.token == 0) {
            continue;
        }
        ok = !s->verifying || trace_verify_tokens(t, rest.token - 1, 1, e);
        const char *text = token_text_at_(s, t, rest.token - 1, &n);
        if (ok && n > r && !memcmp(text + n - r, span, r)) {
            ok = occurrence_add_(found, (Occurrence){rest.data, rest.token - 1, n - r}, e);
        }
    }
    free(rests.items);
    return ok;
}

// The same, by looking for each such token, by_end[first .. last), followed by the rest.
static inline bool search_tokens_before_(TextSearch *s, const char *span, size_t length, size_t r,
                                         size_t first, size_t last, Occurrences *found, Error *e) {
    char *joined = malloc(s->texts->longest + length);
    bool ok = joined || fail(e, "no memory for a text of %zu bytes", length);
    for (size_t k = first; ok && k < last && !found_enough_(found); k++) {
        size_t n;
        const char *text = token_text(s->texts, (uint64_t)s->by_end[k], &n);
        if (n > r) {
            memcpy(joined, text, n);
            memcpy(joined + n, span + r, length - r);
            ok = search_aligned_(s, joined, n + length - r, s->by_end[k], n - r, found, e);
        }
    }
    free(joined);
    return ok;
}

// Adds the occurrences that begin r > 0 bytes before the end of a token.
static inline bool search_across_(TextSearch *s, const char *span, size_t length, size_t r,
                                  Occurrences *found, Error *e) {
    uint64_t most = 0, rests = 0;
    size_t first, last;
    tokens_ending_(s, span, r, &first, &last);
    if (first == last) {
        return true;
    }

    // Looking at the token before each of many rests costs more than finding a few tokens that the
    // rest follows.
    for (size_t i = 0; i < s->count; i++) {
        for (uint64_t b = 0; b < s->data[i].table.blocks; b++) {
            uint64_t begin, end;
            index_bounds_(&(IndexQuery_){s, &s->data[i], b, span + r, length - r}, &begin, &end);
            rests += end - begin;
            most += 16 * (uint64_t)(last - first);
        }
    }
    return rests <= most ? search_before_rest_(s, span, length, r, found, e)
                         : search_tokens_before_(s, span, length, r, first, last, found, e);
}

// Adds the occurrences within one token but not at its start.
static inline bool search_inside_(TextSearch *s, const char *span, size_t length,
                                  Occurrences *found, Error *e) {
    bool ok = true;
    for (size_t k = 0; ok && k < s->tokens && !found_enough_(found); k++) {
        size_t n;
        const char *text = token_text(s->texts, (uint64_t)s->by_length[k], &n);
        if (n <= length) {
            break;
        }
        for (size_t offset = 1; ok && offset + length <= n; offset++) {
            if (!memcmp(text + offset, span, length)) {
                ok = search_aligned_(s, text, n, s->by_length[k], offset, found, e);
            }
        }
    }
    return ok;
}

// Adds the occurrences of `length` > 0 bytes of the text from `at` on. s->verifying verifies each
// of them, and that there are no others.
static inline bool search_span_(TextSearch *s, size_t at, size_t length, Occurrences *found,
                                Error *e) {
    const char *span = s->text + at;
    for (size_t r = 0; r < length && r < s->texts->longest && !found_enough_(found); r++) {
        if (!s->verifying && s->reach[at + r] < length - r) {
            continue;
        }
        if (!(r == 0 ? search_aligned_(s, span, length, -1, 0, found, e)
                     : search_across_(s, span, length, r, found, e))) {
            return false;
        }
    }
    return found_enough_(found) || search_inside_(s, span, length, found, e);
}

// ------------------------------------------------------------------------------------------------
// The search

static inline void text_search_close(TextSearch *s) {
    free(s->by_end);
    free(s->by_length);
    free(s->reach);
    *s = (TextSearch){0};
}

// Bytes from `at` on that a span may have.
static inline size_t span_limit_(const TextSearch *s, size_t at) {
    return min_u64(s->length - at, INDEX_OVERLAP);
}

// Sets by_end and by_length.
static inline void text_search_sort_(TextSearch *s) {
    for (size_t id = 0; id < s->texts->vocab_size; id++) {
        size_t n;
        token_text(s->texts, id, &n);
        if (n > 0) {
            s->by_end[s->tokens] = s->by_length[s->tokens] = (int32_t)id;
            s->tokens++;
        }
    }
    qsort_r(s->by_end, s->tokens, sizeof *s->by_end, by_end_compare_, s);
    qsort_r(s->by_length, s->tokens, sizeof *s->by_length, by_length_compare_, s);
}

// Gets ready to look for `length` bytes of UTF-8 in `count` datasets, all with an index and of one
// tokenizer, whose texts these are.
static inline bool text_search_open(TextSearch *s, TraceData *data, size_t count,
                                    const TokenTexts *texts, const char *text, size_t length,
                                    Error *e) {
    *s = (TextSearch){.data = data, .count = count, .texts = texts, .text = text, .length = length};
    s->by_end = malloc(texts->vocab_size * sizeof *s->by_end);
    s->by_length = malloc(texts->vocab_size * sizeof *s->by_length);
    s->reach = calloc(length + 1, sizeof *s->reach);
    if (!s->by_end || !s->by_length || !s->reach) {
        return fail(e, "no memory to look for a text of %zu bytes", length);
    }
    for (size_t i = 0; i < count; i++) {
        if (!data[i].index.path[0]) {
            return fail(e, "%s: has no index to look text up in: make one with prepare --index 1",
                        data[i].path);
        }
    }

    text_search_sort_(s);
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t at = 0; at < length; at++) {
        for (size_t i = 0; i < count; i++) {
            for (uint64_t b = 0; b < data[i].table.blocks; b++) {
                size_t reach =
                    index_reach_(&(IndexQuery_){s, &data[i], b, text + at, span_limit_(s, at)});
                s->reach[at] = reach > s->reach[at] ? reach : s->reach[at];
            }
        }
    }
    return true;
}

typedef struct {
    size_t first, length; // bytes of the text
} TextSpan;

typedef struct {
    TextSpan *items;
    size_t count, capacity; // zero-initialize; the caller frees items
} TextSpans;

// Bytes of the text from `at` on that are in the data at `o`.
static inline size_t occurrence_reach_(const TextSearch *s, const Occurrence *o, size_t at) {
    const TraceData *t = &s->data[o->data];
    size_t n, most = span_limit_(s, at);
    const char *text = token_text_at_(s, t, o->token, &n);
    for (size_t i = o->offset; i < n; i++) {
        if (i - o->offset == most || text[i] != s->text[at + i - o->offset]) {
            return i - o->offset;
        }
    }
    n -= o->offset;
    return n + text_compare_(s, t, o->token + 1, s->text + at + n, most - n).common;
}

// The end of the character that begins at `at`.
static inline size_t character_end_(const TextSearch *s, size_t at) {
    return at + lead_byte_length(s->text + at, s->length - at);
}

// text[at .. *reached) is in the data: extends it as far as the data goes. Spans of less than
// `least` bytes are not looked for.
static inline bool span_extend_(TextSearch *s, size_t at, size_t least, size_t *reached, Error *e) {
    size_t wanted = at + least;
    while (*reached < s->length) {
        size_t next = character_end_(s, *reached);
        while (next < wanted) {
            next = character_end_(s, next);
        }
        if (next - at > INDEX_OVERLAP) {
            return true;
        }

        Occurrences found = {.first_only = true};
        bool ok = search_span_(s, at, next - at, &found, e);
        size_t edge = ok && found.count > 0 ? at + occurrence_reach_(s, found.items, at) : 0;
        free(found.items);
        if (edge == 0) {
            return ok;
        }

        // Up to a character's edge.
        edge = edge > at + s->reach[at] ? edge : at + s->reach[at];
        edge = edge < s->length ? character_before(s->text, edge + 1) : edge;
        *reached = edge > next ? edge : next;
    }
    return true;
}

static inline int span_compare_(const void *first, const void *second) {
    const TextSpan *a = first, *b = second;
    return a->length != b->length ? order_u64(b->length, a->length) : order_u64(a->first, b->first);
}

// All spans of complete characters, at least `least` bytes long, that are in the data and in no
// longer one that is; longest first. None is longer than INDEX_OVERLAP bytes.
static inline bool text_search_spans(TextSearch *s, size_t least, TextSpans *spans, Error *e) {
    size_t end = 0; // of the span before: this one must go further
    least = least > s->length ? s->length : least > 0 ? least : 1;
    for (size_t at = 0; end < s->length && s->length - at >= least; at = character_end_(s, at)) {
        size_t begun = end > at ? end : at, reached = begun;
        if (!span_extend_(s, at, least, &reached, e)) {
            return false;
        }
        if (reached > begun) {
            const TextSpan span = {at, reached - at};
            if (!array_append(&spans->items, &spans->capacity, &spans->count, &span, sizeof span,
                              e)) {
                return false;
            }
            end = reached;
        }
    }
    if (spans->count > 0) {
        qsort(spans->items, spans->count, sizeof *spans->items, span_compare_);
    }
    return true;
}

static inline int occurrence_compare_(const void *first, const void *second) {
    const Occurrence *a = first, *b = second;
    return a->data != b->data     ? order_u64(a->data, b->data)
           : a->token != b->token ? order_u64(a->token, b->token)
                                  : order_u64(a->offset, b->offset);
}

// All occurrences of a span in the order of the data, each verified, and that the span cannot be
// longer on either side.
static inline bool text_search_occurrences(TextSearch *s, TextSpan span, Occurrences *found,
                                           Error *e) {
    Occurrences longer = {.first_only = true};
    size_t end = span.first + span.length;
    size_t before = span.first > 0 ? character_before(s->text, span.first) : 0;
    size_t after = end < s->length ? character_end_(s, end) : end;
    s->verifying = true;
    bool ok = search_span_(s, span.first, span.length, found, e);
    if (ok && before < span.first && end - before <= INDEX_OVERLAP) {
        ok = search_span_(s, before, end - before, &longer, e);
    }
    if (ok && after > end && after - span.first <= INDEX_OVERLAP) {
        ok = search_span_(s, span.first, after - span.first, &longer, e);
    }
    s->verifying = false;
    if (ok && (longer.count > 0 || found->count == 0)) {
        ok = fail(e, "%s: was altered: it did not lead to all occurrences of a text",
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
        token_text_at_(s, t, o->token + tokens, &n);
    }
    return tokens;
}

#endif
