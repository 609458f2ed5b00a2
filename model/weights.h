// weights.h: loads the weights of a Hugging Face model folder, from model.safetensors or from the
// files listed in model.safetensors.index.json; opens the optimizer files of a checkpoint.
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "model/config.h"
#include "model/safetensors.h"
#include "util/array.h"

// The safetensors files of a model or of an optimizer, opened together.
typedef struct {
    Safetensors *files;
    size_t count, capacity;
    const char *base_prefix; // names in the files may be without it
} TensorSet;

// Closes all files.
static inline void tensor_set_close(TensorSet *w) {
    for (size_t i = 0; i < w->count; i++) {
        safetensors_close(&w->files[i]);
    }
    free(w->files);
    *w = (TensorSet){0};
}

// Opens another file of the folder.
static inline bool tensor_set_add_(TensorSet *w, const char *directory, const char *name,
                                   Error *e) {
    char path[PATH_LIMIT];
    if (!array_reserve(&w->files, &w->capacity, w->count, 1, sizeof *w->files, e) ||
        !path_format(path, e, "%s/%s", directory, name) ||
        !safetensors_open(&w->files[w->count], path, e)) {
        return false;
    }
    w->count++;
    return true;
}

// Opens all files listed in the index; every tensor must be in the file given there.
static inline bool weight_files_add_indexed_(TensorSet *w, const char *directory,
                                             const char *index_path, const Json *index, Error *e) {
    const Json *map = json_get(index, "weight_map");
    if (!map || map->kind != JSON_OBJECT || !map->child) {
        return fail(e, "%s: has no weight_map", index_path);
    }
    for (const Json *m = map->child; m; m = m->next) {
        const char *name = json_string(m);
        size_t i = 0;
        if (!name || !*name || strchr(name, '/') || !strcmp(name, "..") ||
            strlen(name) > NAME_MAX) {
            return fail(e, "%s: tensor \"%.80s\" is not mapped to the name of a file beside it",
                        index_path, m->key);
        }
        while (i < w->count && strcmp(strrchr(w->files[i].path, '/') + 1, name)) {
            i++;
        }
        if (i == w->count && !tensor_set_add_(w, directory, name, e)) {
            return false;
        }
        if (!safetensors_find(&w->files[i], m->key)) {
            return fail(e, "%s: tensor \"%.80s\" is not in %s, where the index has it", index_path,
                        m->key, name);
        }
    }
    return true;
}

// Opens the weights of a folder: the single file or all files of the index.
static inline bool weights_open(TensorSet *w, const char *directory, const Family *family,
                                Error *e) {
    char path[PATH_LIMIT];
    JsonDocument index = {0};
    *w = (TensorSet){.base_prefix = family->base_prefix};
    if (!path_format(path, e, "%s/model.safetensors.index.json", directory)) {
        return false;
    }
    bool ok = access(path, F_OK) ? tensor_set_add_(w, directory, "model.safetensors", e)
                                 : json_parse_file(&index, path, 100000000, e) &&
                                       weight_files_add_indexed_(w, directory, path, index.root, e);
    json_free(&index);
    if (!ok) {
        tensor_set_close(w);
    }
    return ok;
}

// Finds a tensor, and the file that contains it, by its full name or without the prefix that files
// of the base model omit. A tensor in two files is an error. Returns NULL with an empty error if
// there is none.
static inline const SafetensorsEntry *tensor_set_find_(const TensorSet *w, const char *name,
                                                       const Safetensors **file, Error *e) {
    const char *prefix = w->base_prefix, *names[2] = {name, name};
    const SafetensorsEntry *found = NULL;
    if (prefix && !strncmp(name, prefix, strlen(prefix))) {
        names[1] = name + strlen(prefix);
    }
    e->text[0] = 0;
    for (int n = 0; n < 2 && !found; n++) {
        for (size_t i = 0; i < w->count; i++) {
            const SafetensorsEntry *entry = safetensors_find(&w->files[i], names[n]);
            if (entry && found) {
                fail(e, "%s: tensor \"%.80s\" is also in another file of the folder",
                     w->files[i].path, entry->name);
                return NULL;
            }
            if (entry) {
                found = entry;
                *file = &w->files[i];
            }
        }
    }
    return found;
}

// Reads elements begin .. end - 1 of a shard.
static inline bool tensor_set_read(const TensorSet *w, const TensorView *view, size_t begin,
                                   size_t end, float *out, Error *e) {
    const Safetensors *file = NULL;
    const SafetensorsEntry *entry = tensor_set_find_(w, view->name, &file, e);
    if (!entry && !e->text[0]) {
        fail(e, "%s: has no tensor \"%s\"", w->files[0].path, view->name);
    }
    return entry && safetensors_read_range(file, entry, view, begin, end, out, e);
}

// lm_head.weight may be stored in addition to the token embedding to which it is tied, but must be
// equal to it.
static inline bool weights_check_tied_(const TensorSet *w, const TensorView *wte, Error *e) {
    const Safetensors *file = NULL;
    const SafetensorsEntry *entry = tensor_set_find_(w, "lm_head.weight", &file, e);
    if (!entry) {
        return e->text[0] == 0;
    }
    TensorView head = *wte;
    head.data = malloc(tensor_elements(wte) * sizeof(float));
    bool ok = head.data || fail(e, "%s: no memory to compare lm_head.weight", file->path);
    ok = ok && safetensors_read(file, entry, &head, e);
    if (ok && memcmp(head.data, wte->data, tensor_elements(wte) * sizeof(float))) {
        ok = fail(e,
                  "%s: lm_head.weight differs from the token embedding, though config.json says "
                  "that they are tied (tie_word_embeddings)",
                  file->path);
    }
    free(head.data);
    return ok;
}

// Loads all views, each a shard of its tensor, from the safetensors files of a Hugging Face folder.
// On ranks that have the token embedding, it is the first view.
static inline bool weights_load(const char *directory, const ModelConfig *c,
                                const TensorView *views, size_t count, Error *e) {
    TensorSet w;
    if (!weights_open(&w, directory, c->family, e)) {
        return false;
    }
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        ok = tensor_set_read(&w, &views[i], 0, tensor_elements(&views[i]), views[i].data, e);
    }
    ok = ok && (!c->tied || !views[0].embedding || weights_check_tied_(&w, &views[0], e));
    tensor_set_close(&w);
    return ok;
}

// Opens all optimizer-NNNNN.safetensors of a checkpoint, at least one.
static inline bool optimizer_open(TensorSet *set, const char *directory, Error *e) {
    *set = (TensorSet){0};
    for (;;) {
        char path[PATH_LIMIT], name[64];
        snprintf(name, sizeof name, "optimizer-%05zu.safetensors", set->count);
        bool ok = path_format(path, e, "%s/%s", directory, name);
        if (ok && set->count > 0 && access(path, F_OK)) {
            return true;
        }
        if (!ok || !tensor_set_add_(set, directory, name, e)) {
            tensor_set_close(set);
            return false;
        }
    }
}

#endif
