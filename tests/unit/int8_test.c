/* SPDX-License-Identifier: Apache-2.0
 * quantize and int8 matmul of the reference against plain double loops that share no code with
 * them, and against what can be said in closed form. */
#include "tests/unit/rig.h"

enum { T = 5, N = 7, K = 96, LEAVES = 2 };

static void quantize(const float *x, int leaves, int8_t *q, float *scale) {
    weft_args args = {.quantize = {.x = view(WEFT_F32, x, DIMS(T, K)),
                                   .y = view(WEFT_I8, q, DIMS(T, K)),
                                   .scale = view(WEFT_F32, scale, DIMS(T, leaves))}};
    run(WEFT_OP_quantize, &args);
}

/* Every number is within half a step of what it stands for, the largest is +-127 exactly. */
CASE(a_number_is_half_a_step_away_at_most) {
    float x[T * K], scale[T * LEAVES] = {0};
    int8_t q[T * K] = {0};
    fill_random(x, T * K, 3);
    quantize(x, LEAVES, q, scale);
    for (int t = 0; t < T; t++)
        for (int l = 0; l < LEAVES; l++) {
            double most = 0, s = (double)scale[t * LEAVES + l];
            int largest = 0;
            for (int k = 0; k < K / LEAVES; k++) {
                int at = t * K + l * (K / LEAVES) + k;
                most = fmax(most, fabs((double)x[at]));
                largest = abs(q[at]) > largest ? abs(q[at]) : largest;
                assert_true(fabs((double)x[at] - q[at] * s) <= 0.5 * s * (1 + 1e-5));
            }
            assert_true(fabs(s - most / 127) <= 1e-7 * s);
            assert_int_equal(largest, 127);
        }
}

/* A largest element of 127 makes the scale 1: halves go to the even integer. */
CASE(ties_go_to_even) {
    float x[T * K] = {0}, scale[T] = {0};
    int8_t q[T * K] = {0};
    static const float halves[] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -126.5f, 126.5f};
    static const int8_t want[] = {127, 0, 2, 2, 0, -2, -126, 126};
    memcpy(x, halves, sizeof halves);
    quantize(x, 1, q, scale);
    assert_true(scale[0] == 1.0f);
    assert_memory_equal(q, want, sizeof want);
}

CASE(zeros_denormals_and_what_is_not_finite) {
    float x[T * K], scale[T] = {0};
    int8_t q[T * K];
    memset(x, 0, sizeof x);
    x[1 * K] = 0x1p-149f, x[1 * K + 1] = -0x1p-148f; /* a scale of 0: nothing is left */
    x[2 * K + 5] = NAN, x[2 * K] = 1;
    x[3 * K + 5] = -INFINITY, x[3 * K] = 1;
    x[4 * K] = 190 * 0x1p-149f; /* 190 / 127 rounds to one step: 190 would not fit */
    memset(q, 1, sizeof q);
    quantize(x, 1, q, scale);
    assert_true(scale[0] == 0 && scale[1] == 0 && isnan(scale[2]) && isnan(scale[3]));
    assert_true(scale[4] == 0x1p-149f);
    for (int i = 0; i < 4 * K; i++)
        assert_int_equal(q[i], 0);
    assert_int_equal(q[4 * K], 127);
}

static void make_weights(int8_t *w, float *scale, uint64_t seed) {
    for (int i = 0; i < N * K; i++)
        w[i] = (int8_t)((int)(next_random(&seed) % 256) - 128);
    for (int n = 0; n < N; n++)
        scale[n] = (float)(1e-3 * (1 + n));
}

