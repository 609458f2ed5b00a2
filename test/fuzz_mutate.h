// fuzz_mutate.h: changes inputs of the fuzz targets so that they get past the first check: JSON is
// edited as a tree, lengths and offsets are made right again afterwards, most of the time.
//
// An input is one or more parts, one for each file that a target reads, with PART_END between them.
#ifndef FUZZ_MUTATE_H
#define FUZZ_MUTATE_H

#include "model/checkpoint.h"
#include "trace/answers.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size); // libFuzzer's own mutations

// ------------------------------------------------------------------------------------------------
// Parts

static const char PART_END[] = "\n~~~~\n";
enum { PART_END_BYTES = sizeof PART_END - 1, MAX_PARTS = 4 };

typedef struct {
    uint8_t *data;
    size_t size;
} InputPart;

// Cuts data into `count` parts; those that are missing are empty, and the last one takes what is
// left.
static void split_parts(uint8_t *data, size_t size, size_t count, InputPart *parts) {
    for (size_t i = 0; i < count; i++) {
        uint8_t *end = i + 1 < count && size ? memmem(data, size, PART_END, PART_END_BYTES) : NULL;
        size_t taken = end ? (size_t)(end - data) : size;
        parts[i] = (InputPart){data, taken};
        taken += end ? PART_END_BYTES : 0;
        data += taken, size -= taken;
    }
}

// A part that grows: room for `most` bytes.
typedef struct {
    uint8_t *bytes;
    size_t size, most;
} Scratch;

static void scratch_put(Scratch *s, const void *bytes, size_t size) {
    size = size < s->most - s->size ? size : s->most - s->size;
    if (size) {
        memcpy(s->bytes + s->size, bytes, size);
    }
    s->size += size;
}

// ------------------------------------------------------------------------------------------------
// Choices: a stream of random numbers from libFuzzer's seed

typedef struct {
    uint64_t seed, drawn;
} Dice;

static uint64_t roll(Dice *d, uint64_t sides) {
    return random_bits(d->seed, RANDOM_FREE, d->drawn++) % sides;
}

// ------------------------------------------------------------------------------------------------
// JSON trees

typedef enum { EDIT_REPLACE, EDIT_REMOVE, EDIT_INSERT, EDIT_KEY } EditAction;

// What becomes of one node when the tree is written: another value, nothing, a further member
// behind it, another key.
typedef struct {
    const Json *at;
    EditAction action;
    const char *text; // the value as JSON; for EDIT_KEY the key
    size_t length;
    const char *key; // of an inserted member
    size_t key_length;
} Edit;

enum { MAX_EDITS = 64, MAX_JSON = 1 << 16 };

typedef struct {
    Edit items[MAX_EDITS];
    size_t count;
} Edits;

static void edit(Edits *edits, Edit one) {
    if (edits->count < MAX_EDITS) {
        edits->items[edits->count++] = one;
    }
}

static const Edit *edit_of(const Edits *edits, const Json *node, EditAction action) {
    for (size_t i = 0; edits && i < edits->count; i++) {
        if (edits->items[i].at == node && edits->items[i].action == action) {
            return &edits->items[i];
        }
    }
    return NULL;
}

static void write_key(JsonWriter *w, const char *key, size_t length) {
    json_append_quoted(w, key, length);
    json_append(w, ":", 1);
}

