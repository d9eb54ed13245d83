# SPDX-License-Identifier: Apache-2.0
"""The command line as its users meet it: help, output shapes, pipes, signals, streams. The sampler
is compared with the golden probabilities of the fixtures; text with what other invocations give."""

import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("WEFT_BUILD", "build"))
WEFT = os.path.join(BUILD, "weft")
DEMO = os.path.join(ROOT, "bench", "models", "demo")
FIXTURES = os.environ.get("WEFT_FIXTURES", os.path.join(ROOT, "..", "shared", "fixtures"))
COMMANDS = ["run", "score", "quantize", "tokenize", "inspect", "plan", "bench", "eval", "report",
            "sample", "doctor", "completion", "help", "batch"]
PROMPT = "It was a dark"


def weft(*args, code=0, text=None, binary=False, **kw):
    """stdout of a run that must end with `code`; on failure exactly one error line."""
    r = subprocess.run([WEFT, *map(str, args)], capture_output=True, timeout=240,
                       input=text.encode() if isinstance(text, str) else text or b"", **kw)
    err = r.stderr.decode()
    if r.returncode != code:
        raise AssertionError(f"weft {args}: exit {r.returncode}, not {code}: {err}")
    if code not in (0, 130) and not re.fullmatch(r"weft: error: [^\n]+\n", err):
        raise AssertionError(f"weft {args}: not one error line: {err!r}")
    weft.err = err
    return r.stdout if binary else r.stdout.decode()


def run(*args, **kw):
    return weft("run", DEMO, *args, **kw)


def run_json(*args, **kw):
    return json.loads(run(*args, "--json", **kw))


class Help(unittest.TestCase):
    def test_overview(self):
        for args in ([], ["help"], ["--help"], ["-h"]):
            out = weft(*args)
            for name in COMMANDS:
                self.assertRegex(out, rf"(?m)^  {name} +\S")

    def test_every_command(self):
        for name in COMMANDS:
            page = weft("help", name)
            self.assertIn(f"weft {name} ", page)
            self.assertEqual(weft(name, "--help"), page)
            self.assertEqual(weft(name, "x", "-h"), page)
            for line in page.splitlines():
                self.assertLessEqual(len(line), 80, f"{name}: {line}")

    def test_help_behind_a_value_is_a_value(self):
        weft("run", DEMO, "-p", "--help", "-n", "1", "--seed", "1")

    def test_version(self):
        self.assertRegex(weft("--version"), r"^weft \d+\.\d+\.\d+\n$")

    def test_nearest(self):
        for word, near in (("rum", "run"), ("tokenise", "tokenize"), ("scor", "score")):
            weft(word, code=2)
            self.assertIn(f"did you mean {near}?", weft.err)
            weft("help", word, code=2)
            self.assertIn(f"did you mean {near}?", weft.err)
        weft("zzzzzzzz", code=2)
        weft("run", DEMO, "--tempp", "1", code=2)
        self.assertIn("--temp", weft.err)

    def test_width(self):
        # A terminal of 120 columns gets longer lines than one of 50.
        import fcntl
        import pty
        import termios
        longest = {}
        for columns in (50, 120):
            main, side = pty.openpty()
            fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
            p = subprocess.Popen([WEFT, "help", "doctor"], stdout=side, stdin=subprocess.DEVNULL)
            p.wait(20)
            os.close(side)
            lines = os.read(main, 1 << 16).decode().split("\r\n")
            os.close(main)
            longest[columns] = max(map(len, lines))
        self.assertLessEqual(longest[50], 50)

    def test_man_page(self):
        page = weft("help", "--man")
        self.assertTrue(page.startswith(".TH WEFT 1"))
        for name in COMMANDS:
            self.assertIn(f".SS weft {name}", page)
        self.assertIn(".SH EXIT STATUS", page)
        if shutil.which("groff"):
            r = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=page.encode(),
                               capture_output=True)
            self.assertEqual((r.returncode, r.stderr), (0, b""))

    def test_completion(self):
        script = weft("completion", "bash")
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)
        for words, want in ((["weft", "tok"], "tokenize"), (["weft", "run", "--temp"], "--temp"),
                            (["weft", "run", "--device", ""], "auto cpu cuda ref emu"),
                            (["weft", "completion", "f"], "fish"),
                            (["weft", "help", "sc"], "score")):
            line = " ".join(f"'{w}'" for w in words)
            r = subprocess.run(["bash", "-c", f"{script}\nCOMP_WORDS=({line}); "
                                f"COMP_CWORD={len(words) - 1}; _weft; echo ${{COMPREPLY[*]}}"],
                               capture_output=True, text=True, check=True)
            self.assertIn(want, r.stdout)
            self.assertEqual(r.stderr, "")
        for shell in ("zsh", "fish"):
            script = weft("completion", shell)
            self.assertIn("repeat-penalty", script)
            if shutil.which(shell):
                subprocess.run([shell, "-n"], input=script.encode(), check=True)
        weft("completion", "bsh", code=2)
        weft("completion", code=2)


