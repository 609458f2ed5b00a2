// encode_pass.h: the pass that tokenizes: for each unit and split its stretch of SPLIT.bin, .docs
// and .meta, and its lines of dropped.jsonl.
#ifndef CORPUS_ENCODE_PASS_H
#define CORPUS_ENCODE_PASS_H

#include "corpus/pass.h"
#include "shards/docs.h"
#include "shards/idx.h"
#include "util/random.h"

typedef struct {
    DocumentRecord document; // the one at hand
    int split;
} EncodePass;

// ------------------------------------------------------------------------------------------------
// dropped.jsonl

// The reason and what goes with it.
static inline void dropped_put_reason_(JsonWriter *w, const UnitRun *u, const BatchDocument *d) {
    static const char *const reasons[] = {
        [DOCUMENT_EMPTY] = "empty", "blank_line", "rejected_line"};
    const Verdict *v = &d->verdict;
    if (d->state != DOCUMENT_DROPPED) {
        json_put_string(w, "reason", reasons[d->state]);
        if (d->state == DOCUMENT_REJECTED) {
            json_put_text(w, "detail", unit_stored(u, d, d->why), d->why.length);
        }
        return;
    }

    json_put_string(w, "reason", DROP_REASON_NAMES[v->reason]);
    if (v->reason == DROP_SHORT || v->reason == DROP_LONG) {
        json_put_uint(w, "value", (uint64_t)v->value);
    } else {
        json_put_double(w, "value", v->value);
    }
    if (v->reason >= DROP_EXACT_DUPLICATE) {
        json_open(w, "duplicate_of", '{');
        json_put_string(w, "source", u->corpus->sources.items[v->of_source].path);
        json_put_uint(w, "offset", v->of_offset);
        json_close(w, '}');
    }
}

// Writes one line: where the document is, and why it is not in the data.
static inline bool dropped_write_(UnitRun *u, const BatchDocument *d, Error *e) {
    JsonWriter w = {0};
    json_open(&w, NULL, '{');
    json_put_string(&w, "source", u->source->path);
    json_put_uint(&w, "offset", d->offset);
    json_put_uint(&w, "bytes", d->length);
    if (d->id.length) {
        json_put_raw(&w, "id", unit_stored(u, d, d->id), d->id.length);
    }
    dropped_put_reason_(&w, u, d);
    json_close(&w, '}');
    json_append(&w, "\n", 1);
    u->result.counts.dropped_bytes += w.length;
    bool ok =
        (!w.failed || fail(e, "%s: no memory for a line of dropped.jsonl", u->source->path)) &&
        unit_write(u, UNIT_DROPPED, w.data, w.length, e);
    free(w.data);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Documents

static inline bool tokens_write_(UnitRun *u, int split, const int32_t *ids, size_t count,
                                 Error *e) {
    unsigned char raw[8192];
    const int file = unit_file_of_split(split, SPLIT_BIN);
    const size_t bytes = u->corpus->item_bytes[file], block = sizeof raw / bytes;
    for (size_t done = 0; done < count;) {
        size_t n = min_u64(count - done, block);
        for (size_t i = 0; i < n; i++) {
            store_le(raw + i * bytes, (uint64_t)ids[done + i], (int)bytes);
        }
        if (!unit_write(u, file, raw, n * bytes, e)) {
            return false;
        }
        done += n;
    }
    return true;
}

// Which split a document goes to depends on the seed, its source and its offset alone.
static inline void encode_begin_document_(EncodePass *s, const UnitRun *u, const BatchDocument *d) {
    const PrepareOptions *o = u->corpus->options;
    s->document = (DocumentRecord){.offset = d->offset, .source = unit_source(u)};
    uint64_t place = random_bits(s->document.source, RANDOM_SPLIT, d->offset);
    s->split = random_uniform(o->seed, RANDOM_SPLIT, place) < o->val_fraction;
}

// Writes the end-of-document token, the record and the metadata of a document with text.
static inline bool encode_end_document_(EncodePass *s, UnitRun *u, const BatchDocument *d,
                                        Error *e) {
    const char *metadata = unit_stored(u, d, d->metadata);
    const size_t length = d->metadata.length;
    uint64_t *counts = &u->result.counts.all[count_of_split(s->split, 0)];
    unsigned char record[DOCS_RECORD];
    s->document.length = d->length;
    s->document.tokens++;
    s->document.metadata = counts[SPLIT_META];
    s->document.metadata_length = (uint32_t)length;
    docs_store(record, &s->document);

    u->result.counts.tokens += s->document.tokens;
    counts[SPLIT_DOCS] += 1;
    counts[SPLIT_BIN] += s->document.tokens;
    counts[SPLIT_META] += length + (length > 0);
    for (int f = 0; f < ORIGIN_FACETS; f++) {
        if (d->has_facet[f] &&
            !origin_add(&u->result.origin[f], ORIGIN_UNIT_VALUES, unit_stored(u, d, d->facets[f]),
                        d->facets[f].length, 1, s->document.tokens, e)) {
            return false;
        }
    }

    const int docs = unit_file_of_split(s->split, SPLIT_DOCS);
    const int meta = unit_file_of_split(s->split, SPLIT_META);
    return tokens_write_(u, s->split, &u->corpus->tokenizer.end_of_document, 1, e) &&
           unit_write(u, docs, record, sizeof record, e) &&
           unit_write(u, meta, metadata, length, e) && unit_write(u, meta, "\n", length > 0, e);
}

static inline bool encode_process_(UnitRun *u, Error *e) {
    const Tokenizer *tokenizer = &u->corpus->tokenizer;
    return unit_cut(u, tokenizer, e) &&
           batch_encode(&u->batch, tokenizer->model, &u->corpus->workers, e);
}

static inline bool encode_take_(void *state, UnitRun *u, const BatchDocument *d, Error *e) {
    EncodePass *s = state;
    if (d->begins) {
        encode_begin_document_(s, u, d);
    }
    for (size_t i = 0; i < d->chunk_count; i++) {
        const TextChunk *chunk = &u->batch.chunks[d->first_chunk + i];
        const int32_t *ids = u->corpus->workers.items[chunk->worker].tokens.ids;
        s->document.tokens += chunk->token_count;
        if (!tokens_write_(u, s->split, ids + chunk->first_token, chunk->token_count, e)) {
            return false;
        }
    }
    if (!d->ends) {
        return true;
    }
    return d->state == DOCUMENT_KEPT ? encode_end_document_(s, u, d, e) : dropped_write_(u, d, e);
}

// Collective: tokenizes all units. On failure the line is printed.
static inline bool encode_pass_run(Corpus *c) {
    EncodePass state = {0};
    const Pass pass = {.result = "encode.json",
                       .title = "tokenizing",
                       .first_file = UNIT_TRAIN_DOCS,
                       .end_file = UNIT_DROPPED + 1,
                       .state = &state,
                       .process = encode_process_,
                       .take = encode_take_};
    return pass_run(c, &pass);
}

#endif
