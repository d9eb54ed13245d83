/* SPDX-License-Identifier: Apache-2.0
 * The emulator against the PTX ISA's definitions: matrix fragments, conversions, warp operations,
 * barriers, atomics, cooperative launches, counters. Expected values are computed here, from whole
 * matrices and from the formats' definitions. */
#include "bench/probe_model.h"
#include "kernels/emu/warp.h"
#include "kernels/lib/types.cuh"
#include "tests/unit/emu.h"
#include "weft/rng.h"
#include <ptx_sm90.cuh>
#include <unistd.h>

using namespace WEFT_CU_NS;

static weft_emu_stream *stream;

/* ---- matrix instructions ---- */

struct fragments {
    uint32_t a[32][4], b[32][2];
    uint32_t c[32][4], d[32][4]; /* fp32 or s32 bits */
};

template <int KIND> __global__ void mma_k(fragments *f) {
    int l = threadIdx.x;
    uint32_t a[4], b[2];
    float c[4], d[4];
    int32_t ci[4], di[4];
    memcpy(a, f->a[l], sizeof a);
    memcpy(b, f->b[l], sizeof b);
    memcpy(c, f->c[l], sizeof c);
    memcpy(ci, f->c[l], sizeof ci);
    if (KIND == 0)
        mma_m16n8k16_bf16(d, a, b, c);
    else if (KIND == 1)
        mma_m16n8k16_f16(d, a, b, c);
    else if (KIND == 2)
        mma_m16n8k8_tf32(d, a, b, c);
    else
        mma_m16n8k32_s8(di, a, b, ci);
    if (KIND == 3)
        memcpy(f->d[l], di, sizeof di);
    else
        memcpy(f->d[l], d, sizeof d);
}

/* Small integers: every product and sum is exact in any order. */
static int small(int i, int j, int seed) {
    return (i * 7 + j * 13 + seed * 5 + i * j) % 15 - 7;
}

static uint32_t element(int kind, int v) {
    if (kind == 0)
        return weft_f32_to_bf16((float)v);
    if (kind == 1)
        return weft_f32_to_f16((float)v);
    return kind == 2 ? weft_f32_bits((float)v) : (uint32_t)v & 0xffu;
}

/* "Matrix Fragments for mma.m16n8k16 / k8 / k32": element i of a lane's a has row group (+ 8 where
 * odd registers are) and column (lane % 4) * per + ..., per elements in a register. */
static void pack(int kind, fragments *f) {
    int per = kind == 2 ? 1 : kind == 3 ? 4 : 2, bits = 32 / per;
    memset(f, 0, sizeof *f);
    for (int l = 0; l < 32; l++) {
        for (int i = 0; i < 4 * per; i++) {
            int row = i / per % 2 == 0 ? l / 4 : l / 4 + 8;
            int col = l % 4 * per + i % per + (i / per < 2 ? 0 : 4 * per);
            f->a[l][i / per] |= element(kind, small(row, col, 1)) << bits * (i % per);
        }
        for (int i = 0; i < 2 * per; i++) {
            int k = l % 4 * per + i % per + (i < per ? 0 : 4 * per);
            f->b[l][i / per] |= element(kind, small(k, l / 4, 2)) << bits * (i % per);
        }
        for (int i = 0; i < 4; i++) {
            int c = small(l / 4 + (i < 2 ? 0 : 8), l % 4 * 2 + i % 2, 3);
            f->c[l][i] = kind == 3 ? (uint32_t)c : weft_f32_bits((float)c);
        }
    }
}

template <int KIND> static void check_mma() {
    int depth = KIND == 2 ? 8 : KIND == 3 ? 32 : 16;
    static fragments f;
    pack(KIND, &f);
    WEFT_LAUNCH(NULL, &stream->head, (mma_k<KIND>), 1, 32, 0, &f);
    emu_ok(stream);
    for (int row = 0; row < 16; row++)
        for (int col = 0; col < 8; col++) {
            int sum = small(row, col, 3), l = row % 8 * 4 + col / 2, i = row / 8 * 2 + col % 2;
            for (int k = 0; k < depth; k++)
                sum += small(row, k, 1) * small(k, col, 2);
            int got = KIND == 3 ? (int)f.d[l][i] : (int)weft_bits_f32(f.d[l][i]);
            assert_int_equal(got, sum);
        }
}

/* Against the model that bench/probe.cu fitted to hardware: numbers of any size, that cancel, and
 * denormals. */
