/* SPDX-License-Identifier: Apache-2.0
 * The emulator's self-test: correct kernels, each broken in one way at a time. The correct ones
 * must pass and every bug must be found, by the emulator or by a wrong result where it is one of
 * arithmetic alone, under every order of threads that is tried. */
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/types.cuh"
#include "tests/unit/emu.h"
#include <ptx_sm90.cuh>
#include <stdio.h>

using namespace WEFT_CU_NS;

enum { SEEDS = 5, N = 256 };

static weft_emu_stream *stream;

/* ---- a block adds neighbours, then all of it ---- */

enum sum_bug {
    SUM_RIGHT,
    SUM_NO_BARRIER,      /* neighbours are read before they are written */
    SUM_NO_TREE_BARRIER, /* a step of the tree runs into the next */
    SUM_DIVERGENT,       /* half of the block at another barrier */
    SUM_HALF_BARRIER,    /* only half of the block at a barrier */
    SUM_EARLY_RETURN,    /* a thread returns before the barrier */
    SUM_READ_PAST,       /* off by one: reads behind the operand */
    SUM_READ_BEFORE,
    SUM_WRITE_PAST,
    SUM_WRITE_INPUT,
    SUM_READ_OUTPUT,    /* through the read-only path */
    SUM_UNINITIALISED,  /* the last element is never stored */
    SUM_SHARED_PAST,    /* a neighbour behind the array */
    SUM_SAME_PLACE,     /* two threads store to one place */
    SUM_MISALIGNED,     /* a vector load one element on */
    SUM_FEW_BYTES,      /* the launch gives too little shared memory */
    SUM_WRONG_NEIGHBOUR /* an index that is in bounds, and wrong */
};

struct sum_smem {
    float x[N], tree[N];
};

template <int BUG> __global__ void sum_k(const float *x, float *y, float *total) {
    WEFT_SMEM(sum_smem, s);
    int t = threadIdx.x, at = BUG == SUM_READ_PAST ? t + 1 : BUG == SUM_READ_BEFORE ? t - 1 : t;
    if (BUG == SUM_EARLY_RETURN && t == 77)
        return;
    float v = ld_const(&x[at]);
    if (BUG == SUM_MISALIGNED)
        v = ld_const((const float2 *)&x[t / 2 * 2 + 1]).x;
    if (BUG == SUM_WRITE_INPUT && t == 3)
        st_global((float *)&x[t], v);
    if (BUG != SUM_UNINITIALISED || t != N - 1)
        st_shared(&s.x[BUG == SUM_SAME_PLACE && t == 9 ? 10 : t], v);
    if (BUG == SUM_DIVERGENT && t < N / 2)
        __syncthreads();
    else if (BUG == SUM_HALF_BARRIER ? t < N / 2 : BUG != SUM_NO_BARRIER)
        __syncthreads();
    int next = BUG == SUM_WRONG_NEIGHBOUR ? (t + 2) % N : (t + 1) % N;
    if (BUG == SUM_SHARED_PAST && t == N - 1)
        next = 2 * N;
    float both = v + ld_shared(s.x + next);
    st_global(&y[BUG == SUM_WRITE_PAST ? t + 1 : t], both);
    if (BUG == SUM_READ_OUTPUT)
        both = ld_const(&y[t]);
    st_shared(&s.tree[t], both);
    __syncthreads();
    for (int n = N / 2; n > 0; n /= 2) {
        if (t < n)
            st_shared(&s.tree[t], ld_shared(&s.tree[t]) + ld_shared(&s.tree[t + n]));
        if (BUG != SUM_NO_TREE_BARRIER || n != 64)
            __syncthreads();
    }
    if (t == 0)
        st_global(total, ld_shared(&s.tree[0]));
}

static float *sum_x, *sum_y, *sum_total;

