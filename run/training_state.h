// training_state.h: a checkpoint of a run, a model folder that Hugging Face tools open plus what is
// needed to resume: saved by all ranks together, each what it owns, and loaded again under any
// grid.
#ifndef RUN_TRAINING_STATE_H
#define RUN_TRAINING_STATE_H

#include "model/checkpoint.h"
#include "model/config_json.h"
#include "model/tensors.h"
#include "mpi_utils.h"
#include "run/gradient_reducer.h"
#include "tokenizer.h" // defines: TOKENIZER_FILES
#include "util/text.h"

// What one rank holds of the model and of AdamW's state.
typedef struct {
    const ModelConfig *config;
    const ModelShard *shard;
    const TensorView *views; // (tensors): of the shard's parameters
    size_t tensors;
    OwnedRanges owned;           // the ranges of them that this rank updates
    const Buckets *buckets;      // which hold the master weights, if there are any
    float *exp_avg, *exp_avg_sq; // AdamW's m and v, of what this rank owns
} TrainingState;

// A small file of a checkpoint, which rank 0 has ready as text.
typedef struct {
    const char *name;
    JsonWriter content;
} SmallFile;

enum { MOMENTS = 2 };

// The view of a tensor under the name that its AdamW moment m (0) or v (1) has in the optimizer's
// files.
static inline TensorView moment_view_(const TensorView *view, size_t moment) {
    TensorView named = *view;
    snprintf(named.name, sizeof named.name, "%s.%.68s", moment ? "exp_avg_sq" : "exp_avg",
             view->name);
    return named;
}

// Views of the whole model's tensors, then of their moments: (1 + MOMENTS) * *count of them,
// without data. NULL without memory.
static inline TensorView *saved_views_(const ModelConfig *c, size_t *count) {
    const ModelShard whole = shard_whole(c);
    TensorView *model = tensor_views(c, &whole, NULL, count);
    TensorView *views = model ? realloc(model, (1 + MOMENTS) * *count * sizeof *views) : NULL;
    for (size_t i = 0; views && i < MOMENTS * *count; i++) {
        views[*count + i] = moment_view_(&views[i % *count], i / *count);
    }
    if (!views) {
        free(model);
    }
    return views;
}

// ------------------------------------------------------------------------------------------------
// Save

// Writes this rank's share of a file: of weights that all data-parallel ranks hold, an equal range
// of each tensor; of the optimizer's state likewise, or with ZeRO what this rank owns, as of master
// weights.
static inline bool state_write_(const TrainingState *t, const Grid *g, const TensorWriter *writer,
                                Error *e) {
    size_t rank = (size_t)g->dp_rank, ranks = (size_t)g->dp;
    const float *masters = t->buckets->masters;
    bool zero = t->buckets->zero, ok = true;

    for (size_t i = 0; ok && !masters && i < t->tensors; i++) {
        const TensorView *view = &t->views[i];
        size_t n = tensor_elements(view);
        size_t begin = n * rank / ranks, end = n * (rank + 1) / ranks;
        if (counts_once(t->shard, view) && safetensors_find(&writer->file, view->name)) {
            ok = tensor_writer_write(writer, view, begin, end, view->data + begin, e);
        }
    }

    const float *const arrays[MOMENTS + 1] = {t->exp_avg, t->exp_avg_sq, masters};
    const size_t kinds = masters ? MOMENTS + 1 : MOMENTS;
    for (size_t i = 0; ok && i < kinds * t->owned.count; i++) {
        const OwnedRange *r = &t->owned.items[i / kinds];
        const size_t kind = i % kinds;
        const TensorView *weights = &t->views[r->tensor];
        const TensorView view = kind < MOMENTS ? moment_view_(weights, kind) : *weights;
        size_t n = tensor_elements(&view);
        size_t begin = n * rank / ranks, end = n * (rank + 1) / ranks;
        size_t from = zero || r->begin > begin ? r->begin : begin;
        size_t to = zero || r->end < end ? r->end : end;
        if (from < to && counts_once(t->shard, &view) &&
            safetensors_find(&writer->file, view.name)) {
            ok = tensor_writer_write(writer, &view, from, to,
                                     arrays[kind] + r->offset + (from - r->begin), e);
        }
    }
    return ok;
}

// Collective: the tensors' files. Rank 0 creates them, all ranks write their shares, then each rank
// hashes some of the files. views: saved_views_.
static inline bool write_tensor_files_(const TrainingState *t, World *w, CheckpointWriter *writer,
                                       const TensorFiles *files, const TensorView *views) {
    Error e = {0};
    char(*sums)[SHA256_HEX] = calloc(files->count, sizeof *sums);
    bool ok = sums || fail(&e, "no memory to save a checkpoint");

    for (size_t f = 0; ok && w->rank == 0 && f < files->count; f++) {
        const TensorFile *file = &files->items[f];
        ok = safetensors_create(file->path, views + file->first, file->count, DTYPE_F32, &e);
    }
    bool all = world_check(w, ok, &e);

    for (size_t f = 0; all && ok && f < files->count; f++) {
        TensorWriter tensors;
        ok = tensor_writer_open(&tensors, files->items[f].path, &e) &&
             tensor_writer_close(&tensors, state_write_(t, &w->grid, &tensors, &e), &e);
    }
    all = all && world_check(w, ok, &e);

    for (size_t f = (size_t)w->rank; all && ok && f < files->count; f += (size_t)w->size) {
        ok = sha256_file(files->items[f].path, sums[f], &e);
    }
    all = all && world_check(w, ok, &e);

    if (all) {
        MPI_Allreduce(MPI_IN_PLACE, sums, (int)(files->count * sizeof *sums), MPI_BYTE, MPI_BOR,
                      MPI_COMM_WORLD);
    }
    for (size_t f = 0; all && f < files->count; f++) {
        checkpoint_add_sum(writer, files->items[f].name, sums[f]);
    }
    free(sums);
    return all;
}

