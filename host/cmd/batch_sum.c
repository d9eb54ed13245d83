/* SPDX-License-Identifier: Apache-2.0
 * The summary of `weft batch`. */
#include "host/cmd/batch_sum.h"
#include "host/base/mem.h"
#include "host/cmd/cmd.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void batch_sum_add(batch_sum *s, const batch_result *r) {
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->first = mem_grow(s->first, sizeof *s->first * (size_t)s->cap);
        s->latency = mem_grow(s->latency, sizeof *s->latency * (size_t)s->cap);
    }
    s->first[s->n] = (float)r->result.prompt_seconds;
    s->latency[s->n++] = (float)r->seconds;
    s->prompt += r->result.n_prompt;
    s->generated += r->result.n_generated;
    s->cached += r->cached;
}

void batch_sum_fini(batch_sum *s) {
    mem_free(s->first);
    mem_free(s->latency);
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The nearest-rank percentile of sorted values, in milliseconds. */
static double percentile(const float *v, int64_t n, double p) {
    int64_t rank = (int64_t)ceil(p / 100 * (double)n);
    return n > 0 ? 1e3 * (double)v[rank > 0 ? rank - 1 : 0] : 0;
}

static double rate(double n, double seconds) {
    return seconds > 0 ? n / seconds : 0;
}

static void sort(batch_sum *s) {
    if (s->n == 0)
        return;
    qsort(s->first, (size_t)s->n, sizeof *s->first, ascending);
    qsort(s->latency, (size_t)s->n, sizeof *s->latency, ascending);
}

static void add_percentiles(buf *b, const char *key, const float *v, int64_t n) {
    buf_printf(b, ",\"%s\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}", key,
               percentile(v, n, 50), percentile(v, n, 90), percentile(v, n, 99),
               percentile(v, n, 100));
}

static void add_replicas(buf *b, const batch_sum *s) {
    for (int i = 0; i < s->replicas; i++)
        buf_printf(b, "%s%" PRId64, i ? "," : ",\"lines_by_replica\":[", s->by[i]);
    buf_puts(b, s->replicas > 0 ? "]" : "");
}

static void add_scheduler(buf *b, const batch_sum *s) {
    const batch_stats *t = &s->stats;
    buf_printf(b,
               ",\"scheduler\":{\"steps\":%" PRId64 ",\"sequences_per_step\":%.3f,"
               "\"tokens_per_step\":%.3f,\"preempted\":%" PRId64
               ",\"engine_ms\":%.3f,\"plan_ms\":%.3f,\"text_ms\":%.3f,\"io_ms\":%.3f,"
               "\"overhead\":%.6f}",
               t->steps, rate((double)t->parts, (double)t->steps),
               rate((double)t->computed, (double)t->steps), t->preempted, t->engine_seconds * 1e3,
               t->plan_seconds * 1e3, t->text_seconds * 1e3, s->io_seconds * 1e3,
               rate(t->plan_seconds, t->engine_seconds));
}

weft_status batch_sum_json(batch_sum *s) {
    buf b;
    buf_init(&b, 1 << 16);
    sort(s);
    buf_printf(&b,
               "{\"lines\":%" PRId64 ",\"failed\":%" PRId64 ",\"skipped\":%" PRId64
               ",\"seed\":%" PRIu64 ",\"seconds\":%.6f",
               s->written, s->failed, s->skipped, s->seed, s->seconds);
    buf_printf(&b,
               ",\"prompt_tokens\":%" PRId64 ",\"cached_tokens\":%" PRId64
               ",\"completion_tokens\":%" PRId64 ",\"tokens_per_second\":%.3f"
               ",\"total_tokens_per_second\":%.3f",
               s->prompt, s->cached, s->generated, rate((double)s->generated, s->seconds),
               rate((double)(s->prompt + s->generated), s->seconds));
    add_replicas(&b, s);
    add_percentiles(&b, "first_token_ms", s->first, s->n);
    add_percentiles(&b, "latency_ms", s->latency, s->n);
    add_scheduler(&b, s);
    buf_puts(&b, "}\n");
    weft_status st = cmd_flush(&b);
    buf_fini(&b);
    return st;
}

void batch_sum_print(batch_sum *s) {
    const batch_stats *t = &s->stats;
    sort(s);
    fprintf(stderr, "lines     %8" PRId64 " in %.1f s", s->written, s->seconds);
    if (s->skipped > 0)
        fprintf(stderr, ", %" PRId64 " were there already", s->skipped);
    fprintf(stderr, "\nprompts   %8" PRId64 " tokens, %" PRId64 " from the prefix cache\n",
            s->prompt, s->cached);
    fprintf(stderr, "generated %8" PRId64 " tokens %9.1f tok/s\n", s->generated,
            rate((double)s->generated, s->seconds));
    fprintf(stderr, "first token %.0f ms (median), %.0f ms (99 %%); whole line %.0f, %.0f ms\n",
            percentile(s->first, s->n, 50), percentile(s->first, s->n, 99),
            percentile(s->latency, s->n, 50), percentile(s->latency, s->n, 99));
    fprintf(stderr,
            "steps     %8" PRId64 " of %.1f sequences, %.1f tokens; %" PRId64
            " preempted; scheduler %.2f %% of a step\n",
            t->steps, rate((double)t->parts, (double)t->steps),
            rate((double)t->computed, (double)t->steps), t->preempted,
            100 * rate(t->plan_seconds, t->engine_seconds));
}
