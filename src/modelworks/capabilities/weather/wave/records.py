"""A buoy's records, as CSV of any agency or as they are asked with, on an even grid of times."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modelworks.contract.errors import InvalidData, PayloadTooLarge

Floats = NDArray[np.float64]
MAX_BYTES: Final = 256 << 20
#: At most so many steps between the first and the last record: fifty years of half-hours.
_MOST_STEPS: Final = 900_000

#: Columns of a series, and what agencies call them, in lower case.
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "hs_m": ("hs", "hs_m", "hsig", "swh", "wvht", "significant wave height"),
    "hmax_m": ("hmax", "hmax_m", "maximum wave height"),
    "tz_s": ("tz", "tz_s", "tavg", "apd", "mean wave period"),
    "tp_s": ("tp", "tp_s", "dpd", "peak wave period"),
    "direction_deg": ("peak direction", "direction", "direction_deg", "mwd", "dir"),
    "sst_c": ("sst", "sst_c", "wtmp", "sea surface temperature"),
}
_TIMES: Final = ("date/time", "time", "datetime", "date", "valid_time")
#: What cannot be: heights, periods and directions are not below 0, and no agency's sign for missing is above -90.
_MISSING: Final = -90.0
_HIGHEST: Final = {"hs_m": 40.0, "hmax_m": 80.0, "tz_s": 60.0, "tp_s": 60.0, "direction_deg": 360.0, "sst_c": 60.0}


@dataclass(frozen=True, slots=True)
class Series:
    """Records on an even grid: `values_nc[i]` at `start + i * step_s`, NaN where there is none; columns as `COLUMNS`."""

    start: datetime
    step_s: int
    values_nc: Floats

    def __len__(self) -> int:
        return len(self.values_nc)

    @property
    def hs(self) -> Floats:
        """Significant heights in m."""
        column: Floats = self.values_nc[:, 0]
        return column

    def seconds(self) -> Floats:
        """Seconds since 1970 of each row."""
        return self.start.timestamp() + self.step_s * np.arange(len(self), dtype=np.float64)


def read_series(folder: Path) -> Series:
    """All CSV files of a folder as one series; .gz files are unpacked.

    Raises:
        InvalidData: no file holds records, or one has a fault; the message names file, line and column.
        PayloadTooLarge: a file is larger than `MAX_BYTES` when unpacked.
    """
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    times: list[datetime] = []
    rows: list[list[float]] = []
    for path in files:
        if path.name.lower().endswith((".csv", ".csv.gz", ".txt", ".txt.gz")):
            _read(path, times, rows)
    if not rows:
        raise InvalidData(
            "The data set holds no records of waves.",
            hint="Give CSV files with a time and Hs in metres; of a wave model's grids say the place: latitude, longitude.",
        )
    return gridded(times, np.array(rows, np.float64))


def gridded(times: Sequence[datetime], values_nc: Floats, step_s: int | None = None) -> Series:
    """Records on the grid of their most frequent step (or of `step_s`); a record goes to the step nearest to it.

    Raises:
        InvalidData: there is no record, or they lie too far apart to be one series.
    """
    stamps = np.array([time.timestamp() for time in times])
    order = np.argsort(stamps, kind="stable")
    stamps, values_nc = stamps[order], values_nc[order]
    if step_s is None:
        steps = np.diff(stamps)
        steps = steps[steps > 0]
        found, counts = np.unique(steps, return_counts=True)
        step_s = int(found[np.argmax(counts)]) if len(found) else 3600
    place = np.rint((stamps - stamps[0]) / step_s).astype(np.int64)
    if place[-1] >= _MOST_STEPS:
        raise InvalidData(
            f"The records span {place[-1] + 1} steps of {step_s} s, more than {_MOST_STEPS}.", hint="Give one buoy's records."
        )
    grid = np.full((int(place[-1]) + 1, values_nc.shape[1]), np.nan)
    grid[place] = values_nc
    return Series(datetime.fromtimestamp(stamps[0], UTC), step_s, grid)


def _read(path: Path, times: list[datetime], rows: list[list[float]]) -> None:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidData(f"{path.name} ends with .gz but cannot be unpacked: {error}.") from error
    if len(raw) > MAX_BYTES:
        raise PayloadTooLarge(f"{path.name} is larger than {MAX_BYTES >> 20} MiB when unpacked.", hint="Split it by years.")
    reader = csv.reader(raw.decode("utf-8-sig", "replace").splitlines())
    header = [each.strip().lower() for each in next(reader, [])]
    time_at = next((header.index(name) for name in _TIMES if name in header), None)
    places = {column: next((header.index(name) for name in names if name in header), None) for column, names in COLUMNS.items()}
    if time_at is None or places["hs_m"] is None:
        raise InvalidData(
            f"{path.name}, line 1: no column for {'the time' if time_at is None else 'Hs'} among {', '.join(header)[:200]}.",
            hint="The first line names the columns: Date/Time and Hs at least.",
        )
    before: list[datetime] = []
    for number, cells in enumerate(reader, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        try:
            before = [*before[-1:], _time(cells[time_at], before)]
            rows.append([_value(cells[place], column) if place is not None else np.nan for column, place in places.items()])
        except (ValueError, IndexError) as error:
            raise InvalidData(
                f"{path.name}, line {number}: {error}.", hint="Each line has the columns of the first."
            ) from error
        times.append(before[-1])


def _time(text: str, before: Sequence[datetime]) -> datetime:
    """ISO 8601, or days and months in either order: where both can be meant, the one that goes on as the records did."""
    text = text.strip()
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except ValueError:
        pass
    found = []
    for form in ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S"):
        try:
            found.append(datetime.strptime(text, form).replace(tzinfo=UTC))
        except ValueError:
            continue
    if not found:
        raise ValueError(f"no time: {text[:30]!r}")
    if not before:
        return found[0]
    step = (before[-1] - before[-2]) if len(before) > 1 else None
    expected = before[-1] + step if step is not None else before[-1]
    return min(found, key=lambda time: abs((time - expected).total_seconds()))


def _value(text: str, column: str) -> float:
    text = text.strip()
    if not text or text.lower() in ("nan", "mm", "null"):
        return float("nan")
    value = float(text)
    if value <= _MISSING:
        return float("nan")
    if not (-5 if column == "sst_c" else 0) <= value <= _HIGHEST[column]:
        raise ValueError(f"{column} is {value}, which cannot be")
    return value
