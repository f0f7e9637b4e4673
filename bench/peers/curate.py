"""Opponents of `triax bench curate`: FastWARC for reading archives, trafilatura for main texts.

One process, one thread, three runs of which the fastest counts; prints one JSON object.
"""

import argparse
import glob
import gzip
import importlib.metadata
import json
import os
import resource
import time

RUNS = 3


def read(path):
    """Every record parsed with its HTTP headers, bodies of responses and conversions read whole."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    documents = 0
    with open(path, "rb") as stream:
        for record in ArchiveIterator(stream, record_types=wanted, parse_http=True):
            record.reader.read()
            documents += 1
    return documents, documents, os.path.getsize(path)


def pages(path):
    names = sorted(glob.glob(os.path.join(path, "*.html.gz"))) + sorted(glob.glob(os.path.join(path, "*.html")))
    for name in names:
        with (gzip.open if name.endswith(".gz") else open)(name, "rb") as file:
            yield file.read()


def extract(all_pages):
    import trafilatura

    kept = sum(trafilatura.extract(page, include_comments=False) is not None for page in all_pages)
    return len(all_pages), kept, sum(map(len, all_pages))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--step", choices=["read", "extract"], required=True)
    parser.add_argument("--input", required=True)
    options = parser.parse_args()
    if options.step == "read":
        package, work = "fastwarc", lambda: read(options.input)
    else:
        all_pages = list(pages(options.input))
        package, work = "trafilatura", lambda: extract(all_pages)
    best = None
    for _ in range(RUNS):
        begin = time.perf_counter()
        documents, kept, size = work()
        seconds = time.perf_counter() - begin
        best = min(seconds, best or seconds)
    print(
        json.dumps(
            {
                "peer": package,
                "variant": "1 thread",
                "versions": {package: importlib.metadata.version(package)},
                "mb_per_s": size / best / 1e6,
                "docs_per_s": documents / best,
                "documents": documents,
                "bytes": size,
                "kept": kept,
                "seconds": best,
                "threads": 1,
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
