"""A thousand documents put into a data space whose server dies twice on the way: what is done again, what is doubled.

    python benchmarks/ingestion.py --shared ../shared
    python benchmarks/ingestion.py --shared ../shared --documents 200

Product pages in English and Chinese, passages of CMRC 2018 and XQuAD as files, and office documents and PDFs, in random order.
While they are read, and again while they are indexed with an encoder made here, the server and every process below it are ended
with kill -9 and the server is started again; nobody tells the space to go on.

- done before the kill, in the checkpoint, done again: documents read, then blocks of passages (their words, then their
  vectors), counted in the journals of both attempts; what is done again must be what no checkpoint held;
- the same two runs without a kill, on the same set of documents and, for the index, of cleaned passages: their files must have
  the same digests;
- meanwhile another space is asked, one question after another, as it was before: time per answer as its caller sees it, and CPU
  of the replica that holds its index. Runs have one core here (`slots_cpu=1`).

A checkpoint of the index is due every two seconds here (half a minute by default), as there are only some thousand passages.
Status 1 where anything is missing, doubled or different.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
from private_server import PrivateServer
from tiny_models import deploy_encoder, wait_until_ready

from modelworks.client import Modelworks

_SPACE, _OTHER, _ENCODER = "library", "other", "encoder"
_INDEX: dict[str, Any] = {"block_passages": 250, "checkpoint_s": 2}
_OFFICE = ("docx", "html", "odf", "pdf", "pptx", "xlsx")
_TEXTS = ("cmrc2018/cmrc2018_trial.json", "xquad/xquad.en.dev.json")
_PAUSE_S = 0.05
#: As many as OpenAI lets a client put in at once.
_BATCH_FILES = 500


def corpus(shared: Path, folder: Path, number: int, seed: int) -> list[Path]:
    """So many different files, in random order, some of them written into `folder`."""
    data = shared / "data" / "04-docqa"
    found: dict[bytes, Path] = {}
    for archive in sorted((data / "enterprise-docs").glob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(opened.namelist()):
                if name.endswith(".mdx"):
                    path = folder / f"{len(found):04}-{Path(name).name}"
                    path.write_bytes(opened.read(name))
                    found.setdefault(path.read_bytes(), path)
    for place in _TEXTS:
        for text, _ in passages(data / place):
            path = folder / f"{len(found):04}.txt"
            path.write_text(text, encoding="utf-8")
            found.setdefault(text.encode(), path)
    for kind in _OFFICE:
        for path in sorted((data / "office-docs" / kind).iterdir()):
            if path.suffix != ".md":
                found.setdefault(path.read_bytes(), path)
    files = list(found.values())
    if len(files) < number:
        raise SystemExit(f"There are only {len(files)} documents in {data}.")
    return random.Random(seed).sample(files, number)


def passages(path: Path) -> list[tuple[str, str]]:
    """Each passage of a collection in SQuAD's form, with a question about it."""
    articles = json.loads(path.read_text("utf-8"))["data"]
    return [(each["context"], each["qas"][0]["question"]) for article in articles for each in article["paragraphs"]]


@dataclass
class Attempt:
    """What an attempt of a run has noted: its journal is kept by a link of our own when the server removes its own."""

    journal: Path
    #: Documents that it began with.
    taken: int = 0

    def entries(self, type_: str) -> list[dict[str, Any]]:
        found = []
        for line in self.journal.read_bytes().split(b"\n"):
            with suppress(ValueError):  # the last line may be half written
                found.append(json.loads(line))
        return [entry["data"] for entry in found if entry["type"] == type_]

    @property
    def num_done(self) -> int:
        """Documents, or blocks, that were done in this attempt."""
        return len(self.entries("metrics"))


