"""The opponent in deduplication: datatrove's MinHash, one process, on JSON lines with the field `text`.

    --step minhash    signatures of texts in memory
    --step dedup      all four stages from JSON lines to JSON lines, on the local executor

`--megabytes` takes only so much text from the start of the input. Prints one JSON line.
"""

import argparse
import collections
import glob
import gzip
import importlib.metadata
import json
import os
import resource
import shutil
import tempfile
import time

os.environ["DATATROVE_COLORIZE_LOGS"] = "0"

import numpy as np
from datatrove.utils.logging import logger

logger.remove()
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.typeshelper import Languages

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--step", choices=["minhash", "dedup"], required=True)
parser.add_argument("--language", choices=["en", "zh"], default="en")
parser.add_argument("--input", required=True)
parser.add_argument("--megabytes", type=float, default=1e9)
options = parser.parse_args()
LANGUAGE = {"en": Languages.english, "zh": Languages.mandarin_chinese}[options.language]


def lines():
    size = 0
    with open(options.input, encoding="utf-8") as file:
        for line in file:
            size += len(json.loads(line)["text"].encode())
            yield line
            if size >= options.megabytes * 1e6:
                break


def minhash(texts):
    step = MinhashDedupSignature("/nonexistent", MinhashConfig(), language=LANGUAGE)
    step.get_shingles("中文 the tokenizer and its dictionary are loaded before the clock starts")
    begin = time.perf_counter()
    for text in texts:
        shingles = step.get_shingles(text)
        if shingles.size:
            step.get_signature(shingles)
    return time.perf_counter() - begin, {}


def dedup(all_lines, folder):
    os.makedirs(f"{folder}/in")
    with open(f"{folder}/in/0.jsonl", "w", encoding="utf-8") as file:
        file.writelines(all_lines)
    # The bands of the recipes crawl-en and crawl-zh.
    config = MinhashConfig(num_buckets=20 if options.language == "zh" else 14)
    reader = lambda: JsonlReader(f"{folder}/in")
    stages = [
        [reader(), MinhashDedupSignature(f"{folder}/signatures", config, language=LANGUAGE)],
        [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)],
        [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)],
        [reader(), MinhashDedupFilter(f"{folder}/remove"), JsonlWriter(f"{folder}/out")],
    ]
    begin = time.perf_counter()
    for number, pipeline in enumerate(stages):
        tasks = config.num_buckets if number == 1 else 1
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{folder}/log{number}").run()
    seconds = time.perf_counter() - begin
    kept = []
    for path in glob.glob(f"{folder}/out/*.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            kept += [json.loads(line)["metadata"]["cluster"] for line in file]
    return seconds, agreement([json.loads(line)["cluster"] for line in all_lines], kept)


def agreement(all_clusters, kept):
    """Removed documents that have a copy among the kept, and planted copies that were removed."""
    planted = collections.Counter(cluster for cluster in all_clusters if cluster >= 0)
    left = collections.Counter(cluster for cluster in kept if cluster >= 0)
    removed = len(all_clusters) - len(kept)
    right = sum(count - max(left[cluster], 1) for cluster, count in planted.items())
    copies = sum(count - 1 for count in planted.values())
    return dict(kept=len(kept), precision=right / max(removed, 1), recall=right / max(copies, 1))


def main():
    np.seterr(over="ignore")
    all_lines = list(lines())
    texts = [json.loads(line)["text"] for line in all_lines]
    size = sum(len(text.encode()) for text in texts)
    if options.step == "minhash":
        seconds, more = minhash(texts)
    else:
        folder = tempfile.mkdtemp()
        try:
            seconds, more = dedup(all_lines, folder)
        finally:
            shutil.rmtree(folder)
    versions = {name: importlib.metadata.version(name) for name in ("datatrove", "spacy", "jieba")}
    print(
        json.dumps(
            dict(
                peer="datatrove",
                variant=f"1 process, {size / 1e6:.0f} MB",
                mb_per_s=size / 1e6 / seconds,
                docs_per_s=len(texts) / seconds,
                documents=len(texts),
                bytes=size,
                seconds=seconds,
                threads=1,
                peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
                versions=versions,
                **more,
            )
        )
    )


if __name__ == "__main__":
    main()
