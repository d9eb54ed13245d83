/* SPDX-License-Identifier: Apache-2.0
 * lora: low-rank adapters as peft's folders keep them (adapter_config.json,
 * adapter_model.safetensors; Hu et al., "LoRA", 2021). */
#pragma once
#include "host/train/trainer.h"

/* Rank, alpha and targets of the adapter in `dir` into the options, strings in the arena. What
 * changes the arithmetic and is not supported (DoRA, rslora, biases, ranks by pattern) is
 * WEFT_UNSUPPORTED naming the key. *turned, unless NULL: the matrices are stored [K, N] (peft's
 * fan_in_fan_out). */
weft_status lora_read_config(const char *dir, arena *a, train_options *o, bool *turned);
/* Its numbers into the trainer's; WEFT_BAD_FILE names what does not fit. */
weft_status lora_load(trainer *t, const char *dir);
/* Number i of a float tensor, at any address. */
float lora_number(const st_tensor *t, int64_t i);
/* adapter_config.json into folder dir. */
weft_status lora_write_config(const trainer *t, const char *dir);

typedef struct {
    int matrices, tensors;
    uint64_t bytes;
} lora_merged;
/* Model folder `to`: that of `model` with w + alpha / r b a in place of every adapted w, computed
 * in fp32 and rounded once to the type it is stored in; everything else as it is. */
weft_status lora_merge(const char *model, const char *adapter, const char *to, bool force,
                       lora_merged *out);
