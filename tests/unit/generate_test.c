/* SPDX-License-Identifier: Apache-2.0
 * weft_generate without a model: this file is the engine, its tokens come from a script. What the
 * job does with them (stops, held-back text, limits) is compared with the plain definition. */
#include "host/model/stop.h"
#include "host/model/tokenizer/tokenizer.h"
#include "tests/unit/unit.h"
#include "weft.h"
#include "weft/rng.h"
#include <stdio.h>

/* ---- Stop strings against their definition ---- */

/* Longest stop string that ends at text[end-1]. */
static int naive_match(const char *text, int end, const char *const *words, int n) {
    int longest = 0;
    for (int i = 0; i < n; i++) {
        int k = (int)strlen(words[i]);
        if (k <= end && memcmp(text + end - k, words[i], (size_t)k) == 0 && k > longest)
            longest = k;
    }
    return longest;
}

/* Most bytes at the end of text[0..end) that begin a stop string. */
static int naive_partial(const char *text, int end, const char *const *words, int n) {
    int most = 0;
    for (int i = 0; i < n; i++)
        for (int k = 1; k <= (int)strlen(words[i]) && k <= end; k++)
            if (memcmp(text + end - k, words[i], (size_t)k) == 0 && k > most)
                most = k;
    return most;
}

static void random_word(char *out, int n, uint64_t seed) {
    for (int i = 0; i < n; i++)
        out[i] = "ab"[weft_philox4x32(seed, 1, (uint64_t)i).v[0] & 1];
    out[n] = 0;
}

/* Two letters make borders and overlaps the rule. */
static void test_stop_is_its_definition(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        char word[4][16], text[101];
        const char *words[4];
        int n = 1 + (int)(seed % 4);
        for (int i = 0; i < n; i++) {
            random_word(word[i], 1 + (int)((seed * 7 + (uint64_t)i * 5) % 12),
                        seed * 8 + (uint64_t)i);
            words[i] = word[i];
        }
        random_word(text, 100, seed * 8 + 7);
        stop_match m;
        assert_int_equal(stop_init(&m, words, n), WEFT_OK);
        for (int end = 1; end <= 100; end++) {
            int found = stop_feed(&m, text[end - 1]);
            if (found != naive_match(text, end, words, n) ||
                stop_partial(&m) != naive_partial(text, end, words, n))
                fail_msg("seed %d, %s at %d: %d", (int)seed, text, end, found);
        }
        stop_fini(&m);
    }
}

static void test_stop_limits(void **state) {
    (void)state;
    static char long_word[STOP_BYTES + 2];
    const char *many[STOP_MAX + 1], *empty[] = {"x", ""}, *broken[] = {"a\xff"};
    const char *too_long[] = {long_word};
    stop_match m;
    for (int i = 0; i <= STOP_MAX; i++)
        many[i] = "x";
    memset(long_word, 'x', STOP_BYTES);
    assert_int_equal(stop_init(&m, too_long, 1), WEFT_OK);
    stop_fini(&m);
    assert_int_equal(stop_init(&m, many, STOP_MAX), WEFT_OK);
    stop_fini(&m);
    long_word[STOP_BYTES] = 'x';
    assert_int_equal(stop_init(&m, too_long, 1), WEFT_USAGE);
    assert_int_equal(stop_init(&m, many, STOP_MAX + 1), WEFT_USAGE);
    assert_int_equal(stop_init(&m, empty, 2), WEFT_USAGE);
    assert_int_equal(stop_init(&m, broken, 1), WEFT_USAGE);
    assert_int_equal(stop_init(&m, NULL, 0), WEFT_OK);
    assert_int_equal(stop_feed(&m, 'x'), 0);
    assert_int_equal(stop_partial(&m), 0);
}

/* ---- The engine: a script of ids ---- */

enum { CTX = 64, VOCAB = 12, PADDING = 9, END = 8 }; /* ids 9..11: rows without a token */

/* Bytes c3 and a9 (one character together), and what the merges make. */
static const char tokenizer_json[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
    "{\"id\":8,\"content\":\"<end>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true}],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":true},\"post_processor\":null,"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
    "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
    "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
    "\"byte_fallback\":false,\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\\u00c3\":3,\"\\u00a9\":4,"
    "\"ab\":5,\"ca\":6,\"bca\":7},\"merges\":[\"a b\",\"c a\",\"b ca\"]}}";

static const char *const spelling[VOCAB] = {"a", "b", "c", "\xc3", "\xa9", "ab", "ca", "bca"};

