// safetensors.h: safetensors files (huggingface/safetensors, "Format"): u64 header length, JSON
// header, tensor data. The reader accepts untrusted files; the writer lets several ranks write
// their shards to one file.
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "model/tensor_view.h"
#include "util/array.h" // defines: min_u64
#include "util/bytes.h"
#include "util/dtype.h"
#include "util/files.h"
#include "util/json.h"

// ------------------------------------------------------------------------------------------------
// Reader

// A tensor in the header.
typedef struct {
    const char *name;
    const char *dtype;
    const Json *shape;
    uint64_t begin, end; // bytes, relative to the start of the data
} SafetensorsEntry;

// An open file.
typedef struct {
    char path[PATH_LIMIT];
    int fd;
    uint64_t data_start; // offset in the file
    JsonDocument header;
    SafetensorsEntry *entries; // (count) by name
    size_t count;
} Safetensors;

// Closes a file.
static inline void safetensors_close(Safetensors *s) {
    close(s->fd);
    free(s->entries);
    json_free(&s->header);
}

// Bits of an element, the first digits of the name but for BOOL; 0 for an unknown dtype.
static inline unsigned safetensors_dtype_bits(const char *dtype) {
    static const char *known[] = {"BOOL", "F4",  "F6_E2M3", "F6_E3M2",     "U8",          "I8",
                                  "I16",  "U16", "F16",     "BF16",        "F8_E5M2",     "F8_E4M3",
                                  "I32",  "U32", "F32",     "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0",
                                  "C64",  "F64", "I64",     "U64"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!strcmp(dtype, known[i])) {
            const char *digits = strpbrk(dtype, "123456789");
            return digits ? (unsigned)strtoul(digits, NULL, 10) : 8;
        }
    }
    return 0;
}

// Whether __metadata__ is a map of strings.
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

