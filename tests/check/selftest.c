/* SPDX-License-Identifier: Apache-2.0
 * The checker is checked: rows broken on purpose, one fault each, around the fast backend's own.
 * Every fault must be found, and for its own reason; the rows they are made from must pass. */
#include "host/base/err.h"
#include "host/run/registry.h"
#include "tests/check/bench.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef void broken_run(const weft_step *step, weft_stream *stream);

static int machine_level;

/* The fast backend's best row of an op on this machine, else the reference's. */
static const weft_kernel *correct(weft_op op, const weft_args *a) {
    const weft_kernel *best = check_reference(op);
    for (const weft_kernel *r = weft_kernels_cpu; r->name; r++)
        if (r->op == op && r->cap <= machine_level && (!r->ok || r->ok(a)) && r->rank > best->rank)
            best = r;
    return best;
}

static void run_args(const weft_step *step, weft_stream *stream, const weft_args *a) {
    weft_step s = *step;
    s.args = *a;
    s.kernel = correct(step->kernel->op, &step->args);
    s.kernel->run(&s, stream);
}

static void run_right(const weft_step *step, weft_stream *stream) {
    run_args(step, stream, &step->args);
}

static float *at(const weft_tensor *t, int64_t row, int64_t column) {
    return (float *)t->data + row * t->stride[0] + column * t->stride[t->ndim - 1];
}

/* One unit in the last place: what no tolerance sees. */
static void nudge(float *x) {
    *x = nextafterf(*x, 1e30f);
}

/* ---- memory --------------------------------------------------------------------------------- */

static void wrong_tail(const weft_step *s, weft_stream *st) {
    const weft_tensor *y = &s->args.add.y;
    run_right(s, st);
    for (int64_t t = 0; t < y->shape[0]; t++)
        *at(y, t, y->shape[1] - 1) = 0;
}

static void last_row_missing(const weft_step *s, weft_stream *st) {
    weft_args a = s->args;
    int32_t n = (int32_t)a.rmsnorm.x.shape[0] - 1;
    a.rmsnorm.rows = weft_tensor_make(WEFT_I32, 1, (int64_t[]){1});
    a.rmsnorm.rows.data = &n;
    a.rmsnorm.rows.id = 99;
    run_args(s, st, &a);
}

static void past_the_end(const weft_step *s, weft_stream *st) {
    const weft_tensor *y = &s->args.add.y;
    run_right(s, st);
    *at(y, y->shape[0] - 1, y->shape[1]) = 1;
}

static void before_the_start(const weft_step *s, weft_stream *st) {
    run_right(s, st);
    *at(&s->args.softmax.y, 0, -1) = 1;
}

static void into_the_gap(const weft_step *s, weft_stream *st) {
    const weft_tensor *y = &s->args.rmsnorm.y;
    run_right(s, st);
    *at(y, 0, y->shape[1]) = 1;
}

static void into_the_input(const weft_step *s, weft_stream *st) {
    run_right(s, st);
    *at(&s->args.softmax.x, 0, 0) = 0.5f;
}

static void past_the_scratch(const weft_step *s, weft_stream *st) {
    size_t (*need)(const weft_args *) = correct(s->kernel->op, &s->args)->scratch;
    run_right(s, st);
    ((char *)s->scratch)[((need ? need(&s->args) : 0) + 63) / 64 * 64 + 8] = 1;
}

static void adds_to_old_output(const weft_step *s, weft_stream *st) {
    const weft_tensor *y = &s->args.add.y;
    float old = *at(y, 0, 0);
    run_right(s, st);
    if (old == old) /* survives an output of NaN */
        *at(y, 0, 0) += old;
}

static void ignores_rows(const weft_step *s, weft_stream *st) {
    weft_args a = s->args;
    a.matmul.rows.id = 0;
    run_args(s, st, &a);
}

static void extra_slot(const weft_step *s, weft_stream *st) {
    const weft_kv_append_args *a = &s->args.kv_append;
    run_right(s, st);
    *(float *)a->kcache.data = 1; /* slot 0 of page 0, skipped by the case */
}

/* ---- one arithmetic ------------------------------------------------------------------------- */

