/* SPDX-License-Identifier: Apache-2.0
 * Datasets of text, conversations and shards: the same rows from a JSONL and from its shards, loss
 * on the assistant's words alone, and damaged shards refused. */
#include "host/base/file.h"
#include "host/base/hash.h"
#include "host/train/data.h"
#include "host/train/doc.h"
#include "host/train/prepare.h"
#include "tests/unit/unit.h"
#include <stdio.h>
#include <sys/stat.h>

static char folder[] = "/tmp/weft-text-XXXXXX";
static arena names;
static const char *model, *other_model; /* folders */

enum { BEGIN = 256, END = 257, JOINED = 258, VOCAB = 259 };

static const char *put(const char *name, const char *text, size_t n) {
    const char *path = file_join(&names, folder, name);
    assert_int_equal(file_write_atomic(path, text, n), WEFT_OK);
    return path;
}

static const char *put_text(const char *name, const char *text) {
    return put(name, text, strlen(text));
}

static char *in(const char *dir, const char *name) {
    return file_join(&names, dir, name);
}

/* A token a byte, GPT-2's visible alphabet, <b> <e>, and ":;"; `special` is one more or none. */
static const char *put_model(const char *name, const char *special) {
    buf b;
    buf_init(&b, SIZE_MAX);
    buf_puts(&b, "{\"added_tokens\": [");
    const char *added[3] = {"<b>", "<e>", special};
    for (int i = 0; i < 3 && added[i]; i++)
        buf_printf(&b,
                   "%s{\"id\": %d, \"content\": \"%s\", \"special\": true, \"single_word\": false,"
                   " \"lstrip\": false, \"rstrip\": false, \"normalized\": false}",
                   i ? "," : "", i < 2 ? BEGIN + i : VOCAB, added[i]);
    buf_puts(&b, "], \"normalizer\": null, \"post_processor\": null, \"pre_tokenizer\": {\"type\":"
                 " \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}, \"decoder\": "
                 "{\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"merges\": [\": ;\"], "
                 "\"vocab\": {");
    for (int c = 0, hidden = 256; c < 256; c++) {
        bool visible = (c > 32 && c < 127) || (c > 160 && c != 173);
        buf_printf(&b, "%s\"\\u%04x\": %d", c ? "," : "", visible ? c : hidden, c);
        hidden += !visible;
    }
    buf_printf(&b, ", \":;\": %d}}}", JOINED);
    const char *dir = in(folder, name);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(file_write_atomic(in(dir, "tokenizer.json"), b.data, b.len), WEFT_OK);
    buf_fini(&b);
    return dir;
}

static void put_template(const char *text) {
    assert_int_equal(file_write_atomic(in(model, "chat_template.jinja"), text, strlen(text)),
                     WEFT_OK);
}

static int enter_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    model = put_model("model", NULL);
    other_model = put_model("other", "<x>");
    const char *config = "{\"bos_token\": \"<b>\", \"eos_token\": \"<e>\"}";
    return file_write_atomic(in(model, "tokenizer_config.json"), config, strlen(config));
}

static int leave_folder(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    arena_fini(&names);
    return system(command);
}

/* ---- Rows ---- */

typedef struct {
    int32_t ids[64], labels[64], pos[64], len;
} row;

static row take(const dataset *d, bool validation, int64_t step) {
    row r;
    memset(&r, 0x55, sizeof r);
    assert_true(data_seq_len(d) <= 64);
    data_rows(d, validation, step, 1, 0, 1, r.ids, r.labels, r.pos, &r.len);
    return r;
}

static dataset *open_one(const char *path, data_options o) {
    dataset *d = NULL;
    o.path = &path;
    o.n_path = 1;
    o.model_dir = o.model_dir ? o.model_dir : model;
    if (data_open(&o, &d) != WEFT_OK)
        fail_msg("data_open: %s", err_message());
    return d;
}

static void expect_refused(const char *path, data_options o, weft_status want, const char *part) {
    dataset *d = NULL;
    o.path = &path;
    o.n_path = 1;
    weft_status s = data_open(&o, &d);
    if (s != want)
        fail_msg("%s: status %d, not %d: %s", part, s, want, err_message());
    expect_message(part);
    assert_null(d);
}