template <int BUG> static bool sum_once() {
    for (int i = 0; i < N; i++)
        sum_x[i] = (float)(i * i % 97);
    memset(sum_y, 0xff, N * sizeof *sum_y);
    size_t shared = BUG == SUM_FEW_BYTES ? sizeof(float) * N : sizeof(sum_smem);
    WEFT_LAUNCH(NULL, &stream->head, (sum_k<BUG>), 1, N, shared, sum_x, sum_y, sum_total);
    float all = 0;
    bool right = true;
    for (int i = 0; i < N; i++) {
        right &= sum_y[i] == sum_x[i] + sum_x[(i + 1) % N];
        all += 2 * sum_x[i];
    }
    return right && *sum_total == all;
}

/* ---- a warp's exchange ---- */

enum lane_bug {
    LANE_RIGHT,
    LANE_NOT_IN_MASK,   /* the mask leaves out a lane that calls */
    LANE_HALF,          /* the full mask inside a branch of half a warp */
    LANE_FROM_OUTSIDE,  /* reads a lane that is not in the mask */
    LANE_RETURNED,      /* a lane of the mask has returned */
    LANE_NO_SYNC,       /* shared memory between lanes without __syncwarp */
    LANE_OTHER_MASK,    /* lanes disagree on the mask */
    LANE_WRONG_DISTANCE /* shuffles by 4, 4, 2, 1 and so on: a wrong sum */
};

struct lane_smem {
    float v[32];
};

template <int BUG> __global__ void lane_k(const float *x, float *y) {
    WEFT_SMEM(lane_smem, s);
    int l = threadIdx.x;
    uint32_t mask = 0xffffffffu;
    float v = ld_const(&x[l]);
    if (BUG == LANE_RETURNED && l == 31)
        return;
    if (BUG == LANE_NOT_IN_MASK || (BUG == LANE_OTHER_MASK && l < 16))
        mask = 0x0000ffffu;
    if (BUG == LANE_HALF) {
        if (l < 16)
            v += __shfl_xor_sync(mask, v, 1);
    }
    if (BUG == LANE_FROM_OUTSIDE && l < 16)
        v += __shfl_xor_sync(0x0000ffffu, v, 16);
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(mask, v, BUG == LANE_WRONG_DISTANCE && d == 8 ? 4 : d);
    st_shared(&s.v[l], v + (float)l);
    if (BUG != LANE_NO_SYNC)
        __syncwarp();
    st_global(&y[l], ld_shared(&s.v[31 - l]));
}

template <int BUG> static bool lane_once() {
    float sum = 0;
    bool right = true;
    for (int i = 0; i < 32; i++)
        sum += sum_x[i] = (float)(i * 3 % 19);
    memset(sum_y, 0xff, 32 * sizeof *sum_y);
    WEFT_LAUNCH(NULL, &stream->head, (lane_k<BUG>), 1, 32, sizeof(lane_smem), sum_x, sum_y);
    for (int i = 0; i < 32; i++)
        right &= sum_y[i] == sum + (float)(31 - i);
    return right;
}

/* ---- a pipelined matmul: 16 x 8 outputs, two warps that share the staging, k in steps of 16
 * ---- */

enum mma_bug {
    MMA_RIGHT,
    MMA_NO_WAIT,        /* fragments are loaded while the copy is under way */
    MMA_WEAK_WAIT,      /* waits for one group fewer */
    MMA_NO_COMMIT,      /* the last stage belongs to no group */
    MMA_NO_READY,       /* waits, but no barrier: the other warp's copies */
    MMA_NO_RELEASE,     /* overwrites a stage that the other warp still reads */
    MMA_NOT_AWAITED,    /* returns with copies under way */
    MMA_WRONG_SWIZZLE,  /* reads where nobody swizzled to */
    MMA_STALE_FRAGMENT, /* a is not loaded again for the next k */
    MMA_TRANSPOSED,     /* .trans where there should be none */
    MMA_MISALIGNED,     /* a row's address that is no multiple of 16 */
    MMA_OTHER_BUFFER,   /* one stage off */
    MMA_SHORT_COPY,     /* 8 bytes of 16 are asked for */
    MMA_SOURCE_PAST,    /* off by one row */
    MMA_LOST_SUM,       /* c is zero instead of the running sum */
    MMA_WRITES_PENDING, /* a store into the target of a copy */
    MMA_DIVERGENT       /* half of a warp at the mma */
};

