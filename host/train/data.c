/* SPDX-License-Identifier: Apache-2.0
 * Sources opened, split and mixed. */
#include "host/train/data.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/hash.h"
#include "host/train/data_order.h"
#include "host/train/data_source.h"
#include "host/train/doc.h"
#include "host/train/shard.h"
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

/* What is mixed: a path, or a source of a folder of shards. */
typedef struct {
    int path;
    double weight;                  /* within the path, as its manifest says; 0: by size */
    data_source *source, *held_out; /* held_out: validation shards; NULL: rows of the source */
    view train, val;
} entry;

struct dataset {
    data_options o;
    entry *entry;
    int n, T;
    data_mix mix;
    int64_t *val_first; /* n + 1 */
    tokenizer *tok;
    chat_template *chat;
};

static data_source *source_new(const char *name) {
    data_source *s = mem_alloc(sizeof *s);
    size_t n = strlen(name) + 1;
    s->name = mem_alloc(n);
    memcpy(s->name, name, n);
    buf_init(&s->ids, SIZE_MAX);
    buf_init(&s->labels, SIZE_MAX);
    buf_init(&s->doc, SIZE_MAX);
    return s;
}

static void source_free(data_source *s) {
    if (s)
        source_fini(s);
    mem_free(s);
}

static entry *entry_new(dataset *d, int path, const char *name) {
    d->entry = mem_grow(d->entry, ((size_t)d->n + 1) * sizeof *d->entry);
    d->entry[d->n] = (entry){.path = path, .source = source_new(name)};
    return &d->entry[d->n++];
}

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

/* ---- Shards ---- */

static weft_status add_parts(data_source *s, const char *dir, const shard_manifest *m,
                             const shard_source *from, bool validation) {
    size_t n = (size_t)from->n;
    hash_stream *h = hash_open();
    weft_status st = WEFT_OK;
    s->part = mem_alloc((n + 1) * sizeof *s->part);
    s->map = mem_alloc((n + 1) * sizeof *s->map);
    s->first = mem_alloc((n + 2) * sizeof *s->first);
    s->own_rows = m->own_rows;
    for (int i = 0; st == WEFT_OK && i < from->n; i++) {
        const shard_entry *e = &from->shard[i];
        if (e->validation != validation)
            continue;
        st = shard_map(dir, m, e, &s->map[s->n_part], &s->part[s->n_part]);
        if (st != WEFT_OK)
            break;
        s->first[s->n_part + 1] = s->first[s->n_part] + (uint64_t)e->tokens;
        s->n_part++;
        hash_add(h, &e->xxh3, sizeof e->xxh3);
    }
    s->hash = hash_value(h);
    hash_close(h);
    return st;
}

static weft_status check_manifest(dataset *d, const char *dir, const shard_manifest *m) {
    if (d->o.vocab && m->vocab > d->o.vocab)
        return weft_fail(WEFT_BAD_FILE, "%s: shards of a vocabulary of %d; the model has %d", dir,
                         (int)m->vocab, (int)d->o.vocab);
    if (!d->o.model_dir)
        return WEFT_OK;
    if (!d->tok)
        WEFT_TRY(tokenizer_open(d->o.model_dir, &d->tok));
    if (shard_tokenizer_hash(d->tok) != m->tokenizer)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: shards made with another tokenizer than %s has; make them again with "
                         "`weft data --tokenizer %s`",
                         dir, d->o.model_dir, d->o.model_dir);
    return WEFT_OK;
}

static weft_status open_shard_source(dataset *d, int path, const shard_manifest *m,
                                     const shard_source *from) {
    const char *dir = d->o.path[path];
    arena a = {0};
    const char *name = arena_printf(&a, "%s (%s)", dir, from->name);
    entry *e = entry_new(d, path, name);
    e->weight = from->weight;
    weft_status s = add_parts(e->source, dir, m, from, false);
    bool held_out = false;
    for (int i = 0; i < from->n; i++)
        held_out |= from->shard[i].validation;
    if (s == WEFT_OK && held_out) {
        e->held_out = source_new(name);
        s = add_parts(e->held_out, dir, m, from, true);
    }
    if (s == WEFT_OK && e->source->n_part == 0)
        s = weft_fail(WEFT_BAD_FILE, "%s: no shard to train on", name);
    arena_fini(&a);
    return s;
}

