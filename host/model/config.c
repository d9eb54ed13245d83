/* SPDX-License-Identifier: Apache-2.0
 * config.json and generation_config.json -> model_config. A table of keys reads the file, the
 * family's row answers for what it does not say, and one pass completes and checks the whole. */
#include "host/model/config.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/model/family.h"
#include <math.h>
#include <string.h>

enum { CONFIG_BYTES = 16 << 20, HEAD_DIM_LIMIT = 256 };

/* ---- Keys ---- */

typedef struct config_key {
    const char *name;
    unsigned families; /* 0: every family */
    void (*read)(json *j, const struct config_key *k, void *to);
    size_t offset; /* in config_draft */
    double min, max;
    bool nullable; /* null is written as 0: derived, or off; otherwise null leaves the preset */
} config_key;

static void read_int(json *j, const config_key *k, void *to) {
    *(int64_t *)to = json_int(j, (int64_t)k->min, (int64_t)k->max);
}

static void read_id(json *j, const config_key *k, void *to) {
    *(int32_t *)to = (int32_t)json_int(j, (int64_t)k->min, (int64_t)k->max);
}

static void read_double(json *j, const config_key *k, void *to) {
    double x = json_double(j);
    if (!json_failed(j) && !(x >= k->min && x <= k->max))
        json_fail(j, "\"%s\": %g is out of range (%g to %g)", k->name, x, k->min, k->max);
    *(double *)to = x;
}

static void read_bool(json *j, const config_key *k, void *to) {
    (void)k;
    *(bool *)to = json_bool(j);
}

static void read_tristate(json *j, const config_key *k, void *to) {
    (void)k;
    *(int *)to = json_bool(j);
}

static void read_text(json *j, const config_key *k, void *to) {
    (void)k;
    *(const char **)to = json_text(j);
}

static void read_rope(json *j, const config_key *k, void *to) {
    rope_read(j, k->name, to);
}

static void read_first_text(json *j, const config_key *k, void *to) {
    json_array(j);
    for (int n = 0; json_item(j); n++)
        if (n == 0)
            read_text(j, k, to);
}

static void read_bos(json *j, const config_key *k, void *to) {
    config_draft *d = to;
    d->bos_given = true;
    d->c.bos_id = (int32_t)json_int(j, (int64_t)k->min, (int64_t)k->max);
}

static void read_eos(json *j, const config_key *k, void *to) {
    config_draft *d = to;
    bool list = json_peek(j) == JSON_ARRAY;
    d->eos_given = true;
    d->c.n_eos = 0;
    if (list)
        json_array(j);
    for (bool more = list ? json_item(j) : true; more; more = list && json_item(j)) {
        int32_t id = (int32_t)json_int(j, (int64_t)k->min, (int64_t)k->max);
        if (d->c.n_eos == CONFIG_MAX_EOS)
            json_fail(j, "\"%s\": more than %d ids", k->name, CONFIG_MAX_EOS);
        else if (id >= 0)
            d->c.eos_id[d->c.n_eos++] = id;
    }
}

static void read_layer_types(json *j, const config_key *k, void *to) {
    config_draft *d = to;
    d->layer_type = arena_alloc(j->arena, (size_t)k->max);
    d->n_layer_type = 0;
    json_array(j);
    while (json_item(j)) {
        json_str s = json_string(j);
        bool windowed = json_is(s, "sliding_attention");
        if (!windowed && !json_is(s, "full_attention"))
            json_fail(j, "\"%s\": \"%.*s\" is not supported (full_attention, sliding_attention)",
                      k->name, s.n > 60 ? 60 : (int)s.n, s.s);
        else if (d->n_layer_type == (int64_t)k->max)
            json_fail(j, "\"%s\": more than %g layers", k->name, k->max);
        else
            d->layer_type[d->n_layer_type++] = windowed;
    }
}

static void read_quant(json *j, const config_key *k, void *to) {
    (void)k;
    quant_read(j, to);
}

