/* SPDX-License-Identifier: Apache-2.0
 * matmul of int8 activations by int8 weights (W8A8) on tensor cores: m16n8k32 into exact s32, so
 * that the bits are those of every other backend. Bound by memory up to some 200 tokens. Measured:
 * nowhere yet. */
#include "kernels/lib/int8.cuh"

namespace WEFT_CU_NS {

static int matmul_ok(const weft_args *args) {
    const weft_matmul_args &a = args->matmul;
    return a.x.dtype == WEFT_I8 && int8_scale_ok(a.xscale) && a.xscale.shape[1] == a.leaves &&
           a.x.shape[1] / (a.leaves > 0 ? a.leaves : 1) <= WEFT_S32_TERMS && int8_takes(a);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    int8_run<int8_int>(step, stream);
}

WEFT_ROWS(matmul_s8) = {WEFT_ROW(matmul, "mma_s8", S32, 2, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(matmul_s8) = {INT8_CLAIMS("int8_int", int8_int, "IMMA"), WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
