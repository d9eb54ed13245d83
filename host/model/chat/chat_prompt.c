/* SPDX-License-Identifier: Apache-2.0
 * Rendering with marks, and encoding piece by piece only where the whole text would say something
 * else: at a message that spells a control token, and at tokens the model itself wrote. */
#include "host/model/chat/chat_prompt.h"
#include "host/base/err.h"
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include <string.h>

/* Marks are plane 15's private-use characters, two a message: no text that people or models write
 * has them, and where one does, nothing is marked. */
enum { MARK_FIRST = 0xf0000, MARK_LAST = 0xffffd, MARK_MESSAGES = 32767, TEXT_MAX = 1 << 28 };

typedef struct {
    size_t message, begin, end; /* of the content, white space around it left out */
} place;

typedef struct {
    buf text; /* the rendering, without marks */
    place *at;
    size_t n, cap;
} rendering;

/* ---- Messages ---- */

static char *copy(const char *s, size_t n) {
    char *p = mem_alloc(n + 1);
    if (n > 0)
        memcpy(p, s, n);
    return p;
}

chat_message chat_message_new(const char *role, const char *content, size_t n) {
    return (chat_message){.role = copy(role, strlen(role)), .content = copy(content, n), .n = n};
}

void chat_message_free(chat_message *m) {
    mem_free(m->role);
    mem_free(m->content);
    mem_free(m->raw);
    mem_free(m->rest);
    mem_free(m->ids);
    *m = (chat_message){0};
}

bool chat_message_is(const chat_message *m, const char *role) {
    return m->role && strcmp(m->role, role) == 0;
}

static void member(buf *rest, json_str key, json_str value) {
    buf_puts(rest, rest->len ? "," : "");
    buf_json_string(rest, key.s, key.n);
    buf_putc(rest, ':');
    buf_add(rest, value.s, value.n);
}

static json_str string_of(const char *name, json_str raw, arena *a) {
    json j;
    json_init(&j, name, raw.s, raw.n, a);
    return json_string(&j);
}

weft_status chat_message_parse(const char *name, const char *json_text, size_t n,
                               chat_message *out) {
    arena a = {0};
    json j;
    buf rest;
    buf_init(&rest, TEXT_MAX);
    *out = (chat_message){.raw = copy(json_text, n)};
    json_init(&j, name, json_text, n, &a);
    if (json_peek(&j) == JSON_OBJECT) {
        json_object(&j);
        for (json_str key; json_key(&j, &key);) {
            bool text = json_peek(&j) == JSON_STRING;
            json_str value = json_raw(&j);
            if (json_is(key, "content") && text && !json_failed(&j)) {
                json_str s = string_of(name, value, &a);
                out->content = copy(s.s, out->n = s.n);
                continue;
            }
            if (json_is(key, "role") && text && !json_failed(&j)) {
                json_str s = string_of(name, value, &a);
                out->role = copy(s.s, s.n);
            }
            member(&rest, key, value);
        }
    }
    out->rest = copy(rest.data, rest.len);
    buf_fini(&rest);
    arena_fini(&a);
    return WEFT_OK;
}

/* ---- Rendering ---- */

