/* SPDX-License-Identifier: Apache-2.0
 * BPE merges: every pair knows how often it comes and in which words, a heap has the most frequent
 * on top, and a merge touches those words alone. A heap entry may be out of date: then it is put
 * back with the count of now. */
#include "host/train/bpe_model.h"

typedef struct {
    uint64_t key; /* left << 32 | right; UINT64_MAX: free */
    int64_t count;
    uint32_t *word; /* where it has come up since it was last put on the heap */
    uint32_t n, cap;
} pair;

typedef struct {
    int64_t count;
    uint64_t key;
    uint32_t *word;
    uint32_t n;
} entry;

typedef struct {
    const bpe_options *o;
    bpe_model *m;
    int32_t *symbol; /* of all words, one after another */
    uint64_t *first; /* where a word's begin */
    uint32_t *len;   /* symbols it has left */
    const int64_t **count;
    size_t n_word;
    pair *table;
    uint64_t mask, filled;
    uint64_t *touched; /* keys of pairs with words to put on the heap */
    size_t n_touched, cap_touched;
    entry *heap;
    size_t n_heap, cap_heap;
} trainer;

/* ---- Pairs ---- */

static uint64_t key_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static pair *find_pair(const trainer *t, uint64_t key) {
    uint64_t i = (key * 0x9E3779B97F4A7C15u >> 20) & t->mask;
    while (t->table[i].key != key && t->table[i].key != UINT64_MAX)
        i = (i + 1) & t->mask;
    return &t->table[i];
}

static void new_table(trainer *t, uint64_t slots) {
    t->table = mem_alloc(slots * sizeof *t->table);
    t->mask = slots - 1;
    for (uint64_t i = 0; i < slots; i++)
        t->table[i].key = UINT64_MAX;
}

static pair *pair_of(trainer *t, uint64_t key) {
    pair *p = find_pair(t, key);
    if (p->key == key)
        return p;
    if (2 * t->filled > t->mask) {
        pair *old = t->table;
        uint64_t n = t->mask + 1;
        new_table(t, 2 * n);
        for (uint64_t i = 0; i < n; i++)
            if (old[i].key != UINT64_MAX)
                *find_pair(t, old[i].key) = old[i];
        mem_free(old);
        p = find_pair(t, key);
    }
    p->key = key;
    t->filled++;
    return p;
}

static void touch(trainer *t, uint64_t key) {
    if (t->n_touched == t->cap_touched) {
        t->cap_touched = t->cap_touched ? 2 * t->cap_touched : 1024;
        t->touched = mem_grow(t->touched, t->cap_touched * sizeof *t->touched);
    }
    t->touched[t->n_touched++] = key;
}

/* `by` may be negative; a pair that came up remembers the word, once. */
static void change(trainer *t, int32_t left, int32_t right, int64_t by, uint32_t word) {
    pair *p = pair_of(t, key_of(left, right));
    p->count += by;
    if (by <= 0 || (p->n && p->word[p->n - 1] == word))
        return;
    if (p->n == 0)
        touch(t, p->key);
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 4;
        p->word = mem_grow(p->word, p->cap * sizeof *p->word);
    }
    p->word[p->n++] = word;
}

/* ---- The heap ---- */

