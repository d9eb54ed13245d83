# SPDX-License-Identifier: Apache-2.0
"""`weft data`: shards against `weft tokenize` through a reader of their format written here, the
same bytes whatever the threads and however often the work was killed, tokenizers against a slow
trainer of its own and the `tokenizers` library where there is one, and how it fails."""

import fcntl
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import tempfile
import time
import unittest

try:
    import tokenizers
except ImportError:
    tokenizers = None

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")), "weft")
FIXTURES = os.environ.get("WEFT_FIXTURES",
                          os.path.join(os.path.dirname(ROOT), "shared", "fixtures"))
DEMO = os.path.join(ROOT, "bench", "models", "demo")
WORDS = ("the river ran past Anna's mill, where nobody had been since 1897; it's "
         "überall still\n\n\tand  two  spaces 你好 !?").split(" ")


def run(*args, **kw):
    return subprocess.run([WEFT, *map(str, args)], capture_output=True, text=True, timeout=240,
                          **kw)


def weft(*args, **kw):
    r = run(*args, **kw)
    if r.returncode:
        raise AssertionError(f"weft {args}: exit {r.returncode}: {r.stderr}")
    return r.stdout


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def text(seed, words):
    r = random.Random(seed)
    return " ".join(r.choices(WORDS, k=words))