enum { STEPS = 6, K = STEPS * 16, STAGES = 2 };

struct pipe_smem {
    uint16_t a[STAGES][16][16], b[STAGES][8][16];
};

/* Two 16-byte places a row, swapped in every other group of four rows. */
__device__ static int place(int row, int c) {
    return (c ^ (row >> 2 & 1)) * 8;
}

/* 64 threads: rows 0 .. 15 of a by warp 0, rows of b by warp 1, two places each. */
template <int BUG>
__device__ static void fill(pipe_smem &s, const uint16_t *a, const uint16_t *b, int k) {
    int t = threadIdx.x % 32, r = t / 2, c = t % 2, stage = k % STAGES;
    int bytes = BUG == MMA_SHORT_COPY ? 8 : 16, past = BUG == MMA_SOURCE_PAST ? 1 : 0;
    if (threadIdx.x < 32)
        cp_async16(&s.a[stage][r][place(r, c)], a + (r + past) * K + k * 16 + c * 8, bytes);
    else if (r < 8)
        cp_async16(&s.b[stage][r][place(r, c)], b + r * K + k * 16 + c * 8);
    if (BUG == MMA_WRITES_PENDING && threadIdx.x == 5 && k == 3)
        st_shared(&s.a[stage][r][place(r, c)], (uint16_t)0);
    if (BUG != MMA_NO_COMMIT || k != STEPS - 1)
        cp_async_commit();
}

template <int BUG>
__device__ static void load(pipe_smem &s, int k, uint32_t (&a)[4], uint32_t (&b)[2]) {
    int l = threadIdx.x % 32, stage = (k + (BUG == MMA_OTHER_BUFFER && k > 1)) % STAGES;
    int row = l % 16, col = BUG == MMA_WRONG_SWIZZLE ? l / 16 * 8 : place(row, l / 16);
    uint16_t *at = &s.a[stage][row][col];
    if (BUG == MMA_MISALIGNED && k == 2)
        at++;
    if (BUG != MMA_STALE_FRAGMENT || k == 0) {
        if (BUG == MMA_TRANSPOSED)
            ldmatrix_x4_trans(a, at);
        else
            ldmatrix_x4(a, at);
    }
    ldmatrix_x2(b, &s.b[stage][l % 8][place(l % 8, l / 8 % 2)]);
}

template <int BUG> __global__ void pipe_k(const uint16_t *a, const uint16_t *b, float *y) {
    WEFT_SMEM(pipe_smem, s);
    int l = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t fa[4], fb[2];
    float d[4] = {0, 0, 0, 0}, zero[4] = {0, 0, 0, 0};
    fill<BUG>(s, a, b, 0);
    for (int k = 0; k < STEPS; k++) {
        if (k + 1 < STEPS) {
            fill<BUG>(s, a, b, k + 1);
            if (BUG == MMA_WEAK_WAIT)
                cp_async_wait<2>();
            else if (BUG != MMA_NO_WAIT)
                cp_async_wait<1>();
        } else if (BUG != MMA_NO_WAIT && BUG != MMA_NOT_AWAITED) {
            cp_async_wait<0>();
        } else if (BUG == MMA_NOT_AWAITED) {
            break;
        }
        if (BUG != MMA_NO_READY)
            __syncthreads();
        load<BUG>(s, k, fa, fb);
        if (BUG != MMA_DIVERGENT || l < 16)
            mma_m16n8k16_bf16(d, fa, fb, BUG == MMA_LOST_SUM ? zero : d);
        if (BUG != MMA_NO_RELEASE)
            __syncthreads();
    }
    for (int i = 0; i < 4; i++) /* a warp stores half of the rows */
        if (i / 2 == warp)
            st_global(&y[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2], d[i]);
}

static uint16_t *pipe_a, *pipe_b;

