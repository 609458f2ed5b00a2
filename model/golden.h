// golden.h: the small models that `kernels --golden` trains, one of each kind, and the hashes of
// what comes out: of the losses of 20 steps and the weights after them.
//
// The models are small, but have two blocks of keys in attention and two blocks of k in the widest
// matrix product. Any machine, vector length and number of threads must give these hashes; a change
// of the kernels' arithmetic changes them.
#ifndef MODEL_GOLDEN_H
#define MODEL_GOLDEN_H

#include "model/config.h"

enum { GOLDEN_VOCAB = 211, GOLDEN_T = 167, GOLDEN_STEPS = 20 };

#define GOLDEN_MODEL_ .vocab_size = GOLDEN_VOCAB, .seq_len = GOLDEN_T, .norm_eps = 1e-5

typedef struct {
    ModelConfig config;
    const char *hash[2]; // by precision
} GoldenModel;

static const GoldenModel golden_models[] = {
    {{GOLDEN_MODEL_, .family = &families[FAMILY_GPT2], .channels = 98, .layers = 2, .heads = 7,
      .kv_heads = 7, .head_dim = 14, .mlp_channels = 392, .tied = true, .scale_attention = true},
     {"d80661553c94e7edec40cb60c269cfb143fe85c9c15298e94025271a9d04a010",
      "c325946660335138b9cccd9705c27e1f867ff54503471263c0b1fdc2b35ba9a8"}},
    {{GOLDEN_MODEL_, .family = &families[FAMILY_LLAMA], .channels = 90, .layers = 2, .heads = 6,
      .kv_heads = 3, .head_dim = 18, .mlp_channels = 197, .scale_attention = true,
      .rope = {10000, 8, 1, 4, 40}},
     {"e759b278e413b703dd387ecdae286e09f18c8d4855bef0bc2ae65cd83a6c1946",
      "0dd8ae10ee1c66a99c11959d2fda369eca85e0b5a4f5bc6d1bd199e748cc20de"}},
    {{GOLDEN_MODEL_, .family = &families[FAMILY_QWEN3], .channels = 90, .layers = 2, .heads = 4,
      .kv_heads = 1, .head_dim = 26, .mlp_channels = 197, .tied = true, .qk_norm = true,
      .scale_attention = true, .rope = {1000000, 1, 1, 1, 1}},
     {"54429c4449cb352cbac8dc84b32a117fa87abd2a8b7085ac533a7d921461fde2",
      "ac31961990240f1e72d6bc1376d0ee18240c5fadc914db84540c5a1a475b4016"}},
};
enum { GOLDEN_MODELS = sizeof golden_models / sizeof *golden_models };

// Whether the name of model i's family contains `name`; NULL: all do.
static inline bool golden_named(size_t i, const char *name) {
    return !name || strstr(golden_models[i].config.family->name, name);
}

static inline bool golden_known(const char *name, Error *e) {
    bool known = false;
    for (size_t i = 0; i < GOLDEN_MODELS; i++) {
        known = known || golden_named(i, name);
    }
    return known || fail(e, "--only %s: no golden model has such a name", name);
}

#endif