static float random_operand(int kind, int fill, uint64_t i) {
    weft_philox r = weft_philox4x32(7, (uint64_t)fill, i);
    float x = weft_philox_uniform(r.v[0]) * 2.0f - 1.0f;
    int spread = fill == 0 ? 0 : (int)(r.v[1] % 13u) - 6;
    x = ldexpf(x, fill == 2 ? (kind == PROBE_F16 ? -16 : -128) + spread : spread);
    return kind == PROBE_F16 ? weft_f16_to_f32(weft_f32_to_f16(x))
                             : weft_bf16_to_f32(weft_f32_to_bf16(x));
}

static void mma_adds_as_the_hardware(void **) {
    static const emu::mma_kind kinds[] = {emu::MMA_BF16, emu::MMA_F16, emu::MMA_TF32};
    int rounded = 0;
    for (int kind = 0; kind < PROBE_TYPES; kind++)
        for (int fill = 0; fill < 3; fill++)
            for (uint64_t trial = 0; trial < 200; trial++) {
                int depth = probe_k[kind];
                probe_model model = probe_aligned_sum(depth, 25, 4);
                float a[16], b[16][8], column[16], c[8], before[8], chain;
                for (int k = 0; k < depth; k++) {
                    a[k] = random_operand(kind, fill, trial * 1000 + (uint64_t)k);
                    for (int n = 0; n < 8; n++)
                        b[k][n] = random_operand(kind, fill ? 1 : 0,
                                                 trial * 1000 + 100 + (uint64_t)(k * 8 + n));
                }
                for (int n = 0; n < 8; n++)
                    before[n] = c[n] = random_operand(kind, fill, trial * 1000 + 500 + (uint64_t)n);
                emu::mma_row(kinds[kind], a, b, c, depth);
                for (int n = 0; n < 8; n++) {
                    chain = before[n];
                    for (int k = 0; k < depth; k++) {
                        column[k] = b[k][n];
                        chain += a[k] * b[k][n];
                    }
                    float want = probe_predict(&model, kind, a, column, before[n]);
                    assert_int_equal(weft_f32_bits(c[n]), weft_f32_bits(want));
                    rounded += chain != want;
                }
            }
    assert_true(rounded > 1000); /* trials that a plain chain would not pass */
}

static void mma_keeps_what_is_no_number(void **) {
    float a[16] = {1, 2}, b[16][8] = {{1, INFINITY, 1, 1, 0, 0, 0, 0}, {1, 1, NAN, -INFINITY}};
    float c[8] = {1, 1, 1, INFINITY, NAN, INFINITY, 0, -0.0f};
    emu::mma_row(emu::MMA_BF16, a, b, c, 16);
    assert_true(c[0] == 4 && c[1] == INFINITY && c[2] != c[2] && c[3] != c[3] && c[4] != c[4]);
    assert_true(c[5] == INFINITY && c[6] == 0 && c[7] == 0);
}

static void mma_multiplies_the_matrices(void **) {
    check_mma<0>();
    check_mma<1>();
    check_mma<2>();
    check_mma<3>();
}

struct tile_smem {
    uint16_t in[32][8], out[32][8];
};

/* mode 0: ldmatrix x4, 1: .trans; stmatrix takes the same fragments back. */
__global__ void matrix_k(uint32_t *r, uint16_t *back, int trans) {
    WEFT_SMEM(tile_smem, s);
    int l = threadIdx.x;
    uint32_t v[4];
    for (int i = 0; i < 8; i++)
        st_shared(&s.in[l][i], (uint16_t)(l * 8 + i));
    __syncwarp();
    if (trans)
        ldmatrix_x4_trans(v, s.in[l]);
    else
        ldmatrix_x4(v, s.in[l]);
    for (int i = 0; i < 4; i++)
        st_global(&r[l * 4 + i], v[i]);
    if (trans)
        stmatrix_x4_trans(s.out[l], v);
    else
        stmatrix_x4(s.out[l], v);
    __syncwarp();
    for (int i = 0; i < 8; i++)
        st_global(&back[l * 8 + i], ld_shared(&s.out[l][i]));
}

static void ldmatrix_and_stmatrix_place_elements(void **) {
    uint32_t r[128];
    uint16_t back[256];
    for (int trans = 0; trans < 2; trans++) {
        WEFT_LAUNCH(NULL, &stream->head, matrix_k, 1, 32, sizeof(tile_smem), r, back, trans);
        emu_ok(stream);
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < 4; i++)
                for (int h = 0; h < 2; h++) {
                    int row = trans ? l % 4 * 2 + h : l / 4, col = trans ? l / 4 : l % 4 * 2 + h;
                    assert_int_equal(r[l * 4 + i] >> 16 * h & 0xffff, (i * 8 + row) * 8 + col);
                }
        for (int i = 0; i < 256; i++)
            assert_int_equal(back[i], i);
    }
}

