/* SPDX-License-Identifier: Apache-2.0
 * cuBLASLt's matmul as the opponent, by its names in the library. Row-major y[T,N] is the
 * column-major N x T product of w, transposed, with x. */
#include "host/base/mem.h"
#include "tests/check/gpu.h"
#include "weft/dtype.h"
#include <dlfcn.h>
#include <string.h>

typedef void *handle;

/* As cublasLt.h has them. */
enum {
    TYPE_F32 = 0,
    TYPE_F16 = 2,
    TYPE_BF16 = 14,
    COMPUTE_F32 = 68,
    TRANSPOSE_A = 3,
    TRANSPOSED = 1,
    WORKSPACE = 1,
    MOST_ALGORITHMS = 16
};
typedef struct {
    uint64_t algorithm[8];
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
} heuristic;

#define CALLS(X)                                                                               \
    X(cublasLtCreate, (handle *))                                                              \
    X(cublasLtDestroy, (handle))                                                               \
    X(cublasLtMatmulDescCreate, (handle *, int, int))                                          \
    X(cublasLtMatmulDescDestroy, (handle))                                                     \
    X(cublasLtMatmulDescSetAttribute, (handle, int, const void *, size_t))                     \
    X(cublasLtMatrixLayoutCreate, (handle *, int, uint64_t, uint64_t, int64_t))                \
    X(cublasLtMatrixLayoutDestroy, (handle))                                                   \
    X(cublasLtMatmulPreferenceCreate, (handle *))                                              \
    X(cublasLtMatmulPreferenceDestroy, (handle))                                               \
    X(cublasLtMatmulPreferenceSetAttribute, (handle, int, const void *, size_t))               \
    X(cublasLtMatmulAlgoGetHeuristic,                                                          \
      (handle, handle, handle, handle, handle, handle, handle, int, heuristic *, int *))       \
    X(cublasLtMatmul, (handle, handle, const void *, const void *, handle, const void *, handle, \
                       const void *, const void *, handle, void *, handle, const void *, void *, \
                       size_t, handle))

#define MEMBER_(name, parameters) int(*name) parameters;
typedef struct {
    CALLS(MEMBER_)
} calls;

struct vendor {
    calls c;
    handle library, lt, stream, product, x, w, y;
    void *workspace;
    size_t bytes;
    heuristic algorithm[MOST_ALGORITHMS];
    int count, chosen;
};

static handle open_library(void) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    handle h = NULL;
    for (int i = 0; i < 3 && !h; i++)
        h = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return h;
}

vendor *vendor_open(const gpu *g, void *workspace, size_t bytes) {
    vendor *v = mem_alloc(sizeof *v);
    bool all = true;
    memset(v, 0, sizeof *v);
    v->stream = gpu_stream(g);
    v->workspace = workspace;
    v->bytes = bytes;
    v->library = open_library();
#define FIND_(name, parameters)                                        \
    *(void **)&v->c.name = v->library ? dlsym(v->library, #name) : NULL; \
    all = all && v->c.name;
    CALLS(FIND_)
    if (all && v->c.cublasLtCreate(&v->lt) == 0)
        return v;
    mem_free(v);
    return NULL;
}

static void forget(vendor *v) {
    if (v->product)
        v->c.cublasLtMatmulDescDestroy(v->product);
    handle *layout[] = {&v->x, &v->w, &v->y};
    for (int i = 0; i < 3; i++) {
        if (*layout[i])
            v->c.cublasLtMatrixLayoutDestroy(*layout[i]);
        *layout[i] = NULL;
    }
    v->product = NULL;
    v->count = v->chosen = 0;
}

void vendor_close(vendor *v) {
    if (!v)
        return;
    forget(v);
    v->c.cublasLtDestroy(v->lt);
    mem_free(v);
}

static bool describe(vendor *v, int type, int64_t T, int64_t N, int64_t K) {
    int transposed = TRANSPOSED;
    return !v->c.cublasLtMatmulDescCreate(&v->product, COMPUTE_F32, TYPE_F32) &&
           !v->c.cublasLtMatmulDescSetAttribute(v->product, TRANSPOSE_A, &transposed,
                                                sizeof transposed) &&
           !v->c.cublasLtMatrixLayoutCreate(&v->w, type, (uint64_t)K, (uint64_t)N, K) &&
           !v->c.cublasLtMatrixLayoutCreate(&v->x, type, (uint64_t)K, (uint64_t)T, K) &&
           !v->c.cublasLtMatrixLayoutCreate(&v->y, type, (uint64_t)N, (uint64_t)T, N);
}

bool vendor_matmul(vendor *v, int dtype, int64_t T, int64_t N, int64_t K) {
    int type = dtype == WEFT_F32 ? TYPE_F32 : dtype == WEFT_F16 ? TYPE_F16 : TYPE_BF16;
    handle preference = NULL;
    forget(v);
    if (!describe(v, type, T, N, K) || v->c.cublasLtMatmulPreferenceCreate(&preference))
        return false;
    v->c.cublasLtMatmulPreferenceSetAttribute(preference, WORKSPACE, &v->bytes, sizeof v->bytes);
    int bad = v->c.cublasLtMatmulAlgoGetHeuristic(v->lt, v->product, v->w, v->x, v->y, v->y,
                                                  preference, MOST_ALGORITHMS, v->algorithm,
                                                  &v->count);
    v->c.cublasLtMatmulPreferenceDestroy(preference);
    return !bad && v->count > 0;
}

int vendor_algorithms(const vendor *v) {
    return v->count;
}

void vendor_choose(vendor *v, int i) {
    v->chosen = i;
}

bool vendor_run(vendor *v, const void *x, const void *w, void *y) {
    const float one = 1, zero = 0;
    return v->c.cublasLtMatmul(v->lt, v->product, &one, w, v->w, x, v->x, &zero, y, v->y, y, v->y,
                               &v->algorithm[v->chosen].algorithm, v->workspace, v->bytes,
                               v->stream) == 0;
}
