"""Best tracks as agencies publish them: HURDAT2, JMA RSMC Tokyo, JTWC as CSV, and ATCF's decks."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from modelworks.capabilities.weather.cyclone.tracks import Fix, Stage, Storm, wrapped
from modelworks.contract.errors import InvalidData, PayloadTooLarge

#: Of one file when unpacked; the best tracks of all oceans since 1850 are a tenth of it.
MAX_BYTES: Final = 256 << 20
#: `ATCF_FIX` of a line's first fields: basin, number, time.
_ATCF: Final = re.compile(r"^[A-Z]{2}\s*,\s*\d{1,2}\s*,\s*\d{10}\s*,")
_HURDAT: Final = re.compile(r"^[A-Z]{2}\d{6}\s*,")

#: HURDAT2's and ATCF's words for what a system is.
_STATUS: Final[dict[str, Stage]] = {
    "DB": "disturbance",
    "LO": "disturbance",
    "WV": "disturbance",
    "IN": "disturbance",
    "TD": "depression",
    "TS": "storm",
    "TY": "storm",
    "ST": "storm",
    "TC": "storm",
    "HU": "storm",
    "SD": "subtropical",
    "SS": "subtropical",
    "EX": "extratropical",
    "ET": "extratropical",
    "PT": "extratropical",
}
#: RSMC Tokyo's grades; 7 is a storm that enters its area, 9 one of any strength.
_GRADES: Final[dict[str, Stage]] = {
    "2": "depression",
    "3": "storm",
    "4": "storm",
    "5": "storm",
    "6": "extratropical",
    "7": "storm",
    "9": "storm",
}


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a reader is, for its complaints."""

    file: str
    number: int

    def fault(self, what: str) -> InvalidData:
        return InvalidData(
            f"{self.file}, line {self.number}: {what}",
            hint="Best tracks are read as HURDAT2, RSMC Tokyo's text, JTWC's CSV (columns CY,Year,…,SN) or ATCF decks.",
        )


def read_storms(folder: Path) -> list[Storm]:
    """The storms of all files of a folder, by name of file; .gz files are unpacked.

    Raises:
        InvalidData: no file holds tracks, or one has a fault; the message names file and line.
        PayloadTooLarge: a file is larger than `MAX_BYTES` when unpacked.
    """
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    found = [storm for path in files if path.suffix.lower() != ".md" for storm in read_file(path)]
    if not found:
        raise InvalidData(
            "The data set holds no cyclone tracks.",
            hint="Give HURDAT2, RSMC Tokyo's best track text, JTWC's CSV or ATCF decks, also as .gz.",
        )
    return found


def read_file(path: Path) -> list[Storm]:
    """The storms of one file, in whichever format it is; raises as `read_storms`."""
    return parse(_text(path), path.name)


def parse(text: str, name: str = "track") -> list[Storm]:
    """The storms of a text in any of the formats; `name` is for complaints. Raises InvalidData."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    reader: Callable[[Sequence[str], str], list[Storm]]
    if _HURDAT.match(first):
        reader = _hurdat
    elif first.startswith("66666"):
        reader = _rsmc
    elif _ATCF.match(first):
        reader = _atcf
    elif {"Year", "Month", "Day", "Hour", "Lat", "Lon"} <= {each.strip() for each in first.split(",")}:
        reader = _jtwc
    else:
        raise _Line(name, 1).fault("this is no format of tracks that is known here.")
    storms = reader(lines, name)
    for storm in storms:
        storm.fixes = list({fix.time: fix for fix in sorted(storm.fixes, key=lambda fix: fix.time)}.values())
    return [storm for storm in storms if storm.fixes]


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidData(f"{path.name} ends with .gz but cannot be unpacked: {error}.") from error
    if len(raw) > MAX_BYTES:
        raise PayloadTooLarge(f"{path.name} is larger than {MAX_BYTES >> 20} MiB when unpacked.", hint="Split it by years.")
    return raw.decode("latin-1")


def _hurdat(lines: Sequence[str], name: str) -> list[Storm]:
    """HURDAT2 (Landsea and Franklin 2013): a line for the storm, then one for each fix; -99 and -999 are missing."""
    storms: list[Storm] = []
    left = 0
    for at, fields in _rows(lines, name):
        if _HURDAT.match(f"{fields[0]},"):
            if left:
                raise at.fault(f"the storm before it lacks {left} fixes.")
            storms.append(Storm(fields[0], _named(fields[1] if len(fields) > 1 else "")))
            left = _whole(at, fields[2] if len(fields) > 2 else "", "number of fixes")
            continue
        if not storms or not left:
            raise at.fault("a fix without a line for its storm.")
        if len(fields) < 8:
            raise at.fault(f"{len(fields)} fields where a fix has at least 8.")
        left -= 1
        time = _time(at, fields[0] + fields[1], "%Y%m%d%H%M")
        stage = _STATUS.get(fields[3], "unknown")
        place = (_degrees(at, fields[4], "latitude"), _degrees(at, fields[5], "longitude"))
        storms[-1].fixes.append(_fix(at, time, place, _present(at, fields[6]), _present(at, fields[7]), stage))
    if left:
        raise _Line(name, len(lines)).fault(f"the file ends where {left} more fixes are announced.")
    return storms


def _rsmc(lines: Sequence[str], name: str) -> list[Storm]:
    """RSMC Tokyo's fixed columns: tenths of degrees, hPa, and knots (ten-minute mean; 0 below 34 knots)."""
    storms: list[Storm] = []
    for number, line in enumerate(lines, start=1):
        at = _Line(name, number)
        if not line.strip():
            continue
        if line.startswith("66666"):
            century = "19" if line[6:8] >= "51" else "20"
            storms.append(Storm(f"WP{line[8:10]}{century}{line[6:8]}", _named(line[30:50])))
            continue
        if not storms or len(line) < 28:
            raise at.fault("neither the line of a storm (66666 …) nor that of a fix.")
        century = "19" if line[:2] >= "51" else "20"
        time = _time(at, century + line[:8], "%Y%m%d%H")
        place = (_number(at, line[15:18], "latitude") / 10, _number(at, line[19:23], "longitude") / 10)
        wind = _number(at, line[33:36].strip() or "0", "wind")
        stage = _GRADES.get(line[13], "unknown")
        storms[-1].fixes.append(_fix(at, time, place, wind or None, _number(at, line[24:28], "pressure"), stage))
    return storms


