/* SPDX-License-Identifier: Apache-2.0
 * A safetensors file written by hand: tests say what the header is, byte for byte. */
#pragma once
#include "host/base/buf.h"
#include "host/model/safetensors.h"
#include "tests/unit/unit.h"
#include <stdio.h>
#include <unistd.h>

/* The image of a file with this header text and n data bytes. */
static inline buf st_image(const char *header, const void *data, size_t n) {
    buf b;
    buf_init(&b, 1 << 26);
    uint64_t size = strlen(header);
    for (int i = 0; i < 8; i++)
        buf_putc(&b, (char)(size >> (8 * i)));
    buf_puts(&b, header);
    if (n)
        buf_add(&b, data, n);
    return b;
}

/* A file that grows tensor by tensor, all of one type, values counting up from `next`. */
typedef struct {
    buf header, data;
    int dtype;
    float next;
} st_builder;

static inline st_builder st_begin(int dtype) {
    st_builder b = {.dtype = dtype, .next = 1};
    buf_init(&b.header, 1 << 24);
    buf_init(&b.data, 1 << 26);
    buf_putc(&b.header, '{');
    return b;
}

/* Values are small integers: exact in every type. cols 0: a vector. Returns the first value. */
static inline float st_add(st_builder *b, const char *name, int64_t rows, int64_t cols) {
    static const char *const names[] = {
        [WEFT_F32] = "F32", [WEFT_F16] = "F16", [WEFT_BF16] = "BF16"};
    size_t begin = b->data.len;
    float first = b->next;
    for (int64_t i = 0; i < rows * (cols ? cols : 1); i++) {
        float x = b->next;
        uint16_t h = b->dtype == WEFT_BF16 ? weft_f32_to_bf16(x) : weft_f32_to_f16(x);
        buf_add(&b->data, b->dtype == WEFT_F32 ? (void *)&x : (void *)&h,
                b->dtype == WEFT_F32 ? 4 : 2);
        b->next = b->next >= 255 ? 1 : b->next + 1;
    }
    buf_printf(&b->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld",
               b->header.len > 1 ? "," : "", name, names[b->dtype], (long long)rows);
    if (cols)
        buf_printf(&b->header, ",%lld", (long long)cols);
    buf_printf(&b->header, "],\"data_offsets\":[%zu,%zu]}", begin, b->data.len);
    return first;
}

/* The finished image; `pad` spaces shift the data. */
static inline buf st_end(st_builder *b, int pad) {
    buf_putc(&b->header, '}');
    while (b->header.len % 8)
        buf_putc(&b->header, ' ');
    for (int i = 0; i < pad; i++)
        buf_putc(&b->header, ' ');
    buf image = st_image(b->header.data, b->data.data, b->data.len);
    buf_fini(&b->header);
    buf_fini(&b->data);
    return image;
}
