// model_files.h: config.json, trainer_state.json, SHA256SUMS
#ifndef TEST_FUZZ_TARGETS_MODEL_FILES_H
#define TEST_FUZZ_TARGETS_MODEL_FILES_H

#include "test/fuzz_targets/promises.h"

static bool run_config(InputPart *parts) {
    ModelConfig config, again;
    Error e = {0};
    JsonWriter w = {.indent = 2};
    put_part("config.json", parts[0]);
    if (!answer(config_load(folder, &config, &e), &e)) {
        return false;
    }
    promise(config.vocab_size && config.seq_len && config.channels && config.layers &&
                config.heads && config.channels % config.heads == 0 &&
                config.end_of_document < (int64_t)config.vocab_size,
            "an impossible model was accepted");
    config_write(&w, &config);
    put_file("config.json", w.data, w.length);
    free(w.data);
    promise(config_load(folder, &again, &e), "%s", e.text);
    promise(config_same_shape(&config, &again) && config.end_of_document == again.end_of_document,
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
    const RunRecord record = {.options = &options, .seq_len = 64, .data = &mixture};
    RunPosition position;
    put_part("trainer_state.json", parts[0]);
    return answer(trainer_state_read(folder, &record, &position, &e), &e);
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
