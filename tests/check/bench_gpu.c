/* SPDX-License-Identifier: Apache-2.0
 * How fast each row of cuda is beside this card's measured ceilings and cuBLASLt. Runs are recorded
 * as a graph and timed by events on the device; each run has the next of several copies of its
 * operands, together three times the L2 and more, so that what comes from memory in a model comes
 * from memory here. All contenders of a shape take turns. */
#include "host/base/err.h"
#include "host/run/registry.h"
#include "tests/check/bench.h"
#include "tests/check/gpu.h"
#include "weft/gpu.h"
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 12, ROUNDS = 15, COPIES = 256, MOST_RUNS = 1024, PERIOD = 1000003 };
static const int64_t room = 3LL << 30;    /* bytes that copies may take together */
static const int64_t block = 2LL << 30;   /* for measuring the ceilings */
static const size_t workspace = 64 << 20; /* of cuBLASLt, as its documents advise for Hopper */

typedef struct {
    check_state *k;
    device *d;
    weft_stream *stream;
    gpu *g;
    vendor *lt;
    gpu_ceilings top;
    void *numbers[3];        /* PERIOD normal numbers of each float type, on the device */
    bool json, first, usage; /* usage: a case that is none was asked for */
} bench;

/* One row of the registry, or cuBLASLt. */
typedef struct {
    bench *b;
    const weft_kernel *row; /* NULL: cuBLASLt */
    weft_step *step;        /* by copy */
    int copies;
    bool dead;
    gpu_graph *graph;
    int64_t runs; /* of the graph */
    double took[ROUNDS];
    int n;
    char wrong[200]; /* "": right as far as was looked */
} contender;

typedef struct {
    char *at;
    uint64_t bytes;
    size_t off[CHECK_OPERANDS], scratch, one; /* inside a copy; of a copy */
    int copies;
} placement;

/* ---- operands on the device ----------------------------------------------------------------- */

static bool make_numbers(bench *b) {
    for (int type = WEFT_F32; type <= WEFT_BF16; type++) {
        size_t size = (size_t)weft_dtype_bytes(type, 1);
        char *host = malloc(PERIOD * size);
        for (uint64_t i = 0; host && i < PERIOD; i++) {
            float x = check_normal(check_hash(1, i));
            uint16_t h = type == WEFT_F16 ? weft_f32_to_f16(x) : weft_f32_to_bf16(x);
            memcpy(host + i * size, type == WEFT_F32 ? (void *)&x : (void *)&h, size);
        }
        bool done = host &&
                    b->d->alloc(b->d, PERIOD * size, "bench", &b->numbers[type]) == WEFT_OK &&
                    b->d->copy(b->d, b->stream, b->numbers[type], host, PERIOD * size, DEVICE_TO) ==
                        WEFT_OK &&
                    b->d->sync(b->d, b->stream) == WEFT_OK;
        free(host);
        if (!done)
            return false;
    }
    return true;
}

/* Repeats the numbers: what is there already is copied behind itself. */
static void fill(bench *b, char *at, int dtype, size_t bytes) {
    int type = dtype <= WEFT_BF16 ? dtype : WEFT_BF16; /* as integers: any bytes */
    size_t have = PERIOD * (size_t)weft_dtype_bytes(type, 1);
    have = have < bytes ? have : bytes;
    b->d->copy(b->d, b->stream, at, b->numbers[type], have, DEVICE_WITHIN);
    while (have < bytes) {
        size_t n = have < bytes - have ? have : bytes - have;
        b->d->copy(b->d, b->stream, at + have, at, n, DEVICE_WITHIN);
        have += n;
    }
}

static void fill_copy(bench *b, const check_set *s, char *at, const placement *p) {
    for (int i = 0; i < s->n; i++) {
        const check_operand *o = &s->operand[i];
        if (o->image)
            b->d->copy(b->d, b->stream, at + p->off[i], o->image, o->bytes, DEVICE_TO);
        else
            fill(b, at + p->off[i], o->spec.dtype, o->bytes);
    }
}

