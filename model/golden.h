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

static const struct {
    ModelConfig config;
    const char *hash[2]; // by precision
} golden_models[] = {
    {{GOLDEN_MODEL_, .family = &families[FAMILY_GPT2], .channels = 98, .layers = 2, .heads = 7,
      .kv_heads = 7, .head_dim = 14, .mlp_channels = 392, .tied = true, .scale_attention = true},
     {"d80661553c94e7edec40cb60c269cfb143fe85c9c15298e94025271a9d04a010", ""}},
    {{GOLDEN_MODEL_, .family = &families[FAMILY_LLAMA], .channels = 90, .layers = 2, .heads = 6,
      .kv_heads = 3, .head_dim = 18, .mlp_channels = 197, .scale_attention = true,
      .rope = {10000, 8, 1, 4, 40}},
     {"e759b278e413b703dd387ecdae286e09f18c8d4855bef0bc2ae65cd83a6c1946", ""}},
    {{GOLDEN_MODEL_, .family = &families[FAMILY_QWEN3], .channels = 90, .layers = 2, .heads = 4,
      .kv_heads = 1, .head_dim = 26, .mlp_channels = 197, .tied = true, .qk_norm = true,
      .scale_attention = true, .rope = {1000000, 1, 1, 1, 1}},
     {"54429c4449cb352cbac8dc84b32a117fa87abd2a8b7085ac533a7d921461fde2", ""}},
};
enum { GOLDEN_MODELS = sizeof golden_models / sizeof *golden_models };

#endif
