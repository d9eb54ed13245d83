#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""--comm nccl on emulated GPUs over a fake libnccl.so.2: the bits of one rank, as threads and as
processes; a library that is not there, too old or lacks something; and whatever goes wrong inside
NCCL or around it ends the job in time, with exit code 7."""

import json
import os
import random
import re
import subprocess
import sys
import time
import unittest

from test_ranks import (BUILD, FIXTURES, IDS, LONG, MODEL, WEFT, Job, alone, clean_env,
                        patience, segments)
from test_train import TINY, Folder, digest, random_rows

FAKE = os.path.join(BUILD, "tests", "fake")
LIB = {"WEFT_NCCL": os.path.join(FAKE, "libnccl.so.2")}
GPU = ["--device", "emu"]
NCCL = [*GPU, "--comm", "nccl"]
RUN = ["run", MODEL, "--ids", "1,2,3,4,5,6,7,8,9,10,11", "--temp", "0", "--ignore-eos", *GPU]
SHORT = [*RUN, "-n", "4"]
ENDLESS = [*RUN, "-n", "200", "-c", "256", "--timeout", "2", "--comm", "nccl"]
LEFT = "/dev/shm"


def mesh(tp, pp):
    return ["--tp", str(tp), "--pp", str(pp)]


def threads(argv, env=None, seconds=120):
    r = subprocess.run([WEFT, *argv], env={**clean_env(), **LIB, **(env or {})},
                       capture_output=True, text=True, timeout=patience(seconds))
    return r.returncode, r.stdout, r.stderr


def fakes(job):
    return [f for f in os.listdir(LEFT) if f.startswith(f"fake-nccl-{job}-")]


@unittest.skipUnless(os.path.isdir(MODEL), f"skipped: test_nccl: no fixtures at {MODEL}")
class Bits(unittest.TestCase):
    def same(self, argv, tp, pp, processes):
        want = alone(argv)
        both = [*argv, "--comm", "nccl", *mesh(tp, pp)]
        if not processes:
            self.assertEqual(threads(both), (0, want, ""), (argv, tp, pp))
            return
        for r, (code, o, e) in Job(tp * pp, both, env=LIB).finish(120).items():
            self.assertEqual((code, o, e), (0, want if r == 0 else "", ""), (argv, tp, pp))

    def test_threads_and_processes(self):
        for tp, pp, processes in ((2, 1, True), (1, 2, False), (2, 2, False), (2, 2, True)):
            with self.subTest(tp=tp, pp=pp, processes=processes):
                self.same(SHORT, tp, pp, processes)

    def test_eight_ranks(self):
        self.same([*RUN, "-n", "2"], 8, 1, False)

    def test_scores_and_sampling(self):
        for argv in (["score", MODEL, "--ids", IDS, *GPU],
                     ["run", MODEL, "--ids", IDS, "--temp", "0.9", "--seed", "3", "-n", "4", *GPU]):
            self.same(argv, 2, 1, False)

    def test_without_what_is_optional(self):
        env = {"WEFT_NCCL": os.path.join(FAKE, "plain", "libnccl.so.2")}
        self.assertEqual(threads([*SHORT, "--comm", "nccl", "--tp", "2"], env),
                         (0, alone(SHORT), ""))

    def test_sums_and_norms_in_one_kernel(self):
        """Of GPUs of one process, which WEFT_PEER=0 keeps apart."""
        argv, want = [*SHORT, "--comm", "nccl", "--tp", "2"], alone(SHORT)
        for peer, name in (("1", "rank_norm 11 of tp"), ("0", "all_gather 11 of tp")):
            self.assertEqual(threads(argv, {"WEFT_PEER": peer}), (0, want, ""))
            told = threads(argv, {"WEFT_PEER": peer, "WEFT_FAULT": "rank=1,at=11,do=order"})
            self.assertEqual(told[0], 7)
            self.assertIn(name, told[2])

    def test_heads_are_not_always_compared(self):
        for every in ("0", "1", "3"):
            self.assertEqual(threads([*SHORT, "--comm", "nccl", *mesh(2, 2)],
                                     {"WEFT_COMM_CHECK": every}), (0, alone(SHORT), ""))

    MESHES = [(2, 1), (4, 1), (8, 1), (1, 2), (1, 3), (1, 4), (2, 2), (4, 2), (2, 3), (2, 4)]

    @unittest.skipUnless(LONG, "skipped: every mesh: only with WEFT_LONG")
    def test_every_mesh(self):
        checked = 0
        for name in ("llama-tp8", "llama-gqa", "qwen3", "gpt2"):
            model = os.path.join(FIXTURES, "golden", "models", name)
            argv = ["run", model, *RUN[2:], "-n", "4", "--json", "--logprobs", "5"]
            want = alone(argv)
            for tp, pp in self.MESHES:
                if subprocess.run([WEFT, "plan", model, *mesh(tp, pp)], env=clean_env(),
                                  capture_output=True).returncode:
                    continue
                for processes in (False, True):
                    with self.subTest(name=name, tp=tp, pp=pp, processes=processes):
                        self.timeless(argv, want, tp, pp, processes)
                        checked += 1
        print(f"{checked} runs of meshes compared", file=sys.stderr)

    def timeless(self, argv, want, tp, pp, processes):
        strip = lambda t: re.sub(r'"timings":{[^}]*}|"seed":[0-9]*', "", t)
        both = [*argv, "--comm", "nccl", *mesh(tp, pp)]
        got = (Job(tp * pp, both, env=LIB).finish(300)[0] if processes
               else threads(both, seconds=300))
        self.assertEqual((got[0], strip(got[1]), got[2]), (0, strip(want), ""))


@unittest.skipUnless(os.path.isdir(MODEL), f"skipped: test_nccl: no fixtures at {MODEL}")
class Library(unittest.TestCase):
    def refused(self, argv, code, *words, env=None):
        got, _, e = threads(argv, env)
        self.assertEqual(got, code, e)
        self.assertEqual(e.count("\n"), 1, e)
        for w in words:
            self.assertIn(w, e)

    def test_what_cannot_be_used(self):
        argv = [*SHORT, "--comm", "nccl", "--tp", "2"]
        old = {"WEFT_NCCL": os.path.join(FAKE, "old", "libnccl.so.2")}
        self.refused(argv, 2, "cannot be loaded", "/no/such.so", "install NCCL 2.18",
                     env={"WEFT_NCCL": "/no/such.so"})
        self.refused(argv, 2, "does not say its version", env={"WEFT_NCCL": "libm.so.6"})
        self.refused(argv, 2, "is NCCL 2.17.3", "2.18 or newer", env={"FAKE_NCCL_VERSION": "21703"})
        self.refused(argv, 2, "is NCCL 2.8.4", env={"FAKE_NCCL_VERSION": "2804"})
        self.refused(argv, 2, "has no ncclCommInitRankConfig", env=old)

    def test_what_it_is_not_for(self):
        self.refused(["run", MODEL, "--ids", "1", "--comm", "nccl", "--tp", "2"], 2,
                     "moves memory of GPUs", "--comm local")
        self.refused([*SHORT, "--comm", "nccl", "--tp", "8", "--pp", "9"], 2, "--tp times --pp")

    def test_a_rank_without_it(self):
        env = [LIB, {"WEFT_NCCL": "/no/such.so"}]
        out = Job(2, [*SHORT, "--comm", "nccl", "--tp", "2", "--timeout", "3"], env=env).finish()
        self.assertEqual([out[r][0] for r in (0, 1)], [2, 2], out)
        self.assertIn("rank 1 ", out[0][2])
        self.assertIn("cannot be loaded", out[0][2])

    def test_ranks_with_two_versions(self):
        env = [LIB, {**LIB, "FAKE_NCCL_VERSION": "22809"}]
        out = Job(2, [*SHORT, "--comm", "nccl", "--tp", "2", "--timeout", "3"], env=env).finish()
        self.assertEqual([out[r][0] for r in (0, 1)], [7, 7], out)
        for words in ("rank 1", "22809", "22304", "same library"):
            self.assertIn(words, out[0][2])


@unittest.skipUnless(os.path.isdir(MODEL), f"skipped: test_nccl: no fixtures at {MODEL}")
class Faults(unittest.TestCase):
    """FAKE_NCCL strikes inside NCCL, WEFT_FAULT before it."""

    def strike(self, processes, tp, pp, env, rank, what, code=7, most=2 + 2 + 6):
        name = f"n{os.getpid()}x{random.randrange(1 << 20)}"
        argv, env = [*ENDLESS, *mesh(tp, pp)], {**env, "WEFT_JOB": name}
        begin = time.monotonic()
        if processes:
            job = Job(tp * pp, argv, env={**LIB, **env})
            try:
                if what == "stop":
                    for r in range(tp * pp):
                        if r != rank:
                            job.proc[r].wait(patience(30))
                    job.proc[rank].kill()
                out = job.finish(30)
            finally:
                for p in job.proc.values():
                    p.kill()
        else:
            out = {0: threads(argv, env)}
        took = time.monotonic() - begin
        told = "".join(e for _, _, e in out.values())
        for r, (got, _, e) in out.items():
            if r != rank or what not in ("kill", "stop"):
                self.assertEqual(got, code, f"{what}, rank {r}: {told}")
        self.assertNotIn("fake nccl", told)
        self.assertEqual(told.count("weft: error: "), told.count("\n"), told)
        self.assertLess(took, patience(most), (what, told))
        self.assertEqual(segments(name), [])
        self.assertEqual(fakes(name), [], what)
        return told

    def some(self, kinds, few):
        rng = random.Random(int(os.environ.get("WEFT_SEED", "11")))
        for n, (what, processes) in enumerate(kinds * (3 if LONG else few)):
            tp, pp = rng.choice([(2, 1), (1, 2), (2, 2)])
            sends = 1 if tp == 1 and not processes else tp * pp  # a last stage alone sends nothing
            yield n, what, processes, tp, pp, rng.randrange(sends), rng.randrange(2, 30 * tp - 20)

    def test_inside_nccl(self):
        """Who is stuck inside, nobody can see; who fails, says so."""
        kinds = [("hang", True), ("stall", False), ("delay:9", True), ("error", False),
                 ("remote", True), ("kill", True), ("cuda", True), ("error", True),
                 ("hang", False)]
        for n, what, processes, tp, pp, rank, at in self.some(kinds, 1):
            with self.subTest(n=n, what=what, processes=processes, tp=tp, pp=pp, rank=rank, at=at):
                env = {"FAKE_NCCL": f"rank={rank},at={at},do={what}"}
                if n % 2:
                    env["WEFT_COMM_CHECK"] = "0"
                told = self.strike(processes, tp, pp, env, rank, what,
                                   code=8 if what == "cuda" else 7)
                if what in ("error", "cuda", "kill"):
                    self.assertIn(f"rank {rank}", told)
                if what == "error":
                    self.assertIn("internal error; the fake was told to fail", told)
                if what in ("hang", "stall", "delay:9"):
                    self.assertIn("--timeout 2", told)

    def test_in_its_initialisation(self):
        for what, processes in (("error", False), ("hang", False), ("hang", True), ("kill", True)):
            with self.subTest(what=what, processes=processes):
                told = self.strike(processes, 2, 1, {"FAKE_NCCL": f"rank=1,at=0,do={what}"}, 1,
                                   what)
                self.assertIn("rank", told)

    def test_around_nccl(self):
        kinds = [("kill", True), ("stop", True), ("delay:9", True), ("count", False),
                 ("order", True), ("drop", False), ("delay:9", False)]
        for n, what, processes, tp, pp, rank, at in self.some(kinds, 1):
            with self.subTest(n=n, what=what, processes=processes, tp=tp, pp=pp, rank=rank, at=at):
                told = self.strike(processes, tp, pp,
                                   {"WEFT_FAULT": f"rank={rank},at={at},do={what}"}, rank, what,
                                   most=12 if processes else 2 + 9 + 6)
                self.assertIn(f"rank {rank} ", told)

    def test_late_without_heads(self):
        for processes in (False, True):
            told = self.strike(processes, 2, 1, {"WEFT_FAULT": "rank=1,at=20,do=delay:5",
                                                 "WEFT_COMM_CHECK": "0"}, 1, "delay", most=12)
            self.assertIn("rank 1 ", told)
            self.assertIn("is late: ", told)
            self.assertIn("behind all_gather", told)


class Training(Folder):
    def args(self, name, *more, batch="2"):
        return ["train", "--from-scratch", self.path("config.json"), "--steps", "2",
                "--data", self.path("rows.jsonl"), "-o", self.path(name), "--batch-size", batch,
                "--seq-len", "24", *GPU, *more]

    def test_bits(self):
        alone(self.args("one"))
        want = digest(self.path("one"))
        ways = (["--dp", "2", "--zero", "3"], ["--pp", "2", "--micro-batch", "1"])
        for n, way in enumerate(ways):
            argv = self.args(f"threads{n}", *way, "--comm", "nccl")
            code, _, e = threads(argv)
            self.assertEqual(code, 0, e)
            self.assertEqual(digest(self.path(f"threads{n}")), want, way)
        for zero in "12":
            argv = self.args(zero, "--dp", "2", "--zero", zero, "--comm", "nccl", "--json")
            out = Job(2, argv, env=LIB).finish(120)
            for r, (code, _, e) in out.items():
                self.assertEqual(code, 0, (r, e))
            self.assertEqual(digest(self.path(zero)), want)
            done = json.loads(out[0][1])
            self.assertEqual(done["planned_bytes"], done["taken_bytes"])
        code, _, e = threads(self.args("no", "--dp", "2", "--comm", "nccl", "--elastic"))
        self.assertEqual(code, 2)
        self.assertIn("--elastic", e)

    def test_bits_of_slices(self):
        self.use({**TINY, "hidden_size": 64})
        alone(self.args("one", "--dropout", "0.1"))
        code, _, e = threads(self.args("two", "--dropout", "0.1", "--tp", "2", "--comm", "nccl"))
        self.assertEqual(code, 0, e)
        self.assertEqual(digest(self.path("two")), digest(self.path("one")))

    def setUp(self):
        super().setUp()
        self.use(TINY)
        random_rows(self.path("rows.jsonl"), 8, 1)

    def use(self, model):
        with open(self.path("config.json"), "w", encoding="utf-8") as f:
            json.dump(model, f)

    # Streams as far apart as their waits let them be, and nothing else that keeps an order.
    LATE = {"WEFT_EMU_LATE": "2", "WEFT_NCCL_SYNC": "0", "WEFT_COMM_CHECK": "0"}

    def test_exchanges_beside_backward(self):
        self.use({**TINY, "hidden_size": 64})
        common = ("--micro-batch", "1")
        alone(self.args("one", *common, batch="4"))
        want = digest(self.path("one"))
        meshes = [("--dp", "2", "--zero", z) for z in "0123"]
        meshes += [("--tp", "2", "--dp", "2"), ("--pp", "2", "--dp", "2", "--zero", "1")]
        for n, mesh in enumerate(meshes):
            with self.subTest(mesh=mesh):
                argv = self.args(f"out{n}", *common, *mesh, "--comm", "nccl", "--json",
                                 batch="4")
                code, o, e = threads(argv, self.LATE)
                self.assertEqual((code, e), (0, ""))
                self.assertEqual(digest(self.path(f"out{n}")), want)
                done, plan = json.loads(o), self.planned(*common, *mesh)
                self.assertEqual(plan["memory"]["total"], done["planned_bytes"])
                self.assertEqual(plan["sent_bytes"], done["sent_bytes"])
                beside, behind = plan["sent_beside_backward"], plan["sent_behind_backward"]
                self.assertGreater(beside, behind)
                self.assertLessEqual(beside + behind, plan["sent_bytes"])

    def planned(self, *common):
        argv = ["plan", "--train", "--from-scratch", self.path("config.json"), "--json", *GPU,
                "--seq-len", "24", "--batch-size", "4", *common]
        return json.loads(alone(argv))

    def test_faults_beside_backward(self):
        """In the first step, in an exchange of gradients on the second stream."""
        argv = self.args("out", "--dp", "2", "--comm", "nccl", "--timeout", "2")
        for what, at, env in (("kill", 2, self.LATE), ("stop", 5, self.LATE),
                              ("count", 3, self.LATE), ("count", 3, {}), ("order", 6, {}),
                              ("drop", 4, self.LATE)):
            with self.subTest(what=what, at=at, env=env):
                fault = {"WEFT_FAULT": f"rank=1,at={at},do={what}"}
                job = Job(2, argv, env={**LIB, **env, **fault})
                try:
                    job.proc[0].wait(30)
                    job.proc[1].kill()
                    code, _, e = job.finish(30)[0]
                finally:
                    for p in job.proc.values():
                        p.kill()
                self.assertEqual(code, 7, e)
                self.assertIn("rank 1", e)
                self.assertNotIn("fake nccl", e)

if __name__ == "__main__":
    unittest.main(verbosity=1)
