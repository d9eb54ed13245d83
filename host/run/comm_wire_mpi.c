/* SPDX-License-Identifier: Apache-2.0
 * The wire of MPI: a message is a head and its data, in pieces MPI can count. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/comm_mpi.h"
#include "host/run/comm_proc.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPIN_SECONDS 1e-4
#define SPIN_BYTE_SECONDS 2e-9 /* far more than shared memory takes */
enum { TAG_HEAD = 1, TAG_DATA = 2 };

typedef struct {
    comm_wire wire;
    const comm_mpi_table *mpi;
} mpi_wire;

/* ---- Messages ---- */

static void *begin(const comm_mpi_table *m, const wire_part *p, char *at, size_t n, int tag) {
    return p->out ? m->send(at, n, p->peer, tag) : m->recv(at, n, p->peer, tag);
}

static size_t piece_of(const wire_part *p) {
    uint64_t left = p->bytes - p->moved;
    return left < COMM_MPI_PIECE ? (size_t)left : COMM_MPI_PIECE;
}

/* Data does not wait for its head, which MPI brings first all the same: where that is not the one
 * expected, the job ends. False: MPI refuses. */
static bool begin_next(const comm_mpi_table *m, wire_part *p) {
    if (!p->head_done && !p->request[0]) {
        p->request[0] = begin(m, p, (char *)&p->head, sizeof p->head, TAG_HEAD);
        if (!p->request[0])
            return false;
    }
    if (p->moved < p->bytes && !p->request[1])
        p->request[1] = begin(m, p, p->data + p->moved, piece_of(p), TAG_DATA);
    return p->moved == p->bytes || p->request[1];
}

/* False: MPI reports an error. */
static bool test_head(const comm_mpi_table *m, wire_part *p, bool *moved) {
    int k = p->head_done ? 0 : m->test(&p->request[0]);
    if (k > 0) {
        p->head_done = *moved = true;
        p->request[0] = NULL;
    }
    return k >= 0;
}

static bool is_strange(const wire_part *p) {
    return !p->out && p->head_done && p->head.bytes != p->bytes;
}

/* False: MPI reports an error. */
static bool advance(const comm_mpi_table *m, wire_part *p, bool *moved) {
    while (!p->done) {
        if (!begin_next(m, p) || !test_head(m, p, moved))
            return false;
        if (is_strange(p)) {
            *moved = true;
            return true; /* the caller looks at heads next */
        }
        int k = p->request[1] ? m->test(&p->request[1]) : 0;
        if (k < 0) /* more than there was room for: the head has come by now and says so */
            return test_head(m, p, moved) && is_strange(p);
        if (k > 0) {
            p->moved += piece_of(p);
            p->request[1] = NULL;
            *moved = true;
        }
        p->done = p->head_done && p->moved == p->bytes;
        if (!p->done && k == 0)
            return true;
    }
    return true;
}

/* Large messages move within MPI's calls alone, so a nap would stop them. */
static double spin_seconds(const wire_part *part, int n) {
    uint64_t left = 0;
    for (int i = 0; i < n; i++)
        left += part[i].bytes - part[i].moved;
    return SPIN_SECONDS + SPIN_BYTE_SECONDS * (double)left;
}

/* MPI has nothing to sleep on: asks again and again, and naps in between after a while. From the
 * last part on, since those that go out are behind: a receive whose message is here already copies
 * it before it returns, and whoever waits for this rank's would not have it until then. */
static weft_status mpi_move(comm_wire *wire, wire_part *part, int n, double seconds, int *lost) {
    const comm_mpi_table *m = ((mpi_wire *)wire)->mpi;
    double begin = clock_seconds(), now = begin, spin = spin_seconds(part, n);
    bool moved = false;
    *lost = -1;
    for (; !moved && now - begin < seconds; now = clock_seconds()) {
        for (int i = n; i-- > 0;)
            if (!advance(m, &part[i], &moved)) {
                *lost = part[i].peer;
                return WEFT_PEER;
            }
        if (!moved && now - begin > spin)
            usleep(20);
    }
    return WEFT_OK;
}

