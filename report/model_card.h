// model_card.h: the model card of a checkpoint, its README.md as the Hugging Face hub shows it:
// YAML front matter between two ---, then Markdown. Only the section "Hardware and time" differs
// between two runs that compute the same.
#ifndef REPORT_MODEL_CARD_H
#define REPORT_MODEL_CARD_H

#include "model/config.h"
#include "report/data_origin.h"
#include "report/run_log.h"

// What a card is made from.
typedef struct {
    const RunLog *log;
    const ModelConfig *config;
    const Json *run;         // describes the run as it is now, like the log's first line
    DataManifest *manifests; // (datasets)
    size_t datasets;
} CardSources_;

// ------------------------------------------------------------------------------------------------
// Front matter

// Languages that are named by a code of two or three letters, the most frequent first.
static inline void card_languages_(TextBuffer *w, Facet *language) {
    enum { LANGUAGES_MAX = 100 };
    const char *key = "language:\n";
    facet_sort(language);
    for (size_t i = 0; i < language->count && i < LANGUAGES_MAX; i++) {
        const char *code = language->items[i].value;
        size_t length = strlen(code);
        if ((length == 2 || length == 3) && strspn(code, "abcdefghijklmnopqrstuvwxyz") == length) {
            text_format(w, "%s- %s\n", key, code);
            key = "";
        }
    }
}

// The license, if the hub knows its identifier.
static inline void card_license_(TextBuffer *w, const char *license) {
    static const char *const known[] = {
        "apache-2.0",      "mit",          "cc0-1.0",      "cc-by-3.0",
        "cc-by-4.0",       "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "odc-by",       "gpl-2.0",
        "gpl-3.0",         "lgpl-2.1",     "lgpl-3.0",     "bsd-2-clause",
        "bsd-3-clause",    "unlicense",    "pddl",         NULL};
    char name[32];
    snprintf(name, sizeof name, "%s", license);
    for (char *c = name; *c; c++) {
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c;
    }
    if (is_one_of(name, known)) {
        text_format(w, "license: %s\n", name);
    }
}

// The license is stated only if all documents have one and the same.
static inline void card_front_matter_(TextBuffer *w, const CardSources_ *c) {
    Facet license = {0}, language = {0};
    uint64_t documents = 0;
    bool all_known = c->datasets > 0;
    for (size_t i = 0; i < c->datasets; i++) {
        const Manifest *m = &c->manifests[i].manifest;
        all_known &= m->source_count > 0;
        for (size_t j = 0; j < m->source_count; j++) {
            const Json *origin = m->sources[j].origin;
            documents += m->sources[j].documents;
            w->failed |= !facet_add(&license, origin, FACET_KEYS[FACET_LICENSE]) ||
                         !facet_add(&language, origin, FACET_KEYS[FACET_LANGUAGE]);
        }
    }

    text_format(w, "---\nlibrary_name: transformers\npipeline_tag: text-generation\n");
    card_languages_(w, &language);
    if (all_known && license.count == 1 && license.items[0].documents == documents) {
        card_license_(w, license.items[0].value);
    }
    text_format(w, "tags:\n- %s\n- train_gpt\n---\n", c->config->family->model_type);
    free(license.items);
    free(language.items);
}

// ------------------------------------------------------------------------------------------------
// Sections

// Behind the name, the second cell of a row.
static inline void card_cell_(TextBuffer *w, const char *value) {
    markdown_between(w, " | ", value, " |\n");
}

static inline void card_row_(TextBuffer *w, const char *name, const char *value) {
    text_format(w, "| %s", name);
    card_cell_(w, value);
}

static inline void card_number_(TextBuffer *w, const char *name, uint64_t value) {
    text_format(w, "| %s | %s |\n", name, number_grouped(value).text);
}

// A row with a value of the run's description; none if it is null or no scalar.
static inline void card_value_(TextBuffer *w, const char *name, const Json *value) {
    if (value && value->kind != JSON_NULL && is_scalar(value)) {
        card_row_(w, name, scalar_text(value));
    }
}

