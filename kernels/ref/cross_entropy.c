/* SPDX-License-Identifier: Apache-2.0
 * cross_entropy: loss of a row of logits against its target, and the gradient, with label
 * smoothing (Szegedy et al., 2016) and z-loss (de Brebisson and Vincent, 2016). */
#include "kernels/ref/ref.h"

int ref_cross_entropy_ok(const weft_args *args) {
    const weft_cross_entropy_args *a = &args->cross_entropy;
    return ref_is_float(&a->x) && a->scale.dtype == WEFT_F32 &&
           (!weft_has(&a->loss) || a->loss.dtype == WEFT_F32) &&
           (!weft_has(&a->nll) || a->nll.dtype == WEFT_F32) && ref_is_float_or_absent(&a->dx);
}

/* A row: its log-sum-exp, the sum of its logits and the target's. */
typedef struct {
    const weft_cross_entropy_args *a;
    int64_t t, target;
    double lse, sum, hit;
} entropy_row;

static double entropy_x(const entropy_row *u, int64_t i) {
    const weft_tensor *x = &u->a->x;
    return ref_get(x, u->t * x->stride[0] + i * x->stride[1]);
}

static void entropy_look(entropy_row *u) {
    int64_t n = u->a->x.shape[1];
    double most = -INFINITY, total = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = entropy_x(u, i);
        most = v > most || v != v ? v : most;
        u->sum += v;
    }
    for (int64_t i = 0; i < n; i++)
        total += weft_exp(entropy_x(u, i) - most);
    u->lse = most + weft_log(total);
    u->hit = entropy_x(u, u->target);
}

static void entropy_loss(const entropy_row *u) {
    const weft_cross_entropy_args *a = u->a;
    double e = a->smoothing, z = a->z_loss, loss = u->lse - (1.0 - e) * u->hit;
    if (e != 0) /* a logit of -infinity is none of the loss's business without */
        loss -= e * u->sum / (double)a->x.shape[1];
    if (z != 0)
        loss += z * u->lse * u->lse;
    if (weft_has(&a->loss))
        ref_put(&a->loss, u->t * a->loss.stride[0], loss);
    if (weft_has(&a->nll))
        ref_put(&a->nll, u->t * a->nll.stride[0], u->lse - u->hit);
}

static void entropy_gradient(const entropy_row *u) {
    const weft_cross_entropy_args *a = u->a;
    int64_t n = a->x.shape[1];
    double scale = ref_get(&a->scale, 0), e = a->smoothing;
    double more = 1.0 + 2.0 * (double)a->z_loss * u->lse;
    for (int64_t i = 0; i < n; i++) {
        double p = weft_exp(entropy_x(u, i) - u->lse);
        double v = p * more - (i == u->target ? 1.0 - e : 0.0) - e / (double)n;
        ref_put(&a->dx, u->t * a->dx.stride[0] + i * a->dx.stride[1], scale * v);
    }
}

static void entropy_ignore(const entropy_row *u) {
    const weft_cross_entropy_args *a = u->a;
    if (weft_has(&a->loss))
        ref_put(&a->loss, u->t * a->loss.stride[0], 0.0);
    if (weft_has(&a->nll))
        ref_put(&a->nll, u->t * a->nll.stride[0], 0.0);
    for (int64_t i = 0; weft_has(&a->dx) && i < a->x.shape[1]; i++)
        ref_put(&a->dx, u->t * a->dx.stride[0] + i * a->dx.stride[1], 0.0);
}

static void entropy_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_cross_entropy_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        entropy_row u = {.a = a, .t = t, .target = ref_int(&a->target, t * a->target.stride[0])};
        if (u.target < 0 || u.target >= a->x.shape[1]) {
            entropy_ignore(&u);
            continue;
        }
        entropy_look(&u);
        entropy_loss(&u);
        if (weft_has(&a->dx))
            entropy_gradient(&u);
    }
}

void ref_cross_entropy_run(const weft_step *step, weft_stream *stream) {
    const weft_cross_entropy_args *a = &step->args.cross_entropy;
    weft_parallel(stream, ref_lead(&a->rows, a->x.shape[0]), ref_grain(16 * a->x.shape[1]),
                  entropy_rows, a);
}
