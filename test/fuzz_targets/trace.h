// trace.h: trace: documents, metadata, chunk hashes and the suffix index of a prepared split, and
// the log of a run
//
// The split is always the same text, cut into documents by its end-of-document token. Its manifest
// is made here with the hashes of what the input holds, as somebody with bad intent would make it.
#ifndef TEST_FUZZ_TARGETS_TRACE_H
#define TEST_FUZZ_TARGETS_TRACE_H

#include "test/fuzz_targets/prepare.h"
#include "test/fuzz_targets/promises.h"

static const char traced_text[] =
    "the cat sat on the mat|the dog sat on the log|cats and dogs|the cat|mat mat mat|";
enum { TRACED_DOCUMENTS = 5 };

static struct {
    Tokenizer tokenizer;
    TokenTexts texts;
    TokenBuffer ids; // of all documents, each with its end
    uint64_t ends[TRACED_DOCUMENTS];
} traced;

static void begin_trace(void) {
    Error e = {0};
    uint8_t bytes[8];
    Scratch idx = {malloc(1 << 12), 0, 1 << 12}, bin = {malloc(1 << 12), 0, 1 << 12};
    omp_set_num_threads(1);
    make_tokenizer();
    promise(tokenizer_load(&traced.tokenizer, path_of("tokenizer"), &e) &&
                token_texts_init(&traced.texts, &traced.tokenizer, &e),
            "%s", e.text);
    const char *at = traced_text;
    for (size_t d = 0; d < TRACED_DOCUMENTS; d++) {
        size_t n = strcspn(at, "|");
        promise(tokenizer_encode(&traced.tokenizer, at, n, &traced.ids, &e) &&
                    token_buffer_append(&traced.ids, traced.tokenizer.end_of_document, &e),
                "%s", e.text);
        traced.ends[d] = traced.ids.count;
        at += n + 1;
    }
    for (size_t i = 0; i < traced.ids.count; i++) {
        store_le(bytes, (uint64_t)traced.ids.ids[i], 2);
        scratch_put(&bin, bytes, 2);
    }
    scratch_put(&idx, IDX_MAGIC, sizeof IDX_MAGIC);
    const struct {
        uint64_t value;
        int bytes;
    } header[] = {{1, 8}, {8, 1}, {TRACED_DOCUMENTS, 8}, {TRACED_DOCUMENTS + 1, 8}};
    for (size_t i = 0; i < 4; i++) {
        store_le(bytes, header[i].value, 8);
        scratch_put(&idx, bytes, (size_t)header[i].bytes);
    }
    for (int array = 0; array < 3; array++) { // lengths, pointers, documents
        for (uint64_t d = 0; d < TRACED_DOCUMENTS + (array == 2); d++) {
            uint64_t start = d ? traced.ends[d - 1] : 0;
            store_le(bytes, array == 0 ? traced.ends[d] - start : array == 1 ? 2 * start : d, 8);
            scratch_put(&idx, bytes, array ? 8 : 4);
        }
    }
    put_file("train.idx", idx.bytes, idx.size);
    put_file("train.bin", bin.bytes, bin.size);
    free(idx.bytes);
    free(bin.bytes);
}

static void manifest_put_file(JsonWriter *w, const char *ending) {
    char path[PATH_LIMIT], hex[SHA256_HEX];
    struct stat status;
    Error e = {0};
    snprintf(path, sizeof path, "%s/train.%s", folder, ending);
    if (stat(path, &status) == 0) {
        promise(sha256_file(path, hex, &e), "%s", e.text);
        json_open(w, ending, '{');
        json_put_uint(w, "bytes", (uint64_t)status.st_size);
        json_put_string(w, "sha256", hex);
        json_close(w, '}');
    }
}

