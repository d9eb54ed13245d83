#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the demo model (development only; needs torch, numpy, safetensors, tokenizers).

    train_demo.py --out bench/models/demo --minutes 30 BOOK.txt [BOOK.txt ...]

A Llama of about one million parameters and its own byte-level BPE of 2048 pieces, trained on
plain-text books and written as a Hugging Face folder (transformers 4 layout, bfloat16).
"""

import argparse
import json
import math
import os
import random
import re
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers,
                        processors, trainers)

VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, FF = 2048, 128, 4, 4, 2, 384
HEAD_DIM = WIDTH // HEADS
CONTEXT, THETA, EPS = 1024, 10000.0, 1e-5
DROP = 0.05
BEGIN, END = "<|begin|>", "<|end|>"
# Llama 3's split: contractions, words with one leading mark, up to three digits, marks, spaces.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "_": "", "\ufeff": ""})


# ---- text -------------------------------------------------------------------------------------

def join_wrapped(lines):
    """Undo hard wrapping: a line much shorter than the page closes its paragraph."""
    out, now = [], []
    for line in lines:
        text = line.strip()
        if text:
            now.append(text)
        if now and (not text or (len(text) < 52 and text[-1] in ".!?\"')")):
            out.append(" ".join(now))
            now = []
    return out + ([" ".join(now)] if now else [])


def read_book(path):
    """Paragraphs of one book, without the licence frame of the edition and its page furniture."""
    with open(path, encoding="utf-8") as f:
        text = f.read().translate(PLAIN).replace("\r\n", "\n")
    text = re.split(r"\*\*\* ?START OF[^\n]*\*\*\*\n", text)[-1]
    text = re.split(r"\*\*\* ?END OF", text)[0]
    text = re.sub(r"\[[^\]]*\]|\b(?:Chapter|CHAPTER) [IVXLC]+\.?\]?", "", text)
    blocks = re.split(r"\n\s*\n", text)
    lines = [x for x in text.split("\n") if x.strip()]
    wrapped = sorted(map(len, lines))[len(lines) // 2] > 55
    if not wrapped:
        return [re.sub(r"\n+", "\n", b.strip()) for b in blocks if b.strip()]
    return [re.sub(r" +", " ", p) for b in blocks for p in join_wrapped(b.split("\n"))]


def passages(paragraphs, rng):
    """Cut a book into passages of mixed length, so that a fresh start is common in training."""
    out, now, want = [], [], rng.choice((400, 1200, 3600))
    for p in paragraphs:
        now.append(p)
        if sum(map(len, now)) >= want:
            out.append("\n\n".join(now))
            now, want = [], rng.choice((400, 1200, 3600))
    return out + (["\n\n".join(now)] if now else [])


def make_tokenizer(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(BEGIN, special=True), AddedToken(END, special=True)])
    tok.train_from_iterator(texts, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, 0)])
    return tok


def encode(tok, texts, rng):
    rng.shuffle(texts)
    ids = []
    for enc in tok.encode_batch(texts, add_special_tokens=False):
        ids += [0] + enc.ids + [1]
    return torch.tensor(ids, dtype=torch.long)


# ---- model ------------------------------------------------------------------------------------

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        def lin(i, o, scale=1.0):
            m = torch.nn.Linear(i, o, bias=False)
            torch.nn.init.normal_(m.weight, std=scale * i ** -0.5)
            return m
        back = (2 * LAYERS) ** -0.5
        self.q_proj = lin(WIDTH, HEADS * HEAD_DIM)
        self.k_proj = lin(WIDTH, KV_HEADS * HEAD_DIM)
        self.v_proj = lin(WIDTH, KV_HEADS * HEAD_DIM)
        self.o_proj = lin(HEADS * HEAD_DIM, WIDTH, back)
        self.gate_proj = lin(WIDTH, FF)
        self.up_proj = lin(WIDTH, FF)
        self.down_proj = lin(FF, WIDTH, back)
        self.drop = torch.nn.Dropout(DROP)
        self.input_layernorm = torch.nn.Parameter(torch.ones(WIDTH))
        self.post_attention_layernorm = torch.nn.Parameter(torch.ones(WIDTH))

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        h = F.rms_norm(x, (WIDTH,), self.input_layernorm, EPS)
        q = rotate(self.q_proj(h).view(B, T, HEADS, HEAD_DIM).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(h).view(B, T, KV_HEADS, HEAD_DIM).transpose(1, 2), cos, sin)
        v = self.v_proj(h).view(B, T, KV_HEADS, HEAD_DIM).transpose(1, 2)
        group = HEADS // KV_HEADS
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        a = F.scaled_dot_product_attention(q, k.to(v.dtype), v, is_causal=True)
        x = x + self.drop(self.o_proj(a.transpose(1, 2).reshape(B, T, -1)))
        h = F.rms_norm(x, (WIDTH,), self.post_attention_layernorm, EPS)
        return x + self.drop(self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h)))


def rotate(x, cos, sin):
    """Half-split rotary positions, as Hugging Face lays them out."""
    lo, hi = x.chunk(2, -1)
    return torch.cat((lo * cos - hi * sin, hi * cos + lo * sin), -1).to(x.dtype)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Parameter(torch.randn(VOCAB, WIDTH) * 0.05)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = torch.nn.Parameter(torch.ones(WIDTH))
        inv = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
        angle = torch.outer(torch.arange(CONTEXT).float(), inv)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids):
        x, T = F.embedding(ids, self.embed), ids.shape[1]
        for b in self.blocks:
            x = b(x, self.cos[:T], self.sin[:T])
        return F.linear(F.rms_norm(x, (WIDTH,), self.norm, EPS), self.embed)


# ---- training ---------------------------------------------------------------------------------

def loss_of(model, ids):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids[:, :-1])
    return F.cross_entropy(logits.float().reshape(-1, VOCAB), ids[:, 1:].reshape(-1))


def batch_of(data, n, length):
    at = torch.randint(0, len(data) - length - 1, (n,))
    return torch.stack([data[i:i + length + 1] for i in at])


@torch.no_grad()
def validate(model, data):
    rows = (len(data) - 1) // 512
    ids = torch.stack([data[i * 512:i * 512 + 513] for i in range(rows)])
    parts = [(loss_of(model, x).item(), len(x)) for x in ids.split(8)]
    return sum(a * n for a, n in parts) / rows


@torch.no_grad()
def sample(model, tok, prompt, n=60, temp=0.8, seed=1):
    g = torch.Generator().manual_seed(seed)
    ids = [0] + tok.encode(prompt, add_special_tokens=False).ids
    while n > 0 and ids[-1] != 1:
        p = (model(torch.tensor([ids]))[0, -1].float() / temp).softmax(-1)
        ids.append(torch.multinomial(p, 1, generator=g).item())
        n -= 1
    return tok.decode(ids)


def optimizers(model):
    wide = [p for p in model.blocks.parameters() if p.ndim == 2]
    flat = [p for p in model.parameters() if p.ndim == 1]
    return (torch.optim.Muon(wide, lr=5e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([{"params": [model.embed], "weight_decay": 0.1},
                               {"params": flat, "weight_decay": 0.0}],
                              lr=3e-3, betas=(0.9, 0.98)))


def train(model, tok, data, held, args):
    opts = optimizers(model)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    start = last = time.time()
    best, step = math.inf, 0
    while True:
        done = max(step / args.steps, (time.time() - start) / (60 * args.minutes))
        if done >= 1:
            break
        rate = min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for o, lrs in zip(opts, base):
            for g, lr in zip(o.param_groups, lrs):
                g["lr"] = lr * rate
        # Long rows come last: most of the language is learnt cheaply on short ones.
        n, length = (8, 256) if done < 0.7 else (2, CONTEXT)
        loss = loss_of(model, batch_of(data, n, length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            print(f"step {step} {100 * done:.1f}% {time.time() - start:.0f}s loss {loss:.3f}",
                  flush=True)
        if time.time() - last > 60 * args.every:
            best = keep_best(model, tok, held, best, step, args)
            last = time.time()
    keep_best(model, tok, held, best, step, args)


def keep_best(model, tok, held, best, step, args):
    model.eval()
    loss = validate(model, held)
    text = sample(model, tok, "It was")
    model.train()
    print(f"step {step} held-out {loss:.4f} nats/token\n{text}", flush=True)
    if loss < best:
        export(model, tok, args.out)
    return min(best, loss)


# ---- files ------------------------------------------------------------------------------------

def weights(model):
    out = {"model.embed_tokens.weight": model.embed, "model.norm.weight": model.norm}
    for i, b in enumerate(model.blocks):
        for name, p in b.named_parameters():
            stem = name.split(".")[0]
            place = ("" if stem.endswith("layernorm")
                     else "self_attn." if stem[0] in "qkvo" else "mlp.")
            out[f"model.layers.{i}.{place}{stem}.weight"] = p
    return {k: v.detach().to(torch.bfloat16).contiguous() for k, v in out.items()}


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def export(model, tok, folder):
    """Each file is replaced whole, so that a reader never meets half of one."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.safetensors")
    save_file(weights(model), path + ".new", metadata={"format": "pt"})
    os.chmod(path + ".new", 0o644)
    os.replace(path + ".new", path)
    tok.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    write_json(folder, "config.json", {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 0, "eos_token_id": 1, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "hidden_size": WIDTH, "initializer_range": 0.02, "intermediate_size": FF,
        "max_position_embeddings": CONTEXT, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS,
        "pretraining_tp": 1, "rms_norm_eps": EPS, "rope_scaling": None, "rope_theta": THETA,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.41.2",
        "use_cache": True, "vocab_size": VOCAB})
    write_json(folder, "generation_config.json", {
        "bos_token_id": 0, "do_sample": True, "eos_token_id": 1, "temperature": 0.8,
        "top_p": 0.95, "transformers_version": "4.41.2"})
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
               "special": True}
    write_json(folder, "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False,
        "added_tokens_decoder": {"0": {"content": BEGIN, **special},
                                 "1": {"content": END, **special}},
        "bos_token": BEGIN, "clean_up_tokenization_spaces": False, "eos_token": END,
        "model_max_length": CONTEXT, "tokenizer_class": "PreTrainedTokenizerFast"})


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("books", nargs="+")
    ap.add_argument("--out", required=True)
    ap.add_argument("--steps", type=int, default=12000)
    ap.add_argument("--minutes", type=float, default=30, help="stop earlier after this time")
    ap.add_argument("--every", type=float, default=5, help="minutes between two exports")
    args = ap.parse_args()
    torch.manual_seed(1)
    rng = random.Random(1)
    texts = [p for b in args.books for p in passages(read_book(b), rng)]
    tok = make_tokenizer(texts)
    rng.shuffle(texts)
    cut = len(texts) // 20
    data, held = encode(tok, texts[cut:], rng), encode(tok, texts[:cut], rng)
    model = Model()
    print(f"{sum(p.numel() for p in model.parameters())} parameters, "
          f"{sum(map(len, texts))} characters, {len(data)} + {len(held)} tokens", flush=True)
    train(model, tok, data, held, args)


if __name__ == "__main__":
    main()
