"""`budgets`, `limits`, `prices`, `invoices`: what may be used, what it costs, and that the accounts agree."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any

import typer

from modelworks.cli.connection import connect, moment_of
from modelworks.cli.messages import tr
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Yes,
    age_of,
    confirm,
    money,
    note,
    plain,
    print_json,
    show_list,
    show_one,
)
from modelworks.contract.errors import InvalidRequest, NotFound


class Metric(StrEnum):
    """What a budget counts."""

    tokens = "tokens"
    cost = "cost"
    requests = "requests"


class Period(StrEnum):
    """How long a budget lasts."""

    day = "day"
    month = "month"


class Flow(StrEnum):
    """What a limit counts."""

    requests = "requests"
    tokens = "tokens"
    concurrency = "concurrency"


def _amount(name: str) -> Any:
    return lambda record: money(record.get(name)) if record.get("metric") == "cost" else record.get(name)


ALLOWANCES: list[Column] = [
    ("ID", "id"),
    ("OF", lambda record: " ".join(part for part in (record.get("scope"), record.get("subject")) if part)),
    ("METRIC", "metric"),
    ("PER", "period"),
    ("AMOUNT", _amount("amount")),
    ("USED", _amount("used")),
    ("RESERVED", _amount("reserved")),
    ("RESETS", "resets_at"),
]
PRICES: list[Column] = [
    ("MODEL", "model"),
    ("INPUT", lambda record: money(record.get("input"))),
    ("CACHED", lambda record: money(record.get("cached"))),
    ("OUTPUT", lambda record: money(record.get("output"))),
    ("FROM", "valid_from"),
    ("PROJECT", "project_id"),
    ("AGE", age_of()),
]
INVOICES: list[Column] = [
    ("MONTH", "month"),
    ("PROJECT", "project_id"),
    ("REQUESTS", "num_requests"),
    ("PROMPT", "prompt_tokens"),
    ("CACHED", "cached_tokens"),
    ("COMPLETION", "completion_tokens"),
    ("COST", lambda record: money(record.get("cost"))),
]
VERIFICATION: list[Column] = [
    ("Agrees", "ok"),
    ("Invoices", "num_invoices"),
    ("Requests", "num_requests"),
    ("Entries", "num_entries"),
    ("Cost", lambda record: money(record.get("cost"))),
    ("Difference", "first_difference.what"),
    ("Expected", "first_difference.expected"),
    ("Found", "first_difference.found"),
    ("Project", "first_difference.project_id"),
    ("Month", "first_difference.month"),
    ("Request", "first_difference.request"),
]

_Key = Annotated[str | None, typer.Option("--key", help="Of one key, by its id; default: of the whole project.")]
_Model = Annotated[str | None, typer.Option("--model", help="Of one model of the project, by its name.")]
_Project = Annotated[str | None, typer.Option("--project", help="Id of the project; default: your own.")]


def _micro(text: str, what: str) -> int:
    """Whole micro-units of an amount such as 0.15."""
    try:
        value = Decimal(text) * 1_000_000
    except InvalidOperation as error:
        raise InvalidRequest(f"{what}: {text!r} is no amount.", hint="Write it as 0.15.", code="usage") from error
    if not value.is_finite() or value < 0 or value != value.to_integral_value():
        raise InvalidRequest(f"{what}: {text!r} is negative or finer than a millionth.", hint="Write it as 0.15.", code="usage")
    return int(value)


def _whole(text: str, what: str) -> int:
    if not text.replace("_", "").isdecimal():
        raise InvalidRequest(f"{what}: {text!r} is no whole number.", hint="Write it as 1000000 or 1_000_000.", code="usage")
    return int(text)


def _scope(key: str | None, model: str | None) -> dict[str, Any]:
    if key and model:
        raise InvalidRequest("It is of a key or of a model, not of both.", hint="Set two of them.", code="usage")
    if key:
        return {"scope": "key", "subject": key}
    return {"scope": "model", "subject": model} if model else {"scope": "project"}


def set_budget(
    amount: Annotated[str, typer.Argument(help="How much: tokens, requests, or money such as 12.50.")],
    metric: Annotated[Metric, typer.Option("--metric", help="What is counted.")] = Metric.cost,
    per: Annotated[Period, typer.Option("--per", help="Day or month, in UTC.")] = Period.month,
    key: _Key = None,
    model: _Model = None,
    project: _Project = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Set how much may be used; what is used already counts. Requests beyond it are refused before they are sent."""
    value = _micro(amount, "AMOUNT") if metric is Metric.cost else _whole(amount, "AMOUNT")
    with connect() as client:
        found = client.accounts.set_budget(
            metric.value, value, period=per.value, project_id=project, dry_run=dry_run, **_scope(key, model)
        )
    show_one(found, ALLOWANCES, output)


def show_budgets(project: _Project = None, output: Output = Format.table) -> None:
    """Show budgets and what is used of them now."""
    with connect() as client:
        show_list(client.accounts.budgets(project_id=project), ALLOWANCES, output)


