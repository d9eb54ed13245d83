/* SPDX-License-Identifier: Apache-2.0
 * The switch by hand: six registers and the stack pointer (System V AMD64 ABI, 3.2.1), an order of
 * magnitude cheaper than swapcontext, which asks the kernel for the signal mask. */
#if defined(__x86_64__)
#include "kernels/emu/fiber.h"
#include <string.h>

extern "C" void weft_fiber_jump(void **save, void *load) __attribute__((visibility("hidden")));
extern "C" void weft_fiber_start() __attribute__((visibility("hidden")));
extern "C" void weft_fiber_enter(emu::fiber *f) __attribute__((visibility("hidden"), used));

/* A fresh stack holds six registers, rbx being the fiber, and weft_fiber_start's address. */
__asm__(".text\n"
        ".p2align 4\n"
        ".globl weft_fiber_jump\n"
        ".hidden weft_fiber_jump\n"
        ".type weft_fiber_jump,@function\n"
        "weft_fiber_jump:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size weft_fiber_jump,.-weft_fiber_jump\n"
        ".globl weft_fiber_start\n"
        ".hidden weft_fiber_start\n"
        ".type weft_fiber_start,@function\n"
        "weft_fiber_start:\n"
        "    movq %rbx, %rdi\n"
        "    xorl %ebp, %ebp\n"
        "    call weft_fiber_enter\n"
        "    ud2\n"
        ".size weft_fiber_start,.-weft_fiber_start\n");

void weft_fiber_enter(emu::fiber *f) {
    emu::fiber_begin(f);
}

namespace emu {

void fiber_prepare(fiber *f) {
    void *top[8] = {};
    top[4] = f; /* rbx */
    top[6] = (void *)weft_fiber_start;
    /* At weft_fiber_start the stack pointer must be a multiple of 16. */
    char *sp = f->stack + f->size - 128 - 7 * sizeof *top;
    sp -= ((size_t)sp + 7 * sizeof *top) % 16;
    memcpy(sp, top, 7 * sizeof *top);
    f->sp = sp;
}

void fiber_jump(fiber *from, fiber *to) {
    weft_fiber_jump(&from->sp, to->sp);
}

void fiber_discard(fiber *) {
}

} // namespace emu
#endif
