/* SPDX-License-Identifier: Apache-2.0
 * Commands as a table: one row drives dispatch, `weft help`, the man page and shell completion. A
 * command's file ends with its row, `const cmd_row cmd_NAME`; commands.c lists the rows. Only files
 * of this folder print. */
#pragma once
#include "host/base/args.h"
#include "host/base/buf.h"
#include "host/base/err.h"
#include "weft.h"
#include <signal.h>
#include <stddef.h>

typedef struct {
    const char *name;    /* "run" */
    const char *usage;   /* behind the name: "MODEL [-p TEXT | -f FILE | --ids LIST] [options]" */
    const char *summary; /* one line, lower case, no full stop: "generate text" */
    const char *notes;   /* paragraphs and examples under the options; NULL: none */
    const arg_spec *specs;
    int nspec;
    int (*run)(int argc, char **argv); /* arguments behind the name; returns the exit code */
} cmd_row;

#define CMD_COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

extern const cmd_row *const cmd_rows[]; /* in the order of `weft help`, ended by NULL */
const cmd_row *cmd_find(const char *name);

extern const cmd_row cmd_run, cmd_batch, cmd_chat, cmd_score, cmd_train, cmd_merge, cmd_data,
    cmd_eval, cmd_report, cmd_quantize, cmd_tokenize, cmd_inspect, cmd_plan, cmd_bench, cmd_sample,
    cmd_template, cmd_doctor, cmd_completion, cmd_help;

int help_print(const char *command);        /* `weft help COMMAND`; NULL: the overview */
weft_status help_unknown(const char *word); /* WEFT_USAGE, naming the nearest command */

/* ---- How a command ends and prints ---- */

/* Prints "weft: error: <this thread's message>" on stderr and returns the status's exit code;
 * WEFT_OK prints nothing and gives 0. A command ends with `return cmd_fail(work(...))`. */
int cmd_fail(weft_status s);
/* Where this process is one of several that make up a job, rank 0 alone prints: the others keep
 * only stderr for a failure that rank 0 does not know of. */
void cmd_quiet_rank(void);
/* This process has become the one that prints. */
void cmd_speak(void);
/* "weft: warning: ..." on stderr. */
void cmd_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* To stdout at once; WEFT_IO ("stdout: ...") if nobody reads it or the disk is full. */
weft_status cmd_write(const void *p, size_t n);
weft_status cmd_flush(
    buf *b);         /* cmd_write of what is in b, which is cleared; a failed buf is NO_MEMORY */
int cmd_width(void); /* columns of the terminal, 80 if stdout is none, 40..120 */
bool cmd_stderr_is_terminal(void);

/* "1.23 GiB": what a person reads. Returns out. */
enum { CMD_SIZE_TEXT = 24 };
char *cmd_size(char out[CMD_SIZE_TEXT], double bytes);

/* args_parse of a command with exactly one positional, MODEL (or -m MODEL where the table has
 * it). */
weft_status cmd_parse_model(const cmd_row *row, int argc, char **argv, void *into,
                            const char **model);

/* ---- What run, score, plan and bench share ---- */

typedef struct {
    const char *model, *device, *dtype, *cpu_level, *comm;
    int64_t threads, tp, pp, dp, ctx, ubatch, micro;
    double timeout;
    bool mlock, no_mmap;
} cmd_engine_args;

