/* SPDX-License-Identifier: Apache-2.0
 * What is wrong with the emulated GPU, on demand: the runtime behind cuda_runtime_api.h, as tests
 * set it up. Also by the environment: WEFT_EMU_FAULT=CALL[:CODE[:late]], WEFT_EMU_LATE=2. */
#pragma once
#include "weft/gpu.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int devices, sm, driver; /* driver: 13000 is 13.0, 0 is none */
    uint64_t bytes;          /* of memory; 0: as the host has */
    int apart;               /* its devices do not reach each other's memory */
    int late;                /* EMU_COPIES_LATE, EMU_ALL_LATE */
} emu_machine;
/* Copies from page-locked memory happen as late as the stream's order allows; everything does: a
 * stream moves when it, or an event of it, is waited for or asked for, so that streams are as far
 * apart as their waits for each other let them be. */
enum { EMU_COPIES_LATE = 1, EMU_ALL_LATE };
void emu_machine_set(emu_machine m); /* one device of sm_90, driver 13.0, unless set */

/* Which call fails, counted from here: 1 is the next, 0 none; or the first of a name that
 * emu_called gave. late: it succeeds, and the next sync
 * fails. sticky: so does every call from then on, as when a context is lost. */
typedef struct {
    int64_t call;
    int code, late, sticky;
    const char *name;
} emu_fault;
void emu_fault_set(emu_fault f);
/* Names of all calls since the process began, each once; NULL behind the last. */
const char *emu_called(int i);
const char *emu_fault_struck(void); /* the call that it hit, "emu_cuda_malloc"; NULL: none yet */
int64_t emu_calls(void);            /* since emu_fault_set */
int64_t emu_live(void);             /* allocations, streams and graphs that are not yet released */

/* Work on a stream that is not the emulator's, as NCCL's kernels are: a cudaStream_t points to
 * this. Whoever adds a piece counts it in `posted`; progress moves what can be moved of the pieces
 * that the stream has reached and returns how many are done. Everything later in the stream's order
 * waits for them. */
typedef struct emu_outside {
    uint64_t posted, reached;
    uint64_t (*progress)(struct emu_outside *);
    void *own;  /* of who posts */
    int device; /* of the stream */
} emu_outside;

/* Of emu.cc: 1: a launch is to run now, 0: never (it was recorded for a graph, or the stream is
 * dead), -1: in its turn, by emu_queue_later: run is called with the room that this returns, of so
 * many bytes, aligned to 64. */
int emu_queue_runs(weft_emu_stream *s, const weft_step *step);
void *emu_queue_later(weft_emu_stream *s, void (*run)(void *), size_t bytes);

#ifdef __cplusplus
}
#endif
