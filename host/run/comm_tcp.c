/* SPDX-License-Identifier: Apache-2.0
 * The wire of plain sockets: one connection for each pair of ranks. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/comm_proc.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct {
    comm_wire wire;
    int ranks, fd[COMM_MAX_RANKS];
} tcp_wire;

/* ---- Messages ---- */

static int pieces(wire_part *p, struct iovec v[2]) {
    int n = 0;
    if (p->moved < sizeof p->head)
        v[n++] = (struct iovec){(char *)&p->head + p->moved, sizeof p->head - p->moved};
    uint64_t at = p->moved > sizeof p->head ? p->moved - sizeof p->head : 0;
    bool data = p->out || p->head_done; /* no byte of a message that may be another */
    if (data && at < p->bytes)
        v[n++] = (struct iovec){p->data + at, p->bytes - at};
    return n;
}

/* False: the connection is broken. */
static bool move_one(int fd, wire_part *p, bool *moved) {
    struct iovec v[2];
    struct msghdr m = {.msg_iov = v};
    for (;;) {
        m.msg_iovlen = (size_t)pieces(p, v);
        if (m.msg_iovlen == 0) {
            p->done = p->moved == sizeof p->head + p->bytes;
            return true;
        }
        ssize_t k = p->out ? sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL)
                           : recvmsg(fd, &m, MSG_DONTWAIT);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN)
            return true;
        if (k <= 0)
            return false;
        p->moved += (uint64_t)k;
        *moved = true;
        if (!p->out && !p->head_done && p->moved == sizeof p->head) {
            p->head_done = true;
            if (p->head.bytes != p->bytes)
                return true; /* the caller looks at heads next */
        }
        p->done = p->moved == sizeof p->head + p->bytes;
        if (p->done)
            return true;
    }
}

static void sleep_until_ready(const tcp_wire *w, const wire_part *part, int n, double seconds) {
    struct pollfd p[2 * COMM_MAX_RANKS];
    int np = 0;
    for (int i = 0; i < n; i++)
        if (!part[i].done)
            p[np++] = (struct pollfd){.fd = w->fd[part[i].peer],
                                      .events = part[i].out ? POLLOUT : POLLIN};
    poll(p, (nfds_t)np, (int)(seconds * 1000));
}

static weft_status tcp_move(comm_wire *wire, wire_part *part, int n, double seconds, int *lost) {
    tcp_wire *w = (tcp_wire *)wire;
    bool moved = false;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < n; i++) {
            if (part[i].done || move_one(w->fd[part[i].peer], &part[i], &moved))
                continue;
            *lost = part[i].peer;
            return WEFT_PEER;
        }
        if (moved || round == 1)
            return WEFT_OK;
        sleep_until_ready(w, part, n, seconds);
    }
    return WEFT_OK;
}

static void tcp_close(comm_wire *wire, bool failed) {
    tcp_wire *w = (tcp_wire *)wire;
    (void)failed;
    for (int r = 0; r < w->ranks; r++)
        if (w->fd[r] >= 0)
            close(w->fd[r]);
    mem_free(w);
}

static const wire_kind tcp_kind = {.name = "tcp", .move = tcp_move, .close = tcp_close};

/* ---- Connecting each with each ---- */

typedef struct {
    uint8_t cookie[BOOT_COOKIE_BYTES];
    int32_t rank;
} calling_card;

static void tune(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static weft_status call(tcp_wire *w, const boot *b, int self, int to, double deadline) {
    const boot_peer *p = &boot_peers(b)[to];
    struct sockaddr_storage a = p->address;
    calling_card card = {.rank = self};
    memcpy(card.cookie, boot_cookie(b), sizeof card.cookie);
    ((struct sockaddr_in *)(void *)&a)->sin_port = htons(p->port);
    w->fd[to] = boot_connect((struct sockaddr *)&a, p->address_bytes, deadline);
    if (w->fd[to] < 0 || !boot_write(w->fd[to], &card, sizeof card, deadline))
        return weft_fail(WEFT_PEER, "rank %d (%s): its data port %d cannot be reached", to, p->host,
                         p->port);
    tune(w->fd[to]);
    return WEFT_OK;
}

/* Whoever does not know the cookie is no rank of this job. */
static bool answer(tcp_wire *w, const boot *b, int self, int fd, double deadline) {
    calling_card card;
    double soon = clock_seconds() + 2;
    if (!boot_read(fd, &card, sizeof card, soon < deadline ? soon : deadline) ||
        memcmp(card.cookie, boot_cookie(b), sizeof card.cookie) != 0 || card.rank <= self ||
        card.rank >= w->ranks || w->fd[card.rank] >= 0) {
        close(fd);
        return false;
    }
    tune(fd);
    w->fd[card.rank] = fd;
    return true;
}

static weft_status connect_all(tcp_wire *w, boot *b, int self, int listener, double deadline) {
    for (int r = 0; r < self; r++)
        WEFT_TRY(call(w, b, self, r, deadline));
    for (int here = self + 1; here < w->ranks;) {
        struct pollfd p = {.fd = listener, .events = POLLIN};
        WEFT_TRY(boot_status(b));
        if (clock_seconds() > deadline)
            return weft_fail(WEFT_PEER, "rank %d: other ranks have not connected", self);
        if (poll(&p, 1, 50) <= 0)
            continue;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        here += fd >= 0 && answer(w, b, self, fd, deadline);
    }
    return WEFT_OK;
}

static weft_status join(boot *b, int self, int ranks, int listener, double timeout,
                        comm_wire **out) {
    tcp_wire *w = mem_alloc(sizeof *w);
    w->wire.kind = &tcp_kind;
    w->ranks = ranks;
    for (int r = 0; r < COMM_MAX_RANKS; r++)
        w->fd[r] = -1;
    weft_status s = connect_all(w, b, self, listener, clock_seconds() + timeout + 1);
    if (s != WEFT_OK) {
        boot_fail(b, s);
        s = boot_status(b);
        tcp_close(&w->wire, true);
        return s;
    }
    *out = &w->wire;
    return WEFT_OK;
}

weft_status comm_tcp_open(const launch *l, double timeout, boot **b, comm_wire **out) {
    uint16_t port;
    if (!l->address[0])
        return weft_fail(WEFT_USAGE, "MASTER_ADDR: not set; where is rank 0?");
    int listener = boot_listen(0, &port);
    if (listener < 0)
        return weft_fail(WEFT_IO, "rank %d: cannot listen: %s", l->rank, strerror(errno));
    weft_status s = boot_open(l, timeout, listener, b);
    if (s == WEFT_OK) {
        s = join(*b, l->rank, l->ranks, listener, timeout, out);
        if (s != WEFT_OK)
            boot_close(*b);
    }
    close(listener);
    return s;
}

weft_status comm_tcp_again(boot **b, double timeout, const boot_rules *rules, int *rank, int *ranks,
                           comm_wire **out) {
    uint16_t port;
    int listener = boot_listen(0, &port);
    *out = NULL;
    if (listener < 0)
        return weft_fail(WEFT_IO, "a port cannot be opened: %s", strerror(errno));
    weft_status s = boot_regroup(b, port, rules, rank, ranks);
    if (s == WEFT_OK && *b && join(*b, *rank, *ranks, listener, timeout, out) != WEFT_OK)
        *out = NULL; /* somebody was lost meanwhile: the boot knows */
    close(listener);
    return s;
}
