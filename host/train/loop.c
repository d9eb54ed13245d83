/* SPDX-License-Identifier: Apache-2.0
 * The run: open, resume, step, look, save, end. */
#include "host/train/loop.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/model/tokenizer/tokenizer.h"
#include "host/run/agree.h"
#include "host/run/ceiling.h"
#include "host/train/checkpoint_files.h"
#include "host/train/export.h"
#include "host/train/lora.h"
#include "host/train/metrics.h"
#include "host/train/nonfinite.h"
#include "host/train/suspect.h"
#include "weft.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { RECENT = 100, SAVE_FAILURES = 3 };

typedef struct {
    const loop_options *o;
    comm_link *link; /* to the other ranks; NULL: alone */
    dataset *data;
    trainer t;
    comm world; /* for what is said of a step, not what is computed */
    checkpointer *save;
    metrics *log;
    train_progress at;
    double recent[RECENT]; /* losses, for spikes */
    int64_t n_recent;
    int failures;                           /* saves or lines in a row that the disk refused */
    int64_t saved, validated;               /* steps */
    double ceiling, began, flops, expected; /* expected: most seconds between two collectives */
    int64_t began_at;
    loop_line line;
    loop_result *out;
} run;

static void note(const run *r, const char *message) {
    if (r->o->note)
        r->o->note(r->o->user, message);
}

static bool leads(const run *r) {
    return r->o->train.rank == 0;
}

/* ---- Ranks ---- */

/* Seconds that the others wait for what one rank does alone: a save, a sample, a report. */
enum { ALONE_SECONDS = 3600 };

static void expect(run *r, double seconds) {
    if (r->link)
        comm_step(r->link, r->t.done, seconds);
}

/* n bytes of rank 0 to all: what depends on a signal, a disk or a clock is decided there. */
static weft_status follow(run *r, void *data, uint64_t n, const char *what) {
    if (!r->link)
        return WEFT_OK;
    return comm_broadcast(&r->t.end[WEFT_GROUP_WORLD], 0, data, n, what);
}

static weft_status follow_step(run *r) {
    int64_t step = r->t.done;
    WEFT_TRY(follow(r, &step, sizeof step, "resume"));
    if (step == r->t.done)
        return WEFT_OK;
    return weft_fail(WEFT_PEER,
                     "rank %d: resumes after step %lld, rank 0 after step %lld; give all ranks the "
                     "same folder",
                     r->o->train.rank, (long long)r->t.done, (long long)step);
}

/* ---- Failures that may pass ---- */

/* A disk that is full now may not be so later; what is lost meanwhile is said each time. */
static weft_status bear(run *r, weft_status s) {
    if (s == WEFT_OK) {
        r->failures = 0;
        return WEFT_OK;
    }
    if (s != WEFT_IO || ++r->failures >= SAVE_FAILURES)
        return s;
    note(r, err_message());
    return WEFT_OK;
}

/* ---- Data ---- */

static void take_rows(run *r, bool validation, int64_t step) {
    train_rows *x = &r->t.rows;
    data_rows(r->data, validation, step, r->t.o.batch, 0, r->t.o.batch, x->ids, x->labels, x->pos,
              x->len);
}

static weft_status open_data(run *r) {
    const train_options *t = &r->o->train;
    data_options o = r->o->data;
    model_config c;
    arena a = {0};
    weft_status s = trainer_config(t, &a, &c, NULL, NULL);
    if (s == WEFT_OK) {
        o.vocab = (int32_t)c.vocab;
        o.model_dir = trainer_folder(t, &a);
        o.model_dir = tokenizer_exists(o.model_dir) ? o.model_dir : NULL;
        o.text_len = trainer_default_tokens(&c);
        s = data_open(&o, &r->data);
    }
    arena_fini(&a);
    WEFT_TRY(s);
    if (data_seq_len(r->data) < 1)
        return weft_fail(WEFT_USAGE, "--seq-len: is 0");
    return WEFT_OK;
}