class Run(unittest.TestCase):
    def test_json_shape(self):
        d = run_json("-p", PROMPT, "-n", 12, "--seed", 5)
        self.assertEqual(list(d)[:4], ["text", "ids", "prompt_ids", "finish_reason"])
        self.assertEqual(set(d["timings"]), {"prompt_n", "prompt_ms", "predicted_n", "predicted_ms",
                                             "prompt_per_second", "predicted_per_second"})
        self.assertLessEqual(len(d["ids"]), 12)
        self.assertEqual(d["timings"]["predicted_n"], len(d["ids"]))
        self.assertEqual(d["timings"]["prompt_n"], len(d["prompt_ids"]))
        self.assertNotIn(PROMPT, d["text"])

    def test_streams_what_json_says(self):
        for seed in range(1, 6):
            args = ("-p", PROMPT, "-n", 60, "--seed", seed)
            self.assertEqual(run(*args), run_json(*args)["text"] + "\n")

    def test_text_is_the_text_of_the_ids(self):
        d = run_json("-p", PROMPT, "-n", 40, "--seed", 2)
        ids = d["prompt_ids"] + d["ids"]
        whole = json.loads(weft("tokenize", DEMO, "--decode", "--jsonl", text=json.dumps(ids)))
        self.assertEqual(PROMPT + d["text"], whole)

    def test_seeds(self):
        a, b, c = (run("-p", PROMPT, "-n", 40, "--temp", 1, "--seed", s) for s in (1, 1, 2))
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)
        d = run_json("-p", PROMPT, "-n", 40, "--temp", 1)  # an unseeded run says how to repeat it
        self.assertEqual(run_json("-p", PROMPT, "-n", 40, "--temp", 1, "--seed", d["seed"])["text"],
                         d["text"])

    def test_greedy_ignores_the_seed(self):
        a, b = (run("-p", PROMPT, "-n", 30, "--temp", 0, "--seed", s) for s in (1, 2))
        self.assertEqual(a, b)
        self.assertEqual(a, run("-p", PROMPT, "-n", 30, "--temp", 5, "--top-k", 1))
        self.assertEqual(a, run("-p", PROMPT, "-n", 30, "--temp", 1, "--top-p", 0))

    def test_print_ids(self):
        ids = run_json("-p", PROMPT, "-n", 20, "--temp", 0, "--ignore-eos")["ids"]
        out = run("-p", PROMPT, "-n", 20, "--temp", 0, "--ignore-eos", "--print-ids")
        self.assertRegex(out, r"^\d+(,\d+)*\n$")
        self.assertEqual(list(map(int, out.split(","))), ids)
        self.assertEqual(len(ids), 20)

    def test_ids_in_are_the_prompt(self):
        d = run_json("-p", PROMPT, "-n", 8, "--temp", 0)
        again = run_json("--ids", ",".join(map(str, d["prompt_ids"])), "-n", 8, "--temp", 0)
        self.assertEqual(d["text"], again["text"])
        self.assertEqual(again["prompt_ids"], d["prompt_ids"])

    def test_prompt_sources_agree(self):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write(PROMPT)
            f.flush()
            outs = [run("-p", PROMPT, "-n", 9, "--temp", 0),
                    run("-f", f.name, "-n", 9, "--temp", 0),
                    run("-f", "-", "-n", 9, "--temp", 0, text=PROMPT),
                    run("-p", "-", "-n", 9, "--temp", 0, text=PROMPT)]
        self.assertEqual(len(set(outs)), 1, outs)

    def test_starts_at_bos(self):
        d = run_json("-n", 4, "--temp", 0)
        with open(os.path.join(DEMO, "config.json"), encoding="utf-8") as f:
            bos = json.load(f)["bos_token_id"]
        self.assertEqual(d["prompt_ids"], [bos])
        self.assertEqual(run_json("-p", "", "-n", 4, "--temp", 0)["text"], d["text"])

    def test_no_bos(self):
        with_bos = run_json("-p", "a", "-n", 1)["prompt_ids"]
        without = run_json("-p", "a", "-n", 1, "--no-bos")["prompt_ids"]
        self.assertEqual(with_bos[1:], without)

    def test_stop_strings(self):
        args = ("-p", PROMPT, "-n", 60, "--temp", 0)
        text = run_json(*args)["text"]
        # Every window of the text as a stop string: most of them cross token boundaries.
        for at in range(0, min(len(text) - 6, 60), 3):
            stop = text[at:at + 6]
            d = run_json(*args, "--stop", stop)
            self.assertEqual(d["text"], text[:text.index(stop)], f"--stop {stop!r}")
            self.assertEqual(d["finish_reason"], "stop")
            self.assertEqual(run(*args, "--stop", stop), d["text"] + "\n")
        d = run_json(*args, "--stop", text[:-1] + "\x01")  # begins everywhere, ends nowhere
        self.assertEqual((d["text"], d["finish_reason"]), (text, "length"))
        d = run_json(*args, "--stop", "\x01", "--stop", text[9:14], "--stop", text[20:24])
        self.assertEqual(d["text"], text[:min(text.index(text[9:14]), text.index(text[20:24]))])

    def test_stop_id_and_bias(self):
        args = ("-p", PROMPT, "-n", 20, "--temp", 0, "--ignore-eos")
        ids = run_json(*args)["ids"]
        d = run_json(*args, "--stop-id", ids[7])
        self.assertEqual(d["ids"], ids[:ids.index(ids[7])])
        self.assertEqual(d["finish_reason"], "stop")
        for ban in (f"{ids[0]}-1000", f"{ids[0]}=-1000", f"{ids[0]}=-inf"):
            self.assertNotIn(ids[0], run_json(*args, "--logit-bias", ban)["ids"])
        for force in ("7+1000", "7=1000"):
            self.assertEqual(run_json(*args, "--logit-bias", force)["ids"], [7] * 20)

    def test_penalties_change_repetition(self):
        args = ("-p", "the the the the", "-n", 40, "--temp", 0, "--ignore-eos")
        ids = run_json(*args, "--no-repeat-ngram", 1)["ids"]
        self.assertEqual(len(set(ids)), len(ids))
        ids = run_json(*args, "--presence-penalty", 100)["ids"]
        self.assertEqual(len(set(ids)), len(ids))

    def test_logprobs(self):
        args = ("-p", PROMPT, "-n", 6, "--temp", 0, "--ignore-eos")
        d = run_json(*args, "--logprobs", 3)
        self.assertEqual([x["id"] for x in d["logprobs"]], d["ids"])
        for x in d["logprobs"]:
            self.assertEqual(len(x["top"]), 3)
            self.assertEqual(x["top"][0]["id"], x["id"])  # greedy takes the likeliest
            self.assertEqual(x["top"][0]["logprob"], x["logprob"])
            self.assertGreaterEqual(x["top"][0]["logprob"], x["top"][1]["logprob"])
        # The same numbers come from scoring the whole.
        ids = d["prompt_ids"] + d["ids"]
        s = json.loads(weft("score", DEMO, "--ids", ",".join(map(str, ids)), "--json"))
        for got, want in zip(d["logprobs"], s["logprobs"][len(d["prompt_ids"]):]):
            self.assertAlmostEqual(got["logprob"], want, places=4)
        run(*args, "--logprobs", 3, code=2)

    def test_switches_that_change_nothing(self):
        args = ("-p", PROMPT, "-n", 12, "--temp", 0, "--print-ids")
        want = run(*args)
        for extra in (["-t", 1], ["-t", 2], ["-ub", 1], ["-ub", 3], ["--no-mmap"], ["-c", 200],
                      ["--tp", 2], ["--tensor-parallel-size", 2], ["--max-model-len", 128]):
            self.assertEqual(run(*args, *extra), want, extra)

    def test_aliases(self):
        want = run("-p", PROMPT, "-n", 5, "--temp", 0)
        self.assertEqual(weft("run", "-m", DEMO, "--prompt", PROMPT, "--max-tokens", 5,
                              "--temperature", 0), want)
        self.assertEqual(weft("run", "--model", DEMO, f"--prompt={PROMPT}", "--n-predict=5",
                              "--temp=0", "--repetition-penalty", "1"), want)

    def test_context_is_a_limit(self):
        d = run_json("-p", PROMPT, "-c", 16, "--ignore-eos")
        self.assertEqual(d["finish_reason"], "length")
        self.assertEqual(len(d["ids"]) + len(d["prompt_ids"]), 17)
        run("-p", "word " * 100, "-c", 16, code=2)
        self.assertIn("context", weft.err)

    def test_bad_arguments(self):
        for args in (["-n", "0"], ["-n", "x"], ["-n", "1.5"], ["-n", "-2"], ["--temp", "-1"],
                     ["--temp", "nan"], ["--temp", "1e9"], ["--top-p", "1.1"], ["--top-k", "-1"],
                     ["--ids", "1,,2"], ["--ids", ""], ["--ids", "1,-2"],
                     ["--ids", "1,99999999999"],
                     ["--ids", "1,2000000"], ["--ids", "1", "-p", "x"], ["-p", "a", "-f", "b"],
                     ["--stop", ""], ["--stop", "x" * 1025], ["--stop-id", "x"],
                     ["--stop-id", "2000000"], ["--logit-bias", "x"], ["--logit-bias", "5"],
                     ["--logit-bias", "5=nan"], ["--logit-bias", "5+1e99"],
                     ["--logit-bias", "9999999+1"], ["--logprobs", "21", "--json"],
                     ["--json", "--print-ids"], ["--device", "gpu"], ["--dtype", "int7"],
                     ["--tp", "3"], ["--tp", "0"], ["-t", "-1"], ["-ub", "-1"], ["-c", "-1"],
                     ["--seed", "-2"], ["--seed", "1", "--seed", "2"], ["-p"], ["--prompt"],
                     ["extra"],
                     ["--json=1"]):
            with self.subTest(args=args):
                run(*args, code=2)
        weft("run", code=2)
        run("-f", "/nonexistent", code=3)
        run("-f", DEMO, code=3)
        run("-f", "-", code=3, text=b"\xff\xfe")
        weft("run", "/nonexistent", code=3)
        weft("run", DEMO, *sum((["--stop", f"s{i}"] for i in range(65)), []), code=2)

    def test_quiet_without_a_terminal(self):
        run("-p", PROMPT, "-n", 3)
        self.assertEqual(weft.err, "")
        run("-p", PROMPT, "-n", 3, "--stats")
        self.assertRegex(weft.err, r"tok/s")
        self.assertRegex(weft.err, r"GB/s")


