/* SPDX-License-Identifier: Apache-2.0
 * Matrix instructions, once per warp when its last lane arrives. Lane l has group g = l / 4 and
 * place p = l % 4 in it; the layouts are the PTX ISA's "Matrix Fragments" of each shape. */
#include "kernels/emu/warp.h"
#include "kernels/emu/internal.h"
#include "weft/math.h"

namespace emu {

struct mma_arg {
    void *d;
    const uint32_t *a, *b;
    const void *c;
};

static const uint32_t whole_warp = 0xffffffffu;

static float half_of(mma_kind kind, uint32_t word, int i) {
    uint16_t h = (uint16_t)(word >> 16 * i);
    return kind == MMA_BF16 ? weft_bf16_to_f32(h) : weft_f16_to_f32(h);
}

/* m16n8k16: a0 (g, 2p..) a1 (g + 8, 2p..) a2 (g, 2p + 8..) a3 (g + 8, 2p + 8..); b0 (2p.., g)
 * b1 (2p + 8.., g). */
static void load_halves(mma_kind kind, void *const arg[32], float a[16][16], float b[16][8]) {
    for (int l = 0; l < 32; l++) {
        const mma_arg *m = (const mma_arg *)arg[l];
        int g = l / 4, p = l % 4;
        for (int i = 0; i < 8; i++)
            a[g + i / 2 % 2 * 8][2 * p + i % 2 + i / 4 * 8] = half_of(kind, m->a[i / 2], i % 2);
        for (int i = 0; i < 4; i++)
            b[2 * p + i % 2 + i / 2 * 8][g] = half_of(kind, m->b[i / 2], i % 2);
    }
}

/* The low 13 bits are ignored. */
static float tf32(uint32_t word) {
    return weft_bits_f32(word & ~0x1fffu);
}

/* m16n8k8: a0 (g, p) a1 (g + 8, p) a2 (g, p + 4) a3 (g + 8, p + 4); b0 (p, g) b1 (p + 4, g). */
static void load_tf32(void *const arg[32], float a[16][16], float b[16][8]) {
    for (int l = 0; l < 32; l++) {
        const mma_arg *m = (const mma_arg *)arg[l];
        int g = l / 4, p = l % 4;
        for (int i = 0; i < 4; i++)
            a[g + i % 2 * 8][p + i / 2 * 4] = tf32(m->a[i]);
        for (int i = 0; i < 2; i++)
            b[p + i * 4][g] = tf32(m->b[i]);
    }
}

/* The exponent a significand is aligned by; denormals share the least one of their type, and
 * infinities and NaN are INFINITE. */
enum { NO_EXPONENT = -100000, INFINITE = 128, SUM_BITS = 25 };
static int exponent(float x, int least) {
    int e = (int)(weft_f32_bits(x) >> 23 & 255u) - 127;
    return e < least ? least : e;
}

static double power_of_two(int e) {
    return weft_bits_f64((uint64_t)(1023 + e) << 52);
}

/* The largest exponent among accumulator and products that are not zero; INFINITE or more if one of
 * them is no number. */
static void align(const float *a, const float (*b)[8], const float c[8], int depth, int least,
                  double product[16][8], int most[8]) {
    for (int n = 0; n < 8; n++)
        most[n] = c[n] == 0 ? (int)NO_EXPONENT : exponent(c[n], -126);
    for (int k = 0; k < depth; k++) {
        int ea = exponent(a[k], least), wild = ea == INFINITE ? 1000 : 0;
        for (int n = 0; n < 8; n++) {
            int eb = exponent(b[k][n], least), e = ea + eb;
            product[k][n] = (double)a[k] * b[k][n];
            e = product[k][n] == 0 ? (int)NO_EXPONENT : e;
            e = wild || eb == INFINITE ? 1000 : e;
            most[n] = e > most[n] ? e : most[n];
        }
    }
    for (int n = 0; n < 8; n++)
        most[n] = exponent(c[n], -126) == INFINITE ? 1000 : most[n];
}

void mma_row(mma_kind kind, const float *a, const float (*b)[8], float c[8], int depth) {
    double product[16][8], sum[8], scale[8], plain[8];
    int most[8];
    align(a, b, c, depth, kind == MMA_F16 ? -14 : -126, product, most);
    for (int n = 0; n < 8; n++) {
        bool any = most[n] > NO_EXPONENT && most[n] < 1000;
        scale[n] = any ? power_of_two(SUM_BITS - most[n]) : 0;
        sum[n] = any ? (double)(int32_t)((double)c[n] * scale[n]) : 0;
        plain[n] = (double)c[n];
    }
    for (int k = 0; k < depth; k++)
        for (int n = 0; n < 8; n++) { /* an int32 holds 2 + 25 bits; converting cuts towards 0 */
            sum[n] += scale[n] > 0 ? (double)(int32_t)(product[k][n] * scale[n]) : 0;
            plain[n] += product[k][n];
        }
    for (int n = 0; n < 8; n++) {
        bool number = most[n] < 1000;
        double v = scale[n] > 0 ? sum[n] * power_of_two(most[n] - SUM_BITS) : 0;
        c[n] = number ? (float)v : (float)plain[n];
    }
}

/* c0 (g, 2p) c1 (g, 2p + 1) c2 (g + 8, 2p) c3 (g + 8, 2p + 1). */
static void mma_float(mma_kind kind, void *const arg[32]) {
    float a[16][16], b[16][8], row[8];
    int depth = kind == MMA_TF32 ? 8 : 16;
    if (kind == MMA_TF32)
        load_tf32(arg, a, b);
    else
        load_halves(kind, arg, a, b);
    for (int m = 0; m < 16; m++) {
        for (int n = 0; n < 8; n++)
            row[n] = ((const float *)((mma_arg *)arg[m % 8 * 4 + n / 2])->c)[m / 8 * 2 + n % 2];
        mma_row(kind, a[m], b, row, depth);
        for (int n = 0; n < 8; n++)
            ((float *)((mma_arg *)arg[m % 8 * 4 + n / 2])->d)[m / 8 * 2 + n % 2] = row[n];
    }
}

/* m16n8k32: as k16, four bytes in the place of two halves. */
static void mma_s8(void *const arg[32]) {
    int8_t a[16][32], b[32][8];
    for (int l = 0; l < 32; l++) {
        const mma_arg *m = (const mma_arg *)arg[l];
        int g = l / 4, p = l % 4;
        for (int i = 0; i < 16; i++)
            a[g + i / 4 % 2 * 8][4 * p + i % 4 + i / 8 * 16] = (int8_t)(m->a[i / 4] >> 8 * (i % 4));
        for (int i = 0; i < 8; i++)
            b[4 * p + i % 4 + i / 4 * 16][g] = (int8_t)(m->b[i / 4] >> 8 * (i % 4));
    }
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            mma_arg *lane = (mma_arg *)arg[m % 8 * 4 + n / 2];
            int i = m / 8 * 2 + n % 2;
            uint32_t sum = (uint32_t)((const int32_t *)lane->c)[i]; /* wraps */
            for (int k = 0; k < 32; k++)
                sum += (uint32_t)(a[m][k] * b[k][n]);
            ((int32_t *)lane->d)[i] = (int32_t)sum;
        }
}

