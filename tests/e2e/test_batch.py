# SPDX-License-Identifier: Apache-2.0
"""`weft batch` as users have it: every answer is what `weft run` gives alone, whatever is computed
beside it; a kill at any instant loses nothing and writes nothing twice; bad lines are told one by
one. WEFT_LONG=1 does more of each."""

import fcntl
import json
import os
import pty
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import test_ranks

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(ROOT, os.environ.get("WEFT_BUILD", "build"), "weft")
DEMO = os.path.join(ROOT, "bench", "models", "demo")
LONG = bool(os.environ.get("WEFT_LONG"))
TEMPLATE = "chatml"


def weft(*args, code=0, text=None, **kw):
    r = subprocess.run([WEFT, *map(str, args)], input=text, capture_output=True, text=True,
                       timeout=240, **kw)
    if r.returncode != code or (code in range(1, 100)
                                and not re.fullmatch(r"weft: error: [^\n]+\n", r.stderr)):
        raise AssertionError(f"weft {args}: exit {r.returncode}, not {code}: {r.stderr}")
    weft.err = r.stderr
    return r.stdout


def lines_of(path):
    with open(path, encoding="utf-8", newline="") as f:
        text = f.read()
    assert text == "" or text.endswith("\n"), path
    return [json.loads(x) for x in text.splitlines()]


def read(path):
    with open(path, "rb") as f:
        return f.read()


# ---- requests, and the options that say the same to `weft run` ----

FLAGS = {"max_tokens": "-n", "temperature": "--temp", "top_k": "--top-k", "top_p": "--top-p",
         "min_p": "--min-p", "typical_p": "--typical", "repetition_penalty": "--repeat-penalty",
         "frequency_penalty": "--frequency-penalty", "presence_penalty": "--presence-penalty",
         "no_repeat_ngram_size": "--no-repeat-ngram", "seed": "--seed",
         "min_tokens": "--min-tokens", "top_n_sigma": "--top-n-sigma",
         "dry_multiplier": "--dry-multiplier", "dry_allowed_length": "--dry-allowed-length",
         "mirostat": "--mirostat", "mirostat_tau": "--mirostat-ent",
         "dynatemp_range": "--dynatemp-range", "samplers": "--samplers", "logprobs": "--logprobs",
         "xtc_probability": "--xtc-probability", "xtc_threshold": "--xtc-threshold"}
OPENINGS = ["It was a dark and stormy night", "Elizabeth smiled", "", "\u00c9t\u00e9 \u2014 \"",
            "Mr. Darcy, with a look of surprise, said that he had not", "Call me Ishmael. " * 12,
            "The sea was calm, and the ship", "1 2 3 4"]


def request(rng, i):
    body = {"max_tokens": rng.choice([1, 3, 20, 60]), "seed": rng.randrange(1 << 40),
            "return_token_ids": True}
    kind = rng.randrange(6)
    if kind == 0:
        body["messages"] = [{"role": "user", "content": rng.choice(OPENINGS) + str(i)}]
        if rng.random() < 0.5:
            body["messages"].insert(0, {"role": "system", "content": "Be brief."})
    elif kind == 1:
        body["prompt"] = [rng.randrange(5, 500) for _ in range(rng.choice([1, 16, 17, 90]))]
    else:
        body["prompt"] = rng.choice(OPENINGS) + (f" {i}" if rng.random() < 0.5 else "")
    some = {"temperature": rng.choice([0, 0, 0.7, 1.2]), "top_k": rng.choice([1, 40]),
            "top_p": rng.choice([0, 0.5, 0.95]), "min_p": 0.05, "typical_p": 0.9,
            "repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5,
            "no_repeat_ngram_size": 3, "min_tokens": 4, "top_n_sigma": 1.5, "dynatemp_range": 0.3,
            "dry_multiplier": 1, "dry_allowed_length": 2, "logprobs": 3,
            "samplers": "top_k;temperature", "stop": rng.choice(["the", ["qq", "e "]]),
            "stop_regex": "[aeiou]{3}", "ignore_eos": True,
            "stop_token_ids": [rng.randrange(300, 340)], "logit_bias": {"300": 2.5, "301": False}}
    for key in rng.sample(sorted(some), rng.randrange(6)):
        body[key] = some[key]
    if rng.random() < 0.1:
        body.update(mirostat=rng.choice([1, 2]), mirostat_tau=3)
    if rng.random() < 0.1:
        body.update(xtc_probability=0.5, xtc_threshold=0.05)
    if "messages" in body and "logprobs" in body:
        body.update(logprobs=True, top_logprobs=3)
    return body