def set_limit(
    amount: Annotated[str, typer.Argument(help="How many per minute, or at the same time.")],
    metric: Annotated[Flow, typer.Option("--metric", help="What is counted.")] = Flow.requests,
    key: _Key = None,
    model: _Model = None,
    project: _Project = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Set how many requests or tokens per minute, or how many requests at the same time."""
    value = _whole(amount, "AMOUNT")
    with connect() as client:
        found = client.accounts.set_limit(metric.value, value, project_id=project, dry_run=dry_run, **_scope(key, model))
    show_one(found, ALLOWANCES, output)


def show_limits(project: _Project = None, output: Output = Format.table) -> None:
    """Show limits and what is taken of them now."""
    with connect() as client:
        show_list(client.accounts.limits(project_id=project), ALLOWANCES, output)


def _remove(kind: str, wanted: str, project: str | None, *, dry_run: bool, yes: bool, output: Format) -> None:
    with connect() as client:
        listing = client.accounts.budgets if kind == "budgets" else client.accounts.limits
        removing = client.accounts.remove_budget if kind == "budgets" else client.accounts.remove_limit
        found = [record for record in listing(project_id=project) if record["id"] == wanted]
        if not found:
            raise NotFound(f"There is no {wanted!r} among the {kind}.", hint=f"See `modelworks {kind} show`.")
        if dry_run:
            note(tr("These would be removed:"))
            show_list(found, ALLOWANCES, output)
            return
        if not confirm(tr("Remove {name} for good?", name=wanted), yes=yes):
            raise typer.Exit(1)
        gone = removing(wanted, project_id=project)
    note(tr("Removed {name}.", name=plain(wanted)))
    if output is Format.json:
        print_json(gone)
    else:
        typer.echo(wanted)


def remove_budget(
    budget: Annotated[str, typer.Argument(help="Id of the budget.")],
    project: _Project = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Take a budget away."""
    _remove("budgets", budget, project, dry_run=dry_run, yes=yes, output=output)


def remove_limit(
    limit: Annotated[str, typer.Argument(help="Id of the limit.")],
    project: _Project = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Take a limit away."""
    _remove("limits", limit, project, dry_run=dry_run, yes=yes, output=output)


def set_price(
    model: Annotated[str, typer.Argument(help="Name of the model; '*' for every other one.")],
    input_price: Annotated[str, typer.Option("--input-price", help="Per million tokens of the prompt, such as 0.15.")],
    output_price: Annotated[str, typer.Option("--output-price", help="Per million tokens of the answer.")],
    cached: Annotated[
        str | None, typer.Option("--cached-price", help="Per million cached ones; default: as the input.")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", help="From then on: 7d, 12h (ahead) or a date. Default: now.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="For one project alone; default: for all.")] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Let a price hold from now or later on. What was answered before keeps its price."""
    with connect() as client:
        found = client.accounts.set_price(
            model,
            input=_micro(input_price, "--input-price"),
            output=_micro(output_price, "--output-price"),
            cached=None if cached is None else _micro(cached, "--cached-price"),
            valid_from=moment_of(since) if since else None,
            project_id=project,
            dry_run=dry_run,
        )
    show_one(found, PRICES, output)


def show_prices(
    model: Annotated[str | None, typer.Argument(help="Of this model alone.")] = None,
    project: _Project = None,
    output: Output = Format.table,
) -> None:
    """Show prices per million tokens, those of the past and of the future too."""
    with connect() as client:
        show_list(client.accounts.prices(model, project_id=project), PRICES, output)


def show_invoices(
    month: Annotated[str | None, typer.Option("--month", help="As 2026-11.")] = None,
    project: _Project = None,
    output: Output = Format.table,
) -> None:
    """Show what each month (UTC) came to."""
    with connect() as client:
        show_list(client.accounts.invoices(month, project_id=project), INVOICES, output, name="month")


def verify(
    project: _Project = None,
    everything: Annotated[bool, typer.Option("--all", help="Every project (administrators of the platform).")] = False,
    output: Output = Format.table,
) -> None:
    """Compute every invoice anew from the requests and from the ledger. Exit code 1 where anything differs."""
    with connect() as client:
        found = client.accounts.verify(project_id=project, everything=everything)
    if output is Format.name:
        typer.echo("ok" if found["ok"] else (found["first_difference"] or {}).get("request") or "different")
    else:
        show_one(found, VERIFICATION, output)
    if not found["ok"]:
        raise typer.Exit(1)


_NOUNS: tuple[tuple[str, str, dict[str, Callable[..., None]]], ...] = (
    ("budgets", "Budgets: set, show, rm.", {"set": set_budget, "show": show_budgets, "rm": remove_budget}),
    ("limits", "Limits per minute and at once: set, show, rm.", {"set": set_limit, "show": show_limits, "rm": remove_limit}),
    ("prices", "Prices of models: set, show.", {"set": set_price, "show": show_prices}),
    ("invoices", "What months came to, and the proof of it: show, verify.", {"show": show_invoices, "verify": verify}),
)


def add_to(app: typer.Typer) -> None:
    """Add these nouns to the command line."""
    for noun, about, verbs in _NOUNS:
        group = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)
        for name, verb in verbs.items():
            group.command(name)(verb)
        app.add_typer(group, name=noun)
