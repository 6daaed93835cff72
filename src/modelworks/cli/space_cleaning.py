"""`space clean`, `space documents --dropped`: what is taken out of passages before they are indexed and learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import collect, connect, pairs_of
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, DryRun, Format, Output, note, pick, plain, print_json, show_list, show_one, table
from modelworks.contract.errors import InvalidRequest, from_wire

if TYPE_CHECKING:
    from modelworks.client import Modelworks

#: As the server's `UNCLEANED`: every rule that is not named is off.
OFF = {"duplicates": False}
RULE_COLUMNS = ("RULE", "REMOVED", "CHANGED")
DROPPED_COLUMNS: list[Column] = [
    ("RULE", "rule"),
    ("DOCUMENT", "name"),
    ("PLACE", lambda each: place_text(each.get("place") or {})),
    ("EFFECT", lambda each: "changed" if each.get("is_kept") else "removed"),
    ("WHY", "detail"),
    ("TEXT", lambda each: each["excerpt"][:80]),
]
FIELDS: list[Column] = [
    ("Name", "name"),
    ("State", "state"),
    ("Rules", lambda space: rules_text(space["settings"]["cleaning"])),
    ("Passages", "num_passages"),
    ("Removed", lambda space: counts_text(pick(space, "build.counts.dropped"))),
    ("Changed", lambda space: counts_text(pick(space, "build.counts.changed"))),
]
_PER_RULE, _MAX_ROWS = 5, 500
_POLL_S = 0.5

SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="Its name or id.")]
Follow = Callable[["Modelworks", str], dict[str, Any]]


def place_text(place: Mapping[str, Any]) -> str:
    """Where a passage stands: page, cells or lines, else the heading above it."""
    if place.get("page"):
        return f"p. {place['page']}"
    if place.get("cells"):
        return str(place["cells"])
    if lines := place.get("lines"):
        return f"line {lines[0]}" if lines[0] == lines[1] else f"lines {lines[0]}–{lines[1]}"
    return str((place.get("headings") or [""])[-1])


def counts_text(counts: Mapping[str, int] | None) -> str | None:
    """Numbers by rule: `duplicate 3, language 1`."""
    return ", ".join(f"{rule} {count:,}" for rule, count in sorted((counts or {}).items())) or None


def rules_text(rules: Mapping[str, Any]) -> str:
    """The rules that are on, as they are written behind -s."""
    policies = {f"personal_data.{kind}": policy for kind, policy in rules["personal_data"].items() if policy != "keep"}
    rest = {name: value for name, value in rules.items() if value and name not in ("personal_data", "boilerplate_documents")}
    return " ".join(f"{name}={value}" for name, value in {**rest, **policies}.items()) or "none"


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some of them changed, however deep they lie; the others stay."""
    found = dict(settings)
    for name, value in changes.items():
        inner = found.get(name)
        found[name] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return found


def cleaner(follow_build: Follow) -> Callable[..., None]:
    """The verb `clean`; `follow_build` waits for a space's build and says how far it is."""

    def clean(
        space: SpaceName,
        rule: Annotated[
            list[str] | None,
            typer.Option("-s", "--set", help="A rule, as personal_data.email=mask or similarity=0.9; repeatable."),
        ] = None,
        undo: Annotated[
            bool, typer.Option("--undo", help="Switch every rule off: everything that was parsed comes back.")
        ] = False,
        dry_run: DryRun = False,
        follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait until the index has followed.")] = False,
        output: Output = Format.table,
    ) -> None:
        """Show or change what is taken out of passages; with --dry-run only say what would go, by rule, with examples."""
        rules = pairs_of(rule or [], "--set")
        if undo and rules:
            raise InvalidRequest("--undo switches every rule off, --set one on.", hint="Give one of the two.")
        with connect() as client:
            found = client.spaces.get(space)
            if undo and dry_run:
                dropped_of(client, found["id"], None, _MAX_ROWS, output)
                return
            cleaning = OFF if undo else merged(found["settings"]["cleaning"], rules)
            if dry_run:
                _show_preview(_preview(client, found["id"], cleaning), output)
                return
            if undo or rules:
                found = client.spaces.update(found["id"], settings={**found["settings"], "cleaning": cleaning})
            if follow:
                found = follow_build(client, found["id"])
        show_one(found, FIELDS, output, name="name")
        if follow and found["state"] == "failed":
            raise typer.Exit(1)

    return clean


def dropped_of(client: Modelworks, space_id: str, search: str | None, limit: int, output: Format) -> None:
    """Print what cleaning did in the documents of a space, passage by passage."""

    def page(**options: Any) -> Any:
        return client.spaces.documents(space_id, search=search, dropped=True, **options)

    rows: list[dict[str, Any]] = []
    for document in collect(page, limit):
        if len(rows) >= limit:
            break
        told = client.spaces.dropped(space_id, document["id"], limit=limit - len(rows))
        rows += [{**each, "document_id": document["id"], "name": document["name"]} for each in told["data"]]
    show_list(rows, DROPPED_COLUMNS, output, name="passage_id")


def _preview(client: Modelworks, space_id: str, cleaning: Mapping[str, Any]) -> dict[str, Any]:
    run = client.spaces.preview_cleaning(space_id, cleaning=cleaning)
    note(tr("Run {run} is queued. Follow it with: modelworks jobs {run} -f", run=run["id"]))
    client.runs.wait(run["id"], poll_s=_POLL_S)
    report = client.spaces.cleaning_report(space_id, run["id"], per_rule=_PER_RULE)
    if report["error"]:
        raise from_wire(report["error"])
    if report["state"] != "succeeded":
        raise InvalidRequest(f"The run {run['id']} is {report['state']}.", hint="Ask again.")
    return dict(report)


def _show_preview(report: Mapping[str, Any], output: Format) -> None:
    if output is Format.json:
        print_json(report)
        return
    if output is Format.name:
        typer.echo(report["run_id"])
        return
    gone = report["num_read"] - report["num_kept"]
    note(tr("{count} of {total} passages would go; nothing was changed.", count=gone, total=report["num_read"]))
    rules = sorted({*report["removed"], *report["changed"]})
    if rules:
        counted = ((rule, str(report["removed"].get(rule, 0)), str(report["changed"].get(rule, 0))) for rule in rules)
        _print([RULE_COLUMNS, *counted])
    if report["examples"]:
        typer.echo("")
        show_list(report["examples"], DROPPED_COLUMNS, output)
    for each in report["notes"]:
        note(plain(each))


def _print(rows: Iterable[Iterable[str]]) -> None:
    for line in table([[plain(cell) for cell in row] for row in rows]):
        typer.echo(line)
