/* SPDX-License-Identifier: Apache-2.0
 * weft: a transformer runtime. This is its one public header; C11, C++ and any FFI may use it.
 *
 *     weft_engine *engine;
 *     weft_engine_options opt = {0};                       // zero means default, everywhere
 *     if (weft_engine_open("path/to/model", &opt, &engine) != WEFT_OK)
 *         return fprintf(stderr, "weft: error: %s\n", weft_error()), 1;
 *     weft_request req = {.prompt = "Once upon a time", .max_tokens = 64};
 *     weft_generate(engine, &req, on_token, NULL, NULL);
 *     weft_engine_close(engine);
 *
 * Conventions. Handles are opaque and closed by their _close, which accepts NULL. A function that
 * can fail returns a weft_status; outputs come last and are untouched on failure; weft_error() then
 * says why. Pointers in options and requests are borrowed for the call unless said otherwise.
 * Strings are UTF-8. There is no global state: engines are independent. One thread at a time may
 * use an engine and its sequences; different engines may run at once. A token's logits are the same
 * bits whatever the batch, the chunking, the number of threads and the number of ranks
 * (docs/NUMERICS.md). */
#ifndef WEFT_H
#define WEFT_H
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define WEFT_API __attribute__((visibility("default")))
#else
#define WEFT_API
#endif

/* ---- Errors and version ---- */

/* The calling thread's last error: "<file or key>: <what>; <hint>". "" if none; valid until the
 * next failure on this thread. */
WEFT_API const char *weft_error(void);
/* The process exit code that fits a status (0, 2 usage, 3 bad file, 4 memory, 5 I/O, ...). */
WEFT_API int weft_exit_code(weft_status s);
WEFT_API const char *weft_version(void); /* "0.1.0" */

/* ---- Tokenizer ---- */

typedef struct weft_tokenizer weft_tokenizer;

/* path: a model folder, tokenizer.json, tokenizer.model, NAME.tiktoken, or a folder with vocab.json
 * and merges.txt. Immutable once open: several threads may use one. */
WEFT_API weft_status weft_tokenizer_open(const char *path, weft_tokenizer **out);
WEFT_API void weft_tokenizer_close(weft_tokenizer *t);
WEFT_API int32_t weft_tokenizer_vocab(const weft_tokenizer *t); /* highest id + 1 */
/* Ids of text[0..n); special adds BOS and EOS as the model's files say. *ids is malloc'ed: the
 * caller frees it with weft_free. Text that is not UTF-8 is WEFT_BAD_FILE. */
WEFT_API weft_status weft_tokenize(const weft_tokenizer *t, const char *text, size_t n,
                                   bool special, int32_t **ids, size_t *n_ids);
/* Text of ids[0..n), NUL-terminated, malloc'ed: weft_free. An id outside the vocabulary is an
 * error. */
WEFT_API weft_status weft_detokenize(const weft_tokenizer *t, const int32_t *ids, size_t n,
                                     bool skip_special, char **text, size_t *n_text);
WEFT_API void weft_free(void *p);

/* ---- Engine ---- */

typedef struct weft_engine weft_engine;

typedef struct {
    const char *device; /* "auto", "ref", "cpu"; NULL is auto */
    const char *dtype; /* "auto" (as stored), "fp32", "fp16", "bf16": weights are converted at open;
                          "int8": auto, and the layers' matrices become int8, a scale a row */
    int threads;       /* of the CPU backends in all; 0: every core this process may use */
    int tp;            /* tensor-parallel ranks; 0: 1 */
    int pp;            /* pipeline stages; 0: 1 */
    int dp; /* replicas of the whole; 0: 1, which is all that weft_engine_open takes: a program
               opens as many engines as it likes */
    int micro_batch;  /* most tokens that pass from stage to stage at once; 0: 64 */
    const char *comm; /* "local": ranks are threads here; "tcp", "mpi": this process is one of those
                         that torchrun, srun or mpirun started; NULL or "auto": whichever it is */
    double timeout;   /* seconds a rank may be late, beyond what is expected; 0: 10 */
    int ctx_size;     /* longest sequence in tokens; 0: the model's, but at most 4096 */
    int ubatch_size;  /* most tokens a step computes (the prefill chunk); 0: 512 */
    int max_seqs;     /* most sequences open at once; 0: 1 */
    int64_t kv_tokens;     /* KV pool in tokens, all sequences; 0: max_seqs * ctx_size */
    const char *cpu_level; /* "auto", "portable", "avx2", "avx512", "avx512bf16" */
    bool mlock;            /* keep the weights in RAM */
    bool no_mmap;          /* read the weights instead of mapping the files */
    bool score;            /* weft_score will be used: room for logits of every position */
    bool prefix_cache;     /* sequences that begin with the same tokens share K and V of them, also
                              those of sequences already closed; no bit differs */
} weft_engine_options;

