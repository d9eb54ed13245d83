/* SPDX-License-Identifier: Apache-2.0
 * Launches and threads: groups of blocks over the host's threads, fibers inside a group, barriers
 * and warp operations. */
#include "kernels/emu/internal.h"
#include "kernels/emu/runtime.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

namespace emu {

thread_local view *self;

/* ---- memory of the emulator itself ---- */

void grow(void **p, void *room, bool room_is_int, size_t n, size_t size) {
    size_t old = room_is_int ? (size_t) * (int *)room : *(size_t *)room, now = old ? old : 64;
    while (now < n)
        now *= 2;
    char *fresh = (char *)realloc(*p, now * size);
    if (!fresh)
        abort();
    memset(fresh + old * size, 0, (now - old) * size);
    *p = fresh;
    if (room_is_int)
        *(int *)room = (int)now;
    else
        *(size_t *)room = now;
}

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static group *pool;

static group *group_take() {
    pthread_mutex_lock(&pool_lock);
    group *g = pool;
    if (g)
        pool = g->free_next;
    pthread_mutex_unlock(&pool_lock);
    if (!g)
        g = (group *)calloc(1, sizeof *g);
    if (!g)
        abort();
    return g;
}

static void group_give(group *g) {
    pthread_mutex_lock(&pool_lock);
    g->free_next = pool;
    pool = g;
    pthread_mutex_unlock(&pool_lock);
}

static void group_free(group *g) {
    for (int i = 0; i < g->nslot; i++) {
        fiber_fini(&g->slots[i]->f);
        free(g->slots[i]);
    }
    void *owned[] = {g->slots,   g->threads, g->warps,  g->blocks,  g->ready,   g->shared, g->cells,
                     g->settled, g->far,     g->copies, g->flights, g->records, g};
    for (void *p : owned)
        free(p);
}

__attribute__((destructor)) static void pool_free() {
    while (pool) {
        group *g = pool;
        pool = g->free_next;
        group_free(g);
    }
}

/* ---- failing ---- */

/* `name` is the launch's text: "(rmsnorm_k<4>)". */
static void say(launch_state *l, const char *text) {
    const char *name = l->spec->kernel + (*l->spec->kernel == '(');
    if (__atomic_exchange_n(&l->failed, 1, __ATOMIC_ACQ_REL))
        return;
    snprintf(l->error, WEFT_EMU_ERROR_BYTES, "kernel %.*s: %s", (int)strcspn(name, "<)"), name,
             text);
}

static void fail_text(const thread *t, site at, const char *what) {
    char text[WEFT_EMU_ERROR_BYTES], line[128] = "";
    uint3 b = t->blk->id, i = t->seen.thread_id;
    if (at.file)
        snprintf(line, sizeof line, ", %s:%d", at.file, at.line);
    snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)%s: %s", b.x, b.y, b.z, i.x, i.y,
             i.z, line, what);
    say(t->grp->l, text);
}

/* Leaves the kernel for good: its fibers are reset when the group ends. */
[[noreturn]] static void leave(group *g) {
    g->failed = true;
    fiber_switch(&current()->on->f, &g->host.f);
    abort();
}

