// train_gpt.c: trains GPT-2 family language models on CPUs, from one laptop core to a cluster of
// MPI ranks. FP32 only, no frameworks: what happens between a token and a weight is in this file
// and in the kernels it calls.
//
//     make && mpirun -n 2 ./train_gpt train --data DIR --out RUN --model 124m --steps 1000
//
// The file reads like a chapter: parameters, forward, backward, update, loop, commands.
//
// Letters: B sequences of T tokens in a micro-batch, R = B * T rows, C channels, H heads, L layers,
// V words in the vocabulary. Gradients have a d in front of the name of what they belong to.

#include <float.h>
#include <signal.h>
#include <stddef.h>
#include <sys/file.h>
#include <time.h>

#include "corpus/prepare.h" // defines: prepare_corpus, PrepareOptions, PrepareReport
#include "dataloader.h"     // defines: Dataset, dataset_*, Mixture, mixture_*, random_*, Sha256
#include "kernels_check.h"  // defines: check_kernels, bench_kernels
#include "kernels_ref.h"    // defines: Kernels, kernels_ref
#include "kernels_sve.h" // defines: kernels_sve, allocate_floats, zero_floats, tile_flops_sve, flush_denormals
#include "model/checkpoint.h" // defines: TensorView, ModelConfig, config_*, weights_load, safetensors_*, checkpoint_*
#include "mpi_utils.h" // defines: World, world_*, all_reduce_*, broadcast, Placement
#include "plan/plan.h" // defines: Memory, memory_*, Machine, machine_*, Traffic, network_*, step_time
#include "report/report.h" // defines: EventWriter, events_*, report_page, model_card
#include "tokenizer.h"     // defines: Tokenizer, TokenBuffer, tokenizer_*
#include "trace/trace.h"   // defines: TraceQuestion, trace_answer
#include "util/json.h"

#ifndef GIT_REVISION
#define GIT_REVISION "unknown"
#endif
#ifndef COMPILER_FLAGS
#define COMPILER_FLAGS "unknown"
#endif

// Exit statuses: EXIT_FAILURE (1) when something failed, EXIT_USAGE when the command line cannot be
// followed, EXIT_STOPPED when train ended ahead of its step count, with a checkpoint: the same
// command goes on from there (above 92: Fujitsu's mpiexec gives 2 to 92 a meaning of its own).
enum { EXIT_USAGE = 2, EXIT_STOPPED = 100 };

// =================================================================================================
// Options: every option of every command, once: the struct, its defaults, the parser, the help and
// the log come from this list. TEXT and WHOLE and REAL_NUMBER say the type; then name, default,
// bounds, commands, value's name, help.

enum {
    PREPARE = 1,
    TRAIN = 2,
    EVAL = 4,
    GENERATE = 8,
    KERNELS = 16,
    TRACE = 32,
    REPORT = 64,
    PLAN = 128
};

// clang-format off
#define OPTIONS(FLAG, LIST, TEXT, WHOLE, REAL_NUMBER)                                                                                 \
    LIST(input, PREPARE, "PATH...", "text to read: .txt, .md, .jsonl, each also .gz or .zst, or folders")                       \
    LIST(data, TRAIN | EVAL | TRACE, "PATH[:WEIGHT]...", "folders made by prepare, Megatron .bin/.idx prefixes, llm.c .bin; weights: shares")   \
    LIST(val_data, TRAIN | EVAL, "PATH[:WEIGHT]...", "validation data, where --data holds none or instead of it")               \
    LIST(run, TRACE | REPORT | PLAN, "DIR...", "folder of a run, --out of train; report: several, drawn together")                                             \
    TEXT(out, NULL, PREPARE | TRAIN | REPORT, "DIR", "where the result goes; report: a file, default report.html")              \
    TEXT(checkpoint, NULL, EVAL | GENERATE, "DIR", "model: a step-NNNNNN folder of a run, or any GPT-2 from the hub")           \
    TEXT(tokenizer, NULL, PREPARE, "DIR", "use this tokenizer.json or .model instead of training one")                                    \
    TEXT(text_key, "text", PREPARE, "KEY", "key of the text in JSON Lines")                                                     \
    WHOLE(vocab_size, 0, 0, 100000000, PREPARE | TRAIN, "V", "prepare: tokens to train; train: for data without a tokenizer")  \
    WHOLE(tokenizer_sample, 64 << 20, 1, UINT64_MAX, PREPARE, "BYTES", "text to train the tokenizer on, at most")               \
    REAL_NUMBER(val_fraction, 0.01, 0, 0.5, PREPARE, "F", "share of the documents kept for validation")                         \
    TEXT(tokenizer_kind, "bpe", PREPARE, "bpe|unigram", "kind to train: byte-level BPE, or Unigram with byte fallback")         \
    WHOLE(index, 0, 0, 1, PREPARE, "0|1", "1: an index of the text too, with which trace --text finds spans")                   \
    WHOLE(min_characters, 0, 0, UINT64_MAX, PREPARE, "N", "leave out documents of fewer characters")                            \
    WHOLE(max_characters, 0, 0, UINT64_MAX, PREPARE, "N", "leave out documents of more characters; 0: none")                    \
    REAL_NUMBER(min_japanese, 0, 0, 1, PREPARE, "F", "leave out documents with a smaller share of Japanese characters")         \
    REAL_NUMBER(max_repeated_lines, 1, 0, 1, PREPARE, "F", "leave out documents with a larger share in repeated lines")         \
    TEXT(dedup, "off", PREPARE, "off|exact", "exact: leave out documents whose text came before")                               \
    REAL_NUMBER(near_duplicates, 0, 0, 1, PREPARE, "T", "leave out documents this similar to one before: 0.5 to 1; 0: off")     \
    TEXT(model, NULL, TRAIN, "NAME", "124m 350m 774m 1.3b 1.5b 13b 30b; the next four options override it")                     \
    WHOLE(layers, 0, 0, 10000, TRAIN, "L", "transformer blocks")                                                                \
    WHOLE(heads, 0, 0, 10000, TRAIN, "H", "attention heads; must divide the channels")                                          \
    WHOLE(channels, 0, 0, 1000000, TRAIN, "C", "width of the model")                                                            \
    WHOLE(seq_len, 0, 0, 10000000, TRAIN | EVAL, "T", "tokens in a sequence; eval: the model's by default")                     \
    TEXT(init, NULL, TRAIN, "DIR", "start from the weights of a Hugging Face GPT-2 folder")                                     \
    TEXT(resume, "auto", TRAIN, "auto|none", "auto: go on from the newest whole checkpoint in --out")                           \
    WHOLE(micro_batch, 4, 1, 1000000, TRAIN | EVAL, "B", "sequences that a rank computes at a time")                            \
    WHOLE(global_batch, 0, 0, 100000000, TRAIN, "G", "sequences in a step; 0: micro-batch x ranks")                             \
    WHOLE(steps, 1000, 1, 1000000000, TRAIN, "N", "steps of the whole run")                                                     \
    REAL_NUMBER(lr, 3e-4, 0, 100, TRAIN, "X", "highest learning rate")                                                          \
    REAL_NUMBER(min_lr, 3e-5, 0, 100, TRAIN, "X", "learning rate at the last step")                                             \
    WHOLE(warmup_steps, 0, 0, 1000000000, TRAIN, "N", "steps of linear warm-up from 0")                                         \
    TEXT(schedule, "cosine", TRAIN, "cosine|constant|wsd", "after warm-up; wsd: constant, then linear over the last fifth")     \
    REAL_NUMBER(weight_decay, 0.1, 0, 100, TRAIN, "X", "of matrices; vectors do not decay")                                     \
    REAL_NUMBER(beta1, 0.9, 0, 0.999999, TRAIN, "X", "AdamW")                                                                   \
    REAL_NUMBER(beta2, 0.95, 0, 0.999999, TRAIN, "X", "AdamW")                                                                  \
    REAL_NUMBER(eps, 1e-8, 1e-30, 1, TRAIN, "X", "AdamW")                                                                       \
    REAL_NUMBER(clip, 1, 0, 1e30, TRAIN, "X", "largest gradient norm; 0 does not clip")                                         \
    REAL_NUMBER(init_std, 0.02, 0, 10, TRAIN, "X", "standard deviation of new weights")                                         \
    WHOLE(seed, 42, 0, UINT64_MAX, PREPARE | TRAIN | GENERATE, "S", "of weights, data order, splits and sampling")              \
    WHOLE(shuffle, 1, 0, 1, TRAIN, "0|1", "0: samples in the order of the data")                                                \
    WHOLE(eval_every, 100, 0, 1000000000, TRAIN, "N", "steps between evals; 0: none")                                           \
    WHOLE(eval_batches, 10, 0, 1000000000, TRAIN, "N", "global batches of each source in an eval; 0: all of its data")          \
    WHOLE(save_every, 250, 0, 1000000000, TRAIN, "N", "steps between checkpoints, one at the end too; 0: none at all")          \
    WHOLE(keep, 3, 0, 1000000000, TRAIN, "N", "newest checkpoints to keep; 0: all")                                             \
    REAL_NUMBER(time_limit, 0, 0, 1e9, TRAIN, "SECONDS", "save and end before so much time has passed since the start; 0: never")          \
    WHOLE(verify_data, 1, 0, 1, TRAIN | EVAL, "0|1", "1: compare the shards with the hashes in their manifest first")           \
    TEXT(prompt, "", GENERATE, "TEXT", "text to go on from")                                                                    \
    WHOLE(tokens, 100, 1, 100000000, GENERATE, "N", "tokens to generate, fewer if the document ends")                           \
    REAL_NUMBER(temperature, 0.8, 0, 1000, GENERATE, "X", "0: always the most likely token")                                    \
    WHOLE(top_k, 50, 0, 100000000, GENERATE, "K", "sample among the K most likely tokens; 0: all")                              \
    REAL_NUMBER(top_p, 1, 1e-9, 1, GENERATE, "P", "sample among the most likely tokens that make up this share")                \
    TEXT(recompute, "none", TRAIN, "none|layer", "layer: keep only what enters each block, compute the rest again in backward")  \
    WHOLE(recompute_stages, 0, 0, 100000, TRAIN, "N", "recompute on the first N pipeline stages only; 0: on all")               \
    FLAG(reproducible, TRAIN, "sum gradients in one fixed tree: the same bits for 1, 2, 4 ... replicas")                         \
    WHOLE(zero, 0, 0, 1, TRAIN, "0|1", "1: replicas share the optimizer's state, each updates a part (ZeRO-1)")                  \
    WHOLE(share_memory, 1, 0, 1, TRAIN, "0|1", "1: replicas on one host sum gradients in memory that they share; 0: by messages")\
    WHOLE(overlap, 1, 0, 1, TRAIN, "0|1", "1: gradients travel while backward runs; 0: after it, to measure the difference")    \
    WHOLE(tp, 1, 1, 100000, TRAIN | EVAL | GENERATE, "N", "tensor parallel: ranks that share each matrix; must divide the heads")  \
    WHOLE(pp, 1, 1, 100000, TRAIN | EVAL | GENERATE, "N", "pipeline parallel: ranks that share the layers")                    \
    WHOLE(bind, 1, 0, 1, TRAIN | EVAL | GENERATE | KERNELS | PLAN, "0|1", "1: threads to cores and ranks to NUMA domains, where nobody has bound them")  \
    TEXT(kernels, "sve", TRAIN | EVAL | GENERATE, "sve|ref", "sve: the fast kernels, on any CPU; ref: the reference") \
    TEXT(machine, NULL, TRAIN, "NAME", "fugaku, or a file that plan --measure wrote: plans the time of a step")                  \
    WHOLE(nodes, 1, 1, 1000000, PLAN, "N", "nodes of the run to plan")                                                          \
    WHOLE(ranks_per_node, 0, 0, 100000, PLAN, "N", "ranks on each; 0: as the machine says, else 1")                             \
    REAL_NUMBER(efficiency, 0, 0, 1, PLAN, "X", "share of peak that forward and backward reach; 0: as the machine says")        \
    REAL_NUMBER(tokens_budget, 0, 0, 1e18, PLAN, "N", "how many days this many tokens take")                                    \
    FLAG(search, PLAN, "propose the fastest grids, micro-batches, recompute and zero that fit the memory")                      \
    FLAG(measure, PLAN, "measure the ranks started into the machine file --out, at the model's shapes")                         \
    WHOLE(step, 0, 1, 1000000000, TRACE, "N", "the documents that this step read")                                              \
    WHOLE(row, UINT64_MAX, 0, 100000000, TRACE, "R", "only this row of the step's global batch, from 0")                        \
    TEXT(doc, NULL, TRACE, "ID", "steps that read this document: its id, or its number in the data, as 7 or DIR:7")             \
    TEXT(text, NULL, TRACE, "TEXT", "the longest spans of a text that stand in the data; -: of standard input")                 \
    WHOLE(min_bytes, 32, 1, 1000000, TRACE, "N", "of a text: spans of at least so many bytes, or all of a shorter text")        \
    WHOLE(limit, 10, 1, 1000000000, TRACE, "N", "of a text: documents listed for a span")                                       \
    FLAG(json, TRACE | PLAN, "one JSON object a line")                                                                          \
    FLAG(check, KERNELS, "compare the fast kernels with the reference on many shapes and values")                               \
    FLAG(bench, KERNELS, "time them at the shapes of GPT-2 124M")                                                               \
    FLAG(golden, KERNELS, "train a small model and compare its bits with those of every other machine")                         \
    TEXT(only, NULL, KERNELS, "NAME", "only the kernels whose name contains this")
// clang-format on

typedef struct {
    const char **items; // point into argv
    size_t count;
} TextList;

#define FIELD_FLAG(name, ...) bool name;
#define FIELD_LIST(name, ...) TextList name;
#define FIELD_TEXT(name, ...) const char *name;
#define FIELD_WHOLE(name, ...) uint64_t name;
#define FIELD_REAL(name, ...) double name;

typedef struct {
    OPTIONS(FIELD_FLAG, FIELD_LIST, FIELD_TEXT, FIELD_WHOLE, FIELD_REAL)
    int argc; // the command line, for manifests and logs
    char **argv;
} Options;

typedef enum { OPTION_FLAG, OPTION_LIST, OPTION_TEXT, OPTION_WHOLE, OPTION_REAL } OptionType;

typedef struct {
    const char *name; // as the field; the command line has - for _
    OptionType type;
    size_t offset;
    const char *text; // defaults
    uint64_t whole, whole_min, whole_max;
    double real, real_min, real_max;
    unsigned commands;
    const char *value, *help;
} OptionSpec;

#define SPEC(n, t) .name = #n, .type = t, .offset = offsetof(Options, n)
#define SPEC_FLAG(n, c, h) {SPEC(n, OPTION_FLAG), .commands = (c), .value = "", .help = (h)},
#define SPEC_LIST(n, c, v, h) {SPEC(n, OPTION_LIST), .commands = (c), .value = (v), .help = (h)},
#define SPEC_TEXT(n, d, c, v, h)                                                                   \
    {SPEC(n, OPTION_TEXT), .text = (d), .commands = (c), .value = (v), .help = (h)},
#define SPEC_WHOLE(n, d, lo, hi, c, v, h)                                                          \
    {SPEC(n, OPTION_WHOLE), .whole = (d), .whole_min = (lo), .whole_max = (hi),                    \
     .commands = (c),       .value = (v), .help = (h)},
#define SPEC_REAL(n, d, lo, hi, c, v, h)                                                           \
    {SPEC(n, OPTION_REAL), .real = (d),  .real_min = (lo), .real_max = (hi),                       \
     .commands = (c),      .value = (v), .help = (h)},

static const OptionSpec option_specs[] = {
    OPTIONS(SPEC_FLAG, SPEC_LIST, SPEC_TEXT, SPEC_WHOLE, SPEC_REAL)};
enum { OPTION_COUNT = sizeof option_specs / sizeof *option_specs };

static void *option_field(Options *o, const OptionSpec *spec) {
    return (char *)o + spec->offset;
}

// "--" and the option's name as the command line has it.
static const char *option_spelling(const OptionSpec *spec, char text[48]) {
    snprintf(text, 48, "--%s", spec->name);
    for (char *c = text; *c; c++) {
        *c = *c == '_' ? '-' : *c;
    }
    return text;
}

// =================================================================================================
// Parameters: one table of tensors. Sizes, pointers, initial values, decay, and files are loops
// over it.

// What of the model this rank holds. Pipeline parallel: a stage is some consecutive layers, the
// first stage has the embedding too, the last one the classifier. Tensor parallel (Shoeybi et al.
// 2019): of each large matrix a slice, cut so that a block needs one sum over the slices in its
// attention and one in its MLP: attention by heads, the MLP by its hidden channels, the vocabulary
// by words.
typedef struct {
    size_t slices, slice;       // tensor-parallel ranks, and which of them this is
    size_t layers, first_layer; // held here
    bool first_stage, last_stage;
    size_t channels, heads; // of attention in this slice: C / slices, H / slices
    VocabShard vocab;       // the rows of wte in this slice
} ModelShard;

// The part of rank (slice, stage) among `slices` x `stages`. The classifier costs as much as V /
// (12 C + T) layers, so the last stage gets fewer of them: as many as make the dearest stage
// cheapest.
static ModelShard shard_of(const ModelConfig *c, size_t slices, size_t slice, size_t stages,
                           size_t stage) {
    double classifier = (double)c->vocab_size / (12 * (double)c->channels + (double)c->seq_len),
           best = INFINITY;
    size_t last = c->layers;
    for (size_t n = 1; stages > 1 && n + stages - 1 <= c->layers; n++) { // layers of the last stage
        double others = (double)((c->layers - n + stages - 2) / (stages - 1));
        double dearest = fmax(others, (double)n + classifier);
        if (dearest < best) {
            best = dearest;
            last = n;
        }
    }
    size_t others = c->layers - last, before = stages > 1 ? stages - 1 : 1;
    ModelShard p = {.slices = slices,
                    .slice = slice,
                    .first_stage = stage == 0,
                    .last_stage = stage + 1 == stages,
                    .channels = c->channels / slices,
                    .heads = c->heads / slices,
                    .vocab.first = c->vocab_size * slice / slices};
    p.vocab.count = c->vocab_size * (slice + 1) / slices - p.vocab.first;
    p.first_layer = p.last_stage ? others : others * stage / before;
    p.layers = p.last_stage ? last : others * (stage + 1) / before - p.first_layer;
    return p;
}

// The weights of one transformer block, and of everything around the blocks; their gradients
// likewise. Matrices are (in, out), as Hugging Face's Conv1D has them. S: tensor-parallel slices.
typedef struct {
    float *ln1_w, *ln1_b; // (C), (C)
    float *qkv_w,
        *qkv_b; // (C, 3C/S), (3C/S): columns q, k, v, in each this slice's heads one after another
    float *proj_w, *proj_b;     // (C/S, C), (C)
    float *ln2_w, *ln2_b;       // (C), (C)
    float *fc_w, *fc_b;         // (C, 4C/S), (4C/S)
    float *fcproj_w, *fcproj_b; // (4C/S, C), (C)
} LayerWeights;

typedef struct {
    float *wte;           // (words, C), also the output head: the first and the last stage have it
    float *wpe;           // (positions, C): the first stage
    LayerWeights *layers; // (layers)
    float *lnf_w, *lnf_b; // (C), (C): the last stage
} Weights;

typedef enum {
    INIT_ZEROS,
    INIT_ONES,
    INIT_NORMAL,
    INIT_RESIDUAL
} Init; // INIT_RESIDUAL: normal, std / sqrt(2 L)

typedef struct {
    const char *name;  // in the safetensors file, after the prefix
    size_t field;      // in LayerWeights or Weights
    const char *shape; // one letter per dimension. Whole: V, P (positions), C. Cut into slices: v
                       // (words), c (C), f (4C), q (3C: q, k and v are cut each)
    Init init;
} TensorSpec;

static const TensorSpec tensors_before[] = {
    {"wte.weight", offsetof(Weights, wte), "vC", INIT_NORMAL},
    {"wpe.weight", offsetof(Weights, wpe), "PC", INIT_NORMAL},
};
static const TensorSpec tensors_of_layer[] = {
    {"ln_1.weight", offsetof(LayerWeights, ln1_w), "C", INIT_ONES},
    {"ln_1.bias", offsetof(LayerWeights, ln1_b), "C", INIT_ZEROS},
    {"attn.c_attn.weight", offsetof(LayerWeights, qkv_w), "Cq", INIT_NORMAL},
    {"attn.c_attn.bias", offsetof(LayerWeights, qkv_b), "q", INIT_ZEROS},
    {"attn.c_proj.weight", offsetof(LayerWeights, proj_w), "cC", INIT_RESIDUAL},
    {"attn.c_proj.bias", offsetof(LayerWeights, proj_b), "C", INIT_ZEROS},
    {"ln_2.weight", offsetof(LayerWeights, ln2_w), "C", INIT_ONES},
    {"ln_2.bias", offsetof(LayerWeights, ln2_b), "C", INIT_ZEROS},
    {"mlp.c_fc.weight", offsetof(LayerWeights, fc_w), "Cf", INIT_NORMAL},
    {"mlp.c_fc.bias", offsetof(LayerWeights, fc_b), "f", INIT_ZEROS},
    {"mlp.c_proj.weight", offsetof(LayerWeights, fcproj_w), "fC", INIT_RESIDUAL},
    {"mlp.c_proj.bias", offsetof(LayerWeights, fcproj_b), "C", INIT_ZEROS},
};
static const TensorSpec tensors_after[] = {
    {"ln_f.weight", offsetof(Weights, lnf_w), "C", INIT_ONES},
    {"ln_f.bias", offsetof(Weights, lnf_b), "C", INIT_ZEROS},
};
enum {
    BEFORE = sizeof tensors_before / sizeof *tensors_before,
    PER_LAYER = sizeof tensors_of_layer / sizeof *tensors_of_layer,
    AFTER = sizeof tensors_after / sizeof *tensors_after
};

typedef struct {
    ModelConfig config;
    ModelShard shard;
    const Kernels *kernels;
    size_t tensor_count;    // of this part
    size_t parameter_count; // of this part
    size_t all_parameters;  // of the whole model
    float
        *parameters; // (parameter_count): all tensors, one after another in the order of the table
    Weights weights; // pointers into parameters
    Buckets *arriving; // of parameters that other replicas update; NULL where none do
} Model;

// Waits until the parameters before `end` are those of this step.
static void parameters_await(const Model *m, World *world, const float *end) {
    if (m->arriving) {
        buckets_await(world, m->arriving, (size_t)(end - m->parameters));
    }
    mpi_progress(world);
}

static size_t tensors_in_model(const ModelConfig *c) {
    return BEFORE + PER_LAYER * c->layers + AFTER;
}

// The i-th tensor of the model: its line in the table and the layer it is in, SIZE_MAX if none.
static const TensorSpec *tensor_spec(const ModelConfig *c, size_t i, size_t *layer) {
    *layer = SIZE_MAX;
    if (i < BEFORE) {
        return &tensors_before[i];
    }
    i -= BEFORE;
    if (i < PER_LAYER * c->layers) {
        *layer = i / PER_LAYER;
        return &tensors_of_layer[i % PER_LAYER];
    }
    return &tensors_after[i - PER_LAYER * c->layers];
}

static bool shard_has(const ModelShard *p, const TensorSpec *spec, size_t layer) {
    if (layer != SIZE_MAX) {
        return layer >= p->first_layer && layer < p->first_layer + p->layers;
    }
    bool after = spec >= tensors_after && spec < tensors_after + AFTER;
    return after ? p->last_stage : p->first_stage || (p->last_stage && spec == tensors_before);
}

// Dimension d of a tensor: what of the whole this part has.
static void view_dimension(TensorView *view, int d, const ModelConfig *c, const ModelShard *p,
                           char letter) {
    size_t C = c->channels;
    view->whole[d] = letter == 'v'   ? c->vocab_size
                     : letter == 'P' ? c->seq_len
                     : letter == 'f' ? 4 * C
                                     : C;
    view->shape[d] = view->whole[d];
    if (letter == 'v') {
        view->shape[d] = p->vocab.count;
        view->first[d] = p->vocab.first;
    } else if (letter != 'P' && letter != 'C') {
        view->shape[d] /= p->slices;
        view->first[d] = p->slice * view->shape[d];
    }
    if (letter == 'q') {
        view->groups = 3;
        view->whole[d] *= 3;
        view->shape[d] *= 3;
    }
}

// Views of all tensors of a part over an array laid out as the table says; `prefix` goes before the
// name. Returns how many elements they take, *count is how many they are. With views == NULL only
// that.
static size_t tensor_views(const ModelConfig *c, const ModelShard *p, float *data,
                           const char *prefix, TensorView *views, size_t *count) {
    size_t total = 0;
    *count = 0;
    for (size_t i = 0; i < tensors_in_model(c); i++) {
        size_t layer;
        const TensorSpec *spec = tensor_spec(c, i, &layer);
        if (!shard_has(p, spec, layer)) {
            continue;
        }
        TensorView view = {
            .data = data ? data + total : NULL, .dims = (int)strlen(spec->shape), .groups = 1};
        for (int d = 0; d < view.dims; d++) {
            view_dimension(&view, d, c, p, spec->shape[d]);
        }
        if (layer == SIZE_MAX) {
            snprintf(view.name, sizeof view.name, "%stransformer.%s", prefix, spec->name);
        } else {
            snprintf(view.name, sizeof view.name, "%stransformer.h.%zu.%s", prefix, layer,
                     spec->name);
        }
        total += tensor_elements(&view);
        if (views) {
            views[*count] = view;
        }
        *count += 1;
    }
    return total;
}

