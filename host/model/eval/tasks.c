/* SPDX-License-Identifier: Apache-2.0
 * The tasks: how a row of each data set becomes contexts and continuations, word for word as
 * lm-evaluation-harness's task files have it. Rows that already are {"query", "choices", "gold"}
 * are taken too. */
#include "host/base/err.h"
#include "host/model/eval/eval.h"
#include <string.h>

static const text space = {" ", 1};

static void add_pair(eval_item *it, text context, text continuation, text choice) {
    it->pair[it->n++] = (eval_pair){context, continuation, choice};
}

static void add_choices(arena *a, eval_item *it, text context, const text *choice, int n) {
    for (int i = 0; i < n; i++)
        add_pair(it, context, TEXT_JOIN(a, space, choice[i]), choice[i]);
}

static bool ends_in(text t, const char *end) {
    size_t n = strlen(end);
    return t.n >= n && memcmp(t.s + t.n - n, end, n) == 0;
}

/* ---- Rows that are questions already ---- */

static weft_status read_choices(const row *r, const char *choices, const char *gold, text *choice,
                                int *n, int *label) {
    WEFT_TRY(row_texts(r, choices, EVAL_MAX_CHOICES, choice, n));
    return row_index(r, gold, *n, label);
}

static bool is_question(const row *r) {
    return row_find(r, "query") && row_find(r, "choices");
}

static weft_status question(const row *r, eval_item *it) {
    text query, choice[EVAL_MAX_CHOICES];
    int n;
    WEFT_TRY(row_text(r, "query", &query));
    WEFT_TRY(
        read_choices(r, "choices", row_find(r, "gold") ? "gold" : "label", choice, &n, &it->gold));
    query = text_rstrip(query);
    if (!ends_in(query, "Answer:"))
        query = TEXT_JOIN(r->a, query, text_of("\nAnswer:"));
    add_choices(r->a, it, query, choice, n);
    return WEFT_OK;
}

/* ---- HellaSwag ---- */

/* re.sub("\\[.*?\\]", "", text) */
static text without_brackets(arena *a, text t) {
    char *out = arena_alloc(a, t.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < t.n;) {
        size_t end = i;
        while (t.s[i] == '[' && end < t.n && t.s[end] != ']' && t.s[end] != '\n')
            end++;
        if (t.s[i] == '[' && end < t.n && t.s[end] == ']')
            i = end + 1;
        else
            out[n++] = t.s[i++];
    }
    return (text){out, n};
}

text eval_hellaswag_text(arena *a, text t) {
    t = text_replace(a, text_strip(t), " [title]", ". ");
    return text_replace(a, without_brackets(a, t), "  ", " ");
}

static weft_status hellaswag_context(const row *r, text *out) {
    text label, ctx, b;
    if (row_find(r, "query"))
        return row_text(r, "query", out);
    WEFT_TRY(row_text(r, "activity_label", &label));
    if (row_find(r, "ctx_a")) {
        WEFT_TRY(row_text(r, "ctx_a", &ctx));
        WEFT_TRY(row_text(r, "ctx_b", &b));
        ctx = TEXT_JOIN(r->a, ctx, space, text_capitalize(r->a, b));
    } else {
        WEFT_TRY(row_text(r, "ctx", &ctx));
    }
    *out = TEXT_JOIN(r->a, label, text_of(": "), ctx);
    return WEFT_OK;
}

static weft_status hellaswag(const row *r, eval_item *it) {
    text context, choice[EVAL_MAX_CHOICES];
    int n;
    bool ours = is_question(r);
    WEFT_TRY(hellaswag_context(r, &context));
    WEFT_TRY(read_choices(r, ours ? "choices" : "endings",
                          ours && row_find(r, "gold") ? "gold" : "label", choice, &n, &it->gold));
    for (int i = 0; i < n; i++)
        choice[i] = eval_hellaswag_text(r->a, choice[i]);
    add_choices(r->a, it, eval_hellaswag_text(r->a, context), choice, n);
    return WEFT_OK;
}

/* ---- ARC, PIQA, BoolQ: "Question: ...\nAnswer:" ---- */

/* {"choices": {"text": [...], "label": ["A", ...]}, "answerKey": "A"} */
static weft_status arc(const row *r, eval_item *it) {
    text q, key, choice[EVAL_MAX_CHOICES], label[EVAL_MAX_CHOICES];
    int n, nlabel;
    if (is_question(r))
        return question(r, it);
    const row_field *f = row_find(r, "choices");
    WEFT_TRY(row_text(r, "question", &q));
    if (!f || f->kind != JSON_OBJECT)
        return row_fail(r, "has no object \"choices\" with \"text\" and \"label\"");
    row inner = {
        .file = r->file, .line = r->line, .a = r->a, .field = (row_field[2]){{.key = {0}}}};
    json j;
    json_init(&j, "choices", f->raw.s, f->raw.n, r->a);
    json_object(&j);
    for (json_str k; json_key(&j, &k);)
        if (inner.n < 2 && (json_is(k, "text") || json_is(k, "label"))) {
            json_kind kind = json_peek(&j);
            inner.field[inner.n++] = (row_field){k, json_raw(&j), kind};
        }
    WEFT_TRY(row_texts(&inner, "text", EVAL_MAX_CHOICES, choice, &n));
    WEFT_TRY(row_texts(&inner, "label", EVAL_MAX_CHOICES, label, &nlabel));
    WEFT_TRY(row_text(r, "answerKey", &key));
    for (it->gold = 0; it->gold < nlabel; it->gold++)
        if (label[it->gold].n == key.n && memcmp(label[it->gold].s, key.s, key.n) == 0)
            break;
    if (nlabel != n || it->gold == nlabel)
        return row_fail(r, "\"answerKey\" is none of the %d labels of \"choices\"", nlabel);
    q = TEXT_JOIN(r->a, text_of("Question: "), q, text_of("\nAnswer:"));
    add_choices(r->a, it, q, choice, n);
    return WEFT_OK;
}

