// log.h: log.jsonl and restarts.jsonl of a run: read line by line, cut back to a checkpoint, and
// continued by a run that resumes
#ifndef TEST_FUZZ_TARGETS_LOG_H
#define TEST_FUZZ_TARGETS_LOG_H

#include "test/fuzz_targets/json.h"
#include "test/fuzz_targets/promises.h"

// Cutting a log back keeps complete lines of it, in order, behind a first line that describes the
// run; cutting it back again changes nothing.
static bool run_log(InputPart *parts) {
    Error e = {0};
    const LogMark no_mark = {0};
    JsonWriter head = {0};
    json_append_text(&head, "{\"program\": \"train_gpt\"}");
    size_t length = 0, again_length = 0;
    char log[PATH_LIMIT];
    snprintf(log, sizeof log, "%s", path_of("log.jsonl"));
    put_part("log.jsonl", parts[0]);
    unlink(path_of("log-damaged-1.jsonl"));
    promise(log_truncate(folder, 5, false, &no_mark, &head, &e), "%s", e.text);
    char *kept = read_file(log, SIZE_MAX - 1, &length, &e);
    promise(kept != NULL, "%s", e.text);
    const uint8_t *from = parts[0].data, *end = from + parts[0].size;
    for (char *line = kept, *stop; line < kept + length; line = stop + 1) {
        stop = memchr(line, '\n', length - (size_t)(line - kept));
        promise(stop != NULL, "the log ends within a line");
        size_t n = (size_t)(stop - line) + 1;
        if (line == kept && n == head.length + 1 && !memcmp(line, head.data, head.length)) {
            continue;
        }
        while (from < end && (size_t)(end - from) >= n && memcmp(from, line, n)) {
            from = memchr(from, '\n', (size_t)(end - from));
            from = from ? from + 1 : end;
        }
        promise((size_t)(end - from) >= n, "the log has a line that was not there");
        from += n;
    }
    promise(log_truncate(folder, 5, false, &no_mark, &head, &e), "%s", e.text);
    char *again = read_file(log, SIZE_MAX - 1, &again_length, &e);
    promise(again && same_text(kept, length, again, again_length),
            "cutting the log twice differs from once");
    free(kept);
    free(again);
    free(head.data);
    return length == parts[0].size || length == parts[0].size + head.length + 1;
}

// A line that parses as an object.
static bool parse_object(JsonDocument *document, const uint8_t *line, size_t length) {
    Error e = {0};
    if (!json_parse(document, (const char *)line, length, "", &e)) {
        return false;
    }
    if (document->root->kind == JSON_OBJECT) {
        return true;
    }
    json_free(document);
    return false;
}

// The reader returns every line of the file, and says what is wrong with those that are not
// complete objects.
static void check_log_reader(const char *name, InputPart file) {
    const uint8_t *at = file.data, *end = at + file.size;
    uint64_t number = 0, step;
    LogReader log;
    Error e = {0};
    promise(log_reader_open(&log, folder, name, &e), "%s", e.text);
    while (log_reader_next(&log)) {
        promise(at < end, "line %llu is behind the end of the file",
                (unsigned long long)log.number);
        const uint8_t *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at);
        promise(log.number == number + 1 && log.complete == (stop != NULL) &&
                    same_text(log.text, log.length, (const char *)at, n),
                "line %llu differs from the file", (unsigned long long)number + 1);
        number++;

        JsonDocument document;
        bool valid = stop && parse_object(&document, at, n);
        promise(answer(log.line != NULL, &log.problem) == valid, "line %llu is %s",
                (unsigned long long)number, valid ? "rejected" : "accepted");
        if (valid) {
            bool has_step = json_uint(json_get(document.root, "step"), &step);
            promise(log.has_step == has_step && log.step == (has_step ? step : 0),
                    "line %llu has a different step", (unsigned long long)number);
            json_free(&document);
        }
        at += n + (stop != NULL);
    }
    promise(at == end && log_reader_close(&log, &e), "%zu bytes of the log were not read",
            (size_t)(end - at));
}

// The lines up to `step`, as log_writer.h defines them: complete objects whose "step" is not later
// or missing; the closing line with the plan only if the run does not continue.
static void keep_plainly(TextBuffer *kept, InputPart log, uint64_t step, bool continues) {
    const uint8_t *at = log.data, *end = at + log.size, *stop;
    for (; at < end && (stop = memchr(at, '\n', (size_t)(end - at))); at = stop + 1) {
        JsonDocument document;
        uint64_t n;
        if (!parse_object(&document, at, (size_t)(stop - at))) {
            continue;
        }
        const Json *root = document.root, *number = json_get(root, "step");
        bool plan =
            json_get(root, "plan") && !json_get(root, "loss") && !json_get(root, "val_loss");
        bool of_run = !number || (json_uint(number, &n) && n <= step);
        if (of_run && !(plan && continues)) {
            text_put(kept, (const char *)at, (size_t)(stop - at) + 1);
        }
        json_free(&document);
    }
}

