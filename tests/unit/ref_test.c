/* SPDX-License-Identifier: Apache-2.0
 * The reference kernels against what they are defined to be, in long double from libm, and against
 * the bits that the contract promises for other layouts of the same numbers. */
#include "tests/unit/rig.h"

#include "weft/math.h"

typedef long double real;

static int64_t elements(const weft_tensor *t) {
    return weft_tensor_count(t);
}

/* The elements of a contiguous tensor, of any float type, as float. */
static void to_floats(const weft_tensor *t, float *out) {
    for (int64_t i = 0; i < elements(t); i++) {
        uint16_t h;
        memcpy(&h, (const char *)t->data + 2 * (t->dtype == WEFT_F32 ? 0 : i), 2);
        if (t->dtype == WEFT_F32)
            out[i] = ((const float *)t->data)[i];
        else
            out[i] = t->dtype == WEFT_BF16 ? weft_bf16_to_f32(h) : weft_f16_to_f32(h);
    }
}

static void from_floats(const weft_tensor *t, const float *in) {
    for (int64_t i = 0; i < elements(t); i++)
        if (t->dtype == WEFT_F32)
            ((float *)t->data)[i] = in[i];
        else
            ((uint16_t *)t->data)[i] = t->dtype == WEFT_BF16 ? weft_f32_to_bf16(in[i])
                                                             : weft_f32_to_f16(in[i]);
}

static const int types[3] = {WEFT_F32, WEFT_F16, WEFT_BF16};
static const double half_ulp[3] = {6e-8, 4.9e-4, 3.95e-3}; /* relative, normal numbers */

/* ---- embed, gather, cast, add ---- */

CASE(embed_looks_up_and_never_outside) {
    float w[4][2] = {{1, 2}, {-0.0f, 4}, {5, 6}, {7, 8}}, y[7][2];
    int32_t ids[7] = {10, 11, 13, 14, 9, -2, -9}, last[3] = {-1, 12, 0}, rows = 6;
    weft_args a = {0};
    fill_value(&y[0][0], 14, 99);
    a.embed.ids = view(WEFT_I32, ids, DIMS(7));
    a.embed.w = view(WEFT_F32, w, DIMS(4, 2));
    a.embed.last = view(WEFT_I32, last, DIMS(3));
    a.embed.rows = view(WEFT_I32, &rows, DIMS(1));
    a.embed.y = view(WEFT_F32, y, DIMS(7, 2));
    a.embed.row0 = 10;
    run(WEFT_OP_embed, &a);
    float want[7][2] = {{1, 2}, {0, 4}, {7, 8}, {0, 0}, {0, 0}, {5, 6}, {99, 99}};
    assert_memory_equal(y, want, sizeof y); /* the bits: -0 became +0 */
    rows = 7;
    run(WEFT_OP_embed, &a);
    assert_true(y[6][0] == 0 && y[6][1] == 0); /* a slot that does not exist */
    ids[5] = -1;
    run(WEFT_OP_embed, &a);
    assert_true(y[5][0] == 0 && y[5][1] == 0); /* a slot whose last draw failed */
}

CASE(gather_and_cast_move_rows_and_types) {
    float x[3][2] = {{1, 2}, {3, 1.00390625f}, {5, 65520}}, y[2][2];
    uint16_t h[3][2];
    int32_t index[2] = {2, 0}, ints[3][2] = {{1, -2}, {3, 4}, {5, 6}}, out[2][2];
    weft_args a = {0};
    a.gather.x = view(WEFT_F32, x, DIMS(3, 2));
    a.gather.index = view(WEFT_I32, index, DIMS(2));
    a.gather.y = view(WEFT_F32, y, DIMS(2, 2));
    run(WEFT_OP_gather, &a);
    assert_true(y[0][0] == 5 && y[0][1] == 65520 && y[1][0] == 1 && y[1][1] == 2);
    a.gather.x = view(WEFT_I32, ints, DIMS(3, 2));
    a.gather.y = view(WEFT_I32, out, DIMS(2, 2));
    run(WEFT_OP_gather, &a);
    assert_true(out[0][0] == 5 && out[0][1] == 6 && out[1][1] == -2);
    weft_args c = {0};
    c.cast.x = view(WEFT_F32, x, DIMS(3, 2));
    c.cast.y = view(WEFT_BF16, h, DIMS(3, 2));
    run(WEFT_OP_cast, &c);
    assert_int_equal(h[1][1], 0x3f80); /* halfway between 1 and 1.0078125: to even */
    c.cast.y = view(WEFT_F16, h, DIMS(3, 2));
    run(WEFT_OP_cast, &c);
    assert_int_equal(h[2][1], 0x7c00); /* past the largest half */
}

