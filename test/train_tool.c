// train_tool.c: drives tokenizers/train.h for test_tokenizer_train.py and
// scripts/bench_tokenizer.py. Texts on stdin: each its length as uint32, then its bytes.
//
//     train_tool bpe VOCAB_SIZE DIR                 byte-level BPE
//     train_tool unigram VOCAB_SIZE DIR [COVERAGE]  Unigram with byte fallback
//     train_tool suffixes                           suffix array of stdin as binary int32
#include "tokenizers/train.h"

#include "test/tool.h"

static bool add_texts(TokenizerTrainer *trainer, const char *at, const char *end, Error *e) {
    while (end - at >= 4) {
        uint32_t length;
        memcpy(&length, at, sizeof length);
        at += 4;
        if (length > end - at) {
            return fail(e, "stdin: the last text is truncated");
        }
        if (!trainer_add(trainer, at, length, e)) {
            return false;
        }
        at += length;
    }
    return true;
}

static bool finish_bpe(const TokenizerTrainer *trainer, size_t vocab_size, const char *directory,
                       Error *e) {
    Tokenizer t = {0};
    bool ok = trainer_finish(trainer, vocab_size, &t, e) && tokenizer_save(&t, directory, e);
    tokenizer_free(&t);
    return ok;
}

static int train(int argc, char **argv, const char *text, size_t length) {
    TokenizerTrainer trainer;
    Error e = {""};
    const size_t vocab_size = strtoul(argv[2], NULL, 10);
    const double coverage = argc > 4 ? strtod(argv[4], NULL) : UNIGRAM_COVERAGE, start = seconds();
    const bool bpe = !strcmp(argv[1], "bpe");
    bool ok = (bpe ? trainer_init : trainer_init_unigram)(&trainer, &e) &&
              add_texts(&trainer, text, text + length, &e);
    double counted = seconds();
    ok = ok && (bpe ? finish_bpe(&trainer, vocab_size, argv[3], &e)
                    : trainer_finish_unigram(&trainer, vocab_size, coverage, argv[3], &e));
    if (ok) {
        fprintf(stderr, "count %.3f train %.3f\n", counted - start, seconds() - counted);
    }
    trainer_free(&trainer);
    return ok ? 0 : stop(&e);
}

static int suffixes(const char *bytes, size_t length) {
    const int32_t n = (int32_t)length + 1;
    int32_t *text = calloc((size_t)n, sizeof *text), *order = malloc((size_t)n * sizeof *order);
    for (size_t i = 0; text && i < length; i++) {
        text[i] = 1 + (unsigned char)bytes[i];
    }
    bool ok = text && order && suffix_sort_symbols(text, n, 257, order, &(Error){0}) &&
              fwrite(order, sizeof *order, (size_t)n, stdout) == (size_t)n;
    free(text);
    free(order);
    return ok ? 0 : 1;
}

int main(int argc, char **argv) {
    size_t length;
    char *text = read_stdin(&length);
    const char *command = argc > 1 ? argv[1] : "";
    int status = 2;
    if ((!strcmp(command, "bpe") && argc == 4) ||
        (!strcmp(command, "unigram") && (argc == 4 || argc == 5))) {
        status = train(argc, argv, text, length);
    } else if (!strcmp(command, "suffixes") && argc == 2) {
        status = suffixes(text, length);
    } else {
        fprintf(stderr, "unknown command\n");
    }
    free(text);
    return status;
}
