/* SPDX-License-Identifier: Apache-2.0
 * `weft plan`: what a run would do and take, without doing or taking it. */
#include "host/cmd/cmd.h"
#include "host/cmd/plan_gpu.h"
#include "host/cmd/plan_train.h"
#include "host/cmd/roofline.h"
#include "host/model/engine.h"
#include <string.h>

typedef struct {
    cmd_engine_args engine;
    plan_train_args train;
    const char *gpu;
    int64_t max_seqs;
    bool json, predict, brief;
} plan_args;

#define AT(member) offsetof(plan_args, member)
static const arg_spec specs[] = {
    {"predict", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "measure this machine and add the tokens/s that its memory and arithmetic allow", AT(predict)},
    {"gpu", "", NULL, ARG_CHOICE, "none|h200", 0, 0, "none",
     "add what as many of these GPUs would take at best, with the kernels of --device emu",
     AT(gpu)},
    {"brief", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "leave the steps out", AT(brief)},
    {"max-seqs", "", "max-num-seqs", ARG_INT, "N", 0, 4096, "0", "sequences open at once; 0: 1",
     AT(max_seqs)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object", AT(json)},
    CMD_ENGINE_SPECS(plan_args, engine),
    PLAN_TRAIN_SPECS(plan_args, train),
};

/* ---- What the machine allows ---- */

typedef struct {
    roofline_ceiling ceiling;
    int64_t prompt, depth;
    double prefill, decode, decode_deep; /* tokens/s */
} prediction;

static double rate(double tokens, roofline_work w, roofline_ceiling c) {
    double read = w.bytes / (c.gb_s * 1e9), compute = w.flops / (c.gflop_s * 1e9);
    return tokens / (read > compute ? read : compute);
}

static weft_status predict(const weft_engine *e, prediction *p) {
    weft_engine_info m;
    weft_engine_describe(e, &m);
    WEFT_TRY(roofline_measure(e, &p->ceiling));
    p->prompt = m.ctx_size < 512 ? m.ctx_size : 512;
    p->depth = m.ctx_size - 1;
    p->prefill = rate((double)p->prompt, roofline_prefill(&m, p->prompt, 0), p->ceiling);
    p->decode = rate(1, roofline_decode(&m, 1, 1, 0), p->ceiling);
    p->decode_deep = rate(1, roofline_decode(&m, 1, 1, p->depth), p->ceiling);
    return WEFT_OK;
}

static void predict_text(const prediction *p, buf *out) {
    buf_printf(out, "predicted at most (reads %.1f GB/s, arithmetic %.1f GFLOP/s, measured here)\n",
               p->ceiling.gb_s, p->ceiling.gflop_s);
    buf_printf(out, "  prefill of %lld tokens %12.1f tok/s\n", (long long)p->prompt, p->prefill);
    buf_printf(out, "  decode at depth 0 %15.1f tok/s\n", p->decode);
    buf_printf(out, "  decode at depth %-6lld %11.1f tok/s\n", (long long)p->depth, p->decode_deep);
}

/* Another member of the object that is there already. */
static void predict_json(const prediction *p, buf *out) {
    if (out->len > 0 && out->data[out->len - 1] == '}')
        out->len--;
    buf_printf(out, ",\"predict\":{\"ceiling_gb_s\":%.3f,\"ceiling_gflop_s\":%.3f,",
               p->ceiling.gb_s, p->ceiling.gflop_s);
    buf_printf(out, "\"prefill_tokens\":%lld,\"prefill_tok_s\":%.3f,\"decode_tok_s\":%.3f,",
               (long long)p->prompt, p->prefill, p->decode);
    buf_printf(out, "\"deep_tokens\":%lld,\"deep_decode_tok_s\":%.3f}}", (long long)p->depth,
               p->decode_deep);
}

static const gpu_model *gpu_of(const plan_args *a) {
    return plan_gpu_find(a->gpu);
}

static void add_gpu_json(const plan_args *a, const weft_engine *e, buf *out) {
    if (!gpu_of(a) || out->len == 0 || out->data[out->len - 1] != '}')
        return;
    out->len--;
    plan_gpu_json(e, gpu_of(a), out);
    buf_putc(out, '}');
}

/* ---- The command ---- */

static weft_status print(const plan_args *a, const weft_engine *e) {
    buf out;
    prediction p;
    if (a->predict)
        WEFT_TRY(predict(e, &p));
    buf_init(&out, SIZE_MAX);
    if (a->json) {
        engine_plan_json(e, !a->brief, &out);
        if (a->predict)
            predict_json(&p, &out);
        add_gpu_json(a, e, &out);
        buf_putc(&out, '\n');
    } else {
        engine_plan_text(e, !a->brief, &out);
        if (a->predict)
            predict_text(&p, &out);
        if (gpu_of(a))
            plan_gpu_text(e, gpu_of(a), &out);
    }
    weft_status s = cmd_flush(&out);
    buf_fini(&out);
    return s;
}

static weft_status open_and_print(const plan_args *a, const char *model) {
    weft_engine *e = NULL;
    if (a->train.train)
        return plan_train(&a->train, &a->engine, model, a->json);
    weft_engine_options opt = cmd_engine_options(&a->engine);
    opt.max_seqs = (int)a->max_seqs;
    if (gpu_of(a) && strcmp(opt.device, "auto") == 0)
        opt.device = "emu";
    WEFT_TRY(engine_open_dry(model, &opt, &e));
    weft_status s = print(a, e);
    weft_engine_close(e);
    return s;
}

static int run(int argc, char **argv) {
    plan_args a = {.json = false};
    const char *model;
    weft_status s = cmd_parse_model(&cmd_plan, argc, argv, &a, &model);
    return cmd_fail(s == WEFT_OK ? open_and_print(&a, model) : s);
}

const cmd_row cmd_plan = {
    .name = "plan",
    .usage = "MODEL [--train] [--json] [--predict] [options]",
    .summary = "steps, kernels, bytes and memory of a run, without running it",
    .notes =
        "Reads config.json only: no weights, and no memory is taken for them. The run uses exactly "
        "the bytes shown. Name a --cpu-level and the text is the same on every machine.\n\n"
        "  weft plan MODEL --tp 4 --dtype bf16\n"
        "  weft plan MODEL --tp 8 --gpu h200 --max-seqs 64 -c 4096 --brief\n"
        "  weft plan MODEL --cpu-level avx2 > plan.txt\n"
        "  weft plan --train --from-scratch config.json --batch-size 32 --seq-len 1024",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
