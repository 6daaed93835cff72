"""Rules applied to a data set of passages, one after the other, each counted; what no rule touches stays byte for byte."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path

from pydantic import ValidationError

from modelworks.capabilities.document.cleaning.copies import NearCopies, exact_key, pieces
from modelworks.capabilities.document.cleaning.personal import find, masked
from modelworks.capabilities.document.cleaning.schemas import CleanPassages
from modelworks.contract.data import CleanReport, OnProgress, Removed, ignore_progress
from modelworks.contract.errors import InvalidData
from modelworks.contract.passages import CLEANING_FOLDER, DOCUMENTS_FILE, PASSAGES_FOLDER, Cleaned, ParsedDocument, Passage

PART = "train"
#: Of each rule, so many removals are told.
_EXCERPT_CHARS, _MAX_PREVIEW, _MAX_PLACES = 160, 50, 20
#: A shorter line that repeats is a word, not boilerplate.
_MIN_LINE_CHARS = 6
_EXEMPT = ("table", "code")
_UNKNOWN = "unknown"


def clean(
    folder: Path,
    params: CleanPassages,
    *,
    test: Path | None = None,
    into: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> CleanReport:
    """Clean passages; see `contract.data.DataCleaner`. The first of several copies stays, in the order of the documents.

    Beside the passages that are kept lies a file of `Cleaned` for each document in which a rule did something.

    Raises:
        InvalidData: the folder holds no passages, or a line of it is none. Nothing is compared with `test`.
    """
    return _Cleaning(folder, params, into).run(on_progress)


class _Cleaning:
    def __init__(self, folder: Path, params: CleanPassages, into: Path | None) -> None:
        self._folder = folder
        self._params = params
        self._into = into
        self._report = CleanReport(num_read=0, kept={PART: 0}, removed={}, preview=[])
        self._removed: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()
        #: What was done in the document at hand.
        self._told: list[Cleaned] = []
        self._masked: Counter[str] = Counter()
        self._masked_at: list[str] = []
        self._lines: Counter[str] = Counter()
        self._seen: dict[bytes, str] = {}
        #: Passages by their place.
        self._ids: dict[str, str] = {}
        self._near = None if params.similarity is None else NearCopies(params.similarity)
        self._boilerplate: frozenset[bytes] = frozenset()

    def run(self, on_progress: OnProgress) -> CleanReport:
        documents = [*self._documents()]
        sizes = [place.stat().st_size if (place := self._place(each)).is_file() else 0 for each in documents]
        total = sum(sizes) * 2
        done = 0
        self._boilerplate = frozenset()
        frequency: Counter[bytes] = Counter()
        if self._params.boilerplate_share is not None:
            for document, size in zip(documents, sizes, strict=True):
                frequency.update({key for _, passage, _ in self._passages(document) for key in _line_keys(passage)})
                done += size
                on_progress(done, total)
            least = max(self._params.boilerplate_documents, self._params.boilerplate_share * len(documents))
            self._boilerplate = frozenset(key for key, count in frequency.items() if count >= least)
        else:
            total = sum(sizes)
        if self._into is not None:
            for folder in (PASSAGES_FOLDER, CLEANING_FOLDER):
                (self._into / PART / folder).mkdir(parents=True, exist_ok=True)
        made = []
        for document, size in zip(documents, sizes, strict=True):
            made.append(self._document(document))
            done += size
            on_progress(done, total)
        if self._into is not None:
            lines = "".join(each.model_dump_json(exclude_none=True) + "\n" for each in made)
            (self._into / PART / DOCUMENTS_FILE).write_text(lines, "utf-8")
        self._report.removed, self._report.changed = dict(self._removed), dict(self._changed)
        self._report.notes = [*self._notes()]
        return self._report

    def _document(self, document: ParsedDocument) -> ParsedDocument:
        kept: list[str] = []
        num_chars = 0
        self._told = []
        unlicensed = self._unlicensed(document)
        for number, passage, line in self._passages(document):
            self._report.num_read += 1
            place = f"{PASSAGES_FOLDER}/{document.id}.jsonl:{number}"
            if unlicensed is not None:
                self._drop(passage, place, "licence", unlicensed)
                continue
            self._ids[place] = passage.id
            cleaned = self._cleaned(passage, place)
            if cleaned is None:
                continue
            # What is not changed is written as it came: the same document has the same digest.
            kept.append(line if cleaned is passage else cleaned.model_dump_json(exclude_none=True, exclude_defaults=True))
            num_chars += len(cleaned.text)
        self._report.kept[PART] += len(kept)
        if self._into is not None:
            told = [each.model_dump_json(exclude_none=True, exclude_defaults=True) for each in self._told]
            for folder, lines in ((PASSAGES_FOLDER, kept), (CLEANING_FOLDER, told)):
                if lines:
                    (self._into / PART / folder / f"{document.id}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        dropped = Counter(each.rule for each in self._told if not each.is_kept)
        changed = len({each.passage_id for each in self._told if each.is_kept})
        counted = {"num_passages": len(kept), "num_chars": num_chars, "num_copies": 0, "num_changed": changed}
        return document.model_copy(update={**counted, "dropped": dict(sorted(dropped.items()))})

    def _unlicensed(self, document: ParsedDocument) -> str | None:
        """Why nothing of a document may be kept; None where it may."""
        if self._params.licences is None:
            return None
        licence = (document.licence or "").strip().lower() or _UNKNOWN
        if any(fnmatchcase(licence, allowed.strip().lower()) for allowed in self._params.licences):
            return None
        if licence == _UNKNOWN:
            return "Nothing says under which licence its document is."
        return f"Its document is under {licence}."

    def _cleaned(self, passage: Passage, place: str) -> Passage | None:
        """The passage as it is kept: itself where nothing changes, None where a rule takes it away."""
        params = self._params
        if params.languages is not None and passage.language is not None and passage.language not in params.languages:
            said = "another than zh, en, ja and ko" if passage.language == "und" else passage.language
            self._drop(passage, place, "language", f"Its language is {said}.")
            return None
        text, lines = self._without_boilerplate(passage)
        if not text.strip():
            self._drop(passage, place, "boilerplate", "All its lines stand in many documents.")
            return None
        found = find(text)
        dropped = sorted({each.kind for each in found if getattr(params.personal_data, each.kind) == "drop"})
        if dropped:
            self._drop(passage, place, "personal_data", f"It holds {', '.join(dropped)}.")
            return None
        hidden = [each for each in found if getattr(params.personal_data, each.kind) == "mask"]
        if hidden:
            text = masked(text, hidden)
        if passage.kind not in _EXEMPT and (fault := self._fault(text)) is not None:
            self._drop(passage, place, "quality", fault)
            return None
        if (copy := self._copy(passage, text, place)) is not None:
            reason, like, similarity = copy
            self._drop(passage, place, reason, f"It is like {like}.", like=like, similarity=similarity)
            return None
        if lines:
            told = f"{len(lines)} of its lines stand in many documents: {lines[0].strip()[:_EXCERPT_CHARS]}"
            self._change(passage, "boilerplate", told, text)
            if self._params.excerpts:
                self._lines.update(line.strip()[:_EXCERPT_CHARS] for line in lines)
        if hidden:
            self._masked.update(each.kind for each in hidden)
            self._masked_at.append(place)
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(each.kind for each in hidden).items()))
            self._change(passage, "personal_data", f"Masked: {kinds}.", text)
        return passage if text == passage.text else passage.model_copy(update={"text": text})

    def _without_boilerplate(self, passage: Passage) -> tuple[str, list[str]]:
        """What is left of a text, and the lines that were taken out."""
        if not self._boilerplate or passage.kind in _EXEMPT:
            return passage.text, []
        lines = passage.text.split("\n")
        kept = [line for line in lines if (key := _line_key(line)) is None or key not in self._boilerplate]
        if len(kept) == len(lines):
            return passage.text, []
        return "\n".join(kept).strip("\n"), [line for line in lines if line not in kept]

    def _fault(self, text: str) -> str | None:
        if len(text.strip()) < self._params.min_chars:
            return f"It has {len(text.strip())} characters."
        share = self._params.max_symbol_share
        signs = sum(1 for char in text if not char.isalnum() and not char.isspace())
        if share is not None and signs > share * max(1, len(text)):
            return f"{signs} of its {len(text)} characters are signs."
        return None

    def _copy(self, passage: Passage, text: str, place: str) -> tuple[str, str, float] | None:
        if self._params.duplicates == "document":
            key = passage.document_id.encode() + exact_key(passage)
            if (like := self._seen.setdefault(key, place)) != place:
                return "duplicate", like, 1.0
        elif self._params.duplicates:
            words = " ".join(pieces(unicodedata.normalize("NFKC", text))) or text
            key = blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if (like := self._seen.setdefault(key, place)) != place:
                return "duplicate", like, 1.0
        if self._near is not None and (near := self._near.find_or_add(text, place)) is not None:
            return "near_duplicate", *near
        return None

    def _drop(
        self,
        passage: Passage,
        place: str,
        reason: str,
        detail: str,
        *,
        like: str | None = None,
        similarity: float | None = None,
    ) -> None:
        self._removed[reason] += 1
        excerpt = _excerpt(passage.text)
        self._told.append(
            Cleaned(
                passage_id=passage.id,
                place=passage.place,
                rule=reason,
                detail=detail if like is None else "It says the same as another passage.",
                like=None if like is None else self._ids[like],
                similarity=similarity,
                excerpt=excerpt,
            )
        )
        if self._removed[reason] <= _MAX_PREVIEW:
            file, _, line = place.rpartition(":")
            self._report.preview.append(
                Removed(
                    file=file,
                    line=int(line),
                    reason=reason,
                    detail=detail,
                    like=like,
                    similarity=similarity,
                    excerpt=excerpt if self._params.excerpts else "",
                )
            )

    def _change(self, passage: Passage, rule: str, detail: str, text: str) -> None:
        self._changed[rule] += 1
        told = Cleaned(
            passage_id=passage.id, place=passage.place, rule=rule, is_kept=True, detail=detail, excerpt=_excerpt(text)
        )
        self._told.append(told)

    def _notes(self) -> Iterator[str]:
        if self._masked:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._masked.items()))
            places = ", ".join(self._masked_at[:_MAX_PLACES])
            yield f"Masked {kinds} in {len(self._masked_at)} passages: {places}."
        for line, count in self._lines.most_common(_MAX_PLACES):
            yield f"Taken out {count} times, since it stands in many documents: {line}"

    # -- files --------------------------------------------------------------------------------------------------------

    def _documents(self) -> Iterator[ParsedDocument]:
        listing = self._folder / DOCUMENTS_FILE
        if not listing.is_file():
            raise InvalidData(
                f"The data set has no file {DOCUMENTS_FILE}: it is no passages.",
                hint="Give what the task document-parsing saved.",
            )
        for number, line in enumerate(listing.read_text("utf-8").splitlines(), 1):
            if line.strip():
                try:
                    yield ParsedDocument.model_validate_json(line)
                except ValidationError as error:
                    raise InvalidData(f"{DOCUMENTS_FILE}, line {number}: {error.errors()[0]['msg']}.") from error

    def _passages(self, document: ParsedDocument) -> Iterator[tuple[int, Passage, str]]:
        place = self._place(document)
        if not place.is_file():
            return
        with place.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, Passage.model_validate_json(line), line.rstrip("\n")
                    except ValidationError as error:
                        raise InvalidData(f"{place.name}, line {number}: {error.errors()[0]['msg']}.") from error

    def _place(self, document: ParsedDocument) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", document.id):
            raise InvalidData(f"{DOCUMENTS_FILE} names a document {document.id[:80]!r}, which is no id.")
        return self._folder / PASSAGES_FOLDER / f"{document.id}.jsonl"


def _excerpt(text: str) -> str:
    """The beginning of a text: what must not be kept must not be shown either."""
    return " ".join(masked(text, find(text)).split())[:_EXCERPT_CHARS]


def _line_keys(passage: Passage) -> Iterator[bytes]:
    if passage.kind not in _EXEMPT:
        for line in passage.text.split("\n"):
            if (key := _line_key(line)) is not None:
                yield key


def _line_key(line: str) -> bytes | None:
    """What makes two lines the same: figures (page numbers, dates) count as one, and so does white space."""
    plain = " ".join(re.sub(r"\d+", "0", unicodedata.normalize("NFKC", line)).split()).lower()
    if len(plain) < _MIN_LINE_CHARS:
        return None
    return blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest()
