// option_changes.h: what a resume changes of the options that its checkpoint was saved with. All
// changes are named; those that make another run of it need --allow-change.
#ifndef RUN_OPTION_CHANGES_H
#define RUN_OPTION_CHANGES_H

#include "run/options.h"
#include "util/json.h"
#include "util/text.h"

// Options that say where files are, when something is written, or how this job began.
static const char *const options_of_the_job_[] = {
    "out",     "init",       "resume_from",  "resume", "time_limit", "log_every",    "verify_data",
    "machine", "save_every", "allow_change", "keep",   "eval_every", "eval_batches", NULL};

// Options on which the weights depend beyond rounding.
static const char *const options_of_the_weights_[] = {
    "lr",    "min_lr", "warmup_steps", "schedule", "decay_steps", "weight_decay",
    "beta1", "beta2",  "eps",          "clip",     "z_loss",      "global_batch",
    NULL};

// The value of an option, "?" for a list.
static inline void option_json_text_(const Json *value, char text[64]) {
    switch (value->kind) {
    case JSON_NUMBER:
        snprintf(text, 64, "%.9g", json_double_or(value, 0));
        break;
    case JSON_STRING:
        snprintf(text, 64, "%s", json_string(value) ? json_string(value) : "?");
        break;
    case JSON_BOOL:
        snprintf(text, 64, "%s", value->boolean ? "on" : "off");
        break;
    default:
        snprintf(text, 64, "%s", value->kind == JSON_NULL ? "none" : "?");
    }
}

// Compares the options in `saved`, an object as options_write writes it, with those in `now`. say:
// print the changes. Without `allowed` a change that makes another run of it is an error. path: of
// the checkpoint's file.
static inline bool options_check_changes(const Json *saved, const Json *now, bool say, bool allowed,
                                         const char *path, Error *e) {
    TextBuffer changes = {0}, refused = {0};
    for (const Json *m = now ? now->child : NULL; m; m = m->next) {
        const Json *before = json_get(saved, m->key);
        char was[64], is[64];
        if (!before || is_one_of(m->key, options_of_the_job_)) {
            continue; // an option that the checkpoint's program did not have
        }
        option_json_text_(before, was);
        option_json_text_(m, is);
        if (strcmp(was, is)) {
            TextBuffer *list =
                is_one_of(m->key, options_of_the_weights_) && !allowed ? &refused : &changes;
            text_format(list, "%s%s %s -> %s", list->length ? ", " : "", m->key, was, is);
        }
    }
    if (say && changes.length) {
        printf("changed since the checkpoint: %s\n", changes.data);
    }
    bool ok =
        !refused.length ||
        fail(e, "%s: changed since the checkpoint: %s; give the old values, or --allow-change",
             path, refused.data);
    free(changes.data);
    free(refused.data);
    return ok;
}

#endif
