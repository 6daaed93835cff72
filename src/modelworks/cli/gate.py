"""`gate show | set`: what the project's quality gate asks for, where `promote` does not say."""

from __future__ import annotations

from typing import Annotated

import typer

from modelworks.cli.connection import connect
from modelworks.cli.output import Column, DryRun, Format, Output, show_one

TERMS: list[Column] = [
    ("Better on", "test"),
    ("No worse on", "general"),
    ("Metric", "metric"),
    ("Least gain", "min_gain"),
    ("Worst loss", "max_regression"),
    ("Confidence", "confidence"),
    ("Set by", "set_by"),
    ("Set at", "updated_at"),
]


def show(output: Output = Format.table) -> None:
    """Show what the quality gate asks for."""
    with connect() as client:
        show_one(client.evaluations.gate(), TERMS, output)


def set_terms(
    test: Annotated[str | None, typer.Option("--test", help="Held-out data on which a version must be better.")] = None,
    general: Annotated[str | None, typer.Option("--general", help="Data on which it must not be worse.")] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="The metric that decides; the task's first one if none.")
    ] = None,
    min_gain: Annotated[
        float | None, typer.Option("--min-gain", min=0, max=10, help="By which part it must be better on --test (0).")
    ] = None,
    max_regression: Annotated[
        float | None, typer.Option("--max-regression", min=0, max=1, help="By which part it may be worse on --general (0.01).")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option("--confidence", min=0.5, max=0.999, help="How sure the gain must be none of chance (0.95).")
    ] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Set what the quality gate asks for. What is not given stays as it was."""
    wish = {
        "test": test,
        "general": general,
        "metric": metric,
        "min_gain": min_gain,
        "max_regression": max_regression,
        "confidence": confidence,
    }
    with connect() as client:
        before = client.evaluations.gate()
        terms = {name: before.get(name) if value is None else value for name, value in wish.items()}
        show_one(client.evaluations.set_gate(terms, dry_run=dry_run), TERMS, output)


def add_to(app: typer.Typer) -> None:
    """Add this noun to the command line."""
    group = typer.Typer(help="The quality gate: show, set.", no_args_is_help=True, rich_markup_mode=None)
    group.command()(show)
    group.command("set")(set_terms)
    app.add_typer(group, name="gate")
