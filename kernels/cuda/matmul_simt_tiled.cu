/* SPDX-License-Identifier: Apache-2.0
 * matmul in fp32 for many tokens, on FFMA: the chains, and so the bits, are those of
 * matmul_simt.cu. A block has 128 rows of w by 128 tokens, a thread 8 x 8 of them: 64 FFMA for
 * 64 bytes from shared memory. 16 of k at a time lie there by columns, in two stages; the next is
 * loaded into registers meanwhile. A plane of leaves is a block's own. Bound by arithmetic.
 * Measured: nowhere yet. */
#include "kernels/lib/matmul.cuh"

namespace WEFT_CU_NS {

enum { SIMT_SIDE = 128, SIMT_DEPTH = 16, SIMT_SIDE_PITCH = SIMT_SIDE + 4, SIMT_COPIES = 2 };

struct simt_tiled_smem {
    __align__(16) float w[2][SIMT_DEPTH][SIMT_SIDE_PITCH], x[2][SIMT_DEPTH][SIMT_SIDE_PITCH];
};

/* What a thread brings: 4 of k of two rows. Rows that are not there: the last one, whose sums go
 * nowhere. */
struct simt_copies {
    const float *from[SIMT_COPIES];
    float4 held[SIMT_COPIES];
    int row, k;

    __device__ __forceinline__ simt_copies(const weft_tensor &t, int64_t row0, int64_t end,
                                           int64_t k0)
        : row(threadIdx.x / 4), k(threadIdx.x % 4 * 4) {
#pragma unroll
        for (int j = 0; j < SIMT_COPIES; j++) {
            int64_t r = row0 + row + j * 64;
            from[j] = (const float *)t.data + (r < end ? r : end - 1) * t.stride[0] + k0 + k;
        }
    }
    /* The next stage's. */
    __device__ __forceinline__ void load() {
#pragma unroll
        for (int j = 0; j < SIMT_COPIES; j++) {
            held[j] = ld_const((const float4 *)from[j]);
            from[j] += SIMT_DEPTH;
        }
    }
    __device__ __forceinline__ void store(float (&to)[SIMT_DEPTH][SIMT_SIDE_PITCH]) const {
#pragma unroll
        for (int j = 0; j < SIMT_COPIES; j++) {
            st_shared(&to[k][row + j * 64], held[j].x);
            st_shared(&to[k + 1][row + j * 64], held[j].y);
            st_shared(&to[k + 2][row + j * 64], held[j].z);
            st_shared(&to[k + 3][row + j * 64], held[j].w);
        }
    }
};

__device__ __forceinline__ void simt_eight(const float *p, float (&v)[CHUNK]) {
    float4 lo = ld_shared((const float4 *)p), hi = ld_shared((const float4 *)p + 1);
    memcpy(v, &lo, 16);
    memcpy(v + 4, &hi, 16);
}

__device__ __forceinline__ void simt_multiply(const simt_tiled_smem &s, int stage, int n, int t,
                                              float (&acc)[CHUNK][CHUNK]) {
#pragma unroll
    for (int k = 0; k < SIMT_DEPTH; k++) {
        float w[CHUNK], x[CHUNK];
        simt_eight(&s.w[stage][k][n], w);
        simt_eight(&s.x[stage][k][t], x);
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
#pragma unroll
            for (int j = 0; j < CHUNK; j++)
                acc[i][j] = fmaf(x[i], w[j], acc[i][j]);
    }
}

__global__ void __launch_bounds__(SIMT_THREADS, 2)
    matmul_simt_tiled_k(const __grid_constant__ weft_matmul_args a) {
    WEFT_SMEM(simt_tiled_smem, s);
    int64_t n0 = blockIdx.x * (int64_t)SIMT_SIDE, t0 = blockIdx.y * (int64_t)SIMT_SIDE;
    int64_t rows = lead_rows(a.rows, a.x.shape[0]), cols = a.w.shape[0];
    int64_t width = a.x.shape[1] / a.leaves, leaf = blockIdx.z;
    int n = threadIdx.x % 16 * CHUNK, t = threadIdx.x / 16 * CHUNK;
    if (t0 >= rows)
        return;
    float acc[CHUNK][CHUNK] = {};
    simt_copies w(a.w, n0, cols, leaf * width), x(a.x, t0, rows, leaf * width);
    w.load();
    x.load();
    int stage = 0;
    for (int left = (int)(width / SIMT_DEPTH); left > 0; left--, stage ^= 1) {
        w.store(s.w[stage]);
        x.store(s.x[stage]);
        __syncthreads();
        if (left > 1) {
            w.load();
            x.load();
        }
        simt_multiply(s, stage, n, t, acc);
    }
    epilogue e = {&a.y, &a.bias, &a.res, a.act};
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        chunk c = {t0 + t + i, n0 + n, 0};
        c.n = cols - c.i < CHUNK ? (int)(cols - c.i) : (int)CHUNK;
        if (c.row >= rows || c.n <= 0)
            continue;
        if (a.partial)
            store8(a.y, leaf * a.y.stride[0] + c.row * a.y.stride[1] + c.i, c.n, acc[i]);
        else
            e.store8(c, acc[i]);
    }
}

/* Whole stages, loads of 16 bytes, one leaf or its plane a block. */
static int matmul_ok(const weft_args *args) {
    const weft_matmul_args &a = args->matmul;
    bool tree = a.leaves == 1 || a.leaves == 2 || a.leaves == 4 || a.leaves == 8;
    bool plain = a.y.dtype == WEFT_F32 && !weft_has(&a.bias) && !weft_has(&a.res) && !a.act;
    return tree && a.x.dtype == WEFT_F32 && a.w.dtype == WEFT_F32 && a.w.shape[1] == a.x.shape[1] &&
           a.x.shape[1] % (a.leaves * SIMT_DEPTH) == 0 && a.x.stride[0] % 4 == 0 &&
           a.w.stride[0] % 4 == 0 && is_flat(a.x) && is_flat(a.w) && is_flat(a.y) &&
           is_flat(a.bias) && is_flat(a.res) && (a.partial ? plain : a.leaves == 1);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    bool aligned = (size_t)a->x.data % 16 == 0 && (size_t)a->w.data % 16 == 0;
    if (!aligned || !a->x.shape[1] || a->x.shape[0] <= SIMT_TILE || !a->w.shape[0]) {
        matmul_simt_any(step, stream);
        return;
    }
    dim3 grid((unsigned)((a->w.shape[0] + SIMT_SIDE - 1) / SIMT_SIDE),
              (unsigned)((a->x.shape[0] + SIMT_SIDE - 1) / SIMT_SIDE),
              a->partial ? (unsigned)a->leaves : 1u);
    WEFT_LAUNCH(step, stream, matmul_simt_tiled_k, grid, SIMT_THREADS, sizeof(simt_tiled_smem), *a);
}

WEFT_ROWS(matmul_simt_tiled) = {WEFT_ROW(matmul, "simt_tiled", SIMT, 3, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(matmul_simt_tiled) = {
    {"matmul_simt_tiled_k", SIMT_THREADS, 2, sizeof(simt_tiled_smem), "FFMA LDG.128 STG.128"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