template <mma_kind kind> static void mma_lanes(void *const arg[32], uint32_t) {
    kind == MMA_S8 ? mma_s8(arg) : mma_float(kind, arg);
    count_mma();
}

/* .aligned: every lane executes it. */
static void all_lanes(const char *what, site at) {
    const thread *t = current();
    if (t->grp->warps[t->warp].exists != whole_warp)
        fail(at, "%s in a warp of fewer than 32 threads", what);
}

void mma(mma_kind kind, void *d, const uint32_t *a, const uint32_t *b, const void *c, site at) {
    static warp_fn *const fn[] = {mma_lanes<MMA_BF16>, mma_lanes<MMA_F16>, mma_lanes<MMA_TF32>,
                                  mma_lanes<MMA_S8>};
    mma_arg m = {d, a, b, c};
    all_lanes("mma.sync", at);
    warp_op(fn[kind], "mma.sync", whole_warp, &m, at);
}

struct matrix_arg {
    uint32_t *r;
    const uint32_t *in;
    const void *row;
    int matrices;
    bool trans;
};

/* Element (row, column) of matrix i: which lane and half hold it. */
static int holder(bool trans, int row, int col, int *half) {
    int major = trans ? col : row, minor = trans ? row : col;
    *half = minor % 2;
    return major * 4 + minor / 2;
}

static void move_element(void *const arg[32], int i, int row, int col, bool load) {
    const matrix_arg *from = (const matrix_arg *)arg[i * 8 + row];
    uint16_t *memory = (uint16_t *)from->row + col;
    int half;
    matrix_arg *lane = (matrix_arg *)arg[holder(from->trans, row, col, &half)];
    if (load)
        lane->r[i] = (lane->r[i] & ~(0xffffu << 16 * half)) | (uint32_t)*memory << 16 * half;
    else
        *memory = (uint16_t)(lane->in[i] >> 16 * half);
}

static void move_lanes(void *const arg[32], bool load) {
    int matrices = ((matrix_arg *)arg[0])->matrices;
    for (int i = 0; i < matrices; i++)
        for (int row = 0; row < 8; row++)
            for (int col = 0; col < 8; col++)
                move_element(arg, i, row, col, load);
}

static void load_lanes(void *const arg[32], uint32_t) {
    move_lanes(arg, true);
}
static void store_lanes(void *const arg[32], uint32_t) {
    move_lanes(arg, false);
}

/* Rows of matrices that are not asked for need no address. */
static void row_access(const void *row, int matrices, access how, site at) {
    if (warp_lane() < 8 * matrices)
        shared_access(row, 16, 16, how, at);
}

void ldmatrix(uint32_t *r, const void *row, int matrices, bool trans, site at) {
    matrix_arg m = {r, NULL, row, matrices, trans};
    all_lanes("ldmatrix", at);
    row_access(row, matrices, LOAD, at);
    warp_op(load_lanes, "ldmatrix", whole_warp, &m, at);
}

void stmatrix(void *row, const uint32_t *r, int matrices, bool trans, site at) {
    matrix_arg m = {NULL, r, row, matrices, trans};
    all_lanes("stmatrix", at);
    row_access(row, matrices, STORE, at);
    warp_op(store_lanes, "stmatrix", whole_warp, &m, at);
}

} // namespace emu
