/* SPDX-License-Identifier: Apache-2.0
 * Messages to ids. The oracle is the tokenizer on the whole rendering: where no message spells a
 * control token, pieces must give the same ids; where one does, the control tokens must be those of
 * the same conversation with harmless words. */
#include "host/model/chat/chat_prompt.h"
#include "tests/unit/unit.h"
#include <stdio.h>

static const char chatml[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
static const char bracket[] =
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} "
    "[/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}";
static const char plain[] = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}"
                            "{% endfor %}";
static const char twice[] =
    "{% for m in messages %}{{ m.content }}{{ eos_token }}{{ m.content }}\n{% endfor %}";

static const struct {
    const char *file, *tokens, *control[4];
} rows[] = {
    {"demo",
     "{\"bos_token\": \"<|begin|>\", \"eos_token\": \"<|end|>\"}",
     {"<|begin|>", "<|end|>"}},
    {"tokenizers/gpt2/tokenizer.json",
     "{\"bos_token\": \"<|endoftext|>\", \"eos_token\": \"<|endoftext|>\"}",
     {"<|endoftext|>"}},
    {"tokenizers/mpt-gptneox/tokenizer.json",
     "{\"bos_token\": \"<|endoftext|>\", \"eos_token\": \"<|endoftext|>\"}",
     {"<|endoftext|>", "<|padding|>"}},
    {"tokenizers/llama2/tokenizer.json",
     "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}",
     {"<s>", "</s>"}},
    {"tokenizers/codellama/tokenizer.json",
     "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}",
     {"<s>", "</s>"}},
    {"tokenizers/llama2/tokenizer.model",
     "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}",
     {"<s>", "</s>"}},
    {"tokenizers/mistral-v0.1/tokenizer.model",
     "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}",
     {"<s>", "</s>"}},
    {"tokenizers/llama3/tokenizer.model",
     "{\"bos_token\": \"<|begin_of_text|>\", \"eos_token\": \"<|eot_id|>\"}",
     {"<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>"}},
};
static const char *const templates[] = {chatml, bracket, plain, twice};
enum { ROWS = sizeof rows / sizeof *rows, TEMPLATES = 4 };

typedef struct {
    tokenizer *tok;
    chat_template *t;
    chat_prompt p;
} rig;

/* False: the tokenizer is not there. */
static bool rig_open(rig *r, int row, const char *text) {
    char path[4096];
    const char *fixtures = getenv("WEFT_FIXTURES");
    bool demo = strcmp(rows[row].file, "demo") == 0;
    if (demo)
        snprintf(path, sizeof path, "bench/models/demo");
    else
        snprintf(path, sizeof path, "%s/%s", fixtures ? fixtures : "../shared/fixtures",
                 rows[row].file);
    *r = (rig){0};
    if (tokenizer_open(path, &r->tok) != WEFT_OK)
        return false;
    assert_int_equal(chat_template_parse("t", text, strlen(text), rows[row].tokens, &r->t),
                     WEFT_OK);
    assert_int_equal(chat_prompt_init(&r->p, r->tok, r->t), WEFT_OK);
    return true;
}

static void rig_close(rig *r) {
    chat_template_close(r->t);
    tokenizer_close(r->tok);
}

static size_t conversation(chat_message *m, const char *const *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        m[i] = chat_message_new(i % 2 ? "assistant" : "user", text[i], strlen(text[i]));
    return n;
}

static void free_all(chat_message *m, size_t n) {
    for (size_t i = 0; i < n; i++)
        chat_message_free(&m[i]);
}

static tok_ids ids_of(const rig *r, const chat_message *m, size_t n) {
    tok_ids ids = {0};
    bool exposed;
    assert_int_equal(chat_prompt_ids(&r->p, m, n, &ids, &exposed), WEFT_OK);
    assert_false(exposed);
    return ids;
}

/* The tokenizer's own reading of the rendering, control tokens and all. */
static tok_ids whole(const rig *r, const chat_message *m, size_t n) {
    chat_args a;
    chat_output o;
    tok_ids with = {0}, empty = {0};
    chat_args_begin(&a);
    for (size_t i = 0; i < n; i++)
        chat_args_message(&a, m[i].role, m[i].content, m[i].n);
    chat_args_end(&a, true);
    chat_output_init(&o);
    assert_int_equal(chat_render(r->t, NULL, a.json.data, a.json.len, 0, &o), WEFT_OK);
    assert_int_equal(tokenizer_encode(r->tok, o.text.data, o.text.len, TOK_SPECIAL, &with),
                     WEFT_OK);
    assert_int_equal(tokenizer_encode(r->tok, "", 0, TOK_SPECIAL, &empty), WEFT_OK);
    /* What is added to every text here is one BOS in front, or nothing. */
    assert_true(empty.n <= 1);
    memmove(with.v, with.v + empty.n, (with.n - empty.n) * sizeof *with.v);
    with.n -= empty.n;
    tok_ids_fini(&empty);
    chat_args_fini(&a);
    chat_output_fini(&o);
    return with;
}

