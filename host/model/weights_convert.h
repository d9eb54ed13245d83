/* SPDX-License-Identifier: Apache-2.0
 * Slices of stored matrices into memory: copied, converted to another float type, or made int8 by
 * rows. */
#pragma once
#include "weft/stream.h"
#include "weft/tensor.h"

/* Element (i, j) of a slice is at data + at + i * row + j * col, in elements of dtype. */
typedef struct {
    const char *data;
    int dtype;
    int64_t at, row, col;
    int64_t rows, cols;
} weight_source;

/* Writes rows x cols of `from`, row after row, as dtype. With whole->data (the same rows with all
 * their columns) int8 and scales are made from floats: dtype WEFT_I8 takes the numbers, WEFT_F32
 * the rows' scales. */
void weight_convert(weft_stream *s, const weight_source *from, const weight_source *whole,
                    int dtype, char *to);
