# SPDX-License-Identifier: Apache-2.0
"""Whole models against the float64 oracles of the fixtures (golden/README.md there says how they
were made): logits, greedy continuations, perplexity; and the promise that neither ranks, threads,
chunks nor the form of config.json change a bit."""

import array
import json
import math
import os
import re
import shutil
import struct
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")), "weft")
FIXTURES = os.environ.get(
    "WEFT_FIXTURES", os.path.join(os.path.dirname(ROOT), "shared", "fixtures")
)
GOLDEN = os.path.join(FIXTURES, "golden", "models")
STORIES = os.path.join(FIXTURES, "models", "tinystories-656k")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
# max |error| over max |logit|: the project's promise in fp32, docs/NUMERICS.md's bound in 16 bits.
FP32 = {"ref": 2e-5, "cpu": 1e-4}
ROUNDOFF = {"bf16": 2**-8, "fp16": 2**-11}


def narrow_bound(dtype, layers):
    return 4 * ROUNDOFF[dtype] * math.sqrt(12 * layers) + 1e-4


def joined(ids):
    return ",".join(map(str, ids))


def run(*args):
    return subprocess.run([WEFT, *args], capture_output=True, text=True, timeout=300)


def weft(*args):
    r = run(*args)
    if r.returncode:
        raise AssertionError(f"weft {' '.join(args)}: exit {r.returncode}: {r.stderr}")
    return r.stdout


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_tensors(path):
    """{name: (shape, array of float)} of the F32 tensors of a file."""
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack_from("<Q", raw)
    out = {}
    for name, t in json.loads(raw[8 : 8 + n]).items():
        if name != "__metadata__" and t["dtype"] == "F32":
            a = array.array("f")
            a.frombytes(raw[8 + n + t["data_offsets"][0] : 8 + n + t["data_offsets"][1]])
            out[name] = (t["shape"], a)
    return out


def write_tensors(path, tensors):
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = array.array("f", values).tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def golden_models():
    if not os.path.isdir(GOLDEN):
        return []
    names = sorted(
        n for n in os.listdir(GOLDEN) if os.path.exists(os.path.join(GOLDEN, n, "golden.json"))
    )
    kinds = {n: read_json(os.path.join(GOLDEN, n, "config.json")) for n in names}
    return [
        n
        for n in names
        if kinds[n]["model_type"] in FAMILIES
        and not kinds[n]["architectures"][0].endswith("SequenceClassification")
    ]


