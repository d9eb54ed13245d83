/* SPDX-License-Identifier: Apache-2.0
 * `weft sample`: the sampler seen from outside. A line of logits and parameters goes through the
 * very kernel row that generates; the probabilities it drew from come back. */
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/base/thread.h"
#include "host/cmd/cmd.h"
#include "host/model/sampling.h"
#include "host/run/registry.h"
#include "weft/step.h"
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB_MAX = 1 << 22, HISTORY_MAX = 1 << 24, ERROR_BYTES = 256, BREAKERS_MAX = 1024 };

typedef struct {
    bool jsonl;
    const char *file, *device, *cpu_level;
} sample_args;

#define AT(member) offsetof(sample_args, member)
static const arg_spec specs[] = {
    {"jsonl", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "one JSON object a line (the only form)",
     AT(jsonl)},
    {"file", "f", NULL, ARG_STRING, "FILE", 0, 0, NULL, "read a file or - (the default)", AT(file)},
    {"device", "", NULL, ARG_CHOICE, "auto|cpu|cuda|ref|emu", 0, 0, "auto", "whose kernel",
     AT(device)},
    {"cpu-level", "", NULL, ARG_CHOICE, "auto|portable|avx2|avx512|avx512bf16", 0, 0, "auto",
     "instructions the CPU kernels may use", AT(cpu_level)},
};

/* ---- A line ---- */

typedef struct {
    int32_t *id;
    int64_t n;
} sample_ids;

typedef struct {
    float *logits;
    int32_t *history, *bias_id; /* bias_id: the logit bias, then eos_ids */
    float *bias;
    int64_t n_logits, n_history;
    sample_ids eos, breaker[BREAKERS_MAX];
    int n_breaker;
    float mu; /* NaN: not given */
    bool seeded;
    weft_sample_params p;
    char error[ERROR_BYTES]; /* "" if the line makes sense */
} sample_line;

/* What the line may say besides logits, history and logit_bias. */
#define P(member) offsetof(weft_sample_params, member)
static const struct {
    const char *key;
    size_t offset;
    bool integer;
    double min, max;
} params[] = {
    {"prompt_len", P(prompt_len), true, 0, HISTORY_MAX},
    {"temperature", P(temperature), false, 0, 1e6},
    {"top_k", P(top_k), true, 0, INT32_MAX},
    {"top_p", P(top_p), false, 0, 1},
    {"min_p", P(min_p), false, 0, 1},
    {"typical_p", P(typical_p), false, 0, 1},
    {"repetition_penalty", P(repetition_penalty), false, 1e-6, 1e6},
    {"frequency_penalty", P(frequency_penalty), false, -1e6, 1e6},
    {"presence_penalty", P(presence_penalty), false, -1e6, 1e6},
    {"no_repeat_ngram_size", P(no_repeat_ngram), true, 0, HISTORY_MAX},
    {"top_n_sigma", P(top_n_sigma), false, 0, 1e6},
    {"dynatemp_range", P(dynatemp_range), false, 0, 1e6},
    {"dynatemp_exponent", P(dynatemp_exponent), false, 0, 1e3},
    {"xtc_probability", P(xtc_probability), false, 0, 1},
    {"xtc_threshold", P(xtc_threshold), false, 0, 1},
    {"dry_multiplier", P(dry_multiplier), false, 0, 1e6},
    {"dry_base", P(dry_base), false, 1, 1e6},
    {"dry_allowed_length", P(dry_allowed_length), true, 1, HISTORY_MAX},
    {"dry_penalty_last_n", P(dry_last_n), true, -1, HISTORY_MAX},
    {"mirostat", P(mirostat), true, 0, 2},
    {"mirostat_tau", P(mirostat_tau), false, 0, 1e6},
    {"mirostat_eta", P(mirostat_eta), false, 0, 1e6},
    {"min_tokens", P(min_tokens), true, 0, HISTORY_MAX},
};

