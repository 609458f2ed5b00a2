// encode_pass.h: the pass that tokenizes: for each unit and split its stretch of SPLIT.bin, .docs
// and .meta, and its lines of dropped.jsonl.
#ifndef CORPUS_ENCODE_PASS_H
#define CORPUS_ENCODE_PASS_H

#include "corpus/pass.h"
#include "shards/docs.h"
#include "shards/idx.h"
#include "util/random.h"

// The files of a unit: WORK/parts/NUMBER.train.bin and so on.
enum { UNIT_BIN, UNIT_DOCS, UNIT_META, UNIT_KINDS };

static const char *const UNIT_ENDINGS[UNIT_KINDS] = {"bin", "docs", "meta"};

enum { UNIT_NAME = 32 };

// "train.bin"
static inline void unit_split_name(char name[UNIT_NAME], int split, int kind) {
    snprintf(name, UNIT_NAME, "%s.%s", SPLIT_NAMES[split], UNIT_ENDINGS[kind]);
}

typedef struct {
    const char *work, *text_key;
    uint64_t seed;
    double val_fraction;
    const SourceList *sources;
    const UnitList *units;
    const Tokenizer *tokenizer;
    int token_bytes; // in the .bin
    const Workers *workers;
    VerdictReader *verdicts;
    UnitFile files[SPLITS][UNIT_KINDS], dropped;

    // The document at hand.
    DocumentRecord document;
    int split;
    uint64_t text_bytes;
} EncodePass;

static inline bool encode_begin_(void *state, size_t unit, Error *e) {
    EncodePass *s = state;
    bool ok = true;
    for (int split = 0; split < SPLITS; split++) {
        for (int k = 0; k < UNIT_KINDS; k++) {
            char name[UNIT_NAME];
            unit_split_name(name, split, k);
            s->files[split][k].file = NULL;
            ok = ok && unit_file_begin(&s->files[split][k], s->work, unit, name, e);
        }
    }
    s->dropped.file = NULL;
    s->document = (DocumentRecord){.source = s->units->items[unit].source};
    return ok && unit_file_begin(&s->dropped, s->work, unit, "dropped", e) &&
           verdicts_seek(s->verdicts, unit, e);
}

static inline bool encode_end_(void *state, bool ok, Error *e) {
    EncodePass *s = state;
    for (int split = 0; split < SPLITS; split++) {
        for (int k = 0; k < UNIT_KINDS; k++) {
            ok = unit_file_close(&s->files[split][k], ok, e);
        }
    }
    return unit_file_close(&s->dropped, ok, e);
}

// Bytes of a unit's file of a split, as its counts say.
static inline uint64_t unit_split_bytes_(const Counts *counts, int split, int kind,
                                         int token_bytes) {
    Counts c = *counts;
    const uint64_t *of_split = counts_split(&c, split);
    return kind == UNIT_BIN    ? of_split[SPLIT_TOKENS] * (uint64_t)token_bytes
           : kind == UNIT_DOCS ? of_split[SPLIT_DOCUMENTS] * DOCS_RECORD
                               : of_split[SPLIT_META_BYTES];
}

static inline bool encode_check_(const void *state, size_t unit, const Counts *counts, Error *e) {
    const EncodePass *s = state;
    for (int split = 0; split < SPLITS; split++) {
        for (int k = 0; k < UNIT_KINDS; k++) {
            char name[UNIT_NAME];
            uint64_t bytes = unit_split_bytes_(counts, split, k, s->token_bytes);
            unit_split_name(name, split, k);
            if (!unit_file_check(s->work, unit, name, bytes, e)) {
                return false;
            }
        }
    }
    return unit_file_check(s->work, unit, "dropped", counts->dropped_bytes, e);
}

// ------------------------------------------------------------------------------------------------
// dropped.jsonl

static inline const char *stored_(const EncodePass *s, const BatchDocument *d, Span span) {
    return worker_stored(&s->workers->items[d->worker], span);
}

