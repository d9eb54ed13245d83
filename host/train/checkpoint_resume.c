/* SPDX-License-Identifier: Apache-2.0
 * Reading checkpoints back: the manifest first, every file's size and hash, then the numbers. */
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/base/json.h"
#include "host/train/checkpoint_files.h"
#include "host/train/export.h"
#include "host/train/lora.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_FILE = 1 << 20 };

typedef struct {
    checkpointer *c;
    const char *dir;
    arena mem;
    void (*tell)(void *user, const char *message);
    void *user;
} reader;

/* ---- Whole or not ---- */

static weft_status check_file(const reader *r, const char *name, int64_t bytes, uint64_t hash) {
    file_map m;
    arena a = {0};
    const char *path = file_join(&a, r->dir, name);
    weft_status s = file_map_open(path, &m);
    if (s == WEFT_OK) {
        if (m.size != (uint64_t)bytes)
            s = weft_fail(WEFT_BAD_FILE, "%s: has %zu bytes; manifest.json says %lld", path, m.size,
                          (long long)bytes);
        else if (hash_xxh3(m.data, m.size) != hash)
            s = weft_fail(WEFT_BAD_FILE, "%s: is damaged: its XXH3 is not manifest.json's", path);
        file_map_close(&m);
    }
    arena_fini(&a);
    return s;
}

static uint64_t hex_of(json *j) {
    char *end, *text = json_text(j);
    uint64_t v = strtoull(text, &end, 16);
    if (strlen(text) != 16 || *end)
        json_fail(j, "not 16 hexadecimal digits");
    return v;
}

static weft_status check_entry(reader *r, json *j, int *files) {
    const char *name = "";
    int64_t bytes = -1;
    uint64_t hash = 0;
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "name"))
            name = json_text(j);
        else if (json_is(key, "bytes"))
            bytes = json_int(j, 0, INT64_MAX);
        else if (json_is(key, "xxh3"))
            hash = hex_of(j);
    }
    if (json_failed(j))
        return WEFT_OK; /* json_done says why */
    if (!*name || strchr(name, '/') || bytes < 0)
        return weft_fail(WEFT_BAD_FILE, "%s/manifest.json: an entry has no plain name or no size",
                         r->dir);
    ++*files;
    return check_file(r, name, bytes, hash);
}

static weft_status check_manifest(reader *r, int64_t step) {
    const char *path = file_join(&r->mem, r->dir, "manifest.json"), *text;
    size_t n;
    json j;
    int files = 0;
    int64_t says = -1;
    WEFT_TRY(file_read(path, SMALL_FILE, &r->mem, &text, &n));
    json_init(&j, path, text, n, &r->mem);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        if (json_is(key, "step"))
            says = json_int(&j, 0, INT64_MAX);
        if (!json_is(key, "files"))
            continue;
        json_array(&j);
        while (json_item(&j))
            WEFT_TRY(check_entry(r, &j, &files));
    }
    WEFT_TRY(json_done(&j));
    if (says != step || files < 3)
        return weft_fail(WEFT_BAD_FILE, "%s: is not of step %lld, or lists too few files", path,
                         (long long)step);
    return WEFT_OK;
}

/* ---- Of this run or not ---- */

static bool is_structural(json_str key) {
    static const char *const keys[] = {"dtype",  "batch_size", "seq_len", "shards",
                                       "lora_r", "optimizer",  "freeze",  "lora_targets"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (json_is(key, keys[i]))
            return true;
    return false;
}

/* The value of `key` in the options as they are now; empty: unknown key. */
static json_str now_value(json *now, json_str key) {
    json_str found = {"", 0};
    json_object(now);
    for (json_str k; json_key(now, &k);) {
        json_str v = json_raw(now);
        if (k.n == key.n && memcmp(k.s, key.s, k.n) == 0)
            found = v;
    }
    return found;
}

static weft_status compare_options(reader *r, json *j, const buf *now) {
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        json other;
        json_init(&other, "train.json", now->data, now->len, &r->mem);
        json_str was = json_raw(j), is = now_value(&other, key);
        if (is.n == 0 || (was.n == is.n && memcmp(was.s, is.s, is.n) == 0))
            continue;
        if (is_structural(key))
            return weft_fail(WEFT_USAGE,
                             "%s: was made with %.*s %.*s, now it is %.*s; resume with the same "
                             "or give another -o",
                             r->dir, (int)key.n, key.s, (int)was.n, was.s, (int)is.n, is.s);
        bool asked = r->c->epoch == 0 || !json_is(key, "micro_batch"); /* else the mesh's doing */
        if (r->tell && asked && !json_is(key, "model") && !json_is(key, "device"))
            r->tell(r->user, arena_printf(&r->mem, "resuming: %.*s is now %.*s, was %.*s",
                                          (int)key.n, key.s, (int)is.n, is.s, (int)was.n, was.s));
    }
    return WEFT_OK;
}

static weft_status read_options(reader *r, json *j) {
    buf now;
    buf_init(&now, SMALL_FILE);
    options_json(&now, &r->c->t->o, &r->c->facts);
    weft_status s = compare_options(r, j, &now);
    buf_fini(&now);
    return s;
}

static double number_or_nan(json *j) {
    if (json_peek(j) != JSON_NULL)
        return json_double(j);
    json_null(j);
    return (double)NAN;
}

