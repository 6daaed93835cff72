"""`evals ls | show | create | run`: measure models with OpenAI's evals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli.connection import collect, connect, text_of
from modelworks.cli.messages import tr
from modelworks.cli.model import Limit
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Record,
    age_of,
    note,
    print_json,
    show_list,
    show_one,
)
from modelworks.contract.errors import Conflict, InvalidRequest


def _criteria(record: Record) -> list[str]:
    return [criterion["name"] for criterion in record["testing_criteria"]]


def _answer(record: Record) -> Any:
    error = record["sample"].get("error")
    return error["message"] if error else [output["content"] for output in record["sample"]["output"]]


def _results(record: Record) -> list[str]:
    return [
        f"{result['name']}: {(result.get('error') or {}).get('message') or format(result['score'], '.4g')}"
        for result in record["results"]
    ]


COLUMNS: list[Column] = [("ID", "id"), ("NAME", "name"), ("CRITERIA", _criteria), ("AGE", age_of())]
RUN_COLUMNS: list[Column] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("MODEL", "model"),
    ("STATUS", "status"),
    ("ITEMS", "result_counts.total"),
    ("PASSED", "result_counts.passed"),
    ("FAILED", "result_counts.failed"),
    ("ERRORED", "result_counts.errored"),
    ("AGE", age_of()),
]
RUN_FIELDS: list[Column] = [
    ("Run", "id"),
    ("Eval", "eval_id"),
    ("Name", "name"),
    ("Model", "model"),
    ("Status", "status"),
    ("Error", "error.message"),
    ("Items", "result_counts"),
    ("Tokens", lambda run: {usage["model_name"]: usage["total_tokens"] for usage in run["per_model_usage"]}),
]
CRITERION_COLUMNS: list[Column] = [("CRITERION", "testing_criteria"), ("PASSED", "passed"), ("FAILED", "failed")]
ITEM_COLUMNS: list[Column] = [
    ("ITEM", "datasource_item_id"),
    ("STATUS", "status"),
    ("ANSWER", _answer),
    ("RESULTS", _results),
]

EvalId = Annotated[str, typer.Argument(help="Id of the eval; see `modelworks evals ls`.", metavar="EVAL")]


def ls(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 100, output: Output = Format.table
) -> None:
    """List the evals."""
    with connect() as client:
        show_list(collect(client.evals.list, limit), COLUMNS, output)


def show(
    eval_id: EvalId,
    run_id: Annotated[str | None, typer.Argument(help="Id of a run; without it the runs are listed.", metavar="[RUN]")] = None,
    items: Annotated[str | None, typer.Option("--items", help="Show the run's items: all, pass, fail or error.")] = None,
    limit: Limit = 100,
    output: Output = Format.table,
) -> None:
    """Show the runs of an eval, or what one run found."""
    if items is not None and (run_id is None or items not in ("all", "pass", "fail", "error")):
        raise InvalidRequest("--items needs a run, and is all, pass, fail or error.", code="usage")
    with connect() as client:
        if run_id is None:
            show_list(collect(lambda **page: client.evals.runs(eval_id, **page), limit), RUN_COLUMNS, output)
        elif items is not None:
            status = None if items == "all" else items
            found = collect(lambda **page: client.evals.items(eval_id, run_id, status=status, **page), limit)
            show_list(found, ITEM_COLUMNS, output)
        else:
            print_run(client.evals.get_run(eval_id, run_id), output)


def create(
    body: Annotated[str, typer.Argument(help="The eval as JSON, as of POST /v1/evals; @path reads a file, - stdin.")],
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Keep an eval: the form of its items, and the criteria by which answers are judged."""
    try:
        wanted = json.loads(text_of(body))
    except ValueError as error:
        raise InvalidRequest(
            f"The eval is not JSON: {error}.", hint="Write it to a file and give @path.", code="usage"
        ) from error
    if not isinstance(wanted, dict):
        raise InvalidRequest("The eval is not a JSON object.", hint="See the guide to evals.", code="usage")
    if dry_run:
        print_json(wanted)
        return
    with connect() as client:
        made = client.evals.create(wanted)
    show_one(made, [(title.title(), source) for title, source in COLUMNS[:3]], output)


def run(
    eval_id: EvalId,
    data: Annotated[str, typer.Option("--data", help="A file of items (JSON lines), or the id of a stored one.")],
    model: Annotated[str | None, typer.Option("--model", help="Who answers. Default: the items hold the answers.")] = None,
    message: Annotated[str, typer.Option("--message", help="What it is asked; {{item.…}} is filled in.")] = "{{item.question}}",
    system: Annotated[str | None, typer.Option("--system", help="A system message before it.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0, max=2, help="By default 1.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="By default 42.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call the run.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for the end; fails unless the run completes.")] = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Ask a model the questions of a file, and judge its answers."""
    path = Path(data).expanduser()
    if not path.is_file() and not data.startswith("file_"):
        raise InvalidRequest(f"There is no file {data}.", hint="Give a file of JSON lines, or the id of a stored one.")
    source: dict[str, Any] = {"type": "jsonl", "source": {"type": "file_id", "id": data}}
    if model is not None:
        turns = [{"role": "user", "content": message}]
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        sampling = {"temperature": temperature, "max_completion_tokens": max_tokens, "seed": seed}
        source |= {
            "type": "completions",
            "model": model,
            "input_messages": {"type": "template", "template": turns},
            "sampling_params": {key: value for key, value in sampling.items() if value is not None},
        }
    if dry_run:
        print_json({"eval_id": eval_id, "name": name, "data_source": source})
        return
    with connect() as client:
        if path.is_file():
            source["source"]["id"] = client.evals.store(path)["id"]
            note(tr("Stored {path} as {id}.", path=path, id=source["source"]["id"]))
        made = client.evals.run(eval_id, source, name=name)
        if follow:
            made = client.evals.wait(eval_id, made["id"])
        else:
            note(tr("The run is queued. See: modelworks evals show {eval} {run}", eval=eval_id, run=made["id"]))
    print_run(made, output)
    if follow and made["status"] != "completed":
        raise Conflict(
            f"The run {made['id']} is {made['status']}.",
            hint=f"See: modelworks evals show {eval_id} {made['id']}",
            code="eval_run_not_completed",
        )


def print_run(made: Record, output: Format) -> None:
    """A run, and the table of its criteria."""
    show_one(made, RUN_FIELDS, output)
    if output is Format.table and made["per_testing_criteria_results"]:
        typer.echo("")
        show_list(made["per_testing_criteria_results"], CRITERION_COLUMNS, output)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(help="Evals: ls, show, create, run.", no_args_is_help=True, rich_markup_mode=None)
    for verb in (ls, show, create, run):
        group.command()(verb)
    app.add_typer(group, name="evals")
