/* SPDX-License-Identifier: Apache-2.0
 * Training from inside: its forward has the bits of the serving one, packed documents those of rows
 * apart, gradients those of central differences of the loss; schedules and scaling laws have
 * published values. */
#include "tests/unit/unit.h"

#include "host/train/estimate.h"
#include "host/train/trainer.h"
#include "weft.h"
#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { TOKENS = 24 };

static const char *model_path(char path[512], const char *name) {
    const char *fixtures = getenv("WEFT_FIXTURES");
    if (strcmp(name, "demo") == 0)
        snprintf(path, 512, "bench/models/demo");
    else
        snprintf(path, 512, "%s/golden/models/%s", fixtures ? fixtures : "../shared/fixtures",
                 name);
    return path;
}

static train_options options(const char *path, const char *backend, const char *dtype) {
    return (train_options){.model = path,
                           .device = backend,
                           .dtype = dtype,
                           .threads = 2,
                           .steps = 1,
                           .batch = 1,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .eps = 1e-8};
}

/* Row r: ids that differ, all but the first to be predicted. */
static void fill_row(trainer *t, int r, int len, int salt) {
    int T = t->g.shape.row_tokens, vocab = (int)t->config.vocab;
    for (int i = 0; i < T; i++) {
        t->rows.ids[r * T + i] = i < len ? (salt + 37 * i + i * i) % vocab : 0;
        t->rows.labels[r * T + i] = i > 0 && i < len ? t->rows.ids[r * T + i] : -100;
        t->rows.pos[r * T + i] = i < len ? i : 0;
    }
    t->rows.len[r] = len;
}

static const weft_step *step_of(const weft_plan *p, const char *tag) {
    for (int i = 0; i < p->nstep; i++)
        if (strcmp(p->step[i].tag, tag) == 0)
            return &p->step[i];
    fail_msg("the plan has no step %s", tag);
    return NULL;
}

/* ---- The forward ---- */

static void served_logits(const char *path, const char *backend, const char *dtype,
                          const int32_t *ids, float *out) {
    weft_engine *e;
    float logprob[TOKENS];
    weft_engine_options o = {.device = backend, .dtype = dtype, .threads = 2, .score = true};
    assert_int_equal(weft_engine_open(path, &o, &e), WEFT_OK);
    assert_int_equal(weft_score(e, ids, TOKENS, logprob, out), WEFT_OK);
    weft_engine_close(e);
}

/* Validation's logits stay where they are when its plan ends: nothing comes after them. */
static void check_logits(const char *name, const char *backend, const char *dtype) {
    char path[512];
    trainer t;
    double nll;
    int64_t n;
    train_options o = options(model_path(path, name), backend, dtype);
    assert_int_equal(trainer_open(&o, TOKENS, false, NULL, &t), WEFT_OK);
    assert_true(t.g.shape.chunk >= TOKENS);
    fill_row(&t, 0, TOKENS, 5);
    assert_int_equal(trainer_validate(&t, 1, &nll, &n), WEFT_OK);
    assert_int_equal(n, TOKENS - 1);
    const weft_tensor *y = &step_of(t.g.validate[0], "head")->args.matmul.y;
    size_t bytes = TOKENS * (size_t)t.config.vocab * sizeof(float);
    float *got = malloc(bytes), *want = malloc(bytes);
    assert_int_equal(t.dev->copy(t.dev, t.stream, got, y->data, bytes, DEVICE_FROM), WEFT_OK);
    served_logits(path, backend, dtype, t.rows.ids, want);
    assert_memory_equal(got, want, bytes);
    free(got);
    free(want);
    trainer_close(&t);
}

CASE(forward_has_the_bits_of_serving) {
    static const char *const devices[] = {"ref", "cpu", "emu"};
    for (int d = 0; d < 3; d++) {
        check_logits("demo", devices[d], "fp32");
        check_logits("demo", devices[d], "bf16");
    }
}

CASE(forward_of_the_golden_models) {
    static const char *const names[] = {"llama-gqa", "llama-tp8", "qwen3", "gpt2", "mistral-swa"};
    char path[512];
    if (!file_is_dir(model_path(path, names[0])))
        skip();
    for (int i = 0; i < 5; i++) {
        check_logits(names[i], "ref", "fp32");
        check_logits(names[i], "cpu", "fp32");
        check_logits(names[i], "cpu", "bf16");
    }
}

/* On the CPU the reference does for what is done once a step or a run. */
static bool is_small(weft_op op) {
    return op == WEFT_OP_rope_table || op == WEFT_OP_cast;
}