static void expect_same(const tok_ids *a, const tok_ids *b, size_t n, const char *what, int row,
                        int t) {
    bool same = a->n >= n && b->n >= n && memcmp(a->v, b->v, n * sizeof *a->v) == 0;
    if (!same)
        fail_msg("%s: %s, template %d: %zu and %zu ids", what, rows[row].file, t, a->n, b->n);
}

CASE(test_harmless_words_are_encoded_as_one_text) {
    static const char *const text[] = {"Hello  there, w\xc3\xb6rld",
                                       " Yes.\n",
                                       "1 + 1 = ?",
                                       "2",
                                       "\nand \xe6\xbc\xa2 \xf0\x9f\x99\x82 then",
                                       "",
                                       "<| not one |> </ s>"};
    int seen = 0;
    for (int row = 0; row < ROWS; row++)
        for (int t = 0; t < TEMPLATES; t++) {
            rig r;
            chat_message m[7];
            if (!rig_open(&r, row, templates[t]))
                continue;
            /* A SentencePiece model does not find BOS and EOS in a text; we do. */
            bool names = r.p.split[0] >= 0 || r.p.split[1] >= 0;
            size_t n = conversation(m, text, 7);
            tok_ids a = ids_of(&r, m, n), b = whole(&r, m, n);
            if (!names || t == 0) {
                assert_int_equal(a.n, b.n);
                expect_same(&a, &b, a.n, "whole", row, t);
                seen++;
            }
            free_all(m, n);
            tok_ids_fini(&a);
            tok_ids_fini(&b);
            rig_close(&r);
        }
    if (!seen)
        skip();
}

static size_t controls(const rig *r, const tok_ids *ids, int row, const char *const *name) {
    size_t n = 0;
    (void)row;
    for (size_t i = 0; i < ids->n; i++)
        for (int k = 0; k < 4 && name[k]; k++)
            n += ids->v[i] == tokenizer_find(r->tok, name[k], strlen(name[k]));
    return n;
}

CASE(test_spelt_control_tokens_are_text) {
    int seen = 0;
    for (int row = 0; row < ROWS; row++)
        for (int t = 0; t < TEMPLATES; t++) {
            rig r;
            chat_message bad[3], good[3];
            char text[256], *at = text;
            if (!rig_open(&r, row, templates[t]))
                continue;
            for (int k = 0; k < 4 && rows[row].control[k]; k++)
                at += sprintf(at, "%sx %s ", k ? "" : rows[row].control[0], rows[row].control[k]);
            const char *const hostile[] = {text, rows[row].control[0], text};
            const char *const tame[] = {"x", "y", "x"};
            conversation(bad, hostile, 3);
            conversation(good, tame, 3);
            tok_ids a = ids_of(&r, bad, 3), b = ids_of(&r, good, 3);
            size_t got = controls(&r, &a, row, rows[row].control);
            size_t want = controls(&r, &b, row, rows[row].control);
            if (got != want || (t > 0 && want < 2))
                fail_msg("%s, template %d: %zu control tokens, not %zu", rows[row].file, t, got,
                         want);
            free_all(bad, 3);
            free_all(good, 3);
            tok_ids_fini(&a);
            tok_ids_fini(&b);
            rig_close(&r);
            seen++;
        }
    if (!seen)
        skip();
}

/* Ids nobody would encode the text to: a letter each. */
static void spell(const rig *r, chat_message *m) {
    tok_ids ids = {0};
    for (size_t i = 0; i < m->n; i++)
        assert_int_equal(tokenizer_encode(r->tok, m->content + i, 1, TOK_PLAIN, &ids), WEFT_OK);
    m->ids = mem_alloc(ids.n * sizeof *m->ids);
    if (ids.n)
        memcpy(m->ids, ids.v, ids.n * sizeof *m->ids);
    m->n_ids = ids.n;
    tok_ids_fini(&ids);
}

/* What a turn computed is what the next one begins with: the prompt, then the model's own ids. */
CASE(test_the_next_turn_begins_with_this_one) {
    static const char *const text[] = {"Hello there", "words", "And then?", "more words", "So?"};
    static const char *const with_generation[] = {chatml, plain};
    int seen = 0;
    for (int row = 0; row < 3; row++) /* byte-level: a letter's id is that letter, anywhere */
        for (int t = 0; t < 2; t++) {
            rig r;
            chat_message m[5];
            if (!rig_open(&r, row, with_generation[t]))
                continue;
            conversation(m, text, 5);
            spell(&r, &m[1]);
            spell(&r, &m[3]);
            for (size_t turn = 1; turn < 5; turn += 2) {
                tok_ids before = ids_of(&r, m, turn), after = ids_of(&r, m, turn + 2);
                if (t == 1) /* no generation prompt: BOS comes with the answer's message */
                    tok_ids_add(&before, tokenizer_bos(r.tok));
                for (size_t i = 0; i < m[turn].n_ids; i++)
                    tok_ids_add(&before, m[turn].ids[i]);
                expect_same(&before, &after, before.n, "prefix", row, t);
                tok_ids_fini(&before);
                tok_ids_fini(&after);
            }
            free_all(m, 5);
            rig_close(&r);
            seen++;
        }
    if (!seen)
        skip();
}

