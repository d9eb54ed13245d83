/* SPDX-License-Identifier: Apache-2.0
 * make_model DIR SHAPE DTYPE: a model of a real shape with random weights, for measuring. The
 * values are normal with standard deviation 0.02 and exact in bf16; every tensor is another window
 * of one random block, so that a billion parameters take seconds. */
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/model/weights.h"
#include "weft/rng.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    const char *name;
    int64_t vocab, d_model, n_layers, n_heads, n_kv_heads, head_dim, d_ff, max_ctx;
    bool tied;
} shape_row;

static const shape_row shapes[] = {
    {"15m", 32000, 288, 6, 6, 6, 48, 768, 1024, true},
    {"110m", 32000, 768, 12, 12, 12, 64, 2048, 1024, true},
    {"1b", 128256, 2048, 16, 32, 8, 64, 8192, 131072, true},   /* Llama-3.2-1B */
    {"1b-layer", 512, 2048, 1, 32, 8, 64, 8192, 131072, true}, /* one of its, for an emulator */
    {"3b", 128256, 3072, 28, 24, 8, 128, 8192, 131072, true},
    {"8b", 128256, 4096, 32, 32, 8, 128, 14336, 131072, false},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static const shape_row *find_shape(const char *name) {
    for (int i = 0; i < SHAPES; i++)
        if (strcmp(name, shapes[i].name) == 0)
            return &shapes[i];
    return NULL;
}

static float normal(uint64_t i) {
    weft_philox r = weft_philox4x32(1, 0, i);
    float u = weft_philox_uniform(r.v[0]) + 2.98e-8f, v = weft_philox_uniform(r.v[1]);
    return 0.02f * sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * v);
}

/* A block of random elements, repeated to the size asked for with a period that is no power of
 * 2. */
static void *random_block(int dtype, uint64_t elements) {
    enum { PERIOD = 1000003 };
    uint64_t size = (uint64_t)weft_dtype_bytes(dtype, 1),
             have = elements < PERIOD ? elements : PERIOD;
    char *block = mem_alloc(elements * size);
    for (uint64_t i = 0; i < have; i++) {
        uint16_t h = weft_f32_to_bf16(normal(i));
        float x = weft_bf16_to_f32(h);
        if (dtype == WEFT_F16)
            h = weft_f32_to_f16(x);
        memcpy(block + i * size, dtype == WEFT_F32 ? (void *)&x : (void *)&h, size);
    }
    for (uint64_t n = have; n < elements; n *= 2)
        memcpy(block + n * size, block, (n * 2 < elements ? n : elements - n) * size);
    return block;
}

static weft_status write_config(const char *dir, const shape_row *s, const char *dtype, arena *a) {
    char *text = arena_printf(
        a,
        "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\",\n"
        "  \"hidden_size\": %lld,\n  \"intermediate_size\": %lld,\n  \"num_hidden_layers\": %lld,\n"
        "  \"num_attention_heads\": %lld,\n  \"num_key_value_heads\": %lld,\n  \"head_dim\": "
        "%lld,\n"
        "  \"vocab_size\": %lld,\n  \"max_position_embeddings\": %lld,\n  \"rms_norm_eps\": "
        "1e-05,\n"
        "  \"rope_theta\": 500000.0,\n  \"hidden_act\": \"silu\",\n  \"tie_word_embeddings\": %s,\n"
        "  \"bos_token_id\": 1,\n  \"eos_token_id\": 2,\n  \"torch_dtype\": \"%s\"\n}\n",
        (long long)s->d_model, (long long)s->d_ff, (long long)s->n_layers, (long long)s->n_heads,
        (long long)s->n_kv_heads, (long long)s->head_dim, (long long)s->vocab,
        (long long)s->max_ctx, s->tied ? "true" : "false", dtype);
    return file_write_atomic(file_join(a, dir, "config.json"), text, strlen(text));
}

typedef struct {
    st_tensor *tensor;
    int n;
    int dtype;
    const char *block;
    arena *mem;
} listing;

static void add_tensor(listing *l, const char *name, int64_t rows, int64_t cols) {
    st_tensor *t = &l->tensor[l->n];
    *t = (st_tensor){.name = name, .dtype = l->dtype, .ndim = cols ? 2 : 1, .shape = {rows, cols}};
    t->bytes = (uint64_t)weft_dtype_bytes(l->dtype, rows * (cols ? cols : 1));
    t->data = l->block + (uint64_t)weft_dtype_bytes(l->dtype, l->n % 1024); /* its own window */
    l->n++;
}

static void add_layer(listing *l, const shape_row *s, int64_t layer) {
    const struct {
        const char *name;
        int64_t rows, cols;
    } rows[] = {{"input_layernorm", s->d_model, 0},
                {"self_attn.q_proj", s->n_heads * s->head_dim, s->d_model},
                {"self_attn.k_proj", s->n_kv_heads * s->head_dim, s->d_model},
                {"self_attn.v_proj", s->n_kv_heads * s->head_dim, s->d_model},
                {"self_attn.o_proj", s->d_model, s->n_heads * s->head_dim},
                {"post_attention_layernorm", s->d_model, 0},
                {"mlp.gate_proj", s->d_ff, s->d_model},
                {"mlp.up_proj", s->d_ff, s->d_model},
                {"mlp.down_proj", s->d_model, s->d_ff}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        add_tensor(
            l, arena_printf(l->mem, "model.layers.%lld.%s.weight", (long long)layer, rows[i].name),
            rows[i].rows, rows[i].cols);
}

static weft_status make_model(const char *dir, const shape_row *s, int dtype) {
    arena mem = {0};
    static const char *const torch_names[] = {"float32", "float16", "bfloat16"};
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return weft_fail(WEFT_IO, "%s: %s", dir, strerror(errno));
    WEFT_TRY(write_config(dir, s, torch_names[dtype], &mem));
    int64_t rows = s->vocab > s->d_ff ? s->vocab : s->d_ff; /* of the largest tensor */
    void *block = random_block(dtype, (uint64_t)(rows * s->d_model) + 1024);
    listing l = {.dtype = dtype, .block = block, .mem = &mem};
    l.tensor = ARENA_NEW(&mem, st_tensor, 3 + 9 * s->n_layers);
    add_tensor(&l, "model.embed_tokens.weight", s->vocab, s->d_model);
    for (int64_t i = 0; i < s->n_layers; i++)
        add_layer(&l, s, i);
    add_tensor(&l, "model.norm.weight", s->d_model, 0);
    if (!s->tied)
        add_tensor(&l, "lm_head.weight", s->vocab, s->d_model);
    weft_status status = safetensors_write(file_join(&mem, dir, "model.safetensors"), l.tensor,
                                           l.n);
    mem_free(block);
    arena_fini(&mem);
    return status;
}

int main(int argc, char **argv) {
    const shape_row *s = argc == 4 ? find_shape(argv[2]) : NULL;
    int dtype = -1;
    for (int d = WEFT_F32; argc == 4 && d <= WEFT_BF16; d++)
        if (strcmp(argv[3], weft_dtype_name(d)) == 0)
            dtype = d;
    if (!s || dtype < 0) {
        fprintf(stderr, "usage: make_model DIR 15m|110m|1b|1b-layer|3b|8b fp32|fp16|bf16\n");
        return 2;
    }
    weft_status status = make_model(argv[1], s, dtype);
    if (status != WEFT_OK)
        fprintf(stderr, "make_model: error: %s\n", err_message());
    return err_exit_code(status);
}