/* Rows for a command's table; `type` is its struct and `at` its cmd_engine_args member. */
#define CMD_ENGINE_SPECS(type, at) \
    {"model", \
     "m", \
     NULL, \
     ARG_STRING, \
     "MODEL", \
     0, \
     0, \
     NULL, \
     "the model folder, as the first argument", \
     offsetof(type, at.model)}, \
        {"device", \
         "", \
         NULL, \
         ARG_CHOICE, \
         "auto|cpu|cuda|ref|emu", \
         0, \
         0, \
         "auto", \
         "where to compute; ref is the slow reference", \
         offsetof(type, at.device)}, \
        {"dtype", \
         "", \
         NULL, \
         ARG_CHOICE, \
         "auto|fp32|bf16|fp16|int8", \
         0, \
         0, \
         "auto", \
         "type of weights and cache; auto: as stored; int8: matrices alone", \
         offsetof(type, at.dtype)}, \
        {"threads", \
         "t", \
         NULL, \
         ARG_INT, \
         "N", \
         0, \
         1024, \
         "0", \
         "CPU threads; 0: every core", \
         offsetof(type, at.threads)}, \
        {"tp", \
         "", \
         "tensor-parallel-size", \
         ARG_INT, \
         "N", \
         1, \
         64, \
         "1", \
         "tensor-parallel ranks", \
         offsetof(type, at.tp)}, \
        {"pp", \
         "", \
         "pipeline-parallel-size", \
         ARG_INT, \
         "N", \
         1, \
         64, \
         "1", \
         "pipeline stages: each computes some of the layers", \
         offsetof(type, at.pp)}, \
        {"dp", \
         "", \
         "data-parallel-size", \
         ARG_INT, \
         "N", \
         1, \
         64, \
         "1", \
         "replicas of tp x pp ranks each, between which sequences are dealt out", \
         offsetof(type, at.dp)}, \
        {"pp-tokens", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         0, \
         1 << 20, \
         "0", \
         "most tokens that pass from stage to stage at once; 0: 64", \
         offsetof(type, at.micro)}, \
        {"comm", \
         "", \
         NULL, \
         ARG_CHOICE, \
         "auto|local|tcp|mpi|nccl", \
         0, \
         0, \
         "auto", \
         "how ranks talk: threads of one process, or processes; auto: as they were started", \
         offsetof(type, at.comm)}, \
        {"timeout", \
         "", \
         NULL, \
         ARG_FLOAT, \
         "SECONDS", \
         0, \
         86400, \
         "0", \
         "how late a rank may be, beyond what is expected; 0: 10", \
         offsetof(type, at.timeout)}, \
        {"ctx-size", \
         "c", \
         "max-model-len", \
         ARG_INT, \
         "N", \
         0, \
         1 << 24, \
         "0", \
         "longest sequence in tokens; 0: the model's, at most 4096", \
         offsetof(type, at.ctx)}, \
        {"ubatch-size", \
         "ub", \
         NULL, \
         ARG_INT, \
         "N", \
         0, \
         1 << 20, \
         "0", \
         "most tokens computed in one step (the prefill chunk); 0: 512", \
         offsetof(type, at.ubatch)}, \
        {"cpu-level", \
         "", \
         NULL, \
         ARG_CHOICE, \
         "auto|portable|avx2|avx512|avx512bf16", \
         0, \
         0, \
         "auto", \
         "instructions the CPU kernels may use", \
         offsetof(type, at.cpu_level)}, \
        {"mlock", \
         "", \
         NULL, \
         ARG_FLAG, \
         NULL, \
         0, \
         0, \
         NULL, \
         "keep the weights in RAM", \
         offsetof(type, at.mlock)}, \
    { \
        "no-mmap", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, \
            "read the weights instead of mapping the files", offsetof(type, at.no_mmap) \
    }

/* weft_engine_open, with a warning on stderr about tensors that nothing used. */
weft_status cmd_open(const char *model, const weft_engine_options *opt, weft_engine **out);
/* The same for every replica: engine_open_replicas. */
weft_status cmd_open_replicas(const char *model, const weft_engine_options *opt, weft_engine **out);
weft_engine_options cmd_engine_options(const cmd_engine_args *a);

typedef struct {
    const char *text, *file, *ids;
    bool no_bos;
} cmd_prompt_args;

