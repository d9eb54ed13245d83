/* SPDX-License-Identifier: Apache-2.0
 * What `weft eval` prints and writes. */
#include "host/base/file.h"
#include "host/cmd/eval.h"
#include <math.h>
#include <string.h>

static bool is_bleu(const eval_run *r) {
    return r->task->kind == EVAL_TRANSLATION && !r->how.rouge;
}

static bool is_model_score(const eval_run *r) {
    return r->task->kind != EVAL_TRANSLATION;
}

/* sacrebleu's, with our name where it has its version. */
static void signature(const eval_run *r, buf *b) {
    if (r->how.nref)
        buf_printf(b, "nrefs:%d", r->how.nref);
    else
        buf_puts(b, "nrefs:var");
    buf_printf(b, "|case:%s|eff:no|tok:%s|smooth:exp|version:weft-%s",
               r->how.lowercase ? "lc" : "mixed", r->args->tokenizer, weft_version());
}

static const char *source(const eval_run *r) {
    return r->args->file ? r->args->file : r->args->hyp;
}

/* ---- The table ---- */

static void number(buf *b, double x) {
    if (isnan(x))
        buf_printf(b, " %12s", "-");
    else if (fabs(x) >= 1e6)
        buf_printf(b, " %12.4e", x);
    else
        buf_printf(b, " %12.4f", x);
}

static void model_notes(const eval_run *r, buf *b) {
    buf_printf(b, "\n%lld tokens scored, contexts begin %s BOS", (long long)r->result.scored,
               r->coder.bos >= 0 ? "with" : "without");
    if (r->task->kind == EVAL_PERPLEXITY)
        buf_printf(b, ", windows of %d advance by %d", (int)r->coder.window, (int)r->coder.stride);
    if (r->set.truncated)
        buf_printf(b, ", %lld cut to the context", (long long)r->set.truncated);
    buf_printf(b, "; %.1f s\n", r->seconds);
}

weft_status eval_print_table(const eval_run *r) {
    static const char *const unit[] = {[EVAL_CHOICE] = "item",
                                       [EVAL_LAMBADA] = "item",
                                       [EVAL_PERPLEXITY] = "document",
                                       [EVAL_TRANSLATION] = "row"};
    buf b;
    buf_init(&b, 1 << 16);
    buf_printf(&b, "%s, %lld %s%s of %s\n\n%-20s %12s %12s\n", r->task->name, (long long)r->items,
               unit[r->task->kind], r->items == 1 ? "" : "s", source(r), "metric", "value",
               "stderr");
    for (int i = 0; i < r->result.n; i++) {
        buf_printf(&b, "%-20s", r->result.m[i].name);
        number(&b, r->result.m[i].value);
        number(&b, r->result.m[i].se);
        buf_putc(&b, '\n');
    }
    if (is_model_score(r))
        model_notes(r, &b);
    if (is_bleu(r)) {
        const bleu_result *p = &r->how.bleu;
        buf_printf(&b, "\n%.1f/%.1f/%.1f/%.1f (BP %.3f, hypotheses %lld words, references %lld)\n",
                   p->precision[0], p->precision[1], p->precision[2], p->precision[3], p->brevity,
                   (long long)r->how.counts.hyp_len, (long long)r->how.counts.ref_len);
        signature(r, &b);
        buf_putc(&b, '\n');
    }
    weft_status st = cmd_flush(&b);
    buf_fini(&b);
    return st;
}

/* ---- JSON ---- */

static void key_number(buf *b, const char *key, double x) {
    buf_printf(b, ",\"%s\":", key);
    buf_json_double(b, x);
}

static void key_text(buf *b, const char *key, const char *s, size_t n) {
    buf_printf(b, ",\"%s\":", key);
    buf_json_line(b, s, n);
}

static void json_bleu(const eval_run *r, buf *b) {
    const bleu_counts *c = &r->how.counts;
    buf sign;
    buf_init(&sign, 1 << 10);
    signature(r, &sign);
    key_text(b, "signature", sign.data, sign.len);
    buf_fini(&sign);
    buf_puts(b, ",\"precisions\":[");
    for (int i = 0; i < 4; i++) {
        buf_puts(b, i ? "," : "");
        buf_json_double(b, r->how.bleu.precision[i]);
    }
    buf_printf(b, "],\"counts\":[%lld,%lld,%lld,%lld],\"totals\":[%lld,%lld,%lld,%lld]",
               (long long)c->shared[0], (long long)c->shared[1], (long long)c->shared[2],
               (long long)c->shared[3], (long long)c->total[0], (long long)c->total[1],
               (long long)c->total[2], (long long)c->total[3]);
    key_number(b, "bp", r->how.bleu.brevity);
    key_number(b, "sys_len", (double)c->hyp_len);
    key_number(b, "ref_len", (double)c->ref_len);
}

