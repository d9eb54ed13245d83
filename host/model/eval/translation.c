/* SPDX-License-Identifier: Apache-2.0
 * Rows for BLEU and ROUGE, and what a corpus of them gives. */
#include "host/model/eval/translation.h"
#include "host/base/err.h"
#include <math.h>
#include <string.h>

/* ---- Reading ---- */

static translation *new_row(translation_set *s, int64_t *cap, int64_t line) {
    if (s->n == *cap) {
        *cap = *cap ? 2 * *cap : 64;
        translation *more = ARENA_NEW(&s->a, translation, *cap);
        if (s->n)
            memcpy(more, s->row, sizeof *more * (size_t)s->n);
        s->row = more;
    }
    translation *t = &s->row[s->n++];
    *t = (translation){.line = line};
    return t;
}

static weft_status read_references(const row *r, translation *t) {
    const char *key = row_find(r, "references") ? "references" : "reference";
    const row_field *f = row_find(r, key);
    text ref[TRANSLATION_MAX_REFS];
    t->nref = 1;
    if (f && f->kind == JSON_ARRAY)
        WEFT_TRY(row_texts(r, key, TRANSLATION_MAX_REFS, ref, &t->nref));
    else
        WEFT_TRY(row_text(r, key, &ref[0]));
    t->ref = ARENA_NEW(r->a, text, t->nref);
    memcpy(t->ref, ref, sizeof *ref * (size_t)t->nref);
    return WEFT_OK;
}

static weft_status read_row(const row *r, translation *t) {
    const char *key = row_find(r, "prediction") ? "prediction" : "hypothesis";
    if (row_find(r, key) || !row_find(r, "prompt"))
        WEFT_TRY(row_text(r, key, &t->hyp));
    else
        WEFT_TRY(row_text(r, "prompt", &t->prompt));
    return read_references(r, t);
}

weft_status translation_rows(translation_set *s, const char *file, int64_t limit) {
    row_reader r;
    int64_t cap = 0;
    *s = (translation_set){.file = file};
    WEFT_TRY(rows_open(file, &s->a, &r));
    for (bool more = true; limit <= 0 || s->n < limit;) {
        row one;
        WEFT_TRY(rows_next(&r, &one, &more));
        if (!more)
            break;
        translation *t = new_row(s, &cap, r.line);
        WEFT_TRY(read_row(&one, t));
        if (t->prompt.s && s->without++ == 0)
            s->first_without = r.line;
    }
    return WEFT_OK;
}

static bool raw_line(row_reader *r, text *line) {
    if (r->at == r->end)
        return false;
    const char *from = r->at, *stop = memchr(from, '\n', (size_t)(r->end - from));
    size_t n = (size_t)((stop ? stop : r->end) - from);
    r->at += n + (stop != NULL);
    r->line++;
    *line = (text){from, n - (n > 0 && from[n - 1] == '\r')};
    return true;
}

static weft_status read_lines(translation_set *s, row_reader *hyp, row_reader *ref, int nref,
                              int64_t limit) {
    int64_t cap = 0;
    text line;
    while ((limit <= 0 || s->n < limit) && raw_line(hyp, &line)) {
        translation *t = new_row(s, &cap, hyp->line);
        t->hyp = line;
        t->nref = nref;
        t->ref = ARENA_NEW(&s->a, text, nref);
        for (int i = 0; i < nref; i++)
            if (!raw_line(&ref[i], &t->ref[i]))
                return weft_fail(WEFT_BAD_FILE, "%s: has %lld lines, %s has more", ref[i].file,
                                 (long long)ref[i].line, hyp->file);
    }
    for (int i = 0; i < nref; i++)
        if (hyp->at == hyp->end && ref[i].at < ref[i].end && s->n != limit)
            return weft_fail(WEFT_BAD_FILE, "%s: has %lld lines, %s has more", hyp->file,
                             (long long)hyp->line, ref[i].file);
    return WEFT_OK;
}

weft_status translation_lines(translation_set *s, const char *hyp, const char *const *ref, int nref,
                              int64_t limit) {
    row_reader h, *r;
    *s = (translation_set){.file = hyp};
    WEFT_TRY(rows_open(hyp, &s->a, &h));
    r = ARENA_NEW(&s->a, row_reader, nref);
    for (int i = 0; i < nref; i++)
        WEFT_TRY(rows_open(ref[i], &s->a, &r[i]));
    return read_lines(s, &h, r, nref, limit);
}

