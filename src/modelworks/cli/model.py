"""`pull`, `ls`, `show`, `tree`, `rm`, `alias`: models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import collect, connect
from modelworks.cli.messages import tr
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
    plain,
    print_json,
    show_list,
    show_one,
    size_text,
)
from modelworks.cli.run import follow, queued
from modelworks.contract.errors import InvalidRequest

if TYPE_CHECKING:
    from modelworks.client import Artifacts, Modelworks

Limit = Annotated[int, typer.Option("--limit", min=1, help="How many at most.")]
Reference = Annotated[str, typer.Argument(help="name, name@alias, name@v3 or the id of a version.")]

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://")


def _alias_text(record: Any) -> list[str]:
    aliases = record.get("aliases") or {}
    return [f"{alias}=v{number}" for alias, number in aliases.items()] if isinstance(aliases, dict) else list(aliases)


LIST_COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("VERSION", lambda record: f"v{record['latest']['number']}"),
    ("TASK", "latest.task"),
    ("LEVEL", "latest.level"),
    ("LICENCE", "latest.licence"),
    ("SIZE", bytes_of("latest.num_bytes")),
    ("ALIASES", _alias_text),
    ("AGE", age_of("latest.created_at")),
]
VERSION_COLUMNS: list[Column] = [
    ("Name", "name"),
    ("Version", lambda record: f"v{record['number']}"),
    ("Id", "id"),
    ("Task", "task"),
    ("Level", "level"),
    ("Licence", "licence"),
    ("Source", "source"),
    ("Digest", "digest"),
    ("Files", lambda record: len(record["files"]) if "files" in record else record.get("num_files")),
    ("Size", bytes_of()),
    ("Metrics", "metrics"),
    ("Made by", "created_by_run"),
    ("Created", "created_at"),
    ("State", "state"),
    ("Aliases", _alias_text),
]


def pull(
    source: Annotated[
        str, typer.Argument(help="hf://…, ms://…, s3://…, https://…, file://…, package://…, a folder, or a preset's name.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="What to call it; by default the source's last part.")] = None,
    dataset: Annotated[bool, typer.Option("--dataset", help="It is a data set, not a model.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of the source.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="The licence, where the source does not state it.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="The model's task, where its files do not tell, or another.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait: print the run's id.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Fetch a model from elsewhere into the catalog. Its licence and size are shown first."""
    from modelworks.client.transport import given

    kind = "dataset" if dataset else "model"
    with connect() as client:
        folder = Path(source).expanduser()
        if not _SCHEME.match(source) and folder.exists() and not client.transport.is_local:
            # The server cannot see this machine's folders: the files travel through the client.
            _upload(client, folder, name, kind, given(licence=licence, task=task), dry_run=dry_run, output=output)
            return
        uri, revision, known_task = _locate(client, source, revision)
        info = client.server.describe_source(uri, revision=revision, kind=kind)
        note(tr("Source:   {source}", source=plain(info.get("uri") or uri)))
        note(tr("Licence:  {licence}", licence=plain(info.get("licence") or licence or tr("not stated"))))
        if info.get("revision"):
            note(tr("Revision: {revision}", revision=plain(info["revision"])))
        size = info.get("size_bytes")
        size_shown = size_text(size) if size is not None else tr("unknown")
        note(tr("Size:     {size} in {count} files", size=size_shown, count=len(info.get("files") or [])))
        for skipped in info.get("skipped") or []:
            note(f"- {plain(skipped.get('path'))}: {plain(skipped.get('reason'))}")
        if dry_run:
            if output is Format.json:
                print_json(info)
            return
        if not confirm(tr("Fetch it under this licence?"), yes=yes):
            raise typer.Exit(1)
        chosen = name or info.get("name") or uri.rstrip("/").rsplit("/", 1)[-1].partition("@")[0]
        # The licence that was shown is the one agreed to: another one at the source stops the pull.
        params = given(source=uri, kind=kind, licence=licence, licence_accepted=info.get("licence"), task=task or known_task)
        # What was shown is what is fetched: a branch that moves in between must not bring another licence.
        fixed = info.get("revision") or revision
        if fixed:
            params["revision"] = fixed
        run = client.runs.submit(verb="pull", params=params, name=chosen)
        if detach:
            queued(run, output)
        else:
            follow(client, run["id"], output)


