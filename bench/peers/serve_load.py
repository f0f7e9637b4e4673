"""Served tokens a second: `triax serve` and llama.cpp's `llama-server` with the same GGUF file, in turns.

    python serve_load.py --triax target/release/triax --model MODEL.gguf --clients 1 8 32 --rounds 3

Every client asks for continuations one after the other over a connection of its own; prompts differ, so neither
server finds one in its cache. Needs only the standard library. Prints one JSON object: tokens a second by side and
number of clients, medians of the rounds, and all rounds.
"""

import argparse
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

WORDS = (
    "river stone morning letter garden window silver market winter candle forest bridge harbour engine copper "
    "meadow teacher journey shadow island kitchen painter thunder orchard village captain mountain library"
).split()
TOKENS = 64
# Requests of each client, so that a round is long enough with one client and not too long with many.
REQUESTS = {1: 4, 8: 2, 32: 1}


def prompt(number):
    picked = [WORDS[(number * 7 + place * (number % 5 + 3)) % len(WORDS)] for place in range(40)]
    return f"Story number {number}. It tells of " + ", ".join(picked) + ". Once upon a time"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Side:
    """A server under its own name; `command` gets a free port."""

    def __init__(self, name, command, health):
        self.name, self.port = name, free_port()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command(self.port), stdout=self.log, stderr=self.log)
        for _ in range(600):
            if self.ask("GET", health, None)[0] == 200:
                return
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        raise AssertionError(f"{name} does not get ready: {self.said()}")

    def said(self):
        self.log.seek(0)
        return self.log.read()[-3000:].decode(errors="replace")

    def ask(self, method, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def load(self, clients, first):
        """Tokens a second that all clients together get."""
        made, failures = [0] * clients, []

        def client(index):
            for turn in range(REQUESTS.get(clients, 1)):
                text = prompt(first + index * 10 + turn)
                body = {"prompt": text, "max_tokens": TOKENS, "temperature": 0}
                status, answer = self.ask("POST", "/v1/completions", body)
                if status != 200:
                    failures.append((status, answer[:300]))
                    return
                made[index] += json.loads(answer)["usage"]["completion_tokens"]

        threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, f"{self.name}: {failures[0]}\n{self.said()}"
        return sum(made) / (time.monotonic() - start)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triax", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER") or shutil.which("llama-server"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not arguments.llama_server:
        parser.error("llama-server is neither on the path nor named by LLAMA_SERVER")
    most, threads = str(max(arguments.clients)), str(arguments.threads)

    def ours(port):
        return [
            arguments.triax, "serve", "--model", arguments.model, "--port", str(port), "--texts", most,
            "--threads", threads,
        ]  # fmt: skip

    def theirs(port):
        return [
            arguments.llama_server, "-m", arguments.model, "--port", str(port), "-np", most, "-t", threads,
            "-c", str(512 * int(most)), "--no-webui",
        ]  # fmt: skip

    rounds = {"triax": {}, "llama": {}}
    # One server at a time has the machine; the other one is not running.
    for turn in range(arguments.rounds):
        for name, command in (("triax", ours), ("llama", theirs)):
            side = Side(name, command, "/health")
            try:
                side.load(min(arguments.clients), 100_000)
                for clients in arguments.clients:
                    speed = side.load(clients, 1000 * (turn + 1) + 17 * clients)
                    rounds[name].setdefault(str(clients), []).append(speed)
            finally:
                side.stop()
    version = subprocess.run([arguments.llama_server, "--version"], capture_output=True, text=True)
    result = {
        "model": pathlib.Path(arguments.model).name,
        "llama_cpp": (version.stdout + version.stderr).strip().splitlines()[0],
        "rounds": rounds,
    }
    for name, found in rounds.items():
        for clients, speeds in found.items():
            result[f"{name}_{clients}"] = statistics.median(speeds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