static void depends_on_threads(const weft_step *s, weft_stream *st) {
    run_right(s, st);
    if (st->threads > 1)
        nudge(at(&s->args.matmul.y, 0, 0));
}

static void depends_on_t(const weft_step *s, weft_stream *st) {
    run_right(s, st);
    if (s->args.rmsnorm.x.shape[0] == 1)
        nudge(at(&s->args.rmsnorm.y, 0, 0));
}

static void depends_on_place(const weft_step *s, weft_stream *st) {
    const weft_tensor *y = &s->args.matmul.y;
    run_right(s, st);
    for (int64_t t = 1; t < y->shape[0]; t += 2)
        nudge(at(y, t, 0));
}

static void other_order_for_one_row(const weft_step *s, weft_stream *st) {
    if (s->args.matmul.x.shape[0] == 1)
        check_reference(WEFT_OP_matmul)->run(s, st);
    else
        run_right(s, st);
}

static void differs_each_time(const weft_step *s, weft_stream *st) {
    static int calls;
    run_right(s, st);
    if (calls++ & 1)
        nudge(at(&s->args.glu.y, 0, 0));
}

static void other_bits_than_its_class(const weft_step *s, weft_stream *st) {
    const weft_tensor *y = &s->args.glu.y;
    run_right(s, st);
    for (int64_t t = 0; t < y->shape[0]; t++)
        for (int64_t n = 0; n < y->shape[1]; n++)
            nudge(at(y, t, n));
}

static void scaled(const weft_step *s, weft_stream *st) {
    const weft_tensor *y = &s->args.matmul.y;
    run_right(s, st);
    for (int64_t t = 0; t < y->shape[0]; t++)
        for (int64_t n = 0; n < y->shape[1]; n++)
            *at(y, t, n) *= 1.001f;
}

static void one_chain_for_all_leaves(const weft_step *s, weft_stream *st) {
    weft_args a = s->args;
    if (!a.matmul.partial)
        a.matmul.leaves = 1;
    run_args(s, st, &a);
}

static void leaves_left_to_right(const weft_step *s, weft_stream *st) {
    const weft_leaf_sum_args *a = &s->args.leaf_sum;
    const float *x = a->x.data;
    (void)st;
    for (int64_t t = 0; t < a->y.shape[0]; t++)
        for (int64_t n = 0; n < a->y.shape[1]; n++) {
            float sum = 0;
            for (int64_t l = 0; l < a->x.shape[0]; l++)
                sum += x[l * a->x.stride[0] + t * a->x.stride[1] + n];
            *at(&a->y, t, n) = sum;
        }
}

/* bf16: one rounding at the end instead of one each for the product, the bias and the
 * activation. */
static void fused_rounds_once(const weft_step *s, weft_stream *st) {
    weft_args a = s->args;
    const weft_tensor *y = &s->args.matmul.y, *bias = &s->args.matmul.bias;
    float *plain = mem_alloc((size_t)weft_tensor_count(y) * 4);
    a.matmul.y = weft_tensor_make(WEFT_F32, 2, y->shape);
    a.matmul.y.data = plain;
    a.matmul.y.id = y->id;
    a.matmul.bias.id = 0;
    a.matmul.act = 0;
    if (!weft_has(bias)) {
        run_right(s, st);
    } else {
        run_args(s, st, &a);
        for (int64_t t = 0; t < y->shape[0]; t++)
            for (int64_t n = 0; n < y->shape[1]; n++) {
                float z = plain[t * y->shape[1] + n] +
                          weft_bf16_to_f32(((uint16_t *)bias->data)[n]);
                z = s->args.matmul.act == WEFT_ACT_SILU ? z / (1 + expf(-z)) : z;
                ((uint16_t *)y->data)[t * y->stride[0] + n] = weft_f32_to_bf16(z);
            }
    }
    mem_free(plain);
}

