"""`usage`: who asked which model for how much."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from modelworks.cli.connection import collect, connect, moment_of
from modelworks.cli.output import Column, Format, Output, age_of, money, print_json, show_list


class GroupBy(StrEnum):
    """What the sums are by."""

    model = "model"
    key = "key"
    day = "day"


REQUEST_COLUMNS: list[Column] = [
    ("AGE", age_of()),
    ("MODEL", "model"),
    ("ENDPOINT", "endpoint"),
    ("STATUS", lambda record: record.get("error_code") or record.get("status")),
    ("PROMPT", "prompt_tokens"),
    ("COMPLETION", "completion_tokens"),
    ("MS", lambda record: f"{record.get('duration_ms') or 0:.0f}"),
    ("KEY", "key_id"),
    ("REQUEST", "request_id"),
]


def usage(
    by: Annotated[GroupBy, typer.Option("--by", help="Sum by model, key or day.")] = GroupBy.model,
    since: Annotated[str | None, typer.Option("--since", help="From then on: 7d, 12h (ago) or a date.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before then: 1d, 2h (ago) or a date.")] = None,
    requests: Annotated[bool, typer.Option("--requests", help="List single requests, newest first, instead of sums.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many requests at most.")] = 50,
    cost: Annotated[bool, typer.Option("--cost", help="Show what it cost, too.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Write every request as CSV, oldest first, instead of sums.")] = False,
    output: Output = Format.table,
) -> None:
    """Show requests and tokens by model, key or day. Never what was said, only how much."""
    start, end = (moment_of(text, ahead=False) if text else None for text in (since, until))
    price: list[Column] = [("COST", lambda record: money(record.get("cost")))] if cost else []
    with connect() as client:
        if csv:
            for piece in client.usage.export(since=start, until=end):
                typer.echo(piece, nl=False)
            return
        if requests:
            show_list(collect(client.usage.requests, limit), REQUEST_COLUMNS + price, output)
            return
        summary = client.usage.summary(since=start, until=end, group_by=by.value)
    if output is Format.json:
        print_json(summary)
        return
    rows: list[dict[str, Any]] = list(summary["data"])
    if output is Format.table and len(rows) > 1 and summary.get("total"):
        rows.append(summary["total"] | {"key": "total"})
    columns: list[Column] = [
        (by.value.upper(), "key"),
        ("REQUESTS", "num_requests"),
        ("ERRORS", "num_errors"),
        ("ABORTED", "num_aborted"),
        ("PROMPT", "prompt_tokens"),
        ("CACHED", "cached_tokens"),
        ("COMPLETION", "completion_tokens"),
        ("REASONING", "reasoning_tokens"),
        *price,
    ]
    show_list(rows, columns, output, name="key")


def add_to(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(usage)
