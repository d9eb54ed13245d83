#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is known of GPU kernels without a GPU: the emulator's counters beside the compulsory ones,
the claims, and the gate over nvcc's output where nvcc is."""

import json
import os
import shutil
import subprocess
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("WEFT_BUILD", "build"))


def check(*args):
    return subprocess.run([os.path.join(BUILD, "checkkernels"), *args], capture_output=True,
                          text=True, timeout=600)


def profile(case, blocks):
    out = check("--profile", "--json", "--backend", "emu", "--case", case, "--blocks", str(blocks))
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


class Profile(unittest.TestCase):
    def test_add_moves_three_streams(self):
        row = profile("add:bf16:T=16,N=4096", 0)[0]
        launch = row["launches"][0]
        self.assertEqual(row["bytes"], 3 * 2 * 16 * 4096)
        self.assertEqual((launch["read"], launch["written"]), (2 * 2 * 16 * 4096, 2 * 16 * 4096))
        self.assertEqual(launch["kernel"], "add_k")
        self.assertEqual(launch["sectors"], row["bytes"] // 32)
        self.assertEqual(launch["requests"], row["bytes"] // 512)

    def test_some_blocks_stand_for_all(self):
        whole, some = (profile("add:bf16:T=16,N=4096", n)[0]["launches"][0] for n in (0, 4))
        self.assertEqual(some.pop("ran"), 4)
        self.assertEqual(whole.pop("ran"), 32)
        self.assertEqual(some, whole)

    def test_mma_is_the_least(self):
        rows = {r["row"]: r for r in profile("matmul:bf16:T=8,N=128,K=64", 0)}
        launch = rows["mma"]["launches"][0]
        self.assertEqual(launch["mma"], 2 * 8 * 128 * 64 // 4096)

    def test_words(self):
        out = check("--profile", "--op", "add", "--backend", "emu")
        self.assertEqual(out.returncode, 0, out.stderr)
        self.assertIn("(x1.00)", out.stdout)
        self.assertIn("16.00 sectors a request, 100 %", out.stdout)
        self.assertEqual(check("--profile", "--case", "add:bf16:T=0,N=1").returncode, 2)


class Gate(unittest.TestCase):
    def test_claims_are_lines_of_json(self):
        out = check("--claims")
        claims = [json.loads(line) for line in out.stdout.splitlines()]
        self.assertEqual(out.returncode, 0)
        self.assertIn("add_k", [c["kernel"] for c in claims])
        self.assertTrue(all(32 <= c["threads"] <= 1024 and c["blocks"] >= 1 for c in claims))

    @unittest.skipUnless(shutil.which("nvcc"), "no nvcc")
    def test_broken_kernels_are_found(self):
        if subprocess.run([os.path.join(ROOT, "scripts", "setup"), "--cuda-tools", "--check"],
                          capture_output=True).returncode:
            self.skipTest("no cuobjdump and nvdisasm: scripts/setup --cuda-tools")
        out = subprocess.run([os.path.join(ROOT, "scripts", "sass-gate"), "--self-test"],
                             capture_output=True, text=True, timeout=300)
        self.assertEqual(out.returncode, 0, out.stdout + out.stderr)


if __name__ == "__main__":
    unittest.main()
