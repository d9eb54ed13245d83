# SPDX-License-Identifier: Apache-2.0
"""The shipped demo model against another implementation (scripts/golden_demo.py made the goldens),
and whether what it writes looks like English."""

import json
import os
import re
import subprocess
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")), "weft")
MODEL = os.path.join(ROOT, "bench", "models", "demo")
GOLDEN = os.path.join(ROOT, "tests", "golden", "demo.json")
# Four words of ten in English prose are among these; in noise hardly any.
COMMON = set("""the of and to a in that is was he for it with as his on be at by i this had not are
but from or have an they which one you were her all she there would their we him been has when who
will more no if out so said what up its about into than them can only other my me your do did could
am shall now well must how thou thy good sir lord""".split())


def weft(*args):
    r = subprocess.run([WEFT, *args], capture_output=True, text=True, timeout=120)
    if r.returncode:
        raise AssertionError(f"weft {' '.join(args)}: exit {r.returncode}: {r.stderr}")
    return r.stdout


def joined(ids):
    return ",".join(map(str, ids))


class Demo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(GOLDEN, encoding="utf-8") as f:
            cls.golden = json.load(f)

    def test_greedy_ids_are_those_of_the_oracle(self):
        for device in ("ref", "cpu"):
            for row in self.golden["prompts"]:
                with self.subTest(device=device, prompt=row["text"]):
                    out = weft("run", MODEL, "--ids", joined(row["ids"]), "-n",
                               str(len(row["greedy"])), "--temp", "0", "--ignore-eos",
                               "--print-ids", "--dtype", "fp32", "--device", device)
                    self.assertEqual(list(map(int, re.split(r"[\s,]+", out.strip()))),
                                     row["greedy"])

    def test_text_in_and_out(self):
        for row in self.golden["prompts"]:
            if not row["text"]:
                continue
            with self.subTest(prompt=row["text"]):
                out = json.loads(weft("run", MODEL, "-p", row["text"], "-n",
                                      str(len(row["greedy"])), "--temp", "0", "--ignore-eos",
                                      "--dtype", "fp32", "--json"))
                self.assertEqual(out["prompt_ids"], row["ids"])
                self.assertEqual(out["ids"], row["greedy"])
                self.assertEqual(out["text"], row["greedy_text"])

    def test_log_probabilities(self):
        want = self.golden["score"]
        for device in ("ref", "cpu"):
            out = json.loads(weft("score", MODEL, "--ids", joined(want["ids"]), "--dtype", "fp32",
                                  "--device", device, "--json"))
            got = out["logprobs"][-len(want["logprobs"]):]
            for i, (a, b) in enumerate(zip(got, want["logprobs"], strict=True)):
                self.assertAlmostEqual(a, b, delta=1e-4, msg=f"{device}, token {i + 1}")

    def test_it_writes_english(self):
        words = []
        for seed in range(1, 6):
            text = json.loads(weft("run", MODEL, "-p", "It was", "-n", "120", "--temp", "0.8",
                                   "--seed", str(seed), "--ignore-eos", "--json"))["text"]
            words += re.findall(r"[a-z]+", text.lower())
        self.assertGreater(len(words), 200)
        share = sum(w in COMMON for w in words) / len(words)
        self.assertGreater(share, 0.35, " ".join(words[:60]))


if __name__ == "__main__":
    unittest.main()
