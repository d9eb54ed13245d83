/* SPDX-License-Identifier: Apache-2.0
 * SentencePiece's tokenizer.model: a protobuf of pieces with scores and types, and the normaliser
 * it describes. */
#include "host/model/tokenizer/tok.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- protobuf ---- */

typedef struct {
    const char *name; /* file, for messages */
    const char *p, *end;
    bool bad;
} proto;

typedef struct {
    uint32_t number, wire;
    uint64_t value; /* varint or fixed */
    json_str bytes; /* length-delimited */
} proto_field;

static uint64_t proto_varint(proto *r) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64 && r->p < r->end; shift += 7) {
        unsigned char c = (unsigned char)*r->p++;
        v |= (uint64_t)(c & 127) << shift;
        if (c < 128)
            return v;
    }
    r->bad = true;
    return 0;
}

static uint64_t proto_fixed(proto *r, size_t n) {
    uint64_t v = 0;
    if ((size_t)(r->end - r->p) < n) {
        r->bad = true;
        return 0;
    }
    memcpy(&v, r->p, n);
    r->p += n;
    return v;
}

/* Next field; false at the end or when the bytes are no protobuf (then r->bad). */
static bool proto_next(proto *r, proto_field *f) {
    if (r->bad || r->p == r->end)
        return false;
    uint64_t tag = proto_varint(r);
    *f = (proto_field){.number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7)};
    if (f->wire == 0) {
        f->value = proto_varint(r);
    } else if (f->wire == 1 || f->wire == 5) {
        f->value = proto_fixed(r, f->wire == 1 ? 8 : 4);
    } else if (f->wire == 2) {
        uint64_t n = proto_varint(r);
        if (r->bad || n > (uint64_t)(r->end - r->p)) {
            r->bad = true;
            return false;
        }
        f->bytes = (json_str){r->p, (size_t)n};
        r->p += n;
    } else {
        r->bad = true;
    }
    if (!f->number || tag >> 32)
        r->bad = true;
    return !r->bad;
}

static proto proto_open(const char *name, json_str s) {
    return (proto){name, s.s, s.s + s.n, false};
}

static weft_status proto_done(const proto *r, const char *what) {
    return r->bad ? weft_fail(WEFT_BAD_FILE, "%s: truncated or not a SentencePiece model (%s)",
                              r->name, what)
                  : WEFT_OK;
}

/* ---- the messages ---- */

enum { PIECES = 1, TRAINER = 2, NORMALIZER = 3, DENORMALIZER = 5 };
enum { UNIGRAM = 1, BPE = 2 };

typedef struct {
    tok_entries pieces;
    uint64_t model_type;
    bool byte_fallback, has_trainer, has_normalizer;
    json_str bos, eos, charsmap;
} model;

/* The type numbers of the format, in its order from 1. */
static const uint8_t piece_types[] = {TOK_ABSENT, TOK_NORMAL, TOK_UNKNOWN, TOK_CONTROL,
                                      TOK_USER,   TOK_UNUSED, TOK_BYTE};

static weft_status read_piece(const char *name, json_str bytes, model *m) {
    proto r = proto_open(name, bytes);
    proto_field f;
    json_str piece = {"", 0};
    uint32_t score_bits = 0;
    uint64_t type = 1;
    float score;
    while (proto_next(&r, &f)) {
        if (f.number == 1 && f.wire == 2)
            piece = f.bytes;
        else if (f.number == 2 && f.wire == 5)
            score_bits = (uint32_t)f.value;
        else if (f.number == 3 && f.wire == 0)
            type = f.value;
    }
    WEFT_TRY(proto_done(&r, "a piece"));
    memcpy(&score, &score_bits, 4);
    size_t id = m->pieces.n;
    if (!piece.n || utf8_invalid_at(piece.s, piece.n) != piece.n)
        return weft_fail(WEFT_BAD_FILE, "%s: piece %zu is empty or not UTF-8", name, id);
    if (type < 1 || type > 6 || isnan(score))
        return weft_fail(WEFT_BAD_FILE, "%s: piece %zu: bad type or score", name, id);
    if (id >= TOK_MAX_ID)
        return weft_fail(WEFT_BAD_FILE, "%s: more than %d pieces", name, TOK_MAX_ID);
    tok_entries_add(&m->pieces, piece, (int64_t)id, (double)score, piece_types[type]);
    return WEFT_OK;
}

