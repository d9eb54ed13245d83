/* SPDX-License-Identifier: Apache-2.0
 * quantization_config, as compressed-tensors (neuralmagic, "compressed-tensors" 0.9) writes it. */
#include "host/model/quant.h"
#include "host/base/err.h"
#include <string.h>

static void read_word(json *j, const char **to) {
    if (json_peek(j) == JSON_STRING)
        *to = json_text(j);
    else
        json_skip(j);
}

static void read_flag(json *j, bool *to) {
    if (json_peek(j) == JSON_BOOL)
        *to = json_bool(j);
    else
        json_skip(j);
}

static bool read_if_null(json *j) {
    bool null = json_peek(j) == JSON_NULL;
    if (null)
        json_null(j);
    return null;
}

static void read_scheme(json *j, quant_scheme *s) {
    if (read_if_null(j))
        return;
    *s = (quant_scheme){.given = true, .type = "int", .strategy = "", .symmetric = true};
    json_object(j);
    for (json_str key; json_key(j, &key);)
        if (json_is(key, "num_bits"))
            s->bits = json_int(j, 1, 64);
        else if (json_is(key, "type"))
            read_word(j, &s->type);
        else if (json_is(key, "strategy"))
            read_word(j, &s->strategy);
        else if (json_is(key, "symmetric"))
            read_flag(j, &s->symmetric);
        else if (json_is(key, "dynamic"))
            read_flag(j, &s->dynamic);
        else if (json_is(key, "group_size"))
            s->grouped = !read_if_null(j);
        else
            json_skip(j);
}

static void read_targets(json *j, quant_draft *d) {
    json_array(j);
    while (json_item(j))
        read_word(j, &d->target);
}

static void read_group(json *j, quant_draft *d) {
    d->groups++;
    json_object(j);
    for (json_str key; json_key(j, &key);)
        if (json_is(key, "weights"))
            read_scheme(j, &d->weights);
        else if (json_is(key, "input_activations"))
            read_scheme(j, &d->activations);
        else if (json_is(key, "output_activations"))
            d->output |= !read_if_null(j);
        else if (json_is(key, "targets"))
            read_targets(j, d);
        else
            json_skip(j);
}

static void read_ignored(json *j, quant_draft *d) {
    json_array(j);
    while (json_item(j)) {
        const char *name = "";
        read_word(j, &name);
        if (strcmp(name, "lm_head") == 0 || strcmp(name, "re:.*lm_head") == 0)
            d->head_kept = true;
        else
            d->ignored = name;
    }
}

void quant_read(json *j, quant_draft *d) {
    *d = (quant_draft){.given = true};
    json_object(j);
    for (json_str key; json_key(j, &key);)
        if (json_is(key, "quant_method") || json_is(key, "quant_algo")) {
            read_word(j, &d->method);
        } else if (json_is(key, "format")) {
            read_word(j, &d->format);
        } else if (json_is(key, "config_groups") && json_peek(j) == JSON_OBJECT) {
            json_object(j);
            for (json_str group; json_key(j, &group);)
                read_group(j, d);
        } else if (json_is(key, "ignore") && json_peek(j) == JSON_ARRAY) {
            read_ignored(j, d);
        } else if (json_is(key, "kv_cache_scheme")) {
            d->kv = !read_if_null(j);
        } else {
            json_skip(j);
        }
}

static weft_status refuse(const char *name, const char *key, const char *is, const char *fits) {
    return weft_fail(WEFT_UNSUPPORTED,
                     "%s: quantization_config: %s: \"%s\" is not supported (%s); `weft quantize` "
                     "makes int8 from the checkpoint it was made from",
                     name, key, is ? is : "unsaid", fits);
}

static bool is_int8(const quant_scheme *s, const char *strategy, bool dynamic) {
    return s->given && s->bits == 8 && strcmp(s->type, "int") == 0 && s->symmetric && !s->grouped &&
           s->dynamic == dynamic && strcmp(s->strategy, strategy) == 0;
}

weft_status quant_check(const char *name, const quant_draft *d, model_config *c) {
    if (!d->given)
        return WEFT_OK;
    if (!d->method || strcmp(d->method, "compressed-tensors") != 0)
        return refuse(name, "quant_method", d->method, "compressed-tensors");
    if (!d->format || strcmp(d->format, "int-quantized") != 0)
        return refuse(name, "format", d->format, "int-quantized");
    if (d->groups != 1 || !d->target || strcmp(d->target, "Linear") != 0)
        return refuse(name, "targets", d->target, "one group, of Linear");
    if (!is_int8(&d->weights, "channel", false))
        return refuse(name, "weights", d->weights.strategy, "symmetric int8 by channel");
    if (d->activations.given && !is_int8(&d->activations, "token", true))
        return refuse(name, "input_activations", d->activations.strategy,
                      "symmetric int8 by token, dynamic");
    if (d->kv || d->output)
        return refuse(name, d->kv ? "kv_cache_scheme" : "output_activations", "given", "null");
    if (d->ignored)
        return refuse(name, "ignore", d->ignored, "lm_head");
    if (!d->head_kept && !c->tied)
        return refuse(name, "ignore", "nothing", "lm_head, which stays as stored");
    c->quant = (quant_config){.weights = true, .activations = d->activations.given};
    return WEFT_OK;
}

static void write_scheme(buf *out, const char *strategy, bool dynamic) {
    buf_printf(out,
               "{\"num_bits\":8,\"type\":\"int\",\"symmetric\":true,\"strategy\":\"%s\","
               "\"dynamic\":%s,\"group_size\":null,\"block_structure\":null,\"actorder\":null,"
               "\"observer\":\"minmax\",\"observer_kwargs\":{}}",
               strategy, dynamic ? "true" : "false");
}

void quant_write(buf *out, bool activations) {
    buf_puts(out, "{\"quant_method\":\"compressed-tensors\",\"format\":\"int-quantized\","
                  "\"quantization_status\":\"compressed\",\"kv_cache_scheme\":null,"
                  "\"ignore\":[\"lm_head\"],\"config_groups\":{\"group_0\":{"
                  "\"targets\":[\"Linear\"],\"weights\":");
    write_scheme(out, "channel", false);
    buf_puts(out, ",\"input_activations\":");
    if (activations)
        write_scheme(out, "token", true);
    else
        buf_puts(out, "null");
    buf_puts(out, ",\"output_activations\":null}}}");
}