def documents(path):
    """A shard as (validation?, [(ids, mask or None)]), from the bytes alone."""
    raw = read(path)
    magic, version, width, vocab, _, tokens, docs, _, _, flags = struct.unpack_from("<8sIIQQQQQQQ",
                                                                                     raw)
    if (magic, version) != (b"WEFTTOKS", 1) or any(raw[72:128]):
        raise AssertionError(f"{path}: header")
    at = 128
    ids = struct.unpack_from(f"<{tokens}{'H' if width == 2 else 'I'}", raw, at)
    at += -(-tokens * width // 8) * 8
    mask = None
    if flags & 1:
        mask = [raw[at + i // 8] >> i % 8 & 1 for i in range(tokens)]
        at += -(-(-(-tokens // 8)) // 8) * 8
    off = struct.unpack_from(f"<{docs + 1}Q", raw, at)
    if at + 8 * (docs + 1) != len(raw) or off[0] != 0 or off[-1] != tokens or max(ids) >= vocab:
        raise AssertionError(f"{path}: sizes")
    return [(ids[a:b], mask and mask[a:b]) for a, b in zip(off, off[1:])]


def shards(folder, validation=False):
    """All documents of a folder in the manifest's order."""
    out = []
    for source in json.loads(read(folder, "manifest.json"))["sources"]:
        for s in source["shards"]:
            if s["validation"] == validation:
                got = documents(os.path.join(folder, s["file"]))
                if (len(got), sum(len(d[0]) for d in got)) != (s["documents"], s["tokens"]):
                    raise AssertionError(f"{s}: counts")
                out += got
    return out


def contents(folder):
    return {f: read(folder, f) for f in sorted(os.listdir(folder))}


def tokenize(path, texts):
    lines = "".join(json.dumps(t) + "\n" for t in texts)
    r = run("tokenize", path, "--jsonl", "--special", input=lines)
    return [tuple(json.loads(line)) for line in r.stdout.splitlines()]


class Base(unittest.TestCase):
    def setUp(self):
        tmp = tempfile.TemporaryDirectory(prefix="weft-data-")
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name

    def put(self, name, data):
        path = os.path.join(self.dir, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())
        return path

    def jsonl(self, name, texts):
        return self.put(name, "".join(json.dumps({"text": t}) + "\n" for t in texts))

    def out(self, name="out"):
        return os.path.join(self.dir, name)

    def data(self, *args, out="out", tokenizer=DEMO, **kw):
        return weft("data", *args, "-o", self.out(out), "--tokenizer", tokenizer, **kw)


class Shards(Base):
    def test_lines_are_documents_as_tokenize_cuts_them(self):
        texts = [text(i, 1 + i % 40) for i in range(300)]
        path = self.jsonl("a.jsonl", texts)
        self.data(path, "--shard-tokens", 1000)
        want = tokenize(DEMO, texts)
        self.assertEqual([d[0] for d in shards(self.out())], want)
        files = json.loads(read(self.out(), "manifest.json"))["sources"][0]["shards"]
        self.assertGreater(len(files), 5)
        for s in files[:-1]:  # closed by the document that fills it
            last = len(documents(os.path.join(self.out(), s["file"]))[-1][0])
            self.assertTrue(1000 <= s["tokens"] < 1000 + last)

    def test_eos_is_appended_once(self):
        path = self.jsonl("a.jsonl", ["one", "two"])
        self.data(path, "--append-eos")
        ids = [d[0] for d in shards(self.out())]
        plain = tokenize(DEMO, ["one", "two"])
        eos = ids[0][-1]
        self.assertEqual(ids, [p if p[-1] == eos else p + (eos,) for p in plain])

    def test_validation_takes_lines_by_number_and_tails_of_files(self):
        texts = [text(i, 30) for i in range(1000)]
        lines = self.jsonl("lines.jsonl", texts)
        self.put("books/a.txt", text(1, 3000))
        self.put("books/b.txt", text(2, 2000))
        self.data(lines, self.out("books"), "--val", "0.1")
        want = tokenize(DEMO, texts)
        manifest = json.loads(read(self.out(), "manifest.json"))
        train, val = shards(self.out()), shards(self.out(), True)
        lines_val = [d[0] for d in val if d[0] in set(want)]
        lines_train = [d[0] for d in train if d[0] in set(want)]
        self.assertEqual(len(lines_val) + len(lines_train), 1000)
        self.assertTrue(60 < len(lines_val) < 140, len(lines_val))
        self.assertEqual(sorted(lines_val + lines_train), sorted(want))
        books = tokenize(DEMO, [read(self.out("books"), f).decode() for f in ("a.txt", "b.txt")])
        for book, head, tail in zip(books, train[-2:], val[-2:]):
            self.assertEqual(head[0] + tail[0], book)
            self.assertEqual(len(tail[0]), int(0.1 * len(book)))
        self.assertEqual([s["name"] for s in manifest["sources"]], ["lines", "books"])

    def test_weights_are_recorded_and_must_match(self):
        a, b = self.jsonl("a.jsonl", ["x y"]), self.jsonl("b.jsonl", ["z w"])
        self.data(a, b, "--weights", "b=1,a=2.5")
        sources = json.loads(read(self.out(), "manifest.json"))["sources"]
        self.assertEqual([(s["name"], s["weight"]) for s in sources], [("a", 2.5), ("b", 1)])
        for weights, part in (("a=1", "b has none"), ("a=1,c=2", "no source is named c"),
                              ("a=1,b=0", "above 0"), ("a=1,b=x", "above 0"),
                              ("a=1,b=nan", "above 0"), ("a,b", "is not NAME=X"),
                              ("a=1,a=2", "given twice"), ("", "is not NAME=X")):
            r = run("data", a, b, "-o", self.out("w"), "--tokenizer", DEMO, "--weights", weights)
            self.assertEqual(r.returncode, 2, (weights, r.stderr))
            self.assertIn(part, r.stderr)

    def test_inspect_counts(self):
        a, b = self.jsonl("a.jsonl", [text(i, 9) for i in range(90)]), self.jsonl("b.jsonl", ["z"])
        made = json.loads(self.data(a, b, "--weights", "b=1,a=2", "--json", "--val", "0.2",
                                    "--shard-tokens", "200"))
        got = json.loads(weft("inspect", self.out(), "--json"))
        self.assertEqual(got, {k: made[k] for k in got})
        self.assertEqual(got["tokens"], sum(len(d[0]) for d in shards(self.out())))
        self.assertEqual(got["validation_tokens"],
                         sum(len(d[0]) for d in shards(self.out(), True)))
        self.assertEqual((got["documents"], got["sources"][0]["weight"]), (91, 2))
        self.assertIn(f"{got['tokens']} tokens to train on", weft("inspect", self.out()))
        os.remove(os.path.join(self.out(), "manifest.json"))
        r = run("inspect", self.out())
        self.assertEqual((r.returncode, "not finished" in r.stderr), (3, True))

    def test_names_are_apart(self):
        a, b = self.jsonl("x/a b.jsonl", ["one"]), self.jsonl("y/a b.jsonl", ["two"])
        self.data(a, b)
        sources = json.loads(read(self.out(), "manifest.json"))["sources"]
        self.assertEqual([s["name"] for s in sources], ["a_b", "a_b-2"])

    def test_threads_do_not_matter(self):
        self.put("in/a.txt", text(5, 20000))
        self.put("in/b.jsonl", "".join(json.dumps({"text": text(i, i % 97)}) + "\n"
                                       for i in range(900)))
        got = []
        for n in (1, 2, 5):
            self.data(self.out("in"), "--threads", n, "--shard-tokens", 5000, "--val", 0.05,
                      out=f"t{n}")
            got.append(contents(self.out(f"t{n}")))
        self.assertEqual(got[0], got[1])
        self.assertEqual(got[0], got[2])

    def test_conversations(self):
        model = self.out("model")
        os.mkdir(model)
        for f in ("tokenizer.json", "tokenizer_config.json"):
            self.put("model/" + f, read(DEMO, f))
        self.put("model/chat_template.jinja",
                 "{% for m in messages %}<|begin|>{{ m.role }}\n{{ m.content }}<|end|>\n"
                 "{% endfor %}{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}")
        chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello there!"}, {"role": "user", "content": "?"},
                {"role": "assistant", "content": " Yes.\n"}]
        path = self.put("c.jsonl", json.dumps({"messages": chat}) + "\n")
        self.data(path, "--sft", tokenizer=model)
        self.data(path, tokenizer=model, out="plain")
        (ids, mask), = shards(self.out())
        (plain, none), = shards(self.out("plain"))
        self.assertEqual((ids, none), (plain, None))
        spoken, runs = [], []
        for i, m in enumerate(mask):
            if m and (i == 0 or not mask[i - 1]):
                runs.append([])
            if m:
                runs[-1].append(ids[i])
        for r in runs:
            spoken.append(weft("tokenize", model, "--decode", "--special",
                               ",".join(map(str, r)))[:-1])
        self.assertEqual(spoken, ["Hello there!<|end|>", " Yes.\n<|end|>"])

    @unittest.skipUnless(os.path.isdir(FIXTURES), f"no fixtures under {FIXTURES}")
    def test_corpora_are_what_tokenising_in_one_go_gives(self):
        books = os.path.join(FIXTURES, "corpora", "public-domain-books")
        shakespeare = os.path.join(FIXTURES, "corpora", "tinyshakespeare", "input.txt")
        files = [os.path.join(books, f) for f in sorted(os.listdir(books)) if f.endswith(".txt")]
        for name in ("gpt2", "llama2", "qwen2", "demo"):  # the last adds BOS
            tok = DEMO if name == "demo" else os.path.join(FIXTURES, "tokenizers", name)
            self.data(books, shakespeare, tokenizer=tok, out=name)
            got = [d[0] for d in shards(self.out(name))]
            want = []
            for f in files + [shakespeare]:
                ids = weft("tokenize", tok, "-f", f, "--special", "--print-ids")
                want.append(tuple(map(int, ids.split(","))))
            self.assertTrue(got == want, name)  # a difference would take minutes to print
            if name == "gpt2":  # llm.c and nanoGPT count 338,025 tokens in it
                self.assertEqual(len(want[-1]), 338025)


class Killed(Base):
    def test_the_bytes_are_the_same_however_often_it_is_killed(self):
        for i in range(4):
            self.put(f"in/{i}.txt", text(i, 60000))
        self.jsonl("lines.jsonl", [text(i, 40) for i in range(3000)])
        args = [self.out("in"), self.out("lines.jsonl"), "--shard-tokens", "20000", "--val", "0.1",
                "--threads", "2"]
        began = time.monotonic()
        self.data(*args)
        whole = time.monotonic() - began
        want = contents(self.out())
        self.assertGreater(len(want), 20)
        r, kills, partial = random.Random(1), 0, 0
        attempt = 0
        while attempt < 4 or (partial < 2 and attempt < 20):  # a busy machine is never on time
            attempt += 1
            out = f"again{attempt}"
            for _ in range(4):
                p = subprocess.Popen([WEFT, "data", *args, "-o", self.out(out), "--tokenizer",
                                      DEMO], stdout=subprocess.DEVNULL)
                time.sleep(r.uniform(0, whole))
                p.send_signal(signal.SIGKILL)
                kills += p.wait() == -signal.SIGKILL
                have = os.listdir(self.out(out)) if os.path.isdir(self.out(out)) else []
                partial += any(f.endswith(".bin") for f in have) and "manifest.json" not in have
            self.data(*args, out=out)
            self.assertEqual(contents(self.out(out)), want)
        self.assertGreater(kills, 4)
        self.assertGreater(partial, 1)

    def test_a_rerun_finds_what_is_there(self):
        path = self.jsonl("a.jsonl", [text(i, 40) for i in range(200)])
        self.data(path, "--shard-tokens", 500)
        want = contents(self.out())
        names = [f for f in want if f.endswith(".bin")]
        os.remove(os.path.join(self.out(), "manifest.json"))
        for f in sorted(names)[3:]:
            os.remove(os.path.join(self.out(), f))
        got = json.loads(self.data(path, "--shard-tokens", 500, "--json"))
        self.assertEqual((got["shards_found"], got["shards"]), (3, len(names)))
        self.assertEqual(contents(self.out()), want)


# GPT-2's expression over ASCII, and its visible alphabet.
GPT2 = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
ALPHABET = {b: chr(b) for b in VISIBLE}
ALPHABET.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in ALPHABET)})


def pairs_of(words):
    out = {}
    for w, n in words.items():
        for pair in zip(w, w[1:]):
            out[pair] = out.get(pair, 0) + n
    return out


def join(word, pair):
    out, i = [], 0
    while i < len(word):
        both = word[i:i + 2] == pair
        out.append("".join(pair) if both else word[i])
        i += 1 + both
    return tuple(out)


def split(data):
    return [tuple(ALPHABET[b] for b in w.encode()) for w in GPT2.findall(data)]


def learn(data, size, special):
    """(vocabulary, merges), counting all pairs again for every merge."""
    vocab = {t: i for i, t in enumerate([*special, *sorted(ALPHABET.values())])}
    words, merges = {}, []
    for w in split(data):
        words[w] = words.get(w, 0) + 1
    while len(vocab) < size:
        count = pairs_of(words)
        if not count:
            break
        pair = min(count, key=lambda p: (-count[p], vocab[p[0]], vocab[p[1]]))
        merges.append(list(pair))
        vocab.setdefault("".join(pair), len(vocab))
        new = {}
        for w, n in words.items():
            w = join(w, pair)
            new[w] = new.get(w, 0) + n
        words = new
    return vocab, merges


def encode(data, vocab, merges):
    rank = {tuple(m): i for i, m in enumerate(merges)}
    out = []
    for w in split(data):
        while True:
            best = min(zip(w, w[1:]), key=lambda p: rank.get(p, len(rank)), default=None)
            if best not in rank:
                break
            w = join(w, best)
        out += [vocab[t] for t in w]
    return out


class Tokenizers(Base):
    def train(self, *args, out="tok"):
        got = json.loads(weft("data", *args, "-o", self.out(out), "--json"))
        model = json.loads(read(self.out(out), "tokenizer.json"))
        self.assertEqual(got["vocab_size"], len(model["model"]["vocab"]))
        return model

    def ids(self, data, *flags, out="tok"):
        path = self.put("some.txt", data)
        got = weft("tokenize", self.out(out), "-f", path, "--print-ids", *flags).strip()
        return [int(i) for i in got.split(",")] if got else []

    def test_merges_and_ids_are_those_of_counting_again_every_time(self):
        r = random.Random(3)
        texts = ["".join(r.choices("ab", k=700)), "".join(r.choices("abc ", k=1500)),
                 "a" * 97 + " " + "ab" * 50, "".join(r.choices("aB1,' \n\t", k=3000)),
                 (" ".join(r.choices([w for w in WORDS if w.isascii()], k=900)) + "\n") * 2, "x"]
        for i, data in enumerate(texts):
            path = self.put("t.txt", data)
            model = self.train(path, "--train-tokenizer", 257 + 150, out=f"t{i}")["model"]
            vocab, merges = learn(data, 257 + 150, ["<|endoftext|>"])
            self.assertEqual(model["vocab"], vocab)
            self.assertEqual(model["merges"], merges)
            self.assertEqual(self.ids(data, out=f"t{i}"), encode(data, vocab, merges))
            other = "a new text, " + data[::-1]
            self.assertEqual(self.ids(other, out=f"t{i}"), encode(other, vocab, merges))

    def test_specials_bos_and_the_other_split(self):
        path = self.put("t.txt", "1234567 and\n\n\nlines'S " * 50)
        model = self.train(path, "--train-tokenizer", 300, "--special", "<s>", "--special", "</s>",
                           "--add-bos", "--split", "llama3")
        self.assertEqual([(t["id"], t["content"]) for t in model["added_tokens"]],
                         [(0, "<s>"), (1, "</s>")])
        ids = self.ids("1234<s>", "--special")
        self.assertEqual((ids[0], ids[-1]), (0, 0))
        pieces = [weft("tokenize", self.out("tok"), "--decode", i)[:-1] for i in ids[1:-1]]
        self.assertEqual(pieces, ["123", "4"])
        self.assertNotIn("\u0120and\u010a", model["model"]["vocab"])
        config = json.loads(read(self.out("tok"), "tokenizer_config.json"))
        self.assertEqual((config["bos_token"], config["eos_token"], config["add_bos_token"]),
                         ("<s>", "</s>", True))
        self.jsonl("d.jsonl", ["1234"])
        self.data(self.out("d.jsonl"), "--append-eos", tokenizer=self.out("tok"))
        self.assertEqual([d[0] for d in shards(self.out())], [(0, *ids[1:-1], 1)])

    def test_documents_and_rare_pairs(self):
        # A word ends with its document; a JSONL, a folder and a file are read alike.
        one = self.train(self.jsonl("a.jsonl", ["ab", "ab", "ba"]), "--train-tokenizer", 270)
        self.assertEqual(one["model"]["merges"], [["a", "b"], ["b", "a"]])
        for name, data in (("1", "ab"), ("2", "ab"), ("3", "ba")):
            self.put(f"f/{name}.txt", data)
        self.assertEqual(self.train(self.out("f"), "--train-tokenizer", 270), one)
        twice = self.train(self.out("f"), "--train-tokenizer", 270, "--min-frequency", 2)
        self.assertEqual(twice["model"]["merges"], [["a", "b"]])
        r = run("data", self.out("f"), "-o", self.out("w"), "--train-tokenizer", 270)
        self.assertEqual(r.returncode, 0)
        self.assertIn("weft: warning: the text gives no more than 259 tokens", r.stderr)

    @unittest.skipUnless(tokenizers, "no Python library tokenizers")
    def test_the_tokenizers_library(self):
        files = [os.path.join(FIXTURES, "corpora", *f) for f in
                 (("sentencepiece", "botchan.txt"), ("sentencepiece", "wagahaiwa_nekodearu.txt"))]
        if not os.path.isdir(FIXTURES):
            files = [self.put("u.txt", text(1, 20000))]
        texts = [read(f).decode() for f in files]
        model = self.train(*files, "--train-tokenizer", 4000)
        byte_level = tokenizers.pre_tokenizers.ByteLevel
        theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
        theirs.pre_tokenizer = byte_level(add_prefix_space=False)
        theirs.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
            vocab_size=4000, show_progress=False, initial_alphabet=byte_level.alphabet(),
            special_tokens=["<|endoftext|>"]))
        want = json.loads(theirs.to_str())["model"]
        self.assertEqual(model["model"]["vocab"], want["vocab"])
        self.assertEqual(model["model"]["merges"], want["merges"])
        ours = tokenizers.Tokenizer.from_file(os.path.join(self.out("tok"), "tokenizer.json"))
        for data in texts + [text(9, 300) + "<|endoftext|>é\u0301\U0001f600"]:
            self.assertEqual(self.ids(data), ours.encode(data).ids)
            self.assertEqual(ours.decode(ours.encode(data).ids, skip_special_tokens=False), data)

    @unittest.skipUnless(os.path.isdir(FIXTURES), f"no fixtures under {FIXTURES}")
    def test_ten_megabytes_take_seconds(self):
        books = os.path.join(FIXTURES, "corpora")
        big = self.put("big.txt", b"".join(read(books, *f) for f in (
            ("tinyshakespeare", "input.txt"), ("wikitext2", "wiki.test.raw"),
            ("sentencepiece", "botchan.txt"), ("sentencepiece", "wagahaiwa_nekodearu.txt"))) * 3)
        self.assertGreater(os.path.getsize(big), 10 << 20)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        self.train(big, "--train-tokenizer", 8192)
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        self.assertLess(used, 30)
        data = read(big)[:200000].decode(errors="ignore")
        path = self.put("some.txt", data)
        ids = weft("tokenize", self.out("tok"), "-f", path, "--print-ids").strip()
        back = weft("tokenize", self.out("tok"), "--decode", "-f", self.put("ids.txt", ids))
        self.assertEqual(back, data + "\n")

    def test_what_is_refused(self):
        path = self.put("t.txt", "some text")
        for args, code, part in (
                (["--train-tokenizer", "256"], 2, "257 are the 256 bytes and the special tokens"),
                (["--train-tokenizer", "9999999"], 2, "--train-tokenizer"),
                (["--train-tokenizer", "300", "--special", "<a>", "--special", "<a>"], 2, "twice"),
                (["--train-tokenizer", "300", "--special", ""], 2, "--special"),
                (["--train-tokenizer", "300", "--special", "a"], 2, "a byte's own token"),
                (["--train-tokenizer", "300", "--special", "x" * 300], 2, "--special"),
                (["--train-tokenizer", "300", "--tokenizer", DEMO], 2, "not with --tokenizer"),
                (["--train-tokenizer", "300", self.put("e.txt", b"a\xff")], 3, "not UTF-8 (byte 1"),
                (["--train-tokenizer", "300", self.out("none.txt")], 3, "no such file"),
                (["--train-tokenizer", "300", self.put("r.jsonl", '{"input_ids": [1]}\n')], 2,
                 "is no text"),
                (["--tokenizer", DEMO, "--special", "<a>"], 2, "only with --train-tokenizer")):
            r = run("data", path, "-o", self.out("no"), *args)
            self.assertEqual(r.returncode, code, (args, r.stderr))
            self.assertIn(part, r.stderr)
            self.assertEqual(len(r.stderr.splitlines()), 1)
        r = run("data", self.put("z.txt", ""), "-o", self.out("no"), "--train-tokenizer", "300")
        self.assertEqual((r.returncode, "no text to learn from" in r.stderr), (3, True))
        os.makedirs(self.out("full/tokenizer.json"))
        r = run("data", path, "-o", self.out("full"), "--train-tokenizer", "300")
        self.assertEqual(r.returncode, 5, r.stderr)


