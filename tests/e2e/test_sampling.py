# SPDX-License-Identifier: Apache-2.0
"""How tokens are chosen, where text ends and what is told about it, as users give it on the command
line. `weft sample` is compared with the stages' definitions, written down here in double
precision."""

import html.parser
import json
import math
import os
import pty
import random
import re
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(ROOT, os.environ.get("WEFT_BUILD", "build"), "weft")
DEMO = os.path.join(ROOT, "bench", "models", "demo")
PROMPT = "It was a dark"


def weft(*args, code=0, text=""):
    r = subprocess.run([WEFT, *map(str, args)], input=text, capture_output=True, text=True,
                       timeout=240)
    if r.returncode != code or (code and not re.fullmatch(r"weft: error: [^\n]+\n", r.stderr)):
        raise AssertionError(f"weft {args}: exit {r.returncode}, not {code}: {r.stderr}")
    weft.err = r.stderr
    return r.stdout


def run(*args, **kw):
    return weft("run", DEMO, "-p", PROMPT, *args, **kw)


def run_json(*args, **kw):
    return json.loads(run(*args, "--json", **kw))


def answers(lines):
    out = weft("sample", "--jsonl", text="".join(json.dumps(x) + "\n" for x in lines))
    return [json.loads(x) for x in out.splitlines()]


# ---- definitions: a stage takes and gives {token: logit} ----

def softmax(x):
    top = max(x.values())
    e = {t: math.exp(v - top) for t, v in x.items()}
    z = sum(e.values())
    return {t: v / z for t, v in e.items()}


def top_n_sigma(x, c):
    mean = sum(x.values()) / len(x)
    sigma = math.sqrt(sum((v - mean) ** 2 for v in x.values()) / len(x))
    return {t: v for t, v in x.items() if v >= max(x.values()) - c["top_n_sigma"] * sigma}


def xtc(x, c):
    if c["xtc_probability"] < 1 or c["xtc_threshold"] > 0.5:
        return x
    p = softmax(x)
    above = sorted((t for t in x if p[t] >= c["xtc_threshold"]), key=lambda t: (-p[t], t))
    return {t: v for t, v in x.items() if t not in above[:-1]}


def temperature(x, c):
    return {t: v / c["temperature"] for t, v in x.items()}


def top_k(x, c):
    least = sorted(x.values())[-c["top_k"]] if 0 < c["top_k"] < len(x) else -math.inf
    return {t: v for t, v in x.items() if v >= least}


def min_p(x, c):
    p = softmax(x)
    return {t: v for t, v in x.items() if p[t] >= c["min_p"] * max(p.values())}


def dry(x, c):
    h, ends, longest = c["history"], c["dry_sequence_breakers"], {}
    if c["dry_penalty_last_n"] >= 0:
        h = h[max(0, len(h) - c["dry_penalty_last_n"]):]
    limit = len(h)
    for at in range(len(h)):  # the last one that begins decides
        n = max([len(b) for b in ends if h[at:at + len(b)] == b], default=0)
        limit = len(h) - at - n if n else limit
    for at in range(1, len(h)):
        n = 0
        while n < limit and n < at and h[at - 1 - n] == h[-1 - n]:
            n += 1
        longest[h[at]] = max(n, longest.get(h[at], 0))
    return {t: v if longest.get(t, 0) < c["dry_allowed_length"] or [t] in ends else
            v - c["dry_multiplier"] * c["dry_base"] ** (longest[t] - c["dry_allowed_length"])
            for t, v in x.items()}


def mirostat(x, c):
    p = softmax(x)
    order = sorted(x, key=lambda t: (-p[t], t))
    if c["mirostat"] == 2:
        return {t: x[t] for t in order if t == order[0] or -math.log2(p[t]) <= c["mirostat_mu"]}
    t = [math.log((i + 2) / (i + 1)) for i in range(min(100, len(order)) - 1)]
    b = [math.log(p[order[i]] / p[order[i + 1]]) for i in range(len(t))]
    s = sum(u * v for u, v in zip(t, b)) / sum(u * u for u in t)
    k = ((s - 1) * 2 ** c["mirostat_mu"] / (1 - c["vocab"] ** (1 - s))) ** (1 / s)
    return {t: x[t] for t in order[:max(1, int(k))]}


STAGES = {"dry": dry, "top_n_sigma": top_n_sigma, "temperature": temperature, "top_k": top_k,
          "min_p": min_p, "xtc": xtc}


