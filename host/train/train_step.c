/* SPDX-License-Identifier: Apache-2.0
 * Steps: the feed of a micro-batch, gradients unit by unit, their sums over shards, the
 * optimizer. */
#include "host/base/err.h"
#include "host/train/trainer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A micro-batch: rows [begin, begin + n) of the batch; the rest of the plan's rows are empty. */
typedef struct {
    trainer *t;
    int begin, n;
    int seqs;
} micro;

static int32_t *words(const trainer *t, const decoder_place *p) {
    return (int32_t *)(void *)(t->feed + p->off);
}

/* ---- The feed ---- */

/* transformers shifts labels: a place is to predict the label of the next one, if that continues
 * the same document. */
static int32_t target_of(const trainer *t, int row, int i) {
    int64_t at = (int64_t)row * t->g.shape.row_tokens + i;
    if (i + 1 >= t->rows.len[row] || t->rows.pos[at + 1] == 0)
        return -1;
    int32_t label = t->rows.labels[at + 1];
    return label < 0 ? -1 : label;
}

static void feed_row(const micro *m, int r) {
    const trainer *t = m->t;
    const graph *g = &t->g;
    int row = m->begin + r, stride = g->shape.stride, len = r < m->n ? t->rows.len[row] : 0;
    int64_t to = (int64_t)r * stride, from = (int64_t)row * g->shape.row_tokens;
    int32_t *ids = words(t, &g->io.ids), *pos = words(t, &g->io.pos);
    int32_t *target = words(t, &g->train.target), *place = words(t, &g->training.place);
    for (int i = 0; i < stride; i++) {
        bool real = i < len;
        ids[to + i] = real ? t->rows.ids[from + i] : 0;
        pos[to + i] = real ? t->rows.pos[from + i] : i - len;
        target[to + i] = real ? target_of(t, row, i) : -1;
        place[to + i] = (int32_t)(from + i);
    }
}

static void begin_seq(micro *m, int at) {
    const trainer *t = m->t;
    words(t, &t->g.io.qstart)[m->seqs] = at;
    words(t, &t->g.io.qpos)[m->seqs++] = 0;
}

/* A sequence for every document, and one for what a row does not fill. */
static void feed_seqs(micro *m) {
    const trainer *t = m->t;
    const graph *g = &t->g;
    const int32_t *pos = words(t, &g->io.pos);
    int tokens = g->shape.tokens, stride = g->shape.stride;
    int32_t *qstart = words(t, &g->io.qstart), *kvlen = words(t, &g->io.kvlen);
    m->seqs = 0;
    for (int i = 0; i < tokens; i++)
        if (pos[i] == 0 || i % stride == 0)
            begin_seq(m, i);
    for (int i = m->seqs; i <= tokens; i++)
        qstart[i] = tokens;
    for (int i = 0; i < tokens; i++)
        kvlen[i] = qstart[i + 1] - qstart[i];
}

static void feed_work(const micro *m) {
    const trainer *t = m->t;
    const graph *g = &t->g;
    const int32_t *qstart = words(t, &g->io.qstart);
    int32_t *work = words(t, &g->io.work), n = 0, tile = g->shape.query_tile;
    for (int s = 0; s < m->seqs; s++) {
        int32_t len = qstart[s + 1] - qstart[s];
        for (int32_t q = 0; q < len; q += tile)
            for (int32_t h = 0; h < g->shape.kv_heads; h++, n++)
                memcpy(work + 4 * (int64_t)n,
                       (int32_t[4]){s, q, len - q < tile ? len - q : tile, h}, 16);
    }
    *words(t, &g->io.nwork) = n;
}

typedef struct {
    int32_t id, row;
} ranked;

