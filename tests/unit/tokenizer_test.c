/* SPDX-License-Identifier: Apache-2.0
 * Tokenizers without fixtures: small files written here, whose ids are worked out by hand; hostile
 * files, one message each; linear time. The released tokenizers are compared with the libraries
 * they come from in tests/e2e/test_tokenizers.py. */
#include "host/model/tokenizer/tokenizer.h"
#include "tests/unit/unit.h"
#include <stdio.h>
#include <time.h>

/* ---- files in memory ---- */

#define LAYOUT(norm, pre, dec, model) \
    "{\"normalizer\":" norm ",\"pre_tokenizer\":" pre ",\"decoder\":" dec ",\"model\":" model "}"
#define MODEL(vocab, merges) "{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}"
#define PLAIN(vocab, merges) LAYOUT("null", "null", "null", MODEL(vocab, merges))
#define ABC "\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4,\"abc\":5"

static tokenizer *open_json(const char *text) {
    tokenizer *t = NULL;
    size_t n = strlen(text);
    char *copy = exact_copy(text, n);
    weft_status s = tokenizer_open_memory("t.json", TOK_FILE_JSON, copy, n, &t);
    free(copy); /* a tokenizer keeps nothing of the file */
    if (s != WEFT_OK)
        fail_msg("%s", err_message());
    return t;
}

/* "1 2 3" */
static void ids_text(const tok_ids *ids, char *out, size_t room) {
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < ids->n && at + 16 < room; i++)
        at += (size_t)snprintf(out + at, room - at, "%s%d", i ? " " : "", (int)ids->v[i]);
}

static void expect_ids(const tokenizer *t, const char *text, unsigned flags, const char *want) {
    tok_ids ids = {0};
    char got[4096];
    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, &ids), WEFT_OK);
    ids_text(&ids, got, sizeof got);
    assert_string_equal(got, want);
    tok_ids_fini(&ids);
}

static void decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip, char out[256]) {
    buf b;
    buf_init(&b, 255);
    assert_int_equal(tokenizer_decode(t, ids, n, skip, &b), WEFT_OK);
    memcpy(out, b.data, b.len);
    out[b.len] = 0;
    buf_fini(&b);
}

/* A SentencePiece model: fields appended to a fixed buffer. */
typedef struct {
    char data[8192];
    size_t n;
} proto;

static void put_bytes(proto *p, int field, const void *data, size_t n) {
    assert_true(n < 128 * 128 && p->n + n + 4 < sizeof p->data);
    p->data[p->n++] = (char)(field << 3 | 2);
    if (n >= 128)
        p->data[p->n++] = (char)((n & 127) | 128);
    p->data[p->n++] = (char)(n >= 128 ? n >> 7 : n);
    memcpy(p->data + p->n, data, n);
    p->n += n;
}

static void put_int(proto *p, int field, int value) {
    p->data[p->n++] = (char)((field << 3) & 127);
    if (field >= 16) {
        p->data[p->n - 1] = (char)((field << 3 & 127) | 128);
        p->data[p->n++] = (char)(field >> 4);
    }
    p->data[p->n++] = (char)value;
}

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

static void put_piece(proto *p, const char *piece, float score, int type) {
    proto x = {.n = 0};
    put_bytes(&x, 1, piece, strlen(piece));
    x.data[x.n++] = 2 << 3 | 5;
    memcpy(x.data + x.n, &score, 4);
    x.n += 4;
    put_int(&x, 3, type);
    put_bytes(p, 1, x.data, x.n);
}

/* trainer_spec and normalizer_spec; extra whitespace stays, as in Llama's models. */
static void put_specs(proto *p, int model_type, bool byte_fallback) {
    proto x = {.n = 0};
    put_int(&x, 3, model_type);
    put_int(&x, 35, byte_fallback);
    put_bytes(p, 2, x.data, x.n);
    x.n = 0;
    put_int(&x, 4, 0);
    put_bytes(p, 3, x.data, x.n);
}

enum { UNIGRAM = 1, BPE = 2 };
#define SP "\xe2\x96\x81"

static void put_start(proto *p) {
    p->n = 0;
    put_piece(p, "<unk>", 0, UNKNOWN);
    put_piece(p, "<s>", 0, CONTROL);
    put_piece(p, "</s>", 0, CONTROL);
}

static void put_byte_pieces(proto *p) {
    char s[8];
    for (int b = 0; b < 256; b++) {
        snprintf(s, sizeof s, "<0x%02X>", (unsigned)b);
        put_piece(p, s, 0, BYTE);
    }
}

static tokenizer *open_proto(const proto *p) {
    tokenizer *t = NULL;
    char *copy = exact_copy(p->data, p->n);
    weft_status s = tokenizer_open_memory("t.model", TOK_FILE_AUTO, copy, p->n, &t);
    free(copy);
    if (s != WEFT_OK)
        fail_msg("%s", err_message());
    return t;
}

/* ---- byte-pair encoding ---- */

CASE(lowest_rank_joins_first) {
    tokenizer *t = open_json(PLAIN(ABC, "\"b c\",\"a b\",\"a bc\""));
    expect_ids(t, "abc", 0, "5"); /* bc, then a+bc */
    expect_ids(t, "ababc", 0, "3 5");
    expect_ids(t, "", 0, "");
    assert_int_equal(tokenizer_merges(t), 3);
    assert_int_equal(tokenizer_vocab_size(t), 6);
    tokenizer_close(t);
    t = open_json(PLAIN(ABC, "\"a b\",\"b c\",\"a bc\""));
    expect_ids(t, "abc", 0, "3 2"); /* ab stands in the way of bc */
    tokenizer_close(t);
}

