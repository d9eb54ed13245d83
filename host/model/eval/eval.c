/* SPDX-License-Identifier: Apache-2.0
 * From a file to requests, and from log-probabilities to metrics. */
#include "host/model/eval/eval.h"
#include "host/base/err.h"
#include <math.h>
#include <string.h>

/* ---- Reading ---- */

static eval_item *new_item(eval_set *s, int64_t *cap, int64_t line) {
    if (s->nitem == *cap) {
        *cap = *cap ? 2 * *cap : 64;
        eval_item *more = ARENA_NEW(&s->a, eval_item, *cap);
        if (s->nitem)
            memcpy(more, s->item, sizeof *more * (size_t)s->nitem);
        s->item = more;
    }
    eval_item *it = &s->item[s->nitem++];
    *it = (eval_item){.line = line, .pair = s->scratch};
    return it;
}

static void keep_pairs(eval_set *s, eval_item *it) {
    it->pair = ARENA_NEW(&s->a, eval_pair, it->n);
    memcpy(it->pair, s->scratch, sizeof *it->pair * (size_t)it->n);
}

/* Six lines an item: context, label, four endings (the form hellaswag_val_full.txt has). */
static weft_status read_six_lines(eval_set *s, row_reader *r, int64_t limit, int64_t *cap) {
    text context, label, ending;
    while (s->nitem < limit && rows_line(r, &context)) {
        eval_item *it = new_item(s, cap, r->line);
        if (!rows_line(r, &label) || label.n != 1 || label.s[0] < '0' || label.s[0] > '3')
            return weft_fail(WEFT_BAD_FILE,
                             "%s:%lld: not a label (0 to 3); an item is six lines: context, "
                             "label, four endings",
                             r->file, (long long)r->line);
        it->gold = label.s[0] - '0';
        context = eval_hellaswag_text(&s->a, context);
        for (it->n = 0; it->n < 4; it->n++) {
            if (!rows_line(r, &ending))
                return weft_fail(WEFT_BAD_FILE, "%s:%lld: ends in the middle of an item", r->file,
                                 (long long)r->line);
            ending = eval_hellaswag_text(&s->a, ending);
            it->pair[it->n] = (eval_pair){context, TEXT_JOIN(&s->a, text_of(" "), ending), ending};
        }
        keep_pairs(s, it);
    }
    return WEFT_OK;
}

static weft_status read_rows(eval_set *s, row_reader *r, int64_t limit, int64_t *cap) {
    for (bool more = true; s->nitem < limit;) {
        row one;
        WEFT_TRY(rows_next(r, &one, &more));
        if (!more)
            break;
        eval_item *it = new_item(s, cap, r->line);
        if (s->task->kind == EVAL_PERPLEXITY) {
            it->n = 1;
            WEFT_TRY(row_text(&one, "text", &it->pair[0].context));
        } else {
            WEFT_TRY(s->task->item(&one, it));
        }
        keep_pairs(s, it);
    }
    return WEFT_OK;
}

