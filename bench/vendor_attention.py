#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time PyTorch's scaled_dot_product_attention (cuDNN, FlashAttention) at weft's attention shapes.

    bench/vendor_attention.py [--json FILE] [--seconds N]

Keys and values lie contiguous per sequence, which is what those libraries like best; weft's are in
pages. Several copies of the operands take turns, together over three times the L2. Each backend's
median is over rounds in which the backends take turns.
"""

import argparse
import json
import statistics
import sys
import time

# name in checkkernels, batch, queries, keys, head width, causal
SHAPES = [(f"S=1,H=32,group=4,D={d},keys={n},page=16,tile=32", 1, n, n, d, True)
          for d in (128, 64) for n in (2048, 8192)]
SHAPES += [(f"S={b},H=32,group=4,D=128,keys={n},page=16,q=1", b, 1, n, 128, False)
           for b in (1, 16, 64) for n in (1024, 8192, 32768)]
HEADS, KV_HEADS, ROUNDS = 32, 8, 11


def operands(torch, batch, queries, keys, width, l2):
    size = 2 * width * batch * (2 * keys * KV_HEADS + 2 * queries * HEADS)
    copies = max(1, min(64, 3 * l2 // size + 1))

    def make(heads, n):
        return torch.randn(batch, heads, n, width, device="cuda", dtype=torch.bfloat16)
    return [(make(HEADS, queries), make(KV_HEADS, keys), make(KV_HEADS, keys))
            for _ in range(copies)]


def recorded(torch, call, sets):
    """A CUDA graph of one run a copy, warmed up."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for q, k, v in sets[:2]:
            call(q, k, v)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for q, k, v in sets:
            call(q, k, v)
    graph.replay()
    torch.cuda.synchronize()
    return graph


def seconds(torch, graph, runs):
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    graph.replay()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) * 1e-3 / runs


def caller(torch, backend, causal):
    from torch.nn.attention import sdpa_kernel
    attention = torch.nn.functional.scaled_dot_product_attention

    def call(q, k, v):
        with sdpa_kernel(backend):
            return attention(q, k, v, is_causal=causal, enable_gqa=True)
    return call


def measure(torch, shape, l2):
    from torch.nn.attention import SDPBackend
    name, batch, queries, keys, width, causal = shape
    sets = operands(torch, batch, queries, keys, width, l2)
    graphs, took = {}, {}
    for label, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION),
                           ("flash", SDPBackend.FLASH_ATTENTION)):
        try:
            graphs[label] = recorded(torch, caller(torch, backend, causal), sets)
        except RuntimeError as e:
            print(f"{name} {label}: {str(e).splitlines()[0]}", file=sys.stderr)
    for _ in range(ROUNDS):
        for label, graph in graphs.items():
            took.setdefault(label, []).append(seconds(torch, graph, len(sets)))
    pairs = queries * keys / (2 if causal else 1)
    flops = 4 * batch * HEADS * width * pairs
    size = 2 * width * batch * (2 * keys * KV_HEADS + 2 * queries * HEADS)
    rows = []
    for label, times in took.items():
        s = statistics.median(times)
        rows.append({"op": "attention", "dtype": "bf16", "shape": name, "row": f"torch {label}",
                     "us": s * 1e6, "tflop_s": flops / s * 1e-12, "gb_s": size / s * 1e-9})
        print(f"attention {name} torch {label}: {s * 1e6:.1f} us, {flops / s * 1e-12:.1f} TFLOP/s, "
              f"{size / s * 1e-9:.0f} GB/s", flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--json", metavar="FILE")
    p.add_argument("--seconds", type=float, default=90)
    o = p.parse_args()
    try:
        import torch
    except ImportError:
        print("vendor_attention: PyTorch is not installed")
        return 3
    if not torch.cuda.is_available():
        print("vendor_attention: no GPU here")
        return 3
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    rows, until = [], time.monotonic() + o.seconds
    for shape in SHAPES:
        if time.monotonic() > until:
            print(f"skipped {shape[0]}: out of time")
            continue
        rows += measure(torch, shape, l2)
        if o.json:
            with open(o.json, "w", encoding="utf-8") as f:
                json.dump(rows, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
