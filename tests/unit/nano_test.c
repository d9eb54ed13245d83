/* SPDX-License-Identifier: Apache-2.0
 * A trained GPT (models/gpt-nano-sort) against PyTorch's activations: every op of layer 0 is fed
 * PyTorch's own input, then the three blocks are chained to the logits. */
#include "tests/unit/rig.h"

#include "host/base/file.h"
#include "host/base/json.h"
#include <stdio.h>

enum { SEQS = 3, LEN = 11, T = SEQS * LEN, H = 48, HEADS = 3, WIDTH = 16, VOCAB = 3 };

typedef struct {
    char name[48];
    float *x;
    int64_t n;
} array;

typedef struct {
    array weight[48], seen[32];
    int weights, seens;
    arena arena;
} nano;

/* ---- reading ---- */

static int digit64(char c) {
    const char *all = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(all, c) : NULL;
    return at ? (int)(at - all) : 0;
}

/* Base64 of little-endian floats. */
static void read_data(json *j, array *out) {
    json_str s = json_string(j);
    size_t bytes = s.n / 4 * 3;
    uint8_t *raw = arena_alloc(j->arena, bytes + 4);
    for (size_t i = 0; i + 4 <= s.n; i += 4) {
        uint32_t v = 0;
        for (size_t k = 0; k < 4; k++)
            v = v << 6 | (uint32_t)digit64(s.s[i + k]);
        for (size_t k = 0; k < 3; k++)
            raw[i / 4 * 3 + k] = (uint8_t)(v >> (16 - 8 * k));
    }
    out->n = (int64_t)bytes / 4;
    out->x = (float *)(void *)raw;
}

static void read_arrays(nano *m, const char *file, array *list, int *count, int room) {
    char path[4096];
    const char *text;
    size_t n;
    json *j = ARENA_NEW(&m->arena, json, 1);
    snprintf(path, sizeof path, "%s/models/gpt-nano-sort/%s", fixtures(), file);
    assert_int_equal(file_read(path, 1 << 24, &m->arena, &text, &n), WEFT_OK);
    json_init(j, file, text, n, &m->arena);
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "config"))
            continue;
        assert_true(*count < room);
        array *a = &list[(*count)++];
        snprintf(a->name, sizeof a->name, "%.*s", (int)key.n, key.s);
        json_object(j);
        for (json_str part; json_key(j, &part);)
            if (json_is(part, "data"))
                read_data(j, a);
    }
    assert_int_equal(json_done(j), WEFT_OK);
}

static int load(void **state) {
    char path[4096];
    snprintf(path, sizeof path, "%s/models/gpt-nano-sort/gpt-nano-sort-model.json", fixtures());
    if (!file_exists(path))
        return 0;
    nano *m = mem_alloc(sizeof *m);
    read_arrays(m, "gpt-nano-sort-model.json", m->weight, &m->weights, COUNT(m->weight));
    read_arrays(m, "gpt-nano-sort-t0-partials.json", m->seen, &m->seens, COUNT(m->seen));
    *state = m;
    return 0;
}

static int unload(void **state) {
    nano *m = *state;
    if (m)
        arena_fini(&m->arena);
    mem_free(m);
    return 0;
}

static nano *need(void **state) {
    if (!*state) {
        print_message("%s/models/gpt-nano-sort is not there\n", fixtures());
        skip();
    }
    return *state;
}

static const float *find(const array *list, int n, const char *name, int64_t count) {
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i].name, name) && list[i].n >= count)
            return list[i].x;
    fail_msg("no array %s of %lld", name, (long long)count);
    return NULL;
}

static const float *seen(const nano *m, const char *name, int64_t count) {
    return find(m->seen, m->seens, name, count);
}

static const float *weight(const nano *m, int layer, const char *name, int64_t count) {
    char full[64];
    if (layer < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "transformer.h.%d.%s", layer, name);
    return find(m->weight, m->weights, full, count);
}

/* PyTorch's float result is itself some roundings from the truth. */
static void expect_seen(const nano *m, const char *name, const float *got, int64_t n) {
    const float *want = seen(m, name, n);
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fabs(want[i]) > most ? fabs(want[i]) : most;
    for (int64_t i = 0; i < n; i++) {
        double w = want[i];
        expect_near(name, got + i, &w, 1, 1e-6 * (most < 1 ? 1 : most));
    }
}

/* ---- the ops of a block ---- */

static void embed(const float *w, int64_t rows, const int32_t *ids, float *y) {
    weft_args a = {0};
    a.embed.ids = view(WEFT_I32, ids, DIMS(T));
    a.embed.w = view(WEFT_F32, w, DIMS(rows, H));
    a.embed.y = view(WEFT_F32, y, DIMS(T, H));
    run(WEFT_OP_embed, &a);
}

static void add(const float *x, const float *b, float *y) {
    weft_args a = {0};
    a.add.a = view(WEFT_F32, x, DIMS(T, H));
    a.add.b = view(WEFT_F32, b, DIMS(T, H));
    a.add.y = view(WEFT_F32, y, DIMS(T, H));
    run(WEFT_OP_add, &a);
}