static void sum_not_rounded_before_norm(const weft_step *s, weft_stream *st) {
    const weft_rmsnorm_args *a = &s->args.rmsnorm;
    const uint16_t *x = a->x.data, *res = a->res.data, *g = a->g.data;
    run_right(s, st);
    for (int64_t t = 0; weft_has(&a->res) && t < a->x.shape[0]; t++) {
        double sum = 0, H = (double)a->x.shape[1];
        for (int64_t i = 0; i < a->x.shape[1]; i++) {
            double r = (double)(weft_bf16_to_f32(x[t * a->x.stride[0] + i]) +
                                weft_bf16_to_f32(res[t * a->res.stride[0] + i]));
            sum += r * r / H;
        }
        for (int64_t i = 0; i < a->x.shape[1]; i++) {
            double r = (double)(weft_bf16_to_f32(x[t * a->x.stride[0] + i]) +
                                weft_bf16_to_f32(res[t * a->res.stride[0] + i]));
            ((uint16_t *)a->y.data)[t * a->y.stride[0] + i] = weft_f32_to_bf16(
                (float)(r / sqrt(sum + (double)a->eps) * (double)weft_bf16_to_f32(g[i])));
        }
    }
}

/* ---- attention ------------------------------------------------------------------------------ */

#define FORGETS(name, change) \
    static void name(const weft_step *s, weft_stream *st) { \
        weft_args args = s->args; \
        weft_attention_args *a = &args.attention; \
        change; \
        run_args(s, st, &args); \
    }
FORGETS(forgets_window, a->window = 0)
FORGETS(window_off_by_one, a->window += a->window > 0)
FORGETS(forgets_softcap, a->softcap = 0)
FORGETS(forgets_sinks, a->sinks.id = 0)
FORGETS(forgets_slopes, a->slopes.id = 0)
FORGETS(forgets_bias, a->bias.id = 0)
FORGETS(forgets_causal, a->causal = 0)
FORGETS(forgets_head0, a->head0 = 0)
FORGETS(ignores_k_layout, (a->k.stride[3] = 1, a->k.stride[2] = a->k.shape[3]))

static void uses_masked_value(const weft_step *s, weft_stream *st) {
    const weft_attention_args *a = &s->args.attention;
    int32_t last = *(int32_t *)a->kvlen.data - 1;
    run_right(s, st);
    if (!weft_has(&a->pages))
        return;
    int32_t page = ((int32_t *)a->pages.data)[last / a->v.shape[2]];
    float v = ((float *)a->v.data)[page * a->v.stride[0] + last % a->v.shape[2] * a->v.stride[2]];
    *(float *)a->y.data += 0.0f * v;
}

static void decode_differs(const weft_step *s, weft_stream *st) {
    run_right(s, st);
    if (s->args.attention.q.shape[0] == 1)
        nudge(s->args.attention.y.data);
}

/* Trusts that a sequence's pages follow one another. */
static void ignores_page_table(const weft_step *s, weft_stream *st) {
    weft_args args = s->args;
    weft_tensor *p = &args.attention.pages;
    int32_t *own = mem_alloc((size_t)weft_tensor_count(p) * 4);
    memcpy(own, p->data, (size_t)weft_tensor_count(p) * 4);
    for (int64_t q = 0; q < p->shape[0]; q++)
        for (int64_t i = 1; i < p->shape[1]; i++)
            if (own[q * p->shape[1] + i] < args.attention.k.shape[0])
                own[q * p->shape[1] + i] = (int32_t)((own[q * p->shape[1]] + i) %
                                                     args.attention.k.shape[0]);
    p->data = own;
    run_args(s, st, &args);
    mem_free(own);
}

/* ---- values --------------------------------------------------------------------------------- */

static void last_tie_wins(const weft_step *s, weft_stream *st) {
    const weft_argmax_args *a = &s->args.argmax;
    run_right(s, st);
    for (int64_t t = 0; t < a->x.shape[0]; t++)
        for (int64_t n = 0; n < a->x.shape[1]; n++) {
            int32_t *id = (int32_t *)a->id.data + t;
            if (*id >= 0 && *at(&a->x, t, n) == *at(&a->x, t, *id))
                *id = (int32_t)n;
        }
}

static void cast_truncates(const weft_step *s, weft_stream *st) {
    const weft_cast_args *a = &s->args.cast;
    (void)st;
    for (int64_t t = 0; t < a->x.shape[0]; t++)
        for (int64_t n = 0; n < a->x.shape[1]; n++)
            ((uint16_t *)a->y.data)[t * a->y.stride[0] + n] =
                (uint16_t)(weft_f32_bits(*at(&a->x, t, n)) >> 16);
}

