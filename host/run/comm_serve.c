/* SPDX-License-Identifier: Apache-2.0
 * Frames of a length and so many bytes, one connection for each rank that asks. */
#include "host/run/comm_serve.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/comm_proc.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_MS = 50, BLOCK_BYTES = 1 << 16 };

struct comm_serve {
    comm_link *link;
    boot *boot;
    comm_serve_fn *fn;
    void *ctx;
    int askers, came, listener, nfd,
        fd[COMM_MAX_RANKS]; /* rank 0: of those who ask; else [0], once asked */
    uint16_t port;
    pthread_t thread;
    bool started;
    atomic_int closing;
};

typedef struct {
    uint8_t cookie[BOOT_COOKIE_BYTES];
} serve_card;

static double soon(const comm_serve *s) {
    return clock_seconds() + s->link->timeout;
}

/* ---- Rank 0 ---- */

/* Whoever does not know the cookie is no rank of this job. */
static void let_in(comm_serve *s) {
    serve_card card;
    int on = 1, fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (s->nfd == COMM_MAX_RANKS || !boot_read(fd, &card, sizeof card, clock_seconds() + 1) ||
        memcmp(card.cookie, boot_cookie(s->boot), sizeof card.cookie) != 0) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    s->fd[s->nfd++] = fd;
    s->came++;
}

static bool read_frame(const comm_serve *s, int fd, buf *b) {
    char block[BLOCK_BYTES];
    uint64_t left;
    if (!boot_read(fd, &left, sizeof left, soon(s)))
        return false;
    for (uint64_t n; left > 0 && !b->failed; left -= n) {
        n = left < sizeof block ? left : sizeof block;
        if (!boot_read(fd, block, n, soon(s)))
            return false;
        buf_add(b, block, n);
    }
    return !b->failed;
}

static bool write_frame(const comm_serve *s, int fd, const char *data, uint64_t n) {
    return boot_write(fd, &n, sizeof n, soon(s)) && boot_write(fd, data, n, soon(s));
}

/* False: the connection is at its end. */
static bool answer(comm_serve *s, int fd) {
    buf ask, reply;
    buf_init(&ask, SIZE_MAX);
    buf_init(&reply, SIZE_MAX);
    bool ok = read_frame(s, fd, &ask);
    if (ok) {
        weft_status st = s->fn(s->ctx, ask.data, ask.len, &reply);
        if (st != WEFT_OK)
            comm_abort(s->link, st);
        ok = st == WEFT_OK && write_frame(s, fd, reply.data, reply.len);
    }
    buf_fini(&ask);
    buf_fini(&reply);
    return ok;
}

static bool all_have_gone(const comm_serve *s) {
    return s->came >= s->askers && s->nfd == 0;
}

static void *serve_main(void *arg) {
    comm_serve *s = arg;
    while (comm_status(s->link) == WEFT_OK && !(atomic_load(&s->closing) && all_have_gone(s))) {
        struct pollfd p[COMM_MAX_RANKS + 1];
        int n = s->nfd;
        for (int i = 0; i < n; i++)
            p[i] = (struct pollfd){.fd = s->fd[i], .events = POLLIN};
        p[n] = (struct pollfd){.fd = s->listener, .events = POLLIN};
        if (poll(p, (nfds_t)n + 1, LOOK_MS) <= 0)
            continue;
        for (int i = n; i-- > 0;) {
            if (!p[i].revents || answer(s, s->fd[i]))
                continue;
            close(s->fd[i]);
            s->fd[i] = s->fd[--s->nfd];
        }
        if (p[n].revents)
            let_in(s);
    }
    return NULL;
}

static weft_status begin_serving(comm_serve *s) {
    s->listener = boot_listen(0, &s->port);
    if (s->listener < 0)
        return weft_fail(WEFT_IO, "rank 0: cannot listen: %s", strerror(errno));
    if (pthread_create(&s->thread, NULL, serve_main, s) != 0)
        return weft_fail(WEFT_NO_MEMORY, "rank 0: a thread cannot be started");
    s->started = true;
    return WEFT_OK;
}

/* ---- The others ---- */

static weft_status lost(comm_serve *s) {
    WEFT_TRY(comm_status(s->link));
    return boot_lost(s->boot, 0);
}

static weft_status call_rank_0(comm_serve *s) {
    const boot_peer *p = &boot_peers(s->boot)[0];
    struct sockaddr_storage a = p->address;
    serve_card card;
    int on = 1;
    memcpy(card.cookie, boot_cookie(s->boot), sizeof card.cookie);
    ((struct sockaddr_in *)(void *)&a)->sin_port = htons(s->port);
    s->fd[0] = boot_connect((struct sockaddr *)&a, p->address_bytes, soon(s));
    s->nfd = s->fd[0] >= 0;
    if (s->nfd == 0 || !boot_write(s->fd[0], &card, sizeof card, soon(s)))
        return lost(s);
    setsockopt(s->fd[0], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return WEFT_OK;
}

weft_status comm_ask(comm_serve *s, const char *ask, uint64_t n, buf *reply) {
    if (s->link->rank == 0)
        return s->fn(s->ctx, ask, n, reply);
    WEFT_TRY(comm_status(s->link));
    if (s->nfd == 0)
        WEFT_TRY(call_rank_0(s));
    if (!write_frame(s, s->fd[0], ask, n) || !read_frame(s, s->fd[0], reply))
        return lost(s);
    return WEFT_OK;
}

/* ---- Life ---- */

weft_status comm_serve_open(comm *all, int askers, comm_serve_fn *fn, void *ctx, comm_serve **out) {
    const comm_link *base = all->link; /* whose processes met */
    while (base->base)
        base = base->base;
    boot *b = comm_proc_boot(base);
    *out = NULL;
    if (!b)
        return WEFT_OK;
    comm_serve *s = mem_alloc(sizeof *s);
    s->link = all->link;
    s->boot = b;
    s->askers = askers;
    s->fn = fn;
    s->ctx = ctx;
    s->listener = -1;
    weft_status st = s->link->rank == 0 ? begin_serving(s) : WEFT_OK;
    if (st == WEFT_OK)
        st = comm_broadcast(all, 0, &s->port, sizeof s->port, "serve");
    if (st == WEFT_OK)
        *out = s;
    else
        comm_serve_close(s);
    return st;
}

void comm_serve_close(comm_serve *s) {
    if (!s)
        return;
    atomic_store(&s->closing, 1);
    if (s->started)
        pthread_join(s->thread, NULL);
    for (int i = 0; i < s->nfd; i++)
        close(s->fd[i]);
    if (s->listener >= 0)
        close(s->listener);
    mem_free(s);
}
