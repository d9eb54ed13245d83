/* SPDX-License-Identifier: Apache-2.0
 * Tokens by their probability, for eyes: in a terminal, in a pipe, in a browser. Backgrounds are
 * light and letters black, so that dark and light themes can both be read. */
#include "host/cmd/explain.h"
#include "host/base/utf8.h"
#include "host/cmd/cmd.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    int32_t id; /* -1: text that was held back till the end */
    int32_t n_top;
    float logprob;
    size_t at, n; /* text that became certain with it */
    size_t top;   /* of its first alternative */
} entry;

typedef struct {
    int32_t id;
    float logprob;
} alternative;

static const entry *entries(const explain *e, size_t *n) {
    *n = e->tokens.len / sizeof(entry);
    return (const entry *)(const void *)e->tokens.data;
}

static const alternative *alternatives(const explain *e, const entry *t) {
    return (const alternative *)(const void *)e->tops.data + t->top;
}

explain_colours explain_stdout(void) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM"), *more = getenv("COLORTERM");
    if (isatty(STDOUT_FILENO) != 1 || (no && *no) || !term || strcmp(term, "dumb") == 0)
        return EXPLAIN_PLAIN;
    bool all = more && (strcmp(more, "truecolor") == 0 || strcmp(more, "24bit") == 0);
    return all ? EXPLAIN_TRUE : EXPLAIN_256;
}

void explain_init(explain *e, const weft_tokenizer *t, explain_colours c) {
    *e = (explain){.tokenizer = t, .colours = c};
    buf_init(&e->text, SIZE_MAX);
    buf_init(&e->tokens, SIZE_MAX);
    buf_init(&e->tops, SIZE_MAX);
}

void explain_fini(explain *e) {
    buf_fini(&e->text);
    buf_fini(&e->tokens);
    buf_fini(&e->tops);
}

/* ---- Colour: red for what was unlikely over yellow to green ---- */

static double probability(float logprob) {
    double p = exp((double)logprob);
    return p > 0 ? p < 1 ? p : 1 : 0; /* NaN too is 0 */
}

static int hue(double p) {
    return (int)(120 * sqrt(p) + 0.5);
}

/* hsl(hue, 85 %, 80 %) for 0 <= hue <= 120. */
static void pastel(double p, int rgb[3]) {
    double chroma = 0.34, least = 0.63, sixth = hue(p) / 60.0;
    double x = chroma * (1 - fabs(fmod(sixth, 2) - 1));
    double red = sixth < 1 ? chroma : x, green = sixth < 1 ? x : chroma;
    rgb[0] = (int)((red + least) * 255 + 0.5);
    rgb[1] = (int)((green + least) * 255 + 0.5);
    rgb[2] = (int)(least * 255 + 0.5);
}

static int palette(double p) {
    static const struct {
        double least;
        int colour;
    } steps[] = {{0.9, 157}, {0.6, 193}, {0.35, 229}, {0.15, 222}, {0.05, 216}, {0.01, 210}};
    for (int i = 0; i < CMD_COUNT(steps); i++)
        if (p >= steps[i].least)
            return steps[i].colour;
    return 203;
}

static void colour_on(const explain *e, double p, buf *out) {
    int rgb[3];
    if (e->colours == EXPLAIN_256)
        buf_printf(out, "\x1b[38;5;16;48;5;%dm", palette(p));
    if (e->colours != EXPLAIN_TRUE)
        return;
    pastel(p, rgb);
    buf_printf(out, "\x1b[38;2;0;0;0;48;2;%d;%d;%dm", rgb[0], rgb[1], rgb[2]);
}

static void colour_off(const explain *e, buf *out) {
    if (e->colours != EXPLAIN_PLAIN)
        buf_puts(out, "\x1b[0m");
}

/* ---- Text ---- */

