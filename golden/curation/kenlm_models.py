"""Small KenLM models of every kind, and the scores that kenlm gives sentences.

    python kenlm_models.py BUILD_BINARY
    python kenlm_models.py score MODEL < sentences.txt    # as our example `perplexity` prints it

BUILD_BINARY is kenlm's program of that name (Debian's libime-bin has it as libime_slm_build_binary). Writes
crates/curate/tests/golden/kenlm/{probing,trie,quantised,compressed,both}.bin and scores.tsv: kind, log10 of the
probability with begin and end of the sentence, sentence.
"""

import collections
import math
import pathlib
import random
import subprocess
import sys
import tempfile

import kenlm

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "crates/curate/tests/golden/kenlm"
ORDER, DISCOUNT = 3, 0.4  # libime is built for at most 3
KINDS = {
    "probing": ["probing"],
    "trie": ["trie"],
    "quantised": ["-q", "5", "-b", "4", "trie"],
    "compressed": ["-a", "6", "trie"],
    "both": ["-q", "6", "-b", "5", "-a", "4", "trie"],
}


def sentences(count, draw):
    """Sentences of a small grammar, in English and Chinese."""
    nouns = "sea boat man harbour net tide child tower lamp island 海 船 老人 港口 渔网".split()
    verbs = "saw left mended called watched 看见 离开 修补".split()
    for _ in range(count):
        words = ["the"] if draw.random() < 0.7 else ["an", "old"]
        words += [draw.choice(nouns), draw.choice(verbs)]
        while draw.random() < 0.5:
            words += [draw.choice(["the", "a", "and", "to the", "was"]), draw.choice(nouns)]
        yield " ".join(words).split()


def arpa(corpus):
    """An ARPA file with absolute discounting, backing off to the shorter history."""
    counts = [collections.Counter() for _ in range(ORDER)]
    for words in corpus:
        words = ["<s>", *words, "</s>"]
        for n in range(1, ORDER + 1):
            counts[n - 1].update(tuple(words[at:at + n]) for at in range(len(words) - n + 1))
    total = sum(count for gram, count in counts[0].items() if gram != ("<s>",)) + 1
    probability = {gram: count / total for gram, count in counts[0].items()}
    probability[("<s>",)], probability[("<unk>",)] = 1e-99, 1 / total
    backoff = {}
    for n in range(2, ORDER + 1):
        followers = collections.defaultdict(list)
        for gram, count in counts[n - 1].items():
            followers[gram[:-1]].append((gram, count))
        for history, grams in followers.items():
            seen = sum(count for _, count in grams)
            for gram, count in grams:
                probability[gram] = (count - DISCOUNT) / seen
            left = 1 - sum(probability[gram] for gram, _ in grams)
            lower = 1 - sum(min(probability.get(gram[1:], 0), 1) for gram, _ in grams)
            backoff[history] = left / max(lower, 1e-6)
    lines = ["\\data\\"]
    by_length = [sorted(gram for gram in probability if len(gram) == n) for n in range(1, ORDER + 1)]
    lines += [f"ngram {n}={len(grams)}" for n, grams in enumerate(by_length, 1)]
    for n, grams in enumerate(by_length, 1):
        lines.append(f"\n\\{n}-grams:")
        for gram in grams:
            line = f"{math.log10(probability[gram]):.6f}\t{' '.join(gram)}"
            if n < ORDER and gram in backoff:
                line += f"\t{math.log10(backoff[gram]):.6f}"
            lines.append(line)
    return "\n".join(lines + ["\n\\end\\", ""])


def main(build_binary):
    draw = random.Random(1)
    tests = [" ".join(words) for words in sentences(14, random.Random(2))]
    tests += ["", "the", "unknown words here", "the sea unknown the boat", "老人 看见 the 海", "old old old the the"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "model.arpa"
        source.write_text(arpa(list(sentences(90, draw))), encoding="utf-8")
        for kind, options in KINDS.items():
            path = FOLDER / f"{kind}.bin"
            subprocess.run([build_binary, *options, source, path], check=True, stderr=subprocess.DEVNULL)
            model = kenlm.Model(str(path))
            for text in tests:
                scores.append(f"{kind}\t{model.score(text):.6f}\t{text}")
    (FOLDER / "scores.tsv").write_text("\n".join(scores) + "\n", encoding="utf-8")
    print(*(f"{path.name} {path.stat().st_size}" for path in sorted(FOLDER.iterdir())), sep="\n")


if __name__ == "__main__":
    if sys.argv[1] == "score":
        model = kenlm.Model(sys.argv[2])
        for line in sys.stdin:
            text = line.rstrip("\n")
            print(f"{model.score(text):.6f}\t{text}")
    else:
        main(sys.argv[1])
