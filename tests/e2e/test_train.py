# SPDX-License-Identifier: Apache-2.0
"""`weft train` against the float64 oracles of the fixtures (golden/README.md there says how they
were made), and its promises: the same bits for any micro-batch, thread count, recomputation and
interruption, and what it writes is what every other command opens."""

import array
import glob
import hashlib
import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")), "weft")
FIXTURES = os.environ.get(
    "WEFT_FIXTURES", os.path.join(os.path.dirname(ROOT), "shared", "fixtures")
)
GOLDEN = os.path.join(FIXTURES, "golden", "models")
LONG = bool(os.environ.get("WEFT_LONG"))
TINY = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def run(*args, timeout=300, **kw):
    return subprocess.run([WEFT, *args], capture_output=True, text=True, timeout=timeout, **kw)


def weft(*args, **kw):
    r = run(*args, **kw)
    if r.returncode:
        raise AssertionError(f"weft {' '.join(args)}: exit {r.returncode}: {r.stderr}")
    return r.stdout


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def read_tensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack_from("<Q", raw)
    out = {}
    for name, t in json.loads(raw[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        a, b = t["data_offsets"]
        assert t["dtype"] == "F32", (name, t["dtype"])
        out[name] = array.array("f", raw[8 + n + a : 8 + n + b])
    return out


def length(v):
    return math.sqrt(math.fsum(x * x for x in v))


def write_rows(path, batches):
    with open(path, "w", encoding="utf-8") as f:
        for b in batches:
            for ids, labels in zip(b["input_ids"], b["labels"]):
                f.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")


def random_rows(path, n, seed, low=9, high=24, vocab=96):
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as f:
        for _ in range(n):
            ids = [rng.randrange(1, vocab) for _ in range(rng.randint(low, high))]
            f.write(json.dumps({"input_ids": ids}) + "\n")


def digest(folder):
    """Weights, optimizer state and log of a run: whatever must not depend on how it was run."""
    h = hashlib.sha256()
    last = sorted(glob.glob(os.path.join(folder, "checkpoints", "step-*")))[-1]
    for path in (
        os.path.join(folder, "model.safetensors"),
        os.path.join(last, "model.safetensors"),
        os.path.join(last, "optimizer.safetensors"),
        os.path.join(folder, "metrics.jsonl"),
    ):
        with open(path, "rb") as f:
            h.update(f.read())
    return h.hexdigest()


class Folder(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="weft-train-")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)


@unittest.skipUnless(os.path.isdir(GOLDEN), "fixtures/golden is not there")
class Golden(Folder):
    """Gradients of batch 0, and twenty steps of AdamW with clipping and a cosine."""

    BOUND = {"ref": 1e-5, "cpu": 1e-4}

    def train(self, model, device, golden, *more):
        write_rows(self.path("rows.jsonl"), golden["batches"])
        a = golden["adamw"]
        out = self.path("out-" + device)
        weft(
            *("train", os.path.join(GOLDEN, model), "--data", self.path("rows.jsonl")),
            *("-o", out, "--steps", str(a["total_steps"]), "--lr", str(a["lr"])),
            *("--min-lr", str(a["lr"] * a["floor"]), "--warmup", str(a["warmup_steps"])),
            *("--schedule", "cosine", "--batch-size", "4", "--order", "file", "--dtype", "fp32"),
            *("--weight-decay", str(a["weight_decay"]), "--beta1", str(a["betas"][0])),
            *("--beta2", str(a["betas"][1]), "--eps", str(a["eps"]), "--clip", str(a["clip"])),
            *("--device", device, "--dump-grads", self.path("grads.safetensors"), *more),
        )
        return out

    def check_grads(self, device, want, got):
        self.assertEqual(set(want), set(got))
        whole = length([length(w) for w in want.values()])
        for name, w in want.items():
            worst = max(abs(a - b) for a, b in zip(got[name], w))
            error = length([a - b for a, b in zip(got[name], w)])
            # A key's bias has gradient 0 in theory: what is there is noise of the whole.
            floor = 1e-6 * whole
            self.assertLessEqual(error, self.BOUND[device] * max(length(w), floor), name)
            self.assertLessEqual(worst, 1e-3 * max(max(map(abs, w)), floor), name)

    def check_model(self, model):
        golden = read_json(os.path.join(GOLDEN, model, "golden.json"))["train"]
        want = read_tensors(os.path.join(GOLDEN, model, "golden_grad.safetensors"))
        a = golden["adamw"]
        for device in self.BOUND:
            with self.subTest(device=device):
                out = self.train(model, device, golden)
                self.check_grads(device, want, read_tensors(self.path("grads.safetensors")))
                lines = read_lines(os.path.join(out, "metrics.jsonl"))
                self.assertEqual([x["step"] for x in lines], list(range(1, 21)))
                for line, loss, norm, lr in zip(lines, a["losses"], a["grad_norms"], a["lrs"]):
                    self.assertAlmostEqual(line["loss"], loss, delta=2e-5 + 1e-5 * loss)
                    self.assertAlmostEqual(line["grad_norm"], norm, delta=1e-4 * norm)
                    self.assertAlmostEqual(line["lr"], lr, delta=1e-9)
                after = read_tensors(os.path.join(out, "model.safetensors"))
                for name, norm in a["param_l2_after"].items():
                    self.assertAlmostEqual(length(after[name]), norm, delta=1e-3 * norm + 1e-5)

    def test_llama_gqa(self):
        self.check_model("llama-gqa")

    def test_llama_tp8(self):
        self.check_model("llama-tp8")

    def test_qwen3(self):
        self.check_model("qwen3")

    def test_gpt2(self):
        self.check_model("gpt2")

    def test_adapter(self):
        model = os.path.join(GOLDEN, "llama-gqa")
        golden = read_json(os.path.join(model, "golden.json"))["train"]
        want = read_tensors(os.path.join(model, "golden_lora_grad.safetensors"))
        write_rows(self.path("rows.jsonl"), golden["batches"][:1])
        for device in self.BOUND:
            with self.subTest(device=device):
                out = self.path("lora-" + device)
                weft(
                    *("train", model, "--data", self.path("rows.jsonl"), "-o", out),
                    *("--steps", "1", "--batch-size", "4", "--order", "file", "--dtype", "fp32"),
                    *("--device", device, "--lora", os.path.join(model, "lora"), "--lr", "0"),
                    *("--dump-grads", self.path("grads.safetensors")),
                )
                self.check_grads(device, want, read_tensors(self.path("grads.safetensors")))
                (line,) = read_lines(os.path.join(out, "metrics.jsonl"))
                lora = golden["lora"]
                self.assertAlmostEqual(line["loss"], lora["loss"], delta=1e-4)
                self.assertAlmostEqual(
                    line["grad_norm"], lora["grad_norm"], delta=1e-4 * lora["grad_norm"]
                )
                # With a learning rate of 0 what is written is what was read.
                self.assertEqual(
                    read_tensors(os.path.join(out, "adapter_model.safetensors")),
                    read_tensors(os.path.join(model, "lora", "adapter_model.safetensors")),
                )

    def test_merge(self):
        model = os.path.join(GOLDEN, "llama-gqa")
        golden = read_json(os.path.join(model, "golden.json"))
        want = read_tensors(os.path.join(model, "golden.safetensors"))["lora_merged.p0.logits"]
        weft("merge", model, "--lora", os.path.join(model, "lora"), "-o", self.path("merged"))
        ids = ",".join(map(str, golden["prompts"][0]))
        weft(
            *("score", self.path("merged"), "--ids", ids, "--dtype", "fp32"),
            *("--logits", self.path("logits.safetensors")),
        )
        got = read_tensors(self.path("logits.safetensors"))["logits"]
        scale = max(map(abs, want))
        self.assertLess(max(abs(a - b) for a, b in zip(got, want)), 1e-4 * scale)


class Bits(Folder):
    """The same bits however it is run."""

    def setUp(self):
        super().setUp()
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump(TINY, f)
        random_rows(self.path("rows.jsonl"), 40, 1)

    def train(self, name, *more, steps=5, tokens=24):
        out = self.path(name)
        weft(
            *("train", "--from-scratch", self.path("config.json"), "--seed", "3"),
            *("--data", self.path("rows.jsonl"), "-o", out, "--steps", str(steps)),
            *("--lr", "1e-2", "--seq-len", str(tokens), *more),
        )
        return digest(out)

    def test_micro_batches_threads_and_recomputation(self):
        for dtype in ("fp32", "bf16"):
            base = self.train("base-" + dtype, "--dtype", dtype)
            for i, more in enumerate(
                (
                    ("--micro-batch", "1", "--threads", "1"),
                    ("--micro-batch", "2", "--threads", "3"),
                    ("--micro-batch", "4", "--recompute", "attn"),
                    ("--micro-batch", "3", "--recompute", "layer"),
                )
            ):
                with self.subTest(dtype=dtype, more=more):
                    self.assertEqual(
                        base, self.train(f"v{dtype}{i}", "--dtype", dtype, *more)
                    )

    def test_shards_are_chains(self):
        """Two shards of four rows in micro-batches that are parts of a shard."""
        two = ("--shards", "2", "--dropout", "0.1")
        base = self.train("base", *two)
        for micro in ("1", "3"):
            self.assertEqual(base, self.train("m" + micro, *two, "--micro-batch", micro))
        self.assertNotEqual(base, self.train("other", "--shards", "8", "--dropout", "0.1"))

    def test_logits_in_parts_of_the_batch(self):
        """A vocabulary whose logits fit for two virtual shards at once, or for a part of one."""
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            wide = {"vocab_size": 200_000, "hidden_size": 16, "max_position_embeddings": 96}
            json.dump({**TINY, **wide}, f)
        for tokens, chunk in ((24, 48), (96, 80)):
            plan = weft(
                *("plan", "--train", "--from-scratch", self.path("config.json")),
                *("--seq-len", str(tokens)),
            )
            self.assertIn(f"logits of {chunk} tokens at once", plan)
            runs = {
                self.train(f"{tokens}-{micro}", "--micro-batch", micro, steps=2, tokens=tokens)
                for micro in ("0", "1")
            }
            self.assertEqual(len(runs), 1)

    def test_packed_rows_are_the_rows(self):
        """Two documents in one row, and apart in rows of a batch twice as large."""
        rng = random.Random(5)
        docs = [[rng.randrange(1, 96) for _ in range(12)] for _ in range(8)]
        with open(self.path("apart.jsonl"), "w", encoding="utf-8") as f:
            f.writelines(json.dumps({"input_ids": d}) + "\n" for d in docs)
        common = ("--order", "file", "--device", "cpu", "--shards", "4")
        weft(
            *("train", "--from-scratch", self.path("config.json"), "--steps", "3", "--lr", "1e-2"),
            *("--data", self.path("apart.jsonl"), "-o", self.path("apart")),
            *("--batch-size", "8", "--seq-len", "12", *common),
        )
        weft(
            *("train", "--from-scratch", self.path("config.json"), "--steps", "3", "--lr", "1e-2"),
            *("--data", self.path("apart.jsonl"), "-o", self.path("packed")),
            *("--batch-size", "4", "--seq-len", "24", "--pack", *common),
        )
        self.assertEqual(digest(self.path("apart")), digest(self.path("packed")))

    def test_resume_after_kill(self):
        began = time.monotonic()
        base = self.train("base", "--save-every", "3", steps=24)
        whole = time.monotonic() - began  # kills come while a run is under way, on any machine
        rng = random.Random(11)
        args = [
            *(WEFT, "train", "--from-scratch", self.path("config.json"), "--seed", "3"),
            *("--data", self.path("rows.jsonl"), "-o", self.path("killed"), "--steps", "24"),
            *("--lr", "1e-2", "--seq-len", "24", "--save-every", "3", "--resume", "auto"),
        ]
        kills = 0
        for _ in range(400):
            p = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                _, err = p.communicate(timeout=whole * rng.uniform(0.05, 0.9))
                self.assertEqual(p.returncode, 0, err)
                break
            except subprocess.TimeoutExpired:
                kills += kills < (200 if LONG else 20)
                if kills < (200 if LONG else 20):
                    p.send_signal(signal.SIGKILL)
                p.communicate()
                if p.returncode == 0:
                    break
        self.assertGreater(kills, 0)
        self.assertEqual(base, digest(self.path("killed")))

    def test_term_saves(self):
        args = [
            *(WEFT, "train", "--from-scratch", self.path("config.json"), "--seed", "3"),
            *("--data", self.path("rows.jsonl"), "-o", self.path("term"), "--lr", "1e-2"),
            *("--seq-len", "24", "--resume", "auto"),
        ]
        p = subprocess.Popen(
            [*args, "--steps", "100000", "--schedule", "constant"], stdout=subprocess.PIPE
        )
        p.stdout.readline()
        p.send_signal(signal.SIGTERM)
        p.communicate()
        self.assertEqual(p.returncode, 128 + 15)
        lines = read_lines(self.path("term", "metrics.jsonl"))
        last = sorted(os.listdir(self.path("term", "checkpoints")))[-1]
        self.assertEqual(last, f"step-{len(lines):08d}")
        self.assertTrue(os.path.exists(self.path("term", "model.safetensors")))

    def test_damaged_checkpoints_are_passed_over(self):
        base = self.train("run", "--save-every", "2", "--keep", "9", steps=8)
        folder = self.path("run", "checkpoints")
        for step, name, at in ((8, "model.safetensors", 900), (6, "optimizer.safetensors", 700)):
            with open(os.path.join(folder, f"step-{step:08d}", name), "r+b") as f:
                f.seek(at)
                byte = f.read(1)
                f.seek(at)
                f.write(bytes([byte[0] ^ 1]))
        r = run(
            *("train", "--from-scratch", self.path("config.json"), "--seed", "3"),
            *("--data", self.path("rows.jsonl"), "-o", self.path("run"), "--steps", "8"),
            *("--lr", "1e-2", "--seq-len", "24", "--save-every", "2", "--keep", "9"),
            *("--resume", "auto"),
        )
        self.assertEqual(r.returncode, 0, r.stderr)
        for step in (8, 6):
            self.assertIn(f"step-{step:08d}/", r.stderr)
        self.assertNotIn("step-00000004/", r.stderr)
        self.assertEqual(base, digest(self.path("run")))

    def test_no_whole_checkpoint(self):
        self.train("run", steps=2)
        manifest = glob.glob(self.path("run", "checkpoints", "*", "manifest.json"))
        for path in manifest:
            os.unlink(path)
        r = run(
            *("train", "--from-scratch", self.path("config.json"), "--resume", "auto"),
            *("--data", self.path("rows.jsonl"), "-o", self.path("run"), "--steps", "2"),
            *("--seq-len", "24", "--seed", "3", "--lr", "1e-2"),
        )
        self.assertEqual(r.returncode, 6)
        self.assertIn("none of its 1 checkpoints is whole", r.stderr)

    def test_score_sees_the_same_logits(self):
        """With a learning rate of 0 the logged loss is that of `weft score` over the row."""
        rng = random.Random(7)
        ids = [rng.randrange(1, 96) for _ in range(20)]
        with open(self.path("one.jsonl"), "w", encoding="utf-8") as f:
            f.write(json.dumps({"input_ids": ids}) + "\n")
        for device in ("ref", "cpu"):
            for dtype in ("fp32", "bf16"):
                out = self.path(device + dtype)
                weft(
                    *("train", "--from-scratch", self.path("config.json"), "--seed", "3"),
                    *("--data", self.path("one.jsonl"), "-o", out, "--steps", "1", "--lr", "0"),
                    *("--batch-size", "1", "--device", device, "--dtype", dtype),
                )
                (line,) = read_lines(os.path.join(out, "metrics.jsonl"))
                score = json.loads(
                    weft(
                        *("score", out, "--ids", ",".join(map(str, ids)), "--json"),
                        *("--device", device, "--dtype", dtype),
                    )
                )
                self.assertAlmostEqual(line["loss"], score["nll"], delta=1e-6 * score["nll"])


class Emulated(Folder):
    """The kernels of a GPU, on the emulator."""

    def train(self, name, device, dtype):
        out = self.path(name)
        weft(
            *("train", "--from-scratch", self.path("config.json"), "--seed", "3"),
            *("--data", self.path("rows.jsonl"), "-o", out, "--steps", "20", "--lr", "1e-2"),
            *("--seq-len", "16", "--batch-size", "2", "--device", device, "--dtype", dtype),
        )
        return read_lines(os.path.join(out, "metrics.jsonl"))

    def test_twenty_steps(self):
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump(TINY, f)
        random_rows(self.path("rows.jsonl"), 8, 1, high=16)
        for dtype, delta in (("fp32", 2e-4), ("bf16", 4e-2)):
            with self.subTest(dtype=dtype):
                lines = self.train("emu-" + dtype, "emu", dtype)
                truth = self.train("ref-" + dtype, "ref", dtype)
                self.assertEqual(lines, self.train("again-" + dtype, "emu", dtype))
                self.assertEqual(
                    digest(self.path("emu-" + dtype)), digest(self.path("again-" + dtype))
                )
                self.assertEqual(len(lines), 20)
                for a, b in zip(lines, truth):
                    self.assertAlmostEqual(a["loss"], b["loss"], delta=delta * b["loss"])
                self.assertLess(lines[-1]["loss"], 0.9 * lines[0]["loss"])


class Faults(Folder):
    """Killed, or out of disk, at any write, fsync, rename, link, unlink or mkdir of a run."""

    STEPS = 6

    def setUp(self):
        super().setUp()
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump({**TINY, "num_hidden_layers": 1}, f)
        random_rows(self.path("rows.jsonl"), 16, 1)
        self.preload = self.path("io.so")
        subprocess.run(
            [
                *(os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", self.preload),
                *(os.path.join(ROOT, "tests", "fault", "io.c"), "-ldl"),
            ],
            check=True,
        )

    def train(self, name, kind="kill", at=0):
        env = {
            **os.environ,
            "LD_PRELOAD": self.preload,
            "FAULT_DIR": self.path(name),
            "FAULT_KIND": kind,
            "FAULT_AT": str(at),
            "FAULT_COUNT": self.path("count"),
            "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", ""),
        }
        return run(
            *("train", "--from-scratch", self.path("config.json"), "--seed", "3", "--lr", "1e-2"),
            *("--data", self.path("rows.jsonl"), "-o", self.path(name), "--threads", "1"),
            *("--steps", str(self.STEPS), "--seq-len", "24", "--save-every", "2", "--keep", "2"),
            *("--resume", "auto"),
            env=env,
        )

    def count(self, name):
        r = self.train(name)
        self.assertEqual(r.returncode, 0, r.stderr)
        with open(self.path("count"), encoding="utf-8") as f:
            return int(f.read())

    def test_killed_at_every_call(self):
        calls = self.count("base")
        base = digest(self.path("base"))
        self.assertGreater(calls, 100)
        first = random.Random(calls).randrange(1, 20)
        for at in range(1, calls + 1) if LONG else range(first, calls + 1, 20):
            with self.subTest(at=at):
                r = self.train("k", at=at)
                self.assertEqual(r.returncode, -signal.SIGKILL, r.stderr)
                r = self.train("k")
                self.assertEqual(r.returncode, 0, r.stderr)
                self.assertEqual(base, digest(self.path("k")))
                shutil.rmtree(self.path("k"))

    def test_disk_full_for_a_moment(self):
        calls = self.count("base")
        base = read_tensors(self.path("base", "model.safetensors"))
        warned = 0
        for at in range(2, calls - 20, 1 if LONG else 23):
            r = self.train("d", "enospc_once", at)
            if r.returncode == 0:
                warned += "No space left" in r.stderr
                self.assertEqual(base, read_tensors(self.path("d", "model.safetensors")))
            else:  # the last save, or before the run had begun
                self.assertEqual(r.returncode, 5, r.stderr)
                self.assertIn("No space left", r.stderr.splitlines()[-1])
            shutil.rmtree(self.path("d"))
        self.assertGreater(warned, 0)

    def test_disk_full_for_good(self):
        calls = self.count("base")
        r = self.train("d", "enospc", 2 * calls // 5)
        self.assertEqual(r.returncode, 5, r.stderr)
        self.assertIn("warning", r.stderr)
        whole = os.listdir(self.path("d", "checkpoints"))
        self.assertTrue(all(name.startswith("step-") for name in whole), whole)
        self.assertIn("step-00000002", whole)
        r = self.train("d")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(digest(self.path("base")), digest(self.path("d")))


class Plan(Folder):
    """`weft plan --train` says the bytes that a run then takes."""

    def check(self, config, *more, model=None):
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        random_rows(self.path("rows.jsonl"), 8, 1)
        shape = ("--batch-size", "4", "--seq-len", "24", *more)
        start = (model,) if model else ("--from-scratch", self.path("config.json"))
        plan = json.loads(weft("plan", "--train", *start, *shape, "--json"))
        done = json.loads(
            weft(
                *("train", *start, "--data", self.path("rows.jsonl"), "-o", self.path("out")),
                *("--steps", "1", *shape, "--json"),
            )
        )
        self.assertEqual(plan["memory"]["total"], done["planned_bytes"])
        self.assertEqual(done["planned_bytes"], done["taken_bytes"])
        return plan

    def test_memory(self):
        odd = {**TINY, "vocab_size": 101, "hidden_size": 40, "intermediate_size": 50}
        for more in (
            ("--dtype", "fp32"),
            ("--dtype", "bf16", "--micro-batch", "1"),
            ("--dtype", "fp32", "--recompute", "layer"),
            ("--dtype", "bf16", "--optimizer", "sgd", "--ema", "0.9"),
        ):
            with self.subTest(more=more):
                self.check(odd, *more)
                shutil.rmtree(self.path("out"))

    @unittest.skipUnless(os.path.isdir(GOLDEN), "fixtures/golden is not there")
    def test_memory_of_a_model(self):
        for name in ("llama-gqa", "gpt2"):
            self.check(TINY, "--dtype", "bf16", model=os.path.join(GOLDEN, name))
            shutil.rmtree(self.path("out"))

    def test_recompute_keeps_less(self):
        kept = self.check({**TINY, "num_hidden_layers": 6}, "--dtype", "fp32")["activations"]
        self.assertGreater(kept["none"], kept["attn"])
        self.assertGreater(kept["attn"], kept["layer"])


class BadCheckpoints(Folder):
    """A checkpoint that is not what its manifest says is named, and not used."""

    def setUp(self):
        super().setUp()
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump({**TINY, "num_hidden_layers": 1}, f)
        random_rows(self.path("rows.jsonl"), 8, 1)
        weft("train", *self.args(), "--steps", "1")
        (self.one,) = glob.glob(self.path("out", "checkpoints", "*"))

    def args(self):
        return (
            *("--from-scratch", self.path("config.json"), "--data", self.path("rows.jsonl")),
            *("-o", self.path("out"), "--seq-len", "24", "--resume", "auto"),
        )

    def refuse(self, words):
        r = run("train", *self.args(), "--steps", "2")
        self.assertEqual(r.returncode, 6, r.stderr)
        *notes, last = r.stderr.splitlines()
        self.assertTrue(all(x.startswith("weft: warning: ") for x in notes), r.stderr)
        self.assertIn(words, notes[-1])
        self.assertIn("none of its 1 checkpoints is whole", last)

    def rewrite(self, name, change):
        path = os.path.join(self.one, name)
        with open(path, "rb") as f:
            data = f.read()
        with open(path, "wb") as f:
            f.write(change(data))

    def check(self, name, change, words):
        kept = self.path("kept")
        shutil.copytree(self.one, kept)
        self.rewrite(name, change)
        with self.subTest(words=words):
            self.refuse(words)
        shutil.rmtree(self.one)
        os.rename(kept, self.one)

    def manifest(self, change):
        def edit(data):
            m = json.loads(data)
            change(m)
            return json.dumps(m).encode()

        return edit

    def test_manifest(self):
        name = "manifest.json"
        self.check(name, lambda b: b[: len(b) // 2], "manifest.json")
        self.check(name, lambda b: b"", "manifest.json")
        self.check(name, lambda b: b"[]", "manifest.json")
        self.check(name, lambda b: b"{}", "too few files")
        self.check(name, self.manifest(lambda m: m.update(step=7)), "is not of step 1")
        self.check(name, self.manifest(lambda m: m.update(files=[])), "too few files")
        self.check(name, self.manifest(lambda m: m.update(step=-1)), "manifest.json")
        for key, value, words in (
            ("name", "../config.json", "no plain name"),
            ("name", "", "no plain name"),
            ("name", "absent.bin", "absent.bin"),
            ("bytes", 1, "manifest.json says 1"),
            ("bytes", -1, "manifest.json"),
            ("xxh3", "0" * 16, "is damaged"),
            ("xxh3", "zz", "hexadecimal"),
        ):
            self.check(
                name, self.manifest(lambda m, k=key, v=value: m["files"][0].update({k: v})), words
            )

    def test_files(self):
        for name in ("model.safetensors", "optimizer.safetensors", "train.json", "config.json"):
            self.check(name, lambda b: b[:-1], "manifest.json says")
            self.check(name, lambda b: b + b" ", "manifest.json says")
            self.check(name, lambda b: bytes([b[0] ^ 1]) + b[1:], "is damaged")

    def test_another_model(self):
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump({**TINY, "num_hidden_layers": 1, "intermediate_size": 96}, f)
        self.refuse("is missing or of another shape")


class Options(Folder):
    def setUp(self):
        super().setUp()
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump(TINY, f)
        random_rows(self.path("rows.jsonl"), 8, 1)

    def refuse(self, code, words, *args):
        r = run("train", *args)
        self.assertEqual(r.returncode, code, r.stderr)
        self.assertEqual(r.stderr.count("\n"), 1, r.stderr)
        self.assertIn(words, r.stderr)

    def test_bad_input(self):
        config, rows, out = self.path("config.json"), self.path("rows.jsonl"), self.path("out")
        whole = ("--from-scratch", config, "--data", rows, "-o", out, "--steps", "2")
        self.refuse(2, "--steps: is missing", *whole[:-2])
        self.refuse(2, "--data: is missing", "--from-scratch", config, "-o", out, "--steps", "2")
        self.refuse(2, "--output: is missing", *whole[:4], "--steps", "2")
        self.refuse(2, "is a file", config, "--data", rows, "-o", out, "--steps", "2")
        self.refuse(2, "--shards: 3", *whole, "--shards", "3")
        self.refuse(2, "--shards: 8", *whole, "--batch-size", "4", "--shards", "8")
        self.refuse(2, "--micro-batch: 9", *whole, "--micro-batch", "9")
        self.refuse(2, "--warmup: 3", *whole, "--warmup", "3")
        self.refuse(2, "--min-lr", *whole, "--min-lr", "1")
        self.refuse(2, "--freeze", *whole, "--freeze", "nothing.*")
        self.refuse(2, "leaves nothing", *whole, "--freeze", "*")
        self.refuse(2, "--seq-len: 65", *whole, "--seq-len", "65")
        self.refuse(2, "--lora-r", *whole, "--lora-r", "4")
        self.refuse(2, "int8", *whole, "--dtype", "int8")
        self.refuse(2, "fp16", *whole, "--dtype", "fp16")
        self.refuse(2, "--weights", *whole, "--weights", "1,2")
        self.refuse(2, "--weights", *whole, "--weights=-1")
        self.refuse(2, "--patience", *whole, "--patience", "2")
        self.refuse(3, "no such file", "--from-scratch", self.path("none"), *whole[2:])
        self.refuse(3, "adapter_config.json", *whole, "--lora", self.dir)

    def test_resume_needs_the_same_run(self):
        whole = ("--from-scratch", self.path("config.json"), "--data", self.path("rows.jsonl"))
        whole += ("-o", self.path("out"), "--steps", "2", "--seq-len", "24")
        weft("train", *whole)
        self.refuse(2, "batch_size 8, now it is 4", *whole, "--batch-size", "4", "--resume", "auto")
        self.refuse(2, 'dtype "fp32", now', *whole, "--dtype", "bf16", "--resume", "auto")

    def test_not_a_number(self):
        whole = ("--from-scratch", self.path("config.json"), "--data", self.path("rows.jsonl"))
        whole += ("-o", self.path("out"), "--steps", "6", "--seq-len", "24", "--lr", "1e3")
        whole += ("--clip", "0", "--init-std", "9", "--weight-decay", "900")
        r = run("train", *whole)
        self.assertEqual(r.returncode, 2, r.stderr)
        self.assertIn("loss: is ", r.stderr)
        (path,) = glob.glob(self.path("out", "nonfinite-step-*.json"))
        report = read_json(path)
        self.assertTrue(report["first"])
        self.assertEqual(len(report["rows"]), 8)

    def test_frozen_stays(self):
        out = self.path("out")
        common = ("--from-scratch", self.path("config.json"), "--data", self.path("rows.jsonl"))
        common += ("--seq-len", "24", "--seed", "3")
        weft("train", *common, "-o", self.path("start"), "--steps", "1", "--lr", "0")
        frozen = ("--lr", "1e-2", "--freeze", "*.self_attn.*")
        weft("train", *common, "-o", out, "--steps", "2", *frozen)
        before = read_tensors(self.path("start", "model.safetensors"))
        after = read_tensors(os.path.join(out, "model.safetensors"))
        for name in before:
            self.assertEqual(before[name] == after[name], ".self_attn." in name, name)

    def test_early_stop(self):
        weft(
            *("train", "--from-scratch", self.path("config.json"), "--seed", "3"),
            *("--data", self.path("rows.jsonl"), "-o", self.path("out"), "--steps", "400"),
            *("--lr", "3e-2", "--seq-len", "24", "--val", "0.4", "--val-every", "1"),
            *("--patience", "3", "--batch-size", "4", "--schedule", "constant"),
        )
        lines = read_lines(self.path("out", "metrics.jsonl"))
        losses = [x["val_loss"] for x in lines]
        best = losses.index(min(losses))
        self.assertLess(len(losses), 400)
        self.assertEqual(len(losses) - 1 - best, 3)
        kept = os.listdir(self.path("out", "checkpoints"))
        self.assertIn(f"step-{best + 1:08d}", kept)


if __name__ == "__main__":
    unittest.main()
