/* SPDX-License-Identifier: Apache-2.0
 * Weights of small models whose every element is known: views and copies, every storage type,
 * slices of every rank put together again, GPT-2's transposed and fused tensors, and exact byte
 * counts. */
#include "host/model/weights.h"
#include "tests/unit/st_file.h"

/* ---- A device that counts, and need not share memory ---- */

static weft_status device_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    (void)what;
    assert_true(bytes > 0);
    d->allocated += bytes;
    *out = malloc(bytes ? bytes : 1);
    memset(*out, 0xff, bytes);
    return WEFT_OK;
}

static void device_release(device *d, void *p, uint64_t bytes) {
    d->allocated -= bytes;
    free(p);
}

static int copies;

static weft_status device_copy(device *d, weft_stream *s, void *dst, const void *src, uint64_t n,
                               device_copy_kind kind) {
    (void)d;
    (void)s;
    assert_int_equal(kind, DEVICE_TO);
    memcpy(dst, src, n);
    copies++;
    return WEFT_OK;
}

static weft_status device_host_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    (void)d, (void)what;
    *out = malloc(bytes);
    return WEFT_OK;
}

static void device_host_release(device *d, void *p) {
    (void)d;
    free(p);
}

typedef struct {
    weft_stream head;
    void *dst; /* NULL: nothing is under way */
    const void *src;
    uint64_t bytes;
} late_stream;

static weft_status late_open(device *d, int threads, weft_stream **out) {
    (void)d, (void)threads;
    late_stream *s = calloc(1, sizeof *s);
    *out = &s->head;
    return WEFT_OK;
}

static weft_status late_sync(device *d, weft_stream *stream) {
    late_stream *s = (late_stream *)stream;
    (void)d;
    if (s->dst)
        memcpy(s->dst, s->src, s->bytes);
    s->dst = NULL;
    return WEFT_OK;
}

static void late_close(device *d, weft_stream *stream) {
    (void)d;
    assert_null(((late_stream *)stream)->dst);
    free(stream);
}

/* Copies as late as a GPU may, from whatever the buffer holds by then. */
static weft_status late_copy(device *d, weft_stream *stream, void *dst, const void *src, uint64_t n,
                             device_copy_kind kind) {
    late_stream *s = (late_stream *)stream;
    if (!s)
        return device_copy(d, NULL, dst, src, n, kind);
    assert_null(s->dst);
    s->dst = dst;
    s->src = src;
    s->bytes = n;
    copies++;
    return WEFT_OK;
}

static device make_device(bool host_memory) {
    return (device){.backend = "ref",
                    .host_memory = host_memory,
                    .alloc = device_alloc,
                    .release = device_release,
                    .copy = late_copy,
                    .host_alloc = device_host_alloc,
                    .host_release = device_host_release,
                    .stream_open = late_open,
                    .stream_close = late_close,
                    .sync = late_sync};
}

/* ---- A llama of 4 heads, 2 kv heads, 2 layers; its values count up ---- */

#define SMALL \
    "\"vocab_size\":10,\"hidden_size\":8,\"intermediate_size\":64,\"num_hidden_layers\":2," \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16," \
    "\"eos_token_id\":2"

static const struct {
    int slot;
    const char *name;
    int64_t rows, cols;
} model_names[] = {{WEIGHT_EMBED, "model.embed_tokens.weight", 10, 8},
                   {WEIGHT_FINAL_NORM, "model.norm.weight", 8, 0},
                   {WEIGHT_HEAD, "lm_head.weight", 10, 8}},
  layer_names[] = {{WEIGHT_ATTN_NORM, "input_layernorm.weight", 8, 0},
                   {WEIGHT_Q, "self_attn.q_proj.weight", 64, 8},
                   {WEIGHT_K, "self_attn.k_proj.weight", 32, 8},
                   {WEIGHT_V, "self_attn.v_proj.weight", 32, 8},
                   {WEIGHT_O, "self_attn.o_proj.weight", 8, 64},
                   {WEIGHT_FFN_NORM, "post_attention_layernorm.weight", 8, 0},
                   {WEIGHT_GATE, "mlp.gate_proj.weight", 64, 8},
                   {WEIGHT_UP, "mlp.up_proj.weight", 64, 8},
                   {WEIGHT_DOWN, "mlp.down_proj.weight", 8, 64}};
enum { MODEL_NAMES = 3, LAYER_NAMES = 9 };

