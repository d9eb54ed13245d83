/* SPDX-License-Identifier: Apache-2.0
 * config.json of every family in both forms of transformers, its defaults, its refusals, and the
 * configs of released models that the fixtures hold. */
#include "host/base/file.h"
#include "host/model/quant.h"
#include "tests/unit/unit.h"
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static arena mem;
static model_config c;

static weft_status parse2(const char *text, const char *generation) {
    arena_fini(&mem);
    err_clear();
    return config_parse("config.json", text, strlen(text), generation,
                        generation ? strlen(generation) : 0, &mem, &c);
}

static weft_status parse(const char *text) {
    return parse2(text, NULL);
}

/* ---- Defaults: the values are those of transformers' configuration classes ---- */

CASE(llama_defaults) {
    assert_int_equal(parse("{\"model_type\":\"llama\"}"), WEFT_OK);
    assert_string_equal(c.family, "llama");
    assert_int_equal(c.vocab, 32000);
    assert_int_equal(c.d_model, 4096);
    assert_int_equal(c.d_ff, 11008);
    assert_int_equal(c.n_layers, 32);
    assert_int_equal(c.n_kv_heads, 32);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.max_ctx, 2048);
    assert_true(c.norm == NORM_RMS && c.norm_eps == 1e-6 && c.norm_offset == 0);
    assert_true(c.act == WEFT_ACT_SILU && c.gated && !c.tied);
    assert_true(c.rope.kind == ROPE_DEFAULT && c.rope.theta == 10000 && c.rope.dims == 128);
    assert_true(!c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.norm_bias && !c.qk_norm);
    assert_int_equal(c.window, 0);
    assert_true(c.bos_id == 1 && c.n_eos == 1 && c.eos_id[0] == 2 && c.pad_id == -1);
    assert_int_equal(c.dtype, -1);
    assert_true(c.attn_scale == 1 / sqrt(128.0));
    assert_true(config_parameters(&c) == 6738415616); /* Llama 2 7B, as published */
}

CASE(mistral_defaults) {
    assert_int_equal(parse("{\"model_type\":\"mistral\"}"), WEFT_OK);
    assert_int_equal(c.n_kv_heads, 8);
    assert_int_equal(c.window, 4096);
    assert_null(c.layer_windowed);
    assert_int_equal(c.max_ctx, 131072);
    assert_int_equal(parse("{\"model_type\":\"mistral\",\"sliding_window\":null}"), WEFT_OK);
    assert_int_equal(c.window, 0);
    assert_int_equal(parse("{\"model_type\":\"mistral\",\"num_key_value_heads\":null}"), WEFT_OK);
    assert_int_equal(c.n_kv_heads, 32);
}

CASE(qwen_defaults) {
    assert_int_equal(parse("{\"model_type\":\"qwen2\"}"), WEFT_OK);
    assert_true(c.qkv_bias && !c.o_bias && !c.qk_norm && !c.tied);
    assert_true(c.vocab == 151936 && c.d_ff == 22016 && c.head_dim == 128 && c.window == 0);
    assert_true(c.rope.theta == 10000 && c.bos_id == -1 && c.n_eos == 0);
    assert_int_equal(parse("{\"model_type\":\"qwen3\",\"hidden_size\":1024,"
                           "\"num_attention_heads\":16,\"num_key_value_heads\":8}"),
                     WEFT_OK);
    assert_true(!c.qkv_bias && c.qk_norm && c.head_dim == 128);
    assert_int_equal(parse("{\"model_type\":\"qwen3\",\"attention_bias\":true}"), WEFT_OK);
    assert_true(c.qkv_bias && c.o_bias && !c.mlp_bias);
}

