"""A corpus with planted near copies, the same for both sides: JSON lines of id, text, cluster.

English: words and their frequencies from a text file. Chinese: words and frequencies of jieba's dictionary. Words are drawn
independently, so that texts share no 5-grams but by chance, in sentences of 6 to 20 and documents of 150 to 900. One document in
twenty has one to four copies in which 0, 0.5, 1 or 2 % of the words are others (Jaccard similarity of 5-grams 1 to 0.83);
`cluster` numbers them. Order is shuffled.
"""

import argparse
import collections
import json
import re

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--language", choices=["en", "zh"], required=True)
parser.add_argument("--text", help="English text whose words are drawn")
parser.add_argument("--megabytes", type=float, required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--seed", type=int, default=7)
options = parser.parse_args()


def vocabulary():
    if options.language == "zh":
        import jieba

        jieba.initialize()
        han = re.compile(r"[\u4e00-\u9fff]+$")
        return {word: count for word, count in jieba.dt.FREQ.items() if count > 0 and han.match(word)}
    with open(options.text, encoding="utf-8") as file:
        words = collections.Counter(re.findall(r"[a-z]{1,14}", file.read().lower()))
    return dict(words.most_common(50_000))


def write(words, joiner, ends):
    """Sentences and paragraphs out of words."""
    parts, place = [], 0
    for number, length in enumerate(ends):
        sentence = words[place : place + length]
        place += length
        if not len(sentence):
            break
        if joiner:
            text = " ".join(sentence)
            parts.append(text[0].upper() + text[1:] + (".\n\n" if number % 7 == 6 else ". "))
        else:
            half = len(sentence) // 2
            parts.append("".join(sentence[:half]) + "，" + "".join(sentence[half:]) + ("。\n" if number % 7 == 6 else "。"))
    return "".join(parts).strip()


def main():
    counts = vocabulary()
    words = np.array(list(counts), dtype=object)
    cumulative = np.cumsum(np.array(list(counts.values()), dtype=np.float64))
    random = np.random.default_rng(options.seed)

    def draw(number):
        return words[np.searchsorted(cumulative, random.random(number) * cumulative[-1], side="right")]

    documents, size, cluster = [], 0, 0
    while size < options.megabytes * 1e6:
        chosen = draw(int(random.integers(150, 900)))
        ends = random.integers(6, 20, size=200)
        copies = int(random.integers(1, 5)) if random.random() < 0.05 else 0
        number = cluster if copies else None
        cluster += copies > 0
        for copy in range(copies + 1):
            changed = chosen
            if copy:
                changed = chosen.copy()
                rate = (0, 0.005, 0.01, 0.02)[int(random.integers(4))]
                places = np.flatnonzero(random.random(len(chosen)) < rate)
                changed[places] = draw(len(places))
            text = write(changed, options.language == "en", ends)
            size += len(text.encode())
            documents.append((text, number))
    with open(options.out, "w", encoding="utf-8") as file:
        for place in random.permutation(len(documents)):
            text, number = documents[place]
            row = {"id": f"d{place}", "text": text, "cluster": -1 if number is None else number}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


main()