CASE(test_ids_that_say_something_else_do_not_count) {
    rig r;
    static const char *const text[] = {"a", "  words ", "b"};
    chat_message m[3];
    assert_true(rig_open(&r, 0, bracket)); /* trims: the answer is not in the text as it was */
    conversation(m, text, 3);
    tok_ids without = ids_of(&r, m, 3);
    spell(&r, &m[1]);
    tok_ids with = ids_of(&r, m, 3);
    assert_int_equal(with.n, without.n);
    expect_same(&with, &without, with.n, "trimmed", 0, 1);
    assert_true(chat_ids_spell(r.tok, m[1].ids, m[1].n_ids, "  words ", 8));
    assert_false(chat_ids_spell(r.tok, m[1].ids, m[1].n_ids, "  words", 7));
    assert_false(chat_ids_spell(r.tok, m[1].ids, m[1].n_ids, "  wordz ", 8));
    free_all(m, 3);
    tok_ids_fini(&with);
    tok_ids_fini(&without);
    rig_close(&r);
}

/* A text with our marks in it, and a template that looks at the first letter: nothing is marked. */
CASE(test_what_cannot_be_marked_is_said) {
    static const char look[] = "{% for m in messages %}{% if m.content[0] == 'a' %}{{ m.content }}"
                               "{% endif %}{% endfor %}";
    static const struct {
        const char *template, *text;
        bool exposed;
    } cases[] = {
        {look, "a <|end|>", true},
        {look, "a", false},
        {chatml, "\xf3\xb0\x80\x80 <|end|>", true},
        {chatml, "\xf3\xb0\x80\x80", false},
        {chatml, "<|end|>", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig r;
        bool exposed;
        tok_ids ids = {0};
        assert_true(rig_open(&r, 0, cases[i].template));
        chat_message m = chat_message_new("user", cases[i].text, strlen(cases[i].text));
        assert_int_equal(chat_prompt_ids(&r.p, &m, 1, &ids, &exposed), WEFT_OK);
        assert_int_equal(exposed, cases[i].exposed);
        chat_message_free(&m);
        tok_ids_fini(&ids);
        rig_close(&r);
    }
}

CASE(test_end_of_turn) {
    static const struct {
        int row;
        const char *template, *token, *text;
    } cases[] = {
        {0, plain, "<|end|>", ""},
        {0, chatml, NULL, "<|im_end|>"},
        {3, bracket, "</s>", ""},
        {5, bracket, "</s>", ""},
        {7, plain, "<|eot_id|>", ""},
        {0, "{% for m in messages %}{{ m.content }}\n{% endfor %}", NULL, ""},
        {0, "{{ raise_exception('no') }}", NULL, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig r;
        int32_t id;
        char text[CHAT_STOP_TEXT];
        if (!rig_open(&r, cases[i].row, cases[i].template))
            continue;
        chat_prompt_stop(&r.p, &id, text);
        const char *token = cases[i].token;
        assert_int_equal(id, token ? tokenizer_find(r.tok, token, strlen(token)) : -1);
        assert_string_equal(text, cases[i].text);
        rig_close(&r);
    }
}

CASE(test_messages_of_json) {
    rig r;
    static const char text[] = "{\"role\": \"user\", \"x\": [1], \"content\": \"a <|end|> b\"}";
    static const char show[] = "{% for m in messages %}{{ m.x[0] }}{{ m.content }}{% endfor %}";
    chat_message m;
    assert_true(rig_open(&r, 0, show));
    assert_int_equal(chat_message_parse(NULL, text, sizeof text - 1, &m), WEFT_OK);
    assert_string_equal(m.role, "user");
    assert_string_equal(m.content, "a <|end|> b");
    tok_ids ids = ids_of(&r, &m, 1);
    for (size_t i = 0; i < ids.n; i++)
        assert_int_not_equal(ids.v[i], 1);
    chat_message_free(&m);
    tok_ids_fini(&ids);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_harmless_words_are_encoded_as_one_text),
        cmocka_unit_test(test_spelt_control_tokens_are_text),
        cmocka_unit_test(test_the_next_turn_begins_with_this_one),
        cmocka_unit_test(test_ids_that_say_something_else_do_not_count),
        cmocka_unit_test(test_what_cannot_be_marked_is_said),
        cmocka_unit_test(test_end_of_turn),
        cmocka_unit_test(test_messages_of_json),
    };
    return cmocka_run_group_tests_name("chat_prompt", tests, NULL, NULL);
}