static void expect_row(row r, const char *text, const char *loss, int T) {
    int n = (int)strlen(text);
    assert_int_equal(r.len, n);
    for (int i = 0; i < T; i++) {
        assert_int_equal(r.ids[i], i < n ? text[i] : 0);
        assert_int_equal(r.labels[i], i < n && loss[i] == '^' ? text[i] : DATA_IGNORED);
        assert_int_equal(r.pos[i], i < n ? i : 0);
    }
}

CASE(text_is_one_stream) {
    const char *path = put_text("s.jsonl", "{\"text\": \"abcde\"}\n{\"text\": \"fghijk\"}\n");
    dataset *d = open_one(path, (data_options){.seq_len = 4, .file_order = true});
    assert_int_equal(data_rows_per_epoch(d), 3);
    assert_int_equal(data_tokens(d), 11);
    expect_row(take(d, false, 0), "abcd", " ^^^", 4);
    expect_row(take(d, false, 1), "efgh", " ^^^", 4);
    expect_row(take(d, false, 2), "ijk", " ^^", 4);
    expect_row(take(d, false, 3), "abcd", " ^^^", 4);
    data_close(d);
    d = open_one(path, (data_options){.seq_len = 5, .file_order = true});
    assert_int_equal(data_rows_per_epoch(d), 2); /* a token alone predicts nothing */
    data_close(d);
    expect_refused(path, (data_options){.seq_len = 12, .model_dir = model}, WEFT_BAD_FILE,
                   "11 tokens, less than one row of 12");
    expect_refused(path, (data_options){.model_dir = model}, WEFT_USAGE, "--seq-len: needed");
    expect_refused(path, (data_options){.seq_len = 4, .model_dir = model, .vocab = 107},
                   WEFT_BAD_FILE, "id 107 at place 5; the vocabulary has 107");
}

CASE(text_packed_is_in_pieces_of_a_row) {
    const char *path = put_text("p.jsonl", "{\"text\": \"abcdefghij\"}\n{\"text\": \"XY\"}\n"
                                           "{\"text\": \"uvw\"}\n{\"text\": \"z\"}\n");
    dataset *d = open_one(path, (data_options){.seq_len = 4, .pack = true, .file_order = true});
    static const int32_t want[4][4] = {
        {'a', 'b', 'c', 'd'}, {'e', 'f', 'g', 'h'}, {'i', 'j', 'X', 'Y'}, {'u', 'v', 'w', 0}};
    static const int32_t pos[4][4] = {{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 0, 1}, {0, 1, 2, 0}};
    assert_int_equal(data_rows_per_epoch(d), 4);
    assert_int_equal(data_left_out(d), 1);
    for (int i = 0; i < 4; i++) {
        row r = take(d, false, i);
        assert_memory_equal(r.ids, want[i], sizeof want[i]);
        assert_memory_equal(r.pos, pos[i], sizeof pos[i]);
        for (int k = 0; k < 4; k++)
            assert_int_equal(r.labels[k], pos[i][k] ? want[i][k] : DATA_IGNORED);
    }
    data_close(d);
}

/* Lines of words, some long, some with what no cut may separate. */
static buf long_text(size_t bytes) {
    buf b;
    uint64_t seed = 9;
    buf_init(&b, SIZE_MAX);
    while (b.len < bytes) {
        static const char *const part[] = {"river ", "\n",    " \n", "\n\n",
                                           "mill, ", "1897",  ":;",  "\xc3\xa9t\xc3\xa9 ",
                                           "<b>",    "It's\n"};
        buf_puts(&b, part[next_random(&seed) % (sizeof part / sizeof *part)]);
    }
    return b;
}

