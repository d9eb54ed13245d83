/* SPDX-License-Identifier: Apache-2.0
 * The template language against jinja2 (tests/golden/jinja.jsonl, made by jinja.py there), bad
 * templates with the place of their error, limits, and the layer above: where a template is found,
 * the shape of messages, the assistant's spans. */
#include "host/base/buf.h"
#include "host/base/clock.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/model/chat/chat.h"
#include "host/model/chat/jinja.h"
#include "tests/unit/unit.h"
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define GOLDEN "tests/golden/jinja.jsonl"
#define NOW 1783155906 /* 2026-07-04T09:05:06 */

static weft_status render(const char *text, size_t n, const char *args, jinja_output *o) {
    jinja_template *t = NULL;
    char *copy = exact_copy(text, n);
    weft_status s = jinja_compile("t", copy, n, &t);
    free(copy);
    if (s != WEFT_OK)
        return s;
    s = jinja_render(t, "args", args, strlen(args), NULL, NOW, o);
    jinja_free(t);
    return s;
}

static void expect_text(const char *text, const char *args, const char *want) {
    jinja_output o;
    jinja_output_init(&o);
    if (render(text, strlen(text), args, &o) != WEFT_OK)
        fail_msg("%s: %s", text, err_message());
    if (strcmp(o.text.data, want) != 0)
        fail_msg("%s: \"%s\" instead of \"%s\"", text, o.text.data, want);
    jinja_output_fini(&o);
}

/* ---- jinja2's own results ---- */

typedef struct {
    json_str text, want;
    int64_t args;
    bool error;
} row;

static row read_row(json *j) {
    row r = {.error = false};
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "template"))
            r.text = json_string(j);
        else if (json_is(key, "text"))
            r.want = json_string(j);
        else if (json_is(key, "args"))
            r.args = json_int(j, 0, 1);
        else
            r.error = json_bool(j);
    }
    assert_int_equal(json_done(j), WEFT_OK);
    return r;
}

static int check_row(const row *r, const char *args) {
    jinja_output o;
    jinja_output_init(&o);
    weft_status s = render(r->text.s, r->text.n, args, &o);
    bool same = o.text.len == r->want.n &&
                (r->want.n == 0 || memcmp(o.text.data, r->want.s, r->want.n) == 0);
    bool ok = r->error ? s == WEFT_BAD_FILE && o.text.len == 0 : s == WEFT_OK && same;
    if (!ok)
        print_error("%.*s\n  is   %s\n  want %.*s\n", (int)r->text.n, r->text.s,
                    s == WEFT_OK ? o.text.data : err_message(), (int)r->want.n,
                    r->error ? "an error" : r->want.s);
    if (s != WEFT_OK && strncmp(err_message(), "t:", 2) != 0)
        ok = false;
    jinja_output_fini(&o);
    return !ok;
}

CASE(language_is_that_of_jinja2) {
    arena a = {0};
    const char *text;
    size_t n;
    const char *args[2] = {"{}", "{}"};
    int rows = 0, wrong = 0;
    assert_int_equal(file_read(GOLDEN, 16 << 20, &a, &text, &n), WEFT_OK);
    json *j = ARENA_NEW(&a, json, 1);
    for (const char *p = text, *end; (end = strchr(p, '\n')); p = end + 1, rows++) {
        json_init(j, GOLDEN, p, (size_t)(end - p), &a);
        if (rows > 0) {
            row r = read_row(j);
            wrong += check_row(&r, args[r.args]);
            continue;
        }
        json_object(j);
        for (json_str key; json_key(j, &key);)
            if (json_is(key, "args")) {
                json_array(j);
                for (int i = 0; json_item(j) && i < 2; i++)
                    args[i] = json_dup(&a, json_raw(j));
            }
        assert_int_equal(json_done(j), WEFT_OK);
    }
    assert_true(rows > 700);
    assert_int_equal(wrong, 0);
    arena_fini(&a);
}