static inline void card_blocks_of_gpt2_(TextBuffer *w, const ModelConfig *c) {
    static const char *const activations[] = {"GELU (tanh approximation)", "GELU", "ReLU"};
    text_format(w, "learned position embeddings, pre-LayerNorm blocks, %s",
                activations[c->activation]);
}

static inline void card_blocks_of_llama_(TextBuffer *w, const ModelConfig *c) {
    text_format(w, "rotary position embedding (theta %g", c->rope.theta);
    if (c->rope.factor != 1) {
        text_format(w, ", Llama 3 scaling by %g", c->rope.factor);
    }
    text_format(w, "), pre-RMSNorm blocks, SwiGLU%s%s",
                c->kv_heads < c->heads ? ", grouped-query attention" : "",
                c->qk_norm ? ", RMSNorm of queries and keys" : "");
}

static inline void card_architecture_(TextBuffer *w, const Json *run, const ModelConfig *c) {
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {{"parameters", json_uint_or(json_get(run, "parameters"), 0)},
                {"layers", c->layers},
                {"channels", c->channels},
                {"attention heads", c->heads},
                {"key-value heads", c->kv_heads},
                {"channels of a head", c->head_dim},
                {"hidden channels of the MLP", c->mlp_channels},
                {"vocabulary size", c->vocab_size},
                {"positions", c->seq_len},
                {"training sequence length (tokens)", json_uint_or(json_get(run, "seq_len"), 0)}};
    const char *init = json_string(json_get(json_get(run, "options"), "init"));

    text_format(w, "# %s language model, %s parameters\n\n", c->family->title,
                number_grouped(rows[0].value).text);
    markdown_between(w, "Trained with train_gpt from ", init ? init : "random initial weights", "");
    text_format(w,
                ". Base model for text completion; not instruction-tuned.\n\n"
                "## Architecture\n\nDecoder-only transformer (%s, %s): ",
                c->family->title, c->family->class_name);
    if (c->family->block == BLOCK_GPT2) {
        card_blocks_of_gpt2_(w, c);
    } else {
        card_blocks_of_llama_(w, c);
    }
    text_format(w, ", output head %s the token embedding, no dropout.\n\n| | |\n| --- | --- |\n",
                c->tied ? "tied to" : "separate from");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        card_number_(w, rows[i].name, rows[i].value);
    }
    text_format(w, "\n");
}

static inline void card_training_(TextBuffer *w, const RunLog *r, const Json *run) {
    // Options that say only where files are or when something is written, or that have rows
    // elsewhere.
    static const char *const left_out[] = {
        "data",         "val_data",   "out",         "resume",    "model",
        "layers",       "heads",      "channels",    "seq_len",   "vocab_size",
        "global_batch", "eval_every", "save_every",  "keep",      "verify_data",
        "kernels",      "steps",      "micro_batch", "precision", NULL};
    const Json *options = json_get(run, "options");
    const char *precision = json_string(json_get(options, "precision"));
    text_format(w, "## Training\n\n| | |\n| --- | --- |\n| training steps | %s of %s |\n",
                number_grouped(r->last_step).text,
                number_grouped(json_uint_or(json_get(options, "steps"), 0)).text);
    card_number_(w, "tokens seen", r->tokens);
    text_format(w, "| tokens seen per parameter | %.2f |\n",
                (double)r->tokens / json_double_or(json_get(run, "parameters"), NAN));
    card_value_(w, "global batch (sequences)", json_get(run, "global_batch"));
    card_value_(w, "sequence length (tokens)", json_get(run, "seq_len"));
    card_number_(w, "skipped steps (loss or gradient not finite)", r->skipped.count);
    card_row_(w, "optimizer", "AdamW; weight decay on matrices, not on vectors");
    card_row_(w, "precision",
              precision && !strcmp(precision, "fp16")
                  ? "float32; matrix products in block-scaled float16"
                  : "float32");
    for (const Json *m = options && options->kind == JSON_OBJECT ? options->child : NULL; m;
         m = m->next) {
        if (!is_one_of(m->key, left_out) && is_scalar(m) && m->kind != JSON_NULL) {
            markdown_between(w, "| ", m->key, "");
            card_cell_(w, scalar_text(m));
        }
    }
    text_format(w, "\n");
}

