/* SPDX-License-Identifier: Apache-2.0
 * `weft data --train-tokenizer`: a tokenizer from text. */
#include "host/base/clock.h"
#include "host/cmd/data.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

static void show_reading(void *ctx, int64_t done, int64_t total) {
    data_state *s = ctx;
    if (!s->bar.unit)
        progress_start(&s->bar, "reading", "KiB", total >> 10);
    progress_add(&s->bar, (done >> 10) - s->bar.done);
}

static void show_learning(void *ctx, int64_t done, int64_t total) {
    data_state *s = ctx;
    if (!s->bar.unit)
        progress_start(&s->bar, "learning", "tokens", total);
    progress_add(&s->bar, done - s->bar.done);
}

static void end_bar(data_state *s) {
    progress_end(&s->bar);
    s->bar.unit = NULL;
}

static weft_status read_words(data_state *s, bpe_words *w) {
    for (int i = 0; i < s->n; i++) {
        weft_status st = bpe_words_read(w, s->path[i], show_reading, s);
        end_bar(s);
        if (st != WEFT_OK)
            return st;
    }
    if (bpe_words_count(w) == 0)
        return weft_fail(WEFT_BAD_FILE, "%s: no text to learn from", s->path[0]);
    return WEFT_OK;
}

static weft_status report(const data_state *s, const bpe_words *w, const bpe_model *m) {
    const data_args *a = s->args;
    buf b;
    buf_init(&b, SIZE_MAX);
    if (a->json) {
        buf_puts(&b, "{\"folder\": ");
        buf_json_line(&b, a->output, strlen(a->output));
        buf_printf(&b,
                   ", \"vocab_size\": %d, \"merges\": %d, \"words\": %" PRId64 ", \"seconds\": ",
                   bpe_model_vocab(m), bpe_model_merges(m), bpe_words_count(w));
        buf_json_double(&b, s->seconds);
        buf_puts(&b, "}\n");
    } else {
        buf_printf(&b, "%s: %d tokens, %d merges from %" PRId64 " different words; %.1f s\n",
                   a->output, bpe_model_vocab(m), bpe_model_merges(m), bpe_words_count(w),
                   s->seconds);
    }
    weft_status st = cmd_flush(&b);
    buf_fini(&b);
    if (bpe_model_vocab(m) < a->vocab)
        cmd_warn("the text gives no more than %d tokens of the %" PRId64 " asked for",
                 bpe_model_vocab(m), a->vocab);
    return st;
}

static weft_status learn(data_state *s, bpe_words *w, bpe_model **out) {
    static const char *const end_of_text[] = {"<|endoftext|>"};
    const data_args *a = s->args;
    bpe_options o = {.vocab = (int)a->vocab,
                     .special = a->special.n ? a->special.item : end_of_text,
                     .n_special = a->special.n ? a->special.n : 1,
                     .min_frequency = a->min_frequency,
                     .add_bos = a->add_bos,
                     .progress = show_learning,
                     .ctx = s};
    weft_status st = bpe_train(w, &o, out);
    end_bar(s);
    return st;
}

static weft_status make(data_state *s, bpe_words *w) {
    const char *dir = s->args->output;
    bpe_model *m = NULL;
    WEFT_TRY(read_words(s, w));
    WEFT_TRY(learn(s, w, &m));
    weft_status st = WEFT_OK;
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        st = weft_fail(WEFT_IO, "%s: cannot create the folder: %m", dir);
    if (st == WEFT_OK)
        st = bpe_model_write(m, dir);
    s->seconds = clock_seconds() - s->seconds;
    if (st == WEFT_OK)
        st = report(s, w, m);
    bpe_model_close(m);
    return st;
}

static weft_status check(const data_args *a) {
    if (a->tokenizer || a->weights || a->val > 0 || a->sft || a->append_eos)
        return weft_fail(WEFT_USAGE, "--train-tokenizer: not with --tokenizer, --weights, --val, "
                                     "--sft or --append-eos");
    return WEFT_OK;
}

weft_status data_train_tokenizer(data_state *s) {
    bpe_words *w;
    WEFT_TRY(check(s->args));
    s->seconds = clock_seconds();
    WEFT_TRY(bpe_words_open(strcmp(s->args->split, "gpt2") == 0 ? BPE_SPLIT_GPT2 : BPE_SPLIT_LLAMA3,
                            &w));
    weft_status st = make(s, w);
    bpe_words_close(w);
    return st;
}
