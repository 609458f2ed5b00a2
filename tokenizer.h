// tokenizer.h: tokenizers of three families: load, save, encode, decode; tokenizer_train.h makes
// new ones.
//
// - Byte-level BPE of GPT-2's kind (tokenizer.json, vocab.json with merges.txt): text is cut into
// pre-tokens by the split
//   expression of GPT-2, GPT-4 or Qwen 2; inside a pre-token, bytes are merged by rank (Sennrich et
//   al. 2016, over bytes as in Radford et al. 2019).
// - Unigram (Kudo 2018; tokenizer.json of llm-jp's, Llama's or Metaspace kind, and .model): the
// pieces whose scores add
//   up highest (Viterbi), with byte fallback.
// - BPE and characters of SentencePiece (.model): neighbours merge that spell a piece, highest
// score first. The ids are those of the library that owns the file: Hugging Face `tokenizers` for
// tokenizer.json, sentencepiece for .model. They differ in how they sum scores, in normalization
// and in what control pieces match: see tokenizer_save.
//
//     Tokenizer t;                  Encoder encoder;   // one per thread
//     tokenizer_load(&t, dir, &e);  encoder_init(&encoder, &t, &e);
//     tokenizer_save(&t, dir, &e);  encoder_encode(&encoder, text, n, &ids, &e);
//     tokenizer_free(&t);           encoder_free(&encoder);
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <dirent.h>
#include <float.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access, fsync

#include "util/array.h"
#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/heap.h"
#include "util/json.h"
#include "util/protobuf.h"
#include "util/text.h"
#include "util/utf8.h"

// Ids have 21 bits and ranks 22, so that a pair of ids and its rank fill one word of the pair
// table.
enum { TOKENIZER_MAX_VOCAB = (1 << 21) - 1, TOKENIZER_MAX_MERGES = (1 << 22) - 1 };

static const size_t TOKENIZER_MAX_FILE_ = (size_t)1 << 28; // bytes of a tokenizer.json or .model
static const char END_OF_DOCUMENT_TEXT[] = "<|endoftext|>";

// ------------------------------------------------------------------------------------------------
// Character classes, as in the regex engine of Hugging Face `tokenizers` (Unicode 14 and what came
// up to 16)

enum { CLASS_OTHER_, CLASS_LETTER_, CLASS_NUMBER_, CLASS_SPACE_, CLASS_MASK_ = 3 };
enum { CLASS_WORD_ = 4 }; // a flag beside the class: may be part of a word (\w of Rust's regex)
enum {
    CLASSES_END_ = 0x40000
}; // no letter, number or white space from here on; of words only these marks:
enum { VARIATION_SELECTORS_ = 0xE0100, VARIATION_SELECTORS_END_ = 0xE01F0 };

// \p{L}, \p{N}, and \w without \p{L}: alternately the length of a gap and of a run of members, from
// U+0000 up; by scripts/unicode_tables.py.
// clang-format off
static const uint16_t UNICODE_LETTERS_[] = {
    65, 26, 6, 26, 47, 1, 10, 1, 4, 1, 5, 23, 1, 31, 1, 458, 4, 12, 14, 5, 7, 1, 1, 1, 129, 5, 1, 2, 2, 4, 1,
    1, 6, 1, 1, 3, 1, 1, 1, 20, 1, 83, 1, 139, 8, 166, 1, 38, 2, 1, 6, 41, 71, 27, 4, 4, 45, 43, 35, 2, 1, 99,
    1, 1, 15, 2, 7, 2, 10, 3, 2, 1, 16, 1, 1, 30, 29, 89, 11, 1, 24, 33, 9, 2, 4, 1, 5, 22, 4, 1, 9, 1, 3, 1,
    23, 25, 7, 11, 5, 24, 1, 6, 17, 42, 58, 54, 3, 1, 18, 1, 7, 10, 15, 16, 4, 8, 2, 2, 2, 22, 1, 7, 1, 1, 3,
    4, 3, 1, 16, 1, 13, 2, 1, 3, 14, 2, 10, 1, 8, 6, 4, 2, 2, 22, 1, 7, 1, 2, 1, 2, 1, 2, 31, 4, 1, 1, 19, 3,
    16, 9, 1, 3, 1, 22, 1, 7, 1, 2, 1, 5, 3, 1, 18, 1, 15, 2, 23, 1, 11, 8, 2, 2, 2, 22, 1, 7, 1, 2, 1, 5, 3,
    1, 30, 2, 1, 3, 15, 1, 17, 1, 1, 6, 3, 3, 1, 4, 3, 2, 1, 1, 1, 2, 3, 2, 3, 3, 3, 12, 22, 1, 52, 8, 1, 3,
    1, 23, 1, 16, 3, 1, 26, 3, 2, 1, 2, 2, 30, 1, 4, 8, 1, 3, 1, 23, 1, 10, 1, 5, 3, 1, 31, 2, 1, 2, 15, 2,
    17, 9, 1, 3, 1, 41, 2, 1, 16, 1, 5, 3, 8, 3, 24, 6, 5, 18, 3, 24, 1, 9, 1, 1, 2, 7, 58, 48, 1, 2, 12, 7,
    58, 2, 1, 1, 1, 5, 1, 24, 1, 1, 1, 10, 1, 2, 9, 1, 2, 5, 1, 1, 21, 4, 32, 1, 63, 8, 1, 36, 27, 5, 115, 43,
    20, 1, 16, 6, 4, 4, 3, 1, 3, 2, 7, 3, 4, 13, 12, 1, 17, 38, 1, 1, 5, 1, 2, 43, 1, 333, 1, 4, 2, 7, 1, 1,
    1, 4, 2, 41, 1, 4, 2, 33, 1, 4, 2, 7, 1, 1, 1, 4, 2, 15, 1, 57, 1, 4, 2, 67, 37, 16, 16, 86, 2, 6, 3, 620,
    2, 17, 1, 26, 5, 75, 6, 8, 7, 18, 13, 19, 14, 18, 14, 13, 1, 3, 15, 52, 35, 1, 4, 1, 67, 89, 7, 5, 2, 34,
    1, 1, 5, 70, 10, 31, 49, 30, 2, 5, 11, 44, 4, 26, 54, 23, 9, 53, 82, 1, 93, 47, 17, 8, 54, 30, 13, 2, 10,
    44, 26, 36, 41, 3, 10, 36, 2, 11, 5, 43, 2, 3, 41, 4, 1, 6, 1, 2, 3, 1, 5, 192, 64, 278, 2, 6, 2, 38, 2,
    6, 2, 8, 1, 1, 1, 1, 1, 1, 1, 31, 2, 53, 1, 7, 1, 1, 3, 3, 1, 7, 3, 4, 2, 6, 4, 13, 5, 3, 1, 7, 116, 1,
    13, 1, 16, 13, 101, 1, 4, 1, 2, 10, 1, 1, 3, 5, 6, 1, 1, 1, 1, 1, 1, 4, 1, 11, 2, 4, 5, 5, 4, 1, 52, 2,
    2683, 229, 6, 4, 3, 2, 12, 38, 1, 1, 5, 1, 2, 56, 7, 1, 16, 23, 9, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7, 1, 7,
    1, 7, 80, 1, 469, 2, 42, 5, 5, 2, 4, 86, 6, 3, 1, 90, 1, 4, 5, 43, 1, 94, 17, 32, 48, 16, 512, 6592, 64,
    22157, 67, 46, 2, 269, 3, 16, 10, 2, 20, 47, 16, 31, 2, 70, 49, 9, 2, 103, 2, 67, 2, 2, 1, 1, 1, 8, 21,
    16, 1, 3, 1, 4, 1, 23, 29, 52, 14, 50, 62, 6, 3, 1, 1, 2, 11, 28, 10, 23, 25, 29, 7, 47, 28, 1, 16, 5, 1,
    10, 10, 5, 1, 41, 23, 3, 1, 8, 20, 23, 3, 1, 3, 50, 1, 1, 3, 2, 2, 5, 2, 1, 1, 1, 24, 3, 2, 11, 7, 3, 12,
    6, 2, 6, 2, 6, 9, 7, 1, 7, 1, 43, 1, 14, 6, 115, 29, 11172, 12, 23, 4, 49, 8452, 366, 2, 106, 38, 7, 12,
    5, 5, 1, 1, 10, 1, 13, 1, 5, 1, 1, 1, 2, 1, 2, 1, 108, 33, 363, 18, 64, 2, 54, 40, 12, 116, 5, 1, 135, 36,
    26, 6, 26, 11, 89, 3, 6, 2, 6, 2, 6, 2, 3, 35, 12, 1, 26, 1, 19, 1, 2, 1, 15, 2, 14, 34, 123, 389, 29, 3,
    49, 47, 32, 13, 20, 1, 8, 6, 38, 10, 30, 2, 36, 4, 8, 48, 158, 18, 36, 4, 36, 4, 40, 8, 52, 12, 11, 1, 15,
    1, 7, 1, 2, 1, 11, 1, 15, 1, 7, 1, 2, 3, 52, 12, 311, 9, 22, 10, 8, 24, 6, 1, 42, 1, 9, 69, 6, 2, 1, 1,
    44, 1, 2, 3, 1, 2, 23, 10, 23, 9, 31, 65, 19, 1, 2, 10, 22, 10, 26, 70, 56, 6, 2, 64, 1, 15, 4, 1, 3, 1,
    29, 42, 29, 3, 29, 35, 8, 1, 28, 27, 54, 10, 22, 10, 19, 13, 18, 110, 73, 55, 51, 13, 51, 13, 36, 38, 28,
    9, 23, 250, 42, 6, 2, 16, 3, 59, 29, 10, 1, 8, 22, 42, 18, 46, 21, 27, 23, 12, 53, 57, 2, 2, 1, 13, 45,
    32, 25, 26, 36, 29, 1, 2, 1, 8, 35, 3, 1, 12, 48, 14, 4, 21, 1, 1, 1, 35, 18, 1, 25, 19, 2, 63, 7, 1, 1,
    1, 4, 1, 15, 1, 10, 7, 47, 38, 8, 2, 2, 2, 22, 1, 7, 1, 2, 1, 5, 3, 1, 18, 1, 12, 5, 30, 10, 1, 1, 2, 1,
    1, 38, 1, 1, 25, 1, 1, 1, 44, 53, 18, 4, 20, 3, 30, 48, 20, 2, 1, 1, 184, 47, 41, 4, 36, 48, 20, 1, 59,
    43, 13, 1, 71, 27, 37, 7, 185, 44, 116, 64, 31, 8, 2, 1, 2, 8, 1, 2, 1, 24, 15, 1, 1, 1, 94, 8, 2, 39, 16,
    1, 1, 1, 28, 1, 10, 40, 7, 1, 21, 1, 11, 46, 19, 1, 18, 73, 199, 33, 31, 9, 1, 37, 17, 1, 49, 30, 112, 7,
    1, 2, 1, 38, 21, 1, 25, 6, 1, 2, 1, 32, 14, 1, 327, 19, 15, 1, 1, 13, 1, 34, 124, 1, 79, 922, 230, 196,
    2636, 97, 15, 1072, 17, 6, 25, 3995, 5, 583, 6841, 30, 1762, 569, 7, 31, 17, 79, 17, 30, 18, 48, 16, 4,
    31, 21, 5, 19, 432, 45, 211, 64, 128, 75, 5, 1, 66, 13, 64, 2, 1, 1, 28, 6136, 8, 1238, 41, 10, 8935, 4,
    1, 7, 1, 2, 1, 291, 15, 1, 29, 3, 2, 1, 14, 4, 8, 396, 2308, 107, 5, 13, 3, 9, 7, 10, 5990, 85, 1, 71, 1,
    2, 2, 1, 2, 2, 2, 4, 1, 12, 1, 1, 1, 7, 1, 65, 1, 4, 2, 8, 1, 7, 1, 28, 1, 4, 1, 5, 1, 1, 3, 7, 1, 340, 2,
    25, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 31, 1, 25, 1, 8, 1844, 31, 6, 6, 261, 62, 146, 45,
    10, 7, 16, 1, 321, 30, 18, 44, 484, 28, 228, 30, 2, 1, 495, 7, 1, 4, 1, 2, 1, 15, 1, 197, 59, 68, 7, 1,
    1204, 4, 1, 27, 1, 2, 1, 1, 2, 1, 1, 10, 1, 4, 1, 1, 1, 1, 6, 1, 4, 1, 1, 1, 1, 1, 1, 3, 1, 2, 1, 1, 2, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 2, 4, 1, 7, 1, 4, 1, 4, 1, 1, 1, 10, 1, 17, 5, 3, 1, 5, 1, 17, 4420,
    42720, 32, 4154, 6, 222, 2, 5762, 14, 7473, 15, 622, 2466, 542, 1506, 4939, 5, 4192,
};
static const uint16_t UNICODE_NUMBERS_[] = {
    48, 10, 120, 2, 5, 1, 2, 3, 1441, 10, 134, 10, 198, 10, 412, 10, 118, 10, 4, 6, 108, 10, 118, 10, 118, 10,
    2, 6, 110, 13, 115, 10, 8, 7, 103, 10, 104, 7, 7, 19, 109, 10, 96, 10, 118, 10, 70, 20, 268, 10, 70, 10,
    719, 20, 881, 3, 239, 10, 6, 10, 22, 10, 300, 10, 128, 11, 165, 10, 6, 10, 182, 10, 86, 10, 134, 10, 6,
    10, 1046, 1, 3, 6, 6, 10, 198, 51, 2, 5, 726, 60, 78, 22, 630, 30, 1385, 1, 777, 1, 25, 9, 14, 3, 343, 4,
    138, 10, 30, 8, 1, 15, 32, 10, 39, 15, 29536, 10, 188, 10, 320, 6, 154, 10, 38, 10, 198, 10, 22, 10, 86,
    10, 406, 10, 21270, 10, 493, 45, 12, 57, 17, 2, 341, 27, 36, 4, 29, 1, 8, 1, 134, 5, 202, 10, 942, 8, 25,
    7, 39, 9, 75, 5, 22, 6, 160, 2, 2, 16, 2, 46, 64, 9, 52, 2, 30, 3, 75, 5, 104, 8, 24, 8, 41, 7, 330, 6,
    48, 10, 6, 10, 278, 31, 158, 10, 42, 4, 112, 7, 134, 30, 128, 10, 60, 10, 144, 10, 7, 20, 251, 10, 342,
    10, 118, 10, 374, 10, 102, 10, 6, 20, 76, 12, 420, 19, 93, 10, 662, 10, 86, 29, 227, 10, 70, 10, 422, 10,
    102, 21, 1067, 111, 15553, 10, 2342, 10, 86, 10, 134, 10, 1, 7, 526, 10, 262, 23, 24153, 10, 1478, 20, 12,
    20, 108, 25, 1109, 50, 2368, 10, 422, 10, 502, 10, 247, 10, 716, 9, 128, 10, 791, 59, 1, 3, 1, 4, 76, 45,
    1, 15, 962, 13, 2787, 10,
};
static const uint16_t UNICODE_WORDS_[] = {
    48, 10, 37, 1, 672, 112, 275, 7, 263, 45, 1, 1, 1, 2, 1, 2, 1, 1, 72, 11, 48, 31, 6, 1, 101, 7, 2, 6, 2,
    2, 1, 4, 2, 10, 23, 1, 30, 27, 91, 11, 15, 10, 33, 9, 9, 1, 24, 4, 1, 9, 1, 3, 1, 5, 43, 3, 59, 9, 42, 24,
    1, 33, 54, 3, 1, 18, 1, 7, 10, 2, 2, 10, 17, 3, 56, 1, 1, 7, 2, 2, 2, 3, 9, 1, 10, 2, 2, 10, 14, 1, 2, 3,
    56, 1, 1, 5, 4, 2, 2, 3, 3, 1, 20, 12, 3, 1, 11, 3, 56, 1, 1, 8, 1, 3, 1, 3, 20, 2, 2, 10, 10, 6, 1, 3,
    56, 1, 1, 7, 2, 2, 2, 3, 7, 3, 10, 2, 2, 10, 18, 1, 59, 5, 3, 3, 1, 4, 9, 1, 14, 10, 16, 5, 55, 1, 1, 7,
    1, 3, 1, 4, 7, 2, 11, 2, 2, 10, 17, 3, 56, 1, 1, 7, 1, 3, 1, 4, 7, 2, 11, 2, 2, 10, 3, 1, 12, 4, 55, 2, 1,
    7, 1, 3, 1, 4, 9, 1, 10, 2, 2, 10, 17, 3, 70, 1, 4, 6, 1, 1, 1, 8, 6, 10, 2, 2, 61, 1, 2, 7, 12, 8, 1, 10,
    87, 1, 2, 9, 11, 7, 1, 10, 62, 2, 6, 10, 11, 1, 1, 1, 1, 1, 4, 2, 49, 20, 1, 2, 5, 11, 1, 36, 9, 1, 100,
    20, 1, 10, 12, 4, 4, 3, 1, 3, 2, 7, 3, 4, 13, 12, 1, 15, 703, 3, 910, 3, 33, 4, 28, 3, 29, 2, 30, 2, 64,
    32, 9, 1, 2, 10, 33, 3, 1, 11, 107, 2, 34, 1, 118, 12, 4, 12, 10, 10, 128, 10, 61, 5, 57, 10, 1, 29, 2,
    11, 6, 10, 22, 31, 49, 5, 47, 17, 11, 10, 17, 9, 12, 3, 30, 13, 2, 10, 44, 14, 48, 20, 8, 10, 6, 10, 118,
    3, 1, 21, 4, 1, 6, 1, 2, 3, 198, 64, 524, 2, 49, 2, 19, 1, 123, 33, 111, 35, 2, 4, 813, 52, 2053, 3, 141,
    1, 96, 32, 519, 1, 25, 15, 8, 3, 94, 2, 30085, 10, 69, 4, 1, 10, 32, 2, 70, 12, 272, 1, 3, 1, 4, 1, 23, 5,
    4, 1, 83, 2, 50, 18, 10, 10, 6, 18, 13, 11, 28, 8, 25, 13, 44, 4, 47, 14, 15, 10, 11, 1, 10, 10, 47, 14,
    12, 1, 8, 2, 2, 10, 33, 3, 50, 1, 1, 3, 2, 2, 5, 2, 1, 1, 41, 5, 5, 2, 236, 8, 1, 2, 2, 10, 20260, 1, 737,
    16, 16, 16, 3, 2, 24, 3, 192, 10, 37, 1, 512, 53, 136, 1, 226, 1, 96, 1, 8, 1, 43, 5, 86, 5, 202, 10,
    1367, 3, 1, 2, 5, 4, 40, 3, 4, 1, 165, 2, 573, 4, 8, 10, 6, 10, 31, 5, 317, 2, 79, 4, 70, 11, 49, 4, 122,
    3, 53, 15, 31, 11, 2, 2, 10, 4, 45, 11, 7, 1, 45, 10, 6, 3, 36, 14, 1, 10, 5, 2, 44, 1, 12, 3, 48, 14, 8,
    4, 1, 12, 82, 12, 6, 1, 2, 1, 157, 12, 5, 10, 6, 4, 55, 2, 1, 7, 2, 2, 2, 3, 9, 1, 10, 2, 2, 7, 3, 5, 67,
    9, 1, 1, 2, 1, 1, 4, 1, 5, 1, 1, 14, 2, 82, 18, 9, 10, 4, 1, 81, 20, 12, 10, 213, 7, 2, 9, 27, 2, 82, 17,
    15, 10, 81, 13, 8, 10, 6, 20, 57, 15, 4, 10, 242, 15, 165, 10, 70, 6, 1, 2, 2, 4, 1, 1, 1, 2, 12, 10, 119,
    7, 2, 7, 3, 1, 28, 10, 40, 7, 1, 4, 8, 1, 9, 11, 46, 16, 342, 10, 53, 8, 1, 8, 16, 10, 56, 22, 1, 14, 122,
    6, 3, 1, 1, 2, 1, 7, 1, 1, 8, 10, 48, 5, 1, 2, 1, 5, 8, 10, 329, 4, 9, 2, 1, 1, 48, 7, 3, 5, 13, 11, 1189,
    111, 4049, 1, 6, 15, 11464, 28, 2342, 10, 86, 10, 38, 5, 59, 7, 25, 10, 534, 10, 469, 1, 1, 55, 7, 4, 81,
    1, 11, 2, 19627, 2, 4177, 10, 518, 46, 2, 23, 542, 5, 3, 6, 8, 8, 2, 7, 30, 4, 148, 3, 1417, 50, 512, 55,
    4, 50, 8, 1, 14, 1, 22, 5, 1, 15, 1360, 7, 1, 17, 2, 7, 1, 2, 1, 5, 100, 1, 160, 7, 9, 10, 356, 1, 61, 14,
    498, 14, 244, 2, 1, 10, 725, 7, 109, 7, 5, 10, 2006, 26, 6, 26, 6, 26, 2662, 10,
};
// clang-format on

// Class and flag of each code point below CLASSES_END_, one byte each; the caller frees.
static inline uint8_t *character_classes_(Error *e) {
    static const struct {
        const uint16_t *lengths;
        size_t count;
        uint8_t bits;
    } tables[] = {
        {UNICODE_LETTERS_, sizeof UNICODE_LETTERS_ / sizeof(uint16_t), CLASS_LETTER_ | CLASS_WORD_},
        {UNICODE_NUMBERS_, sizeof UNICODE_NUMBERS_ / sizeof(uint16_t), CLASS_NUMBER_},
        {UNICODE_WORDS_, sizeof UNICODE_WORDS_ / sizeof(uint16_t), CLASS_WORD_}};
    static const uint16_t spaces[] = {0x9,    0xA,    0xB,    0xC,    0xD,    0x20,   0x85,
                                      0xA0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004,
                                      0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A, 0x2028,
                                      0x2029, 0x202F, 0x205F, 0x3000};
    uint8_t *classes = calloc(CLASSES_END_, 1); // CLASS_OTHER_
    if (!classes) {
        fail(e, "tokenizer: no memory for the character classes");
        return NULL;
    }
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) {
        uint8_t *at = classes;
        for (size_t i = 0; i + 1 < tables[k].count; i += 2) {
            at += tables[k].lengths[i];
            for (const uint8_t *end = at + tables[k].lengths[i + 1]; at < end; at++) {
                *at |= tables[k].bits;
            }
        }
    }
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        classes[spaces[i]] = CLASS_SPACE_;
    }
    return classes;
}

// Class and length in bytes of the character at s < end. A byte that starts no character counts as
// one of class other.
static inline int class_at_(const uint8_t *classes, const char *s, const char *end,
                            size_t *length) {
    uint32_t c = (unsigned char)*s;
    *length = 1;
    if (c >= 0x80) {
        size_t n = utf8_decode(s, (size_t)(end - s), &c);
        if (n == 0) {
            return CLASS_OTHER_;
        }
        *length = n;
    }
    return c < CLASSES_END_ ? classes[c] & CLASS_MASK_ : CLASS_OTHER_;
}