CASE(integers_past_64_bits) {
    expect_text("{{ x }} {{ x | tojson }} {{ x == x }} {{ x > 1 }} {{ -9223372036854775808 }} "
                "{{ -x }} {{ (-x) | abs == x }}",
                "{\"x\": 123456789012345678901234567890}",
                "123456789012345678901234567890 123456789012345678901234567890 True True "
                "-9223372036854775808 -123456789012345678901234567890 True");
}

CASE(places_in_long_text) {
    expect_text(
        "{% set s = '\xc3\xa9' * 200 ~ 'abc' ~ '\xf0\x9f\x98\x80' * 64 %}{{ s[199:204] }}"
        "{{ s[128] }}{{ s[200] }}{{ s[192:194] }}{{ s[-1] }}{{ s.find('c') }}{{ s[202:205:2] }}"
        "{{ s | length }}{{ s.rfind('\xc3\xa9') }}{{ s[266:] | length }}",
        "{}",
        "\xc3\xa9"
        "abc\xf0\x9f\x98\x80\xc3\xa9"
        "a\xc3\xa9\xc3\xa9\xf0\x9f\x98\x80"
        "202c\xf0\x9f\x98\x80"
        "2671991");
}

CASE(arguments_beat_special_tokens) {
    jinja_template *t;
    jinja_output o;
    const char *text = "{{ a }}{{ b }}{{ tools }}{{ documents }}{{ c is defined }}";
    assert_int_equal(jinja_compile("t", text, strlen(text), &t), WEFT_OK);
    jinja_output_init(&o);
    assert_int_equal(jinja_render(t, "args", "{\"a\":1}", 7, "{\"a\":2,\"b\":3}", 0, &o), WEFT_OK);
    assert_string_equal(o.text.data, "13NoneNoneFalse");
    jinja_output_fini(&o);
    jinja_free(t);
}

/* ---- Bad templates ---- */

