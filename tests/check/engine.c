/* SPDX-License-Identifier: Apache-2.0
 * The engine: one execution of a row on copies of a set, the comparison with the reference, and the
 * demands that hold for every op. A row is never believed: what it left behind is looked at. */
#include "host/base/err.h"
#include "host/run/registry.h"
#include "tests/check/check.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DIRT = 0x3c }; /* 0x3c3c.. is an ordinary number in every float type */

void check_fail(check_state *k, const char *fmt, ...) {
    va_list ap;
    if (k->bad)
        return;
    k->bad = true;
    va_start(ap, fmt);
    vsnprintf(k->why, sizeof k->why, fmt, ap);
    va_end(ap);
}

/* ---- execution ------------------------------------------------------------------------------ */

weft_status check_backends_open(check_backend *b, int n, int threads) {
    WEFT_TRY(registry_load());
    for (int i = 0; i < n; i++) {
        WEFT_TRY(device_open(b[i].name, NULL, &b[i].device));
        for (int t = 1; t <= threads; t++)
            WEFT_TRY(b[i].device->stream_open(b[i].device, t, &b[i].stream[t]));
    }
    return WEFT_OK;
}

void check_backends_close(check_backend *b) {
    for (; b->name; b++) {
        for (int t = 0; t <= CHECK_THREADS; t++)
            if (b->stream[t])
                b->device->stream_close(b->device, b->stream[t]);
        if (b->block)
            b->device->release(b->device, b->block, b->bytes);
        if (b->device)
            device_close(b->device);
    }
}

static check_backend *backend_of(const check_state *k, const weft_kernel *row) {
    check_backend *b = k->backends;
    while (b->name && strcmp(b->name, row->backend) != 0)
        b++;
    WEFT_ASSERT(b->name);
    return b;
}

static bool reserve(check_state *k, check_backend *b, size_t bytes) {
    void *block;
    if (bytes <= b->bytes)
        return true;
    if (b->block)
        b->device->release(b->device, b->block, b->bytes);
    b->block = NULL;
    b->bytes = 0;
    if (b->device->alloc(b->device, bytes, "checkkernels", &block) != WEFT_OK) {
        check_fail(k, "%s", err_message());
        return false;
    }
    b->block = block;
    b->bytes = bytes;
    return true;
}

static bool true_element(const check_set *s, const check_operand *o, const int64_t *i) {
    return !o->spec.row || s->rows < 0 || i[o->spec.row - 1] < s->rows;
}

static size_t element_bytes(const check_operand *o) {
    return (size_t)weft_dtype_bytes(o->spec.dtype, 1);
}

/* What is sent to the device: the image, its outputs holding numbers instead of NaN if dirty. */
static char *image_to_send(const check_set *s, const check_operand *o, bool dirty, arena *a) {
    int64_t i[WEFT_DIMS] = {0};
    if (o->role != 'O' || !dirty || !weft_tensor_count(o->at))
        return o->image;
    char *sent = arena_alloc(a, o->bytes);
    memcpy(sent, o->image, o->bytes);
    do {
        if (true_element(s, o, i))
            memset(sent + check_offset(o, i), DIRT, element_bytes(o));
    } while (check_next(o->at->shape, i));
    return sent;
}

/* Puts the old bytes back where the row was allowed to write; all else must be as it was sent. */
static void check_untouched(check_state *k, const check_set *s, const check_operand *o,
                            const char *sent, const char *got, arena *a) {
    const char *name = "operand";
    const weft_op_info *info = &weft_op_table[s->c.op->op];
    int64_t i[WEFT_DIMS] = {0};
    char *left = (char *)got;
    if (check_is_out(o) && weft_tensor_count(o->at)) {
        left = arena_alloc(a, o->bytes);
        memcpy(left, got, o->bytes);
        do {
            size_t at = check_offset(o, i);
            if (true_element(s, o, i))
                memcpy(left + at, sent + at, element_bytes(o));
        } while (check_next(o->at->shape, i));
    }
    if (memcmp(left, sent, o->bytes) == 0)
        return;
    size_t at = 0;
    while (left[at] == sent[at])
        at++;
    for (int f = 0; f < info->nfield; f++)
        if (ops_tensor(&((check_set *)s)->args, &info->field[f]) == o->at)
            name = info->field[f].name;
    check_fail(k, "%s: wrote where it must not, %lld bytes from its first element (%s)", name,
               (long long)at - (long long)o->first,
               !check_is_out(o) ? "an input" : "guard, gap or row past the true number");
}