CASE(gpt2_defaults) {
    assert_int_equal(parse("{\"model_type\":\"gpt2\",\"vocab_size\":50257}"), WEFT_OK);
    assert_true(c.norm == NORM_LAYER && c.norm_eps == 1e-5 && c.norm_bias && !c.gated);
    assert_true(c.position == POSITION_LEARNED && c.act == WEFT_ACT_GELU_TANH && c.tied);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias && c.d_ff == 3072 && c.max_ctx == 1024);
    assert_true(c.bos_id == 50256 && c.eos_id[0] == 50256 && c.attn_scale == 0.125);
    assert_true(config_parameters(&c) == 124439808); /* GPT-2 small, as published */
    assert_int_equal(parse("{\"model_type\":\"gpt2\",\"vocab_size\":3,\"n_embd\":48,\"n_head\":3,"
                           "\"n_layer\":1,\"n_inner\":100,\"n_positions\":11,"
                           "\"tie_word_embeddings\":false,\"scale_attn_weights\":false,"
                           "\"scale_attn_by_inverse_layer_idx\":true}"),
                     WEFT_OK);
    assert_true(c.bos_id == -1 && c.n_eos == 0); /* the assumed 50256 does not exist here */
    assert_true(c.d_ff == 100 && c.head_dim == 16 && !c.tied);
    assert_true(c.attn_scale == 1 && c.attn_scale_by_layer);
}

/* ---- Forms ---- */

#define SMALL \
    "\"hidden_size\":64,\"num_attention_heads\":4,\"num_hidden_layers\":3,\"vocab_size\":320," \
    "\"intermediate_size\":128"

CASE(rope_of_transformers_4_and_5) {
    static const char *const same[] = {
        "{\"model_type\":\"llama\"," SMALL ",\"max_position_embeddings\":512,\"rope_theta\":5e5,"
        "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
        "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64},"
        "\"torch_dtype\":\"bfloat16\"}",
        "{\"model_type\":\"llama\"," SMALL ",\"max_position_embeddings\":512,\"rope_parameters\":{"
        "\"rope_theta\":500000,\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
        "\"high_freq_factor\":4,\"original_max_position_embeddings\":64},\"dtype\":\"bfloat16\"}",
    };
    for (int i = 0; i < 2; i++) {
        assert_int_equal(parse(same[i]), WEFT_OK);
        assert_true(c.rope.kind == ROPE_LLAMA3 && c.rope.theta == 5e5 && c.rope.factor == 8);
        assert_true(c.rope.low_freq_factor == 1 && c.rope.high_freq_factor == 4);
        assert_true(c.rope.original_ctx == 64 && c.max_ctx == 512 && c.dtype == WEFT_BF16);
    }
    assert_int_equal(parse("{\"model_type\":\"llama\"," SMALL ",\"rope_scaling\":null,"
                           "\"rope_theta\":1000000,\"partial_rotary_factor\":0.5}"),
                     WEFT_OK);
    assert_true(c.rope.kind == ROPE_DEFAULT && c.rope.theta == 1e6 && c.rope.dims == 8);
}

CASE(dynamic_reaches_past_the_trained_context) {
    assert_int_equal(parse("{\"model_type\":\"llama\"," SMALL ",\"max_position_embeddings\":512,"
                           "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4.0}}"),
                     WEFT_OK);
    assert_true(c.rope.original_ctx == 512 && c.max_ctx == 2048);
}