// The files of the tokenizer in a folder.
static inline bool add_tokenizer_files(CheckpointWriter *w, const char *directory, Error *e) {
    bool ok = true;
    for (size_t i = 0; ok && TOKENIZER_FILES[i]; i++) {
        ok = checkpoint_add_copy_if_any(w, directory, TOKENIZER_FILES[i], e);
    }
    return ok;
}

// The small files, and those of the tokenizer in a folder; "" for none.
static inline bool add_small_files_(CheckpointWriter *w, const SmallFile *files, size_t count,
                                    const char *tokenizer, Error *e) {
    for (size_t i = 0; i < count; i++) {
        if (!checkpoint_add_text(w, files[i].name, &files[i].content.text, e)) {
            return false;
        }
    }
    return !tokenizer[0] || add_tokenizer_files(w, tokenizer, e);
}

// Collective: writes OUT/.step-NNNNNN.new, which rank 0 then gives its final name. small: (count),
// read on rank 0. False on all ranks, with the reason printed, on failure; older checkpoints stay
// as they are.
static inline bool state_save(const TrainingState *t, World *w, const char *out, size_t step,
                              const SmallFile *small, size_t count, const char *tokenizer) {
    Error e = {0};
    CheckpointWriter writer = {0};
    TensorFiles files = {0};
    size_t tensors;
    bool root = w->rank == 0;
    TensorView *views = saved_views_(t->config, &tensors);

    bool begun = (views || fail(&e, "no memory to save a checkpoint")) &&
                 checkpoint_begin(&writer, out, step, root, &e);
    bool ok = begun && tensor_files(&files, &writer, views, tensors, &e) &&
              (!root || (add_small_files_(&writer, small, count, tokenizer, &e) &&
                         checkpoint_add_index(&writer, &files, views, DTYPE_F32, &e)));

    ok = world_check(w, ok, &e) && write_tensor_files_(t, w, &writer, &files, views);
    bool committed = ok && (!root || checkpoint_commit(&writer, &e));
    if (begun && root && !committed) {
        checkpoint_abort(&writer);
    }
    free(writer.sums.data);
    free(files.items);
    free(views);
    return ok && world_check(w, committed, &e);
}

// ------------------------------------------------------------------------------------------------
// Load

// Reads what this rank owns of the optimizer's state.
static inline bool optimizer_load_(const TrainingState *t, const char *directory, Error *e) {
    TensorSet files;
    if (!optimizer_open(&files, directory, e)) {
        return false;
    }

    bool ok = true;
    for (size_t i = 0; ok && i < MOMENTS * t->owned.count; i++) {
        const OwnedRange *r = &t->owned.items[i / MOMENTS];
        float *moments = i % MOMENTS ? t->exp_avg_sq : t->exp_avg;
        const TensorView view = moment_view_(&t->views[r->tensor], i % MOMENTS);
        ok = tensor_set_read(&files, &view, r->begin, r->end, moments + r->offset, e);
    }
    tensor_set_close(&files);
    return ok;
}

// The configuration of a model's folder; with a hint if it is the folder of a run that was given.
static inline bool model_config_load(const char *directory, ModelConfig *config, Error *e) {
    size_t *steps;
    size_t count = 0;
    char path[PATH_LIMIT];
    if (!path_format(path, e, "%s/config.json", directory)) {
        return false;
    }
    if (access(path, F_OK) && checkpoint_list(directory, &steps, &count, &(Error){0}) &&
        count > 0) {
        fail(e,
             "%s: is the folder of a run, not a model: give a checkpoint, the latest is "
             "%s/step-%06zu",
             directory, directory, steps[0]);
        free(steps);
        return false;
    }
    return config_load(directory, config, e);
}

// Refuses a checkpoint of a model of another shape.
static inline bool state_check_shape(const TrainingState *t, const char *directory, Error *e) {
    ModelConfig config;
    if (!config_load(directory, &config, e)) {
        return false;
    }
    return config_same_shape(&config, t->config) ||
           fail(e,
                "%s: holds a model of %zu layers, %zu channels, %zu heads, %zu positions, "
                "vocabulary size %zu; give the same options, or another --out for a new run",
                directory, config.layers, config.channels, config.heads, config.seq_len,
                config.vocab_size);
}

// Loads weights and optimizer state from a checkpoint that has been verified, of the same shape.
static inline bool state_load(const TrainingState *t, const char *directory, Error *e) {
    return weights_load(directory, t->config, t->views, t->tensors, e) &&
           optimizer_load_(t, directory, e);
}

// Collective: verifies the files of a model against their checksums, each rank some of them. On
// failure all ranks get the line of the lowest rank that found one.
static inline bool checkpoint_verify_together(World *w, const char *directory, bool with_optimizer,
                                              Error *e) {
    bool ok = checkpoint_verify(directory, with_optimizer, (size_t)w->rank, (size_t)w->size, e);
    int mine = ok ? w->size : w->rank, first;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first < w->size) {
        MPI_Bcast(e, sizeof *e, MPI_BYTE, first, MPI_COMM_WORLD);
    }
    return first == w->size;
}

#endif