void fail(site at, const char *fmt, ...) {
    char what[WEFT_EMU_ERROR_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    fail_text(current(), at, what);
    leave(current()->grp);
}

/* ---- scheduling ---- */

static uint64_t draw(group *g) {
    g->random ^= g->random << 13;
    g->random ^= g->random >> 7;
    g->random ^= g->random << 17;
    return g->random;
}

static void push(group *g, int index) {
    g->ready[(g->ready_head + g->ready_count++) % g->nthread] = index;
}

static thread *pop(group *g) {
    if (!g->ready_count)
        return NULL;
    uint64_t seed = g->l->seed;
    int n = g->ready_count, j = seed == 0 ? 0 : seed == 1 ? n - 1 : (int)(draw(g) % (uint64_t)n);
    int *first = &g->ready[g->ready_head], *chosen = &g->ready[(g->ready_head + j) % g->nthread];
    int index = *chosen;
    *chosen = *first;
    g->ready_head = (g->ready_head + 1) % g->nthread;
    g->ready_count--;
    return &g->threads[index];
}

static void body(void *arg);

static slot *slot_take(group *g) {
    slot *s = g->idle;
    if (s) {
        g->idle = s->idle;
        return s;
    }
    s = (slot *)calloc(1, sizeof *s);
    if (!s || !fiber_init(&s->f, body, s))
        abort();
    s->grp = g;
    reserve(&g->slots, &g->slot_room, g->nslot + 1);
    g->slots[g->nslot++] = s;
    return s;
}

static const char *state_words(const thread *t) {
    return t->state == DONE                                ? "has returned"
           : t->state == AT_BARRIER || t->state == AT_WARP ? "waits"
                                                           : "runs";
}

/* Nobody can run, and not everybody has returned. */
[[noreturn]] static void deadlock(group *g) {
    const thread *a = NULL, *b = NULL;
    for (int i = 0; i < g->nthread; i++) {
        const thread *t = &g->threads[i];
        if (!a && t->state != DONE)
            a = t;
        else if (a && !b && (t->state == DONE || t->fn != a->fn || t->at.line != a->at.line))
            b = t;
    }
    char what[WEFT_EMU_ERROR_BYTES];
    int n = snprintf(what, sizeof what, "%s never completes", a->what);
    if (b && n > 0)
        snprintf(what + n, sizeof what - (size_t)n, ": thread %d %s%s%s (line %d)", b->index,
                 state_words(b), b->state == DONE ? "" : " at ", b->state == DONE ? "" : b->what,
                 b->at.line);
    fail_text(a, a->at, what);
    leave(g);
}

/* Runs whoever is next. `finished`: the thread on `from` has returned, its fiber is free. Returns
 * when `from` is given a thread again. */
static void next(slot *from, bool finished) {
    group *g = from->grp;
    thread *t = pop(g);
    slot *to = &g->host;
    if (!t && g->live)
        deadlock(g);
    if (t && t->state == FRESH)
        t->on = finished && from != &g->host ? from : slot_take(g);
    if (t) {
        to = t->on;
        to->t = t;
        t->state = RUNNING;
        self = &t->seen;
    }
    if (to == from)
        return;
    if (finished && from != &g->host) {
        from->idle = g->idle;
        g->idle = from;
    }
    g->counters.switches++;
    fiber_switch(&from->f, &to->f);
}

static void wait(thread *t, thread_state why) {
    t->state = why;
    next(t->on, false);
}

/* Others were let go: an adverse order lets them run first. */
static void yield(thread *t) {
    if (t->grp->l->seed == 0)
        return;
    t->state = READY;
    push(t->grp, (int)(t - t->grp->threads));
    next(t->on, false);
}

static const char *group_barrier_name(barrier_kind kind) {
    return kind == BARRIER_GRID ? "a grid barrier" : "a cluster barrier";
}

static void thread_exit(thread *t) {
    block *b = t->blk;
    site nowhere = {NULL, 0};
    if (b->wait.arrived)
        fail(b->wait.at, "a barrier that this thread does not reach: it has returned");
    if (t->grp->wait.arrived)
        fail(t->grp->wait.at, "%s that this thread does not reach: it has returned",
             group_barrier_name(t->grp->wait.kind));
    if (t->first_copy >= 0)
        fail(nowhere, "returns with asynchronous copies that nobody waited for");
    if (t->flies && t->grp->flights[t - t->grp->threads].n)
        fail(nowhere, "returns with a wgmma that nobody waited for");
    t->state = DONE;
    t->grp->warps[t->warp].done |= 1u << t->lane;
    t->grp->live--;
    if (++b->exited == b->n && is_cluster(t->grp) && b->far_epoch == t->grp->far_epoch)
        fail(b->far_at, "the block returns, and another one of its cluster has used its shared "
                        "memory here since their last barrier");
}

static void body(void *arg) {
    slot *s = (slot *)arg;
    for (;;) {
        const launch_spec *spec = s->grp->l->spec;
        spec->call(spec->closure);
        thread_exit(s->t);
        next(s, true);
    }
}

/* ---- barriers ---- */

static void release(group *g, int first, int n, const thread *but, int result) {
    for (int i = first; i < first + n; i++) {
        thread *t = &g->threads[i];
        t->result = result;
        if (t == but)
            continue;
        t->state = READY;
        push(g, i);
    }
}

static int barrier_result(const barrier_state *w, int n) {
    return w->kind == BARRIER_AND ? w->count == n : w->kind == BARRIER_OR ? w->count > 0 : w->count;
}

static void barrier_check(const barrier_state *w, barrier_kind kind, site at, int exited) {
    if (exited)
        fail(at, "a barrier that %d threads do not reach: they have returned", exited);
    if (w->arrived && (w->kind != kind || w->at.line != at.line ||
                       (w->at.file != at.file && strcmp(w->at.file, at.file) != 0)))
        fail(at, "divergent barrier: other threads wait at line %d of %s", w->at.line, w->at.file);
}

/* Every epoch ends here; copies stay pending until they are waited for. */
static void barrier_done(group *g, block *b) {
    b->epoch = ++g->epoch;
    b->wait.arrived = b->wait.count = 0;
    g->counters.barriers++;
}

static int block_barrier(thread *t, barrier_kind kind, int value, site at) {
    group *g = t->grp;
    block *b = t->blk;
    barrier_state *w = &b->wait;
    barrier_check(w, kind, at, b->exited);
    w->kind = kind;
    w->at = at;
    w->arrived++;
    w->count += value != 0;
    t->at = at;
    t->what = "__syncthreads";
    t->fn = NULL;
    if (w->arrived < b->n) {
        wait(t, AT_BARRIER);
        return t->result;
    }
    release(g, b->first, b->n, t, barrier_result(w, b->n));
    barrier_done(g, b);
    if (g->nblock == 1)
        profile_flush(g);
    int result = t->result;
    yield(t);
    return result;
}

static int group_barrier(thread *t, barrier_kind kind, site at) {
    group *g = t->grp;
    int exited = 0;
    if (kind == BARRIER_GRID && !g->l->spec->cooperative)
        fail(at, "a grid barrier in a launch that is not cooperative");
    for (int i = 0; i < g->nblock; i++)
        exited += g->blocks[i].exited;
    barrier_check(&g->wait, kind, at, exited);
    g->wait.kind = kind;
    g->wait.at = at;
    t->at = at;
    t->what = group_barrier_name(kind);
    t->fn = NULL;
    if (++g->wait.arrived < g->nthread) {
        wait(t, AT_BARRIER);
        return 0;
    }
    release(g, 0, g->nthread, t, 0);
    g->far_epoch = ++g->epoch;
    g->met = true;
    for (int i = 0; i < g->nblock; i++)
        barrier_done(g, &g->blocks[i]);
    g->wait.arrived = 0;
    profile_flush(g);
    yield(t);
    return 0;
}

int barrier(barrier_kind kind, int value, site at) {
    bool alone = kind == BARRIER_CLUSTER && current()->grp->l->spec->cooperative;
    if (kind >= BARRIER_GRID && !alone)
        return group_barrier(current(), kind, at);
    return block_barrier(current(), kind, value, at);
}

/* ---- warps ---- */

static thread *lane_of(const thread *t, int lane) {
    return (thread *)t + (lane - t->lane);
}

static void sync_lanes(void *const arg[32], uint32_t mask) {
    (void)arg, (void)mask;
}

static bool same_op(const thread *a, const thread *b) {
    return a->fn == b->fn && a->mask == b->mask &&
           (a->fn == sync_lanes || (a->at.line == b->at.line && a->at.file == b->at.file));
}

/* What the other lanes of the mask do; returns those that have arrived. */
static uint32_t warp_arrived(thread *t, uint32_t need) {
    uint32_t there = 1u << t->lane;
    for (int i = 0; i < 32; i++) {
        const thread *o = lane_of(t, i);
        if (!(need >> i & 1) || o == t)
            continue;
        if (o->state == DONE)
            fail(t->at, "%s with mask %08x: lane %d has returned", t->what, t->mask, i);
        if (o->state == AT_BARRIER)
            fail(t->at, "%s with mask %08x: lane %d waits at a barrier, line %d", t->what, t->mask,
                 i, o->at.line);
        if (o->state != AT_WARP)
            continue;
        if (!same_op(o, t) && !(o->mask >> t->lane & 1))
            continue; /* among others first; it may still come */
        if (!same_op(o, t))
            fail(t->at, "%s with mask %08x: lane %d is at %s with mask %08x, line %d", t->what,
                 t->mask, i, o->what, o->mask, o->at.line);
        there |= 1u << i;
    }
    return there;
}

/* Whether all lanes are there. What is wrong with them is asked when the first comes, or one that
 * does something else. */
static bool warp_complete(thread *t, uint32_t need) {
    warp_state *w = &t->grp->warps[t->warp];
    bool same = w->waiting && same_op(w->first, t);
    uint32_t there = same ? w->waiting | 1u << t->lane : warp_arrived(t, need);
    if (there == need) {
        w->waiting &= ~need;
        return true;
    }
    if (!w->waiting)
        w->first = t;
    if (same || w->first == t)
        w->waiting = there;
    return false;
}

void warp_op(warp_fn *fn, const char *what, uint32_t mask, void *arg, site at) {
    thread *t = current();
    group *g = t->grp;
    void *args[32] = {};
    uint32_t need = mask & g->warps[t->warp].exists;
    t->fn = fn;
    t->what = what;
    t->mask = mask;
    t->arg = arg;
    t->at = at;
    if (!(mask >> t->lane & 1))
        fail(at, "%s with mask %08x, which leaves out lane %d that calls it", what, mask, t->lane);
    if (!warp_complete(t, need)) {
        wait(t, AT_WARP);
        return;
    }
    for (int i = 0; i < 32; i++)
        if (need >> i & 1)
            args[i] = lane_of(t, i)->arg;
    fn(args, need);
    if (fn == sync_lanes)
        g->warps[t->warp].epoch++;
    for (int i = 0; i < 32; i++)
        if ((need >> i & 1) && i != t->lane) {
            lane_of(t, i)->state = READY;
            push(g, (int)(lane_of(t, i) - g->threads));
        }
    yield(t);
}

void warp_sync(uint32_t mask, site at) {
    warp_op(sync_lanes, "__syncwarp", mask, NULL, at);
}

/* Lanes that have not returned: no hardware promises more or less. */
uint32_t warp_active() {
    const thread *t = current();
    const warp_state *w = &t->grp->warps[t->warp];
    return w->exists & ~w->done;
}

int warp_lane() {
    return current()->lane;
}

void shuffle_from_nowhere(int lane) {
    const thread *t = current();
    fail(t->at, "%s with mask %08x reads lane %d, which is not in it", t->what, t->mask, lane);
}

void vote_lanes(void *const arg[32], uint32_t mask) {
    uint32_t all = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && ((vote_arg *)arg[i])->in)
            all |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            ((vote_arg *)arg[i])->out = all;
}

