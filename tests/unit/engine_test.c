/* SPDX-License-Identifier: Apache-2.0
 * One arithmetic: a sequence's logits are the same bits alone or among others, whatever the chunk,
 * the threads, the ranks and the life of its neighbours; and what is planned is what is taken. By
 * default a seeded sample of the settings; with WEFT_LONG all of them. */
#include "host/model/engine.h"
#include "tests/unit/unit.h"
#include <malloc.h>
#include <math.h>
#include <stdio.h>

enum { MAX_SEQS = 33, NEW_TOKENS = 8, MAX_PROMPT = 100 };

static const char *const families[] = {"llama-gqa",  "llama-tp8",     "llama-bf16", "llama-fp16",
                                       "qwen2",      "qwen3",         "gpt2",       "mistral-swa",
                                       "llama-yarn", "llama-sharded", "llama-bias"};

typedef struct {
    int32_t prompt[MAX_PROMPT];
    int n;
    weft_sampling sampling;
    uint64_t digest[NEW_TOKENS]; /* of the logits each new token was sampled from */
    int32_t id[NEW_TOKENS];
    int done;
    weft_seq *seq;
} story;

static char *fixture(const char *model, char path[512]) {
    const char *root = getenv("WEFT_FIXTURES");
    snprintf(path, 512, "%s/golden/models/%s", root ? root : "../shared/fixtures", model);
    return path;
}

static bool long_run(void) {
    return getenv("WEFT_LONG") != NULL;
}

static uint64_t digest_of(const void *p, size_t n) {
    const unsigned char *s = p;
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ s[i]) * 1099511628211u;
    return h;
}

static weft_engine *open_model(const char *path, weft_engine_options o) {
    weft_engine *e = NULL;
    if (weft_engine_open(path, &o, &e) != WEFT_OK)
        fail_msg("%s: %s", path, weft_error());
    return e;
}

static void write_stories(story *s, int n, const weft_engine_info *info, uint64_t seed) {
    static const int lengths[] = {1, 2, 5, 16, 17, 33, 64, 65, 100, 7, 15};
    for (int i = 0; i < n; i++) {
        int most = info->ctx_size - NEW_TOKENS, want = lengths[i % 11];
        s[i] = (story){.n = want < most ? want : most, .sampling = weft_sampling_greedy()};
        for (int k = 0; k < s[i].n; k++)
            s[i].prompt[k] = (int32_t)(next_random(&seed) % (uint64_t)info->vocab);
        if (i % 3 == 1)
            s[i].sampling = (weft_sampling){.temperature = 0.9f,
                                            .top_k = 40,
                                            .top_p = 0.95f,
                                            .repetition_penalty = 1.1f,
                                            .seed = 5,
                                            .stream = (uint64_t)i};
        if (i % 6 == 5)
            s[i].sampling = (weft_sampling){.temperature = 1.2f,
                                            .mirostat = 1 + i / 6 % 2,
                                            .mirostat_tau = 4,
                                            .dry_multiplier = 2,
                                            .dry_allowed_length = 1,
                                            .min_tokens = 5,
                                            .stream = (uint64_t)i};
        if (i % 6 == 2)
            s[i].sampling = (weft_sampling){.temperature = 1.1f,
                                            .dynatemp_range = 0.5f,
                                            .top_n_sigma = 2,
                                            .xtc_probability = 0.6f,
                                            .xtc_threshold = 0.01f,
                                            .samplers = "xtc;temperature;top_n_sigma",
                                            .stream = (uint64_t)i};
    }
}

static void begin(weft_engine *e, story *s) {
    s->done = 0;
    assert_int_equal(weft_seq_open(e, &s->sampling, &s->seq), WEFT_OK);
    assert_int_equal(weft_seq_append(s->seq, s->prompt, (size_t)s->n), WEFT_OK);
}

static void note(story *s, const weft_sampled *out, float *logits, int vocab) {
    assert_int_equal(weft_seq_logits(s->seq, logits), WEFT_OK);
    s->digest[s->done] = digest_of(logits, (size_t)vocab * 4);
    s->id[s->done++] = out->id;
    if (s->done == NEW_TOKENS)
        weft_seq_close(s->seq);
}

