// mixture_tool.c: drives the mixtures of dataloader.h for test_mixture.py. On failure, exit status
// 1 and one line on stderr.
//
//     mixture_tool order SEQ_LEN SEED SHUFFLE COUNT SPEC...
//         the first COUNT positions, one line each: dataset, sample; checks the inverse of each
//     mixture_tool weights SEQ_LEN SPEC...
//         paths, weights and period
//     mixture_tool deal WEIGHT...
//         the datasets of one period; checks its inverse and its counts
//     mixture_tool inverse SEED EPOCHS N
//         checks random_permutation and its inverse on all of 0..N-1
#include "dataloader.h"

static uint64_t number(const char *text) {
    return strtoull(text, NULL, 10);
}

static bool open_command(Mixture *m, char **specs, int count, const char *seq_len, Error *e) {
    return mixture_open(m, (const char *const *)specs, (size_t)count, "train", number(seq_len), e);
}

static bool order_command(char **argv, int argc, Error *e) {
    Mixture m;
    uint64_t seed = number(argv[1]), count = number(argv[3]);
    bool ok = open_command(&m, argv + 4, argc - 4, argv[0], e), shuffle = number(argv[2]);
    for (uint64_t p = 0; ok && p < count; p++) {
        SampleId id = mixture_order(&m, seed, shuffle, p);
        uint64_t epoch = mixture_count(&m, id.dataset, p) / m.items[id.dataset].samples;
        printf("%zu %llu\n", id.dataset, (unsigned long long)id.sample);
        ok = mixture_position(&m, seed, shuffle, id, epoch) == p ||
             fail(e, "position %llu: the inverse of mixture_order is wrong", (unsigned long long)p);
    }
    ok = ok && (mixture_position(&m, seed, shuffle, (SampleId){0, 0}, UINT64_MAX) == UINT64_MAX ||
                fail(e, "a position beyond 64 bits is not detected"));
    mixture_close(&m);
    return ok;
}

static bool weights_command(char **argv, int argc, Error *e) {
    Mixture m;
    bool ok = open_command(&m, argv + 1, argc - 1, argv[0], e);
    for (size_t i = 0; ok && i < m.count; i++) {
        printf("%s\n%llu %.17g\n", m.paths[i], (unsigned long long)m.weights[i],
               mixture_share(&m, i));
    }
    if (ok) {
        printf("%llu\n", (unsigned long long)m.period);
    }
    mixture_close(&m);
    return ok;
}

static bool deal_command(char **argv, int argc, Error *e) {
    uint64_t weights[MIXTURE_DATASETS_MAX], served[MIXTURE_DATASETS_MAX] = {0};
    Mixture m = {.weights = weights};
    for (; m.count < (size_t)argc; m.count++) {
        weights[m.count] = number(argv[m.count]);
    }
    mixture_reduce_weights(&m);
    bool ok = mixture_schedule(&m, e);
    for (uint64_t k = 0; ok && k < m.period; k++) {
        uint32_t i = m.source[k];
        ok = (m.before[k] == served[i] && m.places[m.first[i] + served[i]] == k &&
              mixture_count(&m, i, k + 5 * m.period) == served[i] + 5 * weights[i]) ||
             fail(e, "slot %llu: the tables are inconsistent", (unsigned long long)k);
        served[i]++;
        printf("%u\n", i);
    }
    m.count = 0;
    m.weights = NULL;
    mixture_close(&m);
    return ok;
}

static bool inverse_command(uint64_t seed, uint64_t epochs, uint64_t n, Error *e) {
    for (uint64_t epoch = 0; epoch < epochs; epoch++) {
        for (uint64_t i = 0; i < n; i++) {
            uint64_t value = random_permutation(seed, epoch, i, n);
            if (value >= n || random_permutation_inverse(seed, epoch, value, n) != i) {
                return fail(e, "%llu of %llu: the inverse is wrong", (unsigned long long)i,
                            (unsigned long long)n);
            }
        }
    }
    return true;
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    Error e = {{0}};
    bool ok;
    argc -= 2, argv += 2;
    if (!strcmp(command, "order") && argc > 4) {
        ok = order_command(argv, argc, &e);
    } else if (!strcmp(command, "weights") && argc > 1) {
        ok = weights_command(argv, argc, &e);
    } else if (!strcmp(command, "deal") && argc > 0 && argc <= MIXTURE_DATASETS_MAX) {
        ok = deal_command(argv, argc, &e);
    } else if (!strcmp(command, "inverse") && argc == 3) {
        ok = inverse_command(number(argv[0]), number(argv[1]), number(argv[2]), &e);
    } else {
        ok = fail(&e, "mixture_tool: no such command");
    }
    if (!ok) {
        fprintf(stderr, "%s\n", e.text);
    }
    return !ok;
}