CASE(float_by_int8_is_the_product_with_what_it_stands_for) {
    float x[T * K], ws[N], y[T * N], bias[N];
    int8_t w[N * K];
    double want[T * N];
    fill_random(x, T * K, 11);
    fill_random(bias, N, 12);
    make_weights(w, ws, 13);
    for (int leaves = 1; leaves <= 2; leaves++) {
        weft_args args = {.matmul = {.x = view(WEFT_F32, x, DIMS(T, K)),
                                     .w = view(WEFT_I8, w, DIMS(N, K)),
                                     .wscale = view(WEFT_F32, ws, DIMS(N)),
                                     .bias = view(WEFT_F32, bias, DIMS(N)),
                                     .y = view(WEFT_F32, y, DIMS(T, N)),
                                     .leaves = leaves}};
        run(WEFT_OP_matmul, &args);
        for (int i = 0; i < T * N; i++) {
            want[i] = (double)bias[i % N];
            for (int k = 0; k < K; k++)
                want[i] += (double)x[i / N * K + k] * w[i % N * K + k] * (double)ws[i % N];
        }
        expect_near("w8a16", y, want, T * N, 1e-5);
    }
}

CASE(int8_by_int8_is_exact_up_to_three_roundings_a_leaf) {
    float x[T * K], xs[T * LEAVES] = {0}, ws[N], y[LEAVES * T * N];
    int8_t q[T * K] = {0}, w[N * K];
    fill_random(x, T * K, 21);
    quantize(x, LEAVES, q, xs);
    make_weights(w, ws, 22);
    weft_args args = {.matmul = {.x = view(WEFT_I8, q, DIMS(T, K)),
                                 .w = view(WEFT_I8, w, DIMS(N, K)),
                                 .xscale = view(WEFT_F32, xs, DIMS(T, LEAVES)),
                                 .wscale = view(WEFT_F32, ws, DIMS(N)),
                                 .y = view(WEFT_F32, y, DIMS(LEAVES, T, N)),
                                 .leaves = LEAVES,
                                 .partial = 1}};
    run(WEFT_OP_matmul, &args);
    for (int l = 0; l < LEAVES; l++)
        for (int t = 0; t < T; t++)
            for (int n = 0; n < N; n++) {
                int64_t dot = 0;
                for (int k = l * K / LEAVES; k < (l + 1) * K / LEAVES; k++)
                    dot += q[t * K + k] * w[n * K + k];
                float want = (float)dot * xs[t * LEAVES + l] * ws[n];
                expect_same_bits("leaf", &y[(l * T + t) * N + n], &want, 1);
            }
}

/* 131072 products of 127 by -128 are the most that a slice may hold. */
CASE(the_longest_slice_does_not_overflow) {
    enum { MOST = WEFT_S32_TERMS };
    int8_t *x = malloc(MOST), *w = malloc(MOST + 1);
    float one = 1, y = 0;
    memset(x, 127, MOST);
    memset(w, -128, MOST + 1);
    weft_args args = {.matmul = {.x = view(WEFT_I8, x, DIMS(1, MOST)),
                                 .w = view(WEFT_I8, w, DIMS(1, MOST)),
                                 .xscale = view(WEFT_F32, &one, DIMS(1, 1)),
                                 .wscale = view(WEFT_F32, &one, DIMS(1)),
                                 .y = view(WEFT_F32, &y, DIMS(1, 1)),
                                 .leaves = 1}};
    for (const weft_kernel *k = weft_kernels_cpu; k->name; k++) {
        weft_step step = {.kernel = k, .args = args};
        int32_t scratch;
        weft_stream *stream;
        if (k->op != WEFT_OP_matmul || k->cap > WEFT_CPU_PORTABLE || !k->ok(&args))
            continue;
        step.scratch = &scratch;
        assert_int_equal(thread_pool_open(1, &stream), WEFT_OK);
        k->run(&step, stream);
        thread_pool_close(stream);
        assert_true(y == -127.0f * 128.0f * MOST);
    }
    args.matmul.x.shape[1] = args.matmul.w.shape[1] = MOST + 1;
    assert_false(ref_row_of(WEFT_OP_matmul)->ok(&args));
    free(x);
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_number_is_half_a_step_away_at_most),
        cmocka_unit_test(ties_go_to_even),
        cmocka_unit_test(zeros_denormals_and_what_is_not_finite),
        cmocka_unit_test(float_by_int8_is_the_product_with_what_it_stands_for),
        cmocka_unit_test(int8_by_int8_is_exact_up_to_three_roundings_a_leaf),
        cmocka_unit_test(the_longest_slice_does_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