/* Where the pieces of one execution lie in the device's block. */
typedef struct {
    size_t operand[CHECK_OPERANDS], scratch, total;
} check_layout;

static check_layout lay_out(const check_set *s, size_t scratch) {
    check_layout l = {.total = 0};
    for (int i = 0; i < s->n; i++) {
        l.operand[i] = l.total;
        l.total += (s->operand[i].bytes + 63) / 64 * 64;
    }
    l.scratch = l.total + CHECK_GUARD;
    l.total = l.scratch + (scratch + 63) / 64 * 64 + CHECK_GUARD;
    return l;
}

static void run_row(check_state *k, check_backend *b, const weft_kernel *row, const check_set *s,
                    const check_layout *l, weft_stream *stream, arena *a) {
    weft_step *step = arena_alloc(a, sizeof *step);
    step->kernel = row;
    step->args = s->args;
    step->scratch = b->block + l->scratch;
    step->state = row->state_bytes ? arena_alloc(a, row->state_bytes) : NULL;
    for (int i = 0; i < s->n; i++) {
        weft_tensor *t = (weft_tensor *)((char *)&step->args +
                                         ((char *)s->operand[i].at - (char *)&s->args));
        t->data = b->block + l->operand[i] + s->operand[i].first;
    }
    weft_op_table[row->op].cost(&step->args, &step->bytes, &step->flops);
    if (row->bind && row->bind(step, step->state) != 0)
        check_fail(k, "bind refused");
    else
        row->run(step, stream);
}

static void check_scratch(check_state *k, const char *scratch, size_t n, int fill) {
    size_t padded = (n + 63) / 64 * 64;
    for (size_t i = 0; i < CHECK_GUARD; i++)
        if (scratch[-1 - (long)i] != (char)fill || scratch[padded + i] != (char)fill)
            check_fail(k, "scratch: wrote outside its %zu bytes", n);
}

void check_exec(check_state *k, const weft_kernel *row, const check_set *s, int threads, bool dirty,
                check_result *out) {
    check_backend *b = backend_of(k, row);
    weft_stream *stream = b->stream[threads];
    device *d = b->device;
    size_t scratch = row->scratch ? row->scratch(&s->args) : 0;
    check_layout l = lay_out(s, scratch);
    char *sent[CHECK_OPERANDS] = {NULL}, *guard, fill = dirty ? DIRT : 0x7f;
    arena tmp = {0};
    memset(out, 0, sizeof *out);
    for (int i = 0; i < s->n; i++)
        if (check_is_out(&s->operand[i]))
            out->image[i] = arena_alloc(&out->mem, s->operand[i].bytes);
    if (k->dead || !reserve(k, b, l.total))
        return;
    guard = arena_alloc(&tmp, l.total - l.scratch + CHECK_GUARD);
    memset(guard, fill, l.total - l.scratch + CHECK_GUARD);
    d->copy(d, stream, b->block + l.scratch - CHECK_GUARD, guard, l.total - l.scratch + CHECK_GUARD,
            DEVICE_TO);
    for (int i = 0; i < s->n; i++) {
        sent[i] = image_to_send(s, &s->operand[i], dirty, &tmp);
        d->copy(d, stream, b->block + l.operand[i], sent[i], s->operand[i].bytes, DEVICE_TO);
    }
    if (d->host_memory && stream->worker_memory && threads == 1)
        memset(stream->worker_memory, fill, WEFT_WORKER_BYTES);
    run_row(k, b, row, s, &l, stream, &tmp);
    if (d->sync(d, stream) != WEFT_OK) { /* the stream is dead: the next execution needs another */
        check_fail(k, "%s", err_message());
        d->stream_close(d, stream);
        b->stream[threads] = NULL;
        if (d->stream_open(d, threads, &b->stream[threads]) != WEFT_OK) {
            k->dead = true; /* a fault that outlives its stream: this process can do no more */
            arena_fini(&tmp);
            return;
        }
        stream = b->stream[threads];
    }
    for (int i = 0; i < s->n; i++) {
        char *got = out->image[i] ? out->image[i] : arena_alloc(&tmp, s->operand[i].bytes);
        d->copy(d, stream, got, b->block + l.operand[i], s->operand[i].bytes, DEVICE_FROM);
        check_untouched(k, s, &s->operand[i], sent[i] ? sent[i] : s->operand[i].image, got, &tmp);
    }
    d->copy(d, stream, guard, b->block + l.scratch - CHECK_GUARD, l.total - l.scratch + CHECK_GUARD,
            DEVICE_FROM);
    check_scratch(k, guard + CHECK_GUARD, scratch, fill);
    arena_fini(&tmp);
}

