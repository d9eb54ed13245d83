/* SPDX-License-Identifier: Apache-2.0
 * Sources opened, split and mixed. */
#include "host/train/data.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/hash.h"
#include "host/train/data_order.h"
#include "host/train/data_source.h"
#include "host/train/doc.h"
#include <math.h>
#include <string.h>

enum { MAX_SEQ_LEN = 1 << 24 };
/* The split is the same for every seed: what one run learned is not what another is judged by. */
static const uint64_t split_seed = 0x76616c6964617465;

/* Rows [first, first + n) of a source, in the order of its split. */
typedef struct {
    const data_source *s;
    int64_t first, n;
    bool shuffled;
} view;

struct dataset {
    data_options o;
    data_source *source;
    int n_source, T;
    view *train, *val; /* one a source */
    data_mix mix;
    int64_t *val_first; /* n_source + 1 */
    tokenizer *tok;
    chat_template *chat;
};

/* ---- Text and rows into memory ---- */

typedef struct {
    data_source *s;
    doc_kind kind;
} collector;

static weft_status collect(void *ctx, int64_t number, const doc *d, const doc_tokens *t) {
    collector *c = ctx;
    data_source *s = c->s;
    (void)number;
    if (t->ids.n == 0)
        return WEFT_OK;
    c->kind = d->kind;
    if (t->labels.n && s->labels.len == 0 && s->ids.len) /* the first with labels of its own */
        buf_add(&s->labels, s->ids.data, s->ids.len);
    buf_add(&s->ids, t->ids.v, t->ids.n * sizeof *t->ids.v);
    if (t->labels.n || s->labels.len)
        buf_add(&s->labels, t->labels.n ? t->labels.v : t->ids.v, t->ids.n * sizeof *t->ids.v);
    uint64_t end = s->ids.len / sizeof *t->ids.v;
    buf_add(&s->doc, &end, sizeof end);
    return WEFT_OK;
}

static uint64_t hash_source(const data_source *s) {
    hash_stream *h = hash_open();
    hash_add(h, s->ids.data, s->ids.len);
    hash_add(h, s->doc.data, s->doc.len);
    hash_add(h, s->labels.data, s->labels.len);
    uint64_t v = hash_value(h);
    hash_close(h);
    return v;
}

static void finish_memory(data_source *s) {
    s->n_part = 1;
    s->part = mem_alloc(sizeof *s->part);
    s->first = mem_alloc(2 * sizeof *s->first);
    s->part[0] = (data_part){.ids = s->ids.data,
                             .labels = s->labels.len ? (const int32_t *)(void *)s->labels.data
                                                     : NULL,
                             .doc = (const uint64_t *)(void *)s->doc.data,
                             .n_doc = (int64_t)(s->doc.len / sizeof(uint64_t)) - 1,
                             .n = (int64_t)(s->ids.len / sizeof(int32_t)),
                             .width = 4};
    s->first[1] = (uint64_t)s->part[0].n;
    s->hash = hash_source(s);
}

/* Opened once, when the first source needs it. */
static weft_status need_tokenizer(dataset *d, doc_kind kind) {
    if (!d->o.model_dir || kind == DOC_ROW)
        return WEFT_OK;
    if (!d->tok)
        WEFT_TRY(tokenizer_open(d->o.model_dir, &d->tok));
    if (kind == DOC_CHAT && !d->chat)
        WEFT_TRY(chat_template_open(d->o.model_dir, NULL, &d->chat));
    if (d->o.append_eos && tokenizer_eos(d->tok) < 0)
        return weft_fail(WEFT_USAGE, "%s: the tokenizer has no EOS to append", d->o.model_dir);
    return WEFT_OK;
}

/* Which kind of documents, from the first. */
static weft_status peek_kind(const char *path, doc_kind *kind) {
    doc_reader r;
    doc d;
    WEFT_TRY(doc_open(path, &r));
    weft_status s = doc_next(&r, &d);
    doc_close(&r);
    *kind = d.kind;
    if (s == WEFT_OK && d.kind == DOC_NONE)
        s = weft_fail(WEFT_BAD_FILE, "%s: is empty", path);
    return s;
}