static uint32_t reduce_two(const reduce_arg *a, uint32_t x, uint32_t y) {
    bool less = a->is_signed ? (int32_t)x < (int32_t)y : x < y;
    switch (a->op) {
    case '+': return x + y;
    case '&': return x & y;
    case '|': return x | y;
    case '^': return x ^ y;
    case '<': return less ? x : y;
    default: return less ? y : x;
    }
}

void reduce_lanes(void *const arg[32], uint32_t mask) {
    const reduce_arg *first = (reduce_arg *)arg[__builtin_ctz(mask)];
    uint32_t all = first->in;
    for (int i = __builtin_ctz(mask) + 1; i < 32; i++)
        if (mask >> i & 1)
            all = reduce_two(first, all, ((reduce_arg *)arg[i])->in);
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            ((reduce_arg *)arg[i])->out = all;
}

void count_mma(int n) {
    current()->grp->counters.mma += (uint64_t)n;
}

unsigned cluster_rank() {
    const thread *t = current();
    return is_cluster(t->grp) ? (unsigned)(t->blk - t->grp->blocks) : 0;
}

unsigned cluster_size() {
    const group *g = current()->grp;
    return is_cluster(g) ? (unsigned)g->nblock : 1;
}

/* ---- clocks and printf ---- */

uint64_t ticks() {
    return ++current()->grp->now;
}

