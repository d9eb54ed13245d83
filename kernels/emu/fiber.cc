/* SPDX-License-Identifier: Apache-2.0
 * What the switches of all machines share: stacks with a guard page, and the sanitizers. */
#include "kernels/emu/fiber.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES (size_t(256) << 10) /* red zones make frames several times larger */
static void asan_leave(void **fake, const char *to, size_t size) {
    __sanitizer_start_switch_fiber(fake, to, size);
}
static void asan_enter(void *fake, const void **bottom, size_t *size) {
    __sanitizer_finish_switch_fiber(fake, bottom, size);
}
static void asan_forget(const char *stack, size_t size) {
    __asan_unpoison_memory_region(stack, size);
}
#else
#define STACK_BYTES (size_t(64) << 10)
static void asan_leave(void **, const char *, size_t) {
}
static void asan_enter(void *, const void **, size_t *) {
}
static void asan_forget(const char *, size_t) {
}
#endif

#if defined(__SANITIZE_THREAD__) || HAS_FEATURE(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
static void *tsan_create() {
    return __tsan_create_fiber(0);
}
static void *tsan_self() {
    return __tsan_get_current_fiber();
}
static void tsan_destroy(void *f) {
    __tsan_destroy_fiber(f);
}
static void tsan_switch(void *f) {
    __tsan_switch_to_fiber(f, 0);
}
#else
static void *tsan_create() {
    return NULL;
}
static void *tsan_self() {
    return NULL;
}
static void tsan_destroy(void *) {
}
static void tsan_switch(void *) {
}
#endif

namespace emu {

/* The stack of the host thread that runs fibers now: AddressSanitizer tells it to the first. */
static thread_local fiber *host_fiber;

static size_t page() {
    return (size_t)sysconf(_SC_PAGESIZE);
}

bool fiber_init(fiber *f, void (*entry)(void *), void *arg) {
    size_t guard = page();
    void *p = mmap(NULL, STACK_BYTES + guard, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return false;
    mprotect(p, guard, PROT_NONE);
    *f = fiber();
    f->stack = (char *)p + guard;
    f->size = STACK_BYTES;
    f->entry = entry;
    f->arg = arg;
    f->race = tsan_create();
    fiber_prepare(f);
    return true;
}

void fiber_fini(fiber *f) {
    fiber_discard(f);
    tsan_destroy(f->race);
    asan_forget(f->stack, f->size);
    munmap(f->stack - page(), f->size + page());
}

void fiber_reset(fiber *f) {
    asan_forget(f->stack, f->size);
    tsan_destroy(f->race);
    f->race = tsan_create();
    f->fake = NULL;
    fiber_prepare(f);
}

void fiber_adopt(fiber *host) {
    *host = fiber();
    host->race = tsan_self();
    host_fiber = host;
}

void fiber_begin(fiber *f) {
    const void *bottom;
    size_t size;
    asan_enter(NULL, &bottom, &size);
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
    if (!host_fiber->stack) { /* the first fiber after fiber_adopt is entered from the host's */
        host_fiber->stack = (char *)bottom;
        host_fiber->size = size;
    }
#endif
    f->entry(f->arg);
}

void fiber_switch(fiber *from, fiber *to) {
    asan_leave(&from->fake, to->stack, to->size);
    tsan_switch(to->race);
    fiber_jump(from, to);
    asan_enter(from->fake, NULL, NULL);
}

} // namespace emu