/* No step of training falls back to another backend's row, which a real GPU could not run. */
static void expect_rows_of(const weft_plan *p, const char *backend) {
    for (int i = 0; p && i < p->nstep; i++)
        if (strcmp(p->step[i].kernel->backend, backend) != 0 &&
            (strcmp(backend, "cpu") != 0 || !is_small(p->step[i].kernel->op)))
            fail_msg("step %s runs on %s", p->step[i].tag, p->step[i].kernel->backend);
}

static void check_rows(const char *name, const char *backend, const char *dtype) {
    char path[512];
    trainer t;
    train_options o = options(model_path(path, name), backend, dtype);
    o.batch = 4;
    o.micro_batch = 1;
    o.dropout = 0.1;
    o.ema = 0.9;
    assert_int_equal(trainer_open(&o, TOKENS, true, NULL, &t), WEFT_OK);
    for (int i = 0; i < t.g.shape.levels; i++) {
        expect_rows_of(graph_micro_at(&t.g, 0, i, 0)->whole, backend);
        expect_rows_of(t.g.fold[0][i], backend);
    }
    expect_rows_of(t.g.finish, backend);
    expect_rows_of(t.g.update, backend);
    expect_rows_of(t.g.validate[0], backend);
    expect_rows_of(t.g.refresh, backend);
    trainer_close(&t);
}

CASE(every_step_has_a_row_of_its_backend) {
    char path[512];
    check_rows("demo", "emu", "fp32");
    check_rows("demo", "emu", "bf16");
    check_rows("demo", "cpu", "fp32");
    check_rows("demo", "cpu", "bf16");
    if (!file_is_dir(model_path(path, "gpt2")))
        return;
    check_rows("gpt2", "emu", "bf16");
    check_rows("qwen3", "emu", "fp32");
}

/* ---- Gradients ---- */

static double loss_at(trainer *t, int index, int64_t at, float value) {
    int64_t n = param_count(&t->params.param[index]);
    float *x = malloc((size_t)n * sizeof *x), was;
    train_result r;
    assert_int_equal(trainer_read(t, index, 'p', x), WEFT_OK);
    was = x[at];
    x[at] = value;
    assert_int_equal(trainer_write(t, index, 'p', x), WEFT_OK);
    assert_int_equal(trainer_gradients(t, &r), WEFT_OK);
    x[at] = was;
    assert_int_equal(trainer_write(t, index, 'p', x), WEFT_OK);
    free(x);
    return r.loss;
}

/* Of every parameter the number whose gradient is largest, so that the difference rises above the
 * loss's rounding; all that feed it are in it. */
static void check_param(trainer *t, int index) {
    const param *p = &t->params.param[index];
    int64_t n = param_count(p), at = 0;
    float *g = malloc((size_t)n * sizeof *g), *x = malloc((size_t)n * sizeof *x);
    train_result r;
    assert_int_equal(trainer_gradients(t, &r), WEFT_OK);
    assert_int_equal(trainer_read(t, index, 'g', g), WEFT_OK);
    assert_int_equal(trainer_read(t, index, 'p', x), WEFT_OK);
    for (int64_t i = 0; i < n; i++)
        at = fabsf(g[i]) > fabsf(g[at]) ? i : at;
    float h = 1e-2f, here = x[at];
    double slope = (loss_at(t, index, at, here + h) - loss_at(t, index, at, here - h)) /
                   ((double)(here + h) - (double)(here - h));
    if (fabs(slope - (double)g[at]) > 2e-2 * fabs((double)g[at]) + 2e-4)
        fail_msg("%s: gradient %g, difference %g", p->name, (double)g[at], slope);
    free(g);
    free(x);
}

static const char tiny_config[] =
    "{\"model_type\":\"llama\",\"vocab_size\":50,\"hidden_size\":24,\"intermediate_size\":40,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":3,\"num_key_value_heads\":1,"
    "\"max_position_embeddings\":64,\"tie_word_embeddings\":true}";

