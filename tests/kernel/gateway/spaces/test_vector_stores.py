"""`/v1/vector_stores` through the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import update
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.spaces.library import PASSAGES_VERSION, Library, index

from modelworks.contract.media import File
from modelworks.contract.passages import Passage
from modelworks.kernel.dataspace.store import DocumentRow, SpaceRow


@dataclass
class Shelf:
    """A client that may read and write, and the stage behind it."""

    stage: Stage
    client: AsyncOpenAI

    async def file(self, name: str = "a.txt", content: bytes = b"The warranty lasts 24 months.") -> str:
        return (await self.client.files.create(file=(name, content), purpose="user_data")).id

    def built(self, store_id: str, *texts: str) -> None:
        """What a build does: every document that waits is indexed, with those passages."""
        with self.stage.db.transaction() as session:
            documents = self.stage.spaces.documents.list(session, self.stage.project_id, store_id, state="pending").data
            for document in documents:
                index(session, store_id, document.id, len(texts))
        for document in documents:
            lines = [
                Passage(id=f"{document.id}:{at}", document_id=document.id, ordinal=at, text=text).model_dump_json()
                for at, text in enumerate(texts)
            ]
            stored = self.stage.files.blobs.put("\n".join(lines).encode())
            place = File(path=f"passages/{document.id}.jsonl", digest=stored.digest, num_bytes=stored.num_bytes)
            self.stage.catalog.files.setdefault(PASSAGES_VERSION, []).append(place)

    def fail(self, store_id: str, **fault: str) -> None:
        """Have the parser refuse what waits."""
        with self.stage.db.transaction() as session:
            waiting = update(DocumentRow).where(DocumentRow.space_id == store_id, DocumentRow.state == "pending")
            session.execute(waiting.values(state="failed", faults=[fault]))
            session.execute(update(SpaceRow).where(SpaceRow.id == store_id).values(built_revision=SpaceRow.revision))


@pytest.fixture
async def shelf(stage: Stage) -> Shelf:
    key = stage.key(scopes=["read", "write", "inference"])
    return Shelf(stage, stage.client.with_options(api_key=key))


async def test_a_store_is_made_changed_listed_and_deleted(shelf: Shelf) -> None:
    stores = shelf.client.vector_stores
    made = await stores.create(
        name="FAQ / support",
        metadata={"team": "sales"},
        expires_after={"anchor": "last_active_at", "days": 7},
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}},
        file_ids=[await shelf.file()],
    )
    assert (made.object, made.name, made.metadata, made.status) == (
        "vector_store",
        "FAQ support",
        {"team": "sales"},
        "in_progress",
    )
    assert made.file_counts.to_dict() == {"in_progress": 1, "completed": 0, "failed": 0, "cancelled": 0, "total": 1}
    assert made.expires_at == made.created_at + 7 * 24 * 3600
    again = await stores.create(name="FAQ / support")
    assert again.name.startswith("FAQ support ")
    assert (await stores.retrieve(made.id)).to_dict() == made.to_dict()
    changed = await stores.update(made.id, name="Answers", expires_after=None, metadata={})
    assert (changed.name, changed.expires_at, changed.metadata) == ("Answers", None, {})
    third = await stores.create()
    assert [store.id async for store in stores.list(limit=1, order="asc")] == [made.id, again.id, third.id]
    assert [store.id for store in (await stores.list(before=made.id, limit=1)).data] == [again.id]
    deleted = await stores.delete(again.id)
    assert (deleted.id, deleted.deleted) == (again.id, True)
    with pytest.raises(openai.NotFoundError) as refused:
        await stores.retrieve(again.id)
    assert (refused.value.code, refused.value.param) == ("vector_store_not_found", "vector_store_id")


async def test_files_are_put_in_filtered_described_and_taken_out(shelf: Shelf) -> None:
    stores = shelf.client.vector_stores
    store = await stores.create(name="files")
    first = await stores.files.create(store.id, file_id=await shelf.file("a.txt"), attributes={"year": 2024, "ok": True})
    file_id = await shelf.file("b.txt")
    await stores.files.create(store.id, file_id=file_id)
    assert (first.status, first.attributes, first.last_error) == ("in_progress", {"year": 2024, "ok": True}, None)
    shelf.built(store.id, "The warranty lasts 24 months.", "It is white.")
    listed = [file.id async for file in stores.files.list(store.id, order="asc", limit=1)]
    assert listed == [first.id, file_id]
    assert [file.id async for file in stores.files.list(store.id, filter="completed")] == listed[::-1]
    assert [file.id async for file in stores.files.list(store.id, filter="failed")] == []
    content = [page.text async for page in stores.files.content(file_id, vector_store_id=store.id)]
    assert content == ["The warranty lasts 24 months.", "It is white."]
    changed = await stores.files.update(file_id, vector_store_id=store.id, attributes={"year": 1999})
    assert changed.attributes == {"year": 1999}
    gone = await stores.files.delete(file_id, vector_store_id=store.id)
    assert (gone.id, gone.deleted) == (file_id, True)
    for call in (stores.files.retrieve, stores.files.content, stores.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(file_id, vector_store_id=store.id)
    assert (await stores.retrieve(store.id)).file_counts.total == 1
    assert (await shelf.client.files.retrieve(file_id)).id == file_id


async def test_what_cannot_be_read_says_why_and_a_failed_build_ends_the_waiting(shelf: Shelf) -> None:
    stores = shelf.client.vector_stores
    store = await stores.create(name="broken", file_ids=[await shelf.file("a.pdf")])
    shelf.fail(store.id, code="document_encrypted", message="The file is encrypted.", hint="Remove its password.")
    [file] = (await stores.files.list(store.id)).data
    assert file.last_error is not None
    assert (file.status, file.last_error.code) == ("failed", "invalid_file")
    assert file.last_error.message == "The file is encrypted. Remove its password."
    assert (await stores.retrieve(store.id)).file_counts.failed == 1
    other = await stores.files.create(store.id, file_id=await shelf.file("b.txt"))
    with shelf.stage.db.transaction() as session:
        failed = update(SpaceRow).where(SpaceRow.id == store.id)
        session.execute(failed.values(failed_revision=SpaceRow.revision, error={"message": "No room.", "code": "storage_full"}))
    polled = await stores.files.poll(other.id, vector_store_id=store.id, poll_interval_ms=10)
    assert polled.last_error is not None
    assert (polled.last_error.code, polled.last_error.message) == ("server_error", "No room.")


async def test_uploads_are_polled_until_they_are_ready(shelf: Shelf) -> None:
    stores = shelf.client.vector_stores
    store = await stores.create(name="polled")

    async def build() -> None:
        while not (await stores.retrieve(store.id)).file_counts.in_progress:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(shelf.built, store.id, "A text.")

    building = asyncio.create_task(build())
    file = await stores.files.upload_and_poll(
        vector_store_id=store.id, file=("c.txt", b"A text."), poll_interval_ms=20, attributes={"kind": "note"}
    )
    await building
    assert (file.status, file.attributes) == ("completed", {"kind": "note"})


async def test_batches_are_counted_listed_and_cancelled(shelf: Shelf) -> None:
    stores = shelf.client.vector_stores
    store = await stores.create(name="batches")
    ids = [await shelf.file(f"{name}.txt") for name in "abc"]
    done = await stores.file_batches.create(store.id, file_ids=ids[:2], attributes={"part": 1})
    assert (done.status, done.file_counts.in_progress) == ("in_progress", 2)
    shelf.built(store.id, "A text.")
    assert (await stores.file_batches.poll(done.id, vector_store_id=store.id, poll_interval_ms=10)).status == "completed"
    listed = [file.id async for file in stores.file_batches.list_files(done.id, vector_store_id=store.id, limit=1, order="asc")]
    assert listed == ids[:2]
    waiting = await stores.file_batches.create(store.id, files=[{"file_id": ids[2], "attributes": {"part": 2}}])
    cancelled = await stores.file_batches.cancel(waiting.id, vector_store_id=store.id)
    assert (cancelled.status, cancelled.file_counts.cancelled, cancelled.file_counts.total) == ("cancelled", 1, 1)
    assert (await stores.retrieve(store.id)).file_counts.total == 2
    assert (await stores.file_batches.cancel(done.id, vector_store_id=store.id)).status == "completed"
    with pytest.raises(openai.NotFoundError):
        await stores.file_batches.create(store.id, file_ids=[ids[2], "file_none"])
    assert (await stores.retrieve(store.id)).file_counts.total == 2


WRONG: list[tuple[str, dict[str, Any], str | None]] = [
    ("", {"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after.anchor"),
    ("", {"file_ids": ["file_none"]}, "file_ids.0"),
    ("/{id}/files", {}, "file_id"),
    ("/{id}/files", {"file_id": "{file}", "attributes": {"deep": {"a": 1}}}, "attributes.deep"),
    ("/{id}/file_batches", {}, None),
    ("/{id}/search", {"query": []}, "query"),
    ("/{id}/search", {"query": "x", "max_num_results": 51}, "max_num_results"),
    ("/{id}/search", {"query": "x", "filters": {"type": "like", "key": "a", "value": 1}}, "filters.type"),
]


async def test_what_is_wrong_is_refused_with_its_place(shelf: Shelf) -> None:
    store = await shelf.client.vector_stores.create(name="wrong")
    file_id = await shelf.file()
    for path, body, param in WRONG:
        sent = {**body, **({"file_id": file_id} if body.get("file_id") else {})}
        status, answer, _ = await shelf.stage.post(
            "/v1/vector_stores" + path.format(id=store.id), sent, authorization=f"Bearer {shelf.client.api_key}"
        )
        assert status in (400, 404)
        assert (answer["error"]["param"] or "").startswith(param or ""), path


async def test_all_files_of_a_store_are_cut_alike(shelf: Shelf) -> None:
    stores = shelf.client.vector_stores
    store = await stores.create(name="sizes")
    sizes: Any = {"type": "static", "static": {"max_chunk_size_tokens": 300, "chunk_overlap_tokens": 0}}
    file = await stores.files.create(store.id, file_id=await shelf.file(), chunking_strategy=sizes)
    assert file.to_dict()["chunking_strategy"] == sizes
    await stores.files.create(store.id, file_id=await shelf.file("b.txt"), chunking_strategy=sizes)
    await stores.files.create(store.id, file_id=await shelf.file("c.txt"), chunking_strategy={"type": "auto"})
    with shelf.stage.db.reading() as session:
        assert shelf.stage.spaces.get(session, shelf.stage.project_id, store.id).settings.parsing == {"passage_chars": 1200}
    other: Any = {"type": "static", "static": {"max_chunk_size_tokens": 999, "chunk_overlap_tokens": 0}}
    with pytest.raises(openai.BadRequestError) as refused:
        await stores.files.create(store.id, file_id=await shelf.file("d.txt"), chunking_strategy=other)
    assert refused.value.param == "chunking_strategy"


@pytest.fixture
async def searched(shelf: Shelf) -> AsyncIterator[Library]:
    async with AsyncExitStack() as stack:
        library = Library(shelf.stage, stack)
        await library.open()
        file_id = await shelf.file("x200.pdf")
        library.add("x200.pdf", "The warranty of the X200 lasts 24 months.", "It is white.", file_id=file_id)
        library.add("m10.pdf", "The warranty of the M10 lasts 12 months.", attributes={"year": 2020})
        yield library


async def test_a_search_gives_passages_with_their_files(shelf: Shelf, searched: Library) -> None:
    search = shelf.client.vector_stores.search
    page = await search(searched.space_id, query="warranty of the X200")
    best = page.data[0]
    assert (best.filename, best.content[0].text) == ("x200.pdf", "The warranty of the X200 lasts 24 months.")
    assert best.file_id.startswith("file")
    assert best.to_dict()["passage"]["page"] == 1
    assert [each.filename for each in page.data] == ["x200.pdf", "m10.pdf"]
    assert [each.score for each in page.data] == sorted((each.score for each in page.data), reverse=True)
    few = await search(searched.space_id, query=["warranty", "months"], max_num_results=1)
    assert len(few.data) == 1
    year: Any = {"type": "eq", "key": "year", "value": 2020}
    assert [each.filename for each in (await search(searched.space_id, query="warranty", filters=year)).data] == ["m10.pdf"]
    strict = await search(searched.space_id, query="warranty of the X200", ranking_options={"score_threshold": 0.99})
    assert [each.filename for each in strict.data] == ["x200.pdf"]
    empty = await shelf.client.vector_stores.create(name="empty")
    assert (await search(empty.id, query="warranty")).data == []
    records = shelf.stage.used()
    assert {(record.model, record.endpoint) for record in records} == {
        ("space:handbooks", "/v1/vector_stores/search"),
        ("space:empty", "/v1/vector_stores/search"),
    }


async def test_who_may_not_read_write_or_ask_is_refused(shelf: Shelf, searched: Library) -> None:
    stage = shelf.stage
    reader = stage.client.with_options(api_key=stage.key(scopes=["read"]))
    assert (await reader.vector_stores.retrieve(searched.space_id)).name == "handbooks"
    asker = stage.client.with_options(api_key=stage.key(scopes=["inference"], model_allow=["tiny"]))
    for call in (
        reader.vector_stores.create(name="x"),
        reader.vector_stores.delete(searched.space_id),
        reader.vector_stores.search(searched.space_id, query="x"),
        asker.vector_stores.search(searched.space_id, query="x"),
        asker.vector_stores.retrieve(searched.space_id),
    ):
        with pytest.raises(openai.PermissionDeniedError):
            await call


async def test_agents_search_it_as_a_tool(shelf: Shelf, searched: Library) -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "search_space", "arguments": {"space": "handbooks", "query": "warranty of the X200", "limit": 1}},
    }
    _, answer, _ = await shelf.stage.post("/mcp", body, accept="application/json, text/event-stream")
    found = answer["result"]["structuredContent"]["passages"]
    assert [(each["file"], each["page"]) for each in found] == [("x200.pdf", 1)]