CASE(cast_transposes_through_strides) {
    float x[2][3] = {{1, 2, 3}, {4, 5, 6}}, y[2][3];
    weft_args c = {0};
    c.cast.x = view(WEFT_F32, x, DIMS(3, 2));
    c.cast.x.stride[0] = 1;
    c.cast.x.stride[1] = 3;
    c.cast.y = view(WEFT_F32, y, DIMS(3, 2));
    run(WEFT_OP_cast, &c);
    float want[6] = {1, 4, 2, 5, 3, 6};
    assert_memory_equal(y, want, sizeof want);
}

CASE(add_rounds_once_to_the_stored_type) {
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            float x[40], y[40], z[40], buf[3][40];
            double want[40];
            weft_args a = {0};
            a.add.a = view(types[i], buf[0], DIMS(5, 8));
            a.add.b = view(types[j], buf[1], DIMS(5, 8));
            a.add.y = view(types[i], buf[2], DIMS(5, 8));
            fill_random(x, 40, 1);
            fill_random(y, 40, 2);
            from_floats(&a.add.a, x);
            from_floats(&a.add.b, y);
            to_floats(&a.add.a, x);
            to_floats(&a.add.b, y);
            for (int k = 0; k < 40; k++)
                want[k] = weft_round_to(types[i], x[k] + y[k]);
            run(WEFT_OP_add, &a);
            to_floats(&a.add.y, z);
            expect_near("add", z, want, 40, 0);
        }
}

/* ---- rope ---- */

static void split_freq(real base, int64_t pairs, float *freq) {
    for (int64_t i = 0; i < pairs; i++) {
        real f = powl(base, -(real)i / (real)pairs);
        freq[2 * i] = (float)f;
        freq[2 * i + 1] = (float)(f - freq[2 * i]);
    }
}

CASE(rope_table_is_exact_at_any_position) {
    enum { R = 32, T = 8 };
    int32_t pos[T] = {0, 1, 2, 511, 4096, 131071, 1048575, 100000000};
    float freq[R][2], y[T][R][2];
    double want[T][R][2];
    weft_args a = {0};
    split_freq(500000, R, &freq[0][0]);
    a.rope_table.pos = view(WEFT_I32, pos, DIMS(T));
    a.rope_table.freq = view(WEFT_F32, freq, DIMS(R, 2));
    a.rope_table.y = view(WEFT_F32, y, DIMS(T, R, 2));
    a.rope_table.mscale = 1.5f;
    run(WEFT_OP_rope_table, &a);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < R; i++) {
            real angle = (real)pos[t] * ((real)freq[i][0] + freq[i][1]);
            want[t][i][0] = (double)(1.5L * cosl(angle));
            want[t][i][1] = (double)(1.5L * sinl(angle));
        }
    expect_near("table", &y[0][0][0], &want[0][0][0], T * R * 2, 1e-7);
}