CASE(qwen_windows) {
    assert_int_equal(parse("{\"model_type\":\"qwen2\"," SMALL ",\"num_key_value_heads\":2,"
                           "\"use_sliding_window\":true,\"sliding_window\":16,"
                           "\"max_window_layers\":1}"),
                     WEFT_OK);
    assert_int_equal(c.window, 16);
    assert_memory_equal(c.layer_windowed, ((const uint8_t[]){0, 1, 1}), 3);
    assert_int_equal(parse("{\"model_type\":\"qwen3\"," SMALL ",\"num_key_value_heads\":2,"
                           "\"use_sliding_window\":true,\"sliding_window\":8,\"layer_types\":["
                           "\"sliding_attention\",\"full_attention\",\"sliding_attention\"]}"),
                     WEFT_OK);
    assert_memory_equal(c.layer_windowed, ((const uint8_t[]){1, 0, 1}), 3);
    assert_int_equal(parse("{\"model_type\":\"qwen2\"," SMALL ",\"num_key_value_heads\":2,"
                           "\"use_sliding_window\":true,\"sliding_window\":16,"
                           "\"max_window_layers\":0}"),
                     WEFT_OK);
    assert_true(c.window == 16 && !c.layer_windowed);
    assert_int_equal(parse("{\"model_type\":\"qwen2\"," SMALL ",\"num_key_value_heads\":2,"
                           "\"sliding_window\":16,\"max_window_layers\":0}"),
                     WEFT_OK);
    assert_int_equal(c.window, 0);
}

CASE(end_of_sequence_ids) {
    assert_int_equal(parse2("{\"model_type\":\"llama\"," SMALL ",\"eos_token_id\":[7,8]}",
                            "{\"temperature\":0.6}"),
                     WEFT_OK);
    assert_true(c.n_eos == 2 && c.eos_id[1] == 8);
    assert_int_equal(parse2("{\"model_type\":\"llama\"," SMALL ",\"eos_token_id\":7}",
                            "{\"eos_token_id\":[3,4,5],\"bos_token_id\":0}"),
                     WEFT_OK);
    assert_true(c.n_eos == 3 && c.eos_id[0] == 3 && c.bos_id == 0);
    assert_int_equal(parse("{\"model_type\":\"llama\"," SMALL ",\"eos_token_id\":null,"
                           "\"bos_token_id\":null,\"pad_token_id\":-1}"),
                     WEFT_OK);
    assert_true(c.n_eos == 0 && c.bos_id == -1 && c.pad_id == -1);
}

CASE(generation_defaults) {
    assert_int_equal(parse("{\"model_type\":\"llama\"}"), WEFT_OK);
    assert_true(isnan(c.generation.temperature) && isnan(c.generation.top_p));
    assert_true(c.generation.top_k == -1 && c.generation.do_sample == -1);
    assert_int_equal(parse2("{\"model_type\":\"llama\"}",
                            "{\"do_sample\":true,\"temperature\":0.7,\"top_p\":0.8,\"top_k\":20,"
                            "\"min_p\":null,\"repetition_penalty\":1.05,\"whatever\":[1]}"),
                     WEFT_OK);
    assert_true(c.generation.do_sample == 1 && c.generation.temperature == 0.7);
    assert_true(c.generation.top_p == 0.8 && c.generation.top_k == 20);
    assert_true(c.generation.repetition_penalty == 1.05 && isnan(c.generation.min_p));
}

/* ---- Refusals ---- */

#define LLAMA(more) "{\"model_type\":\"llama\"," SMALL more "}"
/* quantization_config of compressed-tensors: format, weights, input_activations, ignore. */
#define CHANNEL \
    "{\"num_bits\":8,\"type\":\"int\",\"symmetric\":true,\"strategy\":\"channel\"," \
    "\"dynamic\":false,\"group_size\":null}"
#define GROUPED "{\"num_bits\":8,\"strategy\":\"group\",\"group_size\":128}"
#define TOKEN "{\"num_bits\":8,\"strategy\":\"token\",\"dynamic\":true,\"symmetric\":true}"
#define QUANT(format, weights, inputs, ignore) \
    LLAMA(",\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"" format \
          "\",\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":" weights \
          ",\"input_activations\":" inputs ",\"output_activations\":null}},\"ignore\":[" ignore \
          "]}")