#define AT(member) offsetof(config_draft, member)
#define LLAMA_LIKE (FAMILY_LLAMA | FAMILY_MISTRAL | FAMILY_QWEN2 | FAMILY_QWEN3)
#define QWEN (FAMILY_QWEN2 | FAMILY_QWEN3)
#define MAX_LAYERS 10000
#define MAX_ID 2147483647.0
static const config_key config_keys[] = {
    {"vocab_size", 0, read_int, AT(c.vocab), 1, 1 << 26, false},
    {"hidden_size", 0, read_int, AT(c.d_model), 1, 1 << 20, false},
    {"n_embd", FAMILY_GPT2, read_int, AT(c.d_model), 1, 1 << 20, false},
    {"num_hidden_layers", 0, read_int, AT(c.n_layers), 1, MAX_LAYERS, false},
    {"n_layer", FAMILY_GPT2, read_int, AT(c.n_layers), 1, MAX_LAYERS, false},
    {"num_attention_heads", 0, read_int, AT(c.n_heads), 1, 65536, false},
    {"n_head", FAMILY_GPT2, read_int, AT(c.n_heads), 1, 65536, false},
    {"num_key_value_heads", LLAMA_LIKE, read_int, AT(c.n_kv_heads), 1, 65536, true},
    {"head_dim", LLAMA_LIKE, read_int, AT(c.head_dim), 1, 65536, true},
    {"intermediate_size", LLAMA_LIKE, read_int, AT(c.d_ff), 1, 1 << 24, false},
    {"n_inner", FAMILY_GPT2, read_int, AT(c.d_ff), 1, 1 << 24, true},
    {"max_position_embeddings", 0, read_int, AT(c.max_ctx), 1, 1 << 30, false},
    {"n_positions", FAMILY_GPT2, read_int, AT(c.max_ctx), 1, 1 << 30, false},
    {"rms_norm_eps", LLAMA_LIKE, read_double, AT(c.norm_eps), 0, 1, false},
    {"layer_norm_epsilon", FAMILY_GPT2, read_double, AT(c.norm_eps), 0, 1, false},
    {"hidden_act", LLAMA_LIKE, read_text, AT(act), 0, 0, false},
    {"activation_function", FAMILY_GPT2, read_text, AT(act), 0, 0, false},
    {"tie_word_embeddings", 0, read_bool, AT(c.tied), 0, 0, false},
    {"attention_bias", FAMILY_LLAMA | FAMILY_QWEN3, read_bool, AT(attention_bias), 0, 0, false},
    {"mlp_bias", FAMILY_LLAMA, read_bool, AT(c.mlp_bias), 0, 0, false},
    {"rope_theta", LLAMA_LIKE, read_double, AT(theta), 1, 1e18, false},
    {"rope_scaling", LLAMA_LIKE, read_rope, AT(scaling), 0, 0, false},
    {"rope_parameters", LLAMA_LIKE, read_rope, AT(parameters), 0, 0, false},
    {"partial_rotary_factor", LLAMA_LIKE, read_double, AT(partial), 1e-3, 1, false},
    {"original_max_position_embeddings", LLAMA_LIKE, read_int, AT(original_ctx), 1, 1 << 30, false},
    {"sliding_window", FAMILY_MISTRAL | QWEN, read_int, AT(c.window), 0, 1 << 30, true},
    {"use_sliding_window", QWEN, read_bool, AT(use_window), 0, 0, false},
    {"max_window_layers", QWEN, read_int, AT(max_window_layers), 0, 1 << 30, false},
    {"layer_types", QWEN, read_layer_types, 0, 0, MAX_LAYERS, false},
    {"scale_attn_weights", FAMILY_GPT2, read_bool, AT(scale_attention), 0, 0, false},
    {"scale_attn_by_inverse_layer_idx", FAMILY_GPT2, read_bool, AT(c.attn_scale_by_layer), 0, 0,
     false},
    {"add_cross_attention", FAMILY_GPT2, read_bool, AT(cross_attention), 0, 0, false},
    {"torch_dtype", 0, read_text, AT(dtype), 0, 0, false},
    {"dtype", 0, read_text, AT(dtype), 0, 0, false},
    {"architectures", 0, read_first_text, AT(architecture), 0, 0, false},
    {"quantization_config", 0, read_quant, AT(quant), 0, 0, false},
    {"bos_token_id", 0, read_bos, 0, -1, MAX_ID, false},
    {"eos_token_id", 0, read_eos, 0, -1, MAX_ID, false},
    {"pad_token_id", 0, read_id, AT(c.pad_id), -1, MAX_ID, false},
    {NULL, 0, NULL, 0, 0, 0, false},
};