// Points the fields of `weights` into an array laid out as the table says; those of other stages
// stay NULL.
static bool weights_over(const ModelConfig *c, const ModelShard *p, float *data, Weights *weights) {
    size_t count, next = 0;
    tensor_views(c, p, NULL, "", NULL, &count);
    TensorView *views = malloc(count * sizeof *views);
    *weights = (Weights){.layers = malloc(p->layers * sizeof *weights->layers)};
    if (!views || !weights->layers) {
        free(views);
        return false;
    }
    tensor_views(c, p, data, "", views, &count);
    for (size_t i = 0; i < tensors_in_model(c); i++) {
        size_t layer;
        const TensorSpec *spec = tensor_spec(c, i, &layer);
        if (shard_has(p, spec, layer)) {
            char *base = layer == SIZE_MAX ? (char *)weights
                                           : (char *)&weights->layers[layer - p->first_layer];
            memcpy(base + spec->field, &views[next++].data, sizeof(float *));
        }
    }
    free(views);
    return true;
}

// `shared`: room for the parameters, zero, that somebody else owns; NULL: the ledger gives it.
static bool model_create(Model *m, Memory *memory, const ModelConfig *config,
                         const ModelShard *shard, const Kernels *kernels, float *shared, Error *e) {
    double C = (double)config->channels,
           estimate = 12 * (double)config->layers * C * C + (double)config->vocab_size * C;
    *m = (Model){.config = *config, .shard = *shard, .kernels = kernels};
    if (estimate > 0x1p50) { // far from where sizes in bytes overflow
        return fail(e, "a model of %.3g parameters is beyond what any machine holds", estimate);
    }
    const ModelShard all = shard_of(config, 1, 0, 1, 0);
    m->all_parameters = tensor_views(config, &all, NULL, "", NULL, &m->tensor_count);
    m->parameter_count = tensor_views(config, shard, NULL, "", NULL, &m->tensor_count);
    m->parameters = shared ? shared : memory_floats(memory, "parameters", m->parameter_count);
    if (!m->parameters || !weights_over(config, shard, m->parameters, &m->weights)) {
        return fail(e, "no memory for %zu parameters (%.2f GiB): choose a smaller model",
                    m->parameter_count, (double)m->parameter_count * sizeof(float) / 0x1p30);
    }
    return true;
}

static void model_free(Model *m) {
    free(m->weights.layers);
    *m = (Model){0};
}

// A normal variate for each (seed, tensor, element), whatever the number of ranks or threads: the
// sum of 12 uniform 16-bit numbers has mean 6 and variance 1 - 2^-32. Integers all the way, so that
// every machine draws the same bits.
static float normal_variate(uint64_t seed, uint64_t tensor, uint64_t element) {
    int64_t sum = 0;
    for (uint64_t word = 0; word < 3; word++) {
        uint64_t bits = random_bits(seed, RANDOM_FREE + tensor, 3 * element + word);
        for (int i = 0; i < 4; i++, bits >>= 16) {
            sum += (int64_t)(bits & 0xFFFF);
        }
    }
    return (float)(2 * sum - 12 * 0xFFFF) * 0x1p-17f;
}

// GPT-2's initial values (Radford et al. 2019): normal with std `std`, the matrices that end a
// residual branch scaled by 1 / sqrt(2 L), biases 0, LayerNorm weights 1. An element's value does
// not depend on the part it is in.
static void model_initialize(Model *m, uint64_t seed, float std, const TensorView *views) {
    for (size_t i = 0; i < tensors_in_model(&m->config); i++) {
        size_t layer;
        const TensorSpec *spec = tensor_spec(&m->config, i, &layer);
        if (!shard_has(&m->shard, spec, layer)) {
            continue;
        }
        const TensorView *view = views++;
        size_t n = tensor_elements(view);
        float scale = spec->init == INIT_RESIDUAL ? std / sqrtf(2 * (float)m->config.layers) : std;
#pragma omp parallel for schedule(static)
        for (size_t j = 0; j < n; j++) {
            size_t at;
            tensor_run(view, j, &at);
            view->data[j] = spec->init == INIT_ZEROS  ? 0
                            : spec->init == INIT_ONES ? 1
                                                      : scale * normal_variate(seed, i, at);
        }
    }
}

// =================================================================================================
// Forward

typedef struct {
    float *ln1, *ln1_mean, *ln1_rstd; // (R, C), (R), (R)
    float *qkv;                       // (R, 3C/S)
    float *attn, *lse;                // (R, C/S), (B, H/S, T)
    float *residual2;                 // (R, C): the stream after attention
    float *ln2, *ln2_mean, *ln2_rstd; // (R, C), (R), (R)
    float *fc, *gelu;                 // (R, 4C/S)
    float *residual3;                 // (R, C): the stream after the MLP
} LayerActivations;

typedef struct {
    float
        *stream; // (R, C): what enters the first layer: embedded tokens, or the last stage's output
    LayerActivations *layers;         // (layers)
    float *lnf, *lnf_mean, *lnf_rstd; // (R, C), (R), (R): the last stage
    float *losses;                    // (R)
} Activations;

// The next n floats of an arena; while its size is being counted (base == NULL) there is nothing to
// point to.
static float *take(float *base, size_t *used, size_t n) {
    n = round_up(n, 64); // on a boundary of A64FX's cache lines
    *used += n;
    return base ? base + *used - n : NULL;
}

// What a layer keeps of its own; all else it shares with the other layers.
typedef enum {
    KEEP_ALL,    // for backward
    KEEP_STREAM, // for backward that computes the rest again (Chen et al. 2016); shared with other
                 // micro-batches too
    KEEP_CACHE   // qkv, for inference: its keys and values are read by later rows
} Keep;

// Lays the activations of R rows out over `base`, returns how many floats they take. `shared`: a
// layer of another micro-batch to share with, NULL for the first one.
static size_t activations_layout(Activations *a, const ModelConfig *c, const ModelShard *p,
                                 size_t R, Keep keep, const LayerActivations *shared, float *base) {
    size_t C = c->channels, used = 0;
    a->stream = take(base, &used, R * C);
    for (size_t l = 0; l < p->layers; l++) {
        LayerActivations *y = &a->layers[l];
        if (keep != KEEP_ALL && (l > 0 || shared)) {
            *y = l > 0 ? a->layers[0] : *shared;
            *(keep == KEEP_CACHE ? &y->qkv : &y->residual3) =
                take(base, &used, keep == KEEP_CACHE ? R * 3 * p->channels : R * C);
            continue;
        }
        y->ln1 = take(base, &used, R * C);
        y->ln1_mean = take(base, &used, R);
        y->ln1_rstd = take(base, &used, R);
        y->qkv = take(base, &used, R * 3 * p->channels);
        y->attn = take(base, &used, R * p->channels);
        y->lse = take(base, &used, R * p->heads);
        y->residual2 = take(base, &used, R * C);
        y->ln2 = take(base, &used, R * C);
        y->ln2_mean = take(base, &used, R);
        y->ln2_rstd = take(base, &used, R);
        y->fc = take(base, &used, R * 4 * p->channels);
        y->gelu = take(base, &used, R * 4 * p->channels);
        y->residual3 = take(base, &used, R * C);
    }
    if (p->last_stage) {
        a->lnf = take(base, &used, R * C);
        a->lnf_mean = take(base, &used, R);
        a->lnf_rstd = take(base, &used, R);
        a->losses = take(base, &used, R);
    }
    return used;
}

static bool activations_create(Activations *a, Memory *memory, const ModelConfig *c,
                               const ModelShard *p, size_t R, Keep keep,
                               const LayerActivations *shared, Error *e) {
    double per_token = 20 * (double)(p->layers + 1) *
                       (double)c->channels; // at most; for sizes that would overflow
    *a = (Activations){.layers = malloc(p->layers * sizeof *a->layers)};
    bool possible = a->layers && per_token * (double)R < 0x1p50;
    size_t n = possible ? activations_layout(a, c, p, R, keep, shared, NULL) : 0;
    float *data = possible ? memory_floats(memory, "activations", n) : NULL;
    if (!data) {
        return fail(e,
                    "no memory for the activations of %zu tokens (about %.3g GiB): choose a "
                    "smaller --micro-batch",
                    R, per_token * (double)R * sizeof(float) / 0x1p30);
    }
    activations_layout(a, c, p, R, keep, shared, data);
    return true;
}

// The stream that leaves this stage.
static float *stage_output(const Model *m, const Activations *a) {
    return a->layers[m->shard.layers - 1].residual3;
}

// One block: x += attention(ln_1(x)), then x += mlp(ln_2(x)); x: (R, C) is the stream before it.
// Rows before `first` (of a single sequence) were computed by an earlier call and only serve as
// keys and values. The slices' products add up to the new stream: slice 0 starts from the old one
// and the bias, the others from zero. `again`: for backward, which does not need what leaves the
// block.
static void layer_forward(const Model *m, World *world, const LayerWeights *w, LayerActivations *y,
                          const float *x, size_t first, size_t B, size_t T, bool again) {
    const Kernels *k = m->kernels;
    size_t C = m->config.channels, S = m->shard.channels, R = B * (T - first), from = first * C,
           from_s = first * S;
    bool root = m->shard.slice == 0;
    k->layernorm_forward(y->ln1 + from, y->ln1_mean + first, y->ln1_rstd + first, x + from,
                         w->ln1_w, w->ln1_b, R, C);
    k->matmul_forward(y->qkv + 3 * from_s, y->ln1 + from, w->qkv_w, w->qkv_b, NULL, R, C, 3 * S);
    k->attention_forward(y->attn, y->lse, y->qkv, first, B, T, S, m->shard.heads);
    k->matmul_forward(y->residual2 + from, y->attn + from_s, w->proj_w, root ? w->proj_b : NULL,
                      root ? x + from : NULL, R, S, C);
    tp_all_reduce(world, y->residual2 + from, R * C);
    k->layernorm_forward(y->ln2 + from, y->ln2_mean + first, y->ln2_rstd + first,
                         y->residual2 + from, w->ln2_w, w->ln2_b, R, C);
    k->matmul_gelu_forward(y->fc + 4 * from_s, y->gelu + 4 * from_s, y->ln2 + from, w->fc_w,
                           w->fc_b, R, C, 4 * S);
    if (again) {
        return;
    }
    k->matmul_forward(y->residual3 + from, y->gelu + 4 * from_s, w->fcproj_w,
                      root ? w->fcproj_b : NULL, root ? y->residual2 + from : NULL, R, 4 * S, C);
    tp_all_reduce(world, y->residual3 + from, R * C);
}

// This stage up to the stream that leaves it, on the last stage through the final LayerNorm; rows
// first .. T - 1, tokens: (B, T). With first > 0, B must be 1. Stages but the first find what
// enters in a->stream.
static void forward(const Model *m, World *world, Activations *a, const int32_t *tokens,
                    size_t first, size_t B, size_t T) {
    const Weights *w = &m->weights;
    const float *x = a->stream;
    size_t C = m->config.channels, R = B * (T - first), from = first * C;
    parameters_await(m, world, w->layers[0].ln1_w);
    if (m->shard.first_stage) {
        m->kernels->embedding_forward(a->stream + from, tokens + first, w->wte,
                                      m->shard.slice == 0 ? w->wpe : NULL, m->shard.vocab, first, B,
                                      T - first, C);
        tp_all_reduce(world, a->stream + from, R * C);
    }
    for (size_t l = 0; l < m->shard.layers; l++) {
        parameters_await(m, world, w->layers[l].fcproj_b + C);
        layer_forward(m, world, &w->layers[l], &a->layers[l], x, first, B, T, false);
        x = a->layers[l].residual3;
    }
    parameters_await(m, world, m->parameters + m->parameter_count);
    if (m->shard.last_stage) {
        m->kernels->layernorm_forward(a->lnf + from, a->lnf_mean + first, a->lnf_rstd + first,
                                      x + from, w->lnf_w, w->lnf_b, R, C);
    }
}

// What the classifier works on: CLASSIFIER_ROWS rows at a time, so that B x T x V logits never
// exist.
typedef struct {
    float *logits;         // (CLASSIFIER_ROWS, words)
    float *scale;          // (CLASSIFIER_ROWS)
    SliceSoftmax *softmax; // (slices, CLASSIFIER_ROWS)
} ClassifierScratch;

static bool classifier_create(ClassifierScratch *s, Memory *memory, const ModelShard *p, Error *e) {
    *s = (ClassifierScratch){0};
    if (!p->last_stage) {
        return true;
    }
    s->softmax = malloc(p->slices * CLASSIFIER_ROWS * sizeof *s->softmax);
    s->logits = memory_floats(memory, "logits", CLASSIFIER_ROWS * p->vocab.count);
    s->scale = memory_floats(memory, "logits", CLASSIFIER_ROWS);
    return (s->logits && s->scale && s->softmax) ||
           fail(e, "no memory for the logits of %zu words", p->vocab.count);
}

// losses (R) of the rows a->lnf against targets (R). Unless dinp is NULL also dinp (R, C) = and
// dwte (words, C) += the gradients of dloss * sum(losses).
static void classify(const Model *m, World *world, Activations *a, ClassifierScratch *s,
                     float *dinp, float *dwte, const int32_t *targets, float dloss, size_t R) {
    const Kernels *k = m->kernels;
    size_t C = m->config.channels;
    for (size_t r = 0; r < R; r += CLASSIFIER_ROWS) {
        size_t rows = R - r < CLASSIFIER_ROWS ? R - r : CLASSIFIER_ROWS;
        const float *inp = a->lnf + r * C;
        k->classifier_forward(s->logits, s->softmax + m->shard.slice * rows, inp, m->weights.wte,
                              targets + r, m->shard.vocab, rows, C);
        tp_all_gather(world, s->softmax, rows * sizeof *s->softmax);
        k->cross_entropy(a->losses + r, s->scale, s->softmax, m->shard.slices, m->shard.slice,
                         dloss, rows);
        if (dinp) {
            k->classifier_backward(dinp + r * C, dwte, s->logits, s->scale, inp, m->weights.wte,
                                   targets + r, dloss, m->shard.vocab, rows, C);
        }
    }
    if (dinp) {
        tp_all_reduce(world, dinp, R * C);
    }
}

// =================================================================================================
// Backward: forward read from the end. Weights' gradients are added to, so that micro-batches
// accumulate.

typedef struct {
    float *
        stream; // (R, C): gradient of the residual stream, carried from the last layer to the first
    float *branch; // (R, C)
    float *qkv;    // (R, 3C/S)
    float *fc;     // (R, 4C/S)
} BackwardScratch;

static size_t backward_layout(BackwardScratch *s, const ModelConfig *c, const ModelShard *p,
                              size_t R, float *base) {
    size_t used = 0;
    s->stream = take(base, &used, R * c->channels);
    s->branch = take(base, &used, R * c->channels);
    s->qkv = take(base, &used, R * 3 * p->channels);
    s->fc = take(base, &used, R * 4 * p->channels);
    return used;
}

static bool backward_scratch_create(BackwardScratch *s, Memory *memory, const ModelConfig *c,
                                    const ModelShard *p, size_t R, Error *e) {
    float *data =
        memory_floats(memory, "activations' gradients", backward_layout(s, c, p, R, NULL));
    if (!data) {
        return fail(e,
                    "no memory for the gradients of the activations of %zu tokens: choose a "
                    "smaller --micro-batch",
                    R);
    }
    backward_layout(s, c, p, R, data);
    return true;
}

// world_poke between the kernels lets the gradients of the layers behind travel meanwhile.
static void layer_backward(const Model *m, World *world, const LayerWeights *w, LayerWeights *dw,
                           const LayerActivations *y, BackwardScratch *d, const float *x, size_t B,
                           size_t T) {
    const Kernels *k = m->kernels;
    size_t C = m->config.channels, S = m->shard.channels, R = B * T;
    // residual3 = residual2 + gelu(ln2 fc) fcproj
    k->matmul_backward_weight(dw->fcproj_w, dw->fcproj_b, y->gelu, d->stream, R, 4 * S, C);
    mpi_progress(world);
    k->matmul_backward_input(d->fc, d->stream, w->fcproj_w, y->fc, R, 4 * S, C);
    mpi_progress(world);
    k->matmul_backward_weight(dw->fc_w, dw->fc_b, y->ln2, d->fc, R, C, 4 * S);
    mpi_progress(world);
    k->matmul_backward_input(d->branch, d->fc, w->fc_w, NULL, R, C, 4 * S);
    tp_all_reduce(world, d->branch, R * C);
    k->layernorm_backward(d->stream, dw->ln2_w, dw->ln2_b, d->branch, y->residual2, w->ln2_w,
                          y->ln2_mean, y->ln2_rstd, R, C);
    // residual2 = x + attention(ln1 qkv) proj
    mpi_progress(world);
    k->matmul_backward_weight(dw->proj_w, dw->proj_b, y->attn, d->stream, R, S, C);
    k->matmul_backward_input(d->branch, d->stream, w->proj_w, NULL, R, S, C);
    mpi_progress(world);
    k->attention_backward(d->qkv, d->branch, y->attn, y->qkv, y->lse, B, T, S, m->shard.heads);
    mpi_progress(world);
    k->matmul_backward_weight(dw->qkv_w, dw->qkv_b, y->ln1, d->qkv, R, C, 3 * S);
    mpi_progress(world);
    k->matmul_backward_input(d->branch, d->qkv, w->qkv_w, NULL, R, C, 3 * S);
    tp_all_reduce(world, d->branch, R * C);
    k->layernorm_backward(d->stream, dw->ln1_w, dw->ln1_b, d->branch, x, w->ln1_w, y->ln1_mean,
                          y->ln1_rstd, R, C);
}

// ------------------------------------------------------------------------------------------------
// A step's micro-batches on their way through the stages. With one stage: forward, backward,
// forward, backward, ... With several: 1F1B (Narayanan et al. 2019). A stage runs ahead by as many
// forwards as there are stages behind it, then goes one back for each one forward; so it holds at
// most that many and one more micro-batches' activations.

typedef struct {
    size_t B, T;
    Keep keep;
    Activations *sets;    // (set_count): micro-batch i is in set i % set_count
    MPI_Request *passed;  // (set_count): the sending of what leaves the stage forward
    MPI_Request returned; // the sending of the stream's gradient backward
    size_t set_count;
    ClassifierScratch classifier;
    BackwardScratch backward;
} Workspace;

// What becomes of the gradients of a step: they are summed over its micro-batches, then over the
// replicas.
typedef struct {
    Weights dweights;       // pointers into gradients
    float *gradients;       // (parameter_count), laid out like the parameters
    float *owned_gradients; // with ZeRO (owned): the sums that this replica updates with; else
                            // gradients
    Neighbours neighbours;
    SharedArray shared_gradients,
        shared_parameters; // with neighbours: where gradients, and with ZeRO parameters, are
    Buckets buckets;
    bool overlap; // buckets leave while backward runs
    // --reproducible: blocks of micro-batches are the leaves of one binary tree over all replicas.
    // A binary counter: tree[l] holds the sum of 2^l blocks while bit l of blocks_done is set.
    size_t block; // micro-batches in a leaf; 0: not reproducible
    size_t blocks_done;
    float *tree[64];
} GradientReducer;

// x (n) += y
static void add_floats(float *x, const float *y, size_t n) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

// The gradients of one more block join the tree: sums of equal size are added to each other.
// `last`: they make the whole sum of this replica, which stays in flow->gradients.
static void tree_add(GradientReducer *reducer, size_t n, bool last) {
    size_t level = 0;
    for (; reducer->blocks_done >> level & 1; level++) {
        add_floats(reducer->gradients, reducer->tree[level], n);
    }
    reducer->blocks_done++;
    if (!last) {
        float *sum = reducer->gradients;
        memcpy(reducer->tree[level], sum, n * sizeof *sum);
        zero_floats(sum, n);
    }
}

// With ZeRO: this replica's pieces of gradients that are summed already.
static void owned_gradients_copy(GradientReducer *reducer) {
    for (size_t b = 0; reducer->buckets.zero && b < reducer->buckets.count; b++) {
        const Bucket *bucket = &reducer->buckets.items[b];
        memcpy(reducer->owned_gradients + bucket->own, reducer->gradients + bucket->own_begin,
               (bucket->own_end - bucket->own_begin) * sizeof *reducer->owned_gradients);
    }
}

// The gradients from `from` on are complete.
static void gradients_complete(GradientReducer *reducer, World *world, const float *from) {
    if (reducer->overlap && reducer->block == 0) {
        buckets_reduce_from(world, &reducer->buckets, (size_t)(from - reducer->gradients));
    }
}

// Sets of activations that a stage needs for `count` micro-batches a step.
static size_t sets_needed(const World *w, size_t count) {
    size_t behind = (size_t)(w->grid.pp - w->grid.stage);
    return behind < count ? behind : count;
}

static bool workspace_create(Workspace *s, Memory *memory, const ModelConfig *c,
                             const ModelShard *p, size_t sets, size_t B, size_t T, Keep keep,
                             Error *e) {
    *s = (Workspace){.B = B, .T = T, .keep = keep, .returned = MPI_REQUEST_NULL};
    s->sets = calloc(sets, sizeof *s->sets);
    s->passed = malloc(sets * sizeof *s->passed);
    if (!s->sets || !s->passed) {
        return fail(e, "no memory for %zu micro-batches", sets);
    }
    for (; s->set_count < sets; s->set_count++) {
        s->passed[s->set_count] = MPI_REQUEST_NULL;
        if (!activations_create(&s->sets[s->set_count], memory, c, p, B * T, keep,
                                s->set_count > 0 ? s->sets[0].layers : NULL, e)) {
            return false;
        }
    }
    return classifier_create(&s->classifier, memory, p, e) &&
           (keep == KEEP_CACHE || backward_scratch_create(&s->backward, memory, c, p, B * T, e));
}

static void workspace_free(Workspace *s) {
    for (size_t i = 0; i < s->set_count; i++) {
        free(s->sets[i].layers);
    }
    free(s->sets);
    free(s->passed);
    free(s->classifier.softmax);
    *s = (Workspace){0};
}

// Micro-batch `i` of `B` sequences forward through this stage; tokens: (B, T).
static Activations *micro_batch_forward(const Model *m, World *world, Workspace *s, size_t i,
                                        const int32_t *tokens, size_t B) {
    Activations *a = &s->sets[i % s->set_count];
    size_t n = B * s->T * m->config.channels;
    message_wait(world, &s->passed[i % s->set_count]);
    if (!m->shard.first_stage) {
        stage_receive(world, a->stream, n, -1);
    }
    forward(m, world, a, tokens, 0, B, s->T);
    if (!m->shard.last_stage) {
        stage_send(world, stage_output(m, a), n, 1, &s->passed[i % s->set_count]);
    }
    return a;
}

// A sum of token losses in whole 2^-24 nats: integers add up to the same in any order, so that a
// loss does not depend on how samples are dealt to replicas. Losses that are not finite are
// counted.
typedef struct {
    int64_t ticks, not_finite;
} LossSum;

static LossSum loss_plus(LossSum a, LossSum b) {
    return (LossSum){a.ticks + b.ticks, a.not_finite + b.not_finite};
}

static LossSum loss_of_micro_batch(const Activations *a, size_t R) {
    LossSum sum = {0, 0};
    for (size_t r = 0; r < R; r++) {
        bool finite = isfinite(a->losses[r]);
        sum.not_finite += !finite;
        sum.ticks += finite ? llrint((double)fminf(a->losses[r], 0x1p15f) * 0x1p24) : 0;
    }
    return sum;
}

// Collective: mean over `tokens`, from what the last stage of each replica has.
static double loss_mean(World *w, LossSum sum, double tokens) {
    int64_t parts[2] = {w->grid.tp_rank == 0 ? sum.ticks : 0,
                        w->grid.tp_rank == 0 ? sum.not_finite : 0};
    all_reduce_integers(w, parts, 2); // all slices of the last stage have the same
    return parts[1] ? NAN : (double)parts[0] * 0x1p-24 / tokens;
}

// Micro-batch `i` backward through this stage, after its forward: adds to the flow's gradients
// those of dloss * (sum of all token losses). `last`: it is the step's last. Returns that sum on
// the last stage, else nothing. tokens, targets: (B, T).
static LossSum micro_batch_backward(const Model *m, World *world, Workspace *s,
                                    GradientReducer *reducer, size_t i, bool last,
                                    const int32_t *tokens, const int32_t *targets, float dloss) {
    Weights *dweights = &reducer->dweights;
    const Kernels *k = m->kernels;
    Activations *a = &s->sets[i % s->set_count];
    BackwardScratch *d = &s->backward;
    size_t C = m->config.channels, B = s->B, T = s->T, R = B * T;
    LossSum loss = {0, 0};
    message_wait(world, &s->returned);
    if (m->shard.last_stage) {
        classify(m, world, a, &s->classifier, d->branch, dweights->wte, targets, dloss, R);
        memset(d->stream, 0, R * C * sizeof(float));
        k->layernorm_backward(d->stream, dweights->lnf_w, dweights->lnf_b, d->branch,
                              stage_output(m, a), m->weights.lnf_w, a->lnf_mean, a->lnf_rstd, R, C);
        loss = loss_of_micro_batch(a, R);
    } else {
        stage_receive(world, d->stream, R * C, 1);
    }
    for (size_t l = m->shard.layers; l-- > 0;) {
        const float *x = l > 0 ? a->layers[l - 1].residual3 : a->stream;
        if (s->keep == KEEP_STREAM) {
            layer_forward(m, world, &m->weights.layers[l], &a->layers[l], x, 0, B, T, true);
        }
        layer_backward(m, world, &m->weights.layers[l], &dweights->layers[l], &a->layers[l], d, x,
                       B, T);
        if (last) {
            gradients_complete(reducer, world, dweights->layers[l].ln1_w);
        }
    }
    if (m->shard.first_stage) {
        k->embedding_backward(dweights->wte, dweights->wpe, d->stream, tokens, m->shard.vocab, B, T,
                              C);
    } else {
        stage_send(world, d->stream, R * C, -1, &s->returned);
    }
    return loss;
}

