"""`compare`, `promote`, `rollback`: which model is better, and which one an alias means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.model import Reference
from modelworks.cli.output import Column, DryRun, Format, Output, note, plain, print_json, show_list, show_one
from modelworks.cli.run import resolve_task
from modelworks.contract.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.client import Modelworks

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
    ("95 % INTERVAL", _interval),
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
    test: Annotated[str, typer.Option("--test", help="Held-out data on which it must be better.")],
    general: Annotated[str | None, typer.Option("--general", help="Data on which it must not be worse.")] = None,
    max_regression: Annotated[
        float, typer.Option("--max-regression", min=0, max=1, help="By which part it may be worse on --general.")
    ] = 0.01,
    metric: Metric = None,
    force: Annotated[bool, typer.Option("--force", help="Move the alias although the gate refuses.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why it is forced; kept with the move.")] = None,
    run_missing: RunMissing = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Let an alias mean this version if it is better. Than the one that it means now, else than its parent."""
    with connect() as client:
        wish: dict[str, Any] = {"test": test, "general": general, "max_regression": max_regression, "metric": metric}
        wish |= {"force": force, "reason": reason}
        found = client.evaluations.promote(ref, alias, dry_run=True, **wish)
        if run_missing and any(check["comparison"] is None for check in found["checks"]):
            _evaluate(client, [found["baseline"], found["candidate"]], [test, *([general] if general else [])])
            found = client.evaluations.promote(ref, alias, dry_run=True, **wish)
        if output is Format.table:
            for check in found["checks"]:
                if check["comparison"] is not None:
                    _print_comparison(check["comparison"], title=f"{check['role']}: ")
        if not dry_run:
            found = client.evaluations.promote(ref, alias, **wish)
    if output is Format.json:
        print_json(found)
    elif output is Format.name:
        typer.echo(found["candidate"])
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
    """Undo the last move of an alias. At once; deployments of the alias follow without losing a request."""
    with connect() as client:
        version = client.evaluations.roll_back(ref, alias)
    show_one(version, MOVED, output)


def _print_comparison(found: dict[str, Any], *, title: str = "") -> None:
    typer.echo(plain(f"{title}{found['data']}: {found['baseline']} -> {found['candidate']}"))
    show_list(found["rows"], ROWS, Format.table)


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
