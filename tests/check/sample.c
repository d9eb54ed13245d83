/* SPDX-License-Identifier: Apache-2.0
 * Cases of sample: every stage of the chain, rows of different requests in one batch, rows with
 * nothing left to draw. A row's token must not depend on its neighbours. */
#include "tests/check/check.h"
#include <math.h>
#include <string.h>

static float logit(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t h = check_hash(s->seed, (uint64_t)(i[0] * 1000003 + i[1]));
    if (check_get(&s->c, "mask") && (h % 3 == 0 || i[0] % 5 == 4))
        return h & 1024 ? -INFINITY : i[0] % 5 == 4 ? NAN : -INFINITY;
    return 3.0f * check_normal(check_hash(h, 1));
}

static weft_sample_params params(const check_set *s, int64_t r, int64_t rows) {
    uint64_t h = check_hash(s->seed, 5000 + (uint64_t)r);
    int64_t mode = check_get(&s->c, "mode"), C = check_get(&s->c, "C"), B = check_get(&s->c, "B");
    weft_sample_params p = {.slot = (int32_t)(rows - r), /* slot 0 belongs to nobody */
                            .history_len = (int32_t)((h >> 8) % (uint64_t)C),
                            .n_bias = B ? (int32_t)(h >> 20 & 0xff) % ((int32_t)B + 1) : 0,
                            .seed = {(uint32_t)h, 7},
                            .stream = {(uint32_t)r, 0},
                            .temperature = 1,
                            .top_p = 1,
                            .typical_p = 1,
                            .repetition_penalty = 1,
                            .n_top = (int32_t)check_get(&s->c, "top")};
    p.prompt_len = p.history_len / 2;
    if (mode == 5)
        mode = (int64_t)(h >> 40) % 5;
    if (mode == 0)
        p.temperature = 0;
    if (mode == 2)
        p.temperature = 0.8f, p.top_k = 20, p.top_p = 0.9f, p.min_p = 0.02f;
    if (mode == 3) {
        p.repetition_penalty = 1.3f, p.frequency_penalty = 0.4f, p.presence_penalty = 0.2f;
        p.no_repeat_ngram = 2;
    }
    if (mode == 4)
        p.typical_p = 0.8f, p.temperature = 1.2f;
    if (mode == 6) {
        static const uint8_t order[] = {WEFT_STAGE_TOP_K, WEFT_STAGE_XTC, WEFT_STAGE_DRY,
                                        WEFT_STAGE_TOP_N_SIGMA, WEFT_STAGE_TEMPERATURE};
        memcpy(p.order, order, sizeof order);
        p.top_k = 30, p.xtc_probability = 0.8f, p.xtc_threshold = 0.05f, p.top_n_sigma = 1.5f;
        p.dry_multiplier = 0.8f, p.dry_base = 1.75f, p.dry_allowed_length = 1, p.dry_last_n = -1;
        p.dynatemp_range = 0.4f, p.dynatemp_exponent = 1;
    }
    if (mode == 7) {
        p.mirostat = 1 + (int32_t)(h >> 50 & 1), p.mirostat_tau = 3, p.mirostat_eta = 0.1f;
        p.min_tokens = 4, p.n_held = p.n_bias < B ? 1 : 0;
    }
    return p;
}