static weft_status read_progress(reader *r, train_progress *p) {
    const char *path = file_join(&r->mem, r->dir, "train.json"), *text;
    size_t n;
    json j;
    WEFT_TRY(file_read(path, SMALL_FILE, &r->mem, &text, &n));
    json_init(&j, path, text, n, &r->mem);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        if (json_is(key, "options"))
            WEFT_TRY(read_options(r, &j));
        else if (json_is(key, "step"))
            p->step = json_int(&j, 0, INT64_MAX);
        else if (json_is(key, "tokens"))
            p->tokens = json_int(&j, 0, INT64_MAX);
        else if (json_is(key, "data_hash"))
            p->data_hash = hex_of(&j);
        else if (json_is(key, "best_step"))
            p->best_step = json_int(&j, -1, INT64_MAX);
        else if (json_is(key, "bad_vals"))
            p->bad_vals = (int)json_int(&j, 0, INT32_MAX);
        else if (json_is(key, "best_val"))
            p->best_val = number_or_nan(&j);
    }
    return json_done(&j);
}

/* ---- The numbers ---- */

static weft_status wrong(const safetensors *st, const char *name) {
    return weft_fail(WEFT_BAD_FILE, "%s: tensor \"%s\" is missing or of another shape", st->path,
                     name);
}

static weft_status load_state(const reader *r, const safetensors *st, char what) {
    trainer *t = r->c->t;
    for (int i = 0; i < t->params.n; i++) {
        const param *p = &t->params.param[i];
        char name[CHECKPOINT_NAME];
        if (!checkpoint_in_state(t, p, what))
            continue;
        checkpoint_state_name(p, i, what, name);
        const st_tensor *x = safetensors_find(st, name);
        if (!x || x->dtype != WEFT_F32 || x->ndim != 1 || x->shape[0] != param_count(p))
            return wrong(st, name);
        float *f = mem_alloc(x->bytes + 1);
        memcpy(f, x->data, x->bytes);
        weft_status s = trainer_write(t, i, what, f);
        mem_free(f);
        WEFT_TRY(s);
    }
    return WEFT_OK;
}

static weft_status load_weights(reader *r, const safetensors *st) {
    trainer *t = r->c->t;
    for (int i = 0; i < t->params.n; i++) {
        const param *p = &t->params.param[i];
        const weight_stored *s = &t->params.stored[p->stored];
        const st_tensor *x = safetensors_find(st, p->name);
        if (!x || x->dtype != WEFT_F32 || x->ndim != s->ndim || x->shape[0] != s->shape[0] ||
            (x->ndim == 2 && x->shape[1] != s->shape[1]))
            return wrong(st, p->name);
        float *f = mem_alloc(sizeof(float) * (size_t)param_count(p));
        weights_load_part(s, p->part, 4, f, x->data);
        weft_status status = trainer_write(t, i, 'p', f);
        mem_free(f);
        WEFT_TRY(status);
    }
    return WEFT_OK;
}

static weft_status load_file(reader *r, const char *name,
                             weft_status (*load)(reader *r, const safetensors *st)) {
    safetensors st;
    WEFT_TRY(safetensors_open(file_join(&r->mem, r->dir, name), &st));
    weft_status s = load(r, &st);
    safetensors_close(&st);
    return s;
}

static weft_status load_optimizer(reader *r, const safetensors *st) {
    static const char kinds[] = "pmve";
    for (const char *k = kinds; *k; k++)
        WEFT_TRY(load_state(r, st, *k));
    return WEFT_OK;
}

static weft_status load_numbers(reader *r) {
    trainer *t = r->c->t;
    if (t->o.lora_rank > 0)
        WEFT_TRY(lora_load(t, r->dir));
    else if (t->g.dtype == WEFT_F32)
        WEFT_TRY(load_file(r, "model.safetensors", load_weights));
    WEFT_TRY(load_file(r, "optimizer.safetensors", load_optimizer));
    return trainer_refresh(t);
}

/* ---- Resuming ---- */

/* A checkpoint that is not whole is passed over; one of another run ends the search. */
static weft_status try_one(reader *r, int64_t step, train_progress *p, bool *whole) {
    r->dir = checkpoint_path(r->c, step, &r->mem);
    train_progress read = {.best_step = -1, .best_val = (double)NAN};
    weft_status s = check_manifest(r, step);
    if (s == WEFT_OK)
        s = read_progress(r, &read);
    *whole = s == WEFT_OK || s == WEFT_USAGE;
    if (s != WEFT_OK)
        return s;
    s = load_numbers(r);
    *whole = s == WEFT_OK;
    if (s != WEFT_OK)
        return s;
    *p = read;
    r->c->t->done = read.step;
    r->c->last_step = read.step;
    return WEFT_OK;
}

weft_status checkpoint_resume(checkpointer *c, train_progress *p, bool *found,
                              void (*rejected)(void *user, const char *message), void *user) {
    reader r = {.c = c, .tell = rejected, .user = user};
    int64_t *step;
    int n = checkpoint_list(c->dir, &step);
    bool whole = false;
    weft_status s = WEFT_OK;
    for (int i = 0; i < n && !whole; i++) {
        s = try_one(&r, step[i], p, &whole);
        if (s != WEFT_OK && !whole && rejected)
            rejected(user, err_message());
    }
    if (n > 0 && !whole)
        s = weft_fail(WEFT_NO_CHECKPOINT,
                      "%s: none of its %d checkpoints is whole; move them away to start anew",
                      c->dir, n);
    *found = n > 0 && whole;
    mem_free(step);
    arena_fini(&r.mem);
    return s;
}
