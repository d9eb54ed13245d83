/* SPDX-License-Identifier: Apache-2.0
 * Who is left of a job meets again. Every rank knows every other's door from the first meeting; the
 * lowest that is left opens its own, the others call there with the cookie of the epoch that has
 * ended, and it tells each of them its place in the new one. Ranks that rank 0 has not heard of, or
 * that do not come in time, are lost. Only who has claimed the new epoch goes on, so of two groups
 * that cannot see each other one ends. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/run/comm_boot_internal.h"
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SLICE_MS = 50, CARD_SECONDS = 1 };

/* What a rank shows at the door. */
typedef struct {
    char magic[8];
    uint8_t cookie[BOOT_COOKIE_BYTES]; /* of the epoch that has ended */
    int64_t epoch;                     /* to begin */
    int32_t rank;                      /* in the one that has ended */
    boot_peer self;
} card;

/* What it is given. */
typedef struct {
    int64_t epoch;
    int32_t rank, ranks; /* in the new one; rank -1: left over */
    welcome table;
} invitation;

typedef struct {
    boot *old, *next;
    const boot_rules *rules;
    boot_peer self;
    double began, patience;
    bool lost[COMM_MAX_RANKS], here[COMM_MAX_RANKS];
    int fd[COMM_MAX_RANKS]; /* to those who are here */
    boot_peer peer[COMM_MAX_RANKS];
    invitation in;
} reunion;

/* ---- Who may still come ---- */

static bool hears_of(const boot *b, int rank) {
    return b->rank == 0 || rank == 0;
}

/* A rank whose process shows life is at work and comes; of others there is only the time. */
static bool may_come(const reunion *m, int rank) {
    const boot *b = m->old;
    if (m->lost[rank] || atomic_load(&b->away[rank]))
        return false;
    double wait = hears_of(b, rank) && boot_blamed(m->old) != 0 ? atomic_load(&b->patience)
                                                                : m->patience;
    return clock_seconds() - m->began < wait;
}

static weft_status look(const reunion *m) {
    return m->rules->look(m->rules->ctx, m->old->epoch + 1);
}

/* ---- The rank that leads ---- */

static bool is_card(const reunion *m, const card *c) {
    const boot *b = m->old;
    return memcmp(c->magic, boot_magic, sizeof boot_magic) == 0 &&
           memcmp(c->cookie, b->table.cookie, sizeof c->cookie) == 0 && c->epoch == b->epoch + 1 &&
           c->rank >= 0 && c->rank < b->ranks && c->rank != b->rank && !m->here[c->rank] &&
           boot_blamed(m->old) != c->rank;
}

/* Somebody who knocked and has not shown all of a card yet. */
typedef struct {
    int fd;
    size_t have;
    double since;
    card c;
} caller;

typedef struct {
    caller at[COMM_MAX_RANKS];
    int n;
} porch;

static void let_in(reunion *m, caller *k) {
    card *c = &k->c;
    if (!is_card(m, c)) {
        close(k->fd);
        return;
    }
    socklen_t n = sizeof c->self.address;
    getpeername(k->fd, (struct sockaddr *)&c->self.address, &n);
    c->self.address_bytes = n;
    c->self.host[sizeof c->self.host - 1] = 0;
    m->here[c->rank] = true;
    m->lost[c->rank] = false;
    m->fd[c->rank] = k->fd;
    m->peer[c->rank] = c->self;
}

/* Strangers may say nothing, or anything: none keeps a rank waiting. False: done with. */
static bool is_still_reading(reunion *m, caller *k) {
    ssize_t n = recv(k->fd, (char *)&k->c + k->have, sizeof k->c - k->have, MSG_DONTWAIT);
    k->have += n > 0 ? (size_t)n : 0;
    if (k->have == sizeof k->c) {
        let_in(m, k);
        return false;
    }
    bool waits = n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
    if (waits && clock_seconds() - k->since < CARD_SECONDS)
        return true;
    close(k->fd);
    return false;
}