#define CMD_PROMPT_SPECS(type, at) \
    {"prompt", \
     "p", \
     NULL, \
     ARG_STRING, \
     "TEXT", \
     0, \
     0, \
     NULL, \
     "the prompt; - reads standard input", \
     offsetof(type, at.text)}, \
        {"file", \
         "f", \
         NULL, \
         ARG_STRING, \
         "FILE", \
         0, \
         0, \
         NULL, \
         "read the prompt from a file or -", \
         offsetof(type, at.file)}, \
        {"ids", \
         "", \
         NULL, \
         ARG_STRING, \
         "LIST", \
         0, \
         0, \
         NULL, \
         "the prompt as token ids: 1,2,3", \
         offsetof(type, at.ids)}, \
    { \
        "no-bos", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "add no BOS (or EOS) to the text", \
            offsetof(type, at.no_bos) \
    }

/* WEFT_USAGE if more than one of -p, -f, --ids was given. */
weft_status cmd_prompt_check(const cmd_prompt_args *p);
/* The prompt's token ids from whichever of -p, -f, --ids was given (mem_alloc'ed; n is 0 if none
 * was). Text needs the engine's tokenizer. */
weft_status cmd_prompt_ids(const cmd_prompt_args *p, const weft_engine *e, int32_t **ids,
                           size_t *n);

/* ---- What run and chat share: how tokens are chosen and where the text ends ---- */

typedef struct {
    int64_t predict, top_k, no_repeat_ngram, seed;
    double temp, top_p, min_p, typical, repeat, frequency, presence; /* NAN: the model's */
    double top_n_sigma, dynatemp_range, dynatemp_exponent, xtc_probability, xtc_threshold;
    double dry_multiplier, dry_base, mirostat_lr, mirostat_ent;
    int64_t dry_allowed_length, dry_last_n, mirostat, min_tokens;
    const char *samplers;
    arg_list stop, stop_regex, stop_id, bias, dry_breaker;
    bool ignore_eos;
} cmd_sampling_args;