/* ---- conversions ---- */

/* The value of a small float's bits, by its definition. */
static double value_of(unsigned bits, int exp_bits, int man_bits, int bias) {
    unsigned e = bits >> man_bits & ((1u << exp_bits) - 1u), m = bits & ((1u << man_bits) - 1u);
    double v = e ? ldexp(1.0 + (double)m / (1u << man_bits), (int)e - bias)
                 : ldexp((double)m / (1u << man_bits), 1 - bias);
    return bits >> (exp_bits + man_bits) & 1u ? -v : v;
}

/* Every finite number is kept; between two neighbours the nearer is taken, the even one on a
 * tie. */
template <class T> static void check_type(int exp_bits, int man_bits, int bias, unsigned last) {
    for (unsigned b = 0; b <= last; b++) {
        T t = {(decltype(t.bits))b};
        double v = value_of(b, exp_bits, man_bits, bias);
        assert_true((double)to_float(t) == v);
        assert_int_equal(from_float<T>((float)v).bits, b);
        if (b == last)
            continue;
        double next = value_of(b + 1, exp_bits, man_bits, bias), mid = (v + next) / 2;
        unsigned even = b % 2 ? b + 1 : b;
        assert_int_equal(from_float<T>((float)mid).bits, even);
        assert_int_equal(from_float<T>(nextafterf((float)mid, 0)).bits, b);
        assert_int_equal(from_float<T>(nextafterf((float)mid, INFINITY)).bits, b + 1);
    }
}

static void conversions_round_to_nearest_even(void **) {
    check_type<e4m3>(4, 3, 7, 0x7e);
    check_type<e5m2>(5, 2, 15, 0x7b);
    check_type<f16>(5, 10, 15, 0x7bff);
    check_type<bf16>(8, 7, 127, 0x7f7e);
    assert_int_equal(from_float<e4m3>(1e9f).bits, 0x7e);
    assert_int_equal(from_float<e4m3>(-1e9f).bits, 0xfe);
    assert_int_equal(from_float<e4m3>(-NAN).bits & 0x7f, 0x7f);
    assert_int_equal(from_float<e5m2>(-INFINITY).bits, 0xfb);
    assert_int_equal(from_float<f16>(65520.0f).bits, 0x7c00);
    assert_int_equal(from_float<bf16>(3.4e38f).bits, 0x7f80);
    assert_int_equal(from_float<f16>(NAN).bits, 0x7fff);
}

static void cvt_to_integers_and_tf32(void **) {
    static const float x[] = {2.5f, -2.5f, 3.5f, 0.4f, -0.6f, 1e20f, -1e20f, 127.6f, -129.0f};
    static const int ni[] = {2, -2, 4, 0, -1, INT32_MAX, INT32_MIN, 128, -129};
    static const int zi[] = {2, -2, 3, 0, 0, INT32_MAX, INT32_MIN, 127, -129};
    static const int mi[] = {2, -3, 3, 0, -1, INT32_MAX, INT32_MIN, 127, -129};
    static const int pi[] = {3, -2, 4, 1, 0, INT32_MAX, INT32_MIN, 128, -129};
    static const int s8[] = {2, -2, 4, 0, -1, 127, -128, 127, -128};
    for (int i = 0; i < 9; i++) {
        assert_int_equal(cvt_rni_s32_f32(x[i]), ni[i]);
        assert_int_equal(cvt_rzi_s32_f32(x[i]), zi[i]);
        assert_int_equal(cvt_rmi_s32_f32(x[i]), mi[i]);
        assert_int_equal(cvt_rpi_s32_f32(x[i]), pi[i]);
        assert_int_equal(cvt_rni_sat_s8_f32(x[i]), s8[i]);
    }
    assert_int_equal(cvt_rni_s32_f32(NAN), 0);
    /* 10 bits of mantissa, ties away from zero. */
    assert_true(weft_bits_f32(cvt_tf32_f32(1.0f + 0x1p-11f)) == 1.0f + 0x1p-10f);
    assert_true(weft_bits_f32(cvt_tf32_f32(-1.0f - 0x1p-11f)) == -1.0f - 0x1p-10f);
    assert_true(weft_bits_f32(cvt_tf32_f32(1.0f + 0x1p-12f)) == 1.0f);
}

/* ---- warps, barriers, atomics ---- */