// With `index` the manifest has the hash of the index too.
static void put_manifest(bool index) {
    static const char *const endings[] = {"bin", "idx", "docs", "meta", "sums", "index"};
    JsonWriter w = {0};
    char hex[SHA256_HEX];
    Error e = {0};
    promise(sha256_file(path_of("tokenizer/tokenizer.json"), hex, &e), "%s", e.text);
    json_open(&w, NULL, '{');
    json_put_uint(&w, "version", 1);
    json_open(&w, "tokenizer", '{');
    json_put_string(&w, "sha256", hex);
    json_put_uint(&w, "vocab_size", traced.tokenizer.vocabulary.count);
    json_close(&w, '}');
    json_open(&w, "splits", '{');
    json_open(&w, "train", '{');
    json_put_uint(&w, "documents", TRACED_DOCUMENTS);
    json_put_uint(&w, "tokens", traced.ids.count);
    for (size_t i = 0; i < sizeof endings / sizeof *endings - !index; i++) {
        manifest_put_file(&w, endings[i]);
    }
    json_close(&w, '}');
    json_close(&w, '}');
    json_open(&w, "sources", '[');
    json_open(&w, NULL, '{');
    json_put_string(&w, "path", "a.jsonl");
    json_close(&w, '}');
    json_close(&w, ']');
    json_close(&w, '}');
    put_file("manifest.json", w.data, w.length);
    free(w.data);
}

// The right .sums with changes of 3 bytes each: {offset, 255, how to change the byte there} or
// {entry, 0 to 254, entry that takes its place}. Nothing: no file.
static void put_sums(InputPart changes) {
    char hex[SHA256_HEX];
    size_t size;
    Error e = {0};
    unlink(path_of("train.sums"));
    if (changes.size == 0) {
        return;
    }
    promise(sums_build(folder, "train", hex, &e), "%s", e.text);
    uint8_t *sums = (uint8_t *)read_file(path_of("train.sums"), SIZE_MAX - 1, &size, &e);
    promise(sums != NULL, "%s", e.text);
    for (size_t i = 0; i + 3 <= changes.size; i += 3) {
        const uint8_t *c = changes.data + i;
        if (c[1] == 255) {
            sums[2 * c[0] % size] ^= c[2];
        } else {
            memmove(sums + SUMS_HEADER + SUMS_ENTRY * (c[0] % 2),
                    sums + SUMS_HEADER + SUMS_ENTRY * (c[2] % 2), SUMS_ENTRY);
        }
    }
    put_file("train.sums", sums, size);
    free(sums);
}

static bool open_traced(Dataset *d, TraceData *t, Error *e) {
    promise(dataset_open(d, folder, "train", 4, e), "%s", e->text);
    bool ok = answer(trace_data_open(t, d, folder, NULL, e), e);
    if (!ok) {
        trace_data_close(t);
        dataset_close(d);
    }
    return ok;
}

// .docs, .meta and changes of .sums. What is told of a document is its tokens and a valid record.
static bool run_docs(InputPart *parts) {
    Dataset d;
    TraceData t;
    Error e = {0};
    uint64_t number, all = 0;
    char id[] = "1";
    unlink(path_of("train.index"));
    put_part_if_any("train.docs", parts[0]);
    put_part_if_any("train.meta", parts[1]);
    put_sums(parts[2]);
    put_manifest(false);
    if (!open_traced(&d, &t, &e)) {
        return false;
    }
    for (uint64_t i = 0; i < TRACED_DOCUMENTS; i++) {
        TraceDocument document;
        if (answer(trace_document(&t, i, &document, &e), &e)) {
            promise(document.first == (i ? traced.ends[i - 1] : 0) &&
                        document.first + document.tokens == traced.ends[i],
                    "document %llu has other tokens", (unsigned long long)i);
            promise(!document.known ||
                        (document.record.tokens == document.tokens && document.source),
                    "document %llu has an impossible record", (unsigned long long)i);
            all++;
        }
        json_free(&document.metadata);
    }
    for (uint64_t token = 0; token < traced.ids.count; token++) {
        promise(trace_document_of(&t, token, &number, &e), "%s", e.text);
        promise(token < traced.ends[number] && (number == 0 || token >= traced.ends[number - 1]),
                "token %llu is not in document %llu", (unsigned long long)token,
                (unsigned long long)number);
    }
    number = 0;
    if (t.docs.path[0] && t.meta.path[0]) {
        answer(trace_find_id(&t, id, &number, &e), &e);
    }
    trace_data_close(&t);
    dataset_close(&d);
    return all == TRACED_DOCUMENTS;
}

