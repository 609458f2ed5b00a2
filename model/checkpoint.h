// checkpoint.h: models on disk. safetensors files, Hugging Face GPT-2 directories, and checkpoints:
// such a directory plus what training needs to go on, written so that it appears under its name
// only when it is whole and on disk.
//
//   OUT/step-000300/
//       config.json generation_config.json model.safetensors      what transformers opens
//       tokenizer.json tokenizer_config.json, and vocab.json merges.txt or tokenizer.model
//       README.md                                                 model card
//       trainer_state.json optimizer-00000.safetensors            what resuming needs
//       SHA256SUMS                                                over all the others; `sha256sum
//       -c` checks it too
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataloader.h"
#include "util/json.h"

// A named array in memory: a tensor of a model, 1- or 2-dimensional, float, or the part of it that
// a rank holds. Of dimension d the part has the shape[d] indices from first[d] on; in the last
// dimension, where the whole is `groups` ranges of the same length, it has that in each: whole /
// groups * g + first + (0 .. shape / groups - 1).
typedef struct {
    char name[80];
    float *data;
    size_t shape[2]; // of the part
    int dims;
    size_t whole[2], first[2], groups;
    bool embedding; // the tied embedding and output head, which two pipeline stages hold
} TensorView;

static inline size_t tensor_elements(const TensorView *t) {
    return t->shape[0] * (t->dims == 2 ? t->shape[1] : 1);
}

static inline size_t tensor_whole_elements(const TensorView *t) {
    return t->whole[0] * (t->dims == 2 ? t->whole[1] : 1);
}

// How many elements of the part, from number `i` on, lie side by side in the whole tensor too; *at
// is where there.
static inline size_t tensor_run(const TensorView *t, size_t i, size_t *at) {
    int d = t->dims - 1;
    size_t columns = t->shape[d], row = i / columns, column = i % columns,
           width = columns / t->groups;
    *at = ((d ? t->first[0] : 0) + row) * t->whole[d] + column / width * (t->whole[d] / t->groups) +
          t->first[d] + column % width;
    return columns == t->whole[d] ? tensor_elements(t) - i : width - column % width;
}

// ------------------------------------------------------------------------------------------------
// safetensors: u64 header length, JSON header, tensor bytes (reference: huggingface/safetensors,
// "Format")

typedef struct {
    const char *name;
    const char *dtype;
    const Json *shape;
    uint64_t begin, end; // bytes, from the start of the data
} SafetensorsEntry;

typedef struct {
    char *path;
    int fd;
    uint64_t data_start;
    JsonDocument header;
    SafetensorsEntry *entries;
    size_t count;
} Safetensors;

static inline void safetensors_close(Safetensors *s) {
    if (s->path) {
        close(s->fd);
    }
    free(s->path);
    free(s->entries);
    json_free(&s->header);
    *s = (Safetensors){0};
}

static inline unsigned safetensors_dtype_bits_(const char *dtype) {
    static const struct {
        const char *name;
        unsigned bits;
    } known[] = {{"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},
                 {"U8", 8},          {"I8", 8},      {"I16", 16},    {"U16", 16},
                 {"F16", 16},        {"BF16", 16},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
                 {"I32", 32},        {"U32", 32},    {"F32", 32},    {"F8_E4M3FNUZ", 8},
                 {"F8_E5M2FNUZ", 8}, {"F8_E8M0", 8}, {"C64", 64},    {"F64", 64},
                 {"I64", 64},        {"U64", 64}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!strcmp(dtype, known[i].name)) {
            return known[i].bits;
        }
    }
    return 0;
}

static inline bool safetensors_metadata_ok_(const Json *metadata) {
    if (metadata->kind != JSON_OBJECT) {
        return false;
    }
    for (const Json *m = metadata->child; m; m = m->next) {
        if (m->kind != JSON_STRING) {
            return false;
        }
    }
    return true;
}

// One tensor of the header: dtype, shape and data_offsets present and in agreement.
static inline bool safetensors_entry_(const char *path, const Json *node, SafetensorsEntry *entry,
                                      Error *e) {
    const Json *offsets = json_get(node, "data_offsets");
    uint64_t bits;
    *entry = (SafetensorsEntry){.name = node->key, .dtype = json_string(json_get(node, "dtype"))};
    entry->shape = json_get(node, "shape");
    if (strlen(node->key) != node->key_length || !entry->dtype || !entry->shape ||
        entry->shape->kind != JSON_ARRAY || !offsets || offsets->kind != JSON_ARRAY ||
        offsets->length != 2 || !json_uint(offsets->child, &entry->begin) ||
        !json_uint(offsets->child->next, &entry->end) || entry->begin > entry->end) {
        return fail(
            e, "%s: tensor \"%.80s\" of the header lacks a proper dtype, shape or data_offsets",
            path, node->key);
    }
    bits = safetensors_dtype_bits_(entry->dtype);
    if (bits == 0) {
        return fail(e, "%s: tensor \"%.80s\" has the unknown dtype \"%.20s\"", path, node->key,
                    entry->dtype);
    }
    for (const Json *d = entry->shape->child; d; d = d->next) {
        uint64_t dimension;
        if (!json_uint(d, &dimension) || __builtin_mul_overflow(bits, dimension, &bits)) {
            return fail(e, "%s: tensor \"%.80s\" has an impossible shape", path, node->key);
        }
    }
    if (bits % 8 != 0 || bits / 8 != entry->end - entry->begin) {
        return fail(
            e, "%s: tensor \"%.80s\" takes %llu bytes by its shape but %llu by its data_offsets",
            path, node->key, (unsigned long long)(bits / 8),
            (unsigned long long)(entry->end - entry->begin));
    }
    return true;
}