__global__ void warp_k(int *out) {
    int l = threadIdx.x, *o = out + l * 16;
    o[0] = __shfl_sync(~0u, l * 3, (l + 5) % 32);
    o[1] = __shfl_up_sync(~0u, l, 3, 16);
    o[2] = __shfl_down_sync(~0u, l, 3, 16);
    o[3] = __shfl_xor_sync(~0u, l, 9);
    o[4] = (int)__ballot_sync(~0u, l % 3 == 0);
    o[5] = __any_sync(~0u, l == 31);
    o[6] = __all_sync(~0u, l < 31);
    o[7] = (int)__match_any_sync(~0u, l % 4);
    o[8] = (int)__reduce_add_sync(~0u, (unsigned)l);
    o[9] = __reduce_min_sync(~0u, l - 16);
    o[10] = (int)__reduce_max_sync(~0u, (unsigned)(l - 16));
    o[11] = (int)__reduce_xor_sync(~0u, 1u << l);
    o[12] = 0;
    if (l < 8) /* a part of the warp, by its own mask */
        o[12] = __shfl_xor_sync(0xffu, l, 1);
    int all;
    o[13] = (int)__match_all_sync(~0u, 7, &all) + all;
}

static void warp_operations(void **) {
    int out[32 * 16];
    for (stream->seed = 0; stream->seed < 6; stream->seed++) {
        WEFT_LAUNCH(NULL, &stream->head, warp_k, 1, 32, 0, out);
        emu_ok(stream);
        for (int l = 0; l < 32; l++) {
            const int *o = out + l * 16;
            assert_int_equal(o[0], (l + 5) % 32 * 3);
            assert_int_equal(o[1], l % 16 < 3 ? l : l - 3);
            assert_int_equal(o[2], l % 16 > 12 ? l : l + 3);
            assert_int_equal(o[3], l ^ 9);
            assert_int_equal((unsigned)o[4], 0x49249249u);
            assert_int_equal(o[5], 1);
            assert_int_equal(o[6], 0);
            assert_int_equal((unsigned)o[7], 0x11111111u << l % 4);
            assert_int_equal(o[8], 496);
            assert_int_equal(o[9], -16);
            assert_int_equal(o[10], -1);
            assert_int_equal(o[11], -1);
            assert_int_equal(o[12], l < 8 ? l ^ 1 : 0);
            assert_int_equal(o[13], 0);
        }
    }
    stream->seed = 0;
}

__global__ void barrier_k(int *out, int *sum, unsigned long long *wide, float *f) {
    int t = threadIdx.x, *o = out + (blockIdx.x * 70 + t) * 3;
    o[0] = __syncthreads_count(t % 3 == 0);
    o[1] = __syncthreads_and(t < 70);
    o[2] = __syncthreads_or(t == 69);
    atomicAdd(sum, t);
    atomicMax(sum + 1, t);
    atomicMin(sum + 2, -t);
    atomicCAS(sum + 3, 0, t + 1);
    atomicAdd(wide, 1ull << 40);
    atomicAdd(f, 0.5f);
}

static void barriers_and_atomics(void **) {
    int out[4 * 210], sum[4] = {0, 0, 0, 0};
    unsigned long long wide = 0;
    float f = 0;
    stream->seed = 3;
    WEFT_LAUNCH(NULL, &stream->head, barrier_k, 4, 70, 0, out, sum, &wide, &f);
    emu_ok(stream);
    for (int t = 0; t < 4 * 70; t++) {
        assert_int_equal(out[t * 3], 24);
        assert_int_equal(out[t * 3 + 1], 1);
        assert_int_equal(out[t * 3 + 2], 1);
    }
    assert_int_equal(sum[0], 4 * 70 * 69 / 2);
    assert_int_equal(sum[1], 69);
    assert_int_equal(sum[2], -69);
    assert_in_range(sum[3], 1, 70);
    assert_true(wide == 280ull << 40);
    assert_true(f == 140.0f);
    stream->seed = 0;
}

/* ---- every atomic, of each type it has, in shared and in global memory ---- */

template <class T> struct atomic_smem { T v[8]; };

/* v: sum, difference, the last of an exchange, all that it displaced. */
template <class T> __device__ static void float_atomics(T *v, T x) {
    atomicAdd(&v[0], x);
    atomicAdd(&v[1], T(0) - x);
    atomicAdd(&v[3], atomicExch(&v[2], x));
}
/* And the least, the greatest, the winner of a swap. */
template <class T> __device__ static void whole_atomics(T *v, T x) {
    float_atomics(v, x);
    atomicMin(&v[4], x);
    atomicMax(&v[5], x);
    atomicCAS(&v[6], T(0), x);
}

