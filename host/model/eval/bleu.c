/* SPDX-License-Identifier: Apache-2.0
 * BLEU and chrF. The tokenizers are sacrebleu's regular expressions, each as a pass over bytes or
 * characters that rewrites every match, left to right and without overlap. */
#include "host/model/eval/bleu.h"
#include "host/base/buf.h"
#include "host/base/utf8.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { LINE_MAX_BYTES = 1 << 30 };

/* ---- 13a ---- */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_stop(char c) {
    return c == '.' || c == ',';
}

/* [\{-\~\[-\` -\&\(-\+\:-\@\/] */
static bool is_symbol(char c) {
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
           (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

/* The three passes over pairs: ([^0-9])([.,]) -> \1 \2_, ([.,])([^0-9]) -> _\1 \2,
 * ([0-9])(-) -> \1 \2_, where _ is a space. */
static bool pair_fits(int pass, char x, char y) {
    return pass == 0   ? !is_digit(x) && is_stop(y)
           : pass == 1 ? is_stop(x) && !is_digit(y)
                       : is_digit(x) && y == '-';
}

static void pair_pass(int pass, const buf *in, buf *out) {
    buf_clear(out);
    for (size_t i = 0; i < in->len;) {
        char x = in->data[i], y = i + 1 < in->len ? in->data[i + 1] : 0;
        if (i + 1 < in->len && pair_fits(pass, x, y)) {
            buf_puts(out, pass == 1 ? " " : "");
            buf_add(out, (char[]){x, ' ', y}, 3);
            buf_puts(out, pass == 1 ? "" : " ");
            i += 2;
        } else {
            buf_putc(out, x);
            i++;
        }
    }
}

static text tokenize_13a(arena *a, text t) {
    static const char *const plain[][2] = {{"<skipped>", ""}, {"-\n", ""},    {"\n", " "},
                                           {"&quot;", "\""},  {"&amp;", "&"}, {"&lt;", "<"},
                                           {"&gt;", ">"}};
    buf b[2];
    for (int i = 0; i < 7; i++)
        t = text_replace(a, t, plain[i][0], plain[i][1]);
    buf_init(&b[0], LINE_MAX_BYTES);
    buf_init(&b[1], LINE_MAX_BYTES);
    buf_putc(&b[0], ' ');
    for (size_t i = 0; i < t.n; i++) {
        if (is_symbol(t.s[i]))
            buf_add(&b[0], (char[]){' ', t.s[i], ' '}, 3);
        else
            buf_putc(&b[0], t.s[i]);
    }
    buf_putc(&b[0], ' ');
    for (int pass = 0; pass < 3; pass++)
        pair_pass(pass, &b[pass % 2], &b[(pass + 1) % 2]);
    t = (text){arena_copy(a, b[1].data, b[1].len), b[1].len};
    buf_fini(&b[0]);
    buf_fini(&b[1]);
    return t;
}

/* ---- intl, char ---- */

/* First letter of the general category: 'N', 'P', 'S', ... */
static char category(uint32_t cp) {
    return utf8proc_category_string((utf8proc_int32_t)cp)[0];
}

/* (\P{N})(\p{P}) -> \1 \2_, (\p{P})(\P{N}) -> _\1 \2 */
static void intl_pass(int pass, const buf *in, buf *out) {
    const char *p = in->data, *end = p + in->len;
    buf_clear(out);
    while (p < end) {
        uint32_t x, y = 0;
        int k = utf8_next(p, end, &x), m = utf8_next(p + k, end, &y);
        bool fits = m > 0 && (pass == 0 ? category(x) != 'N' && category(y) == 'P'
                                        : category(x) == 'P' && category(y) != 'N');
        buf_puts(out, fits && pass == 1 ? " " : "");
        buf_add(out, p, (size_t)k);
        p += k;
        if (!fits)
            continue;
        buf_putc(out, ' ');
        buf_add(out, p, (size_t)m);
        p += m;
        buf_puts(out, pass == 0 ? " " : "");
    }
}

/* Every character, or only every symbol (\p{S}), between spaces. */
static text apart(arena *a, const char *p, size_t n, bool symbols) {
    buf b;
    const char *end = p + n;
    buf_init(&b, LINE_MAX_BYTES);
    for (uint32_t cp; p < end;) {
        int k = utf8_next(p, end, &cp);
        bool alone = !symbols || category(cp) == 'S';
        buf_puts(&b, alone ? " " : "");
        buf_add(&b, p, (size_t)k);
        buf_puts(&b, alone ? " " : "");
        p += k;
    }
    text t = {arena_copy(a, b.data, b.len), b.len};
    buf_fini(&b);
    return t;
}

static text tokenize_intl(arena *a, text t) {
    buf b[2];
    buf_init(&b[0], LINE_MAX_BYTES);
    buf_init(&b[1], LINE_MAX_BYTES);
    buf_add(&b[0], t.s, t.n);
    intl_pass(0, &b[0], &b[1]);
    intl_pass(1, &b[1], &b[0]);
    t = apart(a, b[0].data, b[0].len, true);
    buf_fini(&b[0]);
    buf_fini(&b[1]);
    return t;
}

text bleu_tokenize(arena *a, bleu_tokenizer how, text t) {
    return how == BLEU_13A    ? tokenize_13a(a, t)
           : how == BLEU_INTL ? tokenize_intl(a, t)
           : how == BLEU_CHAR ? apart(a, t.s, t.n, false)
                              : t;
}

/* ---- BLEU ---- */

static words prepared(word_table *t, bleu_tokenizer how, bool lowercase, text line) {
    if (lowercase)
        line = text_lower(t->a, line);
    return words_split(t, bleu_tokenize(t->a, how, text_rstrip(line)));
}

static int64_t nearest_length(int64_t hyp, const words *ref, int nref) {
    int64_t best = ref[0].n;
    for (int i = 1; i < nref; i++) {
        int64_t d = llabs(hyp - ref[i].n), have = llabs(hyp - best);
        if (d < have || (d == have && ref[i].n < best))
            best = ref[i].n;
    }
    return best;
}

bleu_counts bleu_count(arena *a, bleu_tokenizer how, bool lowercase, text hyp, const text *ref,
                       int nref) {
    bleu_counts c = {0};
    word_table t = {.a = a};
    words h = prepared(&t, how, lowercase, hyp), *r = ARENA_NEW(a, words, nref);
    ngrams *rg = ARENA_NEW(a, ngrams, nref);
    for (int i = 0; i < nref; i++)
        r[i] = prepared(&t, how, lowercase, ref[i]);
    c.hyp_len = h.n;
    c.ref_len = nearest_length(h.n, r, nref);
    for (int n = 1; n <= 4; n++) {
        ngrams g = ngrams_of(a, &h, n);
        for (int i = 0; i < nref; i++)
            rg[i] = ngrams_of(a, &r[i], n);
        c.total[n - 1] = g.n;
        c.shared[n - 1] = ngrams_shared(&g, rg, nref);
    }
    return c;
}

bleu_result bleu_score(const bleu_counts *c, bool effective) {
    bleu_result r = {.brevity = 1};
    double smooth = 1, sum = 0;
    int order = 4, n = 0;
    if (c->hyp_len < c->ref_len)
        r.brevity = c->hyp_len ? exp(1 - (double)c->ref_len / (double)c->hyp_len) : 0;
    if (c->shared[0] + c->shared[1] + c->shared[2] + c->shared[3] == 0)
        return r;
    for (; n < 4 && c->total[n]; n++) {
        smooth *= c->shared[n] ? 1 : 2;
        r.precision[n] = c->shared[n] ? 100.0 * (double)c->shared[n] / (double)c->total[n]
                                      : 100.0 / (smooth * (double)c->total[n]);
        sum += log(r.precision[n]);
    }
    order = effective ? n : 4;
    r.score = n < order ? 0 : r.brevity * exp(sum / order);
    return r;
}

/* ---- chrF ---- */

static chrf_counts chrf_against(const ngrams *hyp, const ngrams *ref) {
    chrf_counts c;
    for (int i = 0; i < CHRF_ORDER; i++) {
        c.hyp[i] = ref[i].n ? hyp[i].n : 0;
        c.ref[i] = ref[i].n;
        c.shared[i] = ngrams_shared(&hyp[i], &ref[i], 1);
    }
    return c;
}

static void chrf_ngrams(arena *a, bool lowercase, text t, ngrams *out) {
    words *w = ARENA_NEW(a, words, 1);
    *w = words_chars(a, lowercase ? text_lower(a, t) : t);
    for (int i = 0; i < CHRF_ORDER; i++)
        out[i] = ngrams_of(a, w, i + 1);
}

chrf_counts chrf_count(arena *a, bool lowercase, text hyp, const text *ref, int nref) {
    ngrams h[CHRF_ORDER], r[CHRF_ORDER];
    chrf_counts best = {0};
    double best_score = -1;
    chrf_ngrams(a, lowercase, hyp, h);
    for (int i = 0; i < nref; i++) {
        chrf_ngrams(a, lowercase, ref[i], r);
        chrf_counts c = chrf_against(h, r);
        double score = chrf_score(&c);
        if (score > best_score) {
            best_score = score;
            best = c;
        }
    }
    return best;
}

double chrf_score(const chrf_counts *c) {
    double precision = 0, recall = 0;
    int orders = 0;
    for (int i = 0; i < CHRF_ORDER; i++) {
        if (!c->hyp[i] || !c->ref[i])
            continue;
        precision += (double)c->shared[i] / (double)c->hyp[i];
        recall += (double)c->shared[i] / (double)c->ref[i];
        orders++;
    }
    if (precision + recall == 0)
        return 0;
    precision /= orders;
    recall /= orders;
    return 100 * 5 * precision * recall / (4 * precision + recall); /* beta 2 */
}
