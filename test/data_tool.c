// data_tool.c: gives test_data.py access to dataloader.h and corpus/, one command per function. A
// failure ends with exit status 1 and one line on stderr.
#include <signal.h>
#include <sys/resource.h>

#include "corpus/prepare.h"

static bool hash_command(int argc, char **argv, Error *e) {
    char hex[SHA256_HEX];
    for (int i = 0; i < argc; i++) {
        if (!sha256_file(argv[i], hex, e)) {
            return false;
        }
        puts(hex);
    }
    return true;
}

// SHA-256 of stdin, hashed in chunks of 1, 2, 3, ... bytes.
static bool hash_chunks_command(void) {
    Sha256 hash;
    char chunk[512], hex[SHA256_HEX];
    size_t n, size = 1;
    sha256_begin(&hash);
    while ((n = fread(chunk, 1, size, stdin)) > 0) {
        sha256_add(&hash, chunk, n);
        size = size % sizeof chunk + 1;
    }
    sha256_end(&hash, hex);
    puts(hex);
    return true;
}

// Whether the compression function in C and the CPU's instructions make the same state of stdin.
static bool hash_blocks_command(void) {
    unsigned char data[1 << 16];
    uint32_t plain[8] = {0}, cpu[8] = {0};
    size_t n = fread(data, 1, sizeof data, stdin);
    sha256_blocks_plain(plain, data, n / 64);
    (sha256_has_instructions() ? sha256_blocks_cpu : sha256_blocks_plain)(cpu, data, n / 64);
    puts(memcmp(plain, cpu, sizeof plain) ? "different" : "same");
    return true;
}

// One line per epoch: the permutation of 0 .. n - 1.
static bool permutation_command(uint64_t seed, uint64_t epochs, uint64_t n) {
    for (uint64_t epoch = 0; epoch < epochs; epoch++) {
        for (uint64_t i = 0; i < n; i++) {
            printf("%llu%c", (unsigned long long)random_permutation(seed, epoch, i, n),
                   i + 1 < n ? ' ' : '\n');
        }
    }
    return true;
}

static bool uniform_command(uint64_t seed, uint64_t stream, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        printf("%.17g\n", random_uniform(seed, stream, i));
    }
    return true;
}

// The dataset as JSON: one line with its fields, then one line per sample.
static bool dump_command(const char *path, const char *split, size_t seq_len, size_t vocab_size,
                         bool verify, Error *e) {
    Dataset d;
    JsonWriter w = {0};
    if (!dataset_open(&d, path, split, seq_len, e)) {
        return false;
    }
    bool ok = !verify || dataset_verify(&d, e);
    int32_t *tokens = malloc((seq_len + 1) * sizeof *tokens);
    printf("{\"tokens\": %llu, \"documents\": %llu, \"samples\": %llu, \"vocab_size\": %zu, "
           "\"bin_hash\": \"%s\", "
           "\"idx_hash\": \"%s\", \"tokenizer\": \"%s\", \"has_val\": %s}\n",
           (unsigned long long)d.tokens, (unsigned long long)d.documents,
           (unsigned long long)d.samples, d.vocab_size, d.bin_hash, d.idx_hash, d.tokenizer,
           dataset_has_split(path, "val") ? "true" : "false");
    for (uint64_t i = 0; ok && i < d.samples; i++) {
        ok = dataset_read(&d, i, vocab_size, tokens, e);
        w.length = 0;
        w.has_member = false;
        json_open(&w, NULL, '[');
        for (size_t t = 0; ok && t <= seq_len; t++) {
            json_put_uint(&w, NULL, (uint64_t)tokens[t]);
        }
        json_close(&w, ']');
        if (ok) {
            puts(w.data);
        }
    }
    free(w.data);
    free(tokens);
    dataset_close(&d);
    return ok;
}

static bool order_command(const char *path, size_t seq_len, uint64_t seed, bool shuffle,
                          uint64_t count, Error *e) {
    Dataset d;
    if (!dataset_open(&d, path, "train", seq_len, e)) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++) {
        printf("%llu\n", (unsigned long long)dataset_order(&d, seed, shuffle, i));
    }
    dataset_close(&d);
    return true;
}

// Reads sample 0, waits for a line on stdin, reads it again.
static bool read_twice_command(const char *path, size_t seq_len, Error *e) {
    Dataset d;
    int32_t *tokens = malloc((seq_len + 1) * sizeof *tokens);
    bool ok = dataset_open(&d, path, "train", seq_len, e);
    if (ok) {
        ok = dataset_read(&d, 0, SIZE_MAX, tokens, e);
        puts("read");
        fflush(stdout);
        getchar();
        ok = ok && dataset_read(&d, 0, SIZE_MAX, tokens, e);
        dataset_close(&d);
    }
    free(tokens);
    return ok;
}

// Limits the size of files (writes fail as on a full disk) and the growth of memory from here on;
// 0: no limit. MPI has already started, so its own memory does not count.
static void set_limits(uint64_t file_bytes, uint64_t memory_bytes) {
    if (file_bytes) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){file_bytes, file_bytes});
    }
    if (memory_bytes) {
        unsigned long pages = 0;
        FILE *file = fopen("/proc/self/statm", "r");
        if (!file || fscanf(file, "%*u %*u %*u %*u %*u %lu", &pages) != 1) {
            abort();
        }
        fclose(file);
        memory_bytes += pages * (uint64_t)sysconf(_SC_PAGESIZE);
        setrlimit(RLIMIT_DATA, &(struct rlimit){memory_bytes, memory_bytes});
    }
}

