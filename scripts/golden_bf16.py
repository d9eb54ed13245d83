#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/golden/bf16_torch.json: how far PyTorch's bfloat16 training is from float64.

    golden_bf16.py FIXTURES/golden/models tests/golden/bf16_torch.json

Development only; needs torch, transformers and safetensors. For each model, batch 0 with its
weights cast to bfloat16 (they are on that grid), autocast off, eager attention, on the CPU: the
loss, and every gradient against that of golden_grad.safetensors (float64), as ||g - w|| / ||w||.
Of all batches, log-probabilities in float64 and how far bfloat16 is from them: a loss is a mean of
some fifty tokens, whose errors cancel by luck, so the tokens are what two programs compare by.
"""

import json
import os
import statistics
import sys

import torch
import transformers
from safetensors.torch import load_file

MODELS = ("llama-gqa", "llama-tp8", "qwen3", "gpt2")


def gradients(folder, batch):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    loss = model(**{k: torch.tensor(v) for k, v in batch.items()}).loss
    loss.backward()
    return loss.item(), {k: p.grad.double() for k, p in model.named_parameters()}


def logprobs(folder, dtype, rows):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for ids in rows:
            lp = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
            yield lp.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def tokens(folder, batches):
    pairs = [p for b in batches for p in zip(b["input_ids"], b["attention_mask"])]
    rows = [ids[: sum(mask)] for ids, mask in pairs]
    want = list(logprobs(folder, torch.float64, rows))
    off = torch.cat(list(logprobs(folder, torch.bfloat16, rows))) - torch.cat(want)
    return {
        "logprob_error": off.pow(2).mean().sqrt().item(),
        "rows": [{"ids": i, "logprobs": w.tolist()} for i, w in zip(rows, want)],
    }


def find(grads, name):
    """Files of GPT-2 leave the prefix of the decoder out."""
    return grads[name] if name in grads else grads["transformer." + name]


def compare(folder):
    with open(os.path.join(folder, "golden.json"), encoding="utf-8") as f:
        golden = json.load(f)["train"]
    want = load_file(os.path.join(folder, "golden_grad.safetensors"))
    loss, grads = gradients(folder, golden["batches"][0])
    error = {}
    far = whole = 0.0
    for name in sorted(want):
        w = want[name].double()
        d = (find(grads, name) - w).norm().item()
        error[name] = d / w.norm().item()
        far, whole = far + d * d, whole + w.norm().item() ** 2
    return {
        "loss_error": abs(loss - golden["loss"]),
        "gradient_error": (far / whole) ** 0.5,
        "median_tensor_error": statistics.median(error.values()),
        "tensor_error": error,
        **tokens(folder, golden["batches"]),
    }


def main():
    models, out = sys.argv[1:]
    torch.set_num_threads(1)
    result = {
        "source": f"scripts/golden_bf16.py, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, CPU, weights bfloat16, eager attention",
        "models": {m: compare(os.path.join(models, m)) for m in MODELS},
    }
    with open(out, "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    for name, r in result["models"].items():
        print(f"{name}: tokens {r['logprob_error']:.2e}, gradients {r['gradient_error']:.2e}, "
              f"median tensor {r['median_tensor_error']:.2e}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