// The reason and what goes with it.
static inline void dropped_put_reason_(const EncodePass *s, JsonWriter *w, const BatchDocument *d,
                                       DocumentState state) {
    static const char *const reasons[] = {
        [DOCUMENT_EMPTY] = "empty", "blank_line", "rejected_line"};
    if (state != DOCUMENT_DROPPED) {
        json_put_string(w, "reason", reasons[state]);
    }
    if (state == DOCUMENT_REJECTED) {
        size_t colon = d->why.length > 2 ? 2 : 0; // the text begins with ": "
        json_put_text(w, "detail", stored_(s, d, d->why) + colon, d->why.length - colon);
    }
    if (state != DOCUMENT_DROPPED) {
        return;
    }

    const Verdict *v = &d->verdict;
    json_put_string(w, "reason", drop_reason_name((DropReason)v->reason));
    if (v->reason == DROP_SHORT || v->reason == DROP_LONG) {
        json_put_uint(w, "value", (uint64_t)v->value);
    } else {
        json_put_double(w, "value", v->value);
    }
    if (v->reason >= DROP_EXACT_DUPLICATE) {
        json_open(w, "duplicate_of", '{');
        json_put_string(w, "source", s->sources->items[v->of_source].path);
        json_put_uint(w, "offset", v->of_offset);
        json_close(w, '}');
    }
}

// Writes one line: where the document is, and why it is not in the data.
static inline bool dropped_write_(EncodePass *s, const char *source, const BatchDocument *d,
                                  DocumentState state, UnitResult *r, Error *e) {
    JsonWriter w = {0};
    json_open(&w, NULL, '{');
    json_put_string(&w, "source", source);
    json_put_uint(&w, "offset", d->offset);
    json_put_uint(&w, "bytes", d->length);
    if (d->id.length) {
        json_put_raw(&w, "id", stored_(s, d, d->id), d->id.length);
    }
    dropped_put_reason_(s, &w, d, state);
    json_close(&w, '}');
    json_append(&w, "\n", 1);
    r->counts.dropped_bytes += w.length;
    bool ok = (!w.failed || fail(e, "%s: no memory for a line of dropped.jsonl", source)) &&
              unit_file_write(&s->dropped, w.data, w.length, e);
    free(w.data);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Documents

static inline bool tokens_write_(UnitFile *f, int token_bytes, const int32_t *ids, size_t count,
                                 Error *e) {
    unsigned char raw[8192];
    size_t block = sizeof raw / (size_t)token_bytes;
    for (size_t done = 0; done < count;) {
        size_t n = min_u64(count - done, block);
        for (size_t i = 0; i < n; i++) {
            store_le(raw + i * (size_t)token_bytes, (uint64_t)ids[done + i], token_bytes);
        }
        if (!unit_file_write(f, raw, n * (size_t)token_bytes, e)) {
            return false;
        }
        done += n;
    }
    return true;
}

// Which split a document goes to depends on the seed, its source and its offset alone.
static inline void encode_begin_document_(EncodePass *s, const BatchDocument *d) {
    uint32_t source = s->document.source;
    uint64_t place = random_bits(source, RANDOM_SPLIT, d->offset);
    s->document = (DocumentRecord){.offset = d->offset, .source = source};
    s->split = random_uniform(s->seed, RANDOM_SPLIT, place) < s->val_fraction;
    s->text_bytes = 0;
}

// Writes the end-of-document token, the record and the metadata of a document with text.
static inline bool encode_end_document_(EncodePass *s, const BatchDocument *d, UnitResult *r,
                                        Error *e) {
    UnitFile *files = s->files[s->split];
    uint64_t *counts = counts_split(&r->counts, s->split);
    unsigned char record[DOCS_RECORD];
    s->document.length = d->length;
    s->document.tokens++;
    s->document.metadata = counts[SPLIT_META_BYTES];
    s->document.metadata_length = (uint32_t)d->metadata.length;
    docs_store(record, &s->document);

    r->counts.tokens += s->document.tokens;
    counts[SPLIT_DOCUMENTS] += 1;
    counts[SPLIT_TOKENS] += s->document.tokens;
    counts[SPLIT_META_BYTES] += d->metadata.length + (d->metadata.length > 0);
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        if (d->has_facet[f] &&
            !origin_add(&r->origin[f], ORIGIN_UNIT_VALUES, stored_(s, d, d->facets[f]),
                        d->facets[f].length, 1, s->document.tokens, e)) {
            return false;
        }
    }

    return tokens_write_(&files[UNIT_BIN], s->token_bytes, &s->tokenizer->end_of_document, 1, e) &&
           unit_file_write(&files[UNIT_DOCS], record, sizeof record, e) &&
           (d->metadata.length == 0 ||
            (unit_file_write(&files[UNIT_META], stored_(s, d, d->metadata), d->metadata.length,
                             e) &&
             unit_file_write(&files[UNIT_META], "\n", 1, e)));
}

