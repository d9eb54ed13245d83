/* SPDX-License-Identifier: Apache-2.0
 * safetensors: images written by hand byte for byte, every refusal of the format, every truncation
 * and every flipped bit of a small file, sharded sets, and what our writer writes. */
#include "host/base/clock.h"
#include "host/model/safetensors.h"
#include "tests/unit/st_file.h"
#include <dirent.h>
#include <sys/stat.h>

static weft_status open_image(const buf *b, safetensors *s) {
    err_clear();
    return safetensors_open_memory("m", b->data, b->len, s);
}

static weft_status open_text(const char *header, size_t n_data) {
    char data[256] = {0};
    buf b = st_image(header, data, n_data);
    safetensors s;
    weft_status st = open_image(&b, &s);
    if (st == WEFT_OK)
        safetensors_close(&s);
    buf_fini(&b);
    return st;
}

CASE(two_tensors) {
    float x[6] = {1, 2, 3, 4, 5, 6};
    buf b = st_image("{\"__metadata__\":{\"format\":\"pt\"},"
                     "\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[8,24]},"
                     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   ",
                     x, sizeof x);
    safetensors s;
    assert_int_equal(open_image(&b, &s), WEFT_OK);
    assert_int_equal(s.ntensor, 2);
    const st_tensor *w = safetensors_find(&s, "w");
    assert_true(w->dtype == WEFT_F32 && w->ndim == 2 && w->shape[1] == 2 && w->bytes == 16);
    assert_memory_equal(w->data, x + 2, 16);
    assert_string_equal(s.tensor[0].name, "b");
    assert_null(safetensors_find(&s, "c"));
    assert_null(safetensors_find(&s, "format"));
    safetensors_close(&s);
    buf_fini(&b);
}

CASE(odd_but_valid) {
    static const struct {
        const char *header;
        size_t n;
    } rows[] = {
        {"{}", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[0,0]},"
         "\"b\":{\"dtype\":\"I8\",\"shape\":[7,0],\"data_offsets\":[0,0]}}",
         0},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,1],\"dtype\":\"F4\"}}", 1},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[0,16]}}", 16},
        {"{\"a\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]}}      ", 3},
        {"{\"\\u00e9\\n\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (open_text(rows[i].header, rows[i].n) != WEFT_OK)
            fail_msg("%s: %s", rows[i].header, err_message());
}

#define T(name, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"
static const struct {
    const char *header;
    size_t n;
    const char *message;
} refused[] = {
    {" {}", 0, "no JSON object"},
    {"[]", 0, "no JSON object"},
    {"\xef\xbb\xbf{}", 0, "no JSON object"},
    {"{\"a\":1}", 0, "m:1:6"},
    {"{" T("a", "1", "0", "4") "}x", 4, "m:1:"},
    {"{" T("a\xff", "1", "0", "4") "}", 4, "UTF-8"},
    {"{" T("a\xc0\xaf", "1", "0", "4") "}", 4, "UTF-8"},
    {"{" T("a\\u0000", "1", "0", "4") "}", 4, "NUL"},
    {"{" T("", "1", "0", "4") "}", 4, "name of 0 bytes"},
    {"{" T("a", "1", "0", "4") "," T("a", "1", "4", "8") "}", 8, "duplicate key \"a\""},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate key"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "string"},
    {"{\"__metadata__\":[]}", 0, "object"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "duplicate key \"dtype\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "are needed"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "are needed"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "are needed"},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"f32\""},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "inside a byte"},
    {"{" T("a", "1", "0", "4") "," T("b", "1", "2", "6") "}", 6, "overlap"},
    {"{" T("a", "1", "0", "4") "," T("b", "1", "8", "12") "}", 12, "hole"},
    {"{" T("a", "1", "4", "8") "}", 8, "hole"},
    {"{" T("a", "1", "0", "4") "}", 5, "1 bytes behind"},
    {"{}", 3, "3 bytes behind"},
    {"{" T("a", "1", "0", "4") "}", 3, "data_offsets"},
    {"{" T("a", "1", "4", "0") "}", 4, "data_offsets"},
    {"{" T("a", "2", "0", "4") "}", 4, "need 8 bytes"},
    {"{" T("a", "-1", "0", "4") "}", 4, "-1"},
    {"{" T("a", "1.0", "0", "4") "}", 4, "1.0"},
    {"{" T("a", "1e0", "0", "4") "}", 4, "1e0"},
    {"{" T("a", "\"1\"", "0", "4") "}", 4, "string"},
    {"{" T("a", "9223372036854775808", "0", "4") "}", 4, "out of range"},
    {"{" T("a", "9223372036854775807,2", "0", "4") "}", 4, "overflows"},
    {"{" T("a", "4294967296,4294967296", "0", "0") "}", 0, "overflows"},
    {"{" T("a", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, "8 dimensions"},
    {"{" T("a", "1", "0", "4,4") "}", 4, "two numbers"},
    {"{" T("a", "1", "-4", "0") "}", 4, "-4"},
    {"{" T("a", "1", "0", "18446744073709551620") "}", 4, "out of range"},
};

