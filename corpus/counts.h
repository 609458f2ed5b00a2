// counts.h: what prepare counts, and its summary of a run.
#ifndef CORPUS_COUNTS_H
#define CORPUS_COUNTS_H

#include "corpus/duplicates.h"
#include "util/json.h"

// Everything that is counted, for a unit, a source and the corpus alike.
//   lines                                of JSON Lines
//   documents, tokens, text_bytes        written; tokens include the end-of-document tokens
//   empty, blank_lines, rejected_lines   dropped: no text; no JSON; not a JSON object with a text
//   dropped_*                            dropped for the DropReason of that name, in its order
//   replaced                             ill-formed UTF-8 sequences that became U+FFFD
//   train_*, val_*                       by split, in the order of SPLIT_DOCS ...
//   dropped_bytes                        of dropped.jsonl
// clang-format off
#define COUNTS_LIST_(X)                                                                            \
    X(lines)                                                                                       \
    X(documents) X(tokens) X(text_bytes)                                                           \
    X(empty) X(blank_lines) X(rejected_lines)                                                      \
    X(dropped_short) X(dropped_long) X(dropped_japanese) X(dropped_repeated_lines)                 \
    X(dropped_exact_duplicate) X(dropped_near_duplicate)                                           \
    X(replaced)                                                                                    \
    X(train_documents) X(train_tokens) X(train_meta_bytes)                                         \
    X(val_documents) X(val_tokens) X(val_meta_bytes)                                               \
    X(dropped_bytes)
// clang-format on

#define COUNT_FIELD_(name) uint64_t name;
#define COUNT_INDEX_(name) COUNT_##name,
#define COUNT_NAME_(name) #name,

enum { COUNTS_LIST_(COUNT_INDEX_) COUNTS };

static const char *const COUNT_NAMES[COUNTS] = {COUNTS_LIST_(COUNT_NAME_)};

typedef union {
    struct {
        COUNTS_LIST_(COUNT_FIELD_)
    };
    uint64_t all[COUNTS];
} Counts;

enum { SPLIT_TRAIN, SPLIT_VAL, SPLITS };

static const char *const SPLIT_NAMES[SPLITS] = {"train", "val"};

// The files of a split that are joined from those of the units. What is counted of each: documents,
// tokens, bytes.
enum { SPLIT_DOCS, SPLIT_BIN, SPLIT_META, SPLIT_KINDS };

// The index of a count of a split.
static inline int count_of_split(int split, int kind) {
    return COUNT_train_documents + SPLIT_KINDS * split + kind;
}

// The index of the number of documents dropped for this reason, which is not DROP_NONE.
static inline int count_of_dropped(uint32_t reason) {
    return COUNT_dropped_short + (int)reason - DROP_SHORT;
}

static inline void counts_add(Counts *sum, const Counts *more) {
    for (int i = 0; i < COUNTS; i++) {
        sum->all[i] += more->all[i];
    }
}

static inline void counts_put(JsonWriter *w, const Counts *counts) {
    json_open(w, "counts", '{');
    for (int i = 0; i < COUNTS; i++) {
        json_put_uint(w, COUNT_NAMES[i], counts->all[i]);
    }
    json_close(w, '}');
}

// Reads what counts_put wrote; `path` names the file in the error.
static inline bool counts_read(Counts *counts, const Json *from, const char *path, Error *e) {
    for (int i = 0; i < COUNTS; i++) {
        if (!json_uint(json_get(from, COUNT_NAMES[i]), &counts->all[i])) {
            return fail(e, "%s: has no count of %s", path, COUNT_NAMES[i]);
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Summary of a run, on rank 0

enum { REPORT_NOTES = 5, NOTE_LIMIT = sizeof(Error) };

typedef struct {
    uint64_t sources;       // files read
    uint64_t skipped_files; // files in the input folders of kinds that are not read
    Counts counts;
    size_t vocab_size;
    size_t note_count;
    char notes[REPORT_NOTES][NOTE_LIMIT]; // "FILE:LINE: what is wrong" for the first rejected lines
} PrepareReport;

// Prints the summary; `out` is the folder that was made.
static inline void prepare_report_print(const PrepareReport *r, const char *out, FILE *to) {
    typedef unsigned long long Number;
    const Counts *c = &r->counts;
    fprintf(to, "%s: %llu documents from %llu sources, %llu tokens, vocabulary size %zu, ", out,
            (Number)c->documents, (Number)r->sources, (Number)c->tokens, r->vocab_size);
    fprintf(to, "%.2f bytes per token\n", (double)c->text_bytes / (double)c->tokens);
    fprintf(to, "train: %llu documents, %llu tokens; val: %llu documents, %llu tokens\n",
            (Number)c->train_documents, (Number)c->train_tokens, (Number)c->val_documents,
            (Number)c->val_tokens);

    fprintf(to, "skipped: %llu empty documents, %llu blank lines, ", (Number)c->empty,
            (Number)c->blank_lines);
    fprintf(to, "%llu lines without a document, %llu files of other types\n",
            (Number)c->rejected_lines, (Number)r->skipped_files);
    fprintf(to, "dropped: %llu too short, %llu too long, ", (Number)c->dropped_short,
            (Number)c->dropped_long);
    fprintf(to, "%llu with too little Japanese, %llu with too many repeated lines, ",
            (Number)c->dropped_japanese, (Number)c->dropped_repeated_lines);
    fprintf(to, "%llu exact duplicates, %llu near-duplicates\n", (Number)c->dropped_exact_duplicate,
            (Number)c->dropped_near_duplicate);
    fprintf(to, "ill-formed UTF-8 sequences replaced: %llu\n", (Number)c->replaced);
    for (size_t i = 0; i < r->note_count; i++) {
        fprintf(to, "skipped: %s\n", r->notes[i]);
    }
}

#endif
