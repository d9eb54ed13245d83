# SPDX-License-Identifier: Apache-2.0
"""`weft report`: what the page and the terminal show of training runs, and what they refuse."""

import html.parser
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")), "weft")
DEMO = os.path.join(ROOT, "bench", "models", "demo")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = ("</script><script>alert(1)</script>\n<img src=x onerror=alert(2)> & \"q\" "
           "\u202e\u0007<!--")


def lines(rows):
    return "".join(json.dumps(r) + "\n" for r in rows)


def step(s, **more):
    return {"step": s, "loss": 8 / s + 2, "lr": 1e-3 / s, "grad_norm": 1 + 1 / s,
            "tokens": 512 * s, **more}


class Page(html.parser.HTMLParser):
    """Tags, attributes and texts of a page, scripts apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.scripts, self.rows = [], [], [], [], []
        self.open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append((dict(attrs).get("class"), []))

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, text):
        if self.open == "script":
            self.scripts[-1] += text
        elif self.open != "style":
            self.texts.append(text)
            if self.open == "td":
                self.rows[-1][1].append(text)


class Case(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(prefix="weft-report-")
        self.addCleanup(self.tmp.cleanup)
        self.dir = self.tmp.name

    def run_folder(self, name, **files):
        folder = os.path.join(self.dir, name)
        os.makedirs(folder, exist_ok=True)
        files.setdefault("metrics_jsonl", lines(step(s) for s in range(1, 11)))
        for key, content in files.items():
            with open(os.path.join(folder, key.replace("_", ".")), "wb") as f:
                f.write(content if isinstance(content, bytes) else content.encode())
        return folder

    def full(self, name, seed=0, n=40):
        rows = [step(s, **({"val_loss": 9 / s + 2} if s % 10 == 0 else {}))
                for s in range(1, n + 1)]
        return self.run_folder(
            name, metrics_jsonl=lines(rows),
            timing_jsonl=lines({"step": s, "seconds": .5, "tokens_per_s": 1024 + s,
                                "pct_ceiling": 50} for s in range(1, n + 1)),
            samples_jsonl=lines({"step": s, "prompt": "It was ", "text": f"a ship {s}"}
                                for s in (20, 40)),
            config_json=json.dumps({"model_type": "llama", "rope_scaling": {"factor": 4}}),
            train_json=json.dumps({"lr": 1e-3, "seed": seed, "schedule": "wsd"}))

    def weft(self, *args, code=0):
        r = subprocess.run([WEFT, "report", *args], capture_output=True, text=True, cwd=self.dir,
                           timeout=60)
        self.err = r.stderr
        self.assertEqual(r.returncode, code, r.stderr)
        if code:
            self.assertRegex(r.stderr, r"\A(weft: warning: .*\n)*weft: error: [^\n]+\n\Z")
        return r.stdout

    def page(self, *runs):
        """(the parsed page, its data)"""
        path = os.path.join(self.dir, "out.html")
        self.weft(*runs, "-o", path)
        with open(path, encoding="utf-8") as f:
            text = f.read()
        page = Page(text)
        self.assertEqual(len(page.scripts), 2)
        return page, json.loads(page.scripts[0])


class Html(Case):
    def test_curves(self):
        a, b = self.full("a"), self.full("b", seed=1)
        page, data = self.page(a, b)
        self.assertEqual([r["name"] for r in data["runs"]], ["a", "b"])
        run = data["runs"][0]
        self.assertEqual(run["loss"]["x"], list(range(1, 41)))
        for got, want in ((run["loss"]["y"], [8 / s + 2 for s in range(1, 41)]),
                          (run["lr"]["y"], [1e-3 / s for s in range(1, 41)]),
                          (run["norm"]["y"], [1 + 1 / s for s in range(1, 41)]),
                          (run["speed"]["y"], [1024 + s for s in range(1, 41)])):
            for x, y in zip(got, want):
                self.assertAlmostEqual(x, y, delta=1e-6 * abs(y))
        self.assertEqual(run["val"]["x"], [10, 20, 30, 40])
        for text, count in (("a ship 20", 2), ("a ship 40", 2), ("It was ", 4)):
            self.assertEqual(page.texts.count(text), count)

    def test_needs_no_network(self):
        page, _ = self.page(self.full("a"))
        attributes = dict(page.attributes)
        self.assertIn("default-src 'none'", attributes["content"])
        for name in ("src", "href", "action", "data"):
            self.assertNotIn(name, attributes)
        self.assertNotIn("link", page.tags)
        script = page.scripts[1]
        self.assertEqual(re.findall(r"https?://[^'\"]*", script), ["http://www.w3.org/2000/svg"])
        for word in ("fetch(", "XMLHttpRequest", "import ", "innerHTML", "eval("):
            self.assertNotIn(word, script)

    def test_hostile_text_stays_text(self):
        run = self.run_folder(
            "x<!--<script>y", samples_jsonl=lines([{"step": 1, "prompt": "<i>", "text": HOSTILE}]),
            train_json=json.dumps({"note<script>": HOSTILE, "n": 1}))
        clean, _ = self.page(self.run_folder(
            "clean", samples_jsonl=lines([{"step": 1, "prompt": "p", "text": "t"}]),
            train_json=json.dumps({"note": "t", "n": 1})))
        page, data = self.page(run)
        self.assertEqual(page.tags, clean.tags)
        self.assertEqual(data["runs"][0]["name"], "x<!--<script>y")
        self.assertNotIn("<", page.scripts[0])
        shown = HOSTILE.replace("\u202e", "\ufffd").replace("\u0007", "\ufffd")
        self.assertIn(shown, page.texts)
        self.assertIn("train.note<script>", page.texts)

    def test_options_that_differ(self):
        page, _ = self.page(self.full("a"), self.full("b", seed=1))
        rows = {cells[0]: (kind, cells[1:]) for kind, cells in page.rows if kind}
        self.assertEqual(rows["train.seed"], ("differs", ["0", "1"]))
        self.assertEqual(rows["train.schedule"], ("same", ["wsd", "wsd"]))
        self.assertEqual(rows["model.rope_scaling.factor"], ("same", ["4", "4"]))
        page, _ = self.page(self.full("a"), self.run_folder("c", train_json='{"ema": 0.9}'))
        rows = {cells[0]: (kind, cells[1:]) for kind, cells in page.rows if kind}
        self.assertEqual(rows["train.ema"], ("differs", ["-", "0.9"]))

    def test_long_runs_keep_their_extremes(self):
        n = 100_000
        rows = [f'{{"step":{s},"loss":{2 + s % 7},"lr":0.001,"grad_norm":1,"tokens":{s}}}\n'
                for s in range(1, n + 1)]
        rows[54320] = '{"step":54321,"loss":99,"lr":0.001,"grad_norm":1,"tokens":54321}\n'
        rows[77776] = '{"step":77777,"loss":-3,"lr":0.001,"grad_norm":1,"tokens":77777}\n'
        rows[33332] = '{"step":33333,"loss":null,"lr":0.001,"grad_norm":null,"tokens":33333}\n'
        begin = time.monotonic()
        _, data = self.page(self.run_folder("long", metrics_jsonl="".join(rows)))
        self.assertLess(time.monotonic() - begin, 10)
        loss = data["runs"][0]["loss"]
        self.assertLessEqual(len(loss["x"]), 800)
        self.assertLess(os.path.getsize(os.path.join(self.dir, "out.html")), 1 << 19)
        self.assertEqual((max(loss["high"]), min(loss["low"])), (99, -3))
        at = loss["high"].index(99)
        self.assertTrue(loss["x"][at] <= 54321 <= loss["end"][at])
        self.assertEqual((loss["x"][0], loss["end"][-1]), (1, n))
        self.assertEqual(sum(loss["bad"]), 1)
        # each piece is the mean of its steps
        values = [2 + s % 7 for s in range(loss["x"][0], loss["end"][0] + 1)]
        self.assertAlmostEqual(loss["y"][0], statistics.fmean(values), places=5)

    def test_names_and_places(self):
        self.full("one/run")
        self.full("two/run")
        _, data = self.page("one/run", "two/run/")
        self.assertEqual([r["name"] for r in data["runs"]], ["one/run", "two/run/"])
        out = self.weft("one/run")
        self.assertRegex(out, r"^report\.html: 1 run, \d+")
        self.assertTrue(os.path.exists(os.path.join(self.dir, "report.html")))
        self.assertTrue(self.weft("one/run", "-o", "-").startswith("<!doctype html>"))
        _, data = self.page("one/run/metrics.jsonl")
        self.assertEqual(data["runs"][0]["speed"]["x"], [])

    @unittest.skipUnless(BROWSER, "no browser")
    def test_a_browser_draws_it(self):
        self.page(self.full("a"), self.full("b"))
        r = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                            "--virtual-time-budget=2000", "file://" + self.dir + "/out.html"],
                           capture_output=True, text=True, timeout=60)
        self.assertEqual(r.stdout.count("<figure"), 5)
        self.assertEqual(len(re.findall(r'<path d="M[\d.,ML-]+', r.stdout)), 12)


class Text(Case):
    def test_summary(self):
        out = self.weft(self.full("a"), self.full("b", seed=7), "--text")
        for part in ("steps 1 to 40, 20.5k tokens, 20.0 s, 1.0k tokens/s (50 % of the ceiling)",
                     "loss 10.0000 at first, 2.2026 over the last 5 %",
                     "best 2.2250 at step 40, last 2.2250", "largest 2 at step 1",
                     "at step 40: It was  | a ship 40"):
            self.assertIn(part, out)
        self.assertRegex(out, r"(?m)^what differs\n  train.seed +0 +7$")
        self.assertRegex(out, "[\u2801-\u28ff]{3}")
        self.assertIn("\u00d7", out)
        for line in out.splitlines():
            self.assertLessEqual(len(line), 80, line)
            self.assertTrue(line.isprintable())

    def test_the_plot_goes_down(self):
        """A straight fall from 10 to 0 fills the diagonal: one dot column follows the other."""
        rows = [{"step": s, "loss": 10 - s / 10} for s in range(101)]
        out = self.weft(self.run_folder("a", metrics_jsonl=lines(rows)), "--text")
        plot = [line[10:] for line in out.splitlines() if "\u2502" in line]
        self.assertEqual(len(plot), 10)
        for i, line in enumerate(plot):
            dots = [k for k, c in enumerate(line) if c != " "]
            self.assertAlmostEqual(statistics.fmean(dots) / 70, (i + .5) / 10, delta=.05)

    def test_odd_runs(self):
        one = self.run_folder("one", metrics_jsonl=lines([step(1)]))
        bad = self.run_folder("bad", metrics_jsonl=lines([{"step": 1, "loss": None}]))
        flat = self.run_folder("flat", metrics_jsonl=lines({"step": s, "loss": 2}
                                                           for s in range(5)))
        for run in (one, bad, flat):
            self.weft(run, "--text")
            self.page(run)
        self.assertIn("not finite 1 times", self.weft(bad, "--text"))

    def test_hostile_names(self):
        run = self.run_folder("a\x1b[31m\u202eb", train_json=json.dumps({"\x1b]0;x": "\n\x07"}))
        out = self.weft(run, self.full("c"), "--text")
        self.assertNotIn("\x1b", out)
        self.assertNotIn("\u202e", out)
        self.assertNotIn("\x07", out)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(message):
    """(number, value) of a protocol buffer's fields: ints, 8 or 4 bytes, or bytes."""
    at = 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        size = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = varint() if size is None else size
        yield key >> 3, message[at : at + size]
        at += size