CASE(leftmost_joins_first) {
    tokenizer *t = open_json(PLAIN("\"a\":0,\"aa\":1", "[\"a\",\"a\"]"));
    expect_ids(t, "aaa", 0, "1 0");
    expect_ids(t, "aaaaa", 0, "1 1 0");
    tokenizer_close(t);
}

/* The scan for short words and the heap for long ones are two programs for one definition: the
 * third is here. */
CASE(scan_and_heap_agree_with_the_definition) {
    tokenizer *t = open_json(PLAIN(ABC ",\"ca\":6,\"abab\":7,\"cab\":8",
                                   "\"b c\",\"c a\",\"a b\",\"ab ab\",\"c ab\",\"a bc\""));
    static const struct {
        int l, r, into;
    } merges[] = {{1, 2, 4}, {2, 0, 6}, {0, 1, 3}, {3, 3, 7}, {2, 3, 8}, {0, 4, 5}};
    uint64_t seed = 5;
    for (int round = 0; round < 300; round++) {
        char text[400], want[4096];
        int32_t v[400];
        size_t n = 1 + next_random(&seed) % 200;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)('a' + (v[i] = (int32_t)(next_random(&seed) % 3)));
        text[n] = 0;
        for (bool again = true; again;) {
            again = false;
            for (int m = 0; m < 6 && !again; m++)
                for (size_t i = 0; i + 1 < n && !again; i++)
                    if (v[i] == merges[m].l && v[i + 1] == merges[m].r) {
                        v[i] = merges[m].into;
                        memmove(v + i + 1, v + i + 2, (--n - i - 1) * sizeof *v);
                        again = true;
                    }
        }
        ids_text(&(tok_ids){v, n, n}, want, sizeof want);
        expect_ids(t, text, 0, want);
    }
    tokenizer_close(t);
}

CASE(unknown_characters) {
    tokenizer *t = open_json(PLAIN(ABC, ""));
    expect_ids(t, "axb", 0, "0 1"); /* no unknown token: left out */
    tokenizer_close(t);
    t = open_json("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":false,"
                  "\"vocab\":{\"?\":0,\"a\":1},\"merges\":[]}}");
    expect_ids(t, "xya", 0, "0 0 1");
    assert_int_equal(tokenizer_unk(t), 0);
    tokenizer_close(t);
    t = open_json("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":true,"
                  "\"vocab\":{\"?\":0,\"a\":1},\"merges\":[]}}");
    expect_ids(t, "xyaz", 0, "0 1 0");
    tokenizer_close(t);
}

CASE(words_with_affixes) {
    tokenizer *t = open_json(
        "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\","
        "\"vocab\":{\"a\":0,\"b</w>\":1,\"ab</w>\":2},"
        "\"merges\":[\"a b</w>\"]},\"decoder\":{\"type\":\"BPEDecoder\","
        "\"suffix\":\"</w>\"},\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"}}");
    expect_ids(t, "ab  b ab", 0, "2 1 2");
    char text[256];
    decode(t, (const int32_t[]){2, 1, 2}, 3, false, text);
    assert_string_equal(text, "ab b ab");
    tokenizer_close(t);
    t = open_json("{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\","
                  "\"vocab\":{\"a\":0,\"##b\":1,\"ab\":2,\"##a\":3},\"merges\":[\"a ##b\"]},"
                  "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":false}}");
    expect_ids(t, "aba", 0, "2 3");
    decode(t, (const int32_t[]){2, 3, 2}, 3, false, text);
    assert_string_equal(text, "aba ab");
    tokenizer_close(t);
}

CASE(whole_words_first) {
    tokenizer *t = open_json("{\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{" ABC
                             "},\"merges\":[\"a b\"]}}");
    expect_ids(t, "abc", 0, "5");
    expect_ids(t, "abcc", 0, "3 2 2");
    tokenizer_close(t);
}

/* ---- added tokens ---- */

#define ADDED(fields) \
    "{\"added_tokens\":[{\"id\":6,\"content\":\"<s>\"," fields "}],\"model\":" MODEL( \
        ABC, "") ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"b\"," \
                 "\"prepend_scheme\":\"never\",\"split\":false}}"

CASE(added_tokens) {
    tokenizer *t = open_json(ADDED("\"special\":true"));
    expect_ids(t, "a<s>c", 0, "0 6 2");
    expect_ids(t, "a<s>c", TOK_PLAIN, "0 2"); /* its characters are not in the vocabulary */
    assert_true(tokenizer_is_special(t, 6));
    assert_int_equal(tokenizer_find(t, "<s>", 3), 6);
    assert_int_equal(tokenizer_find(t, "abc", 3), 5);
    assert_int_equal(tokenizer_find(t, "<s", 2), -1);
    assert_int_equal(tokenizer_added(t), 1);
    tokenizer_close(t);
    t = open_json(ADDED("\"special\":false"));
    expect_ids(t, "a<s>c", TOK_PLAIN, "0 6 2"); /* not special: part of the language */
    tokenizer_close(t);
    t = open_json(ADDED("\"special\":true,\"lstrip\":true"));
    expect_ids(t, "a \n<s> c", 0, "0 6 1 2"); /* a space in the text is a b here */
    tokenizer_close(t);
    t = open_json(ADDED("\"special\":true,\"rstrip\":true"));
    expect_ids(t, "a <s> \tc", 0, "0 1 6 2");
    tokenizer_close(t);
    t = open_json(ADDED("\"special\":true,\"single_word\":true"));
    expect_ids(t, "a<s> <s>", 0, "0 1 6");
    tokenizer_close(t);
}

