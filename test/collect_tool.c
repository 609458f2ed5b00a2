// collect_tool.c: drives the filters and the duplicate detection of corpus/ for test_collect.py,
// and measures their speed. On failure, exit status 1 and one line on stderr. Arguments:
//
//     collect_tool COMMAND MIN_CHARACTERS MAX_CHARACTERS MIN_JAPANESE MAX_REPEATED_LINES EXACT
//         NEAR_DUPLICATES ...
//
// Documents come on stdin, each its length as u64, then its bytes. Commands:
//
//     fingerprint CHUNK RECORDS       one line of JSON per document; writes the records to a file
//     duplicates SCRATCH RECORDS      reason, original and similarity of each document; the counts
//     count SCRATCH RECORDS           only the counts and the time
//     speed REPEATS                   speed of filters and fingerprints
//     synthetic COUNT RECORDS         writes the records of random documents
//     bands                           rows and bands of the LSH
#include "corpus/duplicates.h"
#include "util/clock.h"
#include "util/random.h"

#include <omp.h>

// Reads the next document from `in`; *end: there is none.
static bool document_read(FILE *in, char **text, size_t *capacity, uint64_t *length, bool *end,
                          Error *e) {
    unsigned char header[8];
    size_t n = fread(header, 1, sizeof header, in);
    *end = n == 0;
    if (*end) {
        return true;
    }
    *length = load_le(header, 8);
    return (n == sizeof header && array_reserve(text, capacity, 0, *length + 1, 1, e) &&
            fread(*text, 1, *length, in) == *length) ||
           fail(e, "stdin: ends within a document");
}

// Adds a text in chunks of `chunk` characters; 0: all at once.
static bool add_in_chunks(FilterState *s, const char *text, size_t length, size_t chunk, Error *e) {
    bool ok = true;
    for (size_t at = 0; ok && at < length;) {
        size_t n = chunk ? 0 : length - at;
        for (size_t i = 0; i < chunk && at + n < length; i++) {
            size_t character = utf8_decode(text + at + n, length - at - n, NULL);
            n += character ? character : 1;
        }
        ok = filter_add(s, text + at, n, e);
        at += n;
    }
    return ok;
}

// Prints a line of JSON per document and writes the fingerprints to a file ("-": none).
static bool fingerprint_command(const FilterOptions *o, size_t chunk, const char *records,
                                Error *e) {
    FilterState s = {.options = *o};
    FILE *out = strcmp(records, "-") ? fopen(records, "wb") : NULL;
    char *text = NULL;
    size_t capacity = 0;
    bool end = false, ok = true;
    while (ok) {
        Fingerprint f;
        unsigned char record[FINGERPRINT_LIMIT];
        uint64_t length;
        if (!(ok = document_read(stdin, &text, &capacity, &length, &end, e)) || end) {
            break;
        }
        filter_begin(&s);
        ok = add_in_chunks(&s, text, length, chunk, e) && filter_end(&s, &f, e);
        if (!ok) {
            break;
        }
        printf("{\"reason\": \"%s\", \"value\": %.17g, \"characters\": %llu, \"japanese\": %.17g, "
               "\"repeated_lines\": "
               "%.17g, \"exact\": \"",
               DROP_REASON_NAMES[f.reason], f.value, (unsigned long long)f.characters, f.japanese,
               f.repeated_lines);
        for (int i = 0; i < 16; i++) {
            printf("%02x", f.exact[i]);
        }
        printf("\", \"signature\": [");
        for (int i = 0; o->near_duplicates > 0 && i < MINHASH_VALUES; i++) {
            printf("%s%d", i ? ", " : "", f.signature[i]);
        }
        printf("]}\n");
        fingerprint_store(record, &f);
        if (out) {
            ok = write_bytes(out, records, record, fingerprint_size(o), e);
        }
    }
    if (out) {
        ok = close_written(out, records, ok, e);
    }
    free(text);
    filter_free(&s);
    return ok;
}

// Prints a line per document: reason, the document it duplicates or -1, similarity. Then the
// counts; if quiet, only these and the time.
static bool duplicates_command(const FilterOptions *o, bool quiet, const char *scratch,
                               const char *records, Error *e) {
    Duplicates r;
    uint64_t documents[DROP_REASONS] = {0};
    double began = seconds_now();
    if (!duplicates_find(&r, records, scratch, o, e)) {
        return false;
    }
    double ended = seconds_now();
    for (size_t i = 0; i < r.documents; i++) {
        documents[r.reason[i]]++;
        if (!quiet) {
            printf("%s %lld %.9g\n", DROP_REASON_NAMES[r.reason[i]],
                   r.of[i] == NO_DOCUMENT ? -1LL : (long long)r.of[i], r.similarity[i]);
        }
    }
    for (int i = 0; i < DROP_REASONS; i++) {
        printf("%s %llu\n", DROP_REASON_NAMES[i], (unsigned long long)documents[i]);
    }
    if (quiet) {
        printf("%zu documents: %.1f s on %d threads\n", r.documents, ended - began,
               omp_get_max_threads());
    }
    duplicates_free(&r);
    return true;
}