void check_result_fini(check_result *r) {
    arena_fini(&r->mem);
    memset(r, 0, sizeof *r);
}

/* ---- comparison ----------------------------------------------------------------------------- */

static const char *field_name(const check_set *s, const check_operand *o) {
    const weft_op_info *info = &weft_op_table[s->c.op->op];
    for (int f = 0; f < info->nfield; f++)
        if (info->field[f].off == (size_t)((char *)o->at - (char *)&s->args))
            return info->field[f].name;
    return "?";
}

static void print_index(char *out, size_t n, const check_operand *o, const int64_t *i) {
    size_t len = 0;
    for (int d = 0; d < o->spec.ndim && len < n; d++)
        len += (size_t)snprintf(out + len, n - len, "%s%lld", d ? "," : "", (long long)i[d]);
}

bool check_map_same(const void *ctx, const int64_t i[WEFT_DIMS], int64_t base[WEFT_DIMS]) {
    (void)ctx;
    memcpy(base, i, WEFT_DIMS * sizeof *i);
    return true;
}

void check_same_bits(check_state *k, const char *what, const check_operand *a, const char *image_a,
                     const check_operand *b, const char *image_b, int64_t rows, check_map *map,
                     const void *ctx) {
    int64_t i[WEFT_DIMS] = {0}, j[WEFT_DIMS];
    char text[96];
    if (!weft_tensor_count(a->at))
        return;
    WEFT_ASSERT(image_a && image_b);
    do {
        if ((a->spec.row && rows >= 0 && i[a->spec.row - 1] >= rows) || !map(ctx, i, j))
            continue;
        size_t at = check_offset(a, i), bt = check_offset(b, j);
        if (memcmp(image_a + at, image_b + bt, element_bytes(a)) == 0)
            continue;
        print_index(text, sizeof text, a, i);
        check_fail(k, "%s: element [%s] is %.9g instead of %.9g", what, text,
                   check_load(a, image_a, i), check_load(b, image_b, j));
        return;
    } while (check_next(a->at->shape, i));
}

void check_results_equal(check_state *k, const check_set *s, const check_result *a,
                         const check_result *b, const char *what) {
    for (int i = 0; i < s->n; i++)
        if (check_is_out(&s->operand[i]))
            check_same_bits(k, what, &s->operand[i], a->image[i], &s->operand[i], b->image[i],
                            s->rows, check_map_same, NULL);
}

double check_row_max(const check_set *s, const weft_tensor *in, int64_t row) {
    const check_operand *o = check_find(s, in);
    int64_t i[WEFT_DIMS] = {0};
    double most = 0;
    for (int d = in->ndim - 2; d >= 0; d--) {
        i[d] = row % in->shape[d];
        row /= in->shape[d];
    }
    for (int64_t c = 0; c < in->shape[in->ndim - 1]; c++) {
        i[in->ndim - 1] = c;
        most = fmax(most, fabs(check_load(o, o->image, i)));
    }
    return most;
}

/* One row of one output against the reference. */
typedef struct {
    const check_set *s;
    const check_operand *o;
    const char *truth, *got;
    int64_t at[WEFT_DIMS]; /* the row's first element */
    int64_t n, row;        /* elements; its number */
    double tol;            /* 0: bits */
} check_line;

static double line_scale(const check_line *l) {
    double most = 0;
    int64_t i[WEFT_DIMS];
    memcpy(i, l->at, sizeof i);
    for (int64_t c = 0; c < l->n; c++) {
        i[l->o->spec.ndim - 1] = l->at[l->o->spec.ndim - 1] + c;
        double r = fabs(check_load(l->o, l->truth, i));
        most = isfinite(r) ? fmax(most, r) : most;
    }
    if (l->s->c.op->magnitude)
        most = fmax(most, l->s->c.op->magnitude(l->s, l->o->at, l->row));
    return most;
}

