// answers.h: what the trace command prints, for people or as JSON Lines.
#ifndef TRACE_ANSWERS_H
#define TRACE_ANSWERS_H

#include "run/options.h"
#include "trace/documents.h"
#include "trace/history.h"
#include "trace/search.h"

typedef struct {
    const Options *options;
    TraceRun run;     // if there is a --run
    Mixture mixture;  // the training data
    TraceData *data;  // (mixture.count)
    TokenTexts texts; // vocab_size 0: the data has no tokenizer
} Tracer_;

// A range of a document's tokens: where it was read, and where it is in the data.
typedef struct {
    const RunPlace *place; // NULL: it was not read
    size_t dataset;
    const TraceDocument *document; // NULL: the data does not know its documents
    size_t first, tokens;          // in the dataset's split
} TraceRange_;

// Opens run and data, and verifies that they belong together.
static inline bool tracer_open_(Tracer_ *t, const Options *o, Error *e) {
    *t = (Tracer_){.options = o};
    if (o->run.count
            ? !trace_run_open(&t->run, o->run.items[0], o->step, e) ||
                  !trace_run_mixture(&t->run, &t->mixture, o->data.items, o->data.count, e)
            : !mixture_open_paths(&t->mixture, o->data.items, NULL, o->data.count, "train", 1, e)) {
        return false;
    }
    t->data = calloc(t->mixture.count, sizeof *t->data);
    if (!t->data) {
        return fail(e, "no memory for %zu datasets", t->mixture.count);
    }
    for (size_t i = 0; i < t->mixture.count; i++) {
        if (!trace_data_open(&t->data[i], &t->mixture.items[i], t->mixture.paths[i],
                             log_dataset(t->run.head.root, i), e)) {
            return false;
        }
        if (!t->data[i].verified) {
            fprintf(stderr,
                    "warning: %s: the run's log has no hash of it, so only batch_sha256 verifies "
                    "what was read\n",
                    t->mixture.paths[i]);
        }
    }

    Tokenizer tokenizer;
    const char *path = t->mixture.items[0].tokenizer;
    if (!path[0]) {
        return true;
    }
    bool ok = tokenizer_load(&tokenizer, path, e) && token_texts_init(&t->texts, &tokenizer, e);
    tokenizer_free(&tokenizer);
    return ok;
}

static inline void tracer_close_(Tracer_ *t) {
    for (size_t i = 0; t->data && i < t->mixture.count; i++) {
        trace_data_close(&t->data[i]);
    }
    free(t->data);
    mixture_close(&t->mixture);
    trace_run_close(&t->run);
    token_texts_free(&t->texts);
}

// Frees a text and returns it with ill-formed UTF-8 replaced by U+FFFD; NULL if there is no memory.
// The caller frees it.
static inline char *sanitized_(JsonWriter *raw, size_t *length, Error *e) {
    size_t consumed;
    uint64_t replaced = 0;
    char *clean = raw->failed ? NULL : malloc(3 * raw->length + 1);
    if (clean) {
        *length = utf8_sanitize(clean, raw->data, raw->length, true, &consumed, &replaced);
    } else {
        fail(e, "no memory for a text of %zu bytes", raw->length);
    }
    free(raw->data);
    return clean;
}

// The text of a range, verified. U+FFFD stands for a character that the edges cut. The caller frees
// it; NULL on failure.
static inline char *range_text_(Tracer_ *t, const TraceRange_ *range, size_t *length, Error *e) {
    TraceData *data = &t->data[range->dataset];
    JsonWriter raw = {0};
    if (!trace_verify_tokens(data, range->first, range->tokens, e)) {
        return NULL;
    }
    for (uint64_t i = 0; i < range->tokens; i++) {
        size_t n;
        const char *bytes = token_text(&t->texts, trace_token(data, range->first + i), &n);
        json_append(&raw, bytes, n);
    }
    return sanitized_(&raw, length, e);
}

// Number of a range's first token in its document, or in the split if there is none.
static inline size_t range_begin_(const TraceRange_ *range) {
    return range->first - (range->document ? range->document->first : 0);
}

// ------------------------------------------------------------------------------------------------
// As JSON

