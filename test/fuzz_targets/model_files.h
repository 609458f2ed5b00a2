// model_files.h: config.json, trainer_state.json, SHA256SUMS
#ifndef TEST_FUZZ_TARGETS_MODEL_FILES_H
#define TEST_FUZZ_TARGETS_MODEL_FILES_H

#include "test/fuzz_targets/promises.h"

static bool same_token_roles(const ModelConfig *a, const ModelConfig *b) {
    return a->begin_of_document == b->begin_of_document &&
           a->end_of_document == b->end_of_document && a->end_count == b->end_count &&
           !memcmp(a->ends, b->ends, a->end_count * sizeof *a->ends);
}

static void promise_possible(const ModelConfig *c) {
    const int64_t V = (int64_t)c->vocab_size;
    const bool llama = c->family->block == BLOCK_LLAMA;
    promise(c->vocab_size && c->seq_len && c->channels && c->layers && c->heads && c->kv_heads &&
                c->head_dim && c->mlp_channels && c->heads % c->kv_heads == 0 &&
                c->heads * c->head_dim <= WIDTH_MOST && c->mlp_channels <= WIDTH_MOST,
            "an impossible model was accepted");
    promise(c->norm_eps > 0 &&
                (!llama || (c->head_dim % 2 == 0 && c->rope.theta > 0 && c->rope.factor >= 1)),
            "an impossible norm or rotary embedding was accepted");
    promise(c->begin_of_document < V && c->end_of_document < V && c->end_count <= END_TOKENS,
            "token ids outside of the vocabulary were accepted");
}

static bool run_config(InputPart *parts) {
    ModelConfig config, again;
    Error e = {0};
    JsonWriter w = {.indent = 2};
    put_part("config.json", parts[0]);
    if (!answer(config_load(folder, &config, &e), &e)) {
        return false;
    }
    promise_possible(&config);
    config_write(&w, &config, DTYPE_BF16);
    put_file("config.json", w.data, w.length);
    free(w.data);
    promise(config_load(folder, &again, &e), "%s", e.text);
    promise(config_same_shape(&config, &again) && same_token_roles(&config, &again),
            "config.json read back differs");
    return true;
}

static bool run_state(InputPart *parts) {
    Options options;
    Error e = {0};
    char *arguments[] = {"train_gpt", "train"};
    promise(options_parse(&options, 2, arguments, TRAIN, "train", &e), "%s", e.text);
    Dataset data = {.tokens = 1000};
    char path[] = "x", *paths[] = {path};
    uint64_t weights[] = {1};
    const Mixture mixture = {.count = 1, .items = &data, .paths = paths, .weights = weights};
    const World one = {.rank = 1};
    const RunRecord record = {.options = &options, .world = &one, .seq_len = 64, .data = &mixture};
    RunPosition position;
    put_part("trainer_state.json", parts[0]);
    return answer(trainer_state_read(folder, &record, true, &position, &e), &e);
}

// The files that SHA256SUMS lists are always the same.
static bool run_sums(InputPart *parts) {
    Error e = {0};
    put_file("config.json", "{}", 2);
    put_file("model.safetensors", "weights", 7);
    put_file("trainer_state.json", "{}", 2);
    put_file("optimizer-00000.safetensors", "moments", 7);
    put_part("SHA256SUMS", parts[0]);
    bool ok = answer(checkpoint_verify(folder, false, 0, 1, &e), &e);
    bool all = answer(checkpoint_verify(folder, true, 0, 1, &e), &e);
    promise(ok || !all, "with the optimizer more is accepted than without");
    return ok;
}

#endif