/* As coarse as a GPU's. */
uint64_t nanoseconds() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return ((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec) / 1024 * 1024;
}

/* CUDA C++ Programming Guide, "Formatted Output": %[flags][width][.precision][h|l|ll]type, 32
 * arguments at most. */
static int print_arguments(site at, const char *fmt) {
    int n = 0;
    for (const char *p = fmt; (p = strchr(p, '%')); p++) {
        const char *from = p++;
        p += strspn(p, "#0 +-");
        n += *p == '*';
        p += *p == '*' ? 1 : strspn(p, "0123456789");
        p += *p == '.' ? 1 + strspn(p + 1, "0123456789") : 0;
        p += *p == 'h' ? 1 : *p == 'l' ? 1 + (p[1] == 'l') : 0;
        if (!*p || !strchr("%cdiouxXpeEfgGaAs", *p))
            fail(at, "printf: a GPU does not know '%.*s'", (int)(p - from) + (*p != 0), from);
        n += *p != '%';
    }
    if (n > 32)
        fail(at, "printf of %d arguments: a GPU takes 32", n);
    return n;
}

int print(site at, const char *fmt, ...) {
    va_list ap;
    int n = self ? print_arguments(at, fmt) : 0;
    va_start(ap, fmt);
    int bytes = vprintf(fmt, ap);
    va_end(ap);
    return self ? n : bytes;
}