typedef struct {
    arena mem;
    model_config c;
    buf image;
    safetensors st;
    float first[3][WEIGHT_SLOTS]; /* value of element 0; [2]: model slots */
} model;

static void open_model(model *m, const char *config, st_builder *b, int pad) {
    m->mem = (arena){0};
    m->image = st_end(b, pad);
    if (config_parse("config.json", config, strlen(config), NULL, 0, &m->mem, &m->c) != WEFT_OK ||
        safetensors_open_memory("m", m->image.data, m->image.len, &m->st) != WEFT_OK)
        fail_msg("%s", err_message());
}

static void close_model(model *m) {
    safetensors_close(&m->st);
    buf_fini(&m->image);
    arena_fini(&m->mem);
}

static st_builder llama_builder(model *m, int dtype) {
    char name[128];
    st_builder b = st_begin(dtype);
    for (int i = 0; i < MODEL_NAMES; i++)
        m->first[2][model_names[i].slot] = st_add(&b, model_names[i].name, model_names[i].rows,
                                                  model_names[i].cols);
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < LAYER_NAMES; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s", l, layer_names[i].name);
            m->first[l][layer_names[i].slot] = st_add(&b, name, layer_names[i].rows,
                                                      layer_names[i].cols);
        }
    return b;
}

static void open_llama(model *m, int dtype, int pad) {
    st_builder b = llama_builder(m, dtype);
    open_model(m, "{\"model_type\":\"llama\"," SMALL "}", &b, pad);
}

static float value_at(float first, int64_t k) {
    return (float)(((int64_t)first - 1 + k) % 255 + 1);
}

static float element(const weft_tensor *t, int64_t i, int64_t j) {
    int64_t k = t->ndim == 1 ? i * t->stride[0] : i * t->stride[0] + j * t->stride[1];
    const char *p = (const char *)t->data + weft_dtype_bytes(t->dtype, k);
    float x;
    uint16_t h;
    if (t->dtype == WEFT_F32) {
        memcpy(&x, p, 4);
        return x;
    }
    memcpy(&h, p, 2);
    return t->dtype == WEFT_BF16 ? weft_bf16_to_f32(h) : weft_f16_to_f32(h);
}

/* t holds rows from row0 and columns from col0 of a matrix that counts up from `first`. */
static void expect_counting(const weft_tensor *t, float first, int64_t row0, int64_t col0,
                            int64_t cols) {
    for (int64_t i = 0; i < t->shape[0]; i++)
        for (int64_t j = 0; j < (t->ndim == 1 ? 1 : t->shape[1]); j++) {
            float want = value_at(first, (row0 + i) * (cols ? cols : 1) + col0 + j);
            if (element(t, i, j) != want)
                fail_msg("[%d,%d]: %g, expected %g", (int)i, (int)j, element(t, i, j), want);
        }
}

static void expect_slice(const model *m, const weights *w, int slot, int layer, int64_t rows,
                         int64_t cols, shard_kind kind) {
    shard_dims d = config_shard_dims(&m->c);
    shard_slice s = shard_of(&d, kind, w->part.tp, w->part.slice);
    weft_tensor t = weights_get(w, slot, layer);
    assert_int_equal(t.ndim, cols ? 2 : 1);
    assert_int_equal(t.shape[0], s.axis == 0 ? s.end - s.begin : rows);
    assert_int_equal(t.shape[1], s.axis == 1 ? s.end - s.begin : cols ? cols : 1);
    expect_counting(&t, m->first[layer < 0 ? 2 : layer][slot], s.axis == 0 ? s.begin : 0,
                    s.axis == 1 ? s.begin : 0, cols);
}

/* A slice of all layers. */
#define SLICE(tp_, rank_, n_) (&(shard_part){.tp = tp_, .slice = rank_, .last = n_, .layers = n_})
#define PART(tp_, rank_) SLICE(tp_, rank_, 2)

