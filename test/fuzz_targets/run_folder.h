// run_folder.h: The folder of a run: log.jsonl, restarts.jsonl, an event file, and the manifest of
// the data that the log calls "data". The new event file has a record for each step, with the right
// checks; the page and the card are well formed.
#ifndef TEST_FUZZ_TARGETS_RUN_FOLDER_H
#define TEST_FUZZ_TARGETS_RUN_FOLDER_H

#include "test/fuzz_targets/json.h"
#include "test/fuzz_targets/promises.h"

static uint32_t crc32c_masked_plainly(const uint8_t *data, size_t bytes) {
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
        }
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xA282EAD8;
}

// Lines of the log that are steps or evals: objects behind the first one that have a whole number
// "step".
static uint64_t count_log_steps(InputPart log) {
    uint64_t count = 0, objects = 0, step;
    char *line = (char *)log.data, *end = line + log.size;
    for (char *stop; line < end && (stop = memchr(line, '\n', (size_t)(end - line)));
         line = stop + 1) {
        JsonDocument document;
        Error e;
        if (json_parse(&document, line, (size_t)(stop - line), "", &e)) {
            if (document.root->kind == JSON_OBJECT) {
                count += objects++ > 0 && json_uint(json_get(document.root, "step"), &step);
            }
            json_free(&document);
        }
    }
    return count;
}

static void check_events(const char *path, InputPart log) {
    Error e = {0};
    size_t size = 0, at = 0;
    uint64_t records = 0;
    uint8_t *data = (uint8_t *)read_file(path, SIZE_MAX - 1, &size, &e);
    promise(data != NULL, "%s", e.text);
    for (; at < size; records++) {
        promise(size - at >= 16 && load_le(data + at + 8, 4) == crc32c_masked_plainly(data + at, 8),
                "event record %llu has a broken length", (unsigned long long)records);
        uint64_t length = load_le(data + at, 8);
        promise(length <= size - at - 16 &&
                    load_le(data + at + 12 + length, 4) ==
                        crc32c_masked_plainly(data + at + 12, (size_t)length),
                "event record %llu is broken", (unsigned long long)records);
        at += 16 + length;
    }
    promise(records == 2 + count_log_steps(log), "%llu event records for %llu lines of steps",
            (unsigned long long)records, (unsigned long long)count_log_steps(log));
    free(data);
}

// Every element that is opened is closed, in the right order, and nothing but the page's own
// elements is there.
static void check_html(const char *page, size_t length) {
    static const char *const single[] = {"meta", "link", "input", "br", "hr", "!DOCTYPE"};
    static const char *const foreign[] = {"script", "img", "iframe", "object", "a"};
    char open[64][16], name[16];
    size_t depth = 0;
    promise(is_utf8(page, length), "the page is no UTF-8");
    for (const char *at = page, *stop; (at = strchr(at, '<')); at = stop + 1) {
        bool closes = at[1] == '/', alone = false;
        stop = strchr(at, '>');
        promise(stop != NULL, "an element without an end: %.40s", at);
        size_t n = strcspn(at + 1 + closes, " \n/>");
        snprintf(name, sizeof name, "%.*s", (int)n, at + 1 + closes);
        for (size_t i = 0; i < sizeof single / sizeof *single; i++) {
            alone = alone || !strcmp(name, single[i]);
        }
        for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
            promise(strcmp(name, foreign[i]) != 0, "a foreign element: %.40s", at);
        }
        if (closes) {
            promise(depth > 0 && !strcmp(open[depth - 1], name), "</%s> closes <%s>", name,
                    depth ? open[depth - 1] : "");
            depth--;
        } else if (!alone && stop[-1] != '/') {
            promise(depth < 64, "elements are nested too deeply");
            memcpy(open[depth++], name, sizeof name);
        }
    }
    promise(depth == 0, "<%s> is not closed", depth ? open[depth - 1] : "");
}

static void check_page(const char *path) {
    Error e = {0};
    size_t length = 0;
    char *page = read_file(path, SIZE_MAX - 1, &length, &e);
    promise(page && strlen(page) == length, "%s", e.text);
    check_html(page, length);
    free(page);
}

static void check_card(const JsonWriter *card) {
    promise(is_utf8(card->data, card->length) && strlen(card->data) == card->length,
            "the card is no UTF-8");
    promise(!strncmp(card->data, "---\n", 4) && strstr(card->data + 4, "\n---\n"),
            "the card has no front matter");
}

// In the folder itself, since the log names its data by a path.
static bool run_report(InputPart *parts) {
    Error e = {0};
    EventWriter events;
    JsonWriter card = {0};
    JsonDocument head;
    RunLog log;
    char run[PATH_LIMIT];
    const char *runs[] = {run};
    int back = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(run, sizeof run, "%s", path_of("run"));
    remove_directory(run);
    promise(back >= 0 && chdir(folder) == 0 && mkdir(run, 0777) == 0, "%s", strerror(errno));
    mkdir("data", 0777);
    put_part("run/log.jsonl", parts[0]);
    put_part_if_any("run/restarts.jsonl", parts[1]);
    put_part_if_any("data/manifest.json", parts[2]);
    put_part_if_any("run/events.out.tfevents.0000000001.x.1.0.train_gpt", parts[3]);
    if (answer(events_open(&events, run, &e), &e)) {
        check_events(events.path, parts[0]);
        events_close(&events);
    }
    unlink(path_of("report.html"));
    bool ok = answer(report_page(runs, 1, path_of("report.html"), &e), &e);
    if (ok) {
        check_page(path_of("report.html"));
        size_t first =
            (size_t)((uint8_t *)memchr(parts[0].data, '\n', parts[0].size) - parts[0].data);
        promise(json_parse(&head, (char *)parts[0].data, first, "", &e), "%s", e.text);
        json_free(&head);
        promise(run_log_read(&log, run, false, &e), "%s", e.text);
        if (answer(model_card(&card.text, &golden_models[0].config, &log, (char *)parts[0].data,
                              first, &e),
                   &e)) {
            check_card(&card);
        }
        free(card.data);
        run_log_free(&log);
    }
    promise(fchdir(back) == 0 && close(back) == 0, "%s", strerror(errno));
    return ok;
}

#endif