/* Rank after rank: the first one makes the files that the others find. */
static weft_status open_data_in_turn(run *r) {
    const train_options *t = &r->o->train;
    for (int turn = 0; turn < (r->link ? r->link->ranks : 1); turn++) {
        if (turn == t->rank)
            WEFT_TRY(open_data(r));
        if (r->link)
            WEFT_TRY(comm_barrier(&r->t.end[WEFT_GROUP_WORLD], "data"));
    }
    return WEFT_OK;
}

/* ---- Validation, best and patience ---- */

static weft_status validate(run *r, double *loss) {
    int64_t rows = data_val_rows(r->data), targets = 0;
    int batch = r->t.o.batch;
    double nll = 0;
    for (int64_t i = 0; i * batch < rows; i++) {
        double part;
        int64_t n;
        int64_t left = rows - i * batch;
        take_rows(r, true, i);
        WEFT_TRY(trainer_validate(&r->t, (int)(left < batch ? left : batch), &part, &n));
        nll += part;
        targets += n;
    }
    *loss = targets ? nll / (double)targets : (double)NAN;
    return WEFT_OK;
}

/* A loss that is none may be the model's, but not if it is one the second time. */
static weft_status validate_twice(run *r, double *loss) {
    suspect s, again;
    double second;
    comm_watch(r->link);
    WEFT_TRY(validate(r, loss));
    WEFT_TRY(suspect_ask(&r->world, isfinite(*loss), &s));
    if (!s.finite) {
        comm_watch(r->link);
        WEFT_TRY(validate(r, &second));
        WEFT_TRY(suspect_ask(&r->world, isfinite(second), &again));
        if (again.finite && s.first.from >= 0)
            return suspect_accuse(r->link, &s.first, "; computed again it is finite");
        *loss = again.finite ? second : (double)NAN;
    }
    comm_watch(r->link);
    return WEFT_OK;
}

static bool is_due(int64_t every, int64_t step, int64_t last) {
    return step == last || (every > 0 && step % every == 0);
}

static weft_status look(run *r, bool *is_best) {
    double loss;
    int64_t step = r->t.done;
    *is_best = false;
    r->line.val_loss = (double)NAN;
    if (data_val_rows(r->data) == 0 || r->validated == step ||
        !is_due(r->o->val_every, step, r->o->train.steps))
        return WEFT_OK;
    WEFT_TRY(r->link ? validate_twice(r, &loss) : validate(r, &loss));
    r->validated = step;
    r->line.val_loss = loss;
    *is_best = isfinite(loss) && !(loss >= r->at.best_val);
    r->at.bad_vals = *is_best ? 0 : r->at.bad_vals + 1;
    if (*is_best) {
        r->at.best_val = loss;
        r->at.best_step = step;
    }
    return bear(r, metrics_val(r->log, step, loss));
}

/* ---- Checkpoints and samples ---- */

static bool collect(void *user, const weft_token *token) {
    buf_add(user, token->text, token->n_text);
    return true;
}

static weft_status sample_text(const run *r, weft_engine *e, buf *b) {
    weft_sampling s = weft_sampling_default(e);
    s.seed = r->o->train.seed;
    weft_request q = {.prompt = r->o->sample_prompt,
                      .max_tokens = r->o->sample_tokens ? r->o->sample_tokens : 64,
                      .sampling = &s};
    weft_result out;
    return weft_generate(e, &q, collect, b, &out);
}

/* The checkpoint is a model folder: it is opened like any other. */
static weft_status sample(run *r) {
    if (!r->o->sample_prompt || r->t.o.lora_rank > 0 || !leads(r))
        return WEFT_OK;
    weft_engine *e;
    buf b;
    WEFT_TRY(checkpoint_wait(r->save));
    weft_engine_options opt = {
        .device = r->o->train.device, .threads = r->o->train.threads, .comm = "local"};
    WEFT_TRY(weft_engine_open(checkpoint_last(r->save), &opt, &e));
    buf_init(&b, 1 << 20);
    weft_status s = sample_text(r, e, &b);
    buf_putc(&b, '\0');
    if (s == WEFT_OK)
        s = metrics_sample(r->log, r->t.done, r->o->sample_prompt, b.data);
    buf_fini(&b);
    weft_engine_close(e);
    return s;
}

