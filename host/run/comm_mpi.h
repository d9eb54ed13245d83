/* SPDX-License-Identifier: Apache-2.0
 * What weft asks of MPI, as a table: libweft_mpi.so (comm_mpi.c) fills it in, comm_wire_mpi.c opens
 * it where --comm mpi is asked for. So a build has MPI where it is installed, a run loads it only
 * when it is used, and no other file knows a type of it. */
#pragma once
#include <stddef.h>

enum { COMM_MPI_ABI = 2 };

typedef struct {
    int abi;
    int (*init)(int *rank, int *ranks); /* 0: done */
    int (*broadcast)(void *p, size_t n, int root);
    /* Begin; NULL: failed. At most COMM_MPI_PIECE bytes. */
    void *(*send)(const void *p, size_t n, int peer, int tag);
    void *(*recv)(void *p, size_t n, int peer, int tag);
    int (*test)(void **request); /* 1: done (the request is given back), 0: not yet, -1: failed */
    int (*all_reduce)(float *x, size_t n); /* of all ranks, in MPI's order; 0: done */
    void (*close)(void);                   /* every rank calls it, or none */
} comm_mpi_table;
enum { COMM_MPI_PIECE = 1 << 30 };