class Definitions(unittest.TestCase):
    def compare(self, cases, define):
        for case, got in zip(cases, answers(cases)):
            x = dict(enumerate(case["logits"]))
            want = softmax(define(x, case))
            far = max(abs(p - want.get(t, 0)) for t, p in enumerate(got["probs"]))
            self.assertLessEqual(far, 1e-6, case)
            if "mirostat" in case:
                s = -math.log2(softmax(x)[got["id"]])
                mu = case["mirostat_mu"] - case["mirostat_eta"] * (s - case["mirostat_tau"])
                self.assertAlmostEqual(got["mirostat_mu"], mu, places=4)

    def case(self, r, **more):
        v = r.randint(20, 150)
        f = lambda a, b: struct_float(r.uniform(a, b))
        return {"logits": [struct_float(r.gauss(0, r.uniform(1, 3))) for _ in range(v)], **more}, f

    def test_each_stage(self):
        r = random.Random(5)
        cases = {name: [] for name in STAGES}
        for name in STAGES:
            for _ in range(200):
                c, f = self.case(r)
                if name == "dry":
                    word = [r.randrange(20) for _ in range(r.randint(2, 6))]
                    c["history"] = [t if r.random() < 0.9 else r.randrange(20) for t in word * 9]
                    breakers = [[r.randrange(20) for _ in range(r.randint(1, 2))]
                                for _ in range(r.randrange(3))]
                    c.update(dry_multiplier=f(0.2, 2), dry_base=f(1, 2),
                             dry_penalty_last_n=r.choice([-1, 9, 25]),
                             dry_allowed_length=r.randint(1, 3), dry_sequence_breakers=breakers)
                elif name == "xtc":
                    c.update(xtc_probability=1, xtc_threshold=f(0.01, 0.55))
                elif name == "top_k":
                    c[name] = r.randint(1, 30)
                else:
                    c[name] = f(0, 1) if name == "min_p" else f(0.1, 2)
                cases[name].append(c)
            self.compare(cases[name], STAGES[name])

    def test_mirostat(self):
        r = random.Random(6)
        for version in (1, 2):
            cases = []
            for i in range(200):
                c, f = self.case(r, mirostat=version, seed=i)
                c.update(mirostat_tau=f(1, 5), mirostat_eta=f(0.01, 0.3), mirostat_mu=f(0, 9))
                cases.append(c)
            self.compare(cases, lambda x, c: mirostat(x, dict(c, vocab=len(c["logits"]))))

    def test_orders(self):
        r, cases = random.Random(7), []
        names = ["top_n_sigma", "temperature", "top_k", "min_p", "xtc"]
        for _ in range(300):
            c, f = self.case(r)
            c.update(top_n_sigma=f(0.8, 3), temperature=f(0.5, 2), top_k=r.randint(3, 60),
                     min_p=f(0, 0.05), xtc_probability=1, xtc_threshold=f(0.01, 0.2),
                     samplers=r.sample(names, r.randint(1, 5)))
            if r.random() < 0.5:
                c["samplers"] = ";".join(c["samplers"])
            cases.append(c)

        def define(x, c):
            order = c["samplers"]
            for name in order.split(";") if isinstance(order, str) else order:
                x = STAGES[name](x, c)
            return x
        self.compare(cases, define)

    def test_held(self):
        x = {"logits": [1, 2, 3], "history": [0, 0, 0], "prompt_len": 1, "eos_ids": [2]}
        short, enough = answers([dict(x, min_tokens=3), dict(x, min_tokens=2)])
        self.assertEqual(short["probs"][2], 0)
        self.assertGreater(enough["probs"][2], 0.5)

    def test_complaints(self):
        x = {"logits": [1, 2]}
        bad = [{"samplers": "topk;x"}, {"samplers": "top_k;top_k"}, {"samplers": [1]},
               {"samplers": 1}, {"eos_ids": [2]}, {"eos_ids": 1}, {"mirostat": 3},
               {"dry_sequence_breakers": [[]]}, {"dry_sequence_breakers": [5]},
               {"dry_sequence_breakers": [[2]]}, {"seed": -1}, {"seed": 0.5},
               {"mirostat_mu": None}, {"dry_base": 0.5}, {"xtc_probability": 2},
               {"dry_allowed_length": 0}]
        for more, got in zip(bad, answers([dict(x, **m) for m in bad])):
            self.assertEqual(list(got), ["error"], more)


def struct_float(x):
    """The nearest float, so that both sides start from the same number."""
    import struct
    return struct.unpack("<f", struct.pack("<f", x))[0]