static bool has_mark(const char *s, size_t n) {
    for (const char *p = memchr(s, 0xf3, n); p; p = memchr(p + 1, 0xf3, (size_t)(s + n - p - 1)))
        if (p + 1 < s + n && (unsigned char)p[1] >= 0xb0)
            return true;
    return false;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Content without the white space around it, which templates like to trim. */
static void core(const chat_message *m, size_t *begin, size_t *end) {
    *begin = 0;
    *end = m->n;
    while (*begin < *end && is_space(m->content[*begin]))
        ++*begin;
    while (*end > *begin && is_space(m->content[*end - 1]))
        --*end;
}

static void put_mark(buf *b, size_t message, bool end) {
    char c[4];
    buf_add(b, c, (size_t)utf8_put(c, MARK_FIRST + 2 * (uint32_t)message + end));
}

static void add_marked(chat_args *a, const chat_message *m, size_t index, size_t begin,
                       size_t end) {
    buf text, whole;
    buf_init(&text, TEXT_MAX);
    buf_init(&whole, TEXT_MAX);
    buf_add(&text, m->content, begin);
    put_mark(&text, index, false);
    buf_add(&text, m->content + begin, end - begin);
    put_mark(&text, index, true);
    buf_add(&text, m->content + end, m->n - end);
    if (m->raw) {
        buf_printf(&whole, "{%s%s\"content\":", m->rest, *m->rest ? "," : "");
        buf_json_string(&whole, text.data, text.len);
        buf_putc(&whole, '}');
        chat_args_message_json(a, whole.data, whole.len);
    } else {
        chat_args_message(a, m->role, text.data, text.len);
    }
    buf_fini(&text);
    buf_fini(&whole);
}

/* What is marked: nothing, what others wrote, or that and what the model wrote. */
typedef enum { MARK_NONE, MARK_OTHERS, MARK_ALL } marking;

static void add_message(chat_args *a, const chat_message *m, size_t index, marking marks) {
    size_t begin = 0, end = 0;
    if (m->content && marks != MARK_NONE && (marks == MARK_ALL || !chat_message_is(m, "assistant")))
        core(m, &begin, &end);
    if (begin < end)
        add_marked(a, m, index, begin, end);
    else if (m->raw)
        chat_args_message_json(a, m->raw, strlen(m->raw));
    else
        chat_args_message(a, m->role, m->content, m->n);
}

static weft_status render(const chat_prompt *p, const chat_message *m, size_t n, bool generation,
                          marking marks, chat_output *o) {
    chat_args a;
    chat_args_begin(&a);
    for (size_t i = 0; i < n; i++)
        add_message(&a, &m[i], i, marks);
    for (const char *const *x = p->extra; x && *x; x += 2)
        chat_args_value(&a, x[0], x[1]);
    chat_args_end(&a, generation);
    weft_status s = chat_render(p->template, p->name, a.json.data, a.json.len, p->now, o);
    chat_args_fini(&a);
    return s;
}

static void add_place(rendering *r, place at) {
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 16;
        r->at = mem_grow(r->at, sizeof *r->at * r->cap);
    }
    r->at[r->n++] = at;
}

/* Takes the marks out and notes where they were; false if they are not in pairs. */
static bool unmark(const buf *marked, rendering *r) {
    const char *s = marked->data, *end = s + marked->len;
    size_t open = SIZE_MAX, begin = 0;
    buf_clear(&r->text);
    r->n = 0;
    while (s < end) {
        const char *next = memchr(s, 0xf3, (size_t)(end - s));
        next = next ? next : end;
        buf_add(&r->text, s, (size_t)(next - s));
        uint32_t cp = 0;
        int k = utf8_next(next, end, &cp);
        s = next + (k ? k : next < end);
        if (cp < MARK_FIRST || cp > MARK_LAST) {
            buf_add(&r->text, next, (size_t)(s - next));
            continue;
        }
        size_t message = (cp - MARK_FIRST) / 2;
        bool closes = cp & 1;
        if (closes ? open != message : open != SIZE_MAX)
            return false;
        if (closes)
            add_place(r, (place){message, begin, r->text.len});
        begin = r->text.len;
        open = closes ? SIZE_MAX : message;
    }
    return open == SIZE_MAX;
}

static bool can_mark(const chat_message *m, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (m[i].content && has_mark(m[i].content, m[i].n))
            return false;
    return n <= MARK_MESSAGES;
}

