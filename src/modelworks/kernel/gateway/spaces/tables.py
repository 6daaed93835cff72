"""Tables of a data space: a snapshot for each CSV file and workbook, and questions over those that the caller may read.

Snapshots lie in a folder of this machine, by space and by the document's digest; they are made when a space has changed, and go
with the document. Reading files, questions and queries all happens in processes of their own (`modelworks.tables`).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import structlog
from pydantic import BaseModel, Field

from modelworks.contract.errors import ModelworksError
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
#: Of what a process says about a file without tables.
_FAULT_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """Rows that were computed, the query, and the document whose tables were read.

    `kind` is count, aggregate, share, top, groups or list; `units` are by column, `conditions` in words.
    """

    document: SpaceDocument
    sql: str
    kind: str
    base: str
    tables: Sequence[dict[str, Any]]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    units: dict[str, str]
    conditions: Sequence[str]
    is_cut: bool

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
    """A table of a document; or, where `state` is not ready, a document of which none is there."""

    object: str = "space.table"
    state: Literal["ready", "making", "no_table"]
    document_id: str
    filename: str
    name: str | None = None
    place: str | None = Field(default=None, description="Cells of a sheet.")
    comment: str | None = None
    num_rows: int | None = None
    num_left_out: int | None = Field(default=None, description="Rows that did not fit the heading.")
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
            for each in documents:
                self._made(each)
        except Exception:
            # A question makes what is missing.
            log.exception("the tables of a space could not be followed", space_id=space_id)

    # -- questions -----------------------------------------------------------------------------------------------------

    async def answer(self, principal: Principal, space: Space, question: str) -> TableAnswer | None:
        """The answer, where the question is about a table that the caller may read; None leaves it to the passages."""
        loop = asyncio.get_running_loop()
        documents = await loop.run_in_executor(None, self._documents, principal, space)
        if not documents:
            return None
        snapshots = await self._snapshots(documents)
        if snapshots is None or not snapshots:
            return None
        asked = {"op": "ask", "snapshots": [str(place) for place, _ in snapshots], "question": question}
        found = (await loop.run_in_executor(self._askers, _run, asked, _ASK_S) or {}).get("answer")
        if found is None:
            return None
        document = snapshots[found["place"]][1]
        # What was removed meanwhile is not told.
        if document.id not in {each.id for each in await loop.run_in_executor(None, self._documents, principal, space)}:
            return None
        return TableAnswer(
            document,
            found["sql"],
            found["kind"],
            found["base"],
            found["tables"],
            found["columns"],
            found["rows"],
            found["units"],
            found["conditions"],
            found["is_cut"],
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
        ready = [each for each in documents if self._place(each).exists()]
        asked = {"op": "describe", "snapshots": [str(self._place(each)) for each in ready]}
        told = (await loop.run_in_executor(self._askers, _run, asked, _ASK_S) or {}).get("cards") if ready else None
        cards = dict(zip((each.id for each in ready), told or [], strict=False))
        # What was removed meanwhile is not told.
        still = await loop.run_in_executor(None, self._documents, principal, space)
        return [table for each in still for table in self._told(each, cards.get(each.id))]

    def _told(self, document: SpaceDocument, card: Sequence[dict[str, Any]] | None) -> Sequence[SpaceTable]:
        of = {"document_id": document.id, "filename": document.name}
        if card is not None:
            return [SpaceTable.model_validate({**each, **of, "state": "ready"}) for each in card]
        fault = self._fault(document)
        return [SpaceTable.model_validate({**of, "state": "making" if fault is None else "no_table", "fault": fault})]

    def _documents(self, principal: Principal, space: Space) -> list[SpaceDocument]:
        with self._spaces.db.reading() as session:
            owner = self._spaces.row(session, principal.project_id, space.id)
            return [*self._spaces.documents.tabular(session, owner, principal)]

    async def _snapshots(self, documents: Iterable[SpaceDocument]) -> list[tuple[Path, SpaceDocument]] | None:
        """The snapshots of those that have one. None: some are still being made; an answer without them might be wrong."""
        loop = asyncio.get_running_loop()
        documents = [*documents]
        missing = [each for each in documents if not self._place(each).exists() and self._fault(each) is None]
        if missing:
            waiting = [loop.run_in_executor(self._maker, self._made, each) for each in missing]
            _, late = await asyncio.wait(waiting, timeout=_WAIT_S)
            if late:
                return None
        return [(self._place(each), each) for each in documents if self._place(each).exists()]

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def _place(self, document: SpaceDocument) -> Path:
        return self._folder / document.space_id / f"{document.digest.removeprefix('sha256:')}.sqlite"

    def _fault(self, document: SpaceDocument) -> str | None:
        place = self._place(document).with_suffix(".fault")
        try:
            return place.read_text("utf-8")
        except OSError:
            return None

    def _made(self, document: SpaceDocument) -> None:
        """Make the snapshot of a document, if it is not there; several processes may do so at the same time."""
        place = self._place(document)
        if place.exists() or self._fault(document) is not None:
            return
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        source = place.with_name(f"{place.stem}.source.{os.getpid()}")
        fresh = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            with source.open("wb") as file:
                for chunk in self._blobs.iter(document.digest):
                    file.write(chunk)
            kind = "xlsx" if document.name.casefold().endswith((".xlsx", ".xlsm")) else "csv"
            asked = {"op": "build", "source": str(source), "kind": kind, "name": document.name, "target": str(fresh)}
            told = _run(asked, _BUILD_S)
            fault = "it took too long, or too much memory" if told is None else told.get("fault")
            if fault is None:
                fresh.replace(place)
            else:
                place.with_suffix(".fault").write_text(str(fault)[:_FAULT_CHARS], "utf-8")
        except (ModelworksError, OSError) as error:
            log.warning("a document's tables could not be read", document_id=document.id, reason=str(error))
        finally:
            for each in (source, fresh, fresh.with_name(f"{fresh.name}.part")):
                each.unlink(missing_ok=True)

    def _sweep(self, space_id: str, digests: Collection[str]) -> None:
        kept = {each.removeprefix("sha256:") for each in digests}
        for place in (self._folder / space_id).glob("*"):
            if place.name.partition(".")[0] not in kept:
                place.unlink(missing_ok=True)
        if not kept:
            with suppress(OSError):
                (self._folder / space_id).rmdir()


def discard(folder: Path, digest: str) -> None:
    """Remove what any space has of a document's tables."""
    for place in folder.glob(f"*/{digest.removeprefix('sha256:')}.*"):
        place.unlink(missing_ok=True)


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
