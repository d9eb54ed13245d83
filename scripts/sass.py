#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What compiled kernels are made of: registers, memory and instructions of every kernel of an
object, for each architecture in it. Shared by scripts/sass-gate and scripts/gpu-model.

    scripts/sass.py OBJECT...    print the machine code for sm_90, names in clear

The objects come from nvcc; cuobjdump takes them apart and nvdisasm reads the pieces. A summary is
kept beside the object's hash, so that an object that did not change costs nothing."""

import concurrent.futures
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.environ.get("WEFT_CUDA_TOOLS") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "weft", "cuda-tools")

# What an SM has (CUDA C++ Programming Guide, technical specifications per compute capability).
# shared: of an SM, of which a block's system part takes 1 KiB; block: the most of one block.
ARCHS = {
    80: {"threads": 2048, "blocks": 32, "shared": 164 << 10, "block": 163 << 10},
    86: {"threads": 1536, "blocks": 16, "shared": 100 << 10, "block": 99 << 10},
    89: {"threads": 1536, "blocks": 24, "shared": 100 << 10, "block": 99 << 10},
    90: {"threads": 2048, "blocks": 32, "shared": 228 << 10, "block": 227 << 10},
}
REGISTERS, SYSTEM_SHARED = 65536, 1 << 10


class Missing(Exception):
    pass


def tool(name):
    places = [shutil.which(name) or "", os.path.join(os.environ.get("CUDA_HOME", ""), "bin", name),
              "/usr/local/cuda/bin/" + name]
    places += sorted(glob.glob(os.path.join(TOOLS, "nvidia", "cu*", "bin", name)))
    for p in places:
        if p and os.access(p, os.X_OK):
            return p
    raise Missing(f"no {name}: scripts/setup --cuda-tools installs it")


