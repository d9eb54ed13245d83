/* SPDX-License-Identifier: Apache-2.0
 * The families. Presets are the defaults of transformers' configuration classes; names are those of
 * the released checkpoints. */
#include "host/model/family.h"
#include <string.h>

#define LAYER(slot, tail) \
    { WEIGHT_##slot, "layers.%d." tail, false, 0, 0 }
static const weight_name llama_names[] = {
    {WEIGHT_EMBED, "embed_tokens.weight", false, 0, 0},
    {WEIGHT_FINAL_NORM, "norm.weight", false, 0, 0},
    {WEIGHT_HEAD, "lm_head.weight", false, 0, 0},
    LAYER(ATTN_NORM, "input_layernorm.weight"),
    LAYER(Q, "self_attn.q_proj.weight"),
    LAYER(Q_SCALE, "self_attn.q_proj.weight_scale"),
    LAYER(Q_BIAS, "self_attn.q_proj.bias"),
    LAYER(K, "self_attn.k_proj.weight"),
    LAYER(K_SCALE, "self_attn.k_proj.weight_scale"),
    LAYER(K_BIAS, "self_attn.k_proj.bias"),
    LAYER(V, "self_attn.v_proj.weight"),
    LAYER(V_SCALE, "self_attn.v_proj.weight_scale"),
    LAYER(V_BIAS, "self_attn.v_proj.bias"),
    LAYER(Q_NORM, "self_attn.q_norm.weight"),
    LAYER(K_NORM, "self_attn.k_norm.weight"),
    LAYER(O, "self_attn.o_proj.weight"),
    LAYER(O_SCALE, "self_attn.o_proj.weight_scale"),
    LAYER(O_BIAS, "self_attn.o_proj.bias"),
    LAYER(FFN_NORM, "post_attention_layernorm.weight"),
    LAYER(GATE, "mlp.gate_proj.weight"),
    LAYER(GATE_SCALE, "mlp.gate_proj.weight_scale"),
    LAYER(GATE_BIAS, "mlp.gate_proj.bias"),
    LAYER(UP, "mlp.up_proj.weight"),
    LAYER(UP_SCALE, "mlp.up_proj.weight_scale"),
    LAYER(UP_BIAS, "mlp.up_proj.bias"),
    LAYER(DOWN, "mlp.down_proj.weight"),
    LAYER(DOWN_SCALE, "mlp.down_proj.weight_scale"),
    LAYER(DOWN_BIAS, "mlp.down_proj.bias"),
};
#undef LAYER

static const weight_map llama_weights = {
    .name = llama_names,
    .n = sizeof llama_names / sizeof *llama_names,
    .prefixes = {"model.", ""},
    .ignored = {"rotary_emb.inv_freq"},
};

/* GPT-2's linear layers are stored [K, N], and Q, K and V in one. */
static const weight_name gpt2_names[] = {
    {WEIGHT_EMBED, "wte.weight", false, 0, 0},
    {WEIGHT_POSITION, "wpe.weight", false, 0, 0},
    {WEIGHT_FINAL_NORM, "ln_f.weight", false, 0, 0},
    {WEIGHT_FINAL_NORM_BIAS, "ln_f.bias", false, 0, 0},
    {WEIGHT_HEAD, "lm_head.weight", false, 0, 0},
    {WEIGHT_ATTN_NORM, "h.%d.ln_1.weight", false, 0, 0},
    {WEIGHT_ATTN_NORM_BIAS, "h.%d.ln_1.bias", false, 0, 0},
    {WEIGHT_Q, "h.%d.attn.c_attn.weight", true, 0, 3},
    {WEIGHT_Q_SCALE, "h.%d.attn.c_attn.weight_scale", false, 0, 3},
    {WEIGHT_Q_BIAS, "h.%d.attn.c_attn.bias", false, 0, 3},
    {WEIGHT_K, "h.%d.attn.c_attn.weight", true, 1, 3},
    {WEIGHT_K_SCALE, "h.%d.attn.c_attn.weight_scale", false, 1, 3},
    {WEIGHT_K_BIAS, "h.%d.attn.c_attn.bias", false, 1, 3},
    {WEIGHT_V, "h.%d.attn.c_attn.weight", true, 2, 3},
    {WEIGHT_V_SCALE, "h.%d.attn.c_attn.weight_scale", false, 2, 3},
    {WEIGHT_V_BIAS, "h.%d.attn.c_attn.bias", false, 2, 3},
    {WEIGHT_O, "h.%d.attn.c_proj.weight", true, 0, 0},
    {WEIGHT_O_SCALE, "h.%d.attn.c_proj.weight_scale", false, 0, 0},
    {WEIGHT_O_BIAS, "h.%d.attn.c_proj.bias", false, 0, 0},
    {WEIGHT_FFN_NORM, "h.%d.ln_2.weight", false, 0, 0},
    {WEIGHT_FFN_NORM_BIAS, "h.%d.ln_2.bias", false, 0, 0},
    {WEIGHT_UP, "h.%d.mlp.c_fc.weight", true, 0, 0},
    {WEIGHT_UP_SCALE, "h.%d.mlp.c_fc.weight_scale", false, 0, 0},
    {WEIGHT_UP_BIAS, "h.%d.mlp.c_fc.bias", false, 0, 0},
    {WEIGHT_DOWN, "h.%d.mlp.c_proj.weight", true, 0, 0},
    {WEIGHT_DOWN_SCALE, "h.%d.mlp.c_proj.weight_scale", false, 0, 0},
    {WEIGHT_DOWN_BIAS, "h.%d.mlp.c_proj.bias", false, 0, 0},
};

static const weight_map gpt2_weights = {
    .name = gpt2_names,
    .n = sizeof gpt2_names / sizeof *gpt2_names,
    .prefixes = {"transformer.", ""},
    .ignored = {".attn.bias", ".attn.masked_bias"},
};

/* What the Llama-like families share. */
#define LLAMA_LIKE \
    .norm = NORM_RMS, .norm_eps = 1e-6, .gated = true, .position = POSITION_ROPE, .d_model = 4096, \
    .n_layers = 32, .n_heads = 32, .dtype = -1, .pad_id = -1

static const family_row rows[] = {
    {"llama",
     FAMILY_LLAMA,
     &llama_weights,
     {.c = {LLAMA_LIKE, .vocab = 32000, .d_ff = 11008, .max_ctx = 2048, .bos_id = 1, .eos_id = {2},
            .n_eos = 1},
      .act = "silu",
      .theta = 10000}},
    {"mistral",
     FAMILY_MISTRAL,
     &llama_weights,
     {.c = {LLAMA_LIKE, .vocab = 32000, .d_ff = 14336, .n_kv_heads = 8, .max_ctx = 131072,
            .window = 4096, .bos_id = 1, .eos_id = {2}, .n_eos = 1},
      .act = "silu",
      .theta = 10000,
      .use_window = true}},
    {"qwen2",
     FAMILY_QWEN2,
     &llama_weights,
     {.c = {LLAMA_LIKE, .vocab = 151936, .d_ff = 22016, .n_kv_heads = 32, .max_ctx = 32768,
            .window = 4096, .bos_id = -1, .qkv_bias = true},
      .act = "silu",
      .theta = 10000,
      .max_window_layers = 28}},
    {"qwen3",
     FAMILY_QWEN3,
     &llama_weights,
     {.c = {LLAMA_LIKE, .vocab = 151936, .d_ff = 22016, .n_kv_heads = 32, .head_dim = 128,
            .max_ctx = 32768, .window = 4096, .bos_id = -1, .qk_norm = true},
      .act = "silu",
      .theta = 10000,
      .max_window_layers = 28}},
    {"gpt2",
     FAMILY_GPT2,
     &gpt2_weights,
     {.c = {.norm = NORM_LAYER,
            .norm_eps = 1e-5,
            .position = POSITION_LEARNED,
            .vocab = 50257,
            .d_model = 768,
            .n_layers = 12,
            .n_heads = 12,
            .max_ctx = 1024,
            .tied = true,
            .qkv_bias = true,
            .o_bias = true,
            .mlp_bias = true,
            .norm_bias = true,
            .dtype = -1,
            .pad_id = -1,
            .bos_id = 50256,
            .eos_id = {50256},
            .n_eos = 1},
      .act = "gelu_new",
      .scale_attention = true}},
};

const family_row *family_find(const char *model_type) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].name, model_type) == 0)
            return &rows[i];
    return NULL;
}

const char *family_list(void) {
    return "llama, mistral, qwen2, qwen3, gpt2";
}
