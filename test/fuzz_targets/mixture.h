// mixture.h: Mixtures: PATH:WEIGHT as the command line has it, one a line, over three small shards
#ifndef TEST_FUZZ_TARGETS_MIXTURE_H
#define TEST_FUZZ_TARGETS_MIXTURE_H

#include "test/fuzz_targets/promises.h"

static void begin_mixture(void) {
    uint8_t shard[LLMC_HEADER + 2 * 20] = {0};
    store_le(shard, 20240520, 4);
    store_le(shard + 4, 1, 4);
    for (int i = 0; i < 3; i++) {
        char name[] = {(char)('a' + i), 0};
        uint64_t tokens = 5 + 7 * (uint64_t)i;
        store_le(shard + 8, tokens, 4);
        put_file(name, shard, LLMC_HEADER + 2 * tokens);
    }
}

// The order and its inverse agree, and shares are met within one sample after every number of them.
static void check_mixture(const Mixture *m) {
    uint64_t read[3] = {0};
    for (uint64_t k = 0; k < 200; k++) {
        SampleId id = mixture_order(m, 3, true, k);
        promise(id.dataset < m->count && id.sample < m->items[id.dataset].samples,
                "a sample outside its dataset");
        uint64_t epoch = read[id.dataset]++ / m->items[id.dataset].samples;
        promise(mixture_position(m, 3, true, id, epoch) == k, "position %llu is not found again",
                (unsigned long long)k);
        for (size_t i = 0; i < m->count; i++) {
            double quota = (double)(k + 1) * mixture_share(m, i);
            promise(fabs((double)read[i] - quota) < 1 && mixture_count(m, i, k + 1) == read[i],
                    "dataset %zu has %llu of the first %llu samples, its share is %g", i,
                    (unsigned long long)read[i], (unsigned long long)k + 1, quota);
        }
    }
}

static bool run_mixture(InputPart *parts) {
    char *specs[3] = {NULL}, *text = (char *)parts[0].data;
    size_t count = 0, left = parts[0].size;
    Mixture m;
    Error e = {0};
    for (; count < 3 && left > 0; count++) {
        char *newline = memchr(text, '\n', left);
        size_t n = newline ? (size_t)(newline - text) : left;
        specs[count] = malloc(strlen(folder) + n + 2);
        sprintf(specs[count], "%s/%.*s", folder, (int)n, text);
        text += n, left -= n;
        text += newline != NULL, left -= newline != NULL;
    }
    bool ok = count > 0 &&
              answer(mixture_open(&m, (const char *const *)specs, count, "train", 3, &e), &e);
    if (ok) {
        check_mixture(&m);
        mixture_close(&m);
    }
    for (size_t i = 0; i < count; i++) {
        free(specs[i]);
    }
    return ok;
}

#endif
