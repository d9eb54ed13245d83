/* SPDX-License-Identifier: Apache-2.0
 * The GPU's device on the emulator's runtime: every call of CUDA fails once, machines that lack
 * something, errors that come late and stay; graphs and late copies change no bit. */
#include "host/model/engine.h"
#include "host/run/sched.h"
#include "kernels/emu/runtime.h"
#include "tests/unit/unit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 4, ILLEGAL_ADDRESS = 700 };

static const emu_machine whole = {.devices = 1, .sm = 90, .driver = 13000};

static const char *model(void) {
    static char path[512];
    const char *root = getenv("WEFT_FIXTURES");
    snprintf(path, sizeof path, "%s/golden/models/llama-gqa", root ? root : "../shared/fixtures");
    return path;
}

typedef struct {
    int32_t id[TOKENS];
    float logprob[TOKENS];
    int64_t opened, stepped, closed; /* calls of the runtime until then */
    bool graph;                      /* the steps of one token were launched as one */
} story;

static weft_status tell(weft_engine *e, story *out) {
    static const int32_t prompt[] = {3, 1, 4, 1, 5};
    weft_sampling greedy = weft_sampling_greedy();
    weft_seq *seq;
    weft_sampled s;
    WEFT_TRY(weft_seq_open(e, &greedy, &seq));
    WEFT_TRY(weft_seq_append(seq, prompt, 5));
    for (int i = 0; i < TOKENS; i++) {
        WEFT_TRY(weft_engine_step(e, &seq, 1, &s));
        out->id[i] = s.id;
        out->logprob[i] = s.logprob;
    }
    out->graph = e->rank[0].generate[0]->graph != NULL;
    return WEFT_OK;
}

/* Opens, generates, closes: whatever happened, nothing is left. */
static weft_status once(story *out) {
    weft_engine_options o = {.device = "emu", .threads = 1, .ctx_size = 32, .ubatch_size = 8};
    weft_engine *e = NULL;
    *out = (story){.opened = 0};
    weft_status s = weft_engine_open(model(), &o, &e);
    out->opened = emu_calls();
    if (s == WEFT_OK)
        s = tell(e, out);
    out->stepped = emu_calls();
    if (e)
        weft_engine_close(e);
    out->closed = emu_calls();
    assert_int_equal(emu_live(), 0);
    return s;
}

static void clean(story *out) {
    emu_machine_set(whole);
    emu_fault_set((emu_fault){.call = 0});
    if (once(out) != WEFT_OK)
        fail_msg("%s", weft_error());
}

static bool releases(const char *call) {
    return strstr(call, "free") || strstr(call, "destroy");
}

/* Calls that have failed. */
static const char *failed[64];

static void note_failed(const char *name) {
    int i = 0;
    while (failed[i] && failed[i] != name)
        i++;
    assert_true(i < 63);
    failed[i] = name;
}

static bool has_failed(const char *name) {
    for (int i = 0; failed[i]; i++)
        if (failed[i] == name)
            return true;
    return false;
}

/* What can be released is, and what was asked for fails with the call's own error. */
static void fail_once(emu_fault f) {
    story s;
    emu_fault_set(f);
    weft_status st = once(&s);
    const char *name = emu_fault_struck();
    assert_non_null(name);
    note_failed(name);
    if (releases(name) || f.call > s.stepped)
        return;
    if (st != WEFT_DEVICE && !(st == WEFT_NO_MEMORY && f.code == 2))
        fail_msg("call %lld, %s, error %d: status %d, %s", (long long)f.call, name, f.code, st,
                 weft_error());
}

/* Looking for a GPU, as `weft doctor` does, on a machine that has one and on one too old. */
static void look(emu_machine m) {
    device_gpu found;
    emu_machine_set(m);
    emu_fault_set((emu_fault){.call = 0});
    device_emu_find(&found);
    int64_t n = emu_calls();
    for (int64_t call = 1; call <= n; call++) {
        emu_fault_set((emu_fault){.call = call, .code = 999});
        assert_int_equal(device_emu_find(&found), WEFT_DEVICE);
        assert_non_null(emu_fault_struck());
        note_failed(emu_fault_struck());
    }
    emu_machine_set(whole);
}

