/* SPDX-License-Identifier: Apache-2.0
 * `weft train`: pretrain from a config, fine-tune a model folder, or train an adapter over it. */
#include "host/base/clock.h"
#include "host/base/mem.h"
#include "host/base/progress.h"
#include "host/cmd/cmd.h"
#include "host/train/loop.h"
#include "host/train/lora.h"
#include "host/train/options_json.h"
#include "host/train/pipeline.h"
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *device, *dtype, *cpu_level, *output, *log, *resume, *schedule, *optimizer,
        *recompute, *comm, *order, *dump_grads, *lora_from, *tokenizer, *sample_prompt, *on_nan,
        *on_spike;
    arg_list data, freeze, lora_targets, weights;
    int64_t threads, tp, pp, interleave, dp, zero, steps, warmup, decay_steps, batch, micro,
        seq_len, shards, seed, lora_r, keep, save_every, val_every, patience, sample_tokens;
    double lr, min_lr, weight_decay, beta1, beta2, eps, clip, smoothing, z_loss, dropout, ema,
        init_std, lora_alpha, val_fraction, spike, timeout;
    int64_t max_restarts;
    bool elastic;
    bool from_scratch, csv, tensorboard, sft, pack, append_eos, stochastic, json;
} train_args;

#define AT(member) offsetof(train_args, member)
#define BIG 1e18
static const arg_spec specs[] = {
    {"data", "", NULL, ARG_LIST, "PATH", 0, 0, NULL,
     "what to train on: a folder of `weft data`, text, JSONL of text, messages or input_ids; may "
     "be repeated",
     AT(data)},
    {"weights", "", NULL, ARG_LIST, "X,...", 0, 0, NULL,
     "share of the rows of each --data, in order; none: by size", AT(weights)},
    {"tokenizer", "", NULL, ARG_STRING, "DIR", 0, 0, NULL,
     "folder with the tokenizer and chat template; none: the model's", AT(tokenizer)},
    {"output", "o", NULL, ARG_STRING, "DIR", 0, 0, NULL, "the run's folder", AT(output)},
    {"steps", "", NULL, ARG_INT, "N", 1, BIG, NULL, "optimizer steps in all", AT(steps)},
    {"from-scratch", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "random weights; the argument is a config.json or a folder with one", AT(from_scratch)},
    {"batch-size", "", NULL, ARG_INT, "N", 1, 1 << 20, "8", "rows a step", AT(batch)},
    {"micro-batch", "", NULL, ARG_INT, "N", 0, 1 << 20, "0",
     "rows computed at once, the same bits for any; 0: the batch", AT(micro)},
    {"seq-len", "", NULL, ARG_INT, "N", 0, 1 << 24, "0",
     "tokens a row; 0: the longest row of the data, else the model's context, at most 1024",
     AT(seq_len)},
    {"shards", "", NULL, ARG_INT, "N", 0, 8, "0",
     "virtual shards of a batch; 0: the largest of 8, 4, 2, 1 that divides it", AT(shards)},
    {"tp", "", "tensor-parallel-size", ARG_INT, "N", 1, COMM_MAX_RANKS, "1",
     "ranks that share every matrix: 1, 2, 4 or 8; the same bits for any", AT(tp)},
    {"pp", "", "pipeline-parallel-size", ARG_INT, "N", 1, COMM_MAX_RANKS, "1",
     "stages of consecutive layers, one behind the other; the same bits for any", AT(pp)},
    {"interleave", "", NULL, ARG_INT, "N", 1, PIPE_MAX_CHUNKS, "1",
     "runs of layers a rank of --pp has: shorter waits, more exchanges", AT(interleave)},
    {"dp", "", "data-parallel-size", ARG_INT, "N", 1, COMM_MAX_RANKS, "1",
     "ranks that each take a part of every batch: 1, 2, 4 or 8; the same bits for any", AT(dp)},
    {"zero", "", NULL, ARG_INT, "N", 0, 3, "0",
     "1: each rank keeps a part of the optimizer's state, 2: and of the gradient, 3: and of the "
     "matrices; the same bits",
     AT(zero)},
    {"comm", "", NULL, ARG_CHOICE, "auto|local|tcp|mpi|nccl", 0, 0, "auto",
     "how ranks talk: threads of one process, processes, or GPUs; auto: as they were started",
     AT(comm)},
    {"timeout", "", NULL, ARG_FLOAT, "SECONDS", 0.1, 1e6, "10",
     "how late a rank may be before the job ends", AT(timeout)},
    {"elastic", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "when a rank is lost, the others go on from the last checkpoint, on as many as fit",
     AT(elastic)},
    {"max-restarts", "", NULL, ARG_INT, "N", 0, 1 << 20, "8", "so often at most", AT(max_restarts)},
    {"lr", "", "learning-rate", ARG_FLOAT, "X", 0, 1e3, "3e-4", "peak learning rate", AT(lr)},
    {"min-lr", "", NULL, ARG_FLOAT, "X", 0, 1e3, "0", "learning rate at the end", AT(min_lr)},
    {"warmup", "", NULL, ARG_INT, "N", 0, BIG, "0", "steps of linear warm-up", AT(warmup)},
    {"schedule", "", NULL, ARG_CHOICE, "constant|linear|cosine|wsd", 0, 0, "cosine",
     "how the rate falls from its peak", AT(schedule)},
    {"decay-steps", "", NULL, ARG_INT, "N", 0, BIG, "0",
     "last steps of wsd, over which the rate falls; 0: a fifth", AT(decay_steps)},
    {"optimizer", "", NULL, ARG_CHOICE, "adamw|sgd", 0, 0, "adamw", "sgd: with momentum --beta1",
     AT(optimizer)},
    {"weight-decay", "", NULL, ARG_FLOAT, "X", 0, 1e3, "0.1",
     "decoupled, on matrices that are no embeddings", AT(weight_decay)},
    {"beta1", "", NULL, ARG_FLOAT, "X", 0, 0.999999, "0.9", "decay of the mean gradient",
     AT(beta1)},
    {"beta2", "", NULL, ARG_FLOAT, "X", 0, 0.99999999, "0.95", "decay of the mean square",
     AT(beta2)},
    {"eps", "", NULL, ARG_FLOAT, "X", 0, 1, "1e-8", "added to the root of the mean square",
     AT(eps)},
    {"clip", "", "grad-clip", ARG_FLOAT, "X", 0, 1e30, "1", "largest norm of the gradient; 0: any",
     AT(clip)},
    {"dropout", "", NULL, ARG_FLOAT, "P", 0, 0.99, "0",
     "behind the embedding, attention and the MLP", AT(dropout)},
    {"label-smoothing", "", NULL, ARG_FLOAT, "X", 0, 0.99, "0",
     "share of the target spread over the vocabulary", AT(smoothing)},
    {"z-loss", "", NULL, ARG_FLOAT, "X", 0, 1, "0", "weight of the squared log-partition",
     AT(z_loss)},
    {"ema", "", NULL, ARG_FLOAT, "X", 0, 0.9999999, "0",
     "decay of a running mean of the weights, kept in the checkpoints; 0: none", AT(ema)},
    {"seed", "", NULL, ARG_INT, "N", 0, BIG, "0", "of weights, order of the data and dropout",
     AT(seed)},
    {"init-std", "", NULL, ARG_FLOAT, "X", 0, 10, "0.02", "standard deviation of random matrices",
     AT(init_std)},
    {"recompute", "", NULL, ARG_CHOICE, "none|attn|layer", 0, 0, "none",
     "what is computed again instead of kept for backward, the same bits for any", AT(recompute)},
    {"stochastic-rounding", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "round the model's bf16 weights by chance, in proportion", AT(stochastic)},
    {"freeze", "", NULL, ARG_LIST, "PATTERN", 0, 0, NULL,
     "tensors that stay as they are, by name (* and ?); may be repeated", AT(freeze)},
    {"lora-r", "", NULL, ARG_INT, "N", 0, 4096, "0",
     "train adapters of this rank instead of the weights; 0: no", AT(lora_r)},
    {"lora-alpha", "", NULL, ARG_FLOAT, "X", 0, 1e6, "0",
     "their scale times the rank; 0: twice the rank", AT(lora_alpha)},
    {"lora-targets", "", NULL, ARG_LIST, "NAME", 0, 0, NULL,
     "matrices that get one, such as q_proj; may be repeated or a,b,c; none: q_proj and v_proj",
     AT(lora_targets)},
    {"lora", "", NULL, ARG_STRING, "DIR", 0, 0, NULL, "an adapter to go on from", AT(lora_from)},
    {"order", "", NULL, ARG_CHOICE, "shuffle|file", 0, 0, "shuffle",
     "file: rows in the order of the file, again from its start when they run out", AT(order)},
    {"pack", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "several documents a row, which do not see each other", AT(pack)},
    {"sft", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "conversations: the loss is on what the assistant says", AT(sft)},
    {"append-eos", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "an end-of-sequence token behind each text", AT(append_eos)},
    {"val", "", NULL, ARG_FLOAT, "X", 0, 0.9, "0", "share of the rows kept for validation",
     AT(val_fraction)},
    {"val-every", "", NULL, ARG_INT, "N", 0, BIG, "0", "steps between validations; 0: at the end",
     AT(val_every)},
    {"patience", "", NULL, ARG_INT, "N", 0, 1 << 20, "0",
     "validations without a better loss before it stops; 0: never", AT(patience)},
    {"save-every", "", NULL, ARG_INT, "N", 0, BIG, "0", "steps between checkpoints; 0: at the end",
     AT(save_every)},
    {"keep", "", NULL, ARG_INT, "N", 1, 1000, "3", "newest checkpoints kept, beside the best",
     AT(keep)},
    {"resume", "", NULL, ARG_CHOICE, "auto|none", 0, 0, "none",
     "auto: go on from the newest checkpoint of DIR that is whole", AT(resume)},
    {"sample-prompt", "", NULL, ARG_STRING, "TEXT", 0, 0, NULL,
     "continued at every checkpoint, into samples.jsonl", AT(sample_prompt)},
    {"sample-tokens", "", NULL, ARG_INT, "N", 1, 1 << 20, "64", "tokens of such a text",
     AT(sample_tokens)},
    {"on-nan", "", NULL, ARG_CHOICE, "stop|skip", 0, 0, "stop",
     "what to do about a loss or gradient that is not finite", AT(on_nan)},
    {"spike", "", NULL, ARG_FLOAT, "X", 0, 1e6, "0",
     "a loss so many standard deviations above the last 100 is a spike; 0: none is", AT(spike)},
    {"on-spike", "", NULL, ARG_CHOICE, "stop|skip", 0, 0, "skip", "what to do about a spike",
     AT(on_spike)},
    {"log", "", NULL, ARG_STRING, "FILE", 0, 0, NULL, "metrics.jsonl somewhere else", AT(log)},
    {"csv", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "write metrics.csv too", AT(csv)},
    {"tensorboard", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "write TensorBoard events too",
     AT(tensorboard)},
    {"dump-grads", "", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "write the first step's gradients, before clipping (safetensors)", AT(dump_grads)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object at the end", AT(json)},
    {"device", "", NULL, ARG_CHOICE, "auto|cpu|cuda|ref|emu", 0, 0, "auto",
     "where to compute; ref is the slow reference", AT(device)},
    {"dtype", "", NULL, ARG_CHOICE, "auto|fp32|bf16|fp16|int8", 0, 0, "auto",
     "type the model computes in; bf16 keeps fp32 weights beside; int8: the base of an adapter",
     AT(dtype)},
    {"threads", "t", NULL, ARG_INT, "N", 0, 1024, "0", "CPU threads; 0: every core", AT(threads)},
    {"cpu-level", "", NULL, ARG_STRING, "LEVEL", 0, 0, "auto",
     "portable, avx2, avx512 or avx512bf16; auto: the best here", AT(cpu_level)},
};

static volatile int caught; /* the signal to end by */

static void on_signal(int number) {
    caught = number;
}

/* ---- Options ---- */

/* "a,b" given once is the same as a and b given apart. */
static void split_list(arena *a, const arg_list *from, const char *const **out, int *n) {
    const char **item = ARENA_NEW(a, const char *, 1);
    int cap = 0;
    *n = 0;
    for (int i = 0; i < from->n; i++)
        cap += 1 + (int)strlen(from->item[i]);
    if (cap)
        item = ARENA_NEW(a, const char *, cap);
    for (int i = 0; i < from->n; i++)
        for (const char *p = from->item[i]; *p;) {
            size_t len = strcspn(p, ",");
            if (len)
                item[(*n)++] = arena_copy(a, p, len);
            p += len + (p[len] == ',');
        }
    *out = item;
}

static train_options train_of(const train_args *a, const char *model, arena *mem) {
    train_options o = {.model = model,
                       .tokenizer = a->tokenizer,
                       .from_scratch = a->from_scratch,
                       .device = a->device,
                       .cpu_level = a->cpu_level,
                       .dtype = a->dtype,
                       .threads = (int)a->threads,
                       .steps = a->steps,
                       .warmup = a->warmup,
                       .schedule = (schedule_kind)options_choice(schedule_names, a->schedule),
                       .lr = a->lr,
                       .min_lr = a->min_lr,
                       .decay_steps = a->decay_steps,
                       .batch = (int)a->batch,
                       .micro_batch = (int)a->micro,
                       .shards = (int)a->shards,
                       .optim = (optim_kind)options_choice(optim_names, a->optimizer),
                       .weight_decay = a->weight_decay,
                       .beta1 = a->beta1,
                       .beta2 = a->beta2,
                       .eps = a->eps,
                       .clip = a->clip,
                       .label_smoothing = a->smoothing,
                       .z_loss = a->z_loss,
                       .dropout = a->dropout,
                       .ema = a->ema,
                       .init_std = a->init_std,
                       .stochastic_rounding = a->stochastic,
                       .seed = (uint64_t)a->seed,
                       .recompute = (recompute_mode)options_choice(recompute_names, a->recompute),
                       .lora_rank = (int)a->lora_r,
                       .lora_alpha = a->lora_alpha > 0 ? a->lora_alpha : 2.0 * (double)a->lora_r,
                       .lora_from = a->lora_from,
                       .tp = (int)a->tp,
                       .pp = (int)a->pp,
                       .interleave = (int)a->interleave,
                       .dp = (int)a->dp,
                       .zero = (int)a->zero,
                       .comm = a->comm,
                       .timeout = a->timeout};
    split_list(mem, &a->freeze, &o.freeze, &o.n_freeze);
    split_list(mem, &a->lora_targets, &o.lora_target, &o.n_lora_target);
    return o;
}

static weft_status weights_of(const train_args *a, arena *mem, const double **out) {
    const char *const *item;
    int n;
    *out = NULL;
    split_list(mem, &a->weights, &item, &n);
    if (n == 0)
        return WEFT_OK;
    if (n != a->data.n)
        return weft_fail(WEFT_USAGE, "--weights: %d for %d of --data; give one each", n, a->data.n);
    double *w = ARENA_NEW(mem, double, n);
    for (int i = 0; i < n; i++) {
        char *end;
        w[i] = strtod(item[i], &end);
        if (end == item[i] || *end || !(w[i] > 0) || !isfinite(w[i]))
            return weft_fail(WEFT_USAGE, "--weights: \"%s\" is not a number above 0", item[i]);
    }
    *out = w;
    return WEFT_OK;
}

static weft_status check(const train_args *a) {
    if (!a->output || !*a->output)
        return weft_fail(WEFT_USAGE, "--output: is missing; give the run's folder with -o DIR");
    if (a->data.n == 0)
        return weft_fail(WEFT_USAGE, "--data: is missing; give a file or folder to train on");
    if (a->steps == 0)
        return weft_fail(WEFT_USAGE, "--steps: is missing");
    if (a->warmup > a->steps)
        return weft_fail(WEFT_USAGE, "--warmup: %" PRId64 " steps are more than --steps %" PRId64,
                         a->warmup, a->steps);
    if (a->min_lr > a->lr)
        return weft_fail(WEFT_USAGE, "--min-lr: %g is above --lr %g", a->min_lr, a->lr);
    if (a->lora_from && (a->lora_r || a->lora_targets.n || a->lora_alpha > 0))
        return weft_fail(WEFT_USAGE, "--lora: an adapter says its rank, alpha and targets itself");
    if (a->patience > 0 && a->val_every == 0)
        return weft_fail(WEFT_USAGE, "--patience: counts validations; give --val-every");
    return WEFT_OK;
}

/* ---- What happens, for a person ---- */

typedef struct {
    const train_args *args;
    progress bar;
    int64_t shown;
} view;

static void on_note(void *user, const char *message) {
    view *v = user;
    progress_end(&v->bar);
    cmd_warn("%s", message);
}

static void on_lead(void *user) {
    (void)user;
    cmd_speak();
}

static void on_open(void *user, const trainer *t, const dataset *d, int64_t from) {
    view *v = user;
    char size[CMD_SIZE_TEXT];
    train_memory m = trainer_memory(t);
    double total = (double)(m.weights + m.master + m.adapters + m.gradients + m.moments +
                            m.activations + m.scratch + m.feed + m.results);
    if (cmd_stderr_is_terminal()) {
        fprintf(stderr, "%s on %s, %s: %" PRId64 " parameters, %" PRId64 " trained; %s planned\n",
                t->config.family, t->dev->backend, weft_dtype_name(t->g.dtype), t->params.count,
                t->params.trained, cmd_size(size, total));
        fprintf(stderr,
                "%" PRId64 " tokens of data; a step is %d rows of %d tokens, %d at once, in %d "
                "virtual shards\n",
                data_tokens(d), t->o.batch, t->g.shape.row_tokens, t->g.shape.rows,
                t->g.shape.shards);
        if (from >= 0)
            fprintf(stderr, "resumed after step %" PRId64 "\n", from);
    }
    if (data_cut(d) > 0)
        cmd_warn("--seq-len: %" PRId64 " rows or documents are longer and were cut", data_cut(d));
    if (data_left_out(d) > 0)
        cmd_warn("--data: %" PRId64 " rows have nothing to predict and were left out",
                 data_left_out(d));
    progress_start(&v->bar, "training", "steps", t->o.steps);
    progress_add(&v->bar, t->done);
}

static void duration(char out[32], double s) {
    int64_t t = (int64_t)(s + 0.5);
    if (t >= 3600)
        snprintf(out, 32, "%" PRId64 "h%02dm", t / 3600, (int)(t / 60 % 60));
    else
        snprintf(out, 32, "%dm%02ds", (int)(t / 60), (int)(t % 60));
}

static void on_line(void *user, const loop_line *l) {
    view *v = user;
    char eta[32], share[32] = "", val[48] = "";
    if (v->args->json)
        return;
    duration(eta, l->eta);
    if (isfinite(l->pct_ceiling))
        snprintf(share, sizeof share, "  %4.1f %% of FMA", l->pct_ceiling);
    if (isfinite(l->val_loss))
        snprintf(val, sizeof val, "  val %.4f", l->val_loss);
    bool on = v->bar.on;
    progress_end(&v->bar);
    printf("step %" PRId64 "/%" PRId64 "  loss %.4f%s  lr %.2e  norm %.3f  %.0f tok/s%s  eta %s\n",
           l->step, l->steps, l->loss, val, l->lr, l->grad_norm, l->tokens_per_s, share, eta);
    fflush(stdout);
    v->bar.on = on;
    progress_add(&v->bar, l->step - v->bar.done);
}

static void print_end(const train_args *a, const loop_result *r) {
    if (a->json) {
        buf b;
        buf_init(&b, 1 << 16);
        buf_printf(&b, "{\"steps\":%" PRId64 ",\"tokens\":%" PRId64 ",\"loss\":", r->steps,
                   r->tokens);
        buf_json_double(&b, r->loss);
        buf_puts(&b, ",\"best_val\":");
        buf_json_double(&b, r->best_val);
        buf_printf(&b, ",\"planned_bytes\":%" PRIu64 ",\"taken_bytes\":%" PRIu64, r->planned,
                   r->taken);
        buf_printf(&b, ",\"sent_bytes\":%" PRIu64, r->sent);
        buf_printf(&b, ",\"best_step\":%" PRId64 ",\"early\":%s,\"seconds\":%.3f,\"output\":",
                   r->best_step, r->early ? "true" : "false", r->seconds);
        buf_json_line(&b, a->output, strlen(a->output));
        buf_puts(&b, "}\n");
        cmd_flush(&b);
        buf_fini(&b);
        return;
    }
    printf("%s after %" PRId64 " steps; the model is in %s\n",
           r->signal  ? "stopped"
           : r->early ? "no better for a while: stopped"
                      : "done",
           r->steps, a->output);
}

/* ---- The command ---- */

static weft_status work(const train_args *a, const char *model, arena *mem, loop_result *r) {
    view v = {.args = a};
    WEFT_TRY(check(a));
    loop_options o = {.train = train_of(a, model, mem),
                      .out = a->output,
                      .log = a->log,
                      .csv = a->csv,
                      .tensorboard = a->tensorboard,
                      .dump_grads = a->dump_grads,
                      .resume = strcmp(a->resume, "auto") == 0,
                      .save_every = a->save_every,
                      .keep = (int)a->keep,
                      .val_every = a->val_every,
                      .patience = (int)a->patience,
                      .sample_prompt = a->sample_prompt,
                      .sample_tokens = (int)a->sample_tokens,
                      .on_nan = strcmp(a->on_nan, "skip") == 0 ? LOOP_SKIP : LOOP_STOP,
                      .spike = a->spike,
                      .on_spike = strcmp(a->on_spike, "skip") == 0 ? LOOP_SKIP : LOOP_STOP,
                      .user = &v,
                      .opened = on_open,
                      .line = on_line,
                      .note = on_note,
                      .stop = &caught,
                      .elastic = a->elastic,
                      .max_restarts = (int)a->max_restarts,
                      .leads = on_lead};
    o.data = (data_options){.path = a->data.item,
                            .n_path = a->data.n,
                            .seq_len = (int)a->seq_len,
                            .seed = (uint64_t)a->seed,
                            .file_order = strcmp(a->order, "file") == 0,
                            .pack = a->pack,
                            .val_fraction = a->val_fraction,
                            .sft = a->sft,
                            .append_eos = a->append_eos,
                            .threads = (int)a->threads};
    WEFT_TRY(weights_of(a, mem, &o.data.weight));
    if (a->lora_from)
        WEFT_TRY(lora_read_config(a->lora_from, mem, &o.train, NULL));
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    weft_status s = loop_run(&o, r);
    progress_end(&v.bar);
    if (s == WEFT_OK && !r->spare)
        print_end(a, r);
    return s;
}

static int run(int argc, char **argv) {
    train_args a = {.json = false};
    arena mem = {0};
    loop_result r = {.signal = 0};
    const char *model;
    weft_status s = cmd_parse_model(&cmd_train, argc, argv, &a, &model);
    if (s == WEFT_OK)
        s = work(&a, model, &mem, &r);
    mem_free(a.data.item);
    mem_free(a.freeze.item);
    mem_free(a.lora_targets.item);
    mem_free(a.weights.item);
    arena_fini(&mem);
    int code = cmd_fail(s);
    return code == 0 && r.signal ? 128 + r.signal : code;
}

const cmd_row cmd_train = {
    .name = "train",
    .usage = "MODEL|CONFIG --data PATH -o DIR --steps N [options]",
    .summary = "pretrain or fine-tune a model",
    .notes =
        "DIR becomes a model folder that every other command opens; DIR/checkpoints holds what a "
        "run goes on from. The same options and data give the same bits, whatever --micro-batch, "
        "--threads and --recompute are and however often the run was interrupted.\n\n"
        "  weft train MODEL --data chat.jsonl --sft -o out --steps 200 --lr 1e-5\n"
        "  weft train --from-scratch config.json --data shards/ -o out --steps 10000\n"
        "  weft train MODEL --data text/ -o adapter --steps 500 --lora-r 8 --lr 1e-4\n"
        "  weft train MODEL --data text/ -o out --steps 500 --resume auto",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
