/* SPDX-License-Identifier: Apache-2.0
 * trials MODEL [--device D] [--dtype T] [--sequences N] [--longest N] [--seconds S] [--seed N]:
 * one arithmetic on a whole model. Random prompts are continued alone, whole in one step; then
 * among others, in small chunks and in another order. Every logit must have the same bits. Ends
 * with one line of JSON. */
#include "host/base/args.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "weft.h"
#include "weft/rng.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64, NEW_TOKENS = 6 };

typedef struct {
    const char *device, *dtype;
    int64_t sequences, longest, seconds, seed;
    bool help;
} trial_args;

#define AT(member) offsetof(trial_args, member)
static const arg_spec specs[] = {
    {"device", "", NULL, ARG_STRING, "NAME", 0, 0, "auto", "where to compute", AT(device)},
    {"dtype", "", NULL, ARG_STRING, "NAME", 0, 0, "auto", "type of weights and cache", AT(dtype)},
    {"sequences", "", NULL, ARG_INT, "N", 2, MOST, "16", "prompts", AT(sequences)},
    {"longest", "", NULL, ARG_INT, "N", 2, 1 << 16, "600", "tokens of the longest", AT(longest)},
    {"seconds", "", NULL, ARG_INT, "N", 1, 86400, "60", "no new setting after that", AT(seconds)},
    {"seed", "", NULL, ARG_INT, "N", 0, 1 << 30, "1", "of the prompts", AT(seed)},
    {"help", "h", NULL, ARG_FLAG, NULL, 0, 0, NULL, "this text", AT(help)},
};
enum { SPECS = sizeof specs / sizeof *specs };

/* Sequences at once, tokens of a step, whether the last comes first, and whether steps are launched
 * one by one where the device has graphs. */
typedef struct {
    int together, ubatch;
    bool backwards, eager;
} setting;
static const setting settings[] = {
    {1, 512, false, false}, {64, 512, true, false}, {1, 512, true, true}, {7, 64, false, false},
    {64, 33, true, true},   {1, 16, false, false},  {3, 7, true, false},  {2, 1, false, false}};

typedef struct {
    int32_t *prompt;
    int n, done;
    weft_seq *seq;
    uint64_t digest[NEW_TOKENS];
    int32_t id[NEW_TOKENS];
} story;

typedef struct {
    const trial_args *args;
    const char *model;
    story want[MOST], got[MOST];
    int n;
    float *logits;
    int32_t vocab;
    int64_t compared, differ;
} trial;

static uint64_t digest_of(const void *p, size_t n) {
    const unsigned char *s = p;
    uint64_t h = 1469598103934665603u, w;
    for (size_t i = 0; i + 8 <= n; i += 8) { /* FNV-1a over words */
        memcpy(&w, s + i, 8);
        h = (h ^ w) * 1099511628211u;
        h ^= h >> 29;
    }
    return h;
}

static void write_prompts(trial *t, int32_t vocab, arena *a) {
    static const int lengths[] = {1, 2, 17, 64, 0, 5, 129, 33, 16, 300, 65, 7, 511, 15, 128, 3};
    t->n = (int)t->args->sequences;
    for (int i = 0; i < t->n; i++) {
        story *s = &t->want[i];
        int most = (int)t->args->longest, n = lengths[i % 16] ? lengths[i % 16] : most;
        s->n = n < most ? n : most;
        s->prompt = arena_alloc(a, (size_t)s->n * sizeof *s->prompt);
        for (int k = 0; k < s->n; k++) {
            weft_philox r = weft_philox4x32((uint64_t)t->args->seed, (uint64_t)i, (uint64_t)k);
            s->prompt[k] = (int32_t)(r.v[0] % (uint32_t)vocab);
        }
        t->got[i] = *s;
    }
}

static weft_status take(trial *t, weft_engine *e, story *const *now, int n) {
    weft_seq *seq[MOST] = {NULL};
    weft_sampled out[MOST];
    for (int i = 0; i < n; i++)
        seq[i] = now[i]->seq;
    WEFT_TRY(weft_engine_step(e, seq, n, out));
    for (int i = 0; i < n; i++) {
        story *s = now[i];
        if (out[i].id < 0)
            continue;
        WEFT_TRY(weft_seq_logits(s->seq, t->logits));
        s->digest[s->done] = digest_of(t->logits, (size_t)t->vocab * 4);
        s->id[s->done++] = out[i].id;
    }
    return WEFT_OK;
}

