"""The folder of an index: a card with the digest of every file, the passages as they were, and arrays without pickles."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelworks.capabilities.retrieval.terms import TERMS_VERSION
from modelworks.capabilities.retrieval.words import WORD_FILES, open_array
from modelworks.contract.errors import IntegrityFailed, InvalidData
from modelworks.contract.passages import IndexFacts, Passage

CARD_FILE = "index.json"
_PASSAGES_FILE = "passages.jsonl"
_DOCUMENTS_FILE = "documents.txt"
#: Where each passage begins in bytes, its ordinal, where each document's rows begin, and digests of what was encoded.
_ARRAYS = ("passages.npy", "ordinals.npy", "documents.npy", "digests.npy")
VECTORS_FILE = "vectors.npy"
_AGAIN = "Build the index again."
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")
#: Bytes of the digest of a passage's text.
DIGEST_BYTES = 16


class StoredFile(BaseModel):
    """What a file of the index must be."""

    model_config = ConfigDict(extra="forbid")

    num_bytes: int = Field(ge=0)
    sha256: str


class IndexCard(BaseModel):
    """What an index says of itself, beside its facts."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    #: By which rules texts became terms.
    terms: int = TERMS_VERSION
    facts: IndexFacts
    #: Weight of meaning against words, from 0 to 1: for queries with spaces between words, and for those without.
    dense_weight: float = Field(0.0, ge=0, le=1)
    dense_weight_unspaced: float = Field(0.0, ge=0, le=1)
    #: By which rules these weights were found.
    weighing: int = 1
    #: The cosine of passages that have nothing to do with each other: what counts as no likeness.
    unlike: float = Field(0.0, ge=-1, lt=1)
    files: dict[str, StoredFile] = Field(default_factory=dict)


class PassageWriter:
    """Writes passages into the folder of a new index, documents in their order; `close` writes where each lies."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._stream = (folder / _PASSAGES_FILE).open("wb")
        self._begins = [0]
        self._ordinals: list[int] = []
        self._documents: list[str] = []
        self._firsts = [0]

    def add(self, document_id: str, passages: Iterable[Passage]) -> int:
        """Add a document with its passages; returns their number."""
        before = len(self._ordinals)
        for passage in passages:
            line = passage.model_dump_json(exclude_defaults=True).encode() + b"\n"
            self._stream.write(line)
            self._begins.append(self._begins[-1] + len(line))
            self._ordinals.append(passage.ordinal)
        self._documents.append(document_id)
        self._firsts.append(len(self._ordinals))
        return len(self._ordinals) - before

    def close(self) -> None:
        """Write the tables of what was added."""
        self._stream.close()
        (self._folder / _DOCUMENTS_FILE).write_text("".join(f"{each}\n" for each in self._documents), "utf-8", newline="\n")
        np.save(self._folder / "passages.npy", np.array(self._begins, np.int64))
        np.save(self._folder / "ordinals.npy", np.array(self._ordinals, np.int32))
        np.save(self._folder / "documents.npy", np.array(self._firsts, np.int64))


class Passages:
    """The passages of an index by row, and the rows of its documents.

    Raises:
        IntegrityFailed: the files do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        self._begins: NDArray[np.int64] = open_array(folder / "passages.npy", np.int64, 1)
        self.ordinals: NDArray[np.int32] = open_array(folder / "ordinals.npy", np.int32, 1)
        self.firsts: NDArray[np.int64] = open_array(folder / "documents.npy", np.int64, 1)
        self.documents = (folder / _DOCUMENTS_FILE).read_text("utf-8").split("\n")[:-1]
        self.place_of = {document: place for place, document in enumerate(self.documents)}
        size = (folder / _PASSAGES_FILE).stat().st_size
        fits = (
            len(self._begins) == len(self.ordinals) + 1
            and len(self.firsts) == len(self.documents) + 1 == len(self.place_of) + 1
            and self._begins[0] == self.firsts[0] == 0
            and self._begins[-1] == size
            and self.firsts[-1] == len(self.ordinals)
            and bool((np.diff(self._begins) > 0).all())
            and bool((np.diff(self.firsts) >= 0).all())
        )
        if not fits:
            raise IntegrityFailed(f"The passages of the index in {folder} do not fit together.", hint=_AGAIN)
        self._bytes = np.memmap(folder / _PASSAGES_FILE, np.uint8, "r") if size else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self.ordinals)

    def at(self, row: int) -> Passage:
        """The passage of a row; raises IntegrityFailed where it is none."""
        line = bytes(self._bytes[self._begins[row] : self._begins[row + 1]])
        try:
            return Passage.model_validate_json(line)
        except ValidationError as error:
            raise IntegrityFailed(f"Passage {row} of the index is none: {error.errors()[0]['msg']}.", hint=_AGAIN) from error

    def document_rows(self, row: int) -> range:
        """Rows of the document that a row belongs to."""
        place = int(np.searchsorted(self.firsts, row, side="right")) - 1
        return range(int(self.firsts[place]), int(self.firsts[place + 1]))

    def mask(self, documents: Iterable[str]) -> NDArray[np.bool_]:
        """Which rows belong to some documents; an id that the index does not have is passed over."""
        chosen = np.zeros(len(self.documents), np.bool_)
        for document in documents:
            place = self.place_of.get(document)
            if place is not None:
                chosen[place] = True
        return np.repeat(chosen, np.diff(self.firsts))


