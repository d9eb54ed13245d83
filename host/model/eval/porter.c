/* SPDX-License-Identifier: Apache-2.0
 * The steps of the paper, in its order and with its names. */
#include "host/model/eval/porter.h"
#include <stdbool.h>
#include <string.h>

typedef struct {
    char *s;
    int n;
} word;

typedef struct {
    const char *suffix, *to;
} rule;

static bool is_vowel(char c) {
    return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u';
}

/* A y is a consonant at the start and behind a vowel. */
static bool is_consonant(const char *s, int at) {
    bool flip = false;
    if (is_vowel(s[at]))
        return false;
    for (; at > 0 && s[at] == 'y'; at--)
        flip = !flip;
    return !is_vowel(s[at]) != flip;
}

/* m of [C](VC)^m[V] */
static int measure(const char *s, int n) {
    int m = 0;
    bool before = true;
    for (int i = 0; i < n; i++) {
        bool now = s[i] == 'y' ? i == 0 || !before : !is_vowel(s[i]);
        m += i > 0 && now && !before;
        before = now;
    }
    return m;
}

static bool has_vowel(const char *s, int n) {
    for (int i = 0; i < n; i++)
        if (!is_consonant(s, i))
            return true;
    return false;
}

static bool doubled(word w) {
    return w.n >= 2 && w.s[w.n - 1] == w.s[w.n - 2] && is_consonant(w.s, w.n - 1);
}

/* *o: consonant, vowel, consonant but w, x, y; or a word of vowel and consonant. */
static bool ends_cvc(const char *s, int n) {
    if (n == 2)
        return !is_consonant(s, 0) && is_consonant(s, 1);
    return n >= 3 && is_consonant(s, n - 3) && !is_consonant(s, n - 2) && is_consonant(s, n - 1) &&
           !strchr("wxy", s[n - 1]);
}

static bool ends(word w, const char *suffix) {
    int k = (int)strlen(suffix);
    return w.n >= k && memcmp(w.s + w.n - k, suffix, (size_t)k) == 0;
}

static void set_end(word *w, const char *suffix, const char *to) {
    int k = (int)strlen(suffix), m = (int)strlen(to);
    memcpy(w->s + w->n - k, to, (size_t)m);
    w->n += m - k;
}

/* The first rule whose suffix fits decides; it applies if the stem's measure is above `least`. */
static void apply(word *w, const rule *rules, int least) {
    for (const rule *r = rules; r->suffix; r++) {
        if (!ends(*w, r->suffix))
            continue;
        int stem = w->n - (int)strlen(r->suffix);
        if (strcmp(r->suffix, "logi") == 0)
            stem++; /* NLTK measures with the l */
        bool ion = strcmp(r->suffix, "ion") != 0 || (stem > 0 && strchr("st", w->s[stem - 1]));
        if (measure(w->s, stem) > least && ion)
            set_end(w, r->suffix, r->to);
        return;
    }
}

static void step1a(word *w) {
    static const rule rules[] = {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}, {0}};
    if (ends(*w, "ies") && w->n == 4)
        set_end(w, "ies", "ie");
    else
        apply(w, rules, -1);
}

static void restore_end(word *w) {
    if (ends(*w, "at") || ends(*w, "bl") || ends(*w, "iz"))
        set_end(w, "", "e");
    else if (doubled(*w))
        w->n -= !strchr("lsz", w->s[w->n - 1]);
    else if (measure(w->s, w->n) == 1 && ends_cvc(w->s, w->n))
        set_end(w, "", "e");
}

static void step1b(word *w) {
    if (ends(*w, "ied")) {
        set_end(w, "ied", w->n == 4 ? "ie" : "i");
    } else if (ends(*w, "eed")) {
        if (measure(w->s, w->n - 3) > 0)
            set_end(w, "eed", "ee");
    } else if (ends(*w, "ed") && has_vowel(w->s, w->n - 2)) {
        w->n -= 2;
        restore_end(w);
    } else if (ends(*w, "ing") && has_vowel(w->s, w->n - 3)) {
        w->n -= 3;
        restore_end(w);
    }
}

static void step1c(word *w) {
    if (w->n > 2 && w->s[w->n - 1] == 'y' && is_consonant(w->s, w->n - 2))
        w->s[w->n - 1] = 'i';
}

static void step2(word *w) {
    static const rule rules[] = {{"ational", "ate"},
                                 {"tional", "tion"},
                                 {"enci", "ence"},
                                 {"anci", "ance"},
                                 {"izer", "ize"},
                                 {"bli", "ble"},
                                 {"alli", "al"},
                                 {"entli", "ent"},
                                 {"eli", "e"},
                                 {"ousli", "ous"},
                                 {"ization", "ize"},
                                 {"ation", "ate"},
                                 {"ator", "ate"},
                                 {"alism", "al"},
                                 {"iveness", "ive"},
                                 {"fulness", "ful"},
                                 {"ousness", "ous"},
                                 {"aliti", "al"},
                                 {"iviti", "ive"},
                                 {"biliti", "ble"},
                                 {"fulli", "ful"},
                                 {"logi", "log"},
                                 {0}};
    while (ends(*w, "alli") && measure(w->s, w->n - 4) > 0)
        set_end(w, "alli", "al");
    apply(w, rules, 0);
}

static void step3(word *w) {
    static const rule rules[] = {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
                                 {"ical", "ic"},  {"ful", ""},   {"ness", ""},    {0}};
    apply(w, rules, 0);
}

static void step4(word *w) {
    static const rule rules[] = {{"al", ""},    {"ance", ""}, {"ence", ""}, {"er", ""},
                                 {"ic", ""},    {"able", ""}, {"ible", ""}, {"ant", ""},
                                 {"ement", ""}, {"ment", ""}, {"ent", ""},  {"ion", ""},
                                 {"ou", ""},    {"ism", ""},  {"ate", ""},  {"iti", ""},
                                 {"ous", ""},   {"ive", ""},  {"ize", ""},  {0}};
    apply(w, rules, 1);
}

static void step5(word *w) {
    if (ends(*w, "e")) {
        int m = measure(w->s, w->n - 1);
        w->n -= m > 1 || (m == 1 && !ends_cvc(w->s, w->n - 1));
    }
    w->n -= ends(*w, "ll") && measure(w->s, w->n - 1) > 1;
}

static bool irregular(word *w) {
    static const rule forms[] = {{"sky", "sky"},
                                 {"skies", "sky"},
                                 {"dying", "die"},
                                 {"lying", "lie"},
                                 {"tying", "tie"},
                                 {"news", "news"},
                                 {"innings", "inning"},
                                 {"inning", "inning"},
                                 {"outings", "outing"},
                                 {"outing", "outing"},
                                 {"cannings", "canning"},
                                 {"canning", "canning"},
                                 {"howe", "howe"},
                                 {"proceed", "proceed"},
                                 {"exceed", "exceed"},
                                 {"succeed", "succeed"},
                                 {0}};
    for (const rule *r = forms; r->suffix; r++)
        if (w->n == (int)strlen(r->suffix) && ends(*w, r->suffix)) {
            set_end(w, r->suffix, r->to);
            return true;
        }
    return false;
}

int porter_stem(char *s, int n) {
    word w = {s, n};
    if (irregular(&w) || n <= 2)
        return w.n;
    step1a(&w);
    step1b(&w);
    step1c(&w);
    step2(&w);
    step3(&w);
    step4(&w);
    step5(&w);
    return w.n;
}