/* Runs the stories with at most `together` open at once; a new one starts when another ends. */
static void tell(weft_engine *e, story *s, int n, int together) {
    weft_engine_info info;
    weft_engine_describe(e, &info);
    float *logits = malloc((size_t)info.vocab * 4);
    int next = 0, open = 0, active[MAX_SEQS];
    while (next < n || open) {
        while (next < n && open < together) {
            begin(e, &s[next]);
            active[open++] = next++;
        }
        weft_seq *seqs[MAX_SEQS];
        weft_sampled out[MAX_SEQS];
        for (int i = 0; i < open; i++)
            seqs[i] = s[active[i]].seq;
        if (weft_engine_step(e, seqs, open, out) != WEFT_OK)
            fail_msg("%s", weft_error());
        int left = 0;
        for (int i = 0; i < open; i++) {
            if (out[i].id >= 0)
                note(&s[active[i]], &out[i], logits, info.vocab);
            if (s[active[i]].done < NEW_TOKENS)
                active[left++] = active[i];
        }
        open = left;
    }
    free(logits);
}

static void expect_same(const char *what, const story *want, const story *got, int n) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < NEW_TOKENS; k++)
            if (want[i].digest[k] != got[i].digest[k] || want[i].id[k] != got[i].id[k])
                fail_msg(
                    "%s: sequence %d (prompt of %d), new token %d: other bits (token %d, was %d)",
                    what, i, want[i].n, k, got[i].id[k], want[i].id[k]);
}

typedef struct {
    int together, ubatch, threads, tp;
    const char *level;
    int pp, micro;
} setting;

static const setting settings[] = {
    {.together = 2, .threads = 2, .tp = 1},
    {.together = 3, .ubatch = 16, .threads = 1, .tp = 1},
    {.together = 7, .ubatch = 7, .threads = 3, .tp = 1},
    {.together = 16, .ubatch = 64, .threads = 2, .tp = 1},
    {.together = 33, .threads = 2, .tp = 1},
    {.together = 33, .ubatch = 16, .threads = 3, .tp = 1},
    {.together = 1, .ubatch = 1, .threads = 2, .tp = 1},
    {.together = 1, .ubatch = 7, .threads = 1, .tp = 1},
    {.together = 1, .ubatch = 64, .threads = 3, .tp = 1},
    {.together = 5, .ubatch = 33, .threads = 2, .tp = 2},
    {.together = 33, .threads = 4, .tp = 4},
    {.together = 4, .ubatch = 16, .threads = 8, .tp = 8},
    {.together = 1, .threads = 1, .tp = 2},
    {.together = 9, .ubatch = 64, .threads = 2, .tp = 1, .level = "portable"},
    {.together = 9, .ubatch = 64, .threads = 2, .tp = 1, .level = "avx2"},
    {.together = 9, .ubatch = 64, .threads = 2, .tp = 1, .level = "avx512"},
    {.together = 5, .threads = 2, .tp = 1, .pp = 2, .micro = 3},
    {.together = 9, .ubatch = 40, .threads = 1, .tp = 2, .pp = 2, .micro = 16},
    {.together = 33, .threads = 2, .tp = 4, .pp = 2, .micro = 1},
    {.together = 1, .threads = 3, .tp = 1, .pp = 3, .micro = 5},
    {.together = 16, .ubatch = 7, .threads = 1, .tp = 2, .pp = 3},
    {.together = 3, .ubatch = 64, .threads = 2, .tp = 1, .pp = 2, .micro = 64},
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

static bool mesh_possible(const char *path, int tp, int pp) {
    weft_engine_options o = {.tp = tp, .pp = pp};
    weft_engine *e = NULL;
    bool ok = engine_open_dry(path, &o, &e) == WEFT_OK;
    weft_engine_close(e);
    return ok;
}

static int level_of(const char *name) {
    for (int i = 0; i < WEFT_CPU_LEVELS; i++)
        if (strcmp(name, device_cpu_level_name(i)) == 0)
            return i;
    return -1;
}

/* The levels share a class but for bf16 by bf16 (docs/NUMERICS.md). */
static bool level_possible(const setting *s, const char *backend, const char *dtype) {
    if (!s->level)
        return true;
    return strcmp(dtype, "bf16") != 0 && strcmp(backend, "cpu") == 0 &&
           level_of(s->level) <= device_cpu_level();
}

static void check_model(const char *path, const char *backend, const char *dtype, uint64_t *seed) {
    story alone[MAX_SEQS], other[MAX_SEQS];
    int n = !long_run() ? 9 : strcmp(backend, "cpu") == 0 ? MAX_SEQS : 12;
    weft_engine_info info;
    weft_engine *e = open_model(path, (weft_engine_options){.device = backend, .dtype = dtype});
    weft_engine_describe(e, &info);
    write_stories(alone, n, &info, 11);
    tell(e, alone, n, 1);
    weft_engine_close(e);
    for (int i = 0; i < SETTINGS; i++) {
        const setting *s = &settings[i];
        if (!long_run() && next_random(seed) % 5)
            continue;
        if (!mesh_possible(path, s->tp, s->pp) || !level_possible(s, backend, info.dtype))
            continue;
        char what[256];
        snprintf(what, sizeof what,
                 "%s %s %s together=%d ubatch=%d threads=%d tp=%d pp=%d/%d level=%s", path, backend,
                 dtype, s->together, s->ubatch, s->threads, s->tp, s->pp, s->micro,
                 s->level ? s->level : "auto");
        e = open_model(path, (weft_engine_options){.device = backend,
                                                   .dtype = dtype,
                                                   .tp = s->tp,
                                                   .pp = s->pp,
                                                   .micro_batch = s->micro,
                                                   .threads = s->threads,
                                                   .ubatch_size = s->ubatch,
                                                   .max_seqs = s->together,
                                                   .cpu_level = s->level});
        memcpy(other, alone, sizeof other);
        tell(e, other, n, s->together);
        expect_same(what, alone, other, n);
        weft_engine_close(e);
    }
}

CASE(one_arithmetic) {
    static const char *const devices[] = {"cpu", "ref"}, *const dtypes[] = {"fp32", "bf16", "fp16",
                                                                            "int8"};
    char path[512];
    uint64_t seed = 2026;
    if (!file_is_dir(fixture("llama-gqa", path))) {
        print_message("skipped: one_arithmetic: no fixtures at %s\n", path);
        skip();
    }
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++)
        for (int d = 0; d < 2; d++)
            for (int t = 0; t < 4; t++)
                if (long_run() || next_random(&seed) % 3 == 0)
                    check_model(fixture(families[f], path), devices[d], dtypes[t], &seed);
}