static weft_status open_documents(dataset *d, const char *path, data_source *s) {
    doc_kind kind = DOC_NONE;
    WEFT_TRY(peek_kind(path, &kind));
    WEFT_TRY(need_tokenizer(d, kind));
    doc_encoder e = {.tok = d->tok,
                     .chat = d->chat,
                     .vocab = d->o.vocab,
                     .sft = d->o.sft,
                     .append_eos = d->o.append_eos};
    collector c = {.s = s};
    doc_reader r;
    uint64_t zero = 0;
    buf_add(&s->doc, &zero, sizeof zero);
    WEFT_TRY(doc_open(path, &r));
    weft_status st = doc_run(&r, &e, d->o.threads, NULL, collect, &c);
    doc_close(&r);
    if (st == WEFT_OK && s->ids.len == 0)
        st = weft_fail(WEFT_BAD_FILE, "%s: no token in it", path);
    s->own_rows = c.kind == DOC_ROW || (c.kind == DOC_CHAT && d->o.sft);
    finish_memory(s);
    return st;
}

/* ---- Opening ---- */

static weft_status check_options(const data_options *o) {
    if (o->n_path < 1 || o->n_path > DATA_MAX_SOURCES)
        return weft_fail(WEFT_USAGE, "--data: %d paths (1 to %d)", o->n_path, DATA_MAX_SOURCES);
    if (o->seq_len < 0 || o->seq_len == 1 || o->seq_len > MAX_SEQ_LEN)
        return weft_fail(WEFT_USAGE, "--seq-len: %d is out of range (2 to %d; 0: the longest row)",
                         o->seq_len, MAX_SEQ_LEN);
    if (!(o->val_fraction >= 0 && o->val_fraction < 1))
        return weft_fail(WEFT_USAGE, "--val: %g is out of range (0 to below 1)", o->val_fraction);
    for (int i = 0; o->weight && i < o->n_path; i++)
        if (!(o->weight[i] > 0 && isfinite(o->weight[i])))
            return weft_fail(WEFT_USAGE, "--weights: %s has %g; give a number above 0", o->path[i],
                             o->weight[i]);
    return WEFT_OK;
}

static weft_status open_source(dataset *d, const char *path) {
    data_source *s = &d->source[d->n_source++];
    size_t n = strlen(path) + 1;
    *s = (data_source){.name = mem_alloc(n)};
    memcpy(s->name, path, n);
    buf_init(&s->ids, SIZE_MAX);
    buf_init(&s->labels, SIZE_MAX);
    buf_init(&s->doc, SIZE_MAX);
    return open_documents(d, path, s);
}

static weft_status choose_length(dataset *d) {
    int64_t most = 0;
    d->T = d->o.seq_len;
    for (int i = 0; i < d->n_source && !d->o.seq_len; i++) {
        if (!d->source[i].own_rows)
            return weft_fail(WEFT_USAGE, "--seq-len: needed, as %s is text and not rows",
                             d->source[i].name);
        int64_t n = source_longest(&d->source[i]);
        most = n > most ? n : most;
    }
    if (most > MAX_SEQ_LEN)
        return weft_fail(WEFT_USAGE, "--seq-len: the longest row has %lld tokens (limit %d)",
                         (long long)most, MAX_SEQ_LEN);
    if (most)
        d->T = most < 2 ? 2 : (int)most;
    return WEFT_OK;
}

/* The end of each source is for validation, of the file's order or of a fixed shuffle of it. */
static weft_status split(dataset *d) {
    for (int i = 0; i < d->n_source; i++) {
        const data_source *s = &d->source[i];
        int64_t val = (int64_t)ceil(d->o.val_fraction * (double)s->n_row);
        view all = {.s = s, .n = s->n_row - val, .shuffled = !d->o.file_order};
        d->train[i] = d->val[i] = all;
        d->val[i].first = all.n;
        d->val[i].n = val;
        if (all.n < 1)
            return weft_fail(WEFT_BAD_FILE,
                             "%s: no row left to train on: %lld in all, %lld for validation",
                             s->name, (long long)s->n_row, (long long)val);
    }
    return WEFT_OK;
}

static void mix(dataset *d) {
    int64_t *rows = mem_alloc((size_t)d->n_source * sizeof *rows);
    for (int i = 0; i < d->n_source; i++) {
        rows[i] = d->train[i].n;
        d->val_first[i + 1] = d->val_first[i] + d->val[i].n;
    }
    data_mix_init(&d->mix, rows, d->o.weight, d->n_source);
    mem_free(rows);
}