class Options(unittest.TestCase):
    def test_every_option_changes_the_text_and_its_neutral_value_does_not(self):
        always = ("-n", 60, "--temp", 1.2, "--seed", 4, "--ignore-eos")
        base = run(*always)
        neutral = ["--top-n-sigma 0", "--top-n-sigma -1", "--dry-multiplier 0", "--mirostat 0",
                   "--xtc-probability 0", "--dynatemp-range 0", "--min-tokens 0",
                   "--dry-penalty-last-n 0 --dry-multiplier 1",
                   "--xtc-probability 1 --xtc-threshold 0.6",
                   "--samplers penalties;dry;top_n_sigma;temperature;top_k;top_p;min_p;typ_p;xtc"]
        for options in neutral:
            self.assertEqual(run(*always, *options.split()), base, options)
        for options in ("--top-n-sigma 0.5", "--xtc-probability 1", "--mirostat 1",
                        "--dry-multiplier 5 --dry-allowed-length 1 --dry-sequence-breaker none",
                        "--mirostat 2 --mirostat-ent 2 --mirostat-lr 0.3", "--typical 0.3",
                        "--dynatemp-range 1.1", "--samplers top_k --top-k 1"):
            args = (*always, *options.split())
            self.assertNotEqual(run(*args), base, options)
            self.assertEqual(run(*args), run(*args), options)

    def test_order_matters(self):
        greedy = run("-n", 30, "--temp", 0)
        for options in ("--top-k 1 --samplers top_k;temperature",
                        "--min-p 1 --samplers min-p;temp"):
            self.assertEqual(run("-n", 30, "--temp", 9, *options.split()), greedy)

    def test_dry_against_repetition(self):
        args = ("--temp", 0, "-n", 120, "--ignore-eos")
        free = run_json(*args)["ids"]
        held = run_json(*args, "--dry-multiplier", 50, "--dry-allowed-length", 3,
                        "--dry-sequence-breaker", "none")["ids"]

        def repeated(ids, n):
            grams = [tuple(ids[i:i + n]) for i in range(len(ids) - n + 1)]
            return len(grams) - len(set(grams))
        self.assertEqual(repeated(held, 4), 0)
        self.assertGreaterEqual(repeated(free, 4), 0)

    def test_min_tokens(self):
        args = ("--temp", 0, "-n", 80)
        ids = run_json(*args, "--ignore-eos")["ids"]
        stop = ids[5]
        self.assertEqual(len(run_json(*args, "--stop-id", stop)["ids"]), ids.index(stop))
        held = run_json(*args, "--stop-id", stop, "--min-tokens", 20)["ids"]
        self.assertGreaterEqual(len(held), 20)
        self.assertNotIn(stop, held[:20])

    def test_bad_values(self):
        for options in (["--samplers", "tok_k"], ["--samplers", ""], ["--samplers", "top_k;"],
                        ["--mirostat", 3], ["--stop-regex", "("], ["--stop-regex", ""],
                        ["--dry-base", 0], ["--xtc-probability", 2], ["--min-tokens", -1],
                        ["--dry-multiplier", 1, "--dry-sequence-breaker", "x" * 41],
                        ["--dry-multiplier", 1, "--dry-sequence-breaker", ""]):
            run("-n", 1, *options, code=2)
        run("-n", 1, "--samplers", "top-kk", code=2)
        self.assertIn("did you mean top_k?", weft.err)

    def test_presets(self):
        with tempfile.TemporaryDirectory() as tmp:
            for name in os.listdir(DEMO):
                os.symlink(os.path.join(DEMO, name), os.path.join(tmp, name))
            path = os.path.join(tmp, "generation_config.json")
            if os.path.lexists(path):
                os.unlink(path)

            def with_preset(preset, *args):
                with open(path, "w") as f:
                    json.dump(preset, f)
                return weft("run", tmp, "-p", PROMPT, "-n", 40, "--seed", 3, *args)
            for preset, given, same in (
                    ({"do_sample": False, "temperature": 0.4, "top_k": 7}, "", "--temp 0"),
                    ({"do_sample": False, "top_k": 7}, "--temp 0.7", "--temp 0.7"),
                    ({"do_sample": True, "temperature": 0.6, "top_k": 7, "top_p": 0.8}, "",
                     "--temp 0.6 --top-k 7 --top-p 0.8"),
                    ({"temperature": 0.6, "typical_p": 0.5, "repetition_penalty": 1.3,
                      "min_p": 0.02}, "",
                     "--temp 0.6 --typical 0.5 --repeat-penalty 1.3 --min-p 0.02"),
                    ({"temperature": 0.6, "top_k": 7}, "--top-k 0 --temp 1", "--temp 1"),
                    ({}, "", "--temp 1")):
                self.assertEqual(with_preset(preset, *given.split()),
                                 with_preset({}, *same.split()), preset)