/* Prompts that begin alike, pages taken from others and pages given back in mid-story. */
static void tell_sharing(weft_engine *e, story *s, int n, uint64_t *seed, int32_t *gained) {
    weft_engine_info info;
    weft_engine_describe(e, &info);
    float *logits = malloc((size_t)info.vocab * 4);
    int left = n;
    for (int i = 0; i < n; i++)
        begin(e, &s[i]);
    while (left > 0) {
        weft_seq *seqs[MAX_SEQS];
        weft_sampled out[MAX_SEQS];
        int who[MAX_SEQS], take = 0;
        for (int i = 0; i < n; i++) {
            if (s[i].done == NEW_TOKENS || next_random(seed) % 3 == 0)
                continue;
            if (next_random(seed) % 6 == 0)
                seq_evict(s[i].seq);
            *gained += seq_reuse(s[i].seq);
            who[take] = i;
            seqs[take++] = s[i].seq;
        }
        if (weft_engine_step(e, seqs, take, out) != WEFT_OK)
            fail_msg("%s", weft_error());
        for (int i = 0; i < take; i++)
            if (out[i].id >= 0)
                note(&s[who[i]], &out[i], logits, info.vocab);
        left = 0;
        for (int i = 0; i < n; i++)
            left += s[i].done < NEW_TOKENS;
    }
    free(logits);
}