CASE(longest_added_token) {
    tokenizer *t = open_json(
        "{\"added_tokens\":[{\"id\":6,\"content\":\"aa\",\"special\":true},"
        "{\"id\":7,\"content\":\"aab\",\"special\":true},"
        "{\"id\":8,\"content\":\"ba\",\"special\":true}],\"model\":" MODEL(ABC, "") "}");
    expect_ids(t, "aabac", 0, "7 0 2"); /* leftmost, then longest */
    expect_ids(t, "caaba", 0, "2 7 0");
    tokenizer_close(t);
}

CASE(templates) {
    tokenizer *t = open_json(
        "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
        "\"id\":\"x\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},"
        "{\"SpecialToken\":{\"id\":\"y\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{"
        "\"x\":{\"id\":\"x\",\"ids\":[4],\"tokens\":[\"x\"]},"
        "\"y\":{\"id\":\"y\",\"ids\":[5,2],\"tokens\":[\"y\",\"z\"]}}},\"model\":" MODEL(ABC,
                                                                                         "") "}");
    expect_ids(t, "a", TOK_SPECIAL, "4 0 5 2");
    expect_ids(t, "a", 0, "0");
    assert_true(tokenizer_adds_bos(t));
    tokenizer_close(t);
}

/* ---- normalisers and splits ---- */

#define BYTES3 \
    "\"a\":0,\"\xc4\xa0\":1,\"b\":2,\"1\":3,\"aa\":4,\"\xc4\xa0" \
    "a\":5"

CASE(byte_level) {
    tokenizer *t = open_json(LAYOUT("null", "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
                                    "{\"type\":\"ByteLevel\"}",
                                    MODEL(BYTES3, "\"\xc4\xa0 a\",\"a a\"")));
    expect_ids(t, "aa a  b1", 0, "4 5 1 1 2 3");
    size_t n;
    assert_memory_equal(tokenizer_piece(t, 5, &n), " a", 2);
    assert_int_equal(n, 2);
    assert_null(tokenizer_piece(t, 6, &n));
    assert_string_equal(tokenizer_kind(t), "byte-level BPE");
    tokenizer_close(t);
}

typedef struct {
    const char *rows, *text, *want;
} stage_case;

#define LETTERS \
    "\"a\":0,\"b\":1,\"A\":2,\"1\":3,\"2\":4,\" \":5,\"-\":6,\"e\":7,\"\xc3\xa9\":8," \
    "\"\xe4\xb8\xad\":9,\"ab\":10,\"12\":11,\"i\":12,\"\xcc\x81\":13,\"\xcc\x87\":14," \
    "\"a-\":15,\"-a\":16,\"--\":17,\"\xcc\x96\":18"
#define ALL_MERGES "\"a b\",\"1 2\",\"a -\",\"- a\",\"- -\""