static void expect_llama(const model *m, const weights *w) {
    static const shard_kind kinds[] = {SHARD_WHOLE, SHARD_Q,  SHARD_KV, SHARD_KV,     SHARD_O_COLS,
                                       SHARD_WHOLE, SHARD_FF, SHARD_FF, SHARD_FF_COLS};
    for (int i = 0; i < MODEL_NAMES; i++)
        expect_slice(m, w, model_names[i].slot, -1, model_names[i].rows, model_names[i].cols,
                     i == 1 ? SHARD_WHOLE : SHARD_VOCAB);
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < LAYER_NAMES; i++)
            expect_slice(m, w, layer_names[i].slot, l, layer_names[i].rows, layer_names[i].cols,
                         kinds[i]);
    assert_int_equal(weights_get(w, WEIGHT_Q_BIAS, 0).ndim, 0);
    assert_int_equal(weights_get(w, WEIGHT_POSITION, -1).ndim, 0);
}

static uint64_t described_bytes(const model *m, int dtype, int tp, int rank) {
    weights w;
    assert_int_equal(weights_describe(&m->c, dtype, PART(tp, rank), &w), WEFT_OK);
    uint64_t bytes = w.bytes, sum = 0;
    for (int64_t i = 0; i < 3 * WEIGHT_SLOTS; i++)
        if (w.tensor[i].ndim) {
            assert_null(w.tensor[i].data);
            sum += (uint64_t)weft_dtype_bytes(dtype, weft_tensor_count(&w.tensor[i]));
        }
    assert_int_equal(sum, bytes);
    weights_close(&w);
    return bytes;
}

/* Opens one rank, checks every element and every count, closes. Returns the bytes copied. */
static uint64_t check_rank(const model *m, device *dev, int dtype, int tp, int rank, bool no_mmap) {
    weights w;
    if (weights_open(&m->c, &m->st, dev, dtype, PART(tp, rank), no_mmap, &w) != WEFT_OK)
        fail_msg("%s", err_message());
    expect_llama(m, &w);
    assert_int_equal(w.bytes, described_bytes(m, dtype, tp, rank));
    assert_int_equal(dev->allocated, w.owned);
    assert_int_equal(w.n_unused, 0);
    uint64_t owned = w.owned;
    assert_true(owned <= w.bytes);
    weights_close(&w);
    assert_int_equal(dev->allocated, 0);
    return owned;
}

CASE(views_where_the_file_will_do) {
    model m;
    device dev = make_device(true);
    open_llama(&m, WEFT_BF16, 0);
    assert_int_equal(check_rank(&m, &dev, WEFT_BF16, 1, 0, false), 0);
    assert_int_equal(check_rank(&m, &dev, WEFT_BF16, 1, 0, true),
                     described_bytes(&m, WEFT_BF16, 1, 0));
    close_model(&m);
}

CASE(every_type_into_every_type) {
    static const int types[] = {WEFT_F32, WEFT_F16, WEFT_BF16};
    device dev = make_device(true);
    for (int i = 0; i < 3; i++) {
        model m;
        open_llama(&m, types[i], 0);
        for (int k = 0; k < 3; k++)
            assert_int_equal(check_rank(&m, &dev, types[k], 1, 0, false) == 0, i == k);
        close_model(&m);
    }
}

CASE(each_rank_has_its_slices) {
    model m;
    device near = make_device(true), far = make_device(false);
    open_llama(&m, WEFT_BF16, 0);
    for (int tp = 1; tp <= 4; tp *= 2) {
        uint64_t vocab_rows = 0;
        for (int r = 0; r < tp; r++) {
            check_rank(&m, &near, WEFT_BF16, tp, r, false);
            check_rank(&m, &near, WEFT_F32, tp, r, true);
            copies = 0;
            assert_int_equal(check_rank(&m, &far, WEFT_BF16, tp, r, false),
                             described_bytes(&m, WEFT_BF16, tp, r));
            assert_true(copies > 0);
            weights w;
            assert_int_equal(weights_describe(&m.c, WEFT_F32, PART(tp, r), &w), WEFT_OK);
            vocab_rows += (uint64_t)weights_get(&w, WEIGHT_EMBED, -1).shape[0];
            weights_close(&w);
        }
        assert_int_equal(vocab_rows, 10);
    }
    weights w;
    assert_int_equal(weights_open(&m.c, &m.st, &near, WEFT_F32, PART(3, 0), false, &w), WEFT_USAGE);
    assert_int_equal(weights_describe(&m.c, WEFT_F32, PART(8, 0), &w), WEFT_USAGE);
    close_model(&m);
}

