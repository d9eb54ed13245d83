/* SPDX-License-Identifier: Apache-2.0
 * Reading op arguments by field: what the planner, the tracer and the checker share. */
#pragma once
#include "host/base/buf.h"
#include "weft/ops.h"

/* Index of the op of that name, -1 if there is none. */
int ops_find(const char *name);

/* The tensor or scalar of a field (role S: *ops_int or *ops_float by its type). */
static inline weft_tensor *ops_tensor(weft_args *a, const weft_field *f) {
    return (weft_tensor *)((char *)a + f->off);
}
static inline const weft_tensor *ops_ctensor(const weft_args *a, const weft_field *f) {
    return (const weft_tensor *)((const char *)a + f->off);
}
static inline int32_t ops_int(const weft_args *a, const weft_field *f) {
    return *(const int32_t *)((const char *)a + f->off);
}
static inline float ops_float(const weft_args *a, const weft_field *f) {
    return *(const float *)((const char *)a + f->off);
}

/* Field of that name, NULL if the op has none. */
const weft_field *ops_field(weft_op op, const char *name);

/* Elements of t that a kernel touches, as bytes; the rest of a strided view is not counted. */
int64_t ops_bytes(const weft_tensor *t);

/* Appends one line of text without a newline: `matmul x[7,4096]bf16 w[4096,4096]bf16 y[7,4096]bf16
 * leaves=8`. Absent operands and zero scalars are left out; strides follow "|" where a view is not
 * contiguous. */
void ops_print(buf *out, weft_op op, const weft_args *a);
