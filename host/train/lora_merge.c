/* SPDX-License-Identifier: Apache-2.0
 * A model folder out of a model and an adapter. */
#include "host/base/err.h"
#include "host/train/lora.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    arena mem;
    train_options o; /* of the adapter */
    bool turned;     /* its matrices are stored [K, N]; tells squares apart */
    safetensors model, adapter;
    const char *from, *to;
    const st_tensor **tensor; /* of the model that go into one file, in order */
    char *merged;             /* the tensor being written */
    bool *used;               /* of the adapter's */
    lora_merged *out;
} merger;

/* The adapter's A and B of a tensor "X.weight"; false: it has none. */
static bool find_pair(merger *m, const char *name, const st_tensor **a, const st_tensor **b) {
    size_t n = strlen(name);
    char key[512];
    if (n < 8 || strcmp(name + n - 7, ".weight") != 0)
        return false;
    snprintf(key, sizeof key, "base_model.model.%.*s.lora_A.weight", (int)(n - 7), name);
    *a = safetensors_find(&m->adapter, key);
    snprintf(key, sizeof key, "base_model.model.%.*s.lora_B.weight", (int)(n - 7), name);
    *b = safetensors_find(&m->adapter, key);
    return *a && *b;
}

static void put_number(char *to, int dtype, int64_t i, float x) {
    uint16_t h = dtype == WEFT_BF16 ? weft_f32_to_bf16(x) : weft_f32_to_f16(x);
    if (dtype == WEFT_F32)
        memcpy(to + 4 * i, &x, 4);
    else
        memcpy(to + 2 * i, &h, 2);
}

static bool is_float(const st_tensor *t) {
    return t->dtype == WEFT_F32 || t->dtype == WEFT_BF16 || t->dtype == WEFT_F16;
}

/* A [r, K] and B [N, r] over w [N, K], or, stored transposed, [K, N]. */
static weft_status check_pair(const merger *m, const st_tensor *w, const st_tensor *a,
                              const st_tensor *b, bool *turned) {
    int64_t r = m->o.lora_rank;
    bool fits = w->ndim == 2 && a->ndim == 2 && b->ndim == 2 && a->shape[0] == r &&
                b->shape[1] == r && is_float(w) && is_float(a) && is_float(b);
    bool plain = fits && w->shape[0] == b->shape[0] && w->shape[1] == a->shape[1];
    bool other = fits && w->shape[1] == b->shape[0] && w->shape[0] == a->shape[1];
    if (!plain && !other)
        return weft_fail(WEFT_BAD_FILE, "%s: the adapter of \"%s\" has not its shape or rank %lld",
                         m->adapter.path, w->name, (long long)r);
    *turned = !plain || (other && m->turned);
    return WEFT_OK;
}

static void merge(const merger *m, const st_tensor *w, const st_tensor *a, const st_tensor *b,
                  bool turned) {
    int64_t N = b->shape[0], K = a->shape[1], r = a->shape[0];
    float scale = (float)(m->o.lora_alpha / m->o.lora_rank);
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++) {
            int64_t i = turned ? k * N + n : n * K + k;
            double sum = 0;
            for (int64_t j = 0; j < r; j++)
                sum += (double)lora_number(b, n * r + j) * (double)lora_number(a, j * K + k);
            put_number(m->merged, w->dtype, i, lora_number(w, i) + scale * (float)sum);
        }
}

static weft_status produce(void *ctx, int i, const void **data) {
    merger *m = ctx;
    const st_tensor *w = m->tensor[i], *a, *b;
    bool turned = false;
    *data = w->data;
    m->out->tensors++;
    m->out->bytes += w->bytes;
    if (!find_pair(m, w->name, &a, &b))
        return WEFT_OK;
    WEFT_TRY(check_pair(m, w, a, b, &turned));
    m->used[a - m->adapter.tensor] = m->used[b - m->adapter.tensor] = true;
    m->merged = mem_grow(m->merged, w->bytes + 1);
    merge(m, w, a, b, turned);
    m->out->matrices++;
    *data = m->merged;
    return WEFT_OK;
}

static weft_status merge_file(merger *m, int file) {
    st_tensor *list = ARENA_NEW(&m->mem, st_tensor, m->model.ntensor);
    const char *name = "model.safetensors";
    int n = 0;
    for (int i = 0; i < m->model.ntensor; i++)
        if (m->model.tensor[i].file_index == file) {
            m->tensor[n] = &m->model.tensor[i];
            name = m->model.tensor[i].file;
            list[n++] = m->model.tensor[i];
        }
    return safetensors_write_from(file_join(&m->mem, m->to, name), list, n, produce, m);
}

static bool ends_in(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Everything beside the weights comes along, the index of a set too. */
static weft_status copy_rest(merger *m) {
    DIR *d = opendir(m->from);
    weft_status s = d ? WEFT_OK : weft_fail(WEFT_IO, "%s: cannot list: %m", m->from);
    for (const struct dirent *e; s == WEFT_OK && (e = readdir(d));) {
        const char *from = file_join(&m->mem, m->from, e->d_name);
        file_map map;
        if (e->d_name[0] == '.' || file_is_dir(from) || ends_in(e->d_name, ".safetensors") ||
            ends_in(e->d_name, ".bin"))
            continue;
        s = file_map_open(from, &map);
        if (s != WEFT_OK)
            break;
        s = file_write_atomic(file_join(&m->mem, m->to, e->d_name), map.data, map.size);
        file_map_close(&map);
    }
    if (d)
        closedir(d);
    return s;
}

static weft_status check_used(const merger *m) {
    for (int i = 0; i < m->adapter.ntensor; i++)
        if (!m->used[i])
            return weft_fail(WEFT_BAD_FILE, "%s: tensor \"%s\" belongs to no matrix of %s",
                             m->adapter.path, m->adapter.tensor[i].name, m->from);
    return WEFT_OK;
}

static weft_status merge_all(merger *m, const char *adapter, bool force) {
    WEFT_TRY(lora_read_config(adapter, &m->mem, &m->o, &m->turned));
    WEFT_TRY(safetensors_open(m->from, &m->model));
    const char *file = file_join(&m->mem, adapter, "adapter_model.safetensors");
    WEFT_TRY(safetensors_open(file, &m->adapter));
    m->used = ARENA_NEW(&m->mem, bool, m->adapter.ntensor + 1);
    m->tensor = ARENA_NEW(&m->mem, const st_tensor *, m->model.ntensor);
    if (mkdir(m->to, 0777) != 0 && (errno != EEXIST || !force))
        return weft_fail(errno == EEXIST ? WEFT_USAGE : WEFT_IO,
                         "%s: cannot create the folder: %m%s", m->to,
                         errno == EEXIST ? "; --force writes into it" : "");
    for (int i = 0; i < m->model.nfile; i++)
        WEFT_TRY(merge_file(m, i));
    WEFT_TRY(check_used(m));
    return copy_rest(m);
}

weft_status lora_merge(const char *model, const char *adapter, const char *to, bool force,
                       lora_merged *out) {
    merger m = {.from = model, .to = to, .out = out};
    *out = (lora_merged){.matrices = 0};
    weft_status s = merge_all(&m, adapter, force);
    mem_free(m.merged);
    safetensors_close(&m.adapter);
    safetensors_close(&m.model);
    arena_fini(&m.mem);
    return s;
}