static bool ends_in(const char *name, const char *end) {
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

weft_status eval_open(eval_set *s, const eval_task *task, const char *file, int64_t limit) {
    row_reader r;
    int64_t cap = 0;
    *s = (eval_set){.task = task, .file = file};
    WEFT_TRY(rows_open(file, &s->a, &r));
    text whole = {r.at, (size_t)(r.end - r.at)};
    char first = text_strip(whole).s[0];
    if (limit <= 0)
        limit = INT64_MAX;
    if (task->kind == EVAL_PERPLEXITY && !ends_in(file, ".jsonl")) {
        eval_item *it = new_item(s, &cap, 1);
        it->n = 1;
        it->pair[0].context = whole;
        keep_pairs(s, it);
        return WEFT_OK;
    }
    if (task->item && first != '{' && strcmp(task->name, "hellaswag") == 0)
        return read_six_lines(s, &r, limit, &cap);
    return read_rows(s, &r, limit, &cap);
}

void eval_close(eval_set *s) {
    arena_fini(&s->a);
}

/* ---- Encoding ---- */

static weft_status encode(const eval_set *s, const eval_coder *c, const eval_item *it, text t,
                          tok_ids *out) {
    weft_status st = tokenizer_encode(c->tok, t.s, t.n, 0, out);
    return st == WEFT_OK ? st : err_prefix(st, "%s:%lld", s->file, (long long)it->line);
}

static void add_request(eval_set *s, const int32_t *ids, int64_t n, int64_t first, int64_t group) {
    s->request[s->nrequest++] = (score_request){.ids = ids,
                                                .n = (int32_t)n,
                                                .first = (int32_t)first,
                                                .group = (int32_t)group,
                                                .logprob = ARENA_NEW(&s->a, float, n - first)};
    s->longest = n > s->longest ? (int32_t)n : s->longest;
}

/* The continuation's tokens are those of the whole text behind as many as the context alone has. */
static weft_status split(const eval_set *s, const eval_coder *c, const eval_item *it,
                         const eval_pair *p, tok_ids *head, tok_ids *whole) {
    text context = text_rstrip(p->context);
    text moved = {context.s + context.n, p->context.n - context.n};
    arena a = {0};
    text all = TEXT_JOIN(&a, context, moved, p->continuation);
    weft_status st = encode(s, c, it, all, whole);
    if (st == WEFT_OK && context.n)
        st = encode(s, c, it, context, head);
    arena_fini(&a);
    return st;
}

static weft_status add_pair(eval_set *s, const eval_coder *c, const eval_item *it,
                            const eval_pair *p, int64_t group) {
    tok_ids head = {0}, whole = {0};
    weft_status st = split(s, c, it, p, &head, &whole);
    bool empty = head.n == 0;
    int32_t prefix = empty && c->bos < 0 ? c->prefix : c->bos;
    if (st == WEFT_OK && whole.n <= head.n)
        st = weft_fail(WEFT_BAD_FILE, "%s:%lld: a choice adds no token to its context", s->file,
                       (long long)it->line);
    else if (st == WEFT_OK && empty && prefix < 0 && whole.n < 2)
        st = weft_fail(WEFT_BAD_FILE,
                       "%s:%lld: no context, and the tokenizer has neither BOS nor EOS", s->file,
                       (long long)it->line);
    if (st == WEFT_OK) {
        int32_t *ids = ARENA_NEW(&s->a, int32_t, whole.n + 1);
        size_t n = 0;
        if (prefix >= 0 && !(empty && whole.v[0] == prefix))
            ids[n++] = prefix;
        if (head.n)
            memcpy(ids + n, head.v, head.n * sizeof *ids);
        size_t first = n + head.n;
        memcpy(ids + first, whole.v + head.n, (whole.n - head.n) * sizeof *ids);
        add_request(s, ids, (int64_t)(n + whole.n), (int64_t)(first ? first : 1), group);
        s->request[s->nrequest - 1].look = s->task->kind == EVAL_LAMBADA;
    }
    tok_ids_fini(&head);
    tok_ids_fini(&whole);
    return st;
}

/* Windows over one document: each scores what the one before it did not reach, the first of a
 * text without BOS has no context and is not scored. */
static weft_status add_windows(eval_set *s, const eval_coder *c, const eval_item *it,
                               int64_t *group) {
    tok_ids t = {0};
    weft_status st = encode(s, c, it, it->pair[0].context, &t);
    int64_t bos = c->bos >= 0, room = c->window - bos, n = (int64_t)t.n, done = 1 - bos;
    s->tokens += n;
    for (int64_t at = 0; st == WEFT_OK && done < n; at += c->stride) {
        int64_t end = at + room < n ? at + room : n;
        int32_t *ids = ARENA_NEW(&s->a, int32_t, end - at + bos);
        if (bos)
            ids[0] = c->bos;
        memcpy(ids + bos, t.v + at, (size_t)(end - at) * sizeof *ids);
        add_request(s, ids, end - at + bos, done - at + bos, (*group)++);
        done = end;
    }
    tok_ids_fini(&t);
    return st;
}

static int64_t most_requests(const eval_set *s, const eval_coder *c) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->nitem; i++)
        n += s->task->kind == EVAL_PERPLEXITY
                 ? (int64_t)s->item[i].pair[0].context.n / c->stride + 2
                 : s->item[i].n;
    return n;
}

weft_status eval_encode(eval_set *s, const eval_coder *c) {
    int64_t group = 0;
    s->request = ARENA_NEW(&s->a, score_request, most_requests(s, c));
    for (int64_t i = 0; i < s->nitem; i++) {
        eval_item *it = &s->item[i];
        it->request = s->nrequest;
        if (s->task->kind == EVAL_PERPLEXITY) {
            WEFT_TRY(add_windows(s, c, it, &group));
            continue;
        }
        for (int k = 0; k < it->n; k++)
            WEFT_TRY(add_pair(s, c, it, &it->pair[k], group));
        group++;
    }
    if (s->nrequest == 0)
        return weft_fail(WEFT_BAD_FILE, "%s: too short to score: it has %lld tokens", s->file,
                         (long long)s->tokens);
    return WEFT_OK;
}