static const struct {
    const char *text, *place, *what;
} bad[] = {
    {"{% for x in l %}", "1:4", "'for' is never closed"},
    {"a\n  {% if x %}", "2:6", "'if' is never closed"},
    {"{% endif %}", "1:4", "unknown tag 'endif'"},
    {"{% for x in l %}{% endif %}", "1:20", "which 'endfor' closes"},
    {"{% frobnicate %}", "1:4", "unknown tag 'frobnicate'"},
    {"{% do x %}", "1:4", "unknown tag 'do'"},
    {"{%", "1:3", "expected the name of a tag"},
    {"{{", "1:3", "expected an expression"},
    {"{{ }}", "1:4", "expected an expression"},
    {"{{ 1 2 }}", "1:6", "expected '}}', got '2'"},
    {"{{ (1 }}", "1:7", "unexpected '}', expected ')'"},
    {"{{ 1) }}", "1:5", "unexpected ')'"},
    {"{{ 'abc }}", "1:4", "this string has no end"},
    {"{{ '\\u12' }}", "1:4", "cut off escape"},
    {"{{ '\\ud800' }}", "1:4", "no character"},
    {"{{ a # b }}", "1:6", "unexpected character '#'"},
    {"{# never", "1:1", "this comment has no end"},
    {"{% raw %}x", "1:10", "raw text has no end"},
    {"{{ x | nothing }}", "1:8", "no filter is named 'nothing'"},
    {"{{ x is nothing }}", "1:9", "no test is named 'nothing'"},
    {"{% if 0 %}{% else %}{{ x | nothing }}{% endif %}", "1:28", "no filter is named"},
    {"{% break %}", "1:4", "'break' outside of a loop"},
    {"{% macro f(a, a) %}{% endmacro %}", "1:15", "twice"},
    {"{% macro f(a=1, b) %}{% endmacro %}", "1:17", "without default"},
    {"{{ f(a=1, 2) }}", "1:11", "positions, keywords"},
    {"{% set 1 = 2 %}", "1:8", "constant cannot be assigned"},
    {"{% set l.x = 2 %}", "1:8", "non-namespace"},
    {"{% include 'other' %}", "1:4", "cannot reach another one"},
    {"{% extends 'other' %}", "1:4", "cannot reach another one"},
    {"x\ny {{ 1 // 0 }}", "2:8", "division by zero"},
    {"{{ 1 % 0.0 }}", "1:6", "division by zero"},
    {"{{ 'a' + 1 }}", "1:8", "can only concatenate str (not \"int\") to str"},
    {"{{ nobody.name }}", "1:10", "'nobody' is undefined"},
    {"{{ l[9].name }}", "1:8", "list object has no element 9"},
    {"{{ d.x.y }}", "1:7", "'dict object' has no attribute 'x'"},
    {"{{ 'abc'.index('x') }}", "1:15", "substring not found"},
    {"{{ l.append(1) }}", "1:12", "unsafe"},
    {"{{ ''.__class__.__mro__ }}", "1:16", "unsafe"},
    {"{{ 5 in none }}", "1:6", "not iterable"},
    {"{% for a, b in l %}{% endfor %}", "1:8", "not iterable"},
    {"{{ l | sort(attribute='x') | list }}{{ [1, 'a'] | sort }}", "1:51", "not supported between"},
    {"{{ raise_exception('no \"such\" role') }}", "1:19", "no \"such\" role"},
    {"{{ [].x.y }}", "1:8", "no attribute 'x'"},
    {"{{ range(1000000) }}", "1:9", "range too big"},
    {"{{ 'ab' * 1000000000 }}", "1:9", "repeated"},
    {"{{ [1] * 1000000000 }}", "1:8", "too much memory"},
    {"{{ 9223372036854775807 + 1 }}", "1:24", "too large (64 bits)"},
    {"{{ 2 ** 64 }}", "1:6", "too large (64 bits)"},
    {"{{ '%1000000000d' % 1 }}", "1:19", "a width past"},
    {"{{ 'x' | center(10 ** 12) }}", "1:10", "characters"},
    {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "1:20", "nested too deeply"},
    {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "1:32", "nested too deeply"},
    {"{% set n = namespace() %}{% set n.n = n %}{{ n }}", "1:46", "nested too deeply"},
    {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "1:32",
     "does not end"},
    {"{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
     "1:72", "limit 16777216"},
    {"{% set n = namespace(s=1) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
     "{{ n.s | tojson }}",
     "1:100", "does not end"},
};

CASE(bad_templates_are_named_by_place) {
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        jinja_output o;
        char want[64];
        jinja_output_init(&o);
        snprintf(want, sizeof want, "t:%s: ", bad[i].place);
        weft_status s = render(bad[i].text, strlen(bad[i].text), "{\"l\":[1,2],\"d\":{}}", &o);
        if (s != WEFT_BAD_FILE || strncmp(err_message(), want, strlen(want)) != 0 ||
            !strstr(err_message(), bad[i].what) || o.text.len > 0)
            fail_msg("%s: \"%s\" lacks \"%s\" or \"%s\"", bad[i].text,
                     s == WEFT_OK ? "no error" : err_message(), want, bad[i].what);
        jinja_output_fini(&o);
    }
    assert_true(sizeof bad / sizeof *bad >= 40);
}

CASE(brackets_and_blocks_nest_to_a_limit) {
    buf b;
    jinja_output o;
    buf_init(&b, SIZE_MAX);
    jinja_output_init(&o);
    static const char *const piece[] = {"{{ ((((((((((", "{% if 1 %}", "{{ not not not not",
                                        "{{ -----------", "{{ 1 if 1 else 1 if 1 else "};
    for (int k = 0; k < 5; k++) {
        buf_clear(&b);
        for (int i = 0; i < 20000; i++)
            buf_puts(&b, piece[k] + (i ? 2 : 0));
        assert_int_equal(render(b.data, b.len, "{}", &o), WEFT_BAD_FILE);
    }
    buf_clear(&b);
    for (int i = 0; i <= JINJA_SOURCE_MAX; i++)
        buf_putc(&b, 'x');
    assert_int_equal(render(b.data, b.len, "{}", &o), WEFT_BAD_FILE);
    expect_message("too many for a template");
    assert_int_equal(render("a\n\xff", 3, "{}", &o), WEFT_BAD_FILE);
    expect_message("t:2: invalid UTF-8");
    jinja_output_fini(&o);
    buf_fini(&b);
}

