/* SPDX-License-Identifier: Apache-2.0
 * tokenizer.json: its model, added tokens and template (the rows of the other stages are read where
 * they are applied). Keys that are not known are errors: to pass over a component would give other
 * ids without a word. */
#include "host/model/tokenizer/tok.h"
#include <math.h>
#include <string.h>

typedef struct {
    tok_entries vocab;
    json_str *pairs; /* merges: 2 * npairs spellings */
    size_t npairs, cap_pairs;
    json_str type, unk;
    bool unigram, has_unk_id;
    int64_t unk_id;
    tok_added *added;
    size_t nadded, cap_added;
} reader;

static int shown(json_str s) {
    return (int)(s.n < 64 ? s.n : 64);
}

static void unknown_key(json *j, const char *where, json_str key) {
    json_fail(j, "%s: unknown key \"%.*s\"", where, shown(key), key.s);
}

/* ---- model ---- */

void tok_json_vocab(json *j, tok_entries *e) {
    json_str key;
    json_object(j);
    while (json_key(j, &key)) {
        int64_t id = json_int(j, 0, TOK_MAX_ID - 1);
        if (!json_failed(j))
            tok_entries_add(e, key, id, 0, TOK_NORMAL);
    }
}

/* [["piece", score], ...] */
static void read_units(json *j, reader *r) {
    json_array(j);
    while (json_item(j)) {
        json_array(j);
        json_item(j);
        json_str piece = json_string(j);
        json_item(j);
        double score = json_double(j);
        if (json_item(j))
            json_fail(j, "vocab: a piece and a score are expected");
        if (!json_failed(j))
            tok_entries_add(&r->vocab, piece, (int64_t)r->vocab.n, score, TOK_NORMAL);
    }
}

static void add_pair(reader *r, json_str a, json_str b) {
    if (r->npairs == r->cap_pairs) {
        r->cap_pairs = r->cap_pairs ? 2 * r->cap_pairs : 4096;
        r->pairs = mem_grow(r->pairs, 2 * r->cap_pairs * sizeof *r->pairs);
    }
    r->pairs[2 * r->npairs] = a;
    r->pairs[2 * r->npairs++ + 1] = b;
}

static void read_merge(json *j, reader *r) {
    if (json_peek(j) == JSON_ARRAY) {
        json_str part[2] = {{NULL, 0}, {NULL, 0}};
        int n = 0;
        json_array(j);
        for (; json_item(j); n++) {
            json_str s = json_string(j);
            part[n < 2 ? n : 1] = s;
        }
        if (!json_failed(j) && n != 2)
            json_fail(j, "merges: two parts are expected");
        add_pair(r, part[0], part[1]);
        return;
    }
    json_str both = json_string(j);
    const char *space = both.n ? memchr(both.s, ' ', both.n) : NULL;
    if (json_failed(j))
        return;
    size_t left = space ? (size_t)(space - both.s) : 0;
    if (!space || memchr(space + 1, ' ', both.n - left - 1)) {
        json_fail(j, "merges: \"%.*s\" is not two parts with a space between", shown(both), both.s);
        return;
    }
    add_pair(r, (json_str){both.s, left}, (json_str){space + 1, both.n - left - 1});
}

static json_str string_or_null(json *j) {
    if (json_peek(j) == JSON_STRING)
        return json_string(j);
    json_null(j);
    return (json_str){NULL, 0};
}

static bool bool_or_null(json *j) {
    if (json_peek(j) == JSON_BOOL)
        return json_bool(j);
    json_null(j);
    return false;
}

static json_str keep(tokenizer *t, json_str s) {
    return (json_str){s.n ? arena_copy(&t->arena, s.s, s.n) : NULL, s.n};
}

