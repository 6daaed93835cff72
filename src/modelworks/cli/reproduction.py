"""`reproduce`: a finished run once more, and whether the same bytes come out."""

from __future__ import annotations

import typer

from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, DryRun, Format, Output, Record, note, plain, print_json, show_list, show_one
from modelworks.cli.run import FIELDS, RunId, ended


def _short(field: str) -> Column:
    def cell(record: Record) -> str | None:
        digest = record.get(field)
        return None if digest is None else f"{str(digest)[:19]}…"

    return field.upper(), cell


FILES: list[Column] = [
    ("FILE", "path"),
    ("EQUAL", "equal"),
    _short("then"),
    _short("now"),
]


def reproduce(run_id: RunId, dry_run: DryRun = False, output: Output = Format.table) -> None:
    """Repeat a finished run and compare what comes out. With the same inputs, parameters, seed and threads."""
    with connect() as client:
        asked = client.runs.reproduce(run_id, dry_run=dry_run)
        for each in asked["differences"]:
            note(_difference(each))
        if dry_run:
            if output is Format.json:
                print_json(asked)
            else:
                show_one(asked["run"], FIELDS, output)
            return
        run = ended(client, asked["run"]["id"], output, shown=False)
    found = run["result"]
    if output is Format.json:
        print_json({"run_id": run["id"], "reproduces": found["run_id"], **found})
    elif output is Format.name:
        typer.echo(run["id"])
    else:
        show_list(found["files"], FILES, output)
    if found["equal"]:
        note(tr("Run {run} gave the same bytes again.", run=run_id))
        return
    for each in found["environment"]:
        note(_difference(each))
    for name in found["result_differs"]:
        note(f"- {plain(name)}")
    note(tr("Run {run} did not give the same bytes again.", run=run_id))
    raise typer.Exit(1)


def _difference(each: Record) -> str:
    then, now = each["then"] or tr("absent"), each["now"] or tr("absent")
    return tr("Not as it was: {what} was {then} and is {now}.", what=plain(each["what"]), then=plain(then), now=plain(now))


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(reproduce)
