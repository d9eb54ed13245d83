/* SPDX-License-Identifier: Apache-2.0
 * export: trained numbers as the files users know: a model's safetensors under the names it came
 * with, peft's adapter files, gradients under the weights' own names. */
#pragma once
#include "host/train/trainer.h"

/* Numbers of parameter `index` as f32 [rows, cols]; `what` as trainer_read's. */
typedef weft_status export_read(void *ctx, int index, char what, float *out);

/* One safetensors file: every tensor of the model ('p', 'e': in dtype), those with a gradient
 * ('g'), or, where adapters are trained, theirs (fp32). */
weft_status export_file(const trainer *t, const char *path, char what, int dtype, export_read *read,
                        void *ctx);
/* trainer_read as an export_read; ctx is the trainer. */
weft_status export_from_device(void *ctx, int index, char what, float *out);
/* The running mean; a frozen weight is its own. ctx is an export_mean_of. */
typedef struct {
    const trainer *t;
    export_read *read; /* of the numbers it is made from */
    void *ctx;
} export_mean_of;
weft_status export_mean(void *ctx, int index, char what, float *out);
/* config.json, or adapter_config.json, and what lies beside the model and is not weights
 * (tokenizer, templates, generation_config.json), into folder dir, which exists. */
weft_status export_sidecars(const trainer *t, const char *dir);
/* "model.safetensors" or "adapter_model.safetensors". */
const char *export_weights_name(const trainer *t);
