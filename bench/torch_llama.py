#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch as the opponent of `weft bench` on a GPU: the same Llama shapes with random weights, the
same tests (pp512: a prompt of 512; tg128: 128 tokens one by one; tg128x16: for 16 sequences).

The decoder is written out in plain torch with fused qkv and gate-up matrices and a static cache,
and decode is replayed as one CUDA graph: what a careful user of the library gets without another
engine.

    bench/torch_llama.py CONFIG.json [-p 512] [-n 128] [--batch 16] [--dtype bf16] [-r 5]

prints a JSON array, one object a test, in weft bench's names."""
import argparse
import json
import statistics

import torch
import torch.nn.functional as F

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Llama:
    """Weights, cache and one forward; static shapes, so that it can be captured."""

    def __init__(self, cfg, batch, ctx, dtype):
        self.h, self.layers = cfg["hidden_size"], cfg["num_hidden_layers"]
        self.heads, self.kv = cfg["num_attention_heads"], cfg["num_key_value_heads"]
        self.d = cfg.get("head_dim") or self.h // self.heads
        self.ff, self.vocab = cfg["intermediate_size"], cfg["vocab_size"]
        self.eps, self.dtype, self.ctx = cfg["rms_norm_eps"], dtype, ctx

        def weight(rows, cols):
            return torch.empty(rows, cols, device="cuda", dtype=dtype).normal_(0, 0.02)

        width = self.heads * self.d
        self.embed = weight(self.vocab, self.h)
        self.head = self.embed if cfg.get("tie_word_embeddings") else weight(self.vocab, self.h)
        self.block = [
            dict(qkv=weight(width + 2 * self.kv * self.d, self.h), o=weight(self.h, width),
                 up=weight(2 * self.ff, self.h), down=weight(self.h, self.ff),
                 n1=torch.ones(self.h, device="cuda", dtype=dtype),
                 n2=torch.ones(self.h, device="cuda", dtype=dtype),
                 k=torch.zeros(batch, self.kv, ctx, self.d, device="cuda", dtype=dtype),
                 v=torch.zeros(batch, self.kv, ctx, self.d, device="cuda", dtype=dtype))
            for _ in range(self.layers)
        ]
        exponent = -torch.arange(0, self.d, 2, device="cuda") / self.d
        inv = cfg.get("rope_theta", 10000.0) ** exponent
        angle = torch.arange(ctx, device="cuda")[:, None] * inv[None]
        self.cos, self.sin = angle.cos().to(dtype), angle.sin().to(dtype)

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def attend(self, q, k, v, mask):
        """One token: a group's heads are the queries of its kv head, so that no key is repeated."""
        if q.shape[2] > 1:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        grouped = q.view(q.shape[0], self.kv, -1, self.d)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).view(q.shape)

    def forward(self, ids, pos, keys):
        """ids [B, T] at positions pos [T]; attention over the cache's first `keys` entries."""
        b, t = ids.shape
        x = F.embedding(ids, self.embed)
        cos, sin = self.cos[pos], self.sin[pos]
        mask = None if t > 1 else (torch.arange(keys, device="cuda") <= pos[0])[None, None, None]
        for w in self.block:
            y = F.rms_norm(x, (self.h,), w["n1"], self.eps)
            q, k, v = F.linear(y, w["qkv"]).view(b, t, -1, self.d).transpose(1, 2).split(
                (self.heads, self.kv, self.kv), 1)
            w["k"].index_copy_(2, pos, self.rotate(k, cos, sin))
            w["v"].index_copy_(2, pos, v)
            k, v = w["k"][:, :, :keys], w["v"][:, :, :keys]
            y = self.attend(self.rotate(q, cos, sin), k, v, mask)
            x = x + F.linear(y.transpose(1, 2).reshape(b, t, -1), w["o"])
            g, u = F.linear(F.rms_norm(x, (self.h,), w["n2"], self.eps), w["up"]).chunk(2, -1)
            x = x + F.linear(F.silu(g) * u, w["down"])
        return F.linear(x[:, -1], self.head).argmax(-1, keepdim=True)


def seconds(fn):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    fn()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3


def row(name, dtype, tokens, took, how):
    rates = [tokens / t for t in took]
    return dict(test=name, dtype=dtype, tok_s=statistics.median(rates), how=how,
                tok_s_sd=statistics.pstdev(rates))


def prefill(cfg, args, dtype):
    m = Llama(cfg, 1, args.prompt, dtype)
    ids = torch.randint(m.vocab, (1, args.prompt), device="cuda")
    pos = torch.arange(args.prompt, device="cuda")

    def run():
        m.forward(ids, pos, args.prompt)

    run(), run()
    took = [seconds(run) for _ in range(args.r)]
    return row(f"pp{args.prompt}", args.dtype, args.prompt, took, "eager")


def decode(cfg, args, dtype, batch):
    m = Llama(cfg, batch, args.n, dtype)
    ids = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
    pos = torch.zeros(1, dtype=torch.long, device="cuda")

    def step():
        ids.copy_(m.forward(ids, pos, args.n))
        pos.add_(1).remainder_(args.n)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step(), step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def run():
        for _ in range(args.n):
            graph.replay()

    run()
    name = f"tg{args.n}" + (f"x{batch}" if batch > 1 else "")
    took = [seconds(run) for _ in range(args.r)]
    return row(name, args.dtype, args.n * batch, took, "CUDA graph")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("config")
    p.add_argument("-p", dest="prompt", type=int, default=512)
    p.add_argument("-n", type=int, default=128)
    p.add_argument("-r", type=int, default=5)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--dtype", choices=DTYPES, default="bf16")
    args = p.parse_args()
    with open(args.config, encoding="utf-8") as f:
        cfg = json.load(f)
    rows = []
    with torch.inference_mode():
        if args.prompt:
            rows.append(prefill(cfg, args, DTYPES[args.dtype]))
        for batch in sorted({1, args.batch}) if args.n else []:
            rows.append(decode(cfg, args, DTYPES[args.dtype], batch))
            torch.cuda.empty_cache()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
