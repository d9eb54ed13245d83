# SPDX-License-Identifier: Apache-2.0
"""`weft template`: released chat templates against what transformers renders with them (fixtures'
golden/chat), the line interface, exit codes, and templates that misbehave."""

import glob
import json
import os
import re
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(ROOT, os.environ.get("WEFT_BUILD", "build"), "weft")
FIXTURES = os.environ.get("WEFT_FIXTURES", os.path.join(ROOT, "..", "shared", "fixtures"))
GOLDEN = os.path.join(FIXTURES, "golden", "chat")
HI = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True}
SANITIZED = "asan" in WEFT or "tsan" in WEFT


def weft(*args, code=0, text=""):
    r = subprocess.run([WEFT, "template", *args], input=text.encode(), capture_output=True,
                       timeout=240)
    err = r.stderr.decode()
    if r.returncode != code:
        raise AssertionError(f"weft template {args}: exit {r.returncode}, not {code}: {err}")
    if code and not re.fullmatch(r"weft: error: [^\n]+\n", err):
        raise AssertionError(f"weft template {args}: not one error line: {err!r}")
    return r.stdout.decode(), err


def jsonl(path, rows, *args, code=0):
    out, err = weft(path, "--jsonl", *args, code=code,
                    text="".join(json.dumps(r) + "\n" for r in rows))
    return [json.loads(x) for x in out.split("\n")[:-1]], err


@unittest.skipUnless(os.path.isdir(GOLDEN), f"no fixtures in {FIXTURES}")
class Golden(unittest.TestCase):
    def check(self, path, setup):
        with open(path, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
        args = [{**setup["tokens"], **setup["defaults"], "bos_token": r["bos"],
                 "eos_token": r["eos"], **setup["conversations"][r["conversation"]]} for r in rows]
        failing = any("error" in r for r in rows)
        template = os.path.join(FIXTURES, "chat-templates", rows[0]["template"])
        got, err = jsonl(template, args, "--now", setup["now"], code=3 if failing else 0)
        self.assertEqual(len(got), len(rows))
        with open(template, encoding="utf-8") as f:
            raised = "raise_exception" in f.read()
        for row, text in zip(rows, got):
            with self.subTest(template=rows[0]["template"], conversation=row["conversation"]):
                if "output" in row:
                    self.assertEqual(text, row["output"])
                    continue
                self.assertEqual(list(text), ["error"])
                place = re.match(r".*\.jinja:\d+:\d+: ", text["error"])
                self.assertTrue(place or (raised and text["error"] == row["error"]), text)
        if failing:
            self.assertRegex(err, r"weft: error: standard input:\d+: .*\.jinja:\d+:\d+: ")

    def test_every_row(self):
        with open(os.path.join(GOLDEN, "conversations.json"), encoding="utf-8") as f:
            setup = json.load(f)
        paths = sorted(glob.glob(os.path.join(GOLDEN, "*.jsonl")))
        self.assertGreater(len(paths), 40)
        for path in paths:
            self.check(path, setup)

    def test_a_thousand_turns(self):
        turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": "Some words. " * 10}
                 for i in range(1000)]
        one = {"messages": turns[:1], "bos_token": "<s>", "eos_token": "</s>"}
        path = os.path.join(FIXTURES, "chat-templates", "llama.cpp", "Qwen-Qwen3-0.6B.jinja")

        def seconds(rows):
            best = 9
            for _ in range(3):
                t0 = time.monotonic()
                jsonl(path, rows)
                best = min(best, time.monotonic() - t0)
            return best
        long = {**one, "messages": turns}
        took = (seconds([long] * 11) - seconds([long])) / 10
        if not SANITIZED:
            self.assertLess(took, 0.05)