static void masked_row_is_nan(const weft_step *s, weft_stream *st) {
    run_right(s, st);
    if (s->args.softmax.x.shape[0] > 3)
        *at(&s->args.softmax.y, 3, 0) = NAN;
}

static void keeps_minus_zero(const weft_step *s, weft_stream *st) {
    const weft_tensor *y = &s->args.embed.y;
    run_right(s, st);
    for (int64_t t = 0; t < y->shape[0]; t++)
        for (int64_t n = 0; n < y->shape[1]; n++)
            if (*at(y, t, n) == 0)
                *at(y, t, n) = -0.0f;
}

static void act_before_bias(const weft_step *s, weft_stream *st) {
    weft_args a = s->args;
    const weft_tensor *y = &a.matmul.y, *bias = &s->args.matmul.bias;
    a.matmul.bias.id = 0;
    run_args(s, st, &a);
    for (int64_t t = 0; weft_has(bias) && t < y->shape[0]; t++)
        for (int64_t n = 0; n < y->shape[1]; n++)
            *at(y, t, n) += ((float *)bias->data)[n];
}

/* ---- gradients ------------------------------------------------------------------------------ */

/* Sums the rows apart and adds them once: no chain that goes on in another call. */
static void sums_apart(const weft_step *s, weft_stream *st) {
    const weft_tensor *db = &s->args.bias_db.db;
    float old[64];
    for (int64_t i = 0; i < db->shape[0]; i++) {
        old[i] = *at(db, 0, i);
        *at(db, 0, i) = 0;
    }
    run_right(s, st);
    for (int64_t i = 0; i < db->shape[0]; i++)
        *at(db, 0, i) += old[i];
}

static void one_chain_for_all_shards(const weft_step *s, weft_stream *st) {
    weft_args a = s->args;
    a.bias_db.shards = 1;
    run_args(s, st, &a);
}

static void pad_rows_stir(const weft_step *s, weft_stream *st) {
    const weft_tensor *dy = &s->args.bias_db.dy;
    run_right(s, st);
    if (*at(dy, 0, 0) == 0)
        nudge(at(&s->args.bias_db.db, 0, 0));
}

/* ---- the list ------------------------------------------------------------------------------- */

typedef struct {
    const char *fault, *test; /* the case that finds it */
    const char *finds;        /* part of the reason that must be given */
    broken_run *run;
} broken;