CASE(long_texts_are_cut_where_the_tokenizer_cuts) {
    tokenizer *tok;
    assert_int_equal(tokenizer_open(model, &tok), WEFT_OK);
    buf b = long_text(1 << 21);
    const char *path = put("long.txt", b.data, b.len);
    tok_ids want = {0};
    assert_int_equal(tokenizer_encode(tok, b.data, b.len, TOK_SPECIAL, &want), WEFT_OK);
    tok_ids_add(&want, END);
    size_t cut = doc_cut(tok, b.data, b.len, 1000);
    assert_in_range(cut, 1000, 2000);
    assert_true(b.data[cut - 1] == '\n' && b.data[cut - 2] > ' ' && b.data[cut] >= 'A');
    for (int threads = 1; threads < 4; threads++) {
        dataset *d = open_one(
            path, (data_options){
                      .seq_len = 64, .file_order = true, .threads = threads, .append_eos = true});
        assert_int_equal(data_tokens(d), want.n);
        for (size_t i = 0; i < want.n / 64; i++)
            assert_memory_equal(take(d, false, (int64_t)i).ids, want.v + 64 * i, 64 * 4);
        data_close(d);
    }
    /* A byte that is wrong is named by its place in the whole text. */
    b.data[1500000] = (char)0xff;
    expect_refused(put("long.txt", b.data, b.len),
                   (data_options){.seq_len = 64, .model_dir = model}, WEFT_BAD_FILE,
                   "not UTF-8 (byte 1500000");
    tok_ids_fini(&want);
    tokenizer_close(tok);
    buf_fini(&b);
}

CASE(texts_stay_whole_where_a_cut_would_show) {
    /* A space before every text: a piece would have one of its own. */
    const char *dir = in(folder, "spaced");
    size_t n;
    const char *data;
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(file_read(in(model, "tokenizer.json"), 1 << 20, &names, &data, &n), WEFT_OK);
    char *text = arena_copy(&names, data, n), *at = strstr(text, "\"add_prefix_space\": false");
    assert_non_null(at);
    static const char now[] = "\"add_prefix_space\": true ";
    for (size_t i = 0; i < sizeof now - 1; i++)
        at[i] = now[i];
    assert_int_equal(file_write_atomic(in(dir, "tokenizer.json"), text, n), WEFT_OK);
    tokenizer *tok;
    assert_int_equal(tokenizer_open(dir, &tok), WEFT_OK);
    buf b = long_text(1 << 20);
    assert_int_equal(doc_cut(tok, b.data, b.len, 1000), b.len);
    tokenizer_close(tok);
    const char *path = put("long.txt", b.data, b.len);
    dataset *d = open_one(path, (data_options){.seq_len = 64, .model_dir = dir});
    assert_true(data_tokens(d) > 0);
    data_close(d);
    buf_fini(&b);
}

CASE(threads_and_eos) {
    buf b;
    buf_init(&b, SIZE_MAX);
    for (int i = 0; i < 9000; i++) /* more than one batch of documents */
        buf_printf(&b, "{\"text\": \"%d%.*s\"}\n", i, i % 13, "abcdefghijklm");
    const char *path = put("many.jsonl", b.data, b.len);
    buf_fini(&b);
    uint64_t hash[3];
    for (int i = 0; i < 3; i++) {
        dataset *d = open_one(
            path, (data_options){.seq_len = 64, .threads = 1 + 2 * (i != 1), .append_eos = i == 2});
        hash[i] = data_hash(d);
        data_close(d);
    }
    assert_true(hash[0] == hash[1] && hash[0] != hash[2]);
    dataset *d = open_one(put_text("e.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"c<e>\"}\n"),
                          (data_options){.seq_len = 5, .append_eos = true, .file_order = true});
    row r = take(d, false, 0);
    static const int32_t want[5] = {'a', 'b', END, 'c', END};
    assert_memory_equal(r.ids, want, sizeof want);
    data_close(d);
    expect_refused(path, (data_options){.seq_len = 8, .model_dir = other_model, .append_eos = true},
                   WEFT_USAGE, "no EOS to append");
}

/* ---- Conversations ---- */

#define TURN(role, text) "{\"role\": \"" role "\", \"content\": \"" text "\"}"

/* '^' under what has a loss; a token is one character: B for <b>, E for <e>, J for ":;". */
static void expect_spoken(const char *messages, const char *text, const char *loss) {
    char line[1000];
    snprintf(line, sizeof line, "{\"messages\": [%s]}\n", messages);
    dataset *d = open_one(put_text("c.jsonl", line), (data_options){.sft = true});
    int n = (int)strlen(text);
    assert_int_equal(data_seq_len(d), n);
    row r = take(d, false, 0);
    char got[65] = "", marks[65] = "";
    for (int i = 0; i < n; i++) {
        got[i] = r.ids[i] == BEGIN    ? 'B'
                 : r.ids[i] == END    ? 'E'
                 : r.ids[i] == JOINED ? 'J'
                                      : (char)r.ids[i];
        marks[i] = r.labels[i] == DATA_IGNORED ? ' ' : '^';
        assert_true(r.labels[i] == DATA_IGNORED || r.labels[i] == r.ids[i]);
    }
    assert_string_equal(got, text);
    assert_string_equal(marks, loss);
    data_close(d);
}

