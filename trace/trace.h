// trace.h: from a step of a run to the documents that it read, from a document to the steps that
// read it, from a text to the places of the training data that hold it word for word. Nothing is
// stored while training: the order of the samples is computed again, and hashes prove that run and
// data belong together.
//
// Proof:      sums_build, proof_*     chunk hashes, so that an answer is proved without hashing all
// of the data Index:      index_build             suffix array over the tokens of a split, sorted
// by the text that follows Documents:  trace_data_*            which document holds a token, and
// what is known of it Run:        trace_run_*             steps, rows and ranks out of log.jsonl
// and restarts.jsonl Search:     text_search             the longest spans of a text that stand in
// the data Answers:    trace_answer            what the trace command prints, for people or as JSON
// Lines
#ifndef TRACE_H
#define TRACE_H

#include <omp.h>
#include <signal.h>
#include <sys/mman.h>

#include "dataloader.h" // defines: Dataset, Mixture, mixture_*, DocumentRecord, docs_load, Sha256, OutputFile, read_at
#include "shards/sums.h"
#include "tokenizer.h" // defines: Tokenizer, tokenizer_text
#include "util/json.h"
#include "util/suffix_array.h" // defines: suffix_sort

// ------------------------------------------------------------------------------------------------
// Index: SPLIT.index, the tokens of a split in the order of the text that begins with them
//
//   0   "TGPTINDX", u32 version = 1, u32 longest span, u64 tokens, u64 entries, u64 blocks, 24 zero
//   bytes 64  per block: u64 first token, u64 first entry
//       u32 entries: tokens, counted from the first of their block
//
// A block is as many tokens as make 64 MiB of text. Its entries are sorted by the bytes of the text
// that follows, up to INDEX_OVERLAP bytes beyond the block; so each span of up to INDEX_OVERLAP
// bytes that begins in the block is found in it by bisection. Text ends at the end-of-document
// token (and at one without text), below every byte; such tokens have no entry. Sorting text, not
// ids, makes a span found however its edges were cut into tokens.

enum { INDEX_VERSION = 1, INDEX_HEADER = 64, INDEX_BLOCK = 1 << 26, INDEX_OVERLAP = 1 << 16 };

// The text that each token stands for in the data. One that ends it, as the end-of-document token
// does, has none.
typedef struct {
    char *bytes;
    size_t *starts; // (vocab_size + 1) where a token's text begins in `bytes`
    size_t vocab_size, longest;
} TokenTexts;

static inline void token_texts_free(TokenTexts *t) {
    free(t->bytes);
    free(t->starts);
    *t = (TokenTexts){0};
}

// Writes the text of a token to `out`, which has room for what tokenizer_text gives. A piece is
// spelled with U+2581 for a space, and as <0xNN> for a byte. What a tokenizer normalizes is found
// as it left it.
static inline size_t token_text_of_(const Tokenizer *t, int32_t id, char *out) {
    size_t length, written = 0;
    const char *text = tokenizer_text(t, id, &length);
    if (id == t->end_of_document) {
        return 0;
    }
    if (t->model == MODEL_BYTE_BPE || t->vocabulary.tokens[id].added ||
        (size_t)id >= t->vocabulary.model_count) {
        memcpy(out, text, length);
        return length;
    }
    int16_t byte = piece_byte(text, length, true);
    if (byte >= 0 && t->vocabulary.byte_id[byte] == id) {
        *out = (char)byte;
        return 1;
    }
    for (size_t i = 0; i < length;) {
        bool space = length - i >= 3 && !memcmp(text + i, SPACE_SYMBOL, 3);
        out[written++] = space ? ' ' : text[i];
        i += space ? 3 : 1;
    }
    return written;
}

static inline bool token_texts_init(TokenTexts *t, const Tokenizer *tokenizer, Error *e) {
    size_t capacity = 0, count = 0;
    *t = (TokenTexts){.vocab_size = tokenizer->vocabulary.count};
    t->starts = calloc(t->vocab_size + 1, sizeof *t->starts);
    if (!t->starts) {
        return fail(e, "no memory for the text of %zu tokens", t->vocab_size);
    }
    for (size_t id = 0; id < t->vocab_size; id++) {
        size_t length = 0;
        tokenizer_text(tokenizer, (int32_t)id, &length);
        if (!array_reserve(&t->bytes, &capacity, count, length + 1, 1, e)) {
            token_texts_free(t);
            return false;
        }
        length = token_text_of_(tokenizer, (int32_t)id, t->bytes + count);
        count += length;
        t->starts[id + 1] = count;
        t->longest = length > t->longest ? length : t->longest;
    }
    return true;
}

static inline const char *token_text(const TokenTexts *t, uint64_t id, size_t *length) {
    if (id >= t->vocab_size) {
        *length = 0;
        return "";
    }
    *length = t->starts[id + 1] - t->starts[id];
    return t->bytes + t->starts[id];
}

typedef struct {
    Dataset data;
    TokenTexts texts;
    size_t block_bytes; // text of a block
    char path[PATH_LIMIT];
    int file;
    uint64_t *first_token, *first_entry; // (blocks + 1): the last is behind all
    size_t blocks, token_capacity, entry_capacity;
} IndexBuild_;

// Ids in order, read in pieces.
typedef struct {
    const Dataset *data;
    uint64_t at, end, held; // token numbers: raw holds those from at - at % held on
    unsigned char raw[1 << 16];
} TokenReader_;

static inline bool token_next_(TokenReader_ *r, size_t vocab_size, uint64_t *id, Error *e) {
    const size_t bytes = (size_t)r->data->token_bytes, block = sizeof r->raw / bytes;
    size_t j = r->held % block;
    if (j == 0 &&
        !read_at(r->data->file, r->data->path, r->raw, min_u64(r->end - r->at, block) * bytes,
                 r->data->first_byte + r->at * bytes, e)) {
        return false;
    }
    *id = load_le(r->raw + j * bytes, (int)bytes);
    r->held++;
    r->at++;
    return *id < vocab_size ||
           fail(e, "%s: token %llu has id %llu, outside the vocabulary of %zu", r->data->path,
                (unsigned long long)r->at - 1, (unsigned long long)*id, vocab_size);
}

static inline bool index_add_block_(IndexBuild_ *b, uint64_t token, uint64_t entry, Error *e) {
    if (!array_reserve(&b->first_token, &b->token_capacity, b->blocks, 1, sizeof token, e) ||
        !array_reserve(&b->first_entry, &b->entry_capacity, b->blocks, 1, sizeof entry, e)) {
        return false;
    }
    b->first_token[b->blocks] = token;
    b->first_entry[b->blocks++] = entry;
    return true;
}

// Cuts the tokens into blocks and counts their entries.
static inline bool index_plan_(IndexBuild_ *b, Error *e) {
    TokenReader_ *r = calloc(1, sizeof *r);
    uint64_t id, entries = 0, bytes = b->block_bytes;
    bool ok = r || fail(e, "%s: no memory to read it", b->data.path);
    if (ok) {
        *r = (TokenReader_){.data = &b->data, .end = b->data.tokens};
    }
    while (ok && r->at < r->end) {
        size_t length = 0;
        ok = token_next_(r, b->texts.vocab_size, &id, e);
        if (ok) {
            token_text(&b->texts, id, &length);
            bytes += length + (length == 0);
            if (bytes > b->block_bytes) {
                ok = index_add_block_(b, r->at - 1, entries, e);
                bytes = length + (length == 0);
            }
            entries += length > 0;
        }
    }
    ok = ok && index_add_block_(b, b->data.tokens, entries, e);
    b->blocks--; // the last entry is the end
    free(r);
    return ok;
}

// The text of a block as symbols for the sort: 0 for its ends, byte + 1 below C0, which UTF-8 never
// uses, and the byte itself above.
typedef struct {
    unsigned char *symbols;
    int32_t *suffixes;
    uint64_t *starts; // bit i: a token begins at byte i
    uint32_t *ranks;  // tokens that begin before byte 64 * i
    size_t bytes, capacity;
    uint64_t tokens; // of the block itself, without what overlaps
} IndexBlock_;

static inline bool index_block_add_(IndexBlock_ *t, const char *text, size_t length,
                                    const char *path, Error *e) {
    if (t->capacity - t->bytes <= length) { // only a token of more than 1 MiB can get here
        return fail(e, "%s: a token of %zu bytes is too long to index", path, length);
    }
    t->starts[t->bytes >> 6] |= (uint64_t)1 << (t->bytes & 63);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == 0xC0) {
            return fail(e, "%s: holds a byte C0, which no UTF-8 text has: it cannot be indexed",
                        path);
        }
        t->symbols[t->bytes++] = (unsigned char)(c + (c < 0xC0));
    }
    if (length == 0) {
        t->symbols[t->bytes++] = 0;
    }
    return true;
}

// Reads the text of block number `n` and what overlaps.
static inline bool index_block_read_(const IndexBuild_ *b, size_t n, IndexBlock_ *t, Error *e) {
    TokenReader_ *r = calloc(1, sizeof *r);
    uint64_t id, last = b->first_token[n + 1];
    size_t length = 1, end = 0;
    bool ok = r || fail(e, "%s: no memory to read it", b->data.path);
    if (ok) {
        *r = (TokenReader_){.data = &b->data, .at = b->first_token[n], .end = b->data.tokens};
    }
    while (ok && r->at < r->end &&
           (r->at < last || (length > 0 && t->bytes - end < INDEX_OVERLAP))) {
        ok = token_next_(r, b->texts.vocab_size, &id, e);
        if (ok) {
            const char *text = token_text(&b->texts, id, &length);
            ok = index_block_add_(t, text, length, b->data.path, e);
            end = r->at <= last ? t->bytes : end;
        }
    }
    t->tokens = last - b->first_token[n];
    for (size_t i = 0, sum = 0; ok && i <= t->bytes / 64; i++) {
        t->ranks[i] = (uint32_t)sum;
        sum += (size_t)__builtin_popcountll(t->starts[i]);
    }
    free(r);
    return ok;
}

