#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Inference has the bits of one rank: four models, on ref, cpu and the emulated GPU, at every
replica x slice x stage up to 8 ranks, over threads, processes, MPI and a fake NCCL. What is
compared are the answers of `weft batch`: ids, and logarithms of probabilities to their last digit.

By default WEFT_SEED draws a few of them; WEFT_LONG=1 takes all."""

import collections
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest

import test_ranks
from test_ranks import BUILD, FIXTURES, LONG, MPI, WEFT, clean_env

SEED = int(os.environ.get("WEFT_SEED", "11"))
MODELS = ("llama-tp8", "llama-gqa", "qwen3", "gpt2")
FAKE_NCCL = os.path.join(BUILD, "tests", "fake", "libnccl.so.2")
DEVICES, TOKENS = ("ref", "cpu", "emu"), 2
Case = collections.namedtuple("Case", "model device transport dp tp pp")


def path_of(model):
    return os.path.join(FIXTURES, "golden", "models", model)


def lengths(device):
    """Of the prompts; the emulator is slow."""
    return (3, 6) if device == "emu" else (3, 17, 9)


def transports(device):
    """The fake NCCL moves memory of GPUs alone: threads of a process, or processes."""
    some = ["local", "tcp"]
    if shutil.which("mpirun") and os.path.exists(os.path.join(BUILD, "libweft_mpi.so")):
        some.append("mpi")
    if device == "emu" and os.path.exists(FAKE_NCCL):
        some += ["nccl", "nccl processes"]
    return some


def possible(model):
    """(tp, pp) that `weft plan` takes; what it refuses, it refuses as such."""
    for tp, pp in itertools.product((1, 2, 4, 8), (1, 2, 3, 4)):
        if tp * pp > 8:
            continue
        r = subprocess.run([WEFT, "plan", path_of(model), "--tp", str(tp), "--pp", str(pp)],
                           env=clean_env(), capture_output=True)
        assert r.returncode in (0, 2), r
        if r.returncode == 0:
            yield tp, pp


def every_case():
    for model in MODELS:
        for tp, pp in possible(model):
            for dp, device in itertools.product((1, 2), DEVICES):
                if 1 < dp * tp * pp <= 8:
                    for t in transports(device):
                        yield Case(model, device, t, dp, tp, pp)


def sample(cases):
    """Each device with each of its transports once, and one model and mesh after the other."""
    rng = random.Random(SEED)
    of = collections.defaultdict(list)
    for c in cases:
        if c.device != "emu" or c.model != "llama-tp8":  # whose vocabulary takes the emulator long
            of[c.device, c.transport].append(c)
    return [rng.choice(some) for some in of.values()]


@unittest.skipUnless(os.path.isdir(path_of(MODELS[0])), "skipped: test_meshes: no fixtures")
class Meshes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="weft-meshes-")
        cls.alone = {}
        for device in DEVICES:
            with open(cls.path(f"{device}.jsonl"), "w", encoding="utf-8") as f:
                for i, n in enumerate(lengths(device)):
                    f.write(json.dumps({
                        "prompt": [(7 * k * k + i) % 90 + 3 for k in range(n)], "logprobs": 5,
                        "max_tokens": TOKENS, "seed": i, "temperature": 0.8 if i == 1 else 0,
                        "ignore_eos": True}) + "\n")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    @classmethod
    def path(cls, name):
        return os.path.join(cls.dir, name)

    def argv(self, model, device, out):
        return ["batch", path_of(model), "-i", self.path(f"{device}.jsonl"), "-o", out, "--device",
                device, "-c", "32", "--max-seqs", "2", "--timeout", "60"]

    def launch(self, c, argv):
        argv = [*argv, "--dp", str(c.dp), "--tp", str(c.tp), "--pp", str(c.pp)]
        ranks = c.dp * c.tp * c.pp
        over = {"tcp": [], "nccl processes": ["--comm", "nccl"]}.get(
            c.transport, ["--comm", c.transport])
        env = {"WEFT_NCCL": FAKE_NCCL}
        if c.transport in ("tcp", "nccl processes"):
            ends = test_ranks.Job(ranks, [*argv, *over], env=env).finish(300).values()
            return {code for code, _, _ in ends}, "".join(told for _, _, told in ends)
        launcher = ["mpirun", "--oversubscribe", "-n", str(ranks)] if c.transport == "mpi" else []
        r = subprocess.run([*launcher, WEFT, *argv, *over], env={**clean_env(), **MPI, **env},
                           capture_output=True, text=True, timeout=300)
        return {r.returncode}, r.stderr

    def answers(self, c):
        out = self.path("out.jsonl")
        codes, told = self.launch(c, self.argv(c.model, c.device, out))
        self.assertEqual(codes, {0}, told)
        with open(out, encoding="utf-8") as f:
            got = f.read()
        os.unlink(out)
        return got

    def want(self, c):
        key = c.model, c.device
        if key not in self.alone:
            self.alone[key] = self.answers(Case(*key, "local", 1, 1, 1))
            self.assertEqual(self.alone[key].count('"logprob":'),
                             len(lengths(c.device)) * TOKENS * (1 + 5))
        return self.alone[key]

    def test_the_bits_of_one_rank(self):
        cases = list(every_case())
        self.assertGreaterEqual({c.tp for c in cases}, {1, 2, 4, 8})
        self.assertGreaterEqual({c.pp for c in cases}, {1, 2, 3, 4})
        some = cases if LONG else sample(cases)
        for c in some:
            with self.subTest(c):
                self.assertEqual(self.answers(c), self.want(c))
        if LONG:
            print(f"{len(some)} runs of meshes compared", file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
