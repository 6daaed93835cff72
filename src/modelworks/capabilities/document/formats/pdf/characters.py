"""Characters of a page made runs: pieces of text on one line, without a gap that could part two columns."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from ctypes import byref, c_int, create_string_buffer
from dataclasses import dataclass
from typing import Any

import pypdfium2.raw as raw

#: A gap of this many heights of a character ends a run; a smaller one of this many is a blank, where no blank is written.
_GAP, _BLANK = 0.95, 0.2
#: What pdfium puts where a word was parted at the end of a line.
_HYPHENS = frozenset({0x02, 0xFFFE, 0xAD})
_BLANKS = frozenset({0x20, 0x09, 0xA0, 0x3000, *range(0x2000, 0x200B), 0x202F, 0x205F})
_INVISIBLE = frozenset({0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF})
_BOLD_WEIGHT = 600
#: Arabic lam, and the alefs that it is written as one sign with.
_LAM, _ALEFS = "\u0644", frozenset("\u0622\u0623\u0625\u0627")
_BOLD_NAME = re.compile(rb"bold|black|heavy|semibd|CMBX|SFBX|NimbusRomNo9L-Medi|-Medi\b", re.IGNORECASE)


@dataclass(slots=True)
class Run:
    """Text on one line; the box in points from the upper left corner of the page as it is shown."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    size: float
    is_bold: bool = False
    #: A word goes on in the next line.
    is_parted: bool = False

    @property
    def middle(self) -> float:
        return (self.y0 + self.y1) / 2


def read_runs(page: Any, textpage: Any, walls: Sequence[tuple[float, float, float]] = ()) -> tuple[list[Run], list[str]]:
    """The runs of a page in the order in which the file writes them, and the texts that stand at an angle.

    Args:
        page, textpage: of pypdfium2.
        walls: upright lines, which no run crosses: their distance from the left, upper and lower end.
    """
    place = placing(page)
    turned = page.get_rotation() * math.pi / 180
    handle = textpage.raw
    unicode_of, box_of, angle_of = raw.FPDFText_GetUnicode, raw.FPDFText_GetLooseCharBox, raw.FPDFText_GetCharAngle
    box = raw.FS_RECTF()
    pointer = byref(box)
    runs: list[Run] = []
    aside: list[str] = []
    run: Run | None = None
    letters: list[str] = []
    blank = is_aside = False
    high = 0
    last = (0.0, 0.0)
    at = 0
    tallies: dict[int, list[float]] = {}

    def close() -> None:
        nonlocal run  # and what is said of it: letters, tallies and the place of the last one
        if run is not None:
            run.text = "".join(letters).rstrip()
            run.is_bold = run.is_bold and _is_bold(handle, at)
            _, run.y0, run.y1, run.size = max(tallies.values(), key=lambda tally: tally[0])
            if run.text:
                runs.append(run)
        run = None
        letters.clear()

    for index in range(raw.FPDFText_CountChars(handle)):
        code = unicode_of(handle, index)
        if code in (10, 13):
            if is_aside:
                _add_aside(aside, letters)
                is_aside = False
            close()
            blank = False
            continue
        if code in _BLANKS:
            blank = True
            continue
        if code in _HYPHENS:
            if run is not None:
                run.is_parted = True
            continue
        if code == 0 or code in _INVISIBLE:
            continue
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000:
            code = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00) if high else 0xFFFD
            high = 0
        if not box_of(handle, index, pointer):
            continue
        x0, y0, x1, y1 = place(box.left, box.top, box.right, box.bottom)
        letter = chr(code)
        if is_aside:
            if _is_level(angle_of(handle, index), turned):
                _add_aside(aside, letters)
                is_aside = False
            else:
                letters.append(f" {letter}" if blank else letter)
                blank = False
                continue
        size = y1 - y0
        if run is not None and last == (x0, x1) and not blank:
            # A ligature: its letters share one box. That of lam and alef comes turned round with the line.
            place_of = len(letters) - 1 if letter == _LAM and letters[-1] in _ALEFS else len(letters)
            letters.insert(place_of, letter)
            continue
        last = (x0, x1)
        if run is not None:
            is_leftward = code > 0x58F and is_from_right(letter)
            # Names in Latin letters stand within Arabic text without a blank of their own.
            blank = blank or (is_leftward and letters[-1].isascii() and letters[-1].isalpha())
            gap = run.x0 - x1 if is_leftward else x0 - run.x1
            reach = max(size, run.size)
            apart = abs((y0 + y1) / 2 - run.middle) > 0.5 * reach or gap > _GAP * reach or gap < -0.6 * reach
            if apart or (walls and blank and _is_walled(walls, run.x1, x0, run.middle)):
                close()
        if run is None:
            if not _is_level(angle_of(handle, index), turned):
                is_aside = True
                letters.append(letter)
                blank = False
                continue
            run = Run("", x0, y0, x1, y1, size, _is_bold(handle, index))
            tallies = {round(size): [1.0, y0, y1, size]}
            at = index
            letters.append(letter)
            blank = False
            continue
        run.is_parted = False
        at = index
        if blank or (gap > _BLANK * size and code < 0x2E80):
            letters.append(" ")
        letters.append(letter)
        blank = False
        run.x0, run.x1 = min(run.x0, x0), max(run.x1, x1)
        # Bullets and the numbers of footnotes are of other sizes: a line has that of most of its characters.
        tally = tallies.setdefault(round(size), [0.0, y0, y1, size])
        tally[0] += 1
    if is_aside:
        _add_aside(aside, letters)
    close()
    return runs, aside


def is_from_right(letter: str) -> bool:
    """Whether a letter is of a script that runs from right to left."""
    return unicodedata.bidirectional(letter) in ("R", "AL")


def _is_walled(walls: Sequence[tuple[float, float, float]], x0: float, x1: float, y: float) -> bool:
    return any(x0 - 1 < x < x1 + 1 and top < y < bottom for x, top, bottom in walls)


def _is_bold(handle: Any, index: int) -> bool:
    if raw.FPDFText_GetFontWeight(handle, index) >= _BOLD_WEIGHT:
        return True
    # TeX's fonts, and many subsets, say it in their name alone.
    name, flags = create_string_buffer(64), c_int()
    raw.FPDFText_GetFontInfo(handle, index, name, 64, byref(flags))
    return bool(_BOLD_NAME.search(name.value))


def _is_level(angle: float, turned: float) -> bool:
    """Whether text runs from left to right as the page is shown, within some ten degrees.

    pdfium counts angles of characters clockwise, as pages are turned.
    """
    return math.cos(angle + turned) > 0.98 if turned else (angle < 0.2 or angle > 6.08)


def _add_aside(aside: list[str], letters: list[str]) -> None:
    text = "".join(letters).strip()
    letters.clear()
    if len(text) > 1:
        aside.append(text)


def placing(page: Any) -> Any:
    """From the coordinates of the file to those of the page as it is shown, from its upper left corner."""
    left, bottom, right, top = page.get_cropbox()
    turn = page.get_rotation()
    if turn == 90:
        return lambda l, t, r, b: (b - bottom, l - left, t - bottom, r - left)  # noqa: E741 - left, top, right, bottom
    if turn == 180:
        return lambda l, t, r, b: (right - r, b - bottom, right - l, t - bottom)  # noqa: E741
    if turn == 270:
        return lambda l, t, r, b: (top - t, right - r, top - b, right - l)  # noqa: E741
    return lambda l, t, r, b: (l - left, top - t, r - left, top - b)  # noqa: E741