/* The rendering and as many places as the template lets us see; *marks: whose. */
static weft_status render_places(const chat_prompt *p, const chat_message *m, size_t n,
                                 bool generation, rendering *r, marking *marks) {
    chat_output plain, marked;
    chat_output_init(&plain);
    chat_output_init(&marked);
    weft_status s = render(p, m, n, generation, MARK_NONE, &plain);
    for (*marks = can_mark(m, n) ? MARK_ALL : MARK_NONE; s == WEFT_OK && *marks; --*marks) {
        if (render(p, m, n, generation, *marks, &marked) == WEFT_OK && unmark(&marked.text, r) &&
            r->text.len == plain.text.len &&
            memcmp(r->text.data, plain.text.data, plain.text.len) == 0)
            break;
    }
    if (s == WEFT_OK && *marks == MARK_NONE) {
        r->n = 0;
        buf_clear(&r->text);
        buf_add(&r->text, plain.text.data, plain.text.len);
    }
    chat_output_fini(&plain);
    chat_output_fini(&marked);
    return s;
}

static void rendering_init(rendering *r) {
    *r = (rendering){0};
    buf_init(&r->text, TEXT_MAX);
}

static void rendering_fini(rendering *r) {
    buf_fini(&r->text);
    mem_free(r->at);
}

/* ---- Encoding ---- */

static void append(tok_ids *out, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        tok_ids_add(out, ids[i]);
}

/* Control tokens are found everywhere; nothing is added around. */
static weft_status encode_whole(const chat_prompt *p, const char *s, size_t n, tok_ids *out) {
    tok_ids all = {0};
    weft_status st = n ? tokenizer_encode(p->tok, s, n, TOK_SPECIAL, &all) : WEFT_OK;
    if (st == WEFT_OK && all.n > p->nprefix + p->nsuffix)
        append(out, all.v + p->nprefix, all.n - p->nprefix - p->nsuffix);
    tok_ids_fini(&all);
    return st;
}

/* First name of a token in p->split; its place, or n. */
static size_t find_split(const chat_prompt *p, const char *s, size_t n, int32_t *id, size_t *len) {
    size_t first = n;
    for (int i = 0; i < 2; i++) {
        size_t k;
        const char *name = p->split[i] >= 0 ? tokenizer_piece(p->tok, p->split[i], &k) : NULL;
        const char *hit = name ? memmem(s, n, name, k) : NULL;
        if (hit && (size_t)(hit - s) < first) {
            first = (size_t)(hit - s);
            *id = p->split[i];
            *len = k;
        }
    }
    return first;
}

static weft_status encode_control(const chat_prompt *p, const char *s, size_t n, tok_ids *out) {
    while (n > 0) {
        int32_t id = -1;
        size_t len = 0, k = find_split(p, s, n, &id, &len);
        WEFT_TRY(encode_whole(p, s, k, out));
        if (id >= 0)
            tok_ids_add(out, id);
        s += k + len;
        n -= k + len;
    }
    return WEFT_OK;
}

static bool same(const tok_ids *a, const tok_ids *b) {
    return a->n == b->n && (a->n == 0 || memcmp(a->v, b->v, a->n * sizeof *a->v) == 0);
}

static weft_status spells_control(const chat_prompt *p, const chat_message *m, bool *out) {
    tok_ids plain = {0}, control = {0};
    *out = false;
    weft_status s = m->content ? tokenizer_encode(p->tok, m->content, m->n, TOK_PLAIN, &plain)
                               : WEFT_OK;
    if (s == WEFT_OK && m->content)
        s = encode_control(p, m->content, m->n, &control);
    *out = s == WEFT_OK && !same(&plain, &control);
    tok_ids_fini(&plain);
    tok_ids_fini(&control);
    return s;
}

bool chat_ids_spell(const tokenizer *t, const int32_t *ids, size_t n, const char *text,
                    size_t n_text) {
    buf b;
    buf_init(&b, TEXT_MAX);
    bool ok = tokenizer_decode(t, ids, n, true, &b) == WEFT_OK;
    /* A space in front is dropped at the start of a text, and an answer is not one. */
    size_t lead = n_text > 0 && b.len + 1 == n_text && text[0] == ' ';
    ok = ok && b.len + lead == n_text && memcmp(b.data, text + lead, b.len) == 0;
    buf_fini(&b);
    return ok;
}