static const config_key generation_keys[] = {
    {"temperature", 0, read_double, AT(c.generation.temperature), 0, 1000, false},
    {"top_p", 0, read_double, AT(c.generation.top_p), 0, 1, false},
    {"min_p", 0, read_double, AT(c.generation.min_p), 0, 1, false},
    {"typical_p", 0, read_double, AT(c.generation.typical_p), 0, 1, false},
    {"repetition_penalty", 0, read_double, AT(c.generation.repetition_penalty), 1e-3, 1000, false},
    {"top_k", 0, read_int, AT(c.generation.top_k), 0, MAX_ID, false},
    {"do_sample", 0, read_tristate, AT(c.generation.do_sample), 0, 0, false},
    {"bos_token_id", 0, read_bos, 0, -1, MAX_ID, false},
    {"eos_token_id", 0, read_eos, 0, -1, MAX_ID, false},
    {"pad_token_id", 0, read_id, AT(c.pad_id), -1, MAX_ID, false},
    {NULL, 0, NULL, 0, 0, 0, false},
};

static const config_key *find_key(const config_key *keys, json_str name, unsigned family) {
    for (; keys->name; keys++)
        if (json_is(name, keys->name) && (!keys->families || (keys->families & family)))
            return keys;
    return NULL;
}

/* An id that is null is no id; elsewhere null is what the family assumes, or 0. */
static void read_null(json *j, const config_key *k, config_draft *d) {
    json_null(j);
    if (k->nullable)
        *(int64_t *)((char *)d + k->offset) = 0;
    if (k->read == read_bos)
        d->c.bos_id = -1;
    if (k->read == read_eos)
        d->c.n_eos = 0;
}

/* What a number may not be null for: without it the model is another one. */
static bool null_is_fine(const config_key *k) {
    return k->nullable || (k->read != read_int && k->read != read_double && k->read != read_bool);
}

static weft_status read_keys(const char *name, const char *text, size_t n, arena *a,
                             const config_key *keys, unsigned family, bool any_null,
                             config_draft *d) {
    json j;
    json_init(&j, name, text, n, a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        const config_key *k = find_key(keys, key, family);
        if (!k)
            json_skip(&j);
        else if (json_peek(&j) == JSON_NULL && (any_null || null_is_fine(k)))
            read_null(&j, k, d);
        else
            k->read(&j, k, (char *)d + k->offset);
    }
    return json_done(&j);
}

/* ---- The family ---- */

static weft_status find_family(const char *name, const char *text, size_t n, arena *a,
                               const family_row **out) {
    json j;
    const char *type = NULL;
    json_init(&j, name, text, n, a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);)
        if (json_is(key, "model_type") && json_peek(&j) == JSON_STRING) {
            type = json_text(&j);
            if (json_failed(&j))
                type = NULL;
        } else {
            json_skip(&j);
        }
    *out = type ? family_find(type) : NULL;
    /* asked before the syntax of the rest: other families' files hold Infinity, which is
     * Python's */
    if (type && !*out)
        return weft_fail(WEFT_UNSUPPORTED, "%s: model_type \"%s\" is not supported (%s)", name,
                         type, family_list());
    WEFT_TRY(json_done(&j));
    if (type)
        return WEFT_OK;
    return weft_fail(WEFT_BAD_FILE, "%s: model_type is missing; it names the family (%s)", name,
                     family_list());
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* A classifier shares its model_type with the language model but has no vocabulary to predict. */
static weft_status check_kind(const char *name, const config_draft *d) {
    const char *arch = d->architecture;
    if (arch &&
        (strstr(arch, "Reward") || !(ends_with(arch, "ForCausalLM") || ends_with(arch, "Model"))))
        return weft_fail(
            WEFT_UNSUPPORTED,
            "%s: architectures: \"%s\" is not supported; weft runs the causal language "
            "models of this family (...ForCausalLM)",
            name, arch);
    if (d->cross_attention)
        return weft_fail(WEFT_UNSUPPORTED, "%s: add_cross_attention: true is not supported", name);
    return WEFT_OK;
}

/* ---- Completing and checking ---- */

static const struct {
    const char *name;
    weft_act act;
} act_names[] = {
    {"silu", WEFT_ACT_SILU},           {"swish", WEFT_ACT_SILU},
    {"gelu", WEFT_ACT_GELU},           {"gelu_new", WEFT_ACT_GELU_TANH},
    {"relu", WEFT_ACT_RELU},           {"gelu_pytorch_tanh", WEFT_ACT_GELU_TANH},
    {"gelu_fast", WEFT_ACT_GELU_TANH}, {"gelu_python", WEFT_ACT_GELU},
};