// The step's gradients are complete: what of their sums over the replicas, and over the two stages
// that have the embedding, has not left yet. With --reproducible the replicas come first, so that
// the order of the sum is theirs.
static void gradients_sum(const Model *m, World *world, GradientReducer *reducer) {
    bool tied = m->shard.first_stage != m->shard.last_stage;
    if (reducer->block > 0) {
        dp_tree_all_reduce(world, reducer->gradients, reducer->tree[0], m->parameter_count);
    }
    if (tied) {
        tied_all_reduce(world, reducer->dweights.wte, m->shard.vocab.count * m->config.channels);
    }
    if (reducer->block > 0) {
        owned_gradients_copy(reducer);
    } else {
        buckets_reduce_from(world, &reducer->buckets, 0);
        buckets_wait(world, &reducer->buckets);
    }
}

// `count` micro-batches forward and backward; inputs, targets: (count, B, T). Sets the flow's
// gradients, summed over the replicas too. Returns the sum of this replica's token losses on the
// last stage, else nothing.
static LossSum forward_backward(const Model *m, World *world, Workspace *s,
                                GradientReducer *reducer, const int32_t *inputs,
                                const int32_t *targets, float dloss, size_t count) {
    size_t ahead = (size_t)(world->grid.pp - 1 - world->grid.stage), R = s->B * s->T;
    LossSum loss = {0, 0};
    ahead = ahead < count ? ahead : count;
    zero_floats(reducer->gradients, m->parameter_count);
    reducer->blocks_done = 0;
    for (size_t i = 0; i < count + ahead; i++) {
        if (i < count) {
            micro_batch_forward(m, world, s, i, inputs + i * R, s->B);
        }
        if (i >= ahead) {
            size_t j = i - ahead;
            loss = loss_plus(loss, micro_batch_backward(m, world, s, reducer, j, j + 1 == count,
                                                        inputs + j * R, targets + j * R, dloss));
            if (reducer->block > 0 && (j + 1) % reducer->block == 0) {
                tree_add(reducer, m->parameter_count, j + 1 == count);
            }
        }
    }
    message_wait(world, &s->returned);
    for (size_t i = 0; i < s->set_count; i++) {
        message_wait(world, &s->passed[i]);
    }
    gradients_sum(m, world, reducer);
    return loss;
}

// Sum of the token losses of one micro-batch of B sequences, without gradients; 0 on all stages but
// the last.
static LossSum forward_loss(const Model *m, World *world, Workspace *s, const int32_t *tokens,
                            const int32_t *targets, size_t B) {
    Activations *a = micro_batch_forward(m, world, s, 0, tokens, B);
    if (!m->shard.last_stage) {
        return (LossSum){0, 0};
    }
    classify(m, world, a, &s->classifier, NULL, NULL, targets, 0, B * s->T);
    return loss_of_micro_batch(a, B * s->T);
}

// =================================================================================================
// Update

// Learning rate of step 1 .. steps: linear warm-up to lr, then the schedule down to min_lr at the
// last step.
static double learning_rate(const Options *o, uint64_t step) {
    double lr = o->lr, min_lr = o->min_lr, warmup = (double)o->warmup_steps,
           steps = (double)o->steps;
    double at = (double)step;
    if (at <= warmup) {
        return lr * at / warmup;
    }
    if (!strcmp(o->schedule, "constant")) {
        return lr;
    }
    if (!strcmp(o->schedule, "wsd")) { // warm-up, stable, decay (Hu et al. 2024)
        double decay_from = fmax(warmup, steps - floor(steps / 5));
        return at <= decay_from ? lr
                                : lr + (min_lr - lr) * (at - decay_from) / (steps - decay_from);
    }
    return min_lr + (lr - min_lr) * 0.5 *
                        (1 + cos(3.14159265358979323846 * (at - warmup) / (steps - warmup)));
}

// A range of a tensor's elements that this replica updates.
typedef struct {
    size_t begin, end; // of the tensor
    size_t state; // where `begin` is in the optimizer's arrays and among the flow's own gradients
} OwnedRange;

// What this replica owns in a bucket of the tensor that begins at parameter `at`; false if nothing.
static bool owned_range(const Bucket *bucket, size_t at, size_t elements, OwnedRange *range) {
    size_t begin = bucket->own_begin > at ? bucket->own_begin : at;
    size_t end = bucket->own_end < at + elements ? bucket->own_end : at + elements;
    if (begin >= end) {
        return false;
    }
    *range = (OwnedRange){begin - at, end - at, bucket->own + begin - bucket->own_begin};
    return true;
}

// AdamW on all that this replica owns; matrices decay, vectors do not. grad_scale clips.
static void update(Model *m, const TensorView *views, const GradientReducer *reducer,
                   float *exp_avg, float *exp_avg_sq, const Options *o, double lr,
                   double grad_scale, uint64_t step) {
    for (size_t b = 0; b < reducer->buckets.count; b++) {
        for (size_t i = 0; i < m->tensor_count; i++) {
            OwnedRange r;
            if (owned_range(&reducer->buckets.items[b], (size_t)(views[i].data - m->parameters),
                            tensor_elements(&views[i]), &r)) {
                m->kernels->adamw(views[i].data + r.begin, exp_avg + r.state, exp_avg_sq + r.state,
                                  reducer->owned_gradients + r.state, r.end - r.begin,
                                  (float)grad_scale, (float)lr, (float)o->beta1, (float)o->beta2,
                                  (float)o->eps, views[i].dims == 2 ? (float)o->weight_decay : 0,
                                  step);
            }
        }
    }
}

// =================================================================================================
// Loop

typedef struct {
    const Options *options;
    World *world;
    Memory memory; // all arrays of size below
    Model model;
    TensorView *views; // of model.parameters
    GradientReducer reducer;
    float *exp_avg, *exp_avg_sq; // (owned): AdamW's m and v
    Workspace workspace;
    Mixture data, val;         // val.count is 0 without validation data
    const char *tokenizer;     // folder whose tokenizer goes into checkpoints; "" if there is none
    size_t T, B, global_batch; // tokens in a sequence, sequences in a micro-batch, in a step
    int32_t *inputs;  // (global_batch / replicas, T): this replica's part of a step, and room for
                      // one token more
    int32_t *targets; // (global_batch / replicas, T)
    unsigned char
        *digests; // (global_batch / replicas, 32) SHA-256 of its samples; on rank 0 room for all
    uint64_t step, samples;            // steps done, samples read by all ranks so far
    double peak_flops;                 // of all ranks, measured at the start
    double start;                      // seconds_now() when the command began
    double longest_step, longest_save; // seconds, so far
    bool stopped;                      // ended ahead of the step count, with a checkpoint
    size_t threads;                    // of a planned rank; 0: those that are there
    size_t base_memory;                // bytes of the process before the arrays
    size_t base_shared;                // of these, shared with other processes
    double planned_seconds;            // of a step; 0: there is no --machine to plan with
    double step_seconds;               // of all steps since the start but the first one
    uint64_t steps_timed;
    bool stepped;       // at least once since the start
    FILE *log;          // rank 0
    EventWriter events; // rank 0: the log for TensorBoard
} Trainer;

typedef struct {
    double loss, grad_norm, lr, seconds, comm_seconds;
    char batch_hash[BATCH_HASH_DIGITS + 1]; // on rank 0
    bool skipped;
} StepResult;

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Reads one sample. inputs: (T + 1), of which the last belongs to what comes behind the row;
// targets: (T).
static bool read_sample(const Dataset *data, uint64_t sample, size_t T, size_t vocab_size,
                        int32_t *inputs, int32_t *targets, Error *e) {
    if (!dataset_read(data, sample, vocab_size, inputs, e)) {
        return false;
    }
    memcpy(targets, inputs + 1, T * sizeof *targets);
    return true;
}

// Reads this rank's rows of the next step.
static bool read_batch(Trainer *t, size_t rows, Error *e) {
    const Options *o = t->options;
    bool ok = true;
    for (size_t i = 0; i < rows && ok; i++) {
        SampleId id = mixture_order(&t->data, o->seed, o->shuffle,
                                    t->samples + (size_t)t->world->grid.dp_rank * rows + i);
        ok = read_sample(&t->data.items[id.dataset], id.sample, t->T, t->model.config.vocab_size,
                         t->inputs + i * t->T, t->targets + i * t->T, e);
    }
    return ok;
}

static size_t local_batch(const Trainer *t) {
    return t->global_batch / (size_t)t->world->grid.dp;
}

// Whether this part is the one that counts for a tensor which several parts hold: what is not cut
// is on all slices, the embedding on two stages.
static bool counts_once(const Model *m, const TensorView *view) {
    bool cut = tensor_elements(view) < tensor_whole_elements(view);
    bool embedding = strstr(view->name, "wte.weight") != NULL;
    return (cut || m->shard.slice == 0) && (!embedding || m->shard.first_stage);
}

// The norm of the whole model's gradient: of each tensor the sum of squares over what this replica
// owns; with ZeRO all replicas', and over slices and stages.
static double gradient_norm(const Trainer *t) {
    const GradientReducer *reducer = &t->reducer;
    bool whole = !reducer->buckets.zero ||
                 reducer->block > 0; // so that the order of the sum does not depend on the replicas
    double sum = 0;
    for (size_t i = 0; i < t->model.tensor_count; i++) {
        const TensorView *view = &t->views[i];
        size_t at = (size_t)(view->data - t->model.parameters), n = tensor_elements(view);
        if (counts_once(&t->model, view) && whole) {
            sum += t->model.kernels->sum_of_squares(reducer->gradients + at, n);
        }
        for (size_t b = 0; counts_once(&t->model, view) && !whole && b < reducer->buckets.count;
             b++) {
            OwnedRange r;
            if (owned_range(&reducer->buckets.items[b], at, n, &r)) {
                sum += t->model.kernels->sum_of_squares(reducer->owned_gradients + r.state,
                                                        r.end - r.begin);
            }
        }
    }
    return sqrt(model_all_reduce(t->world, whole ? sum : dp_all_reduce_double(t->world, sum)));
}

// Collective: batch_hash of the step, on rank 0, from the ids that the forward pass is about to
// see.
static void hash_batch(Trainer *t, size_t rows, char hex[BATCH_HASH_DIGITS + 1]) {
    for (size_t i = 0; i < rows; i++) {
        Sha256 hash;
        sha256_begin(&hash);
        sha256_add_tokens(&hash, t->inputs + i * t->T, t->T);
        sha256_add_tokens(&hash, t->targets + (i + 1) * t->T - 1, 1);
        sha256_digest(&hash, t->digests + DIGEST_BYTES * i);
    }
    dp_gather(t->world, t->digests, rows, DIGEST_BYTES);
    if (t->world->rank == 0) {
        batch_hash(t->digests, t->global_batch, hex);
    }
}

// One step: gradients of the global batch, clipped, applied. A step whose loss or gradients are not
// finite changes nothing. False on all ranks, with the reason printed, if the data could not be
// read.
static bool train_step(Trainer *t, StepResult *s) {
    const Options *o = t->options;
    World *w = t->world;
    Error e;
    double start = seconds_now();
    size_t local = local_batch(t);
    w->comm_seconds = 0;
    if (!world_check(w, read_batch(t, local, &e), &e)) {
        return false;
    }
    hash_batch(t, local, s->batch_hash);
    float dloss = 1 / (float)(t->global_batch * t->T);
    LossSum loss = forward_backward(&t->model, w, &t->workspace, &t->reducer, t->inputs, t->targets,
                                    dloss, local / t->B);
    s->loss = loss_mean(w, loss, (double)t->global_batch * (double)t->T);
    s->grad_norm = gradient_norm(t);
    s->lr = learning_rate(o, t->step + 1);
    s->skipped = !isfinite(s->loss) || !isfinite(s->grad_norm);
    if (!s->skipped) {
        double grad_scale = o->clip > 0 && s->grad_norm > o->clip ? o->clip / s->grad_norm : 1;
        update(&t->model, t->views, &t->reducer, t->exp_avg, t->exp_avg_sq, o, s->lr, grad_scale,
               t->step + 1);
        buckets_gather(w, &t->reducer.buckets);
        if (!o->overlap) {
            parameters_await(&t->model, w, t->model.parameters + t->model.parameter_count);
        }
    }
    t->step++;
    t->samples += t->global_batch;
    s->seconds = seconds_now() - start;
    s->comm_seconds = w->comm_seconds;
    return true;
}

// Mean token loss of the first `count` samples of `data`, shared out over the replicas. False on
// all ranks, with the reason printed, on failure. inputs, targets: (B, T) scratch, inputs with room
// for one more.
static bool evaluate(World *w, const Model *m, Workspace *s, const Dataset *data, uint64_t count,
                     int32_t *inputs, int32_t *targets, double *loss) {
    Error e;
    bool ok = true;
    LossSum sum = {0, 0};
    uint64_t replica = (uint64_t)w->grid.dp_rank, replicas = (uint64_t)w->grid.dp,
             end = count * (replica + 1) / replicas;
    for (uint64_t i = count * replica / replicas; i < end;) {
        size_t now = end - i < s->B ? (size_t)(end - i) : s->B;
        // a rank that cannot read goes on with what it has, so that the others do not wait for it
        for (size_t row = 0; row < now && ok; row++) {
            ok = read_sample(data, i + row, s->T, m->config.vocab_size, inputs + row * s->T,
                             targets + row * s->T, &e);
        }
        sum = loss_plus(sum, forward_loss(m, w, s, inputs, targets, now));
        i += now;
    }
    message_wait(w, &s->passed[0]);
    *loss = loss_mean(w, sum, (double)count * (double)s->T);
    return world_check(w, ok, &e);
}

// How many samples an eval of `batches` global batches takes; 0 means all there are.
static uint64_t eval_samples(const Dataset *data, uint64_t batches, uint64_t global_batch) {
    uint64_t wanted = batches * global_batch;
    return wanted == 0 || wanted > data->samples ? data->samples : wanted;
}

// Collective: evaluate of each dataset by itself; *mean is the mean of their losses by weight.
// losses: (data->count).
static bool evaluate_mixture(World *w, const Model *m, Workspace *s, const Mixture *data,
                             uint64_t batches, uint64_t global_batch, int32_t *inputs,
                             int32_t *targets, double *losses, double *mean) {
    double sum = 0;
    for (size_t i = 0; i < data->count; i++) {
        uint64_t count = eval_samples(&data->items[i], batches, global_batch);
        if (!evaluate(w, m, s, &data->items[i], count, inputs, targets, &losses[i])) {
            return false;
        }
        sum += (double)data->weights[i] * losses[i];
    }
    *mean = sum / (double)data->period;
    return true;
}

// Floating-point operations of training on one token: 6 per weight of a matrix product (forward 2,
// backward 4; the output head is one), and 6 T C per layer for attention's two products over the T
// / 2 tokens before it on average.
static double flops_per_token(const ModelConfig *c, size_t T) {
    double C = (double)c->channels, L = (double)c->layers, V = (double)c->vocab_size;
    return 6 * (12 * L * C * C + V * C) + 6 * L * (double)T * C;
}

// Collective over `comm`: FLOP/s of single-precision multiply-adds, all threads of its ranks at
// once: the peak that MFU is a share of. Measured with the tile of the matrix product on data in
// L1; the best of five short runs.
static double measure_peak_flops(MPI_Comm comm) {
    enum { ROUNDS = 1000 };
    double best = 0, total;
    for (int run = 0; run < 5; run++) {
        double flops = 0;
        MPI_Barrier(comm);
        double start = seconds_now();
#pragma omp parallel reduction(+ : flops)
        flops += tile_flops_sve(ROUNDS);
        double rate = flops / (seconds_now() - start);
        best = rate > best ? rate : best;
    }
    MPI_Allreduce(&best, &total, 1, MPI_DOUBLE, MPI_SUM, comm);
    return total;
}

// ------------------------------------------------------------------------------------------------
// Log: OUT/log.jsonl, one object a line, on disk before the next step begins. README.md lists the
// fields.

static bool log_line(Trainer *t, JsonWriter *json, Error *e) {
    json_append(json, "\n", 1);
    bool ok = !json->failed && fwrite(json->data, 1, json->length, t->log) == json->length &&
              fflush(t->log) == 0;
    ok = ok || fail(e, "%s/log.jsonl: cannot be written: %s", t->options->out, strerror(errno));
    ok = ok && (!t->events.file || events_add(&t->events, json->data, json->length, e));
    free(json->data);
    *json = (JsonWriter){0};
    return ok;
}

// All options of `train` as one object.
static void write_options(JsonWriter *json, const Options *o) {
    json_open(json, "options", '{');
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const OptionSpec *spec = &option_specs[i];
        const char *field = (const char *)o + spec->offset;
        if (!(spec->commands & TRAIN)) {
            continue;
        }
        if (spec->type == OPTION_FLAG) {
            json_put_bool(json, spec->name, *(const bool *)(const void *)field);
        } else if (spec->type == OPTION_WHOLE) {
            json_put_uint(json, spec->name, *(const uint64_t *)(const void *)field);
        } else if (spec->type == OPTION_REAL) {
            json_put_double(json, spec->name, *(const double *)(const void *)field);
        } else if (spec->type == OPTION_LIST) {
            const TextList *list = (const void *)field;
            json_open(json, spec->name, '[');
            for (size_t j = 0; j < list->count; j++) {
                json_put_string(json, NULL, list->items[j]);
            }
            json_close(json, ']');
        } else if (*(const char *const *)(const void *)field) {
            json_put_string(json, spec->name, *(const char *const *)(const void *)field);
        } else {
            json_put_null(json, spec->name);
        }
    }
    json_close(json, '}');
}

static void write_hash(JsonWriter *json, const char *key, const char *hash) {
    if (hash[0]) {
        json_put_string(json, key, hash);
    }
}

// The datasets of a mixture as an array: where they are, their weights, what is in them and the
// hashes that prove it.
static void write_mixture(JsonWriter *json, const char *key, const Mixture *m) {
    json_open(json, key, '[');
    for (size_t i = 0; i < m->count; i++) {
        const Dataset *d = &m->items[i];
        char *absolute = realpath(d->path, NULL);
        json_open(json, NULL, '{');
        json_put_string(json, "path", m->paths[i]);
        json_put_string(json, "file", absolute ? absolute : d->path);
        json_put_uint(json, "weight", m->weights[i]);
        json_put_double(json, "share", mixture_share(m, i));
        json_put_uint(json, "tokens", d->tokens);
        json_put_uint(json, "samples", d->samples);
        if (d->idx_path[0]) {
            json_put_uint(json, "documents", d->documents);
        }
        write_hash(json, "sha256", d->bin_hash);
        write_hash(json, "idx_sha256", d->idx_hash);
        write_hash(json, "tokenizer_sha256", d->tokenizer_hash);
        write_hash(json, "manifest_sha256", d->manifest_hash);
        json_close(json, '}');
        free(absolute);
    }
    json_close(json, ']');
}

// What is running: the log's first line, and a line of restarts.jsonl for each time the run was
// taken up again.
static void write_run(JsonWriter *json, const Trainer *t) {
    json_open(json, NULL, '{');
    json_put_string(json, "program", "train_gpt");
    json_put_string(json, "git_revision", GIT_REVISION);
    json_put_string(json, "compiler", __VERSION__);
    json_put_string(json, "compiler_flags", COMPILER_FLAGS);
    json_put_string(json, "kernels", t->model.kernels->name);
    json_put_uint(json, "ranks", (uint64_t)t->world->size);
    json_put_uint(json, "tp", (uint64_t)t->world->grid.tp);
    json_put_uint(json, "pp", (uint64_t)t->world->grid.pp);
    json_put_uint(json, "dp", (uint64_t)t->world->grid.dp);
    json_put_uint(json, "ranks_per_node", (uint64_t)t->world->node_size);
    json_put_uint(json, "threads", (uint64_t)omp_get_max_threads());
    json_put_uint(json, "from_step", t->step);
    json_put_uint(json, "parameters", t->model.all_parameters);
    json_put_uint(json, "vocab_size", t->model.config.vocab_size);
    json_put_uint(json, "layers", t->model.config.layers);
    json_put_uint(json, "heads", t->model.config.heads);
    json_put_uint(json, "channels", t->model.config.channels);
    json_put_uint(json, "seq_len", t->T);
    json_put_uint(json, "positions", t->model.config.seq_len);
    json_put_uint(json, "global_batch", t->global_batch);
    json_put_double(json, "peak_flops", t->peak_flops);
    write_mixture(json, "data", &t->data);
    write_mixture(json, "val_data", &t->val);
    write_options(json, t->options);
    json_close(json, '}');
}

static bool log_run(Trainer *t, Error *e) {
    JsonWriter json = {0};
    write_run(&json, t);
    return log_line(t, &json, e);
}

static bool log_step(Trainer *t, const StepResult *s, Error *e) {
    JsonWriter json = {0};
    double tokens = (double)t->global_batch * (double)t->T;
    json_open(&json, NULL, '{');
    json_put_uint(&json, "step", t->step);
    json_put_double(&json, "loss", s->loss);
    json_put_double(&json, "grad_norm", s->grad_norm);
    json_put_double(&json, "lr", s->lr);
    json_put_uint(&json, "tokens", t->samples * t->T);
    json_put_double(&json, "step_ms", 1e3 * s->seconds);
    json_put_double(&json, "tokens_per_s", tokens / s->seconds);
    json_put_double(&json, "mfu",
                    tokens * flops_per_token(&t->model.config, t->T) / s->seconds / t->peak_flops);
    json_put_bool(&json, "skipped", s->skipped);
    json_put_string(&json, "batch_sha256", s->batch_hash);
    if (t->data.count > 1) {
        json_open(&json, "source_samples", '[');
        for (size_t i = 0; i < t->data.count; i++) {
            json_put_uint(&json, NULL, mixture_count(&t->data, i, t->samples));
        }
        json_close(&json, ']');
    }
    if (t->world->size > 1) {
        json_put_double(&json, "comm_ms", 1e3 * s->comm_seconds);
    }
    json_close(&json, '}');
    return log_line(t, &json, e);
}

// losses: (val.count).
static bool log_eval(Trainer *t, double val_loss, const double *losses, Error *e) {
    JsonWriter json = {0};
    json_open(&json, NULL, '{');
    json_put_uint(&json, "step", t->step);
    json_put_double(&json, "val_loss", val_loss);
    if (t->val.count > 1) {
        json_open(&json, "val_losses", '{');
        for (size_t i = 0; i < t->val.count; i++) {
            json_put_double(&json, t->val.paths[i], losses[i]);
        }
        json_close(&json, '}');
    }
    json_close(&json, '}');
    return log_line(t, &json, e);
}

// True if a line of the log belongs to the part of the run up to `step`: whole, of no later step,
// and not the end of a run that now goes on.
static bool log_line_kept(const char *line, size_t length, uint64_t step, bool goes_on) {
    JsonDocument document;
    uint64_t of_step;
    if (!json_parse(&document, line, length, "log.jsonl", &(Error){0})) {
        return false;
    }
    const Json *node = json_get(document.root, "step");
    bool kept = document.root->kind == JSON_OBJECT &&
                (!node || (json_uint(node, &of_step) && of_step <= step)) &&
                !(goes_on && json_get(document.root, "plan"));
    json_free(&document);
    return kept;
}

// Cuts the log back to the checkpoint at t->step: the steps after it are about to be done again.
// The new file replaces the old one only when it is whole.
static bool log_cut(const char *path, uint64_t step, bool goes_on, Error *e) {
    char temporary[PATH_LIMIT], hash[65];
    size_t length;
    OutputFile file;
    if (access(path, F_OK)) {
        return true;
    }
    char *text = read_file(path, SIZE_MAX - 1, &length, e);
    if (!text || !path_format(temporary, e, "%s.new", path) || !output_open(&file, temporary, e)) {
        free(text);
        return false;
    }
    bool ok = true;
    for (char *line = text, *end; ok && (end = memchr(line, '\n', length - (size_t)(line - text)));
         line = end + 1) {
        if (log_line_kept(line, (size_t)(end - line), step, goes_on)) {
            ok = output_write(&file, line, (size_t)(end - line) + 1, e);
        }
    }
    free(text);
    ok = output_close(&file, hash, ok ? e : &(Error){0}) && ok;
    return ok && (!rename(temporary, path) ||
                  fail(e, "%s: cannot be replaced: %s", path, strerror(errno)));
}

// Moves a log that no checkpoint belongs to out of the way: log.jsonl becomes log-1.jsonl, or the
// next free number.
static bool log_set_aside(const char *out, const char *path, Error *e) {
    char aside[PATH_LIMIT];
    int n = 1;
    do {
        if (!path_format(aside, e, "%s/log-%d.jsonl", out, n++)) {
            return false;
        }
    } while (!access(aside, F_OK));
    return access(path, F_OK) || !rename(path, aside) ||
           fail(e, "%s: cannot be renamed to %s: %s", path, aside, strerror(errno));
}

// Opens the log for the run to come: a new one with its first line, or the old one cut back, and a
// note of the restart.
static bool log_open(Trainer *t, bool resumed, Error *e) {
    char path[PATH_LIMIT], restarts[PATH_LIMIT];
    if (!path_format(path, e, "%s/log.jsonl", t->options->out) ||
        !path_format(restarts, e, "%s/restarts.jsonl", t->options->out)) {
        return false;
    }
    if (resumed ? !log_cut(path, t->step, t->step < t->options->steps, e)
                : !log_set_aside(t->options->out, path, e)) {
        return false;
    }
    bool exists = resumed && access(path, F_OK) == 0;
    if (exists) {
        t->log = fopen(restarts, "a");
        bool ok = t->log ? log_run(t, e)
                         : fail(e, "%s: cannot be written: %s", restarts, strerror(errno));
        if (t->log) {
            fclose(t->log);
        }
        if (!ok) {
            return false;
        }
    }
    t->log = fopen(path, "a");
    if (!t->log) {
        return fail(e, "%s: cannot be written: %s", path, strerror(errno));
    }
    return (exists || log_run(t, e)) && events_open(&t->events, t->options->out, e);
}