static weft_status piqa(const row *r, eval_item *it) {
    text goal, sol[2];
    if (is_question(r))
        return question(r, it);
    WEFT_TRY(row_text(r, "goal", &goal));
    WEFT_TRY(row_text(r, "sol1", &sol[0]));
    WEFT_TRY(row_text(r, "sol2", &sol[1]));
    WEFT_TRY(row_index(r, "label", 2, &it->gold));
    goal = TEXT_JOIN(r->a, text_of("Question: "), goal, text_of("\nAnswer:"));
    add_choices(r->a, it, goal, sol, 2);
    return WEFT_OK;
}

static weft_status boolq(const row *r, eval_item *it) {
    const text choice[2] = {text_of("no"), text_of("yes")};
    text passage, q;
    if (is_question(r))
        return question(r, it);
    WEFT_TRY(row_text(r, "passage", &passage));
    WEFT_TRY(row_text(r, "question", &q));
    WEFT_TRY(row_index(r, row_find(r, "answer") ? "answer" : "label", 2, &it->gold));
    q = TEXT_JOIN(r->a, passage, text_of("\nQuestion: "), q, text_of("?\nAnswer:"));
    add_choices(r->a, it, q, choice, 2);
    return WEFT_OK;
}

/* ---- WinoGrande: the option stands in the context, what follows the blank is scored ---- */

static weft_status options_given(const row *r, eval_item *it) {
    text context[EVAL_MAX_CHOICES], rest;
    int n;
    WEFT_TRY(read_choices(r, "context_options", "gold", context, &n, &it->gold));
    WEFT_TRY(row_text(r, "continuation", &rest));
    rest = TEXT_JOIN(r->a, space, text_strip(rest));
    for (int i = 0; i < n; i++)
        add_pair(it, context[i], rest, context[i]);
    return WEFT_OK;
}

static weft_status winogrande(const row *r, eval_item *it) {
    static const char *const option_key[2] = {"option1", "option2"};
    text sentence, answer, option[2];
    if (row_find(r, "context_options"))
        return options_given(r, it);
    WEFT_TRY(row_text(r, "sentence", &sentence));
    for (int i = 0; i < 2; i++)
        WEFT_TRY(row_text(r, option_key[i], &option[i]));
    WEFT_TRY(row_text(r, "answer", &answer));
    const char *blank = memchr(sentence.s, '_', sentence.n);
    if (!blank)
        return row_fail(r, "\"sentence\" has no \"_\"");
    if (answer.n != 1 || (answer.s[0] != '1' && answer.s[0] != '2'))
        return row_fail(r, "\"answer\" is neither \"1\" nor \"2\"");
    it->gold = answer.s[0] - '1';
    text head = {sentence.s, (size_t)(blank - sentence.s)};
    text rest = text_strip((text){blank + 1, sentence.n - head.n - 1});
    rest = TEXT_JOIN(r->a, space, rest);
    for (int i = 0; i < 2; i++)
        add_pair(it, TEXT_JOIN(r->a, head, option[i]), rest, option[i]);
    return WEFT_OK;
}

/* ---- LAMBADA: the last word of a passage ---- */

static weft_status lambada(const row *r, eval_item *it) {
    text t, word;
    if (row_find(r, "context")) {
        WEFT_TRY(row_text(r, "context", &t));
        WEFT_TRY(row_text(r, "continuation", &word));
    } else {
        WEFT_TRY(row_text(r, "text", &t));
        const char *cut = memrchr(t.s, ' ', t.n);
        if (!cut)
            return row_fail(r, "\"text\" is a single word");
        word = (text){cut + 1, t.n - (size_t)(cut + 1 - t.s)};
        t.n = (size_t)(cut - t.s);
    }
    add_pair(it, t, TEXT_JOIN(r->a, space, word), word);
    return WEFT_OK;
}

const eval_task eval_tasks[] = {
    {"hellaswag", "the likeliest of four endings", EVAL_CHOICE, true, hellaswag},
    {"arc_easy", "science questions", EVAL_CHOICE, true, arc},
    {"arc_challenge", "science questions that retrieval gets wrong", EVAL_CHOICE, true, arc},
    {"piqa", "which of two solutions is physically sensible", EVAL_CHOICE, true, piqa},
    {"boolq", "yes or no, from a passage", EVAL_CHOICE, false, boolq},
    {"winogrande", "which of two a blank stands for", EVAL_CHOICE, false, winogrande},
    {"lambada", "the last word of a passage", EVAL_LAMBADA, false, lambada},
    {"perplexity", "perplexity of a text", EVAL_PERPLEXITY, false, NULL},
    {"bleu", "BLEU and chrF of translations", EVAL_TRANSLATION, false, NULL},
    {"rouge", "ROUGE-1, 2, L and Lsum of summaries", EVAL_TRANSLATION, false, NULL},
    {.name = NULL},
};

const eval_task *eval_task_find(const char *name) {
    for (const eval_task *t = eval_tasks; t->name; t++)
        if (strcmp(t->name, name) == 0)
            return t;
    return NULL;
}
