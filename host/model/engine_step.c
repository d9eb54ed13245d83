/* SPDX-License-Identifier: Apache-2.0
 * One step: the tokens of several sequences become one feed, every rank replays its plan, and the
 * sampled tokens come back. Nothing here allocates. */
#include "host/base/err.h"
#include "host/model/engine.h"
#include <stdio.h>
#include <string.h>

/* What passes through the stages of a pipeline at once: the tokens of a feed. */
typedef struct {
    weft_engine *e;
    const step_part *part;
    int nparts, tokens, rows;
    int row0; /* of the step's rows, its first */
    const int32_t *target;
} job;

/* A step in the making; lives on the caller's stack. */
typedef struct {
    job all, micro[ENGINE_MICROS];
    int n;
    weft_status status[SHARD_MAX_RANKS];
    char message[SHARD_MAX_RANKS][512];
} step;

static int32_t *words(const engine_rank *r, const decoder_place *p) {
    return (int32_t *)(void *)(r->feed + p->off);
}

static void feed_tokens(const job *j, const engine_rank *r) {
    const decoder_io *io = &r->io;
    int32_t *ids = words(r, &io->ids), *pos = words(r, &io->pos), *slot = words(r, &io->slot);
    for (int i = 0, t = 0; i < j->nparts; i++) {
        const weft_seq *s = j->part[i].seq;
        for (int32_t k = 0; k < j->part[i].take; k++, t++) {
            pos[t] = s->computed + j->part[i].skip + k;
            ids[t] = s->tokens[pos[t]];
            slot[t] = kv_place(&j->e->kv, s->slot, pos[t]);
        }
    }
}

static void feed_sequences(const job *j, const engine_rank *r) {
    const engine_shape *sh = &j->e->shape;
    const decoder_io *io = &r->io;
    int32_t *qstart = words(r, &io->qstart), *qpos = words(r, &io->qpos),
            *kvlen = words(r, &io->kvlen);
    int32_t t = 0;
    for (int i = 0; i < sh->S; i++) {
        bool used = i < j->nparts;
        const weft_seq *s = used ? j->part[i].seq : NULL;
        qstart[i] = t;
        qpos[i] = used ? s->computed + j->part[i].skip : 0;
        kvlen[i] = used ? qpos[i] + j->part[i].take : 0;
        t += used ? j->part[i].take : 0;
        if (used)
            memcpy(words(r, &io->pages) + (int64_t)i * sh->P,
                   j->e->kv.table + (int64_t)s->slot * sh->P,
                   sizeof(int32_t) * (size_t)j->e->kv.held[s->slot]);
    }
    qstart[sh->S] = t;
}

/* Tiles of queries by sequence and kv head; the head runs fastest, so that neighbours share
 * pages. */
static int32_t feed_work(const job *j, const engine_rank *r) {
    int32_t *w = words(r, &r->io.work), n = 0, tile = j->e->shape.query_tile;
    for (int i = 0; i < j->nparts; i++) {
        for (int32_t q = 0; q < j->part[i].take; q += tile) {
            int32_t left = j->part[i].take - q;
            int32_t count = left < tile ? left : tile;
            for (int32_t h = 0; h < r->heads.kv_heads; h++, n++)
                memcpy(w + 4 * (int64_t)n, (int32_t[4]){i, q, count, h}, 16);
        }
    }
    return n;
}

static void feed_rows(const job *j, const engine_rank *r) {
    const decoder_io *io = &r->io;
    int32_t *index = words(r, &io->index);
    char *params = (char *)words(r, &io->params);
    for (int i = 0, t = 0; i < j->nparts; i++) {
        t += j->part[i].take;
        int32_t row = j->part[i].row - j->row0;
        if (j->part[i].row < 0)
            continue;
        weft_sample_params p = j->part[i].seq->params;
        p.history_len = j->part[i].seq->n;
        p.prompt_len = j->part[i].seq->prompt_len;
        index[row] = t - 1;
        memcpy(params + (size_t)row * sizeof p, &p, sizeof p);
    }
}

