// options.h: every option of every command, once. The struct, its defaults, the parser, the help
// and the record of a run in its log all come from the one table below.
#ifndef RUN_OPTIONS_H
#define RUN_OPTIONS_H

#include <stddef.h>

#include "kernels_ref.h" // defines: PRECISION_FP32
#include "util/error.h"
#include "util/json.h"

// The commands, one bit each: an option names all that take it.
enum {
    PREPARE = 1,
    TRAIN = 2,
    EVAL = 4,
    GENERATE = 8,
    KERNELS = 16,
    TRACE = 32,
    REPORT = 64,
    PLAN = 128,
    EXPORT = 256
};

// Values of the CHOICE options, in the order in which the table lists them.
enum { TOKENIZER_KIND_BPE, TOKENIZER_KIND_UNIGRAM };
enum { DEDUP_OFF, DEDUP_EXACT };
enum { RESUME_AUTO, RESUME_NONE };
enum { SCHEDULE_COSINE, SCHEDULE_CONSTANT, SCHEDULE_WSD };
enum { RECOMPUTE_NONE, RECOMPUTE_LAYER };
enum { KERNELS_SVE, KERNELS_REF };
enum { REDUCE_FP32, REDUCE_BF16 };

// A setting that replaces one of something else, such as of a named model.
typedef enum { NOT_GIVEN, GIVEN_OFF, GIVEN_ON } Override;