CASE(loss_is_on_what_the_assistant_says) {
    const char *talk = TURN("user", "Hi") "," TURN("assistant", "Ho!") "," TURN(
        "user", "And") "," TURN("assistant", " x\\n");
    /* Begins behind the generation prompt, ends with the end of turn; the line break behind it is
     * the template's, the one in the answer is the assistant's. */
    put_template("{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}"
                 "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}");
    expect_spoken(talk, "Bu:HiE\na:Ho!E\nu:AndE\na: x\nE\n", "         ^^^^          ^^^^ ");
    /* No end of turn: all that the turn adds. */
    put_template("{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
                 "{% if add_generation_prompt %}a:{% endif %}");
    expect_spoken(talk, "u:Hi;a:Ho!;u:And;a: x\n;", "       ^^^^        ^^^^");
    /* A token across the beginning has the assistant's first character. */
    expect_spoken(TURN("user", "Hi") "," TURN("assistant", ";)"), "u:Hi;aJ);", "      ^^^");
    /* The template's own marks win. */
    put_template("{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}"
                 "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}"
                 "{{ m.content }}{% endif %};{% endfor %}");
    expect_spoken(talk, "u:Hi;a:Ho!E;u:And;a: x\nE;", "       ^^^^         ^^^^ ");
    expect_spoken(TURN("assistant", "A") "," TURN("assistant", "B"), "a:AE;a:BE;", "  ^^   ^^ ");
}

CASE(conversations_that_cannot_be_learned_from_are_named) {
    data_options o = {.sft = true, .model_dir = model};
    put_template("{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
                 "{% if add_generation_prompt %}a:{% endif %}");
    const char *good = "{\"messages\": [" TURN("user", "a") "," TURN("assistant", "b") "]}\n";
    char two[600];
    snprintf(two, sizeof two, "%s{\"messages\": [%s]}\n", good, TURN("user", "a"));
    expect_refused(put_text("n.jsonl", two), o, WEFT_BAD_FILE,
                   "n.jsonl:2: no message of an assist");
    snprintf(two, sizeof two, "%s{\"messages\": []}\n", good);
    expect_refused(put_text("n.jsonl", two), o, WEFT_BAD_FILE, "n.jsonl:2");
    snprintf(two, sizeof two, "%s{\"messages\": [{\"role\": 3}]}\n", good);
    expect_refused(put_text("n.jsonl", two), o, WEFT_BAD_FILE, "n.jsonl:2");
    snprintf(two, sizeof two, "%s{\"text\": \"x\"}\n", good);
    expect_refused(put_text("n.jsonl", two), o, WEFT_BAD_FILE, "n.jsonl:2");
    put_template("{{ messages | length }}{% for m in messages %}{{ m.content }};{% endfor %}");
    expect_refused(put_text("n.jsonl", good), o, WEFT_BAD_FILE,
                   "n.jsonl:1: the template does not say what the assistant wrote");
    put_template("{{ raise_exception('no such talk') }}");
    expect_refused(put_text("n.jsonl", good), o, WEFT_BAD_FILE, "no such talk");
    o.model_dir = NULL;
    expect_refused(put_text("n.jsonl", good), o, WEFT_USAGE, "chat template is needed");
    o.model_dir = other_model;
    expect_refused(put_text("n.jsonl", good), o, WEFT_USAGE, "template");
}

/* ---- Shards ---- */

static const char *shard_up(const char *name, const char *path, prepare_options o) {
    prepare_result r;
    const char *stem = "x";
    o.path = &path;
    o.name = &stem;
    o.n_path = 1;
    o.out = in(folder, name);
    o.tokenizer = model;
    if (prepare(&o, &r) != WEFT_OK)
        fail_msg("prepare: %s", err_message());
    arena_fini(&r.arena);
    return o.out;
}

