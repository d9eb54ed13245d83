/* SPDX-License-Identifier: Apache-2.0
 * The catalogue's rows as data: fields with their offsets, tolerances, flags and costs, and the
 * text of one step's arguments. Costs are compulsory: every operand once, at the bucket's size. */
#include "host/run/ops.h"
#include <string.h>

/* The catalogue's field macros know their own name but not their op's, so the op's struct is put in
 * front of each (OFF_) and the field's macro closes the brace. */
/* clang-format off */
#define OFF_(op) {.off = (uint16_t)(uintptr_t)&((const weft_##op##_args *)0)->
#define FIELD_(n, r, t) n, .name = #n, .role = r, .type = t},
/* clang-format on */
#define FIELD_I(n) FIELD_(n, 'I', 't')
#define FIELD_Q(n) FIELD_(n, 'Q', 't')
#define FIELD_O(n) FIELD_(n, 'O', 't')
#define FIELD_A(n) FIELD_(n, 'A', 't')
#define FIELD_S(t, n) FIELD_(n, 'S', SCALAR_##t)
#define SCALAR_int32_t 'i'
#define SCALAR_float 'f'
#define FIELDS_(op, F, a, b, c, d, e, fl) \
    static const weft_field op##_fields[] = {F(OFF_(op) FIELD_I, OFF_(op) FIELD_Q, \
                                               OFF_(op) FIELD_O, OFF_(op) FIELD_A, \
                                               OFF_(op) FIELD_S)};
WEFT_OPS(FIELDS_)

int64_t ops_bytes(const weft_tensor *t) {
    if (!weft_has(t) || !weft_tensor_count(t))
        return 0;
    int64_t row = t->ndim ? t->shape[t->ndim - 1] : 1;
    return weft_tensor_count(t) / (row ? row : 1) * weft_dtype_bytes(t->dtype, row);
}

/* Bytes of `n` leading-axis rows of t, for tables of which only some rows are read. */
static int64_t rows_bytes(const weft_tensor *t, int64_t n) {
    return t->shape[0] ? ops_bytes(t) / t->shape[0] * (n < t->shape[0] ? n : t->shape[0]) : 0;
}

static int64_t operand_bytes(weft_op op, const weft_args *a) {
    const weft_op_info *info = &weft_op_table[op];
    int64_t sum = 0;
    for (int i = 0; i < info->nfield; i++)
        if (info->field[i].type == 't')
            sum += ops_bytes(ops_ctensor(a, &info->field[i]));
    return sum;
}

/* Flops of an op that does `per` operations for each element of `y`. */
static void cost_elements(weft_op op, const weft_args *a, const weft_tensor *y, int per,
                          int64_t *bytes, int64_t *flops) {
    *bytes = operand_bytes(op, a);
    *flops = per * weft_tensor_count(y);
}

static void cost_embed(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_embed_args *e = &a->embed;
    *bytes = ops_bytes(&e->ids) + rows_bytes(&e->w, e->ids.shape[0]) + ops_bytes(&e->y);
    *flops = 0;
}

static void cost_matmul(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_matmul_args *m = &a->matmul;
    *bytes = operand_bytes(WEFT_OP_matmul, a);
    *flops = 2 * m->x.shape[0] * m->w.shape[0] * m->w.shape[1];
}

static void cost_kv_append(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_kv_append_args *k = &a->kv_append;
    int64_t kd = weft_tensor_count(&k->k), vd = weft_tensor_count(&k->v);
    *bytes = ops_bytes(&k->k) + ops_bytes(&k->v) + ops_bytes(&k->slot) +
             weft_dtype_bytes(k->kcache.dtype, kd) + weft_dtype_bytes(k->vcache.dtype, vd);
    *flops = 0;
}

/* The bucket knows the most keys of a sequence (its pages, or the whole batch), not each length. */
static void cost_attention(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_attention_args *t = &a->attention;
    int paged = weft_has(&t->pages);
    int64_t seqs = t->kvlen.shape[0], tokens = t->q.shape[0], heads = t->q.shape[1];
    int64_t hkv = t->k.shape[1], d = t->q.shape[2], dv = t->y.shape[2];
    int64_t keys = paged ? t->pages.shape[1] * t->k.shape[2] : t->k.shape[0];
    int64_t seen = t->window > 0 && t->window < keys ? t->window : keys;
    int64_t lists = paged ? seqs : 1;
    *bytes = ops_bytes(&t->q) + ops_bytes(&t->y) + ops_bytes(&t->lse) +
             lists * seen * hkv *
                 (weft_dtype_bytes(t->k.dtype, d) + weft_dtype_bytes(t->v.dtype, dv));
    *flops = 2 * tokens * heads * seen * (d + dv);
}

