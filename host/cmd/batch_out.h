/* SPDX-License-Identifier: Apache-2.0
 * What `weft batch` writes, so that a kill at any instant loses no line and writes none twice. A
 * line of the input is in exactly one of two files: answers, or errors. Which lines are done is
 * what these files hold; state.json beside them says which input, model and settings they belong
 * to. */
#pragma once
#include "host/base/buf.h"
#include "host/base/mem.h"
#include "weft.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t input;       /* hash of its lines; 0: a pipe, which cannot be taken up again */
    uint64_t model;       /* fingerprint */
    uint64_t seed;        /* of lines that name none */
    const char *settings; /* whatever else the answers depend on, for a person to read */
} batch_state;

typedef struct {
    int fd;
    const char *name;
    bool regular;  /* a file of its own, which is cut back to its last line where a write fails */
    int64_t bytes; /* of whole lines */
} batch_file;

typedef struct {
    arena mem;
    batch_file answers, errors;
    const char *state; /* path; NULL: standard output, which is never taken up again */
    bool *done;        /* [lines + 1] by number of the input's line, from 1; NULL: none */
    int64_t lines, n_done, n_failed; /* n_failed: lines among the done that are errors */
} batch_out;

/* path "-": standard output. errors: NULL for one beside path, "out.errors.jsonl" for "out.jsonl",
 * or for standard output too. Locks the files and cuts off what a kill left half written. If there
 * are answers of an earlier run they must be of this input, model and settings, and then s->seed
 * becomes theirs; else WEFT_USAGE. restart: starts anew instead. lines: of the input, 0 for a
 * pipe. */
weft_status batch_out_open(batch_out *o, const char *input, const char *path, const char *errors,
                           batch_state *s, int64_t lines, bool restart);
/* One line with its end, at once; WEFT_IO leaves what was whole. */
weft_status batch_out_write(batch_out *o, bool error, const buf *line);
weft_status batch_out_close(batch_out *o); /* to the disk; WEFT_IO if that fails */

/* ---- Ranks in processes of their own: rank 0 alone reads and writes files ---- */

bool batch_leads(const weft_engine *e); /* this process is rank 0, or the only one */
weft_status batch_lines_failed(void);   /* of another process than rank 0's, which says so */
/* How opening them went on rank 0: its failure, or the seed of lines that name none and the
 * signal that it was stopped by. */
weft_status batch_share_opened(weft_engine *e, weft_status opened, uint64_t *seed, int *stop);
