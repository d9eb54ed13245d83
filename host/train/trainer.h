/* SPDX-License-Identifier: Apache-2.0
 * trainer: a model, its gradients and its optimizer on one device. trainer.c opens it and takes its
 * memory, train_step.c runs steps, checkpoint.c saves and resumes it, loop.c is the run around
 * it. */
#pragma once
#include "host/model/safetensors.h"
#include "host/run/comm.h"
#include "host/run/sched.h"
#include "host/train/graph.h"

/* A step's rows as data_rows gives them, batch after batch. */
typedef struct {
    int32_t *ids, *labels, *pos; /* [rows, row_tokens]; labels as transformers, not shifted */
    int32_t *len;                /* [rows] true tokens */
} train_rows;

typedef struct {
    arena mem;
    train_options o;
    model_config config;
    const char *config_text; /* as read, for the folders that are written */
    size_t config_bytes;
    safetensors st; /* of the folder trained from; none from scratch */
    device *dev;
    weft_stream *stream, *side; /* side: of exchanges beside backward; NULL: there is none */
    comm_link *link;            /* to the other ranks of the mesh, which do the same; NULL: alone */
    comm end[WEFT_GROUPS];
    train_mesh mesh;
    bool dry;
    weights w, master; /* master: fp32 numbers where w has another type; owns no block otherwise */
    params params;
    graph g;
    void *base[WEFT_SPACES];
    void *adapters; /* device memory of low-rank matrices */
    uint64_t adapter_bytes;
    float *freq;      /* [dims/2, 2] rotary frequencies, high and low parts; NULL: none */
    char *feed, *out; /* host copies of the feed and of what a step brings back */
    train_rows rows;  /* of one batch */
    double *shard_loss, *row_nll;
    double *all_losses; /* of every rank; NULL: alone */
    float *all_squares; /* the same; NULL: each has all */
    int64_t done;       /* steps behind it */
} trainer;

typedef struct {
    double loss, grad_norm, lr; /* loss: mean over the batch's targets */
    int64_t targets;            /* tokens with something to predict */
    bool finite;                /* loss and norm; if not, nothing was updated */
} train_result;

/* The model's config: of the folder, or of the file that from_scratch names. *text and *n, unless
 * NULL: what was read. All in the arena. */
weft_status trainer_config(const train_options *o, arena *a, model_config *out, const char **text,
                           size_t *n);
/* Tokens of a row where nobody says: the context, within reason. */
int trainer_default_tokens(const model_config *c);
/* The folder of the tokenizer and what else goes with the model. In the arena. */
const char *trainer_folder(const train_options *o, arena *a);
/* row_tokens: of the data's rows. Everything is planned, then taken; dry: planned only. It
 * points into itself: it must not be moved. Closed by trainer_close, which takes a zeroed one as
 * well. link: to the ranks of the mesh, all of which make every call below in the same order; NULL
 * where there is one, or dry. */
weft_status trainer_open(const train_options *o, int row_tokens, bool dry, comm_link *link,
                         trainer *out);
void trainer_close(trainer *t);
/* The trainer's ends of the mesh's groups; trainer_open does it too. link NULL: alone. */
void trainer_join(trainer *t, const train_options *o, comm_link *link);
uint64_t trainer_sent(const trainer *t); /* bytes to other ranks so far */
/* What is held, by class, in bytes as planned; equal to what the device gave. */
typedef struct {
    uint64_t weights, master, adapters, gradients, moments, activations, scratch, feed, results;
} train_memory;
train_memory trainer_memory(const trainer *t);

/* train_step.c. Gradients of t->rows (a whole batch) into the first buffer, its loss and norm. */
weft_status trainer_gradients(trainer *t, train_result *out);
/* The optimizer with learning rate lr, after trainer_gradients; one step is then done. */
weft_status trainer_update(trainer *t, double lr, double grad_norm);
/* Both, at the schedule's rate; a loss or norm that is not finite updates nothing. */
weft_status trainer_step(trainer *t, train_result *out);
/* Waits until the stream is done: a device itself would wait for ever for who is gone. */
weft_status trainer_settle(trainer *t, weft_stream *s);
/* train_feed.c. The feed of rows [begin, begin + n) of t->rows, sent to a slot; scale: of the
 * loss. */
weft_status trainer_fill(trainer *t, int begin, int n, float scale, int slot);
weft_status trainer_send_feed(const trainer *t, int slot); /* as it is */
int64_t trainer_targets(const trainer *t, int rows);       /* of the first rows of t->rows */
/* Sum of the negative log-likelihoods over the first n rows of t->rows, and how many targets. */
weft_status trainer_validate(trainer *t, int n, double *nll, int64_t *targets);

/* trainer_numbers.c. Numbers of a parameter, f32 [rows, cols]: `what` is 'p' itself, 'm', 'v', 'e'
 * the running mean, 'g' its gradient. Rank 0 gets all of them, from whichever ranks hold them,
 * which call it too, out being NULL there. Each rank writes what it keeps of `in`, which is all of
 * them. */
weft_status trainer_read(trainer *t, int index, char what, float *out);
weft_status trainer_write(trainer *t, int index, char what, const float *in);
/* Whether a run has such numbers of p. */
bool trainer_has(const trainer *t, const param *p, char what);
/* Whether rank 0 lacks any of them. */
bool trainer_spread(const trainer *t);
/* A rank's part while rank 0 reads every parameter that has `what`, in order. */
weft_status trainer_give(trainer *t, char what);
/* After the last trainer_write of 'p': the model's copies follow. */
weft_status trainer_refresh(trainer *t);