static bool place(bench *b, const check_set *s, size_t scratch, placement *p) {
    memset(p, 0, sizeof *p);
    for (int i = 0; i < s->n; i++) {
        p->off[i] = p->one;
        p->one += (s->operand[i].bytes + 255) / 256 * 256;
    }
    int64_t cold = 3 * gpu_l2_bytes(b->g), n = cold / (int64_t)p->one + 1;
    p->scratch = p->one;
    p->one += (scratch + 511) / 256 * 256;
    n = n * (int64_t)p->one > room ? room / (int64_t)p->one : n;
    p->copies = (int)(n < 1 ? 1 : n > COPIES ? COPIES : n);
    p->bytes = (uint64_t)p->one * (uint64_t)p->copies;
    if (b->d->alloc(b->d, p->bytes, "bench", (void **)&p->at) != WEFT_OK)
        return false;
    for (int c = 0; c < p->copies; c++)
        fill_copy(b, s, p->at + p->one * (size_t)c, p);
    return b->d->sync(b->d, b->stream) == WEFT_OK;
}

static bool aim(weft_step *step, const weft_kernel *row, const check_set *s, const placement *p,
                char *at, arena *a) {
    step->kernel = row;
    step->args = s->args;
    step->scratch = at + p->scratch;
    for (int i = 0; i < s->n; i++) {
        size_t off = (size_t)((char *)s->operand[i].at - (char *)&s->args);
        weft_tensor *t = (weft_tensor *)((char *)&step->args + off);
        t->data = at + p->off[i] + CHECK_GUARD;
        if (s->operand[i].image)
            t->data = at + p->off[i] + s->operand[i].first;
    }
    check_set_cost(s, &step->bytes, &step->flops);
    if (!row)
        return true;
    step->state = row->state_bytes ? arena_alloc(a, row->state_bytes) : NULL;
    return !row->bind || row->bind(step, step->state) == 0;
}

/* ---- timing --------------------------------------------------------------------------------- */

static void run(void *ctx, int64_t i) {
    contender *c = ctx;
    const weft_step *step = &c->step[i % c->copies];
    if (c->row)
        c->row->run(step, c->b->stream);
    else if (!vendor_run(c->b->lt, step->args.matmul.x.data, step->args.matmul.w.data,
                         step->args.matmul.y.data))
        c->dead = true;
}

static bool fault(contender *c, double seconds) {
    weft_cuda_stream *s = (weft_cuda_stream *)c->b->stream;
    if (seconds < 0 || s->error)
        c->dead = true;
    s->error = 0; /* a refused launch is this row's affair alone */
    return c->dead;
}

/* About two milliseconds of runs, at least one for each copy, as one graph. */
static void record(contender *c) {
    double once = gpu_seconds(c->b->g, NULL, run, c, 1);
    if (!fault(c, once))
        once = gpu_seconds(c->b->g, NULL, run, c, 1);
    if (fault(c, once))
        return;
    int64_t runs = (int64_t)(2e-3 / (once + 1e-7)) + 1;
    runs = (runs + c->copies - 1) / c->copies * c->copies;
    c->runs = once > 0.05 ? 1 : runs > MOST_RUNS ? MOST_RUNS : runs;
    c->graph = gpu_record(c->b->g, run, c, c->runs);
    fault(c, gpu_seconds(c->b->g, c->graph, run, c, c->runs)); /* warm up */
}

static void time_once(contender *c) {
    double s = c->dead || c->n == ROUNDS ? 0 : gpu_seconds(c->b->g, c->graph, run, c, c->runs);
    if (c->dead || c->n == ROUNDS || fault(c, s))
        return;
    c->took[c->n++] = s / (double)c->runs;
}

