/* SPDX-License-Identifier: Apache-2.0
 * loop: a training run from its options to its folder: data, steps, logs, validation, checkpoints,
 * samples, the end. It prints nothing; who called it is told what happens. */
#pragma once
#include "host/train/checkpoint.h"
#include "host/train/data.h"
#include "host/train/trainer.h"

typedef struct {
    int64_t step, steps, tokens;          /* tokens: with something to predict, since the start */
    double loss, lr, grad_norm, val_loss; /* val_loss NAN: not measured at this step */
    double seconds, tokens_per_s, pct_ceiling, eta;
} loop_line;

typedef enum { LOOP_STOP, LOOP_SKIP } loop_policy; /* at a loss that is not finite, or a spike */

typedef struct {
    train_options train;
    data_options data;
    const char *out; /* the run's folder */
    const char *log; /* metrics.jsonl elsewhere; NULL: in the folder */
    bool csv, tensorboard;
    const char *dump_grads; /* safetensors of the first step's gradients, before clipping; NULL */
    bool resume;            /* from the newest checkpoint that is whole, if there is one */
    int64_t save_every;     /* steps; 0: at the end alone */
    int keep;               /* checkpoints kept beside the best */
    int64_t val_every;      /* steps; 0: at the end, where the data keeps rows for it */
    int patience;           /* validations without a better loss before it stops; 0: never */
    const char *sample_prompt; /* continued at each checkpoint; NULL: no samples */
    int sample_tokens;
    loop_policy on_nan;
    double spike; /* a loss this many standard deviations above the mean of the last 100; 0: off */
    loop_policy on_spike;
    void *user;
    void (*opened)(void *user, const trainer *t, const dataset *d, int64_t resumed_from);
    void (*line)(void *user, const loop_line *l);
    void (*note)(void *user, const char *message); /* a warning: "<what>: <why>" */
    const volatile int *stop;                      /* a signal's number: save and end */
    bool elastic;              /* what is left goes on when a rank is lost (elastic.h) */
    int max_restarts;          /* so often at most */
    void (*leads)(void *user); /* this process speaks from now on, as rank 0 did */
    /* elastic.c's own, of the epoch that begins: */
    const char *restart; /* who was lost; NULL: it is the first */
    int restarts;
    int64_t epoch;
    weft_status (*guard)(void *guarded); /* whether the folder is still this process's to write */
    void *guarded;
} loop_options;

typedef struct {
    int64_t steps, tokens;
    double loss, best_val; /* of the last step; NAN: never measured */
    int64_t best_step;     /* -1: none */
    double seconds;
    uint64_t planned, taken; /* device memory: as trainer_memory adds up; at most held */
    uint64_t sent;           /* bytes to other ranks in the last step */
    bool early;              /* ended by patience */
    int signal;              /* ended by it; 0: not */
    bool spare;              /* others go on; this process is left over */
    bool begun;              /* got as far as the first step */
    double expected;         /* seconds that a stretch of a step may take */
} loop_result;

/* Steps that were done before the end, whatever ended it, are in the folder's checkpoints, and
 * the folder itself holds the last model. WEFT_IO: the disk was full at the end too. */
weft_status loop_run(const loop_options *o, loop_result *out);
/* The part of one of several ranks (train.rank of train.dp), which all call it. Rank 0 writes the
 * folder and is told what happens. */
weft_status loop_rank(const loop_options *o, comm_link *link, loop_result *out);