/* Opens a model folder in Hugging Face's layout. path is borrowed for the call. All memory the
 * engine will ever use is taken here; a later step allocates nothing. */
WEFT_API weft_status weft_engine_open(const char *path, const weft_engine_options *opt,
                                      weft_engine **out);
WEFT_API void weft_engine_close(weft_engine *e);

typedef struct {
    const char *family, *device, *dtype; /* live as long as the engine */
    int32_t vocab, n_layers, d_model, n_heads, n_kv_heads, head_dim;
    int32_t ctx_size, max_ctx, ubatch_size, max_seqs, threads, tp, pp;
    int32_t bos_id, eos_id[8], n_eos; /* -1: none */
    int64_t parameters;
    int64_t weight_bytes, kv_bytes, act_bytes; /* over all ranks, as planned and as allocated */
    int64_t weight_bytes_token; /* read for one token: weights without the embedding's other rows */
    int64_t weights_token;      /* how many numbers those are */
    const char *weights;        /* type of the layers' matrices: dtype, or "int8" */
    bool int8_activations;      /* matmuls over them take int8 activations */
} weft_engine_info;
WEFT_API void weft_engine_describe(const weft_engine *e, weft_engine_info *out);
/* The model's tokenizer, owned by the engine; NULL if its folder has none. */
WEFT_API const weft_tokenizer *weft_engine_tokenizer(const weft_engine *e);

/* ---- Sampling ---- */

/* Neutral is what zero-initialised memory means where a comment says so; otherwise start from
 * weft_sampling_default, which fills in the model's generation_config.json. */
typedef struct {
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1 or 0: off */
    float min_p;              /* 0: off */
    float typical_p;          /* 1 or 0: off */
    float repetition_penalty; /* 1 or 0: off */
    float frequency_penalty;  /* 0: off */
    float presence_penalty;   /* 0: off */
    int32_t no_repeat_ngram;  /* 0: off */
    uint64_t seed;            /* the random numbers are a function of (seed, stream, position) */
    uint64_t stream;          /* tells sequences of one seed apart */
    const int32_t *bias_id;   /* logit bias: n_bias pairs, at most WEFT_MAX_BIAS; copied */
    const float *bias;
    int32_t n_bias;
    int32_t logprobs;               /* alternatives reported per token, at most 20 */
    float top_n_sigma;              /* 0: off */
    float dynatemp_range;           /* temperature +- this, by the entropy; 0: off */
    float dynatemp_exponent;        /* 0: 1 */
    float xtc_probability;          /* 0: off */
    float xtc_threshold;            /* 0: 0.1; above 0.5: off */
    float dry_multiplier;           /* 0: off */
    float dry_base;                 /* 0: 1.75 */
    int32_t dry_allowed_length;     /* 0: 2 */
    int32_t dry_last_n;             /* tokens it looks back; 0 or -1: all */
    const char *const *dry_breaker; /* texts that end a repetition, at most WEFT_MAX_BREAKERS of 1
                                       to 40 bytes; NULL: newline, ":", "\"", "*" */
    int32_t n_dry_breaker;
    int32_t mirostat;   /* 1 or 2: version, in place of every stage that cuts; 0: off */
    float mirostat_tau; /* target surprise in bits; 0: 5 */
    float mirostat_eta; /* learning rate; 0: 0.1 */
    int32_t min_tokens; /* no end-of-sequence token and none of stop_id before so many; 0: off */
    const int32_t *stop_id; /* at most WEFT_MAX_HELD; copied. weft_generate fills in its own */
    int32_t n_stop_id;
    const char *samplers; /* the stages and their order, "top_k;temperature"; a stage not named is
                             off (docs/SAMPLING.md). NULL: the default order */
} weft_sampling;
enum { WEFT_MAX_BIAS = 1024, WEFT_MAX_BREAKERS = 64, WEFT_MAX_HELD = 64 };

WEFT_API weft_sampling weft_sampling_greedy(void);
/* What the model's authors recommend: its generation_config.json over temperature 1. */
WEFT_API weft_sampling weft_sampling_default(const weft_engine *e);

