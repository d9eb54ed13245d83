/* SPDX-License-Identifier: Apache-2.0
 * quantize: a model folder to another one whose layers' matrices are int8 (quant.h has the format).
 * Everything else is copied as it is stored. config.json is written last, so that a folder that was
 * cut short is none that opens. */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *from, *to;
    bool activations, force; /* force: `to` may exist, and its files of these names are replaced */
    int threads;             /* 0: every core */
    void (*start)(void *user, int64_t bytes);
    void (*step)(void *user, int64_t bytes); /* of weights read; both may be NULL */
    void *user;
} quantize_job;

typedef struct {
    int matrices, files;
    uint64_t bytes_from, bytes_to; /* of tensors */
} quantize_result;

weft_status quantize_folder(const quantize_job *job, quantize_result *out);