template <int BUG> static bool pipe_once() {
    for (int i = 0; i < 16 * K; i++)
        pipe_a[i] = weft_f32_to_bf16((float)(i * 11 % 17 - 8));
    for (int i = 0; i < 8 * K; i++)
        pipe_b[i] = weft_f32_to_bf16((float)(i * 5 % 13 - 6));
    memset(sum_y, 0xff, 128 * sizeof *sum_y);
    WEFT_LAUNCH(NULL, &stream->head, (pipe_k<BUG>), 1, 64, sizeof(pipe_smem), pipe_a, pipe_b,
                sum_y);
    bool right = true;
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            float sum = 0;
            for (int k = 0; k < K; k++)
                sum += weft_bf16_to_f32(pipe_a[m * K + k]) * weft_bf16_to_f32(pipe_b[n * K + k]);
            right &= sum_y[m * 8 + n] == sum;
        }
    return right;
}

/* ---- the last block to finish adds up what all have left; counted in shared, then in global
 * ---- */

enum last_bug {
    LAST_RIGHT,
    LAST_NO_ZERO,    /* adds to shared memory that nobody set to zero */
    LAST_NO_BARRIER, /* reads the sum while others still add to it */
    LAST_CONST,      /* other blocks' parts through the read-only path */
    LAST_NO_FLAG,    /* thread 0 alone knows that its block is the last */
    LAST_OFF_BY_ONE, /* nobody is the last */
    LAST_TWICE,      /* every thread counts its block */
    LAST_PAST        /* one part too many */
};

enum { PARTS = 6 };

struct last_smem {
    int sum;
    unsigned last;
};

template <int BUG> __global__ void last_k(int *part, unsigned *count, int *total) {
    WEFT_SMEM(last_smem, s);
    int t = threadIdx.x, b = blockIdx.x;
    if (BUG != LAST_NO_ZERO && t == 0)
        st_shared(&s.sum, 0);
    __syncthreads();
    atomicAdd(&s.sum, t + b);
    if (BUG != LAST_NO_BARRIER)
        __syncthreads();
    if (t == 0) {
        st_global(&part[b], ld_shared(&s.sum));
        __threadfence();
    }
    unsigned done = 0;
    if (t == 0 || BUG == LAST_TWICE)
        done = atomicAdd(count, 1u) + (BUG == LAST_OFF_BY_ONE ? 0 : 1);
    if (t == 0 || BUG == LAST_TWICE)
        st_shared(&s.last, done);
    if (BUG != LAST_NO_FLAG)
        __syncthreads();
    if (ld_shared(&s.last) != PARTS || t)
        return;
    int sum = 0;
    for (int i = 0; i < PARTS + (BUG == LAST_PAST); i++)
        sum += BUG == LAST_CONST ? ld_const(&part[i]) : ld_global(&part[i]);
    st_global(total, sum);
}

template <int BUG> static bool last_once() {
    int *part = (int *)sum_y, *count = part + N - 1, *total = (int *)sum_total, want = 0;
    memset(sum_y, 0xff, N * sizeof *sum_y);
    *count = 0;
    *total = -1;
    if (BUG == LAST_PAST)
        part = part + N - PARTS - 1, count = (int *)sum_y; /* the parts end where y ends */
    *count = 0;
    WEFT_LAUNCH(NULL, &stream->head, (last_k<BUG>), PARTS, 64, sizeof(last_smem), part + 1,
                (unsigned *)count, total);
    for (int b = 0; b < PARTS; b++)
        want += 64 * b + 64 * 63 / 2;
    return *total == want;
}

/* ---- the list ---- */

typedef bool once();
/* ---- blocks of a cluster exchange their sums ---- */

enum far_bug {
    FAR_RIGHT,
    FAR_NO_BEGIN,   /* reads a block that may not run yet */
    FAR_BLOCK_ONLY, /* __syncthreads orders no other block */
    FAR_NO_END,     /* returns while another block may read */
    FAR_OWN_LATE,   /* overwrites what another block reads */
    FAR_READ_LATE,  /* reads what another block writes */
    FAR_UNWRITTEN,  /* the neighbour never stored the last element */
    FAR_PAST,       /* off by one: a block that the cluster has not */
    FAR_SAME_PLACE, /* all blocks write to one */
    FAR_BOUNDS,     /* past the end of the neighbour's shared memory */
    FAR_MISALIGNED,
    FAR_HALF,         /* one block at the cluster's barrier */
    FAR_WRONG_BLOCK,  /* reads its own */
    FAR_COPY_PENDING, /* reads the target of the neighbour's copy */
};