// ------------------------------------------------------------------------------------------------
// Saving and resuming

// README.md of a checkpoint.
static bool write_model_card(JsonWriter *w, const Trainer *t, Error *e) {
    JsonWriter run = {0};
    write_run(&run, t);
    bool ok = run.failed ? fail(e, "no memory for the model card")
                         : model_card(w, t->options->out, run.data, run.length, t->step, e);
    free(run.data);
    return ok;
}

static void write_trainer_state(JsonWriter *json, const Trainer *t) {
    json_open(json, NULL, '{');
    json_put_uint(json, "format", 1);
    json_put_uint(json, "step", t->step);
    json_put_uint(json, "samples", t->samples);
    json_put_uint(json, "seed", t->options->seed);
    json_put_uint(json, "shuffle", t->options->shuffle);
    json_put_uint(json, "seq_len", t->T);
    write_mixture(json, "data", &t->data);
    write_options(json, t->options);
    json_close(json, '}');
}

// The tensors of a part of the model, then AdamW's two arrays under the names they have in the
// optimizer's files: 3 * count of them, without data. NULL if there is no memory.
static TensorView *all_views(const ModelConfig *c, const ModelShard *p, size_t *count) {
    tensor_views(c, p, NULL, "", NULL, count);
    TensorView *views = malloc(3 * *count * sizeof *views);
    if (views) {
        tensor_views(c, p, NULL, "", views, count);
        tensor_views(c, p, NULL, "exp_avg.", views + *count, count);
        tensor_views(c, p, NULL, "exp_avg_sq.", views + 2 * *count, count);
    }
    return views;
}

static bool add_tokenizer_files(CheckpointWriter *w, const char *directory, Error *e) {
    char path[PATH_LIMIT];
    for (size_t i = 0; TOKENIZER_FILES[i] && directory[0]; i++) {
        if (!path_format(path, e, "%s/%s", directory, TOKENIZER_FILES[i]) ||
            (!access(path, F_OK) && !checkpoint_add_copy(w, directory, TOKENIZER_FILES[i], e))) {
            return false;
        }
    }
    return true;
}

// Rank 0: the small files.
static bool add_checkpoint_files(CheckpointWriter *w, const Trainer *t, Error *e) {
    JsonWriter config = {.indent = 2}, generation = {.indent = 2}, state = {.indent = 2},
               card = {0};
    config_write(&config, &t->model.config);
    generation_config_write(&generation, &t->model.config);
    write_trainer_state(&state, t);
    bool ok = write_model_card(&card, t, e);
    ok = checkpoint_add_json(w, "config.json", &config, ok ? e : &(Error){0}) && ok;
    ok = checkpoint_add_json(w, "generation_config.json", &generation, ok ? e : &(Error){0}) && ok;
    ok = checkpoint_add_json(w, "trainer_state.json", &state, ok ? e : &(Error){0}) && ok;
    ok = checkpoint_add_json(w, "README.md", &card, ok ? e : &(Error){0}) && ok;
    return ok && add_tokenizer_files(w, t->tokenizer, e);
}

// Writes this rank's part of what the file holds; of what all replicas have, each its share.
static bool write_parts(const Trainer *t, const TensorWriter *writer, const TensorView *mine,
                        Error *e) {
    const float *states[2] = {t->exp_avg, t->exp_avg_sq};
    const bool zero = t->reducer.buckets.zero;
    size_t count = t->model.tensor_count, replica = (size_t)t->world->grid.dp_rank,
           replicas = (size_t)t->world->grid.dp;
    bool ok = true;
    for (size_t i = 0; ok && i < 3 * count; i++) {
        size_t n = tensor_elements(&mine[i]), begin = n * replica / replicas,
               end = n * (replica + 1) / replicas;
        const TensorView *weights = &t->views[i % count];
        size_t at = (size_t)(weights->data - t->model.parameters);
        if (!counts_once(&t->model, weights) || !safetensors_find(&writer->file, mine[i].name)) {
            continue;
        }
        if (i < count) {
            ok = tensor_writer_write(writer, &mine[i], begin, end, weights->data + begin, e);
            continue;
        }
        for (size_t b = 0; ok && b < t->reducer.buckets.count; b++) {
            OwnedRange r;
            if (!owned_range(&t->reducer.buckets.items[b], at, n, &r)) {
                continue;
            }
            size_t from = zero || r.begin > begin ? r.begin : begin,
                   to = zero || r.end < end ? r.end : end;
            ok = from >= to ||
                 tensor_writer_write(writer, &mine[i], from, to,
                                     states[i / count - 1] + r.state + (from - r.begin), e);
        }
    }
    return ok;
}

// Collective: the tensors' files. Rank 0 makes them, all ranks write their parts, then each hashes
// some of the files. `whole`, `mine`: all_views of the model and of this rank's part.
static bool write_tensor_files(Trainer *t, CheckpointWriter *w, const TensorFiles *files,
                               const TensorView *whole, const TensorView *mine) {
    Error e = {0};
    World *world = t->world;
    char(*sums)[65] = calloc(files->count, sizeof *sums);
    bool ok = sums || fail(&e, "no memory to save a checkpoint");
    for (size_t f = 0; ok && world->rank == 0 && f < files->count; f++) {
        const TensorFile *file = &files->items[f];
        ok = checkpoint_make_tensors(w, file->name, whole + file->first, file->count, &e);
    }
    bool all = world_check(world, ok, &e);
    for (size_t f = 0; all && ok && f < files->count; f++) {
        TensorWriter writer;
        ok = tensor_writer_open(&writer, w, files->items[f].name, &e) &&
             tensor_writer_close(&writer, write_parts(t, &writer, mine, &e), &e);
    }
    all = all && world_check(world, ok, &e);
    for (size_t f = (size_t)world->rank; all && ok && f < files->count; f += (size_t)world->size) {
        char path[PATH_LIMIT];
        ok = path_format(path, &e, "%s/%s", w->temporary, files->items[f].name) &&
             sha256_file(path, sums[f], &e);
    }
    all = all && world_check(world, ok, &e);
    if (all) {
        MPI_Allreduce(MPI_IN_PLACE, sums, (int)(files->count * sizeof *sums), MPI_BYTE, MPI_BOR,
                      MPI_COMM_WORLD);
    }
    for (size_t f = 0; all && f < files->count; f++) {
        checkpoint_add_sum(w, files->items[f].name, sums[f]);
    }
    free(sums);
    return all;
}

// Rank 0: removes checkpoints beyond the newest --keep.
static void remove_old_checkpoints(const Options *o) {
    uint64_t *steps;
    size_t count;
    Error ignored;
    if (o->keep > 0 && checkpoint_list(o->out, &steps, &count, &ignored)) {
        for (size_t i = o->keep; i < count; i++) {
            checkpoint_remove(o->out, steps[i]);
        }
        free(steps);
    }
}

// Collective: the files of OUT/.step-NNNNNN.new, which rank 0 then gives its name.
static bool write_checkpoint(Trainer *t) {
    Error e = {0};
    CheckpointWriter w;
    TensorFiles files = {0};
    const ModelShard all = shard_of(&t->model.config, 1, 0, 1, 0);
    size_t count, mine_count;
    bool root = t->world->rank == 0;
    TensorView *whole = all_views(&t->model.config, &all, &count);
    TensorView *mine = all_views(&t->model.config, &t->model.shard, &mine_count);
    bool ok = ((whole && mine) || fail(&e, "no memory to save a checkpoint")) &&
              tensor_files(&files, whole, count, &e) &&
              (!root || !fsync(fileno(t->log)) ||
               fail(&e, "%s/log.jsonl: cannot be written: %s", t->options->out, strerror(errno)));
    bool begun = ok && checkpoint_begin(&w, t->options->out, t->step, root, &e);
    ok =
        begun &&
        (!root || (add_checkpoint_files(&w, t, &e) && checkpoint_add_index(&w, &files, whole, &e)));
    ok = world_check(t->world, ok, &e) && write_tensor_files(t, &w, &files, whole, mine);
    bool committed = ok && (!root || checkpoint_commit(&w, &e));
    if (begun && root && !committed) {
        checkpoint_abort(&w);
    }
    if (begun && !root) {
        free(w.sums.data);
    }
    free(files.items);
    free(whole);
    free(mine);
    return ok && world_check(t->world, committed, &e);
}

// Collective: all replicas must hold the same weights, or something is broken (a kernel, a network,
// a memory): then nothing is saved.
static bool save_checkpoint(Trainer *t) {
    Error e = {0};
    double start = seconds_now();
    parameters_await(&t->model, t->world, t->model.parameters + t->model.parameter_count);
    double mine = t->model.kernels->sum_of_squares(t->model.parameters, t->model.parameter_count),
           low, high;
    MPI_Allreduce(&mine, &low, 1, MPI_DOUBLE, MPI_MIN, t->world->grid.dp_comm);
    MPI_Allreduce(&mine, &high, 1, MPI_DOUBLE, MPI_MAX, t->world->grid.dp_comm);
    bool ok =
        low == high ||
        fail(&e,
             "the replicas' weights differ at step %llu: the last checkpoint is to be trusted, "
             "this state is not saved",
             (unsigned long long)t->step);
    if (!world_check(t->world, ok, &e) || !write_checkpoint(t)) {
        return false;
    }
    t->longest_save = fmax(t->longest_save, seconds_now() - start);
    if (t->world->rank == 0) {
        remove_old_checkpoints(t->options);
        printf("saved %s/step-%06llu\n", t->options->out, (unsigned long long)t->step);
    }
    return true;
}

// The datasets in `saved` must be those of the run, in the same order and with the same weights,
// wherever they lie now.
static bool data_matches(const Json *saved, const char *path, const Mixture *m, Error *e) {
    if (!saved || saved->kind != JSON_ARRAY) {
        return fail(e, "%s: has no list \"data\"", path);
    }
    if (saved->length != m->count) {
        return fail(e,
                    "%s: the run was started with %zu datasets in --data, not %zu; give those, or "
                    "another --out for a "
                    "new run",
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
                        "give those, or another "
                        "--out for a new run",
                        path, m->paths[i]);
        }
    }
    return true;
}

// What must be the same when a run is taken up again, or it would be another run.
static bool state_matches(const Json *state, const char *path, const Trainer *t, Error *e) {
    const struct {
        const char *key, *option;
        uint64_t now;
    } same[] = {{"seed", "--seed", t->options->seed},
                {"shuffle", "--shuffle", t->options->shuffle},
                {"seq_len", "--seq-len", t->T}};
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
    return data_matches(json_get(state, "data"), path, &t->data, e);
}

static bool load_state(Trainer *t, const char *directory, Error *e) {
    char path[PATH_LIMIT];
    JsonDocument state;
    if (!path_format(path, e, "%s/trainer_state.json", directory)) {
        return false;
    }
    if (!json_parse_file(&state, path, 1 << 25, e)) {
        return false;
    }
    bool ok = json_uint(json_get(state.root, "step"), &t->step) &&
              json_uint(json_get(state.root, "samples"), &t->samples);
    ok = ok || fail(e, "%s: has no \"step\" or \"samples\"", path);
    ok = ok && state_matches(state.root, path, t, e);
    json_free(&state);
    return ok;
}

// What this replica owns of the optimizer's state.
static bool load_optimizer(Trainer *t, const char *directory, Error *e) {
    TensorSet files = {0};
    float *states[2] = {t->exp_avg, t->exp_avg_sq};
    size_t count;
    TensorView *views = all_views(&t->model.config, &t->model.shard, &count);
    bool opened = views ? optimizer_open(&files, directory, e)
                        : fail(e, "no memory to load the optimizer"),
         ok = opened;
    for (size_t i = count; ok && i < 3 * count; i++) {
        const Safetensors *file = NULL;
        const SafetensorsEntry *entry = tensor_set_find(&files, views[i].name, &file);
        ok = entry ||
             fail(e, "%s/optimizer-*.safetensors: have no tensor \"%s\"", directory, views[i].name);
        for (size_t b = 0; ok && b < t->reducer.buckets.count; b++) {
            OwnedRange r;
            if (owned_range(&t->reducer.buckets.items[b],
                            (size_t)(t->views[i % count].data - t->model.parameters),
                            tensor_elements(&views[i]), &r)) {
                ok = safetensors_read_range(file, entry, &views[i], r.begin, r.end,
                                            states[i / count - 1] + r.state, e);
            }
        }
    }
    if (opened) {
        tensor_set_close(&files);
    }
    free(views);
    return ok;
}

static bool same_shape(const ModelConfig *a, const ModelConfig *b) {
    return a->vocab_size == b->vocab_size && a->seq_len == b->seq_len &&
           a->channels == b->channels && a->layers == b->layers && a->heads == b->heads;
}

// Loads a checkpoint that has been verified.
static bool load_checkpoint(Trainer *t, const char *directory, Error *e) {
    ModelConfig config;
    if (!config_load(directory, &config, e)) {
        return false;
    }
    if (!same_shape(&config, &t->model.config)) {
        return fail(e,
                    "%s: is a model of %zu layers, %zu channels, %zu heads, %zu tokens, vocabulary "
                    "%zu; give the same "
                    "options, or another --out for a new run",
                    directory, config.layers, config.channels, config.heads, config.seq_len,
                    config.vocab_size);
    }
    return load_state(t, directory, e) &&
           weights_load(directory, t->views, t->model.tensor_count, e) &&
           load_optimizer(t, directory, e);
}

// Collective: compares a model's files with their sums, each rank some of them. On failure all
// ranks get the line of the lowest rank that found one.
static bool verify_together(World *w, const char *directory, bool with_optimizer, Error *e) {
    bool ok = checkpoint_verify(directory, with_optimizer, (size_t)w->rank, (size_t)w->size, e);
    int mine = ok ? w->size : w->rank, first;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first < w->size) {
        MPI_Bcast(e, sizeof *e, MPI_BYTE, first, MPI_COMM_WORLD);
    }
    return first == w->size;
}

// Collective: loads the newest whole checkpoint of OUT, telling of broken ones that it passes over.
// *resumed says whether there was one. Checkpoints of which none is whole are an error: training
// must not silently begin anew.
static bool resume(Trainer *t, bool *resumed) {
    Error e = {0};
    World *w = t->world;
    const char *out = t->options->out;
    uint64_t *steps = NULL;
    size_t count = 0;
    bool ok = w->rank != 0 || checkpoint_list(out, &steps, &count, &e);
    if (ok && count > 0 && !strcmp(t->options->resume, "none")) {
        ok = fail(&e,
                  "%s: already holds a run, up to step %llu; use --resume auto to go on, or "
                  "another --out",
                  out, (unsigned long long)steps[0]);
    }
    *resumed = false;
    ok = world_check(w, ok, &e);
    broadcast(&count, sizeof count);
    for (size_t i = 0; ok && !*resumed && i < count; i++) {
        char directory[PATH_LIMIT];
        uint64_t step = w->rank == 0 ? steps[i] : 0;
        broadcast(&step, sizeof step);
        if (path_format(directory, &e, "%s/step-%06llu", out, (unsigned long long)step) &&
            verify_together(w, directory, true, &e)) {
            ok = world_check(w, load_checkpoint(t, directory, &e), &e);
            *resumed = ok;
        } else if (w->rank == 0) {
            printf("warning: %s\n", e.text);
        }
    }
    free(steps);
    if (ok && count > 0 && !*resumed) {
        fail(&e, "%s: none of its %zu checkpoints is whole; remove them to begin anew", out, count);
    }
    return ok && world_check(w, count == 0 || *resumed, &e);
}

// Rank 0: makes OUT with its parents and takes the lock that keeps a second run from writing there.
// The lock goes with the process.
static bool claim_out(const char *out, Error *e) {
    char path[PATH_LIMIT];
    if (!path_format(path, e, "%s", out)) {
        return false;
    }
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash) {
            *slash = 0;
        }
        if (mkdir(path, 0777) && errno != EEXIST) {
            return fail(e, "%s: cannot be made: %s", path, strerror(errno));
        }
        if (!slash) {
            break;
        }
        *slash = '/';
    }
    int directory = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        return fail(e, "%s: is not a folder that can be written to: %s", out, strerror(errno));
    }
    if (flock(directory, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        close(directory);
        return fail(e, "%s: another run is writing there", out);
    }
    checkpoint_clean(out);
    return true;
}

// Collective: weights from --init.
static bool load_init(Trainer *t) {
    Error e = {0};
    const char *directory = t->options->init;
    bool ok = verify_together(t->world, directory, false, &e) &&
              weights_load(directory, t->views, t->model.tensor_count, &e);
    return world_check(t->world, ok, &e);
}

