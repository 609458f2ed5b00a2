// resume.h: the folder of a run: claiming it, and resuming from its latest complete checkpoint.
// What defines the run (seed, data, sequence length) must be the same, or it would be another run.
#ifndef RUN_RESUME_H
#define RUN_RESUME_H

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "dataloader.h"
#include "mpi_utils.h"
#include "run/log_writer.h"
#include "run/option_changes.h"
#include "run/training_state.h"

// Position of a run.
typedef struct {
    size_t step, samples; // steps done, samples read by all ranks so far
    LogMark log;          // on rank 0
} RunPosition;

// Rank 0: creates OUT with its parents and takes the lock that keeps a second run from writing
// there. The lock goes with the process.
static inline bool run_folder_claim(const char *out, Error *e) {
    char path[PATH_LIMIT];
    if (!path_format(path, e, "%s", out)) {
        return false;
    }
    for (char *slash = path; slash;) {
        slash = strchr(slash + 1, '/');
        if (slash) {
            *slash = 0;
        }
        if (mkdir(path, 0777) && errno != EEXIST) {
            return fail(e, "%s: cannot be created: %s", path, strerror(errno));
        }
        if (slash) {
            *slash = '/';
        }
    }

    int directory = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        return fail(e, "%s: is not a folder that can be written to: %s", out, strerror(errno));
    }
    if (flock(directory, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        close(directory);
        return fail(e, "%s: another run is writing to this folder", out);
    }
    checkpoint_clean(out);
    return true;
}

// ------------------------------------------------------------------------------------------------
// trainer_state.json

static inline void trainer_state_write(JsonWriter *json, const RunRecord *r, RunPosition position) {
    json_open(json, NULL, '{');
    json_put_uint(json, "format", 1);
    json_put_uint(json, "step", position.step);
    json_put_uint(json, "samples", position.samples);
    json_put_uint(json, "seed", r->options->seed);
    json_put_uint(json, "shuffle", r->options->shuffle);
    json_put_uint(json, "seq_len", r->seq_len);
    json_open(json, "log", '{');
    json_put_uint(json, "bytes", position.log.bytes);
    json_put_string(json, "sha256", position.log.sha256);
    json_close(json, '}');
    log_write_mixture(json, "data", r->data);
    Options options = *r->options;
    options.global_batch = r->global_batch;
    options_write(json, &options, TRAIN);
    json_close(json, '}');
}

// The datasets in `saved` must be those of the run, in the same order and with the same weights,
// wherever they lie now.
static inline bool data_matches_(const Json *saved, const char *path, const Mixture *m, Error *e) {
    if (!saved || saved->kind != JSON_ARRAY) {
        return fail(e, "%s: has no list \"data\"", path);
    }
    if (saved->length != m->count) {
        return fail(e,
                    "%s: the run was started with %zu datasets in --data, not %zu; give those, or "
                    "another --out for a new run",
                    path, saved->length, m->count);
    }

    const Json *entry = saved->child;
    for (size_t i = 0; i < m->count; i++, entry = entry->next) {
        const char *hash = json_string(json_get(entry, "sha256")), *now = m->items[i].bin_hash;
        uint64_t tokens, weight;
        if (!json_uint(json_get(entry, "tokens"), &tokens) || tokens != m->items[i].tokens ||
            (hash && *now && strcmp(hash, now))) {
            return fail(e,
                        "%s: the run was started on other data than %s; give that, or another "
                        "--out for a new run",
                        path, m->paths[i]);
        }
        if (!json_uint(json_get(entry, "weight"), &weight) || weight != m->weights[i]) {
            return fail(e,
                        "%s: the run was started with other weights, %s has another share now; "
                        "give those, or another --out for a new run",
                        path, m->paths[i]);
        }
    }
    return true;
}

static inline bool state_matches_(const Json *state, const char *path, const RunRecord *r,
                                  Error *e) {
    const struct {
        const char *key, *option;
        uint64_t now;
    } same[] = {{"seed", "--seed", r->options->seed},
                {"shuffle", "--shuffle", r->options->shuffle},
                {"seq_len", "--seq-len", r->seq_len}};
    uint64_t value;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        if (!json_uint(json_get(state, same[i].key), &value)) {
            return fail(e, "%s: has no \"%s\"", path, same[i].key);
        }
        if (value != same[i].now) {
            return fail(e,
                        "%s: the run was started with %s %llu, not %llu; give that, or another "
                        "--out for a new run",
                        path, same[i].option, (unsigned long long)value,
                        (unsigned long long)same[i].now);
        }
    }
    return data_matches_(json_get(state, "data"), path, r->data, e);
}

// What the log was at a checkpoint; unknown in those of older programs.
static inline LogMark log_mark_read_(const Json *log) {
    LogMark mark = {0};
    const char *hash = json_string(json_get(log, "sha256"));
    if (hash && strlen(hash) + 1 == sizeof mark.sha256) {
        memcpy(mark.sha256, hash, sizeof mark.sha256);
        mark.bytes = json_uint_or(json_get(log, "bytes"), 0);
    }
    return mark;
}

