"""The whole line on this machine, from nothing: text → model → deployment → chat, and documents → answers that cite them → a
model of one's own → what follows a change → a document forgotten, with proof.

Run it with `make demo`. `DOCS=folder` trains on your own text, `KEEP=1` leaves the platform running, `STEPS=n` changes the
length of the training. Everything it makes lies in `.demo/`, which the next demo replaces.
"""

from __future__ import annotations

import json
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

import database  # noqa: E402 - the folder of this script is not a package
from texts import collect  # noqa: E402

ROOT = PROJECT / ".demo"
HOME = ROOT / "home"
NAME = "demo-lm"
SPACE = "docs"
#: Documents of a small company in four formats, in two languages. One of them changes, another is forgotten.
COMPANY = ROOT / "company"
HANDBOOK = COMPANY / "handbook"
LEAVE = "How many days of paid leave does every employee have a year?"
BEFORE, AFTER = "has 30 days of paid leave", "has 32 days of paid leave"
FORGOTTEN = f"{HANDBOOK.name}/kestrel.md"
PARTNER = "Who is the partner of project Kestrel?"
#: What a model of one's own may cost here: some seconds of training, and no questions that a model of this size would write.
BUDGET = ("max_steps=40", "max_samples=160", "max_questions=0", "max_answers=5")
#: Folders of the project's documents that are written for people, and what these are asked. The last is not in them.
PROSE = ("howto", "explanation", "tutorials", "decisions")
QUESTIONS = (
    "What happens to a document that cannot be read?",
    "How much memory does Ray take when it is idle?",
    "What is the capital of Peru?",
)
#: A database of the project itself: its one table is asked, and what it answers is computed.
DATABASE = ROOT / "project.sqlite"
TABLES = json.dumps([{"name": "routes", "documents": False}])
ROUTES = "How many routes are there by method?"
#: Why an answer is quoted although there is a model.
UNHEARD = {
    "model_unsupported": "quoted, as nothing that the model wrote stands in the documents",
    "model_unavailable": "quoted, as the model could not read the passages",
}
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
    """From text to a chat, from documents to answers that follow them, with the commands a user would type."""
    step("3. Train a tokenizer and a small base model (L0) in a job")
    # Room for a passage, a question about it and the rules of answering, which are learned in step 7.
    options = ["-p", "preset=tiny", "-p", "context_length=1024", "-p", "block_length=512"]
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

    documents(client, docs)

    step("11. What was used, and where the model comes from")
    run("usage")
    run("tree", NAME)
    run("ps")


def documents(client: openai.OpenAI, docs: Path | None) -> None:
    """Documents that are asked, learned, changed, traced and forgotten."""
    step("6. Put documents into a data space, and ask them")
    shutil.copytree(PROJECT / "demo" / "handbook", HANDBOOK)
    run("space", "create", SPACE)
    number = database.make(DATABASE, PROJECT / "docs" / "reference" / "openapi.json")
    print(f"{DATABASE.name}: {number} routes of the API in one table")
    run("space", "source", "add", SPACE, str(DATABASE), "-s", f"tables={TABLES}", "--follow")
    folders = [docs] if docs is not None else [PROJECT / "docs" / name for name in PROSE]
    run("space", "add", SPACE, *map(str, folders), str(COMPANY), "--follow")
    for question in QUESTIONS if docs is None else questions_about(docs):
        ask(client, question)
    run("why", ask(client, ROUTES))

    step("7. Make a model of these documents: samples, an adapter, a measurement on held-out documents, the gate")
    settings = (f"language_model={NAME}", *(f"learning.{each}" for each in BUDGET))
    run("space", "set", SPACE, *(word for each in settings for word in ("-s", each)), "-o", "name")
    if learn() == "succeeded":
        print("(The space answers with it from now on. Better means: right answers about documents that it has never seen are")
        print(
            "likelier to it. With a million weights it has learned how one answers here, not to read: each sentence is checked,"
        )
        print("and where none stands, the documents are quoted.)")
    else:
        print("(The gate does not let it pass: the space answers as before.)")

    step("8. A document changes, and the answer follows")
    ask(client, LEAVE)
    changed = HANDBOOK / "leave.md"
    changed.write_text(changed.read_text(encoding="utf-8").replace(BEFORE, AFTER), encoding="utf-8")
    print(f"\n{changed.name}: {BEFORE!r} is now {AFTER!r}")
    run("space", "add", SPACE, str(COMPANY), "--follow")
    answer = ask(client, LEAVE)

    step("9. What that answer rests on, and what was made of a document")
    run("why", answer)
    run("impact", f"{SPACE}/{FORGOTTEN}")

    step("10. Forget a document, and prove it")
    ask(client, PARTNER)
    report = ROOT / "kestrel.report.json"
    run("forget", f"{SPACE}/{FORGOTTEN}", "--prove", "--report", str(report), "--yes")
    run("verify-report", str(report))
    ask(client, PARTNER)
    run("space", "learnings", SPACE)


def learn() -> str:
    """Let the space learn; how that ended: `succeeded`, or `refused` by the gate. Anything else ends the demo."""
    is_done = run("space", "learn", SPACE, "--follow", may_fail=True)
    if is_done:
        return "succeeded"
    told = subprocess.run([*COMMAND, "space", "learnings", SPACE, "-o", "json"], check=False, capture_output=True, text=True)
    states = [each["state"] for each in json.loads(told.stdout or "[]")]
    if states[:1] != ["refused"]:
        fail(f"the space has not learned; the server's log is {ROOT / 'server.log'}.")
    return "refused"


def ask(client: openai.OpenAI, question: str) -> str:
    """One question to the data space: prints the answer and where in the documents it stands; returns the request's id."""
    print(f"\nuser: {question}")
    raw = client.responses.with_raw_response.create(model=f"space:{SPACE}", input=question)
    answer = raw.parse()
    print(f"assistant: {answer.output_text}")
    for item in answer.output:
        for part in getattr(item, "content", None) or []:
            for each in getattr(part, "annotations", None) or []:
                place = each.model_dump()["citation"]
                where = " > ".join(place.get("headings") or []) or f"page {place.get('page') or 1}"
                print(f"  [{place['number']}] {each.filename}: {where}")
    reason = ((answer.model_extra or {}).get("grounding") or {}).get("reason")
    if reason in UNHEARD:
        print(f"  ({UNHEARD[reason]})")
    return str(raw.headers["x-request-id"])


def questions_about(docs: Path) -> list[str]:
    """Questions to documents that nobody here has read: what their headings are about, and something that is not in them."""
    headings = []
    for path in sorted(docs.rglob("*.md")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        headings += [line.lstrip("# ").strip() for line in lines if line.startswith("## ")][:1]
    return [*(f"What do the documents say about {heading}?" for heading in headings[:2]), QUESTIONS[-1]]


def run(*words: str, may_fail: bool = False) -> bool:
    """Run one command of ours as a user would, showing it; whether it succeeded, which it must unless it `may_fail`."""
    print(f"$ modelworks {' '.join(words)}", flush=True)
    result = subprocess.run([*COMMAND, *words], check=False)
    if result.returncode and not may_fail:
        fail(f"`modelworks {words[0]}` ended with status {result.returncode}; the server's log is {ROOT / 'server.log'}.")
    return result.returncode == 0


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