template <class T, bool WHOLE> __global__ void atomics_k(T *global, T *from_shared) {
    WEFT_SMEM(atomic_smem<T>, s);
    T x = T(threadIdx.x % 90 + 1);
    if (threadIdx.x < 8)
        st_shared(&s.v[threadIdx.x], threadIdx.x == 4 ? T(1000) : T(0));
    __syncthreads();
    if constexpr (WHOLE) {
        whole_atomics(s.v, x);
        whole_atomics(global, x);
    } else {
        float_atomics(s.v, x);
        float_atomics(global, x);
    }
    __syncthreads();
    if (threadIdx.x < 7)
        st_global(&from_shared[threadIdx.x], ld_shared(&s.v[threadIdx.x]));
}

template <class T, bool WHOLE> static void check_atomics_at(const T *v) {
    assert_true(v[0] == T(4095) && T(v[0] + v[1]) == T(0));
    assert_true(v[2] >= T(1) && v[2] <= T(90) && T(v[3] + v[2]) == T(4095));
    if (WHOLE) {
        assert_true(v[4] == T(1) && v[5] == T(90));
        assert_true(v[6] >= T(1) && v[6] <= T(90));
    }
}

template <class T, bool WHOLE> static void check_atomics() {
    for (stream->seed = 0; stream->seed < 4; stream->seed++) {
        T global[8] = {T(0), T(0), T(0), T(0), T(1000)}, shared[8] = {};
        WEFT_LAUNCH(NULL, &stream->head, (atomics_k<T, WHOLE>), 1, 90, sizeof(atomic_smem<T>),
                    global, shared);
        emu_ok(stream);
        check_atomics_at<T, WHOLE>(global);
        check_atomics_at<T, WHOLE>(shared);
    }
    stream->seed = 0;
}

__global__ void bit_atomics_k(unsigned *v, unsigned long long *w) {
    unsigned t = threadIdx.x;
    atomicOr(&v[0], 1u << t % 32);
    atomicAnd(&v[1], ~(1u << t % 32));
    atomicXor(&v[2], t);
    atomicSub(&v[3], t);
    atomicInc(&v[4], 6); /* 0 1 .. 6 0 1 .. */
    atomicDec(&v[5], 6); /* 0 6 5 .. 0 6 .. */
    atomicOr(&w[0], 1ull << t % 64);
    atomicXor(&w[1], (unsigned long long)t << 40);
}

static void atomics_of_all_types(void **) {
    check_atomics<int, true>();
    check_atomics<unsigned, true>();
    check_atomics<unsigned long long, true>();
    check_atomics<float, false>();
    check_atomics<double, false>();
    unsigned v[6] = {0, ~0u, 0, 0, 0, 0}, all = 0;
    unsigned long long w[2] = {0, 0};
    WEFT_LAUNCH(NULL, &stream->head, bit_atomics_k, 1, 96, 0, v, w);
    emu_ok(stream);
    for (unsigned t = 0; t < 96; t++)
        all ^= t;
    assert_true(v[0] == ~0u && v[1] == 0 && v[2] == all && v[3] == 0u - 96 * 95 / 2);
    assert_int_equal(v[4], 96 % 7);
    assert_int_equal(v[5], (7 - 96 % 7) % 7);
    assert_true(w[0] == ~0ull && w[1] == (unsigned long long)all << 40);
}

/* ---- shuffles of every width of value; the rest of reduce and match ---- */

__global__ void wide_shuffles_k(double *d, unsigned long long *u, int *o) {
    int l = threadIdx.x;
    d[l] = __shfl_xor_sync(~0u, 1.0 / (l + 1), 7);
    u[l] = __shfl_sync(~0u, ~0ull / (unsigned)(l + 1), 31 - l);
    float f = __shfl_down_sync(~0u, 0.5f * (float)l, 1);
    o[l * 6] = (int)(2 * f);
    o[l * 6 + 1] = (int)__reduce_and_sync(~0u, ~(1u << l % 16));
    o[l * 6 + 2] = (int)__reduce_or_sync(~0u, 1u << l / 2);
    o[l * 6 + 3] = (int)__match_any_sync(~0u, (unsigned long long)(l / 8) << 40);
    int same;
    o[l * 6 + 4] = (int)__match_all_sync(~0u, l * 0 + 5, &same) * same;
    o[l * 6 + 5] = (int)__reduce_max_sync(l < 16 ? 0xffffu : 0xffff0000u, -l);
}