static inline int safetensors_by_offset_(const void *a, const void *b) {
    const SafetensorsEntry *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return (x->end > y->end) - (x->end < y->end);
}

static inline int safetensors_by_name_(const void *a, const void *b) {
    return strcmp(((const SafetensorsEntry *)a)->name, ((const SafetensorsEntry *)b)->name);
}

// The entries must tile the data exactly and have different names.
static inline bool safetensors_layout_(Safetensors *s, uint64_t data_bytes, Error *e) {
    uint64_t expected = 0;
    qsort(s->entries, s->count, sizeof *s->entries, safetensors_by_offset_);
    for (size_t i = 0; i < s->count; i++) {
        if (s->entries[i].begin != expected) {
            return fail(
                e, "%s: tensor \"%.80s\" begins at byte %llu of the data where %llu was expected",
                s->path, s->entries[i].name, (unsigned long long)s->entries[i].begin,
                (unsigned long long)expected);
        }
        expected = s->entries[i].end;
    }
    if (expected != data_bytes) {
        return fail(
            e,
            "%s: holds %llu bytes of tensors but its header describes %llu: truncated or altered",
            s->path, (unsigned long long)data_bytes, (unsigned long long)expected);
    }
    qsort(s->entries, s->count, sizeof *s->entries, safetensors_by_name_);
    for (size_t i = 1; i < s->count; i++) {
        if (!strcmp(s->entries[i - 1].name, s->entries[i].name)) {
            return fail(e, "%s: tensor \"%.80s\" occurs twice", s->path, s->entries[i].name);
        }
    }
    return true;
}

static inline bool safetensors_read_header_(Safetensors *s, Error *e) {
    struct stat status;
    unsigned char prefix[8];
    if (fstat(s->fd, &status) || !S_ISREG(status.st_mode)) {
        return fail(e, "%s: is not a regular file", s->path);
    }
    uint64_t size = (uint64_t)status.st_size;
    if (size < 8) {
        return fail(e, "%s: has %llu bytes, too short for a safetensors file", s->path,
                    (unsigned long long)size);
    }
    if (!read_at(s->fd, s->path, prefix, 8, 0, e)) {
        return false;
    }
    uint64_t header_bytes = load_le(prefix, 8);
    if (header_bytes > 100000000 || header_bytes > size - 8) {
        return fail(
            e, "%s: claims a header of %llu bytes in a file of %llu: not safetensors, or truncated",
            s->path, (unsigned long long)header_bytes, (unsigned long long)size);
    }
    char *text = malloc(header_bytes + 1);
    bool ok = text || fail(e, "%s: no memory for its header of %llu bytes", s->path,
                           (unsigned long long)header_bytes);
    ok = ok && read_at(s->fd, s->path, text, header_bytes, 8, e);
    ok = ok && ((header_bytes > 0 && text[0] == '{') ||
                fail(e, "%s: its header does not begin with '{'", s->path));
    ok = ok && json_parse(&s->header, text, header_bytes, s->path, e);
    free(text);
    if (!ok) {
        return false;
    }
    s->data_start = 8 + header_bytes;
    s->entries = calloc(s->header.root->length + 1, sizeof *s->entries);
    if (!s->entries) {
        return fail(e, "%s: no memory for its %zu tensors", s->path, s->header.root->length);
    }
    for (const Json *m = s->header.root->child; m; m = m->next) {
        if (!strcmp(m->key, "__metadata__")) {
            if (!safetensors_metadata_ok_(m)) {
                return fail(e, "%s: __metadata__ of the header is not a map of strings", s->path);
            }
        } else if (!safetensors_entry_(s->path, m, &s->entries[s->count++], e)) {
            return false;
        }
    }
    return safetensors_layout_(s, size - s->data_start, e);
}

