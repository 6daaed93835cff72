"""A data space and all that hangs on it, for requests to name: one that answers, and new ones for requests that end things."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from typing import Any

import requests
from fuzz_bodies import MODEL

#: The page that may hold the chat of the published space.
SHOP = "https://shop.example"
GUIDE = "guide"
QUESTION = "With which word does the safe of department 2 open?"
_WORDS = ("amber", "basalt", "cobalt", "dolomite")
#: Routes of spaces that change nothing which others stand on: these name the space that answers, all others a new one.
_KEEPS = ("/build", "/learn", "/learn/rollback", "/cleaning/preview", "/search", "/sync", "/publications")
_STARTS = ("/api/spaces", "/api/forgettings", "/v1/vector_stores", "/embed/", "/share/")

Make = Callable[..., Any]


def _text(number: int) -> bytes:
    said = (
        f"# Department {number}\n\nThe safe of department {number} opens with the word {_WORDS[number]}.\n\nLunch is at noon."
    )
    return said.encode()


def _archive() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("leave.md", "# Leave\n\nEvery employee has 30 days of paid leave a year.")
        archive.writestr("travel.html", "<h1>Travel</h1><p>Trains are booked in second class.</p>")
    return packed.getvalue()


class Shelf:
    """What ids of spaces, documents, sources, publications and answers may name.

    Args:
        make: asks the server, and ends the whole run where it refuses: method, path, body.
    """

    def __init__(self, url: str, http: requests.Session, make: Make) -> None:
        self._url, self._http, self._make = url, http, make
        self._standing: dict[str, str] = {}
        self._kept: dict[str, str] = {}
        self._number = 0
        self._session = ("", -1000.0)
        #: The published space: its token, and what was answered from it.
        self.token = ""
        self.answer: dict[str, Any] = {}
        self._link: dict[str, str] = {}

    def blob(self, data: bytes) -> str:
        """Store bytes; their digest."""
        return str(self._make("PUT", "/api/blobs", data=data)["digest"])

    def file(self, number: int) -> str:
        """A file of /v1/files."""
        files = {"file": (f"department-{number}.md", _text(number)), "purpose": (None, "assistants")}
        return str(self._make("POST", "/v1/files", files=files)["id"])

    # What there is.

    def standing(self) -> dict[str, str]:
        """Ids of the space that answers, and of one of everything in it."""
        if not self._standing:
            self._standing = self._new(GUIDE) | {"name": "chat.js"}
            self._until_built()
            self._publish()
            space = f"/api/spaces/{GUIDE}"
            learned = self._make("POST", f"{space}/learn")
            self._until_learned(f"{space}/learnings/{learned['id']}")
            preview = self._make("POST", f"{space}/cleaning/preview", {"cleaning": {"duplicates": True, "min_chars": 5}})
            spare = self._make("POST", f"{space}/documents", {"digest": self.blob(_text(3)), "name": "spare.md"})["document"]
            forgotten = self._make("POST", f"{space}/documents/{spare['id']}/forget")
            said = {"model": f"space:{GUIDE}", "messages": [{"role": "user", "content": QUESTION}]}
            told = self._make("POST", "/v1/chat/completions", said)
            self._standing |= {
                "run_id": preview["id"],
                "forgetting_id": forgotten["id"],
                "answer_id": told["id"],
                "learning_id": learned["id"],
            }
        return self._standing

    def names(self, method: str, path: str) -> dict[str, str] | None:
        """Ids for the parameters of a path below spaces; None where it is another's."""
        if not path.startswith(_STARTS):
            return None
        standing = self.standing()
        if method == "GET" or path.startswith("/embed") or path.endswith(_KEEPS):
            return standing
        if not self._kept:
            self._number += 1
            self._kept = self._new(f"{GUIDE}-{self._number}")
        return self._kept

    def fields(self) -> dict[str, Any]:
        """What fields of bodies may name, by their names, at any depth."""
        standing = self.standing()
        return {
            "vector_store_ids": [standing["vector_store_id"]],
            "file_ids": [standing["file_id"]],
            "file_id": standing["file_id"],
            "digest": self.blob(_text(1)),
            "space": GUIDE,
            "language_model": MODEL,
            "parent": SHOP,
            **self.answer,
        }

    def dressed(self, path: str) -> tuple[dict[str, str], dict[str, str]]:
        """Headers and query with which a route of a published space is asked by a page that may."""
        if path.endswith("/session"):
            return {"origin": SHOP}, {}
        if path.endswith(("/ask", "/feedback")) and path.startswith("/embed/"):
            return {"origin": self._url, "authorization": f"Bearer {self._begun()}"}, {}
        return {}, (self._link if path.startswith("/embed/") and "/documents/" in path else {})

    def tidy(self) -> None:
        """Delete the new spaces and what requests made of them; their runs go with them."""
        self._kept = {}
        if not self._standing:
            return
        for each in self._make("GET", "/api/spaces?limit=1000")["data"]:
            if each["name"] != GUIDE:
                self._http.delete(f"{self._url}/api/spaces/{each['id']}", timeout=60)
        for each in self._make("GET", "/api/runs?limit=100")["data"]:
            if each["state"] in ("queued", "running"):
                self._http.post(f"{self._url}/api/runs/{each['id']}/cancel", timeout=60)

    # How it is made.

    def _new(self, name: str) -> dict[str, str]:
        """A space with a document, a file, a batch, a source and a publication, none of which need be read yet."""
        settings = {
            "language_model": MODEL,
            "cleaning": {"duplicates": True},
            "learning": {"max_steps": 1, "max_samples": 10, "max_questions": 0, "max_answers": 1, "test_share": 0.5},
        }
        space = self._make("POST", "/api/spaces", {"name": name, "settings": settings})["id"]
        file_id = self.file(2)
        document = self._make(
            "POST", f"/api/spaces/{name}/documents", {"digest": self.blob(_text(0)), "name": "department-0.md"}
        )
        self._make("POST", f"/v1/vector_stores/{space}/files", {"file_id": file_id, "attributes": {"year": 2026}})
        batch = self._make("POST", f"/v1/vector_stores/{space}/file_batches", {"file_ids": [self.file(1)]})
        source = {"kind": "archive", "digest": self.blob(_archive()), "name": "house.zip"}
        made = self._make("POST", f"/api/spaces/{name}/sources", {"source": source})
        published = {"name": "shop", "origins": [SHOP], "share": True}
        rates = {"requests_per_minute": 100_000, "requests_per_minute_per_address": 100_000}
        publication = self._make("POST", f"/api/spaces/{name}/publications", {**published, **rates})
        self.token = self.token or publication["token"]
        return {
            "space": name,
            "vector_store_id": space,
            "document_id": document["document"]["id"],
            "file_id": file_id,
            "batch_id": batch["id"],
            "source_id": made["id"],
            "publication": publication["publication"]["id"],
        }

    def _until_built(self) -> None:
        deadline = time.monotonic() + 300
        while True:
            space = self._make("GET", f"/api/spaces/{GUIDE}")
            if space["state"] == "ready" and space["is_current"] and space["documents"]["indexed"] >= 5:
                return
            if space["state"] == "failed" or time.monotonic() > deadline:
                raise SystemExit(f"the space is not built: {json.dumps(space)[:2000]}")
            time.sleep(0.2)

    def _until_learned(self, path: str) -> None:
        deadline = time.monotonic() + 300
        while (found := self._make("GET", path))["state"] == "running":
            if time.monotonic() > deadline:
                raise SystemExit(f"what the space learns does not end: {json.dumps(found)[:2000]}")
            time.sleep(0.5)

    def _begun(self) -> str:
        """A session of the page that may ask; they end after a quarter of an hour."""
        if time.monotonic() - self._session[1] > 300:
            path = f"/embed/{self._standing['publication']}/session"
            begun = self._make("POST", path, data=self.token, headers={"origin": SHOP})
            self._session = (str(begun["token"]), time.monotonic())
        return self._session[0]

    def _publish(self) -> None:
        """Ask the published space once, as a page does, for what can be said of the answer and for a link to a document."""
        path = f"/embed/{self._standing['publication']}/ask"
        headers, _ = self.dressed(path)
        asked = {"messages": [{"role": "user", "content": QUESTION}], "parent": SHOP}
        told = self._http.post(self._url + path, json=asked, headers=headers, timeout=120)
        found = [json.loads(line[6:]) for line in told.text.splitlines() if '"ticket"' in line]
        if not found or not found[0]["answer"]["citations"]:
            raise SystemExit(f"the published space answers {told.status_code}: {told.text[:1000]}")
        answer = found[0]["answer"]
        self.answer = {name: answer[name] for name in ("ticket", "status", "documents")}
        self.answer |= {"question": QUESTION, "answer": answer["text"]}
        _, _, query = answer["citations"][0]["url"].partition("#")[0].partition("?")
        self._link = dict(part.split("=", 1) for part in query.split("&"))
        self._standing["document_id"] = answer["documents"][0]