static weft_status send_feed(const job *j, engine_rank *r) {
    device *d = j->e->dev;
    feed_tokens(j, r);
    feed_sequences(j, r);
    *words(r, &r->io.rows) = j->tokens;
    *words(r, &r->io.nwork) = feed_work(j, r);
    *words(r, &r->io.nout) = j->target ? j->tokens : j->rows;
    if (j->target)
        memcpy(words(r, &r->io.target), j->target, sizeof(int32_t) * (size_t)j->tokens);
    else
        feed_rows(j, r);
    return d->copy(d, r->stream, r->base[WEFT_SPACE_FEED], r->feed, r->bytes[WEFT_SPACE_FEED],
                   DEVICE_TO);
}

/* Where the caller put tokens, mirostat's state is what it was before them. */
static weft_status send_unknown(const job *j, engine_rank *r, const weft_seq *s) {
    device *d = j->e->dev;
    int32_t from = s->uploaded ? s->uploaded + 1 : 0;
    if (!s->params.mirostat)
        return WEFT_OK;
    char *to = (char *)r->base[WEFT_SPACE_STATE] + r->io.mu.off +
               (s->slot * r->io.mu.layout.stride[0] + from) * (int64_t)sizeof(float);
    return d->copy(d, r->stream, to, j->e->unknown, sizeof(float) * (uint64_t)(s->n + 1 - from),
                   DEVICE_TO);
}

/* The sampler keeps the history itself; what the caller appended has to be sent once. */
static weft_status send_history(const job *j, engine_rank *r) {
    device *d = j->e->dev;
    int64_t row = r->io.history.layout.stride[0];
    for (int i = 0; i < j->nparts; i++) {
        const weft_seq *s = j->part[i].seq;
        if (j->part[i].row < 0 || s->uploaded >= s->n)
            continue;
        char *to = (char *)r->base[WEFT_SPACE_STATE] + r->io.history.off +
                   (s->slot * row + s->uploaded) * (int64_t)sizeof(int32_t);
        WEFT_TRY(d->copy(d, r->stream, to, s->tokens + s->uploaded,
                         sizeof(int32_t) * (uint64_t)(s->n - s->uploaded), DEVICE_TO));
        WEFT_TRY(send_unknown(j, r, s));
    }
    return WEFT_OK;
}

/* Every rank of the last stage samples the same; one copy brings what the host reads of it. */
static weft_status fetch_results(const step *st, engine_rank *r) {
    device *d = st->all.e->dev;
    if (st->all.rows == 0 || r != engine_sampler(st->all.e))
        return WEFT_OK;
    return d->copy(d, r->stream, r->result,
                   (char *)r->base[WEFT_SPACE_OUT] + r->kept + r->io.id.off, engine_result_bytes(r),
                   DEVICE_FETCH);
}

/* The next micro-batch writes where this one did: its rows move behind those before. */
static weft_status keep_results(const job *j, engine_rank *r) {
    const decoder_io *io = &r->io;
    const decoder_place *logits = io->slice.layout.ndim ? &io->slice : &io->logits;
    const decoder_place *sampled[] = {logits, &io->id, &io->logprob, &io->top_id, &io->top_logprob};
    const decoder_place *scored[] = {&io->logits, &io->score};
    const decoder_place **place = j->target ? scored : sampled;
    device *d = j->e->dev;
    char *out = r->base[WEFT_SPACE_OUT];
    int64_t rows = j->target ? j->tokens : j->rows;
    for (int i = 0; rows && i < (j->target ? 2 : 5); i++) {
        int64_t row = 4 * (place[i]->layout.ndim > 1 ? place[i]->layout.stride[0] : 1);
        WEFT_TRY(d->copy(d, r->stream, out + r->kept + place[i]->off + j->row0 * row,
                         out + place[i]->off, (uint64_t)(rows * row), DEVICE_WITHIN));
    }
    return WEFT_OK;
}

