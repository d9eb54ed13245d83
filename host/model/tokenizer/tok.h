/* SPDX-License-Identifier: Apache-2.0
 * Inside of a tokenizer, shared by the tok_*.c files. A text goes through these stages, each a
 * small program of rows read from the file:
 *   added tokens (raw) -> normalisers -> added tokens (normalised) -> splits -> model -> template
 * and ids come back through the decoder's rows, one token at a time (tok_decode.c). */
#pragma once
#include "host/base/err.h"
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include "host/model/tokenizer/tokenizer.h"
#include <string.h>

enum {
    TOK_MAX_ID = 1 << 24,
    TOK_MAX_ROWS = 32,          /* normalisers, splits or decoder steps of one tokenizer */
    TOK_MAX_ADDED_BYTES = 1024, /* bounds the work of matching at one place of a text */
    TOK_MAX_PIECE_BYTES = 1 << 16,
    TOK_MAX_AFFIX = 64 /* ids that a template puts before or behind a text */
};
#define TOK_MAX_TEXT ((size_t)1 << 31) /* offsets of a text are 32 bits */

#define TOK_SPACE "\xe2\x96\x81" /* U+2581, SentencePiece's visible space */
#define TOK_REPLACEMENT "\xef\xbf\xbd"

/* ---- vocabulary (tok_vocab.c) ---- */

enum { TOK_ABSENT, TOK_NORMAL, TOK_UNKNOWN, TOK_CONTROL, TOK_USER, TOK_UNUSED, TOK_BYTE };

typedef struct {
    json_str s;
    double score;
    int32_t id;
    uint8_t type;
} tok_entry;

typedef struct { /* entries as a file lists them; strings belong to the reader */
    tok_entry *v;
    size_t n, cap;
} tok_entries;

typedef struct {
    uint32_t hash, id1; /* id + 1; 0: free */
} tok_slot;

typedef struct {
    json_str *piece; /* by id, spelled as in the file; s is NULL where there is no such id */
    uint8_t *type;   /* by id */
    int32_t n;       /* highest id + 1 */
    uint32_t longest;
    uint64_t seed; /* differs from process to process: a file cannot aim at one slot */
    tok_slot *slot;
    uint32_t mask;
} tok_vocab;

typedef struct {
    uint64_t key; /* left id << 32 | right id; UINT64_MAX: free */
    uint32_t rank;
    int32_t into;
} tok_merge;

typedef struct {
    tok_merge *slot;
    uint32_t mask;
} tok_merges;

void tok_entries_add(tok_entries *e, json_str s, int64_t id, double score, int type);
weft_status tok_vocab_build(tok_vocab *v, arena *a, const char *name, const tok_entries *e);
int32_t tok_vocab_find(const tok_vocab *v, const char *s, size_t n);
weft_status tok_vocab_extend(tok_vocab *v, arena *a, int32_t n); /* room for ids below n */
void tok_merges_init(tok_merges *m, arena *a, size_t count);
void tok_merges_set(tok_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t into);

static inline const tok_merge *tok_merges_find(const tok_merges *m, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = (uint32_t)((key * 0x9E3779B97F4A7C15u) >> 32) & m->mask;
    while (m->slot[i].key != key) {
        if (m->slot[i].key == UINT64_MAX)
            return NULL;
        i = (i + 1) & m->mask;
    }
    return &m->slot[i];
}

/* ---- sets of strings, longest match at a place (tok_added.c) ---- */

typedef struct {
    json_str s;
    int32_t id;
} tok_word;

typedef struct {
    tok_word *word; /* sorted by bytes */
    uint32_t n;
    uint32_t first[257]; /* words that start with byte b are [first[b], first[b + 1]) */
} tok_set;

void tok_set_build(tok_set *set, arena *a, const tok_word *words, size_t n);
/* Index of the longest word that s starts with, or -1. */
int64_t tok_set_longest(const tok_set *set, const char *s, size_t n);
/* Narrows [*lo, *hi), the words equal to a text in their first `depth` bytes, by one byte more. */
bool tok_set_step(const tok_set *set, uint32_t *lo, uint32_t *hi, size_t depth, uint8_t byte);

