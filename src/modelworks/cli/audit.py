"""`audit ls | export | verify | head`: who changed what, and whether the record of it was tampered with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.chain import Break, Head, find_break
from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, Format, Output, age_of, note, print_json, show_list
from modelworks.contract.errors import IntegrityFailed, InvalidRequest

COLUMNS: list[Column] = [
    ("SEQ", "seq"),
    ("AGE", age_of()),
    ("WHO", lambda entry: entry["author_id"] or entry["author_kind"]),
    ("DID", "action"),
    ("WHAT", "noun"),
    ("WHICH", "subject"),
    ("FIELDS", "fields"),
    ("REQUEST", "request_id"),
]

Known = Annotated[str | None, typer.Option("--head", help="A head that was noted before, as NUMBER:DIGEST.")]


def ls(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="Of every project.")] = False,
    output: Output = Format.table,
) -> None:
    """List changes, newest first: who, what, which, on which request."""
    with connect() as client:
        show_list(client.audit.list(limit=limit, everything=everything).data, COLUMNS, output, name="seq")


def head(output: Output = Format.table) -> None:
    """Print the end of the chain as NUMBER:DIGEST. Note it where the server's operators cannot write."""
    with connect() as client:
        found = client.audit.head()
    if output is Format.json:
        print_json({"seq": found.seq, "hash": found.hash})
    else:
        typer.echo(str(found))


def export(
    file: Annotated[Path, typer.Argument(help="Where to write it: one JSON object per line.")],
    output: Output = Format.table,
) -> None:
    """Write the whole chain to a file that anybody can verify without a server."""
    draft = file.with_name(f".{file.name}.part")
    last, count = Head(0, ""), 0
    try:
        with connect() as client, draft.open("w", encoding="utf-8") as lines:
            for entry in client.audit.export():
                lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
                last, count = Head(entry["seq"], entry["hash"]), count + 1
            lines.flush()
            os.fsync(lines.fileno())
        draft.replace(file)
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be written: {error.strerror}.", hint="Check the folder.") from error
    finally:
        draft.unlink(missing_ok=True)
    note(tr("{count} entries were written; the chain ends at {head}. Note that elsewhere.", count=count, head=last))
    if output is Format.json:
        print_json({"path": str(file), "num_entries": count, "head": {"seq": last.seq, "hash": last.hash}})
    else:
        typer.echo(str(file))


def verify(
    file: Annotated[Path | None, typer.Argument(help="An exported chain; without one the server checks its own.")] = None,
    known: Known = None,
    output: Output = Format.table,
) -> None:
    """Check that no entry was changed, removed, moved or added, and with --head that none was cut off."""
    expected = None if known is None else head_of(known)
    if file is not None:
        end, broken = find_break(entries_of(file), known=expected)
    else:
        with connect() as client:
            report = client.audit.verify(known=expected)
        end = Head(report["head"]["seq"], report["head"]["hash"])
        broken = None if report["holds"] else Break(report["broken_at"], report["reason"])
    if broken is not None:
        raise IntegrityFailed(
            f"The chain breaks at entry {broken.seq}: {broken.reason}.",
            hint=f"Entries 1 to {end.seq} hold. Compare with an older export or backup, and ask who could write here.",
            code="audit_chain_broken",
        )
    if output is Format.json:
        print_json({"holds": True, "num_entries": end.seq, "head": {"seq": end.seq, "hash": end.hash}})
    elif output is Format.name:
        typer.echo(str(end))
    else:
        typer.echo(tr("The chain holds: {count} entries, the last is {head}.", count=end.seq, head=end))


def head_of(text: str) -> Head:
    """A head as a person noted it.

    Raises:
        InvalidRequest: it is not NUMBER:DIGEST.
    """
    number, colon, value = text.strip().partition(":")
    if not (colon and number.isascii() and number.isdigit() and len(value) == 64):
        raise InvalidRequest(f"{text!r} is not a head.", hint="Give it as `modelworks audit head` prints it.", code="usage")
    return Head(int(number), value.lower())


def entries_of(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of an exported chain; raises InvalidRequest where it is none."""
    number = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise InvalidRequest(f"{file}, line {number}: not an entry of an audit log.", hint="Give an exported file.")
                yield entry
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}.", hint="Check the path.") from error
    except ValueError as error:
        raise InvalidRequest(f"{file}, line {number}: not JSON.", hint="Give a file that `audit export` wrote.") from error


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(help="Who changed what, in a chain that shows tampering.", no_args_is_help=True, rich_markup_mode=None)
    for verb in (ls, head, export, verify):
        group.command()(verb)
    app.add_typer(group, name="audit")
