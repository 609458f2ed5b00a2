// work_folder.h: the hidden sibling of the output folder in which a run works, .NAME.preparing. An
// interrupted run leaves it to the next one with the same job, which resumes.
//
//   job.json    everything that decides what comes out
//   parts/      files of the units
//   data/       becomes the output folder when it is complete
#ifndef CORPUS_WORK_FOLDER_H
#define CORPUS_WORK_FOLDER_H

#include <sys/file.h> // flock

#include "corpus/options.h"
#include "corpus/sources.h"
#include "util/files.h"
#include "util/json.h"

typedef struct {
    char path[PATH_LIMIT];
    int lock;      // rank 0: descriptor of the folder, locked; -1: it is not ours
    bool resuming; // rank 0: it holds units of the same job
} WorkFolder;

// Names the folder; nothing is made yet.
static inline bool work_folder_name(WorkFolder *work, const char *out, Error *e) {
    size_t length = strlen(out);
    while (length > 1 && out[length - 1] == '/') {
        length--;
    }
    size_t name = length;
    while (name > 0 && out[name - 1] != '/') {
        name--;
    }
    if (length == 0 || name == length) {
        return fail(e, "\"%s\": is not a name for the output folder", out);
    }
    return path_format(work->path, e, "%.*s.%.*s.preparing", (int)name, out, (int)(length - name),
                       out + name);
}

// ------------------------------------------------------------------------------------------------
// job.json

static inline void job_put_file_(JsonWriter *w, const char *path, uint64_t bytes, uint64_t inode,
                                 struct timespec time) {
    json_open(w, NULL, '{');
    json_put_string(w, "path", path);
    json_put_uint(w, "bytes", bytes);
    json_put_uint(w, "inode", inode);
    json_put_uint(w, "seconds", (uint64_t)time.tv_sec);
    json_put_uint(w, "nanoseconds", (uint64_t)time.tv_nsec);
    json_close(w, '}');
}

// The files of a tokenizer's folder, or its one file.
static inline bool job_put_tokenizer_(JsonWriter *w, const char *path, Error *e) {
    struct dirent **names = NULL;
    int count = list_folder(path, &names);
    bool ok = true;
    for (int i = -1; ok && i < count; i++) {
        char file[PATH_LIMIT];
        struct stat status;
        ok = i < 0 ? path_format(file, e, "%s", path)
                   : path_format(file, e, "%s/%s", path, names[i]->d_name);
        if (ok && stat(file, &status) == 0 && S_ISREG(status.st_mode)) {
            job_put_file_(w, file, (uint64_t)status.st_size, (uint64_t)status.st_ino,
                          status.st_mtim);
        }
    }
    free_names(names, count);
    return ok;
}

static inline void job_put_options_(JsonWriter *w, const PrepareOptions *o) {
    json_put_string(w, "revision", o->revision ? o->revision : "");
    json_put_strings(w, "command", o->command, o->command_count);
    json_put_string(w, "tokenizer", o->tokenizer ? o->tokenizer : "");
    json_put_bool(w, "unigram", o->unigram);
    json_put_bool(w, "index", o->index);
    json_put_uint(w, "vocab_size", o->vocab_size);
    json_put_uint(w, "tokenizer_sample", o->tokenizer_sample);
    json_put_double(w, "val_fraction", o->val_fraction);
    json_put_string(w, "text_key", o->text_key);
    json_put_uint(w, "seed", o->seed);
    json_put_uint(w, "unit_bytes", o->unit_bytes);
    json_put_uint(w, "min_characters", o->collect.min_characters);
    json_put_uint(w, "max_characters", o->collect.max_characters);
    json_put_double(w, "min_japanese", o->collect.min_japanese);
    json_put_double(w, "max_repeated_lines", o->collect.max_repeated_lines);
    json_put_bool(w, "exact", o->collect.exact);
    json_put_double(w, "near_duplicates", o->collect.near_duplicates);
}

// Everything that decides what comes out, but for the tokenizer that is trained.
static inline bool job_put_(JsonWriter *w, const PrepareOptions *o, const SourceList *sources,
                            Error *e) {
    json_open(w, NULL, '{');
    job_put_options_(w, o);
    json_open(w, "files", '[');
    for (size_t i = 0; i < sources->count; i++) {
        const Source *s = &sources->items[i];
        job_put_file_(w, s->path, s->bytes, s->inode, s->time);
    }
    bool ok = !o->tokenizer || job_put_tokenizer_(w, o->tokenizer, e);
    json_close(w, ']');
    json_close(w, '}');
    json_append(w, "\n", 1);
    return ok && (!w->failed || fail(e, "prepare: no memory to describe the job"));
}

