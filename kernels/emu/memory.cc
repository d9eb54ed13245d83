/* SPDX-License-Identifier: Apache-2.0
 * What a kernel's accesses are held to: the bounds and roles of its step's operands, alignment, and
 * in shared memory who wrote what and when. */
#include "kernels/emu/internal.h"
#include <stdio.h>
#include <stdlib.h>

namespace emu {

/* ---- regions ---- */

static region allowed[REGIONS];
static int nallowed;

void allow(const void *p, size_t bytes, int how, const char *name) {
    if (nallowed < REGIONS)
        allowed[nallowed++] = region{(const char *)p, (const char *)p + bytes, name, how};
}

void allow_none() {
    nallowed = 0;
}

void regions_allowed(launch_state *l) {
    memcpy(l->region_at, allowed, sizeof allowed);
    l->nregion = nallowed;
    l->bounded = nallowed > 0;
}

/* The bytes from a view's first element to its last. */
static region region_of(const weft_tensor *t, const weft_field *f) {
    int64_t last = 0;
    bool none = false;
    for (int i = 0; i < WEFT_DIMS; i++) {
        none |= t->shape[i] < 1;
        last += (t->shape[i] - 1) * t->stride[i];
    }
    const char *lo = (const char *)t->data;
    int how = f->role == 'A' ? READ | WRITE : f->role == 'O' ? WRITE : READ;
    return region{lo, none ? lo : lo + weft_dtype_bytes(t->dtype, last + 1), f->name, how};
}

void regions_of_step(launch_state *l, const weft_step *step) {
    const weft_op_info *op = &weft_op_table[step->kernel->op];
    l->bounded = true;
    for (int i = 0; i < op->nfield; i++) {
        const weft_tensor *t = (const weft_tensor *)((const char *)&step->args + op->field[i].off);
        if (op->field[i].role != 'S' && weft_has(t) && l->nregion < REGIONS - 1)
            l->region_at[l->nregion++] = region_of(t, &op->field[i]);
    }
    size_t n = step->kernel->scratch ? step->kernel->scratch(&step->args) : 0;
    if (n)
        l->region_at[l->nregion++] = region{
            (const char *)step->scratch, (const char *)step->scratch + n, "scratch", READ | WRITE};
}

static bool inside(const region *r, const char *p, size_t n, int how) {
    return p >= r->lo && p + n <= r->hi && (r->how & how) == how;
}

[[noreturn]] static void outside(const launch_state *l, const char *p, size_t n, int how, site at) {
    const region *near = NULL;
    int64_t least = INT64_MAX;
    for (int i = 0; i < l->nregion; i++) {
        const region *r = &l->region_at[i];
        int64_t far = p < r->lo ? r->lo - p : p + n > r->hi ? p + (int64_t)n - r->hi : 0;
        if (far < least) {
            least = far;
            near = r;
        }
    }
    const char *verb = how & WRITE ? "writes" : "reads";
    if (!near)
        fail(at, "%s %zu bytes, and has no operands", verb, n);
    if (!least)
        fail(at, "%s %zu bytes of '%s', which it may only %s", verb, n, near->name,
             how & WRITE ? "read" : "write");
    fail(at, "%s %zu bytes out of bounds: %lld bytes %s '%s'", verb, n, (long long)least,
         p < near->lo ? "before" : "past the end of", near->name);
}

static void found(thread *t, int i, access how, site at) {
    const region *r = &t->grp->l->region_at[i];
    t->region = (uint8_t)i;
    if (how == LOAD_CONST && r->how & WRITE)
        fail(at, "a read through the non-coherent path of '%s', which the kernel writes", r->name);
}

static void in_bounds(thread *t, const char *p, size_t n, access how, site at) {
    int need = how == STORE ? WRITE : how == ATOMIC ? READ | WRITE : READ;
    const launch_state *l = t->grp->l;
    if (!l->bounded)
        return;
    if (t->region < l->nregion && inside(&l->region_at[t->region], p, n, need))
        return found(t, t->region, how, at);
    for (int i = 0; i < l->nregion; i++)
        if (inside(&l->region_at[i], p, n, need))
            return found(t, i, how, at);
    outside(l, p, n, need, at);
}

static void keep(thread *t, int space, uint32_t order, const void *p, size_t bytes) {
    group *g = t->grp;
    reserve(&g->records, &g->record_room, g->nrecord + 1);
    g->records[g->nrecord++] = record{(uint32_t)t->warp, order,          (uint64_t)(uintptr_t)p,
                                      (uint16_t)bytes,   (uint8_t)space, (uint8_t)t->lane};
}

static inline void note(thread *t, int space, const void *p, size_t bytes) {
    uint32_t order = t->order[space]++;
    if (t->grp->l->profile)
        keep(t, space, order, p, bytes);
}

static inline void aligned(const void *p, size_t bytes, size_t align, site at) {
    if ((uintptr_t)p % align)
        fail(at, "misaligned: %zu bytes at an address that is %zu past a multiple of %zu", bytes,
             (size_t)((uintptr_t)p % align), align);
}

void global_access(const void *p, size_t bytes, size_t align, access how, site at) {
    thread *t = current();
    aligned(p, bytes, align, at);
    if (is_shared(p))
        fail(at, "a global access of shared memory");
    in_bounds(t, (const char *)p, bytes, how, at);
    weft_gpu_counters *c = &t->grp->counters;
    *(how == STORE || how == ATOMIC ? &c->written_bytes : &c->read_bytes) += bytes;
    note(t, 0, p, bytes);
}

/* ---- shared memory ---- */

void shared_begin(group *g, size_t bytes) {
    int n = g->nblock;
    g->shared_stride = (bytes + 1023) / 1024 * 1024;
    size_t all = g->shared_stride * (size_t)n + 1024;
    if (all > g->shared_room) {
        free(g->shared);
        g->shared = (char *)aligned_alloc(1024, (all + 1023) / 1024 * 1024);
        if (!g->shared)
            abort();
        g->shared_room = all;
    }
    reserve(&g->cells, &g->cell_room, all / 2);
    reserve(&g->settled, &g->settled_room, all / 2);
    if (is_cluster(g))
        reserve(&g->far, &g->far_room, all / 2);
    memset(g->shared, 0xff, g->shared_stride * (size_t)n); /* NaN in every float type */
}

void *shared_bytes(size_t bytes, size_t align, site at) {
    thread *t = current();
    if (bytes > t->grp->l->spec->shared)
        fail(at, "WEFT_SMEM of %zu bytes, but the launch gave %zu", bytes, t->grp->l->spec->shared);
    if (align > 1024)
        fail(at, "WEFT_SMEM aligned to %zu: at most 1024", align);
    return t->blk->shared;
}

bool is_shared(const void *p) {
    const group *g = current()->grp;
    return (const char *)p >= g->shared &&
           (const char *)p < g->shared + g->shared_stride * (size_t)g->nblock;
}

/* Threads of a warp are ordered by __syncwarp, all others by barriers alone. */
static bool ordered(const thread *t, int other, uint32_t epoch, uint16_t warp_epoch) {
    return epoch != t->blk->epoch || other == t->index ||
           (other / 32 == t->index / 32 && warp_epoch != t->grp->warps[t->warp].epoch);
}

static bool readers_ordered(const thread *t, const cell *c) {
    if (c->read_epoch != t->blk->epoch)
        return true;
    if (c->reader == MANY)
        return false;
    if (c->reader & MANY_IN_WARP)
        return (c->reader & 31) == t->index / 32 &&
               c->read_warp_epoch != t->grp->warps[t->warp].epoch;
    return ordered(t, c->reader, c->read_epoch, c->read_warp_epoch);
}

static void cell_read(thread *t, cell *c, site at) {
    uint16_t warp_epoch = t->grp->warps[t->warp].epoch;
    int me = t->index;
    if (c->write_epoch < t->blk->epoch0)
        fail(at, "reads shared memory that nobody wrote");
    if (c->writer & PENDING)
        fail(at, "reads the target of an asynchronous copy that was not waited for");
    if (!ordered(t, c->writer, c->write_epoch, c->write_warp_epoch))
        fail(at, "race: reads what thread %d wrote since the last barrier", c->writer);
    if (c->read_epoch == t->blk->epoch && c->reader != me) {
        bool mine = c->reader != MANY &&
                    (c->reader & MANY_IN_WARP ? (c->reader & 31) : c->reader / 32) == me / 32;
        c->reader = (uint16_t)(!mine                              ? (int)MANY
                               : c->read_warp_epoch != warp_epoch ? me
                                                                  : MANY_IN_WARP | me / 32);
    } else {
        c->reader = (uint16_t)me;
    }
    c->read_epoch = t->blk->epoch;
    c->read_warp_epoch = warp_epoch;
}

static void cell_write(thread *t, cell *c, bool atomic, int pending, site at) {
    bool live = c->write_epoch >= t->blk->epoch0;
    if (live && c->writer & PENDING && pending >= 0)
        fail(at, "writes the target of an asynchronous copy that was not waited for");
    if (live && !atomic && pending >= 0 &&
        !ordered(t, c->writer & ~PENDING, c->write_epoch, c->write_warp_epoch))
        fail(at, "race: overwrites what thread %d wrote since the last barrier", c->writer);
    if (live && !readers_ordered(t, c)) /* an atomic too: the reader saw it or did not */
        fail(at, "race: overwrites what another thread read since the last barrier");
    if (pending <= 0 && !t->unfenced) {
        t->unfenced = true;
        t->unfenced_since = t->blk->epoch;
    }
    c->write_epoch = t->blk->epoch;
    c->writer = (uint16_t)(t->index | (pending > 0 ? PENDING : 0));
    c->write_warp_epoch = t->grp->warps[t->warp].epoch;
}

/* Bytes one by one are not tracked apart: a cell is two of them. */
static inline cell *cells_of(thread *t, const void *p, size_t bytes, size_t *n, site at) {
    const char *lo = t->blk->shared, *hi = lo + t->grp->l->spec->shared, *q = (const char *)p;
    if (q < lo || q + bytes > hi)
        fail(at, "shared memory out of bounds: %zu bytes at offset %lld of %zu", bytes,
             (long long)(q - lo), t->grp->l->spec->shared);
    size_t first = (size_t)(q - lo) / 2;
    *n = ((size_t)(q - lo) + bytes + 1) / 2 - first;
    return t->blk->cells + first;
}

/* Keys of what most reads find: written before the last barrier, and read since then by several
 * warps, or by several lanes of this one since its last __syncwarp. One more reader is no news. */
static inline uint64_t key_any(const thread *t) {
    return (uint64_t)t->blk->epoch << 32;
}
static inline uint64_t key_mine(const thread *t) {
    uint64_t warp_epoch = t->grp->warps[t->warp].epoch;
    return key_any(t) | warp_epoch << 16 | (uint64_t)(t->index / 32 + 1);
}

static inline bool settled(const uint64_t *at, size_t n, uint64_t any, uint64_t mine) {
    uint64_t not_any = 0, not_mine = 0;
    for (size_t i = 0; i < n; i++) {
        not_any |= at[i] ^ any;
        not_mine |= at[i] ^ mine;
    }
    return !not_any || !not_mine;
}

/* A block's own access of what the others of its cluster may use. */
static void near_access(const thread *t, const cell *c, access how, site at) {
    const group *g = t->grp;
    const far_cell *f = &g->far[c - g->cells];
    if (f->write_epoch == g->far_epoch)
        fail(at, "race: another block has written this since the cluster's last barrier");
    if (how != LOAD && f->read_epoch == g->far_epoch)
        fail(at, "race: overwrites what another block read since the cluster's last barrier");
}

static void cell_access(thread *t, cell *c, access how, site at) {
    block *b = t->blk;
    uint64_t *key = &b->settled[c - b->cells];
    if (is_cluster(t->grp))
        near_access(t, c, how, at);
    if (how == ATOMIC && c->write_epoch < b->epoch0)
        fail(at, "reads shared memory that nobody wrote");
    if (how != LOAD) {
        cell_write(t, c, how == ATOMIC, 0, at);
        *key = 0;
        return;
    }
    cell_read(t, c, at);
    bool old = c->write_epoch != b->epoch, many = c->reader != MANY && c->reader & MANY_IN_WARP;
    *key = !old ? 0 : c->reader == MANY ? key_any(t) : many ? key_mine(t) : 0;
}

void shared_access(const void *p, size_t bytes, size_t align, access how, site at) {
    thread *t = current();
    size_t n;
    aligned(p, bytes, align, at);
    cell *c = cells_of(t, p, bytes, &n, at);
    const uint64_t *key = t->blk->settled + (c - t->blk->cells);
    if (how != LOAD || !settled(key, n, key_any(t), key_mine(t)))
        for (size_t i = 0; i < n; i++)
            cell_access(t, &c[i], how, at);
    note(t, 1, p, bytes);
}

/* ---- shared memory of other blocks ---- */

static void far_read(far_cell *f, const cell *c, const block *b, uint32_t epoch, int me, site at) {
    if (c->write_epoch < b->epoch0)
        fail(at, "reads shared memory that nobody wrote");
    f->reader = (uint16_t)(f->read_epoch == epoch && f->reader != me ? (int)MANY : me);
    f->read_epoch = epoch;
}

static void far_write(far_cell *f, cell *c, block *b, uint32_t epoch, int me, site at) {
    if (c->read_epoch >= epoch || (f->read_epoch == epoch && f->reader != me))
        fail(at, "race: overwrites what another thread read since the cluster's last barrier");
    f->write_epoch = epoch;
    f->writer = (uint16_t)me;
    c->write_epoch = b->epoch;
    c->writer = 0;
    b->settled[c - b->cells] = 0;
}

/* Only barriers of the cluster order blocks. */
static void far_access(thread *t, block *b, cell *c, access how, site at) {
    group *g = t->grp;
    far_cell *f = &g->far[c - g->cells];
    int me = (int)(t - g->threads);
    bool live = c->write_epoch >= b->epoch0, far = f->write_epoch == g->far_epoch;
    if (live && c->writer & PENDING)
        fail(at, "the target of another block's asynchronous copy that was not waited for");
    if (far ? f->writer != me : live && c->write_epoch >= g->far_epoch)
        fail(at, "race: another thread has written this since the cluster's last barrier");
    if (how == LOAD)
        far_read(f, c, b, g->far_epoch, me, at);
    else
        far_write(f, c, b, g->far_epoch, me, at);
}

void *cluster_access(const void *p, unsigned rank, size_t bytes, size_t align, access how,
                     site at) {
    thread *t = current();
    size_t n;
    cell *c = cells_of(t, p, bytes, &n, at);
    if (rank >= cluster_size())
        fail(at, "block %u of a cluster of %u", rank, cluster_size());
    if (rank == cluster_rank()) {
        shared_access(p, bytes, align, how, at);
        return (void *)p;
    }
    block *b = &t->grp->blocks[rank];
    if (!t->grp->met)
        fail(at, "block %u of the cluster may not run yet: there was no cluster_sync", rank);
    if (b->exited == b->n)
        fail(at, "block %u of the cluster has returned, and its shared memory is gone", rank);
    aligned(p, bytes, align, at);
    for (size_t i = 0; i < n; i++)
        far_access(t, b, b->cells + (c - t->blk->cells) + i, how, at);
    b->far_epoch = t->grp->far_epoch;
    b->far_at = at;
    note(t, 1, p, bytes);
    return b->shared + ((const char *)p - t->blk->shared);
}

/* ---- the async proxy ---- */

void fence_proxy_async() {
    current()->unfenced = false;
}

static void proxy_sees(const thread *t, const cell *c, site at) {
    const thread *w = t - t->index + (c->writer & ~PENDING);
    if (w->unfenced && c->write_epoch >= w->unfenced_since)
        fail(at, "reads through the async proxy what thread %d wrote without fence.proxy.async",
             w->index);
}

void proxy_read(const void *p, size_t bytes, site at) {
    thread *t = current();
    size_t n;
    cell *c = cells_of(t, p, bytes, &n, at);
    const uint64_t *key = t->blk->settled + (c - t->blk->cells);
    if (!settled(key, n, key_any(t), key_mine(t)))
        for (size_t i = 0; i < n; i++)
            cell_access(t, &c[i], LOAD, at);
    for (size_t i = 0; i < n; i++)
        proxy_sees(t, &c[i], at);
}

/* ---- asynchronous copies ---- */

static int copy_take(group *g) {
    int i = g->free_copy;
    if (i >= 0) {
        g->free_copy = g->copies[i].next;
        return i;
    }
    reserve(&g->copies, &g->copy_room, g->ncopy + 1);
    return g->ncopy++;
}

void async_copy(void *dst, const void *src, int size, int n, site at) {
    thread *t = current();
    group *g = t->grp;
    size_t cells;
    aligned(dst, (size_t)size, (size_t)size, at);
    aligned(src, (size_t)size, (size_t)size, at);
    if (n < 0 || n > size)
        fail(at, "cp.async of %d bytes into %d", n, size);
    if (n)
        in_bounds(t, (const char *)src, (size_t)n, LOAD, at);
    cell *c = cells_of(t, dst, (size_t)size, &cells, at);
    for (size_t i = 0; i < cells; i++) {
        if (is_cluster(g))
            near_access(t, &c[i], STORE, at);
        cell_write(t, &c[i], false, 1, at);
        t->blk->settled[&c[i] - t->blk->cells] = 0;
    }
    memset(dst, 0xff, (size_t)size);
    int i = copy_take(g);
    g->copies[i] = copy{dst, src, size, n, -1, t->committed, at};
    *(t->first_copy < 0 ? &t->first_copy : &g->copies[t->last_copy].next) = i;
    t->last_copy = i;
    g->counters.async_bytes += (uint64_t)n;
    t->flying += (uint32_t)n;
    if (t->flying > t->flight)
        t->flight = t->flying;
    g->counters.read_bytes += (uint64_t)n;
    if (n)
        note(t, 0, src, (size_t)n);
    note(t, 1, dst, (size_t)size);
}

void async_commit() {
    current()->committed++;
}

static void copy_finish(thread *t, const copy *k) {
    size_t n;
    cell *c = cells_of(t, k->dst, (size_t)k->size, &n, k->at);
    memcpy(k->dst, k->src, (size_t)k->n);
    memset((char *)k->dst + k->n, 0, (size_t)(k->size - k->n));
    for (size_t i = 0; i < n; i++)
        cell_write(t, &c[i], false, -1, k->at);
}

/* The last moment at which the hardware may be done: everything but the `pending` youngest groups,
 * -1: everything. */
void async_wait(int pending, site at) {
    thread *t = current();
    group *g = t->grp;
    (void)at;
    while (t->first_copy >= 0) {
        int i = t->first_copy;
        if (pending >= 0 && (int64_t)g->copies[i].number >= (int64_t)t->committed - pending)
            return;
        copy_finish(t, &g->copies[i]);
        t->flying -= (uint32_t)g->copies[i].n;
        t->first_copy = g->copies[i].next;
        g->copies[i].next = g->free_copy;
        g->free_copy = i;
    }
    t->last_copy = -1;
}

/* ---- profile ---- */

static int by_request(const void *a, const void *b) {
    const record *x = (const record *)a, *y = (const record *)b;
    if (x->space != y->space)
        return x->space < y->space ? -1 : 1;
    if (x->warp != y->warp)
        return x->warp < y->warp ? -1 : 1;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return x->lane < y->lane ? -1 : x->lane > y->lane;
}

/* Distinct units of `unit` bytes that n accesses touch, into out (at most 32 * 8). */
static int units(const record *r, int n, uint64_t unit, uint64_t *out) {
    int found = 0;
    for (int i = 0; i < n; i++)
        for (uint64_t u = r[i].at / unit; u <= (r[i].at + r[i].bytes - 1) / unit; u++) {
            int j = 0;
            while (j < found && out[j] != u)
                j++;
            if (j == found && found < 256)
                out[found++] = u;
        }
    return found;
}

/* Shared memory serves 32 banks of 4 bytes a pass; wide accesses go by quarters or halves of a
 * warp. */
static void count_shared(weft_gpu_counters *c, const record *r, int n) {
    int lanes = r->bytes >= 16 ? 8 : r->bytes >= 8 ? 16 : 32;
    uint64_t word[256];
    for (int i = 0; i < n;) {
        int j = i, most = 0, bank[32] = {};
        while (j < n && r[j].lane / lanes == r[i].lane / lanes)
            j++;
        int found = units(r + i, j - i, 4, word);
        for (int k = 0; k < found; k++) {
            int b = ++bank[word[k] % 32];
            most = b > most ? b : most;
        }
        c->shared_passes += (uint64_t)most;
        c->shared_least += (uint64_t)(found + 31) / 32;
        i = j;
    }
    c->shared_requests++;
}

void profile_flush(group *g) {
    uint64_t sector[256];
    if (!g->l->profile)
        return;
    if (g->nrecord)
        qsort(g->records, g->nrecord, sizeof *g->records, by_request);
    for (size_t i = 0; i < g->nrecord;) {
        const record *r = &g->records[i];
        size_t j = i;
        while (j < g->nrecord && j - i < 32 && g->records[j].space == r->space &&
               g->records[j].warp == r->warp && g->records[j].order == r->order)
            j++;
        if (r->space) {
            count_shared(&g->counters, r, (int)(j - i));
        } else {
            g->counters.requests++;
            g->counters.sectors += (uint64_t)units(r, (int)(j - i), 32, sector);
        }
        i = j;
    }
    g->nrecord = 0;
    for (int i = 0; i < g->nthread; i++)
        g->threads[i].order[0] = g->threads[i].order[1] = 0;
}

} // namespace emu