// Reads a tensor of the header: dtype, shape and data_offsets must be present and consistent.
static inline bool safetensors_entry_(const char *path, const Json *node, SafetensorsEntry *entry,
                                      Error *e) {
    const Json *offsets = json_get(node, "data_offsets");
    *entry = (SafetensorsEntry){.name = node->key, .dtype = json_string(json_get(node, "dtype"))};
    entry->shape = json_get(node, "shape");
    if (strlen(node->key) != node->key_length || !entry->dtype || !entry->shape ||
        entry->shape->kind != JSON_ARRAY || !offsets || offsets->kind != JSON_ARRAY ||
        offsets->length != 2 || !json_uint(offsets->child, &entry->begin) ||
        !json_uint(offsets->child->next, &entry->end) || entry->begin > entry->end) {
        return fail(e,
                    "%s: tensor \"%.80s\" has no valid dtype, shape or data_offsets in the header",
                    path, node->key);
    }

    // The size by dtype and shape must be that of data_offsets.
    uint64_t bits = safetensors_dtype_bits(entry->dtype);
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

// The entries must cover the data without gaps or overlaps and have distinct names.
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

// Reads the header of a file of `size` bytes, and finds where the data begins.
static inline bool safetensors_read_header_(Safetensors *s, uint64_t size, Error *e) {
    unsigned char prefix[8];
    if (size < sizeof prefix) {
        return fail(e, "%s: has %llu bytes, too short for a safetensors file", s->path,
                    (unsigned long long)size);
    }
    if (!read_at(s->fd, s->path, prefix, sizeof prefix, 0, e)) {
        return false;
    }

    uint64_t length = load_le(prefix, 8);
    if (length > 100000000 || length > size - sizeof prefix) {
        return fail(
            e, "%s: claims a header of %llu bytes in a file of %llu: not safetensors, or truncated",
            s->path, (unsigned long long)length, (unsigned long long)size);
    }
    s->data_start = sizeof prefix + length;

    char *text = malloc(length + 1);
    bool ok = (text || fail(e, "%s: no memory for its header of %llu bytes", s->path,
                            (unsigned long long)length)) &&
              read_at(s->fd, s->path, text, length, sizeof prefix, e) &&
              ((length > 0 && text[0] == '{') ||
               fail(e, "%s: its header does not begin with '{'", s->path)) &&
              json_parse(&s->header, text, length, s->path, e);
    free(text);
    return ok;
}

// Reads the tensors out of the header.
static inline bool safetensors_read_entries_(Safetensors *s, Error *e) {
    const Json *root = s->header.root;
    s->entries = calloc(root->length + 1, sizeof *s->entries);
    if (!s->entries) {
        return fail(e, "%s: no memory for its %zu tensors", s->path, root->length);
    }
    for (const Json *m = root->child; m; m = m->next) {
        if (!strcmp(m->key, "__metadata__")) {
            if (!safetensors_metadata_ok_(m)) {
                return fail(e, "%s: __metadata__ of the header is not a map of strings", s->path);
            }
        } else if (!safetensors_entry_(s->path, m, &s->entries[s->count++], e)) {
            return false;
        }
    }
    return true;
}

// Opens a file and checks it: the data of every entry lies inside the file. On failure there is
// nothing to close.
static inline bool safetensors_open(Safetensors *s, const char *path, Error *e) {
    uint64_t size;
    *s = (Safetensors){.fd = open_regular(path, &size, e)};
    if (s->fd < 0) {
        return false;
    }
    bool ok = path_format(s->path, e, "%s", path) && safetensors_read_header_(s, size, e) &&
              safetensors_read_entries_(s, e) && safetensors_layout_(s, size - s->data_start, e);
    if (!ok) {
        safetensors_close(s);
    }
    return ok;
}

// Finds a tensor by name; NULL if there is none.
static inline const SafetensorsEntry *safetensors_find(const Safetensors *s, const char *name) {
    SafetensorsEntry key = {.name = name};
    return bsearch(&key, s->entries, s->count, sizeof key, safetensors_by_name_);
}

// Reads elements begin .. end - 1 of a shard from F32, F16 or BF16 data. The tensor in the file
// must have the shape of the full tensor.
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
        return fail(e, "%s: tensor \"%.80s\" does not have the model's shape (%zu%s%.0zu)", s->path,
                    entry->name, view->whole[0], view->dims == 2 ? ", " : "",
                    view->dims == 2 ? view->whole[1] : 0);
    }
    const Dtype dtype = dtype_of(entry->dtype);
    if (dtype == DTYPES) {
        return fail(e, "%s: tensor \"%.80s\" is %s; only F32, F16 and BF16 can be loaded", s->path,
                    entry->name, entry->dtype);
    }

    // Contiguous runs, in chunks.
    enum { CHUNK = 65536 };
    const size_t width = dtypes[dtype].bytes;
    unsigned char *bytes = malloc(CHUNK * width);
    bool ok = bytes || fail(e, "%s: no memory to read tensor \"%.80s\"", s->path, entry->name);
    for (size_t i = begin, n; i < end && ok; i += n) {
        size_t at;
        n = tensor_run(view, i, i + min_u64(end - i, CHUNK), &at);
        ok =
            read_at(s->fd, s->path, bytes, n * width, s->data_start + entry->begin + at * width, e);
        if (ok) {
            floats_from_dtype(out + i - begin, bytes, n, dtype);
        }
    }
    free(bytes);
    return ok;
}

// Reads the complete shard into view->data.
static inline bool safetensors_read(const Safetensors *s, const SafetensorsEntry *entry,
                                    const TensorView *view, Error *e) {
    return safetensors_read_range(s, entry, view, 0, tensor_elements(view), view->data, e);
}

// ------------------------------------------------------------------------------------------------
// Writer

// The header of `count` tensors: its length, then JSON, padded so that the data begins at a
// multiple of 8 bytes. Returns the size of the data in bytes.
static inline uint64_t safetensors_header_(JsonWriter *json, const TensorView *views, size_t count,
                                           Dtype dtype) {
    uint64_t offset = 0;
    json_append(json, "12345678", 8); // for the length
    json_open(json, NULL, '{');
    json_open(json, "__metadata__", '{');
    json_put_string(json, "format", "pt"); // required by transformers 4
    json_close(json, '}');
    for (size_t i = 0; i < count; i++) {
        json_open(json, views[i].name, '{');
        json_put_string(json, "dtype", dtypes[dtype].name);
        json_open(json, "shape", '[');
        for (int d = 0; d < views[i].dims; d++) {
            json_put_uint(json, NULL, views[i].whole[d]);
        }
        json_close(json, ']');
        json_open(json, "data_offsets", '[');
        json_put_uint(json, NULL, offset);
        offset += tensor_whole_elements(&views[i]) * dtypes[dtype].bytes;
        json_put_uint(json, NULL, offset);
        json_close(json, ']');
        json_close(json, '}');
    }
    json_close(json, '}');
    while (json->length % 8 && !json->failed) {
        json_append(json, " ", 1);
    }
    if (!json->failed) {
        store_le(json->data, json->length - 8, 8);
    }
    return offset;
}