// What is known of a document beside its id, url and license, under the names that the metadata
// has; its "source", which is a name of a collection, is "origin" here, since "source" is the file.
static inline void put_metadata_(JsonWriter *w, const Json *metadata) {
    static const char *const taken[] = {
        "step",   "row",       "rank",        "data",        "document",   "bytes",
        "text",   "offset",    "span",        "first_token", "tokens",     "matched_tokens",
        "places", "documents", "shard_token", "span_offset", "span_bytes",
    };
    for (const Json *m = metadata && metadata->kind == JSON_OBJECT ? metadata->child : NULL; m;
         m = m->next) {
        const char *key = strcmp(m->key, "source") ? m->key : "origin";
        bool is_taken = strlen(m->key) != m->key_length;
        double number;
        for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
            is_taken |= !strcmp(key, taken[i]);
        }
        if (m->kind == JSON_STRING && !is_taken) {
            json_put_text(w, key, m->text, m->length);
        } else if (!is_taken && json_double(m, &number)) {
            json_put_raw(w, key, m->text, m->length);
        }
    }
}

// The fields of a range, without the braces.
static inline void put_range_(JsonWriter *w, const Tracer_ *t, const TraceRange_ *p) {
    const TraceDocument *d = p->document;
    const struct {
        const char *key;
        uint64_t value;
        bool known;
    } numbers[] = {
        {"step", p->place ? p->place->step : 0, p->place},
        {"row", p->place ? p->place->row : 0, p->place},
        {"rank", p->place ? p->place->rank : 0, p->place},
        {"document", d ? d->number : 0, d},
        {"offset", d ? d->record.offset : 0, d && d->known},
        {"bytes", d ? d->record.length : 0, d && d->known},
        {"first_token", range_begin_(p), d},
        {"tokens", p->tokens, true},
        {"shard_token", p->first, true},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        numbers[i].known ? json_put_uint(w, numbers[i].key, numbers[i].value)
                         : json_put_null(w, numbers[i].key);
    }
    json_put_string(w, "data", t->mixture.paths[p->dataset]);
    d && d->known ? json_put_string(w, "source", d->source) : json_put_null(w, "source");
    put_metadata_(w, d ? d->metadata.root : NULL);
}

