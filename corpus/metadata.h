// metadata.h: what a JSON Lines object says of its document besides the text.
#ifndef CORPUS_METADATA_H
#define CORPUS_METADATA_H

#include "shards/origins.h"
#include "util/json.h"

// The metadata that is kept of a document, with the keys under which corpora have it (Dolma,
// FineWeb, llm-jp-corpus, mC4, Wikipedia, the Pile, the Stack). They are looked for in the object,
// then in its "meta", then in its "metadata"; the first string wins, else the first number.
static const struct {
    const char *name, *keys[3];
    int facet; // of the document's origin, which counts its strings; or -1
} metadata_fields_[] = {
    {"id", {"id", "hexsha"}, -1},
    {"source", {"source", "package", "pile_set_name"}, ORIGIN_SOURCE},
    {"url", {"url"}, -1},
    {"license", {"license", "licence"}, ORIGIN_LICENSE},
    {"created", {"created"}, -1},
    {"added", {"added"}, -1},
    {"date", {"date"}, -1},
    {"timestamp", {"timestamp"}, -1},
    {"language", {"language", "lang"}, ORIGIN_LANGUAGE},
    {"title", {"title"}, -1},
    {"dump", {"dump"}, -1},
    {"file_path", {"file_path"}, -1},
};

enum { METADATA_FIELDS = sizeof metadata_fields_ / sizeof *metadata_fields_, METADATA_ID = 0 };

// A string or a number per field, in the parsed object; NULL: not stated.
typedef struct {
    const Json *fields[METADATA_FIELDS];
    const Json *facets[ORIGIN_FACETS]; // the strings that say where the document comes from
} Metadata;

static inline const Json *metadata_find_field_(const Json *object, int field) {
    const Json *places[3] = {object, json_get(object, "meta"), json_get(object, "metadata")};
    const Json *number = NULL;
    for (int i = 0; i < 9; i++) {
        const char *key = metadata_fields_[field].keys[i % 3];
        const Json *found = key && places[i / 3] ? json_get(places[i / 3], key) : NULL;
        if (found && found->kind == JSON_STRING) {
            return found;
        }
        if (!number && found && found->kind == JSON_NUMBER) {
            number = found;
        }
    }
    return number;
}

static inline Metadata metadata_find(const Json *object) {
    Metadata m = {{NULL}, {NULL}};
    for (int f = 0; f < METADATA_FIELDS; f++) {
        const Json *value = metadata_find_field_(object, f);
        int facet = metadata_fields_[f].facet;
        m.fields[f] = value;
        if (facet >= 0 && value && value->kind == JSON_STRING) {
            m.facets[facet] = value;
        }
    }
    return m;
}

static inline void metadata_put_value(JsonWriter *w, const char *key, const Json *value) {
    if (value->kind == JSON_STRING) {
        json_put_text(w, key, value->text, value->length);
    } else {
        json_put_raw(w, key, value->text, value->length);
    }
}

// Writes the object that goes into SPLIT.meta; nothing if no field is known.
static inline void metadata_put(JsonWriter *w, const Metadata *m) {
    bool any = false;
    for (int f = 0; f < METADATA_FIELDS; f++) {
        if (!m->fields[f]) {
            continue;
        }
        if (!any) {
            json_open(w, NULL, '{');
        }
        any = true;
        metadata_put_value(w, metadata_fields_[f].name, m->fields[f]);
    }
    if (any) {
        json_close(w, '}');
    }
}

#endif
