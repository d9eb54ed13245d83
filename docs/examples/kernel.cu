/* SPDX-License-Identifier: Apache-2.0
 * The same for a GPU: y = a + b, one source for the emulator and for nvcc.
 *
 *     g++ -std=c++17 -O2 -shared -fPIC -Iinclude -I. -Ikernels/emu -DWEFT_CU_NS=mine -x c++ \
 *         docs/examples/kernel.cu -x none build/libweft.a -o mine.so
 *     nvcc -std=c++17 -O3 -fmad=false -arch=sm_90 -shared -Xcompiler -fPIC -Iinclude -I. \
 *         -Ikernels/lib -DWEFT_CU_NS=mine docs/examples/kernel.cu -o mine.so
 *     WEFT_KERNEL_LIB=./mine.so build/checkkernels --backend emu --op add --row mine */
#include "kernels/lib/rows.cuh"
#include "weft/kernel_lib.h"

namespace WEFT_CU_NS {

__global__ void __launch_bounds__(CHUNK_THREADS) mine_k(const __grid_constant__ weft_add_args s) {
    chunk c = chunk_at(lead_rows(s.rows, s.y.shape[0]), width_of(s.y));
    float a[CHUNK], b[CHUNK];
    if (!c.n)
        return;
    load8(s.a, c.row * s.a.stride[0] + c.i, c.n, a);
    load8(s.b, c.row * s.b.stride[0] + c.i, c.n, b);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        a[i] = a[i] + b[i];
    store8(s.y, c.row * s.y.stride[0] + c.i, c.n, a);
}

static int mine_ok(const weft_args *args) {
    const weft_add_args &a = args->add;
    return is_flat(a.a) && is_flat(a.b) && is_flat(a.y) && a.y.ndim == 2;
}

static void mine_run(const weft_step *step, weft_stream *stream) {
    const weft_add_args *a = &step->args.add;
    int64_t blocks = chunk_blocks(a->y.shape[0], width_of(a->y));
    if (blocks)
        WEFT_LAUNCH(step, stream, mine_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

} // namespace WEFT_CU_NS

/* op, backend, name, class, rank, sm, ok, scratch, bind, run, bytes of state */
WEFT_KERNEL_LIBRARY = {{WEFT_OP_add, WEFT_CU_BACKEND, "mine", WEFT_ARITH_NONE, 100, 80,
                        WEFT_CU_NS::mine_ok, NULL, NULL, WEFT_CU_NS::mine_run, 0},
                       WEFT_KERNEL_LIBRARY_END};
