// index.h: SPLIT.index, a suffix array: the tokens of a split in the order of the text that begins
// with them. Writer and reader.
//
//   0   "TGPTINDX", u32 version = 1, u32 longest match, u64 tokens, u64 entries, u64 blocks,
//       24 zero bytes
//   64  per block: u64 first token, u64 first entry
//       u32 entries: tokens, counted from the first of their block
//
// A block is as many tokens as make 64 MiB of text. Its entries are sorted by the bytes of the text
// that follows, up to INDEX_OVERLAP bytes beyond the block; so each match of up to INDEX_OVERLAP
// bytes that begins in the block is found in it by bisection. Text ends at the end-of-document
// token (and at one without text), which sorts below every byte; such tokens have no entry. Because
// text is sorted and not ids, a match is found however its edges were split into tokens.
#ifndef SHARDS_INDEX_H
#define SHARDS_INDEX_H

#include <omp.h>

#include "dataloader.h"
#include "shards/proof.h"
#include "shards/token_texts.h"
#include "util/suffix_array.h"

enum { INDEX_VERSION = 1, INDEX_HEADER = 64, INDEX_BLOCK = 1 << 26, INDEX_OVERLAP = 1 << 16 };

// Where the blocks of an index begin.
typedef struct {
    uint64_t *first_token, *first_entry; // (blocks + 1): the last is the end
    uint64_t blocks;
} IndexTable;

static inline void index_table_free(IndexTable *t) {
    free(t->first_token);
    free(t->first_entry);
    *t = (IndexTable){0};
}

// ------------------------------------------------------------------------------------------------
// Writer

typedef struct {
    Dataset data;
    TokenTexts texts;
    size_t block_bytes; // text of a block
    char path[PATH_LIMIT];
    int file;
    IndexTable table;
    size_t token_capacity, entry_capacity;
} IndexBuild_;

// Reads the text of the next token, number `token`.
static inline bool token_next_(const IndexBuild_ *b, NumberReader *ids, uint64_t token,
                               const char **text, size_t *length, Error *e) {
    uint64_t id;
    if (!number_next(ids, &id, e)) {
        return false;
    }
    *text = token_text(&b->texts, id, length);
    return id < b->texts.vocab_size ||
           fail(e, "%s: token %llu has id %llu, outside the vocabulary of %zu", b->data.path,
                (unsigned long long)token, (unsigned long long)id, b->texts.vocab_size);
}

static inline bool index_add_block_(IndexBuild_ *b, uint64_t token, uint64_t entry, Error *e) {
    IndexTable *t = &b->table;
    if (!array_reserve(&t->first_token, &b->token_capacity, t->blocks, 1, sizeof token, e) ||
        !array_reserve(&t->first_entry, &b->entry_capacity, t->blocks, 1, sizeof entry, e)) {
        return false;
    }
    t->first_token[t->blocks] = token;
    t->first_entry[t->blocks++] = entry;
    return true;
}

