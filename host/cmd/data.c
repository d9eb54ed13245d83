/* SPDX-License-Identifier: Apache-2.0
 * `weft data`: text to token shards, or to a tokenizer. */
#include "host/cmd/data.h"
#include "host/base/clock.h"
#include "host/base/mem.h"
#include "host/train/prepare.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(data_args, member)
static const arg_spec specs[] = {
    {"output", "o", NULL, ARG_STRING, "DIR", 0, 0, NULL, "the folder to write", AT(output)},
    {"tokenizer", "", NULL, ARG_STRING, "MODEL", 0, 0, NULL,
     "a model folder or tokenizer file; conversations take the folder's template", AT(tokenizer)},
    {"val", "", NULL, ARG_FLOAT, "X", 0, 0.5, "0",
     "share kept for validation: lines of a JSONL, the tail of each text file", AT(val)},
    {"shard-tokens", "", NULL, ARG_INT, "N", 1, 1LL << 40, "100000000",
     "a shard is closed when it has N tokens", AT(shard_tokens)},
    {"weights", "", NULL, ARG_STRING, "NAME=X,...", 0, 0, NULL,
     "share of each source in training, by its file's name; default: by size", AT(weights)},
    {"append-eos", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "EOS behind every document",
     AT(append_eos)},
    {"sft", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "conversations: the loss is on what the assistant says alone", AT(sft)},
    {"train-tokenizer", "", NULL, ARG_INT, "N", 0, BPE_MAX_VOCAB, "0",
     "learn a byte-level BPE tokenizer of N tokens from the text instead", AT(vocab)},
    {"special", "", NULL, ARG_LIST, "TOKEN", 0, 0, NULL,
     "a special token of the new tokenizer; repeat for more: the first is BOS, the last EOS; "
     "default: <|endoftext|>",
     AT(special)},
    {"add-bos", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "the new tokenizer puts BOS in front of a text", AT(add_bos)},
    {"split", "", NULL, ARG_CHOICE, "gpt2|llama3", 0, 0, "gpt2",
     "how the new tokenizer cuts text into words; llama3: digits by threes, line breaks apart",
     AT(split)},
    {"min-frequency", "", NULL, ARG_INT, "N", 1, INT32_MAX, "1",
     "pairs that come less often are not joined", AT(min_frequency)},
    {"threads", "t", NULL, ARG_INT, "N", 0, 256, "0", "CPU threads; 0: every core", AT(threads)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object", AT(json)},
};

/* ---- Names and weights ---- */

/* The file's name without its ending, in characters that every file system takes. */
static char *stem(arena *a, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    const char *from = memrchr(path, '/', n - (n > 1 && path[n - 1] == '/'));
    from = from && from + 1 < path + n ? from + 1 : path;
    const char *dot = memrchr(from, '.', (size_t)(path + n - from));
    char *s = arena_copy(a, from, (size_t)((dot && dot > from ? dot : path + n) - from));
    for (char *p = s; *p; p++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.", *p))
            *p = '_';
    if (*s == '.')
        *s = '_';
    return s;
}

static bool taken(const data_state *s, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (strcmp(s->name[i], name) == 0)
            return true;
    return false;
}

static void name_sources(data_state *s) {
    for (int i = 0; i < s->n; i++) {
        const char *base = stem(&s->names, s->path[i]);
        s->name[i] = base;
        for (int k = 2; taken(s, i, s->name[i]); k++)
            s->name[i] = arena_printf(&s->names, "%s-%d", base, k);
    }
}

static weft_status set_weight(data_state *s, const char *name, const char *value) {
    char *end;
    double x = strtod(value, &end);
    if (end == value || *end || !isfinite(x) || x <= 0)
        return weft_fail(WEFT_USAGE, "--weights: %s=%s; give a number above 0", name, value);
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->name[i], name) == 0) {
            if (s->weight[i] > 0)
                return weft_fail(WEFT_USAGE, "--weights: %s is given twice", name);
            s->weight[i] = x;
            return WEFT_OK;
        }
    const char *near = args_nearest(name, s->name, s->n);
    return weft_fail(WEFT_USAGE, "--weights: no source is named %s; %s %s", name,
                     near ? "did you mean" : "the first is", near ? near : s->name[0]);
}

