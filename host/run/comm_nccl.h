/* SPDX-License-Identifier: Apache-2.0
 * What weft asks of NCCL: its public ABI since 2.18, declared here, found at run time where --comm
 * nccl is asked for. No build needs NCCL or a header of it. */
#pragma once
#include "weft/status.h"
#include <limits.h>
#include <stddef.h>

enum { NCCL_LEAST = 21800, NCCL_ID_BYTES = 128 };

typedef enum {
    NCCL_SUCCESS,
    NCCL_UNHANDLED_CUDA_ERROR,
    NCCL_SYSTEM_ERROR,
    NCCL_INTERNAL_ERROR,
    NCCL_INVALID_ARGUMENT,
    NCCL_INVALID_USAGE,
    NCCL_REMOTE_ERROR,
    NCCL_IN_PROGRESS
} nccl_result;

enum { NCCL_INT8 = 0, NCCL_FLOAT32 = 7, NCCL_SUM = 0 };

typedef struct nccl_comm nccl_comm; /* what a ncclComm_t points to */
typedef struct {
    char internal[NCCL_ID_BYTES];
} nccl_id;

/* ncclConfig_t as of 2.18: newer libraries see by `size` and `version` what it does not have. */
typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
} nccl_config;
#define NCCL_CONFIG_MAGIC 0xcafebeefU
#define NCCL_UNDEFINED INT_MIN

/* X(member, symbol, whether it must be there, result, parameters); streams are cudaStream_t. */
#define NCCL_SYMBOLS(X) \
    X(get_version, "ncclGetVersion", 1, nccl_result, (int *)) \
    X(get_id, "ncclGetUniqueId", 1, nccl_result, (nccl_id *)) \
    X(init, "ncclCommInitRankConfig", 1, nccl_result, \
      (nccl_comm **, int, nccl_id, int, nccl_config *)) \
    X(finalize, "ncclCommFinalize", 1, nccl_result, (nccl_comm *)) \
    X(destroy, "ncclCommDestroy", 1, nccl_result, (nccl_comm *)) \
    X(abort, "ncclCommAbort", 1, nccl_result, (nccl_comm *)) \
    X(async_error, "ncclCommGetAsyncError", 1, nccl_result, (nccl_comm *, nccl_result *)) \
    X(error_string, "ncclGetErrorString", 1, const char *, (nccl_result)) \
    X(last_error, "ncclGetLastError", 1, const char *, (nccl_comm *)) \
    X(group_start, "ncclGroupStart", 1, nccl_result, (void)) \
    X(group_end, "ncclGroupEnd", 1, nccl_result, (void)) \
    X(send, "ncclSend", 1, nccl_result, (const void *, size_t, int, int, nccl_comm *, void *)) \
    X(recv, "ncclRecv", 1, nccl_result, (void *, size_t, int, int, nccl_comm *, void *)) \
    X(all_reduce, "ncclAllReduce", 1, nccl_result, \
      (const void *, void *, size_t, int, int, nccl_comm *, void *)) \
    X(memory_register, "ncclCommRegister", 0, nccl_result, (nccl_comm *, void *, size_t, void **)) \
    X(memory_deregister, "ncclCommDeregister", 0, nccl_result, (nccl_comm *, void *)) \
    X(memory_alloc, "ncclMemAlloc", 0, nccl_result, (void **, size_t)) \
    X(memory_free, "ncclMemFree", 0, nccl_result, (void *))

#define NCCL_MEMBER_(member, symbol, needed, result, parameters) result(*member) parameters;
typedef struct {
    NCCL_SYMBOLS(NCCL_MEMBER_)
    int version;    /* 22809 is 2.28.9 */
    char text[16];  /* "2.28.9" */
    char path[256]; /* as it was asked for */
} nccl_library;

/* libnccl.so.2, or what the variable WEFT_NCCL names, loaded once a process. WEFT_USAGE: there is
 * none, it is older than 2.18, or it lacks something. */
weft_status comm_nccl_load(const nccl_library **out);
