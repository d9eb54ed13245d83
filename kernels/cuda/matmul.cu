/* SPDX-License-Identifier: Apache-2.0
 * matmul in bf16 and fp16 on tensor cores: the row that plans take. It chooses by the number of
 * tokens among kernels of equal bits, each of which is also a row of its own, so that the checker
 * compares them all and WEFT_KERNEL can ask for one. */
#include "kernels/lib/matmul.cuh"

namespace WEFT_CU_NS {

static int matmul_ok(const weft_args *args) {
    return mma_takes(args);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (a->x.shape[0] <= skinny_tokens(a->leaves))
        matmul_skinny(step, stream);
    else if (!matmul_tiled(step, stream))
        matmul_any(step, stream);
}

WEFT_ROWS(matmul) = {WEFT_ROW(matmul, "mma", MMA, 2, NULL), WEFT_ROWS_END};

} // namespace WEFT_CU_NS