// The options of this run as options_write writes them, with what --global-batch came to.
static inline bool changed_options_check_(const Json *state, const char *path, const RunRecord *r,
                                          bool same_run, Error *e) {
    Options options = *r->options;
    JsonWriter now = {0};
    JsonDocument document;
    options.global_batch = r->global_batch;
    json_open(&now, NULL, '{');
    options_write(&now, &options, TRAIN);
    json_close(&now, '}');
    bool ok = !now.failed && json_parse(&document, now.data, now.length, "the options", e);
    free(now.data);
    if (!ok) {
        return now.failed ? fail(e, "no memory for the options") : false;
    }
    ok = options_check_changes(json_get(state, "options"), json_get(document.root, "options"),
                               r->world->rank == 0, !same_run || r->options->allow_change, path, e);
    json_free(&document);
    return ok;
}

// Reads the position of a checkpoint, and refuses one of another run. same_run: it is to go on as
// it began.
static inline bool trainer_state_read(const char *directory, const RunRecord *r, bool same_run,
                                      RunPosition *position, Error *e) {
    char path[PATH_LIMIT];
    JsonDocument state;
    if (!path_format(path, e, "%s/trainer_state.json", directory) ||
        !json_parse_file(&state, path, 1 << 25, e)) {
        return false;
    }
    bool ok = (json_uint(json_get(state.root, "step"), &position->step) &&
               json_uint(json_get(state.root, "samples"), &position->samples)) ||
              fail(e, "%s: has no \"step\" or \"samples\"", path);
    position->log = log_mark_read_(json_get(state.root, "log"));
    ok = ok && state_matches_(state.root, path, r, e) &&
         changed_options_check_(state.root, path, r, same_run, e);
    json_free(&state);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Resume

// Loads a checkpoint that has been verified, if it is of this run.
static inline bool load_checkpoint_(const TrainingState *t, const RunRecord *r,
                                    const char *directory, bool same_run, RunPosition *position,
                                    Error *e) {
    return state_check_shape(t, directory, e) &&
           trainer_state_read(directory, r, same_run, position, e) && state_load(t, directory, e);
}

// Collective: begins a new run where a checkpoint of another one, --resume-from, stands: weights,
// optimizer state and position in the data.
static inline bool run_resume_from(const TrainingState *t, World *w, const RunRecord *r,
                                   RunPosition *position) {
    Error e = {0};
    const char *directory = r->options->resume_from;
    bool ok = checkpoint_verify_together(w, directory, true, &e) &&
              load_checkpoint_(t, r, directory, false, position, &e) &&
              (position->step < r->options->steps ||
               fail(&e, "%s: is at step %zu already: --steps %zu must be more", directory,
                    position->step, r->options->steps));
    position->log = (LogMark){0}; // of another run's log
    return world_check(w, ok, &e);
}

// Collective: loads the latest complete checkpoint of OUT into `t` and *position, with a warning
// for each broken one that it passes over. *resumed says whether there was one. A run whose
// checkpoints are all broken is an error: training must not silently start over.
static inline bool run_resume(const TrainingState *t, World *w, const RunRecord *r,
                              RunPosition *position, bool *resumed) {
    Error e = {0};
    const char *out = r->options->out;
    size_t *steps = NULL;
    size_t count = 0;
    bool ok = w->rank != 0 || checkpoint_list(out, &steps, &count, &e);
    if (ok && count > 0 && r->options->resume == RESUME_NONE) {
        ok = fail(&e,
                  "%s: already holds a run, up to step %zu; use --resume auto to resume it, or "
                  "another --out",
                  out, steps[0]);
    }
    *resumed = false;
    ok = world_check(w, ok, &e);
    broadcast(&count, sizeof count);

    for (size_t i = 0; ok && !*resumed && i < count; i++) {
        char directory[PATH_LIMIT];
        size_t step = w->rank == 0 ? steps[i] : 0;
        broadcast(&step, sizeof step);
        if (path_format(directory, &e, "%s/step-%06zu", out, step) &&
            checkpoint_verify_together(w, directory, true, &e)) {
            ok = world_check(w, load_checkpoint_(t, r, directory, true, position, &e), &e);
            *resumed = ok;
        } else if (w->rank == 0) {
            printf("warning: %s\n", e.text);
        }
    }
    free(steps);

    if (ok && count > 0 && !*resumed) {
        fail(&e, "%s: all %zu checkpoints are incomplete or corrupt; delete them to start over",
             out, count);
    }
    return ok && world_check(w, count == 0 || *resumed, &e);
}

// Rank 0: removes all but the latest `keep` checkpoints up to `step`; 0 keeps all. Later ones are
// broken, or the run would have resumed from them: they do not count.
static inline void remove_old_checkpoints(const char *out, size_t keep, size_t step) {
    size_t *steps;
    size_t count, kept = 0;
    Error ignored;
    if (keep > 0 && checkpoint_list(out, &steps, &count, &ignored)) {
        for (size_t i = 0; i < count; i++) {
            if (steps[i] <= step && kept++ >= keep) {
                checkpoint_remove(out, steps[i]);
            }
        }
        free(steps);
    }
}

#endif