/* The published rule: past the context L the base grows by (s n / L - (s - 1))^(d / (d - 2)). */
CASE(dynamic_ntk_changes_the_base) {
    enum { R = 16, T = 5 };
    int32_t pos[T] = {5, 63, 64, 200, 9000};
    float freq[R][2], y[T][R][2];
    double want[T][R][2];
    weft_args a = {0};
    split_freq(10000, R, &freq[0][0]);
    a.rope_table.pos = view(WEFT_I32, pos, DIMS(T));
    a.rope_table.freq = view(WEFT_F32, freq, DIMS(R, 2));
    a.rope_table.y = view(WEFT_F32, y, DIMS(T, R, 2));
    a.rope_table.mscale = 1;
    a.rope_table.ntk_factor = 4;
    a.rope_table.ntk_ctx = 64;
    run(WEFT_OP_rope_table, &a);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < R; i++) {
            real d = 2 * R, n = pos[t] + 1, base = 10000;
            if (n > 64)
                base *= powl(4 * n / 64 - 3, d / (d - 2));
            want[t][i][0] = (double)cosl(pos[t] * powl(base, -2 * i / d));
            want[t][i][1] = (double)sinl(pos[t] * powl(base, -2 * i / d));
        }
    expect_near("table", &y[0][0][0], &want[0][0][0], T * R * 2, 1e-7);
}

static void check_rope(int type, double bound, int interleaved) {
    enum { T = 3, H = 2, D = 10, R = 3 };
    float x[T][H][D], y[T * H * D], table[T][R][2], bx[T * H * D], by[T * H * D];
    double want[T][H][D];
    weft_args a = {0};
    a.rope.x = view(type, bx, DIMS(T, H, D));
    a.rope.y = view(type, by, DIMS(T, H, D));
    a.rope.table = view(WEFT_F32, table, DIMS(T, R, 2));
    a.rope.interleaved = interleaved;
    fill_random(&x[0][0][0], T * H * D, 4);
    from_floats(&a.rope.x, &x[0][0][0]);
    to_floats(&a.rope.x, &x[0][0][0]);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < R; i++) {
            double angle = 0.3 + t * 1.7 + i;
            table[t][i][0] = (float)cos(angle);
            table[t][i][1] = (float)sin(angle);
        }
    for (int t = 0; t < T; t++)
        for (int h = 0; h < H; h++)
            for (int d = 0; d < D; d++) {
                int i = interleaved ? d / 2 : d % R, second = interleaved ? d % 2 : d >= R;
                int mate = interleaved ? d ^ 1 : second ? d - R : d + R;
                double c = table[t][i % R][0], s = table[t][i % R][1];
                want[t][h][d] = d >= 2 * R ? x[t][h][d]
                                : second   ? x[t][h][d] * c + x[t][h][mate] * s
                                           : x[t][h][d] * c - x[t][h][mate] * s;
            }
    run(WEFT_OP_rope, &a);
    to_floats(&a.rope.y, y);
    expect_near("rope", y, &want[0][0][0], T * H * D, bound);
}

CASE(rope_rotates_either_pairing_and_copies_the_rest) {
    for (int i = 0; i < 3; i++) {
        check_rope(types[i], 4 * half_ulp[i], 0);
        check_rope(types[i], 4 * half_ulp[i], 1);
    }
}

/* ---- norms ---- */

typedef struct {
    float x[24], res[24], g[4], b[4], r[24];
    real norm[24], mean[6], inv[6];
} norm_case;

/* Six rows of four: r, and the definition with `centre` 1 for layernorm, 0 for rmsnorm. */
static void norm_define(norm_case *n, int type, int with_res, real centre, real eps) {
    for (int row = 0; row < 6; row++) {
        real mean = 0, square = 0;
        for (int i = 4 * row; i < 4 * row + 4; i++) {
            n->r[i] = with_res ? weft_round_to(type, n->x[i] + n->res[i]) : n->x[i];
            mean += n->r[i] * centre / 4;
        }
        for (int i = 4 * row; i < 4 * row + 4; i++)
            square += (n->r[i] - mean) * (n->r[i] - mean) / 4;
        n->mean[row] = mean;
        n->inv[row] = 1 / sqrtl(square + eps);
        for (int i = 4 * row; i < 4 * row + 4; i++)
            n->norm[i] = (n->r[i] - mean) * n->inv[row];
    }
}

static void norm_fill(norm_case *n, int type) {
    fill_random(n->x, 24, 5);
    fill_random(n->res, 24, 6);
    fill_random(n->g, 4, 7);
    fill_random(n->b, 4, 8);
    for (int i = 0; i < 24; i++) {
        n->x[i] = weft_round_to(type, 3 + n->x[i]);
        n->res[i] = weft_round_to(type, n->res[i]);
    }
}