CASE(prefix_cache_changes_no_bit) {
    char path[512];
    if (!file_is_dir(fixture("llama-gqa", path))) {
        print_message("skipped: prefix_cache_changes_no_bit: no fixtures at %s\n", path);
        skip();
    }
    static const char *const models[] = {"llama-gqa", "gpt2", "mistral-swa", "llama-bf16"};
    uint64_t seed = 77;
    for (int m = 0; m < 4; m++) {
        enum { N = 12 };
        story alone[N], other[N];
        weft_engine_info info;
        weft_engine *e = open_model(fixture(models[m], path), (weft_engine_options){0});
        weft_engine_describe(e, &info);
        write_stories(alone, N, &info, 31);
        for (int i = 1; i < N; i++) /* as much as the shorter one has, but for every fourth */
            for (int k = 0; k < alone[i].n && k < alone[i - 1].n && i % 4; k++)
                alone[i].prompt[k] = alone[i - 1].prompt[k];
        tell(e, alone, N, 1);
        weft_engine_close(e);
        e = open_model(path, (weft_engine_options){.max_seqs = N,
                                                   .ubatch_size = 24,
                                                   .threads = 2,
                                                   .tp = m == 0 ? 2 : 1,
                                                   .prefix_cache = true});
        int32_t gained = 0, free_pages = e->kv.free_count;
        for (int round = 0; round < 2; round++) {
            memcpy(other, alone, sizeof other);
            tell_sharing(e, other, N, &seed, &gained);
            expect_same(models[m], alone, other, N);
            assert_int_equal(e->kv.free_count, free_pages);
        }
        assert_true(gained > 500);
        weft_engine_close(e);
    }
}

/* Every mesh that the smallest models allow, from the first layer's embedding to the last one's
 * rows of logits in several micro-batches. */
CASE(meshes_have_the_bits_of_one_rank) {
    static const char *const models[] = {"llama-tp8", "llama-gqa", "qwen3", "gpt2"};
    static const int meshes[][2] = {{1, 2}, {1, 3}, {2, 2}, {4, 2}};
    char path[512], what[600];
    story one[9], many[9];
    if (!file_is_dir(fixture("qwen3", path))) {
        print_message("skipped: meshes_have_the_bits_of_one_rank: no fixtures at %s\n", path);
        skip();
    }
    for (int m = 0; m < 9; m++) {
        bool emu = m == 8; /* slow: a sample */
        int n = emu ? 2 : 9;
        weft_engine_options o = {.device = emu ? "emu" : m % 2 ? "ref" : "cpu", .max_seqs = 5};
        weft_engine_info info;
        weft_engine *e = open_model(fixture(models[m / 2 % 4], path), o);
        weft_engine_describe(e, &info);
        write_stories(one, n, &info, 17);
        tell(e, one, n, 5);
        weft_engine_close(e);
        for (int i = emu ? 2 : 0; i < (emu ? 3 : 4); i++) {
            o.tp = meshes[i][0];
            o.pp = meshes[i][1];
            o.micro_batch = 3;
            if (!mesh_possible(path, o.tp, o.pp))
                continue;
            snprintf(what, sizeof what, "%s on %s, tp %d, pp %d", path, o.device, o.tp, o.pp);
            e = open_model(path, o);
            memcpy(many, one, sizeof many);
            tell(e, many, n, 5);
            expect_same(what, one, many, n);
            weft_engine_close(e);
        }
    }
}

/* Decode one by one against prefill of the same tokens, and scoring against both. */
static void compare_scores(const char *path, int pp) {
    enum { N = 70 };
    int32_t ids[N];
    float lp[N];
    uint64_t seed = 4;
    weft_engine *e = open_model(
        path, (weft_engine_options){.score = true, .max_seqs = 2, .pp = pp, .micro_batch = 13});
    weft_engine_info info;
    weft_engine_describe(e, &info);
    size_t v = (size_t)info.vocab;
    float *all = malloc(N * v * 4), *row = malloc(v * 4);
    for (int i = 0; i < N; i++)
        ids[i] = (int32_t)(next_random(&seed) % v);
    assert_int_equal(weft_score(e, ids, N, lp, all), WEFT_OK);
    weft_sampled out;
    for (int i = 0; i < N; i++) {
        weft_seq *s;
        assert_int_equal(weft_seq_open(e, NULL, &s), WEFT_OK);
        assert_int_equal(weft_seq_append(s, ids, (size_t)i + 1), WEFT_OK);
        assert_int_equal(weft_engine_step(e, &s, 1, &out), WEFT_OK);
        assert_int_equal(weft_seq_logits(s, row), WEFT_OK);
        assert_memory_equal(row, all + (size_t)i * v, v * 4);
        weft_seq_close(s);
    }
    free(row);
    free(all);
    weft_engine_close(e);
}

