/* SPDX-License-Identifier: Apache-2.0
 * params: what is trained, in one list: the slots of a model, and the two matrices of every
 * low-rank adapter. Each has its place in the gradient buffers, and one in every block of optimizer
 * state. */
#pragma once
#include "host/model/weights.h"
#include "host/train/mesh.h"
#include "host/train/options.h"
#include "host/train/pipeline.h"
#include "weft/stream.h"

typedef enum { PARAM_WEIGHT, PARAM_LORA_A, PARAM_LORA_B } param_kind;

typedef struct {
    param_kind kind;
    int slot, layer;    /* layer -1: the model's own */
    int stored;         /* index in params.stored */
    int part;           /* of that tensor */
    const char *name;   /* as the file to be written has it; fused parts share one */
    int64_t rows, cols; /* of all of it; cols 0: a vector */
    bool decay, trained;
    bool here;            /* this rank's stage computes with it */
    bool counted;         /* of the ranks that hold the same window of it, this one counts */
    weight_window window; /* this rank's, of param_whole */
    int chunk;            /* of this rank's stages */
    int64_t off;          /* bytes, in a gradient buffer; trained ones that are here only */
    int bucket;           /* of params.bucket; the same ones */
    int64_t kept;         /* the same in each block of this rank's state */
    weft_tensor w;        /* what the model computes with: the window, or this rank's rows of it */
    weft_tensor p; /* its fp32 numbers: w itself where that is fp32; the window or rows of it */
} param;

/* A layer's part of a gradient buffer: as many numbers for each rank of dp, whole lines of a
 * cache. */
typedef struct {
    int64_t begin, end; /* bytes */
    int chunk, params;  /* params: gradients that backward makes */
} params_bucket;

enum { PARAMS_ROW = 4096 }; /* a gradient buffer is whole rows of so many numbers */

typedef struct {
    const model_config *c;
    weight_stored *stored;
    int nstored;
    param *param;
    int n;
    int64_t kept; /* bytes of one block of this rank's state */
    struct {
        int64_t begin, end;    /* bytes of a gradient buffer, whole rows of PARAMS_ROW */
    } region[PIPE_MAX_CHUNKS]; /* of the parameters of a chunk */
    const train_mesh *mesh;
    int ranks, rank;   /* that share the state of every parameter by rows; this one */
    bool share_grads;  /* and the gradient */
    bool share_master; /* and the fp32 numbers of the model's matrices */
    bool share_weight; /* and what the model computes with */
    int64_t lookups;   /* offset of the gradient of a tied embedding's rows as inputs; -1: none */
    params_bucket *bucket; /* that of `lookups` is apart, and the last of its chunk */
    int nbucket;
    int64_t grad_bytes;
    int64_t count, trained; /* numbers in all, and trained ones */
} params;

/* Lists and places them. st: where the names come from, NULL: transformers' own. dtype: the
 * model's. A pattern or target that fits nothing is WEFT_USAGE naming it. Lives in the arena. */
weft_status params_describe(const model_config *c, const safetensors *st, const train_options *o,
                            const train_mesh *mesh, int dtype, arena *a, params *out);
const param *params_find(const params *p, param_kind kind, int slot, int layer);
/* Numbers of a parameter: rows * max(cols, 1). */
static inline int64_t param_count(const param *p) {
    return p->rows * (p->cols ? p->cols : 1);
}
/* f32[rows, cols], vectors [1, rows]: how optimizers see it. Layout is that of the window. */
weft_tensor param_whole(const param *p);
weft_tensor param_layout(const param *p);
/* The first row of param_layout whose state rank `rank` keeps; it ends where the next one
 * begins. */
int64_t param_first_row(const params *ps, const param *p, int rank);
/* Whether this rank has only its own rows of p's fp32 numbers, or of what the model computes
 * with. */
bool param_shares_master(const params *ps, const param *p);
bool param_shares_weight(const params *ps, const param *p);
/* The window of slice `tp` at stage `pp` of the mesh; false: it has none, or one that another rank
 * counts for. */
bool param_counted(const params *ps, const param *p, int tp, int pp, weight_window *out);
/* What training from scratch begins with: gains 1, biases 0, matrices normal with `std` (those that
 * write to the residual stream std / sqrt(2 n_layers), as GPT-2), B of an adapter 0, A uniform as
 * peft. A function of (seed, parameter's index, element). out f32[param_count]; s: the threads that
 * fill it. */
void param_start(const params *p, int index, uint64_t seed, double std, weft_stream *s, float *out);
