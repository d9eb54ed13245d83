/* SPDX-License-Identifier: Apache-2.0
 * XXH3 from the system's header, compiled into this file alone. */
#include "host/base/hash.h"
#include "host/base/mem.h"
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

struct hash_stream {
    XXH3_state_t *state; /* aligned to 64 bytes */
};

uint64_t hash_xxh3(const void *p, size_t n) {
    return XXH3_64bits(p, n);
}

hash_stream *hash_open(void) {
    hash_stream *h = mem_alloc(sizeof *h + sizeof(XXH3_state_t) + 64);
    uintptr_t at = ((uintptr_t)(h + 1) + 63) & ~(uintptr_t)63;
    h->state = (XXH3_state_t *)at;
    XXH3_64bits_reset(h->state);
    return h;
}

void hash_add(hash_stream *h, const void *p, size_t n) {
    if (n)
        XXH3_64bits_update(h->state, p, n);
}

uint64_t hash_value(const hash_stream *h) {
    return XXH3_64bits_digest(h->state);
}

void hash_close(hash_stream *h) {
    mem_free(h);
}