static weft_status read_trainer(tokenizer *t, const char *name, json_str bytes, model *m) {
    proto r = proto_open(name, bytes);
    proto_field f;
    m->has_trainer = true;
    while (proto_next(&r, &f)) {
        if (f.number == 3)
            m->model_type = f.value;
        else if (f.number == 24)
            t->sp.suffix = f.value != 0;
        else if (f.number == 35)
            m->byte_fallback = f.value != 0;
        else if (f.number == 44 && f.wire == 2)
            t->sp.unk_surface = f.bytes;
        else if (f.number == 46 && f.wire == 2)
            m->bos = f.bytes;
        else if (f.number == 47 && f.wire == 2)
            m->eos = f.bytes;
    }
    return proto_done(&r, "trainer_spec");
}

static weft_status read_normalizer(tokenizer *t, const char *name, json_str bytes, model *m) {
    proto r = proto_open(name, bytes);
    proto_field f;
    m->has_normalizer = true;
    while (proto_next(&r, &f)) {
        if (f.number == 2 && f.wire == 2)
            m->charsmap = f.bytes;
        else if (f.number == 3)
            t->sp.dummy_prefix = f.value != 0;
        else if (f.number == 4)
            t->sp.remove_extra = f.value != 0;
        else if (f.number == 5)
            t->sp.escape = f.value != 0;
    }
    return proto_done(&r, "normalizer_spec");
}

static weft_status read_denormalizer(const char *name, json_str bytes) {
    proto r = proto_open(name, bytes);
    proto_field f;
    while (proto_next(&r, &f))
        if (f.number == 2 && f.wire == 2 && f.bytes.n)
            return weft_fail(WEFT_UNSUPPORTED, "%s: denormalizer_spec is not supported", name);
    return proto_done(&r, "denormalizer_spec");
}

static weft_status read_model(tokenizer *t, const char *name, json_str bytes, model *m) {
    proto r = proto_open(name, bytes);
    proto_field f;
    while (proto_next(&r, &f)) {
        if (f.wire != 2)
            continue;
        if (f.number == PIECES)
            WEFT_TRY(read_piece(name, f.bytes, m));
        else if (f.number == TRAINER)
            WEFT_TRY(read_trainer(t, name, f.bytes, m));
        else if (f.number == NORMALIZER)
            WEFT_TRY(read_normalizer(t, name, f.bytes, m));
        else if (f.number == DENORMALIZER)
            WEFT_TRY(read_denormalizer(name, f.bytes));
    }
    WEFT_TRY(proto_done(&r, "model"));
    if (m->has_trainer && m->has_normalizer)
        return WEFT_OK;
    return weft_fail(WEFT_BAD_FILE, "%s: %s is missing; the file is cut short", name,
                     m->has_trainer ? "normalizer_spec" : "trainer_spec");
}

/* ---- from pieces to a model ---- */

typedef struct {
    double score;
    int32_t id;
} ranked;

static int by_score(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

/* Equal scores are equal ranks: then the leftmost pair joins first. */
static void rank_pieces(tokenizer *t, const model *m) {
    size_t n = m->pieces.n;
    ranked *order = mem_alloc(n * sizeof *order);
    t->rank = ARENA_NEW(&t->arena, uint32_t, n);
    for (size_t i = 0; i < n; i++)
        order[i] = (ranked){m->pieces.v[i].score, (int32_t)i};
    qsort(order, n, sizeof *order, by_score);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        rank += i && order[i].score < order[i - 1].score;
        t->rank[order[i].id] = rank;
    }
    mem_free(order);
}