// ------------------------------------------------------------------------------------------------
// From empty to published, on rank 0

// The output folder must not exist, or be empty.
static inline bool work_folder_check_out_(const char *out, Error *e) {
    struct dirent **names = NULL;
    char manifest[PATH_LIMIT];
    if (!path_format(manifest, e, "%s/manifest.json", out)) {
        return false;
    }

    int count = list_folder(out, &names);
    int reason = errno;
    free_names(names, count);
    if (count < 0 && reason != ENOENT) {
        return fail(e, "%s: cannot become the output folder: %s", out, strerror(reason));
    }
    return count <= 0 || fail(e, "%s: already holds %s; choose another --out or remove it", out,
                              access(manifest, F_OK) ? "other files" : "prepared data");
}

// Creates the folder and locks it against a second prepare.
static inline bool work_folder_lock_(WorkFolder *work, const char *out, Error *e) {
    if (mkdir(work->path, 0777) && errno != EEXIST) {
        return fail(e, "%s: cannot be created: %s", out, strerror(errno));
    }
    int folder = open(work->path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (folder < 0) {
        return fail(e, "%s: cannot be opened: %s", work->path, strerror(errno));
    }
    if (flock(folder, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        close(folder);
        return fail(e, "%s: another prepare is creating this folder right now", out);
    }
    work->lock = folder;
    return true;
}

// Whether the folder was left by an interrupted run with the same job.
static inline bool work_folder_same_job_(const char *job_path, const JsonWriter *job,
                                         const PrepareOptions *o) {
    enum { LIMIT = 1 << 28 };
    size_t length;
    char *left = read_file(job_path, LIMIT, &length, &(Error){0});
    bool same = left && length == job->length && !memcmp(left, job->data, length);
    if (left && !same && o->progress) {
        fprintf(o->progress,
                "%s: an earlier prepare with other input or options was interrupted; starting "
                "over\n",
                o->out);
    }
    free(left);
    return same;
}

static inline bool work_folder_make_(const char *work, const char *name, Error *e) {
    char path[PATH_LIMIT];
    return path_format(path, e, "%s/%s", work, name) &&
           (mkdir(path, 0777) == 0 || errno == EEXIST ||
            fail(e, "%s: cannot be created: %s", path, strerror(errno)));
}

// Makes the folder, which work_folder_name has named. What an interrupted run left in it is kept if
// it was the same job, else removed.
static inline bool work_folder_open(WorkFolder *work, const PrepareOptions *o,
                                    const SourceList *sources, Error *e) {
    char job_path[PATH_LIMIT];
    JsonWriter job = {0};
    if (!work_folder_check_out_(o->out, e) || !work_folder_lock_(work, o->out, e)) {
        return false;
    }
    bool ok = path_format(job_path, e, "%s/job.json", work->path) && job_put_(&job, o, sources, e);
    if (ok) {
        work->resuming = work_folder_same_job_(job_path, &job, o);
        if (!work->resuming) {
            remove_contents(work->path);
        }
        ok = work_folder_make_(work->path, "parts", e) &&
             work_folder_make_(work->path, "data", e) &&
             (work->resuming || replace_file(job_path, job.data, job.length, e)) &&
             sync_directory(work->path, e);
    }
    free(job.data);
    return ok;
}

// Gives the finished data/ its name. From here on it is complete, whatever happens.
static inline bool work_folder_publish(const WorkFolder *work, const char *out, Error *e) {
    char parent[PATH_LIMIT], data[PATH_LIMIT];
    if (!path_parent(parent, work->path, e) || !path_format(data, e, "%s/data", work->path) ||
        !sync_directory(data, e)) {
        return false;
    }
    if (rename(data, out)) { // over an empty folder too
        return fail(e, "%s: cannot be renamed to %s: %s", data, out, strerror(errno));
    }
    return sync_directory(parent, e);
}

// Removes the folder, if it is ours.
static inline void work_folder_close(WorkFolder *work) {
    if (work->lock >= 0) {
        remove_directory(work->path);
        close(work->lock);
    }
}

#endif
