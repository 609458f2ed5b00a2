// options.h: what prepare_corpus is asked to do.
#ifndef CORPUS_OPTIONS_H
#define CORPUS_OPTIONS_H

#include "corpus/duplicates.h"
#include "util/utf8.h"

// Inputs are files or folders; from folders it takes the files that sources.h knows, in the order
// of their names' bytes.
typedef struct {
    const char *const *inputs;
    size_t input_count;
    const char *out;           // folder to make
    const char *tokenizer;     // the tokenizer to use, its folder or file; NULL: train one
    size_t vocab_size;         // of the one to train; 0 with a given one
    bool unigram;              // kind to train: Unigram with byte fallback, or byte-level BPE
    uint64_t tokenizer_sample; // bytes of text to train it on; a rank holds at most a quarter more
    double val_fraction;       // share of the documents in the validation split, 0 <= F < 1
    const char *text_key;      // of JSON Lines: the key that holds the text
    uint64_t seed;             // of the split and of the tokenizer's sample
    uint64_t unit_bytes;       // of a stretch of JSON Lines; 0: by the size of the corpus. Does not
                               // change the result
    FilterOptions collect;     // which documents are dropped
    bool index;                // make an index of the text, for trace
    const char *revision;      // of the program: only the same one resumes an interrupted run
    const char *const *command; // the command line, for the manifest
    size_t command_count;
    FILE *progress; // for people; NULL: silent
} PrepareOptions;

static inline bool prepare_check_utf8_(const PrepareOptions *o, Error *e) {
    bool valid = utf8_is_valid(o->text_key, strlen(o->text_key)) &&
                 (!o->tokenizer || utf8_is_valid(o->tokenizer, strlen(o->tokenizer)));
    for (size_t i = 0; i < o->command_count; i++) {
        valid = valid && utf8_is_valid(o->command[i], strlen(o->command[i]));
    }
    return valid ||
           fail(e, "the command line is not valid UTF-8, so the manifest cannot record it");
}

static inline bool prepare_check_tokenizer_(const PrepareOptions *o, Error *e) {
    if (!o->tokenizer == !o->vocab_size) {
        return fail(e, "prepare needs either --vocab-size N, to train a tokenizer, or --tokenizer "
                       "DIR, to use an existing one");
    }
    if (o->tokenizer) {
        return true;
    }
    return (o->vocab_size >= 257 ||
            fail(e,
                 "--vocab-size %zu is too small: 256 bytes and the end-of-document token make 257",
                 o->vocab_size)) &&
           (o->tokenizer_sample >= 1024 ||
            fail(e, "--tokenizer-sample %llu: must be at least 1024 bytes",
                 (unsigned long long)o->tokenizer_sample));
}

// Whether these options make sense together. prepare_corpus checks them too; a command checks them
// first, to tell wrong usage from a failure.
static inline bool prepare_check_options(const PrepareOptions *o, Error *e) {
    return (o->input_count > 0 || fail(e, "prepare needs --input PATH...: files or folders")) &&
           (o->out || fail(e, "prepare needs --out DIR")) && prepare_check_utf8_(o, e) &&
           prepare_check_tokenizer_(o, e) &&
           ((o->val_fraction >= 0 && o->val_fraction < 1) ||
            fail(e, "--val-fraction %g: must be at least 0 and less than 1", o->val_fraction)) &&
           filter_check(&o->collect, e);
}

#endif
