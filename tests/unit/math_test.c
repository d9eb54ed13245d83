/* SPDX-License-Identifier: Apache-2.0
 * The elementary functions of include/weft/math.h against libm in long double, in units of the last
 * place of the true result, over bit patterns that cover every exponent. */
#include "tests/unit/rig.h"

#include "weft/math.h"

typedef long double real;

enum { STRIDE = 9973 }; /* of bit patterns: 430 thousand floats */

static real ulps(float got, real want) {
    int e;
    frexpf((float)want, &e);
    real unit = ldexpl(1, e - 24 < -149 ? -149 : e - 24);
    return fabsl(got - want) / unit;
}

static real ulps64(double got, real want) {
    int e;
    frexp((double)want, &e);
    return fabsl(got - want) / ldexpl(1, e - 53);
}

typedef struct {
    const char *name;
    float (*f)(float);
    real (*exact)(real);
    float low, high;
    double bound;  /* ulps */
    double over_x; /* if not 0: instead, of |x|'s last place, for what cancels near 0 */
} float_case;

static real silu_exact(real x) {
    return x / (1 + expl(-x));
}

static real gelu_exact(real x) {
    return x / 2 * erfcl(-x * sqrtl(0.5L));
}

static real gelu_tanh_exact(real x) {
    return x / 2 * (1 + tanhl(sqrtl(2.0L / acosl(-1)) * (x + 0.044715L * x * x * x)));
}

CASE(float_functions) {
    static const float_case table[] = {
        {"expf", weft_expf, expl, -103.9f, 88.7f, 1.1, 0},
        {"logf", weft_logf, logl, 1e-45f, 3.4e38f, 1, 0},
        {"tanhf", weft_tanhf, tanhl, -3e38f, 3e38f, 1.5, 0},
        {"erff", weft_erff, erfl, -3e38f, 3e38f, 2, 0},
        {"silu", weft_silu, silu_exact, -86, 3e38f, 3, 0},
        {"gelu", weft_gelu, gelu_exact, -1e30f, 1e30f, 0, 2.5},
        {"gelu_tanh", weft_gelu_tanh, gelu_tanh_exact, -1e30f, 1e30f, 0, 2.5},
    };
    for (int i = 0; i < COUNT(table); i++) {
        const float_case *c = &table[i];
        real worst = 0;
        for (uint64_t u = 0; u < 1ull << 32; u += STRIDE) {
            float x = weft_bits_f32((uint32_t)u);
            if (!(x >= c->low && x <= c->high) || (c->f != weft_logf && fabsf(x) < 1e-35f))
                continue;
            real want = c->exact(x), far = ulps(c->f(x), want);
            if (c->over_x > 0)
                far = fabsl(c->f(x) - want) / fabsl(x) * 0x1p24L;
            worst = far > worst ? far : worst;
            if (!(far <= c->bound + c->over_x))
                fail_msg("%s(%a): %Lg ulps", c->name, x, far);
        }
        print_message("%-10s %.3Lf\n", c->name, worst);
    }
}

typedef struct {
    const char *name;
    double (*f)(double);
    real (*exact)(real);
    double low, high, bound;
} double_case;

CASE(double_functions) {
    static const double_case table[] = {
        {"exp", weft_exp, expl, -700, 700, 1},       {"exp near 0", weft_exp, expl, -0.5, 0.5, 1},
        {"log near 1", weft_log, logl, 0.5, 2, 1.5}, {"log", weft_log, logl, 1e-300, 1e300, 1.5},
        {"tanh", weft_tanh, tanhl, -25, 25, 2.6},    {"tanh near 0", weft_tanh, tanhl, -1, 1, 2.6},
        {"erf", weft_erf, erfl, -6.5, 6.5, 2},       {"erf near 0", weft_erf, erfl, -1.1, 1.1, 2},
    };
    uint64_t seed = 1;
    for (int i = 0; i < COUNT(table); i++) {
        const double_case *c = &table[i];
        real worst = 0;
        for (int k = 0; k < 100000; k++) {
            double x = c->low + (c->high - c->low) * random_unit(&seed);
            real far = ulps64(c->f(x), c->exact(x));
            worst = far > worst ? far : worst;
            if (!(far <= c->bound))
                fail_msg("%s(%a): %Lg ulps", c->name, x, far);
        }
        print_message("%-10s %.3Lf\n", c->name, worst);
    }
}

CASE(sine_and_cosine_of_far_angles) {
    uint64_t seed = 2;
    for (int k = 0; k < 200000; k++) {
        double x = ldexp(2 * random_unit(&seed) - 1, k % 36 - 4), s, c;
        if (k % 7 == 0) /* next to multiples of pi / 2, where one of them nearly vanishes */
            x = nearbyint(x) * 1.5707963267948966;
        if (fabs(x) > 2147483648.0)
            continue;
        weft_sincos(x, &s, &c);
        if (!(fabsl(s - sinl(x)) <= 3e-16L && fabsl(c - cosl(x)) <= 3e-16L))
            fail_msg("sincos(%a): %.17g %.17g", x, s, c);
    }
    double s, c;
    weft_sincos(INFINITY, &s, &c);
    assert_true(isnan(s) && isnan(c));
    weft_sincos(0, &s, &c);
    assert_true(s == 0 && c == 1);
}

CASE(ends_of_the_range) {
    static float (*const f[])(float) = {weft_expf, weft_logf, weft_tanhf,     weft_erff,
                                        weft_silu, weft_gelu, weft_gelu_tanh, weft_relu};
    static double (*const d[])(double) = {weft_exp, weft_log, weft_tanh, weft_erf};
    for (int i = 0; i < COUNT(f); i++)
        assert_true(isnan(f[i](NAN)));
    for (int i = 0; i < COUNT(d); i++)
        assert_true(isnan(d[i](NAN)));
    assert_true(weft_expf(-INFINITY) == 0 && weft_expf(INFINITY) == INFINITY);
    assert_true(weft_exp(-INFINITY) == 0 && weft_exp(INFINITY) == INFINITY);
    assert_true(weft_exp(-745) > 0 && weft_exp(-746) == 0 && weft_exp(0) == 1);
    assert_true(weft_logf(0) == -INFINITY && weft_log(-0.0) == -INFINITY);
    assert_true(isnan(weft_logf(-1)) && isnan(weft_log(-1)));
    assert_true(weft_logf(INFINITY) == INFINITY && weft_log(INFINITY) == INFINITY);
    assert_true(weft_logf(1) == 0 && weft_log(1) == 0);
    assert_true(fabs(weft_log(5e-324) + 744.44007192138126) < 1e-12);
    assert_true(weft_tanh(INFINITY) == 1 && weft_tanhf(-INFINITY) == -1);
    assert_true(weft_erf(-INFINITY) == -1 && weft_erff(INFINITY) == 1);
    assert_true(signbit(weft_tanh(-0.0)) && signbit(weft_erff(-0.0f)));
}

CASE(the_tree_is_the_one_written_down) {
    float x[8] = {1e8f, 1, -1e8f, 3, 1e-3f, 7, 5e7f, 11};
    assert_true(weft_tree_sum(x, 1) == x[0]);
    assert_true(weft_tree_sum(x, 2) == x[0] + x[1]);
    assert_true(weft_tree_sum(x, 4) == (x[0] + x[1]) + (x[2] + x[3]));
    assert_true(weft_tree_sum(x, 8) ==
                ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_functions),
        cmocka_unit_test(double_functions),
        cmocka_unit_test(sine_and_cosine_of_far_angles),
        cmocka_unit_test(ends_of_the_range),
        cmocka_unit_test(the_tree_is_the_one_written_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