struct far_smem {
    __align__(16) float x[64], got[8][64];
};

template <int BUG> __global__ void far_k(const float *x, float *y) {
    WEFT_SMEM(far_smem, s);
    unsigned t = threadIdx.x, n = cluster_size(), me = cluster_rank(), next = (me + 1) % n;
    if (BUG != FAR_COPY_PENDING && (BUG != FAR_UNWRITTEN || t != 63))
        st_shared(&s.x[t], ld_const(&x[blockIdx.x * 64 + t]));
    else if (BUG == FAR_COPY_PENDING)
        cp_async4(&s.x[t], &x[blockIdx.x * 64 + t]);
    if (BUG == FAR_HALF ? me == 0 : BUG != FAR_NO_BEGIN)
        cluster_sync();
    unsigned from = BUG == FAR_PAST ? me + 1 : BUG == FAR_WRONG_BLOCK ? me : next;
    float v = ld_cluster(BUG == FAR_BOUNDS ? (const float *)(&s + 1) + t : &s.x[t], from);
    if (BUG == FAR_MISALIGNED)
        v += (float)ld_cluster((const uint4 *)&s.x[1], next).x;
    if (BUG == FAR_OWN_LATE)
        st_shared(&s.x[t], v);
    st_cluster(&s.got[BUG == FAR_SAME_PLACE ? 0 : me][t], BUG == FAR_SAME_PLACE ? 0 : next, v);
    if (BUG == FAR_BLOCK_ONLY)
        __syncthreads();
    else if (BUG != FAR_READ_LATE)
        cluster_sync();
    st_global(&y[blockIdx.x * 64 + t], ld_shared(&s.got[(me + n - 1) % n][t]));
    if (BUG == FAR_NO_END && me == 0)
        st_global(&y[blockIdx.x * 64 + t], ld_cluster(&s.x[t], next));
    if (BUG == FAR_COPY_PENDING)
        cp_async_wait_all();
}

template <int BUG> static bool far_once() {
    for (int i = 0; i < N; i++)
        sum_x[i] = (float)(i * i % 89);
    memset(sum_y, 0xff, N * sizeof *sum_y);
    WEFT_LAUNCH_CLUSTER(NULL, &stream->head, (far_k<BUG>), 4, 64, 4, sizeof(far_smem), sum_x,
                        sum_y);
    bool right = true;
    for (int i = 0; i < N; i++)
        right &= sum_y[i] == sum_x[i];
    return right;
}

struct planted {
    const char *name;
    once *run;
    const char *says; /* part of the message; NULL: the result is wrong */
};

static const planted right[] = {{"sum", sum_once<SUM_RIGHT>, NULL},
                                {"lanes", lane_once<LANE_RIGHT>, NULL},
                                {"pipeline", pipe_once<MMA_RIGHT>, NULL},
                                {"last block", last_once<LAST_RIGHT>, NULL},
                                {"cluster", far_once<FAR_RIGHT>, NULL}};

