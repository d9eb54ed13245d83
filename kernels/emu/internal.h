/* SPDX-License-Identifier: Apache-2.0
 * The emulator's own data: a launch, the group of blocks that one host thread runs at a time (one
 * block; a cluster; the whole grid, if it is cooperative), its threads and their memory. */
#pragma once
#include "kernels/emu/emu.h"
#include "kernels/emu/fiber.h"
#include <stdarg.h>

namespace emu {

enum {
    BLOCK_THREADS = 1024,
    GROUP_THREADS = 16384,
    MAX_SHARED = 227 << 10,
    REGIONS = 24,
    CLUSTER_BLOCKS = 8
};

/* Bytes the launch may touch. */
struct region {
    const char *lo, *hi, *name;
    int how;
};

struct launch_state {
    const launch_spec *spec;
    region region_at[REGIONS];
    int nregion;
    bool bounded; /* false: nothing is known of the operands */
    uint64_t seed;
    bool profile;
    int failed; /* set once, by whoever fails first */
    char *error;
    weft_gpu_counters counters;
    int64_t groups, sampled; /* of the grid; that run */
    uint64_t async_flight;
    int lock;
};

enum thread_state : uint8_t { FRESH, RUNNING, READY, AT_WARP, AT_BARRIER, DONE };

struct slot; /* a fiber and the thread on it */

struct thread {
    view seen; /* first: emu::self points here */
    block *blk;
    group *grp;
    slot *on;
    int index, warp, lane; /* in the block; of the group; in the warp */
    thread_state state;
    uint8_t region; /* the last one used */
    int result;     /* of a barrier with a value */
    /* What it waits at. */
    const char *what;
    site at;
    warp_fn *fn;
    uint32_t mask;
    void *arg;
    /* Asynchronous copies not yet done, oldest first: links into group::copies, -1: none. */
    int first_copy, last_copy;
    uint32_t committed;
    uint32_t flying, flight; /* bytes of its copies: now, and at most */
    bool flies;              /* has used its group::flights */
    bool unfenced;           /* wrote shared memory, in this epoch or later, that the async */
    uint32_t unfenced_since; /* proxy may not see yet */
    uint32_t order[2];       /* memory instructions since the last flush: global, shared */
};

struct warp_state {
    uint32_t exists, done; /* lanes */
    uint32_t waiting;      /* lanes at the same operation as `first`, so that most arrivals need */
    const thread *first;   /* not look at all lanes; others may wait elsewhere */
    uint16_t epoch;        /* grows with every __syncwarp */
};

/* Two bytes of shared memory: who wrote and who read them last, and when. A barrier orders epochs
 * of the block, __syncwarp those of a warp. */
enum { PENDING = 0x8000, MANY = 0xffff, MANY_IN_WARP = 0x4000 };
struct cell {
    uint32_t write_epoch, read_epoch;
    uint16_t writer, reader; /* thread; PENDING: the target of a copy; MANY..: several readers */
    uint16_t write_warp_epoch, read_warp_epoch;
};

/* The same two bytes, as the cluster's other blocks used them since its last barrier: threads of
 * the group. */
struct far_cell {
    uint32_t write_epoch, read_epoch;
    uint16_t writer, reader; /* MANY: several */
};

struct barrier_state {
    int arrived, count;
    barrier_kind kind;
    site at;
};

struct block {
    uint3 id;
    int first, n;   /* threads in the group */
    int first_warp; /* in the group */
    int exited;
    barrier_state wait;
    char *shared;
    cell *cells;
    uint64_t *settled;      /* of each cell: who may read it without a change to it */
    uint32_t epoch, epoch0; /* now; when the block began */
    uint32_t far_epoch;     /* when another block last used its shared memory, */
    site far_at;            /* and where */
};

struct copy {
    void *dst;
    const void *src;
    int size, n, next;
    uint32_t number; /* of its group of copies */
    site at;
};

/* A wgmma on its way, and the accumulators of one: what they are, while the thread's own hold
 * NaN. */
struct product {
    uint64_t a, b;
    float *d;
    int n, kind, add;
    uint32_t number; /* of its group of products */
    site at;
};
struct tile {
    float *d;
    int n, pending;
    float sum[128];
};
enum { PRODUCTS = 32, TILES = 2 };
struct flight {
    product at[PRODUCTS];
    tile tiles[TILES];
    int n;
    bool fenced; /* wgmma.fence since the last commit */
    uint32_t committed;
};

struct slot {
    fiber f;
    group *grp;
    thread *t;
    slot *idle; /* next of the idle ones */
};

struct record { /* one thread's access, for the profile */
    uint32_t warp, order;
    uint64_t at;
    uint16_t bytes;
    uint8_t space, lane;
};

/* Everything one host thread needs; kept between launches. */
struct group {
    group *free_next;
    launch_state *l;
    slot host;
    slot **slots, *idle;
    int nslot, slot_room;
    thread *threads;
    int nthread, thread_room, live;
    warp_state *warps;
    int warp_room;
    block *blocks;
    int nblock, block_room;
    barrier_state wait; /* of all blocks */
    int *ready;         /* ring of threads that may run */
    int ready_head, ready_count, ready_room;
    uint64_t random;
    bool failed;
    char *shared;
    size_t shared_room, shared_stride;
    cell *cells;
    uint64_t *settled;
    size_t cell_room, settled_room;
    uint32_t epoch;
    far_cell *far; /* of a cluster's cells */
    size_t far_room;
    uint32_t far_epoch; /* of the last barrier of the cluster */
    bool met;           /* there was one: all blocks run */
    copy *copies;
    int ncopy, copy_room, free_copy;
    flight *flights; /* of each thread */
    int flight_room;
    record *records;
    size_t nrecord, record_room;
    weft_gpu_counters counters;
    uint64_t async_flight; /* most bytes of asynchronous copies, over its runs */
    uint64_t now;
};

static inline thread *current() {
    return (thread *)self;
}

/* Grows *p to hold n of `size` bytes, new ones zero. Ends the process when memory is out: only the
 * emulator's own bookkeeping is here. */
void grow(void **p, void *room, bool room_is_int, size_t n, size_t size);
template <class T> void reserve(T **p, int *room, int n) {
    if (n > *room)
        grow((void **)p, room, true, (size_t)n, sizeof(T));
}
template <class T> void reserve(T **p, size_t *room, size_t n) {
    if (n > *room)
        grow((void **)p, room, false, n, sizeof(T));
}

/* memory.cc */
void regions_of_step(launch_state *l, const weft_step *step);
void regions_allowed(launch_state *l);
void shared_begin(group *g, size_t bytes);
/* A read by the async proxy on behalf of this thread. */
void proxy_read(const void *p, size_t bytes, site at);
/* Whether the group is a cluster of several blocks. */
static inline bool is_cluster(const group *g) {
    return g->nblock > 1 && !g->l->spec->cooperative;
}
/* All accesses before a barrier are known: count what each warp's instructions touch. */
void profile_flush(group *g);

} // namespace emu