static const broken list[] = {
    {"wrong tail", "add:fp32:T=3,N=33", "reference", wrong_tail},
    {"last row missing", "rmsnorm:fp32:T=7,H=16", "reference", last_row_missing},
    {"writes past the end", "add:fp32:T=3,N=33", "guard", past_the_end},
    {"writes before the start", "softmax:fp32:T=7,N=33", "guard", before_the_start},
    {"writes between rows", "rmsnorm:fp32:T=7,H=16,pad=3", "gap", into_the_gap},
    {"writes into its input", "softmax:fp32:T=7,N=33", "an input", into_the_input},
    {"writes past its scratch", "matmul:fp32:T=5,N=7,K=17", "scratch", past_the_scratch},
    {"adds to the old output", "add:fp32:T=3,N=33", "second run", adds_to_old_output},
    {"ignores rows", "matmul:fp32:T=9,N=40,K=80,rows=5", "past the true number", ignores_rows},
    {"writes a slot it was not given", "kv_append:fp32:T=7,H=3,D=33,page=4", "kcache", extra_slot},
    {"depends on the number of threads", "matmul:fp32:T=7,N=64,K=128", "two threads",
     depends_on_threads},
    {"depends on T", "rmsnorm:fp32:T=7,H=16", "alone", depends_on_t},
    {"depends on the place in the batch", "matmul:fp32:T=7,N=64,K=128", "row", depends_on_place},
    {"another order of sums for one row", "matmul:fp32:T=7,N=64,K=128", "alone",
     other_order_for_one_row},
    {"differs from run to run", "glu:fp32:T=7,N=129,act=1", "second run", differs_each_time},
    {"other bits than its class", "glu:fp32:T=7,N=129,act=1", "class", other_bits_than_its_class},
    {"scaled by 1.001", "matmul:fp32:T=7,N=64,K=128", "reference", scaled},
    {"one chain where leaves are asked for", "matmul:fp32:T=5,N=17,K=128,leaves=8", "leaf_sum",
     one_chain_for_all_leaves},
    {"leaves added left to right", "leaf_sum:fp32:L=8,T=5,N=129", "tree", leaves_left_to_right},
    {"a fused bias rounds once", "matmul:bf16:T=33,N=20,K=144,bias=1", "leaf_sum",
     fused_rounds_once},
    {"a fused activation rounds once", "matmul:bf16:T=33,N=20,K=144,bias=1,act=1",
     "one after the other", fused_rounds_once},
    {"a fused sum is not rounded before the norm", "rmsnorm:bf16:T=33,H=64,res=1", "stored first",
     sum_not_rounded_before_norm},
    {"activation before bias", "matmul:fp32:T=9,N=40,K=80,bias=1,act=1", "reference",
     act_before_bias},
    {"forgets the window", "attention:fp32:S=3,H=2,D=64,keys=33,page=16,window=9", "reference",
     forgets_window},
    {"window off by one", "attention:fp32:S=3,H=2,D=64,keys=33,page=16,window=9", "reference",
     window_off_by_one},
    {"forgets the soft cap", "attention:fp32:S=3,H=2,D=64,keys=33,page=16,cap=20", "reference",
     forgets_softcap},
    {"forgets the sinks", "attention:fp32:S=3,H=2,D=64,keys=33,page=16,sinks=1", "reference",
     forgets_sinks},
    {"forgets the slopes", "attention:fp32:S=3,H=2,D=64,keys=33,page=16,alibi=1", "reference",
     forgets_slopes},
    {"forgets the position bias", "attention:fp32:S=3,H=2,D=64,keys=33,page=16,R=8", "reference",
     forgets_bias},
    {"forgets that it is causal", "attention:fp32:S=3,H=2,D=64,keys=33,page=16", "reference",
     forgets_causal},
    {"forgets which heads it has", "attention:fp32:S=2,H=3,group=2,head0=1,D=32,keys=30,page=16",
     "reference", forgets_head0},
    {"ignores the layout of K pages", "attention:fp32:S=3,H=2,D=64,keys=33,page=16", "layout",
     ignores_k_layout},
    {"ignores the page table", "attention:fp32:S=3,H=2,D=64,keys=33,page=4", "reference",
     ignores_page_table},
    {"multiplies a masked value by zero", "attention:fp32:S=3,H=2,D=64,keys=33,page=16", "masked",
     uses_masked_value},
    {"decode differs from prefill", "attention:fp32:S=3,H=2,D=64,keys=33,page=16", "decoding",
     decode_differs},
    {"the last of equals wins", "argmax:fp32:T=9,N=17,ties=1", "reference", last_tie_wins},
    {"cuts instead of rounding", "cast:fp32:T=3,N=33,y=3,edges=1", "reference", cast_truncates},
    {"a masked row is NaN", "softmax:fp32:T=7,N=33,mask=1", "reference", masked_row_is_nan},
    {"a gradient's rows are summed apart", "bias_db:fp32:T=17,N=60", "two calls", sums_apart},
    {"one chain where shards are asked for", "bias_db:fp32:T=48,N=33,shards=4", "one shard",
     one_chain_for_all_shards},
    {"rows of zeros change a gradient", "bias_db:fp32:T=17,N=60", "zeros", pad_rows_stir},
    {"keeps -0", "embed:fp32:T=17,V=101,H=64,fill=4", "reference", keeps_minus_zero},
};

static const check_op *op_of(const char *test, const char **rest) {
    size_t n = strcspn(test, ":");
    *rest = test + n + 1;
    for (int i = 0; check_ops[i]; i++) {
        const char *name = weft_op_table[check_ops[i]->op].name;
        if (strlen(name) == n && !memcmp(name, test, n))
            return check_ops[i];
    }
    return NULL;
}