struct weft_engine {
    tokenizer *tok;
    const int32_t *script;
    int n_script, at, bos, steps, prefill;
    weft_status status; /* of the next step */
    volatile int cancel;
    int cancel_at; /* raised by that step */
    bool seq_open;
};
struct weft_seq {
    weft_engine *e;
    int32_t tokens[CTX + 1];
    size_t n;
};
static struct weft_seq the_seq;
static weft_sampling the_sampling; /* what it was opened with */

void weft_engine_describe(const weft_engine *e, weft_engine_info *out) {
    *out = (weft_engine_info){.vocab = VOCAB, .ctx_size = CTX, .bos_id = e->bos, .n_eos = 1};
    out->eos_id[0] = END;
}
const weft_tokenizer *weft_engine_tokenizer(const weft_engine *e) {
    return (const weft_tokenizer *)e->tok;
}
weft_sampling weft_sampling_default(const weft_engine *e) {
    (void)e;
    return (weft_sampling){.temperature = 1};
}
weft_status weft_seq_open(weft_engine *e, const weft_sampling *sampling, weft_seq **out) {
    the_sampling = sampling ? *sampling : (weft_sampling){0};
    assert_false(e->seq_open);
    e->seq_open = true;
    the_seq = (weft_seq){.e = e};
    *out = &the_seq;
    return WEFT_OK;
}
weft_status weft_seq_sampling(weft_seq *s, const weft_sampling *sampling) {
    the_sampling = sampling ? *sampling : (weft_sampling){0};
    assert_true(s->e->seq_open);
    return WEFT_OK;
}
void weft_seq_close(weft_seq *s) {
    if (s)
        s->e->seq_open = false;
}
weft_status weft_seq_append(weft_seq *s, const int32_t *ids, size_t n) {
    if (n > CTX - s->n)
        return weft_fail(WEFT_USAGE, "prompt: too long");
    memcpy(s->tokens + s->n, ids, n * sizeof *ids);
    s->n += n;
    return WEFT_OK;
}
const int32_t *weft_seq_tokens(const weft_seq *s, size_t *n) {
    *n = s->n;
    return s->tokens;
}
weft_status weft_engine_step(weft_engine *e, weft_seq *const *seqs, int n, weft_sampled *out) {
    assert_int_equal(n, 1);
    if (++e->steps == e->cancel_at)
        e->cancel = 1;
    *out = (weft_sampled){.id = -1};
    if (e->status != WEFT_OK)
        return e->status == WEFT_AGAIN ? e->status : weft_fail(e->status, "step: broken");
    if (e->steps <= e->prefill)
        return WEFT_OK;
    assert_true(e->at < e->n_script);
    out->id = e->script[e->at++];
    out->logprob = (float)-e->at;
    seqs[0]->tokens[seqs[0]->n++] = out->id;
    return WEFT_OK;
}

/* ---- One job ---- */

typedef struct {
    weft_engine e;
    weft_result r;
    char text[512];
    size_t n_text;
    int32_t ids[CTX + 1];
    int n_ids, stop_after, last_calls;
} job;

static bool on_token(void *user, const weft_token *t) {
    job *j = user;
    assert_int_equal(j->last_calls, 0); /* nothing follows the call with id -1 */
    assert_true(t->n_text < sizeof j->text - j->n_text);
    memcpy(j->text + j->n_text, t->text, t->n_text);
    j->n_text += t->n_text;
    if (t->id < 0)
        j->last_calls++;
    else
        j->ids[j->n_ids++] = t->id;
    return j->n_ids != j->stop_after;
}

static weft_status run(job *j, const int32_t *script, int n, weft_request req) {
    static const int32_t prompt[] = {0};
    j->e.script = script;
    j->e.n_script = n;
    j->n_text = 0;
    if (j->stop_after == 0)
        j->stop_after = -1;
    if (!req.ids && !req.prompt) {
        req.ids = prompt;
        req.n_ids = 1;
    }
    req.cancel = &j->e.cancel;
    weft_status s = weft_generate(&j->e, &req, on_token, j, &j->r);
    assert_false(j->e.seq_open);
    return s;
}

static tokenizer *tok;

static job new_job(void) {
    return (job){.e = {.tok = tok, .bos = 0}};
}

static int set_up(void **state) {
    (void)state;
    return tokenizer_open_memory("tokenizer.json", TOK_FILE_JSON, tokenizer_json,
                                 sizeof tokenizer_json - 1, &tok) == WEFT_OK
               ? 0
               : -1;
}

static int tear_down(void **state) {
    (void)state;
    tokenizer_close(tok);
    return 0;
}

static void assert_text(const job *j, const char *want) {
    if (j->n_text != strlen(want) || memcmp(j->text, want, j->n_text) != 0)
        fail_msg("text is \"%.*s\", not \"%s\"", (int)j->n_text, j->text, want);
}

