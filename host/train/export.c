/* SPDX-License-Identifier: Apache-2.0
 * Writing models, adapters and gradients. */
#include "host/train/export.h"
#include "host/base/err.h"
#include "host/train/lora.h"
#include <dirent.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIDECAR_BYTES = 256 << 20 };

typedef struct {
    const trainer *t;
    char what;
    int dtype;
    export_read *read;
    void *ctx;
    st_tensor *tensor;
    int *first; /* [n] parameter that is part 0 of the tensor */
    int n;
    float *part;  /* one parameter */
    char *stored; /* one tensor */
    size_t most_part, most_stored;
} exporter;

static bool is_written(const exporter *e, const param *p) {
    if (e->t->o.lora_rank > 0)
        return p->kind != PARAM_WEIGHT;
    return p->part == 0 && (e->what != 'g' || p->trained);
}

static void note_tensor(exporter *e, int index) {
    const param *p = &e->t->params.param[index];
    const weight_stored *s = &e->t->params.stored[p->stored];
    st_tensor *out = &e->tensor[e->n];
    *out = (st_tensor){.name = p->name, .dtype = e->dtype, .ndim = p->cols ? 2 : 1};
    out->shape[0] = p->rows;
    out->shape[1] = p->cols;
    if (p->kind == PARAM_WEIGHT)
        memcpy(out->shape, s->shape, sizeof s->shape);
    int64_t count = out->shape[0] * (out->ndim == 2 ? out->shape[1] : 1);
    out->bytes = (uint64_t)weft_dtype_bytes(e->dtype, count);
    e->first[e->n++] = index;
    size_t part = sizeof(float) * (size_t)param_count(p), stored = sizeof(float) * (size_t)count;
    e->most_part = part > e->most_part ? part : e->most_part;
    e->most_stored = stored > e->most_stored ? stored : e->most_stored;
}

/* In place: a narrower number ends before the wider ones still to be read begin. */
static void narrow(char *stored, int64_t n, int dtype) {
    for (int64_t i = 0; dtype == WEFT_BF16 && i < n; i++) {
        float x;
        memcpy(&x, stored + 4 * i, 4);
        uint16_t h = weft_f32_to_bf16(x);
        memcpy(stored + 2 * i, &h, 2);
    }
}

static weft_status produce(void *ctx, int i, const void **data) {
    exporter *e = ctx;
    const params *ps = &e->t->params;
    const param *p = &ps->param[e->first[i]];
    int parts = p->kind == PARAM_WEIGHT ? ps->stored[p->stored].parts : 1;
    *data = e->stored;
    if (p->kind != PARAM_WEIGHT)
        return e->read(e->ctx, e->first[i], e->what, (float *)(void *)e->stored);
    for (int part = 0; part < parts; part++) {
        WEFT_TRY(e->read(e->ctx, e->first[i] + part, e->what, e->part));
        weights_store_part(&ps->stored[p->stored], part, 4, e->part, e->stored);
    }
    narrow(e->stored, (int64_t)(e->tensor[i].bytes / (uint64_t)weft_dtype_bytes(e->dtype, 1)),
           e->dtype);
    return WEFT_OK;
}

weft_status export_file(const trainer *t, const char *path, char what, int dtype, export_read *read,
                        void *ctx) {
    exporter e = {.t = t, .what = what, .dtype = dtype, .read = read, .ctx = ctx};
    e.tensor = mem_alloc(sizeof *e.tensor * (size_t)t->params.n);
    e.first = mem_alloc(sizeof *e.first * (size_t)t->params.n);
    for (int i = 0; i < t->params.n; i++)
        if (is_written(&e, &t->params.param[i]))
            note_tensor(&e, i);
    e.part = malloc(e.most_part + 1);
    e.stored = malloc(e.most_stored + 1);
    weft_status s = e.part && e.stored
                        ? safetensors_write_from(path, e.tensor, e.n, produce, &e)
                        : weft_fail(WEFT_NO_MEMORY, "%s: no memory for its largest tensor", path);
    free(e.stored);
    free(e.part);
    mem_free(e.first);
    mem_free(e.tensor);
    return s;
}

weft_status export_from_device(void *ctx, int index, char what, float *out) {
    return trainer_read(ctx, index, what, out);
}

/* The mean begins at 0: divided by the share of it that is weights (Kingma and Ba, 2015). */
weft_status export_mean(void *ctx, int index, char what, float *out) {
    const export_mean_of *from = ctx;
    const trainer *t = from->t;
    const param *p = &t->params.param[index];
    (void)what;
    WEFT_TRY(from->read(from->ctx, index, p->trained ? 'e' : 'p', out));
    double left = 1;
    for (int64_t i = 0; i < t->done; i++)
        left *= t->o.ema;
    for (int64_t i = 0; p->trained && t->done > 0 && i < param_count(p); i++)
        out[i] = (float)((double)out[i] / (1 - left));
    return WEFT_OK;
}

const char *export_weights_name(const trainer *t) {
    return t->o.lora_rank > 0 ? "adapter_model.safetensors" : "model.safetensors";
}

/* ---- What lies beside ---- */

/* Tokenizers, templates and settings, by the names they have in Hugging Face's folders. */
static bool is_sidecar(const char *name) {
    static const char *const patterns[] = {"tokenizer*.json",
                                           "tokenizer.model",
                                           "spiece.model",
                                           "*.tiktoken",
                                           "vocab.json",
                                           "vocab.txt",
                                           "merges.txt",
                                           "added_tokens.json",
                                           "encoder.json",
                                           "chat_template.*",
                                           "special_tokens_map.json",
                                           "vocab.bpe",
                                           "generation_config.json"};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (fnmatch(patterns[i], name, 0) == 0)
            return true;
    return false;
}

static weft_status copy_file(const char *from, const char *to) {
    arena a = {0};
    const char *text;
    size_t n;
    weft_status s = file_read(from, SIDECAR_BYTES, &a, &text, &n);
    if (s == WEFT_OK)
        s = file_write_atomic(to, text, n);
    arena_fini(&a);
    return s;
}

static weft_status copy_sidecars(const trainer *t, const char *dir, arena *a) {
    const char *folder = trainer_folder(&t->o, a);
    DIR *d = opendir(folder);
    weft_status s = WEFT_OK;
    for (const struct dirent *e; d && s == WEFT_OK && (e = readdir(d));) {
        const char *from = file_join(a, folder, e->d_name);
        if (is_sidecar(e->d_name) && !file_is_dir(from))
            s = copy_file(from, file_join(a, dir, e->d_name));
    }
    if (d)
        closedir(d);
    return s;
}

static weft_status write_config(const trainer *t, const char *dir, arena *a) {
    const char *path = file_join(a, dir, "config.json");
    return file_write_atomic(path, t->config_text, t->config_bytes);
}

weft_status export_sidecars(const trainer *t, const char *dir) {
    arena a = {0};
    weft_status s = t->o.lora_rank > 0 ? lora_write_config(t, dir) : write_config(t, dir, &a);
    if (s == WEFT_OK)
        s = copy_sidecars(t, dir, &a);
    arena_fini(&a);
    return s;
}
