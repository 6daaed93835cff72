"""How results and messages are written: data to stdout as a table, as JSON or as names; everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from modelworks.cli.messages import tr
from modelworks.contract.errors import InvalidRequest

Record = Mapping[str, Any]
#: A heading, and the field (dotted) or function that gives the cell.
Column = tuple[str, str | Callable[[Record], Any]]


class Format(StrEnum):
    """`table` for people, `json` for programs, `name` for `xargs`."""

    table = "table"
    json = "json"
    name = "name"


Output = Annotated[Format, typer.Option("-o", "--output", help="How to print: table, json, or name (only what names it).")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]


def show_list(records: Iterable[Record], columns: Sequence[Column], output: Format, *, name: str = "id") -> None:
    """Print records: a table with headings, a JSON array, or one `name` per line."""
    rows = list(records)
    if output is Format.json:
        print_json(rows)
    elif output is Format.name:
        for row in rows:
            typer.echo(plain(pick(row, name)))
    elif not rows:
        note(tr("Nothing here yet."))
    else:
        cells = [[plain(_cell(row, source)) for _, source in columns] for row in rows]
        for line in table([[title for title, _ in columns], *cells]):
            typer.echo(line)


def show_one(record: Record, fields: Sequence[Column], output: Format, *, name: str = "id") -> None:
    """Print one record: lines of `field  value` (empty ones left out), a JSON object, or its `name`."""
    if output is Format.json:
        print_json(record)
    elif output is Format.name:
        typer.echo(plain(pick(record, name)))
    else:
        lines = [[title.lower() + ":", plain(_cell(record, source))] for title, source in fields]
        for line in table([line for line in lines if line[1] != "-"]):
            typer.echo(line)


def print_json(value: Any) -> None:
    """Indented JSON on stdout, Chinese unescaped."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def note(text: str) -> None:
    """A remark for the person, on stderr."""
    typer.echo(text, err=True)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell; wide (Chinese) characters count twice."""
    if not rows:
        return []
    widths = [max(width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def plain(value: Any) -> str:
    """One line of text without control characters: what others wrote must not drive the terminal."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={plain(item)}" for key, item in value.items() if item is not None) or "-"
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cf") else " " for c in str(value)).strip() or "-"


def pick(record: Record, path: str) -> Any:
    """The value of a dotted field, or None."""
    value: Any = record
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _cell(record: Record, source: str | Callable[[Record], Any]) -> Any:
    return pick(record, source) if isinstance(source, str) else source(record)


def money(micro_units: Any) -> str:
    """Micro-units of the platform's currency as whole ones, exactly."""
    if not isinstance(micro_units, int):
        return "-"
    whole, rest = divmod(micro_units, 1_000_000)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".") if rest else str(whole)


def size_text(num_bytes: Any) -> str:
    """Bytes for people, in powers of 1024."""
    if not isinstance(num_bytes, int | float):
        return "-"
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def age_text(moment: Any) -> str:
    """How long ago an ISO time or a Unix time was: `5s`, `3m`, `2h`, `8d`."""
    if moment is None or moment == "":
        return "-"
    try:
        then = datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else datetime.fromisoformat(str(moment))
    except ValueError:
        return str(moment)
    seconds = max(0.0, (datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def bytes_of(field: str = "num_bytes") -> Callable[[Record], str]:
    """A cell with a size."""
    return lambda record: size_text(pick(record, field))


def age_of(field: str = "created_at") -> Callable[[Record], str]:
    """A cell with an age."""
    return lambda record: age_text(pick(record, field))


def is_terminal(stream: Any) -> bool:
    """Whether a person sits at that end."""
    return bool(getattr(stream, "isatty", lambda: False)())


def coloured(text: str, colour: str) -> str:
    """Coloured for a terminal on stderr, else as it is; `NO_COLOR` is respected."""
    if is_terminal(sys.stderr) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return typer.style(text, fg=colour, bold=True)
    return text


def confirm(question: str, *, yes: bool) -> bool:
    """Ask before something is destroyed or fetched; `-y` answers for the person.

    Raises:
        InvalidRequest: nobody can answer (stdin is no terminal) and `-y` was not given.
    """
    if yes:
        return True
    if not is_terminal(sys.stdin):
        raise InvalidRequest(
            tr("This needs a confirmation, and there is nobody to ask."),
            hint=tr("Repeat it with -y, or with --dry-run to see what it would do."),
            code="confirmation_required",
        )
    typer.echo(tr("{question} [y/N]", question=question) + " ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() in ("y", "yes", "是"):
        return True
    note(tr("Nothing was changed."))
    return False
