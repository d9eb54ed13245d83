# SPDX-License-Identifier: Apache-2.0
"""`weft eval` against the fixtures' reference values, and against the definitions of
lm-evaluation-harness written down a second time here, over `weft tokenize` and `weft score`."""

import json
import math
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import test_golden  # noqa: E402

ROOT = test_golden.ROOT
WEFT = test_golden.WEFT
FIXTURES = test_golden.FIXTURES
STORIES = test_golden.STORIES
DEMO = os.path.join(ROOT, "bench", "models", "demo")
GOLDEN = os.path.join(FIXTURES, "golden", "eval.json")
CORPORA = os.path.join(FIXTURES, "corpora")


def weft(*args, code=0, stdin=None):
    r = subprocess.run([WEFT, *map(str, args)], capture_output=True, text=True, timeout=300,
                       input=stdin)
    if r.returncode != code:
        raise AssertionError(f"weft {args}: exit {r.returncode}, not {code}: {r.stderr}")
    if code and not re.fullmatch(r"weft: error: [^\n]+\n", r.stderr):
        raise AssertionError(f"weft {args}: not one error line: {r.stderr!r}")
    weft.err = r.stderr
    return r.stdout


class Case(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(prefix="weft-eval-")
        self.addCleanup(self.tmp.cleanup)
        self.dir = self.tmp.name

    def put(self, name, content):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
        return path

    def rows(self, rows, name="rows.jsonl"):
        return self.put(name, "".join(json.dumps(r) + "\n" for r in rows))

    def eval(self, *args):
        """(the JSON object, the rows of --samples)"""
        path = os.path.join(self.dir, "samples.jsonl")
        out = json.loads(weft("eval", *args, "--json", "--samples", path))
        with open(path, encoding="utf-8") as f:
            return out, [json.loads(line) for line in f]


# ---- Reference values ---------------------------------------------------------------------------


@unittest.skipUnless(os.path.exists(GOLDEN), f"no golden/eval.json in {FIXTURES}")
class Golden(Case):
    @classmethod
    def setUpClass(cls):
        cls.golden = test_golden.read_json(GOLDEN)

    half_split = test_golden.Stories260k.half_split

    def stories260k(self):
        """llama2.c's model as a folder, its vocabulary as a SentencePiece model."""
        folder = test_golden.Stories260k.folder(self)
        path = os.path.join(FIXTURES, "models", "stories260k", "tok512.bin")
        with open(path, "rb") as f:
            raw = f.read()
        at, model = 4, b""
        for i in range(512):
            score, n = struct.unpack_from("<fi", raw, at)
            piece = raw[at + 8 : at + 8 + n].decode().replace(" ", "\u2581").encode()
            at += 8 + n
            kind = 2 if i == 0 else 3 if i < 3 else 6 if i < 259 else 1
            piece = (b"<unk>", b"<s>", b"</s>")[i] if i < 3 else piece
            entry = b"\x0a" + bytes([len(piece)]) + piece + b"\x15" + struct.pack("<f", score)
            entry += b"\x18" + bytes([kind])
            model += b"\x0a" + bytes([len(entry)]) + entry
        model += b"\x12\x05\x18\x02\x98\x02\x01"  # trainer: BPE, byte fallback
        model += b"\x1a\x06\x18\x01\x20\x00\x28\x01"  # normalizer: dummy prefix, spaces escaped
        self.put("tokenizer.model", model)
        return folder

    def folders(self):
        yield "tinystories-656k", STORIES
        yield "stories260k", self.stories260k()

    def test_perplexity(self):
        for name, folder in self.folders():
            for row in self.golden["models"][name]["perplexity"]:
                with open(os.path.join(FIXTURES, row["file"]), "rb") as f:
                    text = f.read()[row["byte_from"] : row["byte_to"]].decode("utf-8", "ignore")
                args = ["--window", row["window"]]
                if row["method"] == "sliding":
                    args += ["--stride", row["stride"], "--bos", "no"]
                else:
                    args += ["--bos", "yes"]
                with self.subTest(model=name, file=row["file"], method=row["method"]):
                    out, windows = self.eval(folder, "--task", "perplexity", "-f",
                                             self.put("text", text), "--dtype", "fp32", *args)
                    self.assertEqual(out["tokens"], row["tokens"])
                    self.assertEqual(out["tokens_scored"], row["tokens_scored"])
                    self.assertAlmostEqual(out["nll"], row["mean_nll"], delta=2e-6)
                    self.assertAlmostEqual(out["perplexity"] / row["perplexity"], 1, delta=2e-6)
                    nll = sum(w["nll"] for w in windows)
                    self.assertAlmostEqual(nll, row["nll_sum"], delta=1e-2)
                    words = len(re.split(r"\s+", text))
                    self.assertAlmostEqual(out["word_perplexity"] / math.exp(nll / words), 1)
                    self.assertAlmostEqual(out["bits_per_byte"],
                                           nll / len(text.encode()) / math.log(2))

    def test_hellaswag(self):
        import bz2
        with bz2.open(os.path.join(CORPORA, "hellaswag", "hellaswag_val_full.txt.bz2"), "rt",
                      encoding="utf-8") as f:
            path = self.put("hellaswag.txt", "".join(next(f) for _ in range(300)))
        for name, folder in self.folders():
            want = self.golden["models"][name]["hellaswag"]
            for device in ("cpu", "ref") if name == "tinystories-656k" else ("cpu",):
                with self.subTest(model=name, device=device):
                    limit = want["items"] if device == "cpu" else 4
                    out, items = self.eval(folder, "--task", "hellaswag", "-f", path, "--bos",
                                           "yes", "-c", want["max_length"], "--dtype", "fp32",
                                           "--limit", limit, "--device", device)
                    if limit == want["items"]:
                        self.assertEqual((out["acc"], out["acc_norm"]),
                                         (want["acc"], want["acc_norm"]))
                    self.assertEqual(len(items), limit)
                    for got, ref in zip(items, want["per_item"]):
                        self.assertEqual(got["tokens"], ref["choice_tokens"])
                        for key in ("label", "pick", "pick_norm"):
                            self.assertEqual(got[key], ref[key])
                        for x, y in zip(got["logprobs"], ref["logprob_sums"]):
                            self.assertAlmostEqual(x, y, delta=1e-4)

    def test_bleu_and_chrf(self):
        for s in self.golden["bleu_rouge"]["sets"]:
            path = self.rows({"hypothesis": h, "references": [ref[i] for ref in s["refs"]]}
                             for i, h in enumerate(s["hyps"]))
            for how, want in s["bleu"].items():
                tokenizer, _, lower = how.partition(",")
                args = ["--lowercase"] if lower else []
                out, rows = self.eval("--task", "bleu", "-f", path, "--tokenize", tokenizer, *args)
                self.assertAlmostEqual(out["bleu"], want["score"], places=9)
                for key in ("counts", "totals", "sys_len", "ref_len"):
                    self.assertEqual(out[key], want[key])
                for x, y in zip(out["precisions"] + [out["bp"]], want["precisions"] + [want["bp"]]):
                    self.assertAlmostEqual(x, y, places=9)
                self.assertEqual(out["signature"].rsplit("|", 1)[0],
                                 f"nrefs:{len(s['refs'])}|case:{'lc' if lower else 'mixed'}|"
                                 f"eff:no|tok:{tokenizer}|smooth:exp")
                if how == "13a":
                    self.assertAlmostEqual(out["chrf"], s["chrf"], places=9)
                    for row, want in zip(rows, s["sentence_bleu_13a"]):
                        self.assertAlmostEqual(row["bleu"], want, places=9)

    def test_rouge(self):
        for s in self.golden["bleu_rouge"]["sets"]:
            path = self.rows({"prediction": h, "reference": r}
                             for h, r in zip(s["hyps"], s["refs"][0]))
            for how, args in (("plain", []), ("stem", ["--stemmer"])):
                out, rows = self.eval("--task", "rouge", "-f", path, *args)
                want = s["rouge_against_first_ref"][how]
                for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
                    for row, ref in zip(rows, want):
                        for x, y in zip(row[kind], ref[kind]):
                            self.assertAlmostEqual(x, y, places=12)
                    self.assertAlmostEqual(out[kind],
                                           sum(ref[kind][2] for ref in want) / len(want))

    def test_published_rows(self):
        """Rows as data sets hold them are accepted, every task."""
        for task in ("arc_easy", "arc_challenge", "piqa", "boolq", "winogrande"):
            path = os.path.join(CORPORA, "eval-llm-foundry", task + ".jsonl")
            out, items = self.eval(STORIES, "--task", task, "-f", path, "--limit", 3)
            self.assertEqual((out["items"], len(items)), (3, 3))
        path = os.path.join(CORPORA, "eval-llm-foundry", "lambada_openai.jsonl")
        out, items = self.eval(STORIES, "--task", "lambada", "-f", path, "--limit", 3)
        self.assertAlmostEqual(out["perplexity"],
                               math.exp(-sum(i["logprob"] for i in items) / 3), places=4)


# ---- The harness's definitions, a second time ---------------------------------------------------


def preprocess(text):
    text = text.strip()
    text = text.replace(" [title]", ". ")
    text = re.sub("\\[.*?\\]", "", text)
    return text.replace("  ", " ")


def hellaswag(doc):
    ctx = doc["ctx_a"] + " " + doc["ctx_b"].capitalize()
    query = preprocess(doc["activity_label"] + ": " + ctx)
    choices = [preprocess(e) for e in doc["endings"]]
    return [(query, " " + c, c) for c in choices], int(doc["label"])


def arc(doc):
    q = f"Question: {doc['question']}\nAnswer:"
    return ([(q, " " + c, c) for c in doc["choices"]["text"]],
            doc["choices"]["label"].index(doc["answerKey"]))


def piqa(doc):
    q = f"Question: {doc['goal']}\nAnswer:"
    return [(q, " " + c, c) for c in (doc["sol1"], doc["sol2"])], doc["label"]


def boolq(doc):
    q = f"{doc['passage']}\nQuestion: {doc['question']}?\nAnswer:"
    return [(q, " " + c, c) for c in ("no", "yes")], doc["label"]


def winogrande(doc):
    at = doc["sentence"].index("_")
    rest = " " + doc["sentence"][at + 1 :].strip()
    return ([(doc["sentence"][:at] + o, rest, o) for o in (doc["option1"], doc["option2"])],
            {"1": 0, "2": 1}[doc["answer"]])


def lambada(doc):
    words = doc["text"].split(" ")
    return [(" ".join(words[:-1]), " " + words[-1], words[-1])], 0


DOCS = {
    "hellaswag": (hellaswag, [
        {"activity_label": "Cooking", "ctx_a": "The man [step] cuts  an onion. ",
         "ctx_b": "he goes to Paris [substeps] and", "label": "2",
         "endings": ["eats. [title] Bake", " sleeps [x] well.", "is \u00e9lite.", "runs"]},
        {"activity_label": "Sport", "ctx_a": "It was [a\nb] dark.", "ctx_b": "\u00c9LAN",
         "label": 0,
         "endings": ["He [ ran ] [[away]] .", "She stood", "They sat down.", "It fell."]},
        {"activity_label": "Home", "ctx_a": "A dog", "ctx_b": "", "label": "1",
         "endings": ["sits on the floor.", "sits on the old man.", "sits.", "sits on a]"]},
        {"activity_label": "Home", "ctx": "A dog", "ctx_a": "A dog", "ctx_b": "", "label": "1",
         "endings": ["\u00e9", "ZZ"]}]),  # nearer a character each, farther a byte each
    "arc_easy": (arc, [
        {"question": "Which is the largest?", "answerKey": "B",
         "choices": {"text": ["a mouse", "the sun", "one house"], "label": ["A", "B", "C"]}},
        {"question": "What do plants need? ", "answerKey": "1",
         "choices": {"text": ["light and water", "stone"], "label": ["1", "2"]}}]),
    "piqa": (piqa, [{"goal": "open a door", "sol1": "turn the handle", "sol2": "eat the handle",
                     "label": 0},
                    {"goal": "Warm a room", "sol1": "open the window in winter ", "label": 1,
                     "sol2": "light a fire"}]),
    "boolq": (boolq, [{"passage": "The sun is a star.", "question": "is the sun a star",
                       "label": 1},
                      {"passage": "Snow is white.\nIt melts.", "question": "is snow black",
                       "label": 0}]),
    "winogrande": (winogrande, [
        {"sentence": "The box did not fit because _ was too large. ", "option1": "the box",
         "option2": "the bag", "answer": "1"},
        {"sentence": "Anna thanked Mary as _ had helped.", "option1": "Anna", "option2": "Mary",
         "answer": "2"}]),
    "lambada": (lambada, [{"text": "She looked at the sea and saw the ship"},
                          {"text": "He said to the old man, \"I do not know.\""},
                          {"text": "one  two"}]),
}


class Definitions(Case):
    def tokens(self, text):
        out = weft("tokenize", DEMO, "--jsonl", stdin=json.dumps(text) + "\n")
        return json.loads(out)

    def loglikelihood(self, context, continuation):
        """The harness's _encode_pair and _loglikelihood_tokens; (sum, tokens, greedy)."""
        spaces = len(context) - len(context.rstrip())
        if spaces:
            continuation = context[-spaces:] + continuation
            context = context[:-spaces]
        whole = self.tokens(context + continuation)
        head = self.tokens(context)
        tail = whole[len(head) :]
        ids = [0] + head + tail  # BOS is 0
        logits = os.path.join(self.dir, "logits")
        out = json.loads(weft("score", DEMO, "--ids", ",".join(map(str, ids)), "--json",
                              "--logits", logits))
        rows = test_golden.read_tensors(logits)["logits"]
        vocab = rows[0][1]
        greedy = all(max(range(vocab), key=lambda i: rows[1][(at - 1) * vocab + i]) == ids[at]
                     for at in range(1 + len(head), len(ids)))
        return sum(out["logprobs"][1 + len(head) :]), len(tail), greedy

    def check_item(self, pairs, gold, got):
        sums, counts, greedy = zip(*(self.loglikelihood(a, b) for a, b, _ in pairs))
        if "greedy" in got:
            self.assertAlmostEqual(got["logprob"], sums[0], places=5)
            self.assertEqual(got["greedy"], greedy[0])
            return
        self.assertEqual((got["label"], got["tokens"]), (gold, list(counts)))
        for x, y in zip(got["logprobs"], sums):
            self.assertAlmostEqual(x, y, places=5)
        by = {"pick": lambda k: sums[k], "pick_norm": lambda k: sums[k] / len(pairs[k][2]),
              "pick_bytes": lambda k: sums[k] / len(pairs[k][2].encode())}
        for key, value in by.items():
            if key in got:
                self.assertEqual(got[key], max(range(len(pairs)), key=value))

    def test_every_task(self):
        for task, (definition, docs) in DOCS.items():
            out, items = self.eval(DEMO, "--task", task, "-f", self.rows(docs))
            self.assertEqual(out["items"], len(docs))
            for doc, got in zip(docs, items):
                with self.subTest(task=task, doc=doc):
                    self.check_item(*definition(doc), got)
            if task == "hellaswag":
                self.assertNotEqual(items[-1]["pick_norm"], items[-1]["pick_bytes"])
            if task != "lambada":
                right = [float(i["pick"] == i["label"]) for i in items]
                self.assertEqual(out["acc"], sum(right) / len(right))
                self.assertAlmostEqual(out["acc_stderr"],
                                       statistics.stdev(right) / math.sqrt(len(right)))

    def test_ready_made_rows_are_the_same(self):
        definition, docs = DOCS["arc_easy"]
        rows = [{"query": f"Question: {d['question']}", "choices": d["choices"]["text"],
                 "gold": definition(d)[1]} for d in docs]
        docs[1]["question"] = docs[1]["question"].strip()
        _, one = self.eval(DEMO, "--task", "arc_easy", "-f", self.rows(docs))
        _, other = self.eval(DEMO, "--task", "arc_easy", "-f", self.rows(rows))
        self.assertEqual(one, other)

    def test_batches_do_not_change_a_bit(self):
        _, docs = DOCS["hellaswag"]
        path = self.rows(docs * 4)
        for task in ("hellaswag", "perplexity"):
            args = [DEMO, "--task", task, "-f", path, "--bos", "yes"]
            args += ["--window", 20, "--stride", 7] if task == "perplexity" else []
            if task == "perplexity":
                args[4] = self.put("text", "The sea was dark and the ship went on. " * 12)
            want = self.eval(*args, "--batch", 1)[1]
            self.assertGreater(len(want), 11)
            self.assertEqual(self.eval(*args, "--batch", 5)[1], want)
            self.assertEqual(self.eval(*args, "--batch", 16, "-ub", 16)[1], want)

    def test_perplexity_of_documents(self):
        texts = ["The cat sat on the mat.", "It was a dark and stormy night.\n"]
        path = self.rows([{"text": t} for t in texts], "docs.jsonl")
        out, windows = self.eval(DEMO, "--task", "perplexity", "-f", path)
        nll = [-x for t in texts
               for x in json.loads(weft("score", DEMO, "-p", t, "--json"))["logprobs"][1:]]
        self.assertEqual((out["items"], len(windows), out["tokens_scored"]), (2, 2, len(nll)))
        self.assertAlmostEqual(out["nll"], sum(nll) / len(nll), places=6)
        se = statistics.stdev(nll) / math.sqrt(len(nll))
        self.assertAlmostEqual(out["nll_stderr"], se, places=6)
        self.assertAlmostEqual(out["perplexity_stderr"], out["perplexity"] * se, places=3)

    def test_truncated_from_the_left(self):
        long = {"passage": "The sea was dark. " * 30, "question": "was it", "label": 0}
        out, items = self.eval(DEMO, "--task", "boolq", "-f", self.rows([long]), "-c", 32)
        self.assertEqual(out["truncated"], 2)
        self.assertIn("2 of 2 continuations were longer than the context (32)", weft.err)
        (query, cont, _), _ = boolq(long)[0]
        whole = [0] + self.tokens(query + cont)
        score = json.loads(weft("score", DEMO, "--json", "--ids",
                                ",".join(map(str, whole[-33:]))))
        n = items[0]["tokens"][0]
        self.assertAlmostEqual(items[0]["logprobs"][0], sum(score["logprobs"][-n:]), places=5)

    def test_an_empty_context_is_bos(self):
        row = {"context_options": ["", "It"], "continuation": "was dark", "gold": 0}
        for bos in ("auto", "no"):
            out, items = self.eval(DEMO, "--task", "winogrande", "-f", self.rows([row]), "--bos",
                                   bos)
            ids = [0] + self.tokens(" was dark")
            score = json.loads(weft("score", DEMO, "--json", "--ids", ",".join(map(str, ids))))
            self.assertAlmostEqual(items[0]["logprobs"][0], sum(score["logprobs"][1:]), places=5)


class Output(Case):
    def test_table(self):
        path = self.rows(DOCS["arc_easy"][1])
        out = weft("eval", DEMO, "--task", "arc_easy", "-f", path, "--limit", 1)
        self.assertRegex(out, r"(?m)^metric +value +stderr$")
        self.assertRegex(out, r"(?m)^acc_norm +[01]\.0000 +-$")
        self.assertEqual(weft.err, "")
        short = os.path.join(self.dir, "s.txt")
        os.rename(path, short)
        cwd = subprocess.run([WEFT, "eval", DEMO, "--task", "arc_easy", "-f", "s.txt"],
                             cwd=self.dir, capture_output=True, text=True, check=True)
        for line in cwd.stdout.splitlines():
            self.assertLessEqual(len(line), 80)

    def test_rows_from_standard_input(self):
        rows = '{"hypothesis":"a b c d e","reference":"a b c d e"}\n'
        out = json.loads(weft("eval", "--task", "bleu", "-f", "-", "--json", stdin=rows))
        self.assertAlmostEqual(out["bleu"], 100)

    def test_line_files(self):
        hyp = self.put("hyp", "the cat sat on the mat\n\nx y\n")
        one = self.put("one", "the cat sat on a mat\n\nx y\n")
        two = self.put("two", "a cat sat on the mat\r\nz\r\nx")
        out = weft("eval", "--task", "bleu", "--hyp", hyp, "--ref", one, "--ref", two)
        self.assertIn("nrefs:2|case:mixed", out)
        self.assertIn("3 rows of", out)
        rows = self.rows({"hypothesis": h, "references": r} for h, r in (
            ("the cat sat on the mat", ["the cat sat on a mat", "a cat sat on the mat"]),
            ("", ["", "z"]), ("x y", ["x y", "x"])))
        want = json.loads(weft("eval", "--task", "rouge", "-f", rows, "--json"))
        got = json.loads(weft("eval", "--task", "rouge", "--hyp", hyp, "--ref", one, "--ref", two,
                              "--json"))
        for key in ("items", "rouge1", "rouge2", "rougeL", "rougeLsum", "rougeL_stderr"):
            self.assertEqual(got[key], want[key])

    def test_jackknife(self):
        rows = [{"hypothesis": h, "reference": r} for h, r in (
            ("the cat sat on the mat today", "the cat sat on the mat"),
            ("a dog ran over the hill and far", "a dog ran over the hills and far away"),
            ("it was dark and cold in the house", "it was a dark and cold house"))]
        whole, _ = self.eval("--task", "bleu", "-f", self.rows(rows))
        without = [self.eval("--task", "bleu", "-f", self.rows(rows[:i] + rows[i + 1 :]))[0]
                   for i in range(3)]
        for key in ("bleu", "chrf"):
            x = [w[key] for w in without]
            mean = sum(x) / 3
            want = math.sqrt(2 / 3 * sum((v - mean) ** 2 for v in x))
            self.assertAlmostEqual(whole[key + "_stderr"], want)

    def test_a_model_writes_the_hypotheses(self):
        text = json.loads(weft("run", DEMO, "-p", "It was a dark", "-n", 12, "--temp", 0, "--json"))
        row = {"prompt": "It was a dark", "reference": text["text"].strip()}
        path = self.rows([row, {"hypothesis": "x", "reference": "x"}])
        out, rows = self.eval(DEMO, "--task", "rouge", "-f", path, "-n", 12)
        self.assertEqual(rows[0]["hypothesis"], row["reference"])
        self.assertEqual(out["rougeL"], 1)


class Refusals(Case):
    """One line, the right code, and where in the file it was."""

    def refuse(self, code, message, *args):
        weft("eval", *args, code=code)
        self.assertIn(message, weft.err)

    def test_arguments(self):
        rows = self.rows(DOCS["piqa"][1])
        tasks = "hellaswag|arc_easy|arc_challenge|piqa|boolq|winogrande|lambada|perplexity|bleu"
        text = self.put("text", "It was a dark night.")
        for message, args in (
            (f'--task: "piqua" is not a choice; one of {tasks}', ["--task", "piqua", "-f", rows]),
            (f"--task: missing; one of {tasks}", ["-f", rows]),
            ("--file: missing", ["--task", "piqa"]),
            ("--limit: 0 is out of range", ["--task", "piqa", "-f", rows, "--limit", 0]),
            ("--batch: 0 is out of range", ["--task", "piqa", "-f", rows, "--batch", 0]),
            ("--window: 2000 is not in 2..1024",
             ["--task", "perplexity", "-f", text, "--window", 2000]),
            ("--stride: 8 leaves no context (1 to 7)",
             ["--task", "perplexity", "-f", text, "--window", 8, "--stride", 8]),
            ("give --file, or --hyp and --ref", ["--task", "bleu", "--hyp", text]),
            ("give --file, or --hyp and --ref",
             ["--task", "bleu", "-f", rows, "--hyp", text, "--ref", text]),
            ("leave MODEL out", ["--task", "bleu", "--hyp", text, "--ref", text]),
            ("does not fit the context (4)", ["--task", "piqa", "-f", rows, "-c", 4])):
            with self.subTest(message=message):
                self.refuse(2, message, DEMO, *args)
        self.refuse(2, "MODEL: missing; --task piqa needs one", "--task", "piqa", "-f", rows)
        self.refuse(5, "samples", DEMO, "--task", "piqa", "-f", rows, "--samples",
                    "/nonexistent/samples")

    def test_rows(self):
        q = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}
        arc_row = {"question": "q", "answerKey": "B", "choices": {"text": ["a"], "label": ["A"]}}
        wino = {"sentence": "a b", "option1": "x", "option2": "y", "answer": "1"}
        swag = {"ctx": "a", "activity_label": "b", "label": 0, "endings": ["x", "y"]}
        for task, bad, message in (
            ("piqa", {**q, "label": 2}, '"label" is out of range (0 to 1)'),
            ("piqa", {**q, "label": -1}, '"label" is -1, not a whole number'),
            ("piqa", {**q, "label": "x"}, '"label" is x, not a whole number'),
            ("piqa", {**q, "goal": 7}, '"goal" is not a string'),
            ("piqa", {"goal": "g"}, 'has no "sol1"'),
            ("arc_easy", arc_row, '"answerKey" is none of the 1 labels'),
            ("arc_easy", {**arc_row, "choices": ["a"]}, 'has no object "choices"'),
            ("boolq", {"passage": "x"}, 'has no "question"'),
            ("winogrande", wino, '"sentence" has no "_"'),
            ("winogrande", {**wino, "sentence": "_", "answer": "3"}, 'neither "1" nor "2"'),
            ("lambada", {"text": "word"}, '"text" is a single word'),
            ("lambada", {"context": "a"}, 'has no "continuation"'),
            ("hellaswag", {**swag, "endings": []}, '"endings" is empty'),
            ("hellaswag", {**swag, "endings": ["a", 1]}, '"endings" is not an array of strings'),
            ("hellaswag", {**swag, "endings": ["a"] * 65}, "more than 64 strings"),
            ("hellaswag", {**swag, "label": 9}, '"label" is out of range (0 to 1)'),
            ("perplexity", {"txt": "a"}, 'has no "text"'),
            ("bleu", {"reference": "a"}, 'has no "hypothesis"'),
            ("bleu", {"hypothesis": "a"}, 'has no "reference"'),
            ("rouge", {"hypothesis": "a", "references": []}, '"references" is empty'),
            ("rouge", {"prompt": "a", "reference": "b"}, "give MODEL to write it")):
            with self.subTest(task=task, bad=bad):
                path = self.put("bad.jsonl", "\n" + json.dumps(bad) + "\n")
                model = [] if task in ("bleu", "rouge") else [DEMO]
                self.refuse(3, "bad.jsonl:2: ", *model, "--task", task, "-f", path)
                self.assertIn(message, weft.err)

    def test_files(self):
        good = json.dumps(DOCS["piqa"][1][0])
        for content, message in ((b"", "is empty"), (b" \n\n", "is empty"),
                                 (b"hello\n", "bad.jsonl:1:1: "),
                                 (good.encode() + b"\n[1]\n", "bad.jsonl:2:1: "),
                                 (good.encode()[:-1], "bad.jsonl:1:"),
                                 (b'{"goal":"\xff"}\n', "bad.jsonl:1: not UTF-8")):
            with self.subTest(content=content):
                self.refuse(3, message, DEMO, "--task", "piqa", "-f",
                            self.put("bad.jsonl", content))
        six = "a man\n3\nx\ny\nz\n"
        self.refuse(3, "ends in the middle of an item", DEMO, "--task", "hellaswag", "-f",
                    self.put("six.txt", six))
        self.refuse(3, "six.txt:2: not a label", DEMO, "--task", "hellaswag", "-f",
                    self.put("six.txt", "a man\n7\nx\ny\nz\nw\n"))
        self.refuse(3, "/nonexistent: no such file", DEMO, "--task", "piqa", "-f", "/nonexistent")
        self.refuse(3, "too short to score", DEMO, "--task", "perplexity", "--bos", "no", "-f",
                    self.put("t", "a"))
        hyp, ref = self.put("hyp", "a\nb\n"), self.put("ref", "a\n")
        self.refuse(3, "ref: has 1 lines", "--task", "bleu", "--hyp", hyp, "--ref", ref)
        self.refuse(3, "hyp: has 2 lines", "--task", "bleu", "--hyp", hyp, "--ref",
                    self.put("ref", "a\nb\nc\n"))
        with open(os.path.join(DEMO, "config.json"), encoding="utf-8") as f:
            self.put("config.json", f.read())
        self.refuse(3, "tokenizer", self.dir, "--task", "piqa", "-f",
                    self.rows(DOCS["piqa"][1]))


if __name__ == "__main__":
    unittest.main()