/* Is what follows encoded the same whether or not it is cut off here? */
static bool clean_at(const chat_prompt *p, const char *s, size_t n) {
    enum { LOOK = 256 };
    if (p->joins || n == 0)
        return true;
    size_t k = n < LOOK ? n : LOOK;
    while (k < n && ((unsigned char)s[k] & 0xc0) == 0x80)
        k--;
    tok_ids ids = {0};
    bool clean = encode_control(p, s, k, &ids) == WEFT_OK && ids.n > 0 &&
                 tokenizer_is_special(p->tok, ids.v[0]);
    tok_ids_fini(&ids);
    return clean;
}

/* The bytes a model wrote, white space included, if they are in the text unchanged. */
static bool verbatim(const chat_prompt *p, const rendering *r, const chat_message *m, place at,
                     place *whole) {
    size_t begin, end;
    core(m, &begin, &end);
    if (!m->ids || at.begin < begin || r->text.len - at.end < m->n - end)
        return false;
    *whole = (place){at.message, at.begin - begin, at.end + (m->n - end)};
    return memcmp(r->text.data + whole->begin, m->content, m->n) == 0 &&
           clean_at(p, r->text.data + whole->end, r->text.len - whole->end);
}

static bool shown_once(const rendering *r, size_t i) {
    return (i == 0 || r->at[i - 1].message != r->at[i].message) &&
           (i + 1 == r->n || r->at[i + 1].message != r->at[i].message);
}

static weft_status encode(const chat_prompt *p, const chat_message *m, const rendering *r,
                          tok_ids *out) {
    const char *s = r->text.data;
    size_t done = 0;
    for (size_t i = 0; i < r->n; i++) {
        const chat_message *x = &m[r->at[i].message];
        place at = r->at[i], whole;
        bool own = shown_once(r, i) && verbatim(p, r, x, at, &whole) && whole.begin >= done;
        if (!own && !x->spells)
            continue;
        at = own ? whole : at;
        WEFT_TRY(encode_control(p, s + done, at.begin - done, out));
        if (own)
            append(out, x->ids, x->n_ids);
        else
            WEFT_TRY(tokenizer_encode(p->tok, s + at.begin, at.end - at.begin, TOK_PLAIN, out));
        done = at.end;
    }
    return encode_control(p, s + done, r->text.len - done, out);
}

weft_status chat_prompt_ids(const chat_prompt *p, const chat_message *m, size_t n, tok_ids *out,
                            bool *exposed) {
    rendering r;
    marking marks = MARK_NONE;
    rendering_init(&r);
    weft_status s = render_places(p, m, n, true, &r, &marks);
    *exposed = false;
    tok_ids ids = {0};
    chat_message *known = mem_alloc(sizeof *known * (n + 1)); /* with `spells` filled in */
    for (size_t i = 0; i < n && s == WEFT_OK; i++) {
        known[i] = m[i];
        s = spells_control(p, &m[i], &known[i].spells);
        bool located = marks == MARK_ALL ||
                       (marks == MARK_OTHERS && !chat_message_is(&m[i], "assistant"));
        *exposed |= known[i].spells && !located;
    }
    if (s == WEFT_OK)
        s = encode(p, known, &r, &ids);
    if (s == WEFT_OK) {
        int32_t bos = tokenizer_bos(p->tok);
        if (p->bos && bos >= 0 && (ids.n == 0 || ids.v[0] != bos))
            tok_ids_add(out, bos);
        append(out, ids.v, ids.n);
    }
    tok_ids_fini(&ids);
    mem_free(known);
    rendering_fini(&r);
    return s;
}

/* ---- What the tokenizer and the template are like ---- */

static bool built_in(const char *name) {
    for (const char *const *b = chat_template_builtins(); *b; b++)
        if (strcmp(*b, name) == 0)
            return true;
    return false;
}