/* ---- groups ---- */

static int count(dim3 d) {
    return (int)(d.x * d.y * d.z);
}

static uint3 place(int64_t i, dim3 d) {
    return uint3{(unsigned)(i % d.x), (unsigned)(i / d.x % d.y), (unsigned)(i / d.x / d.y)};
}

static void thread_begin(group *g, block *b, int index) {
    thread *t = &g->threads[b->first + index];
    const launch_spec *s = g->l->spec;
    *t = thread();
    t->seen = view{place(index, s->block), b->id, s->block, s->grid};
    t->blk = b;
    t->grp = g;
    t->index = index;
    t->warp = b->first_warp + index / 32;
    t->lane = index % 32;
    t->first_copy = t->last_copy = -1;
    warp_state *w = &g->warps[t->warp];
    if (t->lane == 0)
        *w = warp_state();
    w->exists |= 1u << t->lane;
    push(g, b->first + index);
}

/* Numbered as the hardware numbers them: x fastest. */
static void block_begin(group *g, int i, int64_t number) {
    const launch_spec *s = g->l->spec;
    block *b = &g->blocks[i];
    int n = count(s->block);
    *b = block();
    b->id = place(number, s->grid);
    b->first = i * n;
    b->n = n;
    b->first_warp = i * ((n + 31) / 32);
    b->shared = g->shared + (size_t)i * g->shared_stride;
    b->cells = g->cells + (size_t)i * g->shared_stride / 2;
    b->settled = g->settled + (size_t)i * g->shared_stride / 2;
    b->epoch = b->epoch0 = ++g->epoch;
    for (int j = 0; j < n; j++)
        thread_begin(g, b, j);
}

static void group_abandon(group *g) {
    g->idle = NULL;
    for (int i = 0; i < g->nslot; i++) {
        fiber_reset(&g->slots[i]->f);
        g->slots[i]->idle = g->idle;
        g->idle = g->slots[i];
    }
    g->failed = false;
}