static weft_status find_act(const char *name, const char *act, weft_act *out) {
    for (size_t i = 0; i < sizeof act_names / sizeof *act_names; i++)
        if (strcmp(act, act_names[i].name) == 0) {
            *out = act_names[i].act;
            return WEFT_OK;
        }
    return weft_fail(WEFT_UNSUPPORTED,
                     "%s: activation \"%s\" is not supported (silu, gelu, gelu_new, relu)", name,
                     act);
}

static int find_dtype(const char *s) {
    static const struct {
        const char *name;
        int dtype;
    } names[] = {{"float32", WEFT_F32}, {"bfloat16", WEFT_BF16}, {"float16", WEFT_F16}};
    for (size_t i = 0; s && i < sizeof names / sizeof *names; i++)
        if (strcmp(s, names[i].name) == 0)
            return names[i].dtype;
    return -1;
}

static weft_status complete_heads(const char *name, model_config *c) {
    if (c->n_kv_heads == 0)
        c->n_kv_heads = c->n_heads;
    if (c->n_heads % c->n_kv_heads != 0)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: num_key_value_heads: %lld does not divide %lld attention heads", name,
                         (long long)c->n_kv_heads, (long long)c->n_heads);
    if (c->head_dim == 0 && c->d_model % c->n_heads != 0)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: hidden_size: %lld is not a multiple of %lld attention heads", name,
                         (long long)c->d_model, (long long)c->n_heads);
    if (c->head_dim == 0)
        c->head_dim = c->d_model / c->n_heads;
    if (c->head_dim > HEAD_DIM_LIMIT)
        return weft_fail(WEFT_UNSUPPORTED, "%s: heads of %lld features are not supported (1..%d)",
                         name, (long long)c->head_dim, HEAD_DIM_LIMIT);
    if (c->d_ff == 0)
        c->d_ff = 4 * c->d_model;
    return WEFT_OK;
}

/* Which layers use the window: all, none, or those of the list. */
static weft_status complete_window(const char *name, config_draft *d, arena *a) {
    model_config *c = &d->c;
    if (d->layer_type && d->n_layer_type != c->n_layers)
        return weft_fail(WEFT_BAD_FILE, "%s: layer_types: %lld entries for %lld layers", name,
                         (long long)d->n_layer_type, (long long)c->n_layers);
    uint8_t *windowed = d->layer_type;
    int64_t count = 0;
    if (!windowed)
        windowed = arena_alloc(a, (size_t)c->n_layers);
    for (int64_t i = 0; i < c->n_layers; i++) {
        if (!d->layer_type)
            windowed[i] = d->use_window && c->window > 0 && i >= d->max_window_layers;
        count += windowed[i];
    }
    if (count && !(d->use_window && c->window > 0))
        return weft_fail(WEFT_BAD_FILE,
                         "%s: layer_types: sliding_attention without a sliding_window", name);
    if (count == 0)
        c->window = 0;
    c->layer_windowed = count && count < c->n_layers ? windowed : NULL;
    return WEFT_OK;
}

static weft_status complete_rope(const char *name, const config_draft *d, model_config *c) {
    if (c->position != POSITION_ROPE)
        return WEFT_OK;
    rope_spec spec = d->scaling.given      ? d->scaling
                     : d->parameters.given ? d->parameters
                                           : (rope_spec){.r.truncate = true};
    if (spec.r.theta == 0)
        spec.r.theta = d->theta;
    if (spec.partial == 0)
        spec.partial = d->partial;
    if (d->original_ctx && spec.r.original_ctx == 0)
        spec.r.original_ctx = d->original_ctx;
    return rope_resolve(name, &spec, c->head_dim, &c->max_ctx, &c->rope);
}

/* An id that the file names must exist; one that only the family assumes is forgotten if not. */
static weft_status check_ids(const char *name, const config_draft *d, model_config *c) {
    if (c->bos_id >= c->vocab) {
        if (d->bos_given)
            return weft_fail(WEFT_BAD_FILE,
                             "%s: bos_token_id: %d is outside the vocabulary (0..%lld)", name,
                             (int)c->bos_id, (long long)c->vocab - 1);
        c->bos_id = -1;
    }
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos_id[i] >= c->vocab) {
            if (d->eos_given)
                return weft_fail(WEFT_BAD_FILE,
                                 "%s: eos_token_id: %d is outside the vocabulary (0..%lld)", name,
                                 (int)c->eos_id[i], (long long)c->vocab - 1);
            c->n_eos = 0;
        }
    return WEFT_OK;
}