// Opens and checks a file; afterwards every entry lies inside it. On failure there is nothing to
// close.
static inline bool safetensors_open(Safetensors *s, const char *path, Error *e) {
    *s = (Safetensors){.fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (s->fd < 0) {
        return fail(e, "%s: cannot be opened: %s", path, strerror(errno));
    }
    s->path = strdup(path);
    if (!s->path) {
        close(s->fd);
        return fail(e, "%s: no memory", path);
    }
    if (!safetensors_read_header_(s, e)) {
        safetensors_close(s);
        return false;
    }
    return true;
}

static inline const SafetensorsEntry *safetensors_find(const Safetensors *s, const char *name) {
    SafetensorsEntry key = {.name = name};
    return bsearch(&key, s->entries, s->count, sizeof key, safetensors_by_name_);
}

// IEEE binary16 to float: exact.
static inline float half_to_float(uint16_t h) {
    uint32_t exponent = h >> 10 & 31, fraction = h & 1023, bits;
    float value;
    if (exponent == 0) {
        value = (float)fraction * 0x1p-24f;
        return h >> 15 ? -value : value;
    }
    bits =
        (uint32_t)(h >> 15) << 31 | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    memcpy(&value, &bits, 4);
    return value;
}

// n elements of dtype F32, F16 or BF16 at `bytes`, little-endian, become floats.
static inline void convert_to_floats_(float *out, const unsigned char *bytes, size_t n,
                                      const char *dtype) {
    for (size_t i = 0; i < n; i++) {
        if (dtype[0] == 'F' && dtype[1] == '3') {
            memcpy(&out[i], bytes + 4 * i, 4);
        } else {
            uint16_t h;
            memcpy(&h, bytes + 2 * i, 2);
            uint32_t wide = (uint32_t)h << 16;
            if (dtype[0] == 'B') {
                memcpy(&out[i], &wide, 4);
            } else {
                out[i] = half_to_float(h);
            }
        }
    }
}

// Reads elements begin .. end - 1 of the part that the view is into out, whatever the tensor's
// float format; its shape must be the whole's.
static inline bool safetensors_read_range(const Safetensors *s, const SafetensorsEntry *entry,
                                          const TensorView *view, size_t begin, size_t end,
                                          float *out, Error *e) {
    uint64_t dimension;
    const Json *d = entry->shape->child;
    bool fits = entry->shape->length == (size_t)view->dims;
    for (int i = 0; i < view->dims && fits; i++, d = d->next) {
        fits = json_uint(d, &dimension) && dimension == view->whole[i];
    }
    if (!fits) {
        return fail(e, "%s: tensor \"%.80s\" has another shape than the model's (%zu%s%.0zu)",
                    s->path, entry->name, view->whole[0], view->dims == 2 ? ", " : "",
                    view->dims == 2 ? view->whole[1] : 0);
    }
    if (strcmp(entry->dtype, "F32") && strcmp(entry->dtype, "F16") &&
        strcmp(entry->dtype, "BF16")) {
        return fail(e, "%s: tensor \"%.80s\" is %s; only F32, F16 and BF16 can be loaded", s->path,
                    entry->name, entry->dtype);
    }
    enum { PIECE = 65536 };
    size_t width = entry->dtype[1] == '3' ? 4 : 2;
    unsigned char *bytes = malloc(PIECE * width);
    bool ok = bytes || fail(e, "%s: no memory to read tensor \"%.80s\"", s->path, entry->name);
    for (size_t i = begin, piece; i < end && ok; i += piece) {
        size_t at, run = tensor_run(view, i, &at);
        piece = run < end - i ? run : end - i;
        piece = piece < PIECE ? piece : PIECE;
        ok = read_at(s->fd, s->path, bytes, piece * width,
                     s->data_start + entry->begin + at * width, e);
        if (ok) {
            convert_to_floats_(out + i - begin, bytes, piece, entry->dtype);
        }
    }
    free(bytes);
    return ok;
}

// Reads all of it into view->data.
static inline bool safetensors_read(const Safetensors *s, const SafetensorsEntry *entry,
                                    const TensorView *view, Error *e) {
    return safetensors_read_range(s, entry, view, 0, tensor_elements(view), view->data, e);
}

// ------------------------------------------------------------------------------------------------
// Weights of a Hugging Face directory: model.safetensors, or several files named by
// model.safetensors.index.json

typedef struct {
    Safetensors *files;
    size_t count;
} TensorSet;

static inline void tensor_set_close(TensorSet *w) {
    for (size_t i = 0; i < w->count; i++) {
        safetensors_close(&w->files[i]);
    }
    free(w->files);
    *w = (TensorSet){0};
}

static inline bool weight_files_add_(TensorSet *w, const char *directory, const char *name,
                                     Error *e) {
    char path[PATH_LIMIT];
    Safetensors *files = realloc(w->files, (w->count + 1) * sizeof *files);
    if (!files) {
        return fail(e, "%s: no memory for its list of files", directory);
    }
    w->files = files;
    if (!path_format(path, e, "%s/%s", directory, name)) {
        return false;
    }
    if (!safetensors_open(&w->files[w->count], path, e)) {
        return false;
    }
    w->count++;
    return true;
}

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
        if (i == w->count && !weight_files_add_(w, directory, name, e)) {
            return false;
        }
        if (!safetensors_find(&w->files[i], m->key)) {
            return fail(e, "%s: tensor \"%.80s\" is not in %s, where the index has it", index_path,
                        m->key, name);
        }
    }
    return true;
}

static inline bool weight_files_open(TensorSet *w, const char *directory, Error *e) {
    char path[PATH_LIMIT];
    *w = (TensorSet){0};
    if (!path_format(path, e, "%s/model.safetensors.index.json", directory)) {
        return false;
    }
    bool ok;
    if (access(path, F_OK)) {
        ok = weight_files_add_(w, directory, "model.safetensors", e);
    } else {
        JsonDocument index;
        ok = json_parse_file(&index, path, 100000000, e);
        if (ok) {
            ok = weight_files_add_indexed_(w, directory, path, index.root, e);
            json_free(&index);
        }
    }
    if (!ok) {
        tensor_set_close(w);
    }
    return ok;
}