// Writes a tree with its numbers as they stood, changed by the edits (NULL: none).
static void write_tree(JsonWriter *w, const Json *node, const Edits *edits) {
    const Edit *replace = edit_of(edits, node, EDIT_REPLACE);
    bool object = node->kind == JSON_OBJECT, first = true;
    if (replace) {
        json_append(w, replace->text, replace->length);
    } else if (node->kind == JSON_NUMBER) {
        json_append(w, node->text, node->length);
    } else if (node->kind == JSON_STRING) {
        json_append_quoted(w, node->text, node->length);
    } else if (node->kind == JSON_NULL || node->kind == JSON_BOOL) {
        json_append_text(w, node->kind == JSON_NULL ? "null" : node->boolean ? "true" : "false");
    } else {
        json_append(w, object ? "{" : "[", 1);
        for (const Json *m = node->child; m && w->length < MAX_JSON; m = m->next) {
            const Edit *key = edit_of(edits, m, EDIT_KEY), *insert = edit_of(edits, m, EDIT_INSERT);
            if (edit_of(edits, m, EDIT_REMOVE)) {
                continue;
            }
            if (!first) {
                json_append(w, ",", 1);
            }
            first = false;
            if (object) {
                write_key(w, key ? key->text : m->key, key ? key->length : m->key_length);
            }
            write_tree(w, m, edits);
            if (insert) {
                json_append(w, ",", 1);
                if (object) {
                    write_key(w, insert->key, insert->key_length);
                }
                json_append(w, insert->text, insert->length);
            }
        }
        json_append(w, object ? "}" : "]", 1);
    }
}

// The node with this number in the order of the text (*number counts down), NULL if there are
// fewer.
static const Json *nth_node(const Json *node, uint64_t *number) {
    const Json *found = NULL;
    if ((*number)-- == 0) {
        return node;
    }
    for (const Json *m = node->kind >= JSON_ARRAY ? node->child : NULL; m && !found; m = m->next) {
        found = nth_node(m, number);
    }
    return found;
}

static uint64_t count_nodes(const Json *node) {
    uint64_t count = 1;
    for (const Json *m = node->kind >= JSON_ARRAY ? node->child : NULL; m; m = m->next) {
        count += count_nodes(m);
    }
    return count;
}

static const Json *random_node(const Json *root, Dice *d) {
    uint64_t number = roll(d, count_nodes(root));
    return nth_node(root, &number);
}

// Another value in place of a node: a value with a name for trouble, a copy of another node, or a
// small change of it.
static void random_value(JsonWriter *w, const Json *root, const Json *node, Dice *d) {
    static const char *const troubles[] = {"0",
                                           "1",
                                           "2",
                                           "-1",
                                           "-0",
                                           "0.0",
                                           "1.5",
                                           "1e-5",
                                           "1e999",
                                           "-1e999",
                                           "255",
                                           "256",
                                           "65535",
                                           "65536",
                                           "2147483647",
                                           "2147483648",
                                           "4294967295",
                                           "4294967296",
                                           "9223372036854775807",
                                           "9223372036854775808",
                                           "18446744073709551615",
                                           "18446744073709551616",
                                           "1e19",
                                           "null",
                                           "true",
                                           "false",
                                           "[]",
                                           "{}",
                                           "[[]]",
                                           "\"\"",
                                           "\"\\u0000\"",
                                           "\"\\ud800\"",
                                           "\"\\n\"",
                                           "\"a\"",
                                           "\"..\"",
                                           "\"/\"",
                                           "\"%s%n\"",
                                           "\"F32\"",
                                           "\"BF16\"",
                                           "\"<script>\"",
                                           "\"|`*_\"",
                                           "\"<|endoftext|>\""};
    uint64_t number;
    char text[96];
    uint64_t kind = roll(d, 4);
    if (kind == 0 || (node->kind >= JSON_ARRAY && kind == 2)) {
        json_append_text(w, troubles[roll(d, sizeof troubles / sizeof *troubles)]);
    } else if (kind == 1) {
        write_tree(w, random_node(root, d), NULL);
    } else if (json_uint(node, &number)) {
        const uint64_t changed[] = {number + 1, number - 1, 2 * number,
                                    number / 2, number + 8, roll(d, 300)};
        snprintf(text, sizeof text, "%llu", (unsigned long long)changed[roll(d, 6)]);
        json_append_text(w, text);
    } else if (node->kind == JSON_STRING || node->kind == JSON_NUMBER) {
        uint8_t bytes[64];
        char clean[192];
        uint64_t replaced = 0;
        size_t size = node->length < sizeof bytes ? node->length : sizeof bytes, consumed;
        memcpy(bytes, node->text, size);
        size = LLVMFuzzerMutate(bytes, size, sizeof bytes);
        size = utf8_sanitize(clean, (char *)bytes, size, true, &consumed, &replaced);
        json_append_quoted(w, clean, size);
    } else {
        write_tree(w, node, NULL);
    }
}