CASE(normalizers) {
    static const stage_case cases[] = {
        {"{\"type\":\"NFC\"}", "e\xcc\x81", "8"},
        {"{\"type\":\"NFD\"}", "\xc3\xa9", "7 13"},
        {"{\"type\":\"NFD\"}", "a\xcc\x81\xcc\x96", "0 18 13"}, /* marks in canonical order */
        {"{\"type\":\"NFKC\"}", "\xef\xbd\x81\xc2\xb2", "0 4"}, /* full-width a, superscript 2 */
        {"{\"type\":\"NFKD\"}", "\xc3\xa9", "7 13"},
        {"{\"type\":\"Lowercase\"}", "aAA\xc4\xb0", "0 0 0 12 14"}, /* I with a dot above */
        {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"StripAccents\"}]}",
         "\xc3\xa9"
         "a",
         "7 0"},
        {"{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}", "  a ", "0 5"},
        {"{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}", " a\n\xe3\x80\x80",
         "5 0"},
        {"{\"type\":\"Prepend\",\"prepend\":\"1\"}", "a", "3 0"},
        {"{\"type\":\"Prepend\",\"prepend\":\"1\"}", "", ""},
        {"{\"type\":\"Replace\",\"pattern\":{\"String\":\"aa\"},\"content\":\"b\"}", "aaa", "1 0"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a+\"},\"content\":\"b\"}", "aaabaa",
         "1 1 1"},
        {"{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
         "\"strip_accents\":null,\"lowercase\":true}",
         "A\xc3\xa9\t\xe4\xb8\xad\x7f", "0 7 5 5 9 5"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char file[2048];
        snprintf(file, sizeof file, LAYOUT("%s", "null", "null", MODEL(LETTERS, "")),
                 cases[i].rows);
        tokenizer *t = open_json(file);
        expect_ids(t, cases[i].text, 0, cases[i].want);
        tokenizer_close(t);
    }
}

#define SPLIT(regex, behavior) \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"" behavior \
    "\",\"invert\":false}"

/* Merges tell which characters came to stand in one piece. */
CASE(splits) {
    static const stage_case cases[] = {
        {SPLIT("-", "Isolated"), "a-a", "0 6 0"},
        {SPLIT("-", "Removed"), "a-a", "0 0"},
        {SPLIT("-", "MergedWithPrevious"), "a-a", "15 0"},
        {SPLIT("-", "MergedWithNext"), "a-a", "0 16"},
        {SPLIT("-", "MergedWithNext"), "a--a", "0 6 16"},
        {SPLIT("-", "Contiguous"), "a--a", "0 17 0"},
        {"{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Removed\","
         "\"invert\":true}",
         "-a-ba", "0 0"},
        {SPLIT("a{1,2}+", "Isolated"), "aaab", "0 0 0 1"},
        {SPLIT("\\\\d{1,1}+", "Isolated"), "12", "11"}, /* a repeat of a repeat, not possessive */
        {"{\"type\":\"Digits\",\"individual_digits\":true}", "12a", "3 4 0"},
        {"{\"type\":\"Digits\",\"individual_digits\":false}", "12a", "11 0"},
        {"{\"type\":\"Punctuation\",\"behavior\":\"Isolated\"}", "a-a", "0 6 0"},
        {"{\"type\":\"Whitespace\"}", "ab -a\n12", "10 6 0 11"},
        {"{\"type\":\"WhitespaceSplit\"}", " -a\n\n12", "16 11"},
        {"{\"type\":\"BertPreTokenizer\"}", "-a 12", "6 0 11"},
        {"{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"-\"}", "a-ab", "0 10"},
        {"{\"type\":\"FixedLength\",\"length\":2}", "a12a-", "0 3 4 0 6"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"-\",\"prepend_scheme\":\"always\"}", "a a",
         "16 16"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"-\",\"add_prefix_space\":false}", "a a",
         "0 16"},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},"
         "{\"type\":\"Metaspace\",\"replacement\":\"-\",\"prepend_scheme\":\"first\"}]}",
         "a a", "16 0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char file[2048];
        snprintf(file, sizeof file, LAYOUT("null", "%s", "null", MODEL(LETTERS, ALL_MERGES)),
                 cases[i].rows);
        tokenizer *t = open_json(file);
        expect_ids(t, cases[i].text, 0, cases[i].want);
        tokenizer_close(t);
    }
}

/* ---- SentencePiece ---- */

static void put_llama_like(proto *p) {
    put_start(p);
    put_byte_pieces(p); /* 3 to 258 */
    put_piece(p, SP, -1, NORMAL);
    put_piece(p, "a", -2, NORMAL);
    put_piece(p, SP "a", -3, NORMAL);
    put_piece(p, "aa", -4, UNUSED);
    put_piece(p, "ab", -5, NORMAL);
    put_piece(p, "b", -6, NORMAL);
    put_piece(p, "bab", 0, USER);
    put_piece(p, "babb", 0, NORMAL);
    put_specs(p, BPE, true);
}

CASE(sentencepiece_bpe) {
    proto p;
    put_llama_like(&p);
    tokenizer *t = open_proto(&p);
    expect_ids(t, "a", 0, "261"); /* a space is put in front */
    expect_ids(t, "a", TOK_SPECIAL, "1 261");
    expect_ids(t, " a", 0, "259 261");
    expect_ids(t, "\xc3\xa9", 0, "259 198 172");      /* é is C3 A9 */
    expect_ids(t, "<s>", 0, "259 63 118 65");         /* control pieces are never text */
    expect_ids(t, "caaab", 0, "259 102 260 260 263"); /* aa is unused and falls apart */
    expect_ids(t, "ababb", 0, "261 265 264");         /* a user-defined piece never joins */
    expect_ids(t, "", 0, "");
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    size_t n;
    assert_memory_equal(tokenizer_piece(t, 3 + 0xc3, &n), "\xc3", 1);
    assert_int_equal(n, 1);
    tokenizer_close(t);
}

CASE(sentencepiece_decoding) {
    static const struct {
        int32_t ids[8];
        size_t n;
        const char *want;
    } cases[] = {{{261, 261}, 2, "a a"}, /* only the first space goes */
                 {{1, 261}, 2, "a"},     /* BOS does not count */
                 {{259, 261}, 2, " a"},
                 {{198, 172, 260},
                  3,
                  "\xc3\xa9"
                  "a"},
                 {{198, 260},
                  2,
                  "\xef\xbf\xbd"
                  "a"},
                 {{198, 198, 172}, 3, "\xef\xbf\xbd\xc3\xa9"},
                 {{243, 162, 155}, 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* F0 9F 98 */
                 {{0}, 1, " \xe2\x81\x87 "}};
    proto p;
    put_llama_like(&p);
    tokenizer *t = open_proto(&p);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        decode(t, cases[i].ids, cases[i].n, false, text);
        assert_string_equal(text, cases[i].want);
    }
    tokenizer_close(t);
}

CASE(unigram) {
    proto p;
    put_start(&p);
    put_piece(&p, SP, -1, NORMAL);
    put_piece(&p, "a", -2, NORMAL);
    put_piece(&p, "b", -2, NORMAL);
    put_piece(&p, "ab", -3.5F, NORMAL); /* 6: beats a, b at -4 */
    put_piece(&p, "ba", -4.5F, NORMAL); /* 7: loses to b, a */
    put_specs(&p, UNIGRAM, false);
    tokenizer *t = open_proto(&p);
    expect_ids(t, "ab", 0, "3 6");
    expect_ids(t, "ba", 0, "3 5 4");
    expect_ids(t, "bab", 0, "3 5 6");
    expect_ids(t, "xyb", 0, "3 0 5"); /* a run of unknown characters is one */
    expect_ids(t, "a", TOK_SPECIAL, "1 3 4 2");
    tokenizer_close(t);
}