// Training loss in ten rows of equally many steps.
static inline void card_training_loss_(TextBuffer *w, const Curve *c) {
    enum { ROWS = 10 };
    size_t rows = c->count < ROWS ? c->count : ROWS;
    if (rows > 0) {
        text_format(w, "| steps | mean training loss |\n| --- | ---: |\n");
    }
    for (size_t i = 0; i < rows; i++) {
        size_t from = c->count * i / rows, to = c->count * (i + 1) / rows;
        text_format(w, "| %.0f to %.0f | %.4f |\n", c->buckets[from].x_from,
                    to < c->count ? c->buckets[to].x_from - 1 : c->last.x, curve_mean(c, from, to));
    }
    text_format(w, "\n");
}

// The last evals in ten rows: mean loss and perplexity, and a column per dataset if they are few.
static inline void card_evals_(TextBuffer *w, const RunLog *r) {
    enum { ROWS = 10, COLUMNS = 8 };
    size_t evals = r->val_loss.count, datasets = r->val_count <= COLUMNS ? r->val_count : 0;
    text_format(w, "| step | validation loss | perplexity |");
    for (size_t s = 0; s < datasets; s++) {
        markdown_between(w, " ", r->val[s].name, " |");
    }
    text_format(w, "\n| ---: | ---: | ---: |");
    for (size_t s = 0; s < datasets; s++) {
        text_format(w, " ---: |");
    }
    text_format(w, "\n");

    for (size_t i = evals > ROWS ? evals - ROWS : 0; i < evals; i++) {
        const CurveBucket *b = &r->val_loss.buckets[i];
        double loss = curve_mean(&r->val_loss, i, i + 1);
        text_format(w, "| %.0f | %.4f | %.2f |", b->sum.x / (double)b->count, loss, exp(loss));
        for (size_t s = 0; s < datasets; s++) {
            const Curve *own = &r->val[s].curve;
            if (own->count == evals) {
                text_format(w, " %.4f |", curve_mean(own, i, i + 1));
            } else {
                text_format(w, " |");
            }
        }
        text_format(w, "\n");
    }
    text_format(w, "\n");
}

static inline void card_losses_(TextBuffer *w, const RunLog *r) {
    text_format(w, "## Loss\n\nCross-entropy in nats per token.\n\n");
    card_training_loss_(w, &r->loss);
    if (r->val_loss.count == 0) {
        text_format(w, "Validation loss was not measured.\n\n");
        return;
    }
    card_evals_(w, r);
    if (r->val_count > 8) {
        text_format(w, "| validation dataset | loss |\n| --- | ---: |\n");
        for (size_t s = 0; s < r->val_count; s++) {
            markdown_between(w, "| ", r->val[s].name, "");
            text_format(w, " | %.4f |\n", r->val[s].curve.last.y);
        }
        text_format(w, "\n");
    }
}

static inline void card_dataset_(TextBuffer *w, const CardSources_ *c, size_t dataset,
                                 double samples_of_all) {
    const RunLog *r = c->log;
    const Json *entry = log_dataset(c->run, dataset);
    const char *hash = json_string(json_get(entry, "sha256"));
    double seq_len = json_double_or(json_get(c->run, "seq_len"), 0), share = 100, tokens = NAN;
    if (r->samples_count == c->datasets) {
        tokens = r->samples[dataset].last.y * seq_len;
        share = samples_of_all > 0 ? 100 * r->samples[dataset].last.y / samples_of_all : 100;
    } else if (c->datasets == 1) {
        tokens = (double)r->tokens;
    }

    markdown_between(w, "| ", log_dataset_path(c->run, dataset), "");
    text_format(w, " | %g |", json_double_or(json_get(entry, "weight"), 1));
    if (isfinite(tokens)) {
        text_format(w, " %.2f%% | %s |", share, number_grouped(whole_number(tokens)).text);
    } else {
        text_format(w, " | |");
    }
    text_format(w, " %s | `%s` |\n",
                number_grouped(json_uint_or(json_get(entry, "tokens"), 0)).text,
                hash ? hash : "not hashed");
}

