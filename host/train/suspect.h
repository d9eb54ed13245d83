/* SPDX-License-Identifier: Apache-2.0
 * suspect: a rank that sends NaN where computing again gives numbers: not the model has gone astray
 * but the rank, and nothing of its is to reach weights or checkpoints. */
#pragma once
#include "host/train/trainer.h"

/* What all ranks know of a step. */
typedef struct {
    bool finite;    /* loss and norm, on every rank, and all that was sent */
    comm_nan first; /* the first message of all with a NaN in it; from -1: no one alone
                       sent it */
} suspect;

/* All ranks say whether theirs are finite and what they were sent; `ends`: the world's, not one
 * that steps count their bytes by. */
weft_status suspect_ask(comm *ends, bool finite, suspect *out);
/* Ends the job, blaming who sent `first`. */
weft_status suspect_accuse(comm_link *l, const comm_nan *first, const char *why);
/* What others sent since comm_watch was not to hold any: accuses who did. link NULL: alone. */
weft_status suspect_none(comm_link *l);
