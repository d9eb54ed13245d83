/* SPDX-License-Identifier: Apache-2.0
 * matmul of bf16 and fp16 activations by int8 weights (W8A16) on tensor cores. The integers become
 * numbers of x's type in registers, exactly, eight instructions for four of them (bf16) or five
 * (fp16); the rest is int8.cuh's. Bound by memory (a byte a weight) up to some 100 tokens; one
 * token and one leaf also by the chain, K / 16 matrix instructions one after the other. Measured:
 * nowhere yet. */
#include "kernels/lib/int8.cuh"

namespace WEFT_CU_NS {

static int matmul_ok(const weft_args *args) {
    const weft_matmul_args &a = args->matmul;
    return (a.x.dtype == WEFT_BF16 || a.x.dtype == WEFT_F16) && int8_takes(a);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    if (step->args.matmul.x.dtype == WEFT_BF16)
        int8_run<int8_float<bf16>>(step, stream);
    else
        int8_run<int8_float<f16>>(step, stream);
}

WEFT_ROWS(matmul_w8) = {WEFT_ROW(matmul, "mma_w8", MMA, 2, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(matmul_w8) = {INT8_CLAIMS("int8_float<bf16>", int8_float<bf16>, "HMMA"),
                          INT8_CLAIMS("int8_float<f16>", int8_float<f16>, "HMMA"), WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