// ------------------------------------------------------------------------------------------------
// Split into pre-tokens

// Which expression of the model family cuts the text.
typedef enum {
    SPLIT_GPT2_, // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    SPLIT_GPT2_DIGITS_,   // the same, behind a pre-tokenizer that isolates every digit
    SPLIT_GPT4_,          // cl100k, Llama 3: SPLIT_EXPRESSIONS_[0]
    SPLIT_GPT4_ONE_DIGIT_ // Qwen 2: the same with single digits
} SplitRule_;

#define SPLIT_GPT4_TEXT_(digits)                                                                   \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *expression;
    SplitRule_ rule;
} SPLIT_EXPRESSIONS_[] = {
    {SPLIT_GPT4_TEXT_("\\p{N}{1,3}"), SPLIT_GPT4_},
    {SPLIT_GPT4_TEXT_("\\p{N}"), SPLIT_GPT4_ONE_DIGIT_},
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     SPLIT_GPT2_},
};

static inline size_t contraction_(const char *text, size_t length) {
    if (length >= 2 && text[0] == '\'') {
        if (text[1] == 's' || text[1] == 't' || text[1] == 'm' || text[1] == 'd') {
            return 2;
        }
        if (length >= 3 &&
            ((text[1] == 'r' && text[2] == 'e') || (text[1] == 'v' && text[2] == 'e') ||
             (text[1] == 'l' && text[2] == 'l'))) {
            return 3;
        }
    }
    return 0;
}

// Bytes of the pre-token at the start of the text (length > 0), as SPLIT_GPT2_ matches there. So: a
// contraction; else a run of one class, with a space before it; else white space, without the last
// character if something follows, since that character may be the space of the next match.
static inline size_t pretoken_length_(const uint8_t *classes, const char *text, size_t length) {
    const char *end = text + length, *at = text, *last = text;
    size_t n = contraction_(text, length);
    if (n) {
        return n;
    }
    at += *text == ' ' && length > 1;
    int class = class_at_(classes, at, end, &n);
    if (class != CLASS_SPACE_) {
        do {
            at += n;
        } while (at < end && class_at_(classes, at, end, &n) == class);
        return (size_t)(at - text);
    }
    for (at = text; at < end && class_at_(classes, at, end, &n) == CLASS_SPACE_; at += n) {
        last = at;
    }
    return (size_t)(at == end || last == text ? at - text : last - text);
}

// Bytes of the run of one class at `text`, of at most `most` characters.
static inline size_t run_length_(const uint8_t *classes, const char *text, size_t length, int class,
                                 size_t most) {
    size_t at = 0, n;
    for (; at < length && most > 0 && class_at_(classes, text + at, text + length, &n) == class;
         most--) {
        at += n;
    }
    return at;
}

// Contractions of any case. The only other character that folds to a letter of theirs is U+017F,
// the long s.
static inline size_t contraction_any_case_(const char *text, size_t length) {
    char lower[3] = {0};
    if (length >= 3 && !memcmp(text, "'\xC5\xBF", 3)) {
        return 3;
    }
    for (size_t i = 0; i < 3 && i < length; i++) {
        lower[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]);
    }
    return contraction_(lower, length < 3 ? length : 3);
}

static inline size_t line_ends_(const char *text, size_t length) {
    size_t n = 0;
    while (n < length && (text[n] == '\r' || text[n] == '\n')) {
        n++;
    }
    return n;
}

// The same for SPLIT_GPT4_, in whose runs of numbers there are at most `digits` characters.
static inline size_t pretoken_length_gpt4_(const uint8_t *classes, const char *text, size_t length,
                                           size_t digits) {
    const char *end = text + length;
    size_t n, next, contraction = contraction_any_case_(text, length);
    if (contraction) {
        return contraction;
    }
    int class = class_at_(classes, text, end, &n);
    size_t first = class == CLASS_LETTER_ || class == CLASS_NUMBER_ || line_ends_(text, 1) ? 0 : n;
    size_t letters = run_length_(classes, text + first, length - first, CLASS_LETTER_, SIZE_MAX);
    if (letters) {
        return first + letters;
    }
    if (class == CLASS_NUMBER_) {
        return run_length_(classes, text, length, CLASS_NUMBER_, digits);
    }
    size_t space = *text == ' ' && length > 1;
    size_t others = run_length_(classes, text + space, length - space, CLASS_OTHER_, SIZE_MAX);
    if (others) {
        return space + others + line_ends_(text + space + others, length - space - others);
    }
    // White space: up to the last line end in it; else as in GPT-2's.
    size_t run = run_length_(classes, text, length, CLASS_SPACE_, SIZE_MAX), last = run;
    while (last > 0 && !line_ends_(text + last - 1, 1)) {
        last--;
    }
    if (last) {
        return last;
    }
    size_t before_last = 0;
    for (size_t at = 0; at < run; at += next) {
        class_at_(classes, text + at, end, &next);
        before_last = at;
    }
    return run == length || before_last == 0 ? run : before_last;
}

// Bytes of the pre-token at the start of the text (length > 0) by the tokenizer's rule.
static inline size_t split_length_(SplitRule_ rule, const uint8_t *classes, const char *text,
                                   size_t length) {
    if (rule == SPLIT_GPT2_) {
        return pretoken_length_(classes, text, length);
    }
    if (rule != SPLIT_GPT2_DIGITS_) {
        return pretoken_length_gpt4_(classes, text, length, rule == SPLIT_GPT4_ ? 3 : 1);
    }
    // Each digit is a text of its own, and so is what lies between two digits.
    size_t n = 0, at = 0;
    while (at < length && class_at_(classes, text + at, text + length, &n) != CLASS_NUMBER_) {
        at += n;
    }
    return at == 0 ? n : pretoken_length_(classes, text, at);
}

// ------------------------------------------------------------------------------------------------
// GPT-2's byte alphabet: in files each byte of a token stands as one printable character

typedef struct {
    uint16_t symbol[256]; // code point that stands for a byte
    uint8_t byte_of_id[256];
    int16_t byte[0x144]; // byte that a code point stands for, -1 if none
} ByteAlphabet_;

// Bytes 21-7E, A1-AC and AE-FF stand for themselves and have the first ids; the 68 others are
// U+0100 and up, in order.
static inline ByteAlphabet_ byte_alphabet_(void) {
    ByteAlphabet_ a;
    int printable = 0, other = 0;
    memset(a.byte, -1, sizeof a.byte);
    for (int b = 0; b < 256; b++) {
        bool self = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        a.symbol[b] = (uint16_t)(self ? b : 0x100 + other);
        a.byte_of_id[self ? printable++ : 188 + other++] = (uint8_t)b;
        a.byte[a.symbol[b]] = (int16_t)b;
    }
    return a;
}

// Bytes that the lead byte promises, at most n: how both libraries step through text, well-formed
// or not.
static inline size_t character_length_(const char *s, size_t n) {
    unsigned char lead = (unsigned char)*s;
    size_t length = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    return length < n ? length : n;
}

// ------------------------------------------------------------------------------------------------
// Trie over bytes: a double array (Aoe 1989). The child of node p by byte c is at base(p) ^ c, and
// is there if that place names p as its parent.

typedef struct {
    uint32_t base;   // of the children, within one block of 256 places
    uint32_t parent; // TRIE_FREE_ if the place is not used, TRIE_ROOT_ for the root
} TrieNode_;

typedef struct {
    TrieNode_ *nodes; // (count), the root is 0
    int32_t *values;  // (count), of the key that ends here, -1 if none does
    size_t count, capacity, value_capacity;
} Trie_;

typedef struct {
    const char *text;
    size_t length;
    int32_t value;
} TrieKey_;

static const uint32_t TRIE_FREE_ = UINT32_MAX, TRIE_ROOT_ = UINT32_MAX - 1;
enum {
    TRIE_OPEN_BLOCKS_ = 4
}; // the last blocks are searched for room, older ones stay as they are

static inline void trie_free_(Trie_ *t) {
    free(t->nodes);
    free(t->values);
    *t = (Trie_){0};
}

// The child of *node by a byte; false if there is none.
static inline bool trie_step_(const Trie_ *t, uint32_t *node, char byte) {
    uint32_t child = t->nodes[*node].base ^ (unsigned char)byte;
    if (t->nodes[child].parent != *node) {
        return false;
    }
    *node = child;
    return true;
}

static inline int trie_compare_(const void *first, const void *second) {
    const TrieKey_ *a = first, *b = second;
    int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
    if (order) {
        return order;
    }
    return a->length != b->length ? (a->length < b->length ? -1 : 1)
                                  : (a->value > b->value) - (a->value < b->value);
}

static inline bool trie_add_block_(Trie_ *t, Error *e) {
    if (t->count > UINT32_MAX / 2 ||
        !array_reserve(&t->nodes, &t->capacity, t->count, 256, sizeof *t->nodes, e) ||
        !array_reserve(&t->values, &t->value_capacity, t->count, 256, sizeof *t->values, e)) {
        return fail(e, "tokenizer: no memory for a trie of %zu places", t->count + 256);
    }
    memset(t->nodes + t->count, 0xFF, 256 * sizeof *t->nodes);
    memset(t->values + t->count, 0xFF, 256 * sizeof *t->values);
    t->count += 256;
    return true;
}

// A base at which all `labels` fall on free places.
static inline bool trie_find_base_(Trie_ *t, const unsigned char *labels, size_t n, uint32_t *base,
                                   Error *e) {
    for (;;) {
        size_t open = (size_t)TRIE_OPEN_BLOCKS_ * 256;
        for (size_t i = t->count > open ? t->count - open : 1; i < t->count; i++) {
            size_t k = 0;
            while (k < n && t->nodes[i ^ labels[k]].parent == TRIE_FREE_) {
                k++;
            }
            if (k == n) {
                *base = (uint32_t)i;
                return true;
            }
        }
        if (!trie_add_block_(t, e)) {
            return false;
        }
    }
}

typedef struct {
    uint32_t node;
    size_t first, last, depth; // keys [first, last) pass through the node, which is at this depth
} TrieTask_;

// Builds the trie; sorts the keys. No key is empty; of equal keys the one with the greatest value
// counts.
static inline bool trie_build_(Trie_ *t, TrieKey_ *keys, size_t count, Error *e) {
    TrieTask_ *tasks = NULL;
    size_t task_count = 0, task_capacity = 0;
    bool ok =
        trie_add_block_(t, e) && array_reserve(&tasks, &task_capacity, 0, 1, sizeof *tasks, e);
    qsort(keys, count, sizeof *keys, trie_compare_);
    if (ok) {
        t->nodes[0] = (TrieNode_){0, TRIE_ROOT_};
        tasks[task_count++] = (TrieTask_){0, 0, count, 0};
    }
    while (ok && task_count) {
        TrieTask_ task = tasks[--task_count];
        unsigned char labels[256];
        size_t starts[257], n = 0;
        for (size_t i = task.first; i < task.last; i++) {
            if (keys[i].length == task.depth) {
                t->values[task.node] = keys[i].value;
                continue;
            }
            unsigned char label = (unsigned char)keys[i].text[task.depth];
            if (n == 0 || labels[n - 1] != label) {
                labels[n] = label, starts[n++] = i;
            }
        }
        starts[n] = task.last;
        uint32_t base = 0;
        ok = n == 0 || (trie_find_base_(t, labels, n, &base, e) &&
                        array_reserve(&tasks, &task_capacity, task_count, n, sizeof *tasks, e));
        t->nodes[task.node].base = base;
        for (size_t k = 0; ok && k < n; k++) {
            uint32_t child = base ^ labels[k];
            t->nodes[child].parent = task.node;
            tasks[task_count++] = (TrieTask_){child, starts[k], starts[k + 1], task.depth + 1};
        }
    }
    free(tasks);
    return ok;
}

// Bytes of the longest key that the text starts with, 0 if there is none. *open: the text ends
// where a longer key might go on.
static inline size_t trie_longest_(const Trie_ *t, const char *s, size_t n, bool *open) {
    uint32_t node = 0;
    size_t longest = 0, i = 0;
    for (; i < n && trie_step_(t, &node, s[i]); i++) {
        longest = t->values[node] >= 0 ? i + 1 : longest;
    }
    *open = i == n;
    return longest;
}

// ------------------------------------------------------------------------------------------------
// Character map of a SentencePiece model: u32 size, a Darts double array of that many bytes,
// NUL-terminated texts

typedef struct {
    uint32_t *units; // (count); NULL: no rules
    size_t count;
    const char *texts; // in the file; ends in NUL
    size_t text_bytes;
    const char *blob; // all of it, in the file
    size_t blob_bytes;
} Charsmap_;

static inline uint32_t charsmap_offset_(uint32_t unit) {
    return unit >> 10 << ((unit & 0x200) >> 6);
}

// Checks size, texts and each rule's place among the texts.
static inline bool charsmap_read_(Charsmap_ *m, const char *blob, size_t length, const char *path,
                                  Error *e) {
    const unsigned char *u = (const unsigned char *)blob;
    size_t size =
        length < 4 ? 0 : (size_t)u[0] | (size_t)u[1] << 8 | (size_t)u[2] << 16 | (size_t)u[3] << 24;
    if (length <= 4 || size >= length - 4 || size < 4 || size % 4 || blob[length - 1]) {
        return fail(e, "%s: its precompiled_charsmap of %zu bytes is cut off", path, length);
    }
    *m = (Charsmap_){malloc(size), size / 4, blob + 4 + size, length - 4 - size, blob, length};
    if (!m->units) {
        return fail(e, "%s: no memory for its precompiled_charsmap", path);
    }
    for (size_t i = 0; i < m->count; i++) {
        const unsigned char *p = u + 4 + 4 * i;
        m->units[i] =
            (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }
    for (size_t i = 0, n; i < m->text_bytes; i += n) {
        n = utf8_decode(m->texts + i, m->text_bytes - i, NULL);
        if (n == 0) {
            return fail(e, "%s: its precompiled_charsmap is damaged: a replacement is not UTF-8",
                        path);
        }
    }
    for (size_t i = 0; i < m->count; i++) {
        size_t leaf = i ^ charsmap_offset_(m->units[i]);
        bool has_leaf =
            m->units[i] >> 31 == 0 && m->units[i] >> 8 & 1; // bit 31 marks the values themselves
        if (has_leaf && (leaf >= m->count || (m->units[leaf] & 0x7FFFFFFF) >= m->text_bytes)) {
            return fail(e, "%s: its precompiled_charsmap is damaged: a rule points outside it",
                        path);
        }
    }
    return true;
}

// Bytes that the longest matching rule replaces, 0 if there is none, and its replacement. *open as
// in trie_longest_.
static inline size_t charsmap_longest_(const Charsmap_ *m, const char *s, size_t n,
                                       const char **text, bool *open) {
    size_t longest = 0, i = 0, at;
    *open = false;
    if (!m->units) {
        return 0;
    }
    at = charsmap_offset_(m->units[0]);
    for (; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        at ^= c;
        if (at >= m->count || (m->units[at] & 0x800000FF) != c) {
            return longest;
        }
        uint32_t unit = m->units[at];
        at ^= charsmap_offset_(unit);
        if (unit >> 8 & 1) {
            longest = i + 1;
            *text = m->texts + (m->units[at] & 0x7FFFFFFF);
        }
    }
    *open = true;
    return longest;
}

// ------------------------------------------------------------------------------------------------
// The tokenizer

typedef enum { MODEL_BYTE_BPE, MODEL_UNIGRAM, MODEL_PIECE_BPE, MODEL_CHARACTER } TokenizerModel;

typedef struct {
    int32_t left, right, result;
} Merge;

typedef struct {
    char *text; // as it stands in the text, UTF-8; if `normalized`, in what the normalizer makes of
                // the text
    size_t length;
    int32_t id;
    bool special;                 // left out when decoding
    bool normalized;              // looked for only after all those that are not
    bool left_strip, right_strip; // takes the white space beside it along
    bool single_word;             // counts only between characters that are no parts of words
} AddedToken;

// Kinds of pieces of a SentencePiece model, as its files number them.
enum { PIECE_NORMAL_ = 1, PIECE_UNKNOWN_, PIECE_CONTROL_, PIECE_USER_, PIECE_UNUSED_, PIECE_BYTE_ };

typedef struct {
    size_t offset, length; // in Tokenizer.bytes
    size_t decoded,
        decoded_length; // the same of what it is to the decoder, if that is another text
    bool added, special;
    bool verbatim; // byte-level BPE: the file's text, not the byte alphabet: a character of it
                   // stands for no byte
    uint8_t kind;  // PIECE_*
    int16_t byte;  // that a piece written <0xNN> stands for, -1 for others
} Token;

// One step of the normalizer of a tokenizer.json.
typedef enum {
    NORMALIZE_PREPEND_,
    NORMALIZE_REPLACE_,
    NORMALIZE_SPACES_,
    NORMALIZE_STRIP_
} NormalizeOperation_;

enum { STEP_TEXT_ = 32, MAX_STEPS_ = 8 };

typedef struct {
    NormalizeOperation_ operation;
    char pattern[STEP_TEXT_],
        content[STEP_TEXT_]; // REPLACE: pattern by content; SPACES: runs of two and more; PREPEND
    size_t pattern_length, content_length;
    bool left, right; // STRIP
} NormalizeStep_;

// One step of the decoder of a tokenizer.json.
typedef enum {
    DECODE_REPLACE_,
    DECODE_BYTES_,
    DECODE_METASPACE_,
    DECODE_STRIP_,
    DECODE_FUSE_
} DecodeOperation_;

typedef struct {
    DecodeOperation_ operation;
    char pattern[STEP_TEXT_], content[STEP_TEXT_];
    size_t pattern_length,
        content_length; // METASPACE: pattern is the replacement; STRIP: the character
    size_t start, stop; // STRIP: as many characters at most
    bool fused;         // behind FUSE: all tokens are one
    bool keeps_first;   // METASPACE with prepend_scheme "never"
} DecodeStep_;

typedef enum { PREPEND_NEVER_, PREPEND_FIRST_, PREPEND_ALWAYS_ } PrependScheme_;

// Never changes after loading or training: threads may share it.
typedef struct {
    TokenizerModel model;
    bool sentencepiece; // loaded from a .model: ids are those of the sentencepiece library; else of
                        // `tokenizers`
    size_t vocab_size;  // ids are 0 .. vocab_size - 1
    size_t model_size;  // ids from here on are added tokens outside the model's vocabulary
    int32_t end_of_document;
    int32_t begin, unknown,
        pad; // for tokenizer_config.json, -1 if there is none; `unknown` also encodes
    uint64_t model_max_length; // for tokenizer_config.json, in tokens; 0 leaves it out
    Token *tokens;             // (vocab_size)
    size_t token_capacity;
    char *bytes; // of all tokens
    size_t byte_count, byte_capacity;
    AddedToken *added; // (added_count), in order of id
    size_t added_count, added_capacity;
    char *source; // the file it was loaded from, kept to be saved as it is; NULL: tokenizer_save
                  // writes it anew
    size_t source_length;

    // Byte-level BPE
    Merge *merges; // (merge_count), index = rank
    size_t merge_count, merge_capacity;
    SplitRule_ split;
    bool prefix_space;  // a space goes before a text that begins with none
    bool space_strips;  // an added token takes white space along
    bool ignore_merges; // a pre-token that is in the vocabulary is taken whole

    // Pieces: Unigram, and BPE and characters of SentencePiece
    double *scores;       // (model_size)
    double unknown_score; // Unigram: of a character that is no piece
    bool byte_fallback;   // unknown text becomes the pieces of its bytes
    bool has_unused;      // pieces of kind UNUSED
    bool words_apart; // BPE: no piece has anything before a space symbol, so words are encoded one
                      // by one

    // Normalization as sentencepiece does it
    Charsmap_ charsmap;
    Trie_ user_symbols;
    bool dummy_prefix, collapse_spaces, escape_spaces, space_suffix;
    char unknown_surface[64]; // what an unknown piece decodes to
    size_t unknown_surface_length;

    // Normalization, Metaspace and decoder as in tokenizer.json
    NormalizeStep_ steps[MAX_STEPS_];
    size_t step_count;
    char replacement[5]; // of the Metaspace pre-tokenizer for a space; "" if there is none
    size_t replacement_length;
    PrependScheme_ prepend;
    bool metaspace_split;
    DecodeStep_ decode_steps[MAX_STEPS_];
    size_t decode_step_count;
    bool joins_with_spaces; // no decoder

    // Derived by tokenizer_index_:
    int32_t byte_id[256]; // token of a single byte
    uint64_t
        *pairs; // open addressing: left id (21 bits), right id (21), rank (22); all ones if empty
    size_t pair_mask;
    Trie_ trie;           // pieces that text can match
    size_t longest_piece; // in bytes
    uint32_t *text_slots; // open addressing: id + 1 by text, 0 if empty
    size_t text_mask;
    const AddedToken **added_order; // (added_count), by pass, first byte, then longest first
    uint32_t added_first[2][257];   // where a pass and a first byte begin in added_order; [256] is
                                    // the end of the pass
    uint8_t *classes;               // (CLASSES_END_)
} Tokenizer;

typedef struct {
    int32_t *ids;
    size_t count, capacity; // zero-initialise; the caller frees ids
} TokenBuffer;

enum { NO_RANK_ = -1 };

static inline void tokenizer_free(Tokenizer *t) {
    for (size_t i = 0; i < t->added_count; i++) {
        free(t->added[i].text);
    }
    free(t->tokens);
    free(t->bytes);
    free(t->merges);
    free(t->added);
    free(t->source);
    free(t->scores);
    free(t->charsmap.units);
    trie_free_(&t->user_symbols);
    trie_free_(&t->trie);
    free(t->pairs);
    free(t->text_slots);
    free(t->added_order);
    free(t->classes);
    *t = (Tokenizer){0};
}

// Bytes of a token as they stand in text or, for pieces, as the vocabulary spells it; no NUL at the
// end. An id outside the vocabulary has none.
static inline const char *tokenizer_text(const Tokenizer *t, int32_t id, size_t *length) {
    if (id < 0 || (size_t)id >= t->vocab_size) {
        *length = 0;
        return "";
    }
    *length = t->tokens[id].length;
    return t->bytes + t->tokens[id].offset;
}

// The byte that a piece written <0xNN> stands for, -1 if it is not written so.
static inline int16_t piece_byte_(const char *text, size_t length, bool lower_case_too) {
    int value = 0;
    if (length != 6 || memcmp(text, "<0x", 3) || text[5] != '>') {
        return -1;
    }
    for (int i = 3; i < 5; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'                     ? c - '0'
                    : c >= 'A' && c <= 'F'                   ? c - 'A' + 10
                    : lower_case_too && c >= 'a' && c <= 'f' ? c - 'a' + 10
                                                             : -1;
        if (digit < 0) {
            return -1;
        }
        value = 16 * value + digit;
    }
    return (int16_t)value;
}

static inline bool tokenizer_add_token_(Tokenizer *t, const char *bytes, size_t length,
                                        bool verbatim, Error *e) {
    if (!array_reserve(&t->tokens, &t->token_capacity, t->vocab_size, 1, sizeof *t->tokens, e) ||
        !array_reserve(&t->bytes, &t->byte_capacity, t->byte_count, length, 1, e)) {
        return false;
    }
    memcpy(t->bytes + t->byte_count, bytes, length);
    t->tokens[t->vocab_size++] = (Token){.offset = t->byte_count,
                                         .length = length,
                                         .decoded = t->byte_count,
                                         .decoded_length = length,
                                         .verbatim = verbatim,
                                         .kind = PIECE_NORMAL_,
                                         .byte = -1};
    t->byte_count += length;
    return true;
}

static inline bool tokenizer_add_merge_(Tokenizer *t, Merge merge, Error *e) {
    if (!array_reserve(&t->merges, &t->merge_capacity, t->merge_count, 1, sizeof merge, e)) {
        return false;
    }
    t->merges[t->merge_count++] = merge;
    return true;
}

// `added.text` is copied.
static inline bool tokenizer_add_added_(Tokenizer *t, AddedToken added, Error *e) {
    char *copy = malloc(added.length);
    if (!copy ||
        !array_reserve(&t->added, &t->added_capacity, t->added_count, 1, sizeof added, e)) {
        free(copy);
        return fail(e, "tokenizer: no memory for an added token of %zu bytes", added.length);
    }
    memcpy(copy, added.text, added.length);
    added.text = copy;
    t->tokens[added.id].added = true;
    t->tokens[added.id].special = added.special;
    t->added[t->added_count++] = added;
    return true;
}

static inline size_t pair_slot_(const Tokenizer *t, uint64_t pair) {
    return (size_t)hash_mix(pair) & t->pair_mask;
}

// Rank of the merge of two tokens, NO_RANK_ if there is none.
static inline int32_t pair_rank_(const Tokenizer *t, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)left << 21 | (uint64_t)right;
    for (size_t i = pair_slot_(t, pair);; i = (i + 1) & t->pair_mask) {
        uint64_t entry = t->pairs[i];
        if (entry >> 22 == pair) {
            return (int32_t)(entry & TOKENIZER_MAX_MERGES);
        }
        if (entry == UINT64_MAX) {
            return NO_RANK_;
        }
    }
}

