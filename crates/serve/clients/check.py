"""Real clients against `triax serve`: the openai library, the llm command line, schemathesis on the OpenAPI file,
and headless Chromium on the page, where it is installed.

    python check.py --triax target/release/triax --out target/clients

Trains a tiny network first. Prints one line a client; the exit code says whether all passed.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

KEY = "sk-check-4f1c9a"
RUN = """
[model]
layers = 2
hidden = 64
heads = 4
vocab = 400
sequence = 256
[data]
blend = [{ path = "tokens/text" }]
[train]
global_batch = 4
learning_rate = { peak = 3e-3, warmup = "5 steps", decay = "constant" }
stop = "60 steps"
[layout]
micro_batch = 4
"""
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content.strip() }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SCRIPTS = pathlib.Path(sys.executable).parent


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def train(triax, folder):
    lines = [f"let value_{i % 17} = compute({i}, {i * 7 % 101});  你好，世界 {i % 13}。\n" for i in range(600)]
    (folder / "text.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "run.toml").write_text(RUN)
    (folder / "chat.jinja").write_text(TEMPLATE)
    (folder / "keys").write_text(f"# for the check\n{KEY}\n")
    run(triax, "tokenize", "text.txt", "--train-tokenizer", "bpe", "--vocab", "400", "--output", "tokens/text", cwd=folder)
    run(triax, "train", "run.toml", cwd=folder)


class Server:
    def __init__(self, triax, folder, *more):
        self.ready = folder / f"ready-{len(more)}.json"
        command = [triax, "serve", "--model", "runs/run", "--name", "tiny", "--port", "0", "--ready-file", self.ready.name]
        self.process = subprocess.Popen(
            [*command, "--chat-template", "chat.jinja", *more], cwd=folder, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self):
        for _ in range(600):
            if self.ready.exists():
                return json.loads(self.ready.read_text())["url"]
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.05)
        raise AssertionError("the server does not get ready")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, errors
        assert KEY not in errors and "panicked" not in errors, errors


def check_openai(url):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    ask = dict(model="tiny", prompt="let value_", max_tokens=16, seed=3, logprobs=2)
    whole = client.completions.create(**ask)
    choice = whole.choices[0]
    assert whole.usage.completion_tokens == len(choice.logprobs.tokens) == 16, whole
    parts = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in parts if part.choices) == choice.text
    assert parts[-1].usage == whole.usage, (parts[-1].usage, whole.usage)
    echoed = client.completions.create(
        model="tiny", prompt=[[5, 6, 7], [8, 9]], echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    assert [len(c.logprobs.token_logprobs) for c in echoed.choices] == [4, 3]
    assert all(c.logprobs.token_logprobs[0] is None for c in echoed.choices)
    several = client.completions.create(model="tiny", prompt="let", n=3, max_tokens=8, temperature=1.5, stop=[";"])
    assert len(several.choices) == 3 and all(";" not in c.text for c in several.choices)

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "你好"}]
    chat = dict(model="tiny", messages=messages, max_tokens=12, seed=1, logprobs=True, top_logprobs=2)
    answer = client.chat.completions.create(**chat)
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].logprobs.content
    parts = client.chat.completions.create(**chat, stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == answer.choices[0].message.content
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
    for seed in range(4):
        made = client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=60, seed=seed, response_format=form
        ).choices[0]
        if made.finish_reason == "stop":
            assert isinstance(json.loads(made.message.content)["ok"], bool), made

    for error, change in [
        (openai.BadRequestError, dict(prompt="x" * 5000)),
        (openai.BadRequestError, dict(extra_body={"best_off": 3})),
        (openai.NotFoundError, dict(model="other")),
    ]:
        try:
            client.completions.create(**{"model": "tiny", "prompt": "a", **change})
        except error:
            continue
        raise AssertionError(f"{change}: no {error}")
    try:
        openai.OpenAI(base_url=f"{url}/v1", api_key="sk-wrong-wrong", max_retries=0).models.list()
    except openai.AuthenticationError as refused:
        assert "sk-wrong-wrong" not in str(refused)
    else:
        raise AssertionError("a wrong key is let in")


def check_llm(url, folder):
    home = folder / "llm"
    home.mkdir()
    models = [
        {"model_id": name, "model_name": "tiny", "api_base": f"{url}/v1", "api_key_name": "triax", "completion": text}
        for name, text in [("tiny-text", True), ("tiny-chat", False)]
    ]
    # JSON is YAML.
    (home / "extra-openai-models.yaml").write_text(json.dumps(models))
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    llm = str(SCRIPTS / "llm")
    for model in ("tiny-text", "tiny-chat"):
        for how in ([], ["--no-stream"]):
            ask = [llm, "-m", model, *how, "--key", KEY, "-o", "max_tokens", "12", "-o", "temperature", "0.5", "let value_"]
            assert run(*ask, env=environment, stdin=subprocess.DEVNULL).strip(), (model, how)


def check_schemathesis(url, folder):
    run(
        str(SCRIPTS / "schemathesis"), "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {KEY}",
        # A vocabulary, a context and fields that exclude each other are beyond a schema: 400 is right there.
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing",
        "--max-time", "20", "--generation-database", "none", "--warnings", "off", "--no-color", "--request-timeout", "20",
        cwd=folder,
    )  # fmt: skip


def check_page(url, folder, out):
    """The page as a person uses it: a completion in English, then a chat in Chinese; pictures of both are kept."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("skipped: chromium is not installed, the page was not looked at")
        return
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(
        executable_path=browser, args=["--no-sandbox"]
    ) as chromium:
        page = chromium.new_page(viewport={"width": 900, "height": 640})
        complaints, asked = [], []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/#lang=en")
        expect(page.locator("#model")).to_contain_text("tiny")
        fill = {"#prompt": "let value_", "#tokens": "40", "#seed": "4", "#temperature": "0.7"}
        for field, text in fill.items():
            page.fill(field, text)
        page.click("#send")
        expect(page.locator("#state")).to_contain_text("40 tokens", timeout=20_000)
        first = page.locator("#out .token").first
        assert first.evaluate("span => span.style.background"), "tokens have no colour"
        first.hover()
        assert page.locator("#tip tr").count() >= 5, "the likeliest tokens are not shown"
        page.screenshot(path=out / "page-completion.png")
        written = page.locator("#out").inner_text()
        # The same seed writes the same text.
        page.locator("#state").evaluate("state => { state.textContent = ''; }")
        page.click("#send")
        expect(page.locator("#state")).to_contain_text("40 tokens", timeout=20_000)
        assert page.locator("#out").inner_text() == written

        page.select_option("#language", "zh")
        page.click("#to-chat")
        page.fill("#prompt", "你好")
        page.press("#prompt", "Enter")
        expect(page.locator("#state")).to_contain_text("个词元", timeout=20_000)
        assert page.locator("#talk .message").count() == 2
        page.screenshot(path=out / "page-chat.png")
        # Stopped at once: no complaint, and the next one goes.
        page.click("#to-completion")
        page.locator("#send").evaluate("send => { send.click(); document.getElementById('stop').click(); }")
        expect(page.locator("#state")).to_have_text("")
        expect(page.locator("#send")).to_be_enabled()
        assert not complaints, complaints
        assert all(one.startswith((url, "data:")) for one in asked), asked
    for name in ("page-completion.png", "page-chat.png"):
        assert (out / name).stat().st_size > 10_000, name


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triax", required=True, type=os.path.abspath)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        train(arguments.triax, folder)
        keys = ("--keys-file", "keys", "--queue", "24")
        with Server(arguments.triax, folder, *keys) as url, Server(arguments.triax, folder) as open_url:
            for check, inputs in [
                (check_openai, (url,)),
                (check_llm, (url, folder)),
                (check_schemathesis, (url, folder)),
                (check_page, (open_url, folder, arguments.out.resolve())),
            ]:
                start = time.monotonic()
                try:
                    check(*inputs)
                    said = "ok"
                except Exception as error:  # the others are worth running too
                    said, failed = f"FAILED: {type(error).__name__}: {error}", failed + 1
                print(f"{check.__name__.removeprefix('check_')}: {said} ({time.monotonic() - start:.1f} s)", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