static weft_status save_here(run *r, bool wait) {
    r->at.step = r->t.done;
    weft_status s = checkpoint_save(r->save, &r->at, wait);
    if (s != WEFT_OK)
        return wait ? s : bear(r, s);
    r->saved = r->t.done;
    return bear(r, sample(r));
}

/* What the disk does is rank 0's alone; then all hand over their parts without delay. */
static weft_status settle(run *r) {
    bool ready = true;
    expect(r, ALONE_SECONDS);
    if (leads(r)) {
        WEFT_TRY(bear(r, metrics_flush(r->log)));
        checkpoint_settle(r->save);
    }
    WEFT_TRY(follow(r, &ready, sizeof ready, "save"));
    expect(r, r->expected);
    return WEFT_OK;
}

static weft_status save(run *r, bool wait) {
    if (r->saved == r->t.done)
        return WEFT_OK;
    WEFT_TRY(settle(r));
    WEFT_TRY(save_here(r, wait));
    expect(r, ALONE_SECONDS);
    return follow(r, &r->saved, sizeof r->saved, "saved");
}

/* ---- One step ---- */

static bool is_spike(const run *r, double loss) {
    int n = r->n_recent < RECENT ? (int)r->n_recent : RECENT;
    double sum = 0, squares = 0;
    if (r->o->spike <= 0 || n < RECENT / 4)
        return false;
    for (int i = 0; i < n; i++) {
        sum += r->recent[i];
        squares += r->recent[i] * r->recent[i];
    }
    double mean = sum / n, var = squares / n - mean * mean;
    return loss > mean + r->o->spike * sqrt(var > 1e-12 ? var : 1e-12);
}

/* Whether all ranks have the numbers; *first: who sent others than that. */
static weft_status compare(run *r, train_result *x, comm_nan *first) {
    suspect s;
    *first = (comm_nan){.from = -1};
    if (!r->link)
        return WEFT_OK;
    WEFT_TRY(suspect_ask(&r->world, x->finite, &s));
    x->finite = s.finite;
    *first = s.first;
    return WEFT_OK;
}

static weft_status accuse(const run *r, const comm_nan *first, const char *report) {
    if (leads(r))
        remove(report); /* the rows are not to blame */
    if (first->from < 0)
        return weft_fail(WEFT_PEER,
                         "a rank sent NaN in step %lld, which one is not known; computed "
                         "again it is finite",
                         (long long)r->t.done);
    return suspect_accuse(r->link, first, "; computed again it is finite");
}

static weft_status refuse(run *r, const train_result *x, bool spike, const comm_nan *first) {
    char path[4096], where[64] = "";
    int64_t step = r->t.done + 1;
    loop_policy policy = spike ? r->o->on_spike : r->o->on_nan;
    snprintf(path, sizeof path, "%s/%s-step-%lld.json", r->o->out, spike ? "spike" : "nonfinite",
             (long long)step);
    expect(r, ALONE_SECONDS);
    if (leads(r) || trainer_spread(&r->t))
        WEFT_TRY(bear(r, nonfinite_report(&r->t, step, x->loss, x->grad_norm,
                                          leads(r) ? path : NULL, where, sizeof where)));
    WEFT_TRY(follow(r, where, sizeof where, "report"));
    if (!spike && !*where && r->link)
        return accuse(r, first, path);
    if (policy == LOOP_SKIP) {
        char message[4400];
        snprintf(message, sizeof message,
                 "step %lld: loss %g, gradient norm %g%s%s: skipped; its rows are in %s",
                 (long long)step, x->loss, x->grad_norm, *where ? ", first in " : "", where, path);
        note(r, message);
        r->t.done++; /* the data goes on; weights and moments do not */
        return WEFT_OK;
    }
    return weft_fail(WEFT_USAGE,
                     "loss: is %g at step %lld (gradient norm %g%s%s); its rows are in %s; lower "
                     "--lr, or go on without such steps by --on-%s skip",
                     x->loss, (long long)step, x->grad_norm, *where ? ", first in " : "", where,
                     path, spike ? "spike" : "nan");
}

