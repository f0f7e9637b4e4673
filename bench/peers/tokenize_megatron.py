"""The opponent in tokenizing to token files: Megatron's way from Python, a pool of worker processes that each take one document,
parse its JSON and encode it with Hugging Face `tokenizers`, and one process that writes `.bin` and `.idx`.

Prints one JSON line: mb_per_s (10^6 bytes of UTF-8 text), documents, tokens, versions. `--out` keeps the pair.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import resource
import struct
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
from tokenizers import Tokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--input", required=True, help="JSON lines")
parser.add_argument("--tokenizer", required=True, help="tokenizer.json")
parser.add_argument("--end", default="<|endoftext|>")
parser.add_argument("--workers", type=int, default=1)
parser.add_argument("--out", help="prefix of the pair")


def start(path, end):
    global TOKENIZER, END
    TOKENIZER = Tokenizer.from_file(path)
    END = TOKENIZER.token_to_id(end)


def encode(line):
    text = json.loads(line)["text"]
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    if ids:
        ids.append(END)
    return ids, len(text.encode())


def write(options, prefix):
    vocabulary = Tokenizer.from_file(options.tokenizer).get_vocab_size()
    dtype, code = (np.uint16, 8) if vocabulary < 65500 else (np.int32, 4)
    lengths, size = [], 0
    begin = time.perf_counter()
    with open(options.input, encoding="utf-8") as lines, open(prefix + ".bin", "wb") as out:
        with multiprocessing.Pool(options.workers, initializer=start, initargs=(options.tokenizer, options.end)) as pool:
            for ids, text_bytes in pool.imap(encode, lines, 32):
                size += text_bytes
                if ids:
                    out.write(np.array(ids, dtype=dtype).tobytes())
                    lengths.append(len(ids))
    lengths = np.array(lengths, dtype=np.int32)
    pointers = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]) * np.dtype(dtype).itemsize
    with open(prefix + ".idx", "wb") as index:
        index.write(b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, code))
        index.write(struct.pack("<QQ", len(lengths), len(lengths) + 1))
        index.write(lengths.tobytes() + pointers.astype(np.int64)[: len(lengths)].tobytes())
        index.write(np.arange(len(lengths) + 1, dtype=np.int64).tobytes())
    return time.perf_counter() - begin, size, lengths


def main():
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds, size, lengths = write(options, options.out or f"{folder}/tokens")
    print(
        json.dumps(
            dict(
                peer="Megatron's way with tokenizers",
                variant=f"{options.workers} worker processes and a writer",
                mb_per_s=size / 1e6 / seconds,
                docs_per_s=len(lengths) / seconds,
                documents=len(lengths),
                tokens=int(lengths.sum()),
                bytes=size,
                seconds=seconds,
                threads=options.workers,
                peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
                versions={name: importlib.metadata.version(name) for name in ("tokenizers", "numpy")},
            )
        )
    )


if __name__ == "__main__":
    main()