// FLAG (name, commands, help)                                  off, on if given
// SWITCH (name, default, commands, help)                       --name 0|1
// OVERRIDE (name, commands, help)                              --name 0|1, or not given
// LIST (name, commands, values, help)                          all arguments up to the next option
// TEXT (name, default, commands, value, help)
// CHOICE (name, default, commands, values, help)               one of a|b|c
// BYTES (name, default, commands, help)                        a number, or one with KB, MB, GB
// WHOLE, REAL_NUMBER (name, default, smallest, largest, commands, value, help)
// clang-format off
#define OPTIONS(FLAG, SWITCH, OVERRIDE, LIST, TEXT, CHOICE, BYTES, WHOLE, REAL_NUMBER)            \
    LIST(input, PREPARE, "PATH...",                                                               \
         "text to read: .txt, .md, .jsonl, each also .gz or .zst, or folders of these")           \
    LIST(data, TRAIN | EVAL | TRACE, "PATH[:WEIGHT]...",                                          \
         "folders made by prepare, Megatron .bin/.idx prefixes, or llm.c .bin files")             \
    LIST(val_data, TRAIN | EVAL, "PATH[:WEIGHT]...",                                              \
         "validation data, if --data holds none or to replace it")                                \
    LIST(run, TRACE | REPORT | PLAN, "DIR...",                                                    \
         "folder of a run (--out of train); report overlays several")                             \
    TEXT(out, NULL, PREPARE | TRAIN | REPORT | PLAN | EXPORT, "PATH",                             \
         "output folder; report: HTML file (report.html); plan --measure: machine file")          \
    TEXT(checkpoint, NULL, EVAL | GENERATE | EXPORT, "DIR",                                       \
         "a checkpoint (step-NNNNNN folder of a run), or a model folder from the hub")            \
    TEXT(tokenizer, NULL, PREPARE, "PATH",                                                        \
         "use this tokenizer.json or SentencePiece .model instead of training one")               \
    TEXT(text_key, "text", PREPARE, "KEY", "JSON Lines: key that holds the text")                 \
    WHOLE(vocab_size, 0, 0, 100000000, PREPARE | TRAIN, "V",                                      \
          "prepare: vocabulary size to train; train: for data without a tokenizer, or to pad")    \
    WHOLE(tokenizer_sample, 64 << 20, 1, UINT64_MAX, PREPARE, "BYTES",                            \
          "most text to train the tokenizer on")                                                  \
    REAL_NUMBER(val_fraction, 0.01, 0, 0.5, PREPARE, "F",                                         \
                "fraction of documents held out for validation")                                  \
    CHOICE(tokenizer_kind, TOKENIZER_KIND_BPE, PREPARE, "bpe|unigram",                            \
           "tokenizer to train: byte-level BPE, or Unigram with byte fallback")                   \
    SWITCH(index, 0, PREPARE, "1: also build the text index that trace --text needs")             \
    WHOLE(min_characters, 0, 0, UINT64_MAX, PREPARE, "N", "drop documents with fewer characters") \
    WHOLE(max_characters, 0, 0, UINT64_MAX, PREPARE, "N",                                         \
          "drop documents with more characters; 0: no limit")                                     \
    REAL_NUMBER(min_japanese, 0, 0, 1, PREPARE, "F",                                              \
                "drop documents with a smaller fraction of Japanese characters")                  \
    REAL_NUMBER(max_repeated_lines, 1, 0, 1, PREPARE, "F",                                        \
                "drop documents with a larger fraction of characters in repeated lines")          \
    CHOICE(dedup, DEDUP_OFF, PREPARE, "off|exact", "exact: drop exact duplicates")                \
    REAL_NUMBER(near_duplicates, 0, 0, 1, PREPARE, "T",                                           \
                "drop near-duplicates with a Jaccard similarity of at least T (0.5 to 1); 0: off")\
    TEXT(model, NULL, TRAIN, "NAME",                                                              \
         "shape of a new model: `train_gpt help models` lists them; the next options override it")\
    TEXT(config, NULL, TRAIN, "FILE", "shape of a new model: config.json of any supported class") \
    TEXT(family, NULL, TRAIN, "gpt2|llama|mistral|qwen2|qwen3",                                   \
         "kind of model; the default is that of --model or --config, else gpt2")                  \
    WHOLE(layers, 0, 0, 10000, TRAIN, "L", "transformer blocks")                                  \
    WHOLE(heads, 0, 0, 10000, TRAIN, "H", "attention heads")                                      \
    WHOLE(channels, 0, 0, 1000000, TRAIN, "C", "model width")                                     \
    WHOLE(kv_heads, 0, 0, 10000, TRAIN, "N",                                                      \
          "key and value heads; must divide the heads; 0: as many as heads")                      \
    WHOLE(head_dim, 0, 0, 1000000, TRAIN, "N", "channels of a head; 0: channels / heads")         \
    WHOLE(mlp_channels, 0, 0, 4000000, TRAIN, "N",                                                \
          "hidden channels of the MLP; 0: 4 C, or 8 C / 3 rounded up to a multiple of 64")        \
    REAL_NUMBER(rope_theta, 0, 0, 1e15, TRAIN, "X", "base of rotary embedding; 0: 10000")         \
    REAL_NUMBER(norm_eps, 0, 0, 0.5, TRAIN, "X", "epsilon of the norms; 0: 1e-5, qwen 1e-6")     \
    OVERRIDE(tied, TRAIN, "1: the output head is the token embedding (default: gpt2 1, others 0)")\
    OVERRIDE(qk_norm, TRAIN, "1: normalize q and k of each head (default: qwen3 1, others 0)")    \
    WHOLE(seq_len, 0, 0, 10000000, TRAIN | EVAL, "T",                                             \
          "sequence length in tokens; eval: default is the model's")                              \
    TEXT(init, NULL, TRAIN, "DIR",                                                                \
         "start from the weights of a model folder in Hugging Face format")                       \
    TEXT(resume_from, NULL, TRAIN, "DIR",                                                         \
         "start from a checkpoint of another run, with its optimizer state, in a new --out")      \
    CHOICE(resume, RESUME_AUTO, TRAIN, "auto|none",                                               \
           "auto: resume from the latest complete checkpoint in --out")                           \
    FLAG(allow_change, TRAIN,                                                                     \
         "resume with another learning rate, batch, schedule or optimizer setting")               \
    WHOLE(micro_batch, 4, 1, 1000000, TRAIN | EVAL, "B", "sequences per forward pass of a rank")  \
    WHOLE(global_batch, 0, 0, 100000000, TRAIN, "G",                                              \
          "sequences per step; 0: micro-batch x data-parallel ranks")                             \
    WHOLE(steps, 1000, 1, 1000000000, TRAIN, "N", "total number of steps")                        \
    REAL_NUMBER(lr, 3e-4, 0, 100, TRAIN, "X", "peak learning rate")                               \
    REAL_NUMBER(min_lr, 3e-5, 0, 100, TRAIN, "X", "learning rate at the last step")               \
    WHOLE(warmup_steps, 0, 0, 1000000000, TRAIN, "N", "steps of linear warm-up from 0")           \
    CHOICE(schedule, SCHEDULE_COSINE, TRAIN, "cosine|constant|wsd",                               \
           "after warm-up; wsd: constant, then linear decay")                                     \
    WHOLE(decay_steps, 0, 0, 1000000000, TRAIN, "N",                                              \
          "steps of the decay of wsd; 0: the last fifth of all steps")                            \
    REAL_NUMBER(weight_decay, 0.1, 0, 100, TRAIN, "X", "AdamW weight decay, matrices only")       \
    REAL_NUMBER(beta1, 0.9, 0, 0.999999, TRAIN, "X", "AdamW beta1")                               \
    REAL_NUMBER(beta2, 0.95, 0, 0.999999, TRAIN, "X", "AdamW beta2")                              \
    REAL_NUMBER(eps, 1e-8, 1e-30, 1, TRAIN, "X", "AdamW epsilon")                                 \
    REAL_NUMBER(clip, 1, 0, 1e30, TRAIN, "X", "gradient norm to clip to; 0: no clipping")         \
    REAL_NUMBER(z_loss, 0, 0, 1, TRAIN, "X",                                                      \
                "add X * log(Z)^2 to the loss, Z the sum of exp(logits); 0: off")                 \
    REAL_NUMBER(init_std, 0, 0, 10, TRAIN, "X",                                                   \
                "standard deviation of initial weights; 0: 0.02")                                 \
    WHOLE(seed, 42, 0, UINT64_MAX, PREPARE | TRAIN | GENERATE, "S",                               \
          "seed of weights, data order, splits and sampling")                                     \
    SWITCH(shuffle, 1, TRAIN, "0: read samples in the order of the data")                         \
    WHOLE(eval_every, 100, 0, 1000000000, TRAIN, "N", "steps between evals; 0: no evals")         \
    WHOLE(eval_batches, 10, 0, 1000000000, TRAIN, "N",                                            \
          "global batches per source in an eval; 0: all validation data")                         \
    WHOLE(save_every, 250, 0, 1000000000, TRAIN, "N",                                             \
          "steps between checkpoints (there is one at the end too); 0: no checkpoints")           \
    WHOLE(keep, 3, 0, 1000000000, TRAIN, "N", "latest checkpoints to keep; 0: all")               \
    WHOLE(log_every, 0, 0, 1000000000, TRAIN, "N",                                                \
          "steps between printed lines; 0: some hundreds of lines in a run")                      \
    REAL_NUMBER(time_limit, 0, 0, 1e9, TRAIN, "SECONDS",                                          \
                "save and stop before this much time has passed; 0: no limit")                    \
    SWITCH(verify_data, 1, TRAIN | EVAL, "1: first verify the shards against their manifest")     \
    TEXT(prompt, "", GENERATE, "TEXT", "prompt to continue")                                      \
    WHOLE(tokens, 100, 1, 100000000, GENERATE, "N", "most tokens to generate")                    \
    REAL_NUMBER(temperature, 0.8, 0, 1000, GENERATE, "X", "sampling temperature; 0: greedy")      \
    WHOLE(top_k, 50, 0, 100000000, GENERATE, "K", "sample from the K likeliest tokens; 0: all")   \
    REAL_NUMBER(top_p, 1, 1e-9, 1, GENERATE, "P",                                                 \
                "nucleus sampling: likeliest tokens with total probability P")                    \
    CHOICE(recompute, RECOMPUTE_NONE, TRAIN, "none|layer",                                        \
           "layer: activation checkpointing, keep block inputs and recompute the rest")           \
    WHOLE(recompute_stages, 0, 0, 100000, TRAIN, "N",                                             \
          "activation checkpointing on the first N pipeline stages only; 0: on all")              \
    FLAG(reproducible, TRAIN,                                                                     \
         "reduce gradients in one fixed tree: same bits for 1, 2, 4 ... data-parallel ranks")     \
    SWITCH(zero, 0, TRAIN, "1: ZeRO-1, shard the optimizer state over data-parallel ranks")       \
    SWITCH(share_memory, 1, TRAIN,                                                                \
           "1: data-parallel ranks of a node reduce gradients in shared memory; 0: by messages")  \
    CHOICE(reduce_dtype, REDUCE_FP32, TRAIN, "fp32|bf16",                                         \
           "gradients, and ZeRO's parameters, in messages between nodes; sums are FP32")          \
    SWITCH(overlap, 1, TRAIN,                                                                     \
           "1: overlap the gradient reduction with backward; 0: reduce after it")                 \
    WHOLE(tp, 1, 1, 100000, TRAIN | EVAL | GENERATE, "N",                                         \
          "tensor-parallel ranks; must divide the heads")                                         \
    WHOLE(pp, 1, 1, 100000, TRAIN | EVAL | GENERATE, "N", "pipeline stages")                      \
    SWITCH(bind, 1, PREPARE | TRAIN | EVAL | GENERATE | KERNELS | PLAN,                           \
           "1: bind threads to cores and ranks to NUMA domains, unless the launcher did")         \
    CHOICE(kernels, KERNELS_SVE, TRAIN | EVAL | GENERATE, "sve|ref",                              \
           "sve: fast kernels, on any CPU; ref: scalar reference kernels")                        \
    CHOICE(precision, PRECISION_FP32, TRAIN | EVAL | GENERATE | KERNELS, "fp32|fp16",             \
           "of matrix products; fp16: twice as fast on CPUs with FP16 arithmetic")                \
    TEXT(machine, NULL, TRAIN, "NAME",                                                            \
         "fugaku, or a file that plan --measure wrote: model the time of a step")                 \
    WHOLE(nodes, 1, 1, 1000000, PLAN, "N", "nodes of the planned run")                            \
    WHOLE(ranks_per_node, 0, 0, 100000, PLAN, "N", "ranks per node; 0: the machine's, else 1")    \
    REAL_NUMBER(efficiency, 0, 0, 1, PLAN, "X",                                                   \
                "fraction of peak that forward and backward reach; 0: the machine's")             \
    REAL_NUMBER(tokens_budget, 0, 0, 1e18, PLAN, "N", "print the days that this many tokens take")\
    FLAG(search, PLAN, "find the fastest grids, micro-batches, recompute and zero that fit")      \
    FLAG(measure, PLAN, "measure the machine this runs on, at the model's shapes, into --out")    \
    WHOLE(step, 0, 1, 1000000000, TRACE, "N", "list the documents read in this step")             \
    WHOLE(row, UINT64_MAX, 0, 100000000, TRACE, "R", "with --step: only this row of the batch")   \
    TEXT(doc, NULL, TRACE, "ID",                                                                  \
         "list the steps that read this document: its id, or its number as 7 or DIR:7")           \
    TEXT(text, NULL, TRACE, "TEXT",                                                               \
         "find the longest matches of a text in the data; -: read it from standard input")        \
    WHOLE(min_bytes, 32, 1, 1000000, TRACE, "N", "with --text: minimum match length in bytes")    \
    WHOLE(limit, 10, 1, 1000000000, TRACE, "N", "with --text: most documents listed per match")   \
    CHOICE(dtype, 0, EXPORT, "f32|bf16|f16", "number format of the exported weights")             \
    BYTES(max_shard_size, 5000000000, EXPORT, "most bytes of a weights file")                     \
    FLAG(json, TRACE | PLAN, "one JSON object per line")                                          \
    FLAG(check, KERNELS, "compare the fast kernels with the reference on many shapes and values") \
    FLAG(bench, KERNELS, "time them at the shapes of GPT-2 124M")                                 \
    FLAG(golden, KERNELS, "train a small model and compare its hash with the golden hash")        \
    WHOLE(golden_steps, 20, 1, 20, KERNELS, "N",                                                  \
          "with --golden: train N steps; fewer than 20 only print their hash (for emulators)")    \
    TEXT(only, NULL, KERNELS, "NAME", "only kernels, or golden models, whose name contains NAME")
