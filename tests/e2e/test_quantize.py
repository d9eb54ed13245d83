# SPDX-License-Identifier: Apache-2.0
"""`weft quantize` and the folders it writes: the numbers against a slow quantiser of its own,
logits within NUMERICS.md's bound of the float64 oracles, one arithmetic over ranks, chunks, threads
and levels, the same bits as quantising at open, the perplexity it reports, and how it fails."""

import array
import json
import math
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")), "weft")
FIXTURES = os.environ.get("WEFT_FIXTURES",
                          os.path.join(os.path.dirname(ROOT), "shared", "fixtures"))
GOLDEN = os.path.join(FIXTURES, "golden", "models")
DEMO = os.path.join(ROOT, "bench", "models", "demo")
FAMILIES = ("llama-gqa", "llama-bf16", "llama-sharded", "llama-bias", "mistral-swa", "qwen2",
            "qwen3", "gpt2")
ACTS = ("float", "int8")


def run(*args, **kw):
    return subprocess.run([WEFT, *map(str, args)], capture_output=True, text=True, timeout=240,
                          **kw)


def weft(*args, **kw):
    r = run(*args, **kw)
    if r.returncode:
        raise AssertionError(f"weft {args}: exit {r.returncode}: {r.stderr}")
    return r.stdout


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def read(path):
    with open(path, "rb") as f:
        return f.read()


def read_json(*path):
    return json.loads(read(os.path.join(*path)))


def tensors(path):
    """{name: (dtype, shape, bytes)} of one file."""
    raw = read(path)
    (n,) = struct.unpack_from("<Q", raw)
    out = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            out[name] = (t["dtype"], t["shape"], raw[8 + n + a:8 + n + b])
    return out


def floats(raw):
    a = array.array("f")
    a.frombytes(raw)
    return a


def slow_quantize(rows):
    """Scales and numbers of rows of floats, as NUMERICS.md says."""
    scales, q = [], []
    for row in rows:
        s = f32(max(map(abs, row)) / 127)
        scales.append(s)
        q.append([max(-127, min(127, round(f32(x / s)))) if s > 0 else 0 for x in row])
    return scales, q


def bound(layers, act):
    """docs/NUMERICS.md: steps of int8 that errors of a layer's four matmuls add like a walk."""
    weights = 4 / (127 * math.sqrt(12))
    activations = 6 / (127 * math.sqrt(12)) if act == "int8" else 0
    return 4 * math.hypot(weights, activations) * math.sqrt(4 * layers)


def flips(layers, width, act):
    """docs/NUMERICS.md: what fp32 rounding turns into where it meets int8's."""
    step = 6 / 127 if act == "int8" else 0
    differ = 2**-24 * math.sqrt((12 + 4 * width / 2) * layers)
    return 1e-4 + 4 * math.sqrt(differ * step) * math.sqrt(4 * layers)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)
        self.out = os.path.join(self.dir, "out")

    def logits(self, model, ids, *args):
        path = os.path.join(self.dir, "logits")
        weft("score", model, "--ids", ",".join(map(str, ids)), "--logits", path, *args)
        return tensors(path)["logits"][2]

    def fails(self, code, pattern, *args, **kw):
        r = run("quantize", *args, **kw)
        self.assertEqual(r.returncode, code, r.stderr)
        self.assertRegex(r.stderr, rf"\Aweft: error: [^\n]*{pattern}[^\n]*\n\Z")
        self.assertEqual(r.stdout, "")


