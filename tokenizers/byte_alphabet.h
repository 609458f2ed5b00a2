// byte_alphabet.h: GPT-2's byte alphabet. In the files of a byte-level BPE, each byte of a token is
// written as one printable character.
#ifndef TOKENIZERS_BYTE_ALPHABET_H
#define TOKENIZERS_BYTE_ALPHABET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint16_t symbol[256];    // code point that stands for a byte
    uint8_t byte_of_id[256]; // the byte with this id in a vocabulary that training makes
    int16_t byte[0x144];     // byte that a code point stands for, -1 if none
} ByteAlphabet;

// Bytes 21-7E, A1-AC and AE-FF stand for themselves and have the first ids; the 68 others are
// U+0100 and up, in order.
static inline ByteAlphabet byte_alphabet(void) {
    ByteAlphabet a;
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

#endif
