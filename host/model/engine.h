/* SPDX-License-Identifier: Apache-2.0
 * engine: a model, its ranks, its plans and its KV pool; immutable once open but for the sequences.
 * engine.c opens and closes it, engine_layout.c gives every shared tensor its place, engine_step.c
 * runs steps, seq.c is the life of a sequence, sampling.c what it samples by, engine_plan.c
 * explains. */
#pragma once
#include "host/model/config.h"
#include "host/model/decoder.h"
#include "host/model/safetensors.h"
#include "host/model/tokenizer/tokenizer.h"
#include "host/model/weights.h"
#include "host/run/kv.h"
#include "host/run/sched.h"
#include "weft.h"

enum {
    ENGINE_MAX_BUCKETS = 16,
    ENGINE_QUERY_TILE = 16,
    ENGINE_GPU_ROWS = 128,
    ENGINE_MICROS = 64 /* most micro-batches of a step */
};

/* What fixes every shape. */
typedef struct {
    shard_mesh mesh;
    int ranks, threads;   /* of one replica of the mesh; of each rank */
    int ctx, T, S;        /* context; tokens, sequences of a step */
    int micro;            /* most tokens of a micro-batch; T without a pipeline */
    int query_tile;       /* most queries of an item of attention's work list */
    int slots;            /* sequences open at once; S = min(slots, T) take part in a step */
    int P;                /* pages of one sequence */
    int32_t pages;        /* pages of the pool */
    int R, score_rows;    /* rows of logits: of a generating step; of a scoring step */
    int64_t vocab_padded; /* columns of the logits: tp equal parts */
    int dtype;
} engine_shape;

typedef struct {
    int rank;         /* in its replica */
    shard_mesh place; /* its coordinates there */
    shard_part part;
    weights w;
    decoder_heads heads;
    decoder_io io;
    decoder_place *kcache, *vcache;
    uint64_t bytes[WEFT_SPACES]; /* as planned; and as allocated once open */
    void *base[WEFT_SPACES];
    weft_stream *stream;
    comm_link *link;
    comm end[WEFT_GROUPS]; /* of the replica: its world is the replica's ranks */
    comm all;              /* every replica's ranks; before and after steps only */
    weft_plan *generate[ENGINE_MAX_BUCKETS], *score;
    char *feed;   /* the block as the host fills it, bytes[WEFT_SPACE_FEED] */
    char *result; /* ids and log-probabilities of the last step */
    int64_t kept; /* in space OUT: where a step's results are, micro-batch behind micro-batch */
} engine_rank;

struct weft_seq {
    struct weft_engine *e;
    int slot;
    bool open;
    weft_sample_params params;    /* what does not change from token to token */
    int32_t *tokens;              /* [ctx + 1] */
    int32_t n, computed;          /* tokens in all; of which K and V are in the cache */
    int32_t prompt_len, uploaded; /* uploaded: of the history on the device */
    int32_t logits_row;           /* of the last step; -1: none */
};

struct weft_engine {
    arena mem;
    model_config config;
    safetensors st;
    tokenizer *tok; /* NULL: the folder has none */
    device *dev;
    engine_shape shape;
    bool dry, score;
    float *freq; /* [dims/2, 2] rotary frequencies, high and low parts; NULL: none */
    double mscale;
    float *unknown; /* [ctx + 2] NaN: mirostat's state at tokens that were not sampled */
    int nbucket, bucket[ENGINE_MAX_BUCKETS];
    engine_rank *rank; /* [shape.ranks] */
    sched_team *team;  /* of this process's ranks */
    int replica;       /* of mesh.dp: its ranks are the job's from replica * shape.ranks on */
    int self;          /* the only rank of this process; -1: all are */
    int64_t *first;    /* [pp + 1] stages' first layers */
    int64_t step;      /* steps run so far */
    /* seconds that a micro-batch of a bucket may take; a scoring one */
    double expected[ENGINE_MAX_BUCKETS], expected_score;
    struct step_part *cut; /* [S + ENGINE_MICROS] parts of a step's micro-batches */
    kv_pool kv;
    weft_seq *seq; /* [slots] */
};

/* Most queries of an item of attention's work list. A GPU packs a tile's queries with the heads of
 * a group as rows. */
int engine_query_tile(const device *d, const model_config *c);