static void check_rmsnorm(int type, double bound, int with_res) {
    norm_case n;
    float bx[24], bres[24], by[24], br[24], y[24], r[24], inv[6];
    double want[24], want_inv[6];
    weft_args a = {0};
    weft_rmsnorm_args *s = &a.rmsnorm;
    norm_fill(&n, type);
    norm_define(&n, type, with_res, 0, 0.25L);
    s->x = view(type, bx, DIMS(3, 2, 4)); /* [T, heads, D] */
    s->res = view(type, bres, DIMS(3, 2, 4));
    s->g = view(WEFT_F32, n.g, DIMS(4));
    s->y = view(type, by, DIMS(3, 2, 4));
    s->r = view(type, br, DIMS(3, 2, 4));
    s->inv = view(WEFT_F32, inv, DIMS(3, 2));
    s->eps = 0.25f;
    s->offset = 1;
    from_floats(&s->x, n.x);
    from_floats(&s->res, n.res);
    if (!with_res)
        s->res.id = 0;
    run(WEFT_OP_rmsnorm, &a);
    to_floats(&s->y, y);
    to_floats(&s->r, r);
    for (int i = 0; i < 24; i++)
        want[i] = (double)(n.norm[i] * (n.g[i % 4] + 1.0L));
    for (int i = 0; i < 6; i++)
        want_inv[i] = (double)n.inv[i];
    expect_same_bits("r", r, n.r, 24);
    expect_near("rmsnorm", y, want, 24, 8 * bound);
    expect_near("inv", inv, want_inv, 6, 1e-7);
}

static void check_layernorm(int type, double bound, int with_res) {
    norm_case n;
    float bx[24], bres[24], by[24], br[24], y[24], r[24], mean[6], inv[6];
    double want[24], want_inv[6], want_mean[6];
    weft_args a = {0};
    weft_layernorm_args *s = &a.layernorm;
    norm_fill(&n, type);
    norm_define(&n, type, with_res, 1, 0.125L);
    s->x = view(type, bx, DIMS(6, 4));
    s->res = view(type, bres, DIMS(6, 4));
    s->g = view(WEFT_F32, n.g, DIMS(4));
    s->b = view(WEFT_F32, n.b, DIMS(4));
    s->y = view(type, by, DIMS(6, 4));
    s->r = view(type, br, DIMS(6, 4));
    s->mean = view(WEFT_F32, mean, DIMS(6));
    s->inv = view(WEFT_F32, inv, DIMS(6));
    s->eps = 0.125f;
    from_floats(&s->x, n.x);
    from_floats(&s->res, n.res);
    if (!with_res)
        s->res.id = 0;
    run(WEFT_OP_layernorm, &a);
    to_floats(&s->y, y);
    to_floats(&s->r, r);
    for (int i = 0; i < 24; i++)
        want[i] = (double)(n.norm[i] * n.g[i % 4] + n.b[i % 4]);
    for (int i = 0; i < 6; i++) {
        want_inv[i] = (double)n.inv[i];
        want_mean[i] = (double)n.mean[i];
    }
    expect_same_bits("r", r, n.r, 24);
    expect_near("layernorm", y, want, 24, 8 * bound);
    expect_near("inv", inv, want_inv, 6, 4e-7);
    expect_near("mean", mean, want_mean, 6, 1e-6);
}

CASE(norms_follow_their_definition) {
    for (int i = 0; i < 3; i++)
        for (int res = 0; res < 2; res++) {
            check_rmsnorm(types[i], half_ulp[i], res);
            check_layernorm(types[i], half_ulp[i], res);
        }
}

/* A large mean would cancel in mean(x^2) - mean(x)^2 in float. */
CASE(layernorm_survives_a_large_mean) {
    float x[4] = {100000, 100001, 100002, 100003}, g[4] = {1, 1, 1, 1}, y[4];
    double want[4] = {-1.3416407864998738, -0.4472135954999579, 0.4472135954999579,
                      1.3416407864998738};
    weft_args a = {0};
    a.layernorm.x = view(WEFT_F32, x, DIMS(1, 4));
    a.layernorm.g = view(WEFT_F32, g, DIMS(4));
    a.layernorm.y = view(WEFT_F32, y, DIMS(1, 4));
    run(WEFT_OP_layernorm, &a);
    expect_near("y", y, want, 4, 2e-7);
}

