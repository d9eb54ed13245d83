/* SPDX-License-Identifier: Apache-2.0
 * Steps: gradients micro-batch by micro-batch, their sums over shards, the optimizer. */
#include "host/base/err.h"
#include "host/train/trainer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Micro-batches ---- */

static weft_status fetch(const trainer *t, const decoder_place *p) {
    uint64_t bytes = (uint64_t)weft_dtype_bytes(p->layout.dtype, weft_tensor_count(&p->layout));
    return t->dev->copy(t->dev, t->stream, t->out + p->off,
                        (char *)t->base[WEFT_SPACE_OUT] + p->off, bytes, DEVICE_FETCH);
}

/* A part of a plan whose waits say what it needs of the side. */
static weft_status go_on(trainer *t, weft_plan *p) {
    if (p->nstep)
        WEFT_TRY(sched_replay(t->dev, p, t->stream, t->side));
    return t->link ? comm_status(t->link) : WEFT_OK;
}

/* A plan in which ranks may meet, behind all that is on its way. */
static weft_status run_together(trainer *t, weft_plan *p) {
    WEFT_TRY(sched_join(t->dev, t->stream, t->side));
    return go_on(t, p);
}

weft_status trainer_settle(trainer *t, weft_stream *s) {
    WEFT_TRY(comm_wait(t->link, s));
    return t->dev->sync(t->dev, s);
}

/* Sum over one of the plan's rows, in order. */
static double sum_row(const trainer *t, const decoder_place *p, int row) {
    const float *x = (const float *)(const void *)(t->out + p->off);
    double sum = 0;
    for (int i = 0; i < t->g.shape.stride; i++)
        sum += (double)x[(int64_t)row * t->g.shape.stride + i];
    return sum;
}

static bool has_loss(const trainer *t, int chunk) {
    return mesh_stage(&t->mesh, chunk) == mesh_stages(&t->mesh) - 1;
}

/* Ranks that meet once a step have neighbouring units, those that meet after each one take turns:
 * either way both trees, within ranks and between them, are parts of the shards' tree. */
static int unit_of_rank(const trainer *t, int unit) {
    const graph_shape *s = &t->g.shape;
    return t->params.share_grads ? unit * s->ranks + s->rank : s->rank * s->units + unit;
}

/* Rows of micro-batch `micro` of this rank's: *begin and how many. */
static int rows_of(const trainer *t, int micro, int *begin) {
    const graph_shape *s = &t->g.shape;
    int r = micro % s->unit_micros * s->rows, left = s->unit_rows - r;
    *begin = unit_of_rank(t, micro / s->unit_micros) * s->unit_rows + r;
    return left < s->rows ? left : s->rows;
}

/* One chain a shard, whether it takes several micro-batches or is part of one. */
static void note_loss(trainer *t, int micro) {
    int shard_rows = t->o.batch / t->g.shape.shards, begin, n = rows_of(t, micro, &begin);
    const float *x = (const float *)(const void *)(t->out + t->g.train.loss.off);
    for (int r = 0; r < n; r++) {
        double *sum = &t->shard_loss[(begin + r) / shard_rows];
        for (int i = 0; i < t->g.shape.stride; i++)
            *sum += (double)x[(int64_t)r * t->g.shape.stride + i];
    }
}

/* Sums that wait when a unit begins: a binary counter's digits. Its gradient goes behind them. */
static int level_of(int unit) {
    int n = 0;
    for (; unit; unit &= unit - 1)
        n++;
    return n;
}

/* As many folds as the number of units done has trailing zeros: a binary counter's carries. */
static weft_status fold(trainer *t, int chunk, int unit) {
    int waiting = level_of(unit) + 1;
    for (int done = unit + 1; done % 2 == 0; done /= 2)
        WEFT_TRY(run_together(t, t->g.fold[chunk][--waiting]));
    return WEFT_OK;
}

static weft_status clear_gradient(trainer *t, int chunk, int level) {
    int64_t begin = t->params.region[chunk].begin, end = t->params.region[chunk].end;
    char *at = (char *)t->base[WEFT_SPACE_GRAD] + level * t->params.grad_bytes + begin;
    return t->dev->zero(t->dev, t->stream, at, (uint64_t)(end - begin));
}

/* ---- A pipeline's actions ---- */

typedef struct {
    trainer *t;
    float scale;
} pass;

static weft_status begin_micro(const pass *p, const pipe_action *a) {
    trainer *t = p->t;
    int slots = t->g.pipe.slots[a->chunk], begin, n = rows_of(t, a->micro, &begin);
    return trainer_fill(t, begin, n, p->scale, t->g.slot[a->chunk] + a->micro % slots);
}

