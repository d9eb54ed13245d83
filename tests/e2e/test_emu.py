#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""End to end on the emulated GPU: the kernels of kernels/cuda give the golden models' logits and
greedy ids, and the same bits whatever the chunks, the ranks and the order of a block's threads."""

import json
import os
import subprocess
import unittest

from test_golden import (GOLDEN, WEFT, Case, narrow_bound, prompts_of, read_json, run, tp_fits,
                         weft)

# A sanitized build emulates some ten times slower: one model shows it the paths.
SANITIZED = os.path.basename(os.environ.get("WEFT_BUILD", "")) in ("asan", "tsan")
SMALL = ("llama-gqa", "llama-tp8", "mistral-swa", "qwen3", "gpt2")[: 1 if SANITIZED else None]
BOUND = 1e-4  # as the cpu backend's in fp32


def folder(name):
    return os.path.join(GOLDEN, name)


def each(test):
    def all_of_them(self):
        for name in SMALL:
            with self.subTest(model=name):
                test(self, name, folder(name))

    return all_of_them


class Emulated(Case):
    def emu(self, model, ids, *args):
        return self.logits(model, ids, "--device", "emu", *args)

    @each
    def test_logits(self, name, model):
        layers = read_json(os.path.join(model, "config.json"))
        layers = layers.get("num_hidden_layers", layers.get("n_layer"))
        for ids, want in prompts_of(name):
            self.assert_near(self.emu(model, ids, "--dtype", "fp32"), want, BOUND)
            for dtype in ("bf16", "fp16"):
                got = self.emu(model, ids, "--dtype", dtype)
                self.assert_near(got, want, narrow_bound(dtype, layers))

    @each
    def test_greedy_continuations(self, name, model):
        greedy = read_json(os.path.join(model, "golden.json")).get("greedy")
        if greedy:
            got = self.continuation(
                model, greedy["prompt"], len(greedy["ids"]), "--device", "emu", "--dtype", "fp32"
            )
            self.assertEqual(got, greedy["ids"])

    @each
    def test_chunks_ranks_and_schedules_change_no_bit(self, name, model):
        config = read_json(os.path.join(model, "config.json"))
        ids = prompts_of(name)[-1][0]
        want = self.emu(model, ids, "--dtype", "bf16")
        for chunk in ("1", "7", "16"):
            self.assert_same_bits(self.emu(model, ids, "--dtype", "bf16", "-ub", chunk), want)
        for tp in (2, 4, 8):
            if tp_fits(config, tp):
                got = self.emu(model, ids, "--dtype", "bf16", "--tp", str(tp))
                self.assert_same_bits(got, want)
        self.addCleanup(os.environ.pop, "WEFT_EMU_SEED", None)
        for seed in ("0", "1", "7", "8"):
            os.environ["WEFT_EMU_SEED"] = seed
            self.assert_same_bits(self.emu(model, ids, "--dtype", "bf16"), want)

    def test_the_plan_names_the_rows(self):
        text = weft("plan", folder("llama-bf16"), "--device", "emu")
        self.assertRegex(text, r"L0\.attn\.q +emu/(wg)?mma +mma ")
        self.assertRegex(text, r"L0\.attn\.norm +emu/simt +simt ")

    def test_bench_measures_the_ceilings_of_the_device(self):
        def ceilings(device):
            out = weft("bench", folder("llama-gqa"), "--device", device, "-p", "4", "-n", "2",
                       "-r", "1", "--json")
            row = json.loads(out)[0]
            return row["ceiling_gb_s"], row["ceiling_gflop_s"]
        host, emulated = ceilings("cpu"), ceilings("emu")
        for ours, theirs in zip(emulated, host):
            self.assertGreater(ours, 0)
            self.assertLess(ours, theirs / 4)  # an emulated load is many of the host's

    def test_a_bad_seed_exits_2(self):
        os.environ["WEFT_EMU_SEED"] = "x"
        self.addCleanup(os.environ.pop, "WEFT_EMU_SEED", None)
        r = run("score", folder("gpt2"), "--ids", "1,2,3", "--device", "emu")
        self.assertEqual((r.returncode, r.stdout), (2, ""))
        self.assertRegex(r.stderr, r"\Aweft: error: WEFT_EMU_SEED: .*\n\Z")


class Billion(Case):
    """Llama-3.2-1B's shape."""

    def test_plans(self):
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama",
                  "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                  "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
                  "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
                  "rope_theta": 5e5, "hidden_act": "silu", "tie_word_embeddings": True,
                  "torch_dtype": "bfloat16"}
        with open(os.path.join(self.dir, "config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        plan = json.loads(weft("plan", self.dir, "--device", "emu", "-c", "1024", "--json"))
        self.assertEqual(plan["ranks"][0]["weights_bytes"], 2 * 1235814400)  # as published

    @unittest.skipUnless(os.environ.get("WEFT_LONG"), "WEFT_LONG=1: minutes on the emulator")
    def test_a_layer_runs(self):
        """Random weights: bf16 on the emulated GPU against fp32 on the CPU; in one step and token
        by token."""
        maker = os.path.join(os.path.dirname(WEFT), "bench", "make_model")
        subprocess.run([maker, self.dir, "1b-layer", "bf16"], check=True)
        ids = [7, 300, 511]
        got = self.logits(self.dir, ids, "--device", "emu")
        want = self.logits(self.dir, ids, "--device", "cpu", "--dtype", "fp32")
        self.assert_near(got, want, narrow_bound("bf16", 1))
        self.assert_same_bits(self.logits(self.dir, ids, "--device", "emu", "-ub", "1"), got)


if __name__ == "__main__":
    unittest.main()
