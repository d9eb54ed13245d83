/* SPDX-License-Identifier: Apache-2.0
 * One shard at a time, one tensor in memory at a time. */
#include "host/model/quantize.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/thread.h"
#include "host/model/quant.h"
#include "host/model/weights.h"
#include "host/model/weights_convert.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_BYTES = 16 << 20 };

typedef enum { OUT_COPY, OUT_MATRIX, OUT_SCALE } out_role;

typedef struct {
    const quantize_job *job;
    quantize_result r;
    arena mem;
    model_config c;
    safetensors st;
    uint8_t *kind; /* [ntensor] weights_matrices' */
    weft_stream *stream;
    bool made; /* the folder is ours to take away again */
    /* the file being written */
    st_tensor *out; /* [3 ntensor] at most: a matrix and its scales, or a copy and its alias */
    const st_tensor **src;
    out_role *role;
    int n;
    /* the matrix in memory */
    int8_t *q, *turned;
    float *scale;
    buf index;
} quantizer;

/* ---- One tensor ---- */

static int64_t rows_of(const quantizer *z, const st_tensor *t) {
    return t->shape[z->kind[t - z->st.tensor] == WEIGHTS_TRANSPOSED];
}

static void turn(const int8_t *from, int64_t rows, int64_t cols, int8_t *to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            to[j * rows + i] = from[i * cols + j];
}

/* Numbers and scales of a matrix; the numbers lie as the file's did. */
static weft_status make_matrix(quantizer *z, const st_tensor *t, const void **data) {
    bool transposed = z->kind[t - z->st.tensor] == WEIGHTS_TRANSPOSED;
    int64_t n = rows_of(z, t), k = t->shape[!transposed];
    weight_source f = {.data = t->data, .dtype = t->dtype, .rows = n, .cols = k};
    f.row = transposed ? 1 : k;
    f.col = transposed ? n : 1;
    z->q = mem_grow(z->q, (size_t)(n * k));
    z->scale = mem_grow(z->scale, (size_t)n * sizeof *z->scale);
    weight_convert(z->stream, &f, &f, WEFT_F32, (char *)z->scale);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(z->scale[i]))
            return weft_fail(WEFT_BAD_FILE,
                             "%s: tensor \"%s\" holds a NaN or an infinity (output %" PRId64 ")",
                             t->file, t->name, i);
    weight_convert(z->stream, &f, &f, WEFT_I8, (char *)z->q);
    *data = z->q;
    if (transposed) {
        z->turned = mem_grow(z->turned, (size_t)(n * k));
        turn(z->q, n, k, z->turned);
        *data = z->turned;
    }
    return WEFT_OK;
}

static weft_status produce(void *ctx, int i, const void **data) {
    quantizer *z = ctx;
    const st_tensor *t = z->src[i];
    *data = z->scale;
    if (z->role[i] == OUT_SCALE)
        return WEFT_OK;
    *data = t->data;
    if (z->role[i] == OUT_MATRIX)
        WEFT_TRY(make_matrix(z, t, data));
    if (z->job->step)
        z->job->step(z->job->user, (int64_t)t->bytes);
    return WEFT_OK;
}

/* ---- One file ---- */

static void add_out(quantizer *z, st_tensor t, const st_tensor *src, out_role role,
                    const char *file) {
    z->out[z->n] = t;
    z->src[z->n] = src;
    z->role[z->n++] = role;
    z->r.bytes_to += t.bytes;
    buf_puts(&z->index, z->index.len ? ",\n    " : "    ");
    buf_json_string(&z->index, t.name, strlen(t.name));
    buf_puts(&z->index, ": ");
    buf_json_string(&z->index, file, strlen(file));
}

