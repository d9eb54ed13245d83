/* SPDX-License-Identifier: Apache-2.0
 * What tests of kernels share: views of plain arrays, running a reference row on two threads, and
 * a distance in which NaN never passes. */
#pragma once
#include "tests/unit/unit.h"

#include "host/base/thread.h"
#include "weft/step.h"
#include <math.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))
#define DIMS(...) \
    COUNT(((int64_t[]){__VA_ARGS__})), (const int64_t[]) { \
        __VA_ARGS__ \
    }

/* A present, contiguous view of memory that the test owns. */
static inline weft_tensor view(int dtype, const void *data, int ndim, const int64_t *shape) {
    weft_tensor t = weft_tensor_make(dtype, ndim, shape);
    t.data = (void *)(uintptr_t)data;
    t.id = 1;
    return t;
}

static inline const weft_kernel *ref_row_of(weft_op op) {
    const weft_kernel *k = weft_kernels_ref;
    while (k->name && k->op != op)
        k++;
    assert_non_null(k->name);
    return k;
}

static inline void run_on(weft_op op, const weft_args *args, int threads) {
    weft_step step = {.kernel = ref_row_of(op), .args = *args};
    weft_stream *stream;
    assert_int_equal(thread_pool_open(threads, &stream), WEFT_OK);
    assert_true(step.kernel->ok(args));
    size_t scratch = step.kernel->scratch ? step.kernel->scratch(args) : 0;
    step.scratch = aligned_alloc(64, (scratch + 127) / 64 * 64);
    assert_non_null(step.scratch);
    memset(step.scratch, 0xff, scratch); /* nothing may rely on what was there */
    step.kernel->run(&step, stream);
    free(step.scratch);
    thread_pool_close(stream);
}

static inline void run(weft_op op, const weft_args *args) {
    run_on(op, args, 2);
}

static inline double random_unit(uint64_t *seed) {
    return (double)(next_random(seed) >> 11) * 0x1p-53;
}

/* Roughly normal: what activations look like. */
static inline float random_float(uint64_t *seed) {
    double s = 0;
    for (int i = 0; i < 12; i++)
        s += random_unit(seed);
    return (float)(s - 6);
}

static inline void fill_random(float *x, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++)
        x[i] = random_float(&seed);
}

static inline void fill_value(float *x, int64_t n, float v) {
    for (int64_t i = 0; i < n; i++)
        x[i] = v;
}

/* |got - want| <= bound for every element; a NaN fails. */
static inline void expect_near(const char *what, const float *got, const double *want, int64_t n,
                               double bound) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= bound))
            fail_msg("%s[%lld]: %.9g, expected %.9g within %g", what, (long long)i, got[i], want[i],
                     bound);
}

static inline void expect_same_bits(const char *what, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (weft_f32_bits(a[i]) != weft_f32_bits(b[i]))
            fail_msg("%s[%lld]: %.9g and %.9g differ", what, (long long)i, a[i], b[i]);
}

static inline const char *fixtures(void) {
    const char *path = getenv("WEFT_FIXTURES");
    return path && *path ? path : "../shared/fixtures";
}