static void group_run(group *g, const int64_t *number, int nblock) {
    int n = count(g->l->spec->block) * nblock;
    reserve(&g->threads, &g->thread_room, n);
    reserve(&g->warps, &g->warp_room, nblock * ((count(g->l->spec->block) + 31) / 32));
    reserve(&g->blocks, &g->block_room, nblock);
    reserve(&g->ready, &g->ready_room, n);
    g->nthread = g->live = n;
    g->nblock = nblock;
    g->ready_head = g->ready_count = 0;
    g->wait = barrier_state();
    g->far_epoch = ++g->epoch;
    g->met = false;
    g->now |= 0xffffff00u; /* the lower half ends soon */
    g->ncopy = 0;
    g->free_copy = -1;
    g->random = (g->l->seed * 0x9e3779b97f4a7c15u) ^ ((uint64_t)number[0] << 20) ^ 0x2545f491u;
    shared_begin(g, g->l->spec->shared);
    for (int i = 0; i < nblock; i++)
        block_begin(g, i, number[i]);
    g->counters.blocks += (uint64_t)nblock;
    g->counters.threads += (uint64_t)n;
    fiber_adopt(&g->host.f);
    g->host.grp = g;
    next(&g->host, false);
    self = NULL;
    uint64_t flight = 0;
    for (int i = 0; i < n; i++)
        flight += g->threads[i].flight;
    if (flight > g->async_flight)
        g->async_flight = flight;
    if (g->failed)
        group_abandon(g);
    else
        profile_flush(g);
    g->nrecord = 0;
}

/* ---- launches ---- */

static void add_counters(weft_gpu_counters *to, const weft_gpu_counters *from) {
    uint64_t *a = (uint64_t *)to;
    const uint64_t *b = (const uint64_t *)from;
    for (size_t i = 0; i < sizeof *to / sizeof *a; i++)
        a[i] += b[i];
}

/* What all groups would have counted, from those that ran. */
static void scale_counters(launch_state *l) {
    uint64_t *a = (uint64_t *)&l->counters;
    if (l->sampled < l->groups)
        for (size_t i = 0; i < sizeof l->counters / sizeof *a; i++)
            a[i] = (uint64_t)((double)a[i] * (double)l->groups / (double)l->sampled + 0.5);
}

static void note_launch(weft_emu_stream *to, const launch_state *l) {
    const launch_spec *s = l->spec;
    if (to->launched++ >= WEFT_EMU_LAUNCHES)
        return;
    weft_emu_launch *n = &to->launch[to->launched - 1];
    *n = weft_emu_launch{s->instance ? s->instance : s->kernel,
                         {s->grid.x, s->grid.y, s->grid.z},
                         {s->block.x, s->block.y, s->block.z},
                         s->shared,
                         0,
                         l->async_flight,
                         l->counters};
    n->ran = l->counters.blocks * (uint64_t)l->sampled / (uint64_t)l->groups;
}

static int group_blocks(const launch_spec *s) {
    return s->cooperative ? count(s->grid) : count(s->cluster);
}

/* The blocks of cluster `c`. */
static void cluster_blocks(const launch_spec *s, int64_t c, int64_t *number) {
    dim3 d = s->cluster, n(s->grid.x / d.x, s->grid.y / d.y, s->grid.z / d.z);
    uint3 at = place(c, n);
    for (int i = 0; i < count(d); i++) {
        uint3 in = place(i, d);
        int64_t x = at.x * d.x + in.x, y = at.y * d.y + in.y, z = at.z * d.z + in.z;
        number[i] = x + s->grid.x * (y + (int64_t)s->grid.y * z);
    }
}