// Collective: weights, optimizer and position from the newest checkpoint, or from --init, or new.
static bool prepare_state(Trainer *t) {
    Error e = {0};
    World *w = t->world;
    const Options *o = t->options;
    bool resumed = false;
    if (!world_check(w, w->rank != 0 || claim_out(o->out, &e), &e) || !resume(t, &resumed)) {
        return false;
    }
    if (!resumed && o->init && !load_init(t)) {
        return false;
    }
    if (!resumed && !o->init) {
        model_initialize(&t->model, o->seed, (float)o->init_std, t->views);
    }
    if (!world_check(w, w->rank != 0 || log_open(t, resumed, &e), &e)) {
        return false;
    }
    if (w->rank == 0 && resumed) {
        printf("resumed from %s/step-%06llu\n", o->out, (unsigned long long)t->step);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// The loop itself

static void print_step(const Trainer *t, const StepResult *s, double seconds_left) {
    double tokens = (double)t->global_batch * (double)t->T;
    long left = (long)(seconds_left + 0.5);
    printf("step %llu/%llu | loss %.4f | norm %.3f | lr %.2e | %.0f tokens/s | MFU %.1f %% | left "
           "%ld:%02ld:%02ld%s\n",
           (unsigned long long)t->step, (unsigned long long)t->options->steps, s->loss,
           s->grad_norm, s->lr, tokens / s->seconds,
           100 * tokens * flops_per_token(&t->model.config, t->T) / s->seconds / t->peak_flops,
           left / 3600, left / 60 % 60, left % 60, s->skipped ? " | SKIPPED: not finite" : "");
}

// Collective: validation loss at t->step, printed and logged.
static bool run_eval(Trainer *t) {
    Error e = {0};
    double loss, losses[MIXTURE_DATASETS_MAX];
    if (!evaluate_mixture(t->world, &t->model, &t->workspace, &t->val, t->options->eval_batches,
                          t->global_batch, t->inputs, t->targets, losses, &loss)) {
        return false;
    }
    bool ok = t->world->rank != 0 || log_eval(t, loss, losses, &e);
    if (t->world->rank == 0) {
        for (size_t i = 0; i < t->val.count && t->val.count > 1; i++) {
            printf("step %llu | %s: validation loss %.4f\n", (unsigned long long)t->step,
                   t->val.paths[i], losses[i]);
        }
        printf("step %llu | validation loss %.4f | perplexity %.2f\n", (unsigned long long)t->step,
               loss, exp(loss));
    }
    return world_check(t->world, ok, &e);
}

// What asks for an end ahead of the step count; the largest of all ranks' counts.
typedef enum { STOP_NO, STOP_TIME, STOP_SIGNAL } Stop;

static volatile sig_atomic_t stop_signal; // the last one that came, 0 if none has

static void on_stop_signal_(int number) {
    stop_signal = number;
}

// The signals with which schedulers announce the end: SIGTERM and SIGUSR1 (Slurm), SIGXCPU (PJM: 10
// s before SIGKILL). They end the run after the step that is being computed. A run that saves
// nothing (--save-every 0) just dies of them.
static void catch_stop_signals(void) {
    const int signals[] = {SIGTERM, SIGUSR1, SIGXCPU};
    struct sigaction action = {.sa_handler = on_stop_signal_, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        sigaction(signals[i], &action, NULL);
    }
}

static bool eval_is_due(const Trainer *t, uint64_t step) {
    const Options *o = t->options;
    return t->val.count > 0 && o->eval_every > 0 && (step % o->eval_every == 0 || step == o->steps);
}

// Whether --time-limit leaves no room for one more step, its eval and a save after it. An eval's
// batch takes less than a step. A save takes as long as the longest so far; before the first one,
// 100 MB/s for the model and AdamW's state. Twice that, as one may be due right now.
static bool time_is_up(const Trainer *t) {
    const Options *o = t->options;
    double left = o->time_limit - (seconds_now() - t->start), steps = 1;
    double save =
        t->longest_save > 0 ? t->longest_save : 12 * (double)t->model.all_parameters / 100e6;
    for (size_t i = 0; eval_is_due(t, t->step + 1) && i < t->val.count; i++) {
        steps += ceil((double)eval_samples(&t->val.items[i], o->eval_batches, t->global_batch) /
                      (double)t->global_batch);
    }
    return o->time_limit > 0 && left < steps * t->longest_step + 2 * save;
}

// Collective: whether any rank wants an end here; rank 0 says why.
static bool should_stop(const Trainer *t) {
    Stop mine = stop_signal ? STOP_SIGNAL : time_is_up(t) ? STOP_TIME : STOP_NO;
    Stop stop = (Stop)world_max(t->world, (int)mine);
    if (t->world->rank == 0 && stop != STOP_NO) {
        printf("stops at step %llu/%llu: %s; the same command goes on from here\n",
               (unsigned long long)t->step, (unsigned long long)t->options->steps,
               stop == STOP_SIGNAL ? "a signal asks for it" : "the time limit is near");
    }
    return stop != STOP_NO;
}

// At least one step, then on to the step count, or to an early end with a checkpoint.
static bool train_loop(Trainer *t) {
    const Options *o = t->options;
    Error e = {0};
    double start = seconds_now();
    uint64_t first = t->step;
    if (t->step == 0 && eval_is_due(t, 0) && !run_eval(t)) {
        return false;
    }
    while (t->step < o->steps && !t->stopped) {
        StepResult s;
        if (!train_step(t, &s)) {
            return false;
        }
        t->longest_step = fmax(t->longest_step, s.seconds);
        t->stepped = true;
        if (t->step > first + 1) { // the first one also touches what is new
            t->step_seconds += s.seconds;
            t->steps_timed++;
        }
        bool ok = t->world->rank != 0 || log_step(t, &s, &e);
        if (t->world->rank == 0) {
            double per_step = (seconds_now() - start) / (double)(t->step - first);
            print_step(t, &s, per_step * (double)(o->steps - t->step));
        }
        if (!world_check(t->world, ok, &e)) {
            return false;
        }
        bool last = t->step == o->steps;
        if (eval_is_due(t, t->step) && !run_eval(t)) {
            return false;
        }
        t->stopped = o->save_every > 0 && !last && should_stop(t);
        if (o->save_every > 0 && (t->step % o->save_every == 0 || last || t->stopped) &&
            !save_checkpoint(t)) {
            return false;
        }
    }
    return true;
}

// =================================================================================================
// Command: train

// GPT-2 sizes (Radford et al. 2019), GPT-3's 1.3B (Brown et al. 2020), and those that Fugaku-LLM
// ran.
static const struct {
    const char *name;
    size_t layers, channels, heads, seq_len;
} named_models[] = {
    {"124m", 12, 768, 12, 1024},  {"350m", 24, 1024, 16, 1024}, {"774m", 36, 1280, 20, 1024},
    {"1.3b", 24, 2048, 32, 1024}, {"1.5b", 48, 1600, 25, 1024}, {"13b", 40, 5184, 36, 2048},
    {"30b", 48, 7168, 56, 2048},
};
enum { NAMED_MODELS = sizeof named_models / sizeof *named_models, GPT2_VOCAB_SIZE = 50257 };

static const Kernels *choose_kernels(const char *name) {
    static const Kernels *tables[] = {&kernels_sve, &kernels_ref};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        if (!strcmp(tables[i]->name, name)) {
            return tables[i];
        }
    }
    return NULL; // the parser admits only the names above
}

// The model's shape by --model and the options that override it; 0 where neither says.
static bool shape_from_options(const Options *o, ModelConfig *config, Error *e) {
    *config = (ModelConfig){.end_of_document = -1};
    for (size_t i = 0; o->model && i < NAMED_MODELS; i++) {
        if (!strcmp(o->model, named_models[i].name)) {
            config->layers = named_models[i].layers;
            config->channels = named_models[i].channels;
            config->heads = named_models[i].heads;
            config->seq_len = named_models[i].seq_len;
        }
    }
    if (o->model && config->layers == 0) {
        return fail(e, "--model %s is unknown; the names are 124m 350m 774m 1.3b 1.5b 13b 30b",
                    o->model);
    }
    config->layers = o->layers ? o->layers : config->layers;
    config->channels = o->channels ? o->channels : config->channels;
    config->heads = o->heads ? o->heads : config->heads;
    config->seq_len = o->seq_len ? o->seq_len : config->seq_len;
    return true;
}

// Impossible combinations of options, found before anything is opened.
static bool check_train_options(const Options *o, int ranks, Error *e) {
    ModelConfig c;
    uint64_t replicas = (uint64_t)ranks / (o->tp * o->pp), multiple = o->micro_batch * replicas;
    if (!o->data.count || !o->out) {
        return fail(e, "train needs %s", o->data.count ? "--out DIR" : "--data PATH");
    }
    if (!shape_from_options(o, &c, e)) {
        return false;
    }
    if (o->init && (o->model || o->layers || o->heads || o->channels)) {
        return fail(e, "--init takes the model's shape from its config.json: leave out --model, "
                       "--layers, --heads, --channels");
    }
    if (!o->init && (!c.layers || !c.channels || !c.heads || !c.seq_len)) {
        return fail(e, "train needs --model NAME, or all of --layers, --heads, --channels, "
                       "--seq-len, or --init DIR");
    }
    if (!o->init && c.channels % c.heads) {
        return fail(e, "--channels %zu does not divide by --heads %zu", c.channels, c.heads);
    }
    if (o->global_batch % multiple) {
        return fail(e,
                    "--global-batch %llu does not divide into micro-batches of %llu on %llu "
                    "replica%s: it must be a multiple "
                    "of %llu",
                    (unsigned long long)o->global_batch, (unsigned long long)o->micro_batch,
                    (unsigned long long)replicas, replicas == 1 ? "" : "s",
                    (unsigned long long)multiple);
    }
    if (o->time_limit > 0 && o->save_every == 0) {
        return fail(
            e, "--time-limit %g with --save-every 0: there would be no checkpoint to go on from",
            o->time_limit);
    }
    if (o->min_lr > o->lr) {
        return fail(e, "--min-lr %g is larger than --lr %g", o->min_lr, o->lr);
    }
    if (o->warmup_steps > o->steps) {
        return fail(e, "--warmup-steps %llu is more than --steps %llu",
                    (unsigned long long)o->warmup_steps, (unsigned long long)o->steps);
    }
    return true;
}

// The vocabulary is the tokenizer's of the data; bare shards do not know theirs. A model from
// --init brings its own, which may be larger.
static bool choose_vocab_size(const Options *o, const Mixture *data, ModelConfig *config,
                              Error *e) {
    const char *path = data->paths[0];
    size_t vocab = data->items[0].vocab_size; // of every dataset
    if (vocab && o->vocab_size && o->vocab_size != vocab) {
        return fail(e, "--vocab-size %llu: the tokenizer of %s has %zu words; leave the option out",
                    (unsigned long long)o->vocab_size, path, vocab);
    }
    vocab = vocab ? vocab : o->vocab_size;
    if (o->init) {
        return vocab <= config->vocab_size ||
               fail(e, "%s: has a vocabulary of %zu, too small for the %zu words of %s", o->init,
                    config->vocab_size, vocab, path);
    }
    config->vocab_size = vocab ? vocab : o->model ? GPT2_VOCAB_SIZE : 0;
    return config->vocab_size > 0 ||
           fail(e, "%s: does not say how many words its vocabulary has: give --vocab-size N", path);
}

// The tokenizer that goes into checkpoints, and with it the token that ends a document.
static bool choose_tokenizer(Trainer *t, ModelConfig *config, Error *e) {
    const Options *o = t->options;
    char path[PATH_LIMIT];
    t->tokenizer = t->data.items[0].tokenizer;
    if (!t->tokenizer[0] && o->init) {
        if (!tokenizer_main_file(path, o->init, e)) {
            return false;
        }
        t->tokenizer = access(path, F_OK) ? "" : o->init;
    }
    if (t->data.items[0].tokenizer[0]) {
        Tokenizer tokenizer;
        if (!tokenizer_load(&tokenizer, t->tokenizer, e)) {
            return false;
        }
        config->end_of_document = tokenizer.end_of_document;
        tokenizer_free(&tokenizer);
    } else if (!o->init && config->vocab_size == GPT2_VOCAB_SIZE) {
        config->end_of_document = GPT2_VOCAB_SIZE - 1;
    }
    return true;
}

// The validation splits of those training sources that have one, with the weights of training.
static bool open_own_validation(Trainer *t, size_t T, Error *e) {
    const char *paths[MIXTURE_DATASETS_MAX];
    uint64_t weights[MIXTURE_DATASETS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < t->data.count; i++) {
        if (dataset_has_split(t->data.paths[i], "val")) {
            paths[count] = t->data.paths[i];
            weights[count++] = t->data.weights[i];
        }
    }
    return count == 0 || mixture_open_paths(&t->val, paths, weights, count, "val", T, e);
}

static bool open_datasets(Trainer *t, size_t T, Error *e) {
    const Options *o = t->options;
    if (!mixture_open(&t->data, o->data.items, o->data.count, "train", T, e)) {
        return false;
    }
    if (o->val_data.count > 0) {
        if (!mixture_open(&t->val, o->val_data.items, o->val_data.count, "val", T, e)) {
            return false;
        }
    } else if (o->eval_every > 0 && !open_own_validation(t, T, e)) {
        return false;
    }
    const char *hash = t->data.items[0].tokenizer_hash;
    const char *val_hash = t->val.count > 0 ? t->val.items[0].tokenizer_hash : "";
    return !*hash || !*val_hash || !strcmp(hash, val_hash) ||
           fail(e,
                "%s and %s: were made with different tokenizers: validation data must be prepared "
                "with the tokenizer "
                "of the training data",
                t->data.paths[0], t->val.paths[0]);
}

// Whether tp slices and pp stages can share the model.
static bool check_grid(const ModelConfig *c, const World *w, Error *e) {
    size_t tp = (size_t)w->grid.tp, pp = (size_t)w->grid.pp;
    if (c->heads % tp) {
        return fail(e, "--tp %zu does not divide the model's %zu heads", tp, c->heads);
    }
    if (c->vocab_size < tp) {
        return fail(e, "--tp %zu is more than the vocabulary of %zu words", tp, c->vocab_size);
    }
    return pp <= c->layers ||
           fail(e, "--pp %zu is more than the model's %zu layers", pp, c->layers);
}

static ModelShard shard_of_rank(const ModelConfig *c, const World *w) {
    return shard_of(c, (size_t)w->grid.tp, (size_t)w->grid.tp_rank, (size_t)w->grid.pp,
                    (size_t)w->grid.stage);
}

// Settles the model's shape and opens the data; every rank does.
static bool training_open(Trainer *t, ModelConfig *config, Error *e) {
    const Options *o = t->options;
    if (!(o->init ? config_load(o->init, config, e) : shape_from_options(o, config, e))) {
        return false;
    }
    t->T = o->seq_len ? o->seq_len : config->seq_len;
    t->B = o->micro_batch;
    t->global_batch =
        o->global_batch ? o->global_batch : o->micro_batch * (uint64_t)t->world->grid.dp;
    if (t->T > config->seq_len) {
        return fail(e, "--seq-len %zu is more than the %zu positions of %s", t->T, config->seq_len,
                    o->init);
    }
    return open_datasets(t, t->T, e) && choose_vocab_size(o, &t->data, config, e) &&
           choose_tokenizer(t, config, e) && check_grid(config, t->world, e);
}

static Keep keep_of_stage(const Options *o, const World *w) {
    bool recompute = o->recompute && !strcmp(o->recompute, "layer") &&
                     (o->recompute_stages == 0 || (uint64_t)w->grid.stage < o->recompute_stages);
    return recompute ? KEEP_STREAM : KEEP_ALL;
}

// The memory that neighbours share: gradients, and with ZeRO parameters (n floats each). Without
// neighbours none.
static bool reducer_share_memory(GradientReducer *reducer, Memory *memory, const World *world,
                                 size_t n, bool zero, bool share, Error *e) {
    size_t bytes = n * sizeof(float);
    neighbours_find(&reducer->neighbours, world, share);
    return reducer->neighbours.peers == 1 ||
           (shared_array_create(&reducer->shared_gradients, &reducer->neighbours, bytes, e) &&
            (memory_note(memory, "gradients", bytes, NULL) ||
             fail(e, "no memory for the list of arrays")) &&
            (!zero ||
             (shared_array_create(&reducer->shared_parameters, &reducer->neighbours, bytes, e) &&
              (memory_note(memory, "parameters", bytes, NULL) ||
               fail(e, "no memory for the list of arrays")))));
}

// Gradients, and the buckets in which they leave: one a layer, or several small layers together.
// `block`, `blocks`: micro-batches in a leaf of the sum, and such leaves of this replica; 0: not
// reproducible.
static bool reducer_create(GradientReducer *reducer, Memory *memory, Model *m, bool zero,
                           bool overlap, size_t block, size_t blocks, Error *e) {
    size_t cuts[1 + m->shard.layers];
    reducer->overlap = overlap;
    reducer->block = block;
    reducer->gradients = reducer->shared_gradients.mine
                             ? reducer->shared_gradients.mine
                             : memory_floats(memory, "gradients", m->parameter_count);
    if (!reducer->gradients ||
        !weights_over(&m->config, &m->shard, reducer->gradients, &reducer->dweights)) {
        return fail(e, "no memory for the gradients of %zu parameters: choose a smaller model",
                    m->parameter_count);
    }
    cuts[0] = 0;
    for (size_t l = 0; l < m->shard.layers; l++) {
        cuts[1 + l] = (size_t)(m->weights.layers[l].ln1_w - m->parameters);
    }
    bool embedding = cuts[1] > 0; // not on the middle stages
    Buckets *b = &reducer->buckets;
    if (!buckets_create(b, &reducer->neighbours, cuts + !embedding, m->shard.layers + embedding,
                        m->parameter_count, zero, e)) {
        return false;
    }
    for (size_t level = 0; block > 0 && (level == 0 || (size_t)1 << level < blocks); level++) {
        reducer->tree[level] = memory_floats(memory, "tree of gradients", m->parameter_count);
        if (!reducer->tree[level]) {
            return fail(e,
                        "no memory for level %zu of the sum of gradients: leave out --reproducible",
                        level);
        }
    }
    m->arriving = zero ? b : NULL;
    reducer->owned_gradients =
        zero ? memory_floats(memory, "gradients, own pieces", b->owned) : reducer->gradients;
    b->gradients = reducer->gradients;
    b->gradients_of = reducer->shared_gradients.of;
    b->sums = reducer->owned_gradients;
    b->parameters = m->parameters;
    b->parameters_of = reducer->shared_parameters.of;
    return reducer->owned_gradients ||
           fail(e, "no memory for the gradients of %zu parameters", b->owned);
}

// Collective over the replicas.
static void reducer_free(GradientReducer *reducer) {
    free(reducer->dweights.layers);
    buckets_free(&reducer->buckets);
    shared_array_free(&reducer->shared_gradients);
    shared_array_free(&reducer->shared_parameters);
    neighbours_free(&reducer->neighbours);
}

// The leaves of --reproducible: the micro-batches of a step are cut into as many equal blocks as
// the largest power of two in their number says; so one tree serves every power of two of replicas
// up to that. 0 without the option.
static bool leaves_of_replica(const Trainer *t, size_t *block, size_t *blocks, Error *e) {
    size_t micro_batches = t->global_batch / t->B, leaves = micro_batches & -micro_batches,
           dp = (size_t)t->world->grid.dp;
    if (!t->options->reproducible) {
        return true;
    }
    if (leaves % dp) {
        return fail(e,
                    "--reproducible: %zu micro-batches a step can be shared by 1, 2, 4 ... %zu "
                    "replicas, not by %zu: "
                    "change --global-batch, --micro-batch or the ranks",
                    micro_batches, leaves, dp);
    }
    *block = micro_batches / leaves;
    *blocks = leaves / dp;
    return true;
}

static bool optimizer_create(Trainer *t, Error *e) {
    t->exp_avg = memory_floats(&t->memory, "AdamW's state", t->reducer.buckets.owned);
    t->exp_avg_sq = memory_floats(&t->memory, "AdamW's state", t->reducer.buckets.owned);
    return (t->exp_avg && t->exp_avg_sq) ||
           fail(e, "no memory for the optimizer of %zu parameters: choose a smaller model",
                t->reducer.buckets.owned);
}

// Floats that the fast kernels pack into: as many as the largest product of a step takes.
static size_t packing_floats(const ModelConfig *c, const ModelShard *p, size_t B, size_t T,
                             size_t threads) {
    size_t C = c->channels, S = p->channels, R = B * T,
           rows = R < CLASSIFIER_ROWS ? R : CLASSIFIER_ROWS;
    const size_t first_factors[][2] = {
        {R, C},
        {R, S},
        {R, 3 * S},
        {R, 4 * S}, // (rows, sum over) of forward and of the inputs' gradients
        {C, R},
        {S, R},
        {4 * S, R}, // of the weights' gradients
        {rows, C},
        {rows, p->vocab.count}, // of the classifier
        {p->vocab.count, rows},
    };
    AttentionScratch unused;
    size_t most = threads * attention_scratch_sve(&unused, T, C / c->heads, true, NULL);
    size_t products = sizeof first_factors / sizeof *first_factors - (p->last_stage ? 0 : 3);
    for (size_t i = 0; i < products; i++) {
        size_t n = gemm_scratch_sve(first_factors[i][0], first_factors[i][1], threads);
        most = n > most ? n : most;
    }
    return most;
}

// Of an array of n floats that `ranks` sum, what lies twice in the memory of rank `rank` meanwhile:
// what MPICH's reduce-scatter and all-gather receive. The first step brings half. Where ranks are
// no power of two, of the first ones every other hands all it has to its neighbour beforehand.
static size_t sum_copies(size_t rank, size_t ranks, size_t n) {
    size_t power = 1;
    while (2 * power <= ranks) {
        power *= 2;
    }
    bool pairs = rank < 2 * (ranks - power);
    return ranks == 1 ? 0 : !pairs ? n / 2 : rank % 2 == 1 ? n : 0;
}

// Floats that MPI copies at most: the sums of all buckets may be under way at once. A rank that
// gets a piece of a sum copies as much as the piece.
static size_t messages_floats(const Trainer *t) {
    const ModelShard *p = &t->model.shard;
    const Grid *g = &t->world->grid;
    size_t C = t->model.config.channels,
           n = sum_copies((size_t)g->tp_rank, (size_t)g->tp, t->B * t->T * C);
    const Neighbours *neighbours = &t->reducer.neighbours;
    if (t->reducer.block == 0 && neighbours->hosts > 1 && t->reducer.buckets.zero) {
        n += t->reducer.buckets.owned;
    } else if (t->reducer.block == 0 && neighbours->hosts > 1) {
        for (size_t b = 0; b < t->reducer.buckets.count; b++) {
            const Bucket *bucket = &t->reducer.buckets.items[b];
            n += sum_copies((size_t)neighbours->host, (size_t)neighbours->hosts,
                            bucket->slice_end - bucket->slice_begin);
        }
    }
    return n + (p->first_stage != p->last_stage ? sum_copies(0, 2, p->vocab.count * C) : 0);
}

// What the kernels and MPI will take, beside the arrays that are ours. Kernels get theirs now, so
// that a run that does not fit fails before it begins.
static bool note_other_memory(Trainer *t, Error *e) {
    const ModelShard *p = &t->model.shard;
    size_t threads = t->threads ? t->threads : (size_t)omp_get_max_threads();
    size_t packing = t->model.kernels == &kernels_sve
                         ? packing_floats(&t->model.config, p, t->B, t->T, threads)
                         : 0;
    bool ok =
        (packing == 0 ||
         memory_note(&t->memory, "packed matrices", allocated_bytes(packing), NULL)) &&
        memory_note(&t->memory, "copies inside MPI", sizeof(float) * messages_floats(t), NULL);
    if (packing > 0 && !t->memory.planned) {
        pack_scratch_sve(packing);
    }
    return ok || fail(e, "no memory for the list of arrays");
}

// Model, gradients, optimizer and activations, all zero. With t->memory.planned they are only
// counted.
static bool training_allocate(Trainer *t, const ModelConfig *config, const Kernels *kernels,
                              Error *e) {
    size_t local = local_batch(t), count;
    ModelShard shard = shard_of_rank(config, t->world);
    bool zero = t->options->zero && t->world->grid.dp > 1;
    size_t parameters = tensor_views(config, &shard, NULL, "", NULL, &count);
    if (!reducer_share_memory(&t->reducer, &t->memory, t->world, parameters, zero,
                              t->options->share_memory, e) ||
        !model_create(&t->model, &t->memory, config, &shard, kernels,
                      t->reducer.shared_parameters.mine, e) ||
        !workspace_create(&t->workspace, &t->memory, config, &shard,
                          sets_needed(t->world, local / t->B), t->B, t->T,
                          keep_of_stage(t->options, t->world), e)) {
        return false;
    }
    t->views = malloc(t->model.tensor_count * sizeof *t->views);
    t->inputs = memory_take(&t->memory, "samples", (local * t->T + 1) * sizeof *t->inputs);
    t->targets = memory_take(&t->memory, "samples", local * t->T * sizeof *t->targets);
    t->digests = memory_take(&t->memory, "samples",
                             DIGEST_BYTES * (t->world->rank == 0 ? t->global_batch : local));
    if (!t->views || !t->inputs || !t->targets || !t->digests) {
        return fail(e, "no memory for a step of %zu sequences", local);
    }
    tensor_views(config, &shard, t->model.parameters, "", t->views, &count);
    size_t block = 0, blocks = 0;
    return leaves_of_replica(t, &block, &blocks, e) &&
           reducer_create(&t->reducer, &t->memory, &t->model, zero, t->options->overlap, block,
                          blocks, e) &&
           optimizer_create(t, e) && note_other_memory(t, e);
}

static void training_free(Trainer *t) {
    if (t->log) {
        fclose(t->log);
    }
    events_close(&t->events);
    mixture_close(&t->data);
    mixture_close(&t->val);
    model_free(&t->model);
    workspace_free(&t->workspace);
    t->world->active_buckets = NULL;
    reducer_free(&t->reducer);
    free(t->views);
    memory_free(&t->memory);
}

// ------------------------------------------------------------------------------------------------
// The plan of a run: training_allocate with nothing given counts each stage's memory and lays out
// its buckets; what the stage computes and sends follows from that.

typedef struct {
    ModelShard shard;
    Memory memory; // by kind, of the largest rank of the stage
    size_t parameters, owned;
    StageLoad load;
} StagePlan;

typedef struct {
    ModelConfig config;
    Options options;
    size_t tp, pp, dp, per_node, threads;
    size_t B, T, global_batch, micro_batches; // of a replica
    StagePlan *stages;                        // (pp)
    StepTime time;                            // with a machine
    bool timed;
} Plan;

static void plan_free(Plan *p) {
    for (size_t s = 0; p->stages && s < p->pp; s++) {
        memory_free(&p->stages[s].memory);
    }
    free(p->stages);
    p->stages = NULL;
}

// `calls` a step, each of `bytes`.
static Traffic traffic_of(double calls, double bytes, double sent, double seconds) {
    return (Traffic){calls, calls * bytes, calls * sent, calls * seconds};
}

// Sums of gradients and gathering of weights among the replicas: inside a node by loads and stores,
// a slice each, then the slices between nodes.
static void plan_replicas(const Plan *p, const Trainer *t, const Machine *m, StageLoad *l) {
    const Buckets *b = &t->reducer.buckets;
    const Neighbours *near = &t->reducer.neighbours;
    size_t stride = p->tp * p->pp, n = t->model.parameter_count;
    size_t peers = (size_t)near->peers, hosts = (size_t)near->hosts;
    double bytes = (double)n * sizeof(float), count = (double)b->count;
    if (p->dp == 1) {
        return;
    }
    Link inside = {m->node_latency.value, m->node_bandwidth.value};
    Link across = link_of(m, p->per_node, hosts, peers > 1 ? p->per_node : stride, m->links.value);
    if (t->reducer.block > 0) { // halves of a tree, one after another
        double rounds = ceil(log2((double)p->dp)),
               pieces = (double)((n + MESSAGE_ELEMENTS - 1) / MESSAGE_ELEMENTS);
        l->traffic[DP_SUM] =
            traffic_of(rounds * pieces, bytes / pieces, bytes / pieces,
                       message_seconds(link_of(m, p->per_node, p->dp, stride, 1), bytes / pieces));
    } else {
        double slice = bytes / count / (double)peers, gather = gather_seconds(across, hosts, slice);
        double sent = gather_sent(hosts, slice), ways = b->zero ? 1 : 2;
        double near_sent = gather_sent(peers, bytes / count),
               near_seconds = gather_seconds(inside, peers, bytes / count);
        if (peers > 1) {
            l->traffic[DP_SHARED] =
                traffic_of(count, bytes / count, ways * near_sent, ways * near_seconds);
        }
        if (hosts > 1) {
            l->traffic[b->zero ? DP_SCATTER : DP_SUM] =
                traffic_of(count, slice, ways * sent, ways * gather);
        }
    }
    if (b->zero) {
        double slice = bytes / count / (double)peers;
        l->traffic[DP_GATHER] = traffic_of(
            count, slice, gather_sent(hosts, slice) + gather_sent(peers, bytes / count),
            gather_seconds(across, hosts, slice) + gather_seconds(inside, peers, bytes / count));
    }
}

// Messages inside a replica.
static void plan_parts(const Plan *p, const ModelShard *shard, bool again, const Machine *m,
                       StageLoad *l) {
    double R = (double)(p->B * p->T), L = (double)shard->layers, M = (double)p->micro_batches;
    double stream = R * (double)p->config.channels * sizeof(float);
    if (p->tp > 1) {
        Link link = link_of(m, p->per_node, p->tp, 1, m->links.value);
        double forward = 2 * L + shard->first_stage, backward = (2 + again) * L + shard->last_stage;
        double gathers = shard->last_stage ? ceil(R / CLASSIFIER_ROWS) : 0;
        double rows = gathers > 0 ? R / gathers : 0,
               records = (double)p->tp * rows * sizeof(SliceSoftmax);
        double sum = sum_seconds(link, p->tp, stream),
               gather = gather_seconds(link, p->tp, records);
        l->traffic[TP_SUM] =
            traffic_of(M * (forward + backward), stream, 2 * gather_sent(p->tp, stream), sum);
        l->traffic[TP_GATHER] =
            traffic_of(M * gathers, records, gather_sent(p->tp, records), gather);
        l->forward_tp = forward * sum;
        l->backward_tp = backward * sum + gathers * gather;
    }
    if (p->pp > 1) {
        double message = message_seconds(link_of(m, p->per_node, p->pp, p->tp, 1), stream);
        double sends = !shard->first_stage + !shard->last_stage;
        l->traffic[PP_STREAM] = traffic_of(M * sends, stream, stream, message);
        l->forward_pp = shard->first_stage ? 0 : message;
        l->backward_pp = shard->last_stage ? 0 : message;
        if (shard->first_stage || shard->last_stage) {
            double embedding = (double)(shard->vocab.count * p->config.channels) * sizeof(float);
            Link link = link_of(m, p->per_node, 2, p->tp * (p->pp - 1), m->links.value);
            double pieces = ceil(embedding / sizeof(float) / MESSAGE_ELEMENTS),
                   each = embedding / pieces;
            l->traffic[TIED_SUM] =
                traffic_of(pieces, each, 2 * gather_sent(2, each), sum_seconds(link, 2, each));
        }
    }
}

// Arithmetic: matrix products 2 operations a weight and row, attention over half the tokens on
// average; backward twice that, recomputing once more all but the block's last product. AdamW reads
// four arrays and writes three; gradients are zeroed and their norm taken; a leaf of the
// reproducible tree is copied and added.
static void plan_compute(const Plan *p, const Trainer *t, const Machine *m, StageLoad *l) {
    const ModelShard *shard = &t->model.shard;
    double R = (double)(p->B * p->T), C = (double)p->config.channels, S = (double)shard->channels;
    double L = (double)shard->layers, attention = 2 * R * (double)p->T * S, product = 2 * R * C * S;
    bool again = t->workspace.keep == KEEP_STREAM;
    double classifier = shard->last_stage ? 2 * R * C * (double)shard->vocab.count : 0;
    double rate = m->peak_flops.value * m->efficiency.value / (double)p->per_node;
    double leaves = t->reducer.block > 0 ? (double)(p->micro_batches / t->reducer.block) : 0;
    double bytes = 32 * (double)t->reducer.buckets.owned +
                   (4 + 24 * leaves) * (double)t->model.parameter_count;
    l->forward_flops = L * (12 * product + attention);
    l->backward_flops =
        2 * l->forward_flops + 3 * classifier + (again ? L * (8 * product + attention) : 0);
    l->forward_compute = l->forward_flops / rate;
    l->backward_compute = l->backward_flops / rate;
    l->update = bytes / (m->memory_bandwidth.value / (double)p->per_node);
}

// The stage's largest rank: the last slice, which has the most words, of a replica whose pieces are
// whole and which MPI copies most for. Arrays that only rank 0 has are counted with the first
// stage.
static bool plan_stage(Plan *p, size_t stage, const Machine *m, Error *e) {
    StagePlan *s = &p->stages[stage];
    World world = {.rank = stage > 0,
                   .size = (int)(p->tp * p->pp * p->dp),
                   .node_size = (int)p->per_node,
                   .node = MPI_COMM_NULL,
                   .grid = grid_alone()};
    Grid *g = &world.grid;
    g->tp = (int)p->tp, g->pp = (int)p->pp, g->dp = (int)p->dp;
    g->tp_rank = g->tp - 1, g->stage = (int)stage, g->dp_rank = (p->dp & (p->dp - 1)) != 0;
    Trainer t = {.options = &p->options,
                 .world = &world,
                 .T = p->T,
                 .B = p->B,
                 .global_batch = p->global_batch};
    t.threads = p->threads;
    t.memory.planned = true;
    bool ok = training_allocate(&t, &p->config, choose_kernels(p->options.kernels), e);
    if (ok) {
        memory_join(&t.memory, &s->memory);
        s->shard = t.model.shard;
        s->parameters = t.model.parameter_count;
        s->owned = t.reducer.buckets.owned;
        s->load = (StageLoad){0};
        static const Machine nowhere = {
            .peak_flops.value = 1, .efficiency.value = 1, .memory_bandwidth.value = 1};
        m = m ? m : &nowhere; // counts messages; the times mean nothing
        plan_compute(p, &t, m, &s->load);
        plan_parts(p, &s->shard, t.workspace.keep == KEEP_STREAM, m, &s->load);
        plan_replicas(p, &t, m, &s->load);
    }
    training_free(&t);
    return ok;
}

// Whether the grid can be: the same refusals as at the start of training.
static bool plan_check(const Plan *p, Error *e) {
    World world = {.size = (int)(p->tp * p->pp * p->dp), .grid = grid_alone()};
    world.grid.tp = (int)p->tp, world.grid.pp = (int)p->pp, world.grid.dp = (int)p->dp;
    if (p->global_batch % (p->B * p->dp)) {
        return fail(e,
                    "--global-batch %zu does not divide into micro-batches of %zu on %zu replicas",
                    p->global_batch, p->B, p->dp);
    }
    return check_grid(&p->config, &world, e);
}

// Fills in stages and, with a machine, times. m: NULL without.
static bool plan_make(Plan *p, const Machine *m, Error *e) {
    p->stages = calloc(p->pp, sizeof *p->stages);
    StageLoad *loads = calloc(p->pp, sizeof *loads);
    bool ok = (p->stages && loads) || fail(e, "no memory to plan %zu stages", p->pp);
    p->micro_batches = p->global_batch / p->B / p->dp;
    for (size_t s = 0; ok && s < p->pp; s++) {
        ok = plan_stage(p, s, m, e);
        loads[s] = p->stages[s].load;
    }
    p->timed = ok && m;
    if (p->timed) {
        bool hides = p->options.overlap && !p->options.reproducible;
        p->time = step_time(loads, p->pp, p->micro_batches, hides ? m->overlap.value : 0);
    }
    free(loads);
    return ok;
}

// Collective: the plan of this run's step, if there is a machine to plan with. The base of memory
// is the process's own.
static bool plan_run(Trainer *t, const ModelConfig *config) {
    Error e = {0};
    Machine m;
    World *w = t->world;
    Plan p = {.config = *config,
              .options = *t->options,
              .B = t->B,
              .T = t->T,
              .global_batch = t->global_batch};
    p.tp = (size_t)w->grid.tp, p.pp = (size_t)w->grid.pp, p.dp = (size_t)w->grid.dp;
    p.per_node = (size_t)w->node_size;
    bool ok = true;
    if (w->rank == 0 && t->options->machine) {
        ok = machine_load(&m, t->options->machine, &e) && plan_make(&p, &m, &e);
        t->planned_seconds = p.time.seconds;
        plan_free(&p);
    }
    return world_check(w, ok, &e);
}

// The most memory that this process has had. What it saw of the neighbours' arrays counts as
// theirs, its own in full.
static double measured_peak(const Trainer *t) {
    const GradientReducer *reducer = &t->reducer;
    size_t peak = process_memory("VmHWM"), shared = process_memory("RssShmem");
    if (reducer->neighbours.peers == 1) {
        return (double)peak;
    }
    size_t own = reducer->shared_gradients.bytes + reducer->shared_parameters.bytes;
    return (double)(peak + own) - (double)(shared - t->base_shared);
}

// Collective, at the end: the plan against what was. Memory: of the rank that took most, and the
// largest difference on any rank.
static bool log_plan(Trainer *t) {
    Error e = {0};
    World *w = t->world;
    if (!t->stepped) {
        return true; // a run that was complete: its log has the line already
    }
    double planned = (double)(t->base_memory + memory_total(&t->memory)), peak = measured_peak(t);
    struct {
        double value;
        int rank;
    } most = {peak, w->rank}, off = {peak > 0 ? fabs(planned / peak - 1) : 0, w->rank};
    MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_DOUBLE_INT, MPI_MAXLOC, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &off, 1, MPI_DOUBLE_INT, MPI_MAXLOC, MPI_COMM_WORLD);
    MPI_Bcast(&planned, 1, MPI_DOUBLE, most.rank, MPI_COMM_WORLD);
    double base = (double)t->base_memory,
           step = t->steps_timed ? t->step_seconds / (double)t->steps_timed : 0;
    MPI_Bcast(&base, 1, MPI_DOUBLE, most.rank, MPI_COMM_WORLD);
    if (w->rank == 0) {
        JsonWriter json = {0};
        json_open(&json, NULL, '{');
        json_put_uint(&json, "step", t->step);
        json_open(&json, "plan", '{');
        json_put_uint(&json, "rank", (uint64_t)most.rank);
        json_put_double(&json, "base_bytes", base);
        json_put_double(&json, "planned_bytes", planned);
        json_put_double(&json, "measured_bytes", most.value);
        json_put_double(&json, "largest_difference", off.value);
        t->planned_seconds > 0 ? json_put_double(&json, "planned_step_ms", 1e3 * t->planned_seconds)
                               : json_put_null(&json, "planned_step_ms");
        t->steps_timed ? json_put_double(&json, "measured_step_ms", 1e3 * step)
                       : json_put_null(&json, "measured_step_ms");
        json_close(&json, '}');
        json_close(&json, '}');
        printf("memory: planned %.1f MiB, measured %.1f MiB (rank %d, peak); largest difference on "
               "a rank %.1f %%\n",
               planned / 0x1p20, most.value / 0x1p20, most.rank, 100 * off.value);
        if (t->planned_seconds > 0 && step > 0) {
            printf("step: planned %.1f ms, measured %.1f ms\n", 1e3 * t->planned_seconds,
                   1e3 * step);
        }
        return world_check(w, log_line(t, &json, &e), &e);
    }
    return world_check(w, true, &e);
}