static weft_status dump_gradients(run *r) {
    if (!r->o->dump_grads || r->t.done != 0)
        return WEFT_OK;
    expect(r, ALONE_SECONDS);
    if (!leads(r))
        return trainer_give(&r->t, 'g');
    return export_file(&r->t, r->o->dump_grads, 'g', WEFT_F32, export_from_device, &r->t);
}

static weft_status log_line(run *r, const train_result *x, double seconds) {
    loop_line *l = &r->line;
    double all = clock_seconds() - r->began;
    int64_t done = r->t.done - r->began_at, left = r->o->train.steps - r->t.done;
    *l = (loop_line){.step = r->t.done,
                     .steps = r->o->train.steps,
                     .tokens = r->at.tokens,
                     .loss = x->loss,
                     .lr = x->lr,
                     .grad_norm = x->grad_norm,
                     .val_loss = (double)NAN,
                     .seconds = seconds,
                     .tokens_per_s = (double)x->targets / seconds,
                     .pct_ceiling = r->ceiling > 0 ? 100 * r->flops / seconds / r->ceiling
                                                   : (double)NAN,
                     .eta = done > 0 ? all / (double)done * (double)left : 0};
    WEFT_TRY(bear(r, metrics_step(r->log, l->step, (double)(float)l->loss, l->lr,
                                  (double)(float)l->grad_norm, l->tokens)));
    return bear(r, metrics_timing(r->log, l->step, seconds, l->tokens_per_s, l->pct_ceiling));
}

/* Of finite gradients come finite weights: from here on, whatever is none is a rank's fault. */
static weft_status update(run *r, const train_result *x) {
    if (r->link)
        comm_watch(r->link);
    WEFT_TRY(trainer_update(&r->t, x->lr, x->grad_norm));
    return suspect_none(r->link);
}

static weft_status step(run *r) {
    train_result x;
    comm_nan first;
    double began = clock_seconds();
    expect(r, r->expected);
    uint64_t sent = trainer_sent(&r->t);
    take_rows(r, false, r->t.done);
    if (r->link)
        comm_watch(r->link);
    WEFT_TRY(trainer_gradients(&r->t, &x));
    WEFT_TRY(compare(r, &x, &first));
    WEFT_TRY(dump_gradients(r));
    x.lr = schedule_lr(&r->t.o, r->t.done);
    bool spike = x.finite && is_spike(r, x.loss);
    if (!x.finite || spike)
        WEFT_TRY(refuse(r, &x, spike, &first));
    else
        WEFT_TRY(update(r, &x));
    r->out->sent = trainer_sent(&r->t) - sent;
    r->at.tokens += x.targets;
    r->out->loss = x.loss;
    if (x.finite && !spike)
        r->recent[r->n_recent++ % RECENT] = x.loss;
    return log_line(r, &x, clock_seconds() - began);
}

static weft_status look_for_end(run *r, bool *end) {
    const loop_options *o = r->o;
    expect(r, r->expected);
    r->out->signal = o->stop ? *o->stop : 0;
    WEFT_TRY(follow(r, &r->out->signal, sizeof r->out->signal, "signal"));
    r->out->early = o->patience > 0 && r->at.bad_vals >= o->patience;
    *end = r->out->signal || r->out->early || r->t.done >= o->train.steps;
    return WEFT_OK;
}