// One to three random edits of a JSON text; what is no JSON is mutated as bytes.
static void mutate_json(Scratch *s, Dice *d) {
    for (uint64_t rounds = 1 + roll(d, 3); rounds > 0; rounds--) {
        JsonDocument document;
        Error e;
        if (roll(d, 6) == 0 || !json_parse(&document, (char *)s->bytes, s->size, "", &e)) {
            s->size = LLVMFuzzerMutate(s->bytes, s->size, s->most);
            continue;
        }
        const Json *node = random_node(document.root, d), *other = random_node(document.root, d);
        JsonWriter value = {0}, text = {0};
        Edits edits = {0};
        random_value(&value, document.root, node, d);
        EditAction action = (EditAction)roll(d, 4);
        const char *key = other->key ? other->key : "text";
        size_t key_length = other->key ? other->key_length : 4;
        if (action == EDIT_REMOVE && roll(d, 2)) {
            action = EDIT_REPLACE;
        }
        edit(&edits, action == EDIT_KEY
                         ? (Edit){node, action, key, key_length, NULL, 0}
                         : (Edit){node, action, value.data, value.length, key, key_length});
        write_tree(&text, document.root, &edits);
        if (text.length && text.length <= s->most) {
            s->size = 0;
            scratch_put(s, text.data, text.length);
        }
        free(value.data);
        free(text.data);
        json_free(&document);
    }
}

// One line of JSON Lines as JSON, or all lines as bytes.
static void mutate_lines(Scratch *s, Dice *d) {
    size_t lines = 1, start = 0;
    for (size_t i = 0; i < s->size; i++) {
        lines += s->bytes[i] == '\n';
    }
    if (roll(d, 4) == 0) {
        s->size = LLVMFuzzerMutate(s->bytes, s->size, s->most);
        return;
    }
    for (uint64_t skip = roll(d, lines); skip > 0; skip--) {
        start = (size_t)((uint8_t *)memchr(s->bytes + start, '\n', s->size - start) - s->bytes) + 1;
    }
    uint8_t *end = start < s->size ? memchr(s->bytes + start, '\n', s->size - start) : NULL;
    size_t length = end ? (size_t)(end - s->bytes) - start : s->size - start,
           rest = s->size - start - length;
    uint8_t *tail = malloc(rest + 1);
    Scratch line = {malloc(s->most - rest - start + 1), 0, s->most - rest - start};
    memcpy(tail, s->bytes + start + length, rest);
    scratch_put(&line, s->bytes + start, length);
    mutate_json(&line, d);
    s->size = start;
    scratch_put(s, line.bytes, line.size);
    scratch_put(s, tail, rest);
    free(tail);
    free(line.bytes);
}

// ------------------------------------------------------------------------------------------------
// Protocol Buffers

typedef struct {
    uint64_t tag;                // field << 3 | wire type
    const uint8_t *bytes, *data; // the whole field; what is in it
    size_t size, length;
} ProtoField;

enum { MAX_FIELDS = 1024 };

static uint64_t read_varint(const uint8_t **at, const uint8_t *end) {
    uint64_t value = 0;
    for (int shift = 0; *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= shift < 64 ? (uint64_t)(byte & 127) << shift : 0;
        if (byte < 128) {
            break;
        }
    }
    return value;
}

static void scratch_varint(Scratch *s, uint64_t value) {
    do {
        uint8_t byte = (uint8_t)((value & 127) | (value > 127 ? 128 : 0));
        scratch_put(s, &byte, 1);
    } while (value >>= 7);
}