// clang-format on

typedef struct {
    const char **items; // point into argv
    size_t count;
} TextList;

#define OPTION_FIELD_FLAG(name, ...) bool name;
#define OPTION_FIELD_OVERRIDE(name, ...) Override name;
#define OPTION_FIELD_LIST(name, ...) TextList name;
#define OPTION_FIELD_TEXT(name, ...) const char *name;
#define OPTION_FIELD_CHOICE(name, ...) int name;
#define OPTION_FIELD_WHOLE(name, ...) size_t name;
#define OPTION_FIELD_REAL(name, ...) double name;

typedef struct {
    OPTIONS(OPTION_FIELD_FLAG, OPTION_FIELD_FLAG, OPTION_FIELD_OVERRIDE, OPTION_FIELD_LIST,
            OPTION_FIELD_TEXT, OPTION_FIELD_CHOICE, OPTION_FIELD_WHOLE, OPTION_FIELD_WHOLE,
            OPTION_FIELD_REAL)
    int argc; // the command line as given, for manifests
    char **argv;
} Options;

typedef enum {
    OPTION_FLAG,
    OPTION_SWITCH,
    OPTION_OVERRIDE,
    OPTION_LIST,
    OPTION_TEXT,
    OPTION_CHOICE,
    OPTION_BYTES,
    OPTION_WHOLE,
    OPTION_REAL
} OptionType;

