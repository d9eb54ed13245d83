/* SPDX-License-Identifier: Apache-2.0
 * What config.json says about rotary embedding (rope_scaling of transformers 4, rope_parameters of
 * transformers 5) on its way to a rope_config. */
#pragma once
#include "host/base/json.h"
#include "host/model/config.h"

/* A zero (or NULL) means unsaid. */
typedef struct {
    bool given;
    const char *type, *old_type; /* "rope_type"; "type", its name before transformers 4.43 */
    rope_config r;
    double partial; /* share of head_dim that is rotated */
} rope_spec;

/* Reads one object, or one object of equal objects per layer type. `key` is for messages. */
void rope_read(json *j, const char *key, rope_spec *out);
/* spec (what is unsaid is 0) -> out. May raise *max_ctx: a stretched model reaches further.
 * `name` is the file, for messages. */
weft_status rope_resolve(const char *name, const rope_spec *spec, int64_t head_dim,
                         int64_t *max_ctx, rope_config *out);
const char *rope_kind_name(rope_kind k);
