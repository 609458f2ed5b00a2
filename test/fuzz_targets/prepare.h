// prepare.h: prepare: JSON Lines and plain text become shards; each document of them is found again
// in its source
#ifndef TEST_FUZZ_TARGETS_PREPARE_H
#define TEST_FUZZ_TARGETS_PREPARE_H

#include "test/fuzz_targets/promises.h"

static void make_tokenizer(void) {
    static const char text[] =
        "the cat sat on the mat and the dog on the log; these are the words of this tokenizer";
    TokenizerTrainer trainer;
    Tokenizer t;
    Error e = {0};
    mkdir(path_of("tokenizer"), 0777);
    promise(trainer_init(&trainer, &e) && trainer_add(&trainer, text, sizeof text - 1, &e) &&
                trainer_finish(&trainer, 264, &t, &e) &&
                tokenizer_save(&t, path_of("tokenizer"), &e),
            "%s", e.text);
    trainer_free(&trainer);
    tokenizer_free(&t);
}

static World world; // of this one process

static void begin_prepare(void) {
    omp_set_num_threads(1);
    __lsan_disable(); // what MPI allocates it keeps
    world_init(&world, NULL, NULL);
    __lsan_enable();
    make_tokenizer();
}

// The tokens of a document whose bytes in the source are given.
static void encode_document(const Tokenizer *t, bool lines, const uint8_t *bytes, size_t length,
                            TokenBuffer *ids) {
    Error e = {0};
    JsonDocument json = {0};
    uint64_t replaced = 0;
    char *clean = malloc(3 * length + 1);
    size_t consumed,
        n = utf8_sanitize(clean, (const char *)bytes, length, true, &consumed, &replaced);
    const char *text = clean;
    ids->count = 0;
    if (lines) {
        promise(json_parse(&json, clean, n, "the line of a document", &e), "%s", e.text);
        const Json *value = json_get(json.root, "text");
        promise(value && value->kind == JSON_STRING, "the line of a document has no text");
        text = value->text, n = value->length;
    }
    promise(tokenizer_encode(t, text, n, ids, &e) &&
                token_buffer_append(ids, t->end_of_document, &e),
            "%s", e.text);
    json_free(&json);
    free(clean);
}

static void check_prepared(InputPart *parts, const PrepareReport *report) {
    const Counts *r = &report->counts;
    Error e = {0};
    Tokenizer t;
    size_t docs_size, bin_size = 0, at = 0;
    TokenBuffer ids = {0};
    char *docs = read_file(path_of("out/train.docs"), SIZE_MAX - 1, &docs_size, &e);
    char *bin = docs ? read_file(path_of("out/train.bin"), SIZE_MAX - 1, &bin_size, &e) : NULL;
    promise(bin && tokenizer_load(&t, path_of("out/tokenizer"), &e), "%s", e.text);
    promise(docs_size == DOCS_HEADER + DOCS_RECORD * r->documents && bin_size == 2 * r->tokens,
            "%zu bytes of .docs and %zu of .bin for %llu documents, %llu tokens", docs_size,
            bin_size, (unsigned long long)r->documents, (unsigned long long)r->tokens);
    for (uint64_t i = 0; i < r->documents; i++) {
        DocumentRecord d = docs_load((unsigned char *)docs + DOCS_HEADER + DOCS_RECORD * i);
        promise(d.source < 2 && d.offset <= parts[d.source].size &&
                    d.length <= parts[d.source].size - d.offset,
                "document %llu lies outside its source", (unsigned long long)i);
        encode_document(&t, d.source == 0, parts[d.source].data + d.offset, d.length, &ids);
        promise(d.tokens == ids.count, "document %llu has %llu tokens, its source gives %zu",
                (unsigned long long)i, (unsigned long long)d.tokens, ids.count);
        for (size_t k = 0; k < ids.count; k++, at++) {
            promise(load_le(bin + 2 * at, 2) == (uint64_t)ids.ids[k],
                    "token %zu is not what its source gives", at);
        }
    }
    promise(at == r->tokens, "%zu of %llu tokens belong to a document", at,
            (unsigned long long)r->tokens);
    tokenizer_free(&t);
    free(ids.ids);
    free(docs);
    free(bin);
}