CASE(raised_text_is_exact) {
    jinja_output o;
    const char *text = "{{ raise_exception('a\\n\\tb' ~ '\\x00' ~ 'c') }}";
    jinja_output_init(&o);
    assert_int_equal(render(text, strlen(text), "{}", &o), WEFT_BAD_FILE);
    assert_true(o.did_raise);
    assert_int_equal(o.raised.len, 6);
    assert_memory_equal(o.raised.data, "a\n\tb\0c", 6);
    assert_int_equal(render("{{ 1/0 }}", 9, "{}", &o), WEFT_BAD_FILE);
    assert_false(o.did_raise);
    assert_int_equal(o.raised.len, 0);
    jinja_output_fini(&o);
}

/* ---- Time ---- */

static double best_ms(const char *text, const char *args, size_t *len) {
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        jinja_output o;
        jinja_output_init(&o);
        double t0 = clock_seconds();
        if (render(text, strlen(text), args, &o) != WEFT_OK)
            fail_msg("%s", err_message());
        double ms = (clock_seconds() - t0) * 1e3;
        best = ms < best ? ms : best;
        *len = o.text.len;
        jinja_output_fini(&o);
    }
    return best;
}

CASE(time_is_linear) {
    chat_args a;
    size_t len;
    chat_args_begin(&a);
    for (int i = 0; i < 1000; i++)
        chat_args_message(&a, i % 2 ? "assistant" : "user", "Some words of a turn.", 21);
    chat_args_end(&a, true);
    double turns = best_ms(
        "{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim ~ eos }}\n"
        "{% if loop.last and add_generation_prompt %}<assistant>{% endif %}{% endfor %}",
        a.json.data, &len);
    assert_int_equal(len, 500 * (6 + 21 + 1) + 500 * (11 + 21 + 1) + 11);
    double grow = best_ms("{% set n = namespace(s='') %}{% for i in range(100000) %}"
                          "{% set n.s = n.s + 'sixteen letters.' %}{% endfor %}{{ n.s }}",
                          "{}", &len);
    assert_int_equal(len, 1600000);
    if (!SANITIZED && (turns > 50 || grow > 1000))
        fail_msg("1000 turns %.1f ms (limit 50), 100000 appends %.1f ms (limit 1000)", turns, grow);
    chat_args_fini(&a);
}

/* ---- Chat: shapes, spans, names ---- */

static const struct {
    const char *args, *what;
} shapes[] = {
    {"[]", "must be an object, not an array"},
    {"{\"messages\":{}}", "messages: must be an array of messages, not an object"},
    {"{\"messages\":[1]}", "messages[0]: must be an object, not a number"},
    {"{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role: missing"},
    {"{\"messages\":[{\"role\":1}]}", "messages[0].role: must be a string, not a number"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"\"},{\"role\":\"user\",\"content\":\"\"},"
     "{\"role\":\"user\",\"content\":5}]}",
     "messages[2].content: must be a string, null or an array of parts, not a number"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{},7]}]}",
     "messages[0].content[1]: must be an object with a type, not a number"},
    {"{\"messages\":[{\"role\":\"a\",\"tool_calls\":{}}]}",
     "messages[0].tool_calls: must be an array"},
    {"{\"messages\":[{\"role\":\"a\",\"tool_calls\":[1]}]}",
     "messages[0].tool_calls[0]: must be an"},
    {"{\"tools\":5}", "tools: must be an array of objects, not a number"},
    {"{\"documents\":[[]]}", "documents[0]: must be an object, not an array"},
    {"{\"add_generation_prompt\":1}", "add_generation_prompt: must be true or false, not a number"},
    {"{\"messages\":[}", "arguments:1:14: "},
    {"{\"a\":1,\"a\":2}", "arguments:1:"},
    {"", "arguments:1:1: "},
};

