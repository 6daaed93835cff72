"""`data add | ls | show | rm | validate | clean | label`: data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import collect, connect, pairs_of
from modelworks.cli.estimating import folder_of_model, local_estimate, rows_of, training_params
from modelworks.cli.messages import tr
from modelworks.cli.model import VERSION_COLUMNS, Limit, Reference, print_detail, remove
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Yes,
    age_of,
    bytes_of,
    note,
    plain,
    print_json,
    show_list,
    show_one,
    size_text,
    table,
)
from modelworks.contract import ENTRY_POINT_GROUP
from modelworks.contract.capability import Capability, ImportPath, Task
from modelworks.contract.errors import InvalidRequest, ModelworksError, from_wire

if TYPE_CHECKING:
    from pydantic import BaseModel

    from modelworks.client import Modelworks

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("VERSION", lambda record: f"v{record['latest']['number']}"),
    ("FILES", "latest.num_files"),
    ("SIZE", bytes_of("latest.num_bytes")),
    ("LICENCE", "latest.licence"),
    ("AGE", age_of("latest.created_at")),
]
FAULT_COLUMNS: list[Column] = [
    ("FILE", "file"),
    ("LINE", "line"),
    ("FIELD", "field"),
    ("SEVERITY", "severity"),
    ("FAULT", "message"),
    ("WHAT TO DO", "hint"),
]
#: What data sets are for where nobody says; the others are named with --task.
_USUAL_TASK = "text-generation"
RUN_FIELDS: list[Column] = [
    ("What", lambda record: f"{record['verb']} {record['task']}"),
    ("Inputs", lambda record: {role: given.get("ref") for role, given in record["inputs"].items()}),
    ("Params", "params"),
    ("Result", "output_name"),
]
REMOVED_COLUMNS: list[Column] = [
    ("FILE", "file"),
    ("LINE", "line"),
    ("REASON", "reason"),
    ("LIKE", "like"),
    ("DETAIL", "detail"),
    ("TEXT", lambda record: record["excerpt"][:60]),
]

TaskName = Annotated[
    str | None, typer.Option("--task", help="For which task; text-generation, or the only one, where it is not said.")
]
DataParams = Annotated[
    list[str] | None, typer.Option("-p", "--param", help="key=value, as epochs=3 or similarity=0.9; repeatable.")
]
Source = Annotated[str, typer.Argument(help="A folder or file of this machine, or the reference of a data set.")]


def add(
    path: Annotated[Path, typer.Argument(help="A folder, or one file.")],
    name: Annotated[str | None, typer.Option("--name", help="What to call it; by default the folder's name.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Under which licence it may be used.")] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Upload a folder as the next version of a data set. Files that the server has are not sent again."""
    if dry_run:
        from modelworks.client.transport import files_of

        files = [{"path": relative, "num_bytes": file.stat().st_size} for relative, file in files_of(path.expanduser())]
        show_list(files, [("PATH", "path"), ("SIZE", bytes_of())], output, name="path")
        return
    with connect() as client:
        version = client.datasets.add(dataset_name(path, name), path.expanduser(), on_file=told, licence=licence)
    show_one(version, VERSION_COLUMNS, output)


def dataset_name(path: Path, name: str | None) -> str:
    """The given name, else the folder's own, or the file's without its ending."""
    absolute = path.expanduser().absolute()
    return name or (absolute.stem if absolute.is_file() else absolute.name)


def told(file: dict[str, Any]) -> None:
    """Say on stderr that a file has arrived, or was there."""
    if file["known"]:
        note(tr("{path} is on the server already.", path=file["path"]))
    else:
        note(tr("Uploaded {path} ({size}).", path=file["path"], size=size_text(file["num_bytes"])))


def ls(
    search: Annotated[str | None, typer.Argument(help="Only names that contain this.")] = None,
    limit: Limit = 100,
    output: Output = Format.table,
) -> None:
    """List the data sets."""
    with connect() as client:
        show_list(collect(client.datasets.list, limit, search=search), COLUMNS, output, name="name")


def show(ref: Reference, output: Output = Format.table) -> None:
    """Show one data set."""
    with connect() as client:
        print_detail(client.datasets.get(ref), output)


