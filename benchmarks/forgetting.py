"""Documents forgotten on a running platform, and everything that might still return them asked again.

    python benchmarks/forgetting.py --shared ../shared
    python benchmarks/forgetting.py --shared ../shared --documents 60 --forget 10

A space is filled with passages of CMRC 2018's trial part (Chinese) and of XQuAD (English), a document each. Some, drawn at
random, are asked for by chats and by stored responses, and then forgotten, all at once. For each of these a sentence that no
other document has, and its id, are looked for: by the vector store's search, in the index itself past what the space lets
through, in the answers, in what is kept of answers, on the document's routes, word for word in every file of the server's home,
and in its database. Reports must verify, and must not once they were changed. CPU time is that of the server and its workers.
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
_SPACE = "library"


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
    for place, (text, question) in enumerate(mixed):
        others = [other for other, _ in mixed if other != text]
        spans = [span.text for span in sentences(text) if len(span.text) >= _LEAST_CHARS and "\n" not in span.text]
        own = next((each for each in spans if not any(each in other for other in others)), None)
        if own is not None:
            made.append(Text(f"{place:03}.txt", text, own, question))
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

    def _json(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self._http.post(path, json={"model": f"space:{_SPACE}", **body})
        answer.raise_for_status()
        return dict(answer.json())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--forget", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    all_texts = texts(given.shared, given.documents)
    chosen = random.Random(given.seed).sample(all_texts, given.forget)
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
            before += probes.stored(chosen)
            began, used = time.monotonic(), cpu_s(server.pid)
            begun = [client.spaces.forget(_SPACE, documents[each.name]) for each in chosen]
            done = []
            for each in begun:
                while each["state"] == "running":
                    time.sleep(0.5)
                    each = client.spaces.forgetting(each["id"])
                done.append(each)
            took, used = time.monotonic() - began, cpu_s(server.pid) - used
            after: Counter[str] = Counter()
            for each in chosen:
                after += probes.found(each, documents[each.name], kept[each.name])
            after += probes.stored(chosen)
            key, chain = client.spaces.report_key(), list(client.audit.export())
        others = [each for each in all_texts if each not in chosen]
        answering = sum(bool(client.spaces.search(_SPACE, each.own, limit=5).data) for each in others[:20])
    reports = [each["report"] for each in done if each["report"] is not None]
    good = [report for report in reports if _problem(report, key, chain) is None]
    changed = [report for report in reports if _problem({**report, "removed": {}}, key, chain) is None]
    print(f"{len(all_texts)} documents, {len(chosen)} of them forgotten in {took:.0f} s, {used:.1f} CPU-s in all")
    print(f"{'found by':10}  before  after")
    for name in ("search", "index", "answer", "response", "why", "document", "files", "database"):
        print(f"{name:10}  {before[name]:6}  {after[name]:5}")
    failed = [each["error"]["message"] for each in done if each["state"] != "succeeded"]
    print(f"reports: {len(reports)} issued, {len(good)} verify, {len(changed)} verify after a change")
    print(f"failed: {failed or 'none'}")
    print(f"of 20 others, {answering} are still found")


def _problem(report: dict[str, Any], key: str, chain: list[dict[str, Any]]) -> str | None:
    checked = check_form(report)
    return checked.problem or signature_problem(report, key, checked.public_key) or check_chain(report, chain)


if __name__ == "__main__":
    main()
