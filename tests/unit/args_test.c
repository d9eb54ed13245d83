/* SPDX-License-Identifier: Apache-2.0
 * Arguments: what is taken, and the exact words and status of what is not. */
#include "host/base/args.h"
#include "tests/unit/unit.h"
#include <stdio.h>

typedef struct {
    bool json;
    int64_t n, ctx;
    double temp;
    const char *prompt, *device;
    arg_list stop;
} opts;

static const arg_spec specs[] = {
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "Write JSON.", offsetof(opts, json)},
    {"predict", "n", "n-predict", ARG_INT, "N", -1, INT32_MAX, "-1", "Tokens to generate.",
     offsetof(opts, n)},
    {"ctx-size", "c", NULL, ARG_INT, "N", 0, 1e18, NULL, "Context.", offsetof(opts, ctx)},
    {"temp", "", "temperature", ARG_FLOAT, "T", 0, 100, "0.8", "Temperature.",
     offsetof(opts, temp)},
    {"prompt", "p", NULL, ARG_STRING, "TEXT", 0, 0, NULL, "Prompt.", offsetof(opts, prompt)},
    {"stop", "", NULL, ARG_LIST, "TEXT", 0, 0, NULL, "Stop string.", offsetof(opts, stop)},
    {"device", "", NULL, ARG_CHOICE, "auto|ref|cpu", 0, 0, "auto",
     "Where to run, said in a sentence that is long enough to be broken into two lines of help.",
     offsetof(opts, device)},
};
enum { NSPEC = sizeof specs / sizeof *specs, MAX_WORDS = 16 };

static const char *positional[2];
static int npositional;

/* `line` is words with blanks between; "" inside a word cannot be said and is not needed. */
static weft_status parse(opts *o, const char *line) {
    static char text[512];
    char *argv[MAX_WORDS + 1];
    int argc = 0;
    *o = (opts){.ctx = 77};
    snprintf(text, sizeof text, "%s", line);
    for (char *w = strtok(text, " "); w && argc < MAX_WORDS; w = strtok(NULL, " "))
        argv[argc++] = w;
    argv[argc] = NULL;
    weft_status s = args_parse(specs, NSPEC, argc, argv, o, positional, 2, &npositional);
    mem_free(o->stop.item);
    return s;
}

CASE(presets) {
    opts o;
    assert_int_equal(parse(&o, ""), WEFT_OK);
    assert_false(o.json);
    assert_int_equal(o.n, -1);
    assert_int_equal(o.ctx, 77); /* no preset: left alone */
    assert_true(o.temp == 0.8);
    assert_null(o.prompt);
    assert_string_equal(o.device, "auto");
    assert_int_equal(o.stop.n, 0);
    assert_int_equal(npositional, 0);
}

CASE(every_form) {
    opts o;
    assert_int_equal(parse(&o, "model -n 5 --ctx-size=+8 --json --temperature 1e-1 -p -- -5 x"),
                     WEFT_USAGE); /* "-p --" takes "--" as its text, so -5 is an option */
    assert_int_equal(parse(&o, "model -n 5 --ctx-size=+8 --json --temperature 1e-1 -p -x -- -5"),
                     WEFT_OK);
    assert_int_equal(o.n, 5);
    assert_int_equal(o.ctx, 8);
    assert_true(o.json);
    assert_true(o.temp == 0.1);
    assert_string_equal(o.prompt, "-x");
    assert_int_equal(npositional, 2);
    assert_string_equal(positional[0], "model");
    assert_string_equal(positional[1], "-5");
    assert_int_equal(parse(&o, "--prompt=--temp --n-predict -1 - --device=ref"), WEFT_OK);
    assert_string_equal(o.prompt, "--temp");
    assert_string_equal(o.device, "ref");
    assert_string_equal(positional[0], "-");
    assert_int_equal(parse(&o, "--prompt="), WEFT_OK);
    assert_string_equal(o.prompt, "");
    assert_int_equal(parse(&o, "--prompt=a=b"), WEFT_OK);
    assert_string_equal(o.prompt, "a=b");
}

CASE(lists_keep_their_order) {
    char *argv[40];
    char words[20][16];
    for (int i = 0; i < 20; i++) {
        snprintf(words[i], sizeof words[i], "s%d", i);
        argv[2 * i] = "--stop";
        argv[2 * i + 1] = words[i];
    }
    opts o = {0};
    assert_int_equal(args_parse(specs, NSPEC, 40, argv, &o, NULL, 0, &npositional), WEFT_OK);
    assert_int_equal(o.stop.n, 20);
    for (int i = 0; i < 20; i++)
        assert_string_equal(o.stop.item[i], words[i]);
    mem_free(o.stop.item);
}