/* The library's guesses are ranked by nobody but the clock. */
static void best_algorithm(contender *c) {
    double best = -1;
    int chosen = 0;
    for (int i = 0; i < vendor_algorithms(c->b->lt); i++) {
        vendor_choose(c->b->lt, i);
        c->dead = false;
        gpu_seconds(c->b->g, NULL, run, c, c->copies < 4 ? c->copies : 4);
        double s = gpu_seconds(c->b->g, NULL, run, c, c->copies);
        if (!c->dead && s > 0 && (best < 0 || s < best)) {
            best = s;
            chosen = i;
        }
    }
    c->dead = best < 0;
    vendor_choose(c->b->lt, chosen);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(contender *c) {
    qsort(c->took, (size_t)c->n, sizeof *c->took, ascending);
    return c->n ? c->took[c->n / 2] : 0;
}

/* ---- output --------------------------------------------------------------------------------- */

static double ratio(double a, double b) {
    return b > 0 ? a / b : 0;
}

/* One contender's figures on a shape. */
typedef struct {
    const char *op, *shape, *row, *dtype;
    double s, bytes, flops, peak, opponent; /* seconds; a second; of the library, seconds */
} figures;

static void print_json(const bench *b, const contender *t, const figures *f) {
    printf("%s{\"op\":\"%s\",\"shape\":\"%s\",\"row\":\"%s\",\"dtype\":\"%s\",\"us\":%.3f,"
           "\"us_min\":%.3f,\"us_max\":%.3f,\"rounds\":%d,\"runs\":%lld,\"graph\":%s,\"gb_s\":"
           "%.2f,\"tflop_s\":%.4f,\"of_read\":%.4f,\"of_copy\":%.4f,\"of_peak\":%.4f,"
           "\"vendor_us\":%.3f,\"speed_of_vendor\":%.4f,\"failed\":%s,\"wrong\":\"%s\"}",
           b->first ? "[" : ",\n ", f->op, f->shape, f->row, f->dtype, f->s * 1e6,
           t->n ? t->took[0] * 1e6 : 0, t->n ? t->took[t->n - 1] * 1e6 : 0, t->n,
           (long long)t->runs, t->graph ? "true" : "false", f->bytes * 1e-9, f->flops * 1e-12,
           ratio(f->bytes, b->top.read), ratio(f->bytes, b->top.copy), ratio(f->flops, f->peak),
           f->opponent * 1e6, ratio(f->opponent, f->s), t->dead ? "true" : "false", t->wrong);
}

static void print_text(const bench *b, const contender *t, const figures *f) {
    printf("%-13s %-44s %-10s %s %10.2f us %8.1f GB/s %5.1f%% read %5.1f%% copy %8.2f TFLOP/s "
           "%5.1f%% peak",
           f->op, f->shape, f->row, f->dtype, f->s * 1e6, f->bytes * 1e-9,
           100 * ratio(f->bytes, b->top.read), 100 * ratio(f->bytes, b->top.copy), f->flops * 1e-12,
           100 * ratio(f->flops, f->peak));
    if (f->opponent > 0)
        printf("  x%.2f of cublasLt", ratio(f->opponent, f->s));
    printf("%s%s%s\n", t->dead ? "  FAILED" : "", *t->wrong ? "  " : "", t->wrong);
}

static void print_one(bench *b, const check_case *c, contender *t, double opponent) {
    buf shape;
    buf_init(&shape, 4096);
    check_case_print(&shape, c);
    double s = median(t);
    figures f = {.op = weft_op_table[c->op->op].name,
                 .shape = strchr(strchr(shape.data, ':') + 1, ':') + 1,
                 .row = t->row ? t->row->name : "cublasLt",
                 .dtype = weft_dtype_name(c->dtype),
                 .s = s,
                 .bytes = ratio((double)t->step->bytes, s),
                 .flops = ratio((double)t->step->flops, s),
                 .peak = t->row && t->row->arith == WEFT_ARITH_SIMT ? b->top.fma : b->top.mma,
                 .opponent = opponent};
    (b->json ? print_json : print_text)(b, t, &f);
    b->first = false;
    fflush(stdout);
    buf_fini(&shape);
}

/* ---- cases ---------------------------------------------------------------------------------- */

static bool like_vendor(const check_set *s) {
    const weft_matmul_args *a = &s->args.matmul;
    return s->c.op->op == WEFT_OP_matmul && a->x.dtype == a->w.dtype && !a->partial && !a->act &&
           a->x.dtype <= WEFT_BF16 && !weft_has(&a->bias) && !weft_has(&a->res);
}

static int enter(bench *b, const check_set *s, const char *row_glob, contender *c,
                 size_t *scratch) {
    int n = 0;
    *scratch = 0;
    for (int t = 0; registry_tables[t]; t++)
        for (const weft_kernel *r = registry_tables[t]; r->name; r++) {
            if (r->op != s->c.op->op || strcmp(r->backend, "cuda") != 0 || n == MOST_ROWS - 1 ||
                fnmatch(row_glob, r->name, 0) || !weft_kernel_fits(r, b->d->level) ||
                (r->ok && !r->ok(&s->args)))
                continue;
            size_t need = r->scratch ? r->scratch(&s->args) : 0;
            *scratch = need > *scratch ? need : *scratch;
            c[n++] = (contender){.b = b, .row = r};
        }
    return n;
}

static void aim_all(const check_set *s, const placement *p, contender *c, arena *a) {
    c->copies = p->copies;
    c->step = arena_alloc(a, sizeof *c->step * (size_t)p->copies);
    for (int i = 0; i < p->copies; i++) {
        memset(&c->step[i], 0, sizeof c->step[i]);
        if (!aim(&c->step[i], c->row, s, p, p->at + p->one * (size_t)i, a))
            c->dead = true;
    }
}

static void add_vendor(bench *b, const check_set *s, const placement *p, contender *c, arena *a) {
    const weft_matmul_args *m = &s->args.matmul;
    *c = (contender){.b = b};
    aim_all(s, p, c, a);
    c->dead = !vendor_matmul(b->lt, m->x.dtype, m->x.shape[0], m->w.shape[0], m->x.shape[1]);
    if (!c->dead)
        best_algorithm(c);
}

/* Rows far behind the best have had their say after two rounds. */
static void take_turns(contender *c, int n) {
    double best = 1e9;
    for (int i = 0; i < n; i++)
        if (!c[i].dead)
            record(&c[i]);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < n; i++) {
            if (round > 1 && c[i].n && c[i].took[0] > 8 * best)
                continue;
            time_once(&c[i]);
            if (c[i].n && c[i].took[c[i].n - 1] < best)
                best = c[i].took[c[i].n - 1];
        }
}