def output(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode:
        raise Missing(f"{os.path.basename(command[0])}: {done.stderr.strip() or 'failed'}")
    return done.stdout


def short_name(demangled):
    """`void weft_cuda::norm_k<weft_cuda::f16, 8>(args)` as `norm_k<f16,8>`."""
    depth, end = 0, len(demangled)
    for i in range(len(demangled) - 1, -1, -1):  # the last top-level parenthesis opens arguments
        depth += (demangled[i] == ")") - (demangled[i] == "(")
        if depth == 0 and demangled[i] == "(":
            end = i
            break
    name = re.sub(r"^void ", "", demangled[:end])
    return re.sub(r"\(\w+\)|\w+::|\s", "", name)


def names_of(mangled):
    lines = output("c++filt", input="\n".join(mangled) + "\n").split("\n")
    return {m: short_name(d) for m, d in zip(mangled, lines)}


# ---- one cubin ----------------------------------------------------------------------------------

USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
LINE = re.compile(r"\s*/\*([0-9a-f]+)\*/\s+(?:\{\s*)?(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
LABEL = re.compile(r"(\.L_x_\d+):")


def instructions(text):
    """{function: [(address, predicate, opcode, operands)]} of nvdisasm's listing, with branches'
    labels as addresses."""
    out, labels, here, waiting = {}, {}, None, []
    for line in text.split("\n"):
        if line.startswith(".text."):
            here = out.setdefault(line[6:].rstrip(":"), [])
        elif m := LABEL.match(line):
            waiting.append(m.group(1))
        elif here is not None and (m := LINE.match(line)):
            at = int(m.group(1), 16)
            for name in waiting:
                labels[name] = at
            waiting = []
            here.append((at, m.group(2) or "", m.group(3), m.group(4)))
    for name, code in out.items():
        out[name] = [(a, p, op, re.sub(r"`\((\.L_x_\d+)\)",
                                       lambda m: hex(labels.get(m.group(1), 1 << 30)), rest))
                     for a, p, op, rest in code]
    return out


def histogram(code):
    out = {}
    for _, _, op, _ in code:
        out[op] = out.get(op, 0) + 1
    return out


def loops(code):
    """[(first, last, histogram)] of each backward branch's span, by head."""
    spans = {}
    for at, _, op, rest in code:
        if op.startswith("BRA") and (m := re.search(r"0x([0-9a-f]+)\s*$", rest)):
            to = int(m.group(1), 16)
            if to <= at and not (to == at):  # a branch to itself ends every kernel
                spans[to] = max(at, spans.get(to, 0))
    return [(a, b, histogram([i for i in code if a <= i[0] <= b])) for a, b in
            sorted(spans.items())]


WIDTH = re.compile(r"\.(128|64|U8|S8|U16|S16)\b")


def bytes_of(op):
    m = WIDTH.search(op)
    return {"128": 16, "64": 8, "8": 1, "16": 2}[m.group(1).lstrip("US")] if m else 4


def in_flight(code):
    """Most bytes that a thread's global loads have on the way at once: issued, and no register of
    theirs read yet. Branches end nothing: a path not taken counts as taken."""
    most, pending = 0, {}
    for _, _, op, rest in code:
        operands = rest.split(",")
        read = ",".join(operands[1:]) if not op.startswith(("ST", "RED")) else rest
        for r in re.findall(r"\bR(\d+)\b", read):
            pending.pop(int(r), None)
        if op.startswith("BAR"):
            pending = {}
        if re.match(r"LDG?\.E|LD\.", op) and (m := re.match(r"\s*R(\d+)", operands[0])):
            n = bytes_of(op)
            for i in range(max(1, n // 4)):
                pending[int(m.group(1)) + i] = min(4, n)
            most = max(most, sum(pending.values()))
    return most


DESCRIPTOR = re.compile(r"\bdesc\[UR(\d*[13579])\]")


def odd_descriptors(code):
    """Accesses whose descriptor, a pair of uniform registers, begins at an odd one: the hardware
    knows no such instruction, and nothing but a compiler's mistake writes it."""
    return sum(bool(DESCRIPTOR.search(rest)) for _, _, _, rest in code)


def summary_of(cubin, usage):
    text = output(tool("nvdisasm"), "-c", cubin)
    code = instructions(text)
    names = names_of(sorted(code))
    out = {}
    for mangled, body in code.items():
        if mangled not in usage:
            continue
        regs, stack, shared, local = usage[mangled]
        out[names[mangled]] = {
            "registers": regs, "stack": stack, "shared": shared, "local": local,
            "instructions": len(body), "ops": histogram(body),
            "loops": loops(body), "in_flight": in_flight(body),
            "odd_descriptors": odd_descriptors(body)}
    return out


def usage_by_arch(obj):
    out, arch = {}, None
    for part in re.split(r"^arch = sm_(\d+)a?\s*$",
                         output(tool("cuobjdump"), "--dump-resource-usage", obj), flags=re.M):
        if part.isdigit():
            arch = int(part)
        elif arch:
            out.setdefault(arch, {}).update(
                {m[0]: tuple(map(int, m[1:])) for m in USAGE.findall(part)})
    return out


# ---- one object ---------------------------------------------------------------------------------

def own_hash():
    with open(os.path.abspath(__file__), "rb") as f:
        return f.read()


def summary(obj, cache=None):
    """{arch: {kernel: {...}}} of an object."""
    with open(obj, "rb") as f:
        key = hashlib.sha256(own_hash() + f.read()).hexdigest()[:24]
    kept = os.path.join(cache, f"{os.path.basename(obj)}.{key}.json") if cache else None
    if kept and os.path.exists(kept):
        with open(kept, encoding="utf-8") as f:
            return {int(a): k for a, k in json.load(f).items()}
    usage, out = usage_by_arch(obj), {}
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([tool("cuobjdump"), "-xelf", "all", os.path.abspath(obj)], cwd=place,
                       check=True, stdout=subprocess.DEVNULL)
        for cubin in sorted(os.listdir(place)):
            m = re.search(r"sm_(\d+)a?\.cubin$", cubin)
            if m:
                arch = int(m.group(1))
                out.setdefault(arch, {}).update(
                    summary_of(os.path.join(place, cubin), usage.get(arch, {})))
    if kept:
        os.makedirs(cache, exist_ok=True)
        for old in glob.glob(os.path.join(cache, os.path.basename(obj) + ".*.json")):
            os.unlink(old)
        with open(kept, "w", encoding="utf-8") as f:
            json.dump(out, f)
    return out


def summaries(objects, cache=None):
    """Of all of them, by object; two at a time, because the tools are the work."""
    tool("cuobjdump"), tool("nvdisasm")
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return dict(zip(objects, pool.map(lambda o: summary(o, cache), objects)))


def blocks_of_sm(arch, threads, registers, shared):
    """Blocks an SM holds at once, and what ends it: registers go to warps in units of 256, four
    warps at a time; a block's shared memory has 1 KiB of the system's beside it."""
    sm, warps = ARCHS[arch], (threads + 31) // 32
    a_warp = (registers * 32 + 255) // 256 * 256
    limits = {"threads": sm["threads"] // (warps * 32),
              "registers": REGISTERS // a_warp // 4 * 4 // warps,
              "shared memory": sm["shared"] // (shared + SYSTEM_SHARED),
              "blocks": sm["blocks"]}
    if shared > sm["block"]:
        limits["shared memory"] = 0
    why = min(limits, key=limits.get)
    return limits[why], why


def print_code(obj, arch=90):
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([tool("cuobjdump"), "-xelf", f"sm_{arch}", os.path.abspath(obj)], cwd=place,
                       check=True, stdout=subprocess.DEVNULL)
        for cubin in sorted(os.listdir(place)):
            text = output(tool("nvdisasm"), "-c", os.path.join(place, cubin))
            print(output("c++filt", input=text))


if __name__ == "__main__":
    try:
        for each in sys.argv[1:]:
            print_code(each)
    except Missing as e:
        sys.exit(f"sass: error: {e}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
