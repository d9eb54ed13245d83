/* SPDX-License-Identifier: Apache-2.0
 * model_config: a model described by data. config.json (as transformers 4 and 5 write it) becomes
 * this struct through one row of the family table; one builder of the decoder block reads it. */
#pragma once
#include "host/base/mem.h"
#include "host/run/shard.h"
#include "weft/ops.h"
#include "weft/status.h"
#include <stdbool.h>

typedef enum { NORM_RMS, NORM_LAYER } norm_kind;
typedef enum { POSITION_ROPE, POSITION_LEARNED, POSITION_ALIBI, POSITION_NONE } position_kind;
typedef enum { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN } rope_kind;

typedef struct {
    rope_kind kind;
    double theta, factor;
    double low_freq_factor, high_freq_factor;      /* llama3 */
    double beta_fast, beta_slow, attention_factor; /* yarn; attention_factor 0: derived */
    double mscale, mscale_all_dim;                 /* yarn; 0: absent */
    bool truncate;                                 /* yarn: round the correction range */
    int64_t original_ctx;
    int64_t dims; /* features rotated, even, <= head_dim */
    bool interleaved;
} rope_config;

/* How the matrices of the layers are kept: as the other weights, or as int8 with a number for each
 * row (docs/NUMERICS.md). */
typedef struct {
    bool weights;
    bool activations; /* int8 too, a number for each token, found while it runs */
    bool on_load;     /* the files hold floats */
} quant_config;

enum { CONFIG_MAX_EOS = 8 };

typedef struct weight_map weight_map; /* family.h */

typedef struct {
    const char *family;        /* "llama": the family row's name, static */
    const weight_map *weights; /* names of its tensors, static */
    int64_t vocab, d_model, n_layers, n_heads, n_kv_heads, head_dim, d_ff, max_ctx;
    norm_kind norm;
    double norm_eps;
    double norm_offset; /* added to the gain: 1 for Gemma */
    weft_act act;
    bool gated; /* down(act(gate x) * up x), else down(act(up x)) */
    position_kind position;
    rope_config rope;
    bool tied; /* head = embedding */
    bool qkv_bias, o_bias, mlp_bias, norm_bias, qk_norm;
    double attn_scale;             /* 1 / sqrt(head_dim) unless the config says otherwise */
    bool attn_scale_by_layer;      /* GPT-2: also divided by layer + 1 */
    int64_t window;                /* 0: none */
    const uint8_t *layer_windowed; /* [n_layers] 1: this layer uses the window; NULL: all do */
    quant_config quant;
    int dtype;              /* weft_dtype as stored, from dtype or torch_dtype; -1 if unsaid */
    int32_t bos_id, pad_id; /* -1: none */
    int32_t eos_id[CONFIG_MAX_EOS];
    int n_eos;
    struct { /* generation_config.json; NAN or -1 where unsaid */
        double temperature, top_p, min_p, typical_p, repetition_penalty;
        int64_t top_k;
        int do_sample; /* -1 unsaid, 0, 1 */
    } generation;
} model_config;

/* Reads dir/config.json and dir/generation_config.json (optional). Strings and arrays live in the
 * arena. A hub name ("meta-llama/...") that is no folder gets its own message. Every number is
 * range checked; contradictions (head_dim, heads, windows) are WEFT_BAD_FILE naming the key. A
 * model_type without a family row is WEFT_UNSUPPORTED and the message lists the families. */
weft_status config_read(const char *dir, arena *a, model_config *out);
/* From memory, for tests and fuzzing; generation may be NULL. */
weft_status config_parse(const char *name, const char *text, size_t n, const char *generation,
                         size_t n_generation, arena *a, model_config *out);
shard_dims config_shard_dims(const model_config *c);
int64_t config_parameters(const model_config *c); /* counted from the shapes, tied tensors once */

/* Frequencies of rotary embedding in double: inv[dims / 2]; *mscale multiplies cos and sin.
 * llama3: Meta's frequency bands; yarn: Peng et al., 2023; as transformers' modeling_rope_utils. */
void rope_frequencies(const rope_config *r, int64_t max_ctx, double *inv, double *mscale);
/* The same as float pairs [dims / 2, 2], high part and low part: cos and sin need the frequencies
 * in twice the precision of a float. In the arena. */
float *rope_split_frequencies(const rope_config *r, int64_t max_ctx, arena *a, double *mscale);