static void cost_gather(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_gather_args *g = &a->gather;
    *bytes = ops_bytes(&g->index) + rows_bytes(&g->x, g->index.shape[0]) + ops_bytes(&g->y);
    *flops = 0;
}

static void cost_leaf_sum(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_leaf_sum_args *l = &a->leaf_sum;
    *bytes = operand_bytes(WEFT_OP_leaf_sum, a);
    *flops = weft_tensor_count(&l->x);
}

static void cost_rank_sum(const weft_args *a, int64_t *bytes, int64_t *flops) {
    *bytes = operand_bytes(WEFT_OP_rank_sum, a);
    *flops = weft_tensor_count(&a->rank_sum.x);
}

static void cost_sample(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_sample_args *s = &a->sample;
    *bytes = ops_bytes(&s->logits) + ops_bytes(&s->params) + ops_bytes(&s->id) +
             ops_bytes(&s->probs);
    *flops = 4 * weft_tensor_count(&s->logits);
}

static void cost_rank_norm(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_rank_norm_args *n = &a->rank_norm;
    *bytes = operand_bytes(WEFT_OP_rank_norm, a) + ops_bytes(&n->x) * n->ranks;
    *flops = weft_tensor_count(&n->x) * (n->ranks + 6);
}

static void cost_sample_sharded(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_sample_sharded_args *s = &a->sample_sharded;
    *bytes = ops_bytes(&s->logits) + ops_bytes(&s->params) + ops_bytes(&s->id);
    *flops = 4 * weft_tensor_count(&s->logits);
}

static void cost_matmul_dx(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_matmul_dx_args *m = &a->matmul_dx;
    *bytes = operand_bytes(WEFT_OP_matmul_dx, a);
    *flops = 2 * m->dy.shape[0] * m->w.shape[0] * m->w.shape[1];
}

static void cost_matmul_dw(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_matmul_dw_args *m = &a->matmul_dw;
    *bytes = operand_bytes(WEFT_OP_matmul_dw, a) + ops_bytes(&m->dw); /* read and written */
    *flops = 2 * m->dy.shape[0] * m->dw.shape[0] * m->dw.shape[1];
}

/* Five products of [queries, keys] where the forward has two. */
static void cost_attention_dx(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_attention_dx_args *t = &a->attention_dx;
    int64_t keys = t->k.shape[0], d = t->q.shape[2], dv = t->y.shape[2];
    int64_t seen = t->window > 0 && t->window < keys ? t->window : keys;
    *bytes = operand_bytes(WEFT_OP_attention_dx, a);
    *flops = 2 * t->q.shape[0] * t->q.shape[1] * seen * (3 * d + 2 * dv);
}

static void cost_embed_dw(const weft_args *a, int64_t *bytes, int64_t *flops) {
    const weft_embed_dw_args *e = &a->embed_dw;
    *bytes = ops_bytes(&e->ids) + ops_bytes(&e->order) + ops_bytes(&e->dy) +
             2 * rows_bytes(&e->dw, e->ids.shape[0]);
    *flops = weft_tensor_count(&e->dy);
}

/* Operations for each element of the operand named: what a plain loop of the formula does. */
#define COST_PER_ELEMENT_(op, operand, per) \
    static void cost_##op(const weft_args *a, int64_t *bytes, int64_t *flops) { \
        cost_elements(WEFT_OP_##op, a, &a->op.operand, per, bytes, flops); \
    }
