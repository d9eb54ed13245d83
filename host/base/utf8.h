/* SPDX-License-Identifier: Apache-2.0
 * UTF-8, one character at a time: shortest form only, no surrogates, nothing past U+10FFFF. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the character at p (1 to 4) and its code point; 0 if it is invalid or cut off. */
static inline int utf8_next(const char *p, const char *end, uint32_t *cp) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    *cp = 0;
    if (p >= end)
        return 0;
    unsigned char b = (unsigned char)*p;
    if (b < 0x80) {
        *cp = b;
        return 1;
    }
    int n = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : 2;
    if (b < 0xc2 || b > 0xf4 || end - p < n)
        return 0;
    uint32_t c = b & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        unsigned char t = (unsigned char)p[i];
        if ((t & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (t & 0x3fu);
    }
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0;
    *cp = c;
    return n;
}

/* Writes cp, which must be a scalar value, and returns the bytes used (1 to 4). */
static inline int utf8_put(char *out, uint32_t cp) {
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)(lead[n] | cp);
    return n;
}

/* Offset of the first byte that is not part of a valid character; n if there is none. */
static inline size_t utf8_invalid_at(const char *s, size_t n) {
    size_t i = 0;
    uint32_t cp;
    while (i < n) {
        int k = utf8_next(s + i, s + n, &cp);
        if (k == 0)
            break;
        i += (size_t)k;
    }
    return i;
}