static void run_groups(const void *ctx, int64_t begin, int64_t end, int worker) {
    launch_state *l = *(launch_state *const *)ctx;
    group *g = group_take();
    int64_t number[GROUP_THREADS];
    int n = group_blocks(l->spec);
    (void)worker;
    g->l = l;
    g->counters = weft_gpu_counters();
    g->async_flight = 0;
    for (int64_t i = begin; i < end && !__atomic_load_n(&l->failed, __ATOMIC_ACQUIRE); i++) {
        if (l->spec->cooperative)
            for (int j = 0; j < n; j++)
                number[j] = j;
        else
            cluster_blocks(l->spec, i * l->groups / l->sampled, number);
        group_run(g, number, n);
    }
    while (__atomic_exchange_n(&l->lock, 1, __ATOMIC_ACQUIRE))
        ;
    add_counters(&l->counters, &g->counters);
    if (g->async_flight / (uint64_t)n > l->async_flight)
        l->async_flight = g->async_flight / (uint64_t)n;
    __atomic_store_n(&l->lock, 0, __ATOMIC_RELEASE);
    group_give(g);
}

/* What cudaLaunchKernel would refuse; NULL if nothing. */
static const char *refusal(const launch_spec *s) {
    int64_t threads = (int64_t)s->block.x * s->block.y * s->block.z;
    int64_t blocks = (int64_t)s->grid.x * s->grid.y * s->grid.z;
    if (threads < 1 || threads > BLOCK_THREADS || s->block.z > 64)
        return "invalid block size";
    if (blocks < 1 || s->grid.x > 0x7fffffff || s->grid.y > 65535 || s->grid.z > 65535)
        return "invalid grid size";
    if (s->shared > MAX_SHARED)
        return "more than 227 KiB of shared memory";
    if (s->grid.x % s->cluster.x || s->grid.y % s->cluster.y || s->grid.z % s->cluster.z)
        return "the grid is not whole clusters";
    if (count(s->cluster) > CLUSTER_BLOCKS)
        return "a cluster of more than 8 blocks";
    if ((s->cooperative ? blocks : count(s->cluster)) * threads > GROUP_THREADS)
        return "too many blocks for a cooperative launch";
    return NULL;
}

static void run_launch(const launch_spec &s) {
    weft_emu_stream *stream = (weft_emu_stream *)s.stream;
    launch_state l = {};
    const launch_state *ctx = &l;
    l.spec = &s;
    l.seed = stream->seed;
    l.profile = stream->profile != 0;
    l.error = stream->error;
    const char *no = refusal(&s);
    if (no)
        say(&l, no);
    if (s.step)
        regions_of_step(&l, s.step);
    else
        regions_allowed(&l);
    l.groups = l.sampled = 1;
    if (!no) {
        int64_t n = s.cooperative ? 1 : (int64_t)s.grid.x * s.grid.y * s.grid.z / count(s.cluster);
        l.groups = n;
        n = l.sampled = stream->sample && stream->sample < n ? stream->sample : n;
        weft_parallel(stream->pool, n, n / (4 * stream->pool->threads), run_groups, &ctx);
    }
    scale_counters(&l);
    l.counters.launches = 1;
    stream->failed = l.failed;
    stream->last = l.counters;
    add_counters(&stream->total, &l.counters);
    if (l.profile)
        note_launch(stream, &l);
}

/* With its closure behind it. */
struct kept_launch {
    launch_spec spec;
    alignas(64) char closure[];
};

static void run_kept(void *what) {
    kept_launch *k = (kept_launch *)what;
    if (((weft_emu_stream *)k->spec.stream)->failed)
        return;
    k->spec.closure = k->closure;
    run_launch(k->spec);
}

void launch(const launch_spec &s) {
    weft_emu_stream *stream = (weft_emu_stream *)s.stream;
    int when = stream->failed ? 0 : emu_queue_runs(stream, s.step);
    if (when > 0)
        run_launch(s);
    if (when >= 0)
        return;
    kept_launch *k = (kept_launch *)emu_queue_later(stream, run_kept, sizeof *k + s.closure_bytes);
    k->spec = s;
    memcpy(k->closure, s.closure, s.closure_bytes);
}

} // namespace emu