static int by_id(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void feed_order(const trainer *t, const int32_t *ids, int32_t *order) {
    int n = t->g.shape.tokens;
    ranked *r = mem_alloc(sizeof *r * (size_t)n);
    for (int i = 0; i < n; i++)
        r[i] = (ranked){ids[i], i};
    qsort(r, (size_t)n, sizeof *r, by_id);
    for (int i = 0; i < n; i++)
        order[i] = r[i].row;
    mem_free(r);
}

static weft_status send_feed(const trainer *t) {
    return t->dev->copy(t->dev, t->stream, t->base[WEFT_SPACE_FEED], t->feed,
                        t->g.bytes[WEFT_SPACE_FEED], DEVICE_TO);
}

/* Dropout draws by (seed, step): a key of its own for each step. */
static void feed_key(const trainer *t) {
    uint64_t key = t->o.seed ^ ((uint64_t)t->done + 1) * 0x9E3779B97F4A7C15u;
    words(t, &t->g.training.key)[0] = (int32_t)(uint32_t)key;
    words(t, &t->g.training.key)[1] = (int32_t)(uint32_t)(key >> 32);
}

static void fill_feed(micro *m, float scale) {
    const trainer *t = m->t;
    const graph *g = &t->g;
    for (int r = 0; r < g->shape.rows; r++)
        feed_row(m, r);
    feed_seqs(m);
    feed_work(m);
    feed_order(t, words(t, &g->io.ids), words(t, &g->train.order));
    feed_order(t, words(t, &g->io.pos), words(t, &g->train.by_place));
    memcpy(t->feed + g->train.scale.off, &scale, sizeof scale);
    feed_key(t);
}

static int64_t count_targets(const trainer *t, int rows) {
    int64_t n = 0;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < t->rows.len[r]; i++)
            n += target_of(t, r, i) >= 0;
    return n;
}

/* ---- Micro-batches ---- */

static weft_status fetch(const trainer *t, const decoder_place *p) {
    uint64_t bytes = (uint64_t)weft_dtype_bytes(p->layout.dtype, weft_tensor_count(&p->layout));
    return t->dev->copy(t->dev, t->stream, t->out + p->off,
                        (char *)t->base[WEFT_SPACE_OUT] + p->off, bytes, DEVICE_FETCH);
}

weft_status trainer_feed(trainer *t, int row) {
    int left = t->o.batch - row, rows = t->g.shape.rows;
    micro m = {.t = t, .begin = row, .n = left < rows ? left : rows};
    int64_t n = count_targets(t, t->o.batch);
    fill_feed(&m, n ? (float)(1.0 / (double)n) : 0);
    return send_feed(t);
}

/* A plan in which ranks may meet. */
static weft_status run_together(trainer *t, weft_plan *p) {
    WEFT_TRY(sched_replay(t->dev, p, t->stream));
    return t->link ? comm_status(t->link) : WEFT_OK;
}

static weft_status run_micro(micro *m, weft_plan *p, float scale, const decoder_place *result) {
    trainer *t = m->t;
    fill_feed(m, scale);
    WEFT_TRY(send_feed(t));
    WEFT_TRY(run_together(t, p));
    WEFT_TRY(fetch(t, result));
    return t->dev->sync(t->dev, t->stream);
}

/* Sum over one of the plan's rows, in order. */
static double sum_row(const trainer *t, const decoder_place *p, int row) {
    const float *x = (const float *)(const void *)(t->out + p->off);
    double sum = 0;
    for (int i = 0; i < t->g.shape.stride; i++)
        sum += (double)x[(int64_t)row * t->g.shape.stride + i];
    return sum;
}

/* One chain a shard, whether it takes several micro-batches or is part of one. */
static void note_loss(const micro *m) {
    trainer *t = m->t;
    int shard_rows = t->o.batch / t->g.shape.shards;
    for (int r = 0; r < m->n; r++) {
        double *sum = &t->shard_loss[(m->begin + r) / shard_rows];
        const float *x = (const float *)(const void *)(t->out + t->g.train.loss.off);
        for (int i = 0; i < t->g.shape.stride; i++)
            *sum += (double)x[(int64_t)r * t->g.shape.stride + i];
    }
}

/* Ranks that meet once a step have neighbouring units, those that meet after each one take turns:
 * either way both trees, within ranks and between them, are parts of the shards' tree. */
static int unit_of_rank(const trainer *t, int unit) {
    const graph_shape *s = &t->g.shape;
    return t->params.share_grads ? unit * s->ranks + s->rank : s->rank * s->units + unit;
}