static weft_status steps(run *r) {
    for (;;) {
        bool is_best, end;
        WEFT_TRY(look_for_end(r, &end));
        if (end)
            return WEFT_OK;
        WEFT_TRY(step(r));
        WEFT_TRY(look(r, &is_best));
        if (r->o->line)
            r->o->line(r->o->user, &r->line);
        bool last = r->t.done >= r->o->train.steps; /* finish saves, and needs no copy */
        if (!last && (is_best || is_due(r->o->save_every, r->t.done, r->o->train.steps)))
            WEFT_TRY(save(r, false));
    }
}

/* ---- The run around them ---- */

/* Deadlines begin behind what the slowest machine of its kind needs. */
static void measure_ceiling(run *r) {
    const device *d = r->t.dev;
    bool cpu = strcmp(d->backend, "cpu") == 0;
    if (cpu && leads(r))
        r->ceiling = ceiling_fma(r->t.stream, d->level, 0.05);
    r->flops = (double)graph_flops(&r->t.g);
    r->expected = r->flops / (cpu ? 1e9 : strcmp(d->backend, "cuda") == 0 ? 1e11 : 1e7);
}

static weft_status resume(run *r, int64_t *from) {
    bool found = false;
    *from = -1;
    if (!r->o->resume)
        return WEFT_OK;
    WEFT_TRY(checkpoint_resume(r->save, &r->at, &found, r->o->note, r->o->user));
    if (!found)
        return WEFT_OK;
    *from = r->t.done;
    r->saved = r->t.done;
    if (r->at.data_hash != data_hash(r->data))
        note(r, "--data: is not what the checkpoint was trained on; going on with it");
    return WEFT_OK;
}

static void say_plan(const trainer *t, char *text, size_t n) {
    hash_stream *h = hash_open();
    hash_add(h, &t->params.count, sizeof t->params.count);
    hash_add(h, t->g.bytes, sizeof t->g.bytes);
    snprintf(text, n, "%s, level %d, %d threads, %016" PRIx64, t->dev->backend, t->dev->level,
             t->o.threads, hash_value(h));
    hash_close(h);
}

/* In a dry run, before any weight is read. */
static weft_status begin_alike(run *r) {
    char data[32], model[32], plan[128];
    train_options o = r->o->train;
    trainer t;
    if (!r->link)
        return WEFT_OK;
    o.rank = 0;
    WEFT_TRY(trainer_open(&o, data_seq_len(r->data), true, NULL, &t));
    snprintf(data, sizeof data, "%016" PRIx64, data_hash(r->data));
    snprintf(model, sizeof model, "%016" PRIx64, hash_xxh3(t.config_text, t.config_bytes));
    say_plan(&t, plan, sizeof plan);
    trainer_close(&t);
    const agree_fact facts[] = {{"config.json", model}, {"data", data}, {"plan", plan}};
    return agree(&r->t.end[WEFT_GROUP_WORLD], facts, 3);
}

/* For a person, once it is known what the rest goes on from. */
static void say_restart(const run *r, int64_t from) {
    char text[2048], at[64] = "the start (there is no checkpoint yet)";
    int ranks = r->link ? r->link->ranks : 1;
    if (!r->o->restart || !leads(r))
        return;
    if (from >= 0)
        snprintf(at, sizeof at, "step %lld", (long long)from);
    snprintf(text, sizeof text, "%.1600s; going on from %s with %d rank%s (restart %d of %d)",
             r->o->restart, at, ranks, ranks == 1 ? "" : "s", r->o->restarts, r->o->max_restarts);
    note(r, text);
}

