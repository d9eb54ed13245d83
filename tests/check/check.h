/* SPDX-License-Identifier: Apache-2.0
 * checkkernels: the one tool that judges kernels. A case is a string; from it and a seed an op's
 * file builds a set of operands; the engine runs reference and candidate on copies of the set and
 * compares.
 *
 * Every operand lives in an image: its elements, the gaps its strides leave and a guard on each
 * side, all NaN where nothing may be read. An execution copies the images to the device, runs one
 * row and copies them back, so "guards intact", "inputs unchanged" and "rows past the true number
 * untouched" are one comparison: whatever may not be written has the bytes it had. */
#pragma once
#include "host/base/buf.h"
#include "host/base/mem.h"
#include "host/run/device.h"
#include "host/run/ops.h"
#include "weft/step.h"
#include <stdbool.h>
#include <stdio.h>

enum {
    CHECK_KEYS = 24,     /* numbers in a case */
    CHECK_OPERANDS = 16, /* tensors of an op */
    CHECK_GUARD = 128,   /* bytes in front of and behind an image's elements */
    CHECK_THREADS = 3
};

typedef struct check_op check_op;
typedef struct check_set check_set;
typedef struct check_state check_state;
typedef struct check_gradient check_gradient;

/* ---- cases ---------------------------------------------------------------------------------- */

/* What numbers an operand gets (key `fill`). */
typedef enum {
    FILL_NORMAL,
    FILL_LARGE,  /* magnitudes a trained network's outliers have */
    FILL_TINY,   /* denormals */
    FILL_CANCEL, /* neighbours that cancel exactly */
    FILL_ZERO,   /* +0 and -0 among a few numbers */
    FILLS
} check_fill;

typedef struct {
    const check_op *op;
    int dtype;
    int64_t v[CHECK_KEYS]; /* by position in op->keys; 0 where the case says nothing */
} check_case;

/* Every dtype with every shape with every variant; each is text such as "T=1,N=33". */
typedef struct {
    const char *dtypes;                          /* "fp32 fp16 bf16" */
    const char *const *shapes, *const *variants; /* ended by NULL */
    bool only_long;
} check_group;

struct check_op {
    weft_op op;
    /* "T! N! leaves w^": the numbers of a case, in the order they are printed. A key with ! is a
     * size, at least 1; with ^ it is 0 (the case's dtype) or 1 + a float dtype. */
    const char *keys;
    const check_group *groups;          /* ended by dtypes NULL */
    const char *const *bench;           /* "bf16:T=1,N=4096,K=4096", ended by NULL; NULL: none */
    bool (*valid)(const check_case *c); /* what the numbers owe each other; NULL: nothing */
    void (*build)(check_set *s);
    /* Magnitude that one row of an output is computed from, where the row's own largest element
     * does not bound the rounding (sums that cancel); 0: nothing to add. */
    double (*magnitude)(const check_set *s, const weft_tensor *out, int64_t row);
    void (*invariants)(check_state *k, const check_set *s);
    bool rows_alone; /* rows are independent although the catalogue does not say ROWLOCAL */
    /* For an op that is a gradient: the forward op, to be differenced. false: not of this case. */
    bool (*gradient)(const check_set *s, check_gradient *g);
};

extern const check_op *const check_ops[]; /* checkkernels.c, ended by NULL */

/* The number a case gives for `key`, which the op declares. */
int64_t check_get(const check_case *c, const char *key);
/* Parses "fp32:T=1,N=2" for op (a trailing row=NAME goes to *row if that is not NULL). false: not
 * such a text, a dtype the op's cases do not have, or numbers that make no case. */
bool check_case_parse(const check_op *op, const char *text, check_case *out, const char **row);
void check_case_print(buf *out, const check_case *c);

/* ---- operands ------------------------------------------------------------------------------- */

/* Logical coordinates of an element to its value: for ops whose operands are views of one story
 * (attention), so that two layouts of it hold the same numbers. */