COST_PER_ELEMENT_(rope_table, y, 4)
COST_PER_ELEMENT_(rope, y, 3)
COST_PER_ELEMENT_(rmsnorm, x, 4)
COST_PER_ELEMENT_(layernorm, x, 6)
COST_PER_ELEMENT_(glu, y, 6)
COST_PER_ELEMENT_(activation, y, 5)
COST_PER_ELEMENT_(add, y, 1)
COST_PER_ELEMENT_(softmax, y, 4)
COST_PER_ELEMENT_(argmax, x, 1)
COST_PER_ELEMENT_(token_logprob, x, 3)
COST_PER_ELEMENT_(cast, y, 0)
COST_PER_ELEMENT_(quantize, x, 4)
COST_PER_ELEMENT_(all_gather, y, 0)
COST_PER_ELEMENT_(reduce_scatter, x, 1)
COST_PER_ELEMENT_(all_to_all, y, 0)
COST_PER_ELEMENT_(broadcast, x, 0)
COST_PER_ELEMENT_(send, x, 0)
COST_PER_ELEMENT_(recv, y, 0)
COST_PER_ELEMENT_(bias_db, dy, 1)
COST_PER_ELEMENT_(rmsnorm_dx, dy, 8)
COST_PER_ELEMENT_(rmsnorm_dg, dy, 3)
COST_PER_ELEMENT_(layernorm_dx, dy, 11)
COST_PER_ELEMENT_(layernorm_dg, dy, 5)
COST_PER_ELEMENT_(rope_dx, dx, 3)
COST_PER_ELEMENT_(glu_dx, dy, 10)
COST_PER_ELEMENT_(activation_dx, dy, 8)
COST_PER_ELEMENT_(cross_entropy, x, 6)
COST_PER_ELEMENT_(dropout, x, 1)
COST_PER_ELEMENT_(scale, x, 1)
COST_PER_ELEMENT_(fill, y, 0)
COST_PER_ELEMENT_(accumulate, x, 1)
COST_PER_ELEMENT_(sum_squares, x, 2)
COST_PER_ELEMENT_(adamw, p, 14)
COST_PER_ELEMENT_(sgd, p, 6)
COST_PER_ELEMENT_(ema, p, 3)

#define ROW_(op, F, f32, f16, bf16, fp8, int8, traits) \
    {.name = #op, \
     .field = op##_fields, \
     .nfield = (int)(sizeof op##_fields / sizeof op##_fields[0]), \
     .tol = {f32, f16, bf16, fp8, int8}, \
     .flags = traits, \
     .cost = cost_##op},
const weft_op_info weft_op_table[WEFT_OP_COUNT] = {WEFT_OPS(ROW_)};

int ops_find(const char *name) {
    for (int i = 0; i < WEFT_OP_COUNT; i++)
        if (!strcmp(weft_op_table[i].name, name))
            return i;
    return -1;
}

const weft_field *ops_field(weft_op op, const char *name) {
    const weft_op_info *info = &weft_op_table[op];
    for (int i = 0; i < info->nfield; i++)
        if (!strcmp(info->field[i].name, name))
            return &info->field[i];
    return NULL;
}

static void print_dims(buf *out, const int64_t *dim, int n) {
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s%lld", i ? "," : "", (long long)dim[i]);
}

static void print_tensor(buf *out, const char *name, const weft_tensor *t) {
    int64_t stride = 1;
    int plain = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        plain &= t->shape[i] == 1 || t->stride[i] == stride;
        stride *= t->shape[i];
    }
    buf_printf(out, " %s[", name);
    print_dims(out, t->shape, t->ndim);
    if (!plain) {
        buf_putc(out, '|');
        print_dims(out, t->stride, t->ndim);
    }
    buf_printf(out, "]%s", weft_dtype_name(t->dtype));
}

static void print_scalar(buf *out, const weft_args *a, const weft_field *f) {
    if (f->type == 'i' && ops_int(a, f))
        buf_printf(out, " %s=%d", f->name, (int)ops_int(a, f));
    if (f->type == 'f' && ops_float(a, f) != 0) {
        buf_printf(out, " %s=", f->name);
        buf_json_float(out, ops_float(a, f));
    }
}

void ops_print(buf *out, weft_op op, const weft_args *a) {
    const weft_op_info *info = &weft_op_table[op];
    buf_puts(out, info->name);
    for (int i = 0; i < info->nfield; i++) {
        const weft_field *f = &info->field[i];
        if (f->role == 'S')
            print_scalar(out, a, f);
        else if (weft_has(ops_ctensor(a, f)))
            print_tensor(out, f->name, ops_ctensor(a, f));
    }
}
