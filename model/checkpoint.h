// checkpoint.h: writing, finding and verifying checkpoints. A checkpoint is a Hugging Face model
// folder plus the training state. It gets its final name only when it is complete and on disk.
//
//   OUT/step-000300/
//       config.json generation_config.json model.safetensors   the model, for transformers
//       tokenizer.json tokenizer_config.json ...               the tokenizer
//       README.md                                              model card
//       trainer_state.json optimizer-00000.safetensors         the training state, for resume
//       SHA256SUMS                                             of all other files
#ifndef MODEL_CHECKPOINT_H
#define MODEL_CHECKPOINT_H

#include "model/safetensors.h"
#include "model/weights.h"
#include "util/array.h"
#include "util/sha256.h"

// ------------------------------------------------------------------------------------------------
// Writing a checkpoint: files are written to OUT/.step-NNNNNN.new, each hashed and synced; the
// commit renames the folder.

typedef struct {
    const char *out;
    char final[PATH_LIMIT], temporary[PATH_LIMIT], old[PATH_LIMIT];
    TextBuffer sums; // SHA256SUMS so far; the caller frees its data
} CheckpointWriter;

static inline bool checkpoint_make_folder_(const CheckpointWriter *w, Error *e) {
    remove_directory(w->temporary); // left by a killed run
    return !mkdir(w->temporary, 0777) ||
           fail(e, "%s: cannot be created: %s", w->temporary, strerror(errno));
}

// Begins OUT/step-NNNNNN; OUT must exist. Several ranks may write one checkpoint: one of them,
// which passes `first`, creates and commits it.
static inline bool checkpoint_begin(CheckpointWriter *w, const char *out, size_t step, bool first,
                                    Error *e) {
    *w = (CheckpointWriter){.out = out};
    if (!path_format(w->final, e, "%s/step-%06zu", out, step) ||
        !path_format(w->old, e, "%s/.step-%06zu.old", out, step) ||
        !path_format(w->temporary, e, "%s/.step-%06zu.new", out, step)) {
        return false;
    }
    if (!first) {
        return true;
    }

    return checkpoint_make_folder_(w, e);
}

// Begins a new folder OUT, which must not exist or be empty: files are written to OUT.new.
static inline bool folder_begin(CheckpointWriter *w, const char *out, Error *e) {
    int length = (int)strlen(out);
    while (length > 1 && out[length - 1] == '/') {
        length--;
    }
    *w = (CheckpointWriter){.out = out};
    if (!path_format(w->final, e, "%.*s", length, out) ||
        !path_format(w->temporary, e, "%.*s.new", length, out)) {
        return false;
    }
    if (rmdir(w->final) && errno != ENOENT) {
        return fail(e, "%s: exists already and is not an empty folder; give a new --out", out);
    }
    return checkpoint_make_folder_(w, e);
}

// Adds a line to SHA256SUMS, for a file of the checkpoint that was written by other means.
static inline void checkpoint_add_sum(CheckpointWriter *w, const char *name, const char *hex) {
    text_format(&w->sums, "%.64s  %s\n", hex, name);
}

// Adds a small file of `length` bytes.
static inline bool checkpoint_add_bytes(CheckpointWriter *w, const char *name, const char *data,
                                        size_t length, Error *e) {
    char path[PATH_LIMIT], hex[SHA256_HEX];
    Sha256 hash;
    if (!path_format(path, e, "%s/%s", w->temporary, name) || !write_file(path, data, length, e)) {
        return false;
    }
    sha256_begin(&hash);
    sha256_add(&hash, data, length);
    sha256_end(&hash, hex);
    checkpoint_add_sum(w, name, hex);
    return true;
}

// Adds a text as a small file.
static inline bool checkpoint_add_text(CheckpointWriter *w, const char *name,
                                       const TextBuffer *text, Error *e) {
    return text->failed ? fail(e, "%s/%s: no memory to write it", w->temporary, name)
                        : checkpoint_add_bytes(w, name, text->data, text->length, e);
}

// Adds a copy of a small file from another folder.
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

// The same, if that folder has it.
static inline bool checkpoint_add_copy_if_any(CheckpointWriter *w, const char *directory,
                                              const char *name, Error *e) {
    char path[PATH_LIMIT];
    return path_format(path, e, "%s/%s", directory, name) &&
           (access(path, F_OK) || checkpoint_add_copy(w, directory, name, e));
}