class Streams(unittest.TestCase):
    def test_full_disk(self):
        for args in (["run", DEMO, "-n", "5"], ["run", DEMO, "-n", "5", "--json"], ["help"],
                     ["score", DEMO, "--ids", "1,2,3"], ["tokenize", DEMO, "hello"], ["doctor"],
                     ["plan", DEMO], ["--version"], ["completion", "bash"]):
            with open("/dev/full", "wb") as full:
                r = subprocess.run([WEFT, *args], stdout=full, stderr=subprocess.PIPE, timeout=120)
            self.assertEqual(r.returncode, 5, args)
            self.assertRegex(r.stderr.decode(), r"^weft: error: stdout: [^\n]+\n$")

    def test_closed_stdout(self):
        for args in ("run", DEMO, "-n", "5"), ("tokenize", DEMO, "hello"):
            r = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", WEFT, *args],
                               stderr=subprocess.PIPE, timeout=120)
            self.assertEqual(r.returncode, 5)
            self.assertIn(b"stdout", r.stderr)

    def test_reader_goes_away(self):
        p = subprocess.Popen([WEFT, "run", DEMO, "--ignore-eos", "-c", "1024"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.read(p.stdout.fileno(), 1)
        p.stdout.close()
        self.assertEqual(p.wait(60), 5)
        self.assertRegex(p.stderr.read().decode(), r"^weft: error: stdout: [^\n]+\n$")
        p.stderr.close()

    def test_closed_stdin_and_stderr(self):
        r = subprocess.run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", WEFT, "run", DEMO, "-n", "3"],
                           stdout=subprocess.PIPE, timeout=120)
        self.assertEqual(r.returncode, 0)

    def test_tokens_come_one_by_one(self):
        p = subprocess.Popen([WEFT, "run", DEMO, "--ignore-eos", "-c", "1024", "--device", "ref",
                              "--print-ids", "-t", "1"], stdout=subprocess.PIPE)
        reads = 0
        while os.read(p.stdout.fileno(), 1 << 16):
            reads += 1
        p.stdout.close()
        self.assertEqual(p.wait(60), 0)
        self.assertGreater(reads, 20)

    def test_interrupt(self):
        for extra in ([], ["--json"]):
            p = subprocess.Popen([WEFT, "run", DEMO, "--ignore-eos", "-c", "1024", "--device",
                                  "ref", "-t", "1", "-v", *extra], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
            if extra:
                time.sleep(0.7)
            else:
                os.read(p.stdout.fileno(), 1)
            p.send_signal(signal.SIGINT)
            out, err = p.communicate(timeout=60)
            self.assertEqual(p.returncode, 130)
            self.assertRegex(err.decode(), r"finish: cancelled")
            self.assertTrue(out.endswith(b"\n"))
            out.decode()  # whole characters
            if extra:
                self.assertEqual(json.loads(out)["finish_reason"], "cancelled")


class Score(unittest.TestCase):
    def test_json(self):
        d = json.loads(weft("score", DEMO, "-p", "The cat sat on the mat.", "--json"))
        self.assertEqual(list(d), ["tokens", "logprobs", "nll", "ppl"])
        self.assertIsNone(d["logprobs"][0])
        rest = d["logprobs"][1:]
        self.assertEqual(len(d["tokens"]), len(rest) + 1)
        self.assertAlmostEqual(d["nll"], -sum(rest) / len(rest), places=6)
        self.assertAlmostEqual(d["ppl"], math.exp(d["nll"]), delta=1e-6 * d["ppl"])

    def test_logits(self):
        with tempfile.TemporaryDirectory() as tmp:
            path = os.path.join(tmp, "l.safetensors")
            d = json.loads(weft("score", DEMO, "--ids", "0,5,6,7", "--json", "--logits", path))
            with open(path, "rb") as f:
                n = struct.unpack("<Q", f.read(8))[0]
                head = json.loads(f.read(n))["logits"]
                data = f.read()
            self.assertEqual(os.listdir(tmp), ["l.safetensors"])
        self.assertEqual(head["dtype"], "F32")
        rows, vocab = head["shape"]
        self.assertEqual((rows, len(data)), (4, rows * vocab * 4))
        for t in range(rows - 1):  # log softmax in double of what was written
            row = struct.unpack_from(f"<{vocab}f", data, t * vocab * 4)
            top = max(row)
            want = row[d["tokens"][t + 1]] - top - math.log(sum(math.exp(x - top) for x in row))
            self.assertAlmostEqual(d["logprobs"][t + 1], want, places=4)

    def test_table(self):
        out = weft("score", DEMO, "-p", "The cat", "--no-bos")
        self.assertRegex(out, r"perplexity \d")
        self.assertIn('"The', out)

    def test_windows(self):
        ids = ",".join(str(5 + i % 90) for i in range(300))
        weft("score", DEMO, "--ids", ids, "-c", 64, code=2)
        self.assertIn("64", weft.err)
        whole = json.loads(weft("score", DEMO, "--ids", ids, "--json"))
        parts = json.loads(weft("score", DEMO, "--ids", ids, "-c", 64, "--stride", 32, "--json"))
        self.assertEqual(whole["logprobs"][:64], parts["logprobs"][:64])
        # The second window begins at 32 and scores from 64 on.
        window = json.loads(weft("score", DEMO, "--ids", ",".join(ids.split(",")[32:96]), "--json"))
        self.assertEqual(window["logprobs"][32:], parts["logprobs"][64:96])
        weft("score", DEMO, "--ids", ids, "-c", 64, "--stride", 64, code=2)

    def test_errors(self):
        weft("score", DEMO, code=2)
        weft("score", DEMO, "--ids", "1,2", "--logits", "/nonexistent/x", code=5)
        weft("score", DEMO, "--ids", "1,99999", code=2)
        one = json.loads(weft("score", DEMO, "--ids", "1", "--json"))
        self.assertEqual(one, {"tokens": [1], "logprobs": [None], "nll": None, "ppl": None})


class Tokenize(unittest.TestCase):
    TEXTS = ["Hello world", "", " leading", "two\nlines", "naïve – 日本語 🙂",
             "tab\tand \"quotes\"", "\u2028\x85\x1c"]

    def test_jsonl_both_ways(self):
        lines = "".join(json.dumps(t) + "\n" for t in self.TEXTS)
        out = weft("tokenize", DEMO, "--jsonl", text=lines)
        ids = [json.loads(x) for x in out.splitlines()]
        self.assertEqual(len(ids), len(self.TEXTS))
        back = weft("tokenize", DEMO, "--decode", "--jsonl", text=out)
        self.assertEqual([json.loads(x) for x in back.splitlines()], self.TEXTS)
        special = weft("tokenize", DEMO, "--jsonl", "--special", text=lines)
        for a, b in zip(ids, special.splitlines()):
            self.assertEqual(json.loads(b)[1:], a)
        shown = weft("tokenize", DEMO, "--decode", "--jsonl", "--special", text=special)
        self.assertEqual(json.loads(shown.splitlines()[0]), "<|begin|>Hello world")
        self.assertEqual(weft("tokenize", DEMO, "--decode", "--jsonl", text=special), back)

    def test_one_text(self):
        ids = weft("tokenize", DEMO, "Hello world", "--print-ids")
        self.assertRegex(ids, r"^\d+(,\d+)*\n$")
        table = weft("tokenize", DEMO, "Hello world")
        self.assertEqual([int(x.split()[0]) for x in table.splitlines()[:-1]],
                         list(map(int, ids.split(","))))
        self.assertEqual(weft("tokenize", DEMO, text="Hello world"), table)
        self.assertEqual(weft("tokenize", DEMO, "-f", "-", text="Hello world"), table)
        for form in (ids.strip(), ids.replace(",", " "), f"[{ids.strip()}]"):
            self.assertEqual(weft("tokenize", DEMO, "--decode", form), "Hello world\n")
        self.assertEqual(weft("tokenize", DEMO, "--decode", text=ids), "Hello world\n")

    def test_line_by_line(self):
        p = subprocess.Popen([WEFT, "tokenize", DEMO, "--jsonl"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        for word in ("one", "two"):  # an answer comes before the next question
            p.stdin.write(json.dumps(word).encode() + b"\n")
            p.stdin.flush()
            json.loads(p.stdout.readline())
        p.stdin.close()
        self.assertEqual(p.wait(20), 0)
        p.stdout.close()

    def test_bad_lines(self):
        for bad in ("x", "1", '"a', '{"a":1}', '"a" "b"', '"\\ud800"', ""):
            out = weft("tokenize", DEMO, "--jsonl", text=f'"ok"\n{bad}\n"later"\n', code=3)
            self.assertEqual(len(out.splitlines()), 1, bad)
            self.assertIn(":2:", weft.err)
        for bad in ("x", "[1.5]", "[-1]", '["1"]', "1", "[99999999]", "[1", '"a"'):
            out = weft("tokenize", DEMO, "--decode", "--jsonl", text=f"[5]\n{bad}\n", code=3)
            self.assertEqual(len(out.splitlines()), 1, bad)
            self.assertIn(":2", weft.err)

    def test_errors(self):
        weft("tokenize", code=2)
        weft("tokenize", DEMO, "a", "b", code=2)
        weft("tokenize", DEMO, "a", "--jsonl", code=2)
        weft("tokenize", DEMO, "a", "-f", "x", code=2)
        weft("tokenize", "/nonexistent", "a", code=3)
        weft("tokenize", DEMO, "--decode", "1,x", code=2)
        weft("tokenize", DEMO, "--decode", "99999999", code=2)
        weft("tokenize", DEMO, text=b"\xff", code=3)


class Sample(unittest.TestCase):
    def answers(self, lines, code=0, *args):
        out = weft("sample", "--jsonl", *args, text="".join(x + "\n" for x in lines), code=code)
        return [json.loads(x) for x in out.splitlines()]

    def test_goldens(self):
        path = os.path.join(FIXTURES, "golden", "sampling.json")
        if not os.path.exists(path):
            self.skipTest(f"{path} is not there")
        with open(path, encoding="utf-8") as f:
            golden = json.load(f)
        lines = []
        for case in golden["cases"]:
            row = golden["rows"][case["row"]]
            line = dict(golden["sets"][case["set"]])
            line["logits"] = [None if x == "-inf" else x for x in row["logits"]]
            line["history"], line["prompt_len"] = row["history"], row["prompt_len"]
            lines.append(json.dumps(line))
        for device in ("ref", "cpu"):
            got = self.answers(lines, 0, "--device", device)
            self.assertEqual(len(got), len(lines))
            for case, answer in zip(golden["cases"], got):
                if case["probs"] is None:
                    self.assertIn("error", answer)
                    continue
                p, want = answer["probs"], case["probs"]
                if case.get("ambiguous_tie"):
                    p, want = sorted(p), sorted(want)
                if "threshold_within" in case and sum(x > 0 for x in p) != sum(x > 0 for x in want):
                    continue  # fp32 may keep one token more or less here
                worst = max(abs(x - y) for x, y in zip(p, want))
                self.assertLessEqual(worst, 1e-6, f"{device}, row {case['row']}, set {case['set']}")

    def test_complaints_are_answers(self):
        bad = ['{}', '{"logits":"a"}', '{"logits":[]}', '{"logits":[1,"a"]}', '{"logits":[1e39]}',
               '{"logits":[null,null]}', '{"logits":[1,2],"history":[2]}',
               '{"logits":[1,2],"history":[0.5]}', '{"logits":[1,2],"history":3}',
               '{"logits":[1,2],"prompt_len":1}', '{"logits":[1,2],"temperature":-1}',
               '{"logits":[1,2],"temperature":"hot"}', '{"logits":[1,2],"temprature":1}',
               '{"logits":[1,2],"top_k":1.5}', '{"logits":[1,2],"top_p":2}',
               '{"logits":[1,2],"logit_bias":{"x":1}}', '{"logits":[1,2],"logit_bias":{"2":1}}',
               '{"logits":[1,2],"logit_bias":[1]}', '{"logits":[1,2],"repetition_penalty":0}']
        got = self.answers(bad + ['{"logits":[1,1]}'])
        for line, answer in zip(bad, got):
            self.assertEqual(list(answer), ["error"], line)
        self.assertEqual(got[-1], {"probs": [0.5, 0.5]})
        self.assertIn("temperature", got[12]["error"])  # the nearest key

    def test_lines_that_are_no_objects(self):
        got = self.answers(["[1]", '{"logits":[1]}', "x", '{"logits":[1'], 3)
        self.assertEqual([list(x)[0] for x in got], ["error", "probs", "error", "error"])
        weft("sample", code=2)


class Reports(unittest.TestCase):
    def test_plan(self):
        d = json.loads(weft("plan", DEMO, "--json", "--tp", 2))
        self.assertEqual([r["rank"] for r in d["ranks"]], [0, 1])
        for r in d["ranks"]:
            self.assertEqual(set(r), {"rank", "replica", "weights_bytes", "kv_bytes", "act_bytes",
                                      "sent_bytes_per_token",
                                      "sent_bytes_per_step", "stage", "slice", "layers",
                                      "idle_token", "idle_step"})
        self.assertTrue(d["steps"])
        for step in d["steps"]:
            for key in ("tag", "op", "bytes", "flops"):
                self.assertIn(key, step)
        text = weft("plan", DEMO, "--cpu-level", "avx2")
        self.assertEqual(text, weft("plan", DEMO, "--cpu-level", "avx2", "-t", 1))
        self.assertIn("matmul", text)

    def test_plan_needs_no_weights(self):
        with tempfile.TemporaryDirectory() as tmp:
            shutil.copy(os.path.join(DEMO, "config.json"), tmp)
            self.assertEqual(weft("plan", tmp, "--cpu-level", "avx2"),
                             weft("plan", DEMO, "--cpu-level", "avx2"))

    def test_predict(self):
        d = json.loads(weft("plan", DEMO, "--json", "--predict"))["predict"]
        for key in ("ceiling_gb_s", "ceiling_gflop_s", "prefill_tok_s", "decode_tok_s"):
            self.assertGreater(d[key], 0)
        self.assertIn("predicted", weft("plan", DEMO, "--predict"))

    def test_bench(self):
        keys = ["test", "dtype", "tok_s", "tok_s_sd", "gb_s", "ceiling_gb_s", "gflop_s",
                "ceiling_gflop_s", "share", "rss_bytes"]
        d = json.loads(weft("bench", DEMO, "-p", 32, "-n", 8, "-d", 0, "-r", 2, "--json"))
        self.assertEqual([x["test"] for x in d], ["pp32", "tg8"])
        for x in d:
            self.assertEqual(list(x), keys)
            for key in keys[2:]:
                self.assertGreaterEqual(x[key], 0)
            self.assertGreater(x["tok_s"], 0)
            self.assertAlmostEqual(x["share"], max(x["gb_s"] / x["ceiling_gb_s"],
                                                   x["gflop_s"] / x["ceiling_gflop_s"]), places=3)
        d = json.loads(weft("bench", DEMO, "-p", 0, "-n", 4, "-d", 9, "--batch", 3, "-r", 1,
                            "--json"))
        self.assertEqual([x["test"] for x in d], ["tg4@d9", "tg4x3@d9"])
        self.assertIn("% of ceiling", weft("bench", DEMO, "-p", 8, "-n", 0, "-r", 1))
        weft("bench", DEMO, "-p", 0, "-n", 0, code=2)
        weft("bench", DEMO, "-p", 99999, code=2)
        weft("bench", DEMO, "-p", 64, "-c", 32, code=2)

    def test_doctor(self):
        d = json.loads(weft("doctor", "--json"))
        self.assertGreaterEqual(d["cores"], 1)
        self.assertGreater(d["read_gb_s"], 0)
        self.assertGreater(d["fma_gflop_s"], 0)
        self.assertIn("processor", weft("doctor"))


class Embedding(unittest.TestCase):
    """The library as an installed one: header, pkg-config file, example."""

    def test_example(self):
        with tempfile.TemporaryDirectory() as tmp:
            r = subprocess.run(["make", "-s", "-C", ROOT, "install", f"PREFIX={tmp}",
                                f"BUILD={BUILD}"], capture_output=True, text=True)
            self.assertEqual(r.returncode, 0, r.stderr)
            env = dict(os.environ, PKG_CONFIG_PATH=os.path.join(tmp, "lib", "pkgconfig"),
                       LD_LIBRARY_PATH=os.path.join(tmp, "lib"))
            flags = subprocess.run(["pkg-config", "--cflags", "--libs", "weft"], env=env,
                                   check=True, capture_output=True, text=True).stdout.split()
            exe = os.path.join(tmp, "embed")
            symbols = subprocess.run(["nm", "-D", WEFT], capture_output=True, text=True).stdout
            if "__asan_init" in symbols:
                flags.append("-fsanitize=address,undefined")
            subprocess.run(["cc", "-std=c11", "-Wall", "-Werror",
                            os.path.join(ROOT, "docs", "examples", "embed.c"), *flags, "-o", exe],
                           env=env, check=True)
            out = subprocess.run([exe, DEMO, PROMPT], env=env, capture_output=True, text=True,
                                 timeout=120)
            self.assertEqual(out.returncode, 0, out.stderr)
            self.assertEqual(out.stdout.rsplit("\n[", 1)[0] + "\n",
                             run("-p", PROMPT, "-n", 32, "--temp", 0))
            bad = subprocess.run([exe, "/nonexistent", PROMPT], env=env, capture_output=True,
                                 text=True)
            self.assertEqual(bad.returncode, 3)
            self.assertTrue(os.path.getsize(os.path.join(tmp, "share", "man", "man1", "weft.1")))


if __name__ == "__main__":
    unittest.main()
