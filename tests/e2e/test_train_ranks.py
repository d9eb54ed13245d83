# SPDX-License-Identifier: Apache-2.0
"""Training on data-parallel ranks: the bits of one rank on any number of them, whoever keeps the
optimizer's state and whatever mesh a run goes on from; what it takes and sends is as planned."""

import glob
import hashlib
import json
import os
import random
import signal
import subprocess
import time
import unittest

import test_ranks
from test_train import GOLDEN, LONG, TINY, WEFT, Folder, digest, random_rows, run, weft

MESHES = (
    ("--dp", "2"),
    ("--dp", "2", "--zero", "1", "--micro-batch", "1"),
    ("--dp", "4", "--zero", "1"),
    ("--dp", "8", "--micro-batch", "3"),
    ("--dp", "8", "--zero", "1"),
    ("--dp", "2", "--zero", "2", "--micro-batch", "1"),
    ("--dp", "4", "--zero", "2"),
    ("--dp", "8", "--zero", "2"),
    ("--dp", "2", "--zero", "3", "--micro-batch", "4"),
    ("--dp", "4", "--zero", "3", "--recompute", "layer"),
    ("--dp", "8", "--zero", "3"),
)
# Norms of heads, biases by slices, tied embeddings: what a slice of every matrix has to get right.
WIDE = {
    **{"model_type": "qwen3", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128},
    **{"num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16},
    **{"max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
}
GPT2 = {
    **{"model_type": "gpt2", "vocab_size": 256, "n_embd": 128, "n_layer": 4, "n_head": 8},
    **{"n_positions": 64, "layer_norm_epsilon": 1e-5},
}
WIDE_MESHES = (
    ("--tp", "2"),
    ("--tp", "4", "--micro-batch", "2"),
    ("--tp", "8"),
    ("--tp", "2", "--dp", "4", "--zero", "1"),
    ("--tp", "4", "--dp", "2", "--zero", "2", "--recompute", "layer"),
    ("--tp", "2", "--dp", "2", "--zero", "3"),
    ("--pp", "4"),
    ("--pp", "2", "--interleave", "2", "--dp", "2", "--zero", "1", "--micro-batch", "1"),
    ("--pp", "3", "--dp", "2", "--zero", "3", "--micro-batch", "2"),
    ("--tp", "2", "--pp", "2", "--dp", "2", "--recompute", "attn"),
)

# Of a model all that its heads, leaves and layers allow, by ways and mixed, on 1, 2, 4 and 8 ranks.
ANY = ("", "--dp 2", "--dp 4", "--dp 8", "--dp 2 --zero 1", "--dp 4 --zero 2", "--dp 8 --zero 3")
ANY += ("--pp 2", "--pp 3", "--pp 2 --dp 2", "--pp 2 --dp 4 --zero 1", "--pp 3 --dp 2 --zero 3")
TP = ("--tp 2", "--tp 2 --pp 2", "--tp 2 --dp 4 --zero 2", "--tp 2 --pp 2 --dp 2 --zero 3")
FIFTY = {
    "llama-tp8": ANY + TP + ("--tp 4", "--tp 8", "--tp 4 --pp 2", "--pp 4 --dp 2", "--tp 2 --pp 4",
                             "--pp 2 --interleave 2 --micro-batch 1"),
    "llama-gqa": ANY + TP + ("--tp 4", "--tp 8", "--tp 4 --dp 2 --zero 1"),
    "qwen3": ANY,
    "gpt2": ANY,
}


class Ranks(Folder):
    def setUp(self):
        super().setUp()
        self.use(TINY)
        random_rows(self.path("rows.jsonl"), 40, 1)

    def args(self, name, *more):
        return (
            *("train", "--from-scratch", self.path("config.json"), "--seed", "3"),
            *("--data", self.path("rows.jsonl"), "-o", self.path(name), "--lr", "1e-2"),
            *(() if "--seq-len" in more else ("--seq-len", "24")),
            *more,
        )

    def train(self, name, *more):
        weft(*self.args(name, *more))
        files = [digest(self.path(name))]
        for mean in glob.glob(self.path(name, "ema", "model.safetensors")):
            with open(mean, "rb") as f:
                files.append(hashlib.sha256(f.read()).hexdigest())
        return files

    def test_any_mesh_has_the_bits_of_one_rank(self):
        common = ("--steps", "4", "--val", "0.2", "--val-every", "2", "--dropout", "0.1")
        for i, kind in enumerate(
            (("--dtype", "bf16", "--ema", "0.9"), ("--dtype", "fp32", "--optimizer", "sgd"))
        ):
            base = self.train(f"base{i}", *common, *kind)
            for n, mesh in enumerate(MESHES):
                with self.subTest(kind=kind, mesh=mesh):
                    self.assertEqual(base, self.train(f"mesh{i}{n}", *common, *kind, *mesh))

    def test_ranks_that_share_matrices_and_layers(self):
        common = ("--steps", "3", "--val", "0.2", "--val-every", "2", "--dropout", "0.1")
        for i, (model, kind) in enumerate(
            (
                (WIDE, ("--dtype", "bf16", "--ema", "0.9")),
                (GPT2, ("--dtype", "fp32", "--optimizer", "sgd", "--freeze", "*.h.1.*", "--freeze",
                        "*.h.2.ln_1.weight", "--freeze", "*.h.3.ln_2.bias")),
            )
        ):
            self.use(model)
            base = self.train(f"base{i}", *common, *kind, "--dump-grads", self.path("g"))
            with open(self.path("g"), "rb") as f:
                grads = f.read()
            for n, mesh in enumerate(WIDE_MESHES):
                with self.subTest(kind=kind, mesh=mesh):
                    more = (*common, *kind, *mesh, "--dump-grads", self.path("g"))
                    self.assertEqual(base, self.train(f"mesh{i}{n}", *more))
                    with open(self.path("g"), "rb") as f:
                        self.assertTrue(grads == f.read())

    def test_a_vocabulary_that_slices_do_not_divide(self):
        for tied in (True, False):
            self.use({**WIDE, "vocab_size": 251, "tie_word_embeddings": tied})
            common = ("--steps", "2", "--dtype", "bf16")
            base = self.train(f"one{tied}", *common)
            for i, mesh in enumerate((("--tp", "4"), ("--tp", "2", "--pp", "2", "--zero", "3",
                                                      "--dp", "2"))):
                self.assertEqual(base, self.train(f"out{tied}{i}", *common, *mesh))

    def test_tokens_or_columns_that_slices_do_not_divide(self):
        odd = ("--seq-len", "21", "--micro-batch", "1")
        for i, (model, common) in enumerate(((WIDE, odd), ({**WIDE, "hidden_size": 36}, ()))):
            self.use(model)
            common += ("--steps", "2", "--dtype", "bf16", "--dropout", "0.1")
            base = self.train(f"one{i}", *common)
            for tp in ("2", "8"):
                self.assertEqual(base, self.train(f"out{i}{tp}", *common, "--tp", tp))

    def plan(self, *more):
        common = ("plan", "--train", "--from-scratch", self.path("config.json"), "--json")
        return json.loads(weft(*common, *more))

    def test_slices_keep_their_tokens_alone(self):
        """What a layer adds to the activations falls with the slices. Recomputed, that is the two
        residual sums, and nothing else."""
        tokens, shape = 2 * 512, {**WIDE, "num_key_value_heads": 8, "max_position_embeddings": 512}
        kept = {mode: {} for mode in ("none", "attn", "layer")}
        for tp in (1, 2, 4, 8):
            by_layers = []
            for layers in (8, 24):
                self.use({**shape, "num_hidden_layers": layers})
                mesh = ("--dtype", "bf16", "--batch-size", "2", "--seq-len", "512", "--tp", str(tp))
                by_layers.append(self.plan(*mesh)["activations"])
            for mode, of in kept.items():
                of[tp] = (by_layers[1][mode] - by_layers[0][mode]) / 16
        self.assertEqual(kept["layer"][1], 2 * tokens * 2 * shape["hidden_size"])
        for mode, of in kept.items():
            for tp in (2, 4, 8):
                with self.subTest(mode=mode, tp=tp):
                    self.assertEqual(of[tp], of[1] / tp)

    def test_a_tied_embedding_and_a_frozen_layer(self):
        self.use({**TINY, "tie_word_embeddings": True})
        common = ("--steps", "2", "--freeze", "model.layers.0.*", "--dump-grads")
        base = self.train("one", *common, self.path("one.st"))
        for zero in ("0", "1", "2", "3"):
            mesh = ("--dp", "4", "--zero", zero)
            self.assertEqual(base, self.train("z" + zero, *common, self.path(zero), *mesh))
            with open(self.path("one.st"), "rb") as a, open(self.path(zero), "rb") as b:
                self.assertEqual(a.read(), b.read())

    def test_on_the_emulated_gpu(self):
        common = ("--steps", "2", "--batch-size", "2", "--device", "emu")
        base = self.train("one", *common)
        self.assertEqual(base, self.train("two", *common, "--dp", "2", "--zero", "1"))
        self.use(WIDE)
        base = self.train("wide", *common)
        meshes = [("--tp", "2"), ("--pp", "2", "--micro-batch", "1"), ("--dp", "2", "--zero", "3")]
        for i, mesh in enumerate(meshes if LONG else meshes[:1]):
            self.assertEqual(base, self.train(f"wide{i}", *common, *mesh), mesh)

    @unittest.skipUnless(os.path.isdir(GOLDEN), "fixtures/golden is not there")
    def test_adapters(self):
        got = []
        for mesh in ((), *(("--dp", "4", "--zero", z) for z in "123"), ("--pp", "3")):
            out = self.path("out" + "".join(mesh))
            weft(
                *("train", os.path.join(GOLDEN, "llama-gqa"), "--data", self.path("rows.jsonl")),
                *("-o", out, "--steps", "2", "--lora-r", "4", "--seq-len", "24", *mesh),
            )
            with open(os.path.join(out, "adapter_model.safetensors"), "rb") as f:
                got.append(f.read())
        self.assertEqual(len(set(got)), 1)

    @unittest.skipUnless(os.path.isdir(GOLDEN), "fixtures/golden is not there")
    def test_a_model_goes_on(self):
        for name, dtype in (("gpt2", "bf16"), ("qwen3", "fp32")):
            got = []
            for mesh in ((), *(("--dp", "4", "--zero", z) for z in "13")):
                out = self.path(name + "".join(mesh))
                weft(
                    *("train", os.path.join(GOLDEN, name), "--data", self.path("rows.jsonl")),
                    *("-o", out, "--steps", "2", "--dtype", dtype, "--seq-len", "24", *mesh),
                )
                got.append(digest(out))
            self.assertEqual(got, [got[0]] * 3, name)

    @unittest.skipUnless(os.path.isdir(GOLDEN), "fixtures/golden is not there")
    def test_fifty_steps_on_every_mesh(self):
        """By WEFT_LONG all of them in bf16, some in fp32, else one; half of the runs stop in the
        middle, and another mesh goes on from there."""
        rng = random.Random(int(os.environ.get("WEFT_SEED", "1")))
        cases = [
            (name, device, dtype)
            for name in FIFTY
            for device, dtype in (("cpu", "fp32"), ("cpu", "bf16"), ("ref", "fp32"))
        ]
        for name, device, dtype in cases if LONG else [("llama-tp8", "cpu", "bf16")]:
            common = ("train", os.path.join(GOLDEN, name), "--data", self.path("rows.jsonl"))
            common += ("--seq-len", "24", "--device", device, "--dtype", dtype, "--lr", "1e-3")
            common += ("--schedule", "constant", "--resume", "auto", "--save-every", "25")
            base, last = None, ""
            meshes = FIFTY[name]
            if not LONG or dtype == "fp32":
                meshes = ("", *rng.sample(meshes[1:], 5 if LONG else 1))
            for i, mesh in enumerate(meshes):
                out = self.path("-".join((name, device, dtype, str(i))))
                if i % 2 and LONG:
                    weft(*common, "-o", out, "--steps", "25", *last.split())
                weft(*common, "-o", out, "--steps", "50", *mesh.split())
                got, last = digest(out), mesh
                base = base or got
                with self.subTest(name=name, device=device, dtype=dtype, mesh=mesh):
                    self.assertEqual(got, base)

    def use(self, model):
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump(model, f)

    def test_another_mesh_goes_on(self):
        self.use(WIDE)
        common = ("--schedule", "constant", "--ema", "0.9", "--dtype", "bf16", "--resume", "auto")
        base = self.train("base", *common, "--steps", "6")
        one, four, eight = (), ("--dp", "4", "--zero", "3"), ("--dp", "8", "--zero", "2")
        mixed = ("--tp", "2", "--pp", "2", "--dp", "2", "--zero", "1")
        pairs = ((one, four), (eight, one), (four, mixed), (mixed, eight))
        for i, (first, then) in enumerate(pairs):
            with self.subTest(first=first, then=then):
                name = f"run{i}"
                self.train(name, *common, "--steps", "3", *first)
                self.assertEqual(base, self.train(name, *common, "--steps", "6", *then))
                # A run that is over is published again, by the ranks there are.
                self.assertEqual(base, self.train(name, *common, "--steps", "6", *first))

    def planned_is_taken(self, model, mesh):
        self.use(model)
        plan = self.plan("--seq-len", "24", *mesh)
        name = "out" + model["model_type"] + "".join(mesh)
        done = json.loads(weft(*self.args(name, "--steps", "2", "--json", *mesh)))
        self.assertEqual(plan["memory"]["total"], done["planned_bytes"])
        self.assertEqual(done["planned_bytes"], done["taken_bytes"])
        self.assertEqual(plan["sent_bytes"], done["sent_bytes"])
        self.assertGreater(done["sent_bytes"], 0)
        return plan

    def test_memory_and_bytes_are_as_planned(self):
        totals = {}
        for mesh in MESHES:
            with self.subTest(mesh=mesh):
                plan = self.planned_is_taken(TINY, mesh)
                totals[mesh] = plan["memory"]
        for mesh in WIDE_MESHES:
            with self.subTest(mesh=mesh):
                self.planned_is_taken(WIDE, mesh)
        self.planned_is_taken(GPT2, ("--tp", "4", "--dp", "2", "--zero", "2"))
        state = "optimizer state"
        whole = totals["--dp", "2"]
        one, two = (totals["--dp", "4", "--zero", zero] for zero in ("1", "2"))
        self.assertLess(one[state], 0.3 * whole[state])
        self.assertEqual(one[state], two[state])
        three = totals["--dp", "8", "--zero", "3"]
        self.assertLess(three["weights"], 0.2 * whole["weights"])
        bf16 = ("--seq-len", "24", "--dtype", "bf16", "--dp", "8", "--json")
        plan = ("plan", "--train", "--from-scratch", self.path("config.json"))
        masters = [
            json.loads(weft(*plan, *bf16, "--zero", z))["memory"]["fp32 weights"] for z in "01"
        ]
        self.assertLess(masters[1], 0.2 * masters[0])

    def test_processes_have_the_same_bits(self):
        common = ("--steps", "3", "--val", "0.2", "--dtype", "bf16", "--save-every", "2")
        base = self.train("one", *common)
        for launcher in (test_ranks.torchrun, test_ranks.srun):
            name = launcher.__name__
            mesh = ("--pp", "2", "--dp", "2", "--zero", "1")
            argv = self.args(name, *common, *mesh)
            for rank, (code, out, err) in test_ranks.Job(4, list(argv), launcher).finish().items():
                self.assertEqual((code, err), (0, ""), rank)
                self.assertEqual(bool(out), rank == 0)
            self.assertEqual(base, [digest(self.path(name))])

    def test_rank_0_alone_takes_samples(self):
        demo = os.path.join(test_ranks.ROOT, "bench", "models", "demo")
        text = ("train", demo, "--data", self.path("rows.jsonl"), "--seq-len", "24")
        args = (*text, "--steps", "1", "--sample-prompt", "It was", "--sample-tokens", "8")
        weft(*args, "-o", self.path("one"))
        for n, (code, _, err) in test_ranks.Job(
            2, [*args, "-o", self.path("two"), "--dp", "2", "--zero", "2"]
        ).finish().items():
            self.assertEqual((code, err), (0, ""), n)
        with open(self.path("one", "samples.jsonl"), encoding="utf-8") as f:
            want = f.read()
        with open(self.path("two", "samples.jsonl"), encoding="utf-8") as f:
            self.assertEqual(f.read(), want)
        self.assertEqual(want.count("\n"), 1)

    def test_processes_that_differ(self):
        argv = list(self.args("out", "--steps", "1", "--dp", "2"))
        out = test_ranks.Job(2, [argv, [*argv, "--z-loss", "0.1"]]).finish()
        self.assertEqual({r: o[0] for r, o in out.items()}, {0: 7, 1: 7})
        self.assertIn("differ in their command line", out[0][2])
        out = test_ranks.Job(2, argv[:-2]).finish()
        self.assertEqual({r: o[0] for r, o in out.items()}, {0: 2, 1: 2})
        self.assertIn("--dp 1", out[0][2])
        self.assertFalse(os.path.exists(self.path("out", "model.safetensors")))

    def test_a_lost_rank_ends_the_job(self):
        for lost, how in ((0, signal.SIGKILL), (2, signal.SIGKILL), (1, signal.SIGSTOP)):
            with self.subTest(lost=lost, how=how):
                name = f"out{lost}"
                argv = list(self.args(name, "--steps", "1000000", "--save-every", "5"))
                argv += ["--dp", "4", "--zero", "1", "--timeout", "3", "--resume", "auto"]
                job = test_ranks.Job(4, argv)
                while not os.path.exists(self.path(name, "checkpoints", "step-00000005")):
                    self.assertIsNone(job.proc[0].poll())
                    time.sleep(0.02)
                job.proc[lost].send_signal(how)
                began = time.monotonic()
                rest = {r: p for r, p in job.proc.items() if r != lost}
                errors = [p.communicate(timeout=30)[1] for p in rest.values()]
                self.assertLess(time.monotonic() - began, 3 + 2 + 10)  # 10: a loaded machine
                job.proc[lost].kill()
                job.proc[lost].communicate()
                self.assertEqual({p.returncode for p in rest.values()}, {7})
                self.assertRegex("".join(errors), rf"rank {lost} .*; --resume auto goes on from "
                                                  rf".*{name}/checkpoints/step-\d+")
                saved = glob.glob(self.path(name, "checkpoints", "step-*"))
                done = int(os.path.basename(max(saved)).removeprefix("step-"))
                weft(*self.args(name, "--steps", str(done + 2), "--resume", "auto"))

    def test_bad_meshes(self):
        for want, more in (
            ("--dp: 3", ("--dp", "3")),
            ("--dp: 4", ("--dp", "4", "--shards", "2")),
            ("--dp: 8", ("--dp", "8", "--batch-size", "4")),
            ("--dp", ("--dp", "0")),
            ("--zero", ("--dp", "2", "--zero", "4")),
            ("--zero: 2", ("--dp", "2", "--zero", "2", "--batch-size", "16", "--micro-batch", "1")),
            ("--zero", ("--zero", "1", "--dp", "2", "--dtype", "bf16", "--stochastic-rounding")),
            ("--timeout", ("--dp", "2", "--timeout", "0")),
            ("--pp: 3", ("--pp", "3")),
            ("--interleave", ("--interleave", "2")),
            ("--interleave: 4", ("--pp", "2", "--interleave", "2")),
            ("--tp 8 --pp 2 --dp 8", ("--tp", "8", "--pp", "2", "--dp", "8")),
            ("--tp: 3", ("--tp", "3")),
            ("--tp: 4", ("--tp", "4")),
            ("--tp", ("--tp", "2", "--dtype", "bf16", "--stochastic-rounding")),
        ):
            with self.subTest(more=more):
                r = run(*self.args("out", "--steps", "1", *more))
                self.assertEqual(r.returncode, 2, r.stderr)
                self.assertIn(f"weft: error: {want}", r.stderr)
                self.assertEqual(r.stderr.count("\n"), 1)
                self.assertFalse(os.path.exists(self.path("out", "model.safetensors")))

    def test_not_a_number(self):
        self.use(WIDE)
        wild = ("--steps", "20", "--lr", "1000", "--clip", "0", "--optimizer", "sgd")
        for i, mesh in enumerate((("--dp", "4"), ("--dp", "4", "--zero", "2"), ("--pp", "2"),
                                  ("--tp", "2", "--dp", "2", "--zero", "3"))):
            args = self.args(f"out{i}", *mesh)
            r = run(*[a for a in args if a not in ("--lr", "1e-2")], *wild)
            self.assertEqual(r.returncode, 2, r.stderr)
            self.assertRegex(r.stderr, r"^weft: error: loss: is .* first in .*nonfinite-step-")

    def test_a_disk_that_refuses_ends_all(self):
        with open(self.path("out"), "w", encoding="utf-8"):
            pass
        r = run(*self.args("out", "--steps", "2", "--dp", "4"))
        self.assertEqual(r.returncode, 5, r.stderr)
        self.assertIn("out: cannot create the folder", r.stderr)

    def test_term_saves(self):
        args = self.args("out", "--steps", "1000000", "--dp", "4", "--zero", "1")
        with subprocess.Popen([WEFT, *args], stdout=subprocess.DEVNULL) as p:
            while not os.path.exists(self.path("out", "metrics.jsonl")):
                time.sleep(0.05)
            time.sleep(0.3)
            p.send_signal(signal.SIGTERM)
            self.assertEqual(p.wait(timeout=60), 128 + 15)
        self.assertEqual(len(glob.glob(self.path("out", "checkpoints", "step-*"))), 1)


if __name__ == "__main__":
    unittest.main()
