# SPDX-License-Identifier: Apache-2.0
"""Released tokenizers against the libraries they come from (golden/tokenizers and the vectors of
the fixtures; index.json there says which library, version and flags), through `weft tokenize`."""

import glob
import json
import os
import re
import resource
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")), "weft")
FIXTURES = os.environ.get(
    "WEFT_FIXTURES", os.path.join(os.path.dirname(ROOT), "shared", "fixtures")
)
GOLDEN = os.path.join(FIXTURES, "golden", "tokenizers")
# Of a kind that is not read: the error has to name it.
UNSUPPORTED = {"bert-base-uncased": "WordPiece", "bert-large-cased": None}
# transformers' own conversion of spiece.model, not what the file says.
CONVERTED = {"t5-hf-from-spm"}
# gguf vocabularies whose tokenizer is here in its own format.
VECTORS = {
    "gpt-2": "gpt2/tokenizer.json",
    "llama-spm": "llama2/tokenizer.model",
    "phi-3": "llama2/tokenizer.json",
    "mpt": "mpt-gptneox/tokenizer.json",
    "llama-bpe": "llama3/tokenizer.model",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
}
TIKTOKEN = {
    "tokens.json": "cl100k_base",
    "tokens_r50k_base.json": "r50k_base",
    "tokens_p50k_base.json": "p50k_base",
    "tokens_gpt4o.json": "o200k_base",
}


def tokenize(path, flags, lines):
    text = "".join(json.dumps(x) + "\n" for x in lines)
    r = subprocess.run(
        [WEFT, "tokenize", path, "--jsonl", *flags],
        input=text.encode(), capture_output=True, timeout=300,
    )
    if r.returncode:
        raise AssertionError(f"{path} {flags}: exit {r.returncode}: {r.stderr.decode()}")
    return [json.loads(x) for x in r.stdout.decode().split("\n")[:-1]]


def tokenizer_path(*parts):
    return os.path.join(FIXTURES, "tokenizers", *parts)


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


