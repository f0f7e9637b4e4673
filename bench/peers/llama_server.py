"""Makes llama.cpp's `llama-server` for this machine out of the sources inside the package llama-cpp-python, and
prints where it lies. The first time takes about ten minutes on two cores.
CC and CXX name the compiler: of GCC 12 the tile-register (AMX) products end the process, of clang 19 they run.

    python llama_server.py --package llama-cpp-python==0.3.36 --out target/bench/llama-server
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tarfile

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--package", required=True)
parser.add_argument("--out", type=pathlib.Path, required=True)
options = parser.parse_args()

name = options.package.replace("==", "-")
build = options.out / name
server = build / "bin/llama-server"


def run(*command):
    # What is built is told on standard error: standard output has the path alone.
    subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr)


if not server.exists():
    options.out.mkdir(parents=True, exist_ok=True)
    run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", options.package.partition("==")[0],
        "--dest", options.out, options.package)
    (archive,) = options.out.glob(f"{name.replace('-', '?')}.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(options.out, filter="data")
    (sources,) = options.out.glob(f"{name.replace('-', '?')}/vendor/llama.cpp")
    tools = pathlib.Path(sys.executable).parent
    off = ["LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI", "LLAMA_CURL", "LLAMA_OPENSSL"]
    run(
        tools / "cmake", "-S", sources, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}",
        "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_SERVER=ON", *[f"-D{flag}=OFF" for flag in off],
    )  # fmt: skip
    run(tools / "cmake", "--build", build, "--target", "llama-server", "--parallel", os.cpu_count() or 1)
print(server)
