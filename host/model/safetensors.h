/* SPDX-License-Identifier: Apache-2.0
 * safetensors: one file or a sharded set with its index, mapped; the header is checked in full
 * before anything is believed (format: huggingface/safetensors README; we also reject duplicate
 * names). */
#pragma once
#include "host/base/file.h"
#include "weft/status.h"
#include "weft/tensor.h"

typedef struct {
    const char *name; /* in the set's arena */
    const char *file; /* file name without folder */
    int file_index;
    int dtype;              /* weft_dtype, or -1: one we do not compute with (F64, BOOL, ...) */
    const char *dtype_name; /* as the file spells it */
    int ndim;
    int64_t shape[8];
    uint64_t bytes;
    const void *data; /* in the map; alignment is the file's */
} st_tensor;

typedef struct {
    const char *from, *to;
} st_alias;

typedef struct {
    arena mem;
    const char *path; /* of the file, or of the index of a sharded set */
    file_map *map;    /* NULL if the bytes are the caller's */
    int nfile;
    st_tensor *tensor; /* sorted by name */
    int ntensor;
    st_alias
        *alias; /* from __metadata__: a name that is stored once, under another; sorted by from */
    int nalias;
} safetensors;

/* dir/model.safetensors, or dir/model.safetensors.index.json with its shards, or a single file. A
 * shard is a plain file name of the index's folder; a link may lead out of the folder only into the
 * blobs of the Hugging Face cache that the folder is part of. */
weft_status safetensors_open(const char *path, safetensors *out);
weft_status safetensors_open_memory(const char *name, const void *data, size_t n, safetensors *out);
void safetensors_close(safetensors *s);
const st_tensor *safetensors_find(const safetensors *s, const char *name); /* aliases followed */
/* Writes one file with tensors given as (name, dtype, ndim, shape, data); streamed, atomic. */
weft_status safetensors_write(const char *path, const st_tensor *tensor, int n);
/* The same, with the bytes of tensor i asked for when it is its turn, in order; what *data points
 * at must last until the next call. */
typedef weft_status st_produce(void *ctx, int i, const void **data);
weft_status safetensors_write_from(const char *path, const st_tensor *tensor, int n,
                                   st_produce *produce, void *ctx);
