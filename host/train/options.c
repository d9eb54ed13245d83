/* SPDX-License-Identifier: Apache-2.0
 * Options as a flat JSON object: what train.json, reports and resuming read. */
#include "host/train/options_json.h"
#include <inttypes.h>
#include <string.h>

const char *const schedule_names[] = {"constant", "linear", "cosine", "wsd"};
const char *const optim_names[] = {"adamw", "sgd"};
const char *const recompute_names[] = {"none", "attn", "layer"};

const char *const *options_lora_targets(const train_options *o, int *n) {
    static const char *const preset[] = {"q_proj", "v_proj"};
    *n = o->n_lora_target ? o->n_lora_target : 2;
    return o->n_lora_target ? o->lora_target : preset;
}

int options_choice(const char *const *names, const char *name) {
    int i = 0;
    while (strcmp(names[i], name) != 0)
        i++;
    return i;
}

static void put_text(buf *b, const char *key, const char *text) {
    buf_printf(b, ",\"%s\":", key);
    if (text)
        buf_json_string(b, text, strlen(text));
    else
        buf_puts(b, "null");
}

static void put_int(buf *b, const char *key, int64_t v) {
    buf_printf(b, ",\"%s\":%" PRId64, key, v);
}

static void put_number(buf *b, const char *key, double v) {
    buf_printf(b, ",\"%s\":", key);
    buf_json_double(b, v);
}

static void put_list(buf *b, const char *key, const char *const *item, int n) {
    buf_printf(b, ",\"%s\":[", key);
    for (int i = 0; i < n; i++) {
        buf_puts(b, i ? "," : "");
        buf_json_string(b, item[i], strlen(item[i]));
    }
    buf_putc(b, ']');
}

static void put_optimizer(buf *b, const train_options *o) {
    put_text(b, "optimizer", optim_names[o->optim]);
    put_text(b, "schedule", schedule_names[o->schedule]);
    put_int(b, "warmup", o->warmup);
    put_int(b, "decay_steps", o->decay_steps);
    put_number(b, "lr", o->lr);
    put_number(b, "min_lr", o->min_lr);
    put_number(b, "weight_decay", o->weight_decay);
    put_number(b, "beta1", o->beta1);
    put_number(b, "beta2", o->beta2);
    put_number(b, "eps", o->eps);
    put_number(b, "clip", o->clip);
    put_number(b, "label_smoothing", o->label_smoothing);
    put_number(b, "z_loss", o->z_loss);
    put_number(b, "dropout", o->dropout);
    put_number(b, "ema", o->ema);
    put_int(b, "stochastic_rounding", o->stochastic_rounding);
}

void options_json(buf *b, const train_options *o, const options_facts *f) {
    buf_printf(b, "{\"version\":1");
    put_text(b, "model", o->model);
    put_int(b, "from_scratch", o->from_scratch);
    put_text(b, "device", f->device);
    put_text(b, "dtype", f->dtype);
    put_int(b, "steps", o->steps);
    put_int(b, "batch_size", o->batch);
    put_int(b, "micro_batch", f->micro_batch);
    put_int(b, "seq_len", f->seq_len);
    put_int(b, "shards", f->shards);
    put_int(b, "seed", (int64_t)o->seed);
    put_number(b, "init_std", o->init_std);
    put_text(b, "recompute", recompute_names[o->recompute]);
    put_optimizer(b, o);
    put_list(b, "freeze", o->freeze, o->n_freeze);
    put_int(b, "lora_r", o->lora_rank);
    put_number(b, "lora_alpha", o->lora_alpha);
    put_list(b, "lora_targets", o->lora_target, o->n_lora_target);
    buf_putc(b, '}');
}