/* Rows as above. A new row here is an option of run and chat, and a parameter of chat's /set. */
/* clang-format off */
#define CMD_SAMPLING_SPECS(type, at) \
    {"n-predict", "n", "max-tokens", ARG_INT, "N", -1, 1 << 24, "-1", \
     "most tokens to generate; -1: until a stop or the context is full", \
     offsetof(type, at.predict)}, \
    {"temp", "", "temperature", ARG_FLOAT, "X", 0, 100, NULL, \
     "temperature; 0: greedy (default: the model's, else 1)", offsetof(type, at.temp)}, \
    {"top-k", "", NULL, ARG_INT, "N", 0, INT32_MAX, NULL, \
     "sample from the N likeliest tokens; 0: off (default: the model's, else off)", \
     offsetof(type, at.top_k)}, \
    {"top-p", "", NULL, ARG_FLOAT, "X", 0, 1, NULL, \
     "sample from the likeliest tokens that make up X; 1: off (default: the model's, else off)", \
     offsetof(type, at.top_p)}, \
    {"min-p", "", NULL, ARG_FLOAT, "X", 0, 1, NULL, \
     "drop tokens less likely than X times the likeliest; 0: off", offsetof(type, at.min_p)}, \
    {"typical", "", "typical-p", ARG_FLOAT, "X", 0, 1, NULL, \
     "locally typical sampling with mass X; 1: off", offsetof(type, at.typical)}, \
    {"repeat-penalty", "", "repetition-penalty", ARG_FLOAT, "X", 0.01, 100, NULL, \
     "divide logits of tokens already seen, prompt included; 1: off", offsetof(type, at.repeat)}, \
    {"frequency-penalty", "", NULL, ARG_FLOAT, "X", -100, 100, NULL, \
     "subtract X per time a token was generated; 0: off", offsetof(type, at.frequency)}, \
    {"presence-penalty", "", NULL, ARG_FLOAT, "X", -100, 100, NULL, \
     "subtract X once from tokens that were generated; 0: off", offsetof(type, at.presence)}, \
    {"no-repeat-ngram", "", "no-repeat-ngram-size", ARG_INT, "N", 0, 1024, NULL, \
     "never repeat N tokens in a row; 0: off", offsetof(type, at.no_repeat_ngram)}, \
    {"dry-multiplier", "", NULL, ARG_FLOAT, "X", 0, 100, "0", \
     "DRY: penalty of a token that would continue a repetition; 0: off", \
     offsetof(type, at.dry_multiplier)}, \
    {"dry-base", "", NULL, ARG_FLOAT, "X", 1, 100, "1.75", \
     "DRY: the penalty grows by this with each token repeated", offsetof(type, at.dry_base)}, \
    {"dry-allowed-length", "", NULL, ARG_INT, "N", 1, 1 << 20, "2", \
     "DRY: repetitions of fewer tokens are free", offsetof(type, at.dry_allowed_length)}, \
    {"dry-penalty-last-n", "", NULL, ARG_INT, "N", -1, 1 << 24, "-1", \
     "DRY: how many tokens it looks back; -1: all, 0: off", offsetof(type, at.dry_last_n)}, \
    {"dry-sequence-breaker", "", NULL, ARG_LIST, "TEXT", 0, 0, NULL, \
     "DRY: no repetition goes past TEXT; in place of newline, colon, quote, star; \"none\"", \
     offsetof(type, at.dry_breaker)}, \
    {"top-n-sigma", "", NULL, ARG_FLOAT, "X", -1, 100, NULL, \
     "keep logits within X standard deviations of the largest; 0 or less: off", \
     offsetof(type, at.top_n_sigma)}, \
    {"dynatemp-range", "", NULL, ARG_FLOAT, "X", 0, 100, "0", \
     "temperature within X of --temp, by the entropy; 0: off", \
     offsetof(type, at.dynatemp_range)}, \
    {"dynatemp-exp", "", NULL, ARG_FLOAT, "X", 0, 100, "1", \
     "exponent of the share of the entropy", offsetof(type, at.dynatemp_exponent)}, \
    {"xtc-probability", "", NULL, ARG_FLOAT, "X", 0, 1, "0", \
     "how often to exclude the top choices; 0: off", offsetof(type, at.xtc_probability)}, \
    {"xtc-threshold", "", NULL, ARG_FLOAT, "X", 0, 1, "0.1", \
     "of tokens this likely only the least likely stays; above 0.5: off", \
     offsetof(type, at.xtc_threshold)}, \
    {"mirostat", "", NULL, ARG_INT, "N", 0, 2, "0", \
     "mirostat 1 or 2 in place of every sampler that cuts; 0: off", \
     offsetof(type, at.mirostat)}, \
    {"mirostat-ent", "", NULL, ARG_FLOAT, "X", 0, 100, "5", \
     "mirostat: target entropy tau, in bits", offsetof(type, at.mirostat_ent)}, \
    {"mirostat-lr", "", NULL, ARG_FLOAT, "X", 0, 100, "0.1", \
     "mirostat: learning rate eta", offsetof(type, at.mirostat_lr)}, \
    {"samplers", "", NULL, ARG_STRING, "LIST", 0, 0, NULL, \
     "the samplers and their order, as \"top_k;temperature\"; what is not named is off", \
     offsetof(type, at.samplers)}, \
    {"min-tokens", "", NULL, ARG_INT, "N", 0, 1 << 24, "0", \
     "no end and no stop before N tokens", offsetof(type, at.min_tokens)}, \
    {"logit-bias", "", NULL, ARG_LIST, "ID+X|ID-X|ID=X", 0, 0, NULL, \
     "add X to a token's logit; ID=-inf bans it; repeat for more", offsetof(type, at.bias)}, \
    {"seed", "s", NULL, ARG_INT, "N", -1, 9007199254740992.0, "-1", \
     "random seed; the same seed gives the same text; -1: a new one each time", \
     offsetof(type, at.seed)}, \
    {"stop", "", NULL, ARG_LIST, "TEXT", 0, 0, NULL, \
     "end before this text; repeat for more (at most 64)", offsetof(type, at.stop)}, \
    {"stop-regex", "", NULL, ARG_LIST, "RE", 0, 0, NULL, \
     "end before a match of this regular expression; repeat for more (at most 16)", \
     offsetof(type, at.stop_regex)}, \
    {"stop-id", "", NULL, ARG_LIST, "ID", 0, 0, NULL, "end at this token; repeat for more", \
     offsetof(type, at.stop_id)}, \
    {"ignore-eos", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "go on after the end-of-sequence token", \
     offsetof(type, at.ignore_eos)}