static weft_status open_run(run *r) {
    const loop_options *o = r->o;
    int64_t from;
    r->at = (train_progress){.best_step = -1, .best_val = (double)NAN};
    r->saved = r->validated = -1;
    expect(r, ALONE_SECONDS);
    trainer_join(&r->t, &o->train, r->link);
    r->world = r->t.end[WEFT_GROUP_WORLD];
    WEFT_TRY(open_data_in_turn(r));
    WEFT_TRY(begin_alike(r));
    WEFT_TRY(trainer_open(&o->train, data_seq_len(r->data), false, r->link, &r->t));
    WEFT_TRY(checkpoint_open(&r->t, o->out, o->keep ? o->keep : 3, &r->save));
    checkpoint_guard(r->save, o->epoch, o->guard, o->guarded);
    WEFT_TRY(resume(r, &from));
    WEFT_TRY(follow_step(r));
    say_restart(r, from);
    if (o->train.lora_from && from < 0)
        WEFT_TRY(lora_load(&r->t, o->train.lora_from));
    r->at.data_hash = data_hash(r->data);
    if (leads(r))
        WEFT_TRY(metrics_open(o->out, o->log, o->csv, o->tensorboard, from, &r->log));
    measure_ceiling(r);
    if (o->opened)
        o->opened(o->user, &r->t, r->data, from);
    r->began = clock_seconds();
    r->began_at = r->t.done;
    return WEFT_OK;
}

/* The running mean of the weights as a model of its own. */
static weft_status publish_mean(run *r) {
    if (r->t.g.ema < 0)
        return WEFT_OK;
    WEFT_TRY(checkpoint_collect(r->save));
    if (!leads(r))
        return WEFT_OK;
    arena a = {0};
    const char *dir = file_join(&a, r->o->out, "ema");
    export_mean_of from = {&r->t, checkpoint_read, r->save};
    weft_status s = checkpoint_make_dir(dir);
    if (s == WEFT_OK)
        s = export_sidecars(&r->t, dir);
    if (s == WEFT_OK)
        s = export_file(&r->t, file_join(&a, dir, export_weights_name(&r->t)), 'e',
                        r->t.o.lora_rank > 0 ? WEFT_F32 : r->t.g.dtype, export_mean, &from);
    arena_fini(&a);
    return s;
}

static weft_status finish(run *r) {
    WEFT_TRY(bear(r, checkpoint_wait(r->save)));
    WEFT_TRY(save(r, true));
    if (leads(r))
        WEFT_TRY(checkpoint_publish(r->save));
    expect(r, ALONE_SECONDS);
    WEFT_TRY(publish_mean(r));
    bool done = true;
    return follow(r, &done, sizeof done, "end");
}

/* What is left when a rank is lost. */
static weft_status name_checkpoint(const run *r) {
    char why[1024];
    arena a = {0};
    const char *last = checkpoint_newest(r->o->out, &a);
    snprintf(why, sizeof why, "%s", err_message());
    weft_status s = *last ? weft_fail(WEFT_PEER, "%s; --resume auto goes on from %s", why, last)
                          : weft_fail(WEFT_PEER, "%s; there is no checkpoint yet", why);
    arena_fini(&a);
    return s;
}

static void close_run(run *r) {
    metrics_close(r->log);
    checkpoint_close(r->save);
    trainer_close(&r->t);
    data_close(r->data);
}

weft_status loop_rank(const loop_options *o, comm_link *link, loop_result *out) {
    run r = {.o = o, .out = out, .link = link};
    *out = (loop_result){.loss = (double)NAN};
    weft_status s = open_run(&r);
    if (s == WEFT_OK)
        s = steps(&r);
    if (s == WEFT_OK)
        s = finish(&r);
    if (s != WEFT_OK && link)
        comm_abort(link, s);
    if (s == WEFT_PEER)
        s = name_checkpoint(&r);
    out->begun = r.began > 0;
    out->expected = r.expected;
    out->steps = r.t.done;
    out->tokens = r.at.tokens;
    out->best_val = r.at.best_val;
    out->best_step = r.at.best_step;
    out->seconds = r.began > 0 ? clock_seconds() - r.began : 0;
    train_memory m = trainer_memory(&r.t);
    out->planned = m.weights + m.master + m.adapters + m.gradients + m.moments + m.activations +
                   m.scratch + m.feed + m.results;
    out->taken = r.t.dev ? r.t.dev->peak : 0;
    close_run(&r);
    return s;
}
