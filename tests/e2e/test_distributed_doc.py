#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every command of docs/DISTRIBUTED.md runs and ends as the page says; every figure of
docs/SCALING.md is what its command prints, and its constants are those of their sources."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")))
MODEL = os.path.join(ROOT, "bench", "models", "demo")


def blocks():
    with open(os.path.join(ROOT, "docs", "DISTRIBUTED.md")) as f:
        found = re.findall(r"^```\n(.*?)^```", f.read(), re.S | re.M)
    return [b for b in found if not b.startswith("weft: error")]


class Page(unittest.TestCase):
    def run_block(self, text):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_", "OMPI_"))}
        env.update(RUN=tempfile.mkdtemp(dir=self.dir), TEXT=os.path.join(self.dir, "text.txt"),
                   IN=os.path.join(self.dir, "in.jsonl"), OUT=os.path.join(self.dir, "out.jsonl"),
                   PATH=BUILD + os.pathsep + env["PATH"], MODEL=MODEL, DEVICE="emu",
                   WEFT_NCCL=os.path.join(BUILD, "tests", "fake", "libnccl.so.2"),
                   OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        want = re.search(r"# exit code (\d+)", text)
        r = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True,
                           timeout=120)
        self.assertEqual(r.returncode, int(want.group(1)) if want else 0, text + r.stderr)
        return r.stdout

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        with open(os.path.join(self.dir, "in.jsonl"), "w") as f:
            f.write('{"prompt": "It was", "max_tokens": 4}\n' * 6)
        with open(os.path.join(self.dir, "text.txt"), "w") as f:
            f.write("It was a bright cold day, and the clocks were striking.\n" * 20)

    def test_commands(self):
        self.assertGreater(len(blocks()), 5)
        ids = set()
        for text in blocks():
            if "doctor" in text:
                continue
            if "mpirun" in text and not (shutil.which("mpirun") and os.path.exists(
                    os.path.join(BUILD, "libweft_mpi.so"))):
                continue
            with self.subTest(text):
                out = self.run_block(text)
                if "WEFT_FAULT" in text and "--elastic" in text:
                    self.assertIn("done after 6 steps", out)
                if " -n 4 " in text:
                    ids.add(out)
        self.assertEqual(len(ids), 1, "the same tokens however ranks are started")

    def test_doctor(self):
        env = {**os.environ, "WEFT_FAULT": "rank=1,at=9,do=delay:20"}
        job = subprocess.Popen([os.path.join(BUILD, "weft"), "run", MODEL, "--ids", "1,2", "-n",
                                "50", "--tp", "2", "--timeout", "60"], env=env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(50):
                r = subprocess.run(["bash", "-c", next(b for b in blocks() if "doctor" in b)],
                                   env={**env, "PATH": BUILD + os.pathsep + env["PATH"]},
                                   capture_output=True, text=True)
                if r.returncode == 0:
                    break
            self.assertIn("rank 0 of", r.stdout, r.stderr)
        finally:
            job.kill()
            job.wait()
            for name in os.listdir("/dev/shm"):
                if name.startswith("weft-") and name.endswith(f"--1-{job.pid}"):
                    os.unlink(os.path.join("/dev/shm", name))


SCALING = os.path.join(ROOT, "docs", "SCALING.md")


def scaling():
    with open(SCALING, encoding="utf-8") as f:
        return f.read()


def plan(words, *more):
    argv = [os.path.join(BUILD, "weft"), *words.split()[1:], *more]
    r = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
    if r.returncode:
        raise AssertionError(f"{argv}: {r.stderr}")
    return r.stdout


def inference_row(d):
    g = d["gpu"]
    decode, sent = g["decode"], max(r["sent_bytes_per_token"] for r in d["ranks"])
    return [f"{g['memory_bytes'] / 1e9:.1f}", f"{sent / 1e3:.1f}",
            f"{decode['seconds'] * 1e3:.1f}", f"{decode['tok_s']:.0f}",
            f"{1 / decode['seconds']:.1f}", f"{100 * decode['comm']:.0f} %",
            f"{100 * decode['idle']:.0f} %", f"{g['prefill']['tok_s']:.0f}"]


def training_row(d):
    sent = d["sent_bytes"]
    return [str(d["ranks"]), f"{d['memory']['total'] / 1e9:.1f}", f"{sent / 1e9:.1f}",
            f"{sent / 450e9:.2f}", f"{sent / 50e9:.2f}"]


def figures(text):
    """Rows of the tables behind a command with $MESH: the line as it is, and as it should be."""
    for command, table in re.findall(r"```\n(weft plan [^\n]*\$MESH)\n```\n+((?:\|[^\n]*\n)+)",
                                     text):
        for line in table.splitlines()[2:]:
            mesh = line.split("|")[1].strip()
            words = command.replace("$MESH", mesh.strip("`"))
            d = json.loads(plan(words, "--json"))
            row = training_row(d) if "--train" in words else inference_row(d)
            yield line, "| " + " | ".join([mesh, *row]) + " |"


class Scaling(unittest.TestCase):
    """Plans are the same on every machine: kernels of GPUs, nothing measured here. Run this with
    --update after a change of plans that is meant, and look at what the page says of the figures.
    """

    def plan(self, words, *more):
        return plan(words, *more)

    def test_every_figure(self):
        found = list(figures(scaling()))
        self.assertGreater(len(found), 15)
        for line, now in found:
            self.assertEqual(line, now)

    def test_figures_beside_measured_ones(self):
        model = os.path.join("bench", "models", "shapes", "llama-8b")
        rows = re.findall(r"\| `([^`]*)` \| (decode|prefill) \| (\d+) \| (\d+) \|", scaling())
        self.assertEqual(len(rows), 3)
        for args, step, measured, predicted in rows:
            d = json.loads(self.plan(f"weft plan {model} --gpu h200 --brief --json {args}"))
            self.assertEqual(f"{d['gpu'][step]['tok_s']:.0f}", predicted)
            self.assertLess(int(measured), int(predicted))  # a bound

    def test_other_commands(self):
        words = re.findall(r"```\n(weft plan [^\n$]*)\n```", scaling())
        self.assertTrue(words)
        for w in words:
            self.assertRegex(self.plan(w), r"on 8 h200, 8 to a node, at best")

    def constant(self, name):
        with open(os.path.join(ROOT, "host", "cmd", "plan_gpu.c"), encoding="utf-8") as f:
            return float(re.search(rf"\.{name} = ([\d.]+)", f.read()).group(1))

    def test_constants_that_were_measured(self):
        with open(os.path.join(ROOT, "bench", "results", "gpu-h200-bench.json")) as f:
            rows = json.load(f)["rows"]
        reads = [r["read_gb_s"] for op in ("rope", "kv_append") for r in rows[op]
                 if r["op"] == "ceilings"]
        self.assertAlmostEqual(self.constant("read_gb_s"), statistics.median(reads), delta=20)
        one = [r["us"] for r in rows["rope"] if r.get("shape", "").startswith("T=1,")]
        self.assertAlmostEqual(self.constant("op_us"), one[0], delta=0.05)
        large = [r["tflop_s"] for r in rows["matmul"]
                 if r.get("shape") == "T=4096,N=4096,K=4096" and r["row"] == "wgmma"]
        self.assertAlmostEqual(self.constant("tflop_s"), max(large), delta=1)
        prompt = [r["tflop_s"] for r in rows["attention"]
                  if r.get("shape", "").startswith("S=1,") and "keys=8192" in r["shape"]
                  and r["row"] == "mma"]
        self.assertAlmostEqual(self.constant("attention_tflop_s"), max(prompt), delta=1)
        beyond = [r["us"] - r["us"] * r["gb_s"] / 4500 for r in rows["matmul"]
                  if r.get("shape", "").startswith("T=1,") and r["row"] == "wgmma"
                  and r["dtype"] == "bf16"]
        self.assertAlmostEqual(self.constant("matmul_us"), statistics.median(beyond), delta=0.5)

    def test_prediction_follows_from_the_plan(self):
        """One token of one sequence on 1 and on 8 GPUs, from the steps alone."""
        model = os.path.join("bench", "models", "shapes", "llama-8b")
        for tp in (1, 8):
            d = json.loads(self.plan(f"weft plan {model} --gpu h200 -c 128 --json --tp {tp}"))
            plan, seconds, talk = [], 0, 0
            for s in d["steps"]:
                if s["tokens"] != 1 or (plan and s["tag"] == plan[0]["tag"] == "embed"
                                        and len(plan) > 3 and s["op"] == "embed"):
                    break
                plan.append(s)
            for s in plan:
                if s["op"] == "all_gather":
                    continue
                peak = {"matmul": 622e12, "attention": 119e12}.get(s["op"])
                seconds += (6.1e-6 if s["op"] == "matmul" else 1.8e-6) + max(
                    s["bytes"] / 4.5e12, s["flops"] / peak if peak else 0)
            gathers = [(tp - 1) * 4 * 4096] * (2 * 32 + 1) + [(tp - 1) * 4 * 128256 // tp]
            for sent in gathers if tp > 1 else []:
                talk += min((6.6 + 7 * 0.6) * 1e-6 + sent / 141e9,
                            (8.4 + 7 * 3.4) * 1e-6 + sent / 450e9)
            got = d["gpu"]["decode"]
            self.assertAlmostEqual(got["seconds"], seconds + talk, delta=1e-3 * got["seconds"])
            self.assertAlmostEqual(got["comm"], talk / (seconds + talk), delta=2e-3)

    def test_a_pipeline_fills_and_drains(self):
        model = os.path.join("bench", "models", "shapes", "llama-70b")
        words = f"weft plan {model} --gpu h200 -c 4096 --max-seqs 64 --brief --json --pp 8"
        one = json.loads(self.plan(words))["gpu"]["decode"]
        many = json.loads(self.plan(words + " --pp-tokens 8"))["gpu"]["decode"]
        self.assertEqual((one["micro_batches"], many["micro_batches"]), (1, 8))
        self.assertGreater(one["idle"], 0.85)  # 7 of 8 stages wait
        self.assertAlmostEqual(many["idle"], 1 - 8 / 15, delta=0.05)  # of 8 + 7 beats, 7


def update():
    text = scaling()
    for line, now in figures(text):
        text = text.replace(line, now)
    with open(SCALING, "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    if "--update" in sys.argv:
        update()
    else:
        unittest.main()
