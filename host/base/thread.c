/* SPDX-License-Identifier: Apache-2.0
 * The thread pool. A region is published by one store: `ticket` holds how many of its pieces are
 * still to be claimed, and claiming is a compare-and-swap that takes one off. Nobody waits for a
 * worker that claims nothing, so a sleeping one costs no time; the caller waits for pieces only. */
#include "host/base/thread.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINE = 64, BATCH = 1 << 30 }; /* pieces per region; more are run as several regions */

static const double spin_seconds = 60e-6;

/* Fields of the region are atomics because a late worker may read them while the next region is
 * written; it then fails to claim, since a ticket is (generation << 32 | pieces left) and one with
 * nothing left is never claimed. */
typedef struct pool pool;
typedef struct {
    pool *p;
    int worker;
    pthread_t id;
} seat;

struct pool {
    weft_stream stream;
    seat seat[WEFT_MAX_THREADS]; /* [0] is the caller's and unused */
    int started;
    bool spin; /* a spinning worker takes nobody's core */
    size_t bytes;

    _Alignas(LINE) atomic_uint_fast64_t ticket;
    _Atomic(weft_range_fn *) fn;
    _Atomic(const void *) ctx;
    atomic_int_fast64_t n, grain, first; /* items; items a piece; index of the first piece */
    atomic_uint pieces;

    _Alignas(LINE) atomic_uint epoch; /* futex of idle workers: changes with every region */
    atomic_uint sleepers;
    atomic_bool stop, busy;

    _Alignas(LINE) atomic_uint done; /* futex of the caller: pieces finished */
    atomic_bool caller_sleeps;
};

static void futex_wait(atomic_uint *word, unsigned seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int n) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* One piece, or false if none is left. */
static bool run_piece(pool *p, int worker) {
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    for (;;) {
        uint32_t left = (uint32_t)t;
        if (left == 0)
            return false;
        weft_range_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        const void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        int64_t n = atomic_load_explicit(&p->n, memory_order_relaxed);
        int64_t grain = atomic_load_explicit(&p->grain, memory_order_relaxed);
        int64_t first = atomic_load_explicit(&p->first, memory_order_relaxed);
        uint32_t pieces = atomic_load_explicit(&p->pieces, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t - 1, memory_order_acquire,
                                                   memory_order_acquire))
            continue;
        int64_t begin = (first + (int64_t)(pieces - left)) * grain;
        fn(ctx, begin, n - begin < grain ? n : begin + grain, worker);
        return true;
    }
}

static unsigned run_pieces(pool *p, int worker) {
    unsigned n = 0;
    while (run_piece(p, worker))
        n++;
    return n;
}

/* Only a worker that finished something reports, and the region cannot end before it does. */
static void report(pool *p, unsigned n) {
    if (n == 0)
        return;
    atomic_fetch_add(&p->done, n);
    if (atomic_load(&p->caller_sleeps))
        futex_wake(&p->done, 1);
}

static bool has_work(pool *p) {
    return (uint32_t)atomic_load_explicit(&p->ticket, memory_order_acquire) != 0 ||
           atomic_load_explicit(&p->stop, memory_order_acquire);
}

static bool spin_for_work(pool *p) {
    double until = clock_seconds() + spin_seconds;
    do {
        for (int i = 0; i < 64; i++) {
            if (has_work(p))
                return true;
            cpu_relax();
        }
    } while (clock_seconds() < until);
    return false;
}

/* The epoch is read before work is looked for, so a region published in between is not slept
 * through: the futex sees that the epoch has moved. */
static void wait_for_work(pool *p) {
    if (p->spin && spin_for_work(p))
        return;
    unsigned seen = atomic_load(&p->epoch);
    atomic_fetch_add(&p->sleepers, 1);
    if (!has_work(p))
        futex_wait(&p->epoch, seen);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void *worker_main(void *arg) {
    const seat *me = arg;
    pool *p = me->p;
    int worker = me->worker;
    char name[16];
    snprintf(name, sizeof name, "weft-%d", worker);
    pthread_setname_np(pthread_self(), name);
    while (!atomic_load_explicit(&p->stop, memory_order_acquire)) {
        report(p, run_pieces(p, worker));
        wait_for_work(p);
    }
    return NULL;
}

static void wake_workers(pool *p, unsigned most) {
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->sleepers) > 0)
        futex_wake(&p->epoch, most > INT_MAX ? INT_MAX : (int)most);
}