static void attend(reunion *m, porch *p, int door) {
    struct pollfd f = {.fd = door, .events = POLLIN};
    if (poll(&f, 1, SLICE_MS) > 0 && p->n < COMM_MAX_RANKS) {
        int fd = accept4(door, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            p->at[p->n++] = (caller){.fd = fd, .since = clock_seconds()};
    }
    int kept = 0;
    for (int i = 0; i < p->n; i++)
        if (is_still_reading(m, &p->at[i]))
            p->at[kept++] = p->at[i];
    p->n = kept;
}

static bool somebody_may_come(const reunion *m) {
    for (int r = 0; r < m->old->ranks; r++)
        if (!m->here[r] && may_come(m, r))
            return true;
    return false;
}

/* Until nobody is missed any more, and at least until `least`. */
static weft_status assemble(reunion *m, double least) {
    int door = m->old->door;
    porch p = {.n = 0};
    weft_status s = WEFT_OK;
    if (door < 0 || listen(door, COMM_MAX_RANKS) != 0)
        return weft_fail(WEFT_PEER, "rank %d: cannot open its door: %m", m->old->rank);
    while (s == WEFT_OK && (p.n || clock_seconds() < least || somebody_may_come(m))) {
        s = look(m);
        attend(m, &p, door);
    }
    for (int i = 0; i < p.n; i++)
        close(p.at[i].fd);
    return s;
}

static int count_here(const reunion *m) {
    int n = 0;
    for (int r = 0; r < m->old->ranks; r++)
        n += m->here[r];
    return n;
}

/* Of the rank that the failure blames everybody knows. */
static void name_lost(const reunion *m) {
    for (int r = 0; r < m->old->ranks; r++)
        if (!m->here[r] && r != boot_blamed(m->old))
            m->rules->lost(m->rules->ctx, r, m->old->table.peer[r].host);
}

static void invite(reunion *m, int fit) {
    int next = 0;
    m->in.epoch = m->old->epoch + 1;
    m->in.ranks = fit;
    for (int r = 0; r < m->old->ranks; r++)
        if (m->here[r] && next < fit)
            m->in.table.peer[next++] = m->peer[r];
    next = 1;
    for (int r = m->old->rank + 1; r < m->old->ranks; r++) {
        if (!m->here[r])
            continue;
        invitation in = m->in;
        in.rank = next < fit ? next++ : -1;
        boot_write(m->fd[r], &in, sizeof in, clock_seconds() + CARD_SECONDS);
        if (in.rank >= 0)
            m->next->fd[in.rank] = m->fd[r];
        else
            close(m->fd[r]);
        m->fd[r] = -1;
    }
}

/* A few that see nobody else may be the ones that are cut off: the others go first. */
static weft_status lead(reunion *m) {
    boot *b = m->old;
    m->here[b->rank] = true;
    m->peer[b->rank] = m->self;
    WEFT_TRY(assemble(m, 0));
    if (2 * count_here(m) < b->ranks)
        WEFT_TRY(assemble(m, clock_seconds() + b->timeout));
    WEFT_TRY(m->rules->claim(m->rules->ctx, b->epoch + 1));
    WEFT_TRY(boot_draw_cookie(m->next));
    name_lost(m);
    m->in.table = m->next->table;
    memcpy(m->in.table.job, b->table.job, sizeof b->table.job);
    invite(m, m->rules->fit(m->rules->ctx, count_here(m)));
    m->in.rank = 0;
    return WEFT_OK;
}

/* ---- The others ---- */

static int call(const reunion *m, int leader) {
    const boot_peer *p = &m->old->table.peer[leader];
    struct sockaddr_storage a = p->address;
    card c = {.epoch = m->old->epoch + 1, .rank = m->old->rank, .self = m->self};
    memcpy(c.magic, boot_magic, sizeof boot_magic);
    memcpy(c.cookie, m->old->table.cookie, sizeof c.cookie);
    ((struct sockaddr_in *)(void *)&a)->sin_port = htons(p->door);
    double soon = clock_seconds() + CARD_SECONDS;
    int fd = boot_connect((struct sockaddr *)&a, p->address_bytes, soon);
    if (fd >= 0 && !boot_write(fd, &c, sizeof c, clock_seconds() + CARD_SECONDS)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* The leader waits for others, for as long as this rank would, and then a while. */
static bool is_invited(reunion *m, int fd, int leader) {
    double end = clock_seconds() + atomic_load(&m->old->patience) + m->patience + m->old->timeout;
    while (clock_seconds() < end && !atomic_load(&m->old->away[leader])) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, SLICE_MS) <= 0)
            continue;
        double soon = clock_seconds() + HELLO_SECONDS;
        return boot_read(fd, &m->in, sizeof m->in, soon) && m->in.epoch == m->old->epoch + 1 &&
               m->in.ranks >= 1 && m->in.ranks <= m->old->ranks && m->in.rank < m->in.ranks;
    }
    return false;
}

