"""What datatrove says of documents: JSON lines {"id", "text"} in, one JSON object of labels a document out, as our
example `verdicts` writes them; the time of datatrove's whole chain on standard error.

    python verdicts.py crawl-en|crawl-zh < documents.jsonl > verdicts.jsonl
    python verdicts.py compare OURS THEIRS DOCUMENTS     # agreement by filter, and every disagreement
    python verdicts.py bench crawl-en|crawl-zh DOCUMENTS # the speed of the chain, as one JSON object
"""

import collections
import importlib.metadata
import json
import resource
import sys
import time


def chain(name):
    from datatrove.pipeline.filters import (
        C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter,
    )

    if name == "crawl-en":
        return {
            "gopher_repetition": [GopherRepetitionFilter()],
            "gopher_quality": [GopherQualityFilter()],
            "c4": [C4QualityFilter(filter_no_terminal_punct=False)],
            "fineweb": [FineWebQualityFilter()],
        }
    language = "cmn_Hani"
    return {
        "fineweb2": [
            GopherRepetitionFilter(
                language=language, dup_para_frac=0, dup_para_char_frac=0, dup_line_char_frac=0, dup_line_frac=0.287,
                top_n_grams=[(2, 0.256), (3, 0.201), (4, 0.171)],
                dup_n_grams=[(5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)],
            ),
            FineWebQualityFilter(
                language=language, short_line_thr=999, char_duplicates_ratio=0.1, line_punct_thr=0.106,
                new_line_ratio=0.178,
            ),
            GopherQualityFilter(
                language=language, min_avg_word_length=1, max_avg_word_length=5, max_non_alpha_words_ratio=0.735,
                min_stop_words=2, stop_words="的 年 在 月 是 和 日 了 於 · 為 有 被 人 中 为 他 與 後 也 而 由".split(),
            ),
        ]
    }


def judge(filters, text):
    """The label of the first filter that removes the text, and the text as they leave it."""
    from datatrove.data import Document

    document = Document(text=text, id="0")
    for one in filters:
        try:
            verdict = one.filter(document)
        except ZeroDivisionError:
            return "division by zero", document.text
        if verdict is not True:
            return (verdict[1] if isinstance(verdict, tuple) else "removed"), document.text
    return "keep", document.text


def pass_chain(name, texts):
    """Runs every text through the chain until something removes it; how many stay, and seconds."""
    filters = sum(chain(name).values(), [])
    judge(filters, "Warm up the tokenizer. 预热。")
    start = time.perf_counter()
    kept = sum(judge(filters, text)[0] == "keep" for text in texts)
    return kept, time.perf_counter() - start


def run(name):
    texts = [json.loads(line)["text"] for line in sys.stdin.buffer]
    kept, seconds = pass_chain(name, texts)
    size = sum(len(text.encode()) for text in texts)
    print(f"{kept} of {len(texts)} kept, {size} bytes, {seconds:.3f} s, {size / seconds / 1e6:.4f} MB/s",
          file=sys.stderr)
    filters = chain(name)
    for text in texts:
        print(json.dumps({name: judge(one, text)[0] for name, one in filters.items()}))


def bench(name, documents):
    texts = [json.loads(line)["text"] for line in open(documents, "rb")]
    kept, seconds = pass_chain(name, texts)
    size = sum(len(text.encode()) for text in texts)
    versions = {package: importlib.metadata.version(package) for package in ("datatrove", "spacy", "jieba")}
    print(json.dumps({
        "peer": "datatrove", "variant": "1 thread", "versions": versions, "mb_per_s": size / seconds / 1e6,
        "docs_per_s": len(texts) / seconds, "documents": len(texts), "bytes": size, "kept": kept, "seconds": seconds,
        "threads": 1, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }))


def compare(ours, theirs, documents):
    agree, total = collections.Counter(), collections.Counter()
    for one, other, line in zip(open(ours), open(theirs), open(documents, encoding="utf-8")):
        one, other, document = json.loads(one), json.loads(other), json.loads(line)
        for name, label in other.items():
            total[name] += 1
            agree[name] += one[name] == label
            if one[name] != label:
                print(f"{document['id']}: {name}: ours {one[name]}, datatrove's {label}")
    for name, count in total.items():
        print(f"{name}: {agree[name]} of {count} verdicts agree, {100 * agree[name] / count:.2f} %")
    if any(agree[name] < 0.99 * count for name, count in total.items()):
        sys.exit("less than 99 % agree")


if __name__ == "__main__":
    if sys.argv[1] == "compare":
        compare(*sys.argv[2:5])
    elif sys.argv[1] == "bench":
        bench(*sys.argv[2:4])
    else:
        run(sys.argv[1])