static const planted wrong[] = {
    {"no barrier", sum_once<SUM_NO_BARRIER>, "shared memory that nobody wrote|race"},
    {"no barrier in the tree", sum_once<SUM_NO_TREE_BARRIER>, "race"},
    {"divergent barrier", sum_once<SUM_DIVERGENT>, "divergent barrier"},
    {"half a block at a barrier", sum_once<SUM_HALF_BARRIER>,
     "divergent barrier|nobody wrote|race"},
    {"early return", sum_once<SUM_EARLY_RETURN>, "returned"},
    {"read past", sum_once<SUM_READ_PAST>,
     "reads 4 bytes out of bounds: 4 bytes past the end of 'x'"},
    {"read before", sum_once<SUM_READ_BEFORE>, "reads 4 bytes out of bounds: 4 bytes before 'x'"},
    {"write past", sum_once<SUM_WRITE_PAST>,
     "writes 4 bytes out of bounds: 4 bytes past the end of 'y'"},
    {"write to an input", sum_once<SUM_WRITE_INPUT>, "'x', which it may only read"},
    {"output through the read-only path", sum_once<SUM_READ_OUTPUT>, "non-coherent"},
    {"uninitialised shared memory", sum_once<SUM_UNINITIALISED>, "nobody wrote"},
    {"shared memory past the end", sum_once<SUM_SHARED_PAST>, "shared memory out of bounds"},
    {"two stores to one place", sum_once<SUM_SAME_PLACE>, "race"},
    {"misaligned vector", sum_once<SUM_MISALIGNED>, "misaligned"},
    {"too little shared memory", sum_once<SUM_FEW_BYTES>, "WEFT_SMEM of"},
    {"wrong neighbour", sum_once<SUM_WRONG_NEIGHBOUR>, NULL},
    {"caller not in its mask", lane_once<LANE_NOT_IN_MASK>, "leaves out lane|not in it"},
    {"full mask in a branch", lane_once<LANE_HALF>, "__shfl_xor_sync"},
    {"shuffle from outside the mask", lane_once<LANE_FROM_OUTSIDE>, "which is not in it"},
    {"a lane has returned", lane_once<LANE_RETURNED>, "returned"},
    {"no __syncwarp", lane_once<LANE_NO_SYNC>, "nobody wrote|race"},
    {"masks disagree", lane_once<LANE_OTHER_MASK>, "mask"},
    {"wrong shuffle distance", lane_once<LANE_WRONG_DISTANCE>, NULL},
    {"no wait", pipe_once<MMA_NO_WAIT>, "asynchronous copy|asynchronous copies"},
    {"wait for one group too few", pipe_once<MMA_WEAK_WAIT>, "asynchronous copy"},
    {"no commit", pipe_once<MMA_NO_COMMIT>, "asynchronous copy"},
    {"no barrier after the wait", pipe_once<MMA_NO_READY>, "race|asynchronous copy|nobody wrote"},
    {"stage overwritten in use", pipe_once<MMA_NO_RELEASE>, "race|asynchronous copy"},
    {"copies never awaited", pipe_once<MMA_NOT_AWAITED>, "asynchronous copies"},
    {"wrong swizzle", pipe_once<MMA_WRONG_SWIZZLE>, NULL},
    {"stale fragment", pipe_once<MMA_STALE_FRAGMENT>, NULL},
    {"transposed fragment", pipe_once<MMA_TRANSPOSED>, NULL},
    {"misaligned ldmatrix row", pipe_once<MMA_MISALIGNED>, "misaligned"},
    {"one stage off", pipe_once<MMA_OTHER_BUFFER>, "asynchronous copy|race"},
    {"half a copy", pipe_once<MMA_SHORT_COPY>, NULL},
    {"copy from past the operand", pipe_once<MMA_SOURCE_PAST>, "out of bounds"},
    {"running sum lost", pipe_once<MMA_LOST_SUM>, NULL},
    {"store into a copy's target", pipe_once<MMA_WRITES_PENDING>, "asynchronous copy"},
    {"atomics on shared memory that nobody set", last_once<LAST_NO_ZERO>, "nobody wrote"},
    {"a sum read while others add", last_once<LAST_NO_BARRIER>, "race"},
    {"another block's part, read-only", last_once<LAST_CONST>, "non-coherent"},
    {"one thread knows of the end", last_once<LAST_NO_FLAG>, "race|nobody wrote"},
    {"nobody is the last", last_once<LAST_OFF_BY_ONE>, NULL},
    {"every thread counts its block", last_once<LAST_TWICE>, "race"},
    {"one part too many", last_once<LAST_PAST>, "out of bounds"},
    {"mma in half a warp", pipe_once<MMA_DIVERGENT>, "mma.sync"},
    {"no barrier before another block's memory", far_once<FAR_NO_BEGIN>, "may not run yet"},
    {"a block's barrier for a cluster's", far_once<FAR_BLOCK_ONLY>,
     "race: another block has written|nobody wrote"},
    {"returns before the last look", far_once<FAR_NO_END>, "block returns|has returned"},
    {"own memory overwritten too early", far_once<FAR_OWN_LATE>,
     "race: overwrites what another|race: another thread has written"},
    {"own memory read too early", far_once<FAR_READ_LATE>,
     "race: another block has written|nobody wrote"},
    {"another block never stored it", far_once<FAR_UNWRITTEN>, "nobody wrote"},
    {"a block that the cluster has not", far_once<FAR_PAST>, "block 4 of a cluster of 4"},
    {"all blocks write to one place", far_once<FAR_SAME_PLACE>, "race: another"},
    {"past another block's memory", far_once<FAR_BOUNDS>, "shared memory out of bounds"},
    {"another block's memory, misaligned", far_once<FAR_MISALIGNED>, "misaligned"},
    {"one block at the cluster's barrier", far_once<FAR_HALF>, "may not run|cluster barrier"},
    {"its own memory instead", far_once<FAR_WRONG_BLOCK>, NULL},
    {"another block's copy", far_once<FAR_COPY_PENDING>, "asynchronous copy"},
};