static weft_status open_shards(dataset *d, int path) {
    arena a = {0};
    shard_manifest m;
    const char *dir = d->o.path[path];
    weft_status s = shard_manifest_read(dir, &a, &m);
    if (s == WEFT_OK)
        s = check_manifest(d, dir, &m);
    for (int i = 0; s == WEFT_OK && i < m.n; i++)
        s = open_shard_source(d, path, &m, &m.source[i]);
    arena_fini(&a);
    return s;
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

static weft_status open_path(dataset *d, int i) {
    const char *path = d->o.path[i];
    if (shard_is_folder(path))
        return open_shards(d, i);
    return open_documents(d, path, entry_new(d, i, path)->source);
}

static weft_status choose_length(dataset *d) {
    int64_t most = 0;
    d->T = d->o.seq_len;
    for (int i = 0; i < d->n && !d->o.seq_len; i++) {
        const data_source *s = d->entry[i].source;
        if (!s->own_rows && d->o.text_len) {
            d->T = d->o.text_len;
            return WEFT_OK;
        }
        if (!s->own_rows)
            return weft_fail(WEFT_USAGE, "--seq-len: needed, as %s is text and not rows", s->name);
        int64_t n = source_longest(s);
        most = n > most ? n : most;
    }
    if (most > MAX_SEQ_LEN)
        return weft_fail(WEFT_USAGE, "--seq-len: the longest row has %lld tokens (limit %d)",
                         (long long)most, MAX_SEQ_LEN);
    if (most)
        d->T = most < 2 ? 2 : (int)most;
    return WEFT_OK;
}

/* The end of a source is for validation, of the file's order or of a fixed shuffle of it. */
static weft_status split(const dataset *d, entry *e) {
    const data_source *s = e->source;
    int64_t val = e->held_out ? 0 : (int64_t)ceil(d->o.val_fraction * (double)s->n_row);
    e->train = (view){.s = s, .n = s->n_row - val, .shuffled = !d->o.file_order};
    e->val = e->train;
    e->val.first = e->train.n;
    e->val.n = val;
    if (e->held_out)
        e->val = (view){.s = e->held_out, .n = e->held_out->n_row};
    if (e->train.n < 1)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: no row left to train on: %lld in all, %lld for validation", s->name,
                         (long long)s->n_row, (long long)val);
    return WEFT_OK;
}

static weft_status lay_out(dataset *d, entry *e) {
    WEFT_TRY(source_layout(e->source, d->T, d->o.pack, d->o.file_order));
    if (e->held_out) {
        WEFT_TRY(source_layout(e->held_out, d->T, d->o.pack, true));
    }
    return split(d, e);
}

/* The share of each entry: its path's, and within the path as its manifest says. False: none has
 * a weight. */
static bool shares(const dataset *d, double *out) {
    bool any = d->o.weight != NULL;
    for (int i = 0; i < d->n; i++) {
        const entry *e = &d->entry[i];
        double weight = 0, rows = 0;
        for (int k = 0; k < d->n; k++)
            if (d->entry[k].path == e->path) {
                weight += d->entry[k].weight;
                rows += (double)d->entry[k].train.n;
            }
        double within = e->weight > 0 ? e->weight / weight : (double)e->train.n / rows;
        out[i] = within * (d->o.weight ? d->o.weight[e->path] : rows);
        any |= e->weight > 0;
    }
    return any;
}

static void mix(dataset *d) {
    arena a = {0};
    int64_t *rows = ARENA_NEW(&a, int64_t, d->n);
    double *weight = ARENA_NEW(&a, double, d->n);
    d->val_first = mem_alloc(((size_t)d->n + 1) * sizeof *d->val_first);
    for (int i = 0; i < d->n; i++) {
        rows[i] = d->entry[i].train.n;
        d->val_first[i + 1] = d->val_first[i] + d->entry[i].val.n;
    }
    data_mix_init(&d->mix, rows, shares(d, weight) ? weight : NULL, d->n);
    arena_fini(&a);
}

static weft_status open_all(dataset *d) {
    for (int i = 0; i < d->o.n_path; i++)
        WEFT_TRY(open_path(d, i));
    if (d->n > DATA_MAX_SOURCES)
        return weft_fail(WEFT_USAGE, "--data: %d sources (limit %d)", d->n, DATA_MAX_SOURCES);
    WEFT_TRY(choose_length(d));
    for (int i = 0; i < d->n; i++)
        WEFT_TRY(lay_out(d, &d->entry[i]));
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
    for (int i = 0; i < d->n; i++) {
        source_free(d->entry[i].source);
        source_free(d->entry[i].held_out);
    }
    mem_free(d->entry);
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
    for (int i = 0; i < d->n; i++) {
        n += source_tokens(d->entry[i].source);
        n += d->entry[i].held_out ? source_tokens(d->entry[i].held_out) : 0;
    }
    return n;
}

int64_t data_rows_per_epoch(const dataset *d) {
    int64_t n = 0;
    for (int i = 0; i < d->n; i++)
        n += d->entry[i].train.n;
    return n;
}

int64_t data_val_rows(const dataset *d) {
    return d->val_first[d->n];
}

uint64_t data_hash(const dataset *d) {
    hash_stream *h = hash_open();
    for (int i = 0; i < d->n; i++) {
        hash_add(h, &d->entry[i].source->hash, sizeof(uint64_t));
        if (d->entry[i].held_out)
            hash_add(h, &d->entry[i].held_out->hash, sizeof(uint64_t));
    }
    uint64_t v = hash_value(h);
    hash_close(h);
    return v;
}

int64_t data_cut(const dataset *d) {
    int64_t n = 0;
    for (int i = 0; i < d->n; i++)
        n += d->entry[i].source->cut;
    return n;
}

int64_t data_left_out(const dataset *d) {
    int64_t n = 0;
    for (int i = 0; i < d->n; i++)
        n += d->entry[i].source->left_out;
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
    view_row(&d->entry[i].val, g - d->val_first[i], ids, labels, pos, len);
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
        view_row(&d->entry[s].train, row, ids + at, labels + at, pos + at, len + i);
    }
}
