/* SPDX-License-Identifier: Apache-2.0
 * cross_entropy: three passes over a row that stays in L2: its largest logit, the sum of
 * exponentials, the gradient. The sum is sixteen lanes of doubles, and so is what the target's own
 * gradient is made of: of a sure token it is what the small terms beside its 1 add up to. */
#include "cpu.h"

CPU_OK(cross_entropy) {
    const weft_cross_entropy_args *a = &args->cross_entropy;
    return a->x.ndim == 2 && cpu_flat(&a->x) && cpu_flat(&a->dx) && a->scale.dtype == WEFT_F32 &&
           (!weft_has(&a->loss) || a->loss.dtype == WEFT_F32) &&
           (!weft_has(&a->nll) || a->nll.dtype == WEFT_F32);
}

typedef struct {
    const weft_cross_entropy_args *a;
    const void *x;
    void *dx; /* NULL: not wanted */
    int64_t t, width, target;
    float top;          /* largest logit */
    double total, mean; /* of e^(x - top); of the logits, where smoothing asks */
    double hit, lse;    /* the target's logit */
} entropy_row;

V16 void entropy_top(int dtype, entropy_row *u) {
    v16 most = v16_set1(-INFINITY);
    CPU_EACH16(i, n, u->width) {
        most = v16_max(v16_pick(0, (int)n, v16_get(dtype, u->x, i, (int)n), most), most);
    }
    u->top = v16_hmax(most);
}

/* Lanes l and l + 8, then 4, 2, 1 apart. */
V16 double entropy_fold(double *sum) {
    for (int n = 8; n > 0; n /= 2)
        for (int l = 0; l < n; l++)
            sum[l] += sum[l + n];
    return sum[0];
}

V16 void entropy_total(int dtype, entropy_row *u) {
    double sum[16] = {0};
    CPU_EACH16(i, n, u->width) {
        float e[16];
        v16 v = v16_exp(v16_sub(v16_get(dtype, u->x, i, (int)n), v16_set1(u->top)));
        v16_store(e, v16_pick(0, (int)n, v, v16_zero()));
        for (int l = 0; l < 16; l++)
            sum[l] += e[l];
    }
    u->total = entropy_fold(sum);
}

V16 void entropy_mean(int dtype, entropy_row *u) {
    double sum[16] = {0};
    CPU_EACH16(i, n, u->width) {
        float x[16];
        v16_store(x, v16_get(dtype, u->x, i, (int)n));
        for (int l = 0; l < 16; l++)
            sum[l] += x[l];
    }
    u->mean = entropy_fold(sum) / (double)u->width;
}

/* The target's element has no 1 - e to lose digits to: it is computed in double. */
V16 void entropy_gradient(int dtype, const entropy_row *u) {
    const weft_cross_entropy_args *a = u->a;
    double e = a->smoothing, more = 1.0 + 2.0 * (double)a->z_loss * u->lse;
    float scale = *(const float *)a->scale.data;
    v16 top = v16_set1(u->top), by = v16_set1((float)(more / u->total)), s = v16_set1(scale);
    v16 share = v16_set1((float)(e / (double)u->width));
    double own = (double)weft_expf((float)u->hit - u->top) / u->total * more;
    CPU_EACH16(i, n, u->width) {
        v16 p = v16_exp(v16_sub(v16_get(dtype, u->x, i, (int)n), top));
        v16_put(a->dx.dtype, u->dx, i, (int)n, v16_mul(v16_sub(v16_mul(p, by), share), s));
    }
    own = own - (1.0 - e) - e / (double)u->width;
    v16_put(a->dx.dtype, u->dx, u->target, 1, v16_set1((float)(own * scale)));
}

static void entropy_put(const weft_tensor *t, int64_t row, double v) {
    if (weft_has(t))
        *(float *)cpu_at(t, row * t->stride[0]) = (float)v;
}

static void entropy_loss(const entropy_row *u) {
    const weft_cross_entropy_args *a = u->a;
    double loss = u->lse - (1.0 - a->smoothing) * u->hit;
    if (a->smoothing != 0)
        loss -= a->smoothing * u->mean;
    if (a->z_loss != 0)
        loss += a->z_loss * u->lse * u->lse;
    entropy_put(&a->loss, u->t, loss);
    entropy_put(&a->nll, u->t, u->lse - u->hit);
}

V16 void entropy_one(int dtype, entropy_row *u) {
    float hit[16];
    v16_store(hit, v16_get(dtype, u->x, u->target, 1));
    u->hit = hit[0];
    entropy_top(dtype, u);
    entropy_total(dtype, u);
    if (u->a->smoothing != 0)
        entropy_mean(dtype, u);
    u->lse = u->top + weft_log(u->total);
    entropy_loss(u);
    if (u->dx)
        entropy_gradient(dtype, u);
}

static void entropy_ignore(const entropy_row *u) {
    const weft_cross_entropy_args *a = u->a;
    entropy_put(&a->loss, u->t, 0);
    entropy_put(&a->nll, u->t, 0);
    if (u->dx)
        memset(u->dx, 0, (size_t)(u->width * cpu_bytes(a->dx.dtype)));
}

static void entropy_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_cross_entropy_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        entropy_row u = {.a = a, .t = t, .width = a->x.shape[1], .x = cpu_row(&a->x, t)};
        u.target = ((const int32_t *)a->target.data)[t * a->target.stride[0]];
        u.dx = weft_has(&a->dx) ? cpu_row(&a->dx, t) : NULL;
        if (u.target < 0 || u.target >= u.width)
            entropy_ignore(&u);
        else if (a->x.dtype == WEFT_F32)
            entropy_one(WEFT_F32, &u);
        else
            entropy_one(a->x.dtype, &u);
    }
}

CPU_RUN(cross_entropy) {
    const weft_cross_entropy_args *a = &step->args.cross_entropy;
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->x), 8 * a->x.shape[1], entropy_rows, a);
}
