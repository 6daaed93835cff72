"""`space create | ls | show | set | rm | add | documents | remove | build | clean | status | search | tables | ask`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli import learning, publishing, space_cleaning, space_source
from modelworks.cli.connection import collect, connect, pairs_of
from modelworks.cli.messages import tr
from modelworks.cli.model import Limit
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Yes,
    age_of,
    bytes_of,
    confirm,
    note,
    pick,
    plain,
    print_json,
    show_list,
    show_one,
)
from modelworks.contract.errors import InvalidRequest

if TYPE_CHECKING:
    from modelworks.client import Modelworks

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("STATE", "state"),
    ("DOCUMENTS", lambda space: sum(space["documents"].values())),
    ("FAILED", "documents.failed"),
    ("PASSAGES", "num_passages"),
    ("SIZE", bytes_of()),
    ("AGE", age_of()),
]
FIELDS: list[Column] = [
    ("Id", "id"),
    ("Name", "name"),
    ("Description", "description"),
    ("State", "state"),
    ("Step", lambda space: step_text(space)),
    ("Error", lambda space: pick(space, "error.message")),
    ("Hint", lambda space: pick(space, "error.hint")),
    ("Documents", "documents"),
    ("Passages", "num_passages"),
    ("Size", bytes_of()),
    ("Settings", lambda space: settings_of(space)),
    ("Cleaning", lambda space: space_cleaning.rules_text(space["settings"]["cleaning"])),
    ("Index", "index_version_id"),
    ("Deployment", "deployment"),
    ("Expires", "expires_at"),
]
#: Groups of settings that have verbs of their own, which show them.
_OF_VERBS = ("cleaning", "learning", "answering")
DOCUMENT_COLUMNS: list[Column] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("STATE", "state"),
    ("VERSION", "version"),
    ("PASSAGES", "num_passages"),
    ("SIZE", bytes_of()),
    ("FAULT", lambda document: document["faults"][0]["message"] if document["faults"] else None),
]
FAULT_COLUMNS: list[Column] = [
    ("COULD NOT BE READ", "name"),
    ("FAULT", lambda document: document["faults"][0]["message"] if document["faults"] else None),
    ("WHAT TO DO", lambda document: document["faults"][0].get("hint") if document["faults"] else None),
]
CHANGE_COLUMNS: list[Column] = [("CHANGE", "change"), ("KEY", "key"), ("SIZE", bytes_of())]
HIT_COLUMNS: list[Column] = [
    ("SCORE", lambda hit: f"{hit['score']:.3f}"),
    ("DOCUMENT", "filename"),
    ("TEXT", lambda hit: " ".join(part["text"] for part in hit["content"])[:160]),
]
TABLE_COLUMNS: list[Column] = [
    ("TABLE", lambda table: table["name"] or ("—" if table["state"] == "no_table" else tr("being made"))),
    ("DOCUMENT", "filename"),
    ("PLACE", "place"),
    ("ROWS", "num_rows"),
    ("COLUMNS", lambda table: ", ".join(_column(each) for each in table["columns"]) or table["fault"]),
]
#: Never documents; a file `.modelworksignore` in a folder and --ignore name more.
IGNORED = ("node_modules", "__pycache__", "*.pyc", "Thumbs.db", "desktop.ini", "~$*", "*.tmp")
IGNORE_FILE = ".modelworksignore"

SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="Its name or id.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", help="A setting, as language_model=my-lm or parsing.passage_chars=800; repeatable."),
]
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Wait until the index has followed, and say how far it is.")]


def create(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
    setting: Setting = None,
    expires: Annotated[int | None, typer.Option("--expires-after-days", help="End it so long after its last use.")] = None,
    output: Output = Format.table,
) -> None:
    """Make a data space: documents that are searched and answered from together."""
    settings = pairs_of(setting or [], "--set") or None
    with connect() as client:
        made = client.spaces.create(name, description=description, settings=settings, expires_after_days=expires)
    show_one(made, FIELDS, output, name="name")


def ls(
    search: Annotated[str | None, typer.Argument(help="Only names that contain this.")] = None,
    limit: Limit = 100,
    output: Output = Format.table,
) -> None:
    """List the data spaces."""
    with connect() as client:
        show_list(collect(client.spaces.list, limit, search=search), COLUMNS, output, name="name")


def show(space: SpaceName, output: Output = Format.table) -> None:
    """Show one data space."""
    with connect() as client:
        show_one(client.spaces.get(space), FIELDS, output, name="name")


def configure(space: SpaceName, setting: Setting = None, output: Output = Format.table) -> None:
    """Change settings; those that are not named stay. Another encoder, or other passages, build another index."""
    with connect() as client:
        settings = client.spaces.get(space)["settings"]
        settings = space_cleaning.merged(settings, pairs_of(setting or [], "--set"))
        show_one(client.spaces.update(space, settings=settings), FIELDS, output, name="name")


def rm(space: SpaceName, dry_run: DryRun = False, yes: Yes = False, output: Output = Format.table) -> None:
    """Delete a data space with everything that was made for it."""
    with connect() as client:
        found = client.spaces.get(space)
        if dry_run:
            show_one(found, FIELDS, output, name="name")
            return
        if not confirm(tr("Remove {name} for good?", name=plain(found["name"])), yes=yes):
            raise typer.Exit(1)
        show_one(client.spaces.remove(found["id"]), FIELDS, output, name="name")


def add(
    space: SpaceName,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH…", help="Files and folders; folders and archives (.zip, .tar) with all in them."),
    ],
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help=f"Leave out what matches (*.log, drafts/*); also from {IGNORE_FILE}.")
    ] = None,
    attribute: Annotated[
        list[str] | None, typer.Option("-a", "--attribute", help="key=value for each document, to filter by; repeatable.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Under which licence they may be used.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Whose they are.")] = None,
    access: Annotated[
        list[str] | None, typer.Option("--access", help="Id of a user or key that may read them; by default everybody.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Also remove the space's documents that are not among these.")] = False,
    dry_run: DryRun = False,
    follow: Follow = False,
    output: Output = Format.table,
) -> None:
    """Put files in. What the space has already, by content, is not sent again; changed files are new versions."""
    archives = [path for path in map(Path.expanduser, paths) if space_source.is_archive(path)]
    if archives and (prune or attribute):
        raise InvalidRequest(
            f"{archives[0]} is unpacked on the server, where neither --prune nor --attribute holds.",
            hint="Unpack it, and add the folder; or add it by itself.",
        )
    found = dict(documents_in([path for path in paths if path.expanduser() not in archives], tuple(ignore or ())))
    attributes = pairs_of(attribute or [], "--attribute") or None
    with connect() as client:
        space_id = client.spaces.get(space)["id"]
        known = client.spaces.digests(space_id)
        gone = sorted(set(known) - set(found)) if prune else []
        changes = [
            _put(client, space_id, key, path, known, dry_run, attributes, licence, owner, access) for key, path in found.items()
        ]
        changes += [{"change": "removed", "key": key, "num_bytes": None} for key in gone]
        defaults = {"licence": licence, "owner": owner, "access": access or []}
        changes += [
            space_source.put_archive(client, space_id, path, defaults, tuple(ignore or ()), dry_run=dry_run, follow=follow)
            for path in archives
        ]
        if gone and not dry_run:
            _remove_keys(client, space_id, set(gone))
        is_followed = follow and not dry_run
        if is_followed:
            _follow(client, space_id)
        failed = client.spaces.documents(space_id, state="failed", limit=20).data if is_followed else []
    changed = [each for each in changes if each["change"] != "unchanged"]
    if output is Format.table:
        note(
            tr("{count} of {total} files are new or changed.", count=len(changed) - len(gone), total=len(found) + len(archives))
        )
    if output is not Format.table or dry_run:
        show_list(changes if output is Format.json else changed, CHANGE_COLUMNS, output, name="key")
    elif failed:
        # Each file was told as it was sent; what could not be read is what a person must know.
        show_list(failed, FAULT_COLUMNS, output)


def documents(
    space: SpaceName,
    search: Annotated[str | None, typer.Argument(help="Only names that contain this.")] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Only those: pending, parsing, indexed, failed, removed.")
    ] = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="What cleaning took out of them, passage by passage, and why.")
    ] = False,
    limit: Limit = 100,
    output: Output = Format.table,
) -> None:
    """List the documents of a space with what became of each; `--state failed` says why, `--dropped` what was cleaned."""
    with connect() as client:
        if dropped:
            space_cleaning.dropped_of(client, space, search, limit, output)
            return

        def page(**options: Any) -> Any:
            return client.spaces.documents(space, state=state, search=search, **options)

        show_list(collect(page, limit), DOCUMENT_COLUMNS, output)


def remove(
    space: SpaceName,
    document: Annotated[list[str], typer.Argument(metavar="DOCUMENT…", help="Ids, or exact names.")],
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Remove documents: they answer no more at once, and their passages go with the next build."""
    with connect() as client:
        space_id = client.spaces.get(space)["id"]
        found = [_document(client, space_id, each) for each in document]
        for each in found:
            if not confirm(tr("Remove {name} for good?", name=plain(each["name"])), yes=yes):
                raise typer.Exit(1)
        gone = [client.spaces.remove_document(space_id, each["id"]) for each in found]
        show_list(gone, DOCUMENT_COLUMNS, output)