/* opt->dp engines that share a job: out[i] is replica i, or NULL where that is of other processes.
 * Each has the model, its KV cache and its ranks to itself, and a thread may drive each. A rank
 * that fails ends the job in all. */
weft_status engine_open_replicas(const char *path, const weft_engine_options *opt,
                                 weft_engine **out);
int engine_replicas(const weft_engine_options *opt); /* dp, 1 by default */
/* As weft_engine_open, but reads no weights and allocates nothing on the device: for plans. One
 * replica stands for all. */
weft_status engine_open_dry(const char *path, const weft_engine_options *opt, weft_engine **out);

/* engine_layout.c: places of feed, state, out and KV for one rank, and the bytes of those
 * arenas. */
void engine_layout(weft_engine *e, engine_rank *r);
uint64_t engine_result_bytes(const engine_rank *r); /* what every step brings back */

/* engine_agree.c. Whether every rank runs this version with these arguments on this model by this
 * plan; WEFT_PEER naming both sides. */
weft_status engine_agree(const weft_engine *e, comm *world);

/* Replaces v by rank 0's where ranks are processes, so that all replicas go on alike. */
weft_status engine_share(const weft_engine *e, uint64_t *v);

/* engine_plan.c. Memory by arena and rank; then, where `steps`, the plans of one token and of a
 * full chunk. */
void engine_plan_text(const weft_engine *e, bool steps, buf *out);
void engine_plan_json(const weft_engine *e, bool steps, buf *out);
/* Cost of rank 0's plan for a step of up to `tokens` tokens. */
plan_cost engine_plan_cost(const weft_engine *e, int tokens);
bool engine_samples(const weft_engine *e, const engine_rank *r); /* is of the last stage */
/* Share of a step that a stage has nothing to do in: of one token, or of the longest step. */
double engine_bubble(const weft_engine *e, int stage, bool whole);
/* Bytes a rank sends in a step of ubatch_size tokens. */
int64_t engine_step_sent(const weft_engine *e, const engine_rank *r);
int64_t engine_act_bytes(const engine_rank *r); /* every arena but weights and KV */

/* Index of the smallest bucket that holds so many tokens. */
int engine_bucket(const weft_engine *e, int tokens);

/* engine_step.c. One piece of a step: the next `take` pending tokens of a sequence. */
typedef struct step_part {
    weft_seq *seq;
    int32_t take;
    int32_t row;  /* of the logits; -1: more tokens are pending */
    int32_t skip; /* tokens of it that earlier micro-batches of the step take; 0 for callers */
} step_part;

/* Takes KV pages, fills the feed and runs one step on every rank. target (scoring only): per
 * token. */
weft_status engine_run(weft_engine *e, const step_part *part, int nparts, const int32_t *target);
/* A step over parts the caller chose: takes are 1 or more, ubatch_size in all, and every page they
 * need is free. Fills in rows; out[i] is of part[i]. An id of -1 in a part with a row: see
 * engine_unsampled. */
weft_status engine_step(weft_engine *e, step_part *part, int nparts, weft_sampled *out);
/* Fails: the sampler had no token to choose from. */
weft_status engine_unsampled(const weft_seq *s);
bool engine_owns(const weft_engine *e, const engine_rank *r); /* is of this process */
/* The rank whose results the host reads. */
engine_rank *engine_sampler(const weft_engine *e);
/* Copies n bytes of the sampler's results at a place of space OUT. */
weft_status engine_result(const weft_engine *e, const decoder_place *from, int64_t offset, void *to,
                          uint64_t n);

/* Row `row` of the logits the last generating step sampled from, [vocab]. */
weft_status engine_logits(const weft_engine *e, int32_t row, float *logits);

/* seq.c. WEFT_USAGE if the ids do not fit behind `used` tokens or are not in the vocabulary. */
weft_status engine_check_tokens(const weft_engine *e, int32_t used, const int32_t *ids, size_t n);
/* Takes what the prefix cache has of the sequence's next tokens; at least one is left to
 * compute. Returns how many tokens that gained. */
int32_t seq_reuse(weft_seq *s);
/* Gives its pages back; its place, tokens and sampler stay, so that steps compute them again, to
 * the same bits. */
void seq_evict(weft_seq *s);
