"""Tables of a data space: a snapshot for each CSV file and workbook, and for tables of a database that refer to each other.

Snapshots lie in a folder of this machine, by space and by the digests of the documents that they are made of; they are made
when a space has changed, and go with the first of these documents. One of several tables holds those alone that the caller may
read: callers with other rights have another one. Reading files, questions and queries all happens in processes of their own
(`modelworks.tables`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import structlog
from pydantic import BaseModel, Field

from modelworks.contract.errors import ModelworksError
from modelworks.contract.passages import TABLE_ROWS
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.events import Events
from modelworks.kernel.dataspace import DataspaceService, Space, SpaceDocument
from modelworks.kernel.dataspace.service import TOPIC
from modelworks.kernel.dataspace.store import SpaceRow
from modelworks.kernel.storage import BlobStore

log = structlog.get_logger(__name__)

#: Questions that are read at the same time; files are read one after the other, and hold up no question.
_AT_ONCE: Final = 2
#: How long a file may be read, a question may take, and a question waits for snapshots that are still missing.
_BUILD_S, _ASK_S, _WAIT_S = 300.0, 15.0, 10.0
#: Tables of one snapshot; of a source in which more refer to each other, each is asked for itself.
_MAX_JOINED: Final = 50
#: Of the line that describes a table, and tables whose references are remembered.
_MAX_HEAD_BYTES, _MAX_KNOWN = 4 << 20, 10_000
_MEMBERS: Final = ".members"
#: Of what a process says about a file without tables.
_FAULT_CHARS: Final = 500


#: A schema and tables in words, to what a model wrote; None where it could not be asked.
Write = Callable[[dict[str, Any], str], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """Rows that were computed, the query, and the document of its table; `documents` are those of all tables that were read.

    `kind` is count, aggregate, share, top, groups or list; `units` are by column, `conditions` in words.
    """

    document: SpaceDocument
    documents: Sequence[SpaceDocument]
    sql: str
    kind: str
    base: str
    tables: Sequence[dict[str, Any]]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    units: dict[str, str]
    conditions: Sequence[str]
    is_cut: bool
    #: rules, or the deployment of the language model that wrote the query.
    by: str = "rules"

    def as_part(self) -> dict[str, Any]:
        """For programs: in the field `grounding` of an answer."""
        return {
            "sql": self.sql,
            "document_id": self.document.id,
            "filename": self.document.name,
            "tables": [*self.tables],
            "columns": [{"name": name, "unit": self.units.get(name)} for name in self.columns],
            "rows": [[*row] for row in self.rows],
            "is_cut": self.is_cut,
            "is_computed": True,
            "written_by": self.by,
        }


class SpaceTableColumn(BaseModel):
    """A column, with what its cells are."""

    name: str
    kind: Literal["integer", "number", "date", "text"]
    unit: str | None = None
    comment: str | None = None
    num_distinct: int
    num_empty: int
    least: int | float | str | None = None
    greatest: int | float | str | None = None
    samples: list[str] = Field(default_factory=list)


class SpaceTable(BaseModel):
    """A table of a file, or of a database; or, where `state` is not ready, a document of which none is there."""

    object: str = "space.table"
    state: Literal["ready", "making", "no_table"]
    document_id: str
    filename: str
    name: str | None = None
    place: str | None = Field(default=None, description="Cells of a sheet.")
    comment: str | None = None
    num_rows: int | None = None
    num_left_out: int | None = Field(
        default=None, description="Rows that did not fit the heading, or whose documents were removed or closed."
    )
    columns: list[SpaceTableColumn] = Field(default_factory=list)
    fault: str | None = Field(default=None, description="Why the document is no table.")


class SpaceTables:
    """Snapshots of the spaces of this machine.

    Args:
        folder: holds nothing else; it can be deleted at any time.
    """

    def __init__(self, spaces: DataspaceService, blobs: BlobStore, folder: Path) -> None:
        self._spaces = spaces
        self._blobs = blobs
        self._folder = folder
        self._askers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="space-tables-ask")
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="space-tables-make")
        self._unsubscribe: Callable[[], None] | None = None
        self._references: dict[str, Sequence[str]] = {}

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self, events: Events) -> None:
        """Follow the spaces: snapshots are made and removed after each change."""
        self._unsubscribe = events.subscribe(TOPIC, self._changed)

    def close(self) -> None:
        """End after what is under way."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        for pool in (self._askers, self._maker):
            pool.shutdown(cancel_futures=True)

    def _changed(self, _topic: str, payload: dict[str, Any]) -> None:
        with suppress(RuntimeError):  # the server ends
            self._maker.submit(self._follow, payload["space_id"])

    def _follow(self, space_id: str) -> None:
        try:
            with self._spaces.db.reading() as session:
                owner = session.get(SpaceRow, space_id)
                documents = [] if owner is None or owner.deleted_at else self._spaces.documents.tabular(session, owner, None)
            self._sweep(space_id, {each.digest for each in documents})
            for each in self._grouped(documents):
                self._made(each)
        except Exception:
            # A question makes what is missing.
            log.exception("the tables of a space could not be followed", space_id=space_id)

    # -- questions -----------------------------------------------------------------------------------------------------

    async def answer(self, principal: Principal, space: Space, question: str) -> TableAnswer | None:
        """The answer, where the question is about a table that the caller may read; None leaves it to the passages."""
        snapshots = await self._readable(principal, space)
        if not snapshots:
            return None
        return await self._told_of(principal, space, snapshots, {"op": "ask", "question": question})

    async def written(self, principal: Principal, space: Space, question: str, model: str, write: Write) -> TableAnswer | None:
        """The answer of a query that a language model describes in a form of the tables that the caller may read.

        Args:
            model: told as who wrote it. write: has it fill in the form, a JSON schema, about tables in words.

        None where no table is named, the model chooses none, or what it wrote is refused; the log says why.
        """
        snapshots = await self._readable(principal, space)
        if not snapshots:
            return None
        loop = asyncio.get_running_loop()
        asked = {"op": "offer", "snapshots": [str(place) for place, _ in snapshots], "question": question}
        form = (await loop.run_in_executor(self._askers, _run, asked, _ASK_S) or {}).get("offer")
        if form is None:
            return None
        text = await write(form["schema"], form["described"])
        if text is None:
            return None
        wish = {"op": "compose", "question": question, "written": text}
        return await self._told_of(principal, space, snapshots, wish, by=model)

    async def _readable(self, principal: Principal, space: Space) -> list[tuple[Path, _Group]]:
        """The snapshots of what the caller may read; none while some are being made."""
        documents = await asyncio.get_running_loop().run_in_executor(None, self._documents, principal, space)
        return (await self._snapshots(documents) if documents else None) or []

    async def _told_of(
        self,
        principal: Principal,
        space: Space,
        snapshots: Sequence[tuple[Path, _Group]],
        wish: dict[str, Any],
        *,
        by: str = "rules",
    ) -> TableAnswer | None:
        loop = asyncio.get_running_loop()
        asked = {**wish, "snapshots": [str(place) for place, _ in snapshots]}
        reply = await loop.run_in_executor(self._askers, _run, asked, _ASK_S) or {}
        found = reply.get("answer")
        if found is None:
            if reply.get("fault"):
                log.info("a query that a model described is refused", model=by, reason=reply["fault"])
            return None
        of = snapshots[found["place"]][1].documents
        read = [of[each["origin"]] for each in found["tables"]]
        # What was removed meanwhile, or changed, is not told.
        still = {(each.id, each.digest) for each in await loop.run_in_executor(None, self._documents, principal, space)}
        if not {(each.id, each.digest) for each in read} <= still:
            return None
        return TableAnswer(
            read[[each["name"] for each in found["tables"]].index(found["base"])],
            read,
            found["sql"],
            found["kind"],
            found["base"],
            [
                {"name": each["name"], "place": each["place"], "num_rows": each["num_rows"], "document_id": document.id}
                for each, document in zip(found["tables"], read, strict=True)
            ],
            found["columns"],
            found["rows"],
            found["units"],
            found["conditions"],
            found["is_cut"],
            by,
        )

    async def listed(self, principal: Principal, space: Space) -> list[SpaceTable]:
        """The tables that `answer` would look into, by document; those that hold none with the reason.

        Raises:
            NotFound: the space is not there.
        """
        if space.state == "expired" or space.settings.answering.tables == "off":
            return []
        loop = asyncio.get_running_loop()
        documents = await loop.run_in_executor(None, self._documents, principal, space)
        await self._snapshots(documents)
        groups = await loop.run_in_executor(None, self._grouped, documents)
        ready = [each for each in groups if self._place(each).exists()]
        asked = {"op": "describe", "snapshots": [str(self._place(each)) for each in ready]}
        told = (await loop.run_in_executor(self._askers, _run, asked, _ASK_S) or {}).get("cards") if ready else None
        cards: dict[str, list[dict[str, Any]]] = {}
        for group, card in zip(ready, told or [], strict=False):
            for each in card or ():
                cards.setdefault(group.documents[each.pop("origin")].id, []).append(each)
        of = {document.id: group for group in groups for document in group.documents}
        # What was removed meanwhile is not told.
        still = [each for each in await loop.run_in_executor(None, self._documents, principal, space) if each.id in of]
        return [table for each in still for table in self._told(each, of[each.id], cards.get(each.id))]

    def _told(self, document: SpaceDocument, group: _Group, card: Sequence[dict[str, Any]] | None) -> Sequence[SpaceTable]:
        of = {"document_id": document.id, "filename": document.name}
        if card is not None:
            return [SpaceTable.model_validate({**each, **of, "state": "ready"}) for each in card]
        fault = self._fault(group)
        return [SpaceTable.model_validate({**of, "state": "making" if fault is None else "no_table", "fault": fault})]

    def _documents(self, principal: Principal, space: Space) -> list[SpaceDocument]:
        with self._spaces.db.reading() as session:
            owner = self._spaces.row(session, principal.project_id, space.id)
            return [*self._spaces.documents.tabular(session, owner, principal)]

    def _grouped(self, documents: Iterable[SpaceDocument]) -> list[_Group]:
        """Each file for itself; tables of a source with those that they refer to, by however many steps."""
        groups: list[_Group] = []
        tables: dict[str, list[SpaceDocument]] = {}
        for each in documents:
            if each.media_type == TABLE_ROWS:
                tables.setdefault(str(each.source_id), []).append(each)
            else:
                groups.append(_Group((each,)))
        for of_source in tables.values():
            by_key = {each.key: each for each in of_source}
            rest = dict.fromkeys(by_key)
            near: dict[str, set[str]] = {key: set() for key in by_key}
            for key, each in by_key.items():
                for other in self._referred(each):
                    if f"{other}/card" in by_key:
                        near[key].add(f"{other}/card")
                        near[f"{other}/card"].add(key)
            while rest:
                found, waiting = [], [next(iter(rest))]
                while waiting:
                    key = waiting.pop()
                    if key in rest:
                        del rest[key]
                        found.append(by_key[key])
                        waiting += sorted(near[key])
                found.sort(key=lambda each: each.id)
                groups += [_Group(tuple(found))] if len(found) <= _MAX_JOINED else [_Group((each,)) for each in found]
        return groups

    def _referred(self, document: SpaceDocument) -> Sequence[str]:
        """The tables to which one of a database refers, by the names that its source knows them by."""
        if document.digest not in self._references:
            head = b""
            try:
                for chunk in self._blobs.iter(document.digest):
                    head += chunk
                    if b"\n" in chunk or len(head) > _MAX_HEAD_BYTES:
                        break
                told = orjson.loads(head.partition(b"\n")[0])
                found = sorted({str(each[1]) for each in told["references"]})
            except (ModelworksError, OSError, orjson.JSONDecodeError, KeyError, TypeError, IndexError):
                return ()
            if len(self._references) > _MAX_KNOWN:
                self._references.clear()
            self._references[document.digest] = found
        return self._references[document.digest]

    async def _snapshots(self, documents: Sequence[SpaceDocument]) -> list[tuple[Path, _Group]] | None:
        """The snapshots of those that have one. None: some are still being made; an answer without them might be wrong."""
        loop = asyncio.get_running_loop()
        groups = await loop.run_in_executor(None, self._grouped, documents)
        missing = [each for each in groups if not self._place(each).exists() and self._fault(each) is None]
        if missing:
            waiting = [loop.run_in_executor(self._maker, self._made, each) for each in missing]
            _, late = await asyncio.wait(waiting, timeout=_WAIT_S)
            if late:
                return None
        return [(self._place(each), each) for each in groups if self._place(each).exists()]

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def _place(self, group: _Group) -> Path:
        return self._folder / group.documents[0].space_id / f"{group.name}.sqlite"

    def _fault(self, group: _Group) -> str | None:
        place = self._place(group).with_suffix(".fault")
        try:
            return place.read_text("utf-8")
        except OSError:
            return None

    def _made(self, group: _Group) -> None:
        """Make a snapshot, if it is not there; several processes may do so at the same time."""
        place = self._place(group)
        if place.exists() or self._fault(group) is not None:
            return
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        sources = [place.with_name(f"{place.stem}.source{at}.{os.getpid()}") for at, _ in enumerate(group.documents)]
        fresh = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            if len(group.documents) > 1:
                # Before anything else: by these it is found when one of them goes.
                place.with_suffix(_MEMBERS).write_text("\n".join(_bare(each.digest) for each in group.documents), "utf-8")
            for source, document in zip(sources, group.documents, strict=True):
                with source.open("wb") as file:
                    for chunk in self._blobs.iter(document.digest):
                        file.write(chunk)
            named = [str(each) for each in sources]
            asked = {"op": "build", "sources": named, "kind": group.kind, "name": group.documents[0].name, "target": str(fresh)}
            told = _run(asked, _BUILD_S)
            fault = "it took too long, or too much memory" if told is None else told.get("fault")
            if fault is None:
                fresh.replace(place)
            else:
                place.with_suffix(".fault").write_text(str(fault)[:_FAULT_CHARS], "utf-8")
        except (ModelworksError, OSError) as error:
            log.warning("a document's tables could not be read", document_id=group.documents[0].id, reason=str(error))
        finally:
            for each in (*sources, fresh, fresh.with_name(f"{fresh.name}.part")):
                each.unlink(missing_ok=True)

    def _sweep(self, space_id: str, digests: Collection[str]) -> None:
        kept = {_bare(each) for each in digests}
        for stem, made_of in _held(self._folder / space_id).items():
            if not made_of <= kept:
                _unlink(self._folder / space_id, stem)
        if not kept:
            with suppress(OSError):
                (self._folder / space_id).rmdir()