static const struct {
    const char *text, *generation, *message;
    weft_status status;
} refusals[] = {
    {"", NULL, "config.json:1:1", WEFT_BAD_FILE},
    {"{}", NULL, "model_type is missing", WEFT_BAD_FILE},
    {"{\"model_type\":null}", NULL, "model_type is missing", WEFT_BAD_FILE},
    {"{\"model_type\":\"phi\"}", NULL, "llama, mistral, qwen2, qwen3, gpt2", WEFT_UNSUPPORTED},
    {LLAMA(",\"num_hidden_layers\":3"), NULL, "duplicate key", WEFT_BAD_FILE},
    {"{\"model_type\":\"llama\",\"num_attention_heads\":0}", NULL, "num_attention_heads",
     WEFT_BAD_FILE},
    {"{\"model_type\":\"llama\",\"num_hidden_layers\":2147483648}", NULL, "num_hidden_layers",
     WEFT_BAD_FILE},
    {"{\"model_type\":\"llama\",\"hidden_size\":100}", NULL, "hidden_size: 100", WEFT_BAD_FILE},
    {"{\"model_type\":\"llama\",\"rope_theta\":NaN}", NULL, "config.json:1:", WEFT_BAD_FILE},
    {"{\"model_type\":\"llama\",\"vocab_size\":32000.0}", NULL, "vocab_size", WEFT_BAD_FILE},
    {LLAMA(",\"num_key_value_heads\":3"), NULL, "num_key_value_heads: 3", WEFT_BAD_FILE},
    {LLAMA(",\"head_dim\":15"), NULL, "15 features", WEFT_BAD_FILE},
    {LLAMA(",\"head_dim\":512"), NULL, "512 features", WEFT_UNSUPPORTED},
    {LLAMA(",\"hidden_act\":\"mish\""), NULL, "\"mish\"", WEFT_UNSUPPORTED},
    {LLAMA(",\"rms_norm_eps\":-1e-6"), NULL, "rms_norm_eps", WEFT_BAD_FILE},
    {LLAMA(",\"tie_word_embeddings\":1"), NULL, "tie_word_embeddings", WEFT_BAD_FILE},
    {LLAMA(",\"eos_token_id\":320"), NULL, "eos_token_id: 320", WEFT_BAD_FILE},
    {LLAMA(",\"bos_token_id\":999"), NULL, "bos_token_id: 999", WEFT_BAD_FILE},
    {LLAMA(",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]"), NULL, "more than 8", WEFT_BAD_FILE},
    {LLAMA(",\"architectures\":[\"LlamaForSequenceClassification\"]"), NULL, "architectures",
     WEFT_UNSUPPORTED},
    {LLAMA(",\"quantization_config\":{\"quant_method\":\"awq\"}"), NULL, "\"awq\"",
     WEFT_UNSUPPORTED},
    {QUANT("pack-quantized", CHANNEL, "null", "\"lm_head\""), NULL, "format: \"pack-quantized\"",
     WEFT_UNSUPPORTED},
    {QUANT("int-quantized", GROUPED, "null", "\"lm_head\""), NULL, "weights: \"group\"",
     WEFT_UNSUPPORTED},
    {QUANT("int-quantized", CHANNEL, CHANNEL, "\"lm_head\""), NULL,
     "input_activations: \"channel\"", WEFT_UNSUPPORTED},
    {QUANT("int-quantized", CHANNEL, "null", ""), NULL, "ignore: \"nothing\"", WEFT_UNSUPPORTED},
    {QUANT("int-quantized", CHANNEL, "null", "\"lm_head\",\"model.layers.0.mlp.up_proj\""), NULL,
     "ignore: \"model.layers.0.mlp.up_proj\"", WEFT_UNSUPPORTED},
    {LLAMA(",\"quantization_config\":3"), NULL, "config.json:1:", WEFT_BAD_FILE},
    {"{\"model_type\":\"gpt2\",\"add_cross_attention\":true}", NULL, "add_cross_attention",
     WEFT_UNSUPPORTED},
    {"{\"model_type\":\"qwen3\"," SMALL ",\"num_key_value_heads\":2,\"layer_types\":"
     "[\"full_attention\"]}",
     NULL, "layer_types: 1 entries for 3 layers", WEFT_BAD_FILE},
    {"{\"model_type\":\"qwen3\"," SMALL ",\"num_key_value_heads\":2,\"layer_types\":"
     "[\"full_attention\",\"full_attention\",\"sliding_attention\"]}",
     NULL, "without a sliding_window", WEFT_BAD_FILE},
    {"{\"model_type\":\"qwen3\",\"layer_types\":[\"linear_attention\"]}", NULL,
     "\"linear_attention\"", WEFT_BAD_FILE},
    {LLAMA(""), "{\"temperature\":-1}", "generation_config.json:1:", WEFT_BAD_FILE},
    {LLAMA(""), "{\"top_p\":1.5}", "top_p", WEFT_BAD_FILE},
    {LLAMA(""), "{\"eos_token_id\":5000}", "generation_config.json: eos_token_id", WEFT_BAD_FILE},
    {LLAMA(""), "[]", "generation_config.json:1:1", WEFT_BAD_FILE},
};