static weft_status open_all(dataset *d) {
    const data_options *o = &d->o;
    d->source = mem_alloc((size_t)o->n_path * sizeof *d->source);
    for (int i = 0; i < o->n_path; i++)
        WEFT_TRY(open_source(d, o->path[i]));
    size_t n = (size_t)d->n_source;
    d->train = mem_alloc(n * sizeof *d->train);
    d->val = mem_alloc(n * sizeof *d->val);
    d->val_first = mem_alloc((n + 1) * sizeof *d->val_first);
    WEFT_TRY(choose_length(d));
    for (int i = 0; i < d->n_source; i++)
        WEFT_TRY(source_layout(&d->source[i], d->T, o->pack, o->file_order));
    WEFT_TRY(split(d));
    mix(d);
    return WEFT_OK;
}

weft_status data_open(const data_options *o, dataset **out) {
    WEFT_TRY(check_options(o));
    dataset *d = mem_alloc(sizeof *d);
    d->o = *o;
    weft_status s = open_all(d);
    d->o.path = NULL; /* the caller's */
    d->o.weight = NULL;
    d->o.model_dir = NULL;
    if (s == WEFT_OK)
        *out = d;
    else
        data_close(d);
    return s;
}

void data_close(dataset *d) {
    if (!d)
        return;
    for (int i = 0; i < d->n_source; i++)
        source_fini(&d->source[i]);
    mem_free(d->source);
    mem_free(d->train);
    mem_free(d->val);
    mem_free(d->val_first);
    data_mix_fini(&d->mix);
    chat_template_close(d->chat);
    tokenizer_close(d->tok);
    mem_free(d);
}

/* ---- Questions ---- */

int data_seq_len(const dataset *d) {
    return d->T;
}

int64_t data_tokens(const dataset *d) {
    int64_t n = 0;
    for (int i = 0; i < d->n_source; i++)
        n += source_tokens(&d->source[i]);
    return n;
}

int64_t data_rows_per_epoch(const dataset *d) {
    int64_t n = 0;
    for (int i = 0; i < d->n_source; i++)
        n += d->train[i].n;
    return n;
}

int64_t data_val_rows(const dataset *d) {
    return d->val_first[d->n_source];
}

uint64_t data_hash(const dataset *d) {
    hash_stream *h = hash_open();
    for (int i = 0; i < d->n_source; i++)
        hash_add(h, &d->source[i].hash, sizeof d->source[i].hash);
    uint64_t v = hash_value(h);
    hash_close(h);
    return v;
}

int64_t data_cut(const dataset *d) {
    int64_t n = 0;
    for (int i = 0; i < d->n_source; i++)
        n += d->source[i].cut;
    return n;
}

int64_t data_left_out(const dataset *d) {
    int64_t n = 0;
    for (int i = 0; i < d->n_source; i++)
        n += d->source[i].left_out;
    return n;
}

/* ---- Rows ---- */

static void view_row(const view *v, int64_t i, int32_t *ids, int32_t *labels, int32_t *pos,
                     int32_t *len) {
    int64_t r = v->first + i;
    if (v->shuffled)
        r = (int64_t)data_permute(split_seed, 0, (uint64_t)v->s->n_row, (uint64_t)r);
    source_row(v->s, r, ids, labels, pos, len);
}

static void empty_row(int T, int32_t *ids, int32_t *labels, int32_t *pos, int32_t *len) {
    for (int k = 0; k < T; k++) {
        ids[k] = pos[k] = 0;
        labels[k] = DATA_IGNORED;
    }
    *len = 0;
}

static void val_row(const dataset *d, int64_t g, int32_t *ids, int32_t *labels, int32_t *pos,
                    int32_t *len) {
    if (g >= data_val_rows(d)) {
        empty_row(d->T, ids, labels, pos, len);
        return;
    }
    int i = 0;
    while (d->val_first[i + 1] <= g)
        i++;
    view_row(&d->val[i], g - d->val_first[i], ids, labels, pos, len);
}

void data_rows(const dataset *d, bool validation, int64_t step, int batch, int row0, int n,
               int32_t *ids, int32_t *labels, int32_t *pos, int32_t *len) {
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * (size_t)d->T;
        int64_t g = step * batch + row0 + i, row;
        int s;
        if (validation) {
            val_row(d, g, ids + at, labels + at, pos + at, len + i);
            continue;
        }
        data_mix_row(&d->mix, d->o.seed, d->o.file_order, g, &s, &row);
        view_row(&d->train[s], row, ids + at, labels + at, pos + at, len + i);
    }
}