// Fields of a message as far as it makes sense; returns how many.
static size_t proto_fields(const uint8_t *data, size_t size, ProtoField *fields) {
    const uint8_t *at = data, *end = data + size;
    size_t count = 0;
    while (at < end && count < MAX_FIELDS) {
        ProtoField f = {.bytes = at};
        f.tag = read_varint(&at, end);
        f.data = at;
        if ((f.tag & 7) == 0) {
            read_varint(&at, end);
        } else if ((f.tag & 7) == 2) {
            f.length = (size_t)read_varint(&at, end);
            f.data = at;
            f.length = f.length < (size_t)(end - at) ? f.length : (size_t)(end - at);
            at += f.length;
        } else {
            size_t n = (f.tag & 7) == 1 ? 8 : 4;
            at += n < (size_t)(end - at) ? n : (size_t)(end - at);
        }
        f.length = (size_t)(at - f.data);
        f.size = (size_t)(at - f.bytes);
        fields[count++] = f;
    }
    return count;
}

// Changes one field of a message, a message within it the same way: removes, repeats, moves or
// mutates it.
static void mutate_proto(Scratch *s, Dice *d, int depth) {
    ProtoField *fields = malloc(MAX_FIELDS * sizeof *fields);
    Scratch out = {malloc(s->most + 1), 0, s->most};
    size_t count = proto_fields(s->bytes, s->size, fields);
    if (count == 0 || roll(d, 8) == 0) {
        s->size = LLVMFuzzerMutate(s->bytes, s->size, s->most);
        free(fields);
        free(out.bytes);
        return;
    }
    size_t chosen = (size_t)roll(d, count), other = (size_t)roll(d, count);
    uint64_t action = roll(d, 8);
    for (size_t i = 0; i < count; i++) {
        const ProtoField *f = &fields[i];
        if (i != chosen || action == 1) {
            scratch_put(&out, f->bytes, f->size);
        }
        if (i == chosen && action == 1) { // another one behind it
            scratch_put(&out, fields[other].bytes, fields[other].size);
        } else if (i == chosen && action > 1) {
            Scratch inner = {malloc(s->most + 1), 0, s->most / 2};
            scratch_put(&inner, f->data, f->length);
            if ((f->tag & 7) == 2 && depth == 0) {
                mutate_proto(&inner, d, depth + 1);
            } else {
                inner.size = LLVMFuzzerMutate(inner.bytes, inner.size, inner.most);
            }
            scratch_varint(&out, f->tag);
            if ((f->tag & 7) == 2) {
                scratch_varint(&out, inner.size);
            }
            scratch_put(&out, inner.bytes, inner.size);
            free(inner.bytes);
        }
    }
    s->size = 0;
    scratch_put(s, out.bytes, out.size);
    free(fields);
    free(out.bytes);
}

// ------------------------------------------------------------------------------------------------
// Repairs: what a file says about itself is made true

// Gives the tensors of a safetensors header the data_offsets that follow from dtype and shape, one
// behind the other. Returns the bytes of data that they take.
static uint64_t repair_offsets(Scratch *header, bool tile) {
    JsonDocument document;
    Error e;
    Edits edits = {0};
    JsonWriter texts[MAX_EDITS] = {{0}}, out = {0};
    uint64_t end = 0;
    if (!json_parse(&document, (char *)header->bytes, header->size, "", &e)) {
        return 0;
    }
    for (const Json *m = document.root->kind == JSON_OBJECT ? document.root->child : NULL; m;
         m = m->next) {
        const Json *offsets = json_get(m, "data_offsets"), *shape = json_get(m, "shape");
        const char *dtype = json_string(json_get(m, "dtype"));
        uint64_t bits = dtype ? safetensors_dtype_bits(dtype) : 0, n;
        if (!tile) { // leave them, take the largest end
            end = offsets && offsets->kind == JSON_ARRAY && offsets->length == 2 &&
                          json_uint(offsets->child->next, &n) && n < MAX_JSON && n > end
                      ? n
                      : end;
            continue;
        }
        for (const Json *k = shape && shape->kind == JSON_ARRAY ? shape->child : NULL; k;
             k = k->next) {
            bits = json_uint(k, &n) && n < 4096 && bits < (1 << 20) ? bits * n : 0;
        }
        if (offsets && edits.count < MAX_EDITS) {
            JsonWriter *text = &texts[edits.count];
            json_open(text, NULL, '[');
            json_put_uint(text, NULL, end);
            json_put_uint(text, NULL, end += bits / 8);
            json_close(text, ']');
            edit(&edits, (Edit){offsets, EDIT_REPLACE, text->data, text->length, NULL, 0});
        }
    }
    write_tree(&out, document.root, &edits);
    if (out.length <= header->most && tile) {
        header->size = 0;
        scratch_put(header, out.data, out.length);
    }
    for (size_t i = 0; i < MAX_EDITS; i++) {
        free(texts[i].data);
    }
    free(out.data);
    json_free(&document);
    return end;
}