/* One of the words between | is in the text. */
static bool speaks_of(const char *text, const char *words) {
    char one[128];
    while (*words) {
        size_t n = strcspn(words, "|");
        snprintf(one, sizeof one, "%.*s", (int)n, words);
        if (strstr(text, one))
            return true;
        words += n + (words[n] == '|');
    }
    return false;
}

static void correct_kernels_pass(void **) {
    for (const planted &p : right)
        for (stream->seed = 0; stream->seed < 4 * SEEDS; stream->seed++) {
            bool result = p.run();
            if (stream->failed || !result)
                fail_msg("%s, seed %d: %s", p.name, (int)stream->seed,
                         stream->failed ? stream->error : "wrong result");
        }
}

static void every_bug_is_found(void **) {
    for (const planted &p : wrong)
        for (stream->seed = 0; stream->seed < SEEDS; stream->seed++) {
            bool result = p.run(), failed = stream->failed != 0;
            stream->failed = 0;
            if (p.says ? !failed : failed || result)
                fail_msg("%s, seed %d: %s", p.name, (int)stream->seed,
                         failed ? stream->error : "not found");
            if (p.says && !speaks_of(stream->error, p.says))
                fail_msg("%s, seed %d: found as '%s'", p.name, (int)stream->seed, stream->error);
            if (p.says && !strstr(stream->error, p.says[0] == 'W' ? "_k" : "emu_bugs_test.cu:"))
                if (!strstr(p.says, "asynchronous copies"))
                    fail_msg("%s: the message names no line: '%s'", p.name, stream->error);
        }
}

int main() {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(correct_kernels_pass),
        cmocka_unit_test(every_bug_is_found),
    };
    stream = emu_stream_open(1);
    /* Twice what is allowed: what lies past an operand is nobody's. */
    sum_x = (float *)aligned_alloc(256, 2 * N * 4);
    sum_y = (float *)aligned_alloc(256, 2 * N * 4);
    sum_total = (float *)aligned_alloc(256, 256);
    pipe_a = (uint16_t *)aligned_alloc(256, 2 * 16 * K * 2);
    pipe_b = (uint16_t *)aligned_alloc(256, 2 * 8 * K * 2);
    emu::allow(sum_x, N * 4, emu::READ, "x");
    emu::allow(sum_y, N * 4, emu::READ | emu::WRITE, "y");
    emu::allow(sum_total, 4, emu::WRITE, "total");
    emu::allow(pipe_a, 16 * K * 2, emu::READ, "a");
    emu::allow(pipe_b, 8 * K * 2, emu::READ, "b");
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    emu_stream_close(stream);
    free(sum_x);
    free(sum_y);
    free(sum_total);
    free(pipe_a);
    free(pipe_b);
    return rc;
}