/* The first complaint stays. */
static void complain(sample_line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void complain(sample_line *l, const char *fmt, ...) {
    if (l->error[0])
        return;
    buf b;
    buf_init(&b, ERROR_BYTES * 4);
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    size_t n = b.len < ERROR_BYTES - 1 ? b.len : ERROR_BYTES - 1;
    memcpy(l->error, b.data, n);
    l->error[n] = 0;
    buf_fini(&b);
}

/* A number that fits float; null is -infinity where `null_too`. */
static float read_float(json *j, sample_line *l, const char *key, bool null_too) {
    json_kind kind = json_peek(j);
    if (kind == JSON_NULL && null_too) {
        json_null(j);
        return -INFINITY;
    }
    if (kind != JSON_NUMBER) {
        complain(l, "%s: is not a number%s", key, null_too ? " or null" : "");
        json_skip(j);
        return 0;
    }
    double v = json_double(j);
    if (fabs(v) > FLT_MAX)
        complain(l, "%s: %g is too large for fp32", key, v);
    return (float)v;
}

static void read_param(json *j, sample_line *l, int i) {
    const char *key = params[i].key;
    char *field = (char *)&l->p + params[i].offset;
    if (json_peek(j) != JSON_NUMBER) {
        complain(l, "%s: is not a number", key);
        json_skip(j);
        return;
    }
    double v = json_double(j);
    if (!(v >= params[i].min && v <= params[i].max))
        complain(l, "%s: %g is out of range (%g to %g)", key, v, params[i].min, params[i].max);
    else if (!params[i].integer)
        memcpy(field, &(float){(float)v}, sizeof(float));
    else if (v == floor(v))
        memcpy(field, &(int32_t){(int32_t)v}, sizeof(int32_t));
    else
        complain(l, "%s: %g is not an integer", key, v);
}

static bool is_array(json *j, sample_line *l, const char *key) {
    if (json_peek(j) == JSON_ARRAY)
        return true;
    complain(l, "%s: is not an array", key);
    json_skip(j);
    return false;
}

static void read_logits(json *j, sample_line *l, arena *a) {
    if (!is_array(j, l, "logits"))
        return;
    buf all;
    buf_init(&all, VOCAB_MAX * sizeof(float));
    json_array(j);
    while (json_item(j)) {
        float x = read_float(j, l, "logits", true);
        buf_add(&all, &x, sizeof x);
    }
    l->n_logits = (int64_t)(all.len / sizeof(float));
    if (l->n_logits == 0 || all.failed)
        complain(l, "logits: the number of entries is out of range (1 to %d)", VOCAB_MAX);
    l->logits = (float *)(void *)arena_copy(a, all.data, all.len);
    buf_fini(&all);
}

/* Token ids, which check_line compares with the vocabulary. */
static sample_ids read_ids(json *j, sample_line *l, const char *key, int max, arena *a) {
    sample_ids ids = {0};
    if (!is_array(j, l, key))
        return ids;
    buf all;
    buf_init(&all, (size_t)max * sizeof(int32_t));
    json_array(j);
    for (int64_t i = 0; json_item(j); i++) {
        double v = -1;
        if (json_peek(j) == JSON_NUMBER)
            v = json_double(j);
        else
            json_skip(j);
        if (v < 0 || v > INT32_MAX || v != floor(v))
            complain(l, "%s: entry %" PRId64 " is not a token id", key, i);
        else
            buf_add(&all, &(int32_t){(int32_t)v}, sizeof(int32_t));
    }
    if (all.failed)
        complain(l, "%s: has more than %d entries", key, max);
    ids.n = (int64_t)(all.len / sizeof(int32_t));
    ids.id = (int32_t *)(void *)arena_copy(a, all.data, all.len);
    buf_fini(&all);
    return ids;
}

static void read_history(json *j, sample_line *l, arena *a) {
    sample_ids ids = read_ids(j, l, "history", HISTORY_MAX, a);
    l->history = ids.id;
    l->n_history = ids.n;
}

static void read_eos(json *j, sample_line *l, arena *a) {
    l->eos = read_ids(j, l, "eos_ids", WEFT_MAX_BIAS, a);
}

/* [[13], [198, 198]] */
static void read_breakers(json *j, sample_line *l, arena *a) {
    if (!is_array(j, l, "dry_sequence_breakers"))
        return;
    json_array(j);
    while (json_item(j)) {
        sample_ids ids = read_ids(j, l, "dry_sequence_breakers", SAMPLING_BREAKER_WORDS / 2, a);
        if (ids.n == 0)
            complain(l, "dry_sequence_breakers: an entry has no tokens");
        else if (l->n_breaker == BREAKERS_MAX)
            complain(l, "dry_sequence_breakers: has more than %d entries", BREAKERS_MAX);
        else
            l->breaker[l->n_breaker++] = ids;
    }
}

/* "top_k;temperature" or ["top_k", "temperature"] */
static void read_samplers(json *j, sample_line *l, arena *a) {
    json_kind kind = json_peek(j);
    buf list;
    if (kind != JSON_STRING && kind != JSON_ARRAY) {
        complain(l, "samplers: is neither a string nor an array");
        json_skip(j);
        return;
    }
    buf_init(&list, ERROR_BYTES * 4);
    if (kind == JSON_STRING) {
        buf_puts(&list, json_dup(a, json_string(j)));
    } else {
        json_array(j);
        for (bool more = false; json_item(j); more = true) {
            buf_puts(&list, more ? ";" : "");
            if (json_peek(j) == JSON_STRING)
                buf_puts(&list, json_dup(a, json_string(j)));
            else
                json_skip(j);
        }
    }
    if (sampling_order("samplers", list.data, l->p.order) != WEFT_OK)
        complain(l, "%s", err_message());
    buf_fini(&list);
}

static void read_mu(json *j, sample_line *l, arena *a) {
    (void)a;
    l->mu = read_float(j, l, "mirostat_mu", false);
}

static void read_seed(json *j, sample_line *l, arena *a) {
    double v = -1;
    (void)a;
    if (json_peek(j) == JSON_NUMBER)
        v = json_double(j);
    else
        json_skip(j);
    if (v < 0 || v > 0x1p53 || v != floor(v)) {
        complain(l, "seed: is not an integer from 0 to 2^53");
        return;
    }
    uint64_t seed = (uint64_t)v;
    l->seeded = true;
    l->p.seed[0] = (uint32_t)seed;
    l->p.seed[1] = (uint32_t)(seed >> 32);
}

static int32_t bias_key(json_str key) {
    char text[16], *end;
    if (key.n == 0 || key.n >= sizeof text)
        return -1;
    memcpy(text, key.s, key.n);
    text[key.n] = 0;
    if (strspn(text, "0123456789") != key.n)
        return -1;
    long v = strtol(text, &end, 10);
    return v <= INT32_MAX ? (int32_t)v : -1;
}

/* {"17": 2.5}; null bans the token. */
static void read_bias(json *j, sample_line *l, arena *a) {
    if (json_peek(j) != JSON_OBJECT) {
        complain(l, "logit_bias: is not an object");
        json_skip(j);
        return;
    }
    l->bias_id = ARENA_NEW(a, int32_t, WEFT_MAX_BIAS);
    l->bias = ARENA_NEW(a, float, WEFT_MAX_BIAS);
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        int32_t id = bias_key(key), n = l->p.n_bias;
        float x = read_float(j, l, "logit_bias", true);
        if (id < 0)
            complain(l, "logit_bias: \"%.*s\" is not a token id", (int)(key.n < 40 ? key.n : 40),
                     key.s);
        else if (n == WEFT_MAX_BIAS)
            complain(l, "logit_bias: has more than %d entries", WEFT_MAX_BIAS);
        else {
            l->bias_id[n] = id;
            l->bias[n] = x;
            l->p.n_bias++;
        }
    }
}

