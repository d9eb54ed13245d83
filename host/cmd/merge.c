/* SPDX-License-Identifier: Apache-2.0
 * `weft merge`: a model folder out of a model and an adapter. */
#include "host/cmd/cmd.h"
#include "host/train/lora.h"
#include <inttypes.h>
#include <string.h>

typedef struct {
    const char *model, *lora, *output;
    bool force, json;
} merge_args;

#define AT(member) offsetof(merge_args, member)
static const arg_spec specs[] = {
    {"model", "m", NULL, ARG_STRING, "MODEL", 0, 0, NULL, "the model folder, as the first argument",
     AT(model)},
    {"lora", "", NULL, ARG_STRING, "DIR", 0, 0, NULL, "the adapter's folder", AT(lora)},
    {"output", "o", NULL, ARG_STRING, "DIR", 0, 0, NULL, "the folder to write", AT(output)},
    {"force", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "write into DIR even if it exists", AT(force)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object", AT(json)},
};

static weft_status work(const merge_args *a, const char *model) {
    lora_merged r;
    char size[CMD_SIZE_TEXT];
    buf b;
    if (!a->lora)
        return weft_fail(WEFT_USAGE, "--lora: is missing; give the adapter's folder");
    if (!a->output || !*a->output)
        return weft_fail(WEFT_USAGE, "--output: is missing; give the folder to write with -o DIR");
    WEFT_TRY(lora_merge(model, a->lora, a->output, a->force, &r));
    buf_init(&b, 1 << 16);
    if (a->json) {
        buf_printf(&b,
                   "{\"matrices\":%d,\"tensors\":%d,\"bytes\":%" PRIu64 ",\"output\":", r.matrices,
                   r.tensors, r.bytes);
        buf_json_line(&b, a->output, strlen(a->output));
        buf_puts(&b, "}\n");
    } else {
        buf_printf(&b, "%d of %d tensors merged, %s written to %s\n", r.matrices, r.tensors,
                   cmd_size(size, (double)r.bytes), a->output);
    }
    weft_status s = cmd_flush(&b);
    buf_fini(&b);
    return s;
}

static int run(int argc, char **argv) {
    merge_args a = {.json = false};
    const char *model;
    weft_status s = cmd_parse_model(&cmd_merge, argc, argv, &a, &model);
    return cmd_fail(s == WEFT_OK ? work(&a, model) : s);
}

const cmd_row cmd_merge = {
    .name = "merge",
    .usage = "MODEL --lora DIR -o DIR",
    .summary = "write a model with an adapter merged into its weights",
    .notes = "Every adapted matrix becomes w + alpha / r b a, computed in fp32 and rounded to the "
             "type it is stored in; the rest comes along as it is. DIR is an ordinary model "
             "folder.\n\n"
             "  weft merge MODEL --lora adapter -o MODEL-tuned",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
