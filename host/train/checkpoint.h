/* SPDX-License-Identifier: Apache-2.0
 * checkpoint: a model folder plus optimizer state, written beside and renamed, so that a name under
 * DIR/checkpoints is always whole. manifest.json has each file's size and XXH3, and says that the
 * checkpoint is complete: it is written last.
 *
 *     DIR/checkpoints/step-00000020/
 *         config.json model.safetensors tokenizer...   a model folder like any other
 *         optimizer.safetensors                        fp32 weights where the model's are not,
 *                                                      moments, running mean
 *         train.json                                   options and progress
 *         manifest.json
 *
 * A save copies the numbers, and a thread writes the copy while training goes on. */
#pragma once
#include "host/train/trainer.h"

typedef struct {
    int64_t step, tokens;
    double best_val; /* NAN: none yet */
    int64_t best_step;
    uint64_t data_hash;
    int bad_vals; /* validations since the best */
} train_progress;

/* Of several ranks, rank 0 alone writes; the others make the same calls, and hand over their part
 * of what ranks share. */
typedef struct checkpointer checkpointer;

/* dir is the run's folder; it and dir/checkpoints are created. Half-written checkpoints of a run
 * that was killed are removed. */
weft_status checkpoint_open(trainer *t, const char *dir, int keep, checkpointer **out);
/* Names of files that are not whole yet hold the epoch; nothing is renamed into place unless guard
 * says WEFT_OK. NULL: it always may. */
void checkpoint_guard(checkpointer *c, int64_t epoch, weft_status (*guard)(void *), void *ctx);
/* Waits for the save under way. */
void checkpoint_close(checkpointer *c);
/* Takes a copy and begins to write it; waits for the save before, whose failure it returns (its
 * files are gone, older checkpoints stay). `wait`: no copy is taken, and it ends when this one is
 * on disk, with its own failure. */
weft_status checkpoint_save(checkpointer *c, const train_progress *p, bool wait);
/* An export_read of what the last save was of, or else of the device; ctx is the checkpointer. */
weft_status checkpoint_read(void *c, int index, char what, float *out);
/* Where ranks share the numbers: has those of the trainer's step for checkpoint_read. */
weft_status checkpoint_collect(checkpointer *c);
/* Returns when no save is under way, whose failure the next save or wait returns. */
void checkpoint_settle(checkpointer *c);
/* Ends the save under way, if there is one; its failure. */
weft_status checkpoint_wait(checkpointer *c);
/* Folder of the last checkpoint that is whole, "" if none. */
const char *checkpoint_last(checkpointer *c);
/* The newest folder that a run with this output folder has, whoever wrote it, "" if none. */
const char *checkpoint_newest(const char *out, arena *a);
/* The newest checkpoint that is whole and of this model and these options into the trainer.
 * *found false: there is none at all. Each one that was passed over is told to `rejected` with the
 * reason. WEFT_NO_CHECKPOINT where there are some and none is valid. */
weft_status checkpoint_resume(checkpointer *c, train_progress *p, bool *found,
                              void (*rejected)(void *user, const char *message), void *user);
/* The run's folder becomes a model folder: the last checkpoint's model under the folder's name. */
weft_status checkpoint_publish(checkpointer *c);
