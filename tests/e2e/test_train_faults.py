# SPDX-License-Identifier: Apache-2.0
"""Random faults of training ranks: whatever strikes whichever rank at whichever exchange, no job
hangs, nothing remains of it, the report names the rank and what it did, and with --elastic the
numbers in the end are those of a run that nothing happened to.

WEFT_SEED chooses others, WEFT_LONG makes them many."""

import collections
import concurrent.futures
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import test_ranks
from test_elastic import LINE, STEPS, state
from test_train import digest, random_rows, run
from test_train_ranks import WIDE

LONG = bool(os.environ.get("WEFT_LONG"))
SEED = int(os.environ.get("WEFT_SEED", "17"))
COUNT, AT_ONCE = (200, 3) if LONG else (16, 4)
TIMEOUT = 3
SLACK = 12  # of a loaded machine, to start and to end; the deadline itself is TIMEOUT + 2
KINDS = ("kill", "stop", "delay:9", "drop", "count", "order", "nan", "garbage")
MESHES = (
    ("--dp", "2"), ("--dp", "2", "--zero", "1"), ("--dp", "2", "--zero", "2"),
    ("--dp", "4"), ("--dp", "4", "--zero", "1"), ("--dp", "4", "--zero", "2"),
    ("--dp", "4", "--zero", "3"), ("--tp", "2", "--dp", "2"), ("--pp", "2", "--dp", "2"),
    ("--tp", "2", "--pp", "2", "--zero", "1"), ("--pp", "2", "--interleave", "2", "--dp", "2"),
    ("--dp", "8", "--zero", "1"),
)
# What a report says of the rank: the collective it is in or behind, or what it sent or believes.
PLACE = r"(?:(?:in|behind) \w+ \d+ of \w+|before its first collective)"
Case = collections.namedtuple("Case", "n what mesh rank at elastic")


def ranks_of(mesh):
    n = 1
    for flag, value in zip(mesh, mesh[1:]):
        n *= int(value) if flag in ("--dp", "--tp", "--pp") else 1
    return n