CASE(refusals) {
    static const struct {
        const char *line, *message;
    } rows[] = {
        {"--tmep 1", "--tmep: unknown option; did you mean --temp?"},
        {"--ctx-szie=4", "--ctx-szie: unknown option; did you mean --ctx-size?"},
        {"--temprature 1", "--temprature: unknown option; did you mean --temperature?"},
        {"--frobnicate", "--frobnicate: unknown option"},
        {"-q", "-q: unknown option"},
        {"-n5", "-n5: unknown option"},
        {"-n=5", "-n=5: unknown option"},
        {"--", NULL},
        {"---json", "---json: unknown option; did you mean --json?"},
        {"--=5", "--: unknown option"},
        {"-json", "-json: unknown option; did you mean --json?"},
        {"--predict", "--predict: needs a value; give --predict N"},
        {"-n", "-n: needs a value; give -n N"},
        {"-p --temp 0", "-p: needs a value, not another option; to mean it, write --prompt=--temp"},
        {"--json=1", "--json: takes no value"},
        {"--json --json", "--json: is given twice; give it once"},
        {"-n 1 --n-predict 2", "--n-predict: is given twice; give it once"},
        {"-n 5x", "-n: \"5x\" is not an integer"},
        {"-n 1e3", "-n: \"1e3\" is not an integer"},
        {"-n 1.0", "-n: \"1.0\" is not an integer"},
        {"-n 0x10", "-n: \"0x10\" is not an integer"},
        {"-n +", "-n: \"+\" is not an integer"},
        {"--predict=", "--predict: \"\" is not an integer"},
        {"-n -2", "-n: -2 is out of range (-1 to 2147483647)"},
        {"-n 2147483648", "-n: 2147483648 is out of range (-1 to 2147483647)"},
        {"-n 99999999999999999999", "-n: 99999999999999999999 is out of range"},
        {"-c 9223372036854775807", "-c: 9223372036854775807 is out of range"},
        {"--temp nan", "--temp: \"nan\" is not a number"},
        {"--temp inf", "--temp: \"inf\" is not a number"},
        {"--temp 0x1p3", "--temp: \"0x1p3\" is not a number"},
        {"--temp 1e9x", "--temp: \"1e9x\" is not a number"},
        {"--temp .", "--temp: \".\" is not a number"},
        {"--temp 1e", "--temp: \"1e\" is not a number"},
        {"--temp 1,5", "--temp: \"1,5\" is not a number"},
        {"--temp -0.1", "--temp: -0.1 is out of range (0 to 100)"},
        {"--temp 1e999", "--temp: 1e999 is out of range (0 to 100)"},
        {"--device gpu", "--device: \"gpu\" is not a choice; one of auto|ref|cpu"},
        {"--device=", "--device: \"\" is not a choice; one of auto|ref|cpu"},
        {"--device au", "--device: \"au\" is not a choice"},
        {"--device auto|ref", "--device: \"auto|ref\" is not a choice"},
        {"a b c", "c: one argument too many (limit 2)"},
        {"a -- b -n", "-n: one argument too many (limit 2)"},
        {"a --temp 5. -n 3 --temp=.5", "--temp: is given twice"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        opts o;
        err_clear();
        weft_status s = parse(&o, rows[i].line);
        if (s != (rows[i].message ? WEFT_USAGE : WEFT_OK))
            fail_msg("%s: status %d", rows[i].line, s);
        if (rows[i].message)
            expect_message(rows[i].message);
    }
}

CASE(absurdly_long_words) {
    static char word[1 << 20] = "--";
    memset(word + 2, 'x', sizeof word - 3);
    char *argv[] = {word};
    opts o = {0};
    assert_int_equal(args_parse(specs, NSPEC, 1, argv, &o, NULL, 0, &npositional), WEFT_USAGE);
    assert_true(strlen(err_message()) < 300);
    word[2] = '9';
    char *numbers[] = {"-n", word + 2};
    memset(word + 2, '9', sizeof word - 3);
    assert_int_equal(args_parse(specs, NSPEC, 2, numbers, &o, NULL, 0, &npositional), WEFT_USAGE);
    expect_message("out of range");
}

CASE(numbers_at_their_limits) {
    opts o;
    assert_int_equal(parse(&o, "-n 2147483647 -c 1000000000000000000 --temp 1e2"), WEFT_OK);
    assert_int_equal(o.n, 2147483647);
    assert_int_equal(o.ctx, 1000000000000000000);
    assert_true(o.temp == 100);
    assert_int_equal(parse(&o, "--temp .5"), WEFT_OK);
    assert_true(o.temp == 0.5);
}

CASE(lists_of_integers) {
    static const struct {
        const char *text, *message;
        int64_t n, last;
    } rows[] = {
        {"1", NULL, 1, 1},
        {"1,2,3", NULL, 3, 3},
        {"0,-0,99", NULL, 3, 99},
        {"", "--ids: \"\" (item 1) is not an integer", 0, 0},
        {"1,,2", "--ids: \"\" (item 2) is not an integer", 0, 0},
        {"1,", "--ids: \"\" (item 2) is not an integer", 0, 0},
        {",1", "--ids: \"\" (item 1) is not an integer", 0, 0},
        {"1, 2", "--ids: \" 2\" (item 2) is not an integer", 0, 0},
        {"1;2", "--ids: \"1;2\" (item 1) is not an integer", 0, 0},
        {"1,2x", "--ids: \"2x\" (item 2) is not an integer", 0, 0},
        {"1,100", "--ids: 100 (item 2) is out of range (0 to 99)", 0, 0},
        {"-1", "--ids: -1 (item 1) is out of range (0 to 99)", 0, 0},
        {"9223372036854775808", "is out of range (0 to 99)", 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t *ids = NULL, n = 0;
        weft_status s = args_int_list("--ids", rows[i].text, 0, 99, &ids, &n);
        if (rows[i].message) {
            assert_int_equal(s, WEFT_USAGE);
            assert_null(ids);
            expect_message(rows[i].message);
        } else {
            assert_int_equal(s, WEFT_OK);
            assert_int_equal(n, rows[i].n);
            assert_int_equal(ids[n - 1], rows[i].last);
        }
        mem_free(ids);
    }
    int64_t *both, n;
    assert_int_equal(args_int_list("k", "-9223372036854775808,9223372036854775807", INT64_MIN,
                                   INT64_MAX, &both, &n),
                     WEFT_OK);
    assert_true(both[0] == INT64_MIN && both[1] == INT64_MAX);
    mem_free(both);
}

CASE(nearest_word) {
    static const char *const words[] = {"run", "score", "tokenize", "inspect", "plan", "bench"};
    static const struct {
        const char *word, *near;
    } rows[] = {{"rnu", "run"},        {"tokenise", "tokenize"},
                {"bnech", "bench"},    {"plam", "plan"},
                {"scores", "score"},   {"xyz", NULL},
                {"q", NULL},           {"", NULL},
                {"inspct", "inspect"}, {"serialise", NULL},
                {"run", "run"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *near = args_nearest(rows[i].word, words, 6);
        if (!near != !rows[i].near || (near && strcmp(near, rows[i].near) != 0))
            fail_msg("%s: %s", rows[i].word, near ? near : "none");
    }
}

CASE(help_is_aligned_and_fits) {
    buf b;
    buf_init(&b, 1 << 16);
    args_help(&b, specs, NSPEC, 60);
    for (const char *line = b.data; *line;) {
        size_t n = strcspn(line, "\n");
        assert_in_range(n, 1, 60);
        line += n + 1;
    }
    assert_non_null(strstr(b.data, "      --json                 Write JSON.\n"));
    assert_non_null(strstr(b.data, "  -n, --predict N            Tokens to generate. (default:\n"
                                   "                             -1)\n"));
    assert_non_null(strstr(b.data, "      --device auto|ref|cpu  Where to run, said in a\n"));
    buf_fini(&b);
}

CASE(help_folds_many_choices) {
    static const arg_spec one = {"task", "", NULL, ARG_CHOICE, "alpha|beta|gamma|delta|epsilon",
                                 0,      0,  NULL, "What.",    0};
    buf b;
    buf_init(&b, 1 << 12);
    args_help(&b, &one, 1, 30);
    assert_non_null(strstr(b.data, "      --task alpha|beta|gamma|\n"
                                   "          delta|epsilon\n"));
    buf_fini(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets),
        cmocka_unit_test(every_form),
        cmocka_unit_test(lists_keep_their_order),
        cmocka_unit_test(refusals),
        cmocka_unit_test(absurdly_long_words),
        cmocka_unit_test(numbers_at_their_limits),
        cmocka_unit_test(lists_of_integers),
        cmocka_unit_test(nearest_word),
        cmocka_unit_test(help_is_aligned_and_fits),
        cmocka_unit_test(help_folds_many_choices),
    };
    return cmocka_run_group_tests_name("args", tests, NULL, NULL);
}
