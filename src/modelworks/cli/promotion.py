"""`compare`, `promote`, `rollback`: which model is better, and which one an alias means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.model import Reference
from modelworks.cli.output import Column, DryRun, Format, Output, note, plain, print_json, show_list, show_one
from modelworks.cli.run import resolve_task
from modelworks.contract.errors import ModelworksError, NotFound

if TYPE_CHECKING:
    from modelworks.client import Modelworks
    from modelworks.client.transport import Record

Metric = Annotated[str | None, typer.Option("--metric", help="The metric that decides; the task's first one by default.")]
RunMissing = Annotated[bool, typer.Option("--run", help="Make evaluations that are missing, and wait for them.")]
Alias = Annotated[str, typer.Option("--alias", help="The alias, such as prod.")]


def _interval(row: Any) -> str:
    return f"[{row['low']:+.4g}, {row['high']:+.4g}]"


ROWS: list[Column] = [
    ("METRIC", "metric"),
    ("BETTER", lambda row: "lower" if row["lower_is_better"] else "higher"),
    ("BEFORE", "baseline"),
    ("AFTER", "candidate"),
    ("DIFFERENCE", lambda row: f"{row['difference']:+.4g}"),
    ("INTERVAL", _interval),
    ("SAMPLES", "num_samples"),
    ("VERDICT", "verdict"),
]
MOVED: list[Column] = [("Name", "name"), ("Version", "number"), ("Id", "id"), ("Aliases", "aliases")]


def compare(
    baseline: Annotated[str, typer.Argument(help="Reference of the model before.")],
    candidate: Annotated[str, typer.Argument(help="Reference of the model after.")],
    data: Annotated[str, typer.Option("--data", help="Reference of the test data on which both were evaluated.")],
    metric: Metric = None,
    run_missing: RunMissing = False,
    output: Output = Format.table,
) -> None:
    """Say whether one model is better than another. By a paired bootstrap over the samples of a data set."""
    with connect() as client:
        try:
            found = client.evaluations.compare(baseline, candidate, data, metric=metric)
        except ModelworksError as error:
            if not run_missing or error.error_code != "evaluation_missing":
                raise
            _evaluate(client, [baseline, candidate], [data])
            found = client.evaluations.compare(baseline, candidate, data, metric=metric)
    if output is Format.json:
        print_json(found)
    elif output is Format.name:
        typer.echo(found["verdict"])
    else:
        _print_comparison(found)


def promote(
    ref: Reference,
    alias: Alias,
    test: Annotated[
        str | None, typer.Option("--test", help="Held-out data on which it must be better; else the project's.")
    ] = None,
    general: Annotated[str | None, typer.Option("--general", help="Data on which it must not be worse.")] = None,
    max_regression: Annotated[
        float | None,
        typer.Option("--max-regression", min=0, max=1, help="By which part it may be worse on --general (0.01)."),
    ] = None,
    metric: Metric = None,
    force: Annotated[bool, typer.Option("--force", help="Move the alias although the gate refuses.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why it is forced; kept with the move.")] = None,
    canary: Annotated[
        str | None,
        typer.Option("--canary", help="Do not move the alias yet: only this share of its requests, such as 10%."),
    ] = None,
    run_missing: RunMissing = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Let an alias mean this version if it is better. Than the one that it means now, else than its parent.

    With --canary, every deployment that follows the alias lets the version answer a share of its requests first. The same
    command without it moves the alias, which ends the canary; rollback ends it and leaves the alias where it is.
    """
    share = None if canary is None else _share(canary)
    with connect() as client:
        wish: dict[str, Any] = {"test": test, "general": general, "max_regression": max_regression, "metric": metric}
        wish |= {"force": force, "reason": reason}
        found = client.evaluations.promote(ref, alias, dry_run=True, **wish)
        if run_missing and any(check["comparison"] is None for check in found["checks"]):
            asked = {**client.evaluations.gate(), **{name: value for name, value in wish.items() if value is not None}}
            data = [asked[role] for role in ("test", "general") if asked.get(role)]
            _evaluate(client, [found["baseline"], found["candidate"]], data)
            found = client.evaluations.promote(ref, alias, dry_run=True, **wish)
        if output is Format.table:
            for check in found["checks"]:
                if check["comparison"] is not None:
                    _print_comparison(check["comparison"], title=f"{check['role']}: ")
        if not dry_run and (share is None or not (found["passed"] or force)):
            found = client.evaluations.promote(ref, alias, **wish)
        elif share is not None:
            found["canaries"] = _start_canaries(client, found["candidate"], alias, share, dry_run=dry_run)
    if output is Format.json:
        print_json(found)
    elif output is Format.name:
        typer.echo(found["candidate"])
    elif share is not None:
        for name in found["canaries"]:
            sentence = "{version} answers {share} of the requests to {name}."
            note(tr(sentence, version=found["candidate"], share=f"{100 * share:g} %", name=name))
    elif not dry_run:
        name = f"{found['candidate'].partition('@')[0]}@{alias}"
        if not found["moved"]:
            note(tr("{alias} means {version} already.", alias=name, version=found["candidate"]))
        else:
            note(tr("{alias} means {version} now.", alias=name, version=found["candidate"]))
    for check in found["checks"]:
        if not check["passed"]:
            note(f"- {plain(check['sentence'])}")
    if dry_run and not found["passed"]:
        raise typer.Exit(1)