static inline bool tokenizer_index_pairs_(Tokenizer *t, Error *e) {
    size_t size = 16;
    while (size < 2 * t->merge_count) {
        size *= 2;
    }
    t->pairs = malloc(size * sizeof *t->pairs);
    if (!t->pairs) {
        return fail(e, "tokenizer: no memory for %zu merges", t->merge_count);
    }
    memset(t->pairs, 0xFF, size * sizeof *t->pairs);
    t->pair_mask = size - 1;
    for (size_t rank = 0; rank < t->merge_count; rank++) {
        uint64_t pair = (uint64_t)t->merges[rank].left << 21 | (uint64_t)t->merges[rank].right;
        size_t i = pair_slot_(t, pair);
        while (t->pairs[i] != UINT64_MAX && t->pairs[i] >> 22 != pair) {
            i = (i + 1) & t->pair_mask;
        }
        t->pairs[i] = pair << 22 | rank; // of a repeated pair the last rank counts
    }
    return true;
}

// Slot of the token with this text, or the empty slot where it would be.
static inline uint32_t *text_slot_(const Tokenizer *t, const char *text, size_t length) {
    for (size_t i = (size_t)hash_mix(hash_bytes(HASH_START, text, length)) & t->text_mask;;
         i = (i + 1) & t->text_mask) {
        const Token *token = t->text_slots[i] ? &t->tokens[t->text_slots[i] - 1] : NULL;
        if (!token ||
            (token->length == length && !memcmp(t->bytes + token->offset, text, length))) {
            return &t->text_slots[i];
        }
    }
}

// Id of the token that text of this spelling becomes, -1 if there is none.
static inline int32_t text_find_(const Tokenizer *t, const char *text, size_t length) {
    return length > t->longest_piece ? -1 : (int32_t)*text_slot_(t, text, length) - 1;
}

// Can text become this token? (In byte-level BPE the spelling in `bytes` is the text.)
static inline bool token_matches_(const Tokenizer *t, size_t id) {
    const Token *token = &t->tokens[id];
    return !token->verbatim &&
           (!t->sentencepiece || token->kind == PIECE_NORMAL_ || token->kind == PIECE_USER_ ||
            (token->kind == PIECE_UNUSED_ && t->model != MODEL_UNIGRAM));
}

static inline bool tokenizer_index_texts_(Tokenizer *t, Error *e) {
    for (t->text_mask = 15; t->text_mask < 2 * t->model_size;) {
        t->text_mask = 2 * t->text_mask + 1;
    }
    t->text_slots = calloc(t->text_mask + 1, sizeof *t->text_slots);
    if (!t->text_slots) {
        return fail(e, "tokenizer: no memory for %zu tokens", t->model_size);
    }
    for (size_t id = 0; id < t->model_size; id++) {
        if (token_matches_(t, id)) {
            *text_slot_(t, t->bytes + t->tokens[id].offset, t->tokens[id].length) =
                (uint32_t)id + 1;
            t->longest_piece =
                t->tokens[id].length > t->longest_piece ? t->tokens[id].length : t->longest_piece;
        }
    }
    return true;
}

// Builds the trie of the tokens of one kind, or with kind 0 of all that text can match.
static inline bool tokenizer_build_trie_(const Tokenizer *t, int kind, Trie_ *trie, Error *e) {
    TrieKey_ *keys = malloc((t->model_size + 1) * sizeof *keys);
    size_t count = 0;
    if (!keys) {
        return fail(e, "tokenizer: no memory for %zu tokens", t->model_size);
    }
    for (size_t id = 0; id < t->model_size; id++) {
        if (kind ? t->tokens[id].kind == kind : token_matches_(t, id)) {
            keys[count++] =
                (TrieKey_){t->bytes + t->tokens[id].offset, t->tokens[id].length, (int32_t)id};
        }
    }
    bool ok = trie_build_(trie, keys, count, e);
    free(keys);
    return ok;
}

// For qsort: by pass, first byte, then longest first.
static inline int added_compare_(const void *first, const void *second) {
    const AddedToken *a = *(const AddedToken *const *)first,
                     *b = *(const AddedToken *const *)second;
    if (a->normalized != b->normalized) {
        return a->normalized - b->normalized;
    }
    if (a->text[0] != b->text[0]) {
        return (unsigned char)a->text[0] - (unsigned char)b->text[0];
    }
    return a->length != b->length ? (a->length < b->length ? 1 : -1)
                                  : memcmp(a->text, b->text, a->length);
}

static inline bool tokenizer_index_added_(Tokenizer *t, Error *e) {
    size_t n = t->added_count, next = 0;
    t->added_order = malloc((n + 1) * sizeof *t->added_order);
    if (!t->added_order) {
        return fail(e, "tokenizer: no memory for %zu added tokens", n);
    }
    for (size_t i = 0; i < n; i++) {
        t->added_order[i] = &t->added[i];
    }
    qsort(t->added_order, n, sizeof *t->added_order, added_compare_);
    for (int pass = 0; pass < 2; pass++) {
        for (int byte = 0; byte < 256; byte++) {
            t->added_first[pass][byte] = (uint32_t)next;
            while (next < n && t->added_order[next]->normalized == pass &&
                   (unsigned char)t->added_order[next]->text[0] == byte) {
                next++;
            }
        }
        t->added_first[pass][256] = (uint32_t)next;
    }
    return true;
}

static const char SPACE_SYMBOL_[] = "\xE2\x96\x81"; // U+2581

// True if in no piece anything but a space symbol stands before a space symbol.
static inline bool pieces_begin_words_(const Tokenizer *t) {
    for (size_t id = 0; id < t->model_size; id++) {
        const char *text = t->bytes + t->tokens[id].offset;
        size_t start = 0, length = t->tokens[id].length;
        if (!token_matches_(t, id)) {
            continue;
        }
        while (length - start >= 3 && !memcmp(text + start, SPACE_SYMBOL_, 3)) {
            start += 3;
        }
        for (; start + 3 <= length; start++) {
            if (!memcmp(text + start, SPACE_SYMBOL_, 3)) {
                return false;
            }
        }
    }
    return true;
}

static inline bool tokenizer_index_bytes_(Tokenizer *t, const char *name, Error *e) {
    for (size_t i = 0; i < t->model_size; i++) {
        if (t->tokens[i].length == 1 && !t->tokens[i].verbatim) {
            t->byte_id[(unsigned char)t->bytes[t->tokens[i].offset]] = (int32_t)i;
        }
    }
    for (int b = 0; b < 256; b++) {
        if (t->byte_id[b] < 0) {
            return fail(
                e, "%s: the vocabulary has no token for byte 0x%02X: byte-level BPE needs all 256",
                name, b);
        }
    }
    return tokenizer_index_pairs_(t, e) && (!t->ignore_merges || tokenizer_index_texts_(t, e));
}

static inline bool tokenizer_index_pieces_(Tokenizer *t, Error *e) {
    for (size_t i = 0; i < t->model_size; i++) {
        const char *text = t->bytes + t->tokens[i].offset;
        t->tokens[i].byte = piece_byte_(text, t->tokens[i].length, !t->sentencepiece);
        t->has_unused |= t->tokens[i].kind == PIECE_UNUSED_;
        int16_t byte = piece_byte_(text, t->tokens[i].length, false);
        if (byte >= 0 && (!t->sentencepiece || t->tokens[i].kind == PIECE_BYTE_)) {
            t->byte_id[byte] = (int32_t)i;
        }
    }
    t->words_apart = t->model == MODEL_PIECE_BPE && !t->has_unused && pieces_begin_words_(t);
    return tokenizer_index_texts_(t, e) && tokenizer_build_trie_(t, 0, &t->trie, e) &&
           tokenizer_build_trie_(t, PIECE_USER_, &t->user_symbols, e);
}

// Call when tokens, merges or scores, and added tokens are complete. `name` stands in error lines.
static inline bool tokenizer_index_(Tokenizer *t, const char *name, Error *e) {
    memset(t->byte_id, -1, sizeof t->byte_id);
    t->classes = t->classes ? t->classes : character_classes_(e);
    for (size_t i = 0; i < t->added_count; i++) {
        t->space_strips |= t->added[i].left_strip || t->added[i].right_strip;
    }
    return t->classes &&
           (t->model == MODEL_BYTE_BPE ? tokenizer_index_bytes_(t, name, e)
                                       : tokenizer_index_pieces_(t, e)) &&
           tokenizer_index_added_(t, e);
}

// ------------------------------------------------------------------------------------------------
// Encode

typedef struct {
    int32_t id;
    int32_t
        rank; // of the merge with the next symbol, NO_RANK_ if there is none or this symbol is gone
    uint32_t previous, next;
} Symbol_;

// The same for pieces, which have no merge list: a merge is a piece that is spelled like two
// neighbours.
typedef struct {
    uint32_t start, length; // length 0: gone
    uint32_t previous, next;
    bool frozen; // a user-defined symbol, which never merges
} PieceSymbol_;

// Best way to reach a place in the text.
typedef struct {
    double score;
    uint32_t start; // of the last piece, UNREACHED_ if there is no way; when walked back: the end
                    // of the next piece
    int32_t id;     // of the last piece
} LatticePlace_;

static const uint32_t UNREACHED_ = UINT32_MAX;

// Ids of a short pre-token, in one cache line.
enum { CACHE_KEY_ = 23, CACHE_IDS_ = 9, CACHE_BITS_ = 15, SHORT_PRETOKEN_ = 64 };

typedef struct {
    uint64_t key[3]; // its length in the first byte, then its bytes, then zeros; all zeros: empty
    int32_t count;
    int32_t ids[CACHE_IDS_];
} CacheEntry_;

// What one thread needs to encode: scratch memory and the ids of pre-tokens met lately.
typedef struct {
    const Tokenizer *tokenizer;
    CacheEntry_ *cache; // (1 << CACHE_BITS_); a pre-token has one place and displaces what is there
    Symbol_ *symbols;
    size_t symbol_capacity;
    PieceSymbol_ *pieces;
    size_t piece_capacity;
    LatticePlace_ *lattice;
    size_t lattice_capacity;
    uint32_t *unused_cuts; // (model_size) where a piece of kind UNUSED is cut in two
    TextBuffer normalized, other;
    Heap heap;
    double score;     // Unigram: of the best way to the end of the last part
    size_t first_id;  // of this text in the buffer
    TokenBuffer word; // ids of a word on its way into the cache
} Encoder;

// Which part of a text is encoded: all of it, or not its beginning, or not its end (or neither).
enum { TEXT_WHOLE = 0, TEXT_CONTINUES = 1, TEXT_GOES_ON = 2 };

static inline bool encoder_init(Encoder *encoder, const Tokenizer *t, Error *e) {
    *encoder =
        (Encoder){.tokenizer = t, .cache = calloc((size_t)1 << CACHE_BITS_, sizeof(CacheEntry_))};
    if (t->model == MODEL_PIECE_BPE) {
        encoder->unused_cuts = calloc(t->model_size + 1, sizeof *encoder->unused_cuts);
    }
    return (encoder->cache && (encoder->unused_cuts || t->model != MODEL_PIECE_BPE)) ||
           fail(e, "tokenizer: no memory for an encoder");
}

static inline void encoder_free(Encoder *encoder) {
    free(encoder->cache);
    free(encoder->symbols);
    free(encoder->pieces);
    free(encoder->lattice);
    free(encoder->unused_cuts);
    free(encoder->normalized.data);
    free(encoder->other.data);
    free(encoder->heap.entries);
    free(encoder->word.ids);
    *encoder = (Encoder){0};
}

static inline bool ids_reserve_(TokenBuffer *out, size_t more, Error *e) {
    return array_reserve(&out->ids, &out->capacity, out->count, more, sizeof *out->ids, e);
}

// The place of a text of at most CACHE_KEY_ bytes in the cache, and its key.
static inline CacheEntry_ *cache_entry_(Encoder *encoder, const char *text, size_t n,
                                        uint64_t key[3]) {
    char bytes[24] = {(char)n};
    memcpy(bytes + 1, text, n);
    memcpy(key, bytes, sizeof bytes);
    uint64_t hash = hash_mix(key[0] + key[1] * 0x9E3779B97F4A7C15u + key[2] * 0xC2B2AE3D27D4EB4Fu);
    return &encoder->cache[hash >> 8 & (((size_t)1 << CACHE_BITS_) - 1)];
}

static inline bool cache_hit_(const CacheEntry_ *entry, const uint64_t key[3]) {
    return entry->key[0] == key[0] && entry->key[1] == key[1] && entry->key[2] == key[2];
}

static inline void cache_store_(CacheEntry_ *entry, const uint64_t key[3], const int32_t *ids,
                                size_t count) {
    if (count <= CACHE_IDS_) {
        memcpy(entry->key, key, sizeof entry->key);
        memcpy(entry->ids, ids, count * sizeof *ids);
        entry->count = (int32_t)count;
    }
}

// Merges a short pre-token: at each step a look at all ranks, which beats a heap for a few dozen
// symbols. The ids go to out; returns how many.
static inline size_t merge_short_(const Tokenizer *t, const char *text, size_t n, int32_t *out) {
    uint32_t ranks[SHORT_PRETOKEN_]; // of the merge with the next symbol; NO_RANK_ is the greatest
    for (size_t i = 0; i < n; i++) {
        out[i] = t->byte_id[(unsigned char)text[i]];
    }
    for (size_t i = 0; i + 1 < n; i++) {
        ranks[i] = (uint32_t)pair_rank_(t, out[i], out[i + 1]);
    }
    for (;;) {
        uint32_t rank = (uint32_t)NO_RANK_;
        size_t best = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            if (ranks[i] < rank) {
                rank = ranks[i], best = i;
            }
        }
        if (rank == (uint32_t)NO_RANK_) {
            return n;
        }
        out[best] = t->merges[rank].result;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            out[i] = out[i + 1];
            ranks[i - 1] = ranks[i];
        }
        if (best > 0) {
            ranks[best - 1] = (uint32_t)pair_rank_(t, out[best - 1], out[best]);
        }
        if (best + 1 < n) {
            ranks[best] = (uint32_t)pair_rank_(t, out[best], out[best + 1]);
        }
    }
}

// Looks up the rank of symbol i with its right neighbour and, if they merge, puts it on the heap.
static inline bool queue_pair_(Encoder *encoder, uint32_t i, size_t n, Error *e) {
    Symbol_ *s = &encoder->symbols[i];
    s->rank = s->next < n ? pair_rank_(encoder->tokenizer, s->id, encoder->symbols[s->next].id)
                          : NO_RANK_;
    return s->rank == NO_RANK_ ||
           heap_push(&encoder->heap, (HeapEntry){(uint64_t)s->rank, i, i}, e);
}

// Merges a pre-token of any length in O(n log n): a heap of (rank, position), where an entry counts
// only while the symbol at its position still has that rank.
static inline bool merge_long_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out,
                               Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    if (n >= UINT32_MAX) {
        return fail(
            e, "tokenizer: a run of %zu bytes without a place to split is longer than 4 GiB", n);
    }
    if (!array_reserve(&encoder->symbols, &encoder->symbol_capacity, 0, n, sizeof(Symbol_), e)) {
        return false;
    }
    Symbol_ *symbols = encoder->symbols;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i] = (Symbol_){t->byte_id[(unsigned char)text[i]], NO_RANK_, i - 1, i + 1};
    }
    encoder->heap.count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!queue_pair_(encoder, i, n, e)) {
            return false;
        }
    }
    while (encoder->heap.count) {
        HeapEntry top = heap_pop(&encoder->heap);
        Symbol_ *left = &symbols[top.item];
        if ((uint64_t)left->rank != top.major) {
            continue;
        }
        Symbol_ *right = &symbols[left->next];
        left->id = t->merges[left->rank].result;
        left->next = right->next;
        right->rank = NO_RANK_;
        if (left->next < n) {
            symbols[left->next].previous = top.item;
        }
        if (!queue_pair_(encoder, top.item, n, e) ||
            (top.item && !queue_pair_(encoder, left->previous, n, e))) {
            return false;
        }
    }
    for (size_t i = 0; i < n; i = symbols[i].next) {
        out->ids[out->count++] = symbols[i].id;
    }
    return true;
}

// Encodes one pre-token; out has room for an id per byte.
static inline bool encode_pretoken_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out,
                                    Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    int32_t *ids = out->ids + out->count;
    uint64_t key[3];
    if (n == 1) {
        *ids = t->byte_id[(unsigned char)*text];
        out->count++;
        return true;
    }
    int32_t whole = t->ignore_merges ? text_find_(t, text, n) : -1;
    if (whole >= 0) {
        *ids = whole;
        out->count++;
        return true;
    }
    if (n > SHORT_PRETOKEN_) {
        return merge_long_(encoder, text, n, out, e);
    }
    if (n > CACHE_KEY_) {
        out->count += merge_short_(t, text, n, ids);
        return true;
    }
    CacheEntry_ *entry = cache_entry_(encoder, text, n, key);
    if (cache_hit_(entry, key)) {
        memcpy(ids, entry->ids, (size_t)entry->count * sizeof *ids);
        out->count += (size_t)entry->count;
        return true;
    }
    size_t count = merge_short_(t, text, n, ids);
    out->count += count;
    cache_store_(entry, key, ids, count);
    return true;
}

