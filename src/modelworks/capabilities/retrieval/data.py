"""The data sets of this task: passages by document, and questions with judgements. Light: nothing heavy is imported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from modelworks.contract.errors import InvalidData
from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, ParsedDocument, Passage

#: The longest line that is read into memory.
MAX_LINE_BYTES = 16 << 20
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_FORM = "Give documents.jsonl and passages/<document id>.jsonl, as a run of the task document-parsing writes them."
_Model = TypeVar("_Model", bound=BaseModel)


def read_documents(folder: Path) -> list[ParsedDocument]:
    """The documents of a data set of passages.

    Raises:
        InvalidData: the file is missing, a line has a fault, or two documents have the same id.
    """
    file = folder / DOCUMENTS_FILE
    if not file.is_file():
        raise InvalidData(f"The data set has no {DOCUMENTS_FILE}.", hint=_FORM)
    found: dict[str, ParsedDocument] = {}
    for number, document in _models(file, ParsedDocument):
        if not _ID.fullmatch(document.id):
            raise InvalidData(f"{DOCUMENTS_FILE}, line {number}: {document.id!r} is no id of a document.", hint=_FORM)
        if document.id in found:
            raise InvalidData(f"{DOCUMENTS_FILE}, line {number}: the document {document.id!r} is there twice.")
        found[document.id] = document
    return list(found.values())


def read_passages(folder: Path, document: ParsedDocument) -> Iterator[Passage]:
    """The passages of one document in their order; none where it has none.

    Raises:
        InvalidData: its file is missing, a line has a fault, belongs to another document or comes out of order.
    """
    name = f"{PASSAGES_FOLDER}/{document.id}.jsonl"
    file = folder / name
    if not file.is_file():
        if document.num_passages:
            raise InvalidData(f"{name} is missing; the document has {document.num_passages} passages.", hint=_FORM)
        return
    last = -1
    for number, passage in _models(file, Passage, name):
        if passage.document_id != document.id or passage.id != f"{document.id}:{passage.ordinal}":
            raise InvalidData(f"{name}, line {number}: {passage.id!r} is no passage of the document {document.id!r}.")
        if passage.ordinal <= last:
            raise InvalidData(f"{name}, line {number}: the ordinal {passage.ordinal} comes after {last}.")
        last = passage.ordinal
        yield passage


@dataclass(frozen=True, slots=True)
class Questions:
    """Queries by id, and for each the grades above 0 of passages or documents by id."""

    queries: dict[str, str]
    relevant: dict[str, dict[str, float]]


def read_questions(folder: Path) -> Questions:
    """A data set in BEIR's layout (Thakur et al. 2021): `queries.jsonl`, and `qrels.tsv` or `qrels/test.tsv`.

    The second column of the judgements names passages or documents of the index; a `corpus.jsonl` is not read.

    Raises:
        InvalidData: a part is missing, a line has a fault, or no query has a relevant passage.
    """
    file = folder / "queries.jsonl"
    if not file.is_file():
        raise InvalidData("The data set has no queries.jsonl.", hint="Give queries and judgements in BEIR's layout.")
    queries: dict[str, str] = {}
    for number, record in _records(file, file.name):
        key, text = record.get("_id"), record.get("text")
        if not isinstance(key, str | int) or not isinstance(text, str) or not text.strip():
            raise InvalidData(f'{file.name}, line {number}: fields "_id" and "text" are needed.')
        queries[str(key)] = text
    judgements = next((each for each in (folder / "qrels.tsv", folder / "qrels" / "test.tsv") if each.is_file()), None)
    if judgements is None:
        raise InvalidData("The data set has no qrels.tsv or qrels/test.tsv.", hint="Give the judgements of BEIR's layout.")
    relevant: dict[str, dict[str, float]] = {}
    for number, line in enumerate(judgements.read_text("utf-8").splitlines(), start=1):
        cells = line.split("\t")
        if not line.strip() or (number == 1 and _number(cells[-1]) is None):
            continue
        grade = _number(cells[-1])
        if len(cells) not in (3, 4) or grade is None:
            raise InvalidData(
                f"{judgements.name}, line {number}: not query, passage and grade.", hint="Separate the three by tabs."
            )
        if cells[0] not in queries:
            raise InvalidData(f"{judgements.name}, line {number}: there is no query {cells[0]!r}.")
        if grade > 0:
            relevant.setdefault(cells[0], {})[cells[-2]] = grade
    if not relevant:
        raise InvalidData("No query of the data set has a relevant passage.", hint="Add judgements above 0.")
    return Questions({query: text for query, text in queries.items() if query in relevant}, relevant)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _lines(file: Path, name: str) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
            if len(line) > MAX_LINE_BYTES:
                raise InvalidData(f"{name}, line {number}: more than {MAX_LINE_BYTES >> 20} MiB.")
            if line.strip():
                yield number, line


def _models(file: Path, kind: type[_Model], name: str | None = None) -> Iterator[tuple[int, _Model]]:
    for number, line in _lines(file, name or file.name):
        try:
            yield number, kind.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InvalidData(
                f"{name or file.name}, line {number}" + (f', field "{place}"' if place else "") + f": {first['msg']}.",
                hint=_FORM,
            ) from error


def _records(file: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(file, name):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidData(f"{name}, line {number}: not JSON ({error}).") from error
        if not isinstance(record, dict):
            raise InvalidData(f"{name}, line {number}: not a JSON object.")
        yield number, record
