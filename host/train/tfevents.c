/* SPDX-License-Identifier: Apache-2.0
 * TensorBoard's event files. Field numbers are those of tensorflow/core/util/event.proto and
 * framework/summary.proto; the frame is that of tsl/lib/io/record_writer.h. */
#include "host/train/tfevents.h"
#include "host/base/err.h"
#include <string.h>

enum { HEAD = 12, FOOT = 4 }; /* a frame's bytes before and behind its payload */
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_VERSION = 3, EVENT_SUMMARY = 5 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE = 2 };

uint32_t tf_crc32c(const void *p, size_t n) {
    const unsigned char *byte = p;
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= byte[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1));
    }
    return ~crc;
}

/* Files hold checksums of data that may itself hold checksums, which weakens them: so they are
 * rotated and shifted. */
static uint32_t masked_crc(const void *p, size_t n) {
    uint32_t crc = tf_crc32c(p, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* ---- Protocol buffers ---- */

static void put_little(buf *b, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++)
        buf_putc(b, (char)(x >> (8 * i)));
}

static void put_varint(buf *b, uint64_t x) {
    for (; x >= 0x80; x >>= 7)
        buf_putc(b, (char)(x | 0x80));
    buf_putc(b, (char)x);
}

static void put_key(buf *b, unsigned field, unsigned wire) {
    put_varint(b, field << 3 | wire);
}

static void put_double(buf *b, unsigned field, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_key(b, field, WIRE_FIXED64);
    put_little(b, bits, 8);
}

static void put_float(buf *b, unsigned field, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_key(b, field, WIRE_FIXED32);
    put_little(b, bits, 4);
}

static void put_bytes(buf *b, unsigned field, const char *p, size_t n) {
    put_key(b, field, WIRE_BYTES);
    put_varint(b, n);
    buf_add(b, p, n);
}

static void put_value(buf *summary, const tf_scalar *s) {
    buf value;
    buf_init(&value, 1 << 12);
    put_bytes(&value, VALUE_TAG, s->tag, strlen(s->tag));
    put_float(&value, VALUE_SIMPLE, (float)s->value);
    summary->failed |= value.failed;
    put_bytes(summary, SUMMARY_VALUE, value.data, value.len);
    buf_fini(&value);
}

/* ---- Frames ---- */

static void put_frame(buf *out, const buf *event) {
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)event->len >> (8 * i));
    buf_add(out, length, sizeof length);
    put_little(out, masked_crc(length, sizeof length), 4);
    buf_add(out, event->data, event->len);
    put_little(out, masked_crc(event->data, event->len), 4);
    out->failed |= event->failed;
}

void tf_begin(buf *out, double wall_seconds) {
    static const char version[] = "brain.Event:2";
    buf event;
    buf_init(&event, 1 << 12);
    put_double(&event, EVENT_WALL_TIME, wall_seconds);
    put_bytes(&event, EVENT_VERSION, version, sizeof version - 1);
    put_frame(out, &event);
    buf_fini(&event);
}

void tf_scalars(buf *out, double wall_seconds, int64_t step, const tf_scalar *scalar, int n) {
    buf event, summary;
    buf_init(&event, 1 << 16);
    buf_init(&summary, 1 << 16);
    for (int i = 0; i < n; i++)
        put_value(&summary, &scalar[i]);
    put_double(&event, EVENT_WALL_TIME, wall_seconds);
    put_key(&event, EVENT_STEP, WIRE_VARINT);
    put_varint(&event, (uint64_t)step);
    put_bytes(&event, EVENT_SUMMARY, summary.data, summary.len);
    event.failed |= summary.failed;
    put_frame(out, &event);
    buf_fini(&summary);
    buf_fini(&event);
}

/* ---- Reading back, as far as cutting needs it ---- */

static uint64_t little(const unsigned char *p, int bytes) {
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++)
        x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static uint64_t varint(const unsigned char **p, const unsigned char *end) {
    uint64_t x = 0;
    for (int shift = 0; *p < end && shift < 64; shift += 7) {
        unsigned char c = *(*p)++;
        x |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80)
            break;
    }
    return x;
}

/* The event's step; 0 for one without, as the format has it. */
static int64_t step_of(const unsigned char *p, const unsigned char *end) {
    while (p < end) {
        uint64_t key = varint(&p, end);
        if (key == (EVENT_STEP << 3 | WIRE_VARINT))
            return (int64_t)varint(&p, end);
        unsigned wire = (unsigned)(key & 7);
        uint64_t skip = wire == WIRE_FIXED64   ? 8
                        : wire == WIRE_FIXED32 ? 4
                        : wire == WIRE_BYTES   ? varint(&p, end)
                                               : (varint(&p, end), 0);
        if (skip > (uint64_t)(end - p))
            break;
        p += skip;
    }
    return 0;
}

weft_status tf_keep(const char *name, const void *file, size_t n, int64_t last_step, size_t *keep) {
    const unsigned char *p = file;
    size_t at = 0;
    while (n - at >= HEAD) {
        uint64_t length = little(p + at, 8);
        if (little(p + at + 8, 4) != masked_crc(p + at, 8))
            return weft_fail(WEFT_BAD_FILE, "%s: no event record at byte %zu; move the file away",
                             name, at);
        if (length > n - at - HEAD || n - at - HEAD - length < FOOT)
            break;
        const unsigned char *event = p + at + HEAD;
        if (little(event + length, 4) != masked_crc(event, length))
            return weft_fail(WEFT_BAD_FILE, "%s: wrong checksum at byte %zu; move the file away",
                             name, at);
        if (step_of(event, event + length) > last_step)
            break;
        at += HEAD + (size_t)length + FOOT;
    }
    *keep = at;
    return WEFT_OK;
}
