"""What the cells of a column are: numbers, dates or texts. One cell that is something else makes all of them texts."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Final

from modelworks.tables.card import Kind, plain

#: What stands where nothing is known.
MISSING: Final = frozenset({"", "na", "n/a", "n.a.", "nan", "null", "none", "-", "--", "—", ".", "#n/a", "无", "\\n"})
_NUMBER: Final = re.compile(r"([+-]?)([$¥€£]?)\s*((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)((?:[eE][+-]?\d+)?)\s*(%?)")
_ZEROS: Final = re.compile(r"[+-]?0\d")
_DATE: Final = re.compile(
    r"(\d{4})(?:-(\d{1,2})-(\d{1,2})|/(\d{1,2})/(\d{1,2})|年(\d{1,2})月(\d{1,2})日|\.(\d{1,2})\.(\d{1,2}))"
    r"(?:[T ](\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?(?:Z|[+-]\d{2}:?\d{2})?)?"
)
_MAX_INTEGER: Final = 2**63 - 1


def is_missing(text: str) -> bool:
    """Whether a cell says that nothing is known."""
    return text.casefold() in MISSING


def number(text: str) -> tuple[float | int, str] | None:
    """A number and the sign of currency or percent that it bears. Figures that begin with zeros are names, no numbers."""
    match = _NUMBER.fullmatch(text)
    if match is None or (_ZEROS.match(match[1] + match[3]) and "." not in match[3]):
        return None
    digits = match[1] + match[3].replace(",", "")
    try:
        value: float | int = float(digits + match[4]) if "." in digits or match[4] else int(digits)
    except ValueError:  # more digits than Python reads
        return None
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        return None
    return value, match[2] or match[5]


def moment(text: str) -> str | None:
    """A date, or a date with a time, as ISO 8601 writes it; zones are left out. Only orders that cannot be mistaken."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    parts = [each for each in match.groups()[:9] if each is not None]
    try:
        day = date(*(int(each) for each in parts[:3])).isoformat()
    except ValueError:
        return None
    if match[10] is None:
        return day
    hour, minute = int(match[10]), int(match[11])
    return None if hour > 23 or minute > 59 else f"{day} {hour:02d}:{minute:02d}:{match[12] or '00'}"


class Guess:
    """What a column is, as far as its cells were seen."""

    def __init__(self, *, is_text: bool = False) -> None:
        self._kinds: set[Kind] = {"text"} if is_text else {"integer", "number", "date"}
        self._marks: set[str] = set()
        self._num = 0

    def see(self, text: str) -> None:
        """Take one cell."""
        if "text" in self._kinds or is_missing(text):
            return
        self._num += 1
        found = number(text) if "number" in self._kinds else None
        if found is not None:
            self._marks.add(found[1])
            self._kinds.discard("date")
            if isinstance(found[0], float):
                self._kinds.discard("integer")
            return
        self._kinds -= {"integer", "number"}
        if "date" not in self._kinds or moment(text) is None:
            self._kinds = {"text"}

    @property
    def kind(self) -> Kind:
        """What all cells are; a column without any, and one of several currencies, holds texts."""
        if not self._num or len(self._marks) > 1:
            return "text"
        return next(kind for kind in ("integer", "number", "date", "text") if kind in self._kinds)

    @property
    def mark(self) -> str | None:
        """The sign of currency or percent that all of its numbers bear."""
        return next(iter(self._marks)) or None if len(self._marks) == 1 and self.kind in ("integer", "number") else None


def stored(text: str, kind: Kind) -> Any:
    """A cell as it is stored."""
    if kind == "text":
        return text or None
    if is_missing(text):
        return None
    if kind == "date":
        return moment(text)
    found = number(text)
    if found is None:
        return None
    return found[0] if kind == "integer" else float(found[0])


_UNIT: Final = re.compile(r"(.+?)\s*[(\[（【]\s*([^()\[\]（）【】]{1,20})\s*[)\]）】]")
_UNIT_AFTER: Final = re.compile(r"(.+?)\s*[,/:]\s*(°?[CFK]|%|kWh?|MWh?|m/s|km/h|hPa|Pa|mm|cm|m|km|kg|g|USD|EUR|CNY|RMB)")


def heading(text: str) -> tuple[str, str | None]:
    """The name in a heading without marks of emphasis, and the unit that stands behind it."""
    name = plain(text).strip("*_` ") or ""
    match = _UNIT.fullmatch(name) or _UNIT_AFTER.fullmatch(name)
    return name, None if match is None else match[2]