/* A row on a set: its own demands, then the bits of the right row, which shares its class. */
static void judge(check_state *k, const weft_kernel *row, const check_set *s,
                  const check_result *truth, const check_result *right, check_result *base) {
    k->bad = false;
    check_row(k, row, s, truth, base);
    if (!k->bad && right)
        check_results_equal(k, s, base, right, "a row of the same numerics class differs");
}

static bool try_one(check_state *k, const broken *b, uint64_t seed) {
    const char *rest;
    check_case c;
    check_set s;
    check_result truth, right, wrong = {0};
    const check_op *op = op_of(b->test, &rest);
    if (!op || !check_case_parse(op, rest, &c, NULL)) {
        printf("MISSED %s: bad case %s\n", b->fault, b->test);
        return false;
    }
    check_set_init(&s, &c, seed);
    op->build(&s);
    k->bad = false;
    k->row = check_reference(op->op);
    check_exec(k, k->row, &s, 1, false, &truth);
    const weft_kernel *good = correct(op->op, &s.args);
    weft_kernel bad = *good;
    bad.run = b->run;
    bad.name = "broken";
    judge(k, good, &s, &truth, NULL, &right);
    bool sound = !k->bad;
    if (!sound)
        printf("WRONG  %s: the correct row %s/%s fails: %s\n", b->fault, good->backend, good->name,
               k->why);
    judge(k, &bad, &s, &truth, &right, &wrong);
    bool caught = k->bad && strstr(k->why, b->finds);
    if (sound)
        printf("%s %s: %s\n", caught ? "caught" : "MISSED", b->fault,
               k->bad ? k->why : "nothing found");
    check_result_fini(&truth);
    check_result_fini(&right);
    check_result_fini(&wrong);
    check_set_fini(&s);
    return sound && caught;
}

/* ---- the comparison of what was measured ---------------------------------------------------- */

typedef struct {
    check_set s;
    weft_step step;
    bench_memory m;
    size_t off[CHECK_OPERANDS], bytes;
} measured;

static void run_measured(check_state *k, measured *t, const char *test) {
    const char *rest;
    check_case c;
    const check_op *op = op_of(test, &rest);
    check_backend *b = k->backends;
    while (strcmp(b->name, "cpu") != 0)
        b++;
    WEFT_ASSERT(op && check_case_parse(op, rest, &c, NULL));
    check_set_init(&t->s, &c, 1);
    t->s.aligned = true;
    op->build(&t->s);
    for (int i = 0; i < t->s.n; i++) {
        t->off[i] = t->bytes;
        t->bytes += (t->s.operand[i].bytes + 255) / 256 * 256;
    }
    t->m = (bench_memory){.d = b->device, .stream = b->stream[1], .off = t->off};
    WEFT_ASSERT(b->device->alloc(b->device, t->bytes, "test", (void **)&t->m.at) == WEFT_OK);
    t->step = (weft_step){.kernel = correct(op->op, &t->s.args), .args = t->s.args};
    for (int i = 0; i < t->s.n; i++) {
        const check_operand *o = &t->s.operand[i];
        size_t at = (size_t)((char *)o->at - (char *)&t->s.args);
        b->device->copy(b->device, t->m.stream, t->m.at + t->off[i], o->image, o->bytes, DEVICE_TO);
        ((weft_tensor *)((char *)&t->step.args + at))->data = t->m.at + t->off[i] + o->first;
    }
    size_t scratch = t->step.kernel->scratch ? t->step.kernel->scratch(&t->step.args) : 0;
    t->step.scratch = arena_alloc(&t->s.mem, scratch + 64); /* a host's: cpu reads it */
    t->step.kernel->run(&t->step, t->m.stream);
}

/* A right result passes; one element of the last row off is seen. */
static bool try_measured(check_state *k, const char *test) {
    measured t = {.bytes = 0};
    run_measured(k, &t, test);
    const char *right = bench_verify(k, &t.s, &t.m, 1e6);
    bool passed = !right;
    for (int i = 0; i < t.s.n; i++) {
        const check_operand *o = &t.s.operand[i];
        int64_t last[WEFT_DIMS] = {o->at->shape[0] - 1};
        if (o->role == 'O')
            check_store(o, t.m.at + t.off[i], last, 1e9f);
    }
    const char *wrong = bench_verify(k, &t.s, &t.m, 1e6);
    bool caught = wrong && strcmp(wrong, "not compared") != 0;
    printf("%s a wrong element of a measured %s: %s\n", passed && caught ? "caught" : "MISSED",
           test, passed ? wrong ? wrong : "nothing found" : right);
    t.m.d->release(t.m.d, t.m.at, t.bytes);
    check_set_fini(&t.s);
    return passed && caught;
}