#define OPTION_DEFAULT_(name, preset, ...) .name = (preset),
#define OPTION_NO_DEFAULT_(...)

static const Options option_defaults = {
    OPTIONS(OPTION_NO_DEFAULT_, OPTION_DEFAULT_, OPTION_NO_DEFAULT_, OPTION_NO_DEFAULT_,
            OPTION_DEFAULT_, OPTION_DEFAULT_, OPTION_DEFAULT_, OPTION_DEFAULT_, OPTION_DEFAULT_)};

typedef struct {
    const char *name; // of the field; the command line has - for _
    OptionType type;
    size_t offset;
    unsigned commands;
    const char *value, *help;
    size_t whole_min, whole_max;
    double real_min, real_max;
} OptionSpec;

#define OPTION_SPEC_(n, t, c, v, h)                                                                \
    .name = #n, .type = t, .offset = offsetof(Options, n), .commands = (c), .value = (v),          \
    .help = (h)
#define OPTION_SPEC_FLAG_(n, c, h) {OPTION_SPEC_(n, OPTION_FLAG, c, "", h)},
#define OPTION_SPEC_SWITCH_(n, d, c, h) {OPTION_SPEC_(n, OPTION_SWITCH, c, "0|1", h)},
#define OPTION_SPEC_OVERRIDE_(n, c, h) {OPTION_SPEC_(n, OPTION_OVERRIDE, c, "0|1", h)},
#define OPTION_SPEC_LIST_(n, c, v, h) {OPTION_SPEC_(n, OPTION_LIST, c, v, h)},
#define OPTION_SPEC_TEXT_(n, d, c, v, h) {OPTION_SPEC_(n, OPTION_TEXT, c, v, h)},
#define OPTION_SPEC_CHOICE_(n, d, c, v, h) {OPTION_SPEC_(n, OPTION_CHOICE, c, v, h)},
#define OPTION_SPEC_BYTES_(n, d, c, h) {OPTION_SPEC_(n, OPTION_BYTES, c, "SIZE", h)},
#define OPTION_SPEC_WHOLE_(n, d, lo, hi, c, v, h)                                                  \
    {OPTION_SPEC_(n, OPTION_WHOLE, c, v, h), .whole_min = (lo), .whole_max = (hi)},
