// utf8.h: decoding, encoding, validation and repair of UTF-8.
#ifndef UTIL_UTF8_H
#define UTIL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Length of the UTF-8 character that starts at s, of which n bytes are left; 0 if it is ill-formed:
// overlong forms, surrogates and code points above U+10FFFF are (Unicode 15, table 3-7).
// `code_point` may be NULL.
static inline size_t utf8_decode(const char *s, size_t n, uint32_t *code_point) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000}; // of so many bytes
    const unsigned char *u = (const unsigned char *)s;
    if (n == 0) {
        return 0;
    }
    const size_t length = u[0] < 0x80 ? 1 : u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : 4;
    uint32_t c = length == 1 ? u[0] : u[0] & (0x7Fu >> length);
    if (n < length || (u[0] >= 0x80 && u[0] < 0xC0) || u[0] >= 0xF8) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((u[i] & 0xC0) != 0x80) {
            return 0;
        }
        c = c << 6 | (u[i] & 0x3F);
    }
    if (c < least[length] || (c >= 0xD800 && c < 0xE000) || c > 0x10FFFF) {
        return 0;
    }
    if (code_point) {
        *code_point = c;
    }
    return length;
}

// Encodes a code point below 0x110000 in `out` (at most 4 bytes); returns the length.
static inline size_t utf8_encode(uint32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, c >>= 6) {
        out[i] = (char)(0x80 | (c & 0x3F));
    }
    out[0] = (char)((0xF00 >> length & 0xFF) | c); // as many leading ones as bytes
    return length;
}

// Bytes of the ill-formed sequence at s that one U+FFFD replaces: the longest prefix of a
// well-formed character, or one byte (Unicode 15, section 3.9, "substitution of maximal subparts").
// There must be no well-formed character at s.
static inline size_t utf8_maximal_subpart(const char *s, size_t length) {
    const unsigned char *u = (const unsigned char *)s;
    size_t wanted = u[0] < 0xC2 || u[0] > 0xF4 ? 1 : u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : 4;
    // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
    unsigned low = u[0] == 0xE0 ? 0xA0 : u[0] == 0xF0 ? 0x90 : 0x80;
    unsigned high = u[0] == 0xED ? 0x9F : u[0] == 0xF4 ? 0x8F : 0xBF;
    size_t n = 1;
    for (; n < wanted && n < length && u[n] >= low && u[n] <= high; n++) {
        low = 0x80, high = 0xBF;
    }
    return n;
}

// Whether `length` bytes are well-formed UTF-8.
static inline bool utf8_is_valid(const char *text, size_t length) {
    for (size_t i = 0, n; i < length; i += n) {
        n = (unsigned char)text[i] < 0x80 ? 1 : utf8_decode(text + i, length - i, NULL);
        if (n == 0) {
            return false;
        }
    }
    return true;
}

// Removes the incomplete character at the end of a text that was truncated at any byte.
static inline void utf8_trim(char *text) {
    size_t length = strlen(text);
    while (!utf8_is_valid(text, length)) {
        text[--length] = 0;
    }
}

// Copies text, replacing each ill-formed sequence by U+FFFD as Python's bytes.decode("utf-8",
// "replace") does. `out` has room for 3 * length bytes. Returns the number of bytes written and
// adds the number of replacements to *replaced. *consumed is `length` for the `final` block of a
// stream; else it may be up to 3 bytes less: an incomplete character at the end of the block, which
// the caller prepends to the next one.
static inline size_t utf8_sanitize(char *out, const char *text, size_t length, bool final,
                                   size_t *consumed, uint64_t *replaced) {
    size_t written = 0, i = 0;
    while (i < length) {
        size_t n = utf8_decode(text + i, length - i, NULL);
        const char *from = text + i;
        size_t copied = n;
        if (n == 0) {
            unsigned char lead = (unsigned char)text[i];
            n = utf8_maximal_subpart(text + i, length - i);
            if (!final && i + n == length && lead >= 0xC2 && lead <= 0xF4) {
                break;
            }
            from = "\xEF\xBF\xBD", copied = 3;
            ++*replaced;
        }
        for (size_t k = 0; k < copied; k++) {
            out[written++] = from[k];
        }
        i += n;
    }
    *consumed = i;
    return written;
}

#endif