static weft_status run_unit(trainer *t, int unit, int level, float scale) {
    const graph_shape *s = &t->g.shape;
    int64_t bytes = t->g.params->grad_bytes;
    WEFT_TRY(t->dev->zero(t->dev, t->stream, (char *)t->base[WEFT_SPACE_GRAD] + level * bytes,
                          (uint64_t)bytes));
    for (int r = 0; r < s->unit_rows; r += s->rows) {
        int left = s->unit_rows - r;
        micro m = {.t = t, .n = left < s->rows ? left : s->rows};
        m.begin = unit_of_rank(t, unit) * s->unit_rows + r;
        WEFT_TRY(run_micro(&m, t->g.micro[level], scale, &t->g.train.loss));
        note_loss(&m);
    }
    return WEFT_OK;
}

/* As many folds as the number of units done has trailing zeros: a binary counter's carries. */
static weft_status fold(trainer *t, int done, int *waiting) {
    for (; done % 2 == 0; done /= 2) {
        --*waiting;
        WEFT_TRY(sched_replay(t->dev, t->g.fold[*waiting], t->stream));
    }
    return WEFT_OK;
}

static double tree(const double *x, int n) {
    return n == 1 ? x[0] : tree(x, n / 2) + tree(x + n / 2, n / 2);
}

static double norm_of(const trainer *t) {
    const float *x = (const float *)(const void *)(t->out + t->g.train.squares.off);
    double sum = 0;
    for (int64_t i = 0; i < t->g.nsquares; i++)
        sum += (double)x[i];
    return sqrt(sum);
}

/* Each rank has summed the losses of its own shards; what it has not is 0. */
static weft_status share_losses(trainer *t) {
    int n = t->g.shape.shards;
    if (!t->link)
        return WEFT_OK;
    WEFT_TRY(comm_collect(&t->end[WEFT_GROUP_DP], t->shard_loss, t->all_losses,
                          sizeof(double) * (uint64_t)n, "loss"));
    for (int i = 0; i < n; i++) {
        t->shard_loss[i] = 0;
        for (int r = 0; r < t->g.shape.ranks; r++)
            t->shard_loss[i] += t->all_losses[r * n + i];
    }
    return WEFT_OK;
}

/* The same of squares: each is 0 but where its rows and columns count. */
static weft_status share_squares_over(trainer *t, int group) {
    float *x = (float *)(void *)(t->out + t->g.train.squares.off);
    int64_t n = t->g.nsquares;
    WEFT_TRY(comm_collect(&t->end[group], x, t->all_squares, sizeof(float) * (uint64_t)n, "norm"));
    for (int64_t i = 0; i < n; i++) {
        x[i] = 0;
        for (int r = 0; r < t->end[group].ranks; r++)
            x[i] += t->all_squares[r * n + i];
    }
    return WEFT_OK;
}

static weft_status share_squares(trainer *t) {
    if (t->mesh.size.tp > 1)
        WEFT_TRY(share_squares_over(t, WEFT_GROUP_TP));
    return t->params.share_grads ? share_squares_over(t, WEFT_GROUP_DP) : WEFT_OK;
}

weft_status trainer_gradients(trainer *t, train_result *out) {
    int waiting = 0, shards = t->g.shape.shards;
    int64_t n = count_targets(t, t->o.batch);
    float scale = n ? (float)(1.0 / (double)n) : 0;
    memset(t->shard_loss, 0, sizeof *t->shard_loss * (size_t)shards);
    for (int unit = 0; unit < t->g.shape.units; unit++) {
        WEFT_TRY(run_unit(t, unit, waiting, scale));
        waiting++;
        WEFT_TRY(fold(t, unit + 1, &waiting));
    }
    WEFT_TRY(share_losses(t));
    WEFT_TRY(run_together(t, t->g.finish));
    WEFT_TRY(fetch(t, &t->g.train.squares));
    WEFT_TRY(t->dev->sync(t->dev, t->stream));
    WEFT_TRY(share_squares(t));
    double loss = tree(t->shard_loss, shards);
    *out = (train_result){.loss = n ? loss / (double)n : 0, .grad_norm = norm_of(t), .targets = n};
    out->finite = isfinite(out->loss) && isfinite(out->grad_norm);
    return WEFT_OK;
}