CASE(messages_of_a_wrong_shape_are_named_by_path) {
    chat_template *t;
    chat_output o;
    chat_output_init(&o);
    assert_int_equal(chat_template_open(NULL, "chatml", &t), WEFT_OK);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const char *args = shapes[i].args;
        char *copy = exact_copy(args, strlen(args));
        assert_int_equal(chat_render(t, NULL, copy, strlen(args), 0, &o), WEFT_BAD_FILE);
        expect_message(shapes[i].what);
        assert_int_equal(o.text.len, 0);
        free(copy);
    }
    assert_int_equal(chat_render(t, "m.json", "{\"tools\":5}", 11, 0, &o), WEFT_BAD_FILE);
    expect_message("m.json: tools: must be");
    chat_output_fini(&o);
    chat_template_close(t);
}

static void expect_spans(const char *text, const char *args, chat_spans how, const char *want) {
    chat_template *t;
    chat_output o;
    buf b;
    chat_output_init(&o);
    buf_init(&b, SIZE_MAX);
    o.want_spans = true;
    if (chat_template_parse("t", text, strlen(text), NULL, &t) != WEFT_OK ||
        chat_render(t, NULL, args, strlen(args), 0, &o) != WEFT_OK)
        fail_msg("%s", err_message());
    for (size_t i = 0; i < o.nspan; i++) {
        buf_add(&b, o.text.data + o.span[i].begin, o.span[i].end - o.span[i].begin);
        buf_putc(&b, '|');
    }
    assert_int_equal(o.spans, how);
    assert_string_equal(b.data, want);
    buf_fini(&b);
    chat_output_fini(&o);
    chat_template_close(t);
}

#define TALK                                                                               \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"\xc3\xa9\"},{\"role\":\"assistant\","  \
    "\"content\":\"one\"},{\"role\":\"user\",\"content\":\"b\"},{\"role\":\"assistant\","   \
    "\"content\":\"two\"}],\"add_generation_prompt\":false,\"bos\":\"<s>\"}"

CASE(spans_of_the_assistant) {
    expect_spans("{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
                 "{% generation %}{{ m.content }}.{% endgeneration %}{% else %}{{ m.content }}"
                 "{% endif %}{% endfor %}",
                 TALK, CHAT_SPANS_MARKED, "one.|two.|");
    expect_spans("{{ bos }}{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
                 "{% if add_generation_prompt %}[assistant]{% endif %}",
                 TALK, CHAT_SPANS_PREFIX, "one</s>|two</s>|");
    /* a template that shows only the last answer: no prefix is its own rendering */
    expect_spans("{% for m in messages %}[{{ m.role }}]{% if loop.last or m.role == 'user' %}"
                 "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]"
                 "{% endif %}",
                 TALK, CHAT_SPANS_UNKNOWN, "");
    /* text of a generation tag inside a macro has no place of its own: prefixes say where it is */
    expect_spans("{% macro a(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
                 "{% for m in messages %}[{{ m.role }}]{{ a(m) }}{% endfor %}"
                 "{% if add_generation_prompt %}[assistant]{% endif %}",
                 TALK, CHAT_SPANS_PREFIX, "one|two|");
}

static void expect_builtin(const char *name, const char *want, size_t spans) {
    static const char talk[] = "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":"
                               "\"user\",\"content\":\"a\"},"
                               "{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\","
                               "\"content\":[{\"type\":\"text\","
                               "\"text\":\"c\"}]}],\"add_generation_prompt\":true,\"bos_token\":\"<"
                               "s>\",\"eos_token\":\"</s>\"}";
    chat_template *t;
    chat_output o;
    chat_output_init(&o);
    o.want_spans = true;
    if (chat_template_open(NULL, name, &t) != WEFT_OK ||
        chat_render(t, NULL, talk, strlen(talk), 0, &o) != WEFT_OK)
        fail_msg("%s: %s", name, err_message());
    assert_string_equal(o.text.data, want);
    assert_int_equal(o.spans, CHAT_SPANS_MARKED);
    assert_int_equal(o.nspan, spans);
    assert_string_equal(chat_template_name(t), name);
    chat_output_fini(&o);
    chat_template_close(t);
}

