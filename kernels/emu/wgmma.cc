/* SPDX-License-Identifier: Apache-2.0
 * wgmma: products of a warpgroup, which the hardware may do at any time until they are waited for.
 * Here the wait does them, from shared memory as it is then, while the accumulators of the thread
 * hold NaN: what is read or overwritten too early shows. Each thread computes what it holds. */
#include "kernels/emu/internal.h"
#include "kernels/emu/warp.h"

namespace emu {

static void meet_lanes(void *const arg[32], uint32_t mask) {
    (void)arg, (void)mask;
}

/* .sync.aligned: whole warps of whole warpgroups. */
static flight *meet(const char *what, site at) {
    thread *t = current();
    group *g = t->grp;
    if (t->blk->n % 128)
        fail(at, "%s in a block of %d threads, which are not whole warpgroups", what, t->blk->n);
    warp_op(meet_lanes, what, 0xffffffffu, NULL, at);
    reserve(&g->flights, &g->flight_room, g->nthread);
    flight *f = &g->flights[t - g->threads];
    if (!t->flies)
        *f = flight();
    t->flies = true;
    return f;
}

/* ---- descriptors (PTX ISA, "Matrix Descriptor Format") ---- */

/* K-major, swizzled over rows of 128, 64 or 32 bytes; eight rows after the other. */
uint64_t wgmma_descriptor(const void *p, int row_bytes, site at) {
    uint64_t mode = row_bytes == 128 ? 1 : row_bytes == 64 ? 2 : 3;
    uint64_t offset = (uint64_t)((const char *)p - current()->blk->shared);
    if (!is_shared(p) || offset % 16)
        fail(at, "a matrix descriptor of what is not a 16-byte place of shared memory");
    return offset >> 4 | 1u << 16 | (uint64_t)(8 * row_bytes >> 4) << 32 | mode << 62;
}

/* The 16 bytes of k 8 half .. of a row: swizzled by the address's own bits. */
static const uint16_t *operand(uint64_t desc, int row, int half, site at) {
    uint64_t start = (desc & 0x3fff) << 4, eight = (desc >> 32 & 0x3fff) << 4, mode = desc >> 62;
    if (!mode || desc >> 49 & 7)
        fail(at, "wgmma with a layout that the emulator does not know");
    uint64_t bytes = 256u >> mode;
    uint64_t q = start + (uint64_t)row / 8 * eight + (uint64_t)row % 8 * bytes + 16u * half;
    return (const uint16_t *)(current()->blk->shared + (q ^ (q >> 3 & (bytes - 16))));
}

static void look(uint64_t desc, int row, site at) {
    proxy_read(operand(desc, row, 0, at), 16, at);
    proxy_read(operand(desc, row, 1, at), 16, at);
}

static void load(mma_kind kind, uint64_t desc, int row, float v[16], site at) {
    look(desc, row, at);
    for (int k = 0; k < 16; k++) {
        uint16_t h = operand(desc, row, k / 8, at)[k % 8];
        v[k] = kind == MMA_BF16 ? weft_bf16_to_f32(h) : weft_f16_to_f32(h);
    }
}

/* Row of A and of B of a thread's accumulator i. */
static int row_a(const thread *t, int i) {
    return t->index / 32 % 4 * 16 + t->lane / 4 + i / 2 % 2 * 8;
}
static int row_b(const thread *t, int i) {
    return i / 4 * 8 + t->lane % 4 * 2 + i % 2;
}

/* ---- products ---- */

/* The accumulators at d, which this product may be the first to hold. */
static tile *hold(flight *f, float *d, int n, site at) {
    tile *free = NULL;
    for (tile &x : f->tiles) {
        if (x.pending && x.d == d && x.n == n)
            return &x;
        if (x.pending && x.d < d + n && d < x.d + x.n)
            fail(at, "wgmma of accumulators that another one of a different shape holds");
        if (!x.pending)
            free = &x;
    }
    if (!free)
        fail(at, "wgmma on more than %d sets of accumulators at once", TILES);
    free->d = d;
    free->n = n;
    memcpy(free->sum, d, (size_t)n * sizeof *d);
    memset(d, 0xff, (size_t)n * sizeof *d);
    return free;
}

void wgmma(mma_kind kind, float *d, int n, uint64_t a, uint64_t b, int add, site at) {
    thread *t = current();
    flight *f = meet("wgmma", at);
    if (!f->fenced)
        fail(at, "wgmma without a wgmma.fence before it");
    if (f->n == PRODUCTS)
        fail(at, "more than %d wgmma on their way", PRODUCTS);
    hold(f, d, n, at)->pending++;
    look(a, row_a(t, 0), at);
    look(a, row_a(t, 2), at);
    for (int i = 0; i < n; i += 4) {
        look(b, row_b(t, i), at);
        look(b, row_b(t, i + 1), at);
    }
    f->at[f->n++] = product{a, b, d, n, kind, add, f->committed, at};
    if (t->lane == 0)
        count_mma(n / 4);
}

/* As the mma of a warp, eight columns at a time: the same bits. */
static void multiply(const thread *t, const product *p, float *sum) {
    float a[2][16], column[16], b[16][8] = {{0}}, c[8] = {0};
    mma_kind kind = (mma_kind)p->kind;
    load(kind, p->a, row_a(t, 0), a[0], p->at);
    load(kind, p->a, row_a(t, 2), a[1], p->at);
    for (int from = 0; from < p->n; from += 16) {
        int columns = p->n - from < 16 ? (p->n - from) / 2 : 8;
        for (int n = 0; n < columns; n++) {
            load(kind, p->b, row_b(t, from + n / 2 * 4 + n % 2), column, p->at);
            for (int k = 0; k < 16; k++)
                b[k][n] = column[k];
        }
        for (int r = 0; r < 2; r++) {
            float *of = sum + from + 2 * r;
            for (int n = 0; n < columns; n++)
                c[n] = p->add ? of[n / 2 * 4 + n % 2] : 0;
            mma_row(kind, a[r], b, c, 16);
            for (int n = 0; n < columns; n++)
                of[n / 2 * 4 + n % 2] = c[n];
        }
    }
}

static void finish(flight *f, const thread *t, const product *p) {
    tile *x = hold(f, p->d, p->n, p->at);
    multiply(t, p, x->sum);
    if (!--x->pending)
        memcpy(x->d, x->sum, (size_t)x->n * sizeof *x->d);
}

void wgmma_fence(site at) {
    meet("wgmma.fence", at)->fenced = true;
}

void wgmma_commit(site at) {
    flight *f = meet("wgmma.commit_group", at);
    f->committed++;
    f->fenced = false;
}

void wgmma_wait(int pending, site at) {
    flight *f = meet("wgmma.wait_group", at);
    int done = 0;
    while (done < f->n && (int64_t)f->at[done].number < (int64_t)f->committed - pending)
        finish(f, current(), &f->at[done++]);
    f->n -= done;
    memmove(f->at, f->at + done, (size_t)f->n * sizeof *f->at);
}

} // namespace emu
