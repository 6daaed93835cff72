"""A published space on a running gateway, and a page that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from fastapi import FastAPI
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.rooms import serve
from tests.kernel.gateway.spaces.library import PRINTER, Library

from modelworks.contract.passages import Place
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.dataspace.publications import PublicationCreate
from modelworks.kernel.gateway import Publishing, install
from modelworks.kernel.storage import BlobStore, LinkSigner

SHOP = "https://shop.example"
QUESTION = "How long does the warranty of the X200 last?"


@dataclass
class Counter:
    """One publication of the library `library`, on a gateway of its own that listens at `url`."""

    library: Library
    clock: FixedClock
    blobs: BlobStore
    url: str
    publication: str
    token: str

    @property
    def stage(self) -> Stage:
        return self.library.stage

    @property
    def base(self) -> str:
        return f"{self.url}/embed/{self.publication}"

    def publish(self, **more: Any) -> tuple[str, str]:
        """Another publication of the same space: its id and its token."""
        return published(self.library, **more)

    async def begin(self, origin: str | None = SHOP, *, token: str | None = None, **headers: str) -> aiohttp.ClientResponse:
        """Exchange the token as the script in a page of that origin does."""
        if origin is not None:
            headers["origin"] = origin
        sent = self.token if token is None else token
        return await self.stage.http.post(f"{self.base}/session", data=sent.encode(), headers=headers)

    async def session(self, origin: str = SHOP) -> str:
        """The token of a session."""
        begun = await self.begin(origin)
        assert begun.status == 200, await begun.text()
        return str((await begun.json())["token"])

    async def post(self, what: str, session: str, body: Any, *, origin: str | None = "") -> aiohttp.ClientResponse:
        """Ask as the chat's own page does, or as a page of another origin."""
        headers = {"authorization": f"Bearer {session}"}
        if origin is not None:
            headers["origin"] = origin or self.url
        return await self.stage.http.post(f"{self.base}/{what}", json=body, headers=headers)

    async def ask(self, *texts: str, session: str | None = None, parent: str = SHOP) -> dict[str, Any]:
        """The answer to a dialogue."""
        response = await self.post("ask", session or await self.session(parent), question(*texts, parent=parent))
        text = await response.text()
        assert response.status == 200, text
        events = [orjson.loads(block[6:]) for block in text.split("\n\n") if block.startswith("data: {")]
        assert text.endswith("data: [DONE]\n\n"), text
        assert "".join(event["text"] for event in events if "text" in event) == events[-1]["answer"]["text"]
        answer: dict[str, Any] = events[-1]["answer"]
        return answer


def question(*texts: str, parent: str = SHOP) -> dict[str, Any]:
    """A dialogue, the reader's turn being every other one."""
    asked = texts or (QUESTION,)
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(asked)]
    return {"messages": turns, "parent": parent}


def published(library: Library, **more: Any) -> tuple[str, str]:
    """Publish the library's space: the publication's id and its token."""
    stage = library.stage
    admin = Principal(key_id="key_admin", project_id=stage.project_id, scopes=frozenset({"admin"}))
    asked = PublicationCreate(**{"name": "shop", "origins": [SHOP], **more})
    with stage.db.transaction() as session:
        made, token = stage.spaces.publications.create(session, admin, library.space_id, asked)
    assert token is not None
    return made.id, token


@pytest.fixture
async def counter(stage: Stage, tmp_path: Path) -> AsyncIterator[Counter]:
    async with AsyncExitStack() as stack:
        library = Library(stage, stack)
        await library.open()
        library.add("x200.pdf", *PRINTER, place=Place(page=3, headings=("Facts",)))
        clock, blobs = FixedClock(), BlobStore(str(tmp_path / "published"))
        app = FastAPI()
        publishing = Publishing(stage.spaces, blobs, LinkSigner(b"s" * 32), clock)
        install(app, stage.gateway, max_body_bytes=2_000_000, publishing=publishing)
        url = await serve(app, stack)
        publication, token = published(library)
        yield Counter(library, clock, blobs, url, publication, token)
