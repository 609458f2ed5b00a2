// training_state.h: a checkpoint of a run, a model folder that Hugging Face tools open plus what is
// needed to resume: saved by all ranks together, each what it owns, and loaded again under any
// grid.
#ifndef RUN_TRAINING_STATE_H
#define RUN_TRAINING_STATE_H

#include "model/checkpoint.h"
#include "model/config.h"
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
    const OwnedRanges *owned;
    bool zero;                   // optimizer state is sharded over data-parallel ranks
    float *exp_avg, *exp_avg_sq; // AdamW's m and v, of what this rank owns
} TrainingState;

// The small files of a checkpoint, which rank 0 has ready as text, and the folder whose tokenizer
// goes into it, "" for none.
typedef struct {
    JsonWriter *config, *generation_config, *trainer_state;
    const TextBuffer *model_card;
    const char *tokenizer;
} SmallFiles;

// Views of a shard's tensors, then AdamW's two arrays under the names they have in the optimizer's
// files: 3 * count of them, without data. NULL without memory.
static inline TensorView *state_views_(const ModelConfig *c, const ModelShard *s, size_t *count) {
    tensor_views(c, s, NULL, "", NULL, count);
    TensorView *views = malloc(3 * *count * sizeof *views);
    if (views) {
        tensor_views(c, s, NULL, "", views, count);
        tensor_views(c, s, NULL, "exp_avg.", views + *count, count);
        tensor_views(c, s, NULL, "exp_avg_sq.", views + 2 * *count, count);
    }
    return views;
}

// ------------------------------------------------------------------------------------------------
// Save

// Writes this rank's share of a file: of weights that all data-parallel ranks hold, an equal range
// of each tensor; of the optimizer's state likewise, or with ZeRO what this rank owns.
static inline bool state_write_(const TrainingState *t, const Grid *g, const TensorWriter *writer,
                                const TensorView *mine, Error *e) {
    size_t rank = (size_t)g->dp_rank, ranks = (size_t)g->dp;
    bool ok = true;

    for (size_t i = 0; ok && i < t->tensors; i++) {
        size_t n = tensor_elements(&mine[i]);
        size_t begin = n * rank / ranks, end = n * (rank + 1) / ranks;
        if (counts_once(t->shard, &t->views[i]) && safetensors_find(&writer->file, mine[i].name)) {
            ok = tensor_writer_write(writer, &mine[i], begin, end, t->views[i].data + begin, e);
        }
    }

    for (size_t i = 0; ok && i < 2 * t->owned->count; i++) {
        const OwnedRange *r = &t->owned->items[i / 2];
        const float *moments = i % 2 ? t->exp_avg_sq : t->exp_avg;
        const TensorView *view = &mine[(1 + i % 2) * t->tensors + r->tensor];
        size_t n = tensor_elements(view);
        size_t begin = n * rank / ranks, end = n * (rank + 1) / ranks;
        size_t from = t->zero || r->begin > begin ? r->begin : begin;
        size_t to = t->zero || r->end < end ? r->end : end;
        if (from < to && counts_once(t->shard, &t->views[r->tensor]) &&
            safetensors_find(&writer->file, view->name)) {
            ok = tensor_writer_write(writer, view, from, to,
                                     moments + r->offset + (from - r->begin), e);
        }
    }
    return ok;
}

