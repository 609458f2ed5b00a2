// command_line.h: from argv to a command: help, --version, suggestions for misspelled names.
#ifndef RUN_COMMAND_LINE_H
#define RUN_COMMAND_LINE_H

#include "kernels/sve_shim.h" // defines: FP16_NATIVE
#include "mpi_utils.h"
#include "run/build_info.h"
#include "run/model_choice.h"
#include "run/options.h"

// Exit statuses, beside EXIT_SUCCESS and EXIT_FAILURE: EXIT_USAGE when the command line cannot be
// followed, EXIT_STOPPED when train stopped ahead of its step count, with a checkpoint: the same
// command resumes from there (above 92: Fujitsu's mpiexec gives 2 to 92 a meaning of its own).
enum { EXIT_USAGE = 2, EXIT_STOPPED = 100 };

typedef struct {
    const char *name, *does, *example;
    unsigned options; // the commands whose options it takes, as in run/options.h
    int (*run)(World *w, const Options *o); // returns the exit status
} Command;

static const char exit_statuses_[] =
    "Exit status: 0 done, 1 failed, 2 usage error, 100 train stopped ahead of its step count (a "
    "signal,\n--time-limit) with a checkpoint: the same command resumes.";

static inline void print_command_help_(const Command *c) {
    printf("train_gpt %s: %s\n\n    %s\n\n", c->name, c->does, c->example);
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (option_specs[i].commands & c->options) {
            option_print_help(&option_specs[i]);
        }
    }
    printf("\n%s\n", exit_statuses_);
}

static inline void print_help_(const Command *commands, size_t count) {
    printf("train_gpt pre-trains GPT language models on CPU clusters.\n\n");
    for (size_t i = 0; i < count; i++) {
        printf("  %-10s %s\n", commands[i].name, commands[i].does);
    }
    printf("  %-10s %s\n", "help",
           "options of a command: help COMMAND, or COMMAND --help; named models: help models");
    printf("  %-10s %s\n\n", "--version", "version, revision, compiler, instruction set, MPI");
    printf("Distributed: mpirun -n RANKS train_gpt train ...; threads of a rank: OMP_NUM_THREADS.\n"
           "%s\n",
           exit_statuses_);
}

// NULL if there is no command of that name, or none is given; then the error names the nearest one.
static inline const Command *command_find_(const Command *commands, size_t count, const char *name,
                                           Error *e) {
    size_t nearest = 0, best = SIZE_MAX;
    if (!name) {
        fail(e, "no command; `train_gpt help` lists the commands");
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        size_t distance = edit_distance(name, commands[i].name);
        if (distance == 0) {
            return &commands[i];
        }
        if (distance < best) {
            best = distance;
            nearest = i;
        }
    }

    if (is_near_miss(best, name)) {
        fail(e, "%s: unknown command; did you mean %s? `train_gpt help` lists all", name,
             commands[nearest].name);
    } else {
        fail(e, "%s: unknown command; `train_gpt help` lists all", name);
    }
    return NULL;
}

// Whether an argument like --help is given: it counts anywhere, whatever else there is.
static inline bool asks_for_(int argc, char **argv, const char *name, const char *short_name) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], name) || !strcmp(argv[i], short_name)) {
            return true;
        }
    }
    return false;
}

// Says once that FP16 products will be slow.
static inline void note_precision_(const World *w, const Command *command, const Options *o) {
    if (w->rank == 0 && o->precision == PRECISION_FP16 && !FP16_NATIVE &&
        !(command->options & PLAN)) {
        fprintf(stderr, "train_gpt: this CPU has no FP16 arithmetic: --precision fp16 emulates it, "
                        "with the same bits, some ten times slower than fp32\n");
    }
}

// Collective: runs the command that argv names, or prints what it asks for. Returns the exit
// status.
static inline int command_line_run(World *w, const Command *commands, size_t count, int argc,
                                   char **argv) {
    Options o;
    Error e = {0};
    bool help_first = argc > 1 && !strcmp(argv[1], "help");
    bool help = help_first || asks_for_(argc, argv, "--help", "-h");
    const char *name = argc > 1 + help_first ? argv[1 + help_first] : NULL;

    bool version = asks_for_(argc, argv, "--version", "--version");
    if (version || (help && (!name || name[0] == '-'))) {
        if (w->rank == 0 && version) {
            print_version();
        } else if (w->rank == 0) {
            print_help_(commands, count);
        }
        return EXIT_SUCCESS;
    }

    if (help_first && !strcmp(name, "models")) {
        if (w->rank == 0) {
            named_models_print();
        }
        return EXIT_SUCCESS;
    }

    const Command *command = command_find_(commands, count, name, &e);
    bool ok = command && (help || options_parse(&o, argc, argv, command->options, name, &e));
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    if (help) {
        if (w->rank == 0) {
            print_command_help_(command);
        }
        return EXIT_SUCCESS;
    }
    note_precision_(w, command, &o);
    return command->run(w, &o);
}

#endif
