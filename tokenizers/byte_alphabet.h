// byte_alphabet.h: GPT-2's byte alphabet. In the files of a byte-level BPE, each byte of a token is
// written as one printable character.
#ifndef TOKENIZERS_BYTE_ALPHABET_H
#define TOKENIZERS_BYTE_ALPHABET_H

#include <stdbool.h>
#include <stdint.h>

// Bytes 21-7E, A1-AC and AE-FF stand for themselves.
static inline bool byte_is_printable(int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
           (byte >= 0xAE && byte <= 0xFF);
}

// Code point that stands for a byte: the 68 others are U+0100 and up, in order.
static inline uint32_t byte_to_symbol(int byte) {
    return (uint32_t)(byte_is_printable(byte) ? byte
                      : byte <= 0x20          ? 0x100 + byte
                      : byte <= 0xA0          ? 0x121 + byte - 0x7F
                                              : 0x143);
}

// The byte that a code point stands for, -1 if none.
static inline int byte_of_symbol(uint32_t symbol) {
    return symbol < 0x100    ? (byte_is_printable((int)symbol) ? (int)symbol : -1)
           : symbol < 0x121  ? (int)symbol - 0x100
           : symbol < 0x143  ? (int)symbol - 0x121 + 0x7F
           : symbol == 0x143 ? 0xAD
                             : -1;
}

#endif
