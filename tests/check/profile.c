/* SPDX-License-Identifier: Apache-2.0
 * What a row does to a GPU's memory and tensor cores, counted by the emulator and put beside what
 * its shape cannot do without. Large shapes run a few blocks of each launch, spread over the grid,
 * and count for all of them: geometry, bytes and conflicts are exact where blocks are alike. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/run/registry.h"
#include "tests/check/check.h"
#include "weft/gpu.h"
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

enum { PROFILE_THREADS = 2 };

typedef struct {
    check_state *k;
    check_backend *emu;
    const check_profile *o;
    int64_t bytes, flops; /* the op's cost */
    int shown, failed;
} profile;

static weft_emu_stream *stream_of(const profile *p) {
    return (weft_emu_stream *)p->emu->stream[PROFILE_THREADS];
}

static double over(uint64_t a, double b) {
    return b > 0 ? (double)a / b : 0;
}

/* The fewest matrix instructions that do the op's arithmetic: m16n8k16, of bytes m16n8k32. */
static double least_mma(const profile *p, int dtype) {
    return (double)p->flops / (dtype == WEFT_I8 ? 8192 : 4096);
}

/* The kernel's own name in what a compiler says of it: behind the last "= ", before the bracket.
 * Neither namespaces nor blanks. */
static const char *kernel_name(const weft_emu_launch *l, char out[128]) {
    const char *from = l->kernel + (l->kernel[0] == '(');
    for (const char *eq = from; (eq = strstr(eq, " = ")); from = eq)
        eq += 3;
    int n = 0, word = 0;
    for (; *from && *from != ']' && n < 127; from++)
        if (from[0] == ':' && from[1] == ':') {
            n = word;
            from++;
        } else if (*from != ' ' && *from != '&' && *from != '(') {
            out[n++] = *from;
            word = *from == '<' || *from == ',' ? n : word;
        }
    out[n] = 0;
    return out;
}

static void json_counters(const weft_gpu_counters *c) {
    printf("\"read\":%llu,\"written\":%llu,\"requests\":%llu,\"sectors\":%llu,"
           "\"shared_requests\":%llu,\"shared_passes\":%llu,\"shared_least\":%llu,"
           "\"async\":%llu,\"mma\":%llu,\"barriers\":%llu",
           (unsigned long long)c->read_bytes, (unsigned long long)c->written_bytes,
           (unsigned long long)c->requests, (unsigned long long)c->sectors,
           (unsigned long long)c->shared_requests, (unsigned long long)c->shared_passes,
           (unsigned long long)c->shared_least, (unsigned long long)c->async_bytes,
           (unsigned long long)c->mma, (unsigned long long)c->barriers);
}

static void json_row(const profile *p, const char *text, const weft_kernel *row) {
    const weft_emu_stream *s = stream_of(p);
    printf("{\"case\":\"%s\",\"op\":\"%s\",\"row\":\"%s\",\"bytes\":%lld,\"flops\":%lld,"
           "\"launches\":[",
           text, weft_op_table[row->op].name, row->name, (long long)p->bytes, (long long)p->flops);
    for (int i = 0; i < s->launched && i < WEFT_EMU_LAUNCHES; i++) {
        const weft_emu_launch *l = &s->launch[i];
        char name[128];
        printf("%s{\"kernel\":\"%s\",\"grid\":[%u,%u,%u],\"block\":%u,\"shared\":%llu,"
               "\"ran\":%llu,\"flight\":%llu,",
               i ? "," : "", kernel_name(l, name), l->grid[0], l->grid[1], l->grid[2],
               l->block[0] * l->block[1] * l->block[2], (unsigned long long)l->shared,
               (unsigned long long)l->ran, (unsigned long long)l->async_flight);
        json_counters(&l->count);
        printf("}");
    }
    printf("]}\n");
}

static void text_row(const profile *p, const char *text, const weft_kernel *row, int dtype) {
    const weft_emu_stream *s = stream_of(p);
    weft_gpu_counters c = s->total;
    printf("%s,row=%s\n"
           "  compulsory %.3f MB, asked for: read %.3f MB, written %.3f MB (x%.2f)\n",
           text, row->name, (double)p->bytes * 1e-6, (double)c.read_bytes * 1e-6,
           (double)c.written_bytes * 1e-6, over(c.read_bytes + c.written_bytes, (double)p->bytes));
    printf("  %.2f sectors a request, %.0f %% of their bytes asked for; asynchronous %.0f %% of "
           "what is read\n",
           over(c.sectors, (double)c.requests),
           100 * over(c.read_bytes + c.written_bytes, 32.0 * (double)c.sectors),
           100 * over(c.async_bytes, (double)c.read_bytes));
    if (c.shared_requests)
        printf("  shared memory: %llu passes, %.1f %% of them conflicts\n",
               (unsigned long long)c.shared_passes,
               100 * over(c.shared_passes - c.shared_least, (double)c.shared_passes));
    if (c.mma)
        printf("  mma: %llu, x%.2f the least\n", (unsigned long long)c.mma,
               over(c.mma, least_mma(p, dtype)));
    for (int i = 0; i < s->launched && i < WEFT_EMU_LAUNCHES; i++) {
        const weft_emu_launch *l = &s->launch[i];
        char name[128];
        printf("  %s<<<(%u,%u,%u), %u, %llu>>>: %llu of %llu blocks ran, %.1f barriers a block, "
               "%llu bytes of copies in flight\n",
               kernel_name(l, name), l->grid[0], l->grid[1], l->grid[2],
               l->block[0] * l->block[1] * l->block[2], (unsigned long long)l->shared,
               (unsigned long long)l->ran, (unsigned long long)l->count.blocks,
               over(l->count.barriers, (double)l->count.blocks),
               (unsigned long long)l->async_flight);
    }
}