typedef struct {
    json_str s;
    int32_t id;
    bool special, lstrip, rstrip, single_word, normalized;
} tok_added;

/* ---- regular expressions (tok_regex.c) ---- */

typedef enum { TOK_RUBY, TOK_RUST } tok_dialect; /* what `$`, `{1,3}+` and `\h` mean */
typedef struct tok_regex tok_regex;
typedef struct tok_match tok_match; /* one caller's working memory */

weft_status tok_regex_open(const char *key, json_str pattern, tok_dialect dialect, tok_regex **out);
void tok_regex_close(tok_regex *re);
tok_match *tok_match_open(void);
void tok_match_close(tok_match *m);
/* Next match at or behind `from`; *found says whether there is one. An expression that takes too
 * long is an error. */
weft_status tok_regex_next(const tok_regex *re, tok_match *m, const char *s, size_t n, size_t from,
                           size_t *begin, size_t *end, bool *found);

/* ---- rows of the stages ---- */

typedef struct tok_norm tok_norm;
typedef weft_status tok_norm_fn(const tok_norm *op, tok_match *m, const char *s, size_t n,
                                buf *out);
struct tok_norm {
    tok_norm_fn *apply;
    json_str from, to;    /* Replace, Prepend */
    tok_regex *re;        /* Replace by expression */
    const uint32_t *unit; /* Precompiled: a double-array trie ... */
    size_t units;
    const char *text; /* ... whose values are offsets of NUL-terminated strings here */
    size_t text_bytes;
    uint8_t form;                                  /* NFC, NFD, NFKC, NFKD */
    bool left, right;                              /* Strip */
    bool clean, chinese, strip_accents, lowercase; /* BertNormalizer */
};

typedef enum {
    TOK_ISOLATED,
    TOK_REMOVED,
    TOK_MERGED_PREVIOUS,
    TOK_MERGED_NEXT,
    TOK_CONTIGUOUS
} tok_behavior;

typedef enum {
    TOK_SPLIT_REGEX,
    TOK_SPLIT_CHARS, /* at characters for which is_delimiter holds */
    TOK_SPLIT_BYTES, /* ByteLevel: bytes become visible characters */
    TOK_SPLIT_METASPACE,
    TOK_SPLIT_FIXED /* every `length` characters */
} tok_split_kind;

typedef enum { TOK_PREPEND_ALWAYS, TOK_PREPEND_FIRST, TOK_PREPEND_NEVER } tok_prepend;

typedef struct {
    tok_split_kind kind;
    tok_behavior behavior;
    bool invert, prefix_space, split;
    tok_prepend prepend;
    tok_regex *re; /* TOK_SPLIT_REGEX, and ByteLevel's own */
    bool (*is_delimiter)(uint32_t cp, uint32_t arg);
    uint32_t arg, length;
    json_str mark; /* Metaspace */
} tok_split;

typedef struct {
    uint32_t off, len;
} tok_span;

typedef struct { /* pieces of one text */
    buf text;
    tok_span *span;
    size_t n, cap;
} tok_pieces;

typedef enum {
    TOK_DEC_BYTELEVEL,
    TOK_DEC_RAW, /* tiktoken: pieces are bytes */
    TOK_DEC_SENTENCEPIECE,
    TOK_DEC_BYTE_FALLBACK,
    TOK_DEC_FUSE,
    TOK_DEC_REPLACE,
    TOK_DEC_STRIP,
    TOK_DEC_METASPACE,
    TOK_DEC_WORDPIECE,
    TOK_DEC_BPE,
    TOK_DEC_JOIN /* no decoder: tokens with a space between */
} tok_dec_kind;