static weft_status read_weights(data_state *s) {
    char *text = arena_copy(&s->names, s->args->weights, strlen(s->args->weights));
    for (char *next; text; text = next) {
        next = strchr(text, ',');
        if (next)
            *next++ = 0;
        char *value = strrchr(text, '=');
        if (!value || value == text)
            return weft_fail(WEFT_USAGE, "--weights: \"%s\" is not NAME=X", text);
        *value++ = 0;
        WEFT_TRY(set_weight(s, text, value));
    }
    for (int i = 0; i < s->n; i++)
        if (s->weight[i] <= 0)
            return weft_fail(WEFT_USAGE, "--weights: %s has none; give every source one",
                             s->name[i]);
    return WEFT_OK;
}

/* ---- What was written ---- */

typedef struct {
    int64_t documents, tokens, val_tokens, bytes;
    int shards;
} counts;

static counts count(const shard_source *s) {
    counts c = {0};
    for (int i = 0; i < s->n; i++) {
        const shard_entry *e = &s->shard[i];
        c.documents += e->documents;
        *(e->validation ? &c.val_tokens : &c.tokens) += e->tokens;
        c.bytes += e->bytes;
        c.shards++;
    }
    return c;
}

static counts count_all(const shard_manifest *m) {
    counts sum = {0};
    for (int i = 0; i < m->n; i++) {
        counts c = count(&m->source[i]);
        sum.documents += c.documents;
        sum.tokens += c.tokens;
        sum.val_tokens += c.val_tokens;
        sum.bytes += c.bytes;
        sum.shards += c.shards;
    }
    return sum;
}

static void put_counts(buf *b, const counts *c) {
    buf_printf(b,
               "\"documents\": %" PRId64 ", \"tokens\": %" PRId64
               ", \"validation_tokens\": %" PRId64 ", \"shards\": %d, \"bytes\": %" PRId64,
               c->documents, c->tokens, c->val_tokens, c->shards, c->bytes);
}

static void put_json(buf *b, const char *dir, const shard_manifest *m) {
    counts all = count_all(m);
    buf_puts(b, "{\"folder\": ");
    buf_json_line(b, dir, strlen(dir));
    buf_printf(b, ", \"vocab_size\": %d, \"rows\": %s, ", (int)m->vocab,
               m->own_rows ? "true" : "false");
    put_counts(b, &all);
    buf_puts(b, ", \"sources\": [");
    for (int i = 0; i < m->n; i++) {
        counts c = count(&m->source[i]);
        buf_puts(b, i ? ", {\"name\": " : "{\"name\": ");
        buf_json_line(b, m->source[i].name, strlen(m->source[i].name));
        buf_puts(b, ", \"weight\": ");
        buf_json_double(b, m->source[i].weight > 0 ? m->source[i].weight : NAN);
        buf_puts(b, ", ");
        put_counts(b, &c);
        buf_putc(b, '}');
    }
    buf_putc(b, ']');
}

static void put_text(buf *b, const char *dir, const shard_manifest *m) {
    counts all = count_all(m);
    char size[CMD_SIZE_TEXT];
    buf_printf(b, "%-24s %12s %14s %14s %7s\n", "source", "documents", "tokens", "validation",
               "shards");
    for (int i = 0; i < m->n; i++) {
        counts c = count(&m->source[i]);
        buf_printf(b, "%-24s %12" PRId64 " %14" PRId64 " %14" PRId64 " %7d", m->source[i].name,
                   c.documents, c.tokens, c.val_tokens, c.shards);
        if (m->source[i].weight > 0)
            buf_printf(b, "  weight %g", m->source[i].weight);
        buf_putc(b, '\n');
    }
    buf_printf(b, "%s: %" PRId64 " tokens to train on, %s in %d shards", dir, all.tokens,
               cmd_size(size, (double)all.bytes), all.shards);
}