typedef float check_value(const check_set *s, const int64_t i[WEFT_DIMS]);

typedef struct {
    int dtype, ndim;
    int64_t dim[WEFT_DIMS];
    int row;             /* 1 + the axis that counts rows; 0: none */
    int64_t pad;         /* elements between rows that belong to nobody */
    bool swap;           /* the two inner axes trade places in memory */
    float size;          /* standard deviation of inputs; 0: 1 */
    bool twin;           /* under FILL_CANCEL neighbours are equal, not opposite */
    const int32_t *ints; /* contents of an i32 operand, row after row */
    check_value *value;  /* contents of a float operand; NULL: random by `fill` */
} check_spec;

typedef struct {
    weft_tensor *at; /* in the set's args */
    char role;
    check_spec spec;
    char *image;  /* initial bytes */
    size_t bytes; /* of the image */
    size_t first; /* offset of element 0 */
} check_operand;

struct check_set {
    check_case c;
    uint64_t seed; /* of this case: depends on its text and on --seed */
    weft_args args;
    check_operand operand[CHECK_OPERANDS];
    int n;
    int64_t rows; /* true rows, -1: all; set before operands that have a row axis */
    weft_tensor *rows_at;
    bool aligned;   /* no odd addresses and no gaps: for measuring */
    bool no_images; /* floats have no image: their contents do not matter */
    void *story;    /* the op's own, in `mem` */
    arena mem;
};

void check_set_init(check_set *s, const check_case *c, uint64_t seed);
void check_set_fini(check_set *s);
/* Bytes and operations of the set's op by the catalogue; what lies above the diagonal of a causal
 * prompt is nobody's work. */
void check_set_cost(const check_set *s, int64_t *bytes, int64_t *flops);
/* Adds the operand at `at`, a member of s->args, and fills it. The spec's pointers must outlive
 * s. */
check_operand *check_add(check_set *s, weft_tensor *at, check_spec spec);
/* Adds an i32[1] `rows` that says n of the bucket's rows are true. */
void check_add_rows(check_set *s, weft_tensor *at, int64_t n);
check_operand *check_find(const check_set *s, const weft_tensor *at);
/* As check_find, for a tensor of another set of the same op. */
check_operand *check_same(const check_set *s, const check_set *other, const weft_tensor *at);

/* Byte offset of an element inside its image, and elements as numbers. */
size_t check_offset(const check_operand *o, const int64_t i[WEFT_DIMS]);
double check_load(const check_operand *o, const char *image, const int64_t i[WEFT_DIMS]);
void check_store(const check_operand *o, char *image, const int64_t i[WEFT_DIMS], float x);
float check_round(int dtype, float x); /* to the storage type and back */
/* Steps i through the elements of shape, last axis fastest; start from {0}. false: none left. */
bool check_next(const int64_t shape[WEFT_DIMS], int64_t i[WEFT_DIMS]);

/* The same set with only these rows, in this order. Images without a row axis are shared: `from`
 * must outlive `to`. */
void check_pick(const check_set *from, const int64_t *row, int64_t n, check_set *to);
/* A set with the same operands, sharing images, to be changed; outputs too. */
void check_share(const check_set *from, check_set *to);
/* Lays out and fills an operand anew after its spec was changed. */
void check_remake(check_set *s, check_operand *o);
bool check_is_out(const check_operand *o);
/* Lays out an operand after its spec was changed, with an image that nothing has filled. */
void check_image(check_set *s, check_operand *o);

/* Random numbers of a case: uniform 64 bits and about normal, functions of the key alone. */
uint64_t check_hash(uint64_t a, uint64_t b);
float check_normal(uint64_t h);
float check_fill_value(int fill, int dtype, uint64_t h, float size);

/* ---- running -------------------------------------------------------------------------------- */

typedef struct {
    const char *name; /* "cpu" */
    device *device;
    weft_stream *stream[CHECK_THREADS + 1]; /* by number of threads */
    char *block;                            /* device memory of one execution */
    size_t bytes;
} check_backend;