static weft_status complete(const char *name, config_draft *d, arena *a) {
    model_config *c = &d->c;
    WEFT_TRY(check_kind(name, d));
    WEFT_TRY(quant_check(name, &d->quant, c));
    WEFT_TRY(find_act(name, d->act, &c->act));
    WEFT_TRY(complete_heads(name, c));
    WEFT_TRY(complete_window(name, d, a));
    WEFT_TRY(complete_rope(name, d, c));
    WEFT_TRY(check_ids(name, d, c));
    c->qkv_bias = c->qkv_bias || d->attention_bias;
    c->o_bias = c->o_bias || d->attention_bias;
    c->attn_scale = c->position == POSITION_LEARNED && !d->scale_attention
                        ? 1.0
                        : 1.0 / sqrt((double)c->head_dim);
    c->dtype = find_dtype(d->dtype);
    return WEFT_OK;
}

static void generation_unsaid(model_config *c) {
    c->generation.temperature = c->generation.top_p = c->generation.min_p = NAN;
    c->generation.typical_p = c->generation.repetition_penalty = NAN;
    c->generation.top_k = -1;
    c->generation.do_sample = -1;
}

typedef struct {
    const char *name, *text;
    size_t n;
} source;

static weft_status parse(const source *config, const source *generation, arena *a,
                         model_config *out) {
    const family_row *row;
    WEFT_TRY(find_family(config->name, config->text, config->n, a, &row));
    config_draft d = row->preset;
    generation_unsaid(&d.c);
    d.c.family = row->name;
    d.c.weights = row->weights;
    WEFT_TRY(read_keys(config->name, config->text, config->n, a, config_keys, row->bit, false, &d));
    WEFT_TRY(complete(config->name, &d, a));
    if (generation->text) {
        d.eos_given = d.bos_given = true;
        WEFT_TRY(read_keys(generation->name, generation->text, generation->n, a, generation_keys,
                           row->bit, true, &d));
        WEFT_TRY(check_ids(generation->name, &d, &d.c));
    }
    *out = d.c;
    return WEFT_OK;
}

weft_status config_parse(const char *name, const char *text, size_t n, const char *generation,
                         size_t n_generation, arena *a, model_config *out) {
    return parse(&(source){name, text, n},
                 &(source){"generation_config.json", generation, n_generation}, a, out);
}

/* ---- Files ---- */

/* ORGANISATION/NAME, as on the Hugging Face hub. */
static bool is_hub_name(const char *s) {
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t first = strspn(s, allowed);
    if (first == 0 || s[0] == '.' || s[first] != '/')
        return false;
    size_t second = strspn(s + first + 1, allowed);
    return second > 0 && s[first + 1] != '.' && s[first + 1 + second] == 0;
}

static weft_status check_folder(const char *dir) {
    if (file_is_dir(dir))
        return WEFT_OK;
    if (file_exists(dir))
        return weft_fail(WEFT_BAD_FILE, "%s: is not a folder; give the model's folder", dir);
    if (is_hub_name(dir))
        return weft_fail(WEFT_BAD_FILE,
                         "%s: no such folder; weft opens local folders only: download it first, "
                         "e.g. huggingface-cli download %s --local-dir DIR",
                         dir, dir);
    return weft_fail(WEFT_BAD_FILE, "%s: no such folder", *dir ? dir : "MODEL");
}

weft_status config_read(const char *dir, arena *a, model_config *out) {
    WEFT_TRY(check_folder(dir));
    source config = {.name = file_join(a, dir, "config.json")};
    source generation = {.name = file_join(a, dir, "generation_config.json")};
    WEFT_TRY(file_read(config.name, CONFIG_BYTES, a, &config.text, &config.n));
    if (file_exists(generation.name))
        WEFT_TRY(file_read(generation.name, CONFIG_BYTES, a, &generation.text, &generation.n));
    return parse(&config, &generation, a, out);
}

shard_dims config_shard_dims(const model_config *c) {
    return (shard_dims){.vocab = c->vocab,
                        .d_model = c->d_model,
                        .d_ff = c->d_ff,
                        .n_heads = c->n_heads,
                        .n_kv_heads = c->n_kv_heads,
                        .head_dim = c->head_dim};
}