@unittest.skipUnless(os.path.isdir(GOLDEN), f"no fixtures in {FIXTURES}")
class Models(Case):
    def oracle(self, name):
        golden = read_json(GOLDEN, name, "golden.json")
        want = tensors(os.path.join(GOLDEN, name, "golden.safetensors"))
        last = len(golden["prompts"]) - 1
        return golden["prompts"][last], floats(want[f"p{last}.logits"][2])

    def each(self):
        """(name, folder, act, layers) with self.out quantised."""
        for name in FAMILIES:
            model = os.path.join(GOLDEN, name)
            config = read_json(model, "config.json")
            for act in ACTS:
                shutil.rmtree(self.out, ignore_errors=True)
                weft("quantize", model, "-o", self.out, "--act", act)
                yield name, model, act, config.get("num_hidden_layers", config.get("n_layer"))

    def ranks(self, name):
        two = run("plan", os.path.join(GOLDEN, name), "--tp", 2)
        return (1, 2) if two.returncode == 0 else (1,)

    def test_numbers_are_those_of_a_slow_quantiser(self):
        model = os.path.join(GOLDEN, "llama-gqa")
        weft("quantize", model, "-o", self.out)
        old = tensors(os.path.join(model, "model.safetensors"))
        new = tensors(os.path.join(self.out, "model.safetensors"))
        matrices = [n for n in old if n.endswith("_proj.weight")]
        self.assertEqual(len(matrices), 21)
        for name, (dtype, shape, raw) in old.items():
            if name not in matrices:
                self.assertEqual(new.pop(name), (dtype, shape, raw))
                continue
            values = floats(raw)
            scales, q = slow_quantize(
                [values[i * shape[1]:(i + 1) * shape[1]] for i in range(shape[0])])
            self.assertEqual(new.pop(name),
                             ("I8", shape, array.array("b", sum(q, [])).tobytes()))
            self.assertEqual(new.pop(name + "_scale"),
                             ("F32", [shape[0], 1], array.array("f", scales).tobytes()))
        self.assertEqual(new, {})

    def test_logits_stay_within_the_bound(self):
        for name, _, act, layers in self.each():
            ids, want = self.oracle(name)
            top = max(map(abs, want))
            for device in ("cpu", "ref"):
                got = floats(self.logits(self.out, ids, "--device", device))
                worst = max(abs(a - b) for a, b in zip(got, want, strict=True))
                self.assertLessEqual(worst / top, bound(layers, act), (name, act, device))
                self.assertGreater(worst / top, 1e-4)  # the matrices are int8 indeed

    def test_quantising_at_open_has_the_bits_of_the_file(self):
        for name, model, act, _ in self.each():
            if act == "float":
                ids, _ = self.oracle(name)
                for tp in self.ranks(name):
                    self.assertTrue(self.logits(model, ids, "--dtype", "int8", "--tp", tp) ==
                                    self.logits(self.out, ids, "--tp", tp), (name, tp))

    def test_one_arithmetic(self):
        for name, _, act, _ in self.each():
            ids, _ = self.oracle(name)
            for base, more in (
                ((), (("--tp", self.ranks(name)[-1]), ("-ub", "1"), ("-ub", "7"), ("-t", "3"),
                      ("--no-mmap",))),
                # The head stays bf16: the levels of one class, which pair products are not in.
                (("--cpu-level", "portable"), (("--cpu-level", "avx2"),)),
            ):
                want = self.logits(self.out, ids, *base)
                for args in more:
                    self.assertTrue(want == self.logits(self.out, ids, *args), (name, act, args))

    def test_ranks_of_a_model_with_eight_heads(self):
        model = os.path.join(GOLDEN, "llama-tp8")
        for act in ACTS:
            weft("quantize", model, "-o", self.out, "--act", act, "--force")
            ids, _ = self.oracle("llama-tp8")
            for device in ("cpu", "ref"):
                want = self.logits(self.out, ids, "--device", device)
                for tp in (2, 4, 8):
                    self.assertTrue(
                        want == self.logits(self.out, ids, "--device", device, "--tp", tp))

    def test_on_the_emulated_gpu(self):
        model = os.path.join(GOLDEN, "llama-tp8")
        ids, oracle = self.oracle("llama-tp8")
        config = read_json(model, "config.json")
        layers, want = config["num_hidden_layers"], oracle[:5 * config["vocab_size"]]
        top = max(map(abs, want))
        for act in ACTS:
            weft("quantize", model, "-o", self.out, "--act", act, "--force")
            for dtype, u in (("fp32", 2**-24), ("bf16", 2**-8), ("fp16", 2**-11)):
                args = ("--dtype", dtype, "--device", "emu")
                got = self.logits(self.out, ids[:5], *args)
                for more in (("--tp", "4"), ("-ub", "2")) if dtype == "bf16" else ():
                    self.assertTrue(got == self.logits(self.out, ids[:5], *args, *more), more)
                most = bound(layers, act) + 4 * u * math.sqrt(12 * layers)
                worst = max(abs(a - b) for a, b in zip(floats(got), want, strict=True))
                self.assertLessEqual(worst, most * top, (act, dtype))

    def test_backends_differ_by_a_few_steps_at_most(self):
        model = os.path.join(GOLDEN, "llama-tp8")
        config = read_json(model, "config.json")
        layers, width = config["num_hidden_layers"], config["hidden_size"]
        ids = self.oracle("llama-tp8")[0][:5]
        for act in ACTS:
            weft("quantize", model, "-o", self.out, "--act", act, "--force")
            near = floats(self.logits(self.out, ids, "--device", "ref"))
            for device in ("cpu", "emu"):
                got = floats(self.logits(self.out, ids, "--device", device))
                worst = max(abs(a - b) for a, b in zip(got, near, strict=True))
                top = max(map(abs, near))
                self.assertLessEqual(worst, flips(layers, width, act) * top, (act, device))

    def test_shards_and_their_index(self):
        model = os.path.join(GOLDEN, "llama-sharded")
        weft("quantize", model, "-o", self.out)
        index = read_json(self.out, "model.safetensors.index.json")
        there = {}
        for file in set(index["weight_map"].values()):
            for name, (_, _, raw) in tensors(os.path.join(self.out, file)).items():
                there[name] = (file, len(raw))
        self.assertEqual({n: f for n, (f, _) in there.items()}, index["weight_map"])
        self.assertEqual(sum(n for _, n in there.values()), index["metadata"]["total_size"])

    def test_weights_that_are_not_finite(self):
        model = os.path.join(self.dir, "model")
        shutil.copytree(os.path.join(GOLDEN, "llama-gqa"), model)
        path = os.path.join(model, "model.safetensors")
        raw = bytearray(read(path))
        (n,) = struct.unpack_from("<Q", raw)
        name = "model.layers.1.mlp.up_proj.weight"
        at = json.loads(raw[8:8 + n])[name]["data_offsets"][0]
        struct.pack_into("<f", raw, 8 + n + at + 4 * 128 * 5, math.nan)
        with open(path, "wb") as f:
            f.write(raw)
        self.fails(3, re.escape(f'"{name}" holds a NaN or an infinity (output 5)'), model, "-o",
                   self.out)
        self.assertFalse(os.path.exists(self.out))

    def test_a_file_that_is_not_what_its_config_says(self):
        weft("quantize", os.path.join(GOLDEN, "llama-gqa"), "-o", self.out)
        shutil.copy(os.path.join(GOLDEN, "llama-gqa", "model.safetensors"), self.out)
        r = run("score", self.out, "--ids", "1,2")
        self.assertEqual(r.returncode, 3)
        self.assertIn("says I8", r.stderr)