CASE(refused_with_the_reason) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        weft_status s = open_text(refused[i].header, refused[i].n);
        if (s != WEFT_BAD_FILE)
            fail_msg("%s: %s", refused[i].header, err_status_name(s));
        expect_message(refused[i].message);
        assert_memory_equal(err_message(), "m:", 2);
    }
}

CASE(header_lengths) {
    static const struct {
        uint64_t length;
        size_t n;
        const char *message;
    } rows[] = {
        {0, 0, "too short: 0"},   {0, 7, "too short: 7"},       {0, 8, "no JSON object"},
        {1, 9, "no JSON object"}, {3, 10, "cut short"},         {UINT64_MAX, 64, "limit 100000000"},
        {100000001, 64, "limit"}, {100000000, 64, "cut short"}, {1ull << 63, 64, "limit"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char image[64] = {0};
        for (int k = 0; k < 8; k++)
            image[k] = (char)(rows[i].length >> (8 * k));
        image[8] = '{';
        image[9] = '}';
        char *copy = exact_copy(image, rows[i].n);
        safetensors s;
        assert_int_equal(safetensors_open_memory("m", copy, rows[i].n, &s), WEFT_BAD_FILE);
        expect_message(rows[i].message);
        free(copy);
    }
}

/* Whatever is done to a file: an answer, and nothing read outside of it. */
static weft_status open_exact(const char *p, size_t n) {
    char *copy = exact_copy(p, n);
    safetensors s;
    weft_status st = safetensors_open_memory("m", copy, n, &s);
    if (st == WEFT_OK) {
        for (int i = 0; i < s.ntensor; i++)
            assert_true((const char *)s.tensor[i].data + s.tensor[i].bytes <= copy + n);
        safetensors_close(&s);
    }
    free(copy);
    return st;
}

CASE(every_truncation_is_refused_and_every_flip_survived) {
    st_builder t = st_begin(WEFT_BF16);
    st_add(&t, "model.a", 3, 5);
    st_add(&t, "model.b", 4, 0);
    buf b = st_end(&t, 0);
    assert_int_equal(open_exact(b.data, b.len), WEFT_OK);
    for (size_t n = 0; n < b.len; n++)
        assert_int_equal(open_exact(b.data, n), WEFT_BAD_FILE);
    for (size_t bit = 0; bit < 8 * b.len; bit++) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        open_exact(b.data, b.len);
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    buf_fini(&b);
}

CASE(aliases_of_the_metadata) {
    static const char *const headers[] = {
        "{\"__metadata__\":{\"format\":\"pt\",\"gone\":\"kept\"},"
        "\"kept\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
        "{\"__metadata__\":{\"kept\":\"gone\",\"x\":\"y\"},"
        "\"kept\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
    };
    for (int i = 0; i < 2; i++) {
        safetensors s;
        buf b = st_image(headers[i], "z", 1);
        assert_int_equal(open_image(&b, &s), WEFT_OK);
        assert_int_equal(s.nalias, 1);
        assert_ptr_equal(safetensors_find(&s, "gone"), safetensors_find(&s, "kept"));
        assert_null(safetensors_find(&s, "x"));
        safetensors_close(&s);
        buf_fini(&b);
    }
}

CASE(a_name_that_is_stored_is_no_alias) {
    safetensors s;
    buf b = st_image("{\"__metadata__\":{\"a\":\"b\"},"
                     "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                     "xy", 2);
    assert_int_equal(open_image(&b, &s), WEFT_OK);
    assert_int_equal(s.nalias, 0);
    assert_memory_equal(safetensors_find(&s, "a")->data, "x", 1);
    safetensors_close(&s);
    buf_fini(&b);
}

CASE(a_hundred_thousand_tensors_in_linear_time) {
    enum { N = 100000 };
    buf h;
    buf_init(&h, 1 << 26);
    buf_putc(&h, '{');
    for (int i = 0; i < N; i++)
        buf_printf(&h,
                   "%s\"model.layers.%d.w\":{\"dtype\":\"U8\",\"shape\":[1],"
                   "\"data_offsets\":[%d,%d]}",
                   i ? "," : "", i, i, i + 1);
    buf_putc(&h, '}');
    char *data = calloc(1, N);
    buf b = st_image(h.data, data, N);
    safetensors s;
    double t0 = clock_seconds();
    assert_int_equal(open_image(&b, &s), WEFT_OK);
    assert_true(clock_seconds() - t0 < (SANITIZED ? 10 : 1));
    assert_int_equal(s.ntensor, N);
    assert_ptr_equal(safetensors_find(&s, "model.layers.77777.w")->data,
                     b.data + b.len - N + 77777);
    safetensors_close(&s);
    free(data);
    buf_fini(&b);
    buf_fini(&h);
}

/* ---- Folders ---- */

static char dir[64];

static void put(const char *name, const void *p, size_t n) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static void put_shard(const char *name, const char *tensor) {
    st_builder t = st_begin(WEFT_F32);
    st_add(&t, tensor, 2, 0);
    buf b = st_end(&t, 0);
    put(name, b.data, b.len);
    buf_fini(&b);
}

static void put_index(const char *text) {
    put("model.safetensors.index.json", text, strlen(text));
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/weft-st-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char path[512];
    DIR *d = opendir(dir);
    if (!d)
        return -1;
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    closedir(d);
    return rmdir(dir);
}

static weft_status open_dir(int *ntensor) {
    safetensors s;
    weft_status st = safetensors_open(dir, &s);
    if (st == WEFT_OK) {
        *ntensor = s.ntensor;
        safetensors_close(&s);
    }
    return st;
}

CASE(shards) {
    int n = 0;
    assert_int_equal(open_dir(&n), WEFT_BAD_FILE);
    expect_message("no model.safetensors");
    put_shard("one.safetensors", "a");
    put_shard("two.safetensors", "b");
    put_index("{\"metadata\":{\"total_size\":16},\"weight_map\":{\"b\":\"two.safetensors\","
              "\"a\":\"one.safetensors\"}}");
    assert_int_equal(open_dir(&n), WEFT_OK);
    assert_int_equal(n, 2);
    put_shard("model.safetensors", "c"); /* a whole file wins over an index */
    assert_int_equal(open_dir(&n), WEFT_OK);
    assert_int_equal(n, 1);
}

CASE(bad_indices) {
    static const struct {
        const char *index, *message;
    } rows[] = {
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"none.safetensors\"}}",
         "none.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}",
         "\"b\" is not in"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"again.safetensors\"}}", "two shards"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", "not a file name"},
        {"{\"weight_map\":{\"a\":\"x/one.safetensors\"}}", "not a file name"},
        {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}", "is not in"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "not a file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "not a file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "not a file name"},
        {"{\"weight_map\":{\"a\":\"x\\u0000y\"}}", "not a file name"},
        {"{\"weight_map\":{\"a\":\"link.safetensors\"}}", "links out of"},
        {"{\"weight_map\":{\"a\":\"loop.safetensors\"}}", "loop.safetensors"},
        {"{\"weight_map\":{\"a\":\"pipe.safetensors\"}}", "is a pipe"},
        {"{\"weight_map\":{\"a\":1}}", "index.json:1:"},
        {"{\"weight_map\":[]}", "index.json:1:"},
        {"{\"weight_map\":{}}", "weight_map is missing or empty"},
        {"{\"metadata\":{}}", "weight_map is missing or empty"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}", "duplicate key"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"}", "index.json:1:"},
        {"", "index.json:1:1"},
    };
    char link[128], outside[] = "/tmp/weft-out-XXXXXX";
    int n = 0, fd = mkstemp(outside);
    assert_true(fd >= 0);
    close(fd);
    put_shard("one.safetensors", "a");
    put_shard("two.safetensors", "b");
    put_shard("again.safetensors", "a");
    snprintf(link, sizeof link, "%s/link.safetensors", dir);
    assert_int_equal(symlink(outside, link), 0);
    snprintf(link, sizeof link, "%s/loop.safetensors", dir);
    assert_int_equal(symlink("loop.safetensors", link), 0);
    snprintf(link, sizeof link, "%s/pipe.safetensors", dir);
    assert_int_equal(mkfifo(link, 0600), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        put_index(rows[i].index);
        weft_status s = open_dir(&n);
        if (s != WEFT_BAD_FILE)
            fail_msg("%s: %s", rows[i].index, err_status_name(s));
        expect_message(rows[i].message);
    }
    unlink(outside);
}

/* The hub's cache keeps snapshots/REVISION/NAME as links to ../../blobs/HASH. */
CASE(links_into_the_cache_of_the_hub) {
    char root[] = "/tmp/weft-hub-XXXXXX", path[256], keep[64];
    assert_non_null(mkdtemp(root));
    snprintf(keep, sizeof keep, "%s", dir);
    const char *const folders[] = {"blobs", "snapshots", "snapshots/rev"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", root, folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(dir, sizeof dir, "%s/blobs", root);
    put_shard("hash", "a");
    snprintf(dir, sizeof dir, "%s/snapshots/rev", root);
    put_index("{\"weight_map\":{\"a\":\"s.safetensors\"}}");
    snprintf(path, sizeof path, "%s/s.safetensors", dir);
    assert_int_equal(symlink("../../blobs/hash", path), 0);
    int n = 0;
    assert_int_equal(open_dir(&n), WEFT_OK);
    assert_int_equal(n, 1);
    unlink(path);
    snprintf(path, sizeof path, "%s/snapshots/rev/model.safetensors.index.json", root);
    unlink(path);
    snprintf(path, sizeof path, "%s/blobs/hash", root);
    unlink(path);
    for (int i = 2; i >= 0; i--) {
        snprintf(path, sizeof path, "%s/%s", root, folders[i]);
        rmdir(path);
    }
    rmdir(root);
    snprintf(dir, sizeof dir, "%s", keep);
}

CASE(what_is_written_reads_back) {
    float x[6] = {1, -2, 3, 4.5f, 5, 6};
    uint16_t h[3] = {0x3f80, 0x4000, 0x7fc0};
    st_tensor t[2] = {
        {.name = "logits \"q\"",
         .dtype = WEFT_F32,
         .ndim = 2,
         .shape = {2, 3},
         .bytes = 24,
         .data = x},
        {.name = "h", .dtype = WEFT_BF16, .ndim = 1, .shape = {3}, .bytes = 6, .data = h},
    };
    char path[128];
    snprintf(path, sizeof path, "%s/out.safetensors", dir);
    for (int twice = 0; twice < 2; twice++)
        assert_int_equal(safetensors_write(path, t, 2), WEFT_OK);
    safetensors s;
    assert_int_equal(safetensors_open(path, &s), WEFT_OK);
    assert_int_equal(s.ntensor, 2);
    assert_memory_equal(safetensors_find(&s, t[0].name)->data, x, sizeof x);
    assert_memory_equal(safetensors_find(&s, "h")->data, h, sizeof h);
    assert_int_equal((uintptr_t)safetensors_find(&s, t[0].name)->data % 8, 0);
    safetensors_close(&s);
    assert_int_equal(safetensors_write("/dev/full", t, 2), WEFT_IO);
    expect_message("/dev/full: ");
    assert_int_equal(safetensors_write("/dev/null", t, 2), WEFT_OK);
    assert_int_equal(safetensors_write("/nowhere/x", t, 2), WEFT_IO);
    assert_int_equal(safetensors_write(dir, t, 2), WEFT_IO);
    expect_message("is a folder");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_tensors),
        cmocka_unit_test(odd_but_valid),
        cmocka_unit_test(refused_with_the_reason),
        cmocka_unit_test(header_lengths),
        cmocka_unit_test(every_truncation_is_refused_and_every_flip_survived),
        cmocka_unit_test(aliases_of_the_metadata),
        cmocka_unit_test(a_name_that_is_stored_is_no_alias),
        cmocka_unit_test(a_hundred_thousand_tensors_in_linear_time),
        cmocka_unit_test_setup_teardown(shards, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(bad_indices, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(links_into_the_cache_of_the_hub, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(what_is_written_reads_back, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