static void wide_values_and_partial_masks(void **) {
    double d[32];
    unsigned long long u[32];
    int o[32 * 6];
    for (stream->seed = 0; stream->seed < 4; stream->seed++) {
        WEFT_LAUNCH(NULL, &stream->head, wide_shuffles_k, 1, 32, 0, d, u, o);
        emu_ok(stream);
        for (int l = 0; l < 32; l++) {
            assert_true(d[l] == 1.0 / ((l ^ 7) + 1));
            assert_true(u[l] == ~0ull / (unsigned)(32 - l));
            assert_int_equal(o[l * 6], l < 31 ? l + 1 : 31);
            assert_int_equal((unsigned)o[l * 6 + 1], 0xffff0000u);
            assert_int_equal(o[l * 6 + 2], 0xffff);
            assert_int_equal((unsigned)o[l * 6 + 3], 0xffu << l / 8 * 8);
            assert_int_equal((unsigned)o[l * 6 + 4], ~0u);
            assert_int_equal(o[l * 6 + 5], l < 16 ? 0 : -16);
        }
    }
    stream->seed = 0;
}

/* Each block reads what all others wrote before the grid's barrier. */
__global__ void grid_k(int *part, int *out) {
    if (threadIdx.x == 0)
        st_global(&part[blockIdx.x], (int)blockIdx.x + 1);
    grid_sync();
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++)
        sum += ld_global(&part[i]);
    st_global(&out[blockIdx.x * blockDim.x + threadIdx.x], sum);
}

static void cooperative_blocks_meet(void **) {
    int part[12], out[12 * 40];
    for (stream->seed = 0; stream->seed < 4; stream->seed++) {
        memset(part, 0, sizeof part);
        WEFT_LAUNCH_COOPERATIVE(NULL, &stream->head, grid_k, 12, 40, 0, part, out);
        emu_ok(stream);
        for (int i = 0; i < 12 * 40; i++)
            assert_int_equal(out[i], 78);
    }
    stream->seed = 0;
}

/* ---- clusters ---- */

struct ring_smem {
    uint32_t own[64], sent[64];
};

/* Each block reads the next one's numbers and writes into the one before it. */
__global__ void ring_k(uint32_t *out) {
    WEFT_SMEM(ring_smem, s);
    unsigned t = threadIdx.x, n = cluster_size(), me = cluster_rank();
    unsigned block = blockIdx.x + gridDim.x * blockIdx.y;
    st_shared(&s.own[t], block * 100 + t);
    cluster_sync();
    uint32_t next = ld_cluster(&s.own[t], (me + 1) % n);
    st_cluster(&s.sent[t], (me + n - 1) % n, block * 1000 + t);
    cluster_sync();
    st_global(&out[(block * 64 + t) * 3], next);
    st_global(&out[(block * 64 + t) * 3 + 1], ld_shared(&s.sent[t]));
    st_global(&out[(block * 64 + t) * 3 + 2], me << 8 | n);
}

/* Cluster (x, y) of a grid is blocks x dx .., y dy ..; ranks count along x first. */
static void check_ring(dim3 grid, dim3 cluster) {
    static uint32_t out[16 * 64 * 3];
    memset(out, 0xff, sizeof out);
    WEFT_LAUNCH_CLUSTER(NULL, &stream->head, ring_k, grid, 64, cluster, sizeof(ring_smem), out);
    emu_ok(stream);
    unsigned n = cluster.x * cluster.y;
    auto number = [&](unsigned x0, unsigned y0, unsigned rank) {
        return x0 + rank % cluster.x + grid.x * (y0 + rank / cluster.x);
    };
    for (unsigned y0 = 0; y0 < grid.y; y0 += cluster.y)
        for (unsigned x0 = 0; x0 < grid.x; x0 += cluster.x)
            for (unsigned r = 0; r < n; r++)
                for (unsigned t = 0; t < 64; t++) {
                    const uint32_t *o = &out[(number(x0, y0, r) * 64 + t) * 3];
                    unsigned next = number(x0, y0, (r + 1) % n);
                    assert_int_equal(o[0], next * 100 + t);
                    assert_int_equal(o[1], next * 1000 + t);
                    assert_int_equal(o[2], r << 8 | n);
                }
}

static void clusters_share_memory(void **) {
    for (stream->seed = 0; stream->seed < 4; stream->seed++) {
        check_ring(16, 8);
        check_ring(6, 2);
        check_ring(dim3(4, 4), dim3(2, 2));
        check_ring(3, 1);
    }
    stream->seed = 0;
}

/* ---- clocks, printf ---- */

__global__ void clock_k(uint64_t *out) {
    long long first = clock64();
    uint64_t time = globaltimer();
    int32_t low = (int32_t)clock();
    uint32_t past = 0;
    for (int i = 0; i < 1000; i++) /* the lower half of the clock ends meanwhile */
        past = (uint32_t)clock() - (uint32_t)low;
    out[0] = past;
    out[1] = (uint64_t)(clock64() - first);
    out[2] = (uint64_t)((int32_t)clock() < low);
    while (globaltimer() - time < 2000000)
        ;
    out[3] = globaltimer() - time;
}