// Collective: the tensors' files. Rank 0 creates them, all ranks write their shares, then each rank
// hashes some of the files. whole, mine: state_views_ of the model and of this rank's shard.
static inline bool write_tensor_files_(const TrainingState *t, World *w, CheckpointWriter *writer,
                                       const TensorFiles *files, const TensorView *whole,
                                       const TensorView *mine) {
    Error e = {0};
    char path[PATH_LIMIT], (*sums)[65] = calloc(files->count, sizeof *sums);
    bool ok = sums || fail(&e, "no memory to save a checkpoint");

    for (size_t f = 0; ok && w->rank == 0 && f < files->count; f++) {
        const TensorFile *file = &files->items[f];
        ok = path_format(path, &e, "%s/%s", writer->temporary, file->name) &&
             safetensors_create(path, whole + file->first, file->count, &e);
    }
    bool all = world_check(w, ok, &e);

    for (size_t f = 0; all && ok && f < files->count; f++) {
        TensorWriter tensors;
        ok = path_format(path, &e, "%s/%s", writer->temporary, files->items[f].name) &&
             tensor_writer_open(&tensors, path, &e) &&
             tensor_writer_close(&tensors, state_write_(t, &w->grid, &tensors, mine, &e), &e);
    }
    all = all && world_check(w, ok, &e);

    for (size_t f = (size_t)w->rank; all && ok && f < files->count; f += (size_t)w->size) {
        ok = path_format(path, &e, "%s/%s", writer->temporary, files->items[f].name) &&
             sha256_file(path, sums[f], &e);
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

static inline bool add_small_files_(CheckpointWriter *w, const SmallFiles *files, Error *e) {
    const TextBuffer *card = files->model_card;
    const char *tokenizer = files->tokenizer;
    char path[PATH_LIMIT];
    if (!checkpoint_add_json(w, "config.json", files->config, e) ||
        !checkpoint_add_json(w, "generation_config.json", files->generation_config, e) ||
        !checkpoint_add_json(w, "trainer_state.json", files->trainer_state, e) ||
        !checkpoint_add_bytes(w, "README.md", card->data, card->length, e)) {
        return false;
    }
    for (size_t i = 0; TOKENIZER_FILES[i] && tokenizer[0]; i++) {
        if (!path_format(path, e, "%s/%s", tokenizer, TOKENIZER_FILES[i]) ||
            (!access(path, F_OK) && !checkpoint_add_copy(w, tokenizer, TOKENIZER_FILES[i], e))) {
            return false;
        }
    }
    return true;
}

// Collective: writes OUT/.step-NNNNNN.new, which rank 0 then gives its final name. False on all
// ranks, with the reason printed, on failure; older checkpoints stay as they are.
static inline bool state_save(const TrainingState *t, World *w, const char *out, uint64_t step,
                              const SmallFiles *small) {
    Error e = {0};
    CheckpointWriter writer;
    TensorFiles files = {0};
    const ModelShard all = shard_whole(t->config);
    size_t whole_count, mine_count;
    bool root = w->rank == 0;
    TensorView *whole = state_views_(t->config, &all, &whole_count);
    TensorView *mine = state_views_(t->config, t->shard, &mine_count);

    bool ok = ((whole && mine) || fail(&e, "no memory to save a checkpoint")) &&
              tensor_files(&files, whole, whole_count, &e);
    bool begun = ok && checkpoint_begin(&writer, out, step, root, &e);
    ok = begun && (!root || (add_small_files_(&writer, small, &e) &&
                             checkpoint_add_index(&writer, &files, whole, &e)));

    ok = world_check(w, ok, &e) && write_tensor_files_(t, w, &writer, &files, whole, mine);
    bool committed = ok && (!root || checkpoint_commit(&writer, &e));
    if (begun && root && !committed) {
        checkpoint_abort(&writer);
    }
    if (begun && !root) {
        free(writer.sums.data);
    }
    free(files.items);
    free(whole);
    free(mine);
    return ok && world_check(w, committed, &e);
}

// ------------------------------------------------------------------------------------------------
// Load

// Reads what this rank owns of the optimizer's state.
static inline bool optimizer_load_(const TrainingState *t, const char *directory, Error *e) {
    TensorSet files = {0};
    size_t count;
    TensorView *views = state_views_(t->config, t->shard, &count);
    bool opened = views ? optimizer_open(&files, directory, e)
                        : fail(e, "no memory to load the optimizer state");
    bool ok = opened;

    for (size_t i = 0; ok && i < 2 * t->owned->count; i++) {
        const OwnedRange *r = &t->owned->items[i / 2];
        float *moments = i % 2 ? t->exp_avg_sq : t->exp_avg;
        const TensorView *view = &views[(1 + i % 2) * count + r->tensor];
        const Safetensors *file = NULL;
        const SafetensorsEntry *entry = tensor_set_find(&files, view->name, &file);
        ok = entry ? safetensors_read_range(file, entry, view, r->begin, r->end,
                                            moments + r->offset, e)
                   : fail(e, "%s/optimizer-*.safetensors: no tensor \"%s\"", directory, view->name);
    }

    if (opened) {
        tensor_set_close(&files);
    }
    free(views);
    return ok;
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
    return weights_load(directory, t->views, t->tensors, e) && optimizer_load_(t, directory, e);
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