CASE(decode_equals_prefill_equals_score) {
    char path[512];
    if (!file_is_dir(fixture("qwen3", path))) {
        print_message("skipped: decode_equals_prefill_equals_score: no fixtures at %s\n", path);
        skip();
    }
    compare_scores(path, 1);
    compare_scores(path, 2);
}

/* Cutting a sequence back and going on gives the bits of never having gone further. */
CASE(truncate_leaves_no_trace) {
    char path[512];
    if (!file_is_dir(fixture("llama-gqa", path))) {
        print_message("skipped: truncate_leaves_no_trace: no fixtures at %s\n", path);
        skip();
    }
    weft_engine *e = open_model(path, (weft_engine_options){.max_seqs = 1});
    weft_engine_info info;
    weft_engine_describe(e, &info);
    story s[2];
    write_stories(s, 2, &info, 8);
    s[1] = s[0] = (story){.n = 40, .sampling = s[1].sampling};
    for (int i = 0; i < 40; i++)
        s[0].prompt[i] = s[1].prompt[i] = i % info.vocab;
    tell(e, &s[0], 1, 1);
    weft_sampled out;
    begin(e, &s[1]);
    for (int i = 0; i < 20; i++)
        assert_int_equal(weft_engine_step(e, &s[1].seq, 1, &out), WEFT_OK);
    assert_int_equal(weft_seq_truncate(s[1].seq, 25), WEFT_OK);
    assert_int_equal(weft_seq_append(s[1].seq, s[1].prompt + 25, 15), WEFT_OK);
    float *logits = malloc((size_t)info.vocab * 4);
    while (s[1].done < NEW_TOKENS) {
        assert_int_equal(weft_engine_step(e, &s[1].seq, 1, &out), WEFT_OK);
        if (out.id >= 0)
            note(&s[1], &out, logits, info.vocab);
    }
    expect_same("truncate", &s[0], &s[1], 1);
    free(logits);
    weft_engine_close(e);
}

/* What mirostat has learned is of a position: going back takes it back, and tokens that were not
 * sampled teach it nothing. */
enum { MIRO_PROMPT = 5, MIRO_TOKENS = 19 };

static weft_seq *open_mirostat(weft_engine *e, float tau, const int32_t *prompt, size_t n) {
    weft_sampling by = {
        .temperature = 1.5f, .mirostat = 2, .mirostat_tau = tau, .mirostat_eta = 0.5f};
    weft_seq *s;
    assert_int_equal(weft_seq_open(e, &by, &s), WEFT_OK);
    assert_int_equal(weft_seq_append(s, prompt, n), WEFT_OK);
    return s;
}

static void go_on(weft_engine *e, weft_seq *s, int32_t *id, int n) {
    weft_sampled out;
    for (int i = 0; i < n; i++) {
        assert_int_equal(weft_engine_step(e, &s, 1, &out), WEFT_OK);
        id[i] = out.id;
    }
}

CASE(mirostat_goes_back_with_its_sequence) {
    char path[512];
    if (!file_is_dir(fixture("llama-gqa", path))) {
        print_message("skipped: mirostat_goes_back_with_its_sequence: no fixtures at %s\n", path);
        skip();
    }
    static const int32_t prompt[MIRO_PROMPT] = {3, 1, 4, 1, 5};
    int32_t want[MIRO_TOKENS], got[MIRO_TOKENS];
    weft_engine *e = open_model(path, (weft_engine_options){.max_seqs = 1});
    weft_seq *s = open_mirostat(e, 4, prompt, MIRO_PROMPT);
    go_on(e, s, want, MIRO_TOKENS);
    weft_seq_close(s);
    s = open_mirostat(e, 9, prompt, 1); /* whoever had the slot before leaves nothing */
    go_on(e, s, got, MIRO_TOKENS);
    weft_seq_close(s);
    s = open_mirostat(e, 4, prompt, MIRO_PROMPT);
    go_on(e, s, got, 7);
    const float *mu =
        (const float *)(const void *)((const char *)e->rank[0].base[WEFT_SPACE_STATE] +
                                      e->rank[0].io.mu.off);
    float learned = mu[MIRO_PROMPT + 7];
    assert_int_equal(weft_seq_append(s, prompt, 3), WEFT_OK); /* elsewhere and back */
    go_on(e, s, got, 6);
    assert_true(mu[MIRO_PROMPT + 7] == learned);
    for (int i = 8; i <= 10; i++)
        assert_true(isnan(mu[MIRO_PROMPT + i]));
    assert_int_equal(weft_seq_truncate(s, MIRO_PROMPT + 4), WEFT_OK);
    go_on(e, s, got, MIRO_TOKENS - 4);
    assert_memory_equal(got, want + 4, sizeof *got * (MIRO_TOKENS - 4));
    weft_seq_close(s);
    weft_engine_close(e);
}