// prepare_corpus prints its error line: here it becomes an Error.
static bool prepare_quietly(const PrepareOptions *options, PrepareReport *report, Error *e) {
    FILE *own = stderr;
    char *text = NULL;
    size_t length;
    stderr = open_memstream(&text, &length);
    bool ok = prepare_corpus(&world, options, report);
    fclose(stderr);
    stderr = own;
    text[strcspn(text, "\n")] = 0;
    snprintf(e->text, sizeof e->text, "%s", text);
    free(text);
    return answer(ok, e);
}

// The saved result of a unit: read, written and read again it is the same.
static bool run_unit(InputPart *parts) {
    JsonWriter written[2] = {{0}};
    Error e = {0};
    put_part("unit.json", parts[0]);
    for (int i = 0; i < 2; i++) {
        UnitResult r;
        bool ok = i ? unit_result_load(&r, path_of("unit.json"), &e)
                    : answer(unit_result_load(&r, path_of("unit.json"), &e), &e);
        if (ok) {
            unit_result_put(&written[i], &r);
            put_file("unit.json", written[i].data, written[i].length);
        }
        unit_result_free(&r);
        if (!ok) {
            promise(i == 0, "what was written is refused: %s", e.text);
            return false;
        }
    }
    promise(same_text(written[0].data, written[0].length, written[1].data, written[1].length),
            "the result of a unit changes when it is read");
    free(written[0].data);
    free(written[1].data);
    return true;
}

static void check_same_file(const char *one, const char *other) {
    char hex[SHA256_HEX], other_hex[SHA256_HEX];
    Error e = {0};
    promise(sha256_file(path_of(one), hex, &e) && sha256_file(path_of(other), other_hex, &e), "%s",
            e.text);
    promise(!strcmp(hex, other_hex), "%s and %s differ", one, other);
}

static bool run_prepare(InputPart *parts) {
    char lines[PATH_LIMIT], text[PATH_LIMIT], out[PATH_LIMIT], tokenizer[PATH_LIMIT];
    const char *inputs[] = {lines, text};
    snprintf(lines, sizeof lines, "%s", path_of("a.jsonl"));
    snprintf(text, sizeof text, "%s", path_of("b.txt"));
    snprintf(out, sizeof out, "%s", path_of("out"));
    snprintf(tokenizer, sizeof tokenizer, "%s", path_of("tokenizer"));
    PrepareOptions options = {.inputs = inputs,
                              .input_count = 2,
                              .out = out,
                              .tokenizer = tokenizer,
                              .text_key = "text",
                              .seed = 1,
                              .collect = {.max_characters = UINT64_MAX, .max_repeated_lines = 1},
                              .revision = ""};
    PrepareReport report;
    Dataset d;
    Error e = {0};
    put_part("a.jsonl", parts[0]);
    put_part("b.txt", parts[1]);
    remove_directory(out);
    remove_directory(path_of("small"));
    bool ok = prepare_quietly(&options, &report, &e);
    if (!ok) {
        promise(access(out, F_OK) != 0, "prepare failed and left its folder");
        return false;
    }
    check_prepared(parts, &report);
    if (report.counts.tokens >= 2) {
        promise(dataset_open(&d, out, "train", 1, &e) && dataset_verify(&d, &e), "%s", e.text);
        dataset_close(&d);
    }
    if (parts[0].size % 4 == 0) { // the same in stretches of some 50 bytes
        options.out = path_of("small");
        options.unit_bytes = 50;
        promise(prepare_quietly(&options, &report, &e), "%s", e.text);
        check_same_file("out/train.bin", "small/train.bin");
        check_same_file("out/train.docs", "small/train.docs");
        check_same_file("out/train.meta", "small/train.meta");
    }
    return true;
}

#endif
