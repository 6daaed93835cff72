"""What is known of a table: its columns with types, units and samples, and how it refers to others."""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from modelworks.tables.naming import parted

Kind = Literal["integer", "number", "date", "text"]

#: Written into every snapshot; another one is built anew.
FORMAT: Final = 1
CARD_TABLE: Final = "_card"
VALUES_TABLE: Final = "_values"

_ATOM: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]|(?:(?![\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])[^\W\d_])+|\d+(?:\.\d+)?"
)
_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
#: Different writings of one word, where names of columns and questions differ.
_SAME: Final = {
    "average": "avg",
    "mean": "avg",
    "minimum": "min",
    "maximum": "max",
    "total": "tot",
    "amount": "amt",
    "quantity": "qty",
    "balance": "bal",
    "percentage": "pct",
    "percent": "pct",
    "yr": "year",
}


@dataclass(slots=True)
class Column:
    """One column. `unit` stands in its heading or with all of its values."""

    name: str
    kind: Kind
    unit: str | None = None
    comment: str | None = None
    num_distinct: int = 0
    num_empty: int = 0
    least: Any = None
    greatest: Any = None
    samples: list[str] = field(default_factory=list)

    @property
    def is_number(self) -> bool:
        return self.kind in ("integer", "number")


@dataclass(slots=True)
class Reference:
    """A column whose values name rows of another table of the same snapshot, of which they are the key."""

    column: str
    table: str
    other: str


@dataclass(slots=True)
class Table:
    """One table. `place` is where it stands in its document: cells of a sheet, or lines."""

    name: str
    columns: list[Column]
    num_rows: int
    place: str | None = None
    comment: str | None = None
    key: list[str] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    #: Rows that did not fit and were left out, and whether more rows than are kept were there.
    num_left_out: int = 0
    #: The place of its file among those that the snapshot was made of.
    origin: int = 0

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((each for each in self.columns if each.name == name), None)


@dataclass(slots=True)
class Card:
    """All tables of one snapshot."""

    tables: list[Table]

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps({"format": FORMAT, "tables": [asdict(each) for each in self.tables]}, ensure_ascii=False)

    @classmethod
    def loads(cls, text: str) -> Card:
        """Raises ValueError: it is of another format."""
        found = json.loads(text)
        if found.get("format") != FORMAT:
            raise ValueError("the snapshot has another format")
        tables = []
        for each in found["tables"]:
            columns = [Column(**column) for column in each.pop("columns")]
            for column in columns:
                if column.unit is None and column.is_number:
                    column.unit = parted(column.name)[1]
            references = [Reference(**reference) for reference in each.pop("references")]
            tables.append(Table(columns=columns, references=references, **each))
        return cls(tables)

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Card:
        """The card of an open snapshot. Raises ValueError, sqlite3.Error."""
        row = connection.execute(f"SELECT json FROM {CARD_TABLE}").fetchone()
        return cls.loads(str(row[0]))


def atoms(text: str) -> list[str]:
    """What a name, a value or a question is compared by: stems of words, figures, single characters of Chinese."""
    return [word for word, _, _ in placed_atoms(text)]


def placed_atoms(text: str) -> list[tuple[str, int, int]]:
    """Atoms with their places in `text`, which is in NFKC (`plain`) for these to hold."""
    found = []
    for match in _ATOM.finditer(text):
        start = match.start()
        for piece in _CAMEL.split(match.group()):
            found.append((canonical(piece), start, start + len(piece)))
            start += len(piece)
    return found


def plain(text: str) -> str:
    """One form of what looks alike, on one line."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def canonical(word: str) -> str:
    """One writing of a word: small, without the plural, without doubled letters."""
    small = word.casefold()
    if small in _SAME:
        return _SAME[small]
    if not small.isascii() or len(small) < 4 or not small.isalpha():
        return small
    if small.endswith("ies") and len(small) > 4:
        small = small[:-3] + "y"
    elif small.endswith(("sses", "xes", "ches", "shes")):
        small = small[:-2]
    elif small.endswith("s") and not small.endswith(("ss", "us", "is")):
        small = small[:-1]
    small = re.sub(r"([lnprt])\1(?=e[dr]$|ing$)", r"\1", small)
    return _SAME.get(small, small)


def key_of(text: str) -> str:
    """Atoms as one text: the key under which a value is found."""
    return " ".join(atoms(plain(text)))
