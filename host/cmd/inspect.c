/* SPDX-License-Identifier: Apache-2.0
 * `weft inspect`: what a model folder says about itself: family, shapes, tensors, tokenizer,
 * defaults. Only headers are read. A single .safetensors file shows its tensors. */
#include "host/base/file.h"
#include "host/base/mem.h"
#include "host/cmd/data.h"
#include "host/model/rope.h"
#include "host/model/safetensors.h"
#include "host/model/tokenizer/tokenizer.h"
#include "host/model/weights.h"
#include "host/train/shard.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *model;
    bool json, tensors;
} inspect_args;

#define AT(member) offsetof(inspect_args, member)
static const arg_spec specs[] = {
    {"model", "m", NULL, ARG_STRING, "MODEL", 0, 0, NULL, "the model folder, as the first argument",
     AT(model)},
    {"tensors", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "list every tensor", AT(tensors)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object (with every tensor)",
     AT(json)},
};

/* What was found; a part that is not there stays zero. */
typedef struct {
    const char *path;
    arena mem;
    bool has_config, has_weights;
    model_config c;
    safetensors st;
    tokenizer *tok;
    buf out;
} inspection;

/* ---- Reading ---- */

static bool has_file(inspection *s, const char *const *names) {
    for (; *names; names++)
        if (file_exists(file_join(&s->mem, s->path, *names)))
            return true;
    return false;
}

static weft_status read_all(inspection *s) {
    static const char *const weight_files[] = {"model.safetensors", "model.safetensors.index.json",
                                               NULL};
    static const char *const tokenizer_files[] = {
        "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "encoder.json", NULL};
    size_t n = strlen(s->path);
    if (n > 12 && strcmp(s->path + n - 12, ".safetensors") == 0 && !file_is_dir(s->path)) {
        WEFT_TRY(safetensors_open(s->path, &s->st));
        s->has_weights = true;
        return WEFT_OK;
    }
    WEFT_TRY(config_read(s->path, &s->mem, &s->c));
    s->has_config = true;
    if (has_file(s, weight_files)) {
        WEFT_TRY(safetensors_open(s->path, &s->st));
        s->has_weights = true;
    }
    return has_file(s, tokenizer_files) ? tokenizer_open(s->path, &s->tok) : WEFT_OK;
}

/* ---- Words ---- */

static const char *act_name(weft_act a) {
    static const char *const names[WEFT_ACTS] = {"none", "silu", "gelu", "gelu_tanh", "relu"};
    return names[a];
}

static const char *position_name(position_kind p) {
    static const char *const names[] = {"rope", "learned", "alibi", "none"};
    return names[p];
}

static const char *dtype_word(int dtype) {
    return dtype < 0 ? "unsaid" : weft_dtype_name(dtype);
}

static int64_t windowed_layers(const model_config *c) {
    int64_t n = 0;
    for (int64_t i = 0; i < c->n_layers; i++)
        n += c->window > 0 && (!c->layer_windowed || c->layer_windowed[i]);
    return n;
}

static uint64_t tensor_bytes(const safetensors *st) {
    uint64_t sum = 0;
    for (int i = 0; i < st->ntensor; i++)
        sum += st->tensor[i].bytes;
    return sum;
}

/* ---- Text ---- */

static void row(buf *b, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void row(buf *b, const char *key, const char *fmt, ...) {
    va_list ap;
    buf_printf(b, "%-15s", key);
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
    buf_putc(b, '\n');
}

/* A name from a file must not steer the terminal. */
static void put_name(buf *b, const char *name, int width) {
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f) {
            buf_json_string(b, name, strlen(name));
            return;
        }
    buf_printf(b, "%-*s", width, name);
}

static void short_count(char out[32], double n) {
    static const char *const unit[] = {"", " K", " M", " B", " T"};
    int u = 0;
    for (; n >= 1000 && u < 4; u++)
        n /= 1000;
    snprintf(out, 32, u ? "%.3g%s" : "%.0f%s", n, unit[u]);
}

static void text_rope(buf *b, const rope_config *r) {
    row(b, "rope", "%s, theta %g, %" PRId64 " features", rope_kind_name(r->kind), r->theta,
        r->dims);
    if (r->kind != ROPE_DEFAULT)
        row(b, "", "factor %g over %" PRId64 " positions", r->factor, r->original_ctx);
    if (r->kind == ROPE_LLAMA3)
        row(b, "", "low_freq_factor %g, high_freq_factor %g", r->low_freq_factor,
            r->high_freq_factor);
    if (r->kind == ROPE_YARN)
        row(b, "", "beta %g to %g%s", r->beta_fast, r->beta_slow,
            r->truncate ? "" : ", not rounded");
}

static void text_biases(buf *b, const model_config *c) {
    const struct {
        bool on;
        const char *name;
    } parts[] = {{c->qkv_bias, "q k v"},
                 {c->o_bias, "attention output"},
                 {c->mlp_bias, "mlp"},
                 {c->norm_bias, "norms"}};
    buf_printf(b, "%-15s", "biases");
    int n = 0;
    for (int i = 0; i < 4; i++)
        if (parts[i].on)
            buf_printf(b, "%s%s", n++ ? ", " : "", parts[i].name);
    buf_puts(b, n ? "\n" : "none\n");
}

static void text_config(buf *b, const model_config *c) {
    char count[32];
    short_count(count, (double)config_parameters(c));
    row(b, "family", "%s", c->family);
    row(b, "parameters", "%s (%" PRId64 ")", count, config_parameters(c));
    row(b, "layers", "%" PRId64, c->n_layers);
    row(b, "width", "%" PRId64, c->d_model);
    row(b, "heads", "%" PRId64 " query, %" PRId64 " key and value, %" PRId64 " features%s",
        c->n_heads, c->n_kv_heads, c->head_dim, c->qk_norm ? ", q and k normed" : "");
    row(b, "feed-forward", "%" PRId64 ", %s%s", c->d_ff, act_name(c->act),
        c->gated ? ", gated" : "");
    row(b, "vocabulary", "%" PRId64 "%s", c->vocab, c->tied ? ", head tied to embedding" : "");
    row(b, "context", "%" PRId64, c->max_ctx);
    if (c->window)
        row(b, "window", "%" PRId64 " in %" PRId64 " of %" PRId64 " layers", c->window,
            windowed_layers(c), c->n_layers);
    row(b, "norm", "%s, epsilon %g", c->norm == NORM_RMS ? "rms" : "layer", c->norm_eps);
    row(b, "positions", "%s", position_name(c->position));
    if (c->position == POSITION_ROPE)
        text_rope(b, &c->rope);
    text_biases(b, c);
    row(b, "dtype", "%s", dtype_word(c->dtype));
}

static void text_ids(buf *b, const model_config *c) {
    buf_printf(b, "%-15s", "end tokens");
    for (int i = 0; i < c->n_eos; i++)
        buf_printf(b, "%s%d", i ? ", " : "", (int)c->eos_id[i]);
    buf_puts(b, c->n_eos ? "\n" : "none\n");
    if (c->bos_id >= 0)
        row(b, "begin token", "%d", (int)c->bos_id);
}

static void text_generation(buf *b, const model_config *c) {
    const struct {
        const char *name;
        double value;
    } parts[] = {{"temperature", c->generation.temperature},
                 {"top-k", c->generation.top_k < 0 ? (double)NAN : (double)c->generation.top_k},
                 {"top-p", c->generation.top_p},
                 {"min-p", c->generation.min_p},
                 {"typical-p", c->generation.typical_p},
                 {"repeat-penalty", c->generation.repetition_penalty}};
    int n = 0;
    buf_printf(b, "%-15s", "generation");
    if (c->generation.do_sample >= 0)
        buf_printf(b, "%s", n++ == 0 && c->generation.do_sample ? "sampled" : "greedy");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!isnan(parts[i].value))
            buf_printf(b, "%s%s %g", n++ ? ", " : "", parts[i].name, parts[i].value);
    buf_puts(b, n ? "\n" : "no recommendation\n");
}

