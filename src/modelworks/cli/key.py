"""`keys create | ls | rotate | revoke`: API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import collect, connect, moment_of, seconds_of
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, DryRun, Format, Output, Yes, age_of, confirm, note, plain, print_json, show_list
from modelworks.contract.errors import NotFound

if TYPE_CHECKING:
    from modelworks.client import Modelworks

COLUMNS: list[Column] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("PREFIX", lambda record: f"{record.get('prefix', '')}…"),
    ("SCOPES", "scopes"),
    ("MODELS", "model_allow"),
    ("FROM", "ip_allow"),
    ("EXPIRES", "expires_at"),
    ("REVOKED", "revoked_at"),
    ("AGE", age_of()),
]


def create(
    name: Annotated[str, typer.Argument(help="Who or what will use it.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="inference, read, write or admin; repeatable. Default: inference, read.")
    ] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="30d, 12h or a date (2027-01-31). Default: never.")] = None,
    allow: Annotated[list[str] | None, typer.Option("--model", help="Only these models; repeatable. Default: all.")] = None,
    network: Annotated[
        list[str] | None, typer.Option("--from", help="Only from this address or network (10.1.0.0/16); repeatable.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", help="Id of the project; default: your own.")] = None,
    account: Annotated[
        str | None, typer.Option("--for", help="Id of the account that it acts for: it never may do more than that one.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Make a key and print its secret, which is never shown again."""
    moment = moment_of(expires) if expires else None
    with connect() as client:
        key = client.keys.create(
            name,
            scopes=scope or None,
            expires_at=moment,
            model_allow=allow or None,
            ip_allow=network or None,
            project_id=project,
            user_id=account,
        )
    _show_secret(key, output)


def _show_secret(key: dict[str, Any], output: Output) -> None:
    if output is Format.json:
        print_json(key)
    elif output is Format.name:
        typer.echo(key["id"])
    else:
        note(f"{plain(key['id'])}  {plain(key['name'])}  {plain(key.get('scopes'))}")
    if output is not Format.json:
        # With -o name stdout holds the id alone, so the secret goes where people look and pipes do not.
        typer.echo(key["secret"], err=output is Format.name)
    note(tr("This is the only time the secret is shown. Keep it safe."))


def ls(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 100,
    output: Output = Format.table,
) -> None:
    """List the keys of your project, without their secrets."""
    with connect() as client:
        show_list(collect(client.keys.list, limit), COLUMNS, output)


def rotate(
    key: Annotated[str, typer.Argument(help="Id, name or prefix of the key.")],
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old secret works: 24h, 30m, 7d, 0.")] = "1d",
    expires: Annotated[str | None, typer.Option("--expires", help="30d or a date. Default: as the old key.")] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Give a key a new secret with the same rights; the old secret goes on working for a while."""
    seconds = 0 if overlap == "0" else seconds_of(overlap)
    moment = moment_of(expires) if expires else None
    with connect() as client:
        found = _live_key(client, key, old=False)
        if dry_run:
            show_list([found], COLUMNS, output)
            return
        made = client.keys.rotate(found["id"], overlap_s=seconds, expires_at=moment)
    note(tr("The old secret of {name} works for another {time}.", name=plain(found["name"]), time=overlap))
    _show_secret(made, output)


def _live_key(client: Modelworks, key: str, *, old: bool = True) -> dict[str, Any]:
    """The one key that is not revoked and has this id, name or prefix; with `old` also one that was rotated."""
    live = [record for record in collect(client.keys.list, 10_000) if not record.get("revoked_at")]
    if not old:
        live = [record for record in live if key == record["id"] or not record.get("replaced_by")]
    found = [record for record in live if key == record["id"]] or [
        record for record in live if key in (record["name"], record["prefix"])
    ]
    if len(found) != 1:
        problem = f"{len(found)} keys are called {key!r}." if found else f"There is no live key {key!r}."
        raise NotFound(problem, hint="Give its id; see `modelworks keys ls`.")
    return found[0]


def revoke(
    key: Annotated[str, typer.Argument(help="Id, name or prefix of the key.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """End a key at once."""
    with connect() as client:
        found = [_live_key(client, key)]
        if dry_run:
            note(tr("These would be removed:"))
            show_list(found, COLUMNS, output)
            return
        shown = f"{plain(found[0]['name'])} ({found[0]['id']})"
        if not confirm(tr("Revoke the key {name}? Whoever uses it is refused at once.", name=shown), yes=yes):
            raise typer.Exit(1)
        gone = client.keys.revoke(found[0]["id"])
    note(tr("Revoked {name}.", name=shown))
    if output is Format.json:
        print_json(gone)
    else:
        typer.echo(found[0]["id"])


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(help="API keys: create, ls, rotate, revoke.", no_args_is_help=True, rich_markup_mode=None)
    for verb in (create, ls, rotate, revoke):
        group.command()(verb)
    app.add_typer(group, name="keys")