CASE(builtin_templates) {
    static const char *const want[][2] = {
        {"chatml",
         "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant"
         "\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"},
        {"llama-2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]"},
        {"llama-3",
         "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user"
         "<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nb"
         "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"mistral", "<s>[INST] S\n\na [/INST] b</s>[INST] c [/INST]"},
        {"gemma",
         "<s><start_of_turn>user\nS\n\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n"
         "<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n"},
        {"phi-3",
         "<|system|>\nS<|end|>\n<|user|>\na<|end|>\n<|assistant|>\nb<|end|>\n<|user|>\nc<|end|>"
         "\n<|assistant|>\n"},
        {"vicuna", "<s>S USER: a ASSISTANT: b</s>USER: c ASSISTANT:"},
        {"zephyr", "<|system|>\nS</s>\n<|user|>\na</s>\n<|assistant|>\nb</s>\n<|user|>\nc</s>\n"
                   "<|assistant|>\n"},
        {"alpaca", "<s>S\n\n### Instruction:\na\n\n### Response:\nb</s>\n\n### Instruction:\nc\n\n"
                   "### Response:\n"},
        {"deepseek", "<s>S<\xef\xbd\x9cUser\xef\xbd\x9c>a<\xef\xbd\x9c"
                     "Assistant\xef\xbd\x9c>b</s><\xef\xbd\x9cUser\xef\xbd\x9c>c<\xef\xbd\x9c"
                     "Assistant\xef\xbd\x9c>"},
        {"command-r",
         "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>"
         "<|USER_TOKEN|>a<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>b"
         "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>c<|END_OF_TURN_TOKEN|>"
         "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"},
    };
    const char *const *names = chat_template_builtins();
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_string_equal(names[i], want[i][0]);
        expect_builtin(want[i][0], want[i][1], 1);
    }
    assert_null(names[sizeof want / sizeof *want]);
}

static void put_file(const char *dir, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text)), WEFT_OK);
}

static void expect_found(const char *dir, const char *choice, const char *args, const char *want) {
    chat_template *t;
    chat_output o;
    chat_output_init(&o);
    if (chat_template_open(dir, choice, &t) != WEFT_OK ||
        chat_render(t, NULL, args, strlen(args), 0, &o) != WEFT_OK)
        fail_msg("%s", err_message());
    assert_string_equal(o.text.data, want);
    chat_output_fini(&o);
    chat_template_close(t);
}

CASE(templates_are_found) {
    char dir[] = "/tmp/weft-chat-XXXXXX", path[512];
    chat_template *t;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chat_template_open(dir, NULL, &t), WEFT_USAGE);
    expect_message("has no chat template; give --chat-template FILE or one of: chatml,");
    put_file(dir, "tokenizer_config.json",
             "{\"bos_token\":{\"content\":\"<b>\"},\"eos_token\":\"<e>\",\"pad_token\":null,"
             "\"chat_template\":\"one {{ bos_token }}{{ eos_token }}{{ pad_token is defined }}\"}");
    expect_found(dir, NULL, "{}", "one <b><e>False");
    expect_found(dir, NULL, "{\"bos_token\":\"!\"}", "one !<e>False");
    put_file(
        dir, "tokenizer_config.json",
        "{\"chat_template\":[{\"name\":\"default\",\"template\":\"plain\"},{\"name\":\"tool_use\","
        "\"template\":\"tools\"},{\"template\":\"named\",\"name\":\"rag\"}]}");
    expect_found(dir, NULL, "{}", "plain");
    expect_found(dir, NULL, "{\"tools\":null}", "plain");
    expect_found(dir, NULL, "{\"tools\":[{}]}", "tools");
    expect_found(dir, "rag", "{\"tools\":[{}]}", "named");
    put_file(dir, "chat_template.jinja", "file {{ 1");
    assert_int_equal(chat_template_open(dir, NULL, &t), WEFT_BAD_FILE);
    expect_message("/chat_template.jinja:1:10: expected '}}'");
    put_file(dir, "chat_template.jinja", "file\n");
    expect_found(dir, NULL, "{}", "file");
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    expect_found(path, NULL, "{}", "file");
    expect_found(NULL, path, "{}", "file");
    assert_int_equal(chat_template_open(dir, "nosuch", &t), WEFT_USAGE);
    expect_message("--chat-template nosuch: no file and no template of this name");
    put_file(dir, "tokenizer_config.json", "{\"chat_template\":5}");
    assert_int_equal(chat_template_open(dir, NULL, &t), WEFT_BAD_FILE);
    expect_message("tokenizer_config.json:1:18");
    unlink(path);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

