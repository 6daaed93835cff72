"""`space publish | unpublish | publications | feedback | accept`: a space asked from other people's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import collect, connect, moment_of
from modelworks.cli.messages import tr
from modelworks.cli.model import Limit
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Yes,
    age_of,
    confirm,
    note,
    plain,
    print_json,
    show_list,
    show_one,
)
from modelworks.contract.errors import NotFound

if TYPE_CHECKING:
    from modelworks.client import Modelworks

COLUMNS: list[Column] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("TOKEN", lambda publication: f"{publication['prefix']}…"),
    ("LIVE", "is_live"),
    ("ORIGINS", "origins"),
    ("SHARED", "share"),
    ("EXPIRES", "expires_at"),
    ("AGE", age_of()),
]
FIELDS: list[Column] = [
    ("Id", "id"),
    ("Name", "name"),
    ("Live", "is_live"),
    ("Origins", "origins"),
    ("Shared", "share"),
    ("Title", "title"),
    ("Greeting", "greeting"),
    ("Language", "language"),
    ("Per minute", "requests_per_minute"),
    ("Per minute and address", "requests_per_minute_per_address"),
    ("Expires", "expires_at"),
    ("Revoked", "revoked_at"),
]
FEEDBACK_COLUMNS: list[Column] = [
    ("ID", "id"),
    ("RATING", "rating"),
    ("QUESTION", "question"),
    ("ANSWER", lambda said: plain(said["answer"])[:80]),
    ("CORRECTION", "correction"),
    ("LEARNED", "accepted"),
    ("AGE", age_of()),
]

FEEDBACK_FIELDS: list[Column] = [
    ("Id", "id"),
    ("Question", "question"),
    ("Answer", "answer"),
    ("Correction", "correction"),
    ("Learned", "accepted"),
]

SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="Its name or id.")]


def publish(
    space: SpaceName,
    origin: Annotated[
        list[str] | None,
        typer.Option("--origin", help="Of pages that may hold the chat, as https://shop.example; repeatable."),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Also as a page of this server, for whoever has its link.")] = False,
    name: Annotated[str, typer.Option("--name", help="What to call the publication.")] = "chat",
    title: Annotated[str | None, typer.Option("--title", help="What stands above the chat.")] = None,
    greeting: Annotated[str | None, typer.Option("--greeting", help="What the chat says first.")] = None,
    language: Annotated[
        str, typer.Option("--language", help="Of the chat's own words: auto (the reader's), en or zh.")
    ] = "auto",
    per_minute: Annotated[int, typer.Option("--per-minute", min=1, help="Questions in a minute, of everybody together.")] = 60,
    per_address: Annotated[int, typer.Option("--per-address", min=1, help="Questions in a minute from one address.")] = 10,
    expires: Annotated[str | None, typer.Option("--expires", help="30d, 12h or a date (2027-01-31). Default: never.")] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Let readers of other pages ask a space; prints what such a page needs, with a token that is never shown again."""
    moment = moment_of(expires) if expires else None
    with connect() as client:
        made = client.spaces.publish(
            space,
            name=name,
            origins=origin or [],
            share=share,
            title=title,
            greeting=greeting,
            language=language,
            requests_per_minute=per_minute,
            requests_per_minute_per_address=per_address,
            expires_at=moment,
            dry_run=dry_run,
        )
    if dry_run:
        show_one(made["publication"], FIELDS, output, name="id")
        return
    if output is Format.json:
        print_json(made)
    else:
        _show(made, output)
    note(tr("This is the only time the token is shown. Whoever reads the page may read it."))


def _show(made: dict[str, Any], output: Output) -> None:
    if output is Format.name:
        typer.echo(made["publication"]["id"])
    else:
        show_one(made["publication"], FIELDS, output, name="id")
    # With -o name stdout holds the id alone, so the token goes where people look and pipes do not.
    for sentence, field in ((tr("Put this into the page:"), "snippet"), (tr("Open or send this link:"), "link")):
        if made[field]:
            note(sentence)
            typer.echo(made[field], err=output is Format.name)


def unpublish(
    space: SpaceName,
    publication: Annotated[str, typer.Argument(help="Its id, name or the start of its token.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """End a publication: its token and every chat that is open with it are refused at once."""
    with connect() as client:
        found = _live(client, space, publication)
        shown = f"{plain(found['name'])} ({found['id']})"
        if dry_run:
            note(tr("These would be removed:"))
            show_list([found], COLUMNS, output)
            return
        if not confirm(tr("End the publication {name}? Pages that hold it are refused at once.", name=shown), yes=yes):
            raise typer.Exit(1)
        show_one(client.spaces.unpublish(space, found["id"]), FIELDS, output, name="id")


def publications(space: SpaceName, limit: Limit = 20, output: Output = Format.table) -> None:
    """List the publications of a space, without their tokens."""
    with connect() as client:
        show_list(client.spaces.publications(space, limit=limit), COLUMNS, output, name="id")


def feedback(
    space: SpaceName,
    rating: Annotated[str | None, typer.Option("--rating", help="Only up, or only down.")] = None,
    limit: Limit = 20,
    output: Output = Format.table,
) -> None:
    """List what readers said of published answers."""
    with connect() as client:
        show_list(client.spaces.feedback(space, rating=rating, limit=limit), FEEDBACK_COLUMNS, output, name="id")


def accept(
    space: SpaceName,
    feedback: Annotated[str, typer.Argument(metavar="FEEDBACK", help="Its id; see `space feedback`.")],
    undo: Annotated[bool, typer.Option("--undo", help="Do not learn it any more.")] = False,
    output: Output = Format.table,
) -> None:
    """Let the space's next model learn a reader's correction."""
    with connect() as client:
        show_one(client.spaces.accept_feedback(space, feedback, undo=undo), FEEDBACK_FIELDS, output, name="id")


def _live(client: Modelworks, space: str, ref: str) -> dict[str, Any]:
    """The one publication that has not ended and has this id, name or start of its token."""

    def pages(*, after: str | None = None, limit: int = 100) -> Any:
        return client.spaces.publications(space, after=after, limit=limit)

    live = [each for each in collect(pages, 10_000) if not each["revoked_at"]]
    found = [each for each in live if ref == each["id"]] or [each for each in live if ref in (each["name"], each["prefix"])]
    if len(found) != 1:
        problem = (
            f"{len(found)} publications are called {ref!r}."
            if found
            else f"There is no publication {ref!r} that has not ended."
        )
        raise NotFound(problem, hint="Give its id; see `modelworks space publications`.", code="publication_not_found")
    return dict(found[0])


def add_to(group: typer.Typer) -> None:
    """Add these verbs to those of `space`."""
    for verb in (publish, unpublish, publications, feedback, accept):
        group.command(verb.__name__)(verb)