// Creates a file with the header of `count` full tensors, and zeros as their data. It is on disk
// once a TensorWriter has been closed.
static inline bool safetensors_create(const char *path, const TensorView *views, size_t count,
                                      Dtype dtype, Error *e) {
    JsonWriter header = {0};
    uint64_t bytes = safetensors_header_(&header, views, count, dtype);
    bytes += header.length;
    bool ok =
        (!header.failed || fail(e, "%s: no memory for its header", path)) &&
        write_file(path, header.data, header.length, e) &&
        (!truncate(path, (off_t)bytes) || fail(e, "%s: cannot be extended to %llu bytes: %s", path,
                                               (unsigned long long)bytes, strerror(errno)));
    free(header.data);
    return ok;
}

// A file of safetensors_create, open for writing shards.
typedef struct {
    Safetensors file;
    int descriptor;
} TensorWriter;

// Opens a file of safetensors_create.
static inline bool tensor_writer_open(TensorWriter *t, const char *path, Error *e) {
    if (!safetensors_open(&t->file, path, e)) {
        return false;
    }
    t->descriptor = open(path, O_WRONLY | O_CLOEXEC);
    if (t->descriptor < 0) {
        safetensors_close(&t->file);
        return fail(e, "%s: cannot be written: %s", path, strerror(errno));
    }
    return true;
}

// Writes n contiguous elements of a tensor from element `at` on, in the dtype of the file.
static inline bool tensor_writer_write_run_(const TensorWriter *t, const SafetensorsEntry *entry,
                                            size_t at, const float *x, size_t n, Error *e) {
    enum { CHUNK = 4096 };
    const Dtype dtype = dtype_of(entry->dtype);
    const size_t width = dtypes[dtype].bytes;
    const uint64_t from = t->file.data_start + entry->begin;
    unsigned char bytes[4 * CHUNK];

    if (dtype == DTYPE_F32) {
        return write_at(t->descriptor, t->file.path, x, n * width, from + at * width, e);
    }
    for (size_t i = 0; i < n; i += CHUNK) {
        const size_t count = min_u64(n - i, CHUNK);
        if (!floats_to_dtype(bytes, x + i, count, dtype)) {
            return fail(e,
                        "%s: tensor \"%.80s\" has numbers beyond the range of %s; use bf16 or f32",
                        t->file.path, entry->name, entry->dtype);
        }
        if (!write_at(t->descriptor, t->file.path, bytes, count * width, from + (at + i) * width,
                      e)) {
            return false;
        }
    }
    return true;
}

// Writes elements begin .. end - 1 of a shard, which are at `data`, to their positions in the full
// tensor, in the dtype of the file.
static inline bool tensor_writer_write(const TensorWriter *t, const TensorView *view, size_t begin,
                                       size_t end, const float *data, Error *e) {
    const SafetensorsEntry *entry = safetensors_find(&t->file, view->name);
    for (size_t i = begin, n; i < end; i += n) {
        size_t at;
        n = tensor_run(view, i, end, &at);
        if (!tensor_writer_write_run_(t, entry, at, data + i - begin, n, e)) {
            return false;
        }
    }
    return true;
}

// Closes the file; it is on disk when this returns true. ok: whether writing succeeded; if not, e
// keeps its error.
static inline bool tensor_writer_close(TensorWriter *t, bool ok, Error *e) {
    ok = close_written_at(t->descriptor, t->file.path, ok, e);
    safetensors_close(&t->file);
    return ok;
}

#endif
