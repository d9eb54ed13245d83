#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Replicas (--dp) share one queue of lines. Every answer is what one replica gives, whatever the
mesh and however its ranks talk; a replica that is slow holds up no other; a rank that fails ends
the job, and nothing whole is lost. WEFT_LONG=1 does more of each."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
import unittest

import test_batch
import test_ranks
from test_batch import DEMO, WEFT, read, simple, weft

LONG = test_batch.LONG
MESHES = [(2, 1, 1), (4, 1, 1), (2, 2, 1), (2, 1, 2), (4, 2, 1), (2, 2, 2)]  # dp, tp, pp
HAVE_MPI = shutil.which("mpirun") and os.path.exists(
    os.path.join(test_ranks.BUILD, "libweft_mpi.so"))
FAKE_NCCL = os.path.join(test_ranks.BUILD, "tests", "fake", "libnccl.so.2")


def mesh_args(dp, tp, pp):
    return ["--dp", dp, "--tp", tp, "--pp", pp]


class Replicas(test_batch.Case):
    def argv(self, src, out, *more):
        return ["batch", DEMO, "-i", src, "-o", self.path(out), "--chat-template",
                test_batch.TEMPLATE, "--seed", "6", *map(str, more)]

    def job(self, ranks, src, out, *more, **kw):
        return test_ranks.Job(ranks, self.argv(src, out, *more), **kw)

    def finish(self, job, seconds=90):
        out = job.finish(seconds)
        told = "".join(e for _, _, e in out.values())
        return [out[r][0] for r in sorted(out)], told, out[0][1] if 0 in out else ""

    def mpirun(self, ranks, argv):
        env = {**test_ranks.clean_env(), **test_ranks.MPI}
        subprocess.run(["mpirun", "--oversubscribe", "-n", str(ranks), WEFT, *argv, "--comm",
                        "mpi"], env=env, check=True, capture_output=True, timeout=120)


class Answers(Replicas):
    def setUp(self):
        super().setUp()
        rng = random.Random(31)
        self.bodies = [test_batch.request(rng, i) for i in range(120 if LONG else 40)]
        lines = [test_batch.as_line(rng, b, i) for i, b in enumerate(self.bodies)]
        self.src = self.write(lines + [{"promt": "?"}])
        weft(*self.argv(self.src, "one.jsonl"), code=3)
        self.want = [read(self.path("one.jsonl")), read(self.path("one.errors.jsonl"))]

    def same(self, out, mesh):
        got = [read(self.path(f"{out}.jsonl")), read(self.path(f"{out}.errors.jsonl"))]
        self.assertEqual(got, self.want, mesh)

    def test_threads(self):
        for k, mesh in enumerate(MESHES):
            text = weft(*self.argv(self.src, f"t{k}.jsonl", *mesh_args(*mesh), "--max-seqs", 6,
                                   "--json"), code=3)
            self.same(f"t{k}", mesh)
            by = json.loads(text)["lines_by_replica"]
            self.assertEqual((len(by), sum(by)), (mesh[0], len(self.bodies) + 1))
            self.assertGreater(min(by), 0, mesh)

    def test_processes(self):
        for k, mesh in enumerate(MESHES if LONG else MESHES[:4] + MESHES[5:]):
            job = self.job(mesh[0] * mesh[1] * mesh[2], self.src, f"p{k}.jsonl", *mesh_args(*mesh),
                           "--max-seqs", 6)
            codes, told, _ = self.finish(job)
            self.assertEqual(set(codes), {3}, told)
            self.same(f"p{k}", mesh)

    @unittest.skipUnless(HAVE_MPI, "skipped: mpirun: no Open MPI here")
    def test_mpi(self):
        good = self.write(simple(30), "good.jsonl")
        weft(*self.argv(good, "good-one.jsonl"))
        for k, mesh in enumerate(MESHES if LONG else [(2, 1, 1), (2, 2, 1), (2, 2, 2)]):
            ranks = mesh[0] * mesh[1] * mesh[2]
            self.mpirun(ranks, self.argv(good, f"m{k}.jsonl", *mesh_args(*mesh)))
            self.assertEqual(read(self.path(f"m{k}.jsonl")), read(self.path("good-one.jsonl")))

    @unittest.skipUnless(os.path.exists(FAKE_NCCL), "skipped: nccl: no fake one is built")
    def test_gpus_over_nccl(self):
        few = self.write([{"prompt": [5, 9 + i], "max_tokens": 2, "temperature": 0,
                           "ignore_eos": True} for i in range(3)], "few.jsonl")
        more = ["--device", "emu", "-c", "32"]
        weft(*self.argv(few, "e1.jsonl", *more))
        job = self.job(2, few, "e2.jsonl", *more, "--dp", 2, "--comm", "nccl",
                       env={"WEFT_NCCL": FAKE_NCCL})
        codes, told, _ = self.finish(job)
        self.assertEqual(codes, [0, 0], told)
        self.assertEqual(read(self.path("e2.jsonl")), read(self.path("e1.jsonl")))

    def test_each_line_is_what_run_gives_alone(self):
        weft(*self.argv(self.src, "a.jsonl", "--dp", 2, "--tp", 2), code=3)
        answers = test_batch.lines_of(self.path("a.jsonl"))
        check = test_batch.Answers("check")
        for i in range(0, len(self.bodies), 1 if LONG else 8):
            check.check(self.bodies[i], answers[i], i)

    def test_order_finished_has_the_same_lines(self):
        weft(*self.argv(self.src, "f.jsonl", "--dp", 2, "--order", "finished"), code=3)
        self.assertEqual(sorted(read(self.path("f.jsonl")).splitlines()),
                         sorted(self.want[0].splitlines()))

    def test_a_pipe_is_shared_too(self):
        lines = [x for x in simple(20) if x["temperature"] == 0]
        text = "".join(json.dumps(x) + "\n" for x in lines)
        one = weft("batch", DEMO, "-i", "-", "-o", "-", "--seed", 1, text=text)
        two = weft("batch", DEMO, "-i", "-", "-o", "-", "--seed", 1, "--dp", 2, text=text)
        self.assertEqual(one, two)


