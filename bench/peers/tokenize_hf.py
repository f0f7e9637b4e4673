"""The opponent in tokenizing: Hugging Face `tokenizers` from Python, all cores, the same text and tokenizer.json.

`encode_batch_fast` (no offsets) over batches of pieces cut at line ends; single lines and pieces of 64 KB are both
tried and the faster one counts. With `--train N` it first makes the tokenizer.json, a byte-level BPE of N tokens.

Prints one JSON line: mb_per_s (10^6 bytes of UTF-8), tokens, pieces, versions.
"""

import argparse
import json
import os
import pathlib
import platform
import time

os.environ["TOKENIZERS_PARALLELISM"] = "true"

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PIECE, BATCH = 1 << 16, 1 << 22

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--input", required=True, type=pathlib.Path, help="a text file")
parser.add_argument("--tokenizer", required=True, type=pathlib.Path, help="tokenizer.json")
parser.add_argument("--train", type=int, metavar="N", help="make the tokenizer first, with N tokens, and stop")
options = parser.parse_args()


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=options.train, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    with options.input.open(encoding="utf-8", newline="") as text:
        tokenizer.train_from_iterator((text.read(PIECE) for _ in range(256)), trainer)
    tokenizer.save(str(options.tokenizer))


def pieces(lines, size):
    """Consecutive lines joined to pieces of at least `size` characters."""
    joined, length = [], 0
    for line in lines:
        joined.append(line)
        length += len(line)
        if length >= size:
            yield "".join(joined)
            joined, length = [], 0
    if joined:
        yield "".join(joined)


def batches(text, size):
    batch, length = [], 0
    for piece in pieces(text.splitlines(keepends=True), size):
        batch.append(piece)
        length += len(piece)
        if length >= BATCH:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def measure(tokenizer, text, size):
    prepared = list(batches(text, size))
    begin = time.perf_counter()
    tokens = sum(len(encoding.ids) for batch in prepared for encoding in tokenizer.encode_batch_fast(batch))
    return time.perf_counter() - begin, tokens


def main():
    if options.train:
        return train()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    content = options.input.read_bytes()
    text = content.decode()
    measured = {name: measure(tokenizer, text, size) for name, size in (("lines", 1), ("64 KB", PIECE))}
    best = min(measured, key=lambda name: measured[name][0])
    seconds, tokens = measured[best]
    print(
        json.dumps(
            dict(
                peer="Hugging Face tokenizers",
                variant=f"encode_batch_fast of {best}",
                mb_per_s=len(content) / 1e6 / seconds,
                tokens=tokens,
                seconds={name: value for name, (value, _) in measured.items()},
                versions=dict(tokenizers=tokenizers.__version__, python=platform.python_version()),
            )
        )
    )


if __name__ == "__main__":
    main()