/* At most `together` at once; a new one starts when another ends. */
static weft_status tell(trial *t, weft_engine *e, story *all, const setting *how) {
    story *now[MOST];
    int open = 0, next = 0;
    while (next < t->n || open) {
        for (; next < t->n && open < how->together; next++) {
            story *s = &all[how->backwards ? t->n - 1 - next : next];
            s->done = 0;
            WEFT_TRY(weft_seq_open(e, NULL, &s->seq));
            WEFT_TRY(weft_seq_append(s->seq, s->prompt, (size_t)s->n));
            now[open++] = s;
        }
        WEFT_TRY(take(t, e, now, open));
        int left = 0;
        for (int i = 0; i < open; i++) {
            if (now[i]->done < NEW_TOKENS)
                now[left++] = now[i];
            else
                weft_seq_close(now[i]->seq);
        }
        open = left;
    }
    return WEFT_OK;
}

static void compare(trial *t, const setting *how) {
    int64_t differ = t->differ;
    for (int i = 0; i < t->n; i++)
        for (int k = 0; k < NEW_TOKENS; k++) {
            const story *w = &t->want[i], *g = &t->got[i];
            bool same = w->digest[k] == g->digest[k] && w->id[k] == g->id[k];
            t->compared++;
            t->differ += !same;
            if (!same && t->differ == differ + 1)
                printf("  prompt %d of %d tokens, new token %d: other bits (token %d, was %d)\n", i,
                       w->n, k, g->id[k], w->id[k]);
        }
    printf("%d at once, steps of %d%s%s: %lld of %d differ\n", how->together, how->ubatch,
           how->backwards ? ", last first" : "", how->eager ? ", no graphs" : "",
           (long long)(t->differ - differ), t->n * NEW_TOKENS);
    fflush(stdout);
}

static weft_status run_setting(trial *t, const setting *how, bool first, arena *a) {
    const trial_args *o = t->args;
    weft_engine *e;
    weft_engine_info info;
    weft_engine_options opt = {.device = o->device,
                               .dtype = o->dtype,
                               .ctx_size = (int)o->longest + NEW_TOKENS + 2,
                               .ubatch_size = how->ubatch,
                               .max_seqs = t->n};
    setenv("WEFT_GRAPH", how->eager ? "0" : "1", 1);
    WEFT_TRY(weft_engine_open(t->model, &opt, &e));
    weft_engine_describe(e, &info);
    if (first) {
        t->vocab = info.vocab;
        t->logits = arena_alloc(a, (size_t)info.vocab * 4);
        write_prompts(t, info.vocab, a);
        printf("%s on %s, %s, %d prompts\n", t->model, info.device, info.dtype, t->n);
    }
    weft_status s = tell(t, e, first ? t->want : t->got, how);
    if (s == WEFT_OK)
        weft_engine_close(e);
    return s;
}

static weft_status run_trials(trial *t, arena *a) {
    double until = clock_seconds() + (double)t->args->seconds;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (i > 1 && clock_seconds() > until) {
            printf("skipped what was left after %lld seconds\n", (long long)t->args->seconds);
            break;
        }
        WEFT_TRY(run_setting(t, &settings[i], i == 0, a));
        if (i > 0)
            compare(t, &settings[i]);
    }
    return WEFT_OK;
}

int main(int argc, char **argv) {
    static trial_args o;
    static trial t = {.args = &o};
    arena a = {0};
    const char *model[1];
    int models = 0;
    weft_status s = args_parse(specs, SPECS, argc - 1, argv + 1, &o, model, 1, &models);
    if (o.help || (s == WEFT_OK && models != 1)) {
        buf text;
        buf_init(&text, 1 << 16);
        args_help(&text, specs, SPECS, 100);
        printf("trials MODEL: the same bits alone, in batches and in chunks\n\n%s", text.data);
        buf_fini(&text);
        return o.help ? 0 : 2;
    }
    t.model = model[0];
    if (s == WEFT_OK)
        s = run_trials(&t, &a);
    if (s != WEFT_OK)
        fprintf(stderr, "trials: error: %s\n", err_message());
    printf("{\"compared\":%lld,\"differ\":%lld,\"status\":%d}\n", (long long)t.compared,
           (long long)t.differ, (int)s);
    arena_fini(&a);
    return s != WEFT_OK ? err_exit_code(s) : t.differ ? 1 : 0;
}
