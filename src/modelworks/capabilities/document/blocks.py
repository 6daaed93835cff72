"""What every reader of a format gives: blocks in reading order, each knowing its place, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modelworks.capabilities.document.schemas import ParsingRequest
from modelworks.contract.passages import Fault

BlockKind = Literal["heading", "text", "list", "code", "table", "caption"]
Box = tuple[float, float, float, float]

#: Faults that tell something without anything being lost.
NOTES = frozenset({"macros_ignored", "decoded_by_guess", "external_content_ignored"})


@dataclass(slots=True)
class Table:
    """Rows of cells; those of a sheet or of a delimited file know where each row stands."""

    rows: list[list[str]]
    num_header: int = 1
    #: First and last line (of a file) or row (of a sheet) of each row, from 1.
    marks: list[tuple[int, int]] | None = None
    sheet: str | None = None
    #: Of the sheet, from 1.
    first_column: int = 1


@dataclass(slots=True)
class Block:
    """A heading, a paragraph, an item of a list, a table or a piece of code."""

    kind: BlockKind
    text: str = ""
    #: Of a heading from 1; of an item of a list its depth from 0.
    level: int = 1
    table: Table | None = None
    page: int | None = None
    box: Box | None = None
    lines: tuple[int, int] | None = None


@dataclass(slots=True)
class Parsed:
    """A document as its reader understood it."""

    #: May be read as it is made: what comes later than a limit is never made.
    blocks: Iterable[Block]
    #: Of the format that the bytes are.
    media_type: str
    title: str | None = None
    num_pages: int | None = None
    #: Readers add to it while the blocks are taken.
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read: its bytes, what a person calls it, and the limits."""

    path: Path
    name: str
    request: ParsingRequest
    media_type: str | None = None

    @property
    def suffix(self) -> str:
        """The ending of the name in small letters (".pdf"), or nothing."""
        return Path(self.name.replace("\\", "/")).suffix.lower()


class Refused(Exception):
    """The document gives no passages at all, and this is why."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.fault = Fault(code=code, message=message, hint=hint)
