#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Books to passages, for training the demo model.

    demo_text.py OUT BOOK.txt [BOOK.txt ...]

Writes OUT/train.jsonl, a {"text": ...} a passage, and OUT/heldout.txt, one passage in twenty that
no training sees. The same books give the same files.
"""

import json
import os
import random
import re
import sys

PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "_": "", "\ufeff": ""})
LENGTHS = (400, 1200, 3600)  # characters of a passage


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
    out, now, want = [], [], rng.choice(LENGTHS)
    for p in paragraphs:
        now.append(p)
        if sum(map(len, now)) >= want:
            out.append("\n\n".join(now))
            now, want = [], rng.choice(LENGTHS)
    return out + (["\n\n".join(now)] if now else [])


def main():
    out, *books = sys.argv[1:]
    rng = random.Random(1)
    texts = [p for b in books for p in passages(read_book(b), rng)]
    rng.shuffle(texts)
    cut = len(texts) // 20
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "train.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts[cut:])
    with open(os.path.join(out, "heldout.txt"), "w", encoding="utf-8") as f:
        f.write("\n\n".join(texts[:cut]) + "\n")
    size = sum(len(t.encode()) for t in texts)
    print(f"{len(texts)} passages, {size} bytes; {cut} passages are held out")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main()