static void norm(const float *g, const float *b, const float *x, const float *res, float *r,
                 float *y) {
    weft_args a = {0};
    a.layernorm.x = view(WEFT_F32, x, DIMS(T, H));
    if (res)
        a.layernorm.res = view(WEFT_F32, res, DIMS(T, H));
    if (r)
        a.layernorm.r = view(WEFT_F32, r, DIMS(T, H));
    a.layernorm.g = view(WEFT_F32, g, DIMS(H));
    a.layernorm.b = view(WEFT_F32, b, DIMS(H));
    a.layernorm.y = view(WEFT_F32, y, DIMS(T, H));
    a.layernorm.eps = 1e-5f;
    run(WEFT_OP_layernorm, &a);
}

typedef struct {
    int64_t in, out;
    const float *w, *bias, *res;
    int act;
} linear;

static void apply(linear l, const float *x, float *y) {
    weft_args a = {0};
    a.matmul.x = view(WEFT_F32, x, DIMS(T, l.in));
    a.matmul.w = view(WEFT_F32, l.w, DIMS(l.out, l.in));
    if (l.bias)
        a.matmul.bias = view(WEFT_F32, l.bias, DIMS(l.out));
    if (l.res)
        a.matmul.res = view(WEFT_F32, l.res, DIMS(T, l.out));
    a.matmul.y = view(WEFT_F32, y, DIMS(T, l.out));
    a.matmul.act = l.act;
    a.matmul.leaves = 1;
    run(WEFT_OP_matmul, &a);
}

/* q, k and v are views of the fused buffer. */
static void attend(const float *qkv, float *y, float *lse) {
    int32_t qstart[SEQS + 1], qpos[SEQS] = {0}, kvlen[SEQS], work[SEQS * HEADS][4];
    int32_t nwork = SEQS * HEADS;
    weft_args a = {0};
    weft_attention_args *s = &a.attention;
    weft_tensor *parts[3] = {&s->q, &s->k, &s->v};
    for (int i = 0; i < 3; i++) {
        *parts[i] = view(WEFT_F32, qkv + (ptrdiff_t)i * H, DIMS(T, HEADS, WIDTH));
        parts[i]->stride[0] = 3 * H;
    }
    for (int i = 0; i <= SEQS; i++)
        qstart[i] = i * LEN;
    for (int i = 0; i < nwork; i++) {
        kvlen[i / HEADS] = LEN;
        memcpy(work[i], (int32_t[]){i / HEADS, 0, LEN, i % HEADS}, sizeof work[i]);
    }
    s->qstart = view(WEFT_I32, qstart, DIMS(SEQS + 1));
    s->qpos = view(WEFT_I32, qpos, DIMS(SEQS));
    s->kvlen = view(WEFT_I32, kvlen, DIMS(SEQS));
    s->work = view(WEFT_I32, work, DIMS(SEQS * HEADS, 4));
    s->nwork = view(WEFT_I32, &nwork, DIMS(1));
    s->y = view(WEFT_F32, y, DIMS(T, HEADS, WIDTH));
    s->lse = view(WEFT_F32, lse, DIMS(T, HEADS));
    s->scale = 0.25f;
    s->causal = 1;
    s->group = 1;
    run(WEFT_OP_attention, &a);
}

CASE(layer_0_op_by_op) {
    const nano *m = need(state);
    float *y = mem_alloc(T * 4 * H * 4), *r = mem_alloc(T * H * 4), lse[T * HEADS];
    int32_t ids[T], pos[T];
    const float *idx = seen(m, "idx", T), *x = seen(m, "x", T * H);
    for (int t = 0; t < T; t++) {
        ids[t] = (int32_t)idx[t];
        pos[t] = t % LEN;
    }
    embed(weight(m, -1, "transformer.wte.weight", VOCAB * H), VOCAB, ids, y);
    expect_seen(m, "tok_emb", y, T * H);
    embed(weight(m, -1, "transformer.wpe.weight", LEN * H), LEN, pos, r);
    expect_seen(m, "pos_emb", r, LEN * H);
    add(y, r, y);
    expect_same_bits("x", y, x, T * H);
    norm(weight(m, 0, "ln_1.weight", H), weight(m, 0, "ln_1.bias", H), x, NULL, NULL, y);
    expect_seen(m, "ln1", y, T * H);
    apply((linear){H, 3 * H, weight(m, 0, "attn.c_attn.weight", 3 * H * H),
                   weight(m, 0, "attn.c_attn.bias", 3 * H), NULL, 0},
          seen(m, "ln1", T * H), y);
    expect_seen(m, "qkv", y, T * 3 * H);
    attend(seen(m, "qkv", T * 3 * H), y, lse);
    expect_seen(m, "y", y, T * H);
    apply((linear){H, H, weight(m, 0, "attn.c_proj.weight", H * H),
                   weight(m, 0, "attn.c_proj.bias", H), NULL, 0},
          seen(m, "y", T * H), y);
    expect_seen(m, "yProj", y, T * H);
    norm(weight(m, 0, "ln_2.weight", H), weight(m, 0, "ln_2.bias", H), seen(m, "yProj", T * H), x,
         r, y);
    expect_seen(m, "attnResid", r, T * H);
    expect_seen(m, "ln2", y, T * H);
    apply((linear){H, 4 * H, weight(m, 0, "mlp.c_fc.weight", 4 * H * H),
                   weight(m, 0, "mlp.c_fc.bias", 4 * H), NULL, 0},
          seen(m, "ln2", T * H), y);
    expect_seen(m, "fc", y, T * 4 * H);
    weft_args a = {0};
    a.activation.x = view(WEFT_F32, seen(m, "fc", T * 4 * H), DIMS(T, 4 * H));
    a.activation.y = view(WEFT_F32, y, DIMS(T, 4 * H));
    a.activation.act = WEFT_ACT_GELU_TANH;
    run(WEFT_OP_activation, &a);
    expect_seen(m, "gelu", y, T * 4 * H);
    apply((linear){4 * H, H, weight(m, 0, "mlp.c_proj.weight", 4 * H * H),
                   weight(m, 0, "mlp.c_proj.bias", H), seen(m, "attnResid", T * H), 0},
          seen(m, "gelu", T * 4 * H), y);
    expect_seen(m, "mlpResid", y, T * H);
    mem_free(y);
    mem_free(r);
}

