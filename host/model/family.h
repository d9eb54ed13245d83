/* SPDX-License-Identifier: Apache-2.0
 * family: a row per model_type. It holds what transformers assumes where config.json is silent,
 * which keys mean something to it, and where its checkpoints keep each weight. A new family is a
 * row. */
#pragma once
#include "host/model/config.h"
#include "host/model/quant.h"
#include "host/model/rope.h"
#include "host/model/weights.h"

/* config.json while it is being read: the model and what only helps to complete it. A number that a
 * row leaves at 0 is derived: n_kv_heads from n_heads, head_dim and d_ff from d_model. */
typedef struct {
    model_config c;
    bool attention_bias; /* on q, k, v and output */
    bool use_window, scale_attention, cross_attention;
    int64_t max_window_layers; /* layers from this one on use the window, unless layer_types says */
    rope_spec scaling, parameters;
    double theta, partial;
    int64_t original_ctx;
    const char *act, *dtype, *architecture;
    quant_draft quant;
    uint8_t *layer_type; /* 1: windowed */
    int64_t n_layer_type;
    bool bos_given, eos_given;
} config_draft;

/* Which families a key of config.json means something to. */
enum { FAMILY_LLAMA = 1, FAMILY_MISTRAL = 2, FAMILY_QWEN2 = 4, FAMILY_QWEN3 = 8, FAMILY_GPT2 = 16 };

typedef struct {
    const char *name; /* model_type */
    unsigned bit;
    const weight_map *weights;
    config_draft preset;
} family_row;

const family_row *family_find(const char *model_type); /* NULL: unknown */
const char *family_list(void);                         /* "llama, mistral, ..." */
