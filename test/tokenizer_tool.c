// tokenizer_tool.c: gives test_tokenizer.py access to tokenizer.h. Texts on stdin have the form
// (length as uint32, bytes); ids are binary int32.
//
//     tokenizer_tool train VOCAB_SIZE DIR   trains on texts, saves to DIR
//     tokenizer_tool encode DIR [ROUNDS]    encodes texts: writes the ids of each and -1; the time
//                                           goes to stderr
//     tokenizer_tool chunks DIR BLOCK       the same for texts that are read in blocks and cut at
//                                           safe places; the number of cuts goes to stderr
//     tokenizer_tool decode DIR [all]       decodes lists of ids, each ended by INT32_MIN: writes
//                                           texts, each ended by 0xFF; `all`: with special tokens
//     tokenizer_tool copy DIR OUT           loads from DIR, saves to OUT
//     tokenizer_tool sanitize BLOCK         repairs UTF-8 that is read in blocks; the number of
//                                           replacements goes to stderr
//     tokenizer_tool classes                writes the class of each code point as one byte
#include "tokenizers/train.h"

#include "test/tool.h"

static size_t cuts_made; // by `chunks`

typedef struct {
    const char *text;
    size_t length;
} Text;

// Takes the next text from the list.
static bool next_text(const char **at, const char *end, Text *text) {
    uint32_t length;
    if (end - *at < 4) {
        return false;
    }
    memcpy(&length, *at, sizeof length);
    *text = (Text){*at + 4, length};
    *at += 4 + (size_t)length;
    return *at <= end;
}

static int train(size_t vocab_size, const char *directory, const char *text, size_t length) {
    TokenizerTrainer trainer;
    Tokenizer t = {0};
    Error e = {""};
    double start = seconds();
    bool ok = trainer_init(&trainer, &e);
    Text document;
    for (const char *at = text; ok && next_text(&at, text + length, &document);) {
        ok = trainer_add(&trainer, document.text, document.length, &e);
    }
    double counted = seconds();
    ok = ok && trainer_finish(&trainer, vocab_size, &t, &e);
    double merged = seconds();
    ok = ok && tokenizer_save(&t, directory, &e);
    if (ok) {
        fprintf(stderr, "count %.3f merge %.3f\n", counted - start, merged - counted);
    }
    trainer_free(&trainer);
    tokenizer_free(&t);
    return ok ? 0 : stop(&e);
}

static bool put_ids(TokenBuffer *ids, Error *e) {
    int32_t end = -1;
    bool ok =
        (ids->count == 0 || fwrite(ids->ids, sizeof *ids->ids, ids->count, stdout) == ids->count) &&
        fwrite(&end, sizeof end, 1, stdout) == 1;
    ids->count = 0;
    return ok || fail(e, "stdout: %s", strerror(errno));
}

static int encode(const char *directory, int rounds, const char *text, size_t length) {
    Tokenizer t;
    Encoder encoder = {0};
    TokenBuffer ids = {0};
    Error e = {""};
    bool ok = tokenizer_load(&t, directory, &e) && encoder_init(&encoder, &t, &e);
    double start = seconds();
    for (int round = 0; ok && round < rounds; round++) {
        Text document;
        for (const char *at = text; ok && next_text(&at, text + length, &document);) {
            ids.count = 0;
            ok = encoder_encode(&encoder, document.text, document.length, &ids, &e) &&
                 (round || put_ids(&ids, &e));
        }
    }
    if (ok) {
        fprintf(stderr, "encode %.3f\n", (seconds() - start) / rounds);
    }
    encoder_free(&encoder);
    free(ids.ids);
    tokenizer_free(&t);
    return ok ? 0 : stop(&e);
}

// Encodes a text in chunks, as for documents larger than memory: reads `block` more bytes at a time
// and encodes up to the last safe place to cut. Each block ends in a complete character, and its
// buffer ends with it.
static bool encode_in_chunks(Encoder *encoder, Text text, size_t block, TokenBuffer *ids,
                             Error *e) {
    bool ok = true;
    int continues = TEXT_COMPLETE;
    for (size_t held = 0; ok && text.length;) {
        held = held + block < text.length ? held + block : text.length;
        while (held < text.length && (text.text[held] & 0xC0) == 0x80) {
            held++;
        }
        char *copy = malloc(held); // lets the sanitizer detect reads beyond the end
        if (!copy) {
            return fail(e, "no memory");
        }
        memcpy(copy, text.text, held);
        bool last = held == text.length;
        size_t cut = last ? held : tokenizer_safe_cut(encoder->tokenizer, copy, held);
        ok = (!last && cut == 0) ||
             encoder_encode_chunk(encoder, copy, cut, continues | (last ? 0 : TEXT_NOT_LAST), ids,
                                  e);
        free(copy);
        cuts_made += cut > 0 && !last;
        continues |= cut > 0 ? TEXT_NOT_FIRST : 0;
        text = (Text){text.text + cut, text.length - cut};
        held -= cut;
    }
    return ok;
}