static void read_model_key(tokenizer *t, json *j, json_str key, reader *r) {
    struct {
        const char *name;
        json_str *s;
        bool *b;
    } rows[] = {{"type", &r->type, NULL},
                {"unk_token", &r->unk, NULL},
                {"continuing_subword_prefix", &t->word_prefix, NULL},
                {"end_of_word_suffix", &t->word_suffix, NULL},
                {"fuse_unk", NULL, &t->fuse_unk},
                {"byte_fallback", NULL, &t->byte_fallback},
                {"ignore_merges", NULL, &t->whole_first}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (json_is(key, rows[i].name)) {
            if (rows[i].s)
                *rows[i].s = keep(t, string_or_null(j));
            else if (rows[i].b)
                *rows[i].b = bool_or_null(j);
            return;
        }
    if (json_is(key, "vocab")) {
        r->unigram = json_peek(j) == JSON_ARRAY;
        if (r->unigram)
            read_units(j, r);
        else
            tok_json_vocab(j, &r->vocab);
    } else if (json_is(key, "merges")) {
        json_array(j);
        while (json_item(j))
            read_merge(j, r);
    } else if (json_is(key, "unk_id")) {
        r->has_unk_id = json_peek(j) == JSON_NUMBER;
        if (r->has_unk_id)
            r->unk_id = json_int(j, 0, TOK_MAX_ID - 1);
        else
            json_null(j);
    } else if (json_is(key, "dropout")) {
        if (json_peek(j) == JSON_NUMBER && json_double(j) != 0)
            json_fail(j, "model.dropout is not 0: ids would be random");
        else if (json_peek(j) == JSON_NULL)
            json_null(j);
    } else {
        unknown_key(j, "model", key);
    }
}

static weft_status check_type(const char *name, reader *r) {
    bool bpe = json_is(r->type, "BPE") || (!r->type.s && !r->unigram);
    bool unigram = json_is(r->type, "Unigram") || (!r->type.s && r->unigram);
    if (!bpe && !unigram)
        return weft_fail(WEFT_UNSUPPORTED, "%s: model type \"%.*s\" is not supported", name,
                         shown(r->type), r->type.s);
    if (unigram != r->unigram && r->vocab.n)
        return weft_fail(WEFT_BAD_FILE, "%s: model.vocab does not fit the model type", name);
    r->unigram = unigram;
    return WEFT_OK;
}

/* The type comes first in every file that exists; when it is none of ours, say that instead of
 * stumbling over keys of its own. */
static weft_status read_model(tokenizer *t, json *j, reader *r) {
    json_str key;
    json_object(j);
    while (json_key(j, &key)) {
        read_model_key(t, j, key, r);
        if (json_is(key, "type") && !json_failed(j))
            WEFT_TRY(check_type(j->name, r));
    }
    return WEFT_OK;
}

/* ---- added tokens ---- */

static void read_added_token(json *j, reader *r) {
    tok_added x = {.id = -1, .normalized = true};
    bool normalized_given = false;
    json_str key;
    json_object(j);
    while (json_key(j, &key)) {
        if (json_is(key, "id"))
            x.id = (int32_t)json_int(j, 0, TOK_MAX_ID - 1);
        else if (json_is(key, "content"))
            x.s = json_string(j);
        else if (json_is(key, "special"))
            x.special = json_bool(j);
        else if (json_is(key, "lstrip"))
            x.lstrip = json_bool(j);
        else if (json_is(key, "rstrip"))
            x.rstrip = json_bool(j);
        else if (json_is(key, "single_word"))
            x.single_word = json_bool(j);
        else if (json_is(key, "normalized"))
            x.normalized = (normalized_given = true, json_bool(j));
        else
            unknown_key(j, "added_tokens", key);
    }
    if (!json_failed(j) && (x.id < 0 || !x.s.s))
        json_fail(j, "added_tokens: id and content are needed");
    if (!normalized_given)
        x.normalized = !x.special;
    if (r->nadded == r->cap_added) {
        r->cap_added = r->cap_added ? 2 * r->cap_added : 64;
        r->added = mem_grow(r->added, r->cap_added * sizeof *r->added);
    }
    r->added[r->nadded++] = x;
}

/* ---- template ---- */

typedef struct {
    json_str name;
    bool text; /* the place of the text itself */
} template_part;

typedef struct {
    json_str type;
    template_part part[TOK_MAX_AFFIX];
    int nparts;
    json_str special[TOK_MAX_AFFIX];
    int32_t id[TOK_MAX_AFFIX]; /* of special[i], may repeat the name for several ids */
    int nspecial;
    int32_t cls, sep;
} template;

/* {"SpecialToken": {"id": "<s>", ...}} or {"Sequence": {"id": "A", ...}} */
static void read_part(json *j, template *f) {
    json_str kind = {NULL, 0}, key;
    template_part p = {{NULL, 0}, false};
    json_object(j);
    if (!json_key(j, &kind))
        return;
    json_object(j);
    while (json_key(j, &key)) {
        if (json_is(key, "id"))
            p.name = json_string(j);
        else if (json_is(key, "type_id"))
            json_skip(j);
        else
            unknown_key(j, "post_processor", key);
    }
    p.text = json_is(kind, "Sequence");
    if (!json_failed(j) && !p.text && !json_is(kind, "SpecialToken"))
        unknown_key(j, "post_processor", kind);
    if (json_key(j, &key))
        unknown_key(j, "post_processor", key);
    if (f->nparts == TOK_MAX_AFFIX)
        json_fail(j, "post_processor: more than %d parts", TOK_MAX_AFFIX);
    else
        f->part[f->nparts++] = p;
}

/* {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}} */
static void read_template_ids(json *j, template *f) {
    json_str name, key;
    json_object(j);
    while (json_key(j, &name)) {
        json_object(j);
        while (json_key(j, &key)) {
            if (!json_is(key, "ids")) {
                json_skip(j);
                continue;
            }
            json_array(j);
            while (json_item(j)) {
                int64_t id = json_int(j, 0, TOK_MAX_ID - 1);
                if (f->nspecial == TOK_MAX_AFFIX) {
                    json_fail(j, "post_processor: more than %d special tokens", TOK_MAX_AFFIX);
                    break;
                }
                f->special[f->nspecial] = name;
                f->id[f->nspecial++] = (int32_t)id;
            }
        }
    }
}

/* ["</s>", 2] */
static int32_t read_named_id(json *j) {
    json_array(j);
    json_item(j);
    json_string(j);
    json_item(j);
    int64_t id = json_int(j, 0, TOK_MAX_ID - 1);
    if (json_item(j))
        json_fail(j, "post_processor: a token and its id are expected");
    return (int32_t)id;
}

static weft_status too_many(const char *name) {
    return weft_fail(WEFT_BAD_FILE, "%s: post_processor adds more than %d tokens", name,
                     TOK_MAX_AFFIX);
}

/* What a later processor puts in front stands before what an earlier one did. */
static weft_status surround(tokenizer *t, const char *name, const int32_t *before, int nbefore,
                            const int32_t *after, int nafter) {
    if (t->nprefix + nbefore > TOK_MAX_AFFIX || t->nsuffix + nafter > TOK_MAX_AFFIX)
        return too_many(name);
    memmove(t->prefix + nbefore, t->prefix, (size_t)t->nprefix * sizeof *t->prefix);
    memcpy(t->prefix, before, (size_t)nbefore * sizeof *before);
    memcpy(t->suffix + t->nsuffix, after, (size_t)nafter * sizeof *after);
    t->nprefix += nbefore;
    t->nsuffix += nafter;
    return WEFT_OK;
}

static weft_status apply_template(tokenizer *t, const char *name, const template *f) {
    int32_t side[2][TOK_MAX_AFFIX];
    int n[2] = {0, 0}, texts = 0;
    for (int i = 0; i < f->nparts; i++) {
        texts += f->part[i].text;
        int found = 0;
        for (int k = 0; k < f->nspecial && !f->part[i].text; k++)
            if (f->special[k].n == f->part[i].name.n &&
                !memcmp(f->special[k].s, f->part[i].name.s, f->special[k].n)) {
                found++;
                if (n[texts > 0] == TOK_MAX_AFFIX)
                    return too_many(name);
                side[texts > 0][n[texts > 0]++] = f->id[k];
            }
        if (!f->part[i].text && !found)
            return weft_fail(WEFT_BAD_FILE, "%s: post_processor: \"%.*s\" is not in special_tokens",
                             name, shown(f->part[i].name), f->part[i].name.s);
    }
    if (texts != 1)
        return weft_fail(WEFT_UNSUPPORTED, "%s: post_processor: single has the text %d times", name,
                         texts);
    return surround(t, name, side[0], n[0], side[1], n[1]);
}

static weft_status read_template(tokenizer *t, json *j);

static weft_status read_template_key(tokenizer *t, json *j, json_str key, template *f) {
    if (json_is(key, "type")) {
        f->type = json_string(j);
    } else if (json_is(key, "single")) {
        json_array(j);
        while (json_item(j))
            read_part(j, f);
    } else if (json_is(key, "special_tokens")) {
        read_template_ids(j, f);
    } else if (json_is(key, "processors")) {
        json_array(j);
        while (json_item(j))
            WEFT_TRY(read_template(t, j));
    } else if (json_is(key, "cls")) {
        f->cls = read_named_id(j);
    } else if (json_is(key, "sep")) {
        f->sep = read_named_id(j);
    } else if (json_is(key, "pair") || json_is(key, "trim_offsets") ||
               json_is(key, "add_prefix_space") || json_is(key, "use_regex")) {
        json_skip(j); /* about pairs of texts and offsets, which are not given out */
    } else {
        unknown_key(j, "post_processor", key);
    }
    return WEFT_OK;
}

static weft_status read_template(tokenizer *t, json *j) {
    template f = {.cls = -1, .sep = -1};
    json_str key;
    if (json_peek(j) == JSON_NULL) {
        json_null(j);
        return WEFT_OK;
    }
    json_object(j);
    while (json_key(j, &key))
        WEFT_TRY(read_template_key(t, j, key, &f));
    if (json_failed(j))
        return json_done(j);
    if (json_is(f.type, "ByteLevel") || json_is(f.type, "Sequence"))
        return WEFT_OK;
    if (json_is(f.type, "TemplateProcessing"))
        return apply_template(t, j->name, &f);
    if (!json_is(f.type, "RobertaProcessing") && !json_is(f.type, "BertProcessing"))
        return weft_fail(WEFT_UNSUPPORTED, "%s: post_processor \"%.*s\" is not supported", j->name,
                         shown(f.type), f.type.s ? f.type.s : "");
    if (f.cls < 0 || f.sep < 0)
        return weft_fail(WEFT_BAD_FILE, "%s: post_processor: cls and sep are needed", j->name);
    return surround(t, j->name, &f.cls, 1, &f.sep, 1);
}

/* ---- the file ---- */

/* Truncation and padding are the caller's wishes, not part of a text's ids; only checked. */
static void read_truncation(json *j) {
    int64_t most = 512, stride = 0;
    json_str key;
    if (json_peek(j) != JSON_OBJECT) {
        json_null(j);
        return;
    }
    json_object(j);
    while (json_key(j, &key)) {
        if (json_is(key, "max_length"))
            most = json_int(j, 0, INT64_MAX);
        else if (json_is(key, "stride"))
            stride = json_int(j, 0, INT64_MAX);
        else
            json_skip(j);
    }
    if (!json_failed(j) && stride >= most && stride)
        json_fail(j, "truncation.stride is not less than max_length");
}

static weft_status read_key(tokenizer *t, json *j, json_str key, reader *r) {
    if (json_is(key, "model"))
        return read_model(t, j, r);
    if (json_is(key, "normalizer"))
        return tok_norm_parse(t, j);
    if (json_is(key, "pre_tokenizer"))
        return tok_split_parse(t, j);
    if (json_is(key, "decoder"))
        return tok_dec_parse(t, j);
    if (json_is(key, "post_processor"))
        return read_template(t, j);
    if (json_is(key, "added_tokens")) {
        json_array(j);
        while (json_item(j))
            read_added_token(j, r);
    } else if (json_is(key, "truncation")) {
        read_truncation(j);
    } else if (json_is(key, "version")) {
        json_str v = json_string(j);
        if (!json_failed(j) && !json_is(v, "1.0"))
            json_fail(j, "version \"%.*s\" is not 1.0", shown(v), v.s);
    } else if (json_is(key, "padding")) {
        json_skip(j);
    } else {
        unknown_key(j, "tokenizer", key);
    }
    return WEFT_OK;
}

static weft_status build_unigram(tokenizer *t, const char *name, const reader *r) {
    tok_word *words = ARENA_NEW(&t->arena, tok_word, r->vocab.n);
    double least = 0;
    t->model = TOK_MODEL_UNIGRAM;
    t->score = ARENA_NEW(&t->arena, double, t->vocab.n);
    for (size_t i = 0; i < r->vocab.n; i++) {
        double score = r->vocab.v[i].score;
        t->score[i] = score;
        least = i == 0 || score < least ? score : least;
        words[i] = (tok_word){t->vocab.piece[i], (int32_t)i};
    }
    t->unk = r->has_unk_id ? (int32_t)r->unk_id : -1;
    if (t->unk < 0 || t->unk >= t->vocab.n)
        return weft_fail(WEFT_BAD_FILE, "%s: model.unk_id is not in the vocabulary", name);
    t->unk_score = least - 10;
    tok_set_build(&t->units, &t->arena, words, r->vocab.n);
    return WEFT_OK;
}

static weft_status build(tokenizer *t, const char *name, reader *r) {
    WEFT_TRY(check_type(name, r));
    WEFT_TRY(tok_vocab_build(&t->vocab, &t->arena, name, &r->vocab));
    if (r->unigram) {
        WEFT_TRY(build_unigram(t, name, r));
    } else {
        WEFT_TRY(tok_merges_build(t, name, r->pairs, r->npairs));
        t->unk = r->unk.n ? tok_vocab_find(&t->vocab, r->unk.s, r->unk.n) : -1;
        if (r->unk.n && t->unk < 0)
            return weft_fail(WEFT_BAD_FILE, "%s: model.unk_token \"%.*s\" is not in the vocabulary",
                             name, shown(r->unk), r->unk.s);
    }
    WEFT_TRY(tok_add_added(t, name, r->added, r->nadded));
    for (int i = 0; i < t->nprefix + t->nsuffix; i++) {
        int32_t id = i < t->nprefix ? t->prefix[i] : t->suffix[i - t->nprefix];
        if (id >= t->vocab.n || !t->vocab.piece[id].s)
            return weft_fail(WEFT_BAD_FILE, "%s: post_processor: id %d is not in the vocabulary",
                             name, id);
    }
    t->kind = r->unigram ? "unigram" : "BPE";
    return tok_finish(t, name);
}

weft_status tok_json_read(tokenizer *t, const char *name, const char *data, size_t n) {
    arena scratch = {0};
    reader r = {0};
    json j;
    json_str key;
    weft_status s = WEFT_OK;
    json_init(&j, name, data, n, &scratch);
    json_object(&j);
    while (s == WEFT_OK && json_key(&j, &key))
        s = read_key(t, &j, key, &r);
    if (s == WEFT_OK)
        s = json_done(&j);
    if (s == WEFT_OK)
        s = build(t, name, &r);
    mem_free(r.vocab.v);
    mem_free(r.pairs);
    mem_free(r.added);
    arena_fini(&scratch);
    return s;
}
