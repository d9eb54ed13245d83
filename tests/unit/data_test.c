/* SPDX-License-Identifier: Apache-2.0
 * Datasets: a batch is a pure function of (seed, step), every row comes once an epoch, packing
 * loses nothing, and what is wrong with a file is said. */
#include "host/base/file.h"
#include "host/train/data.h"
#include "host/train/data_order.h"
#include "tests/unit/unit.h"
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/weft-data-XXXXXX";
static arena names;

static int enter_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int leave_folder(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    arena_fini(&names);
    return system(command);
}

static const char *put(const char *name, const char *text) {
    const char *path = file_join(&names, folder, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text)), WEFT_OK);
    return path;
}

/* Rows of lengths 3 + i % 5 whose ids are first + i, so that a row names itself. */
static const char *put_rows(const char *name, int n, int first) {
    buf b;
    buf_init(&b, SIZE_MAX);
    for (int i = 0; i < n; i++) {
        buf_printf(&b, "{\"input_ids\": [%d", first + i);
        for (int k = 1; k < 3 + i % 5; k++)
            buf_printf(&b, ", %d", first + i);
        buf_puts(&b, "]}\n");
    }
    const char *path = put(name, b.data);
    buf_fini(&b);
    return path;
}

/* ---- Batches ---- */

typedef struct {
    int T;
    int32_t *ids, *labels, *pos, *len;
} rows;

static rows take(const dataset *d, bool validation, int64_t step, int batch, int row0, int n) {
    int T = data_seq_len(d);
    size_t bytes = (size_t)n * (size_t)T * sizeof(int32_t);
    rows r = {T, malloc(bytes), malloc(bytes), malloc(bytes), malloc((size_t)n * sizeof(int32_t))};
    memset(r.ids, 0x55, bytes);
    memset(r.labels, 0x55, bytes);
    memset(r.pos, 0x55, bytes);
    data_rows(d, validation, step, batch, row0, n, r.ids, r.labels, r.pos, r.len);
    return r;
}

static void drop(rows r) {
    free(r.ids);
    free(r.labels);
    free(r.pos);
    free(r.len);
}

static void expect_same(const rows *a, int i, const rows *b, int k) {
    size_t T = (size_t)a->T, bytes = T * sizeof(int32_t);
    assert_int_equal(a->T, b->T);
    assert_memory_equal(a->ids + (size_t)i * T, b->ids + (size_t)k * T, bytes);
    assert_memory_equal(a->labels + (size_t)i * T, b->labels + (size_t)k * T, bytes);
    assert_memory_equal(a->pos + (size_t)i * T, b->pos + (size_t)k * T, bytes);
    assert_int_equal(a->len[i], b->len[k]);
}

static dataset *open_with(data_options o) {
    dataset *d = NULL;
    if (data_open(&o, &d) != WEFT_OK)
        fail_msg("data_open: %s", err_message());
    return d;
}

static dataset *open_one(const char *path, data_options o) {
    o.path = &path;
    o.n_path = 1;
    return open_with(o);
}

CASE(rows_come_in_file_order_and_repeat) {
    const char *path = put("order.jsonl",
                           "{\"input_ids\": [5, 6, 7], \"labels\": [-100, -100, 7]}\n"
                           "\n"
                           "{\"labels\": [1, 2, 9, 3], \"input_ids\": [1, 2, 3, 0], "
                           "\"attention_mask\": [1, 1, 1, 0]}\n"
                           "{\"input_ids\": [8, 9, 10, 11, 12]}");
    dataset *d = open_one(path, (data_options){.file_order = true});
    assert_int_equal(data_seq_len(d), 5);
    assert_int_equal(data_tokens(d), 11);
    assert_int_equal(data_rows_per_epoch(d), 3);
    static const int32_t ids[3][5] = {{5, 6, 7}, {1, 2, 3}, {8, 9, 10, 11, 12}};
    static const int32_t labels[3][5] = {
        {-100, -100, 7, -100, -100}, {-100, 2, 9, -100, -100}, {-100, 9, 10, 11, 12}};
    static const int32_t pos[3][5] = {{0, 1, 2}, {0, 1, 2}, {0, 1, 2, 3, 4}};
    static const int32_t len[3] = {3, 3, 5};
    for (int64_t step = 0; step < 6; step++) {
        rows r = take(d, false, step, 2, 0, 2);
        for (int i = 0; i < 2; i++) {
            int64_t k = (step * 2 + i) % 3;
            assert_memory_equal(r.ids + i * 5, ids[k], sizeof ids[k]);
            assert_memory_equal(r.labels + i * 5, labels[k], sizeof labels[k]);
            assert_memory_equal(r.pos + i * 5, pos[k], sizeof pos[k]);
            assert_int_equal(r.len[i], len[k]);
        }
        drop(r);
    }
    data_close(d);
}

