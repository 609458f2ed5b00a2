// fuzz_readers: libFuzzer targets, one for each reader of files. Bytes go to the reader's real
// entry point, through files where it takes paths, and what it accepts is checked: against a
// second, simple reading, or by writing it out and reading it back. scripts/fuzz.sh runs all of
// them; one by hand:
//
//     FUZZ_TARGET=safetensors build/fuzz_readers [libFuzzer's options] CORPUS_OR_FILES
//
// A finding is a report of a sanitizer, a time-out, or a promise that does not hold (see
// `promise`).
#include <fcntl.h>
#include <sanitizer/lsan_interface.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

// A file that is mapped is a copy of its exact size here, so that AddressSanitizer sees the byte
// behind it.
static void *map_copy(size_t bytes, int file) {
    char *copy = malloc(bytes);
    return copy && pread(file, copy, bytes, 0) == (ssize_t)bytes ? copy : MAP_FAILED;
}
#define mmap(address, bytes, protection, flags, file, offset) map_copy(bytes, file)
#define munmap(address, bytes) free(address)

#define main train_gpt_main
#include "train_gpt.c"
#undef main

#include "test/fuzz_mutate.h"

// ---------------------------------------------------------------------------------------------------------------------
// Promises, and the folder that the files are in

__attribute__((format(printf, 2, 3))) static void promise(bool holds, const char *format, ...) {
    if (!holds) {
        va_list args;
        va_start(args, format);
        fputs("promise broken: ", stderr);
        vfprintf(stderr, format, args);
        fputc('\n', stderr);
        va_end(args);
        abort();
    }
}

static char folder[1024];           // in $FUZZ_FILES, else in memory
static pid_t owner;                 // the process that made it
static uint64_t accepted, rejected; // inputs
static const char *error_names;     // what error lines must name: the folder, or NULL

// A reader's answer. A refusal is one line that says something, and names the file.
static bool answer(bool ok, const Error *e) {
    if (!ok) {
        size_t length = strlen(e->text);
        promise(length > 0, "a refusal without a word");
        for (size_t i = 0; i < length; i++) {
            promise((unsigned char)e->text[i] >= 0x20 && e->text[i] != 0x7F,
                    "a control character in an error line: %s", e->text);
        }
        promise(!error_names || strstr(e->text, error_names),
                "an error line that does not name the file: %s", e->text);
    }
    return ok;
}

static const char *path_of(const char *name) {
    static char paths[4][PATH_LIMIT]; // the last four stay valid
    static int next;
    Error e;
    char *path = paths[next = (next + 1) % 4];
    promise(path_format(path, &e, "%s/%s", folder, name), "%s", e.text);
    return path;
}

static void put_file(const char *name, const void *data, size_t size) {
    int file = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    promise(file >= 0 && write(file, data, size) == (ssize_t)size && close(file) == 0,
            "%s: cannot be written: %s", name, strerror(errno));
}

static void put_part(const char *name, InputPart part) {
    put_file(name, part.data, part.size);
}

// Nothing there: no file.
static void put_part_if_any(const char *name, InputPart part) {
    if (part.size) {
        put_part(name, part);
    } else {
        unlink(path_of(name));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// json: what is read is written and read back, and is the same

static bool same_text(const char *a, size_t a_length, const char *b, size_t b_length) {
    return a_length == b_length && (a_length == 0 || !memcmp(a, b, a_length));
}

static bool same_json(const Json *a, const Json *b) {
    double x, y;
    uint64_t m, n;
    if (a->kind == JSON_NUMBER && !json_double(a, &x)) {
        return b->kind == JSON_NULL; // too large for a double: written as null
    }
    if (a->kind == JSON_NUMBER) {
        return json_uint(a, &m) ? json_uint(b, &n) && m == n
                                : json_double(b, &y) && x == y && signbit(x) == signbit(y);
    }
    if (a->kind != b->kind) {
        return false;
    }
    if (a->kind == JSON_BOOL) {
        return a->boolean == b->boolean;
    }
    if (a->kind == JSON_STRING) {
        return same_text(a->text, a->length, b->text, b->length);
    }
    if (a->kind == JSON_NULL) {
        return true;
    }
    const Json *p = a->child, *q = b->child;
    size_t members = 0;
    for (; p && q && same_json(p, q); p = p->next, q = q->next, members++) {
        if (!p->key != !q->key ||
            (p->key && !same_text(p->key, p->key_length, q->key, q->key_length))) {
            return false;
        }
    }
    return !p && !q && members == a->length && members == b->length;
}

// False if a key holds a NUL, which the writer's keys cannot.
static bool put_json(JsonWriter *w, const char *key, const Json *node) {
    uint64_t number;
    double real = NAN;
    bool ok = true;
    if (node->kind == JSON_OBJECT || node->kind == JSON_ARRAY) {
        json_open(w, key, node->kind == JSON_OBJECT ? '{' : '[');
        for (const Json *m = node->child; m && ok; m = m->next) {
            ok = (!m->key || strlen(m->key) == m->key_length) && put_json(w, m->key, m);
        }
        json_close(w, node->kind == JSON_OBJECT ? '}' : ']');
    } else if (node->kind == JSON_STRING) {
        json_put_text(w, key, node->text, node->length);
    } else if (json_uint(node, &number)) {
        json_put_uint(w, key, number);
    } else if (node->kind == JSON_NUMBER) {
        json_double(node, &real);
        json_put_double(w, key, real);
    } else if (node->kind == JSON_BOOL) {
        json_put_bool(w, key, node->boolean);
    } else {
        json_put_null(w, key);
    }
    return ok;
}

// By the definition: each character is what its code point is written as, in the only way.
static bool is_utf8(const char *text, size_t length) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t *s = (const uint8_t *)text;
    for (size_t i = 0, n; i < length; i += n) {
        n = s[i] < 0x80   ? 1
            : s[i] < 0xC0 ? 0
            : s[i] < 0xE0 ? 2
            : s[i] < 0xF0 ? 3
            : s[i] < 0xF8 ? 4
                          : 0;
        uint32_t c = n == 1 ? s[i] : s[i] & (0x7Fu >> n);
        if (n == 0 || n > length - i) {
            return false;
        }
        for (size_t k = 1; k < n; k++) {
            if (s[i + k] >> 6 != 2) {
                return false;
            }
            c = c << 6 | (s[i + k] & 0x3F);
        }
        if (c < least[n] || c > 0x10FFFF || c >> 11 == 0x1B) { // the last: surrogates
            return false;
        }
    }
    return true;
}

static void check_json(const Json *node) {
    if (node->key) {
        promise(is_utf8(node->key, node->key_length) && node->key[node->key_length] == 0,
                "a key is no UTF-8");
    }
    if (node->kind == JSON_STRING) {
        promise(is_utf8(node->text, node->length) && node->text[node->length] == 0,
                "a string is no UTF-8");
    }
    for (const Json *m = node->kind >= JSON_ARRAY ? node->child : NULL; m; m = m->next) {
        promise((node->kind == JSON_OBJECT) == (m->key != NULL), "keys belong in objects");
        check_json(m);
    }
}

static bool run_json(InputPart *parts) {
    JsonDocument document, again;
    Error e = {0};
    if (!answer(json_parse(&document, (char *)parts[0].data, parts[0].size, "name", &e), &e)) {
        return false;
    }
    check_json(document.root);
    for (int indent = 0; indent <= 2; indent += 2) {
        JsonWriter w = {.indent = indent};
        if (put_json(&w, NULL, document.root)) {
            promise(json_parse(&again, w.data, w.length, "what was written", &e), "%s", e.text);
            promise(same_json(document.root, again.root), "JSON read back differs: %s", w.data);
            json_free(&again);
        }
        free(w.data);
    }
    json_free(&document);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// safetensors: every tensor is read and compared with a second decoding; a file written from them
// reads the same

// IEEE 754 by its definition: sign, exponent of `bits` bits, fraction.
static double decode_float(uint64_t value, int exponent_bits, int fraction_bits) {
    int bias = (1 << (exponent_bits - 1)) - 1,
        exponent = (int)(value >> fraction_bits & ((1u << exponent_bits) - 1));
    double fraction = (double)(value & (((uint64_t)1 << fraction_bits) - 1)) /
                      (double)((uint64_t)1 << fraction_bits);
    double sign = value >> (exponent_bits + fraction_bits) & 1 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) {
        return fraction ? NAN : sign * INFINITY;
    }
    return sign * (exponent ? ldexp(1 + fraction, exponent - bias) : ldexp(fraction, 1 - bias));
}

static void check_floats(const float *floats, const uint8_t *bytes, size_t n, const char *dtype) {
    int width = dtype[1] == '3' ? 4 : 2, exponent = !strcmp(dtype, "F16") ? 5 : 8;
    for (size_t i = 0; i < n; i++) {
        double want = decode_float(load_le(bytes + i * (size_t)width, width), exponent,
                                   8 * width - 1 - exponent);
        double got = (double)floats[i];
        promise(isnan(want) ? isnan(got) : want == got && signbit(want) == signbit(got),
                "element %zu of a %s tensor is %g, not %g", i, dtype, got, want);
    }
}

static void check_rewritten(TensorView *views, size_t count) {
    CheckpointWriter writer;
    TensorWriter tensors;
    Safetensors again;
    Error e = {0};
    char path[PATH_LIMIT];
    promise(checkpoint_begin(&writer, folder, 1, true, &e) &&
                checkpoint_make_tensors(&writer, "again.safetensors", views, count, &e) &&
                tensor_writer_open(&tensors, &writer, "again.safetensors", &e),
            "%s", e.text);
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        ok = tensor_writer_write(&tensors, &views[i], 0, tensor_elements(&views[i]), views[i].data,
                                 &e);
    }
    promise(tensor_writer_close(&tensors, ok, &e) &&
                path_format(path, &e, "%s/again.safetensors", writer.temporary) &&
                safetensors_open(&again, path, &e),
            "%s", e.text);
    promise(again.count == count, "%zu tensors were written, %zu read back", count, again.count);
    for (size_t i = 0; i < count; i++) {
        size_t n = tensor_elements(&views[i]);
        TensorView view = views[i];
        const SafetensorsEntry *entry = safetensors_find(&again, view.name);
        view.data = malloc(n * sizeof(float) + 1);
        promise(entry && safetensors_read(&again, entry, &view, &e), "%s: %s", views[i].name,
                e.text);
        promise(!memcmp(view.data, views[i].data, n * sizeof(float)), "%s: read back differs",
                view.name);
        free(view.data);
    }
    safetensors_close(&again);
    checkpoint_abort(&writer);
}