// ------------------------------------------------------------------------------------------------
// The tensors of a checkpoint: model.safetensors, or several files of at most TENSOR_FILE_BYTES and
// an index as on the Hugging Face Hub; optimizer-NNNNN.safetensors likewise. Several ranks write
// one file: one of them creates it, each opens it and writes its shards, and once all have closed
// it, it is on disk.

static const uint64_t TENSOR_FILE_BYTES = (uint64_t)4 << 30; // or the size of a larger tensor

typedef struct {
    char path[PATH_LIMIT];
    const char *name;    // in path
    size_t first, count; // range of the views
} TensorFile;

typedef struct {
    TensorFile *items;
    size_t count, capacity, model_count; // the first model_count hold the weights
} TensorFiles;

// Distributes `count` consecutive views over files of at most `limit` bytes.
static inline bool tensor_files_add_(TensorFiles *files, const TensorView *views, size_t first,
                                     size_t count, Dtype dtype, uint64_t limit, Error *e) {
    uint64_t bytes = UINT64_MAX;
    for (size_t i = first; i < first + count; i++) {
        uint64_t more = tensor_whole_elements(&views[i]) * dtypes[dtype].bytes;
        if (bytes > limit || more > limit - bytes) {
            if (!array_reserve(&files->items, &files->capacity, files->count, 1,
                               sizeof *files->items, e)) {
                return false;
            }
            files->items[files->count++] = (TensorFile){.first = i};
            bytes = 0;
        }
        files->items[files->count - 1].count++;
        bytes += more;
    }
    return true;
}

static inline bool tensor_file_name_(TensorFile *file, const char *folder, const char *name,
                                     Error *e) {
    if (!path_format(file->path, e, "%s/%s", folder, name)) {
        return false;
    }
    file->name = strrchr(file->path, '/') + 1;
    return true;
}

// The files of a model in `folder`; `views` (count) are of full tensors. The caller frees items.
static inline bool model_files(TensorFiles *files, const char *folder, const TensorView *views,
                               size_t count, Dtype dtype, uint64_t limit, Error *e) {
    char name[64] = "model.safetensors";
    *files = (TensorFiles){0};
    if (!tensor_files_add_(files, views, 0, count, dtype, limit, e)) {
        return false;
    }

    files->model_count = files->count;
    for (size_t f = 0; f < files->count; f++) {
        if (files->count > 1) {
            snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", f + 1, files->count);
        }
        if (!tensor_file_name_(&files->items[f], folder, name, e)) {
            return false;
        }
    }
    return true;
}

// The files of a checkpoint for `count` weights followed by 2 * count optimizer moments; `views`
// are of full tensors. The caller frees items.
static inline bool tensor_files(TensorFiles *files, const CheckpointWriter *w,
                                const TensorView *views, size_t count, Error *e) {
    if (!model_files(files, w->temporary, views, count, DTYPE_F32, TENSOR_FILE_BYTES, e) ||
        !tensor_files_add_(files, views, count, 2 * count, DTYPE_F32, TENSOR_FILE_BYTES, e)) {
        return false;
    }
    for (size_t f = files->model_count; f < files->count; f++) {
        char name[64];
        snprintf(name, sizeof name, "optimizer-%05zu.safetensors", f - files->model_count);
        if (!tensor_file_name_(&files->items[f], w->temporary, name, e)) {
            return false;
        }
    }
    return true;
}

// Writes model.safetensors.index.json: which of a model's files holds which tensor.
static inline void tensor_index_write_(JsonWriter *json, const TensorFiles *files,
                                       const TensorView *views, Dtype dtype) {
    uint64_t total = 0;
    json_open(json, NULL, '{');
    json_open(json, "weight_map", '{');
    for (size_t f = 0; f < files->model_count; f++) {
        const TensorFile *file = &files->items[f];
        for (size_t i = file->first; i < file->first + file->count; i++) {
            json_put_string(json, views[i].name, file->name);
            total += tensor_whole_elements(&views[i]) * dtypes[dtype].bytes;
        }
    }
    json_close(json, '}');
    json_open(json, "metadata", '{');
    json_put_uint(json, "total_size", total);
    json_close(json, '}');
    json_close(json, '}');
    json_append_text(json, "\n");
}