def cases():
    rng = random.Random(SEED)
    for n in range(COUNT):
        mesh = rng.choice(MESHES)
        at = int(10 ** rng.uniform(0.8, 2.8))
        yield Case(n, KINDS[n // 2 % len(KINDS)], mesh, rng.randrange(ranks_of(mesh)), at,
                   n % 2 == 0)


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="weft-faults-")
        with open(cls.path("config.json"), "w", encoding="utf-8") as f:
            json.dump(WIDE, f)
        random_rows(cls.path("rows.jsonl"), 40, 1)
        began = time.monotonic()
        r = run(*cls.args("base", *STEPS))
        assert r.returncode == 0, r.stderr
        cls.usual = time.monotonic() - began
        cls.base = digest(cls.path("base"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    @classmethod
    def path(cls, *name):
        return os.path.join(cls.dir, *name)

    @classmethod
    def args(cls, name, *more):
        return ["train", "--from-scratch", cls.path("config.json"), "--seed", "3", "--data",
                cls.path("rows.jsonl"), "-o", cls.path(name), "--lr", "1e-2", "--seq-len", "24",
                *more]

    @classmethod
    def end_of(cls, name):
        return digest(cls.path(name)) if os.path.isdir(cls.path(name, "checkpoints")) else None

    # ---- one job ----

    def start(self, c, name):
        more = ("--elastic",) if c.elastic else ()
        fault = "" if c.what == "garbage" else f"rank={c.rank},at={c.at},do={c.what}"
        argv = self.args(name, *STEPS, *c.mesh, "--timeout", str(TIMEOUT), *more)
        return test_ranks.Job(ranks_of(c.mesh), argv, env={"WEFT_FAULT": fault, "WEFT_JOB": name})

    def knock(self, job, over, rng):
        """Strangers at the port where ranks meet, as long as the job begins."""
        while not over.is_set() and any(p.poll() is None for p in job.proc.values()):
            try:
                with socket.create_connection(("127.0.0.1", job.port), timeout=1) as s:
                    s.sendall(rng.randbytes(rng.choice((0, 1, 40, 400, 20000))))
            except OSError:
                time.sleep(0.005)

    def wait_for(self, c, job, limit):
        """What became of each rank: its exit code and words; and how long all but it took."""
        began, over = time.monotonic(), threading.Event()
        if c.what == "garbage":
            t = threading.Thread(target=self.knock, args=(job, over, random.Random(c.n)))
            t.start()
        stopped = job.proc[c.rank] if c.what == "stop" else None
        try:
            for r, p in job.proc.items():
                if p is not stopped:
                    p.wait(max(began + limit - time.monotonic(), 0.1))
            took = time.monotonic() - began
            if stopped and stopped.poll() is None and state(stopped.pid) == "T":
                stopped.send_signal(signal.SIGCONT)
            return job.finish(15), took
        finally:
            over.set()
            if c.what == "garbage":
                t.join()
            for p in job.proc.values():
                if p.poll() is None:
                    p.kill()
                    p.communicate()

    def strike(self, c):
        """None: the run was over before the fault."""
        name = f"ft{os.getpid()}n{c.n}a{c.at}"
        limit = 4 * self.usual + TIMEOUT + 2 + SLACK
        out, took = self.wait_for(c, self.start(c, name), limit)
        told = "".join(e for _, _, e in out.values())
        codes = {r: o[0] for r, o in out.items()}
        where = (c, codes, told)
        self.assertEqual(test_ranks.segments(name), [], where)
        if "(agree, " in told:  # ranks that differ before they begin are no job to go on with
            c = c._replace(elastic=False)
        struck = "warning: rank" in told or "error" in told or codes[c.rank] not in (0,)
        if not struck or c.elastic:
            self.assertEqual(self.end_of(name), self.base, where)
        shutil.rmtree(self.path(name), ignore_errors=True)
        if struck:
            (self.check_elastic if c.elastic else self.check_end)(c, codes, told, where)
        return took if struck or c.what == "garbage" else None

    # ---- what is to be said of it ----

    def check_report(self, c, text, where):
        if "disagree" in text:
            self.assertRegex(text, rf"rank {c.rank} (?:is )?in \w+ \d+ of \w+", where)
            self.assertIn(c.what, ("count", "order", "drop"), where)
        elif c.what == "nan":
            self.assertRegex(text, rf"rank {c.rank} \(\S+\) sent NaN in \w+ \d+ of \w+, ", where)
        else:
            self.assertRegex(text, rf"rank {c.rank} \(\S+\) (?:is gone|does not answer|is late): "
                                   rf"last seen {PLACE}", where)

    def check_end(self, c, codes, told, where):
        for r, code in codes.items():
            self.assertEqual(code, -9 if r == c.rank and c.what == "kill" else 7, where)
        self.check_report(c, told, where)
        self.assertRegex(told, r"--resume auto goes on from |there is no checkpoint yet", where)

    def check_elastic(self, c, codes, told, where):
        lines = LINE.findall(told)
        self.assertEqual(len(lines), 1, where)
        self.check_report(c, lines[0][0], where)
        left = (0,) if "disagree" in told else {"kill": (-9,)}.get(c.what, (7,))
        for r, code in codes.items():
            self.assertIn(code, left if r == c.rank else (0,), where)

    # ---- all of them ----

    def until_struck(self, c):
        while True:
            took = self.strike(c)
            if took is not None or c.at < 4:
                return c, took
            c = c._replace(at=c.at // 2)

    # ---- ranks that are threads ----

    def strike_threads(self, c):
        name = f"ft{os.getpid()}t{c.n}a{c.at}"
        argv = self.args(name, *STEPS, *c.mesh, "--timeout", "1",
                         *(("--elastic",) if c.elastic else ()))
        env = {**test_ranks.clean_env(), "WEFT_JOB": name,
               "WEFT_FAULT": f"rank={c.rank},at={c.at},do={c.what}"}
        r = subprocess.run([test_ranks.WEFT, *argv], env=env, capture_output=True, text=True,
                           timeout=4 * self.usual + 1 + 2 + SLACK)
        where = (c, r.returncode, r.stderr)
        self.assertEqual(test_ranks.segments(name), [], where)
        self.assertEqual(r.returncode, 0 if c.elastic or not r.stderr else 7, where)
        if r.returncode == 0:
            self.assertEqual(self.end_of(name), self.base, where)
        if r.stderr:
            self.assertRegex(r.stderr, rf"^weft: \w+: .*rank {c.rank} ", where)
            self.assertEqual("going on from" in r.stderr, c.elastic, where)
        shutil.rmtree(self.path(name), ignore_errors=True)
        return bool(r.stderr)

    def test_random_faults_of_threads(self):
        rng, kinds = random.Random(SEED + 1), ("delay:4", "drop", "count", "order", "nan")
        struck = 0
        for n in range(100 if LONG else 10):
            mesh = rng.choice(MESHES)
            c = Case(n, kinds[n // 2 % 5], mesh, rng.randrange(ranks_of(mesh)),
                     int(10 ** rng.uniform(0.8, 2.4)), n % 2 == 0)
            with self.subTest(c):
                while not self.strike_threads(c) and c.at > 3:
                    c = c._replace(at=c.at // 2)
                struck += c.at > 3
        self.assertGreater(struck, n // 2)

    def test_nan_from_a_slice(self):
        """In whichever exchange it goes out: computed again the step is finite."""
        for at in (20, 47, 61, 90):
            c = Case(at, "nan", ("--tp", "2"), 1, at, at % 2 == 0)
            with self.subTest(c):
                self.assertIsNotNone(self.strike(c))

    def test_random_faults(self):
        seen, longest = collections.Counter(), 0
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for future in [pool.submit(self.until_struck, c) for c in cases()]:
                with self.subTest(future):
                    c, took = future.result()
                    self.assertIsNotNone(took, c)
                    seen[c.what, c.elastic] += 1
                    longest = max(longest, took)
        self.assertEqual(len(seen), 2 * len(KINDS), seen)
        if LONG:
            print(f"{sum(seen.values())} faults, the longest took {longest:.1f} s",
                  file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