/* What is no plain number. */
static const struct {
    const char *key;
    void (*read)(json *, sample_line *, arena *);
} readers[] = {
    {"logits", read_logits},
    {"history", read_history},
    {"logit_bias", read_bias},
    {"eos_ids", read_eos},
    {"dry_sequence_breakers", read_breakers},
    {"samplers", read_samplers},
    {"mirostat_mu", read_mu},
    {"seed", read_seed},
};

static void unknown_key(sample_line *l, json_str key, arena *a) {
    const char *all[CMD_COUNT(params) + CMD_COUNT(readers)];
    int n = 0;
    for (int i = 0; i < CMD_COUNT(params); i++)
        all[n++] = params[i].key;
    for (int i = 0; i < CMD_COUNT(readers); i++)
        all[n++] = readers[i].key;
    char *word = json_dup(a, key);
    const char *near = args_nearest(word, all, n);
    complain(l, "%.60s: unknown key%s%s%s", word, near ? "; did you mean " : "", near ? near : "",
             near ? "?" : "");
}

static void read_key(json *j, sample_line *l, json_str key, arena *a) {
    for (int i = 0; i < CMD_COUNT(readers); i++)
        if (json_is(key, readers[i].key)) {
            readers[i].read(j, l, a);
            return;
        }
    for (int i = 0; i < CMD_COUNT(params); i++)
        if (json_is(key, params[i].key)) {
            read_param(j, l, i);
            return;
        }
    unknown_key(l, key, a);
    json_skip(j);
}

