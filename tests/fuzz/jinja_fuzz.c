/* SPDX-License-Identifier: Apache-2.0
 * Chat templates. The input is a template; a line "\n===\n" parts it from the arguments, which are
 * a short conversation if there is no such line. Whatever happens ends, inside its limits, with
 * valid UTF-8 or a message; a template renders the same twice; spans lie in the text. */
#include "host/base/err.h"
#include "host/base/utf8.h"
#include "host/model/chat/chat.h"
#include "host/model/chat/jinja.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char talk[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be kind.\"},{\"role\":\"user\",\"content\":"
    "\"H\xc3\xa9 {{ x }}\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":"
    "{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,true,null]}}}]},{\"role\":\"user\",\"content\":"
    "[{\"type\":\"text\",\"text\":\"hi\"}]}],\"tools\":[{\"type\":\"function\",\"function\":{"
    "\"name\":"
    "\"f\"}}],\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"l\":[3,1,2],\"s\":\"a "
    "b\",\"n\":7}";

static weft_status render(const chat_template *t, const char *args, size_t n, chat_output *o) {
    err_clear();
    weft_status s = chat_render(t, NULL, args, n, 1000000000, o);
    WEFT_ASSERT(s == WEFT_OK || err_message()[0]);
    WEFT_ASSERT(s == WEFT_OK || (o->text.len == 0 && o->nspan == 0));
    WEFT_ASSERT(!o->did_raise || s == WEFT_BAD_FILE);
    WEFT_ASSERT(utf8_invalid_at(o->text.data, o->text.len) == o->text.len);
    return s;
}

static void check_spans(const chat_output *o) {
    size_t at = 0;
    for (size_t i = 0; i < o->nspan; i++) {
        WEFT_ASSERT(o->span[i].begin >= at && o->span[i].begin < o->span[i].end);
        at = o->span[i].end;
    }
    WEFT_ASSERT(at <= o->text.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data, *cut = size ? memmem(text, size, "\n===\n", 5) : NULL;
    size_t n = cut ? (size_t)(cut - text) : size;
    const char *args = cut ? cut + 5 : talk;
    size_t nargs = cut ? size - n - 5 : strlen(talk);
    chat_template *t;
    chat_output once, twice;
    err_clear();
    if (chat_template_parse("fuzz", text, n, NULL, &t) != WEFT_OK) {
        WEFT_ASSERT(strncmp(err_message(), "fuzz:", 5) == 0);
        return 0;
    }
    chat_output_init(&once);
    chat_output_init(&twice);
    once.want_spans = size < 2048; /* a rendering a turn more */
    weft_status s = render(t, args, nargs, &once);
    check_spans(&once);
    if (s == WEFT_OK) {
        WEFT_ASSERT(render(t, args, nargs, &twice) == WEFT_OK);
        WEFT_ASSERT(once.text.len == twice.text.len &&
                    memcmp(once.text.data, twice.text.data, once.text.len) == 0);
    }
    chat_output_fini(&once);
    chat_output_fini(&twice);
    chat_template_close(t);
    return 0;
}