/* ---- Cases ---- */

/* Every script of six tokens over the whole alphabet of text: all ways in which a stop string can
 * begin, overlap and end across tokens, against the text cut by definition. */
static void test_stop_strings_across_tokens(void **state) {
    (void)state;
    static const int32_t alphabet[] = {0, 1, 2, 5, 6, 7};
    static const char *const stops[] = {"bcab", "aab", "cc"};
    for (int code = 0; code < 6 * 6 * 6 * 6 * 6; code++) {
        int32_t script[5];
        char whole[32] = "";
        size_t n = 0;
        for (int i = 0, c = code; i < 5; i++, c /= 6) {
            script[i] = alphabet[c % 6];
            n += (size_t)snprintf(whole + n, sizeof whole - n, "%s", spelling[script[i]]);
        }
        int want = (int)n, stopped = 0;
        for (int end = 1; end <= (int)n && !stopped; end++) {
            stopped = naive_match(whole, end, stops, 3);
            want = stopped ? end - stopped : (int)n;
        }
        whole[want] = 0;
        job j = new_job();
        assert_int_equal(
            run(&j, script, 5, (weft_request){.max_tokens = 5, .stop = stops, .n_stop = 3}),
            WEFT_OK);
        assert_text(&j, whole);
        assert_int_equal(j.r.finish, stopped ? WEFT_FINISH_STOP : WEFT_FINISH_LENGTH);
        assert_int_equal(j.r.n_generated, j.n_ids);
    }
}

static void test_partial_stop_is_given_at_the_end(void **state) {
    (void)state;
    static const int32_t script[] = {2, 2, 0, 1, END};
    static const char *const stops[] = {"abX"};
    job j = new_job();
    assert_int_equal(run(&j, script, 5, (weft_request){.stop = stops, .n_stop = 1}), WEFT_OK);
    assert_text(&j, "ccab");
    assert_int_equal(j.last_calls, 1);
    assert_int_equal(j.r.finish, WEFT_FINISH_EOS);
    assert_int_equal(j.r.n_generated, 4); /* the end token is not reported */
}

static void test_stop_expressions(void **state) {
    (void)state;
    static const int32_t script[] = {2, 5, 5, 2, 6, END};
    static const char *const one[] = {"(?:ab){2}c"}, *end[] = {"a$"}, *bad[] = {"("};
    job j = new_job();
    weft_request req = {.stop_regex = one, .n_stop_regex = 1};
    assert_int_equal(run(&j, script, 6, req), WEFT_OK); /* c ab ab c: it begins in a token */
    assert_text(&j, "c");
    assert_int_equal(j.r.finish, WEFT_FINISH_STOP);
    j = new_job();
    req.stop_regex = end;
    assert_int_equal(run(&j, script, 6, req), WEFT_OK); /* "$" is decided at the end only */
    assert_text(&j, "cababcc");
    assert_int_equal(j.r.finish, WEFT_FINISH_STOP);
    req.stop_regex = bad;
    assert_int_equal(run(&j, script, 6, req), WEFT_USAGE);
    j.e.tok = NULL;
    req.stop_regex = one;
    assert_int_equal(run(&j, script, 6, req), WEFT_USAGE);
}

/* No text ends before min_tokens; stop tokens go to the sampler, which masks them so long. */
static void test_min_tokens(void **state) {
    (void)state;
    static const int32_t script[] = {5, 5, 5, 5, END}, stop_id[] = {7};
    static const char *const stops[] = {"ab"}, *regex[] = {"b"};
    weft_sampling by = {.min_tokens = 2};
    job j = new_job();
    weft_request req = {.stop = stops, .n_stop = 1, .sampling = &by};
    assert_int_equal(run(&j, script, 5, req), WEFT_OK);
    assert_text(&j, "abab");
    assert_int_equal(j.n_ids, 3);
    req = (weft_request){.stop_regex = regex,
                         .n_stop_regex = 1,
                         .sampling = &by,
                         .stop_id = stop_id,
                         .n_stop_id = 1};
    j = new_job();
    assert_int_equal(run(&j, script, 5, req), WEFT_OK);
    assert_text(&j, "ababa");
    assert_int_equal(the_sampling.n_stop_id, 1);
    assert_int_equal(the_sampling.stop_id[0], 7);
}