/* ---- matmul and leaf_sum ---- */

enum { MT = 19, MN = 21, MK = 536 }; /* odd tiles; two blocks a leaf for few leaves */

typedef struct {
    float x[MT * MK], w[MN * MK], bias[MN], res[MT * MN], y[MT * MN];
    float bx[MT * MK], bw[MN * MK], bbias[MN], bres[MT * MN], by[MT * MN];
    weft_args a;
} matmul_case;

static matmul_case *matmul_new(int xtype, int wtype, int leaves) {
    matmul_case *m = mem_alloc(sizeof *m);
    weft_matmul_args *a = &m->a.matmul;
    a->x = view(xtype, m->bx, DIMS(MT, MK));
    a->w = view(wtype, m->bw, DIMS(MN, MK));
    a->bias = view(wtype, m->bbias, DIMS(MN));
    a->res = view(xtype, m->bres, DIMS(MT, MN));
    a->y = view(xtype, m->by, DIMS(MT, MN));
    a->leaves = leaves;
    fill_random(m->x, MT * MK, 21);
    fill_random(m->w, MN * MK, 22);
    fill_random(m->bias, MN, 23);
    fill_random(m->res, MT * MN, 24);
    struct {
        weft_tensor *t;
        float *f;
    } all[] = {{&a->x, m->x}, {&a->w, m->w}, {&a->bias, m->bias}, {&a->res, m->res}};
    for (int i = 0; i < COUNT(all); i++) {
        from_floats(all[i].t, all[i].f);
        to_floats(all[i].t, all[i].f);
    }
    return m;
}

static real matmul_dot(const matmul_case *m, int t, int n, int from, int to) {
    real sum = 0;
    for (int k = from; k < to; k++)
        sum += (real)m->x[t * MK + k] * m->w[n * MK + k];
    return sum;
}

CASE(matmul_is_a_dot_product_in_every_type) {
    for (int i = 0; i < 9; i++) {
        matmul_case *m = matmul_new(types[i / 3], types[i % 3], 1);
        double want[MT * MN];
        m->a.matmul.bias.id = m->a.matmul.res.id = 0;
        run(WEFT_OP_matmul, &m->a);
        to_floats(&m->a.matmul.y, m->y);
        for (int k = 0; k < MT * MN; k++)
            want[k] = weft_round_to(types[i / 3], (float)matmul_dot(m, k / MN, k % MN, 0, MK));
        expect_near("y", m->y, want, MT * MN, 0); /* the double chain is exact enough to agree */
        mem_free(m);
    }
}

static real define_act(int act, real x) {
    switch (act) {
    case WEFT_ACT_SILU: return x / (1 + expl(-x));
    case WEFT_ACT_GELU: return x / 2 * erfcl(-x * sqrtl(0.5L));
    case WEFT_ACT_GELU_TANH:
        return x / 2 * (1 + tanhl(sqrtl(2.0L / acosl(-1)) * (x + 0.044715L * x * x * x)));
    case WEFT_ACT_RELU: return x > 0 ? x : 0;
    default: return x;
    }
}

/* The tree written out, and each step of the epilogue stored. */
CASE(matmul_leaves_and_epilogue_round_where_ops_would) {
    for (int i = 0; i < 12; i++) {
        int leaves = 1 << i % 4, type = types[i / 4], act = i % 2 ? WEFT_ACT_GELU : WEFT_ACT_RELU;
        matmul_case *m = matmul_new(type, WEFT_F32, leaves);
        double want[MT * MN];
        m->a.matmul.act = act;
        run(WEFT_OP_matmul, &m->a);
        to_floats(&m->a.matmul.y, m->y);
        for (int k = 0; k < MT * MN; k++) {
            float l[8] = {0}, v;
            for (int j = 0; j < leaves; j++)
                l[j] = (float)matmul_dot(m, k / MN, k % MN, j * MK / leaves, (j + 1) * MK / leaves);
            v = leaves == 1   ? l[0]
                : leaves == 2 ? l[0] + l[1]
                : leaves == 4 ? (l[0] + l[1]) + (l[2] + l[3])
                              : ((l[0] + l[1]) + (l[2] + l[3])) + ((l[4] + l[5]) + (l[6] + l[7]));
            v = weft_round_to(type, v + m->bias[k % MN]);
            v = weft_round_to(type, (float)define_act(act, v));
            want[k] = weft_round_to(type, v + m->res[k]);
        }
        expect_near("y", m->y, want, MT * MN, 0);
        mem_free(m);
    }
}