/* Letters as they are; what would move the cursor as an escape. Returns columns, roughly. */
static int add_shown(buf *out, const char *s, size_t n) {
    int columns = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0xfffd;
        int k = utf8_next(s + i, s + n, &c);
        size_t before = out->len;
        if (c == '\n')
            buf_puts(out, "\\n");
        else if (c == '\t')
            buf_puts(out, "\\t");
        else if (c < 0x20 || (c >= 0x7f && c < 0xa0))
            buf_printf(out, "\\x%02x", (unsigned)c);
        else if ((c >= 0x200e && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
                 (c >= 0x2066 && c <= 0x2069))
            buf_printf(out, "\\u%04x", (unsigned)c);
        else
            buf_add(out, s + i, k > 0 ? (size_t)k : 1);
        columns += c >= 0xa0 ? (c >= 0x1100 ? 2 : 1) : (int)(out->len - before);
        i += k > 0 ? (size_t)k : 1;
    }
    return columns;
}

/* The token by itself: "text", or #id where it has none. */
static int add_piece(const explain *e, int32_t id, buf *out) {
    char *text = NULL;
    size_t n = 0, before = out->len;
    if (!e->tokenizer || id >= weft_tokenizer_vocab(e->tokenizer) ||
        weft_detokenize(e->tokenizer, &id, 1, false, &text, &n) != WEFT_OK || n == 0) {
        weft_free(text);
        buf_printf(out, "#%d", (int)id);
        return (int)(out->len - before);
    }
    buf_putc(out, '"');
    int columns = add_shown(out, text, n);
    buf_putc(out, '"');
    weft_free(text);
    return columns + 2;
}

static void show_token(const explain *e, const entry *t, buf *out) {
    const char *s = e->text.data + t->at;
    double p = probability(t->logprob);
    if (t->n == 0 && e->tokenizer)
        return;
    for (size_t i = 0; i < t->n || i == 0;) {
        const char *end = memchr(s + i, '\n', t->n - i);
        size_t line = end ? (size_t)(end - s) + 1 : t->n;
        colour_on(e, p, out);
        add_shown(out, s + i, line - i);
        if (!e->tokenizer)
            buf_printf(out, " #%d", (int)t->id);
        colour_off(e, out);
        if (line >= t->n && e->colours == EXPLAIN_PLAIN && t->id >= 0)
            buf_printf(out, "[%.2f]", p);
        if (end)
            buf_putc(out, '\n');
        i = line > 0 ? line : 1;
    }
}

void explain_token(explain *e, const weft_token *t, buf *out) {
    size_t n;
    const entry *all = entries(e, &n);
    float before = n > 0 ? all[n - 1].logprob : 0;
    entry x = {.id = t->id,
               .n_top = t->n_top,
               .logprob = t->id >= 0 ? t->logprob : before,
               .at = e->text.len,
               .n = t->n_text,
               .top = e->tops.len / sizeof(alternative)};
    for (int i = 0; i < t->n_top; i++)
        buf_add(&e->tops, &(alternative){t->top_id[i], t->top_logprob[i]}, sizeof(alternative));
    buf_add(&e->text, t->text, t->n_text);
    buf_add(&e->tokens, &x, sizeof x);
    show_token(e, &x, out);
}

/* ---- The list ---- */

static void list_alternatives(const explain *e, const entry *t, int columns, int width, buf *out) {
    const alternative *top = alternatives(e, t);
    buf one;
    buf_init(&one, SIZE_MAX);
    for (int i = 0; i < t->n_top; i++) {
        if (top[i].id == t->id || top[i].id < 0)
            continue;
        buf_clear(&one);
        int wide = add_piece(e, top[i].id, &one) + 2;
        size_t before = one.len;
        buf_printf(&one, " %.1f%%", 100 * probability(top[i].logprob));
        wide += (int)(one.len - before);
        if (width > 0 && columns + wide > width)
            break;
        buf_puts(out, "  ");
        buf_add(out, one.data, one.len);
        columns += wide;
    }
    buf_fini(&one);
}