/* clang-format on */

void cmd_sampling_preset(cmd_sampling_args *a); /* before parsing: what was not given */
weft_status cmd_sampling_check(const cmd_sampling_args *a);
void cmd_sampling_args_free(cmd_sampling_args *a);

/* Arguments as the library takes them. */
typedef struct {
    weft_sampling sampling;        /* the model's recommendation, and what was given over it */
    const cmd_sampling_args *args; /* borrowed */
    int32_t *stop_id, *bias_id;
    float *bias;
} cmd_sampling;

/* The order of the chain, for a command's notes. */
#define CMD_SAMPLING_NOTES \
    "Samplers run in this order: logit bias and --min-tokens; then penalties (repetition, " \
    "frequency, presence, n-grams), dry, top_n_sigma, temperature, top_k, top_p, min_p, typ_p, " \
    "xtc, or what --samplers says; then one draw. With --mirostat, top_n_sigma, top_k, top_p, " \
    "min_p, typ_p and xtc are off."

weft_status cmd_sampling_open(cmd_sampling *c, const cmd_sampling_args *a, const weft_engine *e);
/* Fills in sampling, limits and stops; the request borrows them. */
void cmd_sampling_request(const cmd_sampling *c, weft_request *req);
void cmd_sampling_close(cmd_sampling *c);

/* ---- What run and chat share: the template ---- */

typedef struct {
    const char *system, *chat_template;
} cmd_chat_args;

#define CMD_CHAT_SPECS(type, at) \
    {"system", \
     "", \
     NULL, \
     ARG_STRING, \
     "TEXT", \
     0, \
     0, \
     NULL, \
     "the system message of a conversation", \
     offsetof(type, at.system)}, \
    { \
        "chat-template", "", NULL, ARG_STRING, "FILE|NAME", 0, 0, NULL, \
            "a template in place of the model's: a file, one of the model's, or a built-in one", \
            offsetof(type, at.chat_template) \
    }

/* ---- What score and quantize share ---- */

/* Log-probabilities of ids[0..n) in windows of the context that advance by `stride`; logits only
 * where one window holds all. */
weft_status score_windows(weft_engine *e, const int32_t *ids, size_t n, size_t stride,
                          float *logprob, float *logits);
double score_mean_nll(const float *logprob, size_t n); /* of all but the first; NAN: none */

/* ---- Input of one JSON value a line ---- */

typedef struct {
    int fd;
    const char *name; /* for messages */
    buf held;
    size_t at;      /* of the next line in held */
    int64_t number; /* of the line last given, from 1 */
    bool end;
    const volatile sig_atomic_t *stop; /* non-zero after a signal: the input ends; NULL: none */
} cmd_lines;

weft_status cmd_lines_open(cmd_lines *l, const char *path); /* NULL or "-": standard input */
/* The next line without its end, borrowed until the next call; *line NULL at the end of input. */
weft_status cmd_lines_next(cmd_lines *l, const char **line, size_t *n);
/* Something is there to be read, or the end: the next line will not be waited for long. */
bool cmd_lines_ready(const cmd_lines *l);
void cmd_lines_close(cmd_lines *l);
