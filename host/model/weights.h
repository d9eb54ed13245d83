/* SPDX-License-Identifier: Apache-2.0
 * weights: the tensors of a model under weft's own names (slots), resolved through the family's
 * map, checked against the config's shapes, sliced for one rank. A slice that a kernel can read
 * where it lies in the mapped file is a view; everything else is converted into one block of device
 * memory. Matrices of the layers may be int8 (config's quant), each with a slot for its rows'
 * scales, which follow the matrix's rows when it is cut. */
#pragma once
#include "host/model/config.h"
#include "host/model/safetensors.h"
#include "host/run/device.h"

/* X(slot, rows, columns (0: a vector of `rows`), shard, condition on the config c) */
#define WEIGHT_MODEL_SLOTS(X) \
    X(EMBED, c->vocab, c->d_model, SHARD_VOCAB, true) \
    X(POSITION, c->max_ctx, c->d_model, SHARD_WHOLE, c->position == POSITION_LEARNED) \
    X(FINAL_NORM, c->d_model, 0, SHARD_WHOLE, true) \
    X(FINAL_NORM_BIAS, c->d_model, 0, SHARD_WHOLE, c->norm_bias) \
    X(HEAD, c->vocab, c->d_model, SHARD_VOCAB, !c->tied)
#define WEIGHT_LAYER_SLOTS(X) \
    X(ATTN_NORM, c->d_model, 0, SHARD_WHOLE, true) \
    X(ATTN_NORM_BIAS, c->d_model, 0, SHARD_WHOLE, c->norm_bias) \
    X(Q, c->n_heads * c->head_dim, c->d_model, SHARD_Q, true) \
    X(Q_BIAS, c->n_heads * c->head_dim, 0, SHARD_Q, c->qkv_bias) \
    X(K, c->n_kv_heads * c->head_dim, c->d_model, SHARD_KV, true) \
    X(K_BIAS, c->n_kv_heads * c->head_dim, 0, SHARD_KV, c->qkv_bias) \
    X(V, c->n_kv_heads * c->head_dim, c->d_model, SHARD_KV, true) \
    X(V_BIAS, c->n_kv_heads * c->head_dim, 0, SHARD_KV, c->qkv_bias) \
    X(Q_NORM, c->head_dim, 0, SHARD_WHOLE, c->qk_norm) \
    X(K_NORM, c->head_dim, 0, SHARD_WHOLE, c->qk_norm) \
    X(O, c->d_model, c->n_heads * c->head_dim, SHARD_O_COLS, true) \
    X(O_BIAS, c->d_model, 0, SHARD_WHOLE, c->o_bias) \
    X(FFN_NORM, c->d_model, 0, SHARD_WHOLE, true) \
    X(FFN_NORM_BIAS, c->d_model, 0, SHARD_WHOLE, c->norm_bias) \
    X(GATE, c->d_ff, c->d_model, SHARD_FF, c->gated) \
    X(GATE_BIAS, c->d_ff, 0, SHARD_FF, c->gated && c->mlp_bias) \
    X(UP, c->d_ff, c->d_model, SHARD_FF, true) \
    X(UP_BIAS, c->d_ff, 0, SHARD_FF, c->mlp_bias) \
    X(DOWN, c->d_model, c->d_ff, SHARD_FF_COLS, true) \
    X(DOWN_BIAS, c->d_model, 0, SHARD_WHOLE, c->mlp_bias) \
    X(Q_SCALE, c->n_heads * c->head_dim, 0, SHARD_Q, c->quant.weights) \
    X(K_SCALE, c->n_kv_heads * c->head_dim, 0, SHARD_KV, c->quant.weights) \
    X(V_SCALE, c->n_kv_heads * c->head_dim, 0, SHARD_KV, c->quant.weights) \
    X(O_SCALE, c->d_model, 0, SHARD_WHOLE, c->quant.weights) \
    X(GATE_SCALE, c->d_ff, 0, SHARD_FF, c->gated && c->quant.weights) \
    X(UP_SCALE, c->d_ff, 0, SHARD_FF, c->quant.weights) \
    X(DOWN_SCALE, c->d_model, 0, SHARD_WHOLE, c->quant.weights)

#define WEIGHT_ENUM_(slot, rows, cols, shard, when) WEIGHT_##slot,
typedef enum {
    WEIGHT_MODEL_SLOTS(WEIGHT_ENUM_) WEIGHT_LAYER_SLOTS(WEIGHT_ENUM_) WEIGHT_SLOTS
} weight_slot;

/* Where a family keeps a slot. name has one %d for the layer (layer slots). transposed: stored [K,
 * N]. part of parts: this slot is rows [part/parts, (part+1)/parts) of a fused tensor (GPT-2's
 * c_attn). */
typedef struct {
    int slot;
    const char *name;
    bool transposed;
    int part, parts; /* parts 0 or 1: the whole tensor */
} weight_name;