void explain_list(const explain *e, int width, buf *out) {
    size_t n;
    const entry *t = entries(e, &n);
    enum { PIECE = 12 };
    for (size_t i = 0; i < n; i++) {
        if (t[i].id < 0)
            continue;
        double p = probability(t[i].logprob);
        buf_printf(out, "%5zu %5.1f%%  ", i + 1, 100 * p);
        colour_on(e, p, out);
        int columns = add_piece(e, t[i].id, out);
        colour_off(e, out);
        buf_printf(out, "%*s", columns < PIECE ? PIECE - columns : 0, "");
        list_alternatives(e, &t[i], 14 + (columns < PIECE ? PIECE : columns), width, out);
        buf_putc(out, '\n');
    }
}

/* ---- HTML ---- */

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
    "<title>weft: tokens by probability</title>\n<style>\n"
    ":root{color-scheme:light dark}\n"
    "body{font:16px/1.9 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\n"
    "main,.prompt{white-space:pre-wrap;overflow-wrap:anywhere}\n"
    ".prompt{opacity:.7}\n"
    ".t{position:relative;color:#111;border-radius:3px;box-shadow:0 0 0 1px #0002}\n"
    ".t:hover,.t:focus{outline:2px solid #06c;z-index:1}\n"
    ".a{display:none;position:absolute;left:0;top:1.6em;z-index:2;white-space:pre;"
    "background:#fff;color:#111;border:1px solid #888;border-radius:4px;padding:.3em .6em;"
    "font:13px/1.5 ui-monospace,monospace}\n"
    ".t:hover .a,.t:focus .a{display:block}\n"
    ".a b{font-weight:700}\nfooter{font-size:13px;opacity:.7;margin-top:2rem}\n"
    "</style></head><body>\n";

static void add_escaped(buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        const char *name = c == '&'    ? "&amp;"
                           : c == '<'  ? "&lt;"
                           : c == '>'  ? "&gt;"
                           : c == '"'  ? "&quot;"
                           : c == '\'' ? "&#39;"
                                       : NULL;
        if (name)
            buf_puts(out, name);
        else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            buf_puts(out, "\xef\xbf\xbd"); /* no character of HTML */
        else
            buf_putc(out, (char)c);
    }
}

static void html_row(const explain *e, int32_t id, float logprob, bool chosen, buf *out) {
    buf piece;
    buf_init(&piece, SIZE_MAX);
    add_piece(e, id, &piece);
    buf_printf(out, "%s%5.1f%%  ", chosen ? "<b>" : "", 100 * probability(logprob));
    add_escaped(out, piece.data, piece.len);
    buf_puts(out, chosen ? "</b>\n" : "\n");
    buf_fini(&piece);
}

static void html_token(const explain *e, const entry *t, buf *out) {
    const alternative *top = alternatives(e, t);
    bool listed = false;
    buf_printf(out, "<span class=\"t\" tabindex=\"0\" style=\"background:hsl(%d 85%% 80%%)\">",
               hue(probability(t->logprob)));
    if (!e->tokenizer)
        buf_printf(out, "#%d ", (int)t->id);
    add_escaped(out, e->text.data + t->at, t->n);
    if (t->id >= 0) {
        buf_puts(out, "<span class=\"a\">");
        for (int i = 0; i < t->n_top && top[i].id >= 0; i++) {
            listed |= top[i].id == t->id;
            html_row(e, top[i].id, top[i].logprob, top[i].id == t->id, out);
        }
        if (!listed)
            html_row(e, t->id, t->logprob, true, out);
        buf_puts(out, "</span>");
    }
    buf_puts(out, "</span>");
}

void explain_html(const explain *e, const char *prompt, size_t n_prompt, const char *settings,
                  buf *out) {
    size_t n;
    const entry *t = entries(e, &n);
    buf_puts(out, page_head);
    if (n_prompt > 0) {
        buf_puts(out, "<div class=\"prompt\">");
        add_escaped(out, prompt, n_prompt);
        buf_puts(out, "</div>\n");
    }
    buf_puts(out, "<main>");
    for (size_t i = 0; i < n; i++)
        html_token(e, &t[i], out);
    buf_puts(out, "</main>\n<footer>");
    add_escaped(out, settings, strlen(settings));
    buf_puts(out, "</footer>\n</body></html>\n");
}
