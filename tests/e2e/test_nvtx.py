#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ranges for profilers: a library that NVTX_INJECTION64_PATH names hears of every step by its tag,
and one that cannot be used changes nothing."""

import os
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("WEFT_BUILD", "build"))
DEMO = os.path.join(ROOT, "bench", "models", "demo")

# As a profiler does it, from nvtx3/nvtxDetail/nvtxTypes.h: table 1 hands out module 1, whose places
# 9 and 11 are nvtxRangePushA and nvtxRangePop; table 3 has the version.
LISTENER = r"""
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef void (*any)(void);
struct calls { size_t size; int (*module)(int, any ***, unsigned *); };
struct version { size_t size; uint32_t version, reserved; void (*set)(uint32_t); };
static FILE *out;
static int push(const char *name) { return fprintf(out, "+%s\n", name); }
static int pop(void) { return fprintf(out, "-\n"); }
int InitializeInjectionNvtx2(const void *(*table)(uint32_t)) {
    const struct calls *c = table(1);
    const struct version *v = table(3);
    any **core;
    unsigned n = 0;
    if (!c || c->size < sizeof *c || !v || v->version != 3 || table(99) || c->module(7, &core, &n))
        return 0;
    if (!c->module(1, &core, &n) || n != 16 || !(out = fopen(getenv("HEARD"), "w")))
        return 0;
    setvbuf(out, NULL, _IOLBF, 4096);
    v->set(3);
    *core[9] = (any)push;
    *core[11] = (any)pop;
    return ANSWER;
}
"""


class Ranges(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.addCleanup(self.tmp.cleanup)
        self.heard = os.path.join(self.tmp.name, "heard")

    def listener(self, answer):
        lib = os.path.join(self.tmp.name, f"listener{answer}.so")
        subprocess.run(["gcc", "-shared", "-fPIC", f"-DANSWER={answer}", "-xc", "-", "-o", lib],
                       input=LISTENER, text=True, check=True)
        return lib

    def score(self, **env):
        r = subprocess.run([os.path.join(BUILD, "weft"), "score", DEMO, "--ids", "1,2,3"],
                           capture_output=True, text=True, timeout=300,
                           env=dict(os.environ, HEARD=self.heard, **env))
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def test_steps_are_ranges_by_their_tag(self):
        quiet = self.score()
        self.assertEqual(self.score(NVTX_INJECTION64_PATH=self.listener(1)), quiet)
        with open(self.heard, encoding="utf-8") as f:
            heard = f.read().splitlines()
        self.assertEqual(set(heard[1::2]), {"-"})  # closed before the next one
        tags = [h[1:] for h in heard[::2]]
        self.assertEqual(len(tags) * 2, len(heard))
        for tag in ("embed", "L0.attn.q", "L0.mlp.down", "head"):
            self.assertIn(tag, tags)

    def test_a_library_that_declines_is_not_called(self):
        quiet = self.score()
        self.assertEqual(self.score(NVTX_INJECTION64_PATH=self.listener(0)), quiet)
        self.assertEqual(os.path.getsize(self.heard), 0)

    def test_no_library_there(self):
        quiet = self.score()
        for path in ("", "/nowhere/at/all.so", DEMO, "/bin/true"):
            self.assertEqual(self.score(NVTX_INJECTION64_PATH=path), quiet)


if __name__ == "__main__":
    unittest.main()