static const char *config_file(char path[64]) {
    snprintf(path, 64, "/tmp/weft-train-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, tiny_config, sizeof tiny_config - 1), sizeof tiny_config - 1);
    close(fd);
    return path;
}

static void open_tiny(trainer *t, int batch, int tokens, recompute_mode recompute) {
    char path[64];
    train_options o = options(config_file(path), "ref", "fp32");
    o.from_scratch = true;
    o.batch = batch;
    o.init_std = 0.3;
    o.recompute = recompute;
    assert_int_equal(trainer_open(&o, tokens, false, NULL, t), WEFT_OK);
    unlink(path);
}

CASE(gradients_are_slopes_of_the_loss) {
    trainer t;
    open_tiny(&t, 2, 12, RECOMPUTE_LAYER);
    fill_row(&t, 0, 12, 3);
    fill_row(&t, 1, 7, 8);
    for (int i = 0; i < t.params.n; i++)
        check_param(&t, i);
    trainer_close(&t);
}

/* Two documents in one row, and one in each of two: the same loss and gradients. */
CASE(packed_documents_do_not_meet) {
    trainer packed, apart;
    open_tiny(&packed, 1, 12, RECOMPUTE_NONE);
    open_tiny(&apart, 2, 6, RECOMPUTE_NONE);
    train_result a, b;
    for (int r = 0; r < 2; r++) {
        fill_row(&apart, r, 6, 3 + r);
        memcpy(packed.rows.ids + 6 * r, apart.rows.ids + 6 * r, 6 * sizeof(int32_t));
        memcpy(packed.rows.labels + 6 * r, apart.rows.labels + 6 * r, 6 * sizeof(int32_t));
        memcpy(packed.rows.pos + 6 * r, apart.rows.pos + 6 * r, 6 * sizeof(int32_t));
    }
    packed.rows.len[0] = 12;
    assert_int_equal(trainer_gradients(&packed, &a), WEFT_OK);
    assert_int_equal(trainer_gradients(&apart, &b), WEFT_OK);
    assert_int_equal(a.targets, 10);
    assert_int_equal(b.targets, 10);
    assert_float_equal(a.loss, b.loss, 1e-12);
    assert_float_equal(a.grad_norm, b.grad_norm, 1e-6 * b.grad_norm);
    trainer_close(&packed);
    trainer_close(&apart);
}

/* ---- Schedules and laws ---- */

CASE(schedules) {
    train_options o = {.steps = 100, .warmup = 10, .lr = 1, .min_lr = 0.1};
    o.schedule = SCHEDULE_CONSTANT;
    assert_float_equal(schedule_lr(&o, 0), 0.1, 1e-12);
    assert_float_equal(schedule_lr(&o, 9), 1, 1e-12);
    assert_float_equal(schedule_lr(&o, 99), 1, 1e-12);
    o.schedule = SCHEDULE_LINEAR;
    assert_float_equal(schedule_lr(&o, 10), 1, 1e-12);
    assert_float_equal(schedule_lr(&o, 55), 0.55, 1e-12);
    o.schedule = SCHEDULE_COSINE;
    assert_float_equal(schedule_lr(&o, 10), 1, 1e-12);
    assert_float_equal(schedule_lr(&o, 55), 0.55, 1e-12);
    assert_float_equal(schedule_lr(&o, 40), 0.1 + 0.45 * 1.5, 1e-12); /* cos 60 degrees */
    o.schedule = SCHEDULE_WSD;
    o.decay_steps = 20;
    assert_float_equal(schedule_lr(&o, 79), 1, 1e-12);
    assert_float_equal(schedule_lr(&o, 89), 0.55, 1e-12);
    assert_float_equal(schedule_lr(&o, 99), 0.1, 1e-12);
}

static double law(const char *name, double n, double d) {
    for (const scaling_law *l = scaling_laws; l->name; l++)
        if (strcmp(l->name, name) == 0)
            return l->loss(n, d);
    return NAN;
}

CASE(laws_have_their_published_values) {
    /* Hoffmann et al.'s fit at Gopher's and Chinchilla's own sizes, as often quoted. */
    assert_float_equal(law("Chinchilla", 280e9, 300e9), 1.993, 1e-3);
    assert_float_equal(law("Chinchilla", 70e9, 1.4e12), 1.936, 1e-3);
    /* GPT-3: 3640 PF-days for 3.14e23 operations (Brown et al., 2020, appendix D). */
    assert_float_equal(estimate_pf_days(3.14e23), 3640, 10);
    assert_float_equal(estimate_flops(175e9, 300e9), 3.15e23, 1e21);
    assert_float_equal(estimate_days(86400e15, 1, 1000, 1), 1, 1e-9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_has_the_bits_of_serving),
        cmocka_unit_test(forward_of_the_golden_models),
        cmocka_unit_test(every_step_has_a_row_of_its_backend),
        cmocka_unit_test(gradients_are_slopes_of_the_loss),
        cmocka_unit_test(packed_documents_do_not_meet),
        cmocka_unit_test(schedules),
        cmocka_unit_test(laws_have_their_published_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