def scalars(path):
    """{tag: [(step, value)]} of a TensorBoard event file, checksums checked."""
    with open(path, "rb") as f:
        raw = f.read()
    at, out, events = 0, {}, []
    while at < len(raw):
        (n, crc) = struct.unpack_from("<QI", raw, at)
        assert crc == masked(raw[at : at + 8])
        event = raw[at + 12 : at + 12 + n]
        assert struct.unpack_from("<I", raw, at + 12 + n) == (masked(event),)
        events.append(dict(fields(event)))
        at += n + 16
    assert events[0][3] == b"brain.Event:2"
    for event in events[1:]:
        for _, value in fields(event[5]):
            one = dict(fields(value))
            tag = one[1].decode()
            out.setdefault(tag, []).append((event[2], *struct.unpack("<f", one[2])))
    return out


class Trained(Case):
    """The files of a run of the trainer itself."""

    def test_every_file_says_the_same(self):
        text = os.path.join(self.dir, "text.txt")
        with open(text, "w", encoding="utf-8") as f:
            f.write("\n\n".join(f"The sea was dark and the ship sailed on, day {i}."
                                for i in range(60)))
        run = os.path.join(self.dir, "run")
        subprocess.run([WEFT, "train", DEMO, "--data", text, "-o", run, "--steps", "6",
                        "--batch-size", "2", "--seq-len", "24", "--val", "0.2", "--val-every", "3",
                        "--sample-prompt", "The sea", "--sample-tokens", "4", "--csv",
                        "--tensorboard"], check=True, capture_output=True, timeout=120)
        with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as f:
            log = [json.loads(line) for line in f]
        self.assertEqual([r["step"] for r in log], list(range(1, 7)))
        self.assertEqual([r["step"] for r in log if "val_loss" in r], [3, 6])
        with open(os.path.join(run, "metrics.csv"), encoding="utf-8") as f:
            head, *rows = [line.rstrip("\n").split(",") for line in f]
        for row, want in zip(rows, log, strict=True):
            self.assertEqual({k: float(v) for k, v in zip(head, row) if v}, want)
        events = scalars(os.path.join(run, "events.out.tfevents.weft"))
        for tag, key in (("loss/train", "loss"), ("loss/validation", "val_loss"), ("lr", "lr"),
                         ("grad_norm", "grad_norm"), ("tokens", "tokens")):
            want = [(r["step"], r[key]) for r in log if key in r]
            self.assertEqual([s for s, _ in events[tag]], [s for s, _ in want])
            for (_, x), (_, y) in zip(events[tag], want):
                self.assertAlmostEqual(x, y, delta=1e-7 * abs(y))
        page, data = self.page(run)
        self.assertEqual(data["runs"][0]["val"]["x"], [3, 6])
        for x, r in zip(data["runs"][0]["loss"]["y"], log, strict=True):
            self.assertAlmostEqual(x, r["loss"], places=5)
        self.assertIn("train.seed", page.texts)
        self.assertIn('[ "LlamaForCausalLM" ]', page.texts)
        self.assertNotIn("train.tokens", page.texts)  # a state, not an option
        self.assertIn("The sea", page.texts)
        self.assertEqual(self.err, "")


