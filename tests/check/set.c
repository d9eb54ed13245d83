/* SPDX-License-Identifier: Apache-2.0
 * Operands of a case: their images, what they are filled with, and the variants of a set that must
 * give the same bits. */
#include "tests/check/check.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* NaN in every float type and far out of range as an integer. The second, of outputs, is
 * signalling: arithmetic on the first never makes it, so that a row that was computed is told from
 * one that was not. */
static const uint8_t poison[2][2] = {{0xe5, 0x7f}, {0xb5, 0xff}};

uint64_t check_hash(uint64_t a, uint64_t b) {
    uint64_t x = a + 0x9e3779b97f4a7c15u * (b + 1); /* splitmix64 (Steele et al., 2014) */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Sum of four uniforms, variance 1: near enough to normal, and cheap. */
float check_normal(uint64_t h) {
    int32_t sum = (int32_t)(h & 0xffff) + (int32_t)(h >> 16 & 0xffff) +
                  (int32_t)(h >> 32 & 0xffff) + (int32_t)(h >> 48);
    return (float)(sum - 2 * 65535) * (1.7320508f / 65536.0f);
}

/* Every integer is as likely, or all are extremes. */
static float int8_value(int fill, uint64_t h) {
    if (fill == FILL_LARGE)
        return h % 2 ? 127.0f : -127.0f;
    return fill == FILL_ZERO && h % 4 ? 0.0f : (float)(int64_t)(h / 4 % 255) - 127.0f;
}

float check_fill_value(int fill, int dtype, uint64_t h, float size) {
    if (dtype == WEFT_I8)
        return int8_value(fill, h);
    float x = check_normal(h) * size;
    uint64_t other = check_hash(h, 7);
    switch (fill) {
    case FILL_LARGE: return other % 16 == 0 ? x * (dtype == WEFT_F16 ? 30.0f : 1000.0f) : x;
    case FILL_TINY: return ldexpf(x, dtype == WEFT_F16 ? -17 : -130);
    case FILL_ZERO: return other % 4 == 0 ? x : other & 8 ? -0.0f : 0.0f;
    default: return x;
    }
}

float check_round(int dtype, float x) {
    return dtype == WEFT_F16    ? weft_f16_to_f32(weft_f32_to_f16(x))
           : dtype == WEFT_BF16 ? weft_bf16_to_f32(weft_f32_to_bf16(x))
                                : x;
}

bool check_next(const int64_t shape[WEFT_DIMS], int64_t i[WEFT_DIMS]) {
    for (int d = WEFT_DIMS - 1; d >= 0; d--) {
        if (++i[d] < shape[d])
            return true;
        i[d] = 0;
    }
    return false;
}

static size_t element_bytes(const check_operand *o) {
    return (size_t)weft_dtype_bytes(o->spec.dtype, 1);
}

size_t check_offset(const check_operand *o, const int64_t i[WEFT_DIMS]) {
    int64_t e = 0;
    for (int d = 0; d < o->spec.ndim; d++)
        e += i[d] * o->at->stride[d];
    return o->first + (size_t)e * element_bytes(o);
}

double check_load(const check_operand *o, const char *image, const int64_t i[WEFT_DIMS]) {
    const char *p = image + check_offset(o, i);
    float f;
    uint16_t h;
    int32_t n;
    switch (o->spec.dtype) {
    case WEFT_F32: memcpy(&f, p, 4); return (double)f;
    case WEFT_I32: memcpy(&n, p, 4); return n;
    case WEFT_I8: return *(const int8_t *)p;
    default: memcpy(&h, p, 2);
    }
    return (double)(o->spec.dtype == WEFT_F16 ? weft_f16_to_f32(h) : weft_bf16_to_f32(h));
}

void check_store(const check_operand *o, char *image, const int64_t i[WEFT_DIMS], float x) {
    char *p = image + check_offset(o, i);
    uint16_t h = o->spec.dtype == WEFT_F16 ? weft_f32_to_f16(x) : weft_f32_to_bf16(x);
    if (o->spec.dtype == WEFT_F32)
        memcpy(p, &x, 4);
    else if (o->spec.dtype == WEFT_I8)
        *p = (char)(int8_t)rintf(x);
    else
        memcpy(p, &h, 2);
}

bool check_is_out(const check_operand *o) {
    return o->role == 'O' || o->role == 'A';
}

check_operand *check_find(const check_set *s, const weft_tensor *at) {
    for (int i = 0; i < s->n; i++)
        if (s->operand[i].at == at)
            return (check_operand *)&s->operand[i];
    return NULL;
}

check_operand *check_same(const check_set *s, const check_set *other, const weft_tensor *at) {
    size_t off = (size_t)((const char *)at - (const char *)&other->args);
    return check_find(s, (const weft_tensor *)((const char *)&s->args + off));
}

static void lay_out(check_operand *o) {
    const check_spec *p = &o->spec;
    uint32_t id = o->at->id;
    *o->at = weft_tensor_make(p->dtype, p->ndim, p->dim);
    o->at->id = id;
    int64_t stride = 1;
    for (int i = 0; i < p->ndim; i++) {
        int d = p->ndim - 1 - i;
        if (p->swap && i < 2 && p->ndim > 1) /* the axis before the last is the inner one */
            d = i == 0 ? p->ndim - 2 : p->ndim - 1;
        o->at->stride[d] = stride;
        stride = stride * p->dim[d] + (i + 1 < p->ndim ? p->pad : 0);
    }
}

static int64_t span(const weft_tensor *t) {
    int64_t n = 1;
    for (int d = 0; d < t->ndim; d++) {
        if (t->shape[d] == 0)
            return 0;
        n += (t->shape[d] - 1) * t->stride[d];
    }
    return n;
}

static void new_image(check_set *s, check_operand *o) {
    /* Half of the cases are at even addresses: wide loads are another path of a kernel. */
    bool even = s->aligned || check_hash(s->seed, 0x65766e) % 2;
    uint64_t odd = even ? 0 : check_hash(s->seed, o->at->id) % 16;
    o->first = CHECK_GUARD + (size_t)odd * element_bytes(o);
    o->bytes = o->first + (size_t)span(o->at) * element_bytes(o) + CHECK_GUARD;
    o->bytes = (o->bytes + 63) / 64 * 64;
    o->image = arena_alloc(&s->mem, o->bytes);
    for (size_t i = 0; i < o->bytes; i++)
        o->image[i] = (char)poison[o->role == 'O'][i & 1];
}

static float random_value(const check_set *s, const check_operand *o, int fill, int64_t linear,
                          int64_t column) {
    uint64_t stream = s->seed + 1000003u * o->at->id;
    float size = o->spec.size == 0 ? 1 : o->spec.size;
    if (fill != FILL_CANCEL || column % 2 == 0)
        return check_fill_value(fill, o->spec.dtype, check_hash(stream, (uint64_t)linear), size);
    float left = check_fill_value(fill, o->spec.dtype, check_hash(stream, (uint64_t)linear - 1),
                                  size);
    return o->spec.twin ? left : -left;
}

static void fill_input(check_set *s, check_operand *o) {
    const weft_tensor *t = o->at;
    int64_t i[WEFT_DIMS] = {0}, linear = 0;
    int fill = strstr(s->c.op->keys, "fill") ? (int)check_get(&s->c, "fill") : FILL_NORMAL;
    do {
        bool real = !o->spec.row || s->rows < 0 || i[o->spec.row - 1] < s->rows;
        if (real && o->spec.dtype == WEFT_I32)
            memcpy(o->image + check_offset(o, i), &o->spec.ints[linear], 4);
        else if (real)
            check_store(o, o->image, i,
                        o->spec.value ? o->spec.value(s, i)
                                      : random_value(s, o, fill, linear, i[t->ndim - 1]));
        linear++;
    } while (check_next(t->shape, i));
}

void check_image(check_set *s, check_operand *o) {
    lay_out(o);
    new_image(s, o);
}

/* Without an image: the device makes up the numbers of what is measured. */
static bool left_to_device(const check_set *s, check_operand *o) {
    if (!s->no_images || o->spec.dtype == WEFT_I32)
        return false;
    o->first = CHECK_GUARD;
    o->bytes = (o->first + (size_t)span(o->at) * element_bytes(o) + CHECK_GUARD + 63) / 64 * 64;
    o->image = NULL;
    return true;
}

void check_remake(check_set *s, check_operand *o) {
    lay_out(o);
    if (left_to_device(s, o))
        return;
    new_image(s, o);
    if (o->role != 'O' && weft_tensor_count(o->at))
        fill_input(s, o);
}

check_operand *check_add(check_set *s, weft_tensor *at, check_spec spec) {
    const weft_op_info *info = &weft_op_table[s->c.op->op];
    check_operand *o = &s->operand[s->n++];
    size_t off = (size_t)((char *)at - (char *)&s->args);
    *o = (check_operand){.at = at, .spec = spec};
    for (int i = 0; i < info->nfield; i++)
        if (info->field[i].off == off)
            o->role = info->field[i].role;
    at->id = (uint32_t)s->n;
    check_remake(s, o);
    return o;
}

void check_add_rows(check_set *s, weft_tensor *at, int64_t n) {
    int32_t *value = arena_alloc(&s->mem, sizeof *value);
    *value = (int32_t)n;
    s->rows_at = at;
    check_add(s, at, (check_spec){.dtype = WEFT_I32, .ndim = 1, .dim = {1}, .ints = value});
    s->rows = n;
}

void check_set_init(check_set *s, const check_case *c, uint64_t seed) {
    memset(s, 0, sizeof *s);
    s->c = *c;
    s->seed = check_case_seed(c, seed);
    s->rows = -1;
}

void check_set_fini(check_set *s) {
    arena_fini(&s->mem);
}

void check_set_cost(const check_set *s, int64_t *bytes, int64_t *flops) {
    bool attention = s->c.op->op == WEFT_OP_attention;
    weft_op_table[s->c.op->op].cost(&s->args, bytes, flops);
    if (attention && s->args.attention.causal && check_get(&s->c, "q") == 0)
        *flops /= 2;
}

static weft_tensor *moved(const check_set *from, check_set *to, const weft_tensor *at) {
    return (weft_tensor *)((char *)&to->args + ((const char *)at - (const char *)&from->args));
}

void check_share(const check_set *from, check_set *to) {
    *to = *from;
    memset(&to->mem, 0, sizeof to->mem);
    for (int i = 0; i < to->n; i++)
        to->operand[i].at = moved(from, to, from->operand[i].at);
    if (from->rows_at)
        to->rows_at = moved(from, to, from->rows_at);
}

static void copy_rows(const check_operand *from, check_operand *to, const int64_t *row) {
    int64_t i[WEFT_DIMS] = {0};
    size_t bytes = element_bytes(to);
    if (!weft_tensor_count(to->at))
        return;
    do {
        int64_t j[WEFT_DIMS];
        memcpy(j, i, sizeof j);
        j[to->spec.row - 1] = row[i[to->spec.row - 1]];
        memcpy(to->image + check_offset(to, i), from->image + check_offset(from, j), bytes);
    } while (check_next(to->at->shape, i));
}

void check_pick(const check_set *from, const int64_t *row, int64_t n, check_set *to) {
    check_share(from, to);
    to->rows = from->rows < 0 ? -1 : n;
    for (int i = 0; i < to->n; i++) {
        check_operand *o = &to->operand[i];
        if (o->at == to->rows_at) {
            int32_t *value = arena_alloc(&to->mem, sizeof *value);
            *value = (int32_t)n;
            o->spec.ints = value;
            check_remake(to, o);
        }
        if (!o->spec.row)
            continue;
        o->spec.dim[o->spec.row - 1] = n;
        lay_out(o);
        new_image(to, o);
        if (o->role != 'O')
            copy_rows(&from->operand[i], o, row);
    }
}
