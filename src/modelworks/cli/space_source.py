"""`space source add | ls | show | set | sync | rm`: where documents of a space come from by themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from modelworks.cli.connection import connect, pairs_of
from modelworks.cli.messages import tr
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Yes,
    age_of,
    confirm,
    note,
    pick,
    plain,
    print_json,
    show_list,
    show_one,
)
from modelworks.contract.errors import InvalidRequest, from_wire

if TYPE_CHECKING:
    from modelworks.client import Modelworks

_COUNTS = ("new", "changed", "unchanged", "gone", "failed")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DATABASES = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_SQLITE_SUFFIXES = (".sqlite", ".sqlite3", ".db", ".db3")
_POLL_S = 0.5


def counts_text(record: Any) -> str | None:
    """What a look found: `3 new, 1 gone`."""
    report = record.get("report") or {}
    return ", ".join(f"{report[f'num_{name}']} {name}" for name in _COUNTS if report.get(f"num_{name}")) or None


def schedule_text(record: Any) -> str | None:
    """When a source is looked at by itself."""
    if record["is_paused"]:
        return "paused"
    return f"every {record['every_s']} s" if record["every_s"] else record["daily_at"] and f"daily at {record['daily_at']} UTC"


COLUMNS: list[Column] = [
    ("ID", "id"),
    ("KIND", "kind"),
    ("PLACE", "uri"),
    ("STATE", "state"),
    ("LAST", age_of("last_sync_at")),
    ("FOUND", counts_text),
    ("SCHEDULE", schedule_text),
]
FIELDS: list[Column] = [
    ("Id", "id"),
    ("Kind", "kind"),
    ("Place", "uri"),
    ("State", "state"),
    ("Run", "run_id"),
    ("Error", lambda source: pick(source, "error.message")),
    ("Hint", lambda source: pick(source, "error.hint")),
    ("Found", counts_text),
    ("Faults", lambda source: [f"{each['key']}: {each['message']}" for each in source["report"].get("failed", [])[:10]]),
    ("Notes", lambda source: source["report"].get("notes")),
    ("Secret", "secret_name"),
    ("Schedule", schedule_text),
    ("Last look", "last_sync_at"),
    ("Next look", "next_sync_at"),
]

SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="Its name or id.")]
SourceId = Annotated[str, typer.Argument(metavar="SOURCE", help="Id of the source (src_…), or its place.")]
Every = Annotated[int | None, typer.Option("--every", min=60, help="Look again so many seconds after each look.")]
Daily = Annotated[str | None, typer.Option("--daily", metavar="HH:MM", help="Look every day at this time, UTC.")]
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Wait until it has been looked at.")]


def add(
    space: SpaceName,
    place: Annotated[
        str,
        typer.Argument(
            metavar="PLACE",
            help="https://…, s3://…, file://… on the server, postgresql://HOST/DATABASE, sqlite:///… on the server, "
            "imaps://HOST/FOLDER, or a .zip, .tar, .mbox or SQLite file here.",
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="folder, archive, web, feed, s3, git, mbox, imap, sql or rest; else by the place."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help='A setting of its kind, as mode=crawl or include=["*.pdf"]; repeatable.'),
    ] = None,
    table: Annotated[list[str] | None, typer.Option("--table", help="Table or view of a database; repeatable.")] = None,
    secret: Annotated[str | None, typer.Option("--secret", help="Name of the secret that it asks for.")] = None,
    every: Every = None,
    daily: Daily = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Under which licence its documents may be used.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Whose they are.")] = None,
    access: Annotated[
        list[str] | None, typer.Option("--access", help="Id of a user or key that may read them; by default everybody.")
    ] = None,
    dry_run: DryRun = False,
    follow: Follow = False,
    output: Output = Format.table,
) -> None:
    """Let documents come from a place by themselves: new ones are added, changed ones are read anew, gone ones removed."""
    with connect() as client:
        settings = pairs_of(setting or [], "--set")
        if table:
            settings["tables"] = [*settings.get("tables", []), *({"name": each} for each in table)]
        if secret is not None:
            settings["secret"] = secret
        form = _form(client, place, kind, settings, dry_run=dry_run)
        defaults = {"licence": licence, "owner": owner, "access": access or []}
        schedule = {"every_s": every, "daily_at": daily}
        made = client.spaces.add_source(space, form, defaults=defaults, schedule=schedule, dry_run=dry_run)
        if follow and not dry_run:
            made = _follow(client, space, made["id"])
    show_one(made, FIELDS, output)
    if made["state"] == "failed":
        raise typer.Exit(1)


def is_archive(path: Path) -> bool:
    """Whether a path here is an archive, whose members are the documents."""
    return path.name.lower().endswith(_ARCHIVES) and path.is_file()


def put_archive(
    client: Modelworks,
    space: str,
    path: Path,
    defaults: dict[str, Any],
    exclude: Sequence[str],
    *,
    dry_run: bool,
    follow: bool,
) -> dict[str, Any]:
    """Have an archive unpacked on the server, within its limits, as a source, or as the next state of the one of that name."""
    from modelworks.client.transport import digest_of

    digest, num_bytes = digest_of(path)
    named = [each for each in client.spaces.sources(space) if pick(each, "settings.source.name") == path.name]
    former = next((each for each in reversed(named) if each["kind"] == "archive"), None)
    before = {} if former is None else former["settings"]["source"]
    form = {"kind": "archive", "name": path.name, **before, "digest": digest, **({"exclude": [*exclude]} if exclude else {})}
    asked = defaults if any(defaults.values()) else None
    if former is None:
        change = "added"
    else:
        is_same = form == before and asked in (None, former["settings"]["defaults"]) and former["state"] != "failed"
        change = "unchanged" if is_same else "updated"
    if not dry_run and change != "unchanged":
        client.blobs.upload(path)
        if former is None:
            made = client.spaces.add_source(space, form, defaults=asked)
        else:
            made = client.spaces.update_source(space, former["id"], source=form, defaults=asked)
        note(tr("{change}: {name}", change=tr(change), name=plain(path.name)))
        if follow and (read := _follow(client, space, made["id"]))["state"] == "failed":
            raise from_wire(read["error"])
    return {"change": change, "key": path.name, "num_bytes": num_bytes, "digest": digest}


def ls(space: SpaceName, output: Output = Format.table) -> None:
    """List the sources of a space with what the last look found."""
    with connect() as client:
        show_list(client.spaces.sources(space).data, COLUMNS, output)


def show(space: SpaceName, source: SourceId, output: Output = Format.table) -> None:
    """Show one source: its schedule, and what failed."""
    with connect() as client:
        show_one(_named(client, space, source), FIELDS, output)


def configure(
    space: SpaceName,
    source: SourceId,
    every: Every = None,
    daily: Daily = None,
    pause: Annotated[bool | None, typer.Option("--pause/--go-on", help="Stop looking by itself, or begin again.")] = None,
    output: Output = Format.table,
) -> None:
    """Change when a source is looked at."""
    with connect() as client:
        found = _named(client, space, source)
        schedule = None if every is None and daily is None else {"every_s": every, "daily_at": daily}
        show_one(client.spaces.update_source(space, found["id"], schedule=schedule, is_paused=pause), FIELDS, output)


def sync(
    space: SpaceName,
    source: SourceId,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Remove every document where the source has none any more.")
    ] = False,
    dry_run: DryRun = False,
    follow: Follow = False,
    output: Output = Format.table,
) -> None:
    """Look at a source now."""
    with connect() as client:
        found = _named(client, space, source)
        asked = client.spaces.sync_source(space, found["id"], dry_run=dry_run, allow_empty=allow_empty)
        if dry_run:
            _plan(client, asked["run_id"], output)
            return
        shown = _follow(client, space, found["id"]) if follow else asked["source"]
        if not follow and output is Format.table:
            note(tr("Run {run} is queued. Follow it with: modelworks jobs {run} -f", run=asked["run_id"]))
    show_one(shown, FIELDS, output)
    if shown["state"] == "failed":
        raise typer.Exit(1)


def rm(
    space: SpaceName,
    source: SourceId,
    keep: Annotated[bool, typer.Option("--keep", help="Leave its documents in the space.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Remove a source with its documents."""
    with connect() as client:
        found = _named(client, space, source)
        if not dry_run:
            if not confirm(tr("Remove {name} for good?", name=plain(found["uri"])), yes=yes):
                raise typer.Exit(1)
            found = client.spaces.remove_source(space, found["id"], keep=keep)
        show_one(found, FIELDS, output)