static inline bool encode_split_(Encoder *encoder, const char *text, size_t length,
                                 TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    while (length) {
        size_t n = split_length_(t->split, t->classes, text, length);
        if (!ids_reserve_(out, n, e) || !encode_pretoken_(encoder, text, n, out, e)) {
            return false;
        }
        text += n;
        length -= n;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Encode: pieces

// Ids for text that is no piece: one of its bytes each, or the unknown piece, once for neighbours.
static inline bool encode_unknown_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out,
                                   Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    if (!ids_reserve_(out, n, e)) {
        return false;
    }
    if (t->byte_fallback) {
        for (size_t i = 0; i < n; i++) {
            out->ids[out->count++] = t->byte_id[(unsigned char)text[i]];
        }
    } else if (out->count == encoder->first_id || out->ids[out->count - 1] != t->unknown) {
        out->ids[out->count++] = t->unknown;
    }
    return true;
}

// sentencepiece sums in single precision, and starts anew from 0 at the first place that is below
// this.
static const double LOWEST_SUM_ = -100000.0;

// Takes the sum at `start` off all places that are reached from there on.
static inline void lattice_rebase_(const Tokenizer *t, LatticePlace_ *lattice, size_t start,
                                   size_t n) {
    size_t end = n - start < t->longest_piece ? n : start + t->longest_piece;
    double base = lattice[start].score;
    for (size_t i = start; i <= end; i++) {
        lattice[i].score = (double)(float)(lattice[i].score - base);
    }
}

// Fills the lattice for text of n bytes: the best way to each place by the sum of the scores
// (Viterbi), the earliest start on a tie. `tokenizers` sums in double precision; sentencepiece
// rounds each sum to single precision before it compares (since release 0.2.2 or 0.2.3; up to 0.2.1
// it compared the unrounded sum, which settles other ties).
static inline void lattice_fill_(const Tokenizer *t, LatticePlace_ *lattice, const char *text,
                                 size_t n, bool single) {
    const TrieNode_ *nodes = t->trie.nodes;
    for (size_t start = 0; start < n;) {
        if (single && lattice[start].score < LOWEST_SUM_) {
            lattice_rebase_(t, lattice, start, n);
        }
        size_t step = character_length_(text + start, n - start);
        double here = lattice[start].score;
        bool whole = false;
        uint32_t node = 0;
        for (size_t end = start; end < n;) {
            uint32_t child = nodes[node].base ^ (unsigned char)text[end++];
            if (nodes[child].parent != node) {
                break;
            }
            node = child;
            int32_t id = t->trie.values[node];
            if (id >= 0) {
                double score =
                    single ? (double)(float)(t->scores[id] + here) : t->scores[id] + here;
                LatticePlace_ *place = &lattice[end];
                if (place->start == UNREACHED_ || score > place->score) {
                    *place = (LatticePlace_){score, (uint32_t)start, id};
                }
                whole |= end - start == step;
            }
        }
        if (!whole) {
            double score =
                single ? (double)(float)(t->unknown_score + here) : t->unknown_score + here;
            LatticePlace_ *place = &lattice[start + step];
            if (place->start == UNREACHED_ || score > place->score) {
                *place = (LatticePlace_){score, (uint32_t)start, t->unknown};
            }
        }
        start += step;
    }
}

// Turns the links of the best way round: lattice[end].start becomes the end of the piece that
// follows. Returns the end of the first piece.
static inline uint32_t lattice_reverse_(LatticePlace_ *lattice, size_t n) {
    uint32_t next = UNREACHED_;
    for (uint32_t end = (uint32_t)n; end > 0;) {
        uint32_t start = lattice[end].start;
        lattice[end].start = next;
        next = end;
        end = start;
    }
    return next;
}

// A run of unknown characters as `tokenizers` treats it: the piece that is spelled so, else bytes,
// else the unknown token.
static inline bool encode_unknown_run_(Encoder *encoder, const char *text, size_t n,
                                       TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    int32_t id = text_find_(t, text, n);
    bool bytes = t->byte_fallback;
    for (size_t i = 0; i < n && bytes; i++) {
        bytes = t->byte_id[(unsigned char)text[i]] >= 0;
    }
    if (!ids_reserve_(out, n, e)) {
        return false;
    }
    for (size_t i = 0; i < n && id < 0 && bytes; i++) {
        out->ids[out->count++] = t->byte_id[(unsigned char)text[i]];
    }
    if (id >= 0 || !bytes) {
        out->ids[out->count++] = id >= 0 ? id : t->unknown;
    }
    return true;
}

static inline bool encode_unigram_(Encoder *encoder, const char *text, size_t n, bool continues,
                                   TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    if (n == 0) {
        return true;
    }
    if (n >= UNREACHED_) {
        return fail(e, "tokenizer: a text of %zu bytes without a place to cut is longer than 4 GiB",
                    n);
    }
    if (!array_reserve(&encoder->lattice, &encoder->lattice_capacity, 0, n + 1,
                       sizeof(LatticePlace_), e)) {
        return false;
    }
    LatticePlace_ *lattice = encoder->lattice;
    for (size_t i = 0; i <= n; i++) {
        lattice[i] = (LatticePlace_){0, UNREACHED_, 0};
    }
    lattice[0].score = continues ? encoder->score : 0.0;
    if (t->sentencepiece) {
        lattice_fill_(t, lattice, text, n, true);
    } else {
        lattice_fill_(t, lattice, text, n, false);
    }
    encoder->score = lattice[n].score;
    size_t unknown_start = SIZE_MAX;
    for (size_t start = 0, end = lattice_reverse_(lattice, n); start < n;
         start = end, end = lattice[end].start) {
        int32_t id = lattice[end].id;
        if (id == t->unknown && t->sentencepiece) {
            if (!encode_unknown_(encoder, text + start, end - start, out, e)) {
                return false;
            }
            continue;
        }
        if (id == t->unknown && unknown_start == SIZE_MAX) {
            unknown_start = start;
        }
        if (unknown_start != SIZE_MAX && (id != t->unknown || end == n)) {
            size_t stop = id == t->unknown ? end : start;
            if (!encode_unknown_run_(encoder, text + unknown_start, stop - unknown_start, out, e)) {
                return false;
            }
            unknown_start = SIZE_MAX;
        }
        if (id != t->unknown) {
            if (!ids_reserve_(out, 1, e)) {
                return false;
            }
            out->ids[out->count++] = id;
        }
    }
    return true;
}

// Ids of one symbol: its piece, or for a piece of kind UNUSED those of the two parts that made it.
// One that no merge made is unknown.
static inline bool encode_symbol_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out,
                                  Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    int32_t id = text_find_(t, text, n);
    bool unused = id >= 0 && t->tokens[id].kind == PIECE_UNUSED_;
    size_t cut = unused && encoder->unused_cuts ? encoder->unused_cuts[id] : 0;
    if (id < 0 || (unused && !cut)) {
        return encode_unknown_(encoder, text, n, out, e);
    }
    if (cut) {
        return encode_symbol_(encoder, text, cut, out, e) &&
               encode_symbol_(encoder, text + cut, n - cut, out, e);
    }
    if (!ids_reserve_(out, 1, e)) {
        return false;
    }
    out->ids[out->count++] = id;
    return true;
}

// A number that is smaller for a greater score.
static inline uint64_t score_order_(double score) {
    float f = (float)score + 0.0f; // -0 becomes 0
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return UINT32_MAX - (bits >> 31 ? ~bits : bits | 0x80000000u);
}

// Queues the merge of symbol i and its right neighbour if they spell a piece: highest score first,
// then leftmost.
static inline bool queue_piece_(Encoder *encoder, const char *text, uint32_t i, uint32_t count,
                                Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    const PieceSymbol_ *left = &encoder->pieces[i];
    if (left->next >= count || left->frozen || encoder->pieces[left->next].frozen) {
        return true;
    }
    uint32_t length = left->length + encoder->pieces[left->next].length;
    int32_t id = text_find_(t, text + left->start, length);
    if (id < 0) {
        return true;
    }
    if (t->tokens[id].kind == PIECE_UNUSED_) {
        encoder->unused_cuts[id] = left->length;
    }
    return heap_push(&encoder->heap, (HeapEntry){score_order_(t->scores[id]), i, length}, e);
}

// The symbols that text of n bytes starts as: user-defined symbols and characters. Returns their
// number.
static inline bool piece_symbols_(Encoder *encoder, const char *text, size_t n, uint32_t *count,
                                  Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    *count = 0;
    if (n >= UINT32_MAX) {
        return fail(e, "tokenizer: a text of %zu bytes without a place to cut is longer than 4 GiB",
                    n);
    }
    if (!array_reserve(&encoder->pieces, &encoder->piece_capacity, 0, n, sizeof(PieceSymbol_), e)) {
        return false;
    }
    for (size_t start = 0; start < n; ++*count) {
        bool open;
        size_t user = trie_longest_(&t->user_symbols, text + start, n - start, &open);
        size_t length = user ? user : character_length_(text + start, n - start);
        encoder->pieces[*count] =
            (PieceSymbol_){(uint32_t)start, (uint32_t)length, *count - 1, *count + 1, user > 0};
        start += length;
    }
    return true;
}

// Merges neighbours that spell a piece, the piece with the highest score first.
static inline bool merge_pieces_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out,
                                 Error *e) {
    uint32_t count;
    if (!piece_symbols_(encoder, text, n, &count, e)) {
        return false;
    }
    PieceSymbol_ *pieces = encoder->pieces;
    encoder->heap.count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!queue_piece_(encoder, text, i, count, e)) {
            return false;
        }
    }
    while (encoder->heap.count) {
        HeapEntry top = heap_pop(&encoder->heap);
        uint32_t at = (uint32_t)top.minor;
        PieceSymbol_ *left = &pieces[at], *right = left->next < count ? &pieces[left->next] : NULL;
        if (left->length == 0 || !right || left->length + right->length != top.item) {
            continue; // one of the two has merged with another
        }
        left->length = top.item;
        left->next = right->next;
        right->length = 0;
        if (left->next < count) {
            pieces[left->next].previous = at;
        }
        if ((at && !queue_piece_(encoder, text, left->previous, count, e)) ||
            !queue_piece_(encoder, text, at, count, e)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < count; i = pieces[i].next) {
        if (!encode_symbol_(encoder, text + pieces[i].start, pieces[i].length, out, e)) {
            return false;
        }
    }
    return true;
}

// Appends the ids of a word; an unknown piece that follows one goes into it.
static inline bool append_word_(Encoder *encoder, const int32_t *ids, size_t count,
                                TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    bool joins = count && !t->byte_fallback && ids[0] == t->unknown &&
                 out->count > encoder->first_id && out->ids[out->count - 1] == t->unknown &&
                 t->sentencepiece;
    if (!ids_reserve_(out, count, e)) {
        return false;
    }
    memcpy(out->ids + out->count, ids + joins, (count - joins) * sizeof *ids);
    out->count += count - joins;
    return true;
}

// Encodes a word that does not depend on its surroundings, through the cache.
static inline bool encode_word_(Encoder *encoder, const char *text, size_t n, TokenBuffer *out,
                                Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    uint64_t key[3];
    CacheEntry_ *entry = n <= CACHE_KEY_ ? cache_entry_(encoder, text, n, key) : NULL;
    if (entry && cache_hit_(entry, key)) {
        return append_word_(encoder, entry->ids, (size_t)entry->count, out, e);
    }
    size_t first_id = encoder->first_id;
    encoder->word.count = encoder->first_id = 0;
    bool ok = t->model == MODEL_UNIGRAM
                  ? encode_unigram_(encoder, text, n, false, &encoder->word, e)
                  : merge_pieces_(encoder, text, n, &encoder->word, e);
    encoder->first_id = first_id;
    if (ok && entry) {
        cache_store_(entry, key, encoder->word.ids, encoder->word.count);
    }
    return ok && append_word_(encoder, encoder->word.ids, encoder->word.count, out, e);
}

// Bytes up to the next space symbol (`symbol`, of m bytes) that begins a word; `runs`: that ends a
// run of others.
static inline size_t word_length_(const char *text, size_t n, const char *symbol, size_t m,
                                  bool runs) {
    size_t at = 0;
    if (runs) {
        while (n - at >= m && !memcmp(text + at, symbol, m)) {
            at += m;
        }
    } else if (n > 0) {
        at = 1;
    }
    while (at < n) {
        const char *found = memchr(text + at, symbol[0], n - at);
        if (!found || (size_t)(text + n - found) < m) {
            return n;
        }
        at = (size_t)(found - text);
        if (!memcmp(found, symbol, m)) {
            return at;
        }
        at++;
    }
    return at;
}

// Encodes text that is normalized. `continues`: the ways through the lattice go on from those of
// the last part.
static inline bool encode_pieces_(Encoder *encoder, const char *text, size_t n, bool continues,
                                  TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    if (t->model == MODEL_UNIGRAM) {
        return encode_unigram_(encoder, text, n, continues, out, e);
    }
    if (t->model == MODEL_PIECE_BPE && !t->words_apart) {
        return merge_pieces_(encoder, text, n, out, e);
    }
    while (n) {
        bool open;
        size_t user = trie_longest_(&t->user_symbols, text, n, &open), length;
        bool ok;
        if (t->model == MODEL_CHARACTER) {
            length = user ? user : character_length_(text, n);
            ok = encode_symbol_(encoder, text, length, out, e);
        } else {
            length = word_length_(text, n, SPACE_SYMBOL_, 3, true);
            ok = encode_word_(encoder, text, length, out, e);
        }
        if (!ok) {
            return false;
        }
        text += length;
        n -= length;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Normalize

// One step of sentencepiece's normalizer at s: the bytes it takes; what they become is *out. A
// user-defined symbol stays as it is; else the longest rule of the character map counts; else a
// character stays, and a byte that belongs to none becomes U+FFFD. *open: the text ends where a
// longer symbol or rule might go on.
static inline size_t normalize_step_(const Tokenizer *t, const char *s, size_t n, const char **out,
                                     size_t *length, bool *open) {
    bool open_rule;
    size_t taken = trie_longest_(&t->user_symbols, s, n, open);
    *out = s, *length = taken;
    if (taken) {
        return taken;
    }
    taken = charsmap_longest_(&t->charsmap, s, n, out, &open_rule);
    *open |= open_rule;
    if (taken) {
        *length = strlen(*out);
        return taken;
    }
    taken = utf8_decode(s, n, NULL);
    *out = taken ? s : "\xEF\xBF\xBD", *length = taken ? taken : 3;
    return taken ? taken : 1;
}

// A place where text and normalized text may both be cut, as far as normalization goes.
typedef struct {
    size_t raw, normalized;
    bool restart; // pieces from before this place are not seen
} CutPlace_;

typedef struct {
    CutPlace_ *places;
    size_t count, capacity;
} CutPlaces_;

static inline bool cut_place_add_(CutPlaces_ *cuts, size_t raw, size_t normalized, Error *e) {
    if (!array_reserve(&cuts->places, &cuts->capacity, cuts->count, 1, sizeof *cuts->places, e)) {
        return false;
    }
    cuts->places[cuts->count++] = (CutPlace_){raw, normalized, false};
    return true;
}

// Appends text, each U+0020 as the space symbol.
static inline bool append_escaped_(TextBuffer *out, const char *text, size_t length,
                                   const char *symbol, size_t size, Error *e) {
    if (!array_reserve(&out->data, &out->capacity, out->length, 3 * length, 1, e)) {
        return false;
    }
    char *to = out->data + out->length;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == ' ') {
            memcpy(to, symbol, size);
            to += size;
        } else {
            *to++ = text[i];
        }
    }
    out->length = (size_t)(to - out->data);
    return true;
}

// Normalizes as sentencepiece does; *out is written anew. `part` leaves out what is done at the
// beginning and the end of a text. With `cuts`, lists the places from raw position `from` on.
static inline bool normalize_sentencepiece_(const Tokenizer *t, const char *text, size_t n,
                                            int part, TextBuffer *out, CutPlaces_ *cuts,
                                            size_t from, Error *e) {
    const char *symbol = t->escape_spaces ? SPACE_SYMBOL_ : " ", *piece;
    const size_t size = t->escape_spaces ? 3 : 1;
    size_t at = 0, length, taken;
    bool open, before_open = true;
    out->length = 0;
    while (t->collapse_spaces && !(part & TEXT_CONTINUES) && at < n) {
        taken = normalize_step_(t, text + at, n - at, &piece, &length, &open);
        if (length != 1 || *piece != ' ') {
            break;
        }
        at += taken;
    }
    if (at == n) {
        return true;
    }
    if (t->dummy_prefix && !t->space_suffix && !(part & TEXT_CONTINUES) &&
        !text_append(out, symbol, size, e)) {
        return false;
    }
    bool after_space = t->collapse_spaces && !(part & TEXT_CONTINUES);
    for (; at < n; at += taken) {
        taken = normalize_step_(t, text + at, n - at, &piece, &length, &open);
        before_open &= !open;
        for (; after_space && length && *piece == ' '; piece++, length--) {
        }
        if (!append_escaped_(out, piece, length, symbol, size, e)) {
            return false;
        }
        after_space = length ? t->collapse_spaces && piece[length - 1] == ' '
                             : after_space && t->collapse_spaces;
        if (cuts && before_open && length && piece[length - 1] != ' ' && at + taken >= from &&
            at + taken < n && !cut_place_add_(cuts, at + taken, out->length, e)) {
            return false;
        }
    }
    if (part & TEXT_GOES_ON) {
        return true;
    }
    while (t->collapse_spaces && out->length >= size &&
           !memcmp(out->data + out->length - size, symbol, size)) {
        out->length -= size;
    }
    return !t->dummy_prefix || !t->space_suffix || text_append(out, symbol, size, e);
}

// Bytes of white space at the beginning or the end of the text.
static inline size_t leading_space_(const uint8_t *classes, const char *text, size_t n) {
    return run_length_(classes, text, n, CLASS_SPACE_, SIZE_MAX);
}

static inline size_t trailing_space_(const uint8_t *classes, const char *text, size_t n) {
    size_t end = n, length;
    while (end > 0) {
        size_t start = end - 1;
        while (start > 0 && end - start < 4 && ((unsigned char)text[start] & 0xC0) == 0x80) {
            start--;
        }
        if (class_at_(classes, text + start, text + end, &length) != CLASS_SPACE_ ||
            start + length != end) {
            break;
        }
        end = start;
    }
    return n - end;
}

static inline bool append_replaced_(TextBuffer *out, const char *text, size_t n,
                                    const char *pattern, size_t m, const char *content,
                                    size_t content_length, Error *e) {
    for (size_t start = 0; start < n;) {
        const char *found = memmem(text + start, n - start, pattern, m);
        size_t end = found ? (size_t)(found - text) : n;
        if (!text_append(out, text + start, end - start, e) ||
            (found && !text_append(out, content, content_length, e))) {
            return false;
        }
        start = found ? end + m : n;
    }
    return true;
}

// Runs of two spaces and more become the content.
static inline bool append_collapsed_(TextBuffer *out, const char *text, size_t n,
                                     const char *content, size_t content_length, Error *e) {
    for (size_t at = 0; at < n;) {
        size_t spaces = 0, others = 0;
        while (at + spaces < n && text[at + spaces] == ' ') {
            spaces++;
        }
        while (at + spaces + others < n && text[at + spaces + others] != ' ') {
            others++;
        }
        if (!(spaces > 1 ? text_append(out, content, content_length, e)
                         : text_append(out, text + at, spaces, e)) ||
            !text_append(out, text + at + spaces, others, e)) {
            return false;
        }
        at += spaces + others;
    }
    return true;
}

static inline bool normalize_apply_(const Tokenizer *t, const NormalizeStep_ *step,
                                    const char *text, size_t n, int part, TextBuffer *out,
                                    Error *e) {
    size_t left, right;
    out->length = 0;
    switch (step->operation) {
    case NORMALIZE_PREPEND_:
        return (n == 0 || part & TEXT_CONTINUES ||
                text_append(out, step->content, step->content_length, e)) &&
               text_append(out, text, n, e);
    case NORMALIZE_REPLACE_:
        return append_replaced_(out, text, n, step->pattern, step->pattern_length, step->content,
                                step->content_length, e);
    case NORMALIZE_SPACES_:
        return append_collapsed_(out, text, n, step->content, step->content_length, e);
    case NORMALIZE_STRIP_:
        left = step->left && !(part & TEXT_CONTINUES) ? leading_space_(t->classes, text, n) : 0;
        right = step->right && !(part & TEXT_GOES_ON)
                    ? trailing_space_(t->classes, text + left, n - left)
                    : 0;
        return text_append(out, text + left, n - left - right, e);
    }
    return true;
}

