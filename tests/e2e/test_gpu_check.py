# SPDX-License-Identifier: Apache-2.0
"""scripts/gpu-check and checkkernels --jobs on a machine without a GPU: the emulator stands in, and
broken tools show that what fails, hangs or lies is found."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest
import xml.etree.ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build"))
CHECK = os.path.join(BUILD, "checkkernels")
GPU_CHECK = os.path.join(ROOT, "scripts", "gpu-check")
FIXTURES = os.environ.get(
    "WEFT_FIXTURES", os.path.join(os.path.dirname(ROOT), "shared", "fixtures"))


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, 0o755)


class Jobs(unittest.TestCase):
    def check(self, *args):
        return subprocess.run([CHECK, *args], capture_output=True, text=True, timeout=300)

    def test_shares_are_the_whole(self):
        whole = json.loads(self.check("--op", "glu", "--backend", "cpu", "--json").stdout)
        r = self.check("--op", "glu", "--backend", "cpu", "--json", "--jobs", "2")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(json.loads(r.stdout), whole)
        self.assertGreater(whole["cases"], 100)

    def test_what_never_ends_is_killed_and_named(self):
        r = self.check("--op", "sample", "--backend", "ref", "--jobs", "2", "--timeout", "0")
        self.assertEqual(r.returncode, 2)
        r = self.check("--op", "matmul", "--backend", "emu", "--jobs", "8", "--timeout", "1")
        self.assertEqual(r.returncode, 1, r.stdout)
        self.assertIn("no answer in time, killed", r.stdout)

    def test_a_share_is_a_share(self):
        first = self.check("--op", "add", "--backend", "cpu", "--shard", "0/2", "--json").stdout
        second = self.check("--op", "add", "--backend", "cpu", "--shard", "1/2", "--json").stdout
        a, b = json.loads(first)["cases"], json.loads(second)["cases"]
        whole = json.loads(self.check("--op", "add", "--backend", "cpu", "--json").stdout)["cases"]
        self.assertEqual(a + b, whole)
        self.assertTrue(a and b)
        self.assertEqual(self.check("--op", "add", "--shard", "2/2").returncode, 2)

    def test_a_time_is_kept(self):
        start = time.monotonic()
        r = self.check("--backend", "emu", "--op", "matmul", "--seconds", "2")
        self.assertEqual(r.returncode, 0, r.stdout)
        self.assertIn("skipped what was left after 2 seconds", r.stdout)
        self.assertLess(time.monotonic() - start, 60)

    def test_every_shape_that_is_measured_is_a_case(self):
        r = self.check("--bench", "--list")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("matmul:bf16:T=8192,N=8192,K=8192", r.stdout)
        self.assertGreater(r.stdout.count("\n"), 100)


class GpuCheck(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)
        self.out = os.path.join(self.dir, "out")

    def run_it(self, *args):
        r = subprocess.run([GPU_CHECK, "--out", self.out, "--device", "emu", *args],
                           capture_output=True, text=True, timeout=500)
        path = os.path.join(self.out, "gpu-check.json")
        with open(path, encoding="utf-8") as f:
            return r, json.load(f)["parts"]

    def fake(self, name, body):
        put(os.path.join(self.dir, "build", name), "#!/bin/sh\n" + body)
        return os.path.join(self.dir, "build")

    def test_the_emulator_passes(self):
        r, parts = self.run_it("--build", BUILD, "--parts", "doctor,probe,check,bench,trials")
        self.assertEqual(r.returncode, 0, r.stdout)
        self.assertGreater(parts["check"]["tally"]["cases"], 20)
        self.assertEqual(parts["trials"]["tallies"]["1b"]["differ"], 0)
        self.assertIn("skipped", parts["probe"])
        r, _ = self.run_it("--build", BUILD, "--parts", "check")
        self.assertIn("check: kept", r.stdout)

    def test_failures_are_seen(self):
        build = self.fake("checkkernels", 'echo "FAIL cuda/x y" >&2\n'
                          'echo \'{"cases":7,"failed":1,"skipped":0}\'\nexit 1\n')
        r, parts = self.run_it("--build", build, "--parts", "check")
        self.assertEqual(r.returncode, 1)
        self.assertFalse(parts["check"]["ok"])
        self.assertEqual(parts["check"]["fails"], ["FAIL cuda/x y"])

    def test_nothing_checked_is_no_success(self):
        build = self.fake("checkkernels", 'echo \'{"cases":0,"failed":0,"skipped":9}\'\n')
        r, parts = self.run_it("--build", build, "--parts", "check")
        self.assertEqual(r.returncode, 1)
        self.assertFalse(parts["check"]["ok"])

    def test_one_that_hangs_costs_its_own_time(self):
        build = self.fake("weft", "sleep 1000\n")
        start = time.monotonic()
        r, parts = self.run_it("--build", build, "--parts", "doctor", "--minutes", "0.1")
        self.assertEqual(r.returncode, 1)
        self.assertFalse(parts["doctor"]["ok"])
        self.assertLess(time.monotonic() - start, 30)

    @unittest.skipUnless(os.path.isdir(FIXTURES), f"no fixtures in {FIXTURES}")
    def test_goldens(self):
        packed = os.path.join(self.dir, "goldens")
        r = subprocess.run([os.path.join(ROOT, "scripts", "gpu-goldens"), packed, "--fixtures",
                            FIXTURES], capture_output=True, text=True, timeout=60)
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(packed) for f in fs)
        self.assertLess(size, 20 << 20)
        r, parts = self.run_it("--build", BUILD, "--parts", "goldens", "--goldens", packed)
        self.assertEqual(r.returncode, 0, r.stdout)
        path = os.path.join(packed, "mistral-swa", "golden.json")
        with open(path, encoding="utf-8") as f:
            golden = json.load(f)
        golden["greedy"]["ids"][3] += 1
        put(path, json.dumps(golden))
        r, parts = self.run_it("--build", BUILD, "--parts", "goldens", "--goldens", packed,
                               "--again")
        self.assertEqual(r.returncode, 1)
        self.assertIn("greedy", " ".join(parts["goldens"]["lines"]))


class Roofline(unittest.TestCase):
    ROWS = [{"op": "matmul", "shape": "T=1<&>", "row": "mma", "dtype": "bf16", "us": 9.0,
             "tflop_s": 3.5, "gb_s": 3600.0},
            {"op": "add", "shape": "T=1", "row": "add", "dtype": "bf16", "us": 9.0, "tflop_s": 0.0,
             "gb_s": 3600.0},
            {"op": "ceilings", "card": "a card", "read_gb_s": 4000.0, "mma_tflop_s": 600.0,
             "fma_tflop_s": 60.0}]

    def draw(self, rows):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            json.dump(rows, f)
            f.flush()
            return subprocess.run([os.path.join(ROOT, "bench", "roofline"), f.name],
                                  capture_output=True, text=True, timeout=30)

    def test_points_and_roofs(self):
        r = self.draw(self.ROWS)
        self.assertEqual(r.returncode, 0, r.stderr)
        root = xml.etree.ElementTree.fromstring(r.stdout)
        tags = [e.tag.split("}")[1] for e in root.iter()]
        self.assertEqual((tags.count("circle"), tags.count("polyline")), (1, 2))
        self.assertIn("matmul bf16 T=1<&> mma: 9.0 us", [e.text for e in root.iter()])

    def test_nothing_to_draw(self):
        self.assertEqual(self.draw(self.ROWS[1:]).returncode, 1)
        self.assertEqual(self.draw(self.ROWS[:1]).returncode, 1)


if __name__ == "__main__":
    unittest.main()