@unittest.skipUnless(os.path.isdir(GOLDEN), f"no golden tokenizers under {FIXTURES}")
class Golden(unittest.TestCase):
    """Every row, both ways: ids with and without special tokens, text with and without them."""

    ways = (
        ("ids_no_special", "text", []),
        ("ids_special", "text", ["--special"]),
        ("decoded", "ids_special", ["--decode", "--special"]),
        ("decoded_skip_special", "ids_special", ["--decode"]),
    )

    def check(self, name, entry):
        files = [os.path.join(FIXTURES, f) for f in entry["files"]]
        path = files[0] if len(files) == 1 else os.path.dirname(files[0])
        with open(os.path.join(GOLDEN, name + ".jsonl"), encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
        self.assertGreater(len(rows), 100)
        for want, given, flags in self.ways:
            got = tokenize(path, flags, [r[given] for r in rows])
            self.assertEqual(len(got), len(rows))
            for row, ours in zip(rows, got):
                self.assertEqual(ours, row[want], f"{name}: {want} of {row[given]!r}")


def add_golden():
    index = os.path.join(GOLDEN, "index.json")
    if not os.path.exists(index):
        return
    for name, entry in read_json(index)["tokenizers"].items():
        listed = os.path.exists(os.path.join(GOLDEN, name + ".jsonl"))
        if not listed or name in UNSUPPORTED or name in CONVERTED:
            continue

        def test(self, name=name, entry=entry):
            self.check(name, entry)

        setattr(Golden, "test_" + re.sub(r"\W", "_", name), test)


add_golden()


class Vectors(unittest.TestCase):
    def test_gguf_vectors(self):
        folder = os.path.join(FIXTURES, "vocab-gguf")
        if not os.path.isdir(folder):
            self.skipTest(f"no {folder}")
        for name, path in VECTORS.items():
            (inputs,) = glob.glob(os.path.join(folder, "**", f"ggml-vocab-{name}.gguf.inp"),
                                  recursive=True)
            with open(inputs, encoding="utf-8", newline="") as f:
                texts = f.read().split("\n__ggml_vocab_test__\n")
            with open(inputs[:-4] + ".out", encoding="utf-8") as f:
                want = [[int(x) for x in line.split()] for line in f.read().split("\n")]
            got = tokenize(tokenizer_path(path), [], texts)
            self.assertGreater(len(texts), 40)
            self.assertEqual(got, want[: len(texts)], name)

    def test_tiktoken_vectors(self):
        folder = tokenizer_path("tiktoken", "vectors")
        if not os.path.isdir(folder):
            self.skipTest(f"no {folder}")
        with open(os.path.join(folder, "lib.rs.txt"), encoding="utf-8") as f:
            source = f.read()
        for vector, name in TIKTOKEN.items():
            path = tokenizer_path("tiktoken", name + ".tiktoken")
            want = read_json(os.path.join(folder, vector))
            self.assertEqual(tokenize(path, [], [source])[0], want, name)
            self.assertEqual(tokenize(path, ["--decode"], [want])[0], source, name)


class Kinds(unittest.TestCase):
    def test_what_is_not_read_is_named(self):
        path = tokenizer_path("bert-base-uncased", "tokenizer.json")
        if not os.path.exists(path):
            self.skipTest(f"no {path}")
        r = subprocess.run([WEFT, "tokenize", path, "text"], capture_output=True, text=True)
        self.assertEqual(r.returncode, 2, r.stderr)
        self.assertIn(UNSUPPORTED["bert-base-uncased"], r.stderr)
        self.assertEqual(r.stderr.count("\n"), 1)

    def test_long_runs_take_no_time(self):
        """A megabyte of one character: a second is asked for, a quadratic step takes hours."""
        for path in ("gpt2/tokenizer.json", "llama2/tokenizer.json", "llama2/tokenizer.model",
                     "llama3/tokenizer.model", "tiktoken/o200k_base.tiktoken"):
            if not os.path.exists(tokenizer_path(path)):
                self.skipTest(f"no {tokenizer_path(path)}")
            for unit in ("a", " ", "\u4e2d", "\n"):
                text = unit * (1_000_000 // len(unit.encode()))
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                (ids,) = tokenize(tokenizer_path(path), [], [text])
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                self.assertGreater(len(ids), 100)
                self.assertEqual(tokenize(tokenizer_path(path), ["--decode"], [ids])[0], text)
                self.assertLess(after.ru_utime - before.ru_utime, 20, f"{path} {unit!r}")


class Folders(unittest.TestCase):
    """What stands beside a tokenizer's own file, on folders written here."""

    model = {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4},
             "merges": ["a b"]}
    added = [{"id": i, "content": c, "special": True} for i, c in enumerate(("<s>", "</s>"))]
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}

    def setUp(self):
        self.temp = tempfile.TemporaryDirectory()
        self.addCleanup(self.temp.cleanup)

    def write(self, name, value):
        with open(os.path.join(self.temp.name, name), "w", encoding="utf-8") as f:
            f.write(value if isinstance(value, str) else json.dumps(value))

    def ids(self, text, *flags):
        return tokenize(self.temp.name, list(flags), [text])[0]

    def test_switches_of_the_configuration(self):
        self.write("tokenizer.json", {"added_tokens": self.added, "model": self.model,
                                      "post_processor": self.template})
        self.assertEqual(self.ids("ab", "--special"), [0, 4])
        config = {"bos_token": "<s>", "eos_token": {"content": "</s>"},
                  "add_bos_token": False, "add_eos_token": True}
        self.write("tokenizer_config.json", config | {"tokenizer_class": "LlamaTokenizerFast"})
        self.assertEqual(self.ids("ab", "--special"), [4, 1])
        self.write("tokenizer_config.json", config | {"tokenizer_class": "PreTrainedTokenizerFast"})
        self.assertEqual(self.ids("ab", "--special"), [0, 4])  # the template stands

    def test_vocabulary_and_merges(self):
        vocab = {"a": 0, "1": 1, "11": 2, "\u0120a": 3, "\u0120": 4}
        self.write("vocab.json", vocab)
        self.write("merges.txt", "#version: 0.2\n1 1\n\u0120 a\n")
        self.assertEqual(self.ids("a a11<|endoftext|>"), [0, 3, 2, 5])
        del vocab["11"]
        vocab["2"] = 2  # no two digits side by side: a split that keeps them apart, and NFC
        self.write("vocab.json", vocab | {"\u00c3\u00a9": 5, "\u00c3": 6, "\u00a9": 7})
        self.write("merges.txt", "\u0120 a\n\u00c3 \u00a9\n")
        self.assertEqual(self.ids("a a12e\u0301"), [0, 3, 1, 2, 5])
        self.write("config.json", {"model_type": "gpt2"})
        self.assertEqual(self.ids("\u00e9a"), [5, 0])

    def test_broken_neighbours(self):
        self.write("tokenizer.json", {"added_tokens": self.added, "model": self.model})
        for name, text in (("tokenizer_config.json", "{"), ("tokenizer_config.json", "[]"),
                           ("tokenizer_config.json", '{"added_tokens_decoder":{"x":{}}}')):
            self.write(name, text)
            r = subprocess.run([WEFT, "tokenize", self.temp.name, "a"], capture_output=True,
                               text=True)
            self.assertEqual(r.returncode, 3, r.stderr)
            self.assertIn(name, r.stderr)
            self.assertEqual(r.stderr.count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
