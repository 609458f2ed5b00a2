// trace_tool: what test_trace.py and scripts/trace_campaign.py call of trace/ and shards/.
//
//   sort                    standard input's suffixes in order, one number a line
//   index FOLDER SPLIT      writes SPLIT.index and SPLIT.sums, prints their hashes
//   blocks FOLDER BYTES     the same for train, with blocks of so many bytes
//   spans FOLDER MIN        per query of standard input ("BYTES\n" and so many bytes): a JSON list
//   of the spans found
#include "trace/answers.h"

static bool sort_input(Error *e) {
    JsonWriter text = {0};
    char block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, stdin)) > 0;) {
        json_append(&text, block, n);
    }
    int32_t *suffixes = malloc((text.length + 1) * sizeof *suffixes);
    bool ok = suffixes &&
              suffix_sort((const unsigned char *)text.data, (int32_t)text.length, suffixes, e);
    for (size_t i = 0; ok && i < text.length; i++) {
        printf("%d\n", suffixes[i]);
    }
    free(suffixes);
    free(text.data);
    return ok;
}

static bool build(const char *folder, const char *split, size_t block_bytes, Error *e) {
    char path[PATH_LIMIT], index[SHA256_HEX], sums[SHA256_HEX];
    Tokenizer tokenizer;
    if (!path_format(path, e, "%s/tokenizer", folder) || !tokenizer_load(&tokenizer, path, e)) {
        return false;
    }
    bool ok = index_build_blocks(folder, split, &tokenizer, block_bytes, NULL, index, e) &&
              sums_build(folder, split, sums, e);
    if (ok) {
        printf("%s\n%s\n", index, sums);
    }
    tokenizer_free(&tokenizer);
    return ok;
}

static bool print_span(TextSearch *s, TextSpan span, Error *e) {
    Occurrences found = {0};
    bool ok = text_search_occurrences(s, span, &found, e);
    printf("{\"first\": %zu, \"length\": %zu, \"places\": [", span.first, span.length);
    for (size_t i = 0; ok && i < found.count; i++) {
        uint64_t number = 0;
        ok = trace_document_of(s->data, found.items[i].token, &number, e);
        printf("%s[%llu, %zu, %llu]", i ? ", " : "", (unsigned long long)found.items[i].token,
               found.items[i].offset, (unsigned long long)number);
    }
    printf("]}");
    free(found.items);
    return ok;
}

static bool answer(TraceData *data, const TokenTexts *texts, const char *text, size_t length,
                   size_t least, Error *e) {
    TextSearch search;
    TextSpans spans = {0};
    bool ok = text_search_open(&search, data, 1, texts, text, length, e) &&
              text_search_spans(&search, least, &spans, e);
    printf("[");
    for (size_t i = 0; ok && i < spans.count; i++) {
        printf("%s", i ? ", " : "");
        ok = print_span(&search, spans.items[i], e);
    }
    printf("]\n");
    free(spans.items);
    text_search_close(&search);
    return ok;
}

static bool spans(const char *folder, size_t least, Error *e) {
    Dataset dataset = {.file = -1};
    TraceData data = {0};
    Tokenizer tokenizer = {0};
    TokenTexts texts = {0};
    size_t length;
    bool ok = dataset_open(&dataset, folder, "train", 1, e);
    ok = ok && trace_data_open(&data, &dataset, folder, NULL, e) &&
         tokenizer_load(&tokenizer, dataset.tokenizer, e) &&
         token_texts_init(&texts, &tokenizer, e);
    while (ok && scanf("%zu", &length) == 1 && getchar() == '\n') {
        char *text = malloc(length + 1);
        ok = text && fread(text, 1, length, stdin) == length;
        ok = ok && answer(&data, &texts, text, length, least, e);
        free(text);
    }
    trace_data_close(&data);
    dataset_close(&dataset);
    tokenizer_free(&tokenizer);
    token_texts_free(&texts);
    return ok;
}

int main(int argc, char **argv) {
    Error e = {"usage"};
    const char *command = argc > 1 ? argv[1] : "";
    size_t number = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;
    bool ok = argc == 2 && !strcmp(command, "sort") && sort_input(&e);
    if (argc == 4) {
        ok = !strcmp(command, "index")    ? build(argv[2], argv[3], INDEX_BLOCK, &e)
             : !strcmp(command, "blocks") ? build(argv[2], "train", number, &e)
                                          : spans(argv[2], number, &e);
    }
    if (!ok) {
        fprintf(stderr, "%s\n", e.text);
    }
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