// safetensors: u64 length, JSON, data. Mutates the JSON or the data and makes length and size fit
// again.
static void mutate_safetensors(Scratch *s, Dice *d) {
    if (s->size < 8 || s->most < 64 || roll(d, 8) == 0) {
        s->size = LLVMFuzzerMutate(s->bytes, s->size, s->most);
        return;
    }
    size_t length = load_le(s->bytes, 8) < s->size - 8 ? (size_t)load_le(s->bytes, 8) : s->size - 8;
    Scratch header = {malloc(s->most), 0, s->most - 8}, data = {malloc(s->most), 0, s->most};
    scratch_put(&header, s->bytes + 8, length);
    scratch_put(&data, s->bytes + 8 + length, s->size - 8 - length);
    if (roll(d, 4)) {
        mutate_json(&header, d);
    } else {
        data.size = LLVMFuzzerMutate(data.bytes, data.size, data.most);
    }
    if (roll(d, 4)) {
        uint64_t wanted = min_u64(repair_offsets(&header, roll(d, 2)), data.most);
        while (data.size < wanted) {
            scratch_put(&data, "\x12\x34\x80\x3f", min_u64(4, wanted - data.size));
        }
        data.size = wanted;
    }
    store_le(s->bytes, header.size, 8);
    s->size = 8;
    scratch_put(s, header.bytes, header.size);
    scratch_put(s, data.bytes, data.size);
    free(header.bytes);
    free(data.bytes);
}

// Megatron .idx and .bin: makes counts, pointers, documents and the size of the .bin follow from
// the lengths.
static void repair_pair(Scratch *idx, Scratch *bin, Dice *d) {
    static const uint8_t widths[9] = {[1] = 1, [2] = 1, [3] = 2, [4] = 4, [5] = 8, [8] = 2};
    static const uint8_t types[] = {1, 2, 3, 4, 5, 8};
    uint8_t old[34 + 4 * 16] = {0}, number[8];
    memcpy(old, idx->bytes, idx->size < sizeof old ? idx->size : sizeof old);
    uint64_t S = load_le(old + 18, 8) % 17, D = load_le(old + 26, 8) % (S + 3) + 1, total = 0,
             pointer = 0;
    if (old[17] > 8 || !widths[old[17]]) {
        old[17] = types[roll(d, sizeof types)];
    }
    memcpy(old, IDX_MAGIC, sizeof IDX_MAGIC);
    store_le(old + 9, 1, 8);
    store_le(old + 18, S, 8);
    store_le(old + 26, S ? D : 1, 8);
    for (uint64_t i = 0; i < S; i++) {
        store_le(old + 34 + 4 * i, load_le(old + 34 + 4 * i, 4) % 40, 4);
        total += load_le(old + 34 + 4 * i, 4) * widths[old[17]];
    }
    idx->size = 0;
    scratch_put(idx, old, 34 + 4 * S);
    for (uint64_t i = 0; i < S; i++) {
        store_le(number, pointer, 8);
        scratch_put(idx, number, 8);
        pointer += load_le(old + 34 + 4 * i, 4) * widths[old[17]];
    }
    for (uint64_t i = 0; i < (S ? D : 1); i++) {
        store_le(number, i + 1 == D ? S : i * S / D, 8);
        scratch_put(idx, number, 8);
    }
    while (bin->size < total && bin->size < bin->most) {
        scratch_put(bin, "\x07\x00\xff\x01\x00", 1 + bin->size % 5);
    }
    bin->size = total < bin->size ? total : bin->size;
}