def as_line(rng, body, i):
    if rng.random() < 0.5:
        return {**body, **({"custom_id": f"n\u00b0 {i}"} if rng.random() < 0.5 else {})}
    chat = "messages" in body
    return {"custom_id": f"request-{i}", "method": "POST", "body": {"model": "any", **body},
            "url": "/v1/chat/completions" if chat else "/v1/completions"}


def listed(x):
    return x if isinstance(x, list) else [x]


def alone(body):
    """The same request by `weft run`."""
    args, text = ["--json"], None
    for key, value in body.items():
        if key in FLAGS:
            args += [FLAGS[key], 3 if key == "logprobs" else value]
    args += [x for s in listed(body.get("stop", [])) for x in ("--stop", s)]
    args += [x for s in listed(body.get("stop_regex", [])) for x in ("--stop-regex", s)]
    args += [x for s in body.get("stop_token_ids", []) for x in ("--stop-id", s)]
    args += ["--ignore-eos"] if body.get("ignore_eos") else []
    for k, v in body.get("logit_bias", {}).items():
        args += ["--logit-bias", f"{k}={'-inf' if v is False else v}"]
    if "messages" in body:
        args += ["--chat", "--chat-template", TEMPLATE, "--messages", "-"]
        text = json.dumps(body["messages"])
    elif isinstance(body["prompt"], list):
        args += ["--ids", ",".join(map(str, body["prompt"]))]
    elif body["prompt"]:
        args += ["-f", "-"]
        text = body["prompt"]
    return json.loads(weft("run", DEMO, *args, text=text))


class Case(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        d = tempfile.TemporaryDirectory()
        self.addCleanup(d.cleanup)
        self.dir = d.name

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, lines, name="in.jsonl"):
        with open(self.path(name), "w", encoding="utf-8") as f:
            for x in lines:
                f.write((x if isinstance(x, str) else json.dumps(x)) + "\n")
        return self.path(name)

    def batch(self, src, *args, out="out.jsonl", code=0, **kw):
        text = weft("batch", DEMO, "-i", src, "-o", self.path(out), "--chat-template", TEMPLATE,
                    *args, code=code, **kw)
        return text


def simple(n, tokens=30, seed=5):
    rng = random.Random(seed)
    return [{"prompt": f"{rng.choice(OPENINGS)} {i}", "max_tokens": rng.randrange(1, tokens),
             "temperature": rng.choice([0, 0.8]), "ignore_eos": True} for i in range(n)]