static void clocks_go_on(void **) {
    uint64_t out[4];
    WEFT_LAUNCH(NULL, &stream->head, clock_k, 1, 1, 0, out);
    emu_ok(stream);
    assert_true(out[0] >= 1000 && out[0] < 1u << 31);
    assert_true(out[1] > out[0]);
    assert_true(out[3] >= 2000000 && out[3] < 60000000000u);
    clock_t host = clock(); /* the host's own */
    assert_true(host >= 0 && clock() - host < 60 * CLOCKS_PER_SEC);
}

__global__ void print_k(int *n) {
    n[0] = printf("%d of %u%%: %5.2f|%-4s|%*d\n", -3, 7u, 1.5, "ab", 4, 9);
    n[1] = printf("%lld %lx %hd\n", 1ll << 40, 255ul, (short)-2);
    n[2] = printf("no more\n");
}

/* What `body` prints. */
template <class F> static const char *printed(F body) {
    static char text[256];
    FILE *to = tmpfile();
    int kept = dup(1);
    assert_true(to && kept >= 0 && !fflush(stdout) && dup2(fileno(to), 1) == 1);
    body();
    fflush(stdout);
    assert_int_equal(dup2(kept, 1), 1);
    close(kept);
    rewind(to);
    text[fread(text, 1, sizeof text - 1, to)] = 0;
    fclose(to);
    return text;
}

static void kernels_print(void **) {
    int n[3];
    const char *text = printed([&] { WEFT_LAUNCH(NULL, &stream->head, print_k, 1, 1, 0, n); });
    emu_ok(stream);
    assert_string_equal(text, "-3 of 7%:  1.50|ab  |   9\n1099511627776 ff -2\nno more\n");
    assert_true(n[0] == 6 && n[1] == 3 && n[2] == 0); /* arguments, not bytes */
    assert_string_equal(printed([&] { n[0] = printf("%d\n", 5); }), "5\n");
    assert_int_equal(n[0], 2); /* the host's own */
}

/* By pointer: the host's compiler would know better. */
__global__ void bad_print_k(const char *fmt) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
    printf(fmt, 1, 2);
#pragma GCC diagnostic pop
}

__global__ void long_print_k() {
    printf("%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d", 1, 2, 3, 4, 5, 6,
           7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
           30, 31, 32, 33);
}

static void printf_is_a_gpus(void **) {
    static const char *const bad[][2] = {{"%zu", "'%z'"},    {"%d %.*f", "'%.*'"}, {"%d %", "'%'"},
                                         {"%Lf", "'%L'"},    {"%hhd", "'%hh'"},    {"%n", "'%n'"},
                                         {"%llld", "'%lll'"}};
    for (const char *const *b : bad)
        emu_fails(stream, b[1],
                  [&] { WEFT_LAUNCH(NULL, &stream->head, bad_print_k, 1, 1, 0, b[0]); });
    emu_fails(stream, "33 arguments",
              [] { WEFT_LAUNCH(NULL, &stream->head, long_print_k, 1, 1, 0); });
}

/* ---- counters ---- */

struct bank_smem {
    float v[32 * 32];
};

__global__ void count_k(const float *x, float *y, int stride, int bank) {
    WEFT_SMEM(bank_smem, s);
    int t = threadIdx.x;
    float v = ld_const(&x[t * stride]);
    st_shared(&s.v[t * bank], v);
    __syncthreads();
    st_global(&y[t], ld_shared(&s.v[t * bank]));
}

static void counters_see_sectors_and_conflicts(void **) {
    static float x[1024] __attribute__((aligned(128))), y[32] __attribute__((aligned(128)));
    stream->profile = 1;
    WEFT_LAUNCH(NULL, &stream->head, count_k, 1, 32, sizeof(bank_smem), x, y, 1, 1);
    emu_ok(stream);
    assert_int_equal(stream->last.read_bytes, 128);
    assert_int_equal(stream->last.written_bytes, 128);
    assert_int_equal(stream->last.requests, 2);
    assert_int_equal(stream->last.sectors, 8);
    assert_int_equal(stream->last.shared_requests, 2);
    assert_int_equal(stream->last.shared_passes, 2);
    assert_int_equal(stream->last.barriers, 1);
    WEFT_LAUNCH(NULL, &stream->head, count_k, 1, 32, sizeof(bank_smem), x, y, 8, 32);
    emu_ok(stream);
    assert_int_equal(stream->last.sectors, 32 + 4);
    assert_int_equal(stream->last.shared_passes, 64);
    WEFT_LAUNCH(NULL, &stream->head, count_k, 1, 32, sizeof(bank_smem), x, y, 1, 2);
    emu_ok(stream);
    assert_int_equal(stream->last.shared_passes, 4);
    stream->profile = 0;
}