void translation_close(translation_set *s) {
    arena_fini(&s->a);
}

/* ---- Scores ---- */

static void add_bleu(bleu_counts *sum, const bleu_counts *c, int sign) {
    for (int i = 0; i < 4; i++) {
        sum->shared[i] += sign * c->shared[i];
        sum->total[i] += sign * c->total[i];
    }
    sum->hyp_len += sign * c->hyp_len;
    sum->ref_len += sign * c->ref_len;
}

static void add_chrf(chrf_counts *sum, const chrf_counts *c, int sign) {
    for (int i = 0; i < CHRF_ORDER; i++) {
        sum->hyp[i] += sign * c->hyp[i];
        sum->ref[i] += sign * c->ref[i];
        sum->shared[i] += sign * c->shared[i];
    }
}

static double jackknife(const eval_mean *m) {
    return m->n < 2 ? (double)NAN : sqrt((double)(m->n - 1) / (double)m->n * m->m2);
}

static void finish_bleu(translation_set *s, translation_options *o, eval_result *out) {
    chrf_counts chrf = {0};
    eval_mean bleu_without = {0}, chrf_without = {0};
    o->nref = s->row[0].nref;
    for (int64_t i = 0; i < s->n; i++) {
        add_bleu(&o->counts, &s->row[i].bleu, 1);
        add_chrf(&chrf, &s->row[i].chrf, 1);
        o->nref = s->row[i].nref == o->nref ? o->nref : 0;
    }
    for (int64_t i = 0; i < s->n; i++) {
        bleu_counts b = o->counts;
        chrf_counts c = chrf;
        add_bleu(&b, &s->row[i].bleu, -1);
        add_chrf(&c, &s->row[i].chrf, -1);
        eval_mean_add(&bleu_without, bleu_score(&b, false).score);
        eval_mean_add(&chrf_without, chrf_score(&c));
    }
    o->bleu = bleu_score(&o->counts, false);
    eval_add(out, "bleu", o->bleu.score, jackknife(&bleu_without));
    eval_add(out, "chrf", chrf_score(&chrf), jackknife(&chrf_without));
}

static void finish_rouge(const translation_set *s, eval_result *out) {
    static const char *const name[ROUGE_KINDS][3] = {
        {"rouge1", "rouge1_precision", "rouge1_recall"},
        {"rouge2", "rouge2_precision", "rouge2_recall"},
        {"rougeL", "rougeL_precision", "rougeL_recall"},
        {"rougeLsum", "rougeLsum_precision", "rougeLsum_recall"}};
    for (int k = 0; k < ROUGE_KINDS; k++) {
        eval_mean m[3] = {0};
        for (int64_t i = 0; i < s->n; i++) {
            const rouge_score *r = &s->row[i].rouge[k];
            eval_mean_add(&m[0], r->f);
            eval_mean_add(&m[1], r->precision);
            eval_mean_add(&m[2], r->recall);
        }
        for (int p = 0; p < 3; p++)
            eval_add(out, name[k][p], eval_mean_of(&m[p]), eval_mean_se(&m[p]));
    }
}

weft_status translation_finish(translation_set *s, translation_options *o, eval_result *out) {
    for (int64_t i = 0; i < s->n; i++) {
        translation *t = &s->row[i];
        arena a = {0};
        bool fits = true;
        if (o->rouge) {
            fits = rouge_count(&a, o->stem, t->hyp, t->ref, t->nref, t->rouge);
        } else {
            t->bleu = bleu_count(&a, o->tokenizer, o->lowercase, t->hyp, t->ref, t->nref);
            t->chrf = chrf_count(&a, o->lowercase, t->hyp, t->ref, t->nref);
        }
        arena_fini(&a);
        if (!fits)
            return weft_fail(WEFT_BAD_FILE,
                             "%s:%lld: too long for ROUGE-L (hypothesis times reference is at "
                             "most 2^28 words)",
                             s->file, (long long)t->line);
    }
    if (o->rouge)
        finish_rouge(s, out);
    else
        finish_bleu(s, o, out);
    return WEFT_OK;
}