class Sharing(Replicas):
    def test_a_slow_replica_holds_up_no_other(self):
        """One rank of replica 1 sleeps: its lines wait, the others are answered meanwhile."""
        src = self.write(simple(120, tokens=40))
        weft(*self.argv(src, "one.jsonl"))
        job = self.job(4, src, "out.jsonl", "--dp", 2, "--tp", 2, "--max-seqs", 4, "--json",
                       env={"WEFT_FAULT": "rank=3,at=60,do=delay:8"})
        codes, told, text = self.finish(job)
        self.assertEqual(codes, [0, 0, 0, 0], told)
        self.assertEqual(read(self.path("out.jsonl")), read(self.path("one.jsonl")))
        by = json.loads(text)["lines_by_replica"]
        self.assertEqual(sum(by), 120)
        self.assertGreater(by[0], 2 * by[1], by)

    def test_fewer_lines_than_replicas(self):
        src = self.write(simple(2))
        weft(*self.argv(src, "one.jsonl"))
        weft(*self.argv(src, "out.jsonl", "--dp", 4))
        self.assertEqual(read(self.path("out.jsonl")), read(self.path("one.jsonl")))
        empty = self.write([], "empty.jsonl")
        codes, told, _ = self.finish(self.job(2, empty, "e.jsonl", "--dp", 2))
        self.assertEqual((codes, told), ([0, 0], ""))