typedef struct {
    tok_dec_kind kind;
    json_str from, to; /* Replace; Metaspace's mark, WordPiece's prefix, BPE's suffix: from */
    tok_regex *re;
    uint32_t start, stop; /* Strip */
    bool flag;            /* WordPiece: cleanup; Metaspace: the first mark is dropped */
    bool fused;           /* what comes in is one token in fragments */
} tok_dec;

typedef enum { TOK_MODEL_BPE, TOK_MODEL_UNIGRAM } tok_model_kind;

struct tokenizer {
    arena arena;
    const char *kind;
    tok_vocab vocab;  /* the model's; `piece` and `type` hold added tokens too */
    json_str *text;   /* by id: what a token adds to a text; NULL: as `vocab.piece` */
    uint8_t *special; /* by id */
    int32_t bos, eos, unk;
    int32_t prefix[TOK_MAX_AFFIX], suffix[TOK_MAX_AFFIX];
    int nprefix, nsuffix;

    tok_added *added;
    size_t nadded;
    tok_set names;           /* added tokens by spelling; `id` of a word indexes `added` */
    tok_set raw, normalized; /* those found before and after the normalisers */
    bool added_need_special; /* tiktoken: text never spells a special token without TOK_SPECIAL */
    bool spm;                /* SentencePiece's own normaliser and rules, read from its model */

    tok_norm norm[TOK_MAX_ROWS];
    tok_split split[TOK_MAX_ROWS];
    tok_dec dec[TOK_MAX_ROWS];
    int nnorm, nsplit, ndec;

    tok_model_kind model;
    tok_merges merges;
    bool by_pieces; /* BPE joins what spells a piece (ranks, SentencePiece), not pairs */
    uint32_t *rank; /* by id, for by_pieces: smaller joins first */
    int32_t nmerges;
    bool whole_first; /* a word that is a token is that token: ignore_merges, tiktoken */
    bool byte_fallback, fuse_unk;
    bool cut_at_space; /* no token has U+2581 behind another character: words are apart */
    bool has_unused;
    json_str word_prefix, word_suffix; /* continuing_subword_prefix, end_of_word_suffix */
    int32_t byte_id[256];              /* tokens "<0x00>" ... ; -1: none */
    int32_t low_id[512];               /* ids of one-character tokens below U+0200 */
    tok_set units;                     /* unigram: the pieces */
    double *score;                     /* by id */
    double unk_score;
    float top_score;

    struct { /* SentencePiece's normaliser */
        bool dummy_prefix, remove_extra, escape, suffix;
        tok_norm charsmap; /* apply is NULL without one */
        tok_set user;      /* user-defined pieces, found before anything else */
        json_str unk_surface;
    } sp;
};

/* ---- readers ---- */

weft_status tok_json_read(tokenizer *t, const char *name, const char *data, size_t n);
/* {"piece": id, ...} */
void tok_json_vocab(json *j, tok_entries *e);
weft_status tok_spm_read(tokenizer *t, const char *name, const char *data, size_t n);
weft_status tok_ranks_read(tokenizer *t, const char *name, const char *data, size_t n);
/* vocab.json and merges.txt; `family` is "qwen2", "gpt2", or "" to tell from the vocabulary. */
typedef struct {
    const char *name, *data;
    size_t n;
} tok_text;
weft_status tok_pair_read(tokenizer *t, tok_text vocab, tok_text merges, const char *family);
/* tokenizer_config.json: which tokens are special and which are added to a text. */
weft_status tok_config_read(tokenizer *t, tok_text file, bool template_wins);

/* Merges as pairs of spellings -> t->merges; needs the vocabulary. */
weft_status tok_merges_build(tokenizer *t, const char *name, const json_str *pairs, size_t n);
/* Ready to encode: byte tokens, added tokens, decoder. Last step of every reader. */
weft_status tok_finish(tokenizer *t, const char *name);
weft_status tok_add_added(tokenizer *t, const char *name, const tok_added *tokens, size_t n);

