"""Units that stand at the end of a column's name (`pressure_bar`), and what else a column is called (`Druck/压力`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: As names write them, and as a person reads them; the others are read as they are written.
_SHOWN: Final = {
    "pa": "Pa",
    "hpa": "hPa",
    "kpa": "kPa",
    "mpa": "MPa",
    "c": "°C",
    "degc": "°C",
    "celsius": "°C",
    "f": "°F",
    "degf": "°F",
    "k": "K",
    "lbs": "lb",
    "m2": "m²",
    "m3": "m³",
    "sec": "s",
    "kmh": "km/h",
    "kph": "km/h",
    "mps": "m/s",
    "w": "W",
    "kw": "kW",
    "mw": "MW",
    "wh": "Wh",
    "kwh": "kWh",
    "mwh": "MWh",
    "v": "V",
    "kv": "kV",
    "hz": "Hz",
    "khz": "kHz",
    "mhz": "MHz",
    "ghz": "GHz",
    "pct": "%",
    "percent": "%",
    "db": "dB",
    "eur": "EUR",
    "usd": "USD",
    "gbp": "GBP",
    "chf": "CHF",
    "cny": "CNY",
    "rmb": "RMB",
    "jpy": "JPY",
}
#: Not `min`, which is the lowest as often as a minute, nor hours and days, which are counted.
_UNITS: Final = (
    *_SHOWN,
    *("bar", "mbar", "psi", "kg", "g", "mg", "lb", "mm", "cm", "m", "km", "mi", "ft", "l", "ml", "s", "ms", "h", "mph"),
    *("rpm", "kb", "mb", "gb", "tb", "ppm", "ppb"),
)
_BEHIND: Final = re.compile(
    r"(.*\w)(?:[_\s-]+|(?<=[a-z])(?=[A-Z]))(?i:(" + "|".join(sorted(_UNITS, key=len, reverse=True)) + "))"
)
#: A letter that says a temperature's scale with these names alone: `vitamin_c` has no unit.
_SCALES: Final = frozenset("cfk")
_WARM: Final = re.compile(r"temp|dew|^t$|温", re.IGNORECASE)
_CHINESE: Final = re.compile(r"[\u3400-\u9fff]")
#: Where a description goes on with what is no name any more.
_END: Final = re.compile(r"[,;:，；：。(（\[]")
_MAX_PARTS, _MAX_WORDS = 4, 4


def parted(name: str) -> tuple[str, str | None]:
    """A name without the unit that stands at its end, and the unit; the name itself and None where none does."""
    match = _BEHIND.fullmatch(name.strip())
    if match is None:
        return name, None
    unit = match[2].casefold()
    if unit in _SCALES and not _WARM.search(match[1]):
        return name, None
    return match[1], _SHOWN.get(unit, match[2])


def unit_written(name: str) -> str | None:
    """The unit at the end of a name as the name writes it."""
    bare, unit = parted(name)
    return None if unit is None else name.strip()[len(bare) :].strip("_- ")


def alternatives(name: str, comment: str | None) -> Iterator[str]:
    """What else a column may be called: without its unit, by one of two languages, by the words of its description."""
    bare, unit = parted(name)
    if unit is not None:
        yield bare
    parts = [each.strip() for each in name.split("/")]
    if len(parts) == 2 and all(len(each) > 1 for each in parts) and len({bool(_CHINESE.search(each)) for each in parts}) == 2:
        yield from parts
    described = [each.strip() for each in re.split(r"[/|]", _END.split(comment or "", maxsplit=1)[0])]
    if len(described) <= _MAX_PARTS:
        yield from (each for each in described if len(each) > 1 and len(each.split()) <= _MAX_WORDS)
