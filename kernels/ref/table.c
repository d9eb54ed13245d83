/* SPDX-License-Identifier: Apache-2.0
 * The reference backend's rows. */
#include "kernels/ref/ref.h"

#define ROW_(stem, class, scratch_fn) \
    {.op = WEFT_OP_##stem,            \
     .backend = "ref",                \
     .name = "ref",                   \
     .arith = WEFT_ARITH_##class,     \
     .ok = ref_##stem##_ok,           \
     .scratch = scratch_fn,           \
     .run = ref_##stem##_run},

const weft_kernel weft_kernels_ref[] = {REF_ROWS(ROW_){.name = NULL}};