static inline void card_data_(TextBuffer *w, const CardSources_ *c) {
    double samples = run_log_samples(c->log);
    text_format(w, "## Training data\n\n| dataset | weight | share read | tokens read | tokens in "
                   "dataset | SHA-256 of the tokens |\n"
                   "| --- | ---: | ---: | ---: | ---: | --- |\n");
    for (size_t s = 0; s < c->datasets; s++) {
        card_dataset_(w, c, s, samples);
    }
    text_format(w, "\n");
    for (size_t s = 0; s < c->datasets; s++) {
        data_origin_put(w, &c->manifests[s], log_dataset_path(c->run, s));
    }
}

static inline void card_limitations_(TextBuffer *w) {
    text_format(w, "## Limitations\n\n"
                   "- The model continues text with what is likely to follow, true or not, and "
                   "reproduces errors and biases of its training data.\n"
                   "- It can output passages of its training data verbatim, including copyrighted "
                   "text and personal data.\n"
                   "- It was evaluated by the losses above alone, not on benchmarks of knowledge, "
                   "safety or bias.\n\n");
}

static inline void card_hardware_(TextBuffer *w, const RunLog *r, const Json *run) {
    double rate = run_log_throughput(r);
    text_format(
        w, "## Hardware and time\n\n| | |\n| --- | --- |\n| MPI ranks x threads | %zu x %zu |\n",
        (size_t)json_uint_or(json_get(run, "ranks"), 0),
        (size_t)json_uint_or(json_get(run, "threads"), 0));
    card_value_(w, "kernels", json_get(run, "kernels"));
    card_value_(w, "micro-batch (sequences)", json_get(json_get(run, "options"), "micro_batch"));
    card_value_(w, "train_gpt revision", json_get(run, "git_revision"));
    if (json_string(json_get(run, "compiler"))) {
        card_row_(w, "compiler", compiler_text(json_get(run, "compiler")).text);
    }
    card_value_(w, "compiler flags", json_get(run, "compiler_flags"));
    if (r->seconds > 0) {
        card_number_(w, "tokens per second", whole_number(rate));
    }
    if (r->mfu.points > 0) {
        text_format(w, "| MFU (share of the measured peak FLOP/s) | %.1f%% |\n",
                    curve_mean(&r->mfu, 0, r->mfu.count));
    }
    text_format(w, "| training time | %s |\n", duration_text(r->seconds).text);
    text_format(w, "| restarts | %zu |\n", r->restarts.count);
}

// ------------------------------------------------------------------------------------------------
// The card

static inline void card_put_(TextBuffer *w, const CardSources_ *c) {
    card_front_matter_(w, c);
    card_architecture_(w, c->run, c->config);
    card_training_(w, c->log, c->run);
    card_losses_(w, c->log);
    card_data_(w, c);
    card_limitations_(w);
    card_hardware_(w, c->log, c->run);
}

// Appends the card of a checkpoint. `run` (length bytes) is an object that describes the run as it
// is now, like the log's first line. Losses and times are from `log`, the run up to the checkpoint,
// the origin of the data from the manifests; of a manifest that cannot be read the card says so.
static inline bool model_card(TextBuffer *w, const ModelConfig *config, const RunLog *log,
                              const char *run, size_t length, Error *e) {
    JsonDocument document;
    size_t count = 0;
    if (!json_parse(&document, run, length, "the description of the run", e)) {
        return false;
    }

    while (log_dataset(document.root, count)) {
        count++;
    }
    DataManifest *manifests = calloc(count + 1, sizeof *manifests);
    if (manifests) {
        for (size_t i = 0; i < count; i++) {
            data_manifest_load(&manifests[i], log_dataset(document.root, i));
        }
        card_put_(w, &(CardSources_){log, config, document.root, manifests, count});
    }
    bool ok = (manifests && !w->failed) || fail(e, "no memory for the model card");

    for (size_t i = 0; i < count && manifests; i++) {
        manifest_close(&manifests[i].manifest);
    }
    free(manifests);
    json_free(&document);
    return ok;
}

#endif
