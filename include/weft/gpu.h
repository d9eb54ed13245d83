/* SPDX-License-Identifier: Apache-2.0
 * What a GPU backend and its host side share: the streams that rows of "cuda" and "emu" are given,
 * and what the emulator counts. Both begin with a weft_stream, so a row's `run` casts. */
#pragma once
#include "weft/kernel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* One launch, or the sum over several. A request is one memory instruction of one warp. Requests,
 * sectors and passes are counted only while the stream's `profile` is set. */
typedef struct {
    uint64_t launches, blocks, threads;
    uint64_t read_bytes, written_bytes;      /* global memory, as the kernel asked for it */
    uint64_t requests, sectors;              /* global: 32-byte sectors those requests touch */
    uint64_t shared_requests, shared_passes; /* passes beyond the least are bank conflicts */
    uint64_t shared_least;                   /* passes the bytes alone would need */
    uint64_t async_bytes;                    /* by cp.async */
    uint64_t mma;                            /* matrix instructions of a warp */
    uint64_t barriers;                       /* of a block */
    uint64_t switches;                       /* of the emulator's fibers */
} weft_gpu_counters;

enum { WEFT_EMU_ERROR_BYTES = 512, WEFT_EMU_LAUNCHES = 32 };

/* One launch of a profiled stream: its geometry, and the counters of all its blocks. */
typedef struct {
    const char *kernel; /* the compiler's words; "... = weft_emu::rmsnorm_k<float, 4>]" */
    uint32_t grid[3], block[3];
    uint64_t shared;       /* bytes of a block */
    uint64_t ran;          /* blocks that did run: fewer than the grid's of a sampled stream */
    uint64_t async_flight; /* most bytes that a block's asynchronous copies had on the way */
    weft_gpu_counters count;
} weft_emu_launch;

/* error: the first failed launch's code, 0 if none; failed: its step. mark: the device's. */
enum { WEFT_STREAM_MARKS = 8 };
typedef struct {
    weft_stream head;
    void *stream; /* cudaStream_t */
    int error;
    const weft_step *failed;
    void *mark[WEFT_STREAM_MARKS]; /* cudaEvent_t; NULL: none yet */
} weft_cuda_stream;

/* seed: order of a block's threads. 0 ascending, 1 descending, else drawn at every chance. After
 * a fault the stream is dead, as a CUDA context would be: `error` says what was found and where.
 * sample: run only so many blocks of a launch, spread over the grid, and scale what they counted;
 * 0: all. Results are then incomplete, which is for measuring large shapes alone. */
typedef struct {
    union {
        weft_stream head;
        weft_cuda_stream cuda; /* which begins with it */
    };
    weft_stream *pool; /* the threads that run blocks */
    uint64_t seed;
    int profile, failed;
    int64_t sample;
    weft_gpu_counters last, total; /* of the last launch; since the stream was opened */
    int launched;                  /* launches while `profile` was set; the first are in `launch` */
    weft_emu_launch launch[WEFT_EMU_LAUNCHES];
    char error[WEFT_EMU_ERROR_BYTES];
} weft_emu_stream;

/* Loops that reach a ceiling and do nothing else: reads, matrix instructions in bf16, fused
 * multiply-adds in fp32. run enqueues so many rounds on every processor and returns the bytes or
 * the operations that they are; step->args.cast.x is what is read, y four bytes that are never
 * written. cap: as of a weft_kernel. Ended by a loop whose run is NULL. */
enum { WEFT_LOOP_READ, WEFT_LOOP_MATRIX, WEFT_LOOP_FP32 };
typedef struct weft_gpu_loop {
    int what, cap;
    double (*run)(const weft_step *step, weft_stream *s, int64_t rounds);
} weft_gpu_loop;

/* What a .cu file says of its kernels once they are compiled; scripts/sass-gate holds nvcc's output
 * to it. Of the lines whose glob fits a kernel the first counts; ended by a line whose kernel is
 * NULL. */
typedef struct {
    const char *kernel; /* without namespaces and blanks: "matmul_mma_k<*,8,true>" */
    int threads;        /* of a block */
    int blocks;         /* an SM of sm_90 holds at least as many at once */
    uint64_t shared;    /* bytes the launch asks for */
    const char *needs;  /* instructions that must be there, everywhere: "HMMA LDSM LDG.128x2" */
} weft_claim;

/* Files of kernels/cuda and kernels/sm90. Each exports its rows once per build: weft_cuda_<file>
 * for the GPU, weft_emu_<file> for the emulator, ended by a row whose name is NULL. */
/* clang-format off */
#define WEFT_CU_FILES(X) \
    X(matmul_wgmma) X(ceiling_wgmma) \
    X(add) X(argmax) X(attention_mma) X(attention_simt) X(cast) X(ceiling) X(embed) X(gather) \
    X(glu) X(kv_append) X(layernorm) X(leaf_sum) X(matmul) X(matmul_mma) X(matmul_s8) \
    X(matmul_simt) X(matmul_simt_tiled) X(matmul_skinny) X(matmul_tiled) X(matmul_w8) X(quantize) \
    X(rank_norm) X(rank_sum) X(rmsnorm) X(rope) X(sample) X(softmax) X(token_logprob) \
    X(adamw) X(attention_dx) X(column_sum) X(cross_entropy) X(dropout) X(embed_dw) X(glu_dx) \
    X(matmul_dx_mma) X(matmul_dx_simt) X(matmul_grad_tiled) X(norm_dx) X(rope_dx)
/* clang-format on */
#define WEFT_CU_DECLARE_(file) extern const weft_kernel weft_cuda_##file[], weft_emu_##file[];
WEFT_CU_FILES(WEFT_CU_DECLARE_)

/* Their claims. A file without them links, and fails the gate. */
#define WEFT_CU_CLAIMS_(file) \
    extern const weft_claim weft_emu_claims_##file[] __attribute__((weak));
WEFT_CU_FILES(WEFT_CU_CLAIMS_)

#ifdef __cplusplus
}
#endif