static inline bool encode_document_(EncodePass *s, const char *source, const Batch *b,
                                    const BatchDocument *d, UnitResult *r, Error *e) {
    if (d->begins) {
        encode_begin_document_(s, d);
    }
    for (size_t i = 0; i < d->chunk_count; i++) {
        const TextChunk *chunk = &b->chunks[d->first_chunk + i];
        const TokenBuffer *tokens = &s->workers->items[chunk->worker].tokens;
        s->text_bytes += chunk->length;
        s->document.tokens += chunk->token_count;
        if (!tokens_write_(&s->files[s->split][UNIT_BIN], s->token_bytes,
                           tokens->ids + chunk->first_token, chunk->token_count, e)) {
            return false;
        }
    }
    if (!d->ends) {
        return true;
    }
    return pass_end_document(r, s->text_bytes) ? encode_end_document_(s, d, r, e)
                                               : dropped_write_(s, source, d, DOCUMENT_EMPTY, r, e);
}

static inline bool encode_take_(void *state, const Source *source, Batch *b, UnitResult *r,
                                Error *e) {
    EncodePass *s = state;
    bool ok = batch_parse(b, source->kind, s->text_key, s->workers, e) &&
              batch_apply_verdicts(b, s->verdicts, e) &&
              batch_cut(b, s->tokenizer, source->path, e) &&
              batch_encode(b, s->tokenizer->model, s->workers, e);
    for (size_t i = 0; ok && i < b->document_count; i++) {
        const BatchDocument *d = &b->documents[i];
        ok = pass_count_document(r, d, s->workers, e);
        if (ok && d->state == DOCUMENT_KEPT) {
            ok = encode_document_(s, source->path, b, d, r, e);
        } else if (ok && d->ends) {
            ok = dropped_write_(s, source->path, d, d->state, r, e);
        }
    }
    return ok;
}

// Collective: tokenizes all units. On failure the line is printed.
static inline bool encode_pass_run(Corpus *c, VerdictReader *verdicts, const Tokenizer *tokenizer,
                                   int token_bytes) {
    EncodePass state = {.work = c->work,
                        .text_key = c->options->text_key,
                        .seed = c->options->seed,
                        .val_fraction = c->options->val_fraction,
                        .sources = &c->sources,
                        .units = &c->units,
                        .tokenizer = tokenizer,
                        .token_bytes = token_bytes,
                        .workers = &c->workers,
                        .verdicts = verdicts};
    const Pass pass = {.name = "encode",
                       .title = "tokenizing",
                       .resumable = true,
                       .state = &state,
                       .begin = encode_begin_,
                       .take = encode_take_,
                       .end = encode_end_,
                       .check = encode_check_};
    return pass_run(c, &pass);
}

#endif