#define OPTION_SPEC_REAL_(n, d, lo, hi, c, v, h)                                                   \
    {OPTION_SPEC_(n, OPTION_REAL, c, v, h), .real_min = (lo), .real_max = (hi)},

static const OptionSpec option_specs[] = {
    OPTIONS(OPTION_SPEC_FLAG_, OPTION_SPEC_SWITCH_, OPTION_SPEC_OVERRIDE_, OPTION_SPEC_LIST_,
            OPTION_SPEC_TEXT_, OPTION_SPEC_CHOICE_, OPTION_SPEC_BYTES_, OPTION_SPEC_WHOLE_,
            OPTION_SPEC_REAL_)};
enum { OPTION_COUNT = sizeof option_specs / sizeof *option_specs };

// ------------------------------------------------------------------------------------------------
// Names and values as text

// "--" and the option's name as the command line has it.
static inline const char *option_spelling(const OptionSpec *spec, char text[48]) {
    snprintf(text, 48, "--%s", spec->name);
    for (char *c = text; *c; c++) {
        *c = *c == '_' ? '-' : *c;
    }
    return text;
}

static inline const void *option_value_(const Options *o, const OptionSpec *spec) {
    return (const char *)o + spec->offset;
}

// Value `index` of a list "a|b|c" into text; false if there are not that many.
static inline bool option_choice_text_(const char *values, int index, char text[32]) {
    for (; index > 0 && values; index--) {
        values = strchr(values, '|');
        values = values ? values + 1 : NULL;
    }
    if (!values) {
        return false;
    }
    snprintf(text, 32, "%.*s", (int)strcspn(values, "|"), values);
    return true;
}