weft_status eval_truncate(eval_set *s, int32_t ctx) {
    for (int64_t i = 0; i < s->nitem; i++) {
        int64_t end = i + 1 < s->nitem ? s->item[i + 1].request : s->nrequest;
        for (int64_t k = s->item[i].request; k < end; k++) {
            score_request *r = &s->request[k];
            int32_t cut = r->n - 1 - ctx;
            if (cut <= 0)
                continue;
            if (r->first - cut < 1)
                return weft_fail(WEFT_USAGE,
                                 "%s:%lld: a continuation of %d tokens does not fit the context "
                                 "(%d); raise it with -c",
                                 s->file, (long long)s->item[i].line, r->n - r->first, ctx);
            r->ids += cut;
            r->n -= cut;
            r->first -= cut;
            s->truncated++;
        }
    }
    return WEFT_OK;
}

/* ---- Metrics ---- */

void eval_mean_add(eval_mean *m, double x) {
    double d = x - m->mean;
    m->n++;
    m->sum += x;
    m->mean += d / (double)m->n;
    m->m2 += d * (x - m->mean);
}

double eval_mean_of(const eval_mean *m) {
    return m->sum / (double)m->n;
}

double eval_mean_se(const eval_mean *m) {
    return m->n < 2 ? (double)NAN : sqrt(m->m2 / (double)(m->n - 1) / (double)m->n);
}

void eval_add(eval_result *r, const char *name, double value, double se) {
    WEFT_ASSERT(r->n < EVAL_MAX_METRICS);
    r->m[r->n++] = (eval_metric){name, value, se};
}

double eval_sum(const score_request *r) {
    double sum = 0;
    for (int32_t i = 0; i < r->n - r->first; i++)
        sum += (double)r->logprob[i];
    return sum;
}

int eval_pick(const eval_set *s, const eval_item *it, int per) {
    int best = 0;
    double best_value = -INFINITY;
    for (int k = 0; k < it->n; k++) {
        text c = it->pair[k].choice;
        double length = per == 0 ? 1 : per == 1 ? (double)text_chars(c) : (double)c.n;
        double value = eval_sum(&s->request[it->request + k]) / length;
        if (value > best_value) {
            best = k;
            best_value = value;
        }
    }
    return best;
}

static void finish_choice(const eval_set *s, eval_result *out) {
    static const char *const name[3] = {"acc", "acc_norm", "acc_bytes"};
    for (int per = 0; per < (s->task->norm ? 3 : 1); per++) {
        eval_mean m = {0};
        for (int64_t i = 0; i < s->nitem; i++)
            eval_mean_add(&m, eval_pick(s, &s->item[i], per) == s->item[i].gold);
        eval_add(out, name[per], eval_mean_of(&m), eval_mean_se(&m));
    }
}

/* exp is not linear, so its standard error is that of the mean times its slope there. */
static void add_perplexity(eval_result *out, const char *name, const eval_mean *nll) {
    double ppl = exp(eval_mean_of(nll));
    eval_add(out, name, ppl, ppl * eval_mean_se(nll));
}

static void finish_lambada(const eval_set *s, eval_result *out) {
    eval_mean acc = {0}, nll = {0};
    for (int64_t i = 0; i < s->nrequest; i++) {
        eval_mean_add(&acc, s->request[i].greedy);
        eval_mean_add(&nll, -eval_sum(&s->request[i]));
    }
    eval_add(out, "acc", eval_mean_of(&acc), eval_mean_se(&acc));
    add_perplexity(out, "perplexity", &nll);
}

static void finish_perplexity(const eval_set *s, eval_result *out) {
    eval_mean nll = {0};
    double sum = 0, nword = 0, nbyte = 0;
    for (int64_t i = 0; i < s->nrequest; i++) {
        const score_request *r = &s->request[i];
        sum -= eval_sum(r);
        for (int32_t k = 0; k < r->n - r->first; k++)
            eval_mean_add(&nll, -(double)r->logprob[k]);
    }
    for (int64_t i = 0; i < s->nitem; i++) {
        nword += (double)text_words(s->item[i].pair[0].context);
        nbyte += (double)s->item[i].pair[0].context.n;
    }
    eval_add(out, "nll", eval_mean_of(&nll), eval_mean_se(&nll));
    add_perplexity(out, "perplexity", &nll);
    eval_add(out, "word_perplexity", exp(sum / nword), NAN);
    eval_add(out, "byte_perplexity", exp(sum / nbyte), NAN);
    eval_add(out, "bits_per_byte", sum / nbyte / log(2), NAN);
}

void eval_finish(const eval_set *s, eval_result *out) {
    for (int64_t i = 0; i < s->nrequest; i++)
        out->scored += s->request[i].n - s->request[i].first;
    switch (s->task->kind) {
    case EVAL_CHOICE: finish_choice(s, out); break;
    case EVAL_LAMBADA: finish_lambada(s, out); break;
    default: finish_perplexity(s, out); break;
    }
}