static bool close_enough(double r, double c, double bound) {
    if (isnan(r) || isnan(c))
        return isnan(r) && isnan(c);
    return r == c || fabs(r - c) <= bound; /* false if one of them is infinite */
}

static void compare_line(check_state *k, const check_line *l) {
    /* Half a unit of the smallest denormal of fp16; elsewhere what flushed denormals leave. */
    double least = l->o->spec.dtype == WEFT_F16 ? 6e-8 : 1e-37;
    double scale = l->tol > 0 ? line_scale(l) : 0, bound = l->tol * scale + least;
    int64_t i[WEFT_DIMS];
    char text[96];
    memcpy(i, l->at, sizeof i);
    for (int64_t c = 0; c < l->n; c++) {
        i[l->o->spec.ndim - 1] = l->at[l->o->spec.ndim - 1] + c;
        double r = check_load(l->o, l->truth, i), g = check_load(l->o, l->got, i);
        size_t off = check_offset(l->o, i);
        bool same = memcmp(l->truth + off, l->got + off, element_bytes(l->o)) == 0;
        if (same || (l->tol > 0 ? close_enough(r, g, bound) : isnan(r) && isnan(g)))
            continue;
        print_index(text, sizeof text, l->o, i);
        check_fail(k, "%s[%s] = %.9g, reference %.9g (off by %.2g of the row's %.3g, allowed %.2g)",
                   field_name(l->s, l->o), text, g, r, fabs(g - r) / (scale > 0 ? scale : 1), scale,
                   l->tol);
        return;
    }
}

static double tolerance_of(const check_set *s, const check_operand *o) {
    const weft_op_info *info = &weft_op_table[s->c.op->op];
    bool moved = o->role == 'A' && (info->flags & WEFT_EXACT);
    if (o->spec.dtype > WEFT_BF16 || moved)
        return 0;
    return (double)info->tol[o->spec.dtype];
}

static void compare_output(check_state *k, const check_set *s, const check_operand *o,
                           const char *truth, const char *got) {
    check_line l = {.s = s, .o = o, .truth = truth, .got = got, .tol = tolerance_of(s, o)};
    int last = o->spec.ndim - 1;
    bool single = last == 0 && o->spec.row; /* [T]: each element is its token's row */
    int64_t outer[WEFT_DIMS];
    if (!weft_tensor_count(o->at))
        return;
    memcpy(outer, o->at->shape, sizeof outer);
    l.n = single ? 1 : outer[last];
    outer[last] = single ? outer[last] : 1;
    do {
        if (true_element(s, o, l.at))
            compare_line(k, &l);
        l.row++;
    } while (check_next(outer, l.at));
}

void check_compare(check_state *k, const check_set *s, const check_result *truth,
                   char *const got[CHECK_OPERANDS]) {
    for (int i = 0; i < s->n && !k->bad; i++)
        if (check_is_out(&s->operand[i]))
            compare_output(k, s, &s->operand[i], truth->image[i], got[i]);
}

/* ---- demands -------------------------------------------------------------------------------- */

const weft_kernel *check_reference(weft_op op) {
    for (const weft_kernel *r = weft_kernels_ref; r->name; r++)
        if (r->op == op)
            return r;
    return NULL;
}

bool check_same_arith(const weft_kernel *a, const weft_kernel *b) {
    return a->arith == b->arith || a->arith == WEFT_ARITH_NONE || b->arith == WEFT_ARITH_NONE;
}

const weft_kernel *check_row_for(const check_state *k, weft_op op, const weft_args *a) {
    const weft_kernel *best = NULL;
    for (int t = 0; registry_tables[t]; t++)
        for (const weft_kernel *r = registry_tables[t]; r->name; r++)
            if (r->op == op && !strcmp(r->backend, k->row->backend) && r->cap <= k->row->cap &&
                (!r->ok || r->ok(a)) && (!best || r->rank > best->rank))
                best = r;
    const weft_kernel *ref = check_reference(op);
    return best ? best : ref && (!ref->ok || ref->ok(a)) ? ref : NULL;
}

