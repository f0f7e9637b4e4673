"""A pair of token files as Megatron writes them, with the tokenizer and documents they come from.

    python tokens.py        # writes crates/curate/tests/golden/tokens/

Made by the same writer that `bench/peers/tokenize_megatron.py` runs.
"""

import json
import pathlib
import subprocess
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / "crates/curate/tests/golden/tokens"
TEXTS = [
    "The quick brown fox jumps over the lazy dog.\n\nA second paragraph follows, with 12,345 numbers and symbols: {}[]<>!",
    "",
    "我来到北京清华大学，他来到了网易杭研大厦。繁體中文也在這裡。",
    "    def indented(code):\n\treturn code  # tabs and   runs of spaces",
    "Café naïve — “quotes” … emoji 🏳️‍🌈 and a\u00a0no-break space\r\nCRLF line",
    "x",
    "\u2028line separator\u0085next line in JSON text",
    " ".join(f"word{number} the cat sat on the mat" for number in range(40)),
]


def main():
    TARGET.mkdir(parents=True, exist_ok=True)
    with open(TARGET / "documents.jsonl", "w", encoding="utf-8") as file:
        for number, text in enumerate(TEXTS):
            file.write(json.dumps({"id": number, "text": text, "other": [text]}, ensure_ascii=False) + "\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(TARGET / "tokenizer.json"), pretty=False)
    writer = [sys.executable, ROOT / "bench/peers/tokenize_megatron.py", "--input", TARGET / "documents.jsonl"]
    writer += ["--tokenizer", TARGET / "tokenizer.json", "--out", TARGET / "expected"]
    subprocess.run([str(word) for word in writer], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
