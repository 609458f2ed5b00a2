// token_data.h: Token data: each sample equals the bytes of the file, and an id outside the
// vocabulary is an error
#ifndef TEST_FUZZ_TARGETS_TOKEN_DATA_H
#define TEST_FUZZ_TARGETS_TOKEN_DATA_H

#include "test/fuzz_targets/promises.h"

static int64_t id_at(const uint8_t *bytes, int width, bool is_signed) {
    uint64_t id = load_le(bytes, width);
    return is_signed ? (int64_t)(id << (64 - 8 * width)) >> (64 - 8 * width) : (int64_t)id;
}

static void check_dataset(const Dataset *d, const uint8_t *ids, size_t bytes, int width,
                          bool is_signed) {
    static const size_t vocabularies[] = {1, 200, 300, 50257, 70000, INT32_MAX};
    size_t T = d->seq_len;
    int32_t *tokens = malloc((T + 1) * sizeof *tokens);
    uint8_t seen[64] = {0};
    Error e = {0};
    promise(
        d->tokens == bytes / (size_t)width && d->samples == (d->tokens - 1) / T && d->samples > 0,
        "%llu tokens, %llu samples", (unsigned long long)d->tokens, (unsigned long long)d->samples);
    for (uint64_t i = 0; i < d->samples; i++) {
        uint64_t sample = i < 3 ? i : d->samples - 1;
        size_t V = vocabularies[i % (sizeof vocabularies / sizeof *vocabularies)];
        bool inside = true;
        for (size_t t = 0; t <= T; t++) {
            int64_t id = id_at(ids + (sample * T + t) * (size_t)width, width, is_signed);
            inside = inside && id >= 0 && id < (int64_t)V;
        }
        promise(answer(dataset_read(d, sample, V, tokens, &e), &e) == inside,
                "sample %llu is %s, its ids are %s the vocabulary of %zu",
                (unsigned long long)sample, inside ? "refused" : "accepted",
                inside ? "inside" : "outside", V);
        for (size_t t = 0; t <= T && inside; t++) {
            promise(tokens[t] == id_at(ids + (sample * T + t) * (size_t)width, width, is_signed),
                    "sample %llu differs from the file", (unsigned long long)sample);
        }
        if (i >= 3) {
            break;
        }
    }
    for (uint64_t i = 0; i < d->samples && d->samples <= sizeof seen; i++) {
        uint64_t sample = dataset_order(d, 7, true, 3 * d->samples + i);
        promise(sample < d->samples && !seen[sample]++, "the order of an epoch is no permutation");
    }
    free(tokens);
}

// A Megatron pair.
static bool run_idx(InputPart *parts) {
    static const struct {
        int width;
        bool is_signed;
    } types[9] = {{0},       {1, false}, {1, true}, {2, true}, {4, true},
                  {8, true}, {0},        {0},       {2, false}};
    bool any = false;
    put_part("pair.idx", parts[0]);
    put_part("pair.bin", parts[1]);
    for (size_t T = 1; T <= 5; T += 4) {
        Dataset d;
        Error e = {0};
        if (answer(dataset_open(&d, path_of("pair"), "train", T, &e), &e)) {
            unsigned type = parts[0].data[17];
            check_dataset(&d, parts[1].data, parts[1].size, types[type].width,
                          types[type].is_signed);
            promise(dataset_verify(&d, &e), "%s", e.text);
            dataset_close(&d);
            any = true;
        }
    }
    return any;
}

static bool run_llmc(InputPart *parts) {
    bool any = false;
    put_part("shard.bin", parts[0]);
    for (size_t T = 1; T <= 5; T += 4) {
        Dataset d;
        Error e = {0};
        if (answer(dataset_open(&d, path_of("shard.bin"), "train", T, &e), &e)) {
            check_dataset(&d, parts[0].data + LLMC_HEADER, parts[0].size - LLMC_HEADER,
                          load_le(parts[0].data, 4) == 20240520 ? 2 : 4, false);
            dataset_close(&d);
            any = true;
        }
    }
    return any;
}

// manifest.json beside a pair of 2 documents, 10 tokens.
static bool run_manifest(InputPart *parts) {
    uint8_t idx[IDX_HEADER + 2 * 12 + 3 * 8] = {0}, bin[20] = {0};
    Scratch idx_scratch = {idx, sizeof idx, sizeof idx},
            bin_scratch = {bin, sizeof bin, sizeof bin};
    Dataset d;
    Error e = {0};
    idx[17] = 8;
    store_le(idx + 18, 2, 8);
    store_le(idx + 26, 2, 8); // becomes 3
    store_le(idx + 34, 4, 4);
    store_le(idx + 38, 6, 4);
    repair_pair(&idx_scratch, &bin_scratch, NULL);
    put_file("train.idx", idx, idx_scratch.size);
    put_file("train.bin", bin, bin_scratch.size);
    put_part("manifest.json", parts[0]);
    mkdir(path_of("tokenizer"), 0777);
    put_file("tokenizer/tokenizer.json", "{}", 2);
    if (!answer(dataset_open(&d, folder, "train", 3, &e), &e)) {
        return false;
    }
    promise(d.documents == 2 && d.tokens == 10 && d.vocab_size > 0 && d.vocab_size <= INT32_MAX,
            "a wrong manifest");
    bool ok = answer(dataset_verify(&d, &e), &e);
    dataset_close(&d);
    return ok;
}

#endif