CASE(partial_matmul_and_leaf_sum_give_the_whole_bits) {
    for (int i = 0; i < 12; i++) {
        int leaves = 1 << i % 4;
        matmul_case *m = matmul_new(types[i / 4], WEFT_BF16, leaves);
        float *plane = mem_alloc((size_t)leaves * MT * MN * 4), whole[MT * MN];
        weft_args part = m->a, sum = {0};
        run(WEFT_OP_matmul, &m->a);
        to_floats(&m->a.matmul.y, whole);
        part.matmul.partial = 1;
        part.matmul.bias.id = part.matmul.res.id = 0;
        part.matmul.y = view(WEFT_F32, plane, DIMS(leaves, MT, MN));
        run(WEFT_OP_matmul, &part);
        sum.leaf_sum.x = part.matmul.y;
        sum.leaf_sum.bias = m->a.matmul.bias;
        sum.leaf_sum.res = m->a.matmul.res;
        sum.leaf_sum.y = m->a.matmul.y;
        memset(m->by, 0xff, sizeof m->by);
        run(WEFT_OP_leaf_sum, &sum);
        to_floats(&m->a.matmul.y, m->y);
        expect_same_bits("y", m->y, whole, MT * MN);
        mem_free(plane);
        mem_free(m);
    }
}

/* Two ranks, each with half the leaves of x and w as column slices: the planes of one rank. */
CASE(column_slices_of_a_rank_give_its_planes) {
    matmul_case *m = matmul_new(WEFT_F32, WEFT_F32, 4);
    float all[4][MT * MN], half[2][MT * MN];
    weft_matmul_args *a = &m->a.matmul;
    a->bias.id = a->res.id = 0;
    a->partial = 1;
    a->y = view(WEFT_F32, all, DIMS(4, MT, MN));
    run(WEFT_OP_matmul, &m->a);
    a->leaves = 2;
    a->y = view(WEFT_F32, half, DIMS(2, MT, MN));
    a->x.shape[1] = a->w.shape[1] = MK / 2;
    a->x.data = m->bx + MK / 2;
    a->w.data = m->bw + MK / 2;
    run(WEFT_OP_matmul, &m->a);
    expect_same_bits("planes", half[0], all[2], 2 * MT * MN);
    mem_free(m);
}

CASE(matmul_leaves_rows_past_the_true_number) {
    matmul_case *m = matmul_new(WEFT_F32, WEFT_F32, 1), *full = matmul_new(WEFT_F32, WEFT_F32, 1);
    int32_t rows = 17;
    fill_value(m->by, MT * MN, 99);
    fill_value(m->bx + (int64_t)rows * MK, (MT - rows) * MK, NAN);
    m->a.matmul.rows = view(WEFT_I32, &rows, DIMS(1));
    run(WEFT_OP_matmul, &m->a);
    run(WEFT_OP_matmul, &full->a);
    expect_same_bits("y", m->by, full->by, rows * MN);
    for (int i = rows * MN; i < MT * MN; i++)
        assert_true(m->by[i] == 99);
    mem_free(m);
    mem_free(full);
}