/* The counters live in the stream; results are not looked at, since not all blocks ran. */
static void profile_row(profile *p, check_set *set, const char *text, const weft_kernel *row) {
    weft_emu_stream *s = stream_of(p);
    check_result r;
    memset(&s->total, 0, sizeof s->total);
    s->launched = 0;
    s->profile = 1;
    s->sample = p->o->blocks;
    p->k->row = row;
    p->k->bad = false;
    check_exec(p->k, row, set, PROFILE_THREADS, false, &r);
    check_result_fini(&r);
    if (p->k->bad) {
        fprintf(stderr, "FAIL %s,row=%s %s\n", text, row->name, p->k->why);
        p->failed++;
        return; /* the stream may be another one */
    }
    check_set_cost(set, &p->bytes, &p->flops);
    if (p->o->json)
        json_row(p, text, row);
    else
        text_row(p, text, row, set->c.dtype);
    fflush(stdout);
    s->profile = 0;
    s->sample = 0;
    p->shown++;
}

static void profile_case(profile *p, const check_case *c, const char *only) {
    check_set set;
    buf text;
    buf_init(&text, 4096);
    check_case_print(&text, c);
    check_set_init(&set, c, 1);
    set.aligned = true;
    c->op->build(&set);
    for (int t = 0; registry_tables[t]; t++)
        for (const weft_kernel *r = registry_tables[t]; r->name; r++)
            if (r->op == c->op->op && strcmp(r->backend, "emu") == 0 &&
                (!only || strcmp(only, r->name) == 0) && (!r->ok || r->ok(&set.args)))
                profile_row(p, &set, text.data, r);
    check_set_fini(&set);
    buf_fini(&text);
}

static bool profile_one(profile *p, const char *one) {
    const char *colon = strchr(one, ':'), *row;
    for (int i = 0; colon && check_ops[i]; i++) {
        const char *name = weft_op_table[check_ops[i]->op].name;
        check_case c;
        if (strlen(name) == (size_t)(colon - one) &&
            memcmp(name, one, (size_t)(colon - one)) == 0 &&
            check_case_parse(check_ops[i], colon + 1, &c, &row)) {
            profile_case(p, &c, row);
            return true;
        }
    }
    return false;
}

static void profile_all(profile *p, const char *op_glob) {
    for (int i = 0; check_ops[i]; i++) {
        const char *const *text = check_ops[i]->bench;
        check_case c;
        if (!text || fnmatch(op_glob, weft_op_table[check_ops[i]->op].name, 0))
            continue;
        for (; *text; text++)
            if (check_case_parse(check_ops[i], *text, &c, NULL))
                profile_case(p, &c, NULL);
    }
}

int check_profile_run(check_state *k, const check_profile *o) {
    profile p = {.k = k, .o = o, .emu = k->backends};
    while (strcmp(p.emu->name, "emu") != 0) /* every build has it */
        p.emu++;
    if (o->one && !profile_one(&p, o->one)) {
        fprintf(stderr, "checkkernels: error: --case: '%s' is no case; see --list\n", o->one);
        return 2;
    }
    if (!o->one)
        profile_all(&p, o->op_glob);
    if (!p.shown && !p.failed)
        fprintf(stderr, "checkkernels: no row of backend emu does this\n");
    return p.failed || !p.shown ? 1 : 0;
}

/* ---- claims --------------------------------------------------------------------------------- */

static void print_claims(const char *file, const weft_claim *c) {
    for (; c && c->kernel; c++)
        printf("{\"file\":\"%s\",\"kernel\":\"%s\",\"threads\":%d,\"blocks\":%d,\"shared\":%llu,"
               "\"needs\":\"%s\"}\n",
               file, c->kernel, c->threads, c->blocks, (unsigned long long)c->shared, c->needs);
}

int check_print_claims(void) {
#define PRINT_(file) print_claims(#file, weft_emu_claims_##file);
    WEFT_CU_FILES(PRINT_)
    return 0;
}