CASE(times_as_written) {
    int64_t t;
    assert_int_equal(chat_now_parse("2026-07-04T09:05:06", &t), WEFT_OK);
    assert_int_equal(t, NOW);
    static const char *const wrong[] = {"",
                                        "2026-07-04",
                                        "2026-02-30T00:00:00",
                                        "2026-07-04 09:05:06",
                                        "2026-07-04T24:00:00",
                                        "2026-07-04T09:05:06Z",
                                        "0000-01-01T00:00:00"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(chat_now_parse(wrong[i], &t), WEFT_USAGE);
    expect_text("{{ strftime_now('%d %b %Y') }}", "{}", "04 Jul 2026");
}

CASE(arguments_are_built) {
    chat_args a;
    chat_args_begin(&a);
    chat_args_message(&a, "user", "a\"\n\xff", 4);
    chat_args_message_json(&a, "{\"role\":\"x\"}", 12);
    chat_args_value(&a, "enable_thinking", "false");
    chat_args_end(&a, true);
    assert_string_equal(
        a.json.data, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\\"\\n\xef\xbf\xbd\"},"
                     "{\"role\":\"x\"}],\"add_generation_prompt\":true,\"enable_thinking\":false}");
    chat_args_fini(&a);
}

/* ---- One template, many threads ---- */

typedef struct {
    const jinja_template *t;
    int failures;
} worker;

static void *work(void *p) {
    worker *w = p;
    for (int i = 0; i < 50; i++) {
        jinja_output o;
        jinja_output_init(&o);
        weft_status s = jinja_render(w->t, "args", "{\"n\":40}", 8, NULL, 0, &o);
        w->failures += s != WEFT_OK || o.text.len != 40 * 3 + 2;
        jinja_output_fini(&o);
    }
    return NULL;
}

CASE(threads_share_a_template) {
    const char *text = "{% set s = '\xc3\xa9' ~ 'a' %}{% for i in range(n) %}{{ '\xc3\xa9z'[0:2] }}"
                       "{% endfor %}{{ s[1] }}{{ 'abc'[n % 3] }}";
    jinja_template *t;
    pthread_t thread[4];
    worker w[4];
    assert_int_equal(jinja_compile("t", text, strlen(text), &t), WEFT_OK);
    for (int i = 0; i < 4; i++) {
        w[i] = (worker){.t = t};
        assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(w[i].failures, 0);
    }
    jinja_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(language_is_that_of_jinja2),
        cmocka_unit_test(integers_past_64_bits),
        cmocka_unit_test(places_in_long_text),
        cmocka_unit_test(arguments_beat_special_tokens),
        cmocka_unit_test(bad_templates_are_named_by_place),
        cmocka_unit_test(brackets_and_blocks_nest_to_a_limit),
        cmocka_unit_test(raised_text_is_exact),
        cmocka_unit_test(time_is_linear),
        cmocka_unit_test(messages_of_a_wrong_shape_are_named_by_path),
        cmocka_unit_test(spans_of_the_assistant),
        cmocka_unit_test(builtin_templates),
        cmocka_unit_test(templates_are_found),
        cmocka_unit_test(times_as_written),
        cmocka_unit_test(arguments_are_built),
        cmocka_unit_test(threads_share_a_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
