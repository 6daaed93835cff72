"""The job: which documents are parsed anew, what is kept after each, and what is saved at the end."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from modelworks.capabilities.document.cleaning.copies import num_copies
from modelworks.capabilities.document.formats import fingerprint, formats
from modelworks.capabilities.document.pool import Pool
from modelworks.capabilities.document.schemas import ParsingOutput, ParsingRequest
from modelworks.capabilities.document.worker import ParsingJob
from modelworks.contract.errors import InvalidData, MissingExtra
from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, Document, Fault, ParsedDocument, Passage
from modelworks.contract.run import Run

#: What may go better the next time: a document with such a fault is not taken over.
_PASSING = frozenset({"timed_out", "parser_crashed", "out_of_memory", "parser_failed", "missing_extra", "page_simplified"})
#: Of what this capability needs at all.
_LIBRARIES = ("lxml", "pypdfium2", "charset_normalizer", "markdown_it", "openpyxl")
_PARTIAL_FOLDER = "partial"
#: Storing checkpoints takes at most this share of the time.
_CHECKPOINT_SHARE = 0.1
_PROGRESS_S = 0.5
_MAX_PROCESSES = 4


def parse_documents(run: Run, request: ParsingRequest) -> ParsingOutput:
    """Make passages of the documents of role "documents", and save them as a data set (`contract.passages`).

    Documents that the data set of role "previous" holds unchanged, read by the same rules, are taken over as they are. A
    document that cannot be read gets a fault; it never stops the others.

    Raises:
        InvalidData: the list of documents is broken. MissingExtra: the extra `documents` is not installed.
        Cancelled: the user has asked to stop.
    """
    for library in _LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise MissingExtra.of(library, "documents")
    given = run.dataset("documents")
    documents = _documents(given.path)
    work = _Work(run, request, given.path, documents)
    work.resume()
    if run.has_input("previous"):
        work.take_over(run.dataset("previous").path)
    pool = Pool(
        num_processes=min(request.num_processes or _processes(), max(1, work.num_left)),
        on_result=work.add,
        on_page=work.on_page,
        on_tick=work.on_tick,
    )
    pool.parse(work.jobs())
    output = work.output()
    metadata = {"form": "passages", **output.model_dump(mode="json")}
    if given.licence is not None:
        metadata["licence"] = given.licence
    run.save(work.finish(), kind="dataset", metadata=metadata)
    run.progress(len(documents), len(documents), "documents")
    return output


def _processes() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MAX_PROCESSES, cores // 2))


def _documents(folder: Path) -> list[Document]:
    path = folder / DOCUMENTS_FILE
    if not path.is_file():
        raise InvalidData(
            f"The data set of role 'documents' has no {DOCUMENTS_FILE}.",
            hint="Give the documents of a data space.",
            param="documents",
        )
    found: dict[str, Document] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                document = Document.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "the line"
                raise InvalidData(f"{DOCUMENTS_FILE} line {number}: {where}: {first['msg']}.", param="documents") from error
            if document.id in found:
                raise InvalidData(f"{DOCUMENTS_FILE} line {number}: the id {document.id!r} is there twice.", param="documents")
            found[document.id] = document
    return list(found.values())


class _Work:
    """What is done so far: on the disk as it is checkpointed, so that an ended run goes on with it."""

    def __init__(self, run: Run, request: ParsingRequest, folder: Path, documents: list[Document]) -> None:
        self._run, self._request, self._folder = run, request, folder
        self._documents = {document.id: document for document in documents}
        self._done: dict[str, ParsedDocument] = {}
        self._num_unchanged = 0
        self._current = {fingerprint(form, request) for form in (*formats(), "unknown")}
        #: `kept` is checkpointed; what processes still write is not in it but for the pages that they finished.
        self._kept, self._scratch = run.workdir / "kept", run.workdir / "scratch"
        for path in (self._kept / PASSAGES_FOLDER, self._kept / _PARTIAL_FOLDER, self._scratch):
            path.mkdir(parents=True, exist_ok=True)
        self._shares: dict[str, float] = {}
        self._is_changed = False
        self._next_checkpoint = self._next_progress = 0.0

    @property
    def num_left(self) -> int:
        """Documents without a result."""
        return len(self._documents) - len(self._done)

    def resume(self) -> None:
        """Take what an earlier attempt of this run had done."""
        if self._run.resume_from is None:
            return
        for parsed in _results(self._run.resume_from):
            file = self._run.resume_from / PASSAGES_FOLDER / f"{parsed.id}.jsonl"
            document = self._documents.get(parsed.id)
            if document is not None and document.digest == parsed.digest and file.is_file():
                shutil.copyfile(file, self._passages(parsed.id))
                self._keep(parsed)
        for file in sorted((self._run.resume_from / _PARTIAL_FOLDER).glob("*.jsonl")):
            if file.stem in self._documents and file.stem not in self._done:
                shutil.copyfile(file, self._partial(file.stem))

    def take_over(self, previous: Path) -> None:
        """Take every document that did not change, and that the same rules would read, from an earlier result."""
        for parsed in _results(previous):
            document = self._documents.get(parsed.id)
            file = previous / PASSAGES_FOLDER / f"{parsed.id}.jsonl"
            if (
                document is None
                or parsed.id in self._done
                or document.digest != parsed.digest
                or Path(document.name).suffix != Path(parsed.name).suffix
                or parsed.parser not in self._current
                or any(fault.code in _PASSING for fault in parsed.faults)
                or not file.is_file()
            ):
                continue
            shutil.copyfile(file, self._passages(parsed.id))
            copies = parsed.num_copies
            if copies is None:
                # Read before copies were counted.
                copies = num_copies(
                    Passage.model_validate_json(line) for line in file.read_bytes().splitlines() if line.strip()
                )
            now = {"name": document.name, "licence": document.licence, "num_copies": copies}
            self._keep(parsed.model_copy(update=now))
            self._num_unchanged += 1

    def jobs(self) -> Iterator[ParsingJob]:
        """What is left to be parsed; a file that is not where it should be gets its fault here."""
        for document in list(self._documents.values()):
            if document.id in self._done:
                continue
            path, fault = self._path(document)
            if fault is not None:
                self._passages(document.id).write_bytes(b"")
                self._keep(
                    ParsedDocument(
                        id=document.id,
                        name=document.name,
                        digest=document.digest,
                        parser="none",
                        state="failed",
                        media_type=document.media_type,
                        licence=document.licence,
                        faults=[fault],
                    )
                )
                continue
            into = self._scratch / f"{document.id}.jsonl"
            yield ParsingJob(document, self._request, path, into, self._partial(document.id))

    def add(self, parsed: ParsedDocument) -> None:
        """Keep the result of a document."""
        (self._scratch / f"{parsed.id}.jsonl").replace(self._passages(parsed.id))
        self._partial(parsed.id).unlink(missing_ok=True)
        self._shares.pop(parsed.id, None)
        self._keep(parsed)
        self._run.log(len(self._done), passages=float(parsed.num_passages), faults=float(len(parsed.faults)))

    def on_page(self, document_id: str, num_done: int, total: int) -> None:
        """Note how far a long document is."""
        self._shares[document_id] = num_done / max(1, total)
        # The first page of the first document begins with nothing there yet that a checkpoint could hold.
        self._is_changed = self._is_changed or self._partial(document_id).is_file()

    def on_tick(self) -> None:
        """Look whether the run is cancelled, say how far it is, and checkpoint where something new is there to be kept."""
        now = time.monotonic()
        if self._is_changed and now >= self._next_checkpoint:
            self._run.checkpoint(self._kept)
            self._is_changed = False
            after = time.monotonic()
            self._next_checkpoint = after + (after - now) / _CHECKPOINT_SHARE
        self._run.raise_if_cancelled()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_S
            self._run.progress(len(self._done) + sum(self._shares.values()), len(self._documents), "documents")

    def output(self) -> ParsingOutput:
        """The sums over all documents."""
        done = self._done.values()
        states = Counter(parsed.state for parsed in done)
        faults = Counter(code for parsed in done for code in {fault.code for fault in parsed.faults})
        return ParsingOutput(
            num_documents=len(done),
            num_parsed=states["parsed"],
            num_partial=states["partial"],
            num_failed=states["failed"],
            num_unchanged=self._num_unchanged,
            num_passages=sum(parsed.num_passages for parsed in done),
            num_pages=sum(parsed.num_pages or 0 for parsed in done),
            num_chars=sum(parsed.num_chars for parsed in done),
            faults=dict(sorted(faults.items())),
        )

    def finish(self) -> Path:
        """The folder of the whole result, documents in the order in which they were given."""
        lines = [f"{self._done[document_id].model_dump_json()}\n" for document_id in self._documents]
        (self._kept / DOCUMENTS_FILE).write_text("".join(lines), encoding="utf-8")
        shutil.rmtree(self._kept / _PARTIAL_FOLDER)
        return self._kept

    def _keep(self, parsed: ParsedDocument) -> None:
        self._done[parsed.id] = parsed
        with (self._kept / DOCUMENTS_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{parsed.model_dump_json()}\n")
        self._is_changed = True

    def _passages(self, document_id: str) -> Path:
        return self._kept / PASSAGES_FOLDER / f"{document_id}.jsonl"

    def _partial(self, document_id: str) -> Path:
        return self._kept / _PARTIAL_FOLDER / f"{document_id}.jsonl"

    def _path(self, document: Document) -> tuple[Path, Fault | None]:
        root = self._folder.resolve()
        path = self._folder / document.path
        real = path.resolve()
        if not real.is_relative_to(root):
            return path, Fault(
                code="unsafe_path",
                message=f"The path {document.path[:200]!r} leads out of the data set.",
                hint="Put the document in again.",
            )
        if not real.is_file():
            return path, Fault(
                code="file_missing",
                message=f"There is no file {document.path[:200]!r} in the data set.",
                hint="Put the document in again.",
            )
        return real, None


def _results(folder: Path) -> list[ParsedDocument]:
    """What is listed in an earlier result; a line of another version of this form is as if it were not there."""
    found = []
    path = folder / DOCUMENTS_FILE
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(ParsedDocument.model_validate(json.loads(line)))
            except ValueError:
                continue
    return found