/* The weights of the scores: each row of softmax(att) against the log-sum-exp. */
CASE(log_sum_exp_is_that_of_the_scores) {
    const nano *m = need(state);
    const float *att = seen(m, "att", SEQS * HEADS * LEN * LEN);
    float y[T * H], lse[T * HEADS];
    attend(seen(m, "qkv", T * 3 * H), y, lse);
    for (int i = 0; i < SEQS * HEADS * LEN; i++) {
        int s = i / (HEADS * LEN), h = i / LEN % HEADS, t = i % LEN;
        double sum = exp(att[i * LEN]), want;
        for (int j = 1; j <= t; j++)
            sum += exp(att[i * LEN + j]);
        want = log(sum);
        expect_near("lse", &lse[(s * LEN + t) * HEADS + h], &want, 1, 3e-6);
    }
}

static void block(const nano *m, int l, float *x) {
    float *y = mem_alloc(T * 4 * H * 4), *z = mem_alloc(T * 4 * H * 4), lse[T * HEADS];
    norm(weight(m, l, "ln_1.weight", H), weight(m, l, "ln_1.bias", H), x, NULL, NULL, y);
    apply((linear){H, 3 * H, weight(m, l, "attn.c_attn.weight", 3 * H * H),
                   weight(m, l, "attn.c_attn.bias", 3 * H), NULL, 0},
          y, z);
    attend(z, y, lse);
    apply((linear){H, H, weight(m, l, "attn.c_proj.weight", H * H),
                   weight(m, l, "attn.c_proj.bias", H), x, 0},
          y, x);
    norm(weight(m, l, "ln_2.weight", H), weight(m, l, "ln_2.bias", H), x, NULL, NULL, y);
    apply((linear){H, 4 * H, weight(m, l, "mlp.c_fc.weight", 4 * H * H),
                   weight(m, l, "mlp.c_fc.bias", 4 * H), NULL, WEFT_ACT_GELU_TANH},
          y, z);
    apply((linear){4 * H, H, weight(m, l, "mlp.c_proj.weight", 4 * H * H),
                   weight(m, l, "mlp.c_proj.bias", H), x, 0},
          z, x);
    mem_free(y);
    mem_free(z);
}

CASE(three_blocks_to_the_logits) {
    const nano *m = need(state);
    const char *names[3] = {"block0", "block1", "block2"};
    float x[T * H], y[T * H], logits[T * VOCAB], probs[T * VOCAB];
    memcpy(x, seen(m, "x", T * H), sizeof x);
    for (int l = 0; l < 3; l++) {
        block(m, l, x);
        expect_seen(m, names[l], x, T * H);
    }
    norm(weight(m, -1, "transformer.ln_f.weight", H), weight(m, -1, "transformer.ln_f.bias", H), x,
         NULL, NULL, y);
    expect_seen(m, "ln_f", y, T * H);
    apply((linear){H, VOCAB, weight(m, -1, "lm_head.weight", VOCAB * H), NULL, NULL, 0}, y, logits);
    expect_seen(m, "lm_head", logits, T * VOCAB);
    weft_args a = {0};
    a.softmax.x = view(WEFT_F32, logits, DIMS(T, VOCAB));
    a.softmax.y = view(WEFT_F32, probs, DIMS(T, VOCAB));
    run(WEFT_OP_softmax, &a);
    expect_seen(m, "probs", probs, T * VOCAB);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_0_op_by_op),
        cmocka_unit_test(log_sum_exp_is_that_of_the_scores),
        cmocka_unit_test(three_blocks_to_the_logits),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
