#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ranks in processes of their own: started as torchrun, srun and mpirun do, they give the bits of
one rank; they refuse to begin unless they are alike; and whatever happens to one of them, all end
in time, with exit code 7, naming it."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")))
FIXTURES = os.environ.get("WEFT_FIXTURES", os.path.join(ROOT, "..", "shared", "fixtures"))
MODEL = os.path.join(FIXTURES, "golden", "models", "llama-tp8")
WEFT = os.path.join(BUILD, "weft")
DEMO = os.path.join(ROOT, "bench", "models", "demo")
LONG = bool(os.environ.get("WEFT_LONG"))
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
       "ASAN_OPTIONS": "detect_leaks=0"}  # Open MPI keeps what it has
IDS = ",".join(str(7 * i % 300) for i in range(40))
RUN = ["run", MODEL, "--ids", IDS, "--temp", "0", "--ignore-eos"]
SHORT = [*RUN, "-n", "10", "--pp-tokens", "16"]
ENDLESS = [*RUN, "-n", "200", "-c", "256", "--timeout", "3"]


def free_port():
    """Below those that the system gives to whoever asks for any, in the meantime too."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def patience(seconds):
    """What `seconds` of this machine become while others have a part of it."""
    return seconds * max(1.0, os.getloadavg()[0] / os.cpu_count())


def clean_env():
    drop = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "SLURM_", "OMPI_", "WEFT_FAULT")
    return {k: v for k, v in os.environ.items() if not k.startswith(drop)}


def torchrun(rank, ranks, port):
    return {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def srun(rank, ranks, port):
    return {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(ranks),
            "SLURM_LOCALID": str(rank), "SLURM_STEP_NODELIST": "localhost",
            "MASTER_PORT": str(port)}


class Job:
    """The ranks of one job as processes; argv may differ by rank."""

    def __init__(self, ranks, argv, launcher=torchrun, env=None, only=None):
        self.port = free_port()
        self.proc = {}
        for r in range(ranks):
            if only is not None and r not in only:
                continue
            words = argv[r] if isinstance(argv[0], list) else argv
            extra = env[r] if isinstance(env, list) else env or {}
            self.proc[r] = subprocess.Popen(
                [WEFT, *words], env={**clean_env(), **launcher(r, ranks, self.port), **extra},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, seconds=60):
        """{rank: (exit code, stdout, stderr)}; kills what is left, which is a failure."""
        out, end = {}, time.monotonic() + patience(seconds)
        try:
            for r, p in self.proc.items():
                o, e = p.communicate(timeout=max(end - time.monotonic(), 0.1))
                out[r] = (p.returncode, o, e)
        finally:
            for p in self.proc.values():
                if p.poll() is None:
                    p.kill()
                    p.communicate()
        return out


def alone(argv):
    r = subprocess.run([WEFT, *argv], env=clean_env(), capture_output=True, text=True, check=True)
    return r.stdout


def segments(job):
    return [f for f in os.listdir("/dev/shm") if f.startswith(f"weft-{job}-")]


@unittest.skipUnless(os.path.isdir(MODEL), f"skipped: test_ranks: no fixtures at {MODEL}")
class Launch(unittest.TestCase):
    def expect_same(self, out, want):
        for r, (code, o, e) in out.items():
            self.assertEqual(code, 0, f"rank {r}: {e}")
            self.assertEqual(o, want if r == 0 else "", f"rank {r}")
            if r:
                self.assertEqual(e, "")

    def test_processes_have_the_bits_of_one_rank(self):
        for launcher in (torchrun, srun):
            for tp, pp in [(2, 1), (1, 2), (2, 2)] + ([(8, 1), (4, 2), (2, 4)] if LONG else []):
                with self.subTest(launcher=launcher.__name__, tp=tp, pp=pp):
                    argv = [*SHORT, "--tp", str(tp), "--pp", str(pp)]
                    self.expect_same(Job(tp * pp, argv, launcher).finish(), alone(SHORT))

    def test_sampling_scores_and_logprobs(self):
        run = ["run", MODEL, "--ids", IDS, "--temp", "0.9", "--seed", "3", "-n", "12", "--json",
               "--logprobs", "3"]
        score = ["score", MODEL, "--ids", IDS, "--json"]
        for argv in (run, score):
            want = alone(argv)
            got = Job(2, [*argv, "--pp", "2"]).finish()
            self.assertEqual(got[0][0], 0, got[0][2])
            strip = lambda t: [w for w in t.split(",") if "second" not in w and "tok" not in w
                               and "ms" not in w]
            self.assertEqual(strip(got[0][1]), strip(want))

    def test_long_sums_go_in_halves(self):
        """Prompts whose sums over ranks are too long to go from everyone to everyone at once."""
        demo = os.path.join(ROOT, "bench", "models", "demo")
        ids = ",".join(str(7 * i * i % 2000) for i in range(600))
        for device in ("cpu", "emu") if LONG else ("cpu",):
            argv = ["run", demo, "--ids", ids, "-n", "4", "--temp", "0", "--ignore-eos",
                    "--device", device]
            self.assertIn("all_to_all", alone(["plan", demo, "--device", device, "--tp", "2"]))
            self.assertEqual(alone([*argv, "--tp", "2", "--comm", "local"]), alone(argv))

    @unittest.skipUnless(shutil.which("mpirun") and
                         os.path.exists(os.path.join(BUILD, "libweft_mpi.so")),
                         "skipped: mpirun: no Open MPI here")
    def test_mpirun(self):
        for tp, pp in ((2, 1), (2, 2)):
            argv = [*SHORT, "--tp", str(tp), "--pp", str(pp)]
            self.assertEqual(self.mpirun(tp * pp, argv), alone(SHORT))

    def mpirun(self, ranks, argv):
        env = {**clean_env(), **MPI}
        r = subprocess.run(["mpirun", "--oversubscribe", "-n", str(ranks), WEFT, *argv, "--comm",
                            "mpi"], env=env, capture_output=True, text=True, timeout=120)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def test_local_ignores_the_launcher(self):
        env = {**clean_env(), **torchrun(0, 4, 1)}
        r = subprocess.run([WEFT, *SHORT, "--comm", "local", "--tp", "2"], env=env,
                           capture_output=True, text=True)
        self.assertEqual((r.returncode, r.stdout), (0, alone(SHORT)), r.stderr)

    def test_commands_of_one_process(self):
        demo = os.path.join(ROOT, "bench", "models", "demo")
        for argv, words in ((["chat", demo, "--tp", "2", "--chat-template", "chatml"],
                             "weft chat: its ranks are threads"),
                            (["run", demo, "-p", "-", "--tp", "2", "--comm", "local"],
                             "standard input: only one of 2 processes has it")):
            r = subprocess.run([WEFT, *argv], env={**clean_env(), **torchrun(0, 2, 1)},
                               capture_output=True, text=True, stdin=subprocess.DEVNULL)
            self.assertEqual(r.returncode, 2, r.stderr)
            self.assertIn(words, r.stderr)

    def test_a_seed_drawn_is_of_all_ranks(self):
        argv = ["run", MODEL, "--ids", IDS, "--temp", "1.5", "-n", "12", "--json"]
        got = json.loads(Job(2, [*argv, "--pp", "2"]).finish()[0][1])
        again = json.loads(alone([*argv, "--seed", str(got["seed"])]))
        self.assertEqual(got["ids"], again["ids"])

    def test_what_cannot_be(self):
        cases = [({}, ["--comm", "tcp"], "was not started by"),
                 (torchrun(0, 3, 1), ["--tp", "2"], "2 ranks, but torchrun started 3"),
                 ({**torchrun(0, 2, 1), "RANK": "2"}, ["--tp", "2"], "RANK: \"2\" is not in 0..1"),
                 ({**torchrun(0, 2, 1), "MASTER_PORT": "70000"}, ["--tp", "2"], "MASTER_PORT"),
                 ({**torchrun(1, 2, 1), "MASTER_ADDR": "no.such.host.invalid"}, ["--tp", "2"],
                  "MASTER_ADDR")]
        for env, more, words in cases:
            r = subprocess.run([WEFT, *SHORT, *more], env={**clean_env(), **env},
                               capture_output=True, text=True, timeout=60)
            self.assertEqual(r.returncode, 2, (words, r.stderr))
            self.assertIn(words, r.stderr)


def may_make_hosts():
    return os.geteuid() == 0 and shutil.which("ip") and shutil.which("unshare") and subprocess.run(
        ["unshare", "--net", "--uts", "true"], capture_output=True).returncode == 0


@unittest.skipUnless(os.path.isdir(MODEL), f"skipped: test_ranks: no fixtures at {MODEL}")
@unittest.skipUnless(may_make_hosts(), "skipped: hosts: no network namespaces here")
class Hosts(unittest.TestCase):
    """Two network namespaces joined by one link are two hosts."""

    def setUp(self):
        self.name = [f"weft{os.getpid()}{c}" for c in "ab"]
        self.addCleanup(lambda: [subprocess.run(["ip", "netns", "del", n], capture_output=True)
                                 for n in self.name])
        a, b = self.name
        for line in (f"netns add {a}", f"netns add {b}",
                     f"-n {a} link add va type veth peer name vb netns {b}",
                     f"-n {a} addr add 10.77.5.1/24 dev va", f"-n {b} addr add 10.77.5.2/24 dev vb",
                     f"-n {a} link set va up", f"-n {b} link set vb up", f"-n {a} link set lo up",
                     f"-n {b} link set lo up"):
            subprocess.run(["ip", *line.split()], check=True)

    def start(self, argv, **more):
        def one(rank):
            env = {**clean_env(), **torchrun(rank, 2, 29507), "MASTER_ADDR": "10.77.5.1", **more}
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name[rank], "unshare", "--uts", "sh", "-c",
                 f'hostname host{"ab"[rank]}; exec "$@"', "sh", WEFT, *argv],
                env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        procs = [one(0), one(1)]
        for p in procs:
            self.addCleanup(lambda p=p: (p.kill(), p.communicate()))
        return procs

    def test_two_hosts_have_the_bits_of_one_rank(self):
        for mesh in (["--tp", "2"], ["--pp", "2"]):
            procs = self.start([*SHORT, *mesh])
            out = [p.communicate(timeout=60) for p in procs]
            self.assertEqual([p.returncode for p in procs], [0, 0], out)
            self.assertEqual([o for o, _ in out], [alone(SHORT), ""])

    def test_a_link_that_goes_down(self):
        argv = [*RUN, "-n", "200", "-c", "256", "--timeout", "4", "--tp", "2"]
        procs = self.start(argv, WEFT_FAULT="rank=1,at=60,do=delay:2.5")  # so that it still runs
        time.sleep(1)
        subprocess.run(["ip", "-n", self.name[0], "link", "set", "va", "down"], check=True)
        begin = time.monotonic()
        out = [p.communicate(timeout=60) for p in procs]
        self.assertEqual([p.returncode for p in procs], [7, 7], out)
        self.assertLess(time.monotonic() - begin, patience(2.5 + 4 + 2 + 5))
        self.assertIn("hostb", out[0][1])
        self.assertIn("hosta", out[1][1])


class Collectives(unittest.TestCase):
    """weft bench --collectives: what is sent is what the plan says, on every transport."""

    def check(self, text, over, ranks):
        rows = json.loads(text)
        self.assertEqual({r["op"] for r in rows},
                         {"all_gather", "reduce_scatter", "all_to_all", "broadcast", "send",
                          "all_reduce", "all_reduce_own"})
        own = {r["bytes"]: r["seconds"] for r in rows if r["op"] == "all_reduce_own"}
        for r in rows:
            if r["op"] == "all_reduce":
                self.assertAlmostEqual(r["ratio"], r["seconds"] / own[r["bytes"]], delta=1e-2)
            n, size = ranks, r["bytes"]
            sent = {"all_gather": size // n * (n - 1), "reduce_scatter": size // n * (n - 1),
                    "all_to_all": size // n * (n - 1), "broadcast": size * (n - 1),
                    "send": size, "all_reduce": size // n * (n - 1) * 2,
                    "all_reduce_own": size // n * (n - 1) * 2}[r["op"]]
            unseen = r["op"] == "all_reduce_own" and over in ("mpi", "nccl")  # the library's
            seen = 0 if unseen else sent
            self.assertEqual((r["sent_bytes"], r["planned_bytes"]), (seen, sent), r)
            self.assertEqual(r["transport"], over)
            share = 1 if r["op"] in ("broadcast", "send") else (n - 1) / n
            share *= 2 if r["op"].startswith("all_reduce") else 1
            self.assertAlmostEqual(r["busbw_gb_s"], r["algbw_gb_s"] * share, delta=2e-4)
            self.assertAlmostEqual(r["algbw_gb_s"], size / r["seconds"] / 1e9,
                                   delta=1e-3 * r["algbw_gb_s"] + 1e-4)

    def test_formulas(self):
        argv = ["bench", "--collectives", "--json", "--most-bytes", "65536", "--tp"]
        r = subprocess.run([WEFT, *argv, "4"], env=clean_env(), capture_output=True, text=True,
                           check=True)
        self.check(r.stdout, "local", 4)
        out = Job(3, [*argv, "3"]).finish()
        self.assertEqual([c for c, _, _ in out.values()], [0, 0, 0], out)
        self.check(out[0][1], "tcp", 3)

    def test_every_transport(self):
        """--comm without a value; NCCL is a fake one, on emulated GPUs."""
        env = {**clean_env(), **MPI,
               "WEFT_NCCL": os.path.join(BUILD, "tests", "fake", "libnccl.so.2")}
        argv = ["bench", "--json", "--most-bytes", "4096", "--device", "emu", "--tp", "2"]
        r = subprocess.run([WEFT, *argv, "--comm"], env=env, capture_output=True, text=True)
        self.assertEqual(r.returncode, 0, r.stderr)
        rows = json.loads(r.stdout)
        over = {r["transport"] for r in rows}
        self.assertLessEqual({"local", "tcp", "nccl"}, over)
        for one in over:
            self.check(json.dumps([r for r in rows if r["transport"] == one]), one, 2)


@unittest.skipUnless(os.path.isdir(MODEL), f"skipped: test_ranks: no fixtures at {MODEL}")
class Agreement(unittest.TestCase):
    def expect_refusal(self, job, *words):
        out = job.finish(30)
        self.assertEqual({code for code, _, _ in out.values()}, {7}, out)
        for w in words:
            self.assertIn(w, out[0][2])

    def test_other_arguments(self):
        a = [*SHORT, "--tp", "2", "--timeout", "3"]  # long: what differs is at its end
        self.expect_refusal(Job(2, [a, [*a, "--seed", "4"]]), "rank 1", "rank 0", "command line",
                            "--seed 4")

    def test_other_environment(self):
        a = [*SHORT, "--tp", "2", "--timeout", "3"]
        env = [{}, {"WEFT_KERNEL": "matmul=ref"}]
        self.expect_refusal(Job(2, a, env=env), "rank 1", "environment", "matmul=ref")

    def test_other_model(self):
        other = os.path.join(FIXTURES, "golden", "models", "llama-gqa")
        a = [*SHORT, "--tp", "2", "--timeout", "3"]
        self.expect_refusal(Job(2, [a, [other if w == MODEL else w for w in a]]), "rank 1",
                            "command line")

    def test_a_rank_that_never_starts(self):
        begin = time.monotonic()
        self.expect_refusal(Job(3, [*SHORT, "--tp", "1", "--pp", "3", "--timeout", "0.5"],
                                only=(0, 1)), "rank 2", "did not start")
        self.assertLess(time.monotonic() - begin, patience(10))

    def test_garbage_on_the_port(self):
        job = Job(2, [*SHORT, "--tp", "2", "--timeout", "5"], only=(0,))
        rng = random.Random(5)
        for n in (0, 1, 40, 400, 100000):
            for _ in range(100):
                try:
                    s = socket.create_connection(("127.0.0.1", job.port), timeout=5)
                    break
                except OSError:
                    time.sleep(0.05)
            try:
                s.sendall(rng.randbytes(n))
            except OSError:
                pass
            s.close()
        env = {**clean_env(), **torchrun(1, 2, job.port)}
        job.proc[1] = subprocess.Popen([WEFT, *SHORT, "--tp", "2", "--timeout", "5"], env=env,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out = job.finish(40)
        self.assertEqual([out[0][0], out[1][0]], [0, 0], out)
        self.assertEqual(out[0][1], alone(SHORT))


@unittest.skipUnless(os.path.isdir(MODEL), f"skipped: test_ranks: no fixtures at {MODEL}")
class Faults(unittest.TestCase):
    """WEFT_FAULT strikes one rank at one exchange; the others have the timeout and 2 seconds."""

    def endless_batch(self):
        """Replicas over one queue, with more to do than there is time for."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, True)
        with open(os.path.join(folder, "in.jsonl"), "w") as f:
            for i in range(60):
                json.dump({"prompt": [7 * i % 300, 5, 9], "max_tokens": 200, "temperature": 0,
                           "ignore_eos": True}, f)
                f.write("\n")
        return ["batch", DEMO, "-i", os.path.join(folder, "in.jsonl"), "-o",
                os.path.join(folder, "out.jsonl"), "-c", "256", "--timeout", "3", "--max-seqs", "4"]

    def strike(self, ranks, mesh, rank, at, what):
        begin, name = time.monotonic(), f"f{os.getpid()}x{at}"
        argv = self.endless_batch() if "--dp" in mesh else ENDLESS
        job = Job(ranks, [*argv, *mesh],
                  env={"WEFT_FAULT": f"rank={rank},at={at},do={what}", "WEFT_JOB": name})
        try:
            if what == "stop":  # it cannot report: it is ended once the others have
                for r in range(ranks):
                    if r != rank:
                        job.proc[r].wait(patience(30))
                took = time.monotonic() - begin
                job.proc[rank].kill()
                out = job.finish(5)
            else:
                out = job.finish(30)
                took = time.monotonic() - begin
        finally:
            for p in job.proc.values():
                p.kill()
        told = "".join(e for _, _, e in out.values())
        for r, (code, _, e) in out.items():
            if r != rank or what not in ("kill", "stop"):
                self.assertEqual(code, 7, f"{what} at {at}, rank {r}: {e}")
        self.assertIn(f"rank {rank} ", told, (what, at, out))
        if what == "nan":
            self.assertRegex(told, rf"rank {rank} sends NaN in "
                             r"(all_gather|reduce_scatter|send) \d+ of (tp|pp), step \d+, ")
        self.assertEqual(told.count("weft: error: "), told.count("\n"), told)
        self.assertLess(took, patience(3 + 2 + 5), what)  # to start and end takes some seconds too
        self.assertEqual(segments(name), [])
        self.assertIn(f"job {name}" if "--timeout" in told else "rank", told)
        return told

    def test_each_fault_is_named(self):
        rng = random.Random(int(os.environ.get("WEFT_SEED", "7")))
        kinds = ["kill", "stop", "delay:9", "count", "order", "drop", "nan"]
        for n, what in enumerate(kinds * (43 if LONG else 2)):
            ranks, mesh = rng.choice([(2, ["--tp", "2"]), (2, ["--pp", "2"]),
                                      (4, ["--tp", "2", "--pp", "2"]),
                                      (4, ["--dp", "2", "--tp", "2"]),
                                      (4, ["--dp", "2", "--pp", "2"])])
            rank, at = rng.randrange(ranks), rng.randrange(3, 120)
            if what == "nan" and "--tp" not in mesh:
                rank &= ~1  # the last stage sends no numbers
            with self.subTest(n=n, what=what, mesh=mesh, rank=rank, at=at):
                self.strike(ranks, mesh, rank, at, what)

    def test_a_job_that_was_stopped_as_a_whole_goes_on(self):
        argv = [*RUN, "-n", "60", "-c", "256", "--timeout", "1.5", "--tp", "2"]
        want, env = alone(argv[:-4]), {"WEFT_FAULT": "rank=1,at=80,do=delay:1"}
        jobs = [Job(2, argv, env=env), Job(1, argv, launcher=lambda *a: {}, env=env)]
        time.sleep(0.7)
        every = [p for j in jobs for p in j.proc.values()]
        for p in every:
            p.send_signal(signal.SIGSTOP)
        time.sleep(3)
        for p in every:
            p.send_signal(signal.SIGCONT)
        for j in jobs:
            out = j.finish(30)
            self.assertEqual(out[0][0], 0, out)
            self.assertEqual(out[0][1], want)

    def test_doctor_says_who_is_behind(self):
        argv = [*RUN, "-n", "200", "-c", "256", "--timeout", "30", "--pp", "2"]
        env = {"WEFT_FAULT": "rank=0,at=50,do=delay:6", "WEFT_JOB": f"doc{os.getpid()}"}
        threads = subprocess.Popen([WEFT, *argv], env={**clean_env(), **env, "WEFT_JOB":
                                                       f"thr{os.getpid()}"},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        job = Job(2, argv, env=env)
        try:
            for name in (f"doc{os.getpid()}", f"thr{os.getpid()}"):
                text = ""
                for _ in range(100):
                    r = subprocess.run([WEFT, "doctor", "--job", name], capture_output=True,
                                       text=True)
                    text = r.stdout
                    if "rank 0 is behind" in text:
                        break
                    time.sleep(0.05)
                self.assertIn("rank 0 is behind", text, r.stderr)
                self.assertIn("rank 1 of 2", text)
                self.assertIn("send", text)
        finally:
            threads.kill()
            threads.wait()
            for p in job.proc.values():
                p.kill()
            job.finish(5)
        r = subprocess.run([WEFT, "doctor", "--job", f"thr{os.getpid()}"], capture_output=True,
                           text=True)  # its record survived SIGKILL
        self.assertIn("its process is gone", r.stdout)
        subprocess.run([WEFT, "doctor", "--job", f"doc{os.getpid()}"], capture_output=True)
        self.assertEqual(segments(f"doc{os.getpid()}") + segments(f"thr{os.getpid()}"), [])
        r = subprocess.run([WEFT, "doctor", "--job", f"thr{os.getpid()}"], capture_output=True,
                           text=True)
        self.assertEqual(r.returncode, 2)

    def test_threads_are_named_too(self):
        for what, words in (("delay:5", "rank 1 is late"), ("count", "disagree"),
                            ("order", "elsewhere"), ("nan", "rank 1 sends NaN in")):
            r = subprocess.run([WEFT, *RUN, "-n", "100", "-c", "256", "--timeout", "1", "--tp", "2",
                                "--pp", "2"],
                               env={**clean_env(), "WEFT_FAULT": f"rank=1,at=40,do={what}"},
                               capture_output=True, text=True, timeout=60)
            self.assertEqual(r.returncode, 7, r.stderr)
            self.assertIn(words, r.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