static weft_status run_micro(const job *j, engine_rank *r) {
    weft_engine *e = j->e;
    int bucket = engine_bucket(e, j->tokens);
    comm_step(r->link, e->step, j->target ? e->expected_score : e->expected[bucket]);
    weft_plan *p = j->target ? r->score : r->generate[bucket];
    comm_sound_rows(r->link, j->tokens, p->bucket_rows, j->target ? j->tokens : j->rows);
    WEFT_TRY(send_feed(j, r));
    WEFT_TRY(sched_replay(e->dev, p, r->stream, NULL));
    if (r->kept)
        WEFT_TRY(keep_results(j, r));
    return WEFT_OK;
}

/* Every process goes on with what one rank has sampled. */
static weft_status share_results(const step *st, engine_rank *r) {
    weft_engine *e = st->all.e;
    engine_rank *from = engine_sampler(e);
    if (e->self < 0 || st->all.target || st->all.rows == 0)
        return WEFT_OK;
    return comm_broadcast(&r->end[WEFT_GROUP_WORLD], from->rank, from->result,
                          engine_result_bytes(from), "results");
}

static weft_status run_on(const step *st, engine_rank *r) {
    weft_engine *e = st->all.e;
    WEFT_TRY(comm_attend(r->link));
    if (!st->all.target && engine_samples(e, r))
        WEFT_TRY(send_history(&st->all, r));
    for (int i = 0; i < st->n; i++) {
        WEFT_TRY(run_micro(&st->micro[i], r));
        WEFT_TRY(comm_finish(r->link));
        if (i < st->n - 1)
            WEFT_TRY(e->dev->sync(e->dev, r->stream));
    }
    if (!st->all.target)
        WEFT_TRY(fetch_results(st, r));
    WEFT_TRY(e->dev->sync(e->dev, r->stream));
    WEFT_TRY(comm_status(r->link));
    return share_results(st, r);
}

/* A rank that fails says so at once, or the others would wait for it. */
static void run_rank(void *ctx, int rank) {
    step *st = ctx;
    weft_engine *e = st->all.e;
    engine_rank *r = &e->rank[e->self < 0 ? rank : e->self];
    st->status[rank] = run_on(st, r);
    if (st->status[rank] == WEFT_OK)
        return;
    comm_abort(r->link, st->status[rank]);
    st->status[rank] = comm_status(r->link);
    snprintf(st->message[rank], sizeof st->message[rank], "%s", err_message());
}

/* Tokens [begin, end) of the step. Rows are of the last tokens of their parts. */
static void cut_micro(const job *all, int begin, int end, step_part *out, job *m) {
    *m = (job){.e = all->e, .part = out, .row0 = -1};
    for (int i = 0, t = 0; i < all->nparts; t += all->part[i++].take) {
        step_part p = all->part[i];
        int from = begin > t ? begin : t, to = end < t + p.take ? end : t + p.take;
        if (from >= to)
            continue;
        p.row = to == t + p.take ? p.row : -1;
        p.skip = from - t;
        p.take = to - from;
        out[m->nparts++] = p;
        m->rows += p.row >= 0;
        m->row0 = m->row0 < 0 ? p.row : m->row0;
    }
    m->tokens = end - begin;
    if (all->target) {
        m->target = all->target + begin;
        m->row0 = begin;
    }
}

static void cut_step(step *st) {
    const engine_shape *s = &st->all.e->shape;
    step_part *to = st->all.e->cut;
    for (int t = 0; t < st->all.tokens; t += s->micro) {
        int end = t + s->micro < st->all.tokens ? t + s->micro : st->all.tokens;
        cut_micro(&st->all, t, end, to, &st->micro[st->n]);
        to += st->micro[st->n++].nparts;
    }
}