class Lines(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def file(self, text, name="t.jinja"):
        path = os.path.join(self.dir.name, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_a_line_in_a_line_out(self):
        path = self.file("{{ x }}|{{ tools }}|{{ y is defined }}|{{ messages | length }}")
        rows = [{"x": "\u2028\u0085é"}, {"x": 1.0, "y": None, "messages": []}, {"tools": []}]
        got, _ = jsonl(path, rows)
        self.assertEqual(got, ["\u2028\u0085é|None|False|0", "1.0|None|True|0", "|[]|False|0"])

    def test_the_clock(self):
        path = self.file("{{ strftime_now('%d %b %Y %H:%M:%S') }}")
        got, _ = jsonl(path, [{}], "--now", "2025-12-31T23:59:58")
        self.assertEqual(got, ["31 Dec 2025 23:59:58"])
        now, _ = jsonl(path, [{}])
        shown = time.mktime(time.strptime(now[0], "%d %b %Y %H:%M:%S"))
        self.assertLess(abs(shown - time.time()), 9)
        for bad in ("tomorrow", "2025-13-01T00:00:00", "2025-12-31"):
            weft(path, "--jsonl", "--now", bad, code=2)

    def test_raise_exception_is_exact_and_exits_3(self):
        path = self.file("a\n{{ raise_exception('No \"such\" role:\\n' ~ x) }}")
        got, err = jsonl(path, [{"x": "é"}, {"x": "z"}], code=3)
        self.assertEqual(got, [{"error": "No \"such\" role:\n" + x} for x in "éz"])
        self.assertIn(f"standard input:1: {path}:2:19: No \"such\" role:", err)

    def test_other_rows_are_answered(self):
        path = self.file("{{ 1 // n }}")
        got, err = jsonl(path, [{"n": 0}, {"n": 1}], code=3)
        self.assertEqual(got, [{"error": f"{path}:1:6: division by zero"}, "1"])
        out, _ = weft(path, "--jsonl", code=3, text='{"n": 1}\nnonsense\n\n{"n": 1}')
        rows = [json.loads(x) for x in out.splitlines()]
        self.assertEqual([rows[0], rows[3]], ["1", "1"])
        self.assertTrue(rows[1]["error"].startswith("arguments:1:1"), rows[1])

    def test_a_whole_conversation(self):
        args = self.file(json.dumps(HI), "c.json")
        out, _ = weft("--chat-template", "chatml", "-f", args)
        self.assertEqual(out, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        out, err = weft(self.file("x{{ y.z }}"), code=3, text="{}")
        self.assertEqual(out, "")
        self.assertIn("t.jinja:1:6: 'y' is undefined", err)

    def test_a_model_folder(self):
        self.file(json.dumps({"bos_token": "<s>", "chat_template": "{{ bos_token }}own"}),
                  "tokenizer_config.json")
        self.assertEqual(jsonl(self.dir.name, [HI, {"bos_token": "!"}])[0], ["<s>own", "!own"])
        got, _ = jsonl(self.dir.name, [HI], "--chat-template", "llama-2")
        self.assertEqual(got, ["<s>[INST] Hi [/INST]"])
        got, _ = jsonl(self.dir.name, [HI], "--chat-template", self.file("other", "other.jinja"))
        self.assertEqual(got, ["other"])

    def test_usage(self):
        weft(code=2)
        weft("--jsonl", code=2)
        self.assertIn("chatml, llama-2", weft("--jsonl", "--chat-template", "nosuch", code=2)[1])
        weft(os.path.join(self.dir.name, "absent"), "--jsonl", code=3)
        self.assertIn("has no chat template", weft(self.dir.name, "--jsonl", code=2)[1])
        self.assertIn("t.jinja:1:10: the tag", weft(self.file("{{ 1 }}{%if x%}"), "--jsonl",
                                                   code=3, text="{}\n")[1])

    def test_wrong_shapes_are_named_by_path(self):
        good, bad = [{"role": "user", "content": x} for x in ("a", 5)]
        rows = [{"messages": [good, good, bad]}, {"messages": "x"},
                {"messages": [{"content": "x"}]}, {"tools": {}}]
        got, _ = jsonl(self.file("{{ messages }}"), rows, code=3)
        for row, path in zip(got, ("messages[2].content: ", "messages: ", "messages[0].role: ",
                                   "tools: ")):
            self.assertTrue(row["error"].startswith(path), row)

    def test_templates_that_misbehave(self):
        loop = "{% for i in range(100000) %}"
        bad = [loop * 3 + "x" + "{% endfor %}" * 3,
               "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
               "{% set n = namespace(s='a') %}" + loop + "{% set n.s = n.s + n.s %}{% endfor %}",
               "{% set n = namespace(s=[1]) %}" + loop + "{% set n.s = n.s + n.s %}{% endfor %}",
               "{{ 'x' * 10 ** 12 }}", "{{ range(10 ** 9) | list }}", "{{ 1 % 0 }}",
               "{{ [1][5].x }}",
               loop + loop + "{{ 'y' * 1000 }}" + "{% endfor %}" * 2, "{{ x.y }}",
               "{{ '%999999999d' % 1 }}", "{{ raise_exception('no') }}", "{{ " + "(" * 5000]
        for text in bad:
            t0 = time.monotonic()
            out, err = weft(self.file(text), "--jsonl", code=3, text="{}\n")
            self.assertRegex(err, r"t\.jinja:1:\d+: ")
            self.assertFalse(out.startswith('"'), out[:80])
            self.assertLess(time.monotonic() - t0, 30 if SANITIZED else 5)


if __name__ == "__main__":
    unittest.main()
