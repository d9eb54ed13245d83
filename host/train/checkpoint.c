/* SPDX-License-Identifier: Apache-2.0
 * Saving: a copy of the numbers, a thread that writes it, old ones that go. checkpoint_resume.c
 * reads them back. */
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/train/checkpoint_files.h"
#include "host/train/export.h"
#include "host/train/suspect.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Places ---- */

weft_status checkpoint_make_dir(const char *path) {
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && file_is_dir(path)))
        return WEFT_OK;
    return weft_fail(WEFT_IO, "%s: cannot create the folder: %m", path);
}

static weft_status sync_dir(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    weft_status s = ok ? WEFT_OK : weft_fail(WEFT_IO, "%s: cannot write to disk: %m", path);
    if (fd >= 0)
        close(fd);
    return s;
}

/* A folder of plain files, which is all we make. */
static void remove_dir(const char *path) {
    arena a = {0};
    DIR *d = opendir(path);
    for (const struct dirent *e; d && (e = readdir(d));)
        unlink(file_join(&a, path, e->d_name));
    if (d)
        closedir(d);
    rmdir(path);
    arena_fini(&a);
}

int64_t checkpoint_step_of(const char *name) {
    static const char stem[] = "step-";
    int64_t step = 0;
    if (strncmp(name, stem, sizeof stem - 1) != 0 || strlen(name) < sizeof stem + 7)
        return -1;
    for (const char *p = name + sizeof stem - 1; *p; p++) {
        if (*p < '0' || *p > '9' || step > INT64_MAX / 20)
            return -1;
        step = step * 10 + (*p - '0');
    }
    return step;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

int checkpoint_list(const char *dir, int64_t **step) {
    DIR *d = opendir(dir);
    int n = 0, cap = 0;
    *step = NULL;
    for (const struct dirent *e; d && (e = readdir(d));) {
        int64_t s = checkpoint_step_of(e->d_name);
        if (s < 0)
            continue;
        if (n == cap)
            *step = mem_grow(*step, sizeof **step * (size_t)(cap = 2 * cap + 16));
        (*step)[n++] = s;
    }
    if (d)
        closedir(d);
    if (n)
        qsort(*step, (size_t)n, sizeof **step, newest_first);
    return n;
}

static char *path_in(const char *dir, int64_t step, arena *a) {
    return arena_printf(a, "%s/step-%08" PRId64, dir, step);
}

char *checkpoint_path(const checkpointer *c, int64_t step, arena *a) {
    return path_in(c->dir, step, a);
}

/* What a killed run left half written. */
static void remove_leftovers(checkpointer *c) {
    arena a = {0};
    DIR *d = opendir(c->dir);
    for (const struct dirent *e; d && (e = readdir(d));)
        if (strncmp(e->d_name, "tmp-", 4) == 0)
            remove_dir(file_join(&a, c->dir, e->d_name));
    if (d)
        closedir(d);
    arena_fini(&a);
}

/* ---- The copy ---- */

static const char kinds[CHECKPOINT_KINDS] = {'p', 'm', 'v', 'e'};

static uint64_t lay_out(checkpointer *c) {
    const trainer *t = c->t;
    uint64_t at = 0;
    for (int k = 0; k < CHECKPOINT_KINDS; k++)
        for (int i = 0; i < t->params.n; i++) {
            const param *p = &t->params.param[i];
            c->at[k * t->params.n + i] = at;
            at += trainer_has(t, p, kinds[k]) ? (uint64_t)param_count(p) : 0;
        }
    return at;
}

/* A rank that does not write hands over its part of what ranks share. */
static weft_status give_parts(const checkpointer *c) {
    for (int k = 0; k < CHECKPOINT_KINDS; k++)
        WEFT_TRY(trainer_give(c->t, kinds[k]));
    return WEFT_OK;
}

static weft_status take_copy(checkpointer *c) {
    trainer *t = c->t;
    c->copied_step = t->done;
    if (t->o.rank > 0)
        return give_parts(c);
    if (!c->copy)
        c->copy = malloc((size_t)lay_out(c) * sizeof(float));
    if (!c->copy)
        return weft_fail(WEFT_NO_MEMORY, "checkpoint: no memory for a copy of the weights; raise "
                                         "--save-every");
    for (int k = 0; k < CHECKPOINT_KINDS; k++)
        for (int i = 0; i < t->params.n; i++)
            if (trainer_has(t, &t->params.param[i], kinds[k]))
                WEFT_TRY(trainer_read(t, i, kinds[k], c->copy + c->at[k * t->params.n + i]));
    return WEFT_OK;
}

static const float *copied(const checkpointer *c, int index, char what) {
    int k = 0;
    while (kinds[k] != what)
        k++;
    return c->copy + c->at[k * c->t->params.n + index];
}

/* From the copy, or, where nothing trains meanwhile, from the device. */
weft_status checkpoint_read(void *ctx, int index, char what, float *out) {
    const checkpointer *c = ctx;
    if (!c->copied)
        return trainer_read(c->t, index, what, out);
    memcpy(out, copied(c, index, what),
           sizeof(float) * (size_t)param_count(&c->t->params.param[index]));
    return WEFT_OK;
}

/* ---- Writing ---- */

void checkpoint_state_name(const param *p, int index, char what, char out[CHECKPOINT_NAME]) {
    snprintf(out, CHECKPOINT_NAME, "%04d.%d.%s.%c", index, p->part, p->name, what);
}

/* Weights are here too where model.safetensors has them rounded. */
bool checkpoint_in_state(const trainer *t, const param *p, char what) {
    if (what == 'p' && (t->g.dtype == WEFT_F32 || p->kind != PARAM_WEIGHT))
        return false;
    return trainer_has(t, p, what);
}

/* optimizer.safetensors: whose numbers its tensors are. */
typedef struct {
    checkpointer *c;
    int *param;
    char *what;
    float *buffer; /* of the largest */
} state_file;

static weft_status produce_state(void *ctx, int i, const void **data) {
    state_file *f = ctx;
    *data = f->buffer;
    return checkpoint_read(f->c, f->param[i], f->what[i], f->buffer);
}

static int list_state(const trainer *t, state_file *f, st_tensor *out, arena *a) {
    int n = 0;
    for (int k = 0; k < CHECKPOINT_KINDS; k++)
        for (int i = 0; i < t->params.n; i++) {
            const param *p = &t->params.param[i];
            char name[CHECKPOINT_NAME];
            if (!checkpoint_in_state(t, p, kinds[k]))
                continue;
            checkpoint_state_name(p, i, kinds[k], name);
            f->param[n] = i;
            f->what[n] = kinds[k];
            out[n++] = (st_tensor){.name = arena_copy(a, name, strlen(name)),
                                   .dtype = WEFT_F32,
                                   .ndim = 1,
                                   .shape = {param_count(p)},
                                   .bytes = sizeof(float) * (uint64_t)param_count(p)};
        }
    return n;
}

static weft_status write_state(checkpointer *c, const char *path) {
    const trainer *t = c->t;
    int most = CHECKPOINT_KINDS * t->params.n;
    int64_t largest = 0;
    arena a = {0};
    st_tensor *out = ARENA_NEW(&a, st_tensor, most);
    state_file f = {c, ARENA_NEW(&a, int, most), ARENA_NEW(&a, char, most), NULL};
    int n = list_state(t, &f, out, &a);
    for (int i = 0; i < n; i++)
        largest = out[i].shape[0] > largest ? out[i].shape[0] : largest;
    f.buffer = malloc(sizeof(float) * (size_t)largest + 1);
    weft_status s = f.buffer
                        ? safetensors_write_from(path, out, n, produce_state, &f)
                        : weft_fail(WEFT_NO_MEMORY, "%s: no memory for its largest tensor", path);
    free(f.buffer);
    arena_fini(&a);
    return s;
}

static weft_status write_train(const checkpointer *c, const char *path) {
    const trainer *t = c->t;
    const train_progress *p = &c->progress;
    buf b;
    buf_init(&b, 1 << 20);
    buf_puts(&b, "{\"options\":");
    options_json(&b, &t->o, &c->facts);
    buf_printf(&b,
               ",\n\"step\":%" PRId64 ",\"tokens\":%" PRId64 ",\"data_hash\":\"%016" PRIx64 "\"",
               p->step, p->tokens, p->data_hash);
    buf_printf(&b, ",\"best_step\":%" PRId64 ",\"bad_vals\":%d,\"best_val\":", p->best_step,
               p->bad_vals);
    buf_json_double(&b, p->best_val);
    buf_puts(&b, "}\n");
    weft_status s = file_write_atomic(path, b.data, b.len);
    buf_fini(&b);
    return s;
}

static weft_status note_file(const char *dir, const char *name, buf *b, bool first) {
    arena a = {0};
    file_map m;
    weft_status s = file_map_open(file_join(&a, dir, name), &m);
    if (s == WEFT_OK) {
        buf_puts(b, first ? "" : ",\n ");
        buf_puts(b, "{\"name\":");
        buf_json_string(b, name, strlen(name));
        buf_printf(b, ",\"bytes\":%zu,\"xxh3\":\"%016" PRIx64 "\"}", m.size,
                   hash_xxh3(m.data, m.size));
        file_map_close(&m);
    }
    arena_fini(&a);
    return s;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static weft_status write_manifest(const checkpointer *c, const char *dir) {
    arena a = {0};
    const char *name[CHECKPOINT_FILES];
    int n = 0;
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && n < CHECKPOINT_FILES && (e = readdir(d));)
        if (e->d_name[0] != '.')
            name[n++] = arena_copy(&a, e->d_name, strlen(e->d_name));
    if (d)
        closedir(d);
    qsort(name, (size_t)n, sizeof *name, by_name);
    buf b;
    buf_init(&b, 1 << 20);
    buf_printf(&b, "{\"version\":1,\"step\":%" PRId64 ",\"files\":[\n ", c->progress.step);
    weft_status s = WEFT_OK;
    for (int i = 0; s == WEFT_OK && i < n; i++)
        s = note_file(dir, name[i], &b, i == 0);
    buf_puts(&b, "]}\n");
    if (s == WEFT_OK)
        s = file_write_atomic(file_join(&a, dir, "manifest.json"), b.data, b.len);
    buf_fini(&b);
    arena_fini(&a);
    return s;
}

static weft_status write_files(checkpointer *c, const char *dir, arena *a) {
    trainer *t = c->t;
    WEFT_TRY(checkpoint_make_dir(dir));
    WEFT_TRY(export_sidecars(t, dir));
    int dtype = t->o.lora_rank > 0 ? WEFT_F32 : t->g.dtype;
    WEFT_TRY(
        export_file(t, file_join(a, dir, export_weights_name(t)), 'p', dtype, checkpoint_read, c));
    WEFT_TRY(write_state(c, file_join(a, dir, "optimizer.safetensors")));
    WEFT_TRY(write_train(c, file_join(a, dir, "train.json")));
    WEFT_TRY(write_manifest(c, dir));
    return sync_dir(dir);
}

/* All but the newest and the best go; a name that is still there is whole. */
static void prune(const checkpointer *c) {
    arena a = {0};
    int64_t *step;
    int n = checkpoint_list(c->dir, &step);
    for (int i = c->keep; i < n; i++) {
        if (step[i] == c->progress.best_step)
            continue;
        char *from = checkpoint_path(c, step[i], &a);
        char *to = arena_printf(&a, "%s/tmp-old-%08" PRId64, c->dir, step[i]);
        if (rename(from, to) == 0)
            remove_dir(to);
    }
    mem_free(step);
    arena_fini(&a);
}

static weft_status may_write(const checkpointer *c) {
    return c->guard ? c->guard(c->guarded) : WEFT_OK;
}

static weft_status write_checkpoint(checkpointer *c) {
    WEFT_TRY(may_write(c));
    arena a = {0};
    const char *tmp = arena_printf(&a, "%s/tmp-%08" PRId64 "-%" PRId64, c->dir, c->progress.step,
                                   c->epoch);
    const char *to = checkpoint_path(c, c->progress.step, &a);
    remove_dir(tmp);
    weft_status s = write_files(c, tmp, &a);
    if (s == WEFT_OK)
        s = may_write(c);
    if (s == WEFT_OK && file_is_dir(to))
        remove_dir(to); /* the same step, saved before: the same bytes */
    if (s == WEFT_OK && rename(tmp, to) != 0)
        s = weft_fail(WEFT_IO, "%s: cannot rename into place: %m", to);
    if (s == WEFT_OK)
        s = sync_dir(c->dir);
    if (s != WEFT_OK)
        remove_dir(tmp);
    else
        prune(c);
    arena_fini(&a);
    return s;
}

/* ---- The thread ---- */

static void *writer(void *arg) {
    checkpointer *c = arg;
    c->status = write_checkpoint(c);
    snprintf(c->why, sizeof c->why, "%s", c->status == WEFT_OK ? "" : err_message());
    return NULL;
}

void checkpoint_settle(checkpointer *c) {
    if (c->busy && !c->settled)
        pthread_join(c->thread, NULL);
    c->settled = c->busy;
}

weft_status checkpoint_wait(checkpointer *c) {
    if (!c->busy)
        return WEFT_OK;
    checkpoint_settle(c);
    c->busy = c->settled = false;
    if (c->status == WEFT_OK)
        c->last_step = c->progress.step;
    else
        err_set_message(c->why);
    return c->status;
}

weft_status checkpoint_collect(checkpointer *c) {
    if (!trainer_spread(c->t) || c->copied_step == c->t->done)
        return WEFT_OK;
    c->copied = true;
    return take_copy(c);
}

weft_status checkpoint_save(checkpointer *c, const train_progress *p, bool wait) {
    weft_status before = checkpoint_wait(c);
    c->copied = !wait || trainer_spread(c->t);
    if (c->copied)
        WEFT_TRY(take_copy(c));
    WEFT_TRY(suspect_none(c->t->link));
    c->progress = *p;
    if (c->t->o.rank > 0)
        return WEFT_OK;
    if (!wait && pthread_create(&c->thread, NULL, writer, c) == 0) {
        c->busy = true;
    } else {
        writer(c);
        c->last_step = c->status == WEFT_OK ? p->step : c->last_step;
        return c->status;
    }
    return before;
}

const char *checkpoint_last(checkpointer *c) {
    return c->last_step < 0 ? "" : checkpoint_path(c, c->last_step, &c->mem);
}

const char *checkpoint_newest(const char *out, arena *a) {
    int64_t *step;
    const char *dir = file_join(a, out, "checkpoints");
    const char *path = checkpoint_list(dir, &step) ? path_in(dir, step[0], a) : "";
    mem_free(step);
    return path;
}

/* ---- Opening ---- */

weft_status checkpoint_open(trainer *t, const char *dir, int keep, checkpointer **out) {
    if (t->o.rank == 0)
        WEFT_TRY(checkpoint_make_dir(dir));
    checkpointer *c = mem_alloc(sizeof *c);
    c->t = t;
    c->copied_step = -1;
    c->keep = keep > 0 ? keep : 1;
    c->last_step = -1;
    c->root = arena_copy(&c->mem, dir, strlen(dir));
    c->dir = file_join(&c->mem, dir, "checkpoints");
    c->at = ARENA_NEW(&c->mem, uint64_t, CHECKPOINT_KINDS * t->params.n);
    c->facts = (options_facts){.device = t->dev->backend,
                               .dtype = weft_dtype_name(t->g.dtype),
                               .micro_batch = t->g.shape.rows,
                               .seq_len = t->g.shape.row_tokens,
                               .shards = t->g.shape.shards};
    *out = c;
    if (t->o.rank > 0)
        return WEFT_OK;
    weft_status s = checkpoint_make_dir(c->dir);
    if (s != WEFT_OK) {
        checkpoint_close(c);
        *out = NULL;
        return s;
    }
    remove_leftovers(c);
    return WEFT_OK;
}

void checkpoint_guard(checkpointer *c, int64_t epoch, weft_status (*guard)(void *), void *ctx) {
    c->epoch = epoch;
    c->guard = guard;
    c->guarded = ctx;
}

void checkpoint_close(checkpointer *c) {
    if (!c)
        return;
    checkpoint_wait(c);
    free(c->copy);
    arena_fini(&c->mem);
    mem_free(c);
}

/* ---- The run's folder as a model ---- */

/* The same file under another name, or a copy where links are not possible. */
static weft_status put_file(const char *from, const char *to, arena *a) {
    const char *tmp = arena_printf(a, "%s.tmp-%ld", to, (long)getpid());
    unlink(tmp);
    if (link(from, tmp) == 0) {
        if (rename(tmp, to) == 0) {
            unlink(tmp); /* rename leaves it where both names were one file already */
            return WEFT_OK;
        }
        unlink(tmp);
    }
    file_map m;
    WEFT_TRY(file_map_open(from, &m));
    weft_status s = file_write_atomic(to, m.data, m.size);
    file_map_close(&m);
    return s;
}

static bool is_ours_alone(const char *name) {
    return name[0] == '.' || strcmp(name, "optimizer.safetensors") == 0 ||
           strcmp(name, "manifest.json") == 0;
}

weft_status checkpoint_publish(checkpointer *c) {
    WEFT_TRY(may_write(c));
    arena a = {0};
    const char *from = checkpoint_last(c);
    DIR *d = *from ? opendir(from) : NULL;
    weft_status s = WEFT_OK;
    for (const struct dirent *e; d && s == WEFT_OK && (e = readdir(d));)
        if (!is_ours_alone(e->d_name))
            s = put_file(file_join(&a, from, e->d_name), file_join(&a, c->root, e->d_name), &a);
    if (d)
        closedir(d);
    arena_fini(&a);
    return s;
}