CASE(int8_as_compressed_tensors_spells_it) {
    assert_int_equal(parse(LLAMA("")), WEFT_OK);
    assert_false(c.quant.weights);
    assert_int_equal(parse(QUANT("int-quantized", CHANNEL, "null", "\"lm_head\"")), WEFT_OK);
    assert_true(c.quant.weights && !c.quant.activations && !c.quant.on_load);
    assert_int_equal(parse(QUANT("int-quantized", CHANNEL, TOKEN, "\"re:.*lm_head\"")), WEFT_OK);
    assert_true(c.quant.weights && c.quant.activations);
}

/* What weft writes it reads. */
CASE(int8_as_weft_spells_it) {
    for (int act = 0; act < 2; act++) {
        buf b;
        buf_init(&b, 1 << 16);
        buf_puts(&b, "{\"model_type\":\"llama\"," SMALL ",\"quantization_config\":");
        quant_write(&b, act);
        buf_putc(&b, '}');
        assert_int_equal(parse(b.data), WEFT_OK);
        assert_true(c.quant.weights && c.quant.activations == (act == 1));
        buf_fini(&b);
    }
}

CASE(refused_with_the_key) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        weft_status s = parse2(refusals[i].text, refusals[i].generation);
        if (s != refusals[i].status)
            fail_msg("%s: %s: %s", refusals[i].text, err_status_name(s), err_message());
        expect_message(refusals[i].message);
    }
}

CASE(folders_and_hub_names) {
    assert_int_equal(config_read("meta-llama/Llama-3.2-1B", &mem, &c), WEFT_BAD_FILE);
    expect_message("huggingface-cli download meta-llama/Llama-3.2-1B --local-dir DIR");
    assert_int_equal(config_read("/nowhere/at/all", &mem, &c), WEFT_BAD_FILE);
    expect_message("/nowhere/at/all: no such folder");
    assert_int_equal(config_read("/dev/null", &mem, &c), WEFT_BAD_FILE);
    expect_message("is not a folder");
    assert_int_equal(config_read("", &mem, &c), WEFT_BAD_FILE);
    char dir[] = "/tmp/weft-config-XXXXXX";
    assert_non_null(mkdtemp(dir));
    assert_int_equal(config_read(dir, &mem, &c), WEFT_BAD_FILE);
    expect_message("config.json: no such file");
    char path[64];
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(config_read(dir, &mem, &c), WEFT_BAD_FILE);
    expect_message("is a pipe");
    unlink(path);
    rmdir(dir);
    arena_fini(&mem);
}

/* ---- Released models ---- */

static const char *fixtures(void) {
    const char *dir = getenv("WEFT_FIXTURES");
    return dir ? dir : "../shared/fixtures";
}