// Adds model.safetensors.index.json if the weights are in several files.
static inline bool checkpoint_add_index(CheckpointWriter *w, const TensorFiles *files,
                                        const TensorView *views, Dtype dtype, Error *e) {
    JsonWriter json = {.indent = 2};
    if (files->model_count == 1) {
        return true;
    }

    tensor_index_write_(&json, files, views, dtype);
    bool ok = checkpoint_add_text(w, "model.safetensors.index.json", &json.text, e);
    free(json.data);
    return ok;
}

// Writes SHA256SUMS, syncs the folder and gives it its final name. A corrupt checkpoint of that
// name is replaced. On failure the caller calls checkpoint_abort.
static inline bool checkpoint_commit(CheckpointWriter *w, Error *e) {
    if (!checkpoint_add_text(w, "SHA256SUMS", &w->sums, e) || !sync_directory(w->temporary, e)) {
        return false;
    }

    // Rename, moving an old checkpoint out of the way.
    remove_directory(w->old); // left by a killed run
    if (rename(w->final, w->old) && errno != ENOENT) {
        return fail(e, "%s: cannot be replaced: %s", w->final, strerror(errno));
    }
    if (rename(w->temporary, w->final)) {
        return fail(e, "%s: cannot be renamed to %s: %s", w->temporary, w->final, strerror(errno));
    }
    remove_directory(w->old);
    return sync_directory(w->out, e);
}

// Syncs a folder of folder_begin and gives it its final name.
static inline bool folder_commit(CheckpointWriter *w, Error *e) {
    char parent[PATH_LIMIT];
    if (!sync_directory(w->temporary, e) || !path_parent(parent, w->final, e)) {
        return false;
    }
    if (rename(w->temporary, w->final)) {
        return fail(e, "%s: cannot be renamed to %s: %s", w->temporary, w->final, strerror(errno));
    }
    return sync_directory(parent, e);
}

// Removes the unfinished checkpoint.
static inline void checkpoint_abort(CheckpointWriter *w) {
    remove_directory(w->temporary);
    free(w->sums.data);
    w->sums = (TextBuffer){0};
}

// ------------------------------------------------------------------------------------------------
// Finding and verifying checkpoints