static void check_ids(sample_line *l, const char *key, const int32_t *id, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (id[i] >= l->n_logits)
            complain(l, "%s: %d is outside the vocabulary (0 to %" PRId64 ")", key, (int)id[i],
                     l->n_logits - 1);
}

static void check_line(sample_line *l) {
    if (l->n_logits == 0)
        complain(l, "logits: missing");
    check_ids(l, "history", l->history, l->n_history);
    check_ids(l, "logit_bias", l->bias_id, l->p.n_bias);
    check_ids(l, "eos_ids", l->eos.id, l->eos.n);
    for (int i = 0; i < l->n_breaker; i++)
        check_ids(l, "dry_sequence_breakers", l->breaker[i].id, l->breaker[i].n);
    if (l->p.prompt_len > l->n_history)
        complain(l, "prompt_len: %d is more than the history (0 to %" PRId64 ")",
                 (int)l->p.prompt_len, l->n_history);
}

/* WEFT_BAD_FILE if the line is no JSON object; what it says may still be a complaint. */
static weft_status read_line(sample_line *l, const char *name, const char *text, size_t n,
                             arena *a) {
    json j;
    l->mu = NAN;
    l->p = (weft_sample_params){.temperature = 1,
                                .top_p = 1,
                                .typical_p = 1,
                                .repetition_penalty = 1,
                                .dynatemp_exponent = 1,
                                .xtc_threshold = 0.1f,
                                .dry_base = 1.75f,
                                .dry_allowed_length = 2,
                                .dry_last_n = -1,
                                .mirostat_tau = 5,
                                .mirostat_eta = 0.1f};
    json_init(&j, name, text, n, a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);)
        read_key(&j, l, key, a);
    WEFT_TRY(json_done(&j));
    l->p.history_len = (int32_t)l->n_history;
    check_line(l);
    return WEFT_OK;
}

/* ---- The kernel row ---- */

typedef struct {
    const sample_args *args;
    device *dev;
    weft_stream *stream;
    buf out;
} sample_state;

static weft_tensor view(int dtype, int64_t rows, int64_t columns, void *data) {
    int64_t shape[2] = {rows, columns};
    weft_tensor t = weft_tensor_make(dtype, columns < 0 ? 1 : 2, shape);
    static uint32_t next_id;
    t.id = ++next_id;
    t.data = data;
    return t;
}

static int by_first(const void *x, const void *y) {
    const sample_ids *a = x, *b = y;
    return (a->id[0] > b->id[0]) - (a->id[0] < b->id[0]);
}

