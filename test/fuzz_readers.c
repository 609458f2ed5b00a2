// fuzz_readers: libFuzzer targets, one for each reader of files. Bytes go to the reader's real
// entry point, through files where it takes paths, and what it accepts is checked: against a
// second, simple reading, or by writing it out and reading it back. scripts/fuzz.sh runs all of
// them; one by hand:
//
//     FUZZ_TARGET=safetensors build/fuzz_readers [libFuzzer's options] CORPUS_OR_FILES
//
// A finding is a report of a sanitizer, a time-out, or a promise that does not hold (see
// `promise`).
#include <fcntl.h>
#include <sanitizer/lsan_interface.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

// A file that is mapped is a copy of its exact size here, so that AddressSanitizer sees the byte
// behind it.
static void *map_copy(size_t bytes, int file) {
    char *copy = malloc(bytes);
    return copy && pread(file, copy, bytes, 0) == (ssize_t)bytes ? copy : MAP_FAILED;
}
#define mmap(address, bytes, protection, flags, file, offset) map_copy(bytes, file)
#define munmap(address, bytes) free(address)

#define main train_gpt_main
#include "train_gpt.c"
#undef main

#include "test/fuzz_mutate.h"
#include "test/fuzz_targets/json.h"
#include "test/fuzz_targets/log.h"
#include "test/fuzz_targets/manifest.h"
#include "test/fuzz_targets/mixture.h"
#include "test/fuzz_targets/model_files.h"
#include "test/fuzz_targets/prepare.h"
#include "test/fuzz_targets/promises.h"
#include "test/fuzz_targets/run_folder.h"
#include "test/fuzz_targets/safetensors.h"
#include "test/fuzz_targets/token_data.h"
#include "test/fuzz_targets/tokenizers.h"
#include "test/fuzz_targets/trace.h"

// ------------------------------------------------------------------------------------------------
// The targets

typedef enum { PART_BYTES, PART_JSON, PART_LINES, PART_SAFETENSORS, PART_PROTO } PartKind;

static void repair_idx(Scratch *parts, Dice *d) {
    repair_pair(&parts[0], &parts[1], d);
}

static void repair_docs(Scratch *parts, Dice *d) {
    repair_records(&parts[0], &parts[1], TRACED_DOCUMENTS, traced.ends, d);
}

static void repair_index(Scratch *parts, Dice *d) {
    (void)d;
    repair_suffixes(&parts[0], traced.ids.count);
}

static void repair_shard(Scratch *parts, Dice *d) {
    (void)d;
    repair_llmc(&parts[0]);
}

static void repair_tokenizer_json(Scratch *parts, Dice *d) {
    repair_tokenizer(&parts[0], NULL, d);
}

static void repair_vocab_merges(Scratch *parts, Dice *d) {
    repair_tokenizer(&parts[0], &parts[1], d);
}

typedef struct {
    const char *name;
    bool (*run)(InputPart *parts); // true: accepted
    size_t parts;
    PartKind kinds[MAX_PARTS];
    void (*repair)(Scratch *parts, Dice *d); // NULL: nothing to make right
    void (*begin)(void);
    bool nameless; // its errors name no file
} Target;

static const Target targets[] = {
    {"json", run_json, 1, {PART_JSON}, NULL, NULL, true},
    {"safetensors", run_safetensors, 1, {PART_SAFETENSORS}, NULL, NULL, false},
    {"weights", run_weights, 3, {PART_JSON, PART_SAFETENSORS, PART_SAFETENSORS}, NULL, NULL, false},
    {"config", run_config, 1, {PART_JSON}, NULL, NULL, false},
    {"state", run_state, 1, {PART_JSON}, NULL, NULL, false},
    {"sums", run_sums, 1, {PART_BYTES}, NULL, NULL, false},
    {"log", run_log, 1, {PART_LINES}, NULL, NULL, false},
    {"log_resume", run_log_resume, 3, {PART_LINES, PART_LINES, PART_BYTES}, NULL, NULL, false},
    {"idx", run_idx, 2, {PART_BYTES, PART_BYTES}, repair_idx, NULL, false},
    {"llmc", run_llmc, 1, {PART_BYTES}, repair_shard, NULL, false},
    {"manifest", run_manifest, 1, {PART_JSON}, NULL, NULL, false},
    {"manifest_copy", run_manifest_copy, 1, {PART_JSON}, NULL, NULL, false},
    {"tokenizer_json",
     run_tokenizer_json,
     3,
     {PART_JSON, PART_JSON, PART_BYTES},
     repair_tokenizer_json,
     NULL,
     false},
    {"vocab_merges",
     run_vocab_merges,
     4,
     {PART_JSON, PART_BYTES, PART_JSON, PART_BYTES},
     repair_vocab_merges,
     NULL,
     false},
    {"model", run_model, 3, {PART_PROTO, PART_JSON, PART_BYTES}, NULL, NULL, false},
    {"docs", run_docs, 3, {PART_BYTES, PART_JSON, PART_BYTES}, repair_docs, begin_trace, false},
    {"index", run_index, 2, {PART_BYTES, PART_BYTES}, repair_index, begin_trace, false},
    {"run", run_run, 2, {PART_LINES, PART_LINES}, NULL, NULL, false},
    {"mixture", run_mixture, 1, {PART_BYTES}, NULL, begin_mixture, false},
    {"report", run_report, 4, {PART_LINES, PART_LINES, PART_JSON, PART_BYTES}, NULL, NULL, false},
    {"unit", run_unit, 1, {PART_JSON}, NULL, NULL, false},
    {"prepare", run_prepare, 2, {PART_LINES, PART_BYTES}, NULL, begin_prepare, false},
};
static const Target *target;