static bool run_safetensors(InputPart *parts) {
    enum { MOST = 16 };
    Safetensors s;
    Error e = {0};
    TensorView views[MOST];
    size_t count = 0;
    put_part("x.safetensors", parts[0]);
    if (!answer(safetensors_open(&s, path_of("x.safetensors"), &e), &e)) {
        return false;
    }
    for (size_t i = 0; i < s.count; i++) {
        const SafetensorsEntry *t = &s.entries[i];
        uint64_t shape[2] = {0, 0};
        promise(s.data_start <= parts[0].size && t->begin <= t->end &&
                    t->end <= parts[0].size - s.data_start,
                "a tensor outside the file");
        promise(safetensors_find(&s, t->name) == t, "a tensor that is not found by its name");
        bool loads =
            (t->shape->length == 1 || t->shape->length == 2) &&
            (!strcmp(t->dtype, "F32") || !strcmp(t->dtype, "F16") || !strcmp(t->dtype, "BF16"));
        int dims = 0;
        for (const Json *k = t->shape->child; k && dims < 2; k = k->next) {
            json_uint(k, &shape[dims++]);
        }
        TensorView view = {.shape = {shape[0], shape[1]},
                           .whole = {shape[0], shape[1]},
                           .groups = 1,
                           .dims = dims == 2 ? 2 : 1};
        if ((t->end - t->begin) > (1 << 20) || strlen(t->name) >= sizeof view.name) {
            continue;
        }
        size_t n = loads ? tensor_elements(&view) : 1;
        snprintf(view.name, sizeof view.name, "%s", t->name);
        view.data = malloc(n * sizeof(float) + 1);
        if (!loads) {
            view.shape[0] = view.shape[1] = view.whole[0] = view.whole[1] = 1;
            answer(safetensors_read(&s, t, &view, &e), &e);
        } else {
            promise(safetensors_read(&s, t, &view, &e), "%s", e.text);
            check_floats(view.data, parts[0].data + s.data_start + t->begin, n, t->dtype);
        }
        if (loads && count < MOST && strcmp(view.name, "__metadata__")) {
            views[count++] = view;
        } else {
            free(view.data);
        }
    }
    if (count) {
        check_rewritten(views, count);
    }
    for (size_t i = 0; i < count; i++) {
        free(views[i].data);
    }
    safetensors_close(&s);
    return true;
}

// Whether one of the files holds the view's tensor with these floats.
static bool holds_tensor(const char *path, const InputPart *bytes, const TensorView *view) {
    const char *bare = view->name + strlen("transformer.");
    Safetensors s;
    Error e = {0};
    if (!bytes->size || !safetensors_open(&s, path, &e)) {
        return false;
    }
    const SafetensorsEntry *entry = safetensors_find(&s, view->name);
    entry = entry ? entry : safetensors_find(&s, bare);
    if (entry) {
        check_floats(view->data, bytes->data + s.data_start + entry->begin, tensor_elements(view),
                     entry->dtype);
    }
    safetensors_close(&s);
    return entry != NULL;
}

