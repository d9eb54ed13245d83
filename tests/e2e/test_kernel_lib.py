#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rows from outside: the examples of docs/examples, built as they say, checked, chosen and
measured like built-in ones; and every library that is none."""

import os
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("WEFT_BUILD", "build"))
SANITIZED = os.path.basename(BUILD) in ("asan", "tsan")
DEMO = os.path.join(ROOT, "bench", "models", "demo")

ROW = """#include "weft/kernel_lib.h"
static void run(const weft_step *step, weft_stream *s) { (void)step, (void)s; }
WEFT_KERNEL_LIBRARY = {{.op = %s, .backend = "%s", .name = "odd", .arith = %s, .run = %s},
                       WEFT_KERNEL_LIBRARY_END};
"""


class Libraries(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.addCleanup(self.tmp.cleanup)
        self.lib = os.path.join(self.tmp.name, "mine.so")

    def build(self, source, *flags, cc="gcc"):
        subprocess.run([cc, "-shared", "-fPIC", "-Iinclude", *flags, source, "-o", self.lib],
                       cwd=ROOT, check=True)

    def build_text(self, text, *flags):
        source = os.path.join(self.tmp.name, "mine.c")
        with open(source, "w", encoding="utf-8") as f:
            f.write(text)
        self.build(source, *flags)

    def run_with(self, program, *args, **env):
        return subprocess.run([os.path.join(BUILD, program), *args], capture_output=True,
                              text=True, timeout=600,
                              env=dict(os.environ, WEFT_KERNEL_LIB=self.lib, **env))

    def refused(self, *words):
        for r in (self.run_with("checkkernels", "--op", "add", "--backend", "cpu"),
                  self.run_with("weft", "run", DEMO, "-p", "x", "-n", "1")):
            self.assertEqual(r.returncode, 2, r.stdout + r.stderr)
            self.assertEqual(r.stderr.count("\n"), 1, r.stderr)
            for word in words:
                self.assertIn(word, r.stderr)

    def test_example_on_the_cpu(self):
        self.build("docs/examples/kernel.c", "-std=c17", "-O3", "-Wall", "-Wextra", "-Werror")
        r = self.run_with("checkkernels", "--backend", "cpu", "--op", "add", "--row", "mine")
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        self.assertRegex(r.stdout, r"add +[1-9]\d+ run, 0 failed")
        text = [subprocess.run([os.path.join(BUILD, "weft"), "run", DEMO, "-p", "It", "-n", "8",
                                "--temp", "0", "--dtype", "fp32"], capture_output=True, text=True,
                               env=env).stdout
                for env in (dict(os.environ), dict(os.environ, WEFT_KERNEL_LIB=self.lib))]
        self.assertEqual(text[0], text[1])
        self.assertNotEqual(text[0], "")

    @unittest.skipIf(SANITIZED, "the emulator inside the library has no sanitizer")
    def test_example_on_the_emulator(self):
        subprocess.run(
            ["g++", "-std=c++17", "-O2", "-shared", "-fPIC", "-Iinclude", "-I.", "-Ikernels/emu",
             "-DWEFT_CU_NS=mine", "-x", "c++", "docs/examples/kernel.cu", "-x", "none",
             os.path.join(BUILD, "libweft.a"), "-o", self.lib], cwd=ROOT, check=True)
        r = self.run_with("checkkernels", "--backend", "emu", "--op", "add", "--row", "mine",
                          "--quick")
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        self.assertRegex(r.stdout, r"add +[1-9]\d* run, 0 failed")

    def test_a_wrong_row_is_found(self):
        with open(os.path.join(ROOT, "docs", "examples", "kernel.c"), encoding="utf-8") as f:
            text = f.read()
        self.assertIn("a[i] + b[i]", text)
        self.build_text(text.replace("a[i] + b[i]", "a[i] - b[i]"))
        r = self.run_with("checkkernels", "--backend", "cpu", "--op", "add", "--row", "mine")
        self.assertEqual(r.returncode, 1)
        self.assertIn("FAIL cpu/mine", r.stdout)

    def test_no_such_file(self):
        self.refused("WEFT_KERNEL_LIB", "mine.so")

    def test_not_a_library(self):
        with open(self.lib, "w", encoding="utf-8") as f:
            f.write("not an object\n")
        self.refused("WEFT_KERNEL_LIB", "mine.so")

    def test_no_symbols(self):
        self.build_text("int nothing;\n")
        self.refused("has no weft_kernel_abi", "WEFT_KERNEL_LIBRARY")
        self.build_text('#include "weft/kernel_lib.h"\n'
                        "const uint64_t weft_kernel_abi = WEFT_KERNEL_ABI;\n")
        self.refused("has no weft_kernel_rows")

    def test_another_abi(self):
        self.build_text('#include "weft/kernel_lib.h"\n'
                        "const uint64_t weft_kernel_abi = WEFT_KERNEL_ABI + 1;\n")
        self.refused("kernel ABI", "this weft has")

    def test_rows_that_cannot_be(self):
        for row, says in ((("WEFT_OP_COUNT", "cpu", "0", "run"), "no op"),
                          (("WEFT_OP_add", "tpu", "0", "run"), "backend other than"),
                          (("WEFT_OP_add", "cpu", "99", "run"), "numerics class"),
                          (("WEFT_OP_add", "cpu", "0", "NULL"), "no run()")):
            self.build_text(ROW % row)
            self.refused("row 'odd'", says)


if __name__ == "__main__":
    unittest.main()