static inline bool write_at_(int file, const char *path, const void *data, size_t bytes,
                             uint64_t offset, Error *e) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(file, (const char *)data + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR) {
            return fail(e, "%s: cannot be written: %s", path, strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// Writes the entries of a sorted block: of its suffixes those that begin with a token of the block
// that has text.
static inline bool index_block_write_(const IndexBuild_ *b, size_t n, IndexBlock_ *t, Error *e) {
    unsigned char *out =
        (unsigned char *)t->suffixes; // entry k is written only after suffix k was read
    uint64_t entries = 0, expected = b->first_entry[n + 1] - b->first_entry[n];
    for (size_t i = 0; i < t->bytes; i++) {
        size_t at = (size_t)t->suffixes[i];
        uint64_t word = t->starts[at >> 6], bit = (uint64_t)1 << (at & 63);
        if ((word & bit) && t->symbols[at]) {
            uint64_t token = t->ranks[at >> 6] + (uint64_t)__builtin_popcountll(word & (bit - 1));
            if (token < t->tokens) {
                store_le(out + 4 * entries++, token, 4);
            }
        }
    }
    if (entries != expected) {
        return fail(e, "%s: changed while it was being indexed", b->data.path);
    }
    return write_at_(b->file, b->path, out, 4 * entries,
                     INDEX_HEADER + 16 * (uint64_t)b->blocks + 4 * b->first_entry[n], e);
}

static inline bool index_block_build_(const IndexBuild_ *b, size_t n, Error *e) {
    size_t capacity =
        b->block_bytes + INDEX_OVERLAP + (1 << 20); // pages that are not used take no memory
    IndexBlock_ t = {.capacity = capacity};
    t.symbols = malloc(capacity);
    t.suffixes = malloc(capacity * sizeof *t.suffixes);
    t.starts = calloc(capacity / 64 + 1, sizeof *t.starts);
    t.ranks = malloc((capacity / 64 + 1) * sizeof *t.ranks);
    bool ok = (t.symbols && t.suffixes && t.starts && t.ranks) ||
              fail(e, "%s: no memory to index it: each thread needs about 350 MB", b->data.path);
    ok = ok && index_block_read_(b, n, &t, e) &&
         suffix_sort(t.symbols, (int32_t)t.bytes, t.suffixes, e) && index_block_write_(b, n, &t, e);
    free(t.symbols);
    free(t.suffixes);
    free(t.starts);
    free(t.ranks);
    return ok;
}

// Header and table of blocks.
static inline bool index_write_table_(const IndexBuild_ *b, Error *e) {
    unsigned char header[INDEX_HEADER] = "TGPTINDX", entry[16];
    store_le(header + 8, INDEX_VERSION, 4);
    store_le(header + 12, INDEX_OVERLAP, 4);
    store_le(header + 16, b->data.tokens, 8);
    store_le(header + 24, b->first_entry[b->blocks], 8);
    store_le(header + 32, b->blocks, 8);
    bool ok = write_at_(b->file, b->path, header, sizeof header, 0, e);
    for (size_t n = 0; ok && n < b->blocks; n++) {
        store_le(entry, b->first_token[n], 8);
        store_le(entry + 8, b->first_entry[n], 8);
        ok = write_at_(b->file, b->path, entry, sizeof entry, INDEX_HEADER + 16 * n, e);
    }
    return ok;
}

static inline bool index_write_(IndexBuild_ *b, FILE *progress, Error *e) {
    bool ok = index_plan_(b, e);
    b->file = ok ? open(b->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
    ok = ok && (b->file >= 0 || fail(e, "%s: cannot be created: %s", b->path, strerror(errno)));
    ok = ok && index_write_table_(b, e);
    size_t done = 0;
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t n = 0; n < b->blocks; n++) {
        Error mine;
        bool going;
#pragma omp atomic read
        going = ok;
        bool built = going && index_block_build_(b, n, &mine);
#pragma omp critical(index_progress)
        if (going && !built) {
            ok = false;
            *e = mine;
        } else if (going && progress) {
            fprintf(progress, "indexing %s: block %zu of %zu\n", b->data.path, ++done, b->blocks);
            fflush(progress);
        }
    }
    if (b->file >= 0) {
        bool written = fsync(b->file) == 0;
        written = close(b->file) == 0 && written;
        ok = ok && (written || fail(e, "%s: cannot be written: %s", b->path, strerror(errno)));
    }
    return ok;
}

// index_build with blocks of any size, so that tests see many.
static inline bool index_build_(const char *folder, const char *split, const Tokenizer *tokenizer,
                                size_t block_bytes, FILE *progress, char hex[65], Error *e) {
    char prefix[PATH_LIMIT];
    IndexBuild_ *b = calloc(1, sizeof *b);
    if (!b) {
        return fail(e, "%s: no memory to index it", folder);
    }
    b->data.file = b->file = -1;
    b->block_bytes = block_bytes;
    bool ok = token_texts_init(&b->texts, tokenizer, e) &&
              path_format(prefix, e, "%s/%s", folder, split) &&
              path_format(b->path, e, "%s.index", prefix) &&
              dataset_open(&b->data, prefix, split, 1, e) && index_write_(b, progress, e) &&
              sha256_file(b->path, hex, e);
    dataset_close(&b->data);
    token_texts_free(&b->texts);
    free(b->first_token);
    free(b->first_entry);
    free(b);
    return ok;
}

// Writes FOLDER/SPLIT.index from FOLDER/SPLIT.bin and .idx, whose tokens `tokenizer` made; a
// manifest need not be there yet. Every thread of OpenMP takes a block at a time, with about 350 MB
// each; the file is the same for any number of them. `progress` gets a line a block, NULL: none.
// `hex` gets the file's SHA-256.
static inline bool index_build(const char *folder, const char *split, const Tokenizer *tokenizer,
                               FILE *progress, char hex[65], Error *e) {
    return index_build_(folder, split, tokenizer, INDEX_BLOCK, progress, hex, e);
}

// ------------------------------------------------------------------------------------------------
// Documents: the files of a split as trace reads them, and what they say of a token

typedef struct {
    const Dataset *data;
    const char *path; // as the run was given it
    ProofFile bin, idx, docs, meta, index;
    bool
        proved; // hashes lead from the run's log to every file but, without index_proved, the index
    bool index_proved;   // the index is in the manifest too
    unsigned char *sums; // content of the .sums
    JsonDocument manifest;
    const char **sources; // (source_count) paths of the source files, by number
    size_t source_count;
    uint64_t sequences;                  // of the .idx
    uint64_t *first_token, *first_entry; // (blocks + 1) of the index
    uint64_t blocks;
} TraceData;

// What is known of a document.
typedef struct {
    uint64_t number, first,
        tokens; // number in its split; its first token there; its tokens, with the end of document
    bool known; // there is a record of it
    DocumentRecord record;
    const char *source;    // path of its source file
    JsonDocument metadata; // root is NULL if there is none
} TraceDocument;

static inline void trace_data_close(TraceData *t) {
    proof_close(&t->bin);
    proof_close(&t->idx);
    proof_close(&t->docs);
    proof_close(&t->meta);
    proof_close(&t->index);
    json_free(&t->manifest);
    free(t->sums);
    free(t->sources);
    free(t->first_token);
    free(t->first_entry);
    *t = (TraceData){0};
}

// Hashes a file whole and compares.
static inline bool proof_whole_(const ProofFile *f, const char *expected, const char *by,
                                Error *e) {
    char hex[65];
    Sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, f->data, f->bytes);
    sha256_end(&hash, hex);
    return !strcmp(hex, expected) ||
           fail(e, "%s: was altered: its SHA-256 is %s, %s has %s", f->path, hex, by, expected);
}

static inline bool trace_sources_(TraceData *t, Error *e) {
    const Json *sources = json_get(t->manifest.root, "sources");
    size_t count = sources && sources->kind == JSON_ARRAY ? sources->length : 0;
    t->sources = calloc(count + 1, sizeof *t->sources);
    if (!t->sources) {
        return fail(e, "%s: no memory for the names of its sources", t->path);
    }
    for (const Json *node = count ? sources->child : NULL; node; node = node->next) {
        const char *path = json_string(json_get(node, "path"));
        t->sources[t->source_count++] = path ? path : "";
    }
    return true;
}

// Opens the files of a prepared split and proves them by the manifest, whose hash the caller has
// checked.
static inline bool trace_open_split_(TraceData *t, const char *split, Error *e) {
    char path[PATH_LIMIT];
    ProofFile *files[SUMS_FILES] = {&t->bin, &t->idx, &t->docs, &t->meta, &t->index},
              *listed[SUMS_FILES];
    size_t count = 0;
    uint64_t bytes;
    if (!path_format(path, e, "%s/manifest.json", t->path) ||
        !json_parse_file(&t->manifest, path, (size_t)1 << 31, e) || !trace_sources_(t, e)) {
        return false;
    }
    const Json *entry = json_get(json_get(t->manifest.root, "splits"), split);
    for (size_t i = 0; i < SUMS_FILES; i++) {
        const Json *file = json_get(entry, sums_endings_[i]);
        bool index = files[i] == &t->index;
        if (!path_format(path, e, "%s/%s.%s", t->path, split, sums_endings_[i])) {
            return false;
        }
        if ((!file && !index) || (index && access(path, F_OK))) {
            continue;
        }
        if (!proof_open(files[i], path, e)) {
            return false;
        }
        if (file && (!json_uint(json_get(file, "bytes"), &bytes) || bytes != files[i]->bytes)) {
            return fail(e, "%s: has %llu bytes, which is not what the manifest says", path,
                        (unsigned long long)files[i]->bytes);
        }
        if (file) {
            listed[count++] = files[i];
            t->index_proved |= index;
        }
    }
    const char *sums_hash = json_string(json_get(json_get(entry, "sums"), "sha256"));
    if (sums_hash) {
        size_t length;
        ProofFile sums = {.bytes = 0};
        if (!path_format(sums.path, e, "%s/%s.sums", t->path, split) ||
            !(t->sums = (unsigned char *)read_file(sums.path, (size_t)1 << 36, &length, e))) {
            return false;
        }
        sums.data = t->sums, sums.bytes = length;
        return proof_whole_(&sums, sums_hash, "the manifest", e) &&
               sums_attach(sums.path, t->sums, length, listed, count, e);
    }
    for (size_t i = 0; i < count; i++) { // data of a prepare that wrote no .sums yet
        const char *name = strrchr(listed[i]->path, '.') + 1;
        const char *expected = json_string(json_get(json_get(entry, name), "sha256"));
        if (!expected) {
            return fail(e, "%s: has no hash in the manifest", listed[i]->path);
        }
        if (!proof_whole_(listed[i], expected, "the manifest", e)) {
            return false;
        }
    }
    return true;
}

// Opens a bare Megatron pair or llm.c shard, which only the log itself can prove.
static inline bool trace_open_bare_(TraceData *t, const Json *logged, Error *e) {
    const char *bin = json_string(json_get(logged, "sha256")),
               *idx = json_string(json_get(logged, "idx_sha256"));
    bool pair = t->data->idx_path[0];
    if (!proof_open(&t->bin, t->data->path, e) ||
        (pair && !proof_open(&t->idx, t->data->idx_path, e))) {
        return false;
    }
    t->proved = bin && (idx || !pair);
    return !t->proved || (proof_whole_(&t->bin, bin, "the run's log", e) &&
                          (!pair || proof_whole_(&t->idx, idx, "the run's log", e)));
}

static inline bool trace_open_index_(TraceData *t, Error *e) {
    const ProofFile *f = &t->index;
    uint64_t blocks = f->bytes < INDEX_HEADER ? 0 : load_le(f->data + 32, 8), entries;
    if (!f->path[0]) {
        return true;
    }
    if (f->bytes < INDEX_HEADER || memcmp(f->data, "TGPTINDX", 8) ||
        load_le(f->data + 8, 4) != INDEX_VERSION || load_le(f->data + 12, 4) != INDEX_OVERLAP ||
        blocks > (f->bytes - INDEX_HEADER) / 16) {
        return fail(e, "%s: is not an index of version %d", f->path, INDEX_VERSION);
    }
    entries = load_le(f->data + 24, 8);
    uint64_t table = INDEX_HEADER + 16 * blocks;
    if (entries != (f->bytes - table) / 4 || (f->bytes - table) % 4 ||
        load_le(f->data + 16, 8) != t->data->tokens) {
        return fail(e, "%s: does not fit %s, which has %llu tokens", f->path, t->data->path,
                    (unsigned long long)t->data->tokens);
    }
    t->blocks = blocks;
    t->first_token = calloc(blocks + 1, sizeof *t->first_token);
    t->first_entry = calloc(blocks + 1, sizeof *t->first_entry);
    if (!t->first_token || !t->first_entry) {
        return fail(e, "%s: no memory for its blocks", f->path);
    }
    if (!proof_check(&t->index, 0, table, e)) {
        return false;
    }
    t->first_token[blocks] = t->data->tokens;
    t->first_entry[blocks] = entries;
    for (uint64_t b = blocks; b-- > 0;) {
        t->first_token[b] = load_le(f->data + INDEX_HEADER + 16 * b, 8);
        t->first_entry[b] = load_le(f->data + INDEX_HEADER + 16 * b + 8, 8);
        if (t->first_token[b] > t->first_token[b + 1] ||
            t->first_entry[b] > t->first_entry[b + 1]) {
            return fail(e, "%s: is damaged: block %llu does not begin before the next", f->path,
                        (unsigned long long)b);
        }
    }
    return true;
}

// Opens the files behind `data`, which dataset_open opened at `path`, and proves that they are what
// a run read: `logged` is their entry in the log's first line; NULL: without a run, only the
// manifest proves them. trace_data_close releases `t`, after a failure too.
static inline bool trace_data_open(TraceData *t, const Dataset *data, const char *path,
                                   const char *split, const Json *logged, Error *e) {
    char tokenizer[PATH_LIMIT], hex[65];
    *t = (TraceData){.data = data, .path = path};
    const char *manifest = json_string(json_get(logged, "manifest_sha256"));
    if (manifest && strcmp(manifest, data->manifest_hash)) {
        return fail(
            e, "%s: is not the data of this run: the SHA-256 of its manifest is %s, the log has %s",
            path, data->manifest_hash[0] ? data->manifest_hash : "none", manifest);
    }
    if (data->manifest_hash[0]) {
        t->proved = !logged || manifest;
        if (!trace_open_split_(t, split, e) ||
            !tokenizer_main_file(tokenizer, data->tokenizer, e) ||
            !sha256_file(tokenizer, hex, e)) {
            return false;
        }
        if (strcmp(hex, data->tokenizer_hash)) {
            return fail(e, "%s: was altered: its SHA-256 is %s, the manifest has %s", tokenizer,
                        hex, data->tokenizer_hash);
        }
    } else if (!trace_open_bare_(t, logged, e)) {
        return false;
    }
    if (t->idx.path[0]) {
        if (!proof_check(&t->idx, 0, IDX_HEADER, e)) {
            return false;
        }
        t->sequences = load_le(t->idx.data + 18, 8);
        if (t->idx.bytes != IDX_HEADER + 12 * t->sequences + 8 * (data->documents + 1)) {
            return fail(e, "%s: changed while it was being read", t->idx.path);
        }
    }
    if (t->docs.path[0]) {
        const unsigned char *header = t->docs.data;
        if (t->docs.bytes < DOCS_HEADER || memcmp(header, "TGPTDOCS", 8) ||
            load_le(header + 8, 4) != DOCS_VERSION || load_le(header + 12, 4) != DOCS_RECORD ||
            load_le(header + 16, 8) != data->documents ||
            (t->docs.bytes - DOCS_HEADER) / DOCS_RECORD != data->documents ||
            (t->docs.bytes - DOCS_HEADER) % DOCS_RECORD) {
            return fail(e, "%s: is not the list of the %llu documents of %s", t->docs.path,
                        (unsigned long long)data->documents, data->path);
        }
    }
    return trace_open_index_(t, e);
}

// First token of document `d`, proved; of number `documents`, the end of the tokens.
static inline bool document_start_(TraceData *t, uint64_t d, bool prove, uint64_t *token,
                                   Error *e) {
    uint64_t entry = IDX_HEADER + 12 * t->sequences + 8 * d;
    if (prove && !proof_check(&t->idx, entry, 8, e)) {
        return false;
    }
    uint64_t sequence = load_le(t->idx.data + entry, 8),
             pointer = IDX_HEADER + 4 * t->sequences + 8 * sequence;
    *token = t->data->tokens;
    if (sequence > t->sequences) {
        return fail(e, "%s: changed while it was being read", t->idx.path);
    }
    if (sequence < t->sequences) {
        if (prove && !proof_check(&t->idx, pointer, 8, e)) {
            return false;
        }
        *token = load_le(t->idx.data + pointer, 8) / (uint64_t)t->data->token_bytes;
    }
    return true;
}

// Number of the document that holds a token, by bisection; the two starts around the token prove
// it.
static inline bool trace_document_of(TraceData *t, uint64_t token, uint64_t *number, Error *e) {
    uint64_t low = 0, high = t->data->documents, start, end; // start(low) <= token < start(high)
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (!document_start_(t, middle, false, &start, e)) {
            return false;
        }
        if (start <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    *number = low;
    return document_start_(t, low, true, &start, e) && document_start_(t, low + 1, true, &end, e) &&
           ((low < t->data->documents && start <= token && token < end) ||
            fail(e, "%s: no document holds token %llu", t->idx.path, (unsigned long long)token));
}

// All that is known of document `number` (< documents of the data). json_free(&out->metadata)
// releases it.
static inline bool trace_document(TraceData *t, uint64_t number, TraceDocument *out, Error *e) {
    uint64_t end;
    *out = (TraceDocument){.number = number};
    if (!document_start_(t, number, true, &out->first, e) ||
        !document_start_(t, number + 1, true, &end, e)) {
        return false;
    }
    out->tokens = end - out->first;
    if (!t->docs.path[0]) {
        return true;
    }
    uint64_t at = DOCS_HEADER + DOCS_RECORD * number;
    if (!proof_check(&t->docs, at, DOCS_RECORD, e)) {
        return false;
    }
    out->known = true;
    out->record = docs_load(t->docs.data + at);
    if (out->record.tokens != out->tokens || out->record.source >= t->source_count) {
        return fail(e, "%s: record %llu does not fit %s: it says %llu tokens, source %lu",
                    t->docs.path, (unsigned long long)number,
                    out->record.source >= t->source_count ? "the manifest" : t->idx.path,
                    (unsigned long long)out->record.tokens, (unsigned long)out->record.source);
    }
    out->source = t->sources[out->record.source];
    if (out->record.metadata_length == 0) {
        return true;
    }
    if (!t->meta.path[0]) {
        return fail(e, "%s: record %llu has metadata, but there is no .meta", t->docs.path,
                    (unsigned long long)number);
    }
    return proof_check(&t->meta, out->record.metadata, out->record.metadata_length, e) &&
           json_parse(&out->metadata, (const char *)t->meta.data + out->record.metadata,
                      out->record.metadata_length, t->meta.path, e);
}

// Whether metadata says that a document has this id, as a string or a number.
static inline bool has_id_(const Json *metadata, const char *id) {
    const Json *node = json_get(metadata, "id");
    return node && (node->kind == JSON_STRING || node->kind == JSON_NUMBER) &&
           node->length == strlen(id) && !memcmp(node->text, id, node->length);
}

// The next document from *number on whose metadata has the id; *number is the number of documents
// if there is none. A pass over SPLIT.meta: about a second a gigabyte.
static inline bool trace_find_id(TraceData *t, const char *id, uint64_t *number, Error *e) {
    bool plain = !strpbrk(id, "\"\\"); // so it stands in the JSON as it is
    for (const char *c = id; *c; c++) {
        plain = plain && (unsigned char)*c >= 0x20 && (unsigned char)*c < 0x80;
    }
    for (; *number < t->data->documents && t->docs.path[0] && t->meta.path[0]; ++*number) {
        TraceDocument document;
        DocumentRecord r = docs_load(t->docs.data + DOCS_HEADER + DOCS_RECORD * *number);
        if (r.metadata > t->meta.bytes || r.metadata_length > t->meta.bytes - r.metadata) {
            return fail(e, "%s: record %llu points outside %s", t->docs.path,
                        (unsigned long long)*number, t->meta.path);
        }
        if (r.metadata_length == 0 ||
            (plain && !memmem(t->meta.data + r.metadata, r.metadata_length, id, strlen(id)))) {
            continue;
        }
        bool ok = trace_document(t, *number, &document, e),
             found = ok && has_id_(document.metadata.root, id);
        json_free(&document.metadata);
        if (!ok || found) {
            return ok;
        }
    }
    *number = t->data->documents;
    return true;
}

// ------------------------------------------------------------------------------------------------
// Run: what OUT/log.jsonl and OUT/restarts.jsonl say of the steps and of who computed them

// The steps after from_step, until the next one.
typedef struct {
    uint64_t from_step, from_samples; // samples read by all ranks before
    uint64_t global_batch, ranks, replicas;
} RunPart;

typedef struct {
    char path[PATH_LIMIT]; // of the log
    JsonDocument head;     // its first line
    RunPart *parts;
    size_t count, capacity;
    uint64_t seed, seq_len, last_step, samples; // samples that the steps 1 .. last_step read
    bool shuffle;
    char batch_hash[65]; // of the step that trace_run_open was asked for; empty: the log has none
} TraceRun;

// Where the run read a sample.
typedef struct {
    uint64_t step, row, rank;
} RunPlace;

static inline void trace_run_close(TraceRun *r) {
    json_free(&r->head);
    free(r->parts);
    *r = (TraceRun){0};
}

// Adds what a first line or a line of restarts.jsonl says. What was done after its from_step was
// done again.
static inline bool run_add_part_(TraceRun *r, const Json *line, const char *path, Error *e) {
    RunPart part = {0};
    if (!json_uint(json_get(line, "from_step"), &part.from_step) ||
        !json_uint(json_get(line, "global_batch"), &part.global_batch) ||
        !json_uint(json_get(line, "ranks"), &part.ranks) ||
        !json_uint(json_get(line, "dp"), &part.replicas) || part.replicas == 0 || part.ranks == 0 ||
        part.ranks % part.replicas || part.global_batch == 0 || part.global_batch % part.replicas ||
        part.global_batch >> 32 || part.from_step >> 31) {
        return fail(e, "%s: has no possible from_step, global_batch, ranks and dp", path);
    }
    while (r->count > 1 && r->parts[r->count - 1].from_step >= part.from_step) {
        r->count--;
    }
    if (r->count > 0) {
        const RunPart *before = &r->parts[r->count - 1];
        if (before->from_step > part.from_step) {
            return fail(e, "%s: goes on from step %llu, which is before the log begins", path,
                        (unsigned long long)part.from_step);
        }
        part.from_samples =
            before->from_samples + (part.from_step - before->from_step) * before->global_batch;
        r->count -= before->from_step == part.from_step;
    }
    if (!array_reserve(&r->parts, &r->capacity, r->count, 1, sizeof part, e)) {
        return false;
    }
    r->parts[r->count++] = part;
    return true;
}

// The part of the run that step `step` belongs to.
static inline const RunPart *trace_run_part(const TraceRun *r, uint64_t step) {
    size_t i = r->count - 1;
    while (i > 0 && r->parts[i].from_step >= step) {
        i--;
    }
    return &r->parts[i];
}

// Samples read before step `step` (> from_step of the first part).
static inline uint64_t trace_run_position(const TraceRun *r, uint64_t step) {
    const RunPart *part = trace_run_part(r, step);
    return part->from_samples + (step - 1 - part->from_step) * part->global_batch;
}

// Where the sample at `position` of the run was read; false if it was not, or before the log
// begins.
static inline bool trace_run_place(const TraceRun *r, uint64_t position, RunPlace *place) {
    size_t i = r->count - 1;
    while (i > 0 && r->parts[i].from_samples > position) {
        i--;
    }
    const RunPart *part = &r->parts[i];
    if (position < part->from_samples || position >= r->samples) {
        return false;
    }
    uint64_t after = position - part->from_samples;
    place->step = part->from_step + 1 + after / part->global_batch;
    place->row = after % part->global_batch;
    place->rank =
        place->row / (part->global_batch / part->replicas) * (part->ranks / part->replicas);
    return true;
}

// Reads the lines of a file: calls line(r, document, path, extra) for each that is whole. A last
// line without its end was being written when the run was killed, and is left out.
static inline bool run_lines_(TraceRun *r, const char *path,
                              bool (*line)(TraceRun *, JsonDocument *, uint64_t, const char *,
                                           void *, Error *),
                              void *extra, Error *e) {
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t capacity = 0;
    ssize_t length;
    bool ok = file || fail(e, "%s: cannot be read: %s", path, strerror(errno));
    for (uint64_t number = 1;
         ok && (length = getline(&text, &capacity, file)) > 0 && text[length - 1] == '\n';
         number++) {
        char name[PATH_LIMIT + 32];
        JsonDocument document;
        snprintf(name, sizeof name, "%s:%llu", path, (unsigned long long)number);
        ok = json_parse(&document, text, (size_t)length, name, e) &&
             line(r, &document, number, name, extra, e);
        json_free(&document);
    }
    ok = ok && (!ferror(file) || fail(e, "%s: cannot be read: %s", path, strerror(errno)));
    free(text);
    if (file) {
        fclose(file);
    }
    return ok;
}

static inline bool run_add_restart_(TraceRun *r, JsonDocument *line, uint64_t number,
                                    const char *path, void *unused, Error *e) {
    (void)number;
    (void)unused;
    return run_add_part_(r, line->root, path, e);
}

static inline bool run_add_head_(TraceRun *r, JsonDocument *line, const char *path, Error *e) {
    const Json *options = json_get(line->root, "options");
    uint64_t shuffle;
    if (!json_uint(json_get(line->root, "seq_len"), &r->seq_len) || r->seq_len == 0 ||
        r->seq_len >> 32 || !json_uint(json_get(options, "seed"), &r->seed) ||
        !json_uint(json_get(options, "shuffle"), &shuffle)) {
        return fail(e,
                    "%s: is not the first line of a run's log: it has no seq_len, seed and shuffle",
                    path);
    }
    r->shuffle = shuffle;
    if (!run_add_part_(r, line->root, path, e)) {
        return false;
    }
    r->head = *line;
    *line = (JsonDocument){0};
    return true;
}

static inline bool trace_copy_hash_(char out[BATCH_HASH_DIGITS + 1], const Json *node) {
    const char *text = json_string(node);
    return text && snprintf(out, BATCH_HASH_DIGITS + 1, "%s", text) <= BATCH_HASH_DIGITS;
}

// The first line makes the run; lines of steps say how far it came. wanted: the step whose hash is
// asked for.
static inline bool run_add_line_(TraceRun *r, JsonDocument *line, uint64_t number, const char *path,
                                 void *wanted, Error *e) {
    uint64_t step, tokens;
    if (number == 1) {
        return run_add_head_(r, line, path, e);
    }
    if (!json_get(line->root, "loss")) { // an eval
        return true;
    }
    if (!json_uint(json_get(line->root, "step"), &step) ||
        !json_uint(json_get(line->root, "tokens"), &tokens) || step <= r->last_step || step >> 31 ||
        tokens % r->seq_len) {
        return fail(e, "%s: has no \"step\" after %llu, or no possible \"tokens\"", path,
                    (unsigned long long)r->last_step);
    }
    if (r->last_step ==
        0) { // a log that was lost and begun anew in the middle says here where it stands
        RunPart *part = &r->parts[0];
        part->from_samples = tokens / r->seq_len - part->global_batch;
        if (step != part->from_step + 1 || tokens / r->seq_len < part->global_batch) {
            return fail(e, "%s: step %llu cannot be the first after step %llu", path,
                        (unsigned long long)step, (unsigned long long)part->from_step);
        }
    }
    r->last_step = step;
    r->samples = tokens / r->seq_len;
    if (step == *(const uint64_t *)wanted) {
        trace_copy_hash_(r->batch_hash, json_get(line->root, "batch_sha256"));
    }
    return true;
}

// Reads a run's folder. `step` is the one whose batch_hash is wanted, 0: none. trace_run_close
// releases `r`, after a failure too.
static inline bool trace_run_open(TraceRun *r, const char *folder, uint64_t step, Error *e) {
    char restarts[PATH_LIMIT];
    *r = (TraceRun){0};
    if (!path_format(r->path, e, "%s/log.jsonl", folder) ||
        !path_format(restarts, e, "%s/restarts.jsonl", folder) ||
        !run_lines_(r, r->path, run_add_line_, &step, e)) {
        return false;
    }
    if (r->count == 0 || r->last_step == 0) {
        return fail(e, "%s: holds no step yet", r->path);
    }
    if (!access(restarts, F_OK) && !run_lines_(r, restarts, run_add_restart_, NULL, e)) {
        return false;
    }
    // What was read up to the last step follows from the batches; the log counted it too.
    uint64_t expected =
        trace_run_position(r, r->last_step) + trace_run_part(r, r->last_step)->global_batch;
    return expected == r->samples ||
           fail(e, "%s: counts %llu samples up to step %llu, but its batches make %llu", r->path,
                (unsigned long long)r->samples, (unsigned long long)r->last_step,
                (unsigned long long)expected);
}

// Opens the data of a run: paths[0 .. count), or as the log has it if count is 0. The log's weights
// and seq_len hold.
static inline bool trace_run_mixture(const TraceRun *r, Mixture *m, const char *const *paths,
                                     size_t count, Error *e) {
    const Json *data = json_get(r->head.root, "data");
    size_t n = data && data->kind == JSON_ARRAY ? data->length : 0;
    if (n == 0 || n > MIXTURE_DATASETS_MAX) {
        return fail(e, "%s: its first line has no list \"data\"", r->path);
    }
    if (count > 0 && count != n) {
        return fail(
            e, "--data: the run read %zu datasets, so give %zu in the order of its --data, not %zu",
            n, n, count);
    }
    const char *found[MIXTURE_DATASETS_MAX];
    char *cut[MIXTURE_DATASETS_MAX] = {0};
    uint64_t weights[MIXTURE_DATASETS_MAX];
    const Json *entry = data->child;
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++, entry = entry->next) {
        const char *path = json_string(json_get(entry, "path")),
                   *file = json_string(json_get(entry, "file"));
        found[i] = count > 0 ? paths[i] : path;
        ok = (path && json_uint(json_get(entry, "weight"), &weights[i]) && weights[i] > 0) ||
             fail(e, "%s: its first line has no path and weight of data %zu", r->path, i);
        if (ok && count == 0 && file &&
            !access(file, F_OK)) { // where it was, whatever the working folder is now
            char *end = (cut[i] = strdup(file))
                            ? strrchr(cut[i], json_get(entry, "manifest_sha256") ? '/' : '.')
                            : NULL;
            ok = cut[i] || fail(e, "%s: no memory for its paths", r->path);
            if (end && (json_get(entry, "manifest_sha256") || json_get(entry, "documents"))) {
                *end = 0;
            }
            found[i] = cut[i];
        }
    }
    ok = ok && mixture_open_paths(m, found, weights, n, "train", r->seq_len, e);
    for (size_t i = 0; i < n; i++) {
        free(cut[i]);
    }
    return ok;
}

// One reading of a part of the data: row `place.row` of step `place.step` holds these tokens.
typedef struct {
    RunPlace place;
    uint64_t first, tokens; // token numbers in the split
} TraceRead;

typedef struct {
    TraceRead *items;
    size_t count, capacity; // zero-initialise; the caller frees items
} TraceReads;

static inline int read_compare_(const void *first, const void *second) {
    const TraceRead *a = first, *b = second;
    if (a->place.step != b->place.step) {
        return a->place.step < b->place.step ? -1 : 1;
    }
    if (a->place.row != b->place.row) {
        return a->place.row < b->place.row ? -1 : 1;
    }
    return (a->first > b->first) - (a->first < b->first);
}

// Adds every reading of the tokens first .. end - 1 of a dataset by the run, in the order of the
// steps: all samples that hold one of them, in every epoch.
static inline bool trace_reads(const TraceRun *r, const Mixture *m, size_t dataset, uint64_t first,
                               uint64_t end, TraceReads *reads, Error *e) {
    const Dataset *d = &m->items[dataset];
    const uint64_t T = d->seq_len;
    // Sample s holds the tokens s T .. s T + T, the last of which is also the first of sample s
    // + 1.
    uint64_t sample = first < T ? 0 : divide_up(first - T, T);
    for (; first < end && sample < d->samples && sample * T < end; sample++) {
        uint64_t from = sample * T > first ? sample * T : first;
        for (uint64_t epoch = 0;; epoch++) {
            TraceRead read = {.first = from, .tokens = min_u64(end, sample * T + T + 1) - from};
            uint64_t position =
                mixture_position(m, r->seed, r->shuffle, (SampleId){dataset, sample}, epoch);
            if (position >= r->samples) { // positions grow with the epoch
                break;
            }
            if (!trace_run_place(r, position, &read.place)) {
                continue;
            }
            if (!array_reserve(&reads->items, &reads->capacity, reads->count, 1, sizeof read, e)) {
                return false;
            }
            reads->items[reads->count++] = read;
        }
    }
    if (reads->count > 0) {
        qsort(reads->items, reads->count, sizeof *reads->items, read_compare_);
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Search: the longest spans of a text that stand word for word in the data
//
// A span begins in the data at a token, or r bytes before the end of one: then its bytes from r on
// begin at a token, so they are found in the index, and what goes before must be a token that ends
// with its first r bytes. Or it lies within a single token. Bisection reads unproved bytes; what it
// finds is proved afterwards: the entries on both sides of a bound, and the text they stand for,
// decide alone whether the bound is right.

typedef struct {
    TraceData *data; // (count), all of one tokenizer
    size_t count;
    const TokenTexts *texts;
    int32_t *by_end;    // (tokens) ids in the order of their text read from its end
    int32_t *by_length; // (tokens) longest first
    size_t tokens;      // those with text
    bool proving;
    const char *text; // what is looked for
    size_t length;
    size_t *reach; // (length) bytes of the longest span from here on that begins at a token
} TextSearch;

// One place: the span begins at byte `offset` of token `token` of dataset `data`.
typedef struct {
    size_t data;
    uint64_t token;
    size_t offset;
} Occurrence;

typedef struct {
    Occurrence *items;
    size_t count, capacity; // zero-initialise; the caller frees items
} Occurrences;

// Id of a token, as the file has it.
static inline uint64_t trace_token(const TraceData *t, uint64_t token) {
    const unsigned char *at =
        t->bin.data + t->data->first_byte + token * (uint64_t)t->data->token_bytes;
    return t->data->token_bytes == 2 ? load_le(at, 2) : load_le(at, t->data->token_bytes);
}

// Proves the ids of `count` tokens from `first` on.
static inline bool trace_prove_tokens(TraceData *t, uint64_t first, uint64_t count, Error *e) {
    return proof_check(&t->bin, t->data->first_byte + first * (uint64_t)t->data->token_bytes,
                       count * (uint64_t)t->data->token_bytes, e);
}

// Compares the text from a token on with `span`: below 0 if it comes before, 0 if it begins with
// all of the span. *common: bytes that are equal; *walked: tokens that were looked at.
static inline int text_compare_(const TextSearch *s, const TraceData *t, uint64_t token,
                                const char *span, size_t length, size_t *common, uint64_t *walked) {
    *walked = 0;
    for (*common = 0; *common < length;) {
        size_t n = 0, i = 0;
        const char *text = "";
        if (token < t->data->tokens) {
            ++*walked;
            text = token_text(s->texts, trace_token(t, token++), &n);
        }
        for (; i < n && *common < length; i++, ++*common) {
            if (text[i] != span[*common]) {
                return (unsigned char)text[i] < (unsigned char)span[*common] ? -1 : 1;
            }
        }
        if (n == 0) {
            return -1; // the text ends here
        }
    }
    return 0;
}

// Token of an entry of the index, of all blocks counted; in its block, whatever the file says.
static inline uint64_t index_token_(const TraceData *t, uint64_t block, uint64_t entry) {
    uint64_t relative = load_le(t->index.data + INDEX_HEADER + 16 * t->blocks + 4 * entry, 4);
    uint64_t tokens = t->first_token[block + 1] - t->first_token[block];
    return t->first_token[block] + (relative < tokens ? relative : 0);
}

// First entry of the block whose text is not before the span; with `behind`, nor begins with it.
static inline uint64_t index_bound_(const TextSearch *s, const TraceData *t, uint64_t block,
                                    const char *span, size_t length, bool behind) {
    uint64_t low = t->first_entry[block], high = t->first_entry[block + 1], walked;
    size_t common;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        int order =
            text_compare_(s, t, index_token_(t, block, middle), span, length, &common, &walked);
        if (order < 0 || (order == 0 && behind)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Proves that entry `entry` of a block stands to the span as `order` says.
static inline bool index_prove_entry_(const TextSearch *s, TraceData *t, uint64_t block,
                                      uint64_t entry, const char *span, size_t length, int order,
                                      Error *e) {
    size_t common;
    uint64_t walked;
    if (entry < t->first_entry[block] || entry >= t->first_entry[block + 1]) {
        return true; // there is none: the block's edge is the bound
    }
    if (!proof_check(&t->index, INDEX_HEADER + 16 * t->blocks + 4 * entry, 4, e)) {
        return false;
    }
    uint64_t token = index_token_(t, block, entry);
    text_compare_(s, t, token, span, length, &common, &walked);
    if (!trace_prove_tokens(t, token, walked, e)) {
        return false;
    }
    int now = text_compare_(s, t, token, span, length, &common, &walked);
    return (now > 0) - (now < 0) == order ||
           fail(e, "%s: was altered: it is not in the order of the text of %s", t->index.path,
                t->bin.path);
}

// The entries of a block whose text begins with the span are *first .. *end - 1.
static inline bool index_range_(const TextSearch *s, TraceData *t, uint64_t block, const char *span,
                                size_t length, uint64_t *first, uint64_t *end, Error *e) {
    *first = index_bound_(s, t, block, span, length, false);
    *end = index_bound_(s, t, block, span, length, true);
    *end = *end < *first ? *first : *end; // only in a damaged index
    if (!s->proving) {
        return true;
    }
    return index_prove_entry_(s, t, block, *first - 1, span, length, -1, e) &&
           (*first == *end || (index_prove_entry_(s, t, block, *first, span, length, 0, e) &&
                               index_prove_entry_(s, t, block, *end - 1, span, length, 0, e))) &&
           index_prove_entry_(s, t, block, *end, span, length, 1, e);
}

// Bytes of the longest start of the span that begins at a token of the block.
static inline size_t index_reach_(const TextSearch *s, const TraceData *t, uint64_t block,
                                  const char *span, size_t length) {
    uint64_t bound = index_bound_(s, t, block, span, length, false), walked;
    size_t best = 0, common;
    for (uint64_t entry = bound > 0 ? bound - 1 : 0; entry <= bound; entry++) {
        if (entry >= t->first_entry[block] && entry < t->first_entry[block + 1]) {
            text_compare_(s, t, index_token_(t, block, entry), span, length, &common, &walked);
            best = common > best ? common : best;
        }
    }
    return best;
}

// Compares the last bytes of a token with `end`, read backwards; 0 if the token ends with it.
static inline int end_compare_(const TextSearch *s, int32_t id, const char *end, size_t length) {
    size_t n;
    const char *text = token_text(s->texts, (uint64_t)id, &n);
    for (size_t i = 1; i <= length; i++) {
        if (i > n) {
            return -1;
        }
        if (text[n - i] != end[length - i]) {
            return (unsigned char)text[n - i] < (unsigned char)end[length - i] ? -1 : 1;
        }
    }
    return 0;
}

static inline int by_end_compare_(const void *first, const void *second, void *search) {
    const TextSearch *s = search;
    const int32_t a = *(const int32_t *)first, b = *(const int32_t *)second;
    size_t n;
    const char *text = token_text(s->texts, (uint64_t)b, &n);
    int order = end_compare_(s, a, text, n);
    if (order == 0) { // a ends with b
        size_t longer;
        token_text(s->texts, (uint64_t)a, &longer);
        order = longer > n ? 1 : (a > b) - (a < b);
    }
    return order;
}

static inline int by_length_compare_(const void *first, const void *second, void *search) {
    const TextSearch *s = search;
    const int32_t a = *(const int32_t *)first, b = *(const int32_t *)second;
    size_t m, n;
    token_text(s->texts, (uint64_t)a, &m);
    token_text(s->texts, (uint64_t)b, &n);
    return m != n ? (m < n ? 1 : -1) : (a > b) - (a < b);
}

// The tokens by_end[*first .. *end) end with `end`.
static inline void tokens_ending_(const TextSearch *s, const char *end, size_t length,
                                  size_t *first, size_t *last) {
    for (int behind = 0; behind < 2; behind++) {
        size_t low = behind ? *first : 0, high = s->tokens;
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            int order = end_compare_(s, s->by_end[middle], end, length);
            if (order < 0 || (order == 0 && behind)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        *(behind ? last : first) = low;
    }
}

static inline bool occurrence_add_(Occurrences *found, size_t data, uint64_t token, size_t offset,
                                   Error *e) {
    if (!array_reserve(&found->items, &found->capacity, found->count, 1, sizeof *found->items, e)) {
        return false;
    }
    found->items[found->count++] = (Occurrence){data, token, offset};
    return true;
}

// Adds the places where `span` begins at a token with the id `only` (-1: any), as `offset` bytes
// into that token.
static inline bool search_aligned_(TextSearch *s, const char *span, size_t length, int32_t only,
                                   size_t offset, bool one, Occurrences *found, Error *e) {
    for (size_t i = 0; i < s->count; i++) {
        TraceData *t = &s->data[i];
        for (uint64_t b = 0; b < t->blocks; b++) {
            uint64_t first, end;
            if (!index_range_(s, t, b, span, length, &first, &end, e)) {
                return false;
            }
            for (uint64_t entry = first; entry < end; entry++) {
                uint64_t token = index_token_(t, b, entry);
                if (s->proving && !index_prove_entry_(s, t, b, entry, span, length, 0, e)) {
                    return false;
                }
                if (only >= 0 && trace_token(t, token) != (uint64_t)only) {
                    continue;
                }
                if (!occurrence_add_(found, i, token, offset, e)) {
                    return false;
                }
                if (one) {
                    return true;
                }
            }
        }
    }
    return true;
}

// Adds the places where a token ends with the first r bytes of the span, is longer than them, and
// the rest follows: by looking at the token before each place of the rest.
static inline bool search_before_rest_(TextSearch *s, const char *span, size_t length, size_t r,
                                       bool one, Occurrences *found, Error *e) {
    Occurrences rests = {0};
    bool ok = search_aligned_(s, span + r, length - r, -1, 0, false, &rests, e);
    for (size_t k = 0; ok && k < rests.count && !(one && found->count); k++) {
        TraceData *t = &s->data[rests.items[k].data];
        uint64_t token = rests.items[k].token;
        size_t n;
        if (token == 0) {
            continue;
        }
        ok = !s->proving || trace_prove_tokens(t, token - 1, 1, e);
        const char *text = token_text(s->texts, trace_token(t, token - 1), &n);
        if (ok && n > r && !memcmp(text + n - r, span, r)) {
            ok = occurrence_add_(found, rests.items[k].data, token - 1, n - r, e);
        }
    }
    free(rests.items);
    return ok;
}

// The same, by looking for each such token with the rest behind it.
static inline bool search_tokens_before_(TextSearch *s, const char *span, size_t length, size_t r,
                                         size_t first, size_t last, bool one, Occurrences *found,
                                         Error *e) {
    char *joined = malloc(s->texts->longest + length);
    bool ok = joined || fail(e, "no memory for a text of %zu bytes", length);
    for (size_t k = first; ok && k < last && !(one && found->count); k++) {
        size_t n;
        const char *text = token_text(s->texts, (uint64_t)s->by_end[k], &n);
        if (n > r) {
            memcpy(joined, text, n);
            memcpy(joined + n, span + r, length - r);
            ok = search_aligned_(s, joined, n + length - r, s->by_end[k], n - r, one, found, e);
        }
    }
    free(joined);
    return ok;
}

// Entries that begin with the rest of a span, in all blocks.
static inline uint64_t search_count_(const TextSearch *s, const char *span, size_t length) {
    uint64_t count = 0;
    for (size_t i = 0; i < s->count; i++) {
        for (uint64_t b = 0; b < s->data[i].blocks; b++) {
            uint64_t first = index_bound_(s, &s->data[i], b, span, length, false);
            uint64_t end = index_bound_(s, &s->data[i], b, span, length, true);
            count += end > first ? end - first : 0;
        }
    }
    return count;
}

// Adds the places where the span lies in one token but not at its start.
static inline bool search_inside_(TextSearch *s, const char *span, size_t length, bool one,
                                  Occurrences *found, Error *e) {
    bool ok = true;
    for (size_t k = 0; ok && k < s->tokens && !(one && found->count); k++) {
        size_t n;
        const char *text = token_text(s->texts, (uint64_t)s->by_length[k], &n);
        if (n <= length) {
            break;
        }
        for (size_t offset = 1; ok && offset + length <= n; offset++) {
            if (!memcmp(text + offset, span, length)) {
                ok = search_aligned_(s, text, n, s->by_length[k], offset, one, found, e);
            }
        }
    }
    return ok;
}

// Adds the places of `length` > 0 bytes of the text from `at` on; with `one` it stops at the first.
// s->proving proves each of them, and that there are no others.
static inline bool search_span_(TextSearch *s, size_t at, size_t length, bool one,
                                Occurrences *found, Error *e) {
    const char *span = s->text + at;
    uint64_t blocks = 0;
    for (size_t i = 0; i < s->count; i++) {
        blocks += s->data[i].blocks;
    }
    for (size_t r = 0; r < length && r < s->texts->longest && !(one && found->count); r++) {
        size_t first = 0, last = 0;
        if (!s->proving && s->reach[at + r] < length - r) {
            continue;
        }
        if (r == 0) {
            if (!search_aligned_(s, span, length, -1, 0, one, found, e)) {
                return false;
            }
            continue;
        }
        tokens_ending_(s, span, r, &first, &last);
        if (first == last) {
            continue;
        }
        // A token before each of many rests is dearer to look at than a few tokens with the rest
        // behind them are to find.
        uint64_t rests = search_count_(s, span + r, length - r);
        if (!(rests <= 16 * blocks * (uint64_t)(last - first)
                  ? search_before_rest_(s, span, length, r, one, found, e)
                  : search_tokens_before_(s, span, length, r, first, last, one, found, e))) {
            return false;
        }
    }
    return (one && found->count) || search_inside_(s, span, length, one, found, e);
}

static inline void text_search_close(TextSearch *s) {
    free(s->by_end);
    free(s->by_length);
    free(s->reach);
    *s = (TextSearch){0};
}

// Gets ready to look for `length` bytes of UTF-8 in `count` datasets, all with an index and of one
// tokenizer, whose texts these are.
static inline bool text_search_open(TextSearch *s, TraceData *data, size_t count,
                                    const TokenTexts *texts, const char *text, size_t length,
                                    Error *e) {
    *s = (TextSearch){.data = data, .count = count, .texts = texts, .text = text, .length = length};
    s->by_end = malloc(texts->vocab_size * sizeof *s->by_end);
    s->by_length = malloc(texts->vocab_size * sizeof *s->by_length);
    s->reach = malloc((length + 1) * sizeof *s->reach);
    if (!s->by_end || !s->by_length || !s->reach) {
        return fail(e, "no memory to look for a text of %zu bytes", length);
    }
    for (size_t i = 0; i < count; i++) {
        if (!data[i].index.path[0]) {
            return fail(e, "%s: has no index to look text up in: make one with prepare --index 1",
                        data[i].path);
        }
    }
    for (size_t id = 0; id < texts->vocab_size; id++) {
        size_t n;
        token_text(texts, id, &n);
        if (n > 0) {
            s->by_end[s->tokens] = s->by_length[s->tokens] = (int32_t)id;
            s->tokens++;
        }
    }
    qsort_r(s->by_end, s->tokens, sizeof *s->by_end, by_end_compare_, s);
    qsort_r(s->by_length, s->tokens, sizeof *s->by_length, by_length_compare_, s);
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t at = 0; at < length; at++) {
        size_t best = 0, most = length - at < INDEX_OVERLAP ? length - at : INDEX_OVERLAP;
        for (size_t i = 0; i < count; i++) {
            for (uint64_t b = 0; b < data[i].blocks; b++) {
                size_t reach = index_reach_(s, &data[i], b, text + at, most);
                best = reach > best ? reach : best;
            }
        }
        s->reach[at] = best;
    }
    return true;
}

typedef struct {
    size_t first, length; // bytes of the text
} TextSpan;

typedef struct {
    TextSpan *items;
    size_t count, capacity; // zero-initialise; the caller frees items
} TextSpans;

// Bytes of the text from `at` on that stand in the data at `o`.
static inline size_t occurrence_reach_(const TextSearch *s, const Occurrence *o, size_t at) {
    const TraceData *t = &s->data[o->data];
    size_t n, common, most = s->length - at < INDEX_OVERLAP ? s->length - at : INDEX_OVERLAP;
    uint64_t walked;
    const char *text = token_text(s->texts, trace_token(t, o->token), &n);
    for (size_t i = o->offset; i < n; i++) {
        if (i - o->offset == most || text[i] != s->text[at + i - o->offset]) {
            return i - o->offset;
        }
    }
    n -= o->offset;
    text_compare_(s, t, o->token + 1, s->text + at + n, most - n, &common, &walked);
    return n + common;
}

// Where the character behind the one at `at` begins.
static inline size_t next_character_(const TextSearch *s, size_t at) {
    at++;
    while (at < s->length && ((unsigned char)s->text[at] & 0xC0) == 0x80) {
        at++;
    }
    return at;
}

// The furthest character's edge up to `at`, but not before `least`.
static inline size_t character_edge_(const TextSearch *s, size_t at, size_t least) {
    while (at > least && at < s->length && ((unsigned char)s->text[at] & 0xC0) == 0x80) {
        at--;
    }
    return at;
}

static inline int span_compare_(const void *first, const void *second) {
    const TextSpan *a = first, *b = second;
    return a->length != b->length ? (a->length < b->length ? 1 : -1)
                                  : (a->first > b->first) - (a->first < b->first);
}

// All spans of whole characters, at least `least` bytes long, that stand in the data and in no
// longer one that does; longest first. None is longer than INDEX_OVERLAP bytes.
static inline bool text_search_spans(TextSearch *s, size_t least, TextSpans *spans, Error *e) {
    size_t end = 0;
    bool ok = true;
    least = least > s->length ? s->length : least > 0 ? least : 1;
    for (size_t at = 0; ok && at < s->length; at = next_character_(s, at)) {
        // The span before ends at `end`, so text[at .. end) stands in the data; this one must go
        // further.
        size_t reached = end > at ? end : at, next = next_character_(s, reached);
        while (next - at < least && next < s->length) {
            next = next_character_(s, next);
        }
        if (next - at < least || reached >= s->length) {
            break;
        }
        size_t start = reached;
        while (ok && next - at <= INDEX_OVERLAP) {
            Occurrences one = {0};
            ok = search_span_(s, at, next - at, true, &one, e);
            bool found = ok && one.count > 0;
            size_t reach = found ? occurrence_reach_(s, &one.items[0], at) : 0;
            free(one.items);
            if (!found) {
                break;
            }
            reach = reach > s->reach[at] ? reach : s->reach[at];
            reached = character_edge_(s, at + reach, next);
            reached = reached > next ? reached : next;
            if (reached >= s->length) {
                break;
            }
            next = next_character_(s, reached);
        }
        if (ok && reached > start) {
            ok = array_reserve(&spans->items, &spans->capacity, spans->count, 1,
                               sizeof *spans->items, e);
            if (ok) {
                spans->items[spans->count++] = (TextSpan){at, reached - at};
                end = reached;
            }
        }
    }
    if (ok && spans->count > 0) {
        qsort(spans->items, spans->count, sizeof *spans->items, span_compare_);
    }
    return ok;
}

static inline int occurrence_compare_(const void *first, const void *second) {
    const Occurrence *a = first, *b = second;
    return a->data != b->data     ? (a->data > b->data) - (a->data < b->data)
           : a->token != b->token ? (a->token > b->token) - (a->token < b->token)
                                  : (a->offset > b->offset) - (a->offset < b->offset);
}

// All places of a span in the order of the data, each proved, and that it cannot be longer on
// either side.
static inline bool text_search_places(TextSearch *s, TextSpan span, Occurrences *found, Error *e) {
    Occurrences longer = {0};
    size_t before = span.first, end = span.first + span.length;
    while (before > 0 && ((unsigned char)s->text[--before] & 0xC0) == 0x80) {
    }
    s->proving = true;
    bool ok = search_span_(s, span.first, span.length, false, found, e);
    if (ok && before < span.first && end - before <= INDEX_OVERLAP) {
        ok = search_span_(s, before, end - before, true, &longer, e);
    }
    if (ok && end < s->length && next_character_(s, end) - span.first <= INDEX_OVERLAP) {
        ok = search_span_(s, span.first, next_character_(s, end) - span.first, true, &longer, e);
    }
    s->proving = false;
    if (ok && (longer.count > 0 || found->count == 0)) {
        ok = fail(e, "%s: was altered: it did not lead to all places of a text",
                  s->data[0].index.path);
    }
    free(longer.items);
    if (ok) {
        qsort(found->items, found->count, sizeof *found->items, occurrence_compare_);
    }
    return ok;
}

// Tokens that a span of `length` bytes touches where it occurs.
static inline uint64_t occurrence_tokens(const TextSearch *s, const Occurrence *o, size_t length) {
    uint64_t tokens = 0;
    size_t covered = 0, n = 1;
    const TraceData *t = &s->data[o->data];
    for (; covered < o->offset + length && n > 0 && o->token + tokens < t->data->tokens;
         tokens++, covered += n) {
        token_text(s->texts, trace_token(t, o->token + tokens), &n);
    }
    return tokens;
}

// ------------------------------------------------------------------------------------------------
// Answers: what the trace command prints

// Exactly one of step, doc and text is asked for.
typedef struct {
    const char *run;         // folder of the run; NULL: look in the data alone, for a text
    const char *const *data; // (data_count) where the data lies now; none: where the log says
    size_t data_count;
    uint64_t step, row; // row UINT64_MAX: all of the step
    const char *doc;    // id or number of a document
    const char *text;   // "-": standard input
    uint64_t min_bytes; // of a span
    uint64_t limit;     // documents listed of a span
    bool json;
} TraceQuestion;

typedef struct {
    const TraceQuestion *question;
    bool has_run;
    TraceRun run;
    Mixture mixture; // the training data
    TraceData *data; // (mixture.count)
    bool has_tokenizer;
    TokenTexts texts;
} Tracer_;

// What concerns a piece of a document: where it was read (NULL: nowhere), and which part of the
// data it is.
typedef struct {
    const RunPlace *place;
    size_t dataset;
    const TraceDocument *document; // NULL: the data does not know its documents
    uint64_t first, tokens;        // in the dataset's split
} TracePiece_;

// Opens run and data, and proves that they belong together.
static inline bool tracer_open_(Tracer_ *t, const TraceQuestion *o, Error *e) {
    *t = (Tracer_){.question = o, .has_run = o->run != NULL};
    if (t->has_run
            ? !trace_run_open(&t->run, o->run, o->step, e) ||
                  !trace_run_mixture(&t->run, &t->mixture, o->data, o->data_count, e)
            : !mixture_open_paths(&t->mixture, o->data, NULL, o->data_count, "train", 1, e)) {
        return false;
    }
    t->data = calloc(t->mixture.count, sizeof *t->data);
    if (!t->data) {
        return fail(e, "no memory for %zu datasets", t->mixture.count);
    }
    const Json *logged = t->has_run ? json_get(t->run.head.root, "data")->child : NULL;
    for (size_t i = 0; i < t->mixture.count; i++, logged = logged ? logged->next : NULL) {
        if (!trace_data_open(&t->data[i], &t->mixture.items[i], t->mixture.paths[i], "train",
                             logged, e)) {
            return false;
        }
        if (!t->data[i].proved) {
            fprintf(stderr,
                    "warning: %s: the run's log has no hash of it, so only batch_sha256 proves "
                    "what was read\n",
                    t->mixture.paths[i]);
        }
    }
    if (t->mixture.items[0].tokenizer[0]) {
        Tokenizer tokenizer;
        if (!tokenizer_load(&tokenizer, t->mixture.items[0].tokenizer, e)) {
            return false;
        }
        t->has_tokenizer = token_texts_init(&t->texts, &tokenizer, e);
        tokenizer_free(&tokenizer);
        return t->has_tokenizer;
    }
    return true;
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

// Adds the text of tokens of a split: well-formed UTF-8, in which U+FFFD stands for a character
// that the edges cut.
static inline bool append_text_(Tracer_ *t, size_t dataset, uint64_t first, uint64_t tokens,
                                JsonWriter *text, Error *e) {
    TraceData *data = &t->data[dataset];
    JsonWriter raw = {0};
    size_t length, consumed;
    uint64_t replaced = 0;
    bool ok = trace_prove_tokens(data, first, tokens, e);
    for (uint64_t i = 0; ok && i < tokens; i++) {
        const char *bytes = token_text(&t->texts, trace_token(data, first + i), &length);
        json_append(&raw, bytes, length);
    }
    char *whole = ok ? malloc(3 * raw.length + 1) : NULL;
    if (ok && (!whole || raw.failed)) {
        ok = fail(e, "no memory for a text of %zu bytes", raw.length);
    }
    if (ok) {
        json_append(text, whole,
                    utf8_sanitize(whole, raw.data, raw.length, true, &consumed, &replaced));
    }
    free(whole);
    free(raw.data);
    return ok;
}

// What is known of a document beside its id, url and license, under the names that the metadata
// has; its "source", which is a name of a collection, is "origin" here, since "source" is the file.
static inline void put_metadata_(JsonWriter *w, const Json *metadata) {
    static const char *const taken[] = {"step",        "row",  "rank",   "data",        "document",
                                        "bytes",       "text", "offset", "first_token", "tokens",
                                        "shard_token", "span", "proved"};
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
        } else if (m->kind == JSON_NUMBER && !is_taken && json_double(m, &number)) {
            json_begin_member_(w, key);
            json_append(w, m->text, m->length);
        }
    }
}

// The fields of a piece, without the braces.
static inline void put_read_piece_(JsonWriter *w, const Tracer_ *t, const TracePiece_ *p) {
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
        {"first_token", d ? p->first - d->first : 0, d},
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

static inline bool print_line_(JsonWriter *w, Error *e) {
    bool ok = !w->failed || fail(e, "no memory for a line of output");
    if (ok) {
        fwrite(w->data, 1, w->length, stdout);
        putchar('\n');
    }
    free(w->data);
    *w = (JsonWriter){0};
    return ok;
}

// For people: which document, and what is known of it.
static inline void print_document_(const Tracer_ *t, size_t dataset, const TraceDocument *d) {
    static const char *const keys[] = {"id", "url", "license", "source"};
    if (!d) {
        printf("%s", t->mixture.paths[dataset]);
        return;
    }
    printf("document %llu of %s, %llu tokens", (unsigned long long)d->number,
           t->mixture.paths[dataset], (unsigned long long)d->tokens);
    if (d->known) {
        printf(", from %s, %llu bytes at %llu", d->source, (unsigned long long)d->record.length,
               (unsigned long long)d->record.offset);
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const Json *value = json_get(d->metadata.root, keys[i]);
        if (value && (value->kind == JSON_STRING || value->kind == JSON_NUMBER)) {
            printf(", %s %s", strcmp(keys[i], "source") ? keys[i] : "origin", value->text);
        }
    }
}

// Opens the document that holds a token; *out is NULL if the data knows no documents.
static inline bool find_document_(TraceData *data, uint64_t token, TraceDocument *document,
                                  const TraceDocument **out, Error *e) {
    uint64_t number;
    *out = NULL;
    *document = (TraceDocument){0};
    if (!data->idx.path[0]) {
        return true;
    }
    *out = document;
    return trace_document_of(data, token, &number, e) && trace_document(data, number, document, e);
}

// Prints the pieces of documents that make up a sample.
static inline bool print_sample_(Tracer_ *t, SampleId id, const RunPlace *place, Error *e) {
    TraceData *data = &t->data[id.dataset];
    const uint64_t T = t->run.seq_len, end = id.sample * T + T + 1;
    for (uint64_t token = id.sample * T, next; token < end; token = next) {
        TraceDocument document;
        TracePiece_ piece = {.place = place, .dataset = id.dataset, .first = token};
        JsonWriter line = {0}, text = {0};
        bool ok = find_document_(data, token, &document, &piece.document, e);
        next = ok && piece.document ? document.first + document.tokens : end;
        next = next < end ? next : end;
        piece.tokens = next - token;
        ok =
            ok && (!t->has_tokenizer || append_text_(t, id.dataset, token, piece.tokens, &text, e));
        if (ok && t->question->json) {
            json_open(&line, NULL, '{');
            put_read_piece_(&line, t, &piece);
            if (t->has_tokenizer) {
                json_put_text(&line, "text", text.data ? text.data : "", text.length);
            }
            json_close(&line, '}');
            ok = print_line_(&line, e);
        } else if (ok) {
            printf("row %llu rank %llu | tokens %llu to %llu of ", (unsigned long long)place->row,
                   (unsigned long long)place->rank,
                   (unsigned long long)(token - (piece.document ? document.first : 0)),
                   (unsigned long long)(next - 1 - (piece.document ? document.first : 0)));
            print_document_(t, id.dataset, piece.document);
            printf("\n%.*s\n\n", (int)text.length, text.data ? text.data : "");
        }
        json_free(&document.metadata);
        free(text.data);
        if (!ok) {
            return false;
        }
    }
    return true;
}

// Reads all rows of a step again and compares their hash with the one that the trainer logged.
static inline bool prove_step_(Tracer_ *t, uint64_t position, uint64_t rows, Error *e) {
    const size_t T = t->run.seq_len;
    int32_t *sample = malloc((T + 1) * sizeof *sample);
    unsigned char *digests = malloc(rows * DIGEST_BYTES);
    uint64_t vocab_size = 0;
    char hex[BATCH_HASH_DIGITS + 1];
    bool ok = (sample && digests) ||
              fail(e, "no memory for a step of %llu rows", (unsigned long long)rows);
    ok = ok && (json_uint(json_get(t->run.head.root, "vocab_size"), &vocab_size) ||
                fail(e, "%s: has no vocab_size", t->run.path));
    for (uint64_t row = 0; ok && row < rows; row++) {
        SampleId id = mixture_order(&t->mixture, t->run.seed, t->run.shuffle, position + row);
        ok = trace_prove_tokens(&t->data[id.dataset], id.sample * T, T + 1, e) &&
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
             fail(e, "%s: step %llu read other tokens than these: their hash is %s, the log has %s",
                  t->run.path, (unsigned long long)t->question->step, hex, t->run.batch_hash);
    }
    free(sample);
    free(digests);
    return ok;
}

static inline bool trace_step_(Tracer_ *t, Error *e) {
    const TraceQuestion *o = t->question;
    const RunPart *part = trace_run_part(&t->run, o->step);
    if (o->step > t->run.last_step || o->step <= t->run.parts[0].from_step) {
        return fail(e, "--step %llu: the run's log has the steps %llu to %llu",
                    (unsigned long long)o->step, (unsigned long long)t->run.parts[0].from_step + 1,
                    (unsigned long long)t->run.last_step);
    }
    if (o->row != UINT64_MAX && o->row >= part->global_batch) {
        return fail(e, "--row %llu: step %llu has the rows 0 to %llu", (unsigned long long)o->row,
                    (unsigned long long)o->step, (unsigned long long)part->global_batch - 1);
    }
    uint64_t position = trace_run_position(&t->run, o->step);
    if (!prove_step_(t, position, part->global_batch, e)) {
        return false;
    }
    if (!o->json) {
        printf("step %llu: %llu rows of %llu tokens on %llu rank%s; %s\n\n",
               (unsigned long long)o->step, (unsigned long long)part->global_batch,
               (unsigned long long)t->run.seq_len + 1, (unsigned long long)part->ranks,
               part->ranks == 1 ? "" : "s",
               t->run.batch_hash[0] ? "proved: their hash is the one the trainer logged"
                                    : "this log has no hash of what a step read");
    }
    bool ok = true;
    for (uint64_t row = 0; ok && row < part->global_batch; row++) {
        if (o->row == UINT64_MAX || o->row == row) {
            RunPlace place = {0};
            ok = trace_run_place(&t->run, position + row, &place) &&
                 print_sample_(
                     t, mixture_order(&t->mixture, t->run.seed, t->run.shuffle, position + row),
                     &place, e);
        }
    }
    return ok;
}

// Prints every reading of the tokens first .. end - 1 of a document. `span` adds the fields of a
// text's span.
static inline bool print_reads_(Tracer_ *t, size_t dataset, const TraceDocument *document,
                                uint64_t first, uint64_t end, const JsonWriter *span, Error *e) {
    TraceReads reads = {0};
    bool ok = !t->has_run || trace_reads(&t->run, &t->mixture, dataset, first, end, &reads, e);
    for (size_t i = 0; ok && (i < reads.count || i == 0); i++) {
        bool read = i < reads.count;
        TracePiece_ piece = {read ? &reads.items[i].place : NULL, dataset, document,
                             read ? reads.items[i].first : first,
                             read ? reads.items[i].tokens : end - first};
        if (t->question->json) {
            JsonWriter line = {0};
            json_open(&line, NULL, '{');
            put_read_piece_(&line, t, &piece);
            if (span) {
                json_append(&line, span->data, span->length);
            }
            json_close(&line, '}');
            ok = print_line_(&line, e);
        } else if (read) {
            printf("  step %llu, row %llu, rank %llu: tokens %llu to %llu\n",
                   (unsigned long long)piece.place->step, (unsigned long long)piece.place->row,
                   (unsigned long long)piece.place->rank,
                   (unsigned long long)(piece.first - (document ? document->first : 0)),
                   (unsigned long long)(piece.first + piece.tokens - 1 -
                                        (document ? document->first : 0)));
        } else if (t->has_run) {
            printf("  not read up to step %llu\n", (unsigned long long)t->run.last_step);
        }
    }
    free(reads.items);
    return ok;
}

static inline bool print_document_reads_(Tracer_ *t, size_t dataset, uint64_t number, Error *e) {
    TraceDocument document;
    bool ok = trace_document(&t->data[dataset], number, &document, e);
    if (ok && !t->question->json) {
        print_document_(t, dataset, &document);
        printf("\n");
    }
    ok = ok && print_reads_(t, dataset, &document, document.first, document.first + document.tokens,
                            NULL, e);
    json_free(&document.metadata);
    return ok;
}

// The document that "NUMBER" or "DATA:NUMBER" names; false if it names none.
static inline bool document_by_number_(const Tracer_ *t, const char *name, size_t *dataset,
                                       uint64_t *number, Error *e) {
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
        return fail(e, "--doc %s: no document has this id, and %s has the documents 0 to %llu",
                    name, t->mixture.paths[i],
                    (unsigned long long)t->mixture.items[i].documents - 1);
    }
    return true;
}

static inline bool trace_doc_(Tracer_ *t, Error *e) {
    bool found = false;
    for (size_t i = 0; i < t->mixture.count; i++) {
        for (uint64_t number = 0;; number++) { // an id need not be the only one of its name
            if (!trace_find_id(&t->data[i], t->question->doc, &number, e)) {
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
    uint64_t number = 0;
    return found || (document_by_number_(t, t->question->doc, &dataset, &number, e) &&
                     print_document_reads_(t, dataset, number, e));
}

// --text, or all of standard input for "-", with ill-formed UTF-8 replaced. Returns NULL on
// failure; the caller frees.
static inline char *read_text_(const TraceQuestion *o, size_t *length, Error *e) {
    JsonWriter raw = {0};
    char block[1 << 16];
    size_t consumed;
    uint64_t replaced = 0;
    if (strcmp(o->text, "-")) {
        json_append(&raw, o->text, strlen(o->text));
    } else {
        for (size_t n; (n = fread(block, 1, sizeof block, stdin)) > 0;) {
            json_append(&raw, block, n);
        }
    }
    char *text = raw.failed ? NULL : malloc(3 * raw.length + 1);
    if (!text) {
        fail(e, "no memory for the text");
    } else if (raw.length == 0) {
        fail(e, "--text %s: there is no text", o->text);
        free(text);
        text = NULL;
    } else {
        *length = utf8_sanitize(text, raw.data, raw.length, true, &consumed, &replaced);
    }
    free(raw.data);
    return text;
}

// How many documents hold one of the places, which are in order.
static inline bool count_documents_(Tracer_ *t, const Occurrences *places, uint64_t *count,
                                    Error *e) {
    size_t dataset = SIZE_MAX;
    uint64_t number, last = 0;
    *count = 0;
    for (size_t i = 0; i < places->count; i++) {
        const Occurrence *o = &places->items[i];
        if (!trace_document_of(&t->data[o->data], o->token, &number, e)) {
            return false;
        }
        *count += o->data != dataset || number != last;
        dataset = o->data, last = number;
    }
    return true;
}

// Prints a span and the first place of each document that holds it, up to --limit of them.
static inline bool print_span_(Tracer_ *t, TextSearch *s, TextSpan span, Error *e) {
    Occurrences places = {0};
    uint64_t documents, listed = 0, last = 0, number;
    size_t dataset = SIZE_MAX;
    bool ok =
        text_search_places(s, span, &places, e) && count_documents_(t, &places, &documents, e);
    if (ok && !t->question->json) {
        printf("%zu bytes at %zu, %zu time%s in %llu document%s: %.*s\n", span.length, span.first,
               places.count, places.count == 1 ? "" : "s", (unsigned long long)documents,
               documents == 1 ? "" : "s", (int)span.length, s->text + span.first);
    }
    for (size_t i = 0; ok && i < places.count && listed <= t->question->limit; i++) {
        const Occurrence *o = &places.items[i];
        TraceDocument document = {0};
        ok = trace_document_of(&t->data[o->data], o->token, &number, e);
        if (!ok || (o->data == dataset && number == last) || listed++ == t->question->limit) {
            continue;
        }
        dataset = o->data, last = number;
        uint64_t tokens = occurrence_tokens(s, o, span.length);
        JsonWriter fields = {.depth = 1, .has_member = true};
        json_put_text(&fields, "span", s->text + span.first, span.length);
        json_put_uint(&fields, "span_offset", span.first);
        json_put_uint(&fields, "span_bytes", span.length);
        json_put_uint(&fields, "matched_tokens", tokens);
        json_put_uint(&fields, "places", places.count);
        json_put_uint(&fields, "documents", documents);
        ok = trace_document(&t->data[o->data], number, &document, e) &&
             (!fields.failed || fail(e, "no memory for a line of output"));
        if (ok && !t->question->json) {
            printf(" in ");
            print_document_(t, o->data, &document);
            printf("\n");
        }
        ok = ok && print_reads_(t, o->data, &document, o->token, o->token + tokens, &fields, e);
        json_free(&document.metadata);
        free(fields.data);
    }
    if (ok && !t->question->json && documents > t->question->limit) {
        printf(" and in %llu documents more (--limit)\n",
               (unsigned long long)(documents - t->question->limit));
    }
    free(places.items);
    return ok;
}

static inline bool trace_text_(Tracer_ *t, Error *e) {
    TextSearch search = {0};
    TextSpans spans = {0};
    size_t length;
    if (!t->has_tokenizer) {
        return fail(e,
                    "%s: has no tokenizer, so its tokens cannot be read as text: only data of "
                    "prepare can be searched",
                    t->mixture.paths[0]);
    }
    for (size_t i = 0; i < t->mixture.count; i++) {
        if (t->data[i].index.path[0] && !t->data[i].index_proved) {
            fprintf(stderr,
                    "warning: %s: is not in the manifest: what it finds is proved, but it may not "
                    "find all\n",
                    t->data[i].index.path);
        }
    }
    char *text = read_text_(t->question, &length, e);
    bool ok = text &&
              text_search_open(&search, t->data, t->mixture.count, &t->texts, text, length, e) &&
              text_search_spans(&search, t->question->min_bytes, &spans, e);
    for (size_t i = 0; ok && i < spans.count; i++) {
        ok = print_span_(t, &search, spans.items[i], e);
    }
    if (ok && spans.count == 0 && !t->question->json) {
        printf("no %llu bytes of this text stand in the data\n",
               (unsigned long long)(length < t->question->min_bytes ? length
                                                                    : t->question->min_bytes));
    }
    free(spans.items);
    text_search_close(&search);
    free(text);
    return ok;
}

// Opens run and data, proves that they belong together, and prints the answer on stdout.
static inline bool trace_answer(const TraceQuestion *o, Error *e) {
    Tracer_ t;
    bool ok = tracer_open_(&t, o, e) && (o->step  ? trace_step_(&t, e)
                                         : o->doc ? trace_doc_(&t, e)
                                                  : trace_text_(&t, e));
    tracer_close_(&t);
    return ok;
}

#endif