static bool valid(const check_case *c) {
    return check_get(c, "top") <= WEFT_TOP_LOGPROBS && check_get(c, "rows") <= check_get(c, "R");
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_sample_args *a = &s->args.sample;
    int64_t R = check_get(c, "R"), V = check_get(c, "V"), C = check_get(c, "C"),
            B = check_get(c, "B");
    int64_t slots = R + 1, top = check_get(c, "top");
    weft_sample_params *p = arena_alloc(&s->mem, (size_t)R * sizeof *p);
    int32_t *history = arena_alloc(&s->mem, (size_t)(slots * C) * 4);
    int32_t *breaker = arena_alloc(&s->mem, (size_t)(slots * ((V + 31) / 32)) * 4);
    int32_t *last = arena_alloc(&s->mem, (size_t)slots * 4),
            *bias = arena_alloc(&s->mem, (size_t)(slots * B + 1) * 4);
    for (int64_t r = 0; r < R; r++)
        p[r] = params(s, r, R);
    for (int64_t i = 0; i < slots * C; i++)
        history[i] = (int32_t)(check_hash(s->seed, 9000 + (uint64_t)i) % (uint64_t)V);
    for (int64_t i = 0; i < slots * B; i++)
        bias[i] = (int32_t)((check_hash(s->seed, (uint64_t)(i / B)) + (uint64_t)(i % B) * 3) %
                            (uint64_t)V);
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->logits, (check_spec){WEFT_F32, 2, {R, V}, .row = 1, .value = logit});
    check_add(
        s, &a->params,
        (check_spec){WEFT_I32, 2, {R, WEFT_SAMPLE_WORDS}, .row = 1, .ints = (const int32_t *)p});
    if (B) {
        check_add(s, &a->bias_id, (check_spec){WEFT_I32, 2, {slots, B}, .ints = bias});
        check_add(s, &a->bias, (check_spec){WEFT_F32, 2, {slots, B}, .size = 3});
    }
    for (int64_t i = 0; i < slots * ((V + 31) / 32); i++)
        breaker[i] = (int32_t)(check_hash(s->seed, 12000 + (uint64_t)i) & 0x01010101);
    check_add(s, &a->breaker, (check_spec){WEFT_I32, 2, {slots, (V + 31) / 32}, .ints = breaker});
    check_add(s, &a->id, (check_spec){WEFT_I32, 1, {R}, .row = 1});
    check_add(s, &a->logprob, (check_spec){WEFT_F32, 1, {R}, .row = 1});
    if (top) {
        check_add(s, &a->top_id, (check_spec){WEFT_I32, 2, {R, top}, .row = 1});
        check_add(s, &a->top_logprob, (check_spec){WEFT_F32, 2, {R, top}, .row = 1});
    }
    if (check_get(c, "probs"))
        check_add(s, &a->probs, (check_spec){WEFT_F32, 2, {R, V}, .row = 1});
    check_add(s, &a->history, (check_spec){WEFT_I32, 2, {slots, C}, .ints = history});
    check_add(s, &a->last, (check_spec){WEFT_I32, 1, {slots}, .ints = last});
    check_add(s, &a->mu, (check_spec){WEFT_F32, 2, {slots, C + 1}, .size = 6});
}

static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    (void)row;
    return out == &s->args.sample.probs ? 0 : 20;
}

static const char *const shapes[] = {"R=1,V=7,C=9", "R=5,V=101,C=30", "R=17,V=64,C=16",
                                     "R=3,V=4001,C=50", NULL};
static const char *const variants[] = {"mode=0,top=5",
                                       "mode=1,probs=1",
                                       "mode=2,probs=1,top=3",
                                       "mode=3,probs=1",
                                       "mode=4,probs=1",
                                       "mode=5,B=4,probs=1,top=7",
                                       "mode=5,mask=1,top=2,probs=1",
                                       "mode=0,B=3",
                                       "mode=6,probs=1",
                                       "mode=7,B=4,probs=1",
                                       NULL};
static const char *const few[] = {"R=9,V=50,C=12", NULL};
static const char *const bucket[] = {"rows=1,mode=5", "rows=8,mode=5,probs=1,top=3", NULL};
static const check_group groups[] = {
    {"fp32", shapes, variants, false}, {"fp32", few, bucket, false}, {.dtypes = NULL}};
static const char *const bench[] = {"fp32:R=1,V=128256,C=64,mode=0",
                                    "fp32:R=16,V=128256,C=64,mode=2", NULL};

const check_op check_sample = {.op = WEFT_OP_sample,
                               .keys = "R! V! C! B mode mask top probs rows",
                               .groups = groups,
                               .bench = bench,
                               .valid = valid,
                               .build = build,
                               .magnitude = magnitude,
                               .rows_alone = true};