// .docs: header and number of records are made right, and the tokens of each record; its metadata
// lie in `meta`, its source is the first, most of the time.
static void repair_records(Scratch *docs, const Scratch *meta, size_t count, const uint64_t *ends,
                           Dice *d) {
    uint8_t header[DOCS_HEADER] = "TGPTDOCS";
    store_le(header + 8, DOCS_VERSION, 4);
    store_le(header + 12, DOCS_RECORD, 4);
    store_le(header + 16, count, 8);
    while (docs->size < DOCS_HEADER + DOCS_RECORD * count && docs->size < docs->most) {
        scratch_put(docs, "", 1);
    }
    if (docs->size < DOCS_HEADER + DOCS_RECORD * count) {
        return;
    }
    memcpy(docs->bytes, header, sizeof header);
    docs->size = DOCS_HEADER + DOCS_RECORD * count;
    for (size_t i = 0; i < count; i++) {
        DocumentRecord record = docs_load(docs->bytes + DOCS_HEADER + DOCS_RECORD * i);
        record.tokens = ends[i] - (i ? ends[i - 1] : 0);
        if (roll(d, 8)) {
            record.source = 0;
            record.metadata = meta->size ? record.metadata % (meta->size + 1) : 0;
            record.metadata_length =
                record.metadata_length % (uint32_t)(meta->size - record.metadata + 1);
        }
        docs_store(docs->bytes + DOCS_HEADER + DOCS_RECORD * i, &record);
    }
}

// .index: magic, version, tokens; entries and blocks as many as there are bytes for. Nothing of an
// empty one.
static void repair_suffixes(Scratch *index, uint64_t tokens) {
    if (index->size == 0 || index->most < INDEX_HEADER) {
        return;
    }
    while (index->size < INDEX_HEADER) {
        scratch_put(index, "", 1);
    }
    uint64_t blocks = min_u64(load_le(index->bytes + 32, 8) % 4, (index->size - INDEX_HEADER) / 16);
    memcpy(index->bytes, "TGPTINDX", 8);
    store_le(index->bytes + 8, INDEX_VERSION, 4);
    store_le(index->bytes + 12, INDEX_OVERLAP, 4);
    store_le(index->bytes + 16, tokens, 8);
    store_le(index->bytes + 24, (index->size - INDEX_HEADER - 16 * blocks) / 4, 8);
    store_le(index->bytes + 32, blocks, 8);
    index->size -= (index->size - INDEX_HEADER) % 4;
}

// llm.c shard: magic, version and count of the header follow from what is there.
static void repair_llmc(Scratch *s) {
    if (s->most < LLMC_HEADER) {
        return;
    }
    while (s->size < LLMC_HEADER) {
        scratch_put(s, "", 1);
    }
    bool wide = load_le(s->bytes, 4) == 20240801;
    store_le(s->bytes, wide ? 20240801 : 20240520, 4);
    store_le(s->bytes + 4, wide ? 7 : 1, 4);
    s->size -= (s->size - LLMC_HEADER) % (wide ? 4 : 2);
    store_le(s->bytes + 8, (s->size - LLMC_HEADER) / (wide ? 4 : 2), 4);
}

static void write_token(JsonWriter *w, const char *token, size_t length, size_t id) {
    char text[24];
    snprintf(text, sizeof text, "%zu", id);
    json_append(w, id ? "," : "{", 1);
    write_key(w, token, length);
    json_append_text(w, text);
}