// Finds a tensor by its full name or, as files of the bare model have it, without "transformer.". A
// tensor in two files is refused. *file says which file; NULL with an empty error if there is none.
static inline const SafetensorsEntry *weight_files_find_(const TensorSet *w, const char *name,
                                                         const Safetensors **file, Error *e) {
    const char *prefix = "transformer.", *names[2] = {name, name};
    const SafetensorsEntry *found = NULL;
    if (!strncmp(name, prefix, strlen(prefix))) {
        names[1] = name + strlen(prefix);
    }
    e->text[0] = 0;
    for (int n = 0; n < 2 && !found; n++) {
        for (size_t i = 0; i < w->count; i++) {
            const SafetensorsEntry *entry = safetensors_find(&w->files[i], names[n]);
            if (entry && found) {
                fail(e, "%s: tensor \"%.80s\" is in another file of the model too",
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

// lm_head.weight may be stored beside the embedding it is tied to, but then it must be the same
// matrix.
static inline bool weights_check_tied_(const TensorSet *w, const TensorView *wte, Error *e) {
    const Safetensors *file = NULL;
    const SafetensorsEntry *entry = weight_files_find_(w, "lm_head.weight", &file, e);
    if (!entry) {
        return e->text[0] == 0;
    }
    TensorView head = *wte;
    head.data = malloc(tensor_elements(wte) * sizeof(float));
    bool ok = head.data || fail(e, "%s: no memory to compare lm_head.weight", file->path);
    ok = ok && safetensors_read(file, entry, &head, e);
    if (ok && memcmp(head.data, wte->data, tensor_elements(wte) * sizeof(float))) {
        ok = fail(e,
                  "%s: lm_head.weight differs from the embedding; only models with a tied head can "
                  "be loaded",
                  file->path);
    }
    free(head.data);
    return ok;
}

// Fills all views (the token embedding first, if it is among them) from the safetensors of a
// Hugging Face GPT-2 directory.
static inline bool weights_load(const char *directory, const TensorView *views, size_t count,
                                Error *e) {
    TensorSet w;
    if (!weight_files_open(&w, directory, e)) {
        return false;
    }
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        const Safetensors *file = NULL;
        const SafetensorsEntry *entry = weight_files_find_(&w, views[i].name, &file, e);
        if (!entry && !e->text[0]) {
            fail(e, "%s: has no tensor \"%s\"", w.files[0].path, views[i].name);
        }
        ok = entry && safetensors_read(file, entry, &views[i], e);
    }
    ok = ok &&
         (strcmp(views[0].name, "transformer.wte.weight") || weights_check_tied_(&w, &views[0], e));
    tensor_set_close(&w);
    return ok;
}

// Opens the optimizer-NNNNN.safetensors of a checkpoint.
static inline bool optimizer_open(TensorSet *set, const char *directory, Error *e) {
    *set = (TensorSet){0};
    for (;;) {
        char path[PATH_LIMIT];
        bool ok = path_format(path, e, "%s/optimizer-%05zu.safetensors", directory, set->count);
        if (ok && set->count > 0 && access(path, F_OK)) {
            return true;
        }
        Safetensors *longer = ok ? realloc(set->files, (set->count + 1) * sizeof *longer) : NULL;
        if (longer) {
            set->files = longer;
        }
        if (!ok || !(longer || fail(e, "%s: no memory", path)) ||
            !safetensors_open(&set->files[set->count], path, e)) {
            tensor_set_close(set);
            return false;
        }
        set->count++;
    }
}

// A tensor of any of the files and the file it is in; NULL if there is none.
static inline const SafetensorsEntry *tensor_set_find(const TensorSet *set, const char *name,
                                                      const Safetensors **file) {
    const SafetensorsEntry *found = NULL;
    for (size_t i = 0; i < set->count && !found; i++) {
        *file = &set->files[i];
        found = safetensors_find(*file, name);
    }
    return found;
}

// ------------------------------------------------------------------------------------------------
// config.json

typedef struct {
    size_t vocab_size; // V
    size_t seq_len;    // positions, T
    size_t channels;   // C
    size_t layers;     // L
    size_t heads;      // H
    int32_t end_of_document;
} ModelConfig;

static inline bool config_number_(const Json *root, const char *path, const char *key,
                                  uint64_t most, size_t *value, Error *e) {
    uint64_t number;
    if (!json_uint(json_get(root, key), &number) || number < 1 || number > most) {
        return fail(e, "%s: \"%s\" must be a whole number from 1 to %llu", path, key,
                    (unsigned long long)most);
    }
    *value = number;
    return true;
}

// A key may be absent (its default is what this program does) or must have one of two values.
static inline bool config_word_(const Json *root, const char *path, const char *key,
                                const char *want, const char * or, Error *e) {
    const Json *node = json_get(root, key);
    const char *text = json_string(node);
    if (node && (!text || (strcmp(text, want) && strcmp(text, or)))) {
        return fail(e, "%s: \"%s\" is \"%.60s\"; this program computes \"%s\"", path, key,
                    text ? text : "not text", want);
    }
    return true;
}

static inline bool config_flag_(const Json *root, const char *path, const char *key, bool want,
                                Error *e) {
    const Json *node = json_get(root, key);
    if (node && (node->kind != JSON_BOOL || node->boolean != want)) {
        return fail(e, "%s: \"%s\" must be %s; this program computes nothing else", path, key,
                    want ? "true" : "false");
    }
    return true;
}

static inline bool config_parse_(const Json *root, const char *path, ModelConfig *config,
                                 Error *e) {
    double epsilon;
    uint64_t inner, eos;
    const Json *n_inner = json_get(root, "n_inner"), *norm = json_get(root, "layer_norm_epsilon");
    const Json *eos_node = json_get(root, "eos_token_id");
    if (!config_number_(root, path, "vocab_size", 100000000, &config->vocab_size, e) ||
        !config_number_(root, path, "n_positions", 10000000, &config->seq_len, e) ||
        !config_number_(root, path, "n_embd", 1000000, &config->channels, e) ||
        !config_number_(root, path, "n_layer", 10000, &config->layers, e) ||
        !config_number_(root, path, "n_head", 10000, &config->heads, e) ||
        !config_word_(root, path, "model_type", "gpt2", "gpt2", e) ||
        !config_word_(root, path, "activation_function", "gelu_new", "gelu_pytorch_tanh", e) ||
        !config_flag_(root, path, "scale_attn_weights", true, e) ||
        !config_flag_(root, path, "scale_attn_by_inverse_layer_idx", false, e) ||
        !config_flag_(root, path, "tie_word_embeddings", true, e) ||
        !config_flag_(root, path, "add_cross_attention", false, e)) {
        return false;
    }
    if (config->channels % config->heads) {
        return fail(e, "%s: n_embd %zu does not divide by n_head %zu", path, config->channels,
                    config->heads);
    }
    if (n_inner && n_inner->kind != JSON_NULL &&
        (!json_uint(n_inner, &inner) || inner != 4 * config->channels)) {
        return fail(e, "%s: \"n_inner\" must be null or 4 * n_embd = %zu", path,
                    4 * config->channels);
    }
    if (norm && (!json_double(norm, &epsilon) || epsilon != 1e-5)) {
        return fail(e, "%s: \"layer_norm_epsilon\" must be 1e-05", path);
    }
    config->end_of_document =
        json_uint(eos_node, &eos) && eos < config->vocab_size ? (int32_t)eos : -1;
    return true;
}

// Reads DIRECTORY/config.json of a GPT-2 model. Settings that this program does not compute are
// errors, never ignored.
static inline bool config_load(const char *directory, ModelConfig *config, Error *e) {
    char path[PATH_LIMIT];
    JsonDocument document;
    *config = (ModelConfig){0};
    if (!path_format(path, e, "%s/config.json", directory)) {
        return false;
    }
    if (!json_parse_file(&document, path, 1 << 20, e)) {
        return false;
    }
    bool ok = config_parse_(document.root, path, config, e);
    json_free(&document);
    return ok;
}

static inline void config_write(JsonWriter *w, const ModelConfig *c) {
    json_open(w, NULL, '{');
    json_open(w, "architectures", '[');
    json_put_string(w, NULL, "GPT2LMHeadModel");
    json_close(w, ']');
    json_put_string(w, "model_type", "gpt2");
    json_put_uint(w, "vocab_size", c->vocab_size);
    json_put_uint(w, "n_positions", c->seq_len);
    json_put_uint(w, "n_ctx", c->seq_len);
    json_put_uint(w, "n_embd", c->channels);
    json_put_uint(w, "n_layer", c->layers);
    json_put_uint(w, "n_head", c->heads);
    json_put_null(w, "n_inner");
    json_put_string(w, "activation_function", "gelu_new");
    json_put_double(w, "resid_pdrop", 0);
    json_put_double(w, "embd_pdrop", 0);
    json_put_double(w, "attn_pdrop", 0);
    json_put_double(w, "layer_norm_epsilon", 1e-5);
    json_put_double(w, "initializer_range", 0.02);
    json_put_bool(w, "scale_attn_weights", true);
    json_put_bool(w, "scale_attn_by_inverse_layer_idx", false);
    json_put_bool(w, "reorder_and_upcast_attn", false);
    json_put_bool(w, "tie_word_embeddings", true);
    json_put_bool(w, "use_cache", true);
    if (c->end_of_document >= 0) {
        json_put_uint(w, "bos_token_id", (uint64_t)c->end_of_document);
        json_put_uint(w, "eos_token_id", (uint64_t)c->end_of_document);
    } else {
        json_put_null(w, "bos_token_id");
        json_put_null(w, "eos_token_id");
    }
    json_put_string(w, "torch_dtype", "float32");
    json_close(w, '}');
}

static inline void generation_config_write(JsonWriter *w, const ModelConfig *c) {
    json_open(w, NULL, '{');
    json_put_bool(w, "_from_model_config", true);
    if (c->end_of_document >= 0) {
        json_put_uint(w, "bos_token_id", (uint64_t)c->end_of_document);
        json_put_uint(w, "eos_token_id", (uint64_t)c->end_of_document);
    }
    json_close(w, '}');
}

// ------------------------------------------------------------------------------------------------
// Writing a checkpoint: files go to OUT/.step-NNNNNN.new, each one hashed and synced; commit
// renames the directory.

typedef struct {
    char final[PATH_LIMIT], temporary[PATH_LIMIT], old[PATH_LIMIT];
    JsonWriter sums; // text of SHA256SUMS so far
} CheckpointWriter;

// Begins OUT/step-NNNNNN. OUT must exist. Several processes may write one checkpoint: then one of
// them, `first`, makes and commits it.
static inline bool checkpoint_begin(CheckpointWriter *w, const char *out, uint64_t step, bool first,
                                    Error *e) {
    *w = (CheckpointWriter){0};
    if (!path_format(w->final, e, "%s/step-%06llu", out, (unsigned long long)step) ||
        !path_format(w->old, e, "%s/.step-%06llu.old", out, (unsigned long long)step) ||
        !path_format(w->temporary, e, "%s/.step-%06llu.new", out, (unsigned long long)step)) {
        return false;
    }
    if (!first) {
        return true;
    }
    remove_directory(w->temporary); // what a killed run left
    if (mkdir(w->temporary, 0777)) {
        return fail(e, "%s: cannot be made: %s", w->temporary, strerror(errno));
    }
    return true;
}

static inline void checkpoint_abort(CheckpointWriter *w) {
    remove_directory(w->temporary);
    free(w->sums.data);
    *w = (CheckpointWriter){0};
}

static inline bool checkpoint_open_(CheckpointWriter *w, const char *name, OutputFile *file,
                                    Error *e) {
    char path[PATH_LIMIT];
    return path_format(path, e, "%s/%s", w->temporary, name) && output_open(file, path, e);
}

// Adds a line to SHA256SUMS: `hex` is the hash of a file of the checkpoint that was written in
// another way.
static inline void checkpoint_add_sum(CheckpointWriter *w, const char *name, const char *hex) {
    json_append(&w->sums, hex, 64);
    json_append(&w->sums, "  ", 2);
    json_append(&w->sums, name, strlen(name));
    json_append(&w->sums, "\n", 1);
}

static inline bool checkpoint_close_(CheckpointWriter *w, const char *name, OutputFile *file,
                                     Error *e) {
    char hex[65];
    if (!output_close(file, hex, e)) {
        return false;
    }
    checkpoint_add_sum(w, name, hex);
    return true;
}

static inline bool checkpoint_add_bytes(CheckpointWriter *w, const char *name, const char *data,
                                        size_t length, Error *e) {
    OutputFile file;
    if (!checkpoint_open_(w, name, &file, e)) {
        return false;
    }
    bool ok = output_write(&file, data, length, e);
    return checkpoint_close_(w, name, &file, ok ? e : &(Error){0}) && ok;
}

// Adds the text of a JSON writer, ended by a newline, and frees it.
static inline bool checkpoint_add_json(CheckpointWriter *w, const char *name, JsonWriter *json,
                                       Error *e) {
    json_append(json, "\n", 1);
    bool ok = json->failed ? fail(e, "%s/%s: no memory to write it", w->temporary, name)
                           : checkpoint_add_bytes(w, name, json->data, json->length, e);
    free(json->data);
    *json = (JsonWriter){0};
    return ok;
}

// Adds a copy of a small file of another directory.
static inline bool checkpoint_add_copy(CheckpointWriter *w, const char *directory, const char *name,
                                       Error *e) {
    char path[PATH_LIMIT];
    size_t length;
    char *data = path_format(path, e, "%s/%s", directory, name)
                     ? read_file(path, (size_t)1 << 30, &length, e)
                     : NULL;
    bool ok = data && checkpoint_add_bytes(w, name, data, length, e);
    free(data);
    return ok;
}

// Returns the bytes of the tensors.
static inline uint64_t safetensors_header_(JsonWriter *json, const TensorView *views,
                                           size_t count) {
    uint64_t offset = 0;
    json_open(json, NULL, '{');
    json_open(json, "__metadata__", '{');
    json_put_string(json, "format", "pt"); // transformers 4 refuses files without it
    json_close(json, '}');
    for (size_t i = 0; i < count; i++) {
        json_open(json, views[i].name, '{');
        json_put_string(json, "dtype", "F32");
        json_open(json, "shape", '[');
        for (int d = 0; d < views[i].dims; d++) {
            json_put_uint(json, NULL, views[i].whole[d]);
        }
        json_close(json, ']');
        json_open(json, "data_offsets", '[');
        json_put_uint(json, NULL, offset);
        offset += tensor_whole_elements(&views[i]) * sizeof(float);
        json_put_uint(json, NULL, offset);
        json_close(json, ']');
        json_close(json, '}');
    }
    json_close(json, '}');
    while ((8 + json->length) % 8 && !json->failed) {
        json_append(json, " ", 1);
    }
    return offset;
}

// ------------------------------------------------------------------------------------------------
// The tensors of a checkpoint: model.safetensors, or several files of at most TENSOR_FILE_BYTES and
// an index as the hub has them; optimizer-NNNNN.safetensors likewise. Several processes write one
// file: the first makes it, each opens it and writes parts, and when all have closed it, it is on
// disk.

static const uint64_t TENSOR_FILE_BYTES = (uint64_t)4 << 30; // or one tensor

typedef struct {
    char name[64];
    size_t first, count; // of the views
} TensorFile;

typedef struct {
    TensorFile *items;
    size_t count, model_count; // the first model_count hold the weights
} TensorFiles;

// Deals `count` views, which must be consecutive, into files; their names get a %zu from 0.
static inline bool tensor_files_add_(TensorFiles *files, const TensorView *views, size_t first,
                                     size_t count, Error *e) {
    uint64_t bytes = UINT64_MAX;
    for (size_t i = first; i < first + count; i++) {
        uint64_t more = tensor_whole_elements(&views[i]) * sizeof(float);
        if (bytes > TENSOR_FILE_BYTES || more > TENSOR_FILE_BYTES - bytes) {
            TensorFile *longer = realloc(files->items, (files->count + 1) * sizeof *longer);
            if (!longer) {
                return fail(e, "no memory for the list of a checkpoint's files");
            }
            files->items = longer;
            files->items[files->count++] = (TensorFile){.first = i};
            bytes = 0;
        }
        files->items[files->count - 1].count++;
        bytes += more;
    }
    return true;
}

// The files for `count` weights and then 2 * count optimizer states; `views` are of whole tensors.
// Free items.
static inline bool tensor_files(TensorFiles *files, const TensorView *views, size_t count,
                                Error *e) {
    *files = (TensorFiles){0};
    if (!tensor_files_add_(files, views, 0, count, e)) {
        return false;
    }
    files->model_count = files->count;
    if (!tensor_files_add_(files, views, count, 2 * count, e)) {
        return false;
    }
    for (size_t f = 0; f < files->count; f++) {
        size_t size = sizeof files->items[f].name;
        if (f >= files->model_count) {
            snprintf(files->items[f].name, size, "optimizer-%05zu.safetensors",
                     f - files->model_count);
        } else if (files->model_count == 1) {
            snprintf(files->items[f].name, size, "model.safetensors");
        } else {
            snprintf(files->items[f].name, size, "model-%05zu-of-%05zu.safetensors", f + 1,
                     files->model_count);
        }
    }
    return true;
}

// Adds model.safetensors.index.json if the weights are in several files.
static inline bool checkpoint_add_index(CheckpointWriter *w, const TensorFiles *files,
                                        const TensorView *views, Error *e) {
    JsonWriter json = {.indent = 2};
    uint64_t total = 0;
    if (files->model_count == 1) {
        return true;
    }
    json_open(&json, NULL, '{');
    json_open(&json, "weight_map", '{');
    for (size_t f = 0; f < files->model_count; f++) {
        for (size_t i = files->items[f].first; i < files->items[f].first + files->items[f].count;
             i++) {
            json_put_string(&json, views[i].name, files->items[f].name);
            total += tensor_whole_elements(&views[i]) * sizeof(float);
        }
    }
    json_close(&json, '}');
    json_open(&json, "metadata", '{');
    json_put_uint(&json, "total_size", total);
    json_close(&json, '}');
    json_close(&json, '}');
    return checkpoint_add_json(w, "model.safetensors.index.json", &json, e);
}

// Makes a file with the header for `count` tensors, F32, whole, and zeros.
static inline bool checkpoint_make_tensors(CheckpointWriter *w, const char *name,
                                           const TensorView *views, size_t count, Error *e) {
    OutputFile file;
    JsonWriter header = {0};
    unsigned char prefix[8];
    char hex[65];
    if (!checkpoint_open_(w, name, &file, e)) {
        return false;
    }
    uint64_t bytes = safetensors_header_(&header, views, count) + 8 + header.length;
    bool ok = !header.failed || fail(e, "%s/%s: no memory for its header", w->temporary, name);
    store_le(prefix, header.length, 8);
    ok = ok && output_write(&file, prefix, 8, e) &&
         output_write(&file, header.data, header.length, e);
    if (ok && (fflush(file.file) || ftruncate(fileno(file.file), (off_t)bytes))) {
        ok = fail(e, "%s/%s: cannot be made %llu bytes long: %s", w->temporary, name,
                  (unsigned long long)bytes, strerror(errno));
    }
    free(header.data);
    return output_close(&file, hex, ok ? e : &(Error){0}) && ok;
}

typedef struct {
    Safetensors file;
    int descriptor;
} TensorWriter;

static inline bool tensor_writer_open(TensorWriter *t, const CheckpointWriter *w, const char *name,
                                      Error *e) {
    char path[PATH_LIMIT];
    if (!path_format(path, e, "%s/%s", w->temporary, name) ||
        !safetensors_open(&t->file, path, e)) {
        return false;
    }
    t->descriptor = open(path, O_WRONLY | O_CLOEXEC);
    if (t->descriptor < 0) {
        safetensors_close(&t->file);
        return fail(e, "%s: cannot be written: %s", path, strerror(errno));
    }
    return true;
}

// Writes elements begin .. end - 1 of the part that the view is, which are at `data`, to where they
// are in the whole.
static inline bool tensor_writer_write(const TensorWriter *t, const TensorView *view, size_t begin,
                                       size_t end, const float *data, Error *e) {
    const SafetensorsEntry *entry = safetensors_find(&t->file, view->name);
    for (size_t i = begin, n; i < end; i += n) {
        size_t at, run = tensor_run(view, i, &at);
        n = run < end - i ? run : end - i;
        if (!write_at(t->descriptor, t->file.path, data + i - begin, n * sizeof(float),
                      t->file.data_start + entry->begin + at * sizeof(float), e)) {
            return false;
        }
    }
    return true;
}

// `ok` says whether all went well so far; on disk when this returns true.
static inline bool tensor_writer_close(TensorWriter *t, bool ok, Error *e) {
    if (ok && fsync(t->descriptor)) {
        ok = fail(e, "%s: cannot be written: %s", t->file.path, strerror(errno));
    }
    if (close(t->descriptor) && ok) {
        ok = fail(e, "%s: cannot be written: %s", t->file.path, strerror(errno));
    }
    safetensors_close(&t->file);
    return ok;
}

// Writes SHA256SUMS, makes everything durable, and gives the directory its name. A broken
// checkpoint that already had this name gives way. On failure the caller aborts.
static inline bool checkpoint_commit(CheckpointWriter *w, Error *e) {
    JsonWriter sums = w->sums;
    w->sums = (JsonWriter){0};
    bool ok = !sums.failed && checkpoint_add_bytes(w, "SHA256SUMS", sums.data, sums.length, e);
    free(sums.data);
    if (!ok || !sync_directory(w->temporary, e)) {
        return false;
    }
    remove_directory(w->old); // what a killed run left
    if (rename(w->final, w->old) && errno != ENOENT) {
        return fail(e, "%s: cannot be replaced: %s", w->final, strerror(errno));
    }
    if (rename(w->temporary, w->final)) {
        return fail(e, "%s: cannot be renamed to %s: %s", w->temporary, w->final, strerror(errno));
    }
    remove_directory(w->old);
    free(w->sums.data);
    w->sums = (JsonWriter){0};
    char *slash = strrchr(w->final, '/');
    *slash = 0;
    ok = sync_directory(w->final, e);
    *slash = '/';
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Finding and checking checkpoints

// Steps of the directories OUT/step-NNNNNN in descending order; *steps is to be freed. OUT need not
// exist.
static inline bool checkpoint_list(const char *out, uint64_t **steps, size_t *count, Error *e) {
    DIR *directory = opendir(out);
    *steps = NULL;
    *count = 0;
    if (!directory) {
        return errno == ENOENT || fail(e, "%s: cannot be read: %s", out, strerror(errno));
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *digits = strncmp(entry->d_name, "step-", 5) ? "" : entry->d_name + 5;
        size_t n = strspn(digits, "0123456789");
        if (n < 6 || n > 18 || digits[n]) {
            continue;
        }
        uint64_t *longer = realloc(*steps, (*count + 1) * sizeof **steps);
        if (!longer) {
            closedir(directory);
            free(*steps);
            return fail(e, "%s: no memory for its list of checkpoints", out);
        }
        *steps = longer;
        size_t at = (*count)++; // insertion sort: a run keeps few
        for (uint64_t step = strtoull(digits, NULL, 10);; at--) {
            if (at == 0 || (*steps)[at - 1] > step) {
                (*steps)[at] = step;
                break;
            }
            (*steps)[at] = (*steps)[at - 1];
        }
    }
    closedir(directory);
    return true;
}

// Compares the files of a checkpoint with its SHA256SUMS, of `shares` processes each its `share` of
// them; the optimizer's only if asked for. A directory without trainer_state.json is somebody
// else's model: it has no sums to check.
static inline bool checkpoint_verify(const char *directory, bool with_optimizer, size_t share,
                                     size_t shares, Error *e) {
    static const char *needed[] = {"config.json", "trainer_state.json",
                                   "optimizer-00000.safetensors"};
    char path[PATH_LIMIT], hex[65];
    size_t length, lines = 0;
    bool found[3] = {0}, model = false;
    if (!path_format(path, e, "%s/trainer_state.json", directory)) {
        return false;
    }
    bool own = access(path, F_OK) == 0;
    if (!path_format(path, e, "%s/SHA256SUMS", directory)) {
        return false;
    }
    if (!own && !with_optimizer && access(path, F_OK)) {
        return true;
    }
    char *sums = read_file(path, 1 << 20, &length, e);
    if (!sums) {
        return false;
    }
    for (char *line = sums, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        if (!end || end - line < 67 || line[64] != ' ' || line[65] != ' ' ||
            memchr(line, '/', (size_t)(end - line))) {
            fail(e, "%s: is not a list of SHA-256 sums", path);
            free(sums);
            return false;
        }
        *end = 0;
        const char *name = line + 66;
        for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
            found[i] |= !strcmp(name, needed[i]);
        }
        model |=
            !strcmp(name, "model.safetensors") || !strcmp(name, "model.safetensors.index.json");
        if ((!with_optimizer && !strncmp(name, "optimizer-", 10)) || lines++ % shares != share) {
            continue;
        }
        char file[PATH_LIMIT];
        bool ok = path_format(file, e, "%s/%s", directory, name) && sha256_file(file, hex, e);
        if (ok && memcmp(hex, line, 64)) {
            ok = fail(e, "%s: was altered or damaged: its SHA-256 is not the one in SHA256SUMS",
                      file);
        }
        if (!ok) {
            free(sums);
            return false;
        }
    }
    free(sums);
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (!found[i]) {
            return fail(e, "%s: does not list %s", path, needed[i]);
        }
    }
    return model || fail(e, "%s: does not list model.safetensors", path);
}

// Removes what killed runs left in OUT: the hidden .step-*.new and .step-*.old. The caller holds
// OUT's lock.
static inline void checkpoint_clean(const char *out) {
    struct dirent **names = NULL;
    int count = list_folder(out, &names);
    for (int i = 0; i < count; i++) {
        char path[PATH_LIMIT];
        Error ignored;
        if (!strncmp(names[i]->d_name, ".step-", 6) &&
            path_format(path, &ignored, "%s/%s", out, names[i]->d_name)) {
            remove_directory(path);
        }
    }
    free_names(names, count);
}

// Removes OUT/step-NNNNNN: hidden first, so that no half-removed directory bears the name of a
// checkpoint.
static inline void checkpoint_remove(const char *out, uint64_t step) {
    char path[PATH_LIMIT], hidden[PATH_LIMIT];
    Error ignored;
    if (path_format(path, &ignored, "%s/step-%06llu", out, (unsigned long long)step) &&
        path_format(hidden, &ignored, "%s/.step-%06llu.old", out, (unsigned long long)step)) {
        remove_directory(hidden);
        if (!rename(path, hidden)) {
            remove_directory(hidden);
        }
    }
}

#endif