static void every_call_fails_once(void **state) {
    story s;
    (void)state;
    clean(&s);
    int64_t n = s.stepped + 8, stride = getenv("WEFT_LONG") ? 1 : 5;
    assert_true(s.opened > 20 && s.stepped > s.opened + TOKENS);
    for (int64_t call = 1; call <= s.opened; call++)
        fail_once((emu_fault){.call = call, .code = call % 2 ? 999 : 2});
    for (int64_t call = s.opened + 1; call <= n; call += stride)
        fail_once((emu_fault){.call = call, .code = 719});
    for (int64_t call = n; call <= s.closed; call++)
        fail_once((emu_fault){.call = call, .code = 719});
    look(whole);
    look((emu_machine){.devices = 1, .sm = 75, .driver = 13000});
    for (int i = 0; emu_called(i); i++)
        if (!has_failed(emu_called(i)))
            fail_once((emu_fault){.name = emu_called(i), .code = 719});
    clean(&s);
    for (int i = 0; emu_called(i); i++)
        if (!has_failed(emu_called(i)))
            fail_msg("%s has never failed", emu_called(i));
}

/* A lost context: the step that meets it fails, so does what comes behind, and closing works. */
static void late_errors_stay(void **state) {
    story s;
    (void)state;
    clean(&s);
    for (int64_t call = s.opened + 1; call < s.stepped; call += (s.stepped - s.opened) / 5) {
        emu_fault_set((emu_fault){.call = call, .code = ILLEGAL_ADDRESS, .late = 1, .sticky = 1});
        story t;
        assert_int_equal(once(&t), WEFT_DEVICE);
        assert_non_null(strstr(weft_error(), "an illegal memory access"));
    }
    emu_fault_set((emu_fault){.call = 0});
}

static void refused(emu_machine m, const char *words) {
    device *d;
    emu_machine_set(m);
    assert_int_equal(device_emu_open(false, &d), WEFT_DEVICE);
    if (!strstr(weft_error(), words))
        fail_msg("'%s' does not say '%s'", weft_error(), words);
}

static void machines_that_lack_something(void **state) {
    (void)state;
    emu_fault_set((emu_fault){.call = 0});
    refused((emu_machine){.devices = 1, .sm = 90, .driver = 0}, "no NVIDIA driver");
    refused((emu_machine){.devices = 1, .sm = 90, .driver = 12040}, "it knows CUDA 12.4");
    refused((emu_machine){.devices = 0, .sm = 90, .driver = 13000}, "no GPU here");
    refused((emu_machine){.devices = 1, .sm = 75, .driver = 13000}, "is sm_75; sm_80");
    emu_machine_set(whole);
}

static void too_little_memory(void **state) {
    story s;
    (void)state;
    emu_fault_set((emu_fault){.call = 0});
    emu_machine_set((emu_machine){.devices = 1, .sm = 90, .driver = 13000, .bytes = 100 << 10});
    assert_int_equal(once(&s), WEFT_NO_MEMORY);
    assert_non_null(strstr(weft_error(), "MiB needed"));
    assert_non_null(strstr(weft_error(), "weft plan"));
    emu_machine_set(whole);
}

static void same(const story *a, const story *b) {
    assert_memory_equal(a->id, b->id, sizeof a->id);
    assert_memory_equal(a->logprob, b->logprob, sizeof a->logprob);
}

/* Steps one by one, and copies that happen no sooner than they must. */
static void graphs_and_late_copies_change_no_bit(void **state) {
    story graph, steps, late;
    emu_machine slow = whole;
    (void)state;
    clean(&graph);
    setenv("WEFT_GRAPH", "0", 1);
    clean(&steps);
    unsetenv("WEFT_GRAPH");
    assert_true(graph.graph && !steps.graph);
    same(&graph, &steps);
    slow.late = 1;
    emu_machine_set(slow);
    assert_int_equal(once(&late), WEFT_OK);
    emu_machine_set(whole);
    same(&graph, &late);
}