class Refusals(Case):
    def test_what_is_cut_off_is_left_out(self):
        good = lines(step(s) for s in range(1, 4))
        run = self.run_folder("a", metrics_jsonl=good + '{"step":4,"lo', timing_jsonl="{",
                              samples_jsonl="", config_json="{}", train_json="{}")
        _, data = self.page(run)
        self.assertEqual(data["runs"][0]["loss"]["x"], [1, 2, 3])
        self.assertEqual(self.err.count("the last line is cut off and left out"), 2)
        _, data = self.page(self.run_folder("b", metrics_jsonl=good.rstrip("\n")))
        self.assertEqual(data["runs"][0]["loss"]["x"], [1, 2, 3])
        for name in ("timing.jsonl", "samples.jsonl", "config.json", "train.json"):
            self.assertIn(f"weft: warning: {self.dir}/b: {name}: not there\n", self.err)

    def test_faults_by_file_and_line(self):
        two = lines([step(1), step(2)])
        for files, where in (
            ({"metrics_jsonl": ""}, "metrics.jsonl: has no whole line"),
            ({"metrics_jsonl": "{"}, "metrics.jsonl: has no whole line"),
            ({"metrics_jsonl": two + "hello\n" + two}, "metrics.jsonl:3:1: "),
            ({"metrics_jsonl": two + '{"step":3,"lo\n'}, "metrics.jsonl:3:"),
            ({"metrics_jsonl": two + "[1]\n"}, "metrics.jsonl:3:1: "),
            ({"metrics_jsonl": two + '{"loss":1}\n'}, 'metrics.jsonl:3: has no "step"'),
            ({"metrics_jsonl": two + '{"step":-1}\n'}, 'metrics.jsonl:3: "step" is not a whole'),
            ({"metrics_jsonl": two + '{"step":1.5}\n'}, 'metrics.jsonl:3: "step" is not a whole'),
            ({"metrics_jsonl": two + '{"step":1}\n'},
             "metrics.jsonl:3: step 1 comes behind step 2"),
            ({"metrics_jsonl": two + '{"step":3,"loss":"x"}\n'},
             'metrics.jsonl:3: "loss" is not a number'),
            ({"metrics_jsonl": two + '{"step":3,"step":4}\n'}, "metrics.jsonl:3:"),
            ({"metrics_jsonl": two.encode() + b'{"step":3,"a":"\xff"}\n'}, "metrics.jsonl:3:"),
            ({"timing_jsonl": '{"step":1,"seconds":[]}\n'}, 'timing.jsonl:1: "seconds" is not a'),
            ({"samples_jsonl": '{"step":1}\n'}, 'samples.jsonl:1: has no "text"'),
            ({"samples_jsonl": '{"step":1,"text":7}\n'}, 'samples.jsonl:1: "text" is not a string'),
            ({"config_json": "[]"}, "config.json:1:1: "),
            ({"config_json": '{"a":\n1,,}'}, "config.json:2:"),
            ({"train_json": "{" + '"a":{' * 300 + "}" * 301}, "train.json:1:")):
            with self.subTest(where=where):
                shutil.rmtree(os.path.join(self.dir, "a"), ignore_errors=True)
                self.weft(self.run_folder("a", **files), "--text", code=3)
                self.assertIn(where, self.err)

    def test_arguments(self):
        run = self.full("a")
        for args, code, message in (
            ([], 2, "RUN: missing"), (["nothing"], 3, "nothing: no such file"),
            ([run, "--text", "-o", "x"], 2, "-o and --text: give one"),
            ([run] * 17, 2, "weft: error: "), ([run, "--txt"], 2, "--text"),
            ([run, "-o", "/nonexistent/x.html"], 5, "/nonexistent/x.html"),
            ([self.dir], 3, "metrics.jsonl: no such file")):
            with self.subTest(args=args[:2]):
                self.weft(*args, code=code)
                self.assertIn(message, self.err)


if __name__ == "__main__":
    unittest.main()