// Cuts the tokens into blocks and counts their entries.
static inline bool index_plan_(IndexBuild_ *b, Error *e) {
    NumberReader ids = dataset_ids(&b->data, 0, b->data.tokens);
    uint64_t entries = 0, bytes = b->block_bytes;
    for (uint64_t token = 0; token < b->data.tokens; token++) {
        const char *text;
        size_t length;
        if (!token_next_(b, &ids, token, &text, &length, e)) {
            return false;
        }
        const size_t symbols = length + (length == 0);
        bytes += symbols;
        if (bytes > b->block_bytes) {
            bytes = symbols;
            if (!index_add_block_(b, token, entries, e)) {
                return false;
            }
        }
        entries += length > 0;
    }
    bool ok = index_add_block_(b, b->data.tokens, entries, e);
    b->table.blocks -= ok; // the last entry is the end
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
            return fail(e, "%s: has a byte C0, which never occurs in UTF-8: it cannot be indexed",
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
    const uint64_t first = b->table.first_token[n], last = b->table.first_token[n + 1];
    NumberReader ids = dataset_ids(&b->data, first, b->data.tokens - first);
    size_t length = 1, end = 0;
    for (uint64_t token = first;
         token < b->data.tokens && (token < last || (length > 0 && t->bytes - end < INDEX_OVERLAP));
         token++) {
        const char *text;
        if (!token_next_(b, &ids, token, &text, &length, e) ||
            !index_block_add_(t, text, length, b->data.path, e)) {
            return false;
        }
        end = token < last ? t->bytes : end;
    }

    t->tokens = last - first;
    for (size_t i = 0, sum = 0; i <= t->bytes / 64; i++) {
        t->ranks[i] = (uint32_t)sum;
        sum += (size_t)__builtin_popcountll(t->starts[i]);
    }
    return true;
}

// Writes the entries of a sorted block: of its suffixes those that begin with a token of the block
// that has text.
static inline bool index_block_write_(const IndexBuild_ *b, size_t n, IndexBlock_ *t, Error *e) {
    unsigned char *out =
        (unsigned char *)t->suffixes; // entry k is written only after suffix k was read
    uint64_t entries = 0, expected = b->table.first_entry[n + 1] - b->table.first_entry[n];
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
    return write_at(b->file, b->path, out, 4 * entries,
                    INDEX_HEADER + 16 * b->table.blocks + 4 * b->table.first_entry[n], e);
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
    store_le(header + 24, b->table.first_entry[b->table.blocks], 8);
    store_le(header + 32, b->table.blocks, 8);
    bool ok = write_at(b->file, b->path, header, sizeof header, 0, e);
    for (size_t n = 0; ok && n < b->table.blocks; n++) {
        store_le(entry, b->table.first_token[n], 8);
        store_le(entry + 8, b->table.first_entry[n], 8);
        ok = write_at(b->file, b->path, entry, sizeof entry, INDEX_HEADER + 16 * n, e);
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
    for (size_t n = 0; n < b->table.blocks; n++) {
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
            fprintf(progress, "indexing %s: block %zu of %llu\n", b->data.path, ++done,
                    (unsigned long long)b->table.blocks);
            fflush(progress);
        }
    }
    return close_written_at(b->file, b->path, ok, e);
}

// index_build with blocks of any size, so that tests see many.
static inline bool index_build_blocks(const char *folder, const char *split,
                                      const Tokenizer *tokenizer, size_t block_bytes,
                                      FILE *progress, char hex[SHA256_HEX], Error *e) {
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
    index_table_free(&b->table);
    free(b);
    return ok;
}

// Writes FOLDER/SPLIT.index from FOLDER/SPLIT.bin and .idx, whose tokens `tokenizer` made; a
// manifest need not be there yet. Every thread of OpenMP takes a block at a time, with about 350 MB
// each; the file is the same for any number of them. `progress` gets a line a block, NULL: none.
// `hex` gets the file's SHA-256.
static inline bool index_build(const char *folder, const char *split, const Tokenizer *tokenizer,
                               FILE *progress, char hex[SHA256_HEX], Error *e) {
    return index_build_blocks(folder, split, tokenizer, INDEX_BLOCK, progress, hex, e);
}

// ------------------------------------------------------------------------------------------------
// Reader

// Reads and checks the table of the index `f` of a split of `tokens` tokens, whose .bin is
// bin_path. index_table_free releases `t`, after a failure too.
static inline bool index_table_read(IndexTable *t, ProofFile *f, uint64_t tokens,
                                    const char *bin_path, Error *e) {
    uint64_t blocks = f->bytes < INDEX_HEADER ? 0 : load_le(f->data + 32, 8), entries;
    if (f->bytes < INDEX_HEADER || memcmp(f->data, "TGPTINDX", 8) ||
        load_le(f->data + 8, 4) != INDEX_VERSION || load_le(f->data + 12, 4) != INDEX_OVERLAP ||
        blocks > (f->bytes - INDEX_HEADER) / 16) {
        return fail(e, "%s: is not an index of version %d", f->path, INDEX_VERSION);
    }
    entries = load_le(f->data + 24, 8);
    uint64_t table = INDEX_HEADER + 16 * blocks;
    if (entries != (f->bytes - table) / 4 || (f->bytes - table) % 4 ||
        load_le(f->data + 16, 8) != tokens) {
        return fail(e, "%s: does not fit %s, which has %llu tokens", f->path, bin_path,
                    (unsigned long long)tokens);
    }
    t->blocks = blocks;
    t->first_token = calloc(blocks + 1, sizeof *t->first_token);
    t->first_entry = calloc(blocks + 1, sizeof *t->first_entry);
    if (!t->first_token || !t->first_entry) {
        return fail(e, "%s: no memory for its blocks", f->path);
    }
    if (!proof_check(f, 0, table, e)) {
        return false;
    }
    t->first_token[blocks] = tokens;
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

#endif