def build(
    space: SpaceName,
    anew: Annotated[bool, typer.Option("--anew", help="Also when nothing has changed.")] = False,
    dry_run: DryRun = False,
    follow: Follow = False,
    output: Output = Format.table,
) -> None:
    """Build the index now, also what failed before. Otherwise that is done by itself, shortly after each change."""
    with connect() as client:
        found = client.spaces.build(space, anew=anew, dry_run=dry_run)
        if follow and not dry_run:
            found = _follow(client, found["id"])
    show_one(found, FIELDS, output, name="name")
    if follow and found["state"] == "failed":
        raise typer.Exit(1)


def status(space: SpaceName, follow: Follow = False, output: Output = Format.table) -> None:
    """Say how far the pipeline of a space is, and what happened last."""
    with connect() as client:
        found = _follow(client, client.spaces.get(space)["id"]) if follow else client.spaces.get(space)
        told = client.spaces.events(found["id"], limit=1000).data[-10:]
    if output is Format.json:
        print_json({**found, "events": told})
        return
    show_one(found, FIELDS, output, name="name")
    if output is Format.table:
        for event in told:
            note(f"{event['time'][:19]}  {event['level']:5}  {plain(event['message'])}")


def search(
    space: SpaceName,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=50, help="At most so many passages.")] = 10,
    where: Annotated[
        list[str] | None, typer.Option("-w", "--where", help="Only documents with this attribute, key=value; repeatable.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Search the passages of a space."""
    tests = [{"type": "eq", "key": key, "value": value} for key, value in pairs_of(where or [], "--where").items()]
    filters = None if not tests else tests[0] if len(tests) == 1 else {"type": "and", "filters": tests}
    with connect() as client:
        show_list(client.spaces.search(space, query, limit=limit, filters=filters), HIT_COLUMNS, output, name="file_id")


def tables(space: SpaceName, output: Output = Format.table) -> None:
    """List the tables of a space that questions are computed from, with columns, types and rows."""
    with connect() as client:
        show_list(client.spaces.tables(space), TABLE_COLUMNS, output, name="name")


def _column(column: Mapping[str, Any]) -> str:
    unit = f" {column['unit']}" if column["unit"] else ""
    return f"{column['name']} ({column['kind']}{unit})"


def ask(
    space: SpaceName,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    output: Output = Format.table,
) -> None:
    """Ask a space: an answer with citations, or that it is not in the documents."""
    with connect() as client:
        model = f"space:{client.spaces.get(space)['name']}"
        text, annotations, grounding = "", list[dict[str, Any]](), None
        with contextlib.closing(client.tasks.chat(model, [{"role": "user", "content": question}])) as chunks:
            for chunk in chunks:
                for choice in chunk.get("choices") or []:
                    delta = choice.get("delta") or {}
                    text += delta.get("content") or ""
                    annotations += delta.get("annotations") or []
                    grounding = delta.get("grounding") or grounding
    if output is Format.json:
        print_json({"model": model, "answer": text, "annotations": annotations, "grounding": grounding})
        return
    typer.echo(text)
    for number, cited in enumerate((each.get("file_citation") or each for each in annotations), 1):
        found = cited.get("citation") or {}
        told = [plain(cited.get("filename")), *_place(found), f"“{plain(found.get('quote'))}”"]
        note(f"[{found.get('number', number)}] {' · '.join(told)}")


def _place(cited: Mapping[str, Any]) -> list[str]:
    """Where a citation stands: headings, then page, cells or lines."""
    found = [plain(" > ".join(cited["headings"]))] if cited.get("headings") else []
    if cited.get("page"):
        found.append(f"p. {cited['page']}")
    if cited.get("cells"):
        found.append(plain(cited["cells"]))
    if lines := cited.get("lines"):
        found.append(f"lines {lines[0]}–{lines[1]}" if lines[0] != lines[1] else f"line {lines[0]}")
    return found


def documents_in(paths: Sequence[Path], ignore: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Key and file of every document in the given files and folders; hidden files and links are left out.

    Raises:
        InvalidRequest: a path does not exist, or two files would be the same document.
    """
    from modelworks.client.transport import files_of

    seen: dict[str, Path] = {}
    for path in (each.expanduser() for each in paths):
        patterns = [*IGNORED, *ignore, *_ignore_file(path)]
        for key, file in files_of(path):
            if any(_matches(key, pattern) for pattern in patterns):
                continue
            if key in seen:
                raise InvalidRequest(
                    f"{file} and {seen[key]} would be the same document {key!r}.",
                    hint="Add one of the folders above them instead, or add them to different spaces.",
                )
            seen[key] = file
            yield key, file


def settings_of(space: Mapping[str, Any]) -> dict[str, Any] | None:
    """The deployments that it stands on and what was set for its parsing and its index; the rest is in the JSON."""
    return {name: value for name, value in space["settings"].items() if value and name not in _OF_VERBS} or None


def step_text(space: dict[str, Any] | Any) -> str | None:
    """Where the build under way stands: `parsing 3/10 documents`."""
    build_ = space["build"]
    if build_ is None or build_["state"] != "running":
        return None
    progress = build_["progress"]
    return str(build_["step"]) + (f" {progress['done']:g}/{progress['total']:g} {progress['what']}" if progress else "")


def _ignore_file(path: Path) -> list[str]:
    file = path / IGNORE_FILE
    if not file.is_file():
        return []
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _matches(key: str, pattern: str) -> bool:
    pattern = pattern.rstrip("/")
    return fnmatch(key, pattern) or any(fnmatch(part, pattern) for part in key.split("/")) or key.startswith(pattern + "/")


def _put(
    client: Modelworks,
    space_id: str,
    key: str,
    path: Path,
    known: dict[str, str],
    dry_run: bool,
    attributes: dict[str, Any] | None,
    licence: str | None,
    owner: str | None,
    access: list[str] | None,
) -> dict[str, Any]:
    from modelworks.client.transport import digest_of

    digest, num_bytes = digest_of(path)
    change = "added" if key not in known else "unchanged" if known[key] == digest else "updated"
    described = any(each is not None for each in (attributes, licence, owner, access))
    if not dry_run and (change != "unchanged" or described):
        fields = {"attributes": attributes, "licence": licence, "owner": owner, "access": access}
        change = client.spaces.put(space_id, path, key=key, name=key, **fields)["change"]
        if change != "unchanged":
            note(tr("{change}: {name}", change=tr(change), name=plain(key)))
    return {"change": change, "key": key, "num_bytes": num_bytes, "digest": digest}


def _remove_keys(client: Modelworks, space_id: str, keys: set[str]) -> None:
    after: str | None = None
    while True:
        page = client.spaces.documents(space_id, after=after, limit=1000)
        for document in page:
            if document["source_id"] is None and document["key"] in keys:
                client.spaces.remove_document(space_id, document["id"])
        if not page.has_more:
            return
        after = page.last_id


def _document(client: Modelworks, space_id: str, ref: str) -> dict[str, Any]:
    if ref.startswith("doc_"):
        return client.spaces.document(space_id, ref)
    found = [each for each in client.spaces.documents(space_id, search=ref, limit=1000) if ref in (each["name"], each["key"])]
    if len(found) != 1:
        raise InvalidRequest(
            f"{len(found)} documents are called {ref!r}.", hint="Give the id; `modelworks space documents` lists them."
        )
    return dict(found[0])


def _follow(client: Modelworks, space_id: str) -> dict[str, Any]:
    def told(space: dict[str, Any]) -> None:
        note(step_text(space) or tr(space["state"]))

    found = client.spaces.wait(space_id, on_change=told)
    if found["state"] == "failed":
        note(tr("The build failed: {reason}", reason=plain(pick(found, "error.message"))))
    return found


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(
        help="Data spaces: documents that are searched and answered from.", no_args_is_help=True, rich_markup_mode=None
    )
    verbs = (
        ("create", create),
        ("ls", ls),
        ("show", show),
        ("set", configure),
        ("rm", rm),
        ("add", add),
        ("documents", documents),
        ("remove", remove),
        ("build", build),
        ("clean", space_cleaning.cleaner(_follow)),
        ("status", status),
        ("search", search),
        ("tables", tables),
        ("ask", ask),
    )
    for name, verb in verbs:
        group.command(name)(verb)
    space_source.add_to(group)
    learning.add_to(group)
    publishing.add_to(group)
    app.add_typer(group, name="space")