// Prints a range as one line. `fields`, the members of an open object, come last.
static inline bool print_json_(const Tracer_ *t, const TraceRange_ *range, const JsonWriter *fields,
                               Error *e) {
    JsonWriter line = {.failed = fields->failed};
    json_open(&line, NULL, '{');
    put_range_(&line, t, range);
    if (fields->length) {
        json_append(&line, fields->data, fields->length);
    }
    json_close(&line, '}');
    bool ok = !line.failed || fail(e, "no memory for a line of output");
    if (ok) {
        printf("%s\n", line.data);
    }
    free(line.data);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// For people

// Which document, and what is known of it.
static inline void print_document_(const Tracer_ *t, size_t dataset, const TraceDocument *d) {
    static const char *const keys[] = {"id", "url", "license", "source"};
    if (!d) {
        printf("%s", t->mixture.paths[dataset]);
        return;
    }
    printf("document %zu of %s, %zu tokens", d->number, t->mixture.paths[dataset], d->tokens);
    if (d->known) {
        printf(", from %s, %zu bytes at %zu", d->source, (size_t)d->record.length,
               (size_t)d->record.offset);
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const Json *value = json_get(d->metadata.root, keys[i]);
        if (value && (value->kind == JSON_STRING || value->kind == JSON_NUMBER)) {
            printf(", %s %s", strcmp(keys[i], "source") ? keys[i] : "origin", value->text);
        }
    }
}

// Opens the document that holds a token; *out is NULL if the data knows no documents.
static inline bool find_document_(TraceData *data, size_t token, TraceDocument *document,
                                  const TraceDocument **out, Error *e) {
    size_t number;
    *out = NULL;
    *document = (TraceDocument){0};
    if (!data->idx.path[0]) {
        return true;
    }
    *out = document;
    return trace_document_of(data, token, &number, e) && trace_document(data, number, document, e);
}

// ------------------------------------------------------------------------------------------------
// --step

// Prints the range of one document at the beginning of tokens first .. end - 1 of a sample; *next
// is where the following one begins.
static inline bool print_sample_range_(Tracer_ *t, size_t dataset, const RunPlace *place,
                                       size_t first, size_t end, size_t *next, Error *e) {
    TraceDocument document;
    TraceRange_ range = {.place = place, .dataset = dataset, .first = first};
    char *text = NULL;
    size_t length = 0;
    bool ok = find_document_(&t->data[dataset], first, &document, &range.document, e);
    *next = range.document ? min_u64(end, document.first + document.tokens) : end;
    range.tokens = *next - first;
    if (ok && t->texts.vocab_size) {
        text = range_text_(t, &range, &length, e);
        ok = text != NULL;
    }

    if (ok && t->options->json) {
        JsonWriter fields = {.depth = 1, .has_member = true};
        if (text) {
            json_put_text(&fields, "text", text, length);
        }
        ok = print_json_(t, &range, &fields, e);
        free(fields.data);
    } else if (ok) {
        size_t begin = range_begin_(&range);
        printf("row %zu rank %zu | tokens %zu to %zu of ", place->row, place->rank, begin,
               begin + range.tokens - 1);
        print_document_(t, dataset, range.document);
        printf("\n%.*s\n\n", (int)length, text ? text : "");
    }
    json_free(&document.metadata);
    free(text);
    return ok;
}

// Prints the ranges of documents that make up a sample.
static inline bool print_sample_(Tracer_ *t, SampleId id, const RunPlace *place, Error *e) {
    const size_t T = t->run.seq_len, end = id.sample * T + T + 1;
    for (size_t token = id.sample * T; token < end;) {
        if (!print_sample_range_(t, id.dataset, place, token, end, &token, e)) {
            return false;
        }
    }
    return true;
}

// Reads all rows of a step again and compares their hash with the one that the trainer logged.
static inline bool verify_step_(Tracer_ *t, size_t position, size_t rows, Error *e) {
    const size_t T = t->run.seq_len;
    int32_t *sample = malloc((T + 1) * sizeof *sample);
    unsigned char *digests = malloc(rows * DIGEST_BYTES);
    uint64_t vocab_size = 0;
    char hex[BATCH_HASH_DIGITS + 1];
    bool ok = (sample && digests) || fail(e, "no memory for a step of %zu rows", rows);
    ok = ok && (json_uint(json_get(t->run.head.root, "vocab_size"), &vocab_size) ||
                fail(e, "%s: has no vocab_size", t->run.path));
    for (size_t row = 0; ok && row < rows; row++) {
        SampleId id = mixture_order(&t->mixture, t->run.seed, t->run.shuffle, position + row);
        ok = trace_verify_tokens(&t->data[id.dataset], id.sample * T, T + 1, e) &&
             dataset_read(&t->mixture.items[id.dataset], id.sample, vocab_size, sample, e);
        if (ok) {
            Sha256 hash;
            sha256_begin(&hash);
            sha256_add_tokens(&hash, sample, T + 1);
            sha256_digest(&hash, digests + DIGEST_BYTES * row);
        }
    }
    if (ok) {
        batch_hash(digests, rows, hex);
        ok = !t->run.batch_hash[0] || !strcmp(hex, t->run.batch_hash) ||
             fail(e, "%s: step %zu read other tokens than these: their hash is %s, the log has %s",
                  t->run.path, t->options->step, hex, t->run.batch_hash);
    }
    free(sample);
    free(digests);
    return ok;
}

static inline bool trace_step_(Tracer_ *t, Error *e) {
    const Options *o = t->options;
    const RunSegment *segment = trace_run_segment(&t->run, o->step);
    if (o->step > t->run.last_step || o->step <= t->run.segments[0].from_step) {
        return fail(e, "--step %zu: the run's log has the steps %zu to %zu", o->step,
                    t->run.segments[0].from_step + 1, t->run.last_step);
    }
    if (o->row != SIZE_MAX && o->row >= segment->global_batch) {
        return fail(e, "--row %zu: step %zu has the rows 0 to %zu", o->row, o->step,
                    segment->global_batch - 1);
    }
    size_t position = trace_run_position(&t->run, o->step);
    if (!verify_step_(t, position, segment->global_batch, e)) {
        return false;
    }
    if (!o->json) {
        printf("step %zu: %zu rows of %zu tokens on %zu rank%s; %s\n\n", o->step,
               segment->global_batch, t->run.seq_len + 1, segment->ranks,
               segment->ranks == 1 ? "" : "s",
               t->run.batch_hash[0] ? "verified: their hash is the one that the trainer logged"
                                    : "this log has no hash of what a step read");
    }
    bool ok = true;
    for (size_t row = 0; ok && row < segment->global_batch; row++) {
        if (o->row == SIZE_MAX || o->row == row) {
            RunPlace place = {0};
            ok = trace_run_place(&t->run, position + row, &place) &&
                 print_sample_(
                     t, mixture_order(&t->mixture, t->run.seed, t->run.shuffle, position + row),
                     &place, e);
        }
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// --doc

// Prints every reading of the tokens first .. end - 1 of a document. `fields`: more JSON fields.
static inline bool print_reads_(Tracer_ *t, size_t dataset, const TraceDocument *document,
                                size_t first, size_t end, const JsonWriter *fields, Error *e) {
    TraceReads reads = {0};
    bool ok =
        !t->options->run.count || trace_reads(&t->run, &t->mixture, dataset, first, end, &reads, e);
    for (size_t i = 0; ok && (i < reads.count || i == 0); i++) {
        TraceRange_ range = {NULL, dataset, document, first, end - first};
        if (i < reads.count) {
            range.place = &reads.items[i].place;
            range.first = reads.items[i].first, range.tokens = reads.items[i].tokens;
        }

        size_t begin = range_begin_(&range);
        if (t->options->json) {
            ok = print_json_(t, &range, fields, e);
        } else if (range.place) {
            printf("  step %zu, row %zu, rank %zu: tokens %zu to %zu\n", range.place->step,
                   range.place->row, range.place->rank, begin, begin + range.tokens - 1);
        } else if (t->options->run.count) {
            printf("  not read up to step %zu\n", t->run.last_step);
        }
    }
    free(reads.items);
    return ok;
}

static inline bool print_document_reads_(Tracer_ *t, size_t dataset, size_t number, Error *e) {
    TraceDocument document;
    bool ok = trace_document(&t->data[dataset], number, &document, e);
    if (ok && !t->options->json) {
        print_document_(t, dataset, &document);
        printf("\n");
    }
    ok = ok && print_reads_(t, dataset, &document, document.first, document.first + document.tokens,
                            &(JsonWriter){0}, e);
    json_free(&document.metadata);
    return ok;
}

// The document that "NUMBER" or "DATA:NUMBER" names; false if it names none.
static inline bool document_by_number_(const Tracer_ *t, const char *name, size_t *dataset,
                                       size_t *number, Error *e) {
    const char *colon = strrchr(name, ':'), *digits = colon ? colon + 1 : name;
    size_t length = colon ? (size_t)(colon - name) : 0, i = 0;
    char *end;
    errno = 0;
    *number = strtoull(digits, &end, 10);
    bool is_number = *digits >= '0' && *digits <= '9' && !*end && !errno;
    if (!colon && is_number && t->mixture.count > 1) {
        return fail(e, "--doc %s: the run read %zu datasets: say which, as %s:%s", name,
                    t->mixture.count, t->mixture.paths[0], name);
    }
    if (colon && !(t->mixture.count == 1 && length == 5 && !memcmp(name, "train", 5))) {
        while (i < t->mixture.count && (strlen(t->mixture.paths[i]) != length ||
                                        memcmp(t->mixture.paths[i], name, length))) {
            i++;
        }
    }
    *dataset = i;
    if (!is_number || i == t->mixture.count) {
        return fail(e, "--doc %s: no document of the run's data has this id", name);
    }
    if (*number >= t->mixture.items[i].documents) {
        return fail(e, "--doc %s: no document has this id, and %s has the documents 0 to %zu", name,
                    t->mixture.paths[i], (size_t)t->mixture.items[i].documents - 1);
    }
    return true;
}

static inline bool trace_doc_(Tracer_ *t, Error *e) {
    bool found = false;
    for (size_t i = 0; i < t->mixture.count; i++) {
        for (size_t number = 0;; number++) { // an id need not be the only one of its name
            if (!trace_find_id(&t->data[i], t->options->doc, &number, e)) {
                return false;
            }
            if (number == t->mixture.items[i].documents) {
                break;
            }
            found = true;
            if (!print_document_reads_(t, i, number, e)) {
                return false;
            }
        }
    }
    size_t dataset = 0;
    size_t number = 0;
    return found || (document_by_number_(t, t->options->doc, &dataset, &number, e) &&
                     print_document_reads_(t, dataset, number, e));
}

// ------------------------------------------------------------------------------------------------
// --text

// --text, or all of standard input for "-", with ill-formed UTF-8 replaced. Returns NULL on
// failure; the caller frees.
static inline char *read_text_(const Options *o, size_t *length, Error *e) {
    JsonWriter raw = {0};
    char block[1 << 16];
    if (strcmp(o->text, "-")) {
        json_append_text(&raw, o->text);
    } else {
        for (size_t n; (n = fread(block, 1, sizeof block, stdin)) > 0;) {
            json_append(&raw, block, n);
        }
    }
    char *text = sanitized_(&raw, length, e);
    if (text && *length == 0) {
        fail(e, "--text %s: there is no text", o->text);
        free(text);
        return NULL;
    }
    return text;
}

// Keeps the first occurrence in each document of those found, which are in order.
static inline bool keep_one_per_document_(Tracer_ *t, Occurrences *found, Error *e) {
    size_t kept = 0;
    size_t number, last = 0;
    for (size_t i = 0; i < found->count; i++) {
        const Occurrence o = found->items[i];
        if (!trace_document_of(&t->data[o.data], o.token, &number, e)) {
            return false;
        }
        if (kept == 0 || found->items[kept - 1].data != o.data || number != last) {
            found->items[kept++] = o;
        }
        last = number;
    }
    found->count = kept;
    return true;
}

// Prints the document of an occurrence and its readings. `counts`: of all occurrences, and of the
// documents with one.
static inline bool print_occurrence_(Tracer_ *t, const TextSearch *s, TextSpan span,
                                     const Occurrence *o, const size_t counts[2], Error *e) {
    TraceDocument document;
    const TraceDocument *known;
    size_t tokens = occurrence_tokens(s, o, span.length);
    JsonWriter fields = {.depth = 1, .has_member = true};
    json_put_text(&fields, "span", s->text + span.first, span.length);
    json_put_uint(&fields, "span_offset", span.first);
    json_put_uint(&fields, "span_bytes", span.length);
    json_put_uint(&fields, "matched_tokens", tokens);
    json_put_uint(&fields, "places", counts[0]);
    json_put_uint(&fields, "documents", counts[1]);
    bool ok = find_document_(&t->data[o->data], o->token, &document, &known, e);
    if (ok && !t->options->json) {
        printf(" in ");
        print_document_(t, o->data, known);
        printf("\n");
    }
    ok = ok && print_reads_(t, o->data, known, o->token, o->token + tokens, &fields, e);
    json_free(&document.metadata);
    free(fields.data);
    return ok;
}

// Prints a span and its first occurrence in each document, up to --limit of them.
static inline bool print_span_(Tracer_ *t, TextSearch *s, TextSpan span, Error *e) {
    Occurrences found = {0};
    bool ok = text_search_occurrences(s, span, &found, e);
    size_t occurrences = found.count, limit = t->options->limit;
    ok = ok && keep_one_per_document_(t, &found, e);
    if (ok && !t->options->json) {
        printf("%zu bytes at %zu, %zu time%s in %zu document%s: %.*s\n", span.length, span.first,
               occurrences, occurrences == 1 ? "" : "s", found.count, found.count == 1 ? "" : "s",
               (int)span.length, s->text + span.first);
    }
    for (size_t i = 0; ok && i < found.count && i < limit; i++) {
        ok = print_occurrence_(t, s, span, &found.items[i],
                               (const size_t[]){occurrences, found.count}, e);
    }
    if (ok && !t->options->json && found.count > limit) {
        printf(" and in %zu more documents (--limit)\n", found.count - limit);
    }
    free(found.items);
    return ok;
}

static inline bool trace_text_(Tracer_ *t, Error *e) {
    TextSearch search = {0};
    TextSpans spans = {0};
    size_t length;
    if (!t->texts.vocab_size) {
        return fail(e,
                    "%s: has no tokenizer, so its tokens cannot be read as text: only data of "
                    "prepare can be searched",
                    t->mixture.paths[0]);
    }
    for (size_t i = 0; i < t->mixture.count; i++) {
        if (t->data[i].index.path[0] && !t->data[i].index_verified) {
            fprintf(
                stderr,
                "warning: %s: is not in the manifest: what it finds is verified, but it may not "
                "find all\n",
                t->data[i].index.path);
        }
    }
    char *text = read_text_(t->options, &length, e);
    bool ok = text &&
              text_search_open(&search, t->data, t->mixture.count, &t->texts, text, length, e) &&
              text_search_spans(&search, t->options->min_bytes, &spans, e);
    for (size_t i = 0; ok && i < spans.count; i++) {
        ok = print_span_(t, &search, spans.items[i], e);
    }
    if (ok && spans.count == 0 && !t->options->json) {
        printf("no %zu bytes of this text are in the data\n",
               (size_t)min_u64(length, t->options->min_bytes));
    }
    free(spans.items);
    text_search_close(&search);
    free(text);
    return ok;
}

// Opens run and data, verifies that they belong together, and prints the answer on stdout. One of
// --step, --doc and --text is given; without --run it is --text, which only the data answers.
static inline bool trace_answer(const Options *o, Error *e) {
    Tracer_ t;
    bool ok = tracer_open_(&t, o, e) && (o->step  ? trace_step_(&t, e)
                                         : o->doc ? trace_doc_(&t, e)
                                                  : trace_text_(&t, e));
    tracer_close_(&t);
    return ok;
}

#endif
