# SPDX-License-Identifier: Apache-2.0
"""The set-up script against a fake apt, the test runner against fake tests, lint against its own
broken snippets: nothing here needs a build, a network or root."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SETUP = os.path.join(ROOT, "scripts", "setup")
RUN = os.path.join(ROOT, "tests", "run")
HEADERS = ("stdlib.h", "pcre2.h", "utf8proc.h", "xxhash.h", "editline/readline.h", "cmocka.h")


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, 0o755)


class Setup(unittest.TestCase):
    """PATH holds only what a test puts there; apt-get writes down what it was asked."""

    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)
        self.bin, self.inc = os.path.join(self.dir, "bin"), os.path.join(self.dir, "inc")
        self.asked = os.path.join(self.dir, "asked")
        for tool in ("bash", "sed", "mktemp", "rm", "tail", "env", "cat"):
            os.makedirs(self.bin, exist_ok=True)
            os.symlink(shutil.which(tool), os.path.join(self.bin, tool))
        self.user(0)
        for tool in ("gcc", "make", "pkg-config", "python3", "mpicc", "mpirun"):
            put(os.path.join(self.bin, tool), "#!/bin/sh\n")
        for header in HEADERS:
            put(os.path.join(self.inc, header), "")

    def user(self, uid):
        put(os.path.join(self.bin, "id"), f"#!/bin/sh\necho {uid}\n")

    def apt(self, body="exit 0"):
        put(os.path.join(self.bin, "apt-get"), f'#!/bin/sh\necho "$@" >>{self.asked}\n{body}\n')

    def lack(self, *names):
        for n in names:
            place = os.path.join(self.inc if n.endswith(".h") else self.bin, n)
            os.unlink(place)

    def setup_run(self, *args):
        return subprocess.run(["bash", SETUP, *args], capture_output=True, text=True, timeout=30,
                              stdin=subprocess.DEVNULL,
                              env={"PATH": self.bin, "WEFT_SETUP_INCLUDE": self.inc})

    def calls(self):
        with open(self.asked, encoding="utf-8") as f:
            return f.read().splitlines()

    def test_silent_and_fast_where_all_is_there(self):
        start = time.monotonic()
        r = self.setup_run()
        self.assertLess(time.monotonic() - start, 2)
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, "", ""))

    def test_installs_exactly_what_is_missing(self):
        self.lack("make", "pcre2.h", "cmocka.h")
        self.apt()
        r = self.setup_run()
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(len(self.calls()), 1)
        self.assertTrue(self.calls()[0].endswith(" make libpcre2-dev libcmocka-dev"))
        self.assertIn("the tokenizers' patterns", r.stdout)

    def test_lint_adds_the_tools(self):
        self.apt()
        r = self.setup_run("--lint")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("clang-tidy-14", self.calls()[0])
        self.assertNotIn("libpcre2-dev", self.calls()[0])

    def test_refreshes_stale_lists_once(self):
        self.lack("make")
        self.apt('case "$*" in *update*) : >$0.fresh ;; *) [ -e $0.fresh ] ;; esac')
        r = self.setup_run()
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual([("update" in c) for c in self.calls()], [False, True, False])

    def test_shows_why_apt_failed(self):
        self.lack("make")
        self.apt("echo 'E: disk full'; exit 100")
        r = self.setup_run()
        self.assertEqual(r.returncode, 1)
        self.assertIn("E: disk full", r.stderr)
        self.assertIn("could not install: make", r.stderr.splitlines()[-1])

    def test_uses_sudo_when_not_root(self):
        self.lack("make")
        self.user(1000)
        self.apt()
        put(os.path.join(self.bin, "sudo"), '#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n')
        put(os.path.join(self.bin, "true"), "#!/bin/sh\n")
        r = self.setup_run()
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertTrue(self.calls()[0].endswith(" make"))

    def test_one_line_without_root_and_sudo(self):
        self.lack("make")
        self.user(1000)
        self.apt()
        r = self.setup_run()
        self.assertEqual(r.returncode, 1)
        self.assertEqual(r.stderr, "scripts/setup: missing: make; needs root or sudo to install"
                                   " them\n")
        self.assertFalse(os.path.exists(self.asked))

    def test_one_line_without_apt(self):
        self.lack("xxhash.h")
        r = self.setup_run()
        self.assertEqual((r.returncode, len(r.stderr.splitlines())), (1, 1))
        self.assertIn("libxxhash-dev", r.stderr)

    def test_check_installs_nothing(self):
        self.lack("utf8proc.h")
        self.apt()
        r = self.setup_run("--check")
        self.assertEqual((r.returncode, r.stdout), (1, "missing: libutf8proc-dev\n"))
        self.assertFalse(os.path.exists(self.asked))

    def test_unknown_option(self):
        self.assertEqual(self.setup_run("--lnit").returncode, 1)


class Runner(unittest.TestCase):
    """A build folder with small scripts in the place of programs."""

    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)

    def program(self, name, body):
        put(os.path.join(self.dir, name), "#!/bin/sh\n" + body + "\n")

    def run_all(self, only="*", *args):
        r = subprocess.run([sys.executable, RUN, "--build", self.dir, "--only", only, *args],
                           capture_output=True, text=True, timeout=60)
        return r.returncode, r.stdout

    def last(self, *args):
        rc, out = self.run_all(*args)
        return rc, out.splitlines()[-1]

    def test_counts_the_cases_inside(self):
        self.program("tests/unit/a_test", "echo '[       OK ] x'; echo '[       OK ] y'")
        self.program("tests/unit/b_test", "echo '[       OK ] x'; echo '[  SKIPPED ] y';"
                     "echo '[  SKIPPED ] 1 test(s), listed below:'; echo '[  SKIPPED ] y'")
        self.assertEqual(self.last("unit/*"), (0, "3 passed, 0 failed, 1 skipped"))

    def test_a_failure_shows_its_output(self):
        self.program("tests/unit/a_test", "echo '[       OK ] x'; echo because;"
                     "echo '[  FAILED  ] 1 test(s), listed below:'; exit 1")
        rc, out = self.run_all("unit/*")
        self.assertEqual((rc, out.splitlines()[-1]), (1, "1 passed, 1 failed, 0 skipped"))
        self.assertIn("\nbecause\n", out)

    def test_dying_is_a_failure(self):
        self.program("tests/unit/a_test", "echo '[       OK ] x'; kill -SEGV $$")
        rc, out = self.run_all("unit/*")
        self.assertEqual((rc, out.splitlines()[-1]), (1, "1 passed, 1 failed, 0 skipped"))
        self.assertIn("SIGSEGV", out)

    def test_a_nonzero_exit_after_passes_is_a_failure(self):
        self.program("tests/unit/a_test", "echo '[       OK ] x'; exit 3")
        self.assertEqual(self.last("unit/*"), (1, "1 passed, 1 failed, 0 skipped"))

    def test_silence_is_a_failure(self):
        self.program("tests/unit/a_test", "exit 0")
        self.assertEqual(self.last("unit/*"), (1, "0 passed, 1 failed, 0 skipped"))

    def test_a_hang_is_killed_with_its_children(self):
        self.program("tests/unit/a_test", "echo $$; sleep 50 & sleep 50")
        start = time.monotonic()
        rc, out = self.run_all("unit/*", "--timeout", "0.5")
        self.assertLess(time.monotonic() - start, 20)
        self.assertEqual((rc, out.splitlines()[-1]), (1, "0 passed, 1 failed, 0 skipped"))
        self.assertIn("hung: killed after 0.5 s", out)

    def test_checkkernels_is_counted_by_its_last_line(self):
        self.program("checkkernels", """[ "$*" = "--json --quick" ] || exit 9
            echo '{"cases": 9, "failed": 0, "skipped": 2}'""")
        self.assertEqual(self.last("check/*"), (0, "7 passed, 0 failed, 2 skipped"))

    def test_long_is_passed_on(self):
        self.program("checkkernels", """[ "$*" = "--json" ] && [ "$WEFT_LONG" = 1 ] || exit 9
            echo '{"cases": 4, "failed": 0, "skipped": 0}'""")
        self.assertEqual(self.last("check/*", "--long"), (0, "4 passed, 0 failed, 0 skipped"))

    def test_fuzz_gets_its_corpus(self):
        self.program("tests/fuzz/json_fuzz", 'for a; do :; done; [ "$(basename $a)" = json ]')
        self.assertEqual(self.last("fuzz/*"), (0, "1 passed, 0 failed, 0 skipped"))

    def test_nothing_to_run_is_not_success(self):
        self.assertEqual(self.last("unit/*"), (1, "0 passed, 0 failed, 0 skipped"))


class Lint(unittest.TestCase):
    def test_every_rule_catches_its_broken_snippet(self):
        r = subprocess.run([sys.executable, os.path.join(ROOT, "scripts", "lint"), "--self-test"],
                           capture_output=True, text=True, timeout=60)
        self.assertEqual(r.returncode, 0, r.stdout)


if __name__ == "__main__":
    unittest.main()
