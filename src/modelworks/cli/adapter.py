"""`adapters`: what a deployment answers with beside its base."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Record,
    Yes,
    age_of,
    confirm,
    note,
    plain,
    print_json,
    show_list,
    show_one,
)
from modelworks.contract.errors import InvalidRequest, NotFound, TimedOut

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("STATE", "state"),
    ("DEPLOYMENT", "deployment"),
    ("MODEL", "model"),
    ("VERSION", "version_id"),
    ("AGE", age_of()),
    ("ERROR", "last_error"),
]
FIELDS: list[Column] = [*[(title.capitalize(), source) for title, source in COLUMNS], ("Id", "id")]


def add(
    deployment: Annotated[str, typer.Argument(help="Name of the deployment that serves the base.")],
    model: Annotated[str, typer.Argument(help="Reference of a model that was trained as an adapter of that base.")],
    name: Annotated[str | None, typer.Option("--name", help="The id that clients use; by default the model's name.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it answers.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")] = 900.0,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Let a deployment answer with an adapter too. Nothing is interrupted; a load that is not verified is refused."""
    with connect() as client:
        adapter = client.deployments.add_adapter(deployment, model, name=name, dry_run=dry_run)
        if wait and not dry_run:
            adapter = wait_until_ready(client, adapter, timeout_s)
    show_one(adapter, FIELDS, output, name="name")
    if adapter["state"] == "failed":
        raise typer.Exit(1)


def ls(
    deployment: Annotated[str | None, typer.Argument(help="Only those of this deployment.")] = None,
    output: Output = Format.table,
) -> None:
    """List the adapters with their state."""
    with connect() as client:
        show_list(list(client.deployments.adapters(deployment).data), COLUMNS, output, name="name")


def rm(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Unload an adapter. Running requests are finished first; the model stays in the catalog."""
    with connect() as client:
        found = [each for each in client.deployments.adapters().data if name in (each["name"], each["id"])]
        if not found:
            raise NotFound(f"There is no adapter {name!r}.", hint="See `modelworks adapters ls`.", code="adapter_not_found")
        remove = partial(client.deployments.remove_adapter, name)
        stop_answering(name, found, COLUMNS, remove, dry_run=dry_run, yes=yes, output=output)


def stop_answering(
    name: str,
    records: Sequence[Record],
    columns: Sequence[Column],
    remove: Callable[[], Any],
    *,
    dry_run: bool,
    yes: bool,
    output: Format,
) -> None:
    """Remove what answers under a name, after a question; or show what would go.

    Args:
        records: what goes, shown where nothing is to be done yet.
        remove: does it and returns the record of what has gone.
    """
    if dry_run:
        note(tr("These would be removed:"))
        show_list(records, columns, output, name="name")
        return
    if not confirm(tr("Stop answering under the name {name}?", name=name), yes=yes):
        raise typer.Exit(1)
    gone = remove()
    note(tr("{name} stopped answering; running requests are finished first.", name=name))
    if output is Format.json:
        print_json(gone)
    else:
        typer.echo(name)


def named(text: str) -> tuple[str, str | None]:
    """`NAME=REFERENCE` or `REFERENCE` of the option --adapter, as reference and name.

    Raises:
        InvalidRequest: one of them is empty.
    """
    name, equals, reference = text.partition("=")
    if not name or (equals and not reference):
        raise InvalidRequest(f"--adapter {text!r}: give a model, or NAME=MODEL.", code="usage")
    return (reference, name) if equals else (name, None)


def wait_until_ready(client: Any, adapter: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Poll until the adapter answers with the wished version, or was refused.

    Raises:
        TimedOut: it is still loading after `timeout_s`; it goes on loading.
    """
    deadline, told = time.monotonic() + timeout_s, False
    while adapter["state"] not in ("ready", "failed", "stopped"):
        if not told:
            note(tr("Waiting for {name} to load …", name=adapter["name"]))
            told = True
        if time.monotonic() > deadline:
            raise TimedOut(
                f"{adapter['name']} is still loading after {timeout_s:.0f} s.", hint="See `modelworks adapters ls`; it goes on."
            )
        time.sleep(0.3)
        adapter = next(each for each in client.deployments.adapters().data if each["id"] == adapter["id"])
    if adapter["state"] == "ready":
        note(tr("{name} is ready.", name=adapter["name"]))
    elif adapter.get("last_error"):
        note(plain(adapter["last_error"]))
    return adapter


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(help="Adapters of deployments: add, ls, rm.", no_args_is_help=True, rich_markup_mode=None)
    for verb in (add, ls, rm):
        group.command()(verb)
    app.add_typer(group, name="adapters")
