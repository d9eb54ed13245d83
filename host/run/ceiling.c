/* SPDX-License-Identifier: Apache-2.0
 * The machine's ceilings: reads from memory, multiply-adds from registers. The loops are as plain as
 * they can be, so that nothing but the hardware limits them; the best of several passes counts. */
#include "host/run/ceiling.h"
#include "host/base/clock.h"
#include "host/base/thread.h"
#include "weft/kernel.h"
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define AVX2_CODE __attribute__((target("avx2,fma"), noinline))
#define AVX512_CODE __attribute__((target("avx512f"), noinline))
#define BF16_CODE __attribute__((target("avx512f,avx512bf16"), noinline))

enum { MOST_BYTES = 512 << 20, LEAST_BYTES = 1 << 20, SPINS = 1 << 16, CHAINS = 10 };
static const double READ_SECONDS = 0.3, FMA_SECONDS = 0.2;

/* ---- reads ---- */

static int64_t read_portable(const char *p, int64_t n) {
    int64_t sum[4] = {0}, v[4];
    for (int64_t i = 0; i + 32 <= n; i += 32) {
        memcpy(v, p + i, sizeof v);
        for (int k = 0; k < 4; k++)
            sum[k] ^= v[k];
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

AVX2_CODE static int64_t read_avx2(const char *p, int64_t n) {
    __m256i s[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    for (int64_t i = 0; i + 128 <= n; i += 128)
        for (int k = 0; k < 4; k++)
            s[k] = _mm256_xor_si256(s[k], _mm256_loadu_si256((const void *)(p + i + 32 * k)));
    s[0] = _mm256_xor_si256(_mm256_xor_si256(s[0], s[1]), _mm256_xor_si256(s[2], s[3]));
    return _mm256_extract_epi64(s[0], 0) ^ _mm256_extract_epi64(s[0], 3);
}

AVX512_CODE static int64_t read_avx512(const char *p, int64_t n) {
    __m512i s[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                    _mm512_setzero_si512()};
    for (int64_t i = 0; i + 256 <= n; i += 256)
        for (int k = 0; k < 4; k++)
            s[k] = _mm512_xor_si512(s[k], _mm512_loadu_si512((const void *)(p + i + 64 * k)));
    s[0] = _mm512_xor_si512(_mm512_xor_si512(s[0], s[1]), _mm512_xor_si512(s[2], s[3]));
    return _mm512_reduce_add_epi64(s[0]);
}

/* ---- multiply-adds: CHAINS independent ones hide the latency of each ---- */

static float fma_portable(float x) {
    float a[CHAINS] = {0};
    for (int i = 0; i < SPINS / 16; i++)
        for (int k = 0; k < CHAINS; k++)
            a[k] = fmaf(a[k], x, x);
    float sum = 0;
    for (int k = 0; k < CHAINS; k++)
        sum += a[k];
    return sum;
}

AVX2_CODE static float fma_avx2(float x) {
    __m256 v = _mm256_set1_ps(x), a[CHAINS];
    for (int k = 0; k < CHAINS; k++)
        a[k] = v;
    for (int i = 0; i < SPINS; i++)
#pragma GCC unroll 10
        for (int k = 0; k < CHAINS; k++)
            a[k] = _mm256_fmadd_ps(a[k], v, v);
    for (int k = 1; k < CHAINS; k++)
        a[0] = _mm256_add_ps(a[0], a[k]);
    return _mm256_cvtss_f32(a[0]);
}

AVX512_CODE static float fma_avx512(float x) {
    __m512 v = _mm512_set1_ps(x), a[CHAINS];
    for (int k = 0; k < CHAINS; k++)
        a[k] = v;
    for (int i = 0; i < SPINS; i++)
#pragma GCC unroll 10
        for (int k = 0; k < CHAINS; k++)
            a[k] = _mm512_fmadd_ps(a[k], v, v);
    for (int k = 1; k < CHAINS; k++)
        a[0] = _mm512_add_ps(a[0], a[k]);
    return _mm512_reduce_add_ps(a[0]);
}

BF16_CODE static float dot_bf16(float x) {
    __m512 a[CHAINS];
    __m512bh v = _mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x));
    for (int k = 0; k < CHAINS; k++)
        a[k] = _mm512_set1_ps(x);
    for (int i = 0; i < SPINS; i++)
#pragma GCC unroll 10
        for (int k = 0; k < CHAINS; k++)
            a[k] = _mm512_dpbf16_ps(a[k], v, v);
    for (int k = 1; k < CHAINS; k++)
        a[0] = _mm512_add_ps(a[0], a[k]);
    return _mm512_reduce_add_ps(a[0]);
}

/* ---- timing ---- */

typedef struct {
    int64_t (*read)(const char *, int64_t);
    float (*spin)(float);
    const char *data;
    int64_t part;                   /* bytes of each worker */
    volatile int64_t sink[WEFT_MAX_THREADS]; /* keeps the loops */
} probe;

static void do_read(const void *ctx, int64_t begin, int64_t end, int worker) {
    probe *p = (probe *)(uintptr_t)ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        p->sink[i] = p->read(p->data + i * p->part, p->part);
}

static void do_spin(const void *ctx, int64_t begin, int64_t end, int worker) {
    probe *p = (probe *)(uintptr_t)ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        p->sink[i] = p->spin(1e-3f) > 0;
}

/* Most work units a second of regions with one item a thread. */
static double best_rate(int threads, probe *p, weft_range_fn *fn, double units, double seconds) {
    weft_stream *s;
    if (threads < 1 || thread_pool_open(threads, &s) != WEFT_OK)
        return 0;
    double best = 0, start = clock_seconds(), now = start;
    while (now - start < seconds || best == 0) {
        double t = now;
        weft_parallel(s, threads, 1, fn, p);
        now = clock_seconds();
        double rate = now > t ? units * threads / (now - t) : 0;
        best = rate > best ? rate : best;
    }
    thread_pool_close(s);
    return best;
}

static int have_level(int level) {
    __builtin_cpu_init();
    bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int most = !fma ? WEFT_CPU_PORTABLE
                    : !__builtin_cpu_supports("avx512f") ? WEFT_CPU_AVX2
                    : !__builtin_cpu_supports("avx512bf16") ? WEFT_CPU_AVX512
                                                            : WEFT_CPU_AVX512BF16;
    return level < most ? level : most;
}

double ceiling_read_gbs(int threads, uint64_t bytes) {
    uint64_t n = bytes < LEAST_BYTES ? LEAST_BYTES : bytes > MOST_BYTES ? MOST_BYTES : bytes;
    int level = have_level(WEFT_CPU_LEVELS);
    probe p = {.read = level >= WEFT_CPU_AVX512 ? read_avx512
                       : level == WEFT_CPU_AVX2 ? read_avx2
                                                : read_portable};
    void *data = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED || threads < 1)
        return 0;
    madvise(data, n, MADV_HUGEPAGE);
    memset(data, 1, n);
    p.data = data;
    p.part = (int64_t)(n / (uint64_t)threads / 256 * 256);
    double rate = best_rate(threads, &p, do_read, (double)p.part, READ_SECONDS);
    munmap(data, n);
    return rate / 1e9;
}

double ceiling_fma_gflops(int threads, int level) {
    static const int lanes[] = {1, 8, 16};
    static float (*const spins[])(float) = {fma_portable, fma_avx2, fma_avx512};
    int at = have_level(level) > WEFT_CPU_AVX512 ? WEFT_CPU_AVX512 : have_level(level);
    probe p = {.spin = spins[at]};
    double flops = 2.0 * CHAINS * lanes[at] * (at ? SPINS : SPINS / 16);
    return best_rate(threads, &p, do_spin, flops, FMA_SECONDS) / 1e9;
}

double ceiling_bf16_gflops(int threads, int level) {
    if (have_level(level) < WEFT_CPU_AVX512BF16)
        return 0;
    probe p = {.spin = dot_bf16};
    return best_rate(threads, &p, do_spin, 4.0 * CHAINS * 16 * SPINS, FMA_SECONDS) / 1e9;
}
