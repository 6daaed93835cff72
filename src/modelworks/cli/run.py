"""`train`, `evaluate`, `jobs`, `logs`, `cancel`, `resume`: runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import collect, connect, pairs_of, roles_of
from modelworks.cli.messages import tr
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Record,
    age_of,
    is_terminal,
    note,
    plain,
    print_json,
    show_list,
    show_one,
    size_text,
)
from modelworks.contract.errors import InvalidRequest

if TYPE_CHECKING:
    from modelworks.client import Modelworks

RunId = Annotated[str, typer.Argument(help="Id of the run (run_…).")]
Params = Annotated[
    list[str] | None, typer.Option("-p", "--param", help="key=value or key=@file, as JSON if it is; repeatable.")
]
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Stay and show the progress until it ends.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The same seed, inputs and parameters give the same result.")]


def _what(record: Record) -> str:
    return " ".join(str(record[field]) for field in ("verb", "task") if record.get(field))


def _progress_text(record: Record) -> str:
    progress = record.get("progress") or {}
    done, total = progress.get("done"), progress.get("total")
    if done is None:
        return ""
    share = f" ({100 * done / total:.0f} %)" if total else ""
    if progress.get("what") == "bytes":
        return f"{size_text(done)} of {size_text(total)}{share}" if total else size_text(done)
    amount = f"{plain(float(done))}/{plain(float(total))}" if total else plain(float(done))
    return f"{amount} {plain(progress.get('what') or '')}{share}"


def _error_text(record: Record) -> str:
    error = record.get("error") or {}
    return " ".join(str(error[field]) for field in ("message", "hint") if error.get(field))


def _resources_text(given: Record) -> str:
    """What a run occupies, as a person says it: the same for each of several workers."""
    if not given:
        return ""
    workers, gpu = int(given.get("workers") or 1), float(given.get("gpu") or 0)
    parts = [f"{plain(float(given['cpu']))} cores", size_text(given["memory_bytes"])]
    parts += [f"{plain(gpu)} accelerators"] if gpu else []
    return (f"{workers} workers, each " if workers > 1 else "") + ", ".join(parts)


def memory_text(estimate: Record) -> str | None:
    """What a training will need, and the parts of it, the largest first."""
    if not estimate:
        return None
    parts = sorted((estimate.get("parts") or {}).items(), key=lambda part: -part[1])
    listed = ", ".join(f"{plain(name)} {size_text(size)}" for name, size in parts if size)
    return f"about {size_text(estimate['memory_bytes'])}" + (f" ({listed})" if listed else "")


def time_text(estimate: Record) -> str | None:
    seconds = estimate.get("seconds")
    if seconds is None:
        return None
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"roughly {seconds / length:.0f} {unit} on the cores it asks for"
    return f"roughly {max(1, round(seconds))} seconds on the cores it asks for"


def _environment_text(record: Record) -> str:
    """Interpreter, threads and the number of libraries, which are too many to list here."""
    found = record.get("environment") or {}
    if not found:
        return ""
    threads = found["threads"].get("torch", found["threads"].get("OMP_NUM_THREADS"))
    versions = [f"{name} {found['libraries'][name]}" for name in ("torch", "transformers") if name in found["libraries"]]
    told = [f"Python {found['python']}", *versions, f"{len(found['libraries'])} libraries (-o json)", str(found["cpu"])]
    return ", ".join([*told, f"{threads} threads"] if threads else told)


def _output_names(record: Record) -> list[str]:
    return [f"{made['name']}@v{made['number']}" for made in record.get("outputs") or []]


LIST_COLUMNS: list[Column] = [
    ("ID", "id"),
    ("WHAT", _what),
    ("STATE", "state"),
    ("PROGRESS", _progress_text),
    ("RESULT", lambda record: _output_names(record) or record.get("output_name")),
    ("AGE", age_of()),
]
FIELDS: list[Column] = [
    ("Id", "id"),
    ("What", _what),
    ("State", "state"),
    ("Progress", _progress_text),
    ("Attempt", lambda record: f"{record['attempt']} of {record['max_attempts']}" if record.get("max_attempts") else None),
    ("Inputs", lambda record: {role: given.get("ref") for role, given in (record.get("inputs") or {}).items()}),
    ("Params", "params"),
    ("Seed", "seed"),
    ("Repeats", "repeats"),
    ("Computed with", _environment_text),
    ("Resources", lambda record: _resources_text(record.get("resources") or {})),
    ("Memory", lambda record: memory_text(record.get("estimate") or {})),
    ("Time", lambda record: time_text(record.get("estimate") or {})),
    ("Notes", lambda record: (record.get("estimate") or {}).get("notes")),
    ("Result", _output_names),
    ("Measured", lambda record: (record.get("result") or {}).get("metrics") or record.get("result")),
    ("Error", _error_text),
    ("Created", "created_at"),
    ("Started", "started_at"),
    ("Finished", "finished_at"),
]


def train(
    task: Annotated[
        str | None, typer.Argument(help="A task (text-generation) or a capability with one trainable task (text).")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call the model that comes out.")] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Folder, file or reference, as role=… where not train; repeatable.")
    ] = None,
    base: Annotated[
        list[str] | None, typer.Option("--base", help="Model to start from, as role=reference where not base; repeatable.")
    ] = None,
    param: Params = None,
    seed: Seed = None,
    resource: Annotated[list[str] | None, typer.Option("--resource", help="cpu=…, memory_bytes=…, gpu=…")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that share the training, each with those resources.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where it is estimated to need more memory than it may have.")
    ] = False,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Train by a recipe (a .toml file) instead: its data, its stages, its card.")
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="With --recipe: the part of it that is made, as 0.01.")] = 1.0,
    packages: Annotated[
        Path | None, typer.Option("--packages", help="With --recipe: a folder of unpacked packages, FOLDER/NAME.")
    ] = None,
    available: Annotated[
        bool, typer.Option("--available", help="With --recipe: go without sources that this machine lacks.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="With --recipe: leave the data that it made in this folder.")
    ] = None,
    follow_: Follow = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Train a model. A folder given as --data is uploaded as a data set first."""
    if recipe is not None:
        if task is not None or data or base:
            raise InvalidRequest(
                "A recipe names its task and data itself.", hint="Give --recipe FILE; parameters as -p STAGE.key=value."
            )
        from modelworks.cli.recipe import train_recipe

        with connect() as client:
            train_recipe(
                client,
                recipe,
                name=name,
                scale=scale,
                packages=packages,
                available=available,
                keep=keep,
                changed=pairs_of(param or [], "-p"),
                dry_run=dry_run,
                output=output,
            )
        return
    if task is None or name is None:
        raise InvalidRequest(
            "What is to be trained, and what is it to be called?",
            hint="modelworks train TASK --name NAME --data FOLDER, or modelworks train --recipe FILE.",
            code="usage",
        )
    with connect() as client:
        capability, task = resolve_task(client, task, "trainable")
        inputs = roles_of(base or [], "base")
        for role, ref in roles_of(data or [], "train").items():
            inputs[role] = dataset_ref(client, ref, dry_run=dry_run)
        resources = pairs_of(resource or [], "--resource") | ({} if workers is None else {"workers": workers})
        run = client.runs.submit(
            verb="train",
            capability=capability,
            task=task,
            inputs=inputs,
            params=pairs_of(param or [], "-p"),
            name=name,
            seed=seed,
            resources=resources or None,
            force=force,
            dry_run=dry_run,
        )
        answer(client, run, output, dry_run=dry_run, stay=follow_)