/* ---- Purity ---- */

static void expect_pure(dataset *d) {
    enum { BATCH = 6, STEPS = 40 };
    rows whole[STEPS];
    for (int s = 0; s < STEPS; s++)
        whole[s] = take(d, false, s, BATCH, 0, BATCH);
    uint64_t seed = 1;
    for (int i = 0; i < 300; i++) { /* any order, any cut */
        int s = (int)(next_random(&seed) % STEPS), row0 = (int)(next_random(&seed) % BATCH);
        int n = 1 + (int)(next_random(&seed) % (uint64_t)(BATCH - row0));
        rows r = take(d, false, s, BATCH, row0, n);
        for (int k = 0; k < n; k++)
            expect_same(&r, k, &whole[s], row0 + k);
        drop(r);
        /* Half the batch is twice the steps. */
        rows half = take(d, false, 2 * s + row0 / 3, 3, row0 % 3, 1);
        expect_same(&half, 0, &whole[s], row0);
        drop(half);
    }
    for (int s = 0; s < STEPS; s++)
        drop(whole[s]);
}

CASE(a_batch_is_a_function_of_seed_and_step) {
    const char *path[2] = {put_rows("pure-a.jsonl", 37, 100), put_rows("pure-b.jsonl", 11, 500)};
    const double weight[2] = {1, 2.5};
    for (int i = 0; i < 8; i++) {
        data_options o = {.path = path,
                          .n_path = 2,
                          .seed = 7,
                          .weight = i & 1 ? weight : NULL,
                          .pack = i & 2,
                          .file_order = i & 4,
                          .seq_len = 12};
        dataset *d = open_with(o), *again = open_with(o);
        expect_pure(d);
        rows a = take(d, false, 123456789, 6, 0, 6), b = take(again, false, 123456789, 6, 0, 6);
        for (int k = 0; k < 6; k++)
            expect_same(&a, k, &b, k);
        assert_int_equal(data_hash(d), data_hash(again));
        drop(a);
        drop(b);
        data_close(d);
        data_close(again);
    }
}

/* ---- Order ---- */

CASE(permutations_are_permutations) {
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 7, 16, 17, 100, 1000, 65536, 65537};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t n = sizes[i];
        uint8_t *seen = calloc(n, 1);
        uint64_t moved = 0;
        for (uint64_t k = 0; k < n; k++) {
            uint64_t to = data_permute(3, 9, n, k);
            assert_true(to < n && !seen[to]);
            seen[to] = 1;
            moved += to != k;
        }
        assert_true(n < 100 || moved > n * 9 / 10);
        free(seen);
    }
    uint64_t huge = ((uint64_t)1 << 61) + 12345;
    for (uint64_t k = 0; k < 1000; k++)
        assert_true(data_permute(k, k, huge, huge - 1 - k) < huge);
}

/* Where a place goes is uniform over seeds, and neighbours part: chi-square of both. */
CASE(permutations_look_random) {
    enum { N = 20, SEEDS = 40000 };
    static int to[N][N], step[N];
    for (uint64_t s = 0; s < SEEDS; s++) {
        uint64_t last = 0;
        for (uint64_t k = 0; k < N; k++) {
            uint64_t at = data_permute(s, 0, N, k);
            to[k][at]++;
            if (k == 7)
                step[(at + N - last) % N]++;
            last = at;
        }
    }
    double chi = 0, each = (double)SEEDS / N;
    for (int k = 0; k < N; k++)
        for (int i = 0; i < N; i++)
            chi += (to[k][i] - each) * (to[k][i] - each) / each;
    /* 19 x 19 degrees of freedom: mean 361, deviation 27. */
    assert_true(chi < 361 + 6 * 27);
    double gaps = 0, gap = (double)SEEDS / (N - 1);
    assert_int_equal(step[0], 0);
    for (int i = 1; i < N; i++)
        gaps += (step[i] - gap) * (step[i] - gap) / gap;
    assert_true(gaps < 18 + 6 * 6);
}