static weft_status mpi_wire_all_reduce(comm_wire *wire, float *x, uint64_t n) {
    const comm_mpi_table *m = ((mpi_wire *)wire)->mpi;
    return m->all_reduce(x, n) ? weft_fail(WEFT_PEER, "MPI: cannot reduce") : WEFT_OK;
}

/* A job that failed leaves MPI alone: MPI_Finalize would wait for the lost. */
static void mpi_wire_close(comm_wire *wire, bool failed) {
    mpi_wire *w = (mpi_wire *)wire;
    if (!failed)
        w->mpi->close();
    mem_free(w);
}

static const wire_kind mpi_kind = {
    .name = "mpi",
    .move = mpi_move,
    .all_reduce = mpi_wire_all_reduce,
    .close = mpi_wire_close,
};

/* ---- Opening ---- */

/* Beside the binary, or wherever libraries are found. */
static void *open_library(void) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
    while (n > 0 && path[n - 1] != '/')
        n--;
    if (n > 0) {
        static const char *const places[] = {"libweft_mpi.so", "../lib/libweft_mpi.so"};
        for (int i = 0; i < 2; i++) {
            snprintf(path + n, 64, "%s", places[i]);
            void *lib = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
            if (lib)
                return lib;
        }
    }
    return dlopen("libweft_mpi.so", RTLD_NOW | RTLD_GLOBAL);
}

static weft_status load(const comm_mpi_table **out) {
    void *lib = open_library();
    const comm_mpi_table *m = lib ? dlsym(lib, "weft_mpi") : NULL;
    if (!m || m->abi != COMM_MPI_ABI)
        return weft_fail(WEFT_USAGE,
                         "--comm mpi: libweft_mpi.so is not there (%.200s); install Open MPI's "
                         "development files and build again, or use --comm tcp",
                         lib ? "another version" : dlerror());
    *out = m;
    return WEFT_OK;
}

bool comm_mpi_found(void) {
    const comm_mpi_table *m;
    return load(&m) == WEFT_OK;
}

typedef struct {
    char host[LAUNCH_TEXT];
    int port;
} meeting_place;

/* Rank 0 says where it is; ranks on its host need not know its address. */
static weft_status agree_where(const comm_mpi_table *m, launch *l) {
    meeting_place p = {.port = 0};
    char here[LAUNCH_TEXT] = "";
    uint16_t port = 0;
    gethostname(here, sizeof here - 1);
    if (l->rank == 0) {
        int fd = boot_listen(getenv("MASTER_PORT") ? (uint16_t)l->port : 0, &port);
        if (fd >= 0)
            close(fd);
        p.port = port;
        memcpy(p.host, here, sizeof p.host);
    }
    if (m->broadcast(&p, sizeof p, 0))
        return weft_fail(WEFT_PEER, "MPI: cannot broadcast");
    p.host[sizeof p.host - 1] = 0;
    if (!l->address[0])
        snprintf(l->address, sizeof l->address, "%s",
                 strcmp(p.host, here) == 0 ? "127.0.0.1" : p.host);
    l->port = p.port;
    return WEFT_OK;
}

weft_status comm_mpi_open(launch *l, double timeout, boot **b, comm_wire **out) {
    const comm_mpi_table *m = NULL;
    WEFT_TRY(load(&m));
    if (m->init(&l->rank, &l->ranks))
        return weft_fail(WEFT_PEER, "MPI: cannot be initialised; was this started by mpirun?");
    if (l->ranks > COMM_MAX_RANKS)
        return weft_fail(WEFT_USAGE, "mpirun -n %d: at most %d ranks", l->ranks, COMM_MAX_RANKS);
    WEFT_TRY(agree_where(m, l));
    WEFT_TRY(boot_open(l, timeout, -1, b));
    mpi_wire *w = mem_alloc(sizeof *w);
    w->wire.kind = &mpi_kind;
    w->mpi = m;
    *out = &w->wire;
    return WEFT_OK;
}