// The index of a value in a list "a|b|c"; -1 if it is not one of them.
static inline int option_choice_index_(const char *values, const char *text) {
    char value[32];
    for (int i = 0; option_choice_text_(values, i, value); i++) {
        if (!strcmp(value, text)) {
            return i;
        }
    }
    return -1;
}

// The value of a CHOICE option as the command line spells it, e.g. "cosine".
static inline const char *option_choice_name(const Options *o, const char *name, char text[32]) {
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const OptionSpec *spec = &option_specs[i];
        if (!strcmp(spec->name, name)) {
            option_choice_text_(spec->value, *(const int *)option_value_(o, spec), text);
        }
    }
    return text;
}

// Units of bytes as in Hugging Face's max_shard_size, largest first.
static const struct {
    const char *name;
    size_t bytes;
} byte_units_[] = {{"GB", 1000000000}, {"MB", 1000000}, {"KB", 1000}, {"", 1}};

static inline void bytes_text_(size_t bytes, char text[32]) {
    size_t i = 0;
    while (bytes % byte_units_[i].bytes) {
        i++;
    }
    snprintf(text, 32, "%zu%s", bytes / byte_units_[i].bytes, byte_units_[i].name);
}

// Reads a number of bytes such as 5GB; false for anything else, for none and for too many.
static inline bool bytes_parse_(const char *text, size_t *bytes) {
    enum { MOST_UNITS = 1000000000 };
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    for (size_t i = 0; i < sizeof byte_units_ / sizeof *byte_units_; i++) {
        if (!strcmp(end, byte_units_[i].name)) {
            *bytes = number * byte_units_[i].bytes;
            return *text >= '0' && *text <= '9' && !errno && number >= 1 &&
                   (number <= MOST_UNITS || byte_units_[i].bytes == 1);
        }
    }
    return false;
}