static void json_model(const eval_run *r, buf *b) {
    key_number(b, "tokens_scored", (double)r->result.scored);
    key_number(b, "truncated", (double)r->set.truncated);
    buf_printf(b, ",\"bos\":%s", r->coder.bos >= 0 ? "true" : "false");
    if (r->task->kind != EVAL_PERPLEXITY)
        return;
    key_number(b, "tokens", (double)r->set.tokens);
    key_number(b, "window", r->coder.window);
    key_number(b, "stride", r->coder.stride);
}

weft_status eval_print_json(const eval_run *r) {
    buf b;
    buf_init(&b, 1 << 20);
    buf_printf(&b, "{\"task\":\"%s\"", r->task->name);
    key_text(&b, "file", source(r), strlen(source(r)));
    if (r->model)
        key_text(&b, "model", r->model, strlen(r->model));
    key_number(&b, "items", (double)r->items);
    for (int i = 0; i < r->result.n; i++) {
        const eval_metric *m = &r->result.m[i];
        key_number(&b, m->name, m->value);
        buf_printf(&b, ",\"%s_stderr\":", m->name);
        buf_json_double(&b, m->se);
    }
    if (is_model_score(r))
        json_model(r, &b);
    if (is_bleu(r))
        json_bleu(r, &b);
    if (r->how.rouge)
        buf_printf(&b, ",\"stemmer\":%s", r->how.stem ? "true" : "false");
    key_number(&b, "seconds", r->seconds);
    buf_puts(&b, "}\n");
    weft_status st = cmd_flush(&b);
    buf_fini(&b);
    return st;
}

/* ---- Samples ---- */

static void sample_item(const eval_run *r, const eval_item *it, buf *b) {
    const score_request *q = &r->set.request[it->request];
    buf_printf(b, "{\"line\":%lld", (long long)it->line);
    if (r->task->kind == EVAL_LAMBADA) {
        key_number(b, "logprob", eval_sum(q));
        buf_printf(b, ",\"greedy\":%s}\n", q->greedy ? "true" : "false");
        return;
    }
    buf_printf(b, ",\"label\":%d,\"pick\":%d", it->gold, eval_pick(&r->set, it, 0));
    if (r->task->norm)
        buf_printf(b, ",\"pick_norm\":%d,\"pick_bytes\":%d", eval_pick(&r->set, it, 1),
                   eval_pick(&r->set, it, 2));
    buf_puts(b, ",\"logprobs\":[");
    for (int k = 0; k < it->n; k++) {
        buf_puts(b, k ? "," : "");
        buf_json_double(b, eval_sum(&q[k]));
    }
    buf_puts(b, "],\"tokens\":[");
    for (int k = 0; k < it->n; k++)
        buf_printf(b, "%s%d", k ? "," : "", (int)(q[k].n - q[k].first));
    buf_puts(b, "]}\n");
}

static void sample_window(const eval_run *r, int64_t i, buf *b) {
    const score_request *q = &r->set.request[i];
    buf_printf(b, "{\"window\":%lld,\"tokens\":%d,\"context\":%d", (long long)i,
               (int)(q->n - q->first), (int)q->first);
    key_number(b, "nll", -eval_sum(q));
    buf_puts(b, "}\n");
}

static void sample_pair(const eval_run *r, const translation *t, buf *b) {
    static const char *const name[ROUGE_KINDS] = {"rouge1", "rouge2", "rougeL", "rougeLsum"};
    buf_printf(b, "{\"line\":%lld", (long long)t->line);
    key_text(b, "hypothesis", t->hyp.s, t->hyp.n);
    if (is_bleu(r)) {
        key_number(b, "bleu", bleu_score(&t->bleu, true).score);
        key_number(b, "chrf", chrf_score(&t->chrf));
    }
    for (int k = 0; k < ROUGE_KINDS && r->how.rouge; k++) {
        buf_printf(b, ",\"%s\":[", name[k]);
        buf_json_double(b, t->rouge[k].precision);
        buf_putc(b, ',');
        buf_json_double(b, t->rouge[k].recall);
        buf_putc(b, ',');
        buf_json_double(b, t->rouge[k].f);
        buf_putc(b, ']');
    }
    buf_puts(b, "}\n");
}

weft_status eval_write_samples(const eval_run *r) {
    buf b;
    buf_init(&b, (size_t)1 << 32);
    if (!is_model_score(r))
        for (int64_t i = 0; i < r->pairs.n; i++)
            sample_pair(r, &r->pairs.row[i], &b);
    else if (r->task->kind == EVAL_PERPLEXITY)
        for (int64_t i = 0; i < r->set.nrequest; i++)
            sample_window(r, i, &b);
    else
        for (int64_t i = 0; i < r->set.nitem; i++)
            sample_item(r, &r->set.item[i], &b);
    weft_status st = b.failed ? weft_fail(WEFT_NO_MEMORY, "%s: too large", r->args->samples)
                              : file_write_atomic(r->args->samples, b.data, b.len);
    buf_fini(&b);
    return st;
}