static int chunks(const char *directory, size_t block, const char *text, size_t length) {
    Tokenizer t;
    Encoder encoder = {0};
    TokenBuffer ids = {0};
    Error e = {""};
    Text document;
    bool ok = tokenizer_load(&t, directory, &e) && encoder_init(&encoder, &t, &e);
    for (const char *at = text; ok && next_text(&at, text + length, &document);) {
        ok = encode_in_chunks(&encoder, document, block, &ids, &e) && put_ids(&ids, &e);
    }
    if (ok) {
        fprintf(stderr, "%zu cuts\n", cuts_made);
    }
    encoder_free(&encoder);
    free(ids.ids);
    tokenizer_free(&t);
    return ok ? 0 : stop(&e);
}

// Decodes lists of ids, each ended by INT32_MIN, one id at a time. Each text is ended by 0xFF,
// which never occurs in UTF-8.
static int decode(const char *directory, bool all, const char *data, size_t length) {
    Tokenizer t;
    Decoder decoder = {0};
    Error e = {""};
    bool ok = tokenizer_load(&t, directory, &e);
    decoder_init(&decoder, &t, all);
    for (size_t i = 0; ok && i + 4 <= length; i += 4) {
        int32_t id;
        memcpy(&id, data + i, sizeof id);
        ok = id == INT32_MIN ? decoder_end(&decoder, &e) : decoder_add(&decoder, id, &e);
        if (ok && decoder.text.length) {
            fwrite(decoder.text.data, 1, decoder.text.length, stdout);
            decoder.text.length = 0;
        }
        if (ok && id == INT32_MIN) {
            putchar(0xFF);
            decoder_free(&decoder);
            decoder_init(&decoder, &t, all);
        }
    }
    decoder_free(&decoder);
    tokenizer_free(&t);
    return ok ? 0 : stop(&e);
}

static int copy(const char *directory, const char *out) {
    Tokenizer t;
    Error e = {""};
    bool ok = tokenizer_load(&t, directory, &e);
    if (ok) {
        t.model_max_length = 1024;
        ok = tokenizer_save(&t, out, &e);
    }
    tokenizer_free(&t);
    return ok ? 0 : stop(&e);
}

static int sanitize(size_t block, const char *text, size_t length) {
    uint64_t replaced = 0;
    size_t consumed;
    char *out = malloc(3 * length + 1);
    for (size_t at = 0, held = 0; out && at < length; held -= consumed) {
        held = held + block < length - at ? held + block : length - at;
        size_t n = utf8_sanitize(out, text + at, held, at + held == length, &consumed, &replaced);
        fwrite(out, 1, n, stdout);
        at += consumed;
    }
    free(out);
    fprintf(stderr, "%llu\n", (unsigned long long)replaced);
    return 0;
}

static int classes(void) {
    Error e = {""};
    uint8_t *table = character_classes(&e);
    for (uint32_t c = 0; table && c < 0x110000; c++) {
        char text[4];
        size_t n = utf8_encode(c, text);
        putchar(class_at(table, text, text + n, &n));
    }
    free(table);
    return table ? 0 : stop(&e);
}

static int run(int argc, char **argv, const char *text, size_t length) {
    const char *command = argc > 1 ? argv[1] : "";
    if (!strcmp(command, "train") && argc == 4) {
        return train(strtoul(argv[2], NULL, 10), argv[3], text, length);
    }
    if (!strcmp(command, "encode") && argc >= 3) {
        return encode(argv[2], argc > 3 ? atoi(argv[3]) : 1, text, length);
    }
    if (!strcmp(command, "chunks") && argc == 4) {
        return chunks(argv[2], strtoul(argv[3], NULL, 10), text, length);
    }
    if (!strcmp(command, "decode") && argc >= 3) {
        return decode(argv[2], argc > 3, text, length);
    }
    if (!strcmp(command, "copy") && argc == 4) {
        return copy(argv[2], argv[3]);
    }
    if (!strcmp(command, "sanitize") && argc == 3) {
        return sanitize(strtoul(argv[2], NULL, 10), text, length);
    }
    if (!strcmp(command, "classes")) {
        return classes();
    }
    fprintf(stderr, "unknown command\n");
    return 2;
}

int main(int argc, char **argv) {
    size_t length;
    char *text = read_stdin(&length);
    int status = run(argc, argv, text, length);
    free(text);
    return status;
}
