/* SPDX-License-Identifier: Apache-2.0
 * Adapters in and out. lora_merge.c makes a model of a model and an adapter. */
#include "host/train/lora.h"
#include "host/base/err.h"
#include "host/base/json.h"
#include "host/model/safetensors.h"
#include <string.h>

enum { CONFIG_BYTES = 1 << 20, MAX_TARGETS = 64 };

/* ---- adapter_config.json ---- */

/* peft's switches that would change what an adapter computes. */
static bool is_refused(json *j, json_str key) {
    static const char *const flags[] = {"use_dora", "use_rslora", "use_qalora"};
    static const char *const objects[] = {"rank_pattern", "alpha_pattern"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_is(key, flags[i]))
            return json_peek(j) == JSON_BOOL && json_bool(j);
    for (size_t i = 0; i < sizeof objects / sizeof *objects; i++)
        if (json_is(key, objects[i]) && json_peek(j) == JSON_OBJECT) {
            json_str k;
            bool any = false;
            for (json_object(j); json_key(j, &k);)
                any = true;
            return any;
        }
    if (json_is(key, "bias") && json_peek(j) == JSON_STRING)
        return !json_is(json_string(j), "none");
    return false;
}

static void read_targets(json *j, arena *a, train_options *o) {
    const char **target = ARENA_NEW(a, const char *, MAX_TARGETS);
    int n = 0;
    json_array(j);
    while (json_item(j)) {
        if (n == MAX_TARGETS) {
            json_fail(j, "more than %d targets", MAX_TARGETS);
            return;
        }
        target[n++] = json_text(j);
    }
    o->lora_target = target;
    o->n_lora_target = n;
}

weft_status lora_read_config(const char *dir, arena *a, train_options *o, bool *turned) {
    const char *path = file_join(a, dir, "adapter_config.json"), *text;
    size_t n;
    json j;
    bool lora = false;
    WEFT_TRY(file_read(path, CONFIG_BYTES, a, &text, &n));
    json_init(&j, path, text, n, a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        if (json_is(key, "r"))
            o->lora_rank = (int)json_int(&j, 1, 4096);
        else if (json_is(key, "lora_alpha"))
            o->lora_alpha = json_double(&j);
        else if (json_is(key, "target_modules"))
            read_targets(&j, a, o);
        else if (json_is(key, "peft_type"))
            lora = json_is(json_string(&j), "LORA");
        else if (json_is(key, "fan_in_fan_out") && turned)
            *turned = json_bool(&j);
        else if (is_refused(&j, key))
            return weft_fail(WEFT_UNSUPPORTED, "%s: %.*s is not supported; plain LoRA is", path,
                             (int)key.n, key.s);
    }
    WEFT_TRY(json_done(&j));
    if (!lora || o->lora_rank < 1 || o->n_lora_target < 1)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: peft_type is not LORA, or r or target_modules is "
                         "missing",
                         path);
    return WEFT_OK;
}

/* Whether the adapted matrices are stored [K, N]. */
static bool is_transposed(const trainer *t) {
    for (int i = 0; i < t->params.n; i++)
        if (t->params.param[i].kind != PARAM_WEIGHT)
            return t->params.stored[t->params.param[i].stored].transposed;
    return false;
}

static void config_text(const trainer *t, buf *b) {
    int n;
    const char *const *target = options_lora_targets(&t->o, &n);
    buf_puts(b, "{\n  \"base_model_name_or_path\": ");
    buf_json_string(b, t->o.model, strlen(t->o.model));
    buf_printf(b, ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": %s,\n  \"lora_alpha\": ",
               is_transposed(t) ? "true" : "false");
    buf_json_double(b, t->o.lora_alpha);
    buf_printf(b,
               ",\n  \"lora_dropout\": 0.0,\n  \"peft_type\": \"LORA\",\n  \"r\": %d,\n"
               "  \"target_modules\": [",
               t->o.lora_rank);
    for (int i = 0; i < n; i++) {
        buf_puts(b, i ? ", " : "");
        buf_json_string(b, target[i], strlen(target[i]));
    }
    buf_puts(b, "],\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_rslora\": false\n}\n");
}

weft_status lora_write_config(const trainer *t, const char *dir) {
    arena a = {0};
    buf b;
    buf_init(&b, CONFIG_BYTES);
    config_text(t, &b);
    weft_status s = file_write_atomic(file_join(&a, dir, "adapter_config.json"), b.data, b.len);
    buf_fini(&b);
    arena_fini(&a);
    return s;
}

/* ---- Numbers ---- */

float lora_number(const st_tensor *t, int64_t i) {
    float f;
    uint16_t h;
    if (t->dtype == WEFT_F32) {
        memcpy(&f, (const char *)t->data + 4 * i, 4);
        return f;
    }
    memcpy(&h, (const char *)t->data + 2 * i, 2);
    return t->dtype == WEFT_BF16 ? weft_bf16_to_f32(h) : weft_f16_to_f32(h);
}

static weft_status load_matrix(trainer *t, const safetensors *st, int index) {
    const param *p = &t->params.param[index];
    const st_tensor *x = safetensors_find(st, p->name);
    if (!x)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: tensor \"%s\" is missing; the adapter has other "
                         "targets than --lora-targets",
                         st->path, p->name);
    if (x->ndim != 2 || x->shape[0] != p->rows || x->shape[1] != p->cols)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: tensor \"%s\" has not the shape [%lld, %lld]; is "
                         "--lora-r %d its rank?",
                         st->path, p->name, (long long)p->rows, (long long)p->cols, t->o.lora_rank);
    if (x->dtype != WEFT_F32 && x->dtype != WEFT_BF16 && x->dtype != WEFT_F16)
        return weft_fail(WEFT_BAD_FILE, "%s: tensor \"%s\" is stored as %s (F32, F16, BF16)",
                         st->path, p->name, x->dtype_name);
    int64_t n = param_count(p);
    float *f = mem_alloc(sizeof(float) * (size_t)n);
    for (int64_t i = 0; i < n; i++)
        f[i] = lora_number(x, i);
    weft_status s = trainer_write(t, index, 'p', f);
    mem_free(f);
    return s;
}

weft_status lora_load(trainer *t, const char *dir) {
    safetensors st;
    arena a = {0};
    weft_status s = safetensors_open(file_join(&a, dir, "adapter_model.safetensors"), &st);
    if (s == WEFT_OK) {
        for (int i = 0; s == WEFT_OK && i < t->params.n; i++)
            if (t->params.param[i].kind != PARAM_WEIGHT)
                s = load_matrix(t, &st, i);
        safetensors_close(&st);
    }
    arena_fini(&a);
    return s == WEFT_OK ? trainer_refresh(t) : s;
}