static void expect_same_rows(const dataset *a, const dataset *b) {
    assert_int_equal(data_rows_per_epoch(a), data_rows_per_epoch(b));
    assert_int_equal(data_tokens(a), data_tokens(b));
    assert_int_equal(data_seq_len(a), data_seq_len(b));
    size_t bytes = (size_t)data_seq_len(a) * sizeof(int32_t);
    for (int64_t i = 0; i < 2 * data_rows_per_epoch(a); i++) {
        row x = take(a, false, i), y = take(b, false, i);
        assert_memory_equal(x.ids, y.ids, bytes);
        assert_memory_equal(x.labels, y.labels, bytes);
        assert_memory_equal(x.pos, y.pos, bytes);
        assert_int_equal(x.len, y.len);
    }
}

static const char *put_lines(void) {
    buf b;
    buf_init(&b, SIZE_MAX);
    for (int i = 0; i < 150; i++)
        buf_printf(&b, "{\"text\": \"%d-%.*s\"}\n", i, i % 17, "the quick brown fox");
    const char *path = put("lines.jsonl", b.data, b.len);
    buf_fini(&b);
    return path;
}

CASE(shards_have_the_rows_of_their_text) {
    const char *path = put_lines();
    const char *dir = shard_up("sh1", path, (prepare_options){.shard_tokens = 100});
    for (int i = 0; i < 4; i++) {
        data_options o = {.seq_len = 7 + 20 * (i / 2),
                          .pack = i & 1,
                          .file_order = i == 3,
                          .seed = 4,
                          .vocab = VOCAB};
        dataset *text = open_one(path, o), *shards = open_one(dir, o);
        expect_same_rows(text, shards);
        data_close(text);
        data_close(shards);
    }
}

CASE(conversations_in_shards_keep_their_loss) {
    put_template("{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{{ eos_token }}\n"
                 "{% endfor %}{% if add_generation_prompt %}a:{% endif %}");
    buf b;
    buf_init(&b, SIZE_MAX);
    for (int i = 0; i < 60; i++)
        buf_printf(&b, "{\"messages\": [" TURN("user", "%d?") "," TURN("assistant", "%.*s") "]}\n",
                   i, i % 23, "abcdefghijklmnopqrstuvw");
    const char *path = put("talks.jsonl", b.data, b.len);
    buf_fini(&b);
    const char *dir = shard_up("sh2", path, (prepare_options){.shard_tokens = 99, .sft = true});
    for (int i = 0; i < 2; i++) {
        data_options o = {.sft = true, .pack = i, .seq_len = i ? 50 : 0};
        dataset *text = open_one(path, o), *shards = open_one(dir, o);
        expect_same_rows(text, shards);
        data_close(text);
        data_close(shards);
    }
}

CASE(validation_shards_are_the_validation_rows) {
    const char *dir = shard_up("sh3", put_lines(),
                               (prepare_options){.shard_tokens = 100, .val = 0.2});
    dataset *d = open_one(dir, (data_options){.seq_len = 64, .pack = true, .val_fraction = 0.5});
    int64_t docs[2] = {0, 0}, rows[2] = {data_rows_per_epoch(d), data_val_rows(d)};
    bool seen[150] = {false};
    for (int v = 0; v < 2; v++)
        for (int64_t i = 0; i < rows[v]; i++) {
            row r = take(d, v, i);
            for (int k = 0; k < r.len; k++) {
                if (r.pos[k] != 0)
                    continue;
                int number = 0;
                for (int p = k; r.ids[p] != '-'; p++)
                    number = 10 * number + r.ids[p] - '0';
                assert_false(seen[number]);
                seen[number] = true;
                docs[v]++;
            }
        }
    assert_int_equal(docs[0] + docs[1], 150);
    assert_in_range(docs[1], 15, 45);
    data_close(d);
}

