/* SPDX-License-Identifier: Apache-2.0
 * upload: much data to a device whose memory is its own. The host fills one buffer while the other
 * travels. */
#pragma once
#include "host/run/device.h"

typedef struct {
    device *dev;
    weft_stream *stream[2];
    char *buffer[2];
    int next;
    bool idle; /* all has arrived */
} upload;

/* Two buffers of `bytes`. Closing is due even where this fails. */
weft_status upload_open(upload *u, device *d, uint64_t bytes);
/* The buffer to fill next, once what it held has arrived. */
weft_status upload_buffer(upload *u, char **out);
/* Sends its first `bytes` to dst. */
weft_status upload_send(upload *u, void *dst, uint64_t bytes);
weft_status upload_wait(upload *u); /* until all has arrived */
void upload_close(upload *u);