/* ---- Sequences: one timeline of tokens each; any number may share a step ---- */

typedef struct weft_seq weft_seq;

/* WEFT_AGAIN if max_seqs are open. The engine keeps a copy of `sampling` (NULL: greedy). */
WEFT_API weft_status weft_seq_open(weft_engine *e, const weft_sampling *sampling, weft_seq **out);
WEFT_API void weft_seq_close(weft_seq *s);
/* Other parameters from the next token on, as if the sequence had been opened with them. */
WEFT_API weft_status weft_seq_sampling(weft_seq *s, const weft_sampling *sampling);
/* Queues prompt tokens. WEFT_USAGE past the context or for an id outside the vocabulary. */
WEFT_API weft_status weft_seq_append(weft_seq *s, const int32_t *ids, size_t n);
/* Tokens so far (prompt, then sampled); borrowed until the next call on this sequence. */
WEFT_API const int32_t *weft_seq_tokens(const weft_seq *s, size_t *n);
/* Forgets every token from n on; KV of the rest is kept. */
WEFT_API weft_status weft_seq_truncate(weft_seq *s, size_t n);

typedef struct {
    int32_t id; /* the token sampled, -1 if this sequence still has prompt left or took no part */
    float logprob; /* of id, under the raw logits */
    int32_t n_top;
    int32_t top_id[20];
    float top_logprob[20];
} weft_sampled;

/* One step over seqs[0..n): up to ubatch_size pending tokens, taken in the order given, mixed in
 * one pass. A sequence whose tokens are all computed samples one, which becomes its next pending
 * token. out[i] belongs to seqs[i]. WEFT_AGAIN if the KV pool has no room: nothing was changed. */
WEFT_API weft_status weft_engine_step(weft_engine *e, weft_seq *const *seqs, int n,
                                      weft_sampled *out);
/* The raw logits [vocab] the sequence's last token was sampled from, copied to `logits`. */
WEFT_API weft_status weft_seq_logits(const weft_seq *s, float *logits);

/* ---- Whole jobs ---- */

typedef struct {
    const char *prompt; /* text, or NULL */
    const int32_t *ids; /* or token ids; both NULL: start at BOS */
    size_t n_ids;
    bool no_bos;            /* do not add what the tokenizer adds */
    int32_t max_tokens;     /* 0: until a stop or the context is full */
    bool ignore_eos;        /* end-of-sequence tokens do not stop */
    const int32_t *stop_id; /* further stop tokens */
    int32_t n_stop_id;
    const char *const *stop; /* stop strings; the text ends before the first */
    int32_t n_stop;
    const char *const *stop_regex; /* Perl-compatible expressions (PCRE2), at most 16; the text ends
                                      before the first match of at most 512 characters */
    int32_t n_stop_regex;
    weft_seq *seq; /* goes on after this sequence's tokens, which stay when the job is done; then
                      prompt and ids are NULL. NULL: a sequence of its own */
    const weft_sampling *sampling; /* NULL: weft_sampling_default */
    const volatile int *cancel;    /* non-zero stops before the next token; may be NULL */
} weft_request;

typedef struct {
    int32_t id;
    float logprob;
    const char *text; /* what became certain with this token: whole characters, may be empty */
    size_t n_text;
    int32_t n_top;
    const int32_t *top_id;
    const float *top_logprob;
} weft_token;

/* Called for each token in order, and once with id -1 for text held back till the end (if any).
 * Return false to stop. */
typedef bool weft_token_fn(void *user, const weft_token *token);

typedef enum {
    WEFT_FINISH_LENGTH, /* max_tokens or the context */
    WEFT_FINISH_EOS,    /* end-of-sequence or stop token (the token itself is not reported) */
    WEFT_FINISH_STOP,   /* stop string or expression */
    WEFT_FINISH_CANCELLED
} weft_finish;

typedef struct {
    weft_finish finish;
    int32_t n_prompt, n_generated;
    double prompt_seconds, generate_seconds;
} weft_result;

WEFT_API weft_status weft_generate(weft_engine *e, const weft_request *req, weft_token_fn *fn,
                                   void *user, weft_result *out);

/* logprob[t] of ids[t] given ids[0..t) for t >= 1 (logprob[0] is 0); logits, if not NULL, is
 * [n, vocab] fp32. Needs options.score. */
WEFT_API weft_status weft_score(weft_engine *e, const int32_t *ids, size_t n, float *logprob,
                                float *logits);

#ifdef __cplusplus
}
#endif
#endif
