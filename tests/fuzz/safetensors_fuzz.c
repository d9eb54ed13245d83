/* SPDX-License-Identifier: Apache-2.0
 * A safetensors file in memory. What is accepted covers its data exactly once, inside the bytes
 * that are there, and every tensor is found by its name; what is refused has a message. */
#include "host/base/err.h"
#include "host/model/safetensors.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned touch(const st_tensor *t) {
    const unsigned char *p = t->data;
    return t->bytes ? p[0] + p[t->bytes - 1] : 0;
}

static void check_set(const safetensors *s, const uint8_t *data, size_t size) {
    uint64_t sum = 0;
    volatile unsigned seen = 0;
    for (int i = 0; i < s->ntensor; i++) {
        const st_tensor *t = &s->tensor[i];
        const uint8_t *p = t->data;
        WEFT_ASSERT(p >= data + 8 && t->bytes <= size && p + t->bytes <= data + size);
        WEFT_ASSERT(t->ndim >= 0 && t->ndim <= 8 && t->name[0]);
        WEFT_ASSERT(safetensors_find(s, t->name) == t);
        WEFT_ASSERT(i == 0 || strcmp(s->tensor[i - 1].name, t->name) < 0);
        seen += touch(t);
        sum += t->bytes;
    }
    WEFT_ASSERT(sum <= size - 8);
    for (int i = 0; i < s->nalias; i++)
        WEFT_ASSERT(safetensors_find(s, s->alias[i].from));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    safetensors s;
    err_clear();
    if (safetensors_open_memory("fuzz", data, size, &s) == WEFT_OK) {
        check_set(&s, data, size);
        safetensors_close(&s);
    } else {
        WEFT_ASSERT(strncmp(err_message(), "fuzz:", 5) == 0);
    }
    return 0;
}