static uint64_t planned(const weft_engine *e) {
    uint64_t n = 0;
    for (int i = 0; i < e->shape.ranks; i++)
        n += e->rank[i].w.owned + e->rank[i].bytes[WEFT_SPACE_KV] +
             (uint64_t)engine_act_bytes(&e->rank[i]);
    return n;
}

CASE(planned_is_taken_and_given_back) {
    char path[512];
    if (!file_is_dir(fixture("gpt2", path))) {
        print_message("skipped: planned_is_taken_and_given_back: no fixtures at %s\n", path);
        skip();
    }
    static const char *const models[] = {"gpt2", "llama-tp8", "qwen2"};
    for (int m = 0; m < 3; m++) {
        for (int tp = 1; tp <= 8; tp *= 2) {
            int pp = 1 + tp % 2;
            if (!mesh_possible(fixture(models[m], path), tp, pp))
                continue;
            weft_engine_options o = {.tp = tp, .pp = pp, .max_seqs = 3, .score = true};
            weft_engine *e = open_model(path, o), *dry = NULL;
            assert_int_equal(engine_open_dry(path, &o, &dry), WEFT_OK);
            assert_int_equal(e->dev->allocated, planned(e));
            for (int r = 0; r < tp * pp; r++)
                for (int s = 0; s < WEFT_SPACES; s++)
                    assert_int_equal(e->rank[r].bytes[s], dry->rank[r].bytes[s]);
            weft_engine_close(dry);
            weft_engine_close(e);
        }
    }
}

static uint64_t sent_by(const engine_rank *r) {
    uint64_t sum = 0;
    for (int g = 0; g < WEFT_GROUPS; g++)
        sum += r->end[g].sent;
    return sum;
}

/* Bytes of a step of so many tokens, by the plans of its micro-batches. */
static int64_t planned_bytes(const weft_engine *e, const engine_rank *r, int tokens) {
    int64_t sum = 0;
    for (int n; tokens > 0; tokens -= n) {
        n = tokens < e->shape.micro ? tokens : e->shape.micro;
        sum += plan_total(r->generate[engine_bucket(e, n)]).sent;
    }
    return sum;
}

static void expect_sent(weft_engine *e, weft_seq *s, int tokens) {
    uint64_t before[SHARD_MAX_RANKS] = {0};
    weft_sampled out;
    for (int r = 0; r < e->shape.ranks; r++)
        before[r] = sent_by(&e->rank[r]);
    assert_int_equal(weft_engine_step(e, &s, 1, &out), WEFT_OK);
    for (int r = 0; r < e->shape.ranks; r++)
        assert_int_equal(sent_by(&e->rank[r]) - before[r], planned_bytes(e, &e->rank[r], tokens));
}

