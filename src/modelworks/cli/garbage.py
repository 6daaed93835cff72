"""`gc`: give back the space of what nothing refers to any more."""

from __future__ import annotations

from typing import Annotated

import typer

from modelworks.cli.connection import connect
from modelworks.cli.output import Column, DryRun, Format, Output, show_one, size_text


def gc(
    dry_run: DryRun = False,
    grace_h: Annotated[float, typer.Option("--grace-h", min=1, help="Keep what is younger than so many hours.")] = 24,
    output: Output = Format.table,
) -> None:
    """Delete stored bytes that no version and no run refers to (after `rm`). Nothing that is in use is touched."""
    with connect() as client:
        report = client.blobs.collect(dry_run=dry_run, grace_s=grace_h * 3600)
    fields: list[Column] = [
        ("Would delete" if dry_run else "Deleted", "num_deleted"),
        ("Kept", "num_kept"),
        ("Bytes", lambda record: size_text(record["bytes_freed"])),
    ]
    show_one(report, fields, output, name="num_deleted")


def add_to(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(gc)
