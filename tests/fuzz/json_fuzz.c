/* SPDX-License-Identifier: Apache-2.0
 * The JSON reader. What it takes is written again and must read and write as the same text; what
 * it refuses has a message; json_skip takes no less than the typed calls; memory stays in
 * proportion to the text. */
#include "host/base/buf.h"
#include "host/base/err.h"
#include "host/base/json.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void echo_string(json_str s, buf *out) {
    buf_json_string(out, s.s, s.n);
}

/* The next value as text without white space. */
static void echo(json *j, buf *out) {
    json_str key;
    bool first = true;
    switch (json_peek(j)) {
    case JSON_OBJECT:
        buf_putc(out, '{');
        for (json_object(j); json_key(j, &key); first = false) {
            buf_puts(out, first ? "" : ",");
            echo_string(key, out);
            buf_putc(out, ':');
            echo(j, out);
        }
        buf_putc(out, '}');
        break;
    case JSON_ARRAY:
        buf_putc(out, '[');
        for (json_array(j); json_item(j); first = false) {
            buf_puts(out, first ? "" : ",");
            echo(j, out);
        }
        buf_putc(out, ']');
        break;
    case JSON_STRING: echo_string(json_string(j), out); break;
    case JSON_NUMBER: buf_json_double(out, json_double(j)); break;
    case JSON_BOOL: buf_puts(out, json_bool(j) ? "true" : "false"); break;
    default:
        json_null(j);
        buf_puts(out, "null");
        break;
    }
}

static weft_status read_typed(const char *text, size_t n, buf *out) {
    arena a = {0};
    json j;
    err_clear();
    json_init(&j, "fuzz", text, n, &a);
    echo(&j, out);
    weft_status s = json_done(&j);
    WEFT_ASSERT(s == WEFT_OK || strncmp(err_message(), "fuzz:", 5) == 0);
    WEFT_ASSERT(a.total <= 64 * n + 65536);
    arena_fini(&a);
    return s;
}

static weft_status read_skipping(const char *text, size_t n, bool lone_surrogates) {
    arena a = {0};
    json j;
    json_init(&j, "fuzz", text, n, &a);
    j.lone_surrogates = lone_surrogates;
    json_skip(&j);
    weft_status s = json_done(&j);
    arena_fini(&a);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    buf once, twice;
    buf_init(&once, 8 * size + 4096);
    buf_init(&twice, 8 * size + 4096);
    weft_status typed = read_typed(text, size, &once), skipped = read_skipping(text, size, false);
    WEFT_ASSERT(typed != WEFT_OK || skipped == WEFT_OK);
    WEFT_ASSERT(skipped != WEFT_OK || read_skipping(text, size, true) == WEFT_OK);
    if (typed == WEFT_OK) {
        WEFT_ASSERT(!once.failed);
        WEFT_ASSERT(read_typed(once.data, once.len, &twice) == WEFT_OK);
        WEFT_ASSERT(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    }
    buf_fini(&once);
    buf_fini(&twice);
    return 0;
}
