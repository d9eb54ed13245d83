/* SPDX-License-Identifier: Apache-2.0
 * config.json. The text up to the first form feed is the config, what is behind it (if anything)
 * the generation_config. What is accepted keeps every promise the rest of weft builds on. */
#include "host/base/err.h"
#include "host/model/config.h"
#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rope(const rope_config *r, int64_t head_dim, int64_t max_ctx) {
    double inv[128], mscale = 0;
    WEFT_ASSERT(r->dims >= 2 && r->dims % 2 == 0 && r->dims <= head_dim && r->dims <= 256);
    rope_frequencies(r, max_ctx, inv, &mscale);
    WEFT_ASSERT(isfinite(mscale) && mscale > 0);
    for (int64_t i = 0; i < r->dims / 2; i++)
        WEFT_ASSERT(isfinite(inv[i]));
}

static void check_promises(const model_config *c) {
    WEFT_ASSERT(c->vocab > 0 && c->d_model > 0 && c->n_layers > 0 && c->d_ff > 0 && c->max_ctx > 0);
    WEFT_ASSERT(c->n_heads % c->n_kv_heads == 0 && c->head_dim > 0 && c->head_dim <= 256);
    WEFT_ASSERT(c->act > WEFT_ACT_NONE && c->act < WEFT_ACTS && isfinite(c->attn_scale));
    WEFT_ASSERT(c->window >= 0 && (c->window > 0 || !c->layer_windowed));
    WEFT_ASSERT(c->bos_id >= -1 && c->bos_id < c->vocab && c->n_eos <= CONFIG_MAX_EOS);
    for (int i = 0; i < c->n_eos; i++)
        WEFT_ASSERT(c->eos_id[i] >= 0 && c->eos_id[i] < c->vocab);
    for (int64_t i = 0; c->layer_windowed && i < c->n_layers; i++)
        WEFT_ASSERT(c->layer_windowed[i] <= 1);
    WEFT_ASSERT(config_parameters(c) > 0);
    if (c->position == POSITION_ROPE)
        check_rope(&c->rope, c->head_dim, c->max_ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data, *cut = size ? memchr(text, '\f', size) : NULL;
    size_t n = cut ? (size_t)(cut - text) : size;
    arena a = {0};
    model_config c;
    err_clear();
    weft_status s = config_parse("config.json", text, n, cut ? cut + 1 : NULL,
                                 cut ? size - n - 1 : 0, &a, &c);
    if (s == WEFT_OK)
        check_promises(&c);
    else
        WEFT_ASSERT(strstr(err_message(), "config.json:"));
    WEFT_ASSERT(a.total <= 256 * size + (1 << 20));
    arena_fini(&a);
    return 0;
}