/* Replicas have a device, memory and ranks each, and the same bytes. */
CASE(ranks_send_what_is_planned) {
    char path[512];
    if (!file_is_dir(fixture("llama-tp8", path))) {
        print_message("skipped: ranks_send_what_is_planned: no fixtures at %s\n", path);
        skip();
    }
    static const int meshes[][3] = {{2, 1, 1}, {8, 1, 1}, {1, 2, 1}, {2, 2, 2}, {4, 1, 2}};
    for (int m = 0; m < 5; m++) {
        weft_engine_options o = {
            .tp = meshes[m][0], .pp = meshes[m][1], .dp = meshes[m][2], .micro_batch = 16};
        weft_engine *e[2] = {NULL};
        const int32_t ids[21] = {3, 1, 4, 1, 5, 9, 2, 6};
        assert_int_equal(engine_open_replicas(path, &o, e), WEFT_OK);
        for (int d = 0; d < meshes[m][2]; d++) {
            weft_seq *s;
            assert_int_equal(e[d]->replica, d);
            assert_int_equal(e[d]->dev->allocated, planned(e[d]));
            assert_int_equal(weft_seq_open(e[d], NULL, &s), WEFT_OK);
            assert_int_equal(weft_seq_append(s, ids, 21), WEFT_OK);
            expect_sent(e[d], s, 21);
            expect_sent(e[d], s, 1);
            weft_seq_close(s);
        }
        for (int d = 0; d < meshes[m][2]; d++)
            weft_engine_close(e[d]);
    }
}

CASE(steps_allocate_nothing) {
    char path[512];
    if (!file_is_dir(fixture("llama-gqa", path))) {
        print_message("skipped: steps_allocate_nothing: no fixtures at %s\n", path);
        skip();
    }
    weft_engine *e = open_model(path, (weft_engine_options){.max_seqs = 4, .threads = 2});
    weft_engine_info info;
    weft_engine_describe(e, &info);
    story s[4];
    write_stories(s, 4, &info, 21);
    weft_seq *seqs[4];
    weft_sampled out[4];
    for (int i = 0; i < 4; i++) {
        begin(e, &s[i]);
        seqs[i] = s[i].seq;
    }
    uint64_t calls = mem_allocations();
    size_t bytes = mallinfo2().uordblks;
    uint64_t device_bytes = e->dev->allocated;
    for (int i = 0; i < 50; i++)
        assert_int_equal(weft_engine_step(e, seqs, 4, out), WEFT_OK);
    assert_int_equal(mem_allocations(), calls);
    assert_int_equal(mallinfo2().uordblks, bytes);
    assert_int_equal(e->dev->allocated, device_bytes);
    weft_engine_close(e);
}

CASE(limits_are_refused_without_a_trace) {
    char path[512];
    if (!file_is_dir(fixture("llama-gqa", path))) {
        print_message("skipped: limits_are_refused_without_a_trace: no fixtures at %s\n", path);
        skip();
    }
    weft_engine *e = open_model(
        path, (weft_engine_options){.max_seqs = 2, .ctx_size = 64, .kv_tokens = 80});
    weft_seq *a, *b, *c;
    int32_t ids[65] = {0}, bad = 100000;
    assert_int_equal(weft_seq_open(e, NULL, &a), WEFT_OK);
    assert_int_equal(weft_seq_open(e, NULL, &b), WEFT_OK);
    assert_int_equal(weft_seq_open(e, NULL, &c), WEFT_AGAIN);
    assert_int_equal(weft_seq_append(a, ids, 65), WEFT_USAGE);
    assert_int_equal(weft_seq_append(a, &bad, 1), WEFT_USAGE);
    assert_int_equal(weft_seq_append(a, ids, 60), WEFT_OK);
    assert_int_equal(weft_seq_append(b, ids, 60), WEFT_OK);
    weft_sampled out[2];
    weft_seq *both[2] = {a, b};
    int free_before = e->kv.free_count;
    assert_int_equal(weft_engine_step(e, both, 2, out), WEFT_AGAIN); /* 120 tokens, room for 80 */
    assert_int_equal(e->kv.free_count, free_before);
    assert_int_equal(weft_engine_step(e, both, 1, out), WEFT_OK);
    assert_true(out[0].id >= 0);
    weft_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_arithmetic),
        cmocka_unit_test(meshes_have_the_bits_of_one_rank),
        cmocka_unit_test(prefix_cache_changes_no_bit),
        cmocka_unit_test(decode_equals_prefill_equals_score),
        cmocka_unit_test(truncate_leaves_no_trace),
        cmocka_unit_test(mirostat_goes_back_with_its_sequence),
        cmocka_unit_test(planned_is_taken_and_given_back),
        cmocka_unit_test(ranks_send_what_is_planned),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(limits_are_refused_without_a_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