/* All or nothing: no sequence takes pages unless every one can. */
static weft_status reserve(weft_engine *e, const step_part *part, int n) {
    int64_t need = 0;
    for (int i = 0; i < n; i++)
        need += kv_missing(&e->kv, part[i].seq->slot, part[i].seq->computed + part[i].take);
    if (need > e->kv.free_count)
        return weft_fail(WEFT_AGAIN,
                         "kv cache: %lld pages needed, %d free; close or truncate a sequence",
                         (long long)need, e->kv.free_count);
    for (int i = 0; i < n; i++)
        WEFT_TRY(kv_reserve(&e->kv, part[i].seq->slot, part[i].seq->computed + part[i].take));
    return WEFT_OK;
}

static weft_status run_step(step *st) {
    weft_engine *e = st->all.e;
    if (e->shape.mesh.pp > 1) {
        cut_step(st);
    } else {
        st->micro[st->n++] = st->all;
    }
    e->step++;
    sched_team_run(e->team, run_rank, st);
    for (int r = 0; r < (e->self < 0 ? e->shape.ranks : 1); r++)
        if (st->status[r] != WEFT_OK) {
            err_set_message(st->message[r]);
            return st->status[r];
        }
    return WEFT_OK;
}

weft_status engine_run(weft_engine *e, const step_part *part, int nparts, const int32_t *target) {
    step st = {.all = {.e = e, .part = part, .nparts = nparts, .target = target}};
    for (int i = 0; i < nparts; i++) {
        st.all.tokens += part[i].take;
        st.all.rows += part[i].row >= 0;
    }
    WEFT_TRY(reserve(e, part, nparts));
    WEFT_TRY(run_step(&st));
    for (int i = 0; i < e->shape.slots; i++)
        e->seq[i].logits_row = -1;
    for (int i = 0; i < nparts; i++) {
        part[i].seq->computed += part[i].take;
        part[i].seq->logits_row = part[i].row;
        kv_publish(&e->kv, part[i].seq->slot, part[i].seq->tokens, part[i].seq->computed);
    }
    return WEFT_OK;
}

bool engine_samples(const weft_engine *e, const engine_rank *r) {
    return r->place.pp == e->shape.mesh.pp - 1;
}

engine_rank *engine_sampler(const weft_engine *e) {
    return &e->rank[shard_rank(&e->shape.mesh, (shard_mesh){0, e->shape.mesh.pp - 1, 0})];
}

static weft_status result_of(const weft_engine *e, engine_rank *r, const decoder_place *from,
                             int64_t offset, void *to, uint64_t n) {
    if (engine_owns(e, r))
        WEFT_TRY(e->dev->copy(e->dev, r->stream, to,
                              (char *)r->base[WEFT_SPACE_OUT] + r->kept + from->off + offset, n,
                              DEVICE_FROM));
    if (e->self < 0)
        return WEFT_OK;
    return comm_broadcast(&e->rank[e->self].end[WEFT_GROUP_WORLD], r->rank, to, n, "read");
}

weft_status engine_result(const weft_engine *e, const decoder_place *from, int64_t offset, void *to,
                          uint64_t n) {
    return result_of(e, engine_sampler(e), from, offset, to, n);
}

weft_status engine_logits(const weft_engine *e, int32_t row, float *logits) {
    const decoder_io *io = &engine_sampler(e)->io;
    int64_t vocab = e->config.vocab, part = e->shape.vocab_padded / e->shape.mesh.tp;
    if (!io->slice.layout.ndim)
        return engine_result(e, &io->logits, row * e->shape.vocab_padded * 4, logits,
                             (uint64_t)vocab * 4);
    for (int t = 0; t < e->shape.mesh.tp && t * part < vocab; t++) {
        int at = shard_rank(&e->shape.mesh, (shard_mesh){t, e->shape.mesh.pp - 1, 0});
        int64_t n = vocab - t * part < part ? vocab - t * part : part;
        WEFT_TRY(result_of(e, &e->rank[at], &io->slice, row * part * 4, logits + t * part,
                           (uint64_t)n * 4));
    }
    return WEFT_OK;
}

