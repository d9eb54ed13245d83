/* SPDX-License-Identifier: Apache-2.0
 * Each buffer has a stream of its own, so that waiting for one leaves the other on its way. */
#include "host/run/upload.h"
#include "host/base/err.h"

weft_status upload_open(upload *u, device *d, uint64_t bytes) {
    *u = (upload){.dev = d};
    for (int i = 0; i < 2; i++) {
        void *p = NULL;
        WEFT_TRY(d->host_alloc(d, bytes, "upload buffer", &p));
        u->buffer[i] = p;
        WEFT_TRY(d->stream_open(d, 1, &u->stream[i]));
    }
    return WEFT_OK;
}

weft_status upload_buffer(upload *u, char **out) {
    *out = u->buffer[u->next];
    return u->dev->sync(u->dev, u->stream[u->next]);
}

weft_status upload_send(upload *u, void *dst, uint64_t bytes) {
    int i = u->next;
    u->next = !i;
    return u->dev->copy(u->dev, u->stream[i], dst, u->buffer[i], bytes, DEVICE_TO);
}

weft_status upload_wait(upload *u) {
    for (int i = 0; i < 2; i++)
        WEFT_TRY(u->dev->sync(u->dev, u->stream[i]));
    u->idle = true;
    return WEFT_OK;
}

/* Streams first: a copy under way reads its buffer. */
void upload_close(upload *u) {
    for (int i = 0; i < 2; i++)
        if (u->stream[i]) {
            if (!u->idle)
                (void)u->dev->sync(u->dev, u->stream[i]);
            u->dev->stream_close(u->dev, u->stream[i]);
        }
    for (int i = 0; i < 2; i++)
        u->dev->host_release(u->dev, u->buffer[i]);
}