// Whether the first line describes a run.
static bool begins_with_run(InputPart log) {
    JsonDocument document;
    const uint8_t *stop = log.size ? memchr(log.data, '\n', log.size) : NULL;
    if (!stop || !parse_object(&document, log.data, (size_t)(stop - log.data))) {
        return false;
    }
    bool run = log_line_kind(document.root) == LOG_RUN;
    json_free(&document);
    return run;
}

// The file holds `before` and then one line that describes a run from `step`.
static void check_run_appended(const char *name, const char *before, size_t length, uint64_t step) {
    size_t size = 0;
    uint64_t from;
    JsonDocument document;
    Error e = {0};
    uint8_t *data = (uint8_t *)read_file(path_of(name), SIZE_MAX - 1, &size, &e);
    promise(data && size > length && same_text((char *)data, length, before, length),
            "%s: lines from before were changed", name);
    const uint8_t *line = data + length, *stop = memchr(line, '\n', size - length);
    promise(stop == data + size - 1 && parse_object(&document, line, (size_t)(stop - line)),
            "%s: what was appended is not one line", name);
    const char *program = json_string(json_get(document.root, "program"));
    promise(program && !strcmp(program, "train_gpt") &&
                json_uint(json_get(document.root, "from_step"), &from) && from == step,
            "%s: the appended line does not describe the run", name);
    json_free(&document);
    free(data);
}

static void check_file_is(const char *name, const char *text, size_t length) {
    size_t size = 0;
    Error e = {0};
    char *data = read_file(path_of(name), SIZE_MAX - 1, &size, &e);
    promise(data && same_text(data, size, text, length), "%s is not as it should be: %s", name,
            e.text);
    free(data);
}

static void open_log(const RunRecord *record, bool resumed) {
    Error e = {0};
    FILE *log = log_open(record, resumed, &(LogMark){0}, &e);
    promise(log && fclose(log) == 0, "%s", e.text);
}

// log.jsonl, restarts.jsonl, and a byte for the step of the checkpoint. A run resumes there, then a
// new one starts in the same folder. An empty log: no file.
static bool run_log_resume(InputPart *parts) {
    Options options;
    Error e = {0};
    char *arguments[] = {"train_gpt", "train"}, path[] = "x", *paths[] = {path};
    promise(options_parse(&options, 2, arguments, TRAIN, "train", &e), "%s", e.text);
    options.out = folder;
    options.steps = 6;
    Dataset data = {.tokens = 1000};
    uint64_t weights[] = {1};
    const Mixture mixture = {
        .count = 1, .items = &data, .paths = paths, .weights = weights, .period = 1};
    const World one = {.size = 1, .node_size = 1, .grid = {.tp = 1, .pp = 1, .dp = 1}};
    const ModelConfig config = config_of_family(FAMILY_GPT2);
    const RunRecord record = {.options = &options,
                              .world = &one,
                              .config = &config,
                              .kernels = "reference",
                              .data = &mixture,
                              .val = &mixture,
                              .from_step = parts[2].size ? parts[2].data[0] % 8 : 4};
    bool exists = parts[0].size > 0;
    TextBuffer kept = {0};
    unlink(path_of("log-1.jsonl"));
    put_part_if_any("log.jsonl", parts[0]);
    put_part_if_any("restarts.jsonl", parts[1]);
    if (exists) {
        check_log_reader("log.jsonl", parts[0]);
    }
    if (parts[1].size) {
        check_log_reader("restarts.jsonl", parts[1]);
    }

    // Resumed: later steps are gone, and restarts.jsonl has one more line.
    unlink(path_of("log-damaged-1.jsonl"));
    open_log(&record, true);
    if (!begins_with_run(parts[0])) {
        JsonWriter head = {0};
        log_write_run(&head, &record);
        text_put(&kept, head.data, head.length);
        text_put(&kept, "\n", 1);
        free(head.data);
    }
    keep_plainly(&kept, parts[0], record.from_step, record.from_step < options.steps);
    if (exists) {
        check_file_is("log.jsonl", kept.data, kept.length);
        check_run_appended("restarts.jsonl", (char *)parts[1].data, parts[1].size,
                           record.from_step);
    } else {
        check_run_appended("log.jsonl", NULL, 0, record.from_step);
    }

    // The report reads such a log without complaint.
    RunLog log;
    if (answer(run_log_read(&log, folder, false, &e), &e)) {
        promise(!log.cut && log.last_step <= record.from_step, "step %llu after cutting to %llu",
                (unsigned long long)log.last_step, (unsigned long long)record.from_step);
        run_log_free(&log);
    }

    // A new run sets the log aside.
    if (exists) {
        open_log(&record, false);
        check_file_is("log-1.jsonl", kept.data, kept.length);
        check_run_appended("log.jsonl", NULL, 0, record.from_step);
    }
    free(kept.data);
    return begins_with_run(parts[0]);
}

#endif
