"""A data space over the stage's gateway whose index is a toy: passages that share words, as many as are asked for."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from sqlalchemy import update
from sqlalchemy.orm import Session
from tests.kernel.gateway.conftest import Stage, chunk, listen, usage

from modelworks.contract.passages import Hit, Passage, Place, SearchInput, SearchOutput
from modelworks.kernel.dataspace.schemas import AnsweringSettings, SpaceCreate, SpaceSettings
from modelworks.kernel.dataspace.store import DocumentRow, SpaceRow
from modelworks.kernel.gateway.spaces.wording import terms

INDEX_VERSION, PASSAGES_VERSION = "mdl_index", "ds_passages"
PRINTER = (
    "The X200 is a laser printer for offices.",
    "The warranty of the X200 lasts 24 months from the date of purchase. Returns are not possible after 14 days.",
    "The drawer of the X200 holds 250 sheets of paper.",
)


@dataclass
class Library:
    """One space, its passages, and everything that its index was asked."""

    stage: Stage
    stack: AsyncExitStack
    name: str = "handbooks"
    space_id: str = ""
    passages: list[Passage] = field(default_factory=list)
    asked: list[SearchInput] = field(default_factory=list)
    vectors: list[list[str]] = field(default_factory=list)

    async def open(self, **settings: Any) -> None:
        """Make the space with those settings, and deploy its index, an encoder, a reranker and a language model."""
        answering = {name: settings.pop(name) for name in list(settings) if name in AnsweringSettings.model_fields}
        made = SpaceSettings(answering=AnsweringSettings(**answering), **settings)
        with self.stage.db.transaction() as session:
            space = self.stage.spaces.create(session, self.stage.project_id, None, SpaceCreate(name=self.name, settings=made))
            self.space_id = space.id
        app = web.Application()
        app.router.add_post("/invoke", self._search)
        url = await listen(app, self.stack)
        self.stage.deploy(space.deployment, task="passage-retrieval", urls=[url], version_id=INDEX_VERSION)
        self.stage.deploy("writer", max_model_len=4096)

    def add(self, name: str, *texts: str, place: Place | None = None, **more: Any) -> str:
        """A document with those passages, indexed; returns its id."""
        with self.stage.db.transaction() as session:
            document, _ = self.stage.spaces.documents.put(
                session,
                self.stage.project_id,
                self.space_id,
                name=name,
                digest="sha256:" + name.encode().hex().ljust(64, "0")[:64],
                num_bytes=sum(map(len, texts)),
                **more,
            )
            index(session, self.space_id, document.id, len(texts))
        for ordinal, text in enumerate(texts):
            self.passages.append(
                Passage(
                    id=f"{document.id}:{ordinal}",
                    document_id=document.id,
                    ordinal=ordinal,
                    text=text,
                    place=place or Place(page=ordinal + 1, headings=("Facts",)),
                )
            )
        return document.id

    async def _search(self, request: web.Request) -> web.Response:
        asked = SearchInput.model_validate_json(await request.read())
        self.asked.append(asked)
        hits = [self._hits(query, asked) for query in asked.queries]
        return web.Response(body=SearchOutput(hits=hits).model_dump_json().encode(), content_type="application/json")

    def _hits(self, query: str, asked: SearchInput) -> list[Hit]:
        wanted = terms(query)
        words = wanted.words | wanted.numbers
        found = []
        for passage in self.passages:
            if asked.documents is not None and passage.document_id not in asked.documents:
                continue
            if passage.document_id in asked.without:
                continue
            held = terms(passage.text)
            if shared := len(words & (held.words | held.numbers)):
                found.append(Hit(passage=passage, score=shared / len(words), lexical_rank=1))
        found.sort(key=lambda hit: -hit.score)
        return found[: asked.limit]

    def writes(self, *texts: str) -> None:
        """Have the language model write these texts, one for each request, the last one again and again."""
        waiting = list(texts)

        async def lines(_request: dict[str, Any]) -> Any:
            text = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            yield chunk(usage=usage(7, 0))
            for at in range(0, len(text), 9):
                yield chunk(text[at : at + 9])
            yield chunk(finish_reason="stop", usage=usage(7, len(text)))

        self.stage.replica.lines = lines

    async def ask(self, *texts: str, **more: Any) -> dict[str, Any]:
        """The message that answers a dialogue, the user's turn being every other one."""
        status, body, _ = await self.stage.post("/v1/chat/completions", self.body(*texts, **more))
        assert status == 200, body
        found: dict[str, Any] = {**body["choices"][0]["message"], "usage": body["usage"]}
        return found

    def body(self, *texts: str, **more: Any) -> dict[str, Any]:
        turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
        return {"model": f"space:{self.name}", "messages": turns, **more}

    @property
    def prompts(self) -> list[list[dict[str, Any]]]:
        """The messages that the language model was given, request by request."""
        return [request["messages"] for request in self.stage.replica.requests]


def index(session: Session, space_id: str, document_id: str, num_passages: int) -> None:
    """Have an index of the space hold a document, as a build would."""
    of_document = update(DocumentRow).where(DocumentRow.id == document_id)
    session.execute(of_document.values(indexed_digest=DocumentRow.digest, state="indexed", num_passages=num_passages))
    of_space = update(SpaceRow).where(SpaceRow.id == space_id)
    session.execute(
        of_space.values(index_version_id=INDEX_VERSION, passages_version_id=PASSAGES_VERSION, built_revision=SpaceRow.revision)
    )
