#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`weft plan` as EXPLAIN. Its text for four shapes is golden (tests/golden/plan/*/plan*.txt; run
this with --update after a change that is meant), and its bytes are checked against the formulas
that the shapes themselves give. Nothing here reads a weight."""

import difflib
import json
import os
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")))
GOLDEN = os.path.join(ROOT, "tests", "golden", "plan")
CASES = [("llama", 1), ("llama", 8), ("mistral", 1), ("mistral", 2), ("qwen3", 1), ("gpt2", 1),
         ("gpt2", 4)]
PIPELINES = [("llama", 1, 2), ("llama", 4, 2), ("gpt2", 4, 2)]  # tp, pp
REPLICAS = [("llama", 4, 2, 2)]  # tp, pp, dp
# What a row of slices is sampled by: 64 tokens of 16 bytes and three numbers, then three sums.
SAMPLED = 64 * 16 + 3 * 8 + 3 * 8
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def plan(model, tp, *more):
    argv = [os.path.join(BUILD, "weft"), "plan", os.path.join(GOLDEN, model), "--tp", str(tp),
            "--cpu-level", "avx512", "-c", "1024", *more]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def golden_path(model, tp, pp=1, dp=1):
    mesh = "".join(f"-{name}{n}" for name, n in (("tp", tp), ("pp", pp), ("dp", dp)) if n > 1)
    return os.path.join(GOLDEN, model, f"plan{mesh}.txt")


def texts():
    """Every golden text: its path, its name, and what the plan is now."""
    for model, tp in CASES:
        yield golden_path(model, tp), (model, tp), plan(model, tp)
    for model, tp, pp in PIPELINES:
        yield golden_path(model, tp, pp), (model, tp, pp), plan(model, tp, "--pp", str(pp))
    for model, tp, pp, dp in REPLICAS:
        yield (golden_path(model, tp, pp, dp), (model, tp, pp, dp),
               plan(model, tp, "--pp", str(pp), "--dp", str(dp), "--brief"))


def config(model):
    with open(os.path.join(GOLDEN, model, "config.json")) as f:
        return json.load(f)


def llama_like_bytes(c, tp, size):
    """Weights of one rank, from the architecture's definition."""
    h, ff, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    d = c.get("head_dim", h // heads)
    per_layer = 2 * h + (2 * d if c["model_type"] == "qwen3" else 0)
    per_layer += (2 * heads * d * h + 3 * ff * h) // tp + 2 * max(kv // tp, 1) * d * h
    tables = v * h // tp * (1 if c["tie_word_embeddings"] else 2)
    return size * (c["num_hidden_layers"] * per_layer + tables + h)


class Plan(unittest.TestCase):
    def test_text_is_golden(self):
        for path, name, got in texts():
            with self.subTest(name), open(path) as f:
                want = f.read()
                lines = difflib.unified_diff(want.splitlines(1), got.splitlines(1), "golden", "now")
                self.assertTrue(want == got, "\n" + "".join(list(lines)[:40]))

    def test_weights_follow_from_the_shape(self):
        for model, tp in CASES:
            if model == "gpt2":
                continue
            got = json.loads(plan(model, tp, "--json"))
            want = llama_like_bytes(config(model), tp, BYTES[got["dtype"]])
            for rank in got["ranks"]:
                self.assertEqual(rank["weights_bytes"], want, (model, tp, rank))

    def test_gpt2_weights(self):
        h, v, ctx, layers = 768, 50257, 1024, 2
        per_layer = 12 * h * h + 13 * h
        got = json.loads(plan("gpt2", 1, "--json"))["ranks"][0]["weights_bytes"]
        self.assertEqual(got, 4 * (layers * per_layer + (v + ctx) * h + 2 * h))

    def test_kv_and_sent_bytes(self):
        for model, tp in CASES:
            c, got = config(model), json.loads(plan(model, tp, "--json"))
            size = BYTES[got["dtype"]]
            layers = c.get("num_hidden_layers", c.get("n_layer"))
            heads = c.get("num_attention_heads", c.get("n_head"))
            h = c.get("hidden_size", c.get("n_embd"))
            d, kv = c.get("head_dim", h // heads), c.get("num_key_value_heads", heads)
            self.assertEqual(len(got["ranks"]), tp)
            for rank in got["ranks"]:
                self.assertEqual(rank["kv_bytes"], 2 * layers * 1024 * max(kv // tp, 1) * d * size)
                sent = (tp - 1) * (4 * (2 * layers * h + h) + SAMPLED)
                self.assertEqual(rank["sent_bytes_per_token"], sent if tp > 1 else 0)

    def test_stages_hold_every_layer_and_send_what_the_shape_says(self):
        for model, tp, pp in PIPELINES:
            c, got = config(model), json.loads(plan(model, tp, "--pp", str(pp), "--json"))
            size = BYTES[got["dtype"]]
            layers = c.get("num_hidden_layers", c.get("n_layer"))
            h = c.get("hidden_size", c.get("n_embd"))
            tied = c.get("tie_word_embeddings", True)
            ranks, held = got["ranks"], []
            for stage in range(pp):
                first, last = ranks[stage * tp]["layers"]
                held += range(first, last)
                sums = 2 * (last - first) * h + (h if stage == 0 else 0)
                sent = (tp - 1) * (4 * sums + (SAMPLED if stage == pp - 1 else 0))
                sent += h * size if stage < pp - 1 else 0
                for rank in ranks[stage * tp:stage * tp + tp]:
                    self.assertEqual((rank["stage"], rank["layers"]), (stage, [first, last]))
                    self.assertEqual(rank["sent_bytes_per_token"], sent, (model, tp, rank))
            self.assertEqual(held, list(range(layers)))
            one = json.loads(plan(model, tp, "--json"))["ranks"]
            again = sum(-(-c["vocab_size"] * h // tp) for _ in range(tp)) if tied else 0
            self.assertAlmostEqual(sum(r["weights_bytes"] for r in ranks),
                                   sum(r["weights_bytes"] for r in one) + size * again,
                                   delta=size * h * tp)

    def test_idle_follows_from_the_stages(self):
        ranks = json.loads(plan("llama", 1, "--pp", "2", "--json"))["ranks"]
        cost = [1 - r["idle_token"] for r in ranks]
        self.assertAlmostEqual(sum(cost), 1, places=3)  # one token is in one stage at a time

    def test_meshes_that_cannot_be(self):
        for more, words in ((["--pp", "65"], "--pp"), (["--pp", "9"], "9 stages, the model has"),
                            (["--tp", "3"], "--tp: 3 does not divide"),
                            (["--tp", "32", "--pp", "4"], "--tp times --pp")):
            argv = [os.path.join(BUILD, "weft"), "plan", os.path.join(GOLDEN, "llama"), *more]
            r = subprocess.run(argv, capture_output=True, text=True)
            self.assertEqual(r.returncode, 2, more)
            self.assertIn(words, r.stderr)

    def test_head_flops(self):
        steps = json.loads(plan("llama", 1, "--json"))["steps"]
        heads = [s for s in steps if s["tag"] == "head" and s["tokens"] == 1]
        self.assertEqual([s["flops"] for s in heads], [2 * 2048 * 128256])

    def test_training_flops(self):
        """Matmuls three times, attention's two products and the five of its backward, each query
        with the keys of its own row: whatever rows are computed at once."""
        with open(os.path.join(GOLDEN, "llama", "config.json"), encoding="utf-8") as f:
            c = json.load(f)
        h, d, heads, t = c["hidden_size"], c["head_dim"], c["num_attention_heads"], 2048
        matrices = h * (2 * heads * d + 2 * c["num_key_value_heads"] * d) + \
            3 * h * c["intermediate_size"]
        a_token = 6 * (c["num_hidden_layers"] * matrices + c["vocab_size"] * h) + \
            c["num_hidden_layers"] * 2 * heads * t * 7 * d
        for micro in (1, 4):
            argv = [os.path.join(BUILD, "weft"), "plan", "--train", "--from-scratch",
                    os.path.join(GOLDEN, "llama"), "--batch-size", "4", "--seq-len", str(t),
                    "--micro-batch", str(micro), "--json"]
            got = json.loads(subprocess.run(argv, capture_output=True, text=True,
                                            check=True).stdout)["flops_per_step"]
            self.assertGreater(got, 4 * t * a_token)
            self.assertLess(got, 4 * t * a_token * 1.01)  # norms, activations, sums


def update():
    for path, _, text in texts():
        with open(path, "w") as f:
            f.write(text)


if __name__ == "__main__":
    if "--update" in sys.argv:
        update()
    else:
        unittest.main()