def form_of(place: str, kind: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What a person wrote as the form of a source; a place here on this machine is no part of it.

    Raises:
        InvalidRequest: nothing is known of such a place.
    """
    parts = urlsplit(place)
    scheme = parts.scheme.lower()
    if scheme in _DATABASES:
        if parts.username is not None or parts.password is not None:
            raise InvalidRequest(
                "The address holds a user name or password.", hint="Give -s user=NAME, and the password with --secret."
            )
        known: dict[str, Any] = {"kind": "sql", "dialect": scheme, "host": parts.hostname, "database": parts.path.lstrip("/")}
        return known | ({} if parts.port is None else {"port": parts.port}) | settings
    if scheme in ("imap", "imaps"):
        known = {"kind": "imap", "host": parts.hostname, "tls": scheme == "imaps"}
        known |= {} if parts.port is None else {"port": parts.port}
        return known | ({"mailboxes": [parts.path.lstrip("/")]} if parts.path.strip("/") else {}) | settings
    if scheme == "sqlite" or (scheme == "file" and kind is None):
        is_database = scheme == "sqlite" or "tables" in settings
        if not is_database and parts.path.lower().endswith(_SQLITE_SUFFIXES):
            raise InvalidRequest(
                f"{place[:200]!r} looks like an SQLite database, of which no table is named.",
                hint=f"`modelworks space source add SPACE sqlite://{parts.path} --table TABLE` reads tables of it; "
                "--kind folder takes it for a folder.",
                code="invalid_source",
            )
        if is_database:
            return _sqlite(place) | settings
    if kind is None:
        kind = {"s3": "s3", "file": "folder"}.get(scheme)
        if scheme in ("http", "https"):
            kind = "git" if parts.path.endswith(".git") else "web"
    if kind is None:
        raise InvalidRequest(
            f"{place[:200]!r} is not a source, and no file here.",
            hint="Give https://…, s3://…, file:///… or sqlite:///… (on the server), postgresql://…, imaps://…, "
            "or a .zip, .mbox, SQLite file.",
            code="invalid_source",
        )
    if kind == "sql":
        return {"kind": kind, "dialect": "sqlite", "uri": place} | settings
    return {"kind": kind, "uri": place} | settings


def _sqlite(place: str) -> dict[str, Any]:
    """An SQLite file on the server; a fourth slash, as SQLAlchemy writes absolute paths, says no more than three."""
    parts = urlsplit(place)
    if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
        raise InvalidRequest(
            f"{place[:200]!r} names no file on the server.",
            hint="Write its whole path after three slashes: sqlite:///srv/data/shop.sqlite.",
            code="invalid_source",
        )
    return {"kind": "sql", "dialect": "sqlite", "uri": f"file:///{parts.path.lstrip('/')}"}


def uploaded_kind(path: Path) -> str | None:
    """As what a file on this machine is uploaded, or None."""
    name = path.name.lower()
    if name.endswith(_ARCHIVES):
        return "archive"
    if name.endswith((".mbox", ".mbx")):
        return "mbox"
    with path.open("rb") as file:
        return "sql" if file.read(16) == b"SQLite format 3\0" else None


def _form(client: Modelworks, place: str, kind: str | None, settings: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    path = Path(place).expanduser()
    if "://" in place or not path.is_file():
        return form_of(place, kind, settings)
    kind = kind or uploaded_kind(path)
    if kind not in ("archive", "mbox", "sql"):
        raise InvalidRequest(
            f"{path} is no archive, mailbox or SQLite database.",
            hint="`modelworks space add` puts single files and folders in.",
            code="invalid_source",
        )
    from modelworks.client.transport import digest_of

    digest = digest_of(path)[0]
    if not dry_run:
        client.blobs.upload(path)
        note(tr("Uploaded {path} ({size}).", path=plain(str(path)), size=path.stat().st_size))
    known: dict[str, Any] = {"kind": kind, "digest": digest}
    known |= {"name": path.name} if kind == "archive" else {"dialect": "sqlite"} if kind == "sql" else {}
    return known | settings


def _named(client: Modelworks, space: str, ref: str) -> dict[str, Any]:
    if ref.startswith("src_"):
        return dict(client.spaces.source(space, ref))
    found = [each for each in client.spaces.sources(space) if each["uri"] == ref]
    if len(found) != 1:
        raise InvalidRequest(f"{len(found)} sources are {ref!r}.", hint="Give the id; `modelworks space source ls` lists them.")
    return dict(found[0])


def _follow(client: Modelworks, space: str, source_id: str) -> dict[str, Any]:
    """Wait until a source has been looked at."""
    shown = ""
    while True:
        source = client.spaces.source(space, source_id)
        # One that was added a moment ago has not begun yet.
        is_waiting = source["state"] == "idle" and source["last_sync_at"] is None and not source["is_paused"]
        if source["run_id"] is None and not is_waiting:
            return dict(source)
        if source["run_id"] is not None:
            progress = client.runs.get(source["run_id"])["progress"] or {}
            text = f"{progress.get('done', 0):g} {progress.get('what', '')}".strip()
            if text != shown and progress:
                shown = text
                note(tr("Read {amount}.", amount=text))
        time.sleep(_POLL_S)


def _plan(client: Modelworks, run_id: str, output: Format) -> None:
    run = client.runs.wait(run_id, poll_s=_POLL_S)
    if run["state"] != "succeeded":
        error = run["error"] or {}
        raise InvalidRequest(str(error.get("message") or f"The run has {run['state']}."), hint=error.get("hint"))
    report = run["result"]
    if output is Format.json:
        print_json(report)
        return
    rows = [{"change": change, "key": key} for change in ("new", "changed", "gone") for key in report[change]]
    rows += [{"change": "failed", "key": each["key"]} for each in report["failed"]]
    show_list(rows, [("CHANGE", "change"), ("KEY", "key")], output, name="key")
    note(counts_text({"report": report}) or tr("Nothing was changed."))


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the group `space`."""
    group = typer.Typer(help="Where its documents come from by themselves.", no_args_is_help=True, rich_markup_mode=None)
    for name, verb in (("add", add), ("ls", ls), ("show", show), ("set", configure), ("sync", sync), ("rm", rm)):
        group.command(name)(verb)
    app.add_typer(group, name="source")