static void add_tensor(quantizer *z, const st_tensor *t) {
    st_tensor o = *t;
    z->r.bytes_from += t->bytes;
    if (z->kind[t - z->st.tensor] == WEIGHTS_OTHER) {
        add_out(z, o, t, OUT_COPY, t->file);
        return;
    }
    int64_t n = rows_of(z, t);
    o.dtype = WEFT_I8;
    o.bytes = (uint64_t)(t->shape[0] * t->shape[1]);
    add_out(z, o, t, OUT_MATRIX, t->file);
    o = (st_tensor){.dtype = WEFT_F32, .ndim = 2, .shape = {n, 1}, .bytes = (uint64_t)n * 4};
    o.name = arena_printf(&z->mem, "%s_scale", t->name);
    add_out(z, o, t, OUT_SCALE, t->file);
    z->r.matrices++;
}

/* The writer keeps no metadata: a name that is stored under another gets a tensor of its own. */
static void add_aliases(quantizer *z, int file) {
    for (int i = 0; i < z->st.nalias && !z->c.tied; i++) {
        const st_tensor *t = safetensors_find(&z->st, z->st.alias[i].to);
        st_tensor o = t ? *t : (st_tensor){0};
        o.name = z->st.alias[i].from;
        if (t && t->file_index == file && z->kind[t - z->st.tensor] == WEIGHTS_OTHER)
            add_out(z, o, t, OUT_COPY, t->file);
    }
}

static weft_status write_shard(quantizer *z, int file) {
    const char *name = NULL;
    z->n = 0;
    for (int i = 0; i < z->st.ntensor; i++)
        if (z->st.tensor[i].file_index == file) {
            name = z->st.tensor[i].file;
            add_tensor(z, &z->st.tensor[i]);
        }
    if (!name)
        return WEFT_OK;
    add_aliases(z, file);
    z->r.files++;
    return safetensors_write_from(file_join(&z->mem, z->job->to, name), z->out, z->n, produce, z);
}

/* ---- The folder ---- */

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* Weights in any format, their indices, and what is written anew. */
static bool is_left_out(const char *name) {
    static const char *const tails[] = {".safetensors", ".index.json", ".bin", ".pt",
                                        ".pth",         ".gguf",       ".h5",  ".onnx",
                                        ".ckpt",        ".msgpack"};
    if (name[0] == '.' || strcmp(name, "config.json") == 0)
        return true;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        if (ends_with(name, tails[i]))
            return true;
    return false;
}

static weft_status copy_file(quantizer *z, const char *name) {
    file_map m;
    const char *from = file_join(&z->mem, z->job->from, name);
    if (file_is_dir(from))
        return WEFT_OK;
    WEFT_TRY(file_map_open(from, &m));
    weft_status s = file_write_atomic(file_join(&z->mem, z->job->to, name), m.data, m.size);
    file_map_close(&m);
    return s;
}

static weft_status copy_rest(quantizer *z) {
    DIR *d = opendir(z->job->from);
    weft_status s = WEFT_OK;
    if (!d)
        return weft_fail(WEFT_IO, "%s: cannot list: %m", z->job->from);
    for (struct dirent *e; s == WEFT_OK && (e = readdir(d));)
        if (!is_left_out(e->d_name))
            s = copy_file(z, e->d_name);
    closedir(d);
    return s;
}

/* A set and a single file side by side would contradict each other: what is not ours goes. */
static weft_status write_index(quantizer *z) {
    const char *index = file_join(&z->mem, z->job->to, "model.safetensors.index.json");
    if (!ends_with(z->st.path, ".index.json")) {
        unlink(index);
        return WEFT_OK;
    }
    unlink(file_join(&z->mem, z->job->to, "model.safetensors"));
    buf b;
    buf_init(&b, SIZE_MAX);
    buf_printf(&b, "{\n  \"metadata\": {\"total_size\": %" PRIu64 "},\n  \"weight_map\": {\n",
               z->r.bytes_to);
    buf_add(&b, z->index.data, z->index.len);
    buf_puts(&b, "\n  }\n}\n");
    weft_status s = file_write_atomic(index, b.data, b.len);
    buf_fini(&b);
    return s;
}