/* The images of the outputs after a run, by operand; NULL for inputs. */
typedef struct {
    char *image[CHECK_OPERANDS];
    arena mem;
} check_result;

struct check_state {
    check_backend *backends; /* ended by name NULL; the first is the reference */
    int threads;             /* at most this many */
    const weft_kernel *row;  /* the candidate under test */
    const check_set *set;
    const check_result *base; /* the candidate's first run on `set` */
    bool dead;                /* the candidate's device is lost to this process */
    bool bad;
    char why[400]; /* the first thing found wrong with the row on this case */
};

weft_status check_backends_open(check_backend *b, int n, int threads);
void check_backends_close(check_backend *b);

/* Runs a row on copies of the set; outputs and scratch start as NaN, or as numbers if `dirty`. What
 * may not be written is compared; check_fail is called if it was. Free with check_result_fini. */
void check_exec(check_state *k, const weft_kernel *row, const check_set *s, int threads, bool dirty,
                check_result *out);
void check_result_fini(check_result *r);
/* Notes the first failure of the candidate on a case. */
void check_fail(check_state *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Coordinates of a variant's output to the base's; false: this element is not compared. */
typedef bool check_map(const void *ctx, const int64_t i[WEFT_DIMS], int64_t base[WEFT_DIMS]);
bool check_map_same(const void *ctx, const int64_t i[WEFT_DIMS], int64_t base[WEFT_DIMS]);
/* Two outputs of two runs hold the same bits: a's element i and b's element map(i). */
void check_same_bits(check_state *k, const char *what, const check_operand *a, const char *image_a,
                     const check_operand *b, const char *image_b, int64_t rows, check_map *map,
                     const void *ctx);
/* Runs the candidate on a variant of its set; every output, or only `out` (a tensor of the
 * variant), must have the bits of the first run. */
void check_variant(check_state *k, const check_set *variant, const char *what,
                   const weft_tensor *out, check_map *map, const void *ctx);

/* The row for an op beside the candidate: of its backend and class where there is one, else the
 * reference's. NULL: none takes these arguments. */
const weft_kernel *check_row_for(const check_state *k, weft_op op, const weft_args *a);
bool check_same_arith(const weft_kernel *a, const weft_kernel *b);

/* Everything that is demanded of a row on a set, given the reference's result. */
void check_row(check_state *k, const weft_kernel *row, const check_set *s,
               const check_result *truth, check_result *base);
/* The outputs a candidate left, by operand, against the reference's within the op's tolerance. */
void check_compare(check_state *k, const check_set *s, const check_result *truth,
                   char *const got[CHECK_OPERANDS]);
/* Every element of every output; rows of one class must agree. */
void check_results_equal(check_state *k, const check_set *s, const check_result *a,
                         const check_result *b, const char *what);

/* Largest |element| of the input's row (a row of the last axis, counted over the other axes). */
double check_row_max(const check_set *s, const weft_tensor *in, int64_t row);

const weft_kernel *check_reference(weft_op op);
uint64_t check_case_seed(const check_case *c, uint64_t seed);

/* ---- gradients ------------------------------------------------------------------------------ */

enum { CHECK_WRT = 3, CHECK_DY = 2 };

/* A forward op whose operands are dense fp32 in the host's memory (true rows only), and what a set
 * claims to be its gradients. Fields are offsets in weft_args. */
struct check_gradient {
    weft_op op;
    weft_args args;
    struct {
        size_t field;                /* of the operand */
        const weft_tensor *gradient; /* in the set; NULL: no more of them */
        weft_tensor direct;          /* gradient that reaches the operand another way, or absent */
        bool anywhere;               /* linear: at random numbers instead of the operand's own */
    } wrt[CHECK_WRT];
    struct {
        size_t field; /* of a result */
        weft_tensor dy;
    } out[CHECK_DY];
    bool kink; /* not differentiable at 0: coordinates near it stay where they are */
    arena mem;
};

/* The numbers of an operand, true rows only, as dense fp32 or i32. */
weft_tensor check_dense(const check_set *s, const weft_tensor *at, arena *mem);
/* Dense fp32 zeros. */
weft_tensor check_blank(int ndim, const int64_t *shape, arena *mem);
/* Runs the reference's row of a forward op on tensors in the host's memory. */
void check_forward(weft_op op, const weft_args *a);
/* The reference's gradients against central differences, for plain fp32 cases that are small. */
void check_differences(check_state *k, const check_set *s, const check_result *truth);
/* Invariances of an op that sums over the rows of `dy` into accumulated operands: two calls are
 * one, zeros in front are nothing, shards are buffers of one shard each. `repair` (or NULL) mends a
 * variant whose rows were picked. */
void check_token_sum(check_state *k, const check_set *s, const weft_tensor *dy,
                     void (*repair)(check_set *v));

/* ---- so many cases for every row and type --------------------------------------------------- */

enum { CHECK_COUNTS = 1024 };

/* Cases that a row has run, by their type. */
typedef struct {
    weft_op op;
    int dtype;
    char row[24];
    int64_t ran;
} check_count;

typedef struct {
    check_count of[CHECK_COUNTS];
    int n;
} check_counts;

check_count *check_count_of(check_counts *t, weft_op op, int dtype, const char *row);
/* A line each, from one process to another. */
void check_counts_write(const check_counts *t, FILE *to);
void check_counts_read(check_counts *t, FILE *from);
/* A line for every row; returns how many rows and types ran fewer than `each`. Sorts. */
int check_counts_print(check_counts *t, int64_t each, FILE *to);

/* Cases in the order they are tried: the small ones by the seed, then the large ones. */
typedef struct {
    check_case c;
    bool large;
    uint64_t order;
} check_candidate;

typedef struct {
    check_candidate *of;
    int n, room;
} check_choice;

void check_choice_add(check_choice *t, const check_case *c, uint64_t seed);
void check_choice_sort(check_choice *t);
void check_choice_fini(check_choice *t);

/* ---- processes ------------------------------------------------------------------------------ */

enum { CHECK_JOBS = 1024, CHECK_DEAD = 5 /* exit code: the device was lost */ };

typedef struct {
    weft_op op;
    int shard, shards;
    const char *row;   /* NULL: all that are wanted */
    const char *dtype; /* NULL: all */
    int pid;
    FILE *words, *tally;
    double until;
    bool running, done;
} check_job;

/* Shares of the cases, each in a process of its own with a time of its own. */
typedef struct {
    int jobs; /* at once */
    double timeout, until;
    int64_t seed, threads;
    const char *backend, *row;
    int64_t each; /* cases of every row and type; 0: all */
    check_counts counts;
    bool all_long, quick;
    FILE *words;
    check_job job[CHECK_JOBS];
    int n;
    int64_t cases, failed, skipped;
} check_jobs;

void check_jobs_add(check_jobs *j, weft_op op, int64_t cases);
/* A process for a type's cases of an op. */
void check_jobs_add_type(check_jobs *j, weft_op op, int dtype);
/* A share whose process was lost is run again, a row at a time: the others are judged, and the one
 * at fault is named. */
void check_jobs_run(check_jobs *j);

/* Exit codes. */
int check_self_test(check_state *k, uint64_t seed);
/* Each OP:CASE of the list that the globs take, on backend cuda. */
extern const char *const check_gpu_shapes[];
int check_bench_gpu(check_state *k, const char *op_glob, const char *row_glob, const char *one,
                    bool json);
int check_list_gpu(const char *op_glob);
int check_bench(check_state *k, const char *op_glob, const char *backend_glob, bool json);

typedef struct {
    const char *op_glob, *one; /* one: this case alone, or NULL */
    int64_t blocks;            /* of a launch that run; 0: all */
    bool json;
} check_profile;
int check_profile_run(check_state *k, const check_profile *o);
int check_print_claims(void);