/* The step whose launch fails is named; waiting after each names those that fail later. */
static void messages_name_the_step(void **state) {
    story s;
    (void)state;
    clean(&s);
    setenv("WEFT_SYNC", "1", 1);
    emu_fault_set((emu_fault){
        .call = (s.opened + s.stepped) / 2, .code = ILLEGAL_ADDRESS, .late = 1, .sticky = 1});
    assert_int_equal(once(&s), WEFT_DEVICE);
    unsetenv("WEFT_SYNC");
    assert_non_null(strstr(weft_error(), "illegal memory access"));
    assert_non_null(strstr(weft_error(), ": emu: "));
    emu_fault_set((emu_fault){.call = 0});
}

/* A loop's word for what it does, against the emulator's counters. */
static void expect_counted(const weft_gpu_loop *l, const weft_step *step, weft_emu_stream *s) {
    weft_gpu_counters before = s->total;
    double work = l->run(step, &s->head, 3);
    weft_gpu_counters *now = &s->total;
    if (s->failed)
        fail_msg("%s", s->error);
    if (l->what == WEFT_LOOP_READ)
        assert_true(work == (double)(now->read_bytes - before.read_bytes));
    if (l->what == WEFT_LOOP_MATRIX)
        assert_true(work == 4096.0 * (double)(now->mma - before.mma));
    assert_true(work > 0 && now->written_bytes == before.written_bytes);
}

CASE(loops_do_what_they_are_counted_for) {
    enum { WORDS = 4000 };
    uint64_t bytes = WORDS * 4 + 4;
    const int64_t n[WEFT_DIMS] = {WORDS}, one[WEFT_DIMS] = {1};
    weft_kernel row = {.op = WEFT_OP_cast};
    weft_step step = {.kernel = &row};
    device *d;
    weft_stream *s;
    void *p;
    emu_machine_set(whole);
    emu_fault_set((emu_fault){.call = 0});
    assert_int_equal(device_emu_open(false, &d), WEFT_OK);
    assert_int_equal(d->alloc(d, bytes, "words", &p), WEFT_OK);
    assert_int_equal(d->zero(d, NULL, p, bytes), WEFT_OK);
    assert_int_equal(d->stream_open(d, 1, &s), WEFT_OK);
    ((weft_emu_stream *)s)->profile = 1;
    step.args.cast.x = weft_tensor_make(WEFT_I32, 1, n);
    step.args.cast.y = weft_tensor_make(WEFT_I32, 1, one);
    step.args.cast.x.id = step.args.cast.y.id = 1;
    step.args.cast.x.data = p;
    step.args.cast.y.data = (char *)p + bytes - 4;
    for (int t = 0; d->loops[t]; t++)
        for (const weft_gpu_loop *l = d->loops[t]; l->run; l++)
            expect_counted(l, &step, (weft_emu_stream *)s);
    d->stream_close(d, s);
    d->release(d, p, bytes);
    device_close(d);
}

/* ---- Two lanes ---- */

enum { BUCKETS = 12, NUMBERS = 100 };

typedef struct {
    device *d;
    arena mem;
    weft_plan *p;
    weft_stream *stream, *side;
    void *base[WEFT_SPACES];
    float out[BUCKETS + 1][NUMBERS];
} lanes;

static weft_tensor kept_row(plan_builder *b, int i) {
    int64_t n = NUMBERS;
    return plan_fixed(b, WEFT_SPACE_STATE, "sum", i * NUMBERS * 4,
                      weft_tensor_make(WEFT_F32, 1, &n));
}

static weft_tensor new_row(plan_builder *b) {
    int64_t n = NUMBERS;
    return plan_new(b, WEFT_F32, 1, &n);
}

#define PUSH(b, op_, ...) plan_push(b, WEFT_OP_##op_, &(weft_args){.op_ = {__VA_ARGS__}}, 0, #op_)

/* Lane COMPUTE makes numbers that lane COMM sums, in memory that is used again and again; at the
 * end it reads the sums. */
static void build_lanes(plan_builder *b) {
    weft_tensor all = kept_row(b, BUCKETS);
    for (int i = 0; i < BUCKETS; i++) {
        weft_tensor x = new_row(b), twice = new_row(b);
        PUSH(b, fill, .y = x, .value = (float)(1 << i));
        b->lane = WEFT_LANE_COMM;
        PUSH(b, add, .a = x, .b = x, .y = twice);
        PUSH(b, accumulate, .x = twice, .y = kept_row(b, i));
        b->lane = WEFT_LANE_COMPUTE;
    }
    for (int i = 0; i < BUCKETS; i++)
        PUSH(b, accumulate, .x = kept_row(b, i), .y = all);
}

