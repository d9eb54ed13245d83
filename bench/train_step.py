#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A training step of GPT-2's 124M shape on the CPU: weft beside PyTorch and llm.c.

    bench/train_step.py --torch VENV/bin/python --llmc llm.c/train_gpt2 [--rounds 5] [--json F]

All start from the same random weights and take the same batch again and again: B = 4, T = 64,
AdamW; the first losses must agree (llm.c's counts the label behind each row too). A round runs
every contestant once, each in its own process, its first step dropped; rounds alternate, so that
what else the machine does falls on all. Printed: the median step of the rounds and their range, the
share of the FMA ceiling that weft measures in the same run, and the median of the rounds' ratios to
weft in fp32. PyTorch is transformers' GPT2LMHeadModel run eagerly with fused AdamW (bf16: all of it
in bfloat16, without fp32 masters); llm.c is its train_gpt2.c as its Makefile builds it (-Ofast
-march=native, OpenMP). Who is not named is left out."""

import argparse
import array
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile

B, T = 4, 64
C, L, V, CONTEXT = 768, 12, 50257, 1024
PADDED_V = 50304
CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": V,
    "n_positions": CONTEXT,
    "n_ctx": CONTEXT,
    "n_embd": C,
    "n_layer": L,
    "n_head": 12,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "attn_pdrop": 0,
    "embd_pdrop": 0,
    "resid_pdrop": 0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
ADAMW = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def torch_child(folder, rows, dtype, steps, threads):
    import time

    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(threads)
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=getattr(torch, dtype)).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)
    with open(rows, encoding="utf-8") as f:
        ids = torch.tensor([json.loads(line)["input_ids"] for line in f])
    seconds, losses = [], []
    for _ in range(steps):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "loss": losses[0]}))


class Bench:
    def __init__(self, args, work):
        self.args, self.work, self.steps = args, work, args.steps + 1
        self.rows = os.path.join(work, "rows.jsonl")
        self.model = os.path.join(work, "model")
        rng = random.Random(1)
        self.tokens = [rng.randrange(V) for _ in range(B * T)]
        with open(self.rows, "w", encoding="utf-8") as f:
            for at in range(0, len(self.tokens), T):
                ids = self.tokens[at : at + T]
                f.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
        with open(os.path.join(work, "config.json"), "w", encoding="utf-8") as f:
            json.dump(CONFIG, f)
        self.train("config.json", self.model, "fp32", "--from-scratch", "--lr", "0", "--steps", "1")
        if args.llmc:
            self.write_llmc()

    def train(self, start, out, dtype, *more):
        subprocess.run(
            [
                *(self.args.weft, "train", os.path.join(self.work, start), "--data", self.rows),
                *("-o", out, "--order", "file", "--batch-size", str(B), "--seq-len", str(T)),
                *("--dtype", dtype, "--clip", "0", "--weight-decay", "0", "--beta2", "0.999"),
                *("--device", "cpu", "-t", str(self.args.threads), *more),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def weft(self, dtype):
        out = os.path.join(self.work, "run")
        self.train("model", out, dtype, "--lr", "1e-4", "--steps", str(self.steps),
                   "--schedule", "constant")
        with open(os.path.join(out, "timing.jsonl"), encoding="utf-8") as f:
            timing = [json.loads(line) for line in f]
        with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as f:
            loss = json.loads(f.readline())["loss"]
        shutil.rmtree(out)
        return {
            "seconds": [t["seconds"] for t in timing],
            "loss": loss,
            "pct": statistics.median(t["pct_ceiling"] for t in timing[1:]),
        }

    def torch(self, dtype):
        name = {"fp32": "float32", "bf16": "bfloat16"}[dtype]
        run = subprocess.run(
            [
                *(self.args.torch, os.path.abspath(__file__), "--torch-child", self.model),
                *(self.rows, name, str(self.steps), str(self.args.threads)),
            ],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        return json.loads(run.stdout.splitlines()[-1])

    def llmc(self, _dtype):
        seconds, loss = [], None
        with subprocess.Popen(
            ["stdbuf", "-oL", os.path.abspath(self.args.llmc)],
            cwd=self.work,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(self.args.threads)},
        ) as p:
            for line in p.stdout:
                if line.startswith("step "):
                    loss = loss or float(line.split("loss ")[1].split()[0])
                    seconds.append(float(line.split("took ")[1].split()[0]) / 1e3)
                if len(seconds) == self.steps:
                    break
            p.kill()
        return {"seconds": seconds, "loss": loss}

    def write_llmc(self):
        """llm.c's checkpoint (version 3: fp32, matrices [out, in], layers stacked) and tokens."""
        tensors = read_safetensors(os.path.join(self.model, "model.safetensors"))
        with open(os.path.join(self.work, "gpt2_124M.bin"), "wb") as f:
            f.write(struct.pack("<256i", 20240326, 3, CONTEXT, V, L, 12, C, PADDED_V, *[0] * 248))
            f.write(tensors("wte.weight") + bytes(4 * (PADDED_V - V) * C) + tensors("wpe.weight"))
            for name, inputs in (
                *(("ln_1.weight", 0), ("ln_1.bias", 0), ("attn.c_attn.weight", C)),
                *(("attn.c_attn.bias", 0), ("attn.c_proj.weight", C), ("attn.c_proj.bias", 0)),
                *(("ln_2.weight", 0), ("ln_2.bias", 0), ("mlp.c_fc.weight", C)),
                *(("mlp.c_fc.bias", 0), ("mlp.c_proj.weight", 4 * C), ("mlp.c_proj.bias", 0)),
            ):
                for i in range(L):
                    f.write(transposed(tensors(f"h.{i}.{name}"), inputs))
            f.write(tensors("ln_f.weight") + tensors("ln_f.bias"))
        folder = os.path.join(self.work, "dev/data/tinyshakespeare")
        os.makedirs(folder)
        tokens = self.tokens * 16
        for split in ("train", "val"):
            with open(os.path.join(folder, f"tiny_shakespeare_{split}.bin"), "wb") as f:
                f.write(struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253))
                f.write(array.array("H", tokens).tobytes())

    def contestants(self):
        for dtype in ("fp32", "bf16"):
            yield f"weft {dtype}", self.weft, dtype
            if self.args.torch:
                yield f"PyTorch {dtype}", self.torch, dtype
        if self.args.llmc:
            yield "llm.c fp32", self.llmc, "fp32"


