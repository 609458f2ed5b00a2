// export.h: `export`: a checkpoint, or any model that can be loaded, as a folder for the Hugging
// Face hub: weights in a number format of choice, in files of a limited size, without the training
// state.
#ifndef RUN_EXPORT_H
#define RUN_EXPORT_H

#include "model/checkpoint.h"
#include "model/config_json.h"
#include "model/tensors.h"
#include "mpi_utils.h"
#include "run/options.h"
#include "run/training_state.h" // defines: model_config_load, add_tokenizer_files
#include "util/text.h"

typedef struct {
    const char *from; // the folder of the model
    Dtype dtype;
    uint64_t file_bytes; // most bytes of a weights file, but for a larger tensor
    ModelConfig config;
    TensorSet weights;
    TensorView *views; // (tensors): of the whole model, without data
    size_t tensors;
    CheckpointWriter writer;
    TensorFiles files;
} Export;

// Copies a tensor from the model to a file, some of it at a time.
static inline bool export_tensor_(const Export *x, const TensorWriter *to, const TensorView *view,
                                  float *chunk, size_t chunk_size, Error *e) {
    const size_t n = tensor_elements(view);
    for (size_t i = 0; i < n; i += chunk_size) {
        const size_t end = min_u64(n, i + chunk_size);
        if (!tensor_set_read(&x->weights, view, i, end, chunk, e) ||
            !tensor_writer_write(to, view, i, end, chunk, e)) {
            return false;
        }
    }
    return true;
}

static inline bool export_file_(const Export *x, const TensorFile *file, Error *e) {
    enum { CHUNK = 1 << 20 };
    const TensorView *views = x->views + file->first;
    TensorWriter writer;
    float *chunk = malloc(CHUNK * sizeof *chunk);
    bool ok = (chunk || fail(e, "no memory to copy weights")) &&
              safetensors_create(file->path, views, file->count, x->dtype, e) &&
              tensor_writer_open(&writer, file->path, e);
    if (!ok) {
        free(chunk);
        return false;
    }

    for (size_t i = 0; ok && i < file->count; i++) {
        ok = export_tensor_(x, &writer, &views[i], chunk, CHUNK, e);
    }
    free(chunk);
    return tensor_writer_close(&writer, ok, e);
}

// Adds a text that has been written as JSON, and frees it.
static inline bool export_json_(Export *x, const char *name, JsonWriter *json, Error *e) {
    json_append_text(json, "\n");
    bool ok = checkpoint_add_text(&x->writer, name, &json->text, e);
    free(json->data);
    return ok;
}

// Configuration, index, tokenizer and model card.
static inline bool export_small_files_(Export *x, Error *e) {
    JsonWriter config = {.indent = 2}, generation = {.indent = 2};
    config_write(&config, &x->config, x->dtype);
    if (!export_json_(x, "config.json", &config, e)) {
        return false;
    }
    generation_config_write(&generation, &x->config);
    return export_json_(x, "generation_config.json", &generation, e) &&
           checkpoint_add_index(&x->writer, &x->files, x->views, x->dtype, e) &&
           checkpoint_add_copy_if_any(&x->writer, x->from, "README.md", e) &&
           add_tokenizer_files(&x->writer, x->from, e);
}

// Everything into the temporary folder.
static inline bool export_write_(Export *x, Error *e) {
    const ModelShard whole = shard_whole(&x->config);
    x->views = tensor_views(&x->config, &whole, NULL, &x->tensors);
    bool ok = (x->views || fail(e, "no memory for the list of tensors")) &&
              model_files(&x->files, x->writer.temporary, x->views, x->tensors, x->dtype,
                          x->file_bytes, e) &&
              export_small_files_(x, e);
    for (size_t f = 0; ok && f < x->files.count; f++) {
        ok = export_file_(x, &x->files.items[f], e);
    }
    return ok;
}

// Writes the model of --checkpoint to the new folder --out, which appears when it is complete.
static inline bool export_model(const Options *o, Error *e) {
    Export x = {.from = o->checkpoint, .dtype = (Dtype)o->dtype, .file_bytes = o->max_shard_size};
    if (!model_config_load(x.from, &x.config, e) || !checkpoint_verify(x.from, false, 0, 1, e) ||
        !weights_open(&x.weights, x.from, x.config.family, e)) {
        return false;
    }

    bool begun = folder_begin(&x.writer, o->out, e);
    bool ok = begun && export_write_(&x, e) && folder_commit(&x.writer, e);
    if (begun && !ok) {
        checkpoint_abort(&x.writer);
    }
    if (ok) {
        printf("exported %s/: %s, %zu tensors, %zu weights file%s of %s\n", o->out,
               x.config.family->class_name, x.tensors, x.files.count, x.files.count > 1 ? "s" : "",
               dtypes[x.dtype].name);
    }
    tensor_set_close(&x.weights);
    free(x.writer.sums.data);
    free(x.files.items);
    free(x.views);
    return ok;
}

// Rank 0 works, the others wait.
static inline int export_command(World *w, const Options *o) {
    Error e = {0};
    bool ok = (o->checkpoint && o->out) ||
              fail(&e, "export needs %s", o->checkpoint ? "--out DIR" : "--checkpoint DIR");
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    ok = w->rank != 0 || export_model(o, &e);
    return world_check_root(w, ok, &e) ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
