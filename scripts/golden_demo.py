#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/golden/demo.json: what transformers says of the demo model, in float64 except for its
norms and its rotary table, which it computes in float32.

    golden_demo.py bench/models/demo tests/golden/demo.json

Development only; needs torch and transformers. Prompts whose greedy path has a near tie are
refused: the golden must not hang on the last bit of anybody's arithmetic.
"""

import json
import sys

import torch
import transformers

PROMPTS = ("It is a truth universally acknowledged", "ROMEO:\n", "I was", "\"My dear Mr. Bennet,\"",
           "The red hat, said she, is lost", "")
LENGTH, MARGIN = 48, 2e-3
TEXT = ("It was a fine morning, and the ladies walked to the village. Mr. Darcy came too late, "
        "and said nothing.\n\nKING:\nWhat news from the north, my lord? I'll hear it.")


@torch.no_grad()
def greedy(model, ids):
    out, least = list(ids), float("inf")
    for _ in range(LENGTH):
        top = model(torch.tensor([out])).logits[0, -1].topk(2)
        least = min(least, (top.values[0] - top.values[1]).item())
        out.append(top.indices[0].item())
    return out[len(ids):], least


@torch.no_grad()
def score(model, ids):
    lp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [lp[i, t].item() for i, t in enumerate(ids[1:])]


def main():
    folder, out = sys.argv[1:]
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval()
    rows = []
    for p in PROMPTS:
        ids = tok(p).input_ids
        path, margin = greedy(model, ids)
        if margin < MARGIN:
            print(f"left out, near tie {margin:.1e}: {p!r}")
            continue
        rows.append({"text": p, "ids": ids, "greedy": path, "greedy_text": tok.decode(path),
                     "margin": margin})
    ids = tok(TEXT).input_ids
    with open(out, "w", encoding="utf-8") as f:
        json.dump({"source": f"scripts/golden_demo.py, transformers {transformers.__version__}, "
                             "float64 (its norms float32)", "prompts": rows,
                   "score": {"text": TEXT, "ids": ids, "logprobs": score(model, ids)}}, f, indent=1)
        f.write("\n")
    print(f"{len(rows)} prompts")


if __name__ == "__main__":
    main()
