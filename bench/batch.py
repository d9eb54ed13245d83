#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What continuous batching gains: `weft batch` over one file of requests, with many sequences at a
time and with one, alternating in one run so that both see the same machine.

    bench/batch.py [SHAPE-DTYPE] [--lines 64] [--prompt 64] [--tokens 64] [--seqs 32] [--dp 1]
                   [-r 3]

Random weights are made under build/bench (make_model). Prompts are random token ids of P/2 to 3P/2
tokens, answers T/2 to 3T/2 tokens, greedy; the prefix cache is off, so nothing is gained by it. One
at a time is slow: it answers only the first --few lines, whose prompts have P tokens and whose
answers T, so that both have as many of each on average. With --dp the sequences are shared out
among so many replicas, one at a time stays one. Prints the medians over rounds."""
import argparse
import json
import os
import random
import re
import statistics
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("model", nargs="?", default="110m-bf16", help="shape-dtype, or a model's folder")
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--lines", type=int, default=64)
    p.add_argument("--few", type=int, default=8)
    p.add_argument("--prompt", type=int, default=64)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--seqs", type=int, default=32)
    p.add_argument("--dp", type=int, default=1)
    p.add_argument("-r", "--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--json", action="store_true")
    return p.parse_args()


def model_of(o):
    if os.path.isdir(o.model):
        return o.model
    folder = os.path.join(o.build, "bench", o.model)
    if not os.path.exists(os.path.join(folder, "model.safetensors")):
        shape, dtype = o.model.split("-")
        subprocess.run([os.path.join(o.build, "bench", "make_model"), folder, shape, dtype],
                       check=True)
    return folder


def vocab_of(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        return json.load(f)["vocab_size"]


def write_requests(path, o, vocab):
    rng = random.Random(1)
    with open(path, "w", encoding="utf-8") as f:
        for i in range(o.lines):
            n, t = (x if i < o.few else max(1, rng.randint(x // 2, 3 * x // 2))
                    for x in (o.prompt, o.tokens))
            body = {"prompt": [rng.randrange(vocab) for _ in range(n)], "temperature": 0,
                    "max_tokens": t, "ignore_eos": True}
            f.write(json.dumps({"body": body}) + "\n")


def run(o, folder, src, out, seqs, dp=1):
    ctx = max(64, 2 * (o.prompt + o.tokens))
    r = subprocess.run([os.path.join(o.build, "weft"), "batch", folder, "-i", src, "-o", out,
                        "--restart", "--json", "--no-prefix-cache", "-c", str(ctx), "-t",
                        str(o.threads), "--max-seqs", str(seqs // dp), "--dp", str(dp)],
                       check=True, capture_output=True, text=True)
    with open(out, "rb") as f:
        return json.loads(r.stdout), f.read()


def unseeded(answers):
    """Greedy answers without the seeds their lines got."""
    return [re.sub(rb'"seed":\d+,', b"", x) for x in answers.splitlines()]


def main():
    o = options()
    folder = model_of(o)
    many, one = [], []
    with tempfile.TemporaryDirectory() as d:
        src, few, out = (os.path.join(d, x) for x in ("in.jsonl", "few.jsonl", "out.jsonl"))
        write_requests(src, o, vocab_of(folder))
        with open(src, encoding="utf-8") as f, open(few, "w", encoding="utf-8") as g:
            g.writelines(f.readlines()[:o.few])
        for _ in range(o.rounds):
            single, a = run(o, folder, few, out, 1)
            full, b = run(o, folder, src, out, o.seqs, o.dp)
            if unseeded(a) != unseeded(b)[:o.few]:
                raise SystemExit("batch.py: the answers differ")
            many.append(full)
            one.append(single)

    def median(runs, key):
        return statistics.median(key(x) for x in runs)

    row = {"model": os.path.basename(folder), "lines": o.lines, "seqs": o.seqs, "dp": o.dp,
           "one_tok_s": median(one, lambda x: x["tokens_per_second"]),
           "batch_tok_s": median(many, lambda x: x["tokens_per_second"]),
           "speedup": statistics.median(b["tokens_per_second"] / a["tokens_per_second"]
                                        for a, b in zip(one, many)),
           "speedup_total": statistics.median(
               b["total_tokens_per_second"] / a["total_tokens_per_second"]
               for a, b in zip(one, many)),
           "sequences_per_step": median(many, lambda x: x["scheduler"]["sequences_per_step"]),
           "first_token_ms": median(many, lambda x: x["first_token_ms"]["p50"]),
           "overhead": max(x["scheduler"]["overhead"] for x in many)}
    if o.json:
        print(json.dumps(row))
        return
    print(f"{row['model']}: one at a time {row['one_tok_s']:.1f} tok/s, {o.seqs} at a time "
          f"{row['batch_tok_s']:.1f} tok/s: {row['speedup']:.2f}x ({row['speedup_total']:.2f}x "
          f"with prompts); {row['sequences_per_step']:.1f} sequences a step, scheduler "
          f"{100 * row['overhead']:.4f} % of it")


if __name__ == "__main__":
    main()
