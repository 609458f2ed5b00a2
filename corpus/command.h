// command.h: the prepare command, the public face of this folder.
#ifndef CORPUS_COMMAND_H
#define CORPUS_COMMAND_H

#include "corpus/prepare.h"
#include "mpi_utils.h"
#include "parallel/placement.h"
#include "run/command_line.h"

// Collective: runs the command, returns the exit status.
static inline int prepare_command(World *w, const Options *o) {
    Error e = {0};
    PrepareReport report;
    PrepareOptions p = {
        .inputs = o->input.items,
        .input_count = o->input.count,
        .out = o->out,
        .tokenizer = o->tokenizer,
        .vocab_size = o->vocab_size,
        .tokenizer_sample = o->tokenizer_sample,
        .val_fraction = o->val_fraction,
        .text_key = o->text_key,
        .seed = o->seed,
        .unigram = o->tokenizer_kind == TOKENIZER_KIND_UNIGRAM,
        .index = o->index,
        .collect = {.min_characters = o->min_characters,
                    .max_characters = o->max_characters ? o->max_characters : UINT64_MAX,
                    .min_japanese = o->min_japanese,
                    .max_repeated_lines = o->max_repeated_lines,
                    .exact = o->dedup == DEDUP_EXACT,
                    .near_duplicates = o->near_duplicates},
        .revision = GIT_REVISION,
        .command = (const char *const *)o->argv,
        .command_count = (size_t)o->argc,
        .progress = stdout,
    };
    if (!world_check(w, prepare_check_options(&p, &e), &e)) {
        return EXIT_USAGE;
    }
    placement_bind(w, o->bind);
    if (!prepare_corpus(w, &p, &report)) {
        return EXIT_FAILURE;
    }
    if (w->rank == 0) {
        prepare_report_print(&report, o->out, stdout);
    }
    return EXIT_SUCCESS;
}

#endif
