/* SPDX-License-Identifier: Apache-2.0
 * Text to token shards, source after source. */
#include "host/train/prepare.h"
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/train/doc.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const prepare_options *o;
    prepare_result *r;
    tokenizer *tok;
    chat_template *chat;
    doc_encoder encoder;
    int lock; /* the folder, held while it is written to */
    int64_t read, total;
    uint64_t hash; /* of the tokenizer */
} preparation;

typedef struct {
    preparation *p;
    doc_reader reader;
    shard_writer train, val;
    int64_t seen; /* of the reader's bytes, for the bar */
} source_work;

/* ---- What the shards are made from ---- */

static void put_files(buf *b, const doc_reader *r) {
    hash_stream *h = hash_open();
    for (size_t i = 0; i < r->n_file; i++) {
        struct stat st = {0};
        if (stat(r->file[i], &st) != 0)
            continue; /* its own error comes when it is read */
        int64_t facts[3] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
        hash_add(h, r->file[i], strlen(r->file[i]) + 1);
        hash_add(h, facts, sizeof facts);
    }
    buf_printf(b, ", \"files\": %zu, \"bytes\": %lld, \"names_sizes_times\": \"%016llx\"}",
               r->n_file, (long long)r->bytes, (unsigned long long)hash_value(h));
    hash_close(h);
}

static weft_status describe_inputs(preparation *p, buf *b) {
    const prepare_options *o = p->o;
    buf_printf(b, "{\"version\": %d, \"tokenizer\": \"%016llx\", \"val\": ", SHARD_VERSION,
               (unsigned long long)p->hash);
    buf_json_double(b, o->val);
    buf_printf(b, ", \"shard_tokens\": %lld, \"append_eos\": %s, \"sft\": %s,\n \"inputs\": [",
               (long long)o->shard_tokens, o->append_eos ? "true" : "false",
               o->sft ? "true" : "false");
    for (int i = 0; i < o->n_path; i++) {
        doc_reader r;
        WEFT_TRY(doc_open(o->path[i], &r));
        buf_puts(b, i ? ",\n  {\"path\": " : "\n  {\"path\": ");
        buf_json_string(b, o->path[i], strlen(o->path[i]));
        buf_puts(b, ", \"name\": ");
        buf_json_string(b, o->name[i], strlen(o->name[i]));
        put_files(b, &r);
        p->total += r.bytes;
        doc_close(&r);
    }
    buf_puts(b, "]}\n");
    return WEFT_OK;
}

/* The folder is ours if nothing is in it yet, or if it was begun with the very same inputs. */
static weft_status claim(preparation *p, const buf *inputs) {
    arena a = {0};
    const char *path = file_join(&a, p->o->out, "inputs.json"), *text;
    size_t n;
    weft_status s;
    if (!file_exists(path)) {
        s = file_write_atomic(path, inputs->data, inputs->len);
    } else {
        s = file_read(path, 1 << 26, &a, &text, &n);
        if (s == WEFT_OK && (n != inputs->len || memcmp(text, inputs->data, n) != 0))
            s = weft_fail(WEFT_USAGE,
                          "%s: holds shards of other inputs or options (see its inputs.json); give "
                          "another folder, or remove it",
                          p->o->out);
    }
    arena_fini(&a);
    return s;
}

static weft_status lock_folder(preparation *p) {
    const char *dir = p->o->out;
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return weft_fail(WEFT_IO, "%s: cannot create the folder: %m", dir);
    p->lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->lock < 0)
        return weft_fail(WEFT_IO, "%s: cannot open the folder: %m", dir);
    if (flock(p->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return weft_fail(WEFT_USAGE, "%s: another process writes to it", dir);
    return WEFT_OK;
}

/* ---- A source ---- */

/* Is a line for validation? By its number alone. */
static bool held_out(const prepare_options *o, int64_t number) {
    return (double)(hash_xxh3(&number, sizeof number) >> 11) * 0x1p-53 < o->val;
}

static bool is_done(void *ctx, int64_t number, const doc *d) {
    const source_work *w = ctx;
    bool train = (uint64_t)number < w->train.next_document;
    bool val = (uint64_t)number < w->val.next_document;
    if (train && val)
        return true;
    if (d->kind == DOC_TEXT) /* a text file is cut: both have a part of it */
        return train && w->p->o->val <= 0;
    return held_out(w->p->o, number) ? val : train;
}

static weft_status add_text(source_work *w, int64_t number, const doc_tokens *t) {
    size_t n = t->ids.n, val = (size_t)floor(w->p->o->val * (double)n);
    val = val < 2 ? 0 : val; /* a token alone predicts nothing */
    WEFT_TRY(shard_writer_add(&w->train, number, t->ids.v, NULL, n - val));
    return shard_writer_add(&w->val, number, t->ids.v + (n - val), NULL, val);
}

static weft_status add(void *ctx, int64_t number, const doc *d, const doc_tokens *t) {
    source_work *w = ctx;
    preparation *p = w->p;
    if (p->o->progress) {
        p->read += w->reader.read - w->seen;
        w->seen = w->reader.read;
        p->o->progress(p->o->ctx, p->read, p->total);
    }
    if (d->kind == DOC_ROW)
        return weft_fail(WEFT_USAGE, "%s: rows of ids need no shards; train on the file itself",
                         d->path);
    if (p->o->sft && d->kind != DOC_CHAT)
        return weft_fail(WEFT_USAGE, "%s: --sft: is no JSONL of {\"messages\": ...}", d->path);
    if (d->kind == DOC_TEXT)
        return add_text(w, number, t);
    return shard_writer_add(held_out(p->o, number) ? &w->val : &w->train, number, t->ids.v,
                            t->labels.n ? t->labels.v : NULL, t->ids.n);
}

static weft_status record(source_work *w, shard_source *s) {
    arena *a = &w->p->r->arena;
    const shard_writer *writers[] = {&w->train, &w->val};
    s->n = 0;
    s->shard = ARENA_NEW(a, shard_entry, w->train.n + w->val.n + 1);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < writers[k]->n; i++)
            WEFT_TRY(shard_entry_of(a, writers[k], i, &s->shard[s->n++]));
    if (w->train.n == 0)
        return weft_fail(WEFT_BAD_FILE, "%s: no token to train on", w->reader.path);
    return WEFT_OK;
}