// Normalizes as a tokenizer.json says, into *out by way of *other.
static inline bool normalize_steps_(const Tokenizer *t, const char *text, size_t n, int part,
                                    TextBuffer *out, TextBuffer *other, Error *e) {
    out->length = 0;
    if (!text_append(out, text, n, e)) {
        return false;
    }
    for (size_t i = 0; i < t->step_count; i++) {
        TextBuffer from = *out;
        if (!normalize_apply_(t, &t->steps[i], from.data, from.length, part, other, e)) {
            return false;
        }
        *out = *other;
        *other = from;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// Encode: the whole way

// Encodes what lies between added tokens, normalized: the pre-tokenizer and the model. `first`: it
// begins the text.
static inline bool encode_between_(Encoder *encoder, const char *text, size_t n, int part,
                                   bool first, TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    const size_t m = t->replacement_length;
    if (n == 0) {
        return true;
    }
    if (t->model == MODEL_BYTE_BPE) {
        if (!t->prefix_space || part & TEXT_CONTINUES || *text == ' ') {
            return encode_split_(encoder, text, n, out, e);
        }
        encoder->other.length = 0;
        return text_append(&encoder->other, " ", 1, e) &&
               text_append(&encoder->other, text, n, e) &&
               encode_split_(encoder, encoder->other.data, n + 1, out, e);
    }
    if (m == 0) {
        return encode_pieces_(encoder, text, n, part & TEXT_CONTINUES, out, e);
    }
    TextBuffer *spaced = &encoder->other;
    bool begins = n >= m && !memcmp(text, t->replacement, m);
    bool prepend = !begins && *text != ' ' && !(part & TEXT_CONTINUES) &&
                   (t->prepend == PREPEND_ALWAYS_ || (t->prepend == PREPEND_FIRST_ && first));
    bool continues = part & TEXT_CONTINUES && !(t->metaspace_split && (begins || *text == ' '));
    spaced->length = 0;
    if ((prepend && !text_append(spaced, t->replacement, m, e)) ||
        !append_replaced_(spaced, text, n, " ", 1, t->replacement, m, e)) {
        return false;
    }
    text = spaced->data, n = spaced->length;
    if (!t->metaspace_split) {
        return encode_pieces_(encoder, text, n, continues, out, e);
    }
    while (n) {
        size_t length = word_length_(text, n, t->replacement, m, false);
        // The last word may go on in the next part of the text, which needs its score.
        bool plain = !continues && (length < n || !(part & TEXT_GOES_ON));
        if (!(plain ? encode_word_(encoder, text, length, out, e)
                    : encode_pieces_(encoder, text, length, continues, out, e))) {
            return false;
        }
        text += length;
        n -= length;
        continues = false;
    }
    return true;
}

// The longest added token of this pass that starts at text[0] (length > 0), NULL if there is none.
static inline const AddedToken *added_match_(const Tokenizer *t, int pass, const char *text,
                                             size_t length) {
    const uint32_t *range = &t->added_first[pass][(unsigned char)*text];
    for (uint32_t k = range[0]; k < range[1]; k++) {
        const AddedToken *a = t->added_order[k];
        if (a->length <= length && !memcmp(a->text, text, a->length)) {
            return a;
        }
    }
    return NULL;
}

static inline bool is_word_at_(const Tokenizer *t, const char *text, const char *end) {
    uint32_t c;
    return utf8_decode(text, (size_t)(end - text), &c) &&
           (c < CLASSES_END_ ? t->classes[c] & CLASS_WORD_
                             : c >= VARIATION_SELECTORS_ && c < VARIATION_SELECTORS_END_);
}

// False if the token must stand alone and a part of a word is beside it.
static inline bool added_stands_(const Tokenizer *t, const AddedToken *a, const char *text,
                                 size_t length, size_t start) {
    size_t stop = start + a->length, before = start;
    if (!a->single_word) {
        return true;
    }
    while (before > 0 && start - before < 4 && ((unsigned char)text[--before] & 0xC0) == 0x80) {
    }
    return (start == 0 || !is_word_at_(t, text + before, text + start)) &&
           (stop == length || !is_word_at_(t, text + stop, text + length));
}

static inline bool encode_pass_(Encoder *encoder, int pass, const char *text, size_t length,
                                int part, bool first, TokenBuffer *out, Error *e);

// What pass `pass` has left between two added tokens: text[start .. stop).
static inline bool encode_slice_(Encoder *encoder, int pass, const char *text, size_t length,
                                 size_t start, size_t stop, int part, bool first, TokenBuffer *out,
                                 Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    int here =
        (start == 0 ? part & TEXT_CONTINUES : 0) | (stop == length ? part & TEXT_GOES_ON : 0);
    first = first && start == 0;
    if (start >= stop) {
        return true;
    }
    if (pass == 1) {
        return encode_between_(encoder, text + start, stop - start, here, first, out, e);
    }
    if (t->step_count == 0) {
        return encode_pass_(encoder, 1, text + start, stop - start, here, first, out, e);
    }
    return normalize_steps_(t, text + start, stop - start, here, &encoder->normalized,
                            &encoder->other, e) &&
           encode_pass_(encoder, 1, encoder->normalized.data, encoder->normalized.length, here,
                        first, out, e);
}

// Cuts the added tokens out, leftmost first, the longest of those that start there: in pass 0 those
// with normalized = false, in pass 1 the others from what lies between, normalized. What lies
// between after both is encoded.
static inline bool encode_pass_(Encoder *encoder, int pass, const char *text, size_t length,
                                int part, bool first, TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    size_t done = 0, i = 0;
    while (i < length && t->added_first[pass][0] < t->added_first[pass][256]) {
        const AddedToken *a = added_match_(t, pass, text + i, length - i);
        if (!a) {
            i++;
            continue;
        }
        size_t start = i, stop = i + a->length;
        i = stop;
        if (!added_stands_(t, a, text, length, start)) {
            continue;
        }
        if (a->left_strip) {
            start -= trailing_space_(t->classes, text, start);
            start = start > done ? start : done;
        }
        if (a->right_strip) {
            stop += leading_space_(t->classes, text + stop, length - stop);
        }
        if (!encode_slice_(encoder, pass, text, length, done, start, part, first, out, e) ||
            !ids_reserve_(out, 1, e)) {
            return false;
        }
        out->ids[out->count++] = a->id;
        done = stop;
    }
    return encode_slice_(encoder, pass, text, length, done, length, part, first, out, e);
}

// Appends the ids of a part of a text. `part` is TEXT_WHOLE, or TEXT_CONTINUES and TEXT_GOES_ON,
// or'ed, for a piece that tokenizer_safe_cut has cut off: one encoder gets the pieces of a text in
// order. The text should be UTF-8 (see utf8_sanitize). Added tokens in it become their ids; none is
// added at the beginning or the end.
static inline bool encoder_encode_part(Encoder *encoder, const char *text, size_t length, int part,
                                       TokenBuffer *out, Error *e) {
    const Tokenizer *t = encoder->tokenizer;
    encoder->first_id = out->count;
    if (!t->sentencepiece) {
        return encode_pass_(encoder, 0, text, length, part, !(part & TEXT_CONTINUES), out, e);
    }
    return normalize_sentencepiece_(t, text, length, part, &encoder->normalized, NULL, 0, e) &&
           encode_pieces_(encoder, encoder->normalized.data, encoder->normalized.length,
                          part & TEXT_CONTINUES, out, e);
}

// Appends the ids of a whole text.
static inline bool encoder_encode(Encoder *encoder, const char *text, size_t length,
                                  TokenBuffer *out, Error *e) {
    return encoder_encode_part(encoder, text, length, TEXT_WHOLE, out, e);
}

// The same with an encoder made for this one text.
static inline bool tokenizer_encode(const Tokenizer *t, const char *text, size_t length,
                                    TokenBuffer *out, Error *e) {
    Encoder encoder;
    bool ok = encoder_init(&encoder, t, e) && encoder_encode(&encoder, text, length, out, e);
    encoder_free(&encoder);
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Where a text may be cut

// True if an added token that is looked for in this pass, whole or cut off by the end of the text,
// lies across position `cut` or touches it.
static inline bool added_token_touches_(const Tokenizer *t, int pass, const char *text,
                                        size_t length, size_t cut) {
    for (size_t k = 0; k < t->added_count; k++) {
        const AddedToken *a = &t->added[k];
        size_t start = cut >= a->length ? cut - a->length : 0;
        for (; a->normalized == pass && start <= cut && start < length; start++) {
            size_t n = length - start < a->length ? length - start : a->length;
            if (text[start] == a->text[0] && !memcmp(text + start, a->text, n)) {
                return true;
            }
        }
    }
    return false;
}

// Byte-level BPE: a place between a character a that is not white space and a character b of
// another class, except an apostrophe and a letter, and except beside an added token. There no
// pre-token of GPT-2's spans the cut: a run has one class; a space may precede a run, but a is
// none; a contraction is an apostrophe and letters; \s+ takes white space only. Nor does what
// follows the cut change a match before it: a run ends at the cut either way; a contraction before
// the cut has all its letters there, for b continues none; and white space before a is followed by
// the same character as before, so (?!\S) sees the same. Matches behind the cut never look back.
// Added tokens are found from left to right, so where none touches the cut, the same ones are found
// on both sides, with the same surroundings: a and b are not both white space. By the other rules
// the same holds where a is a letter and b none: only a run of letters or a contraction ends in a
// letter, and both end there; digits and line ends belong to what follows.
static inline size_t cut_pretokens_(const Tokenizer *t, const char *text, size_t length) {
    int class_after = -1; // of the character that starts at `end`
    for (size_t end = length; end > 0;) {
        size_t start = end - 1, n;
        while (start > 0 && end - start < 4 && ((unsigned char)text[start] & 0xC0) == 0x80) {
            start--;
        }
        int class = class_at_(t->classes, text + start, text + end, &n);
        if (start + n != end) { // not UTF-8: no cut here
            class = class_after;
        }
        bool quoted = text[start] == '\'' && class_after == CLASS_LETTER_;
        bool ends =
            t->split == SPLIT_GPT2_ ? class != CLASS_SPACE_ && !quoted : class == CLASS_LETTER_;
        if (end < length && ends && class != class_after &&
            !(t->space_strips && class_after == CLASS_SPACE_) &&
            !added_token_touches_(t, 0, text, length, end) &&
            !added_token_touches_(t, 1, text, length, end)) {
            return end;
        }
        class_after = class;
        end = start;
    }
    return 0;
}

// True if no step of the tokenizer.json's normalization looks at this character, makes it, or takes
// it away.
static inline bool is_inert_(const Tokenizer *t, const char *text, size_t n) {
    size_t length;
    if (class_at_(t->classes, text, text + n, &length) == CLASS_SPACE_) {
        return false;
    }
    for (size_t i = 0; i < t->step_count; i++) {
        const NormalizeStep_ *step = &t->steps[i];
        if (memmem(step->pattern, step->pattern_length, text, length) ||
            memmem(step->content, step->content_length, text, length)) {
            return false;
        }
    }
    return !memmem(t->replacement, t->replacement_length, text, length);
}

// Normalizes text[begin .. n) as a tokenizer.json says and lists the places between two inert
// characters. No step changes an inert character or takes two neighbours apart, so the k-th of the
// text is the k-th of what it becomes. `restart`: an added token lies before the place.
static inline bool normalize_tail_(const Tokenizer *t, const char *text, size_t n, size_t begin,
                                   TextBuffer *out, TextBuffer *other, CutPlaces_ *cuts, Error *e) {
    if (!normalize_steps_(t, text + begin, n - begin, TEXT_CONTINUES | TEXT_GOES_ON, out, other,
                          e)) {
        return false;
    }
    if (t->replacement_length) {
        TextBuffer from = *out;
        other->length = 0;
        if (!append_replaced_(other, from.data, from.length, " ", 1, t->replacement,
                              t->replacement_length, e)) {
            return false;
        }
        *out = *other, *other = from;
    }
    size_t raw = begin, at = 0;
    bool after_inert = false, restart = true;
    while (raw < n) {
        const AddedToken *a = added_match_(t, 0, text + raw, n - raw);
        size_t length = character_length_(text + raw, n - raw);
        restart |= a != NULL;
        if (!is_inert_(t, text + raw, n - raw)) {
            after_inert = false;
            raw += length;
            continue;
        }
        while (at < out->length && !is_inert_(t, out->data + at, out->length - at)) {
            at += character_length_(out->data + at, out->length - at);
        }
        if (at >= out->length) { // cannot be, by the above
            return true;
        }
        if (after_inert) {
            if (!cut_place_add_(cuts, raw, at, e)) {
                return false;
            }
            cuts->places[cuts->count - 1].restart = restart;
            restart = false;
        }
        after_inert = true;
        raw += length;
        at += length;
    }
    return true;
}

// Can the token that ends behind this character, the last before a cut, only be a known one?
// Otherwise unknown characters on both sides would become one.
static inline bool ends_known_(const Tokenizer *t, const char *text, size_t at, size_t length) {
    size_t n;
    if (t->sentencepiece && t->byte_fallback) {
        return true;
    }
    int32_t id = text_find_(t, text + at - length, length);
    const char *unknown = tokenizer_text(t, t->unknown, &n);
    return id >= 0 && id != t->unknown && t->tokens[id].kind != PIECE_UNUSED_ &&
           !(n <= at && !memcmp(text + at - n, unknown, n));
}

// Keeps the places that no piece lies across in any segmentation.
static inline void keep_places_between_pieces_(const Tokenizer *t, const TextBuffer *text,
                                               CutPlaces_ *cuts) {
    size_t reach = 0, kept = 0, next = 0, length = 0;
    size_t from =
        cuts->count ? cuts->places[0].normalized : 0; // pieces from before this place are not seen
    for (size_t at = from; next < cuts->count && at < text->length; at += length) {
        CutPlace_ *place = &cuts->places[next];
        if (at == place->normalized) {
            from = place->restart ? at : from;
            if (reach <= at && at - from > t->longest_piece &&
                ends_known_(t, text->data, at, length)) {
                cuts->places[kept++] = *place;
            }
            next++;
        }
        const AddedToken *a = added_match_(t, 1, text->data + at, text->length - at);
        bool open;
        size_t longest = trie_longest_(&t->trie, text->data + at, text->length - at, &open);
        from = a ? at + a->length : from;
        reach = open ? SIZE_MAX : at + longest > reach ? at + longest : reach;
        length = character_length_(text->data + at, text->length - at);
    }
    cuts->count = kept;
}

// Pieces: a place where normalization may be cut and that no piece lies across, whichever way the
// text before and behind it is segmented, far enough behind an added token. All ways through the
// lattice meet there, and no merge crosses it. (A sum of scores goes on behind the cut: see
// Encoder.score.)
static inline size_t cut_pieces_(const Tokenizer *t, const char *text, size_t length) {
    TextBuffer normalized = {0}, other = {0};
    CutPlaces_ cuts = {0};
    Error e;
    size_t cut = 0;
    bool ok = !(t->has_unused &&
                t->model == MODEL_PIECE_BPE); // how those are cut in two depends on the whole text
    for (size_t window = 4096; ok && cut == 0; window *= 8) {
        size_t begin = length > window ? length - window : 0;
        while (begin > 0 && ((unsigned char)text[begin] & 0xC0) == 0x80) {
            begin--;
        }
        while (begin > 0 && !t->sentencepiece) { // between two inert characters
            size_t before = begin - 1;
            while (before > 0 && begin - before < 4 &&
                   ((unsigned char)text[before] & 0xC0) == 0x80) {
                before--;
            }
            if (is_inert_(t, text + before, length - before) &&
                is_inert_(t, text + begin, length - begin)) {
                break;
            }
            begin = before;
        }
        cuts.count = 0;
        ok = t->sentencepiece
                 ? normalize_sentencepiece_(t, text, length, TEXT_CONTINUES | TEXT_GOES_ON,
                                            &normalized, &cuts, begin, &e)
                 : normalize_tail_(t, text, length, begin, &normalized, &other, &cuts, &e);
        if (!ok) {
            break;
        }
        keep_places_between_pieces_(t, &normalized, &cuts);
        while (cut == 0 && cuts.count) {
            CutPlace_ place = cuts.places[--cuts.count];
            if (!added_token_touches_(t, 0, text, length, place.raw) &&
                !added_token_touches_(t, 1, normalized.data, normalized.length, place.normalized)) {
                cut = place.raw;
            }
        }
        ok = begin > 0;
    }
    free(normalized.data);
    free(other.data);
    free(cuts.places);
    return cut;
}

// The largest position found such that text[0 .. cut) and text[cut ..), the latter with anything
// appended, give the same ids encoded apart (encoder_encode_part, one encoder) as together; 0 if
// there is none. `text` ends with a whole character; it may itself continue another.
static inline size_t tokenizer_safe_cut(const Tokenizer *t, const char *text, size_t length) {
    return t->model == MODEL_BYTE_BPE ? cut_pretokens_(t, text, length)
                                      : cut_pieces_(t, text, length);
}

// ------------------------------------------------------------------------------------------------
// Decode

// Turns ids into text, one by one, as the owning library turns all of them: what is certain so far
// stands in `text`, always whole characters; the caller takes it from there and sets text.length to
// 0. To continue a text, give the ids before it first.
typedef struct {
    const Tokenizer *tokenizer;
    bool all; // special tokens too
    TextBuffer text;
    TextBuffer held; // bytes of a character, or of a run of byte pieces, that is not complete
    TextBuffer scratch[MAX_STEPS_]; // of a decoder step
    size_t seen[MAX_STEPS_ + 1];    // by a decoder step: tokens, or characters it has stripped
    bool begun;                     // sentencepiece: no space is dropped any more
} Decoder;

static inline void decoder_init(Decoder *d, const Tokenizer *t, bool all) {
    *d = (Decoder){.tokenizer = t, .all = all};
}

static inline void decoder_free(Decoder *d) {
    free(d->text.data);
    free(d->held.data);
    for (size_t i = 0; i < MAX_STEPS_; i++) {
        free(d->scratch[i].data);
    }
    *d = (Decoder){0};
}

// Passes on the held bytes as far as they are whole characters, at the end all of them. Ill-formed
// ones become U+FFFD: one for each maximal part of a character, or with `each` one for each byte.
static inline bool decoder_flush_(Decoder *d, bool final, bool each, Error *e) {
    const char *bytes = d->held.data;
    size_t n = d->held.length, at = 0;
    while (at < n) {
        size_t taken = utf8_decode(bytes + at, n - at, NULL);
        const char *text = bytes + at;
        size_t length = taken;
        if (taken == 0) {
            taken = utf8_maximal_subpart_(bytes + at, n - at);
            if (!final && at + taken == n && (unsigned char)bytes[at] >= 0xC2 &&
                (unsigned char)bytes[at] <= 0xF4) {
                break;
            }
            text = "\xEF\xBF\xBD", length = 3;
            taken = each ? 1 : taken;
        }
        if (!text_append(&d->text, text, length, e)) {
            return false;
        }
        at += taken;
    }
    if (at) {
        memmove(d->held.data, d->held.data + at, n - at);
        d->held.length = n - at;
    }
    return true;
}

static inline bool decoder_step_(Decoder *d, size_t i, const char *text, size_t length, Error *e);

// A run of byte pieces is over: its text if that is UTF-8, else one U+FFFD for each piece.
static inline bool decoder_end_run_(Decoder *d, size_t i, Error *e) {
    size_t n = d->held.length, at = 0, taken = 1;
    while (at < n && taken) {
        at += taken = utf8_decode(d->held.data + at, n - at, NULL);
    }
    d->held.length = 0;
    if (n && at == n) {
        return decoder_step_(d, i + 1, d->held.data, n, e);
    }
    for (size_t k = 0; k < n; k++) {
        if (!decoder_step_(d, i + 1, "\xEF\xBF\xBD", 3, e)) {
            return false;
        }
    }
    return true;
}

// Bytes of `text` without up to `most` of the step's characters at its beginning or end.
static inline size_t stripped_start_(const DecodeStep_ *s, const char *text, size_t length,
                                     size_t most) {
    size_t at = 0;
    for (; most && length - at >= s->pattern_length &&
           !memcmp(text + at, s->pattern, s->pattern_length);
         most--) {
        at += s->pattern_length;
    }
    return at;
}

static inline size_t stripped_stop_(const DecodeStep_ *s, const char *text, size_t length,
                                    size_t most) {
    size_t n = s->pattern_length, end = length;
    for (; most && end >= n && !memcmp(text + end - n, s->pattern, n); most--) {
        end -= n;
    }
    return length - end;
}

// Gives a token to step i of the decoder, which gives what it makes of it to the next one.
static inline bool decoder_step_(Decoder *d, size_t i, const char *text, size_t length, Error *e) {
    const Tokenizer *t = d->tokenizer;
    if (i == t->decode_step_count) {
        bool space = t->joins_with_spaces && d->seen[i]++;
        return (!space || text_append(&d->text, " ", 1, e)) &&
               text_append(&d->text, text, length, e);
    }
    const DecodeStep_ *s = &t->decode_steps[i];
    TextBuffer *scratch = &d->scratch[i];
    size_t start, stop;
    int16_t byte;
    scratch->length = 0;
    switch (s->operation) {
    case DECODE_FUSE_:
        return decoder_step_(d, i + 1, text, length, e);
    case DECODE_REPLACE_:
        return append_replaced_(scratch, text, length, s->pattern, s->pattern_length, s->content,
                                s->content_length, e) &&
               decoder_step_(d, i + 1, scratch->data, scratch->length, e);
    case DECODE_METASPACE_:
        start = d->seen[i]++;
        return append_replaced_(scratch, text, length, s->pattern, s->pattern_length, " ",
                                start || s->keeps_first ? 1 : 0, e) &&
               decoder_step_(d, i + 1, scratch->data, scratch->length, e);
    case DECODE_BYTES_:
        byte = piece_byte_(text, length, true);
        if (byte >= 0) {
            char c = (char)byte;
            return text_append(&d->held, &c, 1, e);
        }
        return decoder_end_run_(d, i, e) && decoder_step_(d, i + 1, text, length, e);
    case DECODE_STRIP_:
        if (s->fused) { // all the tokens are one: only its beginning is stripped
            size_t left = s->start - d->seen[i];
            start = stripped_start_(s, text, length, left);
            d->seen[i] = start < length ? s->start : d->seen[i] + start / s->pattern_length;
            return decoder_step_(d, i + 1, text + start, length - start, e);
        }
        start = stripped_start_(s, text, length, s->start);
        stop = stripped_stop_(s, text, length, s->stop);
        return decoder_step_(d, i + 1, text + start,
                             start + stop < length ? length - start - stop : 0, e);
    }
    return true;
}

// A piece as sentencepiece decodes it.
static inline bool decoder_add_piece_(Decoder *d, const Token *token, const char *text, Error *e) {
    const Tokenizer *t = d->tokenizer;
    size_t length = token->length;
    if (token->kind == PIECE_BYTE_) {
        char byte = (char)token->byte;
        return text_append(&d->held, &byte, 1, e) && decoder_flush_(d, false, true, e);
    }
    if (!decoder_flush_(d, true, true, e)) {
        return false;
    }
    d->begun |= d->seen[0] > 0 || d->text.length > 0;
    d->seen[0] = 0;
    if (token->kind == PIECE_CONTROL_) {
        return true;
    }
    if (token->kind == PIECE_UNKNOWN_) {
        return text_append(&d->text, t->unknown_surface, t->unknown_surface_length, e);
    }
    if (!d->begun && (t->dummy_prefix || t->collapse_spaces) && length >= 3 &&
        !memcmp(text, SPACE_SYMBOL_, 3)) {
        text += 3, length -= 3;
        d->seen[0] = !t->collapse_spaces; // one space only, even if no text has come yet
    }
    return append_replaced_(&d->text, text, length, SPACE_SYMBOL_, 3, " ", 1, e);
}

// Adds an id; one outside the vocabulary has no text.
static inline bool decoder_add(Decoder *d, int32_t id, Error *e) {
    const Tokenizer *t = d->tokenizer;
    if (id < 0 || (size_t)id >= t->vocab_size || (t->tokens[id].special && !d->all)) {
        return true;
    }
    const char *text = t->bytes + t->tokens[id].decoded;
    size_t length = t->tokens[id].decoded_length;
    if (t->sentencepiece) {
        bool ok = decoder_add_piece_(d, &t->tokens[id], text, e);
        d->begun |= d->text.length > 0;
        return ok;
    }
    if (t->model != MODEL_BYTE_BPE) {
        return decoder_step_(d, 0, text, length, e);
    }
    return text_append(&d->held, text, length, e) && decoder_flush_(d, false, false, e);
}

// No more ids come: the rest of the text.
static inline bool decoder_end(Decoder *d, Error *e) {
    const Tokenizer *t = d->tokenizer;
    for (size_t i = 0; i < t->decode_step_count; i++) {
        if (t->decode_steps[i].operation == DECODE_BYTES_ && !decoder_end_run_(d, i, e)) {
            return false;
        }
    }
    return decoder_flush_(d, true, t->sentencepiece, e);
}

// ------------------------------------------------------------------------------------------------
// Load: what the formats share

typedef struct {
    const char *text;
    size_t length;
} FileText_;

// Tokens by the text that stands for them in the file, while loading.
typedef struct {
    FileText_ *tokens; // by id; text is NULL where none is known yet
    uint32_t *slots;   // open addressing, id + 1, 0 if empty
    size_t mask;
} Vocabulary_;

// Slot of the token whose text is `a` followed by `b`, or the empty slot where it would be.
static inline uint32_t *vocabulary_slot_(const Vocabulary_ *v, FileText_ a, FileText_ b) {
    uint64_t hash =
        hash_mix(hash_bytes(hash_bytes(HASH_START, a.text, a.length), b.text, b.length));
    for (size_t i = (size_t)hash & v->mask;; i = (i + 1) & v->mask) {
        const FileText_ *token = v->slots[i] ? &v->tokens[v->slots[i] - 1] : NULL;
        if (!token ||
            (token->length == a.length + b.length && !memcmp(token->text, a.text, a.length) &&
             !memcmp(token->text + a.length, b.text, b.length))) {
            return &v->slots[i];
        }
    }
}

// Id of a token, -1 if there is none.
static inline int32_t vocabulary_find_(const Vocabulary_ *v, FileText_ text) {
    return (int32_t)*vocabulary_slot_(v, text, (FileText_){"", 0}) - 1;
}

static inline void vocabulary_add_(Vocabulary_ *v, FileText_ text, size_t id) {
    v->tokens[id] = text;
    *vocabulary_slot_(v, text, (FileText_){"", 0}) = (uint32_t)id + 1;
}

static inline void vocabulary_free_(Vocabulary_ *v) {
    free(v->tokens);
    free(v->slots);
}

static inline bool vocabulary_reserve_(Vocabulary_ *v, size_t count, size_t more, const char *path,
                                       Error *e) {
    if (count > TOKENIZER_MAX_VOCAB || more > TOKENIZER_MAX_VOCAB - count) {
        return fail(e, "%s: %zu tokens; at most %d are supported", path, count + more,
                    TOKENIZER_MAX_VOCAB);
    }
    for (v->mask = 15; v->mask < 2 * (count + more);) {
        v->mask = 2 * v->mask + 1;
    }
    v->tokens = calloc(count + more + 1, sizeof *v->tokens);
    v->slots = calloc(v->mask + 1, sizeof *v->slots);
    return (v->tokens && v->slots) || fail(e, "%s: no memory for %zu tokens", path, count + more);
}

static inline bool json_absent_(const Json *node) {
    return !node || node->kind == JSON_NULL;
}

static inline bool json_has_type_(const Json *node, const char *type) {
    const char *found = json_string(json_get(node, "type"));
    return found && !strcmp(found, type);
}

static inline bool json_is_bool_(const Json *node, bool value) {
    return node && node->kind == JSON_BOOL && node->boolean == value;
}

static inline bool path_join_(char path[4096], const char *directory, const char *name, Error *e) {
    int n = snprintf(path, 4096, "%s/%s", directory, name);
    return (n > 0 && n < 4096) ||
           fail(e, "%.200s...: the path is longer than 4095 bytes", directory);
}

// ------------------------------------------------------------------------------------------------
// Load: tokenizer.json, the components

// Copies a short text of a component into a step.
static inline bool step_text_(char out[STEP_TEXT_], size_t *length, const Json *node,
                              const char *what, const char *path, Error *e) {
    if (!json_string(node) || node->length >= STEP_TEXT_) {
        return fail(e, "%s: %s must be a text of less than %d bytes", path, what, STEP_TEXT_);
    }
    memcpy(out, node->text, node->length + 1);
    *length = node->length;
    return true;
}

// An expression that stands for itself alone.
static inline bool is_literal_(const char *expression) {
    return *expression && !strpbrk(expression, "\\^$.|?*+()[]{}");
}

static const char START_OF_TEXT_[] =
    "(?<!\\n)^"; // Oniguruma's ^ holds at every line; this, only where the text begins

// Replace {"pattern": {"String": s} or {"Regex": r}, "content": s}: the texts, and the expression
// if it is no literal.
static inline bool replace_read_(const Json *node, char pattern[STEP_TEXT_], size_t *pattern_length,
                                 char content[STEP_TEXT_], size_t *content_length,
                                 const char **expression, const char *path, Error *e) {
    const Json *literal = json_get(json_get(node, "pattern"), "String");
    const Json *regex = json_get(json_get(node, "pattern"), "Regex");
    *expression = regex && json_string(regex) && !is_literal_(regex->text) ? regex->text : NULL;
    return step_text_(content, content_length, json_get(node, "content"), "the content of Replace",
                      path, e) &&
           step_text_(pattern, pattern_length, literal ? literal : regex, "the pattern of Replace",
                      path, e) &&
           (*pattern_length > 0 || fail(e, "%s: the pattern of Replace must not be empty", path));
}

static inline bool normalizer_read_(Tokenizer *t, const Json *node, int depth, const char *path,
                                    Error *e) {
    const Json *list = json_get(node, "normalizers");
    if (json_has_type_(node, "Sequence") && list && list->kind == JSON_ARRAY && depth < 4) {
        for (const Json *child = list->child; child; child = child->next) {
            if (!normalizer_read_(t, child, depth + 1, path, e)) {
                return false;
            }
        }
        return true;
    }
    if (t->step_count == MAX_STEPS_) {
        return fail(e, "%s: its normalizer has more than %d steps", path, MAX_STEPS_);
    }
    NormalizeStep_ *step = &t->steps[t->step_count++];
    *step = (NormalizeStep_){0};
    if (json_has_type_(node, "Prepend")) {
        step->operation = NORMALIZE_PREPEND_;
        return step_text_(step->content, &step->content_length, json_get(node, "prepend"),
                          "the text of Prepend", path, e);
    }
    if (json_has_type_(node, "Strip")) {
        const Json *left = json_get(node, "strip_left"), *right = json_get(node, "strip_right");
        *step = (NormalizeStep_){NORMALIZE_STRIP_, .left = json_is_bool_(left, true),
                                 .right = json_is_bool_(right, true)};
        return (left && right && left->kind == JSON_BOOL && right->kind == JSON_BOOL) ||
               fail(e, "%s: Strip must have strip_left and strip_right, true or false", path);
    }
    if (json_has_type_(node, "Replace")) {
        const char *expression;
        if (!replace_read_(node, step->pattern, &step->pattern_length, step->content,
                           &step->content_length, &expression, path, e)) {
            return false;
        }
        if (expression && !strcmp(expression, START_OF_TEXT_)) {
            step->operation = NORMALIZE_PREPEND_;
            step->pattern_length = 0;
            return true;
        }
        step->operation = expression ? NORMALIZE_SPACES_ : NORMALIZE_REPLACE_;
        if (!expression || !strcmp(expression, " {2,}")) {
            return true;
        }
    }
    const char *type = json_string(json_get(node, "type")),
               *expression = json_string(json_get(json_get(node, "pattern"), "Regex"));
    return fail(e,
                "%s: the normalizer %.40s%s%.60s would give other ids here: Sequence, Prepend, "
                "Strip and Replace (of a "
                "text, of \" {2,}\", of \"(?<!\\n)^\") are supported",
                path, type ? type : "without a type", expression ? " with " : "",
                expression ? expression : "");
}

static inline bool metaspace_read_(Tokenizer *t, const Json *node, const char *path, Error *e) {
    const Json *split = json_get(node, "split"), *scheme = json_get(node, "prepend_scheme");
    const char *name = json_absent_(scheme) ? "always" : json_string(scheme);
    uint32_t c;
    const Json *replacement = json_get(node, "replacement");
    if (!json_string(replacement) || replacement->length == 0 ||
        utf8_decode(replacement->text, replacement->length, &c) != replacement->length) {
        return fail(e, "%s: Metaspace must have a replacement of one character", path);
    }
    if (!name || (strcmp(name, "always") && strcmp(name, "first") && strcmp(name, "never")) ||
        (json_is_bool_(json_get(node, "add_prefix_space"), false) && strcmp(name, "never"))) {
        return fail(
            e,
            "%s: the prepend_scheme of Metaspace must be always, first or never, and never where "
            "add_prefix_space is false",
            path);
    }
    memcpy(t->replacement, replacement->text, replacement->length);
    t->replacement_length = replacement->length;
    t->prepend = !strcmp(name, "always")  ? PREPEND_ALWAYS_
                 : !strcmp(name, "first") ? PREPEND_FIRST_
                                          : PREPEND_NEVER_;
    t->metaspace_split = !json_is_bool_(split, false);
    return true;
}

// The rule of a Split with one of the known expressions.
static inline bool split_read_(Tokenizer *t, const Json *node) {
    const char *expression = json_string(json_get(json_get(node, "pattern"), "Regex"));
    const char *behavior = json_string(json_get(node, "behavior"));
    bool invert = json_is_bool_(json_get(node, "invert"), true);
    if (!expression || !behavior || strcmp(behavior, invert ? "Removed" : "Isolated")) {
        return false; // the expressions match everywhere, so the other way round is the same
    }
    for (size_t i = 0; i < sizeof SPLIT_EXPRESSIONS_ / sizeof *SPLIT_EXPRESSIONS_; i++) {
        if (!strcmp(expression, SPLIT_EXPRESSIONS_[i].expression)) {
            t->split = SPLIT_EXPRESSIONS_[i].rule;
            return true;
        }
    }
    return false;
}

// ByteLevel, alone or behind a Split or Digits.
static inline bool byte_level_read_(Tokenizer *t, const Json *node, const char *path, Error *e) {
    const Json *list = json_get(node, "pretokenizers"), *before = NULL;
    bool ok = true;
    if (json_has_type_(node, "Sequence") && list && list->kind == JSON_ARRAY && list->length == 1) {
        node = list->child;
    } else if (json_has_type_(node, "Sequence") && list && list->kind == JSON_ARRAY &&
               list->length == 2) {
        before = list->child;
        node = before->next;
    }
    const Json *regex = json_get(node, "use_regex");
    ok = json_has_type_(node, "ByteLevel") && json_get(node, "add_prefix_space") &&
         json_get(node, "add_prefix_space")->kind == JSON_BOOL &&
         (!regex || regex->kind == JSON_BOOL);
    bool splits = ok && !json_is_bool_(regex, false);
    t->prefix_space = ok && json_get(node, "add_prefix_space")->boolean;
    if (before && json_has_type_(before, "Digits") &&
        json_is_bool_(json_get(before, "individual_digits"), true)) {
        t->split = SPLIT_GPT2_DIGITS_;
        ok = ok && splits && !t->prefix_space;
    } else if (before) {
        ok = ok && json_has_type_(before, "Split") && !splits && !t->prefix_space &&
             split_read_(t, before);
    } else {
        ok = ok && splits;
    }
    return ok || fail(e,
                      "%s: this pre_tokenizer would give other ids here: it must be ByteLevel with "
                      "use_regex true, or "
                      "Digits with individual_digits before it, or a Split by the expression of "
                      "GPT-2, GPT-4 or "
                      "Qwen 2 before it and use_regex false",
                      path);
}

static inline bool decoder_read_(Tokenizer *t, const Json *node, int depth, const char *path,
                                 Error *e) {
    const Json *list = json_get(node, "decoders");
    if (json_has_type_(node, "Sequence") && list && list->kind == JSON_ARRAY && depth < 4) {
        for (const Json *child = list->child; child; child = child->next) {
            if (!decoder_read_(t, child, depth + 1, path, e)) {
                return false;
            }
        }
        return true;
    }
    if (t->decode_step_count == MAX_STEPS_) {
        return fail(e, "%s: its decoder has more than %d steps", path, MAX_STEPS_);
    }
    DecodeStep_ *step = &t->decode_steps[t->decode_step_count];
    bool fused = false, bytes = false;
    for (size_t i = 0; i < t->decode_step_count; i++) {
        fused |= t->decode_steps[i].operation == DECODE_FUSE_;
        bytes |= t->decode_steps[i].operation == DECODE_BYTES_;
    }
    t->decode_step_count++;
    *step = (DecodeStep_){.fused = fused};
    if (json_has_type_(node, "Fuse")) {
        step->operation = DECODE_FUSE_;
        return true;
    }
    if (json_has_type_(node, "ByteFallback") && !bytes && !fused) {
        step->operation = DECODE_BYTES_;
        return true;
    }
    if (json_has_type_(node, "Metaspace") && !fused) {
        Tokenizer read = {0};
        if (!metaspace_read_(&read, node, path, e)) {
            return false;
        }
        *step = (DecodeStep_){DECODE_METASPACE_, .pattern_length = read.replacement_length,
                              .keeps_first = read.prepend == PREPEND_NEVER_};
        memcpy(step->pattern, read.replacement, read.replacement_length);
        return true;
    }
    if (json_has_type_(node, "Strip")) {
        uint64_t start, stop;
        step->operation = DECODE_STRIP_;
        if (!step_text_(step->pattern, &step->pattern_length, json_get(node, "content"),
                        "the content of Strip", path, e)) {
            return false;
        }
        if (json_uint(json_get(node, "start"), &start) &&
            json_uint(json_get(node, "stop"), &stop) && step->pattern_length &&
            utf8_decode(step->pattern, step->pattern_length, NULL) == step->pattern_length &&
            (!fused || stop == 0)) {
            step->start = (size_t)start, step->stop = (size_t)stop;
            return true;
        }
    }
    if (json_has_type_(node, "Replace")) {
        const char *expression;
        if (!replace_read_(node, step->pattern, &step->pattern_length, step->content,
                           &step->content_length, &expression, path, e)) {
            return false;
        }
        step->operation = DECODE_REPLACE_;
        if (!expression && !fused) {
            return true;
        }
        if (expression && !strcmp(expression, "(?<!\\n)^ ") && step->content_length == 0) {
            *step = (DecodeStep_){DECODE_STRIP_, .pattern = " ", .pattern_length = 1, .start = 1,
                                  .fused = fused};
            return true;
        }
    }
    const char *type = json_string(json_get(node, "type"));
    return fail(e,
                "%s: the decoder's step %zu, %.40s, is not supported: a Sequence of ByteFallback, "
                "Metaspace, Strip, "
                "Replace (of a text, of \"(?<!\\n)^ \") and Fuse is, where after Fuse only the "
                "beginning is stripped",
                path, t->decode_step_count, type ? type : "without a type");
}

// A post-processor only adds special tokens, which no text here gets, or moves offsets.
static inline bool post_processor_is_known_(const Json *post) {
    static const char *const known[] = {"ByteLevel", "TemplateProcessing", "RobertaProcessing",
                                        "BertProcessing", "Sequence"};
    bool found = json_absent_(post);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        found |= json_has_type_(post, known[i]);
    }
    return found;
}

// ------------------------------------------------------------------------------------------------
// Load: tokenizer.json, the model

// Checks that the ids of {token: id} are 0 .. count - 1, each once, and files the tokens by id and
// by text; leaves room for `more` tokens.
static inline bool vocabulary_read_(Vocabulary_ *v, const Json *vocab, size_t more,
                                    const char *path, Error *e) {
    if (!vocab || vocab->kind != JSON_OBJECT || vocab->length == 0) {
        return fail(e, "%s: the vocabulary must be an object {token: id}", path);
    }
    size_t count = vocab->length, entry = 0;
    if (!vocabulary_reserve_(v, count, more, path, e)) {
        return false;
    }
    for (const Json *token = vocab->child; token; token = token->next, entry++) {
        FileText_ text = {token->key, token->key_length};
        uint64_t id;
        if (text.length == 0 || memchr(text.text, 0, text.length)) {
            return fail(e, "%s: vocabulary entry %zu is empty or holds a NUL character", path,
                        entry);
        }
        if (!json_uint(token, &id) || id >= count) {
            return fail(e,
                        "%s: vocabulary entry %zu: the ids of %zu tokens must be 0 to %zu without "
                        "holes, not %.20s",
                        path, entry, count, count - 1,
                        token->kind == JSON_NUMBER ? token->text : "another value");
        }
        if (v->tokens[id].text || vocabulary_find_(v, text) >= 0) {
            return fail(e, "%s: vocabulary entry %zu repeats %s", path, entry,
                        v->tokens[id].text ? "an id" : "a token");
        }
        vocabulary_add_(v, text, id);
    }
    return true;
}

// Adds the token that a file writes as `text`: mapped back through the byte alphabet, or as it is
// if a character of it stands for no byte.
static inline bool tokenizer_add_text_(Tokenizer *t, const ByteAlphabet_ *alphabet, FileText_ text,
                                       Error *e) {
    char *bytes = malloc(text.length);
    size_t count = 0;
    bool verbatim = false;
    if (!bytes) {
        return fail(e, "tokenizer: no memory for a token of %zu bytes", text.length);
    }
    for (size_t i = 0, n; i < text.length && !verbatim; i += n) {
        uint32_t c = 0;
        n = utf8_decode(text.text + i, text.length - i, &c);
        verbatim =
            n == 0 || c >= sizeof alphabet->byte / sizeof *alphabet->byte || alphabet->byte[c] < 0;
        if (!verbatim) {
            bytes[count++] = (char)alphabet->byte[c];
        }
    }
    bool ok = tokenizer_add_token_(t, verbatim ? text.text : bytes, verbatim ? text.length : count,
                                   verbatim, e);
    free(bytes);
    return ok;
}

static inline bool tokenizer_set_vocabulary_(Tokenizer *t, const ByteAlphabet_ *alphabet,
                                             const Vocabulary_ *v, size_t count, Error *e) {
    for (size_t id = 0; id < count; id++) {
        if (!tokenizer_add_text_(t, alphabet, v->tokens[id], e)) {
            return false;
        }
    }
    t->model_size = t->vocab_size;
    return true;
}

// Adds the merge of the tokens `a` and `b`, checked. `index` is where it stands, for error lines.
static inline bool merge_read_(Tokenizer *t, const Vocabulary_ *v, FileText_ a, FileText_ b,
                               const char *path, size_t index, Error *e) {
    Merge merge = {vocabulary_find_(v, a), vocabulary_find_(v, b),
                   (int32_t)*vocabulary_slot_(v, a, b) - 1};
    if (merge.left < 0 || merge.right < 0 || merge.result < 0) {
        return fail(e, "%s: merge %zu: its %s is not in the vocabulary", path, index,
                    merge.left < 0    ? "first part"
                    : merge.right < 0 ? "second part"
                                      : "result");
    }
    if (t->tokens[merge.result].verbatim) {
        return fail(e, "%s: merge %zu has a character outside the byte alphabet", path, index);
    }
    if (t->merge_count == TOKENIZER_MAX_MERGES) {
        return fail(e, "%s: more than %d merges", path, TOKENIZER_MAX_MERGES);
    }
    return tokenizer_add_merge_(t, merge, e);
}

// A merge written "a b", or the version line, which has no rank.
static inline bool merge_read_line_(Tokenizer *t, const Vocabulary_ *v, FileText_ line,
                                    const char *path, size_t index, Error *e) {
    const char *space = memchr(line.text, ' ', line.length);
    if (line.length >= 8 && !memcmp(line.text, "#version", 8)) {
        return true;
    }
    size_t left = space ? (size_t)(space - line.text) : 0, right = line.length - left - 1;
    if (!space || memchr(space + 1, ' ', right)) {
        return fail(e, "%s: merge %zu must be two tokens with one space between", path, index);
    }
    return merge_read_(t, v, (FileText_){line.text, left}, (FileText_){space + 1, right}, path,
                       index, e);
}

// "merges" of a tokenizer.json: strings "a b" or pairs ["a", "b"].
static inline bool merges_read_json_(Tokenizer *t, const Vocabulary_ *v, const Json *merges,
                                     const char *path, Error *e) {
    size_t index = 0;
    if (!merges || merges->kind != JSON_ARRAY) {
        return fail(e, "%s: model.merges must be an array", path);
    }
    for (const Json *m = merges->child; m; m = m->next, index++) {
        const Json *a = m->kind == JSON_ARRAY && m->length == 2 ? m->child : NULL,
                   *b = a ? a->next : NULL;
        bool ok;
        if (m->kind == JSON_STRING) {
            ok = merge_read_line_(t, v, (FileText_){m->text, m->length}, path, index, e);
        } else if (a && a->kind == JSON_STRING && b->kind == JSON_STRING) {
            ok = merge_read_(t, v, (FileText_){a->text, a->length}, (FileText_){b->text, b->length},
                             path, index, e);
        } else {
            ok = fail(e, "%s: merge %zu must be \"a b\" or [\"a\", \"b\"]", path, index);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

// The number as `tokenizers` reads it (serde_json without exact rounding): 64 bits of digits, then
// one division or product by a power of ten. It may differ from the nearest double in the last bit,
// which decides ties.
static inline double serde_double_(const char *text) {
    static const int limit = 100000; // beyond any exponent that matters
    bool negative = *text == '-';
    uint64_t digits = 0;
    int exponent = 0, written = 0;
    bool full = false;
    text += negative;
    for (; *text >= '0' && *text <= '9'; text++) {
        uint64_t more;
        full |= __builtin_mul_overflow(digits, 10, &more) ||
                __builtin_add_overflow(more, (uint64_t)(*text - '0'), &more);
        digits = full ? digits : more;
        exponent += full && exponent < limit;
    }
    full = false;
    for (text += *text == '.'; *text >= '0' && *text <= '9'; text++) {
        uint64_t more;
        full |= __builtin_mul_overflow(digits, 10, &more) ||
                __builtin_add_overflow(more, (uint64_t)(*text - '0'), &more);
        digits = full ? digits : more;
        exponent -= !full && exponent > -limit;
    }
    if (*text == 'e' || *text == 'E') {
        bool down = text[1] == '-';
        for (text += 1 + (text[1] == '-' || text[1] == '+'); *text >= '0' && *text <= '9'; text++) {
            written = written < limit ? 10 * written + (*text - '0') : written;
        }
        exponent += down ? -written : written;
    }
    double value = (double)digits;
    for (; value != 0.0 && (exponent > 308 || exponent < -308);
         exponent += exponent < 0 ? 308 : -308) {
        value = exponent < 0 ? value / 1e308 : value * 1e308;
        if (isinf(value)) {
            return value;
        }
    }
    if (value != 0.0) {
        double power = strtod((char[]){'1', 'e', (char)('0' + abs(exponent) / 100),
                                       (char)('0' + abs(exponent) / 10 % 10),
                                       (char)('0' + abs(exponent) % 10), 0},
                              NULL);
        value = exponent < 0 ? value / power : value * power;
    }
    return negative ? -value : value;
}

// "vocab" of a Unigram model: [[piece, score], ...]; the index is the id. Of a repeated piece the
// last one counts.
static inline bool unigram_read_(Tokenizer *t, Vocabulary_ *v, const Json *model, size_t more,
                                 const char *path, Error *e) {
    const Json *vocab = json_get(model, "vocab"), *fallback = json_get(model, "byte_fallback");
    uint64_t unknown;
    double lowest = INFINITY;
    if (!vocab || vocab->kind != JSON_ARRAY || vocab->length == 0) {
        return fail(e, "%s: the vocabulary must be an array of [piece, score]", path);
    }
    if (!vocabulary_reserve_(v, vocab->length, more, path, e)) {
        return false;
    }
    if (!json_uint(json_get(model, "unk_id"), &unknown) || unknown >= vocab->length) {
        return fail(
            e,
            "%s: unk_id must be an id below %zu: without one, text of other characters has no ids",
            path, vocab->length);
    }
    t->scores = malloc(vocab->length * sizeof *t->scores);
    if (!t->scores) {
        return fail(e, "%s: no memory for %zu scores", path, vocab->length);
    }
    for (const Json *entry = vocab->child; entry; entry = entry->next) {
        const Json *piece = entry->kind == JSON_ARRAY && entry->length == 2 ? entry->child : NULL;
        const Json *score = piece ? piece->next : NULL;
        size_t id = t->vocab_size;
        if (!json_string(piece) || piece->length == 0 || score->kind != JSON_NUMBER) {
            return fail(e,
                        "%s: vocabulary entry %zu must be [piece, score], the piece not empty and "
                        "without NUL",
                        path, id);
        }
        t->scores[id] = serde_double_(score->text);
        if (!isfinite(t->scores[id])) {
            return fail(e, "%s: vocabulary entry %zu: its score %.40s is out of range", path, id,
                        score->text);
        }
        lowest = t->scores[id] < lowest ? t->scores[id] : lowest;
        if (!tokenizer_add_token_(t, piece->text, piece->length, false, e)) {
            return false;
        }
        vocabulary_add_(v, (FileText_){piece->text, piece->length}, id);
    }
    t->model = MODEL_UNIGRAM;
    t->unknown = (int32_t)unknown;
    t->unknown_score = lowest - 10.0;
    t->byte_fallback = json_is_bool_(fallback, true);
    t->model_size = t->vocab_size;
    return json_absent_(fallback) || fallback->kind == JSON_BOOL ||
           fail(e, "%s: model.byte_fallback must be true or false", path);
}

// Unigram: the parts around the model.
static inline bool unigram_parts_read_(Tokenizer *t, const Json *root, const char *path, Error *e) {
    const Json *normalizer = json_get(root, "normalizer"), *pre = json_get(root, "pre_tokenizer");
    const Json *decoder = json_get(root, "decoder"), *list = json_get(pre, "pretokenizers");
    if (json_has_type_(pre, "Sequence") && list && list->kind == JSON_ARRAY && list->length == 1) {
        pre = list->child;
    }
    if (!json_absent_(pre) && !json_has_type_(pre, "Metaspace")) {
        return fail(e,
                    "%s: this pre_tokenizer would give other ids here: that of a Unigram model "
                    "must be null or "
                    "Metaspace",
                    path);
    }
    t->joins_with_spaces = json_absent_(decoder);
    return (json_absent_(normalizer) || normalizer_read_(t, normalizer, 0, path, e)) &&
           (json_absent_(pre) || metaspace_read_(t, pre, path, e)) &&
           (json_absent_(decoder) || decoder_read_(t, decoder, 0, path, e));
}

// Byte-level BPE: refuses every setting that would give other ids. unk_token, fuse_unk and
// byte_fallback have no effect where all 256 bytes are in the vocabulary.
static inline bool byte_bpe_parts_read_(Tokenizer *t, const Json *root, const char *path,
                                        Error *e) {
    const Json *model = json_get(root, "model"), *dropout = json_get(model, "dropout");
    const Json *prefix = json_get(model, "continuing_subword_prefix");
    const Json *suffix = json_get(model, "end_of_word_suffix"),
               *ignore = json_get(model, "ignore_merges");
    double rate;
    const char *wrong = NULL;
    if (!json_absent_(json_get(root, "normalizer"))) {
        wrong = "its normalizer would give other ids here: that of byte-level BPE must be null";
    } else if (!json_has_type_(json_get(root, "decoder"), "ByteLevel")) {
        wrong = "decoder must be ByteLevel (of BPE models, byte-level ones are supported)";
    } else if (!json_absent_(dropout) && !(json_double(dropout, &rate) && rate == 0.0)) {
        wrong = "model.dropout must be null: ids would be random";
    } else if ((!json_absent_(prefix) && (prefix->kind != JSON_STRING || prefix->length)) ||
               (!json_absent_(suffix) && (suffix->kind != JSON_STRING || suffix->length))) {
        wrong = "model.continuing_subword_prefix and end_of_word_suffix must be empty";
    } else if (!json_absent_(ignore) && ignore->kind != JSON_BOOL) {
        wrong = "model.ignore_merges must be true or false";
    }
    t->ignore_merges = json_is_bool_(ignore, true);
    return wrong ? fail(e, "%s: %s", path, wrong)
                 : byte_level_read_(t, json_get(root, "pre_tokenizer"), path, e);
}

// One entry of "added_tokens". Its id must be the one that Hugging Face gives it whatever the file
// says: the vocabulary's if its text is there, else the next free one.
static inline bool added_read_(Tokenizer *t, const ByteAlphabet_ *alphabet, Vocabulary_ *v,
                               const Json *entry, size_t index, const char *path, Error *e) {
    const Json *content = json_get(entry, "content");
    uint64_t id;
    if (!json_string(content) || content->length == 0 || content->length > 1000) {
        return fail(e, "%s: added token %zu: content must be 1 to 1000 bytes without NUL", path,
                    index);
    }
    FileText_ text = {content->text, content->length};
    int32_t known = vocabulary_find_(v, text);
    size_t expected = known >= 0 ? (size_t)known : t->vocab_size;
    if (known >= 0 && t->tokens[known].added) {
        return fail(e, "%s: added token %zu is there twice", path, index);
    }
    if (!json_uint(json_get(entry, "id"), &id) || id != expected) {
        return fail(e, "%s: added token %zu: its id must be %zu (%s)", path, index, expected,
                    known >= 0 ? "as in the vocabulary"
                               : "the next after the vocabulary, without holes");
    }
    AddedToken added = {.text = (char *)text.text,
                        .length = text.length,
                        .id = (int32_t)expected,
                        .special = json_is_bool_(json_get(entry, "special"), true),
                        .normalized = json_is_bool_(json_get(entry, "normalized"), true),
                        .left_strip = json_is_bool_(json_get(entry, "lstrip"), true),
                        .right_strip = json_is_bool_(json_get(entry, "rstrip"), true),
                        .single_word = json_is_bool_(json_get(entry, "single_word"), true)};
    TextBuffer normalized = {0}, other = {0};
    bool ok = true;
    if (added.normalized &&
        t->step_count) { // it is looked for, and decoded, as the normalizer leaves it
        ok = normalize_steps_(t, text.text, text.length, TEXT_WHOLE, &normalized, &other, e) &&
             (normalized.length ||
              fail(e, "%s: added token %zu: the normalizer leaves nothing of it", path, index));
        added.text = normalized.data;
        added.length = normalized.length;
    }
    if (ok && known < 0) {
        vocabulary_add_(v, text, expected);
        ok = t->model == MODEL_BYTE_BPE ? tokenizer_add_text_(t, alphabet, text, e)
                                        : tokenizer_add_token_(t, text.text, text.length, false, e);
    }
    if (ok && normalized.length) {
        ok = array_reserve(&t->bytes, &t->byte_capacity, t->byte_count, normalized.length, 1, e);
        memcpy(t->bytes + t->byte_count, normalized.data, ok ? normalized.length : 0);
        t->tokens[expected].decoded = t->byte_count;
        t->tokens[expected].decoded_length = normalized.length;
        t->byte_count += normalized.length;
    }
    ok = ok && tokenizer_add_added_(t, added, e);
    free(normalized.data);
    free(other.data);
    return ok;
}

static inline bool tokenizer_read_json_(Tokenizer *t, Vocabulary_ *v, const Json *root,
                                        const char *path, Error *e) {
    const Json *model = json_get(root, "model"), *added = json_get(root, "added_tokens");
    ByteAlphabet_ alphabet = byte_alphabet_();
    size_t index = 0, more = added && added->kind == JSON_ARRAY ? added->length : 0;
    bool unigram = json_has_type_(model, "Unigram");
    if (!model) {
        return fail(e, "%s: a tokenizer.json is an object with a \"model\"", path);
    }
    if (json_get(model, "type") && !unigram && !json_has_type_(model, "BPE")) {
        return fail(e, "%s: model.type must be \"BPE\" (byte-level) or \"Unigram\"", path);
    }
    if (!json_absent_(added) && added->kind != JSON_ARRAY) {
        return fail(e, "%s: added_tokens must be an array", path);
    }
    if (!post_processor_is_known_(json_get(root, "post_processor"))) {
        return fail(e, "%s: post_processor is of no known type", path);
    }
    t->classes = character_classes_(e);
    bool ok = t->classes != NULL;
    if (unigram) {
        ok = ok && unigram_parts_read_(t, root, path, e) &&
             unigram_read_(t, v, model, more, path, e);
    } else {
        const Json *vocab = json_get(model, "vocab");
        ok = ok && byte_bpe_parts_read_(t, root, path, e) &&
             vocabulary_read_(v, vocab, more, path, e) &&
             tokenizer_set_vocabulary_(t, &alphabet, v, vocab->length, e) &&
             merges_read_json_(t, v, json_get(model, "merges"), path, e);
    }
    for (const Json *entry = ok && added ? added->child : NULL; entry && ok;
         entry = entry->next, index++) {
        ok = added_read_(t, &alphabet, v, entry, index, path, e);
    }
    return ok && tokenizer_index_(t, path, e);
}

// vocab.json, parsed, and the text of merges.txt. `end_text` becomes an added token, as
// transformers makes it one.
static inline bool tokenizer_read_pair_(Tokenizer *t, Vocabulary_ *v, const Json *vocab,
                                        const char *vocab_path, FileText_ merges,
                                        const char *merges_path, const char *end_text, Error *e) {
    ByteAlphabet_ alphabet = byte_alphabet_();
    size_t index = 0;
    if (!vocabulary_read_(v, vocab, 0, vocab_path, e) ||
        !tokenizer_set_vocabulary_(t, &alphabet, v, vocab->length, e)) {
        return false;
    }
    for (const char *line = merges.text, *end = line + merges.length; line < end; index++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((newline ? newline : end) - line);
        size_t kept = n && line[n - 1] == '\r' ? n - 1 : n;
        if (kept && !merge_read_line_(t, v, (FileText_){line, kept}, merges_path, index, e)) {
            return false;
        }
        line += n + (newline != NULL);
    }
    int32_t id = vocabulary_find_(v, (FileText_){end_text, strlen(end_text)});
    AddedToken added = {(char *)end_text, strlen(end_text), id, .special = true};
    return (id < 0 || tokenizer_add_added_(t, added, e)) && tokenizer_index_(t, vocab_path, e);
}

// ------------------------------------------------------------------------------------------------
// Load: SentencePiece .model, a bare protobuf ModelProto

// What a .model says besides its pieces.
typedef struct {
    uint64_t type;             // 1 Unigram, 2 BPE, 3 words, 4 characters
    FileText_ begin, end, pad; // pieces
    FileText_ charsmap;
    bool denormalizes;
    size_t score_capacity;
} ModelFile_;

static inline bool piece_read_(Tokenizer *t, ModelFile_ *m, FileText_ message, const char *path,
                               Error *e) {
    ProtobufReader w = protobuf_reader(message.text, message.length);
    FileText_ piece = {"", 0};
    float score = 0;
    uint64_t kind = PIECE_NORMAL_;
    size_t id = t->vocab_size;
    while (protobuf_next(&w)) {
        if (w.field == 1 && w.wire == 2) {
            piece = (FileText_){w.bytes, w.length};
        } else if (w.field == 2 && w.wire == 5) {
            uint32_t bits = (uint32_t)w.number;
            memcpy(&score, &bits, sizeof score);
        } else if (w.field == 3 && w.wire == 0 && w.number >= PIECE_NORMAL_ &&
                   w.number <= PIECE_BYTE_) {
            kind = w.number;
        }
    }
    size_t well_formed = 0;
    for (size_t n = 1; n && well_formed < piece.length; well_formed += n) {
        n = utf8_decode(piece.text + well_formed, piece.length - well_formed, NULL);
    }
    const char *wrong = w.damaged                             ? "is damaged"
                        : piece.length == 0                   ? "is empty"
                        : memchr(piece.text, 0, piece.length) ? "holds a NUL character"
                        : well_formed != piece.length         ? "is not UTF-8"
                        : !isfinite(score)                    ? "has a score that is not finite"
                        : id == TOKENIZER_MAX_VOCAB ? "is one too many: 2097151 are supported"
                                                    : NULL;
    if (wrong) {
        return fail(e, "%s: piece %zu %s", path, id, wrong);
    }
    if (!array_reserve(&t->scores, &m->score_capacity, id, 1, sizeof *t->scores, e) ||
        !tokenizer_add_token_(t, piece.text, piece.length, false, e)) {
        return false;
    }
    t->scores[id] = (double)score;
    t->tokens[id].kind = (uint8_t)kind;
    return true;
}

static inline void trainer_spec_read_(Tokenizer *t, ModelFile_ *m, ProtobufReader *w) {
    while (protobuf_next(w)) {
        if (w->wire == 0 && w->field == 3 && w->number >= 1 && w->number <= 4) {
            m->type = w->number;
        } else if (w->wire == 0 && w->field == 24) {
            t->space_suffix = w->number != 0;
        } else if (w->wire == 0 && w->field == 35) {
            t->byte_fallback = w->number != 0;
        } else if (w->wire == 2 && w->field == 44) {
            // A longer one than there is room for is refused by model_check_.
            t->unknown_surface_length = w->length;
            memcpy(t->unknown_surface, w->bytes,
                   w->length < sizeof t->unknown_surface ? w->length : sizeof t->unknown_surface);
        } else if (w->wire == 2 && w->field >= 46 && w->field <= 48 && w->length) {
            *(w->field == 46   ? &m->begin
              : w->field == 47 ? &m->end
                               : &m->pad) = (FileText_){w->bytes, w->length};
        }
    }
}

static inline void normalizer_spec_read_(Tokenizer *t, ModelFile_ *m, ProtobufReader *w) {
    while (protobuf_next(w)) {
        if (w->wire == 2 && w->field == 2) {
            m->charsmap = (FileText_){w->bytes, w->length};
        } else if (w->wire == 0 && w->field == 3) {
            t->dummy_prefix = w->number != 0;
        } else if (w->wire == 0 && w->field == 4) {
            t->collapse_spaces = w->number != 0;
        } else if (w->wire == 0 && w->field == 5) {
            t->escape_spaces = w->number != 0;
        }
    }
}

static inline bool model_read_(Tokenizer *t, ModelFile_ *m, FileText_ file, const char *path,
                               Error *e) {
    ProtobufReader w = protobuf_reader(file.text, file.length);
    bool damaged = false;
    while (protobuf_next(&w) && !damaged) {
        if (w.wire != 2) {
            continue;
        }
        ProtobufReader inner = protobuf_reader(w.bytes, w.length);
        if (w.field == 1 && !piece_read_(t, m, (FileText_){w.bytes, w.length}, path, e)) {
            return false;
        }
        if (w.field == 2) {
            trainer_spec_read_(t, m, &inner);
        } else if (w.field == 3) {
            normalizer_spec_read_(t, m, &inner);
        } else if (w.field == 5) {
            Tokenizer ignored = {0};
            ModelFile_ denormalizer = {0};
            normalizer_spec_read_(&ignored, &denormalizer, &inner);
            m->denormalizes |= denormalizer.charsmap.length > 0;
        }
        damaged = inner.damaged;
    }
    return (!w.damaged && !damaged && t->vocab_size > 0) ||
           fail(e, "%s: is no SentencePiece model, or a damaged one (byte %zu)", path,
                (size_t)((const char *)w.at - file.text));
}

// Is this piece matched by text, so that it lives in the one name space of sentencepiece, or in
// that of the others?
static inline bool is_text_piece_(const Token *token) {
    return token->kind == PIECE_NORMAL_ || token->kind == PIECE_USER_ ||
           token->kind == PIECE_UNUSED_;
}

// Files the pieces by name and refuses what sentencepiece refuses: a repeated piece, bytes that are
// wrong or missing, not exactly one unknown piece. With BPE and characters, also a piece that is
// spelled like a control piece: there sentencepiece gives the control piece's id to text, or no ids
// at all.
static inline bool model_names_(Tokenizer *t, Vocabulary_ *v, const char *path, Error *e) {
    bool found[256] = {false};
    if (!vocabulary_reserve_(v, t->model_size, 0, path, e)) {
        return false;
    }
    for (int text_pieces = 0; text_pieces < 2; text_pieces++) {
        for (size_t id = 0; id < t->model_size; id++) {
            const Token *token = &t->tokens[id];
            FileText_ name = {t->bytes + token->offset, token->length};
            int32_t known = is_text_piece_(token) == text_pieces ? vocabulary_find_(v, name) : -1;
            bool reserved = known >= 0 && !is_text_piece_(&t->tokens[known]);
            if (known >= 0 && (reserved == !text_pieces || t->model != MODEL_UNIGRAM)) {
                return fail(e, "%s: piece %zu is spelled like piece %d", path, id, (int)known);
            }
            if (is_text_piece_(token) == text_pieces && known < 0) {
                vocabulary_add_(v, name, id);
            }
        }
    }
    for (size_t id = 0; id < t->model_size; id++) {
        const Token *token = &t->tokens[id];
        const char *text = t->bytes + token->offset;
        int16_t byte = token->kind == PIECE_BYTE_ ? piece_byte_(text, token->length, false) : -1;
        if (token->kind == PIECE_BYTE_ && (byte < 0 || !t->byte_fallback)) {
            return fail(
                e,
                "%s: piece %zu of type BYTE must be written <0xNN>, in a model with byte_fallback",
                path, id);
        }
        if (byte >= 0) {
            found[byte] = true;
        }
        if (token->kind == PIECE_UNKNOWN_ && t->unknown >= 0) {
            return fail(e, "%s: pieces %d and %zu are both of type UNKNOWN", path, (int)t->unknown,
                        id);
        }
        t->unknown = token->kind == PIECE_UNKNOWN_ ? (int32_t)id : t->unknown;
        if (token->kind == PIECE_CONTROL_ && t->model != MODEL_UNIGRAM &&
            character_length_(text, token->length) == token->length) {
            return fail(e,
                        "%s: control piece %zu is one character: sentencepiece gives no ids for "
                        "text with it",
                        path, id);
        }
    }
    for (int b = 0; b < 256 && t->byte_fallback; b++) {
        if (!found[b]) {
            return fail(e, "%s: has byte_fallback, but no piece <0x%02X>", path, b);
        }
    }
    return t->unknown >= 0 || fail(e, "%s: has no piece of type UNKNOWN", path);
}

// Unigram: the score of an unknown character; and of a user-defined piece, which is to win against
// others: 0.1 for each byte but the first (measured with release 0.2.3; up to 0.2.1 it was about
// -0.1 whatever the length).
static inline void model_scores_(Tokenizer *t) {
    float lowest = FLT_MAX;
    for (size_t id = 0; id < t->model_size; id++) {
        float score = (float)t->scores[id];
        lowest = t->tokens[id].kind == PIECE_NORMAL_ && score < lowest ? score : lowest;
        if (t->tokens[id].kind == PIECE_USER_ && t->model == MODEL_UNIGRAM) {
            t->scores[id] = (double)(float)((double)t->tokens[id].length * 0.1 - 0.1);
        }
    }
    t->unknown_score = (double)(lowest - 10.0f);
}

static inline int32_t control_piece_(const Tokenizer *t, const Vocabulary_ *v, FileText_ name) {
    int32_t id = vocabulary_find_(v, name);
    return id >= 0 && t->tokens[id].kind == PIECE_CONTROL_ ? id : -1;
}

// Reads t->source. Takes the text of the end-of-document piece where *end_text is NULL.
static inline bool tokenizer_read_model_(Tokenizer *t, Vocabulary_ *v, const char *path,
                                         const char **end_text, char end_name[STEP_TEXT_],
                                         Error *e) {
    static const char surface[] = " \xE2\x81\x87 ";
    ModelFile_ m = {.type = 1, .begin = {"<s>", 3}, .end = {"</s>", 4}, .pad = {"<pad>", 5}};
    t->sentencepiece = t->dummy_prefix = t->collapse_spaces = t->escape_spaces = true;
    memcpy(t->unknown_surface, surface, sizeof surface);
    t->unknown_surface_length = sizeof surface - 1;
    if (!model_read_(t, &m, (FileText_){t->source, t->source_length}, path, e)) {
        return false;
    }
    t->model_size = t->vocab_size;
    t->model = m.type == 1 ? MODEL_UNIGRAM : m.type == 2 ? MODEL_PIECE_BPE : MODEL_CHARACTER;
    if (m.type == 3) {
        return fail(e, "%s: model_type WORD is not supported: UNIGRAM, BPE and CHAR are", path);
    }
    if (m.denormalizes) {
        return fail(e, "%s: its denormalizer_spec has rules: text would decode otherwise here",
                    path);
    }
    if (t->unknown_surface_length >= sizeof t->unknown_surface || m.end.length >= STEP_TEXT_) {
        return fail(e, "%s: unk_surface or eos_piece is longer than %d bytes", path,
                    STEP_TEXT_ - 1);
    }
    if (!model_names_(t, v, path, e) ||
        (m.charsmap.length &&
         !charsmap_read_(&t->charsmap, m.charsmap.text, m.charsmap.length, path, e))) {
        return false;
    }
    model_scores_(t);
    t->begin = control_piece_(t, v, m.begin);
    t->pad = control_piece_(t, v, m.pad);
    if (!*end_text && control_piece_(t, v, m.end) >= 0) {
        memcpy(end_name, m.end.text, m.end.length);
        end_name[m.end.length] = 0;
        *end_text = end_name;
    }
    return tokenizer_index_(t, path, e);
}

// ------------------------------------------------------------------------------------------------
// Load: which files

// What is being loaded, all of which ends with the call.
typedef struct {
    JsonDocument document, config;
    Vocabulary_ vocabulary;
    char *merges;
    char directory[4096], path[4096]; // of the files; the one that is read
    char end_name[STEP_TEXT_];
    const char *end_text; // NULL: not known yet
} Loading_;

// The text of a role in tokenizer_config.json: a string or {"content": string}; NULL if it is not
// there.
static inline bool config_token_(const Loading_ *l, const char *role, const char **text, Error *e) {
    const Json *node = json_get(l->config.root, role);
    *text = NULL;
    if (json_absent_(node)) {
        return true;
    }
    *text = json_string(node->kind == JSON_OBJECT ? json_get(node, "content") : node);
    return (*text && **text) ||
           fail(e, "%s/tokenizer_config.json: %s must be a string", l->directory, role);
}

static inline bool config_read_(Loading_ *l, Error *e) {
    char path[4096];
    return path_join_(path, l->directory, "tokenizer_config.json", e) &&
           (access(path, F_OK) || json_parse_file(&l->config, path, TOKENIZER_MAX_FILE_, e)) &&
           config_token_(l, "eos_token", &l->end_text, e);
}

// The only *.model file of a directory, in l->path; *count is how many there are.
static inline bool find_model_(Loading_ *l, size_t *count, Error *e) {
    DIR *directory = opendir(l->directory);
    *count = 0;
    if (!directory) {
        return fail(e, "%s: cannot be read: %s", l->directory, strerror(errno));
    }
    for (const struct dirent *entry; (entry = readdir(directory));) {
        size_t n = strlen(entry->d_name);
        if (n > 6 && !strcmp(entry->d_name + n - 6, ".model") && ++*count == 1 &&
            !path_join_(l->path, l->directory, entry->d_name, e)) {
            closedir(directory);
            return false;
        }
    }
    closedir(directory);
    return true;
}

// Path of the file that says the ids in a folder that tokenizer_save made: tokenizer.model if there
// is one, else tokenizer.json. Its hash is the tokenizer's in manifests and logs.
static inline bool tokenizer_main_file(char path[4096], const char *directory, Error *e) {
    return path_join_(path, directory, "tokenizer.model", e) &&
           (!access(path, F_OK) || path_join_(path, directory, "tokenizer.json", e));
}

typedef enum { FILE_JSON_, FILE_PAIR_, FILE_MODEL_ } FileKind_;

// Chooses the file to read. In a directory: tokenizer.model, else tokenizer.json, else vocab.json
// with merges.txt, else the one *.model.
static inline bool choose_file_(Loading_ *l, const char *path, FileKind_ *kind, Error *e) {
    static const struct {
        const char *name;
        FileKind_ kind;
    } files[] = {{"tokenizer.model", FILE_MODEL_},
                 {"tokenizer.json", FILE_JSON_},
                 {"vocab.json", FILE_PAIR_}};
    struct stat status;
    size_t n = strlen(path), models;
    if (n >= sizeof l->path) {
        return fail(e, "%.200s...: the path is longer than 4095 bytes", path);
    }
    memcpy(l->directory, path, n + 1);
    if (!stat(path, &status) && !S_ISDIR(status.st_mode)) {
        char *slash = strrchr(l->directory, '/');
        memcpy(l->path, path, n + 1);
        strcpy(slash ? slash : l->directory, slash ? "" : ".");
        *kind = n >= 5 && !strcmp(path + n - 5, ".json") ? FILE_JSON_ : FILE_MODEL_;
        return true;
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (!path_join_(l->path, path, files[i].name, e)) {
            return false;
        }
        *kind = files[i].kind;
        if (!access(l->path, F_OK)) {
            return true;
        }
    }
    *kind = FILE_MODEL_;
    if (!find_model_(l, &models, e)) {
        return false;
    }
    return models == 1 || fail(e,
                               "%s: has neither tokenizer.model, tokenizer.json nor vocab.json "
                               "with merges.txt, and %s",
                               path, models ? "more than one *.model" : "no *.model");
}

static inline bool load_json_(Tokenizer *t, Loading_ *l, Error *e) {
    t->source = read_file(l->path, TOKENIZER_MAX_FILE_, &t->source_length, e);
    if (!t->source || !json_parse(&l->document, t->source, t->source_length, l->path, e) ||
        !tokenizer_read_json_(t, &l->vocabulary, l->document.root, l->path, e)) {
        return false;
    }
    if (t->model == MODEL_BYTE_BPE &&
        t->split == SPLIT_GPT2_) { // tokenizer_save can write all of it
        free(t->source);
        t->source = NULL;
    }
    return true;
}

static inline bool load_pair_(Tokenizer *t, Loading_ *l, Error *e) {
    char merges_path[4096];
    size_t length;
    l->end_text = l->end_text ? l->end_text : END_OF_DOCUMENT_TEXT;
    t->prefix_space = json_is_bool_(json_get(l->config.root, "add_prefix_space"), true);
    return path_join_(merges_path, l->directory, "merges.txt", e) &&
           json_parse_file(&l->document, l->path, TOKENIZER_MAX_FILE_, e) &&
           (l->merges = read_file(merges_path, TOKENIZER_MAX_FILE_, &length, e)) &&
           tokenizer_read_pair_(t, &l->vocabulary, l->document.root, l->path,
                                (FileText_){l->merges, length}, merges_path, l->end_text, e);
}

static inline bool load_model_(Tokenizer *t, Loading_ *l, Error *e) {
    t->source = read_file(l->path, TOKENIZER_MAX_FILE_, &t->source_length, e);
    return t->source &&
           tokenizer_read_model_(t, &l->vocabulary, l->path, &l->end_text, l->end_name, e);
}

// The ids of the roles: of end_of_document from eos_token, else the model's end piece, else
// END_OF_DOCUMENT_TEXT.
static inline bool load_roles_(Tokenizer *t, const Loading_ *l, const char *path, Error *e) {
    const struct {
        const char *role;
        int32_t *id;
    } roles[] = {{"bos_token", &t->begin}, {"unk_token", &t->unknown}, {"pad_token", &t->pad}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        const char *text;
        if (!config_token_(l, roles[i].role, &text, e)) {
            return false;
        }
        if (text && *roles[i].id < 0) {
            *roles[i].id = vocabulary_find_(&l->vocabulary, (FileText_){text, strlen(text)});
        }
    }
    const char *end = l->end_text ? l->end_text : END_OF_DOCUMENT_TEXT;
    t->end_of_document = vocabulary_find_(&l->vocabulary, (FileText_){end, strlen(end)});
    return t->end_of_document >= 0 ||
           fail(e,
                "%s: the end-of-document token (eos_token of tokenizer_config.json, else %s) is "
                "not in the vocabulary",
                path, t->sentencepiece ? "the model's eos_piece" : END_OF_DOCUMENT_TEXT);
}

// Reads a tokenizer from a directory or a file:
//   *.model                      SentencePiece, Unigram, BPE or characters; ids as the
//   sentencepiece library gives them,
//                                sums of scores in single precision (release 0.2.3)
//   tokenizer.json               byte-level BPE of GPT-2's kind, or Unigram; ids as Hugging Face
//   `tokenizers` gives them,
//                                sums of scores in double precision
//   vocab.json and merges.txt    byte-level BPE
// A directory may hold several of them: tokenizer.model comes first. The end-of-document token is
// eos_token of tokenizer_config.json beside it, else the model's eos_piece, else <|endoftext|>. The
// files are not trusted: what cannot be used, or would give other ids than the owning library, is
// refused with one line.
static inline bool tokenizer_load(Tokenizer *t, const char *path, Error *e) {
    Loading_ *l = calloc(1, sizeof *l);
    FileKind_ kind = FILE_JSON_;
    *t = (Tokenizer){.begin = -1, .unknown = -1, .pad = -1};
    bool ok = (l || fail(e, "tokenizer: no memory to load %s", path)) &&
              choose_file_(l, path, &kind, e) && config_read_(l, e) &&
              (kind == FILE_JSON_   ? load_json_(t, l, e)
               : kind == FILE_PAIR_ ? load_pair_(t, l, e)
                                    : load_model_(t, l, e)) &&
              load_roles_(t, l, path, e);
    if (l) {
        json_free(&l->document);
        json_free(&l->config);
        vocabulary_free_(&l->vocabulary);
        free(l->merges);
    }
    free(l);
    if (!ok) {
        tokenizer_free(t);
    }
    return ok;
}

// ------------------------------------------------------------------------------------------------
// Save

// Appends the token as files write it.
static inline void token_file_text_(JsonWriter *w, const Tokenizer *t,
                                    const ByteAlphabet_ *alphabet, int32_t id) {
    size_t length;
    const char *bytes = tokenizer_text(t, id, &length);
    if (t->tokens[id].verbatim || t->model != MODEL_BYTE_BPE) {
        json_append(w, bytes, length);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        char character[4];
        json_append(w, character,
                    utf8_encode(alphabet->symbol[(unsigned char)bytes[i]], character));
    }
}

static inline void put_vocabulary_(JsonWriter *w, const char *key, const Tokenizer *t,
                                   const ByteAlphabet_ *alphabet) {
    JsonWriter text = {0};
    json_open(w, key, '{');
    for (size_t id = 0; id < t->model_size; id++) {
        text.length = 0;
        token_file_text_(&text, t, alphabet, (int32_t)id);
        if (!text.failed) {
            json_put_uint(w, text.data, id);
        }
    }
    json_close(w, '}');
    w->failed |= text.failed;
    free(text.data);
}

// Merges as "a b": every version of `tokenizers` reads that form, and no token of a merge has a
// space.
static inline void merge_file_text_(JsonWriter *w, const Tokenizer *t,
                                    const ByteAlphabet_ *alphabet, size_t rank) {
    token_file_text_(w, t, alphabet, t->merges[rank].left);
    json_append(w, " ", 1);
    token_file_text_(w, t, alphabet, t->merges[rank].right);
}

static inline void put_merges_(JsonWriter *w, const Tokenizer *t, const ByteAlphabet_ *alphabet) {
    JsonWriter text = {0};
    json_open(w, "merges", '[');
    for (size_t rank = 0; rank < t->merge_count; rank++) {
        text.length = 0;
        merge_file_text_(&text, t, alphabet, rank);
        if (!text.failed) {
            json_put_text(w, NULL, text.data, text.length);
        }
    }
    json_close(w, ']');
    w->failed |= text.failed;
    free(text.data);
}

static inline void put_added_fields_(JsonWriter *w, const AddedToken *a) {
    json_put_text(w, "content", a->text, a->length);
    json_put_bool(w, "single_word", a->single_word);
    json_put_bool(w, "lstrip", a->left_strip);
    json_put_bool(w, "rstrip", a->right_strip);
    json_put_bool(w, "normalized", a->normalized);
    json_put_bool(w, "special", a->special);
}

static inline void put_byte_level_(JsonWriter *w, const char *key, bool prefix_space) {
    json_open(w, key, '{');
    json_put_string(w, "type", "ByteLevel");
    json_put_bool(w, "add_prefix_space", prefix_space);
    json_put_bool(w, "trim_offsets", true);
    json_put_bool(w, "use_regex", true);
    json_close(w, '}');
}

static inline void put_tokenizer_json_(JsonWriter *w, const Tokenizer *t,
                                       const ByteAlphabet_ *alphabet) {
    json_open(w, NULL, '{');
    json_put_string(w, "version", "1.0");
    json_put_null(w, "truncation");
    json_put_null(w, "padding");
    json_open(w, "added_tokens", '[');
    for (size_t i = 0; i < t->added_count; i++) {
        json_open(w, NULL, '{');
        json_put_uint(w, "id", (uint64_t)t->added[i].id);
        put_added_fields_(w, &t->added[i]);
        json_close(w, '}');
    }
    json_close(w, ']');
    json_put_null(w, "normalizer");
    put_byte_level_(w, "pre_tokenizer", t->prefix_space);
    json_put_null(w, "post_processor");
    put_byte_level_(w, "decoder", t->prefix_space);
    json_open(w, "model", '{');
    json_put_string(w, "type", "BPE");
    json_put_null(w, "dropout");
    json_put_null(w, "unk_token");
    json_put_string(w, "continuing_subword_prefix", "");
    json_put_string(w, "end_of_word_suffix", "");
    json_put_bool(w, "fuse_unk", false);
    json_put_bool(w, "byte_fallback", false);
    json_put_bool(w, "ignore_merges", t->ignore_merges);
    put_vocabulary_(w, "vocab", t, alphabet);
    put_merges_(w, t, alphabet);
    json_close(w, '}');
    json_close(w, '}');
}

// GPT2Tokenizer would take <|endoftext|> for bos, eos and unk where they are missing, with a new id
// if need be.
static inline void put_tokenizer_config_(JsonWriter *w, const Tokenizer *t,
                                         const ByteAlphabet_ *alphabet) {
    static const char *const roles[] = {"bos_token", "eos_token", "unk_token"};
    JsonWriter end = {0};
    token_file_text_(&end, t, alphabet, t->end_of_document);
    json_open(w, NULL, '{');
    json_put_string(w, "tokenizer_class", "GPT2Tokenizer");
    for (size_t i = 0; i < sizeof roles / sizeof *roles && !end.failed; i++) {
        json_put_text(w, roles[i], end.data, end.length);
    }
    json_put_bool(w, "add_prefix_space", t->prefix_space);
    json_put_bool(w, "clean_up_tokenization_spaces", false);
    if (t->model_max_length) {
        json_put_uint(w, "model_max_length", t->model_max_length);
    }
    json_open(w, "added_tokens_decoder", '{');
    for (size_t i = 0; i < t->added_count; i++) {
        char id[24];
        snprintf(id, sizeof id, "%d", (int)t->added[i].id);
        json_open(w, id, '{');
        put_added_fields_(w, &t->added[i]);
        json_close(w, '}');
    }
    json_close(w, '}');
    json_close(w, '}');
    w->failed |= end.failed;
    free(end.data);
}

static inline void put_merges_txt_(JsonWriter *w, const Tokenizer *t,
                                   const ByteAlphabet_ *alphabet) {
    json_append(w, "#version: 0.2", 13);
    for (size_t rank = 0; rank < t->merge_count; rank++) {
        json_append(w, "\n", 1);
        merge_file_text_(w, t, alphabet, rank);
    }
}

static inline void put_vocab_json_(JsonWriter *w, const Tokenizer *t,
                                   const ByteAlphabet_ *alphabet) {
    put_vocabulary_(w, NULL, t, alphabet);
}

// Appends a piece.
static inline void put_piece_(JsonWriter *w, const char *key, const Tokenizer *t, int32_t id) {
    size_t length;
    const char *text = tokenizer_text(t, id, &length);
    json_put_text(w, key, text, length);
}

static inline void put_base64_(JsonWriter *w, const char *key, const char *data, size_t length) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    JsonWriter text = {0};
    for (size_t i = 0; i < length; i += 3) {
        uint32_t bits = 0;
        char out[4];
        for (size_t k = 0; k < 3; k++) {
            bits = bits << 8 | (i + k < length ? (unsigned char)data[i + k] : 0);
        }
        for (size_t k = 0; k < 4; k++) {
            out[k] = i + k <= length ? digits[bits >> (18 - 6 * k) & 63] : '=';
        }
        json_append(&text, out, 4);
    }
    json_put_text(w, key, text.data ? text.data : "", text.length);
    w->failed |= text.failed;
    free(text.data);
}

static inline void put_replace_(JsonWriter *w, const char *kind, const char *pattern,
                                const char *content) {
    json_open(w, NULL, '{');
    json_put_string(w, "type", "Replace");
    json_open(w, "pattern", '{');
    json_put_string(w, kind, pattern);
    json_close(w, '}');
    json_put_string(w, "content", content);
    json_close(w, '}');
}

static inline void put_type_(JsonWriter *w, const char *type) {
    json_open(w, NULL, '{');
    json_put_string(w, "type", type);
    json_close(w, '}');
}

// The normalizer of a .model in the components that `tokenizers` has.
static inline void put_model_normalizer_(JsonWriter *w, const Tokenizer *t) {
    const char *space = t->escape_spaces ? SPACE_SYMBOL_ : " ";
    json_open(w, "normalizer", '{');
    json_put_string(w, "type", "Sequence");
    json_open(w, "normalizers", '[');
    if (t->charsmap.units) {
        json_open(w, NULL, '{');
        json_put_string(w, "type", "Precompiled");
        put_base64_(w, "precompiled_charsmap", t->charsmap.blob, t->charsmap.blob_bytes);
        json_close(w, '}');
    }
    if (t->collapse_spaces) {
        put_replace_(w, "Regex", "\\A +| +\\z", "");
        put_replace_(w, "Regex", " {2,}", " ");
    }
    if (t->dummy_prefix) {
        put_replace_(w, "Regex", t->space_suffix ? "\\z" : "\\A", space);
    }
    if (t->escape_spaces) {
        put_replace_(w, "String", " ", SPACE_SYMBOL_);
    }
    json_close(w, ']');
    json_close(w, '}');
}

static inline void put_model_decoder_(JsonWriter *w, const Tokenizer *t) {
    json_open(w, "decoder", '{');
    json_put_string(w, "type", "Sequence");
    json_open(w, "decoders", '[');
    put_type_(w, "ByteFallback");
    put_replace_(w, "String", SPACE_SYMBOL_, " ");
    put_type_(w, "Fuse");
    if (t->dummy_prefix || t->collapse_spaces) {
        json_open(w, NULL, '{');
        json_put_string(w, "type", "Strip");
        json_put_string(w, "content", " ");
        json_put_uint(w, "start", 1);
        json_put_uint(w, "stop", 0);
        json_close(w, '}');
    }
    json_close(w, ']');
    json_close(w, '}');
}

// For qsort: pieces by score, highest first, then by id.
typedef struct {
    double score;
    int32_t id;
} ScoredPiece_;

static inline int scored_compare_(const void *first, const void *second) {
    const ScoredPiece_ *a = first, *b = second;
    return a->score != b->score ? (a->score > b->score ? -1 : 1)
                                : (a->id > b->id) - (a->id < b->id);
}

// A BPE model of SentencePiece has no merge list: every two pieces that spell a third one merge, by
// its score.
static inline void put_model_merges_(JsonWriter *w, const Tokenizer *t) {
    ScoredPiece_ *order = malloc(t->model_size * sizeof *order);
    if (!order) {
        w->failed = true;
        return;
    }
    for (size_t id = 0; id < t->model_size; id++) {
        order[id] = (ScoredPiece_){t->scores[id], (int32_t)id};
    }
    qsort(order, t->model_size, sizeof *order, scored_compare_);
    json_open(w, "merges", '[');
    for (size_t i = 0; i < t->model_size; i++) {
        size_t length, step;
        const char *text = tokenizer_text(t, order[i].id, &length);
        for (size_t cut = 0; t->tokens[order[i].id].kind == PIECE_NORMAL_ && cut < length;
             cut += step) {
            step = character_length_(text + cut, length - cut);
            if (cut && text_find_(t, text, cut) >= 0 &&
                text_find_(t, text + cut, length - cut) >= 0) {
                json_open(w, NULL, '[');
                json_put_text(w, NULL, text, cut);
                json_put_text(w, NULL, text + cut, length - cut);
                json_close(w, ']');
            }
        }
    }
    json_close(w, ']');
    free(order);
}

static inline void put_model_vocabulary_(JsonWriter *w, const Tokenizer *t) {
    JsonWriter key = {0};
    bool bpe = t->model == MODEL_PIECE_BPE;
    json_open(w, "vocab", bpe ? '{' : '[');
    for (size_t id = 0; id < t->model_size; id++) {
        if (bpe) {
            key.length = 0;
            json_append(&key, t->bytes + t->tokens[id].offset, t->tokens[id].length);
            if (!key.failed) {
                json_put_uint(w, key.data, id);
            }
            continue;
        }
        json_open(w, NULL, '[');
        put_piece_(w, NULL, t, (int32_t)id);
        json_put_double(w, NULL, t->scores[id]);
        json_close(w, ']');
    }
    json_close(w, bpe ? '}' : ']');
    w->failed |= key.failed;
    free(key.data);
}

// A tokenizer.json for a .model, for libraries that read no .model. Its ids differ on some texts:
// see tokenizer_save.
static inline void put_model_json_(JsonWriter *w, const Tokenizer *t,
                                   const ByteAlphabet_ *alphabet) {
    bool bpe = t->model == MODEL_PIECE_BPE;
    (void)alphabet;
    json_open(w, NULL, '{');
    json_put_string(w, "version", "1.0");
    json_put_null(w, "truncation");
    json_put_null(w, "padding");
    json_open(w, "added_tokens", '[');
    for (size_t id = 0; id < t->model_size; id++) {
        int kind = t->tokens[id].kind;
        if (kind == PIECE_CONTROL_ || kind == PIECE_UNKNOWN_ || (bpe && kind == PIECE_USER_)) {
            AddedToken a = {t->bytes + t->tokens[id].offset, t->tokens[id].length, (int32_t)id,
                            .special = kind != PIECE_USER_};
            json_open(w, NULL, '{');
            json_put_uint(w, "id", id);
            put_added_fields_(w, &a);
            json_close(w, '}');
        }
    }
    json_close(w, ']');
    put_model_normalizer_(w, t);
    json_put_null(w, "pre_tokenizer");
    json_put_null(w, "post_processor");
    put_model_decoder_(w, t);
    json_open(w, "model", '{');
    json_put_string(w, "type", bpe ? "BPE" : "Unigram");
    if (bpe) {
        put_piece_(w, "unk_token", t, t->unknown);
        json_put_bool(w, "fuse_unk", true);
    } else {
        json_put_uint(w, "unk_id", (uint64_t)t->unknown);
    }
    json_put_bool(w, "byte_fallback", t->byte_fallback);
    put_model_vocabulary_(w, t);
    if (bpe) {
        put_model_merges_(w, t);
    }
    json_close(w, '}');
    json_close(w, '}');
}

// tokenizer_config.json of all but GPT-2's kind. "ids_follow" is for people: transformers ignores
// it.
static inline void put_fast_config_(JsonWriter *w, const Tokenizer *t,
                                    const ByteAlphabet_ *alphabet) {
    const struct {
        const char *role;
        int32_t id;
    } roles[] = {{"bos_token", t->begin},
                 {"eos_token", t->end_of_document},
                 {"unk_token", t->unknown},
                 {"pad_token", t->pad}};
    json_open(w, NULL, '{');
    json_put_string(w, "tokenizer_class", "PreTrainedTokenizerFast");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        JsonWriter text = {0};
        if (roles[i].id >= 0) {
            token_file_text_(&text, t, alphabet, roles[i].id);
            json_put_text(w, roles[i].role, text.data ? text.data : "", text.length);
        }
        w->failed |= text.failed;
        free(text.data);
    }
    json_put_bool(w, "clean_up_tokenization_spaces", false);
    if (t->model_max_length) {
        json_put_uint(w, "model_max_length", t->model_max_length);
    }
    json_put_string(w, "ids_follow",
                    t->sentencepiece ? "tokenizer.model, read by sentencepiece"
                                     : "tokenizer.json, read by tokenizers");
    json_close(w, '}');
}

// Writes what is in w, down to the disk.
static inline bool write_file_(const char *path, const JsonWriter *w, Error *e) {
    if (w->failed) {
        return fail(e, "%s: no memory to write it", path);
    }
    FILE *file = fopen(path, "wb");
    bool ok = file && fwrite(w->data, 1, w->length, file) == w->length && !fflush(file) &&
              !fsync(fileno(file));
    int cause = errno;
    if (file && fclose(file) && ok) {
        ok = false, cause = errno;
    }
    return ok || fail(e, "%s: cannot be written: %s", path, strerror(cause));
}

typedef struct {
    const char *name;
    void (*put)(JsonWriter *, const Tokenizer *,
                const ByteAlphabet_ *); // NULL: the file it was loaded from
} SavedFile_;

static const SavedFile_ SAVED_GPT2_[] = {{"tokenizer.json", put_tokenizer_json_},
                                         {"tokenizer_config.json", put_tokenizer_config_},
                                         {"vocab.json", put_vocab_json_},
                                         {"merges.txt", put_merges_txt_},
                                         {NULL, NULL}};
static const SavedFile_ SAVED_BYTE_BPE_[] = {{"tokenizer.json", put_tokenizer_json_},
                                             {"tokenizer_config.json", put_fast_config_},
                                             {NULL, NULL}};
static const SavedFile_ SAVED_JSON_[] = {
    {"tokenizer.json", NULL}, {"tokenizer_config.json", put_fast_config_}, {NULL, NULL}};
static const SavedFile_ SAVED_MODEL_[] = {{"tokenizer.model", NULL},
                                          {"tokenizer.json", put_model_json_},
                                          {"tokenizer_config.json", put_fast_config_},
                                          {NULL, NULL}};

// All names that tokenizer_save gives to files.
static const char *const TOKENIZER_FILES[] = {
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", NULL};

// Writes the tokenizer into an existing directory, which tokenizer_load and
// AutoTokenizer.from_pretrained open as it is:
//   byte-level BPE    tokenizer.json, tokenizer_config.json and, if it is just GPT-2's kind,
//   vocab.json and merges.txt tokenizer.json    byte for byte as it was loaded if it is of another
//   kind, and tokenizer_config.json .model            tokenizer.model, byte for byte as it was
//   loaded, a tokenizer.json made from it, and
//                     tokenizer_config.json
// "ids_follow" in tokenizer_config.json says which file the ids follow. With a .model it is
// tokenizer.model: tokenizers, which reads the tokenizer.json, sums scores in double precision,
// matches byte and control pieces that stand in the text, and normalizes by grapheme clusters, so
// that some texts get other ids from it.
static inline bool tokenizer_save(const Tokenizer *t, const char *directory, Error *e) {
    const SavedFile_ *file = t->sentencepiece                              ? SAVED_MODEL_
                             : t->source                                   ? SAVED_JSON_
                             : t->ignore_merges || t->split != SPLIT_GPT2_ ? SAVED_BYTE_BPE_
                                                                           : SAVED_GPT2_;
    ByteAlphabet_ alphabet = byte_alphabet_();
    bool ok = true;
    for (; file->name && ok; file++) {
        char path[4096];
        JsonWriter w = {.indent = 2};
        ok = path_join_(path, directory, file->name, e);
        if (ok && file->put) {
            file->put(&w, t, &alphabet);
            json_append(&w, "\n", 1);
        } else if (ok) {
            json_append(&w, t->source, t->source_length);
        }
        ok = ok && write_file_(path, &w, e);
        free(w.data);
    }
    return ok;
}

#endif