/* Puts a file's bytes back after each damage. */
static void damage(const char *path, const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static const char *slurp(const char *path, size_t *n) {
    const char *data;
    assert_int_equal(file_read(path, 1 << 24, &names, &data, n), WEFT_OK);
    return data;
}

CASE(every_damaged_byte_of_a_shard_is_found) {
    const char *dir = shard_up("sh4", put_text("few.jsonl", "{\"text\": \"hello\"}\n"),
                               (prepare_options){.shard_tokens = 100});
    const char *path = in(dir, "x-train-00000.bin");
    size_t n;
    const char *good = slurp(path, &n);
    char *bad = arena_copy(&names, good, n);
    data_options o = {.seq_len = 4, .model_dir = model};
    for (size_t i = 0; i < n; i++) {
        bad[i] ^= 1 << i % 8;
        damage(path, bad, n);
        expect_refused(dir, o, WEFT_BAD_FILE, "x-train-00000.bin");
        bad[i] = good[i];
    }
    for (size_t k = 0; k < n; k += 7) {
        damage(path, good, k);
        expect_refused(dir, o, WEFT_BAD_FILE, "the manifest says");
    }
    char *longer = arena_copy(&names, good, n); /* with its NUL */
    damage(path, longer, n + 1);
    expect_refused(dir, o, WEFT_BAD_FILE, "the manifest says");
    remove(path);
    expect_refused(dir, o, WEFT_BAD_FILE, "no such file");
    damage(path, good, n);
    data_close(open_one(dir, o));
}

/* A shard that agrees with its manifest and yet is wrong: the hash finds damage, not malice. */
static void forge(const char *dir, const char *shard, size_t n, size_t at, uint64_t value,
                  size_t bytes) {
    size_t k;
    const char *manifest = slurp(in(dir, "manifest.good"), &k);
    char *bad = arena_copy(&names, shard, n), *text = arena_copy(&names, manifest, k), hash[17];
    memcpy(bad + at, &value, bytes);
    damage(in(dir, "x-train-00000.bin"), bad, n);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)hash_xxh3(bad, n));
    memcpy(strstr(text, "\"xxh3\": \"") + 9, hash, 16);
    damage(in(dir, "manifest.json"), text, k);
}

CASE(shards_that_lie_are_found) {
    const char *dir = shard_up(
        "sh5", put_text("two.jsonl", "{\"text\": \"hello\"}\n{\"text\": \"you\"}\n"),
        (prepare_options){.shard_tokens = 100});
    size_t n, k;
    const char *good = slurp(in(dir, "x-train-00000.bin"), &n);
    const char *manifest = slurp(in(dir, "manifest.json"), &k);
    damage(in(dir, "manifest.good"), manifest, k);
    static const struct {
        size_t at, bytes;
        uint64_t value;
        const char *part;
    } lies[] = {
        {8, 4, 2, "version 2"},
        {12, 4, 3, "ids of 3 bytes"},
        {12, 4, 4, "do not fit"},
        {16, 8, 0, "vocabulary 0"},
        {16, 8, 70000, "vocabulary 70000"},
        {16, 8, 300, "another tokenizer"},
        {24, 8, 1, "another tokenizer"},
        {32, 8, 7, "offsets of its documents"},
        {40, 8, 1, "do not fit"},
        {32, 8, 100, "do not fit"},
        {32, 8, UINT64_MAX, "do not fit"},
        {32, 8, UINT64_MAX / 2 + 1, "do not fit"},
        {40, 8, UINT64_MAX, "do not fit"},
        {64, 8, 2, "flags 2"},
        {64, 8, 1, "do not fit"},
        {128, 2, VOCAB, "id 259 at token 0; the vocabulary has 259"},
        {142, 2, 65535, "id 65535 at token 7"},
        {144, 8, 1, "offsets of its documents"},
        {152, 8, 8, "offsets of its documents"},
        {152, 8, UINT64_MAX, "offsets of its documents"},
        {160, 8, 9, "offsets of its documents"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        forge(dir, good, n, lies[i].at, lies[i].value, lies[i].bytes);
        expect_refused(dir, (data_options){.seq_len = 4, .model_dir = model}, WEFT_BAD_FILE,
                       lies[i].part);
    }
    forge(dir, good, n, 128, 'j', 2); /* and what is right is taken */
    dataset *d = open_one(dir, (data_options){.seq_len = 8, .file_order = true});
    expect_row(take(d, false, 0), "jelloyou", " ^^^^^^^", 8);
    data_close(d);
}

CASE(bad_manifests_are_named) {
    const char *dir = shard_up("sh6", put_text("m.jsonl", "{\"text\": \"hello\"}\n"),
                               (prepare_options){.shard_tokens = 100});
    const char *path = in(dir, "manifest.json");
    data_options o = {.seq_len = 4, .model_dir = model};
    static const char *const bad[][2] = {
        {"", "manifest.json"},
        {"{}", "no manifest of token shards"},
        {"[1]", "manifest.json:1"},
        {"{\"version\": 2}", "version 2; this weft reads 1"},
        {"{\"version\": 1, \"vocab_size\": 258, \"sources\": []}", "no manifest"},
        {"{\"version\": 1, \"vocab_size\": 0, \"sources\": []}", "manifest.json:1"},
        {"{\"version\": 1, \"vocab_size\": 9, \"tokenizer\": \"x\"}", "16 hexadecimal digits"},
        {"{\"sources\": [{\"shards\": [{\"file\": \"../x\"}]}]}", "no file name of the folder"},
        {"{\"sources\": [{\"shards\": [{\"file\": \"x\"}]}]}", "a shard lacks"},
        {"{\"sources\": [{\"shards\": []}]}", "a source has no name"},
        {"{\"sources\": [{\"name\": \"x\", \"weight\": -1}]}", "not above 0"},
    };
    size_t n;
    const char *good = slurp(path, &n);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        damage(path, bad[i][0], strlen(bad[i][0]));
        expect_refused(dir, o, WEFT_BAD_FILE, bad[i][1]);
    }
    remove(path);
    expect_refused(dir, o, WEFT_BAD_FILE, "shards are not finished");
    damage(path, good, n);
    expect_refused(dir, (data_options){.seq_len = 4, .model_dir = other_model}, WEFT_BAD_FILE,
                   "made with another tokenizer");
    expect_refused(dir, (data_options){.seq_len = 4, .vocab = 200}, WEFT_BAD_FILE,
                   "shards of a vocabulary of 259; the model has 200");
}

