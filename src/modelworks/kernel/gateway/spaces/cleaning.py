"""What is taken out of the passages of a space: tried before it is done, and shown afterwards, document by document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from pydantic import ValidationError
from sqlalchemy.orm import Session

from modelworks.contract.data import CleanReport, Removed
from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.contract.passages import CLEANING_FOLDER, PASSAGES_FOLDER, Cleaned, Passage
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.learning import settings_of
from modelworks.kernel.dataspace.schemas import (
    CleaningExample,
    CleaningReport,
    CleaningSettings,
    DroppedPassages,
    SpaceDocument,
)
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.jobs.schemas import JobSpec, RunRecord
from modelworks.kernel.storage import BlobStore

PARSING: Final = "document-parsing"
#: Instead of a place in a file, which tells a person nothing.
SAME: Final = "It says the same as another passage."
_EXCERPT_CHARS: Final = 160
_NOTHING: Final = CleanReport(num_read=0, kept={}, removed={}, preview=[])


class SpaceCleaning:
    """Cleaning is the verb `clean` of the task that parses; a build does it where a rule may find something."""

    def __init__(self, spaces: DataspaceService, jobs: JobsService, catalog: CatalogService, blobs: BlobStore) -> None:
        self._spaces = spaces
        self._jobs = jobs
        self._catalog = catalog
        self._blobs = blobs

    def spec(self, passages_version_id: str, rules: CleaningSettings) -> JobSpec:
        """A run that cleans those passages by those rules; without an output_name it only says what it would do.

        What a run reports is for everybody of the project, and stays: it names places and shows no text.
        """
        params = {**rules.model_dump(mode="json"), "excerpts": False}
        return JobSpec(verb="clean", task=PARSING, inputs={"data": f"dataset:{passages_version_id}"}, params=params)

    def preview(self, session: Session, caller: Principal, space: str, rules: CleaningSettings | None) -> RunRecord:
        """Submit a run that says what rules, by default the space's own, would do to what the last build parsed.

        Raises:
            NotFound: no such space. InvalidRequest: nothing is parsed yet (`space_empty`).
        """
        row = self._spaces.row(session, caller.project_id, space)
        if row.passages_version_id is None:
            raise InvalidRequest(
                f"The data space {row.name!r} has no passages to clean.",
                hint="Add documents, and wait until the space is ready.",
                code="space_empty",
            )
        spec = self.spec(row.passages_version_id, rules or settings_of(row).cleaning)
        return self._jobs.submit(session, caller.project_id, caller.key_id, spec)

    def report(self, caller: Principal, space: str, run_id: str, per_rule: int) -> CleaningReport:
        """What a preview has found, with examples from documents that the caller may read at this moment.

        Raises:
            NotFound: no such space, or no such run of a preview.
        """
        with self._spaces.db.reading() as session:
            row = self._spaces.row(session, caller.project_id, space)
            run = self._jobs.get(session, caller.project_id, run_id)
            given = run.inputs.get("data")
            if run.verb != "clean" or run.task != PARSING or given is None:
                raise NotFound(f"{run_id[:80]!r} is no preview of a cleaning.", hint="Ask for one first.", code="run_not_found")
            found = CleanReport.model_validate(run.result) if run.result is not None else _NOTHING
            told = {_document_of(each) for each in found.preview}
            may_read = self._spaces.documents.records(session, caller, row.id, told)
            digests: dict[str, str] = {}
            # After another build the passages are gone that it was tried on: the counts stay.
            with suppress(NotFound):
                version = self._catalog.get_version(session, caller.project_id, str(given.version_id))
                digests = {file.path: file.digest for file in version.files if version.state != "removed"}
        shown = [each for each in found.preview if _document_of(each) in may_read and each.file in digests]
        examples: list[CleaningExample] = []
        for file, each_of in _by_file(_first(shown, per_rule)):
            document = may_read[_document_of(each_of[0])]
            lines = b"".join(self._blobs.iter(digests[file])).split(b"\n")
            examples += [_example(each, document, lines[each.line - 1]) for each in each_of if each.line <= len(lines)]
        return CleaningReport(
            run_id=run.id,
            state=run.state,
            num_read=found.num_read,
            num_kept=sum(found.kept.values()),
            removed=found.removed,
            changed=found.changed,
            examples=sorted(examples, key=lambda example: example.rule),
            notes=found.notes,
            error=run.error,
        )

    def digest_of(self, session: Session, project_id: str, document: SpaceDocument) -> str | None:
        """Where it is told what cleaning did in a document; None where it did nothing."""
        row = self._spaces.row(session, project_id, document.space_id)
        if row.clean_version_id is None:
            return None
        version = self._catalog.get_version(session, project_id, row.clean_version_id)
        path = f"{CLEANING_FOLDER}/{document.id}.jsonl"
        return next((file.digest for file in version.files if file.path == path), None)

    def told(self, document: SpaceDocument, digest: str | None, limit: int) -> DroppedPassages:
        """What cleaning did in a document, in the order of its passages; reads the storage. Raises NotFound."""
        data = b"" if digest is None else b"".join(self._blobs.iter(digest))
        lines = [line for line in data.splitlines() if line.strip()]
        try:
            found = [Cleaned.model_validate_json(line) for line in lines[:limit]]
        except ValidationError as error:
            raise NotFound(f"What was cleaned in {document.name[:80]!r} cannot be read.", hint="Build again.") from error
        # Which other document says the same is nobody's business who may not read that one.
        own = [each if each.like is None or each.like.startswith(f"{document.id}:") else _alone(each) for each in found]
        return DroppedPassages(document_id=document.id, name=document.name, data=own, has_more=len(lines) > limit)


def _first(preview: Sequence[Removed], per_rule: int) -> list[Removed]:
    """So many of each rule."""
    counts: Counter[str] = Counter()
    found = []
    for each in preview:
        counts[each.reason] += 1
        if counts[each.reason] <= per_rule:
            found.append(each)
    return found


def _by_file(removed: Iterable[Removed]) -> Iterable[tuple[str, list[Removed]]]:
    found: dict[str, list[Removed]] = {}
    for each in removed:
        found.setdefault(each.file, []).append(each)
    return found.items()


def _document_of(removed: Removed) -> str:
    return removed.file.removeprefix(f"{PASSAGES_FOLDER}/").removesuffix(".jsonl")


def _example(removed: Removed, document: SpaceDocument, line: bytes) -> CleaningExample:
    passage = Passage.model_validate_json(line)
    return CleaningExample(
        passage_id=passage.id,
        place=passage.place,
        rule=removed.reason,
        detail=removed.detail if removed.like is None else SAME,
        similarity=removed.similarity,
        excerpt=" ".join(passage.text.split())[:_EXCERPT_CHARS],
        document_id=document.id,
        name=document.name,
    )


def _alone(cleaned: Cleaned) -> Cleaned:
    return cleaned.model_copy(update={"like": None})
