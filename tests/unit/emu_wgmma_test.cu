/* SPDX-License-Identifier: Apache-2.0
 * The emulator's wgmma: products have the bits of a chain of the hardware's sums of 16, from
 * operands swizzled as the PTX ISA's "Matrix Descriptor Format" says; and a correct kernel, broken
 * in one way at a time, is accused or gives a wrong result. */
#include "bench/probe_model.h"
#include "tests/unit/emu.h"
#include <ptx_sm90.cuh>

using namespace WEFT_CU_NS;

enum { M = 64, N = 64, K = 64, THREADS = 128 };

enum bug {
    RIGHT,
    NO_FENCE,       /* no wgmma.fence */
    NO_PROXY_FENCE, /* stores that the async proxy need not see */
    NO_BARRIER,     /* operands of other threads */
    NO_COMMIT,      /* a wait for groups does not see the products */
    NO_WAIT,
    EARLY,         /* sums are read before the wait */
    OVERWRITTEN,   /* operands change before the wait */
    NOT_SWIZZLED,  /* rows as they come */
    WRONG_SWIZZLE, /* of rows half as long */
    LAST_K_AGAIN   /* the descriptor is not moved on */
};

static weft_emu_stream *stream;
static uint16_t a[M * K], b[N * K];
static float y[M * N];

struct product_smem {
    __align__(1024) uint16_t a[M][K], b[N][K];
};

template <int BUG> __device__ static int place(int row, int k) {
    int turn = BUG == NOT_SWIZZLED ? 0 : BUG == WRONG_SWIZZLE ? row / 2 % 4 : row % 8;
    return (k / 8 ^ turn) * 8 + k % 8;
}

template <int BUG> __global__ void product_k(const uint16_t *w, const uint16_t *x, float *to) {
    WEFT_SMEM(product_smem, s);
    int t = threadIdx.x, lane = t % 32;
    float d[N / 2] = {};
    for (int i = t; i < M * K; i += THREADS) {
        st_shared(&s.a[i / K][place<BUG>(i / K, i % K)], ld_const(w + i));
        st_shared(&s.b[i / K][place<BUG>(i / K, i % K)], ld_const(x + i));
    }
    if (BUG != NO_PROXY_FENCE)
        fence_proxy_async();
    if (BUG != NO_BARRIER)
        __syncthreads();
    uint64_t first = wgmma_descriptor(s.a, 128), second = wgmma_descriptor(s.b, 128);
    if (BUG != NO_FENCE)
        wgmma_fence();
    for (int k = 0; k < K / 16; k++)
        wgmma_bf16<N>(d, first + 2 * (BUG == LAST_K_AGAIN ? 0 : k), second + 2 * k, k > 0);
    if (BUG != NO_COMMIT)
        wgmma_commit();
    if (BUG == OVERWRITTEN)
        st_shared(&s.b[t % N][t / N * 32], (uint16_t)0);
    if (BUG != NO_WAIT && BUG != EARLY)
        wgmma_wait<0>();
    for (int i = 0; i < N / 2; i++) {
        int row = t / 32 * 16 + lane / 4 + i / 2 % 2 * 8, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
        st_global(to + row * N + col, d[i]);
    }
    if (BUG == EARLY)
        wgmma_wait<0>();
}

template <int BUG> static void run() {
    WEFT_LAUNCH(NULL, &stream->head, product_k<BUG>, 1, THREADS, sizeof(product_smem), a, b, y);
}

static void fill() {
    for (int i = 0; i < M * K; i++) {
        a[i] = weft_f32_to_bf16((float)(i * 37 % 101 - 50) * 0.013f);
        b[i] = weft_f32_to_bf16((float)(i * 53 % 97 - 48) * 0.017f);
    }
}

static bool right() {
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float sum = 0, x[K], w[K];
            probe_model hardware = probe_aligned_sum(16, 25, 4);
            for (int k = 0; k < K; k++) {
                x[k] = weft_bf16_to_f32(a[m * K + k]);
                w[k] = weft_bf16_to_f32(b[n * K + k]);
            }
            for (int k = 0; k < K; k += 16)
                sum = probe_predict(&hardware, PROBE_BF16, x + k, w + k, sum);
            if (weft_f32_bits(sum) != weft_f32_bits(y[m * N + n]))
                return false;
        }
    return true;
}

static void products_are_chains(void **state) {
    (void)state;
    fill();
    for (uint64_t seed = 0; seed < 4; seed++) {
        stream->seed = seed;
        memset(y, 0, sizeof y);
        run<RIGHT>();
        emu_ok(stream);
        assert_true(right());
    }
}

template <int BUG> static void accused(const char *what) {
    for (uint64_t seed = 0; seed < 4; seed++) {
        stream->seed = seed;
        emu_fails(stream, what, run<BUG>);
    }
}

template <int BUG> static void wrong() {
    stream->seed = 0;
    run<BUG>();
    emu_ok(stream);
    assert_false(right());
}

static void bugs_are_found(void **state) {
    (void)state;
    fill();
    accused<NO_FENCE>("without a wgmma.fence");
    accused<NO_PROXY_FENCE>("without fence.proxy.async");
    accused<NO_BARRIER>("read");
    accused<NO_COMMIT>("nobody waited for");
    accused<NO_WAIT>("nobody waited for");
    accused<OVERWRITTEN>("read");
    wrong<EARLY>();
    wrong<NOT_SWIZZLED>();
    wrong<WRONG_SWIZZLE>();
    wrong<LAST_K_AGAIN>();
}

int main() {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_chains),
        cmocka_unit_test(bugs_are_found),
    };
    stream = emu_stream_open(1);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    emu_stream_close(stream);
    return rc;
}