static void print_run(const Trainer *t) {
    const ModelConfig *c = &t->model.config;
    printf("model: %zu layers, %zu channels, %zu heads, vocabulary %zu, %zu parameters\n",
           c->layers, c->channels, c->heads, c->vocab_size, t->model.all_parameters);
    double samples = (double)t->global_batch * (double)t->options->steps;
    for (size_t i = 0; i < t->data.count; i++) {
        const Dataset *d = &t->data.items[i];
        double share = mixture_share(&t->data, i);
        printf("data: %s, %llu tokens, %llu samples of %zu tokens, share %.3f %%, %.2f epochs\n",
               t->data.paths[i], (unsigned long long)d->tokens, (unsigned long long)d->samples,
               t->T, 100 * share, share * samples / (double)d->samples);
    }
    for (size_t i = 0; i < t->val.count; i++) {
        printf("validation: %s, %llu tokens\n", t->val.paths[i],
               (unsigned long long)t->val.items[i].tokens);
    }
    if (t->val.count == 0) {
        printf("validation: none\n");
    }
    const Grid *g = &t->world->grid;
    size_t micro_batches = local_batch(t) / t->B;
    if (g->tp * g->pp > 1) {
        printf("grid: %d ranks = %d slices (tp) x %d stages (pp) x %d replicas (dp); %zu layers in "
               "the first stage\n",
               t->world->size, g->tp, g->pp, g->dp, t->model.shard.layers);
    }
    printf(
        "step: %zu sequences = %d replica%s x %zu micro-batch%s of %zu, %zu tokens; %llu steps\n",
        t->global_batch, g->dp, g->dp == 1 ? "" : "s", micro_batches,
        micro_batches == 1 ? "" : "es", t->B, t->global_batch * t->T,
        (unsigned long long)t->options->steps);
    printf("kernels: %s, measured peak %.1f GFLOP/s\n", t->model.kernels->name,
           1e-9 * t->peak_flops);
}

static int command_train(World *w, const Options *o) {
    Error e = {0};
    ModelConfig config;
    Trainer t = {.options = o, .world = w, .start = seconds_now()};
    if (!world_check(w, world_make_grid(w, o->tp, o->pp, &e) && check_train_options(o, w->size, &e),
                     &e)) {
        return EXIT_USAGE;
    }
    if (o->save_every > 0) {
        catch_stop_signals();
    }
    Placement placement = world_place(w, o->bind);
    bool ok = world_check(w, training_open(&t, &config, &e), &e);
    bool verify = w->rank == 0 && o->verify_data;
    ok = ok &&
         world_check(w, !verify || (mixture_verify(&t.data, &e) && mixture_verify(&t.val, &e)), &e);
    t.base_memory = process_memory("VmRSS");
    t.base_shared = process_memory("RssShmem");
    ok = ok && world_check(w, training_allocate(&t, &config, choose_kernels(o->kernels), &e), &e);
    ok = ok && plan_run(&t, &config);
    if (ok) {
        placement.remote = percent_elsewhere(
            t.model.parameters, t.model.parameter_count * sizeof(float), &placement.nodes);
        world_print_placement(w, placement, stdout);
        t.peak_flops = measure_peak_flops(MPI_COMM_WORLD);
        ok = prepare_state(&t);
    }
    if (ok && w->rank == 0) {
        print_run(&t);
    }
    ok = ok && train_loop(&t) && log_plan(&t);
    training_free(&t);
    return !ok ? EXIT_FAILURE : t.stopped ? EXIT_STOPPED : EXIT_SUCCESS;
}

// =================================================================================================
// Command: eval

// A model's folder: a hint if it is the run's folder that was given.
static bool load_config_of(const char *directory, ModelConfig *config, Error *e) {
    uint64_t *steps;
    size_t count = 0;
    char path[PATH_LIMIT];
    Error unused;
    if (!path_format(path, e, "%s/config.json", directory)) {
        return false;
    }
    if (access(path, F_OK) && checkpoint_list(directory, &steps, &count, &unused) && count > 0) {
        fail(e,
             "%s: is a run, not a model: give one of its checkpoints, the newest is %s/step-%06llu",
             directory, directory, (unsigned long long)steps[0]);
        free(steps);
        return false;
    }
    return config_load(directory, config, e);
}

// Collective: verifies a model, each rank some of its files, and loads each rank's part.
static bool load_model(World *w, const char *directory, const char *kernels, Model *m,
                       Memory *memory) {
    Error e = {0};
    ModelConfig config;
    bool ok = load_config_of(directory, &config, &e) && check_grid(&config, w, &e);
    ModelShard shard = ok ? shard_of_rank(&config, w) : (ModelShard){0};
    ok = ok && model_create(m, memory, &config, &shard, choose_kernels(kernels), NULL, &e);
    if (!world_check(w, ok, &e)) {
        return false;
    }
    size_t count;
    TensorView *views = malloc(m->tensor_count * sizeof *views);
    ok = verify_together(w, directory, false, &e);
    ok = ok && (views || fail(&e, "no memory to load %s", directory));
    if (ok) {
        tensor_views(&config, &shard, m->parameters, "", views, &count);
        ok = weights_load(directory, views, count, &e);
    }
    free(views);
    return world_check(w, ok, &e);
}

// With more than one source a line for each first; then all of them, losses weighted by their
// shares.
static void print_eval(const Mixture *data, size_t T, const double *losses, double loss) {
    uint64_t tokens = 0;
    for (size_t i = 0; i < data->count; i++) {
        uint64_t own = data->items[i].samples * T;
        tokens += own;
        if (data->count > 1) {
            printf("%s: loss %.6f, perplexity %.4f, tokens %llu, share %.3f %%\n", data->paths[i],
                   losses[i], exp(losses[i]), (unsigned long long)own,
                   100 * mixture_share(data, i));
        }
    }
    printf("loss %.6f\nperplexity %.4f\ntokens %llu of ", loss, exp(loss),
           (unsigned long long)tokens);
    data->count > 1 ? printf("%zu sources\n", data->count) : printf("%s\n", data->items[0].path);
}

static int command_eval(World *w, const Options *o) {
    Error e = {0};
    Model m = {0};
    Memory memory = {0};
    Workspace workspace = {0};
    Mixture data = {0};
    double loss, losses[MIXTURE_DATASETS_MAX];
    const TextList *paths = o->val_data.count > 0 ? &o->val_data : &o->data;
    bool ok = (o->checkpoint && paths->count) ||
              fail(&e, "eval needs %s", paths->count ? "--checkpoint DIR" : "--data PATH");
    ok = ok && world_make_grid(w, o->tp, o->pp, &e);
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    world_place(w, o->bind);
    if (!load_model(w, o->checkpoint, o->kernels, &m, &memory)) {
        model_free(&m);
        memory_free(&memory);
        return EXIT_FAILURE;
    }
    size_t T = o->seq_len ? o->seq_len : m.config.seq_len, B = o->micro_batch;
    int32_t *inputs = calloc(B * T + 1, sizeof *inputs), *targets = calloc(B * T, sizeof *targets);
    ok = (inputs && targets) || fail(&e, "no memory for %zu sequences of %zu tokens", B, T);
    ok = ok &&
         (T <= m.config.seq_len || fail(&e, "--seq-len %zu is more than the %zu positions of %s", T,
                                        m.config.seq_len, o->checkpoint));
    ok = ok && mixture_open(&data, paths->items, paths->count, "val", T, &e) &&
         workspace_create(&workspace, &memory, &m.config, &m.shard, 1, B, T, KEEP_CACHE, &e);
    ok = ok && (w->rank != 0 || !o->verify_data || mixture_verify(&data, &e));
    ok = world_check(w, ok, &e);
    ok = ok && evaluate_mixture(w, &m, &workspace, &data, 0, 1, inputs, targets, losses, &loss);
    if (ok && w->rank == 0) {
        print_eval(&data, T, losses, loss);
    }
    free(inputs);
    free(targets);
    mixture_close(&data);
    workspace_free(&workspace);
    model_free(&m);
    memory_free(&memory);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

// =================================================================================================
// Command: generate

typedef struct {
    float logit;
    int32_t token;
} Candidate;

// Most likely first; equal logits by token, so that the order is one.
static int by_logit(const void *x, const void *y) {
    const Candidate *a = x, *b = y;
    return a->logit != b->logit ? (a->logit < b->logit ? 1 : -1)
                                : (a->token > b->token) - (a->token < b->token);
}

// Draws the next token from logits (V): softmax at a temperature over the top_k most likely, of
// these the fewest that make up top_p. `draw` is uniform in [0, 1). candidates: (V) scratch.
static int32_t sample_token(const float *logits, size_t V, const Options *o, double draw,
                            Candidate *candidates) {
    for (size_t v = 0; v < V; v++) {
        candidates[v] = (Candidate){logits[v], (int32_t)v};
    }
    qsort(candidates, V, sizeof *candidates, by_logit);
    size_t count = o->top_k > 0 && o->top_k < V ? o->top_k : V;
    if (o->temperature == 0) {
        return candidates[0].token;
    }
    double total = 0, sum = 0, kept = 0;
    for (size_t i = 0; i < count; i++) {
        total += exp((double)(candidates[i].logit - candidates[0].logit) / o->temperature);
    }
    size_t nucleus = 0;
    while (nucleus < count && kept < o->top_p * total) {
        kept += exp((double)(candidates[nucleus++].logit - candidates[0].logit) / o->temperature);
    }
    for (size_t i = 0; i < nucleus; i++) {
        sum += exp((double)(candidates[i].logit - candidates[0].logit) / o->temperature);
        if (draw * kept < sum) {
            return candidates[i].token;
        }
    }
    return candidates[nucleus - 1].token;
}

typedef struct {
    Model model;
    World *world;
    Workspace workspace; // of one sequence; the qkv of its rows are the key-value cache
    float *logits;       // (V)
    Tokenizer tokenizer;
    Decoder decoder;
    Candidate *candidates; // (V)
    TokenBuffer ids;       // prompt, then what was generated
} Generator;

// Prints the text that the decoder has ready.
static void print_decoded(Generator *g) {
    if (g->world->rank == 0) {
        fwrite(g->decoder.text.data, 1, g->decoder.text.length, stdout);
        fflush(stdout);
    }
    g->decoder.text.length = 0;
}

// Tells the decoder what the printed prompt was, so that what follows is decoded as its
// continuation.
static bool decode_prompt(Generator *g, Error *e) {
    decoder_init(&g->decoder, &g->tokenizer, false);
    for (size_t i = 0; i < g->ids.count; i++) {
        if (!decoder_add(&g->decoder, g->ids.ids[i], e)) {
            return false;
        }
    }
    g->decoder.text.length = 0;
    return true;
}

static bool append_token(TokenBuffer *buffer, int32_t token, Error *e) {
    if (buffer->count == buffer->capacity) {
        size_t capacity = 2 * buffer->capacity + 64;
        int32_t *ids = realloc(buffer->ids, capacity * sizeof *ids);
        if (!ids) {
            return fail(e, "no memory for %zu tokens", capacity);
        }
        buffer->ids = ids;
        buffer->capacity = capacity;
    }
    buffer->ids[buffer->count++] = token;
    return true;
}

// g->logits (V) of the token after ids (count) on the last stage, whose first `cached` rows are in
// the cache; collective over the ranks of a replica.
static void next_logits(Generator *g, const int32_t *ids, size_t cached, size_t count) {
    const Model *m = &g->model;
    Activations *a = &g->workspace.sets[0];
    size_t C = m->config.channels, n = (count - cached) * C;
    message_wait(g->world, &g->workspace.passed[0]);
    if (!m->shard.first_stage) {
        stage_receive(g->world, a->stream + cached * C, n, -1);
    }
    forward(m, g->world, a, ids, cached, 1, count);
    if (!m->shard.last_stage) {
        stage_send(g->world, stage_output(m, a) + cached * C, n, 1, &g->workspace.passed[0]);
        return;
    }
    memset(g->logits, 0, m->config.vocab_size * sizeof *g->logits);
    m->kernels->logits_forward(g->logits + m->shard.vocab.first, a->lnf + (count - 1) * C,
                               m->weights.wte, 1, C, m->shard.vocab.count);
    tp_all_reduce(g->world, g->logits, m->config.vocab_size);
}

// Draws the token after ids, on the last stage, and tells the other stages; -1 if the logits are
// not finite.
static int32_t next_token(Generator *g, const Options *o, uint64_t i) {
    int32_t token = -1;
    if (g->model.shard.last_stage) {
        double draw = random_uniform(o->seed, RANDOM_FREE, i);
        token = sample_token(g->logits, g->model.config.vocab_size, o, draw, g->candidates);
        token = isfinite(g->logits[token]) ? token : -1;
    }
    last_stage_broadcast(g->world, &token, sizeof token);
    return token;
}

// Generates and prints up to --tokens tokens. Rows that are in the cache are not computed again.
// When the context is full, its older half is dropped and the newer half, which now stands at other
// positions, is computed once.
static bool generate_tokens(Generator *g, const Options *o, Error *e) {
    size_t T = g->model.config.seq_len;
    size_t start = g->ids.count > T ? g->ids.count - (T + 1) / 2 : 0, cached = 0;
    for (uint64_t i = 0; i < o->tokens; i++) {
        size_t count = g->ids.count - start;
        if (count > T) {
            start = g->ids.count - (T + 1) / 2;
            count = g->ids.count - start;
            cached = 0;
        }
        next_logits(g, g->ids.ids + start, cached, count);
        cached = count;
        int32_t token = next_token(g, o, i);
        if (token < 0) {
            return fail(e, "%s: its output is not finite; the weights are damaged", o->checkpoint);
        }
        if (token == g->tokenizer.end_of_document) {
            break;
        }
        if (!append_token(&g->ids, token, e) || !decoder_add(&g->decoder, token, e)) {
            return false;
        }
        print_decoded(g);
    }
    message_wait(g->world, &g->workspace.passed[0]);
    if (!decoder_end(&g->decoder, e)) {
        return false;
    }
    print_decoded(g);
    if (g->world->rank == 0) {
        printf("\n");
    }
    return true;
}

// The prompt's ids; an empty prompt begins a document. Ids beyond the model's vocabulary are an
// error.
static bool encode_prompt(Generator *g, const Options *o, Error *e) {
    size_t length = strlen(o->prompt), consumed, replaced = 0;
    char *text = malloc(3 * length + 1);
    if (!text) {
        return fail(e, "no memory for the prompt");
    }
    length = utf8_sanitize(text, o->prompt, length, true, &consumed, &replaced);
    bool ok = tokenizer_encode(&g->tokenizer, text, length, &g->ids, e);
    free(text);
    if (ok && g->ids.count == 0) {
        ok = append_token(&g->ids, g->tokenizer.end_of_document, e);
    }
    for (size_t i = 0; i < g->ids.count && ok; i++) {
        if (g->ids.ids[i] < 0 || (size_t)g->ids.ids[i] >= g->model.config.vocab_size) {
            ok = fail(e, "%s: its tokenizer gives id %d, outside the model's vocabulary of %zu",
                      o->checkpoint, (int)g->ids.ids[i], g->model.config.vocab_size);
        }
    }
    return ok;
}

static int command_generate(World *w, const Options *o) {
    Error e = {0};
    Memory memory = {0};
    Generator g = {.world = w};
    bool ok = (o->checkpoint || fail(&e, "generate needs --checkpoint DIR")) &&
              world_make_grid(w, o->tp, o->pp, &e);
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    world_place(w, o->bind);
    ok = load_model(w, o->checkpoint, o->kernels, &g.model, &memory);
    if (ok) {
        bool loaded = tokenizer_load(&g.tokenizer, o->checkpoint, &e);
        ok = loaded && workspace_create(&g.workspace, &memory, &g.model.config, &g.model.shard, 1,
                                        1, g.model.config.seq_len, KEEP_CACHE, &e);
        g.logits = ok ? malloc(g.model.config.vocab_size * sizeof *g.logits) : NULL;
        g.candidates = ok ? malloc(g.model.config.vocab_size * sizeof *g.candidates) : NULL;
        ok = ok &&
             ((g.candidates && g.logits) || fail(&e, "no memory for the candidates of a token"));
        ok = ok && encode_prompt(&g, o, &e);
        bool ready = world_check(w, ok, &e);
        if (ready && w->rank == 0) {
            printf("%s", o->prompt);
        }
        if (ready && w->grid.dp_rank == 0) { // one sequence is one replica's work
            ok = decode_prompt(&g, &e) && generate_tokens(&g, o, &e);
        }
        ok = ready && world_check(w, ok, &e);
        decoder_free(&g.decoder);
        if (loaded) {
            tokenizer_free(&g.tokenizer);
        }
    }
    free(g.ids.ids);
    free(g.candidates);
    workspace_free(&g.workspace);
    free(g.logits);
    model_free(&g.model);
    memory_free(&memory);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

// =================================================================================================
// Command: prepare

static int command_prepare(World *w, const Options *o) {
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
        .unigram = !strcmp(o->tokenizer_kind, "unigram"),
        .index = o->index == 1,
        .collect = {.min_characters = o->min_characters,
                    .max_characters = o->max_characters ? o->max_characters : UINT64_MAX,
                    .min_japanese = o->min_japanese,
                    .max_repeated_lines = o->max_repeated_lines,
                    .exact = !strcmp(o->dedup, "exact"),
                    .near_duplicates = o->near_duplicates},
        .revision = GIT_REVISION,
        .command = (const char *const *)o->argv,
        .command_count = (size_t)o->argc,
        .progress = stdout,
    };
    if (!world_check(w, prepare_check_options(&p, &e), &e)) {
        return EXIT_USAGE;
    }
    world_place(w, o->bind);
    if (!prepare_corpus(w, &p, &report)) {
        return EXIT_FAILURE;
    }
    if (w->rank == 0) {
        prepare_report_print(&report, o->out, stdout);
    }
    return EXIT_SUCCESS;
}

// =================================================================================================
// Command: trace

static bool check_trace_options(const Options *o, Error *e) {
    int questions = (o->step > 0) + (o->doc != NULL) + (o->text != NULL);
    if (questions != 1) {
        return fail(e, "trace needs one of --step N, --doc ID and --text TEXT");
    }
    if (o->run.count > 1 || (o->run.count == 0 && (!o->text || o->data.count == 0))) {
        return fail(e, "trace needs --run DIR%s",
                    o->text ? ", or --data DIR to look in data without a run" : "");
    }
    return o->row == UINT64_MAX || o->step || fail(e, "--row needs --step");
}

static int command_trace(World *w, const Options *o) {
    Error e = {0};
    TraceQuestion question = {.run = o->run.count > 0 ? o->run.items[0] : NULL,
                              .data = o->data.items,
                              .data_count = o->data.count,
                              .step = o->step,
                              .row = o->row,
                              .doc = o->doc,
                              .text = o->text,
                              .min_bytes = o->min_bytes,
                              .limit = o->limit,
                              .json = o->json};
    if (!world_check(w, check_trace_options(o, &e), &e)) {
        return EXIT_USAGE;
    }
    return world_check_root(w, w->rank != 0 || trace_answer(&question, &e), &e) ? EXIT_SUCCESS
                                                                                : EXIT_FAILURE;
}

// =================================================================================================
// Command: kernels

// Hash of the losses and weights of 20 steps of a small model on made-up tokens: small, but with
// two blocks of keys in attention and two blocks of k in the widest matrix product. Any machine,
// vector length and number of threads must give it; a change of the kernels' arithmetic changes it.
static const char golden_hash[] =
    "d80661553c94e7edec40cb60c269cfb143fe85c9c15298e94025271a9d04a010";

static bool golden_run(Error *e) {
    enum {
        LAYERS = 2,
        CHANNELS = 98,
        HEADS = 7,
        VOCAB = 211,
        GOLDEN_T = 167,
        GOLDEN_B = 1,
        STEPS = 20
    };
    const ModelConfig config = {VOCAB, GOLDEN_T, CHANNELS, LAYERS, HEADS, -1};
    const Options o = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    Trainer t = {.options = &o, .T = GOLDEN_T, .B = GOLDEN_B};
    int32_t tokens[GOLDEN_B * GOLDEN_T], targets[GOLDEN_B * GOLDEN_T];
    World alone = {.size = 1, .grid = grid_alone()};
    char hex[65];
    Sha256 hash;
    t.world = &alone;
    t.global_batch = GOLDEN_B;
    if (!training_allocate(&t, &config, &kernels_sve, e)) {
        training_free(&t);
        return false;
    }
    model_initialize(&t.model, 1, 0.05f, t.views);
    sha256_begin(&hash);
    for (uint64_t step = 1; step <= STEPS; step++) {
        for (size_t r = 0; r < GOLDEN_B * GOLDEN_T; r++) {
            tokens[r] = (int32_t)(random_bits(1, step, r) % VOCAB);
            targets[r] = (tokens[r] * 7 + 3) % VOCAB; // a rule that can be learned
        }
        forward_backward(&t.model, &alone, &t.workspace, &t.reducer, tokens, targets,
                         1 / (float)(GOLDEN_B * GOLDEN_T), 1);
        double norm = gradient_norm(&t);
        update(&t.model, t.views, &t.reducer, t.exp_avg, t.exp_avg_sq, &o, 3e-3,
               norm > 1 ? 1 / norm : 1, step);
        sha256_add(&hash, t.workspace.sets[0].losses, GOLDEN_B * GOLDEN_T * sizeof(float));
    }
    sha256_add(&hash, t.model.parameters, t.model.parameter_count * sizeof(float));
    sha256_end(&hash, hex);
    training_free(&t);
    printf("golden run: %s, vectors of %zu bits, %d threads\n", hex, 32 * (size_t)svcntw(),
           omp_get_max_threads());
    return !strcmp(hex, golden_hash) || fail(e,
                                             "the golden run gave other bits than %s: this machine "
                                             "or compiler does not compute as others do",
                                             golden_hash);
}

static int command_kernels(World *w, const Options *o) {
    Error e = {0};
    bool ok =
        o->check || o->bench || o->golden || fail(&e, "kernels needs --check, --bench or --golden");
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    world_place(w, o->bind);
    if (w->rank == 0) {
        ok = (!o->check || check_kernels(o->only, &e)) && (!o->golden || golden_run(&e)) &&
             (!o->bench || bench_kernels(o->only, measure_peak_flops(MPI_COMM_SELF), &e));
    }
    return world_check_root(w, ok, &e) ? EXIT_SUCCESS : EXIT_FAILURE;
}

// =================================================================================================
// Command: report

static int command_report(World *w, const Options *o) {
    Error e = {0};
    const char *out = o->out ? o->out : "report.html";
    if (!world_check(w, o->run.count > 0 || fail(&e, "report needs --run DIR..."), &e)) {
        return EXIT_USAGE;
    }
    bool ok = w->rank != 0 || report_page(o->run.items, o->run.count, out, &e);
    if (!world_check_root(w, ok, &e)) {
        return EXIT_FAILURE;
    }
    if (w->rank == 0) {
        printf("wrote %s\n", out);
    }
    return EXIT_SUCCESS;
}

// =================================================================================================
// Command: plan

enum { PLAN_RANKS_MAX = 10000000 };

// The shape, grid and batch that the options ask for.
static bool plan_from_options(Plan *p, const Options *o, const Machine *m, Error *e) {
    *p = (Plan){.options = *o};
    if (!(o->init ? config_load(o->init, &p->config, e) : shape_from_options(o, &p->config, e))) {
        return false;
    }
    ModelConfig *c = &p->config;
    if (!o->init) {
        c->vocab_size = o->vocab_size ? o->vocab_size : o->model ? GPT2_VOCAB_SIZE : 0;
    }
    if (!c->layers || !c->channels || !c->heads || !c->seq_len || !c->vocab_size) {
        return fail(e, "plan needs --model NAME, or all of --layers, --heads, --channels, "
                       "--seq-len, --vocab-size, or "
                       "--init DIR");
    }
    if (c->channels % c->heads) {
        return fail(e, "--channels %zu does not divide by --heads %zu", c->channels, c->heads);
    }
    p->per_node = o->ranks_per_node ? o->ranks_per_node : m ? (size_t)m->ranks_per_node.value : 1;
    p->threads =
        m ? (size_t)fmax(1, m->cores.value / (double)p->per_node) : (size_t)omp_get_max_threads();
    p->T = o->seq_len ? o->seq_len : c->seq_len;
    p->B = o->micro_batch;
    p->tp = o->tp, p->pp = o->pp;
    size_t ranks = o->nodes * p->per_node;
    if (ranks > PLAN_RANKS_MAX) {
        return fail(e, "--nodes %llu x %zu ranks are more than the %d that can be planned",
                    (unsigned long long)o->nodes, p->per_node, PLAN_RANKS_MAX);
    }
    if (o->search) {
        return o->global_batch > 0 ||
               fail(e, "plan --search needs --global-batch N: it chooses the micro-batch");
    }
    if (ranks % (p->tp * p->pp)) {
        return fail(e,
                    "--tp %zu x --pp %zu does not divide the %zu ranks of %llu nodes x %zu ranks",
                    p->tp, p->pp, ranks, (unsigned long long)o->nodes, p->per_node);
    }
    p->dp = ranks / p->tp / p->pp;
    p->global_batch = o->global_batch ? o->global_batch : p->B * p->dp;
    return plan_check(p, e);
}

static size_t plan_largest_stage(const Plan *p) {
    size_t largest = 0;
    for (size_t s = 1; s < p->pp; s++) {
        if (memory_total(&p->stages[s].memory) > memory_total(&p->stages[largest].memory)) {
            largest = s;
        }
    }
    return largest;
}

// Bytes of the largest rank, with the program and MPI themselves.
static double plan_peak(const Plan *p, double base) {
    return base + (double)memory_total(&p->stages[plan_largest_stage(p)].memory);
}

// Bytes that the ranks can have, each.
static double memory_of_rank(const Plan *p, const Machine *m) {
    return m->memory.value / (double)p->per_node;
}

static void print_memory(const Plan *p, const Machine *m) {
    const StagePlan *largest = &p->stages[plan_largest_stage(p)];
    double peak = plan_peak(p, m ? m->base_memory.value : 0);
    printf("\nmemory of the largest rank, stage %zu [counted by the code that allocates it]\n",
           plan_largest_stage(p));
    for (size_t i = 0; i < largest->memory.count; i++) {
        printf("  %-26s %12.2f MiB\n", largest->memory.items[i].name,
               (double)largest->memory.items[i].bytes / 0x1p20);
    }
    if (m) {
        printf("  %-26s %12.2f MiB [%s]\n", "program and MPI", m->base_memory.value / 0x1p20,
               m->base_memory.from);
        printf("  %-26s %12.2f MiB of %.2f%s\n", "in all", peak / 0x1p20,
               memory_of_rank(p, m) / 0x1p20, peak > memory_of_rank(p, m) ? ": DOES NOT FIT" : "");
    } else {
        printf("  %-26s %12.2f MiB and the program and MPI themselves\n", "in all", peak / 0x1p20);
    }
    for (size_t s = 0; s < p->pp && p->pp > 1; s++) {
        if (p->pp > 16 && s == 8) {
            printf("  ... (--json has all)\n");
            s = p->pp - 2;
        }
        printf("  stage %-4zu %3zu layers %12zu parameters %10.2f MiB\n", s,
               p->stages[s].shard.layers, p->stages[s].parameters,
               (double)memory_total(&p->stages[s].memory) / 0x1p20);
    }
}

static const StagePlan *busiest_stage(const Plan *p, TrafficKind kind) {
    const StagePlan *busiest = &p->stages[0];
    for (size_t s = 1; s < p->pp; s++) {
        if (p->stages[s].load.traffic[kind].sent > busiest->load.traffic[kind].sent) {
            busiest = &p->stages[s];
        }
    }
    return busiest;
}

// What a kind sends in a step, all ranks.
static double traffic_total(const Plan *p, TrafficKind kind) {
    double sent = 0;
    for (size_t s = 0; s < p->pp; s++) {
        sent += p->stages[s].load.traffic[kind].sent * (double)(p->tp * p->dp);
    }
    return sent;
}

static void print_traffic(const Plan *p) {
    printf("\nmessages of a step: the busiest rank of each kind, and all ranks [calls and bytes "
           "counted%s]\n",
           p->timed ? ", seconds modelled, hidden or not" : "");
    for (TrafficKind kind = 0; kind < TRAFFIC_KINDS; kind++) {
        const Traffic *t = &busiest_stage(p, kind)->load.traffic[kind];
        if (t->calls == 0) {
            continue;
        }
        printf("  %-24s %8.0f calls of %10.3f MiB, sends %10.2f MiB, all ranks %10.2f GiB",
               traffic_names[kind], t->calls, t->bytes / t->calls / 0x1p20, t->sent / 0x1p20,
               traffic_total(p, kind) / 0x1p30);
        p->timed ? printf(", %9.4f s\n", t->seconds) : printf("\n");
    }
}

static double tokens_per_second(const Plan *p) {
    return (double)(p->global_batch * p->T) / p->time.seconds;
}

// Share of peak at which the model's own operations run, as the log's "mfu".
static double plan_mfu(const Plan *p, const Machine *m) {
    double ranks = (double)(p->tp * p->pp * p->dp),
           peak = m->peak_flops.value / (double)p->per_node * ranks;
    return tokens_per_second(p) * flops_per_token(&p->config, p->T) / peak;
}

static void print_time(const Plan *p, Machine *m) {
    const StepTime *t = &p->time;
    printf("\ntime of a step [modelled; stage %zu is the dearest]\n", t->dearest);
    const struct {
        const char *what;
        double seconds;
    } lines[] = {{"arithmetic: operations / (peak x efficiency)", t->compute},
                 {"tp sums, not hidden", t->tp},
                 {"waiting for the other stages' messages", t->pp},
                 {"pipeline bubble", t->bubble},
                 {"gradients of replicas and embedding, not hidden", t->gradients},
                 {"AdamW, norm, zeroing: bytes / memory bandwidth", t->update},
                 {"gathering weights, not hidden", t->gather}};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        printf("  %-48s %12.4f s %6.2f %%\n", lines[i].what, lines[i].seconds,
               100 * lines[i].seconds / t->seconds);
    }
    printf("  %-48s %12.4f s\n", "in all", t->seconds);
    double tokens = tokens_per_second(p);
    printf("%.0f tokens/s, %.4g tokens a day, MFU %.2f %%\n", tokens, 86400 * tokens,
           100 * plan_mfu(p, m));
    if (p->options.tokens_budget > 0) {
        printf("%.4g tokens take %.2f days\n", p->options.tokens_budget,
               p->options.tokens_budget / tokens / 86400);
    }
    printf("\nmachine %s: what is measured and what is not\n", m->name);
    for (size_t i = 0; i < MACHINE_FIGURE_COUNT; i++) {
        const Figure *figure = machine_figure(m, i);
        printf("  %-16s %12.4g %-10s %s [%s]\n", machine_figures[i].name, figure->value,
               machine_figures[i].unit, machine_figures[i].what, figure->from);
    }
}

