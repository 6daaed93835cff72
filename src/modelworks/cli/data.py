"""`data add | ls | show | rm`: data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli.connection import collect, connect
from modelworks.cli.messages import tr
from modelworks.cli.model import VERSION_COLUMNS, Limit, Reference, print_detail, remove
from modelworks.cli.output import Column, DryRun, Format, Output, Yes, age_of, bytes_of, note, show_list, show_one, size_text

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("VERSION", lambda record: f"v{record['latest']['number']}"),
    ("FILES", "latest.num_files"),
    ("SIZE", bytes_of("latest.num_bytes")),
    ("LICENCE", "latest.licence"),
    ("AGE", age_of("latest.created_at")),
]


def add(
    path: Annotated[Path, typer.Argument(help="A folder, or one file.")],
    name: Annotated[str | None, typer.Option("--name", help="What to call it; by default the folder's name.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Under which licence it may be used.")] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Upload a folder as the next version of a data set. Files that the server has are not sent again."""
    if dry_run:
        from modelworks.transport import files_of

        files = [{"path": relative, "num_bytes": file.stat().st_size} for relative, file in files_of(path.expanduser())]
        show_list(files, [("PATH", "path"), ("SIZE", bytes_of())], output, name="path")
        return
    with connect() as client:
        version = client.datasets.add(dataset_name(path, name), path.expanduser(), on_file=told, licence=licence)
    show_one(version, VERSION_COLUMNS, output)


def dataset_name(path: Path, name: str | None) -> str:
    """The given name, else the folder's own, or the file's without its ending."""
    absolute = path.expanduser().absolute()
    return name or (absolute.stem if absolute.is_file() else absolute.name)


def told(file: dict[str, Any]) -> None:
    """Say on stderr that a file has arrived, or was there."""
    if file["known"]:
        note(tr("{path} is on the server already.", path=file["path"]))
    else:
        note(tr("Uploaded {path} ({size}).", path=file["path"], size=size_text(file["num_bytes"])))


def ls(
    search: Annotated[str | None, typer.Argument(help="Only names that contain this.")] = None,
    limit: Limit = 100,
    output: Output = Format.table,
) -> None:
    """List the data sets."""
    with connect() as client:
        show_list(collect(client.datasets.list, limit, search=search), COLUMNS, output, name="name")


def show(ref: Reference, output: Output = Format.table) -> None:
    """Show one data set."""
    with connect() as client:
        print_detail(client.datasets.get(ref), output)


def rm(
    ref: Reference,
    force: Annotated[bool, typer.Option("--force", help="Also when models were made from it.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Remove one version of a data set, or with a plain name all."""
    with connect() as client:
        remove(client.datasets, ref, force=force, dry_run=dry_run, yes=yes, output=output)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(help="Data sets: add, ls, show, rm.", no_args_is_help=True, rich_markup_mode=None)
    for verb in (add, ls, show, rm):
        group.command()(verb)
    app.add_typer(group, name="data")
