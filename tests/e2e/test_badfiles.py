# SPDX-License-Identifier: Apache-2.0
"""Bad files and bad arguments, one row each, through the command line: the exit code, one line on
stderr that names the file or the key, nothing on stdout, no signal and no hang. The small model
they start from is made here."""

import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEFT = os.path.join(os.environ.get("WEFT_BUILD", os.path.join(ROOT, "build")), "weft")
DEMO = os.path.join(ROOT, "bench", "models", "demo")
USAGE, BAD_FILE, IO = 2, 3, 5
CONFIG = {
    "model_type": "llama",
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
SHAPES = {"model.embed_tokens": [24, 16], "model.norm": [16], "lm_head": [24, 16]}
LAYER = {
    "input_layernorm": [16],
    "self_attn.q_proj": [16, 16],
    "self_attn.k_proj": [8, 16],
    "self_attn.v_proj": [8, 16],
    "self_attn.o_proj": [16, 16],
    "post_attention_layernorm": [16],
    "mlp.gate_proj": [32, 16],
    "mlp.up_proj": [32, 16],
    "mlp.down_proj": [16, 32],
}


def count(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def tensors():
    """{name: (shape, bytes)} of the good model."""
    rng = random.Random(1)
    shapes = {f"{k}.weight": s for k, s in SHAPES.items()}
    for layer in range(2):
        shapes.update({f"model.layers.{layer}.{k}.weight": s for k, s in LAYER.items()})
    return {
        name: (s, struct.pack(f"<{count(s)}f", *(rng.gauss(0, 0.3) for _ in range(count(s)))))
        for name, s in shapes.items()
    }


def image(parts, dtype="F32"):
    """A safetensors file; parts is {name: (shape, bytes)}."""
    header, data = {}, b""
    for name, (shape, raw) in parts.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return framed(json.dumps(header).encode(), data)


def framed(header, data=b"", length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def write(folder, name, data):
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else json.dumps(data).encode())


def model(folder):
    write(folder, "config.json", CONFIG)
    write(folder, "model.safetensors", image(tensors()))
    return folder


# ---- Changes to the model; each row is (what, change, exit code, what the message says) ----------


def config(**keys):
    return lambda d: write(d, "config.json", {**CONFIG, **keys})


def without(*keys):
    return lambda d: write(d, "config.json", {k: v for k, v in CONFIG.items() if k not in keys})


def config_text(text):
    return lambda d: write(d, "config.json", text)


def generation(text):
    return lambda d: write(d, "generation_config.json", text)


def raw_weights(data):
    return lambda d: write(d, "model.safetensors", data)


def weights(change):
    """Changes {name: (shape, bytes)} before it is written."""

    def apply(d):
        parts = tensors()
        change(parts)
        write(d, "model.safetensors", image(parts))

    return apply


def header(change):
    """Changes the parsed header of the good file."""

    def apply(d):
        good = image(tensors())
        (n,) = struct.unpack_from("<Q", good)
        parsed = json.loads(good[8 : 8 + n])
        change(parsed)
        write(d, "model.safetensors", framed(json.dumps(parsed).encode(), good[8 + n :]))

    return apply


def field(key, value, name="model.norm.weight"):
    return header(lambda h: h[name].__setitem__(key, value))


def sharded(weight_map, shards=("a.safetensors", "b.safetensors"), link=None):
    """Two shards and an index: weight_map is its bytes, or a change to the good map."""

    def apply(d):
        os.remove(os.path.join(d, "model.safetensors"))
        parts = list(tensors().items())
        halves = (dict(parts[:8]), dict(parts[8:]))
        for name, half in zip(shards, halves):
            write(d, name, image(half))
        good = {n: shards[i] for i, half in enumerate(halves) for n in half}
        if link:
            link(d)
        write(
            d,
            "model.safetensors.index.json",
            (
                weight_map
                if isinstance(weight_map, bytes)
                else {"metadata": {}, "weight_map": weight_map(good)}
            ),
        )

    return apply


def link_out(d):
    os.rename(os.path.join(d, "b.safetensors"), d + "-outside")
    os.symlink(d + "-outside", os.path.join(d, "b.safetensors"))


def replaced(name, how):
    def apply(d):
        path = os.path.join(d, name)
        os.remove(path)
        how(path)

    return apply


def sparse(d):
    with open(os.path.join(d, "model.safetensors"), "wb") as f:
        f.truncate(1 << 40)


Q = "model.layers.1.self_attn.q_proj.weight"
FILES = [
    # config.json
    (
        "no config",
        lambda d: os.remove(os.path.join(d, "config.json")),
        BAD_FILE,
        "config.json: no such file",
    ),
    ("config is a folder", replaced("config.json", os.mkdir), BAD_FILE, "config.json: is a folder"),
    ("config is a pipe", replaced("config.json", os.mkfifo), BAD_FILE, "config.json: is a pipe"),
    (
        "config is a loop",
        replaced("config.json", lambda p: os.symlink("config.json", p)),
        BAD_FILE,
        "config.json",
    ),
    (
        "config is a device",
        replaced("config.json", lambda p: os.symlink("/dev/zero", p)),
        BAD_FILE,
        "config.json: is a device",
    ),
    ("empty config", config_text(b""), BAD_FILE, "config.json:1:1"),
    ("config of one brace", config_text(b"{"), BAD_FILE, "config.json:1:"),
    ("config is an array", config_text(b"[]"), BAD_FILE, "config.json:1:1"),
    ("config not UTF-8", config_text(b'{"model_type": "ll\xe9ma"}'), BAD_FILE, "UTF-8"),
    ("config with a BOM", config_text(b"\xef\xbb\xbf{}"), BAD_FILE, "byte order mark"),
    ("config with a NUL", config_text(b'{"model_type": "llama"}\0'), BAD_FILE, "config.json:1:"),
    (
        "duplicate key",
        config_text(b'{"model_type": "llama", "vocab_size": 1, "vocab_size": 24}'),
        BAD_FILE,
        'duplicate key "vocab_size"',
    ),
    (
        "a million brackets",
        config_text(b'{"model_type": "llama", "x": ' + b"[" * 10**6),
        BAD_FILE,
        "nested too deeply",
    ),
    (
        "garbage behind the config",
        config_text(json.dumps(CONFIG).encode() + b" x"),
        BAD_FILE,
        "config.json:1:",
    ),
    ("no model_type", without("model_type"), BAD_FILE, "model_type is missing"),
    ("model_type is a number", config(model_type=7), BAD_FILE, "model_type"),
    ("unknown family", config(model_type="zebra"), USAGE, "llama, mistral, qwen2, qwen3, gpt2"),
    (
        "a classifier",
        config(architectures=["LlamaForSequenceClassification"]),
        USAGE,
        "architectures",
    ),
    ("quantised", config(quantization_config={"quant_method": "gptq"}), USAGE, "gptq"),
    ("no heads", config(num_attention_heads=0), BAD_FILE, "num_attention_heads"),
    ("negative heads", config(num_attention_heads=-2), BAD_FILE, "num_attention_heads"),
    ("fractional heads", config(num_attention_heads=2.0), BAD_FILE, "num_attention_heads"),
    ("heads as text", config(num_attention_heads="2"), BAD_FILE, "num_attention_heads"),
    (
        "kv heads do not divide",
        config(num_attention_heads=3, num_key_value_heads=2),
        BAD_FILE,
        "num_key_value_heads",
    ),
    ("2^31 layers", config(num_hidden_layers=2**31), BAD_FILE, "num_hidden_layers"),
    ("2^64 layers", config(num_hidden_layers=2**64), BAD_FILE, "num_hidden_layers"),
    ("too wide", config(hidden_size=2**40), BAD_FILE, "hidden_size"),
    ("odd head_dim", config(head_dim=7), BAD_FILE, "7 features"),
    ("wide heads", config(head_dim=4096), USAGE, "4096 features"),
    ("theta NaN", config(rope_theta=float("nan")), BAD_FILE, "config.json:1:"),
    ("theta 0", config(rope_theta=0), BAD_FILE, "rope_theta"),
    (
        "theta 1e999",
        config_text(json.dumps(CONFIG).replace("}", ', "rope_theta": 1e999}').encode()),
        BAD_FILE,
        "rope_theta",
    ),
    (
        "unknown rope",
        config(rope_scaling={"rope_type": "spiral", "factor": 2.0}),
        USAGE,
        '"spiral"',
    ),
    ("rope without factor", config(rope_scaling={"type": "linear"}), BAD_FILE, '"factor"'),
    ("rope as a list", config(rope_scaling=[1]), BAD_FILE, "rope_scaling"),
    ("eps below 0", config(rms_norm_eps=-1), BAD_FILE, "rms_norm_eps"),
    ("unknown activation", config(hidden_act="swoosh"), USAGE, "swoosh"),
    ("eos outside the vocabulary", config(eos_token_id=24), BAD_FILE, "eos_token_id"),
    ("bos outside the vocabulary", config(bos_token_id=1 << 30), BAD_FILE, "bos_token_id"),
    (
        "bad generation_config",
        generation(b'{"temperature": "hot"}'),
        BAD_FILE,
        "generation_config.json:1:",
    ),
    (
        "cut generation_config",
        generation(b'{"temperature": 1'),
        BAD_FILE,
        "generation_config.json:1:",
    ),
    # config against weights
    ("one layer more", config(num_hidden_layers=3), BAD_FILE, "model.layers.2"),
    ("ten thousand layers", config(num_hidden_layers=10000), BAD_FILE, "model.layers.2"),
    (
        "vocabulary too large",
        config(vocab_size=25),
        BAD_FILE,
        "[24, 16]; config.json says [25, 16]",
    ),
    ("vocabulary too small", config(vocab_size=23), BAD_FILE, "embed_tokens"),
    ("width differs", config(hidden_size=32), BAD_FILE, "shape"),
    ("d_ff differs", config(intermediate_size=64), BAD_FILE, "gate_proj"),
    ("kv heads differ", config(num_key_value_heads=2), BAD_FILE, "k_proj"),
    ("biases that are not there", config(attention_bias=True), BAD_FILE, "q_proj.bias"),
    ("another family's names", config(model_type="gpt2"), BAD_FILE, "is missing"),
    # model.safetensors
    (
        "no weights",
        lambda d: os.remove(os.path.join(d, "model.safetensors")),
        BAD_FILE,
        "no model.safetensors",
    ),
    ("weights are a folder", replaced("model.safetensors", os.mkdir), BAD_FILE, "is a folder"),
    ("weights are a pipe", replaced("model.safetensors", os.mkfifo), BAD_FILE, "is a pipe"),
    ("empty weights", raw_weights(b""), BAD_FILE, "too short"),
    ("seven bytes", raw_weights(b"\1\0\0\0\0\0\0"), BAD_FILE, "too short"),
    ("header length 0", raw_weights(bytes(64)), BAD_FILE, "no JSON object"),
    ("header length 2^64-1", raw_weights(b"\xff" * 64), BAD_FILE, "limit 100000000"),
    ("header longer than the file", raw_weights(framed(b"{}", length=3)), BAD_FILE, "cut short"),
    ("a terabyte of nothing", sparse, BAD_FILE, "no JSON object"),
    (
        "not safetensors",
        raw_weights(b"GGUF\3\0\0\0" + bytes(100)),
        BAD_FILE,
        "is it a safetensors file",
    ),
    ("header not UTF-8", raw_weights(framed(b'{"\xff":{}}')), BAD_FILE, "UTF-8"),
    (
        "header nested",
        raw_weights(framed(b'{"a":' + b"[" * 10**5)),
        BAD_FILE,
        "model.safetensors:1:",
    ),
    (
        "tensor twice",
        raw_weights(
            framed(
                b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
                b"x",
            )
        ),
        BAD_FILE,
        'duplicate key "a"',
    ),
    (
        "metadata of numbers",
        header(lambda h: h.__setitem__("__metadata__", {"a": 1})),
        BAD_FILE,
        "model.safetensors:1:",
    ),
    (
        "name of a megabyte",
        header(lambda h: h.__setitem__("x" * 10**6, h.pop(Q))),
        BAD_FILE,
        "1000000 bytes",
    ),
    ("tensor gone", weights(lambda p: p.pop(Q)), BAD_FILE, Q),
    (
        "tensor transposed",
        weights(
            lambda p: p.__setitem__(
                "model.layers.0.mlp.down_proj.weight",
                ([32, 16], p["model.layers.0.mlp.down_proj.weight"][1]),
            )
        ),
        BAD_FILE,
        "down_proj",
    ),
    ("flat tensor", weights(lambda p: p.__setitem__(Q, ([256], p[Q][1]))), BAD_FILE, "[256]"),
    ("double precision", field("dtype", "F64"), BAD_FILE, "model.norm.weight"),
    ("integers", field("dtype", "I32"), USAGE, "stored as I32"),
    ("unknown type", field("dtype", "F33"), BAD_FILE, '"F33"'),
    ("negative shape", field("shape", [-16]), BAD_FILE, "-16"),
    ("shape as text", field("shape", ["16"]), BAD_FILE, "a string where a number should be"),
    ("fractional shape", field("shape", [16.0]), BAD_FILE, "16.0"),
    ("shape overflows", field("shape", [2**62, 2**62]), BAD_FILE, "overflows"),
    ("shape 2^63", field("shape", [2**63]), BAD_FILE, "out of range"),
    ("nine dimensions", field("shape", [1] * 8 + [16]), BAD_FILE, "8 dimensions"),
    ("shape and bytes differ", field("shape", [15]), BAD_FILE, "60 bytes"),
    ("offsets past the end", field("data_offsets", [0, 10**9]), BAD_FILE, "data_offsets"),
    (
        "offsets overlap",
        header(lambda h: h[Q].__setitem__("data_offsets", [0, 1024])),
        BAD_FILE,
        "overlap",
    ),
    ("offsets backwards", field("data_offsets", [64, 0]), BAD_FILE, "data_offsets"),
    ("three offsets", field("data_offsets", [0, 32, 64]), BAD_FILE, "two numbers"),
    ("extra key", field("secret", 1), BAD_FILE, '"secret"'),
    ("key missing", header(lambda h: h[Q].pop("shape")), BAD_FILE, "are needed"),
    (
        "bytes behind the data",
        lambda d: write(d, "model.safetensors", image(tensors()) + b"PK\3\4"),
        BAD_FILE,
        "4 bytes behind",
    ),
    (
        "last byte gone",
        lambda d: write(d, "model.safetensors", image(tensors())[:-1]),
        BAD_FILE,
        "data_offsets",
    ),
    # shards
    (
        "shard gone",
        sharded(lambda m: {**m, Q: "c.safetensors"}),
        BAD_FILE,
        "c.safetensors: no such file",
    ),
    (
        "shard above the folder",
        sharded(lambda m: {**m, Q: "../b.safetensors"}),
        BAD_FILE,
        "../b.safetensors",
    ),
    ("shard by absolute path", sharded(lambda m: {**m, Q: "/etc/passwd"}), BAD_FILE, "/etc/passwd"),
    (
        "shard in a subfolder",
        sharded(lambda m: {**m, Q: "x/b.safetensors"}),
        BAD_FILE,
        "x/b.safetensors",
    ),
    ("shard with a NUL", sharded(lambda m: {**m, Q: "b.safetensors\0"}), BAD_FILE, "index.json"),
    ("shard links out", sharded(lambda m: m, link=link_out), BAD_FILE, "links out"),
    ("tensor in the other shard", sharded(lambda m: {**m, Q: "a.safetensors"}), BAD_FILE, Q),
    (
        "tensor in both shards",
        sharded(
            lambda m: m,
            link=lambda d: shutil.copy(
                os.path.join(d, "a.safetensors"), os.path.join(d, "b.safetensors")
            ),
        ),
        BAD_FILE,
        "two shards",
    ),
    ("tensor in no shard", sharded(lambda m: {**m, "ghost": "a.safetensors"}), BAD_FILE, '"ghost"'),
    ("index empty", sharded(b""), BAD_FILE, "index.json:1:1"),
    ("index without a map", sharded(b"{}"), BAD_FILE, "weight_map"),
    ("index map is a list", sharded(b'{"weight_map": []}'), BAD_FILE, "weight_map"),
    ("index value is a number", sharded(b'{"weight_map": {"a": 1}}'), BAD_FILE, "index.json:1:"),
]

# ---- Arguments: (arguments behind the good model, exit code, what the message says) -------------
GOOD = ["--ids", "1,2,3", "-n", "2", "--temp", "0"]
ARGUMENTS = [
    (["run", "--ids", "1,,2"], USAGE, "--ids"),
    (["run", "--ids", ""], USAGE, "ids"),
    (["run", "--ids", "1,2x"], USAGE, "--ids"),
    (["run", "--ids", "-1"], USAGE, "--ids"),
    (["run", "--ids", "24"], USAGE, "24"),
    (["run", "--ids", "99999999999999999999"], USAGE, "--ids"),
    (["run", "--ids", ",".join(["1"] * 33), "-n", "1"], USAGE, "context"),
    (["run", "-p", "text", "-n", "1"], USAGE, "tokenizer"),
    (["run", "--ids", "1", "-n", "many"], USAGE, "many"),
    (["run", "--ids", "1", "-n", "-2"], USAGE, "-2"),
    (["run", "--ids", "1", "--temp", "nan"], USAGE, "temp"),
    (["run", "--ids", "1", "--temp", "-0.5"], USAGE, "temp"),
    (["run", "--ids", "1", "--top-p", "2"], USAGE, "top-p"),
    (["run", "--ids", "1", "--top-k", "1e3"], USAGE, "top-k"),
    (["run", "--ids", "1", "--nonsense"], USAGE, "--nonsense"),
    (["run", "--ids", "1", "--device", "tpu"], USAGE, "tpu"),
    (["run", "--ids", "1", "--dtype", "fp7"], USAGE, "fp7"),
    (["run", "--ids", "1", "--cpu-level", "mmx"], USAGE, "mmx"),
    (["run", "--ids", "1", "--tp", "3"], USAGE, "--tp"),
    (["run", "--ids", "1", "--tp", "0"], USAGE, "tp"),
    (["run", "--ids", "1", "--threads", "-1"], USAGE, "threads"),
    (["run", "--ids", "1", "-c"], USAGE, "-c"),
    (["run", "--ids", "1", "-c", "64"], USAGE, "ctx"),
    (["run", "--ids", "1", "extra"], USAGE, "extra"),
    (["run", "--ids", "1", "--ids", "2"], USAGE, "--ids"),
    (["run", "--ids", "1", "--logit-bias", "x"], USAGE, "logit-bias"),
    (["run", "--ids", "1", "--stop-id", "1.5"], USAGE, "stop-id"),
    (["score"], USAGE, "prompt"),
    (["score", "--ids", "1,2", "--logits", "/nowhere/f"], IO, "/nowhere/f"),
    (["score", "--ids", "1,2", "--logits", "/dev/full"], IO, "/dev/full"),
    (["score", "--ids", "1,2", "--logits", "/dev"], IO, "/dev"),
    (["tokenize", "text"], BAD_FILE, "tokenizer"),
    (["plan", "--tp", "5"], USAGE, "--tp"),
    (["inspect", "--what"], USAGE, "--what"),
    (["frobnicate"], USAGE, "frobnicate"),
]


class Bad(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)

    def folder(self, name="model"):
        path = os.path.join(self.root, name)
        os.mkdir(path)
        return model(path)

    def expect(self, argv, code, says, **kwargs):
        r = subprocess.run(
            [WEFT, *argv], capture_output=True, timeout=60, stdin=subprocess.DEVNULL, **kwargs
        )
        err = r.stderr.decode()
        self.assertEqual(r.returncode, code, err[:2000])
        self.assertTrue(err.startswith("weft: error: "), err[:2000])
        self.assertEqual(err.count("\n"), 1, err[:2000])
        self.assertTrue(err.endswith("\n") and len(err) < 1200)
        self.assertIn(says, err)
        self.assertEqual(r.stdout, b"")

    def test_the_good_model_runs(self):
        d = self.folder()
        for change in (None, sharded(lambda m: m)):
            if change:
                change(d)
            out = subprocess.run(
                [WEFT, "run", d, *GOOD, "--print-ids"], capture_output=True, timeout=60
            )
            self.assertEqual((out.returncode, out.stderr), (0, b""))
            self.assertRegex(out.stdout, rb"\A\d+,\d+\n\Z")

    def test_files(self):
        self.assertGreaterEqual(len(FILES) + len(ARGUMENTS), 60)
        for i, (what, change, code, says) in enumerate(FILES):
            with self.subTest(what):
                d = self.folder(str(i))
                change(d)
                self.expect(["run", d, *GOOD], code, says)

    def test_inspect_of_the_same_files(self):
        """What only the weights disagree with is not inspect's business; all else is."""
        for i, (what, change, _, _) in enumerate(FILES):
            with self.subTest(what):
                d = self.folder(str(i))
                change(d)
                r = subprocess.run(
                    [WEFT, "inspect", d], capture_output=True, timeout=60, stdin=subprocess.DEVNULL
                )
                self.assertIn(r.returncode, (0, USAGE, BAD_FILE), r.stderr[:2000])
                self.assertEqual(r.stderr.count(b"\n"), r.returncode != 0)

    def test_arguments(self):
        d = self.folder()
        for argv, code, says in ARGUMENTS:
            with self.subTest(" ".join(argv)[:60]):
                self.expect([argv[0], d, *argv[1:]], code, says)

    def test_model_that_is_none(self):
        for name, says in (
            ("meta-llama/Llama-3.2-1B", "huggingface-cli download meta-llama/Llama-3.2-1B"),
            ("/nowhere", "/nowhere: no such folder"),
            ("/dev/null", "is not a folder"),
            ("x" * 5000, ""),
        ):
            with self.subTest(name[:40]):
                self.expect(["run", name, *GOOD], BAD_FILE, says)
        self.expect(["run"], USAGE, "MODEL")
        self.expect(["run", ""], USAGE, "MODEL")

    def test_every_cut_of_the_files(self):
        d = self.folder()
        for name, step in (("config.json", 5), ("model.safetensors", 997)):
            path = os.path.join(d, name)
            with open(path, "rb") as f:
                good = f.read()
            for n in [*range(0, len(good), step), len(good) - 1]:
                with self.subTest(file=name, bytes=n):
                    write(d, name, good[:n])
                    self.expect(["run", d, *GOOD], BAD_FILE, name)
            write(d, name, good)

    def test_flipped_header_bits(self):
        d, rng = self.folder(), random.Random(2)
        good = image(tensors())
        (n,) = struct.unpack_from("<Q", good)
        for _ in range(60):
            bad = bytearray(good)
            bad[rng.randrange(8 + n)] ^= 1 << rng.randrange(8)
            write(d, "model.safetensors", bytes(bad))
            r = subprocess.run([WEFT, "run", d, *GOOD], capture_output=True, timeout=60)
            self.assertIn(r.returncode, (0, USAGE, BAD_FILE), r.stderr[:2000])

    def test_prompts(self):
        for argv, code, says in (
            (["-p", b"caf\xe9"], BAD_FILE, "UTF-8"),
            (["-p", b"\xed\xa0\x80"], BAD_FILE, "UTF-8"),
            (["-f", b"/nowhere/p"], BAD_FILE, "/nowhere/p"),
            (["-f", b"/dev/zero"], BAD_FILE, "/dev/zero"),
            (["-f", b"/"], BAD_FILE, "folder"),
            (["-p", b"a", "-f", b"b"], USAGE, ""),
            (["-p", b"word " * 2000], USAGE, "context"),
            (["-p", b"a", "-c", "1"], USAGE, "context"),
        ):
            with self.subTest(str(argv)[:60]):
                self.expect(["run", DEMO, *argv, "-n", "1"], code, says)

    def test_output_that_cannot_be_written(self):
        d = self.folder()
        with open("/dev/full", "wb") as full:
            r = subprocess.run(
                [WEFT, "run", d, *GOOD, "--print-ids"],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
            )
        self.assertEqual((r.returncode, r.stderr.count(b"\n")), (IO, 1))
        for argv in (
            ["run", d, *GOOD, "--print-ids"],
            ["inspect", d],
            ["score", d, "--ids", "1,2"],
        ):
            with self.subTest(argv[0]):
                r = subprocess.run(
                    ["sh", "-c", '"$@" >&-', "sh", WEFT, *argv], stderr=subprocess.PIPE, timeout=60
                )
                self.assertEqual(r.returncode, IO, r.stderr[:2000])
                self.assertEqual(r.stderr.count(b"\n"), 1)

    def test_nothing_is_left_behind(self):
        d = self.folder()
        target = os.path.join(self.root, "out")
        os.mkdir(target)
        self.expect(["score", d, "--ids", "1,2", "--logits", target], IO, "is a folder")
        self.assertEqual(os.listdir(self.root).count("out"), 1)
        self.assertEqual(sorted(os.listdir(self.root)), ["model", "out"])
        self.assertEqual(os.listdir(target), [])


if __name__ == "__main__":
    unittest.main()