CASE(matmul_refuses_what_it_cannot_do) {
    matmul_case *m = matmul_new(WEFT_F32, WEFT_F32, 1);
    const weft_kernel *k = ref_row_of(WEFT_OP_matmul);
    assert_true(k->ok(&m->a));
    m->a.matmul.leaves = 3;
    assert_false(k->ok(&m->a));
    m->a.matmul.leaves = 8;
    m->a.matmul.x.shape[1] = m->a.matmul.w.shape[1] = MK - 1;
    assert_false(k->ok(&m->a));
    m->a.matmul.leaves = 1;
    m->a.matmul.w.dtype = WEFT_I8;
    assert_false(k->ok(&m->a));
    mem_free(m);
}

/* ---- elementwise, softmax and friends ---- */

CASE(activations_and_glu) {
    enum { N = 2000 };
    float x[N], up[N], y[N];
    double want[N], gated[N];
    fill_random(up, N, 31);
    for (int act = 0; act < WEFT_ACTS; act++) {
        weft_args a = {0}, g = {0};
        for (int i = 0; i < N; i++) {
            x[i] = (float)(i - 1000) * 0.0125f;
            want[i] = (double)define_act(act, x[i]);
            gated[i] = (double)(define_act(act, x[i]) * up[i]);
        }
        a.activation.x = g.glu.gate = view(WEFT_F32, x, DIMS(4, N / 4));
        a.activation.y = g.glu.y = view(WEFT_F32, y, DIMS(4, N / 4));
        g.glu.up = view(WEFT_F32, up, DIMS(4, N / 4));
        a.activation.act = g.glu.act = act;
        run(WEFT_OP_activation, &a);
        expect_near("activation", y, want, N, 5e-7);
        for (int i = 0; i < N; i++) /* small results are good relative to the input */
            assert_true(fabs(y[i] - want[i]) <= 6.1e-8 * fabs(want[i]) + 1e-15 * fabs(x[i]));
        run(WEFT_OP_glu, &g);
        expect_near("glu", y, gated, N, 2e-6);
    }
}

CASE(activations_at_the_ends) {
    float x[4] = {-INFINITY, INFINITY, NAN, -0.0f}, y[4];
    for (int act = WEFT_ACT_SILU; act < WEFT_ACTS; act++) {
        weft_args a = {0};
        a.activation.x = view(WEFT_F32, x, DIMS(1, 4));
        a.activation.y = view(WEFT_F32, y, DIMS(1, 4));
        a.activation.act = act;
        run(WEFT_OP_activation, &a);
        assert_true(y[0] == 0 && y[1] == INFINITY && isnan(y[2]) && y[3] == 0);
        for (int i = 0; i < 4; i++) {
            float v = weft_act_apply(act, x[i]);
            assert_true(i == 2 ? isnan(v) : v == y[i]);
        }
    }
}

CASE(softmax_and_token_logprob) {
    enum { T = 4, V = 700 };
    float x[T][V], y[T][V], lp[T];
    int32_t target[T] = {3, 699, -1, 0};
    double want[T][V], want_lp[T] = {0};
    fill_random(&x[0][0], T * V, 41);
    x[1][5] = -INFINITY;
    fill_value(x[2], V, -INFINITY);
    x[3][0] += 80;
    for (int t = 0; t < T; t++) {
        real sum = 0;
        for (int i = 0; i < V; i++)
            sum += expl(x[t][i]);
        for (int i = 0; i < V; i++)
            want[t][i] = t == 2 ? 0 : (double)(expl(x[t][i]) / sum);
        if (target[t] >= 0)
            want_lp[t] = (double)(x[t][target[t]] - logl(sum));
    }
    weft_args a = {0}, b = {0};
    a.softmax.x = b.token_logprob.x = view(WEFT_F32, x, DIMS(T, V));
    a.softmax.y = view(WEFT_F32, y, DIMS(T, V));
    b.token_logprob.target = view(WEFT_I32, target, DIMS(T));
    b.token_logprob.y = view(WEFT_F32, lp, DIMS(T));
    run(WEFT_OP_softmax, &a);
    run(WEFT_OP_token_logprob, &b);
    expect_near("softmax", &y[0][0], &want[0][0], T * V, 6e-8);
    expect_near("token_logprob", lp, want_lp, T, 5e-7);
}