/* After one more run into the first copy. */
static void verify(bench *b, const check_set *s, const placement *p, contender *c) {
    bench_memory m = {b->d, b->stream, p->at, p->off};
    if (c->dead || gpu_seconds(b->g, NULL, run, c, 1) < 0)
        return;
    const char *why = bench_verify(b->k, s, &m, (double)c->step->flops);
    snprintf(c->wrong, sizeof c->wrong, "%s", why ? why : "");
    for (char *q = c->wrong; *q; q++)
        *q = *q == '"' || *q == '\\' ? '\'' : *q;
}

static bool measure(bench *b, const check_set *s, const char *row_glob, arena *a) {
    contender c[MOST_ROWS];
    size_t scratch;
    placement p;
    double opponent = 0;
    int n = enter(b, s, row_glob, c, &scratch), rows = n;
    if (!n)
        return true;
    if (!place(b, s, scratch, &p)) {
        fprintf(stderr, "bench: %s\n", err_message());
        return true;
    }
    for (int i = 0; i < n; i++)
        aim_all(s, &p, &c[i], a);
    if (b->lt && like_vendor(s))
        add_vendor(b, s, &p, &c[n++], a);
    take_turns(c, n);
    for (int i = 0; i < rows; i++)
        verify(b, s, &p, &c[i]);
    if (n > rows && !c[rows].dead)
        opponent = median(&c[rows]);
    for (int i = 0; i < n; i++) {
        print_one(b, &s->c, &c[i], opponent);
        gpu_forget(b->g, c[i].graph);
    }
    bool alive = b->d->sync(b->d, b->stream) == WEFT_OK;
    b->d->release(b->d, p.at, p.bytes);
    return alive;
}

static bool bench_case(bench *b, const check_case *c, const char *row_glob) {
    check_set s;
    arena a = {0};
    check_set_init(&s, c, 1);
    s.aligned = s.no_images = true;
    c->op->build(&s);
    bool alive = measure(b, &s, row_glob, &a);
    if (!alive)
        fprintf(stderr, "bench: %s\n", err_message());
    arena_fini(&a);
    check_set_fini(&s);
    return alive;
}

static bool parse(const char *text, check_case *c) {
    const char *colon = strchr(text, ':');
    for (int i = 0; colon && check_ops[i]; i++) {
        const char *name = weft_op_table[check_ops[i]->op].name;
        if (strlen(name) == (size_t)(colon - text) && !strncmp(name, text, strlen(name)))
            return check_case_parse(check_ops[i], colon + 1, c, NULL);
    }
    return false;
}

