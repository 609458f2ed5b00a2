// safetensors.h: safetensors: every tensor is read and compared with a second decoding; a file
// written from them reads the same
#ifndef TEST_FUZZ_TARGETS_SAFETENSORS_H
#define TEST_FUZZ_TARGETS_SAFETENSORS_H

#include "test/fuzz_targets/promises.h"

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
                path_format(path, &e, "%s/again.safetensors", writer.temporary) &&
                safetensors_create(path, views, count, DTYPE_F32, &e) &&
                tensor_writer_open(&tensors, path, &e),
            "%s", e.text);
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        ok = tensor_writer_write(&tensors, &views[i], 0, tensor_elements(&views[i]), views[i].data,
                                 &e);
    }
    promise(tensor_writer_close(&tensors, ok, &e) && safetensors_open(&again, path, &e), "%s",
            e.text);
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
    const ModelConfig config = config_of_family(FAMILY_GPT2);
    Error e = {0};
    put_part_if_any("model.safetensors.index.json", parts[0]);
    put_part_if_any("model.safetensors", parts[1]);
    put_part_if_any("b.safetensors", parts[2]);
    memset(wte, 0xA5, sizeof wte);
    memset(bias, 0xA5, sizeof bias);
    memset(matrix, 0xA5, sizeof matrix);
    if (!answer(weights_load(folder, &config, views, 3, &e), &e)) {
        return false;
    }
    for (size_t i = 0; i < 3; i++) {
        promise(holds_tensor(path_of("model.safetensors"), &parts[1], &views[i]) ||
                    (parts[0].size && holds_tensor(path_of("b.safetensors"), &parts[2], &views[i])),
                "%s is in no file", views[i].name);
    }
    return true;
}

#endif
