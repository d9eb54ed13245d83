/* SPDX-License-Identifier: Apache-2.0
 * So many cases for every row and type: which cases, and the table of what ran. */
#include "host/base/err.h"
#include "tests/check/check.h"
#include <stdlib.h>
#include <string.h>

check_count *check_count_of(check_counts *t, weft_op op, int dtype, const char *row) {
    for (int i = 0; i < t->n; i++)
        if (t->of[i].op == op && t->of[i].dtype == dtype && strcmp(t->of[i].row, row) == 0)
            return &t->of[i];
    WEFT_ASSERT(t->n < CHECK_COUNTS);
    check_count *c = &t->of[t->n++];
    *c = (check_count){.op = op, .dtype = dtype};
    snprintf(c->row, sizeof c->row, "%s", row);
    return c;
}

void check_counts_write(const check_counts *t, FILE *to) {
    for (int i = 0; i < t->n; i++)
        fprintf(to, "%d %d %s %lld\n", (int)t->of[i].op, t->of[i].dtype, t->of[i].row,
                (long long)t->of[i].ran);
}

void check_counts_read(check_counts *t, FILE *from) {
    int op, dtype;
    char row[sizeof t->of->row];
    long long ran;
    while (fscanf(from, "%d %d %23s %lld", &op, &dtype, row, &ran) == 4)
        check_count_of(t, (weft_op)op, dtype, row)->ran += ran;
}

static int by_row(const void *a, const void *b) {
    const check_count *x = a, *y = b;
    int row = strcmp(x->row, y->row);
    return x->op != y->op ? (int)x->op - (int)y->op : row ? row : x->dtype - y->dtype;
}

int check_counts_print(check_counts *t, int64_t each, FILE *to) {
    int few = 0;
    qsort(t->of, (size_t)t->n, sizeof *t->of, by_row);
    for (int i = 0; i < t->n; i++) {
        const check_count *c = &t->of[i];
        bool same = i && c->op == c[-1].op && strcmp(c->row, c[-1].row) == 0;
        if (!same)
            fprintf(to, "%s%-16s %-14s", i ? "\n" : "", weft_op_table[c->op].name, c->row);
        fprintf(to, "  %s %lld%s", weft_dtype_name(c->dtype), (long long)c->ran,
                c->ran < each ? " (too few)" : "");
        few += c->ran < each;
    }
    fprintf(to, "\n%d rows and types, %d with fewer than %lld cases\n", t->n, few, (long long)each);
    return few;
}

/* Operations and bytes of a small case: tenths of a second on the emulator under
 * AddressSanitizer. */
enum { SMALL = 2 << 20 };

void check_choice_add(check_choice *t, const check_case *c, uint64_t seed) {
    check_set set;
    int64_t bytes, flops;
    if (t->n == t->room) {
        t->room = t->room ? 2 * t->room : 256;
        t->of = realloc(t->of, (size_t)t->room * sizeof *t->of);
        WEFT_ASSERT(t->of);
    }
    check_set_init(&set, c, seed);
    set.aligned = set.no_images = true; /* what the operands hold is not looked at */
    c->op->build(&set);
    check_set_cost(&set, &bytes, &flops);
    check_set_fini(&set);
    t->of[t->n++] = (check_candidate){
        .c = *c, .large = flops + bytes > SMALL, .order = check_hash(check_case_seed(c, seed), 3)};
}

static int small_first(const void *a, const void *b) {
    const check_candidate *x = a, *y = b;
    if (x->large != y->large)
        return x->large - y->large;
    return x->order < y->order ? -1 : x->order > y->order;
}

void check_choice_sort(check_choice *t) {
    if (t->n)
        qsort(t->of, (size_t)t->n, sizeof *t->of, small_first);
}

void check_choice_fini(check_choice *t) {
    free(t->of);
    *t = (check_choice){.n = 0};
}