/* Sequences in the order given, each as many pending tokens as still fit. */
static int choose_parts(const weft_engine *e, weft_seq *const *seqs, int n, step_part *part) {
    int used = 0, budget = e->shape.T;
    for (int i = 0; i < n && budget > 0 && used < e->shape.S; i++) {
        seq_reuse(seqs[i]);
        int32_t pending = seqs[i]->n - seqs[i]->computed;
        if (pending <= 0 || seqs[i]->computed >= e->shape.ctx)
            continue;
        int32_t take = pending < budget ? pending : budget;
        part[used++] = (step_part){.seq = seqs[i], .take = take, .row = -1};
        budget -= take;
    }
    return used;
}

/* Row `row` of what the last step left in the results. */
static void read_row(const engine_rank *r, const decoder_place *p, int32_t row, void *to,
                     int64_t words) {
    const char *from = r->result + (p->off - r->io.id.off);
    memcpy(to, from + 4 * row * (p->layout.ndim > 1 ? p->layout.stride[0] : 1), (size_t)words * 4);
}

static void read_sampled(const engine_rank *r, const weft_seq *s, int32_t row, weft_sampled *out) {
    const decoder_io *io = &r->io;
    out->n_top = s->params.n_top;
    read_row(r, &io->id, row, &out->id, 1);
    read_row(r, &io->logprob, row, &out->logprob, 1);
    read_row(r, &io->top_id, row, out->top_id, out->n_top);
    read_row(r, &io->top_logprob, row, out->top_logprob, out->n_top);
}

weft_status engine_unsampled(const weft_seq *s) {
    return weft_fail(WEFT_BAD_FILE,
                     "sequence %d, position %d: every token is masked or its logit is "
                     "NaN; check the logit bias and the weights",
                     s->slot, s->n);
}

/* The sampled token becomes the next pending one. */
static void commit(const weft_engine *e, const step_part *part, weft_sampled *out) {
    weft_seq *s = part->seq;
    read_sampled(engine_sampler(e), s, part->row, out);
    if (out->id < 0)
        return;
    s->tokens[s->n++] = out->id;
    s->uploaded = s->n;
}

weft_status engine_step(weft_engine *e, step_part *part, int nparts, weft_sampled *out) {
    int32_t rows = 0;
    for (int i = 0; i < nparts; i++) {
        const weft_seq *s = part[i].seq;
        part[i].row = s->computed + part[i].take == s->n ? rows++ : -1;
        out[i].id = -1;
        out[i].n_top = 0;
    }
    WEFT_TRY(nparts ? engine_run(e, part, nparts, NULL) : WEFT_OK);
    for (int i = 0; i < nparts; i++)
        if (part[i].row >= 0)
            commit(e, &part[i], &out[i]);
    return WEFT_OK;
}

/* Parts come in the order of their sequences: from the last on, each result moves to its place. */
static void spread(const step_part *part, int used, weft_seq *const *seqs, int n,
                   weft_sampled *out) {
    for (int i = n, p = used; i-- > 0;) {
        if (p > 0 && part[p - 1].seq == seqs[i]) {
            out[i] = out[--p];
        } else {
            out[i].id = -1;
            out[i].n_top = 0;
        }
    }
}

weft_status weft_engine_step(weft_engine *e, weft_seq *const *seqs, int n, weft_sampled *out) {
    step_part part[4096];
    if (n > e->shape.slots)
        return weft_fail(WEFT_USAGE, "step: %d sequences, at most %d are open", n, e->shape.slots);
    int used = choose_parts(e, seqs, n, part);
    WEFT_TRY(engine_step(e, part, used, out));
    weft_status status = WEFT_OK;
    for (int i = used; i-- > 0;)
        if (part[i].row >= 0 && out[i].id < 0)
            status = engine_unsampled(part[i].seq);
    spread(part, used, seqs, n, out);
    return status;
}
