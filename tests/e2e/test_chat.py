# SPDX-License-Identifier: Apache-2.0
"""`weft chat` and `weft run --chat` as people and scripts use them: through a pipe, and in a
terminal of its own. What is kept between turns is compared with another process that computes it
all again."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
import tempfile
import termios
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(ROOT, os.environ.get("WEFT_BUILD", "build"), "weft")
DEMO = os.path.join(ROOT, "bench", "models", "demo")
TEMPLATE = ["--chat-template", "chatml"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>78]")


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.env = dict(os.environ, XDG_STATE_HOME=self.path("state"), TERM="xterm",
                        LANG="C.UTF-8", LC_ALL="C.UTF-8")

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, what):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(what if isinstance(what, str) else json.dumps(what))
        return self.path(name)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as f:
            return json.load(f)

    def weft(self, *args, say="", code=0):
        """stdout and stderr; on failure exactly one error line and the code that was expected."""
        say = say if isinstance(say, bytes) else say.encode()
        r = subprocess.run([WEFT, *map(str, args)], input=say, capture_output=True, timeout=240,
                           env=self.env)
        out, err = r.stdout.decode(), r.stderr.decode()
        self.assertEqual(r.returncode, code, f"{args}: {err}")
        errors = [x for x in err.splitlines() if x.startswith("weft: error: ")]
        self.assertEqual(len(errors), code not in (0, 130), err)
        return out, err

    def chat(self, *lines, args=(), code=0):
        say = "".join(x + "\n" for x in lines)
        return self.weft("chat", DEMO, *TEMPLATE, *args, say=say, code=code)

    def answers(self, *lines, args=()):
        """The answers of the saved conversation, which stdout must be made of."""
        out, err = self.chat(*lines, f"/save {self.path('answers.json')}", args=args)
        said = [m["content"] for m in self.read("answers.json")["messages"]
                if m["role"] == "assistant"]
        return said, out, err


def turns(err):
    """(prompt, kept, computed, answer) of every turn that --stats told of."""
    prompts = re.findall(r"^turn \d+: prompt (\d+) tokens, (\d+) kept, (\d+) computed", err, re.M)
    answers = re.findall(r"^turn \d+: answer (\d+) tokens", err, re.M)
    return [tuple(map(int, (*p, a))) for p, a in zip(prompts, answers)]


SEED = ["--seed", "11", "-n", "30"]
HELLO, MORE, LAST = "It was a dark", "And what then?", "Tell me of the king"


class Pipe(Case):
    def test_answers_and_nothing_else(self):
        said, out, _ = self.answers(HELLO, MORE, args=SEED)
        self.assertEqual(len(said), 2)
        self.assertEqual(out, "".join(x + "\n" for x in said))
        self.assertNotIn("\x1b", out)
        _, err = self.chat(HELLO, args=SEED)
        self.assertEqual(err, "")

    def test_seed(self):
        self.assertEqual(self.chat(HELLO, MORE, args=SEED), self.chat(HELLO, MORE, args=SEED))
        other = self.chat(HELLO, args=["--seed", "12", "-n", "30"])
        self.assertNotEqual(self.chat(HELLO, args=SEED), other)

    def test_lines_and_blocks(self):
        said = f"/save {self.path('a.json')}"
        block = ['"""', "/help is no command here", "", "two", '"""']
        self.chat("one\\", "two", *block, "//etc is a path", "", "tail \\", said, args=["-n", "2"])
        self.assertFalse(os.path.exists(self.path("a.json")))  # it went on with the line before
        self.chat("one\\", "two", *block, "//etc is a path", "", said, args=["-n", "2"])
        users = [m["content"] for m in self.read("a.json")["messages"] if m["role"] == "user"]
        self.assertEqual(users, ["one\ntwo", "/help is no command here\n\ntwo", "/etc is a path"])

    def test_line_ends_of_other_systems_and_no_last_one(self):
        out, _ = self.weft("chat", DEMO, *TEMPLATE, *SEED, say=(HELLO + "\r\n" + MORE).encode())
        self.assertEqual(out, self.chat(HELLO, MORE, args=SEED)[0])

    def test_bad_input(self):
        for say in (b"caf\xe9\n", b"a\0b\n"):
            self.weft("chat", DEMO, *TEMPLATE, say=say, code=3)

    def test_nothing(self):
        self.assertEqual(self.chat(), ("", ""))
        self.assertEqual(self.chat("", "", "/quit", HELLO), ("", ""))

    def test_no_template(self):
        _, err = self.weft("chat", DEMO, say=HELLO, code=2)
        self.assertIn("--chat-template", err)
        self.assertIn("chatml", err)
        self.weft("chat", DEMO, "--chat-template", "no-such-template", code=2)
        self.weft("run", DEMO, "--chat", "-p", "a", code=2)

    def test_system(self):
        a = self.chat("/system Be brief.", HELLO, args=SEED)[0]
        self.assertEqual(a, self.chat(HELLO, args=[*SEED, "--system", "Be brief."])[0])
        self.assertNotEqual(a, self.chat(HELLO, args=SEED)[0])
        self.assertEqual(self.chat("/system Be brief.", "/system none", HELLO, args=SEED),
                         self.chat(HELLO, args=SEED))

    def test_stop_text(self):
        whole = self.answers(HELLO, args=SEED)[0][0]
        stop = whole[8:12]
        cut = self.answers(HELLO, MORE, args=[*SEED, "--stop", stop])[0]
        self.assertEqual(cut[0], whole[:whole.index(stop)])

    def test_interrupt_ends_a_pipe(self):
        p = subprocess.Popen([WEFT, "chat", DEMO, *TEMPLATE, "--device", "ref", "-n", "900",
                              "--ignore-eos"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=self.env)
        p.stdin.write(b"Tell me all\nAnd more\n")
        p.stdin.flush()
        self.assertTrue(p.stdout.read(1))
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 130)
        self.assertTrue(out.endswith(b"\n"))
        # Waiting for a message there is nothing to stop: the signal ends it as usual.
        p = subprocess.Popen([WEFT, "chat", DEMO, *TEMPLATE, "-n", "1"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        p.stdin.write(b"a\n")
        p.stdin.flush()
        while p.stdout.read(1) != b"\n":
            pass
        time.sleep(0.2)
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=20)
        self.assertEqual(p.returncode, -signal.SIGINT)

    def test_reader_gone(self):
        p = subprocess.Popen([WEFT, "chat", DEMO, *TEMPLATE], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        p.stdout.close()
        p.stdin.write(b"a\n")
        p.stdin.close()
        err = p.stderr.read()
        p.stderr.close()
        self.assertEqual(p.wait(20), 5)
        self.assertRegex(err, rb"^weft: error: stdout: [^\n]+\n$")


class Commands(Case):
    def test_help(self):
        _, err = self.chat("/help")
        for name in "help system regen undo clear save load set stats quit".split():
            self.assertRegex(err, rf"(?m)^  /{name}\b")
        for line in err.splitlines():
            self.assertLess(len(line), 80, line)

    def test_unknown(self):
        for typed, near in (("/hlep", "/help"), ("/sav x", "/save"), ("/regn", "/regen")):
            self.assertIn(f"did you mean {near}?", self.chat(typed, code=2)[1])
        self.assertIn("/help", self.chat("/qqqqqqqqqq", code=2)[1])
        for bad in ("/help me", "/save", "/load", "/regen", "/undo"):
            self.chat(bad, code=2)

    def test_regen(self):
        first, other, third = HELLO, "/regen", "/regen"
        said, out, _ = self.answers(first, other, third, args=SEED)
        self.assertEqual(len(said), 1)
        again = self.answers(first, other, third, args=SEED)
        self.assertEqual((said, out), again[:2])  # the same seed: the same choices in turn
        self.assertTrue(out.endswith(said[0] + "\n"))
        self.assertNotEqual(out, 3 * (said[0] + "\n"))
        greedy = self.chat(first, other, args=["--temp", "0", "-n", "30"])[0]
        half = len(greedy) // 2
        self.assertEqual(greedy[:half], greedy[half:])  # nothing to choose: nothing changes

    def test_undo(self):
        went = self.answers(HELLO, MORE, "/undo", LAST, args=SEED)[0]
        self.assertEqual(went, self.answers(HELLO, LAST, args=SEED)[0])
        self.chat(HELLO, "/undo", "/undo", args=SEED, code=2)

    def test_clear(self):
        args = [*SEED, "--system", "Be brief."]
        self.assertEqual(self.answers(HELLO, "/clear", MORE, args=args)[0],
                         self.answers(MORE, args=args)[0])

    def test_set(self):
        plain = self.chat(HELLO, args=SEED)[0]
        self.assertEqual(self.chat("/set temp 0", HELLO, args=SEED)[0],
                         self.chat(HELLO, args=[*SEED, "--temp", "0"])[0])
        self.assertEqual(self.chat("/set temperature=0", "/set temp default", HELLO, args=SEED)[0],
                         plain)
        self.assertEqual(self.chat("/set n-predict 30", "/set seed 11", HELLO)[0], plain)
        self.assertEqual(self.chat("/set stop a", HELLO, args=SEED)[0],
                         self.chat(HELLO, args=[*SEED, "--stop", "a"])[0])
        flag = ["/set ignore-eos on", "/set ignore-eos off"]
        self.assertEqual(self.chat(*flag, HELLO, args=SEED)[0], plain)
        _, err = self.chat("/set", args=["--temp", "0.25"])
        self.assertRegex(err, r"(?m)^  temp +0\.25$")
        self.assertRegex(err, r"(?m)^  top-p +0\.95  \(the model's\)$")
        self.assertIn("did you mean top-p", self.chat("/set tpo-p 1", code=2)[1])
        for bad in ("temp 200", "temp x", "temp", "n-predict 0", "ignore-eos perhaps",
                    "logit-bias 5=9999999"):
            self.chat(f"/set {bad}", code=0 if bad == "temp" else 2)

    def test_every_sampling_option_can_be_set(self):
        shown = re.findall(r"(?m)^  (\S+)", self.chat("/set")[1])
        offered = re.findall(r"(?m)^\s+(?:-\S+, )?--(\S+)", self.weft("help", "chat")[0])
        chat_only = {"system", "chat-template", "load", "stats", "model", "device", "dtype",
                     "threads", "tp", "pp", "dp", "pp-tokens", "comm", "timeout", "ctx-size",
                     "ubatch-size", "cpu-level", "mlock", "no-mmap"}
        self.assertEqual(set(shown), set(offered) - chat_only)


class Kept(Case):
    """K and V between turns: fewer tokens are computed, and not a bit of the text is different."""

    def test_only_new_tokens_are_computed(self):
        _, err = self.chat(HELLO, MORE, LAST, args=[*SEED, "--ignore-eos", "--stats"])
        t = turns(err)
        self.assertEqual(len(t), 3)
        self.assertEqual(t[0][1], 0)
        for before, now in zip(t, t[1:]):
            self.assertEqual(now[1], before[0] + before[3])  # all of it, and nothing else
            self.assertEqual(now[1] + now[2], now[0])
        self.assertLess(t[2][2], t[2][0] // 2)

    def test_equal_to_computing_it_again(self):
        file = self.path("two.json")
        said, _, _ = self.answers(HELLO, MORE, LAST, args=SEED)
        self.chat(HELLO, MORE, f"/save {file}", args=SEED)
        for more in ([], ["--ubatch-size", "5"], ["--tp", "2"], ["--threads", "1"]):
            out, err = self.chat(f"/load {file}", LAST, args=[*more, "--stats"])
            self.assertEqual(out, said[2] + "\n", more)
            self.assertEqual([t[1] for t in turns(err)], [0], more)

    def test_undo_and_regen_recompute_little(self):
        _, err = self.chat(HELLO, "/regen", args=[*SEED, "--stats"])
        self.assertEqual(turns(err)[1][2], 1)


class Files(Case):
    def test_goes_on_as_if_nothing_had_happened(self):
        """Three settings, further tries and a stop, saved at every place."""
        script = ["/set frequency-penalty 0.3", HELLO, "/set temp 1.3", MORE, "/regen", "/regen",
                  "/set repeat-penalty 1.1", LAST, "/regen", "What next?"]
        args = [*SEED, "--stop", "zq"]
        whole = self.chat(*script, args=args)[0]
        for cut in range(1, len(script)):
            first = self.chat(*script[:cut], f"/save {self.path('s.json')}", args=args)[0]
            rest = self.chat(f"/load {self.path('s.json')}", *script[cut:])[0]
            self.assertEqual(first + rest, whole, f"cut at {cut}")
        again = self.weft("chat", DEMO, *TEMPLATE, "--load", self.path("s.json"),
                          say=script[-1] + "\n")[0]
        self.assertTrue(whole.endswith(again))

    def test_samplers_that_remember(self):
        for args in (["--mirostat", "2"], ["--mirostat", "1"],
                     ["--dry-multiplier", "0.8", "--xtc-probability", "0.5"],
                     ["--min-tokens", "20", "--no-repeat-ngram", "3"]):
            whole = self.chat(HELLO, MORE, LAST, args=[*SEED, *args])[0]
            first = self.chat(HELLO, MORE, f"/save {self.path('s.json')}", args=[*SEED, *args])[0]
            rest = self.chat(f"/load {self.path('s.json')}", LAST)[0]
            self.assertEqual(first + rest, whole, args)

    def test_random_seed_is_kept(self):
        first = self.chat(HELLO, f"/save {self.path('a.json')}", args=["-n", "20"])[0]
        again = self.chat(f"/load {self.path('a.json')}", "/undo", HELLO)[0]
        self.assertEqual(first, again)

    def test_what_is_saved(self):
        self.chat("/system Be brief.", HELLO, f"/save {self.path('a.json')}",
                  args=[*SEED, "--temp", "0.5", "--stop", "zq"])
        a = self.read("a.json")
        self.assertEqual([m["role"] for m in a["messages"]], ["system", "user", "assistant"])
        self.assertEqual(a["sampling"], {"n-predict": 30, "temp": 0.5, "seed": 11, "stop": ["zq"]})
        self.assertEqual(a["position"], len(a["tokens"]))
        ids = a["messages"][2]["ids"]
        self.assertEqual(a["tokens"][-len(ids):], ids)
        self.assertEqual([f for f in os.listdir(self.folder.name) if "tmp" in f], [])

    def test_another_template_is_told(self):
        self.chat(HELLO, f"/save {self.path('a.json')}", args=SEED)
        other = self.write("t.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}")
        _, err = self.weft("chat", DEMO, "--chat-template", other,
                           say=f"/load {self.path('a.json')}\n")
        self.assertIn("warning", err)

    def test_changed_text_counts(self):
        self.chat(HELLO, f"/save {self.path('a.json')}", args=SEED)
        a = self.read("a.json")
        a["messages"][1]["content"] = "Something else."
        _, err = self.chat(f"/load {self.write('b.json', a)}", f"/save {self.path('c.json')}")
        self.assertIn("warning", err)
        self.assertNotIn("ids", self.read("c.json")["messages"][1])

    def test_bad_files(self):
        good = {"weft_chat": 1, "messages": [{"role": "user", "content": "a"}]}
        bad = ["", "{", "[]", "{}", {"messages": []}, dict(good, weft_chat=2),
               dict(good, messages={}), dict(good, messages=[{}]), dict(good, messages=["a"]),
               dict(good, messages=[{"role": "user"}]),
               dict(good, messages=[{"role": 1, "content": "a"}]),
               dict(good, messages=[{"role": "user", "content": None}]),
               dict(good, messages=[{"role": "assistant", "content": "a", "ids": [2048]}]),
               dict(good, messages=[{"role": "assistant", "content": "a", "ids": [-1]}]),
               dict(good, messages=[{"role": "assistant", "content": "a", "ids": "a"}]),
               dict(good, tokens=[1e9]), dict(good, now=-1), dict(good, attempt=-1),
               dict(good, sampling=[]), dict(good, sampling={"temp": 1000}),
               dict(good, sampling={"tmep": 1}), dict(good, sampling={"temp": [[1]]}),
               dict(good, sampling={"seed": "x"}), dict(good, sampling={"stop": [""]}),
               "[" * 1000, '{"weft_chat": 1, "weft_chat": 1}']
        for i, what in enumerate(bad):
            with self.subTest(what=str(what)[:60]):
                if isinstance(what, dict) and what.get("sampling") == {"stop": [""]}:
                    continue  # refused where it is used
                file = self.write(f"{i}.json", what)
                _, err = self.chat(f"/load {file}", code=3)
                self.assertIn(f"{i}.json", err)
        self.chat(f"/load {self.path('none.json')}", code=3)
        self.chat(f"/load {self.folder.name}", code=3)
        self.chat(HELLO, "/save /nowhere/a.json", args=["-n", "1"], code=5)


class Context(Case):
    def test_oldest_turns_go_and_the_system_message_stays(self):
        lines = [f"Message number {i} of this" for i in range(8)]
        args = ["-c", "160", "-n", "20", "--seed", "1", "--ignore-eos", "--system", "Keep me."]
        _, err = self.chat(*lines, f"/save {self.path('a.json')}", args=[*args, "--stats"])
        self.assertRegex(err, r"weft: warning: the oldest \d+ turns? (is|are) left out: the "
                              r"context has 160 tokens; the system message stays\n")
        messages = self.read("a.json")["messages"]
        self.assertEqual(messages[0], {"role": "system", "content": "Keep me."})
        self.assertEqual([m["role"] for m in messages[1:3]], ["user", "assistant"])
        self.assertLess(len(messages), 2 * len(lines))
        self.assertEqual(messages[-2]["content"], lines[-1])
        for prompt, _, _, answer in turns(err):
            self.assertLessEqual(prompt + answer, 161)
        # The text behind the cut is what a conversation that begins there gives.
        users = [m["content"] for m in messages if m["role"] == "user"]
        self.assertEqual(users, lines[-len(users):])

    def test_a_full_context_ends_an_answer(self):
        args = ["-c", "96", "--seed", "1", "--ignore-eos", "--stats"]
        _, err = self.chat(HELLO, MORE, args=args)
        self.assertIn("the context is full", err)
        self.assertIn("finish: context full", err)
        self.assertEqual(len(turns(err)), 2)

    def test_one_message_too_long(self):
        _, err = self.chat("word " * 300, args=["-c", "128"], code=2)
        self.assertIn("the context has 128", err)
        self.assertIn("--ctx-size", err)
        # Nothing was given up for it: the conversation goes on where it was.
        args = ["-c", "128", "-n", "5"]
        self.chat(HELLO, f"/save {self.path('a.json')}", "word " * 300, args=args, code=2)

    def test_long_conversations_are_cut_at_once(self):
        messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"word {i}"}
                    for i in range(400)]
        file = self.write("long.json", {"weft_chat": 1, "messages": messages})
        start = time.monotonic()
        out, err = self.chat(f"/load {file}", HELLO, args=["-c", "256", "-n", "5", "--seed", "1"])
        self.assertIn("left out", err)
        self.assertLess(time.monotonic() - start, 20)


class Control(Case):
    """Text that spells a control token is text."""

    def test_in_chat(self):
        self.chat("Say <|end|> now <|begin|>", f"/save {self.path('a.json')}", args=SEED)
        a = self.read("a.json")
        self.assertNotIn(1, a["tokens"])
        self.assertEqual(a["tokens"].count(0), 1)  # the one in front

    def test_in_run(self):
        ids = json.loads(self.weft("run", DEMO, "--chat", *TEMPLATE, "-p", "a <|end|> b", "-n", "1",
                                   "--seed", "1", "--json")[0])["prompt_ids"]
        self.assertNotIn(1, ids)
        back = subprocess.run([WEFT, "tokenize", DEMO, "--decode"], capture_output=True,
                              input=json.dumps(ids[1:]).encode())
        if back.returncode == 0:
            self.assertIn("a <|end|> b", back.stdout.decode())

    def test_the_template_itself_has_them(self):
        t = self.write("t.jinja", "{% for m in messages %}<|begin|>{{ m.content }}<|end|>"
                                  "{% endfor %}")
        out = self.weft("run", DEMO, "--chat", "--chat-template", t, "-p", "a <|end|> b", "-n", "1",
                        "--seed", "1", "--json")[0]
        ids = json.loads(out)["prompt_ids"]
        self.assertEqual((ids[0], ids[-1], ids.count(0), ids.count(1)), (0, 1, 1, 1))

    def test_a_template_that_hides_the_messages(self):
        # With a mark in front the content does not start with an a, and is not shown.
        t = self.write("t.jinja", "{% for m in messages %}{% if m.content[0] == 'a' %}"
                                  "{{ m.content }}{% endif %}{% endfor %}")
        _, err = self.weft("run", DEMO, "--chat", "--chat-template", t, "-p", "a <|end|> b", "-n",
                           "1", "--seed", "1")
        self.assertIn("weft: warning: ", err)


class Run(Case):
    def run_chat(self, *args, code=0):
        return self.weft("run", DEMO, "--chat", *TEMPLATE, *SEED, *args, code=code)

    def test_is_the_first_turn_of_a_chat(self):
        self.assertEqual(self.run_chat("-p", HELLO)[0], self.chat(HELLO, args=SEED)[0])
        self.assertEqual(self.run_chat("-p", HELLO, "--system", "Be brief.")[0],
                         self.chat(HELLO, args=[*SEED, "--system", "Be brief."])[0])
        f = self.write("p.txt", HELLO)
        self.assertEqual(self.run_chat("-f", f)[0], self.run_chat("-p", HELLO)[0])

    def test_messages(self):
        m = [{"role": "user", "content": HELLO}, {"role": "assistant", "content": "and stormy"},
             {"role": "user", "content": MORE}]
        a = self.run_chat("--messages", self.write("m.json", m))[0]
        self.assertEqual(a, self.run_chat("--messages", self.write("o.json", {"messages": m}))[0])
        self.assertEqual(a, self.run_chat("--messages", self.write("n.json", m[:2]), "-p", MORE)[0])
        self.assertNotEqual(a, self.run_chat("-p", MORE)[0])
        saved = {"weft_chat": 1, "messages": m[:2], "sampling": {"seed": 11, "n-predict": 30}}
        self.assertEqual(a, self.chat(f"/load {self.write('s.json', saved)}", MORE)[0])

    def test_tools_and_other_arguments_reach_the_template(self):
        t = self.write("t.jinja", "{{ tools | length }}{{ colour }}{{ messages[0].content }}")
        m = {"messages": [{"role": "user", "content": "x"}], "tools": [{}, {}], "colour": "blue"}
        out = self.weft("run", DEMO, "--chat", "--chat-template", t, "--messages",
                        self.write("m.json", m), "--json", "-n", "1", "--seed", "1")[0]
        want = json.loads(self.weft("run", DEMO, "-p", "2bluex", "--no-bos", "--json", "-n", "1",
                                    "--seed", "1")[0])
        self.assertEqual(json.loads(out)["prompt_ids"], want["prompt_ids"])

    def test_shapes(self):
        ok = {"role": "user", "content": "a"}
        for what, path in ((["a"], "messages[0]"), ([ok, ok, {"role": "user", "content": 5}],
                                                    "messages[2].content"),
                           ([ok, {"role": 7, "content": "a"}], "messages[1].role"),
                           ([{"content": "a"}], "messages[0]"), ([], "messages"),
                           ({}, "messages"), ({"messages": 3}, "m.json"), ("[", "m.json"),
                           ("5", "m.json"), ("", "m.json")):
            with self.subTest(what=what):
                _, err = self.run_chat("--messages", self.write("m.json", what), code=3)
                self.assertIn(path, err)

    def test_usage(self):
        self.run_chat(code=2)
        self.run_chat("--ids", "1", code=2)
        for args in (["--system", "a"], ["--messages", "a"], TEMPLATE):
            self.weft("run", DEMO, "-p", "a", *args, code=2)


class Terminal(Case):
    """A terminal of 80 columns, driven key by key."""

    def open(self, *args):
        main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.child = subprocess.Popen([WEFT, "chat", DEMO, *TEMPLATE, *map(str, args)], stdin=side,
                                      stdout=side, stderr=side, env=self.env,
                                      start_new_session=True, preexec_fn=lambda: fcntl.ioctl(
                                          0, termios.TIOCSCTTY, 0))
        os.close(side)
        self.main, self.seen = main, ""
        self.addCleanup(self.kill)
        self.wait(r"\n> ")

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        if self.main >= 0:
            os.close(self.main)
            self.main = -1

    def more(self, seconds):
        if not select.select([self.main], [], [], seconds)[0]:
            return False
        try:
            got = os.read(self.main, 65536)
        except OSError:
            got = b""
        self.seen += got.decode("utf-8", "replace")
        return bool(got)

    def wait(self, pattern, seconds=30):
        """Until the screen has shown the pattern; what was shown up to there is forgotten."""
        end = time.monotonic() + seconds
        while True:
            text = ESCAPES.sub("", self.seen).replace("\r", "")
            m = re.search(pattern, text)
            if m:
                self.seen = text[m.end():]
                return m
            if time.monotonic() > end or (not self.more(0.5) and self.child.poll() is not None):
                self.fail(f"{pattern!r} was not shown, but {text!r}")

    def keys(self, *keys):
        for k in keys:
            os.write(self.main, k.encode() if isinstance(k, str) else k)

    def say(self, text):
        self.keys(text + "\r")

    def finish(self, code=0):
        end = time.monotonic() + 20
        while self.child.poll() is None and time.monotonic() < end:
            self.more(0.1)
        self.assertEqual(self.child.poll(), code)
        while self.more(0):
            pass

    def saved(self):
        file = self.path("t.json")
        if os.path.exists(file):
            os.unlink(file)
        self.say(f"/save {file}")
        self.wait(r"\(\d+ messages to ")
        self.wait(r"> ")
        return self.read("t.json")["messages"]

    LEFT, UP, END, BACK, CTRL_A, CTRL_C, CTRL_D, CTRL_R, DEL = (
        "\x1b[D", "\x1b[A", "\x05", "\x7f", "\x01", "\x03", "\x04", "\x12", "\x1b[3~")

    def test_editing(self):
        self.open(*SEED)
        self.keys("dhe king", self.CTRL_A, self.DEL, "T", self.END, "sx", self.BACK, self.LEFT,
                  self.BACK, "n, \u00e4\u6f22")
        self.say("")
        self.wait(r"(?s)\n\n.*> ")
        said = self.saved()
        self.assertEqual(said[0]["content"], "The kinn, \u00e4\u6f22s")
        # What is shown is what was said: the same text as through a pipe.
        self.assertEqual(said[1]["content"], self.answers(said[0]["content"], args=SEED)[0][0])
        self.keys(self.CTRL_D)
        self.finish()

    def test_history_is_there_again(self):
        self.open("-n", "2")
        self.say("the first line")
        self.wait(r"> ")
        self.keys(self.UP, " again\r")
        self.wait(r"> $")
        self.say("/quit")
        self.finish()
        file = self.path("state/weft/history")
        self.assertEqual(stat.S_IMODE(os.stat(file).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.dirname(file)).st_mode), 0o700)
        self.open("-n", "2")
        self.keys(self.UP, self.UP, "!\r")
        self.wait(r"> $")
        self.assertEqual(self.saved()[0]["content"], "the first line again!")

    def test_history_that_cannot_be_written_is_a_warning(self):
        self.write("state", "a file where a folder should be")
        self.open("-n", "2")
        self.say("/quit")
        self.wait(r"weft: warning: .*history")
        self.finish()

    def test_interrupt_stops_the_answer_only(self):
        self.open("--device", "ref", "--ignore-eos", "-n", "900", "--seed", "1")
        self.say("Tell me everything")
        self.wait(r"Tell me everything\n")
        self.wait(r"\S+ \S+ \S+")
        self.keys(self.CTRL_C)
        self.wait(r"\(stopped\)")
        self.wait(r"> ")
        said = self.saved()
        self.assertEqual([m["role"] for m in said], ["user", "assistant"])
        self.assertTrue(0 < len(said[1]["ids"]) < 900)
        self.say("/quit")
        self.finish()

    def test_interrupt_at_the_prompt(self):
        self.open("-n", "2")
        self.keys("not said", self.CTRL_C)
        self.wait(r"\^C\n> ")
        self.say("said")
        self.wait(r"> ")
        self.keys('"""\r', "line\r", self.CTRL_C)
        self.wait(r"\^C\n> ")
        self.assertEqual([m["content"] for m in self.saved() if m["role"] == "user"], ["said"])
        self.keys(self.CTRL_C)
        self.wait(r"Ctrl-D quits\)\n> ")
        self.keys(self.CTRL_C)
        self.finish()

    def test_many_lines(self):
        self.open("-n", "2")
        self.say("one\\")
        self.wait(r"\n\.\.\. ")
        self.say("two")
        self.wait(r"\n> ")
        self.say('"""')
        self.wait(r"\n\.\.\. ")
        self.say("/three")
        self.wait(r"\n\.\.\. ")
        self.say('"""')
        self.wait(r"\n> ")
        users = [m["content"] for m in self.saved() if m["role"] == "user"]
        self.assertEqual(users, ["one\ntwo", "/three"])

    def test_failures_do_not_end_it(self):
        self.open("-n", "2")
        self.say("/nonsense")
        self.wait(r"weft: error: /nonsense: unknown command")
        self.wait(r"> ")
        self.say("/load /nowhere")
        self.wait(r"weft: error: ")
        self.wait(r"> ")
        self.keys(self.CTRL_D)
        self.finish()

    def test_save_and_load(self):
        self.open(*SEED)
        for line in (HELLO, MORE):
            self.say(line)
            self.wait(r"(?s)\n\n.*> ")
        before = self.saved()
        self.say("/quit")
        self.finish()
        os.rename(self.path("t.json"), self.path("two.json"))
        self.open()
        self.say(f"/load {self.path('two.json')}")
        self.wait(r"\(4 messages from ")
        self.wait(r"> ")
        self.say(LAST)
        self.wait(r"(?s)\n\n.*> ")
        after = self.saved()
        self.assertEqual(after[:4], before)
        self.assertEqual(after[5]["content"], self.answers(HELLO, MORE, LAST, args=SEED)[0][2])

    def test_control_characters_of_a_model_are_not_sent(self):
        # Token 220 and up are bytes of a byte-level vocabulary: ESC among them.
        with open(os.path.join(DEMO, "tokenizer.json"), encoding="utf-8") as f:
            esc = json.load(f)["model"]["vocab"]["\u011b"]
        self.open("-n", "3", "--logit-bias", f"{esc}+10000")
        self.say("a")
        self.wait("\ufffd\ufffd\ufffd")


if __name__ == "__main__":
    unittest.main()