static void open_lanes(lanes *l) {
    plan_builder b;
    *l = (lanes){.d = NULL};
    emu_fault_set((emu_fault){.call = 0});
    assert_int_equal(device_emu_open(false, &l->d), WEFT_OK);
    plan_begin(&b, &l->mem, l->d, WEFT_PHASE_TRAIN, 0, NULL, 1, 1);
    build_lanes(&b);
    assert_int_equal(plan_end(&b), WEFT_OK);
    l->p = b.plan;
    l->p->space_bytes[WEFT_SPACE_STATE] = sizeof l->out;
    for (int s = 0; s < WEFT_SPACES; s++)
        if (l->p->space_bytes[s])
            assert_int_equal(l->d->alloc(l->d, l->p->space_bytes[s], "test", &l->base[s]), WEFT_OK);
    assert_int_equal(plan_bind(l->p, l->base, NULL, &l->mem), WEFT_OK);
    assert_int_equal(l->d->stream_open(l->d, 1, &l->stream), WEFT_OK);
    assert_int_equal(l->d->stream_open(l->d, 1, &l->side), WEFT_OK);
}

static void close_lanes(lanes *l) {
    l->d->stream_close(l->d, l->stream);
    l->d->stream_close(l->d, l->side);
    for (int s = 0; s < WEFT_SPACES; s++)
        l->d->release(l->d, l->base[s], l->p->space_bytes[s]);
    device_close(l->d);
    arena_fini(&l->mem);
    assert_int_equal(emu_live(), 0);
}

/* Whether the sums come out; `first` moves as far as it can before the other stream does. */
static bool sums_are_right(lanes *l, weft_stream *first) {
    void *sums = l->base[WEFT_SPACE_STATE];
    bool right = true;
    assert_int_equal(l->d->zero(l->d, l->stream, sums, sizeof l->out), WEFT_OK);
    assert_int_equal(sched_replay(l->d, l->p, l->stream, l->side), WEFT_OK);
    assert_int_equal(sched_join(l->d, l->stream, l->side), WEFT_OK);
    assert_int_equal(l->d->sync(l->d, first), WEFT_OK);
    assert_int_equal(l->d->copy(l->d, l->stream, l->out, sums, sizeof l->out, DEVICE_FROM),
                     WEFT_OK);
    for (int i = 0; i <= BUCKETS; i++)
        for (int j = 0; j < NUMBERS; j++)
            right &= l->out[i][j] == (float)(i < BUCKETS ? 2 << i : (2 << BUCKETS) - 2);
    return right;
}

static bool any_order_is_right(lanes *l) {
    bool right = sums_are_right(l, l->stream);
    return sums_are_right(l, l->side) && right;
}

/* Streams that are as late as they may be: the lanes' waits are enough, and each is needed. */
CASE(lanes_wait_as_much_as_they_must) {
    emu_machine slow = whole;
    lanes l;
    int waits = 0;
    slow.late = EMU_ALL_LATE;
    open_lanes(&l);
    assert_true(any_order_is_right(&l));
    emu_machine_set(slow);
    assert_true(any_order_is_right(&l));
    for (int i = 0; i < l.p->nstep; i++) {
        uint32_t wait = l.p->step[i].wait;
        if (!wait)
            continue;
        l.p->step[i].wait = 0;
        if (any_order_is_right(&l))
            fail_msg("step %d need not wait for step %d", i, i - (int)wait);
        l.p->step[i].wait = wait;
        waits++;
    }
    assert_true(waits > 2 * BUCKETS);
    assert_true(any_order_is_right(&l));
    emu_machine_set(whole);
    close_lanes(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(machines_that_lack_something),
        cmocka_unit_test(too_little_memory),
        cmocka_unit_test(loops_do_what_they_are_counted_for),
        cmocka_unit_test(graphs_and_late_copies_change_no_bit),
        cmocka_unit_test(messages_name_the_step),
        cmocka_unit_test(late_errors_stay),
        cmocka_unit_test(every_call_fails_once),
        cmocka_unit_test(lanes_wait_as_much_as_they_must),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