static void print_plan(const Plan *p, Machine *m) {
    const ModelConfig *c = &p->config;
    const ModelShard all = shard_of(c, 1, 0, 1, 0);
    size_t count;
    printf("model: %zu layers, %zu channels, %zu heads, vocabulary %zu, %zu parameters\n",
           c->layers, c->channels, c->heads, c->vocab_size,
           tensor_views(c, &all, NULL, "", NULL, &count));
    printf("grid: %zu ranks = %zu slices (tp) x %zu stages (pp) x %zu replicas (dp), %zu a node, "
           "%zu threads each\n",
           p->tp * p->pp * p->dp, p->tp, p->pp, p->dp, p->per_node, p->threads);
    printf("step: %zu sequences of %zu tokens = %zu replicas x %zu micro-batches of %zu; recompute "
           "%s, zero %d\n",
           p->global_batch, p->T, p->dp, p->micro_batches, p->B, p->options.recompute,
           (int)p->options.zero);
    print_memory(p, m);
    print_traffic(p);
    if (p->timed) {
        print_time(p, m);
    } else {
        printf("\nno times: they need --machine\n");
    }
}

static void write_memory(JsonWriter *json, const Memory *memory) {
    json_open(json, "memory", '{');
    for (size_t i = 0; i < memory->count; i++) {
        json_put_uint(json, memory->items[i].name, memory->items[i].bytes);
    }
    json_close(json, '}');
    json_put_uint(json, "bytes", memory_total(memory));
}

static void write_stage(JsonWriter *json, const StagePlan *s) {
    json_open(json, NULL, '{');
    json_put_uint(json, "layers", s->shard.layers);
    json_put_uint(json, "parameters", s->parameters);
    json_put_uint(json, "updated", s->owned);
    write_memory(json, &s->memory);
    json_open(json, "messages", '{');
    for (TrafficKind kind = 0; kind < TRAFFIC_KINDS; kind++) {
        const Traffic *t = &s->load.traffic[kind];
        if (t->calls > 0) {
            json_open(json, traffic_names[kind], '{');
            json_put_double(json, "calls", t->calls);
            json_put_double(json, "bytes", t->bytes);
            json_put_double(json, "sent", t->sent);
            json_close(json, '}');
        }
    }
    json_close(json, '}');
    json_close(json, '}');
}

static void write_plan(JsonWriter *json, const Plan *p, Machine *m) {
    json_open(json, NULL, '{');
    json_put_uint(json, "tp", p->tp);
    json_put_uint(json, "pp", p->pp);
    json_put_uint(json, "dp", p->dp);
    json_put_uint(json, "micro_batch", p->B);
    json_put_uint(json, "micro_batches", p->micro_batches);
    json_put_string(json, "recompute", p->options.recompute);
    json_put_uint(json, "recompute_stages", p->options.recompute_stages);
    json_put_uint(json, "zero", p->options.zero);
    json_open(json, "stages", '[');
    for (size_t s = 0; s < p->pp; s++) {
        write_stage(json, &p->stages[s]);
    }
    json_close(json, ']');
    if (p->timed) {
        const struct {
            const char *name;
            double value;
        } figures[] = {{"peak_bytes", plan_peak(p, m->base_memory.value)},
                       {"rank_bytes", memory_of_rank(p, m)},
                       {"step_s", p->time.seconds},
                       {"compute_s", p->time.compute},
                       {"tp_s", p->time.tp},
                       {"pp_s", p->time.pp},
                       {"bubble_s", p->time.bubble},
                       {"gradients_s", p->time.gradients},
                       {"update_s", p->time.update},
                       {"gather_s", p->time.gather},
                       {"tokens_per_s", tokens_per_second(p)},
                       {"mfu", plan_mfu(p, m)}};
        for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
            json_put_double(json, figures[i].name, figures[i].value);
        }
        json_open(json, "machine", '{');
        machine_write(json, m);
        json_close(json, '}');
    }
    json_close(json, '}');
}