struct weight_map {
    const weight_name *name;
    int n;
    const char *prefixes[4]; /* tried in front of every name: "", "model.", "transformer." */
    const char *ignored[8];  /* name suffixes that may be present and are not used (buffers) */
};

typedef struct {
    const model_config *config;
    shard_part part;     /* what of the model it holds */
    int dtype;           /* of what is not int8 or its scales (fp32) */
    weft_tensor *tensor; /* [n_layers + 1][WEIGHT_SLOTS]; row n_layers: model slots. ndim 0: absent.
                            id and space are left to the plan; data is a device address */
    uint64_t bytes;      /* of this rank's slices: what the plan shows */
    uint64_t count;      /* numbers in them; scales count for nothing */
    uint64_t owned;      /* of which converted or copied into `block`: its exact size */
    void *block;
    const char *unused; /* name of a tensor of the files that nothing asked for; NULL: none */
    int n_unused;
    device *dev;
    arena mem;
} weights;

/* The part of a slot's [rows, cols], or of a vector's rows (cols 1), that a rank computes with. */
typedef struct {
    int64_t row, rows, col, cols;
} weight_window;
/* Of a slot as the config has it; false: the rank's stage has no use for it. The part's keepers are
 * not asked. */
bool weights_window(const model_config *c, const shard_part *part, int slot, int layer,
                    weight_window *out);

/* Where `pp` stages of layers begin, first[pp + 1], by what a token reads of the weights: of each
 * layer, the embedding's row and the head (shard_stages). In the arena. */
weft_status weights_stages(const model_config *c, int pp, arena *a, int64_t **first);

/* part NULL: all of it. Tensors of other ranks stay absent (ndim 0). Where rows are dealt out to
 * keepers, each has room for as many as the first one. Shapes and sizes only: the tensors have NULL
 * data, nothing is read. For plans. */
weft_status weights_describe(const model_config *c, int dtype, const shard_part *part,
                             weights *out);
/* dtype: the engine's. Of other ranks' tensors only the shapes are checked. no_mmap copies
 * everything. Missing and misshapen tensors are WEFT_BAD_FILE naming file and tensor; a tensor
 * nothing asks for is only counted in `unused`. st stays open as long as the weights. */
weft_status weights_open(const model_config *c, const safetensors *st, device *dev, int dtype,
                         const shard_part *part, bool no_mmap, weights *out);
/* Device memory for every tensor of weights_describe, contents unspecified: what training
 * writes. */
weft_status weights_blank(const model_config *c, device *dev, int dtype, const shard_part *part,
                          weights *out);
uint64_t weights_blank_bytes(const weights *w); /* what weights_blank takes for such */
void weights_close(weights *w);
/* layer -1 for model slots. A tied head is the embedding. */
weft_tensor weights_get(const weights *w, int slot, int layer);
const char *weights_slot_name(int slot);
/* The slot of a matrix's scales, -1 where the slot is never int8. */
int weights_scale_slot(int slot);
/* What each of st's tensors is to a quantiser, kind[ntensor], once every tensor that the config
 * asks for is there in its shape. TRANSPOSED: a matrix of a layer stored [K, N]. */
enum { WEIGHTS_OTHER, WEIGHTS_MATRIX, WEIGHTS_TRANSPOSED };
weft_status weights_matrices(const model_config *c, const safetensors *st, uint8_t *kind);
/* "auto" or a name -> weft_dtype: what --dtype means for this model. auto is the type most bytes
 * of st are stored in; without st (NULL) what the config says, else fp32. */
weft_status weights_dtype(const model_config *c, const safetensors *st, const char *name, int *out);

/* prefix and format with the layer in place of its %d, if it has one. */
enum { WEIGHT_NAME_BYTES = 160 };
void weights_spell(char out[WEIGHT_NAME_BYTES], const char *prefix, const char *format,
                   int64_t layer);

/* One tensor of a model's files: a slot, or `parts` slots one after the other along their rows. */
typedef struct {
    const char *name;
    int slot[3], layer, parts; /* layer -1: the model's own */
    bool transposed;           /* stored [cols, rows of all parts] */
    int ndim;
    int64_t shape[2]; /* as stored */
} weight_stored;
/* Every tensor the config asks for, scales of int8 apart, in the order of layers: under the names
 * that st has them by, or, st NULL, those of transformers. In the arena; returns how many. */
int weights_stored(const model_config *c, const safetensors *st, arena *a, weight_stored **out);
/* Between the stored layout and a slot's own [rows, cols], elements of `size` bytes: part `part`
 * of `stored` gets slot's numbers, or gives them. */
void weights_store_part(const weight_stored *t, int part, int size, const void *slot, void *stored);
void weights_load_part(const weight_stored *t, int part, int size, void *slot, const void *stored);