class Follower:
    """Follows a run's attempts in the server's home."""

    def __init__(self, server: PrivateServer, run_id: str) -> None:
        self._folder = server.folder / "home" / "runs" / run_id
        self._links = server.folder / "journals" / run_id
        self._links.mkdir(parents=True)

    def attempt(self, number: int, timeout_s: float = 180) -> Attempt:
        """Wait until an attempt has begun its work."""
        journal = self._folder / str(number) / "journal.jsonl"
        link = self._links / f"{number}.jsonl"
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(FileNotFoundError):
                if not link.exists():
                    os.link(journal, link)
            if link.exists() and Attempt(link).num_done:
                listing = self._folder / str(number) / "resume" / "documents.jsonl"
                taken = len(listing.read_bytes().splitlines()) if listing.is_file() else 0
                return Attempt(link, taken)
            if time.monotonic() > deadline:
                raise SystemExit(f"attempt {number} of the run {self._folder.name} does not begin")
            time.sleep(0.005)


@dataclass
class Answers:
    """What asking the other space took, by what the machine did meanwhile."""

    waits_ms: dict[str, list[float]] = field(default_factory=dict)
    cpu_ms: dict[str, float] = field(default_factory=dict)


class Caller:
    """Asks one question after another in a thread of its own."""

    def __init__(self, server: PrivateServer, questions: list[str], index: int) -> None:
        self._http = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=60)
        self._questions = questions
        self._index = psutil.Process(index)
        self.found = Answers()

    def during(self, name: str, until: threading.Event) -> None:
        waits: list[float] = []
        before = self._used()
        while not until.is_set():
            question = self._questions[len(waits) % len(self._questions)]
            began = time.perf_counter()
            body = {"model": f"space:{_OTHER}", "messages": [{"role": "user", "content": question}]}
            self._http.post("/v1/chat/completions", json=body).raise_for_status()
            waits.append((time.perf_counter() - began) * 1000)
            time.sleep(_PAUSE_S)
        self.found.waits_ms[name] = waits
        self.found.cpu_ms[name] = (self._used() - before) * 1000 / max(1, len(waits))

    def _used(self) -> float:
        times = self._index.cpu_times()
        return float(times.user + times.system)


def tell(what: str) -> None:
    """A line of progress, apart from the figures."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def kill_all(server: PrivateServer) -> None:
    """The server first, so that it sees nothing of the end of the others."""
    below = psutil.Process(server.pid).children(recursive=True)
    server.kill()
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(below, timeout=30)


def run_of(client: Modelworks, step: str, server: PrivateServer) -> Follower:
    """Wait for the run of a step of the space's build."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        space = client.spaces.get(_SPACE)
        build = space["build"] or {}
        if build.get(f"{step}_run_id"):
            return Follower(server, build[f"{step}_run_id"])
        if space["state"] in ("failed", "ready"):
            break
        time.sleep(0.05)
    raise SystemExit(f"the space has no run of the step {step}: {client.spaces.get(_SPACE)}")


def broken_off(follower: Follower, server: PrivateServer, enough: int, total: int) -> tuple[Attempt, int]:
    """Kill everything when so much is done, and something more than the last checkpoint holds; the attempt and its last one."""
    first = follower.attempt(1)
    deadline = time.monotonic() + 600
    while True:
        kept = first.entries("checkpoint")
        if kept and first.num_done >= enough and first.num_done > (kept[-1]["step"] or 0):
            break
        if first.num_done >= total or time.monotonic() > deadline:
            raise SystemExit(f"not caught in the middle: {first.num_done} of {total} done, {len(kept)} checkpoints")
        time.sleep(0.005)
    kill_all(server)
    return first, int(first.entries("checkpoint")[-1]["step"] or 0)