static bool open_bench(bench *b, check_backend *gpu_backend) {
    void *at = NULL, *work = NULL;
    b->d = gpu_backend->device;
    b->stream = gpu_backend->stream[1];
    b->g = gpu_open(b->stream);
    if (!b->g || !make_numbers(b) || b->d->alloc(b->d, (uint64_t)block, "ceilings", &at) != WEFT_OK)
        return false;
    fill(b, at, WEFT_BF16, (size_t)block);
    bool measured = gpu_measure(b->g, (uint64_t)(uintptr_t)at, block, &b->top);
    b->d->release(b->d, at, (uint64_t)block);
    if (measured && b->d->alloc(b->d, workspace, "cublasLt", &work) == WEFT_OK)
        b->lt = vendor_open(b->g, work, workspace);
    fprintf(stderr,
            "%s, %d processors, L2 %.0f MiB; ceilings measured now: read %.0f GB/s, copy %.0f "
            "GB/s, bf16 mma.sync %.1f TFLOP/s, fp32 fma %.1f TFLOP/s; cuBLASLt %s\n",
            gpu_name(b->g), gpu_processors(b->g), (double)gpu_l2_bytes(b->g) / 1048576,
            b->top.read * 1e-9, b->top.copy * 1e-9, b->top.mma * 1e-12, b->top.fma * 1e-12,
            b->lt ? "found" : "not found");
    return measured;
}

static void print_ceilings(const bench *b) {
    if (b->json)
        printf("%s{\"op\":\"ceilings\",\"card\":\"%s\",\"read_gb_s\":%.1f,\"copy_gb_s\":%.1f,"
               "\"mma_tflop_s\":%.2f,\"fma_tflop_s\":%.2f,\"l2\":%lld}]\n",
               b->first ? "[" : ",\n ", gpu_name(b->g), b->top.read * 1e-9, b->top.copy * 1e-9,
               b->top.mma * 1e-12, b->top.fma * 1e-12, (long long)gpu_l2_bytes(b->g));
}

/* Every shape with its operands; nothing runs. */
int check_list_gpu(const char *op_glob) {
    for (const char *const *text = check_gpu_shapes; *text; text++) {
        check_case c;
        check_set s;
        if (!parse(*text, &c)) {
            fprintf(stderr, "checkkernels: error: '%s' is no case\n", *text);
            return 2;
        }
        if (fnmatch(op_glob, weft_op_table[c.op->op].name, 0))
            continue;
        check_set_init(&s, &c, 1);
        s.aligned = s.no_images = true;
        c.op->build(&s);
        double bytes = 0;
        for (int i = 0; i < s.n; i++)
            bytes += (double)s.operand[i].bytes;
        printf("%s  %.1f MiB\n", *text, bytes / 1048576);
        check_set_fini(&s);
    }
    return 0;
}

/* "T=1..64" is 1, 2, 4, ... 64; several such keys give every combination. */
static bool sweep(bench *b, const char *text, const char *row_glob) {
    const char *dots = strstr(text, ".."), *from = dots;
    char *end, one[256];
    check_case c;
    if (!dots) {
        if (!parse(text, &c)) {
            fprintf(stderr, "checkkernels: error: '%s' is no case\n", text);
            b->usage = true;
            return false;
        }
        return bench_case(b, &c, row_glob);
    }
    while (from > text && from[-1] >= '0' && from[-1] <= '9')
        from--;
    long long n = strtoll(from, NULL, 10), last = strtoll(dots + 2, &end, 10);
    for (; n > 0 && n <= last; n *= 2) {
        snprintf(one, sizeof one, "%.*s%lld%s", (int)(from - text), text, n, end);
        if (!sweep(b, one, row_glob))
            return false;
    }
    return true;
}

int check_bench_gpu(check_state *k, const char *op_glob, const char *row_glob, const char *one,
                    bool json) {
    bench b = {.k = k, .json = json, .first = true};
    check_backend *gpu_backend = k->backends;
    static const char *const none[] = {NULL};
    const char *const *text = one ? none : check_gpu_shapes;
    bool alive = true;
    while (strcmp(gpu_backend->name, "cuda") != 0)
        gpu_backend++;
    if (!open_bench(&b, gpu_backend)) {
        fprintf(stderr, "checkkernels: error: the GPU cannot be measured: %s\n", err_message());
        return 4;
    }
    alive = !one || sweep(&b, one, row_glob);
    for (; *text && alive; text++) {
        check_case c;
        if (parse(*text, &c) && fnmatch(op_glob, weft_op_table[c.op->op].name, 0) == 0)
            alive = bench_case(&b, &c, row_glob);
    }
    print_ceilings(&b);
    vendor_close(b.lt);
    gpu_close(b.g);
    return b.usage ? 2 : alive ? 0 : CHECK_DEAD;
}