/* The tables that the row reads beside its parameters. */
static weft_status add_tables(sample_line *l, weft_sample_args *x, arena *a) {
    int64_t words = sampling_breaker_words(l->n_logits), n = l->p.n_bias + l->eos.n;
    int32_t *held = ARENA_NEW(a, int32_t, n + 1), *breaker = ARENA_NEW(a, int32_t, words);
    float *bias = ARENA_NEW(a, float, n + 1), *mu = ARENA_NEW(a, float, l->n_history + 2);
    for (int64_t i = 0; i < n; i++) {
        held[i] = i < l->p.n_bias ? l->bias_id[i] : l->eos.id[i - l->p.n_bias];
        bias[i] = i < l->p.n_bias ? l->bias[i] : 0;
    }
    l->p.n_held = (int32_t)l->eos.n;
    qsort(l->breaker, (size_t)l->n_breaker, sizeof *l->breaker, by_first);
    for (int i = 0; i < l->n_breaker; i++)
        WEFT_TRY(sampling_breaker_add(l->n_logits, l->breaker[i].id, (int32_t)l->breaker[i].n,
                                      breaker, &l->p.n_breaker));
    for (int64_t i = 0; i < l->n_history + 2; i++)
        mu[i] = i == l->n_history ? l->mu : NAN;
    if (n > 0) {
        x->bias_id = view(WEFT_I32, 1, n, held);
        x->bias = view(WEFT_F32, 1, n, bias);
    }
    x->breaker = view(WEFT_I32, 1, words, breaker);
    x->mu = view(WEFT_F32, 1, l->n_history + 2, mu);
    return WEFT_OK;
}

static weft_status run_line(sample_state *s, sample_line *l, arena *a, float *probs, int32_t *id) {
    weft_step step = {.lane = WEFT_LANE_COMPUTE};
    weft_sample_args *x = &step.args.sample;
    int64_t room = l->n_history + 1;
    int32_t *history = ARENA_NEW(a, int32_t, room);
    if (l->n_history > 0)
        memcpy(history, l->history, (size_t)l->n_history * sizeof *history);
    if (add_tables(l, x, a) != WEFT_OK) {
        complain(l, "%s", err_message());
        return WEFT_OK;
    }
    x->logits = view(WEFT_F32, 1, l->n_logits, l->logits);
    x->params = view(WEFT_I32, 1, WEFT_SAMPLE_WORDS, &l->p);
    x->id = view(WEFT_I32, 1, -1, id);
    x->probs = view(WEFT_F32, 1, l->n_logits, probs);
    x->history = view(WEFT_I32, 1, room, history);
    x->last = view(WEFT_I32, 1, -1, ARENA_NEW(a, int32_t, 1));
    WEFT_TRY(registry_find(s->dev, WEFT_OP_sample, &step.args, &step.kernel));
    const weft_kernel *k = step.kernel;
    size_t scratch = k->scratch ? k->scratch(&step.args) : 0;
    void *block = NULL;
    if (scratch > 0)
        WEFT_TRY(s->dev->alloc(s->dev, scratch, "scratch of sample", &block));
    step.scratch = block;
    step.state = arena_alloc(a, (size_t)k->state_bytes + 1);
    if (k->bind)
        k->bind(&step, step.state);
    k->run(&step, s->stream);
    weft_status st = s->dev->sync(s->dev, s->stream);
    if (block)
        s->dev->release(s->dev, block, scratch);
    float next = ((const float *)x->mu.data)[l->n_history + 1];
    l->mu = isnan(next) ? l->mu : next; /* greedy leaves it as it was */
    return st;
}

static weft_status sample_and_print(sample_state *s, sample_line *l, arena *a) {
    float *probs = ARENA_NEW(a, float, l->n_logits + 1);
    int32_t id = -1;
    if (!l->error[0])
        WEFT_TRY(run_line(s, l, a, probs, &id));
    if (!l->error[0] && id < 0)
        complain(l, "logits: every token is masked or not a number");
    if (l->error[0]) {
        buf_puts(&s->out, "{\"error\":");
        buf_json_string(&s->out, l->error, strlen(l->error));
        buf_puts(&s->out, "}\n");
        return cmd_flush(&s->out);
    }
    buf_puts(&s->out, "{\"probs\":[");
    for (int64_t i = 0; i < l->n_logits; i++) {
        buf_puts(&s->out, i ? "," : "");
        buf_json_float(&s->out, probs[i]);
    }
    buf_putc(&s->out, ']');
    if (l->seeded || l->p.mirostat)
        buf_printf(&s->out, ",\"id\":%d", (int)id);
    if (l->p.mirostat) {
        buf_puts(&s->out, ",\"mirostat_mu\":");
        buf_json_float(&s->out, l->mu);
    }
    buf_puts(&s->out, "}\n");
    return cmd_flush(&s->out);
}

