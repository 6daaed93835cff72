"""Documents forgotten on a running platform, and everything that might still return them asked again.

    python benchmarks/forgetting.py --shared ../shared
    python benchmarks/forgetting.py --shared ../shared --documents 60 --forget 10

A space is filled with passages of CMRC 2018's trial part (Chinese) and of XQuAD (English), a document each. Some, drawn at
random, are asked for by chats and by stored responses, and then forgotten, all at once. For each of these a sentence that no
other document has, and its id, are looked for: by the vector store's search, in the index itself past what the space lets
through, in the answers, in what is kept of answers, on the document's routes, in the lists of documents and of the store's
files, in the files of the space's data sets and index as their routes name them, in the space's events, word for word in
every file of the server's home, and in its database. Reports must verify, and must not once they were changed. CPU time is
that of the server and its workers. A few more are then forgotten one after the other, each awaited: what an index built for
one alone costs.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from private_server import PrivateServer

from modelworks.cli.forgetting import signature_problem
from modelworks.client import Modelworks
from modelworks.contract.errors import NotFound
from modelworks.kernel.gateway.spaces.wording import sentences
from modelworks.proof import check_chain, check_form

_LEAST_CHARS = 16
_PLACES = (
    "search",
    "index",
    "answer",
    "response",
    "why",
    "document",
    "lists",
    "events",
    "data sets",
    "index files",
    "files",
    "database",
)
_SPACE = "library"
#: What its builds make, beside the index.
_SETS = ("documents", "passages")


@dataclass(frozen=True)
class Text:
    name: str
    text: str
    #: A sentence that no other text has.
    own: str
    question: str


def texts(shared: Path, number: int) -> list[Text]:
    """Passages of both languages in turn, each with a question about it."""
    found: list[list[tuple[str, str]]] = []
    for place in ("cmrc2018/cmrc2018_trial.json", "xquad/xquad.en.dev.json"):
        articles = json.loads((shared / "data" / "04-docqa" / place).read_text("utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        found.append([(each["context"], each["qas"][0]["question"]) for each in paragraphs])
    mixed = [each for pair in zip(*found, strict=False) for each in pair][:number]
    made = []
    for at, (text, question) in enumerate(mixed):
        others = [other for other, _ in mixed if other != text]
        spans = [span.text for span in sentences(text) if len(span.text) >= _LEAST_CHARS and "\n" not in span.text]
        own = next((each for each in spans if not any(each in other for other in others)), None)
        if own is not None:
            made.append(Text(f"{at:03}.txt", text, own, question))
    return made


def cpu_s(pid: int) -> float:
    """CPU seconds of a server with its processes, those that have ended too."""
    server = psutil.Process(pid)
    own = server.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in server.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return float(total)


class Probes:
    """What still returns something of a text, by where."""

    def __init__(self, server: PrivateServer, client: Modelworks, http: httpx.Client) -> None:
        self._server = server
        self._client = client
        self._http = http
        space = client.spaces.get(_SPACE)
        self._space_id, self._index = space["id"], space["deployment"]

    def ask(self, text: Text) -> tuple[str, str, str]:
        """What the space says, and the ids of that chat and of a stored response."""
        chat = self._json("/v1/chat/completions", messages=[{"role": "user", "content": text.question}])
        response = self._json("/v1/responses", input=text.question)
        return json.dumps(chat["choices"], ensure_ascii=False), chat["id"], response["id"]

    def found(self, text: Text, document_id: str, kept: tuple[str, str, str]) -> Counter[str]:
        """Where it is found, each once."""
        found: Counter[str] = Counter()
        hits = self._client.spaces.search(_SPACE, text.own, limit=20).data
        found["search"] = any(text.own in json.dumps(hit, ensure_ascii=False) for hit in hits)
        asked = {"queries": [text.own], "limit": 50}
        output = self._client.tasks.invoke("passage-retrieval", self._index, asked)
        found["index"] = any(hit["passage"]["document_id"] == document_id for hit in output.get("output", output)["hits"][0])
        said, _, _ = self.ask(text)
        found["answer"] = document_id in said or text.own in said
        # What was answered from other documents stays.
        found["response"] = document_id in self._http.get(f"/v1/responses/{kept[2]}").text
        found["why"] = document_id in self._http.get(f"/api/spaces/answers/{kept[1]}").text
        for path in ("", "/content"):
            answer = self._http.get(f"/v1/vector_stores/{self._space_id}/files/{document_id}{path}")
            found["document"] |= answer.status_code == 200
        with suppress(NotFound):
            found["document"] |= bool(self._client.spaces.document(_SPACE, document_id))
        return found

    def stored(self, wanted: list[Text]) -> Counter[str]:
        """How many of the texts' sentences stand in files of the server's home, by folder."""
        home = self._server.folder / "home"
        found: Counter[str] = Counter()
        left = {text.name: [text.own.encode(), json.dumps(text.own)[1:-1].encode()] for text in wanted}
        hits: dict[str, set[str]] = {}
        for path in home.rglob("*"):
            if not path.is_file() or path.is_symlink():
                continue
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # a worker's, which has ended
            top = path.relative_to(home).parts[0]
            place = "database" if ".db" in top or ".sqlite" in top else "files"
            hits.setdefault(place, set()).update(name for name, forms in left.items() if any(form in data for form in forms))
        for place, names in hits.items():
            found[place] = len(names)
        return found

    def listed(self, wanted: dict[str, Text]) -> Counter[str]:
        """How many of the texts, by id of their documents, are in lists, in events, in the current data sets and index."""
        documents = {each["id"] for each in self._client.spaces.documents(_SPACE, limit=1000)}
        names: set[str] = set()
        after: dict[str, str] = {}
        while True:
            asked = {"limit": "100", **after}
            page = self._http.get(f"/v1/vector_stores/{self._space_id}/files", params=asked).raise_for_status().json()
            names |= {each["id"] for each in page["data"]}
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        events, seq = "", 0
        while page := self._client.spaces.events(_SPACE, after_seq=seq).data:
            events += json.dumps(page, ensure_ascii=False)
            seq = page[-1]["seq"]
        held = {"data sets": self._held([self._client.datasets.get(f"{self._index}/{each}") for each in _SETS])}
        held["index files"] = self._held([self._client.models.get(f"{self._index}/index")])
        found: Counter[str] = Counter()
        found["lists"] = len(wanted.keys() & (documents | names))
        found["events"] = sum(document_id in events for document_id in wanted)
        for place, data in held.items():
            found[place] = sum(
                any(form in data for form in (document_id.encode(), text.own.encode(), json.dumps(text.own)[1:-1].encode()))
                for document_id, text in wanted.items()
            )
        return found

    def _held(self, details: list[dict[str, Any]]) -> bytes:
        """Paths and bytes of the files of the newest versions."""
        parts = []
        for detail in details:
            for file in detail["version"]["files"]:
                parts.append(file["path"].encode())
                parts.append(self._http.get(f"/api/blobs/{file['digest']}").raise_for_status().content)
        return b"\n".join(parts)

    def _json(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self._http.post(path, json={"model": f"space:{_SPACE}", **body})
        answer.raise_for_status()
        return dict(answer.json())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--forget", type=int, default=50)
    parser.add_argument("--alone", type=int, default=3, help="so many more, one after the other")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    all_texts = texts(given.shared, given.documents)
    drawn = random.Random(given.seed).sample(all_texts, given.forget + given.alone)
    chosen, single = drawn[: given.forget], drawn[given.forget :]
    with PrivateServer(shown=False, slots_cpu="1", log_level="error") as server, server.client() as client:
        folder = server.folder / "texts"
        folder.mkdir()
        client.spaces.create(_SPACE)
        for each in all_texts:
            (folder / each.name).write_text(each.text, encoding="utf-8")
            client.spaces.put(_SPACE, folder / each.name, name=each.name)
        client.spaces.wait(_SPACE, poll_s=0.5)
        documents = {each["name"]: each["id"] for each in client.spaces.documents(_SPACE, limit=1000)}
        headers = {"Authorization": f"Bearer {server.key}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
            probes = Probes(server, client, http)
            kept = {each.name: probes.ask(each) for each in chosen}
            time.sleep(1)  # notes of answers are written beside them
            before: Counter[str] = Counter()
            for each in chosen:
                before += probes.found(each, documents[each.name], kept[each.name])
            before += probes.stored(chosen) + probes.listed({documents[each.name]: each for each in chosen})
            num_builds = len(client.spaces.builds(_SPACE).data)
            began, used = time.monotonic(), cpu_s(server.pid)
            begun = [client.spaces.forget(_SPACE, documents[each.name]) for each in chosen]
            done = [_ended(client, each) for each in begun]
            took, used = time.monotonic() - began, cpu_s(server.pid) - used
            num_builds = len(client.spaces.builds(_SPACE).data) - num_builds
            after: Counter[str] = Counter()
            for each in chosen:
                after += probes.found(each, documents[each.name], kept[each.name])
            after += probes.stored(chosen) + probes.listed({documents[each.name]: each for each in chosen})
            began, alone_s = time.monotonic(), cpu_s(server.pid)
            done += [_ended(client, client.spaces.forget(_SPACE, documents[each.name])) for each in single]
            alone_took, alone_s = time.monotonic() - began, cpu_s(server.pid) - alone_s
            key, chain = client.spaces.report_key(), list(client.audit.export())
        others = [each for each in all_texts if each not in drawn]
        answering = sum(bool(client.spaces.search(_SPACE, each.own, limit=5).data) for each in others[:20])
    reports = [each["report"] for each in done if each["report"] is not None]
    good = [report for report in reports if _problem(report, key, chain) is None]
    changed = [report for report in reports if _problem({**report, "removed": {}}, key, chain) is None]
    number = len(chosen)
    print(f"{len(all_texts)} documents, {number} of them forgotten in {took:.0f} s, {used:.1f} CPU-s in all")
    print(f"indexes built for these: {num_builds}")
    print(f"each, of these at once: {took / number:.1f} s, {used / number:.2f} CPU-s")
    if single:
        print(f"each, one after the other: {alone_took / len(single):.1f} s, {alone_s / len(single):.2f} CPU-s")
    print(f"{'found by':11}  before  after")
    for name in _PLACES:
        print(f"{name:11}  {before[name]:6}  {after[name]:5}")
    failed = [each["error"]["message"] for each in done if each["state"] != "succeeded"]
    print(f"reports: {len(reports)} issued, {len(good)} verify, {len(changed)} verify after a change")
    print(f"failed: {failed or 'none'}")
    print(f"of 20 others, {answering} are still found")


def _ended(client: Modelworks, forgetting: dict[str, Any]) -> dict[str, Any]:
    """What became of it, at the end."""
    while forgetting["state"] == "running":
        time.sleep(0.5)
        forgetting = client.spaces.forgetting(forgetting["id"])
    return forgetting


def _problem(report: dict[str, Any], key: str, chain: list[dict[str, Any]]) -> str | None:
    checked = check_form(report)
    return checked.problem or signature_problem(report, key, checked.public_key) or check_chain(report, chain)


if __name__ == "__main__":
    main()