static bool in_lattice(uint8_t type) {
    return type == TOK_NORMAL || type == TOK_USER;
}

static void score_pieces(tokenizer *t, const model *m) {
    size_t n = 0;
    double least = INFINITY, most = -INFINITY;
    tok_word *words = ARENA_NEW(&t->arena, tok_word, m->pieces.n);
    t->score = ARENA_NEW(&t->arena, double, m->pieces.n);
    for (size_t i = 0; i < m->pieces.n; i++) {
        const tok_entry *x = &m->pieces.v[i];
        t->score[i] = x->score;
        if (x->type == TOK_NORMAL) {
            least = x->score < least ? x->score : least;
            most = x->score > most ? x->score : most;
        }
        if (in_lattice(x->type))
            words[n++] = (tok_word){t->vocab.piece[i], (int32_t)i};
    }
    t->unk_score = isinf(least) ? -10 : (double)((float)least - 10.0f);
    t->top_score = isinf(most) ? 0 : (float)most;
    tok_set_build(&t->units, &t->arena, words, n);
}

static void collect_user(tokenizer *t, const model *m) {
    size_t n = 0;
    tok_word *words = ARENA_NEW(&t->arena, tok_word, m->pieces.n);
    for (size_t i = 0; i < m->pieces.n; i++) {
        uint8_t type = m->pieces.v[i].type;
        t->has_unused |= type == TOK_UNUSED;
        if (type == TOK_USER)
            words[n++] = (tok_word){t->vocab.piece[i], (int32_t)i};
    }
    tok_set_build(&t->sp.user, &t->arena, words, n);
}

static weft_status find_unknown(tokenizer *t, const char *name, const model *m) {
    t->unk = -1;
    for (size_t i = 0; i < m->pieces.n; i++)
        if (m->pieces.v[i].type == TOK_UNKNOWN) {
            if (t->unk >= 0)
                return weft_fail(WEFT_BAD_FILE, "%s: pieces %d and %zu are both unknown", name,
                                 t->unk, i);
            t->unk = (int32_t)i;
        }
    return t->unk < 0 ? weft_fail(WEFT_BAD_FILE, "%s: no piece for what is unknown", name)
                      : WEFT_OK;
}

static int32_t control(const tokenizer *t, json_str s) {
    int32_t id = tok_vocab_find(&t->vocab, s.s, s.n);
    return id >= 0 && t->vocab.type[id] == TOK_CONTROL ? id : -1;
}

/* The file does not say what belongs around a text. What released models expect: BPE models (Llama,
 * Mistral, Gemma) a BOS, unigram models an EOS, and a BOS if they have one.
 * tokenizer_config.json, where there is one, has the last word. */
static void surround(tokenizer *t, const model *m) {
    t->bos = control(t, m->bos);
    t->eos = control(t, m->eos);
    if (t->bos >= 0)
        t->prefix[t->nprefix++] = t->bos;
    if (t->eos >= 0 && t->model == TOK_MODEL_UNIGRAM)
        t->suffix[t->nsuffix++] = t->eos;
}

static weft_status build(tokenizer *t, const char *name, model *m) {
    if (m->model_type != UNIGRAM && m->model_type != BPE)
        return weft_fail(WEFT_UNSUPPORTED, "%s: SentencePiece model type %llu is not supported",
                         name, (unsigned long long)m->model_type);
    WEFT_TRY(tok_vocab_build(&t->vocab, &t->arena, name, &m->pieces));
    WEFT_TRY(find_unknown(t, name, m));
    t->spm = true;
    t->byte_fallback = m->byte_fallback;
    if (utf8_invalid_at(t->sp.unk_surface.s, t->sp.unk_surface.n) != t->sp.unk_surface.n)
        return weft_fail(WEFT_BAD_FILE, "%s: trainer_spec.unk_surface is not UTF-8", name);
    t->sp.unk_surface.s = arena_copy(&t->arena, t->sp.unk_surface.s, t->sp.unk_surface.n);
    collect_user(t, m);
    if (m->model_type == BPE) {
        t->by_pieces = true;
        t->nmerges = (int32_t)m->pieces.n;
        rank_pieces(t, m);
    } else {
        t->model = TOK_MODEL_UNIGRAM;
        score_pieces(t, m);
    }
    t->kind = m->model_type == BPE ? "SentencePiece BPE" : "SentencePiece unigram";
    if (m->charsmap.n)
        WEFT_TRY(tok_charsmap_open(&t->sp.charsmap, &t->arena, name, m->charsmap.s, m->charsmap.n));
    surround(t, m);
    WEFT_TRY(tok_dec_add(t, name, (tok_dec){.kind = TOK_DEC_SENTENCEPIECE}));
    return tok_finish(t, name);
}