/* Two stages hold every tensor once between them, the tied embedding in both. */
CASE(each_stage_has_its_layers) {
    model m;
    device near = make_device(true);
    open_llama(&m, WEFT_F32, 0);
    uint64_t whole = described_bytes(&m, WEFT_F32, 1, 0), sum = 0;
    for (int stage = 0; stage < 2; stage++) {
        weights w;
        shard_part p = {.tp = 1, .first = stage, .last = stage + 1, .layers = 2};
        assert_int_equal(weights_open(&m.c, &m.st, &near, WEFT_F32, &p, false, &w), WEFT_OK);
        assert_int_equal(w.n_unused, 0);
        for (int layer = 0; layer < 2; layer++)
            assert_int_equal(weights_get(&w, WEIGHT_Q, layer).ndim, layer == stage ? 2 : 0);
        assert_int_equal(weights_get(&w, WEIGHT_EMBED, -1).ndim, stage == 0 || m.c.tied ? 2 : 0);
        assert_int_equal(weights_get(&w, WEIGHT_HEAD, -1).ndim, stage == 1 || m.c.tied ? 2 : 0);
        assert_int_equal(weights_get(&w, WEIGHT_FINAL_NORM, -1).ndim, stage == 1);
        sum += w.bytes;
        weights_close(&w);
    }
    uint64_t twice = m.c.tied ? (uint64_t)(m.c.vocab * m.c.d_model * 4) : 0;
    assert_int_equal(sum, whole + twice);
    close_model(&m);
}

CASE(misaligned_data_is_copied) {
    for (int pad = 1; pad < 4; pad++) {
        model m;
        device dev = make_device(true);
        open_llama(&m, WEFT_F32, pad);
        assert_true(check_rank(&m, &dev, WEFT_F32, 1, 0, false) > 0);
        close_model(&m);
    }
}

/* Puts `to` over the first `from` of the same length. */
static void overwrite(buf *b, const char *from, const char *to) {
    char *at = strstr(b->data, from);
    assert_non_null(at);
    assert_int_equal(strlen(from), strlen(to));
    for (size_t i = 0; to[i]; i++)
        at[i] = to[i];
}

/* ---- Tied matrices ---- */

CASE(tied_under_either_name) {
    static const char *const names[] = {"model.embed_tokens.weight", "lm_head.weight",
                                        "embed_tokens.weight"};
    for (int i = 0; i < 3; i++) {
        model m;
        device dev = make_device(true);
        weights w;
        st_builder b = llama_builder(&m, WEFT_F32);
        /* rename in place: the first two matrices are embedding and head */
        overwrite(&b.header, "model.embed_tokens", "other.matrix_a____");
        overwrite(&b.header, "lm_head.weight", "other.matrix_b");
        float first = st_add(&b, names[i], 10, 8);
        open_model(&m, "{\"model_type\":\"llama\",\"tie_word_embeddings\":true," SMALL "}", &b, 0);
        assert_int_equal(weights_open(&m.c, &m.st, &dev, WEFT_F32, PART(2, 1), false, &w), WEFT_OK);
        weft_tensor e = weights_get(&w, WEIGHT_EMBED, -1), h = weights_get(&w, WEIGHT_HEAD, -1);
        assert_ptr_equal(e.data, h.data);
        expect_counting(&h, first, 5, 0, 8);
        assert_int_equal(w.n_unused, 2);
        assert_string_equal(w.unused, "other.matrix_a____.weight");
        weights_close(&w);
        close_model(&m);
    }
}

CASE(a_tied_model_may_store_its_head_too) {
    model m;
    device dev = make_device(true);
    weights w;
    st_builder b = llama_builder(&m, WEFT_F32);
    open_model(&m, "{\"model_type\":\"llama\",\"tie_word_embeddings\":true," SMALL "}", &b, 0);
    assert_int_equal(weights_open(&m.c, &m.st, &dev, WEFT_F32, NULL, false, &w), WEFT_OK);
    weft_tensor h = weights_get(&w, WEIGHT_HEAD, -1);
    expect_counting(&h, m.first[2][WEIGHT_EMBED], 0, 0, 8);
    assert_int_equal(w.n_unused, 0);
    weights_close(&w);
    close_model(&m);
}

/* ---- GPT-2 ---- */

/* Stored [K, N]: element (n, k) of the slot is at k * columns + part * rows + n. */
static void expect_transposed(const weft_tensor *t, float first, int64_t columns, int64_t n0,
                              int64_t k0) {
    for (int64_t n = 0; n < t->shape[0]; n++)
        for (int64_t k = 0; k < t->shape[1]; k++)
            if (element(t, n, k) != value_at(first, (k0 + k) * columns + n0 + n))
                fail_msg("[%d,%d]", (int)n, (int)k);
}