static bool show_plan(const Plan *p, Machine *m, Error *e) {
    if (!p->options.json) {
        print_plan(p, m);
        return true;
    }
    JsonWriter json = {0};
    write_plan(&json, p, m);
    bool ok = !json.failed || fail(e, "no memory for the plan's text");
    if (ok) {
        printf("%.*s\n", (int)json.length, json.data);
    }
    free(json.data);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// plan --search: every grid, micro-batch, recompute and zero that can be; of those that fit the
// fastest are shown

enum { PROPOSALS = 10 };

typedef struct {
    Plan best[PROPOSALS]; // fastest first, without stages
    size_t count, tried, fitting;
} Search;

static void search_keep(Search *s, const Plan *p) {
    size_t at = s->count < PROPOSALS ? s->count++ : PROPOSALS - 1;
    if (at == PROPOSALS - 1 && s->best[at].timed && s->best[at].time.seconds <= p->time.seconds) {
        return;
    }
    for (; at > 0 && s->best[at - 1].time.seconds > p->time.seconds; at--) {
        s->best[at] = s->best[at - 1];
    }
    s->best[at] = *p;
    s->best[at].stages = NULL;
}

// One candidate: what fits is kept if it is fast.
static bool search_try(Search *s, Plan *p, const Machine *m, Error *e) {
    bool ok = plan_make(p, m, e);
    s->tried++;
    if (ok && plan_peak(p, m->base_memory.value) <= memory_of_rank(p, m)) {
        s->fitting++;
        search_keep(s, p);
    }
    plan_free(p);
    return ok;
}

// All ways to compute with the grid of p: recompute nowhere, on the first half of the stages, which
// hold most micro-batches, or everywhere; zero off and on.
static bool search_grid(Search *s, Plan *p, const Machine *m, Error *e) {
    const struct {
        const char *recompute;
        size_t stages;
    } ways[] = {{"none", 0}, {"layer", p->pp / 2}, {"layer", 0}};
    bool ok = true;
    for (p->B = 1; ok && p->B <= 64 && p->B * p->dp <= p->global_batch; p->B *= 2) {
        p->options.micro_batch = p->B;
        for (size_t way = 0; ok && p->global_batch % (p->B * p->dp) == 0 && way < 3; way++) {
            p->options.recompute = ways[way].recompute;
            p->options.recompute_stages = ways[way].stages;
            for (p->options.zero = 0;
                 ok && (p->pp > 1 || way != 1) && p->options.zero < 1 + (p->dp > 1);
                 p->options.zero++) {
                ok = search_try(s, p, m, e);
            }
        }
    }
    return ok;
}

static bool search_all(Search *s, Plan *p, const Machine *m, Error *e) {
    size_t ranks = p->options.nodes * p->per_node;
    for (p->tp = 1; p->tp <= p->config.heads && p->tp <= ranks; p->tp++) {
        for (p->pp = 1; p->pp <= p->config.layers && p->tp * p->pp <= ranks; p->pp++) {
            p->dp = ranks / p->tp / p->pp;
            p->B = 1;
            bool possible = ranks % (p->tp * p->pp) == 0 && p->global_batch % p->dp == 0 &&
                            plan_check(p, &(Error){0});
            if (possible && !search_grid(s, p, m, e)) {
                return false;
            }
        }
    }
    return true;
}

static bool plan_search(Plan *p, Machine *m, Error *e) {
    Search s = {0};
    if (!m) {
        return fail(e, "plan --search needs --machine NAME: which memory, which speed");
    }
    p->global_batch = p->options.global_batch;
    if (!search_all(&s, p, m, e)) {
        return false;
    }
    if (s.count == 0) {
        return fail(e,
                    "none of %zu combinations fits into %.2f GiB a rank with a global batch of "
                    "%zu: more nodes, or "
                    "fewer ranks a node",
                    s.tried, memory_of_rank(p, m) / 0x1p30, p->global_batch);
    }
    if (!p->options.json) {
        printf(
            "%zu combinations, %zu fit into %.2f GiB a rank; the fastest, times modelled on %s:\n",
            s.tried, s.fitting, memory_of_rank(p, m) / 0x1p30, m->name);
        printf("  tp  pp    dp  micro-batch     recompute  zero     step s   bubble %%    GiB    "
               "tokens/s   MFU %%\n");
    }
    for (size_t i = 0; i < s.count; i++) {
        Plan *b = &s.best[i];
        if (!plan_make(b, m, e) || (p->options.json && !show_plan(b, m, e))) {
            plan_free(b);
            return false;
        }
        if (!p->options.json) {
            char recompute[32];
            uint64_t stages = b->options.recompute_stages;
            snprintf(recompute, sizeof recompute, stages ? "%s, 0-%llu" : "%s",
                     b->options.recompute, (unsigned long long)stages - 1);
            printf("%4zu%4zu%6zu%13zu  %12s%6d%11.4f%11.2f%7.2f%12.0f%8.2f\n", b->tp, b->pp, b->dp,
                   b->B, recompute, (int)b->options.zero, b->time.seconds,
                   100 * b->time.bubble / b->time.seconds,
                   plan_peak(b, m->base_memory.value) / 0x1p30, tokens_per_second(b),
                   100 * plan_mfu(b, m));
        }
        plan_free(b);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// plan --run: the plan of a run that has been, and what its log says

static bool log_number(const Json *object, const char *key, uint64_t most, size_t *value,
                       const char *path, Error *e) {
    uint64_t number;
    if (!json_uint(json_get(object, key), &number) || number > most) {
        return fail(e, "%s: its first line has no count \"%s\"", path, key);
    }
    *value = number;
    return true;
}

// The plan's shape, grid and options from the first line of a log.
static bool plan_from_log(Plan *p, const Json *run, const Options *o, const char *path, Error *e) {
    const Json *options = json_get(run, "options");
    ModelConfig *c = &p->config;
    size_t ranks, zero, stages, overlap, share;
    *p = (Plan){.options = *o};
    const struct {
        const Json *in;
        const char *key;
        uint64_t most;
        size_t *value;
    } counts[] = {{run, "layers", 10000, &c->layers},
                  {run, "channels", 1000000, &c->channels},
                  {run, "heads", 10000, &c->heads},
                  {run, "vocab_size", 100000000, &c->vocab_size},
                  {run, "positions", 10000000, &c->seq_len},
                  {run, "seq_len", 10000000, &p->T},
                  {run, "global_batch", 100000000, &p->global_batch},
                  {run, "ranks", PLAN_RANKS_MAX, &ranks},
                  {run, "ranks_per_node", PLAN_RANKS_MAX, &p->per_node},
                  {run, "threads", 1000000, &p->threads},
                  {run, "tp", 100000, &p->tp},
                  {run, "pp", 100000, &p->pp},
                  {run, "dp", PLAN_RANKS_MAX, &p->dp},
                  {options, "micro_batch", 1000000, &p->B},
                  {options, "zero", 1, &zero},
                  {options, "recompute_stages", 100000, &stages},
                  {options, "overlap", 1, &overlap},
                  {options, "share_memory", 1, &share}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        if (!log_number(counts[i].in, counts[i].key, counts[i].most, counts[i].value, path, e)) {
            return false;
        }
    }
    bool possible = c->layers && c->heads && c->channels && c->channels % c->heads == 0 &&
                    c->vocab_size && p->T && p->T <= c->seq_len && p->B && p->tp && p->pp &&
                    p->dp && p->per_node && p->threads && ranks == p->tp * p->pp * p->dp;
    if (!possible) {
        return fail(e, "%s: its first line does not describe a run that can be", path);
    }
    const char *recompute = json_string(json_get(options, "recompute"));
    const Json *reproducible = json_get(options, "reproducible");
    p->options.recompute = recompute && !strcmp(recompute, "layer") ? "layer" : "none";
    p->options.reproducible =
        reproducible && reproducible->kind == JSON_BOOL && reproducible->boolean;
    p->options.zero = zero, p->options.recompute_stages = stages, p->options.overlap = overlap;
    p->options.share_memory = share;
    p->options.micro_batch = p->B, p->options.global_batch = p->global_batch;
    return plan_check(p, e);
}

// The last line of a log, if it is the one that ends a run.
static bool log_end(const char *text, size_t length, const char *path, JsonDocument *document,
                    Error *e) {
    const char *end = memrchr(text, '\n', length),
               *line = end ? memrchr(text, '\n', (size_t)(end - text)) : NULL;
    if (!line) {
        return fail(e, "%s: has no whole line after the first: the run is not finished", path);
    }
    if (!json_parse(document, line + 1, (size_t)(end - line - 1), path, e)) {
        return false;
    }
    if (!json_get(document->root, "plan")) {
        json_free(document);
        return fail(e, "%s: its last line has no \"plan\": the run is not finished", path);
    }
    return true;
}

static void print_fact(const char *what, double planned, const Json *measured, double scale,
                       const char *unit) {
    double fact;
    if (json_double(measured, &fact) && fact > 0) {
        printf("%-28s planned %12.2f %s, measured %12.2f %s, %+.1f %%\n", what, planned / scale,
               unit, fact / scale, unit, 100 * (planned / fact - 1));
    } else {
        printf("%-28s planned %12.2f %s, not measured\n", what, planned / scale, unit);
    }
}

static bool plan_against_log(const Options *o, const char *directory, Machine *m, Error *e) {
    char path[PATH_LIMIT];
    size_t length = 0;
    Plan p = {0};
    JsonDocument run, end;
    char *text = path_format(path, e, "%s/log.jsonl", directory)
                     ? read_file(path, SIZE_MAX / 2, &length, e)
                     : NULL;
    const char *first = text ? memchr(text, '\n', length) : NULL;
    bool ok = text && (first || fail(e, "%s: has no first line", path)) &&
              json_parse(&run, text, (size_t)(first - text), path, e);
    bool parsed = ok;
    ok = ok && plan_from_log(&p, run.root, o, path, e) && log_end(text, length, path, &end, e);
    if (ok) {
        ok = plan_make(&p, m, e);
        const Json *fact = json_get(end.root, "plan");
        double base = 0;
        json_double(json_get(fact, "base_bytes"), &base);
        if (ok) {
            printf("grid: tp %zu x pp %zu x dp %zu, micro-batch %zu, %zu micro-batches, recompute "
                   "%s, zero %d\n",
                   p.tp, p.pp, p.dp, p.B, p.micro_batches, p.options.recompute,
                   (int)p.options.zero);
            print_fact("peak memory, largest rank", plan_peak(&p, m ? m->base_memory.value : base),
                       json_get(fact, "measured_bytes"), 0x1p20, "MiB");
            if (p.timed) {
                print_fact("step", 1e3 * p.time.seconds, json_get(fact, "measured_step_ms"), 1,
                           "ms ");
            } else {
                printf("no planned time: it needs --machine\n");
            }
        }
        json_free(&end);
    }
    if (parsed) {
        json_free(&run);
    }
    plan_free(&p);
    free(text);
    return ok;
}

static bool plan_against_logs(const Options *o, Machine *m, Error *e) {
    bool ok = true;
    for (size_t i = 0; ok && i < o->run.count; i++) {
        if (o->run.count > 1) {
            printf("%s\n", o->run.items[i]);
        }
        ok = plan_against_log(o, o->run.items[i], m, e);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// plan --measure: the figures of the machine that the ranks were started on. All ranks measure at
// once, as in a run.

enum { MEASURE_RUNS = 3 };

// Collective: the largest of all ranks' values.
static double largest_of_all(double x) {
    MPI_Allreduce(MPI_IN_PLACE, &x, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return x;
}

// Collective: seconds of one block and of the classifier, forward and backward, at the model's
// shapes, without waiting for the other slices: the best of some runs of the slowest rank. t: one
// layer of the model.
static double measure_block(Trainer *t, double *classifier) {
    const Model *m = &t->model;
    Activations *a = &t->workspace.sets[0];
    BackwardScratch *d = &t->workspace.backward;
    double best = INFINITY;
    *classifier = INFINITY;
    for (int run = 0; run < MEASURE_RUNS; run++) {
        MPI_Barrier(MPI_COMM_WORLD);
        t->world->comm_seconds = 0;
        double start = seconds_now();
        layer_forward(m, t->world, &m->weights.layers[0], &a->layers[0], a->stream, 0, t->B, t->T,
                      false);
        layer_backward(m, t->world, &m->weights.layers[0], &t->reducer.dweights.layers[0],
                       &a->layers[0], d, a->stream, t->B, t->T);
        double middle = seconds_now() - t->world->comm_seconds;
        classify(m, t->world, a, &t->workspace.classifier, d->branch, t->reducer.dweights.wte,
                 t->targets, 1, t->B * t->T);
        double end = seconds_now() - t->world->comm_seconds;
        best = fmin(best, largest_of_all(middle - start));
        *classifier = fmin(*classifier, largest_of_all(end - middle));
    }
    return best;
}

// Collective: how much of a sum over all ranks is hidden behind the backward pass of a block, of
// what could be.
static double measure_overlap(Trainer *t, World *all) {
    enum { ELEMENTS = 1 << 21, SUMS = 4 };
    const Model *m = &t->model;
    Activations *a = &t->workspace.sets[0];
    float *x = allocate_floats((size_t)SUMS * ELEMENTS);
    double seconds[3] = {INFINITY, INFINITY, INFINITY}; // the sums, the block, both
    for (int run = 0; x && run < 3 * MEASURE_RUNS; run++) {
        MPI_Request sums[SUMS];
        int what = run % 3;
        MPI_Barrier(MPI_COMM_WORLD);
        double start = seconds_now();
        for (int i = 0; what != 1 && i < SUMS; i++) {
            MPI_Iallreduce(MPI_IN_PLACE, x + (size_t)i * ELEMENTS, ELEMENTS, MPI_FLOAT, MPI_SUM,
                           MPI_COMM_WORLD, &sums[i]);
        }
        if (what > 0) {
            layer_backward(m, t->world, &m->weights.layers[0], &t->reducer.dweights.layers[0],
                           &a->layers[0], &t->workspace.backward, a->stream, t->B, t->T);
        }
        for (int i = 0; what != 1 && i < SUMS; i++) {
            message_wait(all, &sums[i]);
        }
        seconds[what] = fmin(seconds[what], largest_of_all(seconds_now() - start));
    }
    free(x);
    double hidden = (seconds[0] + seconds[1] - seconds[2]) / fmin(seconds[0], seconds[1]);
    return x && hidden > 0 ? fmin(hidden, 1) : 0;
}

// Collective: bytes of the process before it has arrays, when its threads and MPI's ways to all
// ranks are there.
static double measure_base(World *w) {
    enum { ELEMENTS = 1 << 14 };
    float x[ELEMENTS] = {0};
    all_reduce_floats_(w, MPI_COMM_WORLD, x, ELEMENTS);
    return largest_of_all((double)process_memory("VmRSS"));
}

// Collective: bytes a second of AdamW on arrays that no cache holds, on this rank.
static double measure_adamw(const Kernels *k) {
    enum { ELEMENTS = 1 << 24 };
    float *x = allocate_floats((size_t)4 * ELEMENTS);
    double best = INFINITY;
    for (int run = 0; x && run < MEASURE_RUNS; run++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = seconds_now();
        k->adamw(x, x + ELEMENTS, x + (size_t)2 * ELEMENTS, x + (size_t)3 * ELEMENTS, ELEMENTS, 1,
                 1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 1);
        best = fmin(best, seconds_now() - start);
    }
    free(x);
    return 28.0 * ELEMENTS / best;
}

typedef struct {
    size_t bytes;
    double seconds;
} SumTiming;

enum { SUM_SIZES = 8, SMALLEST_SUM = 1 << 10 }; // 1 KiB, 4 KiB, ... 16 MiB

// Collective: times of sums over a communicator by their size, of the slowest rank.
static bool measure_sums(World *w, MPI_Comm comm, SumTiming timings[SUM_SIZES]) {
    size_t largest = (size_t)SMALLEST_SUM << 2 * (SUM_SIZES - 1);
    float *x = allocate_floats(largest / sizeof *x);
    for (size_t i = 0; x && i < SUM_SIZES; i++) {
        timings[i] = (SumTiming){(size_t)SMALLEST_SUM << 2 * i, INFINITY};
        for (int run = 0; run < 4 * MEASURE_RUNS; run++) {
            MPI_Barrier(MPI_COMM_WORLD);
            double start = seconds_now();
            all_reduce_floats_(w, comm, x, timings[i].bytes / sizeof *x);
            timings[i].seconds = fmin(timings[i].seconds, largest_of_all(seconds_now() - start));
        }
    }
    free(x);
    return x != NULL;
}

// The latency and bandwidth that fit the times of sums over `ranks` ranks best, in squares of
// relative differences. Returns the largest of these.
static double fit_link(const SumTiming timings[SUM_SIZES], size_t ranks, Link *link) {
    double aa = 0, ab = 0, bb = 0, a1 = 0, b1 = 0, worst = 0;
    for (size_t i = 0; i < SUM_SIZES; i++) {
        double a = 2 * steps_of_(ranks) / timings[i].seconds;
        double b = 2 * gather_sent(ranks, (double)timings[i].bytes) / timings[i].seconds;
        aa += a * a, ab += a * b, bb += b * b, a1 += a, b1 += b;
    }
    double determinant = aa * bb - ab * ab, latency = (a1 * bb - b1 * ab) / determinant;
    latency = latency > 0 ? latency : 0;
    *link = (Link){latency, bb / fmax(b1 - ab * latency, 1e-30 * bb)};
    for (size_t i = 0; i < SUM_SIZES; i++) {
        double model = sum_seconds(*link, ranks, (double)timings[i].bytes);
        worst = fmax(worst, fabs(model / timings[i].seconds - 1));
    }
    return worst;
}

static void write_sums(JsonWriter *json, const char *key, const SumTiming timings[SUM_SIZES],
                       size_t ranks, Link link) {
    json_open(json, key, '[');
    for (size_t i = 0; i < SUM_SIZES; i++) {
        json_open(json, NULL, '{');
        json_put_uint(json, "ranks", ranks);
        json_put_uint(json, "bytes", timings[i].bytes);
        json_put_double(json, "seconds", timings[i].seconds);
        json_put_double(json, "model_seconds", sum_seconds(link, ranks, (double)timings[i].bytes));
        json_close(json, '}');
    }
    json_close(json, ']');
}

// Rank 0: times of the products of a block at the model's shapes; the other ranks wait. One line,
// one object each.
static bool measure_products(JsonWriter *json, const Plan *p, double peak_of_rank, Error *e) {
    size_t S = p->config.channels / p->tp, C = p->config.channels;
    const struct {
        const char *name;
        size_t from, to;
    } products[] = {{"qkv", C, 3 * S},
                    {"attention's output", S, C},
                    {"mlp, first", C, 4 * S},
                    {"mlp, second", 4 * S, C}};
    json_open(json, "gemm", '[');
    for (size_t i = 0; i < PROBES; i++) {
        const char *name = probes[i].name;
        bool product = !strcmp(name, "matmul_forward") || !strcmp(name, "matmul_backward_input") ||
                       !strcmp(name, "matmul_backward_weight");
        for (size_t j = 0; product && j < sizeof products / sizeof *products; j++) {
            const Shape s = {p->B, p->T, products[j].from, 1, 1, products[j].to};
            ProbeArrays arrays;
            if (!probe_create(&arrays, &probes[i], &s, FILL_PLAIN, e)) {
                return false;
            }
            double seconds = probe_seconds(&probes[i], &kernels_sve, &arrays, &s);
            double rate = 2.0 * (double)(p->B * p->T) * (double)s.C * (double)s.O / seconds;
            printf("  %-24s %-20s %5zu x %5zu x %5zu %9.3f ms %8.1f GFLOP/s %5.1f %% of peak\n",
                   name, products[j].name, p->B * p->T, s.C, s.O, 1e3 * seconds, 1e-9 * rate,
                   100 * rate / peak_of_rank);
            probe_free(&arrays);
            json_open(json, NULL, '{');
            json_put_string(json, "kernel", name);
            json_put_string(json, "product", products[j].name);
            json_put_uint(json, "rows", p->B * p->T);
            json_put_uint(json, "from", s.C);
            json_put_uint(json, "to", s.O);
            json_put_double(json, "flops", rate);
            json_close(json, '}');
        }
    }
    json_close(json, ']');
    return true;
}

static void set_figure(Figure *f, double value, const char *from) {
    f->value = value;
    snprintf(f->from, sizeof f->from, "%s", from);
}

// Collective: arithmetic, memory and overlap, on one layer of the model.
static bool measure_node(World *w, const Plan *p, Machine *m, size_t nodes, Error *e) {
    World mine = *w; // its replicas do not exchange anything
    mine.grid.dp = 1, mine.grid.dp_rank = 0;
    Options o = p->options;
    o.zero = 0, o.recompute = "none", o.reproducible = false;
    Trainer t = {.options = &o, .world = &mine, .T = p->T, .B = p->B, .global_batch = p->B};
    ModelConfig one = p->config;
    one.layers = 1;
    double peak = measure_peak_flops(MPI_COMM_WORLD), base = measure_base(w),
           bandwidth = measure_adamw(&kernels_sve), classifier;
    MPI_Allreduce(MPI_IN_PLACE, &bandwidth, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    if (!world_check(w, training_allocate(&t, &one, choose_kernels(o.kernels), e), e)) {
        training_free(&t);
        return false;
    }
    model_initialize(&t.model, 1, 0.02f, t.views);
    double block = measure_block(&t, &classifier),
           overlap = w->size > 1 ? measure_overlap(&t, w) : 0;
    double L = (double)p->config.layers;
    StageLoad load = {0};
    const Machine unit = {
        .peak_flops.value = 1, .efficiency.value = 1, .memory_bandwidth.value = 1};
    plan_compute(p, &t, &unit, &load); // of one layer and the classifier
    double head =
        6 * (double)(p->B * p->T * p->config.channels) * (double)t.model.shard.vocab.count;
    double body = load.forward_flops + load.backward_flops - head;
    training_free(&t);
    double share = (L * body + head) / (L * block + classifier) / (peak / (double)w->size);
    set_figure(&m->peak_flops, peak / (double)nodes,
               "measured: the tile of the matrix product on data in L1");
    char text[192];
    snprintf(text, sizeof text,
             "measured: block and classifier, forward and backward, %zu channels, micro-batch %zu "
             "x %zu, tp %zu",
             p->config.channels, p->B, p->T, p->tp);
    set_figure(&m->efficiency, fmax(fmin(share, 1), 1e-6), text);
    set_figure(&m->memory_bandwidth, bandwidth / (double)nodes,
               "measured: AdamW on arrays of 64 MiB");
    set_figure(&m->base_memory, base,
               "measured: the process before its arrays, with threads and a sum over all ranks");
    set_figure(&m->overlap, overlap,
               w->size > 1 ? "measured: sums of 8 MiB behind the backward pass of a block"
                           : "not measured: one rank has no messages");
    if (w->rank == 0) {
        printf("block: forward and backward %.3f ms, classifier %.3f ms: %.1f %% of the peak of "
               "%.1f GFLOP/s a rank\n",
               1e3 * block, 1e3 * classifier, 100 * share, 1e-9 * peak / w->size);
    }

    return true;
}

// Collective: sums inside a node, then between the ranks of equal number on all nodes, all of them
// at once.
static bool measure_network(World *w, Machine *m, JsonWriter *json, size_t nodes, Error *e) {
    SumTiming timings[SUM_SIZES];
    Link inside = {0, 1e18}, between = {0, 1e18};
    MPI_Comm across;
    char text[192];
    bool ok = true;
    MPI_Comm_split(MPI_COMM_WORLD, w->node_rank, w->rank, &across);
    if (w->node_size > 1 && (ok = measure_sums(w, w->node, timings))) {
        double off = fit_link(timings, (size_t)w->node_size, &inside);
        snprintf(text, sizeof text,
                 "measured: sums of 1 KiB to 16 MiB over %d ranks of a node, fitted within %.0f %%",
                 w->node_size, 100 * off);
        write_sums(json, "sums_inside", timings, (size_t)w->node_size, inside);
    } else {
        snprintf(text, sizeof text, "not measured: one rank a node");
    }
    set_figure(&m->node_latency, inside.latency, text);
    set_figure(&m->node_bandwidth, inside.bandwidth, text);
    if (ok && nodes > 1 && (ok = measure_sums(w, across, timings))) {
        double off = fit_link(timings, nodes, &between);
        snprintf(
            text, sizeof text,
            "measured: sums of 1 KiB to 16 MiB over %zu nodes, %d at once, fitted within %.0f %%",
            nodes, w->node_size, 100 * off);
        write_sums(json, "sums_between", timings, nodes, between);
    } else {
        between = inside;
        snprintf(text, sizeof text, "not measured: one node was started; as inside it");
    }
    MPI_Comm_free(&across);
    set_figure(&m->latency, between.latency, text);
    set_figure(&m->bandwidth, fmin(between.bandwidth, 1e18), text);
    set_figure(&m->injection, fmin(between.bandwidth * w->node_size, 1e18), text);
    set_figure(&m->links, 1, "all that the sums reached is in the bandwidth");
    if (w->rank == 0) {
        printf("sums inside a node: %.3g us a step, %.3g GB/s; between nodes: %.3g us, %.3g GB/s\n",
               1e6 * inside.latency, 1e-9 * inside.bandwidth, 1e6 * between.latency,
               1e-9 * between.bandwidth);
    }
    return world_check(w, ok || fail(e, "no memory to measure sums"), e);
}

// Collective: measures, prints, and on rank 0 writes the machine file --out.
static bool plan_measure(World *w, const Options *o) {
    Error e = {0};
    Plan p;
    Machine m = {0};
    JsonWriter json = {.indent = 2}, tables = {.indent = 2};
    int nodes = w->node_rank == 0;
    MPI_Allreduce(MPI_IN_PLACE, &nodes, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    Options planned = *o;
    planned.nodes = (uint64_t)nodes, planned.ranks_per_node = (uint64_t)(w->size / nodes),
    planned.pp = 1;
    planned.global_batch = 0;
    bool ok = (o->out || fail(&e, "plan --measure needs --out FILE")) &&
              world_make_grid(w, o->tp, 1, &e) && plan_from_options(&p, &planned, NULL, &e);
    if (!world_check(w, ok, &e)) {
        return false;
    }
    Placement placement = world_place(w, o->bind);
    gethostname(m.name, sizeof m.name - 1);
    set_figure(&m.cores, fmax(1, (double)placement.threads * w->node_size),
               "threads of the ranks started on a node");
    set_figure(&m.ranks_per_node, w->node_size, "as started");
    set_figure(&m.memory, (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE),
               "all that the system has");
    json_open(&tables, NULL, '{');
    ok = measure_node(w, &p, &m, (size_t)nodes, &e) &&
         measure_network(w, &m, &tables, (size_t)nodes, &e);
    ok = ok &&
         world_check_root(w,
                          w->rank != 0 ||
                              measure_products(&tables, &p, m.peak_flops.value / w->node_size, &e),
                          &e);
    if (ok && w->rank == 0) {
        OutputFile file;
        char hash[65];
        json_close(&tables, '}');
        json_open(&json, NULL, '{');
        machine_write(&json, &m);
        json_close(&json, '}');
        // the tables behind the figures follow them in one object
        json.length -= 2;
        json_append(&json, ",", 1);
        json_append(&json, tables.data + 1, tables.length - 1);
        json_append(&json, "\n", 1);
        ok = !json.failed && !tables.failed;
        ok = ok ? output_open(&file, o->out, &e) : fail(&e, "no memory for %s", o->out);
        if (ok) {
            ok = output_write(&file, json.data, json.length, &e);
            ok = output_close(&file, hash, ok ? &e : &(Error){0}) && ok;
        }
        if (ok) {
            printf("wrote %s: give it to plan and train as --machine %s\n", o->out, o->out);
        }
    }
    free(json.data);
    free(tables.data);
    return world_check_root(w, ok, &e);
}

static int command_plan(World *w, const Options *o) {
    Error e = {0};
    Machine m;
    if (o->measure) {
        return plan_measure(w, o) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    bool ok = true, usable = true;
    if (w->rank == 0) {
        Plan p = {0};
        ok = !o->machine || machine_load(&m, o->machine, &e);
        Machine *machine = o->machine ? &m : NULL;
        if (ok && machine && o->efficiency > 0) {
            set_figure(&m.efficiency, o->efficiency, "stated: --efficiency");
        }
        usable = ok && (o->run.count > 0 || plan_from_options(&p, o, machine, &e));
        ok = usable && (o->run.count > 0 ? plan_against_logs(o, machine, &e)
                        : o->search      ? plan_search(&p, machine, &e)
                                    : plan_make(&p, machine, &e) && show_plan(&p, machine, &e));
        plan_free(&p);
    }
    ok = world_check_root(w, ok, &e);
    return ok ? EXIT_SUCCESS : usable ? EXIT_FAILURE : EXIT_USAGE;
}

// =================================================================================================
// The command line

static const struct {
    const char *name, *does, *example;
    unsigned bit;
    int (*run)(World *w, const Options *o);
} commands[] = {
    {"prepare", "text to token shards, with provenance; trains a tokenizer or takes one",
     "train_gpt prepare --input books/ --out data --vocab-size 32000", PREPARE, command_prepare},
    {"train", "trains a model, or goes on with a run",
     "mpirun -n 4 train_gpt train --data data --out run --model 124m", TRAIN, command_train},
    {"eval", "loss and perplexity of a checkpoint on validation data",
     "train_gpt eval --checkpoint run/step-001000 --data data", EVAL, command_eval},
    {"generate", "text that goes on from a prompt",
     "train_gpt generate --checkpoint run/step-001000 --prompt \"Once upon a time\"", GENERATE,
     command_generate},
    {"trace",
     "from a step to its documents, from a document to its steps, from a text to the data that "
     "holds it",
     "train_gpt trace --run run --step 1000 --row 0", TRACE, command_trace},
    {"kernels", "compares the fast kernels with the reference, times them, certifies a machine",
     "train_gpt kernels --check", KERNELS, command_kernels},
    {"plan",
     "memory, messages and time of a run before it is submitted; measures a machine for that",
     "train_gpt plan --search --model 13b --nodes 288 --machine fugaku --global-batch 1152",
     PLAN | TRAIN, command_plan},
    {"report", "one HTML page with the charts of one or more runs",
     "train_gpt report --run run --out run.html", REPORT, command_report},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_option(const OptionSpec *spec) {
    char name[48], left[96], preset[64] = "";
    snprintf(left, sizeof left, "%s %s", option_spelling(spec, name), spec->value);
    if (spec->type == OPTION_WHOLE && spec->whole && spec->whole != UINT64_MAX) {
        snprintf(preset, sizeof preset, " (default %llu)", (unsigned long long)spec->whole);
    } else if (spec->type == OPTION_REAL) {
        snprintf(preset, sizeof preset, " (default %g)", spec->real);
    } else if (spec->type == OPTION_TEXT && spec->text && *spec->text) {
        snprintf(preset, sizeof preset, " (default %s)", spec->text);
    }
    printf("  %-38s %s%s\n", left, spec->help, preset);
}

static const char exit_statuses[] = "Exit status: 0 done, 1 failed, 2 wrong command line, 100 "
                                    "train stopped ahead of its step count (a signal,\n"
                                    "--time-limit) with a checkpoint: the same command goes on.";

static void print_help(size_t command) {
    printf("train_gpt %s: %s\n\n    %s\n\n", commands[command].name, commands[command].does,
           commands[command].example);
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (option_specs[i].commands & commands[command].bit) {
            print_option(&option_specs[i]);
        }
    }
    printf("\n%s\n", exit_statuses);
}

static void print_commands(void) {
    printf("train_gpt trains GPT-2 family language models on CPUs.\n\n");
    for (size_t i = 0; i < COMMANDS; i++) {
        printf("  %-10s %s\n", commands[i].name, commands[i].does);
    }
    printf("  %-10s %s\n\n", "help", "options of a command: train_gpt help COMMAND");
    printf("Distributed: mpirun -n RANKS train_gpt train ...; threads of a rank: "
           "OMP_NUM_THREADS.\n%s\n",
           exit_statuses);
}

static void set_defaults(Options *o) {
    *o = (Options){0};
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const OptionSpec *spec = &option_specs[i];
        if (spec->type == OPTION_TEXT) {
            memcpy(option_field(o, spec), &spec->text, sizeof spec->text);
        } else if (spec->type == OPTION_WHOLE) {
            memcpy(option_field(o, spec), &spec->whole, sizeof spec->whole);
        } else if (spec->type == OPTION_REAL) {
            memcpy(option_field(o, spec), &spec->real, sizeof spec->real);
        }
    }
}

// A value in lower case in the table is the list of words that the option takes: "auto|none".
static bool is_allowed_word(const OptionSpec *spec, const char *text) {
    size_t n = strlen(text);
    if (spec->value[0] < 'a') {
        return true;
    }
    for (const char *word = spec->value; word; word = strchr(word, '|')) {
        word += *word == '|';
        if (!strncmp(word, text, n) && (word[n] == 0 || word[n] == '|')) {
            return true;
        }
    }
    return false;
}

static bool set_option(Options *o, const OptionSpec *spec, const char *text, Error *e) {
    char name[48], *end;
    option_spelling(spec, name);
    errno = 0;
    if (spec->type == OPTION_WHOLE) {
        uint64_t value = strtoull(text, &end, 10);
        if (*text < '0' || *text > '9' || *end || errno || value < spec->whole_min ||
            value > spec->whole_max) {
            return fail(e, "%s %s: must be a whole number from %llu to %llu", name, text,
                        (unsigned long long)spec->whole_min, (unsigned long long)spec->whole_max);
        }
        memcpy(option_field(o, spec), &value, sizeof value);
    } else if (spec->type == OPTION_REAL) {
        double value = strtod(text, &end);
        if (!*text || *end || !(value >= spec->real_min && value <= spec->real_max)) {
            return fail(e, "%s %s: must be a number from %g to %g", name, text, spec->real_min,
                        spec->real_max);
        }
        memcpy(option_field(o, spec), &value, sizeof value);
    } else {
        if (!is_allowed_word(spec, text)) {
            return fail(e, "%s %s: must be %s", name, text, spec->value);
        }
        memcpy(option_field(o, spec), &text, sizeof text);
    }
    return true;
}

// The option that `argument` names, before a '=' if there is one; NULL if the command has none of
// that name.
static const OptionSpec *find_option(const char *argument, unsigned command) {
    size_t length = strcspn(argument, "=");
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        char name[48];
        option_spelling(&option_specs[i], name);
        if ((option_specs[i].commands & command) && strlen(name) == length &&
            !strncmp(name, argument, length)) {
            return &option_specs[i];
        }
    }
    return NULL;
}

// Fills `o` from argv[2...]: --option value, --option=value; a list takes all arguments up to the
// next option.
static bool parse_options(Options *o, int argc, char **argv, size_t command, Error *e) {
    bool given[OPTION_COUNT] = {false};
    set_defaults(o);
    o->argc = argc;
    o->argv = argv;
    for (int i = 2; i < argc;) {
        const char *argument = argv[i++], *equals = strchr(argument, '=');
        const OptionSpec *spec = find_option(argument, commands[command].bit);
        if (!spec) {
            return fail(e, "%s: unknown option; `train_gpt help %s` lists them", argument,
                        commands[command].name);
        }
        if (given[spec - option_specs]) {
            return fail(e, "%s: given twice", argument);
        }
        given[spec - option_specs] = true;
        if (spec->type == OPTION_FLAG && !equals) {
            memcpy(option_field(o, spec), &(bool){true}, sizeof(bool));
            continue;
        } else if (spec->type == OPTION_FLAG) {
            return fail(e, "%s: takes no value", argument);
        }
        if (spec->type == OPTION_LIST) {
            TextList list = {(const char **)argv + i, 0};
            for (; !equals && i < argc && strncmp(argv[i], "--", 2); i++) {
                list.count++;
            }
            if (equals) { // a list of one that is not in argv, which stays as it was given
                static const char *values[OPTION_COUNT];
                list = (TextList){&values[spec - option_specs], 1};
                list.items[0] = equals + 1;
            }
            memcpy(option_field(o, spec), &list, sizeof list);
        } else if (!equals && i == argc) {
            return fail(e, "%s: needs a value, %s", argument, spec->value);
        } else if (!set_option(o, spec, equals ? equals + 1 : argv[i++], e)) {
            return false;
        }
    }
    return true;
}

// Index of a command, COMMANDS if there is none of that name.
static size_t find_command(const char *name) {
    size_t i = 0;
    while (i < COMMANDS && strcmp(commands[i].name, name)) {
        i++;
    }
    return i;
}

static int run_command_line(World *w, int argc, char **argv) {
    Options o;
    Error e = {0};
    bool help = argc > 1 && (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help"));
    const char *name = help ? (argc > 2 ? argv[2] : NULL) : argc > 1 ? argv[1] : "";
    size_t command = name ? find_command(name) : COMMANDS;
    bool ok = !name || command < COMMANDS ||
              fail(&e,
                   "%s%s: the commands are prepare, train, eval, generate, trace, kernels, plan, "
                   "report, and help",
                   *name ? "unknown command " : "no command", name);
    if (!help && ok) {
        ok = parse_options(&o, argc, argv, command, &e);
    }
    if (!world_check(w, ok, &e)) {
        return EXIT_USAGE;
    }
    if (!help) {
        return commands[command].run(w, &o);
    }
    if (w->rank == 0) {
        name ? print_help(command) : print_commands();
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    World world;
    flush_denormals(); // before any thread is started
    world_init(&world, &argc, &argv);
    setvbuf(stdout, NULL, _IOLBF, 0); // a line a step, also into a pipe
    int status = run_command_line(&world, argc, argv);
    world_finalize(&world);
    return status;
}