/* ---- decoders and streams ---- */

static const char *const decoders[] = {
    "null",
    "{\"type\":\"ByteLevel\"}",
    "{\"type\":\"Fuse\"}",
    "{\"type\":\"ByteFallback\"}",
    "{\"type\":\"WordPiece\",\"prefix\":\"a\",\"cleanup\":true}",
    "{\"type\":\"Metaspace\",\"replacement\":\"-\",\"prepend_scheme\":\"always\"}",
    ("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"-\"},"
     "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\","
     "\"content\":\" \",\"start\":1,\"stop\":0}]}"),
    ("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
     "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a+\"},\"content\":\"x\"},{\"type\":\"Strip\","
     "\"content\":\"x\",\"start\":1,\"stop\":1}]}"),
    ("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},{\"type\":\"Replace\","
     "\"pattern\":{\"String\":\"ab\"},\"content\":\"\"}]}")};

#define BYTE_TOKENS "\"<0xC3>\":19,\"<0xA9>\":20,\"<0xF0>\":21,\"\xc3\x83\":22,\"\xc2\xa9\":23"

static bool whole_characters(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        size_t k = c < 0x80 ? 1 : c < 0xc0 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        if (!k || i + k > n)
            return false;
        for (size_t j = 1; j < k; j++)
            if ((s[i + j] & 0xc0) != 0x80)
                return false;
        i += k;
    }
    return true;
}

static void check_stream(const tokenizer *t, tok_stream *s, const int32_t *ids, size_t n) {
    buf all, parts;
    buf_init(&all, 1 << 16);
    buf_init(&parts, 1 << 16);
    assert_int_equal(tokenizer_decode(t, ids, n, false, &all), WEFT_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(tok_stream_push(s, ids[i], &parts), WEFT_OK);
        assert_true(whole_characters(parts.data, parts.len));
    }
    assert_int_equal(tok_stream_flush(s, &parts), WEFT_OK);
    assert_string_equal(parts.data, all.data);
    buf_fini(&all);
    buf_fini(&parts);
}

CASE(streams_give_what_decode_gives) {
    for (size_t d = 0; d < sizeof decoders / sizeof *decoders; d++) {
        char file[4096];
        snprintf(file, sizeof file,
                 LAYOUT("null", "null", "%s", MODEL(LETTERS "," BYTE_TOKENS, "")), decoders[d]);
        tokenizer *t = open_json(file);
        tok_stream s;
        uint64_t seed = 11;
        tok_stream_init(&s, t, false);
        for (int round = 0; round < 200; round++) {
            int32_t ids[12];
            size_t n = next_random(&seed) % 12;
            for (size_t i = 0; i < n; i++)
                ids[i] = (int32_t)(next_random(&seed) % (uint64_t)tokenizer_vocab_size(t));
            check_stream(t, &s, ids, n);
        }
        tok_stream_fini(&s);
        tokenizer_close(t);
    }
}

/* A character whose bytes come in two tokens appears with the second one. */
CASE(streams_hold_half_characters) {
    tokenizer *t = open_json(LAYOUT("null", "null", "{\"type\":\"ByteLevel\"}",
                                    MODEL("\"\xc3\x83\":0,\"\xc2\xa9\":1,\"a\":2", "")));
    tok_stream s;
    buf out;
    buf_init(&out, 256);
    tok_stream_init(&s, t, false);
    assert_int_equal(tok_stream_push(&s, 0, &out), WEFT_OK);
    assert_int_equal(out.len, 0);
    assert_int_equal(tok_stream_push(&s, 1, &out), WEFT_OK);
    assert_string_equal(out.data, "\xc3\xa9");
    assert_int_equal(tok_stream_push(&s, 0, &out), WEFT_OK);
    assert_int_equal(tok_stream_push(&s, 2, &out), WEFT_OK);
    assert_string_equal(out.data, "\xc3\xa9\xef\xbf\xbd"
                                  "a");
    assert_int_equal(tok_stream_push(&s, 99, &out), WEFT_USAGE);
    expect_message("99");
    tok_stream_fini(&s);
    buf_fini(&out);
    tokenizer_close(t);
}

CASE(pushing_takes_no_memory) {
    proto p;
    put_llama_like(&p);
    tokenizer *t = open_proto(&p);
    tok_stream s;
    buf out;
    buf_init(&out, 1 << 20);
    tok_stream_init(&s, t, false);
    for (int i = 0; i < 100; i++)
        tok_stream_push(&s, 261, &out);
    uint64_t before = mem_allocations();
    for (int i = 0; i < 1000; i++) {
        buf_clear(&out);
        for (int32_t id = 190; id < 266; id++)
            assert_int_equal(tok_stream_push(&s, id, &out), WEFT_OK);
    }
    assert_true(mem_allocations() - before <= 4); /* `out` may grow; nothing per token */
    tok_stream_fini(&s);
    buf_fini(&out);
    tokenizer_close(t);
}

/* ---- time ---- */