def evaluate(
    task: Annotated[str, typer.Argument(help="A task, or a capability with one task that can be evaluated.")],
    model: Annotated[str, typer.Argument(help="Reference of the model to measure.")],
    data: Annotated[list[str], typer.Option("--data", help="Test data: folder or reference, role=… if not test.")],
    param: Params = None,
    judge: Annotated[str | None, typer.Option("--judge", help="Deployment that the grader (-p grader=@file) asks.")] = None,
    seed: Seed = None,
    follow_: Follow = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Measure a model on a data set."""
    with connect() as client:
        capability, task = resolve_task(client, task, "evaluable")
        inputs = {"model": model}
        for role, ref in roles_of(data, "test").items():
            inputs[role] = dataset_ref(client, ref, dry_run=dry_run)
        if judge is not None:
            inputs["judge"] = f"deployment:{judge}"
        run = client.runs.submit(
            verb="evaluate",
            capability=capability,
            task=task,
            inputs=inputs,
            params=pairs_of(param or [], "-p"),
            seed=seed,
            dry_run=dry_run,
        )
        answer(client, run, output, dry_run=dry_run, stay=follow_)


def resolve_task(client: Modelworks, name: str, able: str) -> tuple[str, str]:
    """Capability and task for what a person typed: a task, a capability, or capability/task.

    Raises:
        InvalidRequest: nothing installed fits, or several do; the message lists what could be meant.
    """
    choices = [
        (capability["name"], task["name"])
        for capability in client.server.capabilities()
        for task in capability["tasks"]
        if task.get(able)
    ]
    found = [(owner, task) for owner, task in choices if name in (task, owner, f"{owner}/{task}")]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{owner}/{task}" for owner, task in found or choices) or "nothing that is installed"
    problem = f"{name!r} could mean several tasks." if found else f"No {able} task {name!r} is installed on the server."
    raise InvalidRequest(problem, hint=f"Choose one of: {known}.", param="task")


def dataset_ref(client: Modelworks, given: str, *, dry_run: bool) -> str:
    """A reference as it is; a path of this machine is uploaded and becomes the reference of the version made of it."""
    path = Path(given).expanduser()
    looks_like_path = given.startswith((".", "/", "~")) or path.is_dir()
    if not looks_like_path:
        return given
    from modelworks.cli.data import dataset_name, told
    from modelworks.client.transport import files_of

    files_of(path)  # a path that is missing or empty is refused before anything is sent
    if dry_run:
        note(tr("{path} would be uploaded as a data set first.", path=given))
        return ""
    return str(client.datasets.add(dataset_name(path, None), path, on_file=told)["id"])


def answer(client: Modelworks, run: dict[str, Any], output: Format, *, dry_run: bool, stay: bool) -> None:
    """Show a run that was submitted: only checked, followed to its end, or queued."""
    if dry_run:
        show_one(run, FIELDS, output)
    elif stay:
        follow(client, run["id"], output)
    else:
        queued(run, output)


def queued(run: dict[str, Any], output: Format) -> None:
    """Print the id of a fresh run on stdout, and on stderr how to watch it."""
    if output is Format.json:
        print_json(run)
    else:
        typer.echo(run["id"])
    for said in (run.get("estimate") or {}).get("notes") or ():
        note(f"- {plain(said)}")
    note(tr("Run {run} is queued. Follow it with: modelworks jobs {run} -f", run=run["id"]))


class ProgressLine:
    """Progress and loss on stderr: one line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._rewrite = is_terminal(sys.stderr)
        self._every_s = 0.2 if self._rewrite else 5.0
        self._shown_at = 0.0
        self._progress = ""
        self._metrics: dict[str, Any] = {}
        self._dirty = False

    def take(self, event: dict[str, Any]) -> None:
        """Take in one event of a run and show what is new."""
        kind, data = event.get("type"), event.get("data") or {}
        if kind == "progress":
            self._progress, self._dirty = _progress_text({"progress": data}), True
        elif kind == "metrics":
            values = data.get("metrics") or data.get("values") or {}
            self._metrics |= {key: value for key, value in values.items() if isinstance(value, int | float) and key != "step"}
            self._dirty = True
        elif kind != "environment":
            self.end()
            simple = {key: value for key, value in data.items() if isinstance(value, str | int | float)}
            told = plain(data["state"]) if kind == "state" and "state" in data else plain(simple) if simple else ""
            note(f"{plain(kind)} {told}".rstrip())
        if self._dirty and time.monotonic() - self._shown_at >= self._every_s:
            self._show()

    def _show(self) -> None:
        text = "  ".join([self._progress, *(f"{plain(key)} {plain(float(value))}" for key, value in self._metrics.items())])
        sys.stderr.write(f"\r\x1b[2K{text.strip()[:200]}" if self._rewrite else f"{text.strip()}\n")
        sys.stderr.flush()
        self._shown_at, self._dirty = time.monotonic(), False

    def end(self) -> None:
        """Finish the line, so that other output starts on its own."""
        if self._dirty:
            self._show()
        if self._rewrite and self._shown_at:
            sys.stderr.write("\n")
            self._shown_at = 0.0


def follow(client: Modelworks, run_id: str, output: Format) -> None:
    """Show a run's progress until it ends, then print the run; see `ended`."""
    ended(client, run_id, output)
    note(tr("Run {run} succeeded.", run=run_id))


def ended(client: Modelworks, run_id: str, output: Format, *, shown: bool = True) -> dict[str, Any]:
    """Show a run's progress until it has succeeded, then print it; Ctrl-C asks whether to cancel it or to leave it running.

    Args:
        shown: print the run itself when it has succeeded.

    Raises:
        typer.Exit: with 1 when the run failed or was cancelled, with 0 when the person left it running.
    """
    line = ProgressLine()
    try:
        for event in client.runs.events(run_id):
            line.take(event)
        line.end()
        run = client.runs.wait(run_id)
    except KeyboardInterrupt:
        line.end()
        if _wants_cancel():
            client.runs.cancel(run_id)
            note(tr("The run was asked to stop."))
            raise typer.Exit(1) from None
        note(tr("Run {run} goes on. Follow it again with: modelworks jobs {run} -f", run=run_id))
        raise typer.Exit(0) from None
    succeeded = run["state"] == "succeeded"
    if shown or not succeeded:
        if output is Format.name:
            typer.echo(run["id"])
        else:
            show_one(run, FIELDS, output)
    if succeeded:
        return run
    if run["state"] == "cancelled":
        note(tr("Run {run} was cancelled.", run=run_id))
    else:
        note(tr("Run {run} failed: {reason}", run=run_id, reason=plain(_error_text(run))))
    raise typer.Exit(1)


def _wants_cancel() -> bool:
    if not is_terminal(sys.stdin):
        return False
    try:
        note("")
        question = tr("Cancel the run? Otherwise it goes on without you.")
        typer.echo(tr("{question} [y/N]", question=question) + " ", err=True, nl=False)
        return sys.stdin.readline().strip().lower() in ("y", "yes", "是")
    except KeyboardInterrupt:
        return False


def jobs(
    run_id: Annotated[str | None, typer.Argument(help="Show this run; without it, list them.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="queued, running, succeeded, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    follow_: Follow = False,
    output: Output = Format.table,
) -> None:
    """List the runs, or show one."""
    with connect() as client:
        if run_id is None:
            show_list(collect(client.runs.list, limit, state=state), LIST_COLUMNS, output)
        elif follow_:
            follow(client, run_id, output)
        else:
            show_one(client.runs.get(run_id), FIELDS, output)


def logs(run_id: RunId, follow_: Follow = False) -> None:
    """Print what a run wrote. With -f until it ends."""
    with connect() as client:
        for line in client.runs.logs(run_id, follow=follow_):
            typer.echo(line)


def cancel(run_id: RunId, output: Output = Format.table) -> None:
    """Ask a run to stop. Its last checkpoint stays, so that it can be resumed."""
    with connect() as client:
        show_one(client.runs.cancel(run_id), FIELDS[:4], output)


def resume(run_id: RunId, follow_: Follow = False, output: Output = Format.table) -> None:
    """Let a failed or cancelled run go on from its last checkpoint."""
    with connect() as client:
        run = client.runs.resume(run_id)
        if follow_:
            follow(client, run_id, output)
        else:
            queued(run, output)


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (train, evaluate, jobs, logs, cancel, resume):
        app.command()(verb)
