/* SPDX-License-Identifier: Apache-2.0
 * Tests: what may stand behind `is`. */
#include "host/model/chat/jinja_core.h"
#include <string.h>

static jval t_defined(jrun *r, jval v, jval *a) {
    (void)r;
    (void)a;
    return jv_bool(v.kind != J_UNDEFINED);
}

static jval t_undefined(jrun *r, jval v, jval *a) {
    (void)r;
    (void)a;
    return jv_bool(v.kind == J_UNDEFINED);
}

#define KIND_TEST(name, cond)                           \
    static jval t_##name(jrun *r, jval v, jval *a) {    \
        (void)r;                                        \
        (void)a;                                        \
        return jv_bool(cond);                           \
    }
KIND_TEST(none, v.kind == J_NONE)
KIND_TEST(boolean, v.kind == J_BOOL)
KIND_TEST(true, v.kind == J_BOOL && v.b)
KIND_TEST(false, v.kind == J_BOOL && !v.b)
KIND_TEST(integer, v.kind == J_INT || v.kind == J_BIG)
KIND_TEST(float, v.kind == J_FLOAT)
KIND_TEST(number, v.kind >= J_BOOL && v.kind <= J_FLOAT)
KIND_TEST(string, v.kind == J_STR)
KIND_TEST(mapping, v.kind == J_DICT)
KIND_TEST(iterable, jv_iterable(v))
KIND_TEST(escaped, v.kind == J_STR && v.safe)
KIND_TEST(sequence, v.kind == J_UNDEFINED || (v.kind >= J_STR && v.kind <= J_RANGE))
KIND_TEST(callable, v.kind == J_MACRO || v.kind == J_FUNC || v.kind == J_JOINER ||
                        v.kind == J_LOOP || v.kind == J_UNDEFINED)

static jval t_sameas(jrun *r, jval v, jval *a) {
    (void)r;
    return jv_bool(jv_same(v, a[0]));
}

static jval t_in(jrun *r, jval v, jval *a) {
    return jv_bool(jop_contains(r, v, a[0]));
}

static bool remainder_is(jrun *r, jval v, jval by, int64_t want) {
    return jv_equal(r, jop_binary(r, N_MOD, v, by), jv_int(want));
}

static jval t_odd(jrun *r, jval v, jval *a) {
    (void)a;
    return jv_bool(remainder_is(r, v, jv_int(2), 1));
}

static jval t_even(jrun *r, jval v, jval *a) {
    (void)a;
    return jv_bool(remainder_is(r, v, jv_int(2), 0));
}

static jval t_divisibleby(jrun *r, jval v, jval *a) {
    return jv_bool(remainder_is(r, v, a[0], 0));
}

static jval text_test(jrun *r, jval v, const char *method) {
    jval none[JPARAMS_MAX] = {JV_MISSING};
    return jstr_method(method, strlen(method))->fn(r, jtext_of(r, v), none);
}

static jval t_lower(jrun *r, jval v, jval *a) {
    (void)a;
    return text_test(r, v, "islower");
}

static jval t_upper(jrun *r, jval v, jval *a) {
    (void)a;
    return text_test(r, v, "isupper");
}

static void check_hashable(jrun *r, jval v) {
    if (v.kind == J_LIST || v.kind == J_DICT)
        jrun_fail(r, "unhashable type: '%s'", jv_type(v));
}

static jval t_filter(jrun *r, jval v, jval *a) {
    (void)a;
    check_hashable(r, v);
    return jv_bool(v.kind == J_STR && jfilter_find(v.s->p, v.s->n));
}

static jval t_test(jrun *r, jval v, jval *a) {
    (void)a;
    check_hashable(r, v);
    return jv_bool(v.kind == J_STR && jtest_find(v.s->p, v.s->n));
}

#define COMPARE_TEST(name, op)                          \
    static jval t_##name(jrun *r, jval v, jval *a) {    \
        return jv_bool(jop_compare(r, op, v, a[0]));    \
    }
COMPARE_TEST(eq, JCMP_EQ)
COMPARE_TEST(ne, JCMP_NE)
COMPARE_TEST(lt, JCMP_LT)
COMPARE_TEST(le, JCMP_LE)
COMPARE_TEST(gt, JCMP_GT)
COMPARE_TEST(ge, JCMP_GE)

static const jrow rows[] = {
    {"defined", "", 0, t_defined},   {"undefined", "", 0, t_undefined},
    {"none", "", 0, t_none},         {"boolean", "", 0, t_boolean},
    {"true", "", 0, t_true},         {"false", "", 0, t_false},
    {"integer", "", 0, t_integer},   {"float", "", 0, t_float},
    {"number", "", 0, t_number},     {"string", "", 0, t_string},
    {"mapping", "", 0, t_mapping},   {"iterable", "", 0, t_iterable},
    {"sequence", "", 0, t_sequence}, {"callable", "", 0, t_callable},
    {"escaped", "", 0, t_escaped},   {"sameas", "other", 1, t_sameas},
    {"in", "seq", 1, t_in},          {"odd", "", 0, t_odd},
    {"even", "", 0, t_even},         {"divisibleby", "num", 1, t_divisibleby},
    {"lower", "", 0, t_lower},       {"upper", "", 0, t_upper},
    {"filter", "", 0, t_filter},     {"test", "", 0, t_test},
    {"eq", "other", 1, t_eq},        {"equalto", "other", 1, t_eq},
    {"==", "other", 1, t_eq},        {"ne", "other", 1, t_ne},
    {"!=", "other", 1, t_ne},        {"lt", "other", 1, t_lt},
    {"lessthan", "other", 1, t_lt},  {"<", "other", 1, t_lt},
    {"le", "other", 1, t_le},        {"<=", "other", 1, t_le},
    {"gt", "other", 1, t_gt},        {"greaterthan", "other", 1, t_gt},
    {">", "other", 1, t_gt},         {"ge", "other", 1, t_ge},
    {">=", "other", 1, t_ge},
};

const jrow *jtest_find(const char *name, size_t n) {
    return jrow_find(rows, (int)(sizeof rows / sizeof *rows), name, n);
}
