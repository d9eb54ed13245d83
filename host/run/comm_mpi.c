/* SPDX-License-Identifier: Apache-2.0
 * libweft_mpi.so: all there is of MPI in weft (MPI 3.1; tested with Open MPI). */
#include "host/run/comm_mpi.h"
#include <mpi.h>

_Static_assert(sizeof(MPI_Request) <= sizeof(void *), "a request travels as a pointer");

typedef union {
    void *p;
    MPI_Request r;
} handle;

static int mpi_init(int *rank, int *ranks) {
    int have, on = 0;
    MPI_Initialized(&on);
    if (!on && MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &have) != MPI_SUCCESS)
        return -1;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, ranks);
    return 0;
}

static int mpi_broadcast(void *p, size_t n, int root) {
    return MPI_Bcast(p, (int)n, MPI_BYTE, root, MPI_COMM_WORLD) == MPI_SUCCESS ? 0 : -1;
}

/* The waits are mpi_test's. NOLINTBEGIN(clang-analyzer-optin.mpi*) */
static void *mpi_send(const void *p, size_t n, int peer, int tag) {
    handle h = {.p = NULL};
    return MPI_Isend(p, (int)n, MPI_BYTE, peer, tag, MPI_COMM_WORLD, &h.r) ? NULL : h.p;
}

static void *mpi_recv(void *p, size_t n, int peer, int tag) {
    handle h = {.p = NULL};
    return MPI_Irecv(p, (int)n, MPI_BYTE, peer, tag, MPI_COMM_WORLD, &h.r) ? NULL : h.p;
}
/* NOLINTEND(clang-analyzer-optin.mpi*) */

static int mpi_test(void **request) {
    handle h = {.p = *request};
    int done = 0;
    if (MPI_Test(&h.r, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS)
        return -1;
    *request = done ? NULL : h.p;
    return done;
}

static int mpi_all_reduce(float *x, size_t n) {
    return MPI_Allreduce(MPI_IN_PLACE, x, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) == MPI_SUCCESS
               ? 0
               : -1;
}

static void mpi_close(void) {
    MPI_Finalize();
}

__attribute__((visibility("default"))) extern const comm_mpi_table weft_mpi;
const comm_mpi_table weft_mpi = {
    .abi = COMM_MPI_ABI,
    .init = mpi_init,
    .broadcast = mpi_broadcast,
    .send = mpi_send,
    .recv = mpi_recv,
    .test = mpi_test,
    .all_reduce = mpi_all_reduce,
    .close = mpi_close,
};
