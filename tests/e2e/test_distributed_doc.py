#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every command of docs/DISTRIBUTED.md runs and ends as the page says."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")))
MODEL = os.path.join(ROOT, "bench", "models", "demo")


def blocks():
    with open(os.path.join(ROOT, "docs", "DISTRIBUTED.md")) as f:
        found = re.findall(r"^```\n(.*?)^```", f.read(), re.S | re.M)
    return [b for b in found if not b.startswith("weft: error")]


class Page(unittest.TestCase):
    def run_block(self, text):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_", "OMPI_"))}
        env.update(IN=os.path.join(self.dir, "in.jsonl"), OUT=os.path.join(self.dir, "out.jsonl"),
                   PATH=BUILD + os.pathsep + env["PATH"], MODEL=MODEL,
                   OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        want = re.search(r"# exit code (\d+)", text)
        r = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True,
                           timeout=120)
        self.assertEqual(r.returncode, int(want.group(1)) if want else 0, text + r.stderr)
        return r.stdout

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        with open(os.path.join(self.dir, "in.jsonl"), "w") as f:
            f.write('{"prompt": "It was", "max_tokens": 4}\n' * 6)

    def test_commands(self):
        self.assertGreater(len(blocks()), 5)
        ids = set()
        for text in blocks():
            if "doctor" in text:
                continue
            if "mpirun" in text and not (shutil.which("mpirun") and os.path.exists(
                    os.path.join(BUILD, "libweft_mpi.so"))):
                continue
            with self.subTest(text):
                out = self.run_block(text)
                if " -n 4 " in text:
                    ids.add(out)
        self.assertEqual(len(ids), 1, "the same tokens however ranks are started")

    def test_doctor(self):
        env = {**os.environ, "WEFT_FAULT": "rank=1,at=9,do=delay:20"}
        job = subprocess.Popen([os.path.join(BUILD, "weft"), "run", MODEL, "--ids", "1,2", "-n",
                                "50", "--tp", "2", "--timeout", "60"], env=env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(50):
                r = subprocess.run(["bash", "-c", next(b for b in blocks() if "doctor" in b)],
                                   env={**env, "PATH": BUILD + os.pathsep + env["PATH"]},
                                   capture_output=True, text=True)
                if r.returncode == 0:
                    break
            self.assertIn("rank 0 of", r.stdout, r.stderr)
        finally:
            job.kill()
            job.wait()
            for name in os.listdir("/dev/shm"):
                if name.startswith("weft-") and name.endswith(f"--1-{job.pid}"):
                    os.unlink(os.path.join("/dev/shm", name))


if __name__ == "__main__":
    unittest.main()