class Demo(Case):
    TEXT = "It was a dark night and the girl went home. " * 40

    def text(self):
        path = os.path.join(self.dir, "text")
        with open(path, "w", encoding="utf-8") as f:
            f.write(self.TEXT)
        return path

    def test_it_is_an_ordinary_folder(self):
        out = weft("quantize", DEMO, "-o", self.out)
        self.assertRegex(out, r"^\d+ matrices to int8: ")
        for name in os.listdir(DEMO):
            if name.startswith("tokenizer") or name == "generation_config.json":
                self.assertEqual(read(os.path.join(DEMO, name)),
                                 read(os.path.join(self.out, name)))
        old = read_json(DEMO, "config.json")
        new = read_json(self.out, "config.json")
        quant = new.pop("quantization_config")
        self.assertEqual(new, old)
        self.assertEqual((quant["quant_method"], quant["format"]),
                         ("compressed-tensors", "int-quantized"))
        self.assertTrue(weft("run", self.out, "-p", "It was", "-n", "8", "--seed", "1"))
        self.assertIn("int8 weights:", weft("plan", self.out))
        self.assertEqual(os.listdir(self.dir), ["out"])

    def test_the_plan_counts_a_byte_a_weight(self):
        plans = [json.loads(weft("plan", DEMO, "--json", "--dtype", d))["ranks"][0]
                 for d in ("fp32", "int8")]
        weft("quantize", DEMO, "-o", self.out)
        size = sum(len(t[2]) for t in tensors(
            os.path.join(self.out, "model.safetensors")).values())
        self.assertLess(plans[1]["weights_bytes"], plans[0]["weights_bytes"])
        plan = json.loads(weft("plan", self.out, "--json"))
        self.assertEqual((plan["ranks"][0]["weights_bytes"], plan["weights"]), (size, "int8"))

    def test_perplexity_before_and_after(self):
        for act in ACTS:
            got = json.loads(weft("quantize", DEMO, "-o", self.out, "--force", "--act", act,
                                  "--eval", self.text(), "-c", "128", "--json"))
            for model, key in ((DEMO, "nll_from"), (self.out, "nll_to")):
                want = json.loads(weft("score", model, "-f", self.text(), "-c", "128", "--stride",
                                       "64", "--json"))
                self.assertEqual(got["eval"][key], want["nll"])
            self.assertNotEqual(got["eval"]["nll_to"], got["eval"]["nll_from"])
            self.assertLess(abs(got["eval"]["nll_to"] / got["eval"]["nll_from"] - 1), 0.02)
            self.assertAlmostEqual(got["eval"]["ppl_to"], math.exp(got["eval"]["nll_to"]))
        self.assertIn("perplexity of ", weft("quantize", DEMO, "-o", self.out + "2", "--eval",
                                             self.text(), "-c", "128"))

    def test_bad_arguments(self):
        self.fails(2, "--output: is missing", DEMO)
        self.fails(2, "is the model itself", DEMO, "-o", DEMO + "/.")
        self.fails(2, "--dtype", DEMO, "-o", self.out, "--dtype", "int3")
        self.fails(3, "no such folder", os.path.join(self.dir, "none"), "-o", self.out)
        self.fails(5, "cannot create", DEMO, "-o", os.path.join(self.dir, "a", "b"))
        self.fails(3, "", DEMO, "-o", self.out, "--eval", os.path.join(self.dir, "none"))
        self.assertFalse(os.path.exists(self.out))

    def test_what_is_there_stays_without_force(self):
        os.mkdir(self.out)
        keep = os.path.join(self.out, "notes")
        open(keep, "w", encoding="utf-8").close()
        self.fails(2, "exists; --force", DEMO, "-o", self.out)
        self.assertEqual(os.listdir(self.out), ["notes"])
        weft("quantize", DEMO, "-o", self.out, "--force")
        self.assertTrue(os.path.exists(keep))
        self.fails(2, "is int8 already", self.out, "-o", self.out + "2")

    def test_a_full_disk_leaves_nothing(self):
        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))

        self.fails(5, "model.safetensors: cannot write", DEMO, "-o", self.out,
                   preexec_fn=small_files)
        self.assertEqual(os.listdir(self.dir), [])


if __name__ == "__main__":
    unittest.main()
