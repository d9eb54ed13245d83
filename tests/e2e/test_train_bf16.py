# SPDX-License-Identifier: Apache-2.0
"""Training in bfloat16 against float64: no further off than PyTorch's bfloat16 is, whose errors
scripts/golden_bf16.py recorded in tests/golden/bf16_torch.json."""

import json
import math
import os
import statistics
import unittest

from test_train import GOLDEN, ROOT, Folder, read_json, read_tensors, weft, write_rows

TORCH = os.path.join(ROOT, "tests", "golden", "bf16_torch.json")


def square(v):
    return math.fsum(x * x for x in v)


@unittest.skipUnless(os.path.isdir(GOLDEN), "fixtures/golden is not there")
class Bf16(Folder):
    def train(self, model, batch, device):
        """The gradients of the batch, at the stored weights."""
        rows, grads = self.path("rows.jsonl"), self.path("grads.safetensors")
        write_rows(rows, [batch])
        weft(
            *("train", os.path.join(GOLDEN, model), "--data", rows, "-o", self.path(device)),
            *("--steps", "1", "--batch-size", "4", "--order", "file", "--lr", "0"),
            *("--dtype", "bf16", "--device", device, "--dump-grads", grads),
        )
        return read_tensors(grads)

    def logprob_error(self, model, rows, device):
        """Root mean square over tokens; the forward pass of training has the bits of `score`."""
        off = []
        for row in rows:
            out = weft(
                *("score", os.path.join(GOLDEN, model), "--json", "--dtype", "bf16"),
                *("--ids", ",".join(map(str, row["ids"])), "--device", device),
            )
            got = json.loads(out)["logprobs"][-len(row["logprobs"]) :]
            off += [a - b for a, b in zip(got, row["logprobs"], strict=True)]
        return math.sqrt(square(off) / len(off))

    def check(self, model):
        golden = read_json(os.path.join(GOLDEN, model, "golden.json"))["train"]
        want = read_tensors(os.path.join(GOLDEN, model, "golden_grad.safetensors"))
        torch = read_json(TORCH)["models"][model]
        for device in ("ref", "cpu"):
            with self.subTest(device=device):
                got = self.train(model, golden["batches"][0], device)
                self.assertEqual(set(want), set(got))
                far = {n: square(a - b for a, b in zip(got[n], w)) for n, w in want.items()}
                size = {n: square(w) for n, w in want.items()}
                whole = math.sqrt(sum(far.values()) / sum(size.values()))
                median = statistics.median(math.sqrt(far[n] / size[n]) for n in want)
                error = self.logprob_error(model, torch["rows"], device)
                self.assertLessEqual(error, torch["logprob_error"])
                self.assertLessEqual(whole, torch["gradient_error"])
                self.assertLessEqual(median, torch["median_tensor_error"])
                # bfloat16 was in fact used: fp32 is a thousand times closer.
                self.assertGreater(whole, 1e-4)

    def test_llama_gqa(self):
        self.check("llama-gqa")

    def test_llama_tp8(self):
        self.check("llama-tp8")

    def test_qwen3(self):
        self.check("qwen3")

    def test_gpt2(self):
        self.check("gpt2")


if __name__ == "__main__":
    unittest.main()