def rollback(ref: Reference, alias: Alias, output: Output = Format.table) -> None:
    """Undo the last move of an alias. At once; deployments of the alias follow without losing a request.

    While a canary shares the alias's requests, that is ended instead, and the alias stays.
    """
    with connect() as client:
        ended = _end_canaries(client, ref, alias)
        if ended:
            for name in ended:
                note(tr("{name} answers all of its requests itself again.", name=name))
            show_one(client.models.get(f"{ref.partition('@')[0]}@{alias}")["version"], MOVED, output)
            return
        version = client.evaluations.roll_back(ref, alias)
    show_one(version, MOVED, output)


def _share(text: str) -> float:
    """`10%` or `0.1` as a part of 1."""
    try:
        share = float(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise typer.BadParameter("give a share between 0 and 1, such as 10% or 0.1", param_hint="--canary")
    return share


def _following(client: Modelworks, ref: str, alias: str) -> list[Record]:
    """The deployments that follow an alias, and their canaries."""
    followed = f"{ref.partition('@')[0]}@{alias}"
    deployments = list(client.deployments.list(limit=1000).data)
    names = {each["name"] for each in deployments if each["model"] == followed}
    return [each for each in deployments if each["name"] in names or each.get("canary_of") in names]


def _start_canaries(client: Modelworks, candidate: str, alias: str, share: float, *, dry_run: bool) -> list[str]:
    names = [each["name"] for each in _following(client, candidate, alias) if not each.get("canary_of")]
    if not names:
        raise NotFound(
            f"No deployment follows {candidate.partition('@')[0]}@{alias}, so there are no requests to share.",
            hint=f"Deploy it: modelworks deploy {candidate.partition('@')[0]}@{alias}",
        )
    for name in names if not dry_run else ():
        client.evaluations.start_canary(name, candidate, share)
    return names


def _end_canaries(client: Modelworks, ref: str, alias: str) -> list[str]:
    names = [str(each["canary_of"]) for each in _following(client, ref, alias) if each.get("canary_of")]
    for name in names:
        client.evaluations.end_canary(name)
    return names


def _print_comparison(found: dict[str, Any], *, title: str = "") -> None:
    typer.echo(plain(f"{title}{found['data']}: {found['baseline']} -> {found['candidate']}"))
    interval = f"{100 * found.get('confidence', 0.95):g} % INTERVAL"
    show_list(found["rows"], [(interval if value is _interval else name, value) for name, value in ROWS], Format.table)


def _evaluate(client: Modelworks, models: list[str], data: list[str]) -> None:
    """Evaluate with the task's default parameters, so that the two can be compared."""
    for model in models:
        version = client.models.get(model)["version"]
        capability, task = resolve_task(client, version.get("task") or "", "evaluable")
        client.evaluations.ensure(
            [model],
            data,
            capability=capability,
            task=task,
            on_run=lambda run: note(tr("Run {run} is queued. Follow it with: modelworks jobs {run} -f", run=run["id"])),
        )


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (compare, promote, rollback):
        app.command()(verb)
