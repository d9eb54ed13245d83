/* SPDX-License-Identifier: Apache-2.0
 * Characters as tokenizers see them: UTF-8, GPT-2's visible alphabet of bytes, word characters. */
#include "host/model/tokenizer/tok.h"
#include <string.h>
#include <utf8proc.h>

void tok_ids_add(tok_ids *ids, int32_t id) {
    if (ids->n == ids->cap) {
        ids->cap = ids->cap ? 2 * ids->cap : 64;
        ids->v = mem_grow(ids->v, ids->cap * sizeof *ids->v);
    }
    ids->v[ids->n++] = id;
}

void tok_ids_fini(tok_ids *ids) {
    mem_free(ids->v);
    memset(ids, 0, sizeof *ids);
}

/* Trail bytes allowed second, by lead byte: shuts out overlong forms, surrogates and > U+10FFFF. */
static bool second_ok(unsigned char lead, unsigned char c) {
    unsigned lo = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned hi = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return c >= lo && c <= hi;
}

int tok_utf8_scan(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return -1;
    int want = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    for (int i = 1; i < want; i++) {
        if ((size_t)i >= n)
            return 0;
        if (i == 1 ? !second_ok(s[0], s[1]) : (s[i] & 0xc0) != 0x80)
            return -i;
    }
    return want;
}

/* Visible Latin-1 stands for itself; the other 68 bytes are U+0100... in order. */
#define SAME8(b) b, b + 1, b + 2, b + 3, b + 4, b + 5, b + 6, b + 7
#define UP8(u) SAME8(0x100 + u)
const uint16_t tok_byte_to_char[256] = {
    UP8(0),     UP8(8),     UP8(16),    UP8(24),    0x120,      33,         34,         35,
    36,         37,         38,         39,         SAME8(40),  SAME8(48),  SAME8(56),  SAME8(64),
    SAME8(72),  SAME8(80),  SAME8(88),  SAME8(96),  SAME8(104), SAME8(112), 120,        121,
    122,        123,        124,        125,        126,        0x121,      UP8(34),    UP8(42),
    UP8(50),    UP8(58),    0x142,      161,        162,        163,        164,        165,
    166,        167,        168,        169,        170,        171,        172,        0x143,
    174,        175,        SAME8(176), SAME8(184), SAME8(192), SAME8(200), SAME8(208), SAME8(216),
    SAME8(224), SAME8(232), SAME8(240), SAME8(248)};

int tok_char_to_byte(uint32_t cp) {
    if (cp < 256)
        return tok_byte_to_char[cp] == cp ? (int)cp : -1;
    if (cp > 0x143)
        return -1;
    uint32_t i = cp - 256;
    return (int)(i < 33 ? i : i == 33 ? 127 : i < 67 ? i - 34 + 128 : 173);
}

bool tok_bytes_of(const char *s, size_t n, buf *out) {
    size_t start = out->len;
    for (const char *p = s; p < s + n;) {
        int b = tok_char_to_byte(tok_utf8_get(&p));
        if (b < 0) {
            out->len = start;
            return false;
        }
        buf_putc(out, (char)b);
    }
    return true;
}

bool tok_is_word(uint32_t c) {
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               c == '_';
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: /* Other_Alphabetic symbols and the two joiners */
        return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
               (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c ||
               c == 0x200d;
    }
}

#define ROW4(b) (char)(b), (char)((b) + 1), (char)((b) + 2), (char)((b) + 3)
#define ROW16(b) ROW4(b), ROW4((b) + 4), ROW4((b) + 8), ROW4((b) + 12)
#define ROW64(b) ROW16(b), ROW16((b) + 16), ROW16((b) + 32), ROW16((b) + 48)
const char tok_bytes[256] = {ROW64(0), ROW64(64), ROW64(128), ROW64(192)};