// The vocabulary {token: id} with the ids 0, 1, 2, ... in the order of the text, and a further
// token at the end unless it is NULL.
static void write_vocabulary(JsonWriter *w, const Json *vocab, const char *more,
                             size_t more_length) {
    size_t id = 0;
    for (const Json *m = vocab->child; m; m = m->next) {
        write_token(w, m->key, m->key_length, id++);
    }
    if (more) {
        write_token(w, more, more_length, id);
    }
    json_append(w, "}", 1);
}

static const Json *random_member(const Json *parent, Dice *d) {
    uint64_t number = roll(d, parent->length);
    const Json *m = parent->child;
    while (number-- > 0) {
        m = m->next;
    }
    return m;
}

static const Json *last_member(const Json *parent) {
    const Json *m = parent->child;
    while (m && m->next) {
        m = m->next;
    }
    return m;
}

// A tokenizer's vocabulary gets ids without holes; in one of two cases also a merge of two random
// tokens. The merge goes into "merges" of the tokenizer.json, or to the end of `lines`, the text of
// a merges.txt.
static void repair_tokenizer(Scratch *s, Scratch *lines, Dice *d) {
    JsonDocument document;
    Error e;
    if (!json_parse(&document, (char *)s->bytes, s->size, "", &e)) {
        return;
    }
    const Json *model = json_get(document.root, "model"),
               *vocab = lines ? document.root : json_get(model, "vocab");
    const Json *merges = json_get(model, "merges"),
               *added = json_get(document.root, "added_tokens");
    JsonWriter text = {0}, token = {0}, merge = {0}, quoted = {0}, out = {0},
               ids[MAX_EDITS] = {{0}};
    Edits edits = {0};
    if (vocab && vocab->kind == JSON_OBJECT && vocab->length > 0) {
        bool grow = roll(d, 2);
        const Json *left = random_member(vocab, d), *right = random_member(vocab, d);
        json_append(&token, left->key, left->key_length);
        json_append(&token, right->key, right->key_length);
        json_append(&merge, left->key, left->key_length);
        json_append(&merge, " ", 1);
        json_append(&merge, right->key, right->key_length);
        json_append_quoted(&quoted, merge.data, merge.length);
        write_vocabulary(&text, vocab, grow ? token.data : NULL, token.length);
        edit(&edits, (Edit){vocab, EDIT_REPLACE, text.data, text.length, NULL, 0});
        if (grow && lines) {
            scratch_put(lines, "\n", 1);
            scratch_put(lines, merge.data, merge.length);
        } else if (grow && merges && merges->kind == JSON_ARRAY && merges->child) {
            edit(&edits,
                 (Edit){last_member(merges), EDIT_INSERT, quoted.data, quoted.length, NULL, 0});
        }
        size_t next = vocab->length + grow, i = 0;
        for (const Json *a = added && added->kind == JSON_ARRAY ? added->child : NULL; a && i < 32;
             a = a->next, i++) {
            const Json *content = json_get(a, "content"), *id = json_get(a, "id");
            size_t known = 0;
            const Json *m = vocab->child;
            for (; m && content &&
                   (m->key_length != content->length || content->kind != JSON_STRING ||
                    memcmp(m->key, content->text, m->key_length));
                 m = m->next) {
                known++;
            }
            if (id) {
                char number[24];
                snprintf(number, sizeof number, "%zu", m ? known : next++);
                json_append_text(&ids[i], number);
                edit(&edits, (Edit){id, EDIT_REPLACE, ids[i].data, ids[i].length, NULL, 0});
            }
        }
        write_tree(&out, document.root, &edits);
        if (out.length <= s->most) {
            s->size = 0;
            scratch_put(s, out.data, out.length);
        }
    }
    for (size_t i = 0; i < MAX_EDITS; i++) {
        free(ids[i].data);
    }
    free(text.data);
    free(token.data);
    free(merge.data);
    free(quoted.data);
    free(out.data);
    json_free(&document);
}

#endif
