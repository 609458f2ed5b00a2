// origins.h: how many documents and tokens of a source have which origin, license and language, as
// tables of distinct values; their form in manifest.json.
#ifndef SHARDS_ORIGINS_H
#define SHARDS_ORIGINS_H

#include "util/array.h"
#include "util/json.h"

// Documents and tokens of one value.
typedef struct {
    char *value;
    uint64_t documents, tokens;
} OriginEntry;

// The distinct values of one facet. A table is bounded: documents with a value that is too long, or
// new when the table is full, are counted together as `other`, whose value is NULL.
typedef struct {
    OriginEntry *values, other;
    size_t count, capacity;
} OriginFacet;

enum { ORIGIN_SOURCE, ORIGIN_LICENSE, ORIGIN_LANGUAGE, ORIGIN_FACETS };

enum { ORIGIN_LENGTH = 200 }; // the longest value that gets an entry of its own, in bytes

static const char *const origin_names_[ORIGIN_FACETS] = {"source", "license", "language"};

// Adds documents and tokens of one value, or of `other` if it is NULL, to a table of at most
// `limit` values.
static inline bool origin_add(OriginFacet *facet, size_t limit, const char *value, size_t length,
                              uint64_t documents, uint64_t tokens, Error *e) {
    OriginEntry *entry = &facet->other;
    size_t v = 0;
    while (value && v < facet->count &&
           (strncmp(facet->values[v].value, value, length) || facet->values[v].value[length])) {
        v++;
    }
    if (value && length <= ORIGIN_LENGTH && v < limit && !memchr(value, 0, length)) {
        if (v == facet->count) {
            if (!array_reserve(&facet->values, &facet->capacity, v, 1, sizeof *entry, e)) {
                return false;
            }
            facet->values[v] = (OriginEntry){.value = strndup(value, length)};
            if (!facet->values[v].value) {
                return fail(e, "no memory for the origins of documents");
            }
            facet->count++;
        }
        entry = &facet->values[v];
    }
    entry->documents += documents;
    entry->tokens += tokens;
    return true;
}

static inline void origins_free(OriginFacet origin[ORIGIN_FACETS]) {
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        for (size_t v = 0; v < origin[f].count; v++) {
            free(origin[f].values[v].value);
        }
        free(origin[f].values);
        origin[f] = (OriginFacet){0};
    }
}

static inline bool origin_add_entry_(OriginFacet *facet, size_t limit, const OriginEntry *entry,
                                     Error *e) {
    return origin_add(facet, limit, entry->value, entry->value ? strlen(entry->value) : 0,
                      entry->documents, entry->tokens, e);
}

// Adds the tables `from` to the tables `to`, of at most `limit` values each.
static inline bool origins_add(OriginFacet to[ORIGIN_FACETS], size_t limit,
                               const OriginFacet from[ORIGIN_FACETS], Error *e) {
    bool ok = true;
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        for (size_t v = 0; ok && v < from[f].count; v++) {
            ok = origin_add_entry_(&to[f], limit, &from[f].values[v], e);
        }
        ok = ok && origin_add_entry_(&to[f], limit, &from[f].other, e);
    }
    return ok;
}

static inline void origin_put_entry_(JsonWriter *w, const OriginEntry *entry) {
    json_open(w, NULL, '{');
    entry->value ? json_put_string(w, "value", entry->value) : json_put_null(w, "value");
    json_put_uint(w, "documents", entry->documents);
    json_put_uint(w, "tokens", entry->tokens);
    json_close(w, '}');
}

// "origin": {FACET: [{"value": ..., "documents": n, "tokens": n}]}, where the value null stands for
// all values beyond the table.
static inline void origins_put(JsonWriter *w, const OriginFacet origin[ORIGIN_FACETS]) {
    json_open(w, "origin", '{');
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        const OriginFacet *facet = &origin[f];
        if (facet->count == 0 && facet->other.documents == 0) {
            continue;
        }
        json_open(w, origin_names_[f], '[');
        for (size_t v = 0; v < facet->count; v++) {
            origin_put_entry_(w, &facet->values[v]);
        }
        if (facet->other.documents) {
            origin_put_entry_(w, &facet->other);
        }
        json_close(w, ']');
    }
    json_close(w, '}');
}

// Adds what origins_put wrote to tables of at most `limit` values.
static inline bool origins_read(OriginFacet origin[ORIGIN_FACETS], size_t limit, const Json *from,
                                Error *e) {
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        const Json *list = json_get(from, origin_names_[f]);
        for (const Json *node = list ? list->child : NULL; node; node = node->next) {
            const OriginEntry entry = {(char *)json_string(json_get(node, "value")),
                                       json_uint_or(json_get(node, "documents"), 0),
                                       json_uint_or(json_get(node, "tokens"), 0)};
            if (!origin_add_entry_(&origin[f], limit, &entry, e)) {
                return false;
            }
        }
    }
    return true;
}

#endif