weft_status tok_charsmap_open(tok_norm *op, arena *a, const char *key, const char *data, size_t n);
/* Longest rule of a charsmap at s: its length, 0 if none; *to is the replacement. */
size_t tok_charsmap_longest(const tok_norm *op, const char *s, size_t n, const char **to);
weft_status tok_norm_parse(tokenizer *t, json *j);
weft_status tok_split_parse(tokenizer *t, json *j);
weft_status tok_dec_parse(tokenizer *t, json *j);
weft_status tok_split_bytelevel(tokenizer *t, const char *key, bool prefix_space, bool use_regex);
weft_status tok_split_pattern(tokenizer *t, const char *key, json_str pattern, tok_dialect dialect);
void tok_norm_form(tokenizer *t, const char *form);
weft_status tok_dec_add(tokenizer *t, const char *name, tok_dec op);
weft_status tok_regex_parse(json *j, tok_dialect dialect, json_str *literal, tok_regex **re);

/* ---- encoding ---- */

typedef struct tok_bpe tok_bpe;
tok_bpe *tok_bpe_open(const tokenizer *t, size_t text_bytes);
void tok_bpe_close(tok_bpe *b);
weft_status tok_bpe_word(tok_bpe *b, const char *s, size_t n, tok_ids *out);
weft_status tok_unigram_word(const tokenizer *t, const char *s, size_t n, tok_ids *out);

void tok_pieces_init(tok_pieces *p);
void tok_pieces_fini(tok_pieces *p);
void tok_pieces_add(tok_pieces *p, size_t off, size_t len);
/* in -> out; `first`: the text starts at the very start of what the caller gave. */
weft_status tok_split_apply(const tok_split *op, tok_match *m, bool first, const tok_pieces *in,
                            tok_pieces *out);
/* *moved (may be NULL): the front of the text was cut off, so what is left starts later in it. */
weft_status tok_norm_apply(const tokenizer *t, tok_match *m, const char *s, size_t n, buf *out,
                           bool *moved);
weft_status tok_spm_normalize(const tokenizer *t, bool first, const char *s, size_t n, buf *out);

/* ---- text ---- */

extern const uint16_t tok_byte_to_char[256]; /* GPT-2's visible alphabet */
extern const char tok_bytes[256];            /* every byte, to point at */
int tok_char_to_byte(uint32_t cp);           /* -1: not in it */
/* Bytes of a visible spelling; false if a character is not in the alphabet. */
bool tok_bytes_of(const char *s, size_t n, buf *out);
/* Length of the character at s: > 0 whole; 0 needs more bytes than n; -k: k bytes that no
 * character starts with. */
int tok_utf8_scan(const char *s, size_t n);

/* One character of valid UTF-8. */
static inline uint32_t tok_utf8_get(const char **p) {
    const unsigned char *s = (const unsigned char *)*p;
    if (s[0] < 0x80) {
        *p += 1;
        return s[0];
    }
    if (s[0] < 0xe0) {
        *p += 2;
        return (uint32_t)(s[0] & 31) << 6 | (s[1] & 63);
    }
    if (s[0] < 0xf0) {
        *p += 3;
        return (uint32_t)(s[0] & 15) << 12 | (uint32_t)(s[1] & 63) << 6 | (s[2] & 63);
    }
    *p += 4;
    return (uint32_t)(s[0] & 7) << 18 | (uint32_t)(s[1] & 63) << 12 | (uint32_t)(s[2] & 63) << 6 |
           (s[3] & 63);
}

static inline void tok_utf8_add(buf *b, uint32_t cp) {
    char c[4];
    buf_add(b, c, (size_t)utf8_put(c, cp));
}

static inline bool tok_same(json_str a, json_str b) {
    return a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
}

static inline bool tok_is_mark(const char *s) { /* three bytes there */
    return memcmp(s, TOK_SPACE, 3) == 0;
}

/* Unicode White_Space. */
static inline bool tok_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}
bool tok_is_word(uint32_t c);
