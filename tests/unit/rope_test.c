/* SPDX-License-Identifier: Apache-2.0
 * Rotary frequencies. The constants were computed in double by a separate program from the
 * published definitions: Su et al., 2021; Llama 3.1's bands; Peng et al., YaRN, 2023 (as
 * transformers rounds its correction range). */
#include "host/model/rope.h"
#include "tests/unit/unit.h"
#include <math.h>

static void expect_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-13 * fabs(want)))
        fail_msg("%.17g, expected %.17g", got, want);
}

/* Every `step`-th frequency from `first` on. */
static void expect_freqs(const rope_config *r, int first, int step, const double *want, int n) {
    double inv[128], mscale = 0;
    rope_frequencies(r, 1 << 20, inv, &mscale);
    for (int i = 0; i < n; i++)
        expect_near(inv[first + i * step], want[i]);
}

static double mscale_of(const rope_config *r) {
    double inv[128], mscale = 0;
    rope_frequencies(r, 1 << 20, inv, &mscale);
    return mscale;
}

CASE(unscaled) {
    rope_config r = {.kind = ROPE_DEFAULT, .theta = 10000, .dims = 8};
    expect_freqs(&r, 0, 1, (const double[]){1, 0.1, 0.01, 0.001}, 4);
    r.kind = ROPE_DYNAMIC; /* starts as the default; the table stretches it by position */
    r.factor = 4;
    expect_freqs(&r, 0, 1, (const double[]){1, 0.1, 0.01, 0.001}, 4);
    expect_near(mscale_of(&r), 1);
}

CASE(linear) {
    rope_config r = {.kind = ROPE_LINEAR, .theta = 10000, .dims = 8, .factor = 4};
    expect_freqs(&r, 0, 1, (const double[]){0.25, 0.025, 0.0025, 0.00025}, 4);
    expect_near(mscale_of(&r), 1);
}

CASE(llama3) {
    rope_config r = {.kind = ROPE_LLAMA3,
                     .theta = 500000,
                     .dims = 128,
                     .factor = 8,
                     .low_freq_factor = 1,
                     .high_freq_factor = 4,
                     .original_ctx = 8192};
    static const double wide[] = {1.0,
                                  0.1579728099090432,
                                  0.024955408670558694,
                                  0.003942276030116656,
                                  7.78465527393245e-05,
                                  1.2297638677963614e-05,
                                  1.942692537204043e-06,
                                  3.068925988914511e-07};
    static const double narrow[] = {1.0,
                                    0.1108970832756368,
                                    0.014030775603867163,
                                    0.004700753866357992,
                                    0.0015749013123685918,
                                    0.0005276417813430394,
                                    0.00017677669529663688};
    expect_freqs(&r, 0, 9, wide, 8);
    r.dims = 24;
    r.original_ctx = 32;
    expect_freqs(&r, 0, 1, narrow, 7);
    expect_near(mscale_of(&r), 1);
}

CASE(yarn) {
    rope_config r = {.kind = ROPE_YARN,
                     .theta = 10000,
                     .dims = 24,
                     .factor = 8,
                     .beta_fast = 32,
                     .beta_slow = 1,
                     .original_ctx = 32,
                     .truncate = true};
    static const double narrow[] = {1.0,    0.3287792090475719,   0.08976811208466184,
                                    0.0125, 0.005801986042015974, 0.002693043362539854};
    static const double wide[] = {1.0,
                                  0.14330125702369628,
                                  0.02053525026457146,
                                  0.002423422380407644,
                                  0.0001798411558739542,
                                  1.510740975595332e-05,
                                  2.1649108084001634e-06,
                                  3.102344401879299e-07};
    static const double exact[] = {0.01333521432163324, 0.0032416347362497185,
                                   0.0006074079378798391, 8.957925287117512e-05};
    expect_freqs(&r, 0, 1, narrow, 6);
    expect_near(mscale_of(&r), 1.2079441541679836);
    r = (rope_config){.kind = ROPE_YARN,
                      .theta = 1e6,
                      .dims = 128,
                      .factor = 4,
                      .beta_fast = 32,
                      .beta_slow = 1,
                      .original_ctx = 32768,
                      .truncate = true};
    expect_freqs(&r, 0, 9, wide, 8);
    expect_near(mscale_of(&r), 1.138629436111989);
    r.truncate = false;
    expect_freqs(&r, 20, 6, exact, 4);
}

