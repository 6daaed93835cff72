"""The whole line on this machine, from nothing: text → job → model → deployment → chat, and documents → answers that cite them.

Run it with `make demo`. `DOCS=folder` trains on your own text, `KEEP=1` leaves the platform running, `STEPS=n` changes the
length of the training. Everything it makes lies in `.demo/`, which the next demo replaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import httpx
import openai

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "demo"))

from texts import collect  # noqa: E402 - the folder of this script is not a package

ROOT = PROJECT / ".demo"
HOME = ROOT / "home"
NAME = "demo-lm"
SPACE = "docs"
#: Folders of the project's documents that are written for people, and what these are asked. The last is not in them.
PROSE = ("howto", "explanation", "tutorials", "decisions")
QUESTIONS = (
    "What happens to a document that cannot be read?",
    "How much memory does Ray take when it is idle?",
    "What is the capital of Peru?",
)
COMMAND = [sys.executable, "-m", "modelworks.cli"]


def main() -> None:
    started = time.monotonic()
    docs = Path(os.environ["DOCS"]).expanduser() if os.environ.get("DOCS") else None
    if docs is not None and not docs.is_dir():
        fail(f"DOCS={docs} is not a folder.")
    stop_leftover()
    shutil.rmtree(ROOT, ignore_errors=True)
    HOME.mkdir(parents=True)

    step("1. Collect real text")
    count, size = collect(ROOT / "text", docs, PROJECT)
    if size < 20_000:
        fail(
            f"Only {size} bytes of text were found; give a folder with more .txt, .md, .rst or .py files: DOCS=folder make demo"
        )
    print(f"{count} documents, {size / 1e6:.1f} MB from {docs or 'the project and the Python standard library'}")

    step("2. Start the platform")
    port = free_port()
    os.environ.update(MODELWORKS_HOME=str(HOME), MODELWORKS_PORT=str(port), MODELWORKS_URL=f"http://127.0.0.1:{port}")
    os.environ.pop("MODELWORKS_API_KEY", None)
    log = (ROOT / "server.log").open("wb")
    server = subprocess.Popen([*COMMAND, "serve"], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    (ROOT / "server.pid").write_text(str(server.pid))
    try:
        wait_ready(server, port)
        print(f"http://127.0.0.1:{port} is ready after {time.monotonic() - started:.0f} s (log: {ROOT / 'server.log'})")
        journey(port, docs)
    except BaseException:
        if server.poll() is None:
            stop(server)
        raise
    minutes = (time.monotonic() - started) / 60
    if os.environ.get("KEEP"):
        print(
            f"\nDone in {minutes:.1f} min. The platform goes on at http://127.0.0.1:{port}; its key is in {HOME / 'admin.key'}."
        )
        print(f"Try:  MODELWORKS_HOME={HOME} MODELWORKS_URL=http://127.0.0.1:{port} modelworks chat {NAME}")
        print(f"Stop: kill {server.pid}")
        return
    stop(server)
    print(f"\nDone in {minutes:.1f} min; the platform is stopped. KEEP=1 make demo leaves it running.")


def journey(port: int, docs: Path | None) -> None:
    """Train, deploy, complete, chat, ask documents, and show usage and lineage, with the commands a user would type."""
    step("3. Train a tokenizer and a small base model (L0) in a job")
    options = ["-p", "preset=tiny"]
    if os.environ.get("STEPS"):
        options += ["-p", f"steps={int(os.environ['STEPS'])}"]
    run("train", "text-generation", "--data", str(ROOT / "text"), "--name", NAME, *options, "--follow")

    step("4. Deploy it")
    run("deploy", NAME, "--wait")

    step("5. Ask it through the official openai client")
    key = (HOME / "admin.key").read_text().strip()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key)
    prompt = "The return value of this function is"
    print(f"completion of {prompt!r}:")
    for chunk in client.completions.create(
        model=NAME, prompt=prompt, max_tokens=60, temperature=0.7, seed=7, stream=True, stream_options={"include_usage": True}
    ):
        if chunk.choices:
            print(chunk.choices[0].text, end="", flush=True)
        elif chunk.usage:
            print(f"\n[{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens]\n")
    question = "What is a list?"
    print(f"chat, user: {question!r}, assistant:")
    for part in client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": question}],
        max_tokens=80,
        temperature=0.7,
        seed=7,
        stream=True,
        stream_options={"include_usage": True},
    ):
        if part.choices:
            print(part.choices[0].delta.content or "", end="", flush=True)
        elif part.usage:
            print(f"\n[{part.usage.prompt_tokens} + {part.usage.completion_tokens} tokens]")
    print("(A model of a few million parameters, minutes old: it has learned the look of the text, not its meaning.)")

    step("6. Put documents into a data space, and ask them")
    run("space", "create", SPACE)
    folders = [docs] if docs is not None else [PROJECT / "docs" / name for name in PROSE]
    run("space", "add", SPACE, *map(str, folders), "--follow")
    for question in QUESTIONS if docs is None else questions_about(docs):
        ask(client, question)

    step("7. What was used, and where the model comes from")
    run("usage")
    run("tree", NAME)
    run("ps")


def ask(client: openai.OpenAI, question: str) -> None:
    """One question to the data space: the answer, and where in the documents it stands."""
    print(f"\nuser: {question}")
    answer = client.responses.create(model=f"space:{SPACE}", input=question)
    print(f"assistant: {answer.output_text}")
    for item in answer.output:
        for part in getattr(item, "content", None) or []:
            for each in getattr(part, "annotations", None) or []:
                place = each.model_dump()["citation"]
                where = " > ".join(place.get("headings") or []) or f"page {place.get('page') or 1}"
                print(f"  [{place['number']}] {each.filename}: {where}")


def questions_about(docs: Path) -> list[str]:
    """Questions to documents that nobody here has read: what their headings are about, and something that is not in them."""
    headings = []
    for path in sorted(docs.rglob("*.md")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        headings += [line.lstrip("# ").strip() for line in lines if line.startswith("## ")][:1]
    return [*(f"What do the documents say about {heading}?" for heading in headings[:2]), QUESTIONS[-1]]


def run(*words: str) -> None:
    """Run one command of ours as a user would, showing it."""
    print(f"$ modelworks {' '.join(words)}", flush=True)
    result = subprocess.run([*COMMAND, *words], check=False)
    if result.returncode:
        fail(f"`modelworks {words[0]}` ended with status {result.returncode}; the server's log is {ROOT / 'server.log'}.")


def step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def fail(message: str) -> NoReturn:
    raise SystemExit(f"demo: {message}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_ready(server: subprocess.Popen[Any], port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            fail(f"the server ended with status {server.returncode}:\n{(ROOT / 'server.log').read_text()[-2000:]}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    fail("the server was not ready after two minutes.")


def stop(server: subprocess.Popen[Any]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        fail("the server did not stop within a minute and was killed.")


def stop_leftover() -> None:
    """End a platform that an earlier `KEEP=1 make demo` left running on the same folder."""
    note = ROOT / "server.pid"
    if not note.exists():
        return
    pid = int(note.read_text())
    try:
        if b"modelworks" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
            for _ in range(100):
                time.sleep(0.1)
                os.kill(pid, 0)
    except (ProcessLookupError, FileNotFoundError):
        pass


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\ndemo: interrupted; the platform is stopped.") from None