static void wait_for_pieces(pool *p, unsigned pieces) {
    for (int i = 0; i < (p->spin ? 4096 : 1); i++) {
        if (atomic_load_explicit(&p->done, memory_order_acquire) == pieces)
            return;
        cpu_relax();
    }
    atomic_store(&p->caller_sleeps, true);
    unsigned done;
    while ((done = atomic_load(&p->done)) != pieces)
        futex_wait(&p->done, done);
    atomic_store(&p->caller_sleeps, false);
}

static void run_region(pool *p, int64_t first, unsigned pieces) {
    atomic_store_explicit(&p->first, first, memory_order_relaxed);
    atomic_store_explicit(&p->pieces, pieces, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    uint64_t old = atomic_load_explicit(&p->ticket, memory_order_relaxed);
    uint64_t generation = (old >> 32) + 1;
    atomic_store_explicit(&p->ticket, generation << 32 | pieces, memory_order_release);
    wake_workers(p, pieces - 1);
    report(p, run_pieces(p, 0));
    wait_for_pieces(p, pieces);
}

static void parallel(weft_stream *s, int64_t n, int64_t grain, weft_range_fn *fn, const void *ctx) {
    pool *p = (pool *)s;
    int64_t pieces = (n - 1) / grain + 1;
    WEFT_ASSERT(!atomic_exchange_explicit(&p->busy, true, memory_order_relaxed));
    if (s->threads == 1 || pieces == 1) {
        for (int64_t i = 0; i < pieces; i++)
            fn(ctx, i * grain, n - i * grain < grain ? n : (i + 1) * grain, 0);
    } else {
        atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
        atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
        atomic_store_explicit(&p->n, n, memory_order_relaxed);
        atomic_store_explicit(&p->grain, grain, memory_order_relaxed);
        for (int64_t first = 0; first < pieces; first += BATCH)
            run_region(p, first, (unsigned)(pieces - first < BATCH ? pieces - first : BATCH));
    }
    atomic_store_explicit(&p->busy, false, memory_order_relaxed);
}

/* Signals go to the threads of the program, never to a worker in the middle of a kernel. */
static int start_workers(pool *p) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int why = 0;
    while (why == 0 && p->started < p->stream.threads) {
        seat *s = &p->seat[p->started];
        s->p = p;
        s->worker = p->started;
        why = pthread_create(&s->id, NULL, worker_main, s);
        p->started += why == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return why;
}

weft_status thread_pool_open(int threads, weft_stream **out) {
    if (threads < 1 || threads > WEFT_MAX_THREADS)
        return weft_fail(WEFT_USAGE, "--threads: %d is out of range (1 to %d)", threads,
                         WEFT_MAX_THREADS);
    size_t memory = (size_t)threads * WEFT_WORKER_BYTES, bytes = memory + sizeof(pool);
    char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return weft_fail(WEFT_NO_MEMORY, "--threads: no memory for %d threads (%zu bytes)", threads,
                         bytes);
    pool *p = (pool *)(void *)(base + memory); /* page aligned, like its neighbours */
    p->stream = (weft_stream){.threads = threads, .worker_memory = base, .parallel = parallel};
    p->bytes = bytes;
    p->spin = threads <= thread_cores();
    p->started = 1;
    int why = start_workers(p);
    if (why != 0) {
        int started = p->started;
        thread_pool_close(&p->stream);
        return weft_fail(WEFT_NO_MEMORY, "--threads: only %d of %d threads could be started: %s",
                         started, threads, strerror(why));
    }
    *out = &p->stream;
    return WEFT_OK;
}

void thread_pool_close(weft_stream *s) {
    if (!s)
        return;
    pool *p = (pool *)s;
    atomic_store(&p->stop, true);
    wake_workers(p, INT_MAX);
    for (int i = 1; i < p->started; i++)
        pthread_join(p->seat[i].id, NULL);
    munmap(s->worker_memory, p->bytes);
}