// Measures filters and fingerprints on one thread: the documents on stdin, `repeats` times.
static bool speed_command(const FilterOptions *o, int repeats, Error *e) {
    FilterState s = {.options = *o};
    char **texts = NULL;
    uint64_t *lengths = NULL, bytes = 0, sum = 0;
    size_t count = 0;
    bool ok = true, end = false;
    while (ok) {
        size_t capacity = 0;
        texts = realloc(texts, (count + 1) * sizeof *texts);
        lengths = realloc(lengths, (count + 1) * sizeof *lengths);
        texts[count] = NULL;
        if (!(ok = document_read(stdin, &texts[count], &capacity, &lengths[count], &end, e)) ||
            end) {
            break;
        }
        bytes += lengths[count++];
    }
    double began = seconds_now();
    for (size_t i = 0; ok && i < count * (size_t)repeats; i++) {
        Fingerprint f;
        filter_begin(&s);
        ok = filter_add(&s, texts[i % count], lengths[i % count], e) && filter_end(&s, &f, e);
        sum += ok ? f.signature[0] + f.characters : 0;
    }
    double time = seconds_now() - began;
    printf("%zu documents of %.1f MB, %d times: %.1f MB/s, %.0f documents/s (%llu)\n", count,
           (double)bytes / 1e6, repeats, (double)bytes * repeats / 1e6 / time,
           (double)count * repeats / time, (unsigned long long)sum);
    for (size_t i = 0; i < count; i++) {
        free(texts[i]);
    }
    free(texts);
    free(lengths);
    filter_free(&s);
    return ok;
}

// Writes the records of `count` random documents. One in ten is a copy of one of the first
// hundredth, with each value of the signature replaced with a probability from 0 to 0.4, so that
// there are clusters of about ten documents of various similarity.
static bool synthetic_command(const FilterOptions *o, uint64_t count, const char *path, Error *e) {
    FILE *file = fopen(path, "w+b");
    bool ok = file || fail(e, "%s: cannot be created", path);
    for (uint64_t i = 0; ok && i < count; i++) {
        Fingerprint f = {.reason = DROP_NONE};
        unsigned char record[FINGERPRINT_LIMIT];
        bool copy = i > 0 && random_uniform(1, 20, i) < 0.1;
        uint64_t seed = copy ? (uint64_t)(random_uniform(1, 21, i) * (double)i / 100) : i;
        double changed = copy ? 0.4 * random_uniform(1, 22, i) : 0;
        for (int k = 0; k < MINHASH_VALUES; k++) {
            bool change = changed > 0 && random_uniform(i, 23, (uint64_t)k) < changed;
            f.signature[k] = (uint16_t)random_bits(change ? i + count : seed, 24, (uint64_t)k);
        }
        store_le(f.exact, random_bits(i, 25, 0), 8);
        store_le(f.exact + 8, random_bits(i, 25, 1), 8);
        fingerprint_store(record, &f);
        ok = write_bytes(file, path, record, fingerprint_size(o), e);
    }
    return file && close_written(file, path, ok, e);
}

int main(int argc, char **argv) {
    Error e = {{0}};
    FilterOptions o;
    bool ok;
    if (argc < 8) {
        fprintf(stderr, "collect_tool: unknown command\n");
        return 1;
    }
    const char *command = argv[1];
    o = (FilterOptions){.min_characters = strtoull(argv[2], NULL, 10),
                        .max_characters = strtoull(argv[3], NULL, 10),
                        .min_japanese = strtod(argv[4], NULL),
                        .max_repeated_lines = strtod(argv[5], NULL),
                        .exact = !strcmp(argv[6], "1"),
                        .near_duplicates = strtod(argv[7], NULL)};
    argc -= 8, argv += 8;
    if (!filter_check(&o, &e)) {
        ok = false;
    } else if (!strcmp(command, "fingerprint") && argc == 2) {
        ok = fingerprint_command(&o, strtoull(argv[0], NULL, 10), argv[1], &e);
    } else if ((!strcmp(command, "duplicates") || !strcmp(command, "count")) && argc == 2) {
        ok = duplicates_command(&o, *command == 'c', argv[0], argv[1], &e);
    } else if (!strcmp(command, "speed") && argc == 1) {
        ok = speed_command(&o, atoi(argv[0]), &e);
    } else if (!strcmp(command, "synthetic") && argc == 2) {
        ok = synthetic_command(&o, strtoull(argv[0], NULL, 10), argv[1], &e);
    } else if (!strcmp(command, "bands") && argc == 0) {
        LshBands b = lsh_bands(o.near_duplicates);
        ok = printf("%d %d\n", b.rows, b.bands) > 0;
    } else {
        ok = fail(&e, "collect_tool: unknown command");
    }
    if (!ok) {
        fprintf(stderr, "%s\n", e.text);
    }
    return !ok;
}
