/* SPDX-License-Identifier: Apache-2.0
 * launch: what started this process among others, read from the environment of torchrun (RANK,
 * WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), srun (SLURM_*) or mpirun (OMPI_*). */
#pragma once
#include "weft/status.h"
#include <stdbool.h>

enum { LAUNCH_TEXT = 256, LAUNCH_PORT = 29500 };

typedef struct {
    int rank, ranks, local_rank; /* ranks 1: alone */
    const char *by;              /* "torchrun", "srun", "mpirun"; NULL: nobody */
    char address[LAUNCH_TEXT];   /* where rank 0 can be reached; "": not said */
    int port;
} launch;

/* WEFT_USAGE names a variable whose value makes no sense. */
weft_status launch_read(launch *out);
/* What this process was asked to do, which every rank must have been: set once by main. */
void launch_set_words(int argc, char **argv);
const char *launch_words(void);
/* Whether the command can be one rank of a job of processes (main says so); the name of one that
 * cannot, else NULL. */
void launch_refuse(const char *command);
const char *launch_refused(void);
/* Whether the job goes on without ranks that are lost (main says so). */
void launch_outlive(void);
bool launch_outlives(void);
/* Rank 0 knows how the job failed and says so: this process need not. */
void launch_tell(void);
bool launch_told(void);