class Answers(Case):
    def check(self, body, answer, i):
        want, got = alone(body), answer["response"]["body"]["choices"][0]
        text = got["message"]["content"] if "messages" in body else got["text"]
        what = f"line {i}: {body}"
        self.assertEqual(got["token_ids"], want["ids"], what)
        self.assertEqual(text, want["text"], what)
        self.assertEqual(got["finish_reason"], want["finish_reason"], what)
        usage = answer["response"]["body"]["usage"]
        self.assertEqual(usage["prompt_tokens"], len(want["prompt_ids"]), what)
        self.assertEqual(usage["completion_tokens"], len(want["ids"]), what)
        if "logprobs" not in body:
            self.assertIsNone(got["logprobs"])
            return
        mine = got["logprobs"]["content"]
        self.assertEqual([(t["id"], t["logprob"]) for t in mine],
                         [(t["id"], t["logprob"]) for t in want["logprobs"]], what)
        self.assertEqual([[(x["id"], x["logprob"], x["token"]) for x in t["top_logprobs"]]
                          for t in mine],
                         [[(x["id"], x["logprob"], x["token"]) for x in t["top"]]
                          for t in want["logprobs"]], what)

    def test_each_line_is_what_run_gives_alone(self):
        rng = random.Random(20)
        bodies = [request(rng, i) for i in range(500 if LONG else 60)]
        lines = [as_line(rng, b, i) for i, b in enumerate(bodies)]
        src = self.write(lines)
        self.batch(src, "--max-seqs", 24, "-ub", 48)
        answers = lines_of(self.path("out.jsonl"))
        self.assertEqual(len(answers), len(bodies))
        for i, (line, body, answer) in enumerate(zip(lines, bodies, answers)):
            self.assertEqual(answer["id"], f"line-{i + 1}")
            self.assertEqual(answer["custom_id"], line.get("custom_id"))
            self.assertIsNone(answer["error"])
            self.assertEqual(answer["response"]["status_code"], 200)
            self.check(body, answer, i)
        # the settings of the machine change no byte
        for k, args in enumerate([("--max-seqs", 1, "-t", 1), ("--max-seqs", 7, "-ub", 5),
                                  ("--kv-tokens", 1024, "--max-seqs", 40, "--no-prefix-cache"),
                                  ("--kv-tokens", 1024, "--max-seqs", 40)]):
            self.batch(src, *args, out=f"other{k}.jsonl")
            self.assertEqual(read(self.path("out.jsonl")), read(self.path(f"other{k}.jsonl")), args)

    def test_a_line_without_a_seed_names_the_one_it_got(self):
        src = self.write([{"prompt": "It was", "max_tokens": 12, "temperature": 1.5,
                           "return_token_ids": True}] * 6)
        self.batch(src)
        answers = [x["response"]["body"] for x in lines_of(self.path("out.jsonl"))]
        self.assertEqual(len({x["seed"] for x in answers}), 6)
        self.assertGreater(len({x["choices"][0]["text"] for x in answers}), 1)
        for x in answers:
            body = {"prompt": "It was", "max_tokens": 12, "temperature": 1.5, "seed": x["seed"]}
            self.assertEqual(alone(body)["ids"], x["choices"][0]["token_ids"])
        self.batch(src, "--seed", 7, out="a.jsonl")
        self.batch(src, "--seed", 7, "--max-seqs", 2, out="b.jsonl")
        self.assertEqual(read(self.path("a.jsonl")), read(self.path("b.jsonl")))

    def test_options_hold_where_a_line_says_nothing(self):
        src = self.write([{"prompt": "It was"}, {"prompt": "It was", "max_tokens": 3},
                          {"prompt": "It was", "stop": []}, {"prompt": "It was", "stop": None}])
        self.batch(src, "-n", 9, "--temp", 0, "--stop", "t", "--ignore-eos")
        answers = lines_of(self.path("out.jsonl"))
        texts = [x["response"]["body"]["choices"][0]["text"] for x in answers]
        self.assertEqual(texts[0], texts[3])
        self.assertNotIn("t", texts[0])
        self.assertIn("t", texts[2])

    def test_preemption_changes_nothing_but_time(self):
        src = self.write(simple(40, tokens=80))
        self.batch(src, "-c", 192, "--seed", 1)
        out = json.loads(self.batch(src, "-c", 192, "--seed", 1, "--kv-tokens", 192, "--json",
                                    "--max-seqs", 16, out="small.jsonl"))
        self.assertGreater(out["scheduler"]["preempted"], 0)
        self.assertEqual(read(self.path("out.jsonl")), read(self.path("small.jsonl")))

    def test_prompts_that_begin_alike_are_computed_once(self):
        start = "The house stood on a hill above the town, and nobody had lived in it. " * 6
        src = self.write([{"prompt": start + str(i), "max_tokens": 8, "temperature": 0}
                          for i in range(60)])
        args = ("--json", "--max-seqs", 8, "--seed", 1)
        out = json.loads(self.batch(src, *args))
        off = json.loads(self.batch(src, *args, "--no-prefix-cache", out="off.jsonl"))
        self.assertEqual(read(self.path("out.jsonl")), read(self.path("off.jsonl")))
        self.assertEqual(off["cached_tokens"], 0)
        self.assertEqual(out["prompt_tokens"], off["prompt_tokens"])
        self.assertGreater(out["cached_tokens"], 0.7 * out["prompt_tokens"])

    def test_order_finished_has_the_same_lines(self):
        long_first = [{"prompt": "It was", "max_tokens": 150, "ignore_eos": True}]
        src = self.write(long_first + simple(30))
        self.batch(src, "--seed", 3)
        self.batch(src, "--seed", 3, "--order", "finished", out="any.jsonl")
        a, b = read(self.path("out.jsonl")), read(self.path("any.jsonl"))
        self.assertNotEqual(a, b)
        self.assertEqual(sorted(a.splitlines()), sorted(b.splitlines()))

    def test_pipes(self):
        lines = simple(12)
        src = self.write(lines)
        self.batch(src, "--seed", 3)
        text = "".join(json.dumps(x) + "\n\n" for x in lines)[:-2]  # no end of line at the end
        out = weft("batch", DEMO, "-i", "-", "-o", "-", "--seed", 3, text=text)
        bodies = [json.loads(x)["response"]["body"] for x in out.splitlines()]
        want = [x["response"]["body"] for x in lines_of(self.path("out.jsonl"))]
        for body in bodies + want:
            body.pop("seed")
        self.assertEqual(len(bodies), 12)
        greedy = [i for i, x in enumerate(lines) if x["temperature"] == 0]
        self.assertEqual([bodies[i] for i in greedy], [want[i] for i in greedy])

    def test_answers_come_while_the_input_is_still_open(self):
        p = subprocess.Popen([WEFT, "batch", DEMO, "-i", "-", "-o", "-"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(3):
            p.stdin.write(json.dumps({"prompt": "It was", "max_tokens": 4}) + "\n")
            p.stdin.flush()
            self.assertEqual(json.loads(p.stdout.readline())["id"], f"line-{i + 1}")
        p.send_signal(signal.SIGTERM)  # while it waits for more
        self.assertEqual(p.wait(timeout=60), 128 + signal.SIGTERM)
        p.communicate()

    def test_summary(self):
        src = self.write(simple(30) + ["not json"])
        r = subprocess.run([WEFT, "batch", DEMO, "-i", src, "-o", self.path("out.jsonl"), "--json"],
                           capture_output=True, text=True, timeout=240)
        self.assertEqual(r.returncode, 3)
        out = json.loads(r.stdout)
        usage = [x["response"]["body"]["usage"] for x in lines_of(self.path("out.jsonl"))]
        self.assertEqual(out["lines"], 31)
        self.assertEqual(out["failed"], 1)
        self.assertEqual(out["prompt_tokens"], sum(x["prompt_tokens"] for x in usage))
        self.assertEqual(out["completion_tokens"], sum(x["completion_tokens"] for x in usage))
        rate = out["completion_tokens"] / out["seconds"]
        self.assertAlmostEqual(out["tokens_per_second"], rate, delta=1e-4 * rate)
        for key in ("first_token_ms", "latency_ms"):
            p = out[key]
            self.assertTrue(0 < p["p50"] <= p["p90"] <= p["p99"] <= p["max"])
            self.assertLessEqual(p["max"], 1e3 * out["seconds"] + 1)
        s = out["scheduler"]
        self.assertLessEqual(s["engine_ms"] + s["plan_ms"] + s["text_ms"], 1e3 * out["seconds"] + 1)
        self.assertAlmostEqual(s["overhead"], s["plan_ms"] / s["engine_ms"], delta=1e-4)
        r = subprocess.run([WEFT, "batch", DEMO, "-i", src, "-o", self.path("b.jsonl"), "-v"],
                           capture_output=True, text=True, timeout=240)
        self.assertIn("prefix cache", r.stderr)
        self.assertRegex(r.stderr, r"generated +\d+ tokens +[\d.]+ tok/s")

    def test_progress(self):
        src = self.write(simple(60, tokens=100))
        ours, theirs = pty.openpty()
        # Few at a time, so that lines end one after the other for a while on a fast machine too.
        args = ["-i", src, "-o", self.path("out.jsonl"), "-t", "1", "--max-seqs", "2"]
        p = subprocess.Popen([WEFT, "batch", DEMO, *args], stdout=subprocess.PIPE, stderr=theirs,
                             env={**os.environ, "TERM": "xterm"})
        os.close(theirs)
        seen = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            seen += block
        os.close(ours)
        self.assertEqual(p.communicate(timeout=240)[0], b"")
        self.assertEqual(p.returncode, 0)
        bars = seen.decode().split("\r\033[K")
        self.assertRegex(bars[2], r"batch +\d+% \[[= ]+\] \d+/60 lines, [\d.]+/s, [\d.]+ tok/s")
        self.assertTrue(any(re.search(r", left \d+:\d\d", x) for x in bars))
        self.assertRegex(bars[-1], r"(?s)\Alines +60 in [\d.]+ s.*first token")

    def test_bench(self):
        few = ["--lines", "8", "--few", "2", "--tokens", "8", "-r", "1", "--json"]
        r = subprocess.run([sys.executable, os.path.join(ROOT, "bench", "batch.py"), DEMO, *few,
                            "--build", os.path.dirname(WEFT)],
                           capture_output=True, text=True, timeout=240)
        self.assertEqual(r.returncode, 0, r.stderr)
        out = json.loads(r.stdout)
        self.assertAlmostEqual(out["speedup"], out["batch_tok_s"] / out["one_tok_s"], places=6)
        self.assertLess(out["overhead"], 0.2)


# ---- interruptions ----

class Interruptions(Case):
    def start(self, src, *args, out="out.jsonl", **kw):
        return subprocess.Popen([WEFT, "batch", DEMO, "-i", src, "-o", self.path(out), "-t", "1",
                                 "--max-seqs", "6", "--seed", "9", *args],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **kw)

    def lines(self, n):
        # one bad line in twelve: both files are written to
        return [x if i % 12 != 7 else {"promt": "?"} for i, x in enumerate(simple(n, tokens=60))]

    def undisturbed(self, src, *args):
        p = self.start(src, *args, out="want.jsonl")
        p.communicate(timeout=240)
        self.assertEqual(p.returncode, 3)
        return [read(self.path(f"want{x}.jsonl")) for x in ("", ".errors")]

    def check(self, want, in_order):
        for x, all_of_it in zip(("", ".errors"), want):
            got = read(self.path(f"out{x}.jsonl"))
            if in_order:
                self.assertEqual(got, all_of_it)
            self.assertEqual(sorted(got.splitlines()), sorted(all_of_it.splitlines()))

    def size(self):
        return sum(os.path.getsize(self.path(x)) for x in ("out.jsonl", "out.errors.jsonl")
                   if os.path.exists(self.path(x)))

    def wait_for(self, p, size, rng):
        """Some moment after so much was written: a machine that is slow today changes nothing."""
        while p.poll() is None and self.size() < size:
            time.sleep(0.0005)
        time.sleep(rng.choice([0, 0.001, 0.005]))

    def kill_and_go_on(self, order, kills, sig):
        rng = random.Random(kills)
        src = self.write(self.lines(240 if LONG else 160))
        want = self.undisturbed(src, "--order", order)
        share = sum(map(len, want)) / (kills + 1)
        interrupted = 0
        for k in range(kills):
            p = self.start(src, "--order", order)
            if k % 5 == 4:
                time.sleep(rng.uniform(0, 0.05))  # while it opens
            else:
                self.wait_for(p, self.size() + rng.uniform(0, 1.5 * share), rng)
            p.send_signal(sig)
            _, err = p.communicate(timeout=60)
            if p.returncode in (-sig, 128 + sig):
                interrupted += 1
                self.assertEqual(err, b"")
            else:
                self.assertEqual(p.returncode, 3, err)
            if sig == signal.SIGTERM and os.path.exists(self.path("out.jsonl")):
                lines_of(self.path("out.jsonl"))  # whole lines
        p = self.start(src, "--order", order)
        p.communicate(timeout=240)
        self.assertEqual(p.returncode, 3)
        self.assertGreater(interrupted, kills // 2)
        self.check(want, order == "input")
        files = {f"{a}.{b}" for a in ("out", "want")
                 for b in ("jsonl", "errors.jsonl", "state.json")} | {"in.jsonl"}
        left = set(os.listdir(self.dir))
        self.assertEqual({x for x in left if ".tmp-" not in x}, files)

    def test_killed_at_random_times(self):
        self.kill_and_go_on("input", 20 if LONG else 5, signal.SIGKILL)

    def test_killed_at_random_times_in_any_order(self):
        self.kill_and_go_on("finished", 20 if LONG else 5, signal.SIGKILL)

    def test_terminated_at_random_times(self):
        self.kill_and_go_on("input", 10 if LONG else 4, signal.SIGTERM)

    def test_what_was_half_written_is_cut_off(self):
        src = self.write(self.lines(40))
        want = self.undisturbed(src)
        p = self.start(src)
        p.communicate(timeout=240)
        for keep in (0.3, 0.7, 0.999):  # as a kill within a write leaves it
            for x in ("", ".errors"):
                data = read(self.path(f"out{x}.jsonl"))
                with open(self.path(f"out{x}.jsonl"), "wb") as f:
                    f.write(data[:int(keep * len(data))])
            p = self.start(src, "--order", "input")
            p.communicate(timeout=240)
            self.assertEqual(p.returncode, 3)
            self.check(want, False)

    def test_ctrl_c_says_128_plus_2(self):
        src = self.write(simple(400, tokens=200))
        # a background job of a shell ignores it, and so would we
        p = self.start(src, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        self.wait_for(p, 1000, random.Random(1))
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(timeout=60), 130)
        p.communicate()
        lines_of(self.path("out.jsonl"))

    def test_disk_full_keeps_what_is_there(self):
        src = self.write(self.lines(60))
        want = self.undisturbed(src)

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

        p = self.start(src, preexec_fn=limit, restore_signals=False)  # SIGXFSZ stays ignored
        _, err = p.communicate(timeout=240)
        self.assertEqual(p.returncode, 5)
        self.assertRegex(err.decode(), r"\Aweft: error: \S+out\.jsonl: cannot write: [^\n]+\n\Z")
        kept = read(self.path("out.jsonl"))
        self.assertTrue(4000 < len(kept) <= 9000)
        self.assertTrue(kept.endswith(b"\n") and want[0].startswith(kept))
        p = self.start(src)
        p.communicate(timeout=240)
        self.check(want, True)
        self.batch(src, code=5, out="/dev/full")
        self.assertIn("/dev/full: cannot write", weft.err)
        self.batch(src, code=3, out="/dev/null")
        self.batch(src, "--errors", "/dev/null", code=3, out="only.jsonl")
        self.assertEqual(len(lines_of(self.path("only.jsonl"))), 55)
        for _ in range(2):
            text = weft("batch", DEMO, "-i", src, "-o", "-", "--errors", self.path("e"), code=3)
            self.assertEqual(len(text.splitlines()), 55)
            self.assertEqual(len(lines_of(self.path("e"))), 5)
        self.assertFalse(os.path.exists("/dev/null.errors.jsonl"))
        os.mkfifo(self.path("fifo"))
        reader = subprocess.Popen(["cat", self.path("fifo")], stdout=subprocess.PIPE)
        self.batch(src, code=3, out="fifo")
        self.assertEqual(len(reader.communicate(timeout=60)[0].splitlines()), 60)


# ---- ranks in processes of their own ----

class Ranks(Case):
    def start(self, *args, ranks=2):
        port = str(test_ranks.free_port())
        return [subprocess.Popen(
            [WEFT, "batch", DEMO, "-o", self.path("ranks.jsonl"), *map(str, args)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RANK": str(r), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(r),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}) for r in range(ranks)]

    def finish(self, ranks):
        """Exit codes; what all said together."""
        out = [p.communicate(timeout=120) for p in ranks]
        return [p.returncode for p in ranks], "".join(x[1] for x in out)

    def test_the_same_file_as_one_process(self):
        src = self.write(simple(30) + ["?", {"prompt": 5}])
        self.batch(src, "--seed", 4, code=3)
        codes, err = self.finish(self.start("-i", src, "--seed", 4, "--tp", 2))
        self.assertEqual(codes, [3, 3])
        self.assertRegex(err, r"\Aweft: error: \S+ 2 of 32 lines failed; see [^\n]+\n\Z")
        want = read(self.path("out.jsonl"))
        self.assertEqual(read(self.path("ranks.jsonl")), want)
        with open(self.path("ranks.jsonl"), "wb") as f:  # gone on with, by other ranks
            f.write(want[:len(want) // 2])
        codes, err = self.finish(self.start("-i", src, "--pp", 2))
        self.assertEqual(codes, [3, 3])
        self.assertEqual(read(self.path("ranks.jsonl")), want)
        codes, err = self.finish(self.start("-i", src, "--pp", 2, "--temp", 1))
        self.assertEqual(codes, [2, 2])
        self.assertRegex(err, r"\Aweft: error: [^\n]+ under other settings [^\n]+\n\Z")

    def test_rank_0_is_asked_to_stop(self):
        src = self.write(simple(400, tokens=200))
        ranks = self.start("-i", src, "--tp", 2)
        while ranks[0].poll() is None and (not os.path.exists(self.path("ranks.jsonl")) or
                                           os.path.getsize(self.path("ranks.jsonl")) < 1000):
            time.sleep(0.002)
        ranks[0].send_signal(signal.SIGTERM)
        codes, err = self.finish(ranks)
        self.assertEqual((codes, err), ([143, 143], ""))
        lines_of(self.path("ranks.jsonl"))


# ---- what is refused ----

BAD = [
    ("x", "where a value should be"),
    ("{", "ends where"),
    ('{"prompt": "a"', "ends where"),
    ('{"prompt": "a"} x', "'x'"),
    ("[1, 2]", "where '{' should be|object"),
    ('"text"', "object|'{'"),
    ("{}", "neither prompt nor messages"),
    ('{"prompt": "a", "prompt": "b"}', "prompt"),
    ('{"prompt": 5}', "must be text or an array"),
    ('{"prompt": null}', "must be text or an array"),
    ('{"prompt": [1, "a"]}', "one text a line"),
    ('{"prompt": ["a", "b"]}', "one text a line"),
    ('{"prompt": [99999999]}', "99999999|2047"),
    ('{"prompt": [-1]}', "-1"),
    ('{"prompt": [1.5]}', "prompt|1.5|integer"),
    ('{"prompt": "' + "a b " * 3000 + '"}', "do not fit the context"),
    ('{"messages": []}', "messages: is empty"),
    ('{"messages": "hello"}', "must be an array"),
    ('{"messages": [{"role": "user", "content": "a"}], "prompt": "b"}', "both given"),
    ('{"messages": [5]}', "messages|role|object"),
    ('{"prompt": "a", "max_tokens": 0}', "0 is no number of tokens"),
    ('{"prompt": "a", "max_tokens": "many"}', "max_tokens"),
    ('{"prompt": "a", "max_tokens": 1e3}', "max_tokens"),
    ('{"prompt": "a", "temperature": -1}', "temperature: -1 is not in"),
    ('{"prompt": "a", "temperature": "hot"}', "temperature"),
    ('{"prompt": "a", "top_p": 1.5}', "top_p: 1.5 is not in"),
    ('{"prompt": "a", "top_k": -5}', "top_k"),
    ('{"prompt": "a", "temprature": 1}', "did you mean temperature"),
    ('{"prompt": "a", "seed": 1.5}', "seed"),
    ('{"prompt": "a", "seed": 99999999999999999999}', "seed"),
    ('{"prompt": "a", "n": 2}', "n: only 1"),
    ('{"prompt": "a", "stream": true}', "stream: true is not supported"),
    ('{"prompt": "a", "stop": ""}', "stop"),
    ('{"prompt": "a", "stop": [1]}', "where a string should be"),
    ('{"prompt": "a", "stop_regex": "("}', "stop|regex|expression"),
    ('{"prompt": "a", "stop_token_ids": [2048]}', "2048|2047"),
    ('{"prompt": "a", "logit_bias": {"x": 1}}', '"x" is no token id'),
    ('{"prompt": "a", "logit_bias": {"1": 1e9}}', "logit_bias"),
    ('{"prompt": "a", "logit_bias": {"1": true}}', "logit_bias"),
    ('{"prompt": "a", "logprobs": 21}', "logprobs"),
    ('{"prompt": "a", "top_logprobs": 2}', 'needs "logprobs": true'),
    ('{"prompt": "a", "samplers": "top_q"}', "is no sampler"),
    ('{"prompt": "a", "mirostat": 3}', "mirostat"),
    ('{"prompt": "a", "response_format": {"type": "json_object"}}', "response_format"),
    ('{"prompt": "a", "suffix": "b"}', "suffix: is not supported"),
    ('{"prompt": "\\ud800"}', "surrogate"),
    ('{"custom_id": 5, "prompt": "a"}', "custom_id"),
    ('{"custom_id": "a", "body": {"prompt": "a"}, "prompt": "b"}', 'beside "body"'),
    ('{"custom_id": "a", "body": 5}', "body|'{'"),
    ('{"url": "/v1/embeddings", "body": {"prompt": "a"}}', "is neither"),
    ('{"url": "/v1/chat/completions", "body": {"prompt": "a"}}', 'needs "messages"'),
    ('{"method": "GET", "body": {"prompt": "a"}}', "POST"),
    ('{"prompt": "a", "metadata": ' + "[" * 300 + "]" * 300 + "}", "deep"),
]


class Refusals(Case):
    def test_bad_lines_are_told_one_by_one(self):
        good = {"prompt": "It was", "max_tokens": 3, "temperature": 0}
        src = self.write([x for text, _ in BAD for x in (good, text)] + [good])
        with open(src, "ab") as f:
            f.write(b'{"prompt": "\xff\xfe"}\n' b'{"prompt": "a\x00b"}\n' b"\xef\xbb\xbf{}\n")
        self.batch(src, code=3)
        n, bad = 2 * len(BAD) + 4, len(BAD) + 3
        errors = self.path("out.errors.jsonl")
        self.assertEqual(weft.err, f"weft: error: {src}: {bad} of {n} lines failed; see {errors}\n")
        answers, told = lines_of(self.path("out.jsonl")), lines_of(errors)
        self.assertEqual(len(answers), len(BAD) + 1)
        self.assertEqual(len({x["response"]["body"]["choices"][0]["text"] for x in answers}), 1)
        self.assertEqual([x["error"]["line"] for x in told],
                         [2 * i + 2 for i in range(len(BAD))] + [n - 2, n - 1, n])
        for (text, why), x in zip(BAD, told):
            self.assertIsNone(x["response"])
            self.assertEqual(x["error"]["code"], "invalid_request")
            self.assertRegex(x["error"]["message"], why, text[:200])
        # again: the same exit, nothing is done twice; without the errors' file they are tried again
        before = read(errors)
        self.batch(src, code=3)
        self.assertEqual(read(errors), before)
        os.remove(errors)
        self.batch(src, code=3)
        self.assertEqual(read(errors), before)

    def test_random_bytes_in_lines_never_stop_the_others(self):
        rng = random.Random(8)
        good = json.dumps({"custom_id": "a", "body": {"prompt": "It was \u00e9", "max_tokens": 2,
                                                      "stop": ["x", "y"], "logit_bias": {"3": 1}}})
        rows = []
        for _ in range(3000 if LONG else 400):
            b = bytearray(good.encode())
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(b))
                new = bytes(rng.randrange(256) for _ in range(rng.randrange(3)))
                b[at:at + rng.randrange(3)] = new
            rows.append(bytes(b).replace(b"\n", b" "))
        rows = [x for x in rows if x.strip(b" \t\r")]
        with open(self.path("in.jsonl"), "wb") as f:
            f.write(b"\n".join(rows) + b"\n")
        p = subprocess.run([WEFT, "batch", DEMO, "-i", self.path("in.jsonl"), "-o",
                            self.path("out.jsonl")], capture_output=True, timeout=240)
        self.assertIn(p.returncode, (0, 3), p.stderr)
        done = lines_of(self.path("out.jsonl")) + lines_of(self.path("out.errors.jsonl"))
        self.assertEqual(sorted(int(x["id"][5:]) for x in done), list(range(1, len(rows) + 1)))

    def test_what_belongs_to_another_run_is_left_alone(self):
        src = self.write(simple(6))
        other = self.write(simple(6, seed=6), "other.jsonl")
        self.batch(src, "--seed", 1)
        before = read(self.path("out.jsonl"))
        for args, why in [((other, "--seed", 1), "another input"),
                          ((src, "--seed", 2), "under seed 1"),
                          ((src, "--temp", 0.5), "other settings .*temp 0.5"),
                          ((src, "-c", 64), "other settings"),
                          ((src, "--dtype", "fp32"), "other settings"),
                          ((src, "--order", "finished"), "other settings .*order finished")]:
            self.batch(*args, code=2)
            self.assertRegex(weft.err, why)
        weft("batch", DEMO, "-i", "-", "-o", self.path("out.jsonl"), code=2, text="{}")
        self.assertIn("from a pipe", weft.err)
        state = read(self.path("out.state.json"))
        with open(self.path("out.state.json"), "wb") as f:
            f.write(re.sub(rb'"model":"\w{4}', b'"model":"0000', state))
        self.batch(src, code=2)
        self.assertIn("another model", weft.err)
        with open(self.path("out.state.json"), "wb") as f:
            f.write(state[:20])
        self.batch(src, code=3)
        os.remove(self.path("out.state.json"))
        self.batch(src, code=2)
        self.assertIn("out.state.json", weft.err)
        self.assertEqual(read(self.path("out.jsonl")), before)
        self.batch(src, "--restart", "--seed", 1)
        self.assertEqual(read(self.path("out.jsonl")), before)

    def test_answers_that_are_not_ours(self):
        src = self.write(simple(6))
        self.batch(src, "--seed", 1)
        data = read(self.path("out.jsonl")).splitlines(True)
        for bad, why in [([b"{}\n"], "no line that weft batch wrote"),
                         ([b"text\n"], "no line that weft batch wrote"),
                         ([b'{"id":"line-7"}\n'], "no line that weft batch wrote"),
                         ([b'{"id":"line-0"}\n'], "no line that weft batch wrote"),
                         ([b'{"id":"line-99999999999999999999"}\n'], "no line that"),
                         (data[:1], "answered twice")]:
            with open(self.path("out.jsonl"), "wb") as f:
                f.writelines(data + bad)
            self.batch(src, code=3)
            self.assertIn(why, weft.err)

    def test_files(self):
        src = self.write(simple(2))
        self.batch(self.path("none.jsonl"), code=3)
        self.batch(self.dir, code=3)
        self.batch(src, code=5, out="no/such/folder.jsonl")
        self.batch(src, code=5, out=".")
        before = read(src)
        self.batch(src, "--restart", out="in.jsonl", code=2)
        self.assertIn("the same file", weft.err)
        os.link(src, self.path("link.jsonl"))
        self.batch(src, "--restart", out="link.jsonl", code=2)
        self.batch(src, "--restart", "--errors", src, code=2)
        self.batch(src, "--errors", self.path("out.jsonl"), code=2)
        self.assertEqual(read(src), before)
        with open(self.path("out.jsonl"), "ab") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            self.batch(src, code=2)
            self.assertIn("another weft batch", weft.err)
        self.batch(src)
        self.assertFalse(os.path.exists(self.path("out.errors.jsonl")))
        empty = self.write([], "empty.jsonl")
        self.batch(empty, out="e.jsonl")
        self.assertEqual(read(self.path("e.jsonl")), b"")

    def test_arguments(self):
        src = self.write(simple(2))
        for args, why in [((), "-i: missing"), (("-i", src), "-o: missing"),
                          (("-i", src, "-o", "-", "--json"), "--json and -o -"),
                          (("-i", src, "-o", "x", "--order", "random"), "order"),
                          (("-i", src, "-o", "x", "--max-seqs", 0), "max-seqs"),
                          (("-i", src, "-o", "x", "--kv-tokens", 100), "hold no context of 1024"),
                          (("-i", src, "-o", "x", "-n", 0), "-n: 0"),
                          (("-i", src, "-o", "x", "--samplers", "q"), "is no sampler")]:
            weft("batch", DEMO, *args, code=2)
            self.assertIn(why, weft.err)
        weft("batch", "-i", src, "-o", "x", code=2)
        weft("batch", self.path("nothing"), "-i", src, "-o", self.path("x"), code=3)
        self.assertFalse(os.path.exists(self.path("x")))
        self.assertIn("--order", weft("help", "batch"))


if __name__ == "__main__":
    unittest.main()