static void list_targets(void) {
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        puts(targets[i].name);
    }
}

static void end(void) {
    if (getpid() == owner) { // not in a child of libFuzzer's
        remove_directory(folder);
        printf("%s: %llu accepted, %llu rejected\n", target->name, (unsigned long long)accepted,
               (unsigned long long)rejected);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *name = getenv("FUZZ_TARGET");
    (void)argc, (void)argv;
    for (size_t i = 0; name && i < sizeof targets / sizeof *targets; i++) {
        target = strcmp(targets[i].name, name) ? target : &targets[i];
    }
    if (!target) {
        list_targets();
        exit(name && *name ? EXIT_USAGE : 0);
    }
    const char *files = getenv("FUZZ_FILES"),
               *memory = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(folder, sizeof folder, "%s/train_gpt_fuzz.XXXXXX", files ? files : memory);
    promise(mkdtemp(folder) != NULL, "%s: %s", folder, strerror(errno));
    owner = getpid();
    atexit(end);
    error_names = target->nameless ? NULL : folder;
    if (target->begin) {
        target->begin();
    }
    return 0;
}

// Readers get a copy in memory of its exact size, so that AddressSanitizer sees the byte behind it.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    InputPart parts[MAX_PARTS], copies[MAX_PARTS];
    uint8_t *whole = malloc(size + 1);
    if (size) {
        memcpy(whole, data, size);
    }
    split_parts(whole, size, target->parts, parts);
    for (size_t i = 0; i < target->parts; i++) {
        copies[i] = (InputPart){malloc(parts[i].size), parts[i].size};
        if (parts[i].size) {
            memcpy(copies[i].data, parts[i].data, parts[i].size);
        }
    }
    bool ok = target->run(copies);
    accepted += ok, rejected += !ok;
    for (size_t i = 0; i < target->parts; i++) {
        free(copies[i].data);
    }
    free(whole);
    return 0;
}

static void mutate_part(Scratch *s, PartKind kind, Dice *d) {
    if (kind == PART_JSON) {
        mutate_json(s, d);
    } else if (kind == PART_LINES) {
        mutate_lines(s, d);
    } else if (kind == PART_SAFETENSORS) {
        mutate_safetensors(s, d);
    } else if (kind == PART_PROTO) {
        mutate_proto(s, d, 0);
    } else {
        s->size = LLVMFuzzerMutate(s->bytes, s->size, s->most);
    }
}

// Mutates one part by its kind; then mostly makes the parts agree again. One in eight times
// anything may change.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    Dice dice = {seed, 0};
    InputPart parts[MAX_PARTS];
    Scratch scratch[MAX_PARTS], out = {data, 0, max_size};
    if (roll(&dice, 8) == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    split_parts(data, size, target->parts, parts);
    for (size_t i = 0; i < target->parts; i++) {
        scratch[i] = (Scratch){malloc(max_size), 0, max_size};
        scratch_put(&scratch[i], parts[i].data, parts[i].size);
    }
    size_t chosen = (size_t)roll(&dice, target->parts);
    mutate_part(&scratch[chosen], target->kinds[chosen], &dice);
    if (target->repair && roll(&dice, 4)) {
        target->repair(scratch, &dice);
    }
    for (size_t i = 0; i < target->parts; i++) {
        scratch_put(&out, scratch[i].bytes, scratch[i].size);
        if (i + 1 < target->parts) {
            scratch_put(&out, PART_END, PART_END_BYTES);
        }
        free(scratch[i].bytes);
    }
    return out.size;
}
