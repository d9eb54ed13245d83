/* SPDX-License-Identifier: Apache-2.0
 * What tests of the emulator share: a stream, and whether its last launch was accused of
 * something. */
#pragma once
#include <launch.cuh>
#include <mem.cuh>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
extern "C" {
#include "host/run/device.h"
#include <cmocka.h>
}

static device *emu_device;

static inline weft_emu_stream *emu_stream_open(int threads) {
    weft_stream *s;
    if (device_open("emu", NULL, &emu_device) != WEFT_OK ||
        emu_device->stream_open(emu_device, threads, &s) != WEFT_OK)
        abort();
    weft_emu_stream *e = (weft_emu_stream *)s;
    e->seed = 0;
    return e;
}

static inline void emu_stream_close(weft_emu_stream *s) {
    emu_device->stream_close(emu_device, &s->head);
    device_close(emu_device);
}

static inline void emu_ok(const weft_emu_stream *s) {
    if (s->failed)
        fail_msg("%s", s->error);
}

/* Runs `body`, which must be accused of `what`; the stream lives again after it. */
template <class F> static void emu_fails(weft_emu_stream *s, const char *what, F body) {
    body();
    bool failed = s->failed != 0;
    s->failed = 0;
    if (!failed)
        fail_msg("nothing found, expected: %s", what);
    if (!strstr(s->error, what))
        fail_msg("found '%s', expected: %s", s->error, what);
}