static void open_gpt2(model *m, int dtype, float first[8]) {
    st_builder b = st_begin(dtype);
    st_add(&b, "transformer.wte.weight", 9, 64);
    first[0] = st_add(&b, "transformer.wpe.weight", 7, 64);
    st_add(&b, "transformer.ln_f.weight", 64, 0);
    st_add(&b, "transformer.ln_f.bias", 64, 0);
    st_add(&b, "transformer.h.0.ln_1.weight", 64, 0);
    st_add(&b, "transformer.h.0.ln_1.bias", 64, 0);
    first[1] = st_add(&b, "transformer.h.0.attn.c_attn.weight", 64, 192);
    first[2] = st_add(&b, "transformer.h.0.attn.c_attn.bias", 192, 0);
    first[3] = st_add(&b, "transformer.h.0.attn.c_proj.weight", 64, 64);
    st_add(&b, "transformer.h.0.attn.c_proj.bias", 64, 0);
    st_add(&b, "transformer.h.0.attn.bias", 7, 7); /* a buffer of old checkpoints */
    st_add(&b, "transformer.h.0.ln_2.weight", 64, 0);
    st_add(&b, "transformer.h.0.ln_2.bias", 64, 0);
    first[4] = st_add(&b, "transformer.h.0.mlp.c_fc.weight", 64, 272);
    first[5] = st_add(&b, "transformer.h.0.mlp.c_fc.bias", 272, 0);
    first[6] = st_add(&b, "transformer.h.0.mlp.c_proj.weight", 272, 64);
    st_add(&b, "transformer.h.0.mlp.c_proj.bias", 64, 0);
    open_model(m,
               "{\"model_type\":\"gpt2\",\"vocab_size\":9,\"n_embd\":64,\"n_head\":4,\"n_layer\":1,"
               "\"n_positions\":7,\"n_inner\":272,\"bos_token_id\":0,\"eos_token_id\":0}",
               &b, 0);
}

static void expect_gpt2(const weights *w, const float first[8]) {
    int64_t cols = 64 / w->part.tp, ff = 272 / w->part.tp;
    for (int part = 0; part < 3; part++) {
        weft_tensor m = weights_get(w, WEIGHT_Q + 2 * part, 0);
        weft_tensor b = weights_get(w, WEIGHT_Q_BIAS + 2 * part, 0);
        assert_int_equal(m.shape[0], cols);
        expect_transposed(&m, first[1], 192, 64 * part + cols * w->part.slice, 0);
        expect_counting(&b, first[2], 64 * part + cols * w->part.slice, 0, 0);
    }
    weft_tensor o = weights_get(w, WEIGHT_O, 0), up = weights_get(w, WEIGHT_UP, 0);
    weft_tensor up_bias = weights_get(w, WEIGHT_UP_BIAS, 0), down = weights_get(w, WEIGHT_DOWN, 0);
    weft_tensor position = weights_get(w, WEIGHT_POSITION, -1);
    expect_transposed(&o, first[3], 64, 0, cols * w->part.slice);
    expect_transposed(&up, first[4], 272, ff * w->part.slice, 0);
    expect_counting(&up_bias, first[5], ff * w->part.slice, 0, 0);
    expect_transposed(&down, first[6], 64, 0, ff * w->part.slice);
    expect_counting(&position, first[0], 0, 0, 64);
}

CASE(gpt2_is_transposed_and_taken_apart) {
    static const int types[] = {WEFT_F32, WEFT_F16, WEFT_BF16};
    model m;
    device dev = make_device(true);
    float first[8];
    for (int i = 0; i < 9; i++) {
        open_gpt2(&m, types[i / 3], first);
        for (int tp = 1; tp <= 4; tp *= 2)
            for (int r = 0; r < tp; r++) {
                weights w;
                assert_int_equal(
                    weights_open(&m.c, &m.st, &dev, types[i % 3], SLICE(tp, r, 1), false, &w),
                    WEFT_OK);
                expect_gpt2(&w, first);
                assert_int_equal(w.n_unused, 0);
                weights_close(&w);
            }
        close_model(&m);
    }
}

/* ---- Refusals ---- */