static weft_status report(const data_state *s, const prepare_result *r) {
    buf b;
    buf_init(&b, SIZE_MAX);
    (s->args->json ? put_json : put_text)(&b, s->args->output, &r->manifest);
    if (s->args->json) {
        buf_printf(&b, ", \"shards_found\": %d, \"seconds\": ", r->found);
        buf_json_double(&b, s->seconds);
        buf_puts(&b, "}\n");
    } else {
        if (r->found)
            buf_printf(&b, ", %d of them found there", r->found);
        buf_printf(&b, "; %.1f s\n", s->seconds);
    }
    weft_status st = cmd_flush(&b);
    buf_fini(&b);
    return st;
}

weft_status data_inspect(const char *dir, bool json) {
    arena a = {0};
    shard_manifest m;
    weft_status st = shard_manifest_read(dir, &a, &m);
    if (st == WEFT_OK) {
        buf b;
        buf_init(&b, SIZE_MAX);
        (json ? put_json : put_text)(&b, dir, &m);
        buf_puts(&b, json ? "}\n" : "\n");
        st = cmd_flush(&b);
        buf_fini(&b);
    }
    arena_fini(&a);
    return st;
}

/* ---- The command ---- */

static void show(void *ctx, int64_t done, int64_t total) {
    data_state *s = ctx;
    if (!s->bar.unit)
        progress_start(&s->bar, "tokenizing", "KiB", total >> 10);
    progress_add(&s->bar, (done >> 10) - s->bar.done);
}

static weft_status write_shards(data_state *s) {
    const data_args *a = s->args;
    name_sources(s);
    if (a->weights)
        WEFT_TRY(read_weights(s));
    prepare_options o = {.path = s->path,
                         .name = s->name,
                         .weight = a->weights ? s->weight : NULL,
                         .n_path = s->n,
                         .out = a->output,
                         .tokenizer = a->tokenizer,
                         .val = a->val,
                         .shard_tokens = a->shard_tokens,
                         .threads = (int)a->threads,
                         .append_eos = a->append_eos,
                         .sft = a->sft,
                         .progress = show,
                         .ctx = s};
    prepare_result r;
    double started = clock_seconds();
    weft_status st = prepare(&o, &r);
    progress_end(&s->bar);
    s->seconds = clock_seconds() - started;
    if (st != WEFT_OK)
        return st;
    st = report(s, &r);
    arena_fini(&r.arena);
    return st;
}

static weft_status work(data_state *s) {
    const data_args *a = s->args;
    if (s->n == 0)
        return weft_fail(WEFT_USAGE, "IN: missing; usage: weft data %s", cmd_data.usage);
    if (!a->output || !*a->output)
        return weft_fail(WEFT_USAGE, "-o: missing; give the folder to write");
    if (a->vocab)
        return data_train_tokenizer(s);
    if (a->special.n || a->add_bos)
        return weft_fail(WEFT_USAGE, "--%s: only with --train-tokenizer",
                         a->special.n ? "special" : "add-bos");
    if (!a->tokenizer)
        return weft_fail(WEFT_USAGE, "--tokenizer: missing; give a model folder");
    return write_shards(s);
}

static int run(int argc, char **argv) {
    data_args a = {.output = NULL};
    data_state s = {.args = &a};
    weft_status st = args_parse(specs, CMD_COUNT(specs), argc, argv, &a, s.path, DATA_MAX_INPUTS,
                                &s.n);
    int code = cmd_fail(st == WEFT_OK ? work(&s) : st);
    arena_fini(&s.names);
    mem_free(a.special.item);
    return code;
}

const cmd_row cmd_data = {
    .name = "data",
    .usage = "IN... -o DIR (--tokenizer MODEL [--val X] | --train-tokenizer N) [options]",
    .summary = "text to token shards for training, or to a tokenizer",
    .notes =
        "IN is a text file, a JSONL of {\"text\": \"...\"} or {\"messages\": [...]}, or a folder "
        "of "
        ".txt and .jsonl files. What is written depends on the inputs and options alone. An "
        "interrupted run goes on where it was when the same command is given again, and the bytes "
        "are the same.\n\n"
        "  weft data books/ web.jsonl -o shards --tokenizer MODEL --val 0.01\n"
        "  weft data books/ web.jsonl -o shards --tokenizer MODEL --weights books=2,web=1\n"
        "  weft data chats.jsonl -o shards --tokenizer MODEL --sft\n"
        "  weft data books/ -o tokenizer --train-tokenizer 8192",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