static void text_tokenizer(buf *b, const tokenizer *t) {
    if (!t) {
        row(b, "tokenizer", "none");
        return;
    }
    row(b, "tokenizer", "%s, %d tokens, %d merges, %d added", tokenizer_kind(t),
        tokenizer_vocab_size(t), tokenizer_merges(t), tokenizer_added(t));
    row(b, "", "bos %d%s, eos %d, unk %d", tokenizer_bos(t),
        tokenizer_adds_bos(t) ? " (put in front of a text)" : "", tokenizer_eos(t),
        tokenizer_unk(t));
}

static void shape_text(buf *b, const st_tensor *t) {
    buf_putc(b, '[');
    for (int i = 0; i < t->ndim; i++)
        buf_printf(b, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    buf_putc(b, ']');
}

static void text_tensors(buf *b, const safetensors *st) {
    int widest = 0;
    buf shape;
    buf_init(&shape, 4096);
    for (int i = 0; i < st->ntensor; i++) {
        int n = (int)strlen(st->tensor[i].name);
        widest = n > widest ? n : widest;
    }
    for (int i = 0; i < st->ntensor; i++) {
        const st_tensor *t = &st->tensor[i];
        buf_clear(&shape);
        shape_text(&shape, t);
        put_name(b, t->name, widest);
        buf_printf(b, "  %-5s %-18s %10.3f MiB%s%s\n", t->dtype_name, shape.data,
                   (double)t->bytes / 1048576, st->nfile > 1 ? "  " : "",
                   st->nfile > 1 ? t->file : "");
    }
    buf_fini(&shape);
}

typedef struct {
    const char *type; /* the reader's own string, so that equal types are equal pointers */
    int n;
    uint64_t bytes;
} tally;
enum { MAX_TYPES = 32 };

static int count_types(const safetensors *st, tally out[MAX_TYPES]) {
    int n = 0;
    for (int i = 0; i < st->ntensor; i++) {
        int k = 0;
        while (k < n && out[k].type != st->tensor[i].dtype_name)
            k++;
        if (k == MAX_TYPES)
            continue;
        if (k == n)
            out[n++] = (tally){.type = st->tensor[i].dtype_name};
        out[k].n++;
        out[k].bytes += st->tensor[i].bytes;
    }
    return n;
}

static void text_weights(buf *b, const safetensors *st) {
    char size[CMD_SIZE_TEXT];
    tally types[MAX_TYPES];
    int n = count_types(st, types);
    row(b, "weights", "%d tensors, %s in %d file%s", st->ntensor,
        cmd_size(size, (double)tensor_bytes(st)), st->nfile, st->nfile == 1 ? "" : "s");
    for (int i = 0; i < n; i++)
        row(b, "", "%s: %d, %s", types[i].type, types[i].n, cmd_size(size, (double)types[i].bytes));
    for (int i = 0; i < st->nalias; i++) {
        buf_printf(b, "%-15s", "");
        put_name(b, st->alias[i].from, 0);
        buf_puts(b, " is ");
        put_name(b, st->alias[i].to, 0);
        buf_putc(b, '\n');
    }
}

static void print_text(inspection *s, bool tensors) {
    buf *b = &s->out;
    row(b, "model", "%s", s->path);
    if (s->has_config) {
        text_config(b, &s->c);
        text_ids(b, &s->c);
        text_generation(b, &s->c);
        text_tokenizer(b, s->tok);
    }
    if (s->has_weights)
        text_weights(b, &s->st);
    else
        row(b, "weights", "none in this folder");
    if (tensors && s->has_weights) {
        buf_putc(b, '\n');
        text_tensors(b, &s->st);
    }
}

/* ---- JSON ---- */

static void json_number(buf *b, const char *key, double x) {
    buf_printf(b, "\"%s\":", key);
    buf_json_double(b, x);
    buf_putc(b, ',');
}

static void json_flag(buf *b, const char *key, bool on) {
    buf_printf(b, "\"%s\":%s,", key, on ? "true" : "false");
}

static void json_word(buf *b, const char *key, const char *word) {
    buf_printf(b, "\"%s\":", key);
    buf_json_string(b, word, strlen(word));
    buf_putc(b, ',');
}

/* Every member ends in a comma; the last one becomes the bracket. */
static void json_end(buf *b, char bracket) {
    if (b->len && b->data[b->len - 1] == ',')
        b->data[b->len - 1] = bracket;
    else
        buf_putc(b, bracket);
    buf_putc(b, ',');
}

static void json_rope(buf *b, const rope_config *r) {
    buf_puts(b, "\"rope\":{");
    json_word(b, "type", rope_kind_name(r->kind));
    json_number(b, "theta", r->theta);
    json_number(b, "dims", (double)r->dims);
    if (r->kind != ROPE_DEFAULT) {
        json_number(b, "factor", r->factor);
        json_number(b, "original_ctx", (double)r->original_ctx);
    }
    if (r->kind == ROPE_LLAMA3) {
        json_number(b, "low_freq_factor", r->low_freq_factor);
        json_number(b, "high_freq_factor", r->high_freq_factor);
    }
    if (r->kind == ROPE_YARN) {
        json_number(b, "beta_fast", r->beta_fast);
        json_number(b, "beta_slow", r->beta_slow);
    }
    json_end(b, '}');
}

static void json_config(buf *b, const model_config *c) {
    json_word(b, "family", c->family);
    json_number(b, "parameters", (double)config_parameters(c));
    buf_puts(b, "\"config\":{");
    json_number(b, "vocab", (double)c->vocab);
    json_number(b, "d_model", (double)c->d_model);
    json_number(b, "n_layers", (double)c->n_layers);
    json_number(b, "n_heads", (double)c->n_heads);
    json_number(b, "n_kv_heads", (double)c->n_kv_heads);
    json_number(b, "head_dim", (double)c->head_dim);
    json_number(b, "d_ff", (double)c->d_ff);
    json_number(b, "max_ctx", (double)c->max_ctx);
    json_number(b, "window", (double)c->window);
    json_number(b, "windowed_layers", (double)windowed_layers(c));
    json_word(b, "norm", c->norm == NORM_RMS ? "rms" : "layer");
    json_number(b, "norm_eps", c->norm_eps);
    json_word(b, "act", act_name(c->act));
    json_flag(b, "gated", c->gated);
    json_flag(b, "tied", c->tied);
    json_flag(b, "qkv_bias", c->qkv_bias);
    json_flag(b, "o_bias", c->o_bias);
    json_flag(b, "mlp_bias", c->mlp_bias);
    json_flag(b, "qk_norm", c->qk_norm);
    json_word(b, "position", position_name(c->position));
    if (c->position == POSITION_ROPE)
        json_rope(b, &c->rope);
    json_word(b, "dtype", dtype_word(c->dtype));
    json_number(b, "bos", c->bos_id);
    buf_puts(b, "\"eos\":[");
    for (int i = 0; i < c->n_eos; i++)
        buf_printf(b, "%d,", (int)c->eos_id[i]);
    json_end(b, ']');
    json_end(b, '}');
}

static void json_generation(buf *b, const model_config *c) {
    buf_puts(b, "\"generation\":{");
    json_number(b, "temperature", c->generation.temperature);
    json_number(b, "top_k", c->generation.top_k < 0 ? (double)NAN : (double)c->generation.top_k);
    json_number(b, "top_p", c->generation.top_p);
    json_number(b, "min_p", c->generation.min_p);
    json_number(b, "typical_p", c->generation.typical_p);
    json_number(b, "repetition_penalty", c->generation.repetition_penalty);
    json_end(b, '}');
}

static void json_tokenizer(buf *b, const tokenizer *t) {
    if (!t) {
        buf_puts(b, "\"tokenizer\":null,");
        return;
    }
    buf_puts(b, "\"tokenizer\":{");
    json_word(b, "kind", tokenizer_kind(t));
    json_number(b, "vocab", tokenizer_vocab_size(t));
    json_number(b, "merges", tokenizer_merges(t));
    json_number(b, "added", tokenizer_added(t));
    json_number(b, "bos", tokenizer_bos(t));
    json_number(b, "eos", tokenizer_eos(t));
    json_number(b, "unk", tokenizer_unk(t));
    json_flag(b, "adds_bos", tokenizer_adds_bos(t));
    json_end(b, '}');
}

static void json_tensors(buf *b, const safetensors *st) {
    json_number(b, "files", st->nfile);
    json_number(b, "bytes", (double)tensor_bytes(st));
    buf_puts(b, "\"tensors\":[");
    for (int i = 0; i < st->ntensor; i++) {
        const st_tensor *t = &st->tensor[i];
        buf_putc(b, '{');
        json_word(b, "name", t->name);
        json_word(b, "dtype", t->dtype_name);
        buf_puts(b, "\"shape\":");
        shape_text(b, t);
        buf_printf(b, ",\"bytes\":%" PRIu64 ",", t->bytes);
        json_word(b, "file", t->file);
        json_end(b, '}');
    }
    json_end(b, ']');
}

static void print_json(inspection *s) {
    buf *b = &s->out;
    buf_putc(b, '{');
    json_word(b, "model", s->path);
    if (s->has_config) {
        json_config(b, &s->c);
        json_generation(b, &s->c);
        json_tokenizer(b, s->tok);
    }
    if (s->has_weights)
        json_tensors(b, &s->st);
    json_end(b, '}');
    b->data[b->len - 1] = '\n';
}

/* ---- The command ---- */

static weft_status work(const inspect_args *a, const char *model) {
    inspection s = {.path = model};
    buf_init(&s.out, (size_t)1 << 30);
    weft_status st = read_all(&s);
    if (st == WEFT_OK) {
        if (a->json)
            print_json(&s);
        else
            print_text(&s, a->tensors);
        st = cmd_flush(&s.out);
    }
    buf_fini(&s.out);
    tokenizer_close(s.tok);
    safetensors_close(&s.st);
    arena_fini(&s.mem);
    return st;
}

static int run(int argc, char **argv) {
    inspect_args a = {.model = NULL};
    const char *model = NULL;
    weft_status s = cmd_parse_model(&cmd_inspect, argc, argv, &a, &model);
    if (s == WEFT_OK)
        s = shard_is_folder(model) ? data_inspect(model, a.json) : work(&a, model);
    return cmd_fail(s);
}

const cmd_row cmd_inspect = {
    .name = "inspect",
    .usage = "MODEL [--tensors] [--json]",
    .summary = "show a model's shape, tensors and tokenizer",
    .notes = "Reads headers only, so that a model larger than memory is shown at once. MODEL may "
             "also be one .safetensors file, or a folder of token shards.\n\n"
             "  weft inspect MODEL\n"
             "  weft inspect MODEL --tensors\n"
             "  weft inspect MODEL --json",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