// All options of a command as one JSON object, for the record of a run.
static inline void options_write(JsonWriter *json, const Options *o, unsigned command) {
    json_open(json, "options", '{');
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const OptionSpec *spec = &option_specs[i];
        const void *field = option_value_(o, spec);
        char choice[32];

        if (!(spec->commands & command)) {
            continue;
        }

        switch (spec->type) {
        case OPTION_FLAG:
            json_put_bool(json, spec->name, *(const bool *)field);
            break;
        case OPTION_SWITCH:
            json_put_uint(json, spec->name, *(const bool *)field);
            break;
        case OPTION_OVERRIDE:
            if (*(const Override *)field == NOT_GIVEN) {
                json_put_null(json, spec->name);
            } else {
                json_put_uint(json, spec->name, *(const Override *)field == GIVEN_ON);
            }
            break;
        case OPTION_BYTES:
        case OPTION_WHOLE:
            json_put_uint(json, spec->name, *(const size_t *)field);
            break;
        case OPTION_REAL:
            json_put_double(json, spec->name, *(const double *)field);
            break;
        case OPTION_CHOICE:
            option_choice_text_(spec->value, *(const int *)field, choice);
            json_put_string(json, spec->name, choice);
            break;
        case OPTION_TEXT:
            if (*(const char *const *)field) {
                json_put_string(json, spec->name, *(const char *const *)field);
            } else {
                json_put_null(json, spec->name);
            }
            break;
        case OPTION_LIST: {
            const TextList *list = field;
            json_open(json, spec->name, '[');
            for (size_t j = 0; j < list->count; j++) {
                json_put_string(json, NULL, list->items[j]);
            }
            json_close(json, ']');
            break;
        }
        }
    }
    json_close(json, '}');
}

// ------------------------------------------------------------------------------------------------
// Help

// One line of a command's help: the option, its value, what it does, its default.
static inline void option_print_help(const OptionSpec *spec) {
    char name[48], left[96], preset[64] = "", choice[32];
    const void *value = option_value_(&option_defaults, spec);
    snprintf(left, sizeof left, "%s %s", option_spelling(spec, name), spec->value);

    if (spec->type == OPTION_SWITCH) {
        snprintf(preset, sizeof preset, " (default %d)", *(const bool *)value);
    } else if (spec->type == OPTION_BYTES) {
        bytes_text_(*(const size_t *)value, choice);
        snprintf(preset, sizeof preset, " (default %s)", choice);
    } else if (spec->type == OPTION_WHOLE) {
        size_t whole = *(const size_t *)value;
        if (whole > 0 && whole < SIZE_MAX) {
            snprintf(preset, sizeof preset, " (default %zu)", whole);
        }
    } else if (spec->type == OPTION_REAL) {
        snprintf(preset, sizeof preset, " (default %g)", *(const double *)value);
    } else if (spec->type == OPTION_CHOICE) {
        option_choice_text_(spec->value, *(const int *)value, choice);
        snprintf(preset, sizeof preset, " (default %s)", choice);
    } else if (spec->type == OPTION_TEXT) {
        const char *text = *(const char *const *)value;
        if (text && *text) {
            snprintf(preset, sizeof preset, " (default %s)", text);
        }
    }

    printf("  %-32s %s%s\n", left, spec->help, preset);
}

// Edits (insert, delete, replace a character) that turn a into b (Levenshtein 1966).
static inline size_t edit_distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b);
    if (n >= sizeof row / sizeof *row) {
        return SIZE_MAX;
    }

    for (size_t j = 0; j <= n; j++) {
        row[j] = j;
    }
    for (; *a; a++) {
        size_t diagonal = row[0]++;
        for (size_t j = 1; j <= n; j++) {
            size_t replaced = diagonal + (*a != b[j - 1]);
            size_t other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replaced < other ? replaced : other;
        }
    }
    return row[n];
}

// Whether two names are so close that one is likely a misspelling of the other.
static inline bool is_near_miss(size_t distance, const char *name) {
    return distance <= 1 + strlen(name) / 4;
}

// ------------------------------------------------------------------------------------------------
// Parser