static double cpu_seconds(const tokenizer *t, const char *unit, size_t bytes) {
    size_t k = strlen(unit);
    char *text = malloc(bytes + k);
    tok_ids ids = {0};
    struct timespec a, b;
    for (size_t i = 0; i < bytes + k; i++)
        text[i] = unit[i % k];
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    assert_int_equal(tokenizer_encode(t, text, bytes / k * k, 0, &ids), WEFT_OK);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    assert_true(ids.n > 0);
    tok_ids_fini(&ids);
    free(text);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

/* Sixteen times the text takes about sixteen times the time; a quadratic step would take 256. */
static void expect_linear(const tokenizer *t, const char *unit) {
    double least = 1e9;
    for (int attempt = 0; attempt < 4 && least > 64; attempt++) {
        double small = cpu_seconds(t, unit, 1 << 16), large = cpu_seconds(t, unit, 1 << 20);
        double ratio = large / (small + 1e-4);
        least = ratio < least ? ratio : least;
    }
    if (least > 64)
        fail_msg("\"%s\": 16 times the text takes %.0f times the time", unit, least);
}

#define DOUBLES \
    "\"a\":0,\"aa\":1,\"aaaa\":2,\"aaaaaaaa\":3,\"\xc4\xa0\":4,\"\xc4\xa0\xc4\xa0\":5," \
    "\"\xc3\xa4\":6,\"\xc2\xb8\":7,\"\xc5\x83\":8,\"\xc3\xa4\xc2\xb8\":9"

CASE(linear_time) {
    tokenizer *t = open_json(LAYOUT(
        "{\"type\":\"NFC\"}", "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
        "{\"type\":\"ByteLevel\"}",
        MODEL(DOUBLES,
              "\"a a\",\"aa aa\",\"aaaa aaaa\",\"\xc4\xa0 \xc4\xa0\",\"\xc3\xa4 \xc2\xb8\"")));
    static const char *const units[] = {"a", " ", "\xe4\xb8\xad", "a ", "aaaaaaa\xe4\xb8\xad"};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        expect_linear(t, units[i]);
    tokenizer_close(t);
    proto p;
    put_llama_like(&p);
    t = open_proto(&p);
    expect_linear(t, "a");
    expect_linear(t, " ");
    expect_linear(t, "\xe4\xb8\xad");
    tokenizer_close(t);
}

/* Marks in the wrong order are sorted; by insertion a flood of them would take its square. */
CASE(linear_time_for_marks) {
    tokenizer *t = open_json(LAYOUT("{\"type\":\"NFC\"}", "null", "null",
                                    MODEL("\"a\":0,\"\xcc\x81\":1,\"\xcc\x96\":2", "")));
    expect_linear(t, "\xcc\x81\xcc\x96");
    tokenizer_close(t);
}

CASE(slow_expressions_end) {
    tokenizer *t = open_json(LAYOUT("null", SPLIT("(a+)+$", "Isolated"), "null", MODEL(ABC, "")));
    tok_ids ids = {0};
    char text[2001];
    memset(text, 'a', sizeof text);
    text[2000] = 'b';
    assert_int_equal(tokenizer_encode(t, text, sizeof text, 0, &ids), WEFT_BAD_FILE);
    expect_message("takes too long");
    assert_int_equal(ids.n, 0);
    tok_ids_fini(&ids);
    tokenizer_close(t);
}

/* ---- hostile files ---- */

CASE(hostile_json) {
    static const struct {
        const char *text, *message;
        weft_status status;
    } cases[] = {
        {"", "empty file", WEFT_BAD_FILE},
        {"[]", "object", WEFT_BAD_FILE},
        {"{", "ends", WEFT_BAD_FILE},
        {"{\"model\":{\"type\":\"BPE\"", "ends", WEFT_BAD_FILE},
        {PLAIN("", ""), "empty", WEFT_BAD_FILE},
        {PLAIN(ABC, "\"a z\""), "merge 0: part \"z\"", WEFT_BAD_FILE},
        {PLAIN(ABC, "\"a b\",\"b a\""), "merge 1: result \"ba\"", WEFT_BAD_FILE},
        {PLAIN(ABC, "\"ab\""), "two parts", WEFT_BAD_FILE},
        {PLAIN(ABC, "\"a b c\""), "two parts", WEFT_BAD_FILE},
        {PLAIN(ABC, "[\"a\"]"), "two parts", WEFT_BAD_FILE},
        {PLAIN(ABC, "7"), "string", WEFT_BAD_FILE},
        {PLAIN("\"a\":0,\"b\":0", ""), "id 0 is given twice", WEFT_BAD_FILE},
        {PLAIN("\"a\":0,\"a\":1", ""), "duplicate", WEFT_BAD_FILE},
        {PLAIN("\"a\":-1", ""), "range", WEFT_BAD_FILE},
        {PLAIN("\"a\":2147483648", ""), "range", WEFT_BAD_FILE},
        {PLAIN("\"a\":16777215", ""), "vocabulary of 1 tokens", WEFT_BAD_FILE},
        {PLAIN("\"a\":1.5", ""), "integer", WEFT_BAD_FILE},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece", WEFT_UNSUPPORTED},
        {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.5}}", "dropout", WEFT_BAD_FILE},
        {"{\"model\":{\"type\":\"BPE\",\"unk_token\":\"q\",\"vocab\":{\"a\":0},\"merges\":[]}}",
         "unk_token \"q\"", WEFT_BAD_FILE},
        {"{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\",\"vocab\":{" ABC
         "},\"merges\":[\"a b\"]}}",
         "shorter than the prefix", WEFT_BAD_FILE},
        {"{\"model\":{\"type\":\"Unigram\",\"unk_id\":3,\"vocab\":[[\"a\",0]]}}", "unk_id",
         WEFT_BAD_FILE},
        {"{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",1e999]]}}", "range",
         WEFT_BAD_FILE},
        {"{\"surprise\":1,\"model\":" MODEL(ABC, "") "}", "surprise", WEFT_BAD_FILE},
        {LAYOUT("{\"type\":\"Nmt\"}", "null", "null", MODEL(ABC, "")), "Nmt", WEFT_UNSUPPORTED},
        {LAYOUT("null", "{\"type\":\"Odd\"}", "null", MODEL(ABC, "")), "Odd", WEFT_UNSUPPORTED},
        {LAYOUT("null", "null", "{\"type\":\"CTC\"}", MODEL(ABC, "")), "CTC", WEFT_UNSUPPORTED},
        {LAYOUT("null", SPLIT("(a", "Isolated"), "null", MODEL(ABC, "")), "regular expression",
         WEFT_BAD_FILE},
        {LAYOUT("null", SPLIT("[a&&[b]]", "Isolated"), "null", MODEL(ABC, "")), "nested",
         WEFT_UNSUPPORTED},
        {LAYOUT("null", SPLIT("a", "Sideways"), "null", MODEL(ABC, "")), "Sideways",
         WEFT_UNSUPPORTED},
        {LAYOUT("null", "{\"type\":\"FixedLength\",\"length\":0}", "null", MODEL(ABC, "")),
         "length", WEFT_BAD_FILE},
        {LAYOUT("null", "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}", "null", MODEL(ABC, "")),
         "one character", WEFT_BAD_FILE},
        {LAYOUT("{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}", "null",
                "null", MODEL(ABC, "")),
         "pattern", WEFT_BAD_FILE},
        {LAYOUT("{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}", "null", "null",
                MODEL(ABC, "")),
         "charsmap", WEFT_BAD_FILE},
        {LAYOUT("{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!\"}", "null", "null",
                MODEL(ABC, "")),
         "base64", WEFT_BAD_FILE},
        {"{\"added_tokens\":[{\"id\":6,\"content\":\"\"}],\"model\":" MODEL(ABC, "") "}", "0 bytes",
         WEFT_BAD_FILE},
        {"{\"added_tokens\":[{\"id\":6,\"content\":\"x\"},{\"id\":7,\"content\":\"x\"}],"
         "\"model\":" MODEL(ABC, "") "}",
         "given twice", WEFT_BAD_FILE},
        {"{\"added_tokens\":[{\"id\":1,\"content\":\"x\"}],\"model\":" MODEL(ABC, "") "}",
         "which is \"b\"", WEFT_BAD_FILE},
        {"{\"added_tokens\":[{\"id\":9,\"content\":\"a\"}],\"model\":" MODEL(ABC, "") "}",
         "in the vocabulary 0", WEFT_BAD_FILE},
        {"{\"added_tokens\":[{\"id\":16777215,\"content\":\"x\"}],\"model\":" MODEL(ABC, "") "}",
         "out of range", WEFT_BAD_FILE},
        {"{\"post_processor\":{\"type\":\"Odd\"},\"model\":" MODEL(ABC, "") "}", "Odd",
         WEFT_UNSUPPORTED},
        {"{\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"a\",99],\"cls\":[\"a\",0]},"
         "\"model\":" MODEL(ABC, "") "}",
         "id 99", WEFT_BAD_FILE},
        {"{\"truncation\":{\"max_length\":4,\"stride\":4},\"model\":" MODEL(ABC, "") "}", "stride",
         WEFT_BAD_FILE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *t = NULL;
        size_t n = strlen(cases[i].text);
        char *copy = exact_copy(cases[i].text, n);
        err_clear();
        weft_status s = tokenizer_open_memory("t.json", TOK_FILE_JSON, copy, n, &t);
        if (s != cases[i].status)
            fail_msg("case %zu: status %d, message \"%s\"", i, s, err_message());
        expect_message("t.json");
        expect_message(cases[i].message);
        assert_null(t);
        free(copy);
    }
}

