/* SPDX-License-Identifier: Apache-2.0
 * Cases as text: "bf16:T=7,N=33,K=129,row=avx2" to numbers and back. */
#include "tests/check/check.h"
#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 24 };                       /* any number of a case */
static const double most_elements = 1LL << 42; /* product of a case's sizes */

/* Position of the n-byte word in a list of words, -1 if it is not there. */
static int word_at(const char *words, const char *word, size_t n) {
    for (int i = 0; *words; i++) {
        size_t len = strcspn(words, " "), name = strcspn(words, " !^");
        if (name == n && !memcmp(words, word, n))
            return i;
        words += len + (words[len] == ' ');
    }
    return -1;
}

int64_t check_get(const check_case *c, const char *key) {
    int i = word_at(c->op->keys, key, strlen(key));
    return i < 0 ? 0 : c->v[i];
}

static int dtype_named(const char *s, size_t n) {
    for (int d = 0; d < WEFT_DTYPES; d++)
        if (strlen(weft_dtype_name(d)) == n && !memcmp(weft_dtype_name(d), s, n))
            return d;
    return -1;
}

static bool has_dtype(const check_op *op, const char *name, size_t n) {
    for (const check_group *g = op->groups; g->dtypes; g++)
        if (word_at(g->dtypes, name, n) >= 0)
            return true;
    return false;
}

static bool sane(const check_case *c) {
    const char *key = c->op->keys;
    double elements = 1;
    for (int i = 0; *key; i++) {
        size_t len = strcspn(key, " ");
        if (c->v[i] < (*key == 'q' ? -1 : 0) || c->v[i] > MOST ||
            (key[len - 1] == '!' && c->v[i] < 1) ||
            (key[len - 1] == '^' && (c->v[i] < 0 || c->v[i] > 1 + WEFT_BF16)))
            return false;
        elements *= key[len - 1] == '!' ? (double)c->v[i] : 1;
        key += len + (key[len] == ' ');
    }
    if (word_at(c->op->keys, "T", 1) >= 0 && check_get(c, "rows") > check_get(c, "T"))
        return false;
    return elements <= most_elements && (!c->op->valid || c->op->valid(c));
}

bool check_case_parse(const check_op *op, const char *text, check_case *out, const char **row) {
    size_t n = strcspn(text, ":");
    *out = (check_case){.op = op, .dtype = dtype_named(text, n)};
    if (row)
        *row = NULL;
    if (out->dtype < 0 || !text[n] || !has_dtype(op, text, n))
        return false;
    for (const char *p = text + n + 1; *p;) {
        size_t len = strcspn(p, ","), key = strcspn(p, "=");
        if (row && key == 3 && !memcmp(p, "row", 3)) {
            *row = p + 4;
            return !p[len] && sane(out);
        }
        int i = key < len ? word_at(op->keys, p, key) : -1;
        char *end;
        if (i < 0)
            return false;
        out->v[i] = strtoll(p + key + 1, &end, 10);
        if (end != p + len || end == p + key + 1)
            return false;
        p += len + (p[len] == ',');
    }
    return sane(out);
}

void check_case_print(buf *out, const check_case *c) {
    const char *key = c->op->keys;
    buf_printf(out, "%s:%s:", weft_op_table[c->op->op].name, weft_dtype_name(c->dtype));
    bool first = true;
    for (int i = 0; *key; i++) {
        size_t len = strcspn(key, " ");
        if (c->v[i])
            buf_printf(out, "%s%.*s=%lld", first ? "" : ",", (int)strcspn(key, " !^"), key,
                       (long long)c->v[i]);
        first &= !c->v[i];
        key += len + (key[len] == ' ');
    }
}

uint64_t check_case_seed(const check_case *c, uint64_t seed) {
    uint64_t h = check_hash(seed, (uint64_t)c->op->op * 16 + (uint64_t)c->dtype);
    for (int i = 0; i < CHECK_KEYS; i++)
        h = check_hash(h, (uint64_t)c->v[i]);
    return h;
}
