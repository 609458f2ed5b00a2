// model_files.h: config.json, trainer_state.json, SHA256SUMS, log.jsonl
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

// What is kept of a log are whole lines of it, in order, and keeping them again changes nothing.
static bool run_log(InputPart *parts) {
    Error e = {0};
    size_t length = 0, again_length = 0;
    char log[PATH_LIMIT];
    snprintf(log, sizeof log, "%s", path_of("log.jsonl"));
    put_part("log.jsonl", parts[0]);
    promise(log_truncate(folder, 5, false, &e), "%s", e.text);
    char *kept = read_file(log, SIZE_MAX - 1, &length, &e);
    promise(kept != NULL, "%s", e.text);
    const uint8_t *from = parts[0].data, *end = from + parts[0].size;
    for (char *line = kept, *stop; line < kept + length; line = stop + 1) {
        stop = memchr(line, '\n', length - (size_t)(line - kept));
        promise(stop != NULL, "the log ends within a line");
        size_t n = (size_t)(stop - line) + 1;
        while (from < end && (size_t)(end - from) >= n && memcmp(from, line, n)) {
            from = memchr(from, '\n', (size_t)(end - from));
            from = from ? from + 1 : end;
        }
        promise((size_t)(end - from) >= n, "the log has a line that was not there");
        from += n;
    }
    promise(log_truncate(folder, 5, false, &e), "%s", e.text);
    char *again = read_file(log, SIZE_MAX - 1, &again_length, &e);
    promise(again && same_text(kept, length, again, again_length),
            "cutting the log twice differs from once");
    free(kept);
    free(again);
    return length == parts[0].size;
}

#endif