/* config.json key by key, as it was spelt, and quantization_config behind. */
static weft_status write_config(quantizer *z) {
    const char *from = file_join(&z->mem, z->job->from, "config.json"), *text;
    size_t n;
    json j;
    buf b;
    WEFT_TRY(file_read(from, CONFIG_BYTES, &z->mem, &text, &n));
    buf_init(&b, SIZE_MAX);
    buf_puts(&b, "{\n");
    json_init(&j, from, text, n, &z->mem);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        json_str value = json_raw(&j);
        buf_puts(&b, "  ");
        buf_json_string(&b, key.s, key.n);
        buf_puts(&b, ": ");
        buf_add(&b, value.s, value.n);
        buf_puts(&b, ",\n");
    }
    buf_puts(&b, "  \"quantization_config\": ");
    quant_write(&b, z->job->activations);
    buf_puts(&b, "\n}\n");
    weft_status s = json_done(&j);
    if (s == WEFT_OK)
        s = file_write_atomic(file_join(&z->mem, z->job->to, "config.json"), b.data, b.len);
    buf_fini(&b);
    return s;
}

static bool same_folder(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static weft_status make_folder(quantizer *z) {
    const char *to = z->job->to;
    if (same_folder(z->job->from, to))
        return weft_fail(WEFT_USAGE, "--output: %s is the model itself; give another folder", to);
    z->made = mkdir(to, 0777) == 0;
    if (z->made)
        return WEFT_OK;
    if (errno != EEXIST)
        return weft_fail(WEFT_IO, "%s: cannot create: %m", to);
    if (!z->job->force || !file_is_dir(to))
        return weft_fail(WEFT_USAGE, "--output: %s exists%s", to,
                         file_is_dir(to) ? "; --force replaces its files" : " and is no folder");
    unlink(file_join(&z->mem, to, "config.json"));
    return WEFT_OK;
}

/* Takes away a folder that was made here and could not be finished. */
static void remove_made(quantizer *z) {
    DIR *d = z->made ? opendir(z->job->to) : NULL;
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlink(file_join(&z->mem, z->job->to, e->d_name));
    closedir(d);
    rmdir(z->job->to);
}

/* ---- The whole ---- */

static weft_status open_source(quantizer *z) {
    const char *from = z->job->from;
    WEFT_TRY(config_read(from, &z->mem, &z->c));
    if (z->c.quant.weights)
        return weft_fail(WEFT_USAGE, "%s: is int8 already", from);
    WEFT_TRY(safetensors_open(from, &z->st));
    z->kind = arena_alloc(&z->mem, (size_t)z->st.ntensor + 1);
    WEFT_TRY(weights_matrices(&z->c, &z->st, z->kind));
    size_t most = 3 * (size_t)z->st.ntensor + 1;
    z->out = ARENA_NEW(&z->mem, st_tensor, most);
    z->src = ARENA_NEW(&z->mem, const st_tensor *, most);
    z->role = ARENA_NEW(&z->mem, out_role, most);
    return WEFT_OK;
}

static weft_status write_all(quantizer *z) {
    for (int i = 0; i < z->st.nfile; i++)
        WEFT_TRY(write_shard(z, i));
    WEFT_TRY(write_index(z));
    WEFT_TRY(copy_rest(z));
    return write_config(z);
}

static weft_status work(quantizer *z) {
    int64_t total = 0;
    WEFT_TRY(open_source(z));
    WEFT_TRY(make_folder(z));
    for (int i = 0; i < z->st.ntensor; i++)
        total += (int64_t)z->st.tensor[i].bytes;
    if (z->job->start)
        z->job->start(z->job->user, total);
    int threads = z->job->threads ? z->job->threads : thread_cores();
    weft_status s = thread_pool_open(threads, &z->stream);
    if (s == WEFT_OK)
        s = write_all(z);
    thread_pool_close(z->stream);
    return s;
}

weft_status quantize_folder(const quantize_job *job, quantize_result *out) {
    quantizer z = {.job = job};
    buf_init(&z.index, SIZE_MAX);
    weft_status s = work(&z);
    if (s == WEFT_OK)
        *out = z.r;
    else
        remove_made(&z);
    buf_fini(&z.index);
    safetensors_close(&z.st);
    mem_free(z.q);
    mem_free(z.turned);
    mem_free(z.scale);
    arena_fini(&z.mem);
    return s;
}
