"""`orgs`, `projects` and `members`: organisations, projects, accounts, and who has which role where."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from modelworks.cli.connection import connect, text_of
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, DryRun, Format, Output, Yes, age_of, confirm, is_terminal, plain, show_list, show_one

PLACES: list[Column] = [("ID", "id"), ("NAME", "name"), ("AGE", age_of())]
MEMBERS: list[Column] = [
    ("ID", "user_id"),
    ("NAME", "name"),
    ("EMAIL", "email"),
    ("KIND", "kind"),
    ("ROLE", "role"),
    ("DISABLED", "disabled_at"),
    ("AGE", age_of()),
]
ACCOUNT: list[Column] = [("Id", "id"), ("Name", "name"), ("Kind", "kind"), ("Email", "email"), ("Disabled", "disabled_at")]
MEMBER: list[Column] = [("Id", "user_id"), ("Name", "name"), ("Place", "place_id"), ("Role", "role")]


class Use(StrEnum):
    """What licences of models are held against."""

    commercial = "commercial"
    non_commercial = "non-commercial"


class Role(StrEnum):
    """From the strongest to the weakest."""

    owner = "owner"
    admin = "admin"
    developer = "developer"
    viewer = "viewer"
    service = "service"


Place = Annotated[
    str | None, typer.Option("--place", help="Id of an organisation or a project; by default the project of your key.")
]
Account = Annotated[str, typer.Argument(help="Id of the account, or a person's address.")]


def orgs_ls(output: Output = Format.table) -> None:
    """List the organisations that you may see."""
    with connect() as client:
        show_list(client.members.organisations().data, PLACES, output)


def orgs_create(name: Annotated[str, typer.Argument(help="Its name.")], output: Output = Format.table) -> None:
    """Make an organisation."""
    with connect() as client:
        show_one(client.members.create_organisation(name), [("Id", "id"), ("Name", "name")], output)


def projects_ls(output: Output = Format.table) -> None:
    """List the projects that you may see."""
    with connect() as client:
        show_list(
            client.members.projects().data,
            [*PLACES[:2], ("ORGANISATION", "organisation_id"), ("USE", "use"), PLACES[2]],
            output,
        )


def projects_create(
    name: Annotated[str, typer.Argument(help="Its name.")],
    org: Annotated[str | None, typer.Option("--org", help="Id of its organisation; by default the first one.")] = None,
    output: Output = Format.table,
) -> None:
    """Make a project: models, data, runs and deployments belong to one."""
    with connect() as client:
        made = client.members.create_project(name, organisation_id=org)
    show_one(made, [("Id", "id"), ("Name", "name"), ("Organisation", "organisation_id")], output)


def projects_use(
    use: Annotated[Use, typer.Argument(help="What the project does with models.")],
    project: Annotated[str | None, typer.Option("--project-id", help="Its id; by default the project of your key.")] = None,
    output: Output = Format.table,
) -> None:
    """Declare what a project does with models: those with a non-commercial licence work in no other project."""
    with connect() as client:
        made = client.members.declare_use(project or client.server.whoami()["project_id"], use.value)
    show_one(made, [("Id", "id"), ("Name", "name"), ("Use", "use")], output)


def ls(place: Place = None, output: Output = Format.table) -> None:
    """List who has which role."""
    with connect() as client:
        show_list(client.members.list(place_id=place).data, MEMBERS, output, name="user_id")


def create(
    name: Annotated[str, typer.Argument(help="Who or what it is.")],
    role: Annotated[Role, typer.Option("--role", help="What it may do there.")],
    email: Annotated[str | None, typer.Option("--email", help="A person's address; without it: a service account.")] = None,
    place: Place = None,
    output: Output = Format.table,
) -> None:
    """Make an account, a person's or a service's, with a role."""
    with connect() as client:
        where = place or client.server.whoami()["project_id"]
        made = client.members.create_account(name, place_id=where, role=role.value, email=email)
    show_one(made, ACCOUNT, output)


def put(
    account: Account,
    role: Annotated[Role, typer.Option("--role", help="What it may do there.")],
    place: Place = None,
    output: Output = Format.table,
) -> None:
    """Give an account a role, instead of the one that it has there."""
    with connect() as client:
        show_one(client.members.put(account, role.value, place_id=place), MEMBER, output, name="user_id")


def rm(account: Account, place: Place = None, dry_run: DryRun = False, yes: Yes = False, output: Output = Format.table) -> None:
    """Take an account's role away; its keys can do nothing there any more."""
    with connect() as client:
        if dry_run:
            held = [each for each in client.members.list(place_id=place) if account in (each["user_id"], each["email"])]
            show_list(held, MEMBERS, output, name="user_id")
            return
        if not confirm(tr("Take the role of {name} away?", name=plain(account)), yes=yes):
            raise typer.Exit(1)
        show_one(client.members.remove(account, place_id=place), MEMBER, output, name="user_id")


def disable(account: Account, yes: Yes = False, output: Output = Format.table) -> None:
    """Refuse an account everywhere, with all of its keys and sessions."""
    with connect() as client:
        if not confirm(tr("Disable {name}? Its keys and sessions are refused at once.", name=plain(account)), yes=yes):
            raise typer.Exit(1)
        show_one(client.members.enable(account, False), ACCOUNT, output)


def password(account: Account) -> None:
    """Set a person's password (asked for, or read from stdin); their sessions end."""
    if is_terminal(sys.stdin):
        text = typer.prompt(tr("Password"), hide_input=True, confirmation_prompt=True, err=True)
    else:
        text = text_of("-").rstrip("\r\n")
    with connect() as client:
        client.members.set_password(account, text)
    typer.echo(account)


def enable(account: Account, output: Output = Format.table) -> None:
    """Let a disabled account work again."""
    with connect() as client:
        show_one(client.members.enable(account), ACCOUNT, output)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    orgs = typer.Typer(help="Organisations: create, ls.", no_args_is_help=True, rich_markup_mode=None)
    orgs.command("create")(orgs_create)
    orgs.command("ls")(orgs_ls)
    projects = typer.Typer(help="Projects: create, ls, use.", no_args_is_help=True, rich_markup_mode=None)
    projects.command("create")(projects_create)
    projects.command("ls")(projects_ls)
    projects.command("use")(projects_use)
    members = typer.Typer(help="Accounts and their roles.", no_args_is_help=True, rich_markup_mode=None)
    for name, verb in (
        ("ls", ls),
        ("create", create),
        ("set", put),
        ("rm", rm),
        ("disable", disable),
        ("enable", enable),
        ("password", password),
    ):
        members.command(name)(verb)
    for name, group in (("orgs", orgs), ("projects", projects), ("members", members)):
        app.add_typer(group, name=name)
