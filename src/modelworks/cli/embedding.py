"""`embed` and `rerank`: vectors of texts, and documents in order of their relevance."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelworks.cli.connection import connect, text_of
from modelworks.cli.output import Column, Format, Output, print_json, show_list
from modelworks.contract.errors import InvalidRequest

Texts = Annotated[list[str] | None, typer.Argument(help="Texts; @file or - (stdin) gives one per line. Without any: stdin.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut what is too long for the model instead of failing.")]
#: Numbers of a vector that a table shows.
_SHOWN = 4


def embed(
    model: Annotated[str, typer.Argument(help="Name of a deployment; see `modelworks ps`.")],
    texts: Texts = None,
    dimensions: Annotated[int | None, typer.Option("--dimensions", min=1, help="Length of the vectors.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="query or document, for models that tell them apart.")] = None,
    truncate: Truncate = False,
    output: Output = Format.table,
) -> None:
    """Turn texts into vectors. -o json prints them whole; the table only their beginning."""
    given = texts_of(texts)
    fields: dict[str, Any] = {"dimensions": dimensions, "input_type": kind, "truncate": truncate or None}
    with connect() as client:
        answer = client.tasks.embed(model, given, **fields)
    if output is Format.json:
        print_json(answer)
        return
    columns: list[Column] = [
        ("INDEX", lambda row: str(row["index"])),
        ("DIMENSIONS", lambda row: len(row["embedding"])),
        ("VECTOR", lambda row: " ".join(f"{number:+.4f}" for number in row["embedding"][:_SHOWN]) + " …"),
        ("TEXT", lambda row: given[row["index"]]),
    ]
    show_list(answer["data"], columns, output, name="index")


def rerank(
    model: Annotated[str, typer.Argument(help="Name of a deployment; see `modelworks ps`.")],
    query: Annotated[str, typer.Argument(help="What is looked for; @file reads it.")],
    documents: Texts = None,
    top_n: Annotated[int | None, typer.Option("--top-n", min=1, help="Only so many, the best.")] = None,
    truncate: Truncate = False,
    output: Output = Format.table,
) -> None:
    """Order documents by their relevance to a query, the best first."""
    given = texts_of(documents)
    with connect() as client:
        answer = client.tasks.rerank(model, text_of(query), given, top_n=top_n, truncate=truncate or None)
    if output is Format.json:
        print_json(answer)
        return
    columns: list[Column] = [
        ("SCORE", lambda row: f"{row['relevance_score']:.4f}"),
        ("INDEX", lambda row: str(row["index"])),
        ("DOCUMENT", lambda row: given[row["index"]]),
    ]
    show_list(answer["results"], columns, output, name="index")


def texts_of(arguments: list[str] | None) -> list[str]:
    """Texts as they are given; of a file or of stdin every line that is not empty.

    Raises:
        InvalidRequest: there are none.
    """
    found: list[str] = []
    for argument in arguments or ["-"]:
        text = text_of(argument)
        found += [text] if text is argument else [line for line in text.splitlines() if line.strip()]
    if not found:
        raise InvalidRequest("There is no text.", hint="Give texts as arguments, @file, or lines on stdin.", code="usage")
    return found


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(embed)
    app.command()(rerank)