def _upload(
    client: Modelworks, folder: Path, name: str | None, kind: str, known: Mapping[str, str], *, dry_run: bool, output: Format
) -> None:
    from modelworks.cli.data import told
    from modelworks.client.transport import files_of

    if dry_run:
        files = [{"path": relative, "num_bytes": file.stat().st_size} for relative, file in files_of(folder)]
        show_list(files, [("PATH", "path"), ("SIZE", bytes_of())], output, name="path")
        return
    artifacts = client.datasets if kind == "dataset" else client.models
    version = artifacts.add(name or folder.absolute().name, folder, on_file=told, **known)
    show_one(version, VERSION_COLUMNS, output)


def _locate(client: Modelworks, source: str, revision: str | None) -> tuple[str, str | None, str | None]:
    """URI, revision and task from what a person typed: a URI, a folder of this machine, or a preset, which knows its task."""
    if _SCHEME.match(source):
        return source, revision, None
    path = Path(source).expanduser()
    if path.exists():
        return path.absolute().as_uri(), revision, None
    presets = client.server.presets().data
    for preset in presets:
        if source in (preset.get("name"), f"{preset.get('capability')}/{preset.get('name')}") and preset.get("source"):
            return str(preset["source"]), revision or preset.get("revision"), preset.get("task")
    known = ", ".join(sorted(f"{preset.get('capability')}/{preset.get('name')}" for preset in presets if preset.get("source")))
    raise InvalidRequest(
        f"{source!r} is neither a URI, nor a folder here, nor a preset.",
        hint=f"Presets: {known or 'none'}. Or give hf://owner/name, ms://…, s3://…, https://…, file://… or package://….",
        param="source",
    )


def ls(
    search: Annotated[str | None, typer.Argument(help="Only names, cards and tasks that contain this.")] = None,
    limit: Limit = 100,
    output: Output = Format.table,
) -> None:
    """List the models of the catalog."""
    with connect() as client:
        show_list(collect(client.models.list, limit, search=search), LIST_COLUMNS, output, name="name")


def show(ref: Reference, output: Output = Format.table) -> None:
    """Show one model. With its licence, level, metrics, versions, and what its ancestry demands."""
    with connect() as client:
        print_detail(client.models.get(ref), output)


def print_detail(detail: dict[str, Any], output: Format) -> None:
    """A version with its siblings and the licence that its ancestry leaves."""
    version = detail.get("version") or detail
    if output is not Format.table:
        show_one(detail if output is Format.json else version, [], output)
        return
    show_one(version, VERSION_COLUMNS, output)
    restrictions = detail.get("restrictions") or {}
    if restrictions.get("effective") or restrictions.get("unstated"):
        typer.echo(f"\nancestry: {plain(restrictions.get('effective'))} ({plain(restrictions.get('restriction'))})")
        for ancestor in restrictions.get("unstated") or []:
            typer.echo(f"  no licence stated: {plain(ancestor)}")
    versions = detail.get("versions") or []
    if len(versions) > 1:
        typer.echo("")
        columns: list[Column] = [
            ("VERSION", lambda record: f"v{record['number']}"),
            ("ID", "id"),
            ("SIZE", bytes_of()),
            ("METRICS", "metrics"),
            ("ALIASES", "aliases"),
            ("AGE", age_of()),
        ]
        show_list(versions, columns, output)
    if version.get("card"):
        typer.echo("\n" + "\n".join(plain(line) if line.strip() else "" for line in str(version["card"]).splitlines()))


def tree(ref: Reference, output: Output = Format.table) -> None:
    """Draw a model's family tree. What it was made from, the data it saw, what was made from it."""
    names: dict[tuple[str, str | None], str] = {}
    with connect() as client:
        family = client.lineage.tree(ref)
        if output is Format.table:
            for record in collect(client.deployments.list, 10_000):
                names[record["id"], None] = names[record["id"], record["version_id"]] = record["name"]
            for adapter in client.deployments.adapters().data:
                if adapter["version_id"] is not None:
                    told = f"{adapter['name']} (adapter on {adapter['deployment']})"
                    names[adapter["deployment_id"], adapter["version_id"]] = told
    if output is Format.json:
        print_json(family)
    elif output is Format.name:
        typer.echo(plain(family["node"]["id"]))
    else:
        for line in tree_lines(family, names):
            typer.echo(line)