def leaves(k):
    return next(n for n in (8, 4, 2, 1) if n == 1 or (k % n == 0 and k // n >= 16))


def tp_fits(config, tp):
    heads = config.get("num_attention_heads", config.get("n_head"))
    width = config.get("hidden_size", config.get("n_embd"))
    head_dim = config.get("head_dim") or width // heads
    d_ff = config.get("intermediate_size") or config.get("n_inner") or 4 * width
    return all(n % tp == 0 for n in (heads, leaves(heads * head_dim), leaves(d_ff)))


def slice_size(config, tp, rank):
    """Parameters rank holds of a Llama-like model without biases, from the published layout."""
    d, heads, kv = (
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
    )
    hd = config.get("head_dim") or d // heads
    mine = heads // tp
    kv_mine = len({h * kv // heads for h in range(rank * mine, (rank + 1) * mine)})
    rows = -(-config["vocab_size"] // tp)
    rows = max(0, min(config["vocab_size"], (rank + 1) * rows) - rank * rows)
    layer = (
        2 * d + 2 * mine * hd * d + 2 * kv_mine * hd * d + 3 * d * config["intermediate_size"] // tp
    )
    layer += 2 * hd if config["model_type"] == "qwen3" else 0
    return (
        config["num_hidden_layers"] * layer
        + d
        + rows * d * (1 if config["tie_word_embeddings"] else 2)
    )


@unittest.skipUnless(os.path.isdir(GOLDEN), f"no fixtures in {FIXTURES}")
class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)

    def logits(self, model, ids, *args):
        path = os.path.join(self.dir, "logits.safetensors")
        weft("score", model, "--ids", joined(ids), "--logits", path, *args)
        tensors = read_tensors(path)
        os.remove(path)
        self.assertEqual(list(tensors), ["logits"])
        shape, values = tensors["logits"]
        self.assertEqual(shape[0], len(ids))
        return shape, values

    def assert_near(self, got, want, bound):
        self.assertEqual(got[0], want[0])
        top = max(map(abs, want[1]))
        worst = max(abs(a - b) for a, b in zip(got[1], want[1], strict=True))
        self.assertTrue(worst <= bound * top, f"{worst:.3g} > {bound:.3g} * {top:.3g}")

    def assert_same_bits(self, got, want):
        self.assertEqual(got[0], want[0])
        self.assertTrue(got[1].tobytes() == want[1].tobytes(), "the bits differ")

    def check_top20(self, model, oracle):
        shape, values = self.logits(
            model, oracle["top20_ids"], "--dtype", "fp32", "--device", "ref"
        )
        for row in oracle["top20"]:
            at = row["position"] * shape[1]
            line = values[at : at + shape[1]]
            for i, want in zip(row["ids"], row["logits"], strict=True):
                self.assertAlmostEqual(line[i], want, delta=2e-5 * abs(row["logits"][0]))
            order = sorted(range(shape[1]), key=lambda k: -line[k])[: len(row["ids"])]
            self.assertEqual(sorted(order), sorted(row["ids"]))

    def continuation(self, model, ids, n, *args):
        out = weft(
            "run",
            model,
            "--ids",
            joined(ids),
            "-n",
            str(n),
            "--temp",
            "0",
            "--ignore-eos",
            "--print-ids",
            *args,
        )
        self.assertEqual(out.count("\n"), 1)
        return list(map(int, re.split(r"[\s,]+", out.strip())))


def prompts_of(name):
    """[(ids, expected logits)] of a golden model."""
    golden = read_json(os.path.join(GOLDEN, name, "golden.json"))
    tensors = read_tensors(os.path.join(GOLDEN, name, "golden.safetensors"))
    if "prompts" in golden:
        return [(ids, tensors[f"p{i}.logits"]) for i, ids in enumerate(golden["prompts"])]
    shape, values = tensors["batch.logits"]
    step = shape[1] * shape[2]
    return [
        (ids, (shape[1:], values[i * step : (i + 1) * step]))
        for i, ids in enumerate(golden["batch"])
    ]


def every_model(test):
    """Runs test(self, name, folder) for each golden model, as a sub-test of its own."""

    def all_of_them(self):
        for name in golden_models():
            with self.subTest(model=name):
                test(self, name, os.path.join(GOLDEN, name))

    return all_of_them


class Models(Case):
    def test_the_families_are_all_there(self):
        kinds = {
            read_json(os.path.join(GOLDEN, n, "config.json"))["model_type"] for n in golden_models()
        }
        self.assertEqual(kinds, set(FAMILIES))

    @every_model
    def test_logits_fp32(self, name, model):
        for ids, want in prompts_of(name):
            for device, bound in FP32.items():
                got = self.logits(model, ids, "--device", device, "--dtype", "fp32")
                self.assert_near(got, want, bound)

    @every_model
    def test_logits_of_16_bits(self, name, model):
        ids, want = prompts_of(name)[-1]
        config = read_json(os.path.join(model, "config.json"))
        layers = config.get("num_hidden_layers", config.get("n_layer"))
        for dtype in ROUNDOFF:
            for device in FP32:
                self.assert_near(
                    self.logits(model, ids, "--device", device, "--dtype", dtype),
                    want,
                    narrow_bound(dtype, layers),
                )

    def test_stored_type_is_the_default(self):
        for name, dtype in (("llama-bf16", "bf16"), ("llama-fp16", "fp16"), ("llama-gqa", "fp32")):
            model = os.path.join(GOLDEN, name)
            if os.path.isdir(model):
                ids = prompts_of(name)[-1][0]
                self.assert_same_bits(
                    self.logits(model, ids), self.logits(model, ids, "--dtype", dtype)
                )

    @every_model
    def test_greedy_continuations(self, name, model):
        greedy = read_json(os.path.join(model, "golden.json")).get("greedy")
        for device in FP32 if greedy else ():
            got = self.continuation(
                model, greedy["prompt"], len(greedy["ids"]), "--device", device, "--dtype", "fp32"
            )
            self.assertEqual(got, greedy["ids"])

    @every_model
    def test_config_of_transformers_4(self, name, model):
        if not os.path.exists(os.path.join(model, "config_v4.json")):
            return
        copy = os.path.join(self.dir, name)
        shutil.copytree(model, copy, ignore=shutil.ignore_patterns("golden*", "lora"))
        os.replace(os.path.join(copy, "config_v4.json"), os.path.join(copy, "config.json"))
        ids = prompts_of(name)[-1][0]
        self.assert_same_bits(self.logits(copy, ids), self.logits(model, ids))

    @every_model
    def test_every_tp_gives_the_same_bits_or_exits_2(self, name, model):
        config = read_json(os.path.join(model, "config.json"))
        ids = prompts_of(name)[-1][0]
        for dtype in ("fp32", "bf16"):
            want = self.logits(model, ids, "--dtype", dtype)
            for tp in range(2, 9):
                if tp_fits(config, tp):
                    self.assert_same_bits(
                        self.logits(model, ids, "--dtype", dtype, "--tp", str(tp)), want
                    )
                elif dtype == "fp32":
                    r = run("score", model, "--ids", joined(ids), "--tp", str(tp))
                    self.assertEqual((r.returncode, r.stdout), (2, ""))
                    self.assertRegex(r.stderr, r"\Aweft: error: --tp: .*\n\Z")

    def test_each_rank_holds_only_its_slices(self):
        for name in ("llama-tp8", "llama-gqa", "llama-sharded", "qwen3"):
            model = os.path.join(GOLDEN, name)
            config = read_json(os.path.join(model, "config.json"))
            for tp in (1, 2, 4, 8):
                if tp_fits(config, tp):
                    with self.subTest(model=name, tp=tp):
                        plan = json.loads(
                            weft("plan", model, "--tp", str(tp), "--dtype", "fp32", "--json")
                        )
                        self.assertEqual(
                            [r["weights_bytes"] for r in plan["ranks"]],
                            [4 * slice_size(config, tp, r) for r in range(tp)],
                        )

    def test_tp_on_the_reference(self):
        model = os.path.join(GOLDEN, "llama-tp8")
        ids = prompts_of("llama-tp8")[-1][0]
        want = self.logits(model, ids, "--device", "ref")
        for tp in ("2", "4", "8"):
            self.assert_same_bits(self.logits(model, ids, "--device", "ref", "--tp", tp), want)

    @every_model
    def test_chunks_and_threads_change_no_bit(self, name, model):
        ids = prompts_of(name)[-1][0]
        for device in FP32:
            want = self.logits(model, ids, "--device", device)
            for chunk in (1, 7, 16, 64):
                self.assert_same_bits(
                    self.logits(model, ids, "--device", device, "-ub", str(chunk)), want
                )
        for threads in (1, 2, 3):
            self.assert_same_bits(self.logits(model, ids, "--threads", str(threads)), want)

    @every_model
    def test_instruction_levels_change_no_bit(self, name, model):
        ids = prompts_of(name)[-1][0]
        want = self.logits(model, ids, "--dtype", "fp32", "--cpu-level", "portable")
        for level in ("avx2", "avx512"):
            r = run("score", model, "--ids", joined(ids), "--cpu-level", level)
            if r.returncode == 0:  # the machine has it
                self.assert_same_bits(
                    self.logits(model, ids, "--dtype", "fp32", "--cpu-level", level), want
                )

    @every_model
    def test_no_mmap_changes_no_bit(self, name, model):
        ids = prompts_of(name)[-1][0]
        self.assert_same_bits(self.logits(model, ids, "--no-mmap"), self.logits(model, ids))


def window_nll(logprobs, first):
    return -sum(logprobs[first:])


@unittest.skipUnless(os.path.isdir(STORIES), f"no tinystories-656k in {FIXTURES}")
class TinyStories(Case):
    @classmethod
    def setUpClass(cls):
        cls.eval = read_json(os.path.join(FIXTURES, "golden", "eval.json"))["models"][
            "tinystories-656k"
        ]

    def score(self, ids, *args):
        out = json.loads(
            weft("score", STORIES, "--ids", joined(ids), "--json", "--dtype", "fp32", *args)
        )
        self.assertEqual(out["tokens"] if isinstance(out["tokens"], list) else ids, ids)
        logprobs = out["logprobs"]
        return [0.0] * (len(ids) - len(logprobs)) + [x or 0.0 for x in logprobs]

    def tokens(self, row):
        with open(os.path.join(FIXTURES, row["file"]), "rb") as f:
            text = f.read()[row["byte_from"] : row["byte_to"]].decode("utf-8", "ignore")
        r = subprocess.run(
            [WEFT, "tokenize", STORIES, "--jsonl"],
            input=json.dumps(text) + "\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(r.stdout)

    def windows(self, row, ids):
        """(nll, tokens scored) of separate windows, each behind its own BOS."""
        size, nll, n = row["window"] - 1, 0.0, 0
        for at in range(0, len(ids), size):
            part = [self.eval["bos"]] + ids[at : at + size]
            nll += window_nll(self.score(part), 1)
            n += len(part) - 1
        return nll, n

    def sliding(self, row, ids):
        """(nll, tokens scored) of overlapping windows; a token counts in the first that has it."""
        nll, n, done = 0.0, 0, 1
        for at in range(0, len(ids), row["stride"]):
            end = min(at + row["window"], len(ids))
            nll += window_nll(self.score(ids[at:end]), done - at)
            n += end - done
            done = end
            if end == len(ids):
                break
        return nll, n

    def test_perplexity(self):
        for row in self.eval["perplexity"]:
            with self.subTest(file=row["file"], method=row["method"]):
                ids = self.tokens(row)
                self.assertEqual(ids[:12], row["first_ids"])
                self.assertEqual(len(ids), row["tokens"])
                nll, n = getattr(self, row["method"])(row, ids)
                self.assertEqual(n, row["tokens_scored"])
                self.assertAlmostEqual(math.exp(nll / n) / row["perplexity"], 1, delta=1e-4)

    def test_greedy_text(self):
        for row in self.eval["greedy"]:
            for device in FP32:
                with self.subTest(prompt=row["prompt"], device=device):
                    args = ("--device", device, "--dtype", "fp32")
                    self.assertEqual(
                        self.continuation(STORIES, row["prompt_ids"], len(row["ids"]), *args),
                        row["ids"],
                    )
            out = json.loads(
                weft(
                    "run",
                    STORIES,
                    "-p",
                    row["prompt"],
                    "-n",
                    str(len(row["ids"])),
                    "--temp",
                    "0",
                    "--ignore-eos",
                    "--dtype",
                    "fp32",
                    "--json",
                )
            )
            self.assertEqual((out["prompt_ids"], out["ids"]), (row["prompt_ids"], row["ids"]))
            # the oracle decoded the new ids alone, where a leading space is dropped
            self.assertEqual(out["text"].removeprefix(" "), row["text"].removeprefix(" "))

    def test_top_logits(self):
        self.check_top20(STORIES, self.eval)


class Stories260k(Case):
    """llama2.c's own checkpoint: the same arithmetic in another file format, so it is rewritten
    here as a Hugging Face folder (its rotary pairs are interleaved; ours are half-split)."""

    def half_split(self, rows, heads, head_dim, width):
        out = []
        for h in range(heads):
            for half in range(2):
                for i in range(head_dim // 2):
                    out += rows[(h * head_dim + 2 * i + half) * width :][:width]
        return out

    def folder(self):
        path = os.path.join(FIXTURES, "models", "stories260k", "stories260K.bin")
        if not os.path.exists(path):
            self.skipTest(f"{path} is missing")
        with open(path, "rb") as f:
            raw = f.read()
        dim, ff, layers, heads, kv, vocab, ctx = struct.unpack_from("<7i", raw)
        data, at = array.array("f", raw[28:]), 0
        hd, tensors = dim // heads, {}

        def take(n):
            nonlocal at
            at += n
            return list(data[at - n : at])

        def per_layer(tail, shape):
            for i in range(layers):
                tensors[f"model.layers.{i}.{tail}.weight"] = (shape, take(math.prod(shape)))

        tensors["model.embed_tokens.weight"] = ([vocab, dim], take(vocab * dim))
        per_layer("input_layernorm", [dim])
        per_layer("self_attn.q_proj", [dim, dim])
        per_layer("self_attn.k_proj", [kv * hd, dim])
        per_layer("self_attn.v_proj", [kv * hd, dim])
        per_layer("self_attn.o_proj", [dim, dim])
        per_layer("post_attention_layernorm", [dim])
        per_layer("mlp.gate_proj", [ff, dim])
        per_layer("mlp.down_proj", [dim, ff])
        per_layer("mlp.up_proj", [ff, dim])
        tensors["model.norm.weight"] = ([dim], take(dim))
        for name, (shape, rows) in tensors.items():
            if ".q_proj" in name or ".k_proj" in name:
                tensors[name] = (shape, self.half_split(rows, shape[0] // hd, hd, dim))
        write_tensors(os.path.join(self.dir, "model.safetensors"), tensors)
        with open(os.path.join(self.dir, "config.json"), "w", encoding="utf-8") as f:
            json.dump(
                {
                    "model_type": "llama",
                    "hidden_size": dim,
                    "intermediate_size": ff,
                    "num_hidden_layers": layers,
                    "num_attention_heads": heads,
                    "num_key_value_heads": kv,
                    "vocab_size": abs(vocab),
                    "rms_norm_eps": 1e-5,
                    "max_position_embeddings": ctx,
                    "tie_word_embeddings": True,
                },
                f,
            )
        return self.dir

    def test_greedy_and_top_logits(self):
        folder = self.folder()
        oracle = read_json(os.path.join(FIXTURES, "golden", "eval.json"))["models"]["stories260k"]
        self.check_top20(folder, oracle)
        for row in oracle["greedy"]:
            for device in FP32:
                with self.subTest(prompt=row["prompt"], device=device):
                    self.assertEqual(
                        self.continuation(
                            folder, row["prompt_ids"], len(row["ids"]), "--device", device
                        ),
                        row["ids"],
                    )


if __name__ == "__main__":
    unittest.main()
