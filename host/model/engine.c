/* SPDX-License-Identifier: Apache-2.0
 * Opening an engine: files, shapes, ranks, plans, memory. Everything is planned first, then
 * taken. */
#include "host/model/engine.h"
#include "host/base/err.h"
#include "host/base/thread.h"
#include "host/run/comm_proc.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define READ_RATE 1e8 /* bytes a second of the slowest disk that ranks wait for */
enum {
    DEFAULT_CTX = 4096,
    DEFAULT_UBATCH = 512,
    DEFAULT_MICRO = 64,
    READ_SECONDS = 30,
    SCORE_LOGITS_BYTES = 32 << 20,
    MAX_SLOTS = 4096
};

static weft_status check_range(const char *flag, int64_t v, int64_t min, int64_t max) {
    if (v >= min && v <= max)
        return WEFT_OK;
    return weft_fail(WEFT_USAGE, "%s: %lld is not in %lld..%lld", flag, (long long)v,
                     (long long)min, (long long)max);
}

static int64_t or_default(int64_t v, int64_t preset) {
    return v ? v : preset;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int engine_query_tile(const device *d, const model_config *c) {
    int group = c->n_kv_heads ? (int)(c->n_heads / c->n_kv_heads) : 1;
    if (d->host_memory)
        return ENGINE_QUERY_TILE;
    return group < ENGINE_GPU_ROWS ? ENGINE_GPU_ROWS / group : 1;
}

/* Rows of logits of a scoring step: bounded, since chunking does not change a bit. */
static int score_rows(const weft_engine *e, const engine_shape *s) {
    int64_t fit = SCORE_LOGITS_BYTES / (s->vocab_padded * 4);
    return !e->score ? 0 : (int)smaller(s->T, fit < 1 ? 1 : fit);
}

static weft_status set_shape(weft_engine *e, const weft_engine_options *o) {
    const model_config *c = &e->config;
    engine_shape *s = &e->shape;
    shard_dims dims = config_shard_dims(c);
    int64_t ctx = or_default(o->ctx_size, smaller(c->max_ctx, DEFAULT_CTX));
    int64_t tp = or_default(o->tp, 1), pp = or_default(o->pp, 1), dp = engine_replicas(o),
            T = or_default(o->ubatch_size, DEFAULT_UBATCH);
    int64_t slots = or_default(o->max_seqs, 1), cores = or_default(o->threads, thread_cores());
    WEFT_TRY(check_range("--ctx-size", ctx, 1, c->max_ctx));
    WEFT_TRY(check_range("--ubatch-size", T, 1, 65536));
    WEFT_TRY(check_range("--max-seqs", slots, 1, MAX_SLOTS));
    WEFT_TRY(check_range("--threads", cores, 1, WEFT_MAX_THREADS));
    WEFT_TRY(check_range("--tp", tp, 1, SHARD_MAX_RANKS));
    WEFT_TRY(check_range("--pp", pp, 1, SHARD_MAX_RANKS));
    WEFT_TRY(check_range("--dp", dp, 1, SHARD_MAX_RANKS));
    WEFT_TRY(check_range("--tp times --pp", tp * pp, 1, SHARD_MAX_RANKS));
    WEFT_TRY(check_range("--dp times --tp times --pp", dp * tp * pp, 1, SHARD_MAX_RANKS));
    WEFT_TRY(shard_check(&dims, (int)tp));
    WEFT_TRY(weights_stages(c, (int)pp, &e->mem, &e->first));
    int64_t P = (ctx + KV_PAGE - 1) / KV_PAGE,
            tokens = or_default(o->kv_tokens, slots * P * KV_PAGE);
    WEFT_TRY(check_range("kv_tokens", tokens, KV_PAGE, slots * P * KV_PAGE));
    T = smaller(T, slots * ctx);
    int64_t ranks = tp * pp, micro = smaller(or_default(o->micro_batch, DEFAULT_MICRO), T);
    WEFT_TRY(check_range("--pp-tokens", micro, 1, T));
    micro = micro * ENGINE_MICROS < T ? (T + ENGINE_MICROS - 1) / ENGINE_MICROS : micro;
    *s = (engine_shape){.mesh = {(int)tp, (int)pp, (int)dp},
                        .ranks = (int)ranks,
                        .micro = (int)(pp > 1 ? micro : T),
                        .threads = (int)(cores / (ranks * dp) ? cores / (ranks * dp) : 1),
                        .ctx = (int)ctx,
                        .T = (int)T,
                        .slots = (int)slots,
                        .S = (int)smaller(slots, T),
                        .query_tile = engine_query_tile(e->dev, c),
                        .P = (int)P,
                        .pages = (int32_t)((tokens + KV_PAGE - 1) / KV_PAGE),
                        .R = (int)smaller(slots, T),
                        .vocab_padded = shard_vocab_rows(&dims, (int)tp) * tp,
                        .dtype = s->dtype};
    s->score_rows = score_rows(e, s);
    return WEFT_OK;
}

static void set_buckets(weft_engine *e) {
    for (int64_t t = 1; t < e->shape.micro && e->nbucket < ENGINE_MAX_BUCKETS - 1; t *= 4)
        e->bucket[e->nbucket++] = (int)t;
    e->bucket[e->nbucket++] = e->shape.micro;
}

/* Plans take turns in one arena, which is as large as the largest of them. */
static void grow_to(uint64_t *bytes, uint64_t need) {
    *bytes = *bytes > need ? *bytes : need;
}

static weft_status build_plan(weft_engine *e, engine_rank *r, weft_phase phase, int tokens,
                              int rows, weft_plan **out) {
    decoder d = {.config = &e->config,
                 .w = &r->w,
                 .io = &r->io,
                 .dtype = e->shape.dtype,
                 .part = r->part,
                 .before = r->place.pp - 1,
                 .next = r->place.pp + 1};
    const shard_mesh *m = &e->shape.mesh;
    const int ranks[WEFT_GROUPS] = {m->tp, m->pp, m->dp, e->shape.ranks};
    plan_builder b;
    plan_begin(&b, &e->mem, e->dev, phase, r->rank, ranks, tokens, rows);
    decoder_build(&d, &b);
    WEFT_TRY(plan_end(&b));
    grow_to(&r->bytes[WEFT_SPACE_ACT], b.plan->space_bytes[WEFT_SPACE_ACT]);
    grow_to(&r->bytes[WEFT_SPACE_SCRATCH], b.plan->space_bytes[WEFT_SPACE_SCRATCH]);
    *out = b.plan;
    return WEFT_OK;
}

static weft_status build_plans(weft_engine *e, engine_rank *r) {
    for (int i = 0; i < e->nbucket; i++) {
        int rows = (int)smaller(e->bucket[i], e->shape.R);
        WEFT_TRY(build_plan(e, r, WEFT_PHASE_GENERATE, e->bucket[i], rows, &r->generate[i]));
    }
    int rows = (int)smaller(e->shape.score_rows, e->shape.micro);
    return rows ? build_plan(e, r, WEFT_PHASE_SCORE, rows, rows, &r->score) : WEFT_OK;
}

/* Planned only: a rank of another process, or of a dry engine. */
static weft_status open_rank(weft_engine *e, engine_rank *r, bool dry, bool no_mmap) {
    const engine_shape *s = &e->shape;
    r->heads = decoder_local_heads(&e->config, &r->part);
    if (dry)
        WEFT_TRY(weights_describe(&e->config, s->dtype, &r->part, &r->w));
    else
        WEFT_TRY(weights_open(&e->config, &e->st, e->dev, s->dtype, &r->part, no_mmap, &r->w));
    r->bytes[WEFT_SPACE_WEIGHT] = r->w.bytes;
    engine_layout(e, r);
    return build_plans(e, r);
}

static bool is_arena(int space) {
    return space == WEFT_SPACE_KV || space == WEFT_SPACE_FEED || space == WEFT_SPACE_ACT ||
           space == WEFT_SPACE_OUT || space == WEFT_SPACE_STATE || space == WEFT_SPACE_SCRATCH;
}

static const char *space_words(int space) {
    static const char *const words[WEFT_SPACES] = {
        [WEFT_SPACE_KV] = "KV cache",         [WEFT_SPACE_FEED] = "feed",
        [WEFT_SPACE_ACT] = "activations",     [WEFT_SPACE_OUT] = "logits and results",
        [WEFT_SPACE_STATE] = "sampler state", [WEFT_SPACE_SCRATCH] = "scratch"};
    return words[space];
}

static void set_frequencies(weft_engine *e) {
    if (e->config.position == POSITION_ROPE)
        e->freq = rope_split_frequencies(&e->config.rope, e->config.max_ctx, &e->mem, &e->mscale);
}

static weft_status upload_frequencies(weft_engine *e, engine_rank *r) {
    char *to = (char *)r->base[WEFT_SPACE_STATE] + r->io.freq.off;
    uint64_t bytes = sizeof(float) * (uint64_t)e->config.rope.dims;
    return e->freq ? e->dev->copy(e->dev, r->stream, to, e->freq, bytes, DEVICE_TO) : WEFT_OK;
}

/* What the host fills and reads at every step. */
static weft_status take_host_memory(weft_engine *e, engine_rank *r) {
    void *feed = NULL, *result = NULL;
    if (engine_owns(e, r))
        WEFT_TRY(e->dev->host_alloc(e->dev, r->bytes[WEFT_SPACE_FEED], "feed", &feed));
    r->feed = feed;
    if (engine_samples(e, r))
        WEFT_TRY(e->dev->host_alloc(e->dev, engine_result_bytes(r), "results", &result));
    r->result = result;
    return WEFT_OK;
}

static weft_status take_memory(weft_engine *e, engine_rank *r) {
    for (int s = 0; s < WEFT_SPACES; s++)
        if (is_arena(s) && r->bytes[s])
            WEFT_TRY(e->dev->alloc(e->dev, r->bytes[s], space_words(s), &r->base[s]));
    WEFT_TRY(comm_memory(r->link, r->base[WEFT_SPACE_ACT], r->bytes[WEFT_SPACE_ACT]));
    WEFT_TRY(comm_memory(r->link, r->base[WEFT_SPACE_OUT], r->bytes[WEFT_SPACE_OUT]));
    WEFT_TRY(take_host_memory(e, r));
    WEFT_TRY(e->dev->stream_open(e->dev, e->shape.threads, &r->stream));
    WEFT_TRY(
        e->dev->zero(e->dev, r->stream, r->base[WEFT_SPACE_STATE], r->bytes[WEFT_SPACE_STATE]));
    WEFT_TRY(upload_frequencies(e, r));
    for (int i = 0; i < e->nbucket; i++)
        WEFT_TRY(plan_bind(r->generate[i], r->base, r->end, &e->mem));
    return r->score ? plan_bind(r->score, r->base, r->end, &e->mem) : WEFT_OK;
}

static void open_sequences(weft_engine *e, bool share) {
    const engine_shape *s = &e->shape;
    kv_init(&e->kv, s->pages, s->slots, s->P, share);
    e->unknown = ARENA_NEW(&e->mem, float, s->ctx + 2);
    for (int i = 0; i < s->ctx + 2; i++)
        e->unknown[i] = NAN;
    e->seq = ARENA_NEW(&e->mem, weft_seq, s->slots);
    for (int i = 0; i < s->slots; i++) {
        e->seq[i] = (weft_seq){.e = e, .slot = i, .logits_row = -1};
        e->seq[i].tokens = ARENA_NEW(&e->mem, int32_t, s->ctx + 1);
    }
}

static comm everybody(const engine_rank *r) {
    int member[SHARD_MAX_RANKS];
    for (int i = 0; i < r->link->ranks; i++)
        member[i] = i;
    return comm_group(r->link, WEFT_GROUP_WORLD, r->link->ranks, member);
}

static void join(weft_engine *e, engine_rank *r, int rank, comm_link *link) {
    const engine_shape *s = &e->shape;
    r->rank = rank;
    r->place = shard_place(&s->mesh, rank);
    r->part = (shard_part){.tp = s->mesh.tp,
                           .slice = r->place.tp,
                           .first = e->first[r->place.pp],
                           .last = e->first[r->place.pp + 1],
                           .layers = e->config.n_layers};
    r->link = link;
    r->io.mscale = e->mscale;
    if (!link)
        return;
    const shard_mesh replica = {.tp = s->mesh.tp, .pp = s->mesh.pp, .dp = 1};
    comm_join(link, &replica, e->replica * s->ranks, r->end);
    r->all = everybody(r);
}

/* Seconds that a micro-batch takes on a slow machine of its kind: deadlines begin behind it. Ranks
 * may have to share one processor, and the weights to come from the disk. */
static double expected_seconds(const weft_engine *e, int bucket) {
    static const struct {
        const char *backend;
        double flops, bytes; /* a second */
    } slow[] = {{"cuda", 1e12, 1e10}, {"cpu", 5e9, 1e9}, {"ref", 1e8, 1e8}, {"emu", 1e7, 1e7}};
    double seconds = 0;
    for (int i = 0; i < e->shape.ranks; i++) {
        const engine_rank *r = &e->rank[i];
        plan_cost c = plan_total(bucket < 0 ? r->score : r->generate[bucket]);
        for (int k = 0; k < 4; k++)
            if (strcmp(e->dev->backend, slow[k].backend) == 0)
                seconds += (double)c.flops / slow[k].flops + (double)c.bytes / slow[k].bytes;
    }
    return seconds * e->shape.mesh.dp;
}

static void expect(weft_engine *e) {
    for (int i = 0; i < e->nbucket; i++)
        e->expected[i] = expected_seconds(e, i);
    e->expected_score = e->score ? expected_seconds(e, -1) : 0;
}

/* What replicas of one process share while they open: the job's links, each until its rank has
 * it. */
typedef struct {
    bool open;
    comm_link *link[SHARD_MAX_RANKS];
} job_links;

/* A process of its own is of the replica that its rank says. */
static weft_status open_links(weft_engine *e, const weft_engine_options *o, job_links *job) {
    const shard_mesh *m = &e->shape.mesh;
    char flags[96], replicas[32] = "";
    int rank;
    e->self = -1;
    if (job->open)
        return WEFT_OK;
    if (m->dp > 1)
        snprintf(replicas, sizeof replicas, "--dp %d ", m->dp);
    snprintf(flags, sizeof flags, "%s--tp %d --pp %d", replicas, m->tp, m->pp);
    WEFT_TRY(comm_open(e->dev, o->comm, flags, shard_ranks(m), o->timeout, job->link, &rank));
    job->open = true;
    if (rank >= 0) {
        e->replica = rank / e->shape.ranks;
        e->self = rank % e->shape.ranks;
    }
    return WEFT_OK;
}

bool engine_owns(const weft_engine *e, const engine_rank *r) {
    return !e->dry && (e->self < 0 || r->rank == e->self);
}

static void forget_plans(engine_rank *r) {
    weights_close(&r->w);
    memset(r->bytes, 0, sizeof r->bytes);
    r->kept = 0;
}

/* The others' ranks are planned here too, which costs no memory of theirs: so that all processes
 * can tell whether they plan the same before any weight is read. */
static weft_status open_alike(weft_engine *e) {
    for (int i = 0; i < e->shape.ranks; i++)
        WEFT_TRY(open_rank(e, &e->rank[i], true, false));
    engine_rank *self = &e->rank[e->self];
    WEFT_TRY(engine_agree(e, &self->all));
    forget_plans(self);
    return WEFT_OK;
}

static weft_status open_one(weft_engine *e, engine_rank *r, const weft_engine_options *o) {
    bool here = engine_owns(e, r);
    if (here)
        WEFT_TRY(comm_attend(r->link));
    if (here || e->dry)
        WEFT_TRY(open_rank(e, r, e->dry, o->no_mmap));
    if (here)
        return take_memory(e, r);
    return r == engine_sampler(e) && !e->dry ? take_host_memory(e, r) : WEFT_OK;
}

/* In a process of its own a rank's failure has to reach the others. */
static weft_status open_own(weft_engine *e, const weft_engine_options *o) {
    if (e->self >= 0)
        WEFT_TRY(open_alike(e));
    for (int i = 0; i < e->shape.ranks; i++)
        WEFT_TRY(open_one(e, &e->rank[i], o));
    expect(e);
    if (e->self < 0)
        return WEFT_OK;
    engine_rank *self = &e->rank[e->self];
    comm_step(self->link, 0, READ_SECONDS + (double)self->w.bytes / READ_RATE);
    return comm_barrier(&self->all, "open");
}

static weft_status open_ranks(weft_engine *e, const weft_engine_options *o, job_links *job) {
    int ranks = e->shape.ranks;
    e->self = -1;
    e->rank = ARENA_NEW(&e->mem, engine_rank, ranks);
    e->cut = ARENA_NEW(&e->mem, step_part, e->shape.S + ENGINE_MICROS);
    if (!e->dry)
        WEFT_TRY(open_links(e, o, job));
    for (int i = 0; i < ranks; i++) {
        comm_link **link = &job->link[e->replica * ranks + i];
        join(e, &e->rank[i], i, *link);
        *link = NULL;
    }
    weft_status s = open_own(e, o);
    if (s != WEFT_OK && e->self >= 0) {
        comm_abort(e->rank[e->self].link, s);
        return comm_status(e->rank[e->self].link);
    }
    WEFT_TRY(s);
    return e->dry ? WEFT_OK : sched_team_open(e->self < 0 ? ranks : 1, &e->team);
}

static weft_status open_tokenizer(weft_engine *e, const char *path) {
    if (!tokenizer_exists(path))
        return WEFT_OK;
    WEFT_TRY(tokenizer_open(path, &e->tok));
    if (tokenizer_vocab_size(e->tok) > e->config.vocab)
        return weft_fail(
            WEFT_BAD_FILE,
            "%s: the tokenizer has ids up to %d, the model %lld rows; the files are of "
            "different models",
            path, tokenizer_vocab_size(e->tok) - 1, (long long)e->config.vocab);
    return WEFT_OK;
}

static weft_status lock_weights(weft_engine *e) {
    for (int i = 0; i < e->st.nfile; i++)
        WEFT_TRY(file_map_lock(&e->st.map[i]));
    return WEFT_OK;
}

static weft_status open_files(weft_engine *e, const char *path, const weft_engine_options *o) {
    WEFT_TRY(config_read(path, &e->mem, &e->config));
    /* A dry engine plans what the config describes even where the weights are not there yet. */
    if (!e->dry || e->config.dtype < 0)
        WEFT_TRY(safetensors_open(path, &e->st));
    WEFT_TRY(weights_dtype(&e->config, e->st.ntensor ? &e->st : NULL, o->dtype, &e->shape.dtype));
    if (o->dtype && strcmp(o->dtype, "int8") == 0 && !e->config.quant.weights)
        e->config.quant = (quant_config){.weights = true, .on_load = true};
    return e->dry ? WEFT_OK : open_tokenizer(e, path);
}

static weft_status open_engine(weft_engine *e, const char *path, const weft_engine_options *o,
                               job_links *job) {
    WEFT_TRY((e->dry ? device_open_dry : device_open)(o->device, o->cpu_level, &e->dev));
    WEFT_TRY(open_files(e, path, o));
    WEFT_TRY(set_shape(e, o));
    set_buckets(e);
    set_frequencies(e);
    WEFT_TRY(open_ranks(e, o, job));
    open_sequences(e, o->prefix_cache);
    return o->mlock && !e->dry ? lock_weights(e) : WEFT_OK;
}

static weft_status open_new(const char *path, const weft_engine_options *o, int replica, bool dry,
                            job_links *job, weft_engine **out) {
    weft_engine *e = mem_alloc(sizeof *e);
    e->dry = dry;
    e->score = o->score;
    e->replica = replica;
    weft_status s = open_engine(e, path, o, job);
    if (s != WEFT_OK)
        weft_engine_close(e);
    else
        *out = e;
    return s;
}

static void close_links(job_links *job) {
    for (int i = 0; i < SHARD_MAX_RANKS; i++)
        comm_close(job->link[i]);
}

int engine_replicas(const weft_engine_options *opt) {
    return opt->dp ? opt->dp : 1;
}

weft_status engine_open_replicas(const char *path, const weft_engine_options *opt,
                                 weft_engine **out) {
    int n = engine_replicas(opt);
    weft_engine *one = NULL;
    job_links job = {.open = false};
    weft_status s = check_range("--dp", n, 1, SHARD_MAX_RANKS);
    for (int i = 0; i < n && s == WEFT_OK; i++) {
        out[i] = NULL;
        s = open_new(path, opt, i, false, &job, &one);
        if (s == WEFT_OK && one->self >= 0) {
            memset(out, 0, sizeof *out * (size_t)n);
            out[one->replica] = one;
            return WEFT_OK;
        }
        if (s == WEFT_OK)
            out[i] = one;
    }
    for (int i = 0; s != WEFT_OK && i < n && out[i]; i++)
        weft_engine_close(out[i]);
    close_links(&job);
    return s;
}

weft_status weft_engine_open(const char *path, const weft_engine_options *opt, weft_engine **out) {
    weft_engine_options none = {0};
    job_links job = {.open = false};
    opt = opt ? opt : &none;
    if (engine_replicas(opt) != 1)
        return weft_fail(WEFT_USAGE, "--dp: %d replicas for one sequence; possible: 1", opt->dp);
    weft_status s = open_new(path, opt, 0, false, &job, out);
    close_links(&job);
    return s;
}

weft_status engine_open_dry(const char *path, const weft_engine_options *opt, weft_engine **out) {
    job_links none = {.open = false};
    return open_new(path, opt, 0, true, &none, out);
}

static void close_rank(weft_engine *e, engine_rank *r) {
    for (int i = 0; i < e->nbucket; i++)
        if (r->generate[i])
            sched_forget(e->dev, r->generate[i]);
    if (r->score)
        sched_forget(e->dev, r->score);
    for (int s = 0; s < WEFT_SPACES; s++)
        if (r->base[s])
            e->dev->release(e->dev, r->base[s], r->bytes[s]);
    if (r->stream)
        e->dev->stream_close(e->dev, r->stream);
    if (r->feed)
        e->dev->host_release(e->dev, r->feed);
    if (r->result)
        e->dev->host_release(e->dev, r->result);
    weights_close(&r->w);
}

void weft_engine_close(weft_engine *e) {
    if (!e)
        return;
    sched_team_close(e->team);
    for (int i = 0; e->rank && i < e->shape.ranks; i++)
        comm_close(e->rank[i].link); /* all before any memory that they know of */
    for (int i = 0; e->rank && i < e->shape.ranks; i++)
        close_rank(e, &e->rank[i]);
    kv_fini(&e->kv);
    tokenizer_close(e->tok);
    safetensors_close(&e->st);
    device_close(e->dev);
    arena_fini(&e->mem);
    mem_free(e);
}

const weft_tokenizer *weft_engine_tokenizer(const weft_engine *e) {
    return (const weft_tokenizer *)e->tok;
}

/* Numbers of rows that one token does not read: the embedding's and the position table's others. */
static int64_t unread(const weft_engine *e) {
    const model_config *c = &e->config;
    int64_t rows = c->tied && e->shape.mesh.pp == 1 ? 0 : c->vocab - 1;
    if (c->position == POSITION_LEARNED)
        rows += (c->max_ctx - 1) * e->shape.mesh.tp;
    return rows * c->d_model;
}

static void describe_token(const weft_engine *e, weft_engine_info *out) {
    out->weights_token = -unread(e);
    out->weight_bytes_token = -weft_dtype_bytes(e->shape.dtype, unread(e));
    for (int i = 0; i < e->shape.ranks; i++) {
        out->weights_token += (int64_t)e->rank[i].w.count;
        out->weight_bytes_token += (int64_t)e->rank[i].w.bytes;
    }
}

void weft_engine_describe(const weft_engine *e, weft_engine_info *out) {
    const model_config *c = &e->config;
    const engine_shape *s = &e->shape;
    *out = (weft_engine_info){.family = c->family,
                              .device = e->dev->backend,
                              .dtype = weft_dtype_name(s->dtype),
                              .vocab = (int32_t)c->vocab,
                              .n_layers = (int32_t)c->n_layers,
                              .d_model = (int32_t)c->d_model,
                              .n_heads = (int32_t)c->n_heads,
                              .n_kv_heads = (int32_t)c->n_kv_heads,
                              .head_dim = (int32_t)c->head_dim,
                              .ctx_size = s->ctx,
                              .max_ctx = (int32_t)c->max_ctx,
                              .ubatch_size = s->T,
                              .max_seqs = s->slots,
                              .threads = s->threads * shard_ranks(&s->mesh),
                              .tp = s->mesh.tp,
                              .pp = s->mesh.pp,
                              .bos_id = c->bos_id,
                              .n_eos = c->n_eos,
                              .parameters = config_parameters(c),
                              .weights = weft_dtype_name(c->quant.weights ? WEFT_I8 : s->dtype),
                              .int8_activations = c->quant.activations};
    describe_token(e, out);
    memcpy(out->eos_id, c->eos_id, sizeof out->eos_id);
    for (int i = 0; i < s->ranks; i++) {
        out->weight_bytes += (int64_t)e->rank[i].bytes[WEFT_SPACE_WEIGHT];
        out->kv_bytes += (int64_t)e->rank[i].bytes[WEFT_SPACE_KV];
        out->act_bytes += engine_act_bytes(&e->rank[i]);
    }
}