/* ---- The optimizer ---- */

/* b^n by squaring: the same on every machine. */
static double power(double b, int64_t n) {
    double r = 1;
    for (; n > 0; n /= 2, b *= b)
        r = n % 2 ? r * b : r;
    return r;
}

/* As torch.nn.utils.clip_grad_norm_. */
static double clip_scale(const train_options *o, double norm) {
    double scale = o->clip > 0 ? o->clip / (norm + 1e-6) : 1;
    return scale < 1 ? scale : 1;
}

static void fill_hyper(const trainer *t, double lr, double norm) {
    const train_options *o = &t->o;
    int64_t n = t->done + 1;
    float h[WEFT_HYPERS] = {
        [WEFT_HYPER_LR] = (float)lr,
        [WEFT_HYPER_BETA1] = (float)o->beta1,
        [WEFT_HYPER_BETA2] = (float)o->beta2,
        [WEFT_HYPER_EPS] = (float)o->eps,
        [WEFT_HYPER_DECAY] = (float)o->weight_decay,
        [WEFT_HYPER_STEP1] = (float)(1 / (1 - power(o->beta1, n))),
        [WEFT_HYPER_STEP2] = (float)(1 / sqrt(1 - power(o->beta2, n))),
        [WEFT_HYPER_GSCALE] = (float)clip_scale(o, norm),
        [WEFT_HYPER_EMA] = (float)o->ema,
    };
    uint64_t key = o->seed ^ (uint64_t)n * 0xD1B54A32D192ED03u;
    uint32_t seed[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    memcpy(&h[WEFT_HYPER_SEED_LOW], seed, sizeof seed);
    memcpy(t->feed + t->g.train.hyper.off, h, sizeof h);
}

weft_status trainer_update(trainer *t, double lr, double grad_norm) {
    fill_hyper(t, lr, grad_norm);
    WEFT_TRY(send_feed(t));
    WEFT_TRY(run_together(t, t->g.update));
    WEFT_TRY(t->dev->sync(t->dev, t->stream));
    t->done++;
    return WEFT_OK;
}

weft_status trainer_step(trainer *t, train_result *out) {
    WEFT_TRY(trainer_gradients(t, out));
    out->lr = schedule_lr(&t->o, t->done);
    return out->finite ? trainer_update(t, out->lr, out->grad_norm) : WEFT_OK;
}

/* Rows [r, r + rows) of the first n, one micro-batch; none: where ranks meet inside the plan it
 * runs all the same. */
static weft_status validate_micro(trainer *t, int r, int n) {
    micro m = {.t = t, .begin = r, .n = n};
    if (n == 0 && !t->params.share_weight)
        return WEFT_OK;
    WEFT_TRY(run_micro(&m, t->g.validate, 1, &t->g.train.nll));
    for (int i = 0; i < n; i++)
        t->row_nll[r + i] = sum_row(t, &t->g.train.nll, i);
    return WEFT_OK;
}

/* How many of n rows the micro-batch that begins at r has. */
static int rows_from(const trainer *t, int r, int n) {
    int left = n - r, rows = t->g.shape.rows;
    return left < 0 ? 0 : left < rows ? left : rows;
}

/* Ranks take turns, all at once. */
weft_status trainer_validate(trainer *t, int n, double *nll, int64_t *targets) {
    const graph_shape *s = &t->g.shape;
    for (int r = 0; r < n; r += s->rows * s->ranks) {
        int mine = r + s->rank * s->rows;
        WEFT_TRY(validate_micro(t, mine, rows_from(t, mine, n)));
        for (int d = 0; t->link && d < s->ranks; d++) {
            int at = r + d * s->rows, rows = rows_from(t, at, n);
            if (rows)
                WEFT_TRY(comm_broadcast(&t->end[WEFT_GROUP_DP], d, t->row_nll + at,
                                        sizeof(double) * (uint64_t)rows, "validation"));
        }
    }
    *nll = 0;
    for (int i = 0; i < n; i++)
        *nll += t->row_nll[i];
    *targets = count_targets(t, n);
    return WEFT_OK;
}