CASE(an_epoch_has_every_row_once_and_none_is_like_the_last) {
    const char *path[3] = {put_rows("e1.jsonl", 5, 100), put_rows("e2.jsonl", 30, 200),
                           put_rows("e3.jsonl", 1, 300)};
    dataset *d = open_with((data_options){.path = path, .n_path = 3, .seed = 5});
    int32_t order[4][36];
    for (int epoch = 0; epoch < 4; epoch++) {
        int seen[400] = {0};
        for (int i = 0; i < 36; i++) {
            rows r = take(d, false, epoch * 36 + i, 1, 0, 1);
            order[epoch][i] = r.ids[0];
            seen[r.ids[0]]++;
            drop(r);
        }
        for (int i = 0; i < 400; i++)
            assert_int_equal(seen[i], (i >= 100 && i < 105) || (i >= 200 && i < 230) || i == 300);
        if (epoch)
            assert_memory_not_equal(order[epoch], order[epoch - 1], sizeof order[0]);
    }
    dataset *other = open_with((data_options){.path = path, .n_path = 3, .seed = 6});
    rows a = take(d, false, 0, 36, 0, 36), b = take(other, false, 0, 36, 0, 36);
    assert_memory_not_equal(a.ids, b.ids, 36 * (size_t)a.T * sizeof(int32_t));
    drop(a);
    drop(b);
    data_close(d);
    data_close(other);
}

CASE(weights_are_shares_of_the_rows) {
    const char *path[3] = {put_rows("w1.jsonl", 50, 1000), put_rows("w2.jsonl", 7, 2000),
                           put_rows("w3.jsonl", 20, 3000)};
    const double weight[3] = {5, 3, 2};
    for (int ordered = 0; ordered < 2; ordered++) {
        dataset *d = open_with((data_options){
            .path = path, .n_path = 3, .weight = weight, .seed = 2, .file_order = ordered});
        int got[3] = {0}, of[3][60] = {{0}};
        for (int i = 0; i < 100000; i++) {
            rows r = take(d, false, i, 1, 0, 1);
            int s = r.ids[0] / 1000 - 1, row = r.ids[0] % 1000;
            if (ordered) /* each source's own rows in turn */
                assert_int_equal(row, got[s] % (s == 0 ? 50 : s == 1 ? 7 : 20));
            got[s]++;
            of[s][row]++;
            for (int k = 0; k < 3; k++) /* never far from its share, however few rows */
                assert_true(fabs(got[k] - (i + 1) * weight[k] / 10) < 2);
            drop(r);
        }
        for (int s = 0, n[3] = {50, 7, 20}; s < 3; s++)
            for (int row = 0; row < n[s]; row++)
                assert_in_range(of[s][row], got[s] / n[s], got[s] / n[s] + 1);
        data_close(d);
    }
}

CASE(a_small_weight_has_its_rows_too) {
    const int64_t n[3] = {10, 10, 10};
    const double weight[3] = {1, 1e-12, 1e12};
    data_mix m;
    data_mix_init(&m, n, weight, 3);
    int64_t got[3] = {0}, row;
    for (int64_t g = 0; g < DATA_MIX_BLOCK; g++) {
        int s;
        data_mix_row(&m, 1, false, g, &s, &row);
        got[s]++;
    }
    assert_int_equal(got[0], 1);
    assert_int_equal(got[1], 1);
    assert_int_equal(got[2], DATA_MIX_BLOCK - 2);
    data_mix_fini(&m);
}

/* ---- Validation ---- */

CASE(validation_rows_are_apart_and_the_same_for_every_seed) {
    const char *path[2] = {put_rows("v1.jsonl", 40, 100), put_rows("v2.jsonl", 10, 200)};
    int32_t first[7];
    for (uint64_t seed = 0; seed < 3; seed++) {
        dataset *d = open_with(
            (data_options){.path = path, .n_path = 2, .seed = seed, .val_fraction = 0.12});
        assert_int_equal(data_val_rows(d), 5 + 2);
        assert_int_equal(data_rows_per_epoch(d), 43);
        int seen[400] = {0};
        for (int i = 0; i < 9; i++) { /* in threes: the last are past the end */
            rows r = take(d, true, i / 3, 3, i % 3, 1);
            if (i < 7 && seed == 0)
                first[i] = r.ids[0];
            if (i < 7)
                assert_int_equal(r.ids[0], first[i]);
            else
                assert_int_equal(r.len[0], 0);
            for (int k = r.len[0]; k < r.T; k++)
                assert_int_equal(r.labels[k], DATA_IGNORED);
            seen[r.ids[0]] += i < 7;
            drop(r);
        }
        for (int i = 0; i < 43; i++) {
            rows r = take(d, false, i, 1, 0, 1);
            seen[r.ids[0]]++;
            drop(r);
        }
        for (int i = 0; i < 400; i++)
            assert_int_equal(seen[i], (i >= 100 && i < 140) || (i >= 200 && i < 210));
        data_close(d);
    }
}