@dataclass(frozen=True, slots=True)
class _Group:
    """What one snapshot is made of: a file, or tables of a source that refer to each other."""

    documents: tuple[SpaceDocument, ...]

    @property
    def kind(self) -> str:
        """See `modelworks.tables.snapshot.build`."""
        if self.documents[0].media_type == TABLE_ROWS:
            return "rows"
        return "xlsx" if self.documents[0].name.casefold().endswith((".xlsx", ".xlsm")) else "csv"

    @property
    def name(self) -> str:
        """Of its files: the digest, or that of several."""
        digests = [_bare(each.digest) for each in self.documents]
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def discard(folder: Path, digests: Collection[str]) -> None:
    """Remove what any space has of documents' tables."""
    gone = {_bare(each) for each in digests}
    for space in folder.glob("*"):
        for stem, made_of in _held(space).items():
            if made_of & gone:
                _unlink(space, stem)


def _held(folder: Path) -> dict[str, set[str]]:
    """By the name of each snapshot the digests that it is made of."""
    stems = {place.name.partition(".")[0] for place in folder.glob("*")}
    found = {}
    for stem in stems:
        try:
            found[stem] = {*(folder / f"{stem}{_MEMBERS}").read_text("utf-8").split()}
        except OSError:
            found[stem] = {stem}
    return found


def _unlink(folder: Path, stem: str) -> None:
    # What says of which documents it is goes last.
    for place in sorted(folder.glob(f"{stem}.*"), key=lambda each: each.suffix == _MEMBERS):
        place.unlink(missing_ok=True)


def _bare(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _run(asked: dict[str, Any], limit_s: float) -> dict[str, Any] | None:
    """One wish to a process of its own; None where it did not answer in time, or not at all."""
    command = [sys.executable, "-I", "-m", "modelworks.tables"]
    try:
        done = subprocess.run(command, input=orjson.dumps(asked), capture_output=True, timeout=limit_s, check=True)
        found: dict[str, Any] = orjson.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, orjson.JSONDecodeError) as error:
        log.warning("tables could not be read", wish=asked["op"], reason=type(error).__name__)
        return None
    return found