/* The reference's gradient passes; with a hundredth of it gone differences tell. */
static bool try_gradient(check_state *k, const char *test, const char *name, uint64_t seed) {
    const char *rest;
    check_case c;
    check_set s;
    check_result truth;
    const check_op *op = op_of(test, &rest);
    WEFT_ASSERT(op && check_case_parse(op, rest, &c, NULL));
    const weft_tensor *of = ops_ctensor(&s.args, ops_field(op->op, name));
    check_set_init(&s, &c, seed);
    op->build(&s);
    k->bad = false;
    k->row = check_reference(op->op);
    check_exec(k, k->row, &s, 1, false, &truth);
    check_differences(k, &s, &truth);
    bool passed = !k->bad;
    const check_operand *o = check_find(&s, of);
    char *image = truth.image[o - s.operand];
    int64_t i[WEFT_DIMS] = {0};
    do {
        double start = o->role == 'A' ? check_load(o, o->image, i) : 0;
        check_store(o, image, i, (float)(start + 0.99 * (check_load(o, image, i) - start)));
    } while (check_next(of->shape, i));
    check_differences(k, &s, &truth);
    printf("%s a hundredth of %s's %s missing: %s\n", passed && k->bad ? "caught" : "MISSED", test,
           name, k->bad ? k->why : "nothing found");
    check_result_fini(&truth);
    check_set_fini(&s);
    return passed && k->bad;
}

static const char *const gradients[][2] = {
    {"matmul_dx:fp32:T=7,N=16,K=129,res=1", "dx"},
    {"matmul_dw:fp32:T=17,N=40,K=64", "dw"},
    {"bias_db:fp32:T=7,N=16", "db"},
    {"rmsnorm_dx:fp32:T=33,H=64,dr=1", "dx"},
    {"rmsnorm_dg:fp32:T=65,H=64", "dg"},
    {"layernorm_dx:fp32:T=33,H=64", "dx"},
    {"layernorm_dg:fp32:T=65,H=64", "dg"},
    {"layernorm_dg:fp32:T=65,H=64", "db"},
    {"rope_dx:fp32:T=7,H=2,D=80,R=16", "dx"},
    {"glu_dx:fp32:T=7,N=129,act=1", "dgate"},
    {"glu_dx:fp32:T=7,N=129,act=3", "dup"},
    {"activation_dx:fp32:T=7,N=129,act=2", "dx"},
    {"attention_dx:fp32:S=4,H=4,group=4,D=16,keys=20,cap=30", "dq"},
    {"attention_dx:fp32:S=4,H=4,group=4,D=16,keys=20,alibi=1", "dk"},
    {"attention_dx:fp32:S=4,H=4,group=4,D=16,keys=20,sinks=1", "dv"},
    {"embed_dw:fp32:T=64,V=11,H=64", "dw"},
    {"cross_entropy:fp32:T=9,V=17,z=10", "dx"},
};
enum { GRADIENTS = sizeof gradients / sizeof *gradients };

int check_self_test(check_state *k, uint64_t seed) {
    int n = (int)(sizeof list / sizeof *list), caught = 0;
    machine_level = device_cpu_level();
    for (int i = 0; i < n; i++)
        caught += try_one(k, &list[i], seed);
    caught += try_measured(k, "matmul:bf16:T=33,N=40,K=64");
    caught += try_measured(k, "rmsnorm:bf16:T=9,H=128,res=1");
    for (int i = 0; i < GRADIENTS; i++)
        caught += try_gradient(k, gradients[i][0], gradients[i][1], seed);
    n += 2 + GRADIENTS;
    printf("%d of %d broken kernels caught\n", caught, n);
    return caught == n ? 0 : 1;
}