def read_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + n])

    def tensor(name):
        t = header.get(name) or header["transformer." + name]
        assert t["dtype"] == "F32", t
        a, b = t["data_offsets"]
        return raw[8 + n + a : 8 + n + b]

    return tensor


def transposed(raw, inputs):
    if not inputs:
        return raw
    values = array.array("f", raw)
    outputs = len(values) // inputs
    return b"".join(values[o::outputs].tobytes() for o in range(outputs))


def measure(bench, rounds):
    """By contestant: its median step of every round, its loss, weft's share of the ceiling."""
    result = {}
    for i in range(rounds):
        for name, run, dtype in bench.contestants():
            r = run(dtype)
            row = result.setdefault(name, {"loss": r["loss"], "seconds": [], "pct": []})
            row["seconds"].append(statistics.median(r["seconds"][1:]))
            row["pct"] += [r["pct"]] if "pct" in r else []
            print(f"\rround {i + 1} of {rounds}: {name} {row['seconds'][-1]:.3f} s   ",
                  end="", file=sys.stderr, flush=True)
    print("\r\033[K", end="", file=sys.stderr)
    return result


def table(result):
    base = result["weft fp32"]["seconds"]
    flops = statistics.median(result["weft fp32"]["pct"]) * statistics.median(base)
    rows = []
    for name, r in result.items():
        ratio = statistics.median(s / b for s, b in zip(r["seconds"], base))
        step = statistics.median(r["seconds"])
        rows.append({"name": name, "step_s": step, "min_s": min(r["seconds"]),
                     "max_s": max(r["seconds"]), "tokens_per_s": B * T / step,
                     "pct_fma_ceiling": flops / step, "ratio": ratio, "first_loss": r["loss"]})
    return rows


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    a.add_argument("--weft", default=os.path.join(os.environ.get("BUILD", "build"), "weft"))
    a.add_argument("--torch", help="a Python with torch and transformers")
    a.add_argument("--llmc", help="llm.c's train_gpt2")
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--steps", type=int, default=3, help="timed steps of a round")
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--json", help="also written there")
    args = a.parse_args()
    with tempfile.TemporaryDirectory(prefix="weft-train-step-") as work:
        rows = table(measure(Bench(args, work), args.rounds))
    print(f"{'':14} {'step':>8}  {'range':>15} {'tokens/s':>9} {'of FMA':>7} {'x weft':>7}  loss")
    for r in rows:
        print(f"{r['name']:14} {r['step_s']:6.3f} s  {r['min_s']:6.3f} .. {r['max_s']:5.3f} "
              f"{r['tokens_per_s']:9.0f} {r['pct_fma_ceiling']:6.1f}% {r['ratio']:6.2f}x  "
              f"{r['first_loss']:.4f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"B": B, "T": T, "threads": args.threads, "rows": rows}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--torch-child"]:
        torch_child(*sys.argv[2:5], *map(int, sys.argv[5:7]))
    else:
        main()
