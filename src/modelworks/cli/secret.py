"""`secrets set | ls | rm`: keys of servers elsewhere, sealed in the database."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelworks.cli.connection import connect, text_of
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, Format, Output, Yes, age_of, confirm, is_terminal, plain, show_list, show_one
from modelworks.contract.errors import InvalidRequest

COLUMNS: list[Column] = [("NAME", "name"), ("AGE", age_of("updated_at"))]
FIELDS: list[Column] = [("Name", "name"), ("Changed", "updated_at")]

Name = Annotated[str, typer.Argument(help="Its name.")]


def put(
    name: Name,
    value: Annotated[str, typer.Argument(help="@file, or - for stdin; a terminal is asked without showing it.")] = "-",
    output: Output = Format.table,
) -> None:
    """Store a secret of the project. It is sealed, and never shown again."""
    if value != "-" and not value.startswith("@"):
        raise InvalidRequest(
            "A secret on the command line is seen by every user of this machine.",
            hint="Give @file, or pipe it in.",
            code="usage",
        )
    asked = value == "-" and is_terminal(sys.stdin)
    text = typer.prompt(tr("Secret"), hide_input=True, err=True) if asked else text_of(value).strip()
    with connect() as client:
        show_one(client.secrets.put(name, text), FIELDS, output, name="name")


def ls(output: Output = Format.table) -> None:
    """List the names of the project's secrets."""
    with connect() as client:
        show_list(client.secrets.list().data, COLUMNS, output, name="name")


def rm(name: Name, yes: Yes = False, output: Output = Format.table) -> None:
    """Forget a secret. Deployments that use it fail when they next need it."""
    with connect() as client:
        if not confirm(tr("Remove {name} for good?", name=plain(name)), yes=yes):
            raise typer.Exit(1)
        show_one(client.secrets.remove(name), FIELDS, output, name="name")


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(help="Keys of servers elsewhere: set, ls, rm.", no_args_is_help=True, rich_markup_mode=None)
    for name, verb in (("set", put), ("ls", ls), ("rm", rm)):
        group.command(name)(verb)
    app.add_typer(group, name="secrets")