weft_status tok_spm_read(tokenizer *t, const char *name, const char *data, size_t n) {
    static const char unknown[] = " \xe2\x81\x87 ";
    model m = {.model_type = UNIGRAM, .bos = {"<s>", 3}, .eos = {"</s>", 4}};
    t->sp.dummy_prefix = t->sp.remove_extra = t->sp.escape = true;
    t->sp.unk_surface = (json_str){unknown, sizeof unknown - 1};
    weft_status s = read_model(t, name, (json_str){data, n}, &m);
    if (s == WEFT_OK)
        s = build(t, name, &m);
    mem_free(m.pieces.v);
    return s;
}

/* ---- normaliser ---- */

/* What the next characters become: *to (length *len); returns how many bytes they were. */
static size_t step(const tokenizer *t, const char *s, size_t n, const char **to, size_t *len) {
    if (t->sp.user.n) {
        int64_t k = tok_set_longest(&t->sp.user, s, n);
        if (k >= 0) {
            *to = s;
            return *len = t->sp.user.word[k].s.n;
        }
    }
    if (t->sp.charsmap.apply) {
        size_t k = tok_charsmap_longest(&t->sp.charsmap, s, n, to);
        if (k) {
            *len = strlen(*to);
            return k;
        }
    }
    const char *p = s;
    tok_utf8_get(&p);
    *to = s;
    return *len = (size_t)(p - s);
}

static void put_escaped(const tokenizer *t, const char *s, size_t n, buf *out) {
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ' ' && t->sp.escape)
            buf_add(out, TOK_SPACE, 3);
        else
            buf_putc(out, s[i]);
    }
}

static size_t skip_leading(const tokenizer *t, const char *s, size_t n) {
    size_t at = 0, len;
    const char *to;
    while (at < n) {
        size_t k = step(t, s + at, n - at, &to, &len);
        if (len != 1 || *to != ' ')
            break;
        at += k;
    }
    return at;
}

static void trim_end(const tokenizer *t, size_t start, buf *out) {
    size_t n = t->sp.escape ? 3 : 1;
    const char *space = t->sp.escape ? TOK_SPACE : " ";
    while (out->len >= start + n && !memcmp(out->data + out->len - n, space, n))
        out->len -= n;
}

weft_status tok_spm_normalize(const tokenizer *t, bool first, const char *s, size_t n, buf *out) {
    size_t at = t->sp.remove_extra ? skip_leading(t, s, n) : 0, len, start = out->len;
    bool after_space = t->sp.remove_extra, dummy = first && t->sp.dummy_prefix;
    const char *to;
    if (at == n)
        return WEFT_OK;
    if (dummy && !t->sp.suffix)
        put_escaped(t, " ", 1, out);
    while (at < n && !out->failed) {
        at += step(t, s + at, n - at, &to, &len);
        while (after_space && len && *to == ' ') {
            to++;
            len--;
        }
        if (len) {
            put_escaped(t, to, len, out);
            after_space = to[len - 1] == ' ';
        }
        after_space &= t->sp.remove_extra;
    }
    if (t->sp.remove_extra)
        trim_end(t, start, out);
    if (dummy && t->sp.suffix)
        put_escaped(t, " ", 1, out);
    return WEFT_OK;
}