/* *in: whether `leader` has let this rank in. */
static weft_status follow(reunion *m, int leader, bool *in) {
    *in = false;
    while (!*in && may_come(m, leader)) {
        int fd = call(m, leader);
        *in = fd >= 0 && is_invited(m, fd, leader);
        if (*in && m->in.rank > 0) {
            m->next->fd[0] = fd;
        } else if (fd >= 0) {
            close(fd);
        }
        if (!*in)
            WEFT_TRY(look(m));
        if (!*in && fd >= 0)
            break;
        if (!*in)
            usleep(SLICE_MS * 500);
    }
    if (*in) { /* where this rank sees it */
        const boot_peer *p = &m->old->table.peer[leader];
        m->in.table.peer[0].address = p->address;
        m->in.table.peer[0].address_bytes = p->address_bytes;
    }
    return WEFT_OK;
}

/* ---- Together ---- */

static weft_status find_place(reunion *m) {
    boot *b = m->old;
    bool in = false;
    for (int r = 0; r < b->rank && !in; r++) {
        m->began = clock_seconds();
        if (!m->lost[r])
            WEFT_TRY(follow(m, r, &in));
        m->lost[r] = !in;
    }
    m->began = clock_seconds();
    return in ? WEFT_OK : lead(m);
}

static weft_status begin(reunion *m, boot **out) {
    boot *n = m->next;
    m->next = NULL;
    n->rank = m->in.rank;
    n->ranks = m->in.ranks;
    n->epoch = m->in.epoch;
    n->table = m->in.table;
    WEFT_TRY(boot_start(n));
    *out = n;
    return WEFT_OK;
}

static void close_all(reunion *m) {
    for (int r = 0; r < m->old->ranks; r++)
        if (m->fd[r] >= 0)
            close(m->fd[r]);
    if (m->next)
        boot_free(m->next);
}

weft_status boot_regroup(boot **b, uint16_t port, const boot_rules *rules, int *rank, int *ranks) {
    boot *old = *b;
    reunion m = {.old = old, .rules = rules, .began = clock_seconds()};
    int lost = boot_blamed(old);
    atomic_store(&old->meeting, 1);
    m.patience = rules->patience + old->timeout;
    m.next = boot_new(0, COMM_MAX_RANKS, old->timeout);
    boot_describe(m.next, &m.self, port);
    for (int r = 0; r < COMM_MAX_RANKS; r++)
        m.fd[r] = -1;
    if (lost >= 0)
        m.lost[lost] = true;
    weft_status s = find_place(&m);
    bool stays = s == WEFT_OK && m.in.rank >= 0;
    *rank = m.in.rank;
    *ranks = m.in.ranks;
    *b = NULL;
    boot *next = stays ? m.next : NULL;
    m.next = stays ? NULL : m.next;
    close_all(&m);
    char why[BOOT_MESSAGE_BYTES];
    snprintf(why, sizeof why, "%s", err_message());
    boot_leave(old); /* its record, which may have the new one's name */
    m.next = next;
    if (stays)
        return begin(&m, b);
    err_set_message(why);
    return s;
}