static void test_half_characters(void **state) {
    (void)state;
    static const int32_t script[] = {3, 4, 0, 3, END};
    static const char *const stops[] = {"\xc3\xa9"
                                        "b"};
    job j = new_job();
    assert_int_equal(run(&j, script, 5, (weft_request){.stop = stops, .n_stop = 1}), WEFT_OK);
    assert_text(&j, "\xc3\xa9"
                    "a\xef\xbf\xbd"); /* cut off at the end: U+FFFD */
    assert_int_equal(j.n_ids, 4);
}

static void test_ends(void **state) {
    (void)state;
    static const int32_t script[] = {0, END, 1, 2, 2, 2};
    static const int32_t stop_id[] = {7, 2};
    job j = new_job();
    assert_int_equal(run(&j, script, 6, (weft_request){.max_tokens = 6}), WEFT_OK);
    assert_int_equal(j.r.finish, WEFT_FINISH_EOS);
    assert_text(&j, "a");
    j = new_job();
    weft_request on = {.max_tokens = 6, .ignore_eos = true, .stop_id = stop_id, .n_stop_id = 2};
    assert_int_equal(run(&j, script, 6, on), WEFT_OK);
    assert_int_equal(j.r.finish, WEFT_FINISH_EOS);
    assert_text(&j, "ab");
    assert_int_equal(j.n_ids, 3);
    j = new_job();
    assert_int_equal(run(&j, script, 6, (weft_request){.max_tokens = 4, .ignore_eos = true}),
                     WEFT_OK);
    assert_int_equal(j.r.finish, WEFT_FINISH_LENGTH);
    assert_int_equal(j.e.steps, 4); /* the last token is not computed */
}

static void test_context_is_the_limit(void **state) {
    (void)state;
    int32_t script[CTX + 8] = {0}, prompt[CTX] = {0};
    job j = new_job();
    assert_int_equal(run(&j, script, CTX + 8, (weft_request){.ids = prompt, .n_ids = CTX - 3}),
                     WEFT_OK);
    assert_int_equal(j.r.n_generated, 4);
    assert_int_equal(j.r.finish, WEFT_FINISH_LENGTH);
    j = new_job();
    assert_int_equal(run(&j, script, CTX + 8, (weft_request){.ids = prompt, .n_ids = CTX}),
                     WEFT_OK);
    assert_int_equal(j.r.n_generated, 1);
    assert_int_equal(j.r.n_prompt, CTX);
}

static void test_cancel(void **state) {
    (void)state;
    static const int32_t script[] = {2, 0, 1, 2, 2};
    static const char *const stops[] = {"abX"};
    job j = new_job();
    j.e.cancel_at = 3;
    assert_int_equal(run(&j, script, 5, (weft_request){.stop = stops, .n_stop = 1}), WEFT_OK);
    assert_int_equal(j.r.finish, WEFT_FINISH_CANCELLED);
    assert_text(&j, "cab"); /* what was held back is not lost */
    j = new_job();
    j.stop_after = 2;
    assert_int_equal(run(&j, script, 5, (weft_request){.stop = stops, .n_stop = 1}), WEFT_OK);
    assert_int_equal(j.r.finish, WEFT_FINISH_CANCELLED);
    assert_text(&j, "c");
    assert_int_equal(j.last_calls, 0); /* who said stop hears nothing more */
}

static void test_prompt(void **state) {
    (void)state;
    static const int32_t script[] = {2, 1};
    job j = new_job();
    assert_int_equal(run(&j, script, 2, (weft_request){.prompt = "abc", .max_tokens = 2}), WEFT_OK);
    assert_int_equal(j.r.n_prompt, 2);
    assert_text(&j, "cb");
    j = new_job();
    j.e.bos = 3;
    assert_int_equal(run(&j, script, 2, (weft_request){.prompt = "", .max_tokens = 1}), WEFT_OK);
    assert_int_equal(the_seq.tokens[0], 3);
    j = new_job();
    j.e.bos = -1;
    assert_int_equal(run(&j, script, 2, (weft_request){.prompt = "", .max_tokens = 1}), WEFT_USAGE);
    assert_int_equal(run(&j, script, 2, (weft_request){.prompt = "a\xff"}), WEFT_BAD_FILE);
    assert_int_equal(run(&j, script, 2, (weft_request){.prompt = "a", .ids = script, .n_ids = 1}),
                     WEFT_USAGE);
    assert_int_equal(run(&j, script, 2, (weft_request){.max_tokens = -1}), WEFT_USAGE);
}

/* Long prompts take several steps; only the last of them samples. */
static void test_prefill_takes_steps(void **state) {
    (void)state;
    static const int32_t script[] = {2}, prompt[] = {0, 1, 2, 0, 1};
    job j = new_job();
    j.e.prefill = 3;
    weft_request req = {.ids = prompt, .n_ids = 5, .max_tokens = 1};
    assert_int_equal(run(&j, script, 1, req), WEFT_OK);
    assert_int_equal(j.e.steps, 4);
    j = new_job();
    j.e.prefill = 1000; /* an engine that never samples is found out */
    assert_int_equal(run(&j, script, 1, req), WEFT_USAGE);
}