// The steps of the folders OUT/step-NNNNNN in descending order; the caller frees *steps. OUT may
// not exist yet.
static inline bool checkpoint_list(const char *out, size_t **steps, size_t *count, Error *e) {
    DIR *directory = opendir(out);
    size_t capacity = 0;
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
        if (!array_reserve(steps, &capacity, *count, 1, sizeof **steps, e)) {
            closedir(directory);
            free(*steps);
            return false;
        }

        size_t at = (*count)++; // insertion sort: a run keeps few checkpoints
        for (size_t step = strtoull(digits, NULL, 10);; at--) {
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

// Verifies some of the files that SHA256SUMS, at `path`, lists: as checkpoint_verify. sums: its
// text, whose lines are cut.
static inline bool checkpoint_verify_sums_(char *sums, const char *path, const char *directory,
                                           bool with_optimizer, size_t share, size_t shares,
                                           Error *e) {
    static const char *needed[] = {"config.json", "trainer_state.json",
                                   "optimizer-00000.safetensors", "model.safetensors"};
    enum { NEEDED = sizeof needed / sizeof *needed, MODEL = NEEDED - 1 };
    bool found[NEEDED] = {0};
    size_t lines = 0;

    for (char *line = sums, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        if (!end || end - line < 67 || line[64] != ' ' || line[65] != ' ' ||
            memchr(line, '/', (size_t)(end - line))) {
            return fail(e, "%s: not a list of SHA-256 checksums", path);
        }
        *end = 0;
        const char *name = line + 66;
        for (size_t i = 0; i < NEEDED; i++) {
            found[i] |= !strcmp(name, needed[i]);
        }
        found[MODEL] |= !strcmp(name, "model.safetensors.index.json");
        if ((!with_optimizer && !strncmp(name, "optimizer-", 10)) || lines++ % shares != share) {
            continue;
        }

        char file[PATH_LIMIT], hex[SHA256_HEX];
        if (!path_format(file, e, "%s/%s", directory, name) || !sha256_file(file, hex, e)) {
            return false;
        }
        if (memcmp(hex, line, 64)) {
            return fail(e, "%s: checksum mismatch: modified or damaged since it was written", file);
        }
    }

    for (size_t i = 0; i < NEEDED; i++) {
        if (!found[i]) {
            return fail(e, "%s: does not list %s", path, needed[i]);
        }
    }
    return true;
}

// Verifies the files of a checkpoint against its SHA256SUMS: each of `shares` ranks every shares-th
// file, from number `share` on; optimizer files only if `with_optimizer`. A folder without
// trainer_state.json is a model from elsewhere and may have no checksums.
static inline bool checkpoint_verify(const char *directory, bool with_optimizer, size_t share,
                                     size_t shares, Error *e) {
    char path[PATH_LIMIT], state[PATH_LIMIT];
    size_t length;
    if (!path_format(state, e, "%s/trainer_state.json", directory) ||
        !path_format(path, e, "%s/SHA256SUMS", directory)) {
        return false;
    }
    if (!with_optimizer && access(state, F_OK) && access(path, F_OK)) {
        return true;
    }

    char *sums = read_file(path, 1 << 20, &length, e);
    bool ok =
        sums && checkpoint_verify_sums_(sums, path, directory, with_optimizer, share, shares, e);
    free(sums);
    return ok;
}

// Whether a folder looks as if this program made it: nothing but files in it, and of them at least
// one whose name begins as only those of checkpoints do. A killed save may have left any of them.
static inline bool checkpoint_is_ours_(const char *path) {
    static const char *const signs[] = {"SHA256SUMS", "trainer_state.json", "config.json", "model.",
                                        "model-",     "optimizer-"};
    struct dirent **names = NULL;
    struct stat status;
    int count = lstat(path, &status) || !S_ISDIR(status.st_mode) ? -1 : list_folder(path, &names);
    bool files = count >= 0, ours = count == 0;
    for (int i = 0; i < count; i++) {
        char child[PATH_LIMIT];
        Error ignored;
        files = files && path_format(child, &ignored, "%s/%s", path, names[i]->d_name) &&
                !lstat(child, &status) && S_ISREG(status.st_mode);
        for (size_t j = 0; j < sizeof signs / sizeof *signs; j++) {
            ours |= !strncmp(names[i]->d_name, signs[j], strlen(signs[j]));
        }
    }
    free_names(names, count);
    return files && ours;
}

// Removes a checkpoint's folder; one that this program did not make is left as it is, with a
// warning.
static inline void checkpoint_remove_folder_(const char *path) {
    if (checkpoint_is_ours_(path)) {
        remove_directory(path);
    } else if (!access(path, F_OK)) {
        printf("warning: %s is not removed: it is not a checkpoint\n", path);
    }
}

// Removes the hidden folders .step-*.new and .step-*.old that killed runs left in OUT. The caller
// holds the lock of OUT.
static inline void checkpoint_clean(const char *out) {
    struct dirent **names = NULL;
    int count = list_folder(out, &names);
    for (int i = 0; i < count; i++) {
        char path[PATH_LIMIT];
        Error ignored;
        if (!strncmp(names[i]->d_name, ".step-", 6) &&
            path_format(path, &ignored, "%s/%s", out, names[i]->d_name)) {
            checkpoint_remove_folder_(path);
        }
    }
    free_names(names, count);
}

// Removes OUT/step-NNNNNN. It is renamed first, so that a partly removed folder never has the name
// of a checkpoint.
static inline void checkpoint_remove(const char *out, size_t step) {
    char path[PATH_LIMIT], hidden[PATH_LIMIT];
    Error ignored;
    if (path_format(path, &ignored, "%s/step-%06zu", out, step) &&
        path_format(hidden, &ignored, "%s/.step-%06zu.old", out, step)) {
        checkpoint_remove_folder_(hidden);
        if (!checkpoint_is_ours_(path)) {
            printf("warning: %s is not removed: it is not a checkpoint\n", path);
        } else if (!rename(path, hidden)) {
            remove_directory(hidden);
        }
    }
}

#endif
