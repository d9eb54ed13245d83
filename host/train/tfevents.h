/* SPDX-License-Identifier: Apache-2.0
 * TensorBoard's event files, written by hand: TFRecord frames (length, payload, each with a masked
 * CRC-32C) around the protocol buffers tensorflow.Event and tensorflow.Summary, of which scalars
 * need six fields. */
#pragma once
#include "host/base/buf.h"
#include "weft/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *tag; /* "loss/train" */
    double value;    /* stored as fp32 */
} tf_scalar;

/* CRC-32C (Castagnoli, reflected polynomial 0x82f63b78) of p[0..n). */
uint32_t tf_crc32c(const void *p, size_t n);
/* Appends the record every file starts with: the version "brain.Event:2". */
void tf_begin(buf *out, double wall_seconds);
/* Appends one event with all the scalars of a step. wall_seconds: since 1970. */
void tf_scalars(buf *out, double wall_seconds, int64_t step, const tf_scalar *scalar, int n);
/* *keep is the length of file[0..n) before the first record of a step past last_step, or before a
 * last record that is cut off. WEFT_BAD_FILE, naming `name` and the offset, for a record whose
 * checksum is wrong. */
weft_status tf_keep(const char *name, const void *file, size_t n, int64_t last_step, size_t *keep);
