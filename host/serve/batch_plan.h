/* SPDX-License-Identifier: Apache-2.0
 * Inside the batch scheduler: batch.c is the life of a job, batch_plan.c who gets what of a
 * step. */
#pragma once
#include "host/model/engine.h"
#include "host/model/generation.h"
#include "host/serve/batch.h"

struct batch_job {
    batch_call call;
    generation g;
    batch_job *next; /* waiting behind it */
    bool active;     /* may take part in steps: the pages its tokens need were there */
    bool cancelled;
    int part;   /* of the step being planned, -1: none */
    bool begun; /* was active before: what the cache has now is not of its prompt alone */
    int32_t cached, preempted;
    double submitted, placed, first; /* 0: not yet */
};

struct batch {
    weft_engine *e;
    int running, budget;
    batch_job *wait, **wait_end; /* by age */
    batch_job **run;             /* [running] with a place, by age */
    int nrun;
    step_part *part; /* [running] of the step */
    batch_job **who;
    int32_t *claim; /* pages that the part takes when it runs */
    weft_sampled *out;
    int nparts, left; /* left of the budget */
    int32_t claimed;  /* pages, over all parts */
    batch_stats stats;
};

/* Makes jobs with a place active, by age, while their pages fit. False if one has to wait. */
bool plan_activate(batch *b);
/* Chooses the parts of a step. None, though a job is active: the pool is too small for it. */
void plan_step(batch *b);
batch_job *plan_oldest(const batch *b); /* active; NULL: none */
