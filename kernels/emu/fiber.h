/* SPDX-License-Identifier: Apache-2.0
 * Fibers: one stack for each thread of an emulated block, and the switch between them. Every switch
 * is announced to the sanitizers. Fibers never move to another thread of the host. */
#pragma once
#include <stddef.h>

namespace emu {

struct fiber {
    void *sp;      /* where it left off */
    char *stack;   /* lowest usable byte; the page below faults */
    size_t size;   /* 0: the host thread's own stack */
    void *fake;    /* AddressSanitizer's */
    void *race;    /* ThreadSanitizer's */
    void *context; /* the portable switch's */
    void (*entry)(void *);
    void *arg;
};

/* entry must never return. false: no memory for a stack. */
bool fiber_init(fiber *f, void (*entry)(void *), void *arg);
void fiber_fini(fiber *f);
/* Forgets where the fiber was: the next switch to it calls entry again. */
void fiber_reset(fiber *f);
/* The caller becomes a fiber that can be switched back to. */
void fiber_adopt(fiber *host);
void fiber_switch(fiber *from, fiber *to);

/* The two halves that differ by machine: fiber_x86_64.cc, fiber_portable.cc. */
void fiber_prepare(fiber *f);
void fiber_jump(fiber *from, fiber *to);
void fiber_discard(fiber *f);
/* First thing on a fresh stack. */
void fiber_begin(fiber *f);

} // namespace emu