CASE(yarn_attention_factor) {
    rope_config r = {.kind = ROPE_YARN,
                     .theta = 10000,
                     .dims = 64,
                     .factor = 40,
                     .beta_fast = 32,
                     .beta_slow = 1,
                     .original_ctx = 4096,
                     .truncate = true,
                     .mscale = 0.707,
                     .mscale_all_dim = 1};
    expect_near(mscale_of(&r), 0.9210423553163399);
    r.attention_factor = 1.5;
    expect_near(mscale_of(&r), 1.5);
}

/* ---- What config.json says ---- */

static weft_status read_spec(const char *text, rope_spec *out) {
    static arena a; /* the type's name lives in it until the next call */
    arena_fini(&a);
    json j;
    json_init(&j, "c", text, strlen(text), &a);
    rope_read(&j, "rope_parameters", out);
    return json_done(&j);
}

static weft_status resolve(const char *text, int64_t *max_ctx, rope_config *out) {
    rope_spec spec;
    WEFT_TRY(read_spec(text, &spec));
    if (spec.r.theta == 0)
        spec.r.theta = 10000;
    return rope_resolve("c", &spec, 64, max_ctx, out);
}

CASE(both_spellings_of_the_type) {
    rope_config r = {0};
    int64_t ctx = 100;
    assert_int_equal(resolve("{\"type\":\"linear\",\"factor\":2.0}", &ctx, &r), WEFT_OK);
    assert_int_equal(r.kind, ROPE_LINEAR);
    assert_int_equal(ctx, 200);
    ctx = 100;
    assert_int_equal(
        resolve("{\"type\":\"linear\",\"rope_type\":\"default\",\"factor\":null}", &ctx, &r),
        WEFT_OK);
    assert_int_equal(r.kind, ROPE_DEFAULT);
    assert_int_equal(ctx, 100);
}

CASE(layer_types_must_agree) {
    rope_config r = {0};
    int64_t ctx = 100;
    assert_int_equal(
        resolve("{\"full_attention\":{\"rope_type\":\"default\",\"rope_theta\":5e5},"
                "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":500000}}",
                &ctx, &r),
        WEFT_OK);
    assert_true(r.theta == 5e5);
    assert_int_equal(resolve("{\"full_attention\":{\"rope_theta\":1e6},"
                             "\"sliding_attention\":{\"rope_theta\":1e4}}",
                             &ctx, &r),
                     WEFT_BAD_FILE);
    expect_message("rope_parameters");
}

CASE(refusals) {
    static const struct {
        const char *text, *message;
        weft_status status;
    } rows[] = {
        {"{\"rope_type\":\"longrope\"}", "\"longrope\" is not supported", WEFT_UNSUPPORTED},
        {"{\"rope_type\":\"linear\"}", "needs \"factor\"", WEFT_BAD_FILE},
        {"{\"rope_type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4}", "\"low_freq_factor\"",
         WEFT_BAD_FILE},
        {"{\"rope_type\":\"llama3\",\"factor\":8,\"high_freq_factor\":1,\"low_freq_factor\":1}",
         "high_freq_factor", WEFT_BAD_FILE},
        {"{\"rope_type\":\"yarn\",\"factor\":2,\"rope_theta\":1}", "rope_theta", WEFT_BAD_FILE},
        {"{\"partial_rotary_factor\":0.3}", "19 features", WEFT_BAD_FILE},
        {"{\"partial_rotary_factor\":1.5}", "partial_rotary_factor", WEFT_BAD_FILE},
        {"{\"factor\":\"8\"}", "factor", WEFT_BAD_FILE},
        {"{\"original_max_position_embeddings\":0}", "original_max_position_embeddings",
         WEFT_BAD_FILE},
        {"[]", "array", WEFT_BAD_FILE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rope_config r = {0};
        int64_t ctx = 4096;
        assert_int_equal(resolve(rows[i].text, &ctx, &r), rows[i].status);
        expect_message(rows[i].message);
    }
}

CASE(yarn_without_factor_takes_the_ratio) {
    rope_config r = {0};
    int64_t ctx = 4096;
    assert_int_equal(
        resolve("{\"rope_type\":\"yarn\",\"original_max_position_embeddings\":1024}", &ctx, &r),
        WEFT_OK);
    assert_true(r.factor == 4);
    assert_true(r.beta_fast == 32 && r.beta_slow == 1 && r.truncate);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unscaled),
        cmocka_unit_test(linear),
        cmocka_unit_test(llama3),
        cmocka_unit_test(yarn),
        cmocka_unit_test(yarn_attention_factor),
        cmocka_unit_test(both_spellings_of_the_type),
        cmocka_unit_test(layer_types_must_agree),
        cmocka_unit_test(refusals),
        cmocka_unit_test(yarn_without_factor_takes_the_ratio),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