static bool is_above(const entry *a, const entry *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void push(trainer *t, entry e) {
    if (t->n_heap == t->cap_heap) {
        t->cap_heap = t->cap_heap ? 2 * t->cap_heap : 1024;
        t->heap = mem_grow(t->heap, t->cap_heap * sizeof *t->heap);
    }
    size_t i = t->n_heap++;
    for (; i && is_above(&e, &t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = e;
}

static entry pop(trainer *t) {
    entry top = t->heap[0], last = t->heap[--t->n_heap];
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < t->n_heap; i = k) {
        k += k + 1 < t->n_heap && is_above(&t->heap[k + 1], &t->heap[k]);
        if (is_above(&last, &t->heap[k]))
            break;
        t->heap[i] = t->heap[k];
    }
    t->heap[i] = last;
    return top;
}

/* What came up goes on the heap with its words; what is gone again is forgotten. */
static void push_touched(trainer *t) {
    for (size_t i = 0; i < t->n_touched; i++) {
        pair *p = find_pair(t, t->touched[i]);
        if (p->count > 0)
            push(t, (entry){.count = p->count, .key = p->key, .word = p->word, .n = p->n});
        else
            mem_free(p->word);
        p->word = NULL;
        p->n = p->cap = 0;
    }
    t->n_touched = 0;
}

/* ---- Words ---- */

/* Joins left and right in one word, from its beginning on. */
static void merge_word(trainer *t, uint32_t word, const bpe_merge *m) {
    int32_t *s = t->symbol + t->first[word];
    int64_t count = *t->count[word];
    uint32_t n = t->len[word], to = 0;
    for (uint32_t i = 0; i < n; i++, to++) {
        if (s[i] != m->left || i + 1 >= n || s[i + 1] != m->right) {
            s[to] = s[i];
            continue;
        }
        if (to > 0) {
            change(t, s[to - 1], m->left, -count, word);
            change(t, s[to - 1], m->into, count, word);
        }
        if (i + 2 < n) {
            change(t, m->right, s[i + 2], -count, word);
            change(t, m->into, s[i + 2], count, word);
        }
        s[to] = m->into;
        i++;
    }
    t->len[word] = to;
}

static void spell_words(trainer *t, const bpe_words *w) {
    uint64_t symbols = 0;
    t->n_word = w->n;
    t->first = mem_alloc((w->n + 1) * sizeof *t->first);
    t->len = mem_alloc((w->n + 1) * sizeof *t->len);
    t->count = mem_alloc((w->n + 1) * sizeof *t->count);
    for (size_t i = 0; i < w->n; i++) {
        t->first[i] = symbols;
        t->len[i] = w->word[i].n;
        t->count[i] = &w->word[i].count;
        symbols += w->word[i].n;
    }
    t->symbol = mem_alloc((symbols + 1) * sizeof *t->symbol);
    for (size_t i = 0; i < w->n; i++)
        for (uint32_t k = 0; k < w->word[i].n; k++)
            t->symbol[t->first[i] + k] = t->m->byte[(unsigned char)w->word[i].s[k]];
}

static void count_pairs(trainer *t) {
    new_table(t, 1 << 16);
    for (size_t i = 0; i < t->n_word; i++)
        for (uint32_t k = 1; k < t->len[i]; k++) {
            const int32_t *s = t->symbol + t->first[i] + k;
            change(t, s[-1], s[0], *t->count[i], (uint32_t)i);
        }
    push_touched(t);
}

/* ---- Merges ---- */

static void merge(trainer *t, const entry *top) {
    bpe_merge m = {.left = (int32_t)(top->key >> 32), .right = (int32_t)(uint32_t)top->key};
    m.into = model_join(t->m, m.left, m.right);
    model_add_merge(t->m, m);
    for (uint32_t i = 0; i < top->n; i++)
        merge_word(t, top->word[i], &m);
    push_touched(t);
}

static void learn(trainer *t) {
    int64_t least = t->o->min_frequency < 1 ? 1 : t->o->min_frequency;
    while (bpe_model_vocab(t->m) < t->o->vocab && t->n_heap > 0) {
        entry top = pop(t);
        const pair *p = find_pair(t, top.key);
        if (p->count != top.count) {
            top.count = p->count;
            push(t, top);
            continue;
        }
        if (top.count >= least)
            merge(t, &top);
        mem_free(top.word);
        if (top.count < least)
            break;
        if (t->o->progress)
            t->o->progress(t->o->ctx, bpe_model_vocab(t->m), t->o->vocab);
    }
}

static void trainer_fini(trainer *t) {
    for (size_t i = 0; i < t->n_heap; i++)
        mem_free(t->heap[i].word);
    for (uint64_t i = 0; t->table && i <= t->mask; i++)
        mem_free(t->table[i].word);
    mem_free(t->table);
    mem_free(t->heap);
    mem_free(t->touched);
    mem_free(t->symbol);
    mem_free(t->first);
    mem_free(t->len);
    mem_free(t->count);
}

weft_status bpe_train(const bpe_words *w, const bpe_options *o, bpe_model **out) {
    bpe_model *m;
    WEFT_TRY(model_open(w->split, o, &m));
    trainer t = {.o = o, .m = m};
    spell_words(&t, w);
    count_pairs(&t);
    learn(&t);
    trainer_fini(&t);
    *out = m;
    return WEFT_OK;
}