def _jtwc(lines: Sequence[str], name: str) -> list[Storm]:
    """JTWC's best tracks as a table: CY, Year, Month, Day, Hour, Lat, Lon, VMax, MSLP, SN, Cat; wind is a one-minute mean."""
    storms: dict[str, Storm] = {}
    for number, row in enumerate(csv.DictReader(lines), start=2):
        at = _Line(name, number)
        values = {str(key).strip(): (value or "").strip() for key, value in row.items() if isinstance(value, str | None)}
        year, month, day, hour = (_whole(at, values.get(key, ""), key.lower()) for key in ("Year", "Month", "Day", "Hour"))
        try:
            time = datetime(year, month, day, hour, tzinfo=UTC)
        except ValueError as error:
            raise at.fault(f"no time: {error}.") from error
        place = (_number(at, values.get("Lat", ""), "latitude"), _number(at, values.get("Lon", ""), "longitude"))
        wind, pressure = (_present(at, values.get(key, "")) for key in ("VMax", "MSLP"))
        category = values.get("Cat", "")
        stage: Stage = "storm" if category.startswith("Cat") else _STATUS.get(category, "unknown")
        key = values.get("SN") or f"{year}{values.get('CY', '')}"
        storm = storms.setdefault(key, Storm(f"WP{key[4:]:0>2}{key[:4]}"))
        storm.fixes.append(_fix(at, time, place, wind, pressure, stage))
    return list(storms.values())


def _atcf(lines: Sequence[str], name: str) -> list[Storm]:
    """ATCF's decks: best tracks (technique BEST), and of forecasts the analysis (tau 0) alone; see NRL's abdeck.txt."""
    storms: dict[str, Storm] = {}
    for at, fields in _rows(lines, name):
        if len(fields) < 8:
            raise at.fault(f"{len(fields)} fields where a deck has at least 8.")
        if fields[5].lstrip("0") not in ("",):
            continue
        time = _time(at, fields[2], "%Y%m%d%H")
        place = (_tenths(at, fields[6], "latitude"), _tenths(at, fields[7], "longitude"))
        wind, pressure = (_present(at, fields[index]) if len(fields) > index else None for index in (8, 9))
        stage = _STATUS.get(fields[10], "unknown") if len(fields) > 10 else "unknown"
        key = f"{fields[0]}{int(fields[1]):02d}{time.year}"
        storm = storms.setdefault(key, Storm(key))
        if len(fields) > 27 and fields[27]:
            storm.name = _named(fields[27])
        storm.fixes.append(_fix(at, time, place, wind or None, pressure or None, stage))
    return list(storms.values())


def _rows(lines: Sequence[str], name: str) -> Iterator[tuple[_Line, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _Line(name, number), [each.strip() for each in line.split(",")]


def _fix(
    at: _Line, time: datetime, place: tuple[float, float], wind: float | None, pressure: float | None, stage: Stage
) -> Fix:
    latitude, longitude = place
    if not -90 <= latitude <= 90 or not -360 <= longitude <= 360:
        raise at.fault(f"no place on Earth: latitude {latitude}, longitude {longitude}.")
    if wind is not None and not 0 <= wind <= 250:
        raise at.fault(f"a wind of {wind} knots.")
    if pressure is not None and not 800 <= pressure <= 1100:
        raise at.fault(f"a pressure of {pressure} hPa.")
    return Fix(time, latitude, round(float(wrapped(longitude)), 4), wind, pressure, stage)


def _named(text: str) -> str | None:
    name = text.strip()
    return None if name in ("", "UNNAMED") else name[:40]


def _time(at: _Line, text: str, form: str) -> datetime:
    try:
        return datetime.strptime(text.strip(), form).replace(tzinfo=UTC)
    except ValueError as error:
        raise at.fault(f"no time: {text.strip()[:20]!r}.") from error


def _number(at: _Line, text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise at.fault(f"the {what} is no number: {text.strip()[:20]!r}.") from error
    if not abs(value) < 1e6:
        raise at.fault(f"the {what} is no number: {text.strip()[:20]!r}.")
    return value


def _whole(at: _Line, text: str, what: str) -> int:
    return int(_number(at, text, what))


def _present(at: _Line, text: str) -> float | None:
    """A number, or None where it is missing; -99 and -999 say so, and ATCF writes 0 for an unknown pressure."""
    if not text:
        return None
    value = _number(at, text, "value")
    return None if value <= 0 else value


def _degrees(at: _Line, text: str, what: str) -> float:
    """`28.0N`, `94.8W`."""
    value = _number(at, text[:-1], what)
    if text[-1:] not in ("N", "S", "E", "W"):
        raise at.fault(f"the {what} lacks its letter: {text[:20]!r}.")
    return -value if text[-1] in ("S", "W") else value


def _tenths(at: _Line, text: str, what: str) -> float:
    """`280N`, `948W`: tenths of degrees."""
    return _degrees(at, text, what) / 10
