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
} METADATA[] = {
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

enum { METADATA_FIELDS = sizeof METADATA / sizeof *METADATA, METADATA_ID = 0 };

// A string or a number in the parsed object; NULL if the field is not stated.
static inline const Json *metadata_find(const Json *object, int field) {
    const Json *places[3] = {object, json_get(object, "meta"), json_get(object, "metadata")};
    const Json *number = NULL;
    for (int i = 0; i < 9; i++) {
        const char *key = METADATA[field].keys[i % 3];
        const Json *found = key ? json_get(places[i / 3], key) : NULL;
        if (found && found->kind == JSON_STRING) {
            return found;
        }
        if (!number && found && found->kind == JSON_NUMBER) {
            number = found;
        }
    }
    return number;
}

// Writes what was found.
static inline void metadata_put(JsonWriter *w, const char *key, const Json *value) {
    if (value->kind == JSON_STRING) {
        json_put_text(w, key, value->text, value->length);
    } else {
        json_put_raw(w, key, value->text, value->length);
    }
}

#endif