// Whether the text stands in the data at this place.
static bool stands_at(uint64_t token, size_t offset, const char *text, size_t length) {
    for (; token < traced.ids.count && traced.ids.ids[token] != traced.tokenizer.end_of_document;
         token++) {
        size_t n;
        const char *bytes = tokenizer_text(&traced.tokenizer, traced.ids.ids[token], &n);
        if (offset > n) {
            return false;
        }
        size_t common = min_u64(n - offset, length);
        if (memcmp(bytes + offset, text, common)) {
            return false;
        }
        text += common, length -= common;
        offset = 0;
        if (length == 0) {
            return true;
        }
    }
    return length == 0;
}

// How often the text stands in the documents.
static size_t count_plainly(const char *text, size_t length) {
    size_t count = 0;
    const char *at = traced_text;
    for (size_t d = 0; d < TRACED_DOCUMENTS; d++) {
        size_t n = strcspn(at, "|");
        for (size_t i = 0; i + length <= n; i++) {
            count += !memcmp(at + i, text, length);
        }
        at += n + 1;
    }
    return count;
}

// A .index, and a text to look for. Every place that a search tells is one; of an index as it
// should be, all of them.
static bool run_index(InputPart *parts) {
    Dataset d;
    TraceData t;
    TextSearch s;
    TextSpans spans = {0};
    Error e = {0};
    char hex[SHA256_HEX];
    const char *text = (const char *)parts[1].data;
    size_t length = parts[1].size < 200 ? parts[1].size : 200;
    unlink(path_of("train.docs"));
    unlink(path_of("train.meta"));
    unlink(path_of("train.sums"));
    bool sound = parts[0].size == 0; // an empty part: the index as it should be
    if (sound) {
        promise(index_build(folder, "train", &traced.tokenizer, NULL, hex, &e), "%s", e.text);
    } else {
        put_part("train.index", parts[0]);
    }
    put_manifest(parts[1].size % 2);
    if (!utf8_is_valid(text, length) || !open_traced(&d, &t, &e)) {
        return false;
    }
    promise(text_search_open(&s, &t, 1, &traced.texts, text, length, &e), "%s", e.text);
    bool ok = answer(text_search_spans(&s, 2, &spans, &e), &e);
    promise(ok || !sound, "%s", e.text);
    for (size_t i = 0; ok && i < spans.count; i++) {
        TextSpan span = spans.items[i];
        Occurrences places = {0};
        promise(span.length <= length && span.first <= length - span.length,
                "a span outside the text");
        bool found = answer(text_search_occurrences(&s, span, &places, &e), &e);
        promise(found || !sound, "%s", e.text);
        for (size_t k = 0; found && k < places.count; k++) {
            promise(stands_at(places.items[k].token, places.items[k].offset, text + span.first,
                              span.length),
                    "\"%.*s\" is not where it was found", (int)span.length, text + span.first);
        }
        promise(!sound || places.count == count_plainly(text + span.first, span.length),
                "\"%.*s\" was found %zu times, it is there %zu times", (int)span.length,
                text + span.first, places.count, count_plainly(text + span.first, span.length));
        free(places.items);
    }
    free(spans.items);
    text_search_close(&s);
    trace_data_close(&t);
    dataset_close(&d);
    return ok;
}

// log.jsonl and restarts.jsonl. Each position of the run was read at one place, and that place is
// at this position.
static bool run_run(InputPart *parts) {
    TraceRun r;
    Error e = {0};
    put_part("log.jsonl", parts[0]);
    put_part_if_any("restarts.jsonl", parts[1]);
    bool ok = answer(trace_run_open(&r, folder, 2, &e), &e);
    for (uint64_t i = 0; ok && i < 64; i++) {
        uint64_t position = i < 32 ? i : r.samples - (i - 31);
        RunPlace place;
        if (trace_run_place(&r, position, &place)) {
            promise(place.step >= 1 && place.step <= r.last_step, "step %llu of %llu",
                    (unsigned long long)place.step, (unsigned long long)r.last_step);
            promise(trace_run_position(&r, place.step) + place.row == position,
                    "position %llu is not found again", (unsigned long long)position);
        }
    }
    trace_run_close(&r);
    return ok;
}

#endif
