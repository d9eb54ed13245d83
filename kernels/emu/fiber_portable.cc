/* SPDX-License-Identifier: Apache-2.0
 * The switch on machines without one written by hand. */
#if !defined(__x86_64__)
#include "kernels/emu/fiber.h"
#include <stdint.h>
#include <stdlib.h>
#include <ucontext.h>

namespace emu {

/* makecontext passes ints only. */
static void start(unsigned high, unsigned low) {
    fiber_begin((fiber *)(((uintptr_t)high << 16 << 16) | low));
}

static ucontext_t *context_of(fiber *f) {
    if (!f->context)
        f->context = calloc(1, sizeof(ucontext_t));
    if (!f->context)
        abort();
    return (ucontext_t *)f->context;
}

void fiber_prepare(fiber *f) {
    ucontext_t *c = context_of(f);
    uintptr_t p = (uintptr_t)f;
    getcontext(c);
    c->uc_stack.ss_sp = f->stack;
    c->uc_stack.ss_size = f->size;
    c->uc_link = NULL;
    makecontext(c, (void (*)())start, 2, (unsigned)(p >> 16 >> 16), (unsigned)p);
}

void fiber_jump(fiber *from, fiber *to) {
    swapcontext(context_of(from), context_of(to));
}

void fiber_discard(fiber *f) {
    free(f->context);
    f->context = NULL;
}

} // namespace emu
#endif
