/* SPDX-License-Identifier: Apache-2.0
 * XXH3, 64 bits (github.com/Cyan4973/xxHash): the fingerprint of files in manifests. It finds
 * damage, not malice. */
#pragma once
#include <stddef.h>
#include <stdint.h>

uint64_t hash_xxh3(const void *p, size_t n);

/* The same of bytes that come in pieces: the cuts do not matter. */
typedef struct hash_stream hash_stream;
hash_stream *hash_open(void);
void hash_add(hash_stream *h, const void *p, size_t n);
uint64_t hash_value(const hash_stream *h); /* of what was added so far */
void hash_close(hash_stream *h);           /* NULL is fine */