/* *bad is raised by a line that is no JSON object; it too is answered by an error. */
static weft_status one_line(sample_state *s, const cmd_lines *in, const char *text, size_t n,
                            bool *bad) {
    arena a = {0};
    sample_line l = {.n_logits = 0};
    char *name = arena_printf(&a, "%s:%" PRId64, in->name, in->number);
    weft_status st = read_line(&l, name, text, n, &a);
    if (st != WEFT_OK) {
        *bad = true;
        l.error[0] = 0;
        complain(&l, "%s", err_message());
    }
    st = sample_and_print(s, &l, &a);
    arena_fini(&a);
    return st;
}

static weft_status lines(sample_state *s, cmd_lines *in) {
    const char *line, *first = NULL;
    size_t n;
    arena a = {0};
    weft_status st = cmd_lines_next(in, &line, &n);
    while (st == WEFT_OK && line) {
        bool bad = false;
        st = one_line(s, in, line, n, &bad);
        if (bad && !first)
            first = arena_printf(&a, "%s", err_message());
        if (st == WEFT_OK)
            st = cmd_lines_next(in, &line, &n);
    }
    if (st == WEFT_OK && first)
        st = weft_fail(WEFT_BAD_FILE, "%s", first);
    arena_fini(&a);
    return st;
}

/* ---- The command ---- */

static weft_status work(const sample_args *a) {
    sample_state s = {.args = a};
    cmd_lines in;
    if (!a->jsonl)
        return weft_fail(WEFT_USAGE, "--jsonl: missing; usage: weft sample %s", cmd_sample.usage);
    WEFT_TRY(device_open(a->device, a->cpu_level, &s.dev));
    buf_init(&s.out, SIZE_MAX);
    weft_status st = s.dev->stream_open(s.dev, 1, &s.stream);
    if (st == WEFT_OK) {
        st = cmd_lines_open(&in, a->file);
        if (st == WEFT_OK)
            st = lines(&s, &in);
        cmd_lines_close(&in);
        s.dev->stream_close(s.dev, s.stream);
    }
    buf_fini(&s.out);
    device_close(s.dev);
    return st;
}

static int run(int argc, char **argv) {
    sample_args a = {.jsonl = false};
    int n;
    weft_status s = args_parse(specs, CMD_COUNT(specs), argc, argv, &a, NULL, 0, &n);
    return cmd_fail(s == WEFT_OK ? work(&a) : s);
}

const cmd_row cmd_sample = {
    .name = "sample",
    .usage = "--jsonl [-f FILE] [--device auto|cpu|cuda|ref|emu]",
    .summary = "probabilities of the sampling chain, from logits",
    .notes =
        "A line is an object: logits (null is -infinity), history (token ids), prompt_len (how "
        "many of them are prompt), and temperature, top_k, top_p, min_p, typical_p, "
        "repetition_penalty, frequency_penalty, presence_penalty, no_repeat_ngram_size, logit_bias "
        "({\"ID\": X}), top_n_sigma, dynatemp_range, dynatemp_exponent, dry_multiplier, dry_base, "
        "dry_allowed_length, dry_penalty_last_n, dry_sequence_breakers ([[ID, ...], ...]), "
        "xtc_probability, xtc_threshold, mirostat, mirostat_tau, mirostat_eta, mirostat_mu, "
        "min_tokens, eos_ids, samplers (\"top_k;temperature\" or an array), seed. The answer is "
        "{\"probs\": [...]} or {\"error\": \"...\"}; with a seed or mirostat also the id drawn, "
        "with "
        "mirostat the next mirostat_mu. A line that is no JSON object makes the exit code 3, once "
        "all lines are done.\n\n"
        "  echo '{\"logits\":[1,2,null],\"temperature\":0.5}' | weft sample --jsonl",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