class StopRegex(unittest.TestCase):
    ARGS = ("-n", 120, "--seed", 2, "--ignore-eos")

    def test_text_ends_before_the_first_match(self):
        text = run_json(*self.ARGS)["text"]
        for pattern in (r"[.,;]\s", r"\b[a-z]{5}\b", r"(?<=e)r", r"s(?= )", r"[A-Z]\w+",
                        r"(\w)\1", r"\w+$", r"q{3}"):
            found = re.search(pattern, text)
            d = run_json(*self.ARGS, "--stop-regex", pattern)
            self.assertEqual(d["text"], text[:found.start()] if found else text, pattern)
            self.assertEqual(d["finish_reason"], "stop" if found else "length", pattern)
            self.assertEqual(run(*self.ARGS, "--stop-regex", pattern), d["text"] + "\n")

    def test_with_stop_strings(self):
        text = run_json(*self.ARGS)["text"]
        word = text[30:36]
        d = run_json(*self.ARGS, "--stop", word, "--stop-regex", "zzz", "--stop-regex",
                     re.escape(text[20:25]))
        self.assertEqual(d["text"], text[:min(text.index(word), text.index(text[20:25]))])


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.stack, self.main, self.tips, self.outside = [], "", [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag in ("meta", "link", "img", "script"):
            self.outside |= {v for k, v in attrs if k in ("src", "href")}
            return
        self.stack.append(a.get("class", tag))
        if a.get("class") == "a":
            self.tips.append("")

    def handle_endtag(self, tag):
        self.stack.pop()

    def handle_data(self, data):
        if "a" in self.stack:
            self.tips[-1] += data
        elif "main" in self.stack:
            self.main += data


class Explain(unittest.TestCase):
    ARGS = ("-n", 25, "--seed", 2)

    def test_brackets_in_a_pipe(self):
        d = run_json(*self.ARGS, "--logprobs", 3)
        out = run(*self.ARGS, "--explain", "--logprobs", 3)
        self.assertNotIn("\x1b", out)
        text, table = out.rsplit("\n\n", 1)
        text, numbers = re.subn(r"\[\d\.\d\d\]", "", text)
        self.assertEqual(text.replace("\\n\n", "\n"), d["text"])
        self.assertEqual(numbers, len(d["ids"]))
        table = table.splitlines()
        self.assertEqual(len(table), len(d["ids"]))
        for row, t in zip(table, d["logprobs"]):
            shown = float(re.match(r" *\d+ +([\d.]+)%", row)[1])
            self.assertAlmostEqual(shown, 100 * math.exp(t["logprob"]), delta=0.051)
            for other in t["top"]:
                if other["id"] != t["id"]:
                    self.assertIn(f"{100 * math.exp(other['logprob']):.1f}%", row)

    def test_colours_on_a_terminal(self):
        for term, more, want in (("xterm", "truecolor", "48;2;"), ("xterm", "", "48;5;"),
                                 ("dumb", "", None)):
            main, side = pty.openpty()
            env = dict(os.environ, TERM=term, COLORTERM=more)
            env.pop("NO_COLOR", None)
            p = subprocess.Popen([WEFT, "run", DEMO, *map(str, self.ARGS), "--explain"],
                                 stdin=subprocess.DEVNULL, stdout=side, env=env,
                                 stderr=subprocess.DEVNULL)
            os.close(side)
            out = b""
            try:
                while chunk := os.read(main, 1 << 16):
                    out += chunk
            except OSError:
                pass
            os.close(main)
            self.assertEqual(p.wait(60), 0)
            out = out.decode()
            if not want:
                self.assertNotIn("\x1b", out)
                continue
            self.assertIn(want, out)
            # Every colour is taken back, and none runs over a line's end.
            self.assertEqual(out.count("\x1b["), 2 * out.count("\x1b[0m"))
            for line in out.split("\r\n"):
                self.assertNotRegex(line, r"\x1b\[38[^\x1b]*$")

    def test_html(self):
        with tempfile.TemporaryDirectory() as tmp:
            path = os.path.join(tmp, "x.html")
            plain = run(*self.ARGS, "--html", path)
            self.assertEqual(plain, run(*self.ARGS))
            with open(path, encoding="utf-8") as f:
                page = Page(f.read())
            self.assertEqual(page.stack, [])
            self.assertEqual(page.main + "\n", plain)
            self.assertEqual(page.outside, set())
            d = run_json(*self.ARGS, "--logprobs", 5)
            self.assertEqual(len(page.tips), len(d["ids"]))
            for tip, t in zip(page.tips, d["logprobs"]):
                for other in t["top"]:
                    self.assertIn(f"{100 * math.exp(other['logprob']):.1f}%", tip)
            weft("run", DEMO, "-p", '<b>&"</b>', "-n", 2, "--html", path)
            with open(path, encoding="utf-8") as f:
                self.assertIn("&lt;b&gt;&amp;&quot;&lt;/b&gt;", f.read())

    def test_refusals(self):
        run("--explain", "--json", "-n", 1, code=2)
        run("--explain", "--print-ids", "-n", 1, code=2)
        run("--logprobs", 3, "-n", 1, code=2)
        run("--html", "/nonexistent/x", "-n", 1, code=5)


if __name__ == "__main__":
    unittest.main()