// Parses the value of an option that takes one, no list, into its field.
static inline bool option_set_(void *field, const OptionSpec *spec, const char *text, Error *e) {
    char name[48], *end;
    option_spelling(spec, name);
    errno = 0;

    if (spec->type == OPTION_WHOLE) {
        size_t *whole = field;
        *whole = strtoull(text, &end, 10);
        return (*text >= '0' && *text <= '9' && !*end && !errno && *whole >= spec->whole_min &&
                *whole <= spec->whole_max) ||
               fail(e, "%s %s: must be a whole number from %zu to %zu", name, text, spec->whole_min,
                    spec->whole_max);
    }
    if (spec->type == OPTION_REAL) {
        double *real = field;
        *real = strtod(text, &end);
        return (*text && !*end && *real >= spec->real_min && *real <= spec->real_max) ||
               fail(e, "%s %s: must be a number from %g to %g", name, text, spec->real_min,
                    spec->real_max);
    }
    if (spec->type == OPTION_CHOICE) {
        int *choice = field;
        *choice = option_choice_index_(spec->value, text);
        return *choice >= 0 || fail(e, "%s %s: must be one of %s", name, text, spec->value);
    }
    if (spec->type == OPTION_BYTES) {
        return bytes_parse_(text, field) ||
               fail(e, "%s %s: must be a number of bytes, such as 5GB, 500MB or 1000000", name,
                    text);
    }
    if (spec->type == OPTION_SWITCH || spec->type == OPTION_OVERRIDE) {
        bool on = !strcmp(text, "1");
        if (spec->type == OPTION_SWITCH) {
            *(bool *)field = on;
        } else {
            *(Override *)field = on ? GIVEN_ON : GIVEN_OFF;
        }
        return on || !strcmp(text, "0") || fail(e, "%s %s: must be 0 or 1", name, text);
    }
    *(const char **)field = text;
    return true;
}

// The option that `argument` names, before a '=' if there is one; NULL if the command has none of
// that name. *nearest: the one whose name is closest.
static inline const OptionSpec *option_find_(const char *argument, unsigned command,
                                             const OptionSpec **nearest) {
    char given[48], name[48];
    size_t best = SIZE_MAX;
    snprintf(given, sizeof given, "%.*s", (int)strcspn(argument, "="), argument);

    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (!(option_specs[i].commands & command)) {
            continue;
        }
        size_t distance = edit_distance(given, option_spelling(&option_specs[i], name));
        if (distance == 0 && strlen(name) == strcspn(argument, "=")) {
            return &option_specs[i];
        }
        if (distance < best) {
            best = distance;
            *nearest = &option_specs[i];
        }
    }

    *nearest = is_near_miss(best, given) ? *nearest : NULL;
    return NULL;
}

// Fills `o` from argv[2...] for a command: --option value, --option=value. A list takes all
// arguments up to the next option, or the one behind '='. argv stays as it is and must outlive `o`.
static inline bool options_parse(Options *o, int argc, char **argv, unsigned command,
                                 const char *command_name, Error *e) {
    static const char *after_equals[OPTION_COUNT]; // lists of one value
    bool given[OPTION_COUNT] = {false};
    *o = option_defaults;
    o->argc = argc;
    o->argv = argv;

    for (int i = 2; i < argc;) {
        const char *argument = argv[i++], *equals = strchr(argument, '=');
        const OptionSpec *nearest = NULL, *spec = option_find_(argument, command, &nearest);
        char name[48];
        if (!spec && nearest) {
            return fail(e, "%s: unknown option; did you mean %s? `train_gpt help %s` lists all",
                        argument, option_spelling(nearest, name), command_name);
        }
        if (!spec) {
            return fail(e, "%s: unknown option; `train_gpt help %s` lists all", argument,
                        command_name);
        }

        size_t index = (size_t)(spec - option_specs);
        if (given[index]) {
            return fail(e, "%s: given twice", argument);
        }
        given[index] = true;

        void *field = (char *)o + spec->offset;
        if (spec->type == OPTION_FLAG) {
            if (equals) {
                return fail(e, "%s: takes no value", argument);
            }
            *(bool *)field = true;
        } else if (spec->type == OPTION_LIST) {
            TextList *list = field;
            after_equals[index] = equals ? equals + 1 : NULL;
            *list =
                (TextList){equals ? &after_equals[index] : (const char **)argv + i, equals != NULL};
            for (; !equals && i < argc && strncmp(argv[i], "--", 2); i++) {
                list->count++;
            }
        } else if (!equals && i == argc) {
            return fail(e, "%s: needs a value, %s", argument, spec->value);
        } else if (!option_set_(field, spec, equals ? equals + 1 : argv[i++], e)) {
            return false;
        }
    }
    return true;
}

#endif
