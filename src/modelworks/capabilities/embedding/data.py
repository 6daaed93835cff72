"""Data sets of retrieval: pairs to learn from, and collections to search. Light: nothing heavy is imported.

Pairs are JSON lines: `{"query", "positive", "negatives"?}`, or documents `{"title", "text"}` whose title stands for a query.
Collections have BEIR's layout (Thakur et al. 2021): `corpus.jsonl`, `queries.jsonl` and `qrels.tsv` or `qrels/test.tsv`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from modelworks.capabilities.embedding.schemas import ValidateParams
from modelworks.contract.data import DataFault, DataReport, OnProgress, SizeStatistics, ignore_progress
from modelworks.contract.errors import InvalidData

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson")
_FORMS = 'Write {"query": "…", "positive": "…", "negatives": ["…"]} or {"title": "…", "text": "…"}, one object per line.'
#: A byte of English is a quarter of a token or so, a Chinese character (three bytes) rather one.
_BYTES_PER_TOKEN = 3.5


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage that answers it."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    file: str
    line: int

    @property
    def place(self) -> str:
        """The sample's name within its data set."""
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Collection:
    """Passages, and queries with the relevance of passages to them; every key is an id."""

    passages: dict[str, str]
    queries: dict[str, str]
    #: Query -> passage -> grade above 0.
    relevant: dict[str, dict[str, float]] = field(default_factory=dict)
    #: Query -> passages that the data set gives as wrong answers.
    wrong: dict[str, list[str]] = field(default_factory=dict)


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of a data set in the order of its files.

    Raises:
        InvalidData: a line has a fault (the first one stops), or nothing is there to read.
    """
    found: list[Pair] = []
    for each in _understood(folder):
        if isinstance(each, DataFault):
            place = f"{each.file}, line {each.line}" + (f', field "{each.field}"' if each.field else "")
            raise InvalidData(f"{place}: {each.message}", hint=each.hint)
        found.append(each)
    if not found:
        raise InvalidData("The data set holds no pairs.", hint=_FORMS)
    return found


def split(pairs: Sequence[Pair], validation_fraction: float) -> tuple[list[Pair], list[Pair]]:
    """Split into training and held-out pairs by a hash of each passage, so that no passage is on both sides.

    At least one passage is held out, and one is not.

    Raises:
        InvalidData: all pairs have the same passage.
    """
    places = {pair.positive: _position(pair.positive) for pair in pairs}
    if len(places) < 2:
        raise InvalidData("All pairs of the data set have the same passage.", hint="Add pairs with other passages.")
    held_out = {text for text, position in places.items() if position < validation_fraction}
    ranked = sorted(places, key=lambda text: (places[text], text))
    if not held_out:
        held_out = {ranked[0]}
    if len(held_out) == len(places):
        held_out.discard(ranked[-1])
    return (
        [pair for pair in pairs if pair.positive not in held_out],
        [pair for pair in pairs if pair.positive in held_out],
    )


def read_collection(folder: Path) -> Collection:
    """A collection in BEIR's layout, or the one that pairs make: all passages, each query's own being relevant.

    Raises:
        InvalidData: a line has a fault, a judgement names what is not there, or no query has a relevant passage.
    """
    found = (
        _beir(folder) if (folder / "corpus.jsonl").is_file() or (folder / "corpus.jsonl.gz").is_file() else _of_pairs(folder)
    )
    found.relevant = {query: judged for query, judged in found.relevant.items() if judged}
    found.queries = {query: text for query, text in found.queries.items() if query in found.relevant}
    if not found.queries:
        raise InvalidData("No query of the data set has a relevant passage.", hint="Add judgements above 0.")
    return found


def validate(
    folder: Path, params: ValidateParams, *, model: Path | None = None, on_progress: OnProgress = ignore_progress
) -> DataReport:
    """Every fault of a data set of pairs with file, line and field; see `contract.data.DataValidator`."""
    files = _files(folder)
    faults: list[DataFault] = []
    codes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    severe = 0
    sizes: list[int] = []
    is_complete = True
    total = sum(file.stat().st_size for _, file in files)
    seen: dict[bytes, str] = {}
    last_told = time.monotonic()
    for number, each in enumerate(_understood(folder)):
        if number >= params.max_samples:
            is_complete = False
            break
        if isinstance(each, Pair):
            size = sum(len(text.encode()) for text in (each.query, each.positive, *each.negatives))
            sizes.append(round(size / _BYTES_PER_TOKEN))
            kinds["pair"] += 1
            digest = hashlib.sha256(f"{each.query}\0{each.positive}".encode("utf-8", "surrogatepass")).digest()
            first = seen.setdefault(digest, each.place)
            if first == each.place:
                continue
            each = DataFault(
                file=each.file,
                line=each.line,
                field=None,
                code="duplicate",
                severity="warning",
                message=f"the same pair as {first}.",
                hint="Leave one of them out.",
            )
        codes[each.code] += 1
        severe += each.severity == "error"
        if len(faults) < params.max_faults:
            faults.append(each)
        if time.monotonic() - last_told > 1:
            last_told = time.monotonic()
            on_progress(0, total)
    on_progress(total, total)
    sizes.sort()
    tokens = sum(sizes)
    return DataReport(
        num_files=len(files),
        num_bytes=total,
        samples=dict(kinds),
        num_errors=severe,
        num_warnings=sum(codes.values()) - severe,
        faults_by_code=dict(codes),
        faults=faults,
        size=SizeStatistics(
            total=tokens,
            learnt=tokens,
            shortest=sizes[0] if sizes else 0,
            median=sizes[len(sizes) // 2] if sizes else 0,
            p95=sizes[int(len(sizes) * 0.95)] if sizes else 0,
            longest=sizes[-1] if sizes else 0,
        ),
        epochs=params.epochs,
        cost=tokens * params.epochs,
        is_complete=is_complete,
        notes=[] if is_complete else [f"The check ended after {params.max_samples} samples."],
    )


def _position(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def _files(folder: Path) -> list[tuple[str, Path]]:
    if folder.is_file():
        return [(folder.name, folder)]
    found = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
    return sorted((name, path) for name, path in found if name.lower().endswith(SUFFIXES))


#: The longest line that is read into memory.
MAX_LINE_BYTES = 16 << 20


def _open(file: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")


def _objects(file: Path, name: str) -> Iterator[tuple[int, dict[str, Any] | DataFault]]:
    try:
        with _open(file) as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if len(raw) > MAX_LINE_BYTES:
                    # A packed file of megabytes may hold a line of gigabytes.
                    what = f"the line has more than {MAX_LINE_BYTES >> 20} MiB."
                    yield number, _fault(name, number, None, "line_too_long", what, "Is it one record per line?")
                    return
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                    if not line.strip():
                        continue
                    record = json.loads(line)
                except UnicodeDecodeError as error:
                    yield (
                        number,
                        _fault(name, number, None, "not_utf8", f"not UTF-8 at byte {error.start}.", "Convert the file."),
                    )
                    continue
                except (ValueError, RecursionError) as error:
                    yield number, _fault(name, number, None, "not_json", f"not JSON ({error}).", _FORMS)
                    continue
                if isinstance(record, dict):
                    yield number, record
                else:
                    yield number, _fault(name, number, None, "not_an_object", "not a JSON object.", _FORMS)
    except (EOFError, OSError, zlib.error) as error:
        yield 0, _fault(name, None, None, "unreadable", f"cannot be read: {error}.", "Pack the file again.")


def _understood(folder: Path) -> Iterator[Pair | DataFault]:
    for name, file in _files(folder):
        for number, record in _objects(file, name):
            yield record if isinstance(record, DataFault) else _pair(record, name, number)


def _pair(record: dict[str, Any], name: str, number: int) -> Pair | DataFault:
    query, positive = ("query", "positive") if "query" in record or "positive" in record else ("title", "text")
    for key in (query, positive):
        value = record.get(key)
        if not isinstance(value, str):
            what = "missing" if value is None else "not a text"
            return _fault(name, number, key, "missing_field" if value is None else "wrong_type", f"is {what}.", _FORMS)
        if not value.strip():
            return _fault(name, number, key, "empty", "is empty.", "Fill it, or remove the line.")
        if (fault := _surrogate(value, name, number, key)) is not None:
            return fault
    negatives = record.get("negatives")
    if negatives is not None and not isinstance(negatives, list):
        return _fault(name, number, "negatives", "wrong_type", "is not a list.", _FORMS)
    for index, each in enumerate(negatives or ()):
        key = f"negatives.{index}"
        if not isinstance(each, str) or not each.strip():
            return _fault(name, number, key, "wrong_type", "is not a text, or empty.", _FORMS)
        if (fault := _surrogate(each, name, number, key)) is not None:
            return fault
        if each == record[positive]:
            return _fault(name, number, key, "contradiction", "is the positive passage too.", "Remove it.")
    return Pair(record[query], record[positive], tuple(negatives or ()), name, number)


def _surrogate(text: str, name: str, number: int, key: str) -> DataFault | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"half a surrogate pair at character {error.start}."
        return _fault(name, number, key, "not_utf8", message, "Remove the \\ud8xx escape that has no partner.")
    return None


def _fault(file: str, line: int | None, key: str | None, code: str, message: str, hint: str) -> DataFault:
    return DataFault(file=file, line=line, field=key, code=code, severity="error", message=message, hint=hint)


def _of_pairs(folder: Path) -> Collection:
    ids: dict[str, str] = {}
    found = Collection({}, {})
    by_text: dict[str, str] = {}

    def passage(text: str) -> str:
        if text not in ids:
            ids[text] = f"p{len(ids) + 1}"
            found.passages[ids[text]] = text
        return ids[text]

    for pair in read_pairs(folder):
        # A query that is asked twice has two relevant passages.
        query = by_text.setdefault(pair.query, pair.place)
        found.queries[query] = pair.query
        found.relevant.setdefault(query, {})[passage(pair.positive)] = 1.0
        found.wrong.setdefault(query, []).extend(passage(text) for text in pair.negatives)
    return found


def _beir(folder: Path) -> Collection:
    found = Collection(dict(_texts(folder, "corpus")), dict(_texts(folder, "queries")))
    judgements = next((file for file in (folder / "qrels.tsv", folder / "qrels" / "test.tsv") if file.is_file()), None)
    if judgements is None:
        raise InvalidData("The data set has no qrels.tsv or qrels/test.tsv.", hint="Give the judgements of BEIR's layout.")
    for number, line in enumerate(judgements.read_text("utf-8").splitlines(), start=1):
        cells = line.split("\t")
        if not line.strip() or (number == 1 and not _is_number(cells[-1])):
            continue
        if len(cells) not in (3, 4) or not _is_number(cells[-1]):
            raise InvalidData(
                f"{judgements.name}, line {number}: not query, passage and grade.", hint="Separate the three by tabs."
            )
        query, passage, grade = cells[0], cells[-2], float(cells[-1])
        for key, known, what in ((query, found.queries, "query"), (passage, found.passages, "passage")):
            if key not in known:
                raise InvalidData(f"{judgements.name}, line {number}: there is no {what} {key!r}.")
        if grade > 0:
            found.relevant.setdefault(query, {})[passage] = grade
    return found


def _texts(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    file = next((file for file in (folder / f"{part}.jsonl", folder / f"{part}.jsonl.gz") if file.is_file()), None)
    if file is None:
        raise InvalidData(f"The data set has no {part}.jsonl.", hint="Give all three parts of BEIR's layout.")
    for number, record in _objects(file, file.name):
        if isinstance(record, DataFault):
            raise InvalidData(f"{file.name}, line {number}: {record.message}", hint=record.hint)
        key, text, title = record.get("_id"), record.get("text"), record.get("title")
        if not isinstance(key, str | int) or not isinstance(text, str):
            raise InvalidData(f'{file.name}, line {number}: fields "_id" and "text" are needed.')
        yield str(key), f"{title}\n{text}" if isinstance(title, str) and title.strip() else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