CASE(config_against_weights) {
    static const struct {
        const char *config, *message;
        weft_status status;
    } rows[] = {
        {"{\"model_type\":\"llama\"," SMALL ",\"attention_bias\":true}",
         "\"model.layers.0.self_attn.q_proj.bias\" is missing", WEFT_BAD_FILE},
        {"{\"model_type\":\"qwen3\"," SMALL "}", "q_norm.weight\" is missing", WEFT_BAD_FILE},
        {"{\"model_type\":\"gpt2\",\"eos_token_id\":0}",
         "\"transformer.h.0.ln_1.weight\" is missing", WEFT_BAD_FILE},
        {"{\"model_type\":\"llama\",\"hidden_size\":8,\"num_attention_heads\":4,\"head_dim\":16,"
         "\"num_key_value_heads\":4,\"num_hidden_layers\":2,\"vocab_size\":10,"
         "\"intermediate_size\":64}",
         "k_proj.weight\" has shape [32, 8]; config.json says [64, 8]", WEFT_BAD_FILE},
        {"{\"model_type\":\"llama\",\"hidden_size\":8,\"num_attention_heads\":4,\"head_dim\":16,"
         "\"num_key_value_heads\":2,\"num_hidden_layers\":3,\"vocab_size\":10,"
         "\"intermediate_size\":64}",
         "\"model.layers.2.input_layernorm.weight\" is missing", WEFT_BAD_FILE},
        {"{\"model_type\":\"llama\",\"hidden_size\":8,\"num_attention_heads\":4,\"head_dim\":16,"
         "\"num_key_value_heads\":2,\"num_hidden_layers\":2,\"vocab_size\":11,"
         "\"intermediate_size\":64}",
         "embed_tokens.weight\" has shape [10, 8]; config.json says [11, 8]", WEFT_BAD_FILE},
    };
    device dev = make_device(true);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        model m;
        weights w;
        st_builder b = llama_builder(&m, WEFT_F32);
        open_model(&m, rows[i].config, &b, 0);
        assert_int_equal(weights_open(&m.c, &m.st, &dev, WEFT_F32, NULL, false, &w),
                         rows[i].status);
        expect_message(rows[i].message);
        assert_int_equal(dev.allocated, 0);
        close_model(&m);
    }
}

CASE(types_without_arithmetic_are_refused) {
    model m;
    weights w;
    device dev = make_device(true);
    st_builder b = llama_builder(&m, WEFT_F32);
    overwrite(&b.header, "\"F32\"", "\"I32\"");
    open_model(&m, "{\"model_type\":\"llama\"," SMALL "}", &b, 0);
    assert_int_equal(weights_open(&m.c, &m.st, &dev, WEFT_F32, NULL, false, &w), WEFT_UNSUPPORTED);
    expect_message("stored as I32");
    close_model(&m);
}

CASE(what_auto_means) {
    model m;
    int dtype;
    open_llama(&m, WEFT_BF16, 0);
    assert_int_equal(weights_dtype(&m.c, &m.st, "auto", &dtype), WEFT_OK);
    assert_int_equal(dtype, WEFT_BF16);
    assert_int_equal(weights_dtype(&m.c, NULL, "auto", &dtype), WEFT_OK);
    assert_int_equal(dtype, WEFT_F32);
    assert_int_equal(weights_dtype(&m.c, &m.st, "fp16", &dtype), WEFT_OK);
    assert_int_equal(dtype, WEFT_F16);
    assert_int_equal(weights_dtype(&m.c, &m.st, "int3", &dtype), WEFT_USAGE);
    expect_message("--dtype: \"int3\"");
    m.c.dtype = WEFT_F16;
    assert_int_equal(weights_dtype(&m.c, NULL, NULL, &dtype), WEFT_OK);
    assert_int_equal(dtype, WEFT_F16);
    close_model(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_where_the_file_will_do),
        cmocka_unit_test(every_type_into_every_type),
        cmocka_unit_test(each_rank_has_its_slices),
        cmocka_unit_test(each_stage_has_its_layers),
        cmocka_unit_test(misaligned_data_is_copied),
        cmocka_unit_test(tied_under_either_name),
        cmocka_unit_test(a_tied_model_may_store_its_head_too),
        cmocka_unit_test(gpt2_is_transposed_and_taken_apart),
        cmocka_unit_test(config_against_weights),
        cmocka_unit_test(types_without_arithmetic_are_refused),
        cmocka_unit_test(what_auto_means),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