def every_document(client: Modelworks) -> list[dict[str, Any]]:
    """The documents of the space, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        page = client.spaces.documents(_SPACE, after=found[-1]["id"] if found else None, limit=1000)
        found += page.data
        if not page.has_more:
            return found


def files_of(version: dict[str, Any]) -> dict[str, str]:
    return {file["path"]: file["digest"] for file in version["version"]["files"]}


def reaped_s(server: PrivateServer) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return float(times.children_user + times.children_system)


def replica(server: PrivateServer, client: Modelworks, name: str) -> int:
    """The process that answers for a deployment."""
    wait_until_ready(client, name)
    ids = [each["id"] for each in client.deployments.get(name)["replicas"] if each["state"] == "ready"]
    (found,) = [each for each in psutil.Process(server.pid).children() if any(one in " ".join(each.cmdline()) for one in ids)]
    return int(found.pid)


@dataclass(frozen=True)
class Timed:
    ref: str
    wall_s: float
    cpu_s: float


def unbroken(server: PrivateServer, client: Modelworks, caller: Caller, name: str, **spec: Any) -> Timed:
    """A run of its own, nothing killed, with the other space asked meanwhile."""
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        before, began = reaped_s(server), time.monotonic()
        asked = pool.submit(caller.during, name, done)
        run = client.runs.wait(client.runs.submit(name=f"unbroken-{name}", **spec)["id"], poll_s=0.2)
        took = time.monotonic() - began
        done.set()
        asked.result()
    if run["state"] != "succeeded":
        raise SystemExit(f"the run for {name} ended {run['state']}: {run.get('error')}")
    alive = [each for each in psutil.Process(server.pid).children() if run["id"] in " ".join(each.cmdline())]
    psutil.wait_procs(alive, timeout=30)
    deadline = time.monotonic() + 10
    while reaped_s(server) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    return Timed(f"unbroken-{name}", took, reaped_s(server) - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--idle-s", type=float, default=20.0, help="how long the other space is asked before")
    given = parser.parse_args()
    number: int = given.documents
    with PrivateServer(shown=False, slots_cpu="1", log_level="error") as server:
        folder = server.folder / "texts"
        folder.mkdir()
        files = corpus(given.shared, folder, number, given.seed)
        other = passages(given.shared / "data" / "04-docqa" / "xquad" / "xquad.zh.dev.json")
        with server.client() as client:
            deploy_encoder(client, _ENCODER, server.folder / "pairs")
            client.spaces.create(_OTHER)
            for at, (text, _) in enumerate(other):
                path = server.folder / f"other-{at}.txt"
                path.write_text(text, encoding="utf-8")
                client.spaces.put(_OTHER, path)
            client.spaces.wait(_OTHER)
            tell("the other space is ready")
            stores = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=300)
            made_space = client.spaces.create(_SPACE, settings={"encoder": _ENCODER, "index": _INDEX})
            process = psutil.Process(server.pid)
            before = process.cpu_times()
            put_began = time.monotonic()
            # All bytes first: the build then begins with every document at once.
            sent = [stores.files.create(file=(path.name, path.read_bytes()), purpose="assistants").id for path in files]
            began = time.monotonic()
            parts = [sent[first : first + _BATCH_FILES] for first in range(0, number, _BATCH_FILES)]
            with ThreadPoolExecutor(len(parts)) as pool:
                batches = stores.vector_stores.file_batches
                list(pool.map(lambda part: batches.create(made_space["id"], file_ids=part), parts))
            after = process.cpu_times()
            put_s = time.monotonic() - put_began
            put_cpu_s = after.user + after.system - before.user - before.system
            tell("the documents are put in")
            parsing = run_of(client, "parsing", server)
            first, _ = broken_off(parsing, server, number // 2, number)
        server.start()
        with server.client() as client:
            tell("killed while reading, started again")
            second = parsing.attempt(2)
            indexing = run_of(client, "indexing", server)
            num_passages = client.spaces.get(_SPACE)["build"]["counts"]["num_passages"]
            blocks = 2 * -(-num_passages // _INDEX["block_passages"])
            third, held = broken_off(indexing, server, int(blocks * 0.6), blocks)
        server.start()
        with server.client() as client:
            tell("killed while indexing, started again")
            fourth = indexing.attempt(2)
            space = client.spaces.wait(_SPACE)
            took = time.monotonic() - began
            if space["state"] != "ready":
                raise SystemExit(f"the space is {space['state']}: {space.get('error')}")
            tell("the space is ready")
            name = space["deployment"]
            documents = every_document(client)
            builds = list(client.spaces.builds(_SPACE))
            made = {kind: client.datasets.get(f"{name}/{kind}") for kind in ("documents", "passages")}
            index = client.models.get(f"{name}/index")
            # Cleaning was not killed: what it made is what both indexes are made of.
            cleaned = builds[0]["clean_version_id"]
            asked = replica(server, client, client.spaces.get(_OTHER)["deployment"])
            caller = Caller(server, [question for _, question in other], asked)
            idle = threading.Event()
            threading.Timer(given.idle_s, idle.set).start()
            caller.during("idle", idle)
            ref = f"{name}/documents@v{made['documents']['version']['number']}"
            tell("the same runs again, with nothing killed")
            parsed = unbroken(server, client, caller, "read", verb="batch", task="document-parsing", inputs={"documents": ref})
            encoder = psutil.Process(replica(server, client, _ENCODER)).cpu_times()
            indexed = unbroken(
                server,
                client,
                caller,
                "indexed",
                verb="train",
                task="passage-retrieval",
                inputs={"passages": f"dataset:{cleaned or parsed.ref}", "encoder": f"deployment:{_ENCODER}"},
                params=_INDEX,
            )
            encoded = psutil.Process(replica(server, client, _ENCODER)).cpu_times()
            encoder_s = encoded.user + encoded.system - encoder.user - encoder.system
            done = [each.num_done for each in (first, second, third, fourth)]
            whole = {"passages": client.datasets.get(parsed.ref), "index": client.models.get(indexed.ref)}
            kept = {"passages": made["passages"], "index": index}
            other_names = {kind: len(each["versions"]) for kind, each in (*made.items(), ("index", index))}
    again = done[0] + done[1] - number
    print(f"{number} documents, {num_passages} passages, {len(builds)} build(s), each killed while reading and while indexing")
    print("| step | done before the kill | in the checkpoint | done after it | again |")
    print("|---|---|---|---|---|")
    print(f"| documents read | {done[0]} | {second.taken} | {done[1]} | {again} |")
    blocks_again = done[2] + done[3] - blocks
    print(f"| blocks of words and vectors | {done[2]} | {held} | {done[3]} | {blocks_again} |")
    print(f"from the first document put in to the ready space, both crashes in it: {took:.0f} s")
    print(f"\nputting in: {put_s / number * 1000:.1f} ms, {put_cpu_s / number * 1000:.1f} CPU-ms of the server per document")
    for said, timed, more in (("reading", parsed, 0.0), ("indexing", indexed, encoder_s)):
        extra = f" and {more / number * 1000:.1f} of the encoder" if more else ""
        print(f"{said}: {timed.wall_s / number * 1000:.1f} ms, {timed.cpu_s / number * 1000:.1f} CPU-ms{extra} per document")
    faults = []
    names = {each["name"] for each in documents}
    if len(documents) != number or len(names) != len({path.name for path in files}):
        faults.append(f"{len(documents)} documents with {len(names)} names")
    if any(count != 1 for count in other_names.values()):
        faults.append(f"versions: {other_names}")
    if again != done[0] - second.taken or second.taken + done[1] != number:
        faults.append("documents were read again that a checkpoint held")
    if blocks_again != done[2] - held:
        faults.append("blocks were made again that a checkpoint held")
    print("\nfiles of the space, which crashed twice, and of the runs that did not:")
    for kind in whole:
        mine, theirs = files_of(kept[kind]), files_of(whole[kind])
        same = sum(theirs.get(path) == digest for path, digest in mine.items())
        print(f"{kind}: {len(mine)} / {len(theirs)}, {same} the same to the bit")
        if mine != theirs:
            unlike = sorted(path for path in mine | theirs if mine.get(path) != theirs.get(path))
            faults.append(f"{kind}: {', '.join(unlike[:8])} differ")
    print("\n| the other space is asked while | answers | p50 ms | p95 ms | CPU-ms of its index per answer |")
    print("|---|---|---|---|---|")
    for name, waits in caller.found.waits_ms.items():
        p95 = statistics.quantiles(waits, n=20)[-1]
        print(f"| {name} | {len(waits)} | {statistics.median(waits):.1f} | {p95:.1f} | {caller.found.cpu_ms[name]:.1f} |")
    print(f"\nfaults: {'; '.join(faults) or 'none'}")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
