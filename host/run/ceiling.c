/* SPDX-License-Identifier: Apache-2.0
 * Ceilings: loops that only read, or only multiply and add in independent chains, at each level of
 * instructions. Results are stored, so that nothing can be left out. */
#include "host/run/ceiling.h"
#include "host/base/clock.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    PIECE = 128 << 10, /* bytes read at once */
    AHEAD = 2048,      /* bytes between a prefetch and its load */
    CHAINS = 12,       /* hides the latency of two units with four cycles */
    TURNS = 4000       /* of the chains in one piece of work */
};

typedef struct {
    const char *data;
    int64_t pieces; /* in data */
    float *sink;    /* one line for each worker */
    void (*read)(const char *p, int64_t n, float *sink);
    double (*chains)(float *sink); /* returns the operations done */
} ceiling_job;

/* ---- loops ---------------------------------------------------------------------------------- */

static void read_portable(const char *p, int64_t n, float *sink) {
    uint64_t sum[8] = {0}, v[8];
    for (int64_t i = 0; i + 64 <= n; i += 64) {
        memcpy(v, p + i, 64);
        for (int l = 0; l < 8; l++)
            sum[l] ^= v[l];
    }
    memcpy(sink, sum, 64);
}

static double chains_portable(float *sink) {
    float acc[CHAINS * 4];
    for (int i = 0; i < CHAINS * 4; i++)
        acc[i] = sink[i & 15];
    for (int t = 0; t < TURNS; t++)
        for (int i = 0; i < CHAINS * 4; i++)
            acc[i] = acc[i] * 0.999f + 0.001f;
    for (int i = 0; i < CHAINS * 4; i++)
        sink[i & 15] = acc[i];
    return 2.0 * 4 * CHAINS * TURNS;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void read_avx2(const char *p, int64_t n, float *sink) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int64_t i = 0; i + 128 <= n; i += 128) {
        _mm_prefetch(p + i + AHEAD, _MM_HINT_T0);
        _mm_prefetch(p + i + AHEAD + 64, _MM_HINT_T0);
        a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i *)(p + i + 64)));
        d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i *)(p + i + 96)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    _mm256_storeu_si256((__m256i *)sink, a);
}

__attribute__((target("avx512f"))) static void read_avx512(const char *p, int64_t n, float *sink) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (int64_t i = 0; i + 256 <= n; i += 256) {
        for (int64_t l = 0; l < 256; l += 64)
            _mm_prefetch(p + i + AHEAD + l, _MM_HINT_T0);
        a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
        b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
        c = _mm512_xor_si512(c, _mm512_loadu_si512(p + i + 128));
        d = _mm512_xor_si512(d, _mm512_loadu_si512(p + i + 192));
    }
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    _mm512_storeu_si512(sink, a);
}

__attribute__((target("avx2,fma"))) static double chains_avx2(float *sink) {
    __m256 acc[CHAINS], m = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm256_loadu_ps(sink);
    for (int t = 0; t < TURNS; t++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            acc[i] = _mm256_fmadd_ps(acc[i], m, c);
    for (int i = 0; i < CHAINS; i++)
        _mm256_storeu_ps(sink, _mm256_add_ps(_mm256_loadu_ps(sink), acc[i]));
    return 2.0 * 8 * CHAINS * TURNS;
}

__attribute__((target("avx512f"))) static double chains_avx512(float *sink) {
    __m512 acc[CHAINS], m = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm512_loadu_ps(sink);
    for (int t = 0; t < TURNS; t++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            acc[i] = _mm512_fmadd_ps(acc[i], m, c);
    for (int i = 0; i < CHAINS; i++)
        _mm512_storeu_ps(sink, _mm512_add_ps(_mm512_loadu_ps(sink), acc[i]));
    return 2.0 * 16 * CHAINS * TURNS;
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static double chains_bf16(
    float *sink) {
    __m512 acc[CHAINS];
    __m512bh a = (__m512bh)_mm512_set1_epi16(0x3c00), b = (__m512bh)_mm512_set1_epi16(0x3c01);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm512_loadu_ps(sink);
    for (int t = 0; t < TURNS; t++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            acc[i] = _mm512_dpbf16_ps(acc[i], a, b);
    for (int i = 0; i < CHAINS; i++)
        _mm512_storeu_ps(sink, _mm512_add_ps(_mm512_loadu_ps(sink), acc[i]));
    return 4.0 * 16 * CHAINS * TURNS;
}
#define LEVELS_(portable, avx2, avx512) \
    { portable, avx2, avx512, avx512 }
#else
#define LEVELS_(portable, avx2, avx512) \
    { portable, portable, portable, portable }
static double chains_bf16(float *sink) {
    (void)sink;
    return 0;
}
#endif

/* ---- passes --------------------------------------------------------------------------------- */

static void read_pieces(const void *ctx, int64_t begin, int64_t end, int worker) {
    const ceiling_job *j = ctx;
    for (int64_t i = begin; i < end; i++)
        j->read(j->data + i % j->pieces * PIECE, PIECE, j->sink + worker * 16);
}

static void chain_pieces(const void *ctx, int64_t begin, int64_t end, int worker) {
    const ceiling_job *j = ctx;
    for (int64_t i = begin; i < end; i++)
        j->chains(j->sink + worker * 16);
}

/* Best of the passes that fit into `seconds`, at least three: work per second. */
static double best_of(weft_stream *s, weft_range_fn *fn, const ceiling_job *j, int64_t n,
                      double work, double seconds) {
    double until = clock_seconds() + seconds, best = 0;
    for (int pass = 0; pass < 3 || clock_seconds() < until; pass++) {
        double from = clock_seconds();
        weft_parallel(s, n, 1, fn, j);
        double took = clock_seconds() - from;
        if (took > 0 && work / took > best)
            best = work / took;
    }
    return best;
}

double ceiling_read(weft_stream *s, int cpu_level, int64_t bytes, double seconds) {
    static void (*const loops[WEFT_CPU_LEVELS])(const char *, int64_t, float *) = LEVELS_(
        read_portable, read_avx2, read_avx512);
    float sink[WEFT_MAX_THREADS * 16];
    int64_t n = bytes < PIECE ? 1 : bytes / PIECE;
    size_t size = (size_t)(n * PIECE);
    char *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return 0;
    madvise(data, size, MADV_HUGEPAGE);
    memset(data, 1, size);
    ceiling_job j = {.data = data, .pieces = n, .sink = sink, .read = loops[cpu_level]};
    int64_t pass = n < 64 ? 64 / n * n : n; /* outweighs waking the threads */
    double best = best_of(s, read_pieces, &j, pass, (double)(pass * PIECE), seconds);
    munmap(data, size);
    return best;
}

static double chains_per_second(weft_stream *s, double (*chains)(float *), double seconds) {
    float sink[WEFT_MAX_THREADS * 16] = {0};
    ceiling_job j = {.sink = sink, .chains = chains};
    int64_t n = 16 * (int64_t)s->threads;
    return best_of(s, chain_pieces, &j, n, (double)n * chains(sink), seconds);
}

double ceiling_fma(weft_stream *s, int cpu_level, double seconds) {
    static double (*const loops[WEFT_CPU_LEVELS])(float *) = LEVELS_(chains_portable, chains_avx2,
                                                                     chains_avx512);
    return chains_per_second(s, loops[cpu_level], seconds);
}

double ceiling_bf16(weft_stream *s, int cpu_level, double seconds) {
    return cpu_level < WEFT_CPU_AVX512BF16 ? 0 : chains_per_second(s, chains_bf16, seconds);
}