static void test_without_tokenizer_and_padding(void **state) {
    (void)state;
    static const int32_t script[] = {2, PADDING, 1};
    static const char *const stops[] = {"x"};
    job j = new_job();
    assert_int_equal(run(&j, script, 3, (weft_request){.max_tokens = 3}), WEFT_OK);
    assert_text(&j, "cb"); /* a row past the tokenizer has no text */
    assert_int_equal(j.n_ids, 3);
    j = new_job();
    j.e.tok = NULL;
    assert_int_equal(run(&j, script, 3, (weft_request){.max_tokens = 3}), WEFT_OK);
    assert_int_equal(j.n_ids, 3);
    assert_text(&j, "");
    assert_int_equal(run(&j, script, 3, (weft_request){.prompt = "a"}), WEFT_USAGE);
    assert_int_equal(run(&j, script, 3, (weft_request){.stop = stops, .n_stop = 1}), WEFT_USAGE);
}

static void test_failed_step(void **state) {
    (void)state;
    static const int32_t script[] = {2};
    job j = new_job();
    j.e.status = WEFT_IO;
    j.r.n_generated = 77;
    assert_int_equal(run(&j, script, 1, (weft_request){.max_tokens = 1}), WEFT_IO);
    assert_string_equal(weft_error(), "step: broken");
    assert_int_equal(j.r.n_generated, 77); /* outputs are untouched on failure */
    j.e.status = WEFT_AGAIN;
    assert_int_equal(run(&j, script, 1, (weft_request){.max_tokens = 1}), WEFT_USAGE);
}

/* A sequence of the caller's keeps its tokens, and the next job goes on behind them. */
static void test_goes_on_after_a_sequence(void **state) {
    (void)state;
    static const int32_t script[] = {2, 1, 3, 4};
    job j = new_job();
    weft_seq *seq;
    j.stop_after = -1;
    j.e.script = script;
    j.e.n_script = 4;
    assert_int_equal(weft_seq_open(&j.e, NULL, &seq), WEFT_OK);
    assert_int_equal(weft_seq_append(seq, script, 1), WEFT_OK);
    weft_request req = {.seq = seq, .max_tokens = 3};
    assert_int_equal(weft_generate(&j.e, &req, on_token, &j, &j.r), WEFT_OK);
    assert_text(&j, "cb\xef\xbf\xbd");
    assert_true(j.e.seq_open);
    assert_int_equal(seq->n, 4);
    req.prompt = "a";
    assert_int_equal(weft_generate(&j.e, &req, on_token, &j, &j.r), WEFT_USAGE);
    assert_true(j.e.seq_open);
    weft_seq_close(seq);
}

/* Nothing is allocated between the first token and the last. */
static uint64_t allocations[2];
static bool count_allocations(void *user, const weft_token *t) {
    int *calls = user;
    (void)t;
    allocations[(*calls)++ > 0] = mem_allocations();
    return true;
}

static void test_no_allocation_on_the_way(void **state) {
    (void)state;
    static const int32_t script[40] = {5, 7, 6, 3, 4, 3, 3, 4};
    static const char *const stops[] = {"abX", "bcabcY"};
    static const int32_t prompt[] = {0};
    int calls = 0;
    job j = new_job();
    j.e.script = script;
    j.e.n_script = 40;
    weft_request req = {.ids = prompt, .n_ids = 1, .max_tokens = 40, .stop = stops, .n_stop = 2};
    assert_int_equal(weft_generate(&j.e, &req, count_allocations, &calls, NULL), WEFT_OK);
    assert_true(calls >= 40);
    assert_int_equal(allocations[0], allocations[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_is_its_definition),
        cmocka_unit_test(test_stop_limits),
        cmocka_unit_test(test_stop_strings_across_tokens),
        cmocka_unit_test(test_partial_stop_is_given_at_the_end),
        cmocka_unit_test(test_stop_expressions),
        cmocka_unit_test(test_min_tokens),
        cmocka_unit_test(test_half_characters),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_context_is_the_limit),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_prompt),
        cmocka_unit_test(test_prefill_takes_steps),
        cmocka_unit_test(test_without_tokenizer_and_padding),
        cmocka_unit_test(test_failed_step),
        cmocka_unit_test(test_goes_on_after_a_sequence),
        cmocka_unit_test(test_no_allocation_on_the_way),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