static const struct {
    const char *file;
    int64_t parameters; /* as published */
    rope_kind rope;
    int64_t kv_heads, head_dim;
} released[] = {
    {"hf/meta-llama--Meta-Llama-3.1-8B_config.json", 8030261248, ROPE_LLAMA3, 8, 128},
    {"hf/meta-llama--Meta-Llama-3.1-405B_config.json", 405853388800, ROPE_LLAMA3, 8, 128},
    {"hf/Qwen--Qwen3-0.6B_config.json", 596049920, ROPE_DEFAULT, 8, 128},
    {"hf/Qwen--Qwen3-8B_config.json", 8190735360, ROPE_DEFAULT, 8, 128},
    {"hf-transcribed/meta-llama--Llama-2-70b-hf_config.json", 68976648192, ROPE_DEFAULT, 8, 128},
    {"hf-transcribed/mistralai--Mistral-7B-v0.1_config.json", 7241732096, ROPE_DEFAULT, 8, 128},
    {"hf-transcribed/Qwen--Qwen2-7B_config.json", 7615616512, ROPE_DEFAULT, 4, 128},
    {"hf-transcribed/openai-community--gpt2_config.json", 124439808, ROPE_DEFAULT, 12, 64},
};

static weft_status parse_file(const char *path) {
    const char *text;
    size_t n;
    arena_fini(&mem);
    assert_int_equal(file_read(path, 1 << 24, &mem, &text, &n), WEFT_OK);
    return config_parse(path, text, n, NULL, 0, &mem, &c);
}

CASE(released_models_have_their_published_size) {
    char path[512];
    snprintf(path, sizeof path, "%s/configs", fixtures());
    if (!file_is_dir(path))
        skip();
    for (size_t i = 0; i < sizeof released / sizeof *released; i++) {
        snprintf(path, sizeof path, "%s/configs/%s", fixtures(), released[i].file);
        if (parse_file(path) != WEFT_OK)
            fail_msg("%s", err_message());
        if (config_parameters(&c) != released[i].parameters)
            fail_msg("%s: %lld parameters", path, (long long)config_parameters(&c));
        assert_int_equal(c.n_kv_heads, released[i].kv_heads);
        assert_int_equal(c.head_dim, released[i].head_dim);
        if (c.position == POSITION_ROPE)
            assert_int_equal(c.rope.kind, released[i].rope);
    }
    arena_fini(&mem);
}

/* Of the configs of many families, ours are read and the others named. */
CASE(every_released_config_is_read_or_refused) {
    char path[1024];
    snprintf(path, sizeof path, "%s/configs/hf", fixtures());
    DIR *d = opendir(path);
    if (!d) {
        skip();
        return;
    }
    int count[WEFT_STATUS_COUNT] = {0};
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/configs/hf/%s", fixtures(), e->d_name);
        weft_status s = parse_file(path);
        count[s]++;
        /* only files without a model_type (a quantiser's settings) are no config */
        if (s == WEFT_BAD_FILE)
            expect_message("model_type is missing");
        else if (s != WEFT_OK)
            assert_int_equal(s, WEFT_UNSUPPORTED);
    }
    closedir(d);
    arena_fini(&mem);
    assert_true(count[WEFT_OK] >= 8 && count[WEFT_UNSUPPORTED] >= 60);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_defaults),
        cmocka_unit_test(mistral_defaults),
        cmocka_unit_test(qwen_defaults),
        cmocka_unit_test(gpt2_defaults),
        cmocka_unit_test(rope_of_transformers_4_and_5),
        cmocka_unit_test(dynamic_reaches_past_the_trained_context),
        cmocka_unit_test(qwen_windows),
        cmocka_unit_test(end_of_sequence_ids),
        cmocka_unit_test(generation_defaults),
        cmocka_unit_test(int8_as_compressed_tensors_spells_it),
        cmocka_unit_test(int8_as_weft_spells_it),
        cmocka_unit_test(refused_with_the_key),
        cmocka_unit_test(folders_and_hub_names),
        cmocka_unit_test(released_models_have_their_published_size),
        cmocka_unit_test(every_released_config_is_read_or_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_fini(&mem);
    return failed;
}