/* ---- Packing ---- */

/* Every document stands whole somewhere, behind a pos of 0, and no row has room for another row. */
static void expect_packed(dataset *d, int docs, int first, bool fits) {
    int64_t n = data_rows_per_epoch(d);
    int *seen = calloc((size_t)docs, sizeof *seen), T = data_seq_len(d);
    int shortest = T;
    for (int64_t i = 0; i < n; i++) {
        rows r = take(d, false, i, 1, 0, 1);
        for (int k = 0; k < r.len[0];) {
            int doc = r.ids[k] - first, want = 3 + doc % 5;
            assert_int_equal(r.labels[k], DATA_IGNORED);
            for (int p = 0; p < want; p++, k++) {
                assert_true(k < r.len[0]);
                assert_int_equal(r.ids[k], first + doc);
                assert_int_equal(r.pos[k], p);
                assert_true(p == 0 || r.labels[k] == r.ids[k]);
            }
            seen[doc]++;
        }
        shortest = r.len[0] < shortest ? r.len[0] : shortest;
        drop(r);
    }
    for (int i = 0; i < docs; i++)
        assert_int_equal(seen[i], 1);
    /* Best fit decreasing is within 11/9 of the best (Johnson 1973); here nearly without loss. */
    assert_true(!fits || n * T <= data_tokens(d) * 1.05 + T);
    free(seen);
}

CASE(packing_places_documents_whole) {
    const char *path = put_rows("pack.jsonl", 200, 1000);
    for (int T = 7; T < 40; T++) {
        dataset *d = open_one(path, (data_options){.pack = true, .seq_len = T, .seed = 3});
        expect_packed(d, 200, 1000, T > 20);
        data_close(d);
        d = open_one(path, (data_options){.pack = true, .seq_len = T, .file_order = true});
        expect_packed(d, 200, 1000, false);
        rows r = take(d, false, 0, 1, 0, 1);
        assert_int_equal(r.ids[0], 1000); /* the file's order is kept */
        drop(r);
        data_close(d);
    }
}

CASE(rows_longer_than_the_row_are_cut_and_counted) {
    const char *path = put("long.jsonl",
                           "{\"input_ids\": [1, 2, 3, 4, 5, 6]}\n"
                           "{\"input_ids\": [7, 8, 9]}\n"
                           "{\"input_ids\": [1, 2, 3, 4], \"labels\": [-100, -100, -100, 4]}\n");
    dataset *d = open_one(path, (data_options){.seq_len = 3, .file_order = true});
    assert_int_equal(data_rows_per_epoch(d), 2);
    assert_int_equal(data_cut(d), 2);
    assert_int_equal(data_left_out(d), 1); /* nothing of the third has a loss */
    rows r = take(d, false, 0, 2, 0, 2);
    static const int32_t want[] = {1, 2, 3, 7, 8, 9};
    assert_memory_equal(r.ids, want, sizeof want);
    drop(r);
    data_close(d);
}

/* ---- What is wrong ---- */

static void expect_refused(const char *path, data_options o, weft_status want, const char *part) {
    dataset *d = NULL;
    o.path = o.path ? o.path : &path;
    o.n_path = o.n_path ? o.n_path : 1;
    weft_status s = data_open(&o, &d);
    if (s != want)
        fail_msg("%s: status %d, not %d: %s", path ? path : "", s, want, err_message());
    expect_message(part);
    assert_null(d);
}

#define LINE1 "{\"input_ids\": [1, 2, 3]}\n"