def tree_lines(family: dict[str, Any], deployments: Mapping[tuple[str, str | None], str]) -> list[str]:
    """The family tree as lines: the model first, then branches labelled from, data, by, measured on, deployed as and made.

    Args:
        deployments: under which name a version answers now, by the deployment's id and the version's; without a version
            the deployment's name, where it is there. What a version answered under before is told as past.
    """
    branches: list[tuple[str, Any]] = [("from", parent) for parent in family.get("parents") or []]
    branches += [("data", {"node": node}) for node in family.get("datasets") or []]
    if family.get("created_by_run"):
        branches.append(("by", family["created_by_run"]))
    for each in family.get("evaluations") or []:
        branches.append(("measured on", f"{plain(each['data'])}: {_facts_text(each['metrics'])}"))
    for deployment in family.get("deployments") or []:
        now = deployments.get((deployment, family["node"]["id"]))
        past = ("was deployed as", deployments.get((deployment, None), deployment))
        branches.append(past if now is None else ("deployed as", now))
    branches += [("made", child) for child in family.get("children") or []]
    lines = [_node_text(family)]
    for place, (label, branch) in enumerate(branches):
        last = place == len(branches) - 1
        below = tree_lines(branch, deployments) if isinstance(branch, dict) else [plain(branch)]
        lines.append(f"{'└─' if last else '├─'} {label} {below[0]}")
        lines += [("   " if last else "│  ") + line for line in below[1:]]
    return lines


def _node_text(family: dict[str, Any]) -> str:
    node = family["node"]
    name = f"{plain(node.get('name') or node['id'])}" + (f"@v{node['number']}" if node.get("number") is not None else "")
    facts = [plain(node[field]) for field in ("level", "task", "licence") if node.get(field)]
    inherited = family.get("effective_licence")
    if inherited and inherited != node.get("licence"):
        facts.append(f"inherits {plain(inherited)}")
    if not family.get("licences_complete", True):
        facts.append("not every licence stated")
    if node.get("metrics") and not family.get("evaluations"):
        # What was measured on named data says more than the figures that a training ended with.
        facts.append(_facts_text(node["metrics"]))
    if node.get("state") == "removed":
        facts.append("removed")
    return f"{name}  [{' · '.join(facts)}]" if facts else name


def _facts_text(metrics: Mapping[str, Any]) -> str:
    return " · ".join(f"{plain(key)} {plain(value)}" for key, value in metrics.items())


def rm(
    ref: Reference,
    force: Annotated[bool, typer.Option("--force", help="Also when other models were made from it.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Remove one version of a model, or with a plain name all."""
    with connect() as client:
        remove(client.models, ref, force=force, dry_run=dry_run, yes=yes, output=output)


def remove(artifacts: Artifacts, ref: str, *, force: bool, dry_run: bool, yes: bool, output: Format) -> None:
    """Show what would go, ask, and remove it."""
    plan = artifacts.remove(ref, dry_run=True, force=force)
    columns: list[Column] = [
        ("NAME", "name"),
        ("VERSION", lambda record: f"v{record['number']}"),
        ("ID", "id"),
        ("SIZE", bytes_of()),
    ]
    if dry_run:
        note(tr("These would be removed:"))
        if output is Format.json:
            print_json(plan)
        else:
            show_list(plan.get("versions") or [], columns, output)
        for reason in plan.get("blocked_by") or []:
            note(f"- {plain(reason)}")
        return
    if not yes:
        for version in plan.get("versions") or []:
            note(f"- {plain(version['name'])}@v{version['number']} ({size_text(version.get('num_bytes'))})")
    if not confirm(tr("Remove {name} for good?", name=ref), yes=yes):
        raise typer.Exit(1)
    done = artifacts.remove(ref, force=force)
    note(tr("Removed {name}.", name=ref))
    if output is Format.json:
        print_json(done)
    else:
        for version in done.get("versions") or []:
            typer.echo(version["id"])


def alias(
    ref: Reference,
    name: Annotated[str, typer.Argument(help="The alias, such as default or production.")],
    remove: Annotated[bool, typer.Option("--remove", help="Forget the alias instead of setting it.")] = False,
    dataset: Annotated[bool, typer.Option("--dataset", help="It is a data set, not a model.")] = False,
    output: Output = Format.table,
) -> None:
    """Let an alias mean this version: promotion and roll-back. Deployments of the alias follow."""
    with connect() as client:
        artifacts = client.datasets if dataset else client.models
        if remove:
            artifacts.remove_alias(ref, name)
            note(tr("Removed {name}.", name=f"{ref.partition('@')[0]}@{name}"))
        else:
            moved = artifacts.set_alias(ref, name)
            show_one(moved, [("Name", "name"), ("Version", "number"), ("Id", "id"), ("Aliases", _alias_text)], output)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (pull, ls, show, tree, rm, alias):
        app.command()(verb)