// A model of three tensors, in model.safetensors or in two files that an index names.
static bool run_weights(InputPart *parts) {
    float wte[5 * 4], bias[4], matrix[4 * 12];
    const TensorView views[] = {{.name = "transformer.wte.weight",
                                 .data = wte,
                                 .shape = {5, 4},
                                 .whole = {5, 4},
                                 .dims = 2,
                                 .groups = 1},
                                {.name = "transformer.ln_f.bias",
                                 .data = bias,
                                 .shape = {4},
                                 .whole = {4},
                                 .dims = 1,
                                 .groups = 1},
                                {.name = "transformer.h.0.attn.c_attn.weight",
                                 .data = matrix,
                                 .shape = {4, 12},
                                 .whole = {4, 12},
                                 .dims = 2,
                                 .groups = 1}};
    Error e = {0};
    put_part_if_any("model.safetensors.index.json", parts[0]);
    put_part_if_any("model.safetensors", parts[1]);
    put_part_if_any("b.safetensors", parts[2]);
    memset(wte, 0xA5, sizeof wte);
    memset(bias, 0xA5, sizeof bias);
    memset(matrix, 0xA5, sizeof matrix);
    if (!answer(weights_load(folder, views, 3, &e), &e)) {
        return false;
    }
    for (size_t i = 0; i < 3; i++) {
        promise(holds_tensor(path_of("model.safetensors"), &parts[1], &views[i]) ||
                    (parts[0].size && holds_tensor(path_of("b.safetensors"), &parts[2], &views[i])),
                "%s is in no file", views[i].name);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// config.json, trainer_state.json, SHA256SUMS, log.jsonl

static bool run_config(InputPart *parts) {
    ModelConfig config, again;
    Error e = {0};
    JsonWriter w = {.indent = 2};
    put_part("config.json", parts[0]);
    if (!answer(config_load(folder, &config, &e), &e)) {
        return false;
    }
    promise(config.vocab_size && config.seq_len && config.channels && config.layers &&
                config.heads && config.channels % config.heads == 0 &&
                config.end_of_document < (int64_t)config.vocab_size,
            "an impossible model was accepted");
    config_write(&w, &config);
    put_file("config.json", w.data, w.length);
    free(w.data);
    promise(config_load(folder, &again, &e), "%s", e.text);
    promise(same_shape(&config, &again) && config.end_of_document == again.end_of_document,
            "config.json read back differs");
    return true;
}

static bool run_state(InputPart *parts) {
    Options options;
    Error e = {0};
    set_defaults(&options);
    Dataset data = {.tokens = 1000};
    char path[] = "x", *paths[] = {path};
    uint64_t weights[] = {1};
    Trainer trainer = {.options = &options,
                       .T = 64,
                       .data = {.count = 1, .items = &data, .paths = paths, .weights = weights}};
    put_part("trainer_state.json", parts[0]);
    return answer(load_state(&trainer, folder, &e), &e);
}

// The files that SHA256SUMS lists are always the same.
static bool run_sums(InputPart *parts) {
    Error e = {0};
    put_file("config.json", "{}", 2);
    put_file("model.safetensors", "weights", 7);
    put_file("trainer_state.json", "{}", 2);
    put_file("optimizer-00000.safetensors", "moments", 7);
    put_part("SHA256SUMS", parts[0]);
    bool ok = answer(checkpoint_verify(folder, false, 0, 1, &e), &e);
    bool all = answer(checkpoint_verify(folder, true, 0, 1, &e), &e);
    promise(ok || !all, "with the optimizer more is accepted than without");
    return ok;
}

// What is kept of a log are whole lines of it, in order, and keeping them again changes nothing.
static bool run_log(InputPart *parts) {
    Error e = {0};
    size_t length = 0, again_length = 0;
    char log[PATH_LIMIT];
    snprintf(log, sizeof log, "%s", path_of("log.jsonl"));
    put_part("log.jsonl", parts[0]);
    promise(log_cut(log, 5, false, &e), "%s", e.text);
    char *kept = read_file(log, SIZE_MAX - 1, &length, &e);
    promise(kept != NULL, "%s", e.text);
    const uint8_t *from = parts[0].data, *end = from + parts[0].size;
    for (char *line = kept, *stop; line < kept + length; line = stop + 1) {
        stop = memchr(line, '\n', length - (size_t)(line - kept));
        promise(stop != NULL, "the log ends within a line");
        size_t n = (size_t)(stop - line) + 1;
        while (from < end && (size_t)(end - from) >= n && memcmp(from, line, n)) {
            from = memchr(from, '\n', (size_t)(end - from));
            from = from ? from + 1 : end;
        }
        promise((size_t)(end - from) >= n, "the log has a line that was not there");
        from += n;
    }
    promise(log_cut(log, 5, false, &e), "%s", e.text);
    char *again = read_file(log, SIZE_MAX - 1, &again_length, &e);
    promise(again && same_text(kept, length, again, again_length),
            "cutting the log twice differs from once");
    free(kept);
    free(again);
    return length == parts[0].size;
}

// ---------------------------------------------------------------------------------------------------------------------
// Token data: each sample equals the bytes of the file, and an id outside the vocabulary is an
// error

static int64_t id_at(const uint8_t *bytes, int width, bool is_signed) {
    uint64_t id = load_le(bytes, width);
    return is_signed ? (int64_t)(id << (64 - 8 * width)) >> (64 - 8 * width) : (int64_t)id;
}

static void check_dataset(const Dataset *d, const uint8_t *ids, size_t bytes, int width,
                          bool is_signed) {
    static const size_t vocabularies[] = {1, 200, 300, 50257, 70000, INT32_MAX};
    size_t T = d->seq_len;
    int32_t *tokens = malloc((T + 1) * sizeof *tokens);
    uint8_t seen[64] = {0};
    Error e = {0};
    promise(
        d->tokens == bytes / (size_t)width && d->samples == (d->tokens - 1) / T && d->samples > 0,
        "%llu tokens, %llu samples", (unsigned long long)d->tokens, (unsigned long long)d->samples);
    for (uint64_t i = 0; i < d->samples; i++) {
        uint64_t sample = i < 3 ? i : d->samples - 1;
        size_t V = vocabularies[i % (sizeof vocabularies / sizeof *vocabularies)];
        bool inside = true;
        for (size_t t = 0; t <= T; t++) {
            int64_t id = id_at(ids + (sample * T + t) * (size_t)width, width, is_signed);
            inside = inside && id >= 0 && id < (int64_t)V;
        }
        promise(answer(dataset_read(d, sample, V, tokens, &e), &e) == inside,
                "sample %llu is %s, its ids are %s the vocabulary of %zu",
                (unsigned long long)sample, inside ? "refused" : "accepted",
                inside ? "inside" : "outside", V);
        for (size_t t = 0; t <= T && inside; t++) {
            promise(tokens[t] == id_at(ids + (sample * T + t) * (size_t)width, width, is_signed),
                    "sample %llu differs from the file", (unsigned long long)sample);
        }
        if (i >= 3) {
            break;
        }
    }
    for (uint64_t i = 0; i < d->samples && d->samples <= sizeof seen; i++) {
        uint64_t sample = dataset_order(d, 7, true, 3 * d->samples + i);
        promise(sample < d->samples && !seen[sample]++, "the order of an epoch is no permutation");
    }
    free(tokens);
}

// A Megatron pair.
static bool run_idx(InputPart *parts) {
    static const struct {
        int width;
        bool is_signed;
    } types[9] = {{0},       {1, false}, {1, true}, {2, true}, {4, true},
                  {8, true}, {0},        {0},       {2, false}};
    bool any = false;
    put_part("pair.idx", parts[0]);
    put_part("pair.bin", parts[1]);
    for (size_t T = 1; T <= 5; T += 4) {
        Dataset d;
        Error e = {0};
        if (answer(dataset_open(&d, path_of("pair"), "train", T, &e), &e)) {
            unsigned type = parts[0].data[17];
            check_dataset(&d, parts[1].data, parts[1].size, types[type].width,
                          types[type].is_signed);
            promise(dataset_verify(&d, &e), "%s", e.text);
            dataset_close(&d);
            any = true;
        }
    }
    return any;
}

static bool run_llmc(InputPart *parts) {
    bool any = false;
    put_part("shard.bin", parts[0]);
    for (size_t T = 1; T <= 5; T += 4) {
        Dataset d;
        Error e = {0};
        if (answer(dataset_open(&d, path_of("shard.bin"), "train", T, &e), &e)) {
            check_dataset(&d, parts[0].data + LLMC_HEADER, parts[0].size - LLMC_HEADER,
                          load_le(parts[0].data, 4) == 20240520 ? 2 : 4, false);
            dataset_close(&d);
            any = true;
        }
    }
    return any;
}

// manifest.json beside a pair of 2 documents, 10 tokens.
static bool run_manifest(InputPart *parts) {
    uint8_t idx[IDX_HEADER + 2 * 12 + 3 * 8] = {0}, bin[20] = {0};
    Scratch idx_scratch = {idx, sizeof idx, sizeof idx},
            bin_scratch = {bin, sizeof bin, sizeof bin};
    Dataset d;
    Error e = {0};
    idx[17] = 8;
    store_le(idx + 18, 2, 8);
    store_le(idx + 26, 2, 8); // becomes 3
    store_le(idx + 34, 4, 4);
    store_le(idx + 38, 6, 4);
    repair_pair(&idx_scratch, &bin_scratch, NULL);
    put_file("train.idx", idx, idx_scratch.size);
    put_file("train.bin", bin, bin_scratch.size);
    put_part("manifest.json", parts[0]);
    mkdir(path_of("tokenizer"), 0777);
    put_file("tokenizer/tokenizer.json", "{}", 2);
    if (!answer(dataset_open(&d, folder, "train", 3, &e), &e)) {
        return false;
    }
    promise(d.documents == 2 && d.tokens == 10 && d.vocab_size > 0 && d.vocab_size <= INT32_MAX,
            "a wrong manifest");
    bool ok = answer(dataset_verify(&d, &e), &e);
    dataset_close(&d);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// Tokenizers: ids are in the vocabulary, decode to the text, equal those of a plain implementation,
// and stay the same where a text may be cut and after saving and loading

static void append_token_text(JsonWriter *w, const Tokenizer *t, const TokenBuffer *ids) {
    for (size_t i = 0; i < ids->count; i++) {
        size_t length;
        const char *bytes = tokenizer_text(t, ids->ids[i], &length);
        promise(ids->ids[i] >= 0 && (size_t)ids->ids[i] < t->vocabulary.count, "id %d of %zu",
                ids->ids[i], t->vocabulary.count);
        json_append(w, bytes, length);
    }
}

// The definition of BPE: as long as there is one, the merge that stands first in the list, the
// leftmost of those.
static size_t merge_plainly(const Tokenizer *t, const char *text, size_t n, int32_t *ids) {
    for (size_t i = 0; i < n; i++) {
        ids[i] = t->vocabulary.byte_id[(unsigned char)text[i]];
    }
    for (;;) {
        size_t best = n, first = t->merges.count;
        for (size_t i = 0; i + 1 < n; i++) {
            for (size_t priority = t->merges.count;
                 priority-- > 0;) { // of a repeated pair the last one counts
                if (t->merges.items[priority].left == ids[i] &&
                    t->merges.items[priority].right == ids[i + 1]) {
                    if (priority < first) {
                        best = i, first = priority;
                    }
                    break;
                }
            }
        }
        if (best == n) {
            return n;
        }
        ids[best] = t->merges.items[first].result;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

static bool same_ids(const TokenBuffer *a, const TokenBuffer *b) {
    return a->count == b->count &&
           (a->count == 0 || !memcmp(a->ids, b->ids, a->count * sizeof *a->ids));
}

// Ids one by one give whole characters.
static void check_decoding(const Tokenizer *t, const TokenBuffer *ids) {
    Decoder decoder;
    Error e = {0};
    decoder_init(&decoder, t, true);
    for (size_t i = 0; i <= ids->count; i++) {
        promise(i < ids->count ? decoder_add(&decoder, ids->ids[i], &e) : decoder_end(&decoder, &e),
                "%s", e.text);
        promise(is_utf8(decoder.text.data, decoder.text.length), "decoded text is no UTF-8");
        decoder.text.length = 0;
    }
    decoder_free(&decoder);
}

static void check_encoding(const Tokenizer *t, const char *text, size_t length) {
    Error e = {0};
    TokenBuffer ids = {0}, other = {0};
    JsonWriter decoded = {0};
    Encoder encoder;
    // Added tokens whose text is not their bytes ("Ġ" for a space), or that take the space beside
    // them, do not decode to the text.
    bool exact = t->model == MODEL_BYTE_BPE && !t->pre_tokenizer.prefix_space, plain = exact;
    for (size_t i = 0; i < t->added.count; i++) {
        size_t n;
        const char *bytes = tokenizer_text(t, t->added.items[i].id, &n);
        exact = exact && !t->added.items[i].left_strip && !t->added.items[i].right_strip &&
                same_text(bytes, n, t->added.items[i].text, t->added.items[i].length);
        plain = plain && !memmem(text, length, t->added.items[i].text, t->added.items[i].length);
    }
    promise(encoder_init(&encoder, t, &e) && encoder_encode(&encoder, text, length, &ids, &e), "%s",
            e.text);
    append_token_text(&decoded, t, &ids);
    promise(!exact || same_text(decoded.data, decoded.length, text, length),
            "the ids decode to another text");

    // Pre-tokens one by one, without cache and heap.
    if (plain && t->pre_tokenizer.split == SPLIT_GPT2 && !t->merges.ignore_merges &&
        t->merges.count < 400) {
        for (size_t i = 0, n; i < length; i += n) {
            n = pretoken_length(t->classes, text + i, length - i);
            promise(n > 0 && n <= length - i, "a pre-token of %zu bytes", n);
            promise(array_reserve(&other.ids, &other.capacity, other.count, n, sizeof(int32_t), &e),
                    "%s", e.text);
            other.count += merge_plainly(t, text + i, n, other.ids + other.count);
        }
        promise(same_ids(&ids, &other), "ids differ from those of a plain implementation");
    }
    if (utf8_is_valid(text, length)) {
        size_t cut = tokenizer_safe_cut(t, text, length);
        other.count = 0;
        promise(cut <= length, "a cut behind the text");
        promise(
            (cut == 0 || encoder_encode_chunk(&encoder, text, cut, TEXT_NOT_LAST, &other, &e)) &&
                encoder_encode_chunk(&encoder, text + cut, length - cut,
                                     cut ? TEXT_NOT_FIRST : TEXT_COMPLETE, &other, &e),
            "%s", e.text);
        promise(same_ids(&ids, &other), "a cut at byte %zu changes the ids", cut);
    }
    check_decoding(t, &ids);
    encoder_free(&encoder);
    free(decoded.data);
    free(ids.ids);
    free(other.ids);
}

static void check_saved(const Tokenizer *t, const char *text, size_t length) {
    Tokenizer again;
    TokenBuffer ids = {0}, other = {0};
    Error e = {0};
    char saved[PATH_LIMIT];
    snprintf(saved, sizeof saved, "%s", path_of("saved"));
    mkdir(saved, 0777);
    promise(tokenizer_save(t, saved, &e) && tokenizer_load(&again, saved, &e),
            "saved, then loaded: %s", e.text);
    promise(t->vocabulary.count == again.vocabulary.count &&
                t->merges.count == again.merges.count &&
                t->end_of_document == again.end_of_document && t->added.count == again.added.count,
            "a tokenizer saved and loaded differs");
    promise(tokenizer_encode(t, text, length, &ids, &e) &&
                tokenizer_encode(&again, text, length, &other, &e) && same_ids(&ids, &other),
            "a tokenizer saved and loaded gives other ids");
    tokenizer_free(&again);
    free(ids.ids);
    free(other.ids);
}

static bool check_tokenizer(InputPart text) {
    Tokenizer t;
    Error e = {0};
    if (!answer(tokenizer_load(&t, folder, &e), &e)) {
        return false;
    }
    promise(t.end_of_document >= 0 && (size_t)t.end_of_document < t.vocabulary.count,
            "no end-of-document token");
    check_encoding(&t, (char *)text.data, text.size);
    if (text.size % 4 == 0) { // saving takes longer than all the rest
        check_saved(&t, (char *)text.data, text.size);
    }
    tokenizer_free(&t);
    return true;
}

static bool run_tokenizer_json(InputPart *parts) {
    put_part("tokenizer.json", parts[0]);
    put_part_if_any("tokenizer_config.json", parts[1]);
    return check_tokenizer(parts[2]);
}

static bool run_model(InputPart *parts) {
    put_part("tokenizer.model", parts[0]);
    put_part_if_any("tokenizer_config.json", parts[1]);
    return check_tokenizer(parts[2]);
}

static bool run_vocab_merges(InputPart *parts) {
    put_part("vocab.json", parts[0]);
    put_part("merges.txt", parts[1]);
    put_part_if_any("tokenizer_config.json", parts[2]);
    return check_tokenizer(parts[3]);
}

// ---------------------------------------------------------------------------------------------------------------------
// prepare: JSON Lines and plain text become shards; each document of them is found again in its
// source

static void make_tokenizer(void) {
    static const char text[] =
        "the cat sat on the mat and the dog on the log; these are the words of this tokenizer";
    TokenizerTrainer trainer;
    Tokenizer t;
    Error e = {0};
    mkdir(path_of("tokenizer"), 0777);
    promise(trainer_init(&trainer, &e) && trainer_add(&trainer, text, sizeof text - 1, &e) &&
                trainer_finish(&trainer, 264, &t, &e) &&
                tokenizer_save(&t, path_of("tokenizer"), &e),
            "%s", e.text);
    trainer_free(&trainer);
    tokenizer_free(&t);
}

static World world; // of this one process

static void begin_prepare(void) {
    omp_set_num_threads(1);
    __lsan_disable(); // what MPI allocates it keeps
    world_init(&world, NULL, NULL);
    __lsan_enable();
    make_tokenizer();
}

// The tokens of a document whose bytes in the source are given.
static void encode_document(const Tokenizer *t, bool lines, const uint8_t *bytes, size_t length,
                            TokenBuffer *ids) {
    Error e = {0};
    JsonDocument json = {0};
    uint64_t replaced = 0;
    char *clean = malloc(3 * length + 1);
    size_t consumed,
        n = utf8_sanitize(clean, (const char *)bytes, length, true, &consumed, &replaced);
    const char *text = clean;
    ids->count = 0;
    if (lines) {
        promise(json_parse(&json, clean, n, "the line of a document", &e), "%s", e.text);
        const Json *value = json_get(json.root, "text");
        promise(value && value->kind == JSON_STRING, "the line of a document has no text");
        text = value->text, n = value->length;
    }
    promise(tokenizer_encode(t, text, n, ids, &e) &&
                token_buffer_append(ids, t->end_of_document, &e),
            "%s", e.text);
    json_free(&json);
    free(clean);
}

static void check_prepared(InputPart *parts, const PrepareReport *report) {
    const Counts *r = &report->counts;
    Error e = {0};
    Tokenizer t;
    size_t docs_size, bin_size = 0, at = 0;
    TokenBuffer ids = {0};
    char *docs = read_file(path_of("out/train.docs"), SIZE_MAX - 1, &docs_size, &e);
    char *bin = docs ? read_file(path_of("out/train.bin"), SIZE_MAX - 1, &bin_size, &e) : NULL;
    promise(bin && tokenizer_load(&t, path_of("out/tokenizer"), &e), "%s", e.text);
    promise(docs_size == DOCS_HEADER + DOCS_RECORD * r->documents && bin_size == 2 * r->tokens,
            "%zu bytes of .docs and %zu of .bin for %llu documents, %llu tokens", docs_size,
            bin_size, (unsigned long long)r->documents, (unsigned long long)r->tokens);
    for (uint64_t i = 0; i < r->documents; i++) {
        DocumentRecord d = docs_load((unsigned char *)docs + DOCS_HEADER + DOCS_RECORD * i);
        promise(d.source < 2 && d.offset <= parts[d.source].size &&
                    d.length <= parts[d.source].size - d.offset,
                "document %llu lies outside its source", (unsigned long long)i);
        encode_document(&t, d.source == 0, parts[d.source].data + d.offset, d.length, &ids);
        promise(d.tokens == ids.count, "document %llu has %llu tokens, its source gives %zu",
                (unsigned long long)i, (unsigned long long)d.tokens, ids.count);
        for (size_t k = 0; k < ids.count; k++, at++) {
            promise(load_le(bin + 2 * at, 2) == (uint64_t)ids.ids[k],
                    "token %zu is not what its source gives", at);
        }
    }
    promise(at == r->tokens, "%zu of %llu tokens belong to a document", at,
            (unsigned long long)r->tokens);
    tokenizer_free(&t);
    free(ids.ids);
    free(docs);
    free(bin);
}

// prepare_corpus prints its error line: here it becomes an Error.
static bool prepare_quietly(const PrepareOptions *options, PrepareReport *report, Error *e) {
    FILE *own = stderr;
    char *text = NULL;
    size_t length;
    stderr = open_memstream(&text, &length);
    bool ok = prepare_corpus(&world, options, report);
    fclose(stderr);
    stderr = own;
    text[strcspn(text, "\n")] = 0;
    snprintf(e->text, sizeof e->text, "%s", text);
    free(text);
    return answer(ok, e);
}

// The saved result of a unit: read, written and read again it is the same.
static bool run_unit(InputPart *parts) {
    JsonWriter written[2] = {{0}};
    Error e = {0};
    put_part("unit.json", parts[0]);
    for (int i = 0; i < 2; i++) {
        UnitResult r;
        bool ok = i ? unit_result_load(&r, path_of("unit.json"), &e)
                    : answer(unit_result_load(&r, path_of("unit.json"), &e), &e);
        if (ok) {
            unit_result_put(&written[i], &r);
            put_file("unit.json", written[i].data, written[i].length);
        }
        unit_result_free(&r);
        if (!ok) {
            promise(i == 0, "what was written is refused: %s", e.text);
            return false;
        }
    }
    promise(same_text(written[0].data, written[0].length, written[1].data, written[1].length),
            "the result of a unit changes when it is read");
    free(written[0].data);
    free(written[1].data);
    return true;
}

static void check_same_file(const char *one, const char *other) {
    char hex[65], other_hex[65];
    Error e = {0};
    promise(sha256_file(path_of(one), hex, &e) && sha256_file(path_of(other), other_hex, &e), "%s",
            e.text);
    promise(!strcmp(hex, other_hex), "%s and %s differ", one, other);
}

static bool run_prepare(InputPart *parts) {
    char lines[PATH_LIMIT], text[PATH_LIMIT], out[PATH_LIMIT], tokenizer[PATH_LIMIT];
    const char *inputs[] = {lines, text};
    snprintf(lines, sizeof lines, "%s", path_of("a.jsonl"));
    snprintf(text, sizeof text, "%s", path_of("b.txt"));
    snprintf(out, sizeof out, "%s", path_of("out"));
    snprintf(tokenizer, sizeof tokenizer, "%s", path_of("tokenizer"));
    PrepareOptions options = {.inputs = inputs,
                              .input_count = 2,
                              .out = out,
                              .tokenizer = tokenizer,
                              .text_key = "text",
                              .seed = 1,
                              .collect = {.max_characters = UINT64_MAX, .max_repeated_lines = 1},
                              .revision = ""};
    PrepareReport report;
    Dataset d;
    Error e = {0};
    put_part("a.jsonl", parts[0]);
    put_part("b.txt", parts[1]);
    remove_directory(out);
    remove_directory(path_of("small"));
    bool ok = prepare_quietly(&options, &report, &e);
    if (!ok) {
        promise(access(out, F_OK) != 0, "prepare failed and left its folder");
        return false;
    }
    check_prepared(parts, &report);
    if (report.counts.tokens >= 2) {
        promise(dataset_open(&d, out, "train", 1, &e) && dataset_verify(&d, &e), "%s", e.text);
        dataset_close(&d);
    }
    if (parts[0].size % 4 == 0) { // the same in stretches of some 50 bytes
        options.out = path_of("small");
        options.unit_bytes = 50;
        promise(prepare_quietly(&options, &report, &e), "%s", e.text);
        check_same_file("out/train.bin", "small/train.bin");
        check_same_file("out/train.docs", "small/train.docs");
        check_same_file("out/train.meta", "small/train.meta");
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Mixtures: PATH:WEIGHT as the command line has it, one a line, over three small shards

static void begin_mixture(void) {
    uint8_t shard[LLMC_HEADER + 2 * 20] = {0};
    store_le(shard, 20240520, 4);
    store_le(shard + 4, 1, 4);
    for (int i = 0; i < 3; i++) {
        char name[] = {(char)('a' + i), 0};
        uint64_t tokens = 5 + 7 * (uint64_t)i;
        store_le(shard + 8, tokens, 4);
        put_file(name, shard, LLMC_HEADER + 2 * tokens);
    }
}

// The order and its inverse agree, and shares are met within one sample after every number of them.
static void check_mixture(const Mixture *m) {
    uint64_t read[3] = {0};
    for (uint64_t k = 0; k < 200; k++) {
        SampleId id = mixture_order(m, 3, true, k);
        promise(id.dataset < m->count && id.sample < m->items[id.dataset].samples,
                "a sample outside its dataset");
        uint64_t epoch = read[id.dataset]++ / m->items[id.dataset].samples;
        promise(mixture_position(m, 3, true, id, epoch) == k, "position %llu is not found again",
                (unsigned long long)k);
        for (size_t i = 0; i < m->count; i++) {
            double quota = (double)(k + 1) * mixture_share(m, i);
            promise(fabs((double)read[i] - quota) < 1 && mixture_count(m, i, k + 1) == read[i],
                    "dataset %zu has %llu of the first %llu samples, its share is %g", i,
                    (unsigned long long)read[i], (unsigned long long)k + 1, quota);
        }
    }
}

static bool run_mixture(InputPart *parts) {
    char *specs[3] = {NULL}, *text = (char *)parts[0].data;
    size_t count = 0, left = parts[0].size;
    Mixture m;
    Error e = {0};
    for (; count < 3 && left > 0; count++) {
        char *newline = memchr(text, '\n', left);
        size_t n = newline ? (size_t)(newline - text) : left;
        specs[count] = malloc(strlen(folder) + n + 2);
        sprintf(specs[count], "%s/%.*s", folder, (int)n, text);
        text += n, left -= n;
        text += newline != NULL, left -= newline != NULL;
    }
    bool ok = count > 0 &&
              answer(mixture_open(&m, (const char *const *)specs, count, "train", 3, &e), &e);
    if (ok) {
        check_mixture(&m);
        mixture_close(&m);
    }
    for (size_t i = 0; i < count; i++) {
        free(specs[i]);
    }
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// The folder of a run: log.jsonl, restarts.jsonl, an event file, and the manifest of the data that
// the log calls "data". The new event file has a record for each step, with the right checks; the
// page and the card are well formed.

static uint32_t crc32c_masked_plainly(const uint8_t *data, size_t bytes) {
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
        }
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xA282EAD8;
}

// Lines of the log that are steps or evals: objects behind the first one that have a whole number
// "step".
static uint64_t count_log_steps(InputPart log) {
    uint64_t count = 0, objects = 0, step;
    char *line = (char *)log.data, *end = line + log.size;
    for (char *stop; line < end && (stop = memchr(line, '\n', (size_t)(end - line)));
         line = stop + 1) {
        JsonDocument document;
        Error e;
        if (json_parse(&document, line, (size_t)(stop - line), "", &e)) {
            if (document.root->kind == JSON_OBJECT) {
                count += objects++ > 0 && json_uint(json_get(document.root, "step"), &step);
            }
            json_free(&document);
        }
    }
    return count;
}

static void check_events(const char *path, InputPart log) {
    Error e = {0};
    size_t size = 0, at = 0;
    uint64_t records = 0;
    uint8_t *data = (uint8_t *)read_file(path, SIZE_MAX - 1, &size, &e);
    promise(data != NULL, "%s", e.text);
    for (; at < size; records++) {
        promise(size - at >= 16 && load_le(data + at + 8, 4) == crc32c_masked_plainly(data + at, 8),
                "event record %llu has a broken length", (unsigned long long)records);
        uint64_t length = load_le(data + at, 8);
        promise(length <= size - at - 16 &&
                    load_le(data + at + 12 + length, 4) ==
                        crc32c_masked_plainly(data + at + 12, (size_t)length),
                "event record %llu is broken", (unsigned long long)records);
        at += 16 + length;
    }
    promise(records == 2 + count_log_steps(log), "%llu event records for %llu lines of steps",
            (unsigned long long)records, (unsigned long long)count_log_steps(log));
    free(data);
}

// Every element that is opened is closed, in the right order, and nothing but the page's own
// elements is there.
static void check_html(const char *page, size_t length) {
    static const char *const single[] = {"meta", "link", "input", "br", "hr", "!DOCTYPE"};
    static const char *const foreign[] = {"script", "img", "iframe", "object", "a"};
    char open[64][16], name[16];
    size_t depth = 0;
    promise(is_utf8(page, length), "the page is no UTF-8");
    for (const char *at = page, *stop; (at = strchr(at, '<')); at = stop + 1) {
        bool closes = at[1] == '/', alone = false;
        stop = strchr(at, '>');
        promise(stop != NULL, "an element without an end: %.40s", at);
        size_t n = strcspn(at + 1 + closes, " \n/>");
        snprintf(name, sizeof name, "%.*s", (int)n, at + 1 + closes);
        for (size_t i = 0; i < sizeof single / sizeof *single; i++) {
            alone = alone || !strcmp(name, single[i]);
        }
        for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
            promise(strcmp(name, foreign[i]) != 0, "a foreign element: %.40s", at);
        }
        if (closes) {
            promise(depth > 0 && !strcmp(open[depth - 1], name), "</%s> closes <%s>", name,
                    depth ? open[depth - 1] : "");
            depth--;
        } else if (!alone && stop[-1] != '/') {
            promise(depth < 64, "elements are nested too deeply");
            memcpy(open[depth++], name, sizeof name);
        }
    }
    promise(depth == 0, "<%s> is not closed", depth ? open[depth - 1] : "");
}

static void check_page(const char *path) {
    Error e = {0};
    size_t length = 0;
    char *page = read_file(path, SIZE_MAX - 1, &length, &e);
    promise(page && strlen(page) == length, "%s", e.text);
    check_html(page, length);
    free(page);
}

static void check_card(const JsonWriter *card) {
    promise(is_utf8(card->data, card->length) && strlen(card->data) == card->length,
            "the card is no UTF-8");
    promise(!strncmp(card->data, "---\n", 4) && strstr(card->data + 4, "\n---\n"),
            "the card has no front matter");
}

// In the folder itself, since the log names its data by a path.
static bool run_report(InputPart *parts) {
    Error e = {0};
    EventWriter events;
    JsonWriter card = {0};
    JsonDocument head;
    char run[PATH_LIMIT];
    const char *runs[] = {run};
    int back = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(run, sizeof run, "%s", path_of("run"));
    remove_directory(run);
    promise(back >= 0 && chdir(folder) == 0 && mkdir(run, 0777) == 0, "%s", strerror(errno));
    mkdir("data", 0777);
    put_part("run/log.jsonl", parts[0]);
    put_part_if_any("run/restarts.jsonl", parts[1]);
    put_part_if_any("data/manifest.json", parts[2]);
    put_part_if_any("run/events.out.tfevents.0000000001.x.1.0.train_gpt", parts[3]);
    if (answer(events_open(&events, run, &e), &e)) {
        check_events(events.path, parts[0]);
        events_close(&events);
    }
    unlink(path_of("report.html"));
    bool ok = answer(report_page(runs, 1, path_of("report.html"), &e), &e);
    if (ok) {
        check_page(path_of("report.html"));
        size_t first =
            (size_t)((uint8_t *)memchr(parts[0].data, '\n', parts[0].size) - parts[0].data);
        promise(json_parse(&head, (char *)parts[0].data, first, "", &e), "%s", e.text);
        json_free(&head);
        if (answer(model_card(&card.text, run, (char *)parts[0].data, first, 3, &e), &e)) {
            check_card(&card);
        }
        free(card.data);
    }
    promise(fchdir(back) == 0 && close(back) == 0, "%s", strerror(errno));
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// trace: documents, metadata, chunk hashes and the suffix index of a prepared split, and the log of
// a run
//
// The split is always the same text, cut into documents by its end-of-document token. Its manifest
// is made here with the hashes of what the input holds, as somebody with bad intent would make it.

static const char traced_text[] =
    "the cat sat on the mat|the dog sat on the log|cats and dogs|the cat|mat mat mat|";
enum { TRACED_DOCUMENTS = 5 };

static struct {
    Tokenizer tokenizer;
    TokenTexts texts;
    TokenBuffer ids; // of all documents, each with its end
    uint64_t ends[TRACED_DOCUMENTS];
} traced;

static void begin_trace(void) {
    Error e = {0};
    uint8_t bytes[8];
    Scratch idx = {malloc(1 << 12), 0, 1 << 12}, bin = {malloc(1 << 12), 0, 1 << 12};
    omp_set_num_threads(1);
    make_tokenizer();
    promise(tokenizer_load(&traced.tokenizer, path_of("tokenizer"), &e) &&
                token_texts_init(&traced.texts, &traced.tokenizer, &e),
            "%s", e.text);
    const char *at = traced_text;
    for (size_t d = 0; d < TRACED_DOCUMENTS; d++) {
        size_t n = strcspn(at, "|");
        promise(tokenizer_encode(&traced.tokenizer, at, n, &traced.ids, &e) &&
                    token_buffer_append(&traced.ids, traced.tokenizer.end_of_document, &e),
                "%s", e.text);
        traced.ends[d] = traced.ids.count;
        at += n + 1;
    }
    for (size_t i = 0; i < traced.ids.count; i++) {
        store_le(bytes, (uint64_t)traced.ids.ids[i], 2);
        scratch_put(&bin, bytes, 2);
    }
    scratch_put(&idx, idx_magic_, sizeof idx_magic_);
    const struct {
        uint64_t value;
        int bytes;
    } header[] = {{1, 8}, {8, 1}, {TRACED_DOCUMENTS, 8}, {TRACED_DOCUMENTS + 1, 8}};
    for (size_t i = 0; i < 4; i++) {
        store_le(bytes, header[i].value, 8);
        scratch_put(&idx, bytes, (size_t)header[i].bytes);
    }
    for (int array = 0; array < 3; array++) { // lengths, pointers, documents
        for (uint64_t d = 0; d < TRACED_DOCUMENTS + (array == 2); d++) {
            uint64_t start = d ? traced.ends[d - 1] : 0;
            store_le(bytes, array == 0 ? traced.ends[d] - start : array == 1 ? 2 * start : d, 8);
            scratch_put(&idx, bytes, array ? 8 : 4);
        }
    }
    put_file("train.idx", idx.bytes, idx.size);
    put_file("train.bin", bin.bytes, bin.size);
    free(idx.bytes);
    free(bin.bytes);
}

static void manifest_put_file(JsonWriter *w, const char *ending) {
    char path[PATH_LIMIT], hex[65];
    struct stat status;
    Error e = {0};
    snprintf(path, sizeof path, "%s/train.%s", folder, ending);
    if (stat(path, &status) == 0) {
        promise(sha256_file(path, hex, &e), "%s", e.text);
        json_open(w, ending, '{');
        json_put_uint(w, "bytes", (uint64_t)status.st_size);
        json_put_string(w, "sha256", hex);
        json_close(w, '}');
    }
}

// With `index` the manifest has the hash of the index too.
static void put_manifest(bool index) {
    static const char *const endings[] = {"bin", "idx", "docs", "meta", "sums", "index"};
    JsonWriter w = {0};
    char hex[65];
    Error e = {0};
    promise(sha256_file(path_of("tokenizer/tokenizer.json"), hex, &e), "%s", e.text);
    json_open(&w, NULL, '{');
    json_put_uint(&w, "version", 1);
    json_open(&w, "tokenizer", '{');
    json_put_string(&w, "sha256", hex);
    json_put_uint(&w, "vocab_size", traced.tokenizer.vocabulary.count);
    json_close(&w, '}');
    json_open(&w, "splits", '{');
    json_open(&w, "train", '{');
    json_put_uint(&w, "documents", TRACED_DOCUMENTS);
    json_put_uint(&w, "tokens", traced.ids.count);
    for (size_t i = 0; i < sizeof endings / sizeof *endings - !index; i++) {
        manifest_put_file(&w, endings[i]);
    }
    json_close(&w, '}');
    json_close(&w, '}');
    json_open(&w, "sources", '[');
    json_open(&w, NULL, '{');
    json_put_string(&w, "path", "a.jsonl");
    json_close(&w, '}');
    json_close(&w, ']');
    json_close(&w, '}');
    put_file("manifest.json", w.data, w.length);
    free(w.data);
}

// The right .sums with changes of 3 bytes each: {offset, 255, how to change the byte there} or
// {entry, 0 to 254, entry that takes its place}. Nothing: no file.
static void put_sums(InputPart changes) {
    char hex[65];
    size_t size;
    Error e = {0};
    unlink(path_of("train.sums"));
    if (changes.size == 0) {
        return;
    }
    promise(sums_build(folder, "train", hex, &e), "%s", e.text);
    uint8_t *sums = (uint8_t *)read_file(path_of("train.sums"), SIZE_MAX - 1, &size, &e);
    promise(sums != NULL, "%s", e.text);
    for (size_t i = 0; i + 3 <= changes.size; i += 3) {
        const uint8_t *c = changes.data + i;
        if (c[1] == 255) {
            sums[2 * c[0] % size] ^= c[2];
        } else {
            memmove(sums + SUMS_HEADER + SUMS_ENTRY * (c[0] % 2),
                    sums + SUMS_HEADER + SUMS_ENTRY * (c[2] % 2), SUMS_ENTRY);
        }
    }
    put_file("train.sums", sums, size);
    free(sums);
}

static bool open_traced(Dataset *d, TraceData *t, Error *e) {
    promise(dataset_open(d, folder, "train", 4, e), "%s", e->text);
    bool ok = answer(trace_data_open(t, d, folder, "train", NULL, e), e);
    if (!ok) {
        trace_data_close(t);
        dataset_close(d);
    }
    return ok;
}

// .docs, .meta and changes of .sums. What is told of a document is its tokens and a valid record.
static bool run_docs(InputPart *parts) {
    Dataset d;
    TraceData t;
    Error e = {0};
    uint64_t number, all = 0;
    char id[] = "1";
    unlink(path_of("train.index"));
    put_part_if_any("train.docs", parts[0]);
    put_part_if_any("train.meta", parts[1]);
    put_sums(parts[2]);
    put_manifest(false);
    if (!open_traced(&d, &t, &e)) {
        return false;
    }
    for (uint64_t i = 0; i < TRACED_DOCUMENTS; i++) {
        TraceDocument document;
        if (answer(trace_document(&t, i, &document, &e), &e)) {
            promise(document.first == (i ? traced.ends[i - 1] : 0) &&
                        document.first + document.tokens == traced.ends[i],
                    "document %llu has other tokens", (unsigned long long)i);
            promise(!document.known ||
                        (document.record.tokens == document.tokens && document.source),
                    "document %llu has an impossible record", (unsigned long long)i);
            all++;
        }
        json_free(&document.metadata);
    }
    for (uint64_t token = 0; token < traced.ids.count; token++) {
        promise(trace_document_of(&t, token, &number, &e), "%s", e.text);
        promise(token < traced.ends[number] && (number == 0 || token >= traced.ends[number - 1]),
                "token %llu is not in document %llu", (unsigned long long)token,
                (unsigned long long)number);
    }
    number = 0;
    if (t.docs.path[0] && t.meta.path[0]) {
        answer(trace_find_id(&t, id, &number, &e), &e);
    }
    trace_data_close(&t);
    dataset_close(&d);
    return all == TRACED_DOCUMENTS;
}

// Whether the text stands in the data at this place.
static bool stands_at(uint64_t token, size_t offset, const char *text, size_t length) {
    for (; token < traced.ids.count && traced.ids.ids[token] != traced.tokenizer.end_of_document;
         token++) {
        size_t n;
        const char *bytes = tokenizer_text(&traced.tokenizer, traced.ids.ids[token], &n);
        if (offset > n) {
            return false;
        }
        size_t common = min_u64_(n - offset, length);
        if (memcmp(bytes + offset, text, common)) {
            return false;
        }
        text += common, length -= common;
        offset = 0;
        if (length == 0) {
            return true;
        }
    }
    return length == 0;
}

// How often the text stands in the documents.
static size_t count_plainly(const char *text, size_t length) {
    size_t count = 0;
    const char *at = traced_text;
    for (size_t d = 0; d < TRACED_DOCUMENTS; d++) {
        size_t n = strcspn(at, "|");
        for (size_t i = 0; i + length <= n; i++) {
            count += !memcmp(at + i, text, length);
        }
        at += n + 1;
    }
    return count;
}

// A .index, and a text to look for. Every place that a search tells is one; of an index as it
// should be, all of them.
static bool run_index(InputPart *parts) {
    Dataset d;
    TraceData t;
    TextSearch s;
    TextSpans spans = {0};
    Error e = {0};
    char hex[65];
    const char *text = (const char *)parts[1].data;
    size_t length = parts[1].size < 200 ? parts[1].size : 200;
    unlink(path_of("train.docs"));
    unlink(path_of("train.meta"));
    unlink(path_of("train.sums"));
    bool sound = parts[0].size == 0; // an empty part: the index as it should be
    if (sound) {
        promise(index_build(folder, "train", &traced.tokenizer, NULL, hex, &e), "%s", e.text);
    } else {
        put_part("train.index", parts[0]);
    }
    put_manifest(parts[1].size % 2);
    if (!utf8_is_valid(text, length) || !open_traced(&d, &t, &e)) {
        return false;
    }
    promise(text_search_open(&s, &t, 1, &traced.texts, text, length, &e), "%s", e.text);
    bool ok = answer(text_search_spans(&s, 2, &spans, &e), &e);
    promise(ok || !sound, "%s", e.text);
    for (size_t i = 0; ok && i < spans.count; i++) {
        TextSpan span = spans.items[i];
        Occurrences places = {0};
        promise(span.length <= length && span.first <= length - span.length,
                "a span outside the text");
        bool found = answer(text_search_places(&s, span, &places, &e), &e);
        promise(found || !sound, "%s", e.text);
        for (size_t k = 0; found && k < places.count; k++) {
            promise(stands_at(places.items[k].token, places.items[k].offset, text + span.first,
                              span.length),
                    "\"%.*s\" is not where it was found", (int)span.length, text + span.first);
        }
        promise(!sound || places.count == count_plainly(text + span.first, span.length),
                "\"%.*s\" was found %zu times, it is there %zu times", (int)span.length,
                text + span.first, places.count, count_plainly(text + span.first, span.length));
        free(places.items);
    }
    free(spans.items);
    text_search_close(&s);
    trace_data_close(&t);
    dataset_close(&d);
    return ok;
}

// log.jsonl and restarts.jsonl. Each position of the run was read at one place, and that place is
// at this position.
static bool run_run(InputPart *parts) {
    TraceRun r;
    Error e = {0};
    put_part("log.jsonl", parts[0]);
    put_part_if_any("restarts.jsonl", parts[1]);
    bool ok = answer(trace_run_open(&r, folder, 2, &e), &e);
    for (uint64_t i = 0; ok && i < 64; i++) {
        uint64_t position = i < 32 ? i : r.samples - (i - 31);
        RunPlace place;
        if (trace_run_place(&r, position, &place)) {
            promise(place.step >= 1 && place.step <= r.last_step, "step %llu of %llu",
                    (unsigned long long)place.step, (unsigned long long)r.last_step);
            promise(trace_run_position(&r, place.step) + place.row == position,
                    "position %llu is not found again", (unsigned long long)position);
        }
    }
    trace_run_close(&r);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// The targets

typedef enum { PART_BYTES, PART_JSON, PART_LINES, PART_SAFETENSORS, PART_PROTO } PartKind;

static void repair_idx(Scratch *parts, Dice *d) {
    repair_pair(&parts[0], &parts[1], d);
}

static void repair_docs(Scratch *parts, Dice *d) {
    repair_records(&parts[0], &parts[1], TRACED_DOCUMENTS, traced.ends, d);
}

static void repair_index(Scratch *parts, Dice *d) {
    (void)d;
    repair_suffixes(&parts[0], traced.ids.count);
}

static void repair_shard(Scratch *parts, Dice *d) {
    (void)d;
    repair_llmc(&parts[0]);
}

static void repair_tokenizer_json(Scratch *parts, Dice *d) {
    repair_tokenizer(&parts[0], NULL, d);
}

static void repair_vocab_merges(Scratch *parts, Dice *d) {
    repair_tokenizer(&parts[0], &parts[1], d);
}

typedef struct {
    const char *name;
    bool (*run)(InputPart *parts); // true: accepted
    size_t parts;
    PartKind kinds[MAX_PARTS];
    void (*repair)(Scratch *parts, Dice *d); // NULL: nothing to make right
    void (*begin)(void);
    bool nameless; // its errors name no file
} Target;

static const Target targets[] = {
    {"json", run_json, 1, {PART_JSON}, NULL, NULL, true},
    {"safetensors", run_safetensors, 1, {PART_SAFETENSORS}, NULL, NULL, false},
    {"weights", run_weights, 3, {PART_JSON, PART_SAFETENSORS, PART_SAFETENSORS}, NULL, NULL, false},
    {"config", run_config, 1, {PART_JSON}, NULL, NULL, false},
    {"state", run_state, 1, {PART_JSON}, NULL, NULL, false},
    {"sums", run_sums, 1, {PART_BYTES}, NULL, NULL, false},
    {"log", run_log, 1, {PART_LINES}, NULL, NULL, false},
    {"idx", run_idx, 2, {PART_BYTES, PART_BYTES}, repair_idx, NULL, false},
    {"llmc", run_llmc, 1, {PART_BYTES}, repair_shard, NULL, false},
    {"manifest", run_manifest, 1, {PART_JSON}, NULL, NULL, false},
    {"tokenizer_json",
     run_tokenizer_json,
     3,
     {PART_JSON, PART_JSON, PART_BYTES},
     repair_tokenizer_json,
     NULL,
     false},
    {"vocab_merges",
     run_vocab_merges,
     4,
     {PART_JSON, PART_BYTES, PART_JSON, PART_BYTES},
     repair_vocab_merges,
     NULL,
     false},
    {"model", run_model, 3, {PART_PROTO, PART_JSON, PART_BYTES}, NULL, NULL, false},
    {"docs", run_docs, 3, {PART_BYTES, PART_JSON, PART_BYTES}, repair_docs, begin_trace, false},
    {"index", run_index, 2, {PART_BYTES, PART_BYTES}, repair_index, begin_trace, false},
    {"run", run_run, 2, {PART_LINES, PART_LINES}, NULL, NULL, false},
    {"mixture", run_mixture, 1, {PART_BYTES}, NULL, begin_mixture, false},
    {"report", run_report, 4, {PART_LINES, PART_LINES, PART_JSON, PART_BYTES}, NULL, NULL, false},
    {"unit", run_unit, 1, {PART_JSON}, NULL, NULL, false},
    {"prepare", run_prepare, 2, {PART_LINES, PART_BYTES}, NULL, begin_prepare, false},
};
static const Target *target;

static void list_targets(void) {
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        puts(targets[i].name);
    }
}

static void end(void) {
    if (getpid() == owner) { // not in a child of libFuzzer's
        remove_directory(folder);
        printf("%s: %llu accepted, %llu rejected\n", target->name, (unsigned long long)accepted,
               (unsigned long long)rejected);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *name = getenv("FUZZ_TARGET");
    (void)argc, (void)argv;
    for (size_t i = 0; name && i < sizeof targets / sizeof *targets; i++) {
        target = strcmp(targets[i].name, name) ? target : &targets[i];
    }
    if (!target) {
        list_targets();
        exit(name && *name ? EXIT_USAGE : 0);
    }
    const char *files = getenv("FUZZ_FILES"),
               *memory = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(folder, sizeof folder, "%s/train_gpt_fuzz.XXXXXX", files ? files : memory);
    promise(mkdtemp(folder) != NULL, "%s: %s", folder, strerror(errno));
    owner = getpid();
    atexit(end);
    error_names = target->nameless ? NULL : folder;
    if (target->begin) {
        target->begin();
    }
    return 0;
}

// Readers get a copy in memory of its exact size, so that AddressSanitizer sees the byte behind it.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    InputPart parts[MAX_PARTS], copies[MAX_PARTS];
    uint8_t *whole = malloc(size + 1);
    if (size) {
        memcpy(whole, data, size);
    }
    split_parts(whole, size, target->parts, parts);
    for (size_t i = 0; i < target->parts; i++) {
        copies[i] = (InputPart){malloc(parts[i].size), parts[i].size};
        if (parts[i].size) {
            memcpy(copies[i].data, parts[i].data, parts[i].size);
        }
    }
    bool ok = target->run(copies);
    accepted += ok, rejected += !ok;
    for (size_t i = 0; i < target->parts; i++) {
        free(copies[i].data);
    }
    free(whole);
    return 0;
}

static void mutate_part(Scratch *s, PartKind kind, Dice *d) {
    if (kind == PART_JSON) {
        mutate_json(s, d);
    } else if (kind == PART_LINES) {
        mutate_lines(s, d);
    } else if (kind == PART_SAFETENSORS) {
        mutate_safetensors(s, d);
    } else if (kind == PART_PROTO) {
        mutate_proto(s, d, 0);
    } else {
        s->size = LLVMFuzzerMutate(s->bytes, s->size, s->most);
    }
}

// Mutates one part by its kind; then mostly makes the parts agree again. One in eight times
// anything may change.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    Dice dice = {seed, 0};
    InputPart parts[MAX_PARTS];
    Scratch scratch[MAX_PARTS], out = {data, 0, max_size};
    if (roll(&dice, 8) == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    split_parts(data, size, target->parts, parts);
    for (size_t i = 0; i < target->parts; i++) {
        scratch[i] = (Scratch){malloc(max_size), 0, max_size};
        scratch_put(&scratch[i], parts[i].data, parts[i].size);
    }
    size_t chosen = (size_t)roll(&dice, target->parts);
    mutate_part(&scratch[chosen], target->kinds[chosen], &dice);
    if (target->repair && roll(&dice, 4)) {
        target->repair(scratch, &dice);
    }
    for (size_t i = 0; i < target->parts; i++) {
        scratch_put(&out, scratch[i].bytes, scratch[i].size);
        if (i + 1 < target->parts) {
            scratch_put(&out, PART_END, PART_END_BYTES);
        }
        free(scratch[i].bytes);
    }
    return out.size;
}