static void expect_bad_model(const char *data, size_t n, const char *message) {
    tokenizer *t = NULL;
    char *copy = exact_copy(data, n);
    err_clear();
    weft_status s = tokenizer_open_memory("t.model", TOK_FILE_SENTENCEPIECE, copy, n, &t);
    if (s == WEFT_OK)
        fail_msg("a bad model of %zu bytes opens", n);
    expect_message("t.model");
    expect_message(message);
    free(copy);
}

CASE(hostile_sentencepiece) {
    static const struct {
        const char *piece;
        float score;
        int type, model;
        bool fallback;
        const char *message;
    } cases[] = {{"", 0, NORMAL, BPE, false, "empty"},
                 {"\xff", 0, NORMAL, BPE, false, "UTF-8"},
                 {"a", 0, 7, BPE, false, "type"},
                 {"a", 0, 0, BPE, false, "type"},
                 {"a", (float)(0.0 * -1e308 * 10), UNKNOWN, BPE, false, "both unknown"},
                 {"<s>", 0, NORMAL, BPE, false, "has the ids 1 and 3"},
                 {"<0x-1>", 0, BYTE, BPE, true, "<0x-1>"},
                 {"<0xZZ>", 0, BYTE, BPE, true, "<0xZZ>"},
                 {"<0x100>", 0, BYTE, BPE, true, "<0x100>"},
                 {"<0x41>", 0, BYTE, BPE, false, "<0x41>"},
                 {"<0x41>", 0, BYTE, BPE, true, "<0x00>"},
                 {"a", 0, NORMAL, 3, false, "type 3"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proto p;
        put_start(&p);
        put_piece(&p, cases[i].piece, cases[i].score, cases[i].type);
        put_specs(&p, cases[i].model, cases[i].fallback);
        expect_bad_model(p.data, p.n, cases[i].message);
    }
    proto p = {.n = 0};
    put_piece(&p, "a", 0, NORMAL);
    put_specs(&p, BPE, false);
    expect_bad_model(p.data, p.n, "unknown");
    expect_bad_model("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10, "truncated");
    expect_bad_model("\x0b\x0c", 2, "truncated");
}

/* No prefix of a model is a model. */
CASE(truncated_sentencepiece) {
    proto p;
    put_llama_like(&p);
    for (size_t n = 0; n < p.n; n++)
        expect_bad_model(p.data, n, "");
}

CASE(hostile_ranks) {
    static const struct {
        const char *name, *text, *message;
        weft_status status;
    } cases[] = {{"cl100k_base.tiktoken", "!!!! 0\n", "line 1", WEFT_BAD_FILE},
                 {"cl100k_base.tiktoken", "IQ==\n", "line 1", WEFT_BAD_FILE},
                 {"cl100k_base.tiktoken", "IQ== 0\nIQ= 1\n", "line 2", WEFT_BAD_FILE},
                 {"cl100k_base.tiktoken", "IQ== -1\n", "line 1", WEFT_BAD_FILE},
                 {"cl100k_base.tiktoken", "IQ== 99999999999999999999\n", "line 1", WEFT_BAD_FILE},
                 {"cl100k_base.tiktoken", "IQ== 16777216\n", "rank", WEFT_BAD_FILE},
                 {"cl100k_base.tiktoken", "IQ== 0\nIg== 0\n", "id 0 is given twice", WEFT_BAD_FILE},
                 {"cl100k_base.tiktoken", "IQ== 0\nIQ== 1\n", "the ids 0 and 1", WEFT_BAD_FILE},
                 {"cl100k_base.tiktoken", "IQ== 0\n", "byte 0x00", WEFT_BAD_FILE},
                 {"mine.tiktoken", "IQ== 0\n", "encoding", WEFT_UNSUPPORTED}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *t = NULL;
        size_t n = strlen(cases[i].text);
        char *copy = exact_copy(cases[i].text, n);
        assert_int_equal(tokenizer_open_memory(cases[i].name, TOK_FILE_TIKTOKEN, copy, n, &t),
                         cases[i].status);
        expect_message(cases[i].name);
        expect_message(cases[i].message);
        free(copy);
    }
}

CASE(hostile_text) {
    tokenizer *t = open_json(PLAIN(ABC, ""));
    tok_ids ids = {0};
    assert_int_equal(tokenizer_encode(t, "ab\xff", 3, 0, &ids), WEFT_BAD_FILE);
    expect_message("byte 2: invalid UTF-8");
    assert_int_equal(tokenizer_encode(t, "\xed\xa0\x80", 3, 0, &ids), WEFT_BAD_FILE);
    assert_int_equal(tokenizer_encode(t, "a\0b", 3, 0, &ids), WEFT_OK);
    assert_int_equal(ids.n, 2);
    buf out;
    buf_init(&out, 64);
    assert_int_equal(tokenizer_decode(t, (const int32_t[]){-1}, 1, false, &out), WEFT_USAGE);
    assert_int_equal(tokenizer_decode(t, (const int32_t[]){6}, 1, false, &out), WEFT_USAGE);
    buf_fini(&out);
    tok_ids_fini(&ids);
    tokenizer_close(t);
    tokenizer_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lowest_rank_joins_first),
        cmocka_unit_test(leftmost_joins_first),
        cmocka_unit_test(scan_and_heap_agree_with_the_definition),
        cmocka_unit_test(unknown_characters),
        cmocka_unit_test(words_with_affixes),
        cmocka_unit_test(whole_words_first),
        cmocka_unit_test(added_tokens),
        cmocka_unit_test(longest_added_token),
        cmocka_unit_test(templates),
        cmocka_unit_test(byte_level),
        cmocka_unit_test(normalizers),
        cmocka_unit_test(splits),
        cmocka_unit_test(sentencepiece_bpe),
        cmocka_unit_test(sentencepiece_decoding),
        cmocka_unit_test(unigram),
        cmocka_unit_test(streams_give_what_decode_gives),
        cmocka_unit_test(streams_hold_half_characters),
        cmocka_unit_test(pushing_takes_no_memory),
        cmocka_unit_test(linear_time),
        cmocka_unit_test(linear_time_for_marks),
        cmocka_unit_test(slow_expressions_end),
        cmocka_unit_test(hostile_json),
        cmocka_unit_test(hostile_sentencepiece),
        cmocka_unit_test(truncated_sentencepiece),
        cmocka_unit_test(hostile_ranks),
        cmocka_unit_test(hostile_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
