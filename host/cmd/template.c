/* SPDX-License-Identifier: Apache-2.0
 * `weft template`: conversations as the text a model reads, by its own template. */
#include "host/base/file.h"
#include "host/base/mem.h"
#include "host/cmd/cmd.h"
#include "host/model/chat/chat.h"
#include <inttypes.h>
#include <string.h>

enum { INPUT_MAX = 256 << 20 };

typedef struct {
    const char *file, *now, *choice;
    bool jsonl;
} template_args;

#define AT(member) offsetof(template_args, member)
static const arg_spec specs[] = {
    {"jsonl", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "one object of arguments a line in, one JSON string or {\"error\": ...} a line out",
     AT(jsonl)},
    {"file", "f", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "read the arguments from a file or - (the default)", AT(file)},
    {"chat-template", "", NULL, ARG_STRING, "FILE|NAME", 0, 0, NULL,
     "this template instead of the model's own", AT(choice)},
    {"now", "", NULL, ARG_STRING, "TIME", 0, 0, NULL,
     "the time templates see, as 2025-12-31T23:59:58; default: the clock", AT(now)},
};

typedef struct {
    chat_template *t;
    int64_t now;
    chat_output o;
    buf out;
} template_state;

/* A failure becomes the line's answer; raise_exception's text stands there as it is. */
static void add_error(template_state *s) {
    buf_puts(&s->out, "{\"error\": ");
    if (s->o.did_raise)
        buf_json_line(&s->out, s->o.raised.data, s->o.raised.len);
    else
        buf_json_line(&s->out, err_message(), strlen(err_message()));
    buf_puts(&s->out, "}\n");
}

static weft_status lines(template_state *s, const char *path) {
    cmd_lines l;
    arena a = {0};
    const char *line, *first = NULL;
    size_t n;
    WEFT_TRY(cmd_lines_open(&l, path));
    weft_status st = cmd_lines_next(&l, &line, &n);
    while (st == WEFT_OK && line) {
        if (chat_render(s->t, NULL, line, n, s->now, &s->o) == WEFT_OK) {
            buf_json_line(&s->out, s->o.text.data, s->o.text.len);
            buf_putc(&s->out, '\n');
        } else {
            add_error(s);
            if (!first)
                first = arena_printf(&a, "%s:%" PRId64 ": %s", l.name, l.number, err_message());
        }
        st = cmd_flush(&s->out);
        if (st == WEFT_OK)
            st = cmd_lines_next(&l, &line, &n);
    }
    if (st == WEFT_OK && first)
        st = weft_fail(WEFT_BAD_FILE, "%s", first);
    arena_fini(&a);
    cmd_lines_close(&l);
    return st;
}

static weft_status whole(template_state *s, const char *path) {
    arena a = {0};
    const char *text;
    size_t n;
    weft_status st = file_read(path ? path : "-", INPUT_MAX, &a, &text, &n);
    if (st == WEFT_OK)
        st = chat_render(s->t, path, text, n, s->now, &s->o);
    if (st == WEFT_OK)
        st = cmd_write(s->o.text.data, s->o.text.len);
    arena_fini(&a);
    return st;
}

static weft_status work(const template_args *a, const char *path) {
    template_state s = {.now = chat_now()};
    if (!path && !a->choice)
        return weft_fail(WEFT_USAGE, "FILE or MODEL: missing; usage: weft template %s",
                         cmd_template.usage);
    if (a->now)
        WEFT_TRY(chat_now_parse(a->now, &s.now));
    WEFT_TRY(chat_template_open(path, a->choice, &s.t));
    chat_output_init(&s.o);
    buf_init(&s.out, SIZE_MAX);
    weft_status st = a->jsonl ? lines(&s, a->file) : whole(&s, a->file);
    buf_fini(&s.out);
    chat_output_fini(&s.o);
    chat_template_close(s.t);
    return st;
}

static int run(int argc, char **argv) {
    template_args a = {.file = NULL};
    const char *path = NULL;
    int n = 0;
    weft_status s = args_parse(specs, CMD_COUNT(specs), argc, argv, &a, &path, 1, &n);
    return cmd_fail(s == WEFT_OK ? work(&a, path) : s);
}

const cmd_row cmd_template = {
    .name = "template",
    .usage = "FILE|MODEL [--jsonl] [-f FILE] [--now TIME] [--chat-template FILE|NAME]",
    .summary = "conversations as the prompt a model reads",
    .notes =
        "The input is an object of render arguments: messages, tools, documents, "
        "add_generation_prompt, bos_token, eos_token and any other variable. MODEL is a folder "
        "with "
        "chat_template.jinja or tokenizer_config.json; FILE a template. With --jsonl a failure is "
        "that line's {\"error\": ...}, and the exit code is 3 once all lines are done.\n\n"
        "Built-in names: chatml, llama-2, llama-3, mistral, gemma, phi-3, vicuna, zephyr, alpaca, "
        "deepseek, command-r.\n\n"
        "  weft template MODEL -f conversation.json\n"
        "  echo '{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
        "\"add_generation_prompt\":true}' | weft template --chat-template chatml --jsonl",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
