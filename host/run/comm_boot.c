/* SPDX-License-Identifier: Apache-2.0
 * Meeting at rank 0's port, then one thread a process that listens to the others. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/comm_boot_internal.h"
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#define SLOW_BYTES 5e7 /* a second */
const char boot_magic[8] = "weft-2\n";

/* ---- Sockets ---- */

bool boot_ready(int fd, short what, double deadline) {
    for (;;) {
        double left = deadline - clock_seconds();
        struct pollfd p = {.fd = fd, .events = what};
        int n = left > 0 ? poll(&p, 1, left > 1 ? 1000 : (int)(left * 1000) + 1) : 0;
        if (n > 0)
            return true;
        if (left <= 0 || (n < 0 && errno != EINTR))
            return false;
    }
}

bool boot_read(int fd, void *p, size_t n, double deadline) {
    for (size_t at = 0; at < n;) {
        if (!boot_ready(fd, POLLIN, deadline))
            return false;
        ssize_t k = recv(fd, (char *)p + at, n - at, MSG_DONTWAIT);
        if (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        at += k > 0 ? (size_t)k : 0;
    }
    return true;
}

bool boot_write(int fd, const void *p, size_t n, double deadline) {
    for (size_t at = 0; at < n;) {
        if (!boot_ready(fd, POLLOUT, deadline))
            return false;
        ssize_t k = send(fd, (const char *)p + at, n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        at += k > 0 ? (size_t)k : 0;
    }
    return true;
}

/* again: a port that has just been left may be taken. */
static int bound(uint16_t port, bool again, uint16_t *got) {
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool six = fd >= 0;
    if (!six)
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (again)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (six)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    int bad = six ? bind(fd, (struct sockaddr *)&a, sizeof a)
                  : bind(fd, (struct sockaddr *)&a4, sizeof a4);
    socklen_t n = sizeof a;
    if (bad || getsockname(fd, (struct sockaddr *)&a, &n)) {
        close(fd);
        return -1;
    }
    *got = ntohs(a.sin6_port); /* at the same place in both kinds of address */
    return fd;
}

int boot_listen(uint16_t port, uint16_t *got) {
    int fd = bound(port, true, got);
    if (fd < 0 || listen(fd, COMM_MAX_RANKS) == 0)
        return fd;
    close(fd);
    return -1;
}

int boot_connect(const struct sockaddr *a, socklen_t n, double deadline) {
    do {
        int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err = 0;
        socklen_t size = sizeof err;
        if (fd < 0)
            return -1;
        if (connect(fd, a, n) == 0)
            return fd;
        if (errno == EINPROGRESS && boot_ready(fd, POLLOUT, deadline) &&
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) == 0 && err == 0)
            return fd;
        close(fd);
        usleep(20000); /* it may not listen yet */
    } while (clock_seconds() < deadline);
    return -1;
}

/* ---- Meeting ---- */

void boot_describe(boot *b, boot_peer *p, uint16_t port) {
    *p = (boot_peer){.pid = (int32_t)getpid(), .port = port};
    gethostname(p->host, sizeof p->host - 1);
    if (b->outlives) /* nobody listens there: until then whoever calls is refused */
        b->door = bound(0, false, &p->door);
}

/* Newcomers may be anything: nothing of a hello is believed before it is checked. */
static bool take_hello(boot *b, int fd, weft_status *s) {
    hello h;
    *s = WEFT_OK;
    if (!boot_read(fd, &h, sizeof h, clock_seconds() + HELLO_SECONDS) ||
        memcmp(h.magic, boot_magic, sizeof boot_magic) != 0)
        return false;
    h.self.host[sizeof h.self.host - 1] = 0;
    if (h.ranks != b->ranks) {
        *s = weft_fail(WEFT_PEER, "rank %d (%s) was started as one of %d, rank 0 as one of %d",
                       h.rank, h.self.host, h.ranks, b->ranks);
        return false;
    }
    if (h.rank < 1 || h.rank >= b->ranks || b->fd[h.rank] >= 0) {
        *s = weft_fail(WEFT_PEER, "rank %d (%s): %s", h.rank, h.self.host,
                       h.rank < 1 || h.rank >= b->ranks ? "there is no such rank"
                                                        : "two processes have this rank");
        return false;
    }
    socklen_t n = sizeof h.self.address;
    getpeername(fd, (struct sockaddr *)&h.self.address, &n);
    h.self.address_bytes = n;
    b->table.peer[h.rank] = h.self;
    b->fd[h.rank] = fd;
    return true;
}

static weft_status missing_ranks(const boot *b, double waited) {
    char list[200] = "";
    size_t n = 0;
    for (int r = 1; r < b->ranks && n < sizeof list - 8; r++)
        if (b->fd[r] < 0)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%d", n ? ", " : "", r);
    return weft_fail(WEFT_PEER,
                     "rank %s: did not start within %.1f s (--timeout %g); were all %d "
                     "processes started?",
                     list, waited, b->timeout, b->ranks);
}

static weft_status meet_as_first(boot *b, const launch *l) {
    double begin = clock_seconds(), deadline = begin + MEET_TIMEOUTS * b->timeout;
    uint16_t port;
    int fd = boot_listen((uint16_t)l->port, &port);
    if (fd < 0)
        return weft_fail(WEFT_PEER, "MASTER_PORT: cannot listen on port %d: %s; choose another",
                         l->port, strerror(errno));
    weft_status s = WEFT_OK;
    for (int here = 1; here < b->ranks && s == WEFT_OK;) {
        if (!boot_ready(fd, POLLIN, deadline)) {
            s = missing_ranks(b, clock_seconds() - begin);
            break;
        }
        int one = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (one >= 0 && take_hello(b, one, &s))
            here++;
        else if (one >= 0)
            close(one);
    }
    close(fd);
    for (int r = 1; r < b->ranks && s == WEFT_OK; r++)
        if (!boot_write(b->fd[r], &b->table, sizeof b->table, deadline))
            s = weft_fail(WEFT_PEER, "rank %d (%s): went away while the job began", r,
                          b->table.peer[r].host);
    return s;
}

static weft_status meet_first(boot *b, const launch *l, const boot_peer *self) {
    double begin = clock_seconds(), deadline = begin + MEET_TIMEOUTS * b->timeout;
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char port[16];
    hello h = {.rank = b->rank, .ranks = b->ranks, .self = *self};
    memcpy(h.magic, boot_magic, sizeof boot_magic);
    snprintf(port, sizeof port, "%d", l->port);
    int bad = getaddrinfo(l->address, port, &hint, &found);
    if (bad)
        return weft_fail(WEFT_USAGE, "MASTER_ADDR: \"%.100s\": %s", l->address, gai_strerror(bad));
    b->fd[0] = boot_connect(found->ai_addr, found->ai_addrlen, deadline);
    struct sockaddr_storage first = {0};
    socklen_t n = found->ai_addrlen;
    memcpy(&first, found->ai_addr, n);
    freeaddrinfo(found);
    if (b->fd[0] < 0)
        return weft_fail(WEFT_PEER, "rank 0: cannot be reached at %.100s port %d within %.1f s",
                         l->address, l->port, clock_seconds() - begin);
    if (!boot_write(b->fd[0], &h, sizeof h, deadline) ||
        !boot_read(b->fd[0], &b->table, sizeof b->table, deadline + HELLO_SECONDS) ||
        memcmp(b->table.magic, boot_magic, sizeof boot_magic) != 0)
        return weft_fail(WEFT_PEER, "rank 0 (%.100s port %d): did not let rank %d in; it says why",
                         l->address, l->port, b->rank);
    b->table.peer[0].address = first; /* where this rank sees it */
    b->table.peer[0].address_bytes = n;
    return WEFT_OK;
}

/* ---- News ---- */

static void poke(boot *b) {
    uint64_t one = 1;
    if (write(b->wake, &one, sizeof one) < 0)
        return; /* full: it is awake already */
}

static const char *host_of(const boot *b, int rank) {
    return b->table.peer[rank].host;
}

static void set_failed(boot *b, weft_status code, int about, bool blamed, const char *message) {
    pthread_mutex_lock(&b->lock);
    if (b->code == WEFT_OK) {
        if (about != 0 && b->rank != 0 && !b->outlives)
            launch_tell();
        b->code = code;
        b->about = about;
        b->blamed = blamed;
        snprintf(b->message, sizeof b->message, "%s", message);
        atomic_store(&b->failed, 1);
    }
    pthread_mutex_unlock(&b->lock);
    poke(b);
}

weft_status boot_status(boot *b) {
    if (!atomic_load(&b->failed))
        return WEFT_OK;
    pthread_mutex_lock(&b->lock);
    weft_status s = b->code;
    err_set_message(b->message);
    pthread_mutex_unlock(&b->lock);
    return s;
}

void boot_fail(boot *b, weft_status code) {
    char text[BOOT_MESSAGE_BYTES];
    if (boot_status(b) != WEFT_OK)
        return;
    snprintf(text, sizeof text, "rank %d (%s): %.900s", b->rank, host_of(b, b->rank),
             err_message());
    set_failed(b, code, b->rank, false, text);
}

static news news_of(const boot *b, int rank, news_kind kind) {
    const flight *f = &b->flight[rank];
    news n = {.kind = kind, .rank = rank, .about = -1};
    memcpy(n.magic, boot_magic, sizeof boot_magic);
    n.count = atomic_load(&f->count);
    n.waits = atomic_load(&f->waits);
    n.now = clock_seconds();
    for (int g = 0; g < FLIGHT_GROUPS; g++)
        n.left[g] = atomic_load(&f->left[g]);
    for (int i = 0; i < FLIGHT_PEERS; i++)
        n.sent[i] = atomic_load(&f->sent[i]);
    for (int i = 0; n.count && i < FLIGHT_WORDS; i++)
        n.place[i] = atomic_load_explicit(&f->place[(n.count - 1) % FLIGHT_PLACES][i],
                                          memory_order_relaxed);
    return n;
}

/* Clocks of two hosts have nothing in common: times are kept by this one's. */
static void note_news(boot *b, const news *n, int from) {
    flight *f = &b->flight[from];
    uint64_t word[FLIGHT_WORDS];
    double since;
    memcpy(word, n->place, sizeof word);
    memcpy(&since, &word[FLIGHT_SINCE], sizeof since);
    since += clock_seconds() - n->now;
    memcpy(&word[FLIGHT_SINCE], &since, sizeof since);
    if (n->count)
        for (int i = 0; i < FLIGHT_WORDS; i++)
            atomic_store_explicit(&f->place[(n->count - 1) % FLIGHT_PLACES][i], word[i],
                                  memory_order_relaxed);
    for (int g = 0; g < FLIGHT_GROUPS; g++)
        atomic_store(&f->left[g], n->left[g]);
    for (int i = 0; i < FLIGHT_PEERS; i++)
        atomic_store(&f->sent[i], n->sent[i]);
    atomic_store(&f->waits, n->waits);
    atomic_store(&f->count, n->count);
    b->heard[from] = clock_seconds();
}

/* On this host its own record says more than its last news, even of a process that was killed. */
static bool place_of(const boot *b, int rank, flight_place *p) {
    char file[96];
    snprintf(file, sizeof file, "%s%s-%d-%d", FLIGHT_PREFIX, b->table.job, rank,
             b->table.peer[rank].pid);
    bool here = strcmp(host_of(b, rank), host_of(b, b->rank)) == 0;
    flight_record *r = here ? flight_record_read(file) : NULL;
    bool known = flight_last(r ? &r->flight[rank] : &b->flight[rank], 0, p);
    if (r)
        flight_record_forget(r);
    return known;
}

static void where_of(const boot *b, int rank, char *out, size_t n) {
    flight_place p;
    if (place_of(b, rank, &p))
        flight_text(&p, clock_seconds(), out, n);
    else
        snprintf(out, n, "before its first collective");
}

static void blame(boot *b, int rank, const char *what) {
    char text[BOOT_MESSAGE_BYTES], where[200];
    where_of(b, rank, where, sizeof where);
    snprintf(text, sizeof text, "rank %d (%s) %s: last seen %s (--timeout %g, job %s)", rank,
             host_of(b, rank), what, where, b->timeout, b->table.job);
    set_failed(b, WEFT_PEER, rank, true, text);
}

/* Rank 0 knows where all are: a rank that is silent keeps the others waiting, else the one that
 * waits for nobody. */
static void judge(boot *b, int complainer) {
    double now = clock_seconds();
    for (int r = 1; r < b->ranks; r++)
        if (!b->bye[r] && now - b->heard[r] > 5 * BEAT_MS / 1000.0) {
            blame(b, r, "does not answer");
            return;
        }
    blame(b, flight_culprit(b->flight, b->ranks, complainer), "is late");
}

static void send_news(boot *b, int to, const news *n) {
    if (b->fd[to] >= 0 && !b->bye[to])
        boot_write(b->fd[to], n, sizeof *n, clock_seconds() + 1);
}

static void tell_failure(boot *b) {
    news n = news_of(b, b->rank, NEWS_FAILED);
    pthread_mutex_lock(&b->lock);
    bool tell = b->code != WEFT_OK && !b->told;
    b->told |= tell;
    n.code = b->code;
    n.about = b->about;
    n.blamed = b->blamed;
    memcpy(n.message, b->message, sizeof n.message);
    pthread_mutex_unlock(&b->lock);
    for (int r = 0; tell && r < b->ranks; r++)
        send_news(b, r, &n);
}

static void take_news(boot *b, int from) {
    news n;
    if (!boot_read(b->fd[from], &n, sizeof n, clock_seconds() + 1) ||
        memcmp(n.magic, boot_magic, sizeof boot_magic) != 0) {
        close(b->fd[from]);
        b->fd[from] = -1;
        atomic_store(&b->away[from], 1);
        if (!b->bye[from])
            blame(b, from, "is gone");
        return;
    }
    n.message[sizeof n.message - 1] = 0;
    note_news(b, &n, from);
    if (n.kind == NEWS_BYE)
        b->bye[from] = true;
    else if (n.kind == NEWS_LATE && b->rank == 0)
        judge(b, from);
    else if (n.kind == NEWS_FAILED)
        set_failed(b, n.code > 0 && n.code < WEFT_STATUS_COUNT ? (weft_status)n.code : WEFT_PEER,
                   n.about, n.blamed != 0, n.message);
}

/* If this process was stopped for a while, which it returns, it is no wonder that it has heard
 * nothing. */
static bool check_silence(boot *b) {
    double now = clock_seconds();
    bool stopped = now - b->looked > 1;
    b->looked = now;
    for (int r = 0; stopped && r < b->ranks; r++)
        b->heard[r] = now;
    for (int r = 0; r < b->ranks; r++) {
        if (b->fd[r] < 0 || b->bye[r])
            continue;
        bool silent = now - b->heard[r] > b->timeout;
        atomic_store(&b->away[r], silent);
        if (silent)
            blame(b, r, "does not answer");
    }
    return stopped;
}

/* Nobody computes and nothing arrives: waiting longer, for work that may take its time, is in vain.
 * Slow networks have theirs. */
static void check_standstill(boot *b, bool stopped) {
    double now = clock_seconds();
    uint64_t places = 0, bytes;
    for (int r = 0; r < b->ranks; r++)
        places += atomic_load(&b->flight[r].count);
    if (stopped || places != b->collected || !flight_standstill(b->flight, b->ranks, &bytes)) {
        b->still = now;
        b->collected = places;
    } else if (now - b->still > b->timeout + (double)bytes / SLOW_BYTES) {
        judge(b, 0);
    }
}

static void beat(boot *b) {
    bool late = atomic_exchange(&b->late, 0);
    if (late && b->rank == 0) {
        judge(b, 0);
        return;
    }
    news n = news_of(b, b->rank, late ? NEWS_LATE : NEWS_BEAT);
    for (int r = 0; r < b->ranks; r++)
        send_news(b, r, &n);
}

/* Every rank comes to its end: whoever is there first waits, since a connection closed too early
 * would take with it what the other has not read yet. */
static bool is_over(boot *b, double *since) {
    int closing = atomic_load(&b->closing);
    if (closing != BOOT_CLOSES)
        return closing == BOOT_LEAVES;
    double now = clock_seconds();
    if (*since == 0) {
        tell_failure(b);
        news n = news_of(b, b->rank, NEWS_BYE);
        for (int r = 0; r < b->ranks; r++) {
            send_news(b, r, &n);
            if (b->fd[r] >= 0)
                shutdown(b->fd[r], SHUT_WR);
        }
        *since = now;
    }
    bool open = false;
    for (int r = 0; r < b->ranks; r++)
        open |= b->fd[r] >= 0;
    return !open || now - *since > (atomic_load(&b->failed) ? GRACE_SECONDS / 4.0 : BYE_SECONDS);
}

/* The others are told and go; a rank that is stuck where nothing can reach it goes too. */
static void leave_if_stuck(boot *b, double *failed) {
    if (!atomic_load(&b->failed))
        return;
    *failed = *failed ? *failed : clock_seconds();
    bool goes_on = b->outlives && !(b->blamed && b->about == b->rank);
    double grace = GRACE_SECONDS + (goes_on ? atomic_load(&b->patience) : 0);
    if (clock_seconds() - *failed < grace || atomic_load(&b->closing) || atomic_load(&b->meeting))
        return;
    pthread_mutex_lock(&b->lock);
    if (!launch_told())
        dprintf(STDERR_FILENO, "weft: error: %s\n", b->message);
    flight_record_sweep(b->table.job, !b->outlives);
    _exit(err_exit_code(b->code));
}

static void *boot_main(void *arg) {
    boot *b = arg;
    double next = 0, closing = 0, failed = 0;
    while (!is_over(b, &closing)) {
        struct pollfd p[COMM_MAX_RANKS + 1];
        int who[COMM_MAX_RANKS + 1], n = 1;
        p[0] = (struct pollfd){.fd = b->wake, .events = POLLIN};
        for (int r = 0; r < b->ranks; r++)
            if (b->fd[r] >= 0) {
                who[n] = r;
                p[n++] = (struct pollfd){.fd = b->fd[r], .events = POLLIN};
            }
        poll(p, (nfds_t)n, BEAT_MS / 2);
        uint64_t woken;
        bool poked = p[0].revents && read(b->wake, &woken, sizeof woken) > 0;
        for (int i = 1; i < n; i++)
            if (p[i].revents)
                take_news(b, who[i]);
        if ((poked || clock_seconds() >= next) && !closing) {
            beat(b);
            next = clock_seconds() + BEAT_MS / 1000.0;
        }
        if (closing)
            continue;
        bool stopped = check_silence(b);
        if (b->rank == 0)
            check_standstill(b, stopped);
        tell_failure(b);
        leave_if_stuck(b, &failed);
    }
    return NULL;
}

/* Until rank 0 has judged; on its own, a rank knows only whom it waits for itself. */
static weft_status await_verdict(boot *b, int rank, const char *what) {
    for (double end = clock_seconds() + GRACE_SECONDS; clock_seconds() < end; usleep(5000))
        if (atomic_load(&b->failed))
            return boot_status(b);
    blame(b, rank, what);
    return boot_status(b);
}

weft_status boot_late(boot *b) {
    atomic_store(&b->late, 1);
    poke(b);
    return await_verdict(b, 0, "does not answer");
}

void boot_accuse(boot *b, int rank) {
    char text[BOOT_MESSAGE_BYTES];
    snprintf(text, sizeof text, "rank %d (%s) %.900s", rank, host_of(b, rank), err_message());
    set_failed(b, WEFT_PEER, rank, true, text);
}

int boot_blamed(boot *b) {
    pthread_mutex_lock(&b->lock);
    int rank = b->code == WEFT_PEER && b->blamed ? b->about : -1;
    pthread_mutex_unlock(&b->lock);
    return rank;
}

void boot_expect(boot *b, double seconds) {
    atomic_store(&b->patience, seconds);
}

weft_status boot_lost(boot *b, int rank) {
    return await_verdict(b, rank, "is gone");
}

/* ---- Life ---- */

const boot_peer *boot_peers(const boot *b) {
    return b->table.peer;
}
const uint8_t *boot_cookie(const boot *b) {
    return b->table.cookie;
}
const char *boot_job(const boot *b) {
    return b->table.job;
}
int64_t boot_epoch(const boot *b) {
    return b->epoch;
}
flight *boot_flight(boot *b) {
    return &b->flight[b->rank];
}

weft_status boot_draw_cookie(boot *b) {
    memcpy(b->table.magic, boot_magic, sizeof boot_magic);
    if (getrandom(b->table.cookie, sizeof b->table.cookie, 0) != sizeof b->table.cookie)
        return weft_fail(WEFT_IO, "the system's random numbers cannot be read: %s",
                         strerror(errno));
    return WEFT_OK;
}

void boot_free(boot *b) {
    for (int r = 0; r < b->ranks; r++)
        if (b->fd[r] >= 0)
            close(b->fd[r]);
    if (b->wake >= 0)
        close(b->wake);
    if (b->door >= 0)
        close(b->door);
    pthread_mutex_destroy(&b->lock);
    flight_record_close(b->record);
    mem_free(b);
}

static weft_status meet(boot *b, const launch *l, uint16_t data_port) {
    boot_describe(b, &b->table.peer[b->rank], data_port);
    if (b->rank > 0) {
        boot_peer self = b->table.peer[b->rank];
        return meet_first(b, l, &self);
    }
    flight_new_job(b->table.job);
    WEFT_TRY(boot_draw_cookie(b));
    return meet_as_first(b, l);
}

static uint16_t port_of(int listener) {
    struct sockaddr_in6 a;
    socklen_t n = sizeof a;
    if (listener < 0 || getsockname(listener, (struct sockaddr *)&a, &n))
        return 0;
    return ntohs(a.sin6_port);
}

boot *boot_new(int rank, int ranks, double timeout) {
    boot *b = mem_alloc(sizeof *b);
    b->rank = rank;
    b->ranks = ranks;
    b->timeout = timeout;
    b->outlives = launch_outlives();
    b->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    b->door = -1;
    pthread_mutex_init(&b->lock, NULL);
    for (int r = 0; r < COMM_MAX_RANKS; r++)
        b->fd[r] = -1;
    return b;
}

weft_status boot_start(boot *b) {
    for (int r = 0; r < b->ranks; r++)
        b->heard[r] = b->looked = clock_seconds();
    b->record = flight_record_open(b->table.job, b->epoch, b->rank, b->ranks);
    b->flight = b->record->flight;
    if (pthread_create(&b->thread, NULL, boot_main, b) == 0)
        return WEFT_OK;
    weft_status s = weft_fail(WEFT_NO_MEMORY, "rank %d: a thread cannot be started", b->rank);
    boot_free(b);
    return s;
}

weft_status boot_open(const launch *l, double timeout, int listener, boot **out) {
    boot *b = boot_new(l->rank, l->ranks, timeout);
    weft_status s = meet(b, l, port_of(listener));
    if (s != WEFT_OK) {
        boot_free(b);
        return s;
    }
    WEFT_TRY(boot_start(b));
    *out = b;
    return WEFT_OK;
}

static void end(boot *b, boot_end how) {
    atomic_store(&b->closing, how);
    poke(b);
    pthread_join(b->thread, NULL);
}

void boot_leave(boot *b) {
    end(b, BOOT_LEAVES);
    boot_free(b);
}

void boot_close(boot *b) {
    if (!b)
        return;
    end(b, BOOT_CLOSES);
    if (atomic_load(&b->failed)) /* the lost leave theirs to those who remain */
        flight_record_sweep(b->table.job, !b->outlives);
    boot_free(b);
}