static weft_status run_source(source_work *w, shard_source *s) {
    preparation *p = w->p;
    WEFT_TRY(shard_writer_open(&w->train));
    WEFT_TRY(shard_writer_open(&w->val));
    p->r->found += w->train.n + w->val.n;
    WEFT_TRY(doc_run(&w->reader, &p->encoder, p->o->threads, is_done, add, w));
    WEFT_TRY(shard_writer_finish(&w->train));
    WEFT_TRY(shard_writer_finish(&w->val));
    return record(w, s);
}

static weft_status do_source(preparation *p, int i) {
    const prepare_options *o = p->o;
    shard_source *s = &p->r->manifest.source[i];
    source_work w = {.p = p};
    uint64_t vocab = (uint64_t)p->r->manifest.vocab;
    w.train = (shard_writer){.dir = o->out,
                             .name = o->name[i],
                             .width = vocab <= 65536 ? 2 : 4,
                             .vocab = vocab,
                             .tokenizer = p->hash,
                             .limit = (uint64_t)o->shard_tokens,
                             .flags = o->sft ? SHARD_MASK : 0,
                             .fd = -1};
    w.val = w.train;
    w.val.validation = true;
    s->name = arena_copy(&p->r->arena, o->name[i], strlen(o->name[i]));
    s->weight = o->weight ? o->weight[i] : 0;
    WEFT_TRY(doc_open(o->path[i], &w.reader));
    weft_status st = run_source(&w, s);
    shard_writer_fini(&w.train);
    shard_writer_fini(&w.val);
    doc_close(&w.reader);
    return st;
}

/* ---- All ---- */

/* A tokenizer alone has no template: conversations then say so when they come. */
static weft_status open_tokenizer(preparation *p) {
    const prepare_options *o = p->o;
    WEFT_TRY(tokenizer_open(o->tokenizer, &p->tok));
    if (o->append_eos && tokenizer_eos(p->tok) < 0)
        return weft_fail(WEFT_USAGE, "--append-eos: %s has no EOS", o->tokenizer);
    if (file_is_dir(o->tokenizer) && chat_template_open(o->tokenizer, NULL, &p->chat) != WEFT_OK)
        err_clear();
    p->hash = shard_tokenizer_hash(p->tok);
    p->encoder = (doc_encoder){
        .tok = p->tok, .chat = p->chat, .sft = o->sft, .append_eos = o->append_eos};
    p->r->manifest = (shard_manifest){.vocab = tokenizer_vocab_size(p->tok),
                                      .tokenizer = p->hash,
                                      .own_rows = o->sft,
                                      .n = o->n_path};
    p->r->manifest.source = ARENA_NEW(&p->r->arena, shard_source, o->n_path);
    return WEFT_OK;
}

static weft_status run_all(preparation *p) {
    buf inputs;
    buf_init(&inputs, SIZE_MAX);
    weft_status s = open_tokenizer(p);
    if (s == WEFT_OK)
        s = describe_inputs(p, &inputs);
    if (s == WEFT_OK)
        s = lock_folder(p);
    if (s == WEFT_OK)
        s = claim(p, &inputs);
    for (int i = 0; s == WEFT_OK && i < p->o->n_path; i++)
        s = do_source(p, i);
    if (s == WEFT_OK)
        s = shard_manifest_write(p->o->out, &p->r->manifest);
    buf_fini(&inputs);
    return s;
}

weft_status prepare(const prepare_options *o, prepare_result *out) {
    prepare_result r = {.found = 0};
    preparation p = {.o = o, .r = &r, .lock = -1};
    weft_status s = run_all(&p);
    if (p.lock >= 0)
        close(p.lock);
    chat_template_close(p.chat);
    tokenizer_close(p.tok);
    if (s == WEFT_OK)
        *out = r;
    else
        arena_fini(&r.arena);
    return s;
}