// Options as in `train_gpt prepare`, but only in the form --option VALUE; --input may be repeated.
static bool prepare_command(int argc, char **argv) {
    const char **inputs = malloc((size_t)argc * sizeof *inputs + 1);
    PrepareOptions o = {.inputs = inputs,
                        .vocab_size = 300,
                        .tokenizer_sample = 64 << 20,
                        .text_key = "text",
                        .collect = FILTER_NOTHING,
                        .command = (const char *const *)argv,
                        .command_count = (size_t)argc};
    PrepareReport r;
    uint64_t file_limit = 0, memory_limit = 0;
    for (int i = 0; i + 1 < argc; i += 2) {
        const char *name = argv[i] + 2, *value = argv[i + 1];
        if (!strcmp(name, "input")) {
            inputs[o.input_count++] = value;
        } else if (!strcmp(name, "out")) {
            o.out = value;
        } else if (!strcmp(name, "tokenizer")) {
            o.tokenizer = value;
            o.vocab_size = 0;
        } else if (!strcmp(name, "text-key")) {
            o.text_key = value;
        } else if (!strcmp(name, "vocab-size")) {
            o.vocab_size = strtoull(value, NULL, 10);
        } else if (!strcmp(name, "tokenizer-sample")) {
            o.tokenizer_sample = strtoull(value, NULL, 10);
        } else if (!strcmp(name, "val-fraction")) {
            o.val_fraction = strtod(value, NULL);
        } else if (!strcmp(name, "seed")) {
            o.seed = strtoull(value, NULL, 10);
        } else if (!strcmp(name, "min-characters")) {
            o.collect.min_characters = strtoull(value, NULL, 10);
        } else if (!strcmp(name, "max-characters")) {
            o.collect.max_characters = strtoull(value, NULL, 10);
        } else if (!strcmp(name, "max-repeated-lines")) {
            o.collect.max_repeated_lines = strtod(value, NULL);
        } else if (!strcmp(name, "dedup")) {
            o.collect.exact = !strcmp(value, "exact");
        } else if (!strcmp(name, "near-duplicates")) {
            o.collect.near_duplicates = strtod(value, NULL);
        } else if (!strcmp(name, "unigram")) {
            o.unigram = true;
        } else if (!strcmp(name, "index")) {
            o.index = true;
        } else if (!strcmp(name, "file-limit")) {
            file_limit = strtoull(value, NULL, 10);
        } else if (!strcmp(name, "memory-limit")) {
            memory_limit = strtoull(value, NULL, 10);
        } else if (!strcmp(name, "unit-bytes")) {
            o.unit_bytes = strtoull(value, NULL, 10);
        } else if (!strcmp(name, "progress")) {
            o.progress = stdout;
            setvbuf(stdout, NULL, _IOLBF, 0);
        }
    }
    World world;
    world_init(&world, NULL, NULL);
    set_limits(file_limit, memory_limit);
    bool ok = prepare_corpus(&world, &o, &r); // prints its own error
    for (size_t i = 0; ok && i < r.note_count; i++) {
        puts(r.notes[i]);
    }
    world_finalize(&world);
    free(inputs);
    return ok;
}

static uint64_t number(const char *text) {
    return strtoull(text, NULL, 10);
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    Error e = {{0}};
    char hex[SHA256_HEX];
    bool ok;
    argc -= 2, argv += 2;
    if (!strcmp(command, "sha256")) {
        ok = hash_command(argc, argv, &e);
    } else if (!strcmp(command, "sha256-chunks")) {
        ok = hash_chunks_command();
    } else if (!strcmp(command, "sha256-blocks")) {
        ok = hash_blocks_command();
    } else if (!strcmp(command, "permutation") && argc == 3) {
        ok = permutation_command(number(argv[0]), number(argv[1]), number(argv[2]));
    } else if (!strcmp(command, "uniform") && argc == 3) {
        ok = uniform_command(number(argv[0]), number(argv[1]), number(argv[2]));
    } else if ((!strcmp(command, "dump") || !strcmp(command, "verify")) && argc == 4) {
        ok = dump_command(argv[0], argv[1], number(argv[2]), number(argv[3]), *command == 'v', &e);
    } else if (!strcmp(command, "order") && argc == 5) {
        ok = order_command(argv[0], number(argv[1]), number(argv[2]), number(argv[3]),
                           number(argv[4]), &e);
    } else if (!strcmp(command, "read-twice") && argc == 2) {
        ok = read_twice_command(argv[0], number(argv[1]), &e);
    } else if (!strcmp(command, "index") && argc == 4) {
        ok = idx_write(argv[0], argv[1], (int)number(argv[2]), number(argv[3]), hex, &e);
    } else if (!strcmp(command, "prepare")) {
        ok = prepare_command(argc, argv);
    } else {
        ok = fail(&e, "data_tool: unknown command");
    }
    if (!ok && e.text[0]) {
        fprintf(stderr, "%s\n", e.text);
    }
    return !ok;
}
