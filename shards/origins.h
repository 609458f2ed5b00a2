// origins.h: how many documents and tokens of a source have which origin, license and language, as
// tables of distinct values; their form in manifest.json.
#ifndef SHARDS_ORIGINS_H
#define SHARDS_ORIGINS_H

#include "util/array.h"
#include "util/json.h"

// Documents and tokens per distinct value of one facet. A table is bounded: documents with a value
// that is too long, or new when the table is full, are counted together as `other`.
typedef struct {
    struct {
        char *value;
        uint64_t documents, tokens;
    } * values;
    size_t count, capacity;
    uint64_t other_documents, other_tokens;
} OriginFacet;

enum { ORIGIN_SOURCE, ORIGIN_LICENSE, ORIGIN_LANGUAGE, ORIGIN_FACETS };

enum { ORIGIN_LENGTH = 200 }; // the longest value that gets an entry of its own, in bytes

static const char *const origin_names_[ORIGIN_FACETS] = {"source", "license", "language"};

// Adds documents and tokens of one value to a table of at most `limit` values.
static inline bool origin_add(OriginFacet *facet, size_t limit, const char *value, size_t length,
                              uint64_t documents, uint64_t tokens, Error *e) {
    size_t v = 0;
    while (v < facet->count &&
           (strncmp(facet->values[v].value, value, length) || facet->values[v].value[length])) {
        v++;
    }
    if (length > ORIGIN_LENGTH || v == limit || memchr(value, 0, length)) {
        facet->other_documents += documents;
        facet->other_tokens += tokens;
        return true;
    }

    if (v == facet->count) {
        if (!array_reserve(&facet->values, &facet->capacity, facet->count, 1, sizeof *facet->values,
                           e)) {
            return false;
        }
        facet->values[v].value = strndup(value, length);
        facet->values[v].documents = facet->values[v].tokens = 0;
        if (!facet->values[v].value) {
            return fail(e, "no memory for the origins of documents");
        }
        facet->count++;
    }
    facet->values[v].documents += documents;
    facet->values[v].tokens += tokens;
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

// Adds the tables `from` to the tables `to`, of at most `limit` values each.
static inline bool origins_add(OriginFacet to[ORIGIN_FACETS], size_t limit,
                               const OriginFacet from[ORIGIN_FACETS], Error *e) {
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        for (size_t v = 0; v < from[f].count; v++) {
            const char *value = from[f].values[v].value;
            if (!origin_add(&to[f], limit, value, strlen(value), from[f].values[v].documents,
                            from[f].values[v].tokens, e)) {
                return false;
            }
        }
        to[f].other_documents += from[f].other_documents;
        to[f].other_tokens += from[f].other_tokens;
    }
    return true;
}

static inline void origin_put_entry_(JsonWriter *w, const char *value, uint64_t documents,
                                     uint64_t tokens) {
    json_open(w, NULL, '{');
    value ? json_put_string(w, "value", value) : json_put_null(w, "value");
    json_put_uint(w, "documents", documents);
    json_put_uint(w, "tokens", tokens);
    json_close(w, '}');
}

// "origin": {FACET: [{"value": ..., "documents": n, "tokens": n}]}, where the value null stands for
// all values beyond the table.
static inline void origins_put(JsonWriter *w, const OriginFacet origin[ORIGIN_FACETS]) {
    json_open(w, "origin", '{');
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        const OriginFacet *facet = &origin[f];
        if (facet->count == 0 && facet->other_documents == 0) {
            continue;
        }
        json_open(w, origin_names_[f], '[');
        for (size_t v = 0; v < facet->count; v++) {
            origin_put_entry_(w, facet->values[v].value, facet->values[v].documents,
                              facet->values[v].tokens);
        }
        if (facet->other_documents) {
            origin_put_entry_(w, NULL, facet->other_documents, facet->other_tokens);
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
        for (const Json *entry = list ? list->child : NULL; entry; entry = entry->next) {
            const char *value = json_string(json_get(entry, "value"));
            uint64_t documents = 0, tokens = 0;
            json_uint(json_get(entry, "documents"), &documents);
            json_uint(json_get(entry, "tokens"), &tokens);
            if (!value) {
                origin[f].other_documents += documents;
                origin[f].other_tokens += tokens;
            } else if (!origin_add(&origin[f], limit, value, strlen(value), documents, tokens, e)) {
                return false;
            }
        }
    }
    return true;
}

#endif