CASE(bad_rows_are_named_by_line) {
    static const struct {
        const char *text, *part;
    } bad[] = {
        {LINE1 "{\"input_ids\": [1, 2,]}\n", ":2:"},
        {LINE1 "{\"input_ids\": [1, 2]\n", ":2:"},
        {LINE1 "\n\n[1, 2]\n", ":4:"},
        {LINE1 "{\"input_ids\": [1, 2.5]}\n", ":2:"},
        {LINE1 "{\"input_ids\": [1, -1]}\n", ":2:"},
        {LINE1 "{\"input_ids\": [1, 99999999999]}\n", ":2:"},
        {LINE1 "{\"input_ids\": []}\n", "missing or empty"},
        {LINE1 "{\"labels\": [1]}\n", "missing or empty"},
        {LINE1 "{\"input_ids\": [1, 2], \"labels\": [1]}\n", "labels: 1 for 2 input_ids"},
        {LINE1 "{\"input_ids\": [1, 2], \"labels\": []}\n", "labels: 0 for 2 input_ids"},
        {LINE1 "{\"input_ids\": [1, 2], \"labels\": [1, -7]}\n", "label -7 is neither"},
        {LINE1 "{\"input_ids\": [1, 64]}\n", ":2: id 64 at place 1; the vocabulary has 64"},
        {LINE1 "{\"input_ids\": [1, 2], \"labels\": [1, 64]}\n", ":2: id 64 at place 1"},
        {LINE1 "{\"input_ids\": [1, 2], \"attention_mask\": [0, 1]}\n", "a 1 behind a 0"},
        {LINE1 "{\"input_ids\": [1, 2], \"attention_mask\": [1]}\n", "1 ones of 1 for 2"},
        {LINE1 "{\"input_ids\": [1, 2], \"input_ids\": [1, 2]}\n", ":2:"},
        {LINE1 "{\"input_ids\": [1, \xff]}\n", ":2:"},
        {"{\"tokens\": [1]}\n", "no \"text\", \"messages\" or \"input_ids\""},
        {"", "is empty"},
        {"\n \n", "is empty"},
        {"{\"input_ids\": [1]}\n", "no row with a token to predict"},
        {"{\"input_ids\": [1, 2], \"labels\": [1, -100]}\n", "no row with a token to predict"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *path = put("bad.jsonl", bad[i].text);
        expect_refused(path, (data_options){.vocab = 64}, WEFT_BAD_FILE, bad[i].part);
        expect_message("bad.jsonl");
    }
}

CASE(bad_options_are_named) {
    const char *path = put_rows("fine.jsonl", 4, 1), *text = put("t.txt", "Hello");
    const char *two[2] = {path, path};
    const double zero[2] = {1, 0}, nan[2] = {NAN, 1}, negative[2] = {1, -1};
    expect_refused(path, (data_options){.seq_len = -1}, WEFT_USAGE, "--seq-len: -1");
    expect_refused(path, (data_options){.seq_len = 1}, WEFT_USAGE, "--seq-len: 1");
    expect_refused(path, (data_options){.seq_len = 1 << 25}, WEFT_USAGE, "--seq-len");
    expect_refused(path, (data_options){.val_fraction = 1}, WEFT_USAGE, "--val");
    expect_refused(path, (data_options){.val_fraction = -0.1}, WEFT_USAGE, "--val");
    expect_refused(path, (data_options){.val_fraction = NAN}, WEFT_USAGE, "--val");
    expect_refused(path, (data_options){.val_fraction = 0.9}, WEFT_BAD_FILE, "no row left");
    expect_refused(path, (data_options){.path = two, .n_path = 2, .weight = zero}, WEFT_USAGE,
                   "--weights");
    expect_refused(path, (data_options){.path = two, .n_path = 2, .weight = nan}, WEFT_USAGE,
                   "--weights");
    expect_refused(path, (data_options){.path = two, .n_path = 2, .weight = negative}, WEFT_USAGE,
                   "--weights");
    expect_refused(text, (data_options){.seq_len = 8}, WEFT_USAGE, "a tokenizer is needed");
    expect_refused(text, (data_options){.path = &text, .n_path = -1}, WEFT_USAGE, "-1 paths");
}

CASE(bad_paths_are_named) {
    char *empty = file_join(&names, folder, "empty"), *secret = file_join(&names, folder, "secret");
    assert_int_equal(mkdir(empty, 0700), 0);
    expect_refused("/nowhere/at.jsonl", (data_options){0}, WEFT_BAD_FILE, "no such file");
    expect_refused(empty, (data_options){0}, WEFT_BAD_FILE, "no .txt or .jsonl file");
    expect_refused("/dev/null", (data_options){0}, WEFT_BAD_FILE, "is a device");
    if (geteuid() != 0) {
        assert_int_equal(mkdir(secret, 0), 0);
        expect_refused(secret, (data_options){0}, WEFT_BAD_FILE, "cannot read the folder");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_in_file_order_and_repeat),
        cmocka_unit_test(a_batch_is_a_function_of_seed_and_step),
        cmocka_unit_test(permutations_are_permutations),
        cmocka_unit_test(permutations_look_random),
        cmocka_unit_test(an_epoch_has_every_row_once_and_none_is_like_the_last),
        cmocka_unit_test(weights_are_shares_of_the_rows),
        cmocka_unit_test(a_small_weight_has_its_rows_too),
        cmocka_unit_test(validation_rows_are_apart_and_the_same_for_every_seed),
        cmocka_unit_test(packing_places_documents_whole),
        cmocka_unit_test(rows_longer_than_the_row_are_cut_and_counted),
        cmocka_unit_test(bad_rows_are_named_by_line),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(bad_paths_are_named),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