void check_variant(check_state *k, const check_set *variant, const char *what,
                   const weft_tensor *out, check_map *map, const void *ctx) {
    check_result r;
    if (k->bad)
        return;
    if (k->row->ok && !k->row->ok(&variant->args)) {
        check_fail(k, "%s: ok() refuses it", what);
        return;
    }
    check_exec(k, k->row, variant, 1, false, &r);
    for (int i = 0; i < variant->n && !k->bad; i++) {
        const check_operand *o = &variant->operand[i];
        if (o->role != 'O' || (out && o->at != out))
            continue;
        const check_operand *b = check_same(k->set, variant, o->at);
        check_same_bits(k, what, o, r.image[i], b, k->base->image[b - k->set->operand],
                        variant->rows, map, ctx);
    }
    check_result_fini(&r);
}

typedef struct {
    const int64_t *row; /* the base's row of each of the variant's */
    int axis;
} pick_map;

/* Row axes may differ between outputs ([leaves,T,N] beside [T]), so each output has its own map. */
static bool map_picked(const void *ctx, const int64_t i[WEFT_DIMS], int64_t base[WEFT_DIMS]) {
    const pick_map *m = ctx;
    memcpy(base, i, WEFT_DIMS * sizeof *i);
    base[m->axis] = m->row[i[m->axis]];
    return true;
}

static void check_picked(check_state *k, const int64_t *row, int64_t n, const char *what) {
    check_set v;
    check_pick(k->set, row, n, &v);
    for (int i = 0; i < v.n && !k->bad; i++) {
        const check_operand *o = &v.operand[i];
        if (o->role == 'O' && o->spec.row)
            check_variant(k, &v, what, o->at, map_picked, &(pick_map){row, o->spec.row - 1});
    }
    check_set_fini(&v);
}

static int64_t true_rows(const check_set *s) {
    for (int i = 0; i < s->n; i++) {
        const check_operand *o = &s->operand[i];
        int64_t all = o->spec.row ? o->spec.dim[o->spec.row - 1] : 0;
        if (o->role == 'O' && o->spec.row)
            return s->rows >= 0 && s->rows < all ? s->rows : all;
    }
    return 0;
}

/* A row alone, rows in chunks, all rows one place further and in any order. */
static void check_rows(check_state *k, const check_set *s) {
    int64_t n = true_rows(s), *row = mem_alloc((size_t)(n + 1) * sizeof *row);
    static const int64_t sizes[] = {7, 16, 64};
    for (int64_t i = 0; i < n; i++)
        row[i] = i;
    for (int64_t i = 0; i < 3 && i < n && n > 1; i++)
        check_picked(k,
                     &row[i == 0   ? 0
                          : i == 1 ? n - 1
                                   : (int64_t)(s->seed % (uint64_t)n)],
                     1, "a row alone differs from the row in its batch");
    int64_t size = sizes[s->seed / 7 % 3], from = size < n ? (int64_t)(s->seed % 5) * size % n : n;
    if (from < n)
        check_picked(k, row + from, n - from < size ? n - from : size,
                     "a chunk of rows differs from the rows in their batch");
    for (int64_t i = 0; i < n; i++)
        row[i] = (i + 1) % n;
    if (n > 1)
        check_picked(k, row, n, "rows in another order differ");
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)(check_hash(s->seed, (uint64_t)i) % (uint64_t)(i + 1)), t = row[i];
        row[i] = row[j];
        row[j] = t;
    }
    if (n > 2)
        check_picked(k, row, n, "rows in another order differ");
    mem_free(row);
}

static void check_again(check_state *k, const check_set *s, int threads, bool dirty,
                        const char *what) {
    check_result r;
    if (k->bad)
        return;
    check_exec(k, k->row, s, threads, dirty, &r);
    check_results_equal(k, s, &r, k->base, what);
    check_result_fini(&r);
}

void check_row(check_state *k, const weft_kernel *row, const check_set *s,
               const check_result *truth, check_result *base) {
    k->row = row;
    k->set = s;
    k->base = base;
    check_exec(k, row, s, 1, false, base);
    if (!k->bad)
        check_compare(k, s, truth, base->image);
    check_again(k, s, 1, true, "a second run, over outputs that held numbers, differs");
    if (k->threads > 1)
        check_again(k, s, 2, false, "two threads differ from one");
    if (k->threads > 2)
        check_again(k, s, 3, false, "three threads differ from one");
    if (!k->bad && ((weft_op_table[row->op].flags & WEFT_ROWLOCAL) || s->c.op->rows_alone))
        check_rows(k, s);
    if (!k->bad && s->c.op->invariants)
        s->c.op->invariants(k, s);
}