CASE(argmax_takes_the_first_largest_and_no_nan) {
    float x[4][4] = {{1, 3, 3, 2}, {NAN, -5, NAN, -4}, {NAN, NAN, NAN, NAN}, {0}}, max[4];
    int32_t id[4], want[4] = {1, 3, -1, 0};
    fill_value(x[3], 4, -INFINITY);
    weft_args a = {0};
    a.argmax.x = view(WEFT_F32, x, DIMS(4, 4));
    a.argmax.id = view(WEFT_I32, id, DIMS(4));
    a.argmax.max = view(WEFT_F32, max, DIMS(4));
    run(WEFT_OP_argmax, &a);
    assert_memory_equal(id, want, sizeof want);
    assert_true(max[0] == 3 && max[1] == -4 && isnan(max[2]) && max[3] == -INFINITY);
}

CASE(kv_append_scatters_through_any_strides) {
    enum { T = 4, H = 2, D = 3, V = 2, P = 4, PAGES = 3 };
    float k[T][H][D], v[T][H][V], vc[PAGES][H][P][V];
    uint16_t kc[PAGES][H][D][P]; /* keys innermost */
    int32_t slot[T] = {7, -1, 0, 10}, rows = 3;
    weft_args a = {0};
    fill_random(&k[0][0][0], T * H * D, 51);
    fill_random(&v[0][0][0], T * H * V, 52);
    memset(kc, 0, sizeof kc);
    memset(vc, 0, sizeof vc);
    a.kv_append.k = view(WEFT_F32, k, DIMS(T, H, D));
    a.kv_append.v = view(WEFT_F32, v, DIMS(T, H, V));
    a.kv_append.slot = view(WEFT_I32, slot, DIMS(T));
    a.kv_append.rows = view(WEFT_I32, &rows, DIMS(1));
    a.kv_append.kcache = view(WEFT_BF16, kc, DIMS(PAGES, H, P, D));
    a.kv_append.kcache.stride[2] = 1;
    a.kv_append.kcache.stride[3] = P;
    a.kv_append.vcache = view(WEFT_F32, vc, DIMS(PAGES, H, P, V));
    run(WEFT_OP_kv_append, &a);
    for (int h = 0; h < H; h++) {
        for (int d = 0; d < D; d++) {
            assert_int_equal(kc[1][h][d][3], weft_f32_to_bf16(k[0][h][d]));
            assert_int_equal(kc[0][h][d][0], weft_f32_to_bf16(k[2][h][d]));
            assert_int_equal(kc[2][h][d][2], 0); /* the fourth row is not true */
        }
        for (int d = 0; d < V; d++) {
            assert_true(vc[1][h][3][d] == v[0][h][d]);
            assert_true(vc[0][h][0][d] == v[2][h][d]);
            assert_true(vc[0][h][1][d] == 0);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_looks_up_and_never_outside),
        cmocka_unit_test(gather_and_cast_move_rows_and_types),
        cmocka_unit_test(cast_transposes_through_strides),
        cmocka_unit_test(add_rounds_once_to_the_stored_type),
        cmocka_unit_test(rope_table_is_exact_at_any_position),
        cmocka_unit_test(dynamic_ntk_changes_the_base),
        cmocka_unit_test(rope_rotates_either_pairing_and_copies_the_rest),
        cmocka_unit_test(norms_follow_their_definition),
        cmocka_unit_test(layernorm_survives_a_large_mean),
        cmocka_unit_test(matmul_is_a_dot_product_in_every_type),
        cmocka_unit_test(matmul_leaves_and_epilogue_round_where_ops_would),
        cmocka_unit_test(partial_matmul_and_leaf_sum_give_the_whole_bits),
        cmocka_unit_test(column_slices_of_a_rank_give_its_planes),
        cmocka_unit_test(matmul_leaves_rows_past_the_true_number),
        cmocka_unit_test(matmul_refuses_what_it_cannot_do),
        cmocka_unit_test(activations_and_glu),
        cmocka_unit_test(activations_at_the_ends),
        cmocka_unit_test(softmax_and_token_logprob),
        cmocka_unit_test(argmax_takes_the_first_largest_and_no_nan),
        cmocka_unit_test(kv_append_scatters_through_any_strides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