/* Templates write BOS and EOS as text, and not every tokenizer finds them inside one: a
 * SentencePiece model nowhere, some old files at the start only. */
static int32_t split_at(const tokenizer *t, int32_t id) {
    size_t n;
    const char *name = id >= 0 ? tokenizer_piece(t, id, &n) : NULL;
    if (!name || n == 0)
        return -1;
    tok_ids ids = {0};
    char *text = mem_alloc(n + 3);
    text[0] = text[n + 1] = 'a';
    memcpy(text + 1, name, n);
    bool found = tokenizer_encode(t, text, n + 2, TOK_SPECIAL, &ids) != WEFT_OK;
    for (size_t i = 1; i < ids.n; i++)
        found |= ids.v[i] == id && i + 1 < ids.n; /* not the one that is added at an end */
    tok_ids_fini(&ids);
    mem_free(text);
    return found ? -1 : id;
}

weft_status chat_prompt_init(chat_prompt *p, const tokenizer *t, const chat_template *template) {
    tok_ids bare = {0}, with = {0};
    *p = (chat_prompt){.tok = t, .template = template, .now = chat_now(), .split = {-1, -1}};
    weft_status s = tokenizer_encode(t, "a", 1, TOK_PLAIN, &bare);
    if (s == WEFT_OK)
        s = tokenizer_encode(t, "a", 1, TOK_SPECIAL, &with);
    if (s == WEFT_OK && bare.n > 0 && with.n >= bare.n) {
        while (p->nprefix + bare.n < with.n && with.v[p->nprefix] != bare.v[0])
            p->nprefix++;
        p->nsuffix = with.n - p->nprefix - bare.n;
        size_t n = 0;
        const char *piece = tokenizer_piece(t, bare.v[0], &n);
        p->joins = piece && n > 0 && piece[0] == 'a';
    }
    tok_ids_fini(&bare);
    tok_ids_fini(&with);
    if (s != WEFT_OK)
        return s;
    p->bos = built_in(chat_template_name(template)) && tokenizer_adds_bos(t);
    p->split[0] = split_at(t, tokenizer_bos(t));
    p->split[1] = split_at(t, tokenizer_eos(t));
    return WEFT_OK;
}

/* The control token or the <word> a text starts with, white space left out. */
static void end_of_turn(const chat_prompt *p, const char *s, size_t n, int32_t *id, char *text) {
    tok_ids ids = {0};
    if (encode_control(p, s, n, &ids) != WEFT_OK)
        return;
    for (size_t i = 0; i < ids.n && *id < 0; i++)
        if (tokenizer_is_special(p->tok, ids.v[i]))
            *id = ids.v[i];
    tok_ids_fini(&ids);
    while (n > 0 && is_space(*s))
        s++, n--;
    size_t k = 0;
    while (k < n && !is_space(s[k]))
        k++;
    if (*id < 0 && k > 2 && k < CHAT_STOP_TEXT && s[0] == '<' && s[k - 1] == '>') {
        memcpy(text, s, k);
        text[k] = 0;
    }
}

void chat_prompt_stop(const chat_prompt *p, int32_t *id, char text[CHAT_STOP_TEXT]) {
    chat_message m[2] = {chat_message_new("user", "a", 1), chat_message_new("assistant", "b", 1)};
    rendering r;
    marking marks = MARK_NONE;
    rendering_init(&r);
    *id = -1;
    text[0] = 0;
    /* A template that refuses this conversation tells nothing; EOS and --stop remain. */
    if (render_places(p, m, 2, false, &r, &marks) == WEFT_OK && r.n > 0 &&
        r.at[r.n - 1].message == 1) {
        size_t end = r.at[r.n - 1].end;
        end_of_turn(p, r.text.data + end, r.text.len - end, id, text);
    }
    err_clear();
    rendering_fini(&r);
    chat_message_free(&m[0]);
    chat_message_free(&m[1]);
}