def encoded_text(passage: Passage, title: str | None, num_headings: int) -> str:
    """What of a passage is encoded: the nearest headings above it, then its text.

    A heading that the text begins with is not said twice; without headings the document's title stands in.
    """
    above = list(passage.place.headings)[-num_headings:] if num_headings else []
    if not above and num_headings and title:
        above = [title]
    start = passage.text.lstrip().lstrip("# ")
    above = [each for each in above if not start.startswith(each)]
    return "\n".join((" > ".join(above), passage.text)) if above else passage.text


def counted_text(passage: Passage, name: str, title: str | None, num_headings: int) -> str:
    """What of a passage is searched by words: the name of its document without the ending, then what is encoded.

    Passages of like documents, such as one report for each quarter, often differ by nothing else.
    """
    return f"{_ENDING.sub('', name)}\n{encoded_text(passage, title, num_headings)}"


def digest_of(text: str) -> bytes:
    """Of a text as it is encoded: what has the same one has the same vector."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def seal(folder: Path, card: IndexCard) -> None:
    """Write the card, with the digests of the files that are there."""
    names = [_PASSAGES_FILE, _DOCUMENTS_FILE, *_ARRAYS, *WORD_FILES]
    if card.facts.dimensions is not None:
        names.append(VECTORS_FILE)
    files = {name: StoredFile(num_bytes=(folder / name).stat().st_size, sha256=_sha256(folder / name)) for name in names}
    (folder / CARD_FILE).write_text(card.model_copy(update={"files": files}).model_dump_json(indent=2) + "\n", "utf-8")


def open_card(folder: Path, *, with_digests: bool) -> IndexCard:
    """The card of an index whose files are those that it names.

    Raises:
        InvalidData: the folder holds no index, or one that this version does not read.
        IntegrityFailed: a file is missing, has another size or (`with_digests`) other bytes.
    """
    file = folder / CARD_FILE
    if not file.is_file():
        raise InvalidData(f"The folder {folder} holds no index of passages: {CARD_FILE} is missing.")
    try:
        card = IndexCard.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidData(
            f"{CARD_FILE} of the index cannot be read at {'.'.join(map(str, first['loc']))}: {first['msg']}.", hint=_AGAIN
        ) from error
    if card.terms != TERMS_VERSION:
        raise InvalidData(
            f"The index was made by rules {card.terms} for words; this version has rules {TERMS_VERSION}.", hint=_AGAIN
        )
    wanted = {_PASSAGES_FILE, _DOCUMENTS_FILE, *_ARRAYS, *WORD_FILES}
    if card.facts.dimensions is not None:
        wanted.add(VECTORS_FILE)
    if set(card.files) != wanted:
        raise IntegrityFailed(f"{CARD_FILE} names other files than an index has.", hint=_AGAIN)
    for name, stored in card.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != stored.num_bytes:
            raise IntegrityFailed(f"{name} of the index is missing, or has another size than when it was made.", hint=_AGAIN)
        if with_digests and _sha256(path) != stored.sha256:
            raise IntegrityFailed(f"{name} of the index has other bytes than when it was made.", hint=_AGAIN)
    return card


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
