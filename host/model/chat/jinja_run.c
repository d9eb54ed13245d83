/* SPDX-License-Identifier: Apache-2.0
 * The state of a rendering: its limits, how it fails, text being made, and jinja_render itself. */
#include "host/base/err.h"
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <stdio.h>
#include <string.h>

enum { WORK_PER_STEP = 32 };

_Noreturn void jrun_fail(jrun *r, const char *fmt, ...) {
    char what[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (r->at)
        weft_fail(WEFT_BAD_FILE, "%s:%u:%u: %s", r->t->name, r->at->line, r->at->col, what);
    else
        weft_fail(WEFT_BAD_FILE, "%s", what);
    longjmp(r->fail, 1);
}

void jrun_tick(jrun *r, size_t work) {
    r->steps -= 1 + (int64_t)(work / WORK_PER_STEP);
    if (r->steps < 0)
        jrun_fail(r, "the template does not end (limit %d steps)", JINJA_STEPS_MAX);
}

void jrun_enter(jrun *r) {
    if (++r->depth > JINJA_DEPTH_MAX)
        jrun_fail(r, "calls and values are nested too deeply (limit %d)", JINJA_DEPTH_MAX);
}

void *jrun_alloc(jrun *r, size_t n) {
    if (r->mem.total > r->mem_max || n > r->mem_max - r->mem.total)
        jrun_fail(r, "the template needs too much memory (limit %d MiB)", JINJA_MEMORY_MAX >> 20);
    return arena_alloc(&r->mem, n);
}

/* ---- Text being made ---- */

static void reserve(jrun *r, jbuf *b, size_t n) {
    size_t need = b->n + n;
    if (need <= b->cap)
        return;
    if (n > JINJA_OUTPUT_MAX || need > JINJA_OUTPUT_MAX)
        jrun_fail(r, "too much text (limit %d MiB)", JINJA_OUTPUT_MAX >> 20);
    size_t cap = b->cap < 32 ? 64 : 2 * b->cap;
    cap = cap < need ? need : cap;
    char *p = jrun_alloc(r, cap);
    if (b->n)
        memcpy(p, b->p, b->n);
    b->p = p;
    b->cap = cap;
}

void jbuf_add(jrun *r, jbuf *b, const char *p, size_t n) {
    if (n == 0)
        return;
    reserve(r, b, n);
    jrun_tick(r, n);
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

void jbuf_puts(jrun *r, jbuf *b, const char *s) {
    jbuf_add(r, b, s, strlen(s));
}

void jbuf_putc(jrun *r, jbuf *b, char c) {
    if (b->n == b->cap)
        reserve(r, b, 1);
    b->p[b->n++] = c;
}

void jbuf_char(jrun *r, jbuf *b, uint32_t cp) {
    char c[4];
    int n = utf8_put(c, cp);
    for (int i = 0; i < n; i++)
        jbuf_putc(r, b, c[i]);
}

void jbuf_fill(jrun *r, jbuf *b, uint32_t cp, int64_t n) {
    char c[4];
    size_t k = (size_t)utf8_put(c, cp);
    if (n <= 0)
        return;
    reserve(r, b, n > JINJA_OUTPUT_MAX ? (size_t)n : (size_t)n * k);
    jrun_tick(r, (size_t)n);
    for (; n > 0; n--, b->n += k)
        memcpy(b->p + b->n, c, k);
}

jval jbuf_take(jbuf *b, jrun *r) {
    jval v = jv_borrow(r, b->n ? b->p : "", b->n);
    if (b->n) {
        jroom *room = JNEW(r, jroom, 1);
        *room = (jroom){b->p, b->n, b->cap};
        v.s->room = room;
    }
    *b = (jbuf){0};
    return v;
}

/* ---- Names ---- */

static int32_t find_symbol(const jinja_template *t, const jstr *name) {
    for (int32_t i = 0; i < t->nsym; i++)
        if (t->sym[i].s->n == name->n && memcmp(t->sym[i].s->p, name->p, name->n) == 0)
            return i;
    return -1;
}

/* Only names the template mentions are kept; the rest it cannot see. */
static void take_names(jrun *r, jval object) {
    for (size_t i = 0; i < object.d->n; i++) {
        int32_t sym = find_symbol(r->t, object.d->e[i].k.s);
        jrun_tick(r, (size_t)r->t->nsym);
        if (sym >= 0)
            r->global[sym] = object.d->e[i].v;
    }
}

static void language_names(jrun *r) {
    for (int32_t i = 0; i < r->t->nsym; i++) {
        const jstr *name = r->t->sym[i].s;
        const jrow *row = jglobal_find(name->p, name->n);
        if (!row)
            continue;
        jfunc *f = JNEW(r, jfunc, 1);
        *f = (jfunc){row, JV_NONE};
        r->global[i] = (jval){.kind = J_FUNC, .fn = f};
    }
}

static void preset_none(jrun *r, const char *name) {
    jstr s = {.p = name, .n = strlen(name)};
    int32_t sym = find_symbol(r->t, &s);
    if (sym >= 0)
        r->global[sym] = JV_NONE;
}

/* ---- Rendering ---- */

void jinja_output_init(jinja_output *o) {
    *o = (jinja_output){.span = NULL};
    buf_init(&o->text, JINJA_OUTPUT_MAX);
    buf_init(&o->raised, JINJA_OUTPUT_MAX);
}

void jinja_output_fini(jinja_output *o) {
    buf_fini(&o->text);
    buf_fini(&o->raised);
    mem_free(o->span);
    o->span = NULL;
    o->nspan = o->span_cap = 0;
}

typedef struct {
    const char *name, *args, *base;
    size_t n;
} render_input;

static jval read_object(jrun *r, const char *name, const char *text, size_t n) {
    jval v = json_to_value(r, name, text, n);
    if (v.kind != J_DICT)
        jrun_fail(r, "%s: not a JSON object", name);
    return v;
}

static bool render(jrun *r, const render_input *in) {
    if (setjmp(r->fail) != 0)
        return false;
    r->global = JNEW(r, jval, r->t->nsym + 1);
    language_names(r);
    preset_none(r, "tools");
    preset_none(r, "documents");
    if (in->base)
        take_names(r, read_object(r, "special tokens", in->base, strlen(in->base)));
    take_names(r, read_object(r, in->name, in->args, in->n));
    r->mem_max = r->mem.total + JINJA_MEMORY_MAX;
    jexec_template(r);
    return true;
}

weft_status jinja_render(const jinja_template *t, const char *name, const char *args, size_t n,
                         const char *base, int64_t now, jinja_output *o) {
    render_input in = {name, args, base, n};
    jrun *r = mem_alloc(sizeof *r);
    buf_clear(&o->text);
    buf_clear(&o->raised);
    o->nspan = 0;
    o->did_raise = o->spans_lost = false;
    r->t = t;
    r->steps = JINJA_STEPS_MAX;
    r->mem_max = PTRDIFF_MAX;
    r->now = now;
    r->result = o;
    r->out = &r->top;
    bool ok = render(r, &in);
    if (ok)
        buf_add(&o->text, r->top.p, r->top.n);
    else
        o->nspan = 0;
    arena_fini(&r->mem);
    mem_free(r);
    return ok ? WEFT_OK : WEFT_BAD_FILE;
}