class Interruptions(Replicas):
    def lines(self, n):
        return [x if i % 12 != 7 else {"promt": "?"} for i, x in enumerate(simple(n, tokens=60))]

    def size(self):
        return sum(os.path.getsize(self.path(x)) for x in ("out.jsonl", "out.errors.jsonl")
                   if os.path.exists(self.path(x)))

    def same(self):
        for x in ("", ".errors"):
            self.assertEqual(read(self.path(f"out{x}.jsonl")), read(self.path(f"want{x}.jsonl")))

    def test_killed_at_random_times(self):
        kills, rng = 20 if LONG else 4, random.Random(17)
        src = self.write(self.lines(200 if LONG else 120))
        weft(*self.argv(src, "want.jsonl"), code=3)
        share = len(read(self.path("want.jsonl"))) / (kills + 1)
        interrupted = 0
        for _ in range(kills):
            p = subprocess.Popen([WEFT, *self.argv(src, "out.jsonl", "--dp", 2, "-t", 2,
                                                   "--max-seqs", 4)],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until = self.size() + rng.uniform(0, 1.5 * share)
            while p.poll() is None and self.size() < until:
                time.sleep(0.0005)
            p.kill()
            interrupted += p.wait() == -signal.SIGKILL
        weft(*self.argv(src, "out.jsonl", "--tp", 2), code=3)  # on another mesh
        self.assertGreater(interrupted, kills // 2)
        self.same()

    def test_a_rank_that_is_killed_or_stops_ends_the_job(self):
        src = self.write(self.lines(150))
        weft(*self.argv(src, "want.jsonl"), code=3)
        cases = [("kill", 1, ["--dp", 2]), ("stop", 3, ["--dp", 2, "--tp", 2]),
                 ("kill", 2, ["--dp", 2, "--tp", 2])]
        for what, rank, mesh in cases:
            ranks, begin = 2 if len(mesh) == 2 else 4, time.monotonic()
            if os.path.exists(self.path("out.jsonl")):
                os.remove(self.path("out.jsonl"))
                os.remove(self.path("out.errors.jsonl"))
            job = self.job(ranks, src, "out.jsonl", *mesh, "--max-seqs", 2, "--timeout", 3)
            while self.size() < 3000 and job.proc[0].poll() is None:
                time.sleep(0.001)
            job.proc[rank].send_signal(signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            for r in set(range(ranks)) - {rank}:
                self.assertEqual(job.proc[r].wait(30), 7, (what, mesh, r))
            job.proc[rank].kill()
            _, told, _ = self.finish(job)
            self.assertIn(f"rank {rank} ", told)
            self.assertLess(time.monotonic() - begin, 3 + 2 + 6)
            test_batch.lines_of(self.path("out.jsonl"))  # whole lines
            kept = read(self.path("out.jsonl"))
            self.assertTrue(read(self.path("want.jsonl")).startswith(kept) and kept)
            codes, told, _ = self.finish(self.job(ranks, src, "out.jsonl", *mesh))
            self.assertEqual(set(codes), {3}, told)
            self.same()

    def test_rank_0_is_asked_to_stop(self):
        src = self.write(simple(400, tokens=200))
        job = self.job(4, src, "out.jsonl", "--dp", 2, "--tp", 2)
        while self.size() < 1000 and job.proc[0].poll() is None:
            time.sleep(0.002)
        job.proc[0].send_signal(signal.SIGTERM)
        codes, told, _ = self.finish(job)
        self.assertEqual((codes, told), ([143] * 4, ""))
        test_batch.lines_of(self.path("out.jsonl"))


class Others(Replicas):
    def test_score_deals_windows_out(self):
        text = "The sea was calm, and the ship went on. " * 60
        with open(self.path("text"), "w", encoding="utf-8") as f:
            f.write(text)
        argv = ["score", DEMO, "-f", self.path("text"), "-c", "64", "--stride", "40", "--json"]
        want = weft(*argv)
        for more in (["--dp", 2], ["--dp", 3, "--tp", 2]):
            self.assertEqual(weft(*argv, *more), want)
        for ranks, more in ((2, ["--dp", "2"]), (4, ["--dp", "2", "--pp", "2"])):
            out = test_ranks.Job(ranks, [*argv, *more]).finish()
            self.assertEqual([c for c, _, _ in out.values()], [0] * ranks, out)
            self.assertEqual(out[0][1], want)

    def test_more_replicas_than_there_is_to_do(self):
        weft("run", DEMO, "-p", "It was", "--dp", 2, code=2)
        self.assertIn("--dp: 2 replicas for one sequence; possible: 1", weft.err)
        weft("score", DEMO, "--ids", "1,2,3", "--dp", 2, code=2)
        self.assertIn("--dp: 2 replicas for 1 window of the text; possible: 1", weft.err)
        weft("plan", DEMO, "--dp", 65, code=2)
        weft("plan", DEMO, "--dp", 32, "--tp", 4, code=2)
        self.assertIn("--dp times --tp times --pp: 128 is not in 1..64", weft.err)
        src = self.write(simple(2))
        env = {**test_ranks.clean_env(), **test_ranks.torchrun(0, 3, 1)}
        weft(*self.argv(src, "o.jsonl", "--dp", 2), code=2, env=env)
        self.assertIn("--dp 2 --tp 1 --pp 1: 2 ranks, but torchrun started 3", weft.err)

    def test_plan_is_a_replica_s_for_each(self):
        args = ["plan", DEMO, "--tp", 2, "--pp", 2, "--json"]
        one = json.loads(weft(*args))
        many = json.loads(weft(*args, "--dp", 3))
        self.assertEqual(len(many["ranks"]), 12)
        for i, r in enumerate(many["ranks"]):
            self.assertEqual((r["rank"], r["replica"]), (i, i // 4))
            same = {k: v for k, v in one["ranks"][i % 4].items() if k not in ("rank", "replica")}
            self.assertEqual({k: r[k] for k in same}, same)
        self.assertEqual(many["steps"], one["steps"])

    def test_bench_adds_up(self):
        for text in (weft("bench", DEMO, "-p", 8, "-n", 4, "-r", 1, "--dp", 2, "--json"),
                     test_ranks.Job(2, ["bench", DEMO, "-p", "8", "-n", "4", "-r", "1", "--dp",
                                        "2", "--json"]).finish()[0][1]):
            rows = json.loads(text)
            self.assertEqual([r["test"] for r in rows], ["pp8", "tg4"])
            self.assertGreater(min(r["tok_s"] for r in rows), 0)


if __name__ == "__main__":
    unittest.main()