CASE(weights_of_a_manifest_are_shares) {
    const char *path[2] = {put_text("wa.jsonl", "{\"text\": \"aaaaaaaa\"}\n"),
                           put_text("wb.jsonl", "{\"text\": \"bbbb\"}\n")};
    const char *name[2] = {"a", "b"};
    const double weight[2] = {1, 3};
    prepare_result r;
    prepare_options p = {.path = path,
                         .name = name,
                         .weight = weight,
                         .n_path = 2,
                         .out = in(folder, "sh7"),
                         .tokenizer = model,
                         .shard_tokens = 100};
    assert_int_equal(prepare(&p, &r), WEFT_OK);
    arena_fini(&r.arena);
    dataset *d = open_one(p.out, (data_options){.seq_len = 4});
    int b = 0;
    for (int i = 0; i < 1000; i++)
        b += take(d, false, i).ids[0] == 'b';
    assert_in_range(b, 749, 751);
    data_close(d);
}

CASE(xxh3_is_the_published_function) {
    /* XXH3_64bits of nothing, and that pieces do not matter. */
    assert_true(hash_xxh3("", 0) == 0x2d06800538d394c2u);
    static char data[5000];
    for (int i = 0; i < 5000; i++)
        data[i] = (char)(i * 31);
    for (size_t cut = 0; cut < 5000; cut += 613) {
        hash_stream *h = hash_open();
        hash_add(h, data, cut);
        hash_add(h, data + cut, 5000 - cut);
        assert_true(hash_value(h) == hash_xxh3(data, 5000));
        hash_close(h);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_one_stream),
        cmocka_unit_test(text_packed_is_in_pieces_of_a_row),
        cmocka_unit_test(long_texts_are_cut_where_the_tokenizer_cuts),
        cmocka_unit_test(texts_stay_whole_where_a_cut_would_show),
        cmocka_unit_test(threads_and_eos),
        cmocka_unit_test(loss_is_on_what_the_assistant_says),
        cmocka_unit_test(conversations_that_cannot_be_learned_from_are_named),
        cmocka_unit_test(shards_have_the_rows_of_their_text),
        cmocka_unit_test(conversations_in_shards_keep_their_loss),
        cmocka_unit_test(validation_shards_are_the_validation_rows),
        cmocka_unit_test(every_damaged_byte_of_a_shard_is_found),
        cmocka_unit_test(shards_that_lie_are_found),
        cmocka_unit_test(bad_manifests_are_named),
        cmocka_unit_test(weights_of_a_manifest_are_shares),
        cmocka_unit_test(xxh3_is_the_published_function),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