class Bad(Base):
    def refuse(self, code, part, *args, tokenizer=DEMO, out="bad", **kw):
        r = run("data", *args, "-o", self.out(out), "--tokenizer", tokenizer, **kw)
        self.assertEqual(r.returncode, code, (args, r.stderr))
        lines = r.stderr.splitlines()
        self.assertEqual(len(lines), 1, r.stderr)
        self.assertTrue(lines[0].startswith("weft: error: "), lines[0])
        self.assertIn(part, lines[0])
        self.assertFalse([f for f in os.listdir(self.out(out)) if f.endswith(".part")]
                         if os.path.isdir(self.out(out)) else [])
        self.assertFalse(os.path.exists(os.path.join(self.out(out), "manifest.json")))

    def test_inputs(self):
        good = json.dumps({"text": "fine"}) + "\n"
        os.mkdir(self.out("empty"))
        for i, (name, data, part) in enumerate((
                ("latin.txt", b"caf\xe9 au lait", "latin.txt: not UTF-8 (byte 3"),
                ("cut.jsonl", good + '{"text": "a\n', "cut.jsonl:2"),
                ("list.jsonl", good + "[1]\n", "list.jsonl:2"),
                ("number.jsonl", good + '{"text": 3}\n', "number.jsonl:2"),
                ("other.jsonl", good + '{"content": "x"}\n', "other.jsonl:2"),
                ("utf8.jsonl", good.encode() + b'{"text": "\xff"}\n', "utf8.jsonl:2"),
                ("none.jsonl", '{"body": "x"}\n', 'no "text", "messages" or "input_ids"'),
                ("nothing.txt", "", "no token to train on"),
                ("blank.jsonl", "\n\n", "no token to train on"),
                ("chat.jsonl", '{"messages": []}\n', "chat template"))):
            code = 2 if name == "chat.jsonl" else 3
            self.refuse(code, part, self.put(name, data), out=f"o{i}")
        self.refuse(2, "need no shards", self.put("r.jsonl", '{"input_ids": [1, 2]}\n'), out="r")
        self.refuse(3, "no such file", self.out("nowhere.txt"))
        self.refuse(3, "no .txt or .jsonl file", self.out("empty"))
        self.refuse(3, "is a device", "/dev/zero", out="dev")
        self.refuse(3, "no such file", self.put("t.txt", "x"), tokenizer=self.out("no-model"))
        self.put("mixed/a.txt", "text")
        self.put("mixed/b.jsonl", '{"input_ids": [1, 2]}\n')
        self.refuse(3, "not of the kind of", self.out("mixed"), out="mix")

    def test_conversations(self):
        for f in ("tokenizer.json", "tokenizer_config.json"):
            self.put("model/" + f, read(DEMO, f))
        chat = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}) + "\n"
        whole = json.dumps({"messages": [{"role": "user", "content": "Hi"},
                                         {"role": "assistant", "content": "Ho"}]}) + "\n"
        path = self.put("model/chat_template.jinja",
                        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
                        "{% if add_generation_prompt %}assistant:{% endif %}")
        args = {"tokenizer": os.path.dirname(path)}
        self.refuse(3, "c.jsonl:2: no message of an assistant", self.put("c.jsonl", whole + chat),
                    "--sft", **args)
        self.refuse(3, "s.jsonl:2: messages", self.put("s.jsonl", whole + '{"messages": 3}\n'),
                    "--sft", out="b1", **args)
        self.refuse(2, "--sft: is no JSONL of", self.put("t.txt", "text"), "--sft", out="b2",
                    **args)
        # What a turn looks like depends on how many follow: no prefix is a beginning of the whole.
        self.put("model/chat_template.jinja",
                 "{{ messages | length }}{% for m in messages %}{{ m.content }};{% endfor %}")
        self.refuse(3, "p.jsonl:1: the template does not say", self.put("p.jsonl", whole), "--sft",
                    out="b3", **args)

    def test_other_inputs_or_options(self):
        path = self.jsonl("a.jsonl", ["one", "two"])
        self.data(path)
        for args in ([path, "--append-eos"], [path, "--val", "0.1"], [path, path]):
            r = run("data", *args, "-o", self.out(), "--tokenizer", DEMO)
            self.assertEqual(r.returncode, 2)
            self.assertIn("holds shards of other inputs or options", r.stderr)
        self.jsonl("a.jsonl", ["one", "three"])
        r = run("data", path, "-o", self.out(), "--tokenizer", DEMO)
        self.assertIn("holds shards of other inputs", r.stderr)

    def test_damaged_shards_are_not_taken_up(self):
        path = self.jsonl("a.jsonl", [text(i, 40) for i in range(50)])
        self.data(path)
        shard = os.path.join(self.out(), "a-train-00000.bin")
        good = read(shard)
        for bad, part in ((good[:-1], "do not fit"), (b"", "no token shard"),
                          (b"X" + good[1:], "no token shard"),
                          (good[:8] + b"\2" + good[9:], "version 2"),
                          (good[:24] + b"\0" * 8 + good[32:], "of another run")):
            with open(shard, "wb") as f:
                f.write(bad)
            r = run("data", path, "-o", self.out(), "--tokenizer", DEMO)
            self.assertEqual(r.returncode, 3, part)
            self.assertIn(part, r.stderr)

    def test_two_at_once(self):
        path = self.jsonl("a.jsonl", ["one"])
        os.mkdir(self.out("busy"))
        fd = os.open(self.out("busy"), os.O_RDONLY)
        self.addCleanup(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self.refuse(2, "another process writes to it", path, out="busy")

    def test_disk_full(self):
        path = self.jsonl("a.jsonl", [text(i, 400) for i in range(400)])
        out = self.out("full")
        os.mkdir(out)
        os.symlink("/dev/full", os.path.join(out, "a-train-00000.bin.part"))
        self.refuse(5, "a-train-00000.bin.part: cannot write", path, out="full")
        # A limit on a file's size, as a quota: finished shards stay, and a rerun goes on.
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))
        args = ("--shard-tokens", "25000")
        self.refuse(5, "cannot write", path, "--shard-tokens", "50000", out="quota",
                    preexec_fn=limit)
        self.data(path, *args, out="small", preexec_fn=limit)
        self.assertGreater(len(os.listdir(self.out("small"))), 4)

    def test_arguments(self):
        path = self.put("t.txt", "Hello there.")
        for args, part in (([], "IN: missing"), ([path], "-o: missing"),
                           ([path, "-o", self.out()], "--tokenizer: missing"),
                           ([path, "-o", self.out(), "--tokenizer", DEMO, "--val", "0.9"], "--val"),
                           ([path, "-o", self.out(), "--tokenizer", DEMO, "--shard-tokens", "0"],
                            "--shard-tokens")):
            r = run("data", *args)
            self.assertEqual(r.returncode, 2, args)
            self.assertIn(part, r.stderr)
        self.refuse(5, "cannot create the folder", path, out="no/where")
        self.refuse(5, "cannot", path, out="t.txt/x")
        r = run("data", path, "-o", path, "--tokenizer", DEMO)
        self.assertEqual(r.returncode, 5)


if __name__ == "__main__":
    unittest.main()