static weft_status end_micro(const pass *p, const pipe_action *a) {
    trainer *t = p->t;
    const graph_shape *s = &t->g.shape;
    if (has_loss(t, a->chunk)) {
        WEFT_TRY(fetch(t, &t->g.train.loss));
        WEFT_TRY(trainer_settle(t, t->stream));
        note_loss(t, a->micro);
    }
    if ((a->micro + 1) % s->unit_micros || graph_is_last(&t->g, a->micro))
        return WEFT_OK;
    return fold(t, a->chunk, a->micro / s->unit_micros);
}

static weft_status act(const pass *p, const pipe_action *a) {
    trainer *t = p->t;
    int level = level_of(a->micro / t->g.shape.unit_micros);
    graph_micro *m = graph_micro_at(&t->g, a->chunk, level, a->micro);
    if (a->kind != PIPE_GIVE_GRAD) /* which goes on with backward's plan */
        WEFT_TRY(sched_join(t->dev, t->stream, t->side));
    if (a->kind == PIPE_FORWARD)
        WEFT_TRY(begin_micro(p, a));
    if (a->kind == PIPE_BACKWARD && a->micro % t->g.shape.unit_micros == 0)
        WEFT_TRY(clear_gradient(t, a->chunk, level));
    WEFT_TRY(go_on(t, m->part[a->kind]));
    WEFT_TRY(trainer_settle(t, t->stream)); /* the feed's copy is filled anew */
    return a->kind == PIPE_BACKWARD ? end_micro(p, a) : WEFT_OK;
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

/* Each last stage has summed the losses of its own shards; what it has not is 0. */
static weft_status share_losses(trainer *t) {
    int n = t->g.shape.shards, last = t->mesh.size.pp - 1;
    uint64_t bytes = sizeof(double) * (uint64_t)n;
    if (!t->link)
        return WEFT_OK;
    if (t->mesh.place.pp == last)
        WEFT_TRY(comm_collect(&t->end[WEFT_GROUP_DP], t->shard_loss, t->all_losses, bytes, "loss"));
    for (int i = 0; t->mesh.place.pp == last && i < n; i++) {
        t->shard_loss[i] = 0;
        for (int r = 0; r < t->g.shape.ranks; r++)
            t->shard_loss[i] += t->all_losses[r * n + i];
    }
    return comm_broadcast(&t->end[WEFT_GROUP_PP], last, t->shard_loss, bytes, "loss");
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
    if (t->mesh.size.pp > 1)
        WEFT_TRY(share_squares_over(t, WEFT_GROUP_PP));
    return t->params.share_grads ? share_squares_over(t, WEFT_GROUP_DP) : WEFT_OK;
}

weft_status trainer_gradients(trainer *t, train_result *out) {
    int shards = t->g.shape.shards;
    int64_t n = trainer_targets(t, t->o.batch);
    pass p = {t, n ? (float)(1.0 / (double)n) : 0};
    memset(t->shard_loss, 0, sizeof *t->shard_loss * (size_t)shards);
    for (int i = 0; i < t->g.pipe.n; i++)
        WEFT_TRY(act(&p, &t->g.pipe.action[i]));
    WEFT_TRY(share_losses(t));
    WEFT_TRY(run_together(t, t->g.finish));
    WEFT_TRY(fetch(t, &t->g.train.squares));
    WEFT_TRY(trainer_settle(t, t->stream));
    if (t->side)
        WEFT_TRY(t->dev->sync(t->dev, t->side));
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
    WEFT_TRY(trainer_send_feed(t, 0));
    WEFT_TRY(run_together(t, t->g.update));
    WEFT_TRY(trainer_settle(t, t->stream));
    t->done++;
    return WEFT_OK;
}

weft_status trainer_step(trainer *t, train_result *out) {
    WEFT_TRY(trainer_gradients(t, out));
    out->lr = schedule_lr(&t->o, t->done);
    return out->finite ? trainer_update(t, out->lr, out->grad_norm) : WEFT_OK;
}

/* Rows [r, r + n), one micro-batch; none: where ranks meet inside the plan it runs all the same. */
static weft_status validate_micro(trainer *t, int r, int n) {
    if (n == 0 && !t->params.share_weight)
        return WEFT_OK;
    for (int c = 0; c < t->mesh.chunks; c++) {
        WEFT_TRY(trainer_fill(t, r, n, 1, 0));
        WEFT_TRY(run_together(t, t->g.validate[c]));
        if (has_loss(t, c))
            WEFT_TRY(fetch(t, &t->g.train.nll));
        WEFT_TRY(trainer_settle(t, t->stream));
    }
    for (int i = 0; i < n; i++)
        t->row_nll[r + i] = sum_row(t, &t->g.train.nll, i);
    if (!t->link || n == 0)
        return WEFT_OK;
    return comm_broadcast(&t->end[WEFT_GROUP_PP], t->mesh.size.pp - 1, t->row_nll + r,
                          sizeof(double) * (uint64_t)n, "validation");
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
    *targets = trainer_targets(t, n);
    return WEFT_OK;
}
