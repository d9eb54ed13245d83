/* SPDX-License-Identifier: Apache-2.0
 * EXPLAIN: a plan as text for people and golden tests, and as JSON for programs. */
#include "host/run/ops.h"
#include "host/run/plan.h"
#include "host/run/registry.h"
#include <inttypes.h>
#include <stdio.h>

static const char *phase_name(int phase) {
    static const char *const names[] = {"generate", "score", "train"};
    return names[phase];
}

void plan_print(const weft_plan *p, buf *out) {
    plan_cost c = plan_total(p);
    buf_printf(out, "plan %s: %d token%s, %d row%s of logits, rank %d of %d, %d steps\n",
               phase_name(p->phase), p->bucket_tokens, p->bucket_tokens == 1 ? "" : "s",
               p->bucket_rows, p->bucket_rows == 1 ? "" : "s", p->rank,
               p->group_ranks[WEFT_GROUP_WORLD], p->nstep);
    buf_printf(out,
               "  %.3f MB, %.3f MFLOP, %.3f kB sent; activations %" PRIu64 " B, scratch %" PRIu64
               " B\n",
               (double)c.bytes / 1e6, (double)c.flops / 1e6, (double)c.sent / 1e3,
               p->space_bytes[WEFT_SPACE_ACT], p->space_bytes[WEFT_SPACE_SCRATCH]);
    buf_printf(out, "  %4s %-16s %-16s %-8s %12s %14s  %s\n", "step", "tag", "row", "class",
               "bytes", "flops", "op and operands");
    for (int i = 0; i < p->nstep; i++) {
        const weft_step *s = &p->step[i];
        char row[48];
        snprintf(row, sizeof row, "%s/%s", s->kernel->backend, s->kernel->name);
        buf_printf(out, "  %4d %-16s %-16s %-8s %12" PRId64 " %14" PRId64 "  ", i, s->tag, row,
                   registry_arith_name(s->kernel->arith), s->bytes, s->flops);
        ops_print(out, s->kernel->op, &s->args);
        buf_putc(out, '\n');
    }
}

static void print_step_json(const weft_plan *p, const weft_step *s, buf *out) {
    buf text;
    buf_init(&text, 8192);
    ops_print(&text, s->kernel->op, &s->args);
    buf_printf(out, "{\"phase\":\"%s\",\"tokens\":%d,\"rank\":%d,\"tag\":\"%s\",\"op\":\"%s\",",
               phase_name(p->phase), p->bucket_tokens, p->rank, s->tag,
               weft_op_table[s->kernel->op].name);
    buf_printf(out, "\"backend\":\"%s\",\"row\":\"%s\",\"class\":\"%s\",\"lane\":%d,",
               s->kernel->backend, s->kernel->name, registry_arith_name(s->kernel->arith), s->lane);
    buf_printf(out, "\"bytes\":%" PRId64 ",\"flops\":%" PRId64 ",\"args\":", s->bytes, s->flops);
    buf_json_string(out, text.data, text.len);
    buf_putc(out, '}');
    buf_fini(&text);
}

void plan_print_json(const weft_plan *p, buf *out) {
    for (int i = 0; i < p->nstep; i++) {
        if (i)
            buf_putc(out, ',');
        print_step_json(p, &p->step[i], out);
    }
}