def rm(
    ref: Reference,
    force: Annotated[bool, typer.Option("--force", help="Also when models were made from it.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Remove one version of a data set, or with a plain name all."""
    with connect() as client:
        remove(client.datasets, ref, force=force, dry_run=dry_run, yes=yes, output=output)


def validate(
    source: Source,
    task: TaskName = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Count tokens as this model does: a reference, for a folder a folder.")
    ] = None,
    param: DataParams = None,
    base: Annotated[
        str | None, typer.Option("--for", help="Also estimate memory and time of training this model on it; as --model.")
    ] = None,
    train_param: Annotated[
        list[str] | None, typer.Option("-t", "--train-param", help="key=value for that training, such as method=lora.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Report every fault of a data set, and what training on it would cost. Exits with 1 where there are errors.

    A folder is checked on this machine and nothing is sent; a reference is checked by a run on the server. With --for, what
    `train --dry-run` would say of memory and time stands below.
    """
    params = pairs_of(param or [], "-p")
    wanted = training_params(pairs_of(train_param or [], "-t"), params.get("epochs"))
    if base is None and train_param:
        raise InvalidRequest("-t says how a model would be trained, and there is none.", hint="Give --for MODEL.")
    model = base if model is None else model
    training: dict[str, Any] | None = None
    if _is_local(source):
        found = _local_task(task, "validator")
        base_dir = None if base is None else folder_of_model(base, "--for")
        model_dir = None if model is None else folder_of_model(model, "--model")
        # A wrong parameter is told before all of the data are read.
        trained = None if base is None else _checked(found.train_params, wanted)
        report = _resolve(found.validator)(
            Path(source).expanduser(), _checked(found.validate_params, params), model=model_dir
        ).model_dump(mode="json")
        if base_dir is not None:
            estimator = None if found.estimator is None else _resolve(found.estimator)
            said = local_estimate(estimator, trained, Path(source).expanduser(), base_dir, found.resources.cpu)
            training = {"base": base, "params": wanted, "estimate": said}
    else:
        inputs = {"data": source} if model is None else {"data": source, "model": model}
        with connect() as client:
            if base is not None:
                training = {"base": base, "params": wanted, "estimate": _estimate_of(client, task, base, source, wanted)}
            report = _run_of(client, "validate", task, inputs, params, None)["result"]
    if training is not None:
        report = {**report, "training": training}
    if output is Format.json:
        print_json(report)
    elif output is Format.name:
        typer.echo("\n".join(f"{fault['file']}:{fault['line'] or 0}" for fault in report["faults"]))
    else:
        _print_report(report)
    if report["num_errors"]:
        raise typer.Exit(1)


def clean(
    source: Source,
    name: Annotated[str | None, typer.Option("--name", help="What to call the cleaned data set.")] = None,
    test: Annotated[
        str | None, typer.Option("--test", help="Test data that must not be given away: as for the source.")
    ] = None,
    task: TaskName = None,
    param: DataParams = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Take unusable samples, copies, near copies and test data out of a data set, as a new one.

    A folder is uploaded as a data set first. With --dry-run it stays here, and what would go is shown with the reason.
    """
    params = pairs_of(param or [], "-p")
    if name is None and not dry_run:
        raise InvalidRequest("The cleaned data set needs a name.", hint="Give --name, or --dry-run to see what would go.")
    if dry_run and _is_local(source) and (test is None or _is_local(test)):
        found = _local_task(task, "cleaner")
        test_dir = None if test is None else Path(test).expanduser()
        cleaned = _resolve(found.cleaner)(Path(source).expanduser(), _checked(found.clean_params, params), test=test_dir)
        report, outputs = cleaned.model_dump(mode="json"), []
    else:
        with connect() as client:
            inputs = {"data": _on_server(client, source)}
            if test is not None:
                inputs["test"] = _on_server(client, test)
            run = _run_of(client, "clean", task, inputs, params, None if dry_run else name)
            report, outputs = run["result"], [f"{made['name']}@v{made['number']}" for made in run.get("outputs") or []]
    if output is Format.json:
        print_json({**report, "outputs": outputs})
    elif output is Format.name:
        typer.echo("\n".join(outputs))
    else:
        _print_cleaning(report, outputs)


def label(
    source: Source,
    teacher: Annotated[str, typer.Option("--teacher", help="The deployment that writes the answers; any model of the API.")],
    name: Annotated[str, typer.Option("--name", help="What to call the new data set.")],
    task: TaskName = None,
    param: DataParams = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of the draws, where temperature is above 0.")] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Let a deployed model write the answers of a data set, as a new one that another model can be trained on.

    A folder is uploaded as a data set first. An interrupted run goes on where it was: `modelworks resume RUN`.
    """
    params = pairs_of(param or [], "-p")
    with connect() as client:
        inputs = {"data": source, "teacher": f"deployment:{teacher}"}
        if _is_local(source):
            if dry_run:
                raise InvalidRequest(
                    f"{source!r} is on this machine, and a dry run sends nothing.", hint="Add it first: modelworks data add."
                )
            inputs["data"] = _on_server(client, source)
        run = _run_of(client, "label", task, inputs, params, name, seed=seed, dry_run=dry_run)
    outputs = [f"{made['name']}@v{made['number']}" for made in run.get("outputs") or []]
    if output is Format.json:
        print_json(run if dry_run else {**run["result"], "outputs": outputs})
    elif output is Format.name:
        typer.echo("\n".join(outputs))
    elif dry_run:
        show_one(run, RUN_FIELDS, output)
    else:
        rows = [(plain(what).replace("_", " ").capitalize(), f"{count:,}") for what, count in run["result"].items()]
        for line in table([*rows, ("Result", ", ".join(outputs))]):
            typer.echo(line)


def _is_local(source: str) -> bool:
    return source.startswith((".", "/", "~")) or Path(source).exists()


def _on_server(client: Modelworks, source: str) -> str:
    """A reference as it is; a path of this machine is uploaded and becomes a reference."""
    if not _is_local(source):
        return source
    path = Path(source).expanduser()
    return str(client.datasets.add(dataset_name(path, None), path, on_file=told)["id"])


def _local_task(name: str | None, able: str) -> Task:
    """The task of an installed capability that has such a function: that of the name, or the only one."""
    from importlib.metadata import entry_points

    choices: list[Task] = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            capability = point.load()
        except Exception as error:  # another's package: the rest goes on working
            note(tr("The capability {name} cannot be loaded: {reason}.", name=point.name, reason=plain(str(error))))
            continue
        if isinstance(capability, Capability):
            choices += [task for task in capability.tasks if getattr(task, able) is not None]
    meant = _meant(name, [task.name for task in choices])
    return next(task for task in choices if task.name == meant)


def _meant(name: str | None, choices: list[str]) -> str:
    """The task that is named; without a name the only one, or of several the usual one.

    Raises:
        InvalidRequest: it is none of them, or several and the usual one is not among them.
    """
    wanted = _USUAL_TASK if name is None and _USUAL_TASK in choices else name
    found = [each for each in choices if wanted in (None, each)]
    if len(found) == 1:
        return found[0]
    problem = "Several tasks have data of their own." if name is None and choices else f"No task {name or ''!r} offers this."
    known = ", ".join(sorted(choices)) or "nothing that is installed"
    raise InvalidRequest(problem, hint=f"Choose with --task one of: {known}.", param="task")


def _resolve(path: ImportPath | None) -> Any:
    from importlib import import_module

    module, _, attribute = (path or "").partition(":")
    return getattr(import_module(module), attribute)


def _checked(kind: type[BaseModel] | None, params: dict[str, Any]) -> BaseModel | None:
    from pydantic import ValidationError

    if kind is None:
        return None
    try:
        return kind.model_validate(params)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = ", ".join(sorted(kind.model_fields))
        raise InvalidRequest(f"The parameter {place!r}: {first['msg']}.", hint=f"Known parameters: {known}.") from None


def _run_of(
    client: Modelworks,
    verb: str,
    task: str | None,
    inputs: dict[str, str],
    params: dict[str, Any],
    name: str | None,
    *,
    seed: int | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """The finished run, or what it would be; raises the error with which it failed."""
    capability, chosen = _choice(client, verb, task)
    run = client.runs.submit(
        verb=verb,
        capability=capability,
        task=chosen,
        inputs=inputs,
        params=params,
        name=name,
        seed=seed,
        dry_run=dry_run,
    )
    if dry_run:
        return dict(run)
    note(tr("Run {run} is queued. Follow it with: modelworks jobs {run} -f", run=run["id"]))
    done = client.runs.wait(run["id"])
    if done["state"] != "succeeded":
        raise _failure(done)
    return dict(done)


def _choice(client: Modelworks, verb: str, task: str | None) -> tuple[str, str]:
    """Capability and task that a verb means."""
    able = {"validate": "validates_data", "clean": "cleans_data", "label": "labels_data"}[verb]
    choices = [
        (str(capability["name"]), str(each["name"]))
        for capability in client.server.capabilities()
        for each in capability["tasks"]
        if each.get(able)
    ]
    meant = _meant(task, [each for _, each in choices])
    return next(choice for choice in choices if choice[1] == meant)


def _failure(run: dict[str, Any]) -> ModelworksError:
    if run.get("error"):
        return from_wire(run["error"])
    return InvalidRequest(f"The run {run['id']} is {run['state']}.", hint="`modelworks resume` lets it go on.")


def _print_report(report: dict[str, Any]) -> None:
    if report["faults"]:
        show_list(report["faults"], FAULT_COLUMNS, Format.table, name="file")
        typer.echo("")
    size = report["size"]
    about = "about " if size["is_estimate"] else ""
    samples = ", ".join(f"{count:,} {plain(kind)}" for kind, count in report["samples"].items()) or "0"
    unlisted = report["num_errors"] + report["num_warnings"] - len(report["faults"])
    rows = [
        ("Read", f"{report['num_files']:,} files, {size_text(report['num_bytes'])}"),
        ("Samples", samples),
        ("Faults", f"{report['num_errors']:,} errors, {report['num_warnings']:,} warnings"),
        ("By kind", ", ".join(f"{code} {count:,}" for code, count in report["faults_by_code"].items()) or "none"),
        ("Not listed", f"{unlisted:,}") if unlisted > 0 else None,
        ("Size", f"{about}{size['total']:,} {plain(size['unit'])}, of which {size['learnt']:,} are learnt"),
        ("Per sample", f"{size['shortest']:,} to {size['longest']:,}, median {size['median']:,}, 95 % below {size['p95']:,}"),
        ("Cost", f"{about}{report['cost']:,} {plain(size['unit'])} in {report['epochs']:,} epochs"),
    ]
    training = report.get("training")
    if training is not None:
        rows += rows_of(training["base"], training["params"], training["estimate"])
    for line in table([row for row in rows if row is not None]):
        typer.echo(line)
    for each in [*report["notes"], *((training or {}).get("estimate") or {}).get("notes", ())]:
        note(plain(each))


def _estimate_of(client: Modelworks, task: str | None, base: str, source: str, params: dict[str, Any]) -> Any:
    """What the server says of a training that is not queued."""
    capability, chosen = _choice(client, "validate", task)
    run = client.runs.submit(
        verb="train",
        capability=capability,
        task=chosen,
        inputs={"base": base, "train": source},
        params=params,
        name="estimate",
        # However much it needs: that is the question.
        force=True,
        dry_run=True,
    )
    return run.get("estimate")


def _print_cleaning(report: dict[str, Any], outputs: list[str]) -> None:
    if report["preview"]:
        show_list(report["preview"], REMOVED_COLUMNS, Format.table, name="file")
        typer.echo("")
    rows = [
        ("Read", f"{report['num_read']:,}"),
        ("Kept", ", ".join(f"{count:,} {plain(part)}" for part, count in report["kept"].items()) or "0"),
        ("Removed", ", ".join(f"{count:,} {plain(reason)}" for reason, count in report["removed"].items()) or "0"),
    ]
    if outputs:
        rows.append(("Result", ", ".join(outputs)))
    for line in table(rows):
        typer.echo(line)
    for each in report["notes"]:
        note(plain(each))


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(
        help="Data sets: add, ls, show, rm, validate, clean, label.", no_args_is_help=True, rich_markup_mode=None
    )
    for verb in (add, ls, show, rm, validate, clean, label):
        group.command()(verb)
    app.add_typer(group, name="data")