/* Two groups of copies a thread are under way at most; each of the grid's blocks counts alike. */
struct flight_smem {
    uint4 v[3][32];
};

__global__ void flight_k(const uint4 *x, uint4 *y) {
    WEFT_SMEM(flight_smem, s);
    int t = threadIdx.x;
    for (int i = 0; i < 3; i++) {
        cp_async16(&s.v[i][t], &x[i * 32 + t]);
        cp_async_commit();
        if (i)
            cp_async_wait<1>();
    }
    cp_async_wait<0>();
    st_global(&y[blockIdx.x * 32 + t], ld_shared(&s.v[2][t]));
}

static void samples_stand_for_the_grid(void **) {
    static uint4 x[96] __attribute__((aligned(128))), y[10 * 32] __attribute__((aligned(128)));
    memset(y, 0xff, sizeof y);
    stream->profile = 1;
    for (stream->sample = 0; stream->sample < 8; stream->sample += 3) {
        stream->launched = 0;
        WEFT_LAUNCH(NULL, &stream->head, flight_k, 10, 32, sizeof(flight_smem), x, y);
        emu_ok(stream);
        const weft_emu_launch *l = &stream->launch[0];
        assert_int_equal(stream->launched, 1);
        assert_int_equal(l->ran, stream->sample ? stream->sample : 10);
        assert_int_equal(l->count.blocks, 10);
        assert_int_equal(l->count.async_bytes, 10 * 3 * 512);
        assert_int_equal(l->count.written_bytes, 10 * 512);
        assert_int_equal(l->async_flight, 2 * 512);
        assert_non_null(strstr(l->kernel, "flight_k"));
        assert_true(l->grid[0] == 10 && l->block[0] == 32 && l->shared == sizeof(flight_smem));
    }
    stream->sample = stream->profile = 0;
}

/* ---- launches that the driver would refuse ---- */

__global__ void nothing_k() {
}

static void bad_launches_are_named(void **) {
    emu_fails(stream, "invalid block size",
              [] { WEFT_LAUNCH(NULL, &stream->head, nothing_k, 1, 1025, 0); });
    emu_fails(stream, "invalid grid size",
              [] { WEFT_LAUNCH(NULL, &stream->head, nothing_k, 0, 32, 0); });
    emu_fails(stream, "invalid grid size",
              [] { WEFT_LAUNCH(NULL, &stream->head, nothing_k, dim3(1, 65536), 32, 0); });
    emu_fails(stream, "shared memory",
              [] { WEFT_LAUNCH(NULL, &stream->head, nothing_k, 1, 32, 228 << 10); });
    emu_fails(stream, "whole clusters",
              [] { WEFT_LAUNCH_CLUSTER(NULL, &stream->head, nothing_k, 6, 32, 4, 0); });
    emu_fails(stream, "more than 8 blocks",
              [] { WEFT_LAUNCH_CLUSTER(NULL, &stream->head, nothing_k, 16, 32, 16, 0); });
    emu_fails(stream, "not cooperative", [] {
        int a[1], b[32];
        WEFT_LAUNCH(NULL, &stream->head, grid_k, 1, 32, 0, a, b);
    });
}

int main() {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mma_multiplies_the_matrices),
        cmocka_unit_test(mma_adds_as_the_hardware),
        cmocka_unit_test(mma_keeps_what_is_no_number),
        cmocka_unit_test(ldmatrix_and_stmatrix_place_elements),
        cmocka_unit_test(conversions_round_to_nearest_even),
        cmocka_unit_test(cvt_to_integers_and_tf32),
        cmocka_unit_test(warp_operations),
        cmocka_unit_test(barriers_and_atomics),
        cmocka_unit_test(atomics_of_all_types),
        cmocka_unit_test(wide_values_and_partial_masks),
        cmocka_unit_test(cooperative_blocks_meet),
        cmocka_unit_test(clusters_share_memory),
        cmocka_unit_test(clocks_go_on),
        cmocka_unit_test(kernels_print),
        cmocka_unit_test(printf_is_a_gpus),
        cmocka_unit_test(counters_see_sectors_and_conflicts),
        cmocka_unit_test(samples_stand_for_the_grid),
        cmocka_unit_test(bad_launches_are_named),
    };
    stream = emu_stream_open(2);
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    emu_stream_close(stream);
    return rc;
}
